//! The runs of a ledger: what each has spent and reserved, as far as its entries say.

use std::collections::{HashMap, VecDeque};

use crate::amount::Amounts;
use crate::count::tally::Tally;
use crate::count::tokens::{Change, Classes, Counts};
use crate::ledger::entry::{Entry, EntryKind};

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
    reservation: Amounts,
    /// What it has spent on each model, by number.
    pub(crate) spent: Tally<usize>,
    /// How many entries it has.
    lines: u64,
    pub(crate) ended: bool,
}

/// What an entry says about a run that was not known before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunNews {
    /// The number of the command that it is charged to.
    pub(crate) command: usize,
    /// What becomes of its spend on all models.
    pub(crate) change: Change,
    /// How many of its lines are of a run that has ended, and were not before.
    pub(crate) history: u64,
}

impl RunState {
    /// What it has reserved and not spent, in tokens of `classes`.
    pub(crate) fn reserved(&self, classes: Classes) -> Amounts {
        self.reservation.minus(Amounts::of(&self.spent.sum(), classes))
    }

    fn enter(
        &mut self,
        entry: &Entry<'_>,
        command: usize,
        spent: Tally<usize>,
        tell: impl FnMut(&usize, Change),
    ) -> RunNews {
        // A run has one command. What its first entry charged to it is taken off it again, and off no other.
        if self.lines == 0 {
            self.command = command;
        }
        self.lines += 1;
        if entry.kind == EntryKind::Start {
            // It was taken for dead, and is not.
            self.ended = false;
            let (tokens, micro_usd) = (entry.estimate, entry.estimate_micro_usd);
            self.reservation = Amounts { tokens: tokens.unwrap_or(0), micro_usd: micro_usd.unwrap_or(0) };
        }
        let before = self.spent.sum();
        // The last entry counts, not the highest one: a settlement may lower a cost, and move what was spent from one
        // model to another. An entry without models says nothing of spend, as a start, or the end that another
        // run writes for a dead one.
        if !spent.is_empty() {
            self.spent.replace(spent, tell);
        }
        let ends = entry.kind == EntryKind::End && !self.ended;
        let history = if ends { self.lines } else { u64::from(self.ended) };
        RunNews { command: self.command, change: Change::between(before, self.spent.sum()), history }
    }
}

impl Runs {
    /// Takes in an entry of a run, with its command and what it says was spent on which model, by number. Tells
    /// what changes of which model.
    pub(crate) fn enter(
        &mut self,
        id: &str,
        entry: &Entry<'_>,
        command: usize,
        spent: Tally<usize>,
        tell: impl FnMut(&usize, Change),
    ) -> RunNews {
        // `HashMap::entry` would copy the id for each of a million entries.
        let news = match self.by_id.get_mut(id) {
            Some(run) => run.enter(entry, command, spent, tell),
            None => self.by_id.entry(id.to_owned()).or_default().enter(entry, command, spent, tell),
        };
        if entry.kind == EntryKind::End {
            self.end(id);
        }
        news
    }

    pub(crate) fn get(&self, id: &str) -> Option<&RunState> {
        self.by_id.get(id)
    }

    /// A run has ended; it is forgotten when enough others have.
    fn end(&mut self, id: &str) {
        let Some(run) = self.by_id.get_mut(id).filter(|run| !run.ended) else { return };
        run.ended = true;
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
