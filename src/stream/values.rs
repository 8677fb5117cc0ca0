//! The wanted values of one object, found by path while its bytes pass.
//!
//! It takes whatever a read gave and keeps its place between reads, so that no object has to be in
//! memory. `paths` says which values are wanted; what is not wanted need not even be valid JSON. Where
//! an object begins, and what a newline in it means, is the scanner's business.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};
use serde::de::{IgnoredAny, Visitor};

use crate::stream::paths::{Field, Node, Scalar, Step};
use crate::stream::record::{Record, WANTED_MAX};

/// Reads one value at a time: an object whose wanted values become a record, or a value to skip.
// Why not serde_json: its `Value` fails at depth 128, on lone surrogates and on bad UTF-8, and a typed
// struct loses the whole line on one odd number or one duplicate key. Here an object of any length and any
// nesting costs the same few kilobytes, and an odd value costs itself.
#[derive(Debug)]
pub(crate) struct Values {
    state: State,
    /// The wanted objects and arrays that are open, outermost first; never more than the longest path.
    path: Vec<Node>,
    /// The key or wanted scalar being read.
    text: Vec<u8>,
    /// That text contains an escape.
    escaped: bool,
    /// The last byte was a backslash inside a string.
    escape: bool,
    record: Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
    /// The whole value has ended.
    Closed,
    /// It is not valid where it matters.
    Broken,
}

/// How far the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// To a newline, or to the end of the bytes.
    Open,
    /// To the end of the value.
    Closed,
    /// To a byte that breaks it, which is not taken.
    Broken,
}

impl Default for Values {
    fn default() -> Self {
        Values {
            state: State::Closed,
            path: Vec::with_capacity(8),
            text: Vec::new(),
            escaped: false,
            escape: false,
            record: Record::default(),
        }
    }
}

impl Values {
    /// What the last object said.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Begins a record, right after its `{`.
    pub(crate) fn begin(&mut self) {
        self.record.clear();
        self.path.clear();
        self.text.clear();
        self.escape = false;
        self.state = self.open(Node::Root, State::Key(true));
    }

    /// Begins a string that is skipped, right after its quote.
    pub(crate) fn skip_text(&mut self) {
        self.path.clear();
        self.escape = false;
        self.state = State::Text(None);
    }

    /// Begins an array or an object that is skipped, right after its bracket.
    pub(crate) fn skip_nested(&mut self) {
        self.path.clear();
        self.state = State::Nested(1);
    }

    /// Skips what is left of a value that is broken. A string in it ends here: it holds no newline, and
    /// one that never ends would swallow everything. Returns whether anything is left.
    pub(crate) fn give_up(&mut self) -> bool {
        let unwanted = match self.state {
            State::Nested(depth) | State::NestedText(depth) => depth,
            _ => 0,
        };
        let depth = unwanted.saturating_add(self.path.len() as u64);
        self.path.clear();
        self.escape = false;
        self.state = if depth == 0 { State::Closed } else { State::Nested(depth) };
        depth > 0
    }

    /// A line ends inside the value. Returns whether that breaks it: it does in a string.
    pub(crate) fn end_line(&mut self) -> bool {
        if let State::Scalar(field) = self.state {
            self.scalar(b"\n", field);
        }
        matches!(self.state, State::KeyText | State::Text(_) | State::NestedText(_))
    }

    /// Goes on. Returns how many of the bytes it took, and how far that went.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> (usize, Progress) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte == b'\n' {
                break;
            }
            let rest = &bytes[at..];
            at += match self.state {
                State::KeyText => self.text(rest, true),
                State::Text(field) => self.text(rest, field.is_some()),
                State::NestedText(_) => self.text(rest, false),
                State::Scalar(field) => self.scalar(rest, field),
                State::Nested(depth) => self.nested(rest, depth),
                before => match self.structure(byte) {
                    State::Broken => {
                        self.state = before;
                        return (at, Progress::Broken);
                    }
                    state => {
                        self.state = state;
                        // A scalar's first byte is part of it.
                        usize::from(!matches!(state, State::Scalar(_)))
                    }
                },
            };
            if self.state == State::Closed {
                return (at, Progress::Closed);
            }
        }
        (at, Progress::Open)
    }

    /// One byte between keys and values.
    fn structure(&mut self, byte: u8) -> State {
        let blank = matches!(byte, b' ' | b'\t' | b'\r');
        match (self.state, byte) {
            (state, _) if blank => state,
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
                self.after_value()
            }
            _ => State::Broken,
        }
    }

    fn after_value(&self) -> State {
        if self.path.is_empty() { State::Closed } else { State::AfterValue }
    }

    /// Inside a string: goes to its end, to the newline that breaks it, or to the end of the bytes.
    fn text(&mut self, bytes: &[u8], kept: bool) -> usize {
        // From quote to quote: almost all bytes of a stream are in strings, and memchr passes over them in
        // vector steps. A quote counts by the backslashes before it; the newline breaks the value
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
            _ => self.after_value(),
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
                    self.state = self.after_value();
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
