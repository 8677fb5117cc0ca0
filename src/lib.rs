//! budget-tee: a stream filter that counts the tokens of Claude Code's stream-JSON while it passes.
//!
//! The map. Imports between files have no cycles.
//!
//! ```text
//! main.rs              parses, builds, runs, exits
//! lib.rs               this map
//! cli/
//!   task.rs            what budget-tee is asked to do, as typed parts
//!   mod.rs             the table of options, merged with file and environment
//!   help.rs            the texts of the help
//!   completions.rs     completions for shells, from the table
//!   completions.bash   what bash gets beside them
//!   sources.rs         the configuration file and the environment as words
//!   values.rs          values of options that parse themselves
//! process/
//!   phase.rs           the one loop: running, ending, closing
//!   filter.rs          forwards stdin, and ends its writers on a stop
//!   wrap.rs            a wrapped command: when it is signalled, and how it exits
//!   kill.rs            which signal follows which, and when
//!   watch.rs           waits for the stream, signals, timers and the ledger
//!   job.rs             a run under way with its screen, hooks and ledger
//!   child.rs           starts, signals and reaps the wrapped command
//!   writers.rs         ends the writers of a filter's input
//!   pipe.rs            /proc: which processes can write to a pipe
//!   tree.rs            /proc: which processes descend from which
//!   hook.rs            the commands of --on-warn and --on-exceed
//!   signals.rs         signals to budget-tee, as something to poll
//!   wake.rs            a flag that can be polled, a lock that outlives a panic
//! ledger/
//!   keeper.rs          what a run hands over and takes, and what it does where its ledger is unreachable
//!   worker.rs          the thread that does all reading and writing of a ledger, and how often
//!   mailbox.rs         what these two leave for each other
//!   mod.rs             opens a ledger, in a file or on a server
//!   file.rs            a ledger in a file
//!   lock.rs            how the files of a ledger are opened and locked
//!   lines.rs           reads the lines that others append
//!   compact.rs         sums up the entries of runs that have ended
//!   redis/
//!     mod.rs           a ledger on a Redis or Valkey server
//!     client.rs        calls of the server, and why they fail
//!     protocol.rs      what the server is asked, and what it answers
//!     script.lua       the server's side
//!     address.rs       redis://HOST/DB/NAME
//!   store.rs           what every ledger can do, and what a run asks of one
//!   book.rs            what entries add up to
//!   limits.rs          the limits and grants that a ledger keeps
//!   runs.rs            what each run has spent and reserved
//!   spans.rs           what commands spent when
//!   index.rs           names by number
//!   window.rs          of what time spend counts: a rolling window, or a period by the calendar
//!   entry.rs           a line of a ledger file
//! show/
//!   status.rs          the report of --status
//!   summary.rs         the summary of a run as JSON
//!   output.rs          the file of --summary
//!   report.rs          notices, and the report at the end
//!   bar.rs             a budget as a line with a bar
//!   screen.rs          the owner of stderr
//!   text.rs            cleans, measures and cuts text
//! notice.rs            what a run has to report on the way
//! run.rs               one stream's state, and why it stops
//! budget.rs            limits, estimates, thresholds, verdicts
//! scope.rs             what is used, reserved and granted, by all runs and by those of a command
//! stream/
//!   relay.rs           bytes in, bytes out
//!   sieve.rs           skips lines without a known word
//!   search.rs          finds the words; a new key needs its word here too
//!   scan.rs            finds records: lines, lines with a prefix, elements of arrays
//!   values.rs          finds wanted values of a record by path, incrementally
//!   wanted.rs          what a value is wanted for
//!   course.rs          the turns of a stream, and what it is where nothing counts
//!   foreign.rs         what a line is that cannot be counted
//!   scalar.rs          where strings end, and what they and other scalars say
//!   record.rs          what one record says
//!   dialect.rs         the table of other agents' streams
//!   told.rs            what a record of another agent says was used, in the four classes
//!   trail.rs           what a record has at the paths of that table
//!   paths.rs           where wanted values stand
//!   number.rs          JSON numbers as counts and money
//! count/
//!   meter.rs           which message a record belongs to, and the totals
//!   finding.rs         what counting finds out and the user is told once
//!   agents.rs          what other agents tell of themselves
//!   marks.rs           how far threads had come, so that a resumed one counts what is new
//!   settle.rs          replaces the live count by the vendor's figures when a result comes
//!   uncovered.rs       what was counted live and a settlement does not cover
//!   sessions.rs        the sessions of a stream
//!   keys.rs            maps whose keys are hashes
//!   session.rs         per session, the live count and the confirmed figures
//!   sighting.rs        what one record says of a message
//!   messages.rs        the messages that may get further records
//!   message.rs         one of them
//!   pending.rs         the calls that must follow, and the least that they will use
//!   pricer.rs          prices what the models of a stream spend
//!   price.rs           which row holds: the user's, a built-in one, or a stand-in
//!   names.rs           the names of models, in the form of the price table
//!   rates.rs           how a row is read, and what usage costs by it: prices and factors
//!   prices.json        the built-in rows, one or more for each model
//!   tally.rs           spend by model
//!   tokens.rs          the four classes of tokens, and spend
//! amount.rs            tokens and dollars as people read and write them
//! error.rs             exit codes, the error type, outcomes
//! ```

pub mod amount;
pub mod budget;
pub mod cli;
/// Counting: which message a record belongs to, and what it costs.
pub mod count {
    pub(crate) mod agents;
    pub(crate) mod finding;
    pub(crate) mod keys;
    pub mod marks;
    pub(crate) mod message;
    pub(crate) mod messages;
    pub mod meter;
    pub(crate) mod names;
    pub(crate) mod pending;
    pub mod price;
    pub(crate) mod pricer;
    pub mod rates;
    pub(crate) mod session;
    pub(crate) mod sessions;
    pub(crate) mod settle;
    pub(crate) mod sighting;
    pub mod tally;
    pub mod tokens;
    pub(crate) mod uncovered;
}
pub mod error;
pub mod ledger;
/// Processes: the wrapped command, signals, hooks, and the loop that waits for them.
pub mod process {
    pub mod child;
    pub mod filter;
    pub mod hook;
    pub mod job;
    pub mod kill;
    pub(crate) mod phase;
    pub(crate) mod pipe;
    pub(crate) mod signals;
    pub(crate) mod tree;
    pub(crate) mod wake;
    pub mod watch;
    pub mod wrap;
    pub(crate) mod writers;
}
pub(crate) mod notice;
pub mod run;
pub mod scope;
/// What people and scripts are shown.
pub mod show {
    pub(crate) mod bar;
    pub mod output;
    pub(crate) mod report;
    pub mod screen;
    pub mod status;
    pub mod summary;
    pub mod text;
}
/// Bytes in, records found, bytes out.
pub mod stream {
    pub(crate) mod course;
    pub mod dialect;
    pub(crate) mod foreign;
    pub(crate) mod number;
    pub mod paths;
    pub mod record;
    pub(crate) mod relay;
    pub(crate) mod scalar;
    pub mod scan;
    pub(crate) mod search;
    pub mod sieve;
    pub(crate) mod told;
    pub(crate) mod trail;
    pub(crate) mod values;
    pub(crate) mod wanted;
}
