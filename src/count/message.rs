//! The messages that may get further records, and the names of their models, in bounded memory.

use std::collections::{HashSet, VecDeque};

use crate::count::tally::ModelId;
use crate::count::tokens::{Counts, Spend, Usage};

/// How many messages are remembered.
// A map of all ids cost 230 bytes and 1.3 microseconds for each. A forgotten message stays in the total,
// and could be counted twice only if a record of it came after that many others had begun. In real
// streams the records of a message are a few dozen messages apart at most: those of the subagents
// that run beside it.
const RECENT_MESSAGES: usize = 1024;

/// How many models are told apart; all further ones are shown as one.
// A real stream has a handful; a hostile one could name another in each message.
const MODELS_MAX: usize = 64;

/// The longest model name that is kept, in characters.
const MODEL_NAME_MAX: usize = 128;

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

/// The last messages, oldest first; one that starts anew is the newest.
#[derive(Debug, Default)]
pub(crate) struct Messages(VecDeque<Message>);

impl Messages {
    /// The index of the newest message that `is_it`.
    pub(crate) fn find(&self, is_it: impl Fn(&Message) -> bool) -> Option<usize> {
        self.0.iter().rposition(is_it)
    }

    /// Adds a message as the newest, and forgets the oldest where there are too many. Returns its
    /// index.
    pub(crate) fn push(&mut self, message: Message) -> usize {
        if self.0.len() == RECENT_MESSAGES {
            self.0.pop_front();
        }
        self.0.push_back(message);
        self.0.len() - 1
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> &mut Message {
        &mut self.0[at]
    }

    pub(crate) fn get(&self, at: usize) -> &Message {
        &self.0[at]
    }

    /// A `message_start` event named a message: it becomes the newest, since the deltas that follow
    /// belong to the message of their loop that started last. Returns its index.
    pub(crate) fn start(&mut self, at: usize, parent: Option<u64>) -> usize {
        self.0[at].started_by = Some(parent);
        if at + 1 < self.0.len() {
            self.0.make_contiguous()[at..].rotate_left(1);
        }
        self.0.len() - 1
    }

    /// The last message of each subagent of a session, newest first, with the calls billed beside it: it
    /// may not have ended, so that no `result` can contain it yet.
    pub(crate) fn last_of_agents(&self, session: u64) -> Vec<usize> {
        let mut parents = HashSet::new();
        let of_agents = self.0.iter().enumerate().rev().filter(|(_, m)| m.session == session && m.parent.is_some());
        // What is billed beside a message stands after it.
        let last = of_agents.filter(|(_, m)| match m.is_beside {
            true => !parents.contains(&m.parent),
            false => parents.insert(m.parent) && !m.complete && !m.aborted,
        });
        last.map(|(at, _)| at).collect()
    }
}

/// The names of the models seen.
#[derive(Debug, Default)]
pub(crate) struct ModelNames(Vec<String>);

impl ModelNames {
    pub(crate) fn id(&mut self, name: Option<&str>) -> ModelId {
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

    pub(crate) fn name(&self, id: ModelId) -> &str {
        self.0.get(id).map_or("others", String::as_str)
    }
}
