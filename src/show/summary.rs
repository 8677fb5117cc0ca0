//! The summary: what a run came to, as JSON for scripts.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::amount::{Unit, micro};
use crate::budget::Budget;
use crate::count::tokens::Spend;
use crate::error::Exit;
use crate::run::Run;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The stream ended, within all budgets.
    Completed,
    /// The stream ended, and a budget was exceeded on the way.
    Exceeded,
    /// Block mode stopped it.
    Stopped,
    /// Block mode did not let it start.
    Refused,
    /// A signal, a failure, or the reader of stdout ended it.
    Interrupted,
}

impl Outcome {
    /// The outcome of a run that ends with `exit`.
    #[must_use]
    pub fn of(run: &Run, exit: Exit) -> Outcome {
        match exit {
            Exit::Tripped => Outcome::Stopped,
            Exit::Refused => Outcome::Refused,
            Exit::Child(126 | 127) if !run.meter.usage_seen() => Outcome::Interrupted,
            Exit::Done | Exit::Child(_) if run.budgets.exceeded().is_some() => Outcome::Exceeded,
            Exit::Done | Exit::Child(_) => Outcome::Completed,
            Exit::Failed | Exit::CannotRun | Exit::NotFound | Exit::ReaderGone | Exit::Signal(_) => {
                Outcome::Interrupted
            }
        }
    }
}

/// What stopped a run that block mode stopped: a budget, a model without a price, or a ledger that is
/// out of reach.
fn stopped_by(run: &Run, exit: Exit) -> Option<&'static str> {
    match Outcome::of(run, exit) {
        Outcome::Stopped if run.was_cut().is_some() => Some("ledger"),
        Outcome::Stopped if run.budgets.exceeded().is_none() => Some("unpriced"),
        Outcome::Stopped => Some("budget"),
        _ => None,
    }
}

/// A figure in its unit: whole tokens, or dollars.
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
            Unit::Usd => Figure::Dollars(micro(value)),
        }
    }
}

/// A run's summary, for scripts. Times are Unix seconds, sums are tokens.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    v: u32,
    outcome: Outcome,
    exit_code: i32,
    name: Option<&'a str>,
    mode: &'static str,
    stopped_by: Option<&'static str>,
    lower_bound: bool,
    tokens: Counted,
    usd: f64,
    models: BTreeMap<&'a str, Spend>,
    unpriced: Vec<&'a str>,
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

/// The summary as one line of JSON with its newline.
///
/// # Errors
/// Where the values cannot be written as JSON, which their types rule out.
pub fn summary(run: &Run, exit: Exit, started: SystemTime, ended: SystemTime) -> serde_json::Result<Vec<u8>> {
    let seconds = |at: SystemTime| {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_secs_f64() * 1000.0).round() / 1000.0
    };
    let total = run.meter.total();
    let summary = Summary {
        v: 1,
        outcome: Outcome::of(run, exit),
        exit_code: exit.code(),
        name: run.name.as_deref(),
        mode: run.mode.name(),
        stopped_by: stopped_by(run, exit),
        lower_bound: run.meter.is_lower_bound(),
        tokens: Counted {
            input: total.input,
            output: total.output,
            cache_write: total.cache_write,
            cache_read: total.cache_read,
            counted: run.counted(),
        },
        usd: micro(total.micro_usd),
        models: run.meter.by_model().into_iter().collect(),
        unpriced: run.meter.unpriced().collect(),
        budgets: run.budgets.all().iter().map(BudgetFacts::of).collect(),
        lines: run.lines(),
        bytes: run.bytes,
        messages: run.meter.messages(),
        started_at: seconds(started),
        ended_at: seconds(ended),
    };
    let mut json = serde_json::to_vec(&summary)?;
    json.push(b'\n');
    Ok(json)
}
