//! The end of a quota day: its use, its seal, its clocks.

use chrono::NaiveDate;

use super::answers;
use super::throttles::at_first;
use super::world::{World, batch, rpd, unix};
use crate::gate::day::{DAY_EDGE_MS, DAY_GRACE_MS};
use crate::gate::limits::MINUTE_MS;
use crate::store::{BatchId, ItemState};

const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Ten minutes before the day ends in California.
const LATE: &str = "2026-11-24T07:50:00Z";
const MIDNIGHT: &str = "2026-11-24T08:00:00Z";

fn day(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

fn late() -> World {
    let mut world = World::starting(LATE, 1);
    world.proven();
    world
}

/// Until no attempt can be reserved any more that may count on the day before.
#[test]
fn a_day_is_sealed_once_when_its_edge_is_past() {
    let mut world = late();
    world.run_for(72 * HOUR_MS);
    let midnight = unix(MIDNIGHT).plus(DAY_EDGE_MS);
    let expected = [
        (midnight, 1, day("2026-11-24")),
        (midnight.plus(24 * HOUR_MS), 1, day("2026-11-25")),
        (midnight.plus(48 * HOUR_MS), 1, day("2026-11-26")),
    ];
    assert_eq!(world.seals, expected);
}

#[test]
fn a_start_seals_what_was_missed() {
    let mut world = late();
    world.engine.projects.get_mut(&1).expect("project 1").sealed_before = None;
    world.run_for(1_000);
    assert_eq!(world.seals, [(unix(LATE), 1, day("2026-11-23"))]);
}

#[test]
fn a_seal_waits_for_attempts_of_the_day() {
    let mut world = late();
    world.bucket(1, 1, &[]);
    world.provider = at_first(1, || answers::ok().after(15 * MINUTE_MS));
    world.open(batch(1, 1), 1);
    world.run_for(14 * MINUTE_MS);
    assert_eq!(world.seals, []);
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
    assert_eq!(world.seals.len(), 1);
}

/// Attempts of the new day, of which there always are some, do not hold up the seal of the old.
#[test]
fn a_busy_project_is_sealed_all_the_same() {
    let mut world = late();
    world.bucket(1, 1, &[]);
    world.engine.projects.get_mut(&1).expect("project 1").max_in_flight = 3;
    world.provider = Box::new(|order, _| {
        let length = 700 + 130 * (BatchId::line_of_item(order.item.id) % 3);
        answers::ok().after(length)
    });
    world.run_for(9 * MINUTE_MS);
    world.open(batch(1, 1), 1_500);
    world.run_for(4 * MINUTE_MS);
    assert!(world.engine.unsettled() > 0, "it is busy");
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
    assert!(world.seals.len() <= 2, "{:?}", world.seals);
}

/// The last attempt of the day has ended, but its end takes minutes to become durable.
#[test]
fn a_seal_that_comes_too_early_is_tried_again_and_not_in_a_loop() {
    let mut world = late();
    world.bucket(1, 1, &[]);
    world.open(batch(1, 1), 1);
    world.provider = Box::new(|_, _| answers::ok().after(9 * MINUTE_MS + 50_000));
    world.run_for(MINUTE_MS);
    world.commit_ms = 2 * MINUTE_MS;
    world.run_for(9 * MINUTE_MS);
    world.commit_ms = 5;
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
    assert!((2..=60).contains(&world.seals.len()), "{} seals", world.seals.len());
}

#[test]
fn a_seal_that_fails_is_tried_again_and_not_in_a_loop() {
    let mut world = late();
    world.seals_to_fail = 3;
    world.run_for(20 * MINUTE_MS);
    assert_eq!(world.seals.len(), 4);
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
    let two = world.seals[0].0.until(world.seals[1].0);
    assert!((1_000..=MINUTE_MS).contains(&two), "{:?}", world.seals);
}

/// In the first moments of a day attempts may still count on the day before: none of them is
/// reserved after that day was sealed (the world checks it).
#[test]
fn no_attempt_is_reserved_for_a_sealed_day() {
    let mut world = late();
    world.bucket(1, 1, &[]);
    world.run_for(10 * MINUTE_MS - 1);
    for id in 1..=40 {
        world.open(batch(id, 1), 1);
        world.run_for(100);
    }
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed.len(), 40);
    let edge = world.attempts.values().filter(|attempt| attempt.new.day_lo == "2026-11-23");
    assert!(edge.count() > 10);
    assert_eq!(world.sealed.get(&1), Some(&day("2026-11-24")));
}

#[test]
fn a_day_that_is_used_up_goes_on_after_its_end() {
    let mut world = late();
    world.bucket(1, 1, &[rpd(3)]);
    world.open(batch(1, 1), 5);
    world.run_for(10 * MINUTE_MS + DAY_GRACE_MS + DAY_EDGE_MS - 1);
    assert_eq!(world.count(1, ItemState::Succeeded), 3);
    world.run_for(1_000);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// The wall clock is set back over midnight while a request is under way of which then nothing was
/// sent.
#[test]
fn a_clock_set_back_over_midnight_breaks_no_row() {
    let mut world = World::starting("2026-11-24T08:00:10Z", 1);
    world.proven();
    world.bucket(1, 1, &[]);
    let mut script = vec![answers::ok(), answers::not_sent().after(1_000)];
    world.provider = Box::new(move |_, _| script.pop().unwrap_or_else(answers::ok));
    world.open(batch(1, 1), 2);
    world.run_for(500);
    world.now.wall = unix(LATE);
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}
