//! Who is first.

use super::*;
use crate::schedule::tick::{LINES_BEHIND, LINES_LOOKED_AT};

/// A bucket in which one goes at a time: the next one when the window is free of it.
fn single() -> Bench {
    Bench::new(&[rpm(1)])
}

/// In which order prompts go, one each window.
fn sequence(bench: &mut Bench, count: u64) -> Vec<i64> {
    (0..count).flat_map(|round| bench.tick(round * WHOLE_WINDOW)).collect()
}

#[test]
fn high_goes_before_normal_and_normal_before_low() {
    let mut bench = single();
    bench.line(0, 1, &Plan::of("a").low(), &[1, 1]);
    bench.line(0, 2, &Plan::of("a"), &[1, 1]);
    bench.line(0, 3, &Plan::of("a").high(), &[1, 1]);
    assert_eq!(sequence(&mut bench, 6), [3001, 3002, 2001, 2002, 1001, 1002]);
}

#[test]
fn of_one_tenant_the_earliest_deadline_goes_first_and_then_who_came_first() {
    let mut bench = single();
    bench.line(0, 1, &Plan::of("a"), &[1]);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    bench.line(0, 3, &Plan::of("a").due(9_000_000), &[1]);
    bench.line(0, 4, &Plan::of("a").due(8_000_000), &[1]);
    bench.line(0, 5, &Plan::of("a").due(8_000_000), &[1]);
    assert_eq!(sequence(&mut bench, 5), [4001, 5001, 3001, 1001, 2001]);
}

#[test]
fn a_deadline_does_not_take_the_turn_of_another_tenant() {
    let mut bench = single();
    bench.line(0, 1, &Plan::of("hasty").due(1_000), &[1; 3]);
    bench.line(0, 2, &Plan::of("calm"), &[1; 3]);
    assert_eq!(sequence(&mut bench, 6), [1001, 2001, 1002, 2002, 1003, 2003]);
}

#[test]
fn who_was_served_least_goes_first_by_parts_of_the_limit() {
    // A prompt of 40 tokens takes as much as two of 20.
    let mut bench = Bench::new(&[tpm(80)]);
    bench.line(0, 1, &Plan::of("wide"), &[40; 4]);
    bench.line(0, 2, &Plan::of("narrow"), &[20; 12]);
    assert_eq!(bench.tick(0), [1001, 2001, 2002]);
    assert_eq!(bench.tick(WHOLE_WINDOW), [1002, 2003, 2004]);
}

#[test]
fn a_weight_of_three_is_served_three_times_as_much() {
    let mut bench = Bench::new(&[rpm(4)]);
    let heavy = bench.tenant("heavy");
    bench.schedule.set_weight(heavy, 3);
    bench.line(0, 1, &Plan::of("heavy"), &[1; 100]);
    bench.line(0, 2, &Plan::of("light"), &[1; 100]);
    bench.run(0, 10 * WHOLE_WINDOW);
    assert_eq!((bench.of_line(1).len(), bench.of_line(2).len()), (33, 11));
}

#[test]
fn what_is_not_served_counts_a_class_better_after_half_an_hour() {
    let mut bench = single();
    bench.world.hindered.insert(A, 100 * MINUTE);
    let low = bench.line(0, 1, &Plan::of("a").low(), &[1]);
    let normal = bench.line(30 * MINUTE, 2, &Plan::of("a"), &[1]);
    bench.tick(30 * MINUTE - 1);
    assert_eq!(bench.schedule.first(A), Some(normal));
    bench.tick(30 * MINUTE);
    assert_eq!(bench.schedule.first(A), Some(low), "equal now, and it came first");
    let high = bench.line(60 * MINUTE - 1, 3, &Plan::of("a").high(), &[1]);
    bench.tick(60 * MINUTE - 1);
    assert_eq!(bench.schedule.first(A), Some(high));
    bench.tick(60 * MINUTE);
    assert_eq!(bench.schedule.first(A), Some(low));
    bench.tick(90 * MINUTE);
    assert_eq!(bench.schedule.first(A), Some(low), "it does not get better than high");
}

#[test]
fn a_served_line_is_back_in_its_class() {
    let mut bench = single();
    bench.world.hindered.insert(A, 60 * MINUTE);
    bench.line(0, 1, &Plan::of("a").low(), &[1, 1]);
    bench.line(60 * MINUTE, 2, &Plan::of("a").high(), &[1, 1]);
    bench.run(60 * MINUTE, 65 * MINUTE);
    let order: Vec<_> = bench.world.started.iter().map(|it| it.item).collect();
    assert_eq!(order, [1001, 2001, 2002, 1002]);
}

#[test]
fn low_under_endless_high_is_served_within_an_hour_and_two_windows() {
    for tenant in ["a", "b"] {
        let mut bench = single();
        bench.line(0, 1, &Plan::of("a").high(), &[1; 500]);
        bench.line(0, 2, &Plan::of(tenant).low(), &[1; 5]);
        bench.run(0, 250 * MINUTE);
        let times: Vec<_> = bench.of_line(2).iter().map(|(ms, _)| *ms).collect();
        assert!(times.len() >= 3, "{times:?}");
        for (before, after) in [0].iter().chain(&times).zip(&times) {
            let waited = after - before;
            // An hour, then the head that waits already, then room for itself.
            assert!(waited <= 60 * MINUTE + 2 * WHOLE_WINDOW, "{times:?}");
            assert!(waited >= 60 * MINUTE, "it is low again when it was served: {times:?}");
        }
    }
}

#[test]
fn a_line_that_sleeps_does_not_age() {
    let mut bench = single();
    let low = bench.line(0, 1, &Plan::of("a").low(), &[1]);
    bench.queue(low).later = Some(90 * MINUTE);
    bench.tick(0);
    assert_eq!(bench.schedule.first(A), None);
    let high = bench.line(90 * MINUTE, 2, &Plan::of("a").high(), &[1]);
    bench.tick_of(B, 90 * MINUTE);
    assert_eq!(bench.schedule.first(A), Some(high), "the low one could not go before");
}

#[test]
fn a_line_that_is_entered_again_keeps_its_age() {
    let mut bench = single();
    bench.world.hindered.insert(A, 100 * MINUTE);
    let low = bench.line(0, 1, &Plan::of("a").low(), &[1]);
    bench.line(0, 2, &Plan::of("a"), &[1]);
    let again = bench.describe(&Plan::of("a").low());
    let now = bench.now(29 * MINUTE);
    bench.schedule.add(low, again, now.boot, now.boot);
    bench.tick(31 * MINUTE);
    // Both are one better: the other one is high now.
    assert_eq!(bench.schedule.unserved_ms(low, bench.now(31 * MINUTE).boot), Some(31 * MINUTE));
    assert_eq!(bench.schedule.first(A), Some(LineId(2)));
    bench.tick(60 * MINUTE);
    assert_eq!(bench.schedule.first(A), Some(low));
}

#[test]
fn who_comes_back_has_saved_nothing_up() {
    let mut bench = Bench::new(&[rpm(2)]);
    bench.line(0, 1, &Plan::of("steady"), &[1; 100]);
    let brief = bench.line(0, 2, &Plan::of("brief"), &[1]);
    bench.run(0, 10 * WHOLE_WINDOW);
    let served = bench.of_line(1).len();
    bench.more(brief, &[1; 20]);
    bench.run(11 * WHOLE_WINDOW, 15 * WHOLE_WINDOW);
    // Five windows of two each: they share them, though one had ten times as much before.
    assert_eq!((bench.of_line(1).len() - served, bench.of_line(2).len() - 1), (5, 5));
}

#[test]
fn who_comes_back_to_an_empty_bucket_has_saved_nothing_up_either() {
    let mut bench = Bench::new(&[rpm(2)]);
    bench.line(0, 1, &Plan::of("steady"), &[1; 20]);
    bench.run(0, 12 * WHOLE_WINDOW);
    let brief = bench.line(13 * WHOLE_WINDOW, 2, &Plan::of("brief"), &[1; 20]);
    bench.more(LineId(1), &[1; 20]);
    bench.run(13 * WHOLE_WINDOW, 17 * WHOLE_WINDOW);
    assert_eq!((bench.of_line(1).len() - 20, bench.of_line(brief.0).len()), (5, 5));
}

#[test]
fn a_cost_that_turns_out_smaller_is_given_back() {
    let mut bench = single();
    let (a, b) = (bench.tenant("a"), bench.tenant("b"));
    bench.schedule.set_weight(a, 2);
    bench.line(0, 1, &Plan::of("a"), &[1; 9]);
    bench.line(0, 2, &Plan::of("b"), &[1; 9]);
    bench.schedule.charge(A, a, 1_000);
    bench.schedule.charge(A, b, 400);
    assert_eq!(bench.schedule.first(A), Some(LineId(2)));
    bench.schedule.correct(A, a, 1_000, 700);
    assert_eq!((bench.schedule.service(A, a), bench.schedule.service(A, b)), (350, 400));
    assert_eq!(bench.schedule.first(A), Some(LineId(1)));
    bench.schedule.correct(A, a, 700, 900);
    assert_eq!(bench.schedule.first(A), Some(LineId(2)));
    bench.schedule.correct(A, b, 1_000_000, 0);
    assert_eq!(bench.schedule.service(A, b), 0, "never less than nothing");
}

#[test]
fn a_replay_gives_the_counters_that_were_there() {
    let mut bench = Bench::new(&[rpm(5)]);
    let [a, b, c] = ["a", "b", "c"].map(|name| bench.tenant(name));
    bench.schedule.set_weight(b, 2);
    let mut events = vec![(a, None)];
    bench.line(0, 1, &Plan::of("a"), &[1; 50]);
    bench.run(0, 3 * WHOLE_WINDOW);
    let note = |bench: &Bench, from: usize, events: &mut Vec<(TenantId, Option<u128>)>| {
        let tenants = [a, b, c];
        let more = bench.world.started[from..].iter();
        events.extend(more.map(|it| {
            let nth = usize::try_from(it.line.0 - 1).expect("a small number");
            (tenants[nth], Some(it.cost))
        }));
        bench.world.started.len()
    };
    let seen = note(&bench, 0, &mut events);
    events.extend([(b, None), (c, None)]);
    bench.line(4 * WHOLE_WINDOW, 2, &Plan::of("b"), &[1; 50]);
    bench.line(4 * WHOLE_WINDOW, 3, &Plan::of("c"), &[1; 50]);
    bench.run(4 * WHOLE_WINDOW, 7 * WHOLE_WINDOW);
    note(&bench, seen, &mut events);

    let mut after = single();
    for name in ["a", "b", "c"] {
        after.tenant(name);
    }
    after.schedule.set_weight(b, 2);
    after.schedule.replay(A, events);
    for (id, name) in [(1, "a"), (2, "b"), (3, "c")] {
        after.line(0, id, &Plan::of(name), &[1; 50]);
    }
    let services = |bench: &Bench| [a, b, c].map(|it| bench.schedule.service(A, it));
    assert_eq!(services(&after), services(&bench));
    assert_eq!(after.schedule.first(A), bench.schedule.first(A));
}

#[test]
fn a_tick_can_replay_beside_lines_that_are_there() {
    let mut bench = single();
    let (a, b) = (bench.tenant("a"), bench.tenant("b"));
    bench.line(0, 1, &Plan::of("a"), &[1]);
    bench.line(0, 2, &Plan::of("b"), &[1]);
    bench.schedule.replay(A, [(a, None), (a, Some(500)), (b, None), (b, Some(100))]);
    assert!(bench.schedule.service(A, a) < bench.schedule.service(A, b));
    assert_eq!(bench.schedule.first(A), Some(LineId(1)), "b came when a had 500 already");
}

#[test]
fn an_order_that_is_read_in_parts_is_the_same() {
    let mut bench = Bench::new(&[rpm(10)]);
    bench.world.hindered.insert(A, MINUTE);
    for id in 1..=100 {
        let plan = Plan::of(["a", "b", "c"][usize::try_from(id % 3).expect("small")]);
        let plan = if id % 5 == 0 {
            plan.due(100_000 - 7 * u64::try_from(id).expect("small"))
        } else {
            plan
        };
        let plan = if id % 4 == 0 { plan.high() } else { plan };
        bench.line(0, id, &plan, &[1]);
    }
    let b = bench.tenant("b");
    bench.schedule.charge(A, b, 5);
    let lane = &bench.schedule.lanes[&A];
    let whole: Vec<_> = lane.in_order().map(|(level, _, line)| (level, line)).collect();
    assert_eq!(whole.len(), 100);
    for most in [1, 7, 100] {
        let (mut parts, mut last) = (Vec::new(), None);
        loop {
            let part: Vec<_> = lane.behind(last).take(most).collect();
            let Some(end) = part.last() else { break };
            last = Some(*end);
            parts.extend(part.iter().map(|spot| (spot.level(), spot.line())));
        }
        assert_eq!(parts, whole, "{most} at a time");
    }
}

/// However many wait for something else before it: it is found, a part of them in each tick.
#[test]
fn what_stands_behind_ten_thousand_lines_is_found() {
    let mut bench = Bench::new(&[rpm(10)]);
    let ahead = i64::try_from(LINES_LOOKED_AT + 3 * LINES_BEHIND).expect("small") + 5;
    for id in 1..=ahead {
        bench.line(0, id, &Plan::of("a"), &[1]);
        bench.world.unknown.insert(id * 1_000 + 1);
    }
    let (last, first) = (ahead + 1, ahead + 2);
    bench.line(0, last, &Plan::of("a"), &[1; 2]);
    let mut ticks = 0;
    while bench.of_line(last).is_empty() {
        bench.world.peeks = 0;
        let until = bench.tick_of(A, ticks).map(|it| it.0);
        ticks += 1;
        let looks = 1 + bench.of_line(last).len();
        assert!(bench.world.peeks <= looks * (LINES_LOOKED_AT + LINES_BEHIND), "{ticks}");
        assert!(ticks <= 4, "not found");
        assert!(ticks == 4 || until.is_some(), "it is looked at again, without an event");
    }
    assert_eq!((ticks, bench.of_line(last).len()), (4, 2));
    // Who comes first goes first, whatever was looked at behind.
    bench.line(ticks, first, &Plan::of("a").high(), &[1]);
    bench.more(LineId(last), &[1]);
    assert_eq!(bench.tick(ticks)[0], first * 1_000 + 1);
}
