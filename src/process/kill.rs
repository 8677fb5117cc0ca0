//! How processes are ended: the first signal, and what follows where they do not go.

use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long processes that were killed may take to go, and stdout to take what is left.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// A signal that comes again within this was sent twice for one reason.
// `timeout` sends it to budget-tee and then to its process group. A person's second one, which means it,
// comes later.
pub(crate) const SENT_TWICE: Duration = Duration::from_millis(100);

/// With INT the stream must have been quiet for so long, and is waited for no longer than the second.
// Claude Code loses its `result` record when INT comes within 20 ms of a message (9 of 22 times), and
// writes it otherwise (9 of 9).
const QUIET: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// How often to look whether it is quiet.
const QUIET_STEP: Duration = Duration::from_millis(20);

/// How processes are to be ended.
#[derive(Clone, Copy, Debug)]
pub struct KillPolicy {
    /// The first signal; `None` sends none to the writers of a filter.
    pub signal: Option<Signal>,
    /// The user did not choose it: what the agent's program needs is sent in its place.
    pub is_default: bool,
    /// How long to wait before each further signal; `None` sends none.
    pub grace: Option<Duration>,
    /// How long a command may stay after its `result` record; `None` for ever.
    pub linger: Option<Duration>,
    /// How long a command's stream may be silent; `None` for ever.
    pub idle: Option<Duration>,
    /// Whether to end what a command has left running when it has ended.
    pub reap: bool,
}

impl KillPolicy {
    /// The same for a program that goes on after TERM, where this is one and no signal was chosen.
    // To wait for KILL instead costs the grace, in which such a program goes on spending.
    pub(crate) fn with_interrupt(self, needs_interrupt: bool) -> Self {
        let signal = if self.is_default && needs_interrupt { Some(Signal::INT) } else { self.signal };
        KillPolicy { signal, ..self }
    }

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

/// Since when a stream has been silent, as far as was looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// Bytes of the stream so far.
    bytes: u64,
    since: Instant,
}

impl Silence {
    pub(crate) fn new(bytes: u64, now: Instant) -> Self {
        Silence { bytes, since: now }
    }

    /// When to look again where so long a silence matters: ten times in it, and each second at most.
    pub(crate) fn due(&self, silence: Duration, now: Instant) -> Instant {
        now + (silence / 10).clamp(QUIET_STEP, Duration::from_secs(1))
    }

    /// Begins anew: nothing could have come.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.since = now;
    }

    /// Looks again. Returns how long nothing has come.
    pub(crate) fn look(&mut self, bytes: u64, now: Instant) -> Duration {
        if self.bytes != bytes {
            *self = Silence::new(bytes, now);
        }
        now.saturating_duration_since(self.since)
    }
}

/// A stop that waits for a quiet moment of the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    silence: Silence,
    /// It is waited for no longer than this.
    until: Instant,
    pub(crate) due: Instant,
}

impl Quiet {
    pub(crate) fn new(bytes: u64, now: Instant) -> Self {
        Quiet { silence: Silence::new(bytes, now), until: now + QUIET[1], due: now + QUIET_STEP }
    }

    /// Whether it is quiet, or has been waited for long enough.
    pub(crate) fn has_come(&mut self, bytes: u64, now: Instant) -> bool {
        self.due = now + QUIET_STEP;
        self.silence.look(bytes, now) >= QUIET[0] || now >= self.until
    }
}

/// `sent KILL to 2 processes`
pub(crate) fn sent_to(signal: Signal, count: usize) -> String {
    let name = if signal == Signal::KILL { "KILL" } else { "TERM" };
    let processes = if count == 1 { "process" } else { "processes" };
    format!("sent {name} to {count} {processes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn int_waits_for_a_quiet_moment_and_no_longer_than_a_second() {
        let start = Instant::now();
        let mut quiet = Quiet::new(10, start);
        assert!(!quiet.has_come(10, start + 90 * MS));
        assert!(!quiet.has_come(20, start + 95 * MS), "a line came");
        assert!(!quiet.has_come(20, start + 190 * MS));
        assert!(quiet.has_come(20, start + 195 * MS));
        let mut busy = Quiet::new(0, start);
        assert_eq!((1..=100).find(|n| busy.has_come(u64::from(*n), start + 10 * *n * MS)), Some(100));
    }

    #[test]
    fn a_silence_is_looked_at_ten_times_and_each_second_at_most() {
        let start = Instant::now();
        let mut silence = Silence::new(0, start);
        assert_eq!(silence.look(0, start + 500 * MS), 500 * MS);
        silence.excuse(start + 500 * MS);
        assert_eq!(silence.look(0, start + 600 * MS), 100 * MS);
        assert_eq!(silence.look(1, start + 700 * MS), Duration::ZERO);
        for (idle, step) in [(50, 20), (1000, 100), (60_000, 1000)] {
            assert_eq!(silence.due(idle * MS, start), start + step * MS, "{idle}");
        }
    }

    #[test]
    fn term_follows_another_signal_and_kill_follows_term() {
        let now = Instant::now();
        let mut ending = Ending::new(Signal::INT, Some(100 * MS), now);
        assert_eq!((ending.next(), ending.take_due(now)), (Some(Signal::TERM), false));
        assert!(ending.take_due(now + 100 * MS) && !ending.take_due(now + 100 * MS), "once");
        assert_eq!(Ending::new(Signal::TERM, None, now).due, None);
        let last = Ending::new(Signal::KILL, None, now);
        assert_eq!((last.next(), last.due), (None, Some(now + LAST_WAIT)));
    }
}
