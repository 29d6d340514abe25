//! Several dimensions, windows, keys and buckets at once.

use proptest::prelude::*;

use super::world::{OTHER, World, catalogue, history, mask, weights};
use super::*;

const SPEND_MS: u64 = 600_000;

/// A session's place is free so long after it was settled: Δ, and the linger.
const LINGER: u64 = DELTA_MS + 5_000 + GAMMA_MS;

fn of_key(limit: Limit) -> Limit {
    Limit { scope: Scope::Key, ..limit }
}

fn sessions(value: u64) -> Limit {
    limit(Metric::Sessions, Window::Concurrent, value)
}

fn spend(value: u64) -> Limit {
    limit(Metric::Spend, Window::Rolling { ms: SPEND_MS }, value)
}

fn session() -> Weights {
    Weights { requests: 1, sessions: 1, ..Weights::default() }
}

fn nanos(spend_nanos: u64) -> Weights {
    Weights { requests: 1, spend_nanos, ..Weights::default() }
}

fn many(requests: u64) -> Weights {
    Weights { requests, ..Weights::default() }
}

impl Bench {
    fn by(&mut self, ms: u64, bucket: BucketId, key: u32, need: Weights) -> Verdict {
        let now = self.at(ms);
        self.gate.check(&Ask { key: KeyId(key), ..ask(bucket, need) }, now)
    }

    #[track_caller]
    fn admit_by(&mut self, ms: u64, bucket: BucketId, key: u32, need: Weights) -> AttemptId {
        assert_eq!(self.by(ms, bucket, key, need), Verdict::Fits, "key {key} at {ms}");
        let id = AttemptId(self.next);
        self.next += 1;
        let now = self.at(ms);
        self.gate.reserve(id, &Ask { key: KeyId(key), ..ask(bucket, need) }, now);
        id
    }

    #[track_caller]
    fn refuses(&mut self, ms: u64, bucket: BucketId, key: u32, need: Weights, until: u64) {
        match self.by(ms, bucket, key, need) {
            Verdict::Wait(wait) => assert_eq!(wait.until, BootMs(BOOT + until), "{wait:?}"),
            other @ (Verdict::Fits | Verdict::Never(_)) => panic!("key {key} at {ms}: {other:?}"),
        }
    }
}

#[test]
fn a_pair_below_a_minute_holds_beside_the_minute() {
    let mut bench = Bench::new(&[rpm(6), per(10_000, 2), per(1_000, 1), per(30_000, 3)]);
    bench.use_up(0, one());
    bench.opens(0, one(), 1_000 + GAMMA_MS);
    bench.use_up(1_050, one());
    bench.opens(1_060, one(), 10_000 + GAMMA_MS);
    bench.use_up(10_050, one());
    bench.opens(10_060, one(), 30_000 + GAMMA_MS);
}

#[test]
fn spend_counts_from_the_end_of_the_answer() {
    let mut bench = Bench::new(&[spend(1_000), rpm(100)]);
    let id = bench.admit(0, nanos(400));
    bench.bound(id, 300);
    // Under way for five minutes after its headers: nothing of it leaves before the answer ends.
    let end = 300_000;
    assert_eq!(bench.state(end)[0].reserved, 400);
    bench.settle(end, id, nanos(900));
    let leaves = end + DELTA_MS + SPEND_MS + GAMMA_MS;
    bench.opens(end, nanos(101), leaves);
    assert_eq!(bench.check(end, nanos(100)), Verdict::Fits);
    assert_eq!(bench.gate.longest_window_ms(), SPEND_MS + GAMMA_MS);
}

#[test]
fn spend_settles_up_into_a_debt_and_down_into_room() {
    for (actual, free) in [(10, 990), (999, 1), (1_000, 0), (5_000, 0)] {
        let mut bench = Bench::new(&[spend(1_000)]);
        let id = bench.admit(0, nanos(500));
        bench.answer(1_000, id, nanos(actual));
        assert_eq!((bench.state(1_000)[0].used, bench.state(1_000)[0].free), (actual, free));
        bench.opens(1_000, nanos(free + 1), 1_000 + DELTA_MS + SPEND_MS + GAMMA_MS);
    }
}

#[test]
fn what_is_under_way_at_once_is_counted_until_it_is_over() {
    let concurrent = limit(Metric::Requests, Window::Concurrent, 2);
    let mut bench = Bench::new(&[concurrent]);
    let [first, second] = [0, 0].map(|ms| bench.admit(ms, one()));
    bench.bound(first, 200);
    bench.wait(3_600_000, one());
    bench.settle(3_600_000, first, one());
    bench.opens(3_600_000, one(), 3_600_000 + DELTA_MS + GAMMA_MS);
    // Nothing of it was sent: its place is free at once.
    bench.gate.void(second);
    assert_eq!(bench.check(3_600_000, one()), Verdict::Fits);
}

#[test]
fn a_sessions_place_lingers() {
    let mut bench = Bench::new(&[sessions(1)]);
    let id = bench.admit(0, session());
    bench.bound(id, 50);
    bench.wait(1_000_000, session());
    bench.settle(1_000_000, id, session());
    bench.opens(1_000_000, session(), 1_000_000 + LINGER);
    // Other requests are none of it.
    assert_eq!(bench.check(1_000_000, one()), Verdict::Fits);
}

#[test]
fn a_request_of_several_weighs_several() {
    let mut bench = Bench::new(&[rpm(10), rpd(25), per(10_000, 8)]);
    bench.use_up(0, many(7));
    bench.opens(0, many(2), 10_000 + GAMMA_MS);
    assert_eq!(bench.check(0, many(1)), Verdict::Fits);
    bench.opens(10_050, many(4), STAY);
    bench.use_up(10_050, many(3));
    let never = bench.check(11_000, many(9));
    assert!(matches!(never, Verdict::Never(Never { needs: 9, limit: 8, .. })), "{never:?}");
    // A batch of which fewer were counted than asked.
    let id = bench.admit(STAY, many(7));
    bench.answer(STAY + 10, id, many(2));
    assert_eq!(bench.state(STAY + 10).iter().map(|it| it.used).collect::<Vec<_>>(), [5, 12, 2]);
}

#[test]
fn images_are_reserved_as_asked_and_settled_as_returned() {
    for (returned, free) in [(1, 7), (4, 4), (8, 0), (11, 0)] {
        let mut bench = Bench::new(&[ipm(8), rpm(10)]);
        let id = bench.admit(0, images(4));
        bench.wait(0, images(5));
        bench.answer(900, id, images(returned));
        assert_eq!((bench.state(900)[0].used, bench.state(900)[0].free), (returned, free));
        bench.opens(900, images(free + 1), 900 + STAY);
    }
}

#[test]
fn each_key_counts_by_itself() {
    let mut bench = Bench::new(&[of_key(rpm(2)), rpm(3)]);
    for ms in [0, 100] {
        let id = bench.admit_by(ms, BUCKET, 0, one());
        bench.answer(ms, id, one());
    }
    bench.refuses(200, BUCKET, 0, one(), STAY);
    let id = bench.admit_by(200, BUCKET, 1, one());
    bench.answer(200, id, one());
    // Now all keys together are at their limit.
    bench.refuses(300, BUCKET, 1, one(), STAY);
    bench.refuses(300, BUCKET, 2, one(), STAY);
    assert!(bench.gate.counts_by_key(BUCKET));
    let used: Vec<_> = bench.state(300).iter().map(|state| (state.key, state.used)).collect();
    let key = |key| Some(KeyId(key));
    assert_eq!(used, [(None, 3), (key(0), 2), (key(1), 1), (key(2), 0)]);
}

#[test]
fn three_sessions_a_key() {
    let mut bench = Bench::new(&[of_key(sessions(3))]);
    let first = [0, 1, 2].map(|ms| bench.admit_by(ms, BUCKET, 0, session()));
    bench.refuses(10, BUCKET, 0, session(), 10 + LINGER);
    for ms in [10, 11, 12] {
        bench.admit_by(ms, BUCKET, 1, session());
    }
    bench.refuses(20, BUCKET, 1, session(), 20 + LINGER);
    bench.settle(500, first[1], session());
    bench.refuses(500, BUCKET, 0, session(), 500 + LINGER);
    bench.admit_by(500 + LINGER, BUCKET, 0, session());
    bench.refuses(500 + LINGER, BUCKET, 0, session(), 500 + 2 * LINGER);
}

#[test]
fn a_shared_limit_counts_every_bucket_and_every_key() {
    let mut bench = Bench::new(&[rpm(5)]);
    bench.gate.define(OTHER, PROJECT, vec![rpm(5)], QuotaDay::pacific());
    let elsewhere = BucketId(3);
    bench.gate.define(elsewhere, ProjectId(2), Vec::new(), QuotaDay::pacific());
    let now = bench.at(0);
    let shared = vec![spend(1_000), of_key(rpm(3))];
    bench.gate.share(PROJECT, shared, QuotaDay::pacific(), now);
    let id = bench.admit_by(0, BUCKET, 0, nanos(600));
    bench.answer(0, id, nanos(600));
    let id = bench.admit_by(0, OTHER, 0, nanos(300));
    bench.answer(0, id, nanos(300));
    let leaves = DELTA_MS + SPEND_MS + GAMMA_MS;
    for bucket in [BUCKET, OTHER] {
        bench.refuses(1, bucket, 1, nanos(101), leaves);
        assert!(bench.gate.counts_by_key(bucket));
    }
    bench.admit_by(1, OTHER, 0, nanos(100));
    // Three of the first key, over both buckets.
    bench.refuses(2, BUCKET, 0, one(), STAY);
    bench.admit_by(2, BUCKET, 1, one());
    for _ in 0..9 {
        bench.admit_by(2, elsewhere, 0, nanos(999));
    }
    let shown = |state: &LimitState| (state.limit.dimension(), state.shared, state.key.is_some());
    let states: Vec<_> = bench.state(3).iter().map(shown).collect();
    let keys = [("rpm", true, true); 2];
    assert_eq!(states, [&[("rpm", false, false), ("spend", true, false)][..], &keys].concat());
}

#[test]
fn a_key_that_is_gone_still_counts_for_its_project() {
    let mut bench = Bench::new(&[rpm(3), of_key(rpm(1)), rpd(9)]);
    bench.gate.restore(AttemptId(100), BUCKET, None, one(), BootMs(BOOT));
    bench.gate.restore(AttemptId(101), BUCKET, Some(KeyId(0)), one(), BootMs(BOOT));
    bench.refuses(10, BUCKET, 0, one(), STAY);
    bench.admit_by(10, BUCKET, 1, one());
    // The project's three are used: one of them by nobody's key.
    bench.refuses(20, BUCKET, 2, one(), STAY);
}

#[test]
fn what_no_limit_reads_is_forgotten_too() {
    let mut bench = Bench::new(&[rpd(1_000_000), of_key(spend(1_000_000))]);
    for ms in 0..3_000 {
        bench.use_up(ms * 100, nanos(1));
    }
    let text = format!("{:?}", bench.gate);
    let kept = text.matches("Attempt(AttemptId(").count();
    // A minute's 600 in each of two books, and all of five minutes in that of what is spent.
    assert!(kept < 4_300, "{kept} entries are kept of 3000 attempts");
}

/// What all models share from now on knows what each of them used of late.
#[test]
fn new_shared_limits_take_over_what_the_buckets_hold() {
    let mut bench = Bench::new(&[rpm(50)]);
    let first = bench.use_up(0, tokens(30));
    let open = bench.admit(1_000, tokens(40));
    assert_ne!(first, open);
    let now = bench.at(2_000);
    bench.gate.share(PROJECT, vec![rpm(5), tpd(1_000)], QuotaDay::pacific(), now);
    let shared: Vec<_> = bench.state(2_000).into_iter().filter(|state| state.shared).collect();
    let used: Vec<_> = shared.iter().map(|state| (state.used, state.reserved)).collect();
    assert_eq!(used, [(2, 1), (70, 40)]);
    bench.answer(3_000, open, tokens(40));
    let shared: Vec<_> = bench.state(STAY).into_iter().filter(|state| state.shared).collect();
    assert_eq!(shared.iter().map(|state| state.used).collect::<Vec<_>>(), [1, 70]);
}

/// A limit of either keeps its word when the two are one, also one that is set later.
#[test]
fn merged_buckets_keep_the_tightest_of_their_limits() {
    let mut bench = Bench::new(&[rpm(15), tpm(1_000)]);
    bench.gate.define(OTHER, PROJECT, vec![rpm(5), rpd(100)], QuotaDay::pacific());
    let now = bench.at(0);
    bench.gate.merge(OTHER, BUCKET, now);
    let values = |bench: &mut Bench| {
        let states = bench.state(0);
        states.iter().map(|it| (it.limit.dimension(), it.limit.value)).collect::<Vec<_>>()
    };
    assert_eq!(values(&mut bench), [("rpm", 5), ("tpm", 1_000), ("rpd", 100)]);
    bench.gate.redefine(OTHER, vec![rpm(1)], now);
    assert_eq!(values(&mut bench), [("rpm", 1), ("tpm", 1_000)]);
    bench.gate.redefine(BUCKET, vec![rpm(2)], now);
    assert_eq!(values(&mut bench), [("rpm", 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// With every kind of limit at once: what is shown, and what goes, is what the list says.
    #[test]
    fn every_dimension_scope_and_window_at_once(
        limits in (mask(), mask(), mask()), history in history(false),
        asks in proptest::collection::vec((any::<bool>(), 0..4_u32, weights()), 1..6),
    ) {
        let of = |mask| catalogue(mask, 0);
        let mut world = World::new(of(limits.0), of(limits.1), of(limits.2));
        for (gap, op) in history {
            world.now += gap;
            world.act(op);
            world.agrees();
            for (second, key, need) in &asks {
                let bucket = if *second { OTHER } else { BUCKET };
                let ask = Ask { key: KeyId(*key), ..ask(bucket, *need) };
                let now = world.at();
                let verdict = world.gate.check(&ask, now);
                prop_assert_eq!(verdict == Verdict::Fits, world.fits(&ask), "{:?}", verdict);
            }
        }
    }

    /// Twice the weights under twice the limits is the same.
    #[test]
    fn scale_changes_nothing(
        mask in mask(), history in history(false), by in 2..50_u64,
        key in 0..3_u32, need in weights(),
    ) {
        let scaled = |weights: Weights| Weights {
            requests: weights.requests * by,
            input_tokens: weights.input_tokens * by,
            images: weights.images * by,
            spend_nanos: weights.spend_nanos * by,
            sessions: weights.sessions * by,
        };
        let larger = |mask| {
            let limits = catalogue(mask, 0).into_iter();
            limits.map(|it| Limit { value: it.value * by, ..it }).collect::<Vec<_>>()
        };
        let mut world = World::new(catalogue(mask, 0), Vec::new(), catalogue(!mask, 0));
        let mut twin = World::new(larger(mask), Vec::new(), larger(!mask));
        for (gap, op) in history {
            world.now += gap;
            twin.now += gap;
            world.act(op);
            twin.act(op.weighed(|_, weights| scaled(weights)));
            let now = world.at();
            let until = |world: &mut World, need| {
                match world.gate.check(&Ask { key: KeyId(key), ..ask(BUCKET, need) }, now) {
                    Verdict::Fits => Ok(None),
                    Verdict::Wait(wait) => Ok(Some(wait.until)),
                    Verdict::Never(never) => Err(never.dimension),
                }
            };
            prop_assert_eq!(until(&mut world, need), until(&mut twin, scaled(need)));
        }
    }

    /// The boot clock's reading does not matter, and neither does the hour.
    #[test]
    fn time_may_be_shifted(mask in mask(), history in history(true), by in 1..20_000_000_u64) {
        let mut world = World::new(catalogue(mask, 0), Vec::new(), catalogue(!mask, 0));
        let mut twin = world.clone();
        twin.now += by;
        for (gap, op) in history {
            world.now += gap;
            twin.now += gap;
            world.act(op);
            twin.act(op);
            let (now, later) = (world.at(), twin.at());
            for bucket in [BUCKET, OTHER] {
                let states = world.gate.state(bucket, now);
                let mut shifted = twin.gate.state(bucket, later);
                for state in &mut shifted {
                    if state.limit.window != Window::Day {
                        state.next_free = state.next_free.map(|at| at.minus(by));
                    }
                }
                prop_assert_eq!(states, shifted);
            }
        }
    }
}
