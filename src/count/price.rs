//! Prices: what the usage of a model costs, in micro-dollars.
//!
//! `--prices` adds rows to the built-in table and replaces those of the same model; [`rates`] reads
//! both. A message is rounded up to whole micro-dollars once.
//!
//! [`rates`]: crate::count::rates

use std::borrow::Cow;
use std::cell::OnceCell;
use std::str::FromStr;

use crate::count::names::{newest, normal};
use crate::count::rates::{BUILT_IN, BadRow, Rates, Row, read_table};
use crate::count::tokens::Usage;

/// What a model without a price costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unpriced {
    /// As much as the most expensive model of the table.
    #[default]
    Highest,
    /// It must not be used: block mode stops.
    Refuse,
    /// Nothing.
    Zero,
    /// As much as this model.
    As(String),
}

impl FromStr for Unpriced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "highest" => Ok(Unpriced::Highest),
            "refuse" => Ok(Unpriced::Refuse),
            "zero" => Ok(Unpriced::Zero),
            "" => Err("want highest, refuse, zero, or the name of a model".to_owned()),
            model => Ok(Unpriced::As(model.to_owned())),
        }
    }
}

/// The prices that hold on one day; without any rows, nothing costs anything.
#[derive(Clone, Debug)]
pub struct Prices {
    /// The rows that hold. The built-in ones are read when the first price is asked for: many a run
    /// never asks, and reading them takes longer than all else at the start.
    rows: OnceCell<Vec<Row>>,
    own_rows: Vec<Row>,
    today: String,
    unpriced: Unpriced,
}

impl Default for Prices {
    fn default() -> Self {
        let (own_rows, today, unpriced) = (Vec::new(), String::new(), Unpriced::default());
        Prices { rows: OnceCell::from(Vec::new()), own_rows, today, unpriced }
    }
}

impl Prices {
    /// The built-in prices as they hold on `today` (`YYYY-MM-DD`), with `own`, a table in JSON, in
    /// place of the rows of the same models.
    pub fn new(own: Option<&str>, today: &str, unpriced: Unpriced) -> Result<Self, BadRow> {
        let own_rows = own.map_or(Ok(Vec::new()), read_table)?;
        Ok(Prices { rows: OnceCell::new(), own_rows, today: today.to_owned(), unpriced })
    }

    fn rows(&self) -> &[Row] {
        self.rows.get_or_init(|| {
            let mut rows = read_table(BUILT_IN).unwrap_or_default();
            rows.retain(|row| self.own_rows.iter().all(|own| own.model != row.model));
            rows.extend_from_slice(&self.own_rows);
            // Of rows that differ in their day alone, the last one that has begun holds.
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

    /// What a model's usage costs in micro-dollars, and whether the model has a price.
    pub(crate) fn cost(&self, model: &str, usage: &Usage) -> (u64, bool) {
        let prompt = usage.tokens.prompt();
        if let Some(rates) = self.rates(model, prompt) {
            return (rates.cost(usage), true);
        }
        if self.rows().is_empty() {
            return (0, true);
        }
        let instead = match &self.unpriced {
            Unpriced::Highest | Unpriced::Refuse => self.rows().iter().map(|row| row.rates).max_by_key(Rates::sum),
            Unpriced::Zero => None,
            Unpriced::As(other) => self.rates(other, prompt),
        };
        (instead.map_or(0, |rates| rates.cost(usage)), false)
    }

    /// What `--unpriced` says about models without a price.
    pub(crate) fn unpriced(&self) -> &Unpriced {
        &self.unpriced
    }

    /// Whether a model has a price.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.rates(model, 0).is_some()
    }

    fn rates(&self, model: &str, prompt: u64) -> Option<Rates> {
        let model = self.listed(model);
        let rows = self.rows().iter().filter(|row| row.model == model && (row.above == 0 || prompt > row.above));
        rows.max_by_key(|row| row.above).map(|row| row.rates)
    }

    /// The name under which the table would have a model. A row that names a family, such as `opus`,
    /// is taken before the family's newest model.
    fn listed<'a>(&'a self, model: &'a str) -> Cow<'a, str> {
        let name = normal(model);
        // Also the rows of `--prices` may have any name, so that the exact one goes first.
        let is_listed = self.rows().iter().any(|row| row.model == name);
        let instead = if is_listed { None } else { newest(&name, self.rows().iter().map(|row| row.model.as_str())) };
        instead.map_or(name.clone(), Cow::Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::tokens::Tokens;

    fn prices(more: Option<&str>, today: &str) -> Result<Prices, String> {
        Prices::new(more, today, Unpriced::Highest).map_err(|bad| bad.to_string())
    }

    fn usage(input: u64, output: u64, cache_write: u64, cache_read: u64) -> Usage {
        Usage { tokens: Tokens { input, output, cache_write, cache_read }, ..Usage::default() }
    }

    fn cost(model: &str, today: &str, usage: Usage) -> (u64, bool) {
        prices(None, today).map(|prices| prices.cost(model, &usage)).unwrap_or_default()
    }

    #[test]
    fn each_class_has_its_price_and_the_sum_is_rounded_up_once() {
        let day = "2026-11-24";
        assert_eq!(cost("claude-haiku-4-5", day, usage(10, 0, 0, 0)), (10, true));
        assert_eq!(cost("claude-haiku-4-5", day, usage(18, 153, 0, 37_992)), (4_583, true));
        let hour = Usage { write_1h: 144, ..usage(18, 153, 144, 37_992) };
        assert_eq!(cost("claude-haiku-4-5-20251001", day, hour), (4_871, true));
        assert_eq!(cost("claude-haiku-5-5", day, usage(1, 1, 1, 1)), (1, true));
        assert_eq!(cost("claude-opus-4-6", day, Usage { us_only: true, ..usage(1000, 0, 0, 0) }), (5_500, true));
        assert_eq!(
            cost("claude-opus-4-5", day, Usage { us_only: true, web_searches: 2, ..usage(1000, 0, 0, 0) }),
            (25_000, true)
        );
    }

    #[test]
    fn bands_and_days_choose_the_row() {
        assert_eq!(cost("claude-haiku-5-5", "2026-11-24", usage(100_000, 1000, 0, 0)), (10_500, true));
        assert_eq!(cost("claude-haiku-5-5", "2026-11-24", usage(100_000, 1000, 0, 1)), (52_501, true));
        assert_eq!(cost("claude-sonnet-5-5", "2026-10-06", usage(0, 0, 0, 1000)), (200, true));
        assert_eq!(cost("claude-sonnet-5-5", "2026-10-07", usage(0, 0, 0, 1000)), (100, true));
    }

    #[test]
    fn an_unknown_model_costs_what_was_chosen() {
        let with = |unpriced| Prices::new(None, "2026-11-24", unpriced).map(|p| p.cost("glm-5", &usage(10, 0, 0, 0)));
        assert_eq!(with(Unpriced::Highest), Ok((150, false)));
        assert_eq!(with(Unpriced::Zero), Ok((0, false)));
        assert_eq!(with(Unpriced::As("claude-haiku-4-5".to_owned())), Ok((10, false)));
    }

    #[test]
    fn rows_of_ones_own_add_to_the_table_or_replace_its_rows() {
        let row = |model: &str| {
            format!(
                r#"[{{"model":"{model}","input":7,"output":0,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0}}]"#
            )
        };
        for model in ["glm-5", "claude-haiku-5-5", "claude-opus-4-5-20251101"] {
            let prices = prices(Some(&row(model)), "2026-11-24");
            assert_eq!(prices.map(|p| p.cost(model, &usage(200_000, 5, 0, 0))), Ok((1_400_000, true)));
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
            ("", "the table: is not JSON"),
            ("[NaN]", "the table: is not JSON"),
            ("5", "the table: want"),
            ("{\"row\":[]}", "row: unknown field"),
            ("{}", "rows: want"),
            ("[5]", "row 1, field model"),
        ] {
            let error = prices(Some(table), "2026-11-24").err().unwrap_or_default();
            assert!(error.starts_with(says), "{error} for {table}");
        }
    }
}
