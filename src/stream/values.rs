//! The wanted values of one object, found by path while its bytes pass.
//!
//! It takes whatever a read gave and keeps its place between reads, so that no object has to be in
//! memory. `paths` says which values are wanted; what is not wanted need not even be valid JSON. Where
//! an object begins, and what a newline in it means, is the scanner's business.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::stream::paths::{Node, Scalar, Step};
use crate::stream::record::{Record, WANTED_MAX};
use crate::stream::scalar::{decode, lossy, read_scalar};
use crate::stream::trail::{PathSet, Trail};

/// Reads one value at a time: an object whose wanted values become a record, or a value to skip.
// Why not serde_json: its `Value` fails at depth 128, on lone surrogates and on bad UTF-8, and a typed
// struct loses the whole line on one odd number or one duplicate key. Here an object of any length and any
// nesting costs the same few kilobytes, and an odd value costs itself.
#[derive(Debug)]
pub(crate) struct Values {
    state: State,
    /// The wanted objects and arrays that are open, outermost first; never more than the longest path.
    path: Vec<Place>,
    /// What the value under way is wanted for.
    wanted: Wanted,
    /// The key or wanted scalar being read.
    text: Vec<u8>,
    /// That text contains an escape.
    escaped: bool,
    /// The last byte was a backslash inside a string.
    escape: bool,
    record: Record,
}

/// A wanted object or array that is open.
#[derive(Clone, Copy, Debug)]
struct Place {
    node: Node,
    trail: Trail,
}

/// What a value is wanted for: by Claude Code's paths, and by those of the table of dialects.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    step: Step,
    here: PathSet,
    below: Trail,
}

impl Wanted {
    fn is_kept(self) -> bool {
        self.here != 0 || matches!(self.step, Step::Keep(_))
    }
}

impl From<Step> for Wanted {
    fn from(step: Step) -> Self {
        Wanted { step, here: 0, below: Trail::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a wanted object before a key; `true` where the object may end instead.
    Key(bool),
    KeyText,
    Colon,
    Value,
    /// In a wanted array, right after its `[`.
    FirstElement,
    AfterValue,
    /// In a string or another scalar that is a value; `true` where it is wanted.
    Text(bool),
    Scalar(bool),
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
            wanted: Step::Skip.into(),
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
        self.state = self.open(Node::Root, Trail::ROOT, State::Key(true));
    }

    /// Begins a string that is skipped, right after its quote.
    pub(crate) fn skip_text(&mut self) {
        self.path.clear();
        self.escape = false;
        self.state = State::Text(false);
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
        if let State::Scalar(kept) = self.state {
            self.scalar(b"\n", kept);
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
                State::Text(kept) => self.text(rest, kept),
                State::NestedText(_) => self.text(rest, false),
                State::Scalar(kept) => self.scalar(rest, kept),
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
            (State::Colon, b':') => State::Value,
            (State::AfterValue, b',') => match self.path.last() {
                Some(Place { node, .. }) if node.is_array() => {
                    self.wanted = node.element().into();
                    State::Value
                }
                _ => State::Key(false),
            },
            (State::FirstElement, _) => {
                self.wanted = self.path.last().map_or(Step::Skip, |place| place.node.element()).into();
                self.state = State::Value;
                self.structure(byte)
            }
            (State::Value, _) => self.value(byte),
            _ => State::Broken,
        }
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8) -> State {
        let Wanted { step, below, .. } = self.wanted;
        match (byte, step) {
            (b'{', Step::Object(node)) => self.open(node, below, State::Key(true)),
            (b'{', _) if !below.is_empty() => self.open(Node::Table, below, State::Key(true)),
            (b'[', Step::Array(node)) => self.open(node, Trail::default(), State::FirstElement),
            (b'{' | b'[', _) => State::Nested(1),
            (b'}' | b']' | b',' | b':', _) => State::Broken,
            (b'"', _) => {
                self.text.clear();
                self.escaped = false;
                State::Text(self.wanted.is_kept())
            }
            _ => {
                self.text.clear();
                State::Scalar(self.wanted.is_kept())
            }
        }
    }

    fn open(&mut self, node: Node, trail: Trail, inside: State) -> State {
        // The key was kept as text until its value began.
        let key = lossy(&self.text);
        self.record.open(node, &key);
        if trail.is_model {
            self.record.table.open_model(&key, trail);
        }
        self.path.push(Place { node, trail });
        inside
    }

    fn close(&mut self, array: bool) -> State {
        match self.path.last() {
            Some(&Place { node, trail }) if node.is_array() == array => {
                self.path.pop();
                self.record.close(node);
                if trail.is_model {
                    self.record.table.close_model(trail);
                }
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
                let Some(Place { node, trail }) = self.path.last().copied() else { return State::Broken };
                self.wanted = Step::Skip.into();
                let Some(key) = decode(&self.text, self.escaped) else { return State::Colon };
                let step = self.record.key(node, &key);
                let (here, below) = trail.step(&key, self.record.table.active());
                if here != 0 || !below.is_empty() {
                    self.record.table.forget(here, below);
                }
                self.wanted = Wanted { step, here, below };
                // `open` takes the name of a model from the text.
                if let Cow::Owned(key) = key {
                    self.text = key.into_bytes();
                }
                State::Colon
            }
            State::Text(true) => {
                if let Some(text) = decode(&self.text, self.escaped) {
                    put(&mut self.record, self.wanted, Scalar::Text(&text));
                }
                State::AfterValue
            }
            _ => self.after_value(),
        }
    }

    /// Inside a number, `true`, `false`, `null`, or anything else that is not quoted.
    fn scalar(&mut self, bytes: &[u8], kept: bool) -> usize {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let end = bytes.iter().position(ends);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if kept {
            self.keep(part);
            if end.is_some() {
                put(&mut self.record, self.wanted, read_scalar(&self.text));
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

/// Takes a scalar into the record.
fn put(record: &mut Record, wanted: Wanted, scalar: Scalar<'_>) {
    if let Step::Keep(field) = wanted.step {
        record.put(field, scalar);
    }
    if wanted.here != 0 {
        record.table.put(wanted.here, scalar);
    }
}

/// Whether a backslash at the end of a text escapes what follows, and is not escaped itself.
fn ends_in_escape(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
