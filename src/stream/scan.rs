//! The scanner: finds the records of a stream, one a line or one an element of an array, while the
//! bytes pass.
//!
//! It takes whatever a read gave and keeps its place between reads: neither a line nor an array has
//! to be in memory. What a record says is read by `values`.
//!
//! - A line is a record where its outermost value is an object that is closed before the line ends.
//!   At most 64 bytes without `{` and `"` may stand before it, as log drivers put there; what
//!   stands behind it is ignored.
//! - A stream is an array where `[` is the first of it that is not blank, and an element or the line's
//!   end follows. Each object in it is a record as it closes, over any number of lines. After its `]`
//!   lines are lines again, so that several processes may follow each other.
//! - Further on, a line that is a `[` alone begins such an array. A `[` right before the first `{` of a
//!   line, behind a prefix or not, begins one that ends with its line.
//! - A broken element is skipped by its brackets. Where it has lost some, an object in a line's first
//!   column, or one that begins a line no further in than the broken one began, is where to go on.

use memchr::memchr;

use crate::stream::record::Record;
use crate::stream::values::{Progress, Values};

/// A byte order mark, which may stand before a line's value.
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// The longest prefix of a line, in bytes: timestamps, `data: `, a container's name, colour codes.
const PREFIX_MAX: u8 = 64;

/// An incremental scanner of records; see [`Scanner::next`].
#[derive(Debug)]
pub struct Scanner {
    position: Position,
    values: Values,
    /// The array that is open.
    array: Option<Array>,
    /// Some of the line has come.
    begun: bool,
    /// Nothing but blanks and a byte order mark has come of the stream.
    fresh: bool,
    found: Found,
}

/// Where in a line or an array the scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Before a line's value; so many bytes of a byte order mark have passed.
    Start(u8),
    Prefix(Prefix),
    /// In the line's object.
    Object,
    /// Behind what counts, or in a line where nothing does.
    Rest(Rest),
    /// Between the elements of an array; `true` where the next one is due.
    Between(bool),
    /// In an element that is an object.
    Element,
    /// In an element that is skipped; `true` where that is because it is broken.
    Skipped(bool),
}

/// What stands before the first `{` of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    bytes: u8,
    /// It begins with the first `[` of the stream.
    is_list: bool,
    /// It is a `[` alone, at the start of a line.
    is_alone: bool,
    /// An element may follow what came last.
    is_open: bool,
}

/// What a line comes to whose rest is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Record,
    /// The end of an array.
    Array,
    Nothing,
}

/// An array that is open.
#[derive(Clone, Copy, Debug)]
struct Array {
    /// It began within its line and ends with it.
    ends_with_line: bool,
    /// An object has begun in it: it does not only look like an array.
    has_objects: bool,
    /// Blanks before its element that began last, where that began a line.
    element_indent: Option<usize>,
    /// Blanks in this line, as long as nothing else has come.
    indent: Option<usize>,
}

/// What was found last.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    has_record: bool,
    ends_line: bool,
    is_foreign: bool,
}

/// A line or an array's element that has ended.
#[derive(Debug)]
pub struct Scanned<'a> {
    /// The record, where it was one.
    pub record: Option<&'a Record>,
    /// Whether a line has ended.
    pub ends_line: bool,
    /// Whether it was a line with something in it that is neither a record nor part of an array.
    pub is_foreign: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            position: Position::Start(0),
            values: Values::default(),
            array: None,
            begun: false,
            fresh: true,
            found: Found::default(),
        }
    }
}

impl Scanner {
    /// Scans through the next newline or array's element and takes those bytes off `bytes`. Returns
    /// `None` where the bytes end first: the next call goes on where this one stopped.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Scanned<'_>> {
        let all = *bytes;
        let mut at = 0;
        while let Some(&byte) = all.get(at) {
            let has_found = if byte == b'\n' {
                at += 1;
                self.end_line();
                true
            } else {
                let (taken, closed) = self.step(byte, &all[at..]);
                at += taken;
                self.begun |= taken > 0;
                self.found = Found { has_record: closed, ..Found::default() };
                closed
            };
            if has_found {
                *bytes = &all[at..];
                return Some(self.found());
            }
        }
        *bytes = &[];
        None
    }

    /// The last line, where the stream ended without a newline after it.
    pub fn last_line(&mut self) -> Option<Scanned<'_>> {
        if !self.begun {
            return None;
        }
        self.end_line();
        Some(self.found())
    }

    /// Whether the last line has ended and nothing of the next has come.
    pub fn is_at_line_start(&self) -> bool {
        !self.begun
    }

    /// Whether an object or an array of them is open, which would be cut off if the stream ended here.
    pub fn is_in_record(&self) -> bool {
        self.position == Position::Object || self.array.is_some_and(|array| array.has_objects)
    }

    /// Whether the next line must be scanned, whatever stands in it: an array is open, or this may
    /// still become a stream that is one array.
    pub(crate) fn needs_next_line(&self) -> bool {
        self.fresh || self.array.is_some()
    }

    /// What was found last, as long as no more bytes have been scanned.
    pub(crate) fn found(&self) -> Scanned<'_> {
        let Found { has_record, ends_line, is_foreign } = self.found;
        Scanned { record: has_record.then(|| self.values.record()), ends_line, is_foreign }
    }

    /// A line has ended. An array goes on, except in a string, which cannot hold a newline.
    fn end_line(&mut self) {
        self.begun = false;
        let (begins_array, is_open) = match self.position {
            Position::Prefix(Prefix { is_list, is_alone, is_open, .. }) => (is_list || is_alone && is_open, is_open),
            _ => (false, false),
        };
        self.found = Found {
            has_record: self.position == Position::Rest(Rest::Record),
            ends_line: true,
            is_foreign: match self.position {
                Position::Prefix(_) => !(begins_array && is_open),
                Position::Object | Position::Rest(Rest::Nothing) => true,
                _ => false,
            },
        };
        match &mut self.array {
            None if begins_array => {
                self.begin_array(false, Some(0));
                self.position = Position::Between(is_open);
            }
            Some(array) if !array.ends_with_line => {
                array.indent = Some(0);
                if matches!(self.position, Position::Element | Position::Skipped(_)) && self.values.end_line() {
                    self.give_up();
                }
            }
            _ => {
                self.array = None;
                self.position = Position::Start(0);
            }
        }
    }

    /// Goes on from `byte`, the first of `bytes` and not a newline. Returns how many bytes it took, and
    /// whether a record of an array ended with them.
    fn step(&mut self, byte: u8, bytes: &[u8]) -> (usize, bool) {
        if let Some(indent) = self.array.and_then(|array| array.indent) {
            if is_blank(byte) {
                self.array = self.array.map(|array| Array { indent: Some(indent.saturating_add(1)), ..array });
                return (1, false);
            }
            self.resume(byte, indent);
        }
        let (taken, closed) = match self.position {
            Position::Rest(_) => (memchr(b'\n', bytes).unwrap_or(bytes.len()), false),
            Position::Object | Position::Element | Position::Skipped(_) => self.scan_value(bytes),
            Position::Start(bom) => {
                self.position = self.start(bom, byte);
                (1, false)
            }
            Position::Prefix(prefix) => {
                self.position = self.prefix(prefix, byte);
                (1, false)
            }
            Position::Between(is_due) => {
                self.position = self.between(is_due, byte);
                (1, false)
            }
        };
        // A byte that breaks an element is not taken: it comes again, still the first of its line.
        if let (Some(array), 1..) = (&mut self.array, taken) {
            array.indent = None;
        }
        (taken, closed)
    }

    /// Before `byte`, the first of an array's line that is not blank: begins again where the array is
    /// broken, which is the only case in which the layout tells more than the brackets.
    fn resume(&mut self, byte: u8, indent: usize) {
        let element_indent = self.array.and_then(|array| array.element_indent);
        let is_broken = self.position == Position::Skipped(true);
        let leaves = match byte {
            // No comma, or brackets alone: these are lines, behind one that only looked like an array.
            b'{' => matches!(self.position, Position::Between(false) | Position::Skipped(_)),
            // The array of another process; that of the one before was cut.
            b'[' => is_broken || matches!(self.position, Position::Between(_)),
            _ => false,
        };
        if indent == 0 && leaves {
            self.array = None;
            self.position = Position::Start(0);
        } else if byte == b'{' && is_broken && element_indent.is_some_and(|of| indent <= of) {
            self.position = Position::Between(true);
        }
    }

    fn scan_value(&mut self, bytes: &[u8]) -> (usize, bool) {
        let (taken, progress) = self.values.scan(bytes);
        match (progress, self.position) {
            (Progress::Open, _) => {}
            (Progress::Closed, Position::Object) => self.position = Position::Rest(Rest::Record),
            (Progress::Broken, Position::Object) => self.position = Position::Rest(Rest::Nothing),
            (Progress::Closed, frame) => {
                self.position = Position::Between(false);
                return (taken, frame == Position::Element);
            }
            (Progress::Broken, _) => self.give_up(),
        }
        (taken, false)
    }

    /// Skips what is left of an array's element.
    fn give_up(&mut self) {
        self.position = if self.values.give_up() { Position::Skipped(true) } else { Position::Between(false) };
    }

    /// Before a line's value.
    fn start(&mut self, bom: u8, byte: u8) -> Position {
        if BOM.get(usize::from(bom)) == Some(&byte) {
            return Position::Start(bom + 1);
        }
        if is_blank(byte) && matches!(bom, 0 | 3) {
            return Position::Start(bom);
        }
        let is_first = std::mem::take(&mut self.fresh);
        let prefix = Prefix { bytes: 0, is_list: false, is_alone: false, is_open: false };
        match (bom, byte) {
            (0 | 3, b'[') => {
                Position::Prefix(Prefix { bytes: 1, is_list: is_first, is_alone: !self.begun, is_open: true })
            }
            // Part of a byte order mark is none.
            (1 | 2, _) => self.prefix(Prefix { bytes: bom, ..prefix }, byte),
            _ => self.prefix(prefix, byte),
        }
    }

    /// Before the first `{` of a line that does not begin with it.
    fn prefix(&mut self, prefix: Prefix, byte: u8) -> Position {
        let Prefix { bytes, is_list, is_open, .. } = prefix;
        match byte {
            b'{' if is_open => {
                self.begin_array(!is_list, None);
                self.between(true, byte)
            }
            b'{' => {
                self.values.begin();
                Position::Object
            }
            // A first element that is no object.
            b'"' | b'[' if is_list && is_open => {
                self.begin_array(false, None);
                self.between(true, byte)
            }
            b'"' => Position::Rest(Rest::Nothing),
            // Any number of blanks may stand in an array, and numbers before its first object.
            _ if is_list && is_open && is_blank(byte) => Position::Prefix(prefix),
            _ if bytes == PREFIX_MAX && is_list => {
                self.begin_array(false, None);
                self.between(false, byte)
            }
            _ if bytes == PREFIX_MAX => Position::Rest(Rest::Nothing),
            _ => Position::Prefix(Prefix {
                bytes: bytes + 1,
                // `[INFO] {`
                is_list: is_list && byte != b']',
                is_open: byte == b'[' || byte == b',' && is_list || is_open && is_blank(byte),
                is_alone: prefix.is_alone && byte == b'\r',
            }),
        }
    }

    fn begin_array(&mut self, ends_with_line: bool, indent: Option<usize>) {
        self.array = Some(Array { ends_with_line, has_objects: false, element_indent: None, indent });
    }

    /// Between the elements of an array. What is neither bracket nor string is skipped: a number, or
    /// what should not be there.
    fn between(&mut self, is_due: bool, byte: u8) -> Position {
        match byte {
            b'{' => {
                if let Some(array) = &mut self.array {
                    array.element_indent = array.indent;
                    array.has_objects = true;
                }
                self.values.begin();
                Position::Element
            }
            b'[' => {
                self.values.skip_nested();
                Position::Skipped(false)
            }
            b'"' => {
                self.values.skip_text();
                Position::Skipped(false)
            }
            b']' => {
                self.array = None;
                Position::Rest(Rest::Array)
            }
            b',' => Position::Between(true),
            _ if is_blank(byte) => Position::Between(is_due),
            _ => Position::Between(false),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}
