//! Who goes next: the schedule over the gate, beside schedulers that decide less well.

mod world;

use std::collections::BTreeMap;

use fastrand::Rng;
use tidegate::gate::admit::BucketId;
use tidegate::schedule::LineId;

use world::{Delays, MINUTE, Policy, Start, World, rpd, rpm, tpm};

/// W' without what the headers take.
const W: u64 = 62_050;

/// The backlog of design/quota-rules.md, 6.3: 600 prompts, a tenth of them large.
fn backlog(policy: Policy, seed: u64) -> (World, u64) {
    let mut world = World::new(policy, &[vec![rpm(15), tpm(250_000)]], seed);
    let line = world.line(1, 1, "a", &[1]);
    let mut rng = Rng::with_seed(seed);
    let mut sum = 0;
    for item in 1..=600 {
        let large = rng.u64(0..10) == 0;
        let tokens = if large { rng.u64(120_000..=240_000) } else { rng.u64(500..=3_000) };
        sum += tokens;
        world.arrives(0, line, item, tokens);
    }
    let windows = (sum.div_ceil(250_000)).max(600 / 15);
    (world, windows)
}

/// When the last of the backlog starts, in milliseconds after the first.
fn drain(policy: Policy, seed: u64) -> u64 {
    let (mut world, _) = backlog(policy, seed);
    world.run_until(300 * MINUTE);
    assert_eq!((world.starts.len(), world.left()), (600, 0), "{policy:?}");
    world.starts[599].at - world.starts[0].at
}

/// Small prompts at four fifths of the tokens, and a large one every twenty minutes.
fn sustained(policy: Policy, seed: u64) -> World {
    let mut world = World::new(policy, &[vec![rpm(60), tpm(250_000)]], seed);
    let small = world.line(1, 1, "a", &[1]);
    let large = world.line(2, 1, "b", &[1]);
    let mut rng = Rng::with_seed(seed);
    let (mut at, mut item) = (0, 1);
    while at < 360 * MINUTE {
        world.arrives(at, small, item, rng.u64(2_000..=8_000));
        item += 1;
        at += rng.u64(1..=3_000);
    }
    for number in 0..18 {
        let at = number * 20 * MINUTE + rng.u64(0..MINUTE);
        world.arrives(at, large, 100_000 + i64::try_from(number).expect("few"), {
            rng.u64(200_000..=240_000)
        });
    }
    world.run_until(360 * MINUTE);
    world
}

fn waits(starts: &[Start], large: bool) -> (u64, u64) {
    let waits = starts.iter().filter(|start| (start.item >= 100_000) == large);
    let waits: Vec<_> = waits.map(|start| start.waited).collect();
    let count = u64::try_from(waits.len().max(1)).expect("a count");
    (waits.iter().max().copied().unwrap_or(0), waits.iter().sum::<u64>() / count)
}

/// Jain's index in millionths: 1 when all have the same.
fn jain(shares: &[u64]) -> u64 {
    let sum: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    let squares: u128 = shares.iter().map(|share| u128::from(*share).pow(2)).sum();
    let count = u128::try_from(shares.len()).expect("a count");
    u64::try_from(sum * sum * 1_000_000 / (count * squares).max(1)).expect("at most a million")
}

/// What tenants with prompts of different sizes were served in ten windows, in tokens or requests
/// by what is short, with these weights.
fn served(policy: Policy, weights: &[u32], seed: u64) -> Vec<u64> {
    let mut world = World::new(policy, &[vec![rpm(1_000), tpm(250_000)]], seed);
    let mut rng = Rng::with_seed(seed);
    for (number, weight) in (1..).zip(weights) {
        let name = format!("tenant-{}", number - 1);
        let line = world.line(number, 1, &name, &[1]);
        let tenant = world.tenant(&name);
        world.schedule.set_weight(tenant, *weight);
        let size = 500 * u64::try_from(number).expect("small");
        for item in 0..3_000 {
            let tokens = rng.u64(size..=3 * size);
            world.arrives(0, line, number * 1_000_000 + item, tokens);
        }
    }
    world.run_until(10 * W);
    let mut shares = vec![0; weights.len()];
    for start in &world.starts {
        let place = usize::try_from(start.line.0 - 1).expect("a place");
        shares[place] += start.tokens;
    }
    shares.iter().zip(weights).map(|(share, weight)| share / u64::from(*weight)).collect()
}

#[test]
fn backfill_is_as_fast_as_first_fit() {
    for seed in 1..=3 {
        let (ours, first_fit) = (drain(Policy::Ours, seed), drain(Policy::FirstFit, seed));
        assert!(ours * 100 <= first_fit * 103, "seed {seed}: {ours} against {first_fit} ms");
    }
    let sum = |policy| (1..=3).map(|seed| drain(policy, seed)).sum::<u64>();
    let (fifo, first_fit) = (sum(Policy::Fifo), sum(Policy::FirstFit));
    assert!(fifo * 100 > first_fit * 103, "no backfill would be seen: {fifo}, {first_fit} ms");
}

#[test]
fn no_head_waits_longer_than_a_window() {
    for seed in 1..=3 {
        let world = sustained(Policy::Ours, seed);
        let (longest, _) = waits(&world.starts, true);
        let bound = W + world.longest_headers;
        assert!(longest <= bound, "seed {seed}: a large one waited {longest} of {bound} ms");
        assert!(world.waiting_longer(3 * W).is_empty(), "seed {seed}");
        let small = waits(&world.starts, false);
        assert!(small.0 <= 3 * W, "seed {seed}: a small one waited {} ms", small.0);
    }
}

/// The same check sees rules that keep no place.
#[test]
fn rules_that_keep_no_place_let_the_large_ones_wait() {
    for policy in [Policy::FirstFit, Policy::SmallestFirst, Policy::HeadUnkept] {
        let caught = (1..=3).any(|seed| {
            let world = sustained(policy, seed);
            let (longest, _) = waits(&world.starts, true);
            longest > W + world.longest_headers || !world.waiting_longer(3 * W).is_empty()
        });
        assert!(caught, "{policy:?} is not caught");
    }
}

#[test]
fn backlogged_tenants_have_the_same_whatever_they_send() {
    for seed in 1..=2 {
        for tenants in [2, 4, 6] {
            let shares = served(Policy::Ours, &vec![1; tenants], seed);
            let index = jain(&shares);
            assert!(index >= 980_000, "seed {seed}, {tenants} tenants: {index}, {shares:?}");
            let least = shares.iter().min().expect("tenants");
            let most = shares.iter().max().expect("tenants");
            let largest = 1_500 * u64::try_from(tenants).expect("few");
            assert!(most - least <= 2 * largest, "a gap of more than two prompts: {shares:?}");
        }
        let shares = served(Policy::Ours, &[1, 2, 5], seed);
        assert!(jain(&shares) >= 980_000, "seed {seed}, by weight: {shares:?}");
        let wrong = served(Policy::ByRequests, &[1; 6], seed);
        assert!(jain(&wrong) < 980_000, "counting prompts would not be seen: {wrong:?}");
    }
}

/// A `low` batch under `high` ones without end.
#[test]
fn what_is_not_served_ages() {
    let mut world = World::new(Policy::Ours, &[vec![rpm(5)]], 1);
    let low = world.line(1, 2, "a", &[1]);
    world.arrives(0, low, 1, 10);
    let mut item = 10;
    for batch in 0..150 {
        let line = world.line(100 + batch, 0, "a", &[1]);
        let at = u64::try_from(batch).expect("small") * MINUTE;
        for _ in 0..8 {
            world.arrives(at, line, item, 10);
            item += 1;
        }
    }
    world.run_until(150 * MINUTE);
    let first = world.starts.iter().find(|start| start.line == low).expect("it is served");
    assert!(first.waited <= 60 * MINUTE + W + world.longest_headers, "{} ms", first.waited);
    assert!(first.waited >= 60 * MINUTE, "and not before its time: {} ms", first.waited);
}

#[test]
fn a_bucket_out_of_its_day_delays_no_other() {
    let starts = |with: bool| {
        let limits = [vec![rpm(60), rpd(1)], vec![rpm(15), tpm(50_000)]];
        let mut world = World::new(Policy::Ours, &limits, 3);
        world.delays = Delays::Exactly { headers_ms: 700, end_ms: 1_500 };
        let (stuck, other) = (world.line(1, 0, "a", &[1]), world.line(2, 1, "a", &[2]));
        for item in 0..if with { 5_000 } else { 0 } {
            world.arrives(0, stuck, item, 10);
        }
        let mut rng = Rng::with_seed(3);
        for (item, at) in (10_000..10_200).zip((0..).step_by(500)) {
            world.arrives(at, other, item, rng.u64(100..9_000));
        }
        world.run_until(60 * MINUTE);
        let of_other = world.starts.iter().filter(|start| start.line == other);
        of_other.map(|start| (start.at, start.item)).collect::<Vec<_>>()
    };
    assert_eq!(starts(true), starts(false));
    assert_eq!(starts(true).len(), 200);
}

/// Restarts at any time lose nothing, send nothing twice, and change nobody's share.
#[test]
fn restarts_lose_nothing_and_share_as_before() {
    for seed in 1..=20 {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(Policy::Ours, &[vec![rpm(30), tpm(100_000)]], seed);
        for number in 1..=3_i64 {
            let name = format!("tenant-{}", number - 1);
            let line = world.line(number, 1, &name, &[1]);
            for item in 0..100 {
                world.arrives(0, line, number * 1_000 + item, rng.u64(100..=20_000));
            }
        }
        let mut at = 0;
        while world.left() > 0 || at == 0 {
            at += rng.u64(1_000..=3 * MINUTE);
            world.run_until(at);
            world.restart();
            assert!(at < 600 * MINUTE, "seed {seed} comes to no end");
        }
        let items: std::collections::BTreeSet<_> =
            world.starts.iter().map(|start| start.item).collect();
        assert_eq!((items.len(), world.starts.len()), (300, 300), "seed {seed}");
        // While all three had something, each had a third.
        let ends = |line: i64| {
            let of = world.starts.iter().rposition(|start| start.line.0 == line);
            of.expect("all went")
        };
        let first_end = (1..=3).map(ends).min().expect("three");
        let mut shares = [0; 3];
        for start in &world.starts[..=first_end] {
            shares[usize::try_from(start.line.0 - 1).expect("a place")] += start.tokens;
        }
        assert!(jain(&shares) >= 980_000, "seed {seed}: {shares:?}");
    }
}

/// A schedule as a list of starts, made comparable.
fn schedule_of(later: u64, names: [&str; 2], seed: u64) -> Vec<(u64, i64)> {
    let limits = [vec![rpm(15), tpm(100_000)]];
    let mut world = World::at(Policy::Ours, &limits, seed, later);
    world.delays = Delays::Exactly { headers_ms: 900, end_ms: 2_000 };
    let mut rng = Rng::with_seed(seed);
    for (number, name) in (1_i64..).zip(names) {
        let line = world.line(number, 1, name, &[1]);
        for item in 0..150 {
            let at = rng.u64(0..20 * MINUTE);
            world.arrives(at, line, number * 1_000 + item, rng.u64(1..=40_000));
        }
    }
    world.run_until(later + 120 * MINUTE);
    assert_eq!(world.left(), 0);
    let first = 1_000_000 + later;
    world.starts.iter().map(|start| (start.at - first, start.item)).collect()
}

#[test]
fn what_does_not_matter_changes_nothing() {
    for seed in 1..=10 {
        let plain = schedule_of(0, ["ann", "bob"], seed);
        assert_eq!(plain, schedule_of(4 * 60 * MINUTE, ["ann", "bob"], seed), "later");
        assert_eq!(plain, schedule_of(0, ["zoe", "amy"], seed), "other names");
    }
}

/// All weights and the limit times seven: the same schedule.
#[test]
fn the_unit_of_weights_does_not_matter() {
    let schedule = |scale: u64, seed: u64| {
        let mut world = World::new(Policy::Ours, &[vec![tpm(100_000 * scale)]], seed);
        world.delays = Delays::Exactly { headers_ms: 900, end_ms: 2_000 };
        let mut rng = Rng::with_seed(seed);
        for (number, name) in [(1_i64, "ann"), (2, "bob")] {
            let line = world.line(number, 1, name, &[1]);
            for item in 0..150 {
                let at = rng.u64(0..20 * MINUTE);
                world.arrives(at, line, number * 1_000 + item, scale * rng.u64(1..=40_000));
            }
        }
        world.run_until(200 * MINUTE);
        assert_eq!(world.left(), 0);
        world.starts.iter().map(|start| (start.at, start.item)).collect::<Vec<_>>()
    };
    for seed in 1..=5 {
        assert_eq!(schedule(1, seed), schedule(7, seed), "seed {seed}");
    }
}

/// Two buckets of half the limit send as much as one, within a window.
#[test]
fn a_pool_of_two_halves_is_as_fast_as_a_whole() {
    let last = |limits: &[Vec<tidegate::gate::limits::Limit>], buckets: &[i64]| {
        let mut world = World::new(Policy::Ours, limits, 5);
        world.delays = Delays::Exactly { headers_ms: 900, end_ms: 2_000 };
        let line = world.line(1, 1, "a", buckets);
        for item in 0..400 {
            world.arrives(0, line, item, 1_000);
        }
        world.run_until(120 * MINUTE);
        assert_eq!(world.left(), 0);
        world.starts[399].at - world.starts[0].at
    };
    let whole = last(&[vec![rpm(20)]], &[1]);
    let halves = last(&[vec![rpm(10)], vec![rpm(10)]], &[1, 2]);
    assert!(whole.abs_diff(halves) <= W, "{whole} and {halves} ms");
}

/// P10: with exact weights and delays, a forecast says every start as it comes.
#[test]
fn a_forecast_is_what_happens() {
    for seed in 1..=10 {
        let mut rng = Rng::with_seed(seed);
        let limits = vec![rpm(20), tpm(120_000)];
        let mut world = World::new(Policy::Ours, &[limits], seed);
        world.delays = Delays::Exactly { headers_ms: 800, end_ms: 2_500 };
        let mut lines = BTreeMap::new();
        for (number, tenant) in [(1_i64, "ann"), (2, "bob"), (3, "ann")] {
            let line = world.line(number, 1, tenant, &[1]);
            let sizes: Vec<u64> = (0..80).map(|_| rng.u64(10..=60_000)).collect();
            for (item, tokens) in (number * 1_000..).zip(&sizes) {
                world.arrives(0, line, item, *tokens);
            }
            lines.insert(line, sizes);
        }
        let said = forecast::starts(&world, &lines);
        world.run_until(240 * MINUTE);
        let came: Vec<_> =
            world.starts.iter().map(|start| (start.at, start.line, start.item)).collect();
        assert_eq!(came.len(), 240);
        let differ = said.iter().zip(&came).find(|(said, came)| said != came);
        assert_eq!((differ, said.len()), (None, came.len()), "seed {seed}");
    }
}

mod forecast {
    use std::sync::Arc;

    use super::*;
    use tidegate::schedule::forecast::{
        Delays, Forecast, Pacing, Pending, Place, Run, STARTS_MOST, Snapshot,
    };

    pub(super) fn starts(
        world: &World,
        lines: &BTreeMap<LineId, Vec<u64>>,
    ) -> Vec<(u64, LineId, i64)> {
        let (gate, now, next_attempt) = world.parts();
        let runs = |line: &LineId, sizes: &Vec<u64>| {
            let run = |(item, tokens): (i64, &u64)| Run {
                first: item,
                count: 1,
                needs: Arc::new([(BucketId(1), world::weights(*tokens))]),
                pinned: None,
            };
            let runs = (line.0 * 1_000..).zip(sizes).map(run).collect();
            Pending { runs, ..Pending::default() }
        };
        let pacing = Pacing {
            keys: 1,
            next_key: 0,
            max_in_flight: 1_000_000,
            starts_per_second: 1_000_000,
            second: (now.boot, 0),
            held: None,
        };
        let delays = Delays { flush_ms: None, headers_ms: 800, end_ms: 2_500 };
        let snapshot = Snapshot {
            now,
            gate: gate.clone(),
            schedule: world.schedule.clone(),
            projects: [(1, pacing)].into(),
            buckets: [(
                BucketId(1),
                Place { project: 1, crowd: None, held: None, delays, uses_permille: 1_000 },
            )]
            .into(),
            lines: lines.iter().map(|(line, sizes)| (*line, runs(line, sizes))).collect(),
            flights: Vec::new(),
            next_attempt,
        };
        let forecast = Forecast::of(snapshot, STARTS_MOST);
        let starts = forecast.starts.iter();
        starts.map(|start| (start.at.boot.0, start.line, start.item)).collect()
    }
}

/// The table of `cargo xtask sim --table schedule`.
#[test]
fn the_schedule_beside_others() {
    const NAMES: [(&str, Policy); 4] = [
        ("tidegate (EASY)", Policy::Ours),
        ("first-fit", Policy::FirstFit),
        ("FIFO", Policy::Fifo),
        ("smallest first", Policy::SmallestFirst),
    ];
    let minutes = |ms: u64| format!("{}.{}", ms / MINUTE, ms % MINUTE * 10 / MINUTE);
    let (_, bound) = backlog(Policy::Ours, 1);
    let seeds = if crate::wanted("TIDEGATE_SIM_TABLE").is_some() { 8 } else { 1 };
    let mut drained = BTreeMap::new();
    for (name, policy) in NAMES {
        let drain = (1..=seeds).map(|seed| drain(policy, seed)).sum::<u64>() / seeds;
        drained.insert(name, drain);
        let worlds: Vec<_> = (1..=seeds).map(|seed| sustained(policy, seed)).collect();
        let all: Vec<_> = worlds.iter().flat_map(|world| world.starts.clone()).collect();
        let (large, small) = (waits(&all, true), waits(&all, false));
        let is_large = |waiting: &(i64, u64)| waiting.0 >= 100_000;
        let never: usize = worlds
            .iter()
            .map(|world| world.waiting_longer(10 * W).into_iter().filter(is_large).count())
            .sum();
        eprintln!(
            "| {name} | {} | {} | {} | {} | {} | {never} of {} |",
            minutes(drain),
            minutes(large.0),
            minutes(large.1),
            minutes(small.0),
            minutes(small.1),
            18 * seeds,
        );
    }
    let lower = (bound - 1) * MINUTE;
    eprintln!("| nobody can be faster (first seed) | {} | | | | | |", minutes(lower));
    let shares = served(Policy::Ours, &[1, 1, 1, 1], 1);
    eprintln!(
        "| Jain's index of four tenants, ten windows | {}.{:06} | | | | | |",
        jain(&shares) / 1_000_000,
        jain(&shares) % 1_000_000
    );
    assert!(drained["tidegate (EASY)"] * 100 <= drained["first-fit"] * 103);
}
