//! Pipes as /proc shows them: which processes of this user have one open for writing.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, fstat, openat, readlinkat_raw, statat};
use rustix::io::read;
use rustix::process::{Pid, geteuid};

/// O_WRONLY or O_RDWR in the flags of a descriptor; O_RDONLY is 0.
const ACCESS_MODE: u32 = 0o3;

/// O_CLOEXEC in the same.
const CLOEXEC: u32 = 0o2_000_000;

/// How /proc shows a pipe without a name: `pipe:[4711]`.
const ANONYMOUS: &[u8] = b"pipe:[";

/// A pipe, wherever it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// One without a name, by its link in /proc.
    // To read a link never waits; to look at the file behind it may, on a network file system that is gone.
    Anonymous(Vec<u8>),
    /// A named pipe, which may have several names.
    Named { device: u64, inode: u64 },
}

/// How a process has a pipe open for writing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hold {
    /// The descriptor.
    pub(crate) fd: u32,
    /// Each such descriptor closes when the process runs another program.
    pub(crate) closes_on_exec: bool,
    pub(crate) is_stdout: bool,
}

impl Pipe {
    /// The pipe behind a descriptor; `None` where it is something else.
    pub(crate) fn of(fd: impl AsFd) -> Option<Pipe> {
        let stat = fstat(&fd).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).ok();
        let link = link.map(|link| link.into_os_string().into_encoded_bytes());
        Some(match link.filter(|link| link.starts_with(ANONYMOUS)) {
            Some(link) => Pipe::Anonymous(link),
            None => Pipe::Named { device: stat.st_dev, inode: stat.st_ino },
        })
    }

    /// The pipe without a name that a process has as its stdin, where that is one.
    pub(crate) fn stdin_of(pid: Pid) -> Option<Pipe> {
        let mut buffer = [MaybeUninit::uninit(); LINK_MAX];
        let descriptors = Descriptors::of(pid)?;
        let (link, _) = readlinkat_raw(&descriptors.list, c"0", &mut buffer).ok()?;
        link.starts_with(ANONYMOUS).then(|| Pipe::Anonymous(link.to_vec()))
    }

    /// How a process of this user has the pipe open for writing; `None` where it has not. `known` is a
    /// descriptor that it had it at.
    pub(crate) fn held_by(&self, pid: Pid, known: Option<u32>) -> Option<Hold> {
        let descriptors = Descriptors::of(pid)?;
        // One look instead of one for each of hundreds of descriptors.
        if let Some(hold) = known.and_then(|fd| self.hold_at(&descriptors, fd)) {
            return Some(hold);
        }
        let mut all = descriptors.numbers().into_iter().filter_map(|fd| self.hold_at(&descriptors, fd));
        let first = all.next()?;
        Some(all.fold(first, |hold, other| Hold {
            fd: hold.fd,
            // A descriptor for good decides.
            closes_on_exec: hold.closes_on_exec && other.closes_on_exec,
            is_stdout: hold.is_stdout || other.is_stdout,
        }))
    }

    /// Whether a process of this user has it open at all.
    pub(crate) fn is_open_in(&self, pid: Pid) -> bool {
        let descriptors = Descriptors::of(pid);
        descriptors.is_some_and(|descriptors| descriptors.numbers().iter().any(|fd| self.is_at(&descriptors, *fd)))
    }

    /// How a descriptor has the pipe open for writing, where it has.
    fn hold_at(&self, descriptors: &Descriptors, fd: u32) -> Option<Hold> {
        let flags = self.is_at(descriptors, fd).then(|| descriptors.flags(fd))??;
        (flags & ACCESS_MODE != 0).then_some(Hold { fd, closes_on_exec: flags & CLOEXEC != 0, is_stdout: fd == 1 })
    }

    fn is_at(&self, descriptors: &Descriptors, fd: u32) -> bool {
        let name = fd.to_string();
        match self {
            Pipe::Anonymous(wanted) => {
                let mut buffer = [MaybeUninit::uninit(); LINK_MAX];
                let link = readlinkat_raw(&descriptors.list, &name, &mut buffer);
                link.is_ok_and(|(link, _)| link == wanted.as_slice())
            }
            Pipe::Named { device, inode } => statat(&descriptors.list, &name, AtFlags::empty())
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (*device, *inode)),
        }
    }
}

/// The longest link that is told from others, in bytes: `pipe:[` and a number of 64 bits fit in.
const LINK_MAX: usize = 32;

/// The descriptors of a process.
// By paths from this folder and not from /proc, or each of them would be looked up in four steps: with 200
// descriptors in each of 400 processes that took three times as long.
struct Descriptors {
    folder: OwnedFd,
    list: OwnedFd,
}

impl Descriptors {
    /// Those of a process of this user; `None` of another's, which root could see and must leave alone.
    fn of(pid: Pid) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        fstat(&folder).ok().filter(|stat| stat.st_uid == geteuid().as_raw())?;
        let list = openat(&folder, "fd", flags, Mode::empty()).ok()?;
        Some(Descriptors { folder, list })
    }

    fn numbers(&self) -> Vec<u32> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let (mut entries, mut numbers) = (RawDir::new(&self.list, &mut buffer), Vec::new());
        while let Some(Ok(entry)) = entries.next() {
            numbers.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers
    }

    /// The flags of a descriptor, by proc_pid_fdinfo(5).
    fn flags(&self, fd: u32) -> Option<u32> {
        let path = format!("fdinfo/{fd}");
        let file = openat(&self.folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut buffer = [0; 256];
        let count = read(&file, &mut buffer).ok()?;
        let text = std::str::from_utf8(&buffer[..count]).ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    }
}
