//! Processes as /proc shows them: which descend from which, and how to signal one and no other.

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// A process. The time of its start tells it from a later one with the same pid.
// The start is in clock ticks, 10 ms: pids are given out in turn, so that one does not return so soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    parent: Option<Pid>,
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
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        // Field 22 of proc(5); the state was field 3, and the parent field 4.
        let start = fields.nth(17)?.parse().ok()?;
        // A zombie cannot act on a signal, and its children have another parent already.
        Some(Process { pid, parent, start, alive: !matches!(state, "Z" | "X") })
    }

    pub(crate) fn parent(&self) -> Option<Pid> {
        self.parent
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

/// All processes that /proc shows.
pub(crate) fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter_map(Process::read).collect()
}

/// The descendants of budget-tee, without `strangers` and their descendants.
pub(crate) fn descendants(strangers: &[Process]) -> Vec<Process> {
    let all = processes();
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
    let list = std::fs::read_to_string(format!("/proc/self/task/{}/children", getpid())).unwrap_or_default();
    if list.is_empty() { Vec::new() } else { descendants(&[]) }
}
