//! Rules that are tests: the manual page, the README and the help say what the program does, and
//! only the owner of a device mentions it.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod harness;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use budget_tee::exit::Exit;
use harness::{fixture, plain, run};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("the file is there")
}

/// The manual page as plain words: what mdoc's macros separate stands together again.
fn manual() -> String {
    file("man/budget-tee.1").replace(" , Fl -", " --").replace("Fl -", "--").replace("Fl ", "-")
}

#[test]
fn every_option_stands_in_manual_and_readme() {
    let (manual, readme) = (manual(), file("README.md"));
    let table = budget_tee::cli::table();
    let mut names = Vec::new();
    for option in table.get_opts().chain(table.get_arguments().filter(|arg| arg.get_long().is_some())) {
        names.extend(option.get_long().map(|long| format!("--{long}")));
        names.extend(option.get_short().map(|short| format!("-{short}")));
        names.extend(option.get_all_aliases().unwrap_or_default().iter().map(|alias| format!("--{alias}")));
    }
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(manual.contains(&format!("{name} ")) || manual.contains(&format!("{name}\n")), "{name} in the manual");
        assert!(readme.contains(&format!("`{name}")), "{name} in the README");
    }
}

#[test]
fn every_variable_stands_in_manual_and_readme() {
    let (manual, readme, source) = (manual(), file("README.md"), file("src/cli.rs"));
    let starts = source.match_indices("\"BUDGET_TEE_").map(|(at, _)| &source[at + 1..]);
    let names: Vec<_> = starts.filter_map(|rest| rest.split(['"', ' ']).next()).collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        assert!(manual.contains(name) && readme.contains(name), "{name}");
    }
}

#[test]
fn every_exit_code_stands_in_manual_readme_and_help() {
    let (manual, readme) = (file("man/budget-tee.1"), file("README.md"));
    let help = String::from_utf8(run(&["--help"], b"").out).expect("UTF-8");
    let exits = [Exit::Refused, Exit::Tripped, Exit::Failed, Exit::CannotRun, Exit::NotFound, Exit::ReaderGone];
    for code in exits.map(Exit::code) {
        assert!(manual.contains(&format!(".It {code}\n")), "{code} in the manual");
        assert!(
            readme.contains(&format!("| {code}")) || readme.contains(&format!(", {code} ")),
            "{code} in the README"
        );
        assert!(help.contains(&code.to_string()), "{code} in the help");
    }
}

#[test]
fn completions_are_for_every_shell_and_know_every_option() {
    for (shell, form) in [("bash", "--linger"), ("zsh", "'--linger=["), ("fish", "-l linger ")] {
        let ran = run(&["--completions", shell], b"");
        let text = String::from_utf8_lossy(&ran.out);
        assert!(ran.code() == Some(0) && text.contains(form), "{shell}: {text}");
        assert!(text.contains("warn") && text.contains("block"), "{shell}: {text}");
    }
    assert_eq!(run(&["--completions", "tcsh"], b"").code(), Some(125));
}

#[test]
fn the_help_fits_80_columns_and_has_examples() {
    let help = String::from_utf8(run(&["--help"], b"").out).expect("UTF-8");
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!help.contains("\n\n\n"), "{help}");
    for part in ["Usage:", "Budgets:", "Ending a command:", "Output:", "Examples:", "Exit codes:"] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn the_manual_page_is_clean_where_mandoc_is_installed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/budget-tee.1");
    let Ok(output) = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(page).output() else {
        skipped("mandoc");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

fn skipped(what: &str) {
    std::io::stderr().write_all(format!("skipped: no {what} here\n").as_bytes()).expect("stderr takes a note");
}

/// Every block of shell under the README's recipes, with the exit code that it names.
fn recipes(readme: &str) -> Vec<(&str, i32)> {
    let from = readme.find("## Recipes").expect("recipes");
    let until = from + readme[from + 2..].find("\n## ").expect("an end") + 2;
    let mut recipes = Vec::new();
    let mut rest = &readme[from..until];
    while let Some(begin) = rest.find("```sh") {
        let (head, body) = rest[begin + 5..].split_once('\n').expect("a line");
        let (script, after) = body.split_once("```").expect("an end");
        let code = head.trim().strip_prefix("exit=").map_or(0, |code| code.parse().expect("a code"));
        recipes.push((script, code));
        rest = after;
    }
    recipes
}

#[test]
fn the_readmes_recipes_run() {
    let readme = file("README.md");
    let recipes = recipes(&readme);
    assert!(recipes.len() >= 10, "{}", recipes.len());
    let has_jq = Command::new("jq").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    let binary = Path::new(env!("CARGO_BIN_EXE_budget-tee")).parent().expect("a folder");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let path = std::env::join_paths([binary, &tools, Path::new("/usr/bin"), Path::new("/bin")]).expect("a path");
    for (script, code) in recipes {
        if script.contains("jq") && !has_jq {
            skipped("jq");
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let output = plain("bash")
            .args(["-c", script])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("STREAM", fixture("review.jsonl"))
            .stdin(Stdio::null())
            .output()
            .expect("runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{script}\n{err}");
        assert!(!err.contains("not found"), "{script}\n{err}");
    }
}

#[test]
fn the_readme_shows_what_the_sample_shows() {
    let readme = file("README.md");
    let ran = run(&["--limit", "50k"], &harness::bytes("review.jsonl"));
    let report = ran.err.split_once("budget-tee: completed").expect("a report").1;
    assert!(readme.contains(&format!("budget-tee: completed{report}")), "{}", ran.err);
}

#[test]
fn only_the_owner_of_a_device_mentions_it() {
    for (word, owners) in [
        ("stderr()", &["screen.rs", "cli.rs", "hook.rs"][..]), // The command line asks whether it takes colours.
        ("kill_process", &["child.rs"]),
        ("pidfd_send_signal", &["child.rs"]),
        ("dup2_stdout", &["watch.rs"]),
        ("stdin()", &["main.rs", "watch.rs"]),
        ("stdout()", &["cli.rs", "early.rs", "screen.rs", "watch.rs", "wrap.rs"]), // Help and status go there instead of a stream.
        ("env::var", &["cli.rs", "screen.rs"]), // The screen asks what kind of terminal it is.
        ("SystemTime::now", &["main.rs", "account.rs"]),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for entry in std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
            let name = entry.file_name().into_string().expect("UTF-8");
            let text = std::fs::read_to_string(entry.path()).expect("readable");
            assert!(!text.contains(word) || owners.contains(&name.as_str()), "{word} in {name}");
        }
    }
}
