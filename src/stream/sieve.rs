//! The sieve: skips lines that have nothing to be counted.
//!
//! A line that has none of a few words in it, plain or with `\u` escapes, never changes a total, so that
//! it is safe to skip. A line with such a word goes through the [`Scanner`], which decides, and so do all
//! lines of an array.

use std::cell::OnceCell;

use memchr::{memchr, memrchr};

use crate::stream::scan::{Scanned, Scanner};
use crate::stream::search::Search;

/// How much of a line is kept until its end comes, in bytes.
// Almost all lines are shorter. A longer one goes through the scanner as it comes, which needs no line in
// memory.
const KEPT_MAX: usize = 256 * 1024;

/// How the line of a message begins.
const MESSAGE: &[u8] = b"{\"type\":\"assistant\",";

/// How much is kept of the start of a line that is examined, in bytes.
const HEAD_MAX: usize = 80;

/// A sieve, and the scanner behind it.
#[derive(Debug, Default)]
pub struct Sieve {
    search: OnceCell<Search>,
    scanner: Scanner,
    /// The start of a line that has not ended.
    kept: Vec<u8>,
    /// How much of that the scanner has taken, once it is to be scanned.
    scanned: Option<usize>,
    /// Every line is scanned, and its start is kept.
    examines: bool,
    is_cut: bool,
    head: Vec<u8>,
    lines: u64,
}

/// What a read gave, and how much of it has been taken.
#[derive(Debug)]
pub struct Chunk<'a> {
    bytes: &'a [u8],
    /// Everything before this has been taken.
    at: usize,
    /// The end of the last line that is complete.
    complete: usize,
}

impl<'a> Chunk<'a> {
    /// A chunk of which nothing has been taken.
    pub fn new(bytes: &'a [u8]) -> Self {
        let complete = memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        Chunk { bytes, at: 0, complete }
    }

    /// How many bytes have been taken.
    pub fn taken(&self) -> usize {
        self.at
    }
}

impl Sieve {
    /// Takes bytes off the chunk through the next line that may count, or the next element of an array;
    /// all of the chunk where there is none. The next chunk must go on where this one ends.
    pub fn next(&mut self, chunk: &mut Chunk<'_>) -> Option<Scanned<'_>> {
        while self.scanned.is_some() || chunk.at < chunk.bytes.len() {
            if self.take(chunk) {
                return Some(self.scanner.found());
            }
        }
        None
    }

    /// Where the stream ended without a newline: what is left of its last line. To be called until it
    /// returns `None`, since that may be several elements of an array.
    pub fn next_at_end(&mut self) -> Option<Scanned<'_>> {
        if !self.kept.is_empty() && self.scanned.is_none() {
            self.scanned = Some(0);
        }
        while self.scanned.is_some() {
            if self.scan_kept() {
                return Some(self.scanner.found());
            }
        }
        self.is_cut |= self.scanner.is_in_record();
        let last = self.scanner.last_line();
        self.lines += u64::from(last.is_some());
        last
    }

    /// Whether the last line has ended and nothing of the next has come.
    pub fn is_at_line_start(&self) -> bool {
        self.kept.is_empty() && self.scanner.is_at_line_start()
    }

    /// Whether the stream ended inside an object or an array.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// From the next line on every line is scanned, and its start is kept, or no longer.
    pub fn examine(&mut self, examines: bool) {
        self.examines = examines;
    }

    /// The start of the line that was examined last.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Lines that have ended, those that cannot count among them.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next part off the chunk: what belongs to a line or an array that is being scanned,
    /// lines that are complete in it, or the start of one that goes on after it. Returns whether the
    /// scanner has found something.
    fn take(&mut self, chunk: &mut Chunk<'_>) -> bool {
        if self.scanned.is_some() {
            return self.scan_kept();
        }
        if !self.scanner.is_at_line_start() || self.kept.is_empty() && self.must_scan(&chunk.bytes[chunk.at..]) {
            return self.scan(chunk);
        }
        if self.kept.is_empty() && chunk.at < chunk.complete {
            return self.take_complete(chunk);
        }
        let rest = &chunk.bytes[chunk.at..];
        let newline = if chunk.at < chunk.complete { memchr(b'\n', rest) } else { None };
        let part = newline.map_or(rest, |newline| &rest[..=newline]);
        if self.kept.len() + part.len() > KEPT_MAX {
            if self.kept.is_empty() {
                return self.scan(chunk);
            }
            self.scanned = Some(0);
            return false;
        }
        self.kept.extend_from_slice(part);
        chunk.at += part.len();
        if newline.is_some() {
            if self.find(&self.kept, 0).is_some() {
                self.scanned = Some(0);
            } else {
                self.lines += 1;
                self.kept.clear();
            }
        }
        false
    }

    /// Takes lines that are complete in the chunk, through the next one that may count.
    fn take_complete(&mut self, chunk: &mut Chunk<'_>) -> bool {
        let from = chunk.at;
        let lines = &chunk.bytes[..chunk.complete];
        // All lines at once, and the bounds of one only where a word was found: in a stream of text most
        // lines have none, and one pass over the chunk does.
        let Some(found) = self.find(lines, from) else {
            self.lines += count_lines(&lines[from..]);
            chunk.at = chunk.complete;
            return false;
        };
        let start = memrchr(b'\n', &lines[from..found]).map_or(from, |newline| from + newline + 1);
        self.lines += count_lines(&lines[from..start]);
        chunk.at = start;
        self.scan(chunk)
    }

    /// Whether the line that begins here is scanned, whatever stands in it.
    fn must_scan(&self, line: &[u8]) -> bool {
        // The elements of an array count as they come, so that its start is not kept either. A message is
        // certain to have usage, far behind its text: to search for it first would read all of that twice.
        self.examines || line.first() == Some(&b'[') || line.starts_with(MESSAGE) || self.scanner.needs_next_line()
    }

    /// Where the first line of `lines` that may count has its word, not before `from`.
    fn find(&self, lines: &[u8], from: usize) -> Option<usize> {
        // Not before it is needed: a stream of a few lines, all of which are scanned, never needs it.
        self.search.get_or_init(Search::default).find(lines, from)
    }

    /// Scans the chunk through the next find.
    fn scan(&mut self, chunk: &mut Chunk<'_>) -> bool {
        let bytes = &chunk.bytes[chunk.at..];
        let mut rest = bytes;
        let is_start = self.scanner.is_at_line_start();
        let found = self.scanner.next(&mut rest).map(|found| found.ends_line);
        let taken = bytes.len() - rest.len();
        if self.examines {
            self.keep_head(is_start, &bytes[..taken]);
        }
        chunk.at += taken;
        self.lines += u64::from(found == Some(true));
        found.is_some()
    }

    /// Scans what was kept through the next find.
    fn scan_kept(&mut self) -> bool {
        let at = self.scanned.unwrap_or_default();
        let mut rest = &self.kept[at..];
        let found = self.scanner.next(&mut rest).map(|found| found.ends_line);
        let left = rest.len();
        self.scanned = Some(self.kept.len() - left);
        if left == 0 {
            self.kept.clear();
            self.scanned = None;
        }
        self.lines += u64::from(found == Some(true));
        found.is_some()
    }

    fn keep_head(&mut self, is_start: bool, bytes: &[u8]) {
        if is_start {
            self.head.clear();
        }
        let room = HEAD_MAX - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytecount::count(bytes, b'\n') as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that were scanned, and all lines.
    fn scanned_and_all(mut sieve: Sieve, bytes: &[u8]) -> (usize, u64) {
        let (mut chunk, mut scanned) = (Chunk::new(bytes), 0);
        while sieve.next(&mut chunk).is_some() {
            scanned += 1;
        }
        scanned += usize::from(sieve.next_at_end().is_some());
        (scanned, sieve.lines())
    }

    #[test]
    fn lines_without_a_word_are_skipped_and_none_is_without_a_searcher() {
        // The first line is scanned in any case: it may begin an array.
        let text = br#"{}
{"a":"\"usage\" \u001b"}
{"usage":1}
{"us\u0061ge":1}
{"message":1}
{"a":"aborted"}
"#;
        assert_eq!(scanned_and_all(Sieve::default(), text), (4, 6));
        assert_eq!(
            scanned_and_all(Sieve { search: OnceCell::from(Search::without_vectors()), ..Sieve::default() }, text),
            (6, 6)
        );
    }
}
