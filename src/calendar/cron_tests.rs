#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use proptest::prelude::*;

use super::{CalendarError, Cron};

const LOS_ANGELES: Tz = Tz::America__Los_Angeles;

/// Los Angeles, 2026: clocks go forward on March 8 at 10:00Z and back on November 1 at 09:00Z.
#[test]
fn fixed_time_in_the_gap_fires_at_its_end() {
    check(
        "30 2 * * *",
        LOS_ANGELES,
        "2026-03-07T10:30:00Z",
        "2026-03-08T10:00:00Z 2026-03-09T09:30:00Z",
    );
}

#[test]
fn fixed_time_in_the_overlap_fires_once() {
    check(
        "30 1 * * *",
        LOS_ANGELES,
        "2026-11-01T08:00:00Z",
        "2026-11-01T08:30:00Z 2026-11-02T09:30:00Z",
    );
}

#[test]
fn wildcard_in_the_overlap_fires_at_each_pass_in_order() {
    check(
        "*/30 * * * *",
        LOS_ANGELES,
        "2026-11-01T07:30:00Z",
        "2026-11-01T08:00:00Z 2026-11-01T08:30:00Z 2026-11-01T09:00:00Z 2026-11-01T09:30:00Z \
         2026-11-01T10:00:00Z",
    );
    check("*/30 * * * *", LOS_ANGELES, "2026-11-01T09:00:00Z", "2026-11-01T09:30:00Z");
    check("*/30 * * * *", LOS_ANGELES, "2026-11-01T09:29:59Z", "2026-11-01T09:30:00Z");
}

#[test]
fn wildcard_in_the_gap_is_skipped() {
    check("*/30 2 * * *", LOS_ANGELES, "2026-03-07T10:30:00Z", "2026-03-09T09:00:00Z");
    check(
        "*/30 * * * *",
        LOS_ANGELES,
        "2026-03-08T09:00:00Z",
        "2026-03-08T09:30:00Z 2026-03-08T10:00:00Z",
    );
}

#[test]
fn midnight_fires_daily() {
    check(
        "0 0 * * *",
        LOS_ANGELES,
        "2026-03-07T12:00:00Z",
        "2026-03-08T08:00:00Z 2026-03-09T07:00:00Z 2026-03-10T07:00:00Z",
    );
}

#[test]
fn fixed_times_in_one_gap_fire_together() {
    let ends = at("2026-03-08T10:00:00Z");
    for minute in 0..60 {
        let cron = Cron::parse(&format!("{minute} 2 * * *"), LOS_ANGELES).unwrap();
        assert_eq!(cron.next_after(ends - TimeDelta::seconds(1)), Some(ends), "{minute}");
        assert_eq!(cron.last_at_or_before(ends), Some(ends), "{minute}");
        assert!(cron.next_after(ends).unwrap() > ends + TimeDelta::hours(22), "{minute}");
    }
}

/// A gap that ends at midnight moves the job to the next date, still within its one minute.
#[test]
fn saturday_job_in_a_gap_up_to_midnight_fires_on_sunday() {
    check(
        "30 23 * * 6",
        Tz::America__Nuuk,
        "2026-03-28T12:00:00Z",
        "2026-03-29T01:00:00Z 2026-04-05T00:30:00Z",
    );
}

#[test]
fn weekdays_count_from_sunday_as_zero_and_seven() {
    // 2026-06-07 is a Sunday.
    let fires_on = |weekdays: &str| {
        let cron = Cron::parse(&format!("0 12 * * {weekdays}"), Tz::UTC).unwrap();
        let end = at("2026-06-14T00:00:00Z");
        let mut days = String::new();
        let mut next = cron.next_after(at("2026-06-07T00:00:00Z")).unwrap();
        while next < end {
            days.push_str(&next.format("%a ").to_string());
            next = cron.next_after(next).unwrap();
        }
        days.trim_end().to_owned()
    };
    for (weekdays, days) in [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1", "Mon"),
        ("6", "Sat"),
        ("sun", "Sun"),
        ("Mon,WED", "Mon Wed"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Sun Fri Sat"),
        ("0,6", "Sun Sat"),
        ("*/2", "Sun Tue Thu Sat"),
        ("1-7/2", "Sun Mon Wed Fri"),
        ("mon-fri/2", "Mon Wed Fri"),
        ("0-7", "Sun Mon Tue Wed Thu Fri Sat"),
        ("*", "Sun Mon Tue Wed Thu Fri Sat"),
    ] {
        assert_eq!(fires_on(weekdays), days, "{weekdays}");
    }
}

#[test]
fn months_and_dates_are_kept() {
    check(
        "15 6 29 2 *",
        Tz::UTC,
        "2026-01-01T00:00:00Z",
        "2028-02-29T06:15:00Z 2032-02-29T06:15:00Z",
    );
    check(
        "0 0 31 * *",
        Tz::UTC,
        "2026-02-01T00:00:00Z",
        "2026-03-31T00:00:00Z 2026-05-31T00:00:00Z",
    );
    check(
        "0 0 1 jan,JUL *",
        Tz::UTC,
        "2026-02-01T00:00:00Z",
        "2026-07-01T00:00:00Z 2027-01-01T00:00:00Z",
    );
    check(
        "10-50/20 0 1 */6 *",
        Tz::UTC,
        "2026-02-01T00:00:00Z",
        "2026-07-01T00:10:00Z 2026-07-01T00:30:00Z",
    );
}

#[test]
fn a_date_that_never_comes_never_fires() {
    let cron = Cron::parse("0 0 30 2 *", LOS_ANGELES).unwrap();
    for year in 1970..=2100 {
        let t = Utc.with_ymd_and_hms(year, 7, 1, 0, 0, 0).unwrap();
        assert_eq!(cron.next_after(t), None);
        assert_eq!(cron.last_at_or_before(t), None);
    }
}

#[test]
fn the_ends_of_time_have_no_firings() {
    let cron = Cron::parse("* * * * *", LOS_ANGELES).unwrap();
    for t in [DateTime::<Utc>::MIN_UTC, at("1969-06-01T00:00:00Z"), at("2101-06-01T00:00:00Z")] {
        assert_eq!(cron.next_after(t), None, "{t}");
        assert_eq!(cron.last_at_or_before(t), None, "{t}");
    }
    assert_eq!(cron.next_after(DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(cron.last_at_or_before(DateTime::<Utc>::MAX_UTC), None);
}

#[test]
fn a_leap_second_and_fractions_are_not_skipped_over() {
    let cron = Cron::parse("* * * * *", Tz::UTC).unwrap();
    let minute = at("2026-06-01T00:01:00Z");
    let just_before = minute - TimeDelta::nanoseconds(1);
    let just_after = minute + TimeDelta::nanoseconds(1);
    assert_eq!(cron.next_after(just_before), Some(minute));
    assert_eq!(cron.next_after(just_after), Some(minute + TimeDelta::minutes(1)));
    assert_eq!(cron.last_at_or_before(just_before), Some(minute - TimeDelta::minutes(1)));
    assert_eq!(cron.last_at_or_before(just_after), Some(minute));
    let leap = at("2016-12-31T23:59:59Z") + TimeDelta::milliseconds(500);
    assert_eq!(cron.next_after(leap), Some(at("2017-01-01T00:00:00Z")));
    let leap = at("2016-12-31T23:59:60Z");
    assert_eq!(cron.next_after(leap), Some(at("2017-01-01T00:00:00Z")));
    assert_eq!(cron.last_at_or_before(leap), Some(at("2016-12-31T23:59:00Z")));
}

#[test]
fn expression_is_kept_with_single_spaces() {
    let cron = Cron::parse("  0\t0  * *   * ", LOS_ANGELES).unwrap();
    assert_eq!(cron.expression(), "0 0 * * *");
    assert_eq!(cron.zone(), LOS_ANGELES);
}

#[test]
fn wrong_expressions_are_refused_with_the_reason() {
    for (expression, message) in [
        (
            "",
            "cron expression `` has 0 fields, not 5 (minute hour day-of-month month day-of-week; \
             neither seconds nor a year)",
        ),
        (
            "0 0 0 * * *",
            "cron expression `0 0 0 * * *` has 6 fields, not 5 (minute hour day-of-month month \
             day-of-week; neither seconds nor a year)",
        ),
        (
            "@daily",
            "cron expression `@daily` has 1 fields, not 5 (minute hour day-of-month month \
             day-of-week; neither seconds nor a year)",
        ),
        ("60 0 * * *", "cron field minute: `60` is outside 0-59"),
        ("0 24 * * *", "cron field hour: `24` is outside 0-23"),
        ("0 0 0 * *", "cron field day-of-month: `0` is outside 1-31"),
        ("0 0 * 13 *", "cron field month: `13` is outside 1-12"),
        ("0 0 * * 8", "cron field day-of-week: `8` is outside 0-7"),
        ("0 0 * * fry", "cron field day-of-week: `fry` is not a number, a range or a known name"),
        ("mon 0 * * *", "cron field minute: `mon` is not a number, a range or a known name"),
        ("0 0 1* * *", "cron field day-of-month: `1*` is not a number, a range or a known name"),
        ("0 0 ? * *", "cron field day-of-month: `?` is not a number, a range or a known name"),
        ("0 0 L * *", "cron field day-of-month: `L` is not a number, a range or a known name"),
        ("0 0 * * 1#2", "cron field day-of-week: `1#2` is not a number, a range or a known name"),
        ("1,,2 0 * * *", "cron field minute: `` is not a number, a range or a known name"),
        ("+1 0 * * *", "cron field minute: `+1` is not a number, a range or a known name"),
        ("-1 0 * * *", "cron field minute: `-1` is not a number, a range or a known name"),
        (
            "9999999999 0 * * *",
            "cron field minute: `9999999999` is not a number, a range or a known name",
        ),
        (
            "5/10 0 * * *",
            "cron field minute: `5/10` has a step without a range; write `*/n` or `n-59/n`",
        ),
        ("*/0 0 * * *", "cron field minute: `*/0` has a step outside 1-59"),
        ("*/60 0 * * *", "cron field minute: `*/60` has a step outside 1-59"),
        ("*/x 0 * * *", "cron field minute: `*/x` has a step that is not a number"),
        ("*/ 0 * * *", "cron field minute: `*/` has a step that is not a number"),
        ("0 22-6 * * *", "cron field hour: `22-6` is a range that runs backwards; split it in two"),
        (
            "0 0 1 * 1",
            "cron expression `0 0 1 * 1` sets both day-of-month and day-of-week, which some \
             programs join by or and some by and; leave one of them `*`",
        ),
        (
            "0 0 1-31 * mon",
            "cron expression `0 0 1-31 * mon` sets both day-of-month and day-of-week, which some \
             programs join by or and some by and; leave one of them `*`",
        ),
    ] {
        let refusal = Cron::parse(expression, Tz::UTC).unwrap_err();
        assert_eq!(refusal.to_string(), message);
    }
    let long = format!("{} 0 * * *", vec!["0"; 300].join(","));
    assert_eq!(
        Cron::parse(&long, Tz::UTC),
        Err(CalendarError::TooLong { length_bytes: long.len() })
    );
}

/// In the second pass a clock shows again a time before the one at which the job fired.
#[test]
fn the_last_firing_of_a_fixed_time_is_seen_from_the_second_pass() {
    let cron = Cron::parse("30 1 * * *", LOS_ANGELES).unwrap();
    let fired = at("2026-11-01T08:30:00Z");
    for minutes in 0..(25 * 60) {
        let t = fired + TimeDelta::minutes(minutes);
        assert_eq!(cron.last_at_or_before(t), Some(fired), "{t}");
        assert_eq!(cron.next_after(t), Some(at("2026-11-02T09:30:00Z")), "{t}");
    }
}

/// Clocks went back by seven hours on 1994-01-31 at 17:00Z, the longest overlap there is.
#[test]
fn a_long_overlap_fires_at_each_pass_in_order() {
    let cron = Cron::parse("0 * * * *", Tz::Antarctica__Vostok).unwrap();
    let first = at("1994-01-31T00:00:00Z");
    for hour in 0..48 {
        let t = first + TimeDelta::hours(hour);
        assert_eq!(cron.next_after(t), Some(t + TimeDelta::hours(1)));
        assert_eq!(cron.last_at_or_before(t), Some(t));
    }
}

/// The search looks twelve hours around a change, which must be enough for every zone there is.
#[test]
fn no_zone_sets_clocks_back_by_more_than_the_search_allows() {
    let first = at("1970-01-01T00:00:00Z");
    for zone in TZ_VARIANTS {
        let offset = |week: i64| {
            let t = first + TimeDelta::weeks(week);
            zone.offset_from_utc_datetime(&t.naive_utc()).fix().local_minus_utc()
        };
        for week in 0..(131 * 52) {
            let back = offset(week) - offset(week + 1);
            assert!(back <= 12 * 3600, "{zone} goes back {back} s in week {week} since 1970");
        }
    }
}

/// Zones of every kind: none, usual, half-hour, midnight, south, and a skipped date.
pub(super) const ZONES: [Tz; 15] = [
    Tz::UTC,
    Tz::America__Los_Angeles,
    Tz::Europe__Berlin,
    Tz::Australia__Lord_Howe,
    Tz::America__Havana,
    Tz::Africa__Cairo,
    Tz::Asia__Beirut,
    Tz::America__Santiago,
    Tz::America__Sao_Paulo,
    Tz::America__St_Johns,
    Tz::America__Nuuk,
    Tz::Antarctica__Troll,
    Tz::Africa__Casablanca,
    Tz::Pacific__Apia,
    Tz::Asia__Kolkata,
];

/// Instants from 1975 to 2060, to the millisecond, one in two within a day of a clock change.
pub(super) fn any_instant(zone: Tz) -> impl Strategy<Value = DateTime<Utc>> {
    let (first, last) = (157_766_400_000_i64, 2_840_140_800_000_i64);
    let day = 86_400_000_i64;
    (first..last, -day..day, any::<bool>()).prop_map(move |(millis, shift, snap)| {
        let t = DateTime::from_timestamp_millis(millis).unwrap();
        if snap { change_after(zone, t) + TimeDelta::milliseconds(shift) } else { t }
    })
}

/// The first change of the clocks within 400 days, or the instant itself.
fn change_after(zone: Tz, t: DateTime<Utc>) -> DateTime<Utc> {
    let offset = |hours: i64| {
        let t = t + TimeDelta::hours(hours);
        zone.offset_from_utc_datetime(&t.naive_utc()).fix()
    };
    let Some(day) = (0..400).find(|day| offset(day * 24) != offset(day * 24 + 24)) else {
        return t;
    };
    let hour = (1..24).find(|hour| offset(day * 24) != offset(day * 24 + hour)).unwrap_or(24);
    t + TimeDelta::hours(day * 24 + hour)
}

/// Expressions that fire at least once in four years.
fn any_expression() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        Just("*".to_owned()),
        (1..60_u32).prop_map(|step| format!("*/{step}")),
        (0..60_u32).prop_map(|minute| minute.to_string()),
        (0..30_u32, 30..60_u32).prop_map(|(a, b)| format!("{a},{b}")),
        (0..30_u32, 30..60_u32, 1..9_u32).prop_map(|(a, b, step)| format!("{a}-{b}/{step}")),
    ];
    let hour = prop_oneof![
        Just("*".to_owned()),
        (1..24_u32).prop_map(|step| format!("*/{step}")),
        (0..24_u32).prop_map(|hour| hour.to_string()),
        (0..4_u32).prop_map(|hour| hour.to_string()),
        (0..12_u32, 12..24_u32).prop_map(|(a, b)| format!("{a}-{b}")),
    ];
    let days = prop_oneof![
        4 => Just("* * *".to_owned()),
        1 => (1..29_u32).prop_map(|date| format!("{date} * *")),
        1 => (1..13_u32, 1..29_u32).prop_map(|(month, date)| format!("{date} {month} *")),
        1 => (0..7_u32).prop_map(|weekday| format!("* * {weekday}")),
        1 => (0..4_u32, 4..8_u32).prop_map(|(a, b)| format!("* * {a}-{b}")),
        1 => (1..7_u32).prop_map(|step| format!("* */{step} *")),
    ];
    (minute, hour, days).prop_map(|(minute, hour, days)| format!("{minute} {hour} {days}"))
}

/// An expression in a zone, and an instant from which to look.
pub(super) fn any_case() -> impl Strategy<Value = (Cron, DateTime<Utc>)> {
    (prop::sample::select(&ZONES[..]), any_expression()).prop_flat_map(|(zone, expression)| {
        (Just(Cron::parse(&expression, zone).unwrap()), any_instant(zone))
    })
}

proptest! {
    #[test]
    fn next_is_strictly_later_and_last_is_not((cron, t) in any_case()) {
        let next = cron.next_after(t).unwrap();
        let last = cron.last_at_or_before(t).unwrap();
        prop_assert!(next > t);
        prop_assert!(last <= t);
        // Nothing fires between the two, from either side.
        prop_assert_eq!(cron.next_after(last), Some(next));
        prop_assert_eq!(cron.last_at_or_before(next), Some(next));
        prop_assert_eq!(cron.last_at_or_before(next - TimeDelta::milliseconds(1)), Some(last));
        prop_assert_eq!(cron.next_after(last - TimeDelta::milliseconds(1)), Some(last));
    }

    #[test]
    fn firings_strictly_increase((cron, t) in any_case()) {
        let mut last = t;
        for _ in 0..30 {
            let next = cron.next_after(last).unwrap();
            prop_assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn parsing_never_panics(text in "[-*/,0-9a-z#?LW@ ]{0,30}") {
        if let Ok(cron) = Cron::parse(&text, LOS_ANGELES) {
            let t = at("2026-10-31T12:00:00Z");
            prop_assert!(cron.next_after(t).is_none_or(|next| next > t));
        }
    }
}

/// Asserts that the expression fires after the instant at exactly these, in this order.
fn check(expression: &str, zone: Tz, after: &str, firings: &str) {
    let cron = Cron::parse(expression, zone).unwrap();
    let mut last = at(after);
    for expected in firings.split_whitespace().map(at) {
        let next = cron.next_after(last).unwrap();
        assert_eq!(next, expected, "{expression} in {zone} after {last}");
        assert_eq!(cron.last_at_or_before(next), Some(next));
        last = next;
    }
}

pub(super) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}
