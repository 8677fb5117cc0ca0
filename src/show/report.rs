//! What people read beside the bars: notices on the way, and the report at the end.
//!
//! All of it is made from values; the screen writes it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::amount::{Unit, exact, human, in_full};
use crate::budget::{Budget, Mode, Threshold, Unfit};
use crate::count::finding::Finding;
use crate::count::price::Unpriced;
use crate::count::tally::Tally;
use crate::count::tokens::{Class, Classes, Spend, Tokens};
use crate::error::{Exit, Outcome};
use crate::notice::{Notice, Unreachable};
use crate::run::{Run, StopReason};
use crate::show::bar::{GREEN, NAME_MAX, RED, YELLOW, budget_lines, is_lower_bound, text_color};
use crate::show::text::{Style, plural, seconds, with_note};
use crate::stream::course::NoUsage;
use crate::stream::dialect::{Dialect, Tells, agent_named};
use crate::stream::foreign::Foreign;

/// What to do about a stream that cannot be counted.
// The usual reason is that options are missing: `claude -p` alone prints text.
fn advice(run: &Run) -> String {
    match run.program.as_deref().and_then(agent_named) {
        Some(Dialect { agent, tells: Tells::Never, .. }) => format!("{agent} does not report its usage in its stream"),
        Some(Dialect { program, arguments, .. }) => format!("run {program} {arguments}"),
        None => "run claude with --output-format stream-json --verbose".to_owned(),
    }
}

/// How much is shown of a text that is no JSON, in columns.
// Enough to recognise an error message by; with the rest of its line it fills two of a terminal.
const SAMPLE_MAX: usize = 24;

/// What to report at the start where block mode has nothing to stop at: a budget that is meant for this
/// run may have another name.
pub(crate) fn unbound(run: &Run, style: Style) -> Option<String> {
    let binds = run.mode == Mode::Warn || run.budgets.binding().next().is_some();
    let name = run.name.as_deref().map_or("no command".to_owned(), |name| style.label(name, NAME_MAX));
    let set = match (run.budgets.all().is_empty(), &run.name) {
        (false, None) => "set --limit or --name",
        _ => "set --limit or --command-budget",
    };
    let message = format!("no budget binds this run, which is charged to {name}");
    (!binds).then(|| with_note(message, format_args!("block mode will not stop it; {set}")))
}

/// The text of a notice, without the program's name before it.
pub(crate) fn notice(notice: &Notice, run: &Run, style: Style) -> String {
    // Figures are exact: rounded ones would have 5.0K exceed 5.0K.
    match notice {
        Notice::Budget(Threshold::WarnAt, budget, lower) => {
            let used = used(budget, *lower, style);
            format!("{} at {} %: {used}", name(budget, style), budget.percent())
        }
        Notice::Budget(Threshold::Limit, budget, lower) => {
            let (name, used) = (name(budget, style), used(budget, *lower, style));
            let message = format!("{name} exceeded: {used}, {} %", budget.percent());
            with_note(message, then(run, "stop it", "raise the budget to allow more"))
        }
        Notice::NextCall(budget, need) => {
            let left = in_full(budget.unit, budget.remaining());
            let need = in_full(budget.unit, *need);
            let need = style.at_least(true, need.trim_end_matches(" tokens"));
            let message = format!("{}: {left} left, next call needs {need}", name(budget, style));
            with_note(message, "stopping (--mode block); raise the budget or use --stop after")
        }
        Notice::Unfit(unfit) => unfitting(unfit, run, style),
        Notice::Unreachable(Unreachable::Grace(grace)) => {
            let grace = seconds(grace.as_secs_f64());
            let message = format!("the ledger has been unreachable for {grace} (--offline-grace)");
            with_note(message, "stopping (--mode block)")
        }
        Notice::Unreachable(Unreachable::Reservation) => {
            let message = "the ledger is unreachable and no reservation is left (--estimate)";
            with_note(message, "stopping (--mode block); a larger --estimate reserves more")
        }
        Notice::Finding(finding) => finding_text(finding, run, style),
        Notice::Foreign(line, foreign) => foreign_text(*line, foreign, run, style),
        Notice::Cut => "the stream was cut inside its last record, which is not counted".to_owned(),
        Notice::NoUsage(NoUsage::Init) => with_note(
            "no usage in the stream: it ended after its init record",
            "the agent ended before its first message; see its own errors",
        ),
        Notice::NoUsage(NoUsage::Cut) => "no usage in the stream before it was cut".to_owned(),
        Notice::NoUsage(NoUsage::Zero(agent)) => with_note(
            format_args!("{agent} reports zero tokens: nothing is counted"),
            "it may be a gateway, or a call that failed",
        ),
        Notice::NoUsage(NoUsage::UnknownUsage) => {
            "the usage in the stream has an unknown form: nothing is counted".to_owned()
        }
        Notice::NoUsage(NoUsage::Unknown) => with_note("no usage in the stream", advice(run)),
    }
}

/// What a stream is that cannot be counted; text from it is cleaned and cut.
fn foreign_text(line: u64, foreign: &Foreign, run: &Run, style: Style) -> String {
    let advice = advice(run);
    let line = exact(line);
    match foreign {
        Foreign::Compressed(with) => format!("the stream is compressed ({with}): decompress it to count it"),
        Foreign::Utf16 => with_note("the stream is UTF-16: convert it to count it", "iconv -f UTF-16 -t UTF-8"),
        Foreign::Text(text) => {
            with_note(format_args!("line {line} is not a JSON record (\"{}\")", style.label(text, SAMPLE_MAX)), advice)
        }
        Foreign::Json(Some(kind)) => {
            let kind = style.label(kind, SAMPLE_MAX);
            with_note(format_args!("line {line} is JSON of an unknown kind ({kind})"), advice)
        }
        Foreign::Json(None) => with_note(format_args!("line {line} is JSON of an unknown kind"), advice),
        Foreign::Agent(Dialect { agent, tells: Tells::Never, .. }) => {
            format!("{agent} does not report its usage: nothing is counted")
        }
        Foreign::Agent(Dialect { agent, is_cumulative: true, .. }) => {
            let message = format!("{agent} reports usage at the end of a turn: budgets take effect then");
            with_note(message, "of a resumed thread the earlier turns are counted too")
        }
        Foreign::Agent(Dialect { agent, .. }) => {
            format!("{agent} reports usage at the end only: budgets take effect then")
        }
        Foreign::Resumed(Dialect { agent, .. }) => {
            format!("{agent} reports usage at the end of a turn: budgets take effect then")
        }
    }
}

/// `overall budget`, `budget of /review`.
fn name(budget: &Budget, style: Style) -> String {
    match &budget.command {
        Some(name) => format!("budget of {}", style.shown(name)),
        None => "overall budget".to_owned(),
    }
}

fn used(budget: &Budget, is_lower_bound: bool, style: Style) -> String {
    let used = in_full(budget.unit, budget.used);
    // `950 of 1,000 tokens`: the unit stands once.
    let used = style.at_least(is_lower_bound, used.trim_end_matches(" tokens"));
    format!("{used} of {}", in_full(budget.unit, budget.limit))
}

/// What follows: warn mode goes on, where block mode would `do_so`; block mode stops, and `advice` is for then.
// It names the option each time: whoever reads the line in a log wonders why the run went on.
fn then(run: &Run, do_so: &str, advice: &str) -> String {
    match run.mode {
        Mode::Warn => format!("going on (--mode warn); --mode block would {do_so}"),
        Mode::Block => format!("stopping (--mode block); {advice}"),
    }
}

fn unfitting(Unfit { budget, estimate, reserved }: &Unfit, run: &Run, style: Style) -> String {
    let others = match reserved {
        0 => String::new(),
        reserved => format!(", {} reserved by others", in_full(budget.unit, *reserved).trim_end_matches(" tokens")),
    };
    let resets = run.resets.trim_start_matches("resets ").trim_start_matches("at ");
    // A smaller estimate does not help where nothing is left.
    let is_used_up = budget.remaining() == 0;
    let then = match run.mode {
        Mode::Warn => then(run, "not start it", ""),
        Mode::Block if !resets.is_empty() => format!("not started; wait until {resets}, or raise the budget"),
        Mode::Block if is_used_up => "not started (--mode block); raise the budget".to_owned(),
        Mode::Block => "not started; raise the budget or lower --estimate".to_owned(),
    };
    let (estimate, name) = (in_full(budget.unit, *estimate), name(budget, style));
    let figures = used(budget, false, style);
    if is_used_up {
        return with_note(format_args!("{name} is used up: {figures}"), then);
    }
    let message = format!("estimate of {estimate} does not fit into the {name}");
    with_note(with_note(message, format_args!("{figures} used{others}")), then)
}

fn finding_text(finding: &Finding, run: &Run, style: Style) -> String {
    match finding {
        Finding::Blind => {
            let message = "no message has reported tokens so far: a gateway may leave them out";
            with_note(message, "budgets take effect at the result record only")
        }
        Finding::Unpriced(model) => {
            let (model, priced) = (style.shown(model), priced_as(run, style));
            match run.meter.prices().unpriced() {
                Unpriced::Refuse => {
                    let message = format!("{model} has no price (--unpriced refuse)");
                    with_note(message, then(run, "stop it", "--prices sets its price"))
                }
                Unpriced::Zero | Unpriced::Highest | Unpriced::As(_) => {
                    let message = format!("{model} has no price");
                    with_note(message, format_args!("{priced} (--unpriced); --prices sets its price"))
                }
            }
        }
        Finding::TotalDiffers(agent) => {
            format!("{agent}'s total is not the sum of its parts: the parts are counted")
        }
        Finding::MayCarry(agent, tokens) => {
            let all = exact(Classes::default().count(tokens));
            with_note(
                format_args!("{agent} reports {all} tokens beyond its messages"),
                "they are of subagents, or of earlier runs if the session was resumed",
            )
        }
        Finding::CarriedOver(tokens) => {
            let all = exact(Classes::default().count(tokens));
            let Tokens { input, output, cache_write, cache_read } = tokens;
            // By class, so that one can see in the vendor's figures what was left out.
            let message = format!("resumed session: {all} tokens of earlier processes are taken off");
            let classes =
                [("input", input), ("output", output), ("cache-write", cache_write), ("cache-read", cache_read)];
            let classes = classes.map(|(class, tokens)| format!("{class} {tokens}"));
            with_note(message, classes.join(", "))
        }
    }
}

/// What models without a price cost: `priced as claude-opus-5`.
fn priced_as(run: &Run, style: Style) -> String {
    run.meter
        .prices()
        .stand_in()
        .map_or_else(|| "its cost is not counted".to_owned(), |other| format!("priced as {}", style.shown(other)))
}

/// The final report: title, bars, tokens per class and per model.
pub(crate) fn report(run: &Run, exit: Exit, elapsed: Duration, style: Style) -> String {
    let name = run.name.as_deref().map_or(String::new(), |name| format!("{} ", style.label(name, NAME_MAX)));
    let (messages, lines) = (plural(run.meter.messages(), "message"), plural(run.lines(), "line"));
    // With the program's name, since on a terminal it stands among the output of others.
    let (begin, end) = if style.color { (text_color(outcome_color(run, exit)), "\x1b[0m") } else { ("", "") };
    // A stream from a file is read in no time.
    let time = if elapsed.as_secs() == 0 { String::new() } else { format!(", {}", seconds(elapsed.as_secs_f64())) };
    let mut out = format!("budget-tee: {name}{begin}{}{end}: {messages}, {lines}{time}\n", outcome(run, exit));
    for line in budget_lines(run.budgets.all().iter(), run.counted(), |budget| is_lower_bound(run, budget), style) {
        let _ = writeln!(out, "{line}");
    }
    if let Some(when) = run.resets.strip_prefix("resets ") {
        let _ = writeln!(out, "resets    {when}");
    }
    let total = run.meter.total();
    let at_least = |figure: String| style.at_least(is_lower_bound(run, None), &figure);
    if !run.budgets.all().is_empty() {
        let _ = writeln!(out, "total     {}", at_least(human(Unit::Tokens, run.counted())));
    }
    let _ = writeln!(out, "cost      {}", at_least(human(Unit::Usd, total.micro_usd)));
    out.push_str(&classes_line(&total.tokens, run.classes));
    out.push_str(&model_lines(&run.meter.by_model(), style));
    for model in run.meter.unpriced() {
        let _ = writeln!(out, "unpriced  {}, {}", style.shown(model), priced_as(run, style));
    }
    out
}

/// How the run ended, in the words of the report.
fn outcome(run: &Run, exit: Exit) -> String {
    let code = match exit {
        Exit::Child(code @ 1..) => format!(" with exit code {code}"),
        _ => String::new(),
    };
    match (Outcome::of(exit, run.budgets.exceeded().is_some(), run.meter.usage_seen()), run.stop_reason()) {
        (Outcome::Completed, _) => format!("completed{code}"),
        (Outcome::Exceeded, _) => format!("completed{code}, budget exceeded"),
        (Outcome::Stopped, Some(StopReason::Ledger)) => "stopped, ledger unreachable".to_owned(),
        (Outcome::Stopped, Some(StopReason::NextCall)) => "stopped before the next call".to_owned(),
        (Outcome::Stopped, Some(StopReason::Unpriced)) => "stopped, model without a price".to_owned(),
        (Outcome::Stopped, Some(StopReason::Budget) | None) => "stopped, budget exceeded".to_owned(),
        (Outcome::Refused, _) => "refused".to_owned(),
        (Outcome::Interrupted, _) => match (exit, exit.signal()) {
            (Exit::Idle, _) => "ended, stream silent for too long".to_owned(),
            (Exit::Failed, _) if !run.meter.usage_seen() => "failed, no usage".to_owned(),
            (Exit::Failed, _) => "failed".to_owned(),
            (Exit::Interrupted(code, _), Some(signal)) => format!("interrupted by {signal}, exit code {code}"),
            (_, Some(signal)) => format!("interrupted by {signal}"),
            (_, None) => "interrupted".to_owned(),
        },
    }
}

/// The colour of that: green where all is well, yellow where a budget is exceeded, red where the run did
/// not end by itself.
fn outcome_color(run: &Run, exit: Exit) -> &'static str {
    match Outcome::of(exit, run.budgets.exceeded().is_some(), run.meter.usage_seen()) {
        Outcome::Completed if exit.is_success() => GREEN,
        Outcome::Completed | Outcome::Exceeded => YELLOW,
        Outcome::Stopped | Outcome::Refused | Outcome::Interrupted => RED,
    }
}

/// The tokens of each class, and which classes count where that is not all.
pub(crate) fn classes_line(tokens: &Tokens, classes: Classes) -> String {
    let each = Class::ALL.map(|class| format!("{} {}", class.name(), human(Unit::Tokens, tokens.of(class))));
    let mut out = format!("classes   {}\n", each.join(", "));
    if classes != Classes::default() {
        let _ = writeln!(out, "counted   {}", classes.names().collect::<Vec<_>>().join(", "));
    }
    out
}

/// A line for each model.
pub(crate) fn model_lines(models: &Tally<String>, style: Style) -> String {
    let line = |(model, Spend { tokens, micro_usd }): &(String, Spend)| {
        let (tokens, cost) = (human(Unit::Tokens, Classes::default().count(tokens)), human(Unit::Usd, *micro_usd));
        format!("model     {} {tokens}, {cost}\n", style.shown(model))
    };
    models.iter().map(line).collect()
}
