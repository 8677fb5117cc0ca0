//! A wrapped command, from its start to its end: when it is signalled, with what, and when budget-tee
//! stops waiting for it.
//!
//! [`kill`](crate::process::kill) has the plan and knows no process; [`wrap`] carries it out.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::stdio::stdout;
use rustix::termios::isatty;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGTSTP};

use crate::error::Exit;
use crate::process::child::{self, Child};
use crate::process::job::Job;
use crate::process::kill::{Ending, KillPolicy, sent_to};
use crate::process::signals::{self, Signals};
use crate::process::watch::{News, Watch};
use crate::stream::relay::End;

/// How long the pipe of a child that has ended may stay open before budget-tee forwards what is in it
/// and ends.
// The child's death is not the end of the pipe: a server that it has left behind can hold it for hours.
const DRAIN: Duration = Duration::from_secs(2);

/// With INT the stream must have been quiet for so long, and is waited for no longer than the second.
// Claude Code loses its `result` record when INT comes within 20 ms of a message (9 of 22 times), and
// writes it otherwise (9 of 9).
const QUIET: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// INT goes to the child alone at first, and to its descendants after this, or once it has ended.
// Where its tools die of INT together with it, Claude Code loses its `result` record: on a busy machine in
// 16 of 20 stops, and in none where it ends its tools itself. A shell around it needs the rest.
const REST: Duration = Duration::from_millis(500);

/// How often to look whether it is quiet.
const QUIET_STEP: Duration = Duration::from_millis(20);

/// A TERM that comes again within this was sent twice for one reason.
// `timeout` sends it to budget-tee and then to its process group. A person's second TERM, which means
// KILL, comes later.
const SENT_TWICE: Duration = Duration::from_millis(100);

/// Why the command is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndReason {
    /// Block mode stopped the run.
    Stop,
    ReaderGone,
    Unwritable,
    /// It has done its work and does not end.
    Lingers,
    /// budget-tee was told to end.
    Told,
}

/// A stop that waits for a quiet moment of the stream.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    /// Bytes of the stream so far, and since when there were no more.
    bytes: u64,
    since: Instant,
    /// It is waited for no longer than this.
    until: Instant,
}

/// Runs `command` until it has ended; ends it where block mode stops the run, nobody reads its output
/// any more, or budget-tee itself is told to end.
pub fn wrap(job: &mut Job, command: &[OsString], policy: KillPolicy) -> io::Result<Exit> {
    let shares_group = child::has_terminal();
    // A terminal stops the whole group by itself.
    let stop = if shares_group { &[][..] } else { &[SIGTSTP] };
    // Before the child starts, so that no signal and no end is missed.
    let signals = Signals::catch(&[signals::WRAP, stop].concat())?;
    let (mut child, output) = Child::start(command, shares_group)?;
    let result = Watch::start(job, signals, output, false).and_then(|watch| {
        let (child, stdout_is_terminal) = (&mut child, isatty(stdout()));
        let drain = Drain::NotYet;
        Wrap {
            watch,
            child,
            policy,
            reason: None,
            quiet: None,
            rest_due: None,
            ending: None,
            end: None,
            drain,
            idle_turn: None,
            stdout_is_terminal,
            told: None,
        }
        .run()
    });
    if result.is_err() {
        // Nobody would count or stop what it goes on to spend.
        child.signal_tree(Signal::KILL);
    }
    result
}

struct Wrap<'a> {
    watch: Watch<'a>,
    child: &'a mut Child,
    policy: KillPolicy,
    reason: Option<EndReason>,
    quiet: Option<Quiet>,
    /// When the descendants get the signal that the child has got.
    rest_due: Option<Instant>,
    ending: Option<Ending>,
    /// How the relay ended.
    end: Option<End>,
    drain: Drain,
    /// The turn that is over, and since when.
    idle_turn: Option<(u64, Instant)>,
    /// Asked at the start: a terminal that has been closed could not be asked any more.
    stdout_is_terminal: bool,
    /// A signal that ends budget-tee itself, since the command had ended before.
    told: Option<i32>,
}

/// How far the pipe of a command that has ended is waited for.
#[derive(Clone, Copy, Debug)]
enum Drain {
    NotYet,
    Until(Instant),
    /// Only what is in the pipe is still written, however long stdout takes for that.
    Over,
}

impl Wrap<'_> {
    fn run(mut self) -> io::Result<Exit> {
        let exit = loop {
            let news = self.wait()?;
            // Before signals are looked at: what has ended must not be signalled.
            reap(self.child, self.watch.job);
            news.signals.iter().for_each(|signal| self.signalled(*signal));
            self.look_at_run();
            match news.end {
                Some(End::Unwritable(_) | End::Unreadable(_)) => self.end_for(EndReason::Unwritable),
                Some(End::ReaderGone) => self.end_for(EndReason::ReaderGone),
                _ if news.reader_gone => self.end_for(EndReason::ReaderGone),
                _ => {}
            }
            self.end = news.end.or(self.end);
            if let Some(exit) = self.step(Instant::now()) {
                break exit;
            }
        };
        // Whoever sent a signal waits for budget-tee to end, and hooks are not worth that.
        if self.reason == Some(EndReason::Told) || matches!(exit, Exit::Signal(_)) {
            return Ok(exit);
        }
        self.watch.await_hooks(exit, |job| reap(self.child, job))
    }

    /// Waits for news until the next step is due.
    fn wait(&mut self) -> io::Result<News> {
        let drain = match self.drain {
            Drain::Until(due) => Some(due),
            Drain::NotYet | Drain::Over => None,
        };
        let due = self.ending.and_then(|ending| ending.due);
        let quiet = self.quiet.map(|_| Instant::now() + QUIET_STEP);
        let due = [due, drain, quiet, self.rest_due, self.lingers_until()].into_iter().flatten().min();
        let time = due.map(|due| due.saturating_duration_since(Instant::now()));
        // A child that thinks for minutes writes nothing, and would not learn from the broken pipe that
        // nobody reads; Claude Code from 2.1.250 on ignores it anyway. A terminal that is closed sends
        // HUP, which has its own way.
        let stdout_too = self.reason.is_none() && !self.stdout_is_terminal;
        self.watch.wait(time, self.child.pidfd(), stdout_too)
    }

    /// Ends the command where the run was stopped, or where it lingers after its last turn.
    fn look_at_run(&mut self) {
        let (stopped, turn) = {
            let run = self.watch.job.run();
            (run.is_stopped(), run.idle_turn())
        };
        if stopped {
            self.end_for(EndReason::Stop);
        }
        self.watch.job.run_hooks();
        // A `result` is no end: background tasks and further prompts may follow it. So the time runs from the
        // last one, and only as long as no message has come.
        if turn != self.idle_turn.map(|(turn, _)| turn) {
            self.idle_turn = turn.map(|turn| (turn, Instant::now()));
        }
        if self.lingers_until().is_some_and(|due| due <= Instant::now()) {
            self.watch.job.say("the command has not ended after its result record; ending it (--linger)");
            self.end_for(EndReason::Lingers);
        }
    }

    /// When the command has stayed too long after its `result` record; `None` where it may stay.
    fn lingers_until(&self) -> Option<Instant> {
        let stays = self.reason.is_none() && self.child.status.is_none();
        self.policy.linger.zip(self.idle_turn).filter(|_| stays).map(|(linger, (_, since))| since + linger)
    }

    /// A signal came to budget-tee, which is passed on.
    fn signalled(&mut self, signal: i32) {
        match signal {
            SIGCHLD => {}
            // Caught only where the child has a group of its own. Stopped together, as one job would be:
            // CONT may come to budget-tee alone, too.
            SIGTSTP => {
                self.child.signal(Signal::TSTP);
                let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                self.child.signal(Signal::CONT);
            }
            // There is nobody to pass it on to: what is left is the pipe, which the sender need not wait for.
            SIGINT | SIGQUIT | SIGHUP | SIGTERM if self.child.status.is_some() && self.reason.is_none() => {
                self.told = Some(signal)
            }
            SIGTERM if self.ending.is_some_and(|ending| ending.begun.elapsed() < SENT_TWICE) => {}
            SIGTERM if self.reason.is_some() => self.send(Signal::KILL),
            // A terminal that is closed sends HUP to the leader of its session alone.
            SIGHUP if child::leads_session() => self.child.signal(Signal::HUP),
            // The terminal has already sent it to the whole group, and twice means something else to many programs.
            SIGINT | SIGQUIT | SIGHUP if self.child.shares_group => {}
            _ => {
                let Some(named) = Signal::from_named_raw(signal) else { return };
                self.child.signal(named);
                if signal == SIGTERM {
                    // A stopped process could not act on it.
                    self.child.signal(Signal::CONT);
                    self.reason = Some(EndReason::Told);
                    self.ending = Some(Ending::new(named, self.policy.grace, Instant::now()));
                }
            }
        }
    }

    /// Begins to end the command, unless that has begun.
    fn end_for(&mut self, reason: EndReason) {
        // A second reason must not start the grace anew, nor send a softer signal after KILL.
        if self.reason.is_some() {
            return;
        }
        self.reason = Some(reason);
        let now = Instant::now();
        if reason == EndReason::Stop && self.policy.first() == Signal::INT {
            self.quiet = Some(Quiet { bytes: self.watch.job.run().bytes(), since: now, until: now + QUIET[1] });
        } else {
            self.send(self.policy.first());
        }
    }

    /// Sends the first signal once the stream is quiet.
    fn look_for_quiet(&mut self, now: Instant) {
        let Some(quiet) = &mut self.quiet else { return };
        let bytes = self.watch.job.run().bytes();
        if quiet.bytes != bytes {
            (quiet.bytes, quiet.since) = (bytes, now);
        }
        if now >= quiet.since + QUIET[0] || now >= quiet.until {
            self.quiet = None;
            self.send(self.policy.first());
        }
    }

    /// Sends a signal to all processes of the command, and reports a further one.
    fn send(&mut self, signal: Signal) {
        let is_first = self.ending.is_none() && self.quiet.take().is_none();
        let now = Instant::now();
        // Within the grace: TERM, which follows after it, is for those that INT did not end.
        let rest = self.policy.grace.map_or(REST, |grace| REST.min(grace / 2));
        self.rest_due = (signal == Signal::INT).then_some(now + rest);
        let count = match self.rest_due {
            Some(_) => {
                self.child.signal_alone(signal);
                1
            }
            None => self.child.signal_tree(signal),
        };
        self.ending = Some(Ending::new(signal, self.policy.grace, now));
        // Where the reader went away, as with `| head`, all is well: nothing is reported.
        if !is_first && count > 0 && self.reason != Some(EndReason::ReaderGone) {
            let sent = sent_to(signal, count);
            self.watch.job.say(&format!("the command has not ended; {sent} of it"));
        }
    }

    /// Takes the step that is due. Returns how budget-tee exits where there is nothing left to wait for.
    fn step(&mut self, now: Instant) -> Option<Exit> {
        let forwarded = self.end.is_some();
        // A signal that is only passed on is for the child: what it leaves behind is left alone.
        let gone = match self.reason {
            Some(EndReason::Told) | None => self.child.status.is_some(),
            Some(_) => self.child.alone,
        };
        if gone && (forwarded || self.told.is_some()) {
            return Some(self.exit());
        }
        self.look_for_quiet(now);
        let child_is_gone = self.child.status.is_some();
        if self.rest_due.take_if(|due| *due <= now || child_is_gone).is_some() {
            self.child.signal_rest(self.policy.first());
        }
        if self.ending.as_mut().is_some_and(|ending| ending.take_due(now)) {
            match self.ending.and_then(Ending::next) {
                // Stdout has had the same time.
                _ if gone => return Some(self.exit()),
                Some(signal) => self.send(signal),
                None => {
                    self.watch.job.say("some processes of the command have not ended even after KILL");
                    return Some(self.exit());
                }
            }
        }
        match self.drain {
            Drain::NotYet if gone => self.drain = Drain::Until(now + DRAIN),
            Drain::Until(due) if due <= now => {
                self.watch.finish_relay();
                self.drain = Drain::Over;
            }
            _ => {}
        }
        None
    }

    fn exit(&self) -> Exit {
        // Why it was ended counts, not how it then ended: Claude Code exits with 0 on INT and 143 on TERM.
        let lingered = match self.reason {
            Some(EndReason::Stop) => return Exit::Stopped,
            Some(EndReason::ReaderGone) => return Exit::ReaderGone,
            Some(EndReason::Unwritable) => return Exit::Failed,
            _ if self.watch.job.run().is_stopped() => return Exit::Stopped,
            reason => reason == Some(EndReason::Lingers),
        };
        let ended = self.child.status.map(|status| (status.exit_status(), status.terminating_signal()));
        // A program that handles the signal exits with 128 + N by convention.
        let by_signal = [128 + self.policy.first().as_raw(), 128 + SIGTERM];
        match (self.told, ended) {
            // Its work was done: that it did not end by itself is no failure of the run.
            (None, Some((Some(code), _))) if lingered && by_signal.contains(&code) => Exit::Child(0),
            (None, Some((None, _)) | None) if lingered => Exit::Child(0),
            (Some(signal), _) | (None, Some((_, Some(signal)))) => Exit::Signal(signal),
            (None, Some((code, None))) => Exit::Child(code.unwrap_or_default()),
            // Not even KILL has ended it.
            (None, None) => Exit::Signal(SIGKILL),
        }
    }
}

/// Reaps what has ended: of the command, and of the hooks, which are no part of it.
fn reap(child: &mut Child, job: &mut Job) {
    // First, or a hook would be taken for a descendant of the command and be ended with it.
    job.hooks.pids().for_each(|pid| child.exclude(pid));
    for (pid, status) in child.reap() {
        if let Some(message) = job.hooks.ended(pid, status) {
            job.say(&message);
        }
    }
}
