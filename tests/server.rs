//! Tests of budgets shared on a server: the same as for a file, and failures of networks and servers.

#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "harness/server.rs"]
mod server;
#[macro_use]
#[path = "harness/sharing.rs"]
mod sharing;
#[path = "harness/threads.rs"]
mod threads;

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use budget_tee::amount::{Amount, Amounts, Unit};
use budget_tee::budget::{Mode, Room, Scope};
use budget_tee::count::tally::Tally;
use budget_tee::count::tokens::{Classes, Spend, Tokens};
use budget_tee::ledger::book::Book;
use budget_tee::ledger::limits::Limit;
use budget_tee::ledger::redis::address::Address;
use budget_tee::ledger::store::{Handover, Request};
use budget_tee::ledger::window::{Period, Window};
use budget_tee::ledger::{self, Location};
use harness::{NO_SPEND, assistant, finish, kill, read_until};
use proptest::prelude::*;
use rustix::process::Signal;
use server::{Proxy, Server, free_port};
use sharing::{counted, run_with, status, wait_for, waiting, with};

/// A server, and the address of a ledger on it; none if no server is installed.
fn ledger() -> Option<(Server, String)> {
    let server = Server::start()?;
    let location = server.ledger("nightly");
    Some((server, location))
}

shared_ledger_tests!(ledger());

/// All fields and values of one hash of the ledger.
fn hash(server: &Server, level: &str) -> Vec<String> {
    server.ask(&["HGETALL", &format!("budget-tee:{{nightly}}:{level}")])
}

/// One thing that happens to a ledger.
#[derive(Clone, Debug)]
enum Event {
    /// A run of this command asks to start, with an estimate and the room left in its budgets.
    Start { name: Option<usize>, reservation: Amounts, rooms: Vec<Room>, must_fit: bool, thread: usize },
    /// Somebody grants something to a command, or to all.
    Grant { name: Option<usize>, amounts: Amounts },
    /// One of the active runs has used so much of each model by now, which may be less than before, and is still
    /// alive.
    Spend { run: prop::sample::Index, used: [u64; 2] },
    /// The same, and it ends.
    End { run: prop::sample::Index, used: [u64; 2] },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Multiples of 250, so that equal amounts occur.
    let sum = (0..8u64, 0..8u64);
    let sum = sum.prop_map(|(tokens, micro_usd)| Amounts { tokens: tokens * 250, micro_usd: micro_usd * 250 });
    let room = (any::<bool>(), any::<bool>(), 0..20u64, 0..10u64).prop_map(|(of_command, usd, limit, estimate)| {
        let scope = if of_command { Scope::Command } else { Scope::Overall };
        let unit = if usd { Unit::Usd } else { Unit::Tokens };
        Room { scope, unit, limit: limit * 250, estimate: estimate * 250 }
    });
    let start = (prop::option::of(0..3usize), sum, prop::collection::vec(room, 0..3), any::<bool>(), 0..3usize);
    let start = start.prop_map(|(name, reservation, mut rooms, must_fit, thread)| {
        // A run without a name has no budget of its own.
        rooms.iter_mut().filter(|_| name.is_none()).for_each(|room| room.scope = Scope::Overall);
        Event::Start { name, reservation, rooms, must_fit, thread }
    });
    let end = (any::<prop::sample::Index>(), any::<[u16; 2]>())
        .prop_map(|(run, used)| Event::End { run, used: used.map(|used| u64::from(used) % 6 * 250) });
    let spend = (any::<prop::sample::Index>(), any::<[u16; 2]>())
        .prop_map(|(run, used)| Event::Spend { run, used: used.map(|used| u64::from(used) % 6 * 250) });
    let grant = (prop::option::of(0..3usize), 0..4u64, 1..4u64).prop_map(|(name, tokens, micro_usd)| Event::Grant {
        name,
        amounts: Amounts { tokens: tokens * 250, micro_usd: micro_usd * 250 },
    });
    prop::collection::vec(prop_oneof![3 => start, 2 => end, 4 => spend, 1 => grant], 1..20)
}

const THREADS: [&str; 3] = ["01a210f5-01db-72e0-a273-5d7d9cd799da", "t", "a \u{1b}\"ä"];

const NAMES: [&str; 3] = ["/a", "/a b", "/ä\"x"];

/// The windows that a history is tried with; all of it is of now.
fn windows() -> impl Strategy<Value = Option<Window>> {
    let calendar = |period| Some(Window::Calendar(period, jiff::tz::TimeZone::system()));
    prop::sample::select(vec![None, Some(Window::Last(60.0)), calendar(Period::Day), calendar(Period::Month)])
}

/// What a run has spent on two models, in one thread.
fn spent([a, b]: [u64; 2], thread: usize) -> Handover {
    let spend = |input, output, micro_usd| {
        let tokens = Tokens { input, output, ..Tokens::default() };
        Spend { tokens, micro_usd }
    };
    // Each may have nothing, or have moved to the other.
    let models = [("m".to_owned(), spend(a, a, 0)), ("n \u{1f}".to_owned(), spend(0, b, b))];
    let mark = Some((THREADS[thread], spend(a, b, 0).tokens)).filter(|_| a + b > 0);
    Handover { spend: Tally::from_iter(models), marks: mark.into_iter().collect() }
}

/// What every run has used, by the last word of each: naively, by name and model.
#[derive(Default)]
struct LastWords(Vec<(Option<usize>, [u64; 2])>);

impl LastWords {
    /// By all runs, or by those of a name.
    fn used(&self, name: Option<usize>) -> Spend {
        let tallies = self.0.iter().filter(|(of, _)| name.is_none() || *of == name);
        let sum = tallies.fold([0; 2], |sum, (_, used)| [sum[0] + used[0], sum[1] + used[1]]);
        spent(sum, 0).spend.sum()
    }

    fn check(&self, book: &Book, now: f64) {
        for name in [None, Some(0), Some(1), Some(2)] {
            assert_eq!(book.used(name.map(|name| NAMES[name]), now), self.used(name), "{name:?}");
        }
        let all = self.0.iter().fold([0; 2], |sum, (_, used)| [sum[0] + used[0], sum[1] + used[1]]);
        for (model, spend) in spent(all, 0).spend.iter() {
            assert_eq!(book.by_model().get(model), *spend, "{model}");
        }
    }
}

/// The answers of a ledger to these events.
fn answers(location: &Location, window: Option<&Window>, events: &[Event]) -> Vec<String> {
    let now = budget_tee::ledger::worker::unix_now();
    let classes: Classes = "input,cache-read".parse().expect("classes");
    let (mut answers, mut runs, mut last_words) = (Vec::new(), Vec::new(), LastWords::default());
    for event in events {
        match event {
            Event::Start { name, reservation, rooms, must_fit, thread } => {
                let mode = if *must_fit { Mode::Block } else { Mode::Warn };
                let (number, name) = (*name, name.map(|name| NAMES[name]));
                let limit = |room: &Room| Limit {
                    name: name.filter(|_| room.scope == Scope::Command).map(str::to_owned),
                    amount: Amount { unit: room.unit, value: room.limit },
                    window: "day".to_owned(),
                };
                // A run has one for each name and unit.
                let mut limits: Vec<Limit> = rooms.iter().map(limit).collect();
                limits.sort_by_key(|limit| (limit.name.clone(), limit.amount.unit == Unit::Usd));
                limits.dedup_by_key(|limit| (limit.name.clone(), limit.amount.unit));
                let request = Request { reservation: *reservation, classes, rooms: rooms.clone(), limits, mode };
                let mut ledger = ledger::open(location, name, window.cloned(), now).expect("opens");
                let admission = ledger.admit(&request, now).expect("answers");
                answers.push(format!("{admission:?} {:?}", ledger.totals(now)));
                if admission.admitted {
                    runs.push((ledger, last_words.0.len(), *thread));
                    last_words.0.push((number, [0, 0]));
                }
            }
            Event::Grant { name, amounts } => {
                let name = name.map(|name| NAMES[name]);
                let mut ledger = ledger::open_there(location).expect("opens");
                answers.push(format!("{:?}", ledger.grant(name, *amounts, now)));
            }
            Event::Spend { run, used } if !runs.is_empty() => {
                let at = run.index(runs.len());
                let (ledger, of, thread) = &mut runs[at];
                last_words.0[*of].1 = *used;
                ledger.step(&spent(*used, *thread), now).expect("answers");
                let totals = ledger.totals(now);
                let live = (totals.own, totals.overall);
                assert_eq!(live, (spent(*used, 0).spend.sum(), last_words.used(None)));
                answers.push(format!("{:?}", ledger.totals(now)));
            }
            Event::End { run, used } if !runs.is_empty() => {
                let (mut ledger, of, thread) = runs.swap_remove(run.index(runs.len()));
                last_words.0[of].1 = *used;
                ledger.leave(&spent(*used, thread), now).expect("answers");
                answers.push(format!("{:?}", ledger.totals(now)));
            }
            Event::Spend { .. } | Event::End { .. } => {}
        }
    }
    let mut ledger = ledger::open(location, None, window.cloned(), now).expect("opens");
    ledger.admit(&Request::default(), now).expect("answers");
    answers.push(format!("{:?}", ledger.book().marks.iter().collect::<Vec<_>>()));
    ledger.leave(&Handover::default(), now).expect("answers");
    let ledger = ledger::read(location, window.cloned(), None, now).expect("answers");
    let (book, mut alive) = ledger.as_ref().map(|ledger| (ledger.book(), ledger.alive(classes))).expect("exists");
    last_words.check(book, now + 1.0);
    alive.iter_mut().for_each(|run| run.id.clear());
    alive.sort_by_key(|run| format!("{run:?}"));
    let models: std::collections::BTreeMap<_, _> = book.by_model().iter().cloned().collect();
    // A server keeps nothing of a command that used nothing.
    let names = [None, Some(NAMES[0]), Some(NAMES[1]), Some(NAMES[2])];
    let used = names.map(|name| (book.used(name, now + 1.0), book.granted(name, now)));
    let limits: Vec<_> = book.limits().all().collect();
    answers.push(format!("{alive:?} {models:?} {used:?} {limits:?}"));
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_and_a_file_give_the_same_answers(all in prop::collection::vec((windows(), events()), 5)) {
        let Some(server) = Server::start() else { return Ok(()) };
        for (at, (window, events)) in all.iter().enumerate() {
            let folder = tempfile::tempdir().expect("a folder");
            let file = Location::File(folder.path().join("ledger"));
            let address = Address::parse(&server.ledger(&format!("n{at}")), None, Duration::from_secs(60), None);
            let address = Location::Server(Box::new(address.expect("an address")));
            // The first event creates both ledgers.
            let (rooms, must_fit, thread) = (Vec::new(), true, 0);
            let first = [Event::Start { name: None, reservation: Amounts::default(), rooms, must_fit, thread }];
            let events = [&first[..], events].concat();
            let window = window.as_ref();
            prop_assert_eq!(answers(&address, window, &events), answers(&file, window, &events));
        }
    }
}

#[test]
fn five_hundred_runs_eight_at_a_time_add_up_exactly() {
    let Some((server, location)) = ledger() else { return };
    let threads: Vec<_> = (0..8u64)
        .map(|thread| {
            let location = location.clone();
            std::thread::spawn(move || {
                for run in (0..500).filter(|run| run % 8 == thread) {
                    let input: String = (0..=run % 3).map(|m| assistant(&format!("m{m}"), 1000 + run)).collect();
                    let name = format!("/{}", run % 5);
                    let ran = run_with(&location, &["-q", "-l", "1G", "-m", "block", "-n", &name], &input);
                    assert_eq!((ran.code(), ran.err.as_str(), ran.out.len()), (Some(0), "", input.len()));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("joins"));
    let want: u64 = (0..500).map(|run| (run % 3 + 1) * (1000 + run)).sum();
    let (facts, _) = status(&location, &[]);
    assert_eq!((&facts["counted"], &facts["alive"]), (&want.into(), &serde_json::json!([])));
    let commands = facts["commands"].as_object().expect("an object");
    assert_eq!(commands.values().filter_map(serde_json::Value::as_u64).sum::<u64>(), want);
    assert_eq!(facts["models"]["m"]["input"], want);
    // The usage is in each window exactly once.
    for window in ["20m", "1h", "7d", "60d"] {
        assert_eq!(status(&location, &["-w", window]).0["counted"], want, "{window}");
        assert_eq!(status(&location, &["-w", window]).0["tokens_last_hour"], want, "{window}");
    }
    assert!(hash(&server, "ever").len() == 10);
}

#[test]
fn nothing_is_lost_when_the_server_is_killed_and_restarted() {
    let Some((mut server, location)) = ledger() else { return };
    let args = ["-q", "-l", "1M", "-m", "warn"];
    let mut runs: Vec<_> = (0..4).map(|_| waiting(&location, &args)).collect();
    for round in 0..5 {
        for run in &mut runs {
            run.pass(&assistant(&format!("a{round}"), 100));
        }
        server.kill();
        for run in &mut runs {
            run.pass(&assistant(&format!("b{round}"), 100));
        }
        server.restart();
    }
    for run in runs {
        assert_eq!(run.end(), Some(0));
    }
    assert_eq!(counted(&location), 4000);
}

#[test]
fn a_suspended_server_does_not_delay_the_stream_and_gets_all_usage_once() {
    let Some((server, location)) = ledger() else { return };
    let mut command = with(&location, &["-q", "-l", "1M"]);
    let (mut child, mut stdin, mut stdout, mut stderr) = piped(&mut command);
    let mut pass = |line: &str| {
        stdin.write_all(line.as_bytes()).expect("written");
        assert_eq!(read_until(&mut stdout, "\n"), line);
    };
    pass(&assistant("a", 100));
    server.signal(Signal::STOP);
    for n in 0..1000 {
        pass(&assistant(&format!("b{n}"), 1));
    }
    let message = read_until(&mut stderr, "note: going on without the ledger\n");
    assert!(message.contains("/0/nightly\nbudget-tee: note: no answer for 3 s\n"), "{message}");
    pass(&assistant("c", 1));
    server.signal(Signal::CONT);
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!((rest.as_str(), counted(&location)), ("", 1101));
}

#[test]
fn usage_is_counted_once_wherever_an_answer_is_cut_off() {
    let Some((server, location)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let mut want = 0;
    for bytes in (1..400).step_by(7) {
        proxy.cut_after(bytes);
        // Cuts off the answer to the start, to an update or to the end of a run.
        let ran = run_with(proxy.ledger("nightly"), &["-q", "-l", "1M", "-m", "block"], &assistant("a", bytes as u64));
        assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""), "cut after {bytes}");
        want += bytes as u64;
        let mut run = waiting(proxy.ledger("nightly"), &["-q", "-l", "1M", "-m", "block"]);
        proxy.cut_after(bytes);
        run.pass(&assistant("b", bytes as u64));
        assert_eq!(run.end(), Some(0));
        want += bytes as u64;
    }
    assert_eq!((counted(&location), proxy.cuts()), (want, 2 * (1..400).step_by(7).count()));
    assert_eq!(status(&location, &[]).0["alive"], serde_json::json!([]));
}

#[test]
fn a_thread_is_counted_once_wherever_an_answer_is_cut_off() {
    let Some((server, location)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let mut input = 0;
    for bytes in (1..400).step_by(13) {
        proxy.cut_after(bytes);
        input += 10;
        let process = threads::process(threads::THREAD, &[[input, 0, 0], [input + 5, 0, 0]]);
        let ran = run_with(proxy.ledger("nightly"), &["-q", "-l", "1M", "-m", "block"], &process);
        assert_eq!(ran.code(), Some(0), "cut after {bytes}: {}", ran.err);
        input += 5;
        assert_eq!(counted(&location), input, "cut after {bytes}");
    }
}

#[test]
fn a_call_that_comes_twice_does_not_take_back_the_mark_of_another_run() {
    let Some((server, location)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let now = budget_tee::ledger::worker::unix_now();
    let [mut first, mut second] = [proxy.ledger("nightly"), location].map(|location| {
        let address = Address::parse(&location, None, Duration::from_secs(60), None).expect("an address");
        let mut ledger = ledger::open(&Location::Server(Box::new(address)), None, None, now).expect("opens");
        ledger.admit(&Request::default(), now).expect("answers");
        ledger
    });
    proxy.drop_answers(true);
    assert!(first.step(&spent([250, 0], 0), now).is_err(), "the answer is lost");
    proxy.drop_answers(false);
    let other = Handover { marks: spent([750, 0], 0).marks, ..spent([500, 0], 0) };
    second.step(&other, now).expect("answers");
    first.step(&spent([250, 0], 0), now).expect("answers");
    assert_eq!(hash(&server, "threads"), [THREADS[0], "750 0 0 0 0"]);
}

#[test]
fn a_call_that_comes_after_a_newer_one_changes_nothing() {
    let Some((server, location)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let now = budget_tee::ledger::worker::unix_now();
    let address = Address::parse(&proxy.ledger("nightly"), None, Duration::from_secs(60), None).expect("an address");
    let mut ledger = ledger::open(&Location::Server(Box::new(address)), Some("/a"), None, now).expect("opens");
    ledger.admit(&Request::default(), now).expect("answers");
    ledger.step(&spent([250, 500], 0), now).expect("answers");
    for (late, last) in [([250, 750], [1000, 1000]), ([2000, 250], [0, 750]), ([1000, 0], [250, 0])] {
        proxy.hold_calls();
        assert!(ledger.step(&spent(late, 0), now).is_err(), "there is no answer");
        ledger.step(&spent(last, 0), now).expect("answers on a new connection");
        let calls = script_calls(&server);
        proxy.release_calls();
        while script_calls(&server) == calls {}
        let (facts, _) = status(&location, &["-w", "1h"]);
        let want = last[0] * 2 + last[1];
        assert_eq!((&facts["counted"], &facts["commands"]["/a"]), (&want.into(), &want.into()), "{late:?}");
        assert_eq!(hash(&server, "threads")[1], format!("{} {} 0 0 0", last[0], last[1]));
    }
    ledger.leave(&spent([0, 250], 0), now).expect("answers");
    assert_eq!(counted(&location), 250);
}

#[test]
fn who_reads_only_what_has_changed_sees_what_was_lowered_in_a_past_second() {
    let Some((server, location)) = ledger() else { return };
    let now = budget_tee::ledger::worker::unix_now();
    let second = || server.ask::<(u64, u64)>(&["TIME"]).0;
    for window in [None, Some(Window::Last(60.0))] {
        let [mut writer, mut reader] = [(); 2].map(|()| {
            let address = Address::parse(&location, None, Duration::from_secs(60), None).expect("an address");
            let location = Location::Server(Box::new(address));
            let mut ledger = ledger::open(&location, Some("/a"), window.clone(), now).expect("opens");
            ledger.admit(&Request::default(), now).expect("answers");
            ledger
        });
        for (used, own) in [([500, 500], 1500), ([250, 750], 1250), ([0, 750], 750), ([0, 0], 0)] {
            writer.step(&spent(used, 0), now).expect("answers");
            reader.step(&Handover::default(), now).expect("answers");
            let totals = [writer.totals(now), reader.totals(now)];
            let tokens = totals.map(|totals| Classes::default().count(&totals.command.tokens));
            assert_eq!((tokens, Classes::default().count(&totals[0].own.tokens)), ([own; 2], own), "{window:?}");
            let before = second();
            while second() == before {}
        }
        writer.leave(&Handover::default(), now).expect("answers");
    }
}

#[test]
fn a_thread_is_counted_whole_where_the_server_is_unreachable_at_the_start() {
    let location = format!("redis://127.0.0.1:{}/0/nightly", free_port());
    threads::without_its_ledger_a_run_counts_a_thread_whole(location.as_ref());
}

#[test]
fn a_server_that_comes_back_empty_is_told_the_marks_of_a_run_under_way() {
    let Some((mut server, location)) = ledger() else { return };
    let mut run = waiting(&location, &["-q"]);
    for (thread, input) in [("a", 100), ("b", 200)] {
        run.pass(&threads::process(thread, &[]));
        run.pass(&threads::turn([input, 0, 0]));
    }
    wait_for(&location, 300);
    server.ask::<()>(&["FLUSHALL"]);
    server.kill();
    server.restart();
    run.pass(&threads::turn([201, 0, 0]));
    wait_for(&location, 301);
    assert_eq!(hash(&server, "threads"), ["a", "100 0 0 0 0", "b", "201 0 0 0 0"]);
    assert_eq!(run.end(), Some(0));
    for (thread, input) in [("a", 101), ("b", 202)] {
        assert_eq!(run_with(&location, &["-q"], &threads::process(thread, &[[input, 0, 0]])).code(), Some(0));
    }
    assert_eq!(counted(&location), 303);
}

#[test]
fn threads_on_a_server_are_bounded_and_the_newest_stay() {
    let Some((server, location)) = ledger() else { return };
    for run in 0..5 {
        let ids = (run * 250..run * 250 + 250).map(|n| threads::process(&format!("t{n}"), &[[1, 0, 0]]));
        assert_eq!(run_with(&location, &["-q"], &ids.collect::<String>()).code(), Some(0));
    }
    // They are forgotten before others are added: one more run makes room.
    assert_eq!(run_with(&location, &["-q"], &threads::process("last", &[[1, 0, 0]])).code(), Some(0));
    let [threads, by_time] = ["threads", "threads:at"].map(|key| format!("budget-tee:{{nightly}}:{key}"));
    assert_eq!((server.ask::<u64>(&["HLEN", &threads]), server.ask::<u64>(&["ZCARD", &by_time])), (1025, 1025));
    assert!(server.ask::<bool>(&["HEXISTS", &threads, "t1249"]) && !server.ask::<bool>(&["HEXISTS", &threads, "t0"]));
}

#[test]
fn without_a_server_block_mode_does_not_start_and_warn_mode_continues() {
    let location = format!("redis://127.0.0.1:{}/0/nightly", free_port());
    let ran = run_with(&location, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 100));
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
    assert_eq!(
        ran.err,
        format!(
            "budget-tee: cannot reach ledger {location}\nbudget-tee: note: Connection refused\n\
             budget-tee: note: not started: --mode block needs the ledger\n"
        )
    );
    let ran = run_with(&location, &["--status"], "");
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
    let input: String = (0..100).map(|n| assistant(&format!("a{n}"), 1)).collect();
    let ran = run_with(&location, &["-q", "-l", "1M"], &input);
    assert_eq!((ran.code(), ran.out.len()), (Some(0), input.len()));
    assert_eq!(ran.messages(), 2, "{}", ran.err);
    let refused = "Connection refused\nbudget-tee: note: ";
    assert!(ran.err.contains(&format!("{refused}going on without the ledger (--mode warn)\n")), "{}", ran.err);
    assert!(ran.err.ends_with(&format!("{refused}100 tokens of this run are not in the ledger\n")), "{}", ran.err);
}

#[test]
fn in_warn_mode_a_server_that_starts_late_gets_all_usage_once() {
    let Some((mut server, location)) = ledger() else { return };
    server.kill();
    let mut run = waiting(&location, &["-q", "-l", "1M", "-n", "/late"]);
    run.pass(&assistant("a", 100));
    server.restart();
    run.pass(&assistant("b", 100));
    wait_for(&location, 200);
    let (facts, _) = status(&location, &[]);
    assert_eq!((&facts["commands"]["/late"], &facts["alive"][0]["name"]), (&200.into(), &"/late".into()));
    assert_eq!(run.end(), Some(0));
    assert_eq!(counted(&location), 200);
}

/// Runs with a server that becomes unreachable, and writes `input` after that. Returns the rest of stderr, the
/// exit code, and the rest of stdout.
fn lose_server(args: &[&str], input: &str) -> Option<(String, Option<i32>, String)> {
    let (server, _) = ledger()?;
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let summary = tempfile::NamedTempFile::new().expect("a file");
    let path = summary.path().to_str().expect("UTF-8");
    let args = [&["-q", "-l", "1M", "-m", "block", "-e", "500", "--summary", path], args].concat();
    let mut command = with(proxy.ledger("nightly"), &args);
    let (mut child, mut stdin, mut stdout, mut stderr) = piped(&mut command);
    stdin.write_all(b"{}\n").expect("written");
    read_until(&mut stdout, "{}\n");
    proxy.drop_answers(true);
    read_until(&mut stderr, "no answer for 3 s\nbudget-tee: note: going on for ");
    let message = read_until(&mut stderr, "\n");
    assert!(message.ends_with(" within the reservation (--offline-grace)\n"), "{message}");
    let _ = stdin.write_all(input.as_bytes());
    let code = child.wait().expect("ends").code();
    let (mut rest, mut messages) = (String::new(), String::new());
    stdout.read_to_string(&mut rest).expect("UTF-8");
    stderr.read_to_string(&mut messages).expect("UTF-8");
    // By its path: the file is replaced as a whole.
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("a summary");
    assert_eq!((&facts["outcome"], &facts["stopped_by"]), (&"stopped".into(), &"ledger".into()));
    Some((messages, code, rest))
}

#[test]
fn block_mode_continues_without_the_server_only_for_the_offline_grace() {
    let Some((message, code, rest)) = lose_server(&["--offline-grace", "4s"], &assistant("a", 500)) else { return };
    assert_eq!((code, rest), (Some(122), assistant("a", 500)));
    assert!(
        message.contains("unreachable for 4s (--offline-grace)\nbudget-tee: note: stopping (--mode block)"),
        "{message}"
    );
}

#[test]
fn block_mode_continues_without_the_server_only_within_its_reservation() {
    let Some((message, code, _)) = lose_server(&["--offline-grace", "1h"], &assistant("a", 501)) else { return };
    assert_eq!(code, Some(122));
    assert!(
        message.contains("unreachable and no reservation is left (--estimate)\nbudget-tee: note: stopping"),
        "{message}"
    );
}

/// Starts a run with pipes on stdin, stdout and stderr.
fn piped(command: &mut Command) -> (Child, ChildStdin, ChildStdout, ChildStderr) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("starts");
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    (child, pipes.0.expect("piped"), pipes.1.expect("piped"), pipes.2.expect("piped"))
}

/// The sorted latencies of 2000 lines in microseconds, and the exit code of the run.
fn latencies(mut command: Command) -> (Vec<u128>, Option<i32>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut latencies: Vec<_> = (0..2000)
        .map(|n| {
            let (line, mut back) = (assistant(&format!("m{n}"), 1), String::new());
            let began = Instant::now();
            stdin.write_all(line.as_bytes()).expect("written");
            stdout.read_line(&mut back).expect("readable");
            assert_eq!(back, line);
            began.elapsed().as_micros()
        })
        .collect();
    drop(stdin);
    latencies.sort_unstable();
    // The slowest is the first line, which waits for the start.
    latencies.pop();
    (latencies, child.wait().expect("ends").code())
}

#[test]
fn a_slow_server_does_not_delay_the_stream() {
    let Some((server, location)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::from_millis(100));
    let args = ["-q", "-l", "1M", "-m", "block"];
    let (near, _) = latencies(harness::budget_tee(&args));
    let (far, code) = latencies(with(proxy.ledger("nightly"), &args));
    let calls = script_calls(&server);
    let note = format!(
        "without a ledger {} us, 99 % {} us; 200 ms away {} us, 99 % {} us, {calls} calls\n",
        near[1000], near[1980], far[1000], far[1980]
    );
    std::io::stderr().write_all(note.as_bytes()).expect("stderr is writable");
    // A call for each line would make 2000 calls and take 400 s.
    assert!(calls < 200, "{calls}");
    assert_eq!((code, counted(&location)), (Some(0), 2000));
}

#[test]
fn each_server_outage_is_reported_once_with_what_is_left() {
    let Some((server, _)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let mut command = with(proxy.ledger("nightly"), &["-q", "-l", "1M", "-m", "block", "-e", "10"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    stdin.write_all(assistant("a", 100).as_bytes()).expect("written");
    read_until(child.stdout.as_mut().expect("piped"), "\n");
    let location = server.ledger("nightly");
    wait_for(&location, 100);
    for _ in 0..2 {
        proxy.drop_answers(true);
        let message = read_until(&mut stderr, "going on until it uses more: no reservation left (--estimate)\n");
        assert!(message.contains("no answer for 3 s\n"), "{message}");
        proxy.drop_answers(false);
        let calls = script_calls(&server);
        while script_calls(&server) < calls + 3 {}
    }
    drop(stdin);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!((child.wait().expect("ends").code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn a_recreated_ledger_is_reported() {
    let Some((server, location)) = ledger() else { return };
    let mut command = with(&location, &["-q", "-l", "1M", "-m", "block"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.as_mut().expect("piped").write_all(NO_SPEND.as_bytes()).expect("written");
    read_until(child.stdout.as_mut().expect("piped"), "\n");
    server.ask::<()>(&["FLUSHALL"]);
    let message = read_until(child.stderr.as_mut().expect("piped"), "\n");
    assert!(message.starts_with(&format!("budget-tee: ledger {location} was made anew")), "{message}");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn revoked_permissions_never_count_usage_twice() {
    let Some((server, location)) = ledger() else { return };
    server.ask::<()>(&["ACL", "SETUSER", "agent", "on", ">pw", "~budget-tee:*", "+@all"]);
    let agent_location = location.replace("redis://", "redis://agent:pw@");
    for (n, command) in ["zadd", "hset", "hget", "zrem", "hincrby", "expire"].iter().enumerate() {
        let mut run = waiting(&agent_location, &["-q", "-l", "1M", "-n", &format!("/{command}")]);
        let calls = script_calls(&server);
        while script_calls(&server) < calls + 2 {}
        server.ask::<()>(&["ACL", "SETUSER", "agent", &format!("-{command}")]);
        run.pass(&assistant("a", 100));
        let refused = script_calls(&server);
        while script_calls(&server) < refused + 3 {}
        server.ask::<()>(&["ACL", "SETUSER", "agent", &format!("+{command}")]);
        assert_eq!(run.end(), Some(0));
        assert_eq!(counted(&location), 100 * (n as u64 + 1), "{command}");
    }
}

#[test]
fn a_run_without_an_applicable_budget_continues_without_the_server() {
    let Some((server, _)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let args = ["-q", "-b", "/other=100", "-n", "/own", "-m", "block", "--offline-grace", "0s"];
    let mut command = with(proxy.ledger("nightly"), &args);
    let (mut child, mut stdin, mut stdout, mut stderr) = piped(&mut command);
    stdin.write_all(assistant("a", 5000).as_bytes()).expect("written");
    read_until(&mut stdout, "\n");
    let message = read_until(&mut stderr, "--command-budget\n");
    assert!(message.contains("no budget binds this run, which is charged to /own"), "{message}");
    proxy.drop_answers(true);
    stdin.write_all(assistant("b", 5000).as_bytes()).expect("written");
    read_until(&mut stdout, "\n");
    let message = read_until(&mut stderr, "note: going on without the ledger\n");
    assert!(message.contains("no answer for 3 s\n"), "{message}");
    stdin.write_all(assistant("c", 5000).as_bytes()).expect("written");
    read_until(&mut stdout, "\n");
    proxy.drop_answers(false);
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_reservation_whose_answer_is_lost_expires_soon() {
    let Some((server, _)) = ledger() else { return };
    let proxy = Proxy::to(server.port, Duration::ZERO);
    let args = ["-q", "-l", "1000", "-e", "600", "-m", "block", "--offline-grace", "1h"];
    // The first run loads the script and creates the ledger. The answer to the start of the second is lost.
    assert_eq!(run_with(proxy.ledger("nightly"), &args, NO_SPEND).code(), Some(0));
    let before = script_calls(&server);
    proxy.drop_answers_after(1);
    assert_eq!(run_with(proxy.ledger("nightly"), &args, "").code(), Some(125));
    assert!(script_calls(&server) > before, "the request reached the server");
    let leases: Vec<(String, u64)> = server.ask(&["ZRANGE", "budget-tee:{nightly}:leases", "0", "-1", "WITHSCORES"]);
    let (seconds, _): (u64, u64) = server.ask(&["TIME"]);
    assert_eq!(leases.len(), 1);
    assert!(leases[0].1 < (seconds + 15) * 1000, "{leases:?} at {seconds}");
}

#[test]
fn a_key_of_the_wrong_type_never_counts_usage_twice() {
    let Some((server, location)) = ledger() else { return };
    for (n, key) in ["days", "hours:at", "seconds:rev", "models", "ever", "threads", "threads:at"].iter().enumerate() {
        let key = format!("budget-tee:{{nightly}}:{key}");
        let mut run = waiting(&location, &["-q", "-l", "1M"]);
        run.pass(&assistant("a", 40));
        run.pass(&threads::process(&format!("t{n}"), &[]));
        run.pass(&threads::turn([10, 0, 0]));
        wait_for(&location, 100 * n as u64 + 50);
        server.ask::<()>(&["RENAME", &key, "kept"]);
        server.ask::<()>(&["SET", &key, "x"]);
        run.pass(&assistant("b", 40));
        run.pass(&threads::turn([20, 0, 0]));
        let refused = script_calls(&server);
        while script_calls(&server) < refused + 3 {}
        server.ask::<()>(&["RENAME", "kept", &key]);
        assert_eq!(run.end(), Some(0));
        // The thread has nothing new.
        let again = threads::process(&format!("t{n}"), &[[20, 0, 0]]);
        assert_eq!(run_with(&location, &["-q"], &again).code(), Some(0));
        for window in ["5m", "1h", "7d", "60d"] {
            assert_eq!(status(&location, &["-w", window]).0["counted"], 100 * (n as u64 + 1), "{key} {window}");
        }
        assert_eq!(
            (counted(&location), &status(&location, &[]).0["models"]["m"]["input"]),
            (100 * (n as u64 + 1), &(80 * (n as u64 + 1)).into())
        );
    }
}

#[test]
fn a_wrapped_command_is_stopped_when_the_server_stays_unreachable() {
    let Some((mut server, location)) = ledger() else { return };
    let args = ["-q", "-l", "1M", "-m", "block", "--offline-grace", "0s", "--", "sh", "-c", "echo '{}'; sleep 1000"];
    let mut command = with(&location, &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    read_until(child.stdout.as_mut().expect("piped"), "{}\n");
    server.kill();
    assert_eq!(child.wait().expect("ends").code(), Some(122));
}

#[test]
fn a_reservation_is_a_lease_on_the_servers_clock() {
    let Some((server, location)) = ledger() else { return };
    let args = ["-q", "-l", "1000", "-e", "600", "-m", "block", "--offline-grace", "20s"];
    let mut first = waiting(&location, &args);
    let leases = "budget-tee:{nightly}:leases";
    let lease = || server.ask::<Vec<(String, u64)>>(&["ZRANGE", leases, "0", "-1", "WITHSCORES"]).remove(0);
    let (id, until) = lease();
    let (seconds, _): (u64, u64) = server.ask(&["TIME"]);
    assert!((13..=30).contains(&(until / 1000 - seconds)), "at first {until}, at {seconds}");
    // The lease is renewed for the grace plus ten seconds.
    while lease().1 < (seconds + 30) * 1000 {}
    assert_eq!(run_with(&location, &args, "").code(), Some(121));
    kill(&first.child, Signal::KILL);
    first.child.wait().expect("ends");
    assert_eq!(run_with(&location, &args, "").code(), Some(121), "the killed run might only be unreachable");
    // Sets the end of the lease to the past.
    server.ask::<u64>(&["ZADD", leases, "XX", "CH", &(seconds * 1000).to_string(), &id]);
    assert_eq!(status(&location, &["-l", "1000"]).0["reserved"], 0);
    assert_eq!(run_with(&location, &args, NO_SPEND).code(), Some(0));
}

#[test]
fn a_window_is_measured_on_the_servers_clock() {
    let Some((server, location)) = ledger() else { return };
    let (now, _): (u64, u64) = server.ask(&["TIME"]);
    let levels = [
        ("seconds", 1, "5m", 299, 302),
        ("minutes", 60, "1h", 59, 61),
        ("hours", 3600, "7d", 167, 170),
        ("days", 86400, "60d", 59, 61),
    ];
    for (level, step, window, inside, outside) in levels {
        server.ask::<()>(&["FLUSHALL"]);
        assert_eq!(run_with(&location, &["-q", "-n", "/a"], &assistant("a", 500)).code(), Some(0));
        let key = format!("budget-tee:{{nightly}}:{level}");
        for (age, tokens) in [(inside, "30 0 0 0 7"), (outside, "7000 0 0 0 1")] {
            let (span, field) = ((now / step - age).to_string(), format!("{} /a", now / step - age));
            server.ask::<u64>(&["HSET", &key, &field, tokens]);
            server.ask::<u64>(&["ZADD", &format!("{key}:at"), &span, &field]);
        }
        let (facts, _) = status(&location, &["-w", window, "-b", "/a=520"]);
        assert_eq!((&facts["counted"], &facts["usd"]), (&530.into(), &0.002_507.into()), "{level}");
        assert_eq!((&facts["budgets"][0]["used"], &facts["commands"]["/a"]), (&530.into(), &530.into()), "{level}");
        let args = ["-q", "-m", "block", "-e", "0", "-w", window, "-l"];
        let exit_code = |limit: &str| run_with(&location, &[&args[..], &[limit]].concat(), NO_SPEND).code();
        assert_eq!((exit_code("529"), exit_code("530")), (Some(121), Some(0)), "{level}");
    }
}

#[test]
fn a_calendar_period_begins_at_local_midnight_on_the_servers_clock() {
    let Some((server, location)) = ledger() else { return };
    let (now, _): (u64, u64) = server.ask(&["TIME"]);
    // Today began two hours ago, by a clock in a zone of its own, and so did the week and the month: another zone
    // makes no other day of them.
    let west = (now + 86_400 - 7200) % 86_400 / 900 * 900;
    let zone = format!("<here>{}:{:02}", west / 3600, west % 3600 / 60);
    let midnight = now - (now + 86_400 - west) % 86_400;
    for (level, step, period) in [("minutes", 60, "day"), ("hours", 3600, "week"), ("hours", 3600, "month")] {
        server.ask::<()>(&["FLUSHALL"]);
        assert_eq!(run_with(&location, &["-q", "-n", "/a"], &assistant("a", 500)).code(), Some(0));
        let output = with(&location, &["--status", "--json", "-w", period]).env("TZ", &zone).output().expect("runs");
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let from = facts["at"].as_f64().expect("a time") - facts["window_seconds"].as_f64().expect("a number");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
        let from = from.round() as u64;
        assert!(period != "day" || from == midnight, "{from} {midnight}");
        let key = format!("budget-tee:{{nightly}}:{level}");
        for (span, tokens) in [(from.div_ceil(step), "30 0 0 0 7"), (from / step - 1, "7000 0 0 0 1")] {
            server.ask::<u64>(&["HSET", &key, &format!("{span} /b"), tokens]);
            server.ask::<u64>(&["ZADD", &format!("{key}:at"), &span.to_string(), &format!("{span} /b")]);
        }
        let run = |args: &[&str], input: &str| {
            let mut command = with(&location, &[&["-q", "-w", period], args].concat());
            command.env("TZ", &zone);
            finish(command, input.as_bytes())
        };
        let ran = run(&["--status", "--json", "-l", "1k"], "");
        let facts: serde_json::Value = serde_json::from_slice(&ran.out).expect("JSON");
        assert_eq!((&facts["counted"], &facts["commands"]["/b"]), (&530.into(), &30.into()), "{period}");
        let start = |limit: &str| run(&["-m", "block", "-e", "0", "-l", limit], NO_SPEND);
        assert_eq!((start("529").code(), start("530").code()), (Some(121), Some(0)), "{period}");
        assert!(start("529").err.contains("not started; wait until "), "{}", start("529").err);
    }
}

#[test]
fn a_command_budget_in_dollars_works_on_a_server() {
    let Some((_server, location)) = ledger() else { return };
    let args = ["-q", "-b", "/a=1000000", "-b", "/a=0.05usd", "-l", "1usd", "-m", "block", "-n", "/a"];
    let line = |id: &str| assistant(id, 10_000).replace("\"m\"", "\"claude-sonnet-4-5\"");
    assert_eq!(run_with(&location, &args, &line("a")).code(), Some(0));
    assert_eq!(run_with(&location, &[&args[..], &["-e", "0.03usd"]].concat(), &line("b")).code(), Some(121));
    assert_eq!(run_with(&location, &[&args[..], &["-e", "0.02usd"]].concat(), &line("b")).code(), Some(122));
    let (facts, code) = status(&location, &["-l", "0.06usd"]);
    // The budget of /a that the runs were given is exceeded.
    assert_eq!((&facts["budgets"][0]["used"], code), (&0.06.into(), Some(122)));
}

#[test]
fn the_status_of_a_missing_ledger_is_empty_and_creates_nothing() {
    let Some((server, location)) = ledger() else { return };
    let ran = run_with(&location, &["--status", "-l", "1k"], "");
    assert_eq!(ran.code(), Some(0));
    assert!(ran.err.starts_with(&format!("budget-tee: there is no ledger {location} yet\n")), "{}", ran.err);
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 0, "--status creates no key");
}

#[test]
fn a_password_is_accepted_and_never_printed() {
    let Some(server) = Server::with(&["--requirepass", "pass/word"]) else { return };
    let plain = server.ledger("nightly");
    let with_password = plain.replace("redis://", "redis://:pass%2Fword@");
    let run = |args: &[&str], settings: &[(&str, &str)]| {
        let mut command = harness::budget_tee(args);
        command.envs(settings.iter().copied());
        finish(command, assistant("a", 1).as_bytes())
    };
    let password = ("BUDGET_TEE_LEDGER_PASSWORD", "pass/word");
    let block = ["-m", "block", "-l", "1M"];
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    std::fs::write(&config, format!("{{\"ledger\":\"{with_password}\"}}")).expect("written");
    let config = config.to_str().expect("UTF-8");
    let accepted = [
        run(&block, &[("BUDGET_TEE_LEDGER", &with_password)]),
        run(&block, &[("BUDGET_TEE_LEDGER", &plain), password]),
        run(&block, &[("BUDGET_TEE_LEDGER", &with_password.replace("redis:", "valkey:"))]),
        run(&block, &[("BUDGET_TEE_CONFIG", config)]),
        run(&[&block[..], &["--status", "--json"]].concat(), &[("BUDGET_TEE_LEDGER", &with_password)]),
    ];
    for ran in &accepted {
        assert_eq!(ran.code(), Some(0), "{}", ran.err);
        assert!(!(ran.err.clone() + &String::from_utf8_lossy(&ran.out)).contains("word"), "{ran:?}");
    }
    assert!(String::from_utf8_lossy(&accepted[4].out).contains(&format!("\"ledger\":\"{plain}\"")));
    for settings in
        [&[("BUDGET_TEE_LEDGER", plain.as_str())][..], &[("BUDGET_TEE_LEDGER", &with_password.replace("%2F", "-"))]]
    {
        let ran = run(&block, settings);
        assert_eq!((ran.code(), ran.messages()), (Some(125), 1), "{}", ran.err);
        assert!(ran.err.starts_with(&format!("budget-tee: cannot use ledger {plain}")), "{}", ran.err);
        assert!(ran.err.contains(" (BUDGET_TEE_LEDGER_PASSWORD)\nbudget-tee: note: not started"), "{}", ran.err);
        assert!(!ran.err.contains("word@") && !ran.err.contains("pass/"), "{}", ran.err);
    }
}

#[test]
fn a_password_in_an_argument_is_refused_and_not_repeated() {
    let address = "redis://:pass%25word@127.0.0.1:1/0/nightly";
    let config = format!("{address}, and more");
    for args in [
        &["-l", "1M", "-m", "block", "-L", address, "--", "echo", "ran"][..],
        &["-l", "1M", &format!("-qL{address}")],
        &["-l", "1M", "-L", &address.replace("redis:", "valkey:")],
        &[&format!("--ledger={address}"), "--status"],
        // The last one wins, but the first is there to read.
        &["-l", "1M", "-L", address, "-L", "missing/ledger"],
    ] {
        let ran = harness::run(args, b"");
        assert_eq!((ran.code(), ran.out.as_slice()), (Some(125), &b""[..]), "{}", ran.err);
        for way in ["BUDGET_TEE_LEDGER_PASSWORD", "BUDGET_TEE_LEDGER or", "--config"] {
            assert!(ran.err.contains(way), "{way}: {}", ran.err);
        }
        assert!(!ran.err.contains("word@") && !ran.err.contains("pass%"), "{}", ran.err);
    }
    // What the wrapped command is given is its own affair.
    let ran = harness::run(&["-l", "1M", "--", "echo", address], b"");
    assert_eq!(ran.out, format!("{address}\n").into_bytes(), "{}", ran.err);
    // A malformed address is not repeated either.
    let ran = harness::run(&["-l", "1M", "-L", &config], b"");
    assert!(ran.code() == Some(125) && !ran.err.contains("word@") && !ran.err.contains("pass%"), "{}", ran.err);
}

#[test]
fn a_tls_server_is_accepted_only_with_a_trusted_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    if !harness::has("openssl") {
        return;
    }
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=budget-tee"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
        .args(["-keyout", &at("key"), "-out", &at("cert")])
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("it starts").success());
    let port = free_port().to_string();
    let (cert, key) = (at("cert"), at("key"));
    let Some(_server) = Server::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]) else {
        return;
    };
    let location = format!("rediss://127.0.0.1:{port}/0/nightly");
    let run = |trusted: &str| {
        let mut command = with(&location, &["-q", "-l", "1M", "-m", "block"]);
        command.env("SSL_CERT_FILE", trusted);
        finish(command, assistant("a", 5).as_bytes())
    };
    let ran = run(&cert);
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
    let ran = run("/dev/null");
    assert_eq!(ran.code(), Some(125), "{}", ran.err);
}

#[test]
fn a_ledger_expires_as_configured() {
    let Some((server, location)) = ledger() else { return };
    let ttls = || -> Vec<i64> {
        let keys: Vec<String> = server.ask(&["KEYS", "*"]);
        keys.iter().filter(|key| !key.contains(":run:")).map(|key| server.ask(&["TTL", key])).collect()
    };
    let mut run = waiting(&location, &["-q", "-l", "1M", "--ledger-expiry", "2h"]);
    run.pass(&assistant("a", 10));
    run.pass(&threads::turn([10, 0, 0]));
    run.pass(&threads::process(threads::THREAD, &[]));
    run.pass(&threads::turn([10, 0, 0]));
    assert_eq!(run.end(), Some(0));
    assert!(ttls().len() >= 18 && ttls().iter().all(|ttl| (7100..=7200).contains(ttl)), "{:?}", ttls());
    // The expiry applies to all runs until one of them sets another.
    assert_eq!(run_with(&location, &["-q"], &assistant("a", 10)).code(), Some(0));
    assert!(ttls().iter().all(|ttl| (7100..=7200).contains(ttl)), "{:?}", ttls());
    assert_eq!(run_with(&location, &["-q", "--ledger-expiry", "0"], &assistant("a", 10)).code(), Some(0));
    assert!(ttls().iter().all(|ttl| *ttl == -1), "{:?}", ttls());
    let runs: Vec<String> = server.ask(&["KEYS", "*:run:*"]);
    assert!(
        runs.iter().all(|run| (1..=3600).contains(&server.ask::<i64>(&["TTL", run]))),
        "runs that have ended expire"
    );
}

#[test]
fn outside_changes_to_the_ledger_do_no_harm() {
    let Some((server, location)) = ledger() else { return };
    let mut run = waiting(&location, &["-q", "-l", "1M", "-m", "block", "-n", "/a"]);
    run.pass(&assistant("a", 100));
    wait_for(&location, 100);
    // The scripts are lost. Then all data is lost, and the run records its own usage again.
    server.ask::<()>(&["SCRIPT", "FLUSH"]);
    run.pass(&assistant("b", 100));
    wait_for(&location, 200);
    server.ask::<()>(&["FLUSHALL"]);
    run.pass(&assistant("c", 100));
    wait_for(&location, 300);
    // Fields whose values are not numbers.
    for level in ["ever", "minutes", "models"] {
        server.ask::<u64>(&["HSET", &format!("budget-tee:{{nightly}}:{level}"), "x \u{1b}[31m", "many"]);
    }
    assert_eq!(counted(&location), 300);
    assert_eq!(run.end(), Some(0));
    assert_eq!(run_with(&location, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 1)).code(), Some(0));
    // A key of the wrong type.
    server.ask::<u64>(&["DEL", "budget-tee:{nightly}:ever"]);
    server.ask::<()>(&["SET", "budget-tee:{nightly}:ever", "x"]);
    let ran = run_with(&location, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 1));
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0), "{}", ran.err);
    assert!(
        ran.err
            .ends_with(":ever is a string and no hash\nbudget-tee: note: not started: --mode block needs the ledger\n"),
        "{}",
        ran.err
    );
}

#[test]
fn a_closed_connection_does_not_make_the_server_unreachable() {
    let Some((server, location)) = ledger() else { return };
    // The run uses more than it reserved, so that it would stop at once if the server were unreachable.
    let args = ["-q", "-l", "1M", "-m", "block", "-e", "10", "--offline-grace", "0s"];
    let mut command = with(&location, &args);
    let (mut child, mut stdin, mut stdout, mut stderr) = piped(&mut command);
    for n in 0..10 {
        stdin.write_all(assistant(&format!("a{n}"), 100).as_bytes()).expect("written");
        read_until(&mut stdout, "\n");
        server.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        wait_for(&location, (n + 1) * 100);
        // Nor does a signal that interrupts the wait for an answer.
        kill(&child, Signal::STOP);
        kill(&child, Signal::CONT);
    }
    drop(stdin);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!((child.wait().expect("ends").code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn missing_permissions_are_reported_at_the_start() {
    let Some((server, location)) = ledger() else { return };
    server.ask::<()>(&["ACL", "SETUSER", "agent", "on", ">pw", "~budget-tee:*", "+@all", "-@dangerous", "-@admin"]);
    let run = |input: &str| {
        let mut command = with(location.replace("redis://", "redis://agent@"), &["-q", "-l", "1M", "-m", "block"]);
        command.env("BUDGET_TEE_LEDGER_PASSWORD", "pw");
        finish(command, input.as_bytes())
    };
    let ran = run(&assistant("a", 100));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
    for command in [
        "hincrby",
        "hset",
        "zadd",
        "hdel",
        "zrem",
        "expire",
        "zrangebyscore",
        "hget",
        "hmget",
        "hgetall",
        "hexists",
        "exists",
        "zrange",
        "zremrangebyscore",
        "time",
        "type",
    ] {
        server.ask::<()>(&["ACL", "SETUSER", "agent", &format!("-{command}")]);
        let ran = run(&assistant("b", 100));
        assert_eq!((ran.code(), ran.out.len()), (Some(125), 0), "{command}: {}", ran.err);
        let is_readable = ran.err.starts_with("budget-tee: cannot use ledger ") && !ran.err.contains("script:");
        assert!(is_readable, "{command}: {}", ran.err);
        server.ask::<()>(&["ACL", "SETUSER", "agent", &format!("+{command}")]);
    }
    assert_eq!(counted(&location), 100);
}

#[test]
fn a_run_deleted_on_the_server_is_not_counted_twice() {
    let Some((server, location)) = ledger() else { return };
    let mut run = waiting(&location, &["-q", "-l", "10k", "-m", "block", "-n", "/a"]);
    run.pass(&assistant("a", 6000));
    wait_for(&location, 6000);
    // Two more calls, so that the run has the answer which confirms its usage.
    let (calls, mut now) = (script_calls(&server), 0);
    while now < calls + 2 {
        now = script_calls(&server);
    }
    let keys: Vec<String> = server.ask(&["KEYS", "*:run:*"]);
    assert_eq!(server.ask::<u64>(&["DEL", &keys[0]]), 1);
    run.pass(&assistant("b", 100));
    wait_for(&location, 6100);
    assert_eq!(run.end(), Some(0));
    assert_eq!(counted(&location), 6100);
}

/// The number of script calls that the server has counted.
fn script_calls(server: &Server) -> u64 {
    let calls: String = server.ask(&["INFO", "commandstats"]);
    let calls = calls.split_once("cmdstat_evalsha:calls=").and_then(|(_, rest)| rest.split(',').next());
    calls.and_then(|calls| calls.parse().ok()).expect("a number")
}

#[test]
fn waiting_for_the_server_at_the_end_blocks_neither_the_stop_nor_the_writer() {
    let Some((server, location)) = ledger() else { return };
    // The run exceeds its budget. Its writer and the user must learn of that at once.
    let mut command = with(&location, &["-q", "-l", "100", "-e", "0", "-m", "block"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(NO_SPEND.as_bytes()).expect("written");
    read_until(child.stdout.as_mut().expect("piped"), "\n");
    server.signal(Signal::STOP);
    stdin.write_all(assistant("a", 200).as_bytes()).expect("written");
    let message = read_until(child.stderr.as_mut().expect("piped"), "\n");
    assert!(message.contains("exceeded"), "{message}");
    while stdin.write_all(b"{}\n").is_ok() {}
    assert!(child.try_wait().expect("waits").is_none(), "it still waits for the server");
    server.signal(Signal::CONT);
    assert_eq!(child.wait().expect("ends").code(), Some(122));
    assert_eq!(counted(&location), 200);
}

#[test]
fn a_ledger_does_not_expire_while_a_run_has_a_reservation() {
    let Some((server, location)) = ledger() else { return };
    let run = waiting(&location, &["-q", "-l", "1M", "-m", "block", "--offline-grace", "1h"]);
    let ttl = || server.ask::<i64>(&["TTL", "budget-tee:{nightly}"]);
    assert_eq!(run_with(&location, &["-q", "--ledger-expiry", "1s"], &assistant("a", 10)).code(), Some(0));
    while ttl() < 3000 {}
    assert_eq!(run.end(), Some(0));
    assert!((0..=1).contains(&ttl()), "{}", ttl());
}

#[test]
fn a_server_that_is_not_redis_is_reported() {
    for (answer, want) in
        [("HTTP/1.1 400 Bad Request\r\n\r\n", "unreadable answer"), ("", "the server closes the connection")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let location = format!("redis://127.0.0.1:{}/0/nightly", listener.local_addr().expect("has one").port());
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let _ = client.read(&mut [0; 1000]);
                let _ = client.write_all(answer.as_bytes());
            }
        });
        let ran = run_with(&location, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 10));
        assert_eq!((ran.code(), ran.out.len(), ran.messages()), (Some(125), 0, 1), "{}", ran.err);
        assert!(ran.err.contains(want), "{}", ran.err);
    }
}

#[test]
fn data_of_a_newer_version_fails_closed() {
    let Some((server, location)) = ledger() else { return };
    server.ask::<u64>(&["HSET", "budget-tee:{nightly}", "v", "2", "something", "else"]);
    let ran = run_with(&location, &["-q", "-l", "1M", "-m", "block"], &assistant("a", 100));
    assert_eq!((ran.code(), ran.out.len()), (Some(125), 0));
    assert!(ran.err.contains("newer budget-tee"), "{}", ran.err);
    let ran = run_with(&location, &["-q", "-l", "1M"], &assistant("a", 100));
    assert_eq!(ran.code(), Some(0), "{}", ran.err);
    assert_eq!(server.ask::<u64>(&["DBSIZE"]), 1);
}

#[test]
fn totals_saturate_at_the_highest_number_that_the_server_counts() {
    let Some((_server, location)) = ledger() else { return };
    for id in ["a", "b"] {
        let ran = run_with(&location, &["-q"], &assistant(id, u64::MAX - 1));
        assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
    }
    assert_eq!(counted(&location), (1 << 53) - 1);
    assert_eq!(run_with(&location, &["-q", "-l", "1G", "-m", "block"], "").code(), Some(121));
}

#[test]
fn the_readmes_recipe_for_a_fleet_runs() {
    let Some((server, location)) = ledger() else { return };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("readable");
    let (_, recipe) = readme.split_once("```sh\nexport BUDGET_TEE_LEDGER=redis://").expect("a recipe");
    let (recipe, _) = recipe.split_once("```").expect("an end");
    let script = format!("export BUDGET_TEE_LEDGER=redis://{recipe}");
    let script = script.replace("budgets.example.com:6379", &format!("127.0.0.1:{}", server.port));
    let folder = tempfile::tempdir().expect("a folder");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_budget-tee")).parent().expect("a folder");
    let path = [binary, &root.join("tests/tools"), std::path::Path::new("/usr/bin"), std::path::Path::new("/bin")];
    let mut command = harness::plain("bash");
    command.args(["-ec", &script]).current_dir(&folder).env("PATH", std::env::join_paths(path).expect("a path"));
    command.env("STREAM", harness::fixture("review.jsonl"));
    let ran = finish(command, b"");
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
    let (facts, _) = status(&location, &[]);
    assert_eq!(facts["commands"]["/nightly"], facts["counted"]);
    assert!(facts["counted"].as_u64().expect("a number") > 40_000, "{facts}");
}

#[test]
fn an_invalid_address_is_refused_and_not_repeated() {
    let bad = [
        "redis://:secret@host",
        "rediss://me:secret@host:x/0/n",
        "redis://secret",
        "REDIS://:secret@host/0/n",
        "redis:/:secret@host/0/n",
        "http://secret/0/n",
        "redis://me@secret/0/n",
    ];
    for address in bad {
        let ran = run_with(PathBuf::from(address), &["-q"], "");
        assert_eq!((ran.code(), ran.messages()), (Some(125), 1), "{}", ran.err);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
    }
    // Options for a server in the config file do not prevent the use of a ledger file.
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    std::fs::write(&config, "{\"ledger\": \"redis://127.0.0.1:1/0/n\", \"offline_grace\": \"5s\"}").expect("written");
    let config = config.to_str().expect("UTF-8");
    let ran = run_with(folder.path().join("ledger"), &["-q", "--config", config], &assistant("a", 1));
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
    for location in ["spend.ndjson", ""] {
        for option in ["--offline-grace", "--ledger-expiry"] {
            let ran = run_with(location, &[option, "5s"], "");
            let want = format!("budget-tee: {option} needs a --ledger on a server\n");
            assert_eq!((ran.code(), ran.err), (Some(125), want));
        }
    }
}
