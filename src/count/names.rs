//! Names of models: clouds and gateways write the name of one model in many ways.
//!
//! [`normal`] brings them to the form that the vendor's own API uses, under which the price table
//! has its rows. What is not recognised as a Claude model keeps its name, letter by letter: another
//! vendor's `@` or date may be part of it.

use std::borrow::Cow;
use std::fmt;

/// The longest name that is looked at, in bytes. A stream may name anything; the longest real form,
/// the ARN of an inference profile in a government region, has about 120.
const NAME_MAX: usize = 256;

/// What stands before a name where a path has been taken off: the regions of Bedrock's inference
/// profiles, and providers.
const PREFIXES: [&str; 11] =
    ["anthropic.", "anthropic:", "bedrock:", "us.", "us-gov.", "eu.", "apac.", "global.", "jp.", "au.", "ca."];

/// The families that a name may consist of without `claude`. Claude Code takes these three.
const SHORT: [&str; 3] = ["opus", "sonnet", "haiku"];

/// A Claude model, as its name tells it.
#[derive(Debug)]
struct Claude<'a> {
    family: &'a str,
    /// One or two numbers; none in a name such as `opus` or `claude-opus-latest`.
    version: Vec<&'a str>,
}

impl fmt::Display for Claude<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version: String = self.version.iter().map(|number| format!("-{number}")).collect();
        // Until version 3 the family came last. Names with the other order are found too.
        match self.version.first() {
            Some(&"3") => write!(f, "claude{version}-{}", self.family),
            _ => write!(f, "claude-{}{version}", self.family),
        }
    }
}

/// The name under which the price table has a model: `claude-opus-4-5` for
/// `us.anthropic.claude-opus-4-5-20251101-v1:0`. A short name such as `opus` becomes `claude-opus`,
/// which is no model, but see [`newest`].
pub(crate) fn normal(name: &str) -> Cow<'_, str> {
    if name.len() > NAME_MAX {
        return Cow::Borrowed(name);
    }
    let lower = name.to_ascii_lowercase();
    parse(&lower).map_or(Cow::Borrowed(name), |claude| Cow::Owned(claude.to_string()))
}

/// Of `models`, the newest of the family that the normal name `name` consists of: what the short
/// names mean. A table that gets a newer model thus moves them, as Claude Code does.
pub(crate) fn newest<'a>(name: &str, models: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let family = name.strip_prefix("claude-").filter(|family| is_word(family))?;
    let version = |model: &str| {
        let claude = parse(model).filter(|claude| claude.family == family && !claude.version.is_empty())?;
        Some(claude.version.iter().map(|number| number.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>())
    };
    models.filter_map(|model| Some((version(model)?, model))).max().map(|(_, model)| model)
}

/// Takes a name in lower case apart; `None` where it is not that of a Claude model.
fn parse(name: &str) -> Option<Claude<'_>> {
    // Paths are those of gateways (`openrouter/anthropic/…`) and the resources of clouds: an ARN
    // that names a model, or Google's `projects/…/models/…`. Which gateway it was does not matter.
    let mut name = name.rsplit('/').next()?;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    let name = name.strip_suffix(']').filter(|name| name.contains('[')).unwrap_or(name);
    let (name, suffix) = name.split_at(name.find([':', '@', '[']).unwrap_or(name.len()));
    let mut words = name.split(['-', '.']).peekable();
    if !words.peek().is_some_and(|word| SHORT.contains(word)) && words.next() != Some("claude") {
        return None;
    }
    let (mut family, mut version) = (None, Vec::new());
    // The version is one piece, before or after the family: `3-opus-5` is no name.
    let mut version_ended = false;
    while let Some(word) = words.next_if(|word| !is_tail(word)) {
        match family {
            None if is_word(word) => {
                family = Some(word);
                version_ended = !version.is_empty();
            }
            _ if is_number(word, 2) && version.len() < 2 && !version_ended => version.push(word),
            // A word that nobody knows may name another model: `-distill`, a third number.
            _ => return None,
        }
    }
    let mut tail = words.chain(suffix.split([':', '@', '[']).skip(1)).peekable();
    while let Some(word) = tail.next() {
        if is_build(word) {
            // Bedrock goes on to count behind a colon: `-v1:0`.
            tail.next_if(|count| is_number(count, 2));
        } else if !is_tail(word) {
            return None;
        }
    }
    // The first models of a generation are also called 4.0.
    if let [_, "0"] = version[..] {
        version.pop();
    }
    family.map(|family| Claude { family, version })
}

/// Whether a word says something about a request or a build, not about which model it is: a date, a
/// version of a cloud, the size of the context, thinking.
fn is_tail(word: &str) -> bool {
    let context = word.strip_suffix(['k', 'm']).is_some_and(|size| is_number(size, 4));
    let date = word.len() == 8 && word.starts_with("20") && is_number(word, 8);
    context || date || is_build(word) || ["latest", "default", "thinking", "beta"].contains(&word)
}

/// `v1`
fn is_build(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|number| is_number(number, 2))
}

fn is_number(word: &str, digits: usize) -> bool {
    (1..=digits).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name_is_one_model() {
        for name in [
            "claude-opus-4-5",
            "claude-opus-4-5-20251101",
            "claude-opus-4-5[1m]",
            "claude-opus-4-5-20251101[1m]",
            "claude-opus-4-5@20251101",
            "claude-opus-4.5:1m",
            "claude-4.5-opus",
            "CLAUDE-OPUS-4-5-LATEST",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
            "anthropic.claude-opus-4-5-v2",
            "anthropic.claude-opus-4-5-20251101-v1:0:200k",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-5-20251101-v1:0",
            "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-opus-4-5-20251101-v1:0",
            "projects/p/locations/us-east5/publishers/anthropic/models/claude-opus-4-5@20251101",
            "opus-4.5",
        ] {
            assert_eq!(normal(name), "claude-opus-4-5", "{name}");
        }
        for (name, want) in [
            ("claude-3-5-haiku-20241022", "claude-3-5-haiku"),
            ("claude-haiku-3.5", "claude-3-5-haiku"),
            ("anthropic/claude-3.7-sonnet:thinking", "claude-3-7-sonnet"),
            ("claude-sonnet-4-0", "claude-sonnet-4"),
            ("claude-opus-4-20250514", "claude-opus-4"),
            ("claude-opus-4-05", "claude-opus-4-05"),
            ("claude-opus-4-10", "claude-opus-4-10"),
            ("opus", "claude-opus"),
            ("claude-nova-7-20270101", "claude-nova-7"),
        ] {
            assert_eq!(normal(name), want, "{name}");
        }
    }

    #[test]
    fn what_is_not_recognised_keeps_its_name() {
        let long = format!("{}claude-opus-5", "us.".repeat(100));
        for name in [
            "gpt-9",
            "GLM-5.1",
            "gemini-3@20260101",
            "",
            "/",
            "claude",
            "claude-",
            "claude-4-5",
            "claude-opus-",
            "claude--opus-5",
            "claude-opus-4-5-distill",
            "claude-opus-4-5-1",
            "claude-3-opus-5",
            "claude-opus-5-20251101-7",
            "claude-opus-5]",
            "claude-opus-5[1m]]",
            "claude-mythos-preview",
            "claude-opus-4-6-fast",
            "not-claude-opus-5",
            "xclaude-opus-5",
            "claude-opüs-5",
            "claude-opus-5\n",
            "opusplan",
            "<synthetic>",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
            &long,
        ] {
            assert_eq!(normal(name), name);
        }
    }

    #[test]
    fn a_family_alone_means_its_newest_model() {
        let models = ["claude-opus-5", "claude-opus-4-10", "claude-opus-5-5", "claude-3-5-haiku", "claude-opus", "m"];
        for (name, want) in [
            ("claude-opus", Some("claude-opus-5-5")),
            ("claude-haiku", Some("claude-3-5-haiku")),
            ("claude-nova", None),
            ("claude-opus-7", None),
            ("m", None),
        ] {
            assert_eq!(newest(name, models.into_iter()), want, "{name}");
        }
    }
}
