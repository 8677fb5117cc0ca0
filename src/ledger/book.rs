//! The book: what the records of a ledger add up to. No file and no clock; lines go in, sums come out.
//!
//! Spend is cumulative per run, so a record that is lost costs what it had over the one before, and
//! one that is there twice changes nothing. A line that is no record costs itself alone.

use std::borrow::Cow;
#[cfg(feature = "redis")]
use std::collections::BTreeMap;
use std::collections::{HashMap, VecDeque};
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::budget::Sum;
use crate::count::tokens::{Classes, Spend};

/// The version of the records that are written.
pub const VERSION: u32 = 1;

/// How many runs that have ended are remembered, so that a record of theirs that is written again
/// counts once.
const ENDED_MAX: usize = 1024;

/// The pace is that of so many seconds.
pub const PACE_OVER: f64 = 3600.0;

/// One line of a ledger.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Record<'a> {
    /// The format's version; see [`VERSION`].
    pub v: u32,
    /// When it was written, in Unix seconds.
    pub at: f64,
    /// The run that wrote it; none in a sum.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Cow<'a, str>>,
    /// The command that it is charged to.
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    /// What it tells.
    pub kind: Kind,
    /// Of a start: the tokens that the run is expected to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
    /// Of a start: the micro-dollars that the run is expected to cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_micro_usd: Option<u64>,
    /// Of spend and sums: the tokens of each model.
    #[serde(borrow, default, skip_serializing_if = "Models::is_empty")]
    pub models: Models<'a>,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A run has been admitted.
    Start,
    /// All that a run has used so far.
    Spend,
    /// A run has ended.
    End,
    /// What runs used that are not in the ledger one by one any more.
    Sum,
}

/// Tokens by model, in the order of the record.
#[derive(Clone, Debug, Default)]
pub struct Models<'a>(pub Vec<(Cow<'a, str>, Spend)>);

impl Models<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Models<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, tokens)| (name, tokens)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Models<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Models<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens by model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Models<'de>, A::Error> {
                let mut models = Vec::new();
                while let Some((Name(name), tokens)) = map.next_entry()? {
                    models.push((name, tokens));
                }
                Ok(Models(models))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A name that borrows from the line where it can.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a ledger's records add up to.
#[derive(Debug, Default)]
pub struct Book {
    /// The runs that have not ended, and the last that have.
    runs: HashMap<String, Entry>,
    ended: VecDeque<String>,
    commands: Vec<Command>,
    models: Vec<(String, Spend)>,
    /// Single spends, as far back as anybody asks, in the order in which they came.
    spends: VecDeque<Spent>,
    /// What commands used in spans of time that end at these Unix seconds, summed up elsewhere.
    #[cfg(feature = "redis")]
    spans: BTreeMap<(u64, usize), Spend>,
    /// How far back that is, in seconds.
    keep: f64,
    /// Lines that are no records.
    broken: u64,
    /// A record has a version that is not known here.
    foreign: bool,
    lines: u64,
    /// Lines of runs that have ended.
    history: u64,
}

/// A run.
#[derive(Debug, Default)]
struct Entry {
    command: usize,
    estimate: Sum,
    spent: Vec<(usize, Spend)>,
    lines: u64,
    ended: bool,
}

/// A command's name and what it used.
#[derive(Debug, Default)]
struct Command {
    name: Option<String>,
    sum: Spend,
}

/// What was spent at one time.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: f64,
    command: usize,
    tokens: Spend,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// Its id.
    pub id: String,
    /// The command that it is charged to.
    pub name: Option<String>,
    /// What it expected to use and has not used.
    pub reserved: Sum,
}

impl Book {
    /// An empty book that remembers single spends for `window` seconds, and for as long as the pace
    /// is taken over.
    #[must_use]
    pub fn new(window: Option<f64>) -> Self {
        Book { keep: window.unwrap_or(0.0).max(PACE_OVER), ..Book::default() }
    }

    /// Takes a line in, without its newline. `now` is the time in Unix seconds: what claims to be
    /// later is taken as of now.
    pub fn take(&mut self, line: &[u8], now: f64) {
        if line.is_empty() {
            return;
        }
        self.lines += 1;
        let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else {
            // A version to come may look different altogether.
            let version = serde_json::from_slice::<Version>(line).map(|record| record.v);
            match version {
                Ok(v) if v != VERSION => self.foreign = true,
                _ => self.broken += 1,
            }
            return;
        };
        if record.v != VERSION {
            self.foreign = true;
            return;
        }
        let at = record.at.min(now);
        let command = self.command(record.name.as_deref());
        let Some(run) = record.run else {
            for (name, tokens) in &record.models.0 {
                let model = index(&mut self.models, name);
                self.add(command, model, *tokens);
            }
            self.spend(at, now, command, total(&record.models));
            return;
        };
        if !self.runs.contains_key(run.as_ref()) {
            self.runs.insert(run.to_string(), Entry::default());
        }
        let Some(entry) = self.runs.get_mut(run.as_ref()) else { return };
        entry.command = command;
        entry.lines += 1;
        if record.kind == Kind::Start {
            let (tokens, micro_usd) = (record.estimate, record.estimate_micro_usd);
            entry.estimate = Sum { tokens: tokens.unwrap_or(0), micro_usd: micro_usd.unwrap_or(0) };
        }
        let mut parts = Vec::new();
        for (name, tokens) in &record.models.0 {
            let model = index(&mut self.models, name);
            parts.push((model, entry.raise(model, *tokens)));
        }
        if entry.ended {
            self.history += 1;
        } else if record.kind == Kind::End {
            entry.ended = true;
            self.history += entry.lines;
            self.ended.push_back(run.into_owned());
            if self.ended.len() > ENDED_MAX
                && let Some(oldest) = self.ended.pop_front()
            {
                self.runs.remove(&oldest);
            }
        }
        let mut more = Spend::default();
        for (model, part) in parts {
            self.add(command, model, part);
            more = more.plus(part);
        }
        self.spend(at, now, command, more);
    }

    /// All that was used since `since` seconds ago, or ever; by `name`'s command, or by all.
    #[must_use]
    pub fn used(&self, name: Option<&str>, since: Option<f64>, now: f64) -> Spend {
        let wanted = |command: usize| name.is_none() || self.commands[command].name.as_deref() == name;
        let sum = |sum: Spend, tokens: Spend| sum.plus(tokens);
        match since {
            None => {
                let commands = self.commands.iter().enumerate().filter(|(at, _)| wanted(*at));
                commands.map(|(_, command)| command.sum).fold(Spend::default(), sum)
            }
            Some(since) => {
                let spends = self.spent().filter(|spent| wanted(spent.command) && spent.at > now - since);
                spends.map(|spent| spent.tokens).fold(Spend::default(), sum)
            }
        }
    }

    /// Seconds until no more than `limit` of what was used in the window is left in it, as `of`
    /// measures it; `None` where that is so already.
    #[must_use]
    pub fn room_in(
        &self,
        name: Option<&str>,
        window: f64,
        limit: u64,
        of: impl Fn(&Spend) -> u64,
        now: f64,
    ) -> Option<f64> {
        let wanted = |spent: &Spent| name.is_none() || self.commands[spent.command].name.as_deref() == name;
        let mut spends: Vec<_> = self.spent().filter(wanted).filter(|spent| spent.at > now - window).collect();
        spends.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mut left = spends.iter().fold(0, |sum: u64, spent| sum.saturating_add(of(&spent.tokens)));
        let mut at = None;
        for spent in spends {
            if left <= limit {
                break;
            }
            left = left.saturating_sub(of(&spent.tokens));
            at = Some(spent.at + window - now);
        }
        at
    }

    /// What a run has used, as far as the book knows.
    #[must_use]
    pub fn spent_by(&self, run: &str) -> Spend {
        self.runs.get(run).map(Entry::sum).unwrap_or_default()
    }

    /// The runs that have not ended, with what they hold in tokens of `classes`.
    #[must_use]
    pub fn open_runs(&self, classes: Classes) -> Vec<OpenRun> {
        let open = self.runs.iter().filter(|(_, entry)| !entry.ended);
        open.map(|(id, entry)| OpenRun {
            id: id.clone(),
            name: self.commands[entry.command].name.clone(),
            reserved: entry.estimate.less(Sum::of(&entry.sum(), classes)),
        })
        .collect()
    }

    /// Every command's name with what it used ever, in the order in which they were first seen.
    pub fn by_command(&self) -> impl Iterator<Item = (Option<&str>, Spend)> {
        self.commands.iter().map(|command| (command.name.as_deref(), command.sum))
    }

    /// Every model's name with what was used of it ever, in the order in which they were first seen.
    #[must_use]
    pub fn by_model(&self) -> Vec<(&str, Spend)> {
        self.models.iter().map(|(name, sum)| (name.as_str(), *sum)).collect()
    }

    /// How many lines were no records.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Whether there are records of a version that is not known here.
    #[must_use]
    pub fn has_foreign(&self) -> bool {
        self.foreign
    }

    /// Whether so much of the ledger is history that it is worth summing up.
    #[must_use]
    pub fn is_mostly_history(&self) -> bool {
        !self.foreign && self.history >= 1000 && self.history * 4 >= self.lines * 3
    }

    /// Whether a run's records stay when history is summed up: it has not ended.
    #[must_use]
    pub fn is_open(&self, run: &str) -> bool {
        self.runs.get(run).is_some_and(|entry| !entry.ended)
    }

    fn spend(&mut self, at: f64, now: f64, command: usize, tokens: Spend) {
        while self.spends.front().is_some_and(|oldest| oldest.at <= now - self.keep) {
            self.spends.pop_front();
        }
        if !tokens.is_zero() && at > now - self.keep {
            self.spends.push_back(Spent { at, command, tokens });
        }
    }

    /// What was spent when.
    fn spent(&self) -> impl Iterator<Item = Spent> {
        self.spends.iter().copied().chain(self.spans())
    }

    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, reason = "with the feature, a server sums up")]
    fn spans(&self) -> impl Iterator<Item = Spent> {
        std::iter::empty()
    }

    fn add(&mut self, command: usize, model: usize, tokens: Spend) {
        let (_, of_model) = &mut self.models[model];
        *of_model = of_model.plus(tokens);
        let of_command = &mut self.commands[command].sum;
        *of_command = of_command.plus(tokens);
    }

    fn command(&mut self, name: Option<&str>) -> usize {
        self.commands.iter().position(|command| command.name.as_deref() == name).unwrap_or_else(|| {
            self.commands.push(Command { name: name.map(str::to_owned), ..Command::default() });
            self.commands.len() - 1
        })
    }
}

/// What a server sums up.
#[cfg(feature = "redis")]
impl Book {
    /// Takes in what a command used ever, as it was summed up elsewhere.
    pub fn set_command(&mut self, name: Option<&str>, sum: Spend) {
        let command = self.command(name);
        self.commands[command].sum = sum;
    }

    /// Takes in what was used of a model ever, as it was summed up elsewhere.
    pub fn set_model(&mut self, name: &str, sum: Spend) {
        let model = index(&mut self.models, name);
        self.models[model].1 = sum;
    }

    /// Takes in what a command used in a span of time that ends at `end`, in Unix seconds, as it was
    /// summed up elsewhere.
    pub fn set_span(&mut self, name: Option<&str>, end: u64, sum: Spend, now: f64) {
        let command = self.command(name);
        while self.spans.first_key_value().is_some_and(|((oldest, _), _)| seconds(*oldest) <= now - self.keep) {
            self.spans.pop_first();
        }
        if seconds(end) > now - self.keep {
            self.spans.insert((end, command), sum);
        }
    }

    fn spans(&self) -> impl Iterator<Item = Spent> {
        self.spans.iter().map(|((end, command), tokens)| Spent {
            at: seconds(*end),
            command: *command,
            tokens: *tokens,
        })
    }
}

#[cfg(feature = "redis")]
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
fn seconds(at: u64) -> f64 {
    at as f64
}

/// What any version's records have.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Entry {
    /// Raises what the run used of a model, and returns by how much.
    fn raise(&mut self, model: usize, tokens: Spend) -> Spend {
        match self.spent.iter_mut().find(|(known, _)| *known == model) {
            Some((_, before)) => {
                let more = tokens.less(*before);
                *before = before.max(tokens);
                more
            }
            None => {
                self.spent.push((model, tokens));
                tokens
            }
        }
    }

    fn sum(&self) -> Spend {
        self.spent.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens))
    }
}

fn total(models: &Models<'_>) -> Spend {
    models.0.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens))
}

fn index(models: &mut Vec<(String, Spend)>, name: &str) -> usize {
    models.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        models.push((name.to_owned(), Spend::default()));
        models.len() - 1
    })
}
