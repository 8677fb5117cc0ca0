//! How budget-tee ends: the table of exit codes, the error type with its one conversion to a code,
//! and what a run came to.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use serde::Serialize;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::signal_name;

use crate::show::text::{because, clean_os, reason, without_number};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was forwarded; in warn mode even when a budget was exceeded.
    Done,
    /// The wrapped command ended by itself with this code.
    Child(i32),
    /// Block mode: the estimate did not fit; nothing was read or started.
    Refused,
    /// Block mode: the run was stopped on the way, however the command then ended.
    Stopped,
    /// The stream of the wrapped command was silent for too long.
    Idle,
    /// The wrapped command ended by itself with this code, after budget-tee was told to end by this signal.
    Interrupted(i32, i32),
    /// budget-tee itself failed: bad usage, a stream that cannot be read or written.
    Failed,
    /// The command was found but cannot be run.
    CannotRun,
    /// The command was not found.
    NotFound,
    /// The reader of stdout went away.
    ReaderGone,
    /// A signal ended budget-tee or the wrapped command.
    Signal(i32),
}

impl Exit {
    /// The exit code that a shell sees.
    pub fn code(self) -> i32 {
        // 125 is what `timeout` and `env` use for their own failures: the usual 1 or 2 would look like
        // the command's. 126, 127 and 128+N are the shell's own, and 124 is what `timeout` has for the same:
        // below it are the two that only budget-tee knows.
        match self {
            Exit::Done => 0,
            Exit::Child(code) | Exit::Interrupted(code, _) => code,
            Exit::Refused => 121,
            Exit::Stopped => 122,
            Exit::Idle => 124,
            Exit::Failed => 125,
            Exit::CannotRun => 126,
            Exit::NotFound => 127,
            // 128 + SIGPIPE: what a shell sees of any filter that had the signal's default.
            Exit::ReaderGone => 141,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// The name of the signal that ended the run, or that told budget-tee to end it: `TERM`.
    pub(crate) fn signal(self) -> Option<&'static str> {
        let (Exit::Signal(signal) | Exit::Interrupted(_, signal)) = self else { return None };
        signal_name(signal).map(|name| name.trim_start_matches("SIG"))
    }

    /// Whether all went well, as far as budget-tee can tell.
    pub fn is_success(self) -> bool {
        matches!(self, Exit::Done | Exit::Child(0))
    }

    /// Ends the process, by dying of the signal where it was one.
    pub fn leave(self) -> ! {
        // A shell ends its loop on Ctrl-C only where it sees that the program died of the signal.
        if let Exit::Signal(signal) = self
            // No signal of its own ends the first process of a container.
            && !rustix::process::getpid().is_init()
            // KILL needs no help; QUIT and the like would leave a core file.
            && [SIGHUP, SIGINT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2].contains(&signal)
        {
            // Where this returns, the signal is ignored or blocked: then the code has to tell.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        std::process::exit(self.code())
    }
}

/// What ends budget-tee early.
#[derive(Debug)]
pub enum Error {
    /// Bad options, environment variables or configuration, or a ledger that cannot be used; the
    /// text is the message, with its notes on lines of their own.
    Failed(String),
    /// What is named as the ledger is something else, and must stay as it is: nothing starts, in any mode.
    NoLedger(String),
    /// COMMAND cannot be run; its name, cleaned, and why.
    // The error and not its text: its kind tells 127 from 126.
    Command(String, io::Error),
    /// The reader of stdout went away, which is nothing to report.
    ReaderGone,
}

impl Error {
    /// Something could not be done to a file: `cannot open ledger spend.ndjson: Permission denied`.
    pub fn file(doing: &str, path: impl AsRef<OsStr>, why: impl Into<io::Error>) -> Error {
        Error::Failed(because(format_args!("cannot {doing} {}", clean_os(path)), reason(why)))
    }

    /// Something could not be done: `cannot write to stdout: No space left on device`.
    pub fn cannot(doing: &str, why: io::Error) -> Error {
        Error::Failed(format!("cannot {doing}: {}", reason(why)))
    }

    pub(crate) fn command(name: impl AsRef<OsStr>, why: io::Error) -> Error {
        Error::Command(clean_os(name), why)
    }

    /// How budget-tee ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Failed(_) | Error::NoLedger(_) => Exit::Failed,
            Error::Command(_, why) if why.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Error::Command(..) => Exit::CannotRun,
            Error::ReaderGone => Exit::ReaderGone,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Failed(message) | Error::NoLedger(message) => f.write_str(message),
            Error::Command(name, why) => {
                f.write_str(&because(format_args!("cannot run {name}"), without_number(&why.to_string())))
            }
            Error::ReaderGone => Ok(()),
        }
    }
}

impl From<String> for Error {
    fn from(message: String) -> Error {
        Error::Failed(message)
    }
}

/// What a run came to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The stream ended within all budgets.
    Completed,
    /// The stream ended, and a budget was exceeded on the way.
    Exceeded,
    /// Block mode stopped it.
    Stopped,
    /// Block mode did not let it start.
    Refused,
    /// A signal, a failure, a silence that was too long, or the reader of stdout ended it.
    Interrupted,
}

impl Outcome {
    pub(crate) fn of(exit: Exit, exceeded: bool, usage_seen: bool) -> Outcome {
        match exit {
            Exit::Stopped => Outcome::Stopped,
            Exit::Refused => Outcome::Refused,
            // The word of a shell, or of the child before it became the command, that nothing ran; an
            // agent that used tokens and then exits with one of these did run.
            Exit::Child(126 | 127) if !usage_seen => Outcome::Interrupted,
            Exit::Done | Exit::Child(_) if exceeded => Outcome::Exceeded,
            Exit::Done | Exit::Child(_) => Outcome::Completed,
            Exit::Idle | Exit::Interrupted(..) | Exit::Signal(_) => Outcome::Interrupted,
            Exit::Failed | Exit::CannotRun | Exit::NotFound | Exit::ReaderGone => Outcome::Interrupted,
        }
    }
}
