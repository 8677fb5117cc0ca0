//! Streams that hold no records, or end inside one: what is said of them, and the exit code.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::io::Write;
use std::process::Stdio;

use harness::{Ran, assistant, budget_tee, read_until, run, summary};

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
        let ran = run(args, input);
        let unbound = ran.err.matches("no budget binds this run").count();
        let Ran { ref out, ref err, .. } = ran;
        assert_eq!((ran.code(), out.as_slice()), (Some(code), input), "{args:?}: {err}");
        assert!(ran.messages() - unbound == 1 && err.contains(message), "{args:?}: {err}");
    }
}

#[test]
fn the_report_says_that_block_mode_failed() {
    let ran = run(&["-m", "block", "-l", "1M"], b"Hello!\n");
    assert!(ran.err.contains("budget-tee: failed, no usage: 0 messages, 1 line\n"), "{}", ran.err);
}

#[test]
fn a_stream_that_cannot_be_counted_is_named_at_its_first_line() {
    let advice = "--output-format stream-json --verbose";
    check_message(b"Hello!\nworld\n", "line 1 is not a JSON record (\"Hello!\")");
    check_message(b"Hello!\n", advice);
    check_message(b"\n\n  \nno newline at the end", "line 4 is not a JSON record");
    check_message(b"{\"type\":\"user\"}\nnot {\"JSON\"\n", "line 2 is not a JSON record (\"not {\"JSON\"\")");
    check_message("\u{1b}[31m\u{9b}2J\u{202e}evil\u{7}".repeat(1000).as_bytes(), "(\"[31m2Jevil");
    check_message(b"[1,2,3]\n", advice);
    check_message(b"{\"type\":\"thread.begun\"}\n", "line 1 is JSON of an unknown kind (thread.begun)");
    check_message(b"{\"a\":1}\n", "line 1 is JSON of an unknown kind\nbudget-tee: note: run claude");
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
    check_message(
        b"",
        "no usage in the stream\nbudget-tee: note: run claude with --output-format stream-json --verbose",
    );
    check_message(b"\n\n", "no usage in the stream\nbudget-tee: note: run claude");
    check_message(b"{\"type\":\"user\"}\n", "no usage in the stream\nbudget-tee: note: run claude");
    check_message(b"[\n]\n", "no usage in the stream\nbudget-tee: note: run claude");
    let begun = b"{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s\"}\n";
    check_message(begun, "no usage in the stream: it ended after its init record\n");
    check_message(&[b"[\n" as &[u8], begun, b"]\n"].concat(), "it ended after its init record\n");
    // A kind that a later version may write.
    check_message(
        &[b"{\"type\":\"news\",\"session_id\":\"s\"}\n", &begun[..]].concat(),
        "it ended after its init record\n",
    );
}

#[test]
fn usage_of_an_unknown_form_is_none() {
    let form = "the usage in the stream has an unknown form: nothing is counted";
    let usage = r#"{"prompt_tokens":5440,"completion_tokens":156,"total_tokens":5596}"#;
    for record in [
        r#"{"type":"result","session_id":"s","usage":USAGE}"#,
        r#"{"type":"assistant","session_id":"s","message":{"id":"a","usage":USAGE}}"#,
        r#"{"type":"stream_event","session_id":"s","event":{"type":"message_start","message":{"id":"a","usage":USAGE}}}"#,
        r#"{"type":"stream_event","session_id":"s","event":{"type":"message_delta","usage":USAGE}}"#,
    ] {
        check_message((record.replace("USAGE", usage) + "\n").as_bytes(), form);
    }
    let begun = r#"{"type":"system","subtype":"init","session_id":"s"}"#;
    check_message(format!("{begun}\n{{\"type\":\"result\",\"usage\":{{}}}}\n").as_bytes(), form);
    // What is known beside it counts.
    let (_, facts) = summary(&["-q"], br#"{"type":"result","usage":{"prompt_tokens":5,"input_tokens":7}}"#);
    assert_eq!(facts["tokens"]["counted"], 7);
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
    assert!(message.contains("line 1 is not a JSON record"), "{message}");
    // Usage may come all the same.
    stdin.write_all(assistant("m", 7).as_bytes()).expect("written");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn what_comes_after_usage_was_seen_is_not_looked_at() {
    let input = assistant("m", 7) + "plain text\n{\"type\":\"other\"}\n";
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
    let cut = "the stream was cut inside its last record";
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
        let ran = run(&["-q"], case.replace("<7>", assistant("m", 7).trim()).as_bytes());
        assert_eq!((ran.err.matches(cut).count(), ran.err.lines().count()), (count, count), "{case:?}: {}", ran.err);
    }
    let ran = run(&["-q", "-l", "1M", "-m", "block"], b"{\"type\":\"assist");
    assert_eq!((ran.code(), ran.err.lines().count()), (Some(125), 2), "{}", ran.err);
    assert!(ran.err.contains(cut) && ran.err.contains("no usage in the stream before it was cut"), "{}", ran.err);
}
