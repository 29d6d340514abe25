//! What holds whatever comes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::gate::share::WHOLE_SHARE;

/// A line to be: its tenant, class, deadline, when it comes and its prompts' tokens.
type Sketch = (u8, u8, Option<u64>, u64, Vec<u64>);

const TENANTS: [&str; 3] = ["a", "b", "c"];

fn sketch() -> impl Strategy<Value = Sketch> {
    let deadline = prop::option::of(0..1_000_000_u64);
    let tokens = prop_oneof![4 => 1..60_u64, 1 => 500..1_000_u64];
    let prompts = prop::collection::vec(tokens, 1..12);
    (0..3_u8, 0..3_u8, deadline, 0..200_000_u64, prompts)
}

fn plan((tenant, class, due, ..): &Sketch) -> Plan {
    let plan = Plan::of(TENANTS[usize::from(*tenant)]).class(*class);
    match due {
        Some(ms) => plan.due(*ms),
        None => plan,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn each_prompt_goes_once_and_none_is_lost(
        sketches in prop::collection::vec((sketch(), 0..4_u8), 1..8),
        (rpm_, tpm_, latency) in (1..20_u64, 900..3_000_u64, 0..5_000_u64),
    ) {
        let mut bench = Bench::new(&[rpm(rpm_), tpm(tpm_)]);
        bench.bucket(B, &[rpm(rpm_), tpm(2_000)]);
        bench.world.latency = latency;
        let mut sketches: Vec<_> = sketches.iter().zip(1..).collect();
        sketches.sort_by_key(|((sketch, _), _)| sketch.3);
        let (mut from, mut all) = (0, BTreeSet::new());
        for ((sketch, routes), id) in sketches {
            bench.run(from, sketch.3);
            from = sketch.3;
            let plan = match routes {
                0 => plan(sketch),
                1 => plan(sketch).or(B),
                2 => plan(sketch).to(B).or(A),
                _ => plan(sketch).to(B).else_to(A).patient(20_000),
            };
            bench.line(from, id, &plan, &sketch.4);
            all.extend((1..).zip(&sketch.4).map(|(place, _)| id * 1_000 + place));
        }
        bench.run(from, from + 200 * MINUTE);
        let mut done: Vec<_> = bench.world.started.iter().map(|it| it.item).collect();
        done.extend(bench.world.refused.iter().map(|it| it.0));
        let once: BTreeSet<_> = done.iter().copied().collect();
        prop_assert_eq!(once.len(), done.len());
        prop_assert_eq!(once, all);
        prop_assert!(bench.world.lines.values().all(|queue| queue.prompts.is_empty()));
    }

    #[test]
    fn what_passes_the_head_does_not_delay_it(
        before in prop::collection::vec((0..60_000_u64, 1..400_u64), 0..12),
        head in 300..1_000_u64,
        after in prop::collection::vec((sketch(), 0..1_u8), 1..6),
    ) {
        let start = |sketches: &[(Sketch, u8)]| {
            let mut bench = Bench::new(&[tpm(1_000), rpm(12)]);
            let mut before = before.clone();
            before.sort_unstable();
            for (ms, weight) in &before {
                bench.world.admit(A, tokens(*weight), *ms);
            }
            bench.line(60_000, 1, &Plan::of("a").high(), &[head]);
            bench.tick(60_000);
            let mut from = 60_000;
            let mut sketches: Vec<_> = sketches.iter().zip(2..).collect();
            sketches.sort_by_key(|((sketch, _), _)| sketch.3);
            for ((sketch, _), id) in sketches {
                let at = 60_000 + sketch.3 / 3;
                bench.run(from, at);
                from = at;
                bench.line(at, id, &plan(sketch), &sketch.4);
            }
            bench.run(from, 300_000);
            bench.went(1001)
        };
        let alone = start(&[]);
        prop_assert!(alone.is_some_and(|ms| ms <= 60_000 + WHOLE_WINDOW));
        prop_assert_eq!(start(&after), alone);
    }

    #[test]
    fn who_always_has_something_gets_the_same_within_two_prompts(
        weights in prop::collection::vec(1..6_u32, 2..5),
        (rpm_, latency) in (1..15_u64, 0..3_000_u64),
    ) {
        let mut bench = Bench::new(&[rpm(rpm_)]);
        bench.world.latency = latency;
        let tenants: Vec<_> = weights.iter().map(|weight| (*weight, vec![1])).collect();
        let (gap, most) = widest_gap(&mut bench, &tenants);
        prop_assert!(gap <= 2 * most, "{gap} of {most}");
    }

    // What a tenant cannot use, others may: what is left of a window beside a head goes to whoever
    // it is enough for. With prompts of a fifth of the limit at most that is made up for in the next
    // one; with large ones, or where another limit is left over, whoever is small gets more for good.
    #[test]
    fn prompts_of_many_sizes_come_to_the_same_within_what_passes_a_head(
        sizes in prop::collection::vec(prop::collection::vec(20..200_u64, 1..6), 2..5),
        latency in 0..3_000_u64,
    ) {
        let mut bench = Bench::new(&[tpm(1_000)]);
        bench.world.latency = latency;
        let tenants: Vec<_> = sizes.into_iter().map(|sizes| (1, sizes)).collect();
        let (gap, most) = widest_gap(&mut bench, &tenants);
        prop_assert!(gap <= 2 * most + WHOLE_SHARE / 5, "{gap} of {most}");
    }
}

/// Serves tenants of these weights, each with prompts of these sizes without end, and returns how
/// far any two were apart at most, and the most that a prompt cost, both by weight.
fn widest_gap(bench: &mut Bench, tenants: &[(u32, Vec<u64>)]) -> (u128, u128) {
    let mut weights = BTreeMap::new();
    for ((weight, prompts), id) in tenants.iter().zip(1..) {
        let name = format!("tenant {id}");
        let tenant = bench.tenant(&name);
        bench.schedule.set_weight(tenant, *weight);
        let endless: Vec<_> = prompts.iter().cycle().copied().take(2_000).collect();
        bench.line(0, id, &Plan::of(&name), &endless);
        weights.insert(LineId(id), u128::from(*weight));
    }
    bench.run(0, 20 * MINUTE);
    assert!(bench.world.lines.values().all(|queue| !queue.prompts.is_empty()));
    let mut served: BTreeMap<_, _> = weights.keys().map(|line| (*line, 0)).collect();
    let (mut gap, mut most) = (0, 0);
    for it in &bench.world.started {
        let cost = it.cost / weights[&it.line];
        *served.entry(it.line).or_insert(0) += cost;
        most = most.max(cost);
        let least = served.values().min().expect("two tenants at least");
        let first = served.values().max().expect("two tenants at least");
        gap = gap.max(first - least);
    }
    (gap, most)
}
