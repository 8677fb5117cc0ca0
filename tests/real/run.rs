//! A run of budget-tee and the client, and its results. Its stdout is read as it comes and kept. Tests wait for
//! records there and for the end of the run; they never sleep.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Sandbox;
use super::mock::DEADLINE;

/// Where budget-tee writes its summary, in the project.
pub const SUMMARY: &str = "summary.json";
/// Where bash writes the exit codes of a pipe, in the project.
pub const PIPE_STATUS: &str = "pipe-status";

/// A run that has been started.
pub struct Run {
    stdin: Option<ChildStdin>,
    project: PathBuf,
    /// The first request of this run in the mock's log.
    first: usize,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    records: Vec<Value>,
    closed: bool,
    status: Option<ExitStatus>,
}

impl Run {
    pub fn start(sandbox: &Sandbox, words: &[String], stdin: Stdio) -> Run {
        let project = sandbox.path("project");
        let _ = std::fs::remove_file(project.join(SUMMARY));
        let stderr = std::fs::File::create(project.join("stderr")).expect("a file");
        let mut command = sandbox.command(words);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr);
        let first = sandbox.mock.count();
        let mut child = command.spawn().expect("starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let seen = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let change = {
            let seen = Arc::clone(&seen);
            move |change: &mut dyn FnMut(&mut Seen)| {
                change(&mut seen.0.lock().expect("usable"));
                seen.1.notify_all();
            }
        };
        let of_reader = change.clone();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while matches!(stdout.read_until(b'\n', &mut line), Ok(1..)) {
                of_reader(&mut |seen| {
                    seen.bytes.extend_from_slice(&line);
                    seen.records.push(serde_json::from_slice(&line).unwrap_or_default());
                });
                line.clear();
            }
            of_reader(&mut |seen| seen.closed = true);
        });
        std::thread::spawn(move || {
            let status = child.wait().expect("ends");
            change(&mut |seen| seen.status = Some(status));
        });
        Run { stdin, project, first, seen }
    }

    /// A prompt for a client that was started with `--input-format stream-json`.
    pub fn say(&mut self, prompt: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": prompt}}));
    }

    /// Interrupts the turn, as Esc does.
    pub fn interrupt(&mut self) {
        self.send(&json!({"type": "control_request", "request_id": "1", "request": {"subtype": "interrupt"}}));
    }

    fn send(&mut self, record: &Value) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(format!("{record}\n").as_bytes()).expect("taken");
    }

    /// Waits until `count` records of this type have been read.
    pub fn wait_for(&self, kind: &str, count: usize) {
        let what = format!("{count} records of type {kind}");
        self.wait(&what, DEADLINE, |seen| seen.records.iter().filter(|record| record["type"] == kind).count() >= count);
    }

    fn wait(&self, what: &str, deadline: Duration, test: impl Fn(&Seen) -> bool) {
        let seen = self.seen.0.lock().expect("usable");
        let (seen, timeout) = self.seen.1.wait_timeout_while(seen, deadline, |seen| !test(seen)).expect("usable");
        if timeout.timed_out() {
            // The beginning of each record shows how far it got.
            let records: Vec<String> = seen.records.iter().map(|record| record.to_string()).collect();
            let records = records.iter().map(|record| record.chars().take(300).collect::<String>() + "\n");
            let (records, stderr) = (records.collect::<String>(), self.stderr());
            drop(seen);
            panic!("not within {deadline:?}: {what}; stdout:\n{records}stderr: {stderr}");
        }
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.project.join("stderr")).unwrap_or_default()
    }

    /// Closes its stdin, so that no prompt follows, and waits for its end.
    pub fn end(self, sandbox: &Sandbox) -> Ended {
        self.end_within(sandbox, DEADLINE)
    }

    /// The same with another deadline.
    pub fn end_within(mut self, sandbox: &Sandbox, deadline: Duration) -> Ended {
        drop(self.stdin.take());
        self.wait("the end of the run", deadline, |seen| seen.status.is_some() && seen.closed);
        let text = |name| std::fs::read_to_string(self.project.join(name)).unwrap_or_default();
        let seen = std::mem::take(&mut *self.seen.0.lock().expect("usable"));
        let status = seen.status.expect("it has ended");
        Ended {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            pipe_status: text(PIPE_STATUS).trim().to_owned(),
            bytes: seen.bytes,
            records: seen.records,
            stderr: self.stderr(),
            summary: serde_json::from_str(&text(SUMMARY)).unwrap_or_default(),
            requests: self.first..sandbox.mock.count(),
        }
    }
}

/// The results of a run.
pub struct Ended {
    /// The exit code, 128+N for a signal.
    pub code: i32,
    /// The exit codes of the programs of a pipe, separated by a space.
    pub pipe_status: String,
    pub bytes: Vec<u8>,
    pub records: Vec<Value>,
    pub stderr: String,
    pub summary: Value,
    /// Its requests in the mock's log.
    pub requests: Range<usize>,
}

impl Ended {
    /// The records of this type.
    pub fn of_type(&self, kind: &str) -> Vec<&Value> {
        self.records.iter().filter(|record| record["type"] == kind).collect()
    }

    pub fn session(&self) -> &str {
        self.records.iter().find_map(|record| record["session_id"].as_str()).expect("a session")
    }
}
