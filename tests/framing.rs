//! How records stand in a stream: as lines, behind prefixes, in arrays; and streams that hold none.
//!
//! A case is a literal in which `<7>` stands for a record of seven input tokens. Each is read in parts
//! of one byte, of three, and whole, by the scanner alone and by a run, which has the sieve in front.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
mod oracle;

use std::io::Write;
use std::process::Stdio;

use budget_tee::run::Run;
use budget_tee::stream::paths::Owner;
use budget_tee::stream::scan::Scanner;
use harness::{Ran, budget_tee, bytes, read_until, run, summary};
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

/// One line on stderr that contains `message`, every byte on stdout, and 125 only in block mode with a
/// budget that binds.
#[track_caller]
fn check_message(input: &[u8], message: &str) {
    for (args, code) in [
        (&["-q"][..], 0),
        (&["-q", "-l", "1M"], 0),
        (&["-q", "-m", "block"], 0),
        (&["-q", "-m", "block", "-b", "/other=1M"], 0),
        (&["-q", "-m", "block", "-l", "1M"], 125),
        (&["-q", "-m", "block", "-n", "/a", "-b", "/a=1usd"], 125),
    ] {
        let Ran { status, out, err } = run(args, input);
        assert_eq!((status.code(), out.as_slice()), (Some(code), input), "{args:?}: {err}");
        assert!(err.lines().count() == 1 && err.contains(message), "{args:?}: {err}");
    }
}

#[test]
fn a_stream_that_cannot_be_counted_is_named_at_its_first_line() {
    let advice = "--output-format stream-json --verbose";
    check_message(b"Hello!\nworld\n", "line 1 is no JSON record (\"Hello!\")");
    check_message(b"Hello!\n", advice);
    check_message(b"\n\n  \nno newline at the end", "line 4 is no JSON record");
    check_message(b"{\"type\":\"user\"}\nnot {\"JSON\"\n", "line 2 is no JSON record (\"not {\"JSON\"\")");
    check_message("\u{1b}[31m\u{9b}2J\u{202e}evil\u{7}".repeat(1000).as_bytes(), "(\"[31m2Jevil");
    check_message(b"[1,2,3]\n", advice);
    check_message(
        b"{\"type\":\"thread.started\",\"thread_id\":\"t\"}\n",
        "line 1 is JSON of an unknown kind (thread.started)",
    );
    check_message(b"{\"a\":1}\n", "line 1 is JSON of an unknown kind; run claude");
    check_message(b"[{\"type\":\"x\\u001b[2J\"},{\"type\":\"y\"}]", "line 1 is JSON of an unknown kind (x[2J)");
    check_message(
        b"event: ping\nid: 1\n: comment\ndata: {\"type\":\"ping\"}\n\n",
        "line 4 is JSON of an unknown kind (ping)",
    );
    let utf16 = |bom: &[u8], bytes: fn(u16) -> [u8; 2]| {
        let text = "{\"type\":\"result\",\"usage\":{}}\n".repeat(20);
        [bom, &text.encode_utf16().flat_map(bytes).collect::<Vec<_>>()].concat()
    };
    check_message(&utf16(b"\xff\xfe", u16::to_le_bytes), "the stream is UTF-16");
    check_message(&utf16(b"\xfe\xff", u16::to_be_bytes), "the stream is UTF-16");
    check_message(&utf16(b"", u16::to_le_bytes), "the stream is UTF-16");
    check_message(&utf16(b"", u16::to_be_bytes), "the stream is UTF-16");
    check_message(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\n\x01\n", "the stream is compressed (gzip)");
    check_message(b"\x28\xb5\x2f\xfd\x04\x58\x01\n\0", "the stream is compressed (zstd)");
}

#[test]
fn a_stream_without_usage_is_explained_at_its_end() {
    check_message(b"", "no usage in the stream; run claude with --output-format stream-json --verbose");
    check_message(b"\n\n", "no usage in the stream; run claude");
    check_message(b"{\"type\":\"user\"}\n", "no usage in the stream; run claude");
    check_message(b"[\n]\n", "no usage in the stream; run claude");
    let begun = b"{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s\"}\n";
    check_message(begun, "no usage in the stream: it ended after its init line\n");
    check_message(&[b"[\n" as &[u8], begun, b"]\n"].concat(), "it ended after its init line\n");
    // A kind that a later version may write.
    check_message(
        &[b"{\"type\":\"news\",\"session_id\":\"s\"}\n", &begun[..]].concat(),
        "it ended after its init line\n",
    );
}

#[test]
fn the_message_comes_with_the_line_and_not_at_the_end() {
    let mut child = budget_tee(&["-q", "-l", "1M", "-m", "block"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"Hello!\n").expect("written");
    let message = read_until(child.stderr.as_mut().expect("piped"), "\n");
    assert!(message.contains("line 1 is no JSON record"), "{message}");
    // Usage may come all the same.
    stdin.write_all(spelled("<7>\n").as_bytes()).expect("written");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn what_comes_after_usage_was_seen_is_not_looked_at() {
    let input = spelled("<7>\nplain text\n{\"type\":\"other\"}\n");
    let ran = run(&["-q", "-l", "1M", "-m", "block"], input.as_bytes());
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
}

#[test]
fn a_wrapped_command_without_usage_fails_in_block_mode_only_where_it_had_succeeded() {
    for (script, args, code) in [
        ("echo Hello", &["-l", "1M", "-m", "block"][..], 125),
        ("echo Hello", &["-l", "1M"], 0),
        ("echo Hello; exit 3", &["-l", "1M", "-m", "block"], 3),
        ("true", &["-l", "1M", "-m", "block"], 125),
        ("true", &["-m", "block"], 0),
        ("false", &["-l", "1M", "-m", "block"], 1),
    ] {
        let ran = run(&[&["-q"], args, &["--", "sh", "-c", script]].concat(), b"");
        assert_eq!(ran.code(), Some(code), "{script} {args:?}: {}", ran.err);
    }
    let (ran, facts) = summary(&["-q", "-l", "1M", "-m", "block"], b"Hello\n");
    assert_eq!((ran.code(), &facts["exit_code"]), (Some(125), &125.into()));
}

#[test]
fn a_stream_that_ends_inside_a_record_is_pointed_out_once() {
    let cut = "the stream ends inside a record";
    for (case, count) in [
        ("<7>\n{\"type\":\"assist", 1),
        ("<7>\n{", 1),
        ("<7>\ndata: {\"a\":[1,", 1),
        ("[<7>,{\"a\":\"", 1),
        ("[<7>", 1),
        ("[<7>,\n", 1),
        ("[\n<7>\n", 1),
        ("<7>", 0),
        ("<7> {", 0),
        ("<7>\nno JSON", 0),
        ("<7>\n{\"a\" oops", 0),
        ("<7>\n{\"a\":\n", 0),
        ("[<7>]", 0),
        ("[\n<7>\n]\n", 0),
    ] {
        let ran = run(&["-q"], spelled(case).as_bytes());
        assert_eq!((ran.err.matches(cut).count(), ran.err.lines().count()), (count, count), "{case:?}: {}", ran.err);
    }
    let ran = run(&["-q", "-l", "1M", "-m", "block"], b"{\"type\":\"assist");
    assert_eq!((ran.code(), ran.err.lines().count()), (Some(125), 2), "{}", ran.err);
    assert!(ran.err.contains(cut) && ran.err.contains("no usage in the stream before it was cut"), "{}", ran.err);
}
