//! Runs that share a ledger, and the tests that every kind of ledger must pass.
#![allow(dead_code, unused_macros, reason = "no test binary uses all of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{NO_SPEND, Ran, assistant, budget_tee, bytes, finish, kill, read_until, summary, terminal};
use rustix::process::Signal;
use serde_json::Value;

/// Defines the tests that every kind of ledger must pass. `$ledger` makes a ledger: a guard that keeps it
/// alive and its location; or none, which skips the test.
macro_rules! shared_ledger_tests {
    ($ledger:expr) => {
        shared_ledger_tests! {
            $ledger, sharing:
            killed_runs_lose_at_most_the_last_second_and_add_nothing,
            consecutive_runs_share_one_budget,
            a_command_budget_spans_runs,
            exactly_one_of_two_concurrent_runs_starts_when_only_one_fits,
            a_reservation_shrinks_as_its_run_spends,
            a_run_stops_when_other_runs_use_up_the_budget,
            warn_mode_reports_usage_of_other_runs_and_continues,
            a_grant_reaches_a_run_under_way_and_lets_a_refused_one_start,
            a_grant_to_one_command_raises_its_budget_alone,
            the_limits_and_the_window_of_the_runs_are_kept,
            what_a_settlement_moves_or_lowers_is_so_in_the_ledger,
        }
        shared_ledger_tests! {
            $ledger, threads:
            a_resumed_thread_counts_what_is_new,
            threads_and_processes_in_one_stream_are_told_apart,
            block_mode_does_not_stop_a_resumed_thread_for_its_earlier_turns,
            a_resumed_session_of_records_like_claude_codes_counts_what_is_new,
            a_price_holds_for_what_is_new_of_a_thread,
            a_thread_of_a_killed_run_is_neither_lost_nor_counted_twice,
            a_run_under_way_does_not_take_back_the_mark_of_another,
            ids_of_threads_from_a_hostile_stream_do_no_harm,
            so_many_threads_are_remembered,
        }
    };
    ($ledger:expr, $in:ident: $($test:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            let Some((_guard, location)) = $ledger else { return };
            $in::$test(location.as_ref());
        })+
    };
}

/// budget-tee with the ledger at `path`.
pub fn with(path: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = budget_tee(args);
    command.env("BUDGET_TEE_LEDGER", path);
    command
}

pub fn run_with(path: impl AsRef<OsStr>, args: &[&str], input: &str) -> Ran {
    finish(with(path, args), input.as_bytes())
}

/// The JSON status report, and its exit code.
pub fn status(path: impl AsRef<OsStr>, args: &[&str]) -> (Value, Option<i32>) {
    let ran = run_with(path, &[args, &["--status", "--json"]].concat(), "");
    (serde_json::from_slice(&ran.out).expect("JSON"), ran.code())
}

/// The tokens counted in the ledger.
pub fn counted(path: impl AsRef<OsStr>) -> u64 {
    status(path, &[]).0["counted"].as_u64().expect("a number")
}

/// Waits until so many tokens are counted in the ledger.
pub fn wait_for(path: impl AsRef<OsStr>, tokens: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while counted(&path) < tokens {
        assert!(Instant::now() < deadline, "{} of {tokens} tokens counted", counted(&path));
    }
}

/// A run that was admitted and waits for more input.
pub struct Waiting {
    pub child: Child,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
}

/// Starts a run and passes a first line through it, so that it has been admitted on return.
pub fn waiting(path: impl AsRef<OsStr>, args: &[&str]) -> Waiting {
    let mut command = with(path, args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    // A run that is refused reads nothing.
    let _ = stdin.write_all(NO_SPEND.as_bytes());
    let mut line = [0; NO_SPEND.len()];
    let _ = stdout.read_exact(&mut line);
    Waiting { child, stdin, stdout }
}

impl Waiting {
    /// Writes a line and waits until it is forwarded.
    pub fn pass(&mut self, line: &str) {
        self.stdin.write_all(line.as_bytes()).expect("written");
        read_until(&mut self.stdout, "\n");
    }

    /// Closes stdin and returns the exit code.
    pub fn end(mut self) -> Option<i32> {
        drop(self.stdin);
        self.child.wait().expect("ends").code()
    }
}

pub fn consecutive_runs_share_one_budget(path: &OsStr) {
    let block = ["-q", "-l", "10k", "-m", "block"];
    assert_eq!(run_with(path, &block, &assistant("a", 6000)).code(), Some(0));
    let ran = run_with(path, &block, &assistant("b", 6000));
    assert_eq!((ran.code(), ran.out), (Some(122), assistant("b", 6000).into_bytes()));
    let ran = run_with(path, &block, &assistant("c", 1));
    assert_eq!((ran.code(), ran.out.len()), (Some(121), 0));
    assert_eq!(counted(path), 12_000);
}

pub fn a_command_budget_spans_runs(path: &OsStr) {
    let args = ["-q", "-b", "/a=10k", "-m", "block", "-n"];
    let for_command = |name| [&args[..], &[name]].concat();
    assert_eq!(run_with(path, &for_command("/a"), &assistant("a", 9500)).code(), Some(0));
    assert_eq!(run_with(path, &for_command("/b"), &assistant("b", 9500)).code(), Some(0));
    assert_eq!(run_with(path, &for_command("/a"), &assistant("c", 2000)).code(), Some(121));
    let args = ["-q", "-b", "/a=10k", "-m", "block", "-e", "500", "-n", "/a"];
    assert_eq!(run_with(path, &args, &assistant("c", 2000)).code(), Some(122));
    let (report, code) = status(path, &["-b", "/a=10k", "-l", "1M"]);
    assert_eq!((&report["budgets"][1]["used"], code), (&11_500.into(), Some(122)));
    assert_eq!((&report["commands"]["/b"], &report["counted"]), (&9500.into(), &21_000.into()));
}

pub fn exactly_one_of_two_concurrent_runs_starts_when_only_one_fits(path: &OsStr) {
    let args = ["-q", "-l", "1000", "-e", "600", "-m", "block"];
    for round in 0..500 {
        let both = [(); 2].map(|()| {
            let path = path.to_owned();
            std::thread::spawn(move || waiting(path, &args))
        });
        // Neither may end before both are admitted or refused: its reservation would be free again.
        let both = both.map(|run| run.join().expect("joins"));
        let mut codes = both.map(Waiting::end);
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(121)], "round {round}");
    }
}

pub fn a_reservation_shrinks_as_its_run_spends(path: &OsStr) {
    let mut first = waiting(path, &["-q", "-l", "1000", "-e", "600", "-m", "block"]);
    first.pass(&assistant("a", 500));
    wait_for(path, 500);
    assert_eq!(status(path, &[]).0["reserved"], 100);
    assert_eq!(run_with(path, &["-q", "-l", "1000", "-e", "401", "-m", "block"], "").code(), Some(121));
    assert_eq!(run_with(path, &["-q", "-l", "1000", "-e", "400", "-m", "block"], NO_SPEND).code(), Some(0));
    assert_eq!(first.end(), Some(0));
}

pub fn a_run_stops_when_other_runs_use_up_the_budget(path: &OsStr) {
    let block = ["-q", "-l", "10k", "-m", "block", "-e", "0"];
    // One run waits at the end of a line, one is in the middle of a line, one wraps a command.
    let mut idle = waiting(path, &block);
    let mut in_line = waiting(path, &block);
    in_line.stdin.write_all(b"{\"type\":").expect("written");
    let mut command = with(path, &[&block[..], &["--", "sh", "-c", "echo '{}'; sleep 1000"]].concat());
    let mut wrapped = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    read_until(wrapped.stdout.as_mut().expect("piped"), "{}\n");
    assert_eq!(run_with(path, &block, &assistant("a", 20_000)).code(), Some(122));
    assert_eq!(idle.child.wait().expect("ends").code(), Some(122));
    assert_eq!(wrapped.wait().expect("ends").code(), Some(122));
    in_line.stdin.write_all(b"\"x\"}\nnot this").expect("written");
    assert_eq!(in_line.child.wait().expect("ends").code(), Some(122));
    let mut rest = String::new();
    in_line.stdout.read_to_string(&mut rest).expect("readable");
    assert_eq!(rest, "{\"type\":\"x\"}\n");
}

pub fn warn_mode_reports_usage_of_other_runs_and_continues(path: &OsStr) {
    assert_eq!(run_with(path, &["-q"], &assistant("a", 5000)).code(), Some(0));
    let ran = run_with(path, &["-q", "-l", "4k"], &assistant("b", 10));
    assert_eq!(ran.code(), Some(0));
    assert!(
        ran.err.contains("overall budget is used up: 5,000 of 4,000") && ran.err.contains("exceeded: ≥ 5,010 of 4,000"),
        "{}",
        ran.err
    );
}

pub fn killed_runs_lose_at_most_the_last_second_and_add_nothing(path: &OsStr) {
    let runs: Vec<_> = (0..16u64)
        .map(|n| {
            let path = path.to_owned();
            std::thread::spawn(move || {
                let mut run = waiting(&path, &["-q"]);
                let mut forwarded = Vec::new();
                // The pace differs from run to run, so that the kills come at different moments.
                for m in 0..40 {
                    run.pass(&assistant(&format!("m{m}"), 100));
                    forwarded.push(Instant::now());
                    std::thread::sleep(Duration::from_millis(10 + n * 3));
                }
                let killed = n % 2 == 0;
                if killed {
                    let now = Instant::now();
                    kill(&run.child, Signal::KILL);
                    run.child.wait().expect("ends");
                    let old = forwarded.iter().filter(|at| now - **at > Duration::from_secs(1)).count();
                    (old as u64 * 100, forwarded.len() as u64 * 100)
                } else {
                    assert_eq!(run.end(), Some(0));
                    (4000, 4000)
                }
            })
        })
        .collect();
    let bounds: Vec<_> = runs.into_iter().map(|run| run.join().expect("joins")).collect();
    let (least, most) = bounds.iter().fold((0, 0), |sum, bounds| (sum.0 + bounds.0, sum.1 + bounds.1));
    let counted = counted(path);
    assert!((least..=most).contains(&counted), "{least} <= {counted} <= {most}");
}

pub fn a_grant_reaches_a_run_under_way_and_lets_a_refused_one_start(path: &OsStr) {
    let block = ["-q", "-l", "10k", "-m", "block", "-e"];
    let start = |estimate: &str, input: &str| run_with(path, &[&block[..], &[estimate]].concat(), input).code();
    assert_eq!(start("0", &assistant("a", 9500)), Some(0));
    let (mut ours, theirs) = terminal(80);
    let mut command = with(path, &["-l", "10k", "-m", "block", "-e", "0", "--color", "never"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(theirs).spawn().expect("starts");
    drop(command);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(assistant("first", 1).as_bytes()).expect("written");
    read_until(&mut ours, "9.5K / 10.0K");
    assert_eq!(start("1000", ""), Some(121));
    let granted = run_with(path, &["--grant", "5k"], "");
    assert_eq!((granted.code(), granted.err.as_str(), granted.out.len()), (Some(0), "", 0));
    let began = Instant::now();
    read_until(&mut ours, "9.5K / 15.0K");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    stdin.write_all(assistant("b", 2999).as_bytes()).expect("written");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert_eq!(start("2500", NO_SPEND), Some(0));
    assert_eq!(start("2501", ""), Some(121));
    assert_eq!(start("0", &assistant("c", 2501)), Some(122));
    let (facts, code) = status(path, &[]);
    assert_eq!((&facts["budgets"][0]["limit"], code), (&15_000.into(), Some(122)));
}

pub fn a_grant_to_one_command_raises_its_budget_alone(path: &OsStr) {
    let args = ["-q", "-l", "1000", "-b", "/a=500", "-b", "/b=500", "-b", "/a=1usd", "-m", "block", "-e", "600", "-n"];
    let start = |name: &str| run_with(path, &[&args[..], &[name]].concat(), NO_SPEND).code();
    let missing = run_with(path, &["--grant", "1", "-n", "/a"], "");
    assert_eq!(missing.code(), Some(125), "there is no ledger yet");
    assert!(missing.err.contains("there is no ledger"), "{}", missing.err);
    assert_eq!(run_with(path, &["-q", "-l", "1000", "-b", "/a=500", "-b", "/b=500"], NO_SPEND).code(), Some(0));
    assert_eq!((start("/a"), start("/b")), (Some(121), Some(121)));
    for amount in ["60", "40", "0.5usd"] {
        assert_eq!(run_with(path, &["-n", "/a", "--grant", amount], "").code(), Some(0));
    }
    assert_eq!((start("/a"), start("/b")), (Some(0), Some(121)));
    let budgets = status(path, &[]).0["budgets"].clone();
    let limits: Vec<_> = budgets.as_array().expect("a list").iter().map(|budget| budget["limit"].clone()).collect();
    assert_eq!(limits, [Value::from(1000), Value::from(600), Value::from(1.5), Value::from(500)]);
    for bad in ["-5", "0.5", "x"] {
        assert_eq!(run_with(path, &["--grant", bad], "").code(), Some(125));
    }
}

pub fn the_limits_and_the_window_of_the_runs_are_kept(path: &OsStr) {
    let run = |args: &[&str]| run_with(path, &[&["-q", "-n", "/a"], args].concat(), &assistant("a", 500)).code();
    assert_eq!(run(&["-l", "10k", "-b", "/a=400", "-w", "5h"]), Some(0));
    let (facts, code) = status(path, &[]);
    assert_eq!((&facts["budgets"][0]["limit"], &facts["budgets"][1]["limit"]), (&10_000.into(), &400.into()));
    assert_eq!((code, &facts["window_seconds"]), (Some(122), &18_000.0.into()));
    // What is asked for comes first, and the last run's word is kept.
    assert_eq!(run(&["-l", "20k", "-b", "/a=2k", "-w", "month"]), Some(0));
    let (facts, code) = status(path, &["-b", "/a=3k"]);
    let limits = [&facts["budgets"][0]["limit"], &facts["budgets"][1]["limit"]];
    assert_eq!((limits, code), ([&Value::from(20_000), &Value::from(3000)], Some(0)));
    assert_eq!((&facts["period"], &facts["counted"]), (&"month".into(), &1000.into()));
}

/// Claude Code with a context of a million tokens, whose `result` has another name for the model.
const LONG_CONTEXT: &str = concat!(
    r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-opus-5[1m]","claude_code_version":"2.1.331"}"#,
    "\n",
    r#"{"type":"assistant","session_id":"s","parent_tool_use_id":null,"message":{"id":"m1","model":"claude-opus-5","usage":{"input_tokens":100,"output_tokens":5000,"cache_read_input_tokens":90000,"cache_creation_input_tokens":0}}}"#,
    "\n",
    r#"{"type":"result","subtype":"success","session_id":"s","num_turns":1,"total_cost_usd":0.0682,"usage":{"input_tokens":100,"output_tokens":5000,"cache_read_input_tokens":90000,"cache_creation_input_tokens":0},"modelUsage":{"claude-opus-5[1m]":{"inputTokens":100,"outputTokens":5000,"cacheReadInputTokens":90000,"cacheCreationInputTokens":0,"costUSD":0.0682}}}"#,
    "\n",
);

/// The tokens, the micro-dollars and those by model in the summary of a run, or in the report of a ledger.
fn figures(facts: &Value) -> (u64, u64, BTreeMap<String, u64>) {
    let counted = if facts["counted"].is_null() { &facts["tokens"]["counted"] } else { &facts["counted"] };
    let models = facts["models"].as_object().expect("an object");
    let cost = |model: &Value| model["micro_usd"].as_u64().expect("a number");
    let costs: BTreeMap<_, _> = models.iter().map(|(name, model)| (name.clone(), cost(model))).collect();
    (counted.as_u64().expect("a number"), costs.values().sum(), costs)
}

pub fn what_a_settlement_moves_or_lowers_is_so_in_the_ledger(path: &OsStr) {
    let review = String::from_utf8(bytes("review.jsonl")).expect("UTF-8");
    let mut before = String::new();
    for (name, stream) in [("/long", LONG_CONTEXT), ("/review", &review)] {
        let end = stream.trim_end().rfind('\n').expect("lines") + 1;
        let of = |input: &str| figures(&summary(&["-q"], input.as_bytes()).1);
        let (live, settled) = (of(&(before.clone() + &stream[..end])), of(&(before.clone() + stream)));
        assert_ne!(live, settled);
        let mut command = with(path, &["-q", "-l", "1G", "-n", name]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        // First the live count, then, while the run goes on, what the `result` has made of it.
        for (part, want) in [(&stream[..end], &live), (&stream[end..], &settled)] {
            stdin.write_all(part.as_bytes()).expect("written");
            let deadline = Instant::now() + Duration::from_secs(60);
            while figures(&status(path, &[]).0) != *want {
                assert!(Instant::now() < deadline, "{} {want:?}", status(path, &[]).0);
            }
        }
        drop(stdin);
        assert_eq!(child.wait().expect("ends").code(), Some(0));
        before += stream;
        for window in ["20m", "1h", "7d", "60d", "1000d"] {
            let (facts, _) = status(path, &["-w", window]);
            assert_eq!(figures(&facts), settled, "{window}");
            assert_eq!((&facts["tokens_last_hour"], &facts["usd"]), (&facts["counted"], &facts["usd_last_hour"]));
            assert_eq!(facts["tokens"]["micro_usd"], settled.1);
            let commands = facts["commands"].as_object().expect("an object").values();
            assert_eq!(commands.filter_map(Value::as_u64).sum::<u64>(), settled.0);
        }
    }
}
