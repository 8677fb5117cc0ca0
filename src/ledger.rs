//! The ledger: a file that runs share, so that they draw on the same budgets.
//!
//! Records are appended under a lock on `FILE.lock`, which is held for as long as one write takes
//! and is never renamed. Each run holds a lock on `FILE.run.ID` for life: whether it lives is asked
//! of that lock, never of a clock or a process number. What the records add up to is
//! [`crate::book`]'s business; when to write and look is the watch's.

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memchr;
use rustix::fs::{Mode, OFlags, open};

use crate::book::{Book, Kind, Models, OpenRun, Record, VERSION};
use crate::budget::Sum;
use crate::history;
use crate::report::{clean, without_number};
use crate::spend::{Classes, Spend};

/// How long the lock is waited for at the start and at the end.
const WAIT: Duration = Duration::from_secs(5);

/// How long to sleep between two tries for the lock.
const RETRY: Duration = Duration::from_millis(2);

/// How much is read at once, in bytes.
const READ: usize = 256 * 1024;

/// A ledger smaller than this is not summed up, in bytes.
const SMALL: u64 = 4 * 1024 * 1024;

/// A ledger that cannot be used, and why.
#[derive(Debug)]
pub struct Unusable {
    doing: &'static str,
    path: PathBuf,
    why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string_lossy();
        write!(f, "cannot {} ledger {}: {}", self.doing, clean(&path), self.why)
    }
}

/// The error for something that could not be done with the ledger at `path`.
fn unusable(doing: &'static str, path: &Path, why: impl fmt::Display) -> Unusable {
    Unusable { doing, path: path.to_owned(), why: without_number(&why.to_string()) }
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

/// A ledger that a run draws on.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    lock: File,
    /// Held locked for life; `None` until the run is admitted.
    alive: Option<File>,
    id: String,
    name: Option<String>,
    window: Option<f64>,
    book: Book,
    /// How far the file has been read, and the beginning of a line that is not complete yet.
    read: u64,
    begun: Vec<u8>,
    /// What was last recorded of this run.
    recorded: Spend,
}

impl Ledger {
    /// Opens the ledger at `path`, making it where its folder exists, and reads it. `window` is how
    /// many seconds back spend binds.
    ///
    /// # Errors
    /// Where it is no regular file of this user, or cannot be opened, read and locked.
    pub fn open(path: &Path, name: Option<&str>, window: Option<f64>, now: f64) -> Result<Self, Unusable> {
        let file = open_file(path).map_err(|why| unusable("open", path, why))?;
        let lock = open_file(&beside(path, "lock")).map_err(|why| unusable("lock", path, why))?;
        let id = RandomState::new().hash_one((std::process::id(), now.to_bits()));
        let mut ledger = Ledger {
            path: path.to_owned(),
            file,
            lock,
            alive: None,
            id: format!("{id:016x}"),
            name: name.map(str::to_owned),
            window,
            book: Book::new(window),
            read: 0,
            begun: Vec::new(),
            recorded: Spend::default(),
        };
        ledger.look(now).map_err(|why| unusable("read", path, why))?;
        Ok(ledger)
    }

    /// What the records add up to.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The error for something that could not be done with this ledger.
    #[must_use]
    pub fn unusable(&self, doing: &'static str, why: &str) -> Unusable {
        unusable(doing, &self.path, why)
    }

    /// Where the ledger is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is used together, as far as it binds now.
    #[must_use]
    pub fn shared(&self, now: f64) -> Shared {
        Shared {
            overall: self.book.used(None, self.window, now),
            command: self.name.as_deref().map_or(Spend::default(), |name| self.book.used(Some(name), self.window, now)),
            own: self.book.spent_by(&self.id),
        }
    }

    /// What the runs of a command used, as far as it binds now.
    #[must_use]
    pub fn used_by(&self, name: &str, now: f64) -> Spend {
        self.book.used(Some(name), self.window, now)
    }

    /// The runs that are alive, with what they hold. Who has died is left out.
    #[must_use]
    pub fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        let mut runs = self.book.open_runs(classes);
        runs.retain(|run| run.id != self.id && is_locked(&self.run_file(&run.id)));
        runs
    }

    /// Checks and reserves in one step: `fits` is given what is used and what the runs alive hold,
    /// and where it says so, this run is entered with its `estimate`. Runs that have died are
    /// entered as ended. Returns what `fits` said.
    ///
    /// # Errors
    /// Where the lock is not had in time, or the file cannot be read or written.
    pub fn admit(
        &mut self,
        estimate: Sum,
        classes: Classes,
        now: f64,
        fits: impl FnOnce(Shared, &[OpenRun]) -> bool,
    ) -> Result<bool, Unusable> {
        let path = self.path.clone();
        let failed = |doing| move |why: io::Error| unusable(doing, &path, why);
        self.acquire(WAIT).map_err(failed.clone()("lock"))?;
        let result = self.admit_locked(estimate, classes, now, fits).map_err(failed("write"));
        let _ = self.lock.unlock();
        result
    }

    fn admit_locked(
        &mut self,
        estimate: Sum,
        classes: Classes,
        now: f64,
        fits: impl FnOnce(Shared, &[OpenRun]) -> bool,
    ) -> io::Result<bool> {
        self.look(now)?;
        let mut text = Vec::new();
        let mut alive = Vec::new();
        for run in self.book.open_runs(classes) {
            let path = self.run_file(&run.id);
            if is_locked(&path) {
                alive.push(run);
            } else {
                // It can only have died: runs make their file while they hold the lock.
                let _ = std::fs::remove_file(path);
                text.extend(line(&run.id, run.name.as_deref(), Kind::End, None, Models::default(), now)?);
            }
        }
        let fits = fits(self.shared(now), &alive);
        if fits {
            text.extend(line(&self.id, self.name.as_deref(), Kind::Start, Some(estimate), Models::default(), now)?);
        }
        self.append(&text)?;
        if fits {
            let alive = open_file(&self.run_file(&self.id))?;
            alive.lock()?;
            self.alive = Some(alive);
        }
        self.look(now)?;
        // What cannot be summed up now stays as it is.
        let _ = self.sum_up(now);
        Ok(fits)
    }

    /// Records what this run has used so far, by model. Returns whether that was possible now: the
    /// lock is not waited for.
    ///
    /// # Errors
    /// Where the file cannot be read or written. What could not be recorded can be with the next.
    pub fn spend(&mut self, models: &[(String, Spend)], now: f64) -> io::Result<bool> {
        if !self.try_acquire()? {
            return Ok(false);
        }
        let result = self.record(models, Kind::Spend, now);
        let _ = self.lock.unlock();
        result.map(|()| true)
    }

    /// Records the last of what this run has used, and that it has ended. Waits for the lock.
    ///
    /// # Errors
    /// Where the lock is not had in time or the file cannot be written; the error names what was
    /// not recorded.
    pub fn leave(&mut self, models: &[(String, Spend)], now: f64) -> Result<(), Unusable> {
        let Some(alive) = self.alive.take() else { return Ok(()) };
        let sum = models.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens));
        let missing = Classes::default().count(&sum.less(self.recorded));
        let path = self.path.clone();
        let failed = |why: io::Error| {
            let why = without_number(&why.to_string());
            unusable("write", &path, format!("{why}; {missing} tokens of this run are not in it"))
        };
        self.acquire(WAIT).map_err(failed)?;
        let result = self.record(models, Kind::End, now);
        let _ = std::fs::remove_file(self.run_file(&self.id));
        drop(alive);
        let _ = self.lock.unlock();
        result.map_err(failed)
    }

    fn record(&mut self, models: &[(String, Spend)], kind: Kind, now: f64) -> io::Result<()> {
        let used = models.iter().filter(|(_, tokens)| !tokens.is_zero());
        let models = Models(used.map(|(name, tokens)| (Cow::from(name.as_str()), *tokens)).collect());
        let sum = models.0.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens));
        let text = line(&self.id, self.name.as_deref(), kind, None, models, now)?;
        self.append(&text)?;
        self.recorded = sum;
        self.look(now).map(|_| ())
    }

    /// Takes in what others have written since the last look, and says whether there was anything.
    /// A line that is not complete yet is left for the next look.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn look(&mut self, now: f64) -> io::Result<bool> {
        self.keep_current()?;
        let before = self.read;
        let mut buffer = vec![0; if self.file.metadata()?.size() == self.read { 0 } else { READ }];
        loop {
            let count = match self.file.read_at(&mut buffer, self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if count == 0 {
                return Ok(self.read != before);
            }
            self.read += count as u64;
            let mut rest = &buffer[..count];
            while let Some(end) = memchr(b'\n', rest) {
                if self.begun.is_empty() {
                    self.book.take(&rest[..end], now);
                } else {
                    self.begun.extend_from_slice(&rest[..end]);
                    self.book.take(&std::mem::take(&mut self.begun), now);
                }
                rest = &rest[end + 1..];
            }
            self.begun.extend_from_slice(rest);
        }
    }

    /// Opens the file anew where the one that is open is not the one at its path any more, or was
    /// cut: it has been summed up, or removed. What is there now is all there is.
    fn keep_current(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let current = match std::fs::symlink_metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()) && ours.size() >= self.read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !current {
            self.file = open_file(&self.path)?;
            self.book = Book::new(self.window);
            self.read = 0;
            self.begun.clear();
        }
        Ok(())
    }

    /// Appends under the lock, in one write; on a fresh line where the last one is torn.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.keep_current()?;
        let size = self.file.metadata()?.size();
        let mut last = [b'\n'];
        if size > 0 {
            self.file.read_exact_at(&mut last, size - 1)?;
        }
        let torn: &[u8] = if last == [b'\n'] { b"" } else { b"\n" };
        let text = [torn, text].concat();
        let written = self.file.write(&text)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Replaces the records of runs that have ended by sums, where they are most of the ledger. Held
    /// under the lock; who has the old file open sees that it is not the one at its path any more.
    fn sum_up(&mut self, now: f64) -> io::Result<()> {
        if self.read < SMALL || !self.book.is_mostly_history() {
            return Ok(());
        }
        let mut old = Vec::new();
        io::Read::read_to_end(&mut File::open(&self.path)?, &mut old)?;
        let new = history::summed_up(&old, &self.book, now)?;
        let path = beside(&self.path, "new");
        let _ = std::fs::remove_file(&path);
        let mut file = open_file(&path)?;
        file.write_all(&new)?;
        file.sync_data()?;
        std::fs::rename(&path, &self.path)?;
        self.look(now).map(|_| ())
    }

    fn acquire(&self, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        while !self.try_acquire()? {
            if Instant::now() >= until {
                return Err(io::Error::other(format!("somebody has held its lock for {} s", wait.as_secs())));
            }
            std::thread::sleep(RETRY);
        }
        Ok(())
    }

    fn try_acquire(&self) -> io::Result<bool> {
        match self.lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn run_file(&self, id: &str) -> PathBuf {
        beside(&self.path, &format!("run.{id}"))
    }
}

/// A record of a run as a line.
fn line(
    run: &str,
    name: Option<&str>,
    kind: Kind,
    estimate: Option<Sum>,
    models: Models<'_>,
    now: f64,
) -> io::Result<Vec<u8>> {
    let at = (now * 1000.0).round() / 1000.0;
    let record = Record {
        v: VERSION,
        at,
        run: Some(run.into()),
        name: name.map(Cow::from),
        kind,
        estimate: estimate.map(|sum| sum.tokens),
        estimate_micro_usd: estimate.map(|sum| sum.micro_usd).filter(|money| *money > 0),
        models,
    };
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    Ok(line)
}

/// `FILE.suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens or makes a regular file of this user, for it alone; never through a symlink, and without
/// waiting for what may be a FIFO.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a symlink")),
        result => File::from(result?),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(file)
}

/// Whether somebody holds a run's file locked.
fn is_locked(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open(path, flags, Mode::empty()) else { return false };
    matches!(File::from(file).try_lock(), Err(TryLockError::WouldBlock))
}
