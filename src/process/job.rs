//! A job: a run under way with its screen, its hooks and its ledger, and how they end together.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::error::Exit;
use crate::ledger::keeper::Keeper;
use crate::ledger::store::LEDGER_WAIT;
use crate::process::hook::Hooks;
use crate::process::wake::lock;
use crate::run::{Run, StopReason};
use crate::show::bar::frame;
use crate::show::report;
use crate::show::screen::{Frame, Screen, Severity};
use crate::show::text::Style;

/// How long a run waits at the end for a ledger that was unreachable.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// The same after a signal.
// Whoever sent it is waiting. Disks and servers answer in milliseconds.
const AFTER_SIGNAL: Duration = Duration::from_millis(100);

/// A run under way. The run and the screen are shared with the relay's thread.
#[derive(Debug)]
pub struct Job {
    pub(crate) run: Arc<Mutex<Run>>,
    pub(crate) screen: Arc<Mutex<Screen>>,
    pub(crate) hooks: Hooks,
    pub(crate) keeper: Option<Keeper>,
    /// Messages for a screen that the relay held.
    unsaid: Vec<String>,
    started: Instant,
}

impl Job {
    /// A job of this run; `keeper` keeps its ledger, where it has one.
    pub fn new(run: Run, screen: Screen, hooks: Hooks, keeper: Option<Keeper>) -> Self {
        let (run, screen) = (Arc::new(Mutex::new(run)), Arc::new(Mutex::new(screen)));
        Job { run, screen, hooks, keeper, unsaid: Vec::new(), started: Instant::now() }
    }

    /// The run, locked.
    pub fn run(&self) -> MutexGuard<'_, Run> {
        lock(&self.run)
    }

    /// The screen, unless the relay holds it.
    fn free_screen(&self) -> Option<MutexGuard<'_, Screen>> {
        // It does while it writes to the same terminal, which takes nothing after Ctrl-S. The watch must
        // not wait for that: it has signals and kill timers to serve.
        match self.screen.try_lock() {
            Ok(screen) => Some(screen),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Reports at the start that block mode has no budget to stop this run at, where that is so.
    pub fn say_unbound(&mut self) {
        let style = self.free_screen().map(|screen| screen.style());
        let message = style.and_then(|style| report::unbound(&self.run(), style));
        self.say_all(message);
    }

    /// Prints a message.
    pub fn say(&mut self, message: &str) {
        self.unsaid.push(message.to_owned());
        self.say_notices();
    }

    pub(crate) fn say_all(&mut self, messages: impl IntoIterator<Item = String>) {
        messages.into_iter().for_each(|message| self.say(&message));
    }

    /// Prints the run's notices, and what was not said yet. Where the relay holds the screen, that waits:
    /// the relay wakes the watch once it has written.
    pub(crate) fn say_notices(&mut self) {
        let mut unsaid = std::mem::take(&mut self.unsaid);
        if let Some(mut screen) = self.free_screen() {
            for (message, severity) in notices(&mut self.run(), screen.style()) {
                screen.say(&message, severity);
            }
            unsaid.iter().for_each(|message| screen.say(message, Severity::Warning));
            unsaid.clear();
        }
        self.unsaid = unsaid;
    }

    /// Prints what there is to say and draws the bars, unless the relay holds the screen. Returns whether
    /// stderr has yet to take some of it.
    pub(crate) fn draw(&mut self) -> bool {
        self.say_notices();
        let Some(mut screen) = self.free_screen() else { return false };
        // The relay must not wait for stderr: the run is free again before that is written.
        let frame = match screen.is_quiet() {
            true => Frame::default(),
            false => frame(&self.run(), self.started.elapsed(), screen.style()),
        };
        screen.show(&frame)
    }

    /// Whether bars are drawn, and the time in them goes on.
    pub(crate) fn draws_bars(&self) -> bool {
        self.free_screen().is_some_and(|screen| screen.draws_bars())
    }

    /// Takes the bars away, since the terminal stops the job.
    pub(crate) fn suspend(&mut self) {
        if let Some(mut screen) = self.free_screen() {
            screen.suspend();
        }
    }

    /// Runs the hooks of the budgets that have passed a threshold.
    pub(crate) fn run_hooks(&mut self) {
        // The run is not locked while a shell is started: the relay would wait for it.
        let passed = self.run().take_passed();
        let hooks = &mut self.hooks;
        let failed: Vec<_> = passed.iter().filter_map(|(threshold, budget)| hooks.run(*threshold, budget)).collect();
        self.say_all(failed);
    }

    pub(crate) fn reap_hooks(&mut self) {
        let failed = self.hooks.reap();
        self.say_all(failed);
    }

    /// Records and looks at the ledger where that is due. Returns whether what others spent has changed.
    pub(crate) fn keep_ledger(&mut self, before: impl FnOnce()) -> bool {
        let Some(keeper) = &mut self.keeper else { return false };
        keeper.plan(&lock(&self.run));
        if keeper.due().is_none_or(|due| due > Instant::now()) {
            return false;
        }
        before();
        let (changed, messages) = keeper.step(&self.run);
        self.say_all(messages);
        changed
    }

    /// Begins to close the ledger, which may take a while; none where there is no ledger.
    pub(crate) fn close(&mut self, is_told: bool) -> Option<Keeper> {
        // What has been decided is reported before the ledger is waited for.
        self.say_notices();
        // A ledger that was unreachable is hardly worth waiting for.
        let is_unreachable = self.run().stop_reason() == Some(StopReason::Ledger);
        let wait = match (is_told, is_unreachable) {
            (true, _) => AFTER_SIGNAL,
            (false, true) => SHORT_WAIT,
            (false, false) => LEDGER_WAIT,
        };
        let mut keeper = self.keeper.take()?;
        keeper.begin_end(&self.run, wait);
        Some(keeper)
    }

    /// The ledger has closed. Returns how budget-tee exits: others may have used up a budget meanwhile.
    pub(crate) fn closed(&self, exit: Exit) -> Exit {
        let mut run = self.run();
        match exit {
            Exit::Done | Exit::Child(_) if run.is_stopped() => Exit::Stopped,
            _ if exit.is_success() && run.fails_without_usage() => Exit::Failed,
            _ => exit,
        }
    }

    /// Prints what is still to be reported, and the final report.
    pub fn finish(&mut self, exit: Exit) {
        self.say_notices();
        let Some(mut screen) = self.free_screen() else { return };
        let run = self.run();
        let style = screen.report_style();
        // Nothing ran: there is nothing to report.
        let nothing = match exit {
            Exit::CannotRun | Exit::NotFound | Exit::Refused | Exit::Child(126 | 127) => run.lines() == 0,
            _ => false,
        };
        let quiet = exit == Exit::ReaderGone || nothing || screen.is_quiet();
        let report = if quiet { String::new() } else { report::report(&run, exit, self.started.elapsed(), style) };
        screen.finish(&report);
    }
}

/// The texts of the run's notices since the last time.
fn notices(run: &mut Run, style: Style) -> Vec<(String, Severity)> {
    let severity = |ends_run| if ends_run { Severity::Error } else { Severity::Warning };
    let notices = run.take_notices().into_iter();
    notices.map(|notice| (report::notice(&notice, run, style), severity(notice.ends_run(run.mode)))).collect()
}
