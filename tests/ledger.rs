//! Tests of budgets shared in a ledger file: concurrent runs, killed runs, damaged files.

#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
#[macro_use]
#[path = "harness/sharing.rs"]
mod sharing;
#[path = "harness/threads.rs"]
mod threads;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use budget_tee::count::tokens::Classes;
use budget_tee::ledger::book::Book;
use harness::{NO_SPEND, assistant, kill, read_until, run, terminal};
use proptest::prelude::*;
use rustix::fs::OFlags;
use rustix::process::Signal;
use serde_json::Value;
use sharing::{counted, run_with, status, wait_for, waiting, with};

/// A temporary folder, and the path of a ledger in it.
fn ledger() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spend.ndjson");
    (folder, path)
}

shared_ledger_tests!(Some(ledger()));

#[test]
fn concurrent_runs_add_up_exactly() {
    let (_folder, path) = ledger();
    let children: Vec<_> = (1..=64)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || {
                let input: String = (0..n).map(|m| assistant(&format!("m{m}"), 1000 + n)).collect();
                run_with(&path, &["-q"], &input)
            })
        })
        .collect();
    let mut missing = 0;
    for child in children {
        let ran = child.join().expect("joins");
        assert_eq!(ran.code(), Some(0));
        // On a busy machine a run may not get the lock in the time that it waits; it says what is missing.
        let told =
            ran.err.split_once(" tokens of this run are not in it").and_then(|(before, _)| before.rsplit(' ').next());
        missing += told.map_or(0, |number| number.parse().expect("a number"));
    }
    let want: u64 = (1..=64).map(|n| n * (1000 + n)).sum();
    assert_eq!(counted(&path) + missing, want);
    let files = std::fs::read_dir(path.parent().expect("a folder")).expect("readable").count();
    assert_eq!(files, 2, "the ledger and its lock");
}

#[test]
fn a_reservation_ends_with_its_process() {
    let (_folder, path) = ledger();
    let args = ["-q", "-l", "1000", "-e", "600", "-m", "block"];
    let mut first = waiting(&path, &args);
    let (facts, _) = status(&path, &["-l", "1000"]);
    assert_eq!((&facts["reserved"], facts["alive"].as_array().map(Vec::len)), (&600.into(), Some(1)));
    assert_eq!(run_with(&path, &args, "").code(), Some(121));
    kill(&first.child, Signal::KILL);
    first.child.wait().expect("ends");
    assert_eq!(status(&path, &["-l", "1000"]).0["reserved"], 0);
    assert_eq!(run_with(&path, &args, NO_SPEND).code(), Some(0));
}

#[test]
fn a_run_that_others_stop_in_mid_line_forwards_that_line_whole() {
    // Node and others leave O_NONBLOCK on a pipe that they share.
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let (_folder, path) = ledger();
        let block = ["-q", "-l", "10k", "-m", "block", "-e", "0"];
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        rustix::fs::fcntl_setfl(&reader, flags).expect("set");
        let mut command = with(&path, &block);
        let mut child = command.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        drop(command);
        let mut stdout = child.stdout.take().expect("piped");
        writer.write_all(b"{\"type\":").expect("written");
        read_until(&mut stdout, "{\"type\":");
        assert_eq!(run_with(&path, &block, &assistant("a", 20_000)).code(), Some(122));
        let err = read_until(child.stderr.as_mut().expect("piped"), "exceeded");
        // Where the line is cut, the pipe has no reader by now.
        let _ = writer.write_all(b"\"x\"}\nnot this");
        let output = child.wait_with_output().expect("ends");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("readable");
        assert_eq!((output.status.code(), rest.as_str()), (Some(122), "\"x\"}\n"), "{flags:?}");
        let err = err + &String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("cut"), "{err}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_ledger_at_the_end() {
    for command in [&[][..], &["--", "cat"]] {
        let (folder, path) = ledger();
        let is_filter = command.is_empty();
        let mut command = with(&path, &[&["-q"], command].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        stdin.write_all(NO_SPEND.as_bytes()).expect("written");
        read_until(&mut stdout, "\n");
        let lock = File::open(folder.path().join("spend.ndjson.lock")).expect("a lock");
        lock.lock().expect("free");
        drop(stdin);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("the end of the stream");
        let began = Instant::now();
        // One that comes before the command was reaped is passed on to it.
        let status = loop {
            if let Some(status) = child.try_wait().expect("a status") {
                break status;
            }
            kill(&child, Signal::INT);
        };
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // The command's own code, where it had the signal passed on and was ending by itself.
        let is_commands = !is_filter && status.code() == Some(0);
        assert!(status.signal() == Some(2) || is_commands, "{status:?}");
    }
}

#[test]
fn a_hook_that_the_last_look_at_the_ledger_calls_for_is_waited_for() {
    let (folder, path) = ledger();
    let told = folder.path().join("told");
    let hook = format!("sleep 0.05; echo told >'{}'", told.display());
    let run = waiting(&path, &["-q", "-l", "10k", "-e", "0", "--on-exceed", &hook]);
    assert_eq!(run_with(&path, &["-q"], &assistant("a", 20_000)).code(), Some(0));
    assert_eq!(run.end(), Some(0));
    assert_eq!(std::fs::read_to_string(told).expect("the hook has ended"), "told\n");
}

#[test]
fn two_runs_that_only_together_exceed_a_budget_do_not_both_complete() {
    let (_folder, path) = ledger();
    let block = ["-q", "-l", "10k", "-m", "block", "-e", "0"];
    for _ in 0..20 {
        let _ = std::fs::remove_file(&path);
        let both = [(); 2].map(|()| {
            let path = path.clone();
            std::thread::spawn(move || run_with(&path, &block, &assistant("a", 6000)).code())
        });
        let codes = both.map(|run| run.join().expect("joins"));
        assert!(codes.contains(&Some(122)), "{codes:?}");
    }
}

/// An entry as another run would have written it.
fn entry(run: &str, at: f64, tokens: u64) -> String {
    format!(
        "{{\"v\":1,\"at\":{at},\"run\":\"{run}\",\"name\":\"/a\",\"kind\":\"end\",\"models\":{{\"m\":{{\"input\":{tokens}}}}}}}\n"
    )
}

fn now() -> f64 {
    budget_tee::ledger::worker::unix_now()
}

#[test]
fn with_a_window_only_recent_usage_counts() {
    let (_folder, path) = ledger();
    let old = entry("x", now() - 7200.0, 9000) + &entry("y", now() - 60.0, 500);
    std::fs::write(&path, old).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    let args = ["-q", "-l", "1000", "-e", "500", "-m", "block"];
    assert_eq!(run_with(&path, &args, "").code(), Some(121));
    assert_eq!(run_with(&path, &[&args[..], &["--window", "1h"]].concat(), NO_SPEND).code(), Some(0));
    let (facts, _) = status(&path, &["-l", "400", "-w", "1h"]);
    assert_eq!((&facts["counted"], &facts["budgets"][0]["remaining"]), (&500.into(), &0.into()));
    let room = facts["budgets"][0]["room_in_seconds"].as_f64().expect("a number");
    assert!((3500.0..3541.0).contains(&room), "{room}");
    let text = String::from_utf8(run_with(&path, &["--status", "-l", "400", "-w", "1h"], "").out).expect("UTF-8");
    assert!(text.contains("room again in 5"), "{text}");
}

#[test]
fn entries_dated_in_the_future_still_count() {
    let (_folder, path) = ledger();
    std::fs::write(&path, entry("x", now() + 1e6, 9000)).expect("written");
    assert_eq!(counted(&path), 9000);
    assert_eq!(status(&path, &["-w", "1h"]).0["counted"], 9000);
}

#[test]
fn a_damaged_line_loses_only_its_own_entry() {
    let whole = entry("x", 1.0, 5) + &entry("y", 1.0, 7);
    let cut = &whole[..whole.len() - 30];
    for (text, want) in [
        (format!("{}garbage\n{}", entry("x", 1.0, 5), entry("y", 1.0, 7)), 12),
        (cut.to_owned(), 5),
        (format!("{}{}", entry("x", 1.0, 5), "\0".repeat(500)), 5),
        (format!("{}\0\0\0\0\n{}", entry("x", 1.0, 5), entry("y", 1.0, 7)), 12),
        (format!("{}\n\n{}", entry("x", 1.0, 5), entry("y", 1.0, 7)), 12),
        (whole.repeat(2), 12),
    ] {
        let (_folder, path) = ledger();
        std::fs::write(&path, text).expect("written");
        let ran = run_with(&path, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 100));
        assert_eq!(ran.code(), Some(0), "{}", ran.err);
        assert!(ran.messages() <= 1, "{}", ran.err);
        assert_eq!(counted(&path), want + 100, "a new run writes to a new line");
    }
}

#[test]
fn entries_of_a_newer_version_fail_closed_and_are_kept() {
    let (_folder, path) = ledger();
    let newer = "{\"v\":2,\"something\":\"else\"}\n";
    std::fs::write(&path, newer).expect("written");
    let ran = run_with(&path, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 100));
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
    assert!(ran.err.contains("newer budget-tee"), "{}", ran.err);
    let ran = run_with(&path, &["-q", "-l", "1M"], &assistant("a", 100));
    assert_eq!((ran.code(), ran.messages()), (Some(0), 1), "{}", ran.err);
    assert!(std::fs::read_to_string(&path).expect("readable").starts_with(newer));
}

#[test]
fn an_unusable_ledger_is_refused_in_block_mode_and_ignored_in_warn_mode() {
    let (folder, path) = ledger();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("file"), "").expect("written");
    symlink(at("file"), at("symlink")).expect("made");
    symlink(at("nowhere"), at("dangling")).expect("made");
    std::fs::create_dir(at("folder")).expect("made");
    let fifo = Command::new("mkfifo").arg(at("fifo")).status().expect("runs");
    assert!(fifo.success());
    symlink(at("file"), at("lock-is-a-symlink.lock")).expect("made");
    let mut cases = vec![
        (at("symlink"), "symlink"),
        (at("dangling"), "symlink"),
        (at("folder"), "directory"),
        (at("fifo"), "not a regular file"),
        (at("missing/ledger"), "No such file"),
        (at("lock-is-a-symlink"), "symlink"),
    ];
    if rustix::process::geteuid().is_root() {
        std::fs::write(at("other"), "").expect("written");
        std::os::unix::fs::chown(at("other"), Some(1), None).expect("root may change the owner");
        cases.push((at("other"), "another user"));
    }
    for (path, word) in cases {
        let input = assistant("a", 100);
        let ran = run_with(&path, &["-q", "-l", "1M", "-m", "block"], &input);
        assert_eq!((ran.code(), ran.out.len()), (Some(125), 0), "{word}");
        let prefix = format!("ledger {}", path.display());
        assert!(
            ran.err.contains(&prefix) && ran.err.to_lowercase().contains(&word.to_lowercase()),
            "{word}: {}",
            ran.err
        );
        let ran = run_with(&path, &["-q", "-l", "1M"], &input);
        assert_eq!(ran.messages(), 1, "{}", ran.err);
        assert_eq!((ran.code(), ran.out), (Some(0), input.into_bytes()), "{word}");
    }
    assert!(!at("nowhere").exists() && !at("missing").exists());
    drop(path);
}

#[test]
fn ledger_files_are_private_to_their_user() {
    ["0", "0777", "0277"].into_iter().for_each(private_with_umask);
}

fn private_with_umask(umask: &str) {
    let (folder, path) = ledger();
    let mut shell = harness::plain("sh");
    shell.args(["-c", "umask $2; exec \"$0\" -q -L \"$1\"", env!("CARGO_BIN_EXE_budget-tee")]).arg(&path).arg(umask);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    child.stdin.as_mut().expect("piped").write_all(b"{}\n").expect("written");
    read_until(child.stdout.as_mut().expect("piped"), "{}\n");
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").filter_map(Result::ok).collect();
    assert_eq!(files.len(), 3, "the ledger, its lock and the file of the run");
    for file in files {
        assert_eq!(file.metadata().expect("exists").mode() & 0o777, 0o600, "{:?}", file.path());
    }
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn looking_at_the_status_never_makes_a_start_fail() {
    let (_folder, path) = ledger();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let going = || !stop.load(std::sync::atomic::Ordering::SeqCst);
    let args = ["-q", "-l", "1000", "-e", "1000", "-m", "block"];
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while going() {
                    status(&path, &[]);
                }
            });
        }
        let codes: Vec<_> = (0..40)
            .map(|_| {
                // A run that has died: who looks and who starts both find out that nobody holds its lock.
                let mut dead = waiting(&path, &["-q"]);
                kill(&dead.child, Signal::KILL);
                dead.child.wait().expect("ends");
                run_with(&path, &args, NO_SPEND).code()
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(codes, [Some(0); 40]);
    });
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_left_as_it_is() {
    for text in ["Dear diary\n", "\n", "[]", "{\"type\":\"result\"}\n", "\0\0\0\0", &"x".repeat(10_000)] {
        let (folder, path) = ledger();
        std::fs::write(&path, text).expect("written");
        for args in [&["-q"][..], &["-l", "1M", "-m", "block"], &["--status"], &["--status", "--json"]] {
            let ran = run_with(&path, args, &assistant("a", 100));
            assert_eq!((ran.code(), ran.out.len()), (Some(125), 0), "{text:?}: {}", ran.err);
            assert!(ran.err.contains("its first line is not a ledger record"), "{}", ran.err);
        }
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), text);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
    // A ledger whose very first write was cut short by a full disk goes on.
    let (_folder, path) = ledger();
    std::fs::write(&path, "{\"v\":1,\"at\":17").expect("written");
    assert_eq!(run_with(&path, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 100)).code(), Some(0));
    assert_eq!(counted(&path), 100);
}

#[test]
fn a_run_goes_on_in_a_new_ledger_with_its_reservation_where_all_files_are_removed() {
    let (folder, path) = ledger();
    let mut run = waiting(&path, &["-q", "-l", "1000", "-e", "600", "-m", "block"]);
    run.pass(&assistant("a", 50));
    wait_for(&path, 50);
    for file in ["spend.ndjson", "spend.ndjson.lock"] {
        std::fs::remove_file(folder.path().join(file)).expect("removed");
    }
    // Without spending anything more; the lock of the others is its own, too.
    wait_for(&path, 50);
    assert_eq!(status(&path, &["-l", "1000"]).0["reserved"], 550);
    let other = ["-q", "-l", "1000", "-m", "block", "-e"];
    assert_eq!(run_with(&path, &[&other[..], &["401"]].concat(), "").code(), Some(121));
    assert_eq!(run_with(&path, &[&other[..], &["400"]].concat(), &assistant("b", 7)).code(), Some(0));
    let lock = File::open(path.with_extension("ndjson.lock")).expect("exists");
    lock.lock().expect("locked");
    run.pass(&assistant("c", 5));
    assert_eq!(counted(&path), 57, "whoever holds the new lock keeps the old run from writing");
    drop(lock);
    wait_for(&path, 62);
    assert_eq!(run.end(), Some(0));
    assert_eq!(counted(&path), 62);
}

#[test]
fn a_lock_held_by_another_process_does_not_delay_the_stream() {
    let (_folder, path) = ledger();
    let mut first = waiting(&path, &["-q", "-l", "1M"]);
    let lock = File::open(path.with_extension("ndjson.lock")).expect("exists");
    lock.lock().expect("locked");
    let began = Instant::now();
    for n in 0..20 {
        first.pass(&assistant(&format!("m{n}"), 10));
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // A new run waits five seconds for the lock.
    let ran = run_with(&path, &["-q", "-l", "1M", "-m", "block"], "");
    assert_eq!(ran.code(), Some(125));
    assert!(ran.err.contains("cannot lock ledger") && ran.err.contains("5 s"), "{}", ran.err);
    drop(lock);
    assert_eq!(first.end(), Some(0));
    assert_eq!(counted(&path), 200);
}

#[test]
fn usage_missing_from_the_ledger_is_reported_at_the_end() {
    let (_folder, path) = ledger();
    let mut command = with(&path, &["-q"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    stdin.write_all(b"{}\n").expect("written");
    read_until(&mut stdout, "\n");
    let lock = File::open(path.with_extension("ndjson.lock")).expect("exists");
    lock.lock().expect("locked");
    stdin.write_all(assistant("a", 77).as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("77 tokens of this run are not in the ledger"), "{err}");
}

/// budget-tee with a ledger on a disk that takes 6 s for each lock from the first record on; none if strace is
/// not installed.
fn hung(path: &Path, args: &[&str]) -> Option<Command> {
    if !harness::has("strace") {
        return None;
    }
    let mut command = harness::plain("strace");
    // The start takes the lock, that of the run, and gives the first back.
    command.args(["-f", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:delay_enter=6000000:when=4+"]);
    command.arg(env!("CARGO_BIN_EXE_budget-tee")).arg("-L").arg(path).args(args);
    Some(command)
}

#[test]
fn a_hung_ledger_delays_neither_the_stream_nor_a_signal() {
    // INT lets a filter read on until its writer has ended.
    for signal in ["TERM", "HUP"] {
        let (_folder, path) = ledger();
        let Some(mut command) = hung(&path, &["-q", "-l", "1M"]) else { return };
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("starts");
        let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let began = Instant::now();
        for n in 0..20 {
            stdin.write_all(assistant(&format!("m{n}"), 10).as_bytes()).expect("written");
            read_until(&mut stdout, "\n");
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let sent = Instant::now();
        let name = format!("-{signal}");
        assert!(Command::new("pkill").args([&name, "-P", &child.id().to_string()]).status().expect("runs").success());
        let message = read_until(child.stderr.as_mut().expect("piped"), "in the ledger\n");
        // strace itself waits for the call that it delays; the last word comes before that.
        assert!(sent.elapsed() < Duration::from_millis(500), "{:?}", sent.elapsed());
        assert!(message.contains("no answer yet\nbudget-tee: note: 200 tokens of this run are not"), "{message}");
        child.kill().expect("ends");
        child.wait().expect("ends");
    }
}

#[test]
fn a_hung_ledger_does_not_hold_up_the_kill_timer() {
    let (_folder, path) = ledger();
    let script = format!("trap '' TERM; echo '{}'; while :; do sleep 1; done", assistant("a", 500).trim_end());
    let Some(mut command) = hung(&path, &["-l", "100", "-m", "block", "-k", "0.3s", "--", "sh", "-c", &script]) else {
        return;
    };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let stderr = child.stderr.as_mut().expect("piped");
    read_until(stderr, "exceeded");
    let began = Instant::now();
    read_until(stderr, "sent KILL");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    child.kill().expect("ends");
    child.wait().expect("ends");
}

#[test]
fn disk_errors_cause_warnings_and_lose_no_byte() {
    if !harness::has("strace") {
        return;
    }
    let input = assistant("a", 100) + &assistant("b", 100);
    for call in ["openat", "pread64", "write", "flock", "statx", "unlink"] {
        for error in ["ENOSPC", "EIO", "EACCES"] {
            for when in ["1", "2", "3+"] {
                let (_folder, path) = ledger();
                std::fs::write(&path, entry("x", 1.0, 5)).expect("written");
                for mode in ["warn", "block"] {
                    let mut command = harness::plain("strace");
                    command.args(["-f", "-o", "/dev/null", "-P"]).arg(&path);
                    command.arg("-P").arg(path.with_extension("ndjson.lock"));
                    command.args(["-e", &format!("trace={call}"), "-e"]);
                    command.arg(format!("inject={call}:error={error}:when={when}"));
                    command.arg(env!("CARGO_BIN_EXE_budget-tee")).args(["-q", "-l", "1M", "-m", mode, "-L"]).arg(&path);
                    let ran = harness::finish(command, input.as_bytes());
                    let what = format!("{call} {error} {when} {mode}: {}", ran.err);
                    let refused = mode == "block" && ran.code() == Some(125) && ran.out.is_empty();
                    assert!(refused || (ran.code() == Some(0) && ran.out == input.as_bytes()), "{what}");
                    // A ledger that cannot be written may also be reported as incomplete at the end.
                    assert!(ran.messages() <= 2 && !ran.err.contains("panicked"), "{what}");
                }
            }
        }
    }
}

#[test]
fn old_entries_are_compacted_while_other_runs_write() {
    let (_folder, path) = ledger();
    let mut text = String::new();
    for n in 0..60_000u32 {
        text += &entry(&format!("{n:016x}"), now() - f64::from(n % 5000), 3);
    }
    std::fs::write(&path, &text).expect("written");
    let mut other = waiting(&path, &["-q"]);
    other.pass(&assistant("a", 50));
    wait_for(&path, 180_050);
    let recent = |path: &Path| status(path, &["-w", "30m"]).0["counted"].as_u64().expect("a number");
    let before = recent(&path);
    // The ledger was compacted when `other` started. `other` and later runs continue to write to it.
    assert!(std::fs::metadata(&path).expect("exists").len() < 100_000);
    assert_eq!(run_with(&path, &["-q"], &assistant("b", 7)).code(), Some(0));
    other.pass(&assistant("c", 60));
    assert_eq!(other.end(), Some(0));
    assert_eq!(counted(&path), 180_117);
    assert!(recent(&path).abs_diff(before + 67) <= 3 * 60, "the window is accurate to a minute");
    let entries = std::fs::read_to_string(&path).expect("readable");
    assert!(entries.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn the_marks_of_threads_survive_a_compaction() {
    let (_folder, path) = ledger();
    let mut text = String::new();
    for n in 0..20_000u32 {
        let entry = entry(&format!("{n:016x}{}", "x".repeat(200)), now() - f64::from(n), 3);
        let threads = format!("\"threads\":{{\"t{n}\":{{\"input\":{n}}}}},\"models\"");
        // Half of them by a program that did not know threads yet.
        text += &if n % 2 == 0 { entry.replace("\"models\"", &threads) } else { entry };
    }
    // A run under way, whose entry is kept, has an older mark of a thread that another run has resumed.
    let mut open = waiting(&path, &["-q"]);
    open.pass(&threads::process(threads::THREAD, &[]));
    open.pass(&threads::turn([100, 0, 0]));
    wait_for(&path, 100);
    let mark = format!("\"threads\":{{\"{}\":{{\"input\":6000}}}},\"models\"", threads::THREAD);
    text += &entry("other", now(), 5900).replace("\"models\"", &mark);
    File::options().append(true).open(&path).expect("opens").write_all(text.as_bytes()).expect("written");
    assert_eq!(run_with(&path, &["-q"], NO_SPEND).code(), Some(0));
    assert!(std::fs::metadata(&path).expect("exists").len() < 400_000, "it was summed up");
    let new = |thread: &str, input| {
        let before = counted(&path);
        let ran = run_with(&path, &["-q"], &threads::process(thread, &[[input, 0, 0]]));
        assert_eq!(ran.code(), Some(0));
        counted(&path) - before
    };
    assert_eq!(new(threads::THREAD, 6001), 1);
    assert_eq!((new("t19998", 20_000), new("t18000", 18_001)), (2, 1));
    assert_eq!(new("t1000", 1001), 1001, "thousands of newer threads have come since");
    assert_eq!(open.end(), Some(0));
}

#[test]
fn only_entries_of_threads_that_have_moved_have_marks() {
    let (_folder, path) = ledger();
    let mut run = waiting(&path, &["-q"]);
    run.pass(&threads::process("a \u{1b}", &[]));
    run.pass(&threads::turn([100, 40, 5]));
    wait_for(&path, 105);
    run.pass(&assistant("m", 7));
    wait_for(&path, 112);
    run.pass(&threads::process(threads::THREAD, &[]));
    run.pass(&threads::turn([10, 0, 1]));
    assert_eq!(run.end(), Some(0));
    let text = std::fs::read_to_string(&path).expect("readable");
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let marks: Vec<_> = entries.iter().filter_map(|entry| entry.get("threads")).collect();
    let mark = |input: u64, output: u64, cache_read: u64| serde_json::json!({ "input": input, "output": output, "cache_write": 0, "cache_read": cache_read });
    let odd = serde_json::json!({ "#e63fd2190483996d": mark(60, 5, 40) });
    let plain = serde_json::json!({ threads::THREAD: mark(10, 1, 0) });
    assert_eq!(marks, [&odd, &plain], "{text}");
}

#[test]
fn a_thread_is_counted_whole_where_the_ledger_cannot_be_read() {
    let (folder, _) = ledger();
    threads::without_its_ledger_a_run_counts_a_thread_whole(folder.path().join("missing/ledger").as_os_str());
}

/// Sums up a ledger in a process that is killed at the `when`th system call of this name that has to do with it.
/// Returns whether it came to that.
fn killed_at(call: &str, when: usize) -> bool {
    let (_folder, path) = ledger();
    // Few lines, of long names, for a ledger that is large enough.
    let name = format!("/{}", "x".repeat(4000));
    let ended = |n: u32| entry(&format!("{n:016x}"), now() - f64::from(n), 3).replace("/a", &name);
    let ended: String = (0..1200).map(ended).collect();
    let open = entry("y", now() - 5.0, 5).replace("\"end\"", "\"spend\"");
    std::fs::write(&path, open + &ended).expect("written");
    let mut command = harness::plain("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    for suffix in ["", ".lock", ".new"] {
        command.arg("-P").arg(format!("{}{suffix}", path.display()));
    }
    command.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
    command.arg(env!("CARGO_BIN_EXE_budget-tee")).args(["-q", "-m", "block", "-L"]).arg(&path);
    let ran = harness::finish(command, assistant("a", 100).as_bytes());
    // What the killed run has recorded may be there or not, but only as a whole.
    let after = counted(&path);
    assert!([3605, 3705].contains(&after), "{call} {when}: {after}");
    assert_eq!(run_with(&path, &["-q", "-m", "block"], &assistant("b", 7)).code(), Some(0));
    assert_eq!(counted(&path), after + 7, "{call} {when}");
    assert!(std::fs::metadata(&path).expect("exists").len() < 2_000_000, "{call} {when}");
    ran.code() != Some(0)
}

#[test]
fn a_run_killed_at_any_call_of_a_sum_up_loses_and_doubles_nothing() {
    if !harness::has("strace") {
        return;
    }
    let mut kills = 0;
    let all = std::env::var_os("BUDGET_TEE_TEST_ALL_KILLS").is_some();
    for call in ["openat", "flock", "ftruncate", "write", "fdatasync", "rename", "statx", "pread64"] {
        // There are many of these, and most of them only read on.
        let step = if all || !["statx", "pread64"].contains(&call) { 1 } else { 25 };
        for when in (1..).step_by(step) {
            if !killed_at(call, when) {
                break;
            }
            kills += 1;
        }
    }
    std::io::stderr().write_all(format!("killed {kills} times\n").as_bytes()).expect("stderr is writable");
    assert!(kills > 15, "{kills}");
}

#[test]
fn a_removed_ledger_is_created_again() {
    let (_folder, path) = ledger();
    let mut run = waiting(&path, &["-q"]);
    run.pass(&assistant("a", 50));
    wait_for(&path, 50);
    std::fs::remove_file(&path).expect("removed");
    run.pass(&assistant("b", 5));
    assert_eq!(run.end(), Some(0));
    assert_eq!(counted(&path), 55);
}

#[test]
fn status_without_json_prints_a_text_report() {
    let (_folder, path) = ledger();
    let text = |args: &[&str]| {
        let ran = run_with(&path, &[&["--status"], args].concat(), "");
        let code = ran.code();
        (String::from_utf8(ran.out).expect("UTF-8"), code)
    };
    let (empty, code) = text(&["-l", "10k"]);
    assert_eq!(code, Some(0));
    assert!(empty.contains("  0%   0 / 10.0K"), "{empty}");
    assert!(!path.exists(), "--status creates no file");
    assert_eq!(run_with(&path, &["-q", "-n", "/a"], &assistant("a", 6000)).code(), Some(0));
    assert_eq!(run_with(&path, &["-q", "-n", "/b\u{1b}[31m"], &assistant("b", 1000)).code(), Some(0));
    let alive = waiting(&path, &["-q", "-e", "2k"]);
    let (report, code) = text(&["-l", "10k", "-b", "/a=5k"]);
    assert_eq!(code, Some(122));
    for part in [
        "overall   [##############------]  70%   7.0K / 10.0K",
        "/a        [####################] 120%   6.0K / 5.0K",
        "command   /b[31m 1.0K",
        "alive     1 run, reserved 2.0K",
        "pace      7.0K and $0.04 in the last 1m",
        "left      overall 3,000 tokens, spent in 26s at this pace",
    ] {
        let ascii = report.replace('█', "#").replace('░', "-");
        assert!(ascii.contains(part), "{part}\n{report}");
    }
    assert_eq!(alive.end(), Some(0));
}

#[test]
fn options_that_need_a_ledger_are_refused_without_one() {
    for (args, words) in [
        (&["--status"][..], "--status needs --ledger"),
        (&["--window", "5h"], "--window needs --ledger"),
        (&["--ledger", "x", "--json"], "--json needs --status"),
        (&["--grant", "5k"], "--grant needs --ledger"),
        (&["--ledger", "x", "--grant", "5k", "true"], "--grant takes no command"),
        (&["--ledger", "x", "--grant", "5k", "--status"], "--grant and --status cannot be combined"),
        (&["--ledger", "x", "--grant", "5k"], "there is no ledger x yet\nbudget-tee: note: the first run"),
        (&["--ledger", "x", "--window", "year"], "want day, week, month or a duration"),
        (&["--ledger", "x", "--status", "true"], "--status takes no command"),
        (&["--ledger", "x", "--window", "0"], "--window"),
    ] {
        let ran = run(args, b"");
        assert_eq!(ran.code(), Some(125));
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    assert!(!Path::new("x").exists());
    let (_ours, theirs) = terminal(80);
    let (_folder, path) = ledger();
    let output = with(&path, &["--status"]).stdin(theirs).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
}

/// The tokens that the lines of a ledger add up to.
fn sum(bytes: &[u8]) -> u64 {
    let mut book = Book::new(None);
    for line in bytes.split(|byte| *byte == b'\n') {
        book.take(line, 1e12);
    }
    Classes::default().count(&book.used(None, 1e12).tokens)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_loses_only_the_damaged_entries(
        spends in proptest::collection::vec((0u8..5, 1u64..1000), 1..30),
        cut in any::<prop::sample::Index>(),
        hit in any::<prop::sample::Index>(),
        zero in any::<bool>(),
    ) {
        let mut used = [0; 5];
        let mut lines = Vec::new();
        for (run, more) in spends {
            used[usize::from(run)] += more;
            lines.push(entry(&run.to_string(), 1.0, used[usize::from(run)]).replace("\"end\"", "\"spend\""));
        }
        let whole = lines.concat();
        // A truncated ledger gives the sum of a prefix of its entries.
        let at = cut.index(whole.len() + 1);
        let complete = whole[..at].matches('\n').count();
        let prefixes = [sum(lines[..complete].concat().as_bytes()), sum(lines[..lines.len().min(complete + 1)].concat().as_bytes())];
        prop_assert!(prefixes.contains(&sum(&whole.as_bytes()[..at])));
        // A line that is cut or overwritten loses only its own entry.
        let at = hit.index(lines.len());
        let total = sum(whole.as_bytes());
        let own = total - sum([&lines[..at], &lines[at + 1..]].concat().concat().as_bytes());
        let mut broken = lines.clone();
        broken[at] = if zero { "\0".repeat(lines[at].len() - 1) + "\n" } else { lines[at][..lines[at].len() / 2].to_owned() + "\n" };
        prop_assert_eq!(sum(broken.concat().as_bytes()), total - own);
    }
}

#[cfg(not(feature = "redis"))]
#[test]
fn a_server_ledger_needs_the_redis_feature() {
    let ran = run_with("redis://:secret@127.0.0.1:1/0/nightly", &["-q"], &assistant("a", 1));
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
    assert_eq!(ran.err, "budget-tee: a ledger on a server needs a budget-tee built with --features redis\n");
    assert_eq!(run(&["--offline-grace", "5s"], b"").code(), Some(125));
}
