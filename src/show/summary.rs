//! The summary of a run, as JSON for scripts.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::amount::{Unit, dollars};
use crate::budget::{Budget, Mode};
use crate::count::tokens::{Spend, Tokens};
use crate::error::{Exit, Outcome};
use crate::run::{Run, StopReason};

/// A figure in its unit: whole tokens, or dollars.
// Not a float for both: a script that compares tokens must see 5000 and not 5000.0.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Figure {
    Tokens(u64),
    Dollars(f64),
}

impl Figure {
    pub(crate) fn of(unit: Unit, value: u64) -> Figure {
        match unit {
            Unit::Tokens => Figure::Tokens(value),
            Unit::Usd => Figure::Dollars(dollars(value)),
        }
    }
}

/// A run's summary. Times are Unix seconds.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    v: u32,
    outcome: Outcome,
    exit_code: i32,
    /// The signal that ended the run, by its name.
    signal: Option<&'static str>,
    name: Option<&'a str>,
    /// Who wrote the stream, where that is known.
    agent: Option<&'static str>,
    mode: Mode,
    stopped_by: Option<StopReason>,
    lower_bound: bool,
    tokens: Counted,
    usd: f64,
    models: BTreeMap<&'a str, Spend>,
    unpriced: Vec<&'a str>,
    /// What they were priced as.
    unpriced_as: Option<&'a str>,
    budgets: Vec<BudgetFacts<'a>>,
    lines: u64,
    bytes: u64,
    messages: u64,
    started_at: f64,
    ended_at: f64,
}

#[derive(Debug, Serialize)]
struct Counted {
    input: u64,
    output: u64,
    cache_write: u64,
    cache_read: u64,
    /// What counts towards the budgets: the sum of the classes that `--count` chose.
    counted: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct BudgetFacts<'a> {
    name: &'a str,
    unit: String,
    limit: Figure,
    used: Figure,
    remaining: Figure,
    percent: u64,
    exceeded: bool,
}

impl BudgetFacts<'_> {
    pub(crate) fn of(budget: &Budget) -> BudgetFacts<'_> {
        BudgetFacts {
            name: budget.name(),
            unit: budget.unit.to_string(),
            limit: Figure::of(budget.unit, budget.limit),
            used: Figure::of(budget.unit, budget.used),
            remaining: Figure::of(budget.unit, budget.remaining()),
            percent: budget.percent(),
            exceeded: budget.is_exceeded(),
        }
    }
}

/// The summary as one line of JSON.
pub fn summary(run: &Run, exit: Exit, started: SystemTime, ended: SystemTime) -> serde_json::Result<Vec<u8>> {
    let Spend { tokens: Tokens { input, output, cache_write, cache_read }, micro_usd } = run.meter.total();
    let outcome = Outcome::of(exit, run.budgets.exceeded().is_some(), run.meter.usage_seen());
    let by_model = run.meter.by_model();
    let unpriced: Vec<_> = run.meter.unpriced().collect();
    let unpriced_as = run.meter.prices().stand_in().filter(|_| !unpriced.is_empty());
    json_line(&Summary {
        v: 1,
        outcome,
        exit_code: exit.code(),
        signal: exit.signal(),
        name: run.name.as_deref(),
        agent: run.agent(),
        mode: run.mode,
        // A signal or a failure may end a run that was being stopped.
        stopped_by: run.stop_reason().filter(|_| outcome == Outcome::Stopped),
        lower_bound: run.meter.is_lower_bound(),
        tokens: Counted { input, output, cache_write, cache_read, counted: run.counted() },
        usd: dollars(micro_usd),
        models: by_model.iter().map(|(model, spend)| (model.as_str(), *spend)).collect(),
        unpriced,
        unpriced_as,
        budgets: run.budgets.all().iter().map(BudgetFacts::of).collect(),
        lines: run.lines(),
        bytes: run.bytes(),
        messages: run.meter.messages(),
        started_at: unix(started),
        ended_at: unix(ended),
    })
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = serde_json::to_vec(value)?;
    // One line, so that summaries that are appended to one file are a stream for jq.
    json.push(b'\n');
    Ok(json)
}

/// A time in Unix seconds, to the millisecond.
fn unix(at: SystemTime) -> f64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}
