//! The oracle: the facts of a line by a naive walk of `serde_json::Value`; and a generator of lines.

use std::collections::BTreeMap;

use budget_tee::count::tokens::Tokens;
use budget_tee::stream::record::{MessageFields, Record};
use serde_json::Value;

/// The facts of a line, in a form that can be compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    texts: BTreeMap<&'static str, String>,
    usages: BTreeMap<String, Tokens>,
    searches: BTreeMap<String, u64>,
    aborted: bool,
    has_models: bool,
}

/// The facts that the scanner found.
pub fn scanned(line: &Record) -> Facts {
    let mut facts = Facts { aborted: line.aborted, has_models: line.models().is_some(), ..Facts::default() };
    for (name, text) in [
        ("type", &line.kind),
        ("subtype", &line.subtype),
        ("session", &line.session),
        ("parent", &line.parent),
        ("version", &line.version),
        ("event.type", &line.event_kind),
        ("agent", &line.agent),
        ("agent.model", &line.agent_model),
    ] {
        facts.texts.extend(text.get().map(|text| (name, text.to_owned())));
    }
    let mut message = |names: [&'static str; 4], message: &MessageFields| {
        for (name, text) in names.iter().zip([&message.id, &message.model, &message.tool_use_id]) {
            facts.texts.extend(text.get().map(|text| (*name, text.to_owned())));
        }
        facts.usages.extend(message.usage.get().map(|usage| (names[3].to_owned(), usage.tokens)));
    };
    message(["id", "model", "tool", "message"], &line.message);
    message(["event.id", "event.model", "event.tool", "event.message"], &line.event_message);
    for (name, usage) in [("result", &line.usage), ("event", &line.event_usage), ("agent", &line.agent_usage)] {
        facts.usages.extend(usage.get().map(|usage| (name.to_owned(), usage.tokens)));
    }
    for model in line.models().unwrap_or_default() {
        let usage = model.usage.get().unwrap_or_default();
        facts.usages.insert(format!("model {}", model.name), usage.tokens);
        facts.searches.insert(model.name.clone(), usage.web_searches);
    }
    facts
}

/// The facts in a parsed line.
pub fn walked(line: &Value) -> Facts {
    let mut facts = Facts { aborted: line["aborted"] == Value::Bool(true), ..Facts::default() };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (message, event, agent) = (&line["message"], &line["event"], &line["tool_use_result"]);
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    let result = blocks.iter().rfind(|block| block["type"] == "tool_result");
    for (name, value) in [
        ("type", &line["type"]),
        ("subtype", &line["subtype"]),
        ("session", &line["session_id"]),
        ("parent", &line["parent_tool_use_id"]),
        ("version", &line["claude_code_version"]),
        ("id", &message["id"]),
        ("model", &message["model"]),
        ("tool", result.map_or(&Value::Null, |block| &block["tool_use_id"])),
        ("event.type", &event["type"]),
        ("event.id", &event["message"]["id"]),
        ("event.model", &event["message"]["model"]),
        ("agent", &agent["agentId"]),
        ("agent.model", &agent["resolvedModel"]),
    ] {
        facts.texts.extend(text(value).map(|text| (name, text)));
    }
    for (name, value) in [
        ("result", &line["usage"]),
        ("message", &message["usage"]),
        ("event", &event["usage"]),
        ("event.message", &event["message"]["usage"]),
        ("agent", &agent["usage"]),
    ] {
        if value.is_object() {
            facts.usages.insert(
                name.to_owned(),
                Tokens {
                    input: count(&value["input_tokens"]),
                    output: count(&value["output_tokens"]),
                    cache_write: count(&value["cache_creation_input_tokens"]),
                    cache_read: count(&value["cache_read_input_tokens"]),
                },
            );
        }
    }
    if let Some(models) = line["modelUsage"].as_object() {
        facts.has_models = true;
        for (name, value) in models.iter().filter(|(_, value)| value.is_object()) {
            facts.usages.insert(
                format!("model {name}"),
                Tokens {
                    input: count(&value["inputTokens"]),
                    output: count(&value["outputTokens"]),
                    cache_write: count(&value["cacheCreationInputTokens"]),
                    cache_read: count(&value["cacheReadInputTokens"]),
                },
            );
            facts.searches.insert(name.clone(), count(&value["webSearchRequests"]));
        }
    }
    facts
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates at both ends, which is the rule for counts"
)]
fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_f64().map_or(0, |number| number.ceil() as u64))
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

const KEYS: [&str; 30] = [
    "x",
    "type",
    "subtype",
    "session_id",
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
    "claude-x",
    "\\u0075sage",
    "us\\u0061ge",
];

const TEXTS: [&str; 12] = [
    "assistant",
    "tool_result",
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
                | "claude-x"
                | "usage"
                | "\\u0075sage"
                | "us\\u0061ge"
        );
        if wanted && tape.pick(4) > 0 {
            out.push_str(&object(tape, depth + 1));
        } else if key == "content" && tape.pick(3) > 0 {
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
