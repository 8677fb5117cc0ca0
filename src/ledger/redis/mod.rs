//! A ledger on a Redis or Valkey server, for runs on many machines.
//!
//! The server takes each step as one script, with nothing in between, and by its own clock. A reservation is
//! a lease that its run renews.

pub mod address;
pub(crate) mod client;
pub(crate) mod protocol;

use std::time::{Duration, Instant};

use crate::amount::Amounts;
use crate::budget::ByScope;
use crate::count::tokens::{Classes, Spend};
use crate::error::Error;
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::redis::address::Address;
use crate::ledger::redis::client::{ServerClient, is_hiccup};
use crate::ledger::redis::protocol::{Answer, Call, CallTerms, Recorded, Verb};
use crate::ledger::store::{Admission, Failure, Handover, Member, Request, Store, Terms, made_anew};
use crate::show::text::{because, reason};

/// What others have spent is asked for this often, where it matters.
// What is fetched is on its way for a while, and the run must see it within a second.
const LOOK: Duration = Duration::from_millis(500);

/// What is known of the ledger on the server.
#[derive(Debug)]
pub(crate) struct ServerStore {
    terms: CallTerms,
    grace: Duration,
    client: ServerClient,
    book: Book,
    request: Request,
    /// What the server has heard of this run, and what it says that it has.
    recorded: Recorded,
    own: Spend,
    /// What was granted, as far as it binds this run.
    granted: ByScope,
    /// By how many seconds the server's clock is ahead of this machine's.
    ahead: f64,
    /// What was read for a report.
    report: Option<Answer>,
    /// Which life of the ledger this is, and up to which change it is known here.
    born: String,
    revision: u64,
    /// There was another life before it.
    is_reborn: bool,
}

impl ServerStore {
    /// Prepares to use the ledger at `address`; the server is not called yet.
    pub(crate) fn open(address: &Address, member: Member) -> Result<Self, Error> {
        let client = ServerClient::new(address).map_err(std::io::Error::other);
        let client =
            client.map_err(|why| Error::Failed(because(format_args!("cannot use ledger {address}"), reason(why))))?;
        Ok(ServerStore {
            book: Book::new(member.window.clone()),
            terms: CallTerms { calls: 0, member, lease: address.lease(), expiry: address.expiry },
            grace: address.grace,
            client,
            request: Request::default(),
            recorded: Recorded::default(),
            own: Spend::default(),
            granted: ByScope::default(),
            ahead: 0.0,
            report: None,
            born: String::new(),
            revision: 0,
            is_reborn: false,
        })
    }

    /// Makes a call and takes in what its answer says about the ledger.
    fn call(&mut self, verb: Verb, handover: &Handover, now: f64) -> Result<Answer, Failure> {
        let began = Instant::now();
        // A connection that has ended meanwhile says nothing about the server: try a new one first.
        let result = self.try_call(verb, handover, now);
        let result = match result {
            Err(error) if is_hiccup(&error) => self.try_call(verb, handover, now),
            result => result,
        };
        let answer = result.map_err(|error| self.client.failure(&error))?;
        self.take_in(&answer, now + began.elapsed().as_secs_f64());
        // The others record nothing.
        if matches!(verb, Verb::Step | Verb::Leave) {
            self.recorded = Recorded { handover: handover.clone(), born: answer.born.clone() };
        }
        Ok(answer)
    }

    fn try_call(&mut self, verb: Verb, handover: &Handover, now: f64) -> redis::RedisResult<Answer> {
        // Everything is read again on a new connection: the server may have lost something.
        let revision = if self.client.is_fresh() { ("", 0) } else { (self.born.as_str(), self.revision) };
        let now = now + self.ahead;
        self.terms.calls += 1;
        let call = Call::new(&self.terms, verb, &self.request, handover, &self.recorded, revision, now);
        self.client.call(&call)
    }

    fn take_in(&mut self, answer: &Answer, now: f64) {
        (self.own, self.granted) = (answer.own, answer.granted);
        // As after a restart of a server that keeps nothing on disk, or when the ledger has expired.
        self.is_reborn |= !self.born.is_empty() && self.born != answer.born;
        self.born.clone_from(&answer.born);
        self.revision = answer.revision;
        self.ahead = answer.now + answer.arrived.elapsed().as_secs_f64() - now;
        // Another life of the ledger, or the first answer on a new connection: what is not in it is no longer
        // there.
        if answer.is_whole {
            self.book = Book::new(self.terms.member.window.clone());
        }
        answer.enter_into(&mut self.book, self.terms.member.window.as_ref());
    }
}

impl Store for ServerStore {
    fn member(&self) -> &Member {
        &self.terms.member
    }

    fn book(&self) -> &Book {
        &self.book
    }

    fn terms(&self) -> Terms {
        Terms { look: LOOK, renew: Some(self.terms.lease / 4), grace: Some(self.grace) }
    }

    fn read(&mut self, now: f64) -> Result<bool, Failure> {
        let answer = self.call(Verb::Read, &Handover::default(), now)?;
        let is_there = !answer.born.is_empty();
        self.report = Some(answer);
        Ok(is_there)
    }

    fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Failure> {
        // Kept: a step enters the run where the answer to this was lost, or it goes on without one.
        self.request = request.clone();
        Ok(self.call(Verb::Admit, &Handover::default(), now)?.admission)
    }

    fn step(&mut self, handover: &Handover, now: f64) -> Result<(), Failure> {
        self.call(Verb::Step, handover, now).map(drop)
    }

    fn grant(&mut self, name: Option<&str>, amounts: Amounts, now: f64) -> Result<bool, Failure> {
        self.terms.member.name = name.map(str::to_owned);
        self.request.reservation = amounts;
        self.call(Verb::Grant, &Handover::default(), now).map(|answer| !answer.born.is_empty())
    }

    fn leave(&mut self, handover: &Handover, now: f64) -> Result<(), Failure> {
        self.call(Verb::Leave, handover, now).map(drop)
    }

    fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        self.report.as_ref().map_or(Vec::new(), |answer| answer.alive(classes))
    }

    fn own(&self) -> Spend {
        self.own
    }

    fn granted(&self, _now: f64) -> ByScope {
        self.granted
    }

    fn time(&self, now: f64) -> f64 {
        now + self.ahead
    }

    fn note(&mut self) -> Option<String> {
        let location = &self.client.location;
        std::mem::take(&mut self.is_reborn).then(|| made_anew(location))
    }
}
