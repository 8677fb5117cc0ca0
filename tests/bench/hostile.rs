//! Streams that are meant to cost as much as possible: each aims at one thing that the program must look up,
//! build or search.

use std::io::{self, Write};

/// Their names, as the command line takes them.
pub const NAMES: [&str; 6] = ["sessions", "results", "starts", "models", "escapes", "imitations"];

/// Writes at least `bytes` bytes of the stream with this name.
pub fn write(name: &str, bytes: usize, out: &mut impl Write) -> io::Result<()> {
    let mut written = 0;
    let head = match name {
        "results" => agents(),
        "starts" => (0..1024).map(message_start).collect(),
        _ => String::new(),
    };
    out.write_all(head.as_bytes())?;
    let mut number = 0;
    while written < bytes {
        let line = line(name, number);
        out.write_all(line.as_bytes())?;
        written += line.len();
        number += 1;
    }
    Ok(())
}

fn line(name: &str, number: usize) -> String {
    match name {
        // Sessions in a cycle, as many as are remembered.
        "sessions" => message(&format!("s{}", number % 256), number, "null"),
        // Each looks at all messages that are in flight.
        "results" => result(number, 1),
        // A message that is remembered the longest.
        "starts" => message_start(0),
        "models" => result(number, 255),
        // A key that must be decoded in every line.
        "escapes" => "{\"type\":\"assistant\",\"us\\u0061ge\":{\"input_tokens\":1}}\n".to_owned(),
        // The end of a word, over and over.
        _ => "ge\"".repeat(100) + "\n",
    }
}

/// A subagent's message for each of 1,024.
fn agents() -> String {
    (0..1024).map(|number| message("s", number, &format!("\"toolu_{number}\""))).collect()
}

fn message(session: &str, number: usize, parent: &str) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"{session}","parent_tool_use_id":{parent},"message":{{"id":"m{number}","model":"claude-sonnet-5","usage":{{"input_tokens":1,"output_tokens":1}}}}}}
"#
    )
}

fn message_start(number: usize) -> String {
    format!(
        r#"{{"type":"stream_event","session_id":"s","event":{{"type":"message_start","message":{{"id":"m{number}","model":"claude-sonnet-5","usage":{{"input_tokens":1}}}}}}}}
"#
    )
}

/// A `result` line that names this many models.
fn result(number: usize, models: usize) -> String {
    let entry = |model| format!(r#""model-{model}":{{"inputTokens":{number},"outputTokens":1,"costUSD":0.1}}"#);
    let entries: Vec<_> = (0..models).map(entry).collect();
    format!("{{\"type\":\"result\",\"session_id\":\"s\",\"modelUsage\":{{{}}}}}\n", entries.join(","))
}
