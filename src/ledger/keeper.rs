//! A run's account with its ledger: when to record what was used, and when to look at what others
//! have used. Failures are said once; the stream goes on.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::budget::{Estimate, Mode, Sum, Sums};
use crate::count::tokens::Spend;
use crate::ledger::{Admission, Ledger, Place, Request, Unusable};
use crate::run::{Cut, Run, lock};
use crate::show::report::span;

/// Use is recorded at most this often.
const RECORD: Duration = Duration::from_millis(200);

/// Where the lock was not had, it is tried again after this; where the disk failed, after the other.
const BUSY: Duration = Duration::from_millis(50);
const FAILED: Duration = Duration::from_secs(1);

/// How often the ledger is looked at for what others used.
const LOOK: Duration = Duration::from_secs(1);

/// A ledger in use by a run.
#[derive(Debug)]
pub struct Account {
    ledger: Ledger,
    /// What the run has reserved.
    reserved: Sum,
    /// Block mode, and a budget that binds it: where the ledger stays away it is to stop.
    is_bound: bool,
    /// Others' use matters.
    limited: bool,
    /// When to record next; `None` where nothing is new.
    record: Option<Instant>,
    /// When to look next; `None` where nothing is limited and the bell has not rung.
    look: Option<Instant>,
    last_record: Option<Instant>,
    recorded: Spend,
    failed: bool,
}

/// The time in Unix seconds.
#[must_use]
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Account {
    /// An account with a ledger that has admitted the run, and holds `reserved` for it. It must not
    /// go on for long without where it `is_bound`; others' use matters where it is `limited`.
    #[must_use]
    pub fn new(ledger: Ledger, reserved: Sum, is_bound: bool, limited: bool) -> Self {
        Account {
            ledger,
            reserved,
            is_bound,
            limited,
            record: None,
            look: limited.then(|| Instant::now() + LOOK),
            last_record: None,
            recorded: Spend::default(),
            failed: false,
        }
    }

    /// Whether others' use is looked at.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// When there is something to do next.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.record.into_iter().chain(self.look).min()
    }

    /// Readable when there is something to look at before that.
    #[must_use]
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.ledger.bell()
    }

    /// The bell has rung.
    pub fn called(&mut self) {
        self.look = Some(Instant::now());
    }

    /// The run has news: what it used is to be recorded soon.
    pub fn news(&mut self, run: &Run) {
        if self.record.is_none() && run.meter.total() != self.recorded {
            let now = Instant::now();
            self.record = Some(self.last_record.map_or(now, |last| (last + RECORD).max(now)));
        }
    }

    /// Does what is due. Returns whether others' use has changed, and what to say, if anything.
    pub fn step(&mut self, run: &Mutex<Run>) -> (bool, Option<String>) {
        let now = Instant::now();
        let mut look = self.look.is_some_and(|due| due <= now);
        let mut result = Ok(());
        if self.record.is_some_and(|due| due <= now) {
            let (models, total) = {
                let run = lock(run);
                (models(&run), run.meter.total())
            };
            match self.ledger.spend(&models, unix_now()) {
                Ok(true) => {
                    self.recorded = total;
                    self.last_record = Some(now);
                    self.record = None;
                    look = true;
                }
                Ok(false) => self.record = Some(now + BUSY),
                Err(error) => {
                    self.record = Some(now + FAILED);
                    result = Err(error);
                }
            }
        }
        let mut changed = false;
        if look {
            self.look = self.limited.then(|| now + LOOK);
            result = self.ledger.look(unix_now()).and(result);
            changed = self.share(&mut lock(run));
        }
        changed |= self.does_without(&mut lock(run));
        let said = self.failed;
        // One that has come back can go away again.
        self.failed = result.is_err() || said && !self.ledger.is_back();
        let error = result.err().filter(|_| !said);
        let words = error.map(|error| format!("{error}; going on{}", self.how_long(&lock(run))));
        (changed, words.or_else(|| self.ledger.note()))
    }

    /// Block mode: cuts the run off where it may not go on without a ledger that is out of reach. Returns
    /// whether it did.
    fn does_without(&mut self, run: &mut Run) -> bool {
        let Some((since, grace)) = self.ledger.away().filter(|_| self.is_bound) else { return false };
        let due = since + grace;
        let cut = if Instant::now() >= due {
            Cut::Grace(grace)
        } else if run.has_outspent(self.reserved) {
            Cut::Reservation
        } else {
            self.look = self.look.map(|look| look.min(due));
            return false;
        };
        let is_news = !run.tripped();
        run.cut(cut);
        is_news
    }

    /// How long the run goes on without a ledger that is out of reach.
    fn how_long(&self, run: &Run) -> String {
        let Some((_, grace)) = self.ledger.away().filter(|_| self.is_bound) else { return String::new() };
        if run.has_reserved(self.reserved) {
            format!(" for {} within what is reserved (--offline-grace)", span(grace.as_secs_f64()))
        } else {
            " until it uses more, since what was reserved is used up (--estimate)".to_owned()
        }
    }

    fn share(&self, run: &mut Run) -> bool {
        let now = unix_now();
        run.share(self.ledger.shared(now), |name| self.ledger.used_by(name, now))
    }

    /// Records the last of what the run used, and that it has ended; waits no longer than `wait`. Returns
    /// what to say, if anything.
    pub fn close(mut self, run: &Mutex<Run>, wait: Duration) -> Option<String> {
        // The relay may still be at work, and is not to wait.
        let models = models(&lock(run));
        let error = self.ledger.leave(&models, unix_now(), wait).err();
        self.share(&mut lock(run));
        error.map(|error| error.to_string())
    }
}

/// What came of opening an account.
#[derive(Debug, Default)]
pub struct Opened {
    /// Whether the run may start.
    pub admitted: bool,
    /// The account; none where the run may not start, or where warn mode goes on without.
    pub account: Option<Account>,
    /// What to say.
    pub words: Vec<String>,
}

/// Opens the account of a run with the ledger at `place`, of which the last `window` seconds bind:
/// enters it where it fits, or where warn mode lets it.
///
/// # Errors
/// In block mode, where the ledger cannot be used.
pub fn open(place: &Place, window: Option<f64>, run: &mut Run, estimate: Estimate) -> Result<Opened, Unusable> {
    let now = unix_now();
    let opened = Ledger::open(place, run.name.as_deref(), window, now);
    match opened.and_then(|ledger| enter(ledger, place, run, estimate, now)) {
        Err(error) if run.mode == Mode::Warn => {
            Ok(Opened { admitted: run.admit(estimate, Sums::default()), account: None, words: vec![without(&error)] })
        }
        result => result,
    }
}

fn without(error: &Unusable) -> String {
    format!("{error}; going on without (--mode warn)")
}

fn enter(mut ledger: Ledger, place: &Place, run: &mut Run, estimate: Estimate, now: f64) -> Result<Opened, Unusable> {
    let (rooms, expected) = (run.budgets.rooms(estimate), run.budgets.expected(estimate));
    let request = Request { estimate: expected, classes: run.classes, rooms, mode: run.mode };
    let mut words = Vec::new();
    let (admission, failed) = match ledger.admit(&request, now) {
        // One that can come back is told then what was used meanwhile.
        Err(error) if run.mode == Mode::Warn && ledger.can_come_back() => {
            words.push(without(&error));
            (Admission { entered: true, ..Admission::default() }, true)
        }
        result => (result?, false),
    };
    run.begin_with(ledger.shared(now), |name| ledger.used_by(name, now));
    run.admit(estimate, admission.held);
    if ledger.book().has_foreign() {
        words.push("the ledger has records of a newer budget-tee, which are not counted".to_owned());
    }
    let broken = ledger.book().broken();
    if broken > 0 {
        let plural = if broken == 1 { "line is no record and does" } else { "lines are no records and do" };
        words.push(format!("{broken} {plural} not count in ledger {place}"));
    }
    let limited = !run.budgets.all().is_empty();
    let is_bound = request.must_fit() && !request.rooms.is_empty();
    let account = admission.entered.then(|| Account::new(ledger, expected, is_bound, limited));
    let account = account.map(|account| Account { failed, ..account });
    Ok(Opened { admitted: admission.entered, account, words })
}

/// What a run used, by model.
fn models(run: &Run) -> Vec<(String, Spend)> {
    run.meter.by_model().into_iter().map(|(name, tokens)| (name.to_owned(), tokens)).collect()
}
