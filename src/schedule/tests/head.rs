//! Who waits for room keeps its place, and what may pass it.

use super::*;

const BIG: i64 = 1001;

/// 1,000 tokens a minute, 600 of them in use since 0: a prompt of 900 waits for them.
fn waiting() -> Bench {
    let mut bench = Bench::new(&[tpm(1_000), rpm(200)]);
    bench.use_up(0, A, tokens(600));
    bench.line(1_000, 1, &Plan::of("a"), &[900]);
    assert_eq!(bench.tick(1_000), [0; 0]);
    assert_eq!(bench.head(A), Some(BIG));
    bench
}

#[test]
fn it_says_until_when_and_why_it_waits() {
    let mut bench = waiting();
    let why = "tpm: needs 900, 400 of 1000 free".to_owned();
    assert_eq!(bench.tick_of(A, 1_000), Some((WHOLE_WINDOW, why)));
    bench.tick(WHOLE_WINDOW - 1);
    assert_eq!(bench.went(BIG), None);
    assert_eq!(bench.tick(WHOLE_WINDOW), [BIG]);
    assert_eq!(bench.head(A), None);
    assert_eq!(bench.tick_of(A, WHOLE_WINDOW), None);
}

#[test]
fn it_stays_the_head_when_others_come_before_it() {
    let mut bench = waiting();
    // An earlier deadline, and a tenant that was served less.
    bench.line(2_000, 2, &Plan::of("a").due(0), &[300]);
    bench.schedule.charge(A, TenantId(0), 1);
    bench.line(2_000, 3, &Plan::of("b"), &[300]);
    assert_eq!(bench.tick(2_000), [0; 0]);
    assert_eq!(bench.head(A), Some(BIG));
    bench.run(2_000, 3 * WHOLE_WINDOW);
    assert_eq!(bench.went(BIG), Some(WHOLE_WINDOW));
}

#[test]
fn a_better_class_displaces_it_and_then_it_is_back_at_its_place() {
    let mut bench = waiting();
    bench.line(2_000, 2, &Plan::of("b").high(), &[950]);
    bench.line(2_000, 3, &Plan::of("a").due(0), &[900]);
    bench.tick(2_000);
    assert_eq!(bench.head(A), Some(2001));
    bench.run(2_000, 2 * WHOLE_WINDOW + 5_000);
    assert_eq!(bench.went(2001), Some(WHOLE_WINDOW));
    assert_eq!(bench.went(BIG), Some(2 * WHOLE_WINDOW), "before the earlier deadline");
    assert_eq!(bench.went(3001), None);
}

#[test]
fn a_better_class_that_waits_for_something_else_does_not_take_its_place() {
    let mut bench = waiting();
    bench.line(2_000, 2, &Plan::of("b").high(), &[10]);
    bench.world.unknown.insert(2001);
    bench.line(2_000, 3, &Plan::of("a").due(0), &[300]);
    assert_eq!(bench.tick(2_000), [0; 0], "300 would delay the head");
    assert_eq!(bench.head(A), Some(BIG));
    bench.run(2_000, WHOLE_WINDOW + 1_000);
    assert_eq!(bench.went(BIG), Some(WHOLE_WINDOW));
}

#[test]
fn a_head_that_has_become_as_good_as_high_is_not_displaced_by_high() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.world.hindered.insert(A, 60 * MINUTE);
    bench.line(0, 1, &Plan::of("a").low(), &[900]);
    bench.tick(0);
    let from = 60 * MINUTE;
    bench.use_up(from, A, tokens(600));
    bench.tick(from);
    assert_eq!(bench.head(A), Some(BIG));
    bench.line(from + 1, 2, &Plan::of("a").high().due(0), &[300]);
    bench.run(from + 1, from + WHOLE_WINDOW + 1);
    assert_eq!(bench.went(BIG), Some(from + WHOLE_WINDOW));
}

#[test]
fn a_head_that_grows_as_good_as_high_while_it_waits_is_not_displaced_by_high() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    // Something is under way for as long as it takes: the head waits for it.
    bench.world.latency = 61 * MINUTE;
    bench.use_up(0, A, tokens(600));
    bench.line(0, 1, &Plan::of("a").low(), &[900]);
    bench.run(0, 60 * MINUTE);
    bench.line(60 * MINUTE, 2, &Plan::of("a").high().due(0), &[300]);
    bench.run(60 * MINUTE, 61 * MINUTE + WHOLE_WINDOW);
    assert_eq!(bench.went(BIG), Some(62 * MINUTE + 50));
}

#[test]
fn what_the_head_does_not_need_is_filled() {
    let mut bench = waiting();
    bench.line(2_000, 2, &Plan::of("b"), &[60, 60, 30, 10, 10]);
    // The head leaves 100 of 1,000.
    assert_eq!(bench.tick(2_000), [2001, 2003, 2004]);
    bench.run(2_000, WHOLE_WINDOW);
    assert_eq!(bench.went(BIG), Some(WHOLE_WINDOW));
}

#[test]
fn what_is_gone_when_the_head_starts_may_be_used_until_then() {
    let mut bench = waiting();
    bench.use_up(10_000, A, tokens(300));
    // The head now waits until those are gone too, at 72,050; what went at 2,000 would be by then.
    assert_eq!(bench.tick_of(A, 10_000).map(|it| it.0), Some(10_000 + WHOLE_WINDOW));
    bench.line(9_000, 2, &Plan::of("b"), &[100]);
    assert_eq!(bench.tick(10_000), [2001], "100 of 1,000 are left beside the head");
    bench.line(10_000, 3, &Plan::of("b"), &[1]);
    assert_eq!(bench.tick(10_000), [0; 0]);
}

#[test]
fn each_prompt_is_tried_once_so_that_what_fits_is_found() {
    let mut bench = waiting();
    // Ten that are too large, and then ten that fit.
    let prompts: Vec<_> = [200; 10].into_iter().chain([10; 10]).collect();
    bench.line(2_000, 2, &Plan::of("b"), &prompts);
    assert_eq!(bench.tick(2_000), (2011..=2020).collect::<Vec<_>>());
}

#[test]
fn no_more_than_twenty_prompts_of_a_tenant_are_tried() {
    let mut bench = waiting();
    let prompts: Vec<_> = [200; 20].into_iter().chain([1]).collect();
    bench.line(2_000, 2, &Plan::of("b"), &prompts);
    bench.line(2_000, 3, &Plan::of("c"), &[1]);
    assert_eq!(bench.tick(2_000), [3001]);
}

#[test]
fn a_tenant_with_many_lines_does_not_keep_another_from_passing() {
    let mut bench = waiting();
    for line in 2..=300 {
        bench.line(2_000, line, &Plan::of("b"), &[200]);
    }
    bench.schedule.tenant("c");
    bench.line(2_000, 400, &Plan::of("c"), &[1]);
    assert_eq!(bench.tick(2_000), [400_001]);
}

#[test]
fn what_passes_the_head_is_charged_and_served_in_turn() {
    let mut bench = waiting();
    bench.line(2_000, 2, &Plan::of("b"), &[10; 3]);
    bench.line(2_000, 3, &Plan::of("c"), &[20; 3]);
    assert_eq!(bench.tick(2_000), [2001, 3001, 2002, 2003, 3002, 3003]);
}

#[test]
fn a_prompt_that_came_back_before_the_head_goes_first_of_its_line() {
    let mut bench = waiting();
    let line = LineId(1);
    let own = bench.queue(line).prompts.remove(0);
    bench.queue(line).prompts.push(bench::Prompt { id: 1000, need: tokens(800), pinned: None });
    bench.queue(line).prompts.push(own);
    bench.tick(3_000);
    assert_eq!(bench.head(A), Some(1000));
    bench.run(3_000, 2 * WHOLE_WINDOW);
    assert_eq!(bench.of_line(1), [(WHOLE_WINDOW, 1000), (2 * WHOLE_WINDOW, BIG)]);
}

#[test]
fn a_prompt_that_came_back_and_may_not_go_yet_does_not_cost_the_head_its_place() {
    let mut bench = waiting();
    let line = LineId(1);
    let back = bench::Prompt { id: 1000, need: tokens(800), pinned: None };
    bench.queue(line).prompts.insert(0, back);
    bench.world.not_now.insert(1000);
    bench.line(3_000, 2, &Plan::of("a").due(0), &[300]);
    assert_eq!(bench.tick(3_000), [0; 0], "300 would delay the head");
    assert_eq!(bench.head(A), Some(BIG));
}

#[test]
fn the_gate_hears_of_a_long_wait_and_of_its_end() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.world.latency = 40 * MINUTE;
    bench.use_up(0, A, tokens(600));
    bench.line(0, 1, &Plan::of("a"), &[900]);
    let mut firm = |ms| {
        bench.tick(ms);
        bench.world.firm.get(&A).copied()
    };
    assert_eq!(firm(0), None);
    assert_eq!(firm(2 * WHOLE_WINDOW - 1), None);
    assert_eq!(firm(2 * WHOLE_WINDOW), Some((tokens(900), false)));
    assert_eq!(firm(30 * MINUTE), Some((tokens(900), true)));
    assert_eq!(firm(40 * MINUTE + 60_050), None);
    assert_eq!(bench.went(BIG), Some(40 * MINUTE + 60_050));
}

#[test]
fn the_gate_hears_of_the_end_of_a_wait_when_the_line_is_taken_out() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.world.latency = 40 * MINUTE;
    bench.use_up(0, A, tokens(600));
    let line = bench.line(0, 1, &Plan::of("a"), &[900]);
    bench.tick(0);
    bench.tick(3 * WHOLE_WINDOW);
    assert!(bench.world.firm.contains_key(&A));
    bench.schedule.remove(line);
    bench.tick(3 * WHOLE_WINDOW);
    assert!(!bench.world.firm.contains_key(&A), "nobody waits any more");
    assert_eq!(bench.head(A), None);
}

#[test]
fn a_big_prompt_among_endless_small_ones_waits_a_window_at_most() {
    for latency in [0, 300, 1_900] {
        let mut bench = Bench::new(&[tpm(1_000), rpm(60)]);
        bench.world.latency = latency;
        bench.line(0, 1, &Plan::of("small"), &[40; 1_000]);
        bench.run(0, 5 * MINUTE);
        // Of the same tenant, so that nothing but its place helps it.
        bench.line(5 * MINUTE, 2, &Plan::of("small").due(0), &[1_000]);
        bench.run(5 * MINUTE, 8 * MINUTE);
        let went = bench.went(2001).expect("it goes");
        // For the one that waits already, and then for room for itself.
        let most = 2 * (WHOLE_WINDOW + latency);
        assert!(went <= 5 * MINUTE + most, "latency {latency}: at {went}");
        assert!(bench.of_line(1).len() > 100);
    }
}
