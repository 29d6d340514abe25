//! Clocks that are set, that differ from the provider's, and permits that grow old.

use chrono::NaiveDate;

use super::answers;
use super::world::{World, batch, rpd, rpm, unix};
use crate::engine::state::BatchSetup;
use crate::gate::admit::BucketId;
use crate::gate::limits::MINUTE_MS;
use crate::gate::units::{Class, KeyId, Weights};
use crate::gate::verdict::Ask;
use crate::gate::window::AttemptId;
use crate::store::{AttemptEnd, BatchId};

const BEFORE: &str = "2026-11-24T07:50:00Z";
const MIDNIGHT: &str = "2026-11-24T08:00:00Z";

fn day(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

/// A minute into the day, whose three requests are used.
fn used_up() -> World {
    let mut world = World::starting("2026-11-24T08:01:00Z", 1);
    world.proven();
    world.bucket(1, 1, &[rpd(3)]);
    world.bucket(2, 1, &[]);
    world.open(batch(1, 1), 6);
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 3);
    world
}

#[test]
fn a_day_that_has_begun_does_not_end_by_a_clock_set_back() {
    let mut world = used_up();
    world.now.wall = unix(BEFORE);
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.sent.len(), 3);
    // A small correction later does not end it either.
    world.now.wall = world.now.wall.plus(2_000);
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.sent.len(), 3);
    // The day ends all the same, a day later by the clock as it is.
    world.run_for(25 * 60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// The provider says that our clock is right now: it was wrong before.
#[test]
fn the_providers_clock_ends_the_doubt() {
    let mut world = used_up();
    world.now.wall = unix(BEFORE);
    world.run_for(MINUTE_MS);
    assert_eq!(world.engine.projects[&1].floor, Some(day("2026-11-24")));
    world.provider = Box::new(|_, now| answers::ok().dated(now.wall.0 / 1_000));
    world.open(batch(2, 2), 1);
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.engine.projects[&1].floor, None);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
    assert_eq!(world.sent.len(), 7);
}

/// Midnight passed while nothing happened, and then the clock was set back: that day had begun.
#[test]
fn a_day_that_began_unseen_has_begun() {
    let mut world = World::starting("2026-11-24T07:59:50Z", 1);
    world.bucket(1, 1, &[rpd(3)]);
    world.run_for(0);
    world.advance(world.now.boot.plus(14_000));
    world.now.wall = unix(BEFORE);
    world.run_for(1_000);
    assert_eq!(world.engine.projects[&1].floor, Some(day("2026-11-24")));
}

#[test]
fn a_clock_set_forward_over_midnight_opens_the_next_day() {
    let mut world = World::starting("2026-11-23T20:00:00Z", 1);
    world.proven();
    world.bucket(1, 1, &[rpd(3)]);
    world.open(batch(1, 1), 6);
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 3);
    world.now.wall = unix("2026-11-24T08:00:05Z");
    world.run_for(20_000);
    assert_eq!(world.sent.len(), 3, "the grace is not over");
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 6);
    assert_eq!(world.engine.projects[&1].floor, None);
}

/// Answers whose `Date` is so many seconds ahead of our clock.
fn ahead(world: &mut World, seconds: i64) {
    world.provider = Box::new(move |_, now| answers::ok().dated(now.wall.0 / 1_000 + seconds));
}

fn asked_each_second(world: &mut World, from: i64, seconds: i64) {
    for id in from..from + seconds {
        world.open(batch(id, 1), 1);
        world.run_for(1_000);
    }
}

#[test]
fn the_edges_of_a_day_are_the_providers() {
    for (seconds, first_of_new, last_of_old) in [(-20, 17_000, 22_000), (20, -22_000, -17_000)] {
        let mut world = World::starting("2026-11-24T07:59:00Z", 1);
        world.proven();
        world.bucket(1, 1, &[rpm(100)]);
        ahead(&mut world, seconds);
        asked_each_second(&mut world, 1, 120);
        assert_eq!(world.closed.len(), 120);
        let midnight = unix(MIDNIGHT).0;
        let of = |day: &str| {
            let day = day.to_owned();
            let rows = world.attempts.values().filter(move |row| row.new.day_lo == day);
            rows.map(|row| row.new.s_wall.0 - midnight).collect::<Vec<_>>()
        };
        let (old, new) = (of("2026-11-23"), of("2026-11-24"));
        let last = old.iter().max().expect("some of the old day");
        let first = new.iter().min().expect("some of the new day");
        let edge = first_of_new..=last_of_old;
        assert!(edge.contains(last) && edge.contains(first), "{seconds}: {last} {first}");
        // None of a day that is sealed: the world checks it.
        let sealed = world.seals.iter().find(|seal| seal.2 == day("2026-11-24"));
        let sealed = sealed.expect("the day is sealed").0.0 - midnight;
        assert!(sealed > *last, "sealed at {sealed}");
    }
}

/// The day is sealed by our clock, and then the provider's turns out to be behind.
#[test]
fn a_sealed_day_gets_no_row_whatever_clock_is_heard() {
    let mut world = World::starting(BEFORE, 1);
    world.proven();
    world.bucket(1, 1, &[]);
    world.run_for(10 * MINUTE_MS + 5_000);
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
    ahead(&mut world, -60);
    asked_each_second(&mut world, 1, 30);
    world.now.wall = unix(BEFORE);
    asked_each_second(&mut world, 31, 30);
    assert_eq!(world.closed.len(), 60);
}

/// Somebody waits for an answer in the bucket now and then: batch requests keep a distance.
fn paced() -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(60)]);
    let need = Weights { requests: 1, ..Weights::default() };
    let (bucket, id) = (BucketId(1), AttemptId(1_000_000));
    let ask = Ask { bucket, key: KeyId(0), class: Class::Interactive, need };
    world.engine.gate.reserve(id, &ask, world.now);
    world.engine.gate.void(id);
    assert!(world.engine.gate.is_paced(bucket, world.now));
    world
}

#[test]
fn an_old_permit_is_reserved_anew_once() {
    let mut world = paced();
    world.slow = true;
    world.open(batch(1, 1), 3);
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 3)]);
    let ends = |end| world.attempts.values().filter(|row| row.end == Some(end)).count();
    assert_eq!((ends(AttemptEnd::Aborted), ends(AttemptEnd::Ok)), (3, 3));
    assert!(world.items.values().all(|item| item.queued.attempts == 0));
    let void = world.attempts.values().filter(|row| row.end == Some(AttemptEnd::Aborted));
    assert!(void.map(|row| row.act).all(|act| act == Some(Weights::default())));
    assert_eq!(world.engine.gate.state(BucketId(1), world.now)[0].used, 3);
}

#[test]
fn a_permit_without_a_distance_does_not_grow_old() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(60)]);
    world.slow = true;
    world.open(batch(1, 1), 3);
    world.run_for(5_000);
    assert_eq!((world.closed.len(), world.attempts.len()), (1, 3));
}

/// The one that was to go first is too old: another one does.
#[test]
fn an_old_permit_of_the_first_one_lets_another_go_first() {
    let mut world = paced();
    world.project(1, &["a"]);
    world.slow = true;
    let until = world.now.boot.plus(1_000);
    world.engine.gate.block(BucketId(1), until, "blocked".to_owned());
    world.open(batch(1, 1), 2);
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.engine.gate.blocked(BucketId(1)), None);
}

/// It was to wait for hours by a clock that was wrong.
#[test]
fn a_batch_that_waits_for_a_time_of_day_goes_when_a_clock_set_right_says_so() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[]);
    let at = world.now.wall.plus(600 * MINUTE_MS);
    world.open(BatchSetup { not_before: Some(at), ..batch(1, 1) }, 1);
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 0);
    world.now.wall = at.minus(2 * MINUTE_MS);
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 0, "not yet");
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}
