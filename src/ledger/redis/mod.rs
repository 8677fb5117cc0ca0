//! A ledger on a Redis or Valkey server, for runs on many machines.
//!
//! The server does each step with nothing between, by `ledger.lua`, and on its own clock; a
//! [`Courier`] carries what this run uses and brings what all use, so that nothing here waits but
//! the start and the end. A run holds its estimate by a lease that it renews.

pub mod address;
pub(crate) mod protocol;
pub(crate) mod worker;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::count::tokens::{Classes, Spend};
use crate::ledger::book::{Book, OpenRun};
use crate::ledger::redis::address::Address;
use crate::ledger::redis::protocol::{Answer, Terms, Verb};
use crate::ledger::redis::worker::{Courier, Trouble};
use crate::ledger::{Admission, Member, Request, Unusable, WAIT};

/// What is known of the ledger on the server.
#[derive(Debug)]
pub(crate) struct ServerStore {
    courier: Courier,
    grace: Duration,
    /// What is recorded of this run.
    own: Spend,
    /// By how many seconds the server's clock is ahead of this machine's.
    ahead: f64,
    /// What was last read for a report.
    read: Option<Answer>,
    /// Which life of the ledger this is, and whether there was one before.
    born: String,
    is_reborn: bool,
}

impl ServerStore {
    /// Makes ready to use the ledger at `address`.
    pub(crate) fn open(address: &Address, member: &Member) -> Result<Self, Unusable> {
        let terms = Terms::new(member, address.lease(), address.expiry);
        let courier = Courier::start(address, terms).map_err(|why| Unusable::new("use", address, why))?;
        let (grace, own) = (address.grace, Spend::default());
        Ok(ServerStore { courier, grace, own, ahead: 0.0, read: None, born: String::new(), is_reborn: false })
    }

    /// Reads all there is, for a report; whether there is a ledger.
    pub(crate) fn read(&mut self, member: &Member, book: &mut Book, now: f64) -> Result<bool, Unusable> {
        let began = Instant::now();
        let answer = self.courier.send(Verb::Read, WAIT).map_err(|trouble| self.unusable(trouble))?;
        self.take_in(&answer, now + began.elapsed().as_secs_f64());
        answer.enter_into(book, member.window, true);
        let is_there = !answer.born.is_empty();
        self.read = Some(answer);
        Ok(is_there)
    }

    /// See [`crate::ledger::Ledger::admit`].
    pub(crate) fn admit(
        &mut self,
        member: &Member,
        book: &mut Book,
        request: &Request,
        now: f64,
    ) -> Result<Admission, Unusable> {
        let began = Instant::now();
        self.courier.ask(request.clone());
        let answer = self.courier.send(Verb::Admit, WAIT);
        let starts = answer.as_ref().map_or(!request.must_fit(), |answer| answer.admission.entered);
        if starts {
            self.courier.work(!request.rooms.is_empty());
        }
        let answer = answer.map_err(|trouble| self.unusable(trouble))?;
        self.enter(&answer, member, book, now + began.elapsed().as_secs_f64());
        Ok(answer.admission)
    }

    /// See [`crate::ledger::Ledger::spend`].
    pub(crate) fn spend(&self, models: &[(String, Spend)]) {
        self.courier.hand_over(models.to_vec());
    }

    /// See [`crate::ledger::Ledger::look`].
    pub(crate) fn look(&mut self, member: &Member, book: &mut Book, now: f64) -> Result<(), Unusable> {
        let (answer, failure) = self.courier.collect();
        if let Some(answer) = answer {
            self.enter(&answer, member, book, now);
        }
        failure.map_or(Ok(()), |trouble| Err(self.unusable(trouble)))
    }

    /// See [`crate::ledger::Ledger::leave`].
    pub(crate) fn leave(
        &mut self,
        member: &Member,
        book: &mut Book,
        models: &[(String, Spend)],
        now: f64,
        wait: Duration,
    ) -> Result<(), Unusable> {
        let began = Instant::now();
        let sum = models.iter().fold(Spend::default(), |sum, (_, tokens)| sum.plus(*tokens));
        self.courier.hand_over(models.to_vec());
        match self.courier.send(Verb::Leave, wait) {
            Ok(answer) => {
                self.enter(&answer, member, book, now + began.elapsed().as_secs_f64());
                Ok(())
            }
            Err(trouble) => match Classes::default().count(&sum.less(self.own)) {
                // Its lease ends by itself.
                0 => Ok(()),
                missing => Err(self.unusable(trouble).losing(missing)),
            },
        }
    }

    /// The runs that are alive, as they were last read.
    pub(crate) fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        self.read.as_ref().map_or(Vec::new(), |answer| answer.alive(classes))
    }

    /// What is recorded of this run.
    pub(crate) fn own(&self) -> Spend {
        self.own
    }

    /// The time by the server's clock.
    pub(crate) fn time(&self, now: f64) -> f64 {
        now + self.ahead
    }

    /// Since when the server is out of reach, and until when a run in block mode goes on without.
    pub(crate) fn away(&self) -> Option<(Instant, Duration)> {
        self.courier.away_since().map(|since| (since, self.grace))
    }

    /// Whether the server was there the last time.
    pub(crate) fn is_there(&self) -> bool {
        self.courier.is_there()
    }

    /// See [`crate::ledger::Ledger::note`].
    pub(crate) fn note(&mut self) -> Option<String> {
        let place = self.courier.place();
        std::mem::take(&mut self.is_reborn)
            .then(|| format!("ledger {place} has begun anew: what runs that have ended used is not in it any more"))
    }

    /// Readable when there is something to look at.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.courier.bell()
    }

    fn enter(&mut self, answer: &Answer, member: &Member, book: &mut Book, now: f64) {
        self.take_in(answer, now);
        if answer.is_whole {
            *book = Book::new(member.window);
        }
        answer.enter_into(book, member.window, false);
    }

    fn take_in(&mut self, answer: &Answer, now: f64) {
        self.own = answer.own;
        self.is_reborn |= !self.born.is_empty() && self.born != answer.born;
        self.born.clone_from(&answer.born);
        self.ahead = answer.now + answer.arrived.elapsed().as_secs_f64() - now;
    }

    fn unusable(&self, trouble: Trouble) -> Unusable {
        Unusable::new(trouble.doing, self.courier.place(), trouble.why)
    }
}
