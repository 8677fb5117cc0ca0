//! The scanner compared with its oracle on generated lines, and on lines that JSON parsers refuse.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod oracle;

use budget_tee::stream::paths::{Owner, Span, TextField};
use budget_tee::stream::scan::Scanner;
use oracle::{FRAMES, Facts, Tape, framed, object, scanned, walked};
use proptest::collection::vec;
use proptest::prelude::*;

/// The facts of every line, when the bytes come in parts that end at `cuts`.
fn facts(bytes: &[u8], cuts: &[usize]) -> Vec<Option<Facts>> {
    let mut scanner = Scanner::default();
    let mut all = Vec::new();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut from = 0;
    for cut in cuts {
        let mut part = &bytes[from..cut];
        while let Some(found) = scanner.next(&mut part) {
            all.push(found.record.map(scanned));
        }
        from = cut;
    }
    all.extend(scanner.last_line().map(|found| found.record.map(scanned)));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arrays_and_prefixed_lines_hold_the_records_of_lines(tapes in vec(vec(any::<u8>(), 0..200), 1..4), cuts in vec(any::<usize>(), 0..6)) {
        let records: Vec<_> = tapes.iter().map(|tape| object(&mut Tape(tape), 0)).collect();
        let wanted: Vec<_> = records
            .iter()
            .map(|record| walked(&serde_json::from_str(record).expect("generated lines are valid")))
            .collect();
        for first in 0..FRAMES {
            let second = first + u8::from(cuts.len() % 2 == 0) * 3;
            let text = framed(&records, first) + &framed(&records, second);
            let found = facts(text.as_bytes(), &cuts);
            let all: Vec<_> = found.iter().flatten().collect();
            prop_assert_eq!(all, wanted.iter().chain(&wanted).collect::<Vec<_>>(), "{} {} {}", first, second, text);
            let every_byte: Vec<_> = (0..text.len()).collect();
            prop_assert_eq!(&found, &facts(text.as_bytes(), &every_byte));
        }
    }

    #[test]
    fn agrees_with_a_naive_walk_for_every_split(tapes in vec(vec(any::<u8>(), 0..200), 1..4), cuts in vec(any::<usize>(), 0..6)) {
        let lines: Vec<_> = tapes.iter().map(|tape| object(&mut Tape(tape), 0)).collect();
        let wanted: Vec<_> = lines
            .iter()
            .map(|line| Some(walked(&serde_json::from_str(line).expect("generated lines are valid"))))
            .collect();
        let text = lines.join("\n");
        prop_assert_eq!(&facts(text.as_bytes(), &cuts), &wanted, "{}", text);
        let every_byte: Vec<_> = (0..text.len()).collect();
        prop_assert_eq!(&facts(text.as_bytes(), &every_byte), &wanted, "{}", text);
    }

    #[test]
    fn arbitrary_bytes_give_the_same_result_for_every_split(bytes in vec(prop_oneof![
        Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b','), Just(b':'),
        Just(b'\n'), any::<u8>(),
    ], 0..80), cuts in vec(any::<usize>(), 0..6)) {
        let mut line = br#"{"type":"assistant","message":{"usage":{"input_tokens":1"#.to_vec();
        line.extend(bytes);
        let every_byte: Vec<_> = (0..line.len()).collect();
        prop_assert_eq!(facts(&line, &cuts), facts(&line, &every_byte));
    }
}

/// `input_tokens` of the only line, if the line counts and has it.
fn input(line: &[u8]) -> Option<u64> {
    let mut scanner = Scanner::default();
    let mut rest = line;
    assert!(scanner.next(&mut rest).is_none(), "one line");
    let found = scanner.last_line().expect("a line");
    found.record.and_then(|record| record.usage(Owner::Message)).map(|usage| usage.tokens.input)
}

fn with_input(value: &str) -> Option<u64> {
    input(format!(r#"{{"message":{{"usage":{{"output_tokens":1,"input_tokens":{value}}}}}}}"#).as_bytes())
}

#[test]
fn numbers_round_up_and_saturate() {
    for (text, count) in [
        ("-5", 0),
        ("-1e400", 0),
        ("0.1", 1),
        ("1.0", 1),
        ("18446744073709551615", u64::MAX),
        ("18446744073709551616", u64::MAX),
        ("1e400", u64::MAX),
        ("1e19", 10_000_000_000_000_000_000),
        ("1e-400", 1),
        ("0e400", 0),
        ("0.000e-5", 0),
        ("1.0000000000000000000000001", 2),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("9007199254740993.5", 9_007_199_254_740_994),
        ("0.0012e4", 12),
        ("12.5e1", 125),
        ("12.55e1", 126),
        ("1E+2", 100),
        ("18446744073709551615.5", u64::MAX),
        ("1e99999999999999999999", u64::MAX),
        ("1e-99999999999999999999", 1),
    ] {
        assert_eq!(with_input(text), Some(count), "{text}");
    }
}

#[test]
fn invalid_numbers_are_absent_and_hide_nothing() {
    for text in
        ["\"7\"", "null", "true", "[7]", "{\"a\":7}", "07", "+7", ".7", "7.", "0x7", "NaN", "Infinity", "7_0", "--7"]
    {
        assert_eq!(with_input(text), Some(0), "{text}");
    }
    let digits = "9".repeat(64 * 1024 + 1);
    assert_eq!(with_input(&digits), Some(0), "a number over 64 KiB");
}

#[test]
fn nesting_of_any_depth_is_accepted() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let line = format!(r#"{{"x":{deep},"message":{{"content":{deep},"usage":{{"y":{deep},"input_tokens":7}}}}}}"#);
    assert_eq!(input(line.as_bytes()), Some(7));
    let objects = format!("{}1{}", r#"{"usage":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(input(objects.as_bytes()), None);
}

#[test]
fn invalid_utf8_and_nul_bytes() {
    let line = [b"{\"\xff\xfe\":\"\xc3\x28\0\",\"message\":{\"id\":\"\xff\",\"usage\":{\"input_tokens\":7}}}" as &[u8]]
        .concat();
    assert_eq!(input(&line), Some(7));
    assert_eq!(input(b"\0{\"message\":{\"usage\":{\"input_tokens\":7}}}"), Some(7), "a prefix");
}

#[test]
fn lone_surrogates_do_not_make_different_ids_equal() {
    let id = |text: &str| {
        let line = format!(r#"{{"message":{{"id":"{text}","usage":{{"input_tokens":7}}}}}}"#);
        let mut scanner = Scanner::default();
        scanner.next(&mut line.as_bytes());
        let found = scanner.last_line().expect("a line").record.expect("counts");
        found.text(TextField::MessageId).map(str::to_owned)
    };
    assert!(id("a\\ud800").is_some());
    assert_eq!(id("a\\ud800"), id("\\u0061\\ud800"));
    assert_ne!(id("a\\ud800"), id("b\\ud800"));
}

#[test]
fn text_that_may_surround_a_value() {
    let line = r#"{"message":{"usage":{"input_tokens":7}}}"#;
    for (before, after, counts) in [
        ("\u{feff}", "", true),
        (" \t", " \t\r", true),
        ("\u{feff} ", "\r", true),
        ("", " trailing text", true),
        ("", "}", true),
        ("text ", "", true),
        ("\"", "", false),
        (",", "", true),
        ("\u{fe00}", "", true),
    ] {
        let text = format!("{before}{line}{after}");
        assert_eq!(input(text.as_bytes()), counts.then_some(7), "{text:?}");
    }
}

#[test]
fn an_incomplete_or_malformed_line_does_not_count() {
    let line = r#"{"message":{"usage":{"input_tokens":7}}}"#;
    for end in 0..line.len() {
        if end > 0 {
            assert_eq!(input(&line.as_bytes()[..end]), None, "{end}");
        }
    }
    for broken in [
        r#"{"message":{"usage":{"input_tokens":7}}"#,
        r#"{"message":{"usage":{"input_tokens":7}]}"#,
        r#"{"message":{"usage":{"input_tokens" 7}}}"#,
        r#"{"message" {"usage":{"input_tokens":7}}}"#,
        r#"{"message":{"usage":{"input_tokens":7},}}"#,
        r#"{"message":{"usage":{"input_tokens":}}}"#,
        r#"{"message":{"content":[1,],"usage":{"input_tokens":7}}}"#,
        "{\"message\":{\"content\":\"a\nb\",\"usage\":{\"input_tokens\":7}}}",
    ] {
        let mut scanner = Scanner::default();
        let mut rest = broken.as_bytes();
        while let Some(found) = scanner.next(&mut rest) {
            assert!(found.record.is_none(), "{broken}");
        }
        assert!(scanner.last_line().is_some_and(|found| found.record.is_none()), "{broken}");
    }
}

#[test]
fn the_last_of_duplicate_keys_replaces_the_whole_value() {
    for (line, count) in [
        (r#"{"message":{"usage":{"input_tokens":7}},"message":{"usage":{"output_tokens":1}}}"#, Some(0)),
        (r#"{"message":{"usage":{"input_tokens":7}},"message":5}"#, None),
        (r#"{"message":{"usage":{"input_tokens":7},"usage":null}}"#, None),
        (r#"{"message":{"usage":{"input_tokens":7,"input_tokens":"8"}}}"#, Some(0)),
        (r#"{"message":{"usage":{"input_tokens":[7],"input_tokens":8}}}"#, Some(8)),
    ] {
        assert_eq!(input(line.as_bytes()), count, "{line}");
    }
}

#[test]
fn strings_over_64_kib_are_absent_and_their_line_still_counts() {
    let long = "x".repeat(64 * 1024 + 1);
    let line = format!(r#"{{"{long}":1,"message":{{"id":"{long}","usage":{{"input_tokens":7}}}}}}"#);
    let mut scanner = Scanner::default();
    scanner.next(&mut line.as_bytes());
    let found = scanner.last_line().expect("a line").record.expect("counts");
    assert_eq!(found.text(TextField::MessageId), None);
    assert_eq!(found.usage(Owner::Message).map(|usage| usage.tokens.input), Some(7));
}

#[test]
fn a_model_usage_of_thousands_of_models_is_absent() {
    let models: Vec<_> = (0..5000).map(|n| format!(r#""m{n}":{{"inputTokens":1}}"#)).collect();
    let line = format!(r#"{{"modelUsage":{{{}}},"usage":{{"input_tokens":3}}}}"#, models.join(","));
    let mut scanner = Scanner::default();
    scanner.next(&mut line.as_bytes());
    let found = scanner.last_line().expect("a line").record.expect("counts");
    assert!(found.models(Span::Process).is_none());
    assert_eq!(found.usage(Owner::Turn).map(|usage| usage.tokens.input), Some(3));
}
