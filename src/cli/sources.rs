//! What comes before the command line: the configuration file and the environment, as words of a
//! command line.
//!
//! They are parsed as if they stood before the first argument. Any long option is known by its name
//! with `_`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::amount::Amount;
use crate::cli::values::dollars;
use crate::error::Error;
use crate::show::text::{because, clean_os, with_note};

/// The environment variables that stand for options.
const VARIABLES: [(&str, &str); 5] = [
    ("BUDGET_TEE_LIMIT", "limit"),
    ("BUDGET_TEE_NAME", "name"),
    ("BUDGET_TEE_MODE", "mode"),
    ("BUDGET_TEE_LEDGER", "ledger"),
    ("BUDGET_TEE_PRICES", "prices"),
];

/// Words from one place.
// Words, and not a second set of parsed options: values take the same forms, errors have the same
// words, and a new option is added in one place.
#[derive(Debug)]
pub(crate) struct Source {
    /// The place, as an error names it.
    pub(crate) name: String,
    pub(crate) words: Vec<OsString>,
}

/// The value of a variable.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    // An empty one is as if it were unset: CI systems give a variable an empty value where an input is
    // missing.
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The words of the environment.
pub(crate) fn environment() -> Vec<Source> {
    let of = |(name, option): &(&str, &str)| {
        let value = variable(name)?;
        let words = match value.to_str().filter(|_| *option == "limit") {
            // One limit for each unit, with a comma between them; but `5,000` is one.
            Some(limits) if limits.trim().parse::<Amount>().is_err() => {
                limits.split(',').map(|limit| word(option, limit.trim())).collect()
            }
            Some(limit) => vec![word(option, limit.trim())],
            None => vec![word(option, &value)],
        };
        Some(Source { name: (*name).to_owned(), words })
    };
    VARIABLES.iter().filter_map(of).collect()
}

/// The local time zone.
pub(crate) fn time_zone() -> Result<TimeZone, Error> {
    match (TimeZone::try_system(), variable("TZ")) {
        (Ok(zone), _) => Ok(zone),
        // Without TZ and /etc/localtime, as in many containers, local time is UTC by convention.
        (Err(_), None) => Ok(TimeZone::UTC),
        // With a name that nobody knows the C library takes UTC too; but a budget of another day than was meant
        // would go unnoticed.
        (Err(_), Some(name)) => {
            let name = clean_os(name);
            let zone = format_args!("unknown time zone TZ={name}");
            Err(Error::Failed(with_note(zone, "set TZ to a name such as Europe/Berlin")))
        }
    }
}

/// The path of the configuration file that the environment names.
pub(crate) fn config_path() -> Option<PathBuf> {
    variable("BUDGET_TEE_CONFIG").map(PathBuf::from)
}

/// The words of a configuration file. `table` has the options that it may name.
pub(crate) fn config(path: &Path, table: &clap::Command) -> Result<Source, Error> {
    let name = format!("config {}", clean_os(path));
    let text = std::fs::read_to_string(path).map_err(|error| Error::file("read config", path, error))?;
    let takes_value = |option: &str| {
        // A file cannot name another one, and completions and grants are no default of anything.
        let is_default = !["config", "completions", "grant"].contains(&option);
        let found = table.get_arguments().find(|arg| is_default && arg.get_long() == Some(option));
        found.map(|arg| arg.get_action().takes_values())
    };
    let words = words(&text, takes_value).map_err(|why| because(&name, why))?;
    Ok(Source { name, words })
}

/// The words that a configuration file stands for. `takes_value` says so of an option; `None` of one that
/// it does not know.
fn words(text: &str, takes_value: impl Fn(&str) -> Option<bool>) -> Result<Vec<OsString>, String> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else {
        return Err("want a JSON object".to_owned());
    };
    let mut words = Vec::new();
    // An orchestrator's settings, with the budgets in an object of their own, work as they are.
    match fields.remove("budget") {
        None => {}
        Some(Value::Object(budget)) => add(&budget, &takes_value, &mut words)?,
        Some(_) => return Err("budget: want an object".to_owned()),
    }
    add(&fields, &takes_value, &mut words)?;
    Ok(words)
}

fn add(
    fields: &Map<String, Value>,
    takes_value: &impl Fn(&str) -> Option<bool>,
    words: &mut Vec<OsString>,
) -> Result<(), String> {
    for (field, value) in fields {
        // The names that orchestrators use, where these are not an option's.
        let option = match field.as_str() {
            "overall_budget" => "limit".to_owned(),
            "command_budgets" => "command-budget".to_owned(),
            "command_cost_budgets" => "command-cost-budget".to_owned(),
            "enforcement_mode" => "mode".to_owned(),
            "disable_visuals" => "quiet".to_owned(),
            other => other.replace('_', "-"),
        };
        // One spelling for one option, or a file could hold both.
        let Some(takes_value) = takes_value(&option).filter(|_| !field.contains('-')) else {
            return Err(format!("{field}: unknown field"));
        };
        let values = match value {
            Value::Null => continue,
            Value::Bool(on) if !takes_value => {
                words.extend(on.then(|| format!("--{option}").into()));
                continue;
            }
            _ if !takes_value => return Err(format!("{field}: want true or false")),
            Value::Object(budgets) if field.starts_with("command_") && field.ends_with("_budgets") => {
                let pair = |(name, amount)| Ok(format!("{name}={}", scalar(field, amount)?));
                budgets.iter().map(pair).collect::<Result<_, String>>()?
            }
            _ if field.starts_with("command_") && field.ends_with("_budgets") => {
                return Err(format!("{field}: want an object of names and amounts"));
            }
            Value::Array(values) => values.iter().map(|value| scalar(field, value)).collect::<Result<_, _>>()?,
            value => vec![scalar(field, value)?],
        };
        for value in values {
            words.push(option_word(field, &option, &value)?);
        }
    }
    Ok(())
}

/// `--option=value`.
fn option_word(field: &str, option: &str, value: &str) -> Result<OsString, String> {
    // Budgets in dollars become those of the option that takes both units: of two words for one budget
    // the last must win, whichever option it came from.
    let in_dollars = |usd: &str| dollars(usd).map(|_| format!("{usd}usd")).map_err(|why| format!("{field}: {why}"));
    Ok(match option {
        "overall-cost-budget" => word("limit", in_dollars(value)?),
        "command-cost-budget" => {
            let (name, usd) = value.rsplit_once('=').ok_or_else(|| format!("{field}: want NAME=USD"))?;
            word("command-budget", format!("{name}={}", in_dollars(usd)?))
        }
        _ => word(option, value),
    })
}

fn word(option: &str, value: impl AsRef<OsStr>) -> OsString {
    // One word with `=`: a value that begins with a hyphen would be an option by itself.
    let mut word = OsString::from(format!("--{option}="));
    word.push(value);
    word
}

fn scalar(field: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("{field}: want a text or a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(option: &str) -> Option<bool> {
        match option {
            "quiet" => Some(false),
            "limit" | "mode" | "overall-cost-budget" | "command-budget" | "command-cost-budget" | "warn-at" => {
                Some(true)
            }
            _ => None,
        }
    }

    #[test]
    fn an_orchestrators_settings_become_options() {
        let text = r#"{"budget":{"overall_budget":500000,"overall_cost_budget":2.5,"command_budgets":{"/a=b":"50k"},
            "command_cost_budgets":{"/a":1},"enforcement_mode":"block","disable_visuals":true},"warn_at":80}"#;
        let mut words = words(text, known).unwrap_or_default();
        words.sort();
        let want = [
            "--command-budget=/a=1usd",
            "--command-budget=/a=b=50k",
            "--limit=2.5usd",
            "--limit=500000",
            "--mode=block",
            "--quiet",
            "--warn-at=80",
        ];
        assert_eq!(words, want.map(OsString::from));
    }

    #[test]
    fn invalid_fields_are_refused_by_name() {
        for (text, says) in [
            ("[]", "want a JSON object"),
            ("{", "want a JSON object"),
            (r#"{"budget":5}"#, "budget: want an object"),
            (r#"{"limits":5}"#, "limits: unknown field"),
            (r#"{"warn-at":5}"#, "warn-at: unknown field"),
            (r#"{"quiet":1}"#, "quiet: want true or false"),
            (r#"{"command_budgets":[1]}"#, "command_budgets: want an object"),
            (r#"{"overall_cost_budget":"5k"}"#, "overall_cost_budget: want dollars"),
            (r#"{"limit":{"a":1}}"#, "limit: want a text or a number"),
        ] {
            let error = words(text, known).err().unwrap_or_default();
            assert!(error.starts_with(says), "{error} for {text}");
        }
    }
}
