//! The scanner: finds the wanted values of each line, by path, while the bytes pass.
//!
//! It takes whatever a read gave and keeps its place between reads, so that no line has to be in
//! memory. `paths` says which values are wanted; what is not wanted need not even be valid JSON.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};
use serde::de::{IgnoredAny, Visitor};

use crate::stream::paths::{Field, Node, Scalar, Step};
use crate::stream::record::{Record, WANTED_MAX};

/// A byte order mark, which may stand before a line's value.
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// An incremental scanner of lines; see [`Scanner::next_line`].
// Why not serde_json: its `Value` fails at depth 128, on lone surrogates and on bad UTF-8, and a typed
// struct loses the whole line on one odd number or one duplicate key. Here a line of any length and any
// nesting costs the same few kilobytes, and an odd value costs itself.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The wanted objects and arrays that are open, outermost first; never more than the longest path.
    path: Vec<Node>,
    /// The key or wanted scalar being read.
    text: Vec<u8>,
    /// That text contains an escape.
    escaped: bool,
    /// The last byte was a backslash inside a string.
    escape: bool,
    /// The line has begun.
    begun: bool,
    /// The line that ended last was an object, and the object was closed.
    counts: bool,
    record: Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the outermost value; so many bytes of a byte order mark have passed.
    Before(usize),
    /// In a wanted object before a key; `true` where the object may end instead.
    Key(bool),
    KeyText,
    Colon(Step),
    Value(Step),
    /// In a wanted array, right after its `[`.
    FirstElement,
    AfterValue,
    /// In a string or another scalar that is a value, wanted or not.
    Text(Option<Field>),
    Scalar(Option<Field>),
    /// In an object or array that is not wanted, at this depth; and in a string inside one.
    Nested(u64),
    NestedText(u64),
    /// The outermost object has ended.
    Closed,
    /// The line is no record.
    Broken,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            state: State::Before(0),
            path: Vec::with_capacity(8),
            text: Vec::new(),
            escaped: false,
            escape: false,
            begun: false,
            counts: false,
            record: Record::default(),
        }
    }
}

impl Scanner {
    /// Scans through the next newline and takes those bytes off `bytes`. Returns `None` where the
    /// bytes end first: the next call goes on where this one stopped.
    pub fn next_line(&mut self, bytes: &mut &[u8]) -> Option<Scanned<'_>> {
        // Not at the end of the line before: its record is still being read then.
        if self.state == State::Before(0) && !self.begun {
            self.record.clear();
        }
        let all = *bytes;
        self.begun |= !all.is_empty();
        let mut at = 0;
        while let Some(&byte) = all.get(at) {
            if byte == b'\n' {
                *bytes = &all[at + 1..];
                return Some(self.end_line());
            }
            at += self.scan(byte, &all[at..]);
        }
        *bytes = &[];
        None
    }

    /// The last line, where the stream ended without a newline after it.
    pub fn last_line(&mut self) -> Option<Scanned<'_>> {
        self.begun.then(|| self.end_line())
    }

    /// Whether the last line has ended and nothing of the next has come.
    pub fn is_at_line_start(&self) -> bool {
        !self.begun
    }

    /// The line that ended last, as long as nothing of the next has come.
    pub(crate) fn ended_line(&self) -> Scanned<'_> {
        Scanned { record: self.counts.then_some(&self.record) }
    }

    fn end_line(&mut self) -> Scanned<'_> {
        self.counts = self.state == State::Closed;
        self.state = State::Before(0);
        self.path.clear();
        self.text.clear();
        self.escaped = false;
        self.escape = false;
        self.begun = false;
        self.ended_line()
    }

    /// Goes on from `byte`, the first of `bytes` and not a newline. Returns how many bytes it took.
    fn scan(&mut self, byte: u8, bytes: &[u8]) -> usize {
        match self.state {
            State::KeyText => self.text(bytes, true),
            State::Text(field) => self.text(bytes, field.is_some()),
            State::NestedText(_) => self.text(bytes, false),
            State::Scalar(field) => self.scalar(bytes, field),
            State::Nested(depth) => self.nested(bytes, depth),
            State::Closed | State::Broken => memchr(b'\n', bytes).unwrap_or(bytes.len()),
            _ => {
                self.state = self.structure(byte);
                // A scalar's first byte is part of it.
                usize::from(!matches!(self.state, State::Scalar(_)))
            }
        }
    }

    /// One byte between keys and values.
    fn structure(&mut self, byte: u8) -> State {
        let blank = matches!(byte, b' ' | b'\t' | b'\r');
        match (self.state, byte) {
            (State::Before(n), _) if BOM.get(n) == Some(&byte) => State::Before(n + 1),
            (State::Before(1 | 2), _) => State::Broken,
            (state, _) if blank => state,
            (State::Before(_), b'{') => self.open(Node::Root, State::Key(true)),
            (State::Key(_), b'"') => {
                self.text.clear();
                self.escaped = false;
                State::KeyText
            }
            (State::Key(true) | State::AfterValue, b'}') => self.close(false),
            (State::FirstElement | State::AfterValue, b']') => self.close(true),
            (State::Colon(step), b':') => State::Value(step),
            (State::AfterValue, b',') => match self.path.last() {
                Some(&node) if node.is_array() => State::Value(node.element()),
                _ => State::Key(false),
            },
            (State::FirstElement, _) => {
                self.state = State::Value(self.path.last().map_or(Step::Skip, |node| node.element()));
                self.structure(byte)
            }
            (State::Value(step), _) => self.value(step, byte),
            _ => State::Broken,
        }
    }

    /// The first byte of a value.
    fn value(&mut self, step: Step, byte: u8) -> State {
        let field = match step {
            Step::Keep(field) => Some(field),
            _ => None,
        };
        match (byte, step) {
            (b'{', Step::Object(node)) => self.open(node, State::Key(true)),
            (b'[', Step::Array(node)) => self.open(node, State::FirstElement),
            (b'{' | b'[', _) => State::Nested(1),
            (b'}' | b']' | b',' | b':', _) => State::Broken,
            (b'"', _) => {
                self.text.clear();
                self.escaped = false;
                State::Text(field)
            }
            _ => {
                self.text.clear();
                State::Scalar(field)
            }
        }
    }

    fn open(&mut self, node: Node, inside: State) -> State {
        // The key was kept as text until its value began.
        self.record.open(node, &lossy(&self.text));
        self.path.push(node);
        inside
    }

    fn close(&mut self, array: bool) -> State {
        match self.path.last() {
            Some(&node) if node.is_array() == array => {
                self.path.pop();
                self.record.close(node);
                if self.path.is_empty() { State::Closed } else { State::AfterValue }
            }
            _ => State::Broken,
        }
    }

    /// Inside a string: goes to its end, to the newline that breaks it, or to the end of the bytes.
    fn text(&mut self, bytes: &[u8], kept: bool) -> usize {
        // From quote to quote: almost all bytes of a stream are in strings, and memchr passes over them in
        // vector steps. A quote counts by the backslashes before it; the newline ends the line
        // whatever was open, so that a broken one costs itself alone.
        let start = usize::from(std::mem::take(&mut self.escape));
        let mut from = start;
        let end = loop {
            match memchr2(b'"', b'\n', &bytes[from..]).map(|next| from + next) {
                Some(quote) if bytes[quote] == b'"' && ends_in_escape(&bytes[start..quote]) => from = quote + 1,
                end => break end,
            }
        };
        let text = &bytes[..end.unwrap_or(bytes.len())];
        if kept {
            self.escaped |= memchr(b'\\', text).is_some();
            self.keep(text);
        }
        match end {
            Some(quote) if bytes[quote] == b'"' => {
                self.state = self.end_text();
                quote + 1
            }
            Some(newline) => newline,
            None => {
                self.escape = ends_in_escape(&bytes[start..]);
                bytes.len()
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        // One byte over the limit is kept, to know that there were more.
        if self.text.len() <= WANTED_MAX {
            let room = WANTED_MAX + 1 - self.text.len();
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn end_text(&mut self) -> State {
        match self.state {
            State::NestedText(depth) => State::Nested(depth),
            State::KeyText => {
                let node = self.path.last().copied().unwrap_or(Node::Root);
                let Some(key) = decode(&self.text, self.escaped) else {
                    return State::Colon(Step::Skip);
                };
                let step = self.record.key(node, &key);
                // `open` takes the name of a model from the text.
                if let Cow::Owned(key) = key {
                    self.text = key.into_bytes();
                }
                State::Colon(step)
            }
            State::Text(Some(field)) => {
                if let Some(text) = decode(&self.text, self.escaped) {
                    self.record.put(field, Scalar::Text(&text));
                }
                State::AfterValue
            }
            _ => State::AfterValue,
        }
    }

    /// Inside a number, `true`, `false`, `null`, or anything else that is not quoted.
    fn scalar(&mut self, bytes: &[u8], field: Option<Field>) -> usize {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let end = bytes.iter().position(ends);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if let Some(field) = field {
            self.keep(part);
            if end.is_some() {
                self.record.put(field, read_scalar(&self.text));
            }
        }
        if end.is_some() {
            self.state = State::AfterValue;
        }
        part.len()
    }

    /// Inside an object or array that is not wanted.
    fn nested(&mut self, bytes: &[u8], mut depth: u64) -> usize {
        // A counter and no stack: 100,000 levels cost nothing. Brackets and braces are not told apart, since
        // what is skipped need not be valid.
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.state = State::NestedText(depth);
                    return at + 1;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 1 => {
                    self.state = State::AfterValue;
                    return at + 1;
                }
                b'}' | b']' => depth -= 1,
                b'\n' => {
                    self.state = State::Nested(depth);
                    return at;
                }
                _ => {}
            }
        }
        self.state = State::Nested(depth);
        bytes.len()
    }
}

/// A line that has ended.
#[derive(Debug)]
pub struct Scanned<'a> {
    /// Its record, where its outermost value was an object that was closed.
    pub record: Option<&'a Record>,
}

/// Whether a backslash at the end of a text escapes what follows, and is not escaped itself.
fn ends_in_escape(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The characters of a JSON string between its quotes; `None` where it is too long to be wanted.
fn decode(raw: &[u8], escaped: bool) -> Option<Cow<'_, str>> {
    // Bytes that are not UTF-8 and lone surrogates are replaced and not refused: an id with one must still
    // be equal to itself.
    if raw.len() > WANTED_MAX {
        return None;
    }
    if !escaped {
        return Some(lossy(raw));
    }
    let quoted = [b"\"", raw, b"\""].concat();
    let mut json = serde_json::Deserializer::from_slice(&quoted);
    let bytes = serde::Deserializer::deserialize_bytes(&mut json, Bytes).unwrap_or_else(|_| raw.to_vec());
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// [`String::from_utf8_lossy`], which is slow where there is nothing to replace.
fn lossy(text: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed)
}

/// Takes a JSON string as bytes, in which `serde_json` allows lone surrogates and bad UTF-8.
struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

/// A number, `true`, or a scalar that no field takes.
fn read_scalar(text: &[u8]) -> Scalar<'_> {
    match text {
        b"true" => Scalar::True,
        b"null" | b"false" => Scalar::Absent,
        _ => number(text).map_or(Scalar::Absent, Scalar::Number),
    }
}

/// The text of a JSON number of any size: 1e400 is one.
fn number(text: &[u8]) -> Option<&str> {
    if text.len() > WANTED_MAX {
        return None;
    }
    serde_json::from_slice::<IgnoredAny>(text).ok()?;
    std::str::from_utf8(text).ok()
}
