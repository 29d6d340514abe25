//! Someone else uses the same quota: what is refused then, and how soon it ends.

use crate::client::{Client, Flaw, GateClient};
use crate::run::{Manner, Run};
use crate::world::{BOOT, MINUTE, World};
use crate::{Budget, gate, play};

/// Runs of 45 minutes each.
const SHARED: Budget = Budget { draw: World::shared, from: 30_000, count: 32 };

/// How long a client may take to learn, and how long it is watched then.
const LEARN_MS: u64 = 15 * MINUTE;
const FIVE_MS: u64 = 5 * MINUTE;
const FIVES: usize = 6;

/// How many requests are refused in each five minutes of the half hour after the first quarter.
pub(crate) fn refused_by_five_minutes<C: Client>(
    seed: u64,
    client: impl FnOnce(&World) -> C,
) -> [u64; FIVES] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::shared(&mut rng);
    let outcome = Run::new(&world, client(&world), rng, Manner::default()).play();
    let mut fives = [0; FIVES];
    for at in outcome.refused {
        let since = at.checked_sub(BOOT + LEARN_MS).map(|since| since / FIVE_MS);
        let five = since.and_then(|five| usize::try_from(five).ok());
        if let Some(count) = five.and_then(|five| fives.get_mut(five)) {
            *count += 1;
        }
    }
    fives
}

/// The measure can fail: a gate that learns nothing is refused again and again.
#[test]
fn a_gate_that_does_not_learn_is_refused_beside_others() {
    let mut total = 0;
    for seed in SHARED.seeds() {
        let unlearned = |world: &World| GateClient::new(world, Some(Flaw::LearnsNothing));
        let fives = refused_by_five_minutes(seed, unlearned);
        eprintln!("seed {seed}: refused in five minutes {fives:?}");
        total += fives.iter().sum::<u64>();
    }
    let allowed = 6 * u64::try_from(SHARED.seeds().len()).expect("few");
    assert!(total > 3 * allowed, "{total} are not much more than the {allowed} allowed");
}

/// And it fails for nothing else: the same worlds without the others refuse nothing.
#[test]
fn nobody_else_nothing_refused() {
    let alone = |rng: &mut fastrand::Rng| World { others_every_ms: 0, ..World::shared(rng) };
    for seed in SHARED.seeds() {
        let (_, outcome) = play(alone, gate, seed, Manner::default());
        assert_eq!(outcome.refused, Vec::<u64>::new(), "TIDEGATE_SIM_SEED={seed}");
        assert!(outcome.accepted > 0);
    }
}

/// After a quarter of an hour the gate has learned to live beside them: in the half hour after it,
/// one in five minutes is refused at most.
#[test]
fn a_gate_that_learns_is_hardly_refused_beside_others() {
    for seed in SHARED.seeds() {
        let fives = refused_by_five_minutes(seed, |world| GateClient::new(world, None));
        eprintln!("seed {seed}: refused in five minutes {fives:?}");
        let total = fives.iter().sum::<u64>();
        assert!(total <= 6, "TIDEGATE_SIM_SEED={seed}: {total} in half an hour, {fives:?}");
    }
}
