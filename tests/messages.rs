//! Messages on stderr: each line has the program's name and fits into 80 columns, and what follows or what to
//! do is a note.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use harness::{Ran, assistant, finish, run};

/// A message of a model that asks for a tool.
fn tool_use(id: &str, input: u64) -> String {
    assistant(id, input).replace("\"usage\"", "\"content\":[{\"type\":\"tool_use\"}],\"usage\"")
}

/// A message of a model that has no price.
fn unpriced(model: &str) -> String {
    assistant("a", 5).replace("\"model\":\"m\"", &format!("\"model\":\"{model}\""))
}

fn check(ran: &Ran, wanted: &str) {
    assert!(ran.err.contains(wanted), "{wanted}\n{}", ran.err);
    for line in ran.err.lines() {
        assert!(line.starts_with("budget-tee: ") && line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn messages_about_budgets_fit_80_columns_and_say_what_follows() {
    let (small, large) = (assistant("a", 5_001), assistant("a", 5_015_040));
    let call = tool_use("a", 149_000);
    for (args, input, wanted) in [
        (
            &["-l", "5k"][..],
            &small,
            "budget-tee: overall budget exceeded: ≥ 5,001 of 5,000 tokens, 101 %\n\
             budget-tee: note: going on (--mode warn); --mode block would stop it\n",
        ),
        (
            &["-l", "5M", "-m", "block"],
            &large,
            "budget-tee: overall budget exceeded: ≥ 5,015,040 of 5,000,000 tokens, 101 %\n\
             budget-tee: note: stopping (--mode block); raise the budget to allow more\n",
        ),
        (&["-n", "/review", "-b", "/review=5M"], &large, "budget of /review exceeded: ≥ 5,015,040 of"),
        // Not a hundred percent before it is exactly reached.
        (&["-l", "5015041"], &large, "overall budget at 99 %: ≥ 5,015,040 of 5,015,041 tokens\n"),
        (&["-l", "5015040"], &large, "overall budget at 100 %: ≥ 5,015,040 of 5,015,040 tokens\n"),
        (
            &["-l", "200k", "-m", "block"],
            &call,
            "budget-tee: overall budget: 51,000 tokens left, next call needs ≥ 149,000\n\
             budget-tee: note: stopping (--mode block); raise the budget or use --stop after\n",
        ),
        (
            &["-l", "5M", "-e", "12M", "-m", "block"],
            &small,
            "budget-tee: estimate of 12,000,000 tokens does not fit into the overall budget\n\
             budget-tee: note: 0 of 5,000,000 tokens used\n\
             budget-tee: note: not started; raise the budget or lower --estimate\n",
        ),
        (&["-l", "5M", "-e", "12M"], &small, "note: going on (--mode warn); --mode block would not start it\n"),
        (&["-m", "block", "-b", "/other=5k"], &small, "note: block mode will not stop it; set --limit or --name\n"),
    ] {
        check(&run(&[&["-q"], args].concat(), input.as_bytes()), wanted);
    }
}

#[test]
fn messages_about_the_stream_fit_80_columns_and_say_what_to_do() {
    let claude = "note: run claude with --output-format stream-json --verbose\n";
    let model = "accounts/fireworks/models/deepseek-v3p1-terminus";
    for (args, input, wanted) in [
        (&[][..], "Error: something went wrong\n".to_owned(), claude),
        (&[], "{\"type\":\"a.kind.that.nobody.knows\"}\n".to_owned(), claude),
        (&[], String::new(), claude),
        (&[], "{\"type\":\"thread.started\",\"thread_id\":\"t\"}\n".to_owned(), "budgets take effect then\n"),
        (&["-l", "5usd"], unpriced(model), "has no price\nbudget-tee: note: priced as claude-opus-5 (--unpriced); "),
        (&["-l", "5usd", "--unpriced", "zero"], unpriced(model), "note: its cost is not counted (--unpriced); "),
    ] {
        check(&run(&[&["-q"], args].concat(), input.as_bytes()), wanted);
    }
}

#[test]
fn errors_fit_80_columns_and_say_what_is_wanted() {
    for (args, wanted) in [
        (&["--limt", "5k"][..], "unexpected argument '--limt' found\nbudget-tee: note: a similar argument exists: "),
        (&["--limit", "5x"], "note: want tokens (5000, 5,000, 5k, 1.5M, 2G) or dollars (2.50usd)\n"),
        (&["--count", "all"], "note: want a comma list of input, output, cache-write, cache-read\n"),
        (&["--mode", "stop"], "note: possible values: warn, block\n"),
        (&["--quiet=1"], "note: see budget-tee --help\n"),
        (&["--window", "year", "-L", "x"], "note: want day, week, month or a duration such as 90s, 30m or 5h\n"),
        (&["--unpriced", "nosuch"], "note: want a model of the price table, highest or zero\n"),
        (&["--status", "-L", "none.ndjson"], "note: the first run with this --ledger makes it\n"),
        (&["-L", "nowhere/x.ndjson", "-m", "block", "-l", "5k"], "note: not started: --mode block needs the ledger\n"),
        (
            &["--prices", "/nowhere/at/all/there/is/such/a/file/prices.json"],
            "cannot read prices /nowhere/at/all/there/is/such/a/file/prices.json\n\
             budget-tee: note: No such file or directory\n",
        ),
    ] {
        check(&run(args, b""), wanted);
    }
}

#[test]
fn an_annotation_is_one_line_with_its_notes() {
    let mut command = harness::budget_tee(&["-q", "-l", "5k", "-e", "6k", "-m", "block"]);
    command.env("GITHUB_ACTIONS", "true");
    let ran = finish(command, b"");
    assert!(ran.err.starts_with("::error title=budget-tee::estimate of 6,000 tokens does not fit"), "{}", ran.err);
    assert_eq!((ran.err.lines().count(), ran.err.matches("%0Anote: ").count()), (1, 2), "{}", ran.err);
}

#[test]
fn a_narrow_terminal_breaks_no_word() {
    let (ours, theirs) = harness::terminal(40);
    let mut command = harness::budget_tee(&["-l", "15k", "-m", "block", "--bars", "off", "--color", "never"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), tool_use("a", 9_000)).expect("written");
    command.stdin(file.reopen().expect("opens")).stdout(std::process::Stdio::null()).stderr(theirs);
    assert_eq!(command.status().expect("runs").code(), Some(122));
    drop(command);
    let shown = harness::all_of(ours).replace("\r\n", "\n");
    assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
    for whole in
        ["budget-tee: overall budget: 6,000 tokens\n          left, next", "  60%   ≥ 9.0K / 15.0K\n", "cache-write"]
    {
        assert!(shown.contains(whole), "{whole}\n{shown}");
    }
}
