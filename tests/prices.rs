//! Prices from outside: the name of a model and what it costs, who wins where several say a price,
//! and what makes the same tokens dearer.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{run, summary};
use serde_json::{Value, json};

/// Dollars per million tokens of input, output and cache reads.
type Price = (f64, f64, f64);

const FABLE_5: Price = (10.0, 50.0, 1.0);
const FABLE_5_1: Price = (10.0, 50.0, 0.25);
const FABLE_5_2: Price = (8.0, 40.0, 0.2);
const OPUS_4: Price = (15.0, 75.0, 1.5);
const OPUS_5: Price = (5.0, 25.0, 0.5);
const OPUS_5_5: Price = (4.0, 20.0, 0.2);
const SONNET_4: Price = (3.0, 15.0, 0.3);
const SONNET_5: Price = (2.0, 10.0, 0.2);
const HAIKU_3_5: Price = (0.8, 4.0, 0.08);
const HAIKU_4_5: Price = (1.0, 5.0, 0.1);
/// Of prompts above 100,000 tokens, as those of this test are.
const HAIKU_5_5: Price = (0.5, 2.5, 0.05);
/// From 2026-10-07 on.
const SONNET_5_5: Price = (2.0, 10.0, 0.1);
/// What a model costs that has no price of its own.
const NONE: Price = OPUS_5;

/// The names under which clouds and gateways serve models, with the model that each one is.
const NAMES: [(&str, &str, Price); 62] = [
    ("claude-fable-5-2", "claude-fable-5-2", FABLE_5_2),
    ("claude-fable-5-1", "claude-fable-5-1", FABLE_5_1),
    ("claude-mythos-5-1", "claude-mythos-5-1", FABLE_5_1),
    ("anthropic/claude-fable-5.1", "claude-fable-5-1", FABLE_5_1),
    ("claude-fable-5", "claude-fable-5", FABLE_5),
    ("claude-mythos-5[1m]", "claude-mythos-5", FABLE_5),
    ("global.anthropic.claude-fable-5-v1:0", "claude-fable-5", FABLE_5),
    ("claude-opus-5-5", "claude-opus-5-5", OPUS_5_5),
    ("claude-opus-5-5[1m]", "claude-opus-5-5", OPUS_5_5),
    ("openrouter/anthropic/claude-opus-5.5", "claude-opus-5-5", OPUS_5_5),
    ("opus", "claude-opus-5-5", OPUS_5_5),
    ("opus[1m]", "claude-opus-5-5", OPUS_5_5),
    ("claude-opus-latest", "claude-opus-5-5", OPUS_5_5),
    ("claude-opus-5", "claude-opus-5", OPUS_5),
    ("claude-opus-5[1m]", "claude-opus-5", OPUS_5),
    ("claude-opus-5:1m", "claude-opus-5", OPUS_5),
    ("claude-opus-5-thinking", "claude-opus-5", OPUS_5),
    ("claude-opus-5@default", "claude-opus-5", OPUS_5),
    ("Claude-Opus-5", "claude-opus-5", OPUS_5),
    ("claude-opus-4-8", "claude-opus-4-8", OPUS_5),
    ("claude-opus-4-8[1m]", "claude-opus-4-8", OPUS_5),
    ("jp.anthropic.claude-opus-4-8", "claude-opus-4-8", OPUS_5),
    ("claude-opus-4-7-20260416", "claude-opus-4-7", OPUS_5),
    ("vertex_ai/claude-opus-4-6@20260205", "claude-opus-4-6", OPUS_5),
    ("claude-opus-4-5-20251101", "claude-opus-4-5", OPUS_5),
    ("claude-opus-4.5", "claude-opus-4-5", OPUS_5),
    ("anthropic/claude-opus-4.5", "claude-opus-4-5", OPUS_5),
    ("anthropic:claude-opus-4-5", "claude-opus-4-5", OPUS_5),
    ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5", OPUS_5),
    ("bedrock/us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5", OPUS_5),
    (
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-5-20251101-v1:0",
        "claude-opus-4-5",
        OPUS_5,
    ),
    ("claude-opus-4-1-20250805", "claude-opus-4-1", OPUS_4),
    ("apac.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1", OPUS_4),
    ("claude-opus-4-0", "claude-opus-4", OPUS_4),
    ("claude-opus-4-20250514", "claude-opus-4", OPUS_4),
    ("sonnet", "claude-sonnet-5-5", SONNET_5_5),
    ("sonnet[1m]", "claude-sonnet-5-5", SONNET_5_5),
    ("vertex_ai/claude-sonnet-5-5", "claude-sonnet-5-5", SONNET_5_5),
    ("claude-sonnet-5", "claude-sonnet-5", SONNET_5),
    ("anthropic.claude-sonnet-5-v2", "claude-sonnet-5", SONNET_5),
    ("claude-sonnet-4-6", "claude-sonnet-4-6", SONNET_4),
    ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5", SONNET_4),
    ("claude-4.5-sonnet", "claude-sonnet-4-5", SONNET_4),
    ("claude-sonnet-4-0", "claude-sonnet-4", SONNET_4),
    ("claude-sonnet-4@20250514", "claude-sonnet-4", SONNET_4),
    ("claude-3-7-sonnet-latest", "claude-3-7-sonnet", SONNET_4),
    ("anthropic/claude-3.7-sonnet:thinking", "claude-3-7-sonnet", SONNET_4),
    ("haiku", "claude-haiku-5-5", HAIKU_5_5),
    ("claude-haiku-5-5", "claude-haiku-5-5", HAIKU_5_5),
    ("claude-haiku-4-5-20251001", "claude-haiku-4-5", HAIKU_4_5),
    ("CLAUDE-HAIKU-4.5", "claude-haiku-4-5", HAIKU_4_5),
    ("claude-3-5-haiku-20241022", "claude-3-5-haiku", HAIKU_3_5),
    ("claude-haiku-3.5", "claude-3-5-haiku", HAIKU_3_5),
    ("claude-opus-9", "", NONE),
    ("claude-opus-4-5-distill", "", NONE),
    ("not-claude-haiku-4-5", "", NONE),
    ("claude-3-opus-5", "", NONE),
    ("opusplan", "", NONE),
    ("glm-5.1", "", NONE),
    ("z-ai/glm-5", "", NONE),
    ("gpt-9@20260101", "", NONE),
    ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", "", NONE),
];

/// A million tokens of each of input, output and cache reads, as an assistant line.
fn million(model: &str, more: &str) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"s","message":{{"id":"{model}","model":"{model}","usage":{{"input_tokens":1000000,"output_tokens":1000000,"cache_read_input_tokens":1000000{more}}}}}}}"#
    ) + "\n"
}

/// A result line with one model's entry.
fn result(total: &str, model: &str, entry: &str) -> String {
    format!(r#"{{"type":"result","session_id":"s","total_cost_usd":{total},"modelUsage":{{"{model}":{{{entry}}}}}}}"#)
        + "\n"
}

/// What a stream comes to in dollars.
fn dollars(args: &[&str], input: &str) -> f64 {
    summary(args, input.as_bytes()).1["usd"].as_f64().expect("a number")
}

/// A file of one row of prices: a dollar a million tokens of every class.
fn row(folder: &tempfile::TempDir, model: &str, more: &str) -> PathBuf {
    let path = folder.path().join("prices.json");
    let rates = r#""input":1,"output":1,"cache_write_5m":1,"cache_write_1h":1,"cache_read":1"#;
    std::fs::write(&path, format!(r#"[{{"model":"{model}",{rates}{more}}}]"#)).expect("written");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
#[expect(clippy::print_stdout, reason = "cargo test --test prices table -- --nocapture prints the table")]
fn a_table_of_names_and_the_price_that_each_gets() {
    let stream: String = NAMES.iter().map(|(name, _, _)| million(name, "")).collect();
    let (_, facts) = summary(&["-q"], stream.as_bytes());
    println!("{:<100} {:<18} {:>6} {:>6} {:>6}", "name", "model", "input", "output", "read");
    for (name, model, (input, output, read)) in NAMES {
        println!("{name:<100} {model:<18} {input:>6} {output:>6} {read:>6}");
        let micro = facts["models"][name]["micro_usd"].as_f64().expect("it is counted");
        assert!((micro / 1e6 - (input + output + read)).abs() < 1e-9, "{name}: {micro}");
    }
    let unknown: Vec<_> = NAMES.iter().filter(|(_, model, _)| model.is_empty()).map(|(name, _, _)| *name).collect();
    assert_eq!((&facts["unpriced"], &facts["unpriced_as"]), (&json!(unknown), &json!("claude-opus-5")));
}

#[test]
fn an_unknown_model_is_told_once_with_what_it_was_priced_as() {
    let input = million("glm-5", "") + &million("glm-5", "");
    for (args, says, reports) in [
        (&[][..], "priced as claude-opus-5 (--unpriced); --prices sets its price", "priced as claude-opus-5"),
        (&["--unpriced", "haiku"], "priced as haiku (--unpriced)", "priced as haiku"),
        (&["--unpriced", "highest"], "priced as claude-opus-4 (--unpriced)", "priced as claude-opus-4"),
        (&["--unpriced", "zero"], "its cost is not counted (--unpriced)", "its cost is not counted"),
    ] {
        let ran = run(&[&["-l", "1000usd"], args].concat(), input.as_bytes());
        assert_eq!(ran.err.matches(says).count(), 1, "{}", ran.err);
        assert!(ran.err.contains(&format!("unpriced  glm-5, {reports}\n")), "{}", ran.err);
    }
    // A known model is not mentioned.
    let (ran, facts) = summary(&["-l", "1000usd"], million("claude-opus-4-5@20251101", "").as_bytes());
    assert!(!ran.err.contains("price"), "{}", ran.err);
    assert_eq!((&facts["unpriced"], &facts["unpriced_as"]), (&json!([]), &Value::Null));
}

#[test]
fn fast_mode_and_the_us_multiply() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = row(&folder, "glm-5", r#","fast":2.5,"us":3"#);
    let own = ["--prices", text(&own)];
    for (args, model, more, want) in [
        (&[][..], "claude-opus-4-6", r#","speed":"standard""#, 30.5),
        (&[], "claude-opus-4-6", r#","speed":null"#, 30.5),
        (&[], "claude-opus-4-6", r#","speed":"fast""#, 183.0),
        (&[], "claude-opus-4-7", r#","speed":"fast""#, 183.0),
        (&[], "claude-opus-4-8", r#","speed":"fast""#, 61.0),
        (&[], "us.anthropic.claude-opus-5-v1:0", r#","speed":"fast""#, 61.0),
        (&[], "claude-opus-5", r#","speed":"fast","inference_geo":"us""#, 67.1),
        (&[], "claude-opus-4-5", r#","speed":"fast","inference_geo":"us""#, 30.5),
        (&[], "claude-sonnet-4-6", r#","inference_geo":"us""#, 20.13),
        (&own, "glm-5", r#","speed":"fast""#, 7.5),
        (&own, "glm-5", r#","speed":"fast","inference_geo":"us""#, 22.5),
    ] {
        let spent = dollars(args, &million(model, more));
        assert!((spent - want).abs() < 1e-9, "{model} {more}: {spent}");
    }
    // The text of a tool that looks like it is not the speed of a request.
    let input = million("claude-opus-5", "").replace(r#""usage":"#, r#""content":[{"speed":"fast"}],"usage":"#);
    assert!((dollars(&[], &input) - 30.5).abs() < 1e-9);
}

#[test]
fn the_split_of_cache_writes_is_taken_where_a_models_entry_tells_it() {
    // A message that wrote for five minutes only, and another call of which only the entry knows.
    let live = r#"{"type":"assistant","session_id":"s","message":{"id":"a","model":"claude-opus-5","usage":{"cache_creation_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":0}}}}"#;
    for (split, want) in [
        ("", 0.0125),
        (r#","cacheCreationEphemeral5mInputTokens":1200,"cacheCreationEphemeral1hInputTokens":800"#, 0.0155),
        (r#","cacheCreationEphemeral5mInputTokens":2000,"cacheCreationEphemeral1hInputTokens":0"#, 0.0125),
        (r#","cacheCreationEphemeral1hInputTokens":9000"#, 0.02),
        (r#","cacheCreationEphemeral1hInputTokens":"800""#, 0.0125),
    ] {
        let entry = format!(r#""cacheCreationInputTokens":2000{split}"#);
        let spent = dollars(&[], &format!("{live}\n{}", result("null", "claude-opus-5", &entry)));
        assert!((spent - want).abs() < 1e-9, "{split}: {spent}");
    }
}

#[test]
fn what_the_user_said_wins_over_the_vendor_and_the_vendor_over_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = row(&folder, "claude-opus-5", "");
    let own = ["--prices", text(&prices)];
    let entry = r#""outputTokens":1000000,"costUSD":40"#;
    for (args, model, entry, total, want) in [
        // The table says 25 dollars for Opus 5, 5 for Haiku 4.5.
        (&[][..], "claude-opus-5", entry, "41", 40.0),
        (&own, "claude-opus-5", entry, "41", 1.0),
        (&own, "us.anthropic.claude-opus-5-v1:0", entry, "41", 1.0),
        (&own, "claude-haiku-4-5", entry, "41", 40.0),
        (&own, "claude-opus-5", r#""outputTokens":1000000"#, "41", 1.0),
        (&own, "claude-haiku-4-5", r#""outputTokens":1000000"#, "41", 41.0),
        // A model without a price: the default of --unpriced loses, what was asked for wins.
        (&[], "glm-5", entry, "41", 40.0),
        (&["--unpriced", "claude-haiku-4-5"], "glm-5", entry, "41", 5.0),
        (&["--unpriced", "zero"], "glm-5", entry, "41", 0.0),
        (&["--unpriced", "zero"], "claude-opus-5", entry, "41", 40.0),
        // A guess of the vendor's loses to the table and to the default.
        (&[], "claude-haiku-4-5", r#""outputTokens":1000000,"costUSD":40,"costBasis":"unknown""#, "40", 5.0),
        (&[], "claude-haiku-4-5", r#""costBasis":"unknown","outputTokens":1000000"#, "40", 5.0),
        (&[], "glm-5", r#""outputTokens":1000000,"costUSD":40,"costBasis":"unknown""#, "40", 25.0),
        (&[], "claude-haiku-4-5", r#""outputTokens":1000000,"costUSD":40,"costBasis":"list""#, "40", 40.0),
    ] {
        let spent = dollars(args, &result(total, model, entry));
        assert!((spent - want).abs() < 1e-9, "{args:?} {model} {entry}: {spent}");
    }
}

#[test]
fn a_total_without_models_counts_only_where_the_user_said_no_price() {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = row(&folder, "claude-haiku-4-5", "");
    let turn = |model: &str| {
        million(model, "")
            + r#"{"type":"result","session_id":"s","total_cost_usd":99,"usage":{"input_tokens":1000000,"output_tokens":1000000,"cache_read_input_tokens":1000000}}"#
    };
    assert!((dollars(&[], &turn("claude-haiku-4-5")) - 99.0).abs() < 1e-9);
    assert!((dollars(&["--prices", text(&prices)], &turn("claude-haiku-4-5")) - 3.0).abs() < 1e-9);
    assert!((dollars(&["--unpriced", "zero"], &turn("glm-5"))).abs() < 1e-9);
}

#[test]
fn the_band_of_large_prompts_holds_for_a_request_and_not_for_a_sum() {
    // Haiku 5.5 costs five times as much above 100,000 tokens of prompt.
    let sum = result("null", "claude-haiku-5-5", r#""inputTokens":1000000"#);
    assert!((dollars(&[], &sum) - 0.1).abs() < 1e-9);
    let request =
        r#"{"type":"assistant","message":{"id":"a","model":"claude-haiku-5-5","usage":{"input_tokens":1000000}}}"#;
    assert!((dollars(&[], request) - 0.5).abs() < 1e-9);
}

#[test]
fn names_may_be_hostile_and_long() {
    let long = "us.anthropic.".repeat(4000) + "claude-haiku-4-5";
    let names = [&long, "claude", "claude-", "-", "[1m]", "@", "claude-opus-5[1m]]", "claude-opüs-5", "\\u0000", ""];
    let stream: String = names.iter().map(|name| million(name, "")).collect();
    let (ran, facts) = summary(&["-q"], stream.as_bytes());
    assert_eq!((ran.code(), facts["messages"].as_u64()), (Some(0), Some(10)));
    assert!((facts["usd"].as_f64().expect("a number") - 10.0 * 30.5).abs() < 1e-9, "{facts}");
}

#[test]
fn a_row_of_ones_own_may_leave_no_price_for_unknown_models() {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = row(&folder, "claude-opus-5", r#","from":"2999-01-01""#);
    let ran = run(&["--prices", text(&prices)], b"");
    assert_eq!(ran.code(), Some(125));
    assert!(ran.err.contains("--unpriced: claude-opus-5 has no price either"), "{}", ran.err);
}
