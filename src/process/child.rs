//! The child: starts the wrapped command, and is the only one that signals or reaps anything of it.
//!
//! No process is signalled after it was reaped, and none that does not descend from the child: in
//! `budget-tee ... -- claude | jq`, jq is in the same process group. budget-tee is the subreaper of
//! what it starts, so that whatever a descendant leaves behind is still found below it.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, getppid, getsid, kill_process, kill_process_group,
    pidfd_open, set_child_subreaper, set_parent_process_death_signal, wait,
};

use crate::error::Error;
use crate::process::tree::{Process, descendants, inherited};

/// The name under which budget-tee runs itself to become the command; see [`become_command`].
const BECOME: &str = "budget-tee: starting";

/// How often to look through the tree for processes that were forked meanwhile. A fork bomb is stopped
/// after a few rounds; this bounds one that is not.
const ROUNDS: usize = 100;

/// A wrapped command, from its start until budget-tee ends.
#[derive(Debug)]
pub(crate) struct Child {
    /// `None` once it has been reaped.
    pid: Option<Pid>,
    status: Option<WaitStatus>,
    /// It shares budget-tee's process group, so that the terminal treats both as one job.
    shares_group: bool,
    /// Readable once the child has ended, also where CHLD is blocked.
    pidfd: Option<OwnedFd>,
    /// Descendants that do not belong to the command: those that budget-tee had before exec, and hooks.
    strangers: Vec<Process>,
    /// Nothing that was started here is left.
    alone: bool,
}

impl Child {
    /// Starts `command` with its stdout in a pipe, whose other end is returned and does not block; in
    /// budget-tee's process group, or in one of its own.
    pub(crate) fn start(command: &[OsString], shares_group: bool) -> io::Result<(Child, PipeReader)> {
        let strangers = inherited();
        set_child_subreaper(Some(getpid()))?;
        let (reader, writer) = pipe()?;
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        let spawn = |mut process: Command| -> io::Result<std::process::Child> {
            if !shares_group {
                process.process_group(0);
            }
            process.stdout(Stdio::from(writer.try_clone()?)).spawn()
        };
        let mut via_self = Command::new("/proc/self/exe");
        via_self.arg0(BECOME).arg(getpid().to_string()).args(command);
        let child = match spawn(via_self) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // No /proc: then the child does not learn of budget-tee's death.
                let (name, args) = command.split_first().ok_or(Errno::INVAL)?;
                let mut process = Command::new(name);
                process.args(args);
                spawn(process)?
            }
            result => result?,
        };
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok((Child { pid: Some(pid), status: None, shares_group, pidfd, strangers, alone: false }, reader))
    }

    /// Whether the child is in budget-tee's process group.
    pub(crate) fn shares_group(&self) -> bool {
        self.shares_group
    }

    /// How the child ended, once it has.
    pub(crate) fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// Whether the child and all that it started have ended.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Readable once the child has ended; `None` where it has been reaped.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Sends `signal` to the child, unless it has been reaped; and to its process group where that is
    /// its own, as a terminal and `timeout` do.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may have ended without having been reaped: then there is nobody to signal.
            let _ = if self.shares_group { kill_process(pid, signal) } else { kill_process_group(pid, signal) };
        }
    }

    /// Reaps every process that has ended, also those that were only left to budget-tee. Returns the
    /// ones other than the child.
    pub(crate) fn reap(&mut self) -> Vec<(Pid, WaitStatus)> {
        let mut others = Vec::new();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.strangers.retain(|stranger| stranger.pid != pid);
                    if self.pid == Some(pid) {
                        (self.pid, self.pidfd) = (None, None);
                        self.status = Some(status);
                    } else {
                        others.push((pid, status));
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.alone = true;
                    return others;
                }
                Ok(None) => {
                    self.alone = self.pid.is_none() && !self.strangers.is_empty() && self.tree().is_empty();
                    return others;
                }
            }
        }
    }

    /// Leaves a process out of the command's tree: it is one of budget-tee's own.
    pub(crate) fn exclude(&mut self, pid: Pid) {
        if self.strangers.iter().all(|stranger| stranger.pid != pid) {
            self.strangers.extend(Process::read(pid));
        }
    }

    /// Sends `signal`, and then CONT, to the child and all its descendants, until no more turn up.
    /// Returns how many there were.
    pub(crate) fn signal_tree(&self, signal: Signal) -> usize {
        let mut sent: Vec<Process> = Vec::new();
        for _ in 0..ROUNDS {
            let mut new = self.tree();
            new.retain(|process| !sent.iter().any(|sent| sent.is(process)));
            if new.is_empty() {
                break;
            }
            for process in new {
                process.signal(signal);
                sent.push(process);
            }
        }
        // Where /proc does not show it, the child itself is known all the same.
        if self.pid.is_some_and(|pid| sent.iter().all(|process| process.pid != pid)) {
            self.signal(signal);
            self.signal(Signal::CONT);
            return sent.len() + 1;
        }
        sent.len()
    }

    /// All living descendants that belong to the command.
    fn tree(&self) -> Vec<Process> {
        let mut tree = descendants(&self.strangers);
        tree.retain(|process| process.alive);
        tree
    }
}

/// Whether there is a controlling terminal: then the child has to stay in budget-tee's process group,
/// or it would lose the terminal.
pub(crate) fn has_terminal() -> bool {
    open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Whether budget-tee leads its session, as the first program of a window or of a login does.
pub(crate) fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// Becomes the command, in the process that a wrapping budget-tee has started: it first asks for TERM when
/// budget-tee dies, which only the process itself can ask for. Returns `None` at once in any other
/// process, and otherwise why the command cannot be run.
pub fn become_command() -> Option<Error> {
    let mut args = std::env::args_os();
    if args.next().as_deref() != Some(OsStr::new(BECOME)) {
        return None;
    }
    let parent = args.next()?;
    let name = args.next()?;
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    let now = getppid().map(|pid| pid.to_string());
    if now.as_deref().map(OsStr::new) != Some(&parent) {
        return Some(Error::command(name, io::Error::other("budget-tee has ended")));
    }
    let error = Command::new(&name).args(args).exec();
    Some(Error::command(name, error))
}
