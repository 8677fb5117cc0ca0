//! The texts of the help, long and brief, and of usage errors.

use std::error::Error as _;

use crate::show::text::{clean, with_note};

/// The version, with what the program was built with.
#[cfg(feature = "redis")]
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (with redis)");
#[cfg(not(feature = "redis"))]
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (without redis)");

pub(crate) const USAGE: &str = "\
claude -p PROMPT --output-format stream-json --verbose | budget-tee [OPTIONS]
  budget-tee [OPTIONS] [--] COMMAND [ARG]...";

pub(crate) const ABOUT: &str = "\
Counts the tokens of Claude Code's stream-JSON while it passes from stdin, or
from the command that it runs, to stdout; shows the budgets on stderr; and in
block mode stops the stream or ends the command at the limit.";

/// What to say where there is no stream.
pub(crate) const FORMS: &str = "use claude -p ... | budget-tee, or budget-tee -- claude -p ...";

/// What to say of a usage error that does not say what is wanted.
pub(crate) const SEE: &str = "see budget-tee --help";

/// What stands below the options.
pub(crate) const DETAILS: &str = "\
AMOUNT: 5000, 5,000, 5k, 1.5M, 2G tokens; 2.50usd. DURATION: 90s, 30m, 5h, 7d.
CLASSES: a comma list of input, output, cache-write, cache-read.

Environment: BUDGET_TEE_LIMIT, _NAME, _MODE, _LEDGER, _PRICES and _CONFIG stand
for the options of these names; the command line wins.

Examples:
  claude -p \"/review src\" --output-format stream-json --verbose |
    budget-tee --limit 50k | jq -r 'select(.type==\"result\").result'
  budget-tee --limit 50k --mode block --summary spend.json -- \\
    claude -p \"/review src\" --output-format stream-json --verbose >run.jsonl
  ... | budget-tee -l 2M -b /review=50k -n /review >run.jsonl

Exit codes: the command's own, or 0 when all was forwarded; 121 refused before
the start; 122 stopped at a limit; 124 silent for too long (--idle); 125
budget-tee failed; 126 COMMAND cannot be run; 127 it was not found; 141 the
reader of stdout went away; 128+N ended by signal N. More in budget-tee(1).
";

/// The options that `-h` shows, by their long names.
const BRIEF: [&str; 10] =
    ["limit", "command-budget", "name", "mode", "estimate", "ledger", "window", "status", "summary", "quiet"];

/// What stands below them.
const MORE: &str = "\
AMOUNT: 5000, 5,000, 5k, 1.5M, 2G tokens; 2.50usd.
All options: budget-tee --help. Exit codes, ledgers, examples: man budget-tee.
";

/// What `-h` prints of the option table: one screen.
pub(crate) fn brief(table: clap::Command) -> String {
    let template = format!("{{about}}\n\nUsage:\n  {{usage}}\n\n{{all-args}}\n\n{MORE}");
    let is_shown = |arg: &clap::Arg| arg.get_long().is_some_and(|long| BRIEF.contains(&long));
    let table = table.mut_args(|arg| {
        let hides = !is_shown(&arg);
        arg.hide(hides).help_heading("Options")
    });
    table.help_template(template).render_help().to_string()
}

/// The options of a build with the feature `redis`.
#[cfg(not(feature = "redis"))]
const OF_REDIS: [&str; 2] = ["--offline-grace", "--ledger-expiry"];

/// A usage error as a message: what is wrong, and in a note what is wanted.
// clap's own text has a usage line of more than 80 columns, and repeats arguments with their control
// characters.
pub(crate) fn usage_error(error: &clap::Error) -> String {
    let text = error.to_string();
    #[cfg(not(feature = "redis"))]
    if let Some(option) = OF_REDIS.iter().find(|option| text.contains(&format!("unexpected argument '{option}'"))) {
        return format!("{option} needs a budget-tee built with --features redis");
    }
    let mut lines = text.lines().map(clean).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut message = first.trim_start_matches("error: ").to_owned();
    let mut notes = Vec::new();
    // What the value's own parser says.
    if let Some(wanted) = error.source().map(|why| clean(&why.to_string()))
        && let Some(without) = message.strip_suffix(&format!(": {wanted}"))
    {
        (message, notes) = (without.to_owned(), vec![wanted]);
    }
    for line in lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information")) {
        // This tip would run a program of the option's name.
        if !line.contains("as a value, use '--") {
            notes.push(line.trim_start_matches("tip: ").trim_matches(['[', ']']).to_owned());
        }
    }
    if notes.is_empty() {
        notes.push(SEE.to_owned());
    }
    notes.into_iter().fold(message, with_note)
}
