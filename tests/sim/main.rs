//! The gate against a provider that counts strictly, in virtual time.
//!
//! # Determinism
//! The seed is the only source of chance: a run draws its world, its delays and its accidents from
//! it, and two runs of one seed write the same transcript. A failure names its seed; play that one
//! alone with `TIDEGATE_SIM_SEED=N cargo nextest run --test sim`.
//!
//! [`world`] is what a run is like, [`oracle`] the provider, [`client`] who decides when to send
//! (the gate as the engine uses it), [`naive`] who decides less well. [`run`] brings them together,
//! with each [`attempt`]'s way, [`accidents`] and the invariants of [`check`]. The tests: [`safe`],
//! [`wrong`], [`shared`], and [`table`], which `cargo xtask sim --table` prints in full.

mod accidents;
mod attempt;
mod check;
mod client;
mod naive;
mod oracle;
mod run;
mod safe;
mod schedule;
mod shared;
mod table;
mod world;
mod wrong;

use fastrand::Rng;

use client::GateClient;
use run::{Manner, Outcome, Run};
use world::World;

/// Draws a world.
type Draw = fn(&mut Rng) -> World;

/// Plays one seed.
type Play = fn(&World, Rng, Manner) -> Outcome;

/// Runs of twenty minutes each, of 30 hours each, and of twenty minutes full of reboots.
const MINUTES: Budget = Budget { draw: World::of_minutes, from: 10_000, count: 900 };
const DAYS: Budget = Budget { draw: World::of_days, from: 20_000, count: 240 };
const REBOOTS: Budget = Budget { draw: World::of_reboots, from: 60_000, count: 240 };

/// Which worlds, and how many of them.
#[derive(Clone, Copy, Debug)]
struct Budget {
    draw: Draw,
    from: u64,
    count: u64,
}

impl Budget {
    /// One part of several, so that they can be played side by side.
    fn part(self, number: u64, of: u64) -> Self {
        let count = self.count / of;
        Self { from: self.from + number * count, count, ..self }
    }

    /// The seeds to play: all, or the one that the environment asks for.
    fn seeds(self) -> Vec<u64> {
        match wanted("TIDEGATE_SIM_SEED") {
            Some(seed) => vec![seed.parse().expect("TIDEGATE_SIM_SEED is a number")],
            None => (self.from..self.from + self.count).collect(),
        }
    }
}

fn gate(world: &World, rng: Rng, manner: Manner) -> Outcome {
    Run::new(world, GateClient::new(world, None), rng, manner).play()
}

fn play(draw: Draw, play: Play, seed: u64, manner: Manner) -> (World, Outcome) {
    let mut rng = Rng::with_seed(seed);
    let world = draw(&mut rng);
    let outcome = play(&world, rng, manner);
    (world, outcome)
}

/// What people ask for by a variable.
#[expect(clippy::disallowed_methods, reason = "the one way to ask a test for something")]
fn wanted(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
