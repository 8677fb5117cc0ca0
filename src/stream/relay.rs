//! The relay: the one reader of the stream and the one writer of stdout.
//!
//! What a read gave is scanned and written before the next read, partial lines too. It may block on
//! either side for ever; the watch ends the process regardless.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, read, write};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use crate::process::wake::{Wake, lock};
use crate::run::Run;
use crate::show::screen::Screen;

/// What one read takes at most, in bytes.
// Twice as much was measured to be slower in all but the number of calls: it has left the processor's
// nearer caches before it is written.
const BUFFER: usize = 128 * 1024;

/// A read of so many bytes has emptied a pipe that was full.
// Linux makes them of this size, by pipe(7).
const FULL: usize = 64 * 1024;

/// After so many full pipes in a row the load is sustained, and wider pipes carry it better.
// Pipes are not widened before: a wide one weakens the back-pressure on a live filter's writer, which
// would run further ahead of the line that stops it.
const SUSTAINED: u32 = 8;

/// What pipes are widened to, in bytes.
// The most that Linux allows without privileges, by /proc/sys/fs/pipe-max-size.
const WIDE: usize = 1024 * 1024;

/// How much is still read once the relay is to finish, in bytes.
// As much as a wide pipe may hold: a writer that never pauses would keep it going for ever.
const LEFT_OVER: usize = 1024 * 1024;

/// Why the relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The stream ended, and all of it was written.
    Stream,
    /// Block mode: everything through the end of the line that stopped the run was written.
    Stopped,
    /// The reader of the output went away.
    ReaderGone,
    /// The input cannot be read.
    Unreadable(Errno),
    /// The output cannot be written.
    Unwritable(Errno),
}

/// Forwards a stream and feeds a run with it.
pub(crate) struct Relay<'a> {
    /// What is fed.
    pub(crate) run: &'a Mutex<Run>,
    /// The screen, where the output goes to the same terminal and the bars have to make way.
    pub(crate) terminal: Option<&'a Mutex<Screen>>,
    /// Raised when a total has changed, there is something to report, or bars made way.
    pub(crate) news: &'a Wake,
    /// Raised when the run was stopped, which must not wait for the next redraw.
    pub(crate) urgent: &'a Wake,
    /// Whether the relay itself ends behind the line that stops the run.
    pub(crate) ends_at_stop: bool,
    /// Raised to make the relay forward what there is and wait for nothing more.
    pub(crate) finish: &'a Wake,
    /// Whether that may happen while it waits for an input that blocks: others can exceed a budget.
    pub(crate) can_be_stopped: bool,
    /// Up while the output is being written: as long as it takes nothing, nothing is read.
    pub(crate) is_writing: &'a AtomicBool,
}

impl Relay<'_> {
    /// Forwards `input` to `output` until either ends.
    pub(crate) fn relay(&self, input: impl AsFd, output: impl AsFd) -> End {
        // Not zeroed, which would touch all of it for a stream of one line.
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut left_over = LEFT_OVER;
        let mut full = 0_u32;
        loop {
            // A read cannot be interrupted by another thread: where that may be needed, the input is waited for
            // by a poll, together with the flag.
            if self.can_be_stopped && self.waits_in_vain(&input) {
                return self.finish();
            }
            // Where the relay ends at the end of a line, it reads on to that.
            if self.finish.is_raised() && !self.ends_at_stop && left_over < buffer.capacity() {
                buffer = Vec::with_capacity(left_over);
            }
            let bytes = match self.read_some(&input, &mut buffer) {
                Ok(0) => return self.finish(),
                Ok(_) => buffer.as_slice(),
                // Where the descriptor does not block.
                Err(Errno::AGAIN) if self.waits_in_vain(&input) => return self.finish(),
                Err(Errno::AGAIN) => continue,
                Err(error) => return End::Unreadable(error),
            };
            if self.finish.is_raised() {
                left_over = left_over.saturating_sub(bytes.len());
            }
            // Sizes of reads tell the load without a clock: a slow writer's reads are short.
            full = if bytes.len() < FULL { 0 } else { full.saturating_add(1) };
            if full == SUSTAINED {
                widen(&input);
                widen(&output);
            }
            if let Some(end) = self.pass(bytes, &input, &output) {
                return end;
            }
        }
    }

    /// Waits for input or for `finish`; returns whether nothing more is to be read.
    fn waits_in_vain(&self, input: impl AsFd) -> bool {
        let is_finishing = self.finish.is_raised();
        let ends = || self.ends_at_stop && self.finish.is_raised() && lock(self.run).is_at_its_end();
        if ends() {
            return true;
        }
        // The rest of a line is waited for, however long its writer takes: the next program could not parse
        // a part of it.
        let flag = if is_finishing && self.ends_at_stop { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(&self.finish, flag)];
        // Where poll fails, the read that follows tells why.
        let _ = wait(&mut fds);
        ends() || !self.ends_at_stop && fds[0].revents().is_empty() && !fds[1].revents().is_empty()
    }

    /// Takes in that nothing more comes. Returns how the relay ends.
    fn finish(&self) -> End {
        let mut run = lock(self.run);
        let stops = run.is_at_its_end() || run.finish().stops;
        if stops && self.ends_at_stop { End::Stopped } else { End::Stream }
    }

    /// Takes in and writes what a read gave. Returns how the relay ends, if it does.
    fn pass(&self, mut bytes: &[u8], input: impl AsFd, output: impl AsFd) -> Option<End> {
        while !bytes.is_empty() {
            let fed = lock(self.run).feed(bytes);
            // Before the write: the child must be stopped even if the output blocks now.
            if fed.stops {
                self.urgent.raise();
            } else if fed.has_news {
                self.news.raise();
            }
            let (taken, rest) = bytes.split_at(fed.taken);
            // A filter has no child to end: it stops by closing both sides. A wrapper goes on, since what the
            // child still writes was spent, and may hold its `result`.
            let ends = fed.ends && self.ends_at_stop;
            if ends {
                give_back(&input, rest.len());
            }
            self.is_writing.store(true, Ordering::Relaxed);
            let written = self.forward(taken, &output);
            self.is_writing.store(false, Ordering::Relaxed);
            match written {
                Ok(()) => {}
                Err(Errno::PIPE) => return Some(End::ReaderGone),
                Err(error) => return Some(End::Unwritable(error)),
            }
            if ends {
                return Some(End::Stopped);
            }
            bytes = rest;
        }
        None
    }

    fn forward(&self, bytes: &[u8], output: impl AsFd) -> Result<(), Errno> {
        let Some(screen) = self.terminal else { return write_all(output, bytes) };
        // Held while it writes, or bars would be drawn into the middle of a line.
        let mut screen = lock(screen);
        screen.make_way();
        write_all(output, bytes)?;
        if let Some(&last) = bytes.last() {
            screen.passed(last);
        }
        drop(screen);
        self.news.raise();
        Ok(())
    }

    /// One read, however often it is interrupted.
    fn read_some(&self, input: impl AsFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        buffer.clear();
        loop {
            match read(&input, spare_capacity(buffer)) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

/// Sets a file back to where the bytes that were not taken begin.
fn give_back(input: impl AsFd, count: usize) {
    // POSIX wants a utility that stops early to leave the offset behind what it has processed, as in
    // `(budget-tee; cat) <FILE`. Of what is not a file, seek fails, and there is nothing to set back.
    if let Ok(count @ 1..) = i64::try_from(count) {
        let _ = seek(input, SeekFrom::Current(-count));
    }
}

/// Widens a pipe. What is not a pipe, or may not have so much, stays as it is.
fn widen(pipe: impl AsFd) {
    if fcntl_getpipe_size(&pipe).is_ok_and(|size| size < WIDE) {
        let _ = fcntl_setpipe_size(&pipe, WIDE);
    }
}

/// Writes all of `bytes`.
fn write_all(output: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    // To the descriptor: `std::io::stdout` holds back a line that has not ended, and its `write_all` fails
    // on a pipe that does not block. Node leaves O_NONBLOCK on pipes that it shared when it is killed.
    while !bytes.is_empty() {
        match write(&output, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&mut [PollFd::new(&output, PollFlags::OUT)])?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fds: &mut [PollFd<'_>]) -> Result<(), Errno> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
