//! The search for words that a line must have in it to count, in many lines at once.

use aho_corasick::Span;
use aho_corasick::packed::Searcher;

use crate::stream::dialect;

/// What is searched for, in three bytes each, and what must end there.
// In JSON inside a string the quote behind a key is escaped, so that imitations are not found. Each word
// that the meter looks at must stand here.
//
// Three bytes, since the search takes as many as its shortest needle has; longer ones were slower. The
// order matters: the search sorts them into eight buckets by their number, and a bucket looks at every mix
// of its needles, which costs as much as a vector search of 300 bytes. Behind `\u` the digits are searched
// for, since a tool's output is full of `\u001b`. In this order at most one place in a thousand bytes of
// recorded streams is looked at; another one had each `{"` at the start of a line looked at, which was 15 %
// more instructions for lines of 300 bytes.
const NEEDLES: [(&str, &[&str]); 14] = [
    // Escapes of letters and the underscore are `\u0041` to `\u007a`.
    ("005", &["\\u005"]),
    // They decide what a first `result` includes.
    ("on\"", &["\"claude_code_version\""]),
    ("007", &["\\u007"]),
    // The deltas that follow belong to this message.
    ("rt\"", &["\"message_start\""]),
    // A line that is a `[` alone: an array of many lines begins, and those that follow need not hold a word.
    ("\n[\n", &["\n[\n"]),
    // Such a message may not be in the figures of the `result`; they decide what a first one includes.
    ("ed\"", &["\"aborted\"", "\"task_started\"", "\"hook_started\""]),
    ("006", &["\\u006"]),
    ("004", &["\\u004"]),
    ("\n[\r", &["\n[\r"]),
    // A turn has ended, whatever else the record says.
    ("lt\"", &["\"result\""]),
    // The figures of the next `result` start from zero.
    ("et\"", &["\"conversation_reset\""]),
    ("ry\"", &["\"compact_boundary\""]),
    // Tokens.
    ("ge\"", &["\"usage\"", "\"modelUsage\""]),
    // Of other agents' words alone.
    ("cs\"", &[]),
];

/// A search.
#[derive(Debug)]
pub(crate) struct Search {
    /// Finds the needles. `None` where the processor has no vector instructions for it: every line is
    /// scanned then.
    searcher: Option<Searcher>,
    /// What must end where each needle was found.
    words: [Vec<&'static str>; NEEDLES.len()],
}

impl Default for Search {
    fn default() -> Self {
        let words = |(needle, words): (&str, &'static [&'static str])| {
            let others = dialect::words().filter(|word| word.ends_with(needle));
            words.iter().chain(others).copied().collect()
        };
        Search { searcher: Searcher::new(NEEDLES.map(|(needle, _)| needle)), words: NEEDLES.map(words) }
    }
}

impl Search {
    /// Where the first word or escape stands in `lines`, not before `from`, or the start of an array.
    pub(crate) fn find(&self, lines: &[u8], from: usize) -> Option<usize> {
        let Some(searcher) = &self.searcher else { return Some(from) };
        let mut rest = Span::from(from..lines.len());
        while let Some(found) = searcher.find_in(lines, rest) {
            let end = found.end();
            // The first byte, a quote in almost all words, tells most imitations.
            let is_there = |word: &&str| {
                let start = end.wrapping_sub(word.len());
                lines.get(start) == word.as_bytes().first() && lines[start..end] == *word.as_bytes()
            };
            if self.words[found.pattern().as_usize()].iter().any(is_there) {
                // A newline belongs to the line before.
                return Some(found.start() + usize::from(lines[found.start()] == b'\n'));
            }
            rest.start = end;
        }
        None
    }

    #[cfg(test)]
    pub(crate) fn without_vectors() -> Self {
        Search { searcher: None, ..Search::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_dialects_end_as_others_do() {
        for word in dialect::words() {
            assert!(NEEDLES.iter().any(|(end, _)| word.ends_with(end)), "{word}");
        }
    }

    /// Whether the search would look at these bytes, by the low and high halves of each.
    fn is_candidate(bytes: &[u8; 3]) -> bool {
        let needles = NEEDLES.map(|(needle, _)| needle);
        let low = |needle: &str| needle.bytes().take(3).map(|byte| byte & 15).collect::<Vec<_>>();
        let bucket = |needle: &str| needles.iter().position(|other| low(other) == low(needle)).unwrap_or(0) % 8;
        (0..8).any(|number| {
            let beside: Vec<_> = needles.iter().filter(|needle| bucket(needle) == number).collect();
            let has = |at: usize, half: fn(u8) -> u8| {
                beside.iter().any(|needle| half(needle.as_bytes()[at]) == half(bytes[at]))
            };
            (0..3).all(|at| has(at, |byte| byte & 15) && has(at, |byte| byte >> 4))
        })
    }

    #[test]
    fn the_start_of_a_line_is_no_mix_of_needles() {
        assert!(is_candidate(b"\n[\n") && is_candidate(b"ge\""));
        assert!(!is_candidate(b"\n{\""), "reorder the needles");
    }
}
