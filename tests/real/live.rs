//! Stops of a client at work: exit codes, that no process is left alive, and that no request follows the stop.
//! Tokens and limits are chosen so that a test holds whether budget-tee stops before the call that cannot fit or
//! after the line that exceeded the budget.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::bill::{check, check_hosts};
use super::client::{Client, Sandbox};
use super::mock::DEADLINE;
use super::run::Ended;
use super::script::{Event, Reply, as_speaker, bash, bash_in_background, text};

scenarios! {
    wrapper_stops_tools,
    wrapper_stops_a_loop,
    wrapper_interrupts,
    wrapper_ends_what_lingers,
    filter_stops_tools,
    filter_stops_a_loop,
    filter_that_is_refused,
    later_run_on_a_ledger,
    two_runs_on_a_ledger,
    hook_ends_a_session,
}

/// A foreground tool that never ends. The client refuses a long `sleep`.
const FOR_EVER: &str = "exec tail -f /dev/null";

/// How long a filter may take to end a writer that is silent.
const SILENT_WRITER: Duration = Duration::from_secs(20);

/// The arguments of a client with one prompt to the main loop.
fn prompt() -> [String; 2] {
    ["-p".to_owned(), as_speaker("main", "please go on")]
}

fn words(prompt: &[String; 2]) -> [&str; 2] {
    [&prompt[0], &prompt[1]]
}

/// Twelve turns, each with a tool that takes half a second: enough for a stop to come before the next request.
fn turns() -> Vec<Reply> {
    (0..12).map(|_| text("A step.").and(bash("sleep 0.5")).tokens(5000)).collect()
}

/// Checks that a run was stopped at its budget, and that no process of it is left.
fn check_stopped(sandbox: &Sandbox, run: &Ended) {
    check_hosts(sandbox);
    let alive = sandbox.alive();
    assert!(alive.is_empty(), "still alive: {alive:?}");
    let outcome = &run.summary["outcome"];
    assert_eq!((outcome.as_str(), &run.summary["exit_code"]), (Some("stopped"), &122.into()), "{}", run.stderr);
}

/// Checks that there was no request after the last message that was forwarded.
fn check_no_request_after(run: &Ended) {
    let message = |record: &'static str| move |value: &serde_json::Value| value.pointer(record).cloned();
    let ids = run.records.iter().filter_map(message("/message/id"));
    let ids = ids.chain(run.records.iter().filter_map(message("/event/message/id")));
    let ids: HashSet<_> = ids.map(|id| id.to_string()).collect();
    assert_eq!(run.requests.len(), ids.len(), "requests, and messages that were forwarded");
}

fn wrapper_stops_tools(client: &Client) {
    // The tool and one child ignore signals; another child is in a session of its own, and ignores them too.
    let stubborn = bash_in_background("trap '' TERM HUP INT; sleep 1000 & setsid sleep 1000 & : >up; wait");
    let exceeds = bash(FOR_EVER).tokens(8000).after(Event::Signal("up"));
    let sandbox = client.sandbox([("main", vec![stubborn.tokens(5000), exceeds])]);
    let up = sandbox.fifo("up");
    let run = sandbox.wrap(&["-l", "10500", "-m", "block", "-k", "1s"], &words(&prompt()));
    up.recv_timeout(DEADLINE).expect("the tool runs");
    sandbox.mock.signal("up");
    let run = run.end(&sandbox);
    check_stopped(&sandbox, &run);
    assert_eq!((run.code, run.requests.len()), (122, 2));
}

fn wrapper_stops_a_loop(client: &Client) {
    let sandbox = client.sandbox([("main", turns())]);
    let run = sandbox.wrap(&["-l", "12k", "-m", "block"], &words(&prompt())).end(&sandbox);
    check_stopped(&sandbox, &run);
    assert_eq!(run.code, 122);
    check_no_request_after(&run);
    // It is stopped before the call that cannot fit.
    assert_eq!(run.summary["stopped_by"], "next_call");
    let counted = run.summary["tokens"]["counted"].as_u64();
    assert!(counted.is_some_and(|counted| counted <= 12_000), "{counted:?}");
}

fn wrapper_interrupts(client: &Client) {
    let sandbox = client.sandbox([("main", vec![bash("true").tokens(5000), bash(FOR_EVER).tokens(8000)])]);
    let run = sandbox.wrap(&["-l", "10500", "-m", "block", "-s", "INT"], &words(&prompt())).end(&sandbox);
    check_stopped(&sandbox, &run);
    assert_eq!((run.code, run.requests.len()), (122, 2));
    // On INT the client ends its turn and writes its result line.
    assert_eq!(run.of_type("result").len(), 1, "result lines");
    check(&sandbox, &run);
}

fn wrapper_ends_what_lingers(client: &Client) {
    let lingers = bash_in_background(": >up; exec tail -f /dev/null");
    let sandbox = client.sandbox([("main", vec![lingers, text("It runs.").after(Event::Signal("up"))])]);
    let up = sandbox.fifo("up");
    let run = sandbox.wrap(&["-l", "1M", "-m", "block", "--linger", "1s"], &words(&prompt()));
    up.recv_timeout(DEADLINE).expect("the tool runs");
    sandbox.mock.signal("up");
    let run = run.end(&sandbox);
    let alive = sandbox.alive();
    assert!(alive.is_empty(), "still alive: {alive:?}");
    assert_eq!((run.code, run.summary["outcome"].as_str()), (0, Some("completed")), "{}", run.stderr);
    check(&sandbox, &run);
}

fn filter_stops_tools(client: &Client) {
    let sandbox = client.sandbox([("main", vec![bash("true").tokens(5000), bash(FOR_EVER).tokens(8000)])]);
    let run = sandbox.pipe(&["-l", "10500", "-m", "block"], &words(&prompt())).end_within(&sandbox, SILENT_WRITER);
    check_stopped(&sandbox, &run);
    assert_eq!((run.pipe_status.as_str(), run.requests.len()), ("143 122", 2));
}

fn filter_stops_a_loop(client: &Client) {
    let sandbox = client.sandbox([("main", turns())]);
    let run = sandbox.pipe(&["-l", "12k", "-m", "block"], &words(&prompt())).end(&sandbox);
    check_stopped(&sandbox, &run);
    check_no_request_after(&run);
    assert_eq!(run.pipe_status, "143 122");
}

fn hook_ends_a_session(client: &Client) {
    let sandbox = client.sandbox([("main", turns())]);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let start = readme.find("transcript=$(jq").expect("the hook");
    let hook = &readme[start..start + readme[start..].find("```").expect("its end")];
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_budget-tee"));
    let folder = program.parent().expect("a folder").display();
    let script = format!("PATH={folder}:$PATH\n{}", hook.replace("500k", "17k"));
    std::fs::write(sandbox.path("project/.claude/hook"), script).expect("written");
    sandbox.write_settings(&json!({
        "hooks": {"PreToolUse": [{"hooks": [{"type": "command", "command": "sh .claude/hook"}]}]}
    }));
    let run = sandbox.wrap(&[], &words(&prompt())).end(&sandbox);
    // After three calls of 5,000 tokens the next one does not fit. The message that asks for the tool may not be
    // in the transcript yet: then the hook sees that with the fourth.
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!((3..=4).contains(&run.requests.len()), "{}", run.requests.len());
    assert_eq!(run.of_type("result").len(), 1, "result lines");
    check_hosts(&sandbox);
}

fn filter_that_is_refused(client: &Client) {
    let sandbox = client.sandbox([("main", turns())]);
    let run = sandbox.pipe(&["-l", "1k", "-e", "2k", "-m", "block"], &words(&prompt())).end(&sandbox);
    let alive = sandbox.alive();
    assert!(alive.is_empty(), "still alive: {alive:?}");
    // The client has hardly started when it is ended.
    assert_eq!((run.pipe_status.as_str(), run.requests.len()), ("143 121", 0), "{}", run.stderr);
}

fn later_run_on_a_ledger(client: &Client) {
    let first = [bash("ls").tokens(5000), text("Done.").tokens(5000)];
    let second = bash(FOR_EVER).tokens(6000);
    let sandbox = client.sandbox([("main", [&first[..], &[second]].concat())]);
    let ledger = sandbox.argument("ledger");
    let run = || {
        let options = ["-L", ledger.as_str(), "-l", "15k", "-m", "block"];
        sandbox.wrap(&options, &words(&prompt())).end(&sandbox)
    };
    let (first, second, third) = (run(), run(), run());
    assert_eq!([first.code, second.code, third.code], [0, 122, 121], "{}", third.stderr);
    check_stopped(&sandbox, &second);
    let requests = [&first, &second, &third].map(|run| run.requests.len());
    assert_eq!(requests, [2, 1, 0]);
}

fn two_runs_on_a_ledger(client: &Client) {
    let idle = client.sandbox([("main", vec![bash(": >up; exec tail -f /dev/null").tokens(5000)])]);
    let busy = client.sandbox([("main", vec![bash("ls").tokens(5000), text("Done.").tokens(6000)])]);
    let ledger = idle.argument("ledger");
    let options = ["-L", ledger.as_str(), "-l", "15k", "-m", "block"];
    let up = idle.fifo("up");
    let waiting = idle.wrap(&options, &words(&prompt()));
    up.recv_timeout(DEADLINE).expect("the tool runs");
    let spender = busy.wrap(&options, &words(&prompt())).end(&busy);
    let waiting = waiting.end(&idle);
    for (sandbox, run) in [(&busy, &spender), (&idle, &waiting)] {
        check_stopped(sandbox, run);
    }
    assert_eq!([spender.code, waiting.code], [122; 2]);
    assert_eq!([spender.requests.len(), waiting.requests.len()], [2, 1]);
}
