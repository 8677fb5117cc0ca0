//! Tallies: spend by model, and how two of them compare.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::count::tokens::{Change, Class, Counts, Spend};

/// Index of a model among the names of a stream.
pub(crate) type ModelId = usize;

/// Spend by model, or by whatever `K` names one.
///
/// A vector, since a real stream or record has a handful of models: a search through them takes
/// less time than a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally<K>(Vec<(K, Spend)>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally(Vec::new())
    }
}

impl<K> Tally<K> {
    /// The models with what was spent on each, in the order in which they were first seen.
    pub fn iter(&self) -> std::slice::Iter<'_, (K, Spend)> {
        self.0.iter()
    }

    /// The sum over all models.
    pub fn sum(&self) -> Spend {
        self.0.iter().fold(Spend::default(), |sum, (_, spend)| sum.plus(*spend))
    }

    /// Whether no model is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Spend> {
        self.0.iter_mut().map(|(_, spend)| spend)
    }
}

impl<K: Clone + PartialEq> Tally<K> {
    /// What was spent on a model; nothing where it is not named.
    pub fn get(&self, model: &K) -> Spend {
        self.0.iter().find(|(known, _)| known == model).map(|(_, spend)| *spend).unwrap_or_default()
    }

    /// The entry of a model, which is added where it is not named.
    pub(crate) fn entry(&mut self, model: &K) -> &mut Spend {
        let at = self.0.iter().position(|(known, _)| known == model).unwrap_or_else(|| {
            self.0.push((model.clone(), Spend::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// Adds `more` to what was spent on a model.
    pub(crate) fn add(&mut self, model: &K, more: Spend) {
        let entry = self.entry(model);
        *entry = entry.plus(more);
    }

    /// Raises what was spent on a model to at least `to`, field by field.
    pub(crate) fn raise(&mut self, model: &K, to: Spend) {
        let entry = self.entry(model);
        *entry = entry.max(to);
    }

    /// Sets all of it to `to`, which names each model once. Tells what changes of which model.
    pub(crate) fn replace(&mut self, to: Tally<K>, mut tell: impl FnMut(&K, Change)) {
        let before = std::mem::replace(self, to);
        for (model, spend) in self.iter() {
            tell(model, Change::between(before.get(model), *spend));
        }
        let is_gone = |model: &K| self.iter().all(|(known, _)| known != model);
        for (model, spend) in before.iter().filter(|(model, _)| is_gone(model)) {
            tell(model, Change::between(*spend, Spend::default()));
        }
    }
}

impl<K> FromIterator<(K, Spend)> for Tally<K> {
    fn from_iter<I: IntoIterator<Item = (K, Spend)>>(entries: I) -> Self {
        Tally(entries.into_iter().collect())
    }
}

impl<K: Serialize> Serialize for Tally<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, spend)| (key, spend)))
    }
}

impl<'de, K: Deserialize<'de>> Deserialize<'de> for Tally<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<K>(PhantomData<K>);
        impl<'de, K: Deserialize<'de>> Visitor<'de> for Entries<K> {
            type Value = Tally<K>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("spend by model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tally<K>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Tally(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Spend by model, as settlements compare and split it.
impl Tally<ModelId> {
    /// Makes the costs add up to `total`, each model's in proportion.
    pub(crate) fn set_cost(&mut self, total: u64) {
        let sum = u128::from(self.sum().micro_usd);
        let mut left = total;
        for spend in self.values_mut() {
            let share = (u128::from(spend.micro_usd) * u128::from(total)).checked_div(sum).unwrap_or(0);
            spend.micro_usd = u64::try_from(share).unwrap_or(left);
            left = left.saturating_sub(spend.micro_usd);
        }
        // Rounding leaves a few micro-dollars.
        if let Some(spend) = self.values_mut().next() {
            spend.micro_usd = spend.micro_usd.saturating_add(left);
        }
    }

    pub(crate) fn subtract(&mut self, model: ModelId, part: Spend) {
        let entry = self.entry(&model);
        *entry = entry.minus(part);
    }

    pub(crate) fn add_all(&mut self, other: &Tally<ModelId>) {
        for (model, spend) in other.iter() {
            self.add(model, *spend);
        }
    }

    pub(crate) fn minus(&self, other: &Tally<ModelId>) -> Tally<ModelId> {
        self.iter().map(|(model, spend)| (*model, spend.minus(other.get(model)))).collect()
    }

    /// Whether any model has less of any class than `other` says.
    pub(crate) fn is_below(&self, other: &Tally<ModelId>) -> bool {
        other.iter().any(|(model, spend)| self.get(model).tokens.is_below(&spend.tokens, &Class::ALL))
    }

    /// What the sum here exceeds the sum of `other` by, class by class, as parts of the models that
    /// have more here. A model's name may differ between the two (`[1m]`), so the sums decide.
    pub(crate) fn excess_over(&self, other: &Tally<ModelId>) -> Tally<ModelId> {
        let mut left = self.sum().minus(other.sum());
        let mut excess = Tally::default();
        for own in [self.minus(other), self.clone()] {
            for (model, spend) in own.iter() {
                let part = spend.min(left).min(self.get(model).minus(excess.get(model)));
                excess.add(model, part);
                left = left.minus(part);
            }
        }
        excess
    }
}
