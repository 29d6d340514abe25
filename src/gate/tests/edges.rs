//! Quota days under every clock: the provider's, ours when it steps, and those of odd zones.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::gate::day::DayEdges;
use crate::gate::learn::{Quota, Throttle};

const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

/// Zones and instants shortly before a day that is odd there.
const STARTS: [(&str, &str); 12] = [
    ("America/Los_Angeles", "2026-03-07T20:00:00Z"),
    ("America/Los_Angeles", "2026-10-31T20:00:00Z"),
    // Midnight is missing.
    ("America/Havana", "2026-03-07T20:00:00Z"),
    ("Africa/Cairo", "2026-04-23T12:00:00Z"),
    ("Asia/Beirut", "2026-03-28T12:00:00Z"),
    ("America/Santiago", "2026-09-05T20:00:00Z"),
    ("America/Sao_Paulo", "2018-11-03T20:00:00Z"),
    // And doubled, or close to it.
    ("America/Havana", "2026-10-31T20:00:00Z"),
    ("Africa/Cairo", "2026-10-29T12:00:00Z"),
    ("Asia/Beirut", "2026-10-24T12:00:00Z"),
    ("America/Santiago", "2026-04-04T20:00:00Z"),
    ("America/Sao_Paulo", "2018-02-17T20:00:00Z"),
];

/// The date on a wall there, which does not go back when the clocks do.
fn date_in(zone: Tz, at: DateTime<Utc>) -> NaiveDate {
    let dates = (0..=4).map(|quarters| at - TimeDelta::minutes(15 * quarters));
    dates.map(|at| at.with_timezone(&zone).date_naive()).max().expect("five dates")
}

fn in_zone(zone: &str, start: &str, limits: &[Limit]) -> Bench {
    let mut gate = Gate::default();
    let day = QuotaDay::new(zone, "0 0 * * *").expect("a day");
    gate.define(BUCKET, PROJECT, limits.to_vec(), day);
    Bench { gate, zero: unix(start), next: 1 }
}

fn edges(lo_ms: i64, hi_ms: i64) -> DayEdges {
    DayEdges { lo_ms, hi_ms, floor: None }
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    /// A request of so many tokens, whose headers take so long, and which the provider counts
    /// after so many thousandths of that.
    Ask(u64, u64, u64),
    /// Our clock is set, and the provider's is found where it was.
    Step(i64),
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    id: AttemptId,
    tokens: u64,
    counted: u64,
    ends: u64,
}

fn turns() -> impl Strategy<Value = Vec<(u64, Turn)>> {
    let gap = prop_oneof![3 => 0..5_000_u64, 3 => 0..2 * HOUR, 2 => 0..12 * HOUR];
    let delay = prop_oneof![4 => 0..4_000_u64, 2 => 0..HOUR, 1 => 0..30 * HOUR];
    let day = i64::try_from(DAY).expect("small");
    let step = prop_oneof![-10_000..10_000_i64, -day..day, -120 * day..120 * day];
    let turn = prop_oneof![
        12 => (0..500_u64, delay, 0..=1_000_u64).prop_map(|(tokens, delay, at)| {
            Turn::Ask(tokens, delay, at)
        }),
        1 => step.prop_map(Turn::Step),
    ];
    vec((gap, turn), 1..60)
}

/// The provider's clock minus ours: any sign, any width.
fn offsets() -> impl Strategy<Value = (i64, i64)> {
    let hour = 3_600_000_i64;
    let one = prop_oneof![-3_000..3_000_i64, -26 * hour..26 * hour];
    let wide = prop_oneof![Just(0_i64), 0..4_000_i64, 0..3 * hour];
    (one, wide).prop_map(|(lo, wide)| (lo, lo + wide))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// P5: no day of the provider holds more than the limit, wherever its clock is within what is
    /// known of it, in every zone, and whatever is done to our clock.
    #[test]
    fn no_day_of_the_provider_is_over(
        (zone, start) in prop::sample::select(&STARTS[..]),
        (lo, hi) in offsets(), inside in 0..=1_000_i64, turns in turns(),
    ) {
        let limits = [rpd(5), tpd(900)];
        let mut bench = in_zone(zone, start, &limits);
        bench.gate.set_day_edges(PROJECT, edges(lo, hi));
        let zero = bench.zero;
        let (mut time, mut stepped) = (0_u64, 0_i64);
        let mut sent: Vec<Sent> = Vec::new();
        let mut open: Vec<Sent> = Vec::new();
        for (gap, turn) in turns {
            time += gap;
            open.sort_by_key(|sent| sent.ends);
            while let Some(first) = open.first().copied().filter(|sent| sent.ends <= time) {
                open.remove(0);
                bench.answer(first.ends, first.id, tokens(first.tokens));
            }
            match turn {
                Turn::Step(by) => {
                    stepped += by;
                    bench.zero = zero.moved(stepped);
                    bench.gate.set_day_edges(PROJECT, edges(lo - stepped, hi - stepped));
                }
                Turn::Ask(weight, delay, at) => {
                    if bench.check(time, tokens(weight)) == Verdict::Fits {
                        let id = bench.reserve(time, tokens(weight));
                        let counted = time + delay * at / 1_000;
                        let one = Sent { id, tokens: weight, counted, ends: time + delay };
                        sent.push(one);
                        open.push(one);
                    }
                }
            }
        }
        let zone: Tz = zone.parse().expect("a zone");
        for offset in [lo, hi, lo + (hi - lo) * inside / 1_000] {
            let mut days = std::collections::BTreeMap::<NaiveDate, (u64, u64)>::new();
            for one in &sent {
                let day = date_in(zone, zero.plus(one.counted).moved(offset).to_utc());
                let sums = days.entry(day).or_default();
                (sums.0, sums.1) = (sums.0 + 1, sums.1 + one.tokens);
            }
            for (day, (requests, tokens)) in days {
                prop_assert!(requests <= 5 && tokens <= 900, "{day}: {requests}, {tokens}");
            }
        }
    }

    /// A wait for a day ends at an instant that opens it, and not before.
    #[test]
    fn a_wait_for_a_day_is_as_long_as_it_says(
        (zone, start) in prop::sample::select(&STARTS[..]),
        (lo, hi) in offsets(), later in 0..30 * HOUR,
    ) {
        let mut bench = in_zone(zone, start, &[rpd(2)]);
        bench.gate.set_day_edges(PROJECT, edges(lo, hi));
        bench.use_up(0, one());
        bench.use_up(0, one());
        if let Verdict::Wait(wait) = bench.check(later, one()) {
            bench.opens(later, one(), wait.until.0 - BOOT);
        }
    }
}

#[test]
fn odd_days_open_once_at_their_first_midnight() {
    for (zone, start, midnight) in [
        ("America/Havana", "2026-03-07T20:00:00Z", "2026-03-08T05:00:00Z"),
        ("Africa/Cairo", "2026-04-23T12:00:00Z", "2026-04-23T22:00:00Z"),
        ("Asia/Beirut", "2026-10-24T12:00:00Z", "2026-10-24T22:00:00Z"),
        ("America/Santiago", "2026-09-05T20:00:00Z", "2026-09-06T04:00:00Z"),
        ("America/Havana", "2026-10-31T20:00:00Z", "2026-11-01T04:00:00Z"),
    ] {
        let mut bench = in_zone(zone, start, &[rpd(1)]);
        bench.use_up(0, one());
        let midnight = bench.zero.until(unix(midnight));
        bench.opens(0, one(), midnight + 32_000);
        bench.use_up(midnight + 32_000, one());
        let wait = bench.wait(midnight + 3 * HOUR, one());
        let length = wait.until.0 - BOOT - midnight - 32_000;
        assert!((23 * HOUR..=25 * HOUR).contains(&length), "{zone}: {length}");
    }
}

#[test]
fn a_clock_that_jumps_ahead_and_back_uncharges_nothing() {
    for away in [DAY, 6 * DAY, 41 * DAY, 200 * DAY] {
        let mut bench = Bench::new(&[rpd(4)]);
        bench.use_up(0, one());
        bench.use_up(0, one());
        let wrong = bench.zero.plus(away);
        let right = std::mem::replace(&mut bench.zero, wrong);
        for ms in [1_000, 2_000, 3_000] {
            bench.use_up(ms, one());
        }
        bench.zero = right;
        assert_eq!(bench.state(4_000)[0].used, 2, "{away} ms away");
        bench.zero = wrong;
        assert_eq!(bench.state(5_000)[0].used, 3, "{away} ms away");
    }
}

#[test]
fn an_attempt_over_a_jump_counts_where_it_ended() {
    for away in [DAY, 30 * DAY, 41 * DAY, 20_000 * DAY] {
        // A clock that began far in the past is put right with a request under way.
        let mut bench = Bench::starting("1970-01-03T00:00:00Z", &[rpd(3)]);
        let id = bench.admit(0, one());
        bench.zero = bench.zero.plus(away);
        let other = bench.admit(1_000, one());
        for id in [id, other] {
            bench.answer(2_000, id, one());
        }
        assert_eq!(bench.state(3_000)[0].used, 2, "{away} ms");
    }
}

#[test]
fn a_day_that_has_begun_holds_until_the_clock_comes_to_it() {
    for back in [1, 5, 45, 300] {
        let mut bench = Bench::new(&[rpd(2)]);
        let floor = Some("2026-11-23".parse().expect("a date"));
        bench.zero = bench.zero.minus(back * DAY);
        let told = DayEdges { floor, ..DayEdges::default() };
        bench.gate.set_day_edges(PROJECT, told);
        bench.use_up(0, one());
        bench.use_up(1_000, one());
        // By our clock the 24th is far away.
        let until = (back * DAY) + DAY / 2 + 32_000;
        bench.waits(2_000, one(), until, "rpd: needs 1, 0 of 2 free");
        let later = 3 * HOUR;
        assert_eq!(bench.state(later)[0].used, 2, "{back} days back");
        bench.wait(later, one());
        // The provider's clock is heard, and it is still the 23rd.
        let away = i64::try_from(back * DAY).expect("small");
        bench.gate.set_day_edges(PROJECT, edges(away - 500, away + 500));
        bench.opens(later, one(), DAY / 2 + 30_500);
    }
}

#[test]
fn both_quotas_of_a_day_that_ran_out_are_full() {
    let mut bench = Bench::new(&[rpd(10), tpd(1_000)]);
    let ids = [0, 0, 0].map(|ms| bench.admit(ms, tokens(10)));
    let quota =
        |metric| Quota { id: "PerDay".to_owned(), metric, window: Some(Window::Day), value: None };
    let throttle = Throttle {
        quotas: vec![quota(Metric::Requests), quota(Metric::InputTokens)],
        retry_ms: None,
    };
    // What was under way together is refused together.
    for (id, ms) in ids.into_iter().zip([100, 200, 300]) {
        let now = bench.at(ms);
        bench.gate.throttled(id, &throttle, now, 0).expect("it is told");
        bench.answer(ms, id, tokens(10));
        let used: Vec<_> = bench.state(ms).iter().map(|state| state.used).collect();
        assert_eq!(used, [10, 1_000], "at {ms}");
    }
    let midnight = DAY / 2 + 32_000;
    bench.opens(400, one(), midnight);
}
