//! Compaction: the entries of runs that have ended are summed up by command and time.
//!
//! It touches no file: old lines go in one by one, lines to keep and then sums come out.

use std::collections::BTreeMap;
use std::io;

use crate::count::tally::Tally;
use crate::count::tokens::{Change, Counts, Spend};
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

/// Spend on models, by number.
type Models = Vec<(usize, Spend)>;

/// The entries of ended runs, summed up.
// By numbers and not by names, and without the runs: a million records took 628 MB.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    commands: Index,
    models: Index,
    runs: Runs,
    /// What was spent by a command on each model in a span of time with this end.
    sums: BTreeMap<(usize, u64), Tally<usize>>,
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
        let end = span_end(entry.spent_at(now), now);
        let spent = entry.models_by(|name| self.models.add(name));
        let Some(run) = &entry.run else {
            spent.iter().for_each(|(model, spend)| self.add(command, end, *model, *spend));
            return false;
        };
        // An entry is cumulative: what it adds to the last one of its run belongs to its own span.
        let (mut rises, mut falls) = (Models::new(), Models::new());
        let news = self.runs.enter(run, &entry, command, spent, |model, Change { more, less }| {
            rises.extend(Some((*model, more)).filter(|(_, more)| !more.is_zero()));
            falls.extend(Some((*model, less)).filter(|(_, less)| !less.is_zero()));
        });
        if !falls.is_empty() {
            self.take_off(news.command, news.change.less, &mut rises, falls);
        }
        rises.into_iter().for_each(|(model, more)| self.add(news.command, end, model, more));
        false
    }

    fn add(&mut self, command: usize, end: u64, model: usize, spend: Spend) {
        self.sums.entry((command, end)).or_default().add(&model, spend);
    }

    /// Takes `falls` of models off the latest spans of a command. Of them `less` was not spent at all; the rest has
    /// moved to the models of `rises`, and stays in its span.
    // The former first: what a book takes off the spans, which have no models, comes off the latest, too.
    fn take_off(&mut self, command: usize, mut less: Spend, rises: &mut Models, mut falls: Models) {
        for (_, sum) in self.sums.range_mut((command, 0)..=(command, u64::MAX)).rev() {
            for (model, fall) in &mut falls {
                let part = sum.get(model).min(*fall);
                sum.subtract(*model, part);
                *fall = fall.minus(part);
                let gone = part.min(less);
                less = less.minus(gone);
                let mut moved = part.minus(gone);
                for (model, rise) in &mut *rises {
                    let part = moved.min(*rise);
                    sum.add(model, part);
                    *rise = rise.minus(part);
                    moved = moved.minus(part);
                }
            }
            if falls.iter().all(|(_, fall)| fall.is_zero()) {
                break;
            }
        }
    }

    /// Passes on the sums as lines, the oldest first.
    pub(crate) fn finish(self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut sums: Vec<_> = self.sums.into_iter().collect();
        sums.sort_unstable_by_key(|((command, end), _)| (*end, *command));
        for ((command, end), models) in sums {
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
    use crate::ledger::window::Window;
    use proptest::prelude::*;

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

    #[test]
    fn what_moves_to_another_model_stays_in_its_time_and_what_is_lowered_goes_from_the_end() {
        let entry = |at: u64, models: &str| {
            let models = models.replace(':', ":{\"input\":").replace(',', "},");
            format!(r#"{{"v":1,"at":{at},"run":"x","name":"/a","kind":"spend","models":{{{models}}}}}}}"#)
        };
        let end = r#"{"v":1,"at":400,"run":"x","name":"/a","kind":"end"}"#.to_owned();
        let first = [entry(10, r#""m":10"#), entry(70, r#""m":30"#)];
        for (last, want) in [
            (r#""n":30"#, &[(60, "n", 10), (120, "n", 20)][..]),
            (r#""n":25"#, &[(60, "n", 10), (120, "n", 15)]),
            (r#""n":40"#, &[(60, "n", 10), (120, "n", 20), (360, "n", 10)]),
            (r#""m":5"#, &[(60, "m", 5)]),
            (r#""m":10,"n":15"#, &[(60, "m", 10), (120, "n", 15)]),
        ] {
            let sums = compacted(&[&first[..], &[entry(310, last), end.clone()]].concat(), 500.0);
            let sums: Vec<serde_json::Value> = sums.iter().flat_map(|sum| serde_json::from_str(sum)).collect();
            let found = |(at, model, input): &(u64, &str, u64), sum: &serde_json::Value| {
                let models = sum["models"].as_object().map_or(0, serde_json::Map::len);
                (sum["at"].as_f64(), models, &sum["models"][model]["input"])
                    == (Some(seconds(*at)), 1, &(*input).into())
            };
            assert!(sums.len() == want.len() && want.iter().zip(&sums).all(|(want, sum)| found(want, sum)), "{sums:?}");
        }
    }

    /// What entries of runs say: the number of the run, the time, the kind, and the figures of two models.
    fn histories() -> impl Strategy<Value = Vec<(usize, u64, usize, [u64; 2])>> {
        let figure = || 0..4u64;
        let entry = (0..5usize, 0..1200u64, 0..6usize, [figure(), figure()]);
        prop::collection::vec(entry, 1..40)
    }

    /// An entry of a run of one of two commands.
    fn line(run: usize, at: u64, kind: &str, [a, b]: [u64; 2]) -> String {
        let figures = |input: u64, usd: u64| format!("{{\"input\":{input},\"output\":1,\"micro_usd\":{usd}}}");
        // A model of which nothing was spent is left out by some writers, and not by others.
        let models = match (kind, a, b) {
            ("start", ..) => String::new(),
            (_, 0, b) => format!(",\"models\":{{\"n\":{}}}", figures(b, 3)),
            (_, a, 0) => format!(",\"models\":{{\"m\":{},\"n\":{{}}}}", figures(a, 2)),
            (_, a, b) => format!(",\"models\":{{\"n\":{},\"m\":{}}}", figures(b, a), figures(a, b)),
        };
        let name = run % 2;
        format!("{{\"v\":1,\"at\":{at},\"run\":\"{run}\",\"name\":\"/{name}\",\"kind\":\"{kind}\"{models}}}")
    }

    /// What a book has: by model; by command and in all, ever and in a window; and for the pace.
    fn sums(lines: &[String], now: f64) -> (BTreeMap<String, Spend>, Vec<Spend>) {
        let (mut book, mut windowed) = (Book::new(None), Book::new(Some(Window::Last(10_000.0))));
        for line in lines {
            book.take(line.as_bytes(), now);
            windowed.take(line.as_bytes(), now);
        }
        let books = [&book, &windowed];
        let all = books.iter().flat_map(|book| [Some("/0"), Some("/1"), None].map(|name| book.used(name, now)));
        (book.by_model().iter().cloned().collect(), all.chain([book.pace(None, now).0]).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_last_entry_of_each_run_is_what_it_has_spent(mut history in histories()) {
            history.sort_by_key(|(_, at, ..)| *at);
            let (mut lines, mut last) = (Vec::new(), BTreeMap::new());
            for (run, at, kind, figures) in history {
                let kind = ["start", "spend", "spend", "spend", "spend", "end"][kind];
                lines.push(line(run, at, kind, figures));
                if kind != "start" {
                    last.insert(run, line(run, at, "spend", figures));
                }
                // What is written twice changes nothing, nor does an end that another run writes.
                if at % 3 == 0 {
                    lines.push(lines[lines.len() - 1].clone());
                } else if at % 3 == 1 {
                    lines.push(format!("{{\"v\":1,\"at\":{at},\"run\":\"{run}\",\"name\":\"/{}\",\"kind\":\"end\"}}", run % 2));
                }
            }
            let now = 2000.0;
            let (mut by_model, mut used) = (BTreeMap::<String, Spend>::new(), [Spend::default(); 3]);
            for (run, line) in &last {
                let models = serde_json::from_str(line).map(|entry: Entry<'_>| entry.models).unwrap_or_default();
                for (model, spend) in models.iter().filter(|(_, spend)| !spend.is_zero()) {
                    let sum = by_model.entry(model.clone()).or_default();
                    *sum = sum.plus(*spend);
                    for command in [run % 2, 2] {
                        used[command] = used[command].plus(*spend);
                    }
                }
            }
            let want = (by_model, [&used[..], &used, &used[2..]].concat());
            prop_assert_eq!(sums(&lines, now), want.clone());
            prop_assert_eq!(sums(&compacted(&lines, now), now), want);
        }
    }
}
