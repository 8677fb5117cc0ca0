//! The command line: options and environment in, typed parts out.
//!
//! Whatever is wrong with them is found here, before anything is read, written or started.

pub(crate) mod sources;
pub(crate) mod values;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueHint};
use rustix::process::Signal;

use crate::amount::{Amount, Span, Unit};
use crate::budget::{Budget, Budgets, Estimate, Mode};
use crate::cli::values::{
    ColorWhen, CommandBudget, CommandCost, Dollars, Name, Named, Percent, Shell, Window, name_of, one_of, with_form,
};
use crate::count::price::{self, Prices, Unpriced};
use crate::count::tokens::Classes;
use crate::early::{self, Early, cannot_write};
use crate::error::Exit;
use crate::ledger::Place;
#[cfg(feature = "redis")]
use crate::ledger::redis::address::{Address, HANDED_PASSWORD};
use crate::process::hook::{Commands, Hooks};
use crate::process::wrap::Manners;
use crate::run::Run;
use crate::show::report::{Style, clean, reason};
use crate::show::screen::Screen;

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
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 80,
    help_template = format!("{{about}}\n\nUsage:\n  {{usage}}\n\n{{all-args}}\n\n{EPILOG}")
)]
pub struct Cli {
    /// Overall budget
    #[arg(short, long, alias = "overall-token-budget", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Amount>())]
    limit: Vec<Amount>,

    /// Budget of one command; repeatable
    #[arg(short = 'b', long, value_name = "NAME=AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<CommandBudget>())]
    command_budget: Vec<CommandBudget>,

    /// The command that this run is charged to
    #[arg(short, long, value_name = "NAME", help_heading = "Budgets")]
    #[arg(value_parser = with_form::<Name>())]
    name: Option<Name>,

    /// On excess: warn (say so, go on) or block (stop)
    #[arg(short, long, alias = "budget-enforcement-mode", value_name = "MODE", help_heading = "Budgets")]
    #[arg(value_parser = one_of::<Mode>(&["warn", "block"]), hide_possible_values = true)]
    mode: Option<Mode>,

    /// Expected use, checked before the start [default: 1000]
    #[arg(short, long, alias = "max-tokens-per-command", value_name = "AMOUNT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Amount>())]
    estimate: Vec<Amount>,

    /// Overall budget in dollars, as --limit USDusd
    #[arg(long, value_name = "USD", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Dollars>())]
    overall_cost_budget: Option<Dollars>,

    /// Budget of one command in dollars; repeatable
    #[arg(long, value_name = "NAME=USD", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<CommandCost>())]
    command_cost_budget: Vec<CommandCost>,

    /// Share the budgets with all runs that name FILE
    #[arg(short = 'L', long, value_name = "FILE", help_heading = "Shared budgets")]
    ledger: Option<PathBuf>,

    /// In block mode, go on so long without the server [default: 60s]
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Span>())]
    offline_grace: Option<Span>,

    /// Drop a server's ledger unused for so long [0: never]
    #[cfg(feature = "redis")]
    #[arg(long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Span>())]
    ledger_expiry: Option<Span>,

    /// Only what was spent in the last DURATION counts
    #[arg(short, long, value_name = "DURATION", help_heading = "Shared budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Window>())]
    window: Option<Window>,

    /// Print how the budgets stand; exit 0, or 122 exceeded
    #[arg(long, help_heading = "Shared budgets")]
    status: bool,

    /// With --status: as one JSON object
    #[arg(long, help_heading = "Shared budgets")]
    json: bool,

    /// Tokens that count: input,output,cache-write,cache-read
    #[arg(short = 't', long, value_name = "CLASSES", help_heading = "Budgets")]
    #[arg(value_parser = with_form::<Classes>())]
    count: Option<Classes>,

    /// Say so once above this share of a budget [default: 90]
    #[arg(long, value_name = "PERCENT", help_heading = "Budgets")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Percent>())]
    warn_at: Option<Percent>,

    /// JSON rows that add to or replace the prices
    #[arg(long, value_name = "FILE", help_heading = "Prices")]
    prices: Option<PathBuf>,

    /// A model without a price: dearest, refuse, zero or MODEL
    #[arg(long, value_name = "WHAT", help_heading = "Prices")]
    #[arg(value_parser = one_of::<Unpriced>(&["dearest", "refuse", "zero"]), hide_possible_values = true)]
    unpriced: Option<Unpriced>,

    /// Sent first on a trip [default: TERM]
    #[arg(short, long, value_name = "SIGNAL", help_heading = "Ending a command")]
    #[arg(value_parser = with_form::<Named>())]
    signal: Option<Named>,

    /// KILL follows after this [default: 10s; 0: never]
    #[arg(short, long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Span>())]
    kill_after: Option<Span>,

    /// End a command that stays after its result line
    #[arg(long, value_name = "DURATION", help_heading = "Ending a command")]
    #[arg(allow_hyphen_values = true, value_parser = with_form::<Span>())]
    linger: Option<Span>,

    /// Run once for each budget that comes near its limit
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_warn: Option<String>,

    /// Run once for each budget that is exceeded
    #[arg(long, value_name = "COMMAND", help_heading = "Budgets", value_hint = ValueHint::CommandString)]
    on_exceed: Option<String>,

    /// Print completions: bash, zsh or fish
    #[arg(long, value_name = "SHELL", help_heading = "Output", hide_possible_values = true)]
    #[arg(value_parser = one_of::<Shell>(&["bash", "fish", "zsh"]))]
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
    #[arg(long, value_name = "WHEN", help_heading = "Output")]
    #[arg(value_parser = one_of::<ColorWhen>(&["auto", "always", "never"]), hide_possible_values = true)]
    color: Option<ColorWhen>,

    /// Show this help
    #[arg(short, long, action = clap::ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,

    /// Show the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,

    #[arg(trailing_var_arg = true, hide = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

impl Cli {
    /// The options of this process; where they say nothing, those of its environment, and then those
    /// of a file of defaults.
    ///
    /// # Errors
    /// Where they make no sense, or where all that was asked for was the help or the version,
    /// which are then on stdout.
    pub fn from_args() -> Result<Self, Early> {
        let mut cli = Cli::try_parse()?;
        if let Some(Shell(shell)) = cli.completions {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut table(), "budget-tee", &mut text);
            early::print(&text)?;
            return Err(Early { message: String::new(), exit: Exit::Done });
        }
        #[cfg(feature = "redis")]
        if let Some(error) =
            cli.ledger.as_ref().and_then(|ledger| crate::ledger::redis::address::hide_password(ledger, &cli.command))
        {
            return Err(Early::failed(format!("cannot hide the ledger's password: {}", reason(error))));
        }
        cli.gather()?;
        cli.fill_from_environment()?;
        if let Some(path) = &cli.config {
            let file = Cli::from_file(path)?;
            cli.fill_from(file);
        }
        Ok(cli)
    }

    /// The options that a file of defaults stands for.
    fn from_file(path: &Path) -> Result<Self, Early> {
        let shown = clean(&path.to_string_lossy());
        let bad = |why: String| Early::failed(format!("bad config {shown}: {why}"));
        let text = std::fs::read_to_string(path)
            .map_err(|error| Early::failed(format!("cannot read config {shown}: {}", reason(error))))?;
        let table = table();
        let takes_value = |option: &str| {
            let is_default = !["config", "completions"].contains(&option);
            let found = table.get_arguments().find(|arg| is_default && arg.get_long() == Some(option));
            found.map(|arg| arg.get_action().takes_values())
        };
        let words = sources::words(&text, takes_value).map_err(bad)?;
        let words = std::iter::once(OsString::from("budget-tee")).chain(words);
        let mut file = Cli::try_parse_from(words).map_err(|error| bad(Early::from(error).message))?;
        file.gather().map_err(|early| bad(early.message))?;
        Ok(file)
    }

    /// Brings budgets in dollars together with the others, and refuses what is given twice.
    fn gather(&mut self) -> Result<(), Early> {
        self.limit.extend(self.overall_cost_budget.take().map(|dollars| dollars.0));
        once_a_unit(&self.limit, "--limit")?;
        self.command_budget.extend(self.command_cost_budget.drain(..).map(|cost| cost.0));
        for (at, budget) in self.command_budget.iter().enumerate() {
            if self.command_budget[..at].iter().any(|other| other.is_same_budget(budget)) {
                let (name, unit) = (clean(&budget.name), budget.amount.unit);
                return Err(Early::failed(format!("--command-budget is given twice for {name} in {unit}")));
            }
        }
        Ok(())
    }

    fn fill_from_environment(&mut self) -> Result<(), Early> {
        let limits = env("BUDGET_TEE_LIMIT", amounts)?.unwrap_or_default();
        once_a_unit(&limits, "BUDGET_TEE_LIMIT")?;
        self.fill_limits(limits);
        let path = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        fill(&mut self.name, env("BUDGET_TEE_NAME", str::parse)?);
        fill(&mut self.mode, env("BUDGET_TEE_MODE", str::parse)?);
        fill(&mut self.ledger, path("BUDGET_TEE_LEDGER"));
        fill(&mut self.prices, path("BUDGET_TEE_PRICES"));
        fill(&mut self.config, path("BUDGET_TEE_CONFIG"));
        Ok(())
    }

    fn fill_from(&mut self, other: Cli) {
        self.fill_limits(other.limit);
        for budget in other.command_budget {
            if !self.command_budget.iter().any(|own| own.is_same_budget(&budget)) {
                self.command_budget.push(budget);
            }
        }
        for amount in other.estimate {
            if !self.estimate.iter().any(|own| own.unit == amount.unit) {
                self.estimate.push(amount);
            }
        }
        fill(&mut self.name, other.name);
        fill(&mut self.mode, other.mode);
        fill(&mut self.count, other.count);
        fill(&mut self.ledger, other.ledger);
        // A file of defaults may name terms for a server, and the command line a file.
        #[cfg(feature = "redis")]
        if self.ledger.as_ref().is_some_and(|ledger| Place::is_address(ledger.as_os_str())) {
            fill(&mut self.offline_grace, other.offline_grace);
            fill(&mut self.ledger_expiry, other.ledger_expiry);
        }
        fill(&mut self.window, other.window);
        fill(&mut self.warn_at, other.warn_at);
        fill(&mut self.prices, other.prices);
        fill(&mut self.unpriced, other.unpriced);
        fill(&mut self.signal, other.signal);
        fill(&mut self.kill_after, other.kill_after);
        fill(&mut self.linger, other.linger);
        fill(&mut self.on_warn, other.on_warn);
        fill(&mut self.on_exceed, other.on_exceed);
        fill(&mut self.summary, other.summary);
        fill(&mut self.color, other.color);
        self.status |= other.status;
        self.json |= other.json;
        self.quiet |= other.quiet;
    }

    /// Takes those limits over whose unit has none yet.
    fn fill_limits(&mut self, limits: Vec<Amount>) {
        for amount in limits {
            if !self.limit.iter().any(|own| own.unit == amount.unit) {
                self.limit.push(amount);
            }
        }
    }

    /// The short help for somebody who called budget-tee with nothing to read.
    #[must_use]
    pub fn hint() -> String {
        format!("nothing to read: stdin is a terminal\nusage: {USAGE}\nTry budget-tee --help.")
    }

    /// The run that these options and the environment describe.
    ///
    /// # Errors
    /// Where a budget is given twice or in a form that makes no sense.
    pub fn run(&self) -> Result<Run, Early> {
        let name = self.name.clone().map(|name| name.0).or_else(|| name_of(&self.command));
        let budgets = self.budgets(name.as_deref());
        Ok(Run::new(name, self.mode.unwrap_or_default(), self.count.unwrap_or_default(), budgets, self.prices()?))
    }

    /// The ledger to share budgets in, by option or environment.
    ///
    /// # Errors
    /// Where an option that needs one is given without it, or options contradict each other.
    pub fn ledger(&self) -> Result<Option<Place>, Early> {
        let place = self.ledger.as_ref().map(|text| self.place(text)).transpose()?;
        let needs = [(self.status, "--status"), (self.window.is_some(), "--window")];
        if let (None, Some((_, option))) = (&place, needs.iter().find(|(given, _)| *given)) {
            return Err(Early::failed(format!("{option} needs --ledger FILE, or BUDGET_TEE_LEDGER")));
        }
        #[cfg(feature = "redis")]
        if !matches!(place, Some(Place::Server(_))) {
            let needs = [(self.offline_grace, "--offline-grace"), (self.ledger_expiry, "--ledger-expiry")];
            if let Some((_, option)) = needs.iter().find(|(given, _)| given.is_some()) {
                return Err(Early::failed(format!("{option} needs a --ledger on a server")));
            }
        }
        if self.json && !self.status {
            return Err(Early::failed("--json goes with --status"));
        }
        if self.status && !self.command.is_empty() {
            return Err(Early::failed("--status runs no command"));
        }
        Ok(place)
    }

    /// The place that a ledger's path or address names.
    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, reason = "with the feature, options say on which terms a server is used")]
    fn place(&self, text: &Path) -> Result<Place, Early> {
        if Place::is_address(text.as_os_str()) {
            return Err(Early::failed("a ledger on a server needs a budget-tee that is built with --features redis"));
        }
        Ok(Place::File(text.to_owned()))
    }

    /// The place that a ledger's path or address names.
    #[cfg(feature = "redis")]
    fn place(&self, text: &Path) -> Result<Place, Early> {
        if !Place::is_address(text.as_os_str()) {
            return Ok(Place::File(text.to_owned()));
        }
        let grace = self.offline_grace.map_or(Duration::from_secs(60), |span| span.0);
        let password = [HANDED_PASSWORD, "BUDGET_TEE_LEDGER_PASSWORD"].iter().find_map(|name| {
            let password = std::env::var(name).ok();
            password.filter(|password| !password.is_empty())
        });
        let text = text.to_str().ok_or_else(|| Early::failed("the address of a ledger must be UTF-8"))?;
        let expiry = self.ledger_expiry.map(|span| span.0);
        let address = Address::parse(text, password.as_deref(), grace, expiry);
        let address = address.map_err(|why| Early::failed(format!("cannot use the ledger's address: {why}")))?;
        Ok(Place::Server(Box::new(address)))
    }

    /// How many seconds back spend binds; `None` where all of it does.
    #[must_use]
    pub fn window(&self) -> Option<f64> {
        self.window.map(|window| window.0.as_secs_f64())
    }

    /// Whether the status report is asked for, and whether it is for scripts.
    #[must_use]
    pub fn status(&self) -> Option<bool> {
        self.status.then_some(self.json)
    }

    /// How to render for stdout: `--color` decides, or else what stdout is.
    #[must_use]
    pub fn stdout_style(&self) -> Style {
        let color = self.color(&std::io::stdout());
        Style { color, unicode: locale_is_utf8(), width: 80 }
    }

    fn color(&self, stream: &impl anstream::stream::RawStream) -> bool {
        match self.color.unwrap_or(ColorWhen::Auto) {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        }
    }

    /// The command to wrap, with its arguments; empty for a filter.
    #[must_use]
    pub fn command(&self) -> &[OsString] {
        &self.command
    }

    /// How a wrapped command is to be ended.
    #[must_use]
    pub fn manners(&self) -> Manners {
        let grace = self.kill_after.map_or(Duration::from_secs(10), |span| span.0);
        Manners {
            signal: self.signal.map_or(Signal::TERM, |named| named.0),
            grace: Some(grace).filter(|grace| !grace.is_zero()),
            linger: self.linger.map(|span| span.0).filter(|linger| !linger.is_zero()),
        }
    }

    /// The prices that hold today.
    ///
    /// # Errors
    /// Where the table of `--prices` cannot be read or has a bad row.
    fn prices(&self) -> Result<Prices, Early> {
        let shown = self.prices.as_ref().map_or(String::new(), |path| clean(&path.to_string_lossy()));
        let more = self.prices.as_ref().map(std::fs::read_to_string).transpose();
        let more = more.map_err(|error| Early::failed(format!("cannot read prices {shown}: {}", reason(error))))?;
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let unpriced = self.unpriced.clone().unwrap_or_default();
        let prices = Prices::new(more.as_deref(), &price::day(since.as_secs()), unpriced);
        let prices = prices.map_err(|bad| Early::failed(format!("bad prices in {shown}: {bad}")))?;
        match prices.unpriced() {
            Unpriced::As(model) if !prices.knows(model) => {
                Err(Early::failed(format!("--unpriced: {} has no price either", clean(model))))
            }
            _ => Ok(prices),
        }
    }

    /// The use that this run is expected to have.
    ///
    /// # Errors
    /// Where it is given twice in one unit.
    pub fn estimate(&self) -> Result<Estimate, Early> {
        let mut estimate = Estimate::default();
        for amount in &self.estimate {
            let of = match amount.unit {
                Unit::Tokens => &mut estimate.tokens,
                Unit::Usd => &mut estimate.micro_usd,
            };
            if of.replace(amount.value).is_some() {
                return Err(Early::failed(format!("--estimate is given twice in {}", amount.unit)));
            }
        }
        Ok(estimate)
    }

    /// The file for the summary, opened now so that it is known to be writable.
    ///
    /// # Errors
    /// Where it cannot be created.
    pub fn summary(&self) -> Result<Option<(PathBuf, File)>, Early> {
        let Some(path) = &self.summary else { return Ok(None) };
        // What is no file of its own, such as /dev/stderr in a log, is added to.
        let device = ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc/self/fd"].iter().any(|at| path.starts_with(at));
        match File::options().create(true).write(true).append(device).truncate(!device).open(path) {
            Ok(file) => Ok(Some((path.clone(), file))),
            Err(error) => Err(Early::failed(cannot_write(path.as_os_str(), error))),
        }
    }

    /// The screen, coloured as the options, the environment and the terminal have it.
    #[must_use]
    pub fn screen(&self) -> Screen {
        Screen::new(self.quiet, self.color(&std::io::stderr()), locale_is_utf8())
    }

    /// The hooks that were asked for.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        Hooks::new(Commands { on_warn: self.on_warn.clone(), on_exceed: self.on_exceed.clone() })
    }

    fn budgets(&self, name: Option<&str>) -> Budgets {
        let overall = self.limit.iter().map(|amount| Budget::new(None, *amount, true));
        let of_commands = self.command_budget.iter().map(|CommandBudget { name: command, amount }| {
            Budget::new(Some(command.clone()), *amount, name == Some(command))
        });
        Budgets::new(overall.chain(of_commands).collect(), self.warn_at.map_or(90, |percent| percent.0))
    }
}

/// Takes `other` over where nothing is given.
fn fill<T>(own: &mut Option<T>, other: Option<T>) {
    if own.is_none() {
        *own = other;
    }
}

/// Refuses two amounts in one unit.
fn once_a_unit(amounts: &[Amount], option: &str) -> Result<(), Early> {
    let twice = amounts.iter().enumerate().find(|(at, amount)| amounts[..*at].iter().any(|a| a.unit == amount.unit));
    match twice {
        Some((_, amount)) => Err(Early::failed(format!("{option} is given twice in {}", amount.unit))),
        None => Ok(()),
    }
}

/// An environment variable's value; an empty one is as if unset.
fn env<T>(name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Early> {
    let value = std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let Some(value) = value else { return Ok(None) };
    let shown = clean(&value.to_string_lossy());
    let parsed = value.to_str().ok_or_else(|| "not UTF-8".to_owned()).and_then(parse);
    parsed.map(Some).map_err(|wanted| Early::failed(format!("invalid value '{shown}' in {name}: {wanted}")))
}

/// Amounts with a comma between.
fn amounts(text: &str) -> Result<Vec<Amount>, String> {
    text.split(',').map(|amount| amount.trim().parse()).collect()
}

/// Whether the locale's character set is UTF-8, by the first of the variables that decide on it.
fn locale_is_utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    set.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// The option table: for files of defaults, and for the tests that hold help, manual and README to it.
#[must_use]
pub fn table() -> clap::Command {
    <Cli as CommandFactory>::command()
}
