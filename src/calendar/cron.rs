//! When a cron expression fires in a zone.
//!
//! The `cron` crate does the calendar arithmetic on wall clock readings passed off as UTC, and the
//! zone is resolved here: given a zone with clock changes, the crate skips jobs in the gap, doubles
//! them in the overlap, and can answer with an instant in the past.

use std::collections::BTreeSet;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use super::CalendarError;
use super::fields::{DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH};
use super::wall::{Wall, reading_at, reading_by};

/// The longest expression read: every minute listed by number is 170 bytes.
pub(super) const LENGTH_BYTES_MAX: usize = 512;

/// How far a search looks. Eight years lie between the 29ths of February around 2100.
const HORIZON: TimeDelta = TimeDelta::days(8 * 366);

/// The furthest that clocks are set back, and so show again what they have shown.
///
/// Three hours in most of the database, seven once, at Vostok station in 1994.
const OVERLAP_MAX: TimeDelta = TimeDelta::hours(12);

/// A five-field cron expression in a time zone.
///
/// Fires in the years 1970 to 2100 only, at whole minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    zone: Tz,
    expression: String,
    schedule: cron::Schedule,
    /// Names one minute of one hour, and so keeps its appointment over clock changes.
    ///
    /// Vixie cron decides by a leading `*`. This is croner's rule, which differs from it for lists
    /// and ranges: `0 1-3 * * *` means every hour of the night, not three appointments.
    fixed_time: Option<NaiveTime>,
    every_day: bool,
}

impl Cron {
    /// Reads `minute hour day-of-month month day-of-week`.
    ///
    /// Each field is a list of `*`, `n`, `n-m`, `*/step` and `n-m/step`; months and days of the
    /// week also go by their English three-letter names; Sunday is 0 or 7. Refused are seconds,
    /// years, `@daily` and its kin, `L`, `W`, `#` and `?`, ranges that run backwards, and a
    /// restriction of both day-of-month and day-of-week.
    ///
    /// An expression for a date that never comes (`0 0 30 2 *`) is read, and never fires.
    #[expect(clippy::missing_panics_doc, reason = "what was read in range always parses")]
    pub fn parse(expr: &str, zone: Tz) -> Result<Cron, CalendarError> {
        if expr.len() > LENGTH_BYTES_MAX {
            return Err(CalendarError::TooLong { length_bytes: expr.len() });
        }
        let words: Vec<&str> = expr.split_ascii_whitespace().collect();
        let expression = words.join(" ");
        let [minute, hour, date, month, weekday] = words[..] else {
            return Err(CalendarError::FieldCount { expression, found: words.len() });
        };
        let minutes = MINUTE.parse(minute)?;
        let hours = HOUR.parse(hour)?;
        let dates = DAY_OF_MONTH.parse(date)?;
        let months = MONTH.parse(month)?;
        let weekdays = DAY_OF_WEEK.parse(weekday)?;
        if date != "*" && weekday != "*" {
            return Err(CalendarError::BothDays { expression });
        }

        // Days of the week go by name: the crate counts them from Sunday as 1.
        let names: Vec<&str> = weekdays.iter().map(|day| DAY_OF_WEEK.word(*day)).collect();
        let lists = [&minutes, &hours, &dates, &months].map(list).join(" ");
        let schedule = cron::Schedule::from_str(&format!("0 {lists} {}", names.join(",")))
            .expect("lists of numbers in range are a valid expression");
        Ok(Cron {
            zone,
            expression,
            schedule,
            fixed_time: single(&hours)
                .zip(single(&minutes))
                .and_then(|(hour, minute)| NaiveTime::from_hms_opt(hour, minute, 0)),
            every_day: DAY_OF_MONTH.is_full(&dates)
                && MONTH.is_full(&months)
                && DAY_OF_WEEK.is_full(&weekdays),
        })
    }

    /// The first firing after the instant, never the instant itself.
    ///
    /// `None` if there is none within eight years, and outside 1970 to 2100.
    #[must_use]
    pub fn next_after(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // If clocks are about to go back, some earlier readings are still to come.
        let later = t.checked_add_signed(OVERLAP_MAX)?;
        let from = reading_at(self.zone, t).min(reading_by(self.zone, t, later));
        let until = from.checked_add_signed(HORIZON)?;

        let mut next: Option<DateTime<Utc>> = None;
        // The crate looks strictly after a whole second.
        for reading in self.schedule.after(&disguise(from)?.checked_sub_signed(SECOND)?) {
            let wall = Wall::resolve(self.zone, reading.naive_utc());
            if reading.naive_utc() > until || next.is_some_and(|next| wall.earliest() >= next) {
                break;
            }
            next = self.firings(wall).filter(|firing| *firing > t).chain(next).min();
        }
        next
    }

    /// The last firing at or before the instant.
    ///
    /// `None` if there is none within the eight years before it, and outside 1970 to 2100.
    #[must_use]
    pub fn last_at_or_before(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // If clocks have just gone back, some later readings are already past.
        let earlier = t.checked_sub_signed(OVERLAP_MAX)?;
        let from = reading_at(self.zone, t).max(reading_by(self.zone, t, earlier));
        let until = from.checked_sub_signed(HORIZON)?;

        let mut last: Option<DateTime<Utc>> = None;
        // The crate looks strictly before a whole second.
        for reading in self.schedule.after(&disguise(from)?.checked_add_signed(SECOND)?).rev() {
            let wall = Wall::resolve(self.zone, reading.naive_utc());
            if reading.naive_utc() < until || last.is_some_and(|last| wall.latest() <= last) {
                break;
            }
            last = self.firings(wall).filter(|firing| *firing <= t).chain(last).max();
        }
        last
    }

    /// The zone whose clocks the expression follows.
    #[must_use]
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The expression as given, its fields separated by single spaces.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The time of day, if the expression names one time of every date.
    pub(super) fn daily_time(&self) -> Option<NaiveTime> {
        self.fixed_time.filter(|_| self.every_day)
    }

    /// The instants at which a reading that the expression names makes it fire.
    fn firings(&self, wall: Wall) -> impl Iterator<Item = DateTime<Utc>> {
        let (first, second) = match (wall, self.fixed_time) {
            (Wall::Once(instant), _)
            | (Wall::Twice(instant, _) | Wall::Never(instant), Some(_)) => (Some(instant), None),
            (Wall::Twice(first, second), None) => (Some(first), Some(second)),
            (Wall::Never(_), None) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

const SECOND: TimeDelta = TimeDelta::seconds(1);

/// Passes a reading off as UTC, cut to the whole second.
///
/// `None` outside the years that the `cron` crate knows.
fn disguise(reading: NaiveDateTime) -> Option<DateTime<Utc>> {
    let known = (1970..=2100).contains(&reading.year());
    known.then(|| reading.with_nanosecond(0)).flatten().map(|reading| reading.and_utc())
}

fn list(numbers: &BTreeSet<u32>) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn single(numbers: &BTreeSet<u32>) -> Option<u32> {
    numbers.first().filter(|_| numbers.len() == 1).copied()
}
