//! The gate is never refused, whatever the provider and the machine do, and keeps its invariants.

use crate::run::{Manner, Outcome};
use crate::world::HOUR;
use crate::{Budget, DAYS, MINUTES, REBOOTS, gate, play};

const PARTS: u64 = 4;

/// What is to be shown at least, by all parts together: so many seeds, and so many hours. Minutes
/// alone are enough hours; days are many more, and mostly wait.
const SEEDS_MIN: u64 = 1_000;
const HOURS_MIN: u64 = 200;
const _: () = {
    assert!(MINUTES.count.is_multiple_of(PARTS) && DAYS.count.is_multiple_of(PARTS));
    assert!(MINUTES.count + DAYS.count >= SEEDS_MIN);
    assert!(MINUTES.count * 20 / 60 >= HOURS_MIN);
};

const STRICT: Manner = Manner { recorded: false, strict: true, hasty: false };

#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    simulated_ms: u64,
    accepted: u64,
    crashes: u64,
    reboots: u64,
    suspends: u64,
    steps: u64,
    looks: u64,
}

impl Totals {
    fn add(&mut self, length_ms: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_ms += length_ms;
        self.accepted += outcome.accepted;
        self.crashes += outcome.crashes;
        self.reboots += outcome.reboots;
        self.suspends += outcome.suspends;
        self.steps += outcome.steps;
        self.looks += outcome.looks;
    }
}

/// Plays the gate over many seeds, and shows the end of the first run that went wrong.
fn never_refused(what: &str, budget: Budget) {
    let mut totals = Totals::default();
    for seed in budget.seeds() {
        let (world, outcome) = play(budget.draw, gate, seed, STRICT);
        if !outcome.refused.is_empty() || outcome.broken.is_some() {
            let recorded = Manner { recorded: true, ..STRICT };
            let (_, again) = play(budget.draw, gate, seed, recorded);
            let lines: Vec<_> = again.transcript.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            panic!("TIDEGATE_SIM_SEED={seed}\n{world:#?}\n{tail}\n{:?}", outcome.broken);
        }
        totals.add(world.length_ms, &outcome);
    }
    let Totals { seeds, simulated_ms, accepted, crashes, reboots, suspends, steps, looks } = totals;
    eprintln!(
        "sim {what}: seeds={seeds} hours={} requests={accepted} crashes={crashes} \
         reboots={reboots} suspends={suspends} steps={steps} looks={looks} refused=0",
        simulated_ms / HOUR
    );
    assert!(accepted > 0, "nothing was sent");
    if seeds > 1 {
        let all = [crashes, reboots, suspends, steps, looks];
        assert!(all.iter().all(|count| *count > 0), "something never happened: {all:?}");
    }
}

#[test]
fn minutes_are_never_refused_1() {
    never_refused("minutes", MINUTES.part(0, PARTS));
}

#[test]
fn minutes_are_never_refused_2() {
    never_refused("minutes", MINUTES.part(1, PARTS));
}

#[test]
fn minutes_are_never_refused_3() {
    never_refused("minutes", MINUTES.part(2, PARTS));
}

#[test]
fn minutes_are_never_refused_4() {
    never_refused("minutes", MINUTES.part(3, PARTS));
}

#[test]
fn days_are_never_refused_1() {
    never_refused("days", DAYS.part(0, PARTS));
}

#[test]
fn days_are_never_refused_2() {
    never_refused("days", DAYS.part(1, PARTS));
}

#[test]
fn days_are_never_refused_3() {
    never_refused("days", DAYS.part(2, PARTS));
}

#[test]
fn days_are_never_refused_4() {
    never_refused("days", DAYS.part(3, PARTS));
}

#[test]
fn reboots_are_never_refused() {
    never_refused("reboots", REBOOTS);
}

#[test]
fn one_seed_is_one_run() {
    let recorded = Manner { recorded: true, ..STRICT };
    let runs = [(MINUTES, 0), (MINUTES, 1), (MINUTES, 2), (DAYS, 0), (DAYS, 1)];
    for (budget, number) in runs {
        let seed = budget.from + number;
        let (_, first) = play(budget.draw, gate, seed, recorded);
        let (_, again) = play(budget.draw, gate, seed, recorded);
        assert!(first.accepted > 0, "seed {seed} does nothing");
        assert!(first.transcript == again.transcript, "seed {seed} plays two ways");
        let (_, other) = play(budget.draw, gate, seed + 500, recorded);
        assert!(first.transcript != other.transcript, "seed {seed} makes no difference");
    }
}
