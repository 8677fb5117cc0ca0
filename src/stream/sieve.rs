//! The sieve: tells the lines that can count from all others, by words that such a line must hold.
//!
//! A chunk is searched as a whole, and a line's bounds are looked up only where a word was found;
//! those lines go through the [`Scanner`], which decides. Skipping the others changes no total: what
//! [`crate::count::meter`] counts needs one of these words, spelled out or with an escape. The start of a
//! line that goes on in the next chunk is kept; one that becomes too long for that goes
//! through the scanner from then on, which needs no line in memory.

use aho_corasick::Span;
use aho_corasick::packed::Searcher;
use memchr::{memchr, memchr_iter, memrchr};

use crate::stream::scan::{Scanned, Scanner};

/// How much of a line is kept until its end comes, in bytes.
const KEPT_MAX: usize = 256 * 1024;

/// How the escapes of letters and the underscore begin, which are `\u0041` to `\u007a`.
const ESCAPES: [&str; 4] = ["\\u004", "\\u005", "\\u006", "\\u007"];

/// How the words end, and the words: the search is for three bytes, which is fastest. In a text
/// inside a text the quote behind a key is escaped, so that imitations are not found.
const WORDS: [(&str, &[&str]); 7] = [
    // Tokens.
    ("ge\"", &["\"usage\"", "\"modelUsage\""]),
    // A message begins, and the deltas that follow are its own.
    ("rt\"", &["\"message_start\""]),
    // A turn ends, whatever it tells.
    ("lt\"", &["\"result\""]),
    // A message is no part of what the result line will tell.
    ("ed\"", &["\"aborted\""]),
    // What a first result line includes.
    ("on\"", &["\"claude_code_version\""]),
    ("ry\"", &["\"compact_boundary\""]),
    // The next result line starts from nothing.
    ("et\"", &["\"conversation_reset\""]),
];

/// A sieve, and the scanner behind it.
#[derive(Debug)]
pub struct Sieve {
    /// Finds the ends of words, and escapes; `None` where the processor cannot search for several
    /// things at once: then every line is scanned.
    searcher: Option<Searcher>,
    scanner: Scanner,
    /// The start of a line that has not ended.
    kept: Vec<u8>,
    lines: u64,
}

/// What a read gave, and how far it has been sifted.
#[derive(Debug)]
pub struct Chunk<'a> {
    bytes: &'a [u8],
    /// What lies before this has been taken.
    at: usize,
    /// Behind the last newline.
    whole: usize,
}

impl<'a> Chunk<'a> {
    /// A chunk of which nothing has been taken.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let whole = memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        Chunk { bytes, at: 0, whole }
    }

    /// How many bytes have been taken.
    #[must_use]
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
    /// Takes lines off the chunk through the next one that may count, or all of it where there is
    /// none: the next chunk goes on where this one ends.
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
    #[must_use]
    pub fn is_at_line_start(&self) -> bool {
        self.kept.is_empty() && self.scanner.is_at_line_start()
    }

    /// Lines that have ended, those that cannot count among them.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next part off the chunk: the end of a line that began before it, the lines that
    /// are whole in it, or the start of one that goes on after it. Says whether the scanner has
    /// come to the end of a line.
    fn take(&mut self, chunk: &mut Chunk<'_>) -> bool {
        let bytes = chunk.bytes;
        if chunk.at < chunk.whole && self.is_at_line_start() {
            return self.take_whole(chunk);
        }
        let rest = &bytes[chunk.at..];
        let newline = if chunk.at < chunk.whole { memchr(b'\n', rest) } else { None };
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

    /// Takes lines that are whole in the chunk, through the next one that may count.
    fn take_whole(&mut self, chunk: &mut Chunk<'_>) -> bool {
        let from = chunk.at;
        let lines = &chunk.bytes[..chunk.whole];
        let Some(found) = self.find(lines, from) else {
            self.lines += count_lines(&lines[from..]);
            chunk.at = chunk.whole;
            return false;
        };
        let start = memrchr(b'\n', &lines[from..found]).map_or(from, |newline| from + newline + 1);
        let end = memchr(b'\n', &lines[found..]).map_or(lines.len(), |newline| found + newline + 1);
        self.lines += count_lines(&lines[from..start]) + 1;
        chunk.at = end;
        self.scan(&lines[start..end])
    }

    /// Where the first word or escape comes in `lines`, not before `from`.
    fn find(&self, lines: &[u8], from: usize) -> Option<usize> {
        let Some(searcher) = &self.searcher else { return Some(from) };
        let mut rest = Span::from(from..lines.len());
        while let Some(found) = searcher.find_in(lines, rest) {
            let is_meant = match WORDS.get(found.pattern().as_usize()) {
                Some((_, words)) => words.iter().any(|word| lines[..found.end()].ends_with(word.as_bytes())),
                None => true,
            };
            if is_meant {
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
    fn sift(mut sieve: Sieve, bytes: &[u8]) -> (usize, u64) {
        let (mut chunk, mut scanned) = (Chunk::new(bytes), 0);
        while sieve.next_line(&mut chunk).is_some() {
            scanned += 1;
        }
        scanned += usize::from(sieve.last_line().is_some());
        (scanned, sieve.lines())
    }

    #[test]
    fn only_lines_that_can_count_are_scanned_or_all_where_nothing_can_be_searched_for() {
        let text = br#"{"a":"\"usage\" \u001b"}
{"usage":1}
{"us\u0061ge":1}
{"message":1}
{"a":"aborted"}"#;
        assert_eq!(sift(Sieve::default(), text), (3, 5));
        assert_eq!(sift(Sieve { searcher: None, ..Sieve::default() }, text), (5, 5));
    }
}
