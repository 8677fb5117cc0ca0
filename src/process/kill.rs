//! How processes are ended: the first signal, and what follows where they do not go.

use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long processes that were killed may take to go, and stdout to take what is left.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// How processes are to be ended.
#[derive(Clone, Copy, Debug)]
pub struct KillPolicy {
    /// The first signal; `None` sends none to the writers of a filter.
    pub signal: Option<Signal>,
    /// How long to wait before each further signal; `None` sends none.
    pub grace: Option<Duration>,
    /// How long a command may stay after its `result` record; `None` for ever.
    pub linger: Option<Duration>,
}

impl KillPolicy {
    /// The first signal to a wrapped command, which always gets one.
    pub(crate) fn first(&self) -> Signal {
        self.signal.unwrap_or(Signal::TERM)
    }
}

/// An end under way: which signal was sent last, and until when to wait for it to act.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) begun: Instant,
    pub(crate) sent: Signal,
    pub(crate) due: Option<Instant>,
}

impl Ending {
    /// `sent` has just been sent.
    pub(crate) fn new(sent: Signal, grace: Option<Duration>, now: Instant) -> Self {
        let wait = if sent == Signal::KILL { Some(LAST_WAIT) } else { grace };
        Ending { begun: now, sent, due: wait.map(|wait| now + wait) }
    }

    /// The signal that follows; none follows KILL.
    pub(crate) fn next(self) -> Option<Signal> {
        match self.sent {
            Signal::KILL => None,
            Signal::TERM => Some(Signal::KILL),
            _ => Some(Signal::TERM),
        }
    }

    /// Takes the time that has run out, once.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

/// `sent KILL to 2 processes`
pub(crate) fn sent_to(signal: Signal, count: usize) -> String {
    let name = if signal == Signal::KILL { "KILL" } else { "TERM" };
    let processes = if count == 1 { "process" } else { "processes" };
    format!("sent {name} to {count} {processes}")
}
