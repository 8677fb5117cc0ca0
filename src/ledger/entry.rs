//! An entry of a ledger file: one line of JSON, as it is written and read.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};

use crate::count::tally::Tally;
use crate::count::tokens::Counts;

/// The version of the entries that are written.
pub(crate) const VERSION: u32 = 1;

/// One line of a ledger.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) v: u32,
    /// When it was written, in Unix seconds.
    pub(crate) at: f64,
    /// The run that wrote it; absent in a sum.
    // Borrowed from the line where it has no escapes, which saves an allocation for each of a million lines.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<Cow<'a, str>>,
    /// The command that it is charged to.
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    /// What it says.
    pub(crate) kind: EntryKind,
    /// Of a start: the tokens that the run reserves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) estimate: Option<u64>,
    /// Of a start: the micro-dollars that the run reserves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) estimate_micro_usd: Option<u64>,
    /// Of spend, ends and sums: what was spent on each model.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub(crate) models: Tally<String>,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EntryKind {
    /// A run has been admitted.
    Start,
    /// All that a run has spent so far.
    // Not what is new: a lost or repeated entry changes nothing then.
    Spend,
    /// A run has ended.
    End,
    /// What runs spent whose entries have been summed up.
    Sum,
}

impl<'a> Entry<'a> {
    /// An entry of the present version without spend, written `at` Unix seconds.
    pub(crate) fn new(kind: EntryKind, run: Option<&'a str>, name: Option<&'a str>, at: f64) -> Self {
        let (run, name) = (run.map(Cow::from), name.map(Cow::from));
        Entry { v: VERSION, at, run, name, kind, estimate: None, estimate_micro_usd: None, models: Tally::default() }
    }

    /// With what was spent on each model; models without any are left out.
    pub(crate) fn with(mut self, spend: &Tally<String>) -> Self {
        self.models = spend.iter().filter(|(_, spend)| !spend.is_zero()).cloned().collect();
        self
    }

    /// When what it says was spent, in Unix seconds; `now` at the latest.
    // A sum is dated to the end of its time, which is not part of it: what ends at midnight is of the day
    // before, and stays in its own span when it is summed up again. An entry from the future would stay in a
    // window too long.
    pub(crate) fn spent_at(&self, now: f64) -> f64 {
        let at = if self.kind == EntryKind::Sum { self.at - 0.001 } else { self.at };
        at.min(now)
    }

    /// The entry as a line of the file.
    pub(crate) fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}
