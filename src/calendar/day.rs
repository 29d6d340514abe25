//! The civil day by which a provider counts.

use std::cmp::Reverse;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::wall::{Wall, reading_at};
use super::{CalendarError, Cron};

/// The dates on which a reset is tried: two years hold a leap day and four clock changes.
const TRIED_FROM: NaiveDate = NaiveDate::from_ymd_opt(2027, 1, 1).expect("a date");
const TRIED_DAYS: usize = 2 * 365 + 1;

/// Names less alike than this are not worth suggesting.
const LIKENESS_MIN: f64 = 0.8;

/// The civil day by which a provider counts: it begins at a firing of `reset` in `zone` and is
/// keyed by the local date of that firing.
///
/// The days follow one another without gap or overlap, whatever the clocks of the zone do; those
/// of a clock change are shorter or longer, usually by an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaDay {
    reset: Cron,
    /// The time of day at which the reset fires, if the clocks show it.
    at: NaiveTime,
}

/// One quota day, from `start` up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaySpan {
    /// The local date of the firing that begins the day.
    pub key: NaiveDate,
    /// The first instant of the day.
    pub start: DateTime<Utc>,
    /// The first instant of the next day.
    pub end: DateTime<Utc>,
}

impl QuotaDay {
    /// Builds the day from a zone name and a cron expression, such as `America/Los_Angeles` and
    /// `0 0 * * *`.
    ///
    /// Refuses a zone that is not in the database, and an expression that fires other than exactly
    /// once on each date, tried over the years 2027 and 2028.
    #[expect(clippy::missing_panics_doc, reason = "a job that is not daily shows it in two years")]
    pub fn new(zone: &str, reset: &str) -> Result<QuotaDay, CalendarError> {
        let zone: Tz = zone.parse().map_err(|_| CalendarError::UnknownZone {
            zone: zone.to_owned(),
            nearest: nearest_zone(zone),
        })?;
        let reset = Cron::parse(reset, zone)?;
        match (first_uneven_date(&reset), reset.daily_time()) {
            (None, Some(at)) => Ok(QuotaDay { reset, at }),
            (uneven, _) => {
                let (date, firings) = uneven.expect("a job not daily misses or repeats a date");
                let (expression, zone) = (reset.expression().to_owned(), zone.name());
                Err(CalendarError::NotDaily { expression, zone, date, firings })
            }
        }
    }

    /// Midnight in California, by which Google counts.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the expression is a constant, and tested")]
    pub fn pacific() -> QuotaDay {
        let reset = Cron::parse("0 0 * * *", Tz::America__Los_Angeles).expect("a valid expression");
        QuotaDay { reset, at: NaiveTime::MIN }
    }

    /// The quota day that contains the instant.
    #[must_use]
    pub fn span_at(&self, t: DateTime<Utc>) -> DaySpan {
        // The date on the clock is right but for a reset later in the day, and for clocks that
        // went back over it.
        let mut span = self.span_of(reading_at(self.reset.zone(), t).date());
        while t < span.start
            && let Some(before) = span.key.pred_opt()
        {
            span = self.span_of(before);
        }
        while t >= span.end
            && let Some(after) = span.key.succ_opt()
        {
            span = self.span_of(after);
        }
        span
    }

    /// The quota day of a date.
    ///
    /// Empty for a date that the zone left out altogether, as Samoa did 2011-12-30.
    #[must_use]
    pub fn span_of(&self, key: NaiveDate) -> DaySpan {
        let next = key.succ_opt().unwrap_or(key);
        DaySpan { key, start: self.start_of(key), end: self.start_of(next) }
    }

    /// The IANA name of the zone.
    #[must_use]
    pub fn zone_name(&self) -> &'static str {
        self.reset.zone().name()
    }

    /// The cron expression whose firings begin the days.
    #[must_use]
    pub fn reset(&self) -> &str {
        self.reset.expression()
    }

    /// When the reset fires on the date: as [`Cron`] says for a fixed-time job, at the first pass
    /// of a repeated time and at the end of the gap for a skipped one.
    fn start_of(&self, date: NaiveDate) -> DateTime<Utc> {
        Wall::resolve(self.reset.zone(), date.and_time(self.at)).earliest()
    }
}

/// The first date tried on which the expression fires other than once, and how often it does.
fn first_uneven_date(reset: &Cron) -> Option<(NaiveDate, u32)> {
    let midnight = Wall::resolve(reset.zone(), TRIED_FROM.and_time(NaiveTime::MIN)).earliest();
    let mut next = reset.next_after(midnight - TimeDelta::seconds(1));
    for date in TRIED_FROM.iter_days().take(TRIED_DAYS) {
        let mut firings = 0;
        while let Some(firing) = next
            && reading_at(reset.zone(), firing).date() == date
        {
            firings += 1;
            next = reset.next_after(firing);
        }
        if firings != 1 {
            return Some((date, firings));
        }
    }
    None
}

/// The zone most like the name, whole or by its city; of equals the shortest.
fn nearest_zone(given: &str) -> Option<&'static str> {
    let given = given.to_lowercase();
    let likeness = |zone: &Tz| {
        let name = zone.name().to_lowercase();
        let city = name.rsplit('/').next().unwrap_or(&name);
        strsim::jaro_winkler(&given, &name).max(strsim::jaro_winkler(&given, city))
    };
    TZ_VARIANTS
        .iter()
        .map(|zone| (likeness(zone), zone.name()))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, name_a), (b, name_b)| {
            a.total_cmp(b).then(Reverse(name_a.len()).cmp(&Reverse(name_b.len())))
        })
        .map(|(_, name)| name)
}
