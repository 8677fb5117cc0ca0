//! JSON strings and other scalars: where they end, and what their bytes say.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr2, memchr3};
use serde::de::{IgnoredAny, Visitor};

use crate::stream::paths::Scalar;

/// The longest text of a wanted value, and of all model names of a record together, in bytes.
// A hostile stream could fill the memory with them otherwise.
pub(crate) const WANTED_MAX: usize = 64 * 1024;

/// How much of a text is searched word by word before a vector search begins, in bytes.
// Most strings are shorter: they have ended before the other search would have been set up.
const SHORT: usize = 16;

/// A word of the same byte, eight times.
const fn word_of(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bit of each byte that is zero, and of some behind the first of those.
// The classic test: only a zero has a borrow in its high bit that it did not have itself.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(word_of(1)) & !word & word_of(0x80)
}

/// Where the first quote or newline stands.
pub(crate) fn quote_or_newline(bytes: &[u8]) -> Option<usize> {
    let marks = |word| zero_bytes(word ^ word_of(b'"')) | zero_bytes(word ^ word_of(b'\n'));
    first_mark(bytes, marks).unwrap_or_else(|at| Some(at + memchr2(b'"', b'\n', &bytes[at..])?))
}

/// Where the first quote, newline or backslash stands.
pub(crate) fn quote_newline_or_escape(bytes: &[u8]) -> Option<usize> {
    let ends = |word| zero_bytes(word ^ word_of(b'"')) | zero_bytes(word ^ word_of(b'\n'));
    let marks = |word| ends(word) | zero_bytes(word ^ word_of(b'\\'));
    first_mark(bytes, marks).unwrap_or_else(|at| Some(at + memchr3(b'"', b'\n', b'\\', &bytes[at..])?))
}

/// Where the first byte stands that is marked by its high bit; where no word had one, how much was searched.
fn first_mark(bytes: &[u8], marks: impl Fn(u64) -> u64) -> Result<Option<usize>, usize> {
    let mut at = 0;
    while at < SHORT
        && let Some(word) = bytes[at..].first_chunk()
    {
        let marked = marks(u64::from_le_bytes(*word));
        if marked != 0 {
            return Ok(Some(at + marked.trailing_zeros() as usize / 8));
        }
        at += 8;
    }
    Err(at)
}

/// Whether a backslash at the end of a text escapes what follows, and is not escaped itself.
pub(crate) fn ends_in_escape(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The characters of a JSON string between its quotes; `None` where it is too long to be wanted.
pub(crate) fn decode(raw: &[u8], escaped: bool) -> Option<Cow<'_, [u8]>> {
    if raw.len() > WANTED_MAX {
        return None;
    }
    if !escaped {
        return Some(Cow::Borrowed(raw));
    }
    let quoted = [b"\"", raw, b"\""].concat();
    let mut json = serde_json::Deserializer::from_slice(&quoted);
    Some(Cow::Owned(serde::Deserializer::deserialize_bytes(&mut json, Bytes).unwrap_or_else(|_| raw.to_vec())))
}

/// [`String::from_utf8_lossy`], which is slow where there is nothing to replace.
// Bytes that are not UTF-8 and lone surrogates are replaced and not refused: an id with one must still be
// equal to itself.
pub(crate) fn lossy(text: &[u8]) -> Cow<'_, str> {
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
pub(crate) fn read_scalar(text: &[u8]) -> Scalar<'_> {
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
    // Almost all are counts of tokens: digits, and no zero before others.
    let is_count = matches!(text, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    if !is_count {
        serde_json::from_slice::<IgnoredAny>(text).ok()?;
    }
    std::str::from_utf8(text).ok()
}
