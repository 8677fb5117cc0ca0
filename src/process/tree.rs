//! Processes as /proc shows them: which descend from which, and how to signal one and no other.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// How many ancestors are near.
// A pipeline's programs are mostly children of the same shell as budget-tee; a group or a subshell around
// it is another generation.
const GENERATIONS: usize = 4;

/// How large a neighbourhood is looked for.
const NEIGHBOURS_MAX: usize = 256;

/// A process. The time of its start tells it from a later one with the same pid.
// The start is in clock ticks, 10 ms: pids are given out in turn, so that one does not return so soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Option<Pid>,
    pub(crate) group: Option<Pid>,
    pub(crate) session: Option<Pid>,
    start: u64,
    pub(crate) alive: bool,
}

impl Process {
    /// Whether it is the same process; its parent may have changed.
    pub(crate) fn is(&self, other: &Process) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }

    pub(crate) fn read(pid: Pid) -> Option<Process> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything, parentheses included.
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let state = fields.next()?;
        // The group and the session of a process that is just being reaped are -1.
        let mut id = || Some(Pid::from_raw(fields.next()?.parse().map_or(0, |id: i32| id.max(0))));
        let (parent, group, session) = (id()?, id()?, id()?);
        // Field 22 of proc(5); the state was field 3, and the session field 6.
        let start = fields.nth(15)?.parse().ok()?;
        // A zombie cannot act on a signal, and its children have another parent already.
        Some(Process { pid, parent, group, session, start, alive: !matches!(state, "Z" | "X") })
    }

    /// The file of the program that it runs, where that can be known.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// Readable once it has ended.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).ok();
        pidfd.filter(|_| self.is_alive())
    }

    /// Whether it is there still.
    pub(crate) fn is_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.is(self) && now.alive)
    }

    /// Sends `signal`, and CONT in case it is stopped, unless the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        self.signal_if(signal, || true);
    }

    /// The same where it `is_meant` right before.
    pub(crate) fn signal_if(&self, signal: Signal, is_meant: impl FnOnce() -> bool) {
        // The pidfd stands for whatever has the pid now. Only then is it checked to be the process that
        // was found, so that the pid cannot change hands in between.
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else { return };
        if Process::read(self.pid).is_some_and(|now| now.start == self.start) && is_meant() {
            let _ = pidfd_send_signal(&pidfd, signal);
            let _ = pidfd_send_signal(&pidfd, Signal::CONT);
        }
    }
}

/// The pids of all processes; none where /proc cannot be read.
pub(crate) fn pids() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// budget-tee itself and its ancestors, up to the first process.
pub(crate) fn lineage() -> Vec<Process> {
    let mut lineage: Vec<Process> = Process::read(getpid()).into_iter().collect();
    while let Some(parent) = lineage.last().and_then(|last| Process::read(last.parent?))
        && !lineage.iter().any(|known| known.is(&parent))
    {
        lineage.push(parent);
    }
    lineage
}

/// The children of those of a `lineage` that are nearest to budget-tee: the programs of its pipeline.
// By the lists of children: that takes a hundredth of the time that all of /proc does.
pub(crate) fn neighbours(lineage: &[Process]) -> Vec<Pid> {
    let session = lineage.first().and_then(|own| own.session);
    // Not beyond the session: the parent of an interactive shell has started all that its user runs.
    let near = lineage.iter().skip(1).take(GENERATIONS).take_while(|ancestor| ancestor.session == session);
    let all = near.flat_map(|ancestor| children(ancestor.pid));
    all.filter(|child| lineage.iter().all(|known| known.pid != *child)).collect()
}

/// The same, with what they have started.
pub(crate) fn neighbourhood(lineage: &[Process]) -> Vec<Pid> {
    let mut found = neighbours(lineage);
    let mut at = 0;
    while let Some(parent) = found.get(at).copied().filter(|_| found.len() < NEIGHBOURS_MAX) {
        found.extend(children(parent));
        at += 1;
    }
    found
}

/// The children of a process's first thread.
// Shells have no other.
fn children(parent: Pid) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The descendants of budget-tee, without `strangers` and their descendants.
pub(crate) fn descendants(strangers: &[Process]) -> Vec<Process> {
    let all: Vec<_> = pids().filter_map(Process::read).collect();
    let mut parents = vec![getpid()];
    let mut found: Vec<Process> = Vec::new();
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == Some(parent)) {
            if !strangers.iter().chain(&found).any(|known| known.is(process)) {
                parents.push(process.pid);
                found.push(*process);
            }
        }
    }
    found
}

/// The descendants that budget-tee has before it starts any.
pub(crate) fn inherited() -> Vec<Process> {
    // Reading all of /proc takes milliseconds on a busy machine; this file is there to avoid it.
    if children(getpid()).is_empty() { Vec::new() } else { descendants(&[]) }
}
