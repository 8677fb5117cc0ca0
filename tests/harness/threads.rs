//! Threads of an agent that tells the figures of the whole thread each time, and are resumed: the tests
//! that every kind of ledger must pass.
#![allow(dead_code, reason = "no test binary uses all of it")]

use std::ffi::OsStr;
use std::io::Write;
use std::time::Duration;

use crate::harness::{Ran, kill, read_until, summary};
use crate::sharing::{counted, run_with, wait_for, waiting, with};
use rustix::process::Signal;
use serde_json::Value;

pub const THREAD: &str = "01a210f5-01db-72e0-a273-5d7d9cd799da";

const NOTE: &str = "budget-tee: Codex reports usage at the end of a turn: budgets take effect then\nbudget-tee: note: of a resumed \
     thread the earlier turns are counted too\n";
const NOTE_KNOWN: &str = "budget-tee: Codex reports usage at the end of a turn: budgets take effect then\n";

/// The end of a turn: the input of the thread so far, cached input included, the cached input, and the output.
pub fn turn([input, cached, output]: [u64; 3]) -> String {
    let usage = serde_json::json!({
        "input_tokens": input, "cached_input_tokens": cached, "cache_write_input_tokens": 0, "output_tokens": output,
    });
    serde_json::json!({ "type": "turn.completed", "usage": usage }).to_string() + "\n"
}

/// The stream of a Codex process.
pub fn process(thread: &str, turns: &[[u64; 3]]) -> String {
    let started = serde_json::json!({ "type": "thread.started", "thread_id": thread }).to_string() + "\n";
    turns.iter().fold(started, |text, figures| text + "{\"type\":\"turn.started\"}\n" + &turn(*figures))
}

/// The mock's three turns, and what they are when the thread is resumed for two more.
const FIRST: [u64; 3] = [6000, 600, 156];
const RESUMED: [u64; 3] = [9000, 900, 259];

/// Input, output, cache-write and cache-read tokens of a run.
fn tokens(summary: &Value) -> [u64; 4] {
    ["input", "output", "cache_write", "cache_read"].map(|class| summary["tokens"][class].as_u64().expect("a number"))
}

/// Runs a stream with the ledger at `path`. Returns its tokens too.
fn count(path: &OsStr, args: &[&str], input: &str) -> (Ran, [u64; 4]) {
    let (ran, summary) = summary(&[&["-q", "-L", path.to_str().expect("UTF-8")], args].concat(), input.as_bytes());
    assert_eq!(ran.out, input.as_bytes());
    (ran, tokens(&summary))
}

pub fn a_resumed_thread_counts_what_is_new(path: &OsStr) {
    let (ran, summary) = summary(&["-q"], process(THREAD, &[RESUMED]).as_bytes());
    assert_eq!((tokens(&summary), ran.err.as_str()), ([8100, 259, 0, 900], NOTE), "without a ledger");
    let (ran, first) = count(path, &[], &process(THREAD, &[FIRST]));
    assert_eq!((first, ran.err.as_str()), ([5400, 156, 0, 600], NOTE));
    let (ran, second) = count(path, &[], &process(THREAD, &[RESUMED]));
    let took_off = "budget-tee: resumed session: 6,156 tokens of earlier processes are taken off\nbudget-tee: note: \
                    input 5400, output 156, cache-write 0, cache-read 600\n";
    assert_eq!((second, ran.err), ([2700, 103, 0, 300], format!("{NOTE_KNOWN}{took_off}")));
    assert_eq!(counted(path), 9259);
    // Once more, for two turns; then the same stream again, and a thread that has begun anew.
    for (turns, want) in [
        (&[[10_000, 1000, 300], [12_000, 1200, 350]][..], [2700, 91, 0, 300]),
        (&[[12_000, 1200, 350]], [0; 4]),
        (&[[5000, 500, 349]], [4500, 349, 0, 500]),
        (&[[5500, 500, 350], [100, 0, 2], [101, 0, 3]], [601, 4, 0, 0]),
    ] {
        assert_eq!(count(path, &[], &process(THREAD, turns)).1, want, "{turns:?}");
    }
    let (ran, other) = count(path, &[], &process("another", &[RESUMED]));
    assert_eq!((other, ran.err.as_str()), ([8100, 259, 0, 900], NOTE), "a thread that the ledger does not know");
}

pub fn threads_and_processes_in_one_stream_are_told_apart(path: &OsStr) {
    let both = process("a", &[FIRST]) + &process("b", &[[1000, 0, 10]]);
    assert_eq!(count(path, &[], &both).1, [6400, 166, 0, 600]);
    // Both resumed, each by two processes, one after the other and in turn.
    let again = process("a", &[[7000, 600, 160]])
        + &process("b", &[[2000, 0, 20], [2500, 0, 30]])
        + &process("a", &[[8000, 700, 170]])
        + &process("c", &[[100, 0, 1]])
        + &process("b", &[[2600, 0, 40]]);
    let (ran, new) = count(path, &[], &again);
    assert_eq!(new, [1900 + 1600 + 100, 14 + 30 + 1, 0, 100]);
    assert_eq!(ran.err.matches("are taken off").count(), 2, "{}", ran.err);
    assert!(ran.err.starts_with(NOTE_KNOWN), "{}", ran.err);
    // A turn of a thread that has no name is nobody's mark.
    for _ in 0..2 {
        assert_eq!(count(path, &[], &(turn([100, 0, 1]) + &turn([150, 0, 2]))).1, [150, 2, 0, 0]);
    }
}

pub fn block_mode_does_not_stop_a_resumed_thread_for_its_earlier_turns(path: &OsStr) {
    let block = ["-q", "-m", "block", "-e", "0", "-l", "10k"];
    assert_eq!(run_with(path, &block, &process(THREAD, &[FIRST])).code(), Some(0));
    // Of 9,259 tokens in all 3,103 are new; counted whole they would be over the limit.
    assert_eq!(run_with(path, &block, &process(THREAD, &[RESUMED])).code(), Some(0));
    assert_eq!(counted(path), 9259);
    let over = process(THREAD, &[[10_000, 1000, 1000], [10_001, 1000, 1000]]);
    let ran = run_with(path, &block, &over);
    assert_eq!((ran.code(), counted(path)), (Some(122), 11_000), "{}", ran.err);
    assert!(ran.err.contains("exceeded: 11,000 of 10,000"), "{}", ran.err);
}

pub fn a_price_holds_for_what_is_new_of_a_thread(path: &OsStr) {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = folder.path().join("prices.json");
    let row = r#"[{"model":"unknown","input":2,"output":30,"cache_write_5m":1,"cache_write_1h":1,"cache_read":0.5}]"#;
    std::fs::write(&prices, row).expect("written");
    let args = ["-q", "-L", path.to_str().expect("UTF-8"), "--prices", prices.to_str().expect("UTF-8")];
    let usd = |figures| summary(&args, process(THREAD, &[figures]).as_bytes()).1["usd"].as_f64().expect("a number");
    // In millionths of a dollar: input, cached input, output.
    assert!((usd(FIRST) * 1e6 - (5400.0 * 2.0 + 600.0 * 0.5 + 156.0 * 30.0)).abs() < 0.5);
    assert!((usd(RESUMED) * 1e6 - (2700.0 * 2.0 + 300.0 * 0.5 + 103.0 * 30.0)).abs() < 0.5);
}

pub fn a_thread_of_a_killed_run_is_neither_lost_nor_counted_twice(path: &OsStr) {
    // Killed when the turn has been recorded.
    let mut run = waiting(path, &["-q"]);
    run.pass("{\"type\":\"thread.started\",\"thread_id\":\"recorded\"}\n");
    run.pass(&turn([1000, 0, 10]));
    wait_for(path, 1010);
    kill(&run.child, Signal::KILL);
    run.child.wait().expect("ends");
    assert_eq!(count(path, &[], &process("recorded", &[[3000, 0, 20]])).1, [2000, 10, 0, 0]);
    // Killed at any time: what was not recorded of a thread is recorded when it is resumed.
    for n in 0..30u64 {
        let thread = format!("t{n}");
        let mut run = waiting(path, &["-q"]);
        run.pass(&process(&thread, &[]));
        for turns in 1..=3 {
            run.pass(&turn([1000 * turns, 0, 10 * turns]));
            std::thread::sleep(Duration::from_millis(n * 7));
        }
        kill(&run.child, Signal::KILL);
        run.child.wait().expect("ends");
        assert_eq!(run_with(path, &["-q"], &process(&thread, &[[4000, 0, 40]])).code(), Some(0));
        assert_eq!(counted(path), 3020 + 4040 * (n + 1), "{n}");
    }
}

pub fn a_run_under_way_does_not_take_back_the_mark_of_another(path: &OsStr) {
    let mut run = waiting(path, &["-q"]);
    run.pass(&process(THREAD, &[]));
    run.pass(&turn(FIRST));
    wait_for(path, 6156);
    assert_eq!(count(path, &[], &process(THREAD, &[RESUMED])).1, [2700, 103, 0, 300]);
    // Of another thread, while the first run still has the old mark.
    run.pass(&process("b", &[]));
    run.pass(&turn([100, 0, 1]));
    assert_eq!(run.end(), Some(0));
    assert_eq!(count(path, &[], &process(THREAD, &[RESUMED])).1, [0; 4]);
    assert_eq!(counted(path), 9259 + 101);
}

pub fn ids_of_threads_from_a_hostile_stream_do_no_harm(path: &OsStr) {
    let long = "x".repeat(50_000);
    for id in [&long, "\u{1b}]0;x\u{7}", "\0", "a b", "\"}\n", "..", "-", "#0", "\u{202e}ä"] {
        assert_eq!(count(path, &[], &process(id, &[FIRST])).1, [5400, 156, 0, 600], "{id:.20?}");
        assert_eq!(count(path, &[], &process(id, &[RESUMED])).1, [2700, 103, 0, 300], "{id:.20?}");
    }
    // Figures that overflow.
    let most = process("most", &[[u64::MAX, u64::MAX - 1, u64::MAX]]);
    assert_eq!(run_with(path, &["-q"], &most).code(), Some(0));
    assert_eq!(run_with(path, &["-q"], &most).code(), Some(0));
    // A usage that is no object, an id that is no text.
    let odd = "{\"type\":\"thread.started\",\"thread_id\":7}\n{\"type\":\"turn.completed\",\"usage\":[]}\n";
    assert_eq!(count(path, &[], odd).1, [0; 4]);
}

pub fn so_many_threads_are_remembered(path: &OsStr) {
    let ids = |from: u64, to: u64| (from..to).map(|n| process(&format!("t{n}"), &[[n + 1, 0, 0]])).collect::<String>();
    // Twelve runs of 250 threads each.
    for n in 0..12 {
        assert_eq!(run_with(path, &["-q"], &ids(n * 250, n * 250 + 250)).code(), Some(0));
    }
    // The newest 1,024 are known, and the first ones are not.
    assert_eq!(count(path, &[], &ids(3000 - 1024, 3000)).1, [0; 4]);
    assert_eq!(count(path, &[], &ids(0, 1)).1, [1, 0, 0, 0]);
    // In one stream.
    let two = ids(10_000, 10_250);
    assert_eq!(count(path, &[], &(two.clone() + &two)).1[0], (10_000..10_250).map(|n: u64| n + 1).sum::<u64>());
}

/// A run that begins while its ledger cannot be used counts threads whole, and says so.
pub fn without_its_ledger_a_run_counts_a_thread_whole(unreachable: &OsStr) {
    let mut command = with(unreachable, &["-q"]);
    let piped = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = piped.stderr(std::process::Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(process(THREAD, &[RESUMED]).as_bytes()).expect("written");
    drop(stdin);
    let err = read_until(child.stderr.as_mut().expect("piped"), "the earlier turns are counted too\n");
    assert!(err.ends_with(NOTE) && err.contains("going on without"), "{err}");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

pub fn a_resumed_session_of_records_like_claude_codes_counts_what_is_new(path: &OsStr) {
    let result = |input: u64, total: u64| {
        let usage = format!(r#"{{"input_tokens":{input},"output_tokens":10,"total_tokens":{total}}}"#);
        format!("{{\"type\":\"result\",\"session_id\":\"q\",\"usage\":{usage}}}\n")
    };
    assert_eq!(count(path, &[], &result(1000, 1010)).1, [1000, 10, 0, 0]);
    let (ran, more) = count(path, &[], &result(3000, 3010));
    assert_eq!(more, [2000, 0, 0, 0]);
    assert!(ran.err.contains("1,010 tokens of earlier processes are taken off"), "{}", ran.err);
}
