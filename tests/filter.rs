//! Tests of budget-tee as a filter, with real pipes, signals and terminals.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::fs::File;
use std::io::{Read, Seek, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use harness::{Ran, all_of, assistant, budget_tee, bytes, finish, kill, read_until, run, summary, terminal};
use rustix::fs::OFlags;
use rustix::io::ioctl_fionread;
use rustix::process::Signal;

/// A stream that exceeds 5000 tokens in its third line.
fn stream() -> String {
    [assistant("a", 2000), assistant("b", 2000), assistant("c", 1001), assistant("d", 10)].concat()
}

/// The first `count` lines of `text`.
fn lines(text: &str, count: usize) -> &str {
    let end = text.match_indices('\n').nth(count - 1).map(|(at, _)| at + 1);
    &text[..end.expect("enough lines")]
}

#[test]
fn block_mode_stops_after_the_line_that_exceeds_the_limit() {
    for size in [1, 7, 100_000] {
        let input = stream();
        let mut child = budget_tee(&["--limit", "5000", "--mode", "block"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        for part in input.as_bytes().chunks(size) {
            // budget-tee stops reading after the line that exceeds the limit.
            let _ = stdin.write_all(part);
        }
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(122));
        assert_eq!(output.stdout, lines(&input, 3).as_bytes());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains("overall budget exceeded: ≥ 5,001 of 5,000 tokens, 101 %"), "{err}");
    }
}

#[test]
fn the_file_offset_is_left_after_the_last_forwarded_byte() {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(stream().as_bytes()).expect("written");
    for (args, forwarded) in [
        (["-q", "-l", "5000", "-m", "block"], lines(&stream(), 3)),
        (["-q", "-l", "0", "-m", "block"], lines(&stream(), 1)),
        (["-q", "-l", "5000", "-m", "warn"], &stream()),
    ] {
        file.rewind().expect("rewound");
        let output = budget_tee(&args).stdin(file.try_clone().expect("a copy")).output().expect("runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), forwarded);
        assert_eq!(file.stream_position().expect("a position"), forwarded.len() as u64);
    }
}

#[test]
fn warn_mode_forwards_everything_and_warns_once() {
    let ran = run(&["-q", "--limit", "5000"], stream().as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), stream().as_bytes()));
    assert_eq!(ran.messages(), 1, "{}", ran.err);
    assert!(ran.err.contains("exceeded"), "{}", ran.err);
}

#[test]
fn usage_equal_to_the_limit_is_within_the_budget() {
    let input = assistant("a", 5000);
    let ran = run(&["-q", "--limit", "5000", "--warn-at", "100", "--mode", "block"], input.as_bytes());
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
}

#[test]
fn a_last_line_without_a_newline_counts_and_can_stop_the_run() {
    let input = assistant("a", 5001);
    let ran = run(&["-q", "--limit", "5000", "--mode", "block"], input.trim_end().as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(122), input.trim_end().as_bytes()));
}

#[test]
fn only_the_named_commands_budget_is_enforced_and_all_are_shown() {
    let args = ["-l", "1M", "-b", "/review=3k", "-b", "/other=1", "-n", "/review", "-m", "block"];
    let ran = run(&args, stream().as_bytes());
    assert_eq!(ran.code(), Some(122));
    assert!(ran.err.contains("budget of /review exceeded"), "{}", ran.err);
    assert!(ran.err.contains("/other"), "{}", ran.err);
    let ran = run(&["-q", "-l", "1M", "-b", "/other=1", "-m", "block"], stream().as_bytes());
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
}

#[test]
fn only_the_selected_token_classes_count() {
    let line = r#"{"type":"assistant","message":{"usage":{"input_tokens":1,"output_tokens":20,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000}}}"#;
    let (_, summary) = summary(&["--count", "output,cache-write", "--limit", "320"], line.as_bytes());
    assert_eq!(summary["tokens"]["counted"], 320);
    assert_eq!(summary["budgets"][0]["exceeded"], false);
}

#[test]
fn an_estimate_that_does_not_fit_is_refused_before_stdin_is_read() {
    let args = ["--limit", "1k", "--estimate", "2k", "--mode", "block"];
    let (ran, facts) = summary(&args, b"");
    assert_eq!((ran.code(), facts["outcome"].as_str()), (Some(121), Some("refused")));
    assert!(ran.err.contains("estimate of 2,000 tokens does not fit into the overall budget"), "{}", ran.err);
    // What it did not read is left for the next reader.
    let (mut reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(b"unread").expect("written");
    drop(writer);
    let ran = budget_tee(&args).stdin(reader.try_clone().expect("a copy")).output().expect("runs");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("readable");
    assert_eq!((ran.status.code(), rest.as_str()), (Some(121), "unread"));

    let ran = run(&["-q", "--limit", "1k", "--estimate", "2k"], b"{}\n");
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), b"{}\n" as &[u8]));
    assert!(ran.err.contains("going on"), "{}", ran.err);
}

#[test]
fn the_summary_gives_the_outcome_and_the_exit_code() {
    let input = stream();
    for (args, outcome, code) in [
        (&["-q", "-l", "1M"][..], "completed", 0),
        (&["-q", "-l", "5k"], "exceeded", 0),
        (&["-q", "-l", "5k", "-m", "block"], "stopped", 122),
    ] {
        let (ran, facts) = summary(args, input.as_bytes());
        assert_eq!((facts["outcome"].as_str(), facts["exit_code"].as_i64()), (Some(outcome), Some(code)));
        assert_eq!(ran.code().map(i64::from), Some(code));
        assert_eq!((&facts["v"], &facts["budgets"][0]["name"]), (&1.into(), &"overall".into()));
        assert!(facts["ended_at"].as_f64() >= facts["started_at"].as_f64());
    }
}

#[test]
fn options_override_the_environment_and_empty_variables_are_ignored() {
    let exit_code = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = budget_tee(args);
        command.envs(variables.iter().copied());
        finish(command, stream().as_bytes()).code()
    };
    let all = [("BUDGET_TEE_LIMIT", "1k"), ("BUDGET_TEE_MODE", "block"), ("BUDGET_TEE_NAME", "/a")];
    assert_eq!(exit_code(&all, &[]), Some(122));
    assert_eq!(exit_code(&all, &["--limit", "1M"]), Some(0));
    assert_eq!(exit_code(&all, &["--mode", "warn"]), Some(0));
    assert_eq!(exit_code(&all[1..], &["-b", "/a=1k"]), Some(122));
    assert_eq!(exit_code(&all[1..], &["-b", "/a=1k", "-n", "/b"]), Some(0));
    assert_eq!(exit_code(&[("BUDGET_TEE_LIMIT", ""), ("BUDGET_TEE_MODE", "")], &[]), Some(0));
}

#[test]
fn aliases_work_like_their_options() {
    let args = ["--overall-token-budget", "5k", "--budget-enforcement-mode", "block", "--disable-budget-visuals"];
    let ran = run(&args, stream().as_bytes());
    assert_eq!((ran.code(), ran.messages()), (Some(122), 1));
    let ran = run(&["-l", "5k", "-m", "block", "--max-tokens-per-command", "6k"], b"");
    assert_eq!(ran.code(), Some(121));
}

#[test]
fn a_usage_error_names_the_option_the_value_and_the_expected_form() {
    for (args, words) in [
        (&["--limit", "5x"][..], &["--limit", "5x", "1.5M"][..]),
        (&["--limit", "-5"], &["--limit", "-5", "1.5M"]),
        (&["--limit", ""], &["--limit", "1.5M"]),
        (&["--mode", ""], &["--mode", "warn"]),
        (&["--limit", "2eur"], &["--limit", "2eur", "2.50usd"]),
        (&["--limit", "2usd", "--overall-cost-budget", "3"], &["--limit", "twice in usd"]),
        (&["--overall-cost-budget", "3k"], &["--overall-cost-budget", "3k", "2.50"]),
        (&["--command-cost-budget", "/a=x"], &["--command-cost-budget", "/a=x", "2.50"]),
        (&["--estimate", "1k", "--estimate", "2k"], &["--estimate", "twice in tokens"]),
        (&["--unpriced", ""], &["--unpriced", "highest"]),
        (&["--unpriced", "no-such-model"], &["--unpriced", "no-such-model"]),
        (&["--prices", "/nowhere"], &["cannot read prices /nowhere", "No such file"]),
        (&["--limit", "1k", "--overall-token-budget", "2k"], &["--limit", "twice"]),
        (&["--command-budget", "/a"], &["--command-budget", "/a", "NAME=AMOUNT"]),
        (&["--command-budget", "=5"], &["--command-budget", "NAME=AMOUNT"]),
        (&["-b", "/a=1", "-b", "/a=2"], &["--command-budget", "/a", "twice"]),
        (&["--estimate", "NaN"], &["--estimate", "NaN", "1.5M"]),
        (&["--mode", "stop"], &["--mode", "stop", "warn", "block"]),
        (&["--count", "all"], &["--count", "all", "cache-read"]),
        (&["--warn-at", "101"], &["--warn-at", "101", "0 to 100"]),
        (&["--color", "blue"], &["--color", "blue", "never"]),
        (&["--nonsense"], &["--nonsense"]),
        (&["--summary", "/nowhere/at/all"], &["/nowhere/at/all", "No such file"]),
    ] {
        let ran = run(args, b"");
        assert_eq!((ran.code(), ran.out.len()), (Some(125), 0), "{args:?}");
        assert!(ran.err.starts_with("budget-tee: "), "{}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "{word:?} in {}", ran.err);
        }
    }
    let mut command = budget_tee(&[]);
    command.env("BUDGET_TEE_LIMIT", "5k,6k,");
    let ran = finish(command, b"");
    assert_eq!(ran.code(), Some(125));
    assert!(ran.err.contains("BUDGET_TEE_LIMIT"), "{}", ran.err);
    let ran = run(&["--limit", "\u{1b}[31m5"], b"");
    assert!(!ran.err.contains('\u{1b}'), "{}", ran.err);
}

#[test]
fn a_command_name_may_contain_equals_signs() {
    let ran = run(&["-q", "-b", "a=b=1", "-n", "a=b", "-m", "block"], stream().as_bytes());
    assert_eq!(ran.code(), Some(122));
}

#[test]
fn a_partial_line_is_forwarded_immediately() {
    let (mut child, mut stdin, mut stdout) = piped(&["-q"]);
    for part in ["{\"type\":", "\"note\"}\n", "no newline"] {
        stdin.write_all(part.as_bytes()).expect("written");
        assert_eq!(read_until(&mut stdout, part), part);
    }
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

fn piped(args: &[&str]) -> (std::process::Child, std::process::ChildStdin, std::process::ChildStdout) {
    let mut child =
        budget_tee(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    (child, stdin, stdout)
}

#[test]
fn nonblocking_descriptors_work_and_keep_their_flags() {
    let (reader, mut writer) = pipe().expect("a pipe");
    let (mut out_reader, out_writer) = pipe().expect("a pipe");
    for fd in [reader.try_clone().map(std::os::fd::OwnedFd::from), out_writer.try_clone().map(Into::into)] {
        rustix::fs::fcntl_setfl(fd.expect("a copy"), OFlags::NONBLOCK).expect("set");
    }
    let out_copy = out_writer.try_clone().expect("a copy");
    let mut child = budget_tee(&["-q"]).stdin(reader).stdout(out_writer).stderr(Stdio::null()).spawn().expect("starts");
    let sent: Vec<u8> = assistant("a", 1).into_bytes().repeat(20_000);
    let sent_too = sent.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent_too));
    let mut got = vec![0; sent.len()];
    out_reader.read_exact(&mut got).expect("all of it");
    sender.join().expect("joins").expect("written");
    assert!(got == sent);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert!(rustix::fs::fcntl_getfl(&out_copy).expect("flags").contains(OFlags::NONBLOCK));
}

#[test]
fn a_slow_reader_of_a_small_pipe_gets_every_byte() {
    let (mut reader, writer) = pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("set");
    let sent: Vec<u8> = (0..500).map(|n| assistant(&format!("m{n}"), n)).collect::<String>().into_bytes();
    let mut command = budget_tee(&["-q"]);
    let mut child = command.stdin(Stdio::piped()).stdout(writer).spawn().expect("starts");
    drop(command);
    let mut stdin = child.stdin.take().expect("piped");
    let sent_too = sent.clone();
    let sender = std::thread::spawn(move || stdin.write_all(&sent_too));
    let mut got = Vec::new();
    let mut byte = [0];
    while reader.read(&mut byte).expect("readable") == 1 {
        got.push(byte[0]);
    }
    sender.join().expect("joins").expect("written");
    assert!(got == sent);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

/// The pipes are widened once the reader has been slower than the writer for a while. They are not
/// widened for a live stream, whose writer is the slower one.
#[test]
fn pipes_are_widened_once_they_stay_full() {
    const FULL: u64 = 64 * 1024;
    let (reader, mut writer) = pipe().expect("a pipe");
    let (out_reader, out_writer) = pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).expect("set");
    let mut child = budget_tee(&["-q"])
        .stdin(reader.try_clone().expect("a copy"))
        .stdout(out_writer.try_clone().expect("a copy"))
        .spawn()
        .expect("starts");
    let sizes = || [reader.as_fd(), out_reader.as_fd()].map(|fd| rustix::pipe::fcntl_getpipe_size(fd).expect("a size"));
    let small = sizes();
    let block = vec![b'\n'; 64 * 1024];
    let (mut sent, mut got) = (0, 0);
    for _ in 0..6 {
        // Wait until both pipes are full and budget-tee holds as much again between them.
        while sent - got < 3 * FULL
            || [&reader, &out_reader].iter().any(|fd| ioctl_fionread(fd).expect("a count") < FULL)
        {
            sent += writer.write(&block).unwrap_or_default() as u64;
            std::thread::yield_now();
        }
        assert_eq!(sizes(), small);
        (&out_reader).read_exact(&mut vec![0; 64 * 1024]).expect("a pipe full");
        got += FULL;
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sizes().contains(&small[0]) {
        assert!(std::time::Instant::now() < deadline);
        sent += writer.write(&block).unwrap_or_default() as u64;
        std::thread::yield_now();
    }
    assert_eq!(sizes(), [1024 * 1024; 2]);
    drop((writer, reader, out_writer));
    let mut rest = Vec::new();
    (&out_reader).read_to_end(&mut rest).expect("the rest");
    assert_eq!(got + rest.len() as u64, sent);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_closed_reader_ends_the_run_quietly() {
    let (mut child, mut stdin, stdout) = piped(&["-l", "1k"]);
    drop(stdout);
    let _ = stdin.write_all(stream().as_bytes());
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(141));
    let mut command = budget_tee(&[]);
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    command.stdout(writer);
    let ran = command.stdin(File::open(harness::fixture("review.jsonl")).expect("exists")).output().expect("runs");
    assert_eq!((ran.status.code(), String::from_utf8_lossy(&ran.stderr).as_ref()), (Some(141), ""));
}

#[test]
fn a_full_disk_is_reported_as_a_failure() {
    let full = || File::options().write(true).open("/dev/full").expect("exists");
    let (file, input) = (tempfile::NamedTempFile::new().expect("a file"), bytes("review.jsonl"));
    let mut command = budget_tee(&["-q", "--summary", file.path().to_str().expect("UTF-8")]);
    command.stdout(full());
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let _ = child.stdin.take().expect("piped").write_all(&input);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "budget-tee: cannot write to stdout: No space left on device\n"
    );
    let summary = std::fs::read_to_string(file.path()).expect("a summary");
    assert!(summary.contains(r#""outcome":"interrupted","exit_code":125"#), "{summary}");

    let help = budget_tee(&["--help"]).stdout(full()).output().expect("runs");
    assert_eq!(help.status.code(), Some(125));
}

#[test]
fn a_summary_is_replaced_as_a_whole_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, link) = (folder.path().join("spent.json"), folder.path().join("link"));
    std::fs::write(&path, "the last one").expect("written");
    std::os::unix::fs::symlink("spent.json", &link).expect("linked");
    let summary = |link: &std::path::Path| ["-q", "--summary", link.to_str().expect("UTF-8")].map(str::to_owned);
    let args = summary(&link);
    let (mut child, mut stdin, mut stdout) = piped(&args.each_ref().map(String::as_str));
    stdin.write_all(b"{}\n").expect("written");
    read_until(&mut stdout, "{}\n");
    kill(&child, Signal::KILL);
    child.wait().expect("ends");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "the last one");
    let ran = run(&args.each_ref().map(String::as_str), stream().as_bytes());
    assert_eq!(ran.code(), Some(0));
    assert!(std::fs::read_to_string(&path).expect("readable").contains("\"outcome\":\"completed\""));
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_dir(&folder).expect("readable").count(), 2, "nothing is left beside it");
}

#[test]
fn a_summary_that_cannot_be_written_is_a_failure() {
    let ran = run(&["-q", "--summary", "/dev/full"], stream().as_bytes());
    assert_eq!((ran.code(), ran.out.len()), (Some(125), stream().len()));
    assert!(ran.err.contains("cannot write summary /dev/full: No space left on device"), "{}", ran.err);
}

#[test]
fn a_full_closed_or_unread_stderr_does_not_affect_the_stream() {
    let input = bytes("review.jsonl");
    let check = |ran: Ran| assert_eq!((ran.code(), ran.out == input), (Some(0), true));
    for redirection in ["2>/dev/full", "2>&-"] {
        let mut shell = harness::plain("sh");
        let binary = env!("CARGO_BIN_EXE_budget-tee");
        shell.args(["-c", &format!("exec \"$0\" --limit 20k {redirection}"), binary]);
        check(finish(shell, &input));
    }
    let (_unread, mut writer) = pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
    rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).expect("set");
    let mut command = budget_tee(&["--limit", "20k"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(writer);
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(&input).expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), output.stdout == input), (Some(0), true));
}

#[test]
fn an_unreadable_stdin_is_reported_as_a_failure() {
    let output = budget_tee(&["-q"]).stdin(File::open("/").expect("opens")).output().expect("runs");
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "budget-tee: cannot read stdin: Is a directory\n");
}

#[test]
fn a_signal_ends_the_run_after_the_summary_is_written() {
    for (signal, number) in [(Signal::INT, 2), (Signal::TERM, 15), (Signal::HUP, 1)] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let (mut child, mut stdin, mut stdout) = piped(&["--limit", "1k", "--summary", path]);
        stdin.write_all(stream().as_bytes()).expect("written");
        read_until(&mut stdout, lines(&stream(), 4));
        kill(&child, signal);
        if signal == Signal::INT {
            // It reads on until the writer has closed the pipe.
            stdin.write_all(b"last\n").expect("written");
            read_until(&mut stdout, "last\n");
            drop(stdin);
        }
        assert_eq!(child.wait().expect("ends").signal(), Some(number));
        let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("a summary")).expect("JSON");
        assert_eq!((&facts["outcome"], &facts["exit_code"]), (&"interrupted".into(), &(128 + number).into()));
        assert_eq!(facts["tokens"]["input"], 5011);
    }
}

#[test]
fn a_second_int_ends_a_filter_whose_writer_stays() {
    let (mut child, mut stdin, mut stdout) = piped(&["-q"]);
    stdin.write_all(b"{}\n").expect("written");
    read_until(&mut stdout, "{}\n");
    let began = std::time::Instant::now();
    // One that comes right after the first is the same one, as `timeout` sends it.
    let status = loop {
        kill(&child, Signal::INT);
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
    };
    assert_eq!(status.signal(), Some(2));
    assert!(began.elapsed() >= std::time::Duration::from_millis(100), "{:?}", began.elapsed());
    drop(stdin);
}

#[test]
fn a_signal_ends_the_run_while_stdout_is_blocked() {
    let (mut child, mut stdin, stdout) = piped(&["-q"]);
    let sender = std::thread::spawn(move || stdin.write_all(&[b'x'; 1 << 20]));
    // After the first byte nothing more is read, so that budget-tee fills the pipe and blocks.
    read_until(&mut stdout.try_clone_for_test(), "x");
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
    assert!(sender.join().expect("joins").is_err());
}

/// A second handle on a child's output, so that dropping it leaves the first one open.
trait TryCloneForTest {
    fn try_clone_for_test(&self) -> File;
}

impl TryCloneForTest for std::process::ChildStdout {
    fn try_clone_for_test(&self) -> File {
        let fd = std::os::fd::AsFd::as_fd(self).try_clone_to_owned().expect("a copy");
        File::from(fd)
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let mut shell = harness::plain("sh");
    shell.args(["-c", "trap '' INT; exec \"$0\" -q", env!("CARGO_BIN_EXE_budget-tee")]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().expect("starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    stdin.write_all(b"{}\n").expect("written");
    read_until(&mut stdout, "{}\n");
    kill(&child, Signal::INT);
    stdin.write_all(b"after\n").expect("written");
    read_until(&mut stdout, "after\n");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn bars_are_drawn_in_place_and_the_last_ones_stay() {
    let (ours, theirs) = terminal(60);
    let mut command = budget_tee(&["--limit", "10k", "--name", "/a\u{1b}[2J", "-b", "/a\u{1b}[2J=6k"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    child.stdin.take().expect("piped").write_all(stream().as_bytes()).expect("written");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    let output = all_of(ours);
    assert!(output.contains("\u{1b}[32m██████████\u{1b}[0m░░░░░░░░░░]  50%   ≥ 5.0K / 10.0K"), "{output}");
    assert!(output.contains("/a[2J     [\u{1b}[33m"), "{output}");
    assert!(!output.contains("\u{1b}[2J"), "{output}");
    assert!(output.contains("\u{1b}[32mcompleted\u{1b}[0m: 4 messages"), "{output}");
}

#[test]
fn the_first_bar_comes_at_the_start_with_cost_and_time() {
    for (columns, wanted) in [(80, "   0 / 10.0K   $0.00   0s\u{1b}[K"), (50, "   0 / 10.0K\u{1b}[K")] {
        let (mut ours, theirs) = terminal(columns);
        let mut command = budget_tee(&["--limit", "10k"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        let drawn = read_until(&mut ours, "\u{1b}8");
        assert!(drawn.contains(&format!("]   0%{wanted}")), "{columns}: {drawn}");
        drop(child.stdin.take());
        child.wait().expect("ends");
    }
}

#[test]
fn bars_can_be_lines_or_nothing_on_a_terminal() {
    for (bars, lines) in [("line", 2), ("OFF", 1)] {
        let (ours, theirs) = terminal(80);
        let mut command = budget_tee(&["--limit", "10k", "--bars", bars, "--color", "never"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        child.stdin.take().expect("piped").write_all(stream().as_bytes()).expect("written");
        assert_eq!(child.wait().expect("ends").code(), Some(0));
        let shown = all_of(ours);
        assert!(!shown.contains('\u{1b}') && shown.matches("overall").count() <= lines, "{bars}: {shown}");
        assert!(shown.contains("completed: 4 messages"), "{bars}: {shown}");
    }
}

#[test]
fn github_actions_gets_annotations() {
    let said = |args: &[&str]| {
        let mut command = budget_tee(args);
        command.env("GITHUB_ACTIONS", "true");
        finish(command, stream().as_bytes()).err
    };
    let warned = said(&["-q", "-l", "4k"]);
    assert!(warned.contains("::warning title=budget-tee::overall budget exceeded: "), "{warned}");
    assert!(warned.contains(" 126 %25%0Anote: going on"), "{warned}");
    let stopped = said(&["-q", "-l", "4k", "-m", "block"]);
    assert!(stopped.contains("::error title=budget-tee::overall budget exceeded"), "{stopped}");
    assert!((warned + &stopped).lines().all(|line| line.starts_with("::")), "{stopped}");
    let usage = said(&["-l", "5x"]);
    assert!(usage.starts_with("::error title=budget-tee::invalid value '5x'") && usage.lines().count() == 1, "{usage}");
}

#[test]
fn only_one_run_draws_bars_on_a_terminal_and_the_next_takes_over() {
    let (mut ours, theirs) = terminal(60);
    let start = |name: &str| {
        let mut command = budget_tee(&["-l", "10k", "-b", &format!("{name}=10k"), "-n", name]);
        let stderr = theirs.try_clone().expect("a copy");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).spawn().expect("starts");
        (child.stdin.take().expect("piped"), child)
    };
    let (mut first_in, mut first) = start("/first");
    read_until(&mut ours, "\u{1b}8");
    let (mut second_in, mut second) = start("/second");
    first_in.write_all(assistant("a", 1000).as_bytes()).expect("written");
    let output = read_until(&mut ours, "\u{1b}8");
    assert!(output.contains("/first") && output.contains("\u{1b}7"), "{output}");
    // The second run prints lines, and erases what is left of a bar behind them.
    second_in.write_all(assistant("b", 2000).as_bytes()).expect("written");
    let output = read_until(&mut ours, "\u{1b}[K\r\n/second");
    let output = output + &read_until(&mut ours, "\u{1b}[K\r\n");
    assert!(!output.contains("\u{1b}7"), "{output}");
    drop(first_in);
    assert_eq!(first.wait().expect("ends").code(), Some(0));
    // The first may draw its bars once more before its report.
    let report = read_until(&mut ours, "unpriced");
    assert!(report.contains("/first \u{1b}[32mcompleted"), "{report}");
    second_in.write_all(assistant("c", 2000).as_bytes()).expect("written");
    let output = read_until(&mut ours, "\u{1b}8");
    assert!(output.contains("\u{1b}7") && output.contains("/second"), "{output}");
    drop(second_in);
    assert_eq!(second.wait().expect("ends").code(), Some(0));
}

#[test]
fn bars_are_never_wider_than_a_narrow_terminal() {
    for columns in [12, 16, 20, 30, 40] {
        let (ours, theirs) = terminal(columns);
        let mut command = budget_tee(&["--limit", "10k", "--color", "never"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        child.stdin.take().expect("piped").write_all(stream().as_bytes()).expect("written");
        child.wait().expect("ends");
        let output = all_of(ours);
        let bars: Vec<_> = output.split(['\r', '\n']).filter(|line| line.starts_with("over")).collect();
        assert!(!bars.is_empty(), "{columns}: {output:?}");
        for bar in bars {
            assert!(bar.contains('%'), "{columns}: {bar:?}");
            let bar = bar.split('\u{1b}').next().unwrap_or_default();
            assert!(bar.chars().count() < usize::from(columns), "{columns}: {bar:?}");
        }
    }
}

#[test]
fn bars_are_cleared_before_text_on_the_same_terminal() {
    let (ours, theirs) = terminal(60);
    let mut command = budget_tee(&["--limit", "10k"]);
    command.stdin(Stdio::piped()).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    let mut stdin = child.stdin.take().expect("piped");
    let mut ours_too = ours.try_clone().expect("a copy");
    stdin.write_all(assistant("a", 1000).as_bytes()).expect("written");
    // Bars may be drawn before the line too.
    read_until(&mut ours_too, "}}}\r\n");
    read_until(&mut ours_too, "/ 10.0K");
    stdin.write_all(b"text\n").expect("written");
    let output = read_until(&mut ours_too, "text\r\n");
    assert!(output.contains("\u{1b}[Jtext\r\n"), "{output:?}");
    drop(stdin);
    child.wait().expect("ends");
}

/// bash with job control on a terminal of its own, as the session's leader, in which a script runs.
fn shell_with_jobs(script: &str) -> (File, std::process::Child, tempfile::TempDir) {
    let (ours, theirs) = terminal(60);
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = harness::plain("env");
    let line = assistant("a", 5000);
    command.args([
        "--default-signal=INT,QUIT",
        "setsid",
        "--ctty",
        "bash",
        "-c",
        &format!("set -m; {script}"),
        env!("CARGO_BIN_EXE_budget-tee"),
    ]);
    command.env("LINE", line.trim_end()).current_dir(&folder);
    command.stdin(theirs.try_clone().expect("a copy")).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let child = command.spawn().expect("starts");
    (ours, child, folder)
}

#[test]
fn a_background_job_writes_nothing_to_the_terminal() {
    for tostop in ["-tostop", "tostop"] {
        let script = format!("stty {tostop}; echo \"$LINE\" | \"$0\" -l 1k >out & wait $!; echo code $?");
        let (ours, mut child, folder) = shell_with_jobs(&script);
        assert_eq!(child.wait().expect("ends").code(), Some(0));
        let shown = all_of(ours);
        assert!(shown.ends_with("code 0\r\n") && !shown.contains("overall"), "{shown}");
        assert_eq!(std::fs::read_to_string(folder.path().join("out")).expect("exists"), assistant("a", 5000));
    }
}

#[test]
fn bars_come_and_go_with_the_foreground() {
    let script = "mkfifo p; \"$0\" -l 10k <p >/dev/null & exec 3>p; echo \"$LINE\" >&3; echo prompt; \
                  fg >/dev/null; echo stopped; fg >/dev/null; echo $?";
    let (mut ours, mut child, _folder) = shell_with_jobs(script);
    let before = read_until(&mut ours, "prompt\r\n");
    assert!(!before.contains("overall"), "{before}");
    read_until(&mut ours, "overall");
    read_until(&mut ours, "\u{1b}8");
    ours.write_all(b"\x1a").expect("written"); // Ctrl-Z
    let stopped = read_until(&mut ours, "stopped\r\n");
    let (_, after) = stopped.rsplit_once("\u{1b}[J").expect("erased");
    assert!(!after.contains("overall"), "{stopped}");
    read_until(&mut ours, "overall");
    ours.write_all(b"\x1c").expect("written"); // QUIT
    read_until(&mut ours, "131\r\n");
    child.wait().expect("ends");
}

#[test]
fn a_message_that_comes_while_text_is_being_written_is_shown_later() {
    let (ours, theirs) = terminal(100);
    let control = theirs.try_clone().expect("a copy");
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    assert!(harness::plain("mkfifo").arg(&fifo).status().expect("runs").success());
    let mut command = budget_tee(&["--limit", "1k", "--on-exceed", "read word <fifo; exit 3"]);
    command.current_dir(&folder);
    command.stdin(Stdio::piped()).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    // As Ctrl-S does: the relay waits for the terminal, and holds the screen meanwhile.
    rustix::termios::tcflow(&control, rustix::termios::Action::OOff).expect("stopped");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
    File::create(&fifo).expect("the hook reads").write_all(b"go\n").expect("written");
    // Once the hook has been reaped, its failure is known.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    while !std::fs::read_to_string(&children).expect("exists").is_empty() {}
    rustix::termios::tcflow(&control, rustix::termios::Action::OOn).expect("goes on");
    drop(control);
    let output = read_until(&mut ours.try_clone().expect("a copy"), "exit code 3");
    assert!(output.contains("the command of --on-exceed failed"), "{output}");
    drop(stdin);
    child.wait().expect("ends");
}

#[test]
fn no_color_and_the_c_locale_are_respected() {
    let args = ["--limit", "10k", "--color", "always"];
    let ran = run(&args, stream().as_bytes());
    assert!(ran.err.contains("\u{1b}[32m"), "{}", ran.err);
    for (variable, value) in [("NO_COLOR", "1"), ("LC_ALL", "C")] {
        let mut command = budget_tee(if variable == "NO_COLOR" { &args[..2] } else { &args });
        command.env(variable, value);
        let ran = finish(command, stream().as_bytes());
        assert_eq!(variable == "NO_COLOR", !ran.err.contains('\u{1b}'), "{}", ran.err);
        assert_eq!(variable == "LC_ALL", ran.err.is_ascii() && ran.err.contains("##########"), "{}", ran.err);
    }
}

#[test]
fn without_a_terminal_a_line_is_printed_every_ten_percent() {
    let (mut child, mut stdin, mut err) = {
        let mut command = budget_tee(&["--limit", "100"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let (stdin, err) = (child.stdin.take().expect("piped"), child.stderr.take().expect("piped"));
        (child, stdin, err)
    };
    for (id, percent) in [("a", " 11%"), ("b", " 22%"), ("c", " 33%")] {
        stdin.write_all(assistant(id, 11).as_bytes()).expect("written");
        let output = read_until(&mut err, "\n");
        assert!(output.contains(percent), "{output}");
    }
    drop(stdin);
    child.wait().expect("ends");
}

#[test]
fn a_terminal_on_stdin_is_refused_with_a_hint() {
    let (_ours, theirs) = terminal(80);
    let output = budget_tee(&[]).stdin(theirs).output().expect("runs");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("stdin is a terminal") && err.contains("--help"), "{err}");
}

#[test]
fn a_line_of_many_megabytes_takes_little_memory() {
    let mut command = budget_tee(&["-q"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"{\"type\":\"assistant\",\"message\":{\"content\":\"").expect("written");
    for _ in 0..64 {
        stdin.write_all(&[b'x'; 1 << 20]).expect("written");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("exists");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 16 * 1024, "{peak} KiB");
    drop(stdin);
    child.wait().expect("ends");
}
