//! What budget-tee is asked to do: the options as typed parts, ready to run.
//!
//! Files that the options name are opened here, so that an error comes before anything is started.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory};
use jiff::tz::TimeZone;
use rustix::process::Signal;

use crate::amount::{Amounts, Unit};
use crate::budget::{Budget, Budgets, Estimate};
use crate::cli::completions;
use crate::cli::help;
use crate::cli::values::{FirstSignal, WindowForm, command_name, resumes};
use crate::cli::{Options, sources};
use crate::count::meter::Meter;
use crate::count::price::{Prices, Unpriced};
use crate::count::rates::day;
use crate::error::Error;
use crate::ledger::Location;
#[cfg(feature = "redis")]
use crate::ledger::redis::address::Address;
use crate::ledger::window::Window;
use crate::process::hook::Hooks;
use crate::process::kill::KillPolicy;
use crate::run::Run;
use crate::show::output::OutputFile;
use crate::show::screen::{Screen, report_width};
use crate::show::text::{Style, because, clean, clean_os, with_note};

/// What budget-tee is asked to do.
pub enum Task {
    /// Print a text: the help, the version, completions.
    Print(Vec<u8>),
    /// Print the status of a ledger.
    Status(Box<StatusTask>),
    /// Add to a budget.
    Grant(GrantTask),
    /// Count a stream.
    Run(Box<RunTask>),
}

/// The status report that is asked for.
pub struct StatusTask {
    /// The ledger.
    pub location: Location,
    /// Budgets, classes and prices.
    pub run: Run,
    /// Of what time spend counts; `None` for all of it.
    pub window: Option<Window>,
    /// None was asked for: then it is the one that the ledger keeps, in this time zone.
    pub zone: Option<TimeZone>,
    /// As JSON.
    pub json: bool,
    /// How to render it for stdout.
    pub style: Style,
}

/// The grant that is asked for.
pub struct GrantTask {
    /// The ledger.
    pub location: Location,
    /// The command whose budget is raised; `None` for the overall one.
    pub name: Option<String>,
    /// By how much.
    pub amounts: Amounts,
}

/// The run that is asked for.
pub struct RunTask {
    /// The run, of which nothing has been seen.
    pub run: Run,
    /// What it is expected to use.
    pub estimate: Estimate,
    /// Its ledger.
    pub location: Option<Location>,
    /// Of what time the ledger's spend counts; `None` for all of it.
    pub window: Option<Window>,
    /// The command to wrap, with its arguments; empty for a filter.
    pub command: Vec<OsString>,
    /// How that command is to be ended.
    pub kill_policy: KillPolicy,
    /// Stderr.
    pub screen: Screen,
    /// The commands of `--on-warn` and `--on-exceed`.
    pub hooks: Hooks,
    /// The file for the summary.
    pub summary: Option<OutputFile>,
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
    if own.brief {
        return Ok(Task::Print(help::brief(Options::command()).into_bytes()));
    }
    // Before file and environment are read: the build of a package must not depend on them.
    if let Some(shell) = own.completions {
        return Ok(Task::Print(completions::script(shell, Options::command()).into_bytes()));
    }
    own.check_duplicates()?;
    let before = own.sources()?;
    // Of the arguments only: a file or a variable can be kept from other users.
    #[cfg(feature = "redis")]
    own.check_passwords(&args)?;
    let options = if before.is_empty() { own } else { own.merged(&args, before)? };
    options.task()
}

impl Options {
    fn task(self) -> Result<Task, Error> {
        let location = self.location()?;
        let run = self.run()?;
        let window = self.window()?;
        if let (Some(location), false) = (location.clone(), self.grant.is_empty()) {
            let of = |unit| self.grant.iter().find(|amount| amount.unit == unit).map_or(0, |amount| amount.value);
            let amounts = Amounts { tokens: of(Unit::Tokens), micro_usd: of(Unit::Usd) };
            return Ok(Task::Grant(GrantTask { location, name: self.name, amounts }));
        }
        if let (Some(location), true) = (location.clone(), self.status) {
            let color = self.uses_color(&std::io::stdout());
            let style = Style { color, unicode: locale_is_utf8(), width: report_width() };
            let zone = if window.is_none() { Some(sources::time_zone()?) } else { None };
            return Ok(Task::Status(Box::new(StatusTask { location, run, window, zone, json: self.json, style })));
        }
        if self.command.is_empty() && rustix::termios::isatty(rustix::stdio::stdin()) {
            let message = with_note("nothing to read: stdin is a terminal", help::FORMS);
            return Err(Error::Failed(with_note(message, help::SEE)));
        }
        let summary = self.summary_file()?;
        Ok(Task::Run(Box::new(RunTask {
            run,
            estimate: self.estimate(),
            location,
            window,
            kill_policy: self.kill_policy(),
            screen: Screen::new(
                self.quiet,
                self.bars.unwrap_or_default(),
                self.uses_color(&std::io::stderr()),
                locale_is_utf8(),
            ),
            hooks: Hooks::new(self.on_warn, self.on_exceed),
            command: self.command,
            summary,
        })))
    }

    fn run(&self) -> Result<Run, Error> {
        let name = self.name.clone().or_else(|| command_name(&self.command));
        let budgets = self.budgets(name.as_deref());
        let meter = Meter::new(self.prices()?, resumes(&self.command));
        let mut run = Run::new(name, self.mode.unwrap_or_default(), self.count.unwrap_or_default(), budgets, meter);
        run.stop_at = self.stop.unwrap_or_default();
        let program = self.command.first().and_then(|command| Path::new(command).file_name());
        run.program = program.map(|program| program.to_string_lossy().into_owned());
        Ok(run)
    }

    fn budgets(&self, name: Option<&str>) -> Budgets {
        let overall = self.limit.iter().chain(&self.overall_cost_budget).map(|amount| (None, *amount));
        let of_commands = self.command_budget.iter().chain(&self.command_cost_budget);
        let of_commands = of_commands.map(|budget| (Some(&budget.name), budget.amount));
        let mut list: Vec<Budget> = Vec::new();
        for (command, amount) in overall.chain(of_commands) {
            // Budget by budget, and not option by option: the command line may raise one of those that a
            // file sets and keep the others. The last one wins.
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
        #[cfg(feature = "redis")]
        let no_server = !matches!(location, Some(Location::Server(_)));
        // Not by clap's `requires`: what an option needs may stand in the environment or in a file.
        let mistakes = [
            (self.status && location.is_none(), "--status needs --ledger FILE, or BUDGET_TEE_LEDGER"),
            (!self.grant.is_empty() && location.is_none(), "--grant needs --ledger FILE, or BUDGET_TEE_LEDGER"),
            (!self.grant.is_empty() && !self.command.is_empty(), "--grant takes no command to run"),
            (!self.grant.is_empty() && self.status, "--grant and --status cannot be combined"),
            (self.window.is_some() && location.is_none(), "--window needs --ledger FILE, or BUDGET_TEE_LEDGER"),
            #[cfg(feature = "redis")]
            (self.offline_grace.is_some() && no_server, "--offline-grace needs a --ledger on a server"),
            #[cfg(feature = "redis")]
            (self.ledger_expiry.is_some() && no_server, "--ledger-expiry needs a --ledger on a server"),
            (self.json && !self.status, "--json needs --status"),
            (
                self.command.first().is_some_and(|command| command.as_encoded_bytes().starts_with(b"-")),
                "what follows -- is a command with its arguments\n\
                 note: use budget-tee [OPTIONS] -- claude -p PROMPT ...",
            ),
            (self.status && !self.command.is_empty(), "--status takes no command to run"),
            (
                !self.command.is_empty() && matches!(self.signal, Some(FirstSignal(None))),
                "--signal none is for a filter; a wrapped command is always ended",
            ),
        ];
        match mistakes.into_iter().find(|(is_made, _)| *is_made) {
            Some((_, message)) => Err(Error::Failed(message.to_owned())),
            None => Ok(location),
        }
    }

    fn location_of(&self, text: &Path) -> Result<Location, Error> {
        if !Location::is_url(text.as_os_str()) {
            return Ok(Location::File(text.to_owned()));
        }
        // Not taken for a file's name: a run would seem to share its budgets and would not.
        #[cfg(not(feature = "redis"))]
        return Err("a ledger on a server needs a budget-tee built with --features redis".to_owned().into());
        #[cfg(feature = "redis")]
        self.server(text)
    }

    #[cfg(feature = "redis")]
    fn server(&self, text: &Path) -> Result<Location, Error> {
        let grace = self.offline_grace.unwrap_or(Duration::from_secs(60));
        let password = sources::variable("BUDGET_TEE_LEDGER_PASSWORD").and_then(|password| password.into_string().ok());
        let text = text.to_str().ok_or_else(|| "the address of a ledger must be UTF-8".to_owned())?;
        let address = Address::parse(text, password.as_deref(), grace, self.ledger_expiry);
        let address = address.map_err(|why| because("cannot use the ledger's address", why))?;
        Ok(Location::Server(Box::new(address)))
    }

    fn window(&self) -> Result<Option<Window>, Error> {
        Ok(match self.window {
            None => None,
            Some(WindowForm::Rolling(length)) => Some(Window::Last(length.as_secs_f64())),
            Some(WindowForm::Calendar(period)) => Some(Window::Calendar(period, sources::time_zone()?)),
        })
    }

    fn kill_policy(&self) -> KillPolicy {
        let grace = self.kill_after.unwrap_or(Duration::from_secs(10));
        KillPolicy {
            signal: self.signal.map_or(Some(Signal::TERM), |FirstSignal(signal)| signal),
            is_default: self.signal.is_none(),
            grace: Some(grace).filter(|grace| !grace.is_zero()),
            linger: self.linger.filter(|linger| !linger.is_zero()),
            idle: self.idle.filter(|idle| !idle.is_zero()),
            reap: self.reap,
        }
    }

    /// The prices that hold today.
    fn prices(&self) -> Result<Prices, Error> {
        let read = |path| std::fs::read_to_string(path).map_err(|error| Error::file("read prices", path, error));
        let own = self.prices.as_ref().map(read).transpose()?;
        let shown = self.prices.as_ref().map_or(String::new(), clean_os);
        let today = day(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
        let prices = Prices::new(own.as_deref(), &today, self.unpriced.clone());
        let prices = prices.map_err(|bad| because(format_args!("bad prices in {shown}"), bad))?;
        // The default has a row that is built in, unless the user's rows replace it. Looking it up at
        // every start would read the table for the many runs that never ask for a price.
        let may_lack_it = self.unpriced.is_some() || self.prices.is_some();
        if let Unpriced::As(model) = prices.unpriced()
            && may_lack_it
            && !prices.knows(model)
        {
            // Now, and not at the first model without a price, when the run is under way.
            let message = format!("--unpriced: {} has no price either", clean(model));
            return Err(Error::Failed(with_note(message, "want a model of the price table, highest or zero")));
        }
        Ok(prices)
    }

    fn summary_file(&self) -> Result<Option<OutputFile>, Error> {
        let Some(path) = &self.summary else { return Ok(None) };
        OutputFile::new(path.clone()).map(Some).map_err(|error| Error::file("write summary", path, error))
    }

    fn uses_color(&self, stream: &impl anstream::stream::RawStream) -> bool {
        match self.color.unwrap_or_default() {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        }
    }
}

/// Whether the locale's character set is UTF-8.
fn locale_is_utf8() -> bool {
    // By its name, from the variables in the order that POSIX gives them: to ask the C library would
    // take `setlocale`, which is unsafe to call.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| sources::variable(name));
    locale.and_then(|locale| locale.into_string().ok()).is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
