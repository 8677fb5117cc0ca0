//! What people read: bars, notices, and the final report.
//!
//! All of it is made from values; who writes it where is [`crate::show::screen`]'s and the watch's.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::amount::{Unit, exact, human, in_full};
use crate::budget::{Budget, Cause, Mode};
use crate::count::meter::Finding;
use crate::count::price::Unpriced;
use crate::count::tokens::{Class, Classes, Spend};
use crate::error::Exit;
use crate::run::{Cut, Notice, Run};
use crate::show::summary::Outcome;

/// Cells of a bar where there is room for all.
const CELLS: usize = 20;

/// A bar with fewer cells than these shows nothing.
const CELLS_MIN: usize = 3;

/// The longest name shown in full, and the room that names have in any case, in columns.
const NAME_MAX: usize = 24;
const NAME_MIN: usize = 9;

/// How a terminal, or whatever stderr is, shows things.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether escape codes for colour are wanted.
    pub color: bool,
    /// Whether the locale is UTF-8; otherwise only ASCII is shown.
    pub unicode: bool,
    /// Columns there are.
    pub width: usize,
}

/// What is to be seen of the budgets now.
#[derive(Debug, Default)]
pub struct Frame {
    /// A line per budget in force, no longer than the width.
    pub lines: Vec<String>,
    /// How many tenths of each are used; empty where nothing is limited.
    pub tenths: Vec<u64>,
}

/// Text from outside, without anything that could steer a terminal: control characters, C1 and
/// bidirectional controls among them.
#[must_use]
pub fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| !steers(*c)).collect()
}

/// `text` cut to `width` columns.
fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

/// The system's words for an error, without the number.
#[must_use]
pub fn reason(error: impl Into<std::io::Error>) -> String {
    without_number(&error.into().to_string())
}

/// An error's text without the number that the standard library adds.
#[must_use]
pub fn without_number(text: &str) -> String {
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A span of time as people read it: `45s`, `12m`, `5h 30m`, `3d 2h`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
pub(crate) fn span(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    let two = |whole: u64, unit: &str, part: u64, sub: &str| {
        if part == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit} {part}{sub}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A text from outside as this screen can show it.
fn shown(text: &str, style: Style) -> String {
    let cleaned = clean(text);
    if cleaned.is_empty() && !text.is_empty() {
        return "?".to_owned();
    }
    if style.unicode { cleaned } else { cleaned.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect() }
}

/// A name cut to `width` columns.
pub(crate) fn label(name: &str, width: usize, style: Style) -> String {
    let name = shown(name, style);
    if name.width() <= width {
        return name;
    }
    let dots = if style.unicode { "…" } else { "~" };
    cut(&name, width.saturating_sub(1)) + dots
}

/// What to show while the run goes on: a line per budget that binds it, or the bare total.
#[must_use]
pub fn frame(run: &Run, style: Style) -> Frame {
    let binding = run.budgets.all().iter().filter(|budget| budget.binds);
    Frame {
        lines: budget_lines(binding.clone(), run.counted(), |budget| is_bound(run, budget), style),
        tenths: binding.map(|budget| budget.percent().min(100) / 10).collect(),
    }
}

/// Whether what is used of a budget, or of none, is a lower bound.
fn is_bound(run: &Run, budget: Option<&Budget>) -> bool {
    budget.is_none_or(|budget| budget.binds) && run.meter.is_lower_bound()
}

/// A line per budget, or the bare total of what is `counted` where there is none. `is_bound` tells
/// whether what is used of it is a lower bound.
pub(crate) fn budget_lines<'a>(
    budgets: impl Iterator<Item = &'a Budget> + Clone,
    counted: u64,
    is_bound: impl Fn(Option<&Budget>) -> bool,
    style: Style,
) -> Vec<String> {
    if budgets.clone().next().is_none() {
        let total = format!("total     {}", bounded(is_bound(None), style, &human(Unit::Tokens, counted)));
        return vec![cut(&total, style.width)];
    }
    let lines = budgets.map(|budget| (budget, figures(budget, is_bound(Some(budget)), style)));
    let widest = |width: usize, text: String| width.max(text.width());
    let figures = lines.clone().map(|(_, figures)| figures).fold(0, widest);
    let names = lines.clone().map(|(budget, _)| label(budget.name(), NAME_MAX, style)).fold(NAME_MIN, widest);
    let layout = Layout::new(names, figures, style.width);
    lines.map(|(budget, figures)| bar(budget, &figures, &layout, style)).collect()
}

/// What of a bar there is room for. The percentage stays in any case; the cells go before the name
/// is cut, and the figures go whole, since a part of a number is another number.
struct Layout {
    name: usize,
    cells: usize,
    figures: bool,
}

impl Layout {
    fn new(names: usize, figures: usize, width: usize) -> Self {
        // A blank and the percentage; brackets and a blank around the cells.
        let fixed = 6;
        let room = width.saturating_sub(fixed + figures + names + 3);
        if room >= CELLS_MIN {
            return Layout { name: names, cells: room.min(CELLS), figures: true };
        }
        let room = width.saturating_sub(fixed + figures);
        if room >= NAME_MIN {
            return Layout { name: names.min(room), cells: 0, figures: true };
        }
        Layout { name: names.min(width.saturating_sub(fixed)), cells: 0, figures: false }
    }
}

/// `   910 / 1.0K`
fn figures(budget: &Budget, is_bound: bool, style: Style) -> String {
    let used = bounded(is_bound, style, &human(budget.unit, budget.used));
    format!("   {used} / {}", human(budget.unit, budget.limit))
}

/// A figure that may be a lower bound.
fn bounded(is_bound: bool, style: Style, figure: &str) -> String {
    match (is_bound, style.unicode) {
        (false, _) => figure.to_owned(),
        (true, true) => format!("≥ {figure}"),
        (true, false) => format!(">= {figure}"),
    }
}

/// `/review   [██████████████████░░]  91%   910 / 1.0K`
fn bar(budget: &Budget, figures: &str, layout: &Layout, style: Style) -> String {
    let name = label(budget.name(), layout.name, style);
    let pad = layout.name.saturating_sub(name.width());
    let percent = budget.percent();
    let color = match budget {
        budget if budget.is_above(90) => "\x1b[31m",
        budget if budget.is_above(70) => "\x1b[33m",
        _ => "\x1b[32m",
    };
    let (begin, end) = if style.color { (color, "\x1b[0m") } else { ("", "") };
    let cells = match layout.cells {
        0 => String::new(),
        cells => {
            let full = usize::try_from(percent.min(100)).unwrap_or(100) * cells / 100;
            let (on, off) = if style.unicode { ("█", "░") } else { ("#", "-") };
            format!(" [{begin}{}{end}{}]", on.repeat(full), off.repeat(cells - full))
        }
    };
    let figures = if layout.figures { figures } else { "" };
    format!("{name}{:pad$}{cells}{begin} {percent:>3}%{figures}{end}", "")
}

/// What to say where a stream has ended and no usage was in it.
pub const NO_USAGE: &str = "no usage in the stream; run claude with --output-format stream-json --verbose";

/// What a notice says, without the program's name before it. Figures are exact here: rounded ones
/// would have 5.0K exceed 5.0K.
#[must_use]
pub fn notice(notice: &Notice, run: &Run, style: Style) -> String {
    let of = |budget: &Budget, is_bound: bool| {
        let used = in_full(budget.unit, budget.used);
        let used = bounded(is_bound, style, used.trim_end_matches(" tokens"));
        format!("{used} of {} used, {} %", in_full(budget.unit, budget.limit), budget.percent())
    };
    let name = |budget: &Budget| match &budget.command {
        Some(name) => format!("budget of {}", shown(name, style)),
        None => "overall budget".to_owned(),
    };
    let then = |block: &'static str| match run.mode {
        Mode::Warn => "going on (--mode warn)",
        Mode::Block => block,
    };
    match notice {
        Notice::Budget(Cause::Near, budget, bound) => format!("{} runs out: {}", name(budget), of(budget, *bound)),
        Notice::Budget(Cause::Exceeded, budget, bound) => {
            format!("{} exceeded: {}; {}", name(budget), of(budget, *bound), then("stopping here (--mode block)"))
        }
        Notice::Unfit(budget, estimate, held) => format!(
            "estimate of {} does not fit into the {}: {}{}; {}",
            in_full(budget.unit, *estimate),
            name(budget),
            of(budget, false),
            if *held > 0 { format!(", {} held by runs alive", in_full(budget.unit, *held)) } else { String::new() },
            then("not started; raise the limit or lower --estimate")
        ),
        Notice::Cut(Cut::Grace(grace)) => format!(
            "the ledger has been out of reach for {} (--offline-grace); stopping here (--mode block)",
            span(grace.as_secs_f64())
        ),
        Notice::Cut(Cut::Reservation) => "the ledger is out of reach and what was reserved is used up (--estimate); \
             stopping here (--mode block)"
            .to_owned(),
        Notice::Finding(Finding::Blind) => "no message has reported tokens so far (a gateway?): live counting is \
             blind here, and budgets bind at the result line only"
            .to_owned(),
        Notice::Finding(Finding::Unpriced(model)) => {
            let model = shown(model, style);
            match run.meter.unpriced_rule() {
                Unpriced::Dearest => {
                    format!("{model} has no price; taken for as dear as the dearest model (--unpriced)")
                }
                Unpriced::Refuse => {
                    format!("{model} has no price (--unpriced refuse); {}", then("stopping here (--mode block)"))
                }
                Unpriced::Zero => format!("{model} has no price; its cost is not counted (--unpriced zero)"),
                Unpriced::As(other) => format!("{model} has no price; taken for {} (--unpriced)", shown(other, style)),
            }
        }
        Notice::Finding(Finding::CarriedOver(tokens)) => format!(
            "resumed session: {} tokens that earlier processes spent were taken off (input {}, output {}, \
             cache-write {}, cache-read {})",
            exact(Classes::default().count(tokens)),
            tokens.input,
            tokens.output,
            tokens.cache_write,
            tokens.cache_read
        ),
    }
}

/// The final report: title, bars, tokens per class and per model.
#[must_use]
pub fn report(run: &Run, exit: Exit, style: Style) -> String {
    let outcome = match Outcome::of(run, exit) {
        Outcome::Completed => "completed",
        Outcome::Exceeded => "completed, budget exceeded",
        Outcome::Stopped if run.was_cut().is_some() => "stopped, ledger out of reach",
        Outcome::Stopped if run.budgets.exceeded().is_none() => "stopped, model without a price",
        Outcome::Stopped => "stopped, budget exceeded",
        Outcome::Refused => "refused",
        Outcome::Interrupted => "interrupted",
    };
    let name = run.name.as_deref().map_or(String::new(), |name| format!("{} ", label(name, NAME_MAX, style)));
    let count = |n: u64, what: &str| format!("{} {what}{}", exact(n), if n == 1 { "" } else { "s" });
    let mut out = String::new();
    let _ = writeln!(
        out,
        "budget-tee: {name}{outcome}: {}, {}",
        count(run.meter.messages(), "message"),
        count(run.lines(), "line")
    );
    for line in budget_lines(run.budgets.all().iter(), run.counted(), |budget| is_bound(run, budget), style) {
        let _ = writeln!(out, "{line}");
    }
    if !run.budgets.all().is_empty() {
        let total = bounded(is_bound(run, None), style, &human(Unit::Tokens, run.counted()));
        let _ = writeln!(out, "total     {total}");
    }
    let cost = human(Unit::Usd, run.meter.total().micro_usd);
    let _ = writeln!(out, "cost      {}", bounded(is_bound(run, None), style, &cost));
    out.push_str(&classes_line(&run.meter.total(), run.classes));
    out.push_str(&model_lines(&run.meter.by_model(), style));
    for model in run.meter.unpriced() {
        let _ = writeln!(out, "unpriced  {}", shown(model, style));
    }
    out
}

/// The tokens of each class, and which of them count where that is not all.
pub(crate) fn classes_line(total: &Spend, classes: Classes) -> String {
    let each = Class::ALL.map(|class| format!("{} {}", class.name(), human(Unit::Tokens, total.of(class))));
    let mut out = format!("classes   {}\n", each.join(", "));
    if classes != Classes::default() {
        let _ = writeln!(out, "counted   {}", classes.names().collect::<Vec<_>>().join(", "));
    }
    out
}

/// A line for each model.
pub(crate) fn model_lines(models: &[(&str, Spend)], style: Style) -> String {
    let mut out = String::new();
    for (model, tokens) in models {
        let all = human(Unit::Tokens, Classes::default().count(tokens));
        let cost = human(Unit::Usd, tokens.micro_usd);
        let _ = writeln!(out, "model     {} {all}, {cost}", shown(model, style));
    }
    out
}
