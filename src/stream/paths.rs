//! Where the wanted values of Claude Code's stream-JSON stand, by path from the record's root.
//!
//! Nothing is found by its name alone: the input and output of a tool may hold any text, a copy of a
//! usage object included. The paths come from recorded streams.

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
    Models,
    Model,
}

/// Whose message or usage object it is.
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
    ModelSearches,
    ModelCost,
    TotalCost,
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
    pub(crate) fn step(self, key: &str) -> Step {
        match self {
            Node::Root => root(key),
            Node::Message(owner) => message(owner, key),
            Node::Block => block(key),
            Node::Event => event(key),
            Node::ToolResult => tool_result(key),
            Node::Usage(owner) => usage(owner, key),
            Node::CacheCreation(owner) if key == "ephemeral_1h_input_tokens" => Step::Keep(Field::Write1h(owner)),
            Node::ServerTools(owner) if key == "web_search_requests" => Step::Keep(Field::Searches(owner)),
            // The keys are the models' names.
            Node::Models => Step::Object(Node::Model),
            Node::Model => model(key),
            Node::Content | Node::CacheCreation(_) | Node::ServerTools(_) => Step::Skip,
        }
    }

    /// What the elements of this array are.
    pub(crate) fn element(self) -> Step {
        match self {
            Node::Content => Step::Object(Node::Block),
            _ => Step::Skip,
        }
    }
}

fn root(key: &str) -> Step {
    match key {
        "type" => Step::Keep(Field::Kind),
        "subtype" => Step::Keep(Field::Subtype),
        "session_id" => Step::Keep(Field::Session),
        "parent_tool_use_id" => Step::Keep(Field::Parent),
        "claude_code_version" => Step::Keep(Field::Version),
        "aborted" => Step::Keep(Field::Aborted),
        "total_cost_usd" => Step::Keep(Field::TotalCost),
        "message" => Step::Object(Node::Message(Owner::Message)),
        "event" => Step::Object(Node::Event),
        "tool_use_result" => Step::Object(Node::ToolResult),
        "usage" => Step::Object(Node::Usage(Owner::Root)),
        "modelUsage" => Step::Object(Node::Models),
        _ => Step::Skip,
    }
}

fn message(owner: Owner, key: &str) -> Step {
    match key {
        "id" => Step::Keep(Field::Id(owner)),
        "model" => Step::Keep(Field::Model(owner)),
        "usage" => Step::Object(Node::Usage(owner)),
        "content" if owner == Owner::Message => Step::Array(Node::Content),
        _ => Step::Skip,
    }
}

fn block(key: &str) -> Step {
    match key {
        "type" => Step::Keep(Field::BlockKind),
        "tool_use_id" => Step::Keep(Field::BlockTool),
        _ => Step::Skip,
    }
}

fn event(key: &str) -> Step {
    match key {
        "type" => Step::Keep(Field::EventKind),
        "message" => Step::Object(Node::Message(Owner::EventMessage)),
        "usage" => Step::Object(Node::Usage(Owner::Event)),
        _ => Step::Skip,
    }
}

fn tool_result(key: &str) -> Step {
    match key {
        "agentId" => Step::Keep(Field::Agent),
        "resolvedModel" => Step::Keep(Field::AgentModel),
        "usage" => Step::Object(Node::Usage(Owner::ToolResult)),
        _ => Step::Skip,
    }
}

fn usage(owner: Owner, key: &str) -> Step {
    match key {
        "input_tokens" => Step::Keep(Field::Count(owner, Class::Input)),
        "output_tokens" => Step::Keep(Field::Count(owner, Class::Output)),
        "cache_creation_input_tokens" => Step::Keep(Field::Count(owner, Class::CacheWrite)),
        "cache_read_input_tokens" => Step::Keep(Field::Count(owner, Class::CacheRead)),
        "cache_creation" => Step::Object(Node::CacheCreation(owner)),
        "server_tool_use" => Step::Object(Node::ServerTools(owner)),
        "inference_geo" => Step::Keep(Field::Geo(owner)),
        _ => Step::Skip,
    }
}

fn model(key: &str) -> Step {
    match key {
        "inputTokens" => Step::Keep(Field::ModelCount(Class::Input)),
        "outputTokens" => Step::Keep(Field::ModelCount(Class::Output)),
        "cacheCreationInputTokens" => Step::Keep(Field::ModelCount(Class::CacheWrite)),
        "cacheReadInputTokens" => Step::Keep(Field::ModelCount(Class::CacheRead)),
        "webSearchRequests" => Step::Keep(Field::ModelSearches),
        "costUSD" => Step::Keep(Field::ModelCost),
        _ => Step::Skip,
    }
}
