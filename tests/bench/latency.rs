//! Measures the latency of a line through several filters, as a table.
//!
//! `latency ROUNDS BUDGET-TEE [LEDGER]` sends a line of 300 bytes every 200 microseconds and waits for it
//! at the other end. A round is 5000 lines through each filter in turn.

use std::error::Error;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LINES: usize = 5_000;
const EVERY: Duration = Duration::from_micros(200);

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [rounds, budget_tee, ledger @ ..] = &words[..] else {
        return Err("usage: latency ROUNDS BUDGET-TEE [LEDGER]".into());
    };
    let plain = [budget_tee, "--limit", "1000G"];
    let shared = ledger.first().map(|ledger| [&plain[..], &["--ledger", ledger]].concat());
    let mut filters: Vec<&[&str]> = vec![&plain, &["cat"], &["tee", "/dev/null"], &["jq", "-c", "--unbuffered", "."]];
    filters.extend(shared.as_deref());
    let mut found = vec![Vec::new(); filters.len()];
    for _ in 0..rounds.parse()? {
        for (filter, found) in filters.iter().zip(&mut found) {
            found.push(round(filter)?);
        }
    }
    let mut out = std::io::stdout();
    writeln!(out, "{:<22} {:>10} {:>10}", "microseconds", "p50", "p99")?;
    for (filter, found) in filters.iter().zip(&mut found) {
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<_> = found.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let ledger = if filter.contains(&"--ledger") { ", ledger" } else { "" };
        let name = format!("{}{ledger}", filter[0].rsplit('/').next().unwrap_or_default());
        writeln!(out, "{name:<22} {:>10.1} {:>10.1}", median(|round| round.0), median(|round| round.1))?;
    }
    Ok(())
}

/// The 50th and the 99th percentile of a round, in microseconds.
fn round(filter: &[&str]) -> Result<(f64, f64), Box<dyn Error>> {
    let mut child = Command::new(filter[0])
        .args(&filter[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (mut to, mut from) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
    let mut times = Vec::new();
    let mut due = Instant::now() + Duration::from_millis(50);
    for at in 0..LINES {
        let line = format!(
            "{{\"type\":\"stream_event\",\"event\":{{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\"{:0>180}\"}}}},\"session_id\":\"s\",\"n\":{at:06}}}\n",
            "x"
        );
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += EVERY;
        let sent = Instant::now();
        to.write_all(line.as_bytes())?;
        // jq writes other bytes, but also ends with a newline.
        let mut got = [0; 4096];
        loop {
            let count = from.read(&mut got)?;
            if count == 0 || got[..count].ends_with(b"\n") {
                break;
            }
        }
        times.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    drop(to);
    child.wait()?;
    times.sort_by(f64::total_cmp);
    Ok((times[LINES / 2], times[LINES * 99 / 100]))
}
