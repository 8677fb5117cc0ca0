//! The relay: the one reader of the stream and the one writer of stdout.
//!
//! What a read gave is scanned and written before the next read, partial lines too. It may block
//! on either side for ever; whoever watches ends the process regardless.

use std::io::{self, PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, read, write};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use crate::run::{Run, lock};
use crate::show::screen::Screen;

/// What one read takes at most, in bytes. Twice as much was measured to be slower in all but the
/// number of calls: it leaves the processor's nearer caches before it is written.
const BUFFER: usize = 128 * 1024;

/// A read of so many bytes has emptied a pipe that was full, as Linux makes them.
const FULL: usize = 64 * 1024;

/// After so many of them in a row, more is coming than pipes of that size carry well.
const SUSTAINED: u32 = 8;

/// What pipes are widened to then, in bytes: what Linux lets anyone have.
const WIDE: usize = 1024 * 1024;

/// What is still read once it is enough, in bytes: as much as a pipe may hold. A writer that never
/// pauses could go on for ever otherwise.
const LEFT_OVER: usize = 1024 * 1024;

/// Why the relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The stream ended, and all of it was written.
    Stream,
    /// Block mode: everything through the end of the line that tripped was written.
    Trip,
    /// The reader of the output went away.
    ReaderGone,
    /// The input cannot be read.
    Unreadable(Errno),
    /// The output cannot be written.
    Unwritable(Errno),
}

/// Tells the relay that enough was waited for: it forwards what there is, and ends.
#[derive(Debug)]
pub struct Enough {
    said: AtomicBool,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Enough {
    /// Not yet.
    ///
    /// # Errors
    /// Where a pipe cannot be had.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        Ok(Enough { said: AtomicBool::new(false), reader, writer })
    }

    /// It is enough now.
    pub fn say(&self) {
        if !self.said.swap(true, Ordering::SeqCst) {
            let _ = (&self.writer).write(&[1]);
        }
    }
}

/// Forwards a stream and feeds a run with it.
pub struct Relay<'a, Ring: Fn(bool)> {
    /// What is fed.
    pub run: &'a Mutex<Run>,
    /// The screen, where the output goes to the same terminal and its bars have to make way.
    pub terminal: Option<&'a Mutex<Screen>>,
    /// Called when a total has changed, there is something to say, or bars made way; with `true`
    /// where a budget tripped.
    pub ring: Ring,
    /// Whether the relay itself ends behind the line that trips.
    pub ends_at_trip: bool,
    /// Where it learns not to wait for more.
    pub enough: &'a Enough,
    /// Whether that may come while it waits for an input that blocks: others can exceed a budget.
    pub can_be_stopped: bool,
}

impl<Ring: Fn(bool)> Relay<'_, Ring> {
    /// Forwards `input` to `output` until either ends.
    pub fn relay(&self, input: impl AsFd, output: impl AsFd) -> End {
        let mut buffer = vec![0; BUFFER];
        let mut left_over = LEFT_OVER;
        let mut full = 0_u32;
        loop {
            if self.can_be_stopped && self.is_stopped(&input) {
                return End::Trip;
            }
            // Who ends at the end of a line reads on to it.
            if self.enough.said.load(Ordering::SeqCst) && !self.ends_at_trip {
                let until = buffer.len().min(left_over);
                buffer.truncate(until);
            }
            let bytes = match self.read_some(&input, &mut buffer) {
                Ok(0) => {
                    let fed = lock(self.run).finish();
                    return if fed.tripped && self.ends_at_trip { End::Trip } else { End::Stream };
                }
                Ok(count) => &buffer[..count],
                Err(error) => return End::Unreadable(error),
            };
            if self.enough.said.load(Ordering::SeqCst) {
                left_over = left_over.saturating_sub(bytes.len());
            }
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

    /// Waits for input or until it is enough; says whether that is so, and nothing more is to be
    /// forwarded.
    fn is_stopped(&self, input: impl AsFd) -> bool {
        let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(&self.enough.reader, PollFlags::IN)];
        if !self.enough.said.load(Ordering::SeqCst) {
            // Where poll fails, the read that follows tells why.
            let _ = wait(&mut fds);
        }
        self.enough.said.load(Ordering::SeqCst) && lock(self.run).is_at_its_end()
    }

    /// Takes in and writes what a read gave; returns how the relay ends, if it does.
    fn pass(&self, mut bytes: &[u8], input: impl AsFd, output: impl AsFd) -> Option<End> {
        while !bytes.is_empty() {
            let fed = lock(self.run).feed(bytes);
            // Whoever is to be stopped must be stopped even if the output blocks now.
            if fed.news || fed.tripped {
                (self.ring)(fed.tripped);
            }
            let (taken, rest) = bytes.split_at(fed.taken);
            let trips = fed.tripped && self.ends_at_trip;
            if trips {
                give_back(&input, rest.len());
            }
            match self.forward(taken, &output) {
                Ok(()) => {}
                Err(Errno::PIPE) => return Some(End::ReaderGone),
                Err(error) => return Some(End::Unwritable(error)),
            }
            if trips {
                return Some(End::Trip);
            }
            bytes = rest;
        }
        None
    }

    fn forward(&self, bytes: &[u8], output: impl AsFd) -> Result<(), Errno> {
        let Some(screen) = self.terminal else { return write_all(output, bytes) };
        let mut screen = lock(screen);
        screen.make_way();
        write_all(output, bytes)?;
        if let Some(&last) = bytes.last() {
            screen.passed(last);
        }
        drop(screen);
        (self.ring)(false);
        Ok(())
    }

    /// One read, however often it is interrupted. Waits where the descriptor does not, until it is
    /// enough.
    fn read_some(&self, input: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match read(&input, &mut *buffer) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let enough = &self.enough.reader;
                    let mut fds = [PollFd::new(&input, PollFlags::IN), PollFd::new(enough, PollFlags::IN)];
                    wait(&mut fds)?;
                    if fds[0].revents().is_empty() && !fds[1].revents().is_empty() {
                        return Ok(0);
                    }
                }
                result => return result,
            }
        }
    }
}

/// Leaves a file where the bytes that were not taken begin, for whoever reads on. What is no file
/// has nothing to go back to.
fn give_back(input: impl AsFd, count: usize) {
    if let Ok(count @ 1..) = i64::try_from(count) {
        let _ = seek(input, SeekFrom::Current(-count));
    }
}

/// Makes room for more in a pipe. What is no pipe, or may not have so much, stays as it is.
fn widen(pipe: impl AsFd) {
    if fcntl_getpipe_size(&pipe).is_ok_and(|size| size < WIDE) {
        let _ = fcntl_setpipe_size(&pipe, WIDE);
    }
}

/// Writes all of `bytes`, in as many writes as it takes; waits where the descriptor does not.
fn write_all(output: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
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
