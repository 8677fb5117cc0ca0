//! The mailbox between a run and the thread that keeps its ledger: what they leave for each other, and
//! how they wake each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::amount::Amounts;
use crate::budget::Totals;
use crate::count::marks::Marks;
use crate::count::tokens::Spend;
use crate::ledger::store::{Admission, Failure, Handover, Terms};
use crate::process::wake::{Wake, lock};
use crate::show::text::because;

/// How long a ledger may take to answer before it counts as unreachable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// What a call of the ledger is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// The run wants to start.
    Admit,
    /// It records what it spent, and hears what others have.
    Step,
    /// The same for the last time.
    Leave,
}

/// What a run sees of its ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) totals: Totals,
    /// What the commands that have budgets have spent.
    pub(crate) by_command: Vec<(String, Spend)>,
    /// When the budgets begin anew, in words; empty where they do not.
    pub(crate) resets: String,
    /// There are entries of a newer version.
    pub(crate) has_foreign: bool,
    /// Lines that are no entries.
    pub(crate) broken: u64,
}

impl View {
    /// What was granted to a command, or to all, as far as it binds the run of the command `own`.
    pub(crate) fn granted(&self, name: Option<&str>, own: Option<&str>) -> Amounts {
        match name {
            None => self.totals.granted.overall,
            Some(_) if name == own => self.totals.granted.command,
            Some(_) => Amounts::default(),
        }
    }
}

/// An outage: for how long the ledger could not be used, and why.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    pub(crate) failure: Failure,
}

/// What the two threads leave for each other.
// Newer things replace older ones, since spend is cumulative: nothing piles up while the ledger is
// unreachable, as it would in a queue.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// The errand that somebody waits for.
    pub(crate) awaited: Option<Errand>,
    /// How often it has failed.
    pub(crate) tries: u32,
    /// The run is under way: what it spends is recorded without being asked for.
    pub(crate) under_way: bool,
    /// It matters what others spend.
    pub(crate) limited: bool,
    /// Nobody wants the ledger any more.
    pub(crate) is_over: bool,
    /// What the run hands over, and whether the ledger has yet to hear of some of it.
    pub(crate) handover: Handover,
    pub(crate) has_news: bool,
    /// What the ledger has heard.
    pub(crate) recorded: Spend,
    /// How the ledger wants to be kept; once it is open.
    pub(crate) terms: Option<Terms>,
    /// The answer to the start.
    pub(crate) admission: Option<Admission>,
    /// The marks that the ledger had then.
    pub(crate) marks: Marks,
    /// What was last seen of the ledger, until it is taken.
    pub(crate) view: Option<View>,
    /// What is to be reported.
    pub(crate) notes: Vec<String>,
    pub(crate) outage: Option<Outage>,
    /// When the call under way has begun.
    pub(crate) calling: Option<Instant>,
    pub(crate) was_reached: bool,
    /// That it is unreachable has been reported.
    pub(crate) is_reported: bool,
}

impl Mailbox {
    /// Whether the ledger is on a server.
    pub(crate) fn is_remote(&self) -> bool {
        self.terms.is_some_and(|terms| terms.grace.is_some())
    }

    /// Since when the ledger has not answered.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.since).or(self.calling)
    }

    /// Since when it is unreachable: it has not answered for longer than a moment.
    pub(crate) fn unreachable_since(&self) -> Option<Instant> {
        self.silent_since().filter(|since| since.elapsed() >= PATIENCE)
    }

    /// Why it is unreachable, where it has not answered for this time; the `location` is as it is shown.
    pub(crate) fn why(&self, location: &str, time: Duration) -> String {
        match &self.outage {
            Some(outage) => outage.failure.message.clone(),
            None => {
                let why = match time.as_secs() {
                    0 => "no answer yet".to_owned(),
                    seconds => format!("no answer for {seconds} s"),
                };
                because(format_args!("cannot reach ledger {location}"), why)
            }
        }
    }
}

/// The mailbox, and how each side calls the other.
#[derive(Debug)]
pub(crate) struct Post {
    mailbox: Mutex<Mailbox>,
    /// For the thread, and for whoever waits for the start.
    called: Condvar,
    /// Raised when something has come for the run, whose watch polls.
    pub(crate) wake: Wake,
}

impl Post {
    pub(crate) fn new(mailbox: Mailbox) -> Result<Self, Errno> {
        Ok(Post { mailbox: Mutex::new(mailbox), called: Condvar::new(), wake: Wake::new()? })
    }

    pub(crate) fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        lock(&self.mailbox)
    }

    /// Calls whoever waits for the mailbox.
    pub(crate) fn call(&self) {
        self.called.notify_all();
    }

    /// Waits until something is left in the mailbox, for at most `time`.
    pub(crate) fn wait<'a>(&self, mailbox: MutexGuard<'a, Mailbox>, time: Option<Duration>) -> MutexGuard<'a, Mailbox> {
        match time {
            Some(time) => self.called.wait_timeout(mailbox, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.called.wait(mailbox).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Takes the call of [`Post::wake`], before the mailbox is looked at.
    pub(crate) fn heed(&self) {
        if self.wake.is_raised() {
            self.wake.silence();
            self.wake.lower();
        }
    }
}
