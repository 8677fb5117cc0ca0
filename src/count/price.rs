//! Prices: what the tokens of a message cost, in micro-dollars.
//!
//! The table in the binary is `prices.json` beside this file: US dollars per million tokens, each
//! row with its source, some with the day from which it holds or the prompt above which it does.
//! `--prices` adds rows of the same form and replaces those of the same model. Prices are held as
//! nano-dollars a token, which three decimals a million come to exactly; a message is rounded up
//! to whole micro-dollars once.

use std::cell::OnceCell;
use std::fmt;

use serde_json::{Map, Value};

use crate::count::tokens::Spend;

/// The table that is built in.
const TABLE: &str = include_str!("prices.json");

/// A web search, in micro-dollars.
const WEB_SEARCH: u64 = 10_000;

/// What a model without a price costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unpriced {
    /// As much as the dearest model of the table.
    #[default]
    Dearest,
    /// It must not be used: block mode stops.
    Refuse,
    /// Nothing.
    Zero,
    /// As much as this one.
    As(String),
}

/// What a message used, as far as its price depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Tokens by class.
    pub tokens: Spend,
    /// How many of the tokens written to the cache are kept for an hour, not for five minutes.
    pub write_1h: u64,
    /// Web searches.
    pub searches: u64,
    /// The request was to be handled in the US.
    pub us: bool,
}

impl Bill {
    /// The higher figure of the two, in everything.
    #[must_use]
    pub fn max(self, other: Bill) -> Bill {
        Bill {
            tokens: self.tokens.max(other.tokens),
            write_1h: self.write_1h.max(other.write_1h),
            searches: self.searches.max(other.searches),
            us: self.us || other.us,
        }
    }
}

/// Nano-dollars a token by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    input: u64,
    output: u64,
    write_5m: u64,
    write_1h: u64,
    read: u64,
    /// Per mille of this for a request that is handled in the US.
    us: u64,
}

impl Rates {
    fn cost(&self, bill: &Bill) -> u64 {
        let hour = bill.write_1h.min(bill.tokens.cache_write);
        let parts = [
            (bill.tokens.input, self.input),
            (bill.tokens.output, self.output),
            (bill.tokens.cache_write - hour, self.write_5m),
            (hour, self.write_1h),
            (bill.tokens.cache_read, self.read),
        ];
        let nano: u128 = parts.iter().map(|(tokens, rate)| u128::from(*tokens) * u128::from(*rate)).sum();
        let mille = u128::from(if bill.us { self.us } else { 1000 });
        let micro = (nano.saturating_mul(mille)).div_ceil(1_000_000);
        let searches = bill.searches.saturating_mul(WEB_SEARCH);
        u64::try_from(micro).unwrap_or(u64::MAX).saturating_add(searches)
    }

    /// A measure of which rates are the dearest.
    fn weight(&self) -> u64 {
        self.input + self.output + self.write_5m + self.write_1h + self.read
    }
}

/// A row that holds today.
#[derive(Clone, Debug)]
struct Row {
    model: String,
    from: String,
    above: u64,
    rates: Rates,
}

/// The prices that hold; without any, nothing costs anything.
#[derive(Clone, Debug)]
pub struct Prices {
    /// The rows, read when the first price is asked for: many a run is over before.
    rows: OnceCell<Vec<Row>>,
    more: Vec<Row>,
    today: String,
    unpriced: Unpriced,
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

impl Default for Prices {
    fn default() -> Self {
        Prices {
            rows: OnceCell::from(Vec::new()),
            more: Vec::new(),
            today: String::new(),
            unpriced: Unpriced::default(),
        }
    }
}

impl Prices {
    /// The built-in prices as they hold on `today` (`YYYY-MM-DD`), with the rows of `more`, a table
    /// in JSON, in place of those of the same models.
    ///
    /// # Errors
    /// Where `more` is no such table; the error names row and field.
    pub fn new(more: Option<&str>, today: &str, unpriced: Unpriced) -> Result<Self, BadRow> {
        let more = more.map_or(Ok(Vec::new()), read_table)?;
        Ok(Prices { rows: OnceCell::new(), more, today: today.to_owned(), unpriced })
    }

    fn rows(&self) -> &[Row] {
        self.rows.get_or_init(|| {
            let mut rows = read_table(TABLE).unwrap_or_default();
            rows.retain(|row| self.more.iter().all(|new| new.model != row.model));
            rows.extend_from_slice(&self.more);
            // Of rows that are the same but for their day, the last that has begun holds.
            rows.retain(|row| row.from <= self.today);
            rows.sort_by(|a, b| a.from.cmp(&b.from));
            let mut held: Vec<Row> = Vec::new();
            for row in rows {
                held.retain(|old| (&old.model, old.above) != (&row.model, row.above));
                held.push(row);
            }
            held
        })
    }

    /// What a bill of `model` costs in micro-dollars; and whether the model has a price.
    #[must_use]
    pub fn cost(&self, model: &str, bill: &Bill) -> (u64, bool) {
        let prompt = bill.tokens.input.saturating_add(bill.tokens.cache_write).saturating_add(bill.tokens.cache_read);
        if let Some(rates) = self.rates(model, prompt) {
            return (rates.cost(bill), true);
        }
        if self.rows().is_empty() {
            return (0, true);
        }
        let instead = match &self.unpriced {
            Unpriced::Dearest | Unpriced::Refuse => self.rows().iter().map(|row| row.rates).max_by_key(Rates::weight),
            Unpriced::Zero => None,
            Unpriced::As(other) => self.rates(other, prompt),
        };
        (instead.map_or(0, |rates| rates.cost(bill)), false)
    }

    /// What happens with a model without a price.
    #[must_use]
    pub fn unpriced(&self) -> &Unpriced {
        &self.unpriced
    }

    /// Whether a model has a price.
    #[must_use]
    pub fn knows(&self, model: &str) -> bool {
        self.rates(model, 0).is_some()
    }

    fn rates(&self, model: &str, prompt: u64) -> Option<Rates> {
        let model = normal(model);
        let rows = self.rows().iter().filter(|row| row.model == model && (row.above == 0 || prompt > row.above));
        rows.max_by_key(|row| row.above).map(|row| row.rates)
    }
}

/// A model's name without the context size, the date, and what other clouds add to it.
fn normal(model: &str) -> &str {
    let model = model.split('[').next().unwrap_or(model);
    let model = model.rsplit_once("anthropic.").map_or(model, |(_, name)| name);
    let model = model.split('@').next().unwrap_or(model);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let version = |(_, tail): &(&str, &str)| tail.split(':').all(digits);
    let model = model.rsplit_once("-v").filter(version).map_or(model, |(name, _)| name);
    let date = |(_, tail): &(&str, &str)| tail.len() == 8 && digits(tail);
    model.rsplit_once('-').filter(date).map_or(model, |(name, _)| name)
}

fn read_table(text: &str) -> Result<Vec<Row>, BadRow> {
    let table = |field: &str, why| BadRow { row: 0, field: field.to_owned(), why };
    let value: Value = serde_json::from_str(text).map_err(|_| table("the table", "is no JSON"))?;
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
    text(&mut fields, "source")?;
    let day = |text: &str| {
        text.len() == 10
            && text.bytes().enumerate().all(|(at, b)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() })
    };
    if !from.is_empty() && !day(&from) {
        return Err(bad("from", "want a day such as 2026-10-07"));
    }
    let above = match fields.remove("above") {
        None => 0,
        Some(value) => value.as_u64().filter(|n| *n > 0).ok_or_else(|| bad("above", "want a number of tokens"))?,
    };
    let mut price = |field: &str, default: Option<u64>| match fields.remove(field) {
        None => default.ok_or_else(|| bad(field, "is missing")),
        Some(value) => thousandths(&value)
            .ok_or_else(|| bad(field, "want dollars a million tokens, 0 or more, at most three decimals")),
    };
    let rates = Rates {
        input: price("input", None)?,
        output: price("output", None)?,
        write_5m: price("cache_write_5m", None)?,
        write_1h: price("cache_write_1h", None)?,
        read: price("cache_read", None)?,
        us: price("us", Some(1000))?,
    };
    match fields.keys().next() {
        Some(field) => Err(bad(field, "unknown field")),
        None => Ok(Row { model: normal(&model).to_owned(), from, above, rates }),
    }
}

/// A number that is not negative, times a thousand, if that is a whole number below a billion.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
fn thousandths(value: &Value) -> Option<u64> {
    let number = value.as_f64()? * 1000.0;
    let whole = number.round();
    ((0.0..1e9).contains(&whole) && (number - whole).abs() < 1e-6).then_some(whole as u64)
}

/// The day of a time in Unix seconds, as `YYYY-MM-DD` in UTC.
#[must_use]
pub fn day(unix: u64) -> String {
    // Days are counted from the 1st of March of year 0, so that a leap day ends its year.
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

    fn prices(more: Option<&str>, today: &str) -> Result<Prices, String> {
        Prices::new(more, today, Unpriced::Dearest).map_err(|bad| bad.to_string())
    }

    fn bill(input: u64, output: u64, cache_write: u64, cache_read: u64) -> Bill {
        Bill { tokens: Spend { input, output, cache_write, cache_read, ..Spend::default() }, ..Bill::default() }
    }

    fn cost(model: &str, today: &str, bill: Bill) -> (u64, bool) {
        prices(None, today).map(|prices| prices.cost(model, &bill)).unwrap_or_default()
    }

    #[test]
    fn names_of_every_cloud_are_one_model() {
        for name in [
            "claude-opus-4-5",
            "claude-opus-4-5-20251101",
            "claude-opus-4-5[1m]",
            "claude-opus-4-5-20251101[1m]",
            "claude-opus-4-5@20251101",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
            "anthropic.claude-opus-4-5-v2",
        ] {
            assert_eq!(normal(name), "claude-opus-4-5", "{name}");
        }
        assert_eq!(normal("claude-3-5-haiku-20241022"), "claude-3-5-haiku");
        assert_eq!(normal("gpt-9"), "gpt-9");
    }

    #[test]
    fn each_class_has_its_price_and_the_sum_is_rounded_up_once() {
        let day = "2026-11-24";
        assert_eq!(cost("claude-haiku-4-5", day, bill(10, 0, 0, 0)), (10, true));
        assert_eq!(cost("claude-haiku-4-5", day, bill(18, 153, 0, 37_992)), (4_583, true));
        let hour = Bill { write_1h: 144, ..bill(18, 153, 144, 37_992) };
        assert_eq!(cost("claude-haiku-4-5-20251001", day, hour), (4_871, true));
        assert_eq!(cost("claude-haiku-5-5", day, bill(1, 1, 1, 1)), (1, true));
        assert_eq!(cost("claude-opus-4-6", day, Bill { us: true, ..bill(1000, 0, 0, 0) }), (5_500, true));
        assert_eq!(cost("claude-opus-4-5", day, Bill { us: true, searches: 2, ..bill(1000, 0, 0, 0) }), (25_000, true));
    }

    #[test]
    fn bands_and_days_choose_the_row() {
        assert_eq!(cost("claude-haiku-5-5", "2026-11-24", bill(100_000, 1000, 0, 0)), (10_500, true));
        assert_eq!(cost("claude-haiku-5-5", "2026-11-24", bill(100_000, 1000, 0, 1)), (52_501, true));
        assert_eq!(cost("claude-sonnet-5-5", "2026-10-06", bill(0, 0, 0, 1000)), (200, true));
        assert_eq!(cost("claude-sonnet-5-5", "2026-10-07", bill(0, 0, 0, 1000)), (100, true));
    }

    #[test]
    fn an_unknown_model_costs_what_was_chosen() {
        let with = |unpriced| Prices::new(None, "2026-11-24", unpriced).map(|p| p.cost("glm-5", &bill(10, 0, 0, 0)));
        assert_eq!(with(Unpriced::Dearest), Ok((150, false)));
        assert_eq!(with(Unpriced::Zero), Ok((0, false)));
        assert_eq!(with(Unpriced::As("claude-haiku-4-5".to_owned())), Ok((10, false)));
    }

    #[test]
    fn rows_of_ones_own_add_and_replace() {
        let row = |model: &str| {
            format!(
                r#"[{{"model":"{model}","input":7,"output":0,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0}}]"#
            )
        };
        for model in ["glm-5", "claude-haiku-5-5", "claude-opus-4-5-20251101"] {
            let prices = prices(Some(&row(model)), "2026-11-24");
            assert_eq!(prices.map(|p| p.cost(model, &bill(200_000, 5, 0, 0))), Ok((1_400_000, true)));
        }
    }

    #[test]
    fn bad_rows_are_refused_with_row_and_field() {
        let good = r#"{"model":"m","input":1,"output":1,"cache_write_5m":1,"cache_write_1h":1,"cache_read":1}"#;
        for (from, to, says) in [
            ("\"input\":1", "\"input\":-1", "row 2, field input"),
            ("\"output\":1", "\"output\":\"1\"", "row 2, field output"),
            ("\"output\":1", "\"output\":1e300", "row 2, field output"),
            ("\"cache_read\":1", "\"cache_read\":0.0001", "row 2, field cache_read"),
            ("\"cache_read\":1", "\"cache_reads\":1", "row 2, field cache_read: is missing"),
            ("\"model\":\"m\"", "\"model\":5", "row 2, field model"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"x\":1", "row 2, field x: unknown"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"from\":\"soon\"", "row 2, field from"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"above\":0", "row 2, field above"),
        ] {
            let table = format!("[{good},{}]", good.replace(from, to));
            let error = prices(Some(&table), "2026-11-24").err().unwrap_or_default();
            assert!(error.starts_with(says), "{error} for {to}");
        }
        for (table, says) in [
            ("", "the table: is no JSON"),
            ("[NaN]", "the table: is no JSON"),
            ("5", "the table: want"),
            ("{\"row\":[]}", "row: unknown field"),
            ("{}", "rows: want"),
            ("[5]", "row 1, field model"),
        ] {
            let error = prices(Some(table), "2026-11-24").err().unwrap_or_default();
            assert!(error.starts_with(says), "{error} for {table}");
        }
    }

    #[test]
    fn the_built_in_table_can_be_read() {
        assert!(read_table(TABLE).is_ok_and(|rows| rows.len() > 10));
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
