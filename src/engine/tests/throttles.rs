//! What a 429 does to a bucket, and what it does not do to an item.

use super::answers::{self, Answer};
use super::world::{Provider, World, batch, rpm, unix};
use crate::gate::admit::BucketId;
use crate::gate::day::{DAY_EDGE_MS, DAY_GRACE_MS};
use crate::gate::limits::MINUTE_MS;
use crate::gate::units::BootMs;
use crate::store::{AttemptEnd, BatchId, ItemState};
use crate::upstream::ThrottleKind;

const BUCKET: BucketId = BucketId(1);

/// Answers the first `count` requests with `first`, all others well.
pub(super) fn at_first(count: usize, first: impl Fn() -> Answer + 'static) -> Provider {
    let mut left = count;
    Box::new(move |_, _| {
        if left == 0 {
            return answers::ok();
        }
        left -= 1;
        first()
    })
}

fn throttled_world(count: usize, items: u32, kind: ThrottleKind, asked: Option<u64>) -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(100)]);
    world.provider = at_first(count, move || answers::throttled(kind, asked));
    world.open(batch(1, 1), items);
    world
}

#[test]
fn a_minute_used_up_parks_the_bucket_and_keeps_every_place() {
    let mut world = throttled_world(5, 8, ThrottleKind::PerMinute, Some(20_000));
    world.run_for(20_000);
    let first: Vec<u64> = world.sent.iter().map(|sent| sent.line).collect();
    assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8]);
    let (until, reason) = world.engine.gate.blocked(BUCKET).expect("it is parked");
    assert!(until > world.now.boot);
    assert_eq!(reason, "the provider said its minute is used up (no quota named)");
    world.run_for(5_000);
    let again: Vec<u64> = world.sent[8..].iter().map(|sent| sent.line).collect();
    assert_eq!(again, [1, 2, 3, 4, 5]);
    // One goes first; the rest wait for its answer.
    assert!(world.sent[9].at >= world.sent[8].at + 200, "{:?}", &world.sent[8..]);
    assert!(world.items.values().all(|item| item.queued.attempts == 0));
    let throttled = world.attempts.values().filter(|a| a.end == Some(AttemptEnd::Throttled));
    assert_eq!(throttled.count(), 5);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_day_used_up_parks_the_bucket_until_its_end_whatever_was_asked() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(100)]);
    world.bucket(2, 1, &[rpm(100)]);
    world.provider = at_first(1, || answers::day_used_up(22_000));
    world.open(batch(1, 1), 3);
    world.open(batch(2, 2), 1);
    world.run_for(MINUTE_MS);
    // Two more were under way; the other bucket goes on.
    assert_eq!((world.sent.len(), world.count(2, ItemState::Succeeded)), (4, 1));
    let opens = unix("2026-11-24T08:00:00Z").plus(DAY_GRACE_MS + DAY_EDGE_MS);
    let (at, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(at, opens);
    assert_eq!(why, "the provider's day is used up (GenerateRequestsPerDay)");
    world.run_for(world.now.wall.until(opens) - 1);
    assert_eq!(world.sent.len(), 4);
    world.run_for(1_000);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}

/// The refusal is of the day in which the request was reserved, not of the one that began while it
/// was under way.
#[test]
fn a_day_used_up_just_before_midnight_does_not_cost_the_next() {
    let mut world = World::starting("2026-11-24T07:59:59.900Z", 1);
    world.proven();
    world.bucket(1, 1, &[rpm(100)]);
    world.provider = at_first(1, || answers::day_used_up(22_000));
    world.open(batch(1, 1), 1);
    world.run_for(DAY_GRACE_MS + DAY_EDGE_MS + 1_000);
    assert_eq!(world.count(1, ItemState::Succeeded), 1);
}

#[test]
fn a_limit_of_zero_parks_the_bucket_for_the_day() {
    let mut world = throttled_world(1, 1, ThrottleKind::LimitZero, Some(1_000));
    world.run_for(11 * 60 * MINUTE_MS);
    assert_eq!(world.sent.len(), 1);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits").1;
    assert_eq!(why, "the provider's limit is 0: not on this tier (no quota named)");
    world.run_for(2 * 60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn unexplained_ones_back_off() {
    let mut world = throttled_world(12, 1, ThrottleKind::Unexplained, None);
    world.run_for(60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.items.values().map(|item| item.queued.attempts).max(), Some(0));
    let waits: Vec<u64> = world.sent.windows(2).map(|two| two[1].at - two[0].at).collect();
    // 2 s · 2^k at most, 120 s at the longest; a wait of more than 8 s shows that k grew.
    assert!(waits.iter().all(|wait| *wait <= 120_000 + 500), "{waits:?}");
    assert!(waits[3..].iter().any(|wait| *wait > 8_000), "{waits:?}");
    assert_eq!(world.engine.lanes[&BUCKET].unexplained, 0, "an answer ends the count");
}

#[test]
fn unexplained_ones_wait_as_long_as_was_asked() {
    let mut world = throttled_world(1, 1, ThrottleKind::Unexplained, Some(300_000));
    world.run_for(10 * MINUTE_MS);
    assert!(world.sent[1].at - world.sent[0].at >= 300_000);
}

/// The one that goes first after a block fails for another reason: the next one goes first.
#[test]
fn a_canary_that_fails_makes_way_for_another() {
    let mut world = throttled_world(1, 3, ThrottleKind::PerMinute, Some(5_000));
    world.run_for(5_000);
    assert_eq!(world.sent.len(), 3);
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[]);
    let until = BootMs(world.now.boot.0 + 1_000);
    world.engine.gate.block(BUCKET, until, "blocked".to_owned());
    world.provider = at_first(1, answers::not_sent);
    world.open(batch(1, 1), 3);
    world.run_for(10_000);
    assert_eq!(world.lines(), [(1, 1), (1, 1), (1, 2), (1, 3)]);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.engine.gate.blocked(BUCKET), None);
}
