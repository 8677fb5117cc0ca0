//! The book: what the entries of a ledger add up to.
//!
//! It touches no file and no clock: lines go in, sums come out. A line that is no entry costs itself
//! alone.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Deserialize;

use crate::amount::Amounts;
use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts, Spend};
use crate::ledger::entry::{Entry, EntryKind, VERSION};

/// How many runs that have ended are remembered.
// An entry of theirs that is written again must not count twice; but memory is bounded in a ledger of a
// million runs.
const ENDED_MAX: usize = 1024;

/// The pace is measured over so many seconds.
pub(crate) const PACE_OVER: f64 = 3600.0;

/// The entries that are worth summing up are at least so many.
// To sum up is to rewrite the file, while others wait for the lock.
const HISTORY_MIN: u64 = 1000;

/// What the entries of a ledger add up to.
#[derive(Debug, Default)]
pub struct Book {
    /// The runs that have not ended, and the last ones that have.
    runs: HashMap<String, RunState>,
    ended: VecDeque<String>,
    commands: Vec<Command>,
    models: Tally<String>,
    /// What was spent when, in the order in which it was entered, as far back as `keep`.
    payments: VecDeque<Payment>,
    /// What commands spent in spans of time that end at these Unix seconds, as a server sums it up.
    spans: BTreeMap<(u64, usize), Spend>,
    /// How many seconds back payments are kept.
    keep: f64,
    /// Lines that are no entries.
    broken: u64,
    /// There are entries of a version that is not known here.
    foreign: bool,
    lines: u64,
    /// Lines of runs that have ended.
    history: u64,
}

/// A run.
#[derive(Debug, Default)]
struct RunState {
    command: usize,
    reservation: Amounts,
    spent: Tally<String>,
    lines: u64,
    ended: bool,
}

/// A command's name and what it spent.
#[derive(Debug, Default)]
struct Command {
    name: Option<String>,
    sum: Spend,
}

/// What a command spent at one time.
#[derive(Clone, Copy, Debug)]
struct Payment {
    at: f64,
    command: usize,
    spend: Spend,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// Its id.
    pub id: String,
    /// The command that it is charged to.
    pub name: Option<String>,
    /// What it has reserved and not used yet.
    pub reserved: Amounts,
}

/// What the entries of any version have.
// The rest of a newer one may look different, and must not pass for a broken line: those are dropped when
// the ledger is summed up.
#[derive(Deserialize)]
struct AnyVersion {
    v: u32,
}

impl Book {
    /// An empty book for sums over the last `window` seconds.
    pub fn new(window: Option<f64>) -> Self {
        Book { keep: window.unwrap_or(0.0).max(PACE_OVER), ..Book::default() }
    }

    /// Takes in a line, without its newline. `now` is the time in Unix seconds: an entry that claims
    /// to be later counts as of now.
    pub fn take(&mut self, line: &[u8], now: f64) {
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        match serde_json::from_slice::<Entry<'_>>(line) {
            Ok(entry) if entry.v == VERSION => self.enter(entry, now),
            Ok(_) => self.foreign = true,
            Err(_) => match serde_json::from_slice::<AnyVersion>(line) {
                Ok(AnyVersion { v }) if v != VERSION => self.foreign = true,
                _ => self.broken += 1,
            },
        }
    }

    fn enter(&mut self, entry: Entry<'_>, now: f64) {
        let command = self.command(entry.name.as_deref());
        let mut spent = Spend::default();
        match &entry.run {
            None => {
                for (model, spend) in entry.models.iter() {
                    self.models.add(model, *spend);
                    spent = spent.plus(*spend);
                }
            }
            Some(id) => {
                // `entry` would copy the id for each of a million entries.
                if !self.runs.contains_key(id.as_ref()) {
                    self.runs.insert(id.to_string(), RunState::default());
                }
                let Some(run) = self.runs.get_mut(id.as_ref()) else { return };
                run.command = command;
                run.lines += 1;
                if entry.kind == EntryKind::Start {
                    let (tokens, micro_usd) = (entry.estimate, entry.estimate_micro_usd);
                    run.reservation = Amounts { tokens: tokens.unwrap_or(0), micro_usd: micro_usd.unwrap_or(0) };
                }
                // Spend is cumulative for the run: only what is above its last entry is new.
                for (model, spend) in entry.models.iter() {
                    let more = run.spent.raise(model, *spend);
                    self.models.add(model, more);
                    spent = spent.plus(more);
                }
                if run.ended {
                    self.history += 1;
                } else if entry.kind == EntryKind::End {
                    run.ended = true;
                    self.history += run.lines;
                    self.ended.push_back(id.to_string());
                    if self.ended.len() > ENDED_MAX
                        && let Some(oldest) = self.ended.pop_front()
                    {
                        self.runs.remove(&oldest);
                    }
                }
            }
        }
        // Kept beside the payments, which are forgotten: without a window everything counts.
        let sum = &mut self.commands[command].sum;
        *sum = sum.plus(spent);
        // An entry from the future would stay in the window too long.
        let (at, kept_from) = (entry.at.min(now), now - self.keep);
        while self.payments.front().is_some_and(|oldest| oldest.at <= kept_from) {
            self.payments.pop_front();
        }
        if !spent.is_zero() && at > kept_from {
            self.payments.push_back(Payment { at, command, spend: spent });
        }
    }

    /// What was spent in the last `since` seconds, or ever; by a command, or by all.
    pub fn used(&self, name: Option<&str>, since: Option<f64>, now: f64) -> Spend {
        let sum = |sum: Spend, spend: Spend| sum.plus(spend);
        match since {
            None => {
                let commands = self.commands.iter().enumerate().filter(|(at, _)| self.is_of(*at, name));
                commands.map(|(_, command)| command.sum).fold(Spend::default(), sum)
            }
            Some(since) => self.paid(name, since, now).map(|payment| payment.spend).fold(Spend::default(), sum),
        }
    }

    /// Seconds until no more than `limit` is left in the window, as `of` measures what was spent in
    /// it; `None` where that is so already.
    pub(crate) fn room_in(
        &self,
        name: Option<&str>,
        window: f64,
        limit: u64,
        of: impl Fn(&Spend) -> u64,
        now: f64,
    ) -> Option<f64> {
        let mut payments: Vec<_> = self.paid(name, window, now).collect();
        // A clock may have been set back, and the spans of a server come after payments.
        payments.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mut left = payments.iter().fold(0, |sum: u64, payment| sum.saturating_add(of(&payment.spend)));
        let mut at = None;
        for payment in payments {
            if left <= limit {
                break;
            }
            left = left.saturating_sub(of(&payment.spend));
            at = Some(payment.at + window - now);
        }
        at
    }

    /// What a run has spent.
    pub(crate) fn spent_by(&self, run: &str) -> Spend {
        self.runs.get(run).map(|run| run.spent.sum()).unwrap_or_default()
    }

    /// The runs that have not ended, with what they have reserved in tokens of `classes`.
    pub(crate) fn open_runs(&self, classes: Classes) -> Vec<OpenRun> {
        let open = self.runs.iter().filter(|(_, run)| !run.ended);
        open.map(|(id, run)| OpenRun {
            id: id.clone(),
            name: self.commands[run.command].name.clone(),
            reserved: run.reservation.minus(Amounts::of(&run.spent.sum(), classes)),
        })
        .collect()
    }

    /// Every command's name with what it ever spent, in the order in which they were first seen.
    pub(crate) fn by_command(&self) -> impl Iterator<Item = (Option<&str>, Spend)> {
        self.commands.iter().map(|command| (command.name.as_deref(), command.sum))
    }

    /// What was ever spent on each model.
    pub fn by_model(&self) -> &Tally<String> {
        &self.models
    }

    pub(crate) fn broken(&self) -> u64 {
        self.broken
    }

    pub(crate) fn has_foreign(&self) -> bool {
        self.foreign
    }

    /// Whether so much of the ledger is history that it is worth summing up.
    pub(crate) fn is_mostly_history(&self) -> bool {
        // A newer entry is never rewritten by a program that does not understand it.
        !self.foreign && self.history >= HISTORY_MIN && self.history * 4 >= self.lines * 3
    }

    /// Whether a run's entries stay when history is summed up: it has not ended.
    pub(crate) fn is_open(&self, run: &str) -> bool {
        self.runs.get(run).is_some_and(|run| !run.ended)
    }

    /// The payments of the last `since` seconds, by a command or by all.
    fn paid(&self, name: Option<&str>, since: f64, now: f64) -> impl Iterator<Item = Payment> {
        let spans = self.spans.iter();
        let spans =
            spans.map(|((end, command), spend)| Payment { at: seconds(*end), command: *command, spend: *spend });
        let all = self.payments.iter().copied().chain(spans);
        all.filter(move |payment| payment.at > now - since && self.is_of(payment.command, name))
    }

    fn is_of(&self, command: usize, name: Option<&str>) -> bool {
        name.is_none() || self.commands[command].name.as_deref() == name
    }

    fn command(&mut self, name: Option<&str>) -> usize {
        self.commands.iter().position(|command| command.name.as_deref() == name).unwrap_or_else(|| {
            self.commands.push(Command { name: name.map(str::to_owned), ..Command::default() });
            self.commands.len() - 1
        })
    }
}

/// Takes in what a server has summed up.
#[cfg(feature = "redis")]
impl Book {
    /// What a command ever spent.
    pub(crate) fn set_command(&mut self, name: Option<&str>, sum: Spend) {
        let command = self.command(name);
        self.commands[command].sum = sum;
    }

    /// What was ever spent on a model.
    pub(crate) fn set_model(&mut self, name: &str, sum: Spend) {
        *self.models.entry(&name.to_owned()) = sum;
    }

    /// What a command spent in a span of time that ends at `end`, in Unix seconds.
    pub(crate) fn set_span(&mut self, name: Option<&str>, end: u64, sum: Spend, now: f64) {
        let command = self.command(name);
        while self.spans.first_key_value().is_some_and(|((oldest, _), _)| seconds(*oldest) <= now - self.keep) {
            self.spans.pop_first();
        }
        if seconds(end) > now - self.keep {
            self.spans.insert((end, command), sum);
        }
    }
}

/// Unix seconds as a float.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
pub(crate) fn seconds(at: u64) -> f64 {
    at as f64
}
