//! The phases of a run, and the one loop through them: running, ending, closing.
//!
//! Signals are heard in all of them. Where the stream comes from, and how that is ended, is an
//! [`Origin`]'s: a filter's input with its writers, or a wrapped command.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use signal_hook::consts::SIGTSTP;

use crate::error::Exit;
use crate::ledger::keeper::Keeper;
use crate::process::hook::HOOKS_WAIT;
use crate::process::job::Job;
use crate::process::signals;
use crate::process::watch::{News, Watch};

/// Where a stream comes from, and how that is ended.
pub(crate) trait Origin {
    /// A signal came to budget-tee.
    fn signalled(&mut self, signal: i32, job: &mut Job, now: Instant);

    /// budget-tee is about to be stopped by the terminal, or was and goes on.
    fn suspend(&mut self, _stops: bool) {}

    /// When the next step is due.
    fn due(&self, now: Instant) -> Option<Instant>;

    /// Readable where a step is due before that.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether it matters now that stdout has lost its reader, where nothing is written to it.
    fn minds_reader(&self) -> bool;

    /// Reaps the processes that have ended, hooks among them.
    fn reap(&mut self, job: &mut Job);

    /// Takes the steps that are due. Returns how budget-tee exits where the stream and what it came from
    /// have ended, or are waited for no longer.
    fn step(&mut self, watch: &mut Watch<'_>, news: &News, now: Instant) -> Option<Exit>;

    /// Whoever sent a signal waits for budget-tee to end, and hooks are not worth that.
    fn is_told(&self) -> bool;
}

/// Runs a job through its phases to its end.
pub(crate) fn run(mut watch: Watch<'_>, origin: &mut impl Origin) -> io::Result<Exit> {
    // While the stream runs and while its origin is being ended, the origin has the next step; both happen
    // at once, since a filter's writers are ended while its last line is still being written.
    let mut closing: Option<Closing> = None;
    loop {
        let (due, ledger) = match &closing {
            Some(closing) => (Some(closing.due()), closing.fd()),
            None => (origin.due(Instant::now()), None),
        };
        let stdout_too = closing.is_none() && origin.minds_reader();
        let news = watch.wait(due, [origin.fd(), ledger], stdout_too)?;
        // Before signals are looked at: what has ended must not be signalled.
        origin.reap(watch.job);
        let now = Instant::now();
        if news.signals.contains(&SIGTSTP) {
            suspend(origin, watch.job);
        }
        match closing.take() {
            None => {
                news.signals.iter().for_each(|signal| origin.signalled(*signal, watch.job, now));
                if let Some(exit) = origin.step(&mut watch, &news, now) {
                    let is_told = origin.is_told() || matches!(exit, Exit::Signal(_));
                    closing = Some(Closing::begin(exit, is_told, watch.job));
                }
            }
            Some(begun) => match news.signals.iter().find(|signal| signals::END.contains(signal)) {
                Some(signal) => return Ok(begun.called_off(*signal, watch.job)),
                None => closing = Some(begun),
            },
        }
        // Not before: a hook that has just been started would be taken for a process of the command.
        watch.job.run_hooks();
        if let Some(exit) = closing.as_mut().and_then(|closing| closing.step(watch.job, now)) {
            return Ok(exit);
        }
    }
}

/// Is stopped by the terminal, without leaving bars behind under the shell's prompt.
fn suspend(origin: &mut impl Origin, job: &mut Job) {
    job.suspend();
    origin.suspend(true);
    signals::stop();
    origin.suspend(false);
}

/// The last phase: the ledger takes in the last of what was spent, and hooks end.
struct Closing {
    exit: Exit,
    is_told: bool,
    ledger: Option<Keeper>,
    /// Nothing is waited for any longer than this.
    due: Instant,
}

impl Closing {
    fn begin(exit: Exit, is_told: bool, job: &mut Job) -> Self {
        let (ledger, now) = (job.close(matches!(exit, Exit::Signal(_))), Instant::now());
        // With a ledger the time for hooks begins when that has closed, which takes a limited time.
        let mut closing = Closing { exit, is_told, ledger, due: now + HOOKS_WAIT * 2 };
        if closing.ledger.is_none() {
            closing.ledger_closed(job, now);
        }
        closing
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.ledger.as_ref().and_then(Keeper::wake)
    }

    /// When the next step is due.
    fn due(&self) -> Instant {
        self.ledger.as_ref().and_then(Keeper::due).map_or(self.due, |ledger| ledger.min(self.due))
    }

    /// A signal ends the wait. Returns how budget-tee exits.
    fn called_off(self, signal: i32, job: &mut Job) -> Exit {
        if self.ledger.is_some() {
            job.say("not waiting for the ledger; the last tokens may be missing in it");
        }
        match self.exit {
            Exit::Done | Exit::Child(_) => Exit::Signal(signal),
            other => other,
        }
    }

    /// Takes in what has ended. Returns how budget-tee exits once there is nothing left to wait for.
    fn step(&mut self, job: &mut Job, now: Instant) -> Option<Exit> {
        if let Some(messages) = self.ledger.as_mut().and_then(|ledger| ledger.ended(&job.run)) {
            self.ledger = None;
            job.say_all(messages);
            self.ledger_closed(job, now);
        }
        let waits_for_hooks = !self.is_told && job.hooks.pids().next().is_some();
        if self.ledger.is_some() || waits_for_hooks && now < self.due {
            return None;
        }
        if !self.is_told {
            let running = job.hooks.abandon();
            job.say_all(running);
        }
        Some(self.exit)
    }

    /// The ledger's last word may have brought a budget over its limit.
    fn ledger_closed(&mut self, job: &mut Job, now: Instant) {
        self.exit = job.closed(self.exit);
        job.run_hooks();
        self.due = now + HOOKS_WAIT;
    }
}
