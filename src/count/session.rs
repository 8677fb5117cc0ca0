//! A session: what its processes spent, as counted live and as `result` records settle it.
//!
//! The meter decides which message a record belongs to; what becomes of its tokens is decided here.
//!
//! The last [`RECENT_SESSIONS`] sessions keep what their next `result` record is compared with; a
//! forgotten one stays in the total, and counts as new only if it goes on after that many others.

use std::ops::{Index, IndexMut};

use crate::count::message::ModelId;
use crate::count::tokens::{Class, Counts, Spend, Tally, Tokens};
use crate::stream::record::ModelUsage;

/// How many sessions are remembered. One stream has a handful; a loop has one after the other.
const RECENT_SESSIONS: usize = 256;

/// The first version whose resumed sessions begin `modelUsage` with what earlier processes spent.
const CARRIES_OVER_SINCE: Version = [2, 1, 277];

/// A version such as `2.1.292`.
pub(crate) type Version = [u32; 3];

/// What is known of a session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Hash of the `session_id`.
    pub(crate) id: u64,
    /// What processes and conversations that have ended spent.
    pub(crate) ended: Tally<ModelId>,
    /// The last `modelUsage`, without what was carried over.
    pub(crate) settled: Tally<ModelId>,
    /// What `modelUsage` had from earlier processes when the stream began.
    pub(crate) carried: Tally<ModelId>,
    /// What was counted since `settled`.
    pub(crate) live: Tally<ModelId>,
    /// Aborted messages, which are in no `modelUsage`.
    pub(crate) aborted: Tally<ModelId>,
    /// The main loop's tokens in `live` since the last `result` record.
    pub(crate) turn: Tokens,
    /// The main loop's last model.
    pub(crate) turn_model: ModelId,
    /// Something was counted in the main loop since the last `result` record.
    pub(crate) turn_open: bool,
    /// Something was counted in subagents since the last settlement.
    pub(crate) agents_open: bool,
    /// The highest total shown so far.
    pub(crate) shown: Spend,
    /// How many `result` records there were.
    pub(crate) turns: u32,
    /// How many of them settled the session by `modelUsage`.
    pub(crate) settlements: u32,
    /// What messages wrote to the cache, by model.
    cache_writes: Tally<ModelId>,
    /// The part of that which is kept for an hour.
    cache_writes_1h: Tally<ModelId>,
    pub(crate) compacted: bool,
    pub(crate) version: Option<Version>,
}

impl Session {
    fn parts(&self) -> [&Tally<ModelId>; 4] {
        [&self.ended, &self.settled, &self.live, &self.aborted]
    }

    /// The sum of all parts; what is shown may be higher, never lower.
    pub(crate) fn sum(&self) -> Spend {
        self.parts().iter().fold(Spend::default(), |sum, part| sum.plus(part.sum()))
    }

    pub(crate) fn by_model(&self) -> Tally<ModelId> {
        let mut all = Tally::default();
        self.parts().iter().for_each(|part| all.add_all(part));
        // Where a settlement said less than was counted, the higher figure stands.
        let kept = self.shown.minus(all.sum());
        if !kept.is_zero() {
            all.add(&self.turn_model, kept);
        }
        all
    }

    pub(crate) fn is_open(&self) -> bool {
        self.turn_open || self.agents_open
    }

    /// The process or conversation is over: what comes adds to it.
    pub(crate) fn end_process(&mut self) {
        for part in [&mut self.settled, &mut self.live] {
            self.ended.add_all(&std::mem::take(part));
        }
        self.carried = Tally::default();
        self.turn = Tokens::default();
        self.settlements = self.settlements.wrapping_add(1);
    }

    /// What was counted live, with what is `missing` of the turn's main loop.
    pub(crate) fn live_with(&self, missing: Spend) -> Tally<ModelId> {
        let mut live = self.live.clone();
        live.add(&self.turn_model, missing);
        live
    }

    /// A message wrote this many tokens to the cache, some of them for an hour.
    pub(crate) fn count_cache_writes(&mut self, model: ModelId, all: u64, for_an_hour: u64) {
        let written = |cache_write| Spend::from(Tokens { cache_write, ..Tokens::default() });
        self.cache_writes.add(&model, written(all));
        self.cache_writes_1h.add(&model, written(for_an_hour));
    }

    /// How many of `writes` tokens that a model wrote to the cache are kept for an hour: the same
    /// share as in its messages, or in those of all models where it has none. `modelUsage` has only
    /// the sum.
    pub(crate) fn share_1h(&self, model: ModelId, writes: u64) -> u64 {
        let own = self.cache_writes.get(&model).tokens.cache_write;
        let (all, hour) = match own {
            0 => (self.cache_writes.sum().tokens.cache_write, self.cache_writes_1h.sum().tokens.cache_write),
            own => (own, self.cache_writes_1h.get(&model).tokens.cache_write),
        };
        let share = u128::from(writes) * u128::from(hour.min(all));
        share.checked_div(u128::from(all)).and_then(|share| u64::try_from(share).ok()).unwrap_or(0)
    }

    /// Whether a first `modelUsage` begins with what earlier processes of this session spent.
    pub(crate) fn is_carrying(
        &self,
        usage: Tokens,
        missing: Spend,
        told: &Tally<ModelId>,
        models: &[ModelUsage],
    ) -> bool {
        let excess = told.sum().minus(self.live_with(missing).sum()).tokens;
        // Only where no call of this process can be hidden: the turn's own usage is what the main
        // loop showed, and nothing was compacted or searched.
        let all_shown = Class::PROMPT.iter().all(|&class| usage.of(class) == self.turn.of(class));
        let hides_calls = self.compacted || models.iter().any(|model| searches(model) > 0);
        // Calls of helper models have no tokens in the cache classes.
        let in_cache = excess.cache_write > 0 || excess.cache_read > 0;
        in_cache
            && !usage.is_zero()
            && all_shown
            && !hides_calls
            && self.version.is_none_or(|version| version >= CARRIES_OVER_SINCE)
    }

    /// Settles a turn without `modelUsage`: raises the main loop's part to the turn's `usage`, and
    /// the cost of the process to its `total_cost`.
    pub(crate) fn settle_turn(&mut self, usage: Tokens, missing: Spend, total_cost: Option<u64>) {
        self.live = self.live_with(missing);
        let counted = self.settled.sum().plus(self.live.sum()).plus(self.carried.sum());
        let micro_usd = total_cost.unwrap_or(0).saturating_sub(counted.micro_usd);
        self.live.add(&self.turn_model, Spend { micro_usd, ..Spend::default() });
        // Zero usage after tokens were counted is that of an error, and tells nothing.
        self.turn_open &= usage.is_zero() && !self.turn.is_zero();
    }

    /// Replaces what was counted since the last settlement by `told`, a `modelUsage`, or adds it
    /// where a new process has begun. What is `carried` over is taken off now and later. What is
    /// `in_flight` is no sign of a new process, since `told` cannot have it yet.
    pub(crate) fn settle(&mut self, told: &Tally<ModelId>, carried: Option<Tally<ModelId>>, in_flight: Spend) {
        let mut before = self.settled.clone();
        before.add_all(&self.carried);
        let counted = before.sum().plus(self.live.sum().minus(in_flight));
        if told.is_below(&before) || told.sum().tokens.is_below(&counted.tokens, &Class::PROMPT) {
            self.ended.add_all(&std::mem::take(&mut self.settled));
            self.carried = Tally::default();
            // What was counted live beyond the new process's own figures is from the one that ended
            // without a `result`.
            let untold = self.live.excess_over(told);
            self.ended.add_all(&untold);
        }
        if let Some(carried) = carried {
            self.carried = carried;
        }
        self.settled = told.minus(&self.carried);
        self.live = Tally::default();
        self.settlements = self.settlements.wrapping_add(1);
        self.turn_open = false;
        self.agents_open = false;
    }
}

/// The sessions of a stream; the one used last is the last.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    recent: Vec<Session>,
    /// What forgotten sessions spent, and whether one of them was never settled.
    past: Tally<ModelId>,
    past_open: bool,
}

impl Sessions {
    /// The index of the session whose id has this hash, which becomes the one used last; a new one
    /// starts with `model`.
    pub(crate) fn find(&mut self, id: u64, model: ModelId) -> usize {
        match self.recent.iter().rposition(|session| session.id == id) {
            Some(at) => self.recent[at..].rotate_left(1),
            None => {
                if self.recent.len() == RECENT_SESSIONS {
                    let oldest = self.recent.remove(0);
                    self.past_open |= oldest.is_open();
                    self.past.add_all(&oldest.by_model());
                }
                self.recent.push(Session { id, turn_model: model, ..Session::default() });
            }
        }
        self.recent.len() - 1
    }

    /// The index of the session used last.
    pub(crate) fn last(&self) -> Option<usize> {
        self.recent.len().checked_sub(1)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.past_open || self.recent.iter().any(Session::is_open)
    }

    pub(crate) fn by_model(&self) -> Tally<ModelId> {
        let mut all = self.past.clone();
        self.recent.iter().for_each(|session| all.add_all(&session.by_model()));
        all
    }
}

impl Index<usize> for Sessions {
    type Output = Session;

    fn index(&self, at: usize) -> &Session {
        &self.recent[at]
    }
}

impl IndexMut<usize> for Sessions {
    fn index_mut(&mut self, at: usize) -> &mut Session {
        &mut self.recent[at]
    }
}

/// The web searches of a `modelUsage` entry.
fn searches(model: &ModelUsage) -> u64 {
    model.usage.get().map_or(0, |usage| usage.web_searches)
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

    fn minus(&self, other: &Tally<ModelId>) -> Tally<ModelId> {
        self.iter().map(|(model, spend)| (*model, spend.minus(other.get(model)))).collect()
    }

    /// Whether any model has less of any class than `other` says.
    fn is_below(&self, other: &Tally<ModelId>) -> bool {
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

/// The three numbers of a version such as `2.1.292`; `None` where the text is none.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}
