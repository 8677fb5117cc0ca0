//! The keeper of a run's ledger: when to record what was spent, and when to look at what others have
//! spent. A failure is reported once, and the stream goes on.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::amount::Amounts;
use crate::budget::{ByScope, Estimate, Mode};
use crate::count::tokens::Spend;
use crate::error::Error;
use crate::ledger::store::{Admission, Reach, Request, Store};
use crate::ledger::window::Window;
use crate::ledger::{self, Location};
use crate::process::wake::lock;
use crate::run::{Run, Unreachable};
use crate::show::text::{plural, seconds};

/// Spend is recorded at most this often.
// A burst of messages is one entry; and what others do not see of it for so long is little.
const RECORD: Duration = Duration::from_millis(200);

/// How long to wait for another try where the lock was taken; locks are held for microseconds.
const RETRY_LOCKED: Duration = Duration::from_millis(50);

/// How long to wait for another try where writing failed, as on a full disk.
const RETRY_FAILED: Duration = Duration::from_secs(1);

/// How often to look at what others have spent.
// A look that finds nothing is three calls of `stat`.
const LOOK: Duration = Duration::from_secs(1);

/// A ledger in use by a run.
#[derive(Debug)]
pub struct Keeper {
    ledger: Box<dyn Store>,
    reservation: Amounts,
    /// Block mode with a budget that binds: the run must stop where the ledger stays unreachable.
    must_stop: bool,
    /// There are budgets, so that it matters what others spend.
    pub(crate) limited: bool,
    /// When to record next; `None` where nothing is new.
    record_at: Option<Instant>,
    /// When to look next; `None` where nothing is limited and nobody has called.
    look_at: Option<Instant>,
    last_record: Option<Instant>,
    recorded: Spend,
    /// A failure has been reported.
    failed: bool,
}

/// The time in Unix seconds.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What came of opening a ledger.
#[derive(Debug, Default)]
pub struct Opened {
    /// Whether the run may start.
    pub admitted: bool,
    /// The keeper; `None` where the run may not start, or goes on without a ledger in warn mode.
    pub keeper: Option<Keeper>,
    /// What to report.
    pub messages: Vec<String>,
}

impl Opened {
    /// A run without a ledger: its budgets are its own.
    pub fn without_ledger(run: &mut Run, estimate: Estimate) -> Self {
        Opened { admitted: run.admit(estimate, ByScope::default()), ..Opened::default() }
    }
}

impl Keeper {
    /// Opens the ledger of a run, in which what was spent in `window` counts, and enters the run where it
    /// fits or where warn mode lets it. In block mode a ledger that cannot be used is an error.
    pub fn open(
        location: &Location,
        window: Option<Window>,
        run: &mut Run,
        estimate: Estimate,
    ) -> Result<Opened, Error> {
        let now = unix_now();
        let opened = ledger::open(location, run.name.as_deref(), window, now);
        match opened.and_then(|ledger| Keeper::enter(ledger, location, run, estimate, now)) {
            Ok(opened) => Ok(opened),
            Err(error @ Error::NoLedger(_)) => Err(error),
            Err(error) if run.mode == Mode::Warn => {
                let messages = vec![going_on_without(&error)];
                Ok(Opened { messages, ..Opened::without_ledger(run, estimate) })
            }
            Err(error) => Err(Error::Failed(format!("{error}; not started (--mode block)"))),
        }
    }

    fn enter(
        mut ledger: Box<dyn Store>,
        location: &Location,
        run: &mut Run,
        estimate: Estimate,
        now: f64,
    ) -> Result<Opened, Error> {
        let (rooms, reservation) = (run.budgets.rooms(estimate), run.budgets.reservation(estimate));
        let request = Request { reservation, classes: run.classes, rooms, mode: run.mode };
        let mut messages = Vec::new();
        let (admission, failed) = match ledger.admit(&request, now) {
            // A ledger that may return takes in then what was spent meanwhile.
            Err(error) if run.mode == Mode::Warn && ledger.reach() != Reach::Local => {
                messages.push(going_on_without(&error));
                (Admission { admitted: true, ..Admission::default() }, true)
            }
            result => (result?, false),
        };
        run.start_with(ledger.totals(now), |name| ledger.used_by(name, now));
        // The ledger has decided; this finds the words for it.
        run.admit(estimate, admission.reserved);
        if ledger.book().has_foreign() {
            messages.push("the ledger has entries of a newer budget-tee, which are not counted".to_owned());
        }
        // Said once, at the start: a line that is no record may be a budget's worth of spend.
        match ledger.book().broken() {
            0 => {}
            1 => messages.push(format!("1 line of ledger {location} is no record and does not count")),
            n => messages.push(format!("{} of ledger {location} are no records and do not count", plural(n, "line"))),
        }
        let limited = !run.budgets.all().is_empty();
        let keeper = admission.admitted.then(|| Keeper {
            ledger,
            reservation,
            must_stop: request.must_fit() && !request.rooms.is_empty(),
            limited,
            record_at: None,
            look_at: limited.then(|| Instant::now() + LOOK),
            last_record: None,
            recorded: Spend::default(),
            failed,
        });
        Ok(Opened { admitted: admission.admitted, keeper, messages })
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.record_at.into_iter().chain(self.look_at).min()
    }

    /// Readable when there is something to look at before that.
    pub(crate) fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.ledger.wake()
    }

    /// The descriptor of [`Keeper::wake`] was readable.
    pub(crate) fn woken(&mut self) {
        self.look_at = Some(Instant::now());
    }

    /// Plans to record what the run has spent, where that is news.
    pub(crate) fn plan(&mut self, run: &Run) {
        if self.record_at.is_none() && run.meter.total() != self.recorded {
            let now = Instant::now();
            self.record_at = Some(self.last_record.map_or(now, |last| (last + RECORD).max(now)));
        }
    }

    /// Does what is due. Returns whether what others spent has changed, and what to report, if
    /// anything.
    pub(crate) fn step(&mut self, run: &Mutex<Run>) -> (bool, Option<String>) {
        let now = Instant::now();
        let mut look = self.look_at.is_some_and(|due| due <= now);
        let mut result = Ok(());
        if self.record_at.is_some_and(|due| due <= now) {
            // To record also reads what others have written meanwhile: the run hears of it now.
            result = self.record(run, now).map(|recorded| look |= recorded);
        }
        let mut changed = false;
        if look {
            self.look_at = self.limited.then(|| now + LOOK);
            result = self.ledger.look(unix_now()).and(result);
            changed = self.update(&mut lock(run));
        }
        changed |= self.stop_if_unreachable(&mut lock(run));
        // Once for each outage, not with each try: a disk may stay full for hours.
        let reported = self.failed;
        // A ledger that has returned can become unreachable again.
        self.failed = result.is_err() || reported && self.ledger.reach() != Reach::Reachable;
        let error = result.err().filter(|_| !reported);
        let message = error.map(|error| format!("{error}; going on{}", self.how_long(&lock(run))));
        (changed, message.or_else(|| self.ledger.note()))
    }

    /// Records what the run has spent. Returns whether that was possible now.
    fn record(&mut self, run: &Mutex<Run>, now: Instant) -> Result<bool, Error> {
        // A copy: the relay must not wait for the disk.
        let (spend, total) = {
            let run = lock(run);
            (run.meter.by_model(), run.meter.total())
        };
        let result = self.ledger.record(&spend, unix_now());
        match &result {
            Ok(true) => {
                self.recorded = total;
                self.last_record = Some(now);
                self.record_at = None;
            }
            Ok(false) => self.record_at = Some(now + RETRY_LOCKED),
            Err(_) => self.record_at = Some(now + RETRY_FAILED),
        }
        result
    }

    /// Block mode: stops the run where it may not go on without the ledger. Returns whether it did.
    fn stop_if_unreachable(&mut self, run: &mut Run) -> bool {
        let Some((since, grace)) = self.unreachable() else { return false };
        let due = since + grace;
        let why = if Instant::now() >= due {
            Unreachable::Grace(grace)
        } else if run.has_outspent(self.reservation) {
            Unreachable::Reservation
        } else {
            // Nothing else would wake the watch when the grace ends.
            self.look_at = self.look_at.map(|look_at| look_at.min(due));
            return false;
        };
        let is_news = !run.is_stopped();
        run.stop_without_ledger(why);
        is_news
    }

    /// Since when the ledger is unreachable, and how long the run may go on without it, where it must stop
    /// then.
    fn unreachable(&self) -> Option<(Instant, Duration)> {
        match self.ledger.reach() {
            Reach::Unreachable(since, grace) if self.must_stop => Some((since, grace)),
            _ => None,
        }
    }

    /// How long the run goes on without a ledger that is unreachable.
    fn how_long(&self, run: &Run) -> String {
        let Some((_, grace)) = self.unreachable() else { return String::new() };
        if run.has_reservation_left(self.reservation) {
            format!(" for {} within the reservation (--offline-grace)", seconds(grace.as_secs_f64()))
        } else {
            " until it uses more, since the reservation is used up (--estimate)".to_owned()
        }
    }

    fn update(&self, run: &mut Run) -> bool {
        let now = unix_now();
        run.update(self.ledger.totals(now), |name| self.ledger.used_by(name, now))
    }

    /// Records the last of what the run has spent, and that it has ended; waits no longer than `wait`.
    /// Returns what to report, if anything.
    pub fn close(mut self, run: &Mutex<Run>, wait: Duration) -> Option<String> {
        // The relay may still be at work, and must not wait for the ledger.
        let spend = lock(run).meter.by_model();
        let error = self.ledger.leave(&spend, unix_now(), wait).err();
        self.update(&mut lock(run));
        error.map(|error| error.to_string())
    }
}

fn going_on_without(error: &Error) -> String {
    format!("{error}; going on without (--mode warn)")
}
