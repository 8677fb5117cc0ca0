//! Prices: what the usage of a model costs, in micro-dollars.
//!
//! The order of precedence: the user's `--prices` row or `--unpriced` for the model, then the cost that
//! the stream reports, then the built-in table, then the stand-in for models without a price. A
//! message is rounded up to whole micro-dollars once.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::str::FromStr;

use crate::count::names::{newest, normal};
use crate::count::rates::{BUILT_IN, BadRow, Rates, Row, read_table};
use crate::count::tokens::Usage;

/// What Claude Code itself prices a model as that it does not know (19 of 19 measured, 2.1.331).
pub(crate) const ASSUMED: &str = "claude-opus-5";

/// What a model without a price costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// As much as the most expensive model of the table.
    Highest,
    /// It must not be used: block mode stops.
    Refuse,
    /// Nothing.
    Zero,
    /// As much as this model.
    As(String),
}

impl Default for Unpriced {
    fn default() -> Self {
        Unpriced::As(ASSUMED.to_owned())
    }
}

impl FromStr for Unpriced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "highest" => Ok(Unpriced::Highest),
            "refuse" => Ok(Unpriced::Refuse),
            "zero" => Ok(Unpriced::Zero),
            "" => Err("want the name of a model, highest, zero or refuse".to_owned()),
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
    /// `unpriced` was asked for, and is not the default.
    is_unpriced_chosen: bool,
}

/// What one model costs.
#[derive(Clone, Debug)]
pub(crate) struct ModelPrice {
    /// Rates, by the prompt above which they hold.
    bands: Vec<(u64, Rates)>,
    /// It is the model's own price, not that of a stand-in.
    pub(crate) is_known: bool,
    /// The user said so, whatever the vendor says.
    pub(crate) is_users: bool,
}

impl ModelPrice {
    /// What usage costs, in micro-dollars. `prompt` is the size of the request's prompt in tokens, which
    /// chooses the band of the price; 0 for the usage of several requests, whose sum says nothing about
    /// the size of any of them.
    pub(crate) fn cost(&self, usage: &Usage, prompt: u64) -> u64 {
        let bands = self.bands.iter().filter(|(above, _)| prompt > *above);
        let band = bands.max_by_key(|(above, _)| *above);
        // A model that has a band for large prompts alone costs the same below it.
        let band = band.or_else(|| self.bands.iter().min_by_key(|(above, _)| *above));
        band.map_or(0, |(_, rates)| rates.cost(usage))
    }
}

impl Default for Prices {
    fn default() -> Self {
        Prices {
            rows: OnceCell::from(Vec::new()),
            own_rows: Vec::new(),
            today: String::new(),
            unpriced: Unpriced::default(),
            is_unpriced_chosen: false,
        }
    }
}

impl Prices {
    /// The built-in prices as they hold on `today` (`YYYY-MM-DD`), with `own`, a table in JSON, in
    /// place of the rows of the same models. `unpriced` is what the user said of models without a
    /// price, if anything.
    pub fn new(own: Option<&str>, today: &str, unpriced: Option<Unpriced>) -> Result<Self, BadRow> {
        let own_rows = own.map_or(Ok(Vec::new()), read_table)?;
        let is_unpriced_chosen = unpriced.is_some();
        let (rows, unpriced) = (OnceCell::new(), unpriced.unwrap_or_default());
        Ok(Prices { rows, own_rows, today: today.to_owned(), unpriced, is_unpriced_chosen })
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

    /// The price of a model, or of what stands in for it.
    pub(crate) fn of(&self, model: &str) -> ModelPrice {
        let bands = self.bands(model);
        // Without a table, as in `Prices::default()`, everything is free and nothing lacks a price.
        let is_known = !bands.is_empty() || self.rows().is_empty();
        let bands = match &self.unpriced {
            _ if is_known => bands,
            Unpriced::Highest | Unpriced::Refuse => self.highest().map(|row| (0, row.rates)).into_iter().collect(),
            Unpriced::Zero => Vec::new(),
            Unpriced::As(other) => self.bands(other),
        };
        ModelPrice { bands, is_known, is_users: self.overrides(model) }
    }

    /// What `--unpriced` says about models without a price.
    pub(crate) fn unpriced(&self) -> &Unpriced {
        &self.unpriced
    }

    /// The model whose prices are taken for models that have none; `None` where they cost nothing.
    pub(crate) fn stand_in(&self) -> Option<&str> {
        match &self.unpriced {
            // In warn mode a refused model is used all the same; its real price is hardly higher.
            Unpriced::Highest | Unpriced::Refuse => self.highest().map(|row| row.model.as_str()),
            Unpriced::Zero => None,
            Unpriced::As(other) => Some(other),
        }
    }

    /// Whether a model has a price.
    pub(crate) fn knows(&self, model: &str) -> bool {
        !self.bands(model).is_empty()
    }

    /// Whether the user said what this model costs, so that the vendor's own figure does not count:
    /// by a row of `--prices`, or by `--unpriced` where the table does not have the model. The
    /// default of `--unpriced` is nothing that a user said.
    pub(crate) fn overrides(&self, model: &str) -> bool {
        let listed = self.listed(model);
        // A row that has not begun says nothing of today.
        let is_own = self.own_rows.iter().any(|row| row.model == listed && row.from <= self.today);
        is_own || self.is_unpriced_chosen && !self.knows(model)
    }

    /// The row that costs most. Of a model with bands it is that of the largest prompts.
    fn highest(&self) -> Option<&Row> {
        self.rows().iter().max_by_key(|row| row.rates.sum())
    }

    /// The rates of a model by the prompt above which they hold; none where it has no price.
    fn bands(&self, model: &str) -> Vec<(u64, Rates)> {
        let model = self.listed(model);
        let rows = self.rows().iter().filter(|row| row.model == model);
        rows.map(|row| (row.above, row.rates)).collect()
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
        Prices::new(more, today, None).map_err(|bad| bad.to_string())
    }

    fn usage(input: u64, output: u64, cache_write: u64, cache_read: u64) -> Usage {
        Usage { tokens: Tokens { input, output, cache_write, cache_read }, ..Usage::default() }
    }

    fn cost_of(prices: &Prices, model: &str, usage: &Usage, prompt: u64) -> (u64, bool) {
        let price = prices.of(model);
        (price.cost(usage, prompt), price.is_known)
    }

    fn cost(model: &str, today: &str, usage: Usage) -> (u64, bool) {
        let prices = prices(None, today);
        prices.map(|prices| cost_of(&prices, model, &usage, usage.tokens.prompt())).unwrap_or_default()
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
    fn a_sum_of_requests_has_no_band() {
        let prices = prices(None, "2026-11-24");
        let sum = prices.map(|prices| cost_of(&prices, "claude-haiku-5-5", &usage(1_000_000, 0, 0, 0), 0));
        assert_eq!(sum, Ok((100_000, true)));
    }

    #[test]
    fn fast_mode_and_the_us_multiply_all_classes_but_no_searches() {
        let day = "2026-11-24";
        let one_of_each = usage(1000, 1000, 1000, 1000);
        for (model, standard, fast) in [
            ("claude-opus-4-5", 36_750, 36_750),
            ("claude-opus-4-6", 36_750, 220_500),
            ("claude-opus-4-7[1m]", 36_750, 220_500),
            ("claude-opus-4-8", 36_750, 73_500),
            ("claude-opus-5", 36_750, 73_500),
            ("claude-haiku-4-5", 7_350, 7_350),
        ] {
            assert_eq!(cost(model, day, one_of_each), (standard, true), "{model}");
            assert_eq!(cost(model, day, Usage { fast: true, ..one_of_each }), (fast, true), "{model}");
        }
        let all = Usage { fast: true, us_only: true, web_searches: 3, ..one_of_each };
        assert_eq!(cost("claude-opus-4-6", day, all), (242_550 + 30_000, true));
        assert_eq!(cost("claude-opus-5", day, Usage { fast: true, ..usage(u64::MAX, 0, 0, 0) }), (u64::MAX, true));
    }

    #[test]
    fn an_unknown_model_costs_what_was_chosen() {
        let with = |unpriced: Option<Unpriced>| {
            let prices = Prices::new(None, "2026-11-24", unpriced).ok()?;
            Some((cost_of(&prices, "glm-5", &usage(10, 1, 0, 100), 110), prices.stand_in().map(str::to_owned)))
        };
        let named = |cost, model: &str| Some(((cost, false), Some(model.to_owned())));
        assert_eq!(with(None), named(125, "claude-opus-5"));
        assert_eq!(with(Some(Unpriced::Highest)), named(375, "claude-opus-4"));
        assert_eq!(with(Some(Unpriced::Refuse)), named(375, "claude-opus-4"));
        assert_eq!(with(Some(Unpriced::As("haiku-4.5".to_owned()))), named(25, "haiku-4.5"));
        assert_eq!(with(Some(Unpriced::Zero)), Some(((0, false), None)));
    }

    #[test]
    fn what_the_user_said_of_a_model_overrides_what_the_vendor_says() {
        let row = |model: &str, more: &str| {
            format!(
                r#"[{{"model":"{model}","input":7,"output":0,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0{more}}}]"#
            )
        };
        let zero = Some(Unpriced::Zero);
        let explicit = Some(Unpriced::default());
        for (own, unpriced, model, want) in [
            (None, None, "claude-opus-5", false),
            (None, None, "glm-5", false),
            (None, zero.clone(), "glm-5", true),
            (None, explicit, "glm-5", true),
            (None, Some(Unpriced::Refuse), "glm-5", true),
            (None, zero.clone(), "us.anthropic.claude-opus-5-v1:0", false),
            (Some(row("glm-5", "")), None, "glm-5", true),
            (Some(row("glm-5", "")), None, "glm-5.1", false),
            (Some(row("glm-5", "")), zero, "glm-5.1", true),
            (Some(row("claude-opus-5-5", "")), None, "anthropic/claude-opus-5.5", true),
            (Some(row("claude-opus-5-5", "")), None, "opus", true),
            (Some(row("claude-opus-5-5", "")), None, "claude-opus-5", false),
            (Some(row("claude-opus-5", ",\"from\":\"2027-01-01\"")), None, "claude-opus-5", false),
        ] {
            let prices = Prices::new(own.as_deref(), "2026-11-24", unpriced);
            assert_eq!(prices.map(|prices| prices.overrides(model)), Ok(want), "{model} {own:?}");
        }
        assert!(!Prices::default().overrides("glm-5"));
    }

    #[test]
    fn a_short_name_means_the_newest_model_of_its_family_in_the_table() {
        let day = "2026-11-24";
        for (short, model) in [
            ("opus", "claude-opus-5-5"),
            ("sonnet[1m]", "claude-sonnet-5-5"),
            ("HAIKU", "claude-haiku-5-5"),
            ("claude-fable-latest", "claude-fable-5-2"),
        ] {
            let usage = usage(1000, 1000, 1000, 1000);
            assert_eq!(cost(short, day, usage), cost(model, day, usage), "{short}");
        }
        assert_eq!(cost("claude-nova", day, usage(10, 0, 0, 0)), (50, false));
    }

    #[test]
    fn rows_of_ones_own_add_to_the_table_or_replace_its_rows() {
        let row = |model: &str| {
            format!(
                r#"[{{"model":"{model}","input":7,"output":0,"cache_write_5m":0,"cache_write_1h":0,"cache_read":0}}]"#
            )
        };
        for model in ["glm-5", "GLM-5.1@fast", "opus", "claude-haiku-5-5", "claude-opus-4-5-20251101"] {
            let prices = prices(Some(&row(model)), "2026-11-24");
            assert_eq!(prices.map(|p| cost_of(&p, model, &usage(200_000, 5, 0, 0), 200_005)), Ok((1_400_000, true)));
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
            ("\"model\":\"m\"", "\"model\":\"m\",\"date\":\"2026\"", "row 2, field date"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"fast\":-1", "row 2, field fast: want a factor"),
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
