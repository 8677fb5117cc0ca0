//! Complete lines of a file that others append to.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use memchr::memchr;

/// How much is read at once, in bytes.
const READ: usize = 256 * 1024;

/// What is longer is cut, in bytes, and then no record: those that are written have a few hundred.
const LINE_MAX: usize = 1024 * 1024;

/// How far a file has been read.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    read: u64,
    /// The beginning of a line that is not complete yet.
    partial: Vec<u8>,
    /// How long that is in the file.
    partial_len: u64,
}

impl Lines {
    /// How much has been read, in bytes.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Where the next line begins, in bytes.
    pub(crate) fn next_line(&self) -> u64 {
        self.read - self.partial_len
    }

    /// Passes on the complete lines that have come, without their newlines, up to the offset `end`. A line that
    /// is not complete yet is left for the next time.
    pub(crate) fn each(
        &mut self,
        file: &File,
        end: u64,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        // Most looks find nothing new, and need no buffer for that.
        let mut buffer = vec![0; if end <= self.read { 0 } else { READ }];
        while self.read < end {
            let want = usize::try_from(end - self.read).unwrap_or(READ).min(READ);
            let count = match file.read_at(&mut buffer[..want], self.read) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            if count == 0 {
                return Ok(());
            }
            self.read += count as u64;
            let mut rest = &buffer[..count];
            while let Some(at) = memchr(b'\n', rest) {
                if self.partial_len == 0 {
                    take(&rest[..at])?;
                } else {
                    self.keep(&rest[..at]);
                    take(&self.partial)?;
                    (self.partial, self.partial_len) = (Vec::new(), 0);
                }
                rest = &rest[at + 1..];
            }
            self.keep(rest);
        }
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&part[..part.len().min(room)]);
        self.partial_len += part.len() as u64;
    }
}
