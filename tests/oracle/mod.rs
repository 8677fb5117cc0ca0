//! The oracle: the facts of a line by a naive walk of `serde_json::Value`; and a generator of lines.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::collections::BTreeMap;

use budget_tee::count::tokens::{Tokens, Usage};
use budget_tee::stream::paths::{Owner, Span, TextField};
use budget_tee::stream::record::Record;
use serde_json::Value;

/// Of one iteration: whether it is billed beside its message, the model, and the usage.
type IterationFacts = (bool, Option<String>, Usage);

/// The facts of a line, in a form that can be compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    texts: BTreeMap<&'static str, String>,
    usages: BTreeMap<&'static str, Usage>,
    iterations: BTreeMap<&'static str, Vec<IterationFacts>>,
    /// Usage by model, the cache writes for an hour, and whether the cost is known.
    models: BTreeMap<&'static str, BTreeMap<String, (Usage, Option<u64>)>>,
    numbers: [Option<u64>; 3],
    aborted: bool,
}

/// The facts that the scanner found.
pub fn scanned(record: &Record) -> Facts {
    let numbers = [record.turns, record.api_time, record.spawn_depth];
    let mut facts = Facts { aborted: record.aborted, numbers, ..Facts::default() };
    for (name, field) in [
        ("type", TextField::Kind),
        ("subtype", TextField::Subtype),
        ("session", TextField::Session),
        ("session alias", TextField::SessionAlias),
        ("parent", TextField::Parent),
        ("version", TextField::Version),
        ("init.model", TextField::InitModel),
        ("hook", TextField::HookName),
        ("id", TextField::MessageId),
        ("model", TextField::MessageModel),
        ("tool", TextField::ToolUseId),
        ("event.type", TextField::EventKind),
        ("event.id", TextField::StartId),
        ("event.model", TextField::StartModel),
        ("agent", TextField::Agent),
        ("agent.model", TextField::AgentModel),
    ] {
        facts.texts.extend(record.text(field).map(|text| (name, text.to_owned())));
    }
    for (name, owner) in [
        ("turn", Owner::Turn),
        ("message", Owner::Message),
        ("delta", Owner::Delta),
        ("start", Owner::Start),
        ("agent", Owner::Agent),
    ] {
        facts.usages.extend(record.usage(owner).map(|usage| (name, usage)));
    }
    for (name, owner) in [("message", Owner::Message), ("delta", Owner::Delta)] {
        let iterations = record.iterations(owner).iter();
        let iterations = iterations.map(|one| (one.is_beside(), one.model().map(str::to_owned), one.usage()));
        facts.iterations.insert(name, iterations.collect());
    }
    for (name, span) in [("process", Span::Process), ("since", Span::SinceLast)] {
        let models = record
            .models(span)
            .map(|models| models.iter().map(|model| (model.name.clone(), (model.usage(), model.write_1h()))).collect());
        facts.models.extend(models.map(|models| (name, models)));
    }
    facts
}

/// The facts in a parsed line.
pub fn walked(line: &Value) -> Facts {
    let numbers = ["num_turns", "duration_api_ms", "spawn_depth"].map(|key| number(&line[key]));
    let mut facts = Facts { aborted: line["aborted"] == Value::Bool(true), numbers, ..Facts::default() };
    let (message, event, agent) = (&line["message"], &line["event"], &line["tool_use_result"]);
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    let result = blocks.iter().rfind(|block| block["type"] == "tool_result");
    for (name, value) in [
        ("type", &line["type"]),
        ("subtype", &line["subtype"]),
        ("session", &line["session_id"]),
        ("session alias", &line["sessionId"]),
        ("parent", &line["parent_tool_use_id"]),
        ("version", &line["claude_code_version"]),
        ("init.model", &line["model"]),
        ("hook", &line["hook_name"]),
        ("id", &message["id"]),
        ("model", &message["model"]),
        ("tool", result.map_or(&Value::Null, |block| &block["tool_use_id"])),
        ("event.type", &event["type"]),
        ("event.id", &event["message"]["id"]),
        ("event.model", &event["message"]["model"]),
        ("agent", &agent["agentId"]),
        ("agent.model", &agent["resolvedModel"]),
    ] {
        facts.texts.extend(value.as_str().map(|text| (name, text.to_owned())));
    }
    for (name, value) in [
        ("turn", &line["usage"]),
        ("message", &message["usage"]),
        ("delta", &event["usage"]),
        ("start", &event["message"]["usage"]),
        ("agent", &agent["usage"]),
    ] {
        facts.usages.extend(value.is_object().then(|| (name, usage(value))));
    }
    for (name, value) in [("message", &message["usage"]), ("delta", &event["usage"])] {
        let elements = value["iterations"].as_array().map_or(&[][..], Vec::as_slice);
        let objects = elements.iter().filter(|element| element.is_object()).take(16);
        facts.iterations.insert(name, objects.map(iteration).collect());
    }
    for (name, value) in [("process", &line["modelUsage"]), ("since", &line["model_usage_since_last_result"])] {
        let entries = value.as_object().map(|models| {
            let objects = models.iter().filter(|(_, value)| value.is_object());
            objects.map(|(model, value)| (model.clone(), entry(value))).collect()
        });
        facts.models.extend(entries.map(|entries| (name, entries)));
    }
    facts
}

fn tokens(value: &Value, keys: [&str; 4]) -> Tokens {
    let [input, output, cache_write, cache_read] = keys.map(|key| number(&value[key]).unwrap_or_default());
    Tokens { input, output, cache_write, cache_read }
}

const KEYS_OF_USAGE: [&str; 4] =
    ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];

fn usage(value: &Value) -> Usage {
    Usage {
        tokens: tokens(value, KEYS_OF_USAGE),
        write_1h: number(&value["cache_creation"]["ephemeral_1h_input_tokens"]).unwrap_or_default(),
        web_searches: number(&value["server_tool_use"]["web_search_requests"]).unwrap_or_default(),
        us_only: value["inference_geo"] == "us",
        fast: value["speed"] == "fast",
    }
}

fn iteration(value: &Value) -> IterationFacts {
    let beside = matches!(value["type"].as_str(), Some("advisor_message" | "compaction"));
    let usage = Usage { tokens: tokens(value, KEYS_OF_USAGE), ..Usage::default() };
    (beside, value["model"].as_str().map(str::to_owned), usage)
}

/// A model's entry in a `result`.
fn entry(value: &Value) -> (Usage, Option<u64>) {
    let keys = ["inputTokens", "outputTokens", "cacheCreationInputTokens", "cacheReadInputTokens"];
    let write_1h = number(&value["cacheCreationEphemeral1hInputTokens"]);
    let web_searches = number(&value["webSearchRequests"]).unwrap_or_default();
    let tokens = tokens(value, keys);
    (Usage { tokens, write_1h: write_1h.unwrap_or_default(), web_searches, ..Usage::default() }, write_1h)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates at both ends, which is the rule for counts"
)]
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().map(|number| number.ceil() as u64))
}

/// The choices of a generator, one byte each. When the bytes run out, it takes the first choice.
pub struct Tape<'a>(pub &'a [u8]);

impl Tape<'_> {
    fn pick(&mut self, choices: usize) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first) % choices
    }

    fn one_of<'b>(&mut self, choices: &[&'b str]) -> &'b str {
        choices[self.pick(choices.len())]
    }
}

const KEYS: [&str; 45] = [
    "x",
    "type",
    "subtype",
    "session_id",
    "sessionId",
    "parent_tool_use_id",
    "claude_code_version",
    "aborted",
    "message",
    "event",
    "tool_use_result",
    "usage",
    "modelUsage",
    "id",
    "model",
    "content",
    "tool_use_id",
    "agentId",
    "resolvedModel",
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "inputTokens",
    "outputTokens",
    "cacheReadInputTokens",
    "cacheCreationInputTokens",
    "webSearchRequests",
    "cacheCreationEphemeral1hInputTokens",
    "model_usage_since_last_result",
    "iterations",
    "cache_creation",
    "ephemeral_1h_input_tokens",
    "server_tool_use",
    "web_search_requests",
    "inference_geo",
    "speed",
    "num_turns",
    "duration_api_ms",
    "spawn_depth",
    "hook_name",
    "total_cost_usd",
    "claude-x",
    "\\u0075sage",
    "us\\u0061ge",
];

const TEXTS: [&str; 15] = [
    "assistant",
    "tool_result",
    "advisor_message",
    "us",
    "fast",
    "m1",
    "",
    "\\\"usage\\\":{\\\"input_tokens\\\":9}",
    "\\u00e9\\ud83d\\ude00",
    "\\\\",
    "a\\\\\\\"b",
    "é😀",
    "\\n\\t\\/",
    "{}[],:",
    "usage",
];

const NUMBERS: [&str; 14] = [
    "0",
    "7",
    "-5",
    "1.5",
    "1e3",
    "2E-3",
    "-0",
    "-0.5",
    "18446744073709551615",
    "18446744073709551616",
    "1e300",
    "0.0",
    "123456789012345678901234567890",
    "9007199254740993",
];

/// A valid JSON object on one line, with wanted keys (also in the wrong places), duplicate keys, escapes,
/// odd numbers, wrong types and whitespace.
pub fn object(tape: &mut Tape<'_>, depth: usize) -> String {
    let mut out = String::from("{");
    for at in 0..tape.pick(7) {
        if at > 0 {
            out.push(',');
        }
        out.push_str(tape.one_of(&["", "", " ", "\t", "\r"]));
        let key = tape.one_of(&KEYS);
        out.push_str(&format!("\"{key}\"{}:{}", tape.one_of(&["", " "]), tape.one_of(&["", "", " "])));
        let wanted = matches!(
            key,
            "message"
                | "event"
                | "tool_use_result"
                | "modelUsage"
                | "model_usage_since_last_result"
                | "cache_creation"
                | "server_tool_use"
                | "claude-x"
                | "usage"
                | "\\u0075sage"
                | "us\\u0061ge"
        );
        if wanted && tape.pick(4) > 0 {
            out.push_str(&object(tape, depth + 1));
        } else if matches!(key, "content" | "iterations") && tape.pick(3) > 0 {
            out.push_str(&array(tape, depth + 1));
        } else {
            out.push_str(&value(tape, depth + 1));
        }
    }
    out.push_str(tape.one_of(&["}", " }"]));
    out
}

fn array(tape: &mut Tape<'_>, depth: usize) -> String {
    let elements: Vec<_> = (0..tape.pick(4)).map(|_| value(tape, depth + 1)).collect();
    format!("[{}]", elements.join(tape.one_of(&[",", " , "])))
}

fn value(tape: &mut Tape<'_>, depth: usize) -> String {
    match tape.pick(if depth < 8 { 8 } else { 5 }) {
        0 => tape.one_of(&["null", "true", "false"]).to_owned(),
        1 | 2 => tape.one_of(&NUMBERS).to_owned(),
        3 | 4 => format!("\"{}\"", tape.one_of(&TEXTS)),
        5 | 6 => object(tape, depth),
        _ => array(tape, depth),
    }
}

/// In how many ways [`framed`] can write records.
pub const FRAMES: u8 = 8;

/// Records as a stream may hold them: as lines, as lines with a prefix, or as an array.
pub fn framed(records: &[String], frame: u8) -> String {
    let lines = |prefix: &str| records.iter().map(|record| format!("{prefix}{record}\n")).collect();
    let pretty = |step: &str| records.iter().map(|record| pretty(record, step)).collect::<Vec<_>>();
    match frame % FRAMES {
        0 => lines(""),
        1 => lines("2026-11-25T10:11:12.131415161Z "),
        2 => lines("\u{1b}[32mdata:\t"),
        3 => format!("[{}]\n", records.join(",")),
        4 => format!("[\r\n{}\r\n]\r\n", records.join(",\r\n")),
        5 => format!("[\n{}\n]\n", pretty("  ").join(",\n")),
        6 => format!("[\n{}\n]\n", pretty("").join(",\n")),
        _ => format!("web-1  | [{}]\n", records.join(" , ")),
    }
}

/// An element of a pretty-printed array, every token's text as it was; `step` is one indentation.
fn pretty(record: &str, step: &str) -> String {
    let mut out = String::from(step);
    let (mut depth, mut in_text, mut escaped) = (1, false, false);
    for c in record.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if matches!(c, '}' | ']') {
            depth -= 1;
            out.push('\n');
            out.push_str(&step.repeat(depth));
        }
        match c {
            ' ' | '\t' | '\r' => {}
            _ => out.push(c),
        }
        if matches!(c, '{' | '[' | ',') {
            depth += usize::from(c != ',');
            out.push('\n');
            out.push_str(&step.repeat(depth));
        }
        in_text = c == '"';
    }
    out
}
