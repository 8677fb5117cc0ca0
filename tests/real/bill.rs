//! Sums up from the mock's log what a run must have cost, and compares that with what budget-tee reports. Of a
//! response that was cut, prompt tokens are known, but the client estimates its output from the text it received:
//! there the bill is a range.

use std::fmt::Write;

use serde_json::Value;

use super::client::Sandbox;
use super::message::FIRST_OUTPUT;
use super::mock::{Served, State};
use super::run::Ended;
use super::script::Tokens;

/// US dollars per million tokens: input, output, cache write of 5 minutes and of an hour, cache read.
/// List prices of November 2026; those of Haiku hold for prompts of up to 100,000 tokens.
const PRICES: [(&str, [f64; 5]); 2] =
    [("claude-opus-5-5", [4.0, 20.0, 5.0, 8.0, 0.2]), ("claude-haiku-5-5", [0.1, 0.5, 0.125, 0.2, 0.01])];

/// How much a sum may differ per message, in micro-dollars, since budget-tee rounds each.
const ROUNDING: f64 = 1.0;

const CLASSES: [&str; 4] = ["input", "output", "cache_write", "cache_read"];

/// The least and the most that some requests cost.
#[derive(Default)]
struct Bill {
    least: Sum,
    most: Sum,
    messages: u32,
}

#[derive(Default)]
struct Sum {
    /// In the order of [`CLASSES`].
    tokens: [u64; 4],
    micro_dollars: f64,
}

impl Bill {
    fn of(served: &[Served]) -> Bill {
        let mut bill = Bill::default();
        for message in served {
            let (least, most) = match message.state {
                State::Asked | State::Failed => continue,
                State::Complete => (message.tokens.output, message.tokens.output),
                State::Answer => (FIRST_OUTPUT, message.tokens.output),
                // A token has at least one byte.
                State::Streaming | State::Cut => (FIRST_OUTPUT, FIRST_OUTPUT + message.content_bytes as u64),
            };
            bill.least.add(&message.model, Tokens { output: least, ..message.tokens });
            bill.most.add(&message.model, Tokens { output: most, ..message.tokens });
            bill.messages += 1;
        }
        bill
    }

    /// One line for each figure of a summary that is wrong.
    fn differences(&self, summary: &Value) -> String {
        let mut wrong = String::new();
        for (class, (least, most)) in CLASSES.iter().zip(self.least.tokens.iter().zip(self.most.tokens)) {
            let counted = &summary["tokens"][class];
            if !counted.as_u64().is_some_and(|counted| (*least..=most).contains(&counted)) {
                let _ = writeln!(wrong, "  {class}: counted {counted}, served {least}..={most}");
            }
        }
        let slack = ROUNDING * f64::from(self.messages);
        let (least, most) = (self.least.micro_dollars - slack, self.most.micro_dollars + slack);
        let counted = summary["usd"].as_f64().unwrap_or(f64::NAN) * 1e6;
        if !(least..=most).contains(&counted) {
            let _ = writeln!(wrong, "  micro-dollars: counted {counted:.1}, served {least:.1}..={most:.1}");
        }
        wrong
    }
}

impl Sum {
    fn add(&mut self, model: &str, tokens: Tokens) {
        let Tokens { input, output, write_5m, write_1h, read } = tokens;
        for (sum, more) in self.tokens.iter_mut().zip([input, output, write_5m + write_1h, read]) {
            *sum += more;
        }
        let row = PRICES.iter().find(|(name, _)| model.starts_with(name));
        let (_, prices) = row.unwrap_or_else(|| panic!("a price for {model}"));
        for (price, count) in prices.iter().zip([input, output, write_5m, write_1h, read]) {
            self.micro_dollars += price * count as f64;
        }
    }
}

/// Checks that the whole script was requested, and that budget-tee counted what was served: as the wrapper of the
/// client, and as a filter that reads the same stream.
pub fn check(sandbox: &Sandbox, run: &Ended) {
    check_script(sandbox, run);
    let bill = bill(sandbox, &[run]);
    let wrong = bill.differences(&run.summary);
    // What fails once in a hundred runs is not seen again soon.
    let stream = String::from_utf8_lossy(&run.bytes);
    assert!(wrong.is_empty(), "the wrapper:\n{wrong}{}\nthe stream:\n{stream}", run.stderr);
    check_filter(sandbox, &[run]);
}

/// Checks what a filter counts in the streams of these runs, concatenated.
pub fn check_filter(sandbox: &Sandbox, runs: &[&Ended]) {
    let streams: Vec<u8> = runs.iter().flat_map(|run| run.bytes.iter().copied()).collect();
    let path = sandbox.argument("filter.json");
    let words = [env!("CARGO_BIN_EXE_budget-tee"), "-q", "--summary", &path].map(str::to_owned);
    let ran = crate::harness::finish(sandbox.command(&words), &streams);
    assert!(ran.code() == Some(0) && ran.out == streams, "not forwarded unchanged; stderr: {}", ran.err);
    let summary = std::fs::read(path).expect("a summary");
    let summary = serde_json::from_slice(&summary).expect("a summary is JSON");
    let wrong = bill(sandbox, runs).differences(&summary);
    assert!(wrong.is_empty(), "the filter:\n{wrong}{}", ran.err);
}

/// Checks that the client requested all replies of the script, and nothing else.
fn check_script(sandbox: &Sandbox, run: &Ended) {
    check_hosts(sandbox);
    let unscripted = sandbox.mock.read(|log| log.unscripted.clone());
    assert!(unscripted.is_empty(), "requests that the script has no reply for, by speaker: {unscripted:?}");
    assert_eq!(sandbox.mock.unserved(), 0, "replies that were not requested; stderr: {}", run.stderr);
}

/// Checks that the client sent no request to another host.
pub fn check_hosts(sandbox: &Sandbox) {
    let foreign = sandbox.mock.read(|log| log.foreign.clone());
    assert!(foreign.is_empty(), "requests to other hosts: {foreign:?}");
}

fn bill(sandbox: &Sandbox, runs: &[&Ended]) -> Bill {
    let (first, last) = (runs[0].requests.start, runs[runs.len() - 1].requests.end);
    // The client may exit before the mock has logged the end of its last response.
    let served = sandbox.mock.wait("an end to every response", |log| {
        let served = &log.served[first..last];
        let open = |served: &Served| matches!(served.state, State::Asked | State::Streaming);
        (!served.iter().any(open)).then(|| served.to_vec())
    });
    Bill::of(&served)
}
