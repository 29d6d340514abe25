//! What requests are taken to weigh: by bytes, by what was learned, by the provider's own count.

use super::answers;
use super::world::{World, batch, rpm, tpm};
use crate::engine::state::BatchSetup;
use crate::gate::admit::BucketId;
use crate::gate::limits::{Limit, MINUTE_MS, SPEND_WINDOW_MS, Window};
use crate::gate::units::{Metric, ProjectId};
use crate::store::{BatchId, ItemState, TextWeight};

/// Text in ASCII; with a file or a cache, whose tokens no byte tells.
const ASCII: i64 = 0;
const UNMEASURED: i64 = 16;

/// A batch of texts in bucket 1, which begin to be read with the next step.
fn texts(world: &mut World, setup: BatchSetup, kind: i64, sizes: &[u64]) {
    let id = setup.id;
    let guesses: Vec<u64> = sizes.iter().map(|bytes| bytes / 2).collect();
    world.open_weighing(setup, &guesses);
    for (number, &text_bytes) in (1..).zip(sizes) {
        let item = world.items.get_mut(&id.item(number)).expect("just opened");
        item.queued.text = Some(TextWeight { text_bytes, media_tokens: 0, kind });
    }
}

fn world(limits: &[Limit]) -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, limits);
    world
}

/// What was reserved for the items of a batch, in the order of their reservation.
fn reserved(world: &World, batch: i64) -> Vec<u64> {
    let of_batch = world
        .attempts
        .values()
        .filter(|attempt| attempt.new.item_id.map(BatchId::of_item) == Some(BatchId(batch)));
    of_batch.map(|attempt| attempt.new.est.input_tokens).collect()
}

/// How often the provider was asked to count.
fn counts(world: &World) -> usize {
    world.log.iter().filter(|line| line.contains(" Count(")).count()
}

#[test]
fn a_hundred_answers_make_an_estimate() {
    let mut world = world(&[tpm(1_000_000)]);
    world.provider = Box::new(|_, _| answers::ok().using(250));
    texts(&mut world, batch(1, 1), ASCII, &[1_000; 99]);
    world.run_for(5_000);
    texts(&mut world, batch(2, 1), ASCII, &[1_000]);
    world.run_for(5_000);
    texts(&mut world, batch(3, 1), ASCII, &[1_000, 4_000, 20]);
    world.run_for(5_000);
    assert_eq!(reserved(&world, 1), [500; 99]);
    assert_eq!(reserved(&world, 2), [500]);
    // What was learned does not hold for short ones.
    assert_eq!(reserved(&world, 3), [250, 1_000, 10]);
}

#[test]
fn what_may_fit_takes_the_whole_limit_and_what_cannot_is_refused() {
    let mut world = world(&[tpm(300)]);
    world.provider = Box::new(|_, _| answers::ok().using(200));
    texts(&mut world, batch(1, 1), ASCII, &[1_000, 2_000, 2_040, 100]);
    world.run_for(MINUTE_MS * 4);
    assert_eq!(reserved(&world, 1), [300, 300, 50]);
    let [(item, reason)] = &world.refusals[..] else { panic!("{:?}", world.refusals) };
    assert_eq!(*item, BatchId(1).item(3));
    assert_eq!(reason, "needs 1020 of tpm, and the limit is 300 (config): it can never be sent");
    assert_eq!(world.count(1, ItemState::Succeeded), 3);
    assert!(world.sent[1].at >= world.sent[0].at + MINUTE_MS, "each goes alone");
}

#[test]
fn what_no_byte_tells_is_counted_once_and_ahead() {
    let mut world = world(&[tpm(1_000), rpm(2)]);
    world.provider = Box::new(|_, _| answers::ok().using(20));
    texts(&mut world, batch(1, 1), UNMEASURED, &[100; 20]);
    for number in (1..=20).filter(|number| number % 5 != 0) {
        world.counts.insert(BatchId(1).item(number), 77);
    }
    world.run_for(1_000);
    assert_eq!(world.sent.len(), 2);
    assert!((17..=18).contains(&counts(&world)), "{} counts", counts(&world));
    world.run_for(12 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert_eq!(counts(&world), 20);
    let expected: Vec<u64> = (1..=20).map(|n| if n % 5 == 0 { 50 } else { 77 }).collect();
    assert_eq!(reserved(&world, 1), expected);
}

/// What the provider itself counted above the limit is not sent to be refused.
#[test]
fn a_count_above_the_limit_is_refused() {
    let mut world = world(&[tpm(1_000)]);
    texts(&mut world, batch(1, 1), UNMEASURED, &[100, 100]);
    world.counts.insert(BatchId(1).item(1), 1_001);
    world.counts.insert(BatchId(1).item(2), 1_000);
    world.run_for(1_000);
    let refused: Vec<i64> = world.refusals.iter().map(|(item, _)| *item).collect();
    assert_eq!(refused, [BatchId(1).item(1)]);
    assert_eq!(reserved(&world, 1), [1_000]);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn strict_counts_what_is_large() {
    let mut world = world(&[tpm(1_000)]);
    world.engine.projects.get_mut(&1).expect("project 1").strict_estimates = true;
    texts(&mut world, batch(1, 1), ASCII, &[400, 402]);
    world.counts.insert(BatchId(1).item(2), 99);
    world.run_for(1_000);
    assert_eq!(counts(&world), 1);
    assert_eq!(reserved(&world, 1), [200, 99]);
}

#[test]
fn without_a_limit_on_tokens_nothing_is_counted() {
    let mut world = world(&[rpm(10)]);
    world.engine.projects.get_mut(&1).expect("project 1").strict_estimates = true;
    texts(&mut world, batch(1, 1), UNMEASURED, &[400, 100_000]);
    world.run_for(1_000);
    assert_eq!((counts(&world), world.closed.len()), (0, 1));
}

/// A batch for a model that has a price: 0.30 and 2.50 dollars for a million tokens.
fn priced(id: i64, bucket: i64) -> BatchSetup {
    BatchSetup { model: "gemini-2.5-flash".to_owned(), ..batch(id, bucket) }
}

fn bound_outputs(world: &mut World) {
    for item in world.items.values_mut() {
        item.queued.output_tokens_max = Some(100);
    }
}

/// What the database cannot hold would keep every reservation from being written.
#[test]
fn a_made_up_bound_of_the_output_fits_the_database() {
    let mut world = world(&[rpm(100)]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    world.open_weighing(priced(1, 1), &[1_000]);
    for item in world.items.values_mut() {
        item.queued.output_tokens_max = Some(u64::MAX);
    }
    world.run_for(1_000);
    assert_eq!(world.closed.len(), 1);
    let reserved: Vec<_> = world.attempts.values().map(|it| it.new.est.spend_nanos).collect();
    assert!(reserved.iter().all(|spend| i64::try_from(*spend).is_ok()), "{reserved:?}");
    assert!(reserved[0] > 0);
}

#[test]
fn what_answers_take_beyond_their_estimates_is_told() {
    let mut world = world(&[tpm(100_000)]);
    world.provider = Box::new(|_, _| answers::ok().using(151));
    world.open_weighing(batch(1, 1), &[100, 100]);
    world.run_for(2_000);
    assert_eq!(world.engine.buckets(world.now)[0].overrun_tokens, 102);
}

#[test]
fn money_is_reserved_and_settled_by_what_it_came_to() {
    let mut world = world(&[rpm(100)]);
    world.open_weighing(priced(1, 1), &[1_000]);
    bound_outputs(&mut world);
    world.open_weighing(priced(2, 1), &[1_000]);
    world.open_weighing(batch(3, 1), &[1_000]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    world.run_for(1_000);
    let spend = |est: fn(&super::world::Attempt) -> Option<u64>| {
        world.attempts.values().map(|attempt| est(attempt).expect("it ended")).collect::<Vec<_>>()
    };
    let est = spend(|attempt| Some(attempt.new.est.spend_nanos));
    assert_eq!(est, [550_000, 300_000 + 2_048 * 2_500, 0]);
    // One token in, two out, three thought.
    let act = spend(|attempt| Some(attempt.act?.spend_nanos));
    assert_eq!(act, [12_800, 12_800, 0]);
}

#[test]
fn nothing_is_spent_on_the_free_tier() {
    let mut world = world(&[rpm(100)]);
    world.open_weighing(priced(1, 1), &[1_000]);
    world.run_for(1_000);
    assert_eq!(world.attempts.values().map(|a| a.new.est.spend_nanos).sum::<u64>(), 0);
}

#[test]
fn what_all_models_may_spend_holds_each() {
    let mut world = world(&[rpm(100)]);
    world.bucket(2, 1, &[rpm(100)]);
    world.engine.projects.get_mut(&1).expect("project 1").tier = "tier1".to_owned();
    let window = Window::Rolling { ms: SPEND_WINDOW_MS };
    let spend = Limit { metric: Metric::Spend, window, value: 1_200_000, ..rpm(1) };
    let day = world.engine.projects[&1].day.clone();
    world.engine.gate.share(ProjectId(1), vec![spend], day, world.now);
    world.open_weighing(priced(1, 1), &[1_000; 2]);
    world.open_weighing(priced(2, 2), &[1_000; 2]);
    bound_outputs(&mut world);
    world.run_for(100);
    assert_eq!(world.lines(), [(1, 1), (1, 2)]);
    let (_, why) = world.engine.why(BatchId(2), world.now).expect("it waits");
    assert_eq!(why, "spend: needs 550000, 100000 of 1200000 free");
    world.run_for(5_000);
    assert_eq!(world.closed.len(), 2);
    let states = world.engine.gate.state(BucketId(2), world.now);
    let shared = states.iter().find(|state| state.shared).expect("a shared limit");
    assert_eq!((shared.used, shared.reserved), (4 * 12_800, 0));
    let sum: u64 = world.attempts.values().filter_map(|a| a.act).map(|a| a.spend_nanos).sum();
    assert_eq!(sum, shared.used);
}
