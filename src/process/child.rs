//! The child: starts the wrapped command, and is the only one that signals or reaps anything of it.
//!
//! No process is signalled after it was reaped, and none that is not a descendant of the child:
//! in `budget-tee ... -- claude | jq` jq is in the same process group. On Linux budget-tee is the
//! subreaper of what it starts, so that whatever a descendant leaves behind is found below it in
//! /proc; elsewhere only the child's own process group is known.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getsid, kill_process, kill_process_group, wait};

/// The name under which budget-tee runs itself to become the command; see [`become_command`].
const BECOME: &str = "budget-tee: starting";

/// How often the tree is looked through for processes that were forked meanwhile.
const ROUNDS: usize = 100;

/// A wrapped command, from its start until budget-tee ends.
#[derive(Debug)]
pub struct Child {
    /// Until it is reaped.
    pid: Option<Pid>,
    status: Option<WaitStatus>,
    /// It shares budget-tee's process group, so that the terminal treats both as one.
    shares_group: bool,
    /// Readable once the child has ended, also where CHLD is blocked.
    pidfd: Option<OwnedFd>,
    /// Descendants that are not the command's: those of the process that budget-tee was before exec,
    /// and its own.
    strangers: Vec<Process>,
    /// Nothing that was started here is left.
    alone: bool,
}

impl Child {
    /// Starts `command` with its stdout in a pipe, whose other end is returned and does not block;
    /// in budget-tee's process group, or in one of its own.
    ///
    /// # Errors
    /// Where the command cannot be started; not found is [`io::ErrorKind::NotFound`].
    pub fn start(command: &[OsString], shares_group: bool) -> io::Result<(Child, PipeReader)> {
        let strangers = strangers();
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(getpid()))?;
        let (reader, writer) = pipe()?;
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        let spawn = |mut process: Command| -> io::Result<std::process::Child> {
            if !shares_group {
                process.process_group(0);
            }
            #[cfg(feature = "redis")]
            process.env_remove(crate::ledger::redis::address::HANDED_PASSWORD);
            process.stdout(Stdio::from(writer.try_clone()?)).spawn()
        };
        let mut via_self = Command::new("/proc/self/exe");
        via_self.arg0(BECOME).arg(getpid().to_string()).args(command);
        let child = match spawn(via_self) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // No /proc: then budget-tee's death is not told to the child.
                let (name, args) = command.split_first().ok_or(Errno::INVAL)?;
                let mut process = Command::new(name);
                process.args(args);
                spawn(process)?
            }
            result => result?,
        };
        let pid = Pid::from_child(&child);
        #[cfg(target_os = "linux")]
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
        #[cfg(not(target_os = "linux"))]
        let pidfd = None;
        Ok((Child { pid: Some(pid), status: None, shares_group, pidfd, strangers, alone: false }, reader))
    }

    /// Whether the child is in budget-tee's process group.
    #[must_use]
    pub fn shares_group(&self) -> bool {
        self.shares_group
    }

    /// How the child ended, once it has.
    #[must_use]
    pub fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// Whether the child and all that it started have ended.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Readable once the child has ended; `None` where it has been reaped.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Sends `signal` to the child, where it has not been reaped; with its process group, where that
    /// is its own, as a terminal and `timeout` do.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may have ended without having been reaped: then there is nobody to tell.
            let _ = if self.shares_group { kill_process(pid, signal) } else { kill_process_group(pid, signal) };
        }
    }

    /// Collects every process that has ended, also those that were only left to budget-tee. Returns
    /// those other than the child.
    pub fn reap(&mut self) -> Vec<(Pid, WaitStatus)> {
        let mut others = Vec::new();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.strangers.retain(|stranger| stranger.pid != pid);
                    if self.pid == Some(pid) {
                        self.pid = None;
                        self.pidfd = None;
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

    /// Leaves a process out of all that follows: it is budget-tee's own and no part of the command.
    pub fn leave_out(&mut self, pid: Pid) {
        if self.strangers.iter().all(|stranger| stranger.pid != pid) {
            self.strangers.extend(Process::read(pid));
        }
    }

    /// Sends `signal`, and then CONT, to the child and all its descendants, until no further ones
    /// turn up. Returns how many there were.
    pub fn signal_tree(&self, signal: Signal) -> usize {
        if cfg!(not(target_os = "linux")) {
            return self.signal_group(signal);
        }
        let mut sent: Vec<Process> = Vec::new();
        for _ in 0..ROUNDS {
            let new: Vec<_> =
                self.tree().into_iter().filter(|process| !sent.iter().any(|sent| sent.is(process))).collect();
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

    fn signal_group(&self, signal: Signal) -> usize {
        if self.pid.is_none() {
            return 0;
        }
        for signal in [signal, Signal::CONT] {
            self.signal(signal);
        }
        1
    }

    /// All living descendants, strangers and what they started left out.
    fn tree(&self) -> Vec<Process> {
        let mut tree = below(&processes(), vec![getpid()], &self.strangers);
        tree.retain(|process| process.alive);
        tree
    }
}

/// The descendants of `parents`, without `strangers` and theirs.
fn below(all: &[Process], mut parents: Vec<Pid>, strangers: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == Some(parent)) {
            let known = strangers.iter().chain(&found).any(|known| known.is(process));
            if !known {
                parents.push(process.pid);
                found.push(*process);
            }
        }
    }
    found
}

/// Whether there is a controlling terminal: then the child has to stay in budget-tee's process
/// group, or it would lose the terminal.
#[must_use]
pub fn has_terminal() -> bool {
    open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// Whether budget-tee leads its session, as the first program of a window or of a login does.
#[must_use]
pub fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// What happens in the process that [`Child::start`] starts: it asks to be told of budget-tee's
/// death, which only it can ask for, and becomes the command. Returns at once in any other process.
///
/// # Errors
/// Where the command cannot be run; not found is [`io::ErrorKind::NotFound`].
pub fn become_command() -> Option<(OsString, io::Error)> {
    let mut args = std::env::args_os();
    if args.next().as_deref() != Some(OsStr::new(BECOME)) {
        return None;
    }
    let parent = args.next()?;
    let name = args.next()?;
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        let now = rustix::process::getppid().map(|pid| pid.to_string());
        if now.as_deref().map(OsStr::new) != Some(&parent) {
            return Some((name, io::Error::other("budget-tee has ended")));
        }
    }
    let error = Command::new(&name).args(args).exec();
    Some((name, error))
}

/// A process as /proc shows it. The time of its start tells it from a later one of the same number.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: Pid,
    parent: Option<Pid>,
    start: u64,
    alive: bool,
}

impl Process {
    /// Whether it is the same process; its parent may have changed.
    fn is(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }

    fn read(pid: Pid) -> Option<Process> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything, parentheses included.
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        let start = fields.nth(17)?.parse().ok()?;
        Some(Process { pid, parent, start, alive: !matches!(state, "Z" | "X") })
    }

    /// Sends `signal`, and CONT for one that is stopped, unless the process has ended.
    #[cfg(target_os = "linux")]
    fn signal(&self, signal: Signal) {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        // The descriptor stands for whatever has the number now; that it is still the process that
        // was found is looked up only then, so that the number cannot change hands in between.
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else { return };
        if Process::read(self.pid).is_some_and(|now| now.start == self.start) {
            let _ = pidfd_send_signal(&pidfd, signal);
            let _ = pidfd_send_signal(&pidfd, Signal::CONT);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }
}

/// All processes that /proc shows.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter_map(Process::read).collect()
}

/// The descendants that this process has already. Only where it has children is /proc gone through.
fn strangers() -> Vec<Process> {
    let list = std::fs::read_to_string(format!("/proc/self/task/{}/children", getpid())).unwrap_or_default();
    if list.is_empty() { Vec::new() } else { below(&processes(), vec![getpid()], &[]) }
}
