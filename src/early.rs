//! What ends budget-tee before it has begun: bad usage, files that cannot be used, and what is
//! asked for instead of a run, such as the help.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write as _;

use clap::error::ErrorKind;

use crate::error::Exit;
use crate::show::report::{clean, reason};

/// Something that ends budget-tee before it has begun: what to say, and how to end.
#[derive(Debug)]
pub struct Early {
    /// What to say on stderr; empty for nothing.
    pub message: String,
    /// How to end.
    pub exit: Exit,
}

impl Early {
    /// Bad usage, or something that cannot be used.
    pub fn failed(message: impl Display) -> Self {
        Early { message: message.to_string(), exit: Exit::Failed }
    }
}

impl From<clap::Error> for Early {
    /// What clap's refusal, or its help, comes to.
    fn from(error: clap::Error) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let done = Early { message: String::new(), exit: Exit::Done };
                print(error.to_string().as_bytes()).err().unwrap_or(done)
            }
            _ => {
                let text = error.to_string();
                let lines = text.strip_prefix("error: ").unwrap_or(&text).lines().map(clean);
                let lines: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
                Early::failed(lines.join("\n"))
            }
        }
    }
}

/// Writes to stdout what was asked for instead of a run.
///
/// # Errors
/// Where stdout cannot be written; a reader that went away is no reason to say anything.
pub fn print(text: &[u8]) -> Result<(), Early> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Early { message: String::new(), exit: Exit::ReaderGone })
        }
        result => result.map_err(|error| Early::failed(format!("cannot write to stdout: {}", reason(error)))),
    }
}

/// What to say of a file that cannot be written.
#[must_use]
pub fn cannot_write(path: &OsStr, error: std::io::Error) -> String {
    format!("cannot write {}: {}", clean(&path.to_string_lossy()), reason(error))
}
