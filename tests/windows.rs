//! Tests of windows by the calendar: when a day, a week and a month begin and end where people live.

#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "harness/sharing.rs"]
mod sharing;

use budget_tee::ledger::window::{Period, Window};
use budget_tee::ledger::worker::unix_now;
use harness::{NO_SPEND, assistant, terminal};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sharing::{run_with, status, with};

/// Period, zone, a moment, and the begin and the end of the period that it is in: at midnight, at the end of
/// weeks, months and years, and where clocks change; in Cairo they do at midnight.
// Made by another program with another library, from the same zone data.
const PERIODS: [(&str, &str, &str, &str, &str); 30] = [
    ("day", "Europe/Berlin", "2026-03-28T23:59:59+01:00", "2026-03-28T00:00:00+01:00", "2026-03-29T00:00:00+01:00"),
    ("day", "Europe/Berlin", "2026-03-29T00:00:00+01:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
    ("day", "Europe/Berlin", "2026-03-29T03:30:00+02:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
    ("day", "Europe/Berlin", "2026-03-30T00:00:00+02:00", "2026-03-30T00:00:00+02:00", "2026-03-31T00:00:00+02:00"),
    ("day", "Europe/Berlin", "2026-10-25T02:30:00+02:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
    ("day", "Europe/Berlin", "2026-10-25T02:30:00+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
    ("day", "Europe/Berlin", "2026-10-25T23:59:59+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
    ("day", "Europe/Berlin", "2026-12-31T23:59:59+01:00", "2026-12-31T00:00:00+01:00", "2027-01-01T00:00:00+01:00"),
    ("week", "Europe/Berlin", "2026-03-29T23:59:59+02:00", "2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
    ("week", "Europe/Berlin", "2026-03-30T00:00:00+02:00", "2026-03-30T00:00:00+02:00", "2026-04-06T00:00:00+02:00"),
    ("week", "Europe/Berlin", "2027-01-01T12:00:00+01:00", "2026-12-28T00:00:00+01:00", "2027-01-04T00:00:00+01:00"),
    ("month", "Europe/Berlin", "2026-03-31T23:59:59+02:00", "2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00"),
    ("month", "Europe/Berlin", "2026-10-01T00:00:00+02:00", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
    ("month", "Europe/Berlin", "2028-02-29T12:00:00+01:00", "2028-02-01T00:00:00+01:00", "2028-03-01T00:00:00+01:00"),
    ("day", "America/New_York", "2026-03-08T01:59:59-05:00", "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00"),
    ("day", "America/New_York", "2026-03-08T23:59:59-04:00", "2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00"),
    ("day", "America/New_York", "2026-11-01T01:30:00-04:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"),
    ("day", "America/New_York", "2026-11-01T01:30:00-05:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"),
    ("day", "America/New_York", "2026-11-02T00:00:00-05:00", "2026-11-02T00:00:00-05:00", "2026-11-03T00:00:00-05:00"),
    ("week", "America/New_York", "2026-03-08T12:00:00-04:00", "2026-03-02T00:00:00-05:00", "2026-03-09T00:00:00-04:00"),
    ("week", "America/New_York", "2026-11-02T00:00:00-05:00", "2026-11-02T00:00:00-05:00", "2026-11-09T00:00:00-05:00"),
    (
        "month",
        "America/New_York",
        "2026-10-31T23:59:59-04:00",
        "2026-10-01T00:00:00-04:00",
        "2026-11-01T00:00:00-04:00",
    ),
    (
        "month",
        "America/New_York",
        "2026-11-30T23:59:59-05:00",
        "2026-11-01T00:00:00-04:00",
        "2026-12-01T00:00:00-05:00",
    ),
    (
        "month",
        "America/New_York",
        "2026-12-01T00:00:00-05:00",
        "2026-12-01T00:00:00-05:00",
        "2027-01-01T00:00:00-05:00",
    ),
    ("day", "Africa/Cairo", "2026-04-23T23:59:59+02:00", "2026-04-23T00:00:00+02:00", "2026-04-24T01:00:00+03:00"),
    ("day", "Africa/Cairo", "2026-04-24T01:00:00+03:00", "2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"),
    ("day", "Africa/Cairo", "2026-10-29T23:30:00+03:00", "2026-10-29T00:00:00+03:00", "2026-10-30T00:00:00+02:00"),
    ("day", "Africa/Cairo", "2026-10-29T23:30:00+02:00", "2026-10-29T00:00:00+03:00", "2026-10-30T00:00:00+02:00"),
    ("week", "Africa/Cairo", "2026-04-26T12:00:00+03:00", "2026-04-20T00:00:00+02:00", "2026-04-27T00:00:00+03:00"),
    ("month", "Africa/Cairo", "2026-04-24T01:59:59+03:00", "2026-04-01T00:00:00+02:00", "2026-05-01T00:00:00+03:00"),
];

#[test]
fn a_period_begins_and_ends_at_local_midnight() {
    for (period, zone, moment, begin, end) in PERIODS {
        let Ok(time_zone) = TimeZone::get(zone) else {
            harness::skip("no time zones are installed (tzdata)");
            return;
        };
        let unix = |text: &str| text.parse::<Timestamp>().expect("a time").as_second();
        let kind = [("day", Period::Day), ("week", Period::Week), ("month", Period::Month)];
        let (_, kind) = kind.into_iter().find(|(name, _)| *name == period).expect("a period");
        let window = Window::Calendar(kind, time_zone);
        #[expect(clippy::cast_precision_loss, reason = "seconds are exact")]
        for (now, part) in [(unix(moment) as f64, ""), (unix(moment) as f64 + 0.999, " and a bit")] {
            let want = (unix(begin) as f64, Some(unix(end) as f64));
            assert_eq!(window.bounds(now), want, "the {period} of {moment}{part} in {zone}");
        }
    }
}

#[test]
fn the_end_of_a_period_is_named_by_the_local_clock() {
    let window = |period, zone: &str| TimeZone::posix(zone).map(|zone| Window::Calendar(period, zone)).expect("a zone");
    for (period, zone, want) in [
        (Period::Day, "<+0530>-5:30", "resets at 00:00"),
        (Period::Week, "<+0530>-5:30", "resets Mon 30 Nov 00:00"),
        (Period::Month, "EST5", "resets Tue 1 Dec 00:00"),
    ] {
        // 2026-11-24 20:00 UTC.
        assert_eq!(window(period, zone).resets(1_795_550_400.0).as_deref(), Some(want));
    }
    assert_eq!(Window::Last(60.0).resets(0.0), None);
}

/// A `TZ` in which it is so many seconds after midnight.
fn zone(after_midnight: u64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the time is positive")]
    let west = (unix_now() as u64 + 86_400 - after_midnight) % 86_400;
    // POSIX counts west of Greenwich as positive, and at most a day.
    format!("<here>{}:{:02}:{:02}", west / 3600, west % 3600 / 60, west % 60)
}

#[test]
fn a_day_is_that_of_the_local_time_zone_even_where_it_changes_between_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spend.ndjson");
    let hours_ago = |hours: f64, run: &str, tokens: u64| {
        let at = unix_now() - hours * 3600.0;
        format!(
            "{{\"v\":1,\"at\":{at},\"run\":\"{run}\",\"kind\":\"end\",\"models\":{{\"m\":{{\"input\":{tokens}}}}}}}\n"
        )
    };
    std::fs::write(&path, hours_ago(5.0, "x", 700) + &hours_ago(1.0, "y", 50)).expect("written");
    let counted = |zone: &str| {
        let mut command = with(&path, &["--status", "--json", "-w", "day"]);
        let ran = harness::finish(
            {
                command.env("TZ", zone);
                command
            },
            b"",
        );
        let facts: serde_json::Value = serde_json::from_slice(&ran.out).expect("JSON");
        (facts["counted"].as_u64(), facts["period"].as_str().map(str::to_owned))
    };
    for (after_midnight, want) in [(1800, 0), (2 * 3600, 50), (6 * 3600, 750), (2 * 3600, 50)] {
        assert_eq!(counted(&zone(after_midnight)), (Some(want), Some("day".to_owned())), "{after_midnight}");
    }
    let block = ["-q", "-w", "day", "-l", "1000", "-e", "400", "-m", "block"];
    let start = |after_midnight| {
        let mut command = with(&path, &block);
        command.env("TZ", zone(after_midnight));
        harness::finish(command, NO_SPEND.as_bytes())
    };
    let refused = start(6 * 3600);
    assert_eq!(refused.code(), Some(121));
    assert!(refused.err.contains("not started; wait until 00:00, or raise"), "{}", refused.err);
    assert_eq!(start(2 * 3600).code(), Some(0));
    let mut command = with(&path, &block);
    command.env("TZ", "Nowhere/Land");
    let unknown = harness::finish(command, NO_SPEND.as_bytes());
    assert_eq!(unknown.code(), Some(125));
    assert!(
        unknown.err.contains("unknown time zone TZ=Nowhere/Land\nbudget-tee: note: set TZ to a name"),
        "{}",
        unknown.err
    );
}

#[test]
fn bars_and_reports_say_when_the_budgets_begin_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spend.ndjson");
    let ran = run_with(&path, &["-w", "month", "-l", "1000"], &assistant("a", 500));
    assert!(ran.err.contains("\nresets    "), "{}", ran.err);
    let (ours, theirs) = terminal(100);
    let mut command = with(&path, &["-w", "day", "-l", "1000", "--color", "never"]);
    let stdin = std::process::Stdio::null();
    let out = command.env("TZ", "UTC").stdin(stdin).stdout(std::process::Stdio::null()).stderr(theirs).status();
    drop(command);
    assert!(out.expect("runs").success());
    let shown = harness::all_of(ours);
    assert!(shown.contains("500 / 1.0K   resets at 00:00"), "{shown}");
    let text = String::from_utf8(run_with(&path, &["--status", "-w", "week"], "").out).expect("UTF-8");
    assert!(text.lines().next().expect("a title").contains(", week, resets Mon "), "{text}");
    assert_eq!(status(&path, &["-w", "month"]).0["period"], "month");
}
