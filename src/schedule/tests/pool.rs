//! Lines that have more than one route.

use super::*;
use crate::schedule::tests::bench::Prompt;

/// Two buckets of different projects.
fn two(limits: &[crate::gate::limits::Limit]) -> Bench {
    let mut bench = Bench::new(limits);
    bench.bucket(B, limits);
    bench
}

fn pooled(tenant: &str) -> Plan {
    Plan::of(tenant).to(A).or(B)
}

fn pin(bench: &mut Bench, line: LineId, item: i64, project: i64) {
    let prompts = &mut bench.queue(line).prompts;
    let prompt = prompts.iter_mut().find(|it| it.id == item).expect("a prompt of the line");
    prompt.pinned = Some(project);
}

#[test]
fn prompts_go_where_most_is_left() {
    let mut bench = Bench::new(&[rpm(30)]);
    bench.bucket(B, &[rpm(10)]);
    bench.line(0, 1, &pooled("a"), &[1; 100]);
    bench.tick(0);
    let on = |bucket| bench.world.started.iter().filter(|it| it.bucket == bucket).count();
    assert_eq!((on(A), on(B)), (30, 10), "all of both");
    let early = &bench.world.started[..20];
    let on = |bucket| early.iter().filter(|it| it.bucket == bucket).count();
    assert_eq!((on(A), on(B)), (15, 5), "and always in proportion");
}

#[test]
fn of_equals_the_first_route_is_taken() {
    let mut bench = two(&[rpm(10)]);
    bench.line(0, 1, &Plan::of("a").to(B).or(A), &[1]);
    bench.tick(0);
    assert_eq!(bench.place(1001), Some(B));
}

#[test]
fn a_day_that_runs_out_too_early_counts_as_little_room() {
    // Noon: half of the day is left.
    let mut bench = two(&[rpm(100), rpd(100)]);
    bench.use_up(0, A, bench::many(80));
    bench.line(WHOLE_WINDOW, 1, &pooled("a"), &[1; 40]);
    bench.tick(WHOLE_WINDOW);
    let on =
        |bucket| bench.of_line(1).iter().filter(|it| bench.place(it.1) == Some(bucket)).count();
    assert!(on(B) > 35, "{} went to the one with most of its day left", on(B));
}

#[test]
fn a_hindered_project_leaves_the_work_to_the_other() {
    let mut bench = two(&[rpm(10)]);
    bench.world.hindered.insert(B, 60 * MINUTE);
    bench.line(0, 1, &pooled("a"), &[1; 12]);
    assert_eq!(bench.tick(0).len(), 10);
    assert!(bench.world.started.iter().all(|it| it.bucket == A));
    bench.world.hindered.clear();
    assert_eq!(bench.tick(1).len(), 2);
}

#[test]
fn an_exhausted_project_leaves_the_work_to_the_other() {
    let mut bench = Bench::new(&[rpm(10), rpd(5)]);
    bench.bucket(B, &[rpm(10)]);
    bench.line(0, 1, &pooled("a"), &[1; 60]);
    bench.run(0, 5 * WHOLE_WINDOW);
    let on = |bucket| bench.world.started.iter().filter(|it| it.bucket == bucket).count();
    assert_eq!((on(A), on(B)), (5, 55));
}

#[test]
fn a_prompt_that_fits_elsewhere_is_not_refused_here() {
    let mut bench = Bench::new(&[tpm(100)]);
    bench.bucket(B, &[tpm(10_000)]);
    // In B it is somebody else's turn.
    bench.line(0, 1, &Plan::of("first").to(B), &[9_000; 2]);
    bench.line(0, 2, &pooled("second"), &[5_000]);
    bench.run(0, 5 * WHOLE_WINDOW);
    assert_eq!(bench.world.refused, []);
    assert_eq!(bench.place(2001), Some(B));
}

#[test]
fn a_prompt_is_refused_when_every_route_says_never() {
    let mut bench = two(&[tpm(100)]);
    bench.line(0, 1, &pooled("a"), &[101, 100]);
    bench.line(0, 2, &Plan::of("a").to(A).else_to(B), &[102]);
    bench.run(0, 2 * WHOLE_WINDOW);
    let refused: Vec<_> = bench.world.refused.iter().map(|it| it.0).collect();
    assert_eq!(refused, [1001, 2001]);
    assert!(bench.went(1002).is_some());
}

#[test]
fn a_prompt_is_not_refused_because_only_its_fallback_is_too_small() {
    let mut bench = Bench::new(&[tpm(1_000)]);
    bench.bucket(B, &[tpm(100)]);
    bench.world.hindered.insert(A, 60 * MINUTE);
    bench.line(0, 1, &Plan::of("a").to(A).else_to(B).patient(0), &[500]);
    bench.run(0, 61 * MINUTE);
    assert_eq!(bench.world.refused, []);
    assert_eq!(bench.place(1001), Some(A));
}

#[test]
fn a_fallback_is_taken_only_when_the_others_are_further_away_than_the_patience() {
    for (patience, place) in [(62_000, B), (WHOLE_WINDOW, A)] {
        let mut bench = two(&[rpm(1)]);
        bench.use_up(0, A, tokens(1));
        bench.line(0, 1, &Plan::of("a").to(A).else_to(B).patient(patience), &[1]);
        bench.run(0, 2 * WHOLE_WINDOW);
        assert_eq!(bench.place(1001), Some(place), "patience {patience}");
    }
}

#[test]
fn a_short_hindrance_is_no_reason_for_a_fallback() {
    let mut bench = two(&[rpm(10)]);
    bench.world.hindered.insert(A, 1_000);
    bench.line(0, 1, &Plan::of("a").to(A).else_to(B).patient(60_000), &[1]);
    bench.run(0, 5_000);
    assert_eq!((bench.place(1001), bench.went(1001)), (Some(A), Some(1_000)));
    bench.world.hindered.insert(A, 500_000);
    bench.line(5_000, 2, &Plan::of("a").to(A).else_to(B).patient(60_000), &[1]);
    bench.run(5_000, 10_000);
    assert_eq!((bench.place(2001), bench.went(2001)), (Some(B), Some(5_000)));
}

#[test]
fn who_waits_for_a_hindered_project_does_not_stop_its_fallback_for_others() {
    let mut bench = two(&[rpm(10)]);
    bench.world.hindered.insert(A, 1_000);
    bench.line(0, 1, &Plan::of("a").to(A).else_to(B), &[1]);
    bench.line(0, 2, &Plan::of("a").to(B), &[1]);
    assert_eq!(bench.tick(0), [2001]);
}

#[test]
fn a_big_prompt_waits_for_its_fallback_like_any_other() {
    let mut bench = Bench::new(&[tpm(1_000), rpd(1)]);
    bench.bucket(B, &[tpm(1_000), rpm(60)]);
    bench.use_up(0, A, tokens(1));
    bench.line(0, 1, &Plan::of("a").to(B), &[40; 500]);
    bench.run(0, 5 * MINUTE);
    bench.line(5 * MINUTE, 2, &Plan::of("a").due(0).to(A).else_to(B), &[1_000]);
    bench.run(5 * MINUTE, 10 * MINUTE);
    let went = bench.went(2001).expect("small ones do not keep it out for ever");
    assert!(went <= 5 * MINUTE + 2 * WHOLE_WINDOW, "{went}");
}

#[test]
fn a_big_prompt_with_two_routes_is_not_kept_out_of_both_by_small_ones() {
    let mut bench = two(&[tpm(1_000), rpm(60)]);
    bench.line(0, 1, &Plan::of("a").to(A), &[40; 500]);
    bench.line(0, 2, &Plan::of("b").to(B), &[50; 500]);
    bench.run(0, 30_000);
    bench.line(30_000, 3, &pooled("c"), &[990, 990, 990]);
    bench.run(30_000, 8 * MINUTE);
    let times: Vec<_> = bench.of_line(3).iter().map(|it| it.0).collect();
    assert_eq!(times.len(), 3, "{times:?}");
    for (before, after) in [30_000].iter().chain(&times).zip(&times) {
        assert!(after - before <= 2 * WHOLE_WINDOW, "{times:?}");
    }
}

#[test]
fn a_pinned_prompt_goes_to_its_project_alone() {
    let mut bench = two(&[rpm(1)]);
    let line = bench.line(0, 1, &pooled("a"), &[1, 1, 1]);
    pin(&mut bench, line, 1001, B.0);
    pin(&mut bench, line, 1002, B.0);
    bench.run(0, 2 * WHOLE_WINDOW);
    let places = [1001, 1002, 1003].map(|item| (bench.place(item), bench.went(item)));
    let expected = [(Some(B), Some(0)), (Some(B), Some(WHOLE_WINDOW)), (Some(A), Some(0))];
    assert_eq!(places, expected);
}

#[test]
fn a_prompt_pinned_to_a_hindered_project_does_not_stop_the_other() {
    let mut bench = two(&[rpm(10)]);
    bench.world.hindered.insert(B, 60 * MINUTE);
    let line = bench.line(0, 1, &pooled("a"), &[1, 1]);
    pin(&mut bench, line, 1001, B.0);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    assert_eq!(bench.tick(0), [1002, 2001]);
}

#[test]
fn nobody_starts_elsewhere_past_the_head_there() {
    let mut bench = two(&[tpm(1_000)]);
    bench.use_up(0, B, tokens(600));
    bench.line(0, 1, &Plan::of("a").to(B), &[900]);
    bench.tick(0);
    assert_eq!(bench.head(B), Some(1001));
    // A tenant that was served less, for which B would have room, and A has none.
    bench.schedule.charge(B, TenantId(0), 1_000);
    bench.use_up(0, A, tokens(1_000));
    bench.line(1_000, 2, &pooled("b"), &[300]);
    bench.run(1_000, 3 * WHOLE_WINDOW);
    assert_eq!(bench.went(1001), Some(WHOLE_WINDOW));
}

#[test]
fn what_went_elsewhere_leaves_no_head_behind() {
    let mut bench = two(&[tpm(1_000)]);
    bench.use_up(0, A, tokens(600));
    bench.use_up(1_000, B, tokens(600));
    bench.line(1_000, 1, &pooled("a"), &[900]);
    bench.tick(1_000);
    assert_eq!((bench.head(A), bench.head(B)), (Some(1001), None));
    bench.world.hindered.insert(A, 70_000);
    bench.run(1_000, 1_000 + WHOLE_WINDOW);
    assert_eq!(bench.place(1001), Some(B));
    assert_eq!((bench.head(A), bench.head(B)), (None, None));
    let id = 1002;
    bench.queue(LineId(1)).prompts.push(Prompt { id, need: tokens(1), pinned: None });
    bench.schedule.rouse(LineId(1), bench.now(70_000).boot);
    assert_eq!(bench.tick(70_000), [id]);
}
