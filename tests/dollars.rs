//! Budgets in dollars, prices, and files of defaults, from outside.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{Ran, assistant, budget_tee, bytes, finish, run, summary};

/// An assistant line of `model` with so many output tokens.
fn line(id: &str, model: &str, output: u64) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"s","message":{{"id":"{id}","model":"{model}","usage":{{"output_tokens":{output}}}}}}}"#
    ) + "\n"
}

/// A result line with the vendor's cost in dollars.
fn result(output: u64, total: &str, cost: &str) -> String {
    format!(
        r#"{{"type":"result","session_id":"s","total_cost_usd":{total},"modelUsage":{{"claude-haiku-4-5":{{"outputTokens":{output}{cost}}}}}}}"#
    ) + "\n"
}

const HAIKU: &str = "claude-haiku-4-5";

/// Dollars that a stream comes to.
fn dollars(args: &[&str], input: &str) -> f64 {
    summary(args, input.as_bytes()).1["usd"].as_f64().expect("a number")
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn whichever_budget_is_exceeded_first_trips_and_names_itself() {
    // 5 dollars a million tokens.
    let input = line("a", HAIKU, 1000) + &line("b", HAIKU, 1000);
    let block = |args: &[&str]| run(&[&["-q", "-m", "block"], args].concat(), input.as_bytes());
    let tokens = block(&["-l", "1500", "-l", "1usd"]);
    assert_eq!(tokens.code(), Some(122));
    assert!(tokens.err.contains("overall budget exceeded: ≥ 2,000 of 1,500 tokens used, 134 %"), "{}", tokens.err);
    let money = block(&["-l", "1M", "-l", "0.0075usd"]);
    assert_eq!(money.code(), Some(122));
    assert!(money.err.contains("overall budget exceeded: ≥ $0.01 of $0.0075 used, 134 %"), "{}", money.err);
    assert_eq!(block(&["-l", "2000", "-l", "0.01usd"]).code(), Some(0));
    assert_eq!(block(&["--overall-cost-budget", "0.009"]).code(), Some(122));
    let named = block(&["--command-cost-budget", "/a=0.009", "-n", "/a"]);
    assert!(named.err.contains("budget of /a exceeded"), "{}", named.err);
    assert_eq!(block(&["-e", "0.02usd", "-l", "0.01usd"]).code(), Some(121));
}

#[test]
fn a_message_is_priced_once_however_often_it_grows() {
    let input = line("a", HAIKU, 1) + &line("a", HAIKU, 1000) + &line("a", HAIKU, 1000);
    assert!((dollars(&[], &input) - 0.005).abs() < 1e-9);
}

#[test]
fn the_vendors_figure_settles_it_and_never_lowers_it() {
    let live = line("a", HAIKU, 1000);
    let two = |a: &str| live.clone() + a;
    for (input, want) in [
        (two(&result(1000, "0.5", ",\"costUSD\":0.25")), 0.25),
        (two(&result(1000, "0.5", "")), 0.5),
        (two(&result(1000, "0.5", ",\"costUSD\":0.25")) + &result(1000, "0.5", ",\"costUSD\":0.25"), 0.25),
        (two(&result(1000, "0.001", "")), 0.005),
        (two(&result(2000, "null", "")), 0.01),
        (two("{\"type\":\"result\",\"session_id\":\"s\",\"total_cost_usd\":0.125}\n"), 0.125),
    ] {
        assert!((dollars(&[], &input) - want).abs() < 1e-9, "{want}: {input}");
    }
}

#[test]
fn a_turn_without_model_usage_is_raised_at_its_models_price() {
    let input =
        line("a", HAIKU, 10) + "{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{\"output_tokens\":1000}}\n";
    assert!((dollars(&[], &input) - 0.005).abs() < 1e-9);
}

#[test]
fn what_a_resumed_session_brought_along_costs_nothing() {
    let resumed = String::from_utf8(bytes("resumed.jsonl")).expect("UTF-8");
    // 10 + 5 input, 85 + 60 output, 209 + 40 written, 13710 + 13919 read, of Haiku 4.5.
    let (spent, want) = (dollars(&[], &resumed), (15.0 + 145.0 * 5.0 + 249.0 * 1.25 + 27_629.0 * 0.1) / 1e6);
    assert!(spent > want / 2.0 && spent < want * 1.1, "{spent} {want}");
}

#[test]
fn a_model_without_a_price_is_priced_as_chosen_said_once_and_marked() {
    let input = line("a", "glm-5", 1000) + &line("b", "glm-5", 1000);
    let run = |args: &[&str]| summary(&[&["-q", "-l", "10usd", "-m", "block"], args].concat(), input.as_bytes());
    for (args, cost, words) in [
        (&[][..], 0.15, "most expensive"),
        (&["--unpriced", "zero"], 0.0, "not counted"),
        (&["--unpriced", HAIKU], 0.01, HAIKU),
    ] {
        let (ran, facts) = run(args);
        assert_eq!((ran.code(), &facts["unpriced"]), (Some(0), &serde_json::json!(["glm-5"])));
        assert!((facts["usd"].as_f64().expect("a number") - cost).abs() < 1e-9, "{facts}");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert!(ran.err.contains("glm-5 has no price") && ran.err.contains(words), "{}", ran.err);
    }
    let (ran, _) = run(&["--unpriced", "refuse"]);
    assert_eq!((ran.code(), ran.out), (Some(122), line("a", "glm-5", 1000).into_bytes()));
    assert!(ran.err.contains("glm-5 has no price (--unpriced refuse)"), "{}", ran.err);
    let ran = harness::run(&["-m", "block", "--unpriced", "refuse"], line("a", "glm-5", 1000).as_bytes());
    assert!(ran.err.contains("budget-tee: stopped, model without a price: 1 message"), "{}", ran.err);
}

#[test]
fn prices_of_ones_own_and_bad_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let row = |input: &str| {
        format!(
            r#"[{{"model":"glm-5","input":{input},"output":7,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0}}]"#
        )
    };
    let good = file(&folder, "good.json", &row("1"));
    assert!((dollars(&["--prices", text(&good)], &line("a", "glm-5", 1000)) - 0.007).abs() < 1e-9);
    for (table, says) in [
        (row("-1"), "row 1, field input"),
        (row("NaN"), "is not JSON"),
        (row("\"1\""), "row 1, field input"),
        (row("1,\"inputs\":2"), "row 1, field inputs: unknown"),
        ("no JSON".to_owned(), "is not JSON"),
    ] {
        let bad = file(&folder, "bad.json", &table);
        let ran = run(&["--prices", text(&bad)], b"unread");
        assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
        assert!(ran.err.contains(text(&bad)) && ran.err.contains(says), "{says}: {}", ran.err);
    }
}

#[test]
fn runs_share_budgets_in_dollars_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("spend.ndjson");
    let runs: Vec<_> = (1..=16)
        .map(|n| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                let name = if n % 2 == 0 { "/even" } else { "/odd" };
                run(&["-q", "-L", text(&ledger), "-n", name], line("a", HAIKU, n * 1000).as_bytes()).code()
            })
        })
        .collect();
    for run in runs {
        assert_eq!(run.join().expect("joins"), Some(0));
    }
    let status = |args: &[&str]| -> (serde_json::Value, Option<i32>) {
        let ran = run(&[&["--status", "--json", "-L", text(&ledger)], args].concat(), b"");
        (serde_json::from_slice(&ran.out).expect("JSON"), ran.code())
    };
    let (facts, code) = status(&["-l", "0.68usd", "--command-cost-budget", "/even=0.3599"]);
    assert_eq!((facts["usd"].as_f64(), code), (Some(0.68), Some(122)));
    assert_eq!(facts["budgets"][0]["exceeded"], false);
    assert_eq!((facts["budgets"][1]["used"].as_f64(), facts["budgets"][1]["unit"].as_str()), (Some(0.36), Some("usd")));
    // What is left does not hold the estimate of one more.
    let refused = run(&["-q", "-L", text(&ledger), "-l", "0.7usd", "-e", "0.03usd", "-m", "block"], b"");
    assert_eq!(refused.code(), Some(121));
    assert!(refused.err.contains("estimate of $0.03 does not fit"), "{}", refused.err);
}

#[test]
fn a_file_of_defaults_gives_way_to_environment_and_command_line_budget_by_budget() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = file(
        &folder,
        "budget.json",
        r#"{"budget":{"overall_budget":1000,"overall_cost_budget":1.5,"command_budgets":{"/a":500,"/b":600},
            "command_cost_budgets":{"/a":0.5},"enforcement_mode":"block","disable_visuals":true},"name":"/a"}"#,
    );
    let limits = |variables: &[(&str, &str)], args: &[&str]| {
        let summary = folder.path().join("summary.json");
        let mut command = budget_tee(&[args, &["--summary", text(&summary)]].concat());
        command.env("BUDGET_TEE_CONFIG", &config).envs(variables.iter().copied());
        let ran: Ran = finish(command, b"{}\n");
        assert_eq!(ran.code(), Some(0), "{}", ran.err);
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(summary).expect("a summary")).expect("JSON");
        let budgets = facts["budgets"].as_array().expect("a list").clone();
        let of = |name: &str, unit: &str| {
            budgets.iter().find(|b| b["name"] == name && b["unit"] == unit).and_then(|b| b["limit"].as_f64())
        };
        assert_eq!((&facts["mode"], ran.err.lines().count()), (&"block".into(), 1), "{}", ran.err);
        [of("overall", "tokens"), of("overall", "usd"), of("/a", "tokens"), of("/a", "usd"), of("/b", "tokens")]
            .map(Option::unwrap_or_default)
    };
    assert_eq!(limits(&[], &[]), [1000.0, 1.5, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[("BUDGET_TEE_LIMIT", "2k")], &[]), [2000.0, 1.5, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[("BUDGET_TEE_LIMIT", "2k,3usd")], &["-l", "4usd"]), [2000.0, 4.0, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[], &["-b", "/a=7", "-e", "0"]), [1000.0, 1.5, 7.0, 0.5, 600.0]);
}

#[test]
fn a_bad_file_of_defaults_is_refused_with_its_field() {
    let folder = tempfile::tempdir().expect("a folder");
    for (contents, says) in [
        (r#"{"overall":1}"#, "overall: unknown field"),
        (r#"{"limit":"5x"}"#, "invalid value '5x'"),
        (r#"{"limit":[1,2]}"#, "--limit is given twice in tokens"),
        ("[1]", "want a JSON object"),
        (r#"{"config":"x"}"#, "config: unknown field"),
        (r#"{"completions":"bash"}"#, "completions: unknown field"),
    ] {
        let config = file(&folder, "bad.json", contents);
        let ran = run(&["--config", text(&config)], b"");
        assert_eq!(ran.code(), Some(125));
        assert!(ran.err.contains(text(&config)) && ran.err.contains(says), "{says}: {}", ran.err);
    }
    let ran = run(&["--config", "/nowhere"], b"");
    assert!(ran.err.contains("cannot read config /nowhere: No such file"), "{}", ran.err);
}

#[test]
fn the_summary_says_what_stopped_it() {
    let line = assistant("a", 5000);
    for (args, want) in [
        (&["-q", "-m", "block", "-l", "1k"][..], serde_json::json!("budget")),
        (&["-q", "-m", "block", "--unpriced", "refuse"], serde_json::json!("unpriced")),
        (&["-q", "-l", "1k"], serde_json::Value::Null),
    ] {
        let (_, facts) = summary(args, line.as_bytes());
        assert_eq!(facts["stopped_by"], want, "{args:?}");
    }
}
