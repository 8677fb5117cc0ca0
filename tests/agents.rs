//! Streams of other agents: how their figures are brought to the four classes, and what is said of them.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use harness::{Ran, run, summary};
use serde_json::Value;

/// An agent's stream, and what is to come of it.
struct Stream {
    agent: &'static str,
    lines: &'static [&'static str],
    /// Input, output, cache-write and cache-read tokens.
    tokens: [u64; 4],
    messages: u64,
    /// Of the whole stream, where it tells a cost.
    micro_usd: Option<u64>,
    /// What is said of it on stderr.
    said: &'static str,
}

const STREAMS: [Stream; 13] = [
    Stream {
        agent: "Codex",
        lines: &[
            r#"{"type":"thread.started","thread_id":"0193-a"}"#,
            r#"{"type":"turn.started"}"#,
            r#"{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"ok"}}"#,
            r#"{"type":"turn.completed","usage":{"input_tokens":900,"cached_input_tokens":300,"cache_write_input_tokens":50,"output_tokens":40,"reasoning_output_tokens":30}}"#,
            r#"{"type":"turn.started"}"#,
            // The whole thread again.
            r#"{"type":"turn.completed","usage":{"input_tokens":2000,"cached_input_tokens":1200,"cache_write_input_tokens":50,"output_tokens":95,"reasoning_output_tokens":60}}"#,
            // Another thread.
            r#"{"type":"thread.started","thread_id":"0193-b"}"#,
            r#"{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":0,"output_tokens":5}}"#,
        ],
        tokens: [850, 100, 50, 1200],
        messages: 3,
        micro_usd: None,
        said: "Codex reports usage at the end of a turn: budgets take effect then\nbudget-tee: note: of a resumed thread \
               the earlier turns are counted too",
    },
    Stream {
        agent: "opencode",
        lines: &[
            r#"{"type":"step_start","sessionID":"ses_1","part":{"type":"step-start"}}"#,
            r#"{"type":"tool_use","sessionID":"ses_1","part":{"type":"tool","state":{"input":{"tokens":{"input":9}}}}}"#,
            r#"{"type":"step_finish","sessionID":"ses_1","part":{"reason":"tool-calls","tokens":{"total":1130,"input":900,"output":20,"reasoning":10,"cache":{"write":50,"read":150}},"cost":0.0021}}"#,
            r#"{"type":"step_finish","sessionID":"ses_1","part":{"reason":"stop","tokens":{"input":100,"output":7,"reasoning":0,"cache":{"write":0,"read":1000}},"cost":0.001}}"#,
        ],
        tokens: [1000, 37, 50, 1150],
        messages: 2,
        micro_usd: Some(3100),
        said: "",
    },
    Stream {
        agent: "Qwen Code",
        lines: &[
            r#"{"type":"system","subtype":"init","session_id":"q","model":"qwen3-coder-plus"}"#,
            r#"{"type":"assistant","session_id":"q","parent_tool_use_id":null,"message":{"id":"m1","model":"qwen3-coder-plus","content":[{"type":"tool_use"}],"usage":{"input_tokens":1000,"output_tokens":50,"cache_read_input_tokens":400,"total_tokens":1050}}}"#,
            r#"{"type":"assistant","session_id":"q","parent_tool_use_id":null,"message":{"id":"m1","model":"qwen3-coder-plus","content":[{"type":"text"}],"usage":{"input_tokens":1000,"output_tokens":50,"cache_read_input_tokens":400,"total_tokens":1050}}}"#,
            r#"{"type":"assistant","session_id":"q","parent_tool_use_id":null,"message":{"id":"m2","model":"qwen3-coder-plus","content":[],"usage":{"input_tokens":2000,"output_tokens":60,"cache_read_input_tokens":900,"total_tokens":2060}}}"#,
            r#"{"type":"result","subtype":"success","session_id":"q","num_turns":2,"usage":{"input_tokens":3000,"output_tokens":110,"cache_read_input_tokens":1300,"total_tokens":3110}}"#,
        ],
        tokens: [1700, 110, 0, 1300],
        messages: 2,
        micro_usd: None,
        said: "",
    },
    Stream {
        agent: "pi",
        lines: &[
            r#"{"type":"session","version":3,"id":"p"}"#,
            r#"{"type":"message_start","message":{"role":"assistant","content":[],"model":"m","usage":{"input":0,"output":0,"cacheRead":0,"cacheWrite":0,"totalTokens":0,"cost":{"total":0}}}}"#,
            r#"{"type":"message_update","assistantMessageEvent":{"partial":{"usage":{"input":500,"output":9}}},"message":{"role":"assistant","usage":{"input":500,"output":9}}}"#,
            r#"{"type":"message_end","message":{"role":"assistant","content":[],"model":"m","usage":{"input":500,"output":30,"cacheRead":70,"cacheWrite":20,"totalTokens":620,"cost":{"input":0.1,"total":0.00142}}}}"#,
            r#"{"type":"message_end","message":{"role":"toolResult","usage":{"input":500,"output":30}}}"#,
            r#"{"type":"turn_end","message":{"role":"assistant","usage":{"input":500,"output":30}}}"#,
            r#"{"type":"agent_end","messages":[{"role":"assistant","usage":{"input":500,"output":30}}]}"#,
        ],
        tokens: [500, 30, 20, 70],
        messages: 1,
        micro_usd: Some(1420),
        said: "",
    },
    Stream {
        agent: "Cline",
        lines: &[
            r#"{"ts":"2026-11-25T04:34:53Z","type":"hook_event","hookEventName":"agent_start"}"#,
            r#"{"ts":"2026-11-25T04:34:54Z","type":"agent_event","event":{"type":"usage","inputTokens":1000,"outputTokens":51,"cacheReadTokens":100,"totalInputTokens":1000,"totalCost":0}}"#,
            r#"{"ts":"2026-11-25T04:34:55Z","type":"agent_event","event":{"type":"content_end","inputTokens":7,"output":{"usage":1}}}"#,
            r#"{"ts":"2026-11-25T04:34:56Z","type":"agent_event","event":{"type":"usage","inputTokens":2000,"outputTokens":52,"cacheReadTokens":200,"cacheWriteTokens":10}}"#,
            r#"{"ts":"2026-11-25T04:34:57Z","type":"run_result","usage":{"inputTokens":3000},"aggregateUsage":{"inputTokens":3000,"outputTokens":103,"cacheReadTokens":300,"cacheWriteTokens":10,"totalCost":0.0123},"model":{"id":"m","provider":"p"}}"#,
        ],
        tokens: [2690, 103, 10, 300],
        messages: 2,
        micro_usd: Some(12_300),
        said: "",
    },
    Stream {
        agent: "Gemini",
        lines: &[
            r#"{"type":"init","session_id":"g","model":"gemini-3-pro"}"#,
            r#"{"type":"tool_result","tool_id":"t","output":"hi"}"#,
            r#"{"type":"result","status":"success","stats":{"total_tokens":1,"input_tokens":1,"models":{"gemini-3-pro":{"total_tokens":2200,"input_tokens":2000,"output_tokens":150,"cached":600,"input":1400},"gemini-3-flash":{"total_tokens":110,"input_tokens":100,"output_tokens":10,"cached":0}}}}"#,
        ],
        tokens: [1500, 210, 0, 600],
        messages: 1,
        micro_usd: None,
        said: "Gemini reports usage at the end only: budgets take effect then",
    },
    Stream {
        agent: "Droid",
        lines: &[
            r#"{"type":"system","subtype":"init","session_id":"d","model":"custom:m","reasoning_effort":"none"}"#,
            r#"{"type":"message","role":"user","id":"u","text":"hi","session_id":"d"}"#,
            r#"{"type":"completion","finalText":"done","numTurns":3,"session_id":"d","usage":{"input_tokens":5400,"output_tokens":156,"cache_read_input_tokens":600,"cache_creation_input_tokens":20,"factory_credits":0}}"#,
        ],
        tokens: [5400, 156, 20, 600],
        messages: 1,
        micro_usd: None,
        said: "Droid reports usage at the end only: budgets take effect then",
    },
    Stream {
        agent: "Cursor",
        lines: &[
            r#"{"type":"system","subtype":"init","session_id":"c","model":"m"}"#,
            r#"{"type":"assistant","session_id":"c","message":{"role":"assistant","content":[{"type":"text","text":"pong"}]}}"#,
            r#"{"type":"result","subtype":"success","session_id":"c","usage":{"inputTokens":120,"outputTokens":9,"cacheReadTokens":50,"cacheWriteTokens":3}}"#,
        ],
        tokens: [120, 9, 3, 50],
        messages: 1,
        micro_usd: None,
        said: "",
    },
    Stream {
        agent: "Amp",
        lines: &[
            r#"{"type":"system","subtype":"init","session_id":"T-1","tools":["Bash"]}"#,
            r#"{"type":"assistant","message":{"type":"message","role":"assistant","content":[],"usage":{"input_tokens":7,"cache_creation_input_tokens":3,"cache_read_input_tokens":14009,"output_tokens":13,"max_tokens":300000}},"parent_tool_use_id":null,"session_id":"T-1"}"#,
            r#"{"type":"assistant","message":{"type":"message","role":"assistant","content":[],"usage":{"input_tokens":7,"cache_creation_input_tokens":3,"cache_read_input_tokens":14009,"output_tokens":13}},"parent_tool_use_id":null,"session_id":"T-1"}"#,
            r#"{"type":"result","subtype":"success","num_turns":1,"session_id":"T-1"}"#,
        ],
        tokens: [14, 26, 6, 28_018],
        messages: 2,
        micro_usd: None,
        said: "",
    },
    Stream {
        agent: "Copilot",
        lines: &[
            r#"{"type":"session.skills_loaded","data":{"skills":[]}}"#,
            r#"{"type":"assistant.message","data":{"model":"gpt-4.1","content":"hi"}}"#,
            r#"{"type":"result","sessionId":"7","exitCode":0,"usage":{"premiumRequests":0}}"#,
        ],
        tokens: [0; 4],
        messages: 0,
        micro_usd: None,
        said: "GitHub Copilot CLI does not report its usage: nothing is counted",
    },
    Stream {
        agent: "a transcript of Claude Code",
        lines: &[
            r#"{"type":"mode","mode":"normal","sessionId":"i"}"#,
            r#"{"type":"file-history-snapshot","messageId":"x","snapshot":{}}"#,
            r#"{"parentUuid":"a","message":{"id":"msg_1","role":"assistant","model":"claude-sonnet-5","content":[{"type":"tool_use"}],"usage":{"input_tokens":10,"output_tokens":51,"cache_creation_input_tokens":200,"cache_read_input_tokens":100}},"type":"assistant","sessionId":"i","session_id":"i"}"#,
            r#"{"parentUuid":"a","message":{"id":"msg_1","role":"assistant","model":"claude-sonnet-5","content":[{"type":"text"}],"usage":{"input_tokens":10,"output_tokens":51,"cache_creation_input_tokens":200,"cache_read_input_tokens":100}},"type":"assistant","sessionId":"i","session_id":"i"}"#,
        ],
        tokens: [10, 51, 200, 100],
        messages: 1,
        micro_usd: None,
        said: "",
    },
    Stream {
        agent: "Letta Code",
        lines: &[
            r#"{"type":"system","subtype":"init","session_id":"l","agent_id":"l","model":"m"}"#,
            r#"{"type":"message","message_type":"reasoning_message","reasoning":"hm","session_id":"l"}"#,
            r#"{"type":"message","message_type":"usage_statistics","prompt_tokens":940,"completion_tokens":51,"total_tokens":1091,"cached_input_tokens":60,"cache_write_tokens":40,"context_tokens":1091,"session_id":"l"}"#,
            r#"{"type":"stream_event","event":{"message_type":"usage_statistics","prompt_tokens":1800,"completion_tokens":52,"total_tokens":2052,"cached_input_tokens":200,"cache_write_tokens":0},"session_id":"l"}"#,
            r#"{"type":"result","subtype":"success","session_id":"l","usage":{"prompt_tokens":2740,"completion_tokens":103,"total_tokens":3143,"cached_input_tokens":260,"cache_write_tokens":40}}"#,
        ],
        tokens: [2740, 103, 40, 260],
        messages: 2,
        micro_usd: None,
        said: "",
    },
    // One program after the other.
    Stream {
        agent: "Claude Code, then Codex",
        lines: &[
            r#"{"type":"assistant","session_id":"s","message":{"id":"a","model":"claude-opus-5","usage":{"input_tokens":5,"output_tokens":2}}}"#,
            r#"{"type":"result","session_id":"s","modelUsage":{"claude-opus-5":{"inputTokens":5,"outputTokens":20,"costUSD":0.5}}}"#,
            r#"{"type":"thread.started","thread_id":"t"}"#,
            r#"{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":40,"output_tokens":5}}"#,
        ],
        tokens: [65, 25, 0, 40],
        messages: 2,
        micro_usd: None,
        said: "",
    },
];

fn text(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The tokens of a summary.
fn tokens(summary: &Value) -> [u64; 4] {
    ["input", "output", "cache_write", "cache_read"].map(|class| summary["tokens"][class].as_u64().expect("a number"))
}

#[test]
fn each_agents_stream_is_counted_and_forwarded() {
    for Stream { agent, lines, tokens: want, messages, micro_usd, said } in STREAMS {
        let input = text(lines);
        let (Ran { out, err, .. }, summary) = summary(&["-q"], input.as_bytes());
        assert_eq!(out, input.as_bytes(), "{agent}");
        assert_eq!((tokens(&summary), summary["messages"].as_u64()), (want, Some(messages)), "{agent}");
        assert_eq!(summary["lower_bound"], agent == "Amp", "{agent}");
        let told = if said.is_empty() { String::new() } else { format!("budget-tee: {said}\n") };
        assert_eq!(err, told, "{agent}");
        if let Some(micro_usd) = micro_usd {
            let usd = summary["usd"].as_f64().expect("a number");
            assert!((usd * 1e6 - micro_usd as f64).abs() < 0.5, "{agent}: {usd}");
        }
    }
}

#[test]
fn totals_do_not_depend_on_the_size_of_reads() {
    for Stream { agent, lines, tokens: want, .. } in STREAMS {
        for size in [1, 2, 3, 7, 64] {
            let mut run = budget_tee::run::Run::default();
            for part in text(lines).as_bytes().chunks(size) {
                run.feed(part);
            }
            let total = run.meter.total().tokens;
            assert_eq!([total.input, total.output, total.cache_write, total.cache_read], want, "{agent}, {size}");
            assert_eq!(run.meter.by_model().sum(), run.meter.total(), "{agent}, {size}");
        }
    }
}

#[test]
fn block_mode_stops_behind_the_call_that_exceeds_the_budget() {
    // The line with which each is over its limit.
    let agents =
        [("opencode", 1100, 2), ("Qwen Code", 1050, 3), ("pi", 600, 3), ("Cline", 2000, 3), ("Amp", 15_000, 2)];
    for (agent, limit, at) in agents {
        let stream = STREAMS.iter().find(|stream| stream.agent == agent).expect("in the table");
        let limit = limit.to_string();
        let args = ["-q", "-m", "block", "--stop", "after", "-l", &limit];
        let ran = run(&args, text(stream.lines).as_bytes());
        assert_eq!(ran.code(), Some(122), "{agent}: {}", ran.err);
        assert_eq!(ran.out, text(&stream.lines[..=at]).as_bytes(), "{agent}");
    }
}

#[test]
fn a_wrapped_agent_is_ended_with_what_it_started() {
    let agents = [("opencode", "1100"), ("Qwen Code", "1050"), ("pi", "600"), ("Cline", "2000"), ("Amp", "15000")];
    for (agent, limit) in agents {
        let stream = STREAMS.iter().find(|stream| stream.agent == agent).expect("in the table");
        let script = "sleep 1000 & setsid sleep 1000 & echo $! >&2; printf '%s' \"$STREAM\"; wait";
        let mut command = harness::budget_tee(&["-q", "-m", "block", "-l", limit, "--", "sh", "-c", script]);
        command.env("STREAM", text(stream.lines));
        let ran = harness::finish(command, b"");
        assert_eq!(ran.code(), Some(122), "{agent}: {}", ran.err);
        let pid = ran.err.lines().next().expect("a pid");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        assert!(stat.is_err(), "{agent}: {stat:?}");
    }
}

#[test]
fn a_writer_that_goes_on_after_term_gets_the_signal_of_its_row() {
    // Each trap ends it with a code of its own.
    let script = "{ trap 'exit 7' INT; trap 'exit 8' TERM; printf '%s' \"$STREAM\"; while :; do sleep 0.01; done; } |
        \"$0\" -q -m block -l \"$1\" >/dev/null; echo ${PIPESTATUS[*]}";
    for (agent, limit, codes) in [("Cline", "2000", "7 122\n"), ("pi", "600", "8 122\n")] {
        let stream = STREAMS.iter().find(|stream| stream.agent == agent).expect("in the table");
        let mut command = harness::plain("bash");
        command.args(["-c", script, env!("CARGO_BIN_EXE_budget-tee"), limit]).env("STREAM", text(stream.lines));
        let ran = harness::finish(command, b"");
        assert_eq!(String::from_utf8_lossy(&ran.out), codes, "{agent}: {}", ran.err);
    }
}

#[test]
fn a_stream_that_tells_nothing_fails_in_block_mode() {
    let copilot = STREAMS.iter().find(|stream| stream.agent == "Copilot").expect("in the table");
    assert_eq!(run(&["-q", "-m", "block", "-l", "1M"], text(copilot.lines).as_bytes()).code(), Some(125));
}

#[test]
fn a_total_that_is_not_the_sum_is_told_once() {
    let line = r#"{"type":"step_finish","sessionID":"s","part":{"tokens":{"total":5,"input":1,"output":1}}}"#;
    let (ran, summary) = summary(&["-q"], text(&[line, line]).as_bytes());
    assert_eq!(tokens(&summary), [2, 2, 0, 0]);
    assert_eq!(ran.err, "budget-tee: opencode's total is not the sum of its parts: the parts are counted\n");
}

#[test]
fn a_gateways_total_does_not_make_claude_codes_input_smaller() {
    let line = r#"{"type":"assistant","session_id":"s","message":{"id":"a","usage":{"input_tokens":500,"output_tokens":10,"cache_read_input_tokens":400,"total_tokens":910}}}"#;
    assert_eq!(tokens(&summary(&["-q"], text(&[line]).as_bytes()).1), [500, 10, 0, 400]);
}

/// What lines come to in all.
fn counted(lines: &[&str]) -> u64 {
    tokens(&summary(&["-q"], text(lines).as_bytes()).1).iter().sum()
}

#[test]
fn a_thread_is_that_of_the_agent_that_named_it() {
    let thread = r#"{"type":"thread.started","thread_id":"t"}"#;
    let turn =
        |input: u64| format!(r#"{{"type":"turn.completed","usage":{{"input_tokens":{input},"output_tokens":0}}}}"#);
    let pi = r#"{"type":"message_end","message":{"role":"assistant","usage":{"input":50,"output":1}}}"#;
    let cline = r#"{"type":"agent_event","event":{"type":"usage","inputTokens":7,"outputTokens":2}}"#;
    let settled = r#"{"type":"run_result","aggregateUsage":{"inputTokens":7,"outputTokens":2}}"#;
    let (first, second) = (turn(1000), turn(3000));
    for order in [
        [thread, &first, pi, thread, &second, cline, settled],
        [pi, thread, &first, cline, settled, thread, &second],
        [thread, &first, cline, pi, settled, thread, &second],
    ] {
        assert_eq!(counted(&order), 3060, "{order:?}");
    }
}

#[test]
fn earlier_versions_are_counted() {
    for (case, line, want) in [
        (
            "reasoning inside the output, as the total tells",
            r#"{"type":"step_finish","sessionID":"s","part":{"tokens":{"total":1091,"input":940,"output":51,"reasoning":20,"cache":{"read":100,"write":0}}}}"#,
            [940, 51, 0, 100],
        ),
        (
            "no figures by model",
            r#"{"type":"result","status":"success","stats":{"total_tokens":6233,"input_tokens":6000,"output_tokens":136,"cached":600,"input":5400}}"#,
            [5400, 233, 0, 600],
        ),
        (
            "nor cached tokens",
            r#"{"type":"result","stats":{"total_tokens":6233,"input_tokens":6000,"output_tokens":136,"duration_ms":91}}"#,
            [6000, 233, 0, 0],
        ),
    ] {
        let (ran, facts) = summary(&["-q"], text(&[line]).as_bytes());
        assert_eq!((tokens(&facts), ran.err.as_str()), (want, ""), "{case}");
    }
}

/// A call of Cline, and the result of its run.
fn cline(input: u64, output: u64) -> String {
    format!(r#"{{"type":"agent_event","event":{{"type":"usage","inputTokens":{input},"outputTokens":{output}}}}}"#)
}

fn cline_result(input: u64, output: u64, usd: &str) -> String {
    let usage = format!(r#"{{"inputTokens":{input},"outputTokens":{output},"totalCost":{usd}}}"#);
    format!(r#"{{"type":"run_result","aggregateUsage":{usage},"model":{{"id":"m"}}}}"#)
}

#[test]
fn a_settlement_without_spawned_agents_takes_nothing_off() {
    let lines = [cline(1000, 50), cline(1000, 50), cline_result(1000, 50, "0.01")];
    let (_, facts) = summary(&["-q"], lines.join("\n").as_bytes());
    assert_eq!((tokens(&facts), facts["usd"].as_f64()), ([2000, 100, 0, 0], Some(0.02)));
    assert_eq!(facts["unpriced"], serde_json::json!([]), "all is settled under a model whose cost is told");
    // The next run counts too, be the one before without its result.
    let next = [cline(500, 10), cline_result(500, 10, "0.005")];
    assert_eq!(counted(&[&lines[..], &next].concat().iter().map(String::as_str).collect::<Vec<_>>()), 2610);
    assert_eq!(counted(&[&lines[..2], &next].concat().iter().map(String::as_str).collect::<Vec<_>>()), 2610);
}

#[test]
fn a_cost_that_is_told_needs_no_price() {
    for agent in ["opencode", "pi"] {
        let stream = STREAMS.iter().find(|stream| stream.agent == agent).expect("in the table");
        let args = ["-q", "-m", "block", "-l", "1usd", "--unpriced", "refuse"];
        let (ran, facts) = summary(&args, text(stream.lines).as_bytes());
        assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""), "{agent}");
        assert_eq!(facts["unpriced"], serde_json::json!([]), "{agent}");
    }
}

/// A record of Qwen Code: the input of `figures` has the cached tokens in it.
fn qwen(kind: &str, id: &str, [input, output, cached, total]: [u64; 4], beside: &str) -> String {
    let usage = format!(
        r#"{{"input_tokens":{input},"output_tokens":{output},"cache_read_input_tokens":{cached},"total_tokens":{total}}}"#
    );
    match kind {
        "result" => format!(r#"{{"type":"result","session_id":"q","usage":{usage}{beside}}}"#),
        _ => format!(
            r#"{{"type":"assistant","session_id":"q","message":{{"id":"{id}","model":"m","content":[],"usage":{usage}}}}}"#
        ),
    }
}

#[test]
fn a_result_of_a_whole_session_counts_what_is_new() {
    let first = qwen("result", "", [1000, 51, 100, 1051], "");
    let second = qwen("result", "", [3000, 103, 300, 3103], "");
    assert_eq!(counted(&[&first, &second]), 3103);
    // What the turn's messages told is in it; a subagent's calls are in it alone.
    let message = qwen("assistant", "a", [1000, 50, 100, 1050], "");
    assert_eq!(counted(&[&first, &message, &second]), 3103);
    // The error of a turn tells zero.
    let zero = qwen("result", "", [0, 0, 0, 0], "");
    assert_eq!(counted(&[&first, &zero, &second]), 3103);
    // A session that begins anew.
    assert_eq!(counted(&[&second, &first]), 4154);
}

#[test]
fn a_result_that_may_have_earlier_runs_in_it_is_pointed_out_once() {
    let first = qwen("result", "", [3000, 103, 300, 3103], "");
    let second = qwen("result", "", [9000, 110, 300, 9110], "");
    let message = qwen("assistant", "a", [1000, 51, 100, 1051], "");
    let note = "Qwen Code reports 2,052 tokens beyond its messages\nbudget-tee: note: they are of subagents, or of \
                earlier runs if the session was resumed";
    let ran = run(&["-q"], text(&[&message, &first, &second]).as_bytes());
    assert_eq!(ran.err, format!("budget-tee: {note}\n"));
}

#[test]
fn a_result_with_models_of_another_form_is_its_own_agents() {
    let stats = r#","stats":{"models":{"m":{"tokens":{"prompt":3000,"candidates":103,"total":3103,"cached":300}}}}"#;
    let message = qwen("assistant", "a", [1000, 51, 100, 1051], "");
    assert_eq!(counted(&[&message, &qwen("result", "", [3000, 103, 300, 3103], stats)]), 3103);
}

#[test]
fn reasoning_beside_the_output_is_told_by_the_total() {
    let (_, facts) = summary(&["-q"], text(&[&qwen("assistant", "a", [1000, 31, 100, 1051], "")]).as_bytes());
    assert_eq!(tokens(&facts), [900, 51, 0, 100]);
    // As where all of the input came from the cache, or nothing.
    assert_eq!(counted(&[&qwen("assistant", "a", [1000, 31, 0, 1051], "")]), 1051);
    assert_eq!(counted(&[&qwen("assistant", "a", [1000, 31, 1000, 1051], "")]), 1051);
}

/// A stream of one of the agents in the table.
fn stream_of(agent: &str) -> &'static Stream {
    STREAMS.iter().find(|stream| stream.agent == agent).expect("in the table")
}

#[test]
fn the_summary_names_the_agent() {
    for (stream, name) in [
        ("Codex", "Codex"),
        ("opencode", "opencode"),
        ("Qwen Code", "Qwen Code"),
        ("Gemini", "Gemini"),
        ("Cursor", "Cursor"),
        ("Copilot", "GitHub Copilot CLI"),
        ("a transcript of Claude Code", "Claude Code"),
        // The last one of several.
        ("Claude Code, then Codex", "Codex"),
    ] {
        assert_eq!(summary(&["-q"], text(stream_of(stream).lines).as_bytes()).1["agent"], name, "{stream}");
    }
    let begun = r#"{"type":"system","subtype":"init","session_id":"s","claude_code_version":"2.1.300"}"#;
    assert_eq!(summary(&["-q"], begun.as_bytes()).1["agent"], "Claude Code");
    assert_eq!(summary(&["-q"], harness::assistant("m", 7).as_bytes()).1["agent"], Value::Null);
}

#[test]
fn a_run_that_has_not_told_its_usage_is_a_lower_bound() {
    for agent in ["Codex", "Gemini", "Droid"] {
        let Stream { lines, said, .. } = stream_of(agent);
        let (ran, facts) = summary(&["-q"], text(&lines[..2]).as_bytes());
        assert_eq!((tokens(&facts), &facts["lower_bound"]), ([0; 4], &true.into()), "{agent}");
        assert_eq!(ran.err, format!("budget-tee: {said}\n"), "{agent}");
    }
    // A second one behind usage that was told.
    let codex = stream_of("Codex").lines;
    let (_, facts) = summary(&["-q"], text(&[codex, &codex[..2]].concat()).as_bytes());
    assert_eq!((tokens(&facts), &facts["lower_bound"]), (stream_of("Codex").tokens, &true.into()));
}

#[test]
fn usage_of_zero_alone_is_pointed_out() {
    for (agent, lines) in [
        ("Codex", &[r#"{"type":"turn.completed","usage":{"input_tokens":0,"output_tokens":0}}"#][..]),
        ("opencode", &[r#"{"type":"step_finish","part":{"tokens":{"input":0,"output":0}}}"#; 3]),
        ("pi", &[r#"{"type":"message_end","message":{"role":"assistant","usage":{"input":0,"output":0}}}"#]),
        ("Cline", &[r#"{"type":"agent_event","event":{"type":"usage","inputTokens":0,"outputTokens":0}}"#]),
        (
            "Qwen Code",
            &[
                r#"{"type":"system","subtype":"init","session_id":"q","qwen_code_version":"0.24.4"}"#,
                r#"{"type":"assistant","session_id":"q","message":{"id":"a","usage":{"input_tokens":0,"output_tokens":0}}}"#,
                r#"{"type":"result","session_id":"q","usage":{"input_tokens":0,"output_tokens":0}}"#,
            ],
        ),
    ] {
        let ran = run(&["-q", "-m", "block", "-l", "1M"], text(lines).as_bytes());
        let said = format!(
            "budget-tee: {agent} reports zero tokens: nothing is counted\nbudget-tee: note: it may be a gateway, or a call that failed\n"
        );
        assert_eq!((ran.code(), ran.err), (Some(0), said), "{agent}");
    }
}

#[test]
fn an_agent_is_recognised_behind_lines_of_a_log() {
    for agent in ["Codex", "Gemini", "Droid", "Copilot"] {
        let Stream { lines, said, tokens: want, .. } = stream_of(agent);
        let (ran, facts) = summary(&["-q"], (["warning: a\n"; 3].concat() + &text(lines)).as_bytes());
        assert_eq!(tokens(&facts), *want, "{agent}");
        assert!(
            ran.err.starts_with("budget-tee: line 1 is not a JSON record (\"warning: a\")\n"),
            "{agent}: {}",
            ran.err
        );
        assert!(ran.messages() == 2 && ran.err.ends_with(&format!("budget-tee: {said}\n")), "{agent}: {}", ran.err);
    }
}

#[test]
fn agents_that_tell_nothing_are_recognised() {
    for (agent, lines) in [
        (
            "Mistral Vibe",
            [
                r#"{"id":"u","sessionId":"s","turnId":"t","generationStatus":"completed","type":"message","role":"user"}"#,
                r#"{"id":"a","sessionId":"s","turnId":"t","generationStatus":"completed","type":"message","role":"assistant"}"#,
            ],
        ),
        (
            "Kimi Code",
            [
                r#"{"role":"meta","type":"system.version","version":"2.1.0"}"#,
                r#"{"role":"meta","type":"session.resume_hint","session_id":"s","command":"kimi -r s"}"#,
            ],
        ),
    ] {
        let ran = run(&["-q", "-m", "block", "-l", "1M"], text(&lines).as_bytes());
        let said = format!("budget-tee: {agent} does not report its usage: nothing is counted\n");
        assert_eq!((ran.code(), ran.err), (Some(125), said), "{agent}");
    }
}

#[test]
fn an_agent_that_goes_on_after_term_is_interrupted_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = cline(2000, 50);
    for (program, args, signal) in
        [("cline", &[][..], "INT"), ("cline", &["--signal", "TERM"], "TERM"), ("other", &[], "TERM")]
    {
        let path = folder.path().join(program);
        let script = format!(
            "#!/bin/sh\ntrap 'echo INT >&2; exit' INT\ntrap 'echo TERM >&2; exit' TERM\necho '{line}'\nwhile :; do sleep 0.05; done\n"
        );
        std::fs::write(&path, script).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("set");
        let command = ["-q", "-m", "block", "-l", "1000", "--stop", "after"];
        let ran = run(&[&command[..], args, &["--", path.to_str().expect("UTF-8")]].concat(), b"");
        let got = ran.err.lines().find(|line| ["INT", "TERM"].contains(line));
        assert_eq!((ran.code(), got), (Some(122), Some(signal)), "{program} {args:?}: {}", ran.err);
    }
}

#[test]
fn imitations_in_other_places_do_not_count() {
    for line in [
        r#"{"type":"item.completed","usage":{"input_tokens":9,"output_tokens":9}}"#,
        r#"{"type":"turn.completed","item":{"usage":{"input_tokens":9,"output_tokens":9}}}"#,
        r#"{"type":"turn.completed","usage.input_tokens":9}"#,
        r#"{"type":"step_finish","part":[{"tokens":{"input":9}}]}"#,
        r#"{"type":"message_end","message":{"role":"user","usage":{"input":9,"output":9}}}"#,
        r#"{"type":"result","stats":{"models":{"input_tokens":9}}}"#,
    ] {
        let (_, summary) = summary(&["-q"], text(&[line]).as_bytes());
        assert_eq!(tokens(&summary), [0; 4], "{line}");
    }
}

#[test]
fn hostile_records_do_no_harm() {
    let models: String = (0..1000).map(|n| format!(r#""m{n}":{{"input_tokens":1}},"#)).collect();
    let long = format!(r#""{}":{{"input_tokens":1}}"#, "x".repeat(100_000));
    let line = format!(r#"{{"type":"result","stats":{{"models":{{{models}{long}}}}}}}"#);
    let (ran, summary) = summary(&["-q"], text(&[&line]).as_bytes());
    assert_eq!((ran.code(), tokens(&summary)), (Some(0), [256, 0, 0, 0]));
    // Overflow, fractions, negative numbers, values of other types, duplicate keys.
    for (usage, want) in [
        (r#""input_tokens":1e400,"output_tokens":1"#, [u64::MAX, 1, 0, 0]),
        (r#""input_tokens":1.5,"output_tokens":-3"#, [2, 0, 0, 0]),
        (r#""input_tokens":"9","output_tokens":1"#, [0, 1, 0, 0]),
        (r#""input_tokens":7,"output_tokens":1,"input_tokens":2"#, [2, 1, 0, 0]),
        (r#""input_tokens":10,"output_tokens":1,"cached_input_tokens":99"#, [0, 1, 0, 99]),
    ] {
        let line = format!(r#"{{"type":"turn.completed","usage":{{{usage}}}}}"#);
        assert_eq!(tokens(&harness::summary(&["-q"], text(&[&line]).as_bytes()).1), want, "{usage}");
    }
}

/// The hook of the README's recipe, with another limit.
fn hook(limit: &str) -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let start = readme.find("#!/bin/sh\ntranscript=").expect("the hook");
    let end = start + readme[start..].find("```").expect("its end");
    readme[start..end].replace("500k", limit)
}

#[test]
fn the_readmes_hook_ends_a_session_whose_budget_is_spent() {
    if !harness::has("jq") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [session, agents] = ["s.jsonl", "s/subagents"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&agents).expect("a folder");
    let message = |id: &str, input: u64| {
        format!(
            r#"{{"message":{{"id":"{id}","model":"claude-opus-5","usage":{{"input_tokens":{input}}}}},"type":"assistant","sessionId":"s"}}"#
        ) + "\n"
    };
    std::fs::write(&session, message("a", 600)).expect("written");
    std::fs::write(agents.join("agent-1.jsonl"), message("b", 500)).expect("written");
    let path = std::path::Path::new(env!("CARGO_BIN_EXE_budget-tee")).parent().expect("a folder");
    let said = |limit: &str| {
        let mut shell = harness::plain("sh");
        let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default());
        shell.args(["-c", &hook(limit)]).env("PATH", path);
        let input = serde_json::json!({ "transcript_path": session, "tool_name": "Bash" }).to_string();
        String::from_utf8(harness::finish(shell, input.as_bytes()).out).expect("UTF-8")
    };
    assert_eq!(said("1100"), "");
    let answer: Value = serde_json::from_str(&said("1099")).expect("JSON");
    assert_eq!(answer["continue"], false);
}

#[test]
fn the_advice_names_the_arguments_of_the_agent_that_is_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (program, advice) in [
        ("codex", "run codex exec --json"),
        ("gemini", "run gemini --output-format stream-json"),
        ("kilo", "run kilo run --format json"),
        ("omp", "run omp --mode json -p"),
        ("kimi", "Kimi Code does not report its usage in its stream"),
        ("other", "run claude with --output-format stream-json --verbose"),
    ] {
        let path = folder.path().join(program);
        std::os::unix::fs::symlink("/bin/echo", &path).expect("a link");
        let ran = run(&["-q", "--", path.to_str().expect("UTF-8"), "hello"], b"");
        assert!(ran.err.contains(advice), "{program}: {}", ran.err);
    }
}
