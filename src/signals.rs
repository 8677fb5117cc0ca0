//! Signals to budget-tee, delivered as something to poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// The signals that have arrived.
#[derive(Debug)]
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

/// Those that end a filter, and the one that tells of a new width.
const CAUGHT: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGWINCH];

impl Signals {
    /// Catches the signals that end a filter. One that is ignored (`nohup`, a shell's background
    /// job) stays ignored.
    ///
    /// # Errors
    /// Where the socket pair or a handler cannot be had.
    pub fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let caught = CAUGHT.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let (read, write) = UnixStream::pair()?;
        SignalDelivery::with_pipe(read, write, SignalOnly, caught.collect::<Vec<_>>()).map(Signals)
    }

    /// Those that arrived since the last call.
    pub fn arrived(&mut self) -> impl Iterator<Item = i32> {
        self.0.pending()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// The mask of signals ignored at the start, as /proc tells it; none where it does not.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
