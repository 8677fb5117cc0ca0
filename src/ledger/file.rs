//! A ledger in a file.
//!
//! Records are appended under a lock on `FILE.lock`, which is held for as long as one write takes
//! and is never renamed. Each run holds a lock on `FILE.run.ID` for life: whether it lives is asked
//! of that lock, never of a clock or a process number. What the records add up to is
//! [`crate::ledger::book`]'s business; when to write and look is the watch's.

use std::borrow::Cow;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memchr;
use rustix::fs::{Mode, OFlags, open};

use crate::budget::Sum;
use crate::count::tokens::{Classes, Spend};
use crate::ledger::book::{Book, Kind, Models, OpenRun, Record, VERSION};
use crate::ledger::compact;
use crate::ledger::{Admission, Member, Request, Unusable, WAIT};
use crate::show::report::clean;

/// How long to sleep between two tries for the lock.
const RETRY: Duration = Duration::from_millis(2);

/// How much is read at once, in bytes.
const READ: usize = 256 * 1024;

/// A ledger smaller than this is not summed up, in bytes.
const SMALL: u64 = 4 * 1024 * 1024;

/// The file, its lock, and how far it has been read.
#[derive(Debug)]
pub(crate) struct FileStore {
    path: PathBuf,
    file: File,
    lock: File,
    /// Held locked for life; `None` until the run is admitted.
    alive: Option<File>,
    /// How far the file has been read, and the beginning of a line that is not complete yet.
    read: u64,
    begun: Vec<u8>,
    /// What was last recorded of this run.
    recorded: Spend,
}

impl FileStore {
    /// Opens the file at `path`, making it where its folder exists.
    pub(crate) fn open(path: &Path) -> Result<Self, Unusable> {
        let unusable = |doing| move |why: io::Error| unusable(doing, path, why);
        let file = open_file(path).map_err(unusable("open"))?;
        let lock = open_file(&beside(path, "lock")).map_err(unusable("lock"))?;
        let (path, begun, recorded) = (path.to_owned(), Vec::new(), Spend::default());
        Ok(FileStore { path, file, lock, alive: None, read: 0, begun, recorded })
    }

    /// See [`crate::ledger::Ledger::alive`]. Who has died is left out.
    pub(crate) fn alive(&self, member: &Member, book: &Book, classes: Classes) -> Vec<OpenRun> {
        let mut runs = book.open_runs(classes);
        runs.retain(|run| run.id != member.id && is_locked(&self.run_file(&run.id)));
        runs
    }

    /// See [`crate::ledger::Ledger::admit`]. Runs that have died are entered as ended.
    pub(crate) fn admit(
        &mut self,
        member: &Member,
        book: &mut Book,
        request: &Request,
        now: f64,
    ) -> Result<Admission, Unusable> {
        self.acquire(WAIT).map_err(|why| self.unusable("lock", why))?;
        let result = self.admit_locked(member, book, request, now);
        let _ = self.lock.unlock();
        match result.map_err(|why| self.unusable("write", why))? {
            Some(admission) => Ok(admission),
            None => Err(self.unusable("use", io::Error::other("a newer budget-tee has written to it"))),
        }
    }

    /// `None` where there are records that only a newer version knows.
    fn admit_locked(
        &mut self,
        member: &Member,
        book: &mut Book,
        request: &Request,
        now: f64,
    ) -> io::Result<Option<Admission>> {
        self.take_in(member, book, now)?;
        if book.has_foreign() && request.must_fit() {
            return Ok(None);
        }
        let mut text = Vec::new();
        let mut alive = Vec::new();
        for run in book.open_runs(request.classes) {
            let path = self.run_file(&run.id);
            if is_locked(&path) {
                alive.push(run);
            } else {
                // It can only have died: runs make their file while they hold the lock.
                let _ = std::fs::remove_file(path);
                text.extend(line(&run.id, run.name.as_deref(), Kind::End, None, Models::default(), now)?);
            }
        }
        let held = member.held_by(&alive);
        let entered = request.fits(member.shared(book, book.spent_by(&member.id), now), held);
        if entered {
            let (name, estimate) = (member.name.as_deref(), Some(request.estimate));
            text.extend(line(&member.id, name, Kind::Start, estimate, Models::default(), now)?);
        }
        self.append(member, book, &text)?;
        if entered {
            let alive = open_file(&self.run_file(&member.id))?;
            alive.lock()?;
            self.alive = Some(alive);
        }
        self.take_in(member, book, now)?;
        // What cannot be summed up now stays as it is.
        let _ = self.sum_up(member, book, now);
        Ok(Some(Admission { entered, held }))
    }

    /// See [`crate::ledger::Ledger::spend`]. The lock is not waited for.
    pub(crate) fn spend(
        &mut self,
        member: &Member,
        book: &mut Book,
        models: &[(String, Spend)],
        now: f64,
    ) -> Result<bool, Unusable> {
        let had = self.try_acquire().map_err(|why| self.unusable("write", why))?;
        if had {
            let result = self.record(member, book, models, Kind::Spend, now);
            let _ = self.lock.unlock();
            result.map_err(|why| self.unusable("write", why))?;
        }
        Ok(had)
    }

    /// See [`crate::ledger::Ledger::leave`].
    pub(crate) fn leave(
        &mut self,
        member: &Member,
        book: &mut Book,
        models: &[(String, Spend)],
        now: f64,
        wait: Duration,
    ) -> Result<(), Unusable> {
        let Some(alive) = self.alive.take() else { return Ok(()) };
        let sum = models.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens));
        let missing = Classes::default().count(&sum.less(self.recorded));
        let failed = |store: &Self, why| store.unusable("write", why).losing(missing);
        self.acquire(wait).map_err(|why| failed(self, why))?;
        let result = self.record(member, book, models, Kind::End, now);
        let _ = std::fs::remove_file(self.run_file(&member.id));
        drop(alive);
        let _ = self.lock.unlock();
        result.map_err(|why| failed(self, why))
    }

    fn record(
        &mut self,
        member: &Member,
        book: &mut Book,
        models: &[(String, Spend)],
        kind: Kind,
        now: f64,
    ) -> io::Result<()> {
        let used = models.iter().filter(|(_, tokens)| !tokens.is_zero());
        let models = Models(used.map(|(name, tokens)| (Cow::from(name.as_str()), *tokens)).collect());
        let sum = models.0.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens));
        let text = line(&member.id, member.name.as_deref(), kind, None, models, now)?;
        self.append(member, book, &text)?;
        self.recorded = sum;
        self.take_in(member, book, now)
    }

    /// See [`crate::ledger::Ledger::look`].
    pub(crate) fn look(&mut self, member: &Member, book: &mut Book, now: f64) -> Result<(), Unusable> {
        self.take_in(member, book, now).map_err(|why| self.unusable("read", why))
    }

    /// Takes in what others have written since the last time. A line that is not complete yet is
    /// left for the next.
    fn take_in(&mut self, member: &Member, book: &mut Book, now: f64) -> io::Result<()> {
        self.keep_current(member, book)?;
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
                if self.begun.is_empty() {
                    book.take(&rest[..end], now);
                } else {
                    self.begun.extend_from_slice(&rest[..end]);
                    book.take(&std::mem::take(&mut self.begun), now);
                }
                rest = &rest[end + 1..];
            }
            self.begun.extend_from_slice(rest);
        }
    }

    /// Opens the file anew where the one that is open is not the one at its path any more, or was
    /// cut: it has been summed up, or removed. What is there now is all there is.
    fn keep_current(&mut self, member: &Member, book: &mut Book) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let current = match std::fs::symlink_metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()) && ours.size() >= self.read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !current {
            self.file = open_file(&self.path)?;
            *book = Book::new(member.window);
            self.read = 0;
            self.begun.clear();
        }
        Ok(())
    }

    /// Appends under the lock, in one write; on a fresh line where the last one is torn.
    fn append(&mut self, member: &Member, book: &mut Book, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.keep_current(member, book)?;
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
    fn sum_up(&mut self, member: &Member, book: &mut Book, now: f64) -> io::Result<()> {
        if self.read < SMALL || !book.is_mostly_history() {
            return Ok(());
        }
        let mut old = Vec::new();
        io::Read::read_to_end(&mut File::open(&self.path)?, &mut old)?;
        let new = compact::summed_up(&old, book, now)?;
        let path = beside(&self.path, "new");
        let _ = std::fs::remove_file(&path);
        let mut file = open_file(&path)?;
        file.write_all(&new)?;
        file.sync_data()?;
        std::fs::rename(&path, &self.path)?;
        self.take_in(member, book, now)
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

    fn unusable(&self, doing: &'static str, why: io::Error) -> Unusable {
        unusable(doing, &self.path, why)
    }

    fn run_file(&self, id: &str) -> PathBuf {
        beside(&self.path, &format!("run.{id}"))
    }
}

/// Something could not be done with the ledger at `path`.
fn unusable(doing: &'static str, path: &Path, why: io::Error) -> Unusable {
    Unusable::new(doing, clean(&path.to_string_lossy()), why)
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
