//! The scanner must agree with a naive walk on every valid line, and with itself on any bytes,
//! however they are split into reads. The run must take in all of them and never count down.
#![no_main]

#[path = "../../oracle/mod.rs"]
mod oracle;

use budget_tee::run::Run;
use budget_tee::scan::Scanner;
use libfuzzer_sys::fuzz_target;
use oracle::{Facts, Tape, object, scanned, walked};
use serde_json::Value;

fn facts(bytes: &[u8], split: usize) -> Vec<Option<Facts>> {
    let mut scanner = Scanner::default();
    let mut all = Vec::new();
    for mut part in bytes.chunks(split) {
        while let Some(found) = scanner.next_line(&mut part) {
            all.push(found.line.map(scanned));
        }
    }
    all.extend(scanner.last_line().map(|found| found.line.map(scanned)));
    all
}

fn check(bytes: &[u8], split: usize) {
    let whole = facts(bytes, bytes.len().max(1));
    assert_eq!(whole, facts(bytes, split));
    let lines = bytes.split(|byte| *byte == b'\n');
    for (line, found) in lines.zip(&whole) {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        // The oracle reads fractions and exponents as floats, which is not exact.
        let inexact = line.windows(2).any(|w| w[0].is_ascii_digit() && matches!(w[1], b'.' | b'e' | b'E'));
        if let (false, Ok(value @ Value::Object(_))) = (inexact, serde_json::from_slice::<Value>(line)) {
            assert_eq!(found.as_ref(), Some(&walked(&value)));
        }
    }
    let mut run = Run::default();
    let mut before = run.meter.total();
    for part in bytes.chunks(split) {
        assert_eq!(run.feed(part).taken, part.len());
        assert_eq!(before.less(run.meter.total()), Default::default());
        before = run.meter.total();
    }
    run.finish();
}

fuzz_target!(|data: &[u8]| {
    let Some((&split, bytes)) = data.split_first() else { return };
    let split = usize::from(split % 37) + 1;
    check(bytes, split);
    // The same bytes as choices of the generator: valid lines that go deeper than chance does.
    check(object(&mut Tape(bytes), 0).as_bytes(), split);
});
