//! Windows: of what time spend counts. A rolling one, or the day, week or month by the calendar.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, ZonedDateTime};

use crate::ledger::spans::seconds;
use crate::show::text;

// jiff's `strftime` would make the program a tenth larger.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Of what time spend counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Window {
    /// The last so many seconds.
    Last(f64),
    /// The period by the calendar that is now, in a time zone.
    Calendar(Period, TimeZone),
}

/// A period by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
}

impl Period {
    /// Its name, as `--window` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
        }
    }

    /// A period by its name.
    pub(crate) fn by_name(name: &str) -> Option<Period> {
        [Period::Day, Period::Week, Period::Month].into_iter().find(|period| period.name() == name)
    }

    /// The first day of the period that a day is in, and of the next one.
    fn days(self, day: Date) -> Result<(Date, Date), jiff::Error> {
        let first = match self {
            Period::Day => day,
            Period::Week => day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days())?,
            Period::Month => day.first_of_month(),
        };
        let length = match self {
            Period::Day => 1.day(),
            Period::Week => 1.week(),
            Period::Month => 1.month(),
        };
        Ok((first, first.checked_add(length)?))
    }
}

impl Window {
    /// When what counts at the time `now` begins, and when that ends, if it does: both in Unix seconds, the
    /// end not included.
    pub fn bounds(&self, now: f64) -> (f64, Option<f64>) {
        match self {
            Window::Last(window) => (now - window, None),
            // A clock that is set to a year that the calendar does not have: everything counts.
            Window::Calendar(period, zone) => match bounds(*period, zone, now) {
                Ok((from, until)) => (unix(&from), Some(unix(&until))),
                Err(_) => (f64::NEG_INFINITY, None),
            },
        }
    }

    /// When the period before this one, this one and the next one begin, in Unix seconds.
    #[cfg(feature = "redis")]
    pub(crate) fn begins(&self, now: f64) -> [f64; 3] {
        let (from, until) = self.bounds(now);
        [self.from(from - 1.0), from, until.unwrap_or(f64::INFINITY)]
    }

    /// When what counts begins.
    pub(crate) fn from(&self, now: f64) -> f64 {
        self.bounds(now).0
    }

    /// How exactly spend is dated for it, in seconds: at most a 600th of it.
    // By the calendar a quarter of an hour at most: the clocks of all zones differ by multiples of that, so
    // that every midnight falls between two spans, and what counts is exact.
    pub(crate) fn step(&self) -> u64 {
        let length = match self {
            Window::Last(window) => *window,
            Window::Calendar(Period::Day, _) => return 60,
            Window::Calendar(..) => return 15 * 60,
        };
        [86_400, 3_600, 900, 60].into_iter().find(|step| seconds(*step) <= length / 600.0).unwrap_or(1)
    }

    /// When the budgets begin anew: `resets at 00:00`, `resets Mon 30 Nov 00:00`.
    pub fn resets(&self, now: f64) -> Option<String> {
        let Window::Calendar(period, zone) = self else { return None };
        let (_, until) = bounds(*period, zone, now).ok()?;
        // Not always midnight: where clocks are put forward then, the day begins later.
        let time = format!("{:02}:{:02}", until.hour(), until.minute());
        if *period == Period::Day {
            return Some(format!("resets at {time}"));
        }
        let day = DAYS.get(usize::try_from(until.weekday().to_monday_zero_offset()).ok()?)?;
        let month = MONTHS.get(usize::try_from(until.month() - 1).ok()?)?;
        Some(format!("resets {day} {} {month} {time}", until.day()))
    }

    /// `last 5h`, `day, resets at 00:00`.
    pub(crate) fn describe(&self, now: f64) -> String {
        match self {
            Window::Last(window) => format!("last {}", text::seconds(*window)),
            Window::Calendar(period, _) => {
                [period.name().to_owned()].into_iter().chain(self.resets(now)).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// As `--window` takes it.
    pub(crate) fn word(&self) -> String {
        match self {
            Window::Last(window) => format!("{window}s"),
            Window::Calendar(period, _) => period.name().to_owned(),
        }
    }

    /// A window by its word, in a time zone.
    pub fn of(word: &str, zone: TimeZone) -> Option<Window> {
        if let Some(period) = Period::by_name(word) {
            return Some(Window::Calendar(period, zone));
        }
        word.strip_suffix('s')?.parse().ok().filter(|window| *window > 0.0).map(Window::Last)
    }

    /// The name of its period by the calendar.
    pub(crate) fn period(&self) -> Option<&'static str> {
        match self {
            Window::Last(_) => None,
            Window::Calendar(period, _) => Some(period.name()),
        }
    }
}

fn bounds(period: Period, zone: &TimeZone, now: f64) -> Result<(ZonedDateTime, ZonedDateTime), jiff::Error> {
    // Rounded down: half a second before midnight is still the day before.
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
    let now = Timestamp::from_second(now.floor() as i64)?;
    let (first, next) = period.days(now.to_zoned_datetime(zone.clone()).date())?;
    // The first moment of a day, also where clocks are put forward at midnight. Not so many hours later: a day
    // has 23 or 25 of them when clocks change.
    Ok((first.to_zoned_datetime(zone.clone())?.start_of_day()?, next.to_zoned_datetime(zone.clone())?.start_of_day()?))
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a float")]
fn unix(at: &ZonedDateTime) -> f64 {
    at.timestamp().as_second() as f64
}
