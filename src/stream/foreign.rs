//! What a stream is that cannot be counted, as far as the start of a line tells.

use crate::stream::dialect::{Dialect, Tells};
use crate::stream::paths::TextField;
use crate::stream::record::Record;

/// Kinds of records that Claude Code writes; others count as its own by their `session_id`.
const KINDS: [&str; 15] = [
    "assistant",
    "auth_status",
    "control_cancel_request",
    "control_request",
    "control_response",
    "conversation_reset",
    "keep_alive",
    "prompt_suggestion",
    "rate_limit_event",
    "result",
    "stream_event",
    "system",
    "tool_progress",
    "tool_use_summary",
    "user",
];

/// What begins a line of a stream of server-sent events beside `data:`, which is in front of a record.
const EVENT_FIELDS: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];

/// What stands in a line, or in all of them, in place of records.
#[derive(Clone, Debug)]
pub(crate) enum Foreign {
    /// Compressed, with this.
    Compressed(&'static str),
    Utf16,
    /// Text that is no JSON, or no JSON that can be read; how it begins.
    Text(String),
    /// JSON of a kind that is not known, with its `type`.
    Json(Option<String>),
    /// It is another agent's, which does not tell its usage live.
    Agent(&'static Dialect),
    /// The same, and what earlier turns of its thread used is known and does not count again.
    Resumed(&'static Dialect),
}

impl Foreign {
    /// What a line without a record is, by its start; `None` for one that belongs to a stream of
    /// server-sent events.
    pub(crate) fn of_line(head: &[u8]) -> Option<Foreign> {
        let is_field = |field: &&[u8]| head.starts_with(field);
        match head {
            [0x1F, 0x8B, ..] => Some(Foreign::Compressed("gzip")),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Some(Foreign::Compressed("zstd")),
            // With a byte order mark, or ASCII without one.
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [0, b' '..=b'~', ..] | [b' '..=b'~', 0, ..] => Some(Foreign::Utf16),
            _ if EVENT_FIELDS.iter().any(is_field) => None,
            _ => Some(Foreign::Text(String::from_utf8_lossy(head).trim().to_owned())),
        }
    }

    /// The same where it is known how far the thread had come before.
    pub(crate) fn resumed(self) -> Foreign {
        match self {
            Foreign::Agent(agent) if agent.is_cumulative => Foreign::Resumed(agent),
            other => other,
        }
    }

    /// What a record is that cannot be counted live; `None` where it can.
    pub(crate) fn of_record(record: &Record) -> Option<Foreign> {
        let kind = record.text(TextField::Kind);
        if let Some(agent) = record.agent() {
            return (agent.tells != Tells::Live).then_some(Foreign::Agent(agent));
        }
        let is_known = record.session().is_some() || kind.is_some_and(|kind| KINDS.contains(&kind));
        (!is_known).then(|| Foreign::Json(kind.map(str::to_owned)))
    }
}
