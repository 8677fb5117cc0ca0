//! What is spent: tokens in the four classes that the vendor bills apart, and money; and the choice
//! of classes that count.
//!
//! Everything here saturates: a hostile number in a stream can make a total huge, never small.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the four classes of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Prompt tokens that were neither written to nor read from the cache.
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
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Input => "input",
            Class::Output => "output",
            Class::CacheWrite => "cache-write",
            Class::CacheRead => "cache-read",
        }
    }
}

/// A number of tokens per class, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Spend {
    /// See [`Class::Input`].
    pub input: u64,
    /// See [`Class::Output`].
    pub output: u64,
    /// See [`Class::CacheWrite`].
    pub cache_write: u64,
    /// See [`Class::CacheRead`].
    pub cache_read: u64,
    /// What they cost, in micro-dollars.
    pub micro_usd: u64,
}

impl Spend {
    /// The tokens of one class.
    #[must_use]
    pub fn of(&self, class: Class) -> u64 {
        match class {
            Class::Input => self.input,
            Class::Output => self.output,
            Class::CacheWrite => self.cache_write,
            Class::CacheRead => self.cache_read,
        }
    }

    fn zip(self, other: Spend, f: impl Fn(u64, u64) -> u64) -> Spend {
        Spend {
            input: f(self.input, other.input),
            output: f(self.output, other.output),
            cache_write: f(self.cache_write, other.cache_write),
            cache_read: f(self.cache_read, other.cache_read),
            micro_usd: f(self.micro_usd, other.micro_usd),
        }
    }

    /// The sum, class by class.
    #[must_use]
    pub fn plus(self, other: Spend) -> Spend {
        self.zip(other, u64::saturating_add)
    }

    /// What is left after `other` is taken off, class by class, never below zero.
    #[must_use]
    pub fn less(self, other: Spend) -> Spend {
        self.zip(other, u64::saturating_sub)
    }

    /// The higher figure of the two, class by class.
    #[must_use]
    pub fn max(self, other: Spend) -> Spend {
        self.zip(other, u64::max)
    }

    /// The lower figure of the two, class by class.
    #[must_use]
    pub fn min(self, other: Spend) -> Spend {
        self.zip(other, u64::min)
    }

    /// Whether every class is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Spend::default()
    }

    /// Whether `other` has more in any of `classes`.
    #[must_use]
    pub fn below(&self, other: &Spend, classes: &[Class]) -> bool {
        classes.iter().any(|&c| self.of(c) < other.of(c))
    }
}

/// The classes that count towards a budget; all four unless `--count` chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes([bool; 4]);

impl Default for Classes {
    fn default() -> Self {
        Classes([true; 4])
    }
}

impl Classes {
    /// The sum of the chosen classes.
    #[must_use]
    pub fn count(&self, tokens: &Spend) -> u64 {
        Class::ALL
            .iter()
            .zip(self.0)
            .filter(|(_, chosen)| *chosen)
            .fold(0, |sum: u64, (class, _)| sum.saturating_add(tokens.of(*class)))
    }

    /// Whether each class of [`Class::ALL`] counts.
    #[cfg(feature = "redis")]
    pub(crate) fn chosen(self) -> [bool; 4] {
        self.0
    }

    /// The names of the chosen classes.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        Class::ALL.iter().zip(self.0).filter(|(_, chosen)| *chosen).map(|(class, _)| class.name())
    }
}

impl FromStr for Classes {
    type Err = String;

    /// Parses a comma list such as `input,output`; anything else is an error that says what is wanted.
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
        let most = Spend { input: u64::MAX, ..Spend::default() };
        let one = Spend { input: 1, output: 1, ..Spend::default() };
        assert_eq!(most.plus(one).input, u64::MAX);
        assert_eq!(one.less(most).input, 0);
        assert_eq!(Classes::default().count(&most.plus(one)), u64::MAX);
    }

    #[test]
    fn chosen_classes_alone_count() {
        let tokens = Spend { input: 1, output: 20, cache_write: 300, cache_read: 4000, micro_usd: 0 };
        for (text, count) in [("input", 1), ("output,input", 21), (" cache-write , cache-read", 4300)] {
            assert_eq!(text.parse::<Classes>().map(|c| c.count(&tokens)), Ok(count), "{text}");
        }
        for text in ["", "input,", "inputs", "cache"] {
            assert!(text.parse::<Classes>().is_err(), "{text:?}");
        }
    }
}
