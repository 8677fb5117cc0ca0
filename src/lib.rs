//! budget-tee: a stream filter that counts the tokens of Claude Code's stream-JSON while it passes.
//!
//! Data flows one way; whatever is lower knows nothing of what is higher.
//!
//! ```text
//! bytes ─> sieve ─> scan ─> usage ─> meter ─> budget ─> run ─> report ─> screen, exit
//!   └────> relay: forwarded unchanged            └──── watch, wrap: signals, timers, child
//! ```

pub mod account;
#[cfg(feature = "redis")]
pub mod address;
pub mod amount;
pub mod book;
pub mod budget;
#[cfg(feature = "redis")]
mod call;
pub mod child;
pub mod cli;
mod config;
#[cfg(feature = "redis")]
mod courier;
pub mod early;
pub mod exit;
mod file;
mod history;
pub mod hook;
pub mod ledger;
mod message;
pub mod meter;
mod number;
pub mod price;
pub mod relay;
pub mod report;
pub mod run;
pub mod scan;
pub mod screen;
#[cfg(feature = "redis")]
mod server;
mod session;
pub mod sieve;
pub mod signals;
pub mod spend;
pub mod status;
pub mod summary;
pub mod usage;
mod value;
pub mod watch;
pub mod wrap;
