//! A run: one stream's scanner, meter and budgets, what there is to report, and why it stops.
//!
//! The relay feeds it and the watch looks at it. It does no I/O and knows no clock.

use memchr::memchr;
use serde::Serialize;

use crate::amount::{Amounts, Unit};
use crate::budget::{Budget, Budgets, ByScope, Estimate, Mode, StopAt, Threshold, Totals};
use crate::count::finding::Finding;
use crate::count::meter::Meter;
use crate::count::price::Unpriced;
use crate::count::tokens::{Classes, Counts, Spend};
use crate::notice::{Notice, Unreachable};
use crate::stream::course::{Course, NoUsage};
use crate::stream::dialect::{self, CLAUDE};
use crate::stream::foreign::Foreign;
use crate::stream::sieve::{Chunk, Sieve};

/// With so many notices waiting to be shown, further findings are dropped.
// A hostile stream could cause any number, with a model's name in each, while the screen is busy.
const FINDINGS_MAX: usize = 100;

/// Why block mode has stopped a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopReason {
    /// A budget is exceeded.
    Budget,
    /// The next call does not fit into a budget.
    NextCall,
    /// A model has no price, and `--unpriced refuse` forbids such models.
    Unpriced,
    /// The ledger is unreachable.
    Ledger,
}

/// The state of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// The command that this run is charged to.
    pub name: Option<String>,
    /// The file name of the wrapped command.
    pub program: Option<String>,
    /// What happens when a budget is exceeded.
    pub mode: Mode,
    /// When block mode stops the run.
    pub stop_at: StopAt,
    /// Which tokens count.
    pub classes: Classes,
    /// The budgets, with what is used of each.
    pub budgets: Budgets,
    /// The totals.
    pub meter: Meter,
    /// When the budgets begin anew, in words; empty where they do not.
    pub(crate) resets: String,
    bytes: u64,
    sieve: Sieve,
    notices: Vec<Notice>,
    /// The budgets that have passed a threshold, for the hooks.
    passed: Vec<(Threshold, Budget)>,
    course: Course,
    stop: Option<StopReason>,
    /// The least that the calls will use which must follow.
    next_calls: Amounts,
    /// It is to stop at the end of the line under way, since others have used the budget up, the ledger
    /// is unreachable, or an element of an array in that line has decided.
    // Not at once: half of that line has been forwarded, and the next program needs the rest to parse it.
    // Of an array on one line nothing can be saved: Claude Code writes it when all has been spent.
    stops_at_line_end: bool,
    totals: Totals,
}

/// What came of a part of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes were taken in: all, or through the end of the line that stops the run.
    pub taken: usize,
    /// A total has changed, or there is something to report.
    pub has_news: bool,
    /// Block mode: the run has just been stopped.
    pub stops: bool,
    /// Block mode: nothing is to be forwarded behind these bytes, with which a line ends.
    pub ends: bool,
}

impl Run {
    /// A run of which nothing has been seen.
    pub fn new(name: Option<String>, mode: Mode, classes: Classes, budgets: Budgets, meter: Meter) -> Self {
        Run { name, mode, classes, budgets, meter, ..Run::default() }
    }

    /// Takes in what a read gave. In block mode it stops behind the line that exceeds a budget; what
    /// it did not take can be fed again.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut fed = Fed::default();
        let allowed = match self.stops_at_line_end {
            true if self.sieve.is_at_line_start() => &[],
            true => memchr(b'\n', bytes).map_or(bytes, |newline| &bytes[..=newline]),
            false => bytes,
        };
        let mut chunk = Chunk::new(allowed);
        while !fed.ends {
            let examines = self.examines();
            self.sieve.examine(examines);
            let before = (self.meter.is_lower_bound(), self.idle_turn());
            let Some(scanned) = self.sieve.next(&mut chunk) else { break };
            let changed = scanned.record.is_some_and(|record| self.meter.record(record));
            let foreign = self.course.see(&scanned, examines);
            let (ends_line, is_foreign) = (scanned.ends_line, scanned.is_foreign);
            // A `result` that only confirms what was counted changes no total, but the mark of a lower
            // bound goes, and `--linger` begins.
            fed.has_news |= before != (self.meter.is_lower_bound(), self.idle_turn());
            self.judge(changed, &mut fed);
            fed.has_news |= self.report_foreign(foreign, is_foreign, ends_line);
            fed.ends = fed.stops && ends_line;
        }
        fed.taken = chunk.taken();
        self.bytes += fed.taken as u64;
        self.stops_at_line_end |= fed.stops && !fed.ends;
        if self.stops_at_line_end && self.sieve.is_at_line_start() {
            self.stops_at_line_end = false;
            fed.stops = true;
            fed.ends = true;
        }
        fed
    }

    /// The stream has ended: takes in a last line without a newline.
    pub fn finish(&mut self) -> Fed {
        let mut fed = Fed::default();
        let examines = self.examines();
        while let Some(scanned) = self.sieve.next_at_end() {
            let changed = scanned.record.is_some_and(|record| self.meter.record(record));
            let foreign = self.course.see(&scanned, examines);
            let (ends_line, is_foreign) = (scanned.ends_line, scanned.is_foreign);
            self.judge(changed, &mut fed);
            // A record that was cut is no text.
            let is_foreign = is_foreign && !self.sieve.is_cut();
            fed.has_news |= self.report_foreign(foreign, is_foreign, ends_line);
        }
        self.course.is_cut = self.sieve.is_cut();
        if self.course.is_cut {
            self.notify(Notice::Cut);
            fed.has_news = true;
        }
        fed
    }

    /// Whether lines are looked at for what they are: as long as nothing was counted or reported. Until
    /// then they do not pass the sieve, which looks at none.
    fn examines(&self) -> bool {
        !self.meter.usage_seen() && self.course.is_open(self.lines())
    }

    /// Reports what a line or its record is that does not count. Returns whether there is such a report.
    fn report_foreign(&mut self, record: Option<Foreign>, is_foreign: bool, ends_line: bool) -> bool {
        if !self.examines() {
            return false;
        }
        let foreign = if is_foreign { Foreign::of_line(self.sieve.head()) } else { record };
        let Some(foreign) = foreign else { return false };
        if let Foreign::Agent(agent) = &foreign {
            self.meter.agents.begin(agent);
        }
        let foreign = if self.meter.agents.know_thread() { foreign.resumed() } else { foreign };
        let line = self.lines() + u64::from(!ends_line);
        let is_new = self.course.explain(&foreign, line);
        if is_new {
            self.notify(Notice::Foreign(line, foreign));
        }
        is_new
    }

    /// The stream has ended well, as far as its writer can tell. Reports that it had no usage, where
    /// nothing has explained that yet. Returns whether that is a failure: in block mode a budget that
    /// sees no spend would let everything through.
    pub(crate) fn fails_without_usage(&mut self) -> bool {
        // An agent that tells nothing may have a usage object in its `result`, without tokens in it.
        if self.meter.usage_seen() && !self.course.tells_nothing() {
            let is_zero = self.meter.total().tokens.is_zero();
            if let Some(agent) = self.meter.agents.writer().filter(|agent| is_zero && *agent != CLAUDE) {
                self.notify(Notice::NoUsage(NoUsage::Zero(agent)));
            }
            return false;
        }
        if let Some(why) = self.course.explain_end() {
            self.notify(Notice::NoUsage(why));
        }
        self.mode == Mode::Block && self.budgets.binding().next().is_some()
    }

    /// Whether the run may start: its estimate fits beside what other runs have reserved, or only a
    /// warning is wanted where it does not.
    pub(crate) fn admit(&mut self, estimate: Estimate, reserved: ByScope) -> bool {
        let Some(unfit) = self.budgets.unfit(estimate, reserved) else { return true };
        self.notify(Notice::Unfit(unfit));
        self.mode == Mode::Warn
    }

    /// Takes in the ledger's totals before the start.
    pub(crate) fn start_with(&mut self, totals: Totals, by_command: impl Fn(&str) -> Spend) {
        self.totals = totals;
        let classes = self.classes;
        self.budgets.set_all(|name| Amounts::of(&name.map_or(Spend::default(), &by_command), classes));
        // Last, for those that bind: the ledger does not have yet what this run has just spent.
        self.budgets.set(self.used());
    }

    /// Takes in the ledger's totals while running. Returns whether they have changed.
    pub(crate) fn update(&mut self, totals: Totals, by_command: impl Fn(&str) -> Spend) -> bool {
        if self.totals == totals {
            // The look comes every second; most find nothing, and would redraw the bars for it.
            return false;
        }
        self.start_with(totals, by_command);
        let mut fed = Fed::default();
        self.charge(&mut fed);
        self.stops_at_line_end |= fed.stops;
        true
    }

    /// Whether the run has used more, since the ledger last took in its spend, than was left of what
    /// it `reserved`, in a unit that is limited.
    pub(crate) fn has_outspent(&self, reserved: Amounts) -> bool {
        // As amounts: what has only moved between classes is not new.
        let [live, own] = [self.meter.total(), self.totals.own].map(|spend| Amounts::of(&spend, self.classes));
        let new = live.minus(own);
        self.left_of(reserved).any(|(unit, left)| new.get(unit) > left)
    }

    /// Whether anything of what it `reserved` was left then.
    pub(crate) fn has_reservation_left(&self, reserved: Amounts) -> bool {
        self.left_of(reserved).all(|(_, left)| left > 0)
    }

    fn left_of(&self, reserved: Amounts) -> impl Iterator<Item = (Unit, u64)> {
        let left = reserved.minus(Amounts::of(&self.totals.own, self.classes));
        [Unit::Tokens, Unit::Usd]
            .into_iter()
            .filter(|unit| self.budgets.has(*unit))
            .map(move |unit| (unit, left.get(unit)))
    }

    /// Block mode: stops at the end of the line under way, because the ledger is unreachable.
    pub(crate) fn stop_without_ledger(&mut self, why: Unreachable) {
        if self.stop.is_none() {
            self.stop = Some(StopReason::Ledger);
            self.stops_at_line_end = true;
            self.notify(Notice::Unreachable(why));
        }
    }

    /// The agent that told its usage last, or whose records came where none did, by its name.
    pub(crate) fn agent(&self) -> Option<&'static str> {
        self.meter.agents.writer().or_else(|| self.course.agent().map(|agent| agent.agent))
    }

    /// Whether the program that writes the stream goes on after TERM, and ends on INT.
    pub(crate) fn needs_interrupt(&self) -> bool {
        let run = self.program.as_deref().and_then(dialect::agent_named).map(|agent| agent.agent);
        run.or(self.agent()).is_some_and(dialect::needs_interrupt)
    }

    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.stop
    }

    /// Block mode: whether the run was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether nothing more is to be forwarded: it was stopped, and a line has just ended.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.is_stopped() && self.sieve.is_at_line_start()
    }

    /// What is used, with this run's own spend as it is now.
    fn used(&self) -> ByScope {
        // The ledger's word for `own` is taken, not this run's for what it has sent: a write may be lost.
        self.totals.used(self.meter.total(), self.classes)
    }

    /// The budgets that have passed a threshold since the last call.
    pub(crate) fn take_passed(&mut self) -> Vec<(Threshold, Budget)> {
        std::mem::take(&mut self.passed)
    }

    /// The number of the turn that a `result` has ended, as long as nothing of another has come.
    pub(crate) fn idle_turn(&self) -> Option<u64> {
        self.course.idle_turn()
    }

    /// What is to be reported since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Bytes taken in.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Complete lines, and a last one without a newline.
    pub fn lines(&self) -> u64 {
        self.sieve.lines()
    }

    /// Tokens that count towards the budgets.
    pub fn counted(&self) -> u64 {
        self.classes.count(&self.meter.total().tokens)
    }

    /// Judges the budgets after a line, and passes on what the meter found out.
    fn judge(&mut self, changed: bool, fed: &mut Fed) {
        let mut findings = self.meter.take_findings();
        // Where nothing is limited in dollars, the report at the end mentions models without a price.
        let prices_matter = self.refuses_unpriced() || self.budgets.has(Unit::Usd);
        findings.retain(|finding| prices_matter || !matches!(finding, Finding::Unpriced(_)));
        fed.has_news |= changed || !findings.is_empty();
        for finding in findings {
            if matches!(finding, Finding::Unpriced(_)) && self.refuses_unpriced() && self.mode == Mode::Block {
                fed.stops = true;
                // The first reason stays: a wrapped command goes on spending while it is being ended.
                self.stop = self.stop.or(Some(StopReason::Unpriced));
            }
            self.notify(Notice::Finding(finding));
        }
        let next_calls = self.meter.take_next_calls();
        if let Some(next) = next_calls {
            self.next_calls = Amounts::of(&next, self.classes);
            // Which class the next prompt will be in depends on the cache.
            self.next_calls.tokens *= u64::from(self.classes.have_prompts());
        }
        if changed || next_calls.is_some() {
            self.charge(fed);
        }
    }

    fn charge(&mut self, fed: &mut Fed) {
        for (threshold, budget) in self.budgets.charge(self.used()) {
            if threshold == Threshold::Limit && self.mode == Mode::Block {
                fed.stops = true;
                self.stop = self.stop.or(Some(StopReason::Budget));
            }
            self.passed.push((threshold, budget.clone()));
            self.notify(Notice::Budget(threshold, budget, self.meter.is_lower_bound()));
        }
        if self.mode == Mode::Block && self.stop_at == StopAt::Before && self.stop.is_none() {
            self.look_ahead(fed);
        }
    }

    /// Stops the run where the calls that must follow do not fit.
    fn look_ahead(&mut self, fed: &mut Fed) {
        let Some(budget) = self.budgets.short_of(self.next_calls).cloned() else { return };
        self.stop = Some(StopReason::NextCall);
        (fed.stops, fed.has_news) = (true, true);
        self.passed.push((Threshold::Limit, budget.clone()));
        let need = self.next_calls.get(budget.unit);
        self.notify(Notice::NextCall(budget, need));
    }

    fn refuses_unpriced(&self) -> bool {
        *self.meter.prices().unpriced() == Unpriced::Refuse
    }

    fn notify(&mut self, notice: Notice) {
        // A budget's notices are never dropped: they are few, since each threshold is reported once.
        if self.notices.len() < FINDINGS_MAX || !matches!(notice, Notice::Finding(_)) {
            self.notices.push(notice);
        }
    }
}
