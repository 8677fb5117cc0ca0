//! An entry of a ledger file: one line of JSON, as it is written and read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::amount::{Amount, Unit};
use crate::count::tally::Tally;
use crate::count::tokens::{Counts, Tokens};
use crate::ledger::limits::Limit;

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
    /// Of limits and grants: how many tokens or micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) micro_usd: Option<u64>,
    /// Of a limit: of what time, as `--window` takes it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Cow<'a, str>>,
    /// Of spend, ends and sums: what was spent on each model.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub(crate) models: Tally<String>,
    /// The marks of threads that have changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) threads: BTreeMap<String, Tokens>,
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
    /// What a run was given as a limit.
    Limit,
    /// What was granted beyond a limit.
    Grant,
    /// The mark of a thread, whose run's entries have been summed up.
    Thread,
    /// Something that a newer program writes.
    #[serde(other)]
    Other,
}

impl<'a> Entry<'a> {
    /// An entry of the present version without spend, written `at` Unix seconds.
    pub(crate) fn new(kind: EntryKind, run: Option<&'a str>, name: Option<&'a str>, at: f64) -> Self {
        let (run, name) = (run.map(Cow::from), name.map(Cow::from));
        let (estimate, estimate_micro_usd) = (None, None);
        let (tokens, micro_usd, window) = (None, None, None);
        let (models, threads) = (Tally::default(), BTreeMap::new());
        let v = VERSION;
        Entry { v, at, run, name, kind, estimate, estimate_micro_usd, tokens, micro_usd, window, models, threads }
    }

    /// An entry of the mark of a thread.
    pub(crate) fn of_mark(id: &str, mark: Tokens, at: f64) -> Self {
        let threads = BTreeMap::from([(id.to_owned(), mark)]);
        Entry { threads, ..Entry::new(EntryKind::Thread, None, None, at) }
    }

    /// An entry of a limit.
    pub(crate) fn of_limit(limit: &'a Limit, at: f64) -> Self {
        let mut entry = Entry::new(EntryKind::Limit, None, limit.name.as_deref(), at);
        match limit.amount.unit {
            Unit::Tokens => entry.tokens = Some(limit.amount.value),
            Unit::Usd => entry.micro_usd = Some(limit.amount.value),
        }
        entry.window = Some(limit.window.as_str()).filter(|window| !window.is_empty()).map(Cow::from);
        entry
    }

    /// The limit that it is of.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let tokens = self.tokens.map(|value| Amount { unit: Unit::Tokens, value });
        let amount = tokens.or_else(|| self.micro_usd.map(|value| Amount { unit: Unit::Usd, value }))?;
        let (name, window) = (self.name.as_deref().map(str::to_owned), self.window.as_deref().unwrap_or_default());
        Some(Limit { name, amount, window: window.to_owned() }).filter(|_| self.kind == EntryKind::Limit)
    }

    /// With what was spent on each model; models without any are left out, which says the same.
    pub(crate) fn with(mut self, spend: &Tally<String>) -> Self {
        self.models = spend.iter().filter(|(_, spend)| !spend.is_zero()).cloned().collect();
        self
    }

    /// What it says was spent on each model, by the numbers that `number` gives them.
    pub(crate) fn models_by(&self, mut number: impl FnMut(&str) -> usize) -> Tally<usize> {
        let mut models = Tally::default();
        // Each once, also where a line that somebody else wrote has one twice.
        self.models.iter().for_each(|(name, spend)| *models.entry(&number(name)) = *spend);
        models
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
