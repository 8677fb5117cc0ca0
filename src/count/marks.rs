//! Marks: how far threads had come when they were last heard of.
//!
//! An agent that tells the figures of a whole thread each time tells them again when the thread is
//! resumed; only what is above its mark is new then.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::count::tokens::Tokens;

/// Of so many threads a ledger keeps the marks, the newest ones.
pub(crate) const LEDGER_MARKS: usize = 1024;

/// An id that is longer than this, in bytes, is kept as a hash; real ones are UUIDs.
const ID_MAX: usize = 64;

/// The tokens that threads had used in all, by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    by_id: BTreeMap<Arc<str>, Mark>,
    /// How often a mark was set.
    count: u64,
}

/// How far a thread had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    tokens: Tokens,
    /// The number of the change that set it: the higher, the newer.
    change: u64,
}

impl Marks {
    /// The mark of a thread, where it is known.
    pub(crate) fn get(&self, id: &str) -> Option<Tokens> {
        self.by_id.get(&*key(id)).map(|mark| mark.tokens)
    }

    /// Sets the mark of a thread, be it lower than before: the thread has begun anew then.
    pub(crate) fn set(&mut self, id: &str, tokens: Tokens) {
        let key = key(id);
        match self.by_id.get_mut(&*key) {
            Some(mark) if mark.tokens == tokens => return,
            Some(mark) => *mark = Mark { tokens, change: self.count },
            None => _ = self.by_id.insert(Arc::from(key), Mark { tokens, change: self.count }),
        }
        self.count += 1;
    }

    /// Forgets a thread.
    pub(crate) fn remove(&mut self, id: &str) {
        self.by_id.remove(&*key(id));
    }

    /// Keeps the newest marks, at least so many of them, and fewer than twice as many.
    pub(crate) fn keep(&mut self, least: usize) {
        // Not with each one: the oldest is found by looking at all of them.
        if self.by_id.len() < least * 2 {
            return;
        }
        let mut changes: Vec<_> = self.by_id.values().map(|mark| mark.change).collect();
        changes.sort_unstable();
        let oldest = changes[changes.len() - least];
        self.by_id.retain(|_, mark| mark.change >= oldest);
    }

    /// The threads with their marks, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tokens)> {
        self.by_id.iter().map(|(id, mark)| (&**id, mark.tokens))
    }

    /// The same, the oldest mark first.
    pub(crate) fn oldest_first(&self) -> Vec<(&str, Tokens)> {
        let mut marks: Vec<_> = self.by_id.iter().collect();
        marks.sort_unstable_by_key(|(_, mark)| mark.change);
        marks.into_iter().map(|(id, mark)| (&**id, mark.tokens)).collect()
    }
}

impl<'a> FromIterator<(&'a str, Tokens)> for Marks {
    fn from_iter<I: IntoIterator<Item = (&'a str, Tokens)>>(marks: I) -> Self {
        let mut all = Marks::default();
        marks.into_iter().for_each(|(id, tokens)| all.set(id, tokens));
        all
    }
}

/// The name by which a thread is kept: its id, or a hash of one that no agent would choose.
// The id comes from the stream: it must not fill a ledger, nor do anything in a terminal that shows one.
fn key(id: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:#".contains(&byte);
    if id.len() <= ID_MAX && id.bytes().all(is_plain) {
        return Cow::from(id);
    }
    // FNV-1a, since the hashes of the standard library may change, and other machines read this one. Who
    // makes two ids collide could as well write false figures.
    let hash = id
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    Cow::from(format!("#{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(input: u64) -> Tokens {
        Tokens { input, ..Tokens::default() }
    }

    #[test]
    fn the_newest_marks_are_kept() {
        let mut marks = Marks::default();
        for n in 0..20 {
            marks.set(&format!("t{n}"), input(n));
            // Changed each time.
            marks.set("first", input(n));
            marks.keep(5);
            assert!(marks.iter().count() < 10);
        }
        // What is only told again is no change.
        marks.set("t17", input(17));
        let newest: Vec<_> = marks.oldest_first().into_iter().rev().map(|(id, _)| id.to_owned()).take(5).collect();
        assert_eq!(newest, ["first", "t19", "t18", "t17", "t16"]);
    }

    #[test]
    fn ids_that_no_agent_would_choose_are_kept_as_hashes() {
        let [long, longer] = ["x".repeat(100), "x".repeat(100_000)];
        for id in [long.as_str(), &longer, "\u{1b}[2J", "a b", "ä", "\"", "\0"] {
            let marks: Marks = [(id, input(7))].into_iter().collect();
            assert_eq!((marks.get(id), marks.get("x")), (Some(input(7)), None), "{id:.20}");
            let kept = marks.iter().next().map(|(id, _)| id.to_owned()).unwrap_or_default();
            assert!(kept.len() == 17 && kept.bytes().all(|byte| byte.is_ascii_graphic()), "{kept}");
            // A ledger gives it back as it was written.
            assert_eq!(marks, marks.iter().collect());
        }
        // A test vector of FNV-1a.
        assert_eq!(key("foobar\0"), "#34531ca7168b8f38");
        let marks: Marks = [("01a210f5-01db-72e0-a273-5d7d9cd799da", input(7))].into_iter().collect();
        assert_eq!(marks.iter().next(), Some(("01a210f5-01db-72e0-a273-5d7d9cd799da", input(7))));
    }
}
