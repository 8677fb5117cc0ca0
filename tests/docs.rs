//! Tests of rules: the manual page, the README and the help describe what the program does, and only
//! the owner of a device mentions it.

#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use budget_tee::error::Exit;
use harness::{fixture, plain, run, sources};
use serde_json::Value;

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("the file exists")
}

/// The manual page with options spelled as users type them instead of in mdoc macros.
fn manual() -> String {
    file("man/budget-tee.1").replace(" , Fl -", " --").replace("Fl -", "--").replace("Fl ", "-")
}

#[test]
fn every_option_is_in_the_manual_and_the_readme() {
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
fn every_agent_is_in_the_manual_and_the_readme() {
    let (manual, readme) = (file("man/budget-tee.1"), file("README.md"));
    for (agent, program, arguments) in budget_tee::stream::dialect::agents() {
        assert!(manual.contains(agent) && readme.contains(agent), "{agent}");
        let command = format!("{program} {arguments}");
        assert!(arguments.is_empty() || manual.contains(&command) && readme.contains(&command), "{command}");
    }
}

#[test]
fn no_line_of_a_text_for_people_is_too_long() {
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "man/measurements.md", "man/recipes.md"] {
        for line in file(name).lines() {
            assert!(line.chars().count() <= 120, "{name}: {line}");
        }
    }
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let anchors = |text: &str| -> Vec<String> {
        let heads = text.lines().filter_map(|line| line.strip_prefix("## "));
        heads.map(|head| head.to_lowercase().replace(' ', "-").replace(',', "")).collect()
    };
    let readme = file("README.md");
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut links = 0;
    for target in targets.filter(|target| !target.starts_with("http")) {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let text = if path.is_empty() { readme.clone() } else { file(path) };
        assert!(anchor.is_empty() || anchors(&text).iter().any(|known| known == anchor), "{target}");
        links += 1;
    }
    assert!(links >= 5, "{links}");
    // `[text][name]` needs a line for the name.
    for name in ["apps", "budgets", "cost-ceiling-guard", "subagent-budget"] {
        assert!(readme.contains(&format!("\n[{name}]: https://")), "{name}");
    }
}

#[test]
fn every_variable_is_in_the_manual_and_the_readme() {
    let (manual, readme) = (manual(), file("README.md"));
    let source: String = ["src/cli/task.rs", "src/cli/sources.rs"].map(file).concat();
    let starts = source.match_indices("\"BUDGET_TEE_").map(|(at, _)| &source[at + 1..]);
    let names: Vec<_> = starts.filter_map(|rest| rest.split(['"', ' ']).next()).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(manual.contains(name) && readme.contains(name), "{name}");
    }
}

#[test]
fn every_exit_code_is_in_the_manual_the_readme_and_the_help() {
    let (manual, readme) = (file("man/budget-tee.1"), file("README.md"));
    let help = String::from_utf8(run(&["--help"], b"").out).expect("UTF-8");
    let exits =
        [Exit::Refused, Exit::Stopped, Exit::Idle, Exit::Failed, Exit::CannotRun, Exit::NotFound, Exit::ReaderGone];
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
fn completions_are_printed_for_each_shell_and_offer_only_valid_values() {
    let table = budget_tee::cli::table();
    let options: Vec<_> = table.get_opts().filter(|option| !option.is_hide_set()).collect();
    assert!(options.len() > 20, "{}", options.len());
    for (shell, before) in [("bash", "--"), ("zsh", "--"), ("fish", "-l ")] {
        let ran = run(&["--completions", shell], b"");
        let text = String::from_utf8_lossy(&ran.out);
        assert_eq!(ran.code(), Some(0), "{shell}: {text}");
        for option in &options {
            let form = format!("{before}{}", option.get_long().unwrap_or("h"));
            assert!(text.contains(&form), "{form} for {shell}: {text}");
        }
        assert!(text.contains("warn") && text.contains("block"), "{shell}: {text}");
    }
    assert_eq!(run(&["--completions", "tcsh"], b"").code(), Some(125));
    // Every value that is offered is accepted.
    for arg in budget_tee::cli::table().get_arguments() {
        for value in arg.get_possible_values() {
            let option = format!("--{}={}", arg.get_long().unwrap_or_default(), value.get_name());
            if arg.get_action().takes_values() {
                assert!(budget_tee::cli::table().try_get_matches_from(["budget-tee", &option]).is_ok(), "{option}");
            }
        }
    }
}

/// What bash offers for the last of these words, as readline splits them; a command's own completion is
/// shown as `offset N`.
fn bash_offers(words: &[&str]) -> String {
    let script = r#"source /dev/stdin; _command_offset() { COMPREPLY=("offset $1"); }
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _budget_tee budget-tee "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
        echo "${COMPREPLY[@]}""#;
    let mut command = plain("bash");
    command.args(["-c", script, "bash"]).args(words);
    let ran = harness::finish(command, &run(&["--completions", "bash"], b"").out);
    assert_eq!(ran.err, "", "{words:?}");
    String::from_utf8(ran.out).expect("UTF-8").trim_end().to_owned()
}

#[test]
fn bash_completes_values_lists_and_the_wrapped_command() {
    for (words, offers) in [
        (&["--mod"][..], "--mode"),
        (&["--mode", ""], "warn block"),
        (&["--mode", "=", "b"], "block"),
        (&["--mode", "="], "warn block"),
        (&["-s", "U"], "USR1 USR2"),
        (&["--count", "=", "input,c"], "input,cache-write input,cache-read"),
        (&["--window", "=", "w"], "week"),
        (&["-q", "cla"], "offset 2"),
        (&["-l", "5k", "--mode", "=", "block", "--", "claude", "-"], "offset 7"),
        (&["-b", "/review", "=", "5k", "-L", "redis", ":", "//host", "claude", "--mod"], "offset 9"),
        (&["--overall-token-budget", "5k", "claude", "-p", ""], "offset 3"),
    ] {
        assert_eq!(bash_offers(&[&["budget-tee"], words].concat()), offers, "{words:?}");
    }
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
fn the_manual_pages_are_clean_and_fit_80_columns() {
    if !harness::has("mandoc") {
        return;
    }
    for page in ["man/budget-tee.1", "man/budget-tee-redis.7"] {
        let mandoc = |args: &[&str]| {
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            String::from_utf8(Command::new("mandoc").args(args).arg(page).output().expect("runs").stdout)
                .expect("UTF-8")
        };
        // Whether the pages that it names are installed is another matter.
        let lint = mandoc(&["-Tlint", "-Wstyle"]);
        let lint: Vec<_> = lint.lines().filter(|line| !line.contains("referenced manual not found")).collect();
        assert!(lint.is_empty(), "{lint:?}");
        // Bold letters are struck twice, with a backspace between.
        let mut shown = String::new();
        for char in mandoc(&["-Tutf8", "-Owidth=78"]).chars() {
            match char {
                '\u{8}' => drop(shown.pop()),
                _ => shown.push(char),
            }
        }
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        // A macro that quotes too much quotes within quotes.
        let mut is_open = false;
        for (at, char) in shown.char_indices().filter(|(_, char)| matches!(char, '\u{2018}' | '\u{2019}')) {
            let opens = char == '\u{2018}';
            assert_ne!(opens, is_open, "{}", &shown[..at]);
            is_open = opens;
        }
    }
}

#[test]
fn the_manual_has_the_options_in_the_order_of_the_help() {
    let help = String::from_utf8(run(&["--help"], b"").out).expect("UTF-8");
    let options =
        |line: &str| line.trim_start().starts_with('-').then(|| line.split_whitespace().next().map(str::to_owned));
    let in_help: Vec<_> = help.lines().filter_map(options).flatten().map(|name| name.replace(',', "")).collect();
    let manual = manual();
    let section = manual.split("\n.Sh ").find(|section| section.starts_with("OPTIONS\n")).expect("a section");
    let in_manual = section.lines().filter_map(|line| line.strip_prefix(".It ")?.split(' ').next());
    // The help hides these, and an option of the feature `redis` without it.
    let in_manual: Vec<_> = in_manual.filter(|name| in_help.iter().any(|known| known == name)).collect();
    assert_eq!(in_manual, in_help);
}

/// A script or job from the documentation, and its exit code as documented.
struct Recipe {
    /// `sh`, `yaml`, `crontab` or `make`.
    language: String,
    text: String,
    code: i32,
}

impl Recipe {
    fn new(language: &str, exit: &str, text: &str) -> Self {
        let code = exit.trim().strip_prefix("exit=").map_or(0, |code| code.parse().expect("a code"));
        Self { language: language.to_owned(), text: text.to_owned(), code }
    }

    /// Runs it in `folder` as a reader would, with a stand-in for `claude`.
    fn run(&self, folder: &Path) -> Output {
        let (program, args) = match self.language.as_str() {
            "sh" => ("bash", vec!["-c".to_owned(), self.text.clone()]),
            "yaml" => ("bash", vec!["-ec".to_owned(), step(&self.text)]),
            "crontab" => ("sh", vec!["-c".to_owned(), job(&self.text)]),
            "make" => {
                std::fs::write(folder.join("Makefile"), &self.text).expect("written");
                ("make", Vec::new())
            }
            other => panic!("unknown language {other}"),
        };
        std::fs::create_dir_all(folder.join("shop")).expect("a folder");
        let binary = Path::new(env!("CARGO_BIN_EXE_budget-tee")).parent().expect("a folder");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
        let path = std::env::join_paths([binary, &tools, Path::new("/usr/bin"), Path::new("/bin")]).expect("a path");
        let mut command = plain(program);
        command.args(args).current_dir(folder).stdin(Stdio::null());
        let variables =
            self.text.lines().filter(|_| self.language == "crontab").filter_map(|line| line.split_once('='));
        command.envs(variables.filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')));
        let stream = folder.join(".stream.jsonl");
        std::fs::write(
            &stream,
            ten_times(&std::fs::read_to_string(fixture("review.jsonl")).expect("the fixture exists")),
        )
        .expect("written");
        command.env("PATH", path).env("HOME", folder).env("STREAM", stream);
        command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        command.output().expect("runs")
    }

    /// Runs it and returns what it wrote to stdout, or nothing if a tool that it needs is not installed.
    fn check(&self) -> Option<String> {
        for tool in ["curl", "jq", "make"] {
            if (self.language == tool || self.text.contains(&format!("{tool} "))) && !harness::has(tool) {
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let output = self.run(folder.path());
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(self.code), "{}\n{err}", self.text);
        assert!(!err.contains("not found"), "{}\n{err}", self.text);
        Some(String::from_utf8(output.stdout).expect("UTF-8"))
    }
}

/// A stream with ten times the tokens and dollars: the recipes have limits for runs as large as real ones.
fn ten_times(stream: &str) -> String {
    fn scale(value: &mut Value, key: &str) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| scale(value, key)),
            Value::Array(items) => items.iter_mut().for_each(|value| scale(value, key)),
            Value::Number(number) if key.to_lowercase().ends_with("tokens") => {
                *value = (number.as_u64().expect("whole") * 10).into();
            }
            Value::Number(number) if key.to_lowercase().ends_with("usd") => {
                *value = (number.as_f64().expect("a number") * 10.0).into();
            }
            _ => {}
        }
    }
    let line = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("JSON");
        scale(&mut record, "");
        format!("{record}\n")
    };
    stream.lines().map(line).collect()
}

/// The script of the `run: |` step of a workflow.
fn step(yaml: &str) -> String {
    let (before, script) = yaml.split_once("run: |\n").expect("a step");
    let indent = " ".repeat(before.len() - before.rfind('\n').expect("a line") + 1);
    script.lines().map_while(|line| line.strip_prefix(&indent)).collect::<Vec<_>>().join("\n")
}

/// The command of the last line of a crontab, without the five time fields.
fn job(crontab: &str) -> String {
    let line = crontab.lines().last().expect("a line");
    assert!(!line.contains('%'), "cron ends a line at %");
    line.splitn(6, ' ').last().expect("a command").to_owned()
}

/// The code blocks in the README's section of recipes, and in the further ones.
fn recipes() -> Vec<Recipe> {
    let readme = file("README.md");
    let from = readme.find("\n## Recipes\n").expect("recipes") + 1;
    let until = from + readme[from..].find("\n## ").expect("an end");
    let text = readme[from..until].to_owned() + &file("man/recipes.md");
    let blocks = text.split("```").skip(1).step_by(2);
    let recipe = |block: &str| {
        let (head, text) = block.split_once('\n').expect("a line");
        let (language, exit) = head.split_once(' ').unwrap_or((head, ""));
        Recipe::new(language, exit, text)
    };
    blocks.map(recipe).collect()
}

/// The literal blocks of the manual's examples. A comment before a block gives its exit code.
fn examples(manual: &str) -> Vec<Recipe> {
    let from = manual.find(".Sh EXAMPLES\n").expect("examples");
    let until = from + manual[from..].find("\n.Sh SEE ALSO").expect("an end");
    let mut examples = Vec::new();
    let mut rest = &manual[from..until];
    while let Some((before, block)) = rest.split_once(".Bd -literal -offset indent\n") {
        let (text, after) = block.split_once(".Ed").expect("an end");
        let exit = before.trim_end().rsplit_once('\n').and_then(|(_, line)| line.strip_prefix(".\\\" "));
        examples.push(Recipe::new("sh", exit.unwrap_or_default(), &text.replace("\\e", "\\")));
        rest = after;
    }
    examples
}

#[test]
fn the_recipes_run() {
    let recipes = recipes();
    for language in ["sh", "yaml", "crontab", "make"] {
        assert!(recipes.iter().any(|recipe| recipe.language == language), "{language}");
    }
    assert!(recipes.len() >= 20, "{}", recipes.len());
    for recipe in recipes {
        recipe.check();
    }
}

#[test]
fn the_manuals_examples_run() {
    let examples = examples(&file("man/budget-tee.1"));
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        example.check();
    }
}

#[test]
fn the_readme_shows_the_status_that_its_recipe_prints() {
    let readme = file("README.md");
    let status = |recipe: &Recipe| recipe.text.contains("budget-tee --status -b");
    let recipe = recipes().into_iter().find(status).expect("a recipe with a status");
    let printed = recipe.check().expect("the recipe needs no other tool");
    // The rest changes from run to run.
    let stable = printed.split_once("alive ").expect("a report").0;
    assert!(readme.contains(stable), "{printed}");
}

#[test]
fn the_picture_matches_the_report_of_the_sample() {
    let ran = run(&["-l", "50k", "-b", "/review=45k", "-n", "/review"], &harness::bytes("review.jsonl"));
    let (_, report) = ran.err.split_once("completed").expect("a report");
    let picture = file("man/bars.svg");
    let drawn: String = picture.replace("&#160;", " ").split(['<', '>']).skip(2).step_by(2).collect();
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    assert!(plain(&drawn).contains(&plain(report)), "{report}\n{drawn}");
    let links = picture.matches("http").count() + picture.matches("href").count() + picture.matches("@import").count();
    assert_eq!(links, 1, "the picture loads nothing: its only URL is the namespace");
}

#[test]
fn only_the_owner_of_a_device_mentions_it() {
    let files = sources();
    for (word, owners) in [
        // The command line checks whether stderr supports colors; hooks print there.
        ("stderr()", &["show/screen.rs", "cli/task.rs", "process/hook.rs"][..]),
        ("kill_process", &["process/child.rs"]),
        ("pidfd_send_signal", &["process/tree.rs"]),
        ("dup2_std", &["process/watch.rs"]),
        ("stdin()", &["cli/task.rs", "process/filter.rs"]),
        // Help and status are printed on stdout instead of a stream.
        ("stdout()", &["main.rs", "cli/task.rs", "show/screen.rs", "process/watch.rs", "process/wrap.rs"]),
        // The screen reads the kind of terminal.
        ("env::var", &["cli/sources.rs", "show/screen.rs"]),
        ("SystemTime::now", &["main.rs", "ledger/worker.rs"]),
        ("use redis::", &["ledger/redis/address.rs", "ledger/redis/protocol.rs", "ledger/redis/client.rs"]),
    ] {
        let users: Vec<_> =
            files.iter().filter(|(_, text)| text.contains(word)).map(|(name, _)| name.as_str()).collect();
        assert!(users.iter().all(|user| owners.contains(user)), "{word} in {users:?}");
        // A rule about a word that no longer occurs would always pass.
        assert!(owners.iter().all(|owner| users.contains(owner)), "{word} is not in all of {owners:?}");
    }
}

#[test]
fn the_brief_help_fits_one_screen_and_the_long_one_has_all_options() {
    let help = |args: &[&str]| String::from_utf8(run(args, b"").out).expect("UTF-8");
    let (brief, long) = (help(&["-h"]), help(&["--help"]));
    assert!(brief.lines().count() <= 24, "{brief}");
    for text in [&brief, &long] {
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let options = |text: &str| text.lines().filter(|line| line.trim_start().starts_with('-')).count();
    assert_eq!(options(&brief), 10);
    let shown = budget_tee::cli::table().get_opts().filter(|option| !option.is_hide_set()).count();
    assert_eq!(options(&long), shown);
}

#[test]
fn usage_errors_do_not_mislead() {
    for (args, wanted, unwanted) in [
        (&["--", "-p", "hi"][..], "what follows -- is a command with its arguments", "cannot run"),
        (&["--limt", "5"], "a similar argument exists: '--limit'", "as a value"),
        (&["--limit", "1,5"], "want tokens (5000, 5,000, 5k, 1.5M, 2G) or dollars", "panicked"),
        #[cfg(not(feature = "redis"))]
        (&["--offline-grace", "3s"], "built with --features redis", "similar"),
    ] {
        let ran = run(args, b"");
        assert_eq!(ran.code(), Some(125), "{args:?}");
        assert!(ran.err.contains(wanted) && !ran.err.contains(unwanted), "{args:?}: {}", ran.err);
    }
    for args in [&["-q", "-l", "$5", "-m", "BLOCK"][..], &["-q", "-l", "5,000", "-m", "Warn"]] {
        assert_eq!(run(args, harness::NO_SPEND.as_bytes()).code(), Some(0), "{args:?}");
    }
    let mut command = harness::budget_tee(&["-q", "-m", "block"]);
    command.env("BUDGET_TEE_LIMIT", "5,000");
    assert_eq!(harness::finish(command, harness::NO_SPEND.as_bytes()).err, "");
}
