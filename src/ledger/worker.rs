//! The thread that does all reading and writing of a ledger, in a file or on a server: when it records
//! what its run spends, when it looks at what others spend, and how it goes on where that fails.
//!
//! Only the start and the end of a run wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::ledger::mailbox::{Errand, Mailbox, Outage, Post, View};
use crate::ledger::store::{Failure, Handover, Request, Retry, Store};

/// Spend is recorded at most this often.
// A burst of messages is one entry; and what others do not see of it for so long is little.
const RECORD: Duration = Duration::from_millis(200);

/// How long to wait before the next try: at first, and at most.
// A restart takes a moment; a server that stays away must not be called by all runs all the time, nor a
// disk that is full.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// The same where another run was just writing; locks are held for microseconds.
const RETRY_BUSY: Duration = Duration::from_millis(50);

/// The time in Unix seconds.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The thread's side of the mailbox.
pub(crate) struct Worker {
    pub(crate) post: Arc<Post>,
    /// What the run asks for.
    pub(crate) request: Request,
    /// The commands that have budgets.
    pub(crate) commands: Vec<String>,
    /// When the ledger was last called.
    last: Instant,
    /// How long to wait until the next try where that failed.
    pause: Duration,
    view: View,
}

impl Worker {
    pub(crate) fn new(post: Arc<Post>, request: Request, commands: Vec<String>) -> Self {
        Worker { post, request, commands, last: Instant::now(), pause: RETRY[0], view: View::default() }
    }

    /// Opens a ledger and keeps it until the run has left or nobody wants it.
    pub(crate) fn run(mut self, open: impl FnOnce() -> Result<Box<dyn Store>, Error>) {
        self.post.mailbox().calling = Some(Instant::now());
        let mut store = match open() {
            Ok(store) => store,
            // Opening it again would fail the same way: nothing more comes from here.
            Err(error) => return self.fail(error.into()),
        };
        self.post.mailbox().terms = Some(store.terms());
        while let Some((errand, handover)) = self.next() {
            let done = match errand {
                Errand::Admit => store.admit(&self.request, unix_now()).map(Some),
                Errand::Step => store.step(&handover, unix_now()).map(|()| None),
                Errand::Leave => store.leave(&handover, unix_now()).map(|()| None),
            };
            self.last = Instant::now();
            match done {
                Ok(admission) => {
                    let view = self.look_at(&*store);
                    let note = store.note();
                    let mut mailbox = self.post.mailbox();
                    mailbox.admission = admission.or(mailbox.admission);
                    mailbox.notes.extend(note);
                    if errand == Errand::Admit {
                        mailbox.marks = store.book().marks.clone();
                    } else {
                        mailbox.recorded = handover.spend.sum();
                    }
                    drop(mailbox);
                    self.deliver(view, errand);
                }
                Err(failure) => self.fail(failure),
            }
        }
    }

    /// Waits for the next errand; `None` where there is none any more. What is handed over goes with it.
    fn next(&self) -> Option<(Errand, Handover)> {
        let mut mailbox = self.post.mailbox();
        loop {
            if mailbox.is_over {
                return None;
            }
            let left = self.due(&mailbox).map(|after| after.saturating_sub(self.last.elapsed()));
            if left == Some(Duration::ZERO) {
                break;
            }
            mailbox = self.post.wait(mailbox, left);
        }
        // Before the call: what is handed over during it is news for the next one.
        mailbox.has_news = false;
        mailbox.calling = Some(Instant::now());
        Some((mailbox.awaited.unwrap_or(Errand::Step), mailbox.handover.clone()))
    }

    /// How long after the last call the next one is due; `None` where nothing is to do.
    fn due(&self, mailbox: &Mailbox) -> Option<Duration> {
        let terms = mailbox.terms.as_ref();
        match mailbox {
            Mailbox { outage: Some(_), awaited, under_way, .. } if awaited.is_some() || *under_way => Some(self.pause),
            Mailbox { awaited: Some(_), .. } => Some(Duration::ZERO),
            Mailbox { under_way: false, .. } => None,
            Mailbox { has_news: true, .. } => Some(RECORD),
            Mailbox { limited: true, .. } => terms.map(|terms| terms.look),
            // A reservation must be renewed before its lease ends.
            Mailbox { .. } => terms.and_then(|terms| terms.renew),
        }
    }

    /// What the run needs to see of the ledger.
    fn look_at(&self, store: &dyn Store) -> View {
        let now = unix_now();
        let (window, time) = (store.member().window.as_ref(), store.time(now));
        View {
            totals: store.totals(now),
            by_command: self.commands.iter().map(|name| (name.clone(), store.used_by(name, now))).collect(),
            resets: window.and_then(|window| window.resets(time)).unwrap_or_default(),
            has_foreign: store.book().has_foreign(),
            broken: store.book().broken(),
        }
    }

    fn deliver(&mut self, view: View, errand: Errand) {
        self.pause = RETRY[0];
        let mut mailbox = self.post.mailbox();
        // Also that the ledger has returned, and that somebody need not wait any longer.
        let mut is_news = mailbox.outage.is_some() || !mailbox.notes.is_empty() || view != self.view;
        (mailbox.outage, mailbox.calling, mailbox.was_reached, mailbox.is_reported) = (None, None, true, false);
        mailbox.view = Some(view.clone());
        self.view = view;
        if mailbox.awaited == Some(errand) {
            mailbox.awaited = None;
            mailbox.is_over = errand == Errand::Leave;
            is_news = true;
        }
        if is_news {
            self.post.wake.raise();
        }
        self.post.call();
    }

    fn fail(&mut self, failure: Failure) {
        self.last = Instant::now();
        self.pause = match (failure.retry, self.post.mailbox().outage.is_some()) {
            (Retry::Busy, _) => RETRY_BUSY,
            (_, false) => RETRY[0],
            (_, true) => (self.pause * 2).min(RETRY[1]),
        };
        let mut mailbox = self.post.mailbox();
        mailbox.has_news = true;
        mailbox.tries = mailbox.tries.saturating_add(1);
        // From when the call began, which may have waited for long.
        let began = mailbox.calling.take().unwrap_or_else(Instant::now);
        let since = mailbox.outage.as_ref().map_or(began, |outage| outage.since);
        mailbox.outage = Some(Outage { since, failure });
        if mailbox.awaited.is_some() || mailbox.unreachable_since().is_some() {
            self.post.wake.raise();
        }
        self.post.call();
    }
}
