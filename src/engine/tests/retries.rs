//! Items that are tried again: the budget for it, what waits for it, and failed ones put back.

use tokio::sync::oneshot;

use super::answers::{self, overloaded};
use super::world::{World, batch};
use crate::caps;
use crate::engine::job::{Job, Offer};
use crate::engine::state::Event;
use crate::gate::admit::BucketId;
use crate::gate::limits::MINUTE_MS;
use crate::schedule::{Budget, TenantId};
use crate::store::{BatchId, ItemState};

/// A bucket without limits, of a project that is known to be reached.
fn open_world() -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[]);
    world
}

/// A batch of three items of which the first two failed; the third is under way for a second, and
/// the failed ones are asked to go again.
fn to_be_put_back() -> (World, oneshot::Receiver<Result<u64, String>>) {
    let mut world = open_world();
    world.provider = Box::new(|order, _| match BatchId::line_of_item(order.item.id) {
        3 => answers::ok().after(1_000),
        _ => answers::bad_request(),
    });
    world.open(batch(1, 1), 3);
    world.run_for(500);
    assert_eq!(world.count(1, ItemState::Failed), 2);
    world.provider = Box::new(|_, _| answers::ok());
    let (done, told) = oneshot::channel();
    world.tell(Event::RetryFailed { batch: BatchId(1), done });
    (world, told)
}

#[test]
fn what_went_back_before_the_database_failed_goes_again() {
    let (mut world, mut told) = to_be_put_back();
    world.requeues_most = 1;
    world.run_for(MINUTE_MS);
    let error = told.try_recv().expect("an answer").expect_err("one could not be put back");
    assert_eq!(error, "only 1 were put back and go again: disk");
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
    assert_eq!(world.count(1, ItemState::Failed), 1);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn a_batch_that_is_stopped_while_failed_items_go_back_is_swept_when_they_have() {
    let (mut world, mut told) = to_be_put_back();
    world.commit_ms = 100;
    world.run_for(660);
    assert_eq!(world.items_of(1).iter().filter(|(_, it)| it.ends == 0).count(), 2, "under way");
    world.cancel(1);
    world.run_for(MINUTE_MS);
    told.try_recv().expect("an answer").expect_err("it was stopped");
    assert_eq!(world.sweeps, [(BatchId(1), true)]);
    assert_eq!(world.count(1, ItemState::Cancelled), 2);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn items_that_were_put_back_have_their_refusals_forgotten() {
    let mut world = open_world();
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 1;
    world.provider = Box::new(|order, _| match BatchId::line_of_item(order.item.id) {
        3 => answers::bad_request().after(1_000),
        _ => answers::not_found(),
    });
    world.open(batch(1, 1), 3);
    world.run_for(500);
    assert_eq!(world.engine.jobs[&BatchId(1)].hopeless, 2);
    let (done, _told) = oneshot::channel();
    world.tell(Event::RetryFailed { batch: BatchId(1), done });
    world.provider = Box::new(|order, _| match BatchId::line_of_item(order.item.id) {
        1 => answers::not_found(),
        _ => answers::ok(),
    });
    world.run_for(MINUTE_MS);
    assert_eq!(world.sweeps, [], "one refusal is no reason to stop");
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
}

/// A thousand items are due to be tried again, and none is allowed: the batch is looked at again.
#[test]
fn a_batch_full_of_retries_does_not_sleep_for_ever() {
    let world = World::new();
    let mut job = Job::new(batch(1, 1), TenantId(0));
    let most = u32::try_from(caps::RETRY_WAITING_MAX).expect("small");
    for number in 1..=most {
        job.retry(world.now, super::world::item(BatchId(1), number, 1), 0);
    }
    let look = world.now.boot.plus(caps::RETRY_LOOK_MS);
    assert!(matches!(job.offer(0, false, world.now), Offer::Later(at) if at == look));
}

/// They wait for one budget: where the first may not go, what was not tried yet is offered soon.
#[test]
fn of_many_retries_a_few_are_offered_at_a_time() {
    let world = World::new();
    let mut job = Job::new(batch(1, 1), TenantId(0));
    for number in 1..1_000 {
        job.retry(world.now, super::world::item(BatchId(1), number, 1), 0);
    }
    let fresh = super::world::item(BatchId(1), 1_000, 1);
    job.put_back(fresh.clone());
    let is_fresh = |nth| matches!(job.offer(nth, true, world.now), Offer::Item(it) if *it == fresh);
    assert_eq!((0..1_000).position(is_fresh), Some(caps::RETRIES_OFFERED_MAX));
}

/// What was not sent is no retry.
#[test]
fn the_budget_gets_back_what_was_not_sent() {
    for unwritten in [true, false] {
        let mut world = open_world();
        let mut times = 0;
        world.provider = Box::new(move |_, _| {
            times += 1;
            match times {
                1 => overloaded(),
                2 if !unwritten => answers::not_sent(),
                _ => answers::ok(),
            }
        });
        world.open(batch(1, 1), 1);
        world.run_for(100);
        world.reserves_to_fail = u32::from(unwritten);
        world.run_for(10 * MINUTE_MS);
        assert_eq!(world.closed, [BatchId(1)]);
        assert_eq!(world.attempts.len(), if unwritten { 2 } else { 3 });
        let mut once = Budget::default();
        once.spend();
        once.earn();
        assert_eq!(world.engine.lanes[&BucketId(1)].budget, once, "unwritten: {unwritten}");
    }
}
