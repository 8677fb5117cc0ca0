//! budget-tee: counts, forwards, shows, stops. See `budget-tee --help` and budget-tee(1).
//!
//! The map: `cli` makes typed parts of the command line; `run` is what one stream comes to
//! (`scan` finds the values, `usage` names them, `meter` counts, `budget` judges); `relay` moves
//! the bytes; `watch` waits for signals and news; `report` writes what `screen` shows; `exit` is
//! the table of exit codes.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use budget_tee::cli::{Cli, Early, cannot_write};
use budget_tee::exit::Exit;
use budget_tee::relay::lock;
use budget_tee::report;
use budget_tee::watch::{self, Shared, reason};

fn main() {
    let exit = run().unwrap_or_else(|early| {
        if !early.message.is_empty() {
            // Where stderr is gone too, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "budget-tee: {}", early.message);
        }
        early.exit
    });
    exit.leave()
}

fn run() -> Result<Exit, Early> {
    let started = SystemTime::now();
    let cli = Cli::from_args()?;
    let mut run = cli.run()?;
    let estimate = cli.estimate()?;
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(Early::failed(Cli::hint()));
    }
    let summary = cli.summary()?;
    let admitted = run.admit(estimate);
    let shared = Shared { run: Arc::new(Mutex::new(run)), screen: Arc::new(Mutex::new(cli.screen())) };
    let mut exit = if admitted {
        watch::filter(&shared).map_err(|error| Early::failed(format!("cannot start: {}", reason(error))))?
    } else {
        Exit::Refused
    };
    if let Some((path, mut file)) = summary {
        let json = report::summary(&lock(&shared.run), exit, started, SystemTime::now());
        if let Err(error) = json.map_err(std::io::Error::from).and_then(|json| file.write_all(&json)) {
            lock(&shared.screen).say(&cannot_write(path.as_os_str(), error));
            exit = if exit == Exit::Done { Exit::Failed } else { exit };
        }
    }
    watch::finish(&shared, exit);
    Ok(exit)
}
