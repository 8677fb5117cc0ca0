//! The relay: the one reader of the stream and the one writer of stdout.
//!
//! What a read gave is scanned and written before the next read, partial lines too. It may block
//! on either side for ever; whoever watches ends the process regardless.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};

use crate::run::Run;
use crate::screen::Screen;

/// What one read takes at most.
const BUFFER: usize = 256 * 1024;

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

/// Forwards `input` to `output` and feeds `run` with it, until either ends.
///
/// `ring` is called when a total has changed, there is something to say, or bars made way. `terminal` is the
/// screen, where the output goes to the same terminal and its bars have to make way.
pub fn relay(
    input: impl AsFd,
    output: impl AsFd,
    run: &Mutex<Run>,
    terminal: Option<&Mutex<Screen>>,
    ring: impl Fn(),
) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        let bytes = match read_some(&input, &mut buffer) {
            Ok(0) => {
                let fed = lock(run).finish();
                return if fed.tripped { End::Trip } else { End::Stream };
            }
            Ok(count) => &buffer[..count],
            Err(error) => return End::Unreadable(error),
        };
        let fed = lock(run).feed(bytes);
        if let Err(error) = forward(&output, &bytes[..fed.taken], terminal) {
            return if error == Errno::PIPE { End::ReaderGone } else { End::Unwritable(error) };
        }
        if fed.tripped {
            return End::Trip;
        }
        if fed.news || terminal.is_some() {
            ring();
        }
    }
}

fn forward(output: impl AsFd, bytes: &[u8], terminal: Option<&Mutex<Screen>>) -> Result<(), Errno> {
    let Some(screen) = terminal else { return write_all(output, bytes) };
    let mut screen = lock(screen);
    screen.make_way();
    write_all(output, bytes)?;
    if let Some(&last) = bytes.last() {
        screen.passed(last);
    }
    Ok(())
}

/// Locks what the relay and the watch share. A holder that panicked left it usable.
pub fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One read, however often it is interrupted; waits where the descriptor does not.
fn read_some(input: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match read(&input, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&input, PollFlags::IN)?,
            result => return result,
        }
    }
}

/// Writes all of `bytes`, in as many writes as it takes; waits where the descriptor does not.
fn write_all(output: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(&output, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&output, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fd: impl AsFd, what: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::new(&fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
