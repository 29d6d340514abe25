//! Rolling windows: who occupies what, from when, until when.

use super::*;

#[test]
fn a_place_frees_a_window_and_gamma_after_the_headers() {
    let mut bench = Bench::new(&[rpm(1)]);
    let id = bench.admit(0, one());
    bench.bound(id, 700);
    bench.opens(700, one(), 700 + STAY);
    bench.waits(900, one(), 700 + STAY, "rpm: needs 1, 0 of 1 free");
}

#[test]
fn a_place_frees_at_the_earlier_of_headers_and_body_and_delta() {
    for (body, headers, u) in [
        (Some(100), Some(300), 300),
        (Some(100), Some(2_100), 2_100),
        (Some(100), Some(2_101), 2_100),
        (Some(100), Some(90_000), 2_100),
        (None, Some(90_000), 90_000),
        (Some(500), Some(400), 400),
    ] {
        let mut bench = Bench::new(&[rpm(1)]);
        let id = bench.admit(0, one());
        let mut told: Vec<_> =
            [body.map(|f| f + DELTA_MS), headers].into_iter().flatten().collect();
        bench.clone().told_in_order(id, &told, u);
        told.reverse();
        bench.told_in_order(id, &told, u);
    }
}

impl Bench {
    /// The bounds may be told in either order: the earliest counts.
    #[track_caller]
    fn told_in_order(mut self, id: AttemptId, bounds: &[u64], u: u64) {
        for bound in bounds {
            self.bound(id, *bound);
        }
        self.opens(u, one(), u + STAY);
    }
}

#[test]
fn an_attempt_of_which_nothing_is_known_keeps_its_place() {
    let mut bench = Bench::new(&[rpm(1)]);
    let id = bench.admit(0, one());
    for ms in [0, DELTA_MS, STAY, STAY + DELTA_MS, 3_600_000] {
        let wait = bench.wait(ms, one());
        assert_eq!(wait.until, BootMs(BOOT + ms + DELTA_MS + STAY), "at {ms}");
    }
    bench.bound(id, 3_600_000);
    bench.opens(3_600_000, one(), 3_600_000 + STAY);
}

#[test]
fn a_place_that_was_freed_stays_free() {
    let mut bench = Bench::new(&[rpm(1)]);
    let id = bench.admit(0, one());
    bench.bound(id, DELTA_MS);
    let next = bench.admit(DELTA_MS + STAY, one());
    // The answer to the first comes only now.
    bench.bound(id, DELTA_MS + STAY + 500);
    assert_eq!(bench.settle(DELTA_MS + STAY + 500, id, one()).0, DELTA_MS);
    assert_eq!(bench.state(DELTA_MS + STAY + 500)[0].used, 1);
    bench.bound(next, DELTA_MS + STAY + 600);
    bench.opens(DELTA_MS + STAY + 600, one(), DELTA_MS + STAY + 600 + STAY);
}

#[test]
fn settling_reweighs_up_and_down() {
    for (estimate, actual, free) in
        [(600, 200, 800), (600, 600, 400), (600, 900, 100), (0, 300, 700)]
    {
        let mut bench = Bench::new(&[tpm(1_000)]);
        let id = bench.admit(0, tokens(estimate));
        bench.answer(5_000, id, tokens(actual));
        assert_eq!(bench.check(5_000, tokens(free)), Verdict::Fits, "{estimate} to {actual}");
        bench.opens(5_000, tokens(free + 1), 5_000 + STAY);
    }
}

#[test]
fn use_above_the_estimate_is_a_debt() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    let first = bench.admit(0, tokens(400));
    let second = bench.admit(0, tokens(600));
    bench.answer(1_000, first, tokens(400));
    bench.answer(2_000, second, tokens(5_000));
    // The first leaves, and the second alone is more than the limit.
    bench.waits(3_000, tokens(1), 2_000 + STAY, "tpm: needs 1, 0 of 1000 free");
    bench.opens(1_000 + STAY, tokens(1), 2_000 + STAY);
    assert_eq!((bench.state(3_000)[0].used, bench.state(3_000)[0].free), (5_400, 0));
}

#[test]
fn an_absurd_use_leaves_as_it_came() {
    let mut bench = Bench::new(&[tpm(1_000), tpd(10_000)]);
    let ids = [1, 2, 3].map(|_| bench.admit(0, tokens(5)));
    bench.answer(0, ids[0], tokens(5));
    bench.answer(1, ids[1], tokens(u64::MAX));
    bench.answer(2, ids[2], tokens(u64::MAX));
    let used = |states: Vec<LimitState>| [states[0].used, states[1].used];
    assert_eq!(used(bench.state(2)), [u64::MAX; 2]);
    assert_eq!(used(bench.state(1 + STAY)), [u64::MAX; 2]);
    assert_eq!(used(bench.state(2 + STAY)), [0, u64::MAX]);
    bench.reserve(2 + STAY, tokens(7));
    assert_eq!(used(bench.state(2 + STAY)), [7, u64::MAX]);
}

#[test]
fn a_void_attempt_frees_its_place_at_once() {
    let mut bench = Bench::new(&[rpm(2), tpm(1_000), rpd(2)]);
    let open = bench.admit(0, tokens(400));
    let bounded = bench.admit(0, tokens(600));
    bench.bound(bounded, 300);
    bench.wait(500, tokens(1));
    bench.gate.void(bounded);
    assert_eq!(bench.check(500, tokens(600)), Verdict::Fits);
    bench.gate.void(open);
    assert_eq!(bench.check(500, tokens(1_000)), Verdict::Fits);
    assert!(bench.state(500).iter().all(|limit| limit.used == 0 && limit.reserved == 0));
}

#[test]
fn what_is_over_cannot_be_ended_again() {
    let mut bench = Bench::new(&[rpm(5), rpd(5)]);
    let settled = bench.use_up(0, one());
    let void = bench.admit(0, one());
    bench.gate.void(void);
    for id in [settled, void, AttemptId(99)] {
        let now = bench.at(10);
        bench.gate.bound(id, BootMs(BOOT));
        bench.gate.void(id);
        bench.gate.unblock(id);
        assert_eq!(bench.gate.settle(id, tokens(7), now), None);
    }
    assert_eq!(bench.state(10).iter().map(|limit| limit.used).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn what_ends_without_headers_counts_for_delta_more() {
    let mut bench = Bench::new(&[rpm(1)]);
    let id = bench.admit(0, one());
    assert_eq!(bench.clone().settle(900, id, one()).0, 900 + DELTA_MS);
    // The body's end was told: what is on its way since then arrives sooner.
    bench.bound(id, 400 + DELTA_MS);
    assert_eq!(bench.settle(900, id, one()).0, 400 + DELTA_MS);
    bench.opens(900, one(), 400 + DELTA_MS + STAY);
}

#[test]
fn the_limit_itself_fits_and_one_more_never_does() {
    let mut bench = Bench::new(&[rpm(15), tpm(1_000), ipm(3)]);
    assert_eq!(bench.check(0, tokens(1_000)), Verdict::Fits);
    assert_eq!(bench.check(0, images(3)), Verdict::Fits);
    let never = |dimension, needs, limit| {
        let source_name = "config".to_owned();
        Verdict::Never(Never { dimension, needs, limit, source_name })
    };
    assert_eq!(bench.check(0, tokens(1_001)), never("tpm", 1_001, 1_000));
    assert_eq!(bench.check(0, images(4)), never("ipm", 4, 3));
    let all = Weights { requests: 16, input_tokens: 0, ..Weights::default() };
    assert_eq!(bench.check(0, all), never("rpm", 16, 15));
}

#[test]
fn never_beats_every_wait() {
    let mut bench = Bench::new(&[rpm(1), tpm(1_000), tpd(800)]);
    bench.use_up(0, one());
    bench.block(10_000, "shut");
    let verdict = bench.check(1, tokens(801));
    let Verdict::Never(never) = verdict else { panic!("{verdict:?}") };
    let text = "needs 801 of tpd, and the limit is 800 (config): it can never be sent";
    assert_eq!(never.to_string(), text);
    bench.wait(1, tokens(800));
}

#[test]
fn of_several_dimensions_the_longest_wait_wins() {
    let mut bench = Bench::new(&[rpm(2), tpm(1_000)]);
    bench.use_up(0, tokens(100));
    bench.use_up(10_000, tokens(800));
    // A request slot frees at 0 + STAY, the tokens only at 10 s + STAY.
    bench.waits(11_000, tokens(100), STAY, "rpm: needs 1, 0 of 2 free");
    bench.waits(11_000, tokens(500), 10_000 + STAY, "tpm: needs 500, 100 of 1000 free");
    bench.opens(11_000, tokens(200), STAY);
    bench.opens(11_000, tokens(201), 10_000 + STAY);
}

#[test]
fn of_equal_waits_the_first_limit_is_named() {
    let mut bench = Bench::new(&[rpm(1), tpm(100)]);
    bench.use_up(0, tokens(100));
    bench.waits(0, tokens(1), STAY, "rpm: needs 1, 0 of 1 free");
}

#[test]
fn a_metric_that_is_not_needed_does_not_wait() {
    let mut bench = Bench::new(&[rpm(10), tpm(100), ipm(1)]);
    bench.use_up(0, tokens(100));
    bench.use_up(0, images(1));
    assert_eq!(bench.check(0, one()), Verdict::Fits);
    bench.wait(0, tokens(1));
    bench.wait(0, images(1));
}

#[test]
fn a_heavy_request_waits_for_as_many_as_it_needs() {
    let mut bench = Bench::new(&[tpm(100)]);
    for ms in [0, 1_000, 2_000, 3_000] {
        bench.use_up(ms, tokens(25));
    }
    for (need, last) in [(1, 0), (25, 0), (26, 1_000), (75, 2_000), (76, 3_000), (100, 3_000)] {
        bench.opens(4_000, tokens(need), last + STAY);
    }
}

#[test]
fn a_short_window_is_one_more_limit() {
    let mut bench = Bench::new(&[rpm(5), per(10_000, 2)]);
    bench.use_up(0, one());
    bench.use_up(100, one());
    bench.waits(200, one(), 10_000 + GAMMA_MS, "requests: needs 1, 0 of 2 free");
    bench.opens(200, one(), 10_000 + GAMMA_MS);
    bench.use_up(10_050, one());
    bench.opens(10_060, one(), 10_100 + GAMMA_MS);
    bench.use_up(10_150, one());
    bench.use_up(20_150, one());
    // Five in the minute: the minute's end is the later one.
    bench.waits(20_200, one(), STAY, "rpm: needs 1, 0 of 5 free");
    assert_eq!(bench.gate.longest_window_ms(), STAY);
}

#[test]
fn a_bucket_without_limits_admits_everything() {
    let mut bench = Bench::new(&[]);
    for _ in 0..1_000 {
        bench.admit(0, tokens(u64::MAX));
    }
    assert_eq!(bench.state(0), []);
    assert_eq!(bench.gate.longest_window_ms(), MINUTE_MS + GAMMA_MS);
}

#[test]
fn what_is_restored_counts_until_its_bound_leaves() {
    let mut bench = Bench::new(&[rpm(3), tpm(1_000)]);
    bench.restore(1, tokens(300), 0);
    bench.restore(2, tokens(300), 20_000);
    // An attempt of nobody's bucket, and one that is over long since.
    bench.gate.restore(AttemptId(3), BucketId(9), None, tokens(1), BootMs(BOOT));
    bench.gate.restore(AttemptId(4), BUCKET, None, tokens(1_000), BootMs(5));
    // One whose bound lies ahead, as after a crash.
    bench.restore(5, one(), 30_000 + DELTA_MS);
    bench.opens(30_000, one(), STAY);
    bench.opens(30_000, tokens(401), STAY);
    bench.opens(30_000, tokens(701), 20_000 + STAY);
    let state = bench.state(30_000);
    assert_eq!([state[0].used, state[1].used], [3, 600]);
    assert_eq!([state[0].reserved, state[1].reserved], [0, 0]);
}

#[test]
fn buckets_do_not_share() {
    let mut bench = Bench::new(&[rpm(1)]);
    let other = BucketId(2);
    bench.gate.define(other, PROJECT, vec![rpm(1)], QuotaDay::pacific());
    bench.admit(0, one());
    bench.block(5_000, "shut");
    let now = bench.at(0);
    assert_eq!(bench.gate.check(&ask(other, one()), now), Verdict::Fits);
    assert_eq!(bench.gate.blocked(other), None);
}

#[test]
#[should_panic(expected = "defined twice")]
fn a_bucket_is_defined_once() {
    let mut bench = Bench::new(&[]);
    bench.gate.define(BUCKET, PROJECT, Vec::new(), QuotaDay::pacific());
}

#[test]
#[should_panic(expected = "twice")]
fn an_attempt_is_reserved_once() {
    let mut bench = Bench::new(&[]);
    bench.reserve(0, one());
    bench.next -= 1;
    bench.reserve(0, one());
}
