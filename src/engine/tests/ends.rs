//! How items and batches come to their end.

use super::answers::{self, cut_off};
use super::throttles::at_first;
use super::world::{World, batch};
use crate::engine::state::{BatchSetup, Event};
use crate::formats::InDoubt;
use crate::gate::limits::MINUTE_MS;
use crate::store::{AttemptEnd, BatchId, ItemState};

fn warm() -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[]);
    world
}

fn doubtful(policy: InDoubt) -> World {
    let mut world = warm();
    world.provider = at_first(1, cut_off);
    world.open(BatchSetup { in_doubt: policy, ..batch(1, 1) }, 2);
    world.run_for(10 * MINUTE_MS);
    let ends: Vec<_> = world.attempts.values().filter_map(|attempt| attempt.end).collect();
    assert_eq!(ends[0], AttemptEnd::InDoubt);
    world
}

#[test]
fn in_doubt_is_tried_again() {
    let world = doubtful(InDoubt::Retry);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 1)]);
    assert_eq!(world.closed, [BatchId(1)]);
    let (_, first) = world.items_of(1)[0];
    assert_eq!((first.queued.doubts, first.queued.attempts), (1, 0));
}

#[test]
fn in_doubt_is_held() {
    let mut world = doubtful(InDoubt::Hold);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Held)), (2, 1));
    assert_eq!(world.closed, [], "a held item waits for a word of its user");
    world.cancel(1);
    world.run_for(1_000);
    assert_eq!(world.count(1, ItemState::Cancelled), 1);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn in_doubt_is_failed() {
    let world = doubtful(InDoubt::Fail);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Failed)), (2, 1));
    let (_, first) = world.items_of(1)[0];
    assert!(first.line.as_ref().expect("a results line").contains("UNKNOWN"));
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_cancelled_batch_settles_what_is_under_way_then_sweeps_then_finishes() {
    let mut world = warm();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 2;
    world.provider = Box::new(|_, _| answers::ok().after(10_000));
    world.open(batch(1, 1), 600);
    world.run_for(1_000);
    world.cancel(1);
    world.run_for(5_000);
    assert_eq!(world.sweeps, [], "two are under way");
    world.run_for(10_000);
    assert_eq!(world.sent.len(), 2);
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
    assert_eq!(world.count(1, ItemState::Cancelled), 598);
    assert_eq!((world.sweeps, world.closed), (vec![(BatchId(1), true)], vec![BatchId(1)]));
}

#[test]
fn a_batch_may_be_cancelled_while_its_queue_is_read() {
    let mut world = warm();
    world.commit_ms = 100;
    world.open(batch(1, 1), 5);
    world.run_for(50);
    world.cancel(1);
    world.run_for(40);
    assert_eq!(world.sweeps, [], "the page is still being read");
    world.run_for(1_000);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Cancelled)), (0, 5));
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_batch_may_be_cancelled_while_the_reading_fails() {
    let mut world = warm();
    world.commit_ms = 100;
    world.loads_to_fail = 1;
    world.open(batch(1, 1), 5);
    world.run_for(50);
    world.cancel(1);
    world.run_for(1_000);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// A reservation that is on its way to the disk goes through; one that fails is swept.
#[test]
fn a_batch_may_be_cancelled_while_it_reserves() {
    for fails in [0, 1] {
        let mut world = warm();
        world.commit_ms = 100;
        world.reserves_to_fail = fails;
        world.open(batch(1, 1), 3);
        world.run_for(150);
        world.cancel(1);
        world.run_for(3_000);
        assert_eq!(world.sent.len(), if fails == 0 { 3 } else { 0 });
        assert_eq!(world.closed, [BatchId(1)]);
    }
}

#[test]
fn a_batch_may_be_cancelled_while_items_wait_to_be_tried_again() {
    let mut world = warm();
    world.provider = Box::new(|_, _| answers::overloaded());
    world.open(batch(1, 1), 3);
    world.run_for(215);
    world.cancel(1);
    world.run_for(1_000);
    assert_eq!(world.count(1, ItemState::Cancelled), 3);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn cancelling_twice_or_too_late_changes_nothing() {
    let mut world = warm();
    world.open(batch(1, 1), 1);
    world.run_for(5_000);
    world.cancel(1);
    world.open(batch(2, 1), 1);
    world.cancel(2);
    world.cancel(2);
    world.run_for(5_000);
    assert_eq!(world.closed, [BatchId(1), BatchId(2)]);
    assert_eq!(world.sweeps, [(BatchId(2), true)]);
}

#[test]
fn a_batch_that_was_stopped_before_the_start_is_swept() {
    let mut world = warm();
    let stopped = Some(("no such model".to_owned(), false));
    world.open(BatchSetup { stopped, ..batch(1, 1) }, 3);
    world.run_for(1_000);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Failed)), (0, 3));
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_batch_with_nothing_left_is_finished_at_once() {
    for stopped in [None, Some(("cancelled".to_owned(), true))] {
        let mut world = warm();
        world.open(BatchSetup { stopped, ..batch(1, 1) }, 0);
        world.run_for(1_000);
        assert_eq!((world.closed, world.sweeps.len()), (vec![BatchId(1)], 0));
    }
}

/// Told twice of the same batch, as a start and an import might, the engine keeps the first word.
#[test]
fn a_batch_is_opened_once() {
    let mut world = warm();
    world.open(batch(1, 1), 3);
    world.run_for(30);
    world.cancel(1);
    let again = BatchSetup { remaining: 3, ..batch(1, 1) };
    world.tell(Event::BatchOpened(Box::new(again)));
    world.run_for(5_000);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.sent.len(), 3);
}

/// Words about attempts and batches that are gone change nothing.
#[test]
fn late_words_are_harmless() {
    let mut world = warm();
    world.open(batch(1, 1), 1);
    world.run_for(5_000);
    let id = world.sent[0].id;
    let ended = Event::Ended {
        id,
        key: "key".to_owned(),
        report: Box::new(answers::ok().report),
        line: None,
        latency_ms: 1,
    };
    let item = BatchId(1).item(1);
    for event in [
        Event::BodySent(id),
        Event::Headers(id),
        ended,
        Event::Unreadable { id, key: "1".to_owned(), reason: "late".to_owned(), lost: false },
        Event::Reserved(vec![id]),
        Event::ReserveFailed { ids: vec![id], reason: "late".to_owned() },
        Event::Settled(vec![item]),
        Event::Loaded { batch: BatchId(1), items: Vec::new() },
        Event::LoadFailed(BatchId(1)),
        Event::Swept(BatchId(1)),
        Event::Closed(BatchId(1)),
    ] {
        world.tell(event);
    }
    world.run_for(5_000);
    assert_eq!((world.sent.len(), world.closed.len()), (1, 1));
}
