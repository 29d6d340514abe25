//! What batches leave to interactive requests, and those to a batch request that waited long.

use proptest::prelude::*;

use super::world::{OTHER, World, catalogue, history, mask, weights};
use super::*;
use crate::gate::reserve::{Firm, Reserve};
use crate::gate::verdict::Requirement;

const QUARTER_HOUR: u64 = 900_000;

impl Bench {
    fn person(need: Weights) -> Ask {
        Ask { class: Class::Interactive, ..ask(BUCKET, need) }
    }

    /// An interactive request, which is there from now on.
    fn comes(&mut self, ms: u64, need: Weights) -> AttemptId {
        let id = AttemptId(self.next);
        self.next += 1;
        let now = self.at(ms);
        self.gate.reserve(id, &Self::person(need), now);
        id
    }

    /// The same, answered at once.
    fn served(&mut self, ms: u64, need: Weights) {
        let id = self.comes(ms, need);
        self.answer(ms, id, need);
    }

    /// A batch request, whether or not it fits.
    fn forced(&mut self, ms: u64, need: Weights) {
        let id = self.reserve(ms, need);
        self.answer(ms, id, need);
    }

    fn kept(&mut self, ms: u64) -> u64 {
        self.state(ms)[0].reserve
    }

    /// How the first limit stands towards a batch request: batches are paced besides.
    fn batch(&mut self, ms: u64, need: Weights) -> Requirement {
        let now = self.at(ms);
        self.gate.explain(&ask(BUCKET, need), now).needs.remove(0)
    }

    fn batch_fits(&mut self, ms: u64, need: Weights) -> bool {
        self.batch(ms, need).fits_at.is_none()
    }

    fn fixed(&mut self, permille: u64) {
        self.gate.set_reserve(PROJECT, Reserve::Fixed { permille });
    }

    fn firm(&mut self, need: Weights, whole: bool) {
        self.gate.set_firm(BUCKET, Some(Firm { need, whole }));
    }

    fn person_goes(&mut self, ms: u64, need: Weights) -> Verdict {
        let now = self.at(ms);
        self.gate.check(&Self::person(need), now)
    }

    /// It fits from `until` on, with nothing else happening, and not before.
    #[track_caller]
    fn batch_opens(&self, ms: u64, need: Weights, until: u64) {
        let at = |ms| self.clone().batch(ms, need).fits_at;
        let end = Some(BootMs(BOOT + until));
        assert_eq!((at(ms), at(until - 1), at(until)), (end, end, None));
    }
}

fn requests(requests: u64) -> Weights {
    Weights { requests, ..Weights::default() }
}

#[test]
fn nothing_is_kept_until_somebody_comes() {
    let mut bench = Bench::new(&[rpm(15)]);
    assert_eq!(bench.kept(0), 0);
    assert_eq!(bench.check(0, requests(15)), Verdict::Fits);
    let id = bench.comes(0, one());
    assert_eq!(bench.kept(0), 1);
    bench.forced(0, requests(12));
    assert!(bench.batch_fits(0, one()) && !bench.batch_fits(0, requests(2)));
    assert_eq!(bench.person_goes(0, requests(2)), Verdict::Fits);
    bench.answer(0, id, one());
    // The one that came does not keep what others may need.
    assert_eq!(bench.kept(0), 1);
}

#[test]
fn a_reason_says_what_is_kept() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.served(0, requests(3));
    bench.forced(STAY, requests(12));
    bench.waits(STAY, one(), 2 * STAY, "rpm: needs 1, 0 of 15 free (3 kept for interactive)");
    let Requirement { state, kept, .. } = bench.batch(STAY, one());
    assert_eq!((state.free, state.reserve, kept), (3, 3, 3));
}

#[test]
fn as_much_is_kept_as_was_used_and_is_not_now() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.served(0, requests(5));
    assert_eq!((bench.kept(0), bench.kept(STAY - 1), bench.kept(STAY)), (1, 1, 5));
    bench.served(STAY, requests(2));
    assert_eq!(bench.kept(STAY), 3);
    // Ten slots of a minute, then nothing but the least until a quarter of an hour is over.
    let (ten, silent) = (1_560_000 - BOOT, STAY + QUARTER_HOUR);
    assert_eq!((bench.kept(ten - 1), bench.kept(ten)), (5, 2));
    assert_eq!((bench.kept(ten + 60_000), bench.kept(silent - 1)), (1, 1));
    assert_eq!(bench.kept(silent), 0);
    assert!(bench.batch_fits(silent, requests(15)));
    bench.served(silent + 1, one());
    assert_eq!(bench.kept(silent + 1), 1);
}

#[test]
fn between_a_twentieth_and_a_half_is_kept() {
    for (limits, need, least, most) in [
        (rpm(15), requests(13), 1, 7),
        (rpm(100), requests(90), 5, 50),
        (rpm(2), requests(2), 1, 1),
        (rpm(1), requests(1), 1, 1),
        (tpm(1_000), tokens(990), 50, 500),
        (tpm(10), tokens(9), 0, 5),
        (ipm(7), images(7), 0, 3),
    ] {
        let mut bench = Bench::new(std::slice::from_ref(&limits));
        bench.served(0, need);
        assert_eq!((bench.kept(0), bench.kept(STAY)), (least, most), "{limits:?}");
    }
}

/// What leaves makes room only as far as it is not kept then.
#[test]
fn a_wait_knows_what_will_be_kept() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.served(0, requests(4));
    bench.forced(1_000, requests(5));
    // 4 and 5 used, 1 kept; then 5 used and 4 kept.
    bench.batch_opens(2_000, one(), STAY);
    bench.batch_opens(2_000, requests(2), 1_000 + STAY);
    let mut bench = Bench::new(&[ipm(4)]);
    bench.served(0, images(2));
    bench.forced(1_000, images(2));
    // Nothing is kept now, but what those who came leave will be.
    assert_eq!(bench.kept(1_000), 0);
    bench.batch_opens(2_000, images(1), 1_000 + STAY);
}

#[test]
fn a_wait_ends_when_nobody_is_expected_any_more() {
    let mut bench = Bench::new(&[rpm(10), per(3_600_000, 20)]);
    bench.served(0, one());
    bench.forced(0, requests(18));
    let now = bench.at(STAY);
    let needs = bench.gate.explain(&ask(BUCKET, one()), now).needs;
    assert_eq!(needs[0].fits_at, None);
    assert_eq!(needs[1].fits_at, Some(BootMs(BOOT + QUARTER_HOUR)));
}

#[test]
fn a_share_is_kept_whether_or_not_anybody_comes() {
    let mut bench = Bench::new(&[rpm(15), limit(Metric::Requests, Window::Concurrent, 4)]);
    bench.fixed(200);
    assert_eq!(bench.state(0).iter().map(|state| state.reserve).collect::<Vec<_>>(), [3, 0]);
    bench.served(0, requests(4));
    let later = |ms| bench.clone().kept(ms);
    assert_eq!((later(0), later(STAY), later(QUARTER_HOUR)), (3, 3, 3));
    bench.forced(0, requests(7));
    assert!(bench.batch_fits(0, one()) && !bench.batch_fits(0, requests(2)));
    bench.batch_opens(0, requests(2), STAY);
    bench.fixed(0);
    assert_eq!(bench.kept(0), 0);
    bench.fixed(10);
    assert_eq!(bench.kept(0), 1);
}

#[test]
fn a_limit_that_is_learned_of_later_knows_who_came() {
    let mut bench = Bench::new(&[rpm(15)]);
    let open = bench.comes(0, tokens(300));
    let now = bench.at(1_000);
    bench.gate.redefine(BUCKET, vec![rpm(20), tpm(1_000)], now);
    bench.gate.share(PROJECT, vec![per(600_000, 100)], QuotaDay::pacific(), now);
    bench.answer(2_000, open, tokens(200));
    let shown = bench.state(2_000 + STAY);
    assert_eq!(shown.iter().map(|it| it.reserve).collect::<Vec<_>>(), [1, 200, 5]);
}

/// Every bucket of a project leaves what it shares to those who come to any of them.
#[test]
fn what_is_shared_is_kept_in_every_bucket() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.gate.define(OTHER, PROJECT, vec![rpm(15)], QuotaDay::pacific());
    let now = bench.at(0);
    bench.gate.share(PROJECT, vec![rpm(20)], QuotaDay::pacific(), now);
    bench.served(0, requests(6));
    let now = bench.at(STAY);
    let kept = |bucket, gate: &mut Gate| {
        gate.state(bucket, now).iter().map(|it| it.reserve).collect::<Vec<_>>()
    };
    assert_eq!(kept(BUCKET, &mut bench.gate), [6, 6]);
    assert_eq!(kept(OTHER, &mut bench.gate), [0, 6]);
    bench.gate.merge(BUCKET, OTHER, now);
    assert_eq!(kept(OTHER, &mut bench.gate), [6, 6]);
}

#[test]
fn a_days_share_melts_until_midnight_and_is_back_then() {
    for (start, left, hours) in [
        ("2026-11-23T20:00:00Z", 12, 24),
        ("2026-11-01T20:00:00Z", 12, 25),
        ("2026-03-08T19:00:00Z", 12, 23),
    ] {
        let mut bench = Bench::starting(start, &[rpd(1_000)]);
        assert_eq!(bench.kept(0), 0);
        bench.fixed(100);
        let hour = 3_600_000;
        // By the provider's clock, which may be ahead by Δ.
        let part = |left_ms: u64| (100 * left_ms).div_ceil(hours * hour);
        assert_eq!(bench.kept(0), part(left * hour - DELTA_MS), "{start}");
        assert_eq!(bench.kept(3 * hour), part((left - 3) * hour - DELTA_MS), "{start}");
        let midnight = left * hour - DELTA_MS;
        assert_eq!((bench.kept(midnight - 1), bench.kept(midnight)), (1, 100), "{start}");
    }
}

#[test]
fn of_a_day_is_kept_what_will_be_used() {
    let mut bench = Bench::new(&[rpd(1_000)]);
    let half = |whole: u64| (whole * (43_200_000 - DELTA_MS)).div_ceil(86_400_000);
    let id = bench.comes(0, one());
    assert_eq!(bench.kept(0), half(50));
    bench.answer(0, id, one());
    // One in ten minutes is 144 a day.
    assert_eq!(bench.kept(0), half(144));
    bench.served(0, requests(9));
    assert_eq!(bench.kept(0), half(500));
    let later = QUARTER_HOUR - 1;
    let least = (50 * (43_200_000 - DELTA_MS - later)).div_ceil(86_400_000);
    assert_eq!((bench.kept(later), bench.kept(later + 1)), (least, 0));
}

#[test]
fn a_batch_waits_for_what_melts() {
    let mut bench = Bench::new(&[rpd(100)]);
    bench.fixed(200);
    bench.forced(0, requests(88));
    // Ten are kept at noon; three when three parts in ten are left of the half day.
    assert_eq!(bench.kept(0), 10);
    assert!(bench.batch_fits(0, requests(2)));
    bench.batch_opens(0, requests(9), (43_200_000 - DELTA_MS) - 12_960_000);
    // The last one is kept until the day is over.
    bench.batch_opens(0, requests(12), 43_200_000 - DELTA_MS);
    // What does not fit today at all waits for tomorrow, when there is room for it.
    bench.batch_opens(0, requests(13), 43_200_000 + 30_000 + DELTA_MS);
    assert_eq!(bench.person_goes(0, requests(12)), Verdict::Fits);
}

/// The day before has nothing to keep any more.
#[test]
fn a_new_day_does_not_keep_for_the_old_one() {
    let mut bench = Bench::starting("2026-11-24T07:59:00Z", &[rpd(100)]);
    bench.fixed(500);
    bench.forced(0, requests(70));
    assert!(bench.batch_fits(0, requests(29)));
    assert!(bench.batch_fits(60_000, requests(30)));
}

#[test]
fn what_is_larger_than_a_batch_may_use_goes_alone() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.served(0, tokens(300));
    bench.forced(1_000, tokens(10));
    assert_eq!(bench.kept(STAY), 300);
    assert!(!bench.batch_fits(STAY, tokens(701)));
    bench.batch_opens(STAY, tokens(701), 1_000 + STAY);
    assert!(bench.batch_fits(STAY, tokens(690)));
    assert!(matches!(bench.check(STAY, tokens(1_001)), Verdict::Never(_)));
}

#[test]
fn a_firm_head_is_made_way_for_by_those_beyond_the_least() {
    let mut bench = Bench::new(&[rpm(40)]);
    bench.served(0, one());
    bench.forced(0, requests(30));
    bench.firm(requests(8), false);
    // Two are theirs whatever waits, and one is in use.
    assert_eq!(bench.person_goes(0, one()), Verdict::Fits);
    bench.served(0, one());
    // 32 of 40 are used, and eight of the rest are the head's.
    let Verdict::Wait(wait) = bench.person_goes(0, one()) else { panic!("it fits") };
    let words = "rpm: needs 1, 0 of 40 free (8 kept for a batch that has waited long)";
    assert_eq!((wait.because.to_string(), wait.until), (words.to_owned(), BootMs(BOOT + STAY)));
    bench.gate.set_firm(BUCKET, None);
    assert_eq!(bench.person_goes(0, requests(8)), Verdict::Fits);
}

#[test]
fn a_head_may_take_the_whole_limit() {
    let mut bench = Bench::new(&[tpm(1_000), rpd(50)]);
    bench.served(0, tokens(300));
    bench.forced(1_000, tokens(50));
    let (head, like) = (tokens(900), tokens(899));
    assert!(!bench.batch_fits(STAY, head));
    bench.firm(head, true);
    // 50 are used and 300 kept; the head alone does not mind.
    assert!(bench.batch_fits(STAY, head) && !bench.batch_fits(STAY, like));
    assert_eq!(bench.person_goes(STAY, tokens(50)), Verdict::Fits);
    let Verdict::Wait(wait) = bench.person_goes(STAY, tokens(51)) else { panic!("it fits") };
    assert_eq!(wait.until, BootMs(BOOT + 1_000 + STAY));
    // It does not go alone before the head either.
    let Verdict::Wait(wait) = bench.person_goes(2 * STAY, tokens(101)) else { panic!("it fits") };
    assert!(wait.until > BootMs(BOOT + 2 * STAY));
    assert_eq!(bench.person_goes(2 * STAY, tokens(100)), Verdict::Fits);
}

/// What a server's restart makes of it: people have to come again.
#[test]
fn what_was_restored_keeps_nothing() {
    let mut bench = Bench::new(&[rpm(15)]);
    bench.restore(1, requests(5), 0);
    assert_eq!((bench.kept(0), bench.kept(STAY)), (0, 0));
}

/// People who come at a fifth of the limit hardly wait beside a batch that takes all it gets.
#[test]
fn people_hardly_wait_beside_a_batch() {
    for seed in 1..=3_u64 {
        let p95 = |reserve| {
            let waits = beside_a_batch(seed, reserve);
            waits[waits.len() * 95 / 100]
        };
        let without = p95(Reserve::Fixed { permille: 0 });
        let p95 = p95(Reserve::Auto);
        // 14 are left to batches while the least is kept.
        let bound = 2 * (MINUTE_MS + DELTA_MS) / 14;
        assert!(p95 <= bound, "seed {seed}: {p95} ms");
        assert!(p95 < without, "seed {seed}: {p95} ms, and {without} ms without");
    }
}

/// Two hours of a bucket of 15 a minute: how long each interactive request waited, sorted.
fn beside_a_batch(seed: u64, reserve: Reserve) -> Vec<u64> {
    const STEP: u64 = 100;
    let mut bench = Bench::new(&[rpm(15)]);
    bench.gate.set_reserve(PROJECT, reserve);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut waiting = std::collections::VecDeque::new();
    let mut open: Vec<(u64, AttemptId)> = Vec::new();
    let mut waits = Vec::new();
    let mut batches = 0;
    for ms in (0..2 * 3_600_000).step_by(100) {
        // Three a minute.
        if random(60_000 / STEP) < 3 {
            waiting.push_back(ms);
        }
        let (over, still): (Vec<_>, Vec<_>) = open.into_iter().partition(|(end, _)| *end <= ms);
        for (_, id) in over {
            bench.answer(ms, id, one());
        }
        open = still;
        while let Some(since) = waiting.front().copied() {
            if bench.person_goes(ms, one()) != Verdict::Fits {
                break;
            }
            waiting.pop_front();
            waits.push(ms - since);
            open.push((ms + 200 + random(1_500), bench.comes(ms, one())));
        }
        if bench.check(ms, one()) == Verdict::Fits {
            batches += 1;
            open.push((ms + 200 + random(1_500), bench.reserve(ms, one())));
        }
    }
    assert!(batches > 2 * 60 * 7, "batches get the rest: {batches}");
    waits.sort_unstable();
    waits
}

fn until(verdict: &Verdict) -> Option<BootMs> {
    match verdict {
        Verdict::Fits => None,
        Verdict::Wait(wait) => Some(wait.until),
        Verdict::Never(_) => Some(BootMs(u64::MAX)),
    }
}

fn policy() -> impl Strategy<Value = Reserve> {
    let fixed = (0..990_u64).prop_map(|permille| Reserve::Fixed { permille });
    prop_oneof![3 => Just(Reserve::Auto), 1 => fixed]
}

fn firm() -> impl Strategy<Value = Option<Firm>> {
    proptest::option::of((weights(), any::<bool>()).prop_map(|(need, whole)| Firm { need, whole }))
}

fn mixed(masks: (u32, u32, u32), reserve: Reserve, firm: Option<Firm>) -> World {
    let of = |mask| catalogue(mask, 0);
    let mut world = World::new(of(masks.0), of(masks.1), of(masks.2));
    world.mixed = true;
    world.gate.set_reserve(PROJECT, reserve);
    world.gate.set_firm(BUCKET, firm);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The books of all are right beside those of interactive requests, whatever changes.
    #[test]
    fn the_books_stay_right(
        masks in (mask(), mask(), mask()), history in history(true), reserve in policy(),
        firm in firm(),
    ) {
        let mut world = mixed(masks, reserve, firm);
        for (gap, op) in history {
            world.now += gap;
            world.act(op);
            world.agrees();
        }
    }

    /// P9 with all classes and rules: had one of the attempts weighed nothing, nobody waits longer.
    /// What an interactive attempt makes batches leave to others is at most what it took itself.
    #[test]
    fn no_attempt_makes_room_beside_interactive_ones(
        masks in (mask(), mask(), mask()), history in history(false), reserve in policy(),
        firm in firm(), key in 0..3_u32, need in weights(), left_out in 0..12_usize,
        class in prop_oneof![Just(Class::Batch), Just(Class::Interactive)],
    ) {
        let mut world = mixed(masks, reserve, firm);
        let mut less = world.clone();
        let ask = Ask { key: KeyId(key), class, ..ask(BUCKET, need) };
        for (gap, op) in history {
            world.now += gap;
            less.now += gap;
            let known = world.entries.len();
            less.act(op.weighed(|which, weights| {
                let whose = which.map_or(known, |which| which % known.max(1));
                if whose == left_out { Weights::default() } else { weights }
            }));
            world.act(op);
            let now = world.at();
            let full = world.gate.explain(&ask, now).needs;
            let less = less.gate.explain(&ask, now).needs;
            for (full, less) in full.iter().zip(&less) {
                prop_assert!(less.fits_at <= full.fits_at, "{less:?} with less, {full:?} with all");
            }
        }
    }

    /// A batch's wait is as long as it says when every end is known, whatever will be kept.
    #[test]
    fn a_batch_fits_when_it_was_said_to(
        masks in (mask(), mask(), mask()), history in history(false), reserve in policy(),
        need in weights(),
    ) {
        let mut world = mixed(masks, reserve, None);
        world.play(&history);
        world.end_all();
        let ask = ask(BUCKET, need);
        let now = world.at();
        for it in world.gate.explain(&ask, now).needs {
            let Some(fits_at) = it.fits_at else { continue };
            let then = |boot: BootMs| {
                let later = Now { boot, wall: now.wall_at(boot) };
                let found = world.gate.clone().explain(&ask, later).needs;
                let same = |that: &&Requirement| (&that.state.limit, that.state.shared)
                    == (&it.state.limit, it.state.shared);
                found.iter().find(same).expect("the limit is still there").fits_at
            };
            prop_assert_eq!(then(fits_at), None);
            prop_assert_eq!(then(BootMs(fits_at.0 - 1)), Some(fits_at));
        }
    }

    /// Whatever is kept for whom: what was let go never goes over a limit.
    #[test]
    fn both_together_stay_within_the_limit(
        masks in (mask(), mask(), mask()), history in history(false), reserve in policy(),
        firm in firm(), needs in proptest::collection::vec((weights(), any::<bool>()), 1..20),
    ) {
        let mut world = mixed(masks, reserve, firm);
        let mut next = 1_000;
        for ((gap, _), (need, people)) in history.iter().zip(needs) {
            world.now += gap;
            let now = world.at();
            let class = if people { Class::Interactive } else { Class::Batch };
            let ask = Ask { class, ..ask(BUCKET, need) };
            if world.gate.check(&ask, now) == Verdict::Fits {
                world.gate.reserve(AttemptId(next), &ask, now);
                next += 1;
            }
            for state in world.gate.state(BUCKET, now) {
                prop_assert!(state.used <= state.limit.value, "{state:?}");
            }
            prop_assert!(until(&world.gate.check(&ask, now)).is_none_or(|at| at > now.boot));
        }
    }
}
