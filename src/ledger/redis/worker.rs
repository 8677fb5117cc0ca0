//! The worker: a thread that carries what a run has spent to the server, and brings what all have.
//!
//! Only the start and the end of a run wait for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};

use crate::count::tally::Tally;
use crate::error::Error;
use crate::ledger::redis::address::Address;
use crate::ledger::redis::protocol::{Answer, Call, CallTerms, Recorded, Verb};
use crate::ledger::store::{LEDGER_WAIT, Reach, Request};
use crate::process::wake::{Wake, lock};
use crate::show::text::{clean, without_number};

/// Spend is sent at most this often.
// As for a file: a burst of messages is one call.
const RECORD: Duration = Duration::from_millis(200);

/// What others have spent is asked for this often, where it matters.
// What is fetched is on its way for a while, and the watch must see it within a second.
const LOOK: Duration = Duration::from_millis(500);

/// How long the server may take to connect and to answer before it counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait before trying again to reach the server: at first, and at most.
// A restart takes a moment; a server that stays away must not be called by all runs all the time.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// What the two threads leave for each other.
// Newer things replace older ones, since spend is cumulative: nothing piles up while the server is
// unreachable, as it would in a queue.
#[derive(Debug, Default)]
struct Mailbox {
    /// The call that somebody waits for.
    awaited: Option<Verb>,
    /// How often it has failed.
    tries: u32,
    /// The run is under way: what it spends is sent without being asked for.
    under_way: bool,
    /// It matters what others spend.
    limited: bool,
    request: Request,
    /// All that the run has spent.
    spend: Tally<String>,
    /// The server has yet to hear of some of it.
    has_news: bool,
    /// What the server has heard.
    recorded: Recorded,
    /// The revision that the reader has, and of which life of the ledger.
    born: String,
    since: u64,
    /// Everything is to be read again: the server may have lost something.
    refresh: bool,
    /// The last answer, until it is taken; it has all that has changed since the reader's revision.
    answer: Option<Answer>,
    failure: Option<Failure>,
    was_reached: bool,
}

/// Why the server cannot be used.
#[derive(Clone, Debug)]
struct Failure {
    message: String,
    /// Trying again at once would fail the same way.
    is_final: bool,
    /// When it began.
    since: Instant,
}

impl Mailbox {
    /// The failure that is more than a hiccup.
    fn failing(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.since.elapsed() >= PATIENCE)
    }

    /// Takes the answer for the reader, who then has its revision.
    fn take_answer(&mut self) -> Option<Answer> {
        let answer = self.answer.take()?;
        if answer.is_whole {
            self.refresh = false;
        }
        self.born.clone_from(&answer.born);
        self.since = answer.revision;
        Some(answer)
    }
}

/// The mailbox, and how each side calls the other.
#[derive(Debug)]
pub(crate) struct Post {
    mailbox: Mutex<Mailbox>,
    /// For the worker, and for whoever waits for an answer.
    called: Condvar,
    /// Raised when something has come, for the watch, which polls.
    pub(crate) wake: Wake,
    /// The ledger, as it is shown.
    pub(crate) location: String,
}

impl Post {
    /// Waits until something is left in the mailbox, for at most `time`.
    fn wait<'a>(&self, mailbox: MutexGuard<'a, Mailbox>, time: Option<Duration>) -> MutexGuard<'a, Mailbox> {
        match time {
            Some(time) => self.called.wait_timeout(mailbox, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.called.wait(mailbox).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// `cannot reach ledger redis://host/0/name: it has not answered for 3 s`
    fn cannot(&self, doing: &str, why: &str) -> String {
        format!("cannot {doing} ledger {}: {why}", self.location)
    }

    fn silent(&self, time: Duration) -> String {
        self.cannot("reach", &format!("it has not answered for {} s", time.as_secs()))
    }
}

/// The reader's side.
impl Post {
    /// Starts a worker for the ledger at `address`.
    pub(crate) fn start(address: &Address, terms: CallTerms) -> std::io::Result<Arc<Post>> {
        let (mailbox, called, location) = (Mutex::default(), Condvar::new(), address.to_string());
        let post = Arc::new(Post { mailbox, called, wake: Wake::new()?, location });
        let worker = Worker {
            post: Arc::clone(&post),
            client: Client::open(address.info.clone()).map_err(std::io::Error::other)?,
            script: Script::new(include_str!("script.lua")),
            prefix: address.prefix.clone(),
            terms,
            connection: None,
            last: Instant::now(),
            pause: RETRY[0],
        };
        std::thread::Builder::new().name("ledger".to_owned()).spawn(move || worker.run())?;
        Ok(post)
    }

    /// Has a call made, and waits for the answer until `wait` has passed.
    pub(crate) fn call(&self, verb: Verb, wait: Duration) -> Result<Answer, Error> {
        let until = Instant::now() + wait;
        let mut mailbox = self.mailbox();
        // A server that was never reached, or has been unreachable for long, gets one more try; one that
        // was there a moment ago is insisted on, so that the last of the spend is not lost.
        let is_long_gone = mailbox.failure.as_ref().is_some_and(|failure| failure.since.elapsed() >= LEDGER_WAIT);
        let insists = verb == Verb::Leave && mailbox.was_reached && !is_long_gone;
        (mailbox.awaited, mailbox.tries) = (Some(verb), 0);
        self.called.notify_all();
        loop {
            if mailbox.awaited.is_none()
                && let Some(answer) = mailbox.take_answer()
            {
                return Ok(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            let gives_up = match &mailbox.failure {
                Some(failure) if mailbox.tries > 0 => !insists && (failure.is_final || verb == Verb::Leave),
                _ => false,
            };
            if left.is_zero() || gives_up {
                mailbox.awaited = None;
                let message = mailbox.failure.as_ref().map(|failure| failure.message.clone());
                return Err(Error::Failed(message.unwrap_or_else(|| self.silent(wait))));
            }
            mailbox = self.wait(mailbox, Some(left));
        }
    }

    /// What the run asks for, before the call that admits it.
    pub(crate) fn ask(&self, request: Request) {
        self.mailbox().request = request;
    }

    /// The run starts: what it spends is sent as it comes, and, where it is `limited`, what others spend
    /// is brought.
    pub(crate) fn start_run(&self, limited: bool) {
        let mut mailbox = self.mailbox();
        // `has_news` makes the first step come at once: it renews the lease, which is short until then.
        (mailbox.under_way, mailbox.limited, mailbox.has_news) = (true, limited, true);
        self.called.notify_all();
    }

    /// Hands over all that the run has spent.
    pub(crate) fn hand_over(&self, spend: &Tally<String>) {
        let mut mailbox = self.mailbox();
        if mailbox.spend != *spend {
            (mailbox.spend, mailbox.has_news) = (spend.clone(), true);
            self.called.notify_all();
        }
    }

    /// What has come, if anything; and why the server is unreachable, where it is.
    pub(crate) fn collect(&self) -> (Option<Answer>, Result<(), Error>) {
        let mut mailbox = self.mailbox();
        // Under the lock, so that what comes after this raises it again.
        if self.wake.is_raised() {
            self.wake.silence();
            self.wake.lower();
        }
        let answer = mailbox.take_answer();
        let failure = mailbox.failing().map(|failure| Error::Failed(failure.message.clone()));
        (answer, failure.map_or(Ok(()), Err))
    }

    /// Whether the server can be reached; `grace` is how long a run in block mode goes on without it.
    pub(crate) fn reach(&self, grace: Duration) -> Reach {
        let mailbox = self.mailbox();
        match mailbox.failing() {
            Some(failure) => Reach::Unreachable(failure.since, grace),
            None if mailbox.was_reached && mailbox.failure.is_none() => Reach::Reachable,
            None => Reach::Silent,
        }
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        lock(&self.mailbox)
    }
}

/// The worker's side.
struct Worker {
    post: Arc<Post>,
    client: Client,
    script: Script,
    prefix: String,
    terms: CallTerms,
    connection: Option<Connection>,
    /// When the server was last called.
    last: Instant,
    /// How long to wait until the next try where that failed.
    pause: Duration,
}

impl Worker {
    fn run(mut self) {
        loop {
            self.wait();
            let began = Instant::now();
            // A connection that has ended meanwhile says nothing about the server: try a new one first.
            let result = self.call().or_else(|error| {
                self.connection = None;
                if !is_hiccup(&error) {
                    return Err(error);
                }
                // To find the server again may take long, which counts from now.
                self.fail(&error, began);
                self.call()
            });
            match result {
                Ok((answer, verb)) => {
                    (self.last, self.pause) = (began, RETRY[0]);
                    self.deliver(answer, verb);
                }
                Err(error) => {
                    self.connection = None;
                    self.fail(&error, began);
                    (self.last, self.pause) = (Instant::now(), (self.pause * 2).min(RETRY[1]));
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let mut mailbox = lock(&self.post.mailbox);
        loop {
            let after = match &*mailbox {
                Mailbox { failure: Some(_), awaited, under_way, .. } if awaited.is_some() || *under_way => {
                    Some(self.pause)
                }
                Mailbox { awaited: Some(_), .. } => Some(Duration::ZERO),
                Mailbox { under_way: false, .. } => None,
                Mailbox { has_news: true, .. } => Some(RECORD),
                Mailbox { limited: true, .. } => Some(LOOK),
                // The reservation must be renewed before its lease ends.
                Mailbox { .. } => Some(self.terms.lease / 4),
            };
            let left = after.map(|after| after.saturating_sub(self.last.elapsed()));
            if left == Some(Duration::ZERO) {
                return;
            }
            mailbox = self.post.wait(mailbox, left);
        }
    }

    /// Calls the server once.
    fn call(&mut self) -> RedisResult<(Answer, Verb)> {
        let is_fresh = self.connection.is_none();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connection = self.client.get_connection_with_timeout(PATIENCE)?;
                connection.set_read_timeout(Some(PATIENCE))?;
                connection.set_write_timeout(Some(PATIENCE))?;
                none.insert(connection)
            }
        };
        let (call, verb, models) = {
            // Before the call: what is handed over during it is news for the next one.
            let mut mailbox = lock(&self.post.mailbox);
            mailbox.has_news = false;
            mailbox.refresh |= is_fresh;
            let verb = mailbox.awaited.unwrap_or(Verb::Step);
            let revision = if mailbox.refresh { ("", 0) } else { (mailbox.born.as_str(), mailbox.since) };
            let (request, spend, recorded) = (&mailbox.request, &mailbox.spend, &mailbox.recorded);
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
            let call = Call::new(&self.terms, verb, request, spend, recorded, revision, now);
            let call = serde_json::to_string(&call).map_err(std::io::Error::from)?;
            (call, verb, mailbox.spend.clone())
        };
        let answer: Answer = self.script.key(&self.prefix).arg(call).invoke(connection)?;
        // The others record nothing.
        if matches!(verb, Verb::Step | Verb::Leave) {
            lock(&self.post.mailbox).recorded = Recorded { models, born: answer.born.clone() };
        }
        Ok((answer, verb))
    }

    fn deliver(&self, answer: Answer, verb: Verb) {
        let mut mailbox = lock(&self.post.mailbox);
        // Also that the server has returned, which the keeper learns by looking.
        let is_news = answer.has_news() || mailbox.failing().is_some();
        (mailbox.failure, mailbox.was_reached) = (None, true);
        mailbox.answer = Some(answer);
        if mailbox.awaited == Some(verb) {
            mailbox.awaited = None;
        } else if is_news {
            self.post.wake.raise();
        }
        self.post.called.notify_all();
    }

    /// A try that `began` then has failed.
    fn fail(&self, error: &RedisError, began: Instant) {
        let mut mailbox = lock(&self.post.mailbox);
        mailbox.has_news = true;
        mailbox.tries = mailbox.tries.saturating_add(1);
        let since = mailbox.failure.as_ref().map_or(began, |failure| failure.since);
        mailbox.failure = Some(Failure { message: self.message(error), is_final: is_final(error), since });
        if mailbox.failing().is_some() {
            self.post.wake.raise();
        }
        self.post.called.notify_all();
    }

    /// An error as people read it.
    fn message(&self, error: &RedisError) -> String {
        let is_io = error.kind() == ErrorKind::Io;
        let text = match error.kind() {
            ErrorKind::Io if error.is_timeout() => return self.post.silent(PATIENCE),
            ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => {
                "it closes the connection".to_owned()
            }
            ErrorKind::Io => without_number(&error.to_string()),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                "its answer cannot be read; is it a Redis server?".to_owned()
            }
            _ => error.detail().unwrap_or(error.category()).to_owned(),
        };
        // The server adds the script's line and hash, which help nobody.
        let text = text.split(" script: ").next().unwrap_or_default().trim_end_matches('.');
        let wants_password =
            error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        let why = clean(text) + if wants_password { " (BUDGET_TEE_LEDGER_PASSWORD)" } else { "" };
        self.post.cannot(if is_io { "reach" } else { "use" }, &why)
    }
}

/// Whether it may be gone with the next try.
fn is_hiccup(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io && !error.is_timeout() && !error.is_connection_refusal()
}

/// Whether trying again at once would fail the same way: nobody is there, or the server refuses.
fn is_final(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => !error.is_timeout() && (error.is_connection_refusal() || !error.is_connection_dropped()),
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain) => false,
        _ => true,
    }
}
