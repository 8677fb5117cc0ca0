//! What the mock replies. Each speaker (the main loop, a subagent, a hook) has a list of replies, served in
//! order; a prompt names its speaker, see [`as_speaker`]. A reply is an HTTP error or a message: blocks and
//! tokens. It can wait for an event before it begins, and stop in the middle of its last block.

use serde_json::{Value, json};

/// The tokens of one message by class; cache writes by lifetime too, since their prices differ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub write_5m: u64,
    pub write_1h: u64,
    pub read: u64,
}

impl Tokens {
    /// Figures that differ between all requests of a run in every class: a wrong sum shows which one is missing.
    pub fn of_request(number: u64) -> Tokens {
        Tokens {
            input: 10 + 7 * number,
            output: 50 + 13 * number,
            write_5m: 1000 + 11 * number,
            write_1h: 200 + 3 * number,
            read: 4000 + 101 * number,
        }
    }

    /// `total` tokens, 100 of them output.
    pub fn in_all(total: u64) -> Tokens {
        Tokens { input: total - 100, output: 100, ..Tokens::default() }
    }
}

/// A part of a message.
#[derive(Clone)]
pub enum Block {
    Text(&'static str),
    /// A tool's name and input.
    Tool(&'static str, Value),
}

/// How a reply ends.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum End {
    #[default]
    Whole,
    /// In the middle of the last block it falls silent, until the client hangs up.
    Stalls,
    /// In the middle of the last block the connection breaks, as soon as the test signals [`CUT`].
    Cut,
}

/// The signal for [`End::Cut`].
pub const CUT: &str = "cut";

/// What a reply waits for before it begins.
#[derive(Clone, Copy)]
pub enum Event {
    /// This speaker has got this many complete replies.
    Served(&'static str, usize),
    /// The test has called [`super::mock::Mock::signal`] with this name.
    Signal(&'static str),
}

#[derive(Clone, Default)]
pub struct Reply {
    pub blocks: Vec<Block>,
    /// By default [`Tokens::of_request`].
    pub tokens: Option<Tokens>,
    /// An HTTP error instead of a message.
    pub error: Option<u16>,
    pub after: Option<Event>,
    pub end: End,
}

impl Reply {
    /// Whether it is the answer of an agent that a hook asks.
    pub fn is_answer(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block, Block::Tool("StructuredOutput", _)))
    }

    pub fn and(mut self, more: Reply) -> Reply {
        self.blocks.extend(more.blocks);
        self
    }

    pub fn tokens(self, total: u64) -> Reply {
        Reply { tokens: Some(Tokens::in_all(total)), ..self }
    }

    pub fn after(self, event: Event) -> Reply {
        Reply { after: Some(event), ..self }
    }

    pub fn ends(self, end: End) -> Reply {
        Reply { end, ..self }
    }
}

/// A speaker's replies.
pub type Part = (&'static str, Vec<Reply>);

/// A prompt whose conversation gets the replies of `speaker`.
pub fn as_speaker(speaker: &str, prompt: &str) -> String {
    format!("speaker:{speaker} {prompt}")
}

/// The speaker that a prompt names.
pub fn speaker_of(prompt: &str) -> Option<&str> {
    let (_, rest) = prompt.split_once("speaker:")?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
    Some(&rest[..end])
}

pub fn text(text: &'static str) -> Reply {
    Reply { blocks: vec![Block::Text(text)], ..Reply::default() }
}

pub fn tool(name: &'static str, input: Value) -> Reply {
    Reply { blocks: vec![Block::Tool(name, input)], ..Reply::default() }
}

pub fn error(status: u16) -> Reply {
    Reply { error: Some(status), ..Reply::default() }
}

/// Runs a command.
pub fn bash(command: &str) -> Reply {
    tool("Bash", json!({"command": command, "description": "x"}))
}

/// Runs a command and does not wait for it.
pub fn bash_in_background(command: &str) -> Reply {
    tool("Bash", json!({"command": command, "description": "x", "run_in_background": true}))
}

/// Starts a subagent, which is a speaker of its own, and waits for it.
pub fn agent(speaker: &str) -> Reply {
    tool("Agent", agent_input(speaker, false))
}

/// Starts a subagent and does not wait for it.
pub fn agent_in_background(speaker: &str) -> Reply {
    tool("Agent", agent_input(speaker, true))
}

/// Starts a subagent on another model and waits for it.
pub fn agent_on(model: &str, speaker: &str) -> Reply {
    let mut input = agent_input(speaker, false);
    input["model"] = model.into();
    tool("Agent", input)
}

fn agent_input(speaker: &str, background: bool) -> Value {
    json!({
        "description": format!("be {speaker}"),
        "prompt": as_speaker(speaker, "look around"),
        "subagent_type": "general-purpose",
        "run_in_background": background,
    })
}
