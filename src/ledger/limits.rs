//! The limits and grants that a ledger keeps: what runs were given, so that a report needs none, and what
//! was added for a period.

use std::collections::BTreeMap;

use crate::amount::{Amount, Amounts, Unit};
use crate::count::tokens::Counts;

/// A limit that a run was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The command that it is for; `None` for all.
    pub name: Option<String>,
    /// How much may be used.
    pub amount: Amount,
    /// Of what time, as `--window` takes it; empty for all of it.
    pub window: String,
}

/// The limits and grants of a ledger.
#[derive(Debug, Default)]
pub struct Limits {
    /// The last of each command, or "", and unit.
    last: BTreeMap<(String, bool), Limit>,
    /// The window of the last of all.
    window: String,
    /// When which command, or "", was granted how much.
    grants: Vec<(f64, String, Amounts)>,
}

impl Limits {
    /// Takes in a limit.
    pub(crate) fn set(&mut self, limit: Limit) {
        let key = (limit.name.clone().unwrap_or_default(), limit.amount.unit == Unit::Usd);
        self.window.clone_from(&limit.window);
        self.last.insert(key, limit);
    }

    /// Whether this is known already.
    pub(crate) fn has(&self, limit: &Limit) -> bool {
        self.window == limit.window && self.last.values().any(|known| known == limit)
    }

    /// All limits.
    pub fn all(&self) -> impl Iterator<Item = &Limit> {
        self.last.values()
    }

    /// The window of the last one, as `--window` takes it; empty for none.
    pub fn window(&self) -> &str {
        &self.window
    }

    /// Takes in a grant, at a time in Unix seconds.
    pub(crate) fn grant(&mut self, at: f64, name: Option<&str>, amounts: Amounts) {
        self.grants.push((at, name.unwrap_or_default().to_owned(), amounts));
    }

    /// What was granted to a command, or to all, since a time.
    pub(crate) fn granted(&self, name: Option<&str>, from: f64) -> Amounts {
        let of = self.grants.iter().filter(|(at, of, _)| *at >= from && of == name.unwrap_or_default());
        of.fold(Amounts::default(), |sum, (_, _, amounts)| sum.plus(*amounts))
    }
}
