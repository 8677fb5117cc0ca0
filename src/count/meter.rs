//! The meter: turns what records say into totals, without counting anything twice.
//!
//! The rules come from recorded streams: a message counts once, as the maximum of all usage seen for
//! it; a `result` record settles what was counted live; a total never goes down.
//!
//! Memory is bounded: `message` and `session` say how many of each are remembered, and what happens
//! to those that are forgotten.

use std::hash::{BuildHasher, RandomState};

use crate::count::message::{Message, Messages, ModelId, ModelNames};
use crate::count::price::{Prices, Unpriced};
use crate::count::session::{Sessions, parse_version};
use crate::count::tokens::{Class, Counts, Spend, Tally, Tokens, Usage};
use crate::stream::record::{MessageFields, ModelUsage, Record};

/// After this many messages that all report zero tokens, live counting is blind.
const BLIND_AFTER: u32 = 10;

/// Something that the user is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Many messages and not one token: a gateway reports usage in the `result` record at best.
    Blind,
    /// A resumed session's `modelUsage` began with these tokens, which earlier processes spent.
    CarriedOver(Tokens),
    /// This model has no price.
    Unpriced(String),
}

/// The totals of a stream, live.
#[derive(Debug, Default)]
pub struct Meter {
    hasher: RandomState,
    models: ModelNames,
    sessions: Sessions,
    messages: Messages,
    total: Spend,
    message_count: u64,
    usage_seen: bool,
    /// Messages that reported zero tokens, as long as none reported any.
    blind_messages: u32,
    counted_live: bool,
    findings: Vec<Finding>,
    prices: Prices,
    unpriced: Vec<ModelId>,
}

/// What one record says of a message.
#[derive(Default)]
struct Sighting<'a> {
    id: Option<&'a str>,
    parent: Option<&'a str>,
    model: Option<&'a str>,
    usage: Usage,
    /// It is a `message_start` event.
    starts: bool,
    aborted: bool,
}

impl<'a> Sighting<'a> {
    fn of(message: &'a MessageFields, record: &'a Record, usage: Usage) -> Self {
        let (id, model) = (message.id.get(), message.model.get());
        Sighting { id, model, usage, parent: record.parent.get(), ..Sighting::default() }
    }
}

impl Meter {
    /// A meter that prices what it counts.
    pub fn new(prices: Prices) -> Self {
        Meter { prices, ..Meter::default() }
    }

    /// Names of the models that were used and have no price.
    pub(crate) fn unpriced(&self) -> impl Iterator<Item = &str> {
        self.unpriced.iter().map(|model| self.models.name(*model))
    }

    /// What `--unpriced` says about models without a price.
    pub(crate) fn unpriced_rule(&self) -> &Unpriced {
        self.prices.unpriced()
    }

    /// Takes in one record. Returns whether a total has changed.
    pub fn record(&mut self, record: &Record) -> bool {
        let before = self.total;
        match record.kind.get() {
            Some("assistant") => self.assistant(record),
            Some("stream_event") => self.stream_event(record),
            Some("user") => self.tool_result(record),
            Some("result") => self.result(record),
            Some("system") => self.system(record),
            Some("conversation_reset") => self.reset(record),
            _ => {}
        }
        before != self.total
    }

    /// The total of all sessions. It never goes down.
    pub fn total(&self) -> Spend {
        self.total
    }

    /// Whether the total is a lower bound: something was counted that no `result` has settled.
    pub fn is_lower_bound(&self) -> bool {
        self.sessions.is_open()
    }

    /// The total by model, in the order in which the models were first seen.
    pub fn by_model(&self) -> Tally<String> {
        let all = self.sessions.by_model();
        let mut used: Vec<_> = all.iter().copied().filter(|(_, spend)| !spend.is_zero()).collect();
        used.sort_by_key(|(model, _)| *model);
        used.into_iter().map(|(model, spend)| (self.models.name(model).to_owned(), spend)).collect()
    }

    /// How many messages were counted.
    pub fn messages(&self) -> u64 {
        self.message_count
    }

    /// Whether any usage was seen at all, be it zero.
    pub fn usage_seen(&self) -> bool {
        self.usage_seen
    }

    /// What the user is to be told since the last call.
    pub(crate) fn findings(&mut self) -> std::vec::Drain<'_, Finding> {
        self.findings.drain(..)
    }

    fn assistant(&mut self, record: &Record) {
        let message = &record.message;
        let Some(usage) = message.usage.get() else {
            if record.aborted {
                self.abort(record);
            }
            return;
        };
        let sighting = Sighting { aborted: record.aborted, ..Sighting::of(message, record, usage) };
        let is_new = self.count_message(record, &sighting);
        // Messages that Claude Code writes itself, such as errors, have a model in angle brackets.
        let synthetic = message.model.get().is_some_and(|model| model.starts_with('<'));
        if is_new && !synthetic && !self.counted_live {
            self.blind_messages = self.blind_messages.saturating_add(1);
            if self.blind_messages == BLIND_AFTER {
                self.findings.push(Finding::Blind);
            }
        }
    }

    /// A record without usage says that a message was aborted.
    fn abort(&mut self, record: &Record) {
        let session = self.session(record);
        if let Some(at) = record.message.id.get().and_then(|id| self.known(session, id)) {
            self.raise(session, at, Usage::default(), true);
        }
    }

    fn stream_event(&mut self, record: &Record) {
        match record.event_kind.get() {
            Some("message_start") => {
                let message = &record.event_message;
                let usage = message.usage.get().unwrap_or_default();
                let sighting = Sighting { starts: true, ..Sighting::of(message, record, usage) };
                self.count_message(record, &sighting);
            }
            Some("message_delta") => self.delta(record),
            _ => {}
        }
    }

    fn delta(&mut self, record: &Record) {
        let Some(usage) = record.event_usage.get() else { return };
        let session = self.session(record);
        let parent = record.parent.get().map(|parent| self.hasher.hash_one(parent));
        let id = self.sessions[session].id;
        // Of the messages of this loop, the one that started last stands last.
        match self.messages.find(|message| message.session == id && message.started_by == Some(parent)) {
            Some(at) => self.raise(session, at, usage, false),
            // Its start was not seen: it counts by itself, together with the deltas that follow.
            None => {
                let sighting = Sighting { parent: record.parent.get(), usage, starts: true, ..Sighting::default() };
                self.count_message(record, &sighting);
            }
        }
    }

    /// A subagent's last call, which is known from the result of the tool that ran it.
    fn tool_result(&mut self, record: &Record) {
        let (Some(usage), Some(agent)) = (record.agent_usage.get(), record.agent.get()) else { return };
        let tool = record.message.tool_use_id.get().unwrap_or(agent);
        let session = self.session(record);
        let id = self.sessions[session].id;
        let parent = Some(self.hasher.hash_one(tool));
        let of_agent = |message: &Message| message.session == id && message.parent == parent;
        let prompt = |tokens: &Tokens| Class::PROMPT.map(|class| tokens.of(class));
        // The call may have had a record of its own, with a placeholder for its output.
        let same = |message: &Message| of_agent(message) && prompt(&message.spend.tokens) == prompt(&usage.tokens);
        if let Some(at) = self.messages.find(same) {
            self.usage_seen = true;
            self.messages.get_mut(at).complete = true;
            self.raise(session, at, usage, false);
            return;
        }
        let last = self.messages.find(of_agent).map(|at| self.messages.get(at).model);
        let model = record.agent_model.get().map(str::to_owned);
        let model = model.or_else(|| last.map(|model| self.models.name(model).to_owned()));
        let sighting = Sighting { parent: Some(tool), model: model.as_deref(), usage, ..Sighting::default() };
        self.count_message(record, &sighting);
        if let Some(newest) = self.messages.find(|_| true) {
            self.messages.get_mut(newest).complete = true;
        }
    }

    fn reset(&mut self, record: &Record) {
        let last = self.sessions.last().filter(|_| record.session.get().is_none());
        let at = last.unwrap_or_else(|| self.session(record));
        self.sessions[at].end_process();
    }

    fn system(&mut self, record: &Record) {
        match record.subtype.get() {
            Some("init") => {
                let Some(version) = record.version.get().and_then(parse_version) else { return };
                let at = self.session(record);
                self.sessions[at].version = Some(version);
            }
            Some("compact_boundary") => {
                let at = self.session(record);
                self.sessions[at].compacted = true;
            }
            _ => {}
        }
    }

    fn result(&mut self, record: &Record) {
        let models = record.models().filter(|models| !models.is_empty());
        let usage = record.usage.get();
        self.usage_seen |= usage.is_some() || models.is_some();
        let usage = usage.unwrap_or_default().tokens;
        let at = self.session(record);
        match models {
            Some(models) => self.settle(at, models, usage, record.total_cost),
            None => {
                let missing = self.priced(at, usage.minus(self.sessions[at].turn));
                self.sessions[at].settle_turn(usage, missing, record.total_cost);
            }
        }
        let session = &mut self.sessions[at];
        session.turns = session.turns.wrapping_add(1).max(1);
        session.turn = Tokens::default();
        self.update(at);
    }

    /// Settles a session by a `modelUsage`. `usage` is that of the turn.
    fn settle(&mut self, at: usize, models: &[ModelUsage], usage: Tokens, total_cost: Option<u64>) {
        let session = &self.sessions[at];
        let in_flight = self.messages.in_flight(session.id, session.settlements);
        let told = self.told(at, models, total_cost);
        let session = &self.sessions[at];
        let missing = Spend::from(usage.minus(session.turn));
        let carries = session.turns == 0 && session.is_carrying(usage, missing, &told, models);
        let carried = carries.then(|| {
            let missing = self.priced(at, missing.tokens);
            told.excess_over(&self.sessions[at].live_with(missing))
        });
        self.findings.extend(carried.as_ref().map(|carried| Finding::CarriedOver(carried.sum().tokens)));
        self.sessions[at].settle(&told, carried, in_flight);
    }

    /// What a `modelUsage` says was spent. A model without `costUSD` is priced by the table, in such
    /// a way that all together cost the process's `total_cost` where that is known.
    fn told(&mut self, at: usize, models: &[ModelUsage], total_cost: Option<u64>) -> Tally<ModelId> {
        let mut told = Tally::default();
        for model in models {
            let usage = model.usage.get().unwrap_or_default();
            let id = self.models.id(Some(&model.name));
            let micro_usd = model.cost.unwrap_or_else(|| {
                let write_1h = self.sessions[at].share_1h(id, usage.tokens.cache_write);
                self.cost(id, &Usage { write_1h, ..usage })
            });
            told.add(&id, Spend { tokens: usage.tokens, micro_usd });
        }
        if let Some(total) = total_cost
            && models.iter().any(|model| model.cost.is_none())
        {
            told.set_cost(total);
        }
        told
    }

    /// What a turn used beyond what its messages showed, which is mostly output, with its price.
    fn priced(&mut self, at: usize, tokens: Tokens) -> Spend {
        let model = self.sessions[at].turn_model;
        Spend { tokens, micro_usd: self.cost(model, &Usage { tokens, ..Usage::default() }) }
    }

    /// What a model's usage costs in micro-dollars. A model without a price is reported once.
    fn cost(&mut self, model: ModelId, usage: &Usage) -> u64 {
        if *usage == Usage::default() {
            return 0;
        }
        let name = self.models.name(model);
        let (cost, known) = self.prices.cost(name, usage);
        if !known && !self.unpriced.contains(&model) && !usage.tokens.is_zero() {
            self.findings.push(Finding::Unpriced(name.to_owned()));
            self.unpriced.push(model);
        }
        cost
    }

    fn key(&self, session: usize, id: &str) -> u64 {
        self.hasher.hash_one((self.sessions[session].id, id))
    }

    /// The index of a remembered message of a session.
    fn known(&self, session: usize, id: &str) -> Option<usize> {
        let key = Some(self.key(session, id));
        self.messages.find(|message| message.key == key)
    }

    /// Counts a message, or raises it where it is known. Returns whether it is new.
    fn count_message(&mut self, record: &Record, sighting: &Sighting<'_>) -> bool {
        self.usage_seen = true;
        let session = self.session(record);
        let parent = sighting.parent.map(|parent| self.hasher.hash_one(parent));
        let known = sighting.id.and_then(|id| self.known(session, id));
        let at = known.unwrap_or_else(|| {
            self.message_count = self.message_count.saturating_add(1);
            let key = sighting.id.map(|id| self.key(session, id));
            let model = self.models.id(sighting.model);
            self.messages.push(Message::new(key, self.sessions[session].id, parent, model))
        });
        let at = if sighting.starts { self.messages.start(at, parent) } else { at };
        self.raise(session, at, sighting.usage, sighting.aborted);
        known.is_none()
    }

    /// Raises a message to the maximum of what it had and `usage`; it may turn out to be aborted.
    fn raise(&mut self, session: usize, at: usize, usage: Usage, aborted: bool) {
        let message = self.messages.get(at);
        let usage = message.usage.max(usage);
        let cost = self.cost(message.model, &usage);
        let message = self.messages.get_mut(at);
        let of = &mut self.sessions[session];
        self.counted_live |= !usage.tokens.is_zero();
        if aborted && !message.aborted {
            message.aborted = true;
            // What has been settled is not touched.
            let live = message.live.in_epoch(of.settlements);
            of.live.subtract(message.model, live);
            of.aborted.add(&message.model, live);
            of.turn = of.turn.minus(message.turn.in_epoch(of.turns).tokens);
        }
        let raised = Spend { tokens: usage.tokens, micro_usd: cost };
        let more = raised.minus(message.spend);
        let more_1h = usage.write_1h.saturating_sub(message.usage.write_1h);
        of.count_cache_writes(message.model, more.tokens.cache_write, more_1h);
        message.spend = message.spend.max(raised);
        message.usage = usage;
        if more.is_zero() {
            return;
        }
        let in_main_loop = message.parent.is_none();
        if in_main_loop {
            of.turn_model = message.model;
        }
        if message.aborted {
            of.aborted.add(&message.model, more);
        } else {
            of.live.add(&message.model, more);
            message.live.add(of.settlements, more);
            if in_main_loop {
                message.turn.add(of.turns, more);
                of.turn = of.turn.plus(more.tokens);
                of.turn_open = true;
            } else {
                of.agents_open = true;
            }
        }
        self.update(session);
    }

    /// The index of the record's session, which becomes the one used last.
    fn session(&mut self, record: &Record) -> usize {
        let id = self.hasher.hash_one(record.session.get().unwrap_or_default());
        let model = self.models.id(None);
        self.sessions.find(id, model)
    }

    /// Brings what is shown of a session, and the total, up to date.
    fn update(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        let before = session.shown;
        session.shown = before.max(session.sum());
        self.total = self.total.plus(session.shown.minus(before));
    }
}
