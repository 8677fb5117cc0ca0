//! The scanner must agree with a naive walk on every valid line, and must find the same in any bytes
//! however they are split into reads. A run must read all bytes, never lower its total, and have the
//! same totals as a meter that is given every line, although its sieve scans only some lines.
#![no_main]

#[path = "../../oracle/mod.rs"]
mod oracle;

use budget_tee::count::meter::Meter;
use budget_tee::count::tally::Tally;
use budget_tee::count::tokens::{Counts, Spend};
use budget_tee::run::Run;
use budget_tee::stream::scan::{Scanned, Scanner};
use libfuzzer_sys::fuzz_target;
use oracle::{Facts, Tape, framed, object, scanned, walked};
use serde_json::Value;

/// Starts of lines that change the state of a meter, and look-alikes. They contain the words that the
/// sieve looks for, also with escapes.
const STARTS: [&str; 16] = [
    r#"{"#,
    r#"{"type":"assistant","#,
    r#"{"type":"assistant","message":{"id":"m1","model":"claude-x","usage":{"input_tokens":7}},"#,
    r#"{"type":"assistant","message":{"id":"m2","us\u0061ge":{"output_tokens":7}},"#,
    r#"{"type":"assistant","aborted":true,"message":{"id":"m1","usage":{"output_tokens":9}},"#,
    r#"{"type":"assistant","aborted":true,"message":{"id":"m1"},"#,
    r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]},"#,
    r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m1"}},"#,
    r#"{"type":"stream_event","event":{"type":"message\u005fstart","message":{"id":"m3"}},"#,
    r#"{"type":"stream_event","event":{"type":"message_delta","usage":{"output_tokens":20}},"#,
    r#"{"type":"result","modelUsage":{"claude-x":{"inputTokens":90,"outputTokens":90}},"#,
    r#"{"type":"r\u0065sult","session_id":"s","#,
    r#"{"type":"system","subtype":"init","claude_code_version":"2.1.277","#,
    r#"{"type":"system","subtype":"compact_boundary","#,
    r#"{"type":"conversation_reset","#,
    r#"no JSON: "usage" \u0075 \\u0061 \"result\" "#,
];

/// The keys under which a generated object is put into such a line.
const KEYS: [&str; 8] = ["x", "message", "event", "tool_use_result", "usage", "modelUsage", "\\u0075sage", "content"];

/// A stream of mostly valid lines.
fn stream(tape: &mut Tape<'_>) -> String {
    let mut lines = Vec::new();
    while let Some((&choice, rest)) = tape.0.split_first() {
        tape.0 = rest;
        let (start, key) = (STARTS[usize::from(choice) % 16], KEYS[usize::from(choice) / 16 % 8]);
        lines.push(format!("{start}\"{key}\":{}}}", object(tape, 0)));
    }
    lines.join("\n")
}

fn facts(bytes: &[u8], split: usize) -> Vec<(bool, Option<Facts>)> {
    let mut all = Vec::new();
    for_each(bytes, split, |found| all.push((found.ends_line, found.record.map(scanned))));
    all
}

fn for_each(bytes: &[u8], split: usize, mut visit: impl FnMut(Scanned<'_>)) {
    let mut scanner = Scanner::default();
    for mut part in bytes.chunks(split) {
        while let Some(found) = scanner.next(&mut part) {
            visit(found);
        }
    }
    if let Some(found) = scanner.last_line() {
        visit(found);
    }
}

/// All totals of a stream.
fn totals(meter: &Meter, lines: u64) -> (Spend, Tally<String>, u64, bool, u64) {
    (meter.total(), meter.by_model(), meter.messages(), meter.usage_seen(), lines)
}

/// Whether the oracle, which reads fractions and exponents as floats, is not exact for these bytes.
fn is_inexact(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|w| w[0].is_ascii_digit() && matches!(w[1], b'.' | b'e' | b'E'))
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Every line that is an object is a record, where no array may reach over it.
fn check_lines(bytes: &[u8], found: &[(bool, Option<Facts>)]) {
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(without_mark).collect();
    if lines.iter().any(|line| line.trim_ascii_start().starts_with(b"[")) {
        return;
    }
    // A prefix may end in `[`, and the line be an array then.
    let mut ends = found.split_inclusive(|(ends_line, _)| *ends_line);
    for line in lines {
        let found = ends.next().unwrap_or_default();
        if let (false, Ok(value @ Value::Object(_))) = (is_inexact(line), serde_json::from_slice::<Value>(line)) {
            assert_eq!(found, [(true, Some(walked(&value)))]);
        }
    }
}

/// Every element of a stream that is one array of objects is a record.
fn check_array(bytes: &[u8], found: &[(bool, Option<Facts>)]) {
    if let (false, Ok(values)) = (is_inexact(bytes), serde_json::from_slice::<Vec<Value>>(without_mark(bytes)))
        && values.iter().all(Value::is_object)
    {
        let found: Vec<_> = found.iter().filter_map(|(_, facts)| facts.as_ref()).collect();
        assert_eq!(found, values.iter().map(walked).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

fn check(bytes: &[u8], split: usize) {
    let whole = facts(bytes, bytes.len().max(1));
    assert_eq!(whole, facts(bytes, split));
    check_lines(bytes, &whole);
    check_array(bytes, &whole);
    let mut meter = Meter::default();
    for_each(bytes, bytes.len().max(1), |found| {
        found.record.map(|record| meter.record(record));
    });
    let want = totals(&meter, whole.iter().filter(|(ends_line, _)| *ends_line).count() as u64);
    for split in [split, bytes.len().max(1)] {
        let mut run = Run::default();
        let mut before = run.meter.total();
        for part in bytes.chunks(split) {
            assert_eq!(run.feed(part).taken, part.len());
            assert_eq!(before.minus(run.meter.total()), Default::default());
            before = run.meter.total();
        }
        run.finish();
        assert_eq!(totals(&run.meter, run.lines()), want);
        // A run knows more: that an agent has begun which tells its usage at the end.
        assert!(run.meter.is_lower_bound() || !meter.is_lower_bound());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&split, bytes)) = data.split_first() else { return };
    let split = usize::from(split % 37) + 1;
    check(bytes, split);
    // The same bytes as choices of the generator, whose valid lines reach deeper than random bytes do.
    check(object(&mut Tape(bytes), 0).as_bytes(), split);
    check(stream(&mut Tape(bytes)).as_bytes(), split);
    // The same records as an array and behind prefixes; what follows another frame is any of them.
    let Some((&frames, bytes)) = bytes.split_first() else { return };
    let records: Vec<_> = bytes.chunks(60).map(|bytes| object(&mut Tape(bytes), 0)).collect();
    let text = framed(&records, frames % 16) + &framed(&records, frames / 16);
    check(text.as_bytes(), split);
    let wanted: Vec<_> = records.iter().filter_map(|record| serde_json::from_str(record).ok()).collect();
    if wanted.len() == records.len() && !is_inexact(text.as_bytes()) {
        let found: Vec<_> = facts(text.as_bytes(), split).into_iter().filter_map(|(_, facts)| facts).collect();
        assert_eq!(found, wanted.iter().chain(&wanted).map(walked).collect::<Vec<_>>());
    }
});
