//! The ledger: what runs share, so that they draw on the same budgets.
//!
//! A run is admitted, records what it spends, looks at what others spend, and leaves: [`Store`] says
//! how. A file or a server keeps the entries, and the book adds them up.

pub mod book;
pub(crate) mod compact;
pub(crate) mod entry;
pub(crate) mod file;
pub(crate) mod index;
pub mod keeper;
pub mod limits;
pub(crate) mod lines;
pub(crate) mod lock;
pub(crate) mod mailbox;
#[cfg(feature = "redis")]
pub mod redis;
pub(crate) mod runs;
pub(crate) mod spans;
pub mod store;
pub mod window;
pub mod worker;

use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::error::Error;
use crate::ledger::file::FileStore;
#[cfg(feature = "redis")]
use crate::ledger::redis::{ServerStore, address::Address};
use crate::ledger::store::{Member, Store};
use crate::ledger::window::Window;
use crate::show::text::{clean_os, with_note};

/// Where a ledger is. It is shown without its password.
#[derive(Clone, Debug)]
pub enum Location {
    /// In a file.
    File(PathBuf),
    /// On a server.
    #[cfg(feature = "redis")]
    Server(Box<Address>),
}

impl Location {
    /// Whether the value of `--ledger` is a URL, and no file: it begins with a word, a colon and a slash.
    pub(crate) fn is_url(text: &OsStr) -> bool {
        // Any scheme, and one slash will do: a URL that is mistyped must not become a file.
        let text = text.as_encoded_bytes();
        let word = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte)).count();
        word > 0 && text[word..].starts_with(b":/")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => f.write_str(&clean_os(path)),
            #[cfg(feature = "redis")]
            Location::Server(address) => address.fmt(f),
        }
    }
}

/// Opens a ledger for a run of the command `name`, and makes it where there is none. What was spent in
/// `window` counts; `now` is the time in Unix seconds.
pub fn open(
    location: &Location,
    name: Option<&str>,
    window: Option<Window>,
    now: f64,
) -> Result<Box<dyn Store>, Error> {
    // Random, since pids and times of two machines may be the same.
    let id = RandomState::new().hash_one((std::process::id(), now.to_bits()));
    let member = Member { id: format!("{id:016x}"), name: name.map(str::to_owned), window };
    Ok(match location {
        Location::File(path) => Box::new(FileStore::open(path, member)?),
        #[cfg(feature = "redis")]
        Location::Server(address) => Box::new(ServerStore::open(address, member)?),
    })
}

/// Opens a ledger that there is, to grant something.
pub fn open_there(location: &Location) -> Result<Box<dyn Store>, Error> {
    if let Location::File(path) = location
        && !path.exists()
    {
        return Err(Error::Failed(missing(location)));
    }
    open(location, None, None, worker::unix_now())
}

/// What to say of a ledger that there is not.
pub fn missing(location: &Location) -> String {
    with_note(format_args!("there is no ledger {location} yet"), "the first run with this --ledger makes it")
}

/// Reads a ledger for a report; `None` where there is none. Without a window it is read in the one that it
/// keeps, in this time zone.
pub fn read(
    location: &Location,
    window: Option<Window>,
    zone: Option<TimeZone>,
    now: f64,
) -> Result<Option<Box<dyn Store>>, Error> {
    let member = Member { id: String::new(), name: None, window };
    let mut ledger: Box<dyn Store> = match location {
        Location::File(path) => match FileStore::open_to_read(path, member, zone.clone())? {
            Some(ledger) => Box::new(ledger),
            None => return Ok(None),
        },
        #[cfg(feature = "redis")]
        Location::Server(address) => Box::new(ServerStore::open(address, member)?),
    };
    if !ledger.read(now)? {
        return Ok(None);
    }
    let kept = zone.and_then(|zone| Window::of(ledger.book().limits().window(), zone));
    match kept.filter(|kept| ledger.book().window() != Some(kept)) {
        Some(kept) => read(location, Some(kept), None, now),
        None => Ok(Some(ledger)),
    }
}
