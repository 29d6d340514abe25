//! Agreement with croner, an independent implementation of the same rules.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::print_stdout, reason = "the number of firings compared is worth reading")]

use std::str::FromStr;

use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::Cron;
use super::cron_tests::{any_case, at};

const ZONES: [Tz; 5] = [
    Tz::America__Los_Angeles,
    Tz::Europe__Berlin,
    Tz::Australia__Lord_Howe,
    Tz::America__Havana,
    Tz::Africa__Cairo,
];

const PATTERNS: [&str; 7] = [
    "*/30 * * * *",
    "*/10 * * * *",
    "5 * * * *",
    "*/20 0-3 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "15,45 1 * * 0,6",
];

/// Two weeks around each change of the clocks in the years 2024 to 2027.
#[test]
fn firings_equal_croner_around_every_clock_change() {
    let mut compared = 0;
    let mut differences = Vec::new();
    for zone in ZONES {
        let changes = clock_changes(zone);
        assert_eq!(changes.len(), 8, "{zone}");
        for pattern in PATTERNS {
            let ours = Cron::parse(pattern, zone).unwrap();
            let theirs = croner::Cron::from_str(pattern).unwrap();
            for change in &changes {
                let end = *change + TimeDelta::days(7);
                let mut last = *change - TimeDelta::days(7);
                while last < end {
                    let next = ours.next_after(last).unwrap();
                    let expected = oracle_next(&theirs, zone, last);
                    if next != expected {
                        differences.push((zone, pattern, last, next, expected));
                    }
                    compared += 1;
                    last = expected;
                }
            }
        }
    }
    println!("{compared} firings compared, {} differences", differences.len());
    assert_eq!(differences, []);
    assert!(compared > 50_000, "only {compared} firings compared");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_expressions_equal_croner(
        (ours, t) in any_case()
    ) {
        // croner gives up on gaps over two hours, and drops a job that a gap moves to a date its
        // day fields do not name; neither is a rule to follow.
        let zone = ours.zone();
        prop_assume!(zone != Tz::Pacific__Apia && zone != Tz::America__Nuuk);
        let theirs = croner::Cron::from_str(ours.expression()).unwrap();
        let mut last = t;
        for _ in 0..12 {
            let next = ours.next_after(last).unwrap();
            prop_assert_eq!(next, oracle_next(&theirs, zone, last), "{:?}", ours.expression());
            last = next;
        }
    }
}

/// The next firing by croner.
fn oracle_next(cron: &croner::Cron, zone: Tz, after: DateTime<Utc>) -> DateTime<Utc> {
    cron.find_next_occurrence(&after.with_timezone(&zone), false).unwrap().to_utc()
}

/// The hours of 2024 to 2027 after which the offset of the zone differs.
fn clock_changes(zone: Tz) -> Vec<DateTime<Utc>> {
    let first = at("2024-01-01T00:00:00Z");
    let offset = |hour: i64| {
        let t = first + TimeDelta::hours(hour);
        zone.offset_from_utc_datetime(&t.naive_utc()).fix()
    };
    (0..(1461 * 24))
        .filter(|hour| offset(*hour) != offset(hour + 1))
        .map(|hour| first + TimeDelta::hours(hour + 1))
        .collect()
}
