//! How records stand in a stream: as lines, behind prefixes, in arrays.
//!
//! A case is a literal in which `<7>` stands for a record of seven input tokens. Each is read in parts
//! of one byte, of three, and whole, by the scanner alone and by a run, which has the sieve in front.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
mod oracle;

use budget_tee::run::Run;
use budget_tee::stream::paths::Owner;
use budget_tee::stream::scan::Scanner;
use harness::{bytes, run, summary};
use oracle::{FRAMES, framed};

/// The text with a record in place of each `<N>`, each with a message id of its own.
fn spelled(case: &str) -> String {
    let mut out = String::new();
    let mut parts = case.split('<');
    out.push_str(parts.next().unwrap_or_default());
    for (id, part) in parts.enumerate() {
        let (tokens, rest) = part.split_once('>').expect("a closing bracket");
        out.push_str(&record(id, tokens));
        out.push_str(rest);
    }
    out
}

fn record(id: usize, tokens: &str) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"s","message":{{"id":"m{id}","content":[{{"type":"text","text":"[{{,\"\\"}}],"usage":{{"input_tokens":{tokens}}}}}}}"#
    )
}

/// The case holds records of so many tokens, one after the other.
#[track_caller]
fn check(case: &str, expected: &[u64]) {
    let text = spelled(case);
    for size in [1, 3, text.len().max(1)] {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        for mut part in text.as_bytes().chunks(size) {
            while let Some(scanned) = scanner.next(&mut part) {
                found.extend(scanned.record.and_then(|record| record.usage(Owner::Message)));
            }
        }
        let last = scanner.last_line();
        found.extend(last.and_then(|scanned| scanned.record).and_then(|record| record.usage(Owner::Message)));
        let found: Vec<_> = found.iter().map(|usage| usage.tokens.input).collect();
        assert_eq!(found, expected, "scanned in parts of {size}: {case:?}");

        let mut run = Run::default();
        for part in text.as_bytes().chunks(size) {
            assert_eq!(run.feed(part).taken, part.len());
        }
        run.finish();
        assert_eq!(run.meter.total().tokens.input, expected.iter().sum::<u64>(), "run in parts of {size}: {case:?}");
        assert_eq!(run.lines(), text.lines().count() as u64, "run in parts of {size}: {case:?}");
    }
}

#[test]
fn every_element_of_an_array_is_a_record() {
    for case in [
        "[<1>,<2>,<3>]",
        "[<1>,<2>,<3>]\n",
        "[ <1> , <2>\t,\r<3> ]\r\n",
        "\u{feff}[<1>,<2>,<3>]\n",
        " \t[<1>,<2>,<3>]",
        "\n\r\n  [\n<1>,<2>,<3>]",
        "[\n<1>,\n<2>,\n<3>\n]\n",
        "[\r\n  <1>,\r\n  <2>,\r\n  <3>\r\n]\r\n",
        "[<1>\n,<2>\n,<3>\n]",
        "[<1>,\n\n\n<2>,<3>\n]",
        "[\n  null,\n  <1>,\n  [<9>],\n  <2>, \"<9]{\", 1e5, <3>\n]".replace("<9]", "9]").as_str(),
        "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,<1>,<2>,<3>]",
        "[[[[1],[\"]\"]]],<1>,<2>,<3>]",
        "[\"a\",<1>,<2>,<3>]",
        // Never closed.
        "[<1>,<2>,<3>",
        "[\n<1>,\n<2>,\n<3>,\n",
        "[\n<1>,<2>,<3>,{\"type\":",
    ] {
        check(case, &[1, 2, 3]);
    }
    for case in ["[]", "[]\n", "[\n]\n", "[", "[\n", "[ ", "[\"<1", "[{]", "[[[[\n"].map(|case| case.replace("<1", "1"))
    {
        check(&case, &[]);
    }
}

#[test]
fn arrays_lines_and_further_arrays_follow_each_other() {
    for case in [
        "[<1>]\n<2>\n[<3>]\n",
        "[\n  <1>\n]\n<2>\n[\n  <3>\n]\n",
        "<1>\n[\n<2>\n,\n<3>\n]",
        "<1>\n[<2>,<3>]\n",
        "<1>\n[ <2>,\t<3> ]\n",
        "<1>\n[<2>,\n<3>]\n",
        "[\n<1>\n]\n[\r\n<2>\r\n]\r\n[\n<3>\n]\n",
        "[<1>][<9>]\n[<2>]\n<3>\n",
        "[INFO] starting\n<1>\n[INFO] going on\n<2>\n[12:00:01] ending\n<3>\n",
        "[INFO\n<1>\n<2>\n<3>\n",
        "[\n<1>\n<2>\n<3>\n",
        "[[[[\n<1>\n<2>\n<3>\n",
        // The array of a process that was killed.
        "[\n<1>,\n[\n<2>\n]\n<3>\n",
        "[<1>,{\"type\":\"assistant\",\"message\":{\"content\":\"cut [\n<2>\n<3>\n",
        "[<1>,{\"type\":\"assistant\",\"tools\":[\"cut [\n[<2>,<3>]\n",
    ] {
        check(case, &[1, 2, 3]);
    }
}

#[test]
fn a_malformed_element_hides_no_later_one() {
    let malformed = [
        r#"{"type":}"#,
        r#"{"type" "assistant"}"#,
        r#"{type:"assistant","message":{"usage":{"input_tokens":9}}}"#,
        r#"{"message":{"usage":{"input_tokens":9},}}"#,
        r#"{"message":{"usage":{"input_tokens":9}]}"#,
        r#"{"message":{"content":[1,],"usage":{"input_tokens":9}}}"#,
        r#"{"a":[{"b":"]}"}],,"message":{"usage":{"input_tokens":9}}}"#,
        "tru",
        "'a'",
        "\"{\"",
    ];
    for element in malformed {
        check(&format!("[<1>,{element},<2>]\n<3>"), &[1, 2, 3]);
        check(&format!("[\n  <1>,\n  {element},\n  <2>\n]\n<3>"), &[1, 2, 3]);
    }
    // Brackets or quotes are lost: the next element that begins no further in is one again.
    let lost = [
        r#"{"type":"assistant","message":{"usage":{"input_tokens":9"#,
        r#"{"type":"assistant","message":{"id":"m"#,
        r#"{"type":"assistant","#,
        r#"{"type"#,
        r#"{"tools":["Bash","#,
        r#"{"tools":["Ba"#,
        r#"{"a":"x\"#,
        "{",
    ];
    for element in &lost[..4] {
        check(&format!("[\n  <1>,\n  {element}\n  <2>,\n  <3>\n]\n"), &[1, 2, 3]);
        check(&format!("[\n<1>,\n{element}\n<2>,\n<3>\n]\n"), &[1, 2, 3]);
    }
    for element in &lost[5..] {
        check(&format!("[\n<1>,\n{element}\n<2>,\n<3>\n]\n"), &[1, 2, 3]);
    }
}

#[test]
fn a_prefix_of_64_bytes_may_stand_before_a_record() {
    for prefix in [
        "2026-11-25T10:11:12.131415161Z ",
        "Nov 25 10:11:12 ",
        "[2026-11-25 10:11:12] ",
        "[2026-11-25 10:11:12,131] ",
        "10:11:12.1314 [worker 3] ",
        "data: ",
        "data:",
        "web-1  | ",
        "2026-11-25T10:11:12.131415161+01:00 stdout F ",
        "\u{1b}[36mweb-1  |\u{1b}[0m ",
        "\u{1b}[0m",
        "\u{feff}\u{feff}",
        "}",
        "é",
        "\0",
        &"x".repeat(64),
        &format!("{}{}", " ".repeat(100), "x".repeat(64)),
        &"é".repeat(32),
    ] {
        check(&format!("{prefix}<1>\n{prefix}<2> \u{1b}[0m\r\n<3>\n{prefix}<4>"), &[1, 2, 3, 4]);
    }
    for prefix in [&"x".repeat(65), "x\"", "x{", "{}", "\"", "key=\"value\" "] {
        check(&format!("<1>\n{prefix}<2>\n<3>"), &[1, 3]);
    }
    // An array behind a prefix ends with its line; what is behind a record is ignored.
    check("data: [<1>,<2>]\n\ndata: [<3>", &[1, 2, 3]);
    check("data: [<1>,{\"a\n<2>,\n  <3>", &[1, 2, 3]);
    check("data: <1>,<2>]\n<3> <4>\n", &[1, 3]);
    // Blanks alone are no prefix, however many.
    check(&format!("{}<1>", " \t".repeat(100)), &[1]);
}

#[test]
fn an_element_counts_when_it_closes() {
    let mut run = Run::default();
    for n in 1..100 {
        let begin = if n == 1 { "[" } else { "," };
        let fed = run.feed(format!("{begin}{}", record(n, "10")).as_bytes());
        assert!(fed.has_news);
        assert_eq!((run.meter.total().tokens.input, run.lines()), (10 * n as u64, 0));
    }
}

/// The records of a recorded run, its total, and the number of its records.
fn recorded() -> (Vec<String>, u64) {
    let stream = String::from_utf8(bytes("review.jsonl")).expect("UTF-8");
    let records: Vec<_> = stream.lines().map(str::to_owned).collect();
    (records, summary(&["-q"], stream.as_bytes()).1["tokens"]["counted"].as_u64().expect("a number"))
}

#[test]
fn every_frame_comes_to_the_same_total_and_is_forwarded_unchanged() {
    let (records, total) = recorded();
    for frame in 0..FRAMES {
        let stream = framed(&records, frame);
        let (ran, facts) = summary(&["-q", "-l", "1M", "-m", "block"], stream.as_bytes());
        assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""), "{frame}");
        assert_eq!(ran.out, stream.as_bytes(), "{frame}");
        assert_eq!(facts["tokens"]["counted"], total, "{frame}");
    }
}

/// Arrays as Claude Code and CI actions write them: with `--output-format json --verbose`, and with `jq .`.
#[test]
fn recorded_arrays_come_to_the_total_of_their_lines() {
    let tokens = |name: &str| summary(&["-q"], &bytes(name)).1["tokens"].clone();
    let lines = tokens("turns.jsonl");
    for name in ["array.json", "array-pretty.json"] {
        assert_eq!(tokens(name), lines, "{name}");
        let ran = run(&["-q", "-l", "100", "-m", "block"], &bytes(name));
        assert!(ran.code() == Some(122) && bytes(name).starts_with(&ran.out), "{name}");
        let is_whole = ran.out.len() == bytes(name).len();
        assert_eq!(is_whole, name == "array.json", "of one line nothing is cut off");
    }
}

#[test]
fn prefixed_streams_are_stopped_at_the_same_line() {
    let (records, total) = recorded();
    let limit = (total / 2).to_string();
    let stop = |prefix: &str| {
        let stream: String = records.iter().map(|record| format!("{prefix}{record}\n")).collect();
        let ran = run(&["-q", "-l", &limit, "-m", "block"], stream.as_bytes());
        assert!(ran.code() == Some(122) && stream.as_bytes().starts_with(&ran.out), "{prefix:?}: {}", ran.err);
        ran.out.iter().filter(|byte| **byte == b'\n').count()
    };
    let plain = stop("");
    assert!((1..records.len()).contains(&plain));
    for prefix in [
        // docker logs -t; docker compose logs, in colour; GitHub Actions; ts; ts '[%F %T]'; events.
        "2026-11-25T10:11:12.131415161Z ",
        "\u{1b}[36mweb-1  | \u{1b}[0m",
        "2026-11-25T10:11:12.1314151Z ",
        "Nov 25 10:11:12 ",
        "[2026-11-25 10:11:12] ",
        "data: ",
        "\u{1b}[0m",
    ] {
        assert_eq!(stop(prefix), plain, "{prefix:?}");
    }
}

#[test]
fn block_mode_forwards_through_the_line_that_decides() {
    // The element that exceeds the limit closes on the last line that is forwarded.
    for (before, after) in [
        ("<1>\n<2>\n", "<3>\n"),
        ("data: <1>\n\ndata: <2>\n", "\ndata: <3>\n"),
        ("[\n  <1>,\n  <2>,\n", "  <3>\n]\n"),
        ("[\n<1>\n,<2>\n", ",<3>\n]\n"),
        // Of an array on one line nobody could read a part.
        ("[<1>,<2>,<3>]\n", "<4>\n"),
        ("data: [<1>,<2>,<3>]\n", "data: <4>\n"),
        ("[<1>,<2>,<3>]", ""),
    ] {
        let text = spelled(&format!("{before}¦{after}"));
        let (forwarded, rest) = text.split_once('¦').expect("the mark");
        let ran = run(&["-q", "-l", "2", "-m", "block"], [forwarded, rest].concat().as_bytes());
        assert_eq!(ran.code(), Some(122), "{before:?}");
        assert_eq!(String::from_utf8_lossy(&ran.out), forwarded, "{before:?}");
        assert_eq!(ran.err.matches("exceeded").count(), 1, "{}", ran.err);
    }
    let (records, total) = recorded();
    let stream = framed(&records, 5);
    let ran = run(&["-q", "-l", &(total / 2).to_string(), "-m", "block"], stream.as_bytes());
    assert_eq!(ran.code(), Some(122));
    assert!(ran.out.ends_with(b"  },\n") && stream.as_bytes().starts_with(&ran.out));
}

#[test]
fn a_wrapped_command_is_stopped_inside_a_line() {
    let text = spelled("[<1>,<2>");
    let script = format!("printf '%s' '{text}'; exec sleep 60");
    let ran = run(&["-q", "-l", "2", "-m", "block", "--", "sh", "-c", &script], b"");
    assert_eq!(ran.code(), Some(122), "{}", ran.err);
    assert!(ran.err.contains("exceeded"), "{}", ran.err);
}
