//! budget-tee: counts, forwards, shows, stops. See `budget-tee --help` and budget-tee(1).
//!
//! The map: `cli` makes typed parts of the command line; `run` is what one stream comes to
//! (`scan` finds the values, `usage` names them, `meter` counts, `budget` judges); `relay` moves
//! the bytes; `watch` waits for signals and news; `wrap` runs a command and ends its `child`;
//! `report` writes what `screen` shows; `exit` is the table of exit codes.

use std::ffi::OsStr;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use budget_tee::cli::{Cli, Early, cannot_write};
use budget_tee::exit::Exit;
use budget_tee::relay::lock;
use budget_tee::report;
use budget_tee::screen::Screen;
use budget_tee::watch::{self, Shared, reason};
use budget_tee::{child, wrap};

fn main() {
    if let Some((name, error)) = child::become_command() {
        not_run(&name, error).leave();
    }
    let exit = run().unwrap_or_else(|early| {
        if !early.message.is_empty() {
            Screen::say_only(&early.message);
        }
        early.exit
    });
    exit.leave()
}

/// Says that a command cannot be run, and how that ends.
fn not_run(command: &OsStr, error: std::io::Error) -> Exit {
    let exit = Exit::not_run(&error);
    let name = report::clean(&command.to_string_lossy());
    Screen::say_only(&format!("cannot run {name}: {}", reason(error)));
    exit
}

fn run() -> Result<Exit, Early> {
    let started = SystemTime::now();
    let cli = Cli::from_args()?;
    let mut run = cli.run()?;
    let estimate = cli.estimate()?;
    let command = cli.command();
    if command.is_empty() && rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(Early::failed(Cli::hint()));
    }
    let summary = cli.summary()?;
    let admitted = run.admit(estimate);
    let shared = Shared { run: Arc::new(Mutex::new(run)), screen: Arc::new(Mutex::new(cli.screen())) };
    let mut exit = match command.first() {
        _ if !admitted => Exit::Refused,
        None => watch::filter(&shared).map_err(|error| Early::failed(format!("cannot start: {}", reason(error))))?,
        Some(name) => {
            wrap::wrap(&shared, command, cli.manners()).unwrap_or_else(|error| not_run(name.as_os_str(), error))
        }
    };
    if let Some((path, mut file)) = summary {
        let json = report::summary(&lock(&shared.run), exit, started, SystemTime::now());
        if let Err(error) = json.map_err(std::io::Error::from).and_then(|json| file.write_all(&json)) {
            shared.say(&cannot_write(path.as_os_str(), error));
            exit = if exit == Exit::Done { Exit::Failed } else { exit };
        }
    }
    watch::finish(&shared, exit);
    Ok(exit)
}
