//! The meter: turns what lines say into totals, without counting anything twice.
//!
//! The rules come from recorded streams. In short: a message counts once, as the maximum of all
//! usage seen for it; a `result` line settles what was counted live; a total never goes down.
//!
//! Memory is bounded. The last [`RECENT_MESSAGES`] messages are remembered to recognise their
//! further lines; a forgotten one stays in the total, and can be counted twice only if a line of it
//! comes after that many other messages have begun. In real streams a message's lines are a few
//! dozen messages apart at most: those of the agents that run beside it. The last
//! [`RECENT_SESSIONS`] sessions keep what their next `result` line is compared with; a forgotten
//! one stays in the total, and counts as new only if it goes on after that many others were seen.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::count::message::{Message, Models, Part, Start};
use crate::count::price::{Bill, Prices, Unpriced};
use crate::count::session::{ModelId, PerModel, Session, parse_version};
use crate::count::tokens::{Class, Spend};
use crate::stream::record::{Line, ModelUsage};

/// How many messages are remembered; see the module's text for why that is enough.
pub const RECENT_MESSAGES: usize = 1024;

/// How many sessions are remembered; see the module's text for why that is enough.
pub const RECENT_SESSIONS: usize = 256;

/// After this many messages that all report zero tokens, live counting is called blind.
const BLIND_AFTER: u32 = 10;

/// Something that the user is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Many messages and not one token: a gateway tells at the `result` line only, if at all.
    Blind,
    /// A resumed session's `modelUsage` began with these tokens, which earlier processes spent.
    CarriedOver(Spend),
    /// This model has no price.
    Unpriced(String),
}

/// Totals of a stream, live.
#[derive(Debug, Default)]
pub struct Meter {
    hasher: RandomState,
    models: Models,
    /// Most recently used last.
    sessions: Vec<Session>,
    /// Oldest first; one that starts anew is new.
    recent: VecDeque<Message>,
    /// What forgotten sessions used, and whether one of them was never settled.
    past: PerModel,
    past_open: bool,
    total: Spend,
    messages: u64,
    usage_seen: bool,
    silent: u32,
    counted_live: bool,
    findings: Vec<Finding>,
    prices: Prices,
    /// Models without a price.
    unpriced: Vec<ModelId>,
}

/// One sighting of a message's usage.
struct Sighting<'a> {
    id: Option<&'a str>,
    parent: Option<&'a str>,
    model: Option<&'a str>,
    bill: Bill,
    started: bool,
    aborted: bool,
}

impl Meter {
    /// A meter that prices what it counts.
    #[must_use]
    pub fn new(prices: Prices) -> Self {
        Meter { prices, ..Meter::default() }
    }

    /// Names of the models that were used and have no price.
    pub fn unpriced(&self) -> impl Iterator<Item = &str> {
        self.unpriced.iter().map(|model| self.models.name(*model))
    }

    /// What is done about a model without a price.
    #[must_use]
    pub fn unpriced_rule(&self) -> &Unpriced {
        self.prices.unpriced()
    }

    /// Takes one line in. Returns whether a total has changed.
    pub fn record(&mut self, line: &Line) -> bool {
        let before = self.total;
        match line.kind.get() {
            Some("assistant") => self.assistant(line),
            Some("stream_event") => self.stream_event(line),
            Some("user") => self.tool_result(line),
            Some("result") => self.result(line),
            Some("system") => self.system(line),
            Some("conversation_reset") => self.reset(line),
            _ => {}
        }
        before != self.total
    }

    /// The total of all sessions. Never goes down.
    #[must_use]
    pub fn total(&self) -> Spend {
        self.total
    }

    /// Whether the total is a lower bound: something was counted that no `result` line has settled.
    #[must_use]
    pub fn is_lower_bound(&self) -> bool {
        self.past_open || self.sessions.iter().any(Session::is_open)
    }

    /// The total by model, in the order in which the models were seen.
    #[must_use]
    pub fn by_model(&self) -> Vec<(&str, Spend)> {
        let mut all = self.past.clone();
        for session in &self.sessions {
            all.add_all(&session.by_model());
        }
        all.used().into_iter().map(|(model, tokens)| (self.models.name(model), tokens)).collect()
    }

    /// How many messages were counted.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether any usage was seen at all, be it zero.
    #[must_use]
    pub fn usage_seen(&self) -> bool {
        self.usage_seen
    }

    /// What the user should be told since the last call.
    pub fn findings(&mut self) -> std::vec::Drain<'_, Finding> {
        self.findings.drain(..)
    }

    fn assistant(&mut self, line: &Line) {
        let Some(bill) = line.message.usage.bill() else {
            if line.aborted {
                let session = self.session(line);
                if let Some(at) = line.message.id.get().and_then(|id| self.known(session, id)) {
                    self.raise(session, at, Bill::default(), true);
                }
            }
            return;
        };
        let new = self.sight(
            line,
            &Sighting {
                id: line.message.id.get(),
                parent: line.parent.get(),
                model: line.message.model.get(),
                bill,
                started: false,
                aborted: line.aborted,
            },
        );
        // Messages that Claude Code writes itself, such as errors, have a model in angle brackets.
        let vendor = line.message.model.get().is_some_and(|model| model.starts_with('<'));
        if new && !vendor && !self.counted_live {
            self.silent = self.silent.saturating_add(1);
            if self.silent == BLIND_AFTER {
                self.findings.push(Finding::Blind);
            }
        }
    }

    fn stream_event(&mut self, line: &Line) {
        match line.event_kind.get() {
            Some("message_start") => {
                let message = &line.event_message;
                let bill = message.usage.bill().unwrap_or_default();
                self.sight(
                    line,
                    &Sighting {
                        id: message.id.get(),
                        parent: line.parent.get(),
                        model: message.model.get(),
                        bill,
                        started: true,
                        aborted: false,
                    },
                );
            }
            Some("message_delta") => {
                let Some(bill) = line.event_usage.bill() else { return };
                let session = self.session(line);
                let parent = line.parent.get().map(|parent| self.hasher.hash_one(parent));
                let id = self.sessions[session].id;
                // Who started last stands last.
                let of_loop = |m: &Message| m.session == id && m.start == Some(Start { parent });
                match self.recent.iter().rposition(of_loop) {
                    Some(at) => self.raise(session, at, bill, false),
                    // Its start was not seen. It counts by itself, and so do all its further deltas.
                    None => {
                        self.sight(
                            line,
                            &Sighting {
                                id: None,
                                parent: line.parent.get(),
                                model: None,
                                bill,
                                started: true,
                                aborted: false,
                            },
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// A subagent's last call, known from what its tool returned.
    fn tool_result(&mut self, line: &Line) {
        let (Some(bill), Some(agent)) = (line.agent_usage.bill(), line.agent.get()) else { return };
        let tool = line.message.tool_use_id.get().unwrap_or(agent);
        let session = self.session(line);
        let id = self.sessions[session].id;
        let parent = Some(self.hasher.hash_one(tool));
        let same_prompt = |m: &Message| Class::PROMPT.iter().all(|&class| m.spend.of(class) == bill.tokens.of(class));
        let of_agent = |m: &Message| m.session == id && m.parent == parent;
        if let Some(at) = self.recent.iter().rposition(|m| of_agent(m) && same_prompt(m)) {
            self.usage_seen = true;
            self.recent[at].complete = true;
            self.raise(session, at, bill, false);
            return;
        }
        let last = self.recent.iter().rev().find(|m| of_agent(m)).map(|m| m.model);
        let model = line.agent_model.get().map(str::to_owned);
        let model = model.or_else(|| last.map(|model| self.models.name(model).to_owned()));
        self.sight(
            line,
            &Sighting { id: None, parent: Some(tool), model: model.as_deref(), bill, started: false, aborted: false },
        );
        if let Some(message) = self.recent.back_mut() {
            message.complete = true;
        }
    }

    fn reset(&mut self, line: &Line) {
        let known = line.session.get().is_some() || self.sessions.is_empty();
        let at = if known { self.session(line) } else { self.sessions.len() - 1 };
        self.sessions[at].end_process();
    }

    fn system(&mut self, line: &Line) {
        match line.subtype.get() {
            Some("init") => {
                let Some(version) = line.version.get().and_then(parse_version) else { return };
                let at = self.session(line);
                self.sessions[at].version = Some(version);
            }
            Some("compact_boundary") => {
                let at = self.session(line);
                self.sessions[at].compacted = true;
            }
            _ => {}
        }
    }

    fn result(&mut self, line: &Line) {
        let models = line.models().filter(|models| !models.is_empty());
        let usage = line.usage.bill();
        self.usage_seen |= usage.is_some() || models.is_some();
        let usage = usage.unwrap_or_default().tokens;
        let at = self.session(line);
        if let Some(models) = models {
            let in_flight = self.in_flight(at);
            let told = self.told(at, models, line.total_cost);
            let session = &mut self.sessions[at];
            let missing = usage.less(session.turn);
            let carrying = session.turns == 0 && session.is_carrying(usage, missing, &told, models);
            let missing = if carrying { self.priced(at, missing) } else { missing };
            let session = &mut self.sessions[at];
            let carried = carrying.then(|| told.excess_over(&session.live_with(missing)));
            self.findings.extend(carried.as_ref().map(|carried| Finding::CarriedOver(carried.sum())));
            session.settle(&told, carried, in_flight);
        } else {
            let missing = self.priced(at, usage.less(self.sessions[at].turn));
            self.sessions[at].settle_turn(usage, missing, line.total_cost);
        }
        let session = &mut self.sessions[at];
        session.turns = session.turns.wrapping_add(1).max(1);
        session.turn = Spend::default();
        self.update(at);
    }

    /// What a `modelUsage` tells, priced by its own `costUSD`, or else by the table so that the sum
    /// is the process's `total_cost`, where that is told.
    fn told(&mut self, at: usize, models: &[ModelUsage], total_cost: Option<u64>) -> PerModel {
        let mut told = PerModel::default();
        for model in models {
            let tokens = model.usage.tokens().unwrap_or_default();
            let id = self.models.id(Some(&model.name));
            let micro_usd = model.cost.unwrap_or_else(|| {
                let write_1h = self.sessions[at].share_1h(id, tokens.cache_write);
                self.cost(id, &Bill { tokens, write_1h, searches: model.web_searches, us: false })
            });
            told.add(id, Spend { micro_usd, ..tokens });
        }
        if let Some(total) = total_cost
            && models.iter().any(|model| model.cost.is_none())
        {
            told.set_cost(total);
        }
        told
    }

    /// What a turn used beyond what its messages showed, which is mostly output, with its price.
    fn priced(&mut self, at: usize, missing: Spend) -> Spend {
        let model = self.sessions[at].turn_model;
        let micro_usd = self.cost(model, &Bill { tokens: missing, ..Bill::default() });
        Spend { micro_usd, ..missing }
    }

    /// What a bill of a model costs in micro-dollars; one without a price is pointed out once.
    fn cost(&mut self, model: ModelId, bill: &Bill) -> u64 {
        if *bill == Bill::default() {
            return 0;
        }
        let name = self.models.name(model);
        let (cost, known) = self.prices.cost(name, bill);
        if !known && !self.unpriced.contains(&model) && !bill.tokens.is_zero() {
            self.findings.push(Finding::Unpriced(name.to_owned()));
            self.unpriced.push(model);
        }
        cost
    }

    /// The last message of each subagent of a session, as far as it was counted since the last
    /// settlement: its call may not have ended, so that no `modelUsage` can have it yet.
    fn in_flight(&self, session: usize) -> Spend {
        let session = &self.sessions[session];
        let mut parents = HashSet::new();
        let mut sum = Spend::default();
        for message in self.recent.iter().rev().filter(|m| m.session == session.id && m.parent.is_some()) {
            if parents.insert(message.parent) && !message.complete && !message.aborted {
                sum = sum.plus(message.live.since(session.settlements));
            }
        }
        sum
    }

    /// Where a message of a session is remembered.
    fn known(&self, session: usize, id: &str) -> Option<usize> {
        let session = self.sessions[session].id;
        let key = Some(self.hasher.hash_one((session, id)));
        self.recent.iter().rposition(|message| message.key == key)
    }

    /// Counts a message, or raises it where it is known. Returns whether it is new.
    fn sight(&mut self, line: &Line, sighting: &Sighting<'_>) -> bool {
        self.usage_seen = true;
        let session = self.session(line);
        let id = self.sessions[session].id;
        let key = sighting.id.map(|name| self.hasher.hash_one((id, name)));
        let parent = sighting.parent.map(|parent| self.hasher.hash_one(parent));
        let known = sighting.id.and_then(|name| self.known(session, name));
        let at = known.unwrap_or_else(|| {
            if self.recent.len() == RECENT_MESSAGES {
                self.recent.pop_front();
            }
            self.messages = self.messages.saturating_add(1);
            self.recent.push_back(Message {
                key,
                session: id,
                parent,
                model: self.models.id(sighting.model),
                spend: Spend::default(),
                bill: Bill::default(),
                start: None,
                aborted: false,
                complete: false,
                live: Part::default(),
                turn: Part::default(),
            });
            self.recent.len() - 1
        });
        let at = if sighting.started { self.start(at, parent) } else { at };
        self.raise(session, at, sighting.bill, sighting.aborted);
        known.is_none()
    }

    /// A message starts: it comes to stand last. Returns where that is.
    fn start(&mut self, at: usize, parent: Option<u64>) -> usize {
        self.recent[at].start = Some(Start { parent });
        if at + 1 < self.recent.len() {
            self.recent.make_contiguous()[at..].rotate_left(1);
        }
        self.recent.len() - 1
    }

    /// Raises a message to the maximum of what it had and `bill`; it may turn out to be aborted.
    fn raise(&mut self, session: usize, at: usize, bill: Bill, aborted: bool) {
        let bill = self.recent[at].bill.max(bill);
        let cost = self.cost(self.recent[at].model, &bill);
        let message = &mut self.recent[at];
        let of = &mut self.sessions[session];
        self.counted_live |= !bill.tokens.is_zero();
        if aborted && !message.aborted {
            message.aborted = true;
            // What has been settled is not touched.
            let live = message.live.since(of.settlements);
            of.live.subtract(message.model, live);
            of.aborted.add(message.model, live);
            of.turn = of.turn.less(message.turn.since(of.turns));
        }
        let raised = Spend { micro_usd: cost, ..bill.tokens };
        let more = raised.less(message.spend);
        of.saw_writes(message.model, more.cache_write, bill.write_1h.saturating_sub(message.bill.write_1h));
        message.spend = message.spend.max(raised);
        message.bill = bill;
        if more.is_zero() {
            return;
        }
        if message.parent.is_none() {
            of.turn_model = message.model;
        }
        if message.aborted {
            of.aborted.add(message.model, more);
        } else {
            of.live.add(message.model, more);
            message.live.add(of.settlements, more);
            if message.parent.is_none() {
                message.turn.add(of.turns, more);
                of.turn = of.turn.plus(more);
                of.turn_open = true;
            } else {
                of.agents_open = true;
            }
        }
        self.update(session);
    }

    /// The index of the line's session, which becomes the most recently used one.
    fn session(&mut self, line: &Line) -> usize {
        let id = self.hasher.hash_one(line.session.get().unwrap_or_default());
        match self.sessions.iter().rposition(|session| session.id == id) {
            Some(at) => self.sessions[at..].rotate_left(1),
            None => {
                if self.sessions.len() == RECENT_SESSIONS {
                    let session = self.sessions.remove(0);
                    self.past_open |= session.is_open();
                    self.past.add_all(&session.by_model());
                }
                let turn_model = self.models.id(None);
                self.sessions.push(Session { id, turn_model, ..Session::default() });
            }
        }
        self.sessions.len() - 1
    }

    fn update(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        let before = session.shown;
        session.shown = before.max(session.sum());
        self.total = self.total.plus(session.shown.less(before));
    }
}
