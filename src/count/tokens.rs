//! Tokens in the four classes that the vendor bills apart, what they cost, and which classes count.
//!
//! All arithmetic here saturates.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the four classes of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Prompt tokens that were neither written to the cache nor read from it.
    Input,
    /// Tokens that the model wrote, thinking included.
    Output,
    /// Prompt tokens written to the cache, for five minutes or for an hour.
    CacheWrite,
    /// Prompt tokens read from the cache.
    CacheRead,
}

impl Class {
    /// All classes, in the order in which they are shown.
    pub const ALL: [Class; 4] = [Class::Input, Class::Output, Class::CacheWrite, Class::CacheRead];

    /// The classes of a prompt: known when a message starts, and exact from then on.
    pub const PROMPT: [Class; 3] = [Class::Input, Class::CacheWrite, Class::CacheRead];

    /// The name that `--count` takes and reports show.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::Input => "input",
            Class::Output => "output",
            Class::CacheWrite => "cache-write",
            Class::CacheRead => "cache-read",
        }
    }
}

/// Arithmetic field by field, for values that are made of counts.
// Saturating: a hostile number in a stream can make a total huge, never small. By methods and not by
// operators: `-` would hide that it stops at zero.
pub trait Counts: Copy + Default + PartialEq {
    /// Combines each field with the same field of `other`.
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self;

    /// The sum; it stops at `u64::MAX`.
    fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// The difference; it stops at zero.
    fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// The larger of the two, field by field.
    fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// The smaller of the two, field by field.
    fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    /// Whether all fields are zero.
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// A number of tokens in each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Tokens {
    /// See [`Class::Input`].
    pub input: u64,
    /// See [`Class::Output`].
    pub output: u64,
    /// See [`Class::CacheWrite`].
    pub cache_write: u64,
    /// See [`Class::CacheRead`].
    pub cache_read: u64,
}

impl Tokens {
    /// The tokens of one class.
    pub fn of(&self, class: Class) -> u64 {
        match class {
            Class::Input => self.input,
            Class::Output => self.output,
            Class::CacheWrite => self.cache_write,
            Class::CacheRead => self.cache_read,
        }
    }

    /// Whether `other` has more in any of `classes`.
    pub(crate) fn is_below(&self, other: &Tokens, classes: &[Class]) -> bool {
        classes.iter().any(|&class| self.of(class) < other.of(class))
    }

    /// Input, cache writes and cache reads together: the size of the request's prompt.
    pub(crate) fn prompt(&self) -> u64 {
        Class::PROMPT.iter().fold(0, |sum: u64, &class| sum.saturating_add(self.of(class)))
    }
}

impl Counts for Tokens {
    fn zip(self, other: Tokens, f: impl Fn(u64, u64) -> u64) -> Tokens {
        Tokens {
            input: f(self.input, other.input),
            output: f(self.output, other.output),
            cache_write: f(self.cache_write, other.cache_write),
            cache_read: f(self.cache_read, other.cache_read),
        }
    }
}

/// Tokens, and what they cost in micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "FlatSpend", into = "FlatSpend")]
pub struct Spend {
    /// The tokens by class.
    pub tokens: Tokens,
    /// Their cost, in micro-dollars.
    pub micro_usd: u64,
}

impl Counts for Spend {
    fn zip(self, other: Spend, f: impl Fn(u64, u64) -> u64) -> Spend {
        Spend { tokens: self.tokens.zip(other.tokens, &f), micro_usd: f(self.micro_usd, other.micro_usd) }
    }
}

impl From<Tokens> for Spend {
    fn from(tokens: Tokens) -> Spend {
        Spend { tokens, micro_usd: 0 }
    }
}

/// What becomes of a figure of spend: field by field it rises, falls or stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) more: Spend,
    pub(crate) less: Spend,
}

impl Change {
    /// What leads from one figure to another.
    pub(crate) fn between(before: Spend, after: Spend) -> Change {
        Change { more: after.minus(before), less: before.minus(after) }
    }

    pub(crate) fn is_zero(self) -> bool {
        self.more.is_zero() && self.less.is_zero()
    }

    /// A sum of which the figure is a part, after the change.
    pub(crate) fn apply(self, sum: Spend) -> Spend {
        // Nothing is taken off a field that is full: nobody knows what was added beyond that.
        let minus = |sum: u64, less: u64| if sum == u64::MAX { sum } else { sum.saturating_sub(less) };
        sum.plus(self.more).zip(self.less, minus)
    }
}

/// A [`Spend`] as JSON has it.
// Serde's `flatten` would do the same through a map of its own, at several times the cost for each record
// of a ledger.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct FlatSpend {
    input: u64,
    output: u64,
    cache_write: u64,
    cache_read: u64,
    micro_usd: u64,
}

impl From<FlatSpend> for Spend {
    fn from(flat: FlatSpend) -> Spend {
        let FlatSpend { input, output, cache_write, cache_read, micro_usd } = flat;
        Spend { tokens: Tokens { input, output, cache_write, cache_read }, micro_usd }
    }
}

impl From<Spend> for FlatSpend {
    fn from(Spend { tokens, micro_usd }: Spend) -> FlatSpend {
        let Tokens { input, output, cache_write, cache_read } = tokens;
        FlatSpend { input, output, cache_write, cache_read, micro_usd }
    }
}

/// What a message used, as far as its price depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The tokens by class.
    pub tokens: Tokens,
    /// How many of the tokens written to the cache are kept for an hour instead of five minutes.
    pub write_1h: u64,
    /// Web searches.
    pub web_searches: u64,
    /// The request had to be handled in the US, which costs more.
    pub us_only: bool,
    /// The request was handled in fast mode, which costs more.
    pub fast: bool,
}

impl Usage {
    /// The larger of the two, field by field.
    pub(crate) fn max(self, other: Usage) -> Usage {
        Usage {
            tokens: self.tokens.max(other.tokens),
            write_1h: self.write_1h.max(other.write_1h),
            web_searches: self.web_searches.max(other.web_searches),
            us_only: self.us_only || other.us_only,
            fast: self.fast || other.fast,
        }
    }
}

/// The classes that count towards a budget; all four unless `--count` chose some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes([bool; 4]);

impl Default for Classes {
    fn default() -> Self {
        Classes([true; 4])
    }
}

impl Classes {
    /// The sum of the classes that count.
    pub fn count(&self, tokens: &Tokens) -> u64 {
        let counted = Class::ALL.iter().zip(self.0).filter(|(_, chosen)| *chosen);
        counted.fold(0, |sum: u64, (class, _)| sum.saturating_add(tokens.of(*class)))
    }

    /// Whether all of a prompt counts, whatever the cache does with it.
    pub(crate) fn have_prompts(self) -> bool {
        Class::PROMPT.iter().all(|class| self.0[*class as usize])
    }

    /// Whether each class of [`Class::ALL`] counts.
    #[cfg(feature = "redis")]
    pub(crate) fn chosen(self) -> [bool; 4] {
        self.0
    }

    /// The names of the classes that count.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        Class::ALL.iter().zip(self.0).filter(|(_, chosen)| *chosen).map(|(class, _)| class.name())
    }
}

impl FromStr for Classes {
    type Err = String;

    /// Parses a comma list such as `input,output`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut chosen = [false; 4];
        for word in text.split(',') {
            let Some(at) = Class::ALL.iter().position(|class| class.name() == word.trim()) else {
                return Err("want a comma list of input, output, cache-write, cache-read".to_owned());
            };
            chosen[at] = true;
        }
        Ok(Classes(chosen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate_and_differences_stop_at_zero() {
        let most = Tokens { input: u64::MAX, ..Tokens::default() };
        let one = Tokens { input: 1, output: 1, ..Tokens::default() };
        assert_eq!(most.plus(one).input, u64::MAX);
        assert_eq!(one.minus(most).input, 0);
        assert_eq!(Classes::default().count(&most.plus(one)), u64::MAX);
    }

    #[test]
    fn only_the_chosen_classes_count() {
        let tokens = Tokens { input: 1, output: 20, cache_write: 300, cache_read: 4000 };
        for (text, count) in [("input", 1), ("output,input", 21), (" cache-write , cache-read", 4300)] {
            assert_eq!(text.parse::<Classes>().map(|classes| classes.count(&tokens)), Ok(count), "{text}");
        }
        for text in ["", "input,", "inputs", "cache"] {
            assert!(text.parse::<Classes>().is_err(), "{text:?}");
        }
    }
}
