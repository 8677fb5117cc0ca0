//! budget-tee: counts, forwards, shows, stops. See `budget-tee --help` and budget-tee(1).

use std::io::{self, Write as _};
use std::time::SystemTime;

use budget_tee::budget::Mode;
use budget_tee::cli::task::{self, GrantTask, RunTask, StatusTask, Task};
use budget_tee::error::{Error, Exit};
use budget_tee::ledger;
use budget_tee::ledger::book::Book;
use budget_tee::ledger::keeper::{Keeper, Opened};
use budget_tee::ledger::worker::unix_now;
use budget_tee::process::job::Job;
use budget_tee::process::{child, filter, wrap};
use budget_tee::show::output::OutputFile;
use budget_tee::show::screen::Screen;
use budget_tee::show::status::{self, Status};
use budget_tee::show::summary;

fn main() {
    // First of all: in the child that is to become the command, the arguments are not options.
    let result = match child::become_command() {
        Some(error) => Err(error),
        None => task::parse().and_then(|task| match task {
            Task::Print(text) => print(&text).map(|()| Exit::Done),
            Task::Status(task) => report_status(*task),
            Task::Grant(task) => grant(&task),
            Task::Run(task) => run(*task),
        }),
    };
    let exit = result.unwrap_or_else(|error| {
        // Empty where the reader went away: a filter ends quietly then.
        let message = error.to_string();
        if !message.is_empty() {
            Screen::say_only(&message);
        }
        error.exit()
    });
    exit.leave()
}

/// Counts a stream to its end.
fn run(task: RunTask) -> Result<Exit, Error> {
    let started = SystemTime::now();
    let RunTask { mut run, estimate, location, window, command, kill_policy, screen, hooks, summary } = task;
    let opened = match &location {
        Some(location) => Keeper::open(location, window, &mut run, estimate),
        None => Ok(Opened::without_ledger(&mut run, estimate)),
    };
    let blocks = run.mode == Mode::Block;
    let (Opened { admitted, keeper, messages }, unusable) = match opened {
        Ok(opened) => (opened, None),
        Err(error) => (Opened::default(), Some(error)),
    };
    let mut job = Job::new(run, screen, hooks, keeper);
    messages.iter().for_each(|message| job.say(message));
    if !admitted && blocks && command.is_empty() {
        filter::refuse(&mut job, kill_policy);
    }
    if let Some(error) = unusable {
        return Err(error);
    }
    job.say_unbound();
    let exit = match command.first() {
        _ if !admitted => Exit::Refused,
        None => filter::filter(&mut job, kill_policy).map_err(|error| Error::cannot("start", error))?,
        Some(name) => {
            let started = wrap::wrap(&mut job, &command, kill_policy);
            started.map_err(|error| Error::file("run", name, error))?
        }
    };
    let exit = match summary {
        Some(summary) => write_summary(&mut job, summary, exit, started),
        None => exit,
    };
    job.finish(exit);
    Ok(exit)
}

/// Writes the summary. Returns how budget-tee exits.
fn write_summary(job: &mut Job, mut file: OutputFile, exit: Exit, started: SystemTime) -> Exit {
    let json = summary::summary(&job.run(), exit, started, SystemTime::now());
    match json.map_err(io::Error::from).and_then(|json| file.write(&json)) {
        Ok(()) => exit,
        Err(error) => {
            job.say(&Error::file("write summary", file.path(), error).to_string());
            // Whoever asked for a summary must not take a run without one for a success; a failure that is
            // worse keeps its code.
            if exit.is_success() { Exit::Failed } else { exit }
        }
    }
}

/// Prints the status of a ledger's budgets; the exit code says whether one is exceeded.
fn report_status(task: StatusTask) -> Result<Exit, Error> {
    let StatusTask { location, mut run, window, zone, json, style } = task;
    let now = unix_now();
    let ledger = ledger::read(&location, window.clone(), zone, now)?;
    // Where none was asked for, it is the one that the runs were given.
    let window = window.or_else(|| ledger.as_ref().and_then(|ledger| ledger.book().window().cloned()));
    let empty = Book::new(window.clone());
    let (book, alive, now) = match &ledger {
        Some(ledger) => (ledger.book(), ledger.alive(run.classes), ledger.time(now)),
        None => {
            // A ledger that no run has made yet is an empty one; but its name may be mistyped.
            Screen::say_only(&ledger::missing(&location));
            (&empty, Vec::new(), now)
        }
    };
    let status = Status::new(book, alive, &mut run, window, now);
    let title = location.to_string();
    let text = if json {
        status::json(&status, &title).map_err(|error| Error::cannot("report", error.into()))?
    } else {
        status::text(&status, &title, style).into_bytes()
    };
    print(&text)?;
    Ok(if status.is_exceeded() { Exit::Stopped } else { Exit::Done })
}

/// Adds to a budget of a ledger for the period that is now.
fn grant(task: &GrantTask) -> Result<Exit, Error> {
    let GrantTask { location, name, amounts } = task;
    let mut ledger = ledger::open_there(location)?;
    if !ledger.grant(name.as_deref(), *amounts, unix_now())? {
        return Err(Error::Failed(ledger::missing(location)));
    }
    Ok(Exit::Done)
}

/// Prints a text on stdout, in place of a stream.
fn print(text: &[u8]) -> Result<(), Error> {
    // `print!` would panic where stdout is closed or its disk is full.
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
        result => result.map_err(|error| Error::cannot("write to stdout", error)),
    }
}
