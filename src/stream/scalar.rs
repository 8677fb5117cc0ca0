//! JSON strings and other scalars, as the scanner kept their bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, Visitor};

use crate::stream::paths::Scalar;
use crate::stream::record::WANTED_MAX;

/// The characters of a JSON string between its quotes; `None` where it is too long to be wanted.
pub(crate) fn decode(raw: &[u8], escaped: bool) -> Option<Cow<'_, str>> {
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
    serde_json::from_slice::<IgnoredAny>(text).ok()?;
    std::str::from_utf8(text).ok()
}
