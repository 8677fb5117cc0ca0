//! Tests of budget-tee as a wrapper of a command: what it passes on, which processes it signals, how it ends.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use harness::{Ran, assistant, budget_tee, bytes, finish, fixture, kill, plain, read_until, run, summary, terminal};
use rustix::process::{Pid, Signal, test_kill_process};

/// `args`, followed by a shell command that runs `script`.
fn shell<'a>(args: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [args, &["--", "sh", "-c", script]].concat()
}

/// Wraps a shell that runs `script`, and waits for the end.
fn wrapped(args: &[&str], script: &str) -> Ran {
    run(&shell(args, script), b"")
}

/// A shell command that prints a record over the limit of [`BLOCK`].
fn exceed() -> String {
    format!("echo '{}'", assistant("a", 5000).trim_end())
}

/// Block mode with a limit that [`exceed`] exceeds, and a short grace.
const BLOCK: &[&str] = &["-q", "-l", "1000", "-m", "block", "-k", "0.3s"];

/// Wraps a shell that runs `script`, in a session of its own, without a terminal.
fn start(args: &[&str], script: &str) -> (Child, ChildStdout) {
    // setsid executes budget-tee without a fork.
    let mut command = plain("setsid");
    command.arg(env!("CARGO_BIN_EXE_budget-tee")).args(shell(args, script));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let stdout = child.stdout.take().expect("piped");
    (child, stdout)
}

/// The pid at the end of `text`.
fn pid_in(text: &str) -> Pid {
    let digits: String = text.trim().rsplit(' ').next().unwrap_or_default().into();
    Pid::from_raw(digits.parse().expect("a pid")).expect("a pid")
}

/// Whether the process exists and is not a zombie.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn arguments_environment_and_directory_are_passed_on_as_bytes() {
    let mut command = budget_tee(&["-q", "--", "sh", "-c"]);
    command.arg("printf '%s|%s|%s|' \"$1\" \"$2\" \"$BYTES\"; pwd; cat").arg("sh");
    command.arg(OsStr::from_bytes(b"\xff\xfe -q")).arg("").env("BYTES", OsStr::from_bytes(b"\x80=\n")).current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(b"from stdin").expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.stdout, b"\xff\xfe -q||\x80=\n|/\nfrom stdin");
}

#[test]
fn the_first_argument_that_is_not_an_option_starts_the_command() {
    let ran = run(&["-q", "echo", "-q", "--limit", "--", "x"], b"");
    assert_eq!(ran.out, b"-q --limit -- x\n");
    let ran = run(&["-q", "--", "printf", "%s\\n", "--help"], b"");
    assert_eq!(ran.out, b"--help\n");
}

#[test]
fn the_command_writes_to_stderr_directly() {
    let ran = wrapped(&["-q"], "echo '{\"type\":\"user\"}' ; echo error >&2; exit 3");
    assert_eq!((ran.code(), ran.err.as_str()), (Some(3), "error\n"));
}

#[test]
fn the_command_inherits_no_extra_descriptors() {
    // The shell itself has one more descriptor open, for the folder it reads.
    let script = "for fd in /proc/self/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
    let closing = "exec \"$0\" -q -- sh -c \"$1\" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";
    let output = plain("bash")
        .args(["-c", closing, env!("CARGO_BIN_EXE_budget-tee"), script])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let inherited = plain("bash")
        .args(["-c", "exec sh -c \"$1\" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-", "x", script])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&inherited.stdout));
}

#[test]
fn the_command_inherits_the_callers_blocked_and_ignored_signals() {
    let status = "grep -E '^Sig(Blk|Ign):' /proc/self/status";
    let binary = env!("CARGO_BIN_EXE_budget-tee");
    for ignore in ["", "trap '' INT USR1;"] {
        let [plain, wrapped] = ["", "$0 -q --"].map(|wrap| {
            let mut shell = plain("sh");
            shell.args(["-c", &format!("{ignore} exec {wrap} sh -c \"$1\""), binary, status]);
            finish(shell, b"").out
        });
        assert_eq!(String::from_utf8_lossy(&wrapped), String::from_utf8_lossy(&plain), "{ignore}");
    }
}

#[test]
fn the_exit_code_of_the_command_is_passed_on() {
    for code in [0, 1, 121, 122, 125, 255] {
        assert_eq!(wrapped(&["-q"], &format!("exit {code}")).code(), Some(code));
    }
    let ran = run(&["-q", "/nowhere/at/all"], b"");
    assert_eq!((ran.code(), ran.out.len()), (Some(127), 0));
    assert_eq!(ran.err, "budget-tee: cannot run /nowhere/at/all: No such file or directory\n");
    let ran = run(&["/etc/passwd"], b"");
    assert_eq!(ran.code(), Some(126));
    assert_eq!(ran.err, "budget-tee: cannot run /etc/passwd: Permission denied\n");
}

#[test]
fn budget_tee_dies_of_the_signal_that_killed_the_command() {
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10), ("PIPE", 13)] {
        assert_eq!(wrapped(&["-q"], &format!("kill -{name} $$")).status.signal(), Some(number), "{name}");
    }
    // KILL cannot be caught, QUIT and SEGV dump a core: budget-tee exits with 128 + signal instead.
    for (name, code) in [("KILL", 137), ("QUIT", 131), ("SEGV", 139)] {
        assert_eq!(wrapped(&["-q"], &format!("kill -{name} $$")).code(), Some(code), "{name}");
    }
}

#[test]
fn the_run_is_charged_to_the_slash_command() {
    let claude = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/claude");
    let mut command = budget_tee(&["-q", "-b", "/review=20k", "-m", "block", "--", claude, "-p", "/review src"]);
    command.env("STREAM", fixture("review.jsonl"));
    let ran = finish(command, b"");
    assert_eq!(ran.code(), Some(122));
    assert!(ran.err.contains("budget of /review exceeded"), "{}", ran.err);
}

#[test]
fn the_command_is_not_started_when_its_estimate_does_not_fit() {
    let (ran, facts) = summary(&shell(&["-l", "1k", "-e", "2k", "-m", "block"], "echo started"), b"");
    assert_eq!((ran.code(), ran.out.len(), facts["outcome"].as_str()), (Some(121), 0, Some("refused")));
}

#[test]
fn output_written_while_the_command_ends_is_forwarded_and_counted() {
    let last = assistant("b", 7);
    let script = format!("trap 'echo \"$LAST\"; exit 5' TERM; {}; while :; do sleep 0.01; done", exceed());
    let mut command = budget_tee(&shell(&["-q", "-l", "1000", "-m", "block", "--summary", "/dev/stderr"], &script));
    command.env("LAST", last.trim_end());
    let ran = finish(command, b"");
    assert_eq!(ran.code(), Some(122));
    assert_eq!(String::from_utf8_lossy(&ran.out), assistant("a", 5000) + &last);
    assert!(ran.err.contains("\"input\":5007"), "{}", ran.err);
    assert!(ran.err.contains("\"outcome\":\"stopped\",\"exit_code\":122"), "{}", ran.err);
}

#[test]
fn a_stop_ends_the_whole_process_tree() {
    for (what, script) in [
        ("a background process", "sleep 1000 & echo pid $!; EXCEED; wait"),
        (
            "a process that ignores TERM",
            "sh -c \"trap '' TERM; echo pid \\$\\$; $T; while :; do sleep 0.1; done\" & wait",
        ),
        ("a process in its own session", "setsid sh -c \"echo pid \\$\\$; $T; sleep 1000\" & wait"),
        (
            "an orphan",
            "(setsid sh -c \"trap '' TERM; echo pid \\$\\$; $T; while :; do sleep 0.1; done\" &); sleep 1000",
        ),
        (
            "a suspended process",
            "sh -c \"echo pid \\$\\$; kill -STOP \\$\\$\" & while ! grep -q 'T (stopped)' /proc/$!/status; do :; done; EXCEED; wait",
        ),
    ] {
        // The record that exceeds the limit is printed after the pid, in some cases by that process itself.
        let script = format!("T='echo \"$LINE\"'; {}", script.replace("EXCEED", "echo \"$LINE\""));
        let began = Instant::now();
        let mut command = plain("setsid");
        command
            .arg(env!("CARGO_BIN_EXE_budget-tee"))
            .args(shell(BLOCK, &script))
            .env("LINE", assistant("a", 5000).trim_end());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let pid = pid_in(read_until(child.stdout.as_mut().expect("piped"), "\n").as_str());
        assert_eq!(child.wait().expect("ends").code(), Some(122), "{what}");
        assert!(!is_alive(pid), "{what}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn killing_a_command_that_ignores_term_after_the_grace_is_reported() {
    let ran = wrapped(BLOCK, &format!("trap '' TERM; {}; while :; do sleep 0.1; done", exceed()));
    assert_eq!(ran.code(), Some(122));
    assert!(ran.err.contains("has not ended; sent KILL to"), "{}", ran.err);
}

#[test]
fn a_different_first_signal_is_followed_by_term() {
    let ran = wrapped(
        &[BLOCK, &["-s", "int"]].concat(),
        &format!("trap 'echo int' INT; trap 'echo term; exit' TERM; {}; while :; do sleep 0.05; done", exceed()),
    );
    let out = String::from_utf8_lossy(&ran.out).into_owned();
    assert_eq!(ran.code(), Some(122));
    assert!(out.ends_with("int\nterm\n"), "{out}");
    assert!(ran.err.contains("sent TERM"), "{}", ran.err);
    let graceful = wrapped(
        &[BLOCK, &["--signal", "SIGINT"]].concat(),
        &format!("trap 'echo result; exit 0' INT; {}; while :; do sleep 0.05; done", exceed()),
    );
    assert!(graceful.out.ends_with(b"result\n"));
    assert_eq!(graceful.code(), Some(122));
}

#[test]
fn int_reaches_what_the_command_started_before_term_follows() {
    let tool = "sh -c \"trap 'echo tool; exit' INT; echo ready; while :; do sleep 0.01; done\"";
    let script = format!("trap : INT; {}; {tool}; while :; do sleep 0.01; done", exceed());
    let ran = wrapped(&["-q", "-l", "1000", "-m", "block", "-s", "INT", "-k", "1s"], &script);
    assert_eq!(ran.code(), Some(122));
    assert!(ran.out.ends_with(b"ready\ntool\n"), "{}", String::from_utf8_lossy(&ran.out));
}

#[test]
fn a_blocked_stdout_does_not_delay_a_stop() {
    // The command exceeds the limit, then fills the unread pipe and would go on for ever.
    let script = format!("{}; trap 'exit' TERM; while :; do echo filling the pipe; done", exceed());
    let began = Instant::now();
    let (mut child, stdout) = start(BLOCK, &script);
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stdout);
}

#[test]
fn a_command_that_ends_just_as_it_is_stopped_is_not_an_error() {
    let ran = wrapped(BLOCK, &exceed());
    assert_eq!(ran.code(), Some(122));
    assert_eq!(ran.messages(), 1, "{}", ran.err);
}

#[test]
fn warn_mode_lets_the_command_end_by_itself() {
    let ran = wrapped(&["-q", "-l", "1000"], &format!("{}; exit 4", exceed()));
    assert_eq!(ran.code(), Some(4));
    assert!(ran.err.contains("going on"), "{}", ran.err);
}

#[test]
fn signals_are_forwarded_once_and_the_commands_exit_code_is_kept() {
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::TERM, Signal::ALARM] {
        let number = signal.as_raw();
        let script = format!(
            "n=0; trap 'n=$((n+1))' {number}; echo ready; while [ $n = 0 ]; do sleep 0.01; done; sleep 0.05; exit $n"
        );
        let (mut child, mut stdout) = start(&["-q"], &script);
        read_until(&mut stdout, "ready\n");
        kill(&child, signal);
        assert_eq!(child.wait().expect("ends").code(), Some(1), "{number}");
    }
}

#[test]
fn a_second_term_kills_at_once() {
    let script = "trap 'echo term' TERM; echo ready; while :; do sleep 0.01; done";
    let (mut child, mut stdout) = start(&["-q", "-k", "1h"], script);
    read_until(&mut stdout, "ready\n");
    kill(&child, Signal::TERM);
    read_until(&mut stdout, "term\n");
    // A TERM right after the first counts as the same one, since `timeout` sends two. Repeat until one counts.
    let began = Instant::now();
    let status = loop {
        kill(&child, Signal::TERM);
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
    };
    assert_eq!(status.code(), Some(137));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_suspended_command_is_continued_so_that_it_gets_the_signal() {
    let (mut child, mut stdout) = start(&["-q", "-k", "1h"], "echo pid $$; kill -STOP $$; sleep 1000");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    while !std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).expect("exists").contains(") T ") {}
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
}

#[test]
fn without_a_terminal_a_signal_reaches_the_commands_process_group() {
    let (mut child, mut stdout) = start(&["-q"], "sleep 1000 & echo pid $!; wait; sleep 1000");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
    while is_alive(pid) {}
}

#[test]
fn an_ignored_term_is_followed_by_kill_after_the_grace() {
    let (mut child, mut stdout) = start(&["-q", "-k", "0.2s"], "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    read_until(&mut stdout, "ready\n");
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").code(), Some(137));
}

#[test]
fn only_the_commands_own_tree_is_signalled() {
    // As in `budget-tee -- claude | jq`: the reader is in the same job, and must read the last line.
    let script = format!("{}; sleep 1000", exceed());
    let pipeline = "\"$0\" -q -l 1000 -m block -- sh -c \"$1\" | { cat; echo read to the end; }; echo ${PIPESTATUS[0]}";
    let output = plain("bash")
        .args(["-c", pipeline, env!("CARGO_BIN_EXE_budget-tee"), &script])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), assistant("a", 5000) + "read to the end\n122\n");
}

#[test]
fn children_started_before_exec_are_left_alone() {
    let script = format!(
        "sleep 1000 & echo pid $!; exec \"$0\" -q -l 1000 -m block -- sh -c \"{}; sleep 1000\"",
        exceed().replace('"', "\\\"")
    );
    let mut command = plain("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_budget-tee")]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("starts");
    let pid = pid_in(&read_until(child.stdout.as_mut().expect("piped"), "\n"));
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert!(is_alive(pid));
    rustix::process::kill_process(pid, Signal::KILL).expect("the process exists");
}

#[test]
fn a_pipe_held_open_by_an_orphan_is_drained_for_a_limited_time() {
    let began = Instant::now();
    let (mut child, mut stdout) = start(&["-q"], "(setsid sh -c 'echo pid $$; echo last; exec sleep 1000' &); exit 6");
    let pid = pid_in(read_until(&mut stdout, "\n").as_str());
    assert_eq!(child.wait().expect("ends").code(), Some(6));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    // The run was not stopped, so what the command left behind is not killed.
    assert!(is_alive(pid));
    rustix::process::kill_process(pid, Signal::KILL).expect("the process exists");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("readable");
    assert_eq!(rest, "last\n");
}

#[test]
fn output_left_in_the_pipe_is_written_after_the_command_ends() {
    let (mut child, mut stdout) = start(&["-q"], "head -c 300000 /dev/zero | tr '\\0' x; exit 6");
    let mut first = [0; 1];
    stdout.read_exact(&mut first).expect("readable");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("readable");
    assert_eq!((child.wait().expect("ends").code(), rest.len()), (Some(6), 299_999));
}

#[test]
fn a_command_that_closes_its_stdout_is_waited_for() {
    let (mut child, mut stdout) =
        start(&["-q"], "trap 'exit 7' USR1; echo ready; exec >&-; while :; do sleep 0.01; done");
    let mut all = String::new();
    stdout.read_to_string(&mut all).expect("readable");
    assert_eq!(all, "ready\n");
    assert!(child.try_wait().expect("a status").is_none());
    kill(&child, Signal::USR1);
    assert_eq!(child.wait().expect("ends").code(), Some(7));
}

#[test]
fn a_closed_reader_ends_the_command_quietly() {
    for writes in ["while :; do sleep 0.1; done", "while :; do echo line; done"] {
        let (reader, writer) = pipe().expect("a pipe");
        let script = format!(
            "exec 2>/dev/null; echo '{{\"type\":\"result\",\"usage\":{{\"input_tokens\":0}}}}' pid $$; trap '' PIPE; {writes}"
        );
        let mut command = budget_tee(&shell(&["-k", "0.2s"], &script));
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        drop(command);
        let mut reader = reader;
        let pid = pid_in(&read_until(&mut reader, "\n"));
        drop(reader);
        let output = child.wait_with_output().expect("ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
        assert!(!is_alive(pid));
    }
}

#[test]
fn an_unwritable_stdout_ends_the_command() {
    let full = File::options().write(true).open("/dev/full").expect("exists");
    let output = budget_tee(&shell(&["-q"], "while :; do echo line; sleep 0.01; done"))
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to stdout: No space left on device"));
}

#[test]
fn the_command_ends_when_budget_tee_is_killed() {
    let (mut child, mut stdout) =
        start(&["-q"], "echo pid $$; trap 'echo told; exit' TERM; while :; do sleep 0.01; done");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("the process exists");
    kill(&child, Signal::KILL);
    assert_eq!(child.wait().expect("ends").signal(), Some(9));
    // A pidfd is readable once the process has ended.
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).expect("polls"), 1);
}

#[test]
fn orphaned_descendants_are_reaped() {
    // The orphan ends while the command runs. It must not stay a zombie child of budget-tee.
    let script = "(sh -c 'echo pid $$; read line </dev/fd/3' 3<&0 &) ; wait; cat; \
                  while ls /proc/$PPID/task/$PPID/children >/dev/null && grep -q ' ' /proc/$PPID/task/$PPID/children && \
                  [ $(wc -w </proc/$PPID/task/$PPID/children) -gt 1 ]; do sleep 0.01; done; exit 8";
    let (mut child, mut stdout) = start(&["-q"], script);
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    child.stdin.take().expect("piped").write_all(b"\n").expect("written");
    assert_eq!(child.wait().expect("ends").code(), Some(8));
    assert!(!is_alive(pid));
}

#[test]
fn on_a_terminal_the_command_stays_in_the_foreground_process_group() {
    let (mut ours, theirs) = terminal(80);
    let mut command = plain("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_budget-tee"), "-q", "--", "sh", "-c"]);
    command.arg("read line; echo '{\"type\":\"result\",\"usage\":{}}' got $line; cut -d' ' -f5 /proc/$$/stat /proc/$PPID/stat; read line");
    command.stdin(theirs.try_clone().expect("a copy")).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    ours.write_all(b"typed\n").expect("written");
    let output = read_until(&mut ours, "got typed\r\n");
    assert!(output.contains("got typed"), "{output}");
    let groups = read_until(&mut ours, "\n") + &read_until(&mut ours, "\n");
    let groups: Vec<_> = groups.split_ascii_whitespace().collect();
    assert_eq!(groups[0], groups[1], "one process group");
    // Ctrl-C goes to both. The command dies of it, and budget-tee dies of the same signal.
    ours.write_all(b"\x03").expect("written");
    assert_eq!(child.wait().expect("ends").signal(), Some(2));
}

#[test]
fn the_stand_in_for_claude_behaves_like_claude() {
    let claude = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/claude");
    let run = |args: &[&str]| {
        let mut command = budget_tee(&[args, &["--", claude]].concat());
        command.env("STREAM", fixture("review.jsonl")).env("SESSION", "").env("PACE", "0.01").env("TOOL", "sleep 1000");
        finish(command, b"")
    };
    let whole = run(&["-q"]);
    assert_eq!((whole.code(), whole.out), (Some(0), bytes("review.jsonl")));
    let term = run(&["-q", "-l", "20k", "-m", "block"]);
    assert_eq!(term.code(), Some(122));
    assert!(!String::from_utf8_lossy(&term.out).contains("\"type\":\"result\""));
    let int = run(&["-q", "-l", "20k", "-m", "block", "-s", "INT"]);
    assert_eq!(int.code(), Some(122));
    assert!(String::from_utf8_lossy(&int.out).contains("\"type\":\"result\""));
}

#[test]
fn repeated_stops_leave_no_processes_behind() {
    let script = format!("sleep 1000 & echo pid $!; setsid sleep 1000 & echo pid $!; {}; wait", exceed());
    for _ in 0..20 {
        let (mut child, mut stdout) = start(BLOCK, &script);
        let mut out = String::new();
        stdout.read_to_string(&mut out).expect("readable");
        assert_eq!(child.wait().expect("ends").code(), Some(122));
        let pids: Vec<_> = out.lines().filter(|line| line.starts_with("pid")).map(pid_in).collect();
        assert_eq!(pids.len(), 2, "{out}");
        for pid in pids {
            assert!(!is_alive(pid));
        }
    }
}

#[test]
fn a_closed_reader_does_not_cause_a_busy_loop() {
    let (mut reader, writer) = pipe().expect("a pipe");
    let script = "trap '' TERM PIPE; echo ready; while [ ! -e /proc/$PPID/task ]; do :; done; read line";
    let mut command = budget_tee(&shell(&["-q", "-k", "1s"], script));
    let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::null()).spawn().expect("starts");
    drop(command);
    read_until(&mut reader, "ready\n");
    drop(reader);
    // During the grace, budget-tee must use little CPU time: user and system time in ticks of 10 ms.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), rustix::process::PidfdFlags::empty());
    let fd = pidfd.expect("the process exists");
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 700_000_000 };
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&timeout)).expect("polls"),
        0,
        "the run ends before the grace is over"
    );
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("exists");
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .skip(12)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    assert!(ticks < 20, "{ticks} ticks of CPU time");
    assert_eq!(child.wait().expect("ends").code(), Some(141));
}

#[test]
fn a_run_started_with_sigchld_ignored_still_ends() {
    let mut perl = plain("perl");
    perl.args([
        "-e",
        "$SIG{CHLD} = 'IGNORE'; exec @ARGV",
        env!("CARGO_BIN_EXE_budget-tee"),
        "-q",
        "--",
        "sh",
        "-c",
        "exit 3",
    ]);
    assert_eq!(finish(perl, b"").code(), Some(3));
}

#[test]
fn an_unwritable_summary_fails_a_command_that_succeeded() {
    let ran = run(&["-q", "--summary", "/dev/full", "--", "true"], b"");
    assert_eq!(ran.code(), Some(125), "{}", ran.err);
    let ran = run(&["-q", "--summary", "/dev/full", "--", "false"], b"");
    assert_eq!(ran.code(), Some(1), "{}", ran.err);
}

#[test]
fn as_pid_1_of_a_container_it_reaps_forwards_signals_and_ends() {
    let container = |script: &str| {
        let mut command = plain("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_budget-tee"), "-q", "--"]);
        command.args(["sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    if !container("true").status().is_ok_and(|status| status.success()) {
        harness::skip("namespaces are not available");
        return;
    }
    // An orphan that has ended does not stay a zombie.
    let orphan = "(sh -c 'exit 7' &); until ! grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; exit 5";
    assert_eq!(container(orphan).status().expect("runs").code(), Some(5));
    // TERM reaches the command. PID 1 cannot die of a signal, so the exit code reports it.
    let mut child = container("trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done").spawn().expect("starts");
    read_until(child.stdout.as_mut().expect("piped"), "ready\n");
    let inner = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("exists");
    rustix::process::kill_process(pid_in(&inner), Signal::TERM).expect("the process exists");
    assert_eq!(child.wait().expect("ends").code(), Some(6));
    assert_eq!(container("kill -TERM $$").status().expect("runs").code(), Some(143));
}

#[test]
fn a_closed_terminal_ends_the_command_and_budget_tee() {
    let (ours, theirs) = terminal(80);
    // HUP is ignored if the tests were started with nohup.
    let mut command = plain("env");
    command.args(["--default-signal=HUP", "setsid", "--ctty", env!("CARGO_BIN_EXE_budget-tee")]);
    command.args(shell(&["-l", "1M"], "echo pid $$; exec sleep 60"));
    command.stdin(theirs.try_clone().expect("a copy")).stdout(Stdio::piped()).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    let mut stdout = child.stdout.take().expect("piped");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    drop(ours);
    assert_eq!(child.wait().expect("ends").signal(), Some(Signal::HUP.as_raw()));
    assert!(!is_alive(pid));
}

#[test]
fn a_closed_terminal_gives_the_command_time_to_end() {
    let (mut ours, theirs) = terminal(80);
    let mut command = plain("env");
    command.args(["--default-signal=HUP", "setsid", "--ctty", env!("CARGO_BIN_EXE_budget-tee"), "-q"]);
    command.args(shell(&[], "trap 'sleep 0.2; exit 7' HUP; echo ready; while :; do sleep 0.02; done"));
    command.stdin(theirs.try_clone().expect("a copy")).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    // To the end of the line: a terminal takes it in two parts, and may be closed between them.
    read_until(&mut ours, "ready\r\n");
    drop(ours);
    assert_eq!(child.wait().expect("ends").code(), Some(7));
}

/// A shell command that prints a result record.
const RESULT: &str = "echo '{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{\"input_tokens\":1}}'";

#[test]
fn linger_ends_a_command_that_stays_after_its_result() {
    let ran = wrapped(&["-q", "--linger", "0.1s"], &format!("{RESULT}; exec sleep 60"));
    assert_eq!(ran.code(), Some(0), "{}", ran.err);
    assert!(ran.err.contains("runs on after its result record"), "{}", ran.err);
    // A command that exits with a code of its own keeps it.
    let script = format!("trap 'exit 7' TERM; {RESULT}; while :; do sleep 0.01; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s"], &script).code(), Some(7));
    // Later records that do not begin a turn do not matter, and --signal is used here too.
    let noise = "echo '{\"type\":\"system\",\"subtype\":\"task_notification\",\"usage\":{},\"x\":\"\\u0065\"}'";
    let script = format!("trap 'exit 130' INT; {RESULT}; {noise}; while :; do sleep 0.01; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s", "-s", "INT"], &script).code(), Some(0));
    // The processes it started are ended too, and one that ignores TERM is killed.
    let script = format!("trap '' TERM; {RESULT}; while :; do sleep 60; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s", "-k", "0.1s"], &script).code(), Some(0));
}

#[test]
fn linger_leaves_a_command_alone_that_continues_after_a_result() {
    let next = format!("echo '{}'", assistant("a", 1).trim_end());
    let ran = wrapped(&["-q", "--linger", "0.1s"], &format!("{RESULT}; {next}; sleep 0.5; exit 5"));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(5), ""));
    let ran = wrapped(&["-q", "--linger", "60s"], &format!("{RESULT}; exit 6"));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(6), ""));
}

#[test]
fn idle_ends_a_command_whose_stream_is_silent() {
    let ran = wrapped(&["-q", "--idle", "0.2s"], "echo '{}'; exec sleep 60");
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(124), b"{}\n" as &[u8]));
    assert!(ran.err.contains("the stream has been silent for too long; ending the command (--idle)\n"), "{}", ran.err);
    // Lines in time keep it going, and it keeps its own exit code.
    let script = "for n in 1 2 3 4 5 6; do echo '{}'; sleep 0.1; done; exit 5";
    let ran = wrapped(&["-q", "--idle", "0.5s"], script);
    assert_eq!(ran.code(), Some(5), "{}", ran.err);
}

#[test]
fn a_reader_that_stalls_is_no_silence_of_the_command() {
    let (mut child, mut stdout) = start(&["-q", "--idle", "0.1s"], "head -c 3000000 /dev/zero; exit 5");
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 400_000_000 };
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), rustix::process::PidfdFlags::empty());
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        pidfd.as_ref().map(std::os::fd::AsFd::as_fd).expect("exists"),
        rustix::event::PollFlags::IN,
    )];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).expect("polls"), 0);
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).expect("readable");
    assert_eq!((child.wait().expect("ends").code(), all.len()), (Some(5), 3_000_000));
}

#[test]
fn reap_ends_what_the_command_leaves_running() {
    for stubborn in ["", "trap '' TERM; "] {
        let script =
            format!("(setsid sh -c \"{stubborn}echo pid \\$\\$; while :; do sleep 0.01; done\" &); read line; exit 6");
        let (mut child, mut stdout) = start(&["-q", "--reap", "-k", "0.1s"], &script);
        let pid = pid_in(&read_until(&mut stdout, "\n"));
        child.stdin.take().expect("piped").write_all(b"\n").expect("written");
        assert_eq!(child.wait().expect("ends").code(), Some(6), "{stubborn}");
        assert!(!is_alive(pid), "{stubborn}");
    }
    assert_eq!(run(&["-q", "--reap", "--no-reap", "--", "true"], b"").code(), Some(0));
}

#[test]
fn a_command_that_ends_by_itself_when_told_to_was_interrupted() {
    for (signal, name, code) in [(Signal::TERM, "TERM", 143), (Signal::INT, "INT", 130), (Signal::HUP, "HUP", 0)] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 0.01; done");
        let (mut child, mut stdout) = start(&["--summary", path], &script);
        read_until(&mut stdout, "ready\n");
        kill(&child, signal);
        assert_eq!(child.wait().expect("ends").code(), Some(code));
        let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("a summary")).expect("JSON");
        assert_eq!((&facts["outcome"], &facts["exit_code"]), (&"interrupted".into(), &code.into()));
        assert_eq!(facts["signal"], name);
    }
}

#[test]
fn the_report_tells_the_code_or_the_signal() {
    for (script, says) in [
        ("exit 0", "sh completed: "),
        ("exit 3", "sh completed with exit code 3: "),
        ("kill -USR1 $$", "sh interrupted by USR1: "),
        (
            "trap 'exit 143' TERM; kill -TERM $PPID; while :; do sleep 0.01; done",
            "sh interrupted by TERM, exit code 143: ",
        ),
    ] {
        let ran = wrapped(&[], script);
        assert!(ran.err.contains(says), "{}", ran.err);
    }
}

#[test]
fn a_program_on_node_that_exits_at_once_loses_nothing() {
    if !harness::has("node") {
        return;
    }
    let script = "process.stdout.write('x'.repeat(200000) + '\\n'); process.exit(3)";
    for _ in 0..5 {
        let ran = run(&["-q", "--", "node", "-e", script], b"");
        assert_eq!((ran.code(), ran.out.len()), (Some(3), 200_001), "{}", ran.err);
    }
}

#[test]
fn block_mode_says_that_no_budget_binds_the_run() {
    let script = format!("echo '{}'", assistant("a", 5000).trim_end());
    for (args, says) in [
        (&["-m", "block"][..], "which is charged to sh\nbudget-tee: note: block mode will not stop it"),
        (&["-m", "block", "-b", "/other=1k", "-n", "/this"], "charged to /this\nbudget-tee: note: block mode will not"),
    ] {
        let ran = wrapped(&[&["-q"], args].concat(), &script);
        assert_eq!((ran.code(), ran.messages()), (Some(0), 1), "{}", ran.err);
        assert!(ran.err.contains(says), "{}", ran.err);
    }
    let ran = run(&["-q", "-m", "block"], assistant("a", 5).as_bytes());
    assert!(ran.err.contains("charged to no command\nbudget-tee: note: block mode"), "{}", ran.err);
    for args in [&["-m", "block", "-l", "1M"][..], &["-b", "/other=1k"]] {
        assert_eq!(wrapped(&[&["-q"], args].concat(), &script).err, "");
    }
}
