//! A session: what its processes spent, as counted live and as `result` records settle it.
//!
//! The meter decides which message a record belongs to; what becomes of its tokens is decided here.
//!
//! The last [`RECENT_SESSIONS`] sessions keep what their next `result` record is compared with; a
//! forgotten one stays in the total, and counts as new only if it goes on after that many others.

use std::ops::{Index, IndexMut};

use crate::count::message::Message;
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Class, Counts, Spend, Tokens};
use crate::stream::record::ModelUsage;

/// How many sessions are remembered. One stream has a handful; a loop has one after the other.
const RECENT_SESSIONS: usize = 256;

/// The versions whose resumed sessions begin `modelUsage` with what earlier processes spent: the first,
/// and the last one that does not say what was spent since the last `result`.
const CARRIES_OVER: [Version; 2] = [[2, 1, 277], [2, 1, 308]];

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
    /// What `modelUsage` had from earlier processes when the stream began.
    pub(crate) carried: Tally<ModelId>,
    /// What was counted since `settled`.
    pub(crate) live: Tally<ModelId>,
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
}

/// A first `result` of a session: what its first `modelUsage` is compared with.
pub(crate) struct FirstResult<'a> {
    /// Its `usage`: one turn of the main loop.
    pub(crate) usage: Tokens,
    /// What of that was not seen in messages.
    pub(crate) missing: Spend,
    pub(crate) told: &'a Tally<ModelId>,
    pub(crate) models: &'a [ModelUsage],
    /// It says that no turn was taken and no call was made.
    pub(crate) is_idle: bool,
    /// Whether the wrapped command resumes a session; `None` for a filter.
    pub(crate) resumes: Option<bool>,
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
        self.turn_open || self.agents_open || self.untold
    }

    /// The process or conversation is over: what comes adds to it.
    pub(crate) fn end_process(&mut self) {
        for part in [&mut self.settled, &mut self.live, &mut self.aborted] {
            self.ended.add_all(&std::mem::take(part));
        }
        self.carried = Tally::default();
        self.turn = Tokens::default();
        self.settlements = self.settlements.wrapping_add(1);
    }

    /// The model of what has none of its own: the main loop's last one, or the one that `init` named.
    pub(crate) fn cost_model(&self) -> ModelId {
        let counted = !self.live.is_empty() || !self.settled.is_empty();
        self.init_model.filter(|_| !counted).unwrap_or(self.turn_model)
    }

    /// Counts what a message spent beyond what was counted of it.
    pub(crate) fn count(&mut self, message: &mut Message, more: Spend) {
        let in_main_loop = message.parent.is_none();
        if in_main_loop {
            self.turn_model = message.model;
        }
        if message.aborted {
            self.aborted.add(&message.model, more);
            message.live.add(self.settlements, more);
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

    /// What was counted live, with what is `missing` of the turn's main loop.
    pub(crate) fn live_with(&self, missing: Spend) -> Tally<ModelId> {
        let mut live = self.live.clone();
        live.add(&self.cost_model(), missing);
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
    pub(crate) fn is_carrying(&self, first: &FirstResult<'_>) -> bool {
        let [since, until] = CARRIES_OVER;
        if self.turns > 0 || self.version.is_some_and(|version| version < since || version > until) {
            return false;
        }
        let nothing_counted = self.live.sum().is_zero() && self.aborted.sum().is_zero();
        if first.is_idle && first.usage.is_zero() && nothing_counted {
            return true;
        }
        match first.resumes {
            _ if self.resumed => true,
            Some(resumes) => resumes,
            None => self.seems_to_carry(first),
        }
    }

    /// The same where only the figures can tell. A wrong guess takes off what was spent, so that they
    /// must leave no other explanation.
    fn seems_to_carry(&self, first: &FirstResult<'_>) -> bool {
        let excess = first.told.sum().minus(self.live_with(first.missing).sum()).tokens;
        // No call of this process can be hidden: the turn's own usage is what the main loop showed, and
        // nothing was compacted, nested or searched.
        let all_shown = Class::PROMPT.iter().all(|&class| first.usage.of(class) == self.turn.of(class));
        let searched = first.models.iter().any(|model| model.usage().web_searches > 0);
        // Calls of helper models have no tokens in the cache classes.
        let in_cache = excess.cache_write > 0 || excess.cache_read > 0;
        in_cache && !first.usage.is_zero() && all_shown && !searched && !self.hides_calls
    }

    /// Settles a turn without `modelUsage`: raises the main loop's part to the turn's `usage`, and the
    /// cost of the process to its `total_cost`, or lowers it as far as it was an estimate.
    pub(crate) fn settle_turn(&mut self, usage: Tokens, missing: Spend, total_cost: Option<u64>) {
        self.live = self.live_with(missing);
        if let Some(total) = total_cost {
            let counted = self.settled.sum().plus(self.live.sum()).plus(self.carried.sum()).micro_usd;
            let model = self.cost_model();
            let raise = Spend { micro_usd: total.saturating_sub(counted), ..Spend::default() };
            self.live.add(&model, raise);
            let mut lower = counted.saturating_sub(total).min(self.estimate);
            for spend in self.live.values_mut() {
                let part = lower.min(spend.micro_usd);
                spend.micro_usd -= part;
                lower -= part;
            }
            self.replace_estimate(0);
        }
        // Zero usage after tokens were counted is that of an error, and tells nothing.
        self.turn_open &= usage.is_zero() && !self.turn.is_zero();
    }

    /// A told cost replaces what was only an estimate, downwards too; `estimate` is the part of the new
    /// cost that is one again.
    pub(crate) fn replace_estimate(&mut self, estimate: u64) {
        self.shown.micro_usd = self.shown.micro_usd.saturating_sub(self.estimate);
        self.estimate = estimate;
    }

    /// A `result` has ended a turn.
    pub(crate) fn end_turn(&mut self) {
        // Never back to 0, which is that of a session without a `result`.
        self.turns = self.turns.wrapping_add(1).max(1);
        self.turn = Tokens::default();
    }

    /// Replaces what was counted since the last settlement by `told`, a `modelUsage`, or adds it
    /// where a new process has begun. What is `carried` over is taken off now and later. What is
    /// `in_flight` is no sign of a new process, since `told` cannot have it yet.
    pub(crate) fn settle(&mut self, told: &Tally<ModelId>, carried: Option<Tally<ModelId>>, in_flight: Spend) {
        let mut before = self.settled.clone();
        before.add_all(&self.carried);
        let counted = before.sum().plus(self.live.sum().minus(in_flight));
        let with_aborted = counted.tokens.plus(self.aborted.sum().tokens);
        if told.sum().tokens.is_below(&with_aborted, &Class::PROMPT) {
            self.ended.add_all(&self.aborted);
        }
        if told.is_below(&before) || told.sum().tokens.is_below(&counted.tokens, &Class::PROMPT) {
            self.ended.add_all(&std::mem::take(&mut self.settled));
            self.carried = Tally::default();
            // What was counted live beyond the new process's own figures is from the one that ended
            // without a `result`.
            let untold = self.live.excess_over(told);
            self.untold |= !untold.sum().is_zero();
            self.ended.add_all(&untold);
        }
        if let Some(carried) = carried {
            self.carried = carried;
        }
        self.settled = told.minus(&self.carried);
        self.begin_epoch(Tally::default());
    }

    /// The prompt tokens counted since the last settlement that `told`, what was spent since then, does
    /// not cover.
    pub(crate) fn uncovered(&self, told: &Tally<ModelId>) -> Tokens {
        let counted = self.live.sum().plus(self.aborted.sum()).tokens;
        Tokens { output: 0, ..counted.minus(told.sum().tokens) }
    }

    /// Keeps the aborted messages beside the settlement where their prompt is `uncovered`, which they are
    /// then taken off: up to 2.1.324 the figures do not have them.
    pub(crate) fn keep_aborted(&mut self, uncovered: &mut Tokens) {
        let aborted = std::mem::take(&mut self.aborted);
        let tokens = aborted.sum().tokens;
        if tokens.prompt() > 0 && !uncovered.is_below(&tokens, &Class::PROMPT) {
            *uncovered = uncovered.minus(tokens);
            self.ended.add_all(&aborted);
        } else {
            self.live.add_all(&aborted);
        }
    }

    /// What was counted live beyond `told` and the messages in flight: a process spent it that ended
    /// without a `result`.
    pub(crate) fn untold_beyond(&self, told: &Tally<ModelId>, in_flight: &Tally<ModelId>) -> Tally<ModelId> {
        self.live.minus(in_flight).excess_over(told)
    }

    /// Adds `told`, what was spent since the last `result`, and drops what was counted live since then,
    /// except what is `in_flight` and what is `untold`.
    pub(crate) fn settle_since(&mut self, told: &Tally<ModelId>, in_flight: Tally<ModelId>, untold: &Tally<ModelId>) {
        self.settled.add_all(told);
        self.ended.add_all(untold);
        self.untold |= !untold.sum().is_zero();
        self.begin_epoch(in_flight);
    }

    /// A settlement has been made; `live` is what it does not cover yet.
    fn begin_epoch(&mut self, live: Tally<ModelId>) {
        self.turn_open = false;
        self.agents_open = !live.is_empty();
        self.live = live;
        self.aborted = Tally::default();
        self.settlements = self.settlements.wrapping_add(1);
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

/// The three numbers of a version such as `2.1.292`; `None` where the text is none.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}
