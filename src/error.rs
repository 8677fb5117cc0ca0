//! How budget-tee ends: one table of exit codes, and the one way to die of a signal.

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All was forwarded; in warn mode even when a budget was exceeded.
    Done,
    /// The wrapped command ended by itself, with this code.
    Child(i32),
    /// Block mode: the estimate did not fit; nothing was read or started.
    Refused,
    /// Block mode: stopped on the way, however the command ended then.
    Tripped,
    /// budget-tee itself failed: bad usage, a stream that cannot be read or written.
    Failed,
    /// The command was found but cannot be run.
    CannotRun,
    /// The command was not found.
    NotFound,
    /// The reader of stdout went away.
    ReaderGone,
    /// A signal ended it, or the wrapped command.
    Signal(i32),
}

impl Exit {
    /// The exit code that a shell sees.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Exit::Done => 0,
            Exit::Child(code) => code,
            Exit::Refused => 121,
            Exit::Tripped => 122,
            Exit::Failed => 125,
            Exit::CannotRun => 126,
            Exit::NotFound => 127,
            Exit::ReaderGone => 141,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// How the failure to run a command ends: the codes that shells and `timeout` use.
    #[must_use]
    pub fn not_run(error: &std::io::Error) -> Exit {
        if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::CannotRun }
    }

    /// Ends the process; by dying of the signal where it was one, so that shell loops end too.
    /// Signals that leave a core behind, and KILL, are left to the exit code, and so are all for the
    /// first process of a container, which no signal of its own ends.
    pub fn leave(self) -> ! {
        if let Exit::Signal(signal) = self
            && !rustix::process::getpid().is_init()
            && [SIGHUP, SIGINT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2].contains(&signal)
        {
            // Where this returns, the signal is ignored or blocked: then the code tells.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        std::process::exit(self.code())
    }
}
