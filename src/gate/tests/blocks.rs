//! The provider's own no, and the request that goes first after it.

use super::*;

#[test]
fn a_block_ends_at_its_instant() {
    let mut bench = Bench::new(&[rpm(5)]);
    bench.block(4_000, "the provider said no");
    bench.waits(0, one(), 4_000, "the provider said no");
    bench.opens(0, one(), 4_000);
    assert_eq!(bench.gate.blocked(BUCKET), Some((BootMs(BOOT + 4_000), "the provider said no")));
}

#[test]
fn the_longer_block_stays() {
    let mut bench = Bench::new(&[]);
    bench.block(4_000, "first");
    for (until, reason) in [(3_000, "shorter"), (4_000, "equal")] {
        bench.block(until, reason);
        bench.waits(0, one(), 4_000, "first");
    }
    bench.block(4_001, "longer");
    bench.waits(0, one(), 4_001, "longer");
}

#[test]
fn a_block_and_a_limit_wait_for_the_later() {
    let mut bench = Bench::new(&[rpm(1)]);
    bench.use_up(0, one());
    bench.block(4_000, "shut");
    bench.waits(0, one(), STAY, "rpm: needs 1, 0 of 1 free");
    bench.block(70_000, "shut longer");
    bench.waits(0, one(), 70_000, "shut longer");
}

#[test]
fn after_a_block_one_goes_first() {
    let mut bench = Bench::new(&[rpm(5)]);
    bench.block(4_000, "shut");
    let first = bench.admit(4_000, one());
    bench.waits(4_000, one(), 4_000 + DELTA_MS, "shut");
    // Headers alone prove nothing: they may say 429.
    bench.bound(first, 4_500);
    bench.waits(20_000, one(), 20_000 + DELTA_MS, "shut");
    bench.gate.unblock(first);
    assert_eq!(bench.gate.blocked(BUCKET), None);
    bench.answer(20_000, first, one());
    bench.admit(20_000, one());
    bench.admit(20_000, one());
}

#[test]
fn a_first_one_that_fails_is_followed_by_another() {
    let mut bench = Bench::new(&[rpm(5)]);
    bench.block(4_000, "shut");
    let failed = bench.admit(4_000, one());
    bench.answer(5_000, failed, one());
    let void = bench.admit(5_000, one());
    bench.wait(5_000, one());
    bench.gate.void(void);
    let good = bench.admit(5_000, one());
    bench.wait(5_000, one());
    bench.gate.unblock(good);
    bench.admit(5_000, one());
}

#[test]
fn an_answer_to_an_earlier_request_opens_nothing() {
    let mut bench = Bench::new(&[rpm(5)]);
    let [before, refused] = [0, 1].map(|_| bench.admit(0, one()));
    bench.answer(1_000, refused, one());
    bench.block(4_000, "shut");
    // While the block lasts.
    let mut during = bench.clone();
    during.gate.unblock(before);
    during.answer(2_000, before, one());
    during.waits(2_000, one(), 4_000, "shut");
    // After its end, with the first one still under way.
    let first = bench.admit(4_000, one());
    bench.gate.unblock(before);
    bench.answer(5_000, before, one());
    bench.waits(5_000, one(), 5_000 + DELTA_MS, "shut");
    bench.gate.unblock(first);
    assert_eq!(bench.check(5_000, one()), Verdict::Fits);
}

#[test]
fn a_new_block_overtakes_the_first_one() {
    let mut bench = Bench::new(&[rpm(5)]);
    bench.block(4_000, "shut");
    let first = bench.admit(4_000, one());
    bench.block(9_000, "shut again");
    bench.gate.unblock(first);
    bench.answer(4_100, first, one());
    bench.opens(4_100, one(), 9_000);
    bench.admit(9_000, one());
    bench.wait(9_000, one());
}

#[test]
fn an_open_bucket_has_no_block() {
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.gate.blocked(BUCKET), None);
    assert_eq!(bench.gate.blocked(BucketId(7)), None);
    let id = bench.admit(0, one());
    bench.gate.unblock(id);
    bench.admit(0, one());
}
