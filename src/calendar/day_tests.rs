#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::cron_tests::{ZONES, any_instant, at};
use super::{CalendarError, Cron, DaySpan, QuotaDay};

#[test]
fn pacific_is_midnight_in_los_angeles() {
    let pacific = QuotaDay::pacific();
    assert_eq!(pacific, QuotaDay::new("America/Los_Angeles", "0 0 * * *").unwrap());
    assert_eq!(pacific.zone_name(), "America/Los_Angeles");
    assert_eq!(pacific.reset(), "0 0 * * *");
    assert_eq!(
        pacific.span_at(at("2026-11-22T21:00:00Z")),
        span("2026-11-22", "2026-11-22T08:00:00Z", "2026-11-23T08:00:00Z")
    );
}

#[test]
fn the_instant_of_the_reset_belongs_to_the_new_day() {
    let pacific = QuotaDay::pacific();
    let reset = at("2026-11-23T08:00:00Z");
    assert_eq!(pacific.span_at(reset).key, date("2026-11-23"));
    assert_eq!(pacific.span_at(reset - TimeDelta::nanoseconds(1)).key, date("2026-11-22"));
}

#[test]
fn days_are_as_long_as_the_clocks_make_them() {
    for (zone, key, minutes) in [
        ("America/Los_Angeles", "2026-03-08", 23 * 60),
        ("America/Los_Angeles", "2026-11-01", 25 * 60),
        ("America/Los_Angeles", "2026-06-01", 24 * 60),
        // Midnight is missing: the day begins at 01:00.
        ("America/Havana", "2026-03-08", 23 * 60),
        ("Africa/Cairo", "2026-04-24", 23 * 60),
        ("Asia/Beirut", "2026-03-29", 23 * 60),
        ("America/Santiago", "2026-09-06", 23 * 60),
        ("America/Sao_Paulo", "2018-11-04", 23 * 60),
        // Midnight comes twice (Havana), or 23:00 does: the day begins at the first.
        ("America/Havana", "2026-11-01", 25 * 60),
        ("Africa/Cairo", "2026-10-29", 25 * 60),
        ("Asia/Beirut", "2026-10-24", 25 * 60),
        ("America/Santiago", "2026-04-04", 25 * 60),
        ("America/Sao_Paulo", "2019-02-16", 25 * 60),
        ("America/St_Johns", "2010-11-07", 25 * 60),
        ("Australia/Lord_Howe", "2026-10-04", 24 * 60 - 30),
        ("Antarctica/Troll", "2026-03-29", 22 * 60),
        // Samoa went from the 29th of December 2011 to the 31st.
        ("Pacific/Apia", "2011-12-29", 24 * 60),
        ("Pacific/Apia", "2011-12-30", 0),
        ("Pacific/Apia", "2011-12-31", 24 * 60),
    ] {
        let span = QuotaDay::new(zone, "0 0 * * *").unwrap().span_of(date(key));
        assert_eq!((span.end - span.start).num_minutes(), minutes, "{zone} {key}");
    }
}

#[test]
fn missing_and_doubled_midnights_begin_the_day_once() {
    for (zone, key, start) in [
        ("America/Havana", "2026-03-08", "2026-03-08T05:00:00Z"),
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"),
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00Z"),
        ("Africa/Cairo", "2026-10-30", "2026-10-29T22:00:00Z"),
        ("America/St_Johns", "2010-11-07", "2010-11-07T02:30:00Z"),
    ] {
        let day = QuotaDay::new(zone, "0 0 * * *").unwrap();
        assert_eq!(day.span_of(date(key)).start, at(start), "{zone} {key}");
        assert_eq!(day.span_at(at(start)).key, date(key), "{zone} {key}");
    }
    // In St. John's the clocks then went back over midnight, to the day before.
    let day = QuotaDay::new("America/St_Johns", "0 0 * * *").unwrap();
    assert_eq!(day.span_at(at("2010-11-07T03:00:00Z")).key, date("2010-11-07"));
}

#[test]
fn a_reset_in_the_middle_of_the_day_keys_by_its_own_date() {
    let day = QuotaDay::new("Asia/Kolkata", "30 12 * * *").unwrap();
    let expected = span("2026-06-01", "2026-06-01T07:00:00Z", "2026-06-02T07:00:00Z");
    assert_eq!(day.span_at(at("2026-06-01T07:00:00Z")), expected);
    assert_eq!(day.span_at(at("2026-06-02T06:59:59Z")), expected);
}

#[test]
fn a_reset_that_is_not_daily_is_refused() {
    for (zone, reset, message) in [
        (
            "UTC",
            "0 */12 * * *",
            "reset `0 */12 * * *` fires 2 times on 2027-01-01 in UTC; it must fire exactly once \
             a day, as `0 0 * * *` does",
        ),
        (
            "UTC",
            "* * * * *",
            "reset `* * * * *` fires 1440 times on 2027-01-01 in UTC; it must fire exactly once \
             a day, as `0 0 * * *` does",
        ),
        (
            "UTC",
            "0 0 * * 1-5",
            "reset `0 0 * * 1-5` fires 0 times on 2027-01-02 in UTC; it must fire exactly once a \
             day, as `0 0 * * *` does",
        ),
        (
            "UTC",
            "0 0 1-30 * *",
            "reset `0 0 1-30 * *` fires 0 times on 2027-01-31 in UTC; it must fire exactly once \
             a day, as `0 0 * * *` does",
        ),
        (
            "UTC",
            "0 0 * 1-11 *",
            "reset `0 0 * 1-11 *` fires 0 times on 2027-12-01 in UTC; it must fire exactly once \
             a day, as `0 0 * * *` does",
        ),
        (
            "UTC",
            "0 0 30 2 *",
            "reset `0 0 30 2 *` fires 0 times on 2027-01-01 in UTC; it must fire exactly once a \
             day, as `0 0 * * *` does",
        ),
        // The gap moves the firing of the 27th of March, a Saturday, to midnight of the 28th.
        (
            "America/Nuuk",
            "30 23 * * *",
            "reset `30 23 * * *` fires 0 times on 2027-03-27 in America/Nuuk; it must fire \
             exactly once a day, as `0 0 * * *` does",
        ),
    ] {
        assert_eq!(QuotaDay::new(zone, reset).unwrap_err().to_string(), message);
    }
    assert!(matches!(
        QuotaDay::new("UTC", "0 0 0 * * *"),
        Err(CalendarError::FieldCount { found: 6, .. })
    ));
}

#[test]
fn every_spelling_of_daily_is_accepted() {
    let plain = QuotaDay::new("Europe/Berlin", "0 9 * * *").unwrap();
    for reset in ["00 09 * * *", "0 9 1-31 * *", "0 9 * 1-12 *", "0 9 * * 0-6", "0 9-9 */1 * *"] {
        let day = QuotaDay::new("Europe/Berlin", reset).unwrap();
        assert_ne!(day, plain, "{reset}");
        let t = at("2026-03-29T00:30:00Z");
        assert_eq!(day.span_at(t), plain.span_at(t), "{reset}");
    }
}

#[test]
fn an_unknown_zone_is_refused_with_the_nearest_name() {
    for (zone, nearest) in [
        ("America/Los Angeles", Some("America/Los_Angeles")),
        ("america/los_angeles", Some("America/Los_Angeles")),
        ("Los_Angeles", Some("America/Los_Angeles")),
        ("Europe/Berlim", Some("Europe/Berlin")),
        ("US Pacific", Some("US/Pacific")),
        ("Pacific", Some("US/Pacific")),
        ("qqqq", None),
        ("", None),
    ] {
        assert_eq!(
            QuotaDay::new(zone, "0 0 * * *"),
            Err(CalendarError::UnknownZone { zone: zone.to_owned(), nearest }),
        );
    }
    let refusal = QuotaDay::new("Europe/Berlim", "0 0 * * *").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "unknown time zone `Europe/Berlim`, did you mean `Europe/Berlin`?; \
         use an IANA name such as `America/Los_Angeles`"
    );
}

#[test]
fn the_ends_of_time_have_days() {
    let pacific = QuotaDay::pacific();
    for t in [DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC] {
        let span = pacific.span_at(t);
        assert!(span.start <= span.end, "{t}");
    }
    assert_eq!(pacific.span_of(NaiveDate::MAX).key, NaiveDate::MAX);
    assert_eq!(pacific.span_of(NaiveDate::MIN).key, NaiveDate::MIN);
}

fn any_case() -> impl Strategy<Value = (QuotaDay, DateTime<Utc>)> {
    // Built once: trying a reset over two years costs more than the properties below.
    let day = |zone: &Tz, reset| QuotaDay::new(zone.name(), reset).unwrap();
    let days: Vec<QuotaDay> = ZONES
        .iter()
        .flat_map(|zone| ["0 0 * * *", "30 2 * * *", "45 12 * * *"].map(|reset| day(zone, reset)))
        .collect();
    prop::sample::select(days).prop_flat_map(|day| {
        let zone: Tz = day.zone_name().parse().unwrap();
        (Just(day), any_instant(zone))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn days_tile_time_and_keys_increase((day, t) in any_case()) {
        let mut span = day.span_at(t);
        prop_assert!(span.start <= t);
        prop_assert!(t < span.end);
        for _ in 0..10 {
            let next = day.span_at(span.end);
            prop_assert_eq!(next.start, span.end);
            prop_assert!(next.key > span.key);
            prop_assert_eq!(day.span_of(next.key), next);
            prop_assert_eq!(day.span_at(next.end - TimeDelta::nanoseconds(1)), next);
            span = next;
        }
    }

    #[test]
    fn days_begin_at_the_firings_of_the_reset((day, t) in any_case()) {
        let zone: Tz = day.zone_name().parse().unwrap();
        let cron = Cron::parse(day.reset(), zone).unwrap();
        let span = day.span_at(t);
        prop_assert_eq!(cron.last_at_or_before(t), Some(span.start));
        prop_assert_eq!(cron.next_after(t), Some(span.end));
        prop_assert_eq!(span.start.with_timezone(&zone).date_naive(), span.key);
    }
}

fn span(key: &str, start: &str, end: &str) -> DaySpan {
    DaySpan { key: date(key), start: at(start), end: at(end) }
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}
