//! What a ledger on a server is asked, and what it answers. It touches no socket.
//!
//! `script.lua` is the other end of this.

use std::time::{Duration, Instant};

use redis::{FromRedisValue, ParsingError, Value};
use serde::Serialize;

use crate::amount::{Amount, Amounts, Unit};
use crate::budget::{ByScope, Scope};
use crate::count::tally::Tally;
use crate::count::tokens::{Classes, Counts, Spend, Tokens};
use crate::ledger::book::{Book, OpenRun, PACE_OVER};
use crate::ledger::limits::Limit;
use crate::ledger::store::{Admission, Handover, Member, Request};
use crate::ledger::window::{Period, Window};

/// The highest figure: 2^53 - 1.
// The server's scripts calculate with doubles, which hold every whole number up to this one.
const FIGURE_MAX: u64 = (1 << 53) - 1;

/// How long a reservation is held until its run is heard of for the first time after its admission.
// A run that never gets the answer never renews it: then the room that it took is free again soon.
const FIRST_LEASE: Duration = Duration::from_secs(15);

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// The run wants to start.
    Admit,
    /// It records what it spent, and stays alive.
    Step,
    /// The same for the last time.
    Leave,
    /// A report reads everything.
    Read,
    /// Somebody grants more than the limit.
    Grant,
}

/// Sums of commands over spans of time.
#[derive(Debug, PartialEq)]
struct Level {
    name: &'static str,
    /// How long a span is, in seconds.
    step: u64,
    /// It is for rolling windows shorter than this, in seconds: a window is added up from the longest spans that
    /// are at most a thirtieth of it, which is how exact it is.
    below: f64,
}

/// The sums since the beginning, which are one span.
const EVER: &Level = &Level { name: "ever", step: 1, below: 0.0 };
const SECONDS: &Level = &Level { name: "seconds", step: 1, below: 1_800.0 };
const MINUTES: &Level = &Level { name: "minutes", step: 60, below: 108_000.0 };
const HOURS: &Level = &Level { name: "hours", step: 3_600, below: 2_592_000.0 };
const DAYS: &Level = &Level { name: "days", step: 86_400, below: f64::INFINITY };
const LEVELS: [&Level; 5] = [EVER, SECONDS, MINUTES, HOURS, DAYS];

/// The level for a window.
fn level_of(window: Option<&Window>) -> &'static Level {
    match window {
        None => EVER,
        Some(Window::Last(length)) => LEVELS.into_iter().find(|level| *length < level.below).unwrap_or(DAYS),
        Some(Window::Calendar(Period::Day, _)) => MINUTES,
        // The server's days are not those of a time zone, and its minutes are not kept for so long.
        Some(Window::Calendar(..)) => HOURS,
    }
}

/// What of a run is known to be recorded, and in which life of the ledger: one that was dropped and made
/// anew is another.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) handover: Handover,
    pub(crate) born: String,
}

/// What a call wants to see: the sums that a run with this window needs, those that bind it first; at its
/// start the marks of threads, too; or all that a report shows.
fn looks(window: Option<&Window>, now: f64, verb: Verb) -> Vec<Look> {
    let back = |seconds: f64| Duration::try_from_secs_f64(seconds).map_or(FIGURE_MAX, milliseconds);
    let own = match window {
        Some(Window::Last(length)) => Look { back: back(*length), ..Look::at(level_of(window)) },
        // By its own clock the server finds out which of them is the last.
        Some(window) => Look { begins: window.begins(now).map(milliseconds_at), ..Look::at(level_of(window.into())) },
        None => Look::at(EVER),
    };
    let pace = Look { back: back(PACE_OVER[0]), ..Look::at(MINUTES) };
    let all = |level| Look { level, ..Look::at(EVER) };
    match verb {
        Verb::Admit => vec![own, all("threads")],
        Verb::Read => vec![own, Look::at(EVER), all("models"), pace],
        Verb::Step | Verb::Leave | Verb::Grant => vec![own],
    }
}

/// What is the same in all calls of a run, but for their number.
#[derive(Debug)]
pub(crate) struct CallTerms {
    /// How many calls were made.
    // A call that was given up may reach the server after the next one: it is known there by its number.
    pub(crate) calls: u64,
    pub(crate) member: Member,
    /// How long the reservation is held after a call.
    pub(crate) lease: Duration,
    /// How long the ledger is kept when no run uses it.
    pub(crate) expiry: Option<Duration>,
}

/// A call as the script takes it. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Call<'a> {
    verb: Verb,
    id: &'a str,
    /// Grows with each call of the run.
    number: u64,
    suffix: String,
    lease: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<u64>,
    models: Vec<Figures<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    threads: Vec<ThreadFigures<'a>>,
    told: Vec<Figures<'a>>,
    told_in: &'a str,
    estimate: [u64; 2],
    classes: [bool; 4],
    must_fit: bool,
    rooms: Vec<CallRoom>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<(String, String)>,
    look: Vec<Look>,
    born: &'a str,
    since: u64,
}

/// A model with what was spent on it: input, output, cache write, cache read, micro-dollars.
type Figures<'a> = (&'a str, [u64; 5]);

/// A thread with its mark, and whether that is news; else it is only for a ledger that does not know the thread.
type ThreadFigures<'a> = (&'a str, [u64; 4], bool);

/// The marks that have changed since they were `recorded`; all of them on a new connection, since the server
/// may have lost something.
fn thread_figures<'a>(handover: &'a Handover, recorded: &'a Handover, is_fresh: bool) -> Vec<ThreadFigures<'a>> {
    let changes = handover.changes(recorded).filter(|(_, _, is_new)| is_fresh || *is_new);
    changes
        .map(|(id, Tokens { input, output, cache_write, cache_read }, is_new)| {
            (id, [input, output, cache_write, cache_read].map(|figure| figure.min(FIGURE_MAX)), is_new)
        })
        .collect()
}

fn figures(models: &Tally<String>) -> Vec<Figures<'_>> {
    let spent = models.iter().filter(|(_, spend)| !spend.is_zero());
    spent
        .map(|(name, Spend { tokens: Tokens { input, output, cache_write, cache_read }, micro_usd })| {
            let five = [input, output, cache_write, cache_read, micro_usd];
            (name.as_str(), five.map(|figure| (*figure).min(FIGURE_MAX)))
        })
        .collect()
}

/// Sums that are wanted, and of what time: so many milliseconds back, or since the last of the moments at
/// which a period begins.
#[derive(Debug, Serialize)]
struct Look {
    level: &'static str,
    back: u64,
    begins: [u64; 3],
}

impl Look {
    fn at(level: &Level) -> Look {
        Look { level: level.name, back: 0, begins: [0; 3] }
    }
}

/// A [`crate::scope::Room`]: unit 1 is tokens and 2 is micro-dollars, as Lua counts.
#[derive(Debug, Serialize)]
struct CallRoom {
    of_command: bool,
    unit: u8,
    limit: u64,
    estimate: u64,
}

/// The field of a limit: its unit, and its command after a blank.
fn limit_field(limit: &Limit) -> String {
    let unit = if limit.amount.unit == Unit::Tokens { "tokens" } else { "micro_usd" };
    limit.name.as_deref().map_or(unit.to_owned(), |name| format!("{unit} {name}"))
}

/// The limit of a field, and of a value: how much, and its window after a blank.
fn limit_of(field: &str, value: &str) -> Option<Limit> {
    let (unit, name) = field.split_once(' ').map_or((field, None), |(unit, name)| (unit, Some(name.to_owned())));
    let unit = [("tokens", Unit::Tokens), ("micro_usd", Unit::Usd)].into_iter().find(|(word, _)| *word == unit)?.1;
    let (value, window) = value.split_once(' ').unwrap_or((value, ""));
    Some(Limit { name, amount: Amount { unit, value: value.parse().ok()? }, window: window.to_owned() })
}

impl<'a> Call<'a> {
    /// A call of a run that asked for `request` and hands over this, of which `recorded` is known to be
    /// recorded. The answer has what has changed since the reader's revision.
    pub(crate) fn new(
        terms: &'a CallTerms,
        verb: Verb,
        request: &Request,
        handover: &'a Handover,
        recorded: &'a Recorded,
        revision: (&'a str, u64),
        now: f64,
    ) -> Self {
        let rooms = request.rooms.iter().map(|room| CallRoom {
            of_command: room.scope == Scope::Command,
            unit: if room.unit == Unit::Tokens { 1 } else { 2 },
            limit: room.limit.min(FIGURE_MAX),
            estimate: room.estimate.min(FIGURE_MAX),
        });
        let limit = |limit: &Limit| (limit_field(limit), format!("{} {}", limit.amount.value, limit.window));
        Call {
            verb,
            id: &terms.member.id,
            number: terms.calls,
            // The end of a field's name, after the span of time.
            suffix: terms.member.name.as_deref().map_or(String::new(), |name| format!(" {name}")),
            lease: milliseconds(if verb == Verb::Admit { terms.lease.min(FIRST_LEASE) } else { terms.lease }),
            expiry: terms.expiry.map(milliseconds),
            models: figures(&handover.spend),
            threads: thread_figures(handover, &recorded.handover, revision.0.is_empty()),
            told: figures(&recorded.handover.spend),
            told_in: &recorded.born,
            estimate: [request.reservation.tokens, request.reservation.micro_usd].map(|figure| figure.min(FIGURE_MAX)),
            classes: request.classes.chosen(),
            must_fit: request.must_fit(),
            rooms: rooms.collect(),
            // They are kept at the start; each step of the run would only say them again.
            limits: request.limits.iter().filter(|_| verb == Verb::Admit).map(limit).collect(),
            look: looks(terms.member.window.as_ref(), now, verb),
            born: revision.0,
            since: revision.1,
        }
    }
}

/// An answer.
// A figure that cannot be read is zero: only the script should have written it, but anybody may have.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The server's time, in Unix seconds.
    pub(crate) now: f64,
    /// When it came.
    pub(crate) arrived: Instant,
    /// The life of the ledger that it is about; empty where there is no ledger.
    pub(crate) born: String,
    pub(crate) revision: u64,
    /// It has everything, not only what has changed.
    pub(crate) is_whole: bool,
    /// What is recorded of this run.
    pub(crate) own: Spend,
    pub(crate) admission: Admission,
    /// What was granted, as far as it binds this run.
    pub(crate) granted: ByScope,
    /// Field and value of each limit.
    limits: Vec<[String; 2]>,
    /// Time in milliseconds, id, tokens, micro-dollars and suffix of each grant.
    grants: Vec<[String; 5]>,
    /// Level, field and sum of each sum that has changed.
    cells: Vec<[String; 3]>,
    /// Id, suffix, tokens and micro-dollars reserved, and spend of each run that is alive.
    alive: Vec<[String; 5]>,
}

/// Words of an answer, so many at a time. What is not UTF-8 was not written by this program, and does not
/// cost the rest.
fn rows<const N: usize>(words: &[Vec<u8>]) -> Vec<[String; N]> {
    let row = |row: &[Vec<u8>]| std::array::from_fn(|at| String::from_utf8_lossy(&row[at]).into_owned());
    words.chunks_exact(N).map(row).collect()
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        type Words = Vec<Vec<u8>>;
        type Parts = (u64, String, u64, u8, String, u8, Vec<u64>, Vec<u64>, Words, Words, Words, Words);
        let (now, born, revision, whole, own, admitted, reserved, granted, cells, alive, limits, grants): Parts =
            redis::from_redis_value(value)?;
        let by_scope = |four: Vec<u64>| {
            let [tokens, micro_usd, of_command, of_command_usd] = <[u64; 4]>::try_from(four).unwrap_or_default();
            let command = Amounts { tokens: of_command, micro_usd: of_command_usd };
            ByScope { overall: Amounts { tokens, micro_usd }, command }
        };

        Ok(Answer {
            now: Duration::from_millis(now).as_secs_f64(),
            arrived: Instant::now(),
            born,
            revision,
            is_whole: whole == 1,
            own: five(&own),
            admission: Admission { admitted: admitted == 1, reserved: by_scope(reserved) },
            granted: by_scope(granted),
            limits: rows(&limits),
            grants: rows(&grants),
            cells: rows(&cells),
            alive: rows(&alive),
        })
    }
}

impl Answer {
    /// Enters it into a book whose window is `window`.
    pub(crate) fn enter_into(&self, book: &mut Book, window: Option<&Window>) {
        let level = level_of(window);
        let born = self.born.split('-').next().and_then(|born| born.parse().ok());
        book.begin(born.map_or(self.now, |born| Duration::from_millis(born).as_secs_f64()));
        self.limits.iter().filter_map(|[field, value]| limit_of(field, value)).for_each(|limit| book.set_limit(limit));
        for [at, _, tokens, micro_usd, suffix] in &self.grants {
            let [at, tokens, micro_usd] = [at, tokens, micro_usd].map(|figure| figure.parse().unwrap_or(0));
            let at = Duration::from_millis(at).as_secs_f64();
            book.add_grant(at, suffix.strip_prefix(' '), Amounts { tokens, micro_usd });
        }
        for [of, field, sum] in &self.cells {
            let sum = five(sum);
            if of == "models" {
                book.set_model(field, sum);
                continue;
            }
            if of == "threads" {
                book.marks.set(field, sum.tokens);
                continue;
            }
            let (span, name) = field.split_once(' ').map_or((field.as_str(), None), |(span, name)| (span, Some(name)));
            let of = LEVELS.into_iter().find(|level| level.name == of);
            let (Some(of), Ok(span)) = (of, span.parse::<u64>()) else { continue };
            if of == EVER {
                book.set_command(name, sum);
                continue;
            }
            let end = span.saturating_add(1).saturating_mul(of.step);
            if of == level {
                book.set_span(false, name, end, sum, self.now);
            }
            if of == MINUTES {
                book.set_span(true, name, end, sum, self.now);
            }
        }
    }

    /// The runs that are alive, with what they have reserved in tokens of `classes`.
    pub(crate) fn alive(&self, classes: Classes) -> Vec<OpenRun> {
        let figure = |text: &str| text.parse().unwrap_or(0);
        let open = |[id, suffix, tokens, micro_usd, spent]: &[String; 5]| OpenRun {
            id: id.clone(),
            name: suffix.strip_prefix(' ').map(str::to_owned),
            reserved: Amounts { tokens: figure(tokens), micro_usd: figure(micro_usd) }
                .minus(Amounts::of(&five(spent), classes)),
        };
        self.alive.iter().map(open).collect()
    }
}

/// Input, output, cache write, cache read, micro-dollars.
fn five(text: &str) -> Spend {
    let mut figures = text.split(' ').map(|figure| figure.parse().unwrap_or(0));
    let mut next = || figures.next().unwrap_or(0);
    let tokens = Tokens { input: next(), output: next(), cache_write: next(), cache_read: next() };
    Spend { tokens, micro_usd: next() }
}

/// A time in Unix seconds as the script has it.
fn milliseconds_at(at: f64) -> u64 {
    Duration::try_from_secs_f64(at).map_or(0, milliseconds)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(FIGURE_MAX).min(FIGURE_MAX)
}
