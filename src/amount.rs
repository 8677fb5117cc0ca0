//! Tokens and dollars as people write them (`5k`, `1.5M`, `$2.50`) and read them (`38.3K`).
//!
//! Calculation is done in whole tokens and micro-dollars; floats are for showing only.

use std::fmt;
use std::str::FromStr;

use crate::count::tokens::{Classes, Counts, Spend};

/// The unit of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Tokens of the classes that count.
    Tokens,
    /// US dollars; their values are micro-dollars.
    Usd,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Tokens => "tokens",
            Unit::Usd => "usd",
        })
    }
}

/// An amount of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// The unit.
    pub unit: Unit,
    /// Tokens, or micro-dollars.
    pub value: u64,
}

/// What every error about an amount says.
const WANTED: &str = "want tokens (5000, 5,000, 5k, 1.5M, 2G) or dollars (2.50usd)";

impl FromStr for Amount {
    type Err = String;

    /// Parses an AMOUNT. Multiples are decimal: `5k` is 5,000.
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (number, suffix) = match number.strip_prefix('$') {
            Some(number) if suffix.is_empty() => (number, "usd"),
            _ => (number, suffix),
        };
        // In either case: reports show `38.3K`, which people type back.
        let (unit, power) = match suffix.to_ascii_lowercase().as_str() {
            "" => (Unit::Tokens, 0),
            "k" => (Unit::Tokens, 3),
            "m" => (Unit::Tokens, 6),
            "g" => (Unit::Tokens, 9),
            "usd" => (Unit::Usd, 6),
            _ => return Err(WANTED.to_owned()),
        };
        let value = decimal(number, power).map_err(|bad| match bad {
            BadNumber::Form => WANTED.to_owned(),
            BadNumber::TooLarge => {
                format!("too large: at most {} {unit}", u64::MAX / if unit == Unit::Usd { 1_000_000 } else { 1 })
            }
            BadNumber::TooManyDecimals => match unit {
                Unit::Tokens => "a budget is a whole number of tokens".to_owned(),
                Unit::Usd => "dollars have at most six decimals".to_owned(),
            },
        })?;
        Ok(Amount { unit, value })
    }
}

/// An amount in each unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Tokens of the classes that count.
    pub tokens: u64,
    /// Micro-dollars.
    pub micro_usd: u64,
}

impl Amounts {
    /// What of `spend` counts towards budgets.
    pub(crate) fn of(spend: &Spend, classes: Classes) -> Amounts {
        Amounts { tokens: classes.count(&spend.tokens), micro_usd: spend.micro_usd }
    }

    /// The amount in one unit.
    pub(crate) fn get(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Usd => self.micro_usd,
        }
    }
}

impl Counts for Amounts {
    fn zip(self, other: Amounts, f: impl Fn(u64, u64) -> u64) -> Amounts {
        Amounts { tokens: f(self.tokens, other.tokens), micro_usd: f(self.micro_usd, other.micro_usd) }
    }
}

/// What is wrong with a decimal number.
pub(crate) enum BadNumber {
    Form,
    TooLarge,
    TooManyDecimals,
}

/// The value of a decimal number times ten to the `power`.
pub(crate) fn decimal(text: &str, power: usize) -> Result<u64, BadNumber> {
    // On the digits: a float cannot hold 0.1, nor every whole number above 2^53. What does not fit
    // exactly is refused, since a limit must be the one that was written.
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.contains(',') {
        return Err(BadNumber::Form);
    }
    let (whole, fraction) = (digits(whole)?, digits(fraction)?);
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > power {
        return Err(BadNumber::TooManyDecimals);
    }
    let zeros = power - fraction.len();
    format!("{whole}{fraction}{:0<zeros$}", "").parse().map_err(|_| BadNumber::TooLarge)
}

/// The digits of a number such as `5_000` or `5,000`.
fn digits(text: &str) -> Result<String, BadNumber> {
    // An underscore stands between any digits, as in Rust, and a comma before each three, as reports have
    // it: `1,5` may mean one and a half. No `parse`, which would take a sign.
    let separator = if text.contains(',') { ',' } else { '_' };
    let groups: Vec<_> = text.split(separator).collect();
    let is_digits = groups.iter().all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    let is_grouped = separator == '_' || groups[0].len() <= 3 && groups[1..].iter().all(|group| group.len() == 3);
    if is_digits && is_grouped { Ok(groups.concat()) } else { Err(BadNumber::Form) }
}

/// A number in full, in groups of digits: `5,863,140`.
pub fn exact(value: u64) -> String {
    let digits = value.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A value in full: `5,001 tokens`, `$1.234567`.
pub fn in_full(unit: Unit, value: u64) -> String {
    match unit {
        Unit::Tokens => format!("{} tokens", exact(value)),
        Unit::Usd => {
            // By digits, not as a float: a message about a budget must tell $1.000001 from $1.
            let cents = format!("{:06}", value % 1_000_000);
            let tail = cents[2..].trim_end_matches('0');
            format!("${}.{}{tail}", exact(value / 1_000_000), &cents[..2])
        }
    }
}

/// A value as people read it: `910`, `38.3K`, `1.0M` tokens, `$2.50`.
pub fn human(unit: Unit, value: u64) -> String {
    match unit {
        Unit::Tokens if value < 1_000 => value.to_string(),
        Unit::Tokens => {
            const UNITS: [(u64, &str); 4] =
                [(1_000, "K"), (1_000_000, "M"), (1_000_000_000, "G"), (1_000_000_000_000, "T")];
            // As u128, since ten times a count may be too large for a u64.
            let tenths =
                UNITS.map(|(unit, name)| ((u128::from(value) * 10 + u128::from(unit) / 2) / u128::from(unit), name));
            // 999,960 would read `1000.0K`: it is `1.0M`.
            let (tenths, name) = tenths.into_iter().find(|&(tenths, _)| tenths < 10_000).unwrap_or(tenths[3]);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        // A few micro-dollars would read as nothing with two decimals.
        Unit::Usd if value > 0 && value < 10_000 => format!("${:.4}", dollars(value)),
        Unit::Usd => format!("${:.2}", dollars(value)),
    }
}

/// Micro-dollars as dollars, for people and JSON; too inexact to calculate with.
#[expect(clippy::cast_precision_loss, reason = "exact below nine billion dollars")]
pub fn dollars(micro_usd: u64) -> f64 {
    micro_usd as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_amount_is_parsed() {
        for (text, unit, value) in [
            ("0", Unit::Tokens, 0),
            ("5000", Unit::Tokens, 5_000),
            ("5_000", Unit::Tokens, 5_000),
            ("5k", Unit::Tokens, 5_000),
            ("5K", Unit::Tokens, 5_000),
            ("1.5M", Unit::Tokens, 1_500_000),
            ("1.50M", Unit::Tokens, 1_500_000),
            ("2G", Unit::Tokens, 2_000_000_000),
            ("0.001k", Unit::Tokens, 1),
            ("1.0", Unit::Tokens, 1),
            ("18446744073709551615", Unit::Tokens, u64::MAX),
            ("2.50usd", Unit::Usd, 2_500_000),
            ("0.000001USD", Unit::Usd, 1),
            ("0usd", Unit::Usd, 0),
            ("$2.50", Unit::Usd, 2_500_000),
            ("$1,000.50", Unit::Usd, 1_000_500_000),
            ("5,000", Unit::Tokens, 5_000),
            ("1,234,567", Unit::Tokens, 1_234_567),
            ("1,500k", Unit::Tokens, 1_500_000),
        ] {
            assert_eq!(text.parse(), Ok(Amount { unit, value }), "{text}");
        }
    }

    #[test]
    fn malformed_amounts_are_refused() {
        for text in [
            "",
            "-5",
            "+5",
            "5x",
            "k",
            ".5k",
            "5.",
            "5.k",
            "1e6",
            "NaN",
            "inf",
            "$",
            "$5k",
            "$5usd",
            "$-5",
            "1,5",
            "1000,000",
            ",000",
            "1,000,",
            "1,0_0",
            "1.000,000",
            "5 k",
            " 5",
            "_5",
            "5_",
            "5__0",
            "1.5",
            "1.0005k",
            "18446744073709551616",
            "99999999999G",
            "0.0000001usd",
            "99999999999999usd",
            "5kk",
            "٥",
            "0x10",
            "5usdk",
        ] {
            assert!(text.parse::<Amount>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn figures_for_people_have_one_decimal() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0K"),
            (38_345, "38.3K"),
            (999_949, "999.9K"),
            (999_950, "1.0M"),
            (5_863_140, "5.9M"),
            (u64::MAX, "18446744.1T"),
        ] {
            assert_eq!(human(Unit::Tokens, value), text);
        }
        assert_eq!([2_501_000, 9_900, 0].map(|value| human(Unit::Usd, value)), ["$2.50", "$0.0099", "$0.00"]);
        assert_eq!([2_500_000, 1_234_567_890_000].map(|v| in_full(Unit::Usd, v)), ["$2.50", "$1,234,567.89"]);
        assert_eq!((in_full(Unit::Usd, 1), in_full(Unit::Tokens, 5001)), ("$0.000001".into(), "5,001 tokens".into()));
        assert_eq!([0, 999, 1_000, 5_863_140].map(exact), ["0", "999", "1,000", "5,863,140"]);
    }
}
