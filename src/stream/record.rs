//! What one line of the stream says that matters here, and the paths where it stands.
//!
//! A [`Line`] holds the wanted values only, as the line gave them; [`crate::stream::scan`] fills it. What
//! they mean for a total is [`crate::count::meter`]'s business. The paths are those of Claude Code's
//! stream-JSON as recorded streams show them; nothing is found by its name alone.

use crate::count::price::Bill;
use crate::count::tokens::{Class, Spend};
use crate::stream::number;

/// How many models one `modelUsage` may name before it is taken for noise and counts as absent.
const MODELS_MAX: usize = 256;

/// The longest text of a wanted value, and of all model names of a line together, in bytes.
pub const WANTED_MAX: usize = 64 * 1024;

/// A wanted text; its memory is kept from line to line.
#[derive(Debug, Default)]
pub struct Text {
    value: String,
    present: bool,
}

impl Text {
    /// The text, where the line has one.
    #[must_use]
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

/// A usage object: of a message, of an event, of a tool's result, of a turn, or of a model.
#[derive(Debug, Default)]
pub struct Usage {
    counts: [Option<u64>; 4],
    write_1h: u64,
    searches: u64,
    us: bool,
    present: bool,
}

impl Usage {
    /// The tokens, where there is a usage object; a count that it lacks is zero.
    #[must_use]
    pub fn tokens(&self) -> Option<Spend> {
        let [input, output, cache_write, cache_read] = self.counts.map(Option::unwrap_or_default);
        self.present.then_some(Spend { input, output, cache_write, cache_read, micro_usd: 0 })
    }

    /// All that a price depends on.
    #[must_use]
    pub fn bill(&self) -> Option<Bill> {
        let bill = |tokens| Bill { tokens, write_1h: self.write_1h, searches: self.searches, us: self.us };
        self.tokens().map(bill)
    }
}

/// The wanted values of a `message` object.
#[derive(Debug, Default)]
pub struct Message {
    /// `id`: one message's lines share it.
    pub id: Text,
    /// `model`.
    pub model: Text,
    /// `usage`.
    pub usage: Usage,
    /// `tool_use_id` of the last `tool_result` block in `content`.
    pub tool_use_id: Text,
}

/// One model's entry in `modelUsage`.
#[derive(Debug, Default)]
pub struct ModelUsage {
    /// The key: the model's name.
    pub name: String,
    /// The counts, cumulative for the process.
    pub usage: Usage,
    /// `webSearchRequests`.
    pub web_searches: u64,
    /// `costUSD`, in micro-dollars.
    pub cost: Option<u64>,
}

/// The wanted values of one line. A value that is missing or of the wrong type is absent.
#[derive(Debug, Default)]
pub struct Line {
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
    pub message: Message,
    /// `event.type`.
    pub event_kind: Text,
    /// `event.message`.
    pub event_message: Message,
    /// `event.usage`.
    pub event_usage: Usage,
    /// `tool_use_result.agentId`.
    pub agent: Text,
    /// `tool_use_result.resolvedModel`.
    pub agent_model: Text,
    /// `tool_use_result.usage`.
    pub agent_usage: Usage,
    /// `usage`.
    pub usage: Usage,
    /// `total_cost_usd`, in micro-dollars.
    pub total_cost: Option<u64>,
    models: Vec<ModelUsage>,
    models_present: bool,
    block_kind: Text,
    block_tool: Text,
}

/// An object or array on the way to a wanted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Root,
    Message(Owner),
    Content,
    Block,
    Event,
    ToolResult,
    Usage(Owner),
    CacheCreation(Owner),
    ServerTools(Owner),
    Models,
    Model,
}

/// Whose message or usage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Root,
    Message,
    Event,
    EventMessage,
    ToolResult,
}

/// A wanted scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Kind,
    Subtype,
    Session,
    Parent,
    Version,
    Aborted,
    EventKind,
    Id(Owner),
    Model(Owner),
    BlockKind,
    BlockTool,
    Agent,
    AgentModel,
    Count(Owner, Class),
    Write1h(Owner),
    Searches(Owner),
    Geo(Owner),
    ModelCount(Class),
    WebSearches,
    Cost,
    TotalCost,
}

/// What to do with the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Skip,
    Object(Place),
    Array(Place),
    Keep(Field),
}

/// A scalar as the scanner read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Text(&'a str),
    /// A JSON number, in any form.
    Number(&'a str),
    True,
    /// Nothing, or nothing that any field could take.
    Absent,
}

impl Place {
    /// Where the value of `key` in this object leads.
    fn step(self, key: &str) -> Step {
        use Step::{Array, Keep, Object, Skip};
        match self {
            Place::Root => match key {
                "type" => Keep(Field::Kind),
                "subtype" => Keep(Field::Subtype),
                "session_id" => Keep(Field::Session),
                "parent_tool_use_id" => Keep(Field::Parent),
                "claude_code_version" => Keep(Field::Version),
                "aborted" => Keep(Field::Aborted),
                "total_cost_usd" => Keep(Field::TotalCost),
                "message" => Object(Place::Message(Owner::Message)),
                "event" => Object(Place::Event),
                "tool_use_result" => Object(Place::ToolResult),
                "usage" => Object(Place::Usage(Owner::Root)),
                "modelUsage" => Object(Place::Models),
                _ => Skip,
            },
            Place::Message(owner) => match key {
                "id" => Keep(Field::Id(owner)),
                "model" => Keep(Field::Model(owner)),
                "usage" => Object(Place::Usage(owner)),
                "content" if owner == Owner::Message => Array(Place::Content),
                _ => Skip,
            },
            Place::Block => match key {
                "type" => Keep(Field::BlockKind),
                "tool_use_id" => Keep(Field::BlockTool),
                _ => Skip,
            },
            Place::Event => match key {
                "type" => Keep(Field::EventKind),
                "message" => Object(Place::Message(Owner::EventMessage)),
                "usage" => Object(Place::Usage(Owner::Event)),
                _ => Skip,
            },
            Place::ToolResult => match key {
                "agentId" => Keep(Field::Agent),
                "resolvedModel" => Keep(Field::AgentModel),
                "usage" => Object(Place::Usage(Owner::ToolResult)),
                _ => Skip,
            },
            Place::Usage(owner) => match key {
                "input_tokens" => Keep(Field::Count(owner, Class::Input)),
                "output_tokens" => Keep(Field::Count(owner, Class::Output)),
                "cache_creation_input_tokens" => Keep(Field::Count(owner, Class::CacheWrite)),
                "cache_read_input_tokens" => Keep(Field::Count(owner, Class::CacheRead)),
                "cache_creation" => Object(Place::CacheCreation(owner)),
                "server_tool_use" => Object(Place::ServerTools(owner)),
                "inference_geo" => Keep(Field::Geo(owner)),
                _ => Skip,
            },
            Place::CacheCreation(owner) => match key {
                "ephemeral_1h_input_tokens" => Keep(Field::Write1h(owner)),
                _ => Skip,
            },
            Place::ServerTools(owner) => match key {
                "web_search_requests" => Keep(Field::Searches(owner)),
                _ => Skip,
            },
            Place::Models => Object(Place::Model),
            Place::Model => match key {
                "inputTokens" => Keep(Field::ModelCount(Class::Input)),
                "outputTokens" => Keep(Field::ModelCount(Class::Output)),
                "cacheCreationInputTokens" => Keep(Field::ModelCount(Class::CacheWrite)),
                "cacheReadInputTokens" => Keep(Field::ModelCount(Class::CacheRead)),
                "webSearchRequests" => Keep(Field::WebSearches),
                "costUSD" => Keep(Field::Cost),
                _ => Skip,
            },
            Place::Content => Skip,
        }
    }

    /// What the elements of this array are.
    pub(crate) fn element(self) -> Step {
        match self {
            Place::Content => Step::Object(Place::Block),
            _ => Step::Skip,
        }
    }
}

impl Line {
    /// The models of `modelUsage`, where the line has one.
    #[must_use]
    pub fn models(&self) -> Option<&[ModelUsage]> {
        self.models_present.then_some(self.models.as_slice())
    }

    /// Forgets everything, for the next line.
    pub(crate) fn clear(&mut self) {
        for field in [
            Field::Kind,
            Field::Subtype,
            Field::Session,
            Field::Parent,
            Field::Version,
            Field::Aborted,
            Field::TotalCost,
        ] {
            self.put(field, Scalar::Absent);
        }
        for place in
            [Place::Message(Owner::Message), Place::Event, Place::ToolResult, Place::Usage(Owner::Root), Place::Models]
        {
            self.forget(place);
        }
    }

    /// Takes a key in: what its value is wanted for. What the same key said before is forgotten,
    /// with all that was in it: of duplicate keys the last counts.
    pub(crate) fn key(&mut self, place: Place, key: &str) -> Step {
        let step = place.step(key);
        match step {
            Step::Keep(field) => self.put(field, Scalar::Absent),
            Step::Object(Place::Model) => self.models.retain(|model| model.name != key),
            Step::Object(place) | Step::Array(place) => self.forget(place),
            Step::Skip => {}
        }
        step
    }

    /// A wanted object or array has begun; `key` is the name it stands under.
    pub(crate) fn open(&mut self, place: Place, key: &str) {
        match place {
            Place::Usage(owner) => self.usage_mut(owner).present = true,
            Place::Models => self.models_present = true,
            Place::Model => self.open_model(key),
            Place::Block => self.forget(Place::Block),
            _ => {}
        }
    }

    /// A wanted object or array has ended.
    pub(crate) fn close(&mut self, place: Place) {
        if place == Place::Block && self.block_kind.get() == Some("tool_result") {
            let tool = self.block_tool.get().map_or(Scalar::Absent, Scalar::Text);
            self.message.tool_use_id.put(tool);
        }
    }

    /// Takes a wanted scalar in; one of the wrong type leaves the field absent.
    pub(crate) fn put(&mut self, field: Field, scalar: Scalar<'_>) {
        let number = match scalar {
            Scalar::Number(text) => Some(text),
            _ => None,
        };
        let count = number.map(number::count);
        match field {
            Field::Kind => self.kind.put(scalar),
            Field::Subtype => self.subtype.put(scalar),
            Field::Session => self.session.put(scalar),
            Field::Parent => self.parent.put(scalar),
            Field::Version => self.version.put(scalar),
            Field::Aborted => self.aborted = scalar == Scalar::True,
            Field::EventKind => self.event_kind.put(scalar),
            Field::Id(owner) => self.message_mut(owner).id.put(scalar),
            Field::Model(owner) => self.message_mut(owner).model.put(scalar),
            Field::BlockKind => self.block_kind.put(scalar),
            Field::BlockTool => self.block_tool.put(scalar),
            Field::Agent => self.agent.put(scalar),
            Field::AgentModel => self.agent_model.put(scalar),
            Field::Count(owner, class) => self.usage_mut(owner).counts[class as usize] = count,
            Field::ModelCount(class) => {
                if let Some(model) = self.models.last_mut() {
                    model.usage.counts[class as usize] = count;
                }
            }
            Field::Write1h(owner) => self.usage_mut(owner).write_1h = count.unwrap_or_default(),
            Field::Searches(owner) => self.usage_mut(owner).searches = count.unwrap_or_default(),
            Field::Geo(owner) => self.usage_mut(owner).us = scalar == Scalar::Text("us"),
            Field::WebSearches => {
                if let Some(model) = self.models.last_mut() {
                    model.web_searches = count.unwrap_or_default();
                }
            }
            Field::Cost => {
                if let Some(model) = self.models.last_mut() {
                    model.cost = number.map(number::micro_dollars);
                }
            }
            Field::TotalCost => self.total_cost = number.map(number::micro_dollars),
        }
    }

    /// Adds a model's entry, or gives the whole `modelUsage` up where it names absurdly many.
    fn open_model(&mut self, name: &str) {
        let bytes: usize = self.models.iter().map(|model| model.name.len()).sum();
        if self.models.len() == MODELS_MAX || bytes + name.len() > WANTED_MAX {
            self.models_present = false;
            self.models.clear();
        }
        self.models.push(ModelUsage {
            name: name.to_owned(),
            usage: Usage { present: true, ..Usage::default() },
            web_searches: 0,
            cost: None,
        });
    }

    fn forget(&mut self, place: Place) {
        match place {
            Place::Message(owner) => {
                for field in [Field::Id(owner), Field::Model(owner)] {
                    self.put(field, Scalar::Absent);
                }
                self.forget(Place::Usage(owner));
                if owner == Owner::Message {
                    self.forget(Place::Content);
                }
            }
            Place::Content => self.message.tool_use_id.put(Scalar::Absent),
            Place::Block => {
                self.block_kind.put(Scalar::Absent);
                self.block_tool.put(Scalar::Absent);
            }
            Place::Event => {
                self.event_kind.put(Scalar::Absent);
                self.forget(Place::Message(Owner::EventMessage));
                self.forget(Place::Usage(Owner::Event));
            }
            Place::ToolResult => {
                self.agent.put(Scalar::Absent);
                self.agent_model.put(Scalar::Absent);
                self.forget(Place::Usage(Owner::ToolResult));
            }
            Place::Usage(owner) => *self.usage_mut(owner) = Usage::default(),
            Place::CacheCreation(owner) => self.usage_mut(owner).write_1h = 0,
            Place::ServerTools(owner) => self.usage_mut(owner).searches = 0,
            Place::Models => {
                self.models.clear();
                self.models_present = false;
            }
            Place::Root | Place::Model => {}
        }
    }

    fn message_mut(&mut self, owner: Owner) -> &mut Message {
        match owner {
            Owner::Event | Owner::EventMessage => &mut self.event_message,
            _ => &mut self.message,
        }
    }

    fn usage_mut(&mut self, owner: Owner) -> &mut Usage {
        match owner {
            Owner::Root => &mut self.usage,
            Owner::Message => &mut self.message.usage,
            Owner::Event => &mut self.event_usage,
            Owner::EventMessage => &mut self.event_message.usage,
            Owner::ToolResult => &mut self.agent_usage,
        }
    }
}
