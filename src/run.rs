//! A run: one stream's scanner, meter and budgets, and what there is to say about them.
//!
//! This is what the relay feeds and the watch looks at. It does no I/O and knows no clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memchr::memchr;

use crate::amount::Unit;
use crate::budget::{Budget, Budgets, Cause, Estimate, Mode, Sum, Sums};
use crate::count::meter::{Finding, Meter};
use crate::count::price::{Prices, Unpriced};
use crate::count::tokens::{Classes, Spend};
use crate::ledger::Shared;
use crate::stream::scan::Scanned;
use crate::stream::sieve::{Chunk, Sieve};

/// With so many notices waiting to be shown, further findings are dropped: a hostile stream could
/// cause any number.
const FINDINGS_MAX: usize = 100;

/// Something to say on stderr, once.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A budget is nearly used up, or exceeded; and whether what is used was a lower bound then.
    Budget(Cause, Budget, bool),
    /// The estimate, in the budget's unit, does not fit into this budget, beside what others hold of it.
    Unfit(Budget, u64, u64),
    /// What the meter found out about the stream.
    Finding(Finding),
    /// Block mode stops for want of the ledger.
    Cut(Cut),
}

/// Why block mode stops a run whose ledger is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It has been so for as long as `--offline-grace` allows.
    Grace(Duration),
    /// The run has used what it had reserved.
    Reservation,
}

/// The state of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// The command that this run is charged to.
    pub name: Option<String>,
    /// What happens on excess.
    pub mode: Mode,
    /// Which tokens count.
    pub classes: Classes,
    /// The budgets, with what is used of each.
    pub budgets: Budgets,
    /// The totals.
    pub meter: Meter,
    /// Bytes taken in.
    pub bytes: u64,
    sieve: Sieve,
    notices: Vec<Notice>,
    /// What hooks have yet to be run for.
    alarms: Vec<(Cause, Budget)>,
    /// Result lines so far, and whether no message has come since the last.
    turns: u64,
    rests: bool,
    tripped: bool,
    /// Others have exceeded a budget: it trips at the next end of a line.
    trip_waits: bool,
    /// What is used together with others.
    shared: Shared,
    cut: Option<Cut>,
}

/// What came of a part of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes were taken in: all, or through the end of the line that tripped.
    pub taken: usize,
    /// A total has changed or there is something to say.
    pub news: bool,
    /// Block mode: a budget has just been exceeded.
    pub tripped: bool,
}

impl Run {
    /// A run of which nothing has been seen.
    #[must_use]
    pub fn new(name: Option<String>, mode: Mode, classes: Classes, budgets: Budgets, prices: Prices) -> Self {
        Run { name, mode, classes, budgets, meter: Meter::new(prices), ..Run::default() }
    }

    /// Takes in what a read gave. In block mode it stops behind the line that exceeds a budget;
    /// what it did not take can be fed again, and trips no second time.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut fed = Fed::default();
        // Where others have exceeded a budget, no line begins any more.
        let allowed = match self.trip_waits {
            true if self.sieve.is_at_line_start() => &[],
            true => through_newline(bytes),
            false => bytes,
        };
        let mut chunk = Chunk::new(allowed);
        while !fed.tripped {
            let before = (self.meter.is_lower_bound(), self.rest());
            let Some(scanned) = self.sieve.next_line(&mut chunk) else { break };
            let changed = record(&mut self.meter, &scanned);
            match scanned.line.map(|line| (line.kind.get(), line.subtype.get())) {
                Some((Some("result"), _)) => (self.turns, self.rests) = (self.turns.wrapping_add(1), true),
                Some((Some("assistant" | "stream_event"), _) | (Some("system"), Some("init"))) => self.rests = false,
                _ => {}
            }
            // A result line may only confirm what was counted.
            fed.news |= before != (self.meter.is_lower_bound(), self.rest());
            self.judge(changed, &mut fed);
        }
        fed.taken = chunk.taken();
        self.bytes += fed.taken as u64;
        if self.trip_waits && self.sieve.is_at_line_start() {
            self.trip_waits = false;
            fed.tripped = true;
        }
        fed
    }

    /// The stream has ended: takes in a last line without a newline.
    pub fn finish(&mut self) -> Fed {
        let mut fed = Fed::default();
        if let Some(scanned) = self.sieve.last_line() {
            let changed = record(&mut self.meter, &scanned);
            self.judge(changed, &mut fed);
        }
        fed
    }

    /// Whether `estimate` fits beside what the runs that are alive hold; where it does not, that is
    /// said, and block mode must not start.
    pub fn admit(&mut self, estimate: Estimate, held: Sums) -> bool {
        let Some(budget) = self.budgets.refusal(estimate, held) else { return true };
        let held = held.unit(budget.command.is_some(), budget.unit);
        let notice = Notice::Unfit(budget.clone(), estimate.of(budget.unit, budget.limit), held);
        self.say(notice);
        self.mode == Mode::Warn
    }

    /// Takes in what is used together with others, before the start.
    pub fn begin_with(&mut self, shared: Shared, by_command: impl Fn(&str) -> Spend) {
        self.shared = shared;
        self.budgets.set(self.used());
        let classes = self.classes;
        self.budgets.set_others(|name| Sum::of(&by_command(name), classes));
    }

    /// Takes in what is used together with others while running. Returns whether that is news.
    pub fn share(&mut self, shared: Shared, by_command: impl Fn(&str) -> Spend) -> bool {
        if self.shared == shared {
            return false;
        }
        self.begin_with(shared, by_command);
        let mut fed = Fed::default();
        self.charge(&mut fed);
        self.trip_waits |= fed.tripped;
        true
    }

    /// Whether more has been used, since the ledger last heard of this run, than was left then of what
    /// it `reserved`, in a unit that is limited.
    #[must_use]
    pub fn has_outspent(&self, reserved: Sum) -> bool {
        let new = Sum::of(&self.unshared(), self.classes);
        self.left_of(reserved).any(|(unit, left)| new.unit(unit) > left)
    }

    /// Whether anything was left then.
    #[must_use]
    pub fn has_reserved(&self, reserved: Sum) -> bool {
        self.left_of(reserved).all(|(_, left)| left > 0)
    }

    fn left_of(&self, reserved: Sum) -> impl Iterator<Item = (Unit, u64)> {
        let left = reserved.less(Sum::of(&self.shared.own, self.classes));
        [Unit::Tokens, Unit::Usd]
            .into_iter()
            .filter(|unit| self.budgets.has(*unit))
            .map(move |unit| (unit, left.unit(unit)))
    }

    /// Block mode: it stops at the next end of a line, since its ledger is out of reach.
    pub fn cut(&mut self, cut: Cut) {
        if !self.tripped {
            (self.tripped, self.trip_waits, self.cut) = (true, true, Some(cut));
            self.say(Notice::Cut(cut));
        }
    }

    /// Why it was stopped, where its ledger was out of reach.
    #[must_use]
    pub fn was_cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Whether nothing more is to be forwarded: a budget is exceeded, and a line has just ended.
    #[must_use]
    pub fn is_at_its_end(&self) -> bool {
        self.tripped && self.sieve.is_at_line_start()
    }

    /// What is used, this run's own and not yet recorded use included.
    fn used(&self) -> Sums {
        let new = self.unshared();
        let of = |spend: Spend| Sum::of(&spend.plus(new), self.classes);
        Sums { overall: of(self.shared.overall), command: of(self.shared.command) }
    }

    /// What this run has used and the ledger has not heard of, as far as is known here.
    fn unshared(&self) -> Spend {
        self.meter.total().less(self.shared.own)
    }

    /// The budgets that have come near their limit or exceeded it since the last call.
    pub fn alarms(&mut self) -> Vec<(Cause, Budget)> {
        std::mem::take(&mut self.alarms)
    }

    /// The number of the turn that a result line has ended, as long as no message of another has come.
    #[must_use]
    pub fn rest(&self) -> Option<u64> {
        self.rests.then_some(self.turns)
    }

    /// What is to be said since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Block mode: whether a budget has been exceeded.
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.tripped
    }

    /// Complete lines, and a last one without a newline.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.sieve.lines()
    }

    /// Tokens that count towards the budgets.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.classes.count(&self.meter.total())
    }

    fn judge(&mut self, changed: bool, fed: &mut Fed) {
        let mut findings: Vec<_> = self.meter.findings().collect();
        // Where nothing is limited in dollars the report says it early enough.
        let money_matters = self.refuses_unpriced() || self.budgets.has(Unit::Usd);
        findings.retain(|finding| money_matters || !matches!(finding, Finding::Unpriced(_)));
        fed.news |= changed || !findings.is_empty();
        for finding in findings {
            if matches!(finding, Finding::Unpriced(_)) && self.refuses_unpriced() && self.mode == Mode::Block {
                fed.tripped = true;
                self.tripped = true;
            }
            self.say(Notice::Finding(finding));
        }
        if !changed {
            return;
        }
        self.charge(fed);
    }

    fn charge(&mut self, fed: &mut Fed) {
        for (cause, budget) in self.budgets.charge(self.used()) {
            fed.tripped |= cause == Cause::Exceeded && self.mode == Mode::Block;
            self.tripped |= fed.tripped;
            let is_bound = self.meter.is_lower_bound();
            self.alarms.push((cause, budget.clone()));
            self.say(Notice::Budget(cause, budget, is_bound));
        }
    }

    /// Whether a model without a price must not be used.
    #[must_use]
    pub fn refuses_unpriced(&self) -> bool {
        *self.meter.unpriced_rule() == Unpriced::Refuse
    }

    fn say(&mut self, notice: Notice) {
        // Of budgets and causes there are only so many, and they are said once.
        if self.notices.len() < FINDINGS_MAX || !matches!(notice, Notice::Finding(_)) {
            self.notices.push(notice);
        }
    }
}

/// Locks what the relay and the watch share. A holder that panicked left it usable.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of `bytes` through the first newline.
fn through_newline(bytes: &[u8]) -> &[u8] {
    memchr(b'\n', bytes).map_or(bytes, |newline| &bytes[..=newline])
}

/// Whether the line has changed a total.
fn record(meter: &mut Meter, scanned: &Scanned<'_>) -> bool {
    scanned.line.is_some_and(|line| meter.record(line))
}
