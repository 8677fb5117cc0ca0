//! What other agents than Claude Code tell of themselves, brought into their sessions.

use std::hash::{BuildHasher, RandomState};

use crate::count::finding::Finding;
use crate::count::marks::Marks;
use crate::count::pricer::Pricer;
use crate::count::session::Session;
use crate::count::sessions::Sessions;
use crate::count::tally::Tally;
use crate::count::tokens::{Class, Counts, Spend, Tokens, Usage};
use crate::stream::dialect::{Adds, Dialect, Tells};
use crate::stream::paths::Owner;
use crate::stream::record::Record;
use crate::stream::told::Told;

/// Of so many threads of a stream the marks are kept, the newest ones, and for a while of twice as many.
// A loop has one thread after the other. A ledger gets those that have changed five times a second.
const OWN_MARKS: usize = 256;

/// What is known of other agents.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// The thread or session that was named last, and the agent that named it; empty where none was.
    named: String,
    named_by: &'static str,
    threads: Threads,
    /// The agent that told its usage last, or of which a record came that others do not write.
    writer: Option<&'static str>,
    /// The agent of a run that has begun and has not told yet what it used.
    open: Option<&'static str>,
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

/// The marks of threads whose figures are cumulative.
#[derive(Debug, Default)]
struct Threads {
    /// Those that the ledger had at the start.
    known: Marks,
    /// Those of this stream.
    own: Marks,
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
        // Some agents name the thread in a record of its own.
        if let Some((of, thread)) = record.thread() {
            self.begin(of);
            if (self.named_by, self.named.as_str()) != (of.agent, thread) {
                (self.named, self.named_by) = (thread.to_owned(), of.agent);
            }
        }
        let (dialect, mut told) = record.told()?;
        self.writer = Some(dialect.agent);
        self.open = self.open.filter(|open| *open != dialect.agent);
        let named = if self.named_by == dialect.agent { &self.named } else { "" };
        let id = record.session().unwrap_or(named);
        let session = sessions.find(hasher.hash_one((dialect.agent, id)), pricer.id(None));
        let before = sessions[session].shown;
        let mut findings = Vec::new();
        if told.iter().any(|told| told.differs) && !std::mem::replace(&mut self.has_differed, true) {
            findings.push(Finding::TotalDiffers(dialect.agent));
        }
        if dialect.is_cumulative {
            let carried = self.threads.take_off(id, told.iter_mut().map(|told| &mut told.usage));
            findings.extend(carried.map(Finding::CarriedOver));
        }
        tell(dialect, &told, &mut sessions[session], pricer);
        self.calls = self.calls.saturating_add(u64::from(dialect.adds != Adds::Settles));
        Some(Telling { session, before, findings })
    }

    /// What the turn used whose `result` this is, and what there is to tell of it: the record may have the
    /// figures of the whole session. `seen` is what its messages used.
    pub(crate) fn turn(&mut self, record: &Record, seen: Option<Tokens>) -> (Tokens, Option<Finding>) {
        let mut usage = record.usage(Owner::Turn).unwrap_or_default();
        let Some(of) = record.usage_of(Owner::Turn).filter(|of| of.is_cumulative) else { return (usage.tokens, None) };
        let id = record.session().unwrap_or_default();
        let is_known = self.threads.has(id);
        let carried = self.threads.take_off(id, [&mut usage]);
        let beyond = seen.map(|seen| usage.tokens.minus(seen)).filter(|beyond| !is_known && !beyond.is_zero());
        let may_carry = beyond.map(|beyond| Finding::MayCarry(of.agent, beyond));
        (usage.tokens, carried.map(Finding::CarriedOver).or(may_carry))
    }

    /// This agent wrote a record, where that is known.
    pub(crate) fn wrote(&mut self, agent: Option<&'static str>) {
        self.writer = agent.or(self.writer);
    }

    /// The agent that told its usage last, or of which a record came that others do not write.
    pub(crate) fn writer(&self) -> Option<&'static str> {
        self.writer
    }

    /// A run of this agent has begun: where it tells its usage at its end, something is untold from here on.
    // Once usage of others has come, this is noticed only of an agent that names its thread: the sieve skips the
    // first records of the others.
    pub(crate) fn begin(&mut self, of: &Dialect) {
        if of.tells == Tells::AtEnd {
            self.open = Some(of.agent);
        }
    }

    /// Whether a run has begun that has not told what it used.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// The marks that the ledger has at the start.
    pub(crate) fn know(&mut self, known: Marks) {
        self.threads.known = known;
    }

    /// Whether the ledger had a mark of the thread that was named last.
    pub(crate) fn know_thread(&self) -> bool {
        self.threads.known.get(&self.named).is_some()
    }

    /// The marks of this stream, for the ledger to keep.
    pub(crate) fn marks(&self) -> Marks {
        let mut marks = self.threads.own.clone();
        // Nobody can tell which thread it was that had no name.
        marks.remove("");
        marks
    }
}

impl Threads {
    /// Whether anything is known of a thread.
    fn has(&self, id: &str) -> bool {
        self.own.get(id).or_else(|| self.known.get(id)).is_some()
    }

    /// Takes off what `told`, the figures of a whole thread, has from before, and remembers them. Returns
    /// what earlier runs had counted of it, the first time.
    fn take_off<'a>(&mut self, id: &str, told: impl IntoIterator<Item = &'a mut Usage>) -> Option<Tokens> {
        let told: Vec<_> = told.into_iter().collect();
        let all = told.iter().fold(Tokens::default(), |sum, usage| sum.plus(usage.tokens));
        // Zero is told after some errors: the thread has not begun anew.
        if all.is_zero() {
            return None;
        }
        let own = self.own.get(id);
        // Where they are lower, the thread has begun anew.
        let mark = own.or_else(|| self.known.get(id)).filter(|mark| !all.is_below(mark, &Class::ALL));
        let mut left = mark.unwrap_or_default();
        for usage in told {
            let part = usage.tokens.min(left);
            (usage.tokens, left) = (usage.tokens.minus(part), left.minus(part));
        }
        self.own.set(id, all);
        self.own.keep(OWN_MARKS);
        mark.filter(|mark| own.is_none() && !mark.is_zero())
    }
}

/// Takes what a record says into its session.
fn tell(dialect: &Dialect, told: &[Told<'_>], session: &mut Session, pricer: &mut Pricer) {
    let (mut tally, mut estimate) = (Tally::default(), 0_u64);
    for Told { model, usage, cost, .. } in told {
        let model = pricer.id(*model);
        let mut tokens = usage.tokens;
        let mut cost = cost.filter(|_| !pricer.has_own_price(model));
        if dialect.adds == Adds::Settles {
            // It may lack what spawned agents used, which was counted live, and their part of the cost.
            tokens = tokens.max(session.live.sum().tokens);
            cost = cost.map(|cost| pricer.scaled(cost, model, usage.tokens, tokens));
        }
        // A cost that is told needs no price. Only the prompt of one call can be above the bound of one.
        let prompt = if dialect.tells == Tells::Live { tokens.prompt() } else { 0 };
        let usage = Usage { tokens, ..Usage::default() };
        let micro_usd = cost.unwrap_or_else(|| {
            let own = pricer.cost_at(model, &usage, prompt);
            estimate = estimate.saturating_add(if own.is_estimate { own.micro_usd } else { 0 });
            own.micro_usd
        });
        tally.add(&model, Spend { tokens, micro_usd });
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
        Adds::AsClaude => {}
    }
}
