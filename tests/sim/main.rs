//! The gate against a provider that counts strictly, in virtual time.
//!
//! # Determinism
//! The seed is the only source of chance: a run draws its world, its delays and its accidents from
//! it, and two runs of one seed write the same transcript. A failure names its seed; play that one
//! alone with `TIDEGATE_SIM_SEED=N cargo nextest run --test sim`.
//!
//! [`world`] is what a run is like, [`oracle`] the provider, [`client`] who decides when to send
//! (the gate as the engine uses it, and rules that are wrong), [`run`] what brings them together.

mod client;
mod oracle;
mod run;
mod world;

use fastrand::Rng;

use client::{Flaw, GateClient, Naive, NaiveClient};
use oracle::Shape;
use run::{Outcome, Run};
use world::{Answers, World};

/// Runs of twenty minutes each.
const MINUTE_RUNS: u64 = 400;

/// Runs of 30 hours each.
const DAY_RUNS: u64 = 240;

const MINUTES_FROM: u64 = 10_000;
const DAYS_FROM: u64 = 20_000;

/// Draws a world.
type Draw = fn(&mut Rng) -> World;

/// Plays one seed.
type Play = fn(&World, Rng, bool) -> Outcome;

fn gate(world: &World, rng: Rng, recorded: bool) -> Outcome {
    Run::new(world, GateClient::new(world, None), rng, recorded).play()
}

fn flawed(world: &World, rng: Rng, recorded: bool, flaw: Flaw) -> Outcome {
    Run::new(world, GateClient::new(world, Some(flaw)), rng, recorded).play()
}

fn naive(world: &World, rng: Rng, recorded: bool, naive: Naive) -> Outcome {
    Run::new(world, NaiveClient::new(world, naive), rng, recorded).play()
}

fn play(draw: Draw, play: Play, seed: u64, recorded: bool) -> (World, Outcome) {
    let mut rng = Rng::with_seed(seed);
    let world = draw(&mut rng);
    let outcome = play(&world, rng, recorded);
    (world, outcome)
}

/// The seeds to play: all, or the one that the environment asks for.
fn seeds(from: u64, count: u64) -> Vec<u64> {
    #[expect(clippy::disallowed_methods, reason = "the one way to play a single seed")]
    let wanted = std::env::var("TIDEGATE_SIM_SEED").ok();
    match wanted {
        Some(seed) => vec![seed.parse().expect("TIDEGATE_SIM_SEED is a number")],
        None => (from..from + count).collect(),
    }
}

/// Plays the gate over many seeds, and shows the end of the first run that went wrong.
fn never_refused(draw: Draw, from: u64, count: u64) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds(from, count) {
        let (world, outcome) = play(draw, gate, seed, false);
        if outcome.rejected > 0 {
            let (_, again) = play(draw, gate, seed, true);
            let lines: Vec<_> = again.transcript.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            panic!("TIDEGATE_SIM_SEED={seed}\n{world:#?}\n{tail}");
        }
        totals.accepted += outcome.accepted;
        totals.crashes += outcome.crashes;
        totals.simulated_ms += world.length_ms;
    }
    eprintln!(
        "{} requests in {} simulated hours, {} crashes, none refused",
        totals.accepted,
        totals.simulated_ms / 3_600_000,
        totals.crashes
    );
    totals
}

#[derive(Debug, Default)]
struct Totals {
    accepted: u64,
    crashes: u64,
    simulated_ms: u64,
}

#[test]
fn minutes_are_never_refused() {
    let totals = never_refused(World::of_minutes, MINUTES_FROM, MINUTE_RUNS);
    assert!(totals.accepted > 0);
}

#[test]
fn days_are_never_refused() {
    let totals = never_refused(World::of_days, DAYS_FROM, DAY_RUNS);
    assert!(totals.accepted > 0);
}

/// A judge that lets everything pass proves nothing: each wrong rule is refused within the runs
/// that the right one passes.
#[track_caller]
fn caught(what: &str, draw: Draw, wrong: Play, from: u64, count: u64) {
    for seed in from..from + count {
        let (_, outcome) = play(draw, wrong, seed, false);
        if outcome.rejected > 0 {
            eprintln!("{what}: refused in run {} of {count}", seed - from + 1);
            return;
        }
    }
    panic!("{what}: not refused in {count} runs");
}

#[test]
fn a_log_of_sends_is_caught() {
    let wrong = |world: &World, rng, recorded| naive(world, rng, recorded, Naive::Log);
    caught("a log of sends over 60 s", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn a_cautious_log_of_sends_is_caught() {
    let wrong = |world: &World, rng, recorded| naive(world, rng, recorded, Naive::CautiousLog);
    caught("the same at 0.9 of the limit", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn minutes_by_the_own_clock_are_caught() {
    let wrong = |world: &World, rng, recorded| naive(world, rng, recorded, Naive::FixedMinute);
    caught("minutes by its own clock", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn forgetting_what_a_crash_left_open_is_caught() {
    let wrong = |world: &World, rng, recorded| flawed(world, rng, recorded, Flaw::ForgetsOpen);
    caught("forgetting open attempts", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn counting_from_the_send_is_caught() {
    let wrong = |world: &World, rng, recorded| flawed(world, rng, recorded, Flaw::BoundAtSend);
    caught("counting from the send", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn counting_from_the_break_of_a_connection_is_caught() {
    let wrong = |world: &World, rng, recorded| flawed(world, rng, recorded, Flaw::CutAtEnd);
    caught("counting from the break", World::of_minutes, wrong, MINUTES_FROM, MINUTE_RUNS);
}

#[test]
fn days_of_greenwich_are_caught() {
    let wrong = |world: &World, rng, recorded| flawed(world, rng, recorded, Flaw::UtcDays);
    caught("days of Greenwich", World::of_days, wrong, DAYS_FROM, DAY_RUNS);
}

#[test]
fn one_seed_is_one_run() {
    let runs: [(Draw, u64); 3] = [
        (World::of_minutes, MINUTES_FROM),
        (World::of_minutes, MINUTES_FROM + 1),
        (World::of_days, DAYS_FROM),
    ];
    for (draw, seed) in runs {
        let (_, first) = play(draw, gate, seed, true);
        let (_, again) = play(draw, gate, seed, true);
        assert!(first.accepted > 0, "seed {seed} does nothing");
        assert!(first.transcript == again.transcript, "seed {seed} plays two ways");
        let (_, other) = play(draw, gate, seed + 500, true);
        assert!(first.transcript != other.transcript, "seed {seed} makes no difference");
    }
}

/// A backlog of single requests, twenty minutes of it at best. Who knows everything sends a
/// limit's worth at once and again each minute: the last of `n` limits' worth goes after `n - 1`
/// minutes. Use is that time over the time that it took.
#[test]
fn a_backlog_uses_the_limit() {
    const MINUTES: u64 = 20;
    eprintln!("limit  answers  window       use");
    for rpm in [5, 15, 60] {
        for answers in [Answers::Fast, Answers::Slow, Answers::Mixed] {
            for shape in [Shape::Fixed { phase_ms: 23_456 }, Shape::Closed, Shape::TokenBucket] {
                let world = World::backlog(rpm, shape, answers, rpm * MINUTES);
                let outcome = gate(&world, Rng::with_seed(rpm), false);
                assert_eq!((outcome.accepted, outcome.rejected), (rpm * MINUTES, 0), "{world:?}");
                let best = (MINUTES - 1) * 60_000;
                let permille = best * 1_000 / (outcome.last - outcome.first);
                let name = format!("{shape:?}");
                let name = name.split(' ').next().unwrap_or_default();
                eprintln!("{rpm:>5}  {:<7}  {name:<11}  {permille} ‰", format!("{answers:?}"));
                assert!(permille >= 950, "{permille} ‰ of {world:?}");
            }
        }
    }
}
