//! The runs of a ledger: what each has spent and reserved, as far as its entries say.

use std::collections::{HashMap, VecDeque};

use crate::amount::Amounts;
use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts};

/// How many runs that have ended are remembered.
// An entry of theirs that is written again must not count twice; but memory is bounded in a ledger of a
// million runs.
const ENDED_MAX: usize = 1024;

/// The runs that have not ended, and the last ones that have.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    by_id: HashMap<String, RunState>,
    ended: VecDeque<String>,
}

/// A run.
#[derive(Debug, Default)]
pub(crate) struct RunState {
    /// The number of its command.
    pub(crate) command: usize,
    pub(crate) reservation: Amounts,
    /// What it has spent on each model.
    pub(crate) spent: Tally<String>,
    /// How many entries it has.
    pub(crate) lines: u64,
    pub(crate) ended: bool,
}

impl RunState {
    /// What it has reserved and not spent, in tokens of `classes`.
    pub(crate) fn reserved(&self, classes: Classes) -> Amounts {
        self.reservation.minus(Amounts::of(&self.spent.sum(), classes))
    }
}

impl Runs {
    /// Changes a run, which is added where it is not known.
    pub(crate) fn with<T>(&mut self, id: &str, change: impl FnOnce(&mut RunState) -> T) -> T {
        // `HashMap::entry` would copy the id for each of a million entries.
        match self.by_id.get_mut(id) {
            Some(run) => change(run),
            None => change(self.by_id.entry(id.to_owned()).or_default()),
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&RunState> {
        self.by_id.get(id)
    }

    /// A run has ended; it is forgotten when enough others have.
    pub(crate) fn end(&mut self, id: &str) {
        self.with(id, |run| run.ended = true);
        self.ended.push_back(id.to_owned());
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
            && self.by_id.get(&oldest).is_some_and(|run| run.ended)
        {
            self.by_id.remove(&oldest);
        }
    }

    /// The runs that have not ended, with their ids.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&str, &RunState)> {
        self.by_id.iter().filter(|(_, run)| !run.ended).map(|(id, run)| (id.as_str(), run))
    }
}
