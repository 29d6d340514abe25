//! Batches side by side: tenants, pools, fallbacks, pauses, priorities, costs and retries.

use tokio::sync::oneshot;

use super::answers::{self, Answer, overloaded};
use super::world::{World, batch, rpd, rpm, to, tpm, unix};
use crate::caps;
use crate::engine::state::{BatchSetup, Event, RouteTo, SendOrder};
use crate::gate::admit::BucketId;
use crate::gate::limits::MINUTE_MS;
use crate::store::{BatchId, ItemState, TextWeight};

fn of_tenant(id: i64, tenant: &str) -> BatchSetup {
    BatchSetup { tenant: tenant.to_owned(), ..batch(id, 1) }
}

/// As the provider counts it: what was estimated.
fn exactly(order: &SendOrder) -> Answer {
    answers::ok().using(order.item.input_tokens)
}

fn world(limits: &[crate::gate::limits::Limit]) -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, limits);
    world.provider = Box::new(|order, _| exactly(order));
    world
}

fn sent(world: &World, batch: i64) -> usize {
    world.sent.iter().filter(|sent| sent.batch == batch).count()
}

#[test]
fn tenants_share_a_quota_whoever_came_first() {
    let mut world = world(&[rpm(10)]);
    world.open(of_tenant(1, "ann"), 200);
    world.run_for(2 * MINUTE_MS);
    let before = sent(&world, 1);
    world.open(of_tenant(2, "bob"), 200);
    world.run_for(10 * MINUTE_MS);
    let (ann, bob) = (sent(&world, 1) - before, sent(&world, 2));
    assert!(ann.abs_diff(bob) <= 1, "{ann} and {bob}");
    assert!(ann + bob >= 90, "{ann} and {bob}");
}

#[test]
fn a_weight_of_three_is_three_times_as_much() {
    let mut world = world(&[rpm(12)]);
    let ann = world.engine.schedule.tenant("ann");
    world.engine.schedule.set_weight(ann, 3);
    world.open(of_tenant(1, "ann"), 500);
    world.open(of_tenant(2, "bob"), 500);
    world.run_for(10 * MINUTE_MS);
    let (ann, bob) = (sent(&world, 1), sent(&world, 2));
    assert!(ann.abs_diff(3 * bob) <= 3, "{ann} and {bob}");
}

#[test]
fn the_earlier_deadline_goes_first_and_a_better_class_before_it() {
    let mut world = world(&[rpm(1)]);
    world.open(batch(1, 1), 1);
    world.run_for(1_000);
    let due = |id, time: &str| BatchSetup { deadline: Some(unix(time)), ..batch(id, 1) };
    world.open(batch(2, 1), 1);
    world.open(due(3, "2026-11-24T00:00:00Z"), 1);
    world.open(due(4, "2026-11-23T22:00:00Z"), 1);
    world.open(BatchSetup { priority: 0, ..batch(5, 1) }, 1);
    world.run_for(6 * MINUTE_MS);
    let order: Vec<_> = world.sent.iter().map(|sent| sent.batch).collect();
    assert_eq!(order, [1, 5, 4, 3, 2], "the second was first in line, and nobody's place was kept");
}

#[test]
fn a_pool_is_worth_the_sum_of_its_quotas() {
    let mut world = world(&[rpm(5)]);
    world.project(2, &["b"]).link.proven = true;
    world.bucket(2, 2, &[rpm(5)]);
    let setup = BatchSetup { routes: vec![to(1, 1), to(2, 2)], ..batch(1, 1) };
    world.open(setup, 100);
    world.run_for(3 * MINUTE_MS - 1_000);
    let through = |bucket| world.sent.iter().filter(|it| it.bucket == BucketId(bucket)).count();
    assert_eq!((through(1), through(2)), (15, 15));
    let models: Vec<_> = world.attempts.values().map(|it| it.new.model.as_str()).collect();
    assert_eq!(models.iter().filter(|model| **model == "model-2").count(), 15);
    assert_eq!(world.densest(1, MINUTE_MS, |weights| weights.requests), 5);
    assert_eq!(world.densest(2, MINUTE_MS, |weights| weights.requests), 5);
}

#[test]
fn a_pool_goes_on_where_one_project_is_out_of_its_day() {
    let mut world = world(&[rpm(5), rpd(7)]);
    world.project(2, &["b"]).link.proven = true;
    world.bucket(2, 2, &[rpm(5)]);
    world.open(BatchSetup { routes: vec![to(1, 1), to(2, 2)], ..batch(1, 1) }, 60);
    world.open(batch(2, 1), 5);
    world.run_for(12 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    let through = |bucket| world.sent.iter().filter(|it| it.bucket == BucketId(bucket)).count();
    assert_eq!(through(1), 7);
    assert!(through(2) >= 53, "{}", through(2));
}

#[test]
fn a_fallback_is_taken_when_the_first_choice_is_far_and_not_before() {
    let mut world = world(&[rpm(2), rpd(4)]);
    world.bucket(2, 1, &[rpm(10)]);
    let fallback = RouteTo { fallback: true, ..to(1, 2) };
    world.open(BatchSetup { routes: vec![to(1, 1), fallback], ..batch(1, 1) }, 6);
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 2, "a minute is no reason");
    world.run_for(2 * MINUTE_MS);
    let buckets: Vec<_> = world.sent.iter().map(|sent| sent.bucket.0).collect();
    assert_eq!(buckets, [1, 1, 1, 1, 2, 2], "then its day is used up");
}

#[test]
fn a_paused_batch_starts_nothing_until_it_is_resumed() {
    let mut world = world(&[rpm(2)]);
    world.open(batch(1, 1), 6);
    world.run_for(1_000);
    let pause = |reason: Option<&str>| Event::PauseBatch {
        batch: BatchId(1),
        reason: reason.map(str::to_owned),
    };
    world.tell(pause(Some("held by its user")));
    world.open(batch(2, 1), 2);
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.lines(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let (_, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why, "held by its user");
    world.tell(pause(None));
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}

#[test]
fn a_batch_does_not_grow_old_while_it_is_held() {
    for blocked in [false, true] {
        let mut world = world(&[rpm(1)]);
        let pause = |reason: Option<&str>| Event::PauseBatch {
            batch: BatchId(1),
            reason: reason.map(str::to_owned),
        };
        world.open(BatchSetup { priority: 2, ..batch(1, 1) }, 3);
        world.open(BatchSetup { priority: 0, ..batch(2, 1) }, 200);
        if blocked {
            world.tell(Event::Pauses(vec![("*".to_owned(), "*".to_owned())]));
        }
        world.run_for(MINUTE_MS);
        world.tell(pause(Some("held by its user")));
        world.run_for(40 * MINUTE_MS);
        world.tell(Event::Reprioritise { batch: BatchId(1), priority: 2, deadline: None });
        world.run_for(40 * MINUTE_MS);
        world.tell(Event::Pauses(Vec::new()));
        world.tell(pause(None));
        world.run_for(3 * MINUTE_MS);
        assert_eq!(sent(&world, 1), 0, "its turn comes when an hour has passed");
        world.run_for(60 * MINUTE_MS);
        assert!(sent(&world, 1) > 0);
    }
}

#[test]
fn what_is_held_by_hand_starts_nothing() {
    let mut world = world(&[]);
    world.bucket(2, 1, &[]);
    let hold =
        |project: &str, group: &str| Event::Pauses(vec![(project.to_owned(), group.to_owned())]);
    world.tell(hold("project-1", "group-1"));
    world.open(batch(1, 1), 2);
    world.open(batch(2, 2), 2);
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(2)]);
    let (_, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(why, "group-1 is paused by hand: `tidegate resume project-1 group-1`");
    world.tell(hold("project-1", "*"));
    world.run_for(MINUTE_MS);
    world.tell(hold("*", "*"));
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 2);
    world.tell(Event::Pauses(Vec::new()));
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(2), BatchId(1)]);
}

#[test]
fn a_batch_can_be_put_first() {
    let mut world = world(&[rpm(1)]);
    world.open(batch(1, 1), 3);
    world.open(batch(2, 1), 1);
    world.run_for(1_000);
    world.tell(Event::Reprioritise { batch: BatchId(2), priority: 0, deadline: None });
    world.run_for(MINUTE_MS + 5_000);
    assert_eq!(world.lines(), [(1, 1), (2, 1)]);
}

#[test]
fn failed_items_of_an_open_batch_go_again() {
    let mut world = world(&[rpm(4)]);
    world.provider =
        Box::new(
            |order, _| {
                if order.item.id % 2 == 0 { answers::bad_request() } else { answers::ok() }
            },
        );
    world.open(batch(1, 1), 12);
    world.run_for(MINUTE_MS + 5_000);
    assert_eq!(world.count(1, ItemState::Failed), 4);
    world.provider = Box::new(|_, _| answers::ok());
    let (done, mut told) = oneshot::channel();
    world.tell(Event::RetryFailed { batch: BatchId(1), done });
    world.run_for(6 * MINUTE_MS);
    assert_eq!(told.try_recv().expect("an answer"), Ok(4));
    assert_eq!(world.count(1, ItemState::Succeeded), 12);
    assert_eq!(world.closed, [BatchId(1)]);
    let (done, mut told) = oneshot::channel();
    world.tell(Event::RetryFailed { batch: BatchId(1), done });
    world.run_for(1_000);
    told.try_recv().expect("an answer").expect_err("it is over");
}

/// Who may be what cuts connections off goes when nothing else of its batch is left, and by itself.
#[test]
fn an_item_that_is_cut_off_three_times_goes_last_and_alone_and_is_failed_at_eight() {
    let mut world = world(&[rpm(1_000)]);
    let poison = BatchId(1).item(1);
    let other = BatchId(1).item(2);
    world.provider = Box::new(move |order, _| {
        let cuts = order.item.id == poison || order.item.id == other;
        if cuts { answers::cut_off() } else { answers::ok().after(2_000) }
    });
    world.engine.projects.get_mut(&1).expect("project 1").pace.max_in_flight = 3;
    world.open(batch(1, 1), 120);
    world.run_for(60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(world.count(1, ItemState::Failed), 2);
    let of = |line| move |sent: &&super::world::Sent| sent.line == line;
    for line in [1, 2] {
        let times: Vec<_> = world.sent.iter().filter(of(line)).map(|sent| sent.at).collect();
        assert_eq!(times.len(), 8);
        let last_other = world
            .sent
            .iter()
            .filter(|sent| sent.line > 2)
            .map(|sent| sent.at)
            .max()
            .expect("others");
        assert!(times[3] > last_other, "the fourth goes when all others have gone");
    }
}

#[test]
fn a_batch_stops_before_it_costs_more_than_it_may() {
    let mut world = world(&[]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    let model = "gemini-2.0-flash".to_owned();
    let mut setup = BatchSetup { model, max_cost_nanos: Some(5_000_000), ..batch(1, 1) };
    setup.routes[0].model = setup.model.clone();
    world.open_weighing(setup, &[10_000; 20]);
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    let done = world.count(1, ItemState::Succeeded);
    let spent: u64 = world.attempts.values().filter_map(|it| it.act).map(|it| it.spend_nanos).sum();
    assert!(spent <= 5_000_000, "{spent}");
    assert!((2..20).contains(&done), "{done}");
    assert_eq!(world.count(1, ItemState::Failed), 20 - done);
    assert_eq!(world.sweeps, [(BatchId(1), false)]);
}

/// Where one route costs too much, another is taken.
#[test]
fn a_dear_route_is_no_reason_to_stop_a_batch() {
    for fallback in [false, true] {
        let mut world = world(&[]);
        world.bucket(2, 1, &[]);
        world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
        let dear = RouteTo { model: "gemini-2.5-pro".to_owned(), ..to(1, 1) };
        let cheap = RouteTo { model: "gemini-2.0-flash".to_owned(), fallback, ..to(1, 2) };
        let routes = vec![dear, cheap];
        let setup = BatchSetup { routes, max_cost_nanos: Some(5_000_000), ..batch(1, 1) };
        world.open_weighing(setup, &[10_000; 20]);
        world.run_for(MINUTE_MS);
        assert_eq!(world.closed, [BatchId(1)]);
        let done = world.count(1, ItemState::Succeeded);
        assert!((2..20).contains(&done), "{done}");
        assert!(world.sent.iter().all(|it| it.bucket == BucketId(2)));
        assert_eq!(world.sweeps, [(BatchId(1), false)], "in the end it costs too much anywhere");
    }
}

/// What might go past the next item is not the next.
#[test]
fn a_dear_item_behind_the_next_does_not_stop_a_batch() {
    let mut world = world(&[tpm(1_000)]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    let model = "gemini-2.0-flash".to_owned();
    let setup = BatchSetup { model, max_cost_nanos: Some(5_000_000), ..batch(1, 1) };
    world.open_weighing(setup, &[900, 900, 50]);
    let last = world.items.get_mut(&BatchId(1).item(3)).expect("the last");
    last.queued.output_tokens_max = Some(1_000_000);
    world.run_for(30_000);
    assert_eq!(world.lines(), [(1, 1)], "the next one waits for room");
    assert_eq!(world.sweeps, []);
    world.run_for(MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
    assert_eq!(world.sweeps, [(BatchId(1), false)]);
}

/// A pool whose first project is held by hand, and a batch whose first items are bound to it.
fn bound(items: u32, free: u32) -> World {
    let mut world = world(&[]);
    world.project(2, &["b"]).link.proven = true;
    world.bucket(2, 2, &[]);
    world.tell(Event::Pauses(vec![("project-1".to_owned(), "*".to_owned())]));
    world.open(BatchSetup { routes: vec![to(1, 1), to(2, 2)], ..batch(1, 1) }, items + free);
    // It names a file of the project.
    let text = Some(TextWeight { text_bytes: 4, media_tokens: 0, kind: 16 });
    for number in 1..=items {
        let item = world.items.get_mut(&BatchId(1).item(number)).expect("an item");
        item.queued.text = text;
    }
    world.run_for(MINUTE_MS);
    world
}

#[test]
fn what_is_bound_to_a_project_that_is_shut_keeps_nothing_from_going_elsewhere() {
    let mut world = bound(1_100, 200);
    assert_eq!(world.sent.len(), 200);
    assert!(world.sent.iter().all(|sent| sent.bucket == BucketId(2) && sent.line > 1_100));
    world.tell(Event::Pauses(Vec::new()));
    world.run_for(MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn no_more_than_so_many_bound_items_are_held() {
    let most = u32::try_from(caps::READY_MAX).expect("small");
    let world = bound(most + 1_000, 1);
    let held = world.engine.jobs[&BatchId(1)].ready.len();
    assert_eq!(held, caps::READY_FIRST + caps::READY_MAX, "no page is read at so many");
    assert_eq!(world.loads.len(), 1 + caps::READY_MAX / caps::READY_PAGE);
}

/// A batch that waited before a restart has not waited for nothing.
#[test]
fn a_restart_does_not_make_a_batch_young() {
    let mut world = world(&[rpm(1)]);
    world.run_for(70 * MINUTE_MS);
    let before = world.now.wall.minus(61 * MINUTE_MS);
    world.open(BatchSetup { priority: 2, submitted_at: before, ..batch(1, 1) }, 2);
    world.open(
        BatchSetup { priority: 0, deadline: Some(unix("2026-11-24T08:00:00Z")), ..batch(2, 1) },
        3,
    );
    world.run_for(3 * MINUTE_MS);
    let order: Vec<_> = world.sent.iter().map(|sent| sent.batch).collect();
    assert_eq!(order, [1, 2, 2], "one of it, and then it is served and in its class again");
}

/// What the provider refuses it does not bill.
#[test]
fn refusals_cost_a_batch_nothing() {
    let mut world = world(&[]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    let mut refusals = 5;
    world.provider = Box::new(move |order, _| {
        refusals -= i32::from(refusals > 0);
        if refusals > 0 { overloaded() } else { exactly(order) }
    });
    let model = "gemini-2.0-flash".to_owned();
    let setup = BatchSetup { model, max_cost_nanos: Some(5_000_000), ..batch(1, 1) };
    world.open_weighing(setup, &[10_000; 2]);
    world.run_for(20 * MINUTE_MS);
    assert_eq!(world.count(1, ItemState::Succeeded), 2);
    let spent = world.attempts.values().filter_map(|it| it.act).map(|it| it.spend_nanos);
    assert_eq!(spent.filter(|nanos| *nanos > 0).count(), 2);
}

#[test]
fn a_batch_that_is_spread_takes_the_time_that_it_has() {
    let mut world = world(&[rpm(100)]);
    let deadline = Some(world.now.wall.plus(60 * MINUTE_MS));
    world.open(BatchSetup { spread: true, deadline, ..batch(1, 1) }, 30);
    world.run_for(30 * MINUTE_MS);
    assert!((14..=18).contains(&world.sent.len()), "{} in half of the time", world.sent.len());
    world.run_for(30 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// A million items that wait for another day keep nobody else from going.
#[test]
fn a_bucket_out_of_its_day_delays_no_other() {
    let run = |with: bool| {
        let mut world = world(&[rpm(100), rpd(1)]);
        world.bucket(2, 1, &[tpm(1_000)]);
        if with {
            world.open(batch(1, 1), 3_000);
            world.run_for(1_000);
        } else {
            world.run_for(1_000);
        }
        world.open_weighing(batch(2, 2), &[400, 300, 200, 500]);
        world.run_for(5 * MINUTE_MS);
        let of_two = world.sent.iter().filter(|sent| sent.batch == 2);
        of_two.map(|sent| (sent.line, sent.at)).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn an_outage_ends_with_one_request_first() {
    let mut world = world(&[]);
    let up = world.now.wall.plus(10 * MINUTE_MS);
    world.provider =
        Box::new(move |_, now| if now.wall < up { overloaded() } else { answers::ok() });
    world.open(batch(1, 1), 50);
    world.run_for(10 * MINUTE_MS);
    let during = world.sent.len();
    world.run_for(11 * MINUTE_MS);
    let after: Vec<_> = world.sent[during..].iter().map(|sent| sent.at).collect();
    assert!(after[1] >= after[0] + 200, "one, and its answer, and then the rest: {after:?}");
    world.run_for(60 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}
