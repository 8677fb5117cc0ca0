//! Scenarios in which budget-tee must count exactly what the mock served, in tokens of each class and in
//! micro-dollars. Each is run with and without partial messages. A test waits until the client has printed the
//! first block of a message before the message is interrupted or cut: then it is sure to know the message.

use serde_json::json;

use super::bill::{check, check_filter};
use super::client::{Client, Sandbox};
use super::run::{Ended, Run};
use super::script::{CUT, End, Event, agent, agent_in_background, agent_on, as_speaker, bash, error, text, tool};

scenarios! {
    plain,
    tools,
    foreground_subagent,
    nested_subagents,
    background_subagents,
    prompt_hook,
    resumed_twice,
    interrupted,
    compacted,
    max_turns,
    overloaded_then_good,
    cut_in_mid_stream,
}

/// Runs the client with one prompt to the main loop.
fn prompted(sandbox: &Sandbox, more: &[&str]) -> Ended {
    let prompt = as_speaker("main", "please go on");
    sandbox.wrap(&[], &[&["-p", prompt.as_str()], more].concat()).end(sandbox)
}

/// Starts a client that takes its prompts from stdin, and sends the first.
fn chat(sandbox: &Sandbox) -> Run {
    let mut run = sandbox.chat();
    run.say(&as_speaker("main", "please go on"));
    run
}

fn plain(client: &Client) {
    let sandbox = client.sandbox([("main", vec![text("Done.")])]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
    assert_eq!(run.code, 0);
}

fn tools(client: &Client) {
    let two = bash("echo 1").and(bash("echo 2"));
    let write = tool("Write", json!({"file_path": "b.txt", "content": "three\n"}));
    let sandbox = client.sandbox([("main", vec![text("I look.").and(bash("ls")), two, write, text("Done.")])]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn foreground_subagent(client: &Client) {
    let sandbox = client.sandbox([
        ("main", vec![text("I ask one.").and(agent("one")), agent_on("haiku", "two"), text("Done.")]),
        ("one", vec![bash("ls"), bash("pwd"), text("A report.")]),
        ("two", vec![bash("ls"), text("Another report.")]),
    ]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn nested_subagents(client: &Client) {
    let sandbox = client.sandbox([
        ("main", vec![agent("outer"), text("Done.")]),
        ("outer", vec![agent("inner"), bash("ls"), text("A report.")]),
        ("inner", vec![bash("pwd"), text("A report.")]),
    ]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn background_subagents(client: &Client) {
    let sandbox = client.sandbox([
        (
            "main",
            vec![
                agent_in_background("one").and(agent_in_background("two")),
                text("They run."),
                text("One is back."),
                text("Both are."),
            ],
        ),
        // Each reports after the previous turn of the main loop, so that each report gets a turn of its own.
        ("one", vec![bash("ls"), text("A report.").after(Event::Served("main", 2))]),
        ("two", vec![bash("ls"), bash("pwd"), text("Another report.").after(Event::Served("main", 3))]),
    ]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn prompt_hook(client: &Client) {
    let sandbox = client.sandbox([
        ("main", vec![bash("ls"), text("Done.")]),
        ("hook", vec![text(r#"{"ok": true}"#)]),
        ("hook-agent", vec![bash("true"), tool("StructuredOutput", json!({"ok": true}))]),
    ]);
    let hook = |kind, speaker| {
        let prompt = as_speaker(speaker, "Is it fine? $ARGUMENTS");
        json!([{"matcher": "Bash", "hooks": [{"type": kind, "prompt": prompt}]}])
    };
    sandbox.write_settings(&json!({
        "hooks": {"PreToolUse": hook("prompt", "hook"), "PostToolUse": hook("agent", "hook-agent")}
    }));
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn resumed_twice(client: &Client) {
    let sandbox = client.sandbox([
        ("main", vec![bash("ls"), text("1"), agent("one"), text("2"), text("3")]),
        ("one", vec![bash("pwd"), text("A report.")]),
    ]);
    let first = prompted(&sandbox, &[]);
    let second = sandbox.wrap(&[], &["-p", "again", "--resume", first.session()]).end(&sandbox);
    let third = sandbox.wrap(&[], &["-p", "and again", "--continue"]).end(&sandbox);
    assert_eq!([second.session(), third.session()], [first.session(); 2]);
    for run in [&first, &second, &third] {
        check(&sandbox, run);
    }
    check_filter(&sandbox, &[&first, &second, &third]);
    check_filter(&sandbox, &[&second, &third]);
}

fn interrupted(client: &Client) {
    let stalls = text("A whole block.").and(text("Half of another.")).ends(End::Stalls);
    let sandbox = client.sandbox([("main", vec![text("1"), stalls, text("3")])]);
    let mut run = chat(&sandbox);
    run.wait_for("result", 1);
    run.say("turn two");
    run.wait_for("assistant", 2);
    run.interrupt();
    run.wait_for("result", 2);
    run.say("turn three");
    run.wait_for("result", 3);
    check(&sandbox, &run.end(&sandbox));
}

fn compacted(client: &Client) {
    let summary = text("<summary>speaker:main was asked to go on, and did.</summary>");
    let sandbox = client.sandbox([("main", vec![bash("ls"), text("1"), summary, text("2")])]);
    let mut run = chat(&sandbox);
    run.wait_for("result", 1);
    run.say("/compact");
    run.wait_for("result", 2);
    run.say("turn three");
    run.wait_for("result", 3);
    check(&sandbox, &run.end(&sandbox));
}

fn max_turns(client: &Client) {
    let sandbox = client.sandbox([("main", vec![bash("ls"), bash("pwd")])]);
    let run = prompted(&sandbox, &["--max-turns", "2"]);
    check(&sandbox, &run);
    assert_eq!((run.code, &run.of_type("result")[0]["subtype"]), (1, &"error_max_turns".into()));
}

fn overloaded_then_good(client: &Client) {
    let sandbox = client.sandbox([("main", vec![error(529), bash("ls"), error(529), text("Done.")])]);
    let run = prompted(&sandbox, &[]);
    check(&sandbox, &run);
}

fn cut_in_mid_stream(client: &Client) {
    let cut = text("A whole block.").and(bash("echo half of another")).ends(End::Cut);
    let sandbox = client.sandbox([("main", vec![bash("ls"), cut, text("Done.")])]);
    let run = sandbox.wrap(&[], &["-p", &as_speaker("main", "please go on")]);
    run.wait_for("assistant", 2);
    sandbox.mock.signal(CUT);
    check(&sandbox, &run.end(&sandbox));
}
