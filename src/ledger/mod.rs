//! The ledger: what runs share, so that they draw on the same budgets.
//!
//! All that the rest of budget-tee knows of one is here: open, admit, spend, look, leave, and what
//! it adds up to, which is [`crate::ledger::book`]'s. `file` keeps it in a file, and `server` on a server.

pub mod book;
pub(crate) mod compact;
pub(crate) mod file;
pub mod keeper;
#[cfg(feature = "redis")]
pub mod redis;

use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::budget::{Mode, Room, Sum, Sums};
use crate::count::tokens::{Classes, Spend};
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::file::FileStore;
#[cfg(feature = "redis")]
use crate::ledger::redis::ServerStore;
#[cfg(feature = "redis")]
use crate::ledger::redis::address::Address;
use crate::show::report::{clean, without_number};

/// What begins an address: plain, and encrypted.
#[cfg(feature = "redis")]
pub(crate) const SCHEMES: [&str; 4] = ["redis://", "rediss://", "valkey://", "valkeys://"];

/// How long the start and the end of a run may wait for a ledger.
pub const WAIT: Duration = Duration::from_secs(5);

/// Where a ledger is. It is shown without what must not be seen.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// On a server.
    #[cfg(feature = "redis")]
    Server(Box<Address>),
}

impl Place {
    /// Whether a `--ledger` names a server, and no file: it begins with a word, a colon and a slash. One
    /// that is mistyped is no file either.
    #[must_use]
    pub fn is_address(text: &OsStr) -> bool {
        let text = text.as_encoded_bytes();
        let word = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte)).count();
        word > 0 && text[word..].starts_with(b":/")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => f.write_str(&clean(&path.to_string_lossy())),
            #[cfg(feature = "redis")]
            Place::Server(address) => address.fmt(f),
        }
    }
}

/// A ledger that cannot be used, and why.
#[derive(Clone, Debug)]
pub struct Unusable {
    doing: &'static str,
    place: String,
    why: String,
}

impl Unusable {
    /// Something could not be done with the ledger at `place`, as it is shown.
    pub(crate) fn new(doing: &'static str, place: impl fmt::Display, why: impl fmt::Display) -> Unusable {
        Unusable { doing, place: place.to_string(), why: without_number(&why.to_string()) }
    }

    /// With what has been lost by it.
    pub(crate) fn losing(self, tokens: u64) -> Unusable {
        Unusable { why: format!("{}; {tokens} tokens of this run are not in it", self.why), ..self }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} ledger {}: {}", self.doing, self.place, self.why)
    }
}

/// What runs have used together, as far as it binds this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Of all runs.
    pub overall: Spend,
    /// Of the runs of this run's command.
    pub command: Spend,
    /// What of both is this run's own.
    pub own: Spend,
}

/// Who draws on a ledger, and how many seconds back spend binds.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) window: Option<f64>,
}

/// What a run asks for before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What it expects to use.
    pub estimate: Sum,
    /// Which tokens count.
    pub classes: Classes,
    /// The room that this takes in each budget that binds it.
    pub rooms: Vec<Room>,
    /// In warn mode it starts even where the room is not there.
    pub mode: Mode,
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Whether the run has been entered, and holds its estimate.
    pub entered: bool,
    /// What the other runs that are alive hold.
    pub held: Sums,
}

impl Request {
    /// Whether it starts only where it fits.
    pub(crate) fn must_fit(&self) -> bool {
        self.mode == Mode::Block
    }

    /// Whether the run may start where `shared` is used and `held` is held.
    pub(crate) fn fits(&self, shared: Shared, held: Sums) -> bool {
        let of = |spend: Spend| Sum::of(&spend, self.classes);
        let used = Sums { overall: of(shared.overall), command: of(shared.command) };
        !self.must_fit() || self.rooms.iter().all(|room| room.is_enough(used, held))
    }
}

/// A ledger that a run draws on, or that a report is made of.
#[derive(Debug)]
pub struct Ledger {
    member: Member,
    book: Book,
    store: Store,
}

/// What keeps it.
#[derive(Debug)]
enum Store {
    File(FileStore),
    #[cfg(feature = "redis")]
    Server(Box<ServerStore>),
}

impl Ledger {
    /// Opens the ledger at `place`, making it where there is none. `window` is how many seconds
    /// back spend binds, and `now` the time in Unix seconds, here and below.
    ///
    /// # Errors
    /// Where it can be seen at once that it cannot be used.
    pub fn open(place: &Place, name: Option<&str>, window: Option<f64>, now: f64) -> Result<Self, Unusable> {
        let id = RandomState::new().hash_one((std::process::id(), now.to_bits()));
        let member = Member { id: format!("{id:016x}"), name: name.map(str::to_owned), window };
        let store = match place {
            Place::File(path) => Store::File(FileStore::open(path)?),
            #[cfg(feature = "redis")]
            Place::Server(address) => Store::Server(Box::new(ServerStore::open(address, &member)?)),
        };
        Ok(Ledger { member, book: Book::new(window), store })
    }

    /// Reads all of the ledger at `place`; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn read(place: &Place, window: Option<f64>, now: f64) -> Result<Option<Self>, Unusable> {
        if let Place::File(path) = place
            && !path.exists()
        {
            return Ok(None);
        }
        let mut ledger = Ledger::open(place, None, window, now)?;
        let Ledger { member, book, store } = &mut ledger;
        let is_there = match store {
            Store::File(file) => file.look(member, book, now).map(|()| true),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.read(member, book, now),
        };
        Ok(is_there?.then_some(ledger))
    }

    /// Checks and reserves in one step: a run that fits is entered with its estimate. Runs that
    /// have died hold nothing any more.
    ///
    /// # Errors
    /// Where the ledger cannot be used in time, or, in block mode, has been written to by a newer
    /// budget-tee.
    pub fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Unusable> {
        match &mut self.store {
            Store::File(file) => file.admit(&self.member, &mut self.book, request, now),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.admit(&self.member, &mut self.book, request, now),
        }
    }

    /// Records what this run has used so far, by model. Returns whether that was possible now:
    /// nothing is waited for.
    ///
    /// # Errors
    /// Where the ledger cannot be written. What could not be recorded can be with the next.
    pub fn spend(&mut self, models: &[(String, Spend)], now: f64) -> Result<bool, Unusable> {
        match &mut self.store {
            Store::File(file) => file.spend(&self.member, &mut self.book, models, now),
            #[cfg(feature = "redis")]
            Store::Server(server) => {
                server.spend(models);
                Ok(true)
            }
        }
    }

    /// Takes in what others have recorded since the last look.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn look(&mut self, now: f64) -> Result<(), Unusable> {
        match &mut self.store {
            Store::File(file) => file.look(&self.member, &mut self.book, now),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.look(&self.member, &mut self.book, now),
        }
    }

    /// Records the last of what this run has used, and that it has ended. Waits for that, but no longer
    /// than `wait`.
    ///
    /// # Errors
    /// Where it is not possible in time; the error names what was not recorded.
    pub fn leave(&mut self, models: &[(String, Spend)], now: f64, wait: Duration) -> Result<(), Unusable> {
        match &mut self.store {
            Store::File(file) => file.leave(&self.member, &mut self.book, models, now, wait),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.leave(&self.member, &mut self.book, models, now, wait),
        }
    }

    /// What is used together, as far as it binds now.
    #[must_use]
    pub fn shared(&self, now: f64) -> Shared {
        let own = match &self.store {
            Store::File(_) => self.book.spent_by(&self.member.id),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.own(),
        };
        self.member.shared(&self.book, own, self.time(now))
    }

    /// The time by the ledger's clock, in Unix seconds.
    #[must_use]
    pub fn time(&self, now: f64) -> f64 {
        match &self.store {
            Store::File(_) => now,
            #[cfg(feature = "redis")]
            Store::Server(server) => server.time(now),
        }
    }

    /// Since when the ledger is out of reach, where it can come back, and how long a run in block mode
    /// goes on without it.
    #[must_use]
    pub fn away(&self) -> Option<(Instant, Duration)> {
        match &self.store {
            Store::File(_) => None,
            #[cfg(feature = "redis")]
            Store::Server(server) => server.away(),
        }
    }

    /// Whether a ledger that cannot be used now may be told later what was used meanwhile.
    #[must_use]
    pub fn can_come_back(&self) -> bool {
        match &self.store {
            Store::File(_) => false,
            #[cfg(feature = "redis")]
            Store::Server(_) => true,
        }
    }

    /// Whether a ledger that can come back is there.
    #[must_use]
    pub fn is_back(&self) -> bool {
        match &self.store {
            Store::File(_) => false,
            #[cfg(feature = "redis")]
            Store::Server(server) => server.is_there(),
        }
    }

    /// What is to be said of the ledger since the last call.
    pub fn note(&mut self) -> Option<String> {
        match &mut self.store {
            Store::File(_) => None,
            #[cfg(feature = "redis")]
            Store::Server(server) => server.note(),
        }
    }

    /// Readable when there is something to look at; `None` where only looking tells.
    #[must_use]
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        match &self.store {
            Store::File(_) => None,
            #[cfg(feature = "redis")]
            Store::Server(server) => Some(server.bell()),
        }
    }

    /// What the runs of a command used, as far as it binds now.
    #[must_use]
    pub fn used_by(&self, name: &str, now: f64) -> Spend {
        self.book.used(Some(name), self.member.window, self.time(now))
    }

    /// The runs that are alive, with what they hold, without this one.
    #[must_use]
    pub fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        match &self.store {
            Store::File(file) => file.alive(&self.member, &self.book, classes),
            #[cfg(feature = "redis")]
            Store::Server(server) => server.alive(classes),
        }
    }

    /// What it adds up to.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.book
    }
}

impl Member {
    /// What is used together, as far as it binds this member.
    pub(crate) fn shared(&self, book: &Book, own: Spend, now: f64) -> Shared {
        Shared {
            overall: book.used(None, self.window, now),
            command: self.name.as_deref().map_or(Spend::default(), |name| book.used(Some(name), self.window, now)),
            own,
        }
    }

    /// What runs hold, of all and of this member's command.
    pub(crate) fn held_by(&self, runs: &[OpenRun]) -> Sums {
        let sum = |sum: Sum, run: &OpenRun| sum.plus(run.reserved);
        let of_command = runs.iter().filter(|run| self.name.is_some() && run.name == self.name);
        Sums { overall: runs.iter().fold(Sum::default(), sum), command: of_command.fold(Sum::default(), sum) }
    }
}
