//! The watch: starts the relay, waits for signals and news, and has the screen drawn.
//!
//! One poll waits for everything. The relay never waits for the watch, and whoever holds the watch
//! can end the process while the relay is blocked.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use crate::error::Exit;
use crate::ledger::keeper::Account;
use crate::process::hook::{self, Hooks};
use crate::process::signals::{self, Signals};
use crate::run::{Run, lock};
use crate::show::report::{self, Frame, Style};
use crate::show::screen::Screen;
use crate::stream::relay::{End, Enough, Relay};

/// Bars are redrawn at most this often.
const REDRAW: Duration = Duration::from_millis(100);

/// Where stderr does not take what was drawn, it is tried again this often.
const BEHIND: Duration = Duration::from_secs(1);

/// A run under way, and the screen that shows it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What the relay feeds.
    pub run: Arc<Mutex<Run>>,
    /// Stderr.
    pub screen: Arc<Mutex<Screen>>,
    /// What is run when a budget runs out.
    pub hooks: Arc<Mutex<Hooks>>,
}

/// Forwards stdin to stdout until the stream ends, a budget trips, or a signal comes.
///
/// # Errors
/// Where the pipes, signal handlers or thread that this takes cannot be had.
pub fn filter(shared: &Shared, account: Option<&mut Account>) -> io::Result<Exit> {
    let signals = Signals::catch(signals::FILTER)?;
    let mut watch = Watch::start(shared.clone(), account, signals, stdin(), true)?;
    let (exit, signal) = loop {
        let news = watch.wait(None, None, false)?;
        shared.run_hooks();
        shared.collect_hooks();
        if let Some(end) = news.end {
            let exit = match end {
                End::Stream => Exit::Done,
                End::Trip => Exit::Tripped,
                End::ReaderGone => Exit::ReaderGone,
                End::Unreadable(_) | End::Unwritable(_) => Exit::Failed,
            };
            break (exit, news.end_signal());
        }
        if let Some(signal) = news.end_signal() {
            return Ok(Exit::Signal(signal));
        }
    };
    match (exit, signal) {
        (_, None) => watch.await_hooks(exit, || shared.collect_hooks()),
        (Exit::Done, Some(signal)) => Ok(Exit::Signal(signal)),
        (exit, Some(_)) => Ok(exit),
    }
}

/// What a wait came to.
#[derive(Debug, Default)]
pub struct News {
    /// The relay has ended.
    pub end: Option<End>,
    /// Signals that arrived, other than those that only tell of a redraw.
    pub signals: Vec<i32>,
    /// Nobody can read stdout any more.
    pub reader_gone: bool,
}

impl News {
    /// A signal among them that ends budget-tee.
    fn end_signal(&self) -> Option<i32> {
        self.signals.iter().find(|signal| signals::END.contains(signal)).copied()
    }
}

/// The relay at work, and everything that is waited for.
#[derive(Debug)]
pub struct Watch<'a> {
    shared: Shared,
    account: Option<&'a mut Account>,
    signals: Signals,
    bell: PipeReader,
    rung: Arc<AtomicBool>,
    relay: Option<JoinHandle<End>>,
    enough: Arc<Enough>,
    can_be_stopped: bool,
    redraw: Redraw,
}

impl<'a> Watch<'a> {
    /// Starts the relay from `input` to stdout; see [`Relay::ends_at_trip`].
    ///
    /// # Errors
    /// Where the pipes or the thread that this takes cannot be had.
    pub fn start(
        shared: Shared,
        account: Option<&'a mut Account>,
        signals: Signals,
        input: impl AsFd + Send + 'static,
        ends_at_trip: bool,
    ) -> io::Result<Self> {
        let (bell, bell_writer) = pipe()?;
        let rung = Arc::new(AtomicBool::new(false));
        let enough = Arc::new(Enough::new()?);
        let bell_end = Bell { pipe: bell_writer, rung: Arc::clone(&rung) };
        let can_be_stopped = ends_at_trip && account.as_ref().is_some_and(|account| account.is_limited());
        let (shared_too, enough_too) = (shared.clone(), Arc::clone(&enough));
        let relay = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let shares = lock(&shared_too.screen).shares_stdout();
            let relay = Relay {
                run: &shared_too.run,
                terminal: shares.then_some(&*shared_too.screen),
                ring: |urgent| bell_end.ring(urgent),
                ends_at_trip,
                enough: &enough_too,
                can_be_stopped,
            };
            let end = relay.relay(&input, stdout());
            if ends_at_trip
                && !matches!(end, End::Stream)
                && let Ok(null) = std::fs::File::open("/dev/null")
            {
                // Nothing more is read: its writer learns of it now.
                let _ = dup2_stdin(null);
            }
            // The next in the pipe sees the end of the stream now, not after the report; and a
            // child that writes on learns that nobody reads.
            if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
                let _ = dup2_stdout(null);
            }
            end
        })?;
        let (relay, redraw) = (Some(relay), Redraw::default());
        Ok(Watch { shared, account, signals, bell, rung, relay, enough, can_be_stopped, redraw })
    }

    /// Tells the relay to forward what there is and to wait for nothing more.
    pub fn enough(&self) {
        self.enough.say();
    }

    /// Waits for news, at most for `time`, or until `child` is readable; meanwhile the bars are
    /// drawn. Whether stdout still has a reader is looked at where `stdout_too` says so.
    ///
    /// # Errors
    /// Where poll fails.
    pub fn wait(
        &mut self,
        time: Option<Duration>,
        child: Option<BorrowedFd<'_>>,
        stdout_too: bool,
    ) -> io::Result<News> {
        let due = self.account.as_ref().and_then(|account| account.due());
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let time = [time, self.redraw.wait(), due].into_iter().flatten().min();
        // The bell of a relay that has ended rings for ever; stdout is not its own any more.
        let listening = self.relay.is_some();
        let [bell, called, reader_gone, _, ledger] = {
            let bell = if listening { self.bell.as_fd() } else { self.signals.as_fd() };
            let out: BorrowedFd<'_> = if stdout_too && listening { stdout() } else { bell };
            let signals = self.signals.as_fd();
            let child = child.unwrap_or(signals);
            let ledger = self.account.as_ref().and_then(|account| account.bell());
            let fds = [
                (bell, PollFlags::IN),
                (signals, PollFlags::IN),
                (out, PollFlags::empty()),
                (child, PollFlags::IN),
                (ledger.unwrap_or(signals), PollFlags::IN),
            ];
            let [bell, called, reader_gone, child, rang] = ready(fds, time)?;
            [bell, called, reader_gone, child, rang && ledger.is_some()]
        };
        if let Some(account) = self.account.as_mut().filter(|_| ledger) {
            account.called();
        }
        let mut news = News { reader_gone: reader_gone && stdout_too && listening, ..News::default() };
        if bell && listening {
            self.redraw.wanted = true;
            if matches!(self.bell.read(&mut [0]), Ok(0)) {
                news.end = self.relay.take().map(|relay| self.ended(relay));
            }
        }
        if called {
            let (redraw, others) = self.signals.arrived().partition(|signal| signals::is_redraw(*signal));
            news.signals = others;
            self.redraw.wanted |= !Vec::is_empty(&redraw);
        }
        let is_due = self.redraw.is_due();
        if is_due {
            // Further news had not to be told since the bell rang. It rings again from before the
            // run is looked at, so that none is missed.
            self.rung.store(false, Ordering::SeqCst);
        }
        self.keep_account();
        if is_due {
            let behind = self.shared.draw();
            self.redraw = Redraw { wanted: behind, last: Some(Instant::now()), behind };
        }
        Ok(news)
    }

    /// Waits for the last hooks, which may take a little longer than the stream, and collects them
    /// with `collect`. Returns how budget-tee exits: as was decided, or by a signal that came.
    ///
    /// # Errors
    /// Where poll fails.
    pub fn await_hooks(&mut self, exit: Exit, mut collect: impl FnMut()) -> io::Result<Exit> {
        let due = Instant::now() + hook::LAST;
        while lock(&self.shared.hooks).are_running() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let news = self.wait(Some(left), None, false)?;
            collect();
            if let Some(signal) = news.end_signal() {
                return Ok(Exit::Signal(signal));
            }
        }
        let words = lock(&self.shared.hooks).leave();
        words.iter().for_each(|words| self.shared.say(words));
        Ok(exit)
    }

    /// Records what was used and looks at what others used, where that is due.
    fn keep_account(&mut self) {
        let Some(account) = &mut self.account else { return };
        account.news(&lock(&self.shared.run));
        if account.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.rung.store(false, Ordering::SeqCst);
        let (changed, words) = account.step(&self.shared.run);
        if let Some(words) = words {
            self.shared.say(&words);
        }
        self.redraw.wanted |= changed;
        if changed && self.can_be_stopped && lock(&self.shared.run).tripped() {
            self.enough.say();
        }
    }

    /// How the relay ended; where it failed, that is said.
    fn ended(&self, relay: JoinHandle<End>) -> End {
        let end = relay.join().unwrap_or(End::Unreadable(Errno::IO));
        match end {
            End::Unreadable(error) => self.shared.say(&format!("cannot read stdin: {}", report::reason(error))),
            End::Unwritable(error) => self.shared.say(&format!("cannot write to stdout: {}", report::reason(error))),
            _ => {}
        }
        end
    }
}

/// Wakes the watch: for news once until it is about to look at the run, for what is urgent at once.
/// The pipe's end tells the relay's.
struct Bell {
    pipe: PipeWriter,
    rung: Arc<AtomicBool>,
}

impl Bell {
    fn ring(&self, urgent: bool) {
        if !self.rung.swap(true, Ordering::SeqCst) || urgent {
            let _ = (&self.pipe).write(&[1]);
        }
    }
}

/// When the bars are to be drawn again.
#[derive(Debug, Default)]
struct Redraw {
    wanted: bool,
    last: Option<Instant>,
    /// Stderr has not taken the last yet.
    behind: bool,
}

impl Redraw {
    /// How long to wait for the next time; for ever where nothing is to be drawn.
    fn wait(&self) -> Option<Duration> {
        let every = if self.behind { BEHIND } else { REDRAW };
        let since = self.last.map_or(every, |last| last.elapsed());
        self.wanted.then(|| every.saturating_sub(since))
    }

    fn is_due(&self) -> bool {
        self.wait() == Some(Duration::ZERO)
    }
}

/// Which of these descriptors have something to tell, after at most `time`. What poll tells unasked
/// counts: an end, an error.
fn ready<const N: usize>(fds: [(BorrowedFd<'_>, PollFlags); N], time: Option<Duration>) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let timeout = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(polled.map(|fd| !fd.revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

impl Shared {
    /// Says a line on stderr.
    pub fn say(&self, text: &str) {
        if let Some(mut screen) = self.free_screen() {
            screen.say(text);
        }
    }

    /// Runs hooks where a budget has called for it.
    pub fn run_hooks(&self) {
        let alarms = lock(&self.run).alarms();
        let mut hooks = lock(&self.hooks);
        let words: Vec<_> = alarms.iter().filter_map(|(cause, budget)| hooks.run(*cause, budget)).collect();
        drop(hooks);
        words.iter().for_each(|words| self.say(words));
    }

    fn collect_hooks(&self) {
        let words = lock(&self.hooks).collect();
        words.iter().for_each(|words| self.say(words));
    }

    /// Says what is to be said.
    pub fn say_notices(&self) {
        if let Some(mut screen) = self.free_screen() {
            let words = notices(&mut lock(&self.run), screen.style());
            words.iter().for_each(|words| screen.say(words));
        }
    }

    /// The same, and shows how the budgets stand. Where the relay holds the screen, that waits: the
    /// relay rings once it has written. Returns whether stderr has yet to take some of it.
    fn draw(&self) -> bool {
        let Some(mut screen) = self.free_screen() else { return false };
        let mut run = lock(&self.run);
        let frame = if screen.is_quiet() { Frame::default() } else { report::frame(&run, screen.style()) };
        let words = notices(&mut run, screen.style());
        // The relay must not wait for stderr.
        drop(run);
        words.iter().for_each(|words| screen.say(words));
        screen.show(&frame);
        screen.is_behind()
    }

    /// The screen, unless the relay holds it: it does while it writes to the same terminal, which
    /// may have stopped taking text.
    fn free_screen(&self) -> Option<MutexGuard<'_, Screen>> {
        match self.screen.try_lock() {
            Ok(screen) => Some(screen),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// What is to be said since the last time.
fn notices(run: &mut Run, style: Style) -> Vec<String> {
    run.notices().iter().map(|notice| report::notice(notice, run, style)).collect()
}

/// The last words: what is still to be said, and the report.
pub fn finish(shared: &Shared, exit: Exit) {
    let Some(mut screen) = shared.free_screen() else { return };
    let mut run = lock(&shared.run);
    let style = screen.style();
    notices(&mut run, style).iter().for_each(|words| screen.say(words));
    if matches!(exit, Exit::Done | Exit::Child(0)) && !run.meter.usage_seen() {
        screen.say(report::NO_USAGE);
    }
    let nothing_ran = matches!(exit, Exit::CannotRun | Exit::NotFound | Exit::Child(126 | 127)) && run.lines() == 0;
    let quiet = exit == Exit::ReaderGone || nothing_ran || screen.is_quiet();
    let report = if quiet { String::new() } else { report::report(&run, exit, style) };
    screen.finish(&report);
}
