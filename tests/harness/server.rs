//! A real server on a free port of the loopback, and a line to it that can be slow, cut or dead.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{kill, read_until};
use rustix::process::Signal;

/// A server with an append-only file, for one test.
pub struct Server {
    pub port: u16,
    program: String,
    folder: tempfile::TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts the server that `BUDGET_TEE_TEST_SERVER` names, which must be there; or else
    /// redis-server, where it is installed.
    pub fn start() -> Option<Self> {
        Server::with(&[])
    }

    /// Starts it with these options.
    pub fn with(options: &[&str]) -> Option<Self> {
        let program = match std::env::var("BUDGET_TEE_TEST_SERVER") {
            Ok(program) => program,
            Err(_) if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok() => {
                "redis-server".to_owned()
            }
            Err(_) => {
                std::io::stderr().write_all(b"skipped: no redis-server here\n").expect("stderr takes a note");
                return None;
            }
        };
        let folder = tempfile::tempdir().expect("a folder");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Server { port: 0, program, folder, options, child: None };
        // Somebody may take the port before the server does.
        while server.child.is_none() {
            server.port = free_port();
            server.run();
        }
        Some(server)
    }

    /// Starts it again where it was, with what it has kept.
    pub fn restart(&mut self) {
        self.run();
        assert!(self.child.is_some(), "{} comes back", self.program);
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
            // What it says later is of no interest, but somebody must read it.
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
            ready.is_ok()
        });
        if ready.join().expect("joins") {
            self.child = Some(child);
        } else {
            let _ = child.wait();
        }
    }

    /// The address of a ledger there.
    pub fn ledger(&self, name: &str) -> String {
        format!("redis://127.0.0.1:{}/0/{name}", self.port)
    }

    /// Asks it something.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(("127.0.0.1", self.port)).expect("an address");
        let mut connection = client.get_connection().expect("it is there");
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).expect("an answer")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.child.as_ref().expect("it runs"), signal);
    }

    /// Ends it with KILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
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

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("has one").port()
}

/// A line to a server.
pub struct Line {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    to: AtomicU16,
    /// How long what is sent takes, one way.
    delay: Mutex<Duration>,
    /// After how many bytes of the next answers it is cut; none where that is 0.
    cut_after: AtomicUsize,
    cuts: AtomicUsize,
    /// Nothing comes back any more.
    dead: AtomicBool,
    /// The same after so many further answers; none where that is 0.
    dead_after: AtomicUsize,
}

impl Line {
    /// A line to the server on `port`, on which everything takes `delay` one way.
    pub fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("has one").port();
        let state = Arc::new(State {
            to: AtomicU16::new(port),
            delay: Mutex::new(delay),
            cut_after: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            dead_after: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to.load(Ordering::SeqCst))) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let both = |stream: &TcpStream| stream.try_clone().expect("cloned");
                carry(both(&client), both(&server), Arc::clone(&shared), false);
                carry(server, client, Arc::clone(&shared), true);
            }
        });
        Line { port: own, state }
    }

    /// The address of a ledger at its other end.
    pub fn ledger(&self, name: &str) -> String {
        format!("redis://127.0.0.1:{}/0/{name}", self.port)
    }

    /// Cuts the connection in the next answer, after so many bytes of it.
    pub fn cut_after(&self, bytes: usize) {
        self.state.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// How often it has been cut.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Lets so many answers through and then no more.
    pub fn set_dead_after(&self, answers: usize) {
        self.state.dead_after.store(answers, Ordering::SeqCst);
    }

    /// Lets no answer through any more, or does again.
    pub fn set_dead(&self, dead: bool) {
        self.state.dead.store(dead, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: Arc<State>, answers: bool) {
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
            if answers && state.dead.load(Ordering::SeqCst) {
                continue;
            }
            if answers
                && state.dead_after.load(Ordering::SeqCst) > 0
                && state.dead_after.fetch_sub(1, Ordering::SeqCst) == 1
            {
                state.dead.store(true, Ordering::SeqCst);
            }
            let cut = if answers { state.cut_after.swap(0, Ordering::SeqCst) } else { 0 };
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
