//! A ledger on a Redis or Valkey server, for runs on many machines.
//!
//! The server takes each step as one script, with nothing in between, and by its own clock. A worker
//! carries what this run spends and brings what all spend. A reservation is a lease that its run renews.

pub mod address;
pub(crate) mod protocol;
pub(crate) mod worker;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts, Spend};
use crate::error::Error;
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::redis::address::Address;
use crate::ledger::redis::protocol::{Answer, CallTerms, Verb};
use crate::ledger::redis::worker::Post;
use crate::ledger::store::{Admission, LEDGER_WAIT, Member, Reach, Request, Store, unrecorded};
use crate::show::text::reason;

/// What is known of the ledger on the server.
#[derive(Debug)]
pub(crate) struct ServerStore {
    member: Member,
    book: Book,
    worker: Arc<Post>,
    grace: Duration,
    /// What is recorded of this run.
    own: Spend,
    /// By how many seconds the server's clock is ahead of this machine's.
    ahead: f64,
    /// What was read for a report.
    report: Option<Answer>,
    /// Which life of the ledger this is.
    born: String,
    /// There was another life before it.
    is_reborn: bool,
}

impl ServerStore {
    /// Prepares to use the ledger at `address`; the server is not called yet.
    pub(crate) fn open(address: &Address, member: Member) -> Result<Self, Error> {
        let terms = CallTerms { member: member.clone(), lease: address.lease(), expiry: address.expiry };
        let worker = Post::start(address, terms)
            .map_err(|why| Error::Failed(format!("cannot use ledger {address}: {}", reason(why))))?;
        Ok(ServerStore {
            book: Book::new(member.window.clone()),
            member,
            worker,
            grace: address.grace,
            own: Spend::default(),
            ahead: 0.0,
            report: None,
            born: String::new(),
            is_reborn: false,
        })
    }

    /// Makes a call and takes in what its answer says about the ledger.
    fn call(&mut self, verb: Verb, wait: Duration, now: f64) -> Result<Answer, Error> {
        let began = Instant::now();
        let answer = self.worker.call(verb, wait)?;
        self.take_in(&answer, now + began.elapsed().as_secs_f64());
        Ok(answer)
    }

    fn take_in(&mut self, answer: &Answer, now: f64) {
        self.own = answer.own;
        // As after a restart of a server that keeps nothing on disk, or when the ledger has expired.
        self.is_reborn |= !self.born.is_empty() && self.born != answer.born;
        self.born.clone_from(&answer.born);
        self.ahead = answer.now + answer.arrived.elapsed().as_secs_f64() - now;
    }

    fn enter(&mut self, answer: &Answer) {
        // Another life of the ledger, or the worker's first answer on a new connection: what is not in it is
        // no longer there.
        if answer.is_whole {
            self.book = Book::new(self.member.window.clone());
        }
        answer.enter_into(&mut self.book, self.member.window.as_ref(), false);
    }
}

impl Store for ServerStore {
    fn member(&self) -> &Member {
        &self.member
    }

    fn book(&self) -> &Book {
        &self.book
    }

    fn read(&mut self, now: f64) -> Result<bool, Error> {
        let answer = self.call(Verb::Read, LEDGER_WAIT, now)?;
        answer.enter_into(&mut self.book, self.member.window.as_ref(), true);
        let is_there = !answer.born.is_empty();
        self.report = Some(answer);
        Ok(is_there)
    }

    fn admit(&mut self, request: &Request, now: f64) -> Result<Admission, Error> {
        self.worker.ask(request.clone());
        let answer = self.call(Verb::Admit, LEDGER_WAIT, now);
        // Warn mode starts without an answer too; the worker goes on trying.
        let starts = answer.as_ref().map_or(!request.must_fit(), |answer| answer.admission.admitted);
        if starts {
            self.worker.start_run(!request.rooms.is_empty());
        }
        let answer = answer?;
        self.enter(&answer);
        Ok(answer.admission)
    }

    fn record(&mut self, spend: &Tally<String>, _now: f64) -> Result<bool, Error> {
        self.worker.hand_over(spend);
        Ok(true)
    }

    fn look(&mut self, now: f64) -> Result<(), Error> {
        let (answer, result) = self.worker.collect();
        if let Some(answer) = answer {
            self.take_in(&answer, now);
            self.enter(&answer);
        }
        result
    }

    fn leave(&mut self, spend: &Tally<String>, now: f64, wait: Duration) -> Result<(), Error> {
        self.worker.hand_over(spend);
        match self.call(Verb::Leave, wait, now) {
            Ok(answer) => self.enter(&answer),
            Err(error) => {
                let missing = spend.sum().minus(self.own);
                // Else only the end is missing, and the reservation ends with its lease.
                if Classes::default().count(&missing.tokens) > 0 {
                    return Err(unrecorded(error, missing));
                }
            }
        }
        Ok(())
    }

    fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        self.report.as_ref().map_or(Vec::new(), |answer| answer.alive(classes))
    }

    fn own(&self) -> Spend {
        self.own
    }

    fn time(&self, now: f64) -> f64 {
        now + self.ahead
    }

    fn reach(&self) -> Reach {
        self.worker.reach(self.grace)
    }

    fn note(&mut self) -> Option<String> {
        let location = &self.worker.location;
        std::mem::take(&mut self.is_reborn)
            .then(|| format!("ledger {location} was made anew: it no longer has what runs that have ended spent"))
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        Some(self.worker.wake.as_fd())
    }
}
