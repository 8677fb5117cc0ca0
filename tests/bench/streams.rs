//! Writes a stream for benchmarks: `streams MIX BYTES >FILE`. The same arguments give the same bytes.
//!
//! `deltas` is the output with `--include-partial-messages`, lines of about 300 bytes. `typical` has
//! assistant records, tool results of 10 to 200 KB, and a few images of 3 to 6 MB. `huge` is mostly such
//! images. All of them contain text that only looks like usage. `transcript` is what Claude Code keeps of a
//! session. The hostile ones are in `hostile`.

mod hostile;

use std::io::{self, BufWriter, Write};

fn main() -> io::Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let (mix, bytes) = match &words[..] {
        [mix, bytes] => (mix.as_str(), bytes.parse().map_err(|_| invalid_input("BYTES is a number"))?),
        _ => return Err(invalid_input("usage: streams MIX BYTES")),
    };
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    if hostile::NAMES.contains(&mix) {
        hostile::write(mix, bytes, &mut out)?;
        return out.flush();
    }
    let mut stream = Stream { random: Random(0x9E37_79B9_7F4A_7C15), messages: 0, written: 0 };
    let mut line = String::new();
    while stream.written < bytes {
        line.clear();
        match mix {
            "deltas" => stream.message_in_deltas(&mut line),
            "typical" => stream.turn(&mut line, 60),
            "huge" => stream.turn(&mut line, 2),
            "transcript" => stream.kept_turn(&mut line),
            _ => return Err(invalid_input("there is no such MIX")),
        }
        stream.written += line.len();
        out.write_all(line.as_bytes())?;
    }
    out.flush()
}

fn invalid_input(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Pseudo-random numbers, the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number of the range `from..to`.
    fn between(&mut self, from: usize, to: usize) -> usize {
        from + usize::try_from(self.next() % (to - from) as u64).unwrap_or_default()
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.between(0, choices.len())]
    }
}

struct Stream {
    random: Random,
    messages: u64,
    written: usize,
}

/// The text of tool results, as JSON string content.
const SOURCE: [&str; 12] = [
    "    let total = self.used.checked_add(more).ok_or(Overflow)?;\\n",
    "  \\\"scripts\\\": { \\\"test\\\": \\\"node --test\\\", \\\"lint\\\": \\\"eslint src\\\" },\\n",
    "\\t// The message is sent once; its usage is counted when the reply comes.\\n",
    "   142\\u2192    if (error instanceof TimeoutError) {\\n",
    "src/cart/checkout.ts:88:  const price = items.reduce((sum, item) => sum + item.price * item.count, 0)\\n",
    "\\u001b[32m PASS \\u001b[0m tests/cart.test.ts (1.204 s)\\n",
    "-rw-r--r-- 1 dev dev   4821 Jun  3 10:12 README.md\\n",
    "{\\\"type\\\":\\\"assistant\\\",\\\"message\\\":{\\\"usage\\\":{\\\"input_tokens\\\":900000}}}\\n",
    "\\n",
    "The parser reads one line at a time, and gives it to the next stage as soon as it is whole.\\n",
    "    def render(self, width: int = 80) -> str:\\n        \\\"\\\"\\\"Draws the table.\\\"\\\"\\\"\\n",
    "C:\\\\Users\\\\dev\\\\shop\\\\src\\\\usage\\\\message.ts\\n",
];

/// The text of assistant messages, as JSON string content.
const WORDS: [&str; 10] = [
    " the total of all messages",
    " its usage",
    "\\n\\n## What is left\\n",
    " \\\"usage\\\":{\\\"input_tokens\\\":9}",
    " `cart.ts`",
    " so that nothing is counted twice",
    ", and",
    " \\u2192 src",
    " once the parser has read the whole line it goes on to the next stage",
    " because the cart keeps its prices in cents",
];

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const TAIL: &str = r#""session_id":"88bdc8cd-a86f-476b-b396-c5a7db9ec620","parent_tool_use_id":null,"uuid":""#;

impl Stream {
    fn end_of_line(&mut self, line: &mut String) {
        let (high, low) = (self.random.next(), self.random.next());
        line.push_str(TAIL);
        line.push_str(&format!("{:08x}-{:04x}-{:016x}\"}}\n", high >> 32, high & 0xffff, low));
    }

    fn text(&mut self, line: &mut String, pieces: &[&str], length: usize) {
        let end = line.len() + length;
        while line.len() < end {
            line.push_str(self.random.one_of(pieces));
        }
    }

    fn image(&mut self, line: &mut String, length: usize) {
        let end = line.len() + length;
        while line.len() < end {
            let mut bits = self.random.next();
            for _ in 0..10 {
                line.push(char::from(BASE64[usize::try_from(bits & 63).unwrap_or_default()]));
                bits >>= 6;
            }
        }
    }

    fn usage(&mut self, output: usize) -> String {
        format!(
            r#""usage":{{"input_tokens":{},"cache_creation_input_tokens":{},"cache_read_input_tokens":{},"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard"}}"#,
            self.random.between(1, 20),
            self.random.between(0, 900),
            self.random.between(9_000, 90_000),
        )
    }

    /// An assistant record with one content block.
    fn assistant(&mut self, line: &mut String, block: &str, pieces: &[&str], length: usize) {
        line.push_str(&format!(
            r#"{{"type":"assistant","message":{{"model":"claude-sonnet-5","id":"msg_{:020}","type":"message","role":"assistant","content":[{{{block}"#,
            self.messages
        ));
        self.text(line, pieces, length);
        let usage = self.usage(3);
        line.push_str(&format!(r#""}}],"stop_reason":null,"stop_sequence":null,{usage}}},"#));
        self.end_of_line(line);
    }

    /// A message as deltas, followed by its assistant record.
    fn message_in_deltas(&mut self, line: &mut String) {
        self.messages += 1;
        let usage = self.usage(1);
        line.push_str(&format!(
            r#"{{"type":"stream_event","event":{{"type":"message_start","message":{{"model":"claude-sonnet-5","id":"msg_{:020}","type":"message","role":"assistant","content":[],"stop_reason":null,{usage}}}}},"#,
            self.messages
        ));
        self.end_of_line(line);
        let deltas = self.random.between(50, 400);
        for _ in 0..deltas {
            line.push_str(
                r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#,
            );
            for _ in 0..self.random.between(1, 4) {
                line.push_str(self.random.one_of(&WORDS));
            }
            line.push_str(r#""}},"#);
            self.end_of_line(line);
        }
        let usage = self.usage(deltas * 9);
        line.push_str(&format!(
            r#"{{"type":"stream_event","event":{{"type":"message_delta","delta":{{"stop_reason":"tool_use"}},{usage}}},"#
        ));
        self.end_of_line(line);
        self.assistant(line, r#""type":"text","text":""#, &WORDS, deltas * 45);
    }

    /// A message of a transcript, and the result of its tool call.
    fn kept_turn(&mut self, line: &mut String) {
        const HEAD: &str = r#"{"parentUuid":null,"isSidechain":false,"userType":"external","cwd":"/src","version":"2.1.331","sessionId":"88bdc8cd-a86f-476b-b396-c5a7db9ec620""#;
        const TAIL: &str = "\"timestamp\":\"2026-11-20T10:00:00.000Z\"}\n";
        self.messages += 1;
        let number = self.messages;
        line.push_str(&format!(
            r#"{HEAD},"type":"assistant","requestId":"req_{number:020}","message":{{"model":"claude-sonnet-5","id":"msg_{number:020}","type":"message","role":"assistant","content":[{{"type":"text","text":""#,
        ));
        let length = self.random.between(100, 2_000);
        self.text(line, &WORDS, length);
        let usage = self.usage(length / 4);
        line.push_str(&format!(r#""}}],"stop_reason":"tool_use",{usage}}},{TAIL}"#));
        line.push_str(&format!(
            r#"{HEAD},"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"toolu_01","type":"tool_result","content":""#
        ));
        let length = self.random.between(500, 10_000);
        self.text(line, &SOURCE, length);
        line.push_str(&format!(r#""}}]}},{TAIL}"#));
    }

    /// A message, a tool call and its result; one of `images` results is an image.
    fn turn(&mut self, line: &mut String, images: usize) {
        self.messages += 1;
        let words = self.random.between(100, 2_000);
        self.assistant(line, r#""type":"text","text":""#, &WORDS, words);
        self.assistant(line, r#""type":"tool_use","id":"toolu_01","name":"Bash","input":{},"note":""#, &SOURCE, 200);
        line.push_str(r#"{"type":"user","message":{"role":"user","content":[{"tool_use_id":"toolu_01","type":"tool_result","content":"#);
        if self.random.between(0, images) == 0 {
            let length = self.random.between(3_000_000, 6_000_000);
            line.push_str(r#"[{"type":"image","source":{"type":"base64","media_type":"image/png","data":""#);
            self.image(line, length);
            line.push_str(r#""}}]}]},"#);
        } else {
            let length = self.random.between(10_000, 200_000);
            line.push('"');
            self.text(line, &SOURCE, length);
            line.push_str(r#""}]},"#);
        }
        self.end_of_line(line);
    }
}
