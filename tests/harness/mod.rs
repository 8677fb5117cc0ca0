//! Runs budget-tee as a shell would, and reads fixtures.
#![allow(dead_code, reason = "no test binary uses all of it")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// A fixture's path.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A fixture's bytes.
pub fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("the fixture exists")
}

/// budget-tee with these arguments, without the caller's `BUDGET_TEE_*` and color variables.
pub fn budget_tee(args: &[&str]) -> Command {
    let mut command = plain(env!("CARGO_BIN_EXE_budget-tee"));
    command.args(args);
    command
}

/// Another program, which may run budget-tee, without the caller's settings for budget-tee.
pub fn plain(program: &str) -> Command {
    let mut command = if ignores_signals() { Command::new("env") } else { Command::new(program) };
    if ignores_signals() {
        command.args(["--default-signal=INT,QUIT", program]);
    }
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("BUDGET_TEE_") || name.starts_with("CLICOLOR") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    command
}

/// Whether INT or QUIT is ignored, as in the background of a script: so they would stay in what is started.
fn ignores_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b110 != 0)
}

/// The result of a run.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// How many messages are on stderr, however many notes each has.
    pub fn messages(&self) -> usize {
        self.err.lines().filter(|line| !line.starts_with("budget-tee: note: ")).count()
    }
}

/// Runs budget-tee to its end with `input` on stdin.
pub fn run(args: &[&str], input: &[u8]) -> Ran {
    finish(budget_tee(args), input)
}

/// Runs `command` to its end with `input` on stdin.
pub fn finish(mut command: Command, input: &[u8]) -> Ran {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may stop reading before the end.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("writes");
    Ran { status: output.status, out: output.stdout, err: String::from_utf8(output.stderr).expect("stderr is UTF-8") }
}

/// Runs budget-tee with `--summary` and returns the summary too.
pub fn summary(args: &[&str], input: &[u8]) -> (Ran, Value) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("UTF-8");
    let ran = run(&[&["--summary", path], args].concat(), input);
    let text = std::fs::read(path).expect("a summary");
    (ran, serde_json::from_slice(&text).expect("a summary is JSON"))
}

/// Reports on stderr that a test is skipped and why, once, with its name and the number of those skipped so far.
// cargo counts it as passed, and would capture what `eprintln!` writes.
#[track_caller]
pub fn skip(why: &str) {
    static SKIPPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let thread = std::thread::current();
    // A test's thread has its name, except with one thread for all of them.
    let caller = std::panic::Location::caller().to_string();
    let name = thread.name().filter(|name| *name != "main").unwrap_or(&caller);
    let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    if skipped.insert(name.to_owned()) {
        let note = format!("skipped ({}): {name}: {why}\n", skipped.len());
        std::io::stderr().write_all(note.as_bytes()).expect("stderr is writable");
    }
}

/// Whether a program is installed; if not, the test that asks is skipped.
#[track_caller]
pub fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    let found = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        skip(&format!("{program} is not installed"));
    }
    found.is_ok()
}

/// A pseudo-terminal: the test's end and the child's end.
pub fn terminal(columns: u16) -> (File, OwnedFd) {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("has a name");
    let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("opens");
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).expect("has a size");
    (File::from(ours), theirs)
}

/// Everything that was written to a terminal whose child end is closed.
pub fn all_of(mut terminal: File) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    // Linux reports the end as EIO.
    while let Ok(count @ 1..) = terminal.read(&mut part) {
        bytes.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `wanted` has arrived. Tests wait for what a child prints instead of sleeping.
pub fn read_until(from: &mut impl Read, wanted: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&bytes).contains(wanted) {
        match from.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            end => panic!("{end:?} before {wanted:?}, after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends a signal to a child.
pub fn kill(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("the process exists");
}

/// A record whose usage is zero. Without any usage a run in block mode fails.
pub const NO_SPEND: &str = "{\"type\":\"result\",\"usage\":{\"input_tokens\":0}}\n";

/// An assistant record of session `s`.
pub fn assistant(id: &str, input: u64) -> String {
    format!(
        "{{\"type\":\"assistant\",\"session_id\":\"s\",\"message\":{{\"id\":\"{id}\",\"model\":\"m\",\"usage\":{{\"input_tokens\":{input}}}}}}}\n"
    )
}

/// All source files: their paths below `src`, and their text.
pub fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below src").to_str().expect("UTF-8").to_owned();
                files.push((name, std::fs::read_to_string(&path).expect("readable")));
            }
        }
    }
    assert!(files.len() > 30, "{} files found", files.len());
    files
}
