//! Values of options that parse themselves, and the name that a command is charged to.
//!
//! Each error says what form is wanted; the command line adds the option and the text.

use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::Signal;

use crate::amount::{Amount, decimal};
use crate::ledger::window::Period;
use crate::process::signals;

/// The form that an error about a duration names.
const DURATION: &str = "want a duration such as 90s, 0.5s, 30m, 5h or 7d";

/// `NAME=AMOUNT`: the budget of one command.
#[derive(Clone, Debug)]
pub(crate) struct CommandBudget {
    pub(crate) name: String,
    pub(crate) amount: Amount,
}

impl FromStr for CommandBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        command_budget(text, str::parse, "want NAME=AMOUNT such as /review=50k")
    }
}

/// `NAME=USD`: the budget of one command in dollars.
pub(crate) fn command_cost(text: &str) -> Result<CommandBudget, String> {
    command_budget(text, dollars, "want NAME=USD such as /review=2.50")
}

fn command_budget(
    text: &str,
    parse: impl Fn(&str) -> Result<Amount, String>,
    form: &str,
) -> Result<CommandBudget, String> {
    // At the last `=`: a name may contain one, and an amount does not.
    let (name, amount) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or(form)?;
    Ok(CommandBudget { name: name.to_owned(), amount: parse(amount)? })
}

/// Dollars without a unit: `2.50`.
pub(crate) fn dollars(text: &str) -> Result<Amount, String> {
    format!("{text}usd").parse().map_err(|_| "want dollars such as 2.50".to_owned())
}

/// A DURATION such as `90s`, `1.5m`, `5h` or `7d`; a number without a unit is in seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(DURATION.to_owned()),
    };

    let millis = decimal(number, 3).map_err(|_| DURATION.to_owned())?;
    millis.checked_mul(seconds).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// A window: a rolling one, which is not zero, or a period by the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WindowForm {
    Rolling(Duration),
    Calendar(Period),
}

/// Parses a [`WindowForm`].
pub(crate) fn window(text: &str) -> Result<WindowForm, String> {
    if let Some(period) = Period::by_name(text) {
        return Ok(WindowForm::Calendar(period));
    }
    match duration(text) {
        Err(_) => Err("want day, week, month or a duration such as 90s, 30m or 5h".to_owned()),
        Ok(Duration::ZERO) => Err("a window of no time has no spend in it".to_owned()),
        Ok(window) => Ok(WindowForm::Rolling(window)),
    }
}

/// A percentage from 0 to 100.
pub(crate) fn percent(text: &str) -> Result<u8, String> {
    // `parse` takes a plus sign.
    let percent = text.parse().ok().filter(|percent| *percent <= 100 && !text.starts_with('+'));
    percent.ok_or_else(|| "want a whole number from 0 to 100".to_owned())
}

/// The first signal on a stop, given by name or number; `none` for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstSignal(pub(crate) Option<Signal>);

/// Parses a [`FirstSignal`].
pub(crate) fn signal(text: &str) -> Result<FirstSignal, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(FirstSignal(None));
    }
    let number = signals::by_name(text)?;
    let signal = Signal::from_named_raw(number).ok_or_else(|| format!("signal {number} cannot be sent"))?;
    Ok(FirstSignal(Some(signal)))
}

/// The name of a command: any text.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("want a name such as /review".to_owned()) } else { Ok(text.to_owned()) }
}

/// The name that a command is charged to: its slash command, or else its file name.
pub(crate) fn command_name(command: &[OsString]) -> Option<String> {
    // Where the prompt stands depends on the agent's options, which are not known here: after `-p` most
    // often, else last. The others come after these, since a path may look like a slash command.
    let (program, args) = command.split_first()?;
    let prompt = args.iter().position(|arg| arg == "-p" || arg == "--print").and_then(|at| args.get(at + 1));
    let slash = prompt.into_iter().chain(args.last()).chain(args).find_map(|arg| slash_command(arg.to_str()?));
    let file = || Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    slash.map(str::to_owned).or_else(file)
}

/// Whether a command resumes a session of Claude Code, by its options; `None` where that cannot be
/// known, since it is another program.
pub(crate) fn resumes(command: &[OsString]) -> Option<bool> {
    let (program, args) = command.split_first()?;
    let resumes = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        matches!(&*arg, "-r" | "--resume" | "-c" | "--continue") || arg.starts_with("--resume=")
    };
    // A script may do anything with its arguments.
    (Path::new(program).file_name()? == "claude").then(|| args.iter().any(resumes))
}

/// The first word of a text, where it looks like `/name` or `/ns:name`.
fn slash_command(text: &str) -> Option<&str> {
    let word = text.split_ascii_whitespace().next()?;
    let name = word.strip_prefix('/')?;
    // A second `/` makes it a path: `/usr/bin`.
    (name.starts_with(|c: char| c.is_alphabetic()) && !name.contains('/')).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(words: &[&str]) -> Option<String> {
        command_name(&words.iter().map(OsString::from).collect::<Vec<_>>())
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

    #[test]
    fn claude_says_by_its_options_whether_it_resumes_a_session() {
        for (words, want) in [
            (&["claude", "-p", "x"][..], Some(false)),
            (&["claude", "-r", "id", "-p", "x"], Some(true)),
            (&["/opt/claude", "-p", "x", "--resume=id"], Some(true)),
            (&["claude", "--continue"], Some(true)),
            (&["claude", "-p", "grep -c x"], Some(false)),
            (&["sh", "-c", "claude -c"], None),
        ] {
            assert_eq!(resumes(&words.iter().map(OsString::from).collect::<Vec<_>>()), want, "{words:?}");
        }
        assert_eq!(resumes(&[]), None);
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("10", 10_000),
            ("90s", 90_000),
            ("0.25s", 250),
            ("1.5m", 90_000),
            ("5h", 18_000_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "10x", "1.2345s", "1e3", "99999999999999999d", "5 s"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
