//! Files that a ledger is made of: how they are opened, and the locks on them that say who writes
//! and who is alive.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::io::Errno;

/// How long to sleep between two tries for the lock.
const RETRY: Duration = Duration::from_millis(2);

/// Only their user may read and write the files of a ledger.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The lock on `FILE.lock`, held while a record is written.
// Not on the ledger itself, which is renamed over when it is summed up: that would be a lock on nothing.
#[derive(Debug)]
pub(crate) struct WriteLock {
    path: PathBuf,
    file: Option<File>,
}

impl WriteLock {
    /// The lock of the ledger at `path`; nothing is made or opened yet.
    pub(crate) fn of(path: &Path) -> Self {
        WriteLock { path: beside(path, "lock"), file: None }
    }

    /// Takes the lock, after `wait` at most.
    pub(crate) fn acquire(&mut self, wait: Duration) -> io::Result<()> {
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

    /// Takes the lock where nobody has it.
    pub(crate) fn try_acquire(&mut self) -> io::Result<bool> {
        loop {
            let file = match self.file.take() {
                Some(file) => file,
                None => open_or_make(&self.path)?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    // It may have been removed with somebody's lock on it; the next try finds that out.
                    self.file = is_at(&file, &self.path)?.then_some(file);
                    return Ok(false);
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Where somebody has removed it meanwhile, the next run makes another: two locks would be two
            // writers at once.
            if is_at(&file, &self.path)? {
                self.file = Some(file);
                return Ok(true);
            }
        }
    }

    pub(crate) fn release(&self) {
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}

/// The lock on `FILE.run.ID`, which a run holds for life.
// The kernel drops it however the run ends. A pid may be another process by now, and a clock may be set:
// neither tells whether a run is alive. And not a lock on the ledger: every append would wait for it.
#[derive(Debug)]
pub(crate) struct LifeLock {
    path: PathBuf,
    _file: File,
}

impl LifeLock {
    /// Takes the lock of a run of the ledger at `path`.
    pub(crate) fn take(path: &Path, id: &str) -> io::Result<Self> {
        let path = beside(path, &format!("run.{id}"));
        let file = open_or_make(&path)?;
        // It waits for no more than a probe, which lasts for microseconds.
        file.lock()?;
        Ok(LifeLock { path, _file: file })
    }

    /// Removes the file, and drops the lock.
    pub(crate) fn end(self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Whether the run with this id is alive.
    pub(crate) fn is_held(path: &Path, id: &str) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = open(beside(path, &format!("run.{id}")), flags, Mode::empty()) else { return false };
        // Shared: two that probe at once would take each other's exclusive lock for the run's. Of 300 starts
        // beside a loop of `--status`, 9 were refused for that.
        matches!(File::from(file).try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Removes the file of a run that has died.
    pub(crate) fn sweep(path: &Path, id: &str) {
        let _ = std::fs::remove_file(beside(path, &format!("run.{id}")));
    }
}

/// `FILE.suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether `file` is what is at `path` now.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a file of this user to read and append, and makes it where there is none, readable by this
/// user alone.
pub(crate) fn open_or_make(path: &Path) -> io::Result<File> {
    let exclusive = OFlags::CREATE | OFlags::EXCL;
    loop {
        match open_checked(path, OFlags::RDWR | OFlags::APPEND) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => return result,
        }
        match open(path, OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC | exclusive, PRIVATE) {
            Ok(file) => {
                // A umask of 0777 would leave a file that its own user cannot open again. Ours is inherited by
                // the command, and must not be changed for this.
                fchmod(&file, PRIVATE)?;
                return Ok(File::from(file));
            }
            // Another run has made it meanwhile.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a regular file of this user that is there.
pub(crate) fn open_checked(path: &Path, access: OFlags) -> io::Result<File> {
    // Never through a symlink, which another user may have put there; and without blocking on a FIFO.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(io::Error::other("it is a symlink")),
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
