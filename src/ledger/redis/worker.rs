//! The courier: a thread that carries what a run has used to a server, and brings what all have.
//!
//! Only the start and the end of a run wait for it. On the desk, where it is handed things, what is
//! newer takes the place of what is older, both ways: nothing piles up while the server is away.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};

use crate::count::tokens::Spend;
use crate::ledger::redis::address::Address;
use crate::ledger::redis::protocol::{Answer, Call, Terms, Told, Verb};
use crate::ledger::{Request, WAIT};
use crate::run::lock;
use crate::show::report::{clean, without_number};

/// What a run has used is sent at most this often.
const RECORD: Duration = Duration::from_millis(200);

/// What others have used is asked for this often, where it matters.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server may take to be reached and to answer, before it counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait before a server that was not reached is tried again: first, and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// What the courier and the rest hand each other.
#[derive(Debug, Default)]
struct Desk {
    /// What somebody waits for.
    errand: Option<Verb>,
    /// How often it was tried in vain.
    tries: u32,
    /// The run is under way: what it uses is carried without being asked for.
    works: bool,
    /// Others' use matters to it.
    looks: bool,
    /// What it asked for.
    request: Request,
    /// All that it has used, by model; whether the server has yet to hear of it; and what it has
    /// heard.
    models: Vec<(String, Spend)>,
    is_new: bool,
    told: Told,
    /// The revision that the reader has, and of which ledger's life.
    born: String,
    since: u64,
    /// Everything is to be read anew: the server may have lost something.
    refresh: bool,
    /// The last answer, until it is taken; it has all that has changed since the reader's revision.
    answer: Option<Answer>,
    /// Why the server could not be used the last time, and whether it ever could.
    failure: Option<Failure>,
    was_reached: bool,
    /// The reader has been rung for and has not looked yet.
    rung: bool,
}

/// What could not be done with a server, and why.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) doing: &'static str,
    pub(crate) why: String,
}

/// Why a server could not be used, the last time and since when.
#[derive(Clone, Debug)]
struct Failure {
    trouble: Trouble,
    /// To try again at once would come to the same.
    is_final: bool,
    /// When it began.
    since: Instant,
}

impl Failure {
    /// Whether it has lasted long enough to be more than a hiccup.
    fn counts(&self) -> bool {
        self.since.elapsed() >= PATIENCE
    }
}

/// The desk, and how to call to it.
#[derive(Debug)]
struct Office {
    desk: Mutex<Desk>,
    called: Condvar,
    bell: PipeWriter,
}

/// The reader's side of the desk.
#[derive(Debug)]
pub(crate) struct Courier {
    office: Arc<Office>,
    bell: PipeReader,
    place: String,
}

impl Courier {
    /// Starts the courier for the server at `address`, on `terms`.
    pub(crate) fn start(address: &Address, terms: Terms) -> std::io::Result<Self> {
        let (bell, ring) = pipe()?;
        let office = Arc::new(Office { desk: Mutex::default(), called: Condvar::new(), bell: ring });
        let route = Route {
            office: Arc::clone(&office),
            client: Client::open(address.info()).map_err(std::io::Error::other)?,
            script: Script::new(include_str!("script.lua")),
            prefix: address.prefix().to_owned(),
            terms,
            connection: None,
            last: Instant::now(),
            pause: AGAIN[0],
        };
        std::thread::Builder::new().name("courier".to_owned()).spawn(move || route.run())?;
        Ok(Courier { office, bell, place: address.to_string() })
    }

    /// Has an errand done, and waits for it until `wait` has passed. What fails for good, or fails
    /// where nobody is there, is given up at once unless the errand is to leave.
    pub(crate) fn send(&self, verb: Verb, wait: Duration) -> Result<Answer, Trouble> {
        let until = Instant::now() + wait;
        let mut desk = self.desk();
        // One that was never there, or has been away for long, is asked once more.
        let is_long_away = desk.failure.as_ref().is_some_and(|failure| failure.since.elapsed() >= WAIT);
        let insists = verb == Verb::Leave && desk.was_reached && !is_long_away;
        desk.errand = Some(verb);
        desk.tries = 0;
        self.office.called.notify_all();
        loop {
            if desk.errand.is_none()
                && let Some(answer) = desk.answer.take()
            {
                desk.taken(&answer);
                return Ok(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            let given_up = match &desk.failure {
                Some(failure) if desk.tries > 0 => !insists && (failure.is_final || verb == Verb::Leave),
                _ => false,
            };
            if left.is_zero() || given_up {
                desk.errand = None;
                let trouble = desk.failure.as_ref().map(|failure| failure.trouble.clone());
                return Err(trouble.unwrap_or_else(|| Trouble::silence(wait)));
            }
            desk = self.office.called.wait_timeout(desk, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// What the run asks for, before it is sent to be admitted.
    pub(crate) fn ask(&self, request: Request) {
        self.desk().request = request;
    }

    /// From now on what the run uses is carried as it comes, and, where it `looks`, what others use
    /// is brought.
    pub(crate) fn work(&self, looks: bool) {
        let mut desk = self.desk();
        // What it holds is held for longer from its first step on.
        (desk.works, desk.looks, desk.is_new) = (true, looks, true);
        self.office.called.notify_all();
    }

    /// Hands over all that the run has used, by model.
    pub(crate) fn hand_over(&self, models: Vec<(String, Spend)>) {
        let mut desk = self.desk();
        if desk.models != models {
            (desk.models, desk.is_new) = (models, true);
            self.office.called.notify_all();
        }
    }

    /// What has come, if anything; and why the server is out of reach, where it is.
    pub(crate) fn collect(&self) -> (Option<Answer>, Option<Trouble>) {
        let mut desk = self.desk();
        if std::mem::take(&mut desk.rung) {
            let _ = (&self.bell).read(&mut [0]);
        }
        let answer = desk.answer.take();
        if let Some(answer) = &answer {
            desk.taken(answer);
        }
        (answer, desk.failure.as_ref().filter(|failure| failure.counts()).map(|failure| failure.trouble.clone()))
    }

    /// Since when the server is out of reach, where it is.
    pub(crate) fn away_since(&self) -> Option<Instant> {
        self.desk().away_since()
    }

    /// Whether the server was there the last time.
    pub(crate) fn is_there(&self) -> bool {
        let desk = self.desk();
        desk.was_reached && desk.failure.is_none()
    }

    /// Readable when something has come.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Which ledger it goes to.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.office.desk)
    }
}

impl Desk {
    fn away_since(&self) -> Option<Instant> {
        self.failure.as_ref().filter(|failure| failure.counts()).map(|failure| failure.since)
    }

    /// The reader has this answer.
    fn taken(&mut self, answer: &Answer) {
        if answer.is_whole {
            self.refresh = false;
        }
        self.born.clone_from(&answer.born);
        self.since = answer.revision;
    }
}

/// The courier's side.
struct Route {
    office: Arc<Office>,
    client: Client,
    script: Script,
    prefix: String,
    terms: Terms,
    connection: Option<Connection>,
    /// When the server was last gone to, or was last tried in vain, and how long to wait then.
    last: Instant,
    pause: Duration,
}

impl Route {
    fn run(mut self) {
        loop {
            self.wait();
            let began = Instant::now();
            // A connection that has ended meanwhile says nothing about the server, nor does a signal.
            let result = self.go().or_else(|error| {
                self.connection = None;
                if !is_hiccup(&error) {
                    return Err(error);
                }
                // To find the server again may take long: that counts from now.
                self.fail(&error, began);
                self.go()
            });
            match result {
                Ok((answer, verb)) => {
                    (self.last, self.pause) = (began, AGAIN[0]);
                    self.deliver(answer, verb);
                }
                Err(error) => {
                    self.connection = None;
                    self.fail(&error, began);
                    (self.last, self.pause) = (Instant::now(), (self.pause * 2).min(AGAIN[1]));
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let mut desk = lock(&self.office.desk);
        loop {
            let after = match &*desk {
                Desk { failure: Some(_), errand, works, .. } if errand.is_some() || *works => Some(self.pause),
                Desk { errand: Some(_), .. } => Some(Duration::ZERO),
                Desk { works: false, .. } => None,
                Desk { is_new: true, .. } => Some(RECORD),
                Desk { looks: true, .. } => Some(LOOK),
                // What it holds is to stay held.
                Desk { .. } => Some(self.terms.lease / 4),
            };
            let left = after.map(|after| after.saturating_sub(self.last.elapsed()));
            desk = match left {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    self.office.called.wait_timeout(desk, left).unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
                None => self.office.called.wait(desk).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
    }

    /// Goes to the server once.
    fn go(&mut self) -> RedisResult<(Answer, Verb)> {
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
            let mut desk = lock(&self.office.desk);
            desk.is_new = false;
            desk.refresh |= is_fresh;
            let verb = desk.errand.unwrap_or(Verb::Step);
            let revision = if desk.refresh { ("", 0) } else { (desk.born.as_str(), desk.since) };
            let call = Call::new(&self.terms, verb, &desk.request, &desk.models, &desk.told, revision).json()?;
            (call, verb, desk.models.clone())
        };
        let answer: Answer = self.script.key(&self.prefix).arg(call).invoke(connection)?;
        if matches!(verb, Verb::Step | Verb::Leave) {
            lock(&self.office.desk).told = Told { models, born: answer.born.clone() };
        }
        Ok((answer, verb))
    }

    fn deliver(&self, answer: Answer, verb: Verb) {
        let mut desk = lock(&self.office.desk);
        let was_away = desk.failure.take().is_some_and(|failure| failure.counts());
        desk.was_reached = true;
        let is_news = answer.has_news() || was_away;
        desk.answer = Some(answer);
        if desk.errand == Some(verb) {
            desk.errand = None;
        } else if is_news {
            self.ring(&mut desk);
        }
        self.office.called.notify_all();
    }

    /// The server could not be used; the try `began` then.
    fn fail(&self, error: &RedisError, began: Instant) {
        let mut desk = lock(&self.office.desk);
        desk.is_new = true;
        desk.tries = desk.tries.saturating_add(1);
        let since = desk.failure.as_ref().map_or(began, |failure| failure.since);
        let failure = Failure { trouble: Trouble::of(error), is_final: is_final(error), since };
        if failure.counts() {
            self.ring(&mut desk);
        }
        desk.failure = Some(failure);
        self.office.called.notify_all();
    }

    fn ring(&self, desk: &mut Desk) {
        if !std::mem::replace(&mut desk.rung, true) {
            let _ = (&self.office.bell).write(&[1]);
        }
    }
}

/// Whether it may go away by itself at once.
fn is_hiccup(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io && !error.is_timeout() && !error.is_connection_refusal()
}

/// Whether to try again at once would come to the same: nobody is there, or does not want.
fn is_final(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => !error.is_timeout() && (error.is_connection_refusal() || !error.is_connection_dropped()),
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain) => false,
        _ => true,
    }
}

impl Trouble {
    /// An error as people read it.
    fn of(error: &RedisError) -> Self {
        let text = match error.kind() {
            ErrorKind::Io if error.is_timeout() => return Trouble::silence(PATIENCE),
            ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => {
                "it closes the connection".to_owned()
            }
            ErrorKind::Io => without_number(&error.to_string()),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                "its answer makes no sense; is it a Redis server?".to_owned()
            }
            _ => error.detail().unwrap_or(error.category()).to_owned(),
        };
        // What the server adds about the script it was in is of no use here.
        let text = text.split(" script: ").next().unwrap_or_default().trim_end_matches('.');
        let wants_password =
            error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        let why = clean(text) + if wants_password { " (BUDGET_TEE_LEDGER_PASSWORD)" } else { "" };
        Trouble { doing: if error.kind() == ErrorKind::Io { "reach" } else { "use" }, why }
    }

    fn silence(time: Duration) -> Self {
        Trouble { doing: "reach", why: format!("it has not answered for {} s", time.as_secs()) }
    }
}
