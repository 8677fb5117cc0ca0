//! A message of the Messages API as the mock sends it: as server-sent events, or as one JSON object where the
//! client did not ask for a stream. The events carry usage as the real API does: the prompt's figures and a
//! placeholder for the output in `message_start`, all figures in `message_delta`.

use std::io::Result;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::http::{Events, send_json};
use super::script::{Block, End, Reply, Tokens};

/// `output_tokens` of `message_start`, a placeholder.
pub const FIRST_OUTPUT: u64 = 2;

/// A reply to one request.
pub struct Message<'a> {
    pub id: String,
    pub model: String,
    pub reply: &'a Reply,
    pub tokens: Tokens,
}

impl Message<'_> {
    /// Sends it as one object.
    pub fn send_whole(&self, stream: &TcpStream) -> Result<()> {
        let mut message = self.head(self.tokens.output);
        message["content"] = (0..self.reply.blocks.len()).map(|index| self.block(index)).collect();
        message["stop_reason"] = self.stop_reason().into();
        send_json(stream, 200, &message)
    }

    /// Sends it as events, whole or up to the middle of its last block.
    pub fn send_blocks(&self, events: &mut Events) -> Result<()> {
        events.send(&json!({"type": "message_start", "message": self.head(FIRST_OUTPUT)}))?;
        for (index, block) in self.reply.blocks.iter().enumerate() {
            let is_last = index + 1 == self.reply.blocks.len();
            let empty = match block {
                Block::Text(_) => json!({"type": "text", "text": ""}),
                Block::Tool(name, _) => {
                    json!({"type": "tool_use", "id": self.tool_id(index), "name": name, "input": {}})
                }
            };
            events.send(&json!({"type": "content_block_start", "index": index, "content_block": empty}))?;
            let content = content(block);
            let (first, second) = content.split_at(content.len() / 2);
            events.send(&delta(index, block, first))?;
            if is_last && self.reply.end != End::Whole {
                return Ok(());
            }
            events.send(&delta(index, block, second))?;
            events.send(&json!({"type": "content_block_stop", "index": index}))?;
        }
        let mut usage = self.usage(self.tokens.output);
        usage.as_object_mut().expect("an object").remove("cache_creation");
        let delta = json!({"stop_reason": self.stop_reason(), "stop_sequence": null});
        events.send(&json!({"type": "message_delta", "delta": delta, "usage": usage}))?;
        events.send(&json!({"type": "message_stop"}))
    }

    /// The size of the content: an upper bound of the tokens that the client can estimate from what it received.
    pub fn content_bytes(&self) -> usize {
        self.reply.blocks.iter().map(|block| content(block).len()).sum()
    }

    fn head(&self, output: u64) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": self.usage(output),
        })
    }

    fn usage(&self, output: u64) -> Value {
        let Tokens { input, write_5m, write_1h, read, .. } = self.tokens;
        json!({
            "input_tokens": input,
            "cache_creation_input_tokens": write_5m + write_1h,
            "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": write_5m, "ephemeral_1h_input_tokens": write_1h},
            "output_tokens": output,
            "service_tier": "standard",
        })
    }

    fn block(&self, index: usize) -> Value {
        match &self.reply.blocks[index] {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Tool(name, input) => {
                json!({"type": "tool_use", "id": self.tool_id(index), "name": name, "input": input})
            }
        }
    }

    fn tool_id(&self, index: usize) -> String {
        format!("toolu_{}_{index}", self.id)
    }

    fn stop_reason(&self) -> &'static str {
        let has_tools = self.reply.blocks.iter().any(|block| matches!(block, Block::Tool(..)));
        if has_tools { "tool_use" } else { "end_turn" }
    }
}

fn content(block: &Block) -> String {
    match block {
        Block::Text(text) => (*text).to_owned(),
        Block::Tool(_, input) => input.to_string(),
    }
}

fn delta(index: usize, block: &Block, part: &str) -> Value {
    let delta = match block {
        Block::Text(_) => json!({"type": "text_delta", "text": part}),
        Block::Tool(..) => json!({"type": "input_json_delta", "partial_json": part}),
    };
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}
