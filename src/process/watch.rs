//! The watch: starts the relay, waits for signals and news, and has the bars drawn.
//!
//! One poll waits for everything; `phase` has the loop around it. The relay never waits for the watch,
//! and the watch can end the process while the relay is blocked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{dup2_stdin, dup2_stdout, stdout};
use signal_hook::consts::SIGCONT;

use crate::process::job::Job;
use crate::process::signals::{self, Signals};
use crate::process::wake::{RaiseAtEnd, Wake, lock};
use crate::show::text::reason;
use crate::stream::relay::{End, Relay};

/// Bars are redrawn at most this often.
// Ten times a second looks live, and keeps the cost from growing with the lines of the stream.
const REDRAW: Duration = Duration::from_millis(100);

/// Where stderr did not take what was drawn, it is tried again this often.
const RETRY_STDERR: Duration = Duration::from_secs(1);

/// The time in the bars goes on this often.
const TICK: Duration = Duration::from_secs(1);

/// What a wait brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The relay has ended.
    pub(crate) end: Option<End>,
    /// Signals that arrived, without those that only ask for a redraw.
    pub(crate) signals: Vec<i32>,
    /// Nobody can read stdout any more.
    pub(crate) reader_gone: bool,
}

/// How the relay and the watch wake each other.
#[derive(Debug)]
struct Wakes {
    /// A total has changed, or there is something to report: worth a redraw.
    news: Wake,
    /// The run was stopped.
    urgent: Wake,
    /// The relay has ended.
    ended: Wake,
    /// The relay is to forward what there is and wait for nothing more.
    finish: Wake,
    /// The relay waits for stdout.
    is_writing: AtomicBool,
}

/// The relay at work, and everything that is waited for.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    pub(crate) job: &'a mut Job,
    signals: Signals,
    wakes: Arc<Wakes>,
    relay: Option<JoinHandle<End>>,
    can_be_stopped: bool,
    redraw: Redraw,
}

impl<'a> Watch<'a> {
    /// Starts the relay from `input` to stdout; see [`Relay::ends_at_stop`].
    pub(crate) fn start(
        job: &'a mut Job,
        signals: Signals,
        input: impl AsFd + Send + 'static,
        ends_at_stop: bool,
    ) -> io::Result<Self> {
        let new = Wake::new;
        let (news, urgent, ended, finish) = (new()?, new()?, new()?, new()?);
        let wakes = Arc::new(Wakes { news, urgent, ended, finish, is_writing: AtomicBool::new(false) });
        // Only then does a filter poll before each read, which costs a system call.
        let can_be_stopped = ends_at_stop && job.keeper.as_ref().is_some_and(|keeper| keeper.limited);
        let (run, screen, of_relay) = (Arc::clone(&job.run), Arc::clone(&job.screen), Arc::clone(&wakes));
        // A thread of its own: it may block on stdout for ever, while signals and kill timers must work.
        let relay = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let _ended = RaiseAtEnd(&of_relay.ended);
            let shares = lock(&screen).shares_stdout();
            let relay = Relay {
                run: &run,
                terminal: shares.then_some(&*screen),
                news: &of_relay.news,
                urgent: &of_relay.urgent,
                ends_at_stop,
                finish: &of_relay.finish,
                can_be_stopped,
                is_writing: &of_relay.is_writing,
            };
            let end = relay.relay(&input, stdout());
            close_streams(ends_at_stop && end != End::Stream);
            end
        })?;
        let redraw = Redraw { wanted: true, ticks: job.draws_bars(), ..Redraw::default() };
        Ok(Watch { job, signals, wakes, relay: Some(relay), can_be_stopped, redraw })
    }

    /// Whether the relay waits for stdout, and not for the stream.
    pub(crate) fn is_writing(&self) -> bool {
        self.wakes.is_writing.load(Ordering::Relaxed)
    }

    /// Makes the relay forward what there is and wait for nothing more.
    pub(crate) fn finish_relay(&self) {
        self.wakes.finish.raise();
    }

    /// Waits for news until `due`, or until one of `others` is readable; the bars are drawn meanwhile.
    /// With `stdout_too` it also notices that stdout has lost its reader.
    pub(crate) fn wait(
        &mut self,
        due: Option<Instant>,
        others: [Option<BorrowedFd<'_>>; 2],
        stdout_too: bool,
    ) -> io::Result<News> {
        let keeper = self.job.keeper.as_ref().and_then(|keeper| keeper.due());
        let due = [due, keeper].into_iter().flatten().min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let time = [self.redraw.wait(), due].into_iter().flatten().min();
        // Once the relay has ended, stdout is /dev/null.
        let stdout_too = stdout_too && self.relay.is_some();
        let [news, urgent, ended, _, reader_gone, ledger, ..] = {
            let input = |fd| Some((fd, PollFlags::IN));
            let fds = [
                input(self.wakes.news.as_fd()),
                input(self.wakes.urgent.as_fd()),
                input(self.wakes.ended.as_fd()),
                input(self.signals.as_fd()),
                stdout_too.then_some((stdout(), PollFlags::empty())),
                self.job.keeper.as_ref().and_then(|keeper| keeper.wake()).and_then(input),
                others[0].and_then(input),
                others[1].and_then(input),
            ];
            ready(fds, self.signals.as_fd(), time)?
        };
        if let Some(keeper) = self.job.keeper.as_mut().filter(|_| ledger) {
            keeper.woken();
        }
        let mut brought = News { reader_gone, ..News::default() };
        for (is_raised, wake) in [(news, &self.wakes.news), (urgent, &self.wakes.urgent), (ended, &self.wakes.ended)] {
            if is_raised {
                // The flag of `news` stays up until the bars are drawn: however many lines count meanwhile, they
                // wake the watch once.
                wake.silence();
                self.redraw.wanted = true;
            }
        }
        if urgent {
            self.wakes.urgent.lower();
        }
        if ended {
            brought.end = self.relay.take().map(|relay| self.ended(relay));
        }
        // Whether or not their descriptor was among those that were ready: a signal that came before the end of the
        // stream may be delivered just after the poll, and would be missed (one in eight times).
        let (redraw, others): (Vec<i32>, _) =
            self.signals.arrived().partition(|signal| signals::REDRAW.contains(signal));
        brought.signals = others;
        if redraw.contains(&SIGCONT) {
            // At once: `fg` brings the bars back.
            self.redraw = Redraw { ticks: self.redraw.ticks, ..Redraw::default() };
        }
        self.redraw.wanted |= !redraw.is_empty();
        self.keep_up();
        Ok(brought)
    }

    /// Draws the bars and keeps the ledger, where that is due.
    fn keep_up(&mut self) {
        let is_due = self.redraw.wait() == Some(Duration::ZERO);
        if is_due {
            // Until now further news woke nobody. The flag goes down before the run is looked at, so that
            // none is missed.
            self.wakes.news.lower();
        }
        let changed = self.job.keep_ledger(|| self.wakes.news.lower());
        self.redraw.wanted |= changed;
        // The relay may be blocked in a read that brings nothing for minutes.
        if changed && self.can_be_stopped && self.job.run().is_stopped() {
            self.finish_relay();
        }
        if is_due {
            let behind = self.job.draw();
            self.redraw = Redraw { wanted: behind, last: Some(Instant::now()), behind, ..self.redraw };
        }
    }

    /// How the relay ended; a failure is reported.
    fn ended(&mut self, relay: JoinHandle<End>) -> End {
        // A relay that has panicked has failed to read, as far as anybody can tell.
        let end = relay.join().unwrap_or(End::Unreadable(Errno::IO));
        match end {
            End::Unreadable(error) => self.job.say(&format!("cannot read stdin: {}", reason(error))),
            End::Unwritable(error) => self.job.say(&format!("cannot write to stdout: {}", reason(error))),
            _ => {}
        }
        end
    }
}

/// Closes stdout once all is written, and stdin where nothing more is read.
fn close_streams(stdin_too: bool) {
    // The next program of the pipeline sees the end of the stream now, not after the report; and a writer
    // that goes on learns that nobody reads. By /dev/null in their place: the next file that is opened
    // would get a number that is free, and what goes to stdout with it.
    if stdin_too && let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = dup2_stdin(null);
    }
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
}

/// When the bars are to be drawn again.
#[derive(Clone, Copy, Debug, Default)]
struct Redraw {
    wanted: bool,
    last: Option<Instant>,
    /// Stderr has not taken the last frame yet.
    behind: bool,
    /// The time in the bars goes on where nothing else does.
    ticks: bool,
}

impl Redraw {
    /// How long to wait for the next time; `None` where nothing is to be drawn.
    fn wait(&self) -> Option<Duration> {
        let every = match (self.wanted, self.behind) {
            (true, true) => RETRY_STDERR,
            (true, false) => REDRAW,
            (false, _) => TICK,
        };
        let since = self.last.map_or(every, |last| last.elapsed());
        (self.wanted || self.ticks).then(|| every.saturating_sub(since))
    }
}

/// Which of these descriptors have something to say, after at most `time`. An end or an error counts,
/// which poll reports without being asked. `idle` stands in for those that are not there.
fn ready<const N: usize>(
    fds: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    idle: BorrowedFd<'_>,
    time: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| {
        let (fd, flags) = fd.unwrap_or((idle, PollFlags::empty()));
        PollFd::from_borrowed_fd(fd, flags)
    });
    let timeout = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(std::array::from_fn(|at| fds[at].is_some() && !polled[at].revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}
