//! A real server on a free loopback port, and a proxy that can delay, cut or drop its answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{kill, read_until, skip};
use rustix::process::Signal;

/// A server with an append-only file, for a single test.
pub struct Server {
    pub port: u16,
    program: String,
    folder: tempfile::TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts the server that `BUDGET_TEE_TEST_SERVER` names, which must be installed; by default
    /// redis-server, if it is installed.
    pub fn start() -> Option<Self> {
        Server::with(&[])
    }

    /// Starts the server with these options.
    pub fn with(options: &[&str]) -> Option<Self> {
        let program = match std::env::var("BUDGET_TEE_TEST_SERVER") {
            Ok(program) => program,
            Err(_) if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok() => {
                "redis-server".to_owned()
            }
            Err(_) => {
                skip("redis-server is not installed");
                return None;
            }
        };
        let folder = tempfile::tempdir().expect("a folder");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Server { port: 0, program, folder, options, child: None };
        // Another process may take the port before the server does.
        while server.child.is_none() {
            server.port = free_port();
            server.run();
        }
        Some(server)
    }

    /// Starts the server again on the same port, with the data it has saved.
    pub fn restart(&mut self) {
        self.run();
        assert!(self.child.is_some(), "{} restarts", self.program);
    }

    fn run(&mut self) {
        let mut command = Command::new(&self.program);
        let port = self.port.to_string();
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--daemonize",
            "no",
        ]);
        command.args(["--logfile", ""]).args(&self.options).arg("--dir").arg(self.folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let program = &self.program;
        let mut child = child.unwrap_or_else(|error| panic!("{program} ({error}): apt-get install {program}"));
        let mut stdout = child.stdout.take().expect("piped");
        let ready = std::thread::spawn(move || {
            let ready = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                read_until(&mut stdout, "Ready to accept connections");
            }));
            // Later output is not needed, but must be read so that the pipe does not fill up.
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
            ready.is_ok()
        });
        if ready.join().expect("joins") {
            self.child = Some(child);
        } else {
            let _ = child.wait();
        }
    }

    /// The address of a ledger on this server.
    pub fn ledger(&self, name: &str) -> String {
        format!("redis://127.0.0.1:{}/0/{name}", self.port)
    }

    /// Sends a command and returns the answer.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(("127.0.0.1", self.port)).expect("an address");
        let mut connection = client.get_connection().expect("the server runs");
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).expect("an answer")
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        kill(self.child.as_ref().expect("the server runs"), signal);
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        kill(&child, Signal::KILL);
        child.wait().expect("ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that no process listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("has one").port()
}

/// A proxy in front of a server.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    /// The port of the server.
    to: AtomicU16,
    /// The one-way delay of everything sent.
    delay: Mutex<Duration>,
    /// The connection is cut after so many bytes of the next answer; 0 for never.
    cut_after: AtomicUsize,
    cuts: AtomicUsize,
    /// Calls on connections with a number below the first are held back while the second is set.
    held: Mutex<(usize, bool)>,
    released: Condvar,
    connections: AtomicUsize,
    /// Answers are dropped.
    drops_answers: AtomicBool,
    /// Answers are dropped after so many more; 0 for never.
    drops_answers_after: AtomicUsize,
}

impl Proxy {
    /// A proxy for the server on `port`, which delays everything by `delay` one way.
    pub fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy_port = listener.local_addr().expect("has one").port();
        let state = Arc::new(State {
            to: AtomicU16::new(port),
            delay: Mutex::new(delay),
            cut_after: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            held: Mutex::new((0, false)),
            released: Condvar::new(),
            connections: AtomicUsize::new(0),
            drops_answers: AtomicBool::new(false),
            drops_answers_after: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to.load(Ordering::SeqCst))) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let copy = |stream: &TcpStream| stream.try_clone().expect("cloned");
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                forward(copy(&client), copy(&server), Arc::clone(&shared), Some(number));
                forward(server, client, Arc::clone(&shared), None);
            }
        });
        Proxy { port: proxy_port, state }
    }

    /// The address of a ledger on the server, through this proxy.
    pub fn ledger(&self, name: &str) -> String {
        format!("redis://127.0.0.1:{}/0/{name}", self.port)
    }

    /// Cuts the connection after `bytes` bytes of the next answer.
    pub fn cut_after(&self, bytes: usize) {
        self.state.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// Holds back what comes on the connections that there are now.
    pub fn hold_calls(&self) {
        *self.state.held.lock().expect("usable") = (self.state.connections.load(Ordering::SeqCst), true);
    }

    /// Passes on what was held back, where its sender has given up, too.
    pub fn release_calls(&self) {
        self.state.held.lock().expect("usable").1 = false;
        self.state.released.notify_all();
    }

    /// How often the connection has been cut.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Passes on so many more answers and drops all later ones.
    pub fn drop_answers_after(&self, answers: usize) {
        self.state.drops_answers_after.store(answers, Ordering::SeqCst);
    }

    /// Drops all answers from now on, or passes them on again.
    pub fn drop_answers(&self, drop: bool) {
        self.state.drops_answers.store(drop, Ordering::SeqCst);
    }
}

/// Copies one direction of a connection: that of the calls on the connection of this number, or of answers.
fn forward(mut from: TcpStream, mut to: TcpStream, state: Arc<State>, calls_of: Option<usize>) {
    let is_answers = calls_of.is_none();
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut part = [0; 65536];
        while let Ok(count @ 1..) = from.read(&mut part) {
            if sender.send((Instant::now(), part[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (at, bytes) in receiver {
            let due = at + *state.delay.lock().expect("usable");
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(number) = calls_of {
                let held = state.held.lock().expect("usable");
                drop(state.released.wait_while(held, |(below, holds)| *holds && number < *below).expect("usable"));
            }
            if is_answers && state.drops_answers.load(Ordering::SeqCst) {
                continue;
            }
            if is_answers
                && state.drops_answers_after.load(Ordering::SeqCst) > 0
                && state.drops_answers_after.fetch_sub(1, Ordering::SeqCst) == 1
            {
                state.drops_answers.store(true, Ordering::SeqCst);
            }
            let cut = if is_answers { state.cut_after.swap(0, Ordering::SeqCst) } else { 0 };
            if cut > 0 {
                let _ = to.write_all(&bytes[..cut.min(bytes.len())]);
                state.cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
