//! A wrapped command, from its start to its end: when it is signalled, with what, and when
//! budget-tee stops waiting for it.
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
use crate::ledger::keeper::Account;
use crate::process::child::{self, Child};
use crate::process::signals::{self, Signals};
use crate::process::watch::{Shared, Watch};
use crate::run::lock;
use crate::stream::relay::End;

/// How long the pipe of a child that has ended may stay open, held by something it left behind,
/// before budget-tee forwards what is in it and ends.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the processes may take to go once they were killed, and the output to take what is
/// left.
const LAST: Duration = Duration::from_millis(500);

/// TERM that comes again within this was sent twice for one reason.
const TWICE: Duration = Duration::from_millis(100);

/// How a command is to be ended.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// What is sent first.
    pub signal: Signal,
    /// How long each next step waits for the one before; `None` never takes one.
    pub grace: Option<Duration>,
    /// How long it may stay after its result line; `None` for ever.
    pub linger: Option<Duration>,
}

/// Why the command is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Trip,
    ReaderGone,
    Unwritable,
    /// It has done its work and does not go.
    Lingers,
    /// budget-tee was told to end.
    Told,
}

/// An end under way: what was sent last, and when that has had its time.
#[derive(Clone, Copy, Debug)]
struct Ending {
    cause: Cause,
    begun: Instant,
    sent: Signal,
    due: Option<Instant>,
}

impl Ending {
    /// `sent` has just been sent.
    fn new(cause: Cause, sent: Signal, grace: Option<Duration>, now: Instant) -> Self {
        let wait = if sent == Signal::KILL { Some(LAST) } else { grace };
        Ending { cause, begun: now, sent, due: wait.map(|wait| now + wait) }
    }

    /// What follows what was sent; nothing follows KILL.
    fn next(self) -> Option<Signal> {
        match self.sent {
            Signal::KILL => None,
            Signal::TERM => Some(Signal::KILL),
            _ => Some(Signal::TERM),
        }
    }
}

/// Runs `command` until it has ended, and ends it where a budget trips, where nobody reads its
/// output any more, or where budget-tee itself is told to end.
///
/// # Errors
/// Where the command cannot be started, or what it takes to watch it cannot be had.
pub fn wrap<'a>(
    shared: &'a Shared,
    account: Option<&'a mut Account>,
    command: &[OsString],
    manners: Manners,
) -> io::Result<Exit> {
    let shares_group = child::has_terminal();
    // Before the start, so that no signal and no end is missed. Who has a terminal is stopped by it.
    let stop = if shares_group { &[][..] } else { &[SIGTSTP] };
    let signals = Signals::catch(&[signals::WRAP, stop].concat())?;
    let (child, output) = Child::start(command, shares_group)?;
    match Watch::start(shared.clone(), account, signals, output, false) {
        Ok(watch) => Wrap {
            shared,
            watch,
            child,
            manners,
            ending: None,
            end: None,
            drain: Drain::Not,
            rest: None,
            shows_stdout: isatty(stdout()),
            told: None,
        }
        .run(),
        Err(error) => {
            child.signal_tree(Signal::KILL);
            Err(error)
        }
    }
}

struct Wrap<'a> {
    shared: &'a Shared,
    watch: Watch<'a>,
    child: Child,
    manners: Manners,
    ending: Option<Ending>,
    /// How the relay ended.
    end: Option<End>,
    drain: Drain,
    /// The turn that is over, and since when.
    rest: Option<(u64, Instant)>,
    /// Stdout is a terminal. One that has been closed could not be asked any more.
    shows_stdout: bool,
    /// A signal that ends budget-tee itself: the command has ended before.
    told: Option<i32>,
}

/// The time that the pipe of a command that has ended is given.
#[derive(Clone, Copy, Debug)]
enum Drain {
    Not,
    Until(Instant),
    /// Only what is in the pipe is still written, however long stdout takes for that.
    Over,
}

impl Wrap<'_> {
    fn run(mut self) -> io::Result<Exit> {
        let exit = loop {
            let drain = match self.drain {
                Drain::Until(due) => Some(due),
                Drain::Not | Drain::Over => None,
            };
            let linger = self.lingers_until();
            let due = self.ending.and_then(|ending| ending.due).into_iter().chain(drain).chain(linger).min();
            let time = due.map(|due| due.saturating_duration_since(Instant::now()));
            // A terminal that is closed sends HUP, which is a reason of its own.
            let ask = self.ending.is_none() && !self.shows_stdout;
            let news = match self.watch.wait(time, self.child.pidfd(), ask) {
                Ok(news) => news,
                Err(error) => {
                    self.child.signal_tree(Signal::KILL);
                    return Err(error);
                }
            };
            reap(&mut self.child, self.shared);
            for signal in news.signals {
                self.signalled(signal);
            }
            let (tripped, rest) = {
                let run = lock(&self.shared.run);
                (run.tripped(), run.rest())
            };
            if tripped {
                self.end_for(Cause::Trip);
            }
            self.shared.run_hooks();
            if rest != self.rest.map(|(turn, _)| turn) {
                self.rest = rest.map(|turn| (turn, Instant::now()));
            }
            if self.lingers_until().is_some_and(|due| due <= Instant::now()) {
                self.shared.say("the command has not ended after its result line; ending it (--linger)");
                self.end_for(Cause::Lingers);
            }
            match news.end {
                Some(End::Unwritable(_) | End::Unreadable(_)) => self.end_for(Cause::Unwritable),
                Some(End::ReaderGone) => self.end_for(Cause::ReaderGone),
                _ if news.reader_gone => self.end_for(Cause::ReaderGone),
                _ => {}
            }
            self.end = news.end.or(self.end);
            if let Some(exit) = self.step(Instant::now()) {
                break exit;
            }
        };
        let Wrap { watch, child, shared, ending, .. } = &mut self;
        let told = ending.is_some_and(|ending| ending.cause == Cause::Told);
        match exit {
            Exit::Signal(_) => Ok(exit),
            // Who is told to end waits for nothing more.
            _ if told => Ok(exit),
            _ => watch.await_hooks(exit, || reap(child, shared)),
        }
    }

    /// When the command has stayed too long after its result line; `None` where that is no matter.
    fn lingers_until(&self) -> Option<Instant> {
        let stays = self.ending.is_none() && self.child.status().is_none();
        self.manners.linger.zip(self.rest).filter(|_| stays).map(|(linger, (_, since))| since + linger)
    }

    /// A signal came to budget-tee: it reaches the child once, unless the terminal has already
    /// sent it to the whole process group.
    fn signalled(&mut self, signal: i32) {
        match signal {
            SIGCHLD => {}
            SIGTSTP => {
                self.child.signal(Signal::TSTP);
                let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                self.child.signal(Signal::CONT);
            }
            SIGINT | SIGQUIT | SIGHUP | SIGTERM if self.child.status().is_some() && self.ending.is_none() => {
                self.told = Some(signal)
            }
            // `timeout` sends it to budget-tee and then to its group: that is one, not two.
            SIGTERM if self.ending.is_some_and(|ending| ending.begun.elapsed() < TWICE) => {}
            SIGTERM if self.ending.is_some() => self.send(Signal::KILL),
            // A terminal that goes away tells its session's leader alone.
            SIGHUP if child::leads_session() => self.child.signal(Signal::HUP),
            SIGINT | SIGQUIT | SIGHUP if self.child.shares_group() => {}
            _ => {
                let Some(named) = Signal::from_named_raw(signal) else { return };
                self.child.signal(named);
                if signal == SIGTERM {
                    // One that is stopped could not end.
                    self.child.signal(Signal::CONT);
                    self.ending = Some(Ending::new(Cause::Told, named, self.manners.grace, Instant::now()));
                }
            }
        }
    }

    /// Begins to end the command, unless that has begun.
    fn end_for(&mut self, cause: Cause) {
        if self.ending.is_none() {
            self.child.signal_tree(self.manners.signal);
            self.ending = Some(Ending::new(cause, self.manners.signal, self.manners.grace, Instant::now()));
        }
    }

    /// Sends a further signal to all of it, and says so.
    fn send(&mut self, signal: Signal) {
        let Some(ending) = self.ending else { return };
        let count = self.child.signal_tree(signal);
        self.ending = Some(Ending::new(ending.cause, signal, self.manners.grace, Instant::now()));
        if count > 0 && ending.cause != Cause::ReaderGone {
            let name = if signal == Signal::KILL { "KILL" } else { "TERM" };
            let plural = if count == 1 { "" } else { "es" };
            self.shared.say(&format!("the command has not ended; sent {name} to {count} process{plural} of it"));
        }
    }

    /// Takes the step that is due; returns the exit where there is nothing left to wait for.
    fn step(&mut self, now: Instant) -> Option<Exit> {
        let forwarded = self.end.is_some();
        // Who is only told to end passes that on, and leaves alone what the child leaves behind.
        let gone = match self.ending {
            Some(ending) if ending.cause != Cause::Told => self.child.is_alone(),
            _ => self.child.status().is_some(),
        };
        if gone && (forwarded || self.told.is_some()) {
            return Some(self.exit());
        }
        if self.ending.as_mut().and_then(|ending| ending.due.take_if(|due| *due <= now)).is_some() {
            match self.ending.and_then(Ending::next) {
                // Stdout has had its time too.
                _ if gone => return Some(self.exit()),
                Some(signal) => self.send(signal),
                None => {
                    self.shared.say("some processes of the command are still there");
                    return Some(self.exit());
                }
            }
        }
        match self.drain {
            Drain::Not if gone => self.drain = Drain::Until(now + DRAIN),
            Drain::Until(due) if due <= now => {
                self.watch.enough();
                self.drain = Drain::Over;
            }
            _ => {}
        }
        None
    }

    fn exit(&self) -> Exit {
        match self.ending.map(|ending| ending.cause) {
            Some(Cause::Trip) => return Exit::Tripped,
            Some(Cause::ReaderGone) => return Exit::ReaderGone,
            Some(Cause::Unwritable) => return Exit::Failed,
            _ if lock(&self.shared.run).tripped() => return Exit::Tripped,
            Some(Cause::Told | Cause::Lingers) | None => {}
        }
        let ended = self.child.status().map(|status| (status.exit_status(), status.terminating_signal()));
        let lingered = self.ending.is_some_and(|ending| ending.cause == Cause::Lingers);
        let by_signal = [128 + self.manners.signal.as_raw(), 128 + SIGTERM];
        match (self.told, ended) {
            // Its work was done; that it had to be told to go is no failure of it.
            (None, Some((Some(code), _))) if lingered && by_signal.contains(&code) => Exit::Child(0),
            (None, Some((None, _)) | None) if lingered => Exit::Child(0),
            (Some(signal), _) | (None, Some((_, Some(signal)))) => Exit::Signal(signal),
            (None, Some((code, None))) => Exit::Child(code.unwrap_or_default()),
            // It was killed, and not even that has ended it.
            (None, None) => Exit::Signal(SIGKILL),
        }
    }
}

/// Collects what has ended: of the command, and of the hooks, which are no part of it.
fn reap(child: &mut Child, shared: &Shared) {
    let mut hooks = lock(&shared.hooks);
    hooks.pids().for_each(|pid| child.leave_out(pid));
    let others = child.reap();
    let words: Vec<_> = others.into_iter().filter_map(|(pid, status)| hooks.ended(pid, status)).collect();
    drop(hooks);
    words.iter().for_each(|words| shared.say(words));
}
