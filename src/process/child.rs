//! The child: starts the wrapped command, and is the only one that signals or reaps anything of it.
//!
//! No process is signalled after it was reaped, and none that does not descend from the child.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, getppid, getsid, kill_process, kill_process_group,
    pidfd_open, set_child_subreaper, set_parent_process_death_signal, wait,
};

use crate::error::Error;
use crate::process::tree::{Process, descendants, inherited};

/// The name under which budget-tee runs itself to become the command; see [`become_command`].
const BECOME: &str = "budget-tee: starting";

/// How much the child's pipe holds, in bytes: the most that Linux allows without privileges.
const WIDE: usize = 1024 * 1024;

/// How often to look through the tree for processes that were forked meanwhile.
// A fork bomb of 500 was stopped after a few rounds; this bounds one that is not.
const ROUNDS: usize = 100;

/// A wrapped command, from its start until budget-tee ends.
#[derive(Debug)]
pub(crate) struct Child {
    /// `None` once it has been reaped.
    // The pid may be another process's then, which must not be signalled.
    pid: Option<Pid>,
    /// How it ended, once it has been reaped.
    pub(crate) status: Option<WaitStatus>,
    /// It is in budget-tee's process group.
    pub(crate) shares_group: bool,
    /// Readable once the child has ended, also where CHLD is blocked.
    pidfd: Option<OwnedFd>,
    /// Descendants that do not belong to the command: hooks, and those that budget-tee had before exec.
    // A shell that does `exec budget-tee` passes on the jobs that it had in the background.
    strangers: Vec<Process>,
    /// The child and all that it started have ended.
    pub(crate) alone: bool,
}

impl Child {
    /// Starts `command` with its stdout in a pipe, whose other end is returned and does not block; in
    /// budget-tee's process group, or in one of its own.
    pub(crate) fn start(command: &[OsString], shares_group: bool) -> io::Result<(Child, PipeReader)> {
        let strangers = inherited();
        // What a descendant leaves behind becomes budget-tee's child and not that of the first process, so
        // that a walk from here still finds it. With the walk this found five of five descendants, one
        // in a session of its own that ignores TERM included.
        set_child_subreaper(Some(getpid()))?;
        let (reader, writer) = pipe()?;
        // Programs on Node lose at their exit what the pipe has not taken by then: of 200 KB all but the
        // first 64. More than the system allows is not to be had, and then it stays as it is.
        let _ = fcntl_setpipe_size(&writer, WIDE);
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        let spawn = |mut process: Command| -> io::Result<std::process::Child> {
            if !shares_group {
                process.process_group(0);
            }
            process.stdout(Stdio::from(writer.try_clone()?)).spawn()
        };
        // Not the command itself: see `become_command`. By /proc, since the program's file may have been
        // replaced since, as an update does.
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
        // Before anything reaps it: until then the pid is its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok((Child { pid: Some(pid), status: None, shares_group, pidfd, strangers, alone: false }, reader))
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

    /// Reaps every process that has ended. Returns the ones other than the child.
    pub(crate) fn reap(&mut self) -> Vec<(Pid, WaitStatus)> {
        let mut others = Vec::new();
        // In a loop: one CHLD may stand for several. Any child, since a subreaper must reap what was left
        // to it, or it would stay as a zombie.
        let has_children = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.strangers.retain(|stranger| stranger.pid != pid);
                    if self.pid == Some(pid) {
                        (self.pid, self.pidfd, self.status) = (None, None, Some(status));
                    } else {
                        others.push((pid, status));
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break false,
                Ok(None) => break true,
            }
        };
        // The tree is read only where it can be empty: children that are left may all be strangers.
        let may_be_alone = self.pid.is_none() && !self.strangers.is_empty();
        self.alone = !has_children || may_be_alone && self.tree().is_empty();
        others
    }

    /// Leaves a process out of the command's tree: it is one of budget-tee's own.
    pub(crate) fn exclude(&mut self, pid: Pid) {
        if self.strangers.iter().all(|stranger| stranger.pid != pid) {
            self.strangers.extend(Process::read(pid));
        }
    }

    /// Sends `signal`, and then CONT, to the child alone.
    pub(crate) fn signal_alone(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, signal);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Sends `signal`, and then CONT, to the child and all its descendants, until no more turn up.
    /// Returns how many there were.
    pub(crate) fn signal_tree(&self, signal: Signal) -> usize {
        let sent = self.signal_descendants(signal, None);
        // Where /proc does not show it, the child itself is known all the same.
        if self.pid.is_some_and(|pid| sent.iter().all(|process| process.pid != pid)) {
            self.signal_alone(signal);
            return sent.len() + 1;
        }
        sent.len()
    }

    /// The same without the child itself.
    pub(crate) fn signal_rest(&self, signal: Signal) {
        self.signal_descendants(signal, self.pid);
    }

    /// Signals the descendants without `spared`. Returns which they were.
    fn signal_descendants(&self, signal: Signal, spared: Option<Pid>) -> Vec<Process> {
        // Not by process group: in `budget-tee ... -- claude | jq`, jq is in the same one, and a descendant
        // may have left it.
        let mut sent: Vec<Process> = Vec::new();
        for _ in 0..ROUNDS {
            let mut new = self.tree();
            new.retain(|process| Some(process.pid) != spared && !sent.iter().any(|sent| sent.is(process)));
            if new.is_empty() {
                break;
            }
            for process in new {
                process.signal(signal);
                sent.push(process);
            }
        }
        sent
    }

    fn tree(&self) -> Vec<Process> {
        let mut tree = descendants(&self.strangers);
        tree.retain(|process| process.alive);
        tree
    }
}

/// Whether there is a controlling terminal.
pub(crate) fn has_terminal() -> bool {
    // All three standard descriptors may be redirected: only this path tells.
    open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Whether budget-tee leads its session, as the first program of a window or of a login does.
pub(crate) fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// Becomes the command, in the process that a wrapping budget-tee has started. Returns `None` at once in
/// any other process, and otherwise why the command cannot be run.
pub fn become_command() -> Option<Error> {
    let mut args = std::env::args_os();
    if args.next().as_deref() != Some(OsStr::new(BECOME)) {
        return None;
    }
    let parent = args.next()?;
    let name = args.next()?;
    // TERM when budget-tee dies, also of KILL. Only the process itself can ask for it, and code of ours
    // between fork and exec would be unsafe.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    // budget-tee may have died before that was asked for: then the signal would never come.
    let now = getppid().map(|pid| pid.to_string());
    if now.as_deref().map(OsStr::new) != Some(&parent) {
        return Some(Error::command(name, io::Error::other("budget-tee has ended")));
    }
    let error = Command::new(&name).args(args).exec();
    Some(Error::command(name, error))
}
