//! What block mode does to the writers of a filter's input, in pipelines of a real shell.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use std::io::{Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use harness::{Ran, assistant, budget_tee, finish, plain};

/// Runs a script of bash, in which `$LINE` is a message of 600 tokens and `tee1k` a filter that stops
/// at 1,000.
fn bash(script: &str) -> Ran {
    let mut command = plain("bash");
    let filter = format!("tee1k() {{ {} -q -l 1000 -m block \"$@\"; }}\n", env!("CARGO_BIN_EXE_budget-tee"));
    command.args(["-c", &(filter + script)]);
    command.env("LINE", assistant("a", 600).trim_end()).env("MORE", assistant("b", 600).trim_end());
    finish(command, b"")
}

fn out(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.out).into_owned()
}

/// A writer that ignores the broken pipe, as Claude Code does, and goes on until it is signalled.
const STUBBORN: &str =
    "{ trap '' PIPE; echo \"$LINE\"; echo \"$MORE\"; while :; do echo '{}' || :; done; } 2>/dev/null";

#[test]
fn a_writer_that_ignores_the_broken_pipe_is_terminated() {
    let ran = bash(&format!("{STUBBORN} | tee1k >/dev/null; echo ${{PIPESTATUS[*]}}"));
    assert_eq!((out(&ran).as_str(), ran.messages()), ("143 122\n", 1), "{}", ran.err);
}

#[test]
fn a_writer_is_terminated_where_the_run_is_not_started() {
    // The estimate does not fit; the ledger cannot be used; and in warn mode the writer goes on.
    let missing = "-L /dev/null/ledger";
    for (options, codes) in [("-e 2000", "143 121\n"), (missing, "143 125\n"), ("-e 2000 -s none", "0 121\n")] {
        let writer = if codes.starts_with('0') { "true" } else { STUBBORN };
        let ran = bash(&format!("{writer} | tee1k {options} >/dev/null; echo ${{PIPESTATUS[*]}}"));
        assert_eq!(out(&ran), codes, "{options}: {}", ran.err);
    }
    let ran = bash(&format!("echo \"$LINE\" | tee1k -m warn {missing}; echo ${{PIPESTATUS[*]}}"));
    assert!(out(&ran).ends_with("0 0\n"), "{}", ran.err);
}

#[test]
fn a_writer_that_ignores_term_is_killed_after_the_grace() {
    let ran = bash(&format!("{{ trap '' TERM; {STUBBORN}; }} | tee1k -k 0.1s >/dev/null; echo ${{PIPESTATUS[*]}}"));
    assert_eq!(out(&ran), "137 122\n", "{}", ran.err);
    assert!(ran.err.contains("the writer of stdin has not ended; sent KILL to 1 process\n"), "{}", ran.err);
}

#[test]
fn a_reader_that_stalls_does_not_delay_the_signal() {
    let ((reader, writer), (stalled, stdout)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    // All of it fits into one read, and does not fit into stdout's pipe.
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20).expect("set");
    let filler = format!("{}\n", "x".repeat(99)).repeat(1000);
    (&writer).write_all((filler + &assistant("a", 5000)).as_bytes()).expect("written");
    let mut stays = plain("sleep").arg("100").stdout(writer).spawn().expect("starts");
    let mut command = budget_tee(&["-q", "-l", "1000", "-m", "block"]);
    let mut child = command.stdin(reader).stdout(stdout).stderr(Stdio::null()).spawn().expect("starts");
    drop(command);
    assert_eq!(stays.wait().expect("ends").signal(), Some(15));
    drop(stalled);
    assert_eq!(child.wait().expect("ends").code(), Some(122));
}

#[test]
fn a_signal_during_the_wait_brings_kill_forward() {
    let (reader, writer) = pipe().expect("a pipe");
    (&writer).write_all(assistant("a", 5000).as_bytes()).expect("written");
    let (mut told, stderr) = pipe().expect("a pipe");
    let mut stays = plain("sh");
    stays.args(["-c", "trap 'echo told >&2' TERM; echo ready >&2; while :; do sleep 0.01; done"]);
    let mut stays = stays.stdout(writer).stderr(stderr).spawn().expect("starts");
    harness::read_until(&mut told, "ready\n");
    let mut command = budget_tee(&["-q", "-l", "1000", "-m", "block", "-k", "1h"]);
    let mut child = command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    drop(command);
    harness::read_until(&mut told, "told\n");
    harness::kill(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert_eq!(stays.wait().expect("ends").signal(), Some(9));
}

#[test]
fn a_program_that_started_its_own_filter_is_ended() {
    // bash starts the filter first, and becomes the writer then.
    let script = "exec 4>&1; perl=$(cat <<'END'
$SIG{PIPE} = 'IGNORE'; $| = 1; print \"$ENV{LINE}\\n$ENV{MORE}\\n\"; sleep 100;
END
); perl -e \"$perl\" > >(tee1k >/dev/null; echo \"code $?\" >&4); echo \"writer $?\"";
    let ran = bash(script);
    let mut lines: Vec<_> = out(&ran).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["code 122", "writer 143"], "{}", ran.err);
}

#[test]
fn a_writer_that_would_not_pass_the_pipe_on_gets_its_only_signal() {
    // Programs in Perl, Python, Go and on Node open files so that what they start does not have them.
    let script = "cd $(mktemp -d); mkfifo p; exec 4>&1; \
        perl -e 'open(F, \">\", \"p\"); F->autoflush; print F \"$ENV{LINE}\\n$ENV{MORE}\\n\"; sleep 100' & \
        tee1k -k 0 <p >/dev/null; echo $?; wait $!; echo $?";
    assert_eq!(out(&bash(script)), "122\n143\n");
}

#[test]
fn a_process_that_is_about_to_become_another_program_is_spared() {
    // It has its parent's pipe until then, and takes its time, as on a machine with much to do.
    let script = "cd $(mktemp -d); mkfifo p; \
        perl -e 'open(F, \">\", \"p\"); F->autoflush; if (!fork) { select(undef, undef, undef, 0.1); exec \"echo\", \"spared\" } \
            $SIG{TERM} = \"IGNORE\"; print F \"$ENV{LINE}\\n$ENV{MORE}\\n\"; wait' & \
        tee1k -k 0 <p >/dev/null; echo $?; wait";
    let ran = bash(script);
    let mut lines: Vec<_> = out(&ran).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["122", "spared"], "{}", ran.err);
}

#[test]
fn the_filters_own_hook_is_no_writer() {
    let script = "cd $(mktemp -d); mkfifo p q; exec 3<>p; printf '%s\n' \"$LINE\" \"$MORE\" >&3; \
        (trap '' TERM; exec sleep 100) & writer=$!; \
        tee1k -k 0.1s --on-exceed 'read -r word <q; echo \"hook $word\" >&2' <p >/dev/null & filter=$!; \
        wait $writer; echo $?; echo go >q; wait $filter; echo $?";
    let ran = bash(script);
    assert_eq!(out(&ran), "137\n122\n", "{}", ran.err);
    assert!(ran.err.contains("sent KILL to 1 process\n") && ran.err.contains("hook go\n"), "{}", ran.err);
}

#[test]
fn the_programs_before_a_program_in_between_are_ended_too() {
    let ran = bash(&format!("{STUBBORN} | tee /dev/null | cat | tee1k >/dev/null; echo ${{PIPESTATUS[*]}}"));
    // Those between may have died of the broken pipe first.
    let codes = out(&ran);
    assert!(codes.starts_with("143 ") && codes.ends_with(" 122\n"), "{codes}: {}", ran.err);
}

#[test]
fn a_queue_that_the_loop_around_a_pipeline_reads_is_left_alone() {
    let queue = "{ trap 'echo queue ended >&2' TERM; echo one; echo two; }";
    let ran = bash(&format!(
        "{queue} | while read -r task; do {STUBBORN} | tee1k >/dev/null; echo $task ${{PIPESTATUS[*]}}; done"
    ));
    assert_eq!(out(&ran), "one 143 122\ntwo 143 122\n", "{}", ran.err);
    assert!(!ran.err.contains("queue ended"), "{}", ran.err);
}

#[test]
fn without_proc_a_line_says_that_no_writer_is_found() {
    let mut command = plain("unshare");
    let script = "mount -t tmpfs none /proc && { echo \"$LINE\"; sleep 0.01; } | \"$0\" -q -l 1 -m block >/dev/null";
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_budget-tee")]);
    command.env("LINE", assistant("a", 600).trim_end());
    let ran = finish(command, b"");
    if ran.code() != Some(122) {
        harness::skip("namespaces are not available");
        return;
    }
    assert!(ran.err.contains("cannot read /proc to find the writers of stdin, which may go on\n"), "{}", ran.err);
}

#[test]
fn a_loop_of_commands_ends_with_the_command_that_exceeded_the_budget() {
    let script =
        "for round in 1 2 3 4 5; do echo \"round $round\" >&2; echo \"$LINE\"; echo \"$MORE\"; sleep 0.01 || :; done";
    let ran =
        bash(&format!("trap '' PIPE; {{ {script}; tail -f /dev/null; }} | tee1k >/dev/null; echo ${{PIPESTATUS[*]}}"));
    assert_eq!(out(&ran), "143 122\n", "{}", ran.err);
}

#[test]
fn another_first_signal_is_followed_by_term() {
    let writer = "{ trap 'echo usr1 >&2' USR1; echo \"$LINE\"; echo \"$MORE\"; while :; do sleep 0.01; done; }";
    let ran = bash(&format!("{writer} | tee1k -s USR1 -k 0.2s >/dev/null; echo ${{PIPESTATUS[*]}}"));
    assert_eq!(out(&ran), "143 122\n", "{}", ran.err);
    assert!(ran.err.contains("usr1\n") && ran.err.contains("sent TERM to"), "{}", ran.err);
}

#[test]
fn no_signal_is_sent_with_none() {
    let writer = "{ trap '' PIPE; echo \"$LINE\"; echo \"$MORE\"; read -r _ <&3; exit 7; } 2>/dev/null";
    let script = format!(
        "fifo=$(mktemp -u); mkfifo $fifo; exec 3<>$fifo; rm $fifo; \
         {writer} | {{ tee1k -s none >/dev/null; code=$?; echo >&3; exit $code; }}; echo ${{PIPESTATUS[*]}}"
    );
    let ran = bash(&script);
    assert_eq!(out(&ran), "7 122\n", "{}", ran.err);
    let ran = harness::run(&["-s", "none", "--", "true"], b"");
    assert_eq!(ran.code(), Some(125));
    assert!(ran.err.contains("--signal none is for a filter"), "{}", ran.err);
}

#[test]
fn a_shell_that_writes_to_its_own_filter_goes_on() {
    // The shell holds the write end, and is an ancestor of the filter.
    let ran = bash("exec 4>&1 > >(tee1k >/dev/null); echo \"$LINE\"; echo \"$MORE\"; wait $!; echo \"code $?\" >&4");
    assert_eq!((ran.code(), out(&ran).as_str()), (Some(0), "code 122\n"), "{}", ran.err);
}

#[test]
fn a_process_that_only_reads_the_pipe_is_left_alone() {
    // It has opened the pipe before anything is written, and is no writer.
    let script = "mkfifo p q r; (exec 5<p; echo >r; read -r _ <q; echo alive) & \
                  { read -r _ <r; echo \"$LINE\"; echo \"$MORE\"; } >p & tee1k <p >/dev/null; echo $?; echo >q; wait";
    let folder = tempfile::tempdir().expect("a folder");
    let ran = bash(&format!("cd {} && {script}", folder.path().display()));
    assert_eq!(out(&ran), "122\nalive\n", "{}", ran.err);
}

#[test]
fn a_file_has_no_writers_and_warn_mode_ends_none() {
    let ran = bash("f=$(mktemp); printf '%s\\n%s\\n' \"$LINE\" \"$MORE\" >$f; tee1k <$f >/dev/null; echo $?; rm $f");
    assert_eq!(out(&ran), "122\n", "{}", ran.err);
    let ran = bash("{ echo \"$LINE\"; echo \"$MORE\"; } | tee1k -m warn >/dev/null; echo ${PIPESTATUS[*]}");
    assert_eq!(out(&ran), "0 0\n", "{}", ran.err);
}

#[test]
fn whatever_fails_in_proc_only_writers_are_signalled() {
    let (trace, line) = (tempfile::NamedTempFile::new().expect("a file"), assistant("a", 5000));
    let path = trace.path().to_str().expect("UTF-8");
    for (call, error) in [("openat", "EACCES"), ("getdents64", "ENOENT"), ("readlinkat", "ESRCH"), ("read", "ESRCH")] {
        let (reader, writer) = pipe().expect("a pipe");
        (&writer).write_all(line.as_bytes()).expect("written");
        let mut stays = plain("sleep").arg("100").stdout(writer).spawn().expect("starts");
        let fault = format!("inject={call}:error={error}:when=40+3");
        let mut command = plain("strace");
        command.args(["-f", "-qq", "-o", path, "-e", "trace=pidfd_open,pidfd_send_signal,kill", "-e", &fault]);
        command.args([env!("CARGO_BIN_EXE_budget-tee"), "-q", "-l", "1000", "-m", "block", "-k", "0.1s"]);
        let ended = command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null()).status();
        drop(command);
        stays.kill().expect("it is not reaped yet");
        stays.wait().expect("ends");
        let Ok(status) = ended else {
            harness::skip("strace is not installed");
            return;
        };
        assert_eq!(status.code(), Some(122), "{call}");
        let calls = std::fs::read_to_string(path).expect("a trace");
        let opened = format!("pidfd_open({},", stays.id());
        let signals = calls.lines().filter(|call| call.contains("pidfd_open(") || call.contains("kill("));
        signals.for_each(|call| assert!(call.contains(&opened), "{call}"));
    }
}
