//! Quota days: the civil date of the provider's zone.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;

/// One limit over days and what was counted on each of them.
#[derive(Debug)]
pub(super) struct DayQuota {
    limit: u64,
    zone: Tz,
    /// Kept by date and not only for the current one, so that a wall clock set back finds its
    /// old count.
    counted: BTreeMap<NaiveDate, u64>,
}

impl DayQuota {
    pub(super) fn new(limit: u64, zone: Tz) -> Self {
        Self { limit, zone, counted: BTreeMap::new() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// `None` when `weight` fits into the day of `wall`, otherwise the milliseconds to the next.
    pub(super) fn wait_ms(&self, wall: DateTime<Utc>, weight: u64) -> Option<u64> {
        let used = self.counted.get(&date_of(self.zone, wall)).copied().unwrap_or(0);
        let over = weight > 0 && used + weight > self.limit;
        over.then(|| ms_to_next_day(self.zone, wall))
    }

    /// Counts `weight` on the day of `wall`, whether it fits or not.
    pub(super) fn count(&mut self, wall: DateTime<Utc>, weight: u64) {
        *self.counted.entry(date_of(self.zone, wall)).or_default() += weight;
    }
}

/// The date on a calendar that hangs in `zone`.
pub(super) fn date_of(zone: Tz, wall: DateTime<Utc>) -> NaiveDate {
    wall.with_timezone(&zone).date_naive()
}

/// Milliseconds until the date changes in `zone`: the first instant of a later date, found by
/// halving, which needs no knowledge of clock changes beyond [`date_of`].
pub(super) fn ms_to_next_day(zone: Tz, wall: DateTime<Utc>) -> u64 {
    let today = date_of(zone, wall);
    let is_later = |ms: i64| date_of(zone, wall + TimeDelta::milliseconds(ms)) > today;
    let (mut same_ms, mut later_ms) = (0, 50 * 3_600_000);
    assert!(is_later(later_ms), "no day lasts fifty hours");
    while later_ms - same_ms > 1 {
        let middle_ms = same_ms.midpoint(later_ms);
        if is_later(middle_ms) {
            later_ms = middle_ms;
        } else {
            same_ms = middle_ms;
        }
    }
    u64::try_from(later_ms).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use chrono_tz::America::Los_Angeles;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn check(from: &str, midnight: &str) {
        let expected = (at(midnight) - at(from)).num_milliseconds();
        assert_eq!(i64::try_from(ms_to_next_day(Los_Angeles, at(from))).unwrap(), expected);
    }

    #[test]
    fn the_day_ends_at_midnight_pacific() {
        check("2026-11-22T12:00:00Z", "2026-11-23T08:00:00Z");
        check("2026-07-01T06:59:59.999Z", "2026-07-01T07:00:00Z");
        check("2026-07-01T07:00:00Z", "2026-07-02T07:00:00Z");
    }

    #[test]
    fn days_of_clock_changes_last_23_and_25_hours() {
        check("2026-03-08T08:00:00Z", "2026-03-09T07:00:00Z");
        check("2026-11-01T07:00:00Z", "2026-11-02T08:00:00Z");
    }

    #[test]
    fn the_count_starts_again_at_midnight_and_not_before() {
        let mut quota = DayQuota::new(2, Los_Angeles);
        quota.count(at("2026-11-01T07:00:00Z"), 1);
        assert_eq!(quota.wait_ms(at("2026-11-01T08:30:00Z"), 1), None);
        quota.count(at("2026-11-01T08:30:00Z"), 1);
        // One o'clock in the morning comes twice that night; neither is a new day.
        assert!(quota.wait_ms(at("2026-11-01T09:30:00Z"), 1).is_some());
        assert_eq!(quota.wait_ms(at("2026-11-02T07:59:59.999Z"), 1), Some(1));
        assert_eq!(quota.wait_ms(at("2026-11-02T08:00:00Z"), 2), None);
    }

    #[test]
    fn a_clock_set_back_finds_the_old_count() {
        let mut quota = DayQuota::new(1, Los_Angeles);
        quota.count(at("2026-06-01T12:00:00Z"), 1);
        quota.count(at("2026-06-02T12:00:00Z"), 1);
        assert!(quota.wait_ms(at("2026-06-01T13:00:00Z"), 1).is_some());
    }
}
