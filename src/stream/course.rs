//! The course of a stream, beside what it spends: its turns, and what it is where nothing counts.

use crate::stream::dialect::{Dialect, Tells};
use crate::stream::foreign::Foreign;
use crate::stream::paths::TextField;
use crate::stream::scan::Scanned;

/// Behind so many lines that are no records an agent may be recognised.
// Programs write a few lines to a log before their first record. To look at all lines of a text would cost
// much more than to skip them.
const LOOKS_FOR: u64 = 1000;

/// What is known of a stream that ended without any usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoUsage {
    /// It is Claude Code's, as its `init` record shows.
    Init,
    /// It was cut, which has been reported.
    Cut,
    /// It has usage objects in which nothing is known.
    UnknownUsage,
    /// This agent has told its usage, and not one token.
    Zero(&'static str),
    Unknown,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// `result` records so far, and whether no message has come since the last.
    turns: u64,
    idle_since_turn: bool,
    /// An `init` record has come.
    has_begun: bool,
    /// A record of a known agent has come: others between them need no explanation.
    is_known: bool,
    /// The other agent whose records came, before any usage.
    agent: Option<&'static Dialect>,
    /// A usage object has come in which no count is known.
    has_unknown_usage: bool,
    /// The user has been told why nothing counts.
    is_explained: bool,
    /// As long as fewer lines than this have come, an agent may still be recognised behind what was told.
    looks_until: u64,
    /// The stream ended inside a record.
    pub(crate) is_cut: bool,
}

impl Course {
    /// Takes in a line or an element. Returns what its record is, where that is still `wanted` and it
    /// cannot be counted live.
    pub(crate) fn see(&mut self, scanned: &Scanned<'_>, wanted: bool) -> Option<Foreign> {
        let record = scanned.record?;
        match (record.text(TextField::Kind), record.text(TextField::Subtype)) {
            // Counted, so that the watch sees a new turn even where it missed the messages between.
            (Some("result"), _) => (self.turns, self.idle_since_turn) = (self.turns.wrapping_add(1), true),
            (Some("assistant" | "stream_event"), _) => self.idle_since_turn = false,
            (Some("system"), Some("init")) => (self.has_begun, self.idle_since_turn) = (true, false),
            _ => {}
        }
        if !wanted {
            return None;
        }
        self.has_unknown_usage |= record.has_unknown_usage();
        let foreign = Foreign::of_record(record);
        self.agent = record.agent().or(self.agent);
        self.is_known |= record.session().is_some() || record.thread().is_some() || self.agent.is_some();
        foreign.filter(|foreign| !self.is_known || !matches!(foreign, Foreign::Json(_)))
    }

    /// The number of the turn that a `result` has ended, as long as no message of another has come.
    pub(crate) fn idle_turn(&self) -> Option<u64> {
        self.idle_since_turn.then_some(self.turns)
    }

    /// The other agent whose records came, before any usage.
    pub(crate) fn agent(&self) -> Option<&'static Dialect> {
        self.agent
    }

    /// Whether it is that of an agent which never tells its usage.
    pub(crate) fn tells_nothing(&self) -> bool {
        self.agent.is_some_and(|agent| agent.tells == Tells::Never)
    }

    /// Whether there may be something to tell of what comes behind so many lines.
    pub(crate) fn is_open(&self, lines: u64) -> bool {
        !self.is_explained || lines < self.looks_until
    }

    /// The user is to be told, in this line, what cannot be counted live. Returns whether that is new: of
    /// lines that are no records the first one is enough, but an agent is told behind them too.
    pub(crate) fn explain(&mut self, foreign: &Foreign, line: u64) -> bool {
        let is_text = matches!(foreign, Foreign::Text(_) | Foreign::Json(_));
        let is_new = !self.is_explained || !is_text;
        if is_new {
            self.looks_until = if is_text { line.saturating_add(LOOKS_FOR) } else { 0 };
        }
        self.is_explained = true;
        is_new
    }

    /// What is known of the stream, where it has ended without any usage and nothing has explained that.
    pub(crate) fn explain_end(&mut self) -> Option<NoUsage> {
        let was_explained = std::mem::replace(&mut self.is_explained, true);
        (!was_explained).then_some(match (self.has_begun, self.is_cut) {
            _ if self.has_unknown_usage => NoUsage::UnknownUsage,
            (true, _) => NoUsage::Init,
            (false, true) => NoUsage::Cut,
            (false, false) => NoUsage::Unknown,
        })
    }
}
