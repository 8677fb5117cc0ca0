//! A ledger's history: the records of runs that have ended, summed up.
//!
//! Pure: old lines in, new lines out; [`crate::ledger`] reads and writes them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use crate::count::tokens::Spend;
use crate::ledger::book::{Book, Kind, Models, Record, VERSION};

/// Tokens by the model's name.
type ByModel = Vec<(String, Spend)>;

/// The records of `old` with those of ended runs summed up by command and time: by the minute for
/// two days, by the hour for forty, by the day before. What was spent is dated to the end of its
/// span, so that a window never forgets it early. Lines that are no records are left out.
pub(crate) fn summed_up(old: &[u8], book: &Book, now: f64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut sums: Vec<(u64, Option<String>, ByModel)> = Vec::new();
    let mut spent: HashMap<String, ByModel> = HashMap::new();
    for text in old.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
        let Ok(record) = serde_json::from_slice::<Record<'_>>(text) else { continue };
        if record.run.as_deref().is_some_and(|run| book.is_open(run)) {
            kept.extend_from_slice(text);
            kept.push(b'\n');
            continue;
        }
        let at = span_end(record.at, now);
        let name = record.name.as_deref();
        let place = match sums.iter().rposition(|(sum_at, sum_name, _)| *sum_at == at && sum_name.as_deref() == name) {
            Some(place) => place,
            None => {
                sums.push((at, name.map(str::to_owned), Vec::new()));
                sums.len() - 1
            }
        };
        for (model, tokens) in record.models.0 {
            let more = match &record.run {
                Some(run) => {
                    if !spent.contains_key(run.as_ref()) {
                        spent.insert(run.to_string(), Vec::new());
                    }
                    spent.get_mut(run.as_ref()).map_or(tokens, |before| raise(before, &model, tokens))
                }
                None => tokens,
            };
            add(&mut sums[place].2, &model, more);
        }
    }
    let mut new = Vec::new();
    for (at, name, models) in sums {
        let models = Models(models.iter().map(|(name, tokens)| (Cow::from(name.as_str()), *tokens)).collect());
        if !models.0.iter().all(|(_, tokens)| tokens.is_zero()) {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
            let record = Record {
                v: VERSION,
                at: at as f64,
                run: None,
                name: name.as_deref().map(Cow::from),
                kind: Kind::Sum,
                estimate: None,
                estimate_micro_usd: None,
                models,
            };
            serde_json::to_writer(&mut new, &record)?;
            new.push(b'\n');
        }
    }
    new.extend(kept);
    Ok(new)
}

/// The end of the span in which a time is summed up, in Unix seconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
fn span_end(at: f64, now: f64) -> u64 {
    let at = at.min(now);
    let age = now - at;
    let span = if age < 172_800.0 {
        60
    } else if age < 3_456_000.0 {
        3_600
    } else {
        86_400
    };
    (at as u64 / span + 1) * span
}

fn add(models: &mut Vec<(String, Spend)>, model: &str, more: Spend) {
    match models.iter_mut().find(|(name, _)| name == model) {
        Some((_, tokens)) => *tokens = tokens.plus(more),
        None => models.push((model.to_owned(), more)),
    }
}

/// Raises what a run has used of a model, and returns by how much.
fn raise(models: &mut Vec<(String, Spend)>, model: &str, to: Spend) -> Spend {
    match models.iter_mut().find(|(name, _)| name == model) {
        Some((_, tokens)) => {
            let more = to.less(*tokens);
            *tokens = tokens.max(to);
            more
        }
        None => {
            models.push((model.to_owned(), to));
            to
        }
    }
}
