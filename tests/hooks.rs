//! The commands of `--on-warn` and `--on-exceed`, from outside.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Ran, assistant, budget_tee, bytes, finish, kill, plain, read_until, run};
use rustix::process::Signal;
use tempfile::TempDir;

/// What a hook does that writes down what it was told.
const TELL: &str = "echo \"$BUDGET_TEE_BUDGET_NAME $BUDGET_TEE_BUDGET_UNIT $BUDGET_TEE_BUDGET_USED \
                    $BUDGET_TEE_BUDGET_LIMIT $BUDGET_TEE_BUDGET_PERCENT $BUDGET_TEE_BUDGET_REASON\" >>told";

fn stream() -> String {
    (0..10).map(|n| assistant(&format!("m{n}"), 1000)).collect()
}

/// Runs it in a folder of its own, and returns what hooks wrote to the file `told` there.
fn told(args: &[&str], input: &[u8]) -> (Ran, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = budget_tee(args);
    command.current_dir(&folder);
    let ran = finish(command, input);
    (ran, std::fs::read_to_string(folder.path().join("told")).unwrap_or_default())
}

#[test]
fn each_budget_runs_each_of_its_hooks_once() {
    let args = ["-q", "-l", "6k", "-b", "/a=4k", "-b", "/b=1", "-n", "/a", "--warn-at", "50"];
    let (ran, told) = told(&[&args[..], &["--on-warn", TELL, "--on-exceed", TELL]].concat(), stream().as_bytes());
    assert_eq!((ran.code(), ran.out.as_slice()), (Some(0), stream().as_bytes()));
    let mut told: Vec<_> = told.lines().collect();
    told.sort_unstable();
    // All of it came in one read, so that nothing was only near its limit; or in several.
    told.retain(|line| line.ends_with("exceeded"));
    assert_eq!(told, ["/a tokens 5000 4000 125 exceeded", "overall tokens 7000 6000 117 exceeded"]);
}

#[test]
fn near_and_exceeded_are_told_apart() {
    let (_, near) = told(&["-q", "-l", "19k", "--warn-at", "50", "--on-warn", TELL], stream().as_bytes());
    assert_eq!(near, "overall tokens 10000 19000 52 near\n");
    let (_, none) = told(&["-q", "-l", "20k", "--warn-at", "50", "--on-warn", TELL], stream().as_bytes());
    assert_eq!(none, "");
    let block = ["-q", "-l", "2000", "-m", "block", "--on-exceed", TELL];
    let (ran, exceeded) = told(&block, stream().as_bytes());
    assert_eq!((ran.code(), exceeded.as_str()), (Some(122), "overall tokens 3000 2000 150 exceeded\n"));
}

#[test]
fn dollars_are_told_as_dollars() {
    let (_, told) = told(&["-q", "-l", "0.02usd", "--on-exceed", TELL], &bytes("review.jsonl"));
    let words: Vec<_> = told.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[3], words[5]), ("overall", "usd", "0.02", "exceeded"), "{told}");
    assert!(words[2].parse::<f64>().is_ok_and(|used| used > 0.02 && used < 0.04), "{told}");
}

#[test]
fn what_a_hook_prints_goes_to_stderr_and_its_failure_is_a_warning() {
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

/// Starts it in `folder`, with pipes.
fn start(folder: &TempDir, args: &[&str]) -> Child {
    let mut command = budget_tee(args);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("starts")
}

/// Makes a FIFO, which a hook can wait for.
fn fifo(folder: &Path) {
    let made = Command::new("mkfifo").arg(folder.join("fifo")).status().expect("runs");
    assert!(made.success());
}

#[test]
fn the_stream_does_not_wait_for_a_hook_nor_a_trip_end_it() {
    let trip = format!("printf '%s' '{}'; exec sleep 60", assistant("a", 5000));
    for command in [&[][..], &["--", "sh", "-c", &trip]] {
        let folder = tempfile::tempdir().expect("a folder");
        fifo(folder.path());
        let args = ["-q", "-l", "1k", "-m", "block", "--on-exceed", "read line <fifo; echo \"$line\" >told"];
        let mut child = start(&folder, &[&args[..], command].concat());
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
        let mut out = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("its end");
        assert_eq!(out, assistant("a", 5000));
        // The stream has ended, and the hook waits still.
        File::create(folder.path().join("fifo")).expect("it reads").write_all(b"read\n").expect("written");
        assert_eq!(child.wait().expect("ends").code(), Some(122));
        assert_eq!(std::fs::read_to_string(folder.path().join("told")).expect("told"), "read\n");
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
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("its end");
        kill(&child, Signal::TERM);
        // A command that had ended by itself has its own exit code.
        let status = child.wait().expect("ends");
        assert!(status.signal() == Some(15) || status.code() == Some(0), "{status}");
        // The hook waits still, and is let go.
        File::create(folder.path().join("fifo")).expect("it reads").write_all(b"go\n").expect("written");
        let mut err = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut err).expect("its end");
        assert!(!err.contains("goes on"), "it was not waited for: {err}");
    }
}

#[test]
fn a_failure_is_told_while_the_stream_rests_also_where_ended_children_are_not_told() {
    let mut command = plain("env");
    command.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_budget-tee"), "-q", "-l", "1k", "--on-exceed", "exit 3"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
    read_until(child.stderr.as_mut().expect("piped"), "the command of --on-exceed failed with exit code 3\n");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}
