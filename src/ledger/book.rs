//! The book: what the entries of a ledger add up to.
//!
//! It touches no file and no clock: lines go in, sums come out. A line that is no entry costs itself
//! alone. Its memory grows with commands, models and runs alive, not with entries.

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::amount::Amounts;
use crate::count::marks::{LEDGER_MARKS, Marks};
use crate::count::tally::Tally;
use crate::count::tokens::{Change, Classes, Counts, Spend};
use crate::ledger::entry::{Entry, EntryKind, VERSION};
use crate::ledger::index::Index;
#[cfg(feature = "redis")]
use crate::ledger::limits::Limit;
use crate::ledger::limits::Limits;
use crate::ledger::runs::{RunNews, Runs};
use crate::ledger::spans::{Spans, seconds};
use crate::ledger::window::Window;

/// The pace is measured over so many seconds at most, and at least.
// A run comes in bursts: the first message of a new ledger is no pace.
pub(crate) const PACE_OVER: [f64; 2] = [3600.0, 60.0];

/// How exactly spend is dated for the pace, in seconds.
const PACE_STEP: u64 = 60;

/// The entries that are worth summing up are at least so many.
// To sum up is to write the file anew.
const HISTORY_MIN: u64 = 1000;

/// What the entries of a ledger add up to.
#[derive(Debug)]
pub struct Book {
    window: Option<Window>,
    /// Where the window is to be the one that the ledger keeps, the time zone that it is of.
    adopts: Option<TimeZone>,
    runs: Runs,
    limits: Limits,
    /// How far threads had come when a run last told of them.
    pub marks: Marks,
    /// The commands, and what each ever spent. Spend without a name is that of the name "", which no command
    /// has.
    commands: Index,
    sums: Vec<Spend>,
    /// The models, and what was ever spent on each.
    models: Index,
    model_sums: Vec<Spend>,
    /// What was spent when, as far back as the window, and as the pace is measured over.
    windowed: Spans,
    paced: Spans,
    /// When the first entry was written, in Unix seconds.
    begin: f64,
    /// Lines that are no entries.
    broken: u64,
    /// There are entries of a version that is not known here.
    foreign: bool,
    lines: u64,
    /// Lines of runs that have ended.
    history: u64,
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
    /// An empty book for sums over a window.
    pub fn new(window: Option<Window>) -> Self {
        let windowed = Spans::new(window.as_ref().map_or(PACE_STEP, Window::step));
        Book {
            window,
            adopts: None,
            windowed,
            paced: Spans::new(PACE_STEP),
            begin: f64::INFINITY,
            runs: Runs::default(),
            limits: Limits::default(),
            marks: Marks::default(),
            commands: Index::default(),
            sums: Vec::new(),
            models: Index::default(),
            model_sums: Vec::new(),
            broken: 0,
            foreign: false,
            lines: 0,
            history: 0,
        }
    }

    /// An empty book for sums over the window that the ledger keeps, in this time zone.
    pub(crate) fn adopting(zone: TimeZone) -> Self {
        Book { adopts: Some(zone), ..Book::new(None) }
    }

    /// What its sums are over.
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Takes the window of the last limit for its own.
    fn adopt_window(&mut self) {
        // Only before anything was spent, as in most ledgers: the reader asks for another window otherwise, and
        // reads all of it once more.
        if let Some(zone) = self.adopts.clone().filter(|_| self.model_sums.is_empty()) {
            self.window = Window::of(self.limits.window(), zone);
            self.windowed = Spans::new(self.window.as_ref().map_or(PACE_STEP, Window::step));
        }
    }

    /// Whether a line is an entry, of whatever version.
    pub(crate) fn is_entry(line: &[u8]) -> bool {
        serde_json::from_slice::<AnyVersion>(line).is_ok()
    }

    /// Takes in a line, without its newline. `now` is the time in Unix seconds: an entry that claims
    /// to be later counts as of now.
    pub fn take(&mut self, line: &[u8], now: f64) {
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        match serde_json::from_slice::<Entry<'_>>(line) {
            Ok(entry) if entry.v == VERSION => self.enter(&entry, now),
            Ok(_) => self.foreign = true,
            Err(_) => match serde_json::from_slice::<AnyVersion>(line) {
                Ok(AnyVersion { v }) if v != VERSION => self.foreign = true,
                _ => self.broken += 1,
            },
        }
    }

    fn enter(&mut self, entry: &Entry<'_>, now: f64) {
        entry.threads.iter().for_each(|(id, mark)| self.marks.set(id, *mark));
        self.marks.keep(LEDGER_MARKS);
        match entry.kind {
            EntryKind::Limit => {
                entry.limit().into_iter().for_each(|limit| self.limits.set(limit));
                self.adopt_window();
            }
            EntryKind::Grant => {
                let amounts = [entry.tokens, entry.micro_usd].map(Option::unwrap_or_default);
                let amounts = Amounts { tokens: amounts[0], micro_usd: amounts[1] };
                self.limits.grant(entry.spent_at(now), entry.name.as_deref(), amounts);
            }
            EntryKind::Thread | EntryKind::Other => {}
            EntryKind::Start | EntryKind::Spend | EntryKind::End | EntryKind::Sum => self.enter_spend(entry, now),
        }
    }

    fn enter_spend(&mut self, entry: &Entry<'_>, now: f64) {
        let command = self.command(entry.name.as_deref());
        let spent = entry.models_by(|name| self.model(name));
        let sums = &mut self.model_sums;
        // Spend is cumulative for the run: only what differs from its last entry is new.
        let RunNews { command, change, history } = match &entry.run {
            Some(id) => self.runs.enter(id, entry, command, spent, |model, change| {
                sums[*model] = change.apply(sums[*model]);
            }),
            None => {
                spent.iter().for_each(|(model, spend)| sums[*model] = sums[*model].plus(*spend));
                let change = Change { more: spent.sum(), ..Change::default() };
                RunNews { command, change, history: 0 }
            }
        };
        self.history += history;
        let at = entry.spent_at(now);
        self.begin = self.begin.min(at);
        if !change.is_zero() {
            self.pay(command, change, at, now);
        }
    }

    /// A command spent something at a time, or less than was known.
    fn pay(&mut self, command: usize, change: Change, at: f64, now: f64) {
        // Kept beside the spans, which are forgotten: without a window everything counts.
        self.sums[command] = change.apply(self.sums[command]);
        for (spans, from) in [
            (&mut self.windowed, self.window.as_ref().map_or(now, |window| window.from(now))),
            (&mut self.paced, now - PACE_OVER[0]),
        ] {
            if at >= from {
                spans.forget(from);
                spans.change(at, command, change);
            }
        }
    }

    /// What was spent in the window, by a command or by all.
    pub fn used(&self, name: Option<&str>, now: f64) -> Spend {
        let Some(command) = self.find(name) else { return Spend::default() };
        let all: &mut dyn Iterator<Item = Spend> = match (&self.window, command) {
            (None, Some(command)) => &mut std::iter::once(self.sums[command]),
            (None, None) => &mut self.sums.iter().copied(),
            (Some(window), command) => &mut self.windowed.since(window.from(now), command).map(|(_, _, spend)| spend),
        };
        all.fold(Spend::default(), Counts::plus)
    }

    /// What each command spent in the window, with its name, in the order in which they were first seen.
    // In one pass: one for each of 100,000 commands took a minute.
    pub(crate) fn used_by_each(&self, now: f64) -> impl Iterator<Item = (Option<&str>, Spend)> {
        let sums = match &self.window {
            None => self.sums.clone(),
            Some(window) => self.by_command(&self.windowed, window.from(now)),
        };
        self.names().zip(sums)
    }

    /// What a command, or all, spent in the time that the pace is measured over, and how many seconds that is.
    pub(crate) fn pace(&self, name: Option<&str>, now: f64) -> (Spend, f64) {
        let [most, least] = PACE_OVER;
        let over = (now - self.begin).clamp(least, most);
        let Some(command) = self.find(name) else { return (Spend::default(), over) };
        let all = self.paced.since(now - over, command).map(|(_, _, spend)| spend);
        (all.fold(Spend::default(), Counts::plus), over)
    }

    fn by_command(&self, spans: &Spans, from: f64) -> Vec<Spend> {
        let mut sums = vec![Spend::default(); self.sums.len()];
        spans.since(from, None).for_each(|(_, command, spend)| sums[command] = sums[command].plus(spend));
        sums
    }

    /// Seconds until no more than `limit` is left in a rolling window, as `of` measures what was spent in it;
    /// `None` where that is so already. By the calendar, when the window ends.
    pub(crate) fn room_in(&self, name: Option<&str>, limit: u64, of: impl Fn(&Spend) -> u64, now: f64) -> Option<f64> {
        let window = self.window.as_ref()?;
        let (from, until) = window.bounds(now);
        let mut left = of(&self.used(name, now));
        if left <= limit {
            return None;
        }
        if let Some(until) = until {
            return Some(until - now);
        }
        let mut at = None;
        for (end, _, spend) in self.windowed.since(from, self.find(name)?) {
            if left <= limit {
                break;
            }
            left = left.saturating_sub(of(&spend));
            at = Some(seconds(end) - from);
        }
        at
    }

    /// What was granted to a command, or to all, in the window.
    pub fn granted(&self, name: Option<&str>, now: f64) -> Amounts {
        let from = self.window.as_ref().map_or(f64::NEG_INFINITY, |window| window.from(now));
        self.limits.granted(name, from)
    }

    /// The limits and grants that it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What a run has spent.
    pub(crate) fn spent_by(&self, run: &str) -> Spend {
        self.runs.get(run).map(|run| run.spent.sum()).unwrap_or_default()
    }

    /// The models on which a run has spent something.
    pub(crate) fn models_of(&self, run: &str) -> impl Iterator<Item = &str> {
        let spent = self.runs.get(run).into_iter().flat_map(|run| run.spent.iter());
        spent.filter(|(_, spend)| !spend.is_zero()).map(|(model, _)| self.models.name(*model))
    }

    /// The runs that have not ended, with what they have reserved in tokens of `classes`.
    pub(crate) fn open_runs(&self, classes: Classes) -> Vec<OpenRun> {
        let name = |command: usize| Some(self.commands.name(command).to_owned()).filter(|name| !name.is_empty());
        let open = self.runs.open().map(|(id, run)| (id.to_owned(), name(run.command), run.reserved(classes)));
        open.map(|(id, name, reserved)| OpenRun { id, name, reserved }).collect()
    }

    /// What was ever spent on each model; models from which all has moved to others are left out.
    pub fn by_model(&self) -> Tally<String> {
        let sums = self.models.names().zip(&self.model_sums).filter(|(_, spend)| !spend.is_zero());
        sums.map(|(model, spend)| (model.to_owned(), *spend)).collect()
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

    /// The commands' names, by number.
    fn names(&self) -> impl Iterator<Item = Option<&str>> {
        self.commands.names().map(|name| Some(name).filter(|name| !name.is_empty()))
    }

    /// The number of a command, or `None` for all of them; no number where it is not known.
    fn find(&self, name: Option<&str>) -> Option<Option<usize>> {
        name.map_or(Some(None), |name| self.commands.find(name).map(Some))
    }

    fn command(&mut self, name: Option<&str>) -> usize {
        let command = self.commands.add(name.unwrap_or_default());
        self.sums.resize(self.sums.len().max(command + 1), Spend::default());
        command
    }

    fn model(&mut self, name: &str) -> usize {
        let model = self.models.add(name);
        self.model_sums.resize(self.model_sums.len().max(model + 1), Spend::default());
        model
    }
}

/// Takes in what a server has summed up.
#[cfg(feature = "redis")]
impl Book {
    /// What a command, or all, was granted at a time in Unix seconds.
    pub(crate) fn add_grant(&mut self, at: f64, name: Option<&str>, amounts: Amounts) {
        self.limits.grant(at, name, amounts);
    }

    /// A limit that a run was given.
    pub(crate) fn set_limit(&mut self, limit: Limit) {
        self.limits.set(limit);
    }

    /// The ledger was made at this time, in Unix seconds.
    pub(crate) fn begin(&mut self, at: f64) {
        self.begin = at;
    }

    /// What a command ever spent.
    pub(crate) fn set_command(&mut self, name: Option<&str>, sum: Spend) {
        let command = self.command(name);
        self.sums[command] = sum;
    }

    /// What was ever spent on a model.
    pub(crate) fn set_model(&mut self, name: &str, sum: Spend) {
        let model = self.model(name);
        self.model_sums[model] = sum;
    }

    /// What a command spent in a span of time that ends at `end`, in Unix seconds, and is one of those that
    /// the pace is taken from, or the window.
    pub(crate) fn set_span(&mut self, is_for_pace: bool, name: Option<&str>, end: u64, sum: Spend, now: f64) {
        let command = self.command(name);
        let (spans, from) = match (is_for_pace, &self.window) {
            (true, _) => (&mut self.paced, now - PACE_OVER[0]),
            (false, Some(window)) => (&mut self.windowed, window.from(now)),
            (false, None) => return,
        };
        spans.forget(from);
        if seconds(end) > from {
            spans.set(end, command, sum);
        }
    }
}
