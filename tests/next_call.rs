//! `--stop before`: block mode stops a run whose next call cannot fit.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use budget_tee::amount::{Amount, Unit};
use budget_tee::budget::{Budget, Budgets, Mode, StopAt};
use budget_tee::count::meter::Meter;
use budget_tee::count::price::Prices;
use budget_tee::run::Run;
use harness::{run, summary};
use serde_json::{Value, json};

/// A line of session `s`: a message with one content block, of input tokens alone.
fn block(id: &str, parent: Option<&str>, input: u64, kind: &str) -> Value {
    json!({ "type": "assistant", "session_id": "s", "parent_tool_use_id": parent,
        "message": { "id": id, "model": "claude-opus-5", "content": [{ "type": kind }],
            "usage": { "input_tokens": input, "output_tokens": 0 } } })
}

fn says(id: &str, input: u64) -> Value {
    block(id, None, input, "text")
}

fn asks(id: &str, input: u64) -> Value {
    block(id, None, input, "tool_use")
}

fn agent(id: &str, parent: &str, input: u64) -> Value {
    block(id, Some(parent), input, "tool_use")
}

/// What a subagent's tool returns; it says what its last call used.
fn returns(parent: &str, input: u64) -> Value {
    json!({ "type": "user", "session_id": "s",
        "message": { "content": [{ "type": "tool_result", "tool_use_id": parent }] },
        "tool_use_result": { "agentId": "x", "usage": { "input_tokens": input } } })
}

fn limited(value: u64, unit: Unit, classes: &str) -> Run {
    let budget = Budget::new(None, Amount { unit, value }, true);
    let classes = classes.parse().expect("classes");
    let prices = Prices::new(None, "2026-11-25", None).expect("the built-in prices");
    Run::new(None, Mode::Block, classes, Budgets::new(vec![budget], 90), Meter::new(prices, None))
}

const ALL: &str = "input,output,cache-write,cache-read";

/// After which of these lines a run with this limit is stopped.
fn stops(limit: u64, lines: &[Value]) -> Option<usize> {
    stops_in(limited(limit, Unit::Tokens, ALL), lines)
}

fn stops_in(mut run: Run, lines: &[Value]) -> Option<usize> {
    lines.iter().position(|line| run.feed(format!("{line}\n").as_bytes()).ends)
}

#[test]
fn a_message_that_asks_for_a_tool_needs_room_for_its_prompt_again() {
    let lines = [asks("m1", 100), says("m2", 120)];
    assert_eq!(stops(199, &lines), Some(0));
    // Just enough is enough; what comes may still go over.
    assert_eq!(stops(200, &lines), Some(1));
    assert_eq!(stops(220, &lines), None);
}

#[test]
fn its_output_is_a_part_of_the_next_prompt() {
    let mut line = asks("m1", 100);
    line["message"]["usage"]["output_tokens"] = 7.into();
    assert_eq!(stops(213, &[line.clone()]), Some(0));
    assert_eq!(stops(214, &[line]), None);
}

#[test]
fn an_answer_without_a_tool_ends_the_turn() {
    assert_eq!(stops(100, &[says("m1", 100)]), None);
    let server_tool = block("m1", None, 100, "server_tool_use");
    assert_eq!(stops(100, &[server_tool]), None);
    // Text before the tool, and several tools in one message, are one message.
    assert_eq!(stops(199, &[says("m1", 100), asks("m1", 100), asks("m1", 100)]), Some(1));
    assert_eq!(stops(200, &[says("m1", 100), asks("m1", 100), asks("m1", 100)]), None);
}

#[test]
fn loops_that_run_side_by_side_are_added_up() {
    let lines = [asks("m1", 100), agent("a1", "t1", 40), agent("b1", "t2", 30)];
    // Used: 170. The main loop and both subagents will call again.
    assert_eq!(stops(339, &lines), Some(2));
    assert_eq!(stops(340, &lines), None);
}

#[test]
fn a_subagent_that_has_returned_does_not_call_again() {
    // The result of the tool, with or without a call that had no line of its own.
    for (last, used) in [(40, 170), (50, 220)] {
        let lines = [asks("m1", 100), agent("a1", "t1", 40), returns("t1", last), agent("b1", "t2", 30)];
        assert_eq!(stops(used + 130, &lines), None, "{last}");
        assert_eq!(stops(used + 129, &lines), Some(3), "{last}");
    }
    // Nor has it a call before it where it failed without saying what it used: the main loop goes on.
    let lines = [asks("m1", 100), agent("a1", "t1", 40), asks("m2", 110)];
    assert_eq!(stops(360, &lines), None);
    // In the background it is pending again with its next message.
    let lines = [&lines[..], &[agent("a2", "t1", 50)]].concat();
    assert_eq!(stops(460, &lines), None);
    assert_eq!(stops(459, &lines), Some(3));
}

#[test]
fn nothing_is_pending_where_the_next_prompt_may_be_any() {
    let init = json!({ "type": "system", "subtype": "init", "session_id": "s", "claude_code_version": "2.1.331" });
    let compacted = json!({ "type": "system", "subtype": "compact_boundary", "session_id": "s" });
    let reset = json!({ "type": "conversation_reset", "session_id": "s" });
    let result = json!({ "type": "result", "session_id": "s", "usage": { "input_tokens": 100 } });
    // Each time one more token is used afterwards, which must not bring back the tool of before.
    for between in [init, compacted, reset, result] {
        let other = json!({ "type": "assistant", "session_id": "other", "message": { "id": "o",
            "usage": { "input_tokens": 1 } } });
        assert_eq!(stops(250, &[asks("m1", 100), between.clone(), other, asks("m2", 20)]), None, "{between}");
    }
    // An error that the client writes itself, a message without usage, and one that was interrupted.
    let synthetic = json!({ "type": "assistant", "session_id": "s", "message": { "id": "e",
        "model": "<synthetic>", "content": [{ "type": "text" }], "usage": { "input_tokens": 0 } } });
    assert_eq!(stops(201, &[asks("m1", 100), synthetic, says("m2", 101)]), None);
    assert_eq!(stops(201, &[asks("m1", 100), asks("m0", 0), says("m2", 101)]), None);
    let mut aborted = asks("m1", 100);
    aborted["aborted"] = true.into();
    assert_eq!(stops(100, &[aborted]), None);
}

#[test]
fn with_partial_messages_the_output_is_known_when_the_message_ends() {
    let event = |event: Value| json!({ "type": "stream_event", "session_id": "s", "event": event });
    let usage = |output: u64| json!({ "input_tokens": 100, "output_tokens": output });
    let start = event(json!({ "type": "message_start", "message": { "id": "m1", "usage": usage(1) } }));
    let mut line = asks("m1", 100);
    line["message"]["usage"] = usage(1);
    let delta = event(json!({ "type": "message_delta", "usage": usage(60) }));
    let next = event(json!({ "type": "message_start", "message": { "id": "m2", "usage": usage(1) } }));
    let lines = [start, line, delta, next];
    assert_eq!(stops(201, &lines), Some(1));
    assert_eq!(stops(319, &lines), Some(2));
    assert_eq!(stops(320, &lines), None);
}

#[test]
fn only_what_counts_is_needed() {
    let mut line = asks("m1", 100);
    line["message"]["usage"] = json!({ "input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": 1000 });
    // Whether the next prompt is read from the cache is not certain.
    for classes in ["input,output", "output", "cache-read", "input,output,cache-write"] {
        let run = limited(1010, Unit::Tokens, classes);
        assert_eq!(stops_in(run, std::slice::from_ref(&line)), None, "{classes}");
    }
    for classes in ["input,cache-write,cache-read", ALL] {
        let run = limited(1010, Unit::Tokens, classes);
        assert_eq!(stops_in(run, std::slice::from_ref(&line)), Some(0), "{classes}");
    }
}

#[test]
fn in_dollars_the_next_prompt_is_read_from_the_cache() {
    // 100,000 tokens of input cost 0.5 dollars, and 0.05 to be read again.
    let lines = [asks("m1", 100_000)];
    assert_eq!(stops_in(limited(549_999, Unit::Usd, ALL), &lines), Some(0));
    assert_eq!(stops_in(limited(550_000, Unit::Usd, ALL), &lines), None);
}

#[test]
fn it_is_for_block_mode_and_can_be_switched_off() {
    let lines = [asks("m1", 100), says("m2", 120)];
    let mut after = limited(199, Unit::Tokens, ALL);
    after.stop_at = StopAt::After;
    assert_eq!(stops_in(after, &lines), Some(1));
    let mut warn = limited(199, Unit::Tokens, ALL);
    warn.mode = Mode::Warn;
    assert_eq!(stops_in(warn, &lines), None);
}

#[test]
fn the_line_that_asks_is_the_last_one_and_the_message_says_what_is_missing() {
    let lines = [asks("m1", 10_000), says("m2", 12_000)].map(|line| format!("{line}\n"));
    let input = lines.concat();
    let args = ["-q", "-l", "19k", "-m", "block", "--on-exceed", "echo hook: $BUDGET_TEE_BUDGET_REASON"];
    let (ran, summary) = summary(&args, input.as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(122), lines[0].as_bytes()));
    let told = "budget-tee: overall budget: 9,000 tokens left, next call needs ≥ 10,000\nbudget-tee: note: stopping ";
    assert!(ran.err.contains(told), "{}", ran.err);
    assert!(ran.err.contains("hook: next-call\n"), "{}", ran.err);
    assert_eq!(summary["stopped_by"], "next_call");
    assert_eq!(summary["budgets"][0]["exceeded"], false);
    let ran = run(&["-l", "19k", "-m", "block"], input.as_bytes());
    assert!(ran.err.contains("stopped before the next call: 1 message"), "{}", ran.err);
    let ran = run(&["-q", "-l", "19k", "-m", "block", "--stop", "after"], input.as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(122), input.as_bytes()));
    assert!(ran.err.contains("exceeded: ≥ 22,000 of 19,000"), "{}", ran.err);
}
