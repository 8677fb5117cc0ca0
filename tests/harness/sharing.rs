//! Runs that share a ledger, and what must hold wherever it is.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Ran, assistant, budget_tee, finish, kill, read_until};
use rustix::process::Signal;
use serde_json::Value;

/// A test of each thing that must hold, with the ledger that `$place` makes: its keeper and its name.
macro_rules! all_hold {
    ($place:expr) => {
        all_hold! {
            $place,
            runs_that_are_killed_lose_nothing_older_than_a_second_and_invent_nothing,
            runs_one_after_the_other_draw_on_one_budget,
            a_command_has_its_budget_across_runs,
            of_two_runs_that_need_the_last_of_it_exactly_one_starts,
            a_reservation_is_what_has_not_been_spent_of_it,
            a_run_trips_on_what_others_spend,
            warn_mode_says_what_others_spent_and_goes_on,
        }
    };
    ($place:expr, $($check:ident),+ $(,)?) => {
        $(#[test]
        fn $check() {
            let Some((_keeper, place)) = $place else { return };
            sharing::$check(place.as_ref());
        })+
    };
}

pub fn with(path: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = budget_tee(args);
    command.env("BUDGET_TEE_LEDGER", path);
    command
}

pub fn run_with(path: impl AsRef<OsStr>, args: &[&str], input: &str) -> Ran {
    finish(with(path, args), input.as_bytes())
}

/// The status report for scripts, and its exit code.
pub fn status(path: impl AsRef<OsStr>, args: &[&str]) -> (Value, Option<i32>) {
    let ran = run_with(path, &[args, &["--status", "--json"]].concat(), "");
    (serde_json::from_slice(&ran.out).expect("JSON"), ran.code())
}

pub fn counted(path: impl AsRef<OsStr>) -> u64 {
    status(path, &[]).0["counted"].as_u64().expect("a number")
}

/// A run that has been admitted and waits for more of its stream.
pub struct Waiting {
    pub child: Child,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
}

/// Starts a run and lets a first line pass, so that it is known to have been admitted.
pub fn waiting(path: impl AsRef<OsStr>, args: &[&str]) -> Waiting {
    let mut command = with(path, args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    // One that was refused reads nothing.
    let _ = stdin.write_all(b"{}\n");
    let mut line = [0; 3];
    let _ = stdout.read_exact(&mut line);
    Waiting { child, stdin, stdout }
}

impl Waiting {
    pub fn pass(&mut self, line: &str) {
        self.stdin.write_all(line.as_bytes()).expect("written");
        read_until(&mut self.stdout, "\n");
    }

    pub fn end(mut self) -> Option<i32> {
        drop(self.stdin);
        self.child.wait().expect("ends").code()
    }
}

pub fn runs_one_after_the_other_draw_on_one_budget(path: &OsStr) {
    let block = ["-q", "-l", "10k", "-m", "block"];
    assert_eq!(run_with(path, &block, &assistant("a", 6000)).code(), Some(0));
    let ran = run_with(path, &block, &assistant("b", 6000));
    assert_eq!((ran.code(), ran.out), (Some(122), assistant("b", 6000).into_bytes()));
    let ran = run_with(path, &block, &assistant("c", 1));
    assert_eq!((ran.code(), ran.out.len()), (Some(121), 0));
    assert_eq!(counted(path), 12_000);
}

pub fn a_command_has_its_budget_across_runs(path: &OsStr) {
    let args = ["-q", "-b", "/a=10k", "-m", "block", "-n"];
    let of = |name| [&args[..], &[name]].concat();
    assert_eq!(run_with(path, &of("/a"), &assistant("a", 9500)).code(), Some(0));
    assert_eq!(run_with(path, &of("/b"), &assistant("b", 9500)).code(), Some(0));
    assert_eq!(run_with(path, &of("/a"), &assistant("c", 2000)).code(), Some(121));
    let args = ["-q", "-b", "/a=10k", "-m", "block", "-e", "500", "-n", "/a"];
    assert_eq!(run_with(path, &args, &assistant("c", 2000)).code(), Some(122));
    let (facts, code) = status(path, &["-b", "/a=10k", "-l", "1M"]);
    assert_eq!((&facts["budgets"][1]["used"], code), (&11_500.into(), Some(122)));
    assert_eq!((&facts["commands"]["/b"], &facts["counted"]), (&9500.into(), &21_000.into()));
}

pub fn of_two_runs_that_need_the_last_of_it_exactly_one_starts(path: &OsStr) {
    let args = ["-q", "-l", "1000", "-e", "600", "-m", "block"];
    for round in 0..500 {
        let both = [(); 2].map(|()| {
            let path = path.to_owned();
            std::thread::spawn(move || waiting(path, &args))
        });
        // Neither ends before both are decided: the other would have room then.
        let both = both.map(|run| run.join().expect("joins"));
        let mut codes = both.map(Waiting::end);
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(121)], "round {round}");
    }
}

pub fn a_reservation_is_what_has_not_been_spent_of_it(path: &OsStr) {
    let mut first = waiting(path, &["-q", "-l", "1000", "-e", "600", "-m", "block"]);
    first.pass(&assistant("a", 500));
    while counted(path) < 500 {}
    assert_eq!(status(path, &[]).0["reserved"], 100);
    assert_eq!(run_with(path, &["-q", "-l", "1000", "-e", "401", "-m", "block"], "").code(), Some(121));
    assert_eq!(run_with(path, &["-q", "-l", "1000", "-e", "400", "-m", "block"], "").code(), Some(0));
    assert_eq!(first.end(), Some(0));
}

pub fn a_run_trips_on_what_others_spend(path: &OsStr) {
    let block = ["-q", "-l", "10k", "-m", "block", "-e", "0"];
    // At the end of a line and waiting for the next; in the middle of a line; around a command.
    let mut idle = waiting(path, &block);
    let mut in_line = waiting(path, &block);
    in_line.stdin.write_all(b"{\"type\":").expect("written");
    let mut command = with(path, &[&block[..], &["--", "sh", "-c", "echo '{}'; sleep 1000"]].concat());
    let mut wrapped = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    read_until(wrapped.stdout.as_mut().expect("piped"), "{}\n");
    assert_eq!(run_with(path, &block, &assistant("a", 20_000)).code(), Some(122));
    assert_eq!(idle.child.wait().expect("ends").code(), Some(122));
    assert_eq!(wrapped.wait().expect("ends").code(), Some(122));
    in_line.stdin.write_all(b"\"x\"}\nnot this").expect("written");
    assert_eq!(in_line.child.wait().expect("ends").code(), Some(122));
    let mut rest = String::new();
    in_line.stdout.read_to_string(&mut rest).expect("readable");
    assert_eq!(rest, "{\"type\":\"x\"}\n");
}

pub fn warn_mode_says_what_others_spent_and_goes_on(path: &OsStr) {
    assert_eq!(run_with(path, &["-q"], &assistant("a", 5000)).code(), Some(0));
    let ran = run_with(path, &["-q", "-l", "4k"], &assistant("b", 10));
    assert_eq!(ran.code(), Some(0));
    assert!(ran.err.contains("estimate") && ran.err.contains("exceeded: ≥ 5,010 of 4,000"), "{}", ran.err);
}

pub fn runs_that_are_killed_lose_nothing_older_than_a_second_and_invent_nothing(path: &OsStr) {
    let runs: Vec<_> = (0..16u64)
        .map(|n| {
            let path = path.to_owned();
            std::thread::spawn(move || {
                let mut run = waiting(&path, &["-q"]);
                let mut forwarded = Vec::new();
                // The moment of the kill is as good as random: the pace differs from run to run.
                for m in 0..40 {
                    run.pass(&assistant(&format!("m{m}"), 100));
                    forwarded.push(Instant::now());
                    std::thread::sleep(Duration::from_millis(10 + n * 3));
                }
                let killed = n % 2 == 0;
                if killed {
                    let now = Instant::now();
                    kill(&run.child, Signal::KILL);
                    run.child.wait().expect("ends");
                    let old = forwarded.iter().filter(|at| now - **at > Duration::from_secs(1)).count();
                    (old as u64 * 100, forwarded.len() as u64 * 100)
                } else {
                    assert_eq!(run.end(), Some(0));
                    (4000, 4000)
                }
            })
        })
        .collect();
    let bounds: Vec<_> = runs.into_iter().map(|run| run.join().expect("joins")).collect();
    let (least, most) = bounds.iter().fold((0, 0), |sum, bounds| (sum.0 + bounds.0, sum.1 + bounds.1));
    let counted = counted(path);
    assert!((least..=most).contains(&counted), "{least} <= {counted} <= {most}");
}
