//! What one record of the stream says: the wanted values, as they were given.
//!
//! The scanner fills a [`Record`] and reuses it for the next one, with its memory. What the values
//! mean for a total is the meter's business.

use crate::count::tokens::{Tokens, Usage};
use crate::stream::dialect::{self, Dialect};
use crate::stream::number;
use crate::stream::paths::{Field, Node, Number, OWNERS, Owner, Scalar, Span, Step, TEXTS, TextField};
use crate::stream::scalar::{WANTED_MAX, lossy};
use crate::stream::told::Told;
use crate::stream::trail::{MODELS_MAX, TableValues};

/// How many iterations of a message are kept; a real one has a handful.
const ITERATIONS_MAX: usize = 16;

/// A wanted text; its memory is kept from record to record.
#[derive(Debug, Default)]
struct Text {
    value: String,
    present: bool,
}

impl Text {
    fn get(&self) -> Option<&str> {
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
struct UsageFields {
    counts: [Option<u64>; 4],
    write_1h: Option<u64>,
    web_searches: u64,
    us_only: bool,
    fast: bool,
    present: bool,
}

impl UsageFields {
    fn get(&self) -> Option<Usage> {
        let [input, output, cache_write, cache_read] = self.counts.map(Option::unwrap_or_default);
        let tokens = Tokens { input, output, cache_write, cache_read };
        let UsageFields { web_searches, us_only, fast, .. } = *self;
        let write_1h = self.write_1h.unwrap_or_default();
        self.present.then_some(Usage { tokens, write_1h, web_searches, us_only, fast })
    }
}

/// One call of several that a message is made of.
#[derive(Debug, Default)]
pub struct Iteration {
    kind: Text,
    model: Text,
    usage: UsageFields,
}

impl Iteration {
    /// Its model, where that is not the message's.
    pub fn model(&self) -> Option<&str> {
        self.model.get()
    }

    /// What it used.
    pub fn usage(&self) -> Usage {
        self.usage.get().unwrap_or_default()
    }

    /// Whether it is billed beside the message, whose own usage does not contain it.
    pub fn is_beside(&self) -> bool {
        matches!(self.kind.get(), Some("advisor_message" | "compaction"))
    }
}

/// One model's entry in a `result`.
#[derive(Debug, Default)]
pub struct ModelUsage {
    /// The key: the model's name.
    pub name: String,
    usage: UsageFields,
    cost: Option<u64>,
    cost_unknown: bool,
}

impl ModelUsage {
    /// What it used.
    pub fn usage(&self) -> Usage {
        self.usage.get().unwrap_or_default()
    }

    /// How many of the cache writes are kept for an hour, where the entry says so.
    pub fn write_1h(&self) -> Option<u64> {
        self.usage.write_1h
    }

    /// `costUSD` in micro-dollars, where the vendor knows the price.
    pub fn cost(&self) -> Option<u64> {
        self.cost.filter(|_| !self.cost_unknown)
    }

    /// `costBasis` is `unknown`: Claude Code has no price for the model, and guessed.
    pub fn is_cost_guessed(&self) -> bool {
        self.cost_unknown
    }
}

/// The entries by model of a `result`.
#[derive(Debug, Default)]
struct ModelList {
    entries: Vec<ModelUsage>,
    present: bool,
}

/// The wanted values of one record. A value that is missing or of the wrong type is absent.
#[derive(Debug, Default)]
pub struct Record {
    texts: [Text; TEXTS],
    usages: [UsageFields; OWNERS],
    models: [ModelList; 2],
    /// Of a message and of a delta.
    iterations: [Vec<Iteration>; 2],
    /// What stands at the paths of other agents' records.
    pub(crate) table: TableValues,
    /// A block of `message.content` asks for a tool.
    pub asks_for_tool: bool,
    /// `aborted` is `true`.
    pub aborted: bool,
    /// `total_cost_usd`, in micro-dollars.
    pub total_cost: Option<u64>,
    /// `num_turns`.
    pub turns: Option<u64>,
    /// `duration_api_ms`.
    pub api_time: Option<u64>,
    /// `spawn_depth`: 1 for a subagent of the main loop, 2 for one of its subagents.
    pub spawn_depth: Option<u64>,
}

impl Record {
    /// A text, where the record has it.
    pub fn text(&self, field: TextField) -> Option<&str> {
        self.texts[field as usize].get()
    }

    /// The id of its session, by whichever of the two keys has one.
    pub fn session(&self) -> Option<&str> {
        self.text(TextField::Session).or_else(|| self.text(TextField::SessionAlias))
    }

    /// A usage, where the record has such an object; a count that it lacks is zero.
    pub fn usage(&self, owner: Owner) -> Option<Usage> {
        let usage = self.usages[owner as usize].get()?;
        let as_claude = self.as_claude(owner);
        Some(as_claude.map_or(usage, |(_, tokens)| Usage { tokens, ..usage }))
    }

    /// The agent whose usage this is, where that has the form of Claude Code's with other meanings.
    fn as_claude(&self, owner: Owner) -> Option<(&'static Dialect, Tokens)> {
        let kind = self.text(TextField::Kind)?;
        let usage = self.usages[owner as usize].get().filter(|_| self.tells_usage(owner))?;
        self.table.as_claude(kind, &usage.tokens)
    }

    /// The other agent whose usage this is, where the record has the form of Claude Code's.
    pub(crate) fn usage_of(&self, owner: Owner) -> Option<&'static Dialect> {
        self.as_claude(owner).map(|(row, _)| row)
    }

    /// The other agent that wrote it, where its `type` or a mark tells.
    pub(crate) fn agent(&self) -> Option<&'static Dialect> {
        self.table.marked().or_else(|| dialect::agent_of(self.text(TextField::Kind)?))
    }

    /// Whether it has such an object with a count in it that is known, be it zero.
    // One without has another program's keys: taken for zero, it would let everything through.
    pub fn tells_usage(&self, owner: Owner) -> bool {
        self.usages[owner as usize].counts.iter().any(Option::is_some)
    }

    /// Whether it has a usage object in which no count is known.
    pub(crate) fn has_unknown_usage(&self) -> bool {
        self.usages.iter().any(|usage| usage.present && usage.counts.iter().all(Option::is_none))
    }

    /// Whether it is of a transcript that Claude Code keeps, and not of a stream.
    pub fn is_transcript(&self) -> bool {
        self.text(TextField::SessionAlias).is_some()
    }

    /// The agent, where it is another one, and the thread or session that its record names.
    pub(crate) fn thread(&self) -> Option<(&'static Dialect, &str)> {
        self.table.thread()
    }

    /// What another agent's record says was used, model by model, and how the agent says it.
    pub(crate) fn told(&self) -> Option<(&'static Dialect, Vec<Told<'_>>)> {
        let (row, dialect) = self.table.carrier(self.text(TextField::Kind)?)?;
        Some((dialect, self.table.told(row)))
    }

    /// The entries by model, where the record has such an object.
    pub fn models(&self, span: Span) -> Option<&[ModelUsage]> {
        let list = &self.models[span as usize];
        list.present.then_some(list.entries.as_slice())
    }

    /// `usage.iterations` of a message or a delta.
    pub fn iterations(&self, owner: Owner) -> &[Iteration] {
        let iterations = &self.iterations[usize::from(owner == Owner::Delta)];
        &iterations[..iterations.len().min(ITERATIONS_MAX)]
    }

    fn iterations_mut(&mut self, owner: Owner) -> &mut Vec<Iteration> {
        &mut self.iterations[usize::from(owner == Owner::Delta)]
    }

    /// Forgets everything, for the next record.
    pub(crate) fn clear(&mut self) {
        self.texts.iter_mut().for_each(|text| text.put(Scalar::Absent));
        self.table.clear();
        for owner in [Owner::Turn, Owner::Message, Owner::Delta, Owner::Start, Owner::Agent] {
            self.forget(Node::Usage(owner));
        }
        self.forget(Node::Models(Span::Process));
        self.forget(Node::Models(Span::SinceLast));
        (self.aborted, self.asks_for_tool) = (false, false);
        (self.total_cost, self.turns, self.api_time, self.spawn_depth) = (None, None, None, None);
    }

    /// Takes in a key, and returns what its value is wanted for. What the same key said before is
    /// forgotten with all that was in it: of duplicate keys the last one counts.
    pub(crate) fn key(&mut self, node: Node, key: &[u8]) -> Step {
        let step = node.step(key);
        match step {
            Step::Object(Node::Model(span)) => {
                let name = lossy(key);
                self.models[span as usize].entries.retain(|model| model.name != name);
            }
            Step::Object(node) | Step::Array(node) => self.forget(node),
            // The value replaces it, of whatever type it is.
            Step::Keep(_) | Step::Skip => {}
        }
        step
    }

    /// A wanted object or array has begun; where it is one of a model, that has this name.
    pub(crate) fn open(&mut self, node: Node, model: &str) {
        match node {
            Node::Usage(owner) => self.usages[owner as usize].present = true,
            Node::Models(span) => self.models[span as usize].present = true,
            Node::Model(span) => self.open_model(span, model),
            Node::Block => self.forget(Node::Block),
            Node::Iteration(owner) => {
                let usage = UsageFields { present: true, ..UsageFields::default() };
                let iterations = self.iterations_mut(owner);
                // One over the limit takes what all further ones say.
                iterations.truncate(ITERATIONS_MAX);
                iterations.push(Iteration { usage, ..Iteration::default() });
            }
            _ => {}
        }
    }

    /// A wanted object or array has ended.
    pub(crate) fn close(&mut self, node: Node) {
        match self.text(TextField::BlockKind).filter(|_| node == Node::Block) {
            Some("tool_result") => self.texts.swap(TextField::BlockTool as usize, TextField::ToolUseId as usize),
            Some("tool_use") => self.asks_for_tool = true,
            _ => {}
        }
    }

    /// Takes in a wanted scalar; one of the wrong type leaves the field absent.
    pub(crate) fn put(&mut self, field: Field, scalar: Scalar<'_>) {
        let number = match scalar {
            Scalar::Number(text) => Some(text),
            _ => None,
        };
        let count = number.map(number::count);
        match field {
            Field::Text(field) => {
                self.texts[field as usize].put(scalar);
                if let (TextField::Kind, Scalar::Text(kind)) = (field, scalar) {
                    self.table.set_kind(kind);
                }
            }
            Field::Number(Number::TotalCost) => self.total_cost = number.map(number::micro_dollars),
            Field::Number(Number::Turns) => self.turns = count,
            Field::Number(Number::ApiTime) => self.api_time = count,
            Field::Number(Number::SpawnDepth) => self.spawn_depth = count,
            Field::Aborted => self.aborted = scalar == Scalar::True,
            Field::Count(owner, class) => self.usages[owner as usize].counts[class as usize] = count,
            Field::Write1h(owner) => self.usages[owner as usize].write_1h = count,
            Field::Searches(owner) => self.usages[owner as usize].web_searches = count.unwrap_or_default(),
            Field::UsOnly(owner) => self.usages[owner as usize].us_only = scalar == Scalar::Text("us"),
            Field::Fast(owner) => self.usages[owner as usize].fast = scalar == Scalar::Text("fast"),
            _ => self.put_entry(field, scalar, number, count),
        }
    }

    /// Takes in a scalar of the model or iteration that is being read.
    fn put_entry(&mut self, field: Field, scalar: Scalar<'_>, number: Option<&str>, count: Option<u64>) {
        if let Field::IterationKind(owner) | Field::IterationModel(owner) | Field::IterationCount(owner, _) = field
            && let Some(iteration) = self.iterations_mut(owner).last_mut()
        {
            match field {
                Field::IterationKind(_) => iteration.kind.put(scalar),
                Field::IterationModel(_) => iteration.model.put(scalar),
                Field::IterationCount(_, class) => iteration.usage.counts[class as usize] = count,
                _ => {}
            }
        }
        let span = match field {
            Field::ModelCount(span, _) | Field::ModelWrite1h(span) | Field::ModelSearches(span) => span,
            Field::ModelCost(span) | Field::ModelCostBasis(span) => span,
            _ => return,
        };
        let Some(model) = self.models[span as usize].entries.last_mut() else { return };
        match field {
            Field::ModelCount(_, class) => model.usage.counts[class as usize] = count,
            Field::ModelWrite1h(_) => model.usage.write_1h = count,
            Field::ModelSearches(_) => model.usage.web_searches = count.unwrap_or_default(),
            Field::ModelCost(_) => model.cost = number.map(number::micro_dollars),
            _ => model.cost_unknown = scalar == Scalar::Text("unknown"),
        }
    }

    /// Adds a model's entry; gives up the whole list where it names more than [`MODELS_MAX`].
    fn open_model(&mut self, span: Span, name: &str) {
        let list = &mut self.models[span as usize];
        let bytes: usize = list.entries.iter().map(|model| model.name.len()).sum();
        if list.entries.len() == MODELS_MAX || bytes + name.len() > WANTED_MAX {
            list.present = false;
            list.entries.clear();
        }
        let usage = UsageFields { present: true, ..UsageFields::default() };
        list.entries.push(ModelUsage { name: name.to_owned(), usage, ..ModelUsage::default() });
    }

    fn forget(&mut self, node: Node) {
        let texts: &[TextField] = match node {
            Node::Message(Owner::Start) => &[TextField::StartId, TextField::StartModel],
            Node::Message(_) => &[TextField::MessageId, TextField::MessageModel, TextField::ToolUseId],
            Node::Content => &[TextField::ToolUseId],
            Node::Block => &[TextField::BlockKind, TextField::BlockTool],
            Node::Event => &[TextField::EventKind, TextField::StartId, TextField::StartModel],
            Node::ToolResult => &[TextField::Agent, TextField::AgentModel],
            _ => &[],
        };
        texts.iter().for_each(|field| self.texts[*field as usize].put(Scalar::Absent));
        match node {
            Node::Message(owner) => {
                self.asks_for_tool &= owner == Owner::Start;
                self.forget(Node::Usage(owner));
            }
            Node::Content => self.asks_for_tool = false,
            Node::Event => {
                self.forget(Node::Usage(Owner::Start));
                self.forget(Node::Usage(Owner::Delta));
            }
            Node::ToolResult => self.forget(Node::Usage(Owner::Agent)),
            Node::Usage(owner) => {
                self.usages[owner as usize] = UsageFields::default();
                if matches!(owner, Owner::Message | Owner::Delta) {
                    self.iterations_mut(owner).clear();
                }
            }
            Node::CacheCreation(owner) => self.usages[owner as usize].write_1h = None,
            Node::ServerTools(owner) => self.usages[owner as usize].web_searches = 0,
            Node::Iterations(owner) => self.iterations_mut(owner).clear(),
            Node::Models(span) => {
                let list = &mut self.models[span as usize];
                list.entries.clear();
                list.present = false;
            }
            _ => {}
        }
    }
}
