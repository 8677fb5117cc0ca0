//! The wanted values of one object, found by path while its bytes pass.
//!
//! It takes whatever a read gave and keeps its place between reads, so that no object has to be in
//! memory. `paths` says which values are wanted; what is not wanted need not even be valid JSON. Where
//! an object begins, and what a newline in it means, is the scanner's business.

use crate::stream::paths::{Node, Scalar, Step};
use crate::stream::record::Record;
use crate::stream::scalar::{
    WANTED_MAX, decode, ends_in_escape, lossy, quote_newline_or_escape, quote_or_newline, read_scalar,
};
use crate::stream::trail::Trail;
use crate::stream::wanted::Wanted;

/// Reads one value at a time: an object whose wanted values become a record, or a value to skip.
// Why not serde_json: its `Value` fails at depth 128, on lone surrogates and on bad UTF-8, and a typed
// struct loses the whole line on one odd number or one duplicate key. Here an object of any length and any
// nesting costs the same few kilobytes, and an odd value costs itself.
#[derive(Debug)]
pub(crate) struct Values {
    state: State,
    /// The wanted objects and arrays that are open, outermost first; never more than the longest path.
    path: Vec<Place>,
    /// How many objects and arrays are open that are not wanted.
    depth: u64,
    /// What the value under way is wanted for.
    wanted: Wanted,
    /// What earlier reads had of the key or wanted scalar under way.
    text: Vec<u8>,
    /// That text contains an escape.
    escaped: bool,
    /// The last key that names a model.
    model: String,
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
    /// In an object or array that is not wanted, and in a string inside one.
    Nested,
    NestedText,
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
            depth: 0,
            wanted: Step::Skip.into(),
            text: Vec::new(),
            escaped: false,
            model: String::new(),
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
        self.state = self.skip();
    }

    /// Skips what is left of a value that is broken. A string in it ends here: it holds no newline, and
    /// one that never ends would swallow everything. Returns whether anything is left.
    pub(crate) fn give_up(&mut self) -> bool {
        let unwanted = if matches!(self.state, State::Nested | State::NestedText) { self.depth } else { 0 };
        self.depth = unwanted.saturating_add(self.path.len() as u64);
        self.path.clear();
        self.escape = false;
        self.state = if self.depth == 0 { State::Closed } else { State::Nested };
        self.depth > 0
    }

    /// A line ends inside the value. Returns whether that breaks it: it does in a string.
    pub(crate) fn end_line(&mut self) -> bool {
        if let State::Scalar(kept) = self.state {
            self.scalar(b"\n", kept);
        }
        matches!(self.state, State::KeyText | State::Text(_) | State::NestedText)
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
                State::KeyText | State::Text(true) => self.text(rest, true),
                State::Text(false) | State::NestedText => self.text(rest, false),
                State::Scalar(kept) => self.scalar(rest, kept),
                State::Nested => self.nested(rest),
                before => {
                    let (state, taken) = self.structure(byte, rest.get(1).copied());
                    if state == State::Broken {
                        self.state = before;
                        return (at, Progress::Broken);
                    }
                    self.state = state;
                    taken
                }
            };
            if self.state == State::Closed {
                return (at, Progress::Closed);
            }
        }
        (at, Progress::Open)
    }

    /// One byte between keys and values, or two where they are `,"`. Returns how many it was.
    fn structure(&mut self, byte: u8, next: Option<u8>) -> (State, usize) {
        let state = match (self.state, byte) {
            (State::AfterValue, b',') => match self.path.last() {
                Some(Place { node, .. }) if node.is_array() => {
                    self.wanted = node.element().into();
                    State::Value
                }
                _ if next == Some(b'"') => return (self.begin_text(State::KeyText), 2),
                _ => State::Key(false),
            },
            (State::Key(_), b'"') => self.begin_text(State::KeyText),
            (State::Colon, b':') => State::Value,
            (State::Key(true) | State::AfterValue, b'}') => self.close(false),
            (State::FirstElement | State::AfterValue, b']') => self.close(true),
            (state, b' ' | b'\t' | b'\r') => state,
            (State::FirstElement, _) => {
                self.wanted = self.path.last().map_or(Step::Skip, |place| place.node.element()).into();
                self.value(byte)
            }
            (State::Value, _) => self.value(byte),
            _ => State::Broken,
        };
        // A scalar's first byte is part of it.
        (state, usize::from(!matches!(state, State::Scalar(_))))
    }

    /// Begins a key, a string, or another scalar.
    fn begin_text(&mut self, state: State) -> State {
        self.text.clear();
        self.escaped = false;
        state
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8) -> State {
        let Wanted { step, below, .. } = self.wanted;
        match (byte, step) {
            (b'{', Step::Object(node)) => self.open(node, below, State::Key(true)),
            (b'[', Step::Array(node)) => self.open(node, Trail::default(), State::FirstElement),
            (b'{' | b'[', _) => {
                // It is not of the wanted type.
                self.wanted.put(&mut self.record, Scalar::Absent);
                if byte == b'{' && !below.is_empty() {
                    self.open(Node::Table, below, State::Key(true))
                } else {
                    self.skip()
                }
            }
            (b'}' | b']' | b',' | b':', _) => State::Broken,
            (b'"', _) => self.begin_text(State::Text(self.wanted.is_kept())),
            _ => self.begin_text(State::Scalar(self.wanted.is_kept())),
        }
    }

    /// Begins an object or array that is not wanted.
    fn skip(&mut self) -> State {
        self.depth = 1;
        State::Nested
    }

    fn open(&mut self, node: Node, trail: Trail, inside: State) -> State {
        self.record.open(node, &self.model);
        if trail.is_model {
            self.record.table.open_model(&self.model, trail);
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
    #[inline(always)]
    fn text(&mut self, bytes: &[u8], kept: bool) -> usize {
        let end = self.end_of_text(bytes, kept);
        match end {
            Some(quote) if bytes[quote] == b'"' => {
                let text = &bytes[..quote];
                if !kept {
                    self.state = match self.state {
                        State::NestedText => State::Nested,
                        _ => self.after_value(),
                    };
                } else if self.text.is_empty() {
                    self.state = self.end_text(text);
                } else {
                    self.keep(text);
                    let whole = std::mem::take(&mut self.text);
                    self.state = self.end_text(&whole);
                }
                // The colon too, which stands behind almost every key.
                if self.state == State::Colon && bytes.get(quote + 1) == Some(&b':') {
                    self.state = State::Value;
                    return quote + 2;
                }
                quote + 1
            }
            _ => {
                let end = end.unwrap_or(bytes.len());
                if kept {
                    self.keep(&bytes[..end]);
                }
                end
            }
        }
    }

    /// Where the quote that ends a string stands, or the newline that breaks it.
    #[inline(always)]
    fn end_of_text(&mut self, bytes: &[u8], kept: bool) -> Option<usize> {
        // From quote to quote: almost all bytes of a stream are in strings, which are searched in vector
        // steps. A quote counts by the backslashes before it; the newline breaks the value whatever was
        // open, so that a broken one costs itself alone.
        let start = usize::from(std::mem::take(&mut self.escape));
        let mut from = start;
        if kept {
            from += quote_newline_or_escape(&bytes[from..])?;
            if bytes[from] != b'\\' {
                return Some(from);
            }
            self.escaped = true;
        }
        loop {
            match quote_or_newline(&bytes[from..]).map(|next| from + next) {
                Some(quote) if bytes[quote] == b'"' && ends_in_escape(&bytes[start..quote]) => from = quote + 1,
                None => {
                    self.escape = ends_in_escape(&bytes[start..]);
                    return None;
                }
                end => return end,
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

    /// A key or a wanted string has ended.
    fn end_text(&mut self, raw: &[u8]) -> State {
        let text = decode(raw, self.escaped);
        if self.state != State::KeyText {
            let text = text.as_deref().map(lossy);
            self.wanted.put(&mut self.record, text.as_deref().map_or(Scalar::Absent, Scalar::Text));
            return State::AfterValue;
        }
        let Some(Place { node, trail }) = self.path.last().copied() else { return State::Broken };
        self.wanted = Step::Skip.into();
        let Some(key) = text else { return State::Colon };
        let step = self.record.key(node, &key);
        let (here, below) = trail.step(&key, self.record.table.active());
        if here != 0 || !below.is_empty() {
            self.record.table.forget(here, below);
        }
        self.wanted = Wanted { step, here, below };
        if self.wanted.is_model() {
            self.model.clear();
            self.model.push_str(&lossy(&key));
        }
        State::Colon
    }

    /// Inside a number, `true`, `false`, `null`, or anything else that is not quoted.
    fn scalar(&mut self, bytes: &[u8], kept: bool) -> usize {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let end = bytes.iter().position(ends);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if kept {
            if end.is_none() || !self.text.is_empty() {
                self.keep(part);
            }
            if end.is_some() {
                let whole = if self.text.is_empty() { part } else { &self.text };
                self.wanted.put(&mut self.record, read_scalar(whole));
            }
        }
        if end.is_some() {
            self.state = State::AfterValue;
        }
        part.len()
    }

    /// Inside an object or array that is not wanted.
    fn nested(&mut self, bytes: &[u8]) -> usize {
        // A counter and no stack: 100,000 levels cost nothing. Brackets and braces are not told apart, since
        // what is skipped need not be valid.
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.state = State::NestedText;
                    return at + 1;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth == 1 => {
                    self.state = self.after_value();
                    return at + 1;
                }
                b'}' | b']' => self.depth -= 1,
                b'\n' => return at,
                _ => {}
            }
        }
        bytes.len()
    }
}
