//! What the meter remembers of single messages, and the names of their models.

use crate::count::price::Bill;
use crate::count::session::ModelId;
use crate::count::tokens::Spend;

/// How many models are told apart; all further ones are shown as one.
const MODELS_MAX: usize = 64;

/// The longest model name kept, in characters.
const MODEL_NAME_MAX: usize = 128;

/// A message that may get further lines.
#[derive(Debug)]
pub(crate) struct Message {
    /// Hash of the session and the message's id; `None` where it has no id.
    pub(crate) key: Option<u64>,
    pub(crate) session: u64,
    /// Hash of the `parent_tool_use_id`; `None` in the main loop.
    pub(crate) parent: Option<u64>,
    pub(crate) model: ModelId,
    pub(crate) spend: Spend,
    /// The highest figures seen for it.
    pub(crate) bill: Bill,
    /// The last `message_start` event that named it.
    pub(crate) start: Option<Start>,
    pub(crate) aborted: bool,
    /// A tool's result has told what it came to.
    pub(crate) complete: bool,
    /// What of it was counted since the session's last settlement, and since its last turn.
    pub(crate) live: Part,
    pub(crate) turn: Part,
}

/// A `message_start` event: the deltas of the same parent that follow are its message's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) parent: Option<u64>,
}

/// A part of a message that counts only as long as the session has not come to another epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    pub(crate) epoch: u32,
    pub(crate) tokens: Spend,
}

impl Part {
    pub(crate) fn since(self, epoch: u32) -> Spend {
        if self.epoch == epoch { self.tokens } else { Spend::default() }
    }

    pub(crate) fn add(&mut self, epoch: u32, more: Spend) {
        *self = Part { epoch, tokens: self.since(epoch).plus(more) };
    }
}

/// The names of the models seen.
#[derive(Debug, Default)]
pub(crate) struct Models(Vec<String>);

impl Models {
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
