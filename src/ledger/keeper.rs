//! The keeper of a run's ledger: hands over what the run spends, takes what others have spent, and
//! decides what happens where the ledger is unreachable, be it a disk or a server.
//!
//! It reads and writes nothing itself and never waits, but at the start and at the end.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::amount::{Amount, Amounts};
use crate::budget::{Budget, ByScope, Estimate, Mode};
use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Spend};
use crate::error::Error;
use crate::ledger::limits::Limit;
use crate::ledger::mailbox::{Errand, Mailbox, PATIENCE, Post, View};
use crate::ledger::store::{Admission, Failure, Handover, LEDGER_WAIT, Request, Retry};
use crate::ledger::window::Window;
use crate::ledger::worker::{Worker, unix_now};
use crate::ledger::{self, Location};
use crate::notice::Unreachable;
use crate::process::wake::lock;
use crate::run::Run;
use crate::show::text::{because, plural, reason, seconds, with_note};

/// How often to look whether a call has been under way for too long.
// Nobody wakes the watch for that: the thread that could is waiting for the call.
const CHECK: Duration = Duration::from_secs(1);

/// How much longer the start and the end wait than the thread itself waits for a lock.
// It knows better why.
const SLACK: Duration = Duration::from_millis(50);

/// A ledger in use by a run.
#[derive(Debug)]
pub struct Keeper {
    post: Arc<Post>,
    /// The ledger, as it is shown.
    location: String,
    reservation: Amounts,
    /// Block mode with a budget that binds: the run must stop where a server stays unreachable.
    must_stop: bool,
    /// There are budgets, so that it matters what others spend.
    pub(crate) limited: bool,
    /// What has been handed over.
    handed: Tally<String>,
    /// When to look at the mailbox next, without being called.
    check_at: Option<Instant>,
    /// Nothing has been seen of the ledger yet.
    is_unseen: bool,
    /// How long the end is waited for, and whether it is asked for again where that fails.
    wait: Duration,
    insists: bool,
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
        let (rooms, reservation) = (run.budgets.rooms(estimate), run.budgets.reservation(estimate));
        let limits = limits(run, window.as_ref());
        let request = Request { reservation, classes: run.classes, rooms, limits, mode: run.mode };
        let must_stop = request.must_fit() && !request.rooms.is_empty();
        let mut keeper = Keeper::start(location, window, run, request)
            .map_err(|why| Error::Failed(because(format_args!("cannot use ledger {location}"), reason(why))))?;
        keeper.must_stop = must_stop;
        match keeper.await_start() {
            Ok(admission) => {
                let messages = keeper.take_view(run).1;
                // Now or never: what the run counts must not depend on when a ledger answers.
                run.meter.agents.know(std::mem::take(&mut keeper.post.mailbox().marks));
                // The ledger has decided; this finds the words for it.
                run.admit(estimate, admission.reserved);
                let admitted = admission.admitted;
                if admitted {
                    keeper.go_on();
                }
                Ok(Opened { admitted, keeper: Some(keeper).filter(|_| admitted), messages })
            }
            Err(Failure { message, retry: Retry::Never }) => Err(Error::NoLedger(message)),
            Err(Failure { message, retry }) if run.mode == Mode::Warn => {
                let messages = vec![with_note(message, "going on without the ledger (--mode warn)")];
                let opened = Opened { messages, ..Opened::without_ledger(run, estimate) };
                // A server that nobody listens at may be started later; a file that cannot be used stays so.
                if retry == Retry::Later && !keeper.post.mailbox().is_remote() {
                    return Ok(opened);
                }
                // It takes in then what was spent meanwhile.
                keeper.go_on();
                keeper.post.mailbox().is_reported = true;
                Ok(Opened { keeper: Some(keeper), ..opened })
            }
            Err(failure) => Err(Error::Failed(with_note(failure, "not started: --mode block needs the ledger"))),
        }
    }

    /// Starts the thread that does the reading and writing.
    fn start(location: &Location, window: Option<Window>, run: &Run, request: Request) -> std::io::Result<Keeper> {
        let limited = !run.budgets.all().is_empty();
        let mailbox = Mailbox { awaited: Some(Errand::Admit), limited, ..Mailbox::default() };
        let post = Arc::new(Post::new(mailbox)?);
        let reservation = request.reservation;
        let commands = run.budgets.all().iter().filter_map(|budget| budget.command.clone()).collect();
        let worker = Worker::new(Arc::clone(&post), request, commands);
        let (at, name) = (location.clone(), run.name.clone());
        let work = move || worker.run(|| ledger::open(&at, name.as_deref(), window, unix_now()));
        std::thread::Builder::new().name("ledger".to_owned()).spawn(work)?;
        Ok(Keeper {
            post,
            location: location.to_string(),
            reservation,
            must_stop: false,
            limited,
            handed: Tally::default(),
            check_at: None,
            is_unseen: true,
            wait: LEDGER_WAIT,
            insists: false,
        })
    }

    /// Waits for the answer to the start.
    // Signals still have their defaults: they end the program here, and the wait with it.
    fn await_start(&self) -> Result<Admission, Failure> {
        let until = Instant::now() + LEDGER_WAIT + SLACK;
        let mut mailbox = self.post.mailbox();
        loop {
            if let Some(admission) = mailbox.admission.take() {
                return Ok(admission);
            }
            let failure = mailbox.outage.as_ref().map(|outage| &outage.failure);
            if let Some(failure) = failure.filter(|failure| matches!(failure.retry, Retry::Later | Retry::Never)) {
                return Err(failure.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure { message: mailbox.why(&self.location, LEDGER_WAIT), retry: Retry::Soon });
            }
            mailbox = self.post.wait(mailbox, Some(left));
        }
    }

    /// The run starts: what it spends is recorded as it comes.
    fn go_on(&mut self) {
        let mut mailbox = self.post.mailbox();
        // A server's reservation is renewed at once, since it is held for a short time until then. An
        // admission that is still under way is not asked for again on a server; a file needs it.
        let is_remote = mailbox.is_remote();
        if is_remote {
            mailbox.awaited = None;
        }
        (mailbox.under_way, mailbox.has_news) = (true, is_remote);
        self.post.call();
        self.check_at = self.limited.then(|| Instant::now() + CHECK);
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.check_at
    }

    /// Readable when there is something to look at before that.
    pub(crate) fn wake(&self) -> Option<BorrowedFd<'_>> {
        Some(self.post.wake.as_fd())
    }

    /// The descriptor of [`Keeper::wake`] was readable.
    pub(crate) fn woken(&mut self) {
        self.check_at = Some(Instant::now());
    }

    /// Hands over what the run has spent, where that is news.
    pub(crate) fn plan(&mut self, run: &Run) {
        // Not only the total: a settlement moves spend from one model's name to another.
        let spend = run.meter.by_model();
        if spend != self.handed {
            self.hand_over(run, spend);
            self.check_at = self.check_at.or_else(|| Some(Instant::now() + CHECK));
        }
    }

    fn hand_over(&mut self, run: &Run, spend: Tally<String>) {
        self.handed.clone_from(&spend);
        let mut mailbox = self.post.mailbox();
        mailbox.handover = Handover { spend, marks: run.meter.agents.marks() };
        mailbox.has_news = true;
        self.post.call();
    }

    /// Takes what has come. Returns whether what others spent has changed, and what to report.
    pub(crate) fn step(&mut self, run: &Mutex<Run>) -> (bool, Vec<String>) {
        let (mut changed, mut messages) = self.take_view(&mut lock(run));
        let stop = self.unreachable();
        changed |= stop.is_some_and(|stop| self.stop_if_due(&mut lock(run), stop));
        let (is_silent, why) = self.news_of_outage();
        messages.extend(why.map(|why| with_note(why, self.how_long(&lock(run)))));
        // Else it is called by the thread.
        let check = (self.limited || is_silent).then(|| Instant::now() + CHECK);
        self.check_at = check.into_iter().chain(self.wake_at(is_silent)).min();
        (changed, messages)
    }

    /// Whether a call of the ledger has yet to succeed; and why it is unreachable, where that is news.
    // Once for each outage, not with each try: a disk may stay full for hours.
    fn news_of_outage(&self) -> (bool, Option<String>) {
        let mut mailbox = self.post.mailbox();
        let is_news = mailbox.unreachable_since().is_some() && !mailbox.is_reported;
        mailbox.is_reported |= is_news;
        (mailbox.silent_since().is_some(), is_news.then(|| mailbox.why(&self.location, PATIENCE)))
    }

    /// When the ledger will have been silent for long enough to count as unreachable, or for the grace.
    fn wake_at(&self, is_silent: bool) -> Option<Instant> {
        let since = self.post.mailbox().silent_since().filter(|_| is_silent)?;
        let grace = self.unreachable().map(|(since, grace)| since + grace);
        grace.into_iter().chain([since + PATIENCE]).filter(|due| *due > Instant::now()).min()
    }

    /// Shows the run what has come of the ledger. Returns whether that is news, and what to report.
    fn take_view(&mut self, run: &mut Run) -> (bool, Vec<String>) {
        self.post.heed();
        let (view, mut messages) = {
            let mut mailbox = self.post.mailbox();
            (mailbox.view.take(), std::mem::take(&mut mailbox.notes))
        };
        let Some(view) = view else { return (false, messages) };
        if std::mem::take(&mut self.is_unseen) {
            messages.extend(self.first_look(&view));
            show(run, &view);
            return (true, messages);
        }
        let is_new = run.resets != view.resets;
        run.resets.clone_from(&view.resets);
        run.budgets.grant(|name| view.granted(name, run.name.as_deref()));
        let changed = run.update(view.totals, |name| spent_by(&view, name));
        (changed || is_new, messages)
    }

    /// What to report of a ledger at the first look.
    fn first_look(&self, view: &View) -> Vec<String> {
        let mut messages = Vec::new();
        let location = &self.location;
        if view.has_foreign {
            let message = format!("ledger {location} has records of a newer budget-tee");
            messages.push(with_note(message, "they are not counted; update this budget-tee to count them"));
        }
        // Said once, at the start: a line that is not a record may be a budget's worth of spend.
        if view.broken > 0 {
            let are = if view.broken == 1 { "is not a record" } else { "are not records" };
            let message = format!("{} of ledger {location} {are}", plural(view.broken, "line"));
            messages.push(with_note(message, "lines that are not records are not counted"));
        }
        messages
    }

    /// Block mode: stops the run where it may not go on without the ledger. Returns whether it did.
    fn stop_if_due(&self, run: &mut Run, (since, grace): (Instant, Duration)) -> bool {
        let why = if Instant::now() >= since + grace {
            Unreachable::Grace(grace)
        } else if run.has_outspent(self.reservation) {
            Unreachable::Reservation
        } else {
            return false;
        };
        let is_news = !run.is_stopped();
        run.stop_without_ledger(why);
        is_news
    }

    /// Since when the ledger is unreachable, and how long the run may go on without it, where it must stop
    /// then.
    // Only without a server: a run is not ended because a disk is full, which no other run can write to either.
    fn unreachable(&self) -> Option<(Instant, Duration)> {
        let mailbox = self.post.mailbox();
        let grace = mailbox.terms.and_then(|terms| terms.grace).filter(|_| self.must_stop);
        mailbox.unreachable_since().zip(grace)
    }

    /// How long the run goes on without a ledger that is unreachable.
    fn how_long(&self, run: &Run) -> String {
        let Some((_, grace)) = self.unreachable() else { return "going on without the ledger".to_owned() };
        if run.has_reservation_left(self.reservation) {
            format!("going on for {} within the reservation (--offline-grace)", seconds(grace.as_secs_f64()))
        } else {
            "going on until it uses more: no reservation left (--estimate)".to_owned()
        }
    }

    /// Asks for the last of what the run has spent to be recorded, and that it has ended; for no longer than
    /// `wait`. [`Keeper::ended`] tells, when [`Keeper::wake`] is readable or [`Keeper::due`] has come.
    pub(crate) fn begin_end(&mut self, run: &Mutex<Run>, wait: Duration) {
        // The relay may still be at work, and must not wait for the ledger.
        {
            let run = lock(run);
            self.hand_over(&run, run.meter.by_model());
        }
        let mut mailbox = self.post.mailbox();
        // A server that was never reached, or has been unreachable for long, gets one more try; one that was
        // there a moment ago is insisted on, so that the last of the spend is not lost.
        let is_long_gone = mailbox.silent_since().is_some_and(|since| since.elapsed() >= LEDGER_WAIT);
        self.insists = mailbox.is_remote() && mailbox.was_reached && !is_long_gone;
        (mailbox.awaited, mailbox.tries) = (Some(Errand::Leave), 0);
        (self.wait, self.check_at) = (wait, Some(Instant::now() + wait + SLACK));
        self.post.call();
    }

    /// What to report once the end is recorded, or it is waited for no longer.
    pub(crate) fn ended(&mut self, run: &Mutex<Run>) -> Option<Vec<String>> {
        self.post.heed();
        let (is_over, why) = {
            let mailbox = self.post.mailbox();
            // One that could not even be opened is not tried again.
            let has_failed = mailbox.outage.is_some() && (mailbox.tries > 0 || mailbox.terms.is_none());
            let is_late = self.check_at.is_none_or(|until| until <= Instant::now());
            if !mailbox.is_over && !is_late && (self.insists || !has_failed) {
                return None;
            }
            (mailbox.is_over, mailbox.why(&self.location, self.wait))
        };
        let (_, mut messages) = self.take_view(&mut lock(run));
        let count = |spend: Spend| Classes::default().count(&spend.tokens);
        let missing = count(lock(run).meter.total()).saturating_sub(count(self.post.mailbox().recorded));
        // Else only the end is missing, and the reservation ends with the process, or with its lease.
        if !is_over && missing > 0 {
            let missing = plural(missing, "token");
            messages.push(with_note(why, format_args!("{missing} of this run are not in the ledger")));
        }
        Some(messages)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.post.mailbox().is_over = true;
        self.post.call();
    }
}

/// The limits that a run was given.
fn limits(run: &Run, window: Option<&Window>) -> Vec<Limit> {
    let window = window.map_or(String::new(), Window::word);
    let limit = |budget: &Budget| Limit {
        name: budget.command.clone(),
        amount: Amount { unit: budget.unit, value: budget.limit },
        window: window.clone(),
    };
    run.budgets.all().iter().map(limit).collect()
}

/// Shows a run the first view of its ledger.
fn show(run: &mut Run, view: &View) {
    run.resets.clone_from(&view.resets);
    run.budgets.grant(|name| view.granted(name, run.name.as_deref()));
    run.start_with(view.totals, |name| spent_by(view, name));
}

fn spent_by(view: &View, name: &str) -> Spend {
    view.by_command.iter().find(|(known, _)| known == name).map(|(_, spend)| *spend).unwrap_or_default()
}
