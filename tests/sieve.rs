//! The sieve compared with its oracle, a meter that is given every line.

mod oracle;

use budget_tee::count::meter::Meter;
use budget_tee::count::tally::Tally;
use budget_tee::count::tokens::Spend;
use budget_tee::run::Run;
use budget_tee::stream::scan::Scanner;
use oracle::framed;
use proptest::collection::vec;
use proptest::prelude::*;

/// All totals of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    total: Spend,
    by_model: Tally<String>,
    messages: u64,
    usage_seen: bool,
    lower_bound: bool,
    lines: u64,
}

fn facts(meter: &Meter, lines: u64) -> Facts {
    Facts {
        total: meter.total(),
        by_model: meter.by_model(),
        messages: meter.messages(),
        usage_seen: meter.usage_seen(),
        lower_bound: meter.is_lower_bound(),
        lines,
    }
}

/// The totals with every line scanned.
fn scanned(stream: &[u8]) -> Facts {
    let (mut scanner, mut meter, mut lines) = (Scanner::default(), Meter::default(), 0);
    let mut rest = stream;
    while let Some(found) = scanner.next(&mut rest) {
        lines += u64::from(found.ends_line);
        found.record.map(|line| meter.record(line));
    }
    if let Some(found) = scanner.last_line() {
        lines += 1;
        found.record.map(|line| meter.record(line));
    }
    facts(&meter, lines)
}

/// The totals of a run that reads the stream in parts that end at `cuts`.
fn sifted(stream: &[u8], cuts: &[usize]) -> Facts {
    let mut run = Run::default();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(stream.len());
    let mut from = 0;
    for cut in cuts {
        run.feed(&stream[from..cut]);
        from = cut;
    }
    run.finish();
    facts(&run.meter, run.lines())
}

/// `text` with some of its characters as escapes.
fn escaped(text: &str, escapes: u16) -> String {
    let escape = |(at, c): (usize, char)| match escapes >> (at % 16) & 1 {
        0 => c.to_string(),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    text.chars().enumerate().map(escape).collect()
}

/// A line of a stream, of a kind, with a session, message and parent, some of the fields that count, a
/// count, its keys and values partly escaped, and a text of some length.
fn line((kind, (session, id, parent), parts, count, escapes, padding): Choices) -> String {
    let key = |text: &str| format!("\"{}\"", escaped(text, escapes.rotate_left(u32::from(count))));
    let has_part = |part: u8| parts >> part & 1 == 1;
    let usage =
        format!("{}:{{{}:{count},{}:{}}}", key("usage"), key("input_tokens"), key("output_tokens"), count / 2 + 1);
    let models = format!(
        "{}:{{\"m{id}\":{{\"inputTokens\":{count},\"outputTokens\":9,\"cacheReadInputTokens\":{}}}}}",
        key("modelUsage"),
        u16::from(count) * 3
    );
    let text = "look-alikes: \\\"usage\\\":{\\\"input_tokens\\\":7}, \\u001b[0m sage, message\\\" ".repeat(padding);
    let message = format!(
        "{{\"id\":\"i{id}\",\"model\":\"m{id}\",\"type\":\"message\",\"content\":[{{\"type\":\"tool_result\",\"tool_use_id\":\"t{parent}\",\"x\":\"{text}\"}}]{}}}",
        if has_part(0) { format!(",{usage}") } else { String::new() }
    );
    let mut fields = Vec::new();
    match kind {
        0 => fields.push(format!("\"type\":\"assistant\",{}:{message}", key("message"))),
        1 => fields
            .push(format!("\"type\":\"user\",\"message\":{message},\"tool_use_result\":{{\"agentId\":\"a\",{usage}}}")),
        2 => fields.push(format!("\"type\":{}", key("result"))),
        3 => fields.push(format!(
            "\"type\":\"stream_event\",\"event\":{{\"type\":{},\"message\":{message}}}",
            key("message_start")
        )),
        4 => fields.push(format!("\"type\":\"stream_event\",\"event\":{{\"type\":\"message_delta\",{usage}}}")),
        5 => fields.push(format!(
            "\"type\":\"system\",\"subtype\":\"init\",{}:\"2.1.{}\"",
            key("claude_code_version"),
            270 + u16::from(count % 16)
        )),
        6 => fields.push(format!("\"type\":\"system\",\"subtype\":{}", key("compact_boundary"))),
        7 => fields.push(format!("\"type\":{}", key("conversation_reset"))),
        _ => fields.push(format!(
            "\"type\":\"stream_event\",\"event\":{{\"type\":\"content_block_delta\",\"delta\":\"{text}\"}}"
        )),
    }
    if has_part(1) {
        fields.push(format!("{}:true", key("aborted")));
    }
    if has_part(2) {
        fields.push(usage);
    }
    if has_part(3) {
        fields.push(models);
    }
    if has_part(4) {
        fields.rotate_left(1);
    }
    let parent = if parent == 0 { "null".to_owned() } else { format!("\"t{parent}\"") };
    format!("{{\"session_id\":\"s{session}\",\"parent_tool_use_id\":{parent},{}}}", fields.join(","))
}

type Choices = (u8, (u8, u8, u8), u8, u8, u16, usize);

fn lines(padding: impl Strategy<Value = usize>) -> impl Strategy<Value = String> {
    let spelling = prop_oneof![3 => Just(0), 1 => any::<u16>()];
    (0u8..10, (0u8..2, 0u8..3, 0u8..3), any::<u8>(), any::<u8>(), spelling, padding).prop_map(line)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sieve_skips_no_line_that_counts(
        lines in vec(lines(0usize..3), 1..20),
        ends in prop_oneof![Just(""), Just("\n"), Just("\n{\"type\":\"assist")],
        cuts in vec(any::<usize>(), 0..30),
    ) {
        let stream = lines.join("\n") + ends;
        let want = scanned(stream.as_bytes());
        prop_assert_eq!(&sifted(stream.as_bytes(), &cuts), &want, "{}", stream);
        let every_byte: Vec<_> = (0..stream.len()).collect();
        prop_assert_eq!(&sifted(stream.as_bytes(), &every_byte), &want, "{}", stream);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sieve_skips_no_part_of_an_array(
        parts in vec((vec(lines(0usize..2), 1..6), any::<u8>()), 1..5),
        ends in prop_oneof![3 => Just(""), 1 => Just("[\n"), 1 => Just("[{\"type\":\"assist")],
        cuts in vec(any::<usize>(), 0..30),
    ) {
        let stream = parts.iter().map(|(lines, frame)| framed(lines, *frame)).collect::<String>() + ends;
        let want = scanned(stream.as_bytes());
        prop_assert_eq!(&sifted(stream.as_bytes(), &cuts), &want, "{}", stream);
        let every_byte: Vec<_> = (0..stream.len()).collect();
        prop_assert_eq!(&sifted(stream.as_bytes(), &every_byte), &want, "{}", stream);
        let lines: Vec<_> = parts.iter().flat_map(|(lines, _)| lines.clone()).collect();
        let plain = scanned(lines.join("\n").as_bytes());
        prop_assert_eq!((plain.total, plain.by_model, plain.messages), (want.total, want.by_model, want.messages));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    // A line of more than about 256 KiB is not kept whole.
    #[test]
    fn the_sieve_skips_no_long_line_that_counts(
        lines in vec(lines(prop_oneof![Just(0), 3_000usize..5_000]), 1..6),
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let stream = lines.join("\n") + "\n";
        prop_assert_eq!(sifted(stream.as_bytes(), &cuts), scanned(stream.as_bytes()));
    }
}
