//! What other agents than Claude Code tell of themselves, brought into their sessions.

use std::hash::{BuildHasher, RandomState};

use crate::count::finding::Finding;
use crate::count::pricer::Pricer;
use crate::count::session::Session;
use crate::count::sessions::Sessions;
use crate::count::tally::Tally;
use crate::count::tokens::{Class, Spend, Usage};
use crate::stream::dialect::{Adds, Dialect, Tells, Told};
use crate::stream::record::Record;

/// What is known of other agents.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// Hash of the thread or session that was named last.
    thread: Option<u64>,
    /// How many records told what a call, a turn or a run used.
    calls: u64,
    /// An agent whose total was not the sum of its parts has been reported.
    has_differed: bool,
}

/// What came of a record that tells usage.
#[derive(Debug)]
pub(crate) struct Telling {
    /// The index of its session, and what that showed before.
    pub(crate) session: usize,
    pub(crate) before: Spend,
    pub(crate) findings: Vec<Finding>,
}

impl Agents {
    /// Takes in a record. Returns what came of it where it tells usage.
    pub(crate) fn tell(
        &mut self,
        record: &Record,
        sessions: &mut Sessions,
        pricer: &mut Pricer,
        hasher: &RandomState,
    ) -> Option<Telling> {
        // Codex names the thread in a record of its own.
        if let Some(thread) = record.thread() {
            self.thread = Some(hasher.hash_one(thread));
        }
        let (dialect, told) = record.told()?;
        let own = record.session().map(|session| hasher.hash_one(session));
        let id = own.or(self.thread).unwrap_or_else(|| hasher.hash_one(""));
        let session = sessions.find(id, pricer.id(None));
        let before = sessions[session].shown;
        let mut findings = Vec::new();
        if told.iter().any(|told| told.differs) && !std::mem::replace(&mut self.has_differed, true) {
            findings.push(Finding::TotalDiffers(dialect.agent));
        }
        tell(dialect, &told, &mut sessions[session], pricer);
        self.calls = self.calls.saturating_add(u64::from(dialect.adds != Adds::Settles));
        Some(Telling { session, before, findings })
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }
}

/// Takes what a record says into its session.
fn tell(dialect: &Dialect, told: &[Told<'_>], session: &mut Session, pricer: &mut Pricer) {
    let (mut tally, mut estimate) = (Tally::default(), 0_u64);
    for Told { model, usage, cost, .. } in told {
        let model = pricer.id(*model);
        // Only the prompt of one call can be above the bound of a price.
        let prompt = if dialect.tells == Tells::Live { usage.tokens.prompt() } else { 0 };
        let own = pricer.cost_at(model, &Usage { tokens: usage.tokens, ..Usage::default() }, prompt);
        let is_told = cost.filter(|_| !pricer.overrides(model));
        estimate = estimate.saturating_add(if own.is_estimate && is_told.is_none() { own.micro_usd } else { 0 });
        let micro_usd = is_told.unwrap_or(own.micro_usd);
        tally.add(&model, Spend { tokens: usage.tokens, micro_usd });
    }
    match dialect.adds {
        Adds::Each => session.settled.add_all(&tally),
        Adds::Live => {
            session.live.add_all(&tally);
            session.estimate = session.estimate.saturating_add(estimate);
        }
        Adds::Settles => {
            session.replace_estimate(0);
            session.live = Tally::default();
            session.settled.add_all(&tally);
        }
        // Where they are lower, the thread has begun anew.
        Adds::Cumulative => {
            let before = std::mem::replace(&mut session.settled, tally);
            if session.settled.sum().tokens.is_below(&before.sum().tokens, &Class::ALL) {
                session.ended.add_all(&before);
            }
        }
        Adds::AsClaude => {}
    }
}
