//! A wrapped command, from its start to its end: when it is signalled, with what, and when budget-tee
//! stops waiting for it.
//!
//! `Ending` is the plan and knows no process; [`wrap`] carries it out.

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
use crate::process::signals::{self, Signals};
use crate::process::watch::{News, Watch};
use crate::stream::relay::End;

/// How long the pipe of a child that has ended may stay open before budget-tee forwards what is in it
/// and ends.
// The child's death is not the end of the pipe: a server that it has left behind can hold it for hours.
const DRAIN: Duration = Duration::from_secs(2);

/// How long processes that were killed may take to go, and stdout to take what is left.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// A TERM that comes again within this was sent twice for one reason.
// `timeout` sends it to budget-tee and then to its process group. A person's second TERM, which means
// KILL, comes later.
const SENT_TWICE: Duration = Duration::from_millis(100);

/// How a command is to be ended.
#[derive(Clone, Copy, Debug)]
pub struct KillPolicy {
    /// The first signal.
    pub signal: Signal,
    /// How long to wait before each further signal; `None` sends none.
    pub grace: Option<Duration>,
    /// How long the command may stay after its `result` record; `None` for ever.
    pub linger: Option<Duration>,
}

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

/// An end under way: which signal was sent last, and until when to wait for it to act.
#[derive(Clone, Copy, Debug)]
struct Ending {
    reason: EndReason,
    begun: Instant,
    sent: Signal,
    due: Option<Instant>,
}

impl Ending {
    /// `sent` has just been sent.
    fn new(reason: EndReason, sent: Signal, grace: Option<Duration>, now: Instant) -> Self {
        let wait = if sent == Signal::KILL { Some(LAST_WAIT) } else { grace };
        Ending { reason, begun: now, sent, due: wait.map(|wait| now + wait) }
    }

    /// The signal that follows; none follows KILL.
    fn next(self) -> Option<Signal> {
        match self.sent {
            Signal::KILL => None,
            Signal::TERM => Some(Signal::KILL),
            _ => Some(Signal::TERM),
        }
    }
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
        Wrap { watch, child, policy, ending: None, end: None, drain, idle_turn: None, stdout_is_terminal, told: None }
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
        if self.reason() == Some(EndReason::Told) || matches!(exit, Exit::Signal(_)) {
            return Ok(exit);
        }
        self.watch.await_hooks(exit, |job| reap(self.child, job))
    }

    fn reason(&self) -> Option<EndReason> {
        self.ending.map(|ending| ending.reason)
    }

    /// Waits for news until the next step is due.
    fn wait(&mut self) -> io::Result<News> {
        let drain = match self.drain {
            Drain::Until(due) => Some(due),
            Drain::NotYet | Drain::Over => None,
        };
        let due = self.ending.and_then(|ending| ending.due);
        let due = [due, drain, self.lingers_until()].into_iter().flatten().min();
        let time = due.map(|due| due.saturating_duration_since(Instant::now()));
        // A child that thinks for minutes writes nothing, and would not learn from the broken pipe that
        // nobody reads; Claude Code from 2.1.250 on ignores it anyway. A terminal that is closed sends
        // HUP, which has its own way.
        let stdout_too = self.ending.is_none() && !self.stdout_is_terminal;
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
        let stays = self.ending.is_none() && self.child.status.is_none();
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
            SIGINT | SIGQUIT | SIGHUP | SIGTERM if self.child.status.is_some() && self.ending.is_none() => {
                self.told = Some(signal)
            }
            SIGTERM if self.ending.is_some_and(|ending| ending.begun.elapsed() < SENT_TWICE) => {}
            SIGTERM if self.ending.is_some() => self.send(Signal::KILL),
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
                    self.ending = Some(Ending::new(EndReason::Told, named, self.policy.grace, Instant::now()));
                }
            }
        }
    }

    /// Begins to end the command, unless that has begun.
    fn end_for(&mut self, reason: EndReason) {
        // A second reason must not start the grace anew, nor send a softer signal after KILL.
        if self.ending.is_none() {
            self.child.signal_tree(self.policy.signal);
            self.ending = Some(Ending::new(reason, self.policy.signal, self.policy.grace, Instant::now()));
        }
    }

    /// Sends a further signal to all processes of the command, and reports it.
    fn send(&mut self, signal: Signal) {
        let Some(ending) = self.ending else { return };
        let count = self.child.signal_tree(signal);
        self.ending = Some(Ending::new(ending.reason, signal, self.policy.grace, Instant::now()));
        // Where the reader went away, as with `| head`, all is well: nothing is reported.
        if count > 0 && ending.reason != EndReason::ReaderGone {
            let name = if signal == Signal::KILL { "KILL" } else { "TERM" };
            let processes = if count == 1 { "process" } else { "processes" };
            self.watch.job.say(&format!("the command has not ended; sent {name} to {count} {processes} of it"));
        }
    }

    /// Takes the step that is due. Returns how budget-tee exits where there is nothing left to wait for.
    fn step(&mut self, now: Instant) -> Option<Exit> {
        let forwarded = self.end.is_some();
        // A signal that is only passed on is for the child: what it leaves behind is left alone.
        let gone = match self.ending {
            Some(ending) if ending.reason != EndReason::Told => self.child.alone,
            _ => self.child.status.is_some(),
        };
        if gone && (forwarded || self.told.is_some()) {
            return Some(self.exit());
        }
        if self.ending.as_mut().and_then(|ending| ending.due.take_if(|due| *due <= now)).is_some() {
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
        let lingered = match self.reason() {
            Some(EndReason::Stop) => return Exit::Stopped,
            Some(EndReason::ReaderGone) => return Exit::ReaderGone,
            Some(EndReason::Unwritable) => return Exit::Failed,
            _ if self.watch.job.run().is_stopped() => return Exit::Stopped,
            reason => reason == Some(EndReason::Lingers),
        };
        let ended = self.child.status.map(|status| (status.exit_status(), status.terminating_signal()));
        // A program that handles the signal exits with 128 + N by convention.
        let by_signal = [128 + self.policy.signal.as_raw(), 128 + SIGTERM];
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
