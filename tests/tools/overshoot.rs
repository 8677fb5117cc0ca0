//! How far block mode goes over its limit, and how much it leaves, for `--stop before` and `after`.
//!
//! `cargo run --release --example overshoot -- FILE...`: 1,000 limits are spread over each stream. One
//! row for each way to stop has the number of stops; in how many percent of them more than the limit was
//! used, how many of these points were at the first call of a process or at a `result` record, which
//! nothing announces; by how much of the limit (95th percentile and most of all stops); how much of it
//! was left (median and most); and in how many percent of the stops the turn would have ended within the
//! limit.

use std::error::Error;
use std::io::Write;

use budget_tee::amount::{Amount, Unit};
use budget_tee::budget::{Budget, Budgets, Mode, StopAt};
use budget_tee::run::Run;
use serde_json::Value;

const LIMITS: u64 = 1000;

/// A line of the stream.
struct Line<'a> {
    bytes: &'a [u8],
    is_result: bool,
    /// It belongs to the first message of a process.
    is_first_call: bool,
}

/// What became of one limit.
struct Stop {
    limit: u64,
    used: u64,
    was_announced: bool,
    /// The turn would have ended within the limit.
    was_in_vain: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:<28} {:<6} {:>5} {:>7} {:>11} {:>7} {:>8} {:>7} {:>7} {:>7}",
        "stream", "stop", "stops", "over %", "unannounced", "95th %", "most %", "left %", "most %", "in vain"
    )?;
    for path in std::env::args_os().skip(1) {
        let bytes = std::fs::read(&path)?;
        let lines = lines(&bytes);
        let mut meter = Run::default();
        let used: Vec<_> = lines.iter().map(|line| (meter.feed(line.bytes), meter.counted()).1).collect();
        let name = std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy();
        for (word, stop_at) in [("before", StopAt::Before), ("after", StopAt::After)] {
            let limits = (1..=LIMITS).map(|step| meter.counted() * step / LIMITS);
            let stops: Vec<_> = limits.filter_map(|limit| stop(&lines, &used, limit, stop_at)).collect();
            if !stops.is_empty() {
                writeln!(out, "{name:<28} {word:<6} {}", row(&stops))?;
            }
        }
    }
    Ok(())
}

fn lines(bytes: &[u8]) -> Vec<Line<'_>> {
    let mut first: Option<Option<String>> = None;
    let line = |bytes| {
        let json = serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        let id = [&json["message"]["id"], &json["event"]["message"]["id"]].into_iter().find_map(Value::as_str);
        match (json["type"].as_str(), json["subtype"].as_str()) {
            (Some("system"), Some("init")) => first = Some(None),
            (Some("assistant" | "stream_event"), _) if first == Some(None) && id.is_some() => {
                first = Some(id.map(str::to_owned));
            }
            _ => {}
        }
        let is_first_call = id.is_some() && first.as_ref().is_some_and(|first| first.as_deref() == id);
        Line { bytes, is_result: json["type"] == "result", is_first_call }
    };
    bytes.split_inclusive(|b| *b == b'\n').map(line).collect()
}

/// Runs a stream with a limit until block mode stops it; `all_used` says what was used after each line.
fn stop(lines: &[Line<'_>], all_used: &[u64], limit: u64, stop_at: StopAt) -> Option<Stop> {
    let budget = Budget::new(None, Amount { unit: Unit::Tokens, value: limit }, true);
    let budgets = Budgets::new(vec![budget], 90);
    let mut run = Run::new(None, Mode::Block, Default::default(), budgets, Default::default());
    run.stop_at = stop_at;
    let at = lines.iter().position(|line| run.feed(line.bytes).ends)?;
    let turn_end = lines[at..].iter().position(|line| line.is_result).map_or(lines.len() - 1, |after| at + after);
    let was_announced = !lines[at].is_result && !lines[at].is_first_call;
    Some(Stop { limit, used: run.counted(), was_announced, was_in_vain: all_used[turn_end] <= limit })
}

fn row(stops: &[Stop]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for reading")]
    let percent = |part: u64, of: u64| part as f64 * 100.0 / of.max(1) as f64;
    let share =
        |is: &dyn Fn(&Stop) -> bool| percent(stops.iter().filter(|stop| is(stop)).count() as u64, stops.len() as u64);
    let sorted = |of: &dyn Fn(&Stop) -> u64| {
        let mut all: Vec<f64> = stops.iter().map(|stop| percent(of(stop), stop.limit)).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let over = sorted(&|stop| stop.used.saturating_sub(stop.limit));
    let left = sorted(&|stop| stop.limit.saturating_sub(stop.used));
    let at = |all: &[f64], share: usize| all[(all.len() - 1) * share / 100];
    format!(
        "{:>5} {:>7.1} {:>11.1} {:>7.1} {:>8.1} {:>7.1} {:>7.1} {:>7.1}",
        stops.len(),
        share(&|stop| stop.used > stop.limit),
        share(&|stop| stop.used > stop.limit && !stop.was_announced),
        at(&over, 95),
        at(&over, 100),
        at(&left, 50),
        at(&left, 100),
        share(&|stop| stop.was_in_vain),
    )
}
