//! A judge that lets everything pass proves nothing: each wrong rule is caught within the runs that
//! the right one passes.

use fastrand::Rng;

use crate::client::{Flaw, GateClient};
use crate::naive::{Naive, NaiveClient};
use crate::run::{Manner, Outcome, Run};
use crate::world::World;
use crate::{Budget, DAYS, MINUTES, Play, REBOOTS, gate, play};

const SHARED_DAYS: Budget = Budget { draw: World::shared_day, from: 40_000, count: 60 };

const LATE_TOKENS: Budget = Budget { draw: World::of_late_tokens, from: 70_000, count: 20 };

/// By the oracle alone; or by an invariant alone, named by its first letters.
#[derive(Clone, Copy, Debug)]
enum By {
    Oracle,
    Invariant(&'static str),
}

#[track_caller]
fn caught(what: &str, budget: Budget, wrong: Play, by: By) {
    for number in 0..budget.count {
        let strict = matches!(by, By::Invariant(_));
        let manner = Manner { strict, ..Manner::default() };
        let (_, outcome) = play(budget.draw, wrong, budget.from + number, manner);
        let found = match by {
            By::Oracle => !outcome.refused.is_empty(),
            By::Invariant(name) => outcome.broken.is_some_and(|broken| broken.starts_with(name)),
        };
        if found {
            eprintln!("{what}: caught by {by:?} in run {} of {}", number + 1, budget.count);
            return;
        }
    }
    panic!("{what}: not caught by {by:?} in {} runs", budget.count);
}

fn flawed(world: &World, rng: Rng, manner: Manner, flaw: Flaw) -> Outcome {
    Run::new(world, GateClient::new(world, Some(flaw)), rng, manner).play()
}

fn naive(world: &World, rng: Rng, manner: Manner, naive: Naive) -> Outcome {
    Run::new(world, NaiveClient::new(world, naive), rng, manner).play()
}

#[test]
fn a_log_of_sends_is_caught() {
    let wrong = |world: &World, rng, manner| naive(world, rng, manner, Naive::Log);
    caught("a log of sends over 60 s", MINUTES, wrong, By::Oracle);
}

#[test]
fn a_cautious_log_of_sends_is_caught() {
    let wrong = |world: &World, rng, manner| naive(world, rng, manner, Naive::CautiousLog);
    caught("the same at 0.9 of the limit", MINUTES, wrong, By::Oracle);
}

#[test]
fn minutes_by_the_own_clock_are_caught() {
    let wrong = |world: &World, rng, manner| naive(world, rng, manner, Naive::FixedMinute);
    caught("minutes by its own clock", MINUTES, wrong, By::Oracle);
}

#[test]
fn forgetting_what_a_crash_left_open_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::ForgetsOpen);
    caught("forgetting open attempts", MINUTES, wrong, By::Oracle);
}

#[test]
fn counting_from_the_send_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::BoundAtSend);
    caught("counting from the send", MINUTES, wrong, By::Oracle);
    caught("counting from the send", MINUTES, wrong, By::Invariant("P3"));
}

#[test]
fn a_window_without_delta_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::NoDelta);
    caught("a window without Δ", MINUTES, wrong, By::Oracle);
}

#[test]
fn counting_from_the_break_of_a_connection_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::CutAtEnd);
    caught("counting from the break", MINUTES, wrong, By::Oracle);
}

#[test]
fn giving_back_before_the_headers_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::SettlesEarly);
    caught("giving back before the headers", MINUTES, wrong, By::Oracle);
}

#[test]
fn one_more_than_the_limit_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::OneMore);
    caught("one more than the limit", MINUTES, wrong, By::Oracle);
    caught("one more than the limit", DAYS, wrong, By::Oracle);
}

#[test]
fn a_clock_ahead_of_time_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::AheadOfTime);
    caught("a wall clock ahead of time", DAYS, wrong, By::Oracle);
    caught("a wall clock ahead of time", DAYS, wrong, By::Invariant("P5"));
}

#[test]
fn what_the_books_say_is_looked_at() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::KeepsEstimate);
    caught("estimates that are kept", MINUTES, wrong, By::Invariant("P2"));
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::WantsHistory);
    caught("less in the ledger, less admitted", MINUTES, wrong, By::Invariant("P9"));
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::ForgetsOpen);
    caught("a start that lets more go", MINUTES, wrong, By::Invariant("P13"));
}

#[test]
fn days_of_greenwich_are_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::UtcDays);
    caught("days of Greenwich", DAYS, wrong, By::Oracle);
}

/// A clock that stands still holds places too long, so no provider complains; it is late.
#[test]
fn a_clock_that_sleeps_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::InstantClock);
    caught("a clock that sleeps", MINUTES, wrong, By::Invariant("P6"));
}

#[test]
fn believing_the_wall_clock_after_a_reboot_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::NoQuarantine);
    caught("no quarantine", REBOOTS, wrong, By::Oracle);
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::HastyQuarantine);
    caught("a quarantine only for young rows", REBOOTS, wrong, By::Oracle);
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::ShortQuarantine);
    caught("a quarantine of a minute", REBOOTS, wrong, By::Oracle);
}

#[test]
fn sending_before_the_row_is_durable_is_caught() {
    let wrong: Play = |world, rng, manner| gate(world, rng, Manner { hasty: true, ..manner });
    caught("sending before the row is durable", MINUTES, wrong, By::Oracle);
    caught("sending before the row is durable", MINUTES, wrong, By::Invariant("P4"));
}

#[test]
fn believing_the_delay_of_a_day_is_caught() {
    let wrong = |world: &World, rng, manner| flawed(world, rng, manner, Flaw::BelievesDelay);
    caught("believing the delay of a day", SHARED_DAYS, wrong, By::Invariant("P11"));
}

/// The rule stands on H1: nothing is counted after its bound. A provider that counts tokens when a
/// slow answer is complete breaks that, and refuses.
#[test]
fn tokens_counted_after_their_bound_are_caught() {
    caught("tokens counted after their bound", LATE_TOKENS, gate, By::Oracle);
    caught("tokens counted after their bound", LATE_TOKENS, gate, By::Invariant("H1"));
}

/// The right rule over the same days: refused, as it must be, and silent until midnight.
#[test]
fn a_day_that_is_used_up_is_left_alone() {
    let manner = Manner { strict: true, ..Manner::default() };
    let mut refused = 0;
    for seed in SHARED_DAYS.seeds() {
        let (_, outcome) = play(SHARED_DAYS.draw, gate, seed, manner);
        assert_eq!(outcome.broken, None, "TIDEGATE_SIM_SEED={seed}");
        refused += usize::from(!outcome.refused.is_empty());
    }
    assert!(refused > 0, "no day was used up");
}
