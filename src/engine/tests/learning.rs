//! What 429s teach, and that it is kept.

use super::answers;
use super::throttles::at_first;
use super::world::{World, batch, rpm};
use crate::engine::state::{Crowd, Effect, Event};
use crate::gate::admit::BucketId;
use crate::gate::limits::{MINUTE_MS, Source};
use crate::store::{AttemptEnd, BatchId};
use crate::upstream::ThrottleKind;

const ONE: BucketId = BucketId(1);
const TWO: BucketId = BucketId(2);

fn world() -> World {
    let mut world = World::new();
    world.proven();
    world
}

#[test]
fn a_value_lowers_a_limit_and_is_noted_once() {
    let mut world = world();
    world.bucket(1, 1, &[rpm(100)]);
    world.provider = at_first(5, || answers::minute_used_up(None, Some(10)));
    world.open(batch(1, 1), 40);
    world.run_for(2_000);
    assert_eq!(world.sent.len(), 40, "all had left before the first answer");
    let limit = world.engine.gate.state(ONE, world.now)[0].limit.clone();
    assert_eq!((limit.value, limit.source), (10, Source::Learned));
    assert_eq!(world.memos.len(), 5);
    let events: Vec<_> = world.memos.iter().flat_map(|memo| &memo.events).collect();
    let [event] = events[..] else { panic!("{events:?}") };
    assert_eq!((event.dimension.as_str(), event.source.as_str()), ("rpm", "learned"));
    assert_eq!((event.was.as_deref(), event.became.as_deref()), (Some("100"), Some("10")));
    assert_eq!((event.quota_group.as_str(), event.project_id), ("group-1", 1));
    assert_eq!(event.reason, "GenerateRequestsPerMinute");
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert!(world.sent[40..].iter().all(|sent| sent.at > world.sent[0].at + MINUTE_MS));
}

/// An older lesson that is written late would undo a newer one.
#[test]
fn lessons_are_written_one_after_the_other() {
    let mut world = world();
    world.bucket(1, 1, &[rpm(100)]);
    let (engine, now) = (&mut world.engine, world.now);
    engine.memorise(ONE, now, Vec::new());
    engine.memorise(ONE, now, Vec::new());
    let kept = |effects: Vec<Effect>| {
        effects.iter().filter(|effect| matches!(effect, Effect::Remember(_))).count()
    };
    assert_eq!(kept(engine.step(now, [Event::Tick])), 1);
    assert_eq!((kept(engine.step(now, [Event::Tick])), engine.unsettled()), (0, 2));
    assert_eq!((kept(engine.step(now, [Event::Kept])), engine.unsettled()), (1, 1));
    assert_eq!((kept(engine.step(now, [Event::Kept])), engine.unsettled()), (0, 0));
}

/// Two models that the provider calls by one name, each with a batch of 40.
fn merged() -> World {
    let mut world = world();
    world.bucket(1, 1, &[rpm(30)]);
    world.bucket(2, 1, &[rpm(30)]);
    let mut refusals = 3;
    world.provider = Box::new(move |order, _| {
        if refusals == 0 || BatchId::of_item(order.item.id) != BatchId(2) {
            return answers::ok();
        }
        refusals -= 1;
        answers::minute_used_up(Some("group-1"), None)
    });
    world.open(batch(1, 1), 40);
    world.open(batch(2, 2), 40);
    world.run_for(5_000);
    world
}

#[test]
fn two_names_of_one_quota_are_one_and_both_go_on() {
    let mut world = merged();
    assert_eq!(world.engine.gate.root(TWO), ONE);
    let joined: Vec<_> = world.memos.iter().filter(|memo| memo.counts_in.is_some()).collect();
    let [memo] = joined[..] else { panic!("{joined:?}") };
    assert_eq!((memo.bucket, memo.counts_in), (TWO, Some(ONE)));
    assert!(world.memos.iter().skip(1).all(|memo| memo.bucket == ONE), "{:?}", world.memos);
    let views = world.engine.buckets(world.now);
    assert_eq!(views.len(), 2);
    assert_eq!(views[0].limits, views[1].limits);
    assert!(views[0].limits[0].used >= 30);
    for batch in [1, 2] {
        let (at, why) = world.engine.why(BatchId(batch), world.now).expect("it waits");
        assert!(at > world.now.wall && !why.is_empty());
    }
    let from = world.sent.len();
    world.run_for(10 * MINUTE_MS);
    assert_eq!(world.closed.len(), 2);
    assert_eq!(world.engine.unsettled(), 0);
    let later = &world.sent[from..];
    for (first, sent) in later.iter().enumerate() {
        let window = later[first..].iter().filter(|next| next.at < sent.at + MINUTE_MS);
        assert!(window.count() <= 30, "after {}", sent.at);
    }
}

/// What is learned after two became one is of the one: under another name it would be lost with the
/// next start.
#[test]
fn what_a_merged_bucket_learns_is_kept_of_the_root() {
    let mut world = merged();
    world.memos.clear();
    world.provider = at_first(1, || answers::minute_used_up(Some("group-1"), Some(7)));
    world.cancel(1);
    world.run_for(3 * MINUTE_MS);
    let noted: Vec<_> = world.memos.iter().filter(|memo| !memo.events.is_empty()).collect();
    let [memo] = noted[..] else { panic!("{noted:?}") };
    assert_eq!((memo.bucket, memo.counts_in), (ONE, None));
    assert_eq!(memo.events[0].quota_group, "group-1");
    assert_eq!(world.engine.gate.state(TWO, world.now)[0].limit.value, 7);
}

/// The refusal that shows that two are one also says what the one may: that is not lost.
#[test]
fn the_refusal_that_merges_also_teaches() {
    let mut world = world();
    world.bucket(1, 1, &[rpm(30)]);
    world.bucket(2, 1, &[rpm(30)]);
    world.provider = at_first(1, || answers::minute_used_up(Some("group-1"), Some(5)));
    world.open(batch(2, 2), 1);
    world.run_for(1_000);
    assert_eq!(world.engine.gate.root(TWO), ONE);
    assert_eq!(world.engine.gate.state(ONE, world.now)[0].limit.value, 5);
}

/// One that counts in another turns out to be a third: all three are one, also after a start, which
/// knows only what was kept.
#[test]
fn a_chain_of_names_is_kept_by_its_roots() {
    let mut world = merged();
    world.bucket(3, 1, &[rpm(30)]);
    world.run_for(10 * MINUTE_MS);
    world.provider = at_first(1, || answers::minute_used_up(Some("group-3"), None));
    world.open(batch(4, 2), 1);
    world.run_for(1_000);
    let roots = [1, 2, 3].map(|id| world.engine.gate.root(BucketId(id)));
    assert_eq!(roots, [BucketId(3); 3]);
    let joined = world.memos.iter().filter_map(|memo| Some((memo.bucket, memo.counts_in?)));
    assert_eq!(joined.collect::<Vec<_>>(), [(TWO, ONE), (ONE, BucketId(3))]);
}

#[test]
fn a_burst_without_a_reason_is_one_refusal() {
    let mut world = world();
    world.project(1, &["a"]).pace.max_in_flight = 10;
    world.proven();
    world.bucket(1, 1, &[]);
    let mut number = 0;
    world.provider = Box::new(move |_, _| {
        number += 1;
        match number {
            1..=10 => answers::throttled(ThrottleKind::Unexplained, None).after(100 * number),
            _ => answers::ok(),
        }
    });
    world.open(batch(1, 1), 400);
    world.run_for(150);
    let lane = &world.engine.lanes[&ONE];
    assert!(matches!(lane.crowd, Some(Crowd { at_once: 6, .. })), "{:?}", lane.crowd);
    let ended = |world: &World| {
        world.attempts.values().filter(|a| a.end == Some(AttemptEnd::Throttled)).count()
    };
    let mut most = 0;
    while ended(&world) < 10 {
        world.run_for(10);
        most = most.max(world.engine.lanes[&ONE].unexplained);
        let crowd = world.engine.lanes[&ONE].crowd.as_ref().expect("there is one");
        assert!(crowd.at_once >= 6, "{crowd:?} after {} refusals", ended(&world));
    }
    assert_eq!(most, 1);
    world.run_for(10 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    assert!(world.engine.lanes[&ONE].crowd.is_none(), "it has grown back");
}
