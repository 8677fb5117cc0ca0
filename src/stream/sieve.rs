//! The sieve: skips lines that have nothing to be counted.
//!
//! A line that has none of a few words in it, plain or with `\u` escapes, never changes a total, so that
//! it is safe to skip. A line with such a word goes through the [`Scanner`], which decides.

use aho_corasick::Span;
use aho_corasick::packed::Searcher;
use memchr::{memchr, memchr_iter, memrchr};

use crate::stream::scan::{Scanned, Scanner};

/// How much of a line is kept until its end comes, in bytes.
// Almost all lines are shorter. A longer one goes through the scanner as it comes, which needs no line in
// memory.
const KEPT_MAX: usize = 256 * 1024;

/// How escapes of letters and the underscore begin: they are `\u0041` to `\u007a`.
const ESCAPES: [&str; 4] = ["\\u004", "\\u005", "\\u006", "\\u007"];

/// The words, by their last three bytes, which is what is searched for.
// Longer needles were slower. In JSON inside a string the quote behind a key is escaped, so that imitations
// are not found. Each word that the meter looks at must stand here.
const WORDS: [(&str, &[&str]); 7] = [
    // Tokens.
    ("ge\"", &["\"usage\"", "\"modelUsage\""]),
    // The deltas that follow belong to this message.
    ("rt\"", &["\"message_start\""]),
    // A turn has ended, whatever else the record says.
    ("lt\"", &["\"result\""]),
    // Such a message may not be in the figures of the `result`; they decide what a first one includes.
    ("ed\"", &["\"aborted\"", "\"task_started\"", "\"hook_started\""]),
    // They decide what a first `result` includes.
    ("on\"", &["\"claude_code_version\""]),
    ("ry\"", &["\"compact_boundary\""]),
    // The figures of the next `result` start from zero.
    ("et\"", &["\"conversation_reset\""]),
];

/// A sieve, and the scanner behind it.
#[derive(Debug)]
pub struct Sieve {
    /// Finds the ends of words, and escapes. `None` where the processor has no vector instructions
    /// for it: every line is scanned then.
    searcher: Option<Searcher>,
    scanner: Scanner,
    /// The start of a line that has not ended.
    kept: Vec<u8>,
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

impl Default for Sieve {
    fn default() -> Self {
        let sought = WORDS.iter().map(|(end, _)| *end).chain(ESCAPES);
        Sieve { searcher: Searcher::new(sought), scanner: Scanner::default(), kept: Vec::new(), lines: 0 }
    }
}

impl Sieve {
    /// Takes lines off the chunk through the next one that may count; all of the chunk where there is
    /// none. The next chunk must go on where this one ends.
    pub fn next_line(&mut self, chunk: &mut Chunk<'_>) -> Option<Scanned<'_>> {
        while chunk.at < chunk.bytes.len() {
            if self.take(chunk) {
                return Some(self.scanner.ended_line());
            }
        }
        None
    }

    /// The last line, where the stream ended without a newline after it and it may count.
    pub fn last_line(&mut self) -> Option<Scanned<'_>> {
        if self.is_at_line_start() {
            return None;
        }
        self.lines += 1;
        if self.may_count(&self.kept) {
            self.scan_kept();
        }
        self.kept.clear();
        self.scanner.last_line()
    }

    /// Whether the last line has ended and nothing of the next has come.
    pub fn is_at_line_start(&self) -> bool {
        self.kept.is_empty() && self.scanner.is_at_line_start()
    }

    /// Lines that have ended, those that cannot count among them.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next part off the chunk: the end of a line that began before it, lines that are
    /// complete in it, or the start of one that goes on after it. Returns whether the scanner has come
    /// to the end of a line.
    fn take(&mut self, chunk: &mut Chunk<'_>) -> bool {
        let bytes = chunk.bytes;
        if chunk.at < chunk.complete && self.is_at_line_start() {
            return self.take_complete(chunk);
        }
        let rest = &bytes[chunk.at..];
        let newline = if chunk.at < chunk.complete { memchr(b'\n', rest) } else { None };
        let part = newline.map_or(rest, |newline| &rest[..=newline]);
        chunk.at += part.len();
        let ended = newline.is_some();
        self.lines += u64::from(ended);
        if !self.scanner.is_at_line_start() || self.kept.len() + part.len() > KEPT_MAX {
            self.scan_kept();
            return self.scan(part);
        }
        self.kept.extend_from_slice(part);
        if !ended {
            return false;
        }
        let counts = self.may_count(&self.kept);
        if counts {
            self.scan_kept();
        }
        self.kept.clear();
        counts
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
        let end = memchr(b'\n', &lines[found..]).map_or(lines.len(), |newline| found + newline + 1);
        self.lines += count_lines(&lines[from..start]) + 1;
        chunk.at = end;
        self.scan(&lines[start..end])
    }

    /// Where the first word or escape stands in `lines`, not before `from`.
    fn find(&self, lines: &[u8], from: usize) -> Option<usize> {
        let Some(searcher) = &self.searcher else { return Some(from) };
        let mut rest = Span::from(from..lines.len());
        while let Some(found) = searcher.find_in(lines, rest) {
            let is_word = match WORDS.get(found.pattern().as_usize()) {
                Some((_, words)) => words.iter().any(|word| lines[..found.end()].ends_with(word.as_bytes())),
                None => true,
            };
            if is_word {
                return Some(found.start());
            }
            rest.start = found.end();
        }
        None
    }

    fn may_count(&self, line: &[u8]) -> bool {
        self.find(line, 0).is_some()
    }

    fn scan(&mut self, mut part: &[u8]) -> bool {
        self.scanner.next_line(&mut part).is_some()
    }

    fn scan_kept(&mut self) {
        let mut kept = self.kept.as_slice();
        self.scanner.next_line(&mut kept);
        self.kept.clear();
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that were scanned, and all lines.
    fn scanned_and_all(mut sieve: Sieve, bytes: &[u8]) -> (usize, u64) {
        let (mut chunk, mut scanned) = (Chunk::new(bytes), 0);
        while sieve.next_line(&mut chunk).is_some() {
            scanned += 1;
        }
        scanned += usize::from(sieve.last_line().is_some());
        (scanned, sieve.lines())
    }

    #[test]
    fn lines_without_a_word_are_skipped_and_none_is_without_a_searcher() {
        let text = br#"{"a":"\"usage\" \u001b"}
{"usage":1}
{"us\u0061ge":1}
{"message":1}
{"a":"aborted"}"#;
        assert_eq!(scanned_and_all(Sieve::default(), text), (3, 5));
        assert_eq!(scanned_and_all(Sieve { searcher: None, ..Sieve::default() }, text), (5, 5));
    }
}
