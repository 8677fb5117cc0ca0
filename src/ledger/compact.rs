//! Compaction: the entries of runs that have ended are summed up by command and time.
//!
//! It touches no file: old lines go in, new ones come out.

use std::collections::HashMap;
use std::io;

use crate::count::tally::Tally;
use crate::ledger::book::{Book, seconds};
use crate::ledger::entry::{Entry, EntryKind};

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// Ages in seconds up to which spend is summed up by the minute and by the hour; older spend by the
/// day.
// A window of a day is then exact to the minute, one of a week or a month to the hour.
const BY_MINUTE: f64 = 2.0 * 86_400.0;
const BY_HOUR: f64 = 40.0 * 86_400.0;

/// What a command spent in a span of time that ends at these Unix seconds.
struct Sum {
    end: u64,
    name: Option<String>,
    models: Tally<String>,
}

/// The lines of `old` with the entries of ended runs summed up. Lines that are no entries are left
/// out.
pub(crate) fn compact(old: &[u8], book: &Book, now: f64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut sums: Vec<Sum> = Vec::new();
    let mut spent: HashMap<String, Tally<String>> = HashMap::new();
    for line in old.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else { continue };
        if entry.run.as_deref().is_some_and(|run| book.is_open(run)) {
            kept.extend_from_slice(line);
            kept.push(b'\n');
            continue;
        }
        let (end, name) = (span_end(entry.at, now), entry.name.as_deref());
        // Spans near in time are near in the file.
        let at = sums.iter().rposition(|sum| sum.end == end && sum.name.as_deref() == name).unwrap_or_else(|| {
            sums.push(Sum { end, name: name.map(str::to_owned), models: Tally::default() });
            sums.len() - 1
        });
        for (model, spend) in entry.models.iter() {
            // An entry is cumulative: what it adds to the last one of its run belongs to its own span.
            let more = match &entry.run {
                Some(run) => spent.entry(run.to_string()).or_default().raise(model, *spend),
                None => *spend,
            };
            sums[at].models.add(model, more);
        }
    }
    let mut new = Vec::new();
    for Sum { end, name, models } in &sums {
        let entry = Entry::new(EntryKind::Sum, None, name.as_deref(), seconds(*end)).with(models);
        if !entry.models.is_empty() {
            new.extend(entry.line()?);
        }
    }
    new.extend(kept);
    Ok(new)
}

/// The end of the span in which a time is summed up, in Unix seconds.
// Spend is dated to the end, so that a window never forgets it too early: a budget errs on the safe side.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
fn span_end(at: f64, now: f64) -> u64 {
    let at = at.min(now);
    let age = now - at;
    let span = match age {
        ..BY_MINUTE => MINUTE,
        ..BY_HOUR => HOUR,
        _ => DAY,
    };
    (at as u64 / span + 1) * span
}
