//! Measures the load of a fleet on a server: concurrent runs, each of which records as often as it may.
//!
//! `cargo run --release --features redis --example fleet -- redis://127.0.0.1:6379/0/bench RUNS SECONDS
//! [WINDOW]` prints how many calls of the script the server answered, and the time it spent on them.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use budget_tee::amount::{Amounts, Unit};
use budget_tee::budget::{Mode, Room, Scope};
use budget_tee::count::tally::Tally;
use budget_tee::count::tokens::{Classes, Spend, Tokens};
use budget_tee::ledger::redis::address::Address;
use budget_tee::ledger::store::{Handover, Request, Store};
use budget_tee::ledger::window::Window;
use budget_tee::ledger::worker::unix_now;
use budget_tee::ledger::{self, Location};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [address, runs, seconds, window @ ..] = &args[..] else {
        return Err("want redis://HOST:PORT/DB/NAME RUNS SECONDS [WINDOW]".into());
    };
    let (runs, seconds): (usize, u64) = (runs.parse()?, seconds.parse()?);
    let window = window.first().map(|window| window.parse().map(Window::Last)).transpose()?;
    let location = Address::parse(address, None, Duration::from_secs(60), None)?;
    let (server, _) = address.rsplit_once('/').ok_or("no name")?;
    let mut server = redis::Client::open(server)?.get_connection()?;
    let location = Location::Server(Box::new(location));
    let room = Room { scope: Scope::Overall, unit: Unit::Tokens, limit: u64::MAX, estimate: 0 };
    let reservation = Amounts { tokens: 1000, micro_usd: 0 };
    let request = Request {
        reservation,
        classes: Classes::default(),
        rooms: vec![room],
        mode: Mode::Block,
        ..Request::default()
    };

    let began = Instant::now();
    let mut fleet = Vec::new();
    for run in 0..runs {
        let name = format!("/command-{}", run % 10);
        let mut ledger =
            ledger::open(&location, Some(&name), window.clone(), unix_now()).map_err(|error| error.to_string())?;
        ledger.admit(&request, unix_now()).map_err(|error| error.to_string())?;
        fleet.push(ledger);
    }
    let admitted = began.elapsed();
    let before = counters(&mut server)?;
    let began = Instant::now();
    // A thread for each, as each run has one: a call that takes long must not hold up the others.
    let running: Vec<_> =
        fleet.into_iter().map(|ledger| std::thread::spawn(move || spend(ledger, began, seconds))).collect();
    let rounds = running.into_iter().map(|run| run.join().unwrap_or_default()).min().unwrap_or_default();
    let after = counters(&mut server)?;
    let elapsed = began.elapsed().as_secs_f64();
    let [calls, script, cpu] = [0, 1, 2].map(|at| after[at] - before[at]);
    let mut out = std::io::stdout();
    writeln!(out, "{runs} runs started in {:.2} s", admitted.as_secs_f64())?;
    writeln!(out, "{:.0} calls a second, {:.1} us in the script each", calls / elapsed, script / calls)?;
    writeln!(out, "{:.0} % of a core, {:.1} us of it a call", 100.0 * cpu / elapsed, 1e6 * cpu / calls)?;
    writeln!(out, "rounds of 200 ms of the slowest run: {rounds}")?;
    Ok(())
}

/// Has a run spend every 200 ms. Returns how often it could record that.
fn spend(mut ledger: Box<dyn Store>, began: Instant, seconds: u64) -> u64 {
    let mut round = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        let tokens = Tokens { input: round * 100, ..Tokens::default() };
        let spend = Spend { tokens, micro_usd: round * 300 };
        let spend = Tally::from_iter([("claude-sonnet-4-5".to_owned(), spend)]);
        if ledger.step(&Handover { spend, ..Handover::default() }, unix_now()).is_err() {
            return 0;
        }
        let due = began + Duration::from_millis(200 * round);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    round
}

/// The server's count of script calls, the microseconds spent in them, and its CPU seconds.
fn counters(server: &mut redis::Connection) -> Result<[f64; 3], Box<dyn Error>> {
    let text: String = redis::cmd("INFO").arg("commandstats").query(server)?;
    let cpu: String = redis::cmd("INFO").arg("cpu").query(server)?;
    let all = text + &cpu;
    let find = |word: &str| -> f64 {
        let rest = all.split_once(word).map_or("", |(_, rest)| rest);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse().unwrap_or_default()
    };
    let scripts = all.split_once("cmdstat_evalsha:").map_or("", |(_, rest)| rest);
    let usec =
        scripts.split_once("usec=").and_then(|(_, rest)| rest.split(',').next()).and_then(|text| text.parse().ok());
    Ok([find("cmdstat_evalsha:calls="), usec.unwrap_or_default(), find("used_cpu_sys:") + find("used_cpu_user:")])
}
