//! Quota days: what is charged where, and when a bucket that ran out opens.

use super::*;
use crate::gate::day::{DAY_EDGE_MS, DAY_GRACE_MS, DayCharge};

/// A second before midnight in California; the day is the 23rd, and the next the 24th.
const LATE: &str = "2026-11-24T07:59:59Z";
const MIDNIGHT: u64 = 1_000;

const DAY: u64 = 86_400_000;

/// So long after midnight by our clock its grace is over by any clock of the provider.
const OPENS: u64 = DAY_GRACE_MS + DAY_EDGE_MS;

fn date(day: &str) -> chrono::NaiveDate {
    day.parse().expect("a date")
}

fn charge(lo: &str, hi: &str) -> DayCharge {
    DayCharge { lo: date(lo), hi: date(hi) }
}

#[test]
fn a_day_that_ran_out_opens_after_its_end_and_the_grace() {
    for (start, length_h) in [
        // The 8th of March has 23 hours, the 1st of November 25.
        ("2026-03-08T08:00:00Z", 23),
        ("2026-11-01T07:00:00Z", 25),
        ("2026-11-23T08:00:00Z", 24),
    ] {
        let mut bench = Bench::starting(start, &[rpd(2)]);
        let midnight = length_h * 3_600_000;
        bench.use_up(DAY_EDGE_MS, one());
        bench.use_up(3_600_000, one());
        let why = "rpd: needs 1, 0 of 2 free";
        bench.waits(7_200_000, one(), midnight + OPENS, why);
        bench.opens(7_200_000, one(), midnight + OPENS);
        bench.opens(midnight - 1, one(), midnight + OPENS);
        bench.opens(midnight, one(), midnight + OPENS);
        let now = bench.at(7_200_000);
        let end = bench.zero.plus(midnight);
        assert_eq!(bench.gate.day_end(BUCKET, now), (end, end.plus(OPENS)));
    }
}

#[test]
fn a_day_with_room_does_not_pause_at_midnight() {
    let mut bench = Bench::starting(LATE, &[rpd(10)]);
    for ms in [0, 500, 999, 1_000, 1_001, 3_000, 4_000] {
        bench.use_up(ms, one());
    }
}

#[test]
fn near_an_edge_both_days_are_charged() {
    for (reserved, counted, lo, hi) in [
        // Both ends of the margin, to the millisecond.
        (0, 0, "2026-11-23", "2026-11-24"),
        (MIDNIGHT + DAY_EDGE_MS - 1, 60_000, "2026-11-23", "2026-11-24"),
        (MIDNIGHT + DAY_EDGE_MS, 60_000, "2026-11-24", "2026-11-24"),
        // Over midnight, however long it takes; and over two midnights.
        (0, 3_600_000, "2026-11-23", "2026-11-24"),
        (0, DAY + 5_000, "2026-11-23", "2026-11-25"),
    ] {
        let mut bench = Bench::starting(LATE, &[rpd(10)]);
        let id = bench.admit(reserved, one());
        bench.bound(id, counted);
        let (u, found_lo, found_hi) = bench.settle(counted, id, one());
        assert_eq!((u, found_lo.as_str(), found_hi.as_str()), (counted, lo, hi));
    }
    let early = "2026-11-24T07:59:00Z";
    for (counted, hi) in [(57_999, "2026-11-23"), (58_000, "2026-11-24")] {
        let mut bench = Bench::starting(early, &[rpd(10)]);
        let id = bench.admit(0, one());
        bench.bound(id, counted);
        // Settled much later: the days are those of the bound, not of the answer's end.
        assert_eq!(bench.settle(counted + DAY, id, one()).2, hi, "counted by {counted}");
    }
}

#[test]
fn what_is_charged_to_both_days_counts_on_both() {
    let mut bench = Bench::starting(LATE, &[rpd(3)]);
    bench.use_up(0, one());
    bench.use_up(MIDNIGHT, one());
    assert_eq!(bench.state(0)[0].used, 2);
    assert_eq!(bench.state(MIDNIGHT + OPENS)[0].used, 2);
    bench.use_up(MIDNIGHT + OPENS, one());
    bench.opens(MIDNIGHT + OPENS, one(), MIDNIGHT + DAY + OPENS);
}

#[test]
fn a_day_filled_at_its_edge_is_not_promised() {
    let mut bench = Bench::starting(LATE, &[rpd(2), tpd(1_000)]);
    bench.use_up(0, tokens(10));
    bench.use_up(0, tokens(10));
    // The 24th is full before it begins: the earliest is the 25th.
    bench.opens(10, tokens(10), MIDNIGHT + DAY + OPENS);
}

#[test]
fn within_the_grace_yesterday_counts_too() {
    let mut bench = Bench::starting("2026-11-24T07:00:00Z", &[tpd(1_000)]);
    bench.use_up(0, tokens(700));
    let midnight = 3_600_000;
    let open = midnight + OPENS;
    // What fits in yesterday as well goes at once, the rest after the grace.
    for ms in [midnight, midnight + 5_000, open - 1] {
        assert_eq!(bench.check(ms, tokens(300)), Verdict::Fits, "at {ms}");
        bench.opens(ms, tokens(301), open);
    }
    assert_eq!(bench.check(open, tokens(1_000)), Verdict::Fits);
}

#[test]
fn open_attempts_count_on_every_day_up_to_today() {
    let mut bench = Bench::starting(LATE, &[rpd(2)]);
    let stuck = bench.admit(0, one());
    for days in [0, 1, 2, 5] {
        let noon = days * DAY + DAY / 2;
        assert_eq!((bench.state(noon)[0].used, bench.state(noon)[0].reserved), (1, 1));
    }
    let now = 2 * DAY + DAY / 2;
    bench.use_up(now, one());
    bench.wait(now, one());
    // Bounded long ago but still streaming: it stays charged until it is settled.
    bench.bound(stuck, 500);
    bench.wait(now, one());
    let days = bench.settle(now, stuck, one());
    assert_eq!(days, (500, "2026-11-23".to_owned(), "2026-11-24".to_owned()));
    assert_eq!(bench.check(now, one()), Verdict::Fits);
}

#[test]
fn settling_and_voiding_correct_the_day() {
    let mut bench = Bench::new(&[tpd(1_000)]);
    let [first, second] = [0, 0].map(|ms| bench.admit(ms, tokens(500)));
    bench.wait(0, tokens(1));
    bench.answer(1_000, first, tokens(200));
    assert_eq!(bench.check(1_000, tokens(300)), Verdict::Fits);
    bench.gate.void(second);
    assert_eq!(bench.check(1_000, tokens(800)), Verdict::Fits);
    bench.wait(1_000, tokens(801));
}

#[test]
fn a_day_and_a_minute_wait_for_the_day() {
    let mut bench = Bench::new(&[rpm(1), rpd(1)]);
    bench.use_up(0, one());
    // From noon to midnight are 12 h.
    bench.waits(0, one(), DAY / 2 + OPENS, "rpd: needs 1, 0 of 1 free");
    bench.opens(0, one(), DAY / 2 + OPENS);
}

#[test]
fn a_clock_that_goes_back_over_midnight_uncharges_nothing() {
    let mut bench = Bench::starting("2026-11-24T07:50:00Z", &[rpd(2)]);
    bench.use_up(0, one());
    bench.use_up(0, one());
    // Over midnight, the next day's first, and back.
    bench.use_up(20 * 60_000, one());
    bench.opens(60_000, one(), 10 * 60_000 + OPENS);
    assert_eq!(bench.state(20 * 60_000)[0].used, 1);
}

#[test]
fn restored_days_add_up() {
    let mut bench = Bench::new(&[rpd(10), tpd(10_000)]);
    let many = |requests, input_tokens| Weights { requests, input_tokens, ..Weights::default() };
    bench.gate.restore_day(BUCKET, charge("2026-11-21", "2026-11-21"), many(10, 10));
    bench.gate.restore_day(BUCKET, charge("2026-11-22", "2026-11-23"), many(1, 100));
    bench.gate.restore_day(BUCKET, charge("2026-11-23", "2026-11-23"), many(6, 3_000));
    bench.gate.restore_day(BUCKET, charge("2026-11-23", "2026-11-24"), many(2, 900));
    bench.gate.restore_day(BucketId(9), charge("2026-11-23", "2026-11-23"), many(9, 9));
    let used = |bench: &mut Bench, ms| bench.state(ms).iter().map(|l| l.used).collect::<Vec<_>>();
    assert_eq!(used(&mut bench, 0), [9, 4_000]);
    assert_eq!(used(&mut bench, DAY), [2, 900]);
    bench.admit(0, tokens(6_000));
    bench.wait(0, one());
}

#[test]
fn the_first_day_is_returned_for_the_ledger() {
    let mut bench = Bench::starting(LATE, &[]);
    for (ms, day) in [
        (0, "2026-11-23"),
        (MIDNIGHT, "2026-11-23"),
        (MIDNIGHT + DAY_EDGE_MS - 1, "2026-11-23"),
        (MIDNIGHT + DAY_EDGE_MS, "2026-11-24"),
    ] {
        let now = bench.at(ms);
        let id = AttemptId(i64::try_from(ms).expect("small"));
        assert_eq!(bench.gate.reserve(id, &ask(BUCKET, one()), now), date(day), "at {ms}");
    }
}
