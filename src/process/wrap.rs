//! A wrapped command, from its start to its end: when it is signalled, with what, and when budget-tee
//! stops waiting for it.
//!
//! [`kill`](crate::process::kill) has the plan and knows no process; [`wrap`] carries it out.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::stdio::stdout;
use rustix::termios::isatty;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGTSTP};

use crate::error::Exit;
use crate::process::child::{self, Child};
use crate::process::job::Job;
use crate::process::kill::{Ending, KillPolicy, Quiet, SENT_TWICE, Silence, sent_to};
use crate::process::phase::{self, Origin};
use crate::process::signals::{self, Signals};
use crate::process::watch::{News, Watch};
use crate::stream::relay::End;

/// How long the pipe of a child that has ended may stay open before budget-tee forwards what is in it
/// and ends.
// The child's death is not the end of the pipe: a server that it has left behind can hold it for hours.
const DRAIN: Duration = Duration::from_secs(2);

/// INT goes to the child alone at first, and to its descendants after this, or once it has ended.
// Where its tools die of INT together with it, Claude Code loses its `result` record: on a busy machine in
// 16 of 20 stops, and in none where it ends its tools itself. A shell around it needs the rest.
const REST: Duration = Duration::from_millis(500);

/// Why the command is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndReason {
    /// Block mode stopped the run.
    Stop,
    ReaderGone,
    Unwritable,
    /// It has done its work and does not end.
    Lingers,
    /// Its stream was silent for too long.
    Idle,
    /// budget-tee was told to end.
    Told,
}

/// Runs `command` until it has ended; ends it where block mode stops the run, nobody reads its output
/// any more, or budget-tee itself is told to end.
pub fn wrap(job: &mut Job, command: &[OsString], policy: KillPolicy) -> io::Result<Exit> {
    let shares_group = child::has_terminal();
    // Before the child starts, so that no signal and no end is missed.
    let signals = Signals::catch(signals::WRAP)?;
    let (child, output) = Child::start(command, shares_group)?;
    let mut wrap = Wrap {
        child,
        policy: policy.with_interrupt(job.run().needs_interrupt()),
        reason: None,
        quiet: None,
        rest_due: None,
        ending: None,
        end: None,
        drain: Drain::NotYet,
        idle_turn: None,
        silence: Silence::new(0, Instant::now()),
        stdout_is_terminal: isatty(stdout()),
        told: None,
        passed_on: None,
        reaps: false,
    };
    let result = Watch::start(job, signals, output, false).and_then(|watch| phase::run(watch, &mut wrap));
    if result.is_err() {
        // Nobody would count or stop what it goes on to spend.
        wrap.child.signal_tree(Signal::KILL);
    }
    result
}

struct Wrap {
    child: Child,
    policy: KillPolicy,
    reason: Option<EndReason>,
    /// A stop that waits for a quiet moment.
    quiet: Option<Quiet>,
    /// When the descendants get the signal that the child has got.
    rest_due: Option<Instant>,
    ending: Option<Ending>,
    /// How the relay ended.
    end: Option<End>,
    drain: Drain,
    /// The turn that is over, and since when.
    idle_turn: Option<(u64, Instant)>,
    silence: Silence,
    /// Asked at the start: a terminal that has been closed could not be asked any more.
    stdout_is_terminal: bool,
    /// A signal that ends budget-tee itself, since the command had ended before.
    told: Option<i32>,
    /// A signal that asked the command and budget-tee to end.
    passed_on: Option<i32>,
    /// What the command has left running is being ended.
    reaps: bool,
}

/// How far the pipe of a command that has ended is waited for.
#[derive(Clone, Copy, Debug)]
enum Drain {
    NotYet,
    Until(Instant),
    /// Only what is in the pipe is still written, however long stdout takes for that.
    Over,
}

impl Origin for Wrap {
    fn due(&self, now: Instant) -> Option<Instant> {
        let drain = match self.drain {
            Drain::Until(due) => Some(due),
            Drain::NotYet | Drain::Over => None,
        };
        let ending = self.ending.and_then(|ending| ending.due);
        let quiet = self.quiet.map(|quiet| quiet.due);
        let silence = self.minds_silence().map(|idle| self.silence.due(idle, now));
        [ending, drain, quiet, silence, self.rest_due, self.lingers_until()].into_iter().flatten().min()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.pidfd()
    }

    fn minds_reader(&self) -> bool {
        // A child that thinks for minutes writes nothing, and would not learn from the broken pipe that
        // nobody reads; Claude Code from 2.1.250 on ignores it anyway. A terminal that is closed sends
        // HUP, which has its own way.
        self.reason.is_none() && !self.stdout_is_terminal
    }

    fn reap(&mut self, job: &mut Job) {
        // First, or a hook would be taken for a descendant of the command and be ended with it.
        job.hooks.pids().for_each(|pid| self.child.exclude(pid));
        for (pid, status) in self.child.reap() {
            let failed = job.hooks.ended(pid, status);
            job.say_all(failed);
        }
    }

    fn suspend(&mut self, stops: bool) {
        // A terminal stops the whole group by itself. Otherwise they are stopped together, as one job would be:
        // CONT may come to budget-tee alone, too.
        if !self.child.shares_group {
            self.child.signal(if stops { Signal::TSTP } else { Signal::CONT });
        }
    }

    fn signalled(&mut self, signal: i32, job: &mut Job, now: Instant) {
        if signals::END.contains(&signal) && self.child.status.is_none() {
            self.passed_on.get_or_insert(signal);
        }
        match signal {
            SIGCHLD | SIGTSTP => {}
            // There is nobody to pass it on to: what is left is the pipe, which the sender need not wait for.
            SIGINT | SIGQUIT | SIGHUP | SIGTERM if self.child.status.is_some() && self.reason.is_none() => {
                self.told = Some(signal);
                if self.reaps {
                    self.send(Signal::KILL, job);
                }
            }
            SIGTERM if self.ending.is_some_and(|ending| ending.begun.elapsed() < SENT_TWICE) => {}
            SIGTERM if self.reason.is_some() => self.send(Signal::KILL, job),
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
                    self.ending = Some(Ending::new(named, self.policy.grace, now));
                }
            }
        }
    }

    fn step(&mut self, watch: &mut Watch<'_>, news: &News, now: Instant) -> Option<Exit> {
        self.look_at_run(watch.job, now);
        self.look_at_silence(watch, now);
        match news.end {
            Some(End::Unwritable(_) | End::Unreadable(_)) => self.end_for(EndReason::Unwritable, watch.job),
            Some(End::ReaderGone) => self.end_for(EndReason::ReaderGone, watch.job),
            _ if news.reader_gone => self.end_for(EndReason::ReaderGone, watch.job),
            _ => {}
        }
        self.end = news.end.or(self.end);
        self.take_steps(watch, now)
    }

    fn is_told(&self) -> bool {
        self.reason == Some(EndReason::Told)
    }
}

impl Wrap {
    /// Ends the command where the run was stopped, or where it lingers after its last turn.
    fn look_at_run(&mut self, job: &mut Job, now: Instant) {
        let (stopped, turn) = {
            let run = job.run();
            (run.is_stopped(), run.idle_turn())
        };
        if stopped {
            self.end_for(EndReason::Stop, job);
        }
        // A `result` is no end: background tasks and further prompts may follow it. So the time runs from the
        // last one, and only as long as no message has come.
        if turn != self.idle_turn.map(|(turn, _)| turn) {
            self.idle_turn = turn.map(|turn| (turn, now));
        }
        if self.lingers_until().is_some_and(|due| due <= now) {
            job.say("the command runs on after its result record; ending it (--linger)");
            self.end_for(EndReason::Lingers, job);
        }
    }

    /// Ends the command where its stream has been silent for too long.
    fn look_at_silence(&mut self, watch: &mut Watch<'_>, now: Instant) {
        let Some(idle) = self.minds_silence() else { return };
        if watch.is_writing() {
            self.silence.excuse(now);
        }
        let bytes = watch.job.run().bytes();
        if self.silence.look(bytes, now) >= idle {
            watch.job.say("the stream has been silent for too long; ending the command (--idle)");
            self.end_for(EndReason::Idle, watch.job);
        }
    }

    /// How long a silence ends the command; `None` where none does, or no longer.
    fn minds_silence(&self) -> Option<Duration> {
        self.policy.idle.filter(|_| self.reason.is_none() && self.child.status.is_none())
    }

    /// When the command has stayed too long after its `result` record; `None` where it may stay.
    fn lingers_until(&self) -> Option<Instant> {
        let stays = self.reason.is_none() && self.child.status.is_none();
        self.policy.linger.zip(self.idle_turn).filter(|_| stays).map(|(linger, (_, since))| since + linger)
    }

    /// Begins to end the command, unless that has begun.
    fn end_for(&mut self, reason: EndReason, job: &mut Job) {
        // A second reason must not start the grace anew, nor send a softer signal after KILL.
        if self.reason.is_some() {
            return;
        }
        self.reason = Some(reason);
        if reason == EndReason::Stop && self.policy.first() == Signal::INT {
            self.quiet = Some(Quiet::new(job.run().bytes(), Instant::now()));
        } else {
            self.send(self.policy.first(), job);
        }
    }

    /// Sends a signal to all processes of the command, and reports a further one.
    fn send(&mut self, signal: Signal, job: &mut Job) {
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
            match self.reaps {
                true => job.say(&format!("what the command left running has not ended; {sent}")),
                false => job.say(&format!("the command has not ended; {sent}")),
            }
        }
    }

    /// Takes the step that is due. Returns how budget-tee exits where there is nothing left to wait for.
    fn take_steps(&mut self, watch: &mut Watch<'_>, now: Instant) -> Option<Exit> {
        let forwarded = self.end.is_some();
        // A signal that is only passed on is for the child: what it leaves behind is left alone.
        let leaves_rest = matches!(self.reason, Some(EndReason::Told) | None);
        if leaves_rest && self.policy.reap && !self.reaps && self.child.status.is_some() && !self.child.alone {
            // The time for the command itself is over, whatever was sent to it.
            (self.reaps, self.ending) = (true, None);
            self.send(Signal::TERM, watch.job);
        }
        let gone = match leaves_rest && !self.reaps {
            true => self.child.status.is_some(),
            false => self.child.alone,
        };
        if gone && (forwarded || self.told.is_some()) {
            return Some(self.exit(watch.job));
        }
        if self.quiet.as_mut().is_some_and(|quiet| quiet.has_come(watch.job.run().bytes(), now)) {
            self.quiet = None;
            self.send(self.policy.first(), watch.job);
        }
        let child_is_gone = self.child.status.is_some();
        if self.rest_due.take_if(|due| *due <= now || child_is_gone).is_some() {
            self.child.signal_rest(self.policy.first());
        }
        if self.ending.as_mut().is_some_and(|ending| ending.take_due(now)) {
            match self.ending.and_then(Ending::next) {
                // Stdout has had the same time.
                _ if gone => return Some(self.exit(watch.job)),
                Some(signal) => self.send(signal, watch.job),
                None => {
                    watch.job.say("some processes of the command have not ended, even after KILL");
                    return Some(self.exit(watch.job));
                }
            }
        }
        match self.drain {
            Drain::NotYet if gone => self.drain = Drain::Until(now + DRAIN),
            Drain::Until(due) if due <= now => {
                watch.finish_relay();
                self.drain = Drain::Over;
            }
            _ => {}
        }
        None
    }

    fn exit(&self, job: &Job) -> Exit {
        // Why it was ended counts, not how it then ended: Claude Code exits with 0 on INT and 143 on TERM.
        let lingered = match self.reason {
            Some(EndReason::Stop) => return Exit::Stopped,
            Some(EndReason::ReaderGone) => return Exit::ReaderGone,
            Some(EndReason::Unwritable) => return Exit::Failed,
            Some(EndReason::Idle) => return Exit::Idle,
            _ if job.run().is_stopped() => return Exit::Stopped,
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
            (None, Some((code, None))) => {
                let code = code.unwrap_or_default();
                self.passed_on.map_or(Exit::Child(code), |signal| Exit::Interrupted(code, signal))
            }
            // Not even KILL has ended it.
            (None, None) => Exit::Signal(SIGKILL),
        }
    }
}
