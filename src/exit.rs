//! How budget-tee ends: one table of exit codes, and the one way to die of a signal.

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All was forwarded; in warn mode even when a budget was exceeded.
    Done,
    /// Block mode: the estimate did not fit; nothing was read or started.
    Refused,
    /// Block mode: stopped on the way.
    Tripped,
    /// budget-tee itself failed: bad usage, a stream that cannot be read or written.
    Failed,
    /// The reader of stdout went away.
    ReaderGone,
    /// A signal ended it.
    Signal(i32),
}

impl Exit {
    /// The exit code that a shell sees.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 121,
            Exit::Tripped => 122,
            Exit::Failed => 125,
            Exit::ReaderGone => 141,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// Ends the process; by dying of the signal where it was one, so that shell loops end too.
    pub fn leave(self) -> ! {
        if let Exit::Signal(signal) = self {
            // Where this returns the signal's default is not to end a process: then the code tells.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        std::process::exit(self.code())
    }
}
