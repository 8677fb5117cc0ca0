//! A ledger in a file.
//!
//! Entries are appended under a lock on `FILE.lock`, which is held for one write. Each run holds a lock
//! on `FILE.run.ID` for life. The keeper decides when to write and when to look.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memchr;
use rustix::fs::{Mode, OFlags, open};

use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts, Spend};
use crate::error::Error;
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::compact::compact;
use crate::ledger::entry::{Entry, EntryKind};
use crate::ledger::store::{Admission, LEDGER_WAIT, Member, Request, Store, unrecorded};

/// How long to sleep between two tries for the lock.
const RETRY: Duration = Duration::from_millis(2);

/// How much is read at once, in bytes.
const READ: usize = 256 * 1024;

/// A ledger smaller than this is not summed up, in bytes: reading it takes a few milliseconds.
const SMALL: u64 = 4 * 1024 * 1024;

/// The file, its lock, and how far it has been read.
#[derive(Debug)]
pub(crate) struct FileStore {
    member: Member,
    book: Book,
    path: PathBuf,
    file: File,
    /// `FILE.lock`.
    // Not the ledger itself, which is renamed over when it is summed up: that would be a lock on nothing.
    lock: File,
    /// `FILE.run.ID`, held locked for life; `None` until the run is admitted.
    // The kernel drops the lock however the run ends. A pid may be another process by now, and a clock
    // may be set: neither tells whether a run is alive. And not a lock on the ledger: every append
    // would wait for it.
    alive: Option<File>,
    /// How far the file has been read.
    read: u64,
    /// The beginning of a line that is not complete yet.
    partial: Vec<u8>,
    /// What was last recorded of this run.
    recorded: Spend,
}

impl FileStore {
    pub(crate) fn open(path: &Path, member: Member) -> Result<Self, Error> {
        let file = open_file(path).map_err(|why| Error::file("open ledger", path, why))?;
        let lock = open_file(&beside(path, "lock")).map_err(|why| Error::file("lock ledger", path, why))?;
        let (book, path) = (Book::new(member.window), path.to_owned());
        let (partial, recorded) = (Vec::new(), Spend::default());
        Ok(FileStore { member, book, path, file, lock, alive: None, read: 0, partial, recorded })
    }

    /// Admits a run under the lock; `None` where there are entries that only a newer version knows.
    fn admit_locked(&mut self, request: &Request, now: f64) -> io::Result<Option<Admission>> {
        self.take_in(now)?;
        if self.book.has_foreign() && request.must_fit() {
            return Ok(None);
        }
        let mut text = Vec::new();
        let mut alive = Vec::new();
        for run in self.book.open_runs(request.classes) {
            let path = self.run_file(&run.id);
            if is_locked(&path) {
                alive.push(run);
            } else {
                // It can only have died: runs make their file while they hold the lock.
                let _ = std::fs::remove_file(path);
                text.extend(Entry::new(EntryKind::End, Some(&run.id), run.name.as_deref(), millis(now)).line()?);
            }
        }
        let reserved = self.member.reserved_by(&alive);
        // Check and reservation under one lock: in two, each of two runs would find room for itself.
        let admitted = request.fits(self.totals(now), reserved);
        if admitted {
            let mut entry = self.entry(EntryKind::Start, now);
            entry.estimate = Some(request.reservation.tokens);
            entry.estimate_micro_usd = Some(request.reservation.micro_usd).filter(|micro_usd| *micro_usd > 0);
            text.extend(entry.line()?);
        }
        self.append(&text)?;
        if admitted {
            let alive = open_file(&self.run_file(&self.member.id))?;
            alive.lock()?;
            self.alive = Some(alive);
        }
        self.take_in(now)?;
        // What cannot be summed up now stays as it is.
        let _ = self.sum_up(now);
        Ok(Some(Admission { admitted, reserved }))
    }

    fn entry(&self, kind: EntryKind, now: f64) -> Entry<'_> {
        Entry::new(kind, Some(&self.member.id), self.member.name.as_deref(), millis(now))
    }

    /// Writes an entry with all that this run has spent, under the lock.
    fn write_spend(&mut self, kind: EntryKind, spend: &Tally<String>, now: f64) -> io::Result<()> {
        let line = self.entry(kind, now).with(spend).line()?;
        self.append(&line)?;
        self.recorded = spend.sum();
        self.take_in(now)
    }

    /// Takes in what others have written since the last time. A line that is not complete yet is left
    /// for the next time.
    fn take_in(&mut self, now: f64) -> io::Result<()> {
        self.keep_current()?;
        // Most looks find nothing new, and need no buffer for that.
        let mut buffer = vec![0; if self.file.metadata()?.size() == self.read { 0 } else { READ }];
        loop {
            let count = match self.file.read_at(&mut buffer, self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if count == 0 {
                return Ok(());
            }
            self.read += count as u64;
            let mut rest = &buffer[..count];
            while let Some(end) = memchr(b'\n', rest) {
                if self.partial.is_empty() {
                    self.book.take(&rest[..end], now);
                } else {
                    self.partial.extend_from_slice(&rest[..end]);
                    self.book.take(&std::mem::take(&mut self.partial), now);
                }
                rest = &rest[end + 1..];
            }
            self.partial.extend_from_slice(rest);
        }
    }

    /// Opens the file again where the one that is open is no longer the one at its path, or was cut: it
    /// has been summed up or removed, and what is there now is all there is.
    fn keep_current(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let current = match std::fs::symlink_metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()) && ours.size() >= self.read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !current {
            self.file = open_file(&self.path)?;
            self.book = Book::new(self.member.window);
            self.read = 0;
            self.partial.clear();
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
        // One write to a file that is open to append: a reader, who takes no lock, sees all of it or, on a full
        // disk, a part, which costs that line alone.
        let torn: &[u8] = if last == [b'\n'] { b"" } else { b"\n" };
        let text = [torn, text].concat();
        let written = self.file.write(&text)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Replaces the entries of runs that have ended by sums, where they are most of the ledger, under
    /// the lock. Whoever has the old file open sees that it is no longer the one at its path.
    fn sum_up(&mut self, now: f64) -> io::Result<()> {
        if self.read < SMALL || !self.book.is_mostly_history() {
            return Ok(());
        }
        let new = compact(&std::fs::read(&self.path)?, &self.book, now)?;
        let path = beside(&self.path, "new");
        // Of a run that was killed at this. Only who holds the lock writes here.
        let _ = std::fs::remove_file(&path);
        let mut file = open_file(&path)?;
        file.write_all(&new)?;
        // The rename must not be on the disk before what it names.
        file.sync_data()?;
        std::fs::rename(&path, &self.path)?;
        self.take_in(now)
    }

    fn acquire(&self, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        while !self.try_acquire()? {
            if Instant::now() >= until {
                return Err(io::Error::other(format!("still locked after {} s", wait.as_secs())));
            }
            // flock(2) has no timeout. The lock is held for microseconds, so that one or two rounds do.
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

impl Store for FileStore {
    fn member(&self) -> &Member {
        &self.member
    }

    fn book(&self) -> &Book {
        &self.book
    }

    fn read(&mut self, now: f64) -> Result<bool, Error> {
        self.look(now).map(|()| true)
    }

    fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Error> {
        self.acquire(LEDGER_WAIT).map_err(|why| Error::file("lock ledger", &self.path, why))?;
        let result = self.admit_locked(request, now);
        let _ = self.lock.unlock();
        let newer = || Error::file("use ledger", &self.path, io::Error::other("a newer budget-tee has written to it"));
        result.map_err(|why| Error::file("write ledger", &self.path, why))?.ok_or_else(newer)
    }

    fn record(&mut self, spend: &Tally<String>, now: f64) -> Result<bool, Error> {
        // Never waits: it is called while the stream runs, and the entry is cumulative, so that the next
        // one makes up for it.
        let acquired = self.try_acquire().map_err(|why| Error::file("write ledger", &self.path, why))?;
        if acquired {
            let result = self.write_spend(EntryKind::Spend, spend, now);
            let _ = self.lock.unlock();
            result.map_err(|why| Error::file("write ledger", &self.path, why))?;
        }
        Ok(acquired)
    }

    fn look(&mut self, now: f64) -> Result<(), Error> {
        self.take_in(now).map_err(|why| Error::file("read ledger", &self.path, why))
    }

    fn leave(&mut self, spend: &Tally<String>, now: f64, wait: Duration) -> Result<(), Error> {
        let Some(alive) = self.alive.take() else { return Ok(()) };
        let missing = spend.sum().minus(self.recorded);
        let failed = |store: &Self, why| unrecorded(Error::file("write ledger", &store.path, why), missing);
        self.acquire(wait).map_err(|why| failed(self, why))?;
        let result = self.write_spend(EntryKind::End, spend, now);
        // While its lock is held: nobody may take the run for a dead one before its end is written.
        let _ = std::fs::remove_file(self.run_file(&self.member.id));
        drop(alive);
        let _ = self.lock.unlock();
        result.map_err(|why| failed(self, why))
    }

    fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        let mut runs = self.book.open_runs(classes);
        runs.retain(|run| run.id != self.member.id && is_locked(&self.run_file(&run.id)));
        runs
    }

    fn own(&self) -> Spend {
        self.book.spent_by(&self.member.id)
    }
}

/// A time in Unix seconds, to the millisecond.
// More digits would only make the file longer.
fn millis(now: f64) -> f64 {
    (now * 1000.0).round() / 1000.0
}

/// `FILE.suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens or makes a regular file of this user, readable by this user alone.
fn open_file(path: &Path) -> io::Result<File> {
    // Never through a symlink, which another user may have put there; and without blocking on a FIFO.
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a symlink")),
        result => File::from(result?),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(file)
}

/// Whether a run holds its file locked.
fn is_locked(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open(path, flags, Mode::empty()) else { return false };
    matches!(File::from(file).try_lock(), Err(TryLockError::WouldBlock))
}
