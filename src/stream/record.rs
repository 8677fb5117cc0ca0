//! What one record of the stream says: the wanted values, as they were given.
//!
//! The scanner fills a [`Record`] and reuses it for the next one, with its memory. What the values
//! mean for a total is the meter's business.

use crate::count::tokens::{Tokens, Usage};
use crate::stream::number;
use crate::stream::paths::{Field, Node, Owner, Scalar, Step};

/// The longest text of a wanted value, and of all model names of a record together, in bytes. A
/// hostile stream could fill the memory with them otherwise.
pub const WANTED_MAX: usize = 64 * 1024;

/// How many models one `modelUsage` may name; one that names more counts as absent.
const MODELS_MAX: usize = 256;

/// A wanted text; its memory is kept from record to record.
#[derive(Debug, Default)]
pub struct Text {
    value: String,
    present: bool,
}

impl Text {
    /// The text, where the record has one.
    pub fn get(&self) -> Option<&str> {
        self.present.then_some(self.value.as_str())
    }

    fn put(&mut self, scalar: Scalar<'_>) {
        self.value.clear();
        self.present = false;
        if let Scalar::Text(text) = scalar {
            self.value.push_str(text);
            self.present = true;
        }
    }
}

/// The wanted values of a usage object: of a message, an event, a tool's result, a turn, or a model.
#[derive(Debug, Default)]
pub struct UsageFields {
    counts: [Option<u64>; 4],
    write_1h: u64,
    web_searches: u64,
    us_only: bool,
    present: bool,
}

impl UsageFields {
    /// The usage, where there is such an object; a count that it lacks is zero.
    pub fn get(&self) -> Option<Usage> {
        let [input, output, cache_write, cache_read] = self.counts.map(Option::unwrap_or_default);
        let tokens = Tokens { input, output, cache_write, cache_read };
        let UsageFields { write_1h, web_searches, us_only, .. } = *self;
        self.present.then_some(Usage { tokens, write_1h, web_searches, us_only })
    }
}

/// The wanted values of a `message` object.
#[derive(Debug, Default)]
pub struct MessageFields {
    /// `id`: the records of one message share it.
    pub id: Text,
    /// `model`.
    pub model: Text,
    /// `usage`.
    pub usage: UsageFields,
    /// `tool_use_id` of the last `tool_result` block in `content`.
    pub tool_use_id: Text,
}

/// One model's entry in `modelUsage`.
#[derive(Debug, Default)]
pub struct ModelUsage {
    /// The key: the model's name.
    pub name: String,
    /// The counts, cumulative for the process.
    pub usage: UsageFields,
    /// `costUSD`, in micro-dollars.
    pub cost: Option<u64>,
}

/// The wanted values of one record. A value that is missing or of the wrong type is absent.
#[derive(Debug, Default)]
pub struct Record {
    /// `type`.
    pub kind: Text,
    /// `subtype`.
    pub subtype: Text,
    /// `session_id`.
    pub session: Text,
    /// `parent_tool_use_id`: absent in the main loop.
    pub parent: Text,
    /// `claude_code_version`.
    pub version: Text,
    /// `aborted` is `true`.
    pub aborted: bool,
    /// `message`.
    pub message: MessageFields,
    /// `event.type`.
    pub event_kind: Text,
    /// `event.message`.
    pub event_message: MessageFields,
    /// `event.usage`.
    pub event_usage: UsageFields,
    /// `tool_use_result.agentId`.
    pub agent: Text,
    /// `tool_use_result.resolvedModel`.
    pub agent_model: Text,
    /// `tool_use_result.usage`.
    pub agent_usage: UsageFields,
    /// `usage`.
    pub usage: UsageFields,
    /// `total_cost_usd`, in micro-dollars.
    pub total_cost: Option<u64>,
    models: Vec<ModelUsage>,
    models_present: bool,
    block_kind: Text,
    block_tool: Text,
}

impl Record {
    /// The entries of `modelUsage`, where the record has one.
    pub fn models(&self) -> Option<&[ModelUsage]> {
        self.models_present.then_some(self.models.as_slice())
    }

    /// Forgets everything, for the next record.
    pub(crate) fn clear(&mut self) {
        use Field::{Aborted, Kind, Parent, Session, Subtype, TotalCost, Version};
        for field in [Kind, Subtype, Session, Parent, Version, Aborted, TotalCost] {
            self.put(field, Scalar::Absent);
        }
        let objects = [Node::Message(Owner::Message), Node::Event, Node::ToolResult, Node::Usage(Owner::Root)];
        for node in objects.into_iter().chain([Node::Models]) {
            self.forget(node);
        }
    }

    /// Takes in a key, and returns what its value is wanted for. What the same key said before is
    /// forgotten with all that was in it: of duplicate keys the last one counts.
    pub(crate) fn key(&mut self, node: Node, key: &str) -> Step {
        let step = node.step(key);
        match step {
            Step::Keep(field) => self.put(field, Scalar::Absent),
            Step::Object(Node::Model) => self.models.retain(|model| model.name != key),
            Step::Object(node) | Step::Array(node) => self.forget(node),
            Step::Skip => {}
        }
        step
    }

    /// A wanted object or array has begun; `key` is the name that it stands under.
    pub(crate) fn open(&mut self, node: Node, key: &str) {
        match node {
            Node::Usage(owner) => self.usage_mut(owner).present = true,
            Node::Models => self.models_present = true,
            Node::Model => self.open_model(key),
            Node::Block => self.forget(Node::Block),
            _ => {}
        }
    }

    /// A wanted object or array has ended.
    pub(crate) fn close(&mut self, node: Node) {
        if node == Node::Block && self.block_kind.get() == Some("tool_result") {
            let tool = self.block_tool.get().map_or(Scalar::Absent, Scalar::Text);
            self.message.tool_use_id.put(tool);
        }
    }

    /// Takes in a wanted scalar; one of the wrong type leaves the field absent.
    pub(crate) fn put(&mut self, field: Field, scalar: Scalar<'_>) {
        let number = match scalar {
            Scalar::Number(text) => Some(text),
            _ => None,
        };
        match field {
            Field::Kind => self.kind.put(scalar),
            Field::Subtype => self.subtype.put(scalar),
            Field::Session => self.session.put(scalar),
            Field::Parent => self.parent.put(scalar),
            Field::Version => self.version.put(scalar),
            Field::EventKind => self.event_kind.put(scalar),
            Field::BlockKind => self.block_kind.put(scalar),
            Field::BlockTool => self.block_tool.put(scalar),
            Field::Agent => self.agent.put(scalar),
            Field::AgentModel => self.agent_model.put(scalar),
            Field::Id(owner) => self.message_mut(owner).id.put(scalar),
            Field::Model(owner) => self.message_mut(owner).model.put(scalar),
            Field::Aborted => self.aborted = scalar == Scalar::True,
            Field::Geo(owner) => self.usage_mut(owner).us_only = scalar == Scalar::Text("us"),
            Field::TotalCost => self.total_cost = number.map(number::micro_dollars),
            Field::ModelCost => self.put_model(|model| model.cost = number.map(number::micro_dollars)),
            _ => self.put_count(field, number.map(number::count)),
        }
    }

    /// Takes in a wanted number of tokens or searches.
    fn put_count(&mut self, field: Field, count: Option<u64>) {
        let or_none = count.unwrap_or_default();
        match field {
            Field::Count(owner, class) => self.usage_mut(owner).counts[class as usize] = count,
            Field::Write1h(owner) => self.usage_mut(owner).write_1h = or_none,
            Field::Searches(owner) => self.usage_mut(owner).web_searches = or_none,
            Field::ModelCount(class) => self.put_model(|model| model.usage.counts[class as usize] = count),
            Field::ModelSearches => self.put_model(|model| model.usage.web_searches = or_none),
            _ => {}
        }
    }

    /// Changes the model whose entry is being read.
    fn put_model(&mut self, put: impl FnOnce(&mut ModelUsage)) {
        if let Some(model) = self.models.last_mut() {
            put(model);
        }
    }

    /// Adds a model's entry; gives up the whole `modelUsage` where it names absurdly many.
    fn open_model(&mut self, name: &str) {
        let bytes: usize = self.models.iter().map(|model| model.name.len()).sum();
        if self.models.len() == MODELS_MAX || bytes + name.len() > WANTED_MAX {
            self.models_present = false;
            self.models.clear();
        }
        let usage = UsageFields { present: true, ..UsageFields::default() };
        self.models.push(ModelUsage { name: name.to_owned(), usage, cost: None });
    }

    fn forget(&mut self, node: Node) {
        match node {
            Node::Message(owner) => {
                self.put(Field::Id(owner), Scalar::Absent);
                self.put(Field::Model(owner), Scalar::Absent);
                self.forget(Node::Usage(owner));
                if owner == Owner::Message {
                    self.forget(Node::Content);
                }
            }
            Node::Content => self.message.tool_use_id.put(Scalar::Absent),
            Node::Block => {
                self.block_kind.put(Scalar::Absent);
                self.block_tool.put(Scalar::Absent);
            }
            Node::Event => {
                self.event_kind.put(Scalar::Absent);
                self.forget(Node::Message(Owner::EventMessage));
                self.forget(Node::Usage(Owner::Event));
            }
            Node::ToolResult => {
                self.agent.put(Scalar::Absent);
                self.agent_model.put(Scalar::Absent);
                self.forget(Node::Usage(Owner::ToolResult));
            }
            Node::Usage(owner) => *self.usage_mut(owner) = UsageFields::default(),
            Node::CacheCreation(owner) => self.usage_mut(owner).write_1h = 0,
            Node::ServerTools(owner) => self.usage_mut(owner).web_searches = 0,
            Node::Models => {
                self.models.clear();
                self.models_present = false;
            }
            Node::Root | Node::Model => {}
        }
    }

    fn message_mut(&mut self, owner: Owner) -> &mut MessageFields {
        match owner {
            Owner::Event | Owner::EventMessage => &mut self.event_message,
            _ => &mut self.message,
        }
    }

    fn usage_mut(&mut self, owner: Owner) -> &mut UsageFields {
        match owner {
            Owner::Root => &mut self.usage,
            Owner::Message => &mut self.message.usage,
            Owner::Event => &mut self.event_usage,
            Owner::EventMessage => &mut self.event_message.usage,
            Owner::ToolResult => &mut self.agent_usage,
        }
    }
}
