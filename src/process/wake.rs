//! How the threads wake and share with each other: a flag that can be polled, and a lock that
//! outlives a panic.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

/// A flag with an eventfd: one thread raises it, another polls the descriptor and looks at the flag.
// A condition variable could not be waited for together with signals and the child. The flag is there so that
// to raise it again takes no system call: the relay raises it for every line that counts.
#[derive(Debug)]
pub(crate) struct Wake {
    raised: AtomicBool,
    fd: OwnedFd,
}

impl Wake {
    /// A flag that is down.
    pub(crate) fn new() -> Result<Self, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake { raised: AtomicBool::new(false), fd })
    }

    /// Raises the flag and wakes whoever polls; does nothing where it is up already.
    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            // It fails only where the counter is full, and then the descriptor is readable anyway.
            let _ = write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Whether the flag is up.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Makes the descriptor unreadable and leaves the flag up: raising it again wakes nobody until
    /// [`Wake::lower`].
    pub(crate) fn silence(&self) {
        let _ = read(&self.fd, &mut [0; 8]);
    }

    /// Takes the flag down, after [`Wake::silence`].
    pub(crate) fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Raises a flag when it goes out of scope.
// Also by a panic: nobody else would tell that a thread has ended.
pub(crate) struct RaiseAtEnd<'a>(pub(crate) &'a Wake);

impl Drop for RaiseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Locks what threads share.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half changed by a panic, so a poisoned lock is taken like any other: the bars
    // and the kill timers must go on where the relay's thread has panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
