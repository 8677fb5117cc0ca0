//! The writers of a filter's input: the processes that hold the write end of stdin's pipe.
//!
//! Claude Code ignores a broken pipe: after a filter had stopped it was seen to make ten more requests.
//! So block mode ends the writers too.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FileType, fstat};
use rustix::process::{Pid, Signal, geteuid, getpid};

use crate::process::tree::{Process, processes};

/// O_WRONLY or O_RDWR in the flags of a descriptor; O_RDONLY is 0.
const ACCESS_MODE: u32 = 0o3;

/// O_CLOEXEC in the same.
const CLOEXEC: u32 = 0o2_000_000;

/// A process that can write to a pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) process: Process,
    /// Its descriptor closes when it runs another program.
    // A process that somebody has just forked holds all of its parent's descriptors until it does, and
    // has nothing to do with the pipe.
    pub(crate) is_passing: bool,
}

/// A pipe, wherever it is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pipe {
    device: u64,
    inode: u64,
}

impl Pipe {
    /// The pipe behind a descriptor; `None` where it is something else.
    pub(crate) fn of(fd: impl AsFd) -> Option<Pipe> {
        let stat = fstat(fd).ok()?;
        let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        is_pipe.then_some(Pipe { device: stat.st_dev, inode: stat.st_ino })
    }

    /// The processes that can write to it, budget-tee and its ancestors excepted: in
    /// `exec > >(budget-tee)` the shell itself is one.
    pub(crate) fn writers(self) -> Vec<Writer> {
        let all = processes();
        let mut spared = vec![getpid()];
        while let Some(parent) =
            all.iter().find(|process| Some(&process.pid) == spared.last()).and_then(Process::parent)
            && !spared.contains(&parent)
        {
            spared.push(parent);
        }
        let candidates = all.into_iter().filter(|process| process.alive && !spared.contains(&process.pid));
        candidates.filter_map(|process| Some(Writer { process, is_passing: self.held_by(process.pid)? })).collect()
    }

    /// Whether a process that was found is alive and can still write.
    pub(crate) fn is_writer(self, writer: &Process) -> bool {
        Process::read(writer.pid).is_some_and(|now| now.is(writer) && now.alive) && self.held_by(writer.pid).is_some()
    }

    /// Sends `signal` to a process, unless it has ended or closed the pipe meanwhile.
    pub(crate) fn signal_writer(self, writer: &Process, signal: Signal) {
        writer.signal_if(signal, || self.held_by(writer.pid).is_some());
    }

    /// Whether a process of this user has the pipe open for writing, and if so, whether only until it
    /// runs another program.
    fn held_by(self, pid: Pid) -> Option<bool> {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        // Root could signal anybody's process, and must not.
        std::fs::metadata(&folder).ok().filter(|meta| meta.uid() == geteuid().as_raw())?;
        let descriptors = std::fs::read_dir(format!("{folder}/fd")).ok()?.flatten();
        let flags = descriptors.filter_map(|entry| self.flags_of(&folder, entry.file_name().to_str()?));
        // A descriptor for good decides.
        flags.map(|flags| flags & CLOEXEC != 0).min()
    }

    /// The flags of a process's descriptor, where it is the pipe, open for writing.
    fn flags_of(self, folder: &str, fd: &str) -> Option<u32> {
        let meta = std::fs::metadata(format!("{folder}/fd/{fd}")).ok()?;
        let info = if (meta.dev(), meta.ino()) == (self.device, self.inode) {
            std::fs::read_to_string(format!("{folder}/fdinfo/{fd}")).ok()?
        } else {
            return None;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok().filter(|flags| flags & ACCESS_MODE != 0)
    }
}
