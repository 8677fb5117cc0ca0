//! Completions for shells: what clap_complete makes of the option table, and what it leaves out.
//!
//! In bash it completes neither a value after `=` nor the wrapped command, in no shell a comma list, and in
//! fish no wrapped command; after `--`, fish completes only its name. Names of budgets and models are not
//! completed: no known file lists them.

use std::fmt::Write as _;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

/// Values to offer for options that take others too.
const OFFERED: [(&str, &[&str]); 4] = [
    ("count", &["input", "output", "cache-write", "cache-read"]),
    ("signal", &["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "none"]),
    ("unpriced", &["claude-opus-5", "highest", "zero", "refuse"]),
    ("window", &["day", "week", "month"]),
];

/// The completion script for `shell`.
pub(crate) fn script(shell: Shell, table: Command) -> String {
    let mut table = OFFERED.iter().fold(table, |table, (option, values)| {
        table.mut_arg(option, |arg| arg.value_parser(PossibleValuesParser::new(*values)).hide_possible_values(false))
    });
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut table, "budget-tee", &mut bytes);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    let with_value = options_with_value(&table);
    match shell {
        Shell::Bash => text.push_str(&include_str!("completions.bash").replace("@VALUES@", &with_value.join("|"))),
        Shell::Zsh => {
            let classes = OFFERED[0].1.join(" ");
            text = text.replace(&format!("({classes})"), &format!("_sequence compadd - {classes}"));
        }
        Shell::Fish => {
            let (classes, with_value) = (OFFERED[0].1.join(" "), with_value.join(" "));
            let _ = writeln!(text, "complete -c budget-tee -s t -l count -r -f -a '(__fish_append , {classes})'");
            let _ = writeln!(text, "complete -c budget-tee -f -a '(__fish_complete_subcommand -- {with_value})'");
        }
        _ => {}
    }
    text
}

/// `-l`, `--limit` and so on: the options whose value may be the next word.
fn options_with_value(table: &Command) -> Vec<String> {
    let takes_value = |arg: &&clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
    let names = |arg: &clap::Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let aliases = aliases.into_iter().map(|alias| format!("--{alias}"));
        arg.get_short().map(|short| format!("-{short}")).into_iter().chain(long).chain(aliases).collect::<Vec<_>>()
    };
    table.get_arguments().filter(takes_value).flat_map(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table;

    #[test]
    fn every_value_that_is_offered_is_accepted() {
        for (option, values) in OFFERED {
            for value in values {
                let word = format!("--{option}={value}");
                assert!(table().try_get_matches_from(["budget-tee", &word]).is_ok(), "{word}");
            }
        }
    }
}
