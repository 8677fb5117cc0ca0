//! What block mode does to the writers of a filter's input, in pipelines of a real shell.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use harness::{Ran, assistant, finish, plain};

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
    assert_eq!((out(&ran).as_str(), ran.err.lines().count()), ("143 122\n", 1), "{}", ran.err);
}

#[test]
fn a_writer_that_ignores_term_is_killed_after_the_grace() {
    let ran = bash(&format!("{{ trap '' TERM; {STUBBORN}; }} | tee1k -k 0.1s >/dev/null; echo ${{PIPESTATUS[*]}}"));
    assert_eq!(out(&ran), "137 122\n", "{}", ran.err);
    assert!(ran.err.contains("the writer has not ended; sent KILL to 1 process\n"), "{}", ran.err);
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
    // It has the read end from the shell, and is no writer.
    let script = "mkfifo p; (exec 5<p; echo ready >&2; read -r _ <q; echo alive) & mkfifo q 2>/dev/null; \
                  { echo \"$LINE\"; echo \"$MORE\"; } >p & tee1k <p >/dev/null; echo $?; echo >q; wait";
    let folder = tempfile::tempdir().expect("a folder");
    let ran = bash(&format!("cd {} && mkfifo q; {script}", folder.path().display()));
    assert_eq!(out(&ran), "122\nalive\n", "{}", ran.err);
}

#[test]
fn a_file_has_no_writers_and_warn_mode_ends_none() {
    let ran = bash("f=$(mktemp); printf '%s\\n%s\\n' \"$LINE\" \"$MORE\" >$f; tee1k <$f >/dev/null; echo $?; rm $f");
    assert_eq!(out(&ran), "122\n", "{}", ran.err);
    let ran = bash("{ echo \"$LINE\"; echo \"$MORE\"; } | tee1k -m warn >/dev/null; echo ${PIPESTATUS[*]}");
    assert_eq!(out(&ran), "0 0\n", "{}", ran.err);
}
