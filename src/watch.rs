//! The watch: starts the relay, waits for signals and news, and has the screen drawn.
//!
//! One poll waits for everything. The relay never waits for the watch, and the watch ends the
//! process while the relay is blocked.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{dup2_stdout, stdin, stdout};
use signal_hook::consts::SIGWINCH;

use crate::exit::Exit;
use crate::relay::{End, lock, relay};
use crate::report::{self, Frame};
use crate::run::Run;
use crate::screen::Screen;
use crate::signals::Signals;

/// Bars are redrawn at most this often.
const REDRAW: Duration = Duration::from_millis(100);

/// A run under way, and the screen that shows it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What the relay feeds.
    pub run: Arc<Mutex<Run>>,
    /// Stderr.
    pub screen: Arc<Mutex<Screen>>,
}

/// Wakes the watch; one byte waits in the pipe at most.
struct Bell {
    pipe: PipeWriter,
    rung: Arc<AtomicBool>,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            let _ = (&self.pipe).write(&[1]);
        }
    }
}

/// Forwards stdin to stdout until the stream ends, a budget trips, or a signal comes.
///
/// # Errors
/// Where the pipes, signal handlers or thread that this takes cannot be had.
pub fn filter(shared: &Shared) -> std::io::Result<Exit> {
    let mut signals = Signals::catch()?;
    let (mut bell_end, bell) = pipe()?;
    let rung = Arc::new(AtomicBool::new(false));
    let relay = start_relay(shared.clone(), Bell { pipe: bell, rung: Arc::clone(&rung) })?;
    let mut redraw = Redraw::default();
    loop {
        let (called, arrived) = wait(&signals, &bell_end, redraw.wait())?;
        if called {
            // The bell is made ready before the run is looked at, so that no news is missed.
            rung.store(false, Ordering::SeqCst);
            if matches!(bell_end.read(&mut [0]), Ok(0)) {
                return Ok(ended(shared, relay));
            }
            redraw.wanted = true;
        }
        if arrived {
            for signal in signals.arrived() {
                if signal != SIGWINCH {
                    return Ok(Exit::Signal(signal));
                }
                redraw.wanted = true;
            }
        }
        if redraw.is_due() && draw(shared) {
            redraw = Redraw { wanted: false, last: Some(Instant::now()) };
        }
    }
}

/// When the bars are to be drawn again.
#[derive(Default)]
struct Redraw {
    wanted: bool,
    last: Option<Instant>,
}

impl Redraw {
    /// How long to wait for the next time; for ever where nothing is to be drawn.
    fn wait(&self) -> Option<Duration> {
        let since = self.last.map_or(REDRAW, |last| last.elapsed());
        self.wanted.then(|| REDRAW.saturating_sub(since))
    }

    fn is_due(&self) -> bool {
        self.wait() == Some(Duration::ZERO)
    }
}

fn start_relay(shared: Shared, bell: Bell) -> std::io::Result<JoinHandle<End>> {
    std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let shares = lock(&shared.screen).shares_stdout();
        let terminal = shares.then_some(&*shared.screen);
        let end = relay(stdin(), stdout(), &shared.run, terminal, || bell.ring());
        // The next in the pipe sees the end of the stream now, not after the report.
        if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
            let _ = dup2_stdout(null);
        }
        end
    })
}

/// Waits for the bell and for signals; says which of them there is.
fn wait(signals: &Signals, bell: &PipeReader, time: Option<Duration>) -> std::io::Result<(bool, bool)> {
    let bell_fd = bell.as_fd();
    let signals_fd = signals.as_fd();
    let mut fds = [PollFd::new(&bell_fd, PollFlags::IN), PollFd::new(&signals_fd, PollFlags::IN)];
    let timeout = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

/// The exit that the relay's end comes to.
fn ended(shared: &Shared, relay: JoinHandle<End>) -> Exit {
    let say = |text: &str| lock(&shared.screen).say(text);
    match relay.join() {
        Ok(End::Stream) => Exit::Done,
        Ok(End::Trip) => Exit::Tripped,
        Ok(End::ReaderGone) => Exit::ReaderGone,
        Ok(End::Unreadable(error)) => {
            say(&format!("cannot read stdin: {}", reason(error)));
            Exit::Failed
        }
        Ok(End::Unwritable(error)) => {
            say(&format!("cannot write to stdout: {}", reason(error)));
            Exit::Failed
        }
        Err(_) => Exit::Failed,
    }
}

/// The system's words for an error, without the number.
#[must_use]
pub fn reason(error: impl Into<std::io::Error>) -> String {
    let text = error.into().to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Says what is to be said and shows how the budgets stand. Returns whether the screen was free:
/// the relay holds it while it writes to the same terminal.
fn draw(shared: &Shared) -> bool {
    let mut screen = match shared.screen.try_lock() {
        Ok(screen) => screen,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    let mut run = lock(&shared.run);
    let notices = run.notices();
    let frame = if screen.is_quiet() { Frame::default() } else { report::frame(&run, screen.style()) };
    let mode = run.mode;
    drop(run);
    for notice in notices {
        screen.say(&report::notice(&notice, mode));
    }
    screen.show(&frame);
    true
}

/// The last words: what is still to be said, and the report.
pub fn finish(shared: &Shared, exit: Exit) {
    let mut screen = match shared.screen.try_lock() {
        Ok(screen) => screen,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // The terminal has stopped taking text.
        Err(TryLockError::WouldBlock) => return,
    };
    let mut run = lock(&shared.run);
    for notice in run.notices() {
        screen.say(&report::notice(&notice, run.mode));
    }
    if exit == Exit::ReaderGone || screen.is_quiet() {
        screen.finish("");
    } else {
        let report = report::report(&run, exit, screen.style());
        screen.finish(&report);
    }
}
