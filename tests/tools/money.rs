//! The cost of recorded streams: the live estimate, by the price table, and by the vendor's figures.
//!
//! `cargo run --example money -- FILE...`

use std::error::Error;
use std::io::Write;

use budget_tee::amount::dollars;
use budget_tee::budget::{Budgets, Mode};
use budget_tee::count::meter::Meter;
use budget_tee::count::price::{Prices, Unpriced};
use budget_tee::count::rates::day;
use budget_tee::count::tokens::Classes;
use budget_tee::run::Run;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "{:<28} {:>12} {:>12} {:>12}", "stream", "live", "table", "vendor")?;
    for path in std::env::args_os().skip(1) {
        let text = std::fs::read_to_string(&path)?;
        let is_result = |line: &&str| line.contains("\"total_cost_usd\"");
        if !text.lines().any(|line| is_result(&line)) {
            continue;
        }
        let live = cost(text.lines().filter(|line| !is_result(line)).map(str::to_owned));
        // Without the vendor's costs, the usage in modelUsage is priced by the table.
        let table = cost(text.lines().map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap_or(Value::Null);
            strip(&mut value);
            value.to_string()
        }));
        let vendor = cost(text.lines().map(str::to_owned));
        let name = std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy();
        writeln!(out, "{name:<28} {:>12.6} {:>12.6} {:>12.6}", dollars(live), dollars(table), dollars(vendor))?;
    }
    Ok(())
}

/// Removes the vendor's costs from a line.
fn strip(value: &mut Value) {
    if let Some(line) = value.as_object_mut() {
        line.remove("total_cost_usd");
        let models = line.get_mut("modelUsage").and_then(Value::as_object_mut);
        for model in models.into_iter().flat_map(serde_json::Map::values_mut).filter_map(Value::as_object_mut) {
            model.remove("costUSD");
        }
    }
}

/// The cost of a stream in micro-dollars.
fn cost(lines: impl Iterator<Item = String>) -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let prices = Prices::new(None, &day(since.as_secs()), Some(Unpriced::Zero)).unwrap_or_default();
    let mut run = Run::new(None, Mode::Warn, Classes::default(), Budgets::default(), Meter::new(prices, None));
    for line in lines {
        run.feed(line.as_bytes());
        run.feed(b"\n");
    }
    run.finish();
    run.meter.total().micro_usd
}
