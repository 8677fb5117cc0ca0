//! A message that may get further records, and which parts of it count where.

use crate::count::tally::ModelId;
use crate::count::tokens::{Counts, Spend, Usage};

/// A message that may get further records.
#[derive(Debug)]
pub(crate) struct Message {
    /// Hash of the session and the message's id, or of a number of its own where it has no id.
    // Ids are texts of a stream, and may be 64 KiB long.
    pub(crate) key: u64,
    /// Hash of the session's id.
    pub(crate) session: u64,
    /// Hash of the `parent_tool_use_id`; `None` in the main loop.
    pub(crate) parent: Option<u64>,
    pub(crate) model: ModelId,
    pub(crate) spend: Spend,
    /// The largest figures seen for it.
    pub(crate) usage: Usage,
    /// The parent named by its last `message_start` event, which may differ from `parent`; `None`
    /// where it had no such event.
    pub(crate) started_by: Option<Option<u64>>,
    pub(crate) aborted: bool,
    /// It is a call that is billed beside a message, and no call of the message's loop.
    pub(crate) is_beside: bool,
    /// A tool's result has said what it came to.
    pub(crate) complete: bool,
    /// What of it was counted since the session's last settlement.
    pub(crate) live: Part,
    /// What of it was counted since the session's last turn ended.
    pub(crate) turn: Part,
}

impl Message {
    pub(crate) fn new(key: u64, session: u64, parent: Option<u64>, model: ModelId) -> Self {
        Message {
            key,
            session,
            parent,
            model,
            spend: Spend::default(),
            usage: Usage::default(),
            started_by: None,
            aborted: false,
            is_beside: false,
            complete: false,
            live: Part::default(),
            turn: Part::default(),
        }
    }
}

/// The part of a message that was counted in one epoch of its session; it is nothing in the next.
// So a `result` record ends the parts of all messages without looking at any of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    epoch: u32,
    spend: Spend,
}

impl Part {
    pub(crate) fn new(epoch: u32, spend: Spend) -> Self {
        Part { epoch, spend }
    }

    pub(crate) fn in_epoch(self, epoch: u32) -> Spend {
        if self.epoch == epoch { self.spend } else { Spend::default() }
    }

    pub(crate) fn add(&mut self, epoch: u32, more: Spend) {
        *self = Part { epoch, spend: self.in_epoch(epoch).plus(more) };
    }
}
