//! Keys that come, go, are disabled, refused and taken again; what of it is kept.

use tokio::sync::oneshot;

use super::answers::{self, key_refused};
use super::throttles::at_first;
use super::world::{World, batch, rpm};
use crate::engine::keys::{Key, KeySwitch, NewKeys};
use crate::engine::state::Event;
use crate::gate::limits::MINUTE_MS;
use crate::gate::units::UnixMs;
use crate::store::{BatchId, ItemState, KeyState};

fn world(keys: &[&str]) -> World {
    let mut world = World::new();
    world.project(1, keys).link.proven = true;
    world.bucket(1, 1, &[]);
    world
}

fn ring(places: &[(usize, &str)]) -> Event {
    let ring = places.iter().map(|(place, name)| (*place, (*name).to_owned())).collect();
    Event::Keys(Box::new(NewKeys { project: 1, ring, done: oneshot::channel().0 }))
}

fn switch(name: &str, disabled: bool) -> Event {
    let (name, done) = (name.to_owned(), oneshot::channel().0);
    Event::Switch(KeySwitch { project: 1, name, disabled, done })
}

fn used(world: &World) -> Vec<usize> {
    world.sent.iter().map(|sent| sent.key).collect()
}

fn why(world: &World) -> String {
    world.engine.why(BatchId(1), world.now).expect("it waits").1
}

#[test]
fn keys_that_go_keep_their_places_for_what_is_under_way() {
    let mut world = world(&["a", "b", "c"]);
    world.provider = Box::new(|_, _| answers::ok().after(5_000));
    world.open(batch(1, 1), 6);
    world.run_for(1_000);
    assert_eq!(used(&world), [0, 1, 2, 0, 1, 2]);
    // The first goes while its requests are under way, a fourth comes, of its old name.
    world.tell(ring(&[(1, "b"), (2, "c"), (3, "a")]));
    world.run_for(20_000);
    assert_eq!((world.count(1, ItemState::Succeeded), &world.closed[..]), (6, &[BatchId(1)][..]));
    let names: Vec<_> = world.engine.keys(world.now).into_iter().map(|key| key.name).collect();
    assert_eq!(names, ["b", "c", "a"]);
    world.sent.clear();
    world.open(batch(2, 1), 6);
    world.run_for(20_000);
    assert_eq!(used(&world), [1, 2, 3, 1, 2, 3], "none that is gone");
}

#[test]
fn a_disabled_key_is_used_no_more_and_nothing_waits_without_a_word() {
    let mut world = world(&["a", "b"]);
    world.tell(switch("a", true));
    world.open(batch(1, 1), 2);
    world.run_for(20_000);
    assert_eq!(used(&world), [1, 1]);
    world.tell(switch("b", true));
    world.sent.clear();
    world.open(batch(3, 1), 2);
    world.run_for(60 * MINUTE_MS);
    assert_eq!(used(&world), [0; 0]);
    let told = world.engine.why(BatchId(3), world.now).expect("it waits").1;
    assert!(told.starts_with("every key of project-1 is disabled: run tidegate keys enable"));
    world.tell(switch("a", false));
    world.run_for(20_000);
    assert_eq!(used(&world), [0, 0]);
    world.tell(ring(&[]));
    world.open(batch(4, 1), 1);
    world.run_for(20_000);
    let told = world.engine.why(BatchId(4), world.now).expect("it waits").1;
    assert_eq!(told, "project-1 has no key: run tidegate keys import FILE --project project-1");
}

#[test]
fn a_refusal_is_kept_and_an_answer_or_a_word_takes_it_back() {
    let mut world = world(&["a"]);
    world.provider = at_first(2, key_refused);
    world.open(batch(1, 1), 1);
    world.run_for(30_000);
    let [kept] = &world.key_states[..] else { panic!("{:?}", world.key_states) };
    assert_eq!((&kept.name[..], kept.refused), ("a", 1));
    let (until, reason) = kept.aside.clone().expect("set aside");
    assert!(until > world.now.wall && reason.contains("the provider says 401"), "{kept:?}");
    assert!(why(&world).ends_with("or tidegate keys import FILE --project project-1"));
    // A user's word tries it at once; it is refused again, and then it is taken.
    world.tell(switch("a", false));
    world.run_for(1_000);
    assert_eq!(world.sent.len(), 2);
    world.run_for(5 * MINUTE_MS);
    assert_eq!(world.closed, [BatchId(1)]);
    let kept: Vec<_> =
        world.key_states.iter().map(|kept| (kept.refused, kept.aside.is_some())).collect();
    assert_eq!(kept, [(1, true), (0, false), (1, true), (0, false)]);
    assert_eq!(world.engine.unsettled(), 0);
}

#[test]
fn an_answer_to_what_left_before_the_refusal_does_not_take_the_key_back() {
    let mut world = world(&["a"]);
    let mut calls = 0;
    world.provider = Box::new(move |_, _| {
        calls += 1;
        if calls == 1 { answers::ok().after(9_000) } else { key_refused().after(1_000) }
    });
    world.open(batch(1, 1), 2);
    world.run_for(30_000);
    assert_eq!(world.count(1, ItemState::Succeeded), 1);
    assert_eq!(world.sent.len(), 2, "it stays aside");
    assert!(world.engine.keys(world.now)[0].aside.is_some());
}

#[test]
fn how_keys_are_kept_is_written_one_after_the_other_and_the_newest_of_each() {
    let mut world = world(&["a", "b"]);
    let now = world.now;
    let keep = |effects: &[crate::engine::Effect]| {
        let is =
            |effect: &&crate::engine::Effect| matches!(effect, crate::engine::Effect::KeepKey(_));
        effects.iter().filter(is).count()
    };
    let both = [switch("a", false), switch("b", false), switch("a", false)];
    assert_eq!(keep(&world.engine.step(now, both)), 1);
    assert_eq!((keep(&world.engine.step(now, [])), world.engine.unsettled()), (0, 2));
    assert_eq!(keep(&world.engine.step(now, [Event::KeyKept])), 1);
    assert_eq!(keep(&world.engine.step(now, [Event::KeyKept])), 0);
    assert_eq!(world.engine.unsettled(), 0);
}

#[test]
fn a_start_goes_on_from_what_was_kept() {
    let now = World::new().now;
    let state = |until: UnixMs| KeyState {
        project_id: 1,
        name: "a".to_owned(),
        disabled: false,
        aside: Some((until, "refused".to_owned())),
        refused: 3,
    };
    let restored = |until: UnixMs| {
        let mut key = Key::new("a".to_owned());
        key.restore(state(until), now);
        assert_eq!(key.refused, 3);
        key.aside.map(|(until, _)| now.boot.until(until))
    };
    assert_eq!(restored(now.wall.plus(5_000)), Some(5_000));
    assert_eq!(restored(now.wall.minus(1)), None);
    // The wall clock was set back by a day: no longer than it may ever take.
    assert_eq!(restored(now.wall.plus(86_400_000)), Some(3_600_000));
    // Turns go on too.
    let mut world = world(&["a", "b", "c"]);
    world.engine.projects.get_mut(&1).expect("project 1").turn_after("b");
    world.bucket(2, 1, &[rpm(100)]);
    world.open(batch(1, 2), 2);
    world.run_for(20_000);
    assert_eq!(used(&world), [2, 0]);
}
