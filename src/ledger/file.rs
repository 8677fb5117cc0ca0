//! A ledger in a file.
//!
//! Entries are appended under a lock on `FILE.lock`, which is held for one write. Each run holds a lock
//! on `FILE.run.ID` for life. The keeper decides when to write and when to look.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::fs::OFlags;

use crate::amount::Amounts;
use crate::count::tokens::{Classes, Spend};
use crate::error::Error;
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::compact::Compaction;
use crate::ledger::entry::{Entry, EntryKind};
use crate::ledger::lines::Lines;
use crate::ledger::lock::{LifeLock, WriteLock, beside, is_at, open_checked, open_or_make};
use crate::ledger::store::{
    Admission, Failure, Handover, LEDGER_WAIT, Member, Request, Retry, Store, Terms, made_anew,
};
use crate::show::text::clean_os;

/// A ledger smaller than this is not summed up, in bytes: reading it takes a few milliseconds.
const SMALL: u64 = 4 * 1024 * 1024;

/// So much may be left to read when the lock is taken, in bytes: less than a millisecond's work.
const BEHIND: u64 = 64 * 1024;

/// How often a run that starts catches up with the others before it takes the lock.
const CATCH_UP: usize = 5;

/// What the first line of a file begins with where it is a ledger that was torn there.
const TORN: &[u8] = b"{\"v\":";

/// A record is no longer than this, in bytes, as far as can be told from its beginning.
const FIRST_MAX: usize = 4096;

/// The file, its locks, and how far it has been read.
#[derive(Debug)]
pub(crate) struct FileStore {
    member: Member,
    book: Book,
    path: PathBuf,
    file: File,
    lines: Lines,
    lock: WriteLock,
    /// `None` until the run is admitted.
    alive: Option<LifeLock>,
    reservation: Amounts,
    /// What was last recorded of this run.
    recorded: Handover,
    /// The file was removed, and another one made.
    is_anew: bool,
    /// The run has summed up the ledger, or tried to.
    has_summed_up: bool,
}

impl FileStore {
    /// Opens the ledger at `path`, and makes it where there is none.
    pub(crate) fn open(path: &Path, member: Member) -> Result<Self, Error> {
        let file = open_or_make(path).map_err(|why| Error::file("open ledger", path, why))?;
        FileStore::of(file, path, member)
    }

    /// Opens the ledger at `path` for a report: nothing is made, and nothing is written.
    pub(crate) fn open_to_read(path: &Path, member: Member, zone: Option<TimeZone>) -> Result<Option<Self>, Error> {
        match open_checked(path, OFlags::RDONLY) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("open ledger", path, error)),
            Ok(file) => {
                let book = zone.map_or_else(|| Book::new(member.window.clone()), Book::adopting);
                Ok(Some(FileStore { book, ..FileStore::of(file, path, member)? }))
            }
        }
    }

    fn of(file: File, path: &Path, member: Member) -> Result<Self, Error> {
        if !is_ledger(&file).map_err(|why| Error::file("read ledger", path, why))? {
            let why = io::Error::other("its first line is not a ledger record");
            return Err(Error::NoLedger(Error::file("use ledger", path, why).to_string()));
        }
        Ok(FileStore {
            book: Book::new(member.window.clone()),
            member,
            file,
            lines: Lines::default(),
            lock: WriteLock::of(path),
            path: path.to_owned(),
            alive: None,
            reservation: Amounts::default(),
            recorded: Handover::default(),
            is_anew: false,
            has_summed_up: false,
        })
    }

    fn failure(&self, doing: &str, why: io::Error) -> Failure {
        Error::file(&format!("{doing} ledger"), &self.path, why).into()
    }

    /// Takes the lock when the file has been read but for the last of it.
    // A million records are read in half a second, for which nobody else must wait.
    fn catch_up_and_lock(&mut self, now: f64) -> io::Result<()> {
        for _ in 0..CATCH_UP {
            self.catch_up(now)?;
            self.lock.acquire(LEDGER_WAIT)?;
            let behind = self.file.metadata()?.size().saturating_sub(self.lines.read());
            if behind <= BEHIND && is_at(&self.file, &self.path)? {
                return Ok(());
            }
            self.lock.release();
        }
        self.lock.acquire(LEDGER_WAIT)
    }

    /// Admits a run under the lock; `None` where there are entries that only a newer version knows.
    fn admit_locked(&mut self, request: &Request, now: f64) -> io::Result<Option<Admission>> {
        self.catch_up(now)?;
        if self.book.has_foreign() && request.must_fit() {
            return Ok(None);
        }
        let mut text = Vec::new();
        let mut alive = Vec::new();
        for run in self.book.open_runs(request.classes) {
            if LifeLock::is_held(&self.path, &run.id) {
                alive.push(run);
            } else {
                // It can only have died: runs make their file while they hold the lock.
                LifeLock::sweep(&self.path, &run.id);
                text.extend(Entry::new(EntryKind::End, Some(&run.id), run.name.as_deref(), millis(now)).line()?);
            }
        }
        let reserved = self.member.reserved_by(&alive);
        // Check and reservation under one lock: in two, each of two runs would find room for itself.
        let admitted = request.fits(self.totals(now), reserved);
        if admitted {
            self.reservation = request.reservation;
            text.extend(self.start(now)?);
            for limit in request.limits.iter().filter(|limit| !self.book.limits().has(limit)) {
                text.extend(Entry::of_limit(limit, millis(now)).line()?);
            }
        }
        self.append(&text)?;
        if admitted {
            self.alive = Some(LifeLock::take(&self.path, &self.member.id)?);
        }
        self.catch_up(now)?;
        Ok(Some(Admission { admitted, reserved }))
    }

    /// An entry of this run.
    fn entry(&self, kind: EntryKind, now: f64) -> Entry<'_> {
        Entry::new(kind, Some(&self.member.id), self.member.name.as_deref(), millis(now))
    }

    /// The entry of this run's start, as a line.
    fn start(&self, now: f64) -> io::Result<Vec<u8>> {
        let mut entry = self.entry(EntryKind::Start, now);
        entry.estimate = Some(self.reservation.tokens);
        entry.estimate_micro_usd = Some(self.reservation.micro_usd).filter(|micro_usd| *micro_usd > 0);
        entry.line()
    }

    /// Writes an entry with all that this run has spent and the marks that have changed, under the lock.
    fn write_spend(&mut self, kind: EntryKind, handover: &Handover, now: f64) -> io::Result<()> {
        self.catch_up(now)?;
        let mut text = Vec::new();
        let is_lost = !self.book.is_open(&self.member.id);
        if is_lost {
            // The file was removed: in the new one the run holds its reservation as before.
            text.extend(self.start(now)?);
        }
        let mut entry = self.entry(kind, now).with(&handover.spend);
        if entry.models.is_empty() {
            // An entry without models says nothing of spend: that all of it is gone must be written out.
            let none = |model: &str| (model.to_owned(), Spend::default());
            entry.models = self.book.models_of(&self.member.id).map(none).collect();
        }
        // Not all of them: another run may have resumed the thread since, and told a newer mark.
        let changes = handover.changes(&self.recorded);
        let marks = changes.filter(|(id, _, is_new)| *is_new || is_lost && self.book.marks.get(id).is_none());
        entry.threads = marks.map(|(id, mark, _)| (id.to_owned(), mark)).collect();
        text.extend(entry.line()?);
        self.append(&text)?;
        self.recorded = handover.clone();
        self.catch_up(now)
    }

    /// Takes in what others have written since the last time, in the file that is there now.
    fn catch_up(&mut self, now: f64) -> io::Result<()> {
        self.keep_current()?;
        self.take_in(now)
    }

    fn take_in(&mut self, now: f64) -> io::Result<()> {
        let (book, size) = (&mut self.book, self.file.metadata()?.size());
        self.lines.each(&self.file, size, |line| {
            book.take(line, now);
            Ok(())
        })
    }

    /// Opens the file again where the one that is open is no longer the one at its path, or was cut: it
    /// has been summed up or removed, and what is there now is all there is.
    fn keep_current(&mut self) -> io::Result<()> {
        if is_at(&self.file, &self.path)? && self.file.metadata()?.size() >= self.lines.read() {
            return Ok(());
        }
        let file = open_or_make(&self.path)?;
        if !is_ledger(&file)? {
            return Err(io::Error::other("it was replaced by a file that is not a ledger"));
        }
        (self.file, self.lines) = (file, Lines::default());
        self.book = Book::new(self.member.window.clone());
        Ok(())
    }

    /// Appends under the lock, in one write; on a fresh line where the last one is torn.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
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
        if written == text.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    /// Replaces the entries of runs that have ended by sums, where they are most of the ledger. Whoever has
    /// the old file open sees that it is no longer the one at its path.
    // All but the last step without the lock: with 20,000 commands others waited for 16 s.
    fn sum_up(&mut self, now: f64) -> io::Result<()> {
        if self.has_summed_up || self.lines.read() < SMALL || !self.book.is_mostly_history() {
            return Ok(());
        }
        // Once a run: on a disk that is full it would read all of it five times a second.
        self.has_summed_up = true;
        let path = beside(&self.path, "new");
        let new = open_or_make(&path)?;
        // Whoever holds this lock is at work on the file, and renames it before the lock is free again.
        if new.try_lock().is_err() || !is_at(&new, &path)? {
            return Ok(());
        }
        // What is left of a run that was killed at this.
        new.set_len(0)?;
        let end = self.lines.next_line();
        let (mut compaction, mut out) = (Compaction::default(), BufWriter::new(&new));
        // Before everything else: a report takes its window from them.
        self.book.limits().all().try_for_each(|limit| out.write_all(&Entry::of_limit(limit, millis(now)).line()?))?;
        Lines::default().each(&self.file, end, |line| match compaction.take(line, &self.book, now) {
            true => out.write_all(line).and_then(|()| out.write_all(b"\n")),
            false => Ok(()),
        })?;
        compaction.finish(|line| out.write_all(line))?;
        // Behind everything else: entries of runs under way are kept, with marks that may be older.
        let marks = self.book.marks.oldest_first();
        marks.iter().try_for_each(|(id, mark)| out.write_all(&Entry::of_mark(id, *mark, millis(now)).line()?))?;
        out.flush()?;
        // The rename must not be on the disk before what it names.
        new.sync_data()?;
        self.lock.acquire(LEDGER_WAIT)?;
        let result = self.replace(&new, &path, end);
        self.lock.release();
        result
    }

    /// Puts `new` in the place of the ledger, with what was appended behind `end` meanwhile; under the lock.
    fn replace(&self, mut new: &File, path: &Path, end: u64) -> io::Result<()> {
        // Somebody has removed the ledger, and what was in it must not come back.
        if !is_at(&self.file, &self.path)? {
            return std::fs::remove_file(path);
        }
        let size = self.file.metadata()?.size();
        let mut rest = vec![0; usize::try_from(size.saturating_sub(end)).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut rest, end)?;
        new.write_all(&rest)?;
        std::fs::rename(path, &self.path)
    }
}

impl Store for FileStore {
    fn member(&self) -> &Member {
        &self.member
    }

    fn book(&self) -> &Book {
        &self.book
    }

    fn terms(&self) -> Terms {
        // A look that finds nothing is three calls of `stat`.
        Terms { look: Duration::from_secs(1), renew: None, grace: None }
    }

    fn read(&mut self, now: f64) -> Result<bool, Failure> {
        // Without `catch_up`, which would make the file where somebody has just removed it.
        self.take_in(now).map(|()| true).map_err(|why| self.failure("read", why))
    }

    fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Failure> {
        self.catch_up_and_lock(now).map_err(|why| self.failure("lock", why))?;
        let result = self.admit_locked(request, now);
        self.lock.release();
        let newer = || self.failure("use", io::Error::other("a newer budget-tee has written to it"));
        result.map_err(|why| self.failure("write", why))?.ok_or_else(newer)
    }

    fn step(&mut self, handover: &Handover, now: f64) -> Result<(), Failure> {
        if *handover == self.recorded {
            self.catch_up(now).map_err(|why| self.failure("read", why))?;
        }
        let is_lost = !self.book.is_open(&self.member.id);
        self.is_anew |= is_lost;
        if *handover != self.recorded || is_lost {
            // Without waiting: the entry is cumulative, so that the next one makes up for it.
            if !self.lock.try_acquire().map_err(|why| self.failure("lock", why))? {
                let why = self.failure("lock", io::Error::other("it is still locked by another run"));
                return Err(Failure { retry: Retry::Busy, ..why });
            }
            let result = self.write_spend(EntryKind::Spend, handover, now);
            self.lock.release();
            result.map_err(|why| self.failure("write", why))?;
        }
        // What cannot be summed up now stays as it is.
        let _ = self.sum_up(now);
        Ok(())
    }

    fn grant(&mut self, name: Option<&str>, amounts: Amounts, now: f64) -> Result<bool, Failure> {
        self.lock.acquire(LEDGER_WAIT).map_err(|why| self.failure("lock", why))?;
        let mut entry = Entry::new(EntryKind::Grant, None, name, millis(now));
        entry.tokens = Some(amounts.tokens).filter(|tokens| *tokens > 0);
        entry.micro_usd = Some(amounts.micro_usd).filter(|micro_usd| *micro_usd > 0);
        let result = entry.line().and_then(|line| self.append(&line));
        self.lock.release();
        result.map(|()| true).map_err(|why| self.failure("write", why))
    }

    fn leave(&mut self, handover: &Handover, now: f64) -> Result<(), Failure> {
        self.lock.acquire(LEDGER_WAIT).map_err(|why| self.failure("lock", why))?;
        let result = self.write_spend(EntryKind::End, handover, now);
        // While its lock is held: nobody may take the run for a dead one before its end is written.
        if let Some(alive) = self.alive.take() {
            alive.end();
        }
        self.lock.release();
        result.map_err(|why| self.failure("write", why))?;
        // Here too: a run that ends at once has no step.
        let _ = self.sum_up(now);
        Ok(())
    }

    fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        let mut runs = self.book.open_runs(classes);
        runs.retain(|run| run.id != self.member.id && LifeLock::is_held(&self.path, &run.id));
        runs
    }

    fn own(&self) -> Spend {
        self.book.spent_by(&self.member.id)
    }

    fn note(&mut self) -> Option<String> {
        let location = clean_os(&self.path);
        std::mem::take(&mut self.is_anew).then(|| made_anew(&location))
    }
}

/// A time in Unix seconds, to the millisecond.
// More digits would only make the file longer.
fn millis(now: f64) -> f64 {
    (now * 1000.0).round() / 1000.0
}

/// Whether a file is a ledger: it is empty, or its first line is a record.
// Any text file was taken for a ledger with damaged lines, and written into.
fn is_ledger(file: &File) -> io::Result<bool> {
    let mut first = vec![0; FIRST_MAX];
    let read = file.read_at(&mut first, 0)?;
    let line = first[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(read == 0 || line.starts_with(TORN) || Book::is_entry(line))
}
