//! The status report: how the budgets of a ledger stand, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::amount::{Unit, exact, human, in_full, micro};
use crate::budget::{Budget, Budgets, Sum};
use crate::count::tokens::{Classes, Spend};
use crate::ledger::book::{Book, OpenRun, PACE_OVER};
use crate::show::report::{Style, budget_lines, classes_line, label, model_lines, span};
use crate::show::summary::BudgetFacts;

/// A ledger's state, as far as a report needs it. Spans are in seconds.
#[derive(Debug)]
pub struct Status<'a> {
    /// What the ledger adds up to.
    pub book: &'a Book,
    /// The runs that are alive.
    pub alive: &'a [OpenRun],
    /// The budgets, with what is used of each.
    pub budgets: &'a Budgets,
    /// Which tokens count.
    pub classes: Classes,
    /// How far back spend binds.
    pub window: Option<f64>,
    /// The time in Unix seconds.
    pub now: f64,
}

impl Status<'_> {
    /// What counts of what was spent over the last hour.
    fn pace(&self) -> Sum {
        Sum::of(&self.book.used(None, Some(PACE_OVER), self.now), self.classes)
    }

    /// Seconds until a budget is spent at the present pace of what is charged to it.
    fn spent_in(&self, budget: &Budget) -> Option<f64> {
        let used = self.book.used(budget.command.as_deref(), Some(PACE_OVER), self.now);
        #[expect(clippy::cast_precision_loss, reason = "an estimate for reading")]
        let (pace, left) = (Sum::of(&used, self.classes).unit(budget.unit) as f64, budget.remaining() as f64);
        (pace > 0.0 && budget.remaining() > 0).then(|| left / pace * PACE_OVER)
    }

    /// Seconds until a budget that is used up has room again, where a window forgets.
    fn room_in(&self, budget: &Budget) -> Option<f64> {
        let below = budget.limit.saturating_sub(1);
        let name = budget.command.as_deref();
        let of = |spend: &Spend| Sum::of(spend, self.classes).unit(budget.unit);
        self.window.and_then(|window| self.book.room_in(name, window, below, of, self.now))
    }

    fn reserved(&self) -> Sum {
        self.alive.iter().fold(Sum::default(), |sum, run| sum.plus(run.reserved))
    }

    /// What every command used that has no budget, most first.
    fn other_commands(&self) -> Vec<(&str, u64)> {
        let known = |name: &str| self.budgets.all().iter().any(|budget| budget.command.as_deref() == Some(name));
        let mut others: Vec<_> = self
            .book
            .by_command()
            .filter_map(|(name, _)| name)
            .filter(|name| !known(name))
            .map(|name| (name, self.classes.count(&self.book.used(Some(name), self.window, self.now))))
            .collect();
        others.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        others
    }
}

/// The report for people.
#[must_use]
pub fn text(status: &Status<'_>, title: &str, style: Style) -> String {
    let total = status.book.used(None, status.window, status.now);
    let counted = status.classes.count(&total);
    let mut out = String::new();
    let window = status.window.map_or(String::new(), |window| format!(", last {}", span(window)));
    let _ = writeln!(out, "budget-tee: ledger {title}{window}");
    for line in budget_lines(status.budgets.all().iter(), counted, |_| false, style) {
        let _ = writeln!(out, "{line}");
    }
    if !status.budgets.all().is_empty() {
        let _ = writeln!(out, "total     {}", human(Unit::Tokens, counted));
    }
    let _ = writeln!(out, "cost      {}", human(Unit::Usd, total.micro_usd));
    out.push_str(&classes_line(&total, status.classes));
    let models = status.book.by_model();
    if status.window.is_some() && models.iter().any(|(_, tokens)| !tokens.is_zero()) {
        out.push_str("models    since the beginning\n");
    }
    out.push_str(&model_lines(&models, style));
    for (name, used) in status.other_commands() {
        let _ = writeln!(out, "command   {} {}", label(name, 40, style), human(Unit::Tokens, used));
    }
    let alive = status.alive.len();
    let holding = if alive > 0 { format!(", holding {}", both(status.reserved())) } else { String::new() };
    let _ = writeln!(out, "alive     {alive} run{}{holding}", if alive == 1 { "" } else { "s" });
    let _ = writeln!(out, "pace      {} in the last hour", both(status.pace()));
    for budget in status.budgets.all() {
        let name = label(budget.name(), 24, style);
        let left = format!("left      {name} {}", in_full(budget.unit, budget.remaining()));
        let then = match (status.room_in(budget), status.spent_in(budget)) {
            (Some(room), _) if budget.remaining() == 0 => format!(", room again in {}", span(room)),
            (_, Some(spent)) => format!(", spent in {} at this pace", span(spent)),
            _ => String::new(),
        };
        let _ = writeln!(out, "{left}{then}");
    }
    if status.book.broken() > 0 {
        let _ = writeln!(out, "broken    {} lines are no records and do not count", exact(status.book.broken()));
    }
    out
}

/// Tokens, and dollars where there are any.
fn both(sum: Sum) -> String {
    let tokens = human(Unit::Tokens, sum.tokens);
    if sum.micro_usd > 0 { format!("{tokens} and {}", human(Unit::Usd, sum.micro_usd)) } else { tokens }
}

/// The report for scripts. Tokens are those used in the window; models are counted since the beginning.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    v: u32,
    ledger: &'a str,
    window_seconds: Option<f64>,
    exceeded: bool,
    tokens: Spend,
    counted: u64,
    usd: f64,
    models: BTreeMap<&'a str, Spend>,
    budgets: Vec<BudgetStatus<'a>>,
    commands: BTreeMap<&'a str, u64>,
    alive: Vec<Alive<'a>>,
    reserved: u64,
    reserved_usd: f64,
    tokens_last_hour: u64,
    usd_last_hour: f64,
    broken_lines: u64,
    at: f64,
}

#[derive(Debug, Serialize)]
struct BudgetStatus<'a> {
    #[serde(flatten)]
    facts: BudgetFacts<'a>,
    spent_in_seconds: Option<f64>,
    room_in_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Alive<'a> {
    run: &'a str,
    name: Option<&'a str>,
    reserved: u64,
    reserved_usd: f64,
}

/// The report as one line of JSON with its newline.
///
/// # Errors
/// Where the values cannot be written as JSON, which their types rule out.
pub fn json(status: &Status<'_>, ledger: &str) -> serde_json::Result<Vec<u8>> {
    let tokens = status.book.used(None, status.window, status.now);
    let commands = status.book.by_command().filter_map(|(name, _)| name);
    let used = |name| status.classes.count(&status.book.used(Some(name), status.window, status.now));
    let facts = Facts {
        v: 1,
        ledger,
        window_seconds: status.window,
        exceeded: status.budgets.all().iter().any(Budget::is_exceeded),
        tokens,
        counted: status.classes.count(&tokens),
        usd: micro(tokens.micro_usd),
        models: status.book.by_model().into_iter().collect(),
        budgets: status
            .budgets
            .all()
            .iter()
            .map(|budget| BudgetStatus {
                facts: BudgetFacts::of(budget),
                spent_in_seconds: status.spent_in(budget),
                room_in_seconds: status.room_in(budget),
            })
            .collect(),
        commands: commands.map(|name| (name, used(name))).collect(),
        alive: status
            .alive
            .iter()
            .map(|run| Alive {
                run: &run.id,
                name: run.name.as_deref(),
                reserved: run.reserved.tokens,
                reserved_usd: micro(run.reserved.micro_usd),
            })
            .collect(),
        reserved: status.reserved().tokens,
        reserved_usd: micro(status.reserved().micro_usd),
        tokens_last_hour: status.pace().tokens,
        usd_last_hour: micro(status.pace().micro_usd),
        broken_lines: status.book.broken(),
        at: (status.now * 1000.0).round() / 1000.0,
    };
    let mut json = serde_json::to_vec(&facts)?;
    json.push(b'\n');
    Ok(json)
}
