//! An explanation says what admission decides by, and a restart or less history never admits more.

use proptest::prelude::*;

use super::world::{OTHER, Op, World, catalogue, history, mask, weights};
use super::*;
use crate::gate::verdict::{Explanation, Requirement};
use crate::gate::window::Holder;

/// Where the limit of a verdict is among those of the explanation.
fn tells(because: &Because, needs: &[Requirement], until: BootMs) -> bool {
    let Because::Limit { dimension, needs: need, free, limit, kept, .. } = because else {
        return false;
    };
    needs.iter().any(|it| {
        let state = &it.state;
        (state.limit.dimension(), it.needs, state.free.saturating_sub(it.kept), state.usable)
            == (*dimension, *need, *free, *limit)
            && it.kept.min(state.free) == *kept
            && it.fits_at == Some(until)
    })
}

fn until(verdict: &Verdict) -> Option<BootMs> {
    match verdict {
        Verdict::Fits => None,
        Verdict::Wait(wait) => Some(wait.until),
        Verdict::Never(_) => Some(BootMs(u64::MAX)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// P14: what is explained is what decides, limit by limit.
    #[test]
    fn an_explanation_is_the_verdict_taken_apart(
        masks in (mask(), mask(), mask()), history in history(true), second in any::<bool>(),
        key in 0..4_u32, need in weights(), mixed in any::<bool>(),
    ) {
        let of = |mask| catalogue(mask, 0);
        let mut world = World::new(of(masks.0), of(masks.1), of(masks.2));
        world.mixed = mixed;
        let bucket = if second { OTHER } else { BUCKET };
        let ask = Ask { key: KeyId(key), ..ask(bucket, need) };
        for (gap, op) in history {
            world.now += gap;
            world.act(op);
            let now = world.at();
            let Explanation { verdict, needs } = world.gate.explain(&ask, now);
            prop_assert_eq!(&verdict, &world.gate.check(&ask, now));
            let fits = needs.iter().map(|it| it.fits_at).max().flatten();
            match &verdict {
                Verdict::Fits => prop_assert_eq!(fits, None),
                // The distance beside interactive requests is no limit's.
                Verdict::Wait(Wait { until, because: Because::Paced { .. } }) => {
                    prop_assert!(fits <= Some(*until));
                }
                Verdict::Wait(wait) => {
                    prop_assert_eq!(fits, Some(wait.until));
                    prop_assert!(tells(&wait.because, &needs, wait.until), "{wait:?} {needs:?}");
                }
                Verdict::Never(never) => {
                    let over = |it: &Requirement| it.needs > it.state.limit.value
                        && it.state.limit.dimension() == never.dimension;
                    prop_assert!(needs.iter().any(over), "{never:?}");
                }
            }
            let states = world.gate.state(bucket, now);
            for it in &needs {
                prop_assert!(states.contains(&it.state), "{:?}", it.state);
                prop_assert_eq!(it.needs, need.get(it.state.limit.metric));
                prop_assert_eq!(it.fits_at.is_none(),
                    it.state.used == 0 || it.needs + it.kept <= it.state.free);
                prop_assert!(it.leaving.len() <= 20 && it.leaving.is_sorted_by_key(|it| it.at));
                prop_assert!(it.leaving.iter().all(|gone| gone.at > now.boot && gone.weight > 0));
            }
        }
    }

    /// When every end is known a limit has room at the instant that it says, and what leaves until
    /// then is just enough.
    #[test]
    fn what_leaves_is_what_it_waits_for(
        mask in mask(), history in history(false), key in 0..3_u32, need in weights(),
    ) {
        let mut world = World::new(catalogue(mask, 0), Vec::new(), catalogue(mask >> 3, 0));
        world.play(&history);
        world.end_all();
        let ask = Ask { key: KeyId(key), ..ask(BUCKET, need) };
        let now = world.at();
        for it in world.gate.explain(&ask, now).needs {
            let may_fit = it.needs <= it.state.usable;
            let Some(fits_at) = it.fits_at.filter(|_| may_fit) else { continue };
            let later = |at: BootMs| Now { boot: at, wall: now.wall_at(at) };
            let then = |at: BootMs| {
                let found = world.gate.clone().explain(&ask, later(at)).needs;
                let same = |that: &&Requirement| (&that.state.limit, that.state.shared)
                    == (&it.state.limit, it.state.shared);
                found.iter().find(same).expect("the limit is still there").fits_at
            };
            prop_assert_eq!(then(fits_at), None);
            prop_assert_eq!(then(BootMs(fits_at.0 - 1)), Some(fits_at));
            if it.state.limit.window != Window::Day && it.leaving.len() < 20 {
                let gone: u64 = it.leaving.iter().map(|gone| gone.weight).sum();
                let over = it.state.used + it.needs - it.state.usable;
                let last = it.leaving.last().expect("something leaves");
                prop_assert!(gone >= over && gone - last.weight < over);
                prop_assert_eq!(last.at, fits_at);
            }
        }
    }

    /// P9: had one of the attempts weighed nothing, what fits would fit too, and no wait is longer.
    #[test]
    fn no_attempt_makes_room(
        masks in (mask(), mask(), mask()), history in history(false), second in any::<bool>(),
        key in 0..3_u32, need in weights(), left_out in 0..12_usize,
    ) {
        let of = |mask| catalogue(mask, 0);
        let mut world = World::new(of(masks.0), of(masks.1), of(masks.2));
        let mut less = world.clone();
        let bucket = if second { OTHER } else { BUCKET };
        let ask = Ask { key: KeyId(key), ..ask(bucket, need) };
        for (gap, op) in history {
            world.now += gap;
            less.now += gap;
            let known = world.entries.len();
            less.act(op.weighed(|which, weights| {
                let whose = which.map_or(known, |which| which % known.max(1));
                if whose == left_out { Weights::default() } else { weights }
            }));
            world.act(op);
            let now = world.at();
            let full = until(&world.gate.check(&ask, now));
            let less = until(&less.gate.check(&ask, now));
            prop_assert!(less <= full, "{less:?} with less, {full:?} with all");
        }
    }

    /// P13: a new process that reads the rows of the ledger admits nothing that the old one would
    /// not have, whatever was under way, and shows at least as much use. Not so for what counts
    /// from an answer's end, of which the rows do not tell.
    #[test]
    fn a_restart_never_admits_more(
        masks in (mask(), mask(), mask()), history in history(false), second in any::<bool>(),
        key in 0..3_u32, need in weights(), later in 0..700_000_u64,
    ) {
        let of = |mask: u32| catalogue(mask, 0).into_iter().filter(|limit| {
            limit.window != Window::Concurrent && limit.metric != Metric::Spend
        }).collect::<Vec<_>>();
        let mut world = World::new(of(masks.0), of(masks.1), of(masks.2));
        world.play(&history);
        let now = world.at();
        let mut next = World::new(of(masks.0), of(masks.1), of(masks.2));
        next.now = world.now;
        let today = "2026-11-23".parse().expect("a date");
        let charge = crate::gate::day::DayCharge { lo: today, hi: today };
        for (which, entry) in world.entries.iter().enumerate().filter(|(_, entry)| !entry.void) {
            let id = AttemptId(i64::try_from(which).expect("few"));
            let u = entry.u.filter(|_| !entry.open());
            let u = u.map_or(now.boot.plus(DELTA_MS), |u| BootMs(BOOT + u));
            let key = Some(KeyId(entry.key));
            next.gate.restore(id, entry.bucket, key, entry.weights, u);
            next.gate.restore_day(entry.bucket, key, charge, entry.weights);
        }
        // The process that lived on hears at once of all that was cut off.
        let mut lived = world.clone();
        for which in 0..lived.entries.len() {
            let weights = lived.entries[which].weights;
            lived.act(Op::Settle(which, weights));
        }
        let bucket = if second { OTHER } else { BUCKET };
        let ask = Ask { key: KeyId(key), ..ask(bucket, need) };
        let then = Now { boot: now.boot.plus(later), wall: now.wall.plus(later) };
        let (old, new) = (lived.gate.check(&ask, then), next.gate.check(&ask, then));
        prop_assert!(until(&new) >= until(&old), "{new:?} after a restart, {old:?} without");
        let used = |states: Vec<LimitState>| states.into_iter()
            .filter(|state| state.used > 0)
            .map(|state| ((state.limit.dimension(), state.limit.window, state.key, state.shared,
                state.limit.scope), state.used))
            .collect::<std::collections::BTreeMap<_, _>>();
        let old = used(lived.gate.state(bucket, then));
        let new = used(next.gate.state(bucket, then));
        for (limit, used) in old {
            prop_assert!(new.get(&limit).is_some_and(|new| *new >= used), "{limit:?}: {used}");
        }
    }
}

#[test]
fn an_explanation_names_who_leaves_when() {
    let mut bench = Bench::new(&[rpm(3), tpm(1_000), ipm(5)]);
    let ids = [(0, 300), (1_000, 500), (2_000, 200)]
        .map(|(ms, weight)| (bench.use_up(ms, tokens(weight)), ms, weight));
    let now = bench.at(3_000);
    let Explanation { verdict, needs } = bench.gate.explain(&ask(BUCKET, tokens(700)), now);
    let at = |ms: u64| BootMs(BOOT + ms + STAY);
    let Verdict::Wait(wait) = verdict else { panic!("{verdict:?}") };
    assert_eq!(wait.until, at(1_000));
    // Nothing is said of images: it needs none.
    let [requests, tokens] = &needs[..] else { panic!("{needs:?}") };
    assert_eq!((requests.needs, requests.fits_at), (1, Some(at(0))));
    assert_eq!((tokens.needs, tokens.fits_at, tokens.state.used), (700, Some(at(1_000)), 1_000));
    let leaving = |it: &Requirement| {
        it.leaving.iter().map(|it| (it.at, it.holder, it.weight)).collect::<Vec<_>>()
    };
    let gone = ids.map(|(id, ms, weight)| (at(ms), Holder::Attempt(id), weight));
    assert_eq!(leaving(requests), [(at(0), Holder::Attempt(ids[0].0), 1)]);
    assert_eq!(leaving(tokens), gone[..2]);
}

#[test]
fn a_block_is_explained_by_the_verdict_alone() {
    let mut bench = Bench::new(&[rpm(3)]);
    bench.block(5_000, "shut");
    let now = bench.at(0);
    let Explanation { verdict, needs } = bench.gate.explain(&ask(BUCKET, one()), now);
    assert!(matches!(verdict, Verdict::Wait(Wait { because: Because::Blocked { .. }, .. })));
    assert_eq!((needs[0].fits_at, needs[0].state.free, needs[0].leaving.len()), (None, 3, 0));
}
