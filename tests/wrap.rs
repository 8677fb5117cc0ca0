//! budget-tee around a command, from outside: what it passes on, whom it signals, how it ends.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

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

/// `args`, then a shell that runs `script`.
fn shell<'a>(args: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [args, &["--", "sh", "-c", script]].concat()
}

/// Runs a shell's `script` wrapped, to its end.
fn wrapped(args: &[&str], script: &str) -> Ran {
    run(&shell(args, script), b"")
}

/// The line that trips a limit of 1000, as a shell writes it.
fn trip() -> String {
    format!("echo '{}'", assistant("a", 5000).trim_end())
}

/// A limit that [`trip`] trips, and a short grace.
const BLOCK: &[&str] = &["-q", "-l", "1000", "-m", "block", "-k", "0.3s"];

/// Starts a shell's `script` wrapped, in a session of its own where there is no terminal.
fn start(args: &[&str], script: &str) -> (Child, ChildStdout) {
    // It becomes budget-tee without a fork.
    let mut command = plain("setsid");
    command.arg(env!("CARGO_BIN_EXE_budget-tee")).args(shell(args, script));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let stdout = child.stdout.take().expect("piped");
    (child, stdout)
}

fn pid_in(text: &str) -> Pid {
    let digits: String = text.trim().rsplit(' ').next().unwrap_or_default().into();
    Pid::from_raw(digits.parse().expect("a pid")).expect("a pid")
}

/// Whether a process is there and no zombie.
fn lives(pid: Pid) -> bool {
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
fn the_first_word_that_is_no_option_begins_the_command() {
    let ran = run(&["-q", "echo", "-q", "--limit", "--", "x"], b"");
    assert_eq!(ran.out, b"-q --limit -- x\n");
    let ran = run(&["-q", "--", "printf", "%s\\n", "--help"], b"");
    assert_eq!(ran.out, b"--help\n");
}

#[test]
fn stderr_is_the_commands_own() {
    let ran = wrapped(&["-q"], "echo '{}' ; echo error >&2; exit 3");
    assert_eq!((ran.code(), ran.err.as_str()), (Some(3), "error\n"));
}

#[test]
fn only_three_descriptors_are_open_in_the_command() {
    // The shell that looks has one more open: the folder it reads.
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
fn signals_are_as_a_fresh_process_has_them() {
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
fn the_exit_code_is_the_commands_own() {
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
fn a_command_that_died_of_a_signal_is_followed() {
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10), ("PIPE", 13)] {
        assert_eq!(wrapped(&["-q"], &format!("kill -{name} $$")).status.signal(), Some(number), "{name}");
    }
    // One leaves a core, the other cannot be caught: the code tells.
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
fn an_estimate_that_does_not_fit_starts_nothing() {
    let (ran, facts) = summary(&shell(&["-l", "1k", "-e", "2k", "-m", "block"], "echo started"), b"");
    assert_eq!((ran.code(), ran.out.len(), facts["outcome"].as_str()), (Some(121), 0, Some("refused")));
}

#[test]
fn what_the_command_writes_while_it_ends_is_forwarded_and_counted() {
    let last = assistant("b", 7);
    let script = format!("trap 'echo \"$LAST\"; exit 5' TERM; {}; while :; do sleep 0.01; done", trip());
    let mut command = budget_tee(&shell(&["-q", "-l", "1000", "-m", "block", "--summary", "/dev/stderr"], &script));
    command.env("LAST", last.trim_end());
    let ran = finish(command, b"");
    assert_eq!(ran.code(), Some(122));
    assert_eq!(String::from_utf8_lossy(&ran.out), assistant("a", 5000) + &last);
    assert!(ran.err.contains("\"input\":5007"), "{}", ran.err);
    assert!(ran.err.contains("\"outcome\":\"stopped\",\"exit_code\":122"), "{}", ran.err);
}

#[test]
fn a_trip_ends_the_whole_tree_whatever_it_does() {
    for (what, script) in [
        ("a tool in the background", "sleep 1000 & echo pid $!; TRIP; wait"),
        ("one that ignores TERM", "sh -c \"trap '' TERM; echo pid \\$\\$; $T; while :; do sleep 0.1; done\" & wait"),
        ("one in a session of its own", "setsid sh -c \"echo pid \\$\\$; $T; sleep 1000\" & wait"),
        (
            "one left by its parent",
            "(setsid sh -c \"trap '' TERM; echo pid \\$\\$; $T; while :; do sleep 0.1; done\" &); sleep 1000",
        ),
        (
            "one that is stopped",
            "sh -c \"echo pid \\$\\$; kill -STOP \\$\\$\" & while ! grep -q 'T (stopped)' /proc/$!/status; do :; done; TRIP; wait",
        ),
    ] {
        // The trip comes after the process has said which it is, be it from that process itself.
        let script = format!("T='echo \"$LINE\"'; {}", script.replace("TRIP", "echo \"$LINE\""));
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
        assert!(!lives(pid), "{what}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn a_command_that_ignores_term_is_killed_after_the_grace_and_that_is_said() {
    let ran = wrapped(BLOCK, &format!("trap '' TERM; {}; while :; do sleep 0.1; done", trip()));
    assert_eq!(ran.code(), Some(122));
    assert!(ran.err.contains("has not ended; sent KILL to"), "{}", ran.err);
}

#[test]
fn another_first_signal_is_followed_by_term() {
    let ran = wrapped(
        &[BLOCK, &["-s", "int"]].concat(),
        &format!("trap 'echo int' INT; trap 'echo term; exit' TERM; {}; while :; do sleep 0.05; done", trip()),
    );
    let out = String::from_utf8_lossy(&ran.out).into_owned();
    assert_eq!(ran.code(), Some(122));
    assert!(out.ends_with("int\nterm\n"), "{out}");
    assert!(ran.err.contains("sent TERM"), "{}", ran.err);
    let soft = wrapped(
        &[BLOCK, &["--signal", "SIGINT"]].concat(),
        &format!("trap 'echo result; exit 0' INT; {}; while :; do sleep 0.05; done", trip()),
    );
    assert!(soft.out.ends_with(b"result\n"));
    assert_eq!(soft.code(), Some(122));
}

#[test]
fn a_trip_is_not_late_because_stdout_is_blocked() {
    // The command fills the pipe that nobody reads, trips, and would go on for ever.
    let script = format!("{}; trap 'exit' TERM; while :; do echo filling the pipe; done", trip());
    let began = Instant::now();
    let (mut child, stdout) = start(BLOCK, &script);
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stdout);
}

#[test]
fn a_command_that_ends_in_the_moment_of_the_trip_is_no_error() {
    let ran = wrapped(BLOCK, &trip());
    assert_eq!(ran.code(), Some(122));
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn warn_mode_lets_the_command_end_by_itself() {
    let ran = wrapped(&["-q", "-l", "1000"], &format!("{}; exit 4", trip()));
    assert_eq!(ran.code(), Some(4));
    assert!(ran.err.contains("going on"), "{}", ran.err);
}

#[test]
fn signals_reach_the_command_once_and_its_status_is_the_end() {
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
    // One that comes at once is the same again, as `timeout` sends it; so it is sent until it counts.
    let began = Instant::now();
    let status = loop {
        kill(&child, Signal::TERM);
        if let Some(status) = child.try_wait().expect("known") {
            break status;
        }
    };
    assert_eq!(status.code(), Some(137));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_stopped_command_is_woken_to_be_told() {
    let (mut child, mut stdout) = start(&["-q", "-k", "1h"], "echo pid $$; kill -STOP $$; sleep 1000");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    while !std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).expect("there").contains(") T ") {}
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
}

#[test]
fn without_a_terminal_a_signal_reaches_the_commands_group() {
    let (mut child, mut stdout) = start(&["-q"], "sleep 1000 & echo pid $!; wait; sleep 1000");
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
    while lives(pid) {}
}

#[test]
fn a_term_that_the_command_ignores_is_followed_by_kill_after_the_grace() {
    let (mut child, mut stdout) = start(&["-q", "-k", "0.2s"], "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    read_until(&mut stdout, "ready\n");
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().expect("ends").code(), Some(137));
}

#[test]
fn only_the_commands_own_tree_is_signalled() {
    // As in `budget-tee -- claude | jq`: the reader is in the same job, and lives to read the last line.
    let script = format!("{}; sleep 1000", trip());
    let pipeline = "\"$0\" -q -l 1000 -m block -- sh -c \"$1\" | { cat; echo read to the end; }; echo ${PIPESTATUS[0]}";
    let output = plain("bash")
        .args(["-c", pipeline, env!("CARGO_BIN_EXE_budget-tee"), &script])
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), assistant("a", 5000) + "read to the end\n122\n");
}

#[test]
fn children_from_before_exec_are_left_alone() {
    let script = format!(
        "sleep 1000 & echo pid $!; exec \"$0\" -q -l 1000 -m block -- sh -c \"{}; sleep 1000\"",
        trip().replace('"', "\\\"")
    );
    let mut command = plain("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_budget-tee")]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("starts");
    let pid = pid_in(&read_until(child.stdout.as_mut().expect("piped"), "\n"));
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert!(lives(pid));
    rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
}

#[test]
fn a_pipe_that_something_left_behind_holds_open_is_drained_for_a_while() {
    let began = Instant::now();
    let (mut child, mut stdout) = start(&["-q"], "(setsid sh -c 'echo pid $$; echo last; exec sleep 1000' &); exit 6");
    let pid = pid_in(read_until(&mut stdout, "\n").as_str());
    assert_eq!(child.wait().expect("ends").code(), Some(6));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    // It was not tripped, so nothing that it left behind is its business.
    assert!(lives(pid));
    rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("readable");
    assert_eq!(rest, "last\n");
}

#[test]
fn what_is_left_in_the_pipe_is_written_however_slow_the_reader() {
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
    assert!(child.try_wait().expect("known").is_none());
    kill(&child, Signal::USR1);
    assert_eq!(child.wait().expect("ends").code(), Some(7));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    for writes in ["while :; do sleep 0.1; done", "while :; do echo line; done"] {
        let (reader, writer) = pipe().expect("a pipe");
        let script = format!("exec 2>/dev/null; echo pid $$; trap '' PIPE; {writes}");
        let mut command = budget_tee(&shell(&["-k", "0.2s"], &script));
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        drop(command);
        let mut reader = reader;
        let pid = pid_in(&read_until(&mut reader, "\n"));
        drop(reader);
        let output = child.wait_with_output().expect("ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(141), ""));
        assert!(!lives(pid));
    }
}

#[test]
fn stdout_that_cannot_be_written_ends_the_command() {
    let full = File::options().write(true).open("/dev/full").expect("there");
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
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it is there");
    kill(&child, Signal::KILL);
    assert_eq!(child.wait().expect("ends").signal(), Some(9));
    // Readable once the process has ended.
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).expect("polls"), 1);
}

#[test]
fn what_others_leave_to_it_is_reaped() {
    // The orphan ends while the command goes on: it must not stay a zombie below budget-tee.
    let script = "(sh -c 'echo pid $$; read line </dev/fd/3' 3<&0 &) ; wait; cat; \
                  while ls /proc/$PPID/task/$PPID/children >/dev/null && grep -q ' ' /proc/$PPID/task/$PPID/children && \
                  [ $(wc -w </proc/$PPID/task/$PPID/children) -gt 1 ]; do sleep 0.01; done; exit 8";
    let (mut child, mut stdout) = start(&["-q"], script);
    let pid = pid_in(&read_until(&mut stdout, "\n"));
    child.stdin.take().expect("piped").write_all(b"\n").expect("written");
    assert_eq!(child.wait().expect("ends").code(), Some(8));
    assert!(!lives(pid));
}

#[test]
fn in_a_terminals_group_the_command_stays_and_reads_the_terminal() {
    let (mut ours, theirs) = terminal(80);
    let mut command = plain("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_budget-tee"), "-q", "--", "sh", "-c"]);
    command.arg("read line; echo got $line; cut -d' ' -f5 /proc/$$/stat /proc/$PPID/stat; read line");
    command.stdin(theirs.try_clone().expect("a copy")).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    ours.write_all(b"typed\n").expect("written");
    let seen = read_until(&mut ours, "got typed\r\n");
    assert!(seen.contains("got typed"), "{seen}");
    let groups = read_until(&mut ours, "\n") + &read_until(&mut ours, "\n");
    let groups: Vec<_> = groups.split_ascii_whitespace().collect();
    assert_eq!(groups[0], groups[1], "one process group");
    // The terminal sends Ctrl-C to both; the command dies of it, and budget-tee follows.
    ours.write_all(b"\x03").expect("written");
    assert_eq!(child.wait().expect("ends").signal(), Some(2));
}

#[test]
fn the_stand_in_for_claude_does_what_claude_does() {
    let claude = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/claude");
    let run = |args: &[&str]| {
        let mut command = budget_tee(&[args, &["--", claude]].concat());
        command.env("STREAM", fixture("review.jsonl")).env("SESSION", "").env("PACE", "0.01").env("TOOL", "sleep 1000");
        finish(command, b"")
    };
    let whole = run(&["-q"]);
    assert_eq!((whole.code(), whole.out), (Some(0), bytes("review.jsonl")));
    let hard = run(&["-q", "-l", "20k", "-m", "block"]);
    assert_eq!(hard.code(), Some(122));
    assert!(!String::from_utf8_lossy(&hard.out).contains("\"type\":\"result\""));
    let soft = run(&["-q", "-l", "20k", "-m", "block", "-s", "INT"]);
    assert_eq!(soft.code(), Some(122));
    assert!(String::from_utf8_lossy(&soft.out).contains("\"type\":\"result\""));
}

#[test]
fn many_trips_leave_nothing_behind() {
    let script = format!("sleep 1000 & echo pid $!; setsid sleep 1000 & echo pid $!; {}; wait", trip());
    for _ in 0..20 {
        let (mut child, mut stdout) = start(BLOCK, &script);
        let mut out = String::new();
        stdout.read_to_string(&mut out).expect("readable");
        assert_eq!(child.wait().expect("ends").code(), Some(122));
        let pids: Vec<_> = out.lines().filter(|line| line.starts_with("pid")).map(pid_in).collect();
        assert_eq!(pids.len(), 2, "{out}");
        for pid in pids {
            assert!(!lives(pid));
        }
    }
}

#[test]
fn a_reader_that_is_gone_is_not_asked_for_again_and_again() {
    let (mut reader, writer) = pipe().expect("a pipe");
    let script = "trap '' TERM PIPE; echo ready; while [ ! -e /proc/$PPID/task ]; do :; done; read line";
    let mut command = budget_tee(&shell(&["-q", "-k", "1s"], script));
    let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::null()).spawn().expect("starts");
    drop(command);
    read_until(&mut reader, "ready\n");
    drop(reader);
    // The grace is the time that is looked at: user and system time in ticks of 10 ms.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), rustix::process::PidfdFlags::empty());
    let fd = pidfd.expect("it is there");
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 700_000_000 };
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).expect("polls"), 0, "it waits for the grace");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("there");
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .skip(12)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    assert!(ticks < 20, "{ticks} ticks of the processor");
    assert_eq!(child.wait().expect("ends").code(), Some(141));
}

#[test]
fn a_start_with_chld_ignored_ends_all_the_same() {
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
fn a_summary_that_cannot_be_written_is_a_failure_here_too() {
    let ran = run(&["-q", "--summary", "/dev/full", "--", "true"], b"");
    assert_eq!(ran.code(), Some(125), "{}", ran.err);
    let ran = run(&["-q", "--summary", "/dev/full", "--", "false"], b"");
    assert_eq!(ran.code(), Some(1), "{}", ran.err);
}

#[test]
fn as_the_first_process_of_a_container_it_reaps_passes_on_and_ends() {
    let container = |script: &str| {
        let mut command = plain("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_budget-tee"), "-q", "--"]);
        command.args(["sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    if !container("true").status().is_ok_and(|status| status.success()) {
        let note: &[u8] = b"skipped: no namespaces here\n";
        std::io::stderr().write_all(note).expect("stderr takes a note");
        return;
    }
    // An orphan that has ended is no zombie below it for long.
    let orphan = "(sh -c 'exit 7' &); until ! grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; exit 5";
    assert_eq!(container(orphan).status().expect("runs").code(), Some(5));
    // TERM reaches the command; the first process cannot die of a signal, so that the code tells.
    let mut child = container("trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done").spawn().expect("starts");
    read_until(child.stdout.as_mut().expect("piped"), "ready\n");
    let inner = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("there");
    rustix::process::kill_process(pid_in(&inner), Signal::TERM).expect("it is there");
    assert_eq!(child.wait().expect("ends").code(), Some(6));
    assert_eq!(container("kill -TERM $$").status().expect("runs").code(), Some(143));
}

#[test]
fn a_window_that_is_closed_ends_the_command_and_budget_tee() {
    let (ours, theirs) = terminal(80);
    // A test that was itself started with nohup has HUP ignored.
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
    assert!(!lives(pid));
}

#[test]
fn a_closed_window_leaves_the_command_the_time_to_end_by_itself() {
    let (mut ours, theirs) = terminal(80);
    let mut command = plain("env");
    command.args(["--default-signal=HUP", "setsid", "--ctty", env!("CARGO_BIN_EXE_budget-tee"), "-q"]);
    command.args(shell(&[], "trap 'sleep 0.2; exit 7' HUP; echo ready; while :; do sleep 0.02; done"));
    command.stdin(theirs.try_clone().expect("a copy")).stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let mut child = command.spawn().expect("starts");
    drop(command);
    read_until(&mut ours, "ready");
    drop(ours);
    assert_eq!(child.wait().expect("ends").code(), Some(7));
}

/// A result line, as a shell writes it.
const RESULT: &str = "echo '{\"type\":\"result\",\"session_id\":\"s\",\"usage\":{\"input_tokens\":1}}'";

#[test]
fn a_command_that_stays_after_its_result_line_is_ended_where_that_is_wanted() {
    let ran = wrapped(&["-q", "--linger", "0.1s"], &format!("{RESULT}; exec sleep 60"));
    assert_eq!(ran.code(), Some(0), "{}", ran.err);
    assert!(ran.err.contains("has not ended after its result record"), "{}", ran.err);
    // One with an exit code of its own keeps it.
    let script = format!("trap 'exit 7' TERM; {RESULT}; while :; do sleep 0.01; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s"], &script).code(), Some(7));
    // What comes then and is no turn changes nothing; and a signal of choice is one too.
    let noise = "echo '{\"type\":\"system\",\"subtype\":\"task_notification\",\"usage\":{},\"x\":\"\\u0065\"}'";
    let script = format!("trap 'exit 130' INT; {RESULT}; {noise}; while :; do sleep 0.01; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s", "-s", "INT"], &script).code(), Some(0));
    // What it started goes with it, and what does not end is killed.
    let script = format!("trap '' TERM; {RESULT}; while :; do sleep 60; done");
    assert_eq!(wrapped(&["-q", "--linger", "0.1s", "-k", "0.1s"], &script).code(), Some(0));
}

#[test]
fn a_command_that_goes_on_after_a_result_line_is_left_alone() {
    let next = format!("echo '{}'", assistant("a", 1).trim_end());
    let ran = wrapped(&["-q", "--linger", "0.1s"], &format!("{RESULT}; {next}; sleep 0.5; exit 5"));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(5), ""));
    let ran = wrapped(&["-q", "--linger", "60s"], &format!("{RESULT}; exit 6"));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(6), ""));
}
