//! The provider's clock, and those that lie about it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::offset::{Offset, Offsets};
use super::super::units::{BootMs, UnixMs};

/// Our wall clock when the boot clock is at 0.
const EPOCH: i64 = 1_790_000_000_000;

const HOUR: u64 = 3_600_000;

const UNKNOWN: Offset = Offset { lo_ms: -2_000, hi_ms: 2_000, known: false };

fn known(lo_ms: i64, hi_ms: i64) -> Offset {
    Offset { lo_ms, hi_ms, known: true }
}

fn wall(boot: u64) -> i64 {
    EPOCH + i64::try_from(boot).expect("a short test")
}

/// Tells of an answer whose request was sent at `sent` of the boot clock and whose headers came
/// `rtt` later, with a `Date` so many seconds from ours.
fn tell(offsets: &mut Offsets, sent: u64, rtt: u64, date_off_s: i64) {
    let headers = sent + rtt;
    let date = (EPOCH + i64::try_from(sent).expect("a short test")).div_euclid(1_000) + date_off_s;
    offsets.observe(UnixMs(wall(sent)), UnixMs(wall(headers)), date, BootMs(headers));
}

#[test]
fn nothing_is_known_before_the_first_answer() {
    let mut offsets = Offsets::default();
    assert_eq!(offsets.interval(BootMs(5)), UNKNOWN);
    // Headers before the request: a step between them.
    offsets.observe(UnixMs(EPOCH), UnixMs(EPOCH - 1), 1_790_000_000, BootMs(5));
    assert_eq!(offsets.interval(BootMs(5)), UNKNOWN);
}

#[test]
fn one_answer_is_an_interval() {
    let mut offsets = Offsets::default();
    tell(&mut offsets, 0, 80, 0);
    // Up to 1 ms wider, as the clocks may have drifted while it was on its way.
    assert_eq!(offsets.interval(BootMs(80)), known(-81, 1_501));
    // It grows with time, half a millisecond a second, and not backwards.
    assert_eq!(offsets.interval(BootMs(80 + 10_000)), known(-86, 1_506));
    assert_eq!(offsets.interval(BootMs(80 + 1)), known(-82, 1_502));
    assert_eq!(offsets.interval(BootMs(0)), known(-81, 1_501));
    // Hours of silence do not make it the assumed one again.
    let mut slow = Offsets::default();
    tell(&mut slow, 0, 0, 3_600);
    assert_eq!(slow.interval(BootMs(10 * HOUR)), known(3_582_000, 3_619_500));
    slow.forget();
    assert_eq!(slow.interval(BootMs(10 * HOUR)), UNKNOWN);
}

#[test]
fn answers_at_other_parts_of_the_second_narrow_it() {
    let mut offsets = Offsets::default();
    for sent in [100, 400, 700, 990] {
        tell(&mut offsets, sent, 0, 0);
    }
    // [-100, 1400], [-400, 1100], [-700, 800], [-990, 510], up to 1 ms wider by age: two allow
    assert_eq!(offsets.interval(BootMs(990)), known(-701, 1_101));
    tell(&mut offsets, 5_550, 0, 0);
    // And [-550, 950]: three allow
    assert_eq!(offsets.interval(BootMs(5_550)), known(-550, 950));
}

#[test]
fn those_that_do_not_agree_prove_nothing() {
    let mut offsets = Offsets::default();
    tell(&mut offsets, 0, 0, 0);
    tell(&mut offsets, 0, 0, 100);
    assert_eq!(offsets.interval(BootMs(0)), known(0, 101_500), "either may be right");
    tell(&mut offsets, 0, 0, -100);
    let all = Offset { lo_ms: -100_000, hi_ms: 101_500, known: false };
    assert_eq!(offsets.interval(BootMs(0)), all);
    tell(&mut offsets, 0, 0, 100);
    assert_eq!(offsets.interval(BootMs(0)), known(100_000, 101_500));
    // Touching is agreeing.
    tell(&mut offsets, 500, 0, 101);
    tell(&mut offsets, 0, 0, 50);
    assert_eq!(offsets.interval(BootMs(0)), known(100_500, 101_500));
}

#[test]
fn an_hour_later_an_answer_is_forgotten() {
    let mut offsets = Offsets::default();
    for _ in 0..3 {
        tell(&mut offsets, 0, 0, 7);
    }
    tell(&mut offsets, HOUR - 1, 0, 50);
    assert_eq!(offsets.interval(BootMs(HOUR - 1)), known(5_200, 10_300));
    tell(&mut offsets, HOUR, 0, 50);
    assert_eq!(offsets.interval(BootMs(HOUR)), known(49_000, 51_500));
}

#[test]
fn the_tightest_are_kept() {
    let mut offsets = Offsets::default();
    for _ in 0..64 {
        tell(&mut offsets, 0, 20, 0);
    }
    for _ in 0..500 {
        tell(&mut offsets, 0, 30_000, 900);
    }
    assert_eq!(offsets.interval(BootMs(30_000)), known(-35, 1_515));
    // Age widens: later ones take the places of earlier ones as tight.
    for _ in 0..64 {
        tell(&mut offsets, 60_000, 20, 900);
    }
    assert_eq!(offsets.interval(BootMs(60_020)), known(899_979, 901_501));
}

#[test]
fn any_date_will_do() {
    for (sent, headers, date) in [
        (0, 0, i64::MAX),
        (0, 0, i64::MIN),
        (i64::MIN, i64::MAX, 0),
        (i64::MAX, i64::MAX, i64::MIN),
        (i64::MIN, i64::MIN, i64::MAX),
    ] {
        let mut offsets = Offsets::default();
        for _ in 0..70 {
            offsets.observe(UnixMs(sent), UnixMs(headers), date, BootMs(u64::MAX));
        }
        let found = offsets.interval(BootMs(u64::MAX));
        assert!(found.known && found.lo_ms <= found.hi_ms, "{found:?}");
    }
}

/// An answer of a test: how long after the one before it was sent, how long its request was on its
/// way and its headers were on theirs, how old its `Date` was, and if it lies, by how much.
#[derive(Clone, Copy, Debug)]
struct Told {
    gap: u64,
    there: u64,
    back: u64,
    stale: i64,
    lie_ms: Option<i64>,
}

impl Told {
    fn rtt(self) -> u64 {
        self.there + self.back
    }
}

fn told(lie_ms: impl Strategy<Value = Option<i64>>) -> impl Strategy<Value = Told> {
    let delay = || prop_oneof![4 => 0..200_u64, 1 => 0..20_000_u64];
    (prop_oneof![0..1_500_u64, 0..40_000_u64], delay(), delay(), 0..=500_i64, lie_ms)
        .prop_map(|(gap, there, back, stale, lie_ms)| Told { gap, there, back, stale, lie_ms })
}

/// As many answers as are kept, at least half of them honest; liars are off by little or by much, and
/// anywhere.
fn company() -> impl Strategy<Value = Vec<Told>> {
    let lie =
        prop_oneof![-4_000..4_000_i64, -200_000..200_000_i64, any::<i32>().prop_map(i64::from)];
    (vec(told(Just(None)), 1..=32), vec(told(lie.prop_map(Some)), 0..=31), any::<u64>()).prop_map(
        |(mut all, mut liars, seed)| {
            liars.truncate(all.len());
            for (index, liar) in (0_u64..).zip(liars) {
                let place = seed.rotate_left(u32::try_from(index).expect("few")) % 64;
                all.insert(usize::try_from(place).expect("few") % (all.len() + 1), liar);
            }
            all
        },
    )
}

/// θ at a time of the boot clock, drifting.
fn theta(start: i64, drift_ppm: i64, boot: u64) -> i64 {
    start + (i128::from(boot) * i128::from(drift_ppm) / 1_000_000).try_into().unwrap_or(0_i64)
}

/// The `Date` of an answer, by the provider's clock when it was made.
fn date_s(answer: Told, sent: u64, start: i64, drift_ppm: i64) -> i64 {
    let made = sent + answer.there;
    let clock = wall(made) + theta(start, drift_ppm, made) - answer.stale;
    (clock + answer.lie_ms.unwrap_or(0)).div_euclid(1_000)
}

proptest! {
    #[test]
    fn liars_do_not_move_it_off_the_truth(
        all in company(),
        start in prop_oneof![-3_000..3_000_i64, -90_000_000..90_000_000_i64],
        drift_ppm in -499..=499_i64,
        silence in 0..100_000_u64,
    ) {
        let mut offsets = Offsets::default();
        // One after the other, so that they are told in the order in which they came.
        let mut clock = 0;
        for answer in &all {
            let sent = clock + answer.gap;
            clock = sent + answer.rtt();
            let date = date_s(*answer, sent, start, drift_ppm);
            offsets.observe(UnixMs(wall(sent)), UnixMs(wall(clock)), date, BootMs(clock));
        }
        prop_assume!(clock < HOUR);
        let end = clock + silence;
        let (found, truth) = (offsets.interval(BootMs(end)), theta(start, drift_ppm, end));
        prop_assert!(found.known);
        prop_assert!(found.lo_ms <= truth && truth <= found.hi_ms, "{truth} not in {found:?}");
    }

    #[test]
    fn honest_answers_narrow_it(
        all in vec(told(Just(None)), 1..200),
        start in -90_000_000..90_000_000_i64,
        rtt in 0..300_u64,
    ) {
        let mut offsets = Offsets::default();
        // Many requests at once: all are sent before the first is answered.
        let sent = 25_000;
        for answer in &all {
            let date = date_s(*answer, sent, start, 0);
            let headers = UnixMs(wall(sent + answer.rtt()));
            offsets.observe(UnixMs(wall(sent)), headers, date, BootMs(sent));
        }
        let width = |offsets: &Offsets| {
            let found = offsets.interval(BootMs(sent));
            assert!(found.known && found.lo_ms <= start && start <= found.hi_ms, "{found:?}");
            found.hi_ms.abs_diff(found.lo_ms)
        };
        let mut trips: Vec<_> = all.iter().map(|answer| answer.rtt()).collect();
        trips.sort_unstable();
        // No wider than the widest of an odd number of answers.
        let kept = trips.len().min(63);
        let most = |rtt: u64| 1_500 + rtt + 2 * rtt.div_ceil(2_000);
        prop_assert!(kept % 2 == 0 || width(&offsets) <= most(trips[kept - 1]));
        // Once all that are kept are as quick as the quickest, no wider than those.
        let quickest = rtt.min(trips[0]);
        for there in (0..=quickest).cycle().take(64) {
            let back = quickest - there;
            let answer = Told { gap: 0, there, back, stale: 0, lie_ms: None };
            let date = date_s(answer, sent, start, 0);
            let headers = UnixMs(wall(sent + quickest));
            offsets.observe(UnixMs(wall(sent)), headers, date, BootMs(sent));
        }
        prop_assert!(width(&offsets) <= most(quickest));
    }

    #[test]
    fn it_is_the_hull_of_what_half_of_them_allow(
        all in vec((0..5_000_u64, -20_000..20_000_i64), 1..=63),
    ) {
        let mut offsets = Offsets::default();
        let mut intervals = Vec::new();
        for (rtt, off_ms) in &all {
            // All are sent at one instant; they drift while they are on their way.
            let date = (EPOCH + off_ms).div_euclid(1_000);
            let headers = EPOCH + i64::try_from(*rtt).expect("few");
            offsets.observe(UnixMs(EPOCH), UnixMs(headers), date, BootMs(10_000));
            let drift = (headers - EPOCH + 1_999) / 2_000;
            intervals
                .push((date * 1_000 - headers - drift, date * 1_000 + 1_500 - EPOCH + drift));
        }
        let allowed = |value: i64| {
            let allowing = intervals.iter().filter(|(lo, hi)| *lo <= value && value <= *hi).count();
            allowing * 2 >= intervals.len()
        };
        let values = || intervals.iter().flat_map(|(lo, hi)| [*lo, *hi]);
        let (lo, hi) = (values().filter(|v| allowed(*v)).min(), values().filter(|v| allowed(*v)).max());
        let expected = match (lo, hi) {
            (Some(lo), Some(hi)) => known(lo, hi),
            _ => Offset {
                lo_ms: values().min().unwrap_or(0).min(-2_000),
                hi_ms: values().max().unwrap_or(0).max(2_000),
                known: false,
            },
        };
        prop_assert_eq!(offsets.interval(BootMs(10_000)), expected);
    }
}
