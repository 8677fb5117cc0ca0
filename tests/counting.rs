//! Totals of whole streams: a fixture for each kind of stream, and recorded streams.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::path::Path;

use budget_tee::count::meter::Meter;
use budget_tee::count::price::Prices;
use budget_tee::count::tokens::{Classes, Tokens};
use budget_tee::run::Run;
use budget_tee::stream::scan::Scanner;
use harness::{bytes, run, summary};
use proptest::prelude::*;

/// Name, then input, output, cache-write and cache-read tokens, messages, and whether the total is
/// a lower bound.
const FIXTURES: [(&str, [u64; 5], bool); 24] = [
    ("review", [550, 759, 13_910, 26_340, 6], false),
    ("partial", [532, 263, 1_290, 31_200, 2], false),
    ("blocks", [5, 10, 760, 700, 2], true),
    ("agent-seen", [13, 54, 1_300, 0, 2], true),
    ("agent-unseen", [19, 42, 1_425, 900, 3], true),
    ("agents-background", [16, 1_535, 17_020, 70_950, 6], false),
    ("turns", [306, 111, 1_020, 10_900, 2], false),
    ("processes", [12, 188, 1_750, 900, 3], false),
    ("killed-then-resumed", [18, 70, 1_060, 1_900, 3], true),
    ("resumed", [15, 145, 249, 27_629, 2], false),
    ("resumed-before-2.1.277", [20, 199, 6_988, 20_641, 1], false),
    ("resumed-compacted", [20, 199, 6_988, 20_641, 1], false),
    ("resumed-searched", [20, 199, 6_988, 20_641, 1], false),
    ("aborted", [20, 48, 10_629, 6_494, 1], false),
    ("aborted-partial", [14, 34, 520, 500, 2], false),
    ("gateway-silent", [34_000, 5_800, 0, 640_000, 12], false),
    ("gateway-partly", [9_000, 300, 0, 4_000, 2], false),
    ("error-result", [10, 556, 7_686, 18_013, 1], false),
    ("limit-error", [0, 0, 0, 0, 1], false),
    ("no-model-usage", [20, 38, 2_477, 2_157, 3], true),
    ("no-model-usage-then", [413, 44, 2_177, 2_157, 2], false),
    ("cleared", [18, 100, 1_200, 0, 2], false),
    ("cut", [10, 4, 300, 0, 1], true),
    ("odd", [1053, 18, 0, 0, 9], true),
];

/// Totals and messages of a stream that is read in parts of these sizes, repeated to its end.
fn totals(bytes: &[u8], sizes: &[usize]) -> [u64; 5] {
    let mut run = Run::default();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (read, after) = rest.split_at((*size).clamp(1, rest.len()));
        assert_eq!(run.feed(read).taken, read.len());
        rest = after;
    }
    run.finish();
    let Tokens { input, output, cache_write, cache_read } = run.meter.total().tokens;
    assert_eq!(run.meter.by_model().sum(), run.meter.total(), "the sum of all models");
    [input, output, cache_write, cache_read, run.meter.messages()]
}

#[test]
fn totals_do_not_depend_on_the_size_of_reads() {
    for (name, want, _) in FIXTURES {
        let bytes = bytes(&format!("{name}.jsonl"));
        for size in [1, 2, 3, 5, 64, 1000, 4096, usize::MAX] {
            assert_eq!(totals(&bytes, &[size]), want, "{name} in reads of {size}");
        }
    }
}

#[test]
fn every_fixture_is_in_the_table() {
    let folder = harness::fixture("");
    let files = std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
    let names = files.filter_map(|file| file.file_name().to_str().map(str::to_owned));
    // The others are arrays of the same records.
    let names: Vec<_> = names.filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned)).collect();
    for name in &names {
        assert!(FIXTURES.iter().any(|(fixture, ..)| fixture == name), "{name}");
    }
    assert_eq!(names.len(), FIXTURES.len());
}

#[test]
fn the_summary_has_the_totals_and_stdout_equals_stdin() {
    for (name, [input, output, cache_write, cache_read, messages], lower_bound) in FIXTURES {
        let bytes = bytes(&format!("{name}.jsonl"));
        let (ran, summary) = summary(&[], &bytes);
        assert_eq!(ran.out, bytes, "{name}");
        assert_eq!(ran.code(), Some(0), "{name}");
        let counted = input + output + cache_write + cache_read;
        let tokens = serde_json::json!({
            "input": input, "output": output, "cache_write": cache_write, "cache_read": cache_read, "counted": counted,
        });
        assert_eq!(summary["tokens"], tokens, "{name}");
        assert_eq!(summary["messages"], messages, "{name}");
        assert_eq!(summary["lower_bound"], lower_bound, "{name}");
        assert_eq!(summary["bytes"], bytes.len(), "{name}");
        assert_eq!(summary["lines"], bytes.split_inclusive(|b| *b == b'\n').count(), "{name}");
    }
}

#[test]
fn recorded_streams_give_their_documented_totals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/streams");
    let Ok(table) = std::fs::read_to_string(folder.join("README.md")) else {
        harness::skip(&format!("no recorded streams in {}", folder.display()));
        return;
    };
    let number = |cell: &str| cell.trim().replace(',', "").parse::<u64>().ok();
    let mut rows = 0;
    for row in table.lines().filter(|row| row.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').collect();
        let name = cells[1].trim().trim_matches('`');
        let numbers: Vec<u64> = cells[3..9].iter().filter_map(|cell| number(cell)).collect();
        let [input, cache_write, cache_read, output, _, messages] = numbers[..] else {
            panic!("not a row of numbers: {row}");
        };
        let bytes = std::fs::read(folder.join(name)).expect("the stream exists");
        let want = [input, output, cache_write, cache_read, messages];
        for sizes in [&[usize::MAX][..], &[1], &[3, 1, 4, 1, 5, 9, 2, 6], &[4096], &[65536]] {
            assert_eq!(totals(&bytes, sizes), want, "{name} in reads of {sizes:?}");
        }
        let (ran, summary) = summary(&["--quiet"], &bytes);
        assert_eq!(ran.out, bytes, "{name}");
        assert_eq!(summary["tokens"]["counted"], input + output + cache_write + cache_read, "{name}");
        rows += 1;
    }
    assert!(rows > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_totals(which in 0..FIXTURES.len(), sizes in proptest::collection::vec(1usize..3000, 1..20)) {
        let (name, want, _) = FIXTURES[which];
        prop_assert_eq!(totals(&bytes(&format!("{name}.jsonl")), &sizes), want);
    }
}

/// The totals of lines given as text.
fn tokens(lines: &str) -> [u64; 5] {
    totals(lines.as_bytes(), &[usize::MAX])
}

#[test]
fn a_message_keeps_its_maximum_across_settlements() {
    let message = |output: u64| {
        format!(
            r#"{{"type":"assistant","session_id":"s","message":{{"id":"m","usage":{{"input_tokens":5,"output_tokens":{output}}}}}}}"#
        ) + "\n"
    };
    let result = |output: u64| {
        format!(
            r#"{{"type":"result","session_id":"s","modelUsage":{{"m":{{"inputTokens":5,"outputTokens":{output}}}}}}}"#
        ) + "\n"
    };
    assert_eq!(tokens(&(message(2) + &result(50) + &message(2))), [5, 50, 0, 0, 1]);
    assert_eq!(tokens(&(message(2) + &result(50) + &message(9))), [5, 57, 0, 0, 1]);
    assert_eq!(tokens(&(message(2) + &result(50) + &message(9) + &result(57))), [5, 57, 0, 0, 1]);
}

#[test]
fn a_total_never_goes_down() {
    let lines = r#"{"type":"assistant","session_id":"s","message":{"id":"m","usage":{"input_tokens":5,"output_tokens":90}}}
{"type":"result","session_id":"s","modelUsage":{"m":{"inputTokens":5,"outputTokens":40}}}
"#;
    assert_eq!(tokens(lines), [5, 90, 0, 0, 1]);
}

#[test]
fn the_same_message_id_in_another_session_is_another_message() {
    let line = |session: &str| {
        format!(
            r#"{{"type":"assistant","session_id":"{session}","message":{{"id":"m","usage":{{"input_tokens":5}}}}}}"#
        ) + "\n"
    };
    assert_eq!(tokens(&(line("a") + &line("b") + &line("a"))), [10, 0, 0, 0, 2]);
}

#[test]
fn messages_without_an_id_count_separately() {
    let line = "{\"type\":\"assistant\",\"message\":{\"usage\":{\"input_tokens\":5}}}\n";
    assert_eq!(tokens(&line.repeat(3)), [15, 0, 0, 0, 3]);
}

#[test]
fn deltas_belong_to_the_last_message_start_of_their_session_and_parent() {
    let start = |parent: &str, id: &str| {
        format!(
            r#"{{"type":"stream_event","session_id":"s","parent_tool_use_id":{parent},"event":{{"type":"message_start","message":{{"id":"{id}","usage":{{"input_tokens":100}}}}}}}}"#
        ) + "\n"
    };
    let delta = |parent: &str, output: u64| {
        format!(
            r#"{{"type":"stream_event","session_id":"s","parent_tool_use_id":{parent},"event":{{"type":"message_delta","usage":{{"output_tokens":{output}}}}}}}"#
        ) + "\n"
    };
    let (main, agent) = ("null", "\"t\"");
    let lines = [start(main, "m"), start(agent, "a"), delta(main, 7), delta(agent, 5), delta(main, 9)].concat();
    assert_eq!(tokens(&lines), [200, 14, 0, 0, 2]);
    // Deltas are cumulative even if their message_start is missing.
    assert_eq!(tokens(&[delta(main, 7), delta(main, 9)].concat()), [0, 9, 0, 0, 1]);
}

#[test]
fn totals_stay_exact_when_old_messages_sessions_and_models_are_evicted() {
    let mut run = Run::default();
    for n in 0..20_000 {
        let line = format!(
            r#"{{"type":"assistant","session_id":"s{}","message":{{"id":"m{n}","model":"m{n}","usage":{{"input_tokens":1}}}}}}"#,
            n / 10
        );
        run.feed(line.as_bytes());
        run.feed(b"\n");
    }
    assert_eq!(run.meter.total().tokens.input, 20_000);
    assert_eq!(run.meter.messages(), 20_000);
    assert!(run.meter.by_model().iter().count() <= 65);
    assert!(run.meter.is_lower_bound());
}

#[test]
fn a_gateway_without_usage_is_reported_once() {
    let ran = run(&["-q"], &bytes("gateway-silent.jsonl"));
    assert_eq!(ran.err.matches("no message has reported tokens so far").count(), 1, "{}", ran.err);
    let ran = run(&["-q"], &bytes("gateway-partly.jsonl"));
    assert_eq!(ran.err, "");
}

#[test]
fn usage_carried_over_by_a_resumed_session_is_reported() {
    let ran = run(&["-q"], &bytes("resumed.jsonl"));
    assert_eq!(ran.messages(), 1, "{}", ran.err);
    assert!(ran.err.contains("input 10, output 114, cache-write 6779, cache-read 6931"), "{}", ran.err);
}

/// Tokens that count after a session began with these lines, by a meter that knows whether the wrapped
/// command resumes a session; `None` for a filter.
fn first_result(version: &str, resumes: Option<bool>, more: &str, result: &str) -> u64 {
    let init = format!(
        r#"{{"type":"system","subtype":"init","session_id":"s","claude_code_version":"{version}","model":"m"}}"#
    ) + "\n";
    let mut meter = Meter::new(Prices::default(), resumes);
    let mut scanner = Scanner::default();
    let stream = init + more + result;
    let mut rest = stream.as_bytes();
    while let Some(found) = scanner.next(&mut rest) {
        found.record.map(|record| meter.record(record));
    }
    Classes::default().count(&meter.total().tokens)
}

#[test]
fn usage_is_carried_over_only_with_evidence() {
    // The turn used 30 tokens; `modelUsage` has 1,030.
    let seen = message("a", MAIN, [10, 20, 0, 0], "");
    let in_cache = result([10, 20, 500, 500], Some([10, 20, 0, 0]));
    let in_input = result([1010, 20, 0, 0], Some([10, 20, 0, 0]));
    let hook = r#"{"type":"system","subtype":"hook_started","session_id":"s","hook_name":"SessionStart:resume"}"#;
    let startup = hook.replace("resume", "startup") + "\n";
    let hook = hook.to_owned() + "\n";
    let task = |depth: u64| {
        format!(r#"{{"type":"system","subtype":"task_started","session_id":"s","spawn_depth":{depth}}}"#) + "\n"
    };
    let compacted = "{\"type\":\"system\",\"subtype\":\"compact_boundary\",\"session_id\":\"s\"}\n";
    for (version, resumes, more, result, counted) in [
        // A filter can tell by the figures alone: more in the cache than the whole turn.
        ("2.1.292", None, "", &in_cache, 30),
        ("2.1.292", None, "", &in_input, 1030),
        ("2.1.276", None, "", &in_cache, 1030),
        ("2.1.309", None, "", &in_cache, 1030),
        // Hidden calls explain it as well.
        ("2.1.292", None, &task(1), &in_cache, 30),
        ("2.1.292", None, &task(2), &in_cache, 1030),
        ("2.1.292", None, compacted, &in_cache, 1030),
        // The wrapped command, or a hook, says that the session is resumed.
        ("2.1.292", Some(true), "", &in_input, 30),
        ("2.1.292", Some(false), "", &in_cache, 1030),
        ("2.1.292", Some(false), &hook, &in_cache, 30),
        ("2.1.292", None, &hook, &in_input, 30),
        ("2.1.292", Some(false), &startup, &in_cache, 1030),
    ] {
        let lines = more.to_owned() + &seen;
        let case = format!("{version} {resumes:?} {more}{result}");
        assert_eq!(first_result(version, resumes, &lines, result), counted, "{case}");
    }
}

#[test]
fn an_idle_first_result_of_a_resumed_session_is_carried_over_whole() {
    let idle = result([10, 20, 500, 500], Some([0; 4]))
        .replace(r#""usage":"#, r#""num_turns":0,"duration_api_ms":0,"usage":"#);
    assert_eq!(first_result("2.1.292", None, "", &idle), 0);
    assert_eq!(first_result("2.1.292", Some(false), "", &idle), 0);
    assert_eq!(first_result("2.1.276", None, "", &idle), 1030);
    let busy = idle.replace(r#""num_turns":0"#, r#""num_turns":1"#);
    assert_eq!(first_result("2.1.292", None, "", &busy), 1030);
    // Where it says what was spent since the last result, nothing is carried over.
    assert_eq!(first_result("2.1.292", Some(true), "", &since([10, 20, 500, 500])), 1030);
}

#[test]
fn a_stream_without_usage_is_reported() {
    for input in [b"" as &[u8], b"plain text\n", b"{\"type\":\"user\"}\n"] {
        let ran = run(&["-q"], input);
        assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), input));
        assert!(ran.err.contains("--output-format stream-json --verbose"), "{}", ran.err);
    }
}

/// An assistant record of session `s`: the id of its message, its parent, its tokens (input, output,
/// cache-write, cache-read), and further fields.
fn message(id: &str, parent: &str, [input, output, write, read]: [u64; 4], more: &str) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"s","parent_tool_use_id":{parent}{more},"message":{{"id":"{id}","model":"m","usage":{{"input_tokens":{input},"output_tokens":{output},"cache_creation_input_tokens":{write},"cache_read_input_tokens":{read}}}}}}}"#
    ) + "\n"
}

/// A result record of session `s`: its `modelUsage` and its `usage`.
fn result([input, output, write, read]: [u64; 4], usage: Option<[u64; 4]>) -> String {
    let usage = usage.map_or(String::new(), |[input, output, write, read]| {
        format!(
            r#","usage":{{"input_tokens":{input},"output_tokens":{output},"cache_creation_input_tokens":{write},"cache_read_input_tokens":{read}}}"#
        )
    });
    format!(
        r#"{{"type":"result","session_id":"s","modelUsage":{{"m":{{"inputTokens":{input},"outputTokens":{output},"cacheCreationInputTokens":{write},"cacheReadInputTokens":{read}}}}}{usage}}}"#
    ) + "\n"
}

const MAIN: &str = "null";

#[test]
fn carried_over_usage_is_subtracted_even_if_a_call_is_missing_from_model_usage() {
    let agent = r#"{"type":"user","session_id":"s","tool_use_result":{"agentId":"x","usage":{"input_tokens":7,"output_tokens":1}}}"#;
    let lines =
        message("m", MAIN, [2, 1, 10, 100], "") + agent + "\n" + &result([4, 200, 900, 5000], Some([2, 5, 10, 100]));
    assert_eq!(tokens(&lines), [9, 6, 10, 100, 2]);
}

#[test]
fn a_background_agents_call_in_flight_is_not_taken_for_a_new_process() {
    let first = message("m0", MAIN, [10, 5, 0, 100], "") + &result([10, 5, 0, 100], None);
    let in_flight = message("s1", "\"p\"", [5, 1, 0, 0], "") + &result([10, 5, 0, 100], None);
    assert_eq!(tokens(&(first.clone() + &in_flight + &result([15, 9, 0, 100], None))), [15, 9, 0, 100, 2]);
    // The same records in the main loop can only come from a new process.
    let ended = message("m1", MAIN, [5, 1, 0, 0], "") + &result([10, 5, 0, 100], None);
    assert_eq!(tokens(&(first + &ended)), [20, 10, 0, 200, 2]);
}

#[test]
fn deltas_belong_to_the_most_recent_message_start() {
    let start = |id: &str| {
        format!(
            r#"{{"type":"stream_event","session_id":"s","event":{{"type":"message_start","message":{{"id":"{id}","usage":{{"input_tokens":1,"output_tokens":1}}}}}}}}"#
        ) + "\n"
    };
    let delta = |output: u64| {
        format!(
            r#"{{"type":"stream_event","session_id":"s","event":{{"type":"message_delta","usage":{{"output_tokens":{output}}}}}}}"#
        ) + "\n"
    };
    let lines = [message("a", MAIN, [1, 1, 0, 0], ""), start("b"), delta(5), start("a"), delta(9)].concat();
    assert_eq!(tokens(&lines), [2, 14, 0, 0, 2]);
}

#[test]
fn an_aborted_message_is_kept_beside_a_settlement_that_does_not_cover_its_prompt() {
    let aborted = ",\"aborted\":true";
    let lines = message("b", MAIN, [9, 1, 0, 0], "") + &message("a", MAIN, [4, 2, 0, 0], aborted);
    // Up to 2.1.324 `modelUsage` does not have it, from 2.1.326 on it does.
    assert_eq!(tokens(&(lines.clone() + &result([9, 8, 0, 0], None))), [13, 10, 0, 0, 2]);
    assert_eq!(tokens(&(lines.clone() + &result([13, 9, 0, 0], None))), [13, 9, 0, 0, 2]);
    assert_eq!(tokens(&(lines.clone() + &since([9, 8, 0, 0]))), [13, 10, 0, 0, 2]);
    assert_eq!(tokens(&(lines + &since([13, 9, 0, 0]))), [13, 9, 0, 0, 2]);
    // A turn without modelUsage settles only what was counted in that turn.
    let turn =
        |input: u64| format!("{{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{{\"input_tokens\":{input}}}}}\n");
    let lines = message("a", MAIN, [10, 0, 0, 0], "")
        + &turn(10)
        + &message("b", MAIN, [5, 0, 0, 0], "")
        + &message("a", MAIN, [10, 0, 0, 0], aborted)
        + &turn(5);
    assert_eq!(tokens(&lines), [15, 0, 0, 0, 2]);
    // `aborted` works in a record without usage.
    let aborted_only = "{\"type\":\"assistant\",\"session_id\":\"s\",\"aborted\":true,\"message\":{\"id\":\"a\"}}\n";
    let lines = message("b", MAIN, [9, 1, 0, 0], "") + &message("a", MAIN, [3, 1, 0, 0], "");
    let lines = lines + aborted_only + &result([9, 5, 0, 0], None);
    assert_eq!(tokens(&lines), [12, 6, 0, 0, 2]);
}

/// A result of session `s` that says what was spent since the last one.
fn since([input, output, cache_write, cache_read]: [u64; 4]) -> String {
    let entry = format!(
        r#"{{"inputTokens":{input},"outputTokens":{output},"cacheCreationInputTokens":{cache_write},"cacheReadInputTokens":{cache_read}}}"#
    );
    format!(
        r#"{{"type":"result","session_id":"s","modelUsage":{{"m":{{"inputTokens":999999}}}},"model_usage_since_last_result":{{"m":{entry}}}}}"#
    ) + "\n"
}

#[test]
fn what_was_spent_since_the_last_result_is_added_and_replaces_the_live_count() {
    let lines = message("a", MAIN, [5, 2, 0, 10], "") + &since([5, 80, 0, 10]);
    assert_eq!(tokens(&lines), [5, 80, 0, 10, 1]);
    assert!(!is_lower_bound(&lines));
    // Calls that the stream never showed: of a nested subagent, a hook, a compaction.
    let lines = lines + &message("b", MAIN, [6, 2, 0, 15], "") + &since([20, 90, 7, 60]);
    assert_eq!(tokens(&lines), [25, 170, 7, 70, 2]);
    // Nothing was spent: an empty object is valid.
    let nothing = "{\"type\":\"result\",\"session_id\":\"s\",\"modelUsage\":{\"m\":{\"inputTokens\":25}},\
                   \"model_usage_since_last_result\":{}}\n";
    assert_eq!(tokens(&(lines.clone() + nothing)), [25, 170, 7, 70, 2]);
    // A resumed session's `modelUsage`, with what earlier processes spent, does not matter.
    assert_eq!(tokens(&(nothing.to_owned() + &since([5, 80, 0, 10]))), [5, 80, 0, 10, 0]);
}

#[test]
fn a_subagents_call_in_flight_stays_live_until_a_result_has_it() {
    let lines = message("a", MAIN, [5, 2, 0, 0], "") + &message("x", "\"t\"", [7, 2, 0, 0], "") + &since([5, 40, 0, 0]);
    assert_eq!(tokens(&lines), [12, 42, 0, 0, 2]);
    assert!(is_lower_bound(&lines));
    // Still in flight at the next one.
    let lines = lines + &since([0, 0, 0, 0]);
    assert_eq!(tokens(&lines), [12, 42, 0, 0, 2]);
    let lines = lines + &since([7, 33, 0, 0]);
    assert_eq!(tokens(&lines), [12, 73, 0, 0, 2]);
    assert!(!is_lower_bound(&lines));
}

#[test]
fn what_a_process_spent_that_ended_without_a_result_is_kept_as_a_lower_bound() {
    let killed = message("a", MAIN, [50, 2, 30, 0], "");
    let lines = killed + &message("b", MAIN, [5, 2, 0, 80], "") + &since([5, 60, 0, 80]);
    assert_eq!(tokens(&lines), [55, 60, 30, 80, 2]);
    assert!(is_lower_bound(&lines));
    // For ever: nobody will say what its messages came to.
    assert!(is_lower_bound(&(lines + &message("c", MAIN, [1, 1, 0, 0], "") + &since([1, 9, 0, 0]))));
}

#[test]
fn an_id_that_returns_with_a_larger_prompt_is_another_call() {
    let first = message("a", MAIN, [5, 2, 0, 10], "");
    assert_eq!(tokens(&(first.clone() + &message("a", MAIN, [5, 9, 0, 10], ""))), [5, 9, 0, 10, 1]);
    assert_eq!(tokens(&(first.clone() + &message("a", MAIN, [6, 1, 0, 10], ""))), [11, 3, 0, 20, 2]);
    assert_eq!(tokens(&(first + &message("a", MAIN, [5, 1, 1, 10], ""))), [10, 3, 1, 20, 2]);
    // One that had no prompt so far has now been told its own.
    let silent = message("a", MAIN, [0, 0, 0, 0], "");
    assert_eq!(tokens(&(silent + &message("a", MAIN, [5, 1, 0, 0], ""))), [5, 1, 0, 0, 1]);
    // An empty id is none.
    assert_eq!(tokens(&message("", MAIN, [1, 1, 0, 0], "").repeat(2)), [2, 2, 0, 0, 2]);
}

#[test]
fn advisor_and_compaction_calls_count_beside_their_message() {
    let with = |iterations: &str, output: u64| {
        format!(
            r#"{{"type":"assistant","session_id":"s","message":{{"id":"a","model":"m","usage":{{"input_tokens":5,"output_tokens":{output},"iterations":[{iterations}]}}}}}}"#
        ) + "\n"
    };
    let own = r#"{"type":"message","input_tokens":5,"output_tokens":3}"#;
    let fallback = r#"{"type":"fallback_message","input_tokens":5,"output_tokens":3}"#;
    let advisor = r#"{"type":"advisor_message","model":"claude-opus-5","input_tokens":100,"output_tokens":20}"#;
    let compaction = r#"{"type":"compaction","input_tokens":1000,"cache_read_input_tokens":7,"output_tokens":200}"#;
    let all = [own, fallback, advisor, compaction].join(",");
    assert_eq!(tokens(&with(&[own, fallback].join(","), 3)), [5, 3, 0, 0, 1]);
    // Repeated for each content block of the message.
    assert_eq!(tokens(&with(&all, 3).repeat(3)), [1105, 223, 0, 7, 1]);
    let mut run = Run::default();
    run.feed(with(&all, 3).as_bytes());
    let models = run.meter.by_model();
    assert_eq!(models.get(&"claude-opus-5".to_owned()).tokens.input, 100);
    assert_eq!(models.get(&"m".to_owned()).tokens.input, 1005);
    assert_eq!(tokens(&(with(&all, 3) + &since([1105, 240, 0, 7]))), [1105, 240, 0, 7, 1]);
}

#[test]
fn a_message_belongs_to_the_model_that_served_it() {
    let start = r#"{"type":"stream_event","session_id":"s","event":{"type":"message_start","message":{"id":"a","model":"asked","usage":{"input_tokens":5,"output_tokens":1}}}}"#;
    let served = r#"{"type":"assistant","session_id":"s","message":{"id":"a","model":"served","usage":{"input_tokens":5,"output_tokens":9}}}"#;
    let mut run = Run::default();
    run.feed(format!("{start}\n{served}\n").as_bytes());
    let models = run.meter.by_model();
    assert_eq!(models.get(&"served".to_owned()).tokens.output, 9);
    assert_eq!(models.get(&"asked".to_owned()).tokens.input, 0);
    assert_eq!(models.sum().tokens.input, 5);
}

fn is_lower_bound(lines: &str) -> bool {
    let mut run = Run::default();
    run.feed(lines.as_bytes());
    run.finish();
    run.meter.is_lower_bound()
}

#[test]
fn a_null_event_does_not_hide_a_tool_result() {
    let agent = message("s1", "\"t\"", [5, 1, 0, 0], "");
    let result = r#"{"type":"user","session_id":"s","message":{"content":[{"type":"tool_result","tool_use_id":"t"}]},"event":null,"tool_use_result":{"agentId":"x","usage":{"input_tokens":5,"output_tokens":9}}}"#;
    assert_eq!(tokens(&(agent + result)), [5, 9, 0, 0, 1]);
}

#[test]
fn a_result_record_ends_its_turn_even_without_usage() {
    let turn = "{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}\n";
    let bare = "{\"type\":\"result\",\"session_id\":\"s\"}\n";
    assert_eq!(tokens(&(message("a", MAIN, [1, 1, 0, 0], "") + bare + turn)), [2, 3, 0, 0, 1]);
}

#[test]
fn a_reset_without_a_session_applies_to_the_last_session() {
    let lines = message("a", MAIN, [5, 1, 0, 0], "")
        + &result([5, 1, 0, 0], None)
        + "{\"type\":\"conversation_reset\"}\n"
        + &message("b", MAIN, [9, 1, 0, 0], "")
        + &result([9, 1, 0, 0], None);
    assert_eq!(tokens(&lines), [14, 2, 0, 0, 2]);
}
