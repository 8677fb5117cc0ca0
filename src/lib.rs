//! budget-tee: a stream filter that counts the tokens of Claude Code's stream-JSON while it passes.
//!
//! Each file says at its top what it owns. A file imports only what stands below it here.

pub mod amount;
pub mod budget;
pub mod cli;
/// Counting: tokens, prices, messages and sessions.
pub mod count {
    pub mod message;
    pub mod meter;
    pub mod price;
    pub mod session;
    pub mod tokens;
}
pub mod early;
pub mod error;
pub mod ledger;
/// Processes: signals, children and the loop that waits for them.
pub mod process {
    pub mod child;
    pub mod hook;
    pub mod signals;
    pub mod watch;
    pub mod wrap;
}
pub mod run;
/// What people and scripts read.
pub mod show {
    pub mod report;
    pub mod screen;
    pub mod status;
    pub mod summary;
}
/// Bytes in, records found, bytes out.
pub mod stream {
    pub mod number;
    pub mod record;
    pub mod relay;
    pub mod scan;
    pub mod sieve;
}
