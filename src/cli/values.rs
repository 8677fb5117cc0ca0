//! The values that options take, which parse themselves; and the name that a command is charged to.
//!
//! An error of theirs says what form is wanted; the command line adds the option and the text.

use std::ffi::{OsStr, OsString};
use std::marker::PhantomData;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use rustix::process::Signal;

use crate::amount::{Amount, Span};
use crate::count::price::Unpriced;
use crate::process::signals;

/// `NAME=AMOUNT`: the budget of one command. NAME goes up to the last `=`.
#[derive(Clone, Debug)]
pub(crate) struct CommandBudget {
    pub(crate) name: String,
    pub(crate) amount: Amount,
}

impl CommandBudget {
    /// Whether both are of the same command and unit.
    pub(crate) fn is_same_budget(&self, other: &CommandBudget) -> bool {
        self.name == other.name && self.amount.unit == other.amount.unit
    }
}

impl FromStr for CommandBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((name, amount)) if !name.is_empty() => {
                Ok(CommandBudget { name: name.to_owned(), amount: amount.parse()? })
            }
            _ => Err("want NAME=AMOUNT such as /review=50k".to_owned()),
        }
    }
}

/// A span of time that is not empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window(pub(crate) Duration);

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Span(span) = text.parse()?;
        if span.is_zero() { Err("a window of no time holds nothing".to_owned()) } else { Ok(Window(span)) }
    }
}

/// Dollars without a unit: `2.50`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dollars(pub(crate) Amount);

impl FromStr for Dollars {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "want dollars such as 2.50";
        if text.ends_with(|c: char| c.is_ascii_digit()) {
            format!("{text}usd").parse().map(Dollars).map_err(|_| wanted.to_owned())
        } else {
            Err(wanted.to_owned())
        }
    }
}

/// `NAME=USD`: the budget of one command in dollars.
#[derive(Clone, Debug)]
pub(crate) struct CommandCost(pub(crate) CommandBudget);

impl FromStr for CommandCost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((name, dollars)) if !name.is_empty() => {
                let Dollars(amount) = dollars.parse()?;
                Ok(CommandCost(CommandBudget { name: name.to_owned(), amount }))
            }
            _ => Err("want NAME=USD such as /review=2.50".to_owned()),
        }
    }
}

impl FromStr for Unpriced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dearest" => Ok(Unpriced::Dearest),
            "refuse" => Ok(Unpriced::Refuse),
            "zero" => Ok(Unpriced::Zero),
            "" => Err("want dearest, refuse, zero, or the name of a model".to_owned()),
            model => Ok(Unpriced::As(model.to_owned())),
        }
    }
}

/// A share of a budget, 0 to 100.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub(crate) u8);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let share = if digits { text.parse().ok().filter(|share| *share <= 100) } else { None };
        share.map(Percent).ok_or_else(|| "want a whole number from 0 to 100".to_owned())
    }
}

/// A signal given by name or number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named(pub(crate) Signal);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = signals::by_name(text)?;
        Signal::from_named_raw(number).map(Named).ok_or_else(|| format!("signal {number} cannot be sent"))
    }
}

/// A shell that completions can be had for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shell(pub(crate) clap_complete::Shell);

impl FromStr for Shell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bash" => Ok(Shell(clap_complete::Shell::Bash)),
            "fish" => Ok(Shell(clap_complete::Shell::Fish)),
            "zsh" => Ok(Shell(clap_complete::Shell::Zsh)),
            _ => Err("want bash, zsh or fish".to_owned()),
        }
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}

impl FromStr for ColorWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(ColorWhen::Auto),
            "always" => Ok(ColorWhen::Always),
            "never" => Ok(ColorWhen::Never),
            _ => Err("want auto, always or never".to_owned()),
        }
    }
}

/// Parses with `FromStr`; the error's words name the form wanted.
pub(crate) fn with_form<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    OsStringValueParser::new().try_map(|text| text.to_str().ok_or_else(|| "want UTF-8".to_owned())?.parse::<T>())
}

/// As [`with_form`], for one of some `words`, which shells can complete.
#[derive(Clone)]
pub(crate) struct OneOf<T> {
    words: &'static [&'static str],
    value: PhantomData<fn() -> T>,
}

/// A value that is one of `words`.
pub(crate) fn one_of<T>(words: &'static [&'static str]) -> OneOf<T> {
    OneOf { words, value: PhantomData }
}

impl<T> TypedValueParser for OneOf<T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        with_form().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}

/// The name of a command; any text is one.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("want a name such as /review".to_owned()) } else { Ok(Name(text.to_owned())) }
    }
}

/// The name that a command is charged to: the first slash command among the argument of `-p`, the
/// last argument and the others in order; otherwise the file name of the command itself.
pub(crate) fn name_of(command: &[OsString]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let prompt = args.iter().position(|arg| arg == "-p" || arg == "--print").and_then(|at| args.get(at + 1));
    let slash = prompt.into_iter().chain(args.last()).chain(args).find_map(|arg| slash_command(arg.to_str()?));
    let file = || Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    slash.map(str::to_owned).or_else(file)
}

/// The first word of a text, where it looks like `/name` or `/ns:name`.
fn slash_command(text: &str) -> Option<&str> {
    let word = text.split_ascii_whitespace().next()?;
    let name = word.strip_prefix('/')?;
    (name.starts_with(|c: char| c.is_alphabetic()) && !name.contains('/')).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(words: &[&str]) -> Option<String> {
        name_of(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_wrapped_command_is_charged_to_its_slash_command() {
        for (words, want) in [
            (&["claude", "-p", "/review src/main.rs", "--verbose"][..], "/review"),
            (&["claude", "--verbose", "--print", "/ns:fix", "/other"], "/ns:fix"),
            (&["claude", "--verbose", "/last one"], "/last"),
            (&["claude", "/first", "-p", "no slash", "plain"], "/first"),
            (&["claude", "-p", "  /spaces before"], "/spaces"),
            (&["claude", "-p", "look at /usr/bin"], "claude"),
            (&["claude", "-p", "/usr/bin is a path"], "claude"),
            (&["claude", "-p", "/1st"], "claude"),
            (&["claude", "-p", "/"], "claude"),
            (&["claude", "-p"], "claude"),
            (&["/opt/bin/agent"], "agent"),
        ] {
            assert_eq!(name(words).as_deref(), Some(want), "{words:?}");
        }
        assert_eq!(name(&[]), None);
    }
}
