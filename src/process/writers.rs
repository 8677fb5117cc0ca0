//! The writers of a filter's input, and how they are ended: the processes that hold the write end of
//! stdin's pipe, and the programs before them in the same pipeline.
//!
//! Claude Code ignores a broken pipe: after a filter had stopped it was seen to make ten more requests.
//! So block mode ends the writers too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid};

use crate::process::job::Job;
use crate::process::kill::{Ending, KillPolicy, sent_to};
use crate::process::pipe::{Hold, Pipe};
use crate::process::tree::{Process, lineage, neighbourhood, neighbours, pids};

/// How soon to look again for further writers at first; each pause is twice the last.
// A loop may have started its next round, and a process that was just forked becomes another program.
const PAUSE: Duration = Duration::from_millis(10);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A pause is at least so many times as long as the last search took.
// With 80,000 descriptors on a machine a search takes a tenth of a second; waiting must not cost more than a
// twentieth of a core.
const PAUSE_FACTOR: u32 = 20;

/// How long a process that was just forked may take to become another program.
// It takes a millisecond, but on a machine with many more processes than cores it was seen to take longer than
// two searches, and a program that had nothing to do with the pipe was ended.
const FORK_TIME: Duration = Duration::from_secs(1);

/// Programs that are shells, which write to their own filter in `exec > >(budget-tee)`.
const SHELLS: &[&str] = &[
    "ash", "bash", "busybox", "csh", "dash", "elvish", "fish", "ksh", "ksh93", "mksh", "nu", "oksh", "pwsh", "sh",
    "tcsh", "toybox", "xonsh", "yash", "zsh",
];

/// A process that can write to a pipe.
#[derive(Clone, Debug)]
struct Writer {
    process: Process,
    pipe: Pipe,
    /// The descriptor.
    fd: u32,
    /// Its descriptor closes when it runs another program, and its parent has the pipe too.
    // A process that somebody has just forked holds all of its parent's descriptors until it becomes another
    // program, and has nothing to do with the pipe.
    is_passing: bool,
}

impl Writer {
    /// Whether it is alive and can still write.
    fn still_writes(&self) -> bool {
        self.process.is_alive() && self.holds_pipe()
    }

    fn holds_pipe(&self) -> bool {
        self.pipe.held_by(self.process.pid, Some(self.fd)).is_some()
    }

    /// Sends `signal`, unless it has ended or closed the pipe meanwhile.
    fn signal(&self, signal: Signal) {
        self.process.signal_if(signal, || self.holds_pipe());
    }
}

/// The writers of the filter's input, which are being ended.
#[derive(Debug)]
pub(crate) struct Writers {
    pipe: Pipe,
    policy: KillPolicy,
    ending: Ending,
    found: Vec<Writer>,
    /// Writers that may be gone in a moment, and when each was found first: they are signalled where they are
    /// still there after [`FORK_TIME`].
    passing: Vec<(Writer, Instant)>,
    /// Readable once one of them has ended.
    watched: Option<(Process, OwnedFd)>,
    search_at: Instant,
    pause: Duration,
}

impl Writers {
    /// Sends the `first` signal to the writers of `pipe`.
    pub(crate) fn end(pipe: Pipe, first: Signal, policy: KillPolicy, job: &Job, now: Instant) -> Self {
        let ending = Ending::new(first, policy.grace, now);
        let (found, passing) = (Vec::new(), Vec::new());
        let mut writers = Writers { pipe, policy, ending, found, passing, watched: None, search_at: now, pause: PAUSE };
        // The pipeline's own programs first, which takes a millisecond however many processes there are.
        let lineage = lineage();
        let near = neighbours(&lineage).into_iter().chain(lineage.iter().map(|process| process.pid));
        writers.take_in(writers.search(near, &lineage, job.hooks.groups()));
        writers
    }

    /// When the next step is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        Some(self.ending.due.map_or(self.search_at, |due| due.min(self.search_at)))
    }

    /// Readable where a step is due before that.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watched.as_ref().map(|(_, pidfd)| pidfd.as_fd())
    }

    /// Sends KILL at once where it would follow: budget-tee itself is told to end.
    pub(crate) fn hurry(&mut self, job: &mut Job, now: Instant) {
        if self.policy.grace.is_some() && self.ending.sent != Signal::KILL {
            self.send(Signal::KILL, job, now);
        }
    }

    /// Looks for further writers, and sends TERM and KILL to those that do not go, where that is due.
    /// Returns whether there is nothing left to wait for.
    pub(crate) fn step(&mut self, job: &mut Job, now: Instant) -> bool {
        self.found.retain(Writer::still_writes);
        let none_known = self.found.is_empty() && self.passing.is_empty();
        if now >= self.search_at || none_known {
            let all: Vec<Pid> = pids().collect();
            if !all.contains(&getpid()) {
                job.say("cannot read /proc to find the writers of stdin, which may go on");
                return true;
            }
            self.take_in(self.search(all.into_iter(), &lineage(), job.hooks.groups()));
            self.pause = (self.pause * 2).min(PAUSE_MAX).max(now.elapsed() * PAUSE_FACTOR);
            self.search_at = Instant::now() + self.pause;
        }
        // Without a grace nothing would follow, and a writer may ignore the signal for ever.
        if self.passing.is_empty() && (self.found.is_empty() || self.policy.grace.is_none()) {
            return true;
        }
        if self.ending.take_due(now) {
            let Some(signal) = self.ending.next() else {
                let some_are_left = !self.found.is_empty();
                job.say_all(some_are_left.then(|| "some writers of stdin have not ended, even after KILL".to_owned()));
                return true;
            };
            self.send(signal, job, now);
        }
        self.watch();
        false
    }

    /// Sends a further signal.
    fn send(&mut self, signal: Signal, job: &mut Job, now: Instant) {
        self.found.iter().for_each(|writer| writer.signal(signal));
        if !self.found.is_empty() {
            job.say(&format!("the writer of stdin has not ended; {}", sent_to(signal, self.found.len())));
        }
        self.ending = Ending::new(signal, self.policy.grace, now);
    }

    /// Waits for the end of the first one that is left.
    fn watch(&mut self) {
        let first = self.found.first().map(|writer| writer.process);
        if self.watched.as_ref().is_none_or(|(watched, _)| first.is_none_or(|first| !first.is(watched))) {
            self.watched = first.and_then(|first| Some((first, first.pidfd()?)));
        }
    }

    /// Sends the signal that was sent last to those that were not known.
    fn take_in(&mut self, writers: Vec<Writer>) {
        let before = std::mem::take(&mut self.passing);
        for writer in writers {
            let is_it = |known: &Writer| known.process.is(&writer.process);
            if self.found.iter().any(is_it) {
                continue;
            }
            let since = before.iter().find(|(known, _)| is_it(known)).map_or_else(Instant::now, |(_, since)| *since);
            if writer.is_passing && since.elapsed() < FORK_TIME {
                self.passing.push((writer, since));
            } else {
                writer.signal(self.ending.sent);
                self.found.push(writer);
            }
        }
    }

    /// The writers among `pids`, without the process groups of `hooks`; and the programs before them in
    /// the pipeline.
    // All of them before the first is signalled: once that has ended, nothing tells where its input came from.
    fn search(&self, pids: impl Iterator<Item = Pid>, lineage: &[Process], hooks: &[Pid]) -> Vec<Writer> {
        let is_meant = |process: &Process, hold: Hold| {
            let is_ancestor = lineage.iter().any(|ancestor| ancestor.is(process));
            let is_hook = process.group.is_some_and(|group| hooks.contains(&group));
            // An ancestor is spared, as the shell in `exec > >(budget-tee)`; but in `claude > >(budget-tee)` the
            // shell has become the writer, after it started the filter.
            let is_own_writer = hold.is_stdout && process.pid != getpid() && !is_shell(process);
            !is_hook && (!is_ancestor || is_own_writer)
        };
        let mut writers: Vec<Writer> = pids.filter_map(|pid| writer(&self.pipe, pid, is_meant)).collect();
        let Some(own) = lineage.first() else { return writers };
        let (mut followed, mut at) = (vec![self.pipe.clone()], 0);
        // Of `claude | tee log | budget-tee` only tee writes to stdin: further up, as far as the job goes.
        while let Some(last) = writers.get(at).map(|writer| writer.process) {
            at += 1;
            let stdin = Pipe::stdin_of(last.pid).filter(|pipe| last.group == own.group && !followed.contains(pipe));
            // What an ancestor reads too is not this pipeline's: in `queue | while read task; do claude | ...; done`
            // the other tasks come from there.
            let stdin = stdin.filter(|pipe| lineage.iter().all(|ancestor| !pipe.is_open_in(ancestor.pid)));
            let Some(pipe) = stdin else { continue };
            let in_job = |process: &Process, hold: Hold| process.group == own.group && is_meant(process, hold);
            let further = neighbourhood(lineage).into_iter().filter_map(|pid| writer(&pipe, pid, in_job));
            let is_new = |new: &Writer| writers.iter().all(|known| !known.process.is(&new.process));
            let further: Vec<_> = further.filter(is_new).collect();
            writers.extend(further);
            followed.push(pipe);
        }
        writers
    }
}

/// A process as a writer of `pipe`, where it is one and is meant.
fn writer(pipe: &Pipe, pid: Pid, is_meant: impl Fn(&Process, Hold) -> bool) -> Option<Writer> {
    let hold = pipe.held_by(pid, None)?;
    let process = Process::read(pid).filter(|process| process.alive && is_meant(process, hold))?;
    let parent_holds = || process.parent.is_some_and(|parent| pipe.held_by(parent, None).is_some());
    let is_passing = hold.closes_on_exec && parent_holds();
    Some(Writer { process, pipe: pipe.clone(), fd: hold.fd, is_passing })
}

/// Whether it is a shell, or cannot be told from one.
fn is_shell(process: &Process) -> bool {
    let program = process.program();
    let name = program.as_deref().and_then(|path| path.file_name()?.to_str());
    // The link of a program whose file was replaced, as by an update, ends in this.
    name.is_none_or(|name| SHELLS.contains(&name.trim_end_matches(" (deleted)")))
}
