//! Who goes first, and how many at once.

use super::answers::{self, overloaded};
use super::world::{World, batch, rpm, tpm};
use crate::caps;
use crate::engine::state::{BatchSetup, Event, Lane};
use crate::gate::admit::BucketId;
use crate::gate::limits::MINUTE_MS;
use crate::store::{BatchId, ItemState};

/// When the sends left, in milliseconds after the first one.
fn starts(world: &World) -> Vec<u64> {
    world.sent.iter().map(|sent| sent.at - world.sent[0].at).collect()
}

fn lines_of(batch: i64, lines: std::ops::RangeInclusive<u64>) -> Vec<(i64, u64)> {
    lines.map(|line| (batch, line)).collect()
}

#[test]
fn first_in_first_out_within_a_priority() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.open(batch(2, 1), 3);
    world.open(batch(1, 1), 3);
    world.run_for(5_000);
    assert_eq!(world.lines(), [lines_of(1, 1..=3), lines_of(2, 1..=3)].concat());
    assert_eq!(world.closed, [BatchId(1), BatchId(2)]);
}

#[test]
fn high_goes_before_low() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    world.project(1, &["a"]).pace.max_in_flight = 1;
    world.open(BatchSetup { priority: 2, ..batch(1, 1) }, 3);
    world.run_for(100);
    world.open(BatchSetup { priority: 0, ..batch(2, 1) }, 2);
    world.open(batch(3, 1), 1);
    world.run_for(5_000);
    assert_eq!(world.lines(), [(1, 1), (2, 1), (2, 2), (3, 1), (1, 2), (1, 3)]);
}

#[test]
fn a_blocked_bucket_does_not_stop_another() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(2)]);
    world.bucket(2, 1, &[rpm(100)]);
    world.open(batch(1, 1), 5);
    world.open(batch(2, 2), 5);
    world.run_for(5_000);
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
    assert_eq!(world.count(2, ItemState::Succeeded), 5);
    let (_, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why, "rpm: needs 1, 0 of 2 free");
    world.run_for(3 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
    assert_eq!(world.densest(1, MINUTE_MS, |weights| weights.requests), 2);
}

/// A large item keeps its place: what is small goes past it only into what it will leave.
#[test]
fn a_large_item_is_not_delayed() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[tpm(100)]);
    world.provider = Box::new(|order, _| answers::ok().using(order.item.input_tokens));
    world.open_weighing(batch(1, 1), &[60, 90]);
    world.run_for(1_000);
    world.open_weighing(BatchSetup { priority: 2, ..batch(2, 1) }, &[7, 7, 3]);
    world.run_for(1_000);
    assert_eq!(world.lines(), [(1, 1), (2, 1), (2, 3)]);
    world.run_for(61_000);
    assert_eq!(world.lines()[3], (1, 2), "before the other one, for which there was no room");
}

/// A2, for a commit that takes its time.
#[test]
fn nothing_is_sent_before_its_reservation_is_durable() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.commit_ms = 1_000;
    world.open(batch(1, 1), 2);
    // One second for the page of the queue, one for the reservation.
    world.run_for(1_999);
    assert_eq!(world.lines(), []);
    world.run_for(1);
    assert_eq!(world.lines(), [(1, 1)]);
}

#[test]
fn a_cold_start_sends_one_and_the_rest_once_it_got_through() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.bucket(2, 1, &[rpm(100)]);
    world.open(batch(1, 1), 3);
    world.open(batch(2, 2), 3);
    world.run_for(5_000);
    // The body of the first is out after 20 ms, and a commit takes 5.
    assert_eq!(starts(&world), [0, 25, 25, 25, 25, 25]);
}

/// The answer itself proves the endpoint when the word of its progress was lost.
#[test]
fn an_answer_proves_the_endpoint() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.provider =
        Box::new(|_, _| answers::Answer { body_ms: None, headers_ms: None, ..answers::ok() });
    world.open(batch(1, 1), 3);
    world.run_for(5_000);
    assert_eq!(starts(&world), [0, 215, 215]);
}

#[test]
fn a_probe_that_was_not_reserved_does_not_hold_up_the_next() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.reserves_to_fail = 1;
    world.open(batch(1, 1), 3);
    world.run_for(caps::STORE_PAUSE_MS + 500);
    assert_eq!(world.count(1, ItemState::Succeeded), 3);
}

#[test]
fn a_probe_whose_line_is_unreadable_does_not_hold_up_the_next() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.provider = Box::new(|_, _| answers::ok().after(10_000_000));
    world.open(batch(1, 1), 2);
    world.run_for(12);
    let id = world.sent[0].id;
    world.provider = Box::new(|_, _| answers::ok());
    world.tell(Event::Unreadable {
        id,
        key: "1".to_owned(),
        reason: "its line is unreadable".to_owned(),
        lost: false,
    });
    world.run_for(1_000);
    assert_eq!(world.count(1, ItemState::Succeeded), 1);
    // It is tried again, and costs no attempt.
    world.run_for(caps::UNREADABLE_RETRY_MS);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 1)]);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn no_more_in_flight_than_the_project_says() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    world.proven();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 4;
    world.open(batch(1, 1), 10);
    world.run_for(100);
    assert_eq!(world.sent.len(), 4);
    assert!(world.engine.why(BatchId(1), world.now).expect("it waits").1.contains("max_in_flight"));
    world.run_for(1_000);
    assert_eq!(world.sent.len(), 10);
}

#[test]
fn no_more_starts_a_second_than_the_project_says() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    world.proven();
    world.engine.projects.get_mut(&1).expect("project 1").pace.starts_per_second = 3;
    world.open(batch(1, 1), 8);
    world.run_for(5_000);
    assert_eq!(starts(&world), [0, 0, 0, 1_000, 1_000, 1_000, 2_000, 2_000]);
}

/// Two sends at once need twice as many good answers to become three.
#[test]
fn a_model_nobody_knows_is_learned() {
    let mut world = World::new();
    world.proven();
    let found = Event::BucketFound { id: BucketId(1), project: 1, group: "new".to_owned() };
    world.tell(found);
    world.open(batch(1, 1), 10);
    world.run_for(10_000);
    // The answer takes 210 ms and a commit 5.
    let rounds = starts(&world).iter().map(|at| at / 215).collect::<Vec<_>>();
    assert_eq!(rounds, [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]);
    assert_eq!(world.engine.lanes[&BucketId(1)].crowd.as_ref().map(|l| l.at_once), Some(5));
}

#[test]
fn a_429_takes_a_learned_model_back() {
    use crate::upstream::ThrottleKind::Unexplained;
    let mut world = World::new();
    world.proven();
    let mut lane = Lane::new(1, "new".to_owned(), true);
    lane.crowd.as_mut().expect("it learns").at_once = 10;
    world.bucket(1, 1, &[]);
    world.engine.lanes.insert(BucketId(1), lane);
    let mut first = true;
    world.provider = Box::new(move |_, _| {
        let throttled = std::mem::take(&mut first);
        if throttled { answers::throttled(Unexplained, None) } else { answers::ok() }
    });
    world.open(batch(1, 1), 1);
    world.run_for(230);
    assert_eq!(world.engine.lanes[&BucketId(1)].crowd.as_ref().map(|l| l.at_once), Some(7));
    world.run_for(MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 1);
}

/// Past a page, with retries of the first page still to come when the second is read.
#[test]
fn a_long_queue_is_read_page_by_page() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    let count = u32::try_from(caps::READY_PAGE).expect("small") * 2 + 88;
    let mut seen = std::collections::BTreeSet::new();
    world.provider = Box::new(move |order, _| {
        let odd = BatchId::line_of_item(order.item.id) % 7 == 3;
        if odd && seen.insert(order.item.id) { overloaded() } else { answers::ok() }
    });
    world.open(batch(1, 1), count);
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), usize::try_from(count).expect("small"));
    assert_eq!(world.closed, [BatchId(1)]);
    let pages: Vec<_> = world.loads.iter().map(|(_, _, after)| after & 0xffff).collect();
    assert_eq!(pages, [0, 32, 544, 1056]);
    let mut firsts = std::collections::BTreeSet::new();
    let firsts: Vec<u64> =
        world.sent.iter().map(|sent| sent.line).filter(|line| firsts.insert(*line)).collect();
    assert!(firsts.is_sorted(), "first attempts are in the order of the file");
}

/// Of a batch whose turn has not come little is held.
#[test]
fn of_batches_that_wait_only_the_first_items_are_read() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(1)]);
    for id in 1..=20 {
        world.open(batch(id, 1), 600);
    }
    world.run_for(1_000);
    let held = |id: i64| world.engine.jobs[&BatchId(id)].ready.len();
    assert_eq!(held(1), caps::READY_FIRST - 1 + caps::READY_PAGE, "its turn has come");
    assert!((2..=20).all(|id| held(id) <= caps::READY_FIRST));
}

/// A page that ends exactly with the queue.
#[test]
fn a_queue_of_one_whole_page_ends() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    let whole = caps::READY_FIRST + caps::READY_PAGE;
    world.open(batch(1, 1), u32::try_from(whole).expect("small"));
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.loads.len(), 3);
}

#[test]
fn an_item_above_a_limit_that_was_lowered_is_refused() {
    let mut world = World::new();
    world.bucket(1, 1, &[tpm(50)]);
    world.open_weighing(batch(1, 1), &[10, 51, 10]);
    world.run_for(1_000);
    let (id, reason) = &world.refusals[0];
    assert_eq!(BatchId::line_of_item(*id), 2);
    assert_eq!(reason, "needs 51 of tpm, and the limit is 50 (config): it can never be sent");
    assert_eq!((world.lines(), world.closed), (vec![(1, 1), (1, 3)], vec![BatchId(1)]));
}

#[test]
fn a_batch_waits_for_its_time() {
    let mut world = World::new();
    world.bucket(1, 1, &[]);
    let at = world.now.wall.plus(90_000);
    world.open(BatchSetup { not_before: Some(at), ..batch(1, 1) }, 2);
    world.open(BatchSetup { priority: 2, ..batch(2, 1) }, 1);
    world.run_for(89_999);
    assert_eq!(world.lines(), [(2, 1)]);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why.0, at);
    world.run_for(1_000);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}
