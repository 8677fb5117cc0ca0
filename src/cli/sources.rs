//! The defaults file: JSON whose fields are turned into the options they stand for.
//!
//! An orchestrator's settings with its `budget` object work as they stand; beside its names every
//! long option is known by its name with `_`. The command line parses what comes of it, so that
//! values take the same forms and errors the same words.

use std::ffi::OsString;

use serde_json::{Map, Value};

/// The options that a file of defaults stands for, as words of a command line.
///
/// # Errors
/// Where the file is no JSON object, or has a field that is not known or of a type that makes no
/// sense; the error names the field.
pub(crate) fn words(text: &str, known: impl Fn(&str) -> Option<bool>) -> Result<Vec<OsString>, String> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else {
        return Err("want a JSON object".to_owned());
    };
    let mut words = Vec::new();
    match fields.remove("budget") {
        None => {}
        Some(Value::Object(budget)) => add(&budget, &known, &mut words)?,
        Some(_) => return Err("budget: want an object".to_owned()),
    }
    add(&fields, &known, &mut words)?;
    Ok(words)
}

fn add(
    fields: &Map<String, Value>,
    known: &impl Fn(&str) -> Option<bool>,
    words: &mut Vec<OsString>,
) -> Result<(), String> {
    for (field, value) in fields {
        let (option, each) = match field.as_str() {
            "overall_budget" => ("limit".to_owned(), None),
            "overall_cost_budget" => ("overall-cost-budget".to_owned(), None),
            "command_budgets" => ("command-budget".to_owned(), Some(value)),
            "command_cost_budgets" => ("command-cost-budget".to_owned(), Some(value)),
            "enforcement_mode" => ("mode".to_owned(), None),
            "disable_visuals" => ("quiet".to_owned(), None),
            other => (other.replace('_', "-"), None),
        };
        let Some(takes_value) = known(&option).filter(|_| !field.contains('-')) else {
            return Err(format!("{field}: unknown field"));
        };
        if let Some(budgets) = each {
            let Value::Object(budgets) = budgets else {
                return Err(format!("{field}: want an object of names and amounts"));
            };
            for (name, amount) in budgets {
                push(words, &option, &format!("{name}={}", scalar(field, amount)?));
            }
            continue;
        }
        match value {
            Value::Null => {}
            Value::Bool(true) if !takes_value => words.push(format!("--{option}").into()),
            Value::Bool(false) if !takes_value => {}
            _ if !takes_value => return Err(format!("{field}: want true or false")),
            Value::Array(values) => {
                for value in values {
                    push(words, &option, &scalar(field, value)?);
                }
            }
            value => push(words, &option, &scalar(field, value)?),
        }
    }
    Ok(())
}

fn push(words: &mut Vec<OsString>, option: &str, value: &str) {
    words.push(format!("--{option}={value}").into());
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
            "--command-budget=/a=b=50k",
            "--command-cost-budget=/a=1",
            "--limit=500000",
            "--mode=block",
            "--overall-cost-budget=2.5",
            "--quiet",
            "--warn-at=80",
        ];
        assert_eq!(words, want.map(OsString::from));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, says) in [
            ("[]", "want a JSON object"),
            ("{", "want a JSON object"),
            (r#"{"budget":5}"#, "budget: want an object"),
            (r#"{"limits":5}"#, "limits: unknown field"),
            (r#"{"warn-at":5}"#, "warn-at: unknown field"),
            (r#"{"quiet":1}"#, "quiet: want true or false"),
            (r#"{"command_budgets":[1]}"#, "command_budgets: want an object"),
            (r#"{"limit":{"a":1}}"#, "limit: want a text or a number"),
        ] {
            let error = words(text, known).err().unwrap_or_default();
            assert!(error.starts_with(says), "{error} for {text}");
        }
    }
}
