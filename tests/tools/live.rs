//! Compares the live total at the end of each stream with the settled one, as a table.
//!
//! `cargo run --example live -- FILE...`

use std::error::Error;
use std::io::Write;

use budget_tee::run::Run;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "{:<28} {:>10} {:>10} {:>6}", "stream", "live", "settled", "ratio")?;
    for path in std::env::args_os().skip(1) {
        let bytes = std::fs::read(&path)?;
        let settled = run(&bytes, |_| true).counted();
        // The same stream without its result records, of which there may be several.
        let live = run(&bytes, |line| !is_result(line)).counted();
        if bytes.split(|b| *b == b'\n').any(is_result) && settled > 0 {
            let name = std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy();
            #[expect(clippy::cast_precision_loss, reason = "a ratio for reading")]
            let ratio = live as f64 / settled as f64;
            writeln!(out, "{name:<28} {live:>10} {settled:>10} {ratio:>6.3}")?;
        }
    }
    Ok(())
}

fn run(bytes: &[u8], keep: impl Fn(&[u8]) -> bool) -> Run {
    let mut run = Run::default();
    for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| keep(line)) {
        run.feed(line);
    }
    run.finish();
    run
}

fn is_result(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value["type"] == "result")
}
