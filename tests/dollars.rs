//! Tests of budgets in dollars, price files and config files.

#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{NO_SPEND, Ran, assistant, budget_tee, bytes, finish, run, summary};

/// An assistant record of `model` with `output` output tokens.
fn line(id: &str, model: &str, output: u64) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"s","message":{{"id":"{id}","model":"{model}","usage":{{"output_tokens":{output}}}}}}}"#
    ) + "\n"
}

/// A result record with the vendor's cost in dollars.
fn result(output: u64, total: &str, cost: &str) -> String {
    format!(
        r#"{{"type":"result","session_id":"s","total_cost_usd":{total},"modelUsage":{{"claude-haiku-4-5":{{"outputTokens":{output}{cost}}}}}}}"#
    ) + "\n"
}

const HAIKU: &str = "claude-haiku-4-5";

/// The cost of a stream in dollars.
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
fn the_first_budget_exceeded_stops_the_run_and_is_named() {
    // The output price is 5 dollars per million tokens.
    let input = line("a", HAIKU, 1000) + &line("b", HAIKU, 1000);
    let block = |args: &[&str]| run(&[&["-q", "-m", "block"], args].concat(), input.as_bytes());
    let tokens = block(&["-l", "1500", "-l", "1usd"]);
    assert_eq!(tokens.code(), Some(122));
    assert!(tokens.err.contains("overall budget exceeded: ≥ 2,000 of 1,500 tokens, 134 %"), "{}", tokens.err);
    let money = block(&["-l", "1M", "-l", "0.0075usd"]);
    assert_eq!(money.code(), Some(122));
    assert!(money.err.contains("overall budget exceeded: ≥ $0.01 of $0.0075, 134 %"), "{}", money.err);
    assert_eq!(block(&["-l", "2000", "-l", "0.01usd"]).code(), Some(0));
    assert_eq!(block(&["--overall-cost-budget", "0.009"]).code(), Some(122));
    let named = block(&["--command-cost-budget", "/a=0.009", "-n", "/a"]);
    assert!(named.err.contains("budget of /a exceeded"), "{}", named.err);
    assert_eq!(block(&["-e", "0.02usd", "-l", "0.01usd"]).code(), Some(121));
}

#[test]
fn a_growing_message_is_priced_once() {
    let input = line("a", HAIKU, 1) + &line("a", HAIKU, 1000) + &line("a", HAIKU, 1000);
    assert!((dollars(&[], &input) - 0.005).abs() < 1e-9);
}

#[test]
fn the_vendors_cost_settles_the_total_and_never_lowers_it() {
    let live = line("a", HAIKU, 1000);
    let then = |result: &str| live.clone() + result;
    for (input, want) in [
        (then(&result(1000, "0.5", ",\"costUSD\":0.25")), 0.25),
        (then(&result(1000, "0.5", "")), 0.5),
        (then(&result(1000, "0.5", ",\"costUSD\":0.25")) + &result(1000, "0.5", ",\"costUSD\":0.25"), 0.25),
        (then(&result(1000, "0.001", "")), 0.005),
        (then(&result(2000, "null", "")), 0.01),
        (then("{\"type\":\"result\",\"session_id\":\"s\",\"total_cost_usd\":0.125}\n"), 0.125),
    ] {
        assert!((dollars(&[], &input) - want).abs() < 1e-9, "{want}: {input}");
    }
}

#[test]
fn usage_of_a_turn_without_model_usage_is_priced_as_its_model() {
    let input =
        line("a", HAIKU, 10) + "{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{\"output_tokens\":1000}}\n";
    assert!((dollars(&[], &input) - 0.005).abs() < 1e-9);
}

#[test]
fn usage_carried_over_by_a_resumed_session_costs_nothing() {
    let resumed = String::from_utf8(bytes("resumed.jsonl")).expect("UTF-8");
    // Haiku 4.5: 10 + 5 input, 85 + 60 output, 209 + 40 cache-write, 13710 + 13919 cache-read.
    let (cost, want) = (dollars(&[], &resumed), (15.0 + 145.0 * 5.0 + 249.0 * 1.25 + 27_629.0 * 0.1) / 1e6);
    assert!(cost > want / 2.0 && cost < want * 1.1, "{cost} {want}");
}

#[test]
fn an_unpriced_model_is_priced_as_chosen_and_reported_once() {
    let input = line("a", "glm-5", 1000) + &line("b", "glm-5", 1000);
    let run = |args: &[&str]| summary(&[&["-q", "-l", "10usd", "-m", "block"], args].concat(), input.as_bytes());
    for (args, cost, words) in [
        (&[][..], 0.05, "priced as claude-opus-5 (--unpriced)"),
        (&["--unpriced", "highest"], 0.15, "priced as claude-opus-4 (--unpriced)"),
        (&["--unpriced", "zero"], 0.0, "not counted"),
        (&["--unpriced", HAIKU], 0.01, HAIKU),
    ] {
        let (ran, facts) = run(args);
        assert_eq!((ran.code(), &facts["unpriced"]), (Some(0), &serde_json::json!(["glm-5"])));
        assert!((facts["usd"].as_f64().expect("a number") - cost).abs() < 1e-9, "{facts}");
        assert_eq!(ran.messages(), 1, "{}", ran.err);
        assert!(ran.err.contains("glm-5 has no price") && ran.err.contains(words), "{}", ran.err);
    }
    let (ran, _) = run(&["--unpriced", "refuse"]);
    assert_eq!((ran.code(), ran.out), (Some(122), line("a", "glm-5", 1000).into_bytes()));
    assert!(ran.err.contains("glm-5 has no price (--unpriced refuse)"), "{}", ran.err);
    let ran = harness::run(&["-m", "block", "--unpriced", "refuse"], line("a", "glm-5", 1000).as_bytes());
    assert!(ran.err.contains("budget-tee: stopped, model without a price: 1 message"), "{}", ran.err);
}

#[test]
fn a_price_file_is_used_and_an_invalid_one_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let row = |input: &str| {
        format!(
            r#"[{{"model":"glm-5","input":{input},"output":7,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0}}]"#
        )
    };
    let good = file(&folder, "good.json", &row("1"));
    assert!((dollars(&["--prices", text(&good)], &line("a", "glm-5", 1000)) - 0.007).abs() < 1e-9);
    for (table, message) in [
        (row("-1"), "row 1, field input"),
        (row("NaN"), "is not JSON"),
        (row("\"1\""), "row 1, field input"),
        (row("1,\"inputs\":2"), "row 1, field inputs: unknown"),
        ("no JSON".to_owned(), "is not JSON"),
    ] {
        let bad = file(&folder, "bad.json", &table);
        let ran = run(&["--prices", text(&bad)], b"unread");
        assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
        assert!(ran.err.contains(text(&bad)) && ran.err.contains(message), "{message}: {}", ran.err);
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
    // The rest of the budget is smaller than the estimate of another run.
    let refused = run(&["-q", "-L", text(&ledger), "-l", "0.7usd", "-e", "0.03usd", "-m", "block"], b"");
    assert_eq!(refused.code(), Some(121));
    assert!(refused.err.contains("estimate of $0.03 does not fit"), "{}", refused.err);
}

#[test]
fn the_environment_and_options_override_the_config_file_budget_by_budget() {
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
        let ran: Ran = finish(command, NO_SPEND.as_bytes());
        assert_eq!(ran.code(), Some(0), "{}", ran.err);
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(summary).expect("a summary")).expect("JSON");
        let budgets = facts["budgets"].as_array().expect("a list").clone();
        let limit = |name: &str, unit: &str| {
            budgets.iter().find(|b| b["name"] == name && b["unit"] == unit).and_then(|b| b["limit"].as_f64())
        };
        assert_eq!((&facts["mode"], ran.err.lines().count()), (&"block".into(), 0), "{}", ran.err);
        [("overall", "tokens"), ("overall", "usd"), ("/a", "tokens"), ("/a", "usd"), ("/b", "tokens")]
            .map(|(name, unit)| limit(name, unit).unwrap_or_default())
    };
    assert_eq!(limits(&[], &[]), [1000.0, 1.5, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[("BUDGET_TEE_LIMIT", "2k")], &[]), [2000.0, 1.5, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[("BUDGET_TEE_LIMIT", "2k,3usd")], &["-l", "4usd"]), [2000.0, 4.0, 500.0, 0.5, 600.0]);
    assert_eq!(limits(&[], &["-b", "/a=7", "-e", "0"]), [1000.0, 1.5, 7.0, 0.5, 600.0]);
}

#[test]
fn an_invalid_config_file_is_refused_naming_the_field() {
    let folder = tempfile::tempdir().expect("a folder");
    for (contents, message) in [
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
        assert!(ran.err.contains(text(&config)) && ran.err.contains(message), "{message}: {}", ran.err);
    }
    let ran = run(&["--config", "/nowhere"], b"");
    assert!(ran.err.contains("cannot read config /nowhere: No such file"), "{}", ran.err);
}

#[test]
fn the_summary_gives_the_stop_reason() {
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
