//! The command line: the table of options, and what it builds.
//!
//! Everything that is wrong with the options is found here, before anything is read, written or started.
//! A new option is added in the table alone; configuration file and environment know it from there.

pub(crate) mod sources;
pub(crate) mod values;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, ValueHint};
use rustix::process::Signal;

use crate::amount::{Amount, Unit};
use crate::budget::{Budget, Budgets, Estimate, Mode};
use crate::cli::values::{ColorWhen, CommandBudget, Shell, command_name};
use crate::count::price::{Prices, Unpriced};
use crate::count::rates::day;
use crate::count::tokens::Classes;
use crate::error::Error;
use crate::ledger::Location;
#[cfg(feature = "redis")]
use crate::ledger::redis::address::Address;
use crate::process::hook::{HookCommands, Hooks};
use crate::process::wrap::KillPolicy;
use crate::run::Run;
use crate::show::screen::Screen;
use crate::show::text::{Style, clean, clean_os};

const USAGE: &str = "\
claude -p PROMPT --output-format stream-json --verbose | budget-tee [OPTIONS]
  budget-tee [OPTIONS] [--] COMMAND [ARG]...";

const ABOUT: &str = "\
Counts the tokens of Claude Code's stream-JSON while it passes from stdin, or
from the command that it runs, to stdout; shows the budgets on stderr; and in
block mode stops the stream or ends the command at the limit.";

const EPILOG: &str = "\
AMOUNT: 5000, 5_000, 5k, 1.5M, 2G tokens; 2.50usd. DURATION: 90s, 30m, 5h, 7d.

Examples:
  claude -p \"/review src\" --output-format stream-json --verbose |
    budget-tee --limit 50k | jq -r 'select(.type==\"result\").result'
  budget-tee --limit 50k --mode block --summary spend.json -- \\
    claude -p \"/review src\" --output-format stream-json --verbose >run.jsonl
  ... | budget-tee -l 2M -b /review=50k -n /review >run.jsonl

Exit codes: the command's own, or 0 when all was forwarded; 121 refused before
the start; 122 stopped at a limit; 125 budget-tee failed; 126 COMMAND cannot be
run; 127 it was not found; 141 the reader of stdout went away; 128+N ended by
signal N. More in budget-tee(1).
";

/// The options; each doc comment is the help of its option.
#[derive(Debug, Parser)]
#[command(
    name = "budget-tee",
    version,
    about = ABOUT,
    override_usage = USAGE,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 80,
    help_template = format!("{{about}}\n\nUsage:\n  {{usage}}\n\n{{all-args}}\n\n{EPILOG}")
)]
struct Options {
    /// Overall budget
    #[arg(short, long, alias = "overall-token-budget", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    limit: Vec<Amount>,

    /// Budget of one command; repeatable
    #[arg(short = 'b', long, value_name = "NAME=AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    command_budget: Vec<CommandBudget>,

    /// The command that this run is charged to
    #[arg(short, long, value_name = "NAME", help_heading = "Budgets", value_parser = values::name)]
    name: Option<String>,

    /// On excess: warn (report it, go on) or block (stop)
    #[arg(short, long, alias = "budget-enforcement-mode", value_name = "MODE", help_heading = "Budgets")]
    #[arg(hide_possible_values = true)]
    mode: Option<Mode>,

    /// Expected use, checked before the start [default: 1000]
    #[arg(short, long, alias = "max-tokens-per-command", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true)]
    estimate: Vec<Amount>,

    /// Overall budget in dollars, as --limit USDusd
    #[arg(long, value_name = "USD", help_heading = "Budgets", action = ArgAction::Append)]
    #[arg(allow_hyphen_values = true, value_parser = values::dollars)]
    overall_cost_budget: Vec<Amount>,

    /// Budget of one command in dollars; repeatable
    #[arg(long, value_name = "NAME=USD", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::command_cost)]
    command_cost_budget: Vec<CommandBudget>,

    /// Share the budgets with all runs that name FILE
    #[arg(short = 'L', long, value_name = "FILE", help_heading = "Shared budgets")]
    ledger: Option<PathBuf>,

    /// Block mode: go on so long without the server [default: 60s]
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    offline_grace: Option<Duration>,

    /// Drop a server's ledger unused for so long [0: never]
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    ledger_expiry: Option<Duration>,

    /// Only what was spent in the last DURATION counts
    #[arg(short, long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::window)]
    window: Option<Duration>,

    /// Print the status of the budgets; exit 0, or 122 exceeded
    #[arg(long, help_heading = "Shared budgets")]
    status: bool,

    /// With --status: print it as one JSON object
    #[arg(long, help_heading = "Shared budgets")]
    json: bool,

    /// Tokens that count: input,output,cache-write,cache-read
    #[arg(short = 't', long, value_name = "CLASSES", help_heading = "Budgets")]
    count: Option<Classes>,

    /// Warn once above this percentage of a budget [default: 90]
    #[arg(long, value_name = "PERCENT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = values::percent)]
    warn_at: Option<u8>,

    /// JSON rows that add to or replace the prices
    #[arg(long, value_name = "FILE", help_heading = "Prices")]
    prices: Option<PathBuf>,

    /// A model without a price: highest, refuse, zero or MODEL
    #[arg(long, value_name = "WHAT", help_heading = "Prices")]
    unpriced: Option<Unpriced>,

    /// First signal on a stop [default: TERM]
    #[arg(short, long, value_name = "SIGNAL", help_heading = "Ending a command", value_parser = values::signal)]
    signal: Option<Signal>,

    /// KILL follows after this [default: 10s; 0: never]
    #[arg(short, long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    kill_after: Option<Duration>,

    /// End a command that stays after its result record
    #[arg(long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = values::duration)]
    linger: Option<Duration>,

    /// Run once per budget when it passes --warn-at
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_warn: Option<String>,

    /// Run once per budget when it is exceeded
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_exceed: Option<String>,

    /// Print completions: bash, zsh or fish
    #[arg(long, value_name = "SHELL", help_heading = "Output", hide_possible_values = true)]
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

    /// Colour: auto, always or never
    #[arg(long, value_name = "WHEN", help_heading = "Output", hide_possible_values = true)]
    color: Option<ColorWhen>,

    /// Show this help
    #[arg(short, long, action = ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,

    /// Show the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,

    #[arg(trailing_var_arg = true, hide = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// What budget-tee is asked to do.
pub enum Task {
    /// Print a text: the help, the version, completions.
    Print(Vec<u8>),
    /// Print the status of a ledger.
    Status(Box<StatusTask>),
    /// Count a stream.
    Run(Box<RunTask>),
}

/// The status report that is asked for.
pub struct StatusTask {
    /// The ledger.
    pub location: Location,
    /// Budgets, classes and prices.
    pub run: Run,
    /// How many seconds back spend counts; `None` for all of it.
    pub window: Option<f64>,
    /// As JSON.
    pub json: bool,
    /// How to render it for stdout.
    pub style: Style,
}

/// The run that is asked for.
pub struct RunTask {
    /// The run, of which nothing has been seen.
    pub run: Run,
    /// What it is expected to use.
    pub estimate: Estimate,
    /// Its ledger.
    pub location: Option<Location>,
    /// How many seconds back the ledger's spend counts; `None` for all of it.
    pub window: Option<f64>,
    /// The command to wrap, with its arguments; empty for a filter.
    pub command: Vec<OsString>,
    /// How that command is to be ended.
    pub kill_policy: KillPolicy,
    /// Stderr.
    pub screen: Screen,
    /// The commands of `--on-warn` and `--on-exceed`.
    pub hooks: Hooks,
    /// The file for the summary, open, and its path.
    pub summary: Option<(PathBuf, File)>,
}

/// What the command line, the environment and the configuration file ask for.
pub fn parse() -> Result<Task, Error> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let own = match Options::from_words(&args) {
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Task::Print(error.to_string().into_bytes()));
        }
        result => result?,
    };
    if let Some(shell) = own.completions {
        return Ok(Task::Print(completions(shell)));
    }
    own.check_duplicates()?;
    let before = own.sources()?;
    own.check_argument_ledger()?;
    let options = if before.is_empty() { own } else { own.merged(&args, before)? };
    options.task()
}

/// The completions for a shell.
fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    clap_complete::generate(shell, &mut Options::command(), "budget-tee", &mut text);
    text
}

/// The option table.
pub fn table() -> clap::Command {
    let table = Options::command();
    let flags: Vec<_> = table.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue)).collect();
    // A flag that the configuration file sets can be switched off: `--no-quiet`.
    let off: Vec<_> = flags
        .iter()
        .map(|flag| {
            let name = format!("no-{}", flag.get_long().unwrap_or_default());
            Arg::new(name.clone()).long(name).action(ArgAction::SetTrue).hide(true).overrides_with(flag.get_id())
        })
        .collect();
    table.args(off)
}

impl Options {
    fn from_words(words: &[OsString]) -> Result<Self, clap::Error> {
        table().try_get_matches_from(words).and_then(|matches| Options::from_arg_matches(&matches))
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

    /// These options with those `before` them. Each source must make sense by itself, so that an error
    /// names it.
    fn merged(&self, args: &[OsString], before: Vec<sources::Source>) -> Result<Self, Error> {
        let (program, own_words) = args.split_at(args.len().min(1));
        for source in &before {
            let words = [program, &source.words].concat();
            let checked =
                Options::from_words(&words).map_err(Error::from).and_then(|options| options.check_duplicates());
            checked.map_err(|error| Error::Failed(format!("{}: {error}", source.name)))?;
        }
        let before: Vec<_> = before.into_iter().flat_map(|source| source.words).collect();
        let mut merged = Options::from_words(&[program, &before, own_words].concat())?;
        // A file of defaults may say how to use a server, and the command line name a file.
        #[cfg(feature = "redis")]
        if !merged.ledger.as_ref().is_some_and(|ledger| Location::is_url(ledger.as_os_str())) {
            (merged.offline_grace, merged.ledger_expiry) = (self.offline_grace, self.ledger_expiry);
        }
        merged.command.clone_from(&self.command);
        Ok(merged)
    }

    /// Refuses a budget that is given twice in one place.
    fn check_duplicates(&self) -> Result<(), Error> {
        once_per_unit("--limit", self.limit.iter().chain(&self.overall_cost_budget))?;
        once_per_unit("--estimate", &self.estimate)?;
        let budgets: Vec<_> = self.command_budget.iter().chain(&self.command_cost_budget).collect();
        for (at, CommandBudget { name, amount }) in budgets.iter().enumerate() {
            if budgets[..at].iter().any(|other| other.name == *name && other.amount.unit == amount.unit) {
                let (name, unit) = (clean(name), amount.unit);
                return Err(Error::Failed(format!("--command-budget is given twice for {name} in {unit}")));
            }
        }
        Ok(())
    }

    /// Refuses a password in an argument, where every user of the machine can read it.
    #[cfg(feature = "redis")]
    fn check_argument_ledger(&self) -> Result<(), Error> {
        let text = self.ledger.as_deref().and_then(Path::to_str);
        if text.is_some_and(Address::has_password) {
            return Err(Error::Failed(
                "every user can read a password in an argument; give it in BUDGET_TEE_LEDGER_PASSWORD, or the whole \
                 address in BUDGET_TEE_LEDGER or the --config file"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "with the feature there is something to refuse")]
    fn check_argument_ledger(&self) -> Result<(), Error> {
        Ok(())
    }

    fn task(self) -> Result<Task, Error> {
        let location = self.location()?;
        let run = self.run()?;
        let window = self.window.map(|window| window.as_secs_f64());
        if let (Some(location), true) = (&location, self.status) {
            let style = Style { color: self.uses_color(&std::io::stdout()), unicode: locale_is_utf8(), width: 80 };
            let location = location.clone();
            return Ok(Task::Status(Box::new(StatusTask { location, run, window, json: self.json, style })));
        }
        if self.command.is_empty() && rustix::termios::isatty(rustix::stdio::stdin()) {
            let hint = format!("nothing to read: stdin is a terminal\nusage: {USAGE}\nTry budget-tee --help.");
            return Err(Error::Failed(hint));
        }
        let summary = self.summary_file()?;
        Ok(Task::Run(Box::new(RunTask {
            run,
            estimate: self.estimate(),
            location,
            window,
            kill_policy: self.kill_policy(),
            screen: Screen::new(self.quiet, self.uses_color(&std::io::stderr()), locale_is_utf8()),
            hooks: Hooks::new(HookCommands { on_warn: self.on_warn, on_exceed: self.on_exceed }),
            command: self.command,
            summary,
        })))
    }

    fn run(&self) -> Result<Run, Error> {
        let name = self.name.clone().or_else(|| command_name(&self.command));
        let budgets = self.budgets(name.as_deref());
        Ok(Run::new(name, self.mode.unwrap_or_default(), self.count.unwrap_or_default(), budgets, self.prices()?))
    }

    /// The budgets; of several for the same runs and unit the last one wins.
    fn budgets(&self, name: Option<&str>) -> Budgets {
        let overall = self.limit.iter().chain(&self.overall_cost_budget).map(|amount| (None, *amount));
        let of_commands = self.command_budget.iter().chain(&self.command_cost_budget);
        let of_commands = of_commands.map(|budget| (Some(&budget.name), budget.amount));
        let mut list: Vec<Budget> = Vec::new();
        for (command, amount) in overall.chain(of_commands) {
            list.retain(|known| (known.command.as_ref(), known.unit) != (command, amount.unit));
            let binds = command.is_none_or(|command| Some(command.as_str()) == name);
            list.push(Budget::new(command.cloned(), amount, binds));
        }
        Budgets::new(list, self.warn_at.unwrap_or(90))
    }

    fn estimate(&self) -> Estimate {
        let of = |unit| self.estimate.iter().rev().find(|amount| amount.unit == unit).map(|amount| amount.value);
        Estimate { tokens: of(Unit::Tokens), micro_usd: of(Unit::Usd) }
    }

    /// The ledger to share budgets in. Refuses options that need one and are given without.
    fn location(&self) -> Result<Option<Location>, Error> {
        let location = self.ledger.as_ref().map(|text| self.location_of(text)).transpose()?;
        let needs = [(self.status, "--status"), (self.window.is_some(), "--window")];
        if let (None, Some((_, option))) = (&location, needs.iter().find(|(given, _)| *given)) {
            return Err(Error::Failed(format!("{option} needs --ledger FILE, or BUDGET_TEE_LEDGER")));
        }
        #[cfg(feature = "redis")]
        if !matches!(location, Some(Location::Server(_))) {
            let needs = [(self.offline_grace, "--offline-grace"), (self.ledger_expiry, "--ledger-expiry")];
            if let Some((_, option)) = needs.iter().find(|(given, _)| given.is_some()) {
                return Err(Error::Failed(format!("{option} needs a --ledger on a server")));
            }
        }
        if self.json && !self.status {
            return Err(Error::Failed("--json goes with --status".to_owned()));
        }
        if self.status && !self.command.is_empty() {
            return Err(Error::Failed("--status runs no command".to_owned()));
        }
        Ok(location)
    }

    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, reason = "with the feature, options say how to use a server")]
    fn location_of(&self, text: &Path) -> Result<Location, Error> {
        if Location::is_url(text.as_os_str()) {
            let needed = "a ledger on a server needs a budget-tee that is built with --features redis";
            return Err(Error::Failed(needed.to_owned()));
        }
        Ok(Location::File(text.to_owned()))
    }

    #[cfg(feature = "redis")]
    fn location_of(&self, text: &Path) -> Result<Location, Error> {
        if !Location::is_url(text.as_os_str()) {
            return Ok(Location::File(text.to_owned()));
        }
        let grace = self.offline_grace.unwrap_or(Duration::from_secs(60));
        let password = sources::variable("BUDGET_TEE_LEDGER_PASSWORD").and_then(|password| password.into_string().ok());
        let text = text.to_str().ok_or_else(|| "the address of a ledger must be UTF-8".to_owned())?;
        let address = Address::parse(text, password.as_deref(), grace, self.ledger_expiry);
        let address = address.map_err(|why| format!("cannot use the ledger's address: {why}"))?;
        Ok(Location::Server(Box::new(address)))
    }

    fn kill_policy(&self) -> KillPolicy {
        let grace = self.kill_after.unwrap_or(Duration::from_secs(10));
        KillPolicy {
            signal: self.signal.unwrap_or(Signal::TERM),
            grace: Some(grace).filter(|grace| !grace.is_zero()),
            linger: self.linger.filter(|linger| !linger.is_zero()),
        }
    }

    /// The prices that hold today.
    fn prices(&self) -> Result<Prices, Error> {
        let own = match &self.prices {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Error::file("read prices", path, error))?),
            None => None,
        };
        let shown = self.prices.as_ref().map_or(String::new(), clean_os);
        let today = day(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
        let prices = Prices::new(own.as_deref(), &today, self.unpriced.clone().unwrap_or_default());
        let prices = prices.map_err(|bad| format!("bad prices in {shown}: {bad}"))?;
        match prices.unpriced() {
            Unpriced::As(model) if !prices.knows(model) => {
                Err(Error::Failed(format!("--unpriced: {} has no price either", clean(model))))
            }
            _ => Ok(prices),
        }
    }

    /// Opens the file for the summary now, so that an error comes before the run.
    fn summary_file(&self) -> Result<Option<(PathBuf, File)>, Error> {
        let Some(path) = &self.summary else { return Ok(None) };
        // A device such as /dev/stderr, which may be a log file, must not be truncated.
        let device = ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc/self/fd"].iter().any(|at| path.starts_with(at));
        match File::options().create(true).write(true).append(device).truncate(!device).open(path) {
            Ok(file) => Ok(Some((path.clone(), file))),
            Err(error) => Err(Error::file("write", path, error)),
        }
    }

    fn uses_color(&self, stream: &impl anstream::stream::RawStream) -> bool {
        match self.color.unwrap_or_default() {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        }
    }
}

impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Error {
        let text = error.to_string();
        let lines = text.strip_prefix("error: ").unwrap_or(&text).lines().map(clean);
        let lines: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
        Error::Failed(lines.join("\n"))
    }
}

/// Refuses two amounts in one unit.
fn once_per_unit<'a>(option: &str, amounts: impl IntoIterator<Item = &'a Amount>) -> Result<(), Error> {
    let mut units = Vec::new();
    for Amount { unit, .. } in amounts {
        if units.contains(unit) {
            return Err(Error::Failed(format!("{option} is given twice in {unit}")));
        }
        units.push(*unit);
    }
    Ok(())
}

/// Whether the locale's character set is UTF-8, by the first of the variables that decide it.
fn locale_is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| sources::variable(name));
    locale.and_then(|locale| locale.into_string().ok()).is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
