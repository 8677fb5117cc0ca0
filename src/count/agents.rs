//! What other agents than Claude Code tell of themselves, brought into their sessions.

use std::hash::{BuildHasher, RandomState};

use crate::count::finding::Finding;
use crate::count::marks::Marks;
use crate::count::pricer::Pricer;
use crate::count::session::Session;
use crate::count::sessions::Sessions;
use crate::count::tally::Tally;
use crate::count::tokens::{Class, Counts, Spend, Tokens, Usage};
use crate::stream::dialect::{Adds, Dialect, Tells, Told};
use crate::stream::record::Record;

/// Of so many threads of a stream the marks are kept, the newest ones, and for a while of twice as many.
// A loop has one thread after the other. A ledger gets those that have changed five times a second.
const OWN_MARKS: usize = 256;

/// What is known of other agents.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// The thread or session that was named last; empty where none was.
    named: String,
    threads: Threads,
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
        // Codex names the thread in a record of its own.
        if let Some(thread) = record.thread().filter(|thread| *thread != self.named) {
            self.named.clear();
            self.named.push_str(thread);
        }
        let (dialect, mut told) = record.told()?;
        let id = record.session().unwrap_or(&self.named);
        let session = sessions.find(hasher.hash_one(id), pricer.id(None));
        let before = sessions[session].shown;
        let mut findings = Vec::new();
        if told.iter().any(|told| told.differs) && !std::mem::replace(&mut self.has_differed, true) {
            findings.push(Finding::TotalDiffers(dialect.agent));
        }
        if dialect.adds == Adds::Cumulative {
            let carried = self.threads.take_off(id, &mut told);
            findings.extend(carried.map(Finding::CarriedOver));
        }
        tell(dialect, &told, &mut sessions[session], pricer);
        self.calls = self.calls.saturating_add(u64::from(dialect.adds != Adds::Settles));
        Some(Telling { session, before, findings })
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
    /// Takes off what `told`, the figures of a whole thread, has from before, and remembers them. Returns
    /// what earlier runs had counted of it, the first time.
    fn take_off(&mut self, id: &str, told: &mut [Told<'_>]) -> Option<Tokens> {
        let all = told.iter().fold(Tokens::default(), |sum, told| sum.plus(told.usage.tokens));
        let own = self.own.get(id);
        // Where they are lower, the thread has begun anew.
        let mark = own.or_else(|| self.known.get(id)).filter(|mark| !all.is_below(mark, &Class::ALL));
        let mut left = mark.unwrap_or_default();
        for Told { usage, .. } in told {
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
        // Only the prompt of one call can be above the bound of a price.
        let prompt = if dialect.tells == Tells::Live { usage.tokens.prompt() } else { 0 };
        let own = pricer.cost_at(model, &Usage { tokens: usage.tokens, ..Usage::default() }, prompt);
        let is_told = cost.filter(|_| !pricer.overrides(model));
        estimate = estimate.saturating_add(if own.is_estimate && is_told.is_none() { own.micro_usd } else { 0 });
        let micro_usd = is_told.unwrap_or(own.micro_usd);
        tally.add(&model, Spend { tokens: usage.tokens, micro_usd });
    }
    match dialect.adds {
        Adds::Each | Adds::Cumulative => session.settled.add_all(&tally),
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
