//! Limits that change while requests are under way.

use tokio::sync::oneshot;

use super::answers;
use super::throttles::at_first;
use super::world::{World, batch, rpd, rpm};
use crate::caps;
use crate::engine::start::Pace;
use crate::engine::state::{Event, NewLimits, Question, Rule};
use crate::gate::admit::BucketId;
use crate::gate::limits::{Limit, MINUTE_MS, Scope, Source};
use crate::gate::reserve::Reserve;
use crate::gate::units::Weights;
use crate::gate::verdict::Verdict;
use crate::store::{BatchId, ItemState};

const ONE: BucketId = BucketId(1);

/// New limits of buckets of project 1.
pub(super) fn changed(rules: impl IntoIterator<Item = (i64, Rule)>) -> Event {
    let group = |(id, rule)| (BucketId(id), format!("group-{id}"), rule);
    Event::Limits(Box::new(NewLimits {
        tier: "free".to_owned(),
        reserve: Reserve::Auto,
        project: 1,
        pace: Pace { max_in_flight: 1_000, starts_per_second: caps::STARTS_PER_SECOND },
        shared: Vec::new(),
        buckets: rules.into_iter().map(group).collect(),
        forget: None,
        done: oneshot::channel().0,
    }))
}

pub(super) fn to(limits: &[Limit]) -> Rule {
    Rule::Limited(limits.to_vec())
}

fn off() -> Rule {
    Rule::Off("it is off (set)".to_owned())
}

fn two_a_minute() -> World {
    let mut world = World::new();
    world.proven();
    world.bucket(1, 1, &[rpm(2)]);
    world.provider = Box::new(|_, _| answers::ok().after(10_000));
    world.open(batch(1, 1), 30);
    world.run_for(1_000);
    assert_eq!(world.sent.len(), 2);
    world
}

/// What a project pays by changes with its tier.
#[test]
fn another_tier_is_taken_up() {
    let mut world = World::new();
    world.bucket(1, 1, &[rpm(5)]);
    let Event::Limits(new) = changed([(1, to(&[rpm(5)]))]) else { panic!("limits") };
    let reserve = Reserve::Fixed { permille: 200 };
    let new = NewLimits { tier: "tier2".to_owned(), reserve, ..*new };
    world.engine.step(world.now, [Event::Limits(Box::new(new))]);
    assert_eq!(world.engine.projects[&1].tier, "tier2");
    let state = world.engine.gate.state(ONE, world.now);
    assert_eq!(state[0].reserve, 1);
}

#[test]
fn raised_goes_at_once_and_lowered_revokes_nothing() {
    let mut world = two_a_minute();
    world.tell(changed([(1, to(&[rpm(5)]))]));
    world.run_for(100);
    assert_eq!(world.sent.len(), 5);
    world.tell(changed([(1, to(&[rpm(1)]))]));
    world.run_for(20_000);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Succeeded)), (5, 5));
    let state = world.engine.gate.state(ONE, world.now).remove(0);
    assert_eq!((state.limit.value, state.used, state.free), (1, 5, 0));
    world.run_for(3 * MINUTE_MS);
    let later: Vec<u64> = world.sent[5..].iter().map(|sent| sent.at).collect();
    assert!(later.windows(2).all(|two| two[1] - two[0] > MINUTE_MS), "{later:?}");
    assert!((2..=3).contains(&later.len()), "{later:?}");
}

#[test]
fn off_holds_with_its_reason_and_on_goes_on() {
    let mut world = two_a_minute();
    world.tell(changed([(1, off())]));
    world.run_for(3 * MINUTE_MS);
    assert_eq!((world.sent.len(), world.count(1, ItemState::Succeeded)), (2, 2));
    assert_eq!(world.engine.why(BatchId(1), world.now).expect("it waits").1, "it is off (set)");
    let view = world.engine.buckets(world.now).remove(0);
    assert_eq!(view.wait.expect("it waits").1, "it is off (set)");
    let question = Question { bucket: ONE, need: Weights { requests: 1, ..Weights::default() } };
    let told = world.engine.explain(&question, world.now).expect("a bucket");
    assert_eq!(told.hindrance.expect("it is off").1, "it is off (set)");
    world.tell(changed([(1, to(&[rpm(3)]))]));
    world.run_for(100);
    assert_eq!(world.sent.len(), 5);
}

/// A longer window than a minute is not forgotten by turning off and on.
#[test]
fn off_and_on_again_forgets_nothing() {
    let mut world = two_a_minute();
    world.tell(changed([(1, to(&[long(4)]))]));
    world.run_for(100);
    assert_eq!(world.sent.len(), 4);
    world.run_for(2 * MINUTE_MS);
    world.tell(changed([(1, off())]));
    world.run_for(MINUTE_MS);
    world.tell(changed([(1, to(&[long(4)]))]));
    world.run_for(MINUTE_MS);
    assert_eq!(world.sent.len(), 4);
    world.run_for(7 * MINUTE_MS);
    assert_eq!(world.sent.len(), 8);
}

/// So many requests in ten minutes.
fn long(value: u64) -> Limit {
    let window = crate::gate::limits::Window::Rolling { ms: 10 * MINUTE_MS };
    Limit { window, ..rpm(value) }
}

#[test]
fn a_bucket_that_nobody_had_adopts_what_waits_for_it() {
    let mut world = World::new();
    world.proven();
    world.open(batch(1, 7), 3);
    world.cancel(2);
    world.run_for(MINUTE_MS);
    let why = world.engine.why(BatchId(1), world.now).expect("it waits").1;
    assert_eq!(why, "the configuration has no project and model for it any more");
    world.tell(changed([(7, to(&[rpm(2)]))]));
    world.run_for(1_000);
    assert_eq!(world.sent.len(), 2);
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

/// What was set of a model that nobody knows is taken back: its limits are found out again.
#[test]
fn what_nobody_says_anything_of_any_more_is_learned() {
    for before in [to(&[rpm(2)]), off()] {
        let mut world = two_a_minute();
        world.tell(changed([(1, before)]));
        world.run_for(1_000);
        world.tell(changed([(1, Rule::Learn)]));
        world.run_for(10 * MINUTE_MS);
        assert_eq!(world.closed, [BatchId(1)]);
        assert!(world.engine.lanes[&ONE].learning);
        assert_eq!(world.engine.gate.state(ONE, world.now), []);
        // Few at first: those under way have to be answered before.
        assert!(world.sent[2].at >= world.sent[0].at + 10_000, "{:?}", &world.sent[..3]);
        assert!(world.sent[6].at >= world.sent[2].at + 10_000, "{:?}", &world.sent[..7]);
    }
}

/// Of two models that are one quota the second is turned off, or gets other limits: the limits of
/// the one quota stay those of the first.
#[test]
fn a_change_of_a_merged_bucket_leaves_the_quota_its_limits() {
    for rule in [off(), to(&[rpm(1_000)]), Rule::Learn] {
        let mut world = World::new();
        world.proven();
        world.bucket(1, 1, &[rpm(5)]);
        world.bucket(2, 1, &[rpm(5)]);
        world.provider = at_first(1, || answers::minute_used_up(Some("group-1"), None));
        world.open(batch(2, 2), 1);
        world.run_for(5 * MINUTE_MS);
        assert_eq!(world.engine.gate.root(BucketId(2)), ONE);
        world.tell(changed([(1, to(&[rpm(4)])), (2, rule)]));
        world.open(batch(1, 1), 12);
        world.run_for(1_000);
        assert_eq!(world.engine.gate.state(ONE, world.now)[0].limit.value, 4);
        world.run_for(10 * MINUTE_MS);
        assert!(world.closed.contains(&BatchId(1)));
        assert!(world.densest(1, MINUTE_MS, |weights| weights.requests) <= 4);
    }
}

#[test]
fn a_limit_that_each_key_has_by_itself() {
    let mut world = World::new();
    world.project(1, &["a", "b"]);
    world.proven();
    world.bucket(1, 1, &[Limit { scope: Scope::Key, source: Source::Config, ..rpm(3) }, rpd(50)]);
    world.open(batch(1, 1), 10);
    world.run_for(5_000);
    let keys: Vec<usize> = world.sent.iter().map(|sent| sent.key).collect();
    assert_eq!(keys, [0, 1, 0, 1, 0, 1]);
    // The one that has room first is waited for, also if it is not its turn.
    let first = world.engine.gate.state(ONE, world.now);
    let soonest = first.iter().filter(|state| state.key.is_some()).filter_map(|s| s.next_free);
    let (at, why) = world.engine.why(BatchId(1), world.now).expect("it waits");
    assert_eq!(Some(at), soonest.min());
    assert_eq!(why, "rpm: needs 1, 0 of 3 free");
    world.run_for(world.now.wall.until(at) + 1_000);
    assert_eq!(world.sent.len(), 10);
}

#[test]
fn a_key_that_has_room_goes_out_of_turn() {
    let mut world = World::new();
    world.project(1, &["a", "b", "c"]);
    world.proven();
    world.bucket(1, 1, &[Limit { scope: Scope::Key, ..rpm(2) }]);
    let aside = world.now.boot.plus(30_000);
    let project = world.engine.projects.get_mut(&1).expect("project 1");
    project.keys[1].aside = Some((aside, "refused".to_owned()));
    world.open(batch(1, 1), 8);
    world.run_for(20_000);
    assert_eq!(world.sent.iter().map(|sent| sent.key).collect::<Vec<_>>(), [0, 2, 0, 2]);
    world.run_for(20_000);
    assert_eq!(world.sent.iter().skip(4).map(|sent| sent.key).collect::<Vec<_>>(), [1, 1]);
    world.run_for(2 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
}

#[test]
fn an_explanation_has_the_numbers_of_the_wait() {
    let mut world = two_a_minute();
    let need = Weights { requests: 1, input_tokens: 1, ..Weights::default() };
    let question = Question { bucket: ONE, need };
    let told = world.engine.explain(&question, world.now).expect("a bucket");
    let lane_wait = world.engine.lanes[&ONE].wait.clone().expect("it waits");
    let Verdict::Wait(wait) = told.explanation.verdict.clone() else { panic!("{told:?}") };
    assert_eq!(wait.because.to_string(), lane_wait.1);
    let [need] = &told.explanation.needs[..] else { panic!("{:?}", told.explanation) };
    assert_eq!((need.needs, need.state.used, need.state.free), (1, 2, 0));
    assert_eq!(told.key.as_deref(), Some("a"));
    assert_eq!(told.hindrance, None);
    let unknown = Question { bucket: BucketId(99), ..question };
    assert!(world.engine.explain(&unknown, world.now).is_none());
}
