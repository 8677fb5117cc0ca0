//! The rows of a price table: how they are read, checked and looked up.
//!
//! The built-in table is `prices.json` beside this file: US dollars per million tokens, each row with
//! its source and the day it was looked up, some with the day from which it holds, the prompt above
//! which it does, or factors.

use std::fmt;

use serde_json::{Map, Value};

use crate::count::names::normal;
use crate::count::tokens::Usage;

/// The table that is built in.
pub(crate) const BUILT_IN: &str = include_str!("prices.json");

/// The price of a web search, in micro-dollars.
const WEB_SEARCH: u64 = 10_000;

/// Nano-dollars a token by class: three decimals of a dollar a million tokens come to whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    input: u64,
    output: u64,
    write_5m: u64,
    write_1h: u64,
    read: u64,
    /// Per mille of the price for a request that had to be handled in the US. The vendor takes 1,100
    /// for Opus 4.6 and every model that came after it (its page on data residency).
    us: u64,
    /// Per mille of the price for a request in fast mode.
    fast: u64,
}

impl Rates {
    /// What a message costs in micro-dollars, rounded up once.
    pub(crate) fn cost(&self, usage: &Usage) -> u64 {
        let tokens = &usage.tokens;
        // The split may exceed the sum where records of one message disagree.
        let hour = usage.write_1h.min(tokens.cache_write);
        let parts = [
            (tokens.input, self.input),
            (tokens.output, self.output),
            (tokens.cache_write - hour, self.write_5m),
            (hour, self.write_1h),
            (tokens.cache_read, self.read),
        ];
        let nano: u128 = parts.iter().map(|(tokens, rate)| u128::from(*tokens) * u128::from(*rate)).sum();
        // The factors multiply each other, and hold for the cache classes too; searches have neither.
        let us = u128::from(if usage.us_only { self.us } else { 1000 });
        let fast = u128::from(if usage.fast { self.fast } else { 1000 });
        let micro = nano.saturating_mul(us).saturating_mul(fast).div_ceil(1_000_000_000);
        let searches = usage.web_searches.saturating_mul(WEB_SEARCH);
        u64::try_from(micro).unwrap_or(u64::MAX).saturating_add(searches)
    }

    /// By which rates are compared to find the highest.
    pub(crate) fn sum(&self) -> u64 {
        self.input + self.output + self.write_5m + self.write_1h + self.read
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) model: String,
    /// The day from which it holds, `YYYY-MM-DD`; empty where it always has.
    pub(crate) from: String,
    /// It holds for prompts of more tokens than this.
    pub(crate) above: u64,
    pub(crate) rates: Rates,
}

/// What is wrong with a row of a price table.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Which row, counted from 1; 0 is the table itself.
    row: usize,
    field: String,
    why: &'static str,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            0 => write!(f, "{}: {}", self.field, self.why),
            row => write!(f, "row {row}, field {}: {}", self.field, self.why),
        }
    }
}

/// Reads a table: a JSON list of rows, or an object with such a list in `rows`.
pub(crate) fn read_table(text: &str) -> Result<Vec<Row>, BadRow> {
    let table = |field: &str, why| BadRow { row: 0, field: field.to_owned(), why };
    let value: Value = serde_json::from_str(text).map_err(|_| table("the table", "is not JSON"))?;
    let rows = match value {
        Value::Array(rows) => rows,
        Value::Object(mut fields) => {
            fields.remove("date");
            let rows = fields.remove("rows");
            if let Some(field) = fields.keys().next() {
                return Err(table(field, "unknown field"));
            }
            match rows {
                Some(Value::Array(rows)) => rows,
                _ => return Err(table("rows", "want a list of rows")),
            }
        }
        _ => return Err(table("the table", "want a list of rows")),
    };
    rows.into_iter().enumerate().map(|(at, row)| read_row(at + 1, row)).collect()
}

fn read_row(row: usize, value: Value) -> Result<Row, BadRow> {
    let bad = |field: &str, why| BadRow { row, field: field.to_owned(), why };
    let Value::Object(mut fields) = value else { return Err(bad("model", "want an object with a model")) };
    let text = |fields: &mut Map<String, Value>, field: &str| match fields.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(bad(field, "want a text")),
    };
    let model = text(&mut fields, "model")?.ok_or_else(|| bad("model", "is missing"))?;
    let from = text(&mut fields, "from")?.unwrap_or_default();
    let date = text(&mut fields, "date")?.unwrap_or_default();
    text(&mut fields, "source")?;
    for (field, day) in [("from", &from), ("date", &date)] {
        if !day.is_empty() && !is_day(day) {
            return Err(bad(field, "want a day such as 2026-10-07"));
        }
    }
    let above = match fields.remove("above") {
        None => 0,
        Some(value) => value.as_u64().filter(|n| *n > 0).ok_or_else(|| bad("above", "want a number of tokens"))?,
    };
    let mut price = |field: &str| {
        let value = fields.remove(field).ok_or_else(|| bad(field, "is missing"))?;
        let why = "want dollars, at most 3 decimals";
        thousandths(&value).ok_or_else(|| bad(field, why))
    };
    let (input, output, read) = (price("input")?, price("output")?, price("cache_read")?);
    let (write_5m, write_1h) = (price("cache_write_5m")?, price("cache_write_1h")?);
    let mut factor = |field: &str| match fields.remove(field) {
        None => Ok(1000),
        Some(value) => thousandths(&value).ok_or_else(|| bad(field, "want a factor, at most 3 decimals")),
    };
    let rates = Rates { input, output, write_5m, write_1h, read, us: factor("us")?, fast: factor("fast")? };
    // A misspelt factor would stand at its default in silence.
    match fields.keys().next() {
        Some(field) => Err(bad(field, "unknown field")),
        None => Ok(Row { model: normal(&model).into_owned(), from, above, rates }),
    }
}

/// A number that is not negative, times a thousand, if that is a whole number below a billion.
fn thousandths(value: &Value) -> Option<u64> {
    let number = value.as_f64()? * 1000.0;
    // 1.005 times a thousand is not quite 1,005 in binary.
    let whole = number.round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
    ((0.0..1e9).contains(&whole) && (number - whole).abs() < 1e-6).then_some(whole as u64)
}

fn is_day(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(fits)
}

/// The day of a time in Unix seconds, as `YYYY-MM-DD` in UTC.
pub fn day(unix: u64) -> String {
    // Days counted from the 1st of March of the year 0, so that a leap day is the last of its year.
    let days = unix / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_row_can_be_read_and_has_its_source_and_date() {
        assert!(read_table(BUILT_IN).is_ok_and(|rows| rows.len() == 24));
        let table: Value = serde_json::from_str(BUILT_IN).unwrap_or_default();
        for row in table["rows"].as_array().into_iter().flatten() {
            let says = |field: &str| row[field].as_str().unwrap_or_default();
            assert!(!says("source").is_empty() && is_day(says("date")), "{row}");
            assert_eq!(normal(says("model")), says("model"), "a row has the name by which it is looked up");
        }
    }

    #[test]
    fn days() {
        for (unix, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_532_673, "2026-11-24"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(day(unix), text);
        }
    }
}
