//! Settlement: what becomes of a session at a `result` record, which has the vendor's own figures.
//!
//! From 2.1.309 on Claude Code says what was spent since the last `result`; before, what its process has
//! spent in all, and in the beginning what one turn of the main loop used.

use crate::count::message::Messages;
use crate::count::pricer::Pricer;
use crate::count::session::{FirstResult, Session};
use crate::count::tally::Tally;
use crate::count::tokens::{Counts, Spend, Tokens};
use crate::stream::paths::{Owner, Span};
use crate::stream::record::{ModelUsage, Record};

/// Settles a session. Returns the tokens that were taken off, since earlier processes had spent them.
/// `resumes` says whether the wrapped command resumes a session; `None` for a filter.
pub(crate) fn settle(
    record: &Record,
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
        (None, None) => settle_turn(record, session, pricer),
    }
    session.end_turn();
    carried.filter(|tokens| !tokens.is_zero())
}

/// By what was spent since the last `result`.
fn settle_since(models: &[ModelUsage], session: &mut Session, messages: &mut Messages, pricer: &mut Pricer) {
    let (told, estimate) = told(models, None, session, pricer);
    session.replace_estimate(estimate);
    let mut uncovered = session.uncovered(&told);
    session.keep_aborted(&mut uncovered);
    let in_flight = messages.keep_in_flight(session.id, session.settlements, &mut uncovered);
    let untold = match uncovered.is_zero() {
        true => Tally::default(),
        false => pricer.at_least_priced(session.untold_beyond(&told, &in_flight)),
    };
    session.settle_since(&told, in_flight, &untold);
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
    let in_flight = messages.spend_in_flight(session.id, session.settlements);
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
fn settle_turn(record: &Record, session: &mut Session, pricer: &mut Pricer) {
    let usage = record.usage(Owner::Turn).unwrap_or_default().tokens;
    let missing = pricer.priced(session.cost_model(), usage.minus(session.turn));
    let total_cost = record.total_cost.filter(|_| !pricer.overrides(session.cost_model()));
    session.settle_turn(usage, missing, total_cost);
}

/// What the entries of a `result` say was spent, and how much of the cost is an estimate.
fn told(models: &[ModelUsage], total: Option<u64>, session: &Session, pricer: &mut Pricer) -> (Tally<usize>, u64) {
    pricer.told(models, total, |model, writes| session.share_1h(model, writes))
}
