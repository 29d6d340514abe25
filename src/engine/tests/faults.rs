//! Servers, endpoints, keys, bills and disks that fail.

use super::answers::{self, key_refused, not_found, not_sent, overloaded};
use super::throttles::at_first;
use super::world::{World, batch, rpm};
use crate::caps;
use crate::engine::state::{BatchSetup, Event};
use crate::gate::limits::MINUTE_MS;
use crate::store::{AttemptEnd, BatchId, ItemState};
use crate::upstream::RefusalClass;

fn warm() -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[]);
    world
}

#[test]
fn an_item_that_alone_is_answered_with_errors_is_parked_three_times_and_failed() {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(4)]);
    world.provider =
        Box::new(
            |order, _| {
                if order.item.id == BatchId(1).item(1) { overloaded() } else { answers::ok() }
            },
        );
    world.open(batch(1, 1), 500);
    world.run_for(20 * MINUTE_MS);
    let sent = |world: &World| world.lines().iter().filter(|line| **line == (1, 1)).count();
    assert_eq!(sent(&world), 5, "then it is parked");
    world.run_for(65 * MINUTE_MS);
    assert_eq!(sent(&world), 7);
    world.run_for(60 * MINUTE_MS);
    assert_eq!(sent(&world), 8);
    assert_eq!(world.closed, [BatchId(1)]);
    let (_, item) = world.items_of(1)[0];
    assert_eq!((item.state, item.queued.attempts), (ItemState::Failed, 8));
    let line: serde_json::Value =
        serde_json::from_str(item.line.as_deref().expect("a results line")).expect("JSON");
    assert_eq!(line["error"]["code"], 503);
    assert_eq!(line["error"]["status"], "UNAVAILABLE");
    assert_eq!(line["error"]["message"], "the provider says 503");
}

/// The provider is down for six hours: no item is failed for it, and few requests are lost on it.
#[test]
fn an_outage_fails_nothing() {
    let mut world = warm();
    let up = world.now.wall.plus(6 * 60 * MINUTE_MS);
    world.provider =
        Box::new(move |_, now| if now.wall < up { overloaded() } else { answers::ok() });
    world.open(batch(1, 1), 300);
    world.run_for(6 * 60 * MINUTE_MS);
    assert!(world.items.values().all(|item| item.state == ItemState::Queued));
    assert!((30..=180).contains(&world.sent.len()), "{} attempts", world.sent.len());
    let why = world.engine.why(BatchId(1), world.now).expect("it waits").1;
    assert!(why.starts_with("the provider answered"), "{why}");
    world.run_for(60 * MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 300);
}

#[test]
fn four_server_errors_do_not() {
    let mut world = warm();
    world.provider = at_first(4, overloaded);
    world.open(batch(1, 1), 1);
    world.run_for(10 * MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 1);
}

#[test]
fn an_item_that_waits_to_be_tried_again_blocks_nobody() {
    let mut world = warm();
    world.provider = Box::new(|order, _| {
        let mut answer = overloaded();
        if let crate::upstream::Outcome::Refused(refusal) = &mut answer.report.outcome {
            refusal.retry_delay_ms = Some(60_000);
        }
        if order.item.id == BatchId(1).item(1) && order.item.attempts == 0 {
            answer
        } else {
            answers::ok()
        }
    });
    world.open(batch(1, 1), 3);
    world.open(BatchSetup { priority: 2, ..batch(2, 1) }, 2);
    world.run_for(2_000);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why.1, "waits to be tried again");
    world.run_for(59_000);
    assert_eq!(world.lines()[5..], [(1, 1)]);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_tried_ever_more_seldom() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(100)]);
    world.bucket(2, 1, &[rpm(100)]);
    world.provider = Box::new(|_, _| not_sent());
    world.open(batch(1, 1), 30);
    world.open(batch(2, 2), 30);
    world.run_for(MINUTE_MS);
    assert!((5..=10).contains(&world.sent.len()), "{} attempts", world.sent.len());
    let unreachable = world.engine.projects()[0].unreachable.clone();
    assert_eq!(unreachable.as_deref(), Some("the endpoint cannot be reached: connection refused"));
    assert!(world.attempts.values().all(|a| a.end != Some(AttemptEnd::InDoubt)));
    world.run_for(10 * MINUTE_MS);
    // 30 s to 60 s apart by now.
    assert!(world.sent.len() <= 10 + 20, "{} attempts", world.sent.len());
    world.provider = Box::new(|_, _| answers::ok());
    let before = world.sent.len();
    world.run_for(70_000);
    let after: Vec<u64> = world.sent[before..].iter().map(|sent| sent.at).collect();
    assert!(after[1] >= after[0] + 20, "one probe, then the rest: {after:?}");
    assert_eq!(world.closed, [BatchId(1), BatchId(2)]);
    assert_eq!(world.engine.projects()[0].unreachable, None);
    assert!(world.items.values().all(|item| item.queued.attempts == 0));
}

/// Many were under way when the endpoint went away: all come back to their places.
#[test]
fn what_was_not_sent_keeps_its_order() {
    let mut world = warm();
    world.provider = at_first(20, not_sent);
    world.open(batch(1, 1), 40);
    world.run_for(MINUTE_MS);
    let again: Vec<u64> = world.sent[world.sent.len() - 20..].iter().map(|s| s.line).collect();
    assert_eq!(again, (1..=20).collect::<Vec<_>>());
}

/// An old request fails while the probe is out: no second probe.
#[test]
fn a_late_failure_does_not_send_a_second_probe() {
    let mut world = warm();
    let mut count = 0;
    world.provider = Box::new(move |_, _| {
        count += 1;
        match count {
            1 => not_sent(),
            2 => not_sent().after(4_000),
            // The probe hangs in connecting.
            _ => answers::Answer { body_ms: None, ..answers::ok().after(60_000) },
        }
    });
    world.open(batch(1, 1), 2);
    world.run_for(50_000);
    assert_eq!(world.sent.len(), 3, "{:?}", world.sent);
}

#[test]
fn a_refused_key_is_set_aside_and_the_other_goes_on() {
    let mut world = warm();
    world.project(1, &["good", "bad"]).link.proven = true;
    world.provider =
        Box::new(|order, _| if order.key == 1 { key_refused() } else { answers::ok() });
    world.open(batch(1, 1), 6);
    world.run_for(5_000);
    assert_eq!(world.closed, [BatchId(1)]);
    let keys: Vec<usize> = world.sent.iter().map(|sent| sent.key).collect();
    assert_eq!(keys, [0, 1, 0, 1, 0, 1, 0, 0, 0]);
    let again: Vec<u64> = world.sent[6..].iter().map(|sent| sent.line).collect();
    assert_eq!(again, [2, 4, 6], "each keeps its place");
    let view = &world.engine.projects()[0];
    let aside = ("bad".to_owned(), "key bad was refused: the provider says 401".to_owned());
    assert_eq!(view.keys_aside, [aside]);
    assert!(world.items.values().all(|item| item.queued.attempts == 0));
}

#[test]
fn when_every_key_is_refused_they_are_tried_again_later() {
    let mut world = warm();
    world.project(1, &["a", "b"]).link.proven = true;
    world.provider = at_first(12, key_refused);
    world.open(batch(1, 1), 4);
    world.run_for(30_000);
    assert_eq!(world.sent.len(), 4);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits").1;
    let told = "every key of project-1 is set aside: key a was refused: the provider says 401; \
        once it is mended run tidegate keys enable project-1 NAME";
    assert!(why.starts_with(told), "{why}");
    world.run_for(60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert!(world.engine.projects()[0].keys_aside.is_empty(), "an answer takes a key back");
    let order: Vec<u64> = world.sent.iter().map(|sent| sent.line).collect();
    assert_eq!(order, [1, 2, 3, 4].repeat(4));
}

#[test]
fn three_hopeless_answers_stop_a_batch() {
    let mut world = warm();
    world.project(1, &["a"]).pace.max_in_flight = 1;
    world.provider = Box::new(|_, _| not_found());
    world.open(batch(1, 1), 50);
    world.run_for(5_000);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Failed)), (3, 50));
    assert_eq!(world.sweeps, [(BatchId(1), false)]);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn three_hopeless_answers_do_not_stop_a_batch_that_was_answered_before() {
    for forbidden in [false, true] {
        let mut world = warm();
        world.project(1, &["a"]).pace.max_in_flight = 1;
        world.provider = Box::new(move |order, _| match BatchId::line_of_item(order.item.id) {
            2..=9 if forbidden => answers::refused(403, RefusalClass::Forbidden),
            2..=9 => not_found(),
            _ => answers::ok(),
        });
        world.open(batch(1, 1), 12);
        world.run_for(10_000);
        assert_eq!(world.count(1, ItemState::Succeeded), 4);
        assert_eq!(world.count(1, ItemState::Failed), 8);
        assert_eq!((world.sent.len(), world.sweeps.len()), (12, 0));
    }
}

/// A good answer counts as soon as it is there, durable or not.
#[test]
fn an_answer_that_is_being_written_speaks_for_its_batch() {
    let mut world = warm();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 5;
    world.commit_ms = 5_000;
    world.provider = Box::new(|order, _| match BatchId::line_of_item(order.item.id) {
        1 => answers::ok(),
        2..=5 => not_found().after(500),
        _ => answers::ok().after(500),
    });
    world.open(batch(1, 1), 9);
    world.run_for(MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 5);
    assert_eq!(world.sweeps, []);
}

#[test]
fn an_unpaid_bill_holds_the_project() {
    let mut world = warm();
    world.bucket(2, 1, &[]);
    world.project(2, &["b"]);
    world.bucket(3, 2, &[]);
    world.provider = at_first(3, || answers::refused(402, RefusalClass::Billing));
    world.open(batch(1, 1), 3);
    world.run_for(1_000);
    world.open(batch(2, 2), 1);
    world.open(batch(3, 3), 1);
    world.run_for(caps::BILLING_HOLD_MS - 2_000);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 3), (3, 1)]);
    let held: Vec<_> = world.engine.projects().into_iter().map(|view| view.held).collect();
    assert_eq!(held, [Some("billing: the provider says 402".to_owned()), None]);
    world.run_for(5_000);
    assert_eq!(world.lines()[4..], [(1, 1), (1, 2), (1, 3), (2, 1)]);
    assert_eq!(world.engine.projects()[0].held, None);
}

/// Two groups of reservations fail one after the other: all items are back in order.
#[test]
fn failed_reservations_put_items_back_in_order() {
    let mut world = warm();
    world.engine.projects.get_mut(&1).expect("project 1").pace.starts_per_second = 2;
    world.commit_ms = 1_500;
    world.reserves_to_fail = 2;
    world.open(batch(1, 1), 8);
    world.run_for(MINUTE_MS);
    let order: Vec<u64> = world.sent.iter().map(|sent| sent.line).collect();
    assert_eq!(order, (1..=8).collect::<Vec<_>>());
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_failed_reservation_pauses_with_the_reason() {
    let mut world = warm();
    world.reserves_to_fail = 1;
    world.open(batch(1, 1), 3);
    world.run_for(500);
    assert_eq!(world.engine.unsettled(), 0);
    let (until, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why, "no space left");
    assert!(world.now.wall.until(until) <= caps::STORE_PAUSE_MS);
    world.run_for(1_500);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (1, 3)]);
}

/// A database that cannot be read is asked once a second, not in a loop.
#[test]
fn a_queue_that_cannot_be_read_is_not_read_in_a_loop() {
    let mut world = warm();
    world.loads_to_fail = 10;
    world.open(batch(1, 1), 3);
    world.run_for(9_000);
    assert!(world.loads.len() <= 10, "{} reads in 9 s", world.loads.len());
    world.run_for(5_000);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// Past its cap of waiting retries a batch starts nothing new, and goes on when they are done.
#[test]
fn a_batch_with_too_many_retries_starts_nothing_new() {
    let mut world = warm();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 50;
    let mut seen = std::collections::BTreeSet::new();
    world.provider = Box::new(move |order, _| {
        let mut answer = overloaded();
        if let crate::upstream::Outcome::Refused(refusal) = &mut answer.report.outcome {
            refusal.retry_delay_ms = Some(3_600_000);
        }
        let errs = order.item.id % 4 != 0 && seen.insert(order.item.id);
        if errs { answer } else { answers::ok() }
    });
    world.open(batch(1, 1), 2_000);
    world.run_for(100_000);
    // A quarter is answered.
    let most = caps::RETRY_WAITING_MAX / 3 * 4 + 100;
    assert!((caps::RETRY_WAITING_MAX..=most).contains(&world.sent.len()), "{}", world.sent.len());
    world.run_for(150 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.count(1, ItemState::Succeeded), 2_000);
}

/// A batch whose project was taken out of the configuration waits; it does not end the daemon.
#[test]
fn a_batch_without_a_bucket_waits_and_can_be_cancelled() {
    let mut world = warm();
    world.open(batch(1, 77), 2);
    world.open(batch(2, 1), 1);
    world.run_for(1_000);
    assert_eq!(world.closed, [BatchId(2)]);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits").1;
    assert_eq!(why, "the configuration has no project and model for it any more");
    world.cancel(1);
    world.run_for(1_000);
    assert_eq!(world.count(1, ItemState::Cancelled), 2);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}

#[test]
fn draining_starts_nothing_and_settles_what_is_under_way() {
    let mut world = warm();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 2;
    world.open(batch(1, 1), 6);
    world.run_for(100);
    world.tell(Event::Drain);
    world.open(batch(2, 1), 2);
    world.run_for(MINUTE_MS);
    assert_eq!(world.lines(), [(1, 1), (1, 2)]);
    assert_eq!(world.engine.unsettled(), 0);
    assert_eq!(world.loads.len(), 1, "nothing is read either");
}
