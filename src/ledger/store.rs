//! What every ledger can do, wherever it is kept; what a run asks of one, and what it is told.

use std::fmt;
use std::time::Duration;

use crate::amount::Amounts;
use crate::budget::{ByScope, Mode, Room, Totals};
use crate::count::marks::Marks;
use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts, Spend, Tokens};
use crate::error::Error;
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::limits::Limit;
use crate::ledger::window::Window;
use crate::show::text::with_note;

/// How long the start and the end of a run may wait for a ledger.
// Locks are held for microseconds and servers answer in milliseconds: after this, something hangs.
pub const LEDGER_WAIT: Duration = Duration::from_secs(5);

/// How a ledger wants to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How often to look at what others have spent, where that matters.
    pub look: Duration,
    /// How often the reservation must be renewed, where it is a lease.
    pub renew: Option<Duration>,
    /// Of a server: how long a run in block mode goes on while it is unreachable.
    pub grace: Option<Duration>,
}

/// Why a ledger could not be used.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The message.
    pub message: String,
    /// What to expect of another try.
    pub retry: Retry,
}

/// What to expect of another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may work now.
    Soon,
    /// Another run was just writing, which takes it microseconds.
    Busy,
    /// Trying again at once would fail the same way.
    Later,
    /// It is no ledger, and nothing may start.
    Never,
}

/// What to say of a ledger that was removed, or lost by its server, while a run uses it.
pub(crate) fn made_anew(location: &str) -> String {
    let message = format!("ledger {location} was made anew during this run");
    with_note(message, "what runs that had ended spent is no longer in it")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let retry = if matches!(error, Error::NoLedger(_)) { Retry::Never } else { Retry::Later };
        Failure { message: error.to_string(), retry }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Failed(failure.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A ledger that a run draws on, or that a report is made of. `now` is the time in Unix seconds.
// Behind a trait, so that the policy of pacing and of what happens when a ledger cannot be used is the
// keeper's and its thread's alone, and the same tests of behaviour hold for both kinds. All that reads or
// writes may take long.
///
/// The methods with a body are those in which a file has nothing to say.
pub trait Store: fmt::Debug + Send {
    /// Who draws on it.
    fn member(&self) -> &Member;

    /// What it adds up to, as far as it was read.
    fn book(&self) -> &Book;

    /// How it wants to be kept.
    fn terms(&self) -> Terms;

    /// Reads all of it for a report. Returns whether there is such a ledger.
    fn read(&mut self, now: f64) -> Result<bool, Failure>;

    /// Checks whether a run fits and enters its reservation, in one step. Reservations of runs that
    /// have died are void.
    fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Failure>;

    /// Records what this run has spent so far, where that is news, and takes in what others have.
    fn step(&mut self, handover: &Handover, now: f64) -> Result<(), Failure>;

    /// Adds to what may be used in the window that is now, by a command or by all. Returns whether there is such
    /// a ledger.
    fn grant(&mut self, name: Option<&str>, amounts: Amounts, now: f64) -> Result<bool, Failure>;

    /// Records the last of what this run has spent, and that it has ended.
    fn leave(&mut self, handover: &Handover, now: f64) -> Result<(), Failure>;

    /// The other runs that are alive, with what they have reserved.
    fn alive(&self, classes: Classes) -> Vec<OpenRun>;

    /// What is recorded of this run.
    fn own(&self) -> Spend;

    /// The time by the ledger's clock, in Unix seconds.
    // A server has one clock for all runs; those of the machines may be minutes apart, and a window's edge
    // with them.
    fn time(&self, now: f64) -> f64 {
        now
    }

    /// What is to be reported of the ledger since the last call.
    fn note(&mut self) -> Option<String> {
        None
    }

    /// What the runs have spent, as far as it binds this one.
    fn totals(&self, now: f64) -> Totals {
        let command = self.member().name.as_deref().map_or(Spend::default(), |name| self.used_by(name, now));
        let granted = self.granted(now);
        Totals { overall: self.book().used(None, self.time(now)), command, own: self.own(), granted }
    }

    /// What was granted, as far as it binds this run.
    fn granted(&self, now: f64) -> ByScope {
        let of = |name: Option<&str>| self.book().granted(name, self.time(now));
        let command = self.member().name.as_deref().map_or(Amounts::default(), |name| of(Some(name)));
        ByScope { overall: of(None), command }
    }

    /// What the runs of a command have spent, as far as it counts now.
    fn used_by(&self, name: &str, now: f64) -> Spend {
        self.book().used(Some(name), self.time(now))
    }
}

/// Who draws on a ledger.
#[derive(Clone, Debug)]
pub struct Member {
    /// The run's id, unique among all runs of the ledger.
    pub(crate) id: String,
    /// The command that the run is charged to.
    pub(crate) name: Option<String>,
    /// Of what time spend counts; `None` for all of it.
    pub(crate) window: Option<Window>,
}

impl Member {
    /// What runs have reserved, of all and of this member's command.
    pub(crate) fn reserved_by(&self, runs: &[OpenRun]) -> ByScope {
        let sum = |sum: Amounts, run: &OpenRun| sum.plus(run.reserved);
        // A run without a name is no run of the same command as another one without.
        let of_command = runs.iter().filter(|run| self.name.is_some() && run.name == self.name);
        ByScope {
            overall: runs.iter().fold(Amounts::default(), sum),
            command: of_command.fold(Amounts::default(), sum),
        }
    }
}

/// What a run asks for before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What it reserves.
    pub reservation: Amounts,
    /// Which tokens count.
    pub classes: Classes,
    /// The room that its estimate needs in each budget that binds it.
    pub rooms: Vec<Room>,
    /// The limits that it was given, for the ledger to keep.
    pub limits: Vec<Limit>,
    /// In warn mode it starts even where the room is not there.
    pub mode: Mode,
}

impl Request {
    pub(crate) fn must_fit(&self) -> bool {
        self.mode == Mode::Block
    }

    pub(crate) fn fits(&self, totals: Totals, reserved: ByScope) -> bool {
        let used = totals.used(totals.own, self.classes);
        !self.must_fit() || self.rooms.iter().all(|room| room.is_enough(used, reserved, totals.granted))
    }
}

/// What a run hands over: all that it has spent so far, and the marks of the threads that it has seen.
// Together, and recorded in one step: a thread that is resumed after its run was killed must not find
// spend without its mark, nor a mark without its spend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// What was spent on each model.
    pub spend: Tally<String>,
    /// How far the threads have come.
    pub marks: Marks,
}

impl Handover {
    /// The marks, and whether each is not as `recorded`.
    pub(crate) fn changes<'a>(&'a self, recorded: &'a Handover) -> impl Iterator<Item = (&'a str, Tokens, bool)> {
        self.marks.iter().map(|(id, mark)| (id, mark, recorded.marks.get(id) != Some(mark)))
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Whether the run may start and its reservation is entered.
    pub admitted: bool,
    /// What the other runs that are alive have reserved.
    pub reserved: ByScope,
}
