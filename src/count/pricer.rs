//! The pricer: what the models of a stream cost, and which of them have no price.

use crate::count::price::{ModelPrice, Prices};
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Counts, Spend, Tokens, Usage};
use crate::stream::record::ModelUsage;

/// How many models are told apart; all further ones are shown as one.
// A real stream has a handful; a hostile one could name another in each message.
const MODELS_MAX: usize = 64;

/// The longest model name that is kept, in characters.
const MODEL_NAME_MAX: usize = 128;

/// Prices and the names of the models seen.
#[derive(Debug, Default)]
pub(crate) struct Pricer {
    prices: Prices,
    names: ModelNames,
    /// The prices of the models, looked up once: names take long to normalise.
    of_models: Vec<Option<ModelPrice>>,
    unpriced: Vec<ModelId>,
    /// Models without a price that nobody has been told of.
    news: Vec<ModelId>,
}

/// The cost of some usage, in micro-dollars.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) micro_usd: u64,
    /// It is that of another model, since this one has no price, and the user did not ask for it.
    pub(crate) is_estimate: bool,
}

impl Pricer {
    pub(crate) fn new(prices: Prices) -> Self {
        Pricer { prices, ..Pricer::default() }
    }

    pub(crate) fn id(&mut self, name: Option<&str>) -> ModelId {
        self.names.id(name)
    }

    pub(crate) fn name(&self, id: ModelId) -> &str {
        self.names.name(id)
    }

    /// The models that were used and have no price.
    pub(crate) fn unpriced(&self) -> impl Iterator<Item = ModelId> {
        self.unpriced.iter().copied()
    }

    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Whether the user said what a model costs, whatever the vendor says.
    pub(crate) fn overrides(&mut self, model: ModelId) -> bool {
        self.price(model).is_users
    }

    /// Whether the user gave a price for a model itself, and not only for those that have none.
    pub(crate) fn has_own_price(&mut self, model: ModelId) -> bool {
        let price = self.price(model);
        price.is_users && price.is_known
    }

    /// Whether what a model costs is that of another, since it has no price of its own.
    pub(crate) fn is_estimate(&mut self, model: ModelId) -> bool {
        let price = self.price(model);
        !price.is_known && !price.is_users
    }

    /// Whether two names are one model's: `modelUsage` adds the size of the context, as in `[1m]`.
    pub(crate) fn is_same(&self, one: ModelId, other: ModelId) -> bool {
        let base = |model| self.name(model).split('[').next();
        one == other || base(one) == base(other)
    }

    fn price(&mut self, model: ModelId) -> &ModelPrice {
        if self.of_models.len() <= model {
            self.of_models.resize(model + 1, None);
        }
        self.of_models[model].get_or_insert_with(|| self.prices.of(self.names.name(model)))
    }

    /// The models without a price that were found since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<String> {
        let news = std::mem::take(&mut self.news);
        news.into_iter().map(|model| self.names.name(model).to_owned()).collect()
    }

    /// What one request of a model costs.
    pub(crate) fn cost(&mut self, model: ModelId, usage: &Usage) -> Cost {
        self.cost_at(model, usage, usage.tokens.prompt())
    }

    /// What usage costs; `prompt` as [`ModelPrice::cost`] takes it.
    pub(crate) fn cost_at(&mut self, model: ModelId, usage: &Usage, prompt: u64) -> Cost {
        if *usage == Usage::default() {
            return Cost::default();
        }
        let price = self.price(model);
        let (micro_usd, known, is_users) = (price.cost(usage, prompt), price.is_known, price.is_users);
        // Claude Code's own messages, such as those of errors, name a model of their own and use nothing.
        if !known && !self.unpriced.contains(&model) && !usage.tokens.is_zero() {
            self.unpriced.push(model);
            self.news.push(model);
        }
        Cost { micro_usd, is_estimate: !known && !is_users }
    }

    /// A cost that was told for `of`, raised to what `all`, with more tokens of the model, cost at that rate.
    pub(crate) fn scaled(&mut self, cost: u64, model: ModelId, of: Tokens, all: Tokens) -> u64 {
        let price = self.price(model);
        let [of, all] = [of, all].map(|tokens| price.cost(&Usage { tokens, ..Usage::default() }, 0));
        let scaled = (u128::from(cost) * u128::from(all)).checked_div(u128::from(of));
        scaled.map_or(cost, |scaled| u64::try_from(scaled).unwrap_or(u64::MAX)).max(cost)
    }

    /// The tokens of several requests with what they cost at the price of a model.
    pub(crate) fn priced(&mut self, model: ModelId, tokens: Tokens) -> Spend {
        self.priced_with(model, tokens, 0)
    }

    /// The same where so many of the cache writes are kept for an hour.
    pub(crate) fn priced_with(&mut self, model: ModelId, tokens: Tokens, write_1h: u64) -> Spend {
        Spend { tokens, micro_usd: self.cost_at(model, &Usage { tokens, write_1h, ..Usage::default() }, 0).micro_usd }
    }

    /// How much of the cost of a tally of messages is an estimate.
    pub(crate) fn estimate_in(&mut self, tally: &Tally<ModelId>) -> u64 {
        let estimates = tally.iter().filter(|(model, _)| self.is_estimate(*model));
        estimates.fold(0, |sum: u64, (_, spend)| sum.saturating_add(spend.micro_usd))
    }

    /// The tally with each model's cost raised to what its tokens cost by the table.
    pub(crate) fn at_least_priced(&mut self, mut tally: Tally<ModelId>) -> Tally<ModelId> {
        let models: Vec<_> = tally.iter().copied().collect();
        for (model, spend) in models {
            tally.raise(&model, self.priced(model, spend.tokens));
        }
        tally
    }

    /// What the entries of a `result` say was spent, and how much of the cost is an estimate. A model
    /// without `costUSD` is priced by the table, in such a way that all together cost `total` where that
    /// is known and all of it counts. `share_1h` tells how many cache writes of a model are kept for an
    /// hour where its entry does not.
    pub(crate) fn told(
        &mut self,
        models: &[ModelUsage],
        total: Option<u64>,
        share_1h: impl Fn(ModelId, u64) -> u64,
    ) -> (Tally<ModelId>, u64) {
        let mut told = Tally::default();
        let (mut estimate, mut all_told, mut total_counts) = (0_u64, true, true);
        for model in models {
            let usage = model.usage();
            let id = self.names.id(Some(&model.name));
            // The total contains the vendor's figure for each model, one that does not count too.
            let overrides = self.overrides(id);
            total_counts &= !overrides && !model.is_cost_guessed();
            let micro_usd = model.cost().filter(|_| !overrides).unwrap_or_else(|| {
                all_told = false;
                let write_1h = model.write_1h().unwrap_or_else(|| share_1h(id, usage.tokens.cache_write));
                let cost = self.cost_at(id, &Usage { write_1h, ..usage }, 0);
                estimate = estimate.saturating_add(if cost.is_estimate { cost.micro_usd } else { 0 });
                cost.micro_usd
            });
            told.add(&id, Spend { tokens: usage.tokens, micro_usd });
        }
        if let Some(total) = total.filter(|_| total_counts && !all_told) {
            told.set_cost(total);
            estimate = 0;
        }
        (told, estimate)
    }
}

/// The names of the models seen.
#[derive(Debug, Default)]
pub(crate) struct ModelNames(Vec<String>);

impl ModelNames {
    pub(crate) fn id(&mut self, name: Option<&str>) -> ModelId {
        let name = name.unwrap_or("unknown");
        let name = name.char_indices().nth(MODEL_NAME_MAX).map_or(name, |(end, _)| &name[..end]);
        if let Some(id) = self.0.iter().position(|known| known == name) {
            return id;
        }
        if self.0.len() < MODELS_MAX {
            self.0.push(name.to_owned());
            self.0.len() - 1
        } else {
            MODELS_MAX
        }
    }

    pub(crate) fn name(&self, id: ModelId) -> &str {
        self.0.get(id).map_or("others", String::as_str)
    }
}
