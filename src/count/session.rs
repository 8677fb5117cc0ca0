//! A session: what its processes spent, as counted live and as `result` records settle it.
//!
//! The meter decides which message a record belongs to; what becomes of its tokens is decided here.

use crate::count::message::{Message, Part};
use crate::count::pricer::Pricer;
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Counts, Spend, Tokens, Usage};

/// A version such as `2.1.292`.
pub(crate) type Version = [u32; 3];

/// What is known of a session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Hash of the `session_id`.
    pub(crate) id: u64,
    /// What processes and conversations that have ended spent.
    pub(crate) ended: Tally<ModelId>,
    /// The last `modelUsage`, without what was carried over, or the sum of what was spent between results.
    pub(crate) settled: Tally<ModelId>,
    /// What turns whose `result` had no `modelUsage` came to; one of the same process replaces it.
    pub(crate) turned: Tally<ModelId>,
    /// What `modelUsage` had from earlier processes when the stream began.
    pub(crate) carried: Tally<ModelId>,
    /// What was counted since the last `result`.
    pub(crate) live: Tally<ModelId>,
    /// What `live` was when the conversation was reset since then.
    pub(crate) live_at_reset: Option<Tally<ModelId>>,
    /// Aborted messages since the last settlement: `modelUsage` has them from 2.1.326 on.
    pub(crate) aborted: Tally<ModelId>,
    /// The part of the cost of `live` that is an estimate, for models without a price.
    pub(crate) estimate: u64,
    /// The main loop's tokens in `live` since the last `result` record.
    pub(crate) turn: Tokens,
    /// The main loop's last model.
    turn_model: ModelId,
    /// The model that `init` named.
    pub(crate) init_model: Option<ModelId>,
    /// Something was counted in the main loop since the last `result` record.
    pub(crate) turn_open: bool,
    /// Something was counted in subagents since the last settlement.
    pub(crate) agents_open: bool,
    /// A process ended without a `result`: what it spent is known in part for ever.
    pub(crate) untold: bool,
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
    /// Calls that the stream does not show: of a compaction, or of a subagent's subagent.
    pub(crate) hides_calls: bool,
    /// A hook said that the session is a resumed one.
    pub(crate) resumed: bool,
    pub(crate) version: Option<Version>,
    /// When it was used last, and whether it was open then.
    pub(crate) used: u64,
    pub(crate) was_open: bool,
}

impl Session {
    /// A session whose id has this hash, of which nothing is known but a first model.
    pub(crate) fn new(id: u64, model: ModelId) -> Self {
        Session { id, turn_model: model, ..Session::default() }
    }

    fn parts(&self) -> [&Tally<ModelId>; 5] {
        [&self.ended, &self.settled, &self.turned, &self.live, &self.aborted]
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
        self.turn_open || self.agents_open || self.untold
    }

    /// What was counted live is final: Claude Code's transcripts have the true figures.
    pub(crate) fn confirm(&mut self) {
        (self.turn_open, self.agents_open) = (false, false);
    }

    /// The conversation was reset: a `modelUsage` that comes may count from here on.
    pub(crate) fn reset(&mut self) {
        self.live_at_reset = Some(self.live.clone());
    }

    /// The model of what has none of its own: the main loop's last one, or the one that `init` named.
    pub(crate) fn cost_model(&self) -> ModelId {
        let counted = [&self.live, &self.turned, &self.settled].iter().any(|part| !part.is_empty());
        self.init_model.filter(|_| !counted).unwrap_or(self.turn_model)
    }

    /// Counts what a message spent beyond what was counted of it.
    fn count(&mut self, message: &mut Message, more: Spend) {
        let in_main_loop = message.parent.is_none();
        if in_main_loop {
            self.turn_model = message.model;
        }
        if message.aborted {
            self.aborted.add(&message.model, more);
            message.live.add(self.settlements, more);
            self.turn_open |= in_main_loop;
            self.agents_open |= !in_main_loop;
            return;
        }
        self.live.add(&message.model, more);
        message.live.add(self.settlements, more);
        if in_main_loop {
            message.turn.add(self.turns, more);
            self.turn = self.turn.plus(more.tokens);
            self.turn_open = true;
        } else {
            self.agents_open = true;
        }
    }

    /// Raises a message to the maximum of what it had and `usage`. Returns whether it had less.
    pub(crate) fn raise(&mut self, message: &mut Message, usage: Usage, pricer: &mut Pricer) -> bool {
        let usage = message.usage.max(usage);
        let cost = pricer.cost(message.model, &usage);
        let raised = Spend { tokens: usage.tokens, micro_usd: cost.micro_usd };
        let more = raised.minus(message.spend);
        let more_1h = usage.write_1h.saturating_sub(message.usage.write_1h);
        self.count_cache_writes(message.model, more.tokens.cache_write, more_1h);
        message.spend = message.spend.max(raised);
        message.usage = usage;
        if !more.is_zero() {
            self.estimate = self.estimate.saturating_add(if cost.is_estimate { more.micro_usd } else { 0 });
            self.count(message, more);
        }
        !more.is_zero()
    }

    /// A message turns out to be aborted. What has been settled of it is not touched.
    pub(crate) fn abort(&mut self, message: &mut Message) {
        if std::mem::replace(&mut message.aborted, true) {
            return;
        }
        let live = message.live.in_epoch(self.settlements);
        self.live.subtract(message.model, live);
        self.aborted.add(&message.model, live);
        self.turn = self.turn.minus(message.turn.in_epoch(self.turns).tokens);
    }

    /// Another model served a message: what was counted of it since the last settlement is that one's.
    pub(crate) fn serve(&mut self, message: &mut Message, model: ModelId, pricer: &mut Pricer) {
        if message.model == model {
            return;
        }
        let live = message.live.in_epoch(self.settlements);
        let settled = Usage { tokens: message.usage.tokens.minus(live.tokens), ..message.usage };
        let cost = pricer.cost(model, &message.usage);
        let of_live = cost.micro_usd.saturating_sub(pricer.cost(model, &settled).micro_usd);
        let served = Spend { tokens: live.tokens, micro_usd: if live.is_zero() { 0 } else { of_live } };
        if pricer.is_estimate(message.model) {
            self.replace_estimate(self.estimate.saturating_sub(live.micro_usd));
        }
        self.estimate = self.estimate.saturating_add(if cost.is_estimate { served.micro_usd } else { 0 });
        let part = if message.aborted { &mut self.aborted } else { &mut self.live };
        part.subtract(message.model, live);
        part.add(&model, served);
        message.model = model;
        message.spend.micro_usd = cost.micro_usd;
        message.live = Part::new(self.settlements, served);
    }

    /// What was counted live, with what is `missing` of the turn's main loop.
    pub(crate) fn live_with(&self, missing: Spend) -> Tally<ModelId> {
        let mut live = self.live.clone();
        live.add(&self.cost_model(), missing);
        live
    }

    /// A message wrote this many tokens to the cache, some of them for an hour.
    fn count_cache_writes(&mut self, model: ModelId, all: u64, for_an_hour: u64) {
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
}

/// The three numbers of a version such as `2.1.292`; `None` where the text is none.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}
