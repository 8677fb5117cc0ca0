//! budget-tee: counts, forwards, shows, stops. See `budget-tee --help` and budget-tee(1).
//!
//! The map: `cli` makes typed parts of the command line, with the `value`s that options take, the
//! `amount`s among them, and a `config` file; `early` ends what never begins. `run` is what one
//! stream comes to: `sieve` finds the lines that can count, `scan` their values, which `usage`
//! names; `meter` counts what is `spend`, by `message` and `session`, with `number`s and `price`s;
//! `budget` judges. `relay` moves the bytes; `signals` are caught in one place; `watch` waits for
//! signals and news; `wrap` runs a command and ends its `child`; `hook` runs what a budget calls
//! for. `account` keeps a run's `ledger`, in a `file` whose records a `book` adds up for `status`, and
//! whose `history` is summed up; or on a `server` with an `address`, to which a `courier` takes each
//! `call`. `report` and `summary` write what `screen` and scripts show; `exit` is the table of exit
//! codes.

use std::ffi::OsStr;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use budget_tee::budget::{Budget, Sum, Sums};
use budget_tee::cli::Cli;
use budget_tee::early::{self, Early, cannot_write};
use budget_tee::error::Exit;
use budget_tee::ledger::book::Book;
use budget_tee::ledger::keeper::{self, Opened};
use budget_tee::ledger::{self, Ledger, Place};
use budget_tee::process::watch::{self, Shared};
use budget_tee::process::{child, wrap};
use budget_tee::run::{Run, lock};
use budget_tee::show::report::{self, reason, without_number};
use budget_tee::show::screen::Screen;
use budget_tee::show::status::{self, Status};
use budget_tee::show::summary;

fn main() {
    if let Some((name, error)) = child::become_command() {
        Screen::say_only(&format!("cannot run {}: {}", shown(&name), without_number(&error.to_string())));
        Exit::not_run(&error).leave();
    }
    let exit = run().unwrap_or_else(|early| {
        if !early.message.is_empty() {
            Screen::say_only(&early.message);
        }
        early.exit
    });
    exit.leave()
}

/// A command's name as it can be shown.
fn shown(command: &OsStr) -> String {
    report::clean(&command.to_string_lossy())
}

fn run() -> Result<Exit, Early> {
    let started = SystemTime::now();
    let cli = Cli::from_args()?;
    let ledger = cli.ledger()?;
    let mut run = cli.run()?;
    if let (Some(place), Some(json)) = (&ledger, cli.status()) {
        return status(&cli, run, place, json);
    }
    let estimate = cli.estimate()?;
    let command = cli.command();
    if command.is_empty() && rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(Early::failed(Cli::hint()));
    }
    let summary = cli.summary()?;
    let opened = match &ledger {
        Some(place) => keeper::open(place, cli.window(), &mut run, estimate)
            .map_err(|error| Early::failed(format!("{error}; not started (--mode block)")))?,
        None => Opened { admitted: run.admit(estimate, Sums::default()), ..Opened::default() },
    };
    let mut account = opened.account;
    let shared = Shared {
        run: Arc::new(Mutex::new(run)),
        screen: Arc::new(Mutex::new(cli.screen())),
        hooks: Arc::new(Mutex::new(cli.hooks())),
    };
    for words in &opened.words {
        shared.say(words);
    }
    let mut exit = match command.first() {
        _ if !opened.admitted => Exit::Refused,
        None => watch::filter(&shared, account.as_mut())
            .map_err(|error| Early::failed(format!("cannot start: {}", reason(error))))?,
        Some(name) => wrap::wrap(&shared, account.as_mut(), command, cli.manners())
            .map_err(|error| Early::failed(format!("cannot run {}: {}", shown(name), reason(error))))?,
    };
    // What is decided is said before the ledger is waited for. Who is told to end, or knows that it is
    // out of reach, waits less.
    shared.say_notices();
    let hurries = matches!(exit, Exit::Signal(_)) || lock(&shared.run).was_cut().is_some();
    let wait = if hurries { Duration::from_secs(1) } else { ledger::WAIT };
    if let Some(words) = account.and_then(|account| account.close(&shared.run, wait)) {
        shared.say(&words);
    }
    // What others have spent meanwhile may be known only now.
    shared.run_hooks();
    if lock(&shared.run).tripped() && matches!(exit, Exit::Done | Exit::Child(_)) {
        exit = Exit::Tripped;
    }
    if let Some((path, mut file)) = summary {
        let json = summary::summary(&lock(&shared.run), exit, started, SystemTime::now());
        if let Err(error) = json.map_err(std::io::Error::from).and_then(|json| file.write_all(&json)) {
            shared.say(&cannot_write(path.as_os_str(), error));
            exit = if matches!(exit, Exit::Done | Exit::Child(0)) { Exit::Failed } else { exit };
        }
    }
    watch::finish(&shared, exit);
    Ok(exit)
}

/// Prints how a ledger's budgets stand; the exit code tells whether one is exceeded.
fn status(cli: &Cli, mut run: Run, place: &Place, json: bool) -> Result<Exit, Early> {
    let now = keeper::unix_now();
    // A ledger that no run has made yet is an empty one; its name may also be mistyped.
    let ledger = Ledger::read(place, cli.window(), now).map_err(Early::failed)?;
    if ledger.is_none() {
        Screen::say_only(&format!("there is no ledger {place} yet"));
    }
    let empty = Book::new(cli.window());
    let book = ledger.as_ref().map_or(&empty, Ledger::book);
    let now = ledger.as_ref().map_or(now, |ledger| ledger.time(now));
    let alive = ledger.as_ref().map_or(Vec::new(), |ledger| ledger.alive(run.classes));
    run.budgets.set_all(|name| Sum::of(&book.used(name, cli.window(), now), run.classes));
    let status = Status { book, alive: &alive, budgets: &run.budgets, classes: run.classes, window: cli.window(), now };
    let title = place.to_string();
    let text = if json {
        status::json(&status, &title).map_err(|error| Early::failed(format!("cannot report: {error}")))?
    } else {
        status::text(&status, &title, cli.stdout_style()).into_bytes()
    };
    early::print(&text)?;
    let exceeded = run.budgets.all().iter().any(Budget::is_exceeded);
    Ok(if exceeded { Exit::Tripped } else { Exit::Done })
}
