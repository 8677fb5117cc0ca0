//! Spans of time: what commands spent in each, as far back as that matters.

use std::collections::BTreeMap;

use crate::count::tokens::{Change, Counts, Spend};

/// What commands spent in spans of time. A span is known by its end, which is not part of it, in Unix
/// seconds; a command by its number.
// Spans and not the payments themselves: memory is bounded by commands and time, not by records.
#[derive(Debug)]
pub(crate) struct Spans {
    /// How long a span is, in seconds.
    step: u64,
    sums: BTreeMap<(u64, usize), Spend>,
}

impl Spans {
    /// Spans of `step` seconds.
    pub(crate) fn new(step: u64) -> Self {
        Spans { step, sums: BTreeMap::new() }
    }

    /// Takes in what a command spent at a time in Unix seconds. What it spent less than was known is taken off its
    /// latest spans.
    pub(crate) fn change(&mut self, at: f64, command: usize, change: Change) {
        let Change { more, less } = change;
        if !more.is_zero() {
            let sum = self.sums.entry((self.end_of(at), command)).or_default();
            *sum = sum.plus(more);
        }
        self.take_off(command, less);
    }

    // From span to span and not from sum to sum: there may be 100,000 commands in each.
    fn take_off(&mut self, command: usize, mut less: Spend) {
        let mut last = self.sums.last_key_value().map(|((end, _), _)| *end);
        while let Some(end) = last.filter(|_| !less.is_zero()) {
            if let Some(sum) = self.sums.get_mut(&(end, command)) {
                let part = less.min(*sum);
                *sum = Change { less: part, ..Change::default() }.apply(*sum);
                less = less.minus(part);
            }
            last = self.sums.range(..(end, 0)).next_back().map(|((end, _), _)| *end);
        }
    }

    /// Sets what a command spent in the span with this end.
    #[cfg(feature = "redis")]
    pub(crate) fn set(&mut self, end: u64, command: usize, spend: Spend) {
        self.sums.insert((end, command), spend);
    }

    /// Forgets what ended at or before a time.
    pub(crate) fn forget(&mut self, before: f64) {
        while self.sums.first_entry().is_some_and(|first| seconds(first.key().0) <= before) {
            self.sums.pop_first();
        }
    }

    /// What ended after a time, by a command or by all, the oldest first: end, command, spend.
    pub(crate) fn since(&self, from: f64, command: Option<usize>) -> impl Iterator<Item = (u64, usize, Spend)> {
        let all = self.sums.range((whole(from), 0)..).map(|((end, command), spend)| (*end, *command, *spend));
        all.filter(move |(end, of, _)| seconds(*end) > from && command.is_none_or(|command| command == *of))
    }

    /// The end of the span that a time is in.
    fn end_of(&self, at: f64) -> u64 {
        (whole(at) / self.step + 1) * self.step
    }
}

/// A time in whole Unix seconds; one before 1970 counts as 1970.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
pub(crate) fn whole(at: f64) -> u64 {
    // Below the top, so that the end of its span still fits.
    (at as u64).min(u64::MAX >> 1)
}

/// Unix seconds as a float.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
pub(crate) fn seconds(at: u64) -> f64 {
    at as f64
}
