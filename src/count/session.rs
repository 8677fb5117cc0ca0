//! A session: what its processes used, as far as it was counted live, and as `result` lines settle it.
//!
//! The meter tells which message a line belongs to; here is what becomes of its tokens.

use crate::count::tokens::{Class, Spend};
use crate::stream::record::ModelUsage;

/// The first version whose resumed sessions begin `modelUsage` with what earlier processes spent.
const CARRIES_OVER_SINCE: Version = [2, 1, 277];

/// Index of a model's name in the meter.
pub(crate) type ModelId = usize;

/// A version such as `2.1.292`.
pub(crate) type Version = [u32; 3];

/// Tokens by model; a handful of entries at most in a real stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerModel(Vec<(ModelId, Spend)>);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Hash of the `session_id`.
    pub(crate) id: u64,
    /// What processes and conversations that have ended used.
    pub(crate) ended: PerModel,
    /// The last `modelUsage`, less what was carried over.
    pub(crate) settled: PerModel,
    /// What `modelUsage` had from earlier processes when the stream began.
    pub(crate) carried: PerModel,
    /// What was counted since `settled`.
    pub(crate) live: PerModel,
    /// Aborted messages: they are in no `modelUsage`.
    pub(crate) aborted: PerModel,
    /// The main loop's part of `live` since the last `result` line, and its last model.
    pub(crate) turn: Spend,
    pub(crate) turn_model: ModelId,
    /// Something was counted since the last `result` line: in the main loop, in subagents.
    pub(crate) turn_open: bool,
    pub(crate) agents_open: bool,
    /// The highest total shown so far.
    pub(crate) shown: Spend,
    /// `result` lines, and settlements by `modelUsage`, so far.
    pub(crate) turns: u32,
    pub(crate) settlements: u32,
    /// Tokens that messages wrote to the cache, and those of them that are kept for an hour.
    pub(crate) writes: PerModel,
    pub(crate) writes_1h: PerModel,
    pub(crate) compacted: bool,
    pub(crate) version: Option<Version>,
}

impl Session {
    /// The sum of all parts; what is shown may be higher, never lower.
    pub(crate) fn sum(&self) -> Spend {
        [&self.ended, &self.settled, &self.live, &self.aborted]
            .iter()
            .fold(Spend::default(), |sum, part| sum.plus(part.sum()))
    }

    pub(crate) fn by_model(&self) -> PerModel {
        let mut all = PerModel::default();
        for part in [&self.ended, &self.settled, &self.live, &self.aborted] {
            all.add_all(part);
        }
        // Where a settlement said less than was counted, the higher figure stands.
        let kept = self.shown.less(all.sum());
        if !kept.is_zero() {
            all.add(self.turn_model, kept);
        }
        all
    }

    pub(crate) fn is_open(&self) -> bool {
        self.turn_open || self.agents_open
    }

    /// The process or conversation is over: what comes adds to it.
    pub(crate) fn end_process(&mut self) {
        for part in [&mut self.settled, &mut self.live] {
            let part = std::mem::take(part);
            self.ended.add_all(&part);
        }
        self.carried = PerModel::default();
        self.turn = Spend::default();
        self.settlements = self.settlements.wrapping_add(1);
    }

    /// What was counted live, with what is `missing` of the turn's main loop.
    pub(crate) fn live_with(&self, missing: Spend) -> PerModel {
        let mut live = self.live.clone();
        live.add(self.turn_model, missing);
        live
    }

    /// Tokens of a model were written to the cache, some of them for an hour.
    pub(crate) fn saw_writes(&mut self, model: ModelId, all: u64, for_an_hour: u64) {
        self.writes.add(model, Spend { cache_write: all, ..Spend::default() });
        self.writes_1h.add(model, Spend { cache_write: for_an_hour, ..Spend::default() });
    }

    /// How many of so many tokens of a model written to the cache are kept for an hour, going by its
    /// messages, or where it has none by those of all models.
    pub(crate) fn share_1h(&self, model: ModelId, writes: u64) -> u64 {
        let own = self.writes.of(model).cache_write;
        let (all, hour) = match own {
            0 => (self.writes.sum().cache_write, self.writes_1h.sum().cache_write),
            own => (own, self.writes_1h.of(model).cache_write),
        };
        let share = u128::from(writes) * u128::from(hour.min(all));
        share.checked_div(u128::from(all)).and_then(|share| u64::try_from(share).ok()).unwrap_or(0)
    }

    /// Whether a first `modelUsage` begins with what earlier processes of this session spent.
    ///
    /// Only where no call of this process can be hidden: the turn's own usage equals what the main
    /// loop showed, nothing was compacted or searched, and the excess is in the cache classes,
    /// which calls of helper models do not have.
    pub(crate) fn is_carrying(&self, usage: Spend, missing: Spend, told: &PerModel, models: &[ModelUsage]) -> bool {
        let excess = told.sum().less(self.live_with(missing).sum());
        let all_shown = Class::PROMPT.iter().all(|&class| usage.of(class) == self.turn.of(class));
        (excess.cache_write > 0 || excess.cache_read > 0)
            && !usage.is_zero()
            && all_shown
            && models.iter().all(|model| model.web_searches == 0)
            && !self.compacted
            && self.version.is_none_or(|version| version >= CARRIES_OVER_SINCE)
    }

    /// Settles a turn without `modelUsage`: the main loop's part is raised to the turn's `usage`, and
    /// what the process cost to its `total_cost`.
    pub(crate) fn settle_turn(&mut self, usage: Spend, missing: Spend, total_cost: Option<u64>) {
        self.live = self.live_with(missing);
        let counted = self.settled.sum().plus(self.live.sum()).plus(self.carried.sum());
        let micro_usd = total_cost.unwrap_or(0).saturating_sub(counted.micro_usd);
        self.live.add(self.turn_model, Spend { micro_usd, ..Spend::default() });
        // Zero usage after tokens were counted is an error's, and tells nothing.
        self.turn_open &= usage.is_zero() && !self.turn.is_zero();
    }

    /// Replaces what was counted since the last settlement by `told`, a `modelUsage`; adds it
    /// instead where a new process has begun. What is `carried` over is taken off now and later,
    /// and what is `in_flight` cannot tell a new process from this one.
    pub(crate) fn settle(&mut self, told: &PerModel, carried: Option<PerModel>, in_flight: Spend) {
        let mut before = self.settled.clone();
        before.add_all(&self.carried);
        let counted = before.sum().plus(self.live.sum().less(in_flight));
        if told.is_below(&before) || told.sum().below(&counted, &Class::PROMPT) {
            let settled = std::mem::take(&mut self.settled);
            self.ended.add_all(&settled);
            self.carried = PerModel::default();
            // Live tokens beyond the new process's own are those of one that ended untold.
            let untold = self.live.excess_over(told);
            self.ended.add_all(&untold);
        }
        if let Some(carried) = carried {
            self.carried = carried;
        }
        self.settled = told.less(&self.carried);
        self.live = PerModel::default();
        self.settlements = self.settlements.wrapping_add(1);
        self.turn_open = false;
        self.agents_open = false;
    }
}

impl PerModel {
    /// Makes the costs add up to `total`, each model's in proportion.
    pub(crate) fn set_cost(&mut self, total: u64) {
        let sum = self.sum().micro_usd;
        let mut left = total;
        for (_, spend) in &mut self.0 {
            let share = u128::from(spend.micro_usd) * u128::from(total);
            spend.micro_usd =
                share.checked_div(u128::from(sum)).map_or(0, |share| u64::try_from(share).unwrap_or(left));
            left = left.saturating_sub(spend.micro_usd);
        }
        if let Some((_, spend)) = self.0.first_mut() {
            spend.micro_usd = spend.micro_usd.saturating_add(left);
        }
    }

    pub(crate) fn sum(&self) -> Spend {
        self.0.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens))
    }

    /// The models that have any tokens, in the order in which they were first seen.
    pub(crate) fn used(mut self) -> Vec<(ModelId, Spend)> {
        self.0.sort_by_key(|(model, _)| *model);
        self.0.retain(|(_, tokens)| !tokens.is_zero());
        self.0
    }

    fn of(&self, model: ModelId) -> Spend {
        self.0.iter().find(|(m, _)| *m == model).map(|(_, tokens)| *tokens).unwrap_or_default()
    }

    fn change(&mut self, model: ModelId, f: impl Fn(Spend) -> Spend) {
        match self.0.iter_mut().find(|(m, _)| *m == model) {
            Some((_, tokens)) => *tokens = f(*tokens),
            None => self.0.push((model, f(Spend::default()))),
        }
    }

    pub(crate) fn add(&mut self, model: ModelId, more: Spend) {
        self.change(model, |tokens| tokens.plus(more));
    }

    pub(crate) fn subtract(&mut self, model: ModelId, part: Spend) {
        self.change(model, |tokens| tokens.less(part));
    }

    pub(crate) fn add_all(&mut self, other: &PerModel) {
        for &(model, tokens) in &other.0 {
            self.add(model, tokens);
        }
    }

    fn less(&self, other: &PerModel) -> PerModel {
        PerModel(self.0.iter().map(|&(model, tokens)| (model, tokens.less(other.of(model)))).collect())
    }

    /// Whether any model has less of any class than `other` says.
    fn is_below(&self, other: &PerModel) -> bool {
        other.0.iter().any(|(model, tokens)| self.of(*model).below(tokens, &Class::ALL))
    }

    /// What the sum here exceeds the sum of `other` by, class by class, as parts of the models
    /// that have more here. A name may differ between the two (`[1m]`), so the sums decide.
    pub(crate) fn excess_over(&self, other: &PerModel) -> PerModel {
        let mut left = self.sum().less(other.sum());
        let mut excess = PerModel::default();
        for own in [self.less(other), self.clone()] {
            for (model, tokens) in own.0 {
                let part = tokens.min(left).min(self.of(model).less(excess.of(model)));
                excess.add(model, part);
                left = left.less(part);
            }
        }
        excess
    }
}

/// The three numbers of a version such as `2.1.292`, or `None` where it is none.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}
