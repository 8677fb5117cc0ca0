//! How the threads wake and share with each other: a flag that can be polled, and a lock that
//! outlives a panic.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A flag with a pipe: one thread raises it, another polls the pipe and looks at the flag.
///
/// The pipe never holds more than one byte, so that raising it never blocks.
#[derive(Debug)]
pub struct Wake {
    raised: AtomicBool,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wake {
    /// A flag that is down.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        Ok(Wake { raised: AtomicBool::new(false), reader, writer })
    }

    /// Raises the flag and wakes whoever polls; does nothing where it is up already.
    pub fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            let _ = (&self.writer).write(&[1]);
        }
    }

    /// Whether the flag is up.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Empties the pipe, which must be readable, and leaves the flag up: raising it again wakes
    /// nobody until [`Wake::lower`].
    pub fn silence(&self) {
        let _ = (&self.reader).read(&mut [0]);
    }

    /// Takes the flag down, after [`Wake::silence`].
    pub fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Locks what threads share. Nothing here is left half changed by a panic, so a poisoned lock is
/// taken like any other.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
