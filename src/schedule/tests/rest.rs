//! Lines that have nothing to offer now, and what stands beside the order.

use super::*;
use crate::schedule::{Budget, ServerError, after_server_error, spread_gap_ms};

#[test]
fn a_line_that_waits_for_its_time_wakes_then() {
    let mut bench = Bench::new(&[rpm(10)]);
    let line = bench.line(0, 1, &Plan::of("a"), &[1]);
    bench.queue(line).later = Some(5_000);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    assert_eq!(bench.tick(0), [2001]);
    let wakes = bench.now(5_000).boot;
    assert_eq!(bench.schedule.next_change(), Some(wakes));
    assert_eq!(bench.tick(4_999), [0; 0]);
    assert_eq!(bench.tick(5_000), [1001]);
    assert_eq!(bench.schedule.next_change(), None, "nothing is left");
}

#[test]
fn a_line_that_has_nothing_is_not_asked_until_it_is_roused() {
    let mut bench = Bench::new(&[rpm(10)]);
    let line = bench.line(0, 1, &Plan::of("a"), &[]);
    bench.tick(0);
    assert_eq!(bench.schedule.first(A), None);
    let prompt = bench::Prompt { id: 1001, need: tokens(1), pinned: None };
    bench.queue(line).prompts.push(prompt);
    assert_eq!(bench.tick(60_000), [0; 0], "nobody said so");
    bench.schedule.rouse(line, bench.now(60_000).boot);
    assert_eq!(bench.tick(60_000), [1001]);
}

#[test]
fn a_line_that_is_roused_early_goes_early() {
    let mut bench = Bench::new(&[rpm(10)]);
    let line = bench.line(0, 1, &Plan::of("a"), &[1]);
    bench.queue(line).later = Some(5_000);
    bench.tick(0);
    bench.queue(line).later = None;
    bench.schedule.rouse(line, bench.now(1).boot);
    assert_eq!(bench.tick(1), [1001]);
    assert_eq!(bench.schedule.next_change(), None, "nothing is left");
}

#[test]
fn a_line_that_has_nothing_keeps_its_age_and_gains_none() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.world.hindered.insert(A, 1_000 * MINUTE);
    let line = bench.line(0, 1, &Plan::of("a").low(), &[1]);
    let level = |bench: &mut Bench, at: u64| {
        bench.tick(at);
        bench.schedule.level(line)
    };
    assert_eq!(level(&mut bench, 40 * MINUTE), Some(1));
    bench.schedule.rest(line, None, bench.now(40 * MINUTE).boot);
    // Said twice, it rests since the first time.
    bench.schedule.rest(line, None, bench.now(90 * MINUTE).boot);
    assert_eq!(level(&mut bench, 140 * MINUTE), None);
    let now = bench.now(140 * MINUTE).boot;
    assert_eq!(bench.schedule.unserved_ms(line, now), Some(40 * MINUTE));
    bench.schedule.rouse(line, now);
    assert_eq!(level(&mut bench, 159 * MINUTE), Some(1));
    assert_eq!(level(&mut bench, 160 * MINUTE), Some(0));
}

#[test]
fn nobody_overtakes_a_line_whose_page_is_being_read() {
    let mut bench = Bench::new(&[rpm(10)]);
    let line = bench.line(0, 1, &Plan::of("a"), &[1]);
    bench.line(0, 2, &Plan::of("b"), &[1]);
    bench.queue(line).loading = true;
    assert_eq!(bench.tick(0), [0; 0]);
    bench.queue(line).loading = false;
    assert_eq!(bench.tick(1), [1001, 2001]);
}

#[test]
fn an_unknown_need_stops_its_line_and_no_other() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.line(0, 1, &Plan::of("a"), &[1, 1]);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    bench.world.unknown.insert(1001);
    assert_eq!(bench.tick(0), [2001]);
    bench.world.unknown.clear();
    assert_eq!(bench.tick(1), [1001, 1002]);
}

#[test]
fn what_may_not_go_now_is_passed_within_its_line() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.line(0, 1, &Plan::of("a"), &[1, 1]);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    bench.world.not_now.insert(1001);
    assert_eq!(bench.tick(0), [1002, 2001]);
    bench.world.not_now.clear();
    assert_eq!(bench.tick(1), [1001]);
}

#[test]
fn nothing_goes_in_a_bucket_that_is_hindered() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.world.hindered.insert(A, 5_000);
    assert_eq!(bench.tick_of(A, 0), None, "nobody waits");
    bench.line(0, 1, &Plan::of("a"), &[1]);
    assert_eq!(bench.tick_of(A, 0), Some((5_000, "hindered".to_owned())));
    assert_eq!(bench.tick(5_000), [1001]);
}

#[test]
fn what_is_larger_than_a_limit_is_refused_and_the_next_one_goes() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.line(0, 1, &Plan::of("a"), &[1_001, 1_000]);
    assert_eq!(bench.tick(0), [1002]);
    let why = "needs 1001 of tpm, and the limit is 1000 (config): it can never be sent";
    assert_eq!(bench.world.refused, [(1001, why.to_owned())]);
}

#[test]
fn a_line_that_is_taken_out_is_gone() {
    let mut bench = Bench::new(&[rpm(1)]);
    let line = bench.line(0, 1, &Plan::of("a").low(), &[1]);
    assert!(bench.schedule.has(line));
    bench.schedule.remove(line);
    bench.schedule.rouse(line, bench.now(0).boot);
    assert!(!bench.schedule.has(line));
    assert_eq!(bench.tick(100 * MINUTE), [0; 0]);
    assert_eq!((bench.schedule.first(A), bench.schedule.next_change()), (None, None));
}

#[test]
fn after_a_server_error_come_short_waits_then_long_ones_then_the_end() {
    let found: Vec<_> = (1..=8).map(after_server_error).collect();
    let short = |at_most_ms| ServerError::Backoff { at_most_ms };
    let park = ServerError::Park { ms: 30 * MINUTE };
    let expected = [short(4_000), short(8_000), short(16_000), short(32_000), park, park, park];
    assert_eq!(found[..7], expected);
    assert_eq!(found[7], ServerError::GiveUp);
    assert_eq!(after_server_error(u32::MAX), ServerError::GiveUp);
}

#[test]
fn retries_are_a_tenth_of_the_answers() {
    let mut budget = Budget::default();
    let spent = |budget: &mut Budget| {
        let mut spent = 0;
        while budget.allows() {
            budget.spend();
            spent += 1;
        }
        spent
    };
    assert_eq!(spent(&mut budget), 10, "some are there at the start");
    (0..9).for_each(|_| budget.earn());
    assert_eq!(spent(&mut budget), 0);
    budget.earn();
    assert_eq!(spent(&mut budget), 1);
    (0..1_000_000).for_each(|_| budget.earn());
    assert_eq!(spent(&mut budget), 100, "an outage after a good day is no storm");
    budget.spend();
    (0..10).for_each(|_| budget.earn());
    assert_eq!(spent(&mut budget), 1, "nothing is owed");
}

#[test]
fn a_spread_batch_divides_its_time_by_what_can_go_in_it() {
    assert_eq!(spread_gap_ms(66_000, 10, None), 6_000, "the last is done in time");
    assert_eq!(spread_gap_ms(66_000, 100, Some(10)), 6_000);
    assert_eq!(spread_gap_ms(66_000, 10, Some(100)), 6_000);
    assert_eq!(spread_gap_ms(60_000, 6, None), 8_571, "rounded down");
    assert_eq!(spread_gap_ms(0, 10, None), 0);
    assert_eq!(spread_gap_ms(60_000, 0, None), 60_000);
    assert_eq!(spread_gap_ms(60_000, 10, Some(0)), 60_000);
}
