//! Tests of hooks, the commands of `--on-warn` and `--on-exceed`.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Ran, assistant, budget_tee, bytes, finish, kill, plain, read_until, run};
use rustix::process::Signal;
use tempfile::TempDir;

/// A hook that appends the variables it was given to a file.
const LOG: &str = "echo \"$BUDGET_TEE_BUDGET_NAME $BUDGET_TEE_BUDGET_UNIT $BUDGET_TEE_BUDGET_USED \
                    $BUDGET_TEE_BUDGET_LIMIT $BUDGET_TEE_BUDGET_PERCENT $BUDGET_TEE_BUDGET_REASON\" >>told";

fn stream() -> String {
    (0..10).map(|n| assistant(&format!("m{n}"), 1000)).collect()
}

/// Runs budget-tee in a folder of its own, and returns what the hooks wrote to the file `told` there.
fn run_logged(args: &[&str], input: &[u8]) -> (Ran, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = budget_tee(args);
    command.current_dir(&folder);
    let ran = finish(command, input);
    (ran, std::fs::read_to_string(folder.path().join("told")).unwrap_or_default())
}

#[test]
fn each_exceeded_budget_runs_its_hook_once() {
    let args = ["-q", "-l", "6k", "-b", "/a=4k", "-b", "/b=1", "-n", "/a", "--warn-at", "50"];
    let (ran, log) = run_logged(&[&args[..], &["--on-warn", LOG, "--on-exceed", LOG]].concat(), stream().as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), stream().as_bytes()));
    let mut log: Vec<_> = log.lines().collect();
    log.sort_unstable();
    // Whether a budget is near its limit before it is exceeded depends on how the input is split into reads.
    log.retain(|line| line.ends_with("exceeded"));
    assert_eq!(log, ["/a tokens 5000 4000 125 exceeded", "overall tokens 7000 6000 117 exceeded"]);
}

#[test]
fn hooks_distinguish_near_and_exceeded() {
    let (_, near) = run_logged(&["-q", "-l", "19k", "--warn-at", "50", "--on-warn", LOG], stream().as_bytes());
    assert_eq!(near, "overall tokens 10000 19000 52 near\n");
    let (_, none) = run_logged(&["-q", "-l", "20k", "--warn-at", "50", "--on-warn", LOG], stream().as_bytes());
    assert_eq!(none, "");
    let block = ["-q", "-l", "2000", "-m", "block", "--on-exceed", LOG];
    let (ran, exceeded) = run_logged(&block, stream().as_bytes());
    assert_eq!((ran.code(), exceeded.as_str()), (Some(122), "overall tokens 3000 2000 150 exceeded\n"));
}

#[test]
fn hooks_get_dollars_for_a_budget_in_dollars() {
    let (_, log) = run_logged(&["-q", "-l", "0.02usd", "--on-exceed", LOG], &bytes("review.jsonl"));
    let words: Vec<_> = log.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3], words[5]), ("overall", "usd", "0.02", "exceeded"), "{log}");
    assert!(words[2].parse::<f64>().is_ok_and(|used| used > 0.02 && used < 0.04), "{log}");
}

#[test]
fn hook_output_goes_to_stderr_and_a_failed_hook_is_a_warning() {
    for wrap in [false, true] {
        let script = format!("printf '%s' '{}'", stream());
        let args = ["-q", "-l", "1k", "--on-exceed", "echo printed; exit 3"];
        let ran = match wrap {
            false => run(&args, stream().as_bytes()),
            true => run(&[&args[..], &["--", "sh", "-c", &script]].concat(), b""),
        };
        assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), stream().as_bytes()));
        assert!(ran.err.contains("printed\n"), "{}", ran.err);
        assert!(ran.err.contains("the command of --on-exceed failed with exit code 3"), "{}", ran.err);
    }
}

/// Starts budget-tee in `folder`, with pipes.
fn start(folder: &TempDir, args: &[&str]) -> Child {
    let mut command = budget_tee(args);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("starts")
}

/// Makes a FIFO that a hook can wait on.
fn fifo(folder: &Path) {
    let made = Command::new("mkfifo").arg(folder.join("fifo")).status().expect("runs");
    assert!(made.success());
}

#[test]
fn a_hook_does_not_delay_the_stream_and_survives_a_stop() {
    let exceed = format!("printf '%s' '{}'; exec sleep 60", assistant("a", 5000));
    for command in [&[][..], &["--", "sh", "-c", &exceed]] {
        let folder = tempfile::tempdir().expect("a folder");
        fifo(folder.path());
        let args = ["-q", "-l", "1k", "-m", "block", "--on-exceed", "read line <fifo; echo \"$line\" >told"];
        let mut child = start(&folder, &[&args[..], command].concat());
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
        let mut out = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("end of file");
        assert_eq!(out, assistant("a", 5000));
        // The stream has ended, and the hook still waits.
        File::create(folder.path().join("fifo")).expect("the hook reads").write_all(b"read\n").expect("written");
        assert_eq!(child.wait().expect("ends").code(), Some(122));
        assert_eq!(std::fs::read_to_string(folder.path().join("told")).expect("readable"), "read\n");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_hook() {
    for command in [&[][..], &["--", "cat"]] {
        let folder = tempfile::tempdir().expect("a folder");
        fifo(folder.path());
        let mut child = start(&folder, &[&["-q", "-l", "1k", "--on-exceed", "read line <fifo"], command].concat());
        child.stdin.take().expect("piped").write_all(assistant("a", 5000).as_bytes()).expect("written");
        let mut out = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("end of file");
        kill(&child, Signal::TERM);
        // A command that had already ended keeps its own exit code.
        let status = child.wait().expect("ends");
        assert!(status.signal() == Some(15) || status.code() == Some(0), "{status}");
        // The hook still waits; let it end.
        File::create(folder.path().join("fifo")).expect("the hook reads").write_all(b"go\n").expect("written");
        let mut err = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut err).expect("end of file");
        assert!(!err.contains("still running"), "it was not waited for: {err}");
    }
}

#[test]
fn a_failed_hook_is_reported_while_the_stream_is_idle_even_if_sigchld_is_ignored() {
    let mut command = plain("env");
    command.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_budget-tee"), "-q", "-l", "1k", "--on-exceed", "exit 3"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
    read_until(child.stderr.as_mut().expect("piped"), "the command of --on-exceed failed with exit code 3\n");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}
