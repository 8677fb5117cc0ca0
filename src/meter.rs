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

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use crate::tokens::{Class, Tokens};
use crate::usage::{Line, ModelUsage};

/// How many messages are remembered; see the module's text for why that is enough.
pub const RECENT_MESSAGES: usize = 1024;

/// How many sessions are remembered; see the module's text for why that is enough.
pub const RECENT_SESSIONS: usize = 256;

/// How many models are told apart; all further ones are shown as one.
const MODELS_MAX: usize = 64;

/// The longest model name kept, in characters.
const MODEL_NAME_MAX: usize = 128;

/// After this many messages that all report zero tokens, live counting is called blind.
const BLIND_AFTER: u32 = 10;

/// The first version whose resumed sessions begin `modelUsage` with what earlier processes spent.
const CARRIES_OVER_SINCE: [u32; 3] = [2, 1, 277];

/// Something that the user is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Many messages and not one token: a gateway tells at the `result` line only, if at all.
    Blind,
    /// A resumed session's `modelUsage` began with these tokens, which earlier processes spent.
    CarriedOver(Tokens),
}

/// Totals of a stream, live.
#[derive(Debug, Default)]
pub struct Meter {
    hasher: RandomState,
    models: Models,
    /// Most recently used last.
    sessions: Vec<Session>,
    /// Oldest first.
    recent: VecDeque<Message>,
    /// What forgotten sessions used, and whether one of them was never settled.
    past: PerModel,
    past_open: bool,
    total: Tokens,
    messages: u64,
    usage_seen: bool,
    silent: u32,
    counted_live: bool,
    findings: Vec<Finding>,
}

/// Index of a model's name in [`Models`].
type ModelId = usize;

/// The names of the models seen.
#[derive(Debug, Default)]
struct Models(Vec<String>);

/// Tokens by model; a handful of entries at most in a real stream.
#[derive(Clone, Debug, Default)]
struct PerModel(Vec<(ModelId, Tokens)>);

#[derive(Debug, Default)]
struct Session {
    /// Hash of the `session_id`.
    id: u64,
    /// What processes and conversations that have ended used.
    ended: PerModel,
    /// The last `modelUsage`, less what was carried over.
    settled: PerModel,
    /// What `modelUsage` had from earlier processes when the stream began.
    carried: PerModel,
    /// What was counted since `settled`.
    live: PerModel,
    /// Aborted messages: they are in no `modelUsage`.
    aborted: PerModel,
    /// The main loop's part of `live` since the last `result` line, and its last model.
    turn: Tokens,
    turn_model: ModelId,
    /// Something was counted since the last `result` line: in the main loop, in subagents.
    turn_open: bool,
    agents_open: bool,
    /// The highest total shown so far.
    shown: Tokens,
    results: u32,
    settlements: u32,
    compacted: bool,
    version: Option<[u32; 3]>,
}

/// A message that may get further lines.
#[derive(Debug)]
struct Message {
    /// Hash of the session and the message's id; `None` where it has no id.
    key: Option<u64>,
    session: u64,
    /// Hash of the `parent_tool_use_id`; `None` in the main loop.
    parent: Option<u64>,
    model: ModelId,
    tokens: Tokens,
    /// It was begun by a `message_start` event, so that `message_delta` events may belong to it.
    started: bool,
    aborted: bool,
    /// The session's settlements when it was counted.
    settlement: u32,
}

/// One sighting of a message's usage.
struct Sighting<'a> {
    id: Option<&'a str>,
    parent: Option<&'a str>,
    model: Option<&'a str>,
    tokens: Tokens,
    started: bool,
    aborted: bool,
}

impl Meter {
    /// Takes one line in. Returns whether a total has changed.
    pub fn record(&mut self, line: &Line) -> bool {
        let before = self.total;
        match line.kind.get() {
            Some("assistant") => self.assistant(line),
            Some("stream_event") => self.stream_event(line),
            Some("user") => self.tool_result(line),
            Some("result") => self.result(line),
            Some("system") => self.system(line),
            Some("conversation_reset") => {
                let at = self.session(line);
                self.sessions[at].end_process();
            }
            _ => {}
        }
        before != self.total
    }

    /// The total of all sessions. Never goes down.
    #[must_use]
    pub fn total(&self) -> Tokens {
        self.total
    }

    /// Whether the total is a lower bound: something was counted that no `result` line has settled.
    #[must_use]
    pub fn is_lower_bound(&self) -> bool {
        self.past_open || self.sessions.iter().any(Session::is_open)
    }

    /// The total by model, in the order in which the models were seen.
    #[must_use]
    pub fn by_model(&self) -> Vec<(&str, Tokens)> {
        let mut all = self.past.clone();
        for session in &self.sessions {
            all.add_all(&session.by_model());
        }
        all.0.sort_by_key(|(model, _)| *model);
        let used = all.0.iter().filter(|(_, tokens)| !tokens.is_zero());
        used.map(|&(model, tokens)| (self.models.name(model), tokens)).collect()
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
        let Some(tokens) = line.message.usage.tokens() else { return };
        let new = self.sight(
            line,
            &Sighting {
                id: line.message.id.get(),
                parent: line.parent.get(),
                model: line.message.model.get(),
                tokens,
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
                let tokens = message.usage.tokens().unwrap_or_default();
                self.sight(
                    line,
                    &Sighting {
                        id: message.id.get(),
                        parent: line.parent.get(),
                        model: message.model.get(),
                        tokens,
                        started: true,
                        aborted: false,
                    },
                );
            }
            Some("message_delta") => {
                let Some(tokens) = line.event_usage.tokens() else { return };
                let session = self.session(line);
                let parent = line.parent.get().map(|parent| self.hasher.hash_one(parent));
                let id = self.sessions[session].id;
                let begun = |m: &Message| m.started && m.session == id && m.parent == parent;
                match self.recent.iter().rposition(begun) {
                    Some(at) => self.raise(session, at, tokens, false),
                    // Its start was not seen. It counts by itself, and so do all its further deltas.
                    None => {
                        self.sight(
                            line,
                            &Sighting {
                                id: None,
                                parent: line.parent.get(),
                                model: None,
                                tokens,
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
        let (Some(tokens), Some(agent)) = (line.agent_usage.tokens(), line.agent.get()) else { return };
        let tool = line.message.tool_use_id.get().unwrap_or(agent);
        let session = self.session(line);
        let id = self.sessions[session].id;
        let parent = Some(self.hasher.hash_one(tool));
        let same_prompt = |m: &Message| Class::PROMPT.iter().all(|&class| m.tokens.of(class) == tokens.of(class));
        let of_agent = |m: &Message| m.session == id && m.parent == parent;
        if let Some(at) = self.recent.iter().rposition(|m| of_agent(m) && same_prompt(m)) {
            self.usage_seen = true;
            self.raise(session, at, tokens, false);
            return;
        }
        let last = self.recent.iter().rev().find(|m| of_agent(m)).map(|m| m.model);
        let model = line.agent_model.get().map(str::to_owned);
        let model = model.or_else(|| last.map(|model| self.models.name(model).to_owned()));
        self.sight(
            line,
            &Sighting { id: None, parent: Some(tool), model: model.as_deref(), tokens, started: false, aborted: false },
        );
    }

    fn system(&mut self, line: &Line) {
        match line.subtype.get() {
            Some("init") => {
                let version = line.version.get().and_then(parse_version);
                let at = self.session(line);
                self.sessions[at].version = version;
            }
            Some("compact_boundary") => {
                let at = self.session(line);
                self.sessions[at].compacted = true;
            }
            _ => {}
        }
    }

    fn result(&mut self, line: &Line) {
        let usage = line.usage.tokens();
        let models = line.models().filter(|models| !models.is_empty());
        if usage.is_none() && models.is_none() {
            return;
        }
        self.usage_seen = true;
        let at = self.session(line);
        let session = &mut self.sessions[at];
        let usage = usage.unwrap_or_default();
        if let Some(models) = models {
            let mut told = PerModel::default();
            for model in models {
                told.add(self.models.id(Some(&model.name)), model.usage.tokens().unwrap_or_default());
            }
            if session.results == 0 && session.is_carrying(usage, &told, models) {
                session.carried = told.excess_over(&session.live_raised_to(usage));
                self.findings.push(Finding::CarriedOver(session.carried.sum()));
            }
            session.settle(&told);
        } else {
            session.live = session.live_raised_to(usage);
            // Zero usage after tokens were counted is an error's, and tells nothing.
            session.turn_open &= usage.is_zero() && !session.turn.is_zero();
        }
        session.results = session.results.saturating_add(1);
        session.turn = Tokens::default();
        self.update(at);
    }

    /// Counts a message, or raises it where it is known. Returns whether it is new.
    fn sight(&mut self, line: &Line, sighting: &Sighting<'_>) -> bool {
        self.usage_seen = true;
        let session = self.session(line);
        let id = self.sessions[session].id;
        let key = sighting.id.map(|id| self.hasher.hash_one((self.sessions[session].id, id)));
        let known = key.and_then(|_| self.recent.iter().rposition(|m| m.key == key && m.session == id));
        let at = known.unwrap_or_else(|| {
            if self.recent.len() == RECENT_MESSAGES {
                self.recent.pop_front();
            }
            self.messages = self.messages.saturating_add(1);
            self.recent.push_back(Message {
                key,
                session: id,
                parent: sighting.parent.map(|parent| self.hasher.hash_one(parent)),
                model: self.models.id(sighting.model),
                tokens: Tokens::default(),
                started: false,
                aborted: false,
                settlement: self.sessions[session].settlements,
            });
            self.recent.len() - 1
        });
        self.recent[at].started |= sighting.started;
        self.raise(session, at, sighting.tokens, sighting.aborted);
        known.is_none()
    }

    /// Raises a message to the maximum of what it had and `tokens`; it may turn out to be aborted.
    fn raise(&mut self, session: usize, at: usize, tokens: Tokens, aborted: bool) {
        let message = &mut self.recent[at];
        let of = &mut self.sessions[session];
        self.counted_live |= !tokens.is_zero();
        if aborted && !message.aborted {
            message.aborted = true;
            // What has been settled since is not touched.
            if message.settlement == of.settlements {
                of.take_back(message);
                of.aborted.add(message.model, message.tokens);
            }
        }
        let raised = message.tokens.max(tokens);
        let more = raised.less(message.tokens);
        message.tokens = raised;
        if more.is_zero() {
            return;
        }
        if message.aborted {
            of.aborted.add(message.model, more);
        } else {
            of.live.add(message.model, more);
            if message.parent.is_none() {
                of.turn = of.turn.plus(more);
                of.turn_model = message.model;
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

impl Session {
    /// The sum of all parts; what is shown may be higher, never lower.
    fn sum(&self) -> Tokens {
        [&self.ended, &self.settled, &self.live, &self.aborted]
            .iter()
            .fold(Tokens::default(), |sum, part| sum.plus(part.sum()))
    }

    fn by_model(&self) -> PerModel {
        let mut all = PerModel::default();
        for part in [&self.ended, &self.settled, &self.live, &self.aborted] {
            all.add_all(part);
        }
        // Where a settlement said less than was counted, the higher figure stands.
        let kept = self.shown.less(all.sum());
        if !kept.is_zero() {
            all.add(self.turn_model, kept);
        }
        all
    }

    fn is_open(&self) -> bool {
        self.turn_open || self.agents_open
    }

    /// The process or conversation is over: what comes adds to it.
    fn end_process(&mut self) {
        for part in [&mut self.settled, &mut self.live] {
            let part = std::mem::take(part);
            self.ended.add_all(&part);
        }
        self.carried = PerModel::default();
        self.turn = Tokens::default();
        self.settlements = self.settlements.wrapping_add(1);
    }

    /// What was counted live, with the main loop's messages of this turn raised to the turn's
    /// `usage`, class by class.
    fn live_raised_to(&self, usage: Tokens) -> PerModel {
        let mut live = self.live.clone();
        live.add(self.turn_model, usage.less(self.turn));
        live
    }

    /// Whether a first `modelUsage` begins with what earlier processes of this session spent.
    ///
    /// Only where no call of this process can be hidden: the turn's own usage equals what the main
    /// loop showed, nothing was compacted or searched, and the excess is in the cache classes,
    /// which calls of helper models do not have.
    fn is_carrying(&self, usage: Tokens, told: &PerModel, models: &[ModelUsage]) -> bool {
        let excess = told.sum().less(self.live_raised_to(usage).sum());
        let all_shown = Class::PROMPT.iter().all(|&class| usage.of(class) == self.turn.of(class));
        (excess.cache_write > 0 || excess.cache_read > 0)
            && !usage.is_zero()
            && all_shown
            && models.iter().all(|model| model.web_searches == 0)
            && !self.compacted
            && self.version.is_none_or(|version| version >= CARRIES_OVER_SINCE)
    }

    /// Replaces what was counted since the last settlement by `told`, a `modelUsage`; adds it
    /// instead where a new process has begun.
    fn settle(&mut self, told: &PerModel) {
        let mut before = self.settled.clone();
        before.add_all(&self.carried);
        let counted = before.sum().plus(self.live.sum());
        if told.is_below(&before) || told.sum().below(&counted, &Class::PROMPT) {
            let settled = std::mem::take(&mut self.settled);
            self.ended.add_all(&settled);
            self.carried = PerModel::default();
            // Live tokens beyond the new process's own are those of one that ended untold.
            let untold = self.live.excess_over(told);
            self.ended.add_all(&untold);
        }
        self.settled = told.less(&self.carried);
        self.live = PerModel::default();
        self.settlements = self.settlements.wrapping_add(1);
        self.turn_open = false;
        self.agents_open = false;
    }

    /// Takes a live message out again.
    fn take_back(&mut self, message: &Message) {
        self.live.subtract(message.model, message.tokens);
        if message.parent.is_none() {
            self.turn = self.turn.less(message.tokens);
        }
    }
}

impl PerModel {
    fn sum(&self) -> Tokens {
        self.0.iter().fold(Tokens::default(), |sum, (_, tokens)| sum.plus(*tokens))
    }

    fn of(&self, model: ModelId) -> Tokens {
        self.0.iter().find(|(m, _)| *m == model).map(|(_, tokens)| *tokens).unwrap_or_default()
    }

    fn change(&mut self, model: ModelId, f: impl Fn(Tokens) -> Tokens) {
        match self.0.iter_mut().find(|(m, _)| *m == model) {
            Some((_, tokens)) => *tokens = f(*tokens),
            None => self.0.push((model, f(Tokens::default()))),
        }
    }

    fn add(&mut self, model: ModelId, more: Tokens) {
        self.change(model, |tokens| tokens.plus(more));
    }

    fn subtract(&mut self, model: ModelId, part: Tokens) {
        self.change(model, |tokens| tokens.less(part));
    }

    fn add_all(&mut self, other: &PerModel) {
        for &(model, tokens) in &other.0 {
            self.add(model, tokens);
        }
    }

    fn less(&self, other: &PerModel) -> PerModel {
        PerModel(self.0.iter().map(|&(model, tokens)| (model, tokens.less(other.of(model)))).collect())
    }

    /// Whether any model has less of any class than `other` says.
    fn is_below(&self, other: &PerModel) -> bool {
        other.0.iter().any(|(model, tokens)| self.of(*model).below(tokens, &Class::ALL))
    }

    /// What the sum here exceeds the sum of `other` by, class by class, as parts of the models
    /// that have more here. A name may differ between the two (`[1m]`), so the sums decide.
    fn excess_over(&self, other: &PerModel) -> PerModel {
        let mut left = self.sum().less(other.sum());
        let mut excess = PerModel::default();
        for own in [self.less(other), self.clone()] {
            for (model, tokens) in own.0 {
                let part = tokens.min(left).min(self.of(model).less(excess.of(model)));
                excess.add(model, part);
                left = left.less(part);
            }
        }
        excess
    }
}

impl Models {
    fn id(&mut self, name: Option<&str>) -> ModelId {
        let name = name.unwrap_or("unknown");
        let name = name.char_indices().nth(MODEL_NAME_MAX).map_or(name, |(end, _)| &name[..end]);
        if let Some(id) = self.0.iter().position(|known| known == name) {
            return id;
        }
        if self.0.len() < MODELS_MAX {
            self.0.push(name.to_owned());
            self.0.len() - 1
        } else {
            MODELS_MAX
        }
    }

    fn name(&self, id: ModelId) -> &str {
        self.0.get(id).map_or("others", String::as_str)
    }
}

/// The three numbers of a version such as `2.1.292`, or `None` where it is none.
fn parse_version(text: &str) -> Option<[u32; 3]> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}
