//! Compaction: the entries of runs that have ended are summed up by command and time.
//!
//! It touches no file: old lines go in one by one, lines to keep and then sums come out.

use std::collections::HashMap;
use std::io;

use crate::count::tally::Tally;
use crate::ledger::book::Book;
use crate::ledger::entry::{Entry, EntryKind};
use crate::ledger::index::Index;
use crate::ledger::runs::Runs;
use crate::ledger::spans::{seconds, whole};

const MINUTE: u64 = 60;
const QUARTER: u64 = 15 * 60;
const DAY: u64 = 86_400;

/// Ages in seconds up to which spend is summed up by the minute and by the quarter of an hour; older
/// spend by the day.
// A window of a day is then exact to the minute, one of a week or a month to the quarter; and exact by the
// calendar, since midnight is at a quarter of an hour in all time zones.
const BY_MINUTE: f64 = 2.0 * 86_400.0;
const BY_QUARTER: f64 = 40.0 * 86_400.0;

/// The entries of ended runs, summed up.
// By numbers and not by names, and without the runs: a million records took 628 MB.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    commands: Index,
    models: Index,
    runs: Runs,
    /// What was spent by a command on each model in a span of time with this end.
    sums: HashMap<(u64, usize), Tally<usize>>,
}

impl Compaction {
    /// Takes in a line of a ledger that adds up to `book`. Returns whether the line is to be kept as it is.
    /// Lines that are no entries are left out, and limits and marks, which the book has.
    pub(crate) fn take(&mut self, line: &[u8], book: &Book, now: f64) -> bool {
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else { return false };
        let is_more = matches!(entry.kind, EntryKind::Grant | EntryKind::Other);
        if is_more || entry.run.as_deref().is_some_and(|run| book.is_open(run)) {
            return true;
        }
        let command = self.commands.add(entry.name.as_deref().unwrap_or_default());
        let sum = self.sums.entry((span_end(entry.spent_at(now), now), command)).or_default();
        for (model, spend) in entry.models.iter() {
            // An entry is cumulative: what it adds to the last one of its run belongs to its own span.
            let more = match &entry.run {
                Some(run) => self.runs.with(run, |run| run.spent.raise(model, *spend)),
                None => *spend,
            };
            sum.add(&self.models.add(model), more);
        }
        if let Some(run) = entry.run.filter(|_| entry.kind == EntryKind::End) {
            self.runs.end(&run);
        }
        false
    }

    /// Passes on the sums as lines, the oldest first.
    pub(crate) fn finish(self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut sums: Vec<_> = self.sums.into_iter().collect();
        sums.sort_unstable_by_key(|(span, _)| *span);
        for ((end, command), models) in sums {
            let name = Some(self.commands.name(command)).filter(|name| !name.is_empty());
            let models = models.iter().map(|(model, spend)| (self.models.name(*model).to_owned(), *spend)).collect();
            let entry = Entry::new(EntryKind::Sum, None, name, seconds(end)).with(&models);
            if !entry.models.is_empty() {
                write(&entry.line()?)?;
            }
        }
        Ok(())
    }
}

/// The end of the span in which a time is summed up, in Unix seconds.
// Spend is dated to the end, so that a window never forgets it too early: a budget errs on the safe side.
fn span_end(at: f64, now: f64) -> u64 {
    let span = match now - at {
        ..BY_MINUTE => MINUTE,
        ..BY_QUARTER => QUARTER,
        _ => DAY,
    };
    (whole(at) / span + 1) * span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compacted(lines: &[String], now: f64) -> Vec<String> {
        let (mut book, mut compaction, mut out) = (Book::new(None), Compaction::default(), Vec::new());
        lines.iter().for_each(|line| book.take(line.as_bytes(), now));
        out.extend(lines.iter().filter(|line| compaction.take(line.as_bytes(), &book, now)).cloned());
        let finished = compaction.finish(|line| {
            out.push(String::from_utf8_lossy(line).trim_end().to_owned());
            Ok(())
        });
        assert!(finished.is_ok());
        out
    }

    fn entry(kind: &str, run: &str, at: u64, input: u64) -> String {
        format!(r#"{{"v":1,"at":{at},"run":"{run}","name":"/a","kind":"{kind}","models":{{"m":{{"input":{input}}}}}}}"#)
    }

    #[test]
    fn what_is_summed_up_again_stays_in_its_time() {
        // 2026-11-24 23:59:30 and 2026-11-25 00:00:00 UTC; then a minute, a quarter and a day of sums.
        let lines = [(1_795_564_770, 1), (1_795_564_800, 2), (1_795_564_859, 4)];
        let lines: Vec<_> = lines.iter().map(|(at, input)| entry("end", &at.to_string(), *at, *input)).collect();
        for (age, ends) in [(3_600, 2), (10 * DAY, 2), (50 * DAY, 2)] {
            let now = seconds(1_795_564_800 + age);
            let once = compacted(&lines, now);
            assert_eq!(once.len(), ends, "{once:?}");
            assert!(once[0].contains("\"at\":1795564800.0"), "{once:?}");
            assert_eq!(compacted(&once, now), once);
        }
    }

    #[test]
    fn entries_of_runs_that_go_on_are_kept_and_a_repeated_end_adds_nothing() {
        let [first, end] = [entry("spend", "x", 60, 5), entry("end", "x", 70, 7)];
        let open = entry("spend", "y", 65, 3);
        let lines = [first, open.clone(), end.clone(), "no entry".to_owned(), end];
        let sums = compacted(&lines, 100.0);
        assert_eq!(sums[0], open);
        assert_eq!(sums.len(), 2);
        assert!(sums[1].contains("\"input\":7"), "{sums:?}");
    }
}
