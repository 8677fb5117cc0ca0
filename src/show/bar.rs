//! Bars: one line per budget, laid out for the width that there is.

use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use crate::amount::{Unit, human};
use crate::budget::Budget;
use crate::run::Run;
use crate::show::screen::Frame;
use crate::show::text::{Style, cut, seconds, shown_width};

/// Cells of a bar where there is room for all.
const CELLS: usize = 20;

/// A bar with fewer cells shows nothing useful.
const CELLS_MIN: usize = 3;

/// The longest name shown in full, in columns.
pub(crate) const NAME_MAX: usize = 24;

/// The columns that names get at least.
const NAME_MIN: usize = 9;

/// The colours, as SGR sequences.
// Of the 16 that every terminal has: its owner chose what they look like on the background.
pub(crate) const RED: &str = "\x1b[31m";
pub(crate) const YELLOW: &str = "\x1b[33m";
pub(crate) const GREEN: &str = "\x1b[32m";

/// What to show while the run goes on: a line per budget that binds it, or the bare total; on the first
/// one what was spent in dollars and in time, where there is room.
pub(crate) fn frame(run: &Run, elapsed: Duration, style: Style) -> Frame {
    // Those of other commands stand still while this run goes on: they are in the report only.
    let binding = run.budgets.binding();
    let mut lines = budget_lines(binding.clone(), run.counted(), |budget| is_lower_bound(run, budget), style);
    let cost = human(Unit::Usd, run.meter.total().micro_usd);
    let time = seconds(elapsed.as_secs_f64().floor());
    // Lines of a log have times of their own.
    let is_log = style.width == usize::MAX;
    let more = [run.resets.as_str(), if is_log { "" } else { &cost }, if is_log { "" } else { &time }];
    let Some(first) = lines.first_mut() else { return Frame::default() };
    for more in more.into_iter().filter(|more| !more.is_empty()) {
        if shown_width(first) + 3 + more.width() > style.width {
            break;
        }
        *first = format!("{first}   {more}");
    }
    Frame { lines, tenths: binding.map(|budget| budget.percent().min(100) / 10).collect() }
}

/// Whether the used amount of a budget, or of none, is a lower bound.
pub(crate) fn is_lower_bound(run: &Run, budget: Option<&Budget>) -> bool {
    budget.is_none_or(|budget| budget.binds) && run.meter.is_lower_bound()
}

/// A line per budget, or the bare total of what is `counted` where there is none.
pub(crate) fn budget_lines<'a>(
    budgets: impl Iterator<Item = &'a Budget> + Clone,
    counted: u64,
    is_lower_bound: impl Fn(Option<&Budget>) -> bool,
    style: Style,
) -> Vec<String> {
    if budgets.clone().next().is_none() {
        let total = style.at_least(is_lower_bound(None), &human(Unit::Tokens, counted));
        return vec![cut(&format!("total     {total}"), style.width)];
    }
    let lines = budgets.map(|budget| (budget, figures(budget, is_lower_bound(Some(budget)), style)));
    let widest = |widest: usize, text: String| widest.max(text.width());
    let figures = lines.clone().map(|(_, figures)| figures).fold(0, widest);
    let names = lines.clone().map(|(budget, _)| style.label(budget.name(), NAME_MAX)).fold(NAME_MIN, widest);
    let layout = Layout::new(names, figures, style.width);
    lines.map(|(budget, figures)| bar(budget, &figures, &layout, style)).collect()
}

/// Which parts of a bar there is room for.
// The percentage always stays: it is what the bar is for, in four columns. The cells go before the name
// is cut, and the figures go as a whole: a part of a number is another number.
struct Layout {
    name: usize,
    cells: usize,
    figures: bool,
}

impl Layout {
    fn new(names: usize, figures: usize, width: usize) -> Self {
        // A blank, three digits and the sign; a fourth digit for a budget that is exceeded ten times.
        let percentage = 6;
        // Two brackets and a blank.
        let around_cells = 3;
        let room = width.saturating_sub(percentage + figures + names + around_cells);
        if room >= CELLS_MIN {
            return Layout { name: names, cells: room.min(CELLS), figures: true };
        }
        let room = width.saturating_sub(percentage + figures);
        if room >= NAME_MIN {
            return Layout { name: names.min(room), cells: 0, figures: true };
        }
        Layout { name: names.min(width.saturating_sub(percentage)), cells: 0, figures: false }
    }
}

/// `   910 / 1.0K`
fn figures(budget: &Budget, is_lower_bound: bool, style: Style) -> String {
    let used = style.at_least(is_lower_bound, &human(budget.unit, budget.used));
    format!("   {used} / {}", human(budget.unit, budget.limit))
}

/// `/review   [██████████████████░░]  91%   910 / 1.0K`
fn bar(budget: &Budget, figures: &str, layout: &Layout, style: Style) -> String {
    let name = style.label(budget.name(), layout.name);
    let pad = layout.name.saturating_sub(name.width());
    let percent = budget.percent();
    let color = match budget {
        budget if budget.is_above(90) => RED,
        budget if budget.is_above(70) => YELLOW,
        _ => GREEN,
    };
    let (begin, end) = if style.color { (color, "\x1b[0m") } else { ("", "") };
    let cells = match layout.cells {
        0 => String::new(),
        cells => {
            // Rounded down: only a budget that is used up shows a full bar.
            let full = usize::try_from(percent.min(100)).unwrap_or(100) * cells / 100;
            let (on, off) = if style.unicode { ("█", "░") } else { ("#", "-") };
            format!(" [{begin}{}{end}{}]", on.repeat(full), off.repeat(cells - full))
        }
    };
    let figures = if layout.figures { figures } else { "" };
    // The bar has the colour; without one, the percentage.
    let (begin, end) = if layout.cells == 0 { (text_color(begin), end) } else { ("", "") };
    format!("{name}{:pad$}{cells} {begin}{percent:>3}%{end}{figures}", "")
}

/// A colour for text.
// Yellow blocks are seen on white, yellow letters are not: bold ones are read on every background.
pub(crate) fn text_color(color: &str) -> &str {
    if color == YELLOW { "\x1b[1m" } else { color }
}
