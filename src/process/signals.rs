//! Signals to budget-tee, delivered as something to poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::signal_name;

use crate::process::child::has_terminal;
use crate::process::tree::{Process, lineage};

/// The signals that end budget-tee.
pub(crate) const END: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// The signals that end or stop a filter or tell of its hooks.
pub(crate) const FILTER: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD, SIGTSTP];

/// The signals that are passed on to a wrapped command or tell of it.
pub(crate) const WRAP: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGTSTP];

/// The signals after which the bars may have to be drawn again.
// A window that was resized has another width, and while the job was stopped others drew over the bars.
pub(crate) const REDRAW: &[i32] = &[SIGWINCH, SIGCONT];

/// The signals that have arrived.
// A flag that a handler sets would not wake a blocked read: handlers are installed with SA_RESTART.
#[derive(Debug)]
pub(crate) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Catches `signals`, except those that were ignored at the start.
    pub(crate) fn catch(signals: &[i32]) -> io::Result<Self> {
        // `nohup` ignores HUP, and a shell INT in a background job: a handler would undo that. CHLD is
        // caught all the same: nothing could be reaped where it is ignored.
        let ignored = ignored();
        let caught =
            signals.iter().chain(REDRAW).filter(|signal| **signal == SIGCHLD || ignored >> (**signal - 1) & 1 == 0);
        let (read, write) = UnixStream::pair()?;
        SignalDelivery::with_pipe(read, write, SignalOnly, caught.collect::<Vec<_>>()).map(Signals)
    }

    pub(crate) fn arrived(&mut self) -> impl Iterator<Item = i32> {
        self.0.pending()
    }
}

/// Stops budget-tee, as TSTP does by itself, until CONT comes.
pub(crate) fn stop() {
    // The kernel spares a process group that no shell could continue; STOP, which a handler has to use,
    // would not.
    if !has_terminal() || has_shell(&lineage()) {
        let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
    }
}

/// Whether the process group is a job of a shell: an ancestor in another group of the same session.
fn has_shell(lineage: &[Process]) -> bool {
    let Some(own) = lineage.first() else { return false };
    let parent = lineage.iter().find(|ancestor| ancestor.group != own.group);
    parent.is_some_and(|parent| parent.session == own.session)
}

/// A signal by its number or its name, with or without `SIG`, in either case.
pub(crate) fn by_name(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = |number: &i32| signal_name(*number).is_some_and(|known| known.strip_prefix("SIG") == Some(name));
    let number = text.parse().ok();
    // Up to 31: real-time signals have no fixed numbers, by signal(7).
    let known = (1..32).find(|candidate| number == Some(*candidate) || named(candidate));
    known.ok_or_else(|| "want a signal such as TERM, INT or 15".to_owned())
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// The mask of the signals ignored at the start, as /proc has it; none where it does not.
fn ignored() -> u64 {
    // To ask the kernel takes `sigaction`, which is unsafe to call.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
