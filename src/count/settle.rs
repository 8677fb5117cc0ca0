//! Settlement: what becomes of a session at a `result` record, which has the vendor's own figures.
//!
//! From 2.1.309 on Claude Code says what was spent since the last `result`; before, what its process has
//! spent in all, and in the beginning what one turn of the main loop used.

use crate::count::message::Part;
use crate::count::messages::Messages;
use crate::count::pricer::Pricer;
use crate::count::session::{Session, Version};
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Class, Counts, Spend, Tokens};
use crate::count::uncovered::Uncovered;
use crate::stream::paths::{Owner, Span};
use crate::stream::record::{ModelUsage, Record};

/// The versions whose resumed sessions begin `modelUsage` with what earlier processes spent: the first,
/// and the last one that does not say what was spent since the last `result`.
const CARRIES_OVER: [Version; 2] = [[2, 1, 277], [2, 1, 308]];

/// The last version whose figures lack aborted messages, and the first one whose figures have them.
const ABORTED: [Version; 2] = [[2, 1, 324], [2, 1, 326]];

/// A first `result` of a session: what its first `modelUsage` is compared with.
struct FirstResult<'a> {
    /// Its `usage`: one turn of the main loop.
    usage: Tokens,
    /// What of that was not seen in messages.
    missing: Spend,
    told: &'a Tally<ModelId>,
    models: &'a [ModelUsage],
    /// It says that no turn was taken and no call was made.
    is_idle: bool,
    /// Whether the wrapped command resumes a session; `None` for a filter.
    resumes: Option<bool>,
}

/// Settles a session; `usage` is that of its turn. Returns the tokens that were taken off, since earlier
/// processes had spent them.
/// `resumes` says whether the wrapped command resumes a session; `None` for a filter.
pub(crate) fn settle(
    record: &Record,
    usage: Tokens,
    session: &mut Session,
    messages: &mut Messages,
    pricer: &mut Pricer,
    resumes: Option<bool>,
) -> Option<Tokens> {
    let models = record.models(Span::Process).filter(|models| !models.is_empty());
    let mut carried = None;
    match (record.models(Span::SinceLast), models) {
        (Some(since), _) => settle_since(since, session, messages, pricer),
        (None, Some(models)) => carried = settle_process(models, record, session, messages, pricer, resumes),
        (None, None) => settle_turn(record.total_cost, usage, session, messages, pricer),
    }
    session.end_turn();
    carried.filter(|tokens| !tokens.is_zero())
}

/// By what was spent since the last `result`.
fn settle_since(models: &[ModelUsage], session: &mut Session, messages: &mut Messages, pricer: &mut Pricer) {
    let (told, estimate) = told(models, None, session, pricer);
    session.sort_aborted(&told, pricer);
    let mut uncovered = Uncovered::new(&session.live, &told, pricer);
    let kept = uncovered.keep(session.id, messages, session.settlements, pricer);
    let untold = uncovered.rest(session, &kept, &told, pricer);
    session.replace_estimate(estimate.saturating_add(pricer.estimate_in(&kept)));
    session.settle_since(&told, kept, &untold);
}

/// By what the process has spent in all.
fn settle_process(
    models: &[ModelUsage],
    record: &Record,
    session: &mut Session,
    messages: &Messages,
    pricer: &mut Pricer,
    resumes: Option<bool>,
) -> Option<Tokens> {
    let epoch = session.settlements;
    let in_flight = messages.last_of_agents(session.id).map(|at| messages.get(at).live.in_epoch(epoch));
    let in_flight = in_flight.fold(Spend::default(), Spend::plus);
    let (told, estimate) = told(models, record.total_cost, session, pricer);
    let usage = record.usage(Owner::Turn).unwrap_or_default().tokens;
    let missing = Spend::from(usage.minus(session.turn));
    let is_idle = record.turns == Some(0) && record.api_time == Some(0);
    let first = FirstResult { usage, missing, told: &told, models, is_idle, resumes };
    let carried = session.is_carrying(&first).then(|| {
        let missing = pricer.priced(session.cost_model(), missing.tokens);
        told.excess_over(&session.live_with(missing))
    });
    let tokens = carried.as_ref().map(|carried| carried.sum().tokens);
    session.replace_estimate(estimate);
    session.settle(&told, carried, in_flight);
    tokens
}

/// By what one turn of the main loop used.
fn settle_turn(
    total_cost: Option<u64>,
    usage: Tokens,
    session: &mut Session,
    messages: &mut Messages,
    pricer: &mut Pricer,
) {
    let missing = pricer.priced(session.cost_model(), usage.minus(session.turn));
    let total_cost = total_cost.filter(|_| !pricer.overrides(session.cost_model()));
    let mut in_flight = Tally::default();
    let last: Vec<_> = messages.last_of_agents(session.id).collect();
    for at in last {
        let message = messages.get_mut(at);
        let live = message.live.in_epoch(session.settlements);
        message.live = Part::new(session.settlements.wrapping_add(1), live);
        in_flight.add(&message.model, live);
    }
    session.settle_turn(usage, missing, in_flight);
    if let Some(total) = total_cost {
        let estimate = pricer.estimate_in(&session.live);
        session.settle_cost(total, estimate);
    }
}

/// What the entries of a `result` say was spent, and how much of the cost is an estimate.
fn told(models: &[ModelUsage], total: Option<u64>, session: &Session, pricer: &mut Pricer) -> (Tally<usize>, u64) {
    pricer.told(models, total, |model, writes| session.share_1h(model, writes))
}

/// What settlements do to the parts of a session.
impl Session {
    /// Whether a first `modelUsage` begins with what earlier processes of this session spent.
    fn is_carrying(&self, first: &FirstResult<'_>) -> bool {
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

    /// Settles a turn without `modelUsage`: raises the main loop's part by what is `missing` to the turn's
    /// `usage`. What is `in_flight` stays live.
    fn settle_turn(&mut self, usage: Tokens, missing: Spend, in_flight: Tally<ModelId>) {
        let live = self.live_with(missing).minus(&in_flight);
        self.turned.add_all(&live);
        self.live = in_flight;
        self.live_at_reset = None;
        self.settlements = self.settlements.wrapping_add(1);
        // Zero usage after tokens were counted is that of an error, and tells nothing.
        self.turn_open &= usage.is_zero() && !self.turn.is_zero();
    }

    /// Raises the cost of the process to `total`, or lowers it as far as it was an estimate; `in_flight` is
    /// the part of the estimate that is for messages which have not ended.
    fn settle_cost(&mut self, total: u64, in_flight: u64) {
        let parts = [&self.settled, &self.turned, &self.live, &self.carried];
        let counted = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.sum().micro_usd));
        let model = self.cost_model();
        let raise = Spend { micro_usd: total.saturating_sub(counted), ..Spend::default() };
        self.turned.add(&model, raise);
        let mut lower = counted.saturating_sub(total).min(self.estimate.saturating_sub(in_flight));
        for spend in self.turned.values_mut() {
            let part = lower.min(spend.micro_usd);
            spend.micro_usd -= part;
            lower -= part;
        }
        self.replace_estimate(in_flight);
    }

    /// A told cost replaces what was only an estimate, downwards too; `estimate` is the part of the new
    /// cost that is one again.
    pub(crate) fn replace_estimate(&mut self, estimate: u64) {
        self.shown.micro_usd = self.shown.micro_usd.saturating_sub(self.estimate);
        self.estimate = estimate;
    }

    /// A `result` has ended a turn.
    fn end_turn(&mut self) {
        // Never back to 0, which is that of a session without a `result`.
        self.turns = self.turns.wrapping_add(1).max(1);
        self.turn = Tokens::default();
    }

    /// Replaces what was counted in the process by `told`, its `modelUsage`, or adds it where a new process
    /// has begun. What is `carried` over is taken off now and later. What is `in_flight` is no sign of a
    /// new process, since `told` cannot have it yet.
    fn settle(&mut self, told: &Tally<ModelId>, carried: Option<Tally<ModelId>>, in_flight: Spend) {
        let mut before = self.settled.clone();
        before.add_all(&self.carried);
        let counted = before.sum().plus(self.turned.sum()).plus(self.live.sum().minus(in_flight));
        let with_aborted = counted.tokens.plus(self.aborted.sum().tokens);
        let covers_aborted = !told.sum().tokens.is_below(&with_aborted, &Class::PROMPT);
        if !self.figures_have_aborted().unwrap_or(covers_aborted) {
            self.ended.add_all(&self.aborted);
        }
        // After a reset too: figures that contain what was settled and counted say that nothing was reset.
        if told.is_below(&before) || told.sum().tokens.is_below(&counted.tokens, &Class::PROMPT) {
            self.end_process(told);
        }
        if let Some(carried) = carried {
            self.carried = carried;
        }
        self.settled = told.minus(&self.carried);
        self.turned = Tally::default();
        self.begin_epoch(Tally::default());
    }

    /// The process or conversation that was counted so far is over; `told` are the figures of a new one.
    fn end_process(&mut self, told: &Tally<ModelId>) {
        self.ended.add_all(&std::mem::take(&mut self.settled));
        self.ended.add_all(&std::mem::take(&mut self.turned));
        self.carried = Tally::default();
        if let Some(before) = self.live_at_reset.take() {
            self.live = self.live.minus(&before);
            self.ended.add_all(&before);
        }
        // What was counted live beyond the new process's own figures is from the one that ended without
        // a `result`.
        let untold = self.live.excess_over(told);
        self.untold |= !untold.sum().is_zero();
        self.ended.add_all(&untold);
    }

    /// Whether the vendor's figures have aborted messages; `None` where the version is not known.
    fn figures_have_aborted(&self) -> Option<bool> {
        let [without, with] = ABORTED;
        self.version.filter(|version| *version <= without || *version >= with).map(|version| version >= with)
    }

    /// Sorts the aborted messages: those that `told`, what was spent since the last `result`, has are
    /// replaced by it as what was counted live is; the others stay. Where the version does not say it, their
    /// prompts do.
    fn sort_aborted(&mut self, told: &Tally<ModelId>, pricer: &Pricer) {
        let aborted = std::mem::take(&mut self.aborted);
        let is_told = self.figures_have_aborted().unwrap_or_else(|| {
            let mut all = self.live.clone();
            all.add_all(&aborted);
            let uncovered = Uncovered::new(&all, told, pricer);
            aborted.iter().any(|(model, spend)| !uncovered.has(*model, spend.tokens))
        });
        let to = if is_told { &mut self.live } else { &mut self.ended };
        to.add_all(&aborted);
    }

    /// Adds `told`, what was spent since the last `result`, and drops what was counted live since then,
    /// except what is `in_flight` and what is `untold`.
    fn settle_since(&mut self, told: &Tally<ModelId>, in_flight: Tally<ModelId>, untold: &Tally<ModelId>) {
        self.settled.add_all(&std::mem::take(&mut self.turned));
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
        self.live_at_reset = None;
        self.aborted = Tally::default();
        self.settlements = self.settlements.wrapping_add(1);
    }
}
