//! A mock of the Messages API on a free port of the loopback. It serves a script and logs what it serves; tests
//! wait for entries in that log. It is also the client's proxy: requests to any other host are refused and
//! logged, and fail the test.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Result;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Events, Request, send_json};
use super::message::Message;
use super::script::{CUT, End, Event, Part, Reply, Tokens, speaker_of};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Nothing has been sent yet.
    Asked,
    Streaming,
    /// It was an HTTP error.
    Failed,
    /// It ended before its last event.
    Cut,
    Complete,
    /// The same, but the client ends an agent at its answer, and may have left before the usage came: its own
    /// figures have the placeholder then.
    Answer,
}

/// A request for a message, and what was served.
#[derive(Clone, Debug)]
pub struct Served {
    pub speaker: String,
    pub model: String,
    pub tokens: Tokens,
    pub content_bytes: usize,
    pub state: State,
}

#[derive(Debug, Default)]
pub struct Log {
    pub served: Vec<Served>,
    /// The speakers of requests that the script has no reply for.
    pub unscripted: Vec<String>,
    /// Requests to hosts other than the mock.
    pub foreign: Vec<String>,
    signals: HashSet<&'static str>,
}

impl Log {
    fn has(&self, event: Event) -> bool {
        match event {
            Event::Signal(name) => self.signals.contains(name),
            Event::Served(speaker, count) => {
                let done = |served: &&Served| served.speaker == speaker && served.state == State::Complete;
                self.served.iter().filter(done).count() >= count
            }
        }
    }
}

pub struct Mock {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    port: u16,
    script: Mutex<HashMap<&'static str, VecDeque<Reply>>>,
    log: Mutex<Log>,
    changed: Condvar,
}

impl Mock {
    pub fn start(script: Vec<Part>) -> Mock {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("has one").port();
        let script = script.into_iter().map(|(speaker, replies)| (speaker, replies.into())).collect();
        let shared =
            Arc::new(Shared { port, script: Mutex::new(script), log: Mutex::default(), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        // It ends with the test process; until then a thread that waits in accept costs nothing.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                // An error means that the client hung up, as it may at any time.
                std::thread::spawn(move || shared.answer(&stream));
            }
        });
        Mock { port, shared }
    }

    /// Reads the log.
    pub fn read<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&self.shared.log.lock().expect("usable"))
    }

    /// How many messages were requested so far.
    pub fn count(&self) -> usize {
        self.read(|log| log.served.len())
    }

    /// Waits until `test` finds something in the log, and returns that. `what` is for the failure's message.
    pub fn wait<T>(&self, what: &str, test: impl FnMut(&Log) -> Option<T>) -> T {
        self.shared.wait(what, test)
    }

    /// Lets the replies go on that wait for this signal.
    pub fn signal(&self, name: &'static str) {
        self.shared.change(|log| log.signals.insert(name));
    }

    /// How many replies of the script were not requested.
    pub fn unserved(&self) -> usize {
        self.shared.script.lock().expect("usable").values().map(VecDeque::len).sum()
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        let done = change(&mut self.log.lock().expect("usable"));
        self.changed.notify_all();
        done
    }

    fn wait<T>(&self, what: &str, mut test: impl FnMut(&Log) -> Option<T>) -> T {
        let mut found = None;
        let log = self.log.lock().expect("usable");
        let (log, _) = self
            .changed
            .wait_timeout_while(log, DEADLINE, |log| {
                found = test(log);
                found.is_none()
            })
            .expect("usable");
        // Release the lock before a panic could poison it.
        let seen = if found.is_none() { format!("{log:#?}") } else { String::new() };
        drop(log);
        found.unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}; the mock's log: {seen}"))
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        let Some(request) = Request::read(stream)? else { return Ok(()) };
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/v1/messages") => self.serve(stream, &request.body),
            ("POST", "/v1/messages/count_tokens") => {
                send_json(stream, 200, &json!({"input_tokens": request.body.len() / 4}))
            }
            (_, target) => {
                if !target.starts_with('/') {
                    self.change(|log| log.foreign.push(format!("{} {target}", request.method)));
                }
                send_json(stream, 404, &problem("not_found_error"))
            }
        }
    }

    fn serve(&self, stream: &TcpStream, body: &[u8]) -> Result<()> {
        let request: Value = serde_json::from_slice(body)?;
        let speaker = speaker(&request).unwrap_or_default();
        let reply = self.script.lock().expect("usable").get_mut(speaker.as_str()).and_then(VecDeque::pop_front);
        let Some(reply) = reply else {
            self.change(|log| log.unscripted.push(speaker));
            return send_json(stream, 400, &problem("invalid_request_error"));
        };
        let model = request["model"].as_str().unwrap_or_default().to_owned();
        let (number, message) = self.change(|log| {
            let number = log.served.len();
            let tokens = reply.tokens.unwrap_or_else(|| Tokens::of_request(number as u64 + 1));
            let id = format!("msg_{}_{number:03}", self.port);
            let message = Message { id, model: model.clone(), reply: &reply, tokens };
            let content_bytes = message.content_bytes();
            log.served.push(Served { speaker, model, tokens, content_bytes, state: State::Asked });
            (number, message)
        });
        if let Some(event) = reply.after {
            self.wait("the event that a reply waits for", |log| log.has(event).then_some(()));
        }
        let state = |state| self.change(|log| log.served[number].state = state);
        if let Some(status) = reply.error {
            state(State::Failed);
            return send_json(stream, status, &problem("overloaded_error"));
        }
        state(State::Streaming);
        let sent = if request["stream"] == true {
            self.stream(stream, &message)
        } else {
            message.send_whole(stream).map(|()| true)
        };
        state(match sent {
            Ok(true) if reply.is_answer() => State::Answer,
            Ok(true) => State::Complete,
            _ => State::Cut,
        });
        sent.map(|_| ())
    }

    /// Sends a message as events; returns whether it was sent to its end.
    fn stream(&self, stream: &TcpStream, message: &Message) -> Result<bool> {
        let mut events = Events::begin(stream)?;
        message.send_blocks(&mut events)?;
        match message.reply.end {
            End::Whole => events.end().map(|()| true),
            End::Stalls => {
                events.wait_for_hangup();
                Ok(false)
            }
            End::Cut => {
                self.wait("the signal to cut", |log| log.has(Event::Signal(CUT)).then_some(()));
                events.cut().map(|()| false)
            }
        }
    }
}

fn problem(kind: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": "as scripted"}})
}

/// The speaker of a request: the first one that is named in its user messages.
fn speaker(request: &Value) -> Option<String> {
    let messages = request["messages"].as_array()?;
    messages.iter().filter(|message| message["role"] == "user").find_map(|message| {
        let blocks = message["content"].as_array().into_iter().flatten();
        let mut texts =
            message["content"].as_str().into_iter().chain(blocks.filter_map(|block| block["text"].as_str()));
        texts.find_map(speaker_of).map(str::to_owned)
    })
}
