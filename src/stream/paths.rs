//! Where the wanted values of Claude Code's stream-JSON stand, by path from the record's root.
//!
//! Nothing is found by its name alone: the input and output of a tool may hold any text, a copy of a
//! usage object included. The paths come from recorded streams. A line comes this far only with a word
//! of the sieve in it: a new key that counts needs its word there too.

use crate::count::tokens::Class;

/// An object or array on the way to a wanted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Root,
    Message(Owner),
    Content,
    Block,
    Event,
    ToolResult,
    Usage(Owner),
    CacheCreation(Owner),
    ServerTools(Owner),
    Iterations(Owner),
    Iteration(Owner),
    Models(Span),
    Model(Span),
    /// It is wanted by the table of dialects alone.
    Table,
}

/// Whose usage object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `usage` of a `result`: one turn of the main loop.
    Turn,
    /// `message.usage`.
    Message,
    /// `event.usage` of a `message_delta`.
    Delta,
    /// `event.message.usage` of a `message_start`.
    Start,
    /// `tool_use_result.usage`: a subagent's last call.
    Agent,
}

/// What the entries of a `result` by model cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// `modelUsage`: the process so far.
    Process,
    /// `model_usage_since_last_result`, which Claude Code writes from 2.1.309 on.
    SinceLast,
}

/// A wanted text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextField {
    /// `type`.
    Kind,
    /// `subtype`.
    Subtype,
    /// `session_id`.
    Session,
    /// `sessionId`, which says the same in some records.
    SessionAlias,
    /// `parent_tool_use_id`: absent in the main loop.
    Parent,
    /// `claude_code_version`.
    Version,
    /// `model` of an `init` record.
    InitModel,
    /// `hook_name`.
    HookName,
    /// `event.type`.
    EventKind,
    /// `message.id`: the records of one message share it.
    MessageId,
    /// `message.model`.
    MessageModel,
    /// `event.message.id`.
    StartId,
    /// `event.message.model`.
    StartModel,
    /// `tool_use_id` of the last `tool_result` block in `message.content`.
    ToolUseId,
    /// `type` of the block that is being read.
    BlockKind,
    /// `tool_use_id` of the block that is being read.
    BlockTool,
    /// `tool_use_result.agentId`.
    Agent,
    /// `tool_use_result.resolvedModel`.
    AgentModel,
}

/// How many kinds of wanted texts there are.
pub(crate) const TEXTS: usize = TextField::AgentModel as usize + 1;

/// How many usage objects a record may have.
pub(crate) const OWNERS: usize = Owner::Agent as usize + 1;

/// A number of the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    TotalCost,
    Turns,
    ApiTime,
    SpawnDepth,
}

/// A wanted scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Text(TextField),
    Number(Number),
    Aborted,
    Count(Owner, Class),
    Write1h(Owner),
    Searches(Owner),
    UsOnly(Owner),
    Fast(Owner),
    IterationKind(Owner),
    IterationModel(Owner),
    IterationCount(Owner, Class),
    ModelCount(Span, Class),
    ModelWrite1h(Span),
    ModelSearches(Span),
    ModelCost(Span),
    ModelCostBasis(Span),
}

/// What to do with the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Skip,
    Object(Node),
    Array(Node),
    Keep(Field),
}

/// A scalar as the scanner read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Text(&'a str),
    /// A JSON number, in any form.
    Number(&'a str),
    True,
    /// A value that no field takes, or none at all.
    Absent,
}

impl Node {
    /// Where the value of `key` in this object leads.
    pub(crate) fn step(self, key: &[u8]) -> Step {
        match self {
            Node::Root => root(key),
            Node::Message(owner) => message(owner, key),
            Node::Block => match key {
                b"type" => text(TextField::BlockKind),
                b"tool_use_id" => text(TextField::BlockTool),
                _ => Step::Skip,
            },
            Node::Event => match key {
                b"type" => text(TextField::EventKind),
                b"message" => Step::Object(Node::Message(Owner::Start)),
                b"usage" => Step::Object(Node::Usage(Owner::Delta)),
                _ => Step::Skip,
            },
            Node::ToolResult => match key {
                b"agentId" => text(TextField::Agent),
                b"resolvedModel" => text(TextField::AgentModel),
                b"usage" => Step::Object(Node::Usage(Owner::Agent)),
                _ => Step::Skip,
            },
            Node::Usage(owner) => usage(owner, key),
            Node::CacheCreation(owner) if key == b"ephemeral_1h_input_tokens" => Step::Keep(Field::Write1h(owner)),
            Node::ServerTools(owner) if key == b"web_search_requests" => Step::Keep(Field::Searches(owner)),
            Node::Iteration(owner) => iteration(owner, key),
            // The keys are the models' names.
            Node::Models(span) => Step::Object(Node::Model(span)),
            Node::Model(span) => model(span, key),
            Node::Content | Node::CacheCreation(_) | Node::ServerTools(_) | Node::Iterations(_) | Node::Table => {
                Step::Skip
            }
        }
    }

    /// Whether it is an array.
    pub(crate) fn is_array(self) -> bool {
        matches!(self, Node::Content | Node::Iterations(_))
    }

    /// What the elements of this array are.
    pub(crate) fn element(self) -> Step {
        match self {
            Node::Content => Step::Object(Node::Block),
            Node::Iterations(owner) => Step::Object(Node::Iteration(owner)),
            _ => Step::Skip,
        }
    }
}

fn text(field: TextField) -> Step {
    Step::Keep(Field::Text(field))
}

fn root(key: &[u8]) -> Step {
    match key {
        b"type" => text(TextField::Kind),
        b"subtype" => text(TextField::Subtype),
        b"session_id" => text(TextField::Session),
        b"sessionId" => text(TextField::SessionAlias),
        b"parent_tool_use_id" => text(TextField::Parent),
        b"claude_code_version" => text(TextField::Version),
        b"model" => text(TextField::InitModel),
        b"hook_name" => text(TextField::HookName),
        b"aborted" => Step::Keep(Field::Aborted),
        b"total_cost_usd" => Step::Keep(Field::Number(Number::TotalCost)),
        b"num_turns" => Step::Keep(Field::Number(Number::Turns)),
        b"duration_api_ms" => Step::Keep(Field::Number(Number::ApiTime)),
        b"spawn_depth" => Step::Keep(Field::Number(Number::SpawnDepth)),
        b"message" => Step::Object(Node::Message(Owner::Message)),
        b"event" => Step::Object(Node::Event),
        b"tool_use_result" => Step::Object(Node::ToolResult),
        b"usage" => Step::Object(Node::Usage(Owner::Turn)),
        b"modelUsage" => Step::Object(Node::Models(Span::Process)),
        b"model_usage_since_last_result" => Step::Object(Node::Models(Span::SinceLast)),
        _ => Step::Skip,
    }
}

fn message(owner: Owner, key: &[u8]) -> Step {
    let is_start = owner == Owner::Start;
    match key {
        b"id" => text(if is_start { TextField::StartId } else { TextField::MessageId }),
        b"model" => text(if is_start { TextField::StartModel } else { TextField::MessageModel }),
        b"usage" => Step::Object(Node::Usage(owner)),
        b"content" if !is_start => Step::Array(Node::Content),
        _ => Step::Skip,
    }
}

fn usage(owner: Owner, key: &[u8]) -> Step {
    match key {
        b"cache_creation" => Step::Object(Node::CacheCreation(owner)),
        b"server_tool_use" => Step::Object(Node::ServerTools(owner)),
        // Of a message alone: those of a turn or of an agent repeat them.
        b"iterations" if matches!(owner, Owner::Message | Owner::Delta) => Step::Array(Node::Iterations(owner)),
        b"inference_geo" => Step::Keep(Field::UsOnly(owner)),
        b"speed" => Step::Keep(Field::Fast(owner)),
        key => class(key).map_or(Step::Skip, |class| Step::Keep(Field::Count(owner, class))),
    }
}

fn iteration(owner: Owner, key: &[u8]) -> Step {
    match key {
        b"type" => Step::Keep(Field::IterationKind(owner)),
        b"model" => Step::Keep(Field::IterationModel(owner)),
        key => class(key).map_or(Step::Skip, |class| Step::Keep(Field::IterationCount(owner, class))),
    }
}

fn class(key: &[u8]) -> Option<Class> {
    match key {
        b"input_tokens" => Some(Class::Input),
        b"output_tokens" => Some(Class::Output),
        b"cache_creation_input_tokens" => Some(Class::CacheWrite),
        b"cache_read_input_tokens" => Some(Class::CacheRead),
        _ => None,
    }
}

fn model(span: Span, key: &[u8]) -> Step {
    Step::Keep(match key {
        b"inputTokens" => Field::ModelCount(span, Class::Input),
        b"outputTokens" => Field::ModelCount(span, Class::Output),
        b"cacheCreationInputTokens" => Field::ModelCount(span, Class::CacheWrite),
        b"cacheReadInputTokens" => Field::ModelCount(span, Class::CacheRead),
        b"cacheCreationEphemeral1hInputTokens" => Field::ModelWrite1h(span),
        b"webSearchRequests" => Field::ModelSearches(span),
        b"costUSD" => Field::ModelCost(span),
        b"costBasis" => Field::ModelCostBasis(span),
        _ => return Step::Skip,
    })
}
