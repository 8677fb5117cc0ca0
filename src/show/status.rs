//! The status report: how the budgets of a ledger stand, for people and for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::amount::{Amounts, Unit, dollars, human, in_full};
use crate::budget::{Budget, Budgets};
use crate::count::tokens::{Classes, Counts, Spend};
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::window::Window;
use crate::run::Run;
use crate::show::bar::{NAME_MAX, budget_lines};
use crate::show::report::{classes_line, model_lines};
use crate::show::summary::{BudgetFacts, json_line};
use crate::show::text::{Style, plural, seconds, wrapped};

/// A ledger's state, as far as a report needs it.
pub struct Status<'a> {
    book: &'a Book,
    /// The runs that are alive.
    alive: Vec<OpenRun>,
    /// The budgets, with what is used of each.
    budgets: &'a Budgets,
    classes: Classes,
    /// Of what time spend counts; `None` for all of it.
    window: Option<Window>,
    /// What each command spent in that time.
    by_command: BTreeMap<&'a str, Spend>,
    /// The time in Unix seconds.
    now: f64,
}

impl<'a> Status<'a> {
    /// The state of a ledger that adds up to `book`, with the budgets and classes of `run`.
    pub fn new(book: &'a Book, alive: Vec<OpenRun>, run: &'a mut Run, window: Option<Window>, now: f64) -> Self {
        let classes = run.classes;
        // What it was asked for comes before what the ledger keeps.
        run.budgets.add_missing(book.limits().all().map(|limit| (limit.name.as_deref(), limit.amount)));
        run.budgets.grant(|name| book.granted(name, now));
        run.budgets.set_all(|name| Amounts::of(&book.used(name, now), classes));
        let by_command = book.used_by_each(now).filter_map(|(name, spend)| Some((name?, spend))).collect();
        Status { book, alive, budgets: &run.budgets, classes, window, by_command, now }
    }

    /// What was spent in the window by all.
    fn spent(&self) -> Spend {
        self.book.used(None, self.now)
    }

    /// What was used lately, by a command or by all, and in how many seconds.
    // Of the last hour, window or not: a run comes in bursts, and minutes would tell nothing. A ledger may be
    // younger.
    fn pace(&self, command: Option<&str>) -> (Amounts, f64) {
        let (spend, over) = self.book.pace(command, self.now);
        (Amounts::of(&spend, self.classes), over)
    }

    /// Seconds until a budget is used up at the present pace.
    fn spent_in(&self, budget: &Budget) -> Option<f64> {
        let (pace, over) = self.pace(budget.command.as_deref());
        let pace = pace.get(budget.unit);
        #[expect(clippy::cast_precision_loss, reason = "an estimate for reading")]
        let (tokens, left) = (pace as f64, budget.remaining() as f64);
        (pace > 0 && budget.remaining() > 0).then(|| left / tokens * over)
    }

    /// Seconds until a budget that is used up has room again, as the window moves on or begins anew.
    fn room_in(&self, budget: &Budget) -> Option<f64> {
        // At the limit itself there is no room yet.
        let below = budget.limit.saturating_sub(1);
        let of = |spend: &Spend| Amounts::of(spend, self.classes).get(budget.unit);
        self.book.room_in(budget.command.as_deref(), below, of, self.now)
    }

    fn reserved(&self) -> Amounts {
        self.alive.iter().fold(Amounts::default(), |sum, run| sum.plus(run.reserved))
    }

    fn commands(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_command.iter().map(|(name, spend)| (*name, self.classes.count(&spend.tokens)))
    }

    /// The commands without a budget, the one that used most first.
    fn other_commands(&self) -> Vec<(&str, u64)> {
        let known: BTreeSet<_> = self.budgets.all().iter().filter_map(|budget| budget.command.as_deref()).collect();
        let mut others: Vec<_> = self.commands().filter(|(name, _)| !known.contains(name)).collect();
        others.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        others
    }

    /// Whether any budget is exceeded.
    pub fn is_exceeded(&self) -> bool {
        self.budgets.all().iter().any(Budget::is_exceeded)
    }
}

/// The report for people.
pub fn text(status: &Status<'_>, title: &str, style: Style) -> String {
    let total = status.spent();
    let counted = status.classes.count(&total.tokens);
    let window = status.window.as_ref().map_or(String::new(), |window| format!(", {}", window.describe(status.now)));
    let mut out = format!("budget-tee: ledger {title}{window}\n");
    for line in budget_lines(status.budgets.all().iter(), counted, |_| false, style) {
        let _ = writeln!(out, "{line}");
    }
    if !status.budgets.all().is_empty() {
        let _ = writeln!(out, "total     {}", human(Unit::Tokens, counted));
    }
    let _ = writeln!(out, "cost      {}", human(Unit::Usd, total.micro_usd));
    out.push_str(&classes_line(&total.tokens, status.classes));
    let models = status.book.by_model();
    if status.window.is_some() && !models.sum().is_zero() {
        // What was spent when is kept by command only: by model too, it would be as many sums again.
        out.push_str("models    since the beginning\n");
    }
    out.push_str(&model_lines(&models, style));
    for (name, used) in status.other_commands() {
        let _ = writeln!(out, "command   {} {}", style.label(name, 40), human(Unit::Tokens, used));
    }
    let alive = status.alive.len() as u64;
    let reserved = if alive > 0 { format!(", reserved {}", both(status.reserved())) } else { String::new() };
    let _ = writeln!(out, "alive     {}{reserved}", plural(alive, "run"));
    let (pace, over) = status.pace(None);
    let _ = writeln!(out, "pace      {} in the last {}", both(pace), seconds(over));
    for budget in status.budgets.all() {
        let _ = writeln!(out, "{}", left(status, budget, style));
    }
    if status.book.broken() > 0 {
        let _ = writeln!(
            out,
            "broken    {} that are not records and are not counted",
            plural(status.book.broken(), "line")
        );
    }
    wrapped(&out, style.width)
}

/// What is left of a budget, and for how long.
fn left(status: &Status<'_>, budget: &Budget, style: Style) -> String {
    let then = match (status.room_in(budget), status.spent_in(budget)) {
        (Some(room), _) if budget.remaining() == 0 => format!(", room again in {}", seconds(room)),
        (_, Some(spent)) => format!(", spent in {} at this pace", seconds(spent)),
        _ => String::new(),
    };
    format!("left      {} {}{then}", style.label(budget.name(), NAME_MAX), in_full(budget.unit, budget.remaining()))
}

/// Tokens, and dollars where there are any.
fn both(amounts: Amounts) -> String {
    let tokens = human(Unit::Tokens, amounts.tokens);
    match amounts.micro_usd {
        0 => tokens,
        micro_usd => format!("{tokens} and {}", human(Unit::Usd, micro_usd)),
    }
}

/// The report for scripts. Tokens are those of the window; models are counted since the beginning.
// Its keys are a promise to scripts: they have names of their own here, whatever the code calls them.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    v: u32,
    ledger: &'a str,
    window_seconds: Option<f64>,
    period: Option<&'static str>,
    resets_at: Option<f64>,
    exceeded: bool,
    tokens: Spend,
    counted: u64,
    usd: f64,
    models: BTreeMap<&'a str, Spend>,
    budgets: Vec<BudgetStatus<'a>>,
    commands: BTreeMap<&'a str, u64>,
    alive: Vec<AliveRun<'a>>,
    reserved: u64,
    reserved_usd: f64,
    tokens_last_hour: u64,
    usd_last_hour: f64,
    pace_seconds: f64,
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
struct AliveRun<'a> {
    run: &'a str,
    name: Option<&'a str>,
    reserved: u64,
    reserved_usd: f64,
}

/// The report as one line of JSON.
pub fn json<'a>(status: &'a Status<'_>, ledger: &str) -> serde_json::Result<Vec<u8>> {
    let total = status.spent();
    let budget_status = |budget| BudgetStatus {
        facts: BudgetFacts::of(budget),
        spent_in_seconds: status.spent_in(budget),
        room_in_seconds: status.room_in(budget),
    };
    let alive = |OpenRun { id, name, reserved }: &'a OpenRun| AliveRun {
        run: id,
        name: name.as_deref(),
        reserved: reserved.tokens,
        reserved_usd: dollars(reserved.micro_usd),
    };
    let (reserved, (pace, over)) = (status.reserved(), status.pace(None));
    let models = status.book.by_model();
    let bounds = status.window.as_ref().map(|window| window.bounds(status.now));
    json_line(&Facts {
        v: 1,
        ledger,
        window_seconds: bounds.map(|(from, _)| status.now - from),
        period: status.window.as_ref().and_then(Window::period),
        resets_at: bounds.and_then(|(_, until)| until),
        exceeded: status.is_exceeded(),
        tokens: total,
        counted: status.classes.count(&total.tokens),
        usd: dollars(total.micro_usd),
        models: models.iter().map(|(model, spend)| (model.as_str(), *spend)).collect(),
        budgets: status.budgets.all().iter().map(budget_status).collect(),
        commands: status.commands().collect(),
        alive: status.alive.iter().map(alive).collect(),
        reserved: reserved.tokens,
        reserved_usd: dollars(reserved.micro_usd),
        tokens_last_hour: pace.tokens,
        usd_last_hour: dollars(pace.micro_usd),
        pace_seconds: over,
        broken_lines: status.book.broken(),
        at: (status.now * 1000.0).round() / 1000.0,
    })
}
