//! The meter: turns what records say into totals, without counting anything twice.
//!
//! The rules come from recorded streams: a message counts once, as the maximum of all usage seen for
//! it; a `result` record settles what was counted live; a total never goes down.
//!
//! Memory is bounded: `message` and `session` say how many of each are remembered, and what happens
//! to those that are forgotten.

use std::hash::{BuildHasher, RandomState};

use crate::count::agents::Agents;
use crate::count::finding::Finding;
use crate::count::message::Message;
use crate::count::messages::Messages;
use crate::count::pending::Pending;
use crate::count::price::Prices;
use crate::count::pricer::Pricer;
use crate::count::session::parse_version;
use crate::count::sessions::Sessions;
use crate::count::settle::settle;
use crate::count::sighting::Sighting;
use crate::count::tally::{ModelId, Tally};
use crate::count::tokens::{Class, Counts, Spend, Tokens, Usage};
use crate::stream::dialect::CLAUDE;
use crate::stream::paths::{Owner, Span, TextField};
use crate::stream::record::{Iteration, Record};

/// After this many messages that all report zero tokens, live counting is blind.
const BLIND_AFTER: u32 = 10;

/// The totals of a stream, live.
#[derive(Debug, Default)]
pub struct Meter {
    hasher: RandomState,
    pricer: Pricer,
    sessions: Sessions,
    messages: Messages,
    pub(crate) agents: Agents,
    pending: Pending,
    total: Spend,
    message_count: u64,
    usage_seen: bool,
    /// Messages that reported zero tokens, as long as none reported any.
    blind_messages: u32,
    counted_live: bool,
    findings: Vec<Finding>,
    /// Whether the wrapped command resumes a session; `None` for a filter.
    resumes: Option<bool>,
}

impl Meter {
    /// A meter that prices what it counts. `resumes` says whether the wrapped command resumes a session;
    /// `None` for a filter, which cannot know.
    pub fn new(prices: Prices, resumes: Option<bool>) -> Self {
        Meter { pricer: Pricer::new(prices), resumes, ..Meter::default() }
    }

    /// Names of the models that were used and have no price. What was counted under one and has been settled
    /// under another needs none.
    pub(crate) fn unpriced(&self) -> impl Iterator<Item = &str> {
        let all = self.sessions.by_model();
        let is_used = move |model: &ModelId| !all.get(model).is_zero();
        self.pricer.unpriced().filter(is_used).map(|model| self.pricer.name(model))
    }

    pub(crate) fn prices(&self) -> &Prices {
        self.pricer.prices()
    }

    /// Takes in one record. Returns whether a total has changed.
    pub fn record(&mut self, record: &Record) -> bool {
        let before = self.total;
        if let Some(told) = self.agents.tell(record, &mut self.sessions, &mut self.pricer, &self.hasher) {
            (self.usage_seen, self.counted_live) = (true, true);
            self.findings.extend(told.findings);
            self.update_from(told.session, told.before);
            return before != self.total;
        }
        match record.text(TextField::Kind) {
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

    /// The total of all sessions. Its tokens never go down; its cost does where a settlement lowers an estimate.
    pub fn total(&self) -> Spend {
        self.total
    }

    /// Whether the total is a lower bound: something was counted that no `result` has settled.
    pub fn is_lower_bound(&self) -> bool {
        self.sessions.is_open() || self.agents.is_open()
    }

    /// The total by model, in the order in which the models were first seen.
    pub fn by_model(&self) -> Tally<String> {
        let all = self.sessions.by_model();
        let mut used: Vec<_> = all.iter().copied().filter(|(_, spend)| !spend.is_zero()).collect();
        used.sort_by_key(|(model, _)| *model);
        used.into_iter().map(|(model, spend)| (self.pricer.name(model).to_owned(), spend)).collect()
    }

    /// The least that the calls will use which must follow what was seen, where that has changed since the
    /// last call.
    pub(crate) fn take_next_calls(&mut self) -> Option<Spend> {
        self.pending.take_change().then(|| self.pending.next_calls(&mut self.pricer))
    }

    /// How many messages were counted.
    pub fn messages(&self) -> u64 {
        self.message_count.saturating_add(self.agents.calls())
    }

    /// Whether any usage was seen at all, be it zero.
    pub fn usage_seen(&self) -> bool {
        self.usage_seen
    }

    /// What the user is to be told since the last call.
    pub(crate) fn take_findings(&mut self) -> Vec<Finding> {
        self.findings.extend(self.pricer.take_news().into_iter().map(Finding::Unpriced));
        std::mem::take(&mut self.findings)
    }

    fn assistant(&mut self, record: &Record) {
        let (id, model) = (record.text(TextField::MessageId), record.text(TextField::MessageModel));
        let id = id.filter(|id| !id.is_empty());
        let Some(usage) = record.usage(Owner::Message) else {
            if record.aborted {
                self.abort(record, id);
            }
            return;
        };
        self.usage_seen |= record.tells_usage(Owner::Message);
        let parent = record.text(TextField::Parent);
        let (aborted, asks) = (record.aborted, record.asks_for_tool);
        if self.agents.writer().is_none() {
            self.agents.wrote(record.usage_of(Owner::Message).map(|agent| agent.agent));
        }
        let sighting = Sighting { id, parent, model, usage, is_served: true, aborted, asks, starts: false };
        let (at, is_new) = self.count_message(record, &sighting);
        self.count_iterations(record.iterations(Owner::Message), at);
        if record.is_transcript() {
            self.agents.wrote(Some(CLAUDE));
            let session = self.session(record);
            self.sessions[session].confirm();
        }
        // Messages that Claude Code writes itself, such as errors, have a model in angle brackets.
        let synthetic = model.is_some_and(|model| model.starts_with('<'));
        if is_new && !synthetic && !self.counted_live {
            self.blind_messages = self.blind_messages.saturating_add(1);
            if self.blind_messages == BLIND_AFTER {
                self.findings.push(Finding::Blind);
            }
        }
    }

    /// A record without usage says that a message was aborted.
    fn abort(&mut self, record: &Record, id: Option<&str>) {
        let session = self.session(record);
        if let Some(at) = id.and_then(|id| self.known(session, id)) {
            self.raise(session, at, Usage::default(), true);
            self.pending.end(self.sessions[session].id, self.messages.get(at).parent);
        }
    }

    fn stream_event(&mut self, record: &Record) {
        match record.text(TextField::EventKind) {
            Some("message_start") => {
                let (id, model) = (record.text(TextField::StartId), record.text(TextField::StartModel));
                let (id, parent) = (id.filter(|id| !id.is_empty()), record.text(TextField::Parent));
                let usage = record.usage(Owner::Start).unwrap_or_default();
                self.usage_seen |= record.tells_usage(Owner::Start);
                self.count_message(record, &Sighting { id, parent, model, usage, starts: true, ..Sighting::default() });
            }
            Some("message_delta") => self.delta(record),
            _ => {}
        }
    }

    fn delta(&mut self, record: &Record) {
        let Some(usage) = record.usage(Owner::Delta) else { return };
        self.usage_seen |= record.tells_usage(Owner::Delta);
        let session = self.session(record);
        let parent = record.text(TextField::Parent);
        let parent_key = parent.map(|parent| self.hasher.hash_one(parent));
        let id = self.sessions[session].id;
        let at = match self.messages.find_started(id, parent_key) {
            Some(at) => {
                self.raise(session, at, usage, false);
                self.pending.see(self.messages.get(at), false);
                at
            }
            // Its start was not seen: it counts by itself, together with the deltas that follow.
            None => self.count_message(record, &Sighting { parent, usage, starts: true, ..Sighting::default() }).0,
        };
        self.count_iterations(record.iterations(Owner::Delta), at);
    }

    /// Counts the calls of a message that are billed beside it, each as a message of its own.
    fn count_iterations(&mut self, iterations: &[Iteration], at: usize) {
        let beside = iterations.iter().enumerate().filter(|(_, iteration)| iteration.is_beside());
        let &Message { key, session: id, parent, model, .. } = self.messages.get(at);
        for (index, iteration) in beside {
            let session = self.sessions.find(id, model);
            let key = self.hasher.hash_one((key, index));
            let known = self.messages.find_key(key);
            let at = known.unwrap_or_else(|| {
                let model = iteration.model().map_or(model, |name| self.pricer.id(Some(name)));
                self.messages.push(Message { is_beside: true, ..Message::new(key, id, parent, model) })
            });
            self.raise(session, at, iteration.usage(), false);
        }
    }

    /// A subagent's last call, which is known from the result of the tool that ran it.
    fn tool_result(&mut self, record: &Record) {
        let (Some(usage), Some(agent)) = (record.usage(Owner::Agent), record.text(TextField::Agent)) else { return };
        self.usage_seen |= record.tells_usage(Owner::Agent);
        let tool = record.text(TextField::ToolUseId).unwrap_or(agent);
        let session = self.session(record);
        let id = self.sessions[session].id;
        let parent = Some(self.hasher.hash_one(tool));
        let of_agent = |message: &Message| message.session == id && message.parent == parent && !message.is_beside;
        let prompt = |tokens: &Tokens| Class::PROMPT.map(|class| tokens.of(class));
        // The call may have had a record of its own, with a placeholder for its output.
        let same = |message: &Message| of_agent(message) && prompt(&message.spend.tokens) == prompt(&usage.tokens);
        if let Some(at) = self.messages.find(same) {
            self.messages.get_mut(at).complete = true;
            self.raise(session, at, usage, false);
            self.pending.end(id, parent);
            return;
        }
        let last = self.messages.find(of_agent).map(|at| self.messages.get(at).model);
        let model = record.text(TextField::AgentModel).map(str::to_owned);
        let model = model.or_else(|| last.map(|model| self.pricer.name(model).to_owned()));
        let sighting = Sighting { parent: Some(tool), model: model.as_deref(), usage, ..Sighting::default() };
        let (at, _) = self.count_message(record, &sighting);
        self.messages.get_mut(at).complete = true;
    }

    fn reset(&mut self, record: &Record) {
        let last = self.sessions.last().filter(|_| record.session().is_none());
        let at = last.unwrap_or_else(|| self.session(record));
        self.sessions[at].reset();
        self.pending.end_session(self.sessions[at].id);
    }

    fn system(&mut self, record: &Record) {
        let Some(subtype) = record.text(TextField::Subtype) else { return };
        if !matches!(subtype, "init" | "compact_boundary" | "task_started" | "hook_started") {
            return;
        }
        // Every version of Claude Code that writes its model here writes its version too, and by that word
        // the sieve finds the record: without it, it counts nothing wherever it is read.
        if subtype == "init" && record.text(TextField::Version).is_none() {
            self.agents.wrote(record.agent().map(|agent| agent.agent));
            return;
        }
        let at = self.session(record);
        let session = &mut self.sessions[at];
        match subtype {
            "init" => {
                self.agents.wrote(Some(CLAUDE));
                self.pending.clear();
                let version = record.text(TextField::Version).and_then(parse_version);
                session.version = version.or(session.version);
                if let Some(model) = record.text(TextField::InitModel) {
                    session.init_model = Some(self.pricer.id(Some(model)));
                }
            }
            "compact_boundary" => {
                session.hides_calls = true;
                self.pending.end_session(session.id);
            }
            "task_started" => session.hides_calls |= record.spawn_depth.is_some_and(|depth| depth > 1),
            _ => session.resumed |= record.text(TextField::HookName) == Some("SessionStart:resume"),
        }
    }

    fn result(&mut self, record: &Record) {
        let has_models = [Span::Process, Span::SinceLast].iter().any(|span| record.models(*span).is_some());
        self.usage_seen |= has_models || record.tells_usage(Owner::Turn);
        let other = record.usage_of(Owner::Turn).map(|agent| agent.agent);
        self.agents.wrote(other.or(has_models.then_some(CLAUDE)));
        let at = self.session(record);
        let before = self.sessions[at].shown;
        // A wrapped command that resumes no session has no tokens of earlier runs.
        let seen = Some(self.sessions[at].turn).filter(|_| self.resumes != Some(false));
        let (usage, finding) = self.agents.turn(record, seen);
        self.findings.extend(finding);
        let carried = settle(record, usage, &mut self.sessions[at], &mut self.messages, &mut self.pricer, self.resumes);
        self.findings.extend(carried.map(Finding::CarriedOver));
        self.pending.end_session(self.sessions[at].id);
        self.update_from(at, before);
    }

    fn key(&self, session: usize, id: &str) -> u64 {
        self.hasher.hash_one((self.sessions[session].id, id))
    }

    /// The index of a remembered message of a session.
    fn known(&self, session: usize, id: &str) -> Option<usize> {
        self.messages.find_key(self.key(session, id))
    }

    /// Counts a message, or raises it where it is known. Returns its index, and whether it is new.
    fn count_message(&mut self, record: &Record, sighting: &Sighting<'_>) -> (usize, bool) {
        let session = self.session(record);
        let parent = sighting.parent.map(|parent| self.hasher.hash_one(parent));
        let known = sighting.id.and_then(|id| self.known(session, id));
        // A prompt never grows: in 2,564 recorded messages the figures of one id never changed. Where
        // it does, a proxy has used the id again. Where calls have a `message_start` event, that is
        // where one begins, and some gateways correct its prompt later.
        let same = |at: &usize| {
            let message = self.messages.get(*at);
            let tokens = message.usage.tokens;
            let is_correction = !sighting.starts && message.started_by.is_some();
            is_correction || tokens.prompt() == 0 || !tokens.is_below(&sighting.usage.tokens, &Class::PROMPT)
        };
        let known = known.filter(same);
        let at = known.unwrap_or_else(|| {
            self.message_count = self.message_count.saturating_add(1);
            let own = || self.hasher.hash_one((self.sessions[session].id, self.message_count));
            let key = sighting.id.map_or_else(own, |id| self.key(session, id));
            let model = match (sighting.model, self.sessions[session].init_model) {
                (None, Some(model)) => model,
                (name, _) => self.pricer.id(name),
            };
            self.messages.push(Message::new(key, self.sessions[session].id, parent, model))
        });
        if sighting.starts {
            self.messages.start(at, parent);
        }
        if sighting.is_served && known.is_some() {
            self.serve(session, at, sighting.model);
        }
        self.raise(session, at, sighting.usage, sighting.aborted);
        self.pending.see(self.messages.get(at), sighting.asks);
        if sighting.aborted {
            self.pending.end(self.sessions[session].id, parent);
        }
        (at, known.is_none())
    }

    /// An `assistant` record says which model served a message that had started as another's, as where
    /// a fallback took over: what was counted of it is that model's.
    fn serve(&mut self, session: usize, at: usize, name: Option<&str>) {
        let Some(name) = name else { return };
        let (model, before) = (self.pricer.id(Some(name)), self.sessions[session].shown);
        self.sessions[session].serve(self.messages.get_mut(at), model, &mut self.pricer);
        self.update_from(session, before);
    }

    /// Raises a message to the maximum of what it had and `usage`; it may turn out to be aborted.
    fn raise(&mut self, session: usize, at: usize, usage: Usage, aborted: bool) {
        let (message, of) = (self.messages.get_mut(at), &mut self.sessions[session]);
        if aborted {
            of.abort(message);
        }
        if of.raise(message, usage, &mut self.pricer) {
            self.update(session);
        }
        self.counted_live |= !self.messages.get(at).usage.tokens.is_zero();
    }

    /// The index of the record's session, which becomes the one used last.
    fn session(&mut self, record: &Record) -> usize {
        let id = self.hasher.hash_one(record.session().unwrap_or_default());
        let model = self.pricer.id(None);
        self.sessions.find(id, model)
    }

    /// Brings what is shown of a session, and the total, up to date.
    fn update(&mut self, at: usize) {
        self.update_from(at, self.sessions[at].shown);
    }

    /// The same where the session showed `before`, and an estimate in it may have been replaced by a lower cost.
    fn update_from(&mut self, at: usize, before: Spend) {
        let session = &mut self.sessions[at];
        session.shown = session.shown.max(session.sum());
        self.total = self.total.minus(before.minus(session.shown)).plus(session.shown.minus(before));
    }
}
