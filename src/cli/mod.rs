//! The command line: the table of options, merged with what the configuration file and the environment
//! say.
//!
//! A new option is added in the table; the configuration file knows it from there.

pub(crate) mod completions;
pub(crate) mod help;
pub(crate) mod sources;
pub mod task;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, ColorChoice, CommandFactory, FromArgMatches, Parser, ValueHint};
use clap_complete::Shell;

use crate::amount::{Amount, Unit};
use crate::budget::{Mode, StopAt};
use crate::cli::help::{ABOUT, DETAILS, USAGE};
use crate::cli::values::{CommandBudget, FirstSignal, WindowForm};
use crate::count::price::Unpriced;
use crate::count::tokens::Classes;
use crate::error::Error;
#[cfg(feature = "redis")]
use crate::ledger::{Location, redis::address::Address};
use crate::show::screen::Bars;
#[cfg(feature = "redis")]
use crate::show::text::with_note;
use crate::show::text::{because, clean};

/// The options; each doc comment is the help of its option.
// Values are optional and have no default here: of several places that may give one, the last that
// does counts, and a default would count as given. An amount may begin with a hyphen, so that its own
// parser says what form is wanted: of `--limit -5`, clap would say that there is no option `-5`.
#[derive(Debug, Parser)]
#[command(
    name = "budget-tee",
    version = help::VERSION,
    about = ABOUT,
    override_usage = USAGE,
    // The words of file and environment stand before those of the command line, and the last one wins.
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 80,
    help_template = format!("{{about}}\n\nUsage:\n  {{usage}}\n\n{{all-args}}\n\n{DETAILS}")
)]
struct Options {
    /// Overall budget, in tokens or dollars
    #[arg(short, long, alias = "overall-token-budget", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    limit: Vec<Amount>,

    /// Budget of one command; repeatable
    #[arg(short = 'b', long, value_name = "NAME=AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    command_budget: Vec<CommandBudget>,

    /// The command that the run is charged to
    #[arg(short, long, value_name = "NAME", help_heading = "Budgets", value_parser = values::name)]
    name: Option<String>,

    /// warn: report it, go on; block: stop
    #[arg(short, long, alias = "budget-enforcement-mode", value_name = "MODE", help_heading = "Budgets")]
    #[arg(ignore_case = true, hide_possible_values = true)]
    mode: Option<Mode>,

    /// before or after a call that cannot fit
    #[arg(ignore_case = true, long, value_name = "WHEN", help_heading = "Budgets", hide_possible_values = true)]
    stop: Option<StopAt>,

    /// Expected use, checked at the start [1000]
    #[arg(short, long, alias = "max-tokens-per-command", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    estimate: Vec<Amount>,

    /// Overall budget in dollars, as --limit USDusd
    #[arg(long, hide = true, value_name = "USD", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::dollars)]
    overall_cost_budget: Vec<Amount>,

    /// Budget of one command in dollars; repeatable
    #[arg(long, hide = true, value_name = "NAME=USD", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::command_cost)]
    command_cost_budget: Vec<CommandBudget>,

    /// Share budgets with all runs that name FILE
    #[arg(short = 'L', long, value_name = "FILE", help_heading = "Shared budgets")]
    ledger: Option<PathBuf>,

    /// block: go on so long without a server [60s]
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    offline_grace: Option<Duration>,

    /// Drop a server's ledger unused so long
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    ledger_expiry: Option<Duration>,

    /// Only PERIOD counts: 5h, day, week, month
    #[arg(short, long, value_name = "PERIOD", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::window)]
    window: Option<WindowForm>,

    /// Add AMOUNT to a budget for the present period; exit
    #[arg(long, value_name = "AMOUNT", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true)]
    grant: Vec<Amount>,

    /// Print how the budgets stand; 122 if over
    #[arg(long, help_heading = "Shared budgets")]
    status: bool,

    #[arg(long, hide = true, overrides_with = "status")]
    no_status: bool,

    /// With --status: print it as one JSON object
    #[arg(long, help_heading = "Shared budgets")]
    json: bool,

    #[arg(long, hide = true, overrides_with = "json")]
    no_json: bool,

    /// Tokens that count [all CLASSES]
    #[arg(short = 't', long, value_name = "CLASSES", help_heading = "Budgets")]
    count: Option<Classes>,

    /// Warn once above this percent [90]
    #[arg(long, value_name = "PERCENT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::percent)]
    warn_at: Option<u8>,

    /// JSON rows that add to or replace the prices
    #[arg(long, value_name = "FILE", help_heading = "Prices")]
    prices: Option<PathBuf>,

    /// MODEL, highest, zero or refuse [claude-opus-5]
    #[arg(long, value_name = "WHAT", help_heading = "Prices")]
    unpriced: Option<Unpriced>,

    /// First signal on a stop, or none [TERM]
    #[arg(short, long, value_name = "SIGNAL", help_heading = "Ending a command", value_parser = values::signal)]
    signal: Option<FirstSignal>,

    /// KILL follows after this [10s; 0: never]
    #[arg(short, long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    kill_after: Option<Duration>,

    /// End a command that stays after its result record
    #[arg(long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    linger: Option<Duration>,

    /// End a command whose stream is silent for so long
    #[arg(long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    idle: Option<Duration>,

    /// End what a command leaves running when it ends
    #[arg(long, help_heading = "Ending a command")]
    reap: bool,

    #[arg(long, hide = true, overrides_with = "reap")]
    no_reap: bool,

    /// Run once per budget above --warn-at
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_warn: Option<String>,

    /// Run once per budget that is exceeded
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_exceed: Option<String>,

    /// Print completions: bash, zsh or fish
    #[arg(long, value_name = "SHELL", help_heading = "Output", hide_possible_values = true)]
    #[arg(value_parser = PossibleValuesParser::new(["bash", "fish", "zsh"]).try_map(|name| name.parse::<Shell>()))]
    completions: Option<Shell>,

    /// Defaults of options, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    config: Option<PathBuf>,

    /// Write the run's summary to FILE as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    summary: Option<PathBuf>,

    /// No bars and no final report; warnings stay
    #[arg(short, long, alias = "disable-budget-visuals", help_heading = "Output")]
    quiet: bool,

    // Switches off what the configuration file sets. Written out: to make it from the flags cost 35,000 of
    // 700,000 instructions at each start.
    #[arg(long, hide = true, overrides_with = "quiet")]
    no_quiet: bool,

    /// Bars: auto, line (print them), off
    #[arg(long, value_name = "WHEN", help_heading = "Output", hide_possible_values = true)]
    #[arg(ignore_case = true)]
    bars: Option<Bars>,

    /// Colour: auto, always or never
    #[arg(long, value_name = "WHEN", help_heading = "Output", hide_possible_values = true)]
    color: Option<ColorChoice>,

    /// Show the options that matter most
    #[arg(short = 'h', action = ArgAction::SetTrue, help_heading = "Output")]
    brief: bool,

    /// Show this help
    #[arg(long, action = ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,

    /// Show the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,

    // A flag has a hidden opposite, which switches off what the configuration file has switched on.
    #[arg(trailing_var_arg = true, hide = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// The option table.
pub fn table() -> clap::Command {
    Options::command()
}

impl Options {
    fn from_words(words: &[OsString]) -> Result<Self, clap::Error> {
        let mut table = Options::command();
        let matches = table.try_get_matches_from_mut(words);
        // To take the table apart would cost as much as to parse ten options.
        std::mem::forget(table);
        Options::from_arg_matches_mut(&mut matches?)
    }

    /// What stands before the command line, the weakest first.
    fn sources(&self) -> Result<Vec<sources::Source>, Error> {
        let mut before = Vec::new();
        if let Some(path) = self.config.clone().or_else(sources::config_path) {
            before.push(sources::config(&path, &table())?);
        }
        before.extend(sources::environment());
        Ok(before)
    }

    /// These options with those `before` them.
    fn merged(&self, args: &[OsString], before: Vec<sources::Source>) -> Result<Self, Error> {
        // Each source is parsed by itself first, so that an error names it.
        let (program, own_words) = args.split_at(args.len().min(1));
        for source in &before {
            let words = [program, &source.words].concat();
            let checked =
                Options::from_words(&words).map_err(Error::from).and_then(|options| options.check_duplicates());
            checked.map_err(|error| Error::Failed(because(&source.name, error)))?;
        }
        let before: Vec<_> = before.into_iter().flat_map(|source| source.words).collect();
        let merged = Options::from_words(&[program, &before, own_words].concat())?;
        // A file of defaults may say how to use a server, and the command line name a file.
        #[cfg(feature = "redis")]
        let merged = match merged.ledger.as_ref().is_some_and(|ledger| Location::is_url(ledger.as_os_str())) {
            true => merged,
            false => Options { offline_grace: self.offline_grace, ledger_expiry: self.ledger_expiry, ..merged },
        };
        Ok(merged)
    }

    /// Refuses a budget that is given twice in one place.
    fn check_duplicates(&self) -> Result<(), Error> {
        // From two places the last one wins; in one it is a mistake, and which of them was meant is unknown.
        let limits = self.limit.iter().chain(&self.overall_cost_budget);
        check_once("--limit", limits.map(|amount| ("", amount.unit)))?;
        check_once("--grant", self.grant.iter().map(|amount| ("", amount.unit)))?;
        check_once("--estimate", self.estimate.iter().map(|amount| ("", amount.unit)))?;
        let budgets = self.command_budget.iter().chain(&self.command_cost_budget);
        check_once("--command-budget", budgets.map(|budget| (budget.name.as_str(), budget.amount.unit)))
    }

    /// Refuses a password in an argument before COMMAND, where every user of the machine can read it.
    // Refused and not hidden by running itself again without it: for a moment it would be there. The words
    // and not `self.ledger`, which is only the last of several.
    #[cfg(feature = "redis")]
    fn check_passwords(&self, words: &[OsString]) -> Result<(), Error> {
        let own = &words[..words.len() - self.command.len()];
        if own.iter().filter_map(|word| word.to_str()).any(Address::has_password) {
            let message = "every user of this machine can read a password in an argument";
            let note = "use BUDGET_TEE_LEDGER_PASSWORD, BUDGET_TEE_LEDGER or --config";
            return Err(Error::Failed(with_note(message, note)));
        }
        Ok(())
    }
}

impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Error {
        Error::Failed(help::usage_error(&error))
    }
}

/// Refuses two amounts of an option for one name, empty where it takes none, in one unit.
fn check_once<'a>(option: &str, given: impl Iterator<Item = (&'a str, Unit)>) -> Result<(), Error> {
    let mut seen = Vec::new();
    for (name, unit) in given {
        if seen.contains(&(name, unit)) {
            let of = if name.is_empty() { String::new() } else { format!(" for {}", clean(name)) };
            return Err(Error::Failed(format!("{option} is given twice{of} in {unit}")));
        }
        seen.push((name, unit));
    }
    Ok(())
}
