//! The filter: forwards stdin to stdout, and ends whoever writes to stdin where block mode stops.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::stdio::stdin;
use signal_hook::consts::SIGINT;

use crate::error::Exit;
use crate::process::job::Job;
use crate::process::kill::{KillPolicy, SENT_TWICE};
use crate::process::phase::{self, Origin};
use crate::process::pipe::Pipe;
use crate::process::signals::{self, Signals};
use crate::process::watch::{News, Watch};
use crate::process::writers::Writers;
use crate::stream::relay::End;

/// How long after Ctrl-C to say what is waited for.
// A writer that ends by the same Ctrl-C has ended by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Forwards stdin to stdout until the stream ends, block mode stops it, or a signal comes.
pub fn filter(job: &mut Job, policy: KillPolicy) -> io::Result<Exit> {
    let signals = Signals::catch(signals::FILTER)?;
    let kind = fstat(stdin()).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
    let mut filter = Filter {
        policy,
        // Before the relay closes stdin.
        pipe: Pipe::of(stdin()),
        reads_on: matches!(kind, Some(FileType::Fifo | FileType::Socket)),
        end: None,
        has_stopped: false,
        writers: None,
        told: None,
        leaves: false,
        explain_at: None,
    };
    phase::run(Watch::start(job, signals, stdin(), true)?, &mut filter)
}

/// Ends whoever writes to stdin, where block mode does not start.
// The writer has started, and Claude Code ignores a broken pipe: it would go on, and nobody would count it.
// Signals have their defaults here: one that ends the program ends the wait.
pub fn refuse(job: &mut Job, policy: KillPolicy) {
    job.say_notices();
    let Some((pipe, first)) = Pipe::of(stdin()).zip(policy.signal) else { return };
    let mut writers = Writers::end(pipe, first, policy, job, Instant::now());
    while !writers.step(job, Instant::now()) {
        let time = writers.due().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds: Vec<_> = writers.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).into_iter().collect();
        // Where poll fails, the next step comes at once.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

struct Filter {
    policy: KillPolicy,
    /// Stdin, where that is a pipe.
    pipe: Option<Pipe>,
    /// Stdin has a writer at its other end, which may have last lines to write after Ctrl-C.
    reads_on: bool,
    /// How the relay ended.
    end: Option<End>,
    has_stopped: bool,
    /// The writers, while they are being ended.
    writers: Option<Writers>,
    /// The signal that ends budget-tee, and when it came first.
    told: Option<(i32, Instant)>,
    /// Nothing more is waited for.
    leaves: bool,
    /// When to say what Ctrl-C waits for.
    explain_at: Option<Instant>,
}

impl Filter {
    /// Ends the writers once the run has been stopped.
    fn end_writers(&mut self, job: &Job, now: Instant) {
        // Not only when the relay has ended: a reader of stdout that stalls can hold that up for ever. But not in
        // the middle of a line either, whose rest has to come from the writer.
        if self.has_stopped || self.end != Some(End::Stopped) && !job.run().is_at_its_end() {
            return;
        }
        self.has_stopped = true;
        let policy = self.policy.with_interrupt(job.run().needs_interrupt());
        if let (Some(pipe), Some(first)) = (self.pipe.take(), policy.signal) {
            self.writers = Some(Writers::end(pipe, first, policy, job, now));
        }
    }

    /// How budget-tee exits.
    fn exit(&self) -> Exit {
        match (self.end, self.told) {
            _ if self.has_stopped => Exit::Stopped,
            // Ctrl-C ends the writer too: its end and the signal come together, and the signal is why.
            (None | Some(End::Stream), Some((signal, _))) => Exit::Signal(signal),
            (Some(End::Stopped), _) => Exit::Stopped,
            (Some(End::ReaderGone), _) => Exit::ReaderGone,
            (Some(End::Unreadable(_) | End::Unwritable(_)), _) => Exit::Failed,
            (None | Some(End::Stream), None) => Exit::Done,
        }
    }
}

impl Origin for Filter {
    fn signalled(&mut self, signal: i32, job: &mut Job, now: Instant) {
        if !signals::END.contains(&signal) {
            return;
        }
        let first = self.told.get_or_insert((signal, now)).1;
        if let Some(writers) = &mut self.writers {
            // Their end was decided, and is not called off because somebody does not want to wait for it.
            writers.hurry(job, now);
            self.leaves = true;
        } else if signal == SIGINT && self.reads_on && self.end.is_none() && !self.has_stopped {
            // Ctrl-C goes to the writer too, whose last lines may still come. A second one means it.
            self.leaves |= first != now && first + SENT_TWICE <= now;
            self.explain_at.get_or_insert(first + PATIENCE);
        } else {
            self.leaves = true;
        }
    }

    fn due(&self, _now: Instant) -> Option<Instant> {
        let explain = self.explain_at.filter(|_| self.told.is_some_and(|(_, first)| first.elapsed() < PATIENCE));
        [self.writers.as_ref().and_then(Writers::due), explain].into_iter().flatten().min()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.writers.as_ref().and_then(Writers::fd)
    }

    fn minds_reader(&self) -> bool {
        false
    }

    fn reap(&mut self, job: &mut Job) {
        job.reap_hooks();
    }

    fn step(&mut self, watch: &mut Watch<'_>, news: &News, now: Instant) -> Option<Exit> {
        self.end = news.end.or(self.end);
        self.end_writers(watch.job, now);
        if self.writers.as_mut().is_some_and(|writers| writers.step(watch.job, now)) {
            self.writers = None;
        }
        let over = self.writers.is_none() && (self.end.is_some() || self.leaves);
        if !over && self.explain_at.take_if(|due| *due <= now).is_some() {
            watch.job.say("waiting for the writer to close the pipe; Ctrl-C again ends at once");
        }
        over.then(|| self.exit())
    }

    fn is_told(&self) -> bool {
        self.told.is_some()
    }
}
