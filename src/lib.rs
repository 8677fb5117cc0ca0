//! budget-tee: a stream filter that counts the tokens of Claude Code's stream-JSON while it passes.

pub mod amount;
pub mod budget;
pub mod cli;
/// Counting: which message a record belongs to, and what it costs.
pub mod count {
    pub(crate) mod message;
    pub mod meter;
    pub mod price;
    pub mod rates;
    pub(crate) mod session;
    pub mod tokens;
}
pub mod error;
pub mod ledger;
/// Processes: the wrapped command, signals, hooks, and the loop that waits for them.
pub mod process {
    pub mod child;
    pub mod hook;
    pub mod job;
    pub(crate) mod signals;
    pub(crate) mod tree;
    pub(crate) mod wake;
    pub mod watch;
    pub mod wrap;
}
pub mod run;
/// What people and scripts are shown.
pub mod show {
    pub(crate) mod bar;
    pub(crate) mod report;
    pub mod screen;
    pub mod status;
    pub mod summary;
    pub mod text;
}
/// Bytes in, records found, bytes out.
pub mod stream {
    pub(crate) mod number;
    pub(crate) mod paths;
    pub mod record;
    pub(crate) mod relay;
    pub mod scan;
    pub mod sieve;
}
