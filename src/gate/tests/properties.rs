//! Properties over random histories, with the books kept a second time by brute force.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MODEL_LIMITS: [(u64, u64); 3] = [(MINUTE_MS, 6), (10_000, 3), (25_000, 4)];
const TPM: u64 = 1_000;
const RPD: u64 = 9;

/// Attempts are named by the order in which they were reserved.
#[derive(Clone, Copy, Debug)]
enum Op {
    Reserve(u64),
    BodySent(usize),
    Headers(usize),
    Settle(usize, u64),
    Void(usize),
    Block(u64),
    Unblock(usize),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    weight: u64,
    u: Option<u64>,
    ended: bool,
}

/// What the rules say, without any cleverness.
#[derive(Clone, Debug, Default)]
struct Model {
    now: u64,
    entries: Vec<Option<Entry>>,
    blocked: bool,
}

impl Model {
    fn used(&self, window: u64, of: impl Fn(&Entry) -> u64) -> u64 {
        let entries = self.entries.iter().flatten();
        let counts = |entry: &&Entry| entry.u.is_none_or(|u| self.now < u + window + GAMMA_MS);
        entries.filter(counts).map(of).sum()
    }

    /// What every limit of [`limits`] but the day's should show.
    fn rolling(&self) -> Vec<u64> {
        let mut used: Vec<_> =
            MODEL_LIMITS.iter().map(|(window, _)| self.used(*window, |_| 1)).collect();
        used.push(self.used(MINUTE_MS, |entry| entry.weight));
        used
    }

    fn all_ended(&self) -> bool {
        self.entries.iter().flatten().all(|entry| entry.ended)
    }

    fn open(&mut self, ordinal: usize) -> Option<(AttemptId, &mut Entry)> {
        let ordinal = ordinal % self.entries.len().max(1);
        let entry = self.entries.get_mut(ordinal)?.as_mut().filter(|entry| !entry.ended)?;
        Some((id(ordinal), entry))
    }
}

fn id(ordinal: usize) -> AttemptId {
    AttemptId(i64::try_from(ordinal).expect("a short history"))
}

fn limits() -> Vec<Limit> {
    let mut limits: Vec<_> =
        MODEL_LIMITS.iter().map(|(window, value)| per(*window, *value)).collect();
    limits.extend([tpm(TPM), rpd(RPD)]);
    limits
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..12_usize;
    prop_oneof![
        4 => (0..400_u64).prop_map(Op::Reserve),
        3 => which.clone().prop_map(Op::BodySent),
        3 => which.clone().prop_map(Op::Headers),
        3 => (which.clone(), 0..500_u64).prop_map(|(which, actual)| Op::Settle(which, actual)),
        1 => which.clone().prop_map(Op::Void),
        1 => (0..90_000_u64).prop_map(Op::Block),
        1 => which.prop_map(Op::Unblock),
    ]
}

/// A history: what happens, and how long after the one before.
fn history() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let gap = prop_oneof![Just(0_u64), 1..400_u64, 400..20_000_u64];
    vec((gap, op()), 0..40)
}

/// Noon, or close before midnight.
fn start() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(NOON), Just("2026-11-24T07:59:30Z"), Just("2026-11-24T07:58:00Z")]
}

/// Plays a history without those attempts whose turn in `kept` is false; more is reserved than
/// fits, so that there are debts too.
fn play(start: &str, history: &[(u64, Op)], kept: impl Fn(usize) -> bool) -> (Bench, Model) {
    let mut bench = Bench::starting(start, &limits());
    let mut model = Model::default();
    for (gap, op) in history {
        model.now += gap;
        step(&mut bench, &mut model, *op, &kept);
    }
    (bench, model)
}

fn step(bench: &mut Bench, model: &mut Model, op: Op, kept: &impl Fn(usize) -> bool) {
    let time = model.now;
    let now = bench.at(time);
    let bound = |entry: &mut Entry, u: u64| entry.u = Some(entry.u.map_or(u, |known| known.min(u)));
    match op {
        Op::Reserve(weight) => {
            let ordinal = model.entries.len();
            if kept(ordinal) {
                bench.gate.reserve(id(ordinal), &ask(BUCKET, tokens(weight)), now);
            }
            model.entries.push(kept(ordinal).then_some(Entry { weight, u: None, ended: false }));
        }
        Op::BodySent(which) => {
            if let Some((id, entry)) = model.open(which) {
                bound(entry, time + DELTA_MS);
                bench.gate.bound(id, now.boot.plus(DELTA_MS));
            }
        }
        Op::Headers(which) => {
            if let Some((id, entry)) = model.open(which) {
                bound(entry, time);
                bench.gate.bound(id, now.boot);
            }
        }
        Op::Settle(which, actual) => {
            if let Some((id, entry)) = model.open(which) {
                bound(entry, time + DELTA_MS);
                (entry.weight, entry.ended) = (actual, true);
                bench.gate.settle(id, tokens(actual), now).expect("it is open");
            }
        }
        Op::Void(which) => {
            if let Some((id, entry)) = model.open(which) {
                (entry.u, entry.weight, entry.ended) = (Some(0), 0, true);
                bench.gate.void(id);
                let ordinal = usize::try_from(id.0).expect("an ordinal");
                model.entries[ordinal] = None;
            }
        }
        Op::Block(ms) => {
            model.blocked = true;
            bench.gate.block(BUCKET, now.boot.plus(ms), "shut".to_owned());
        }
        Op::Unblock(which) => {
            if let Some((id, _)) = model.open(which) {
                bench.gate.unblock(id);
            }
        }
    }
}

fn without_blocks(history: Vec<(u64, Op)>) -> Vec<(u64, Op)> {
    let blocks = |op| matches!(op, Op::Block(_));
    history
        .into_iter()
        .map(|(gap, op)| (gap, if blocks(op) { Op::BodySent(0) } else { op }))
        .collect()
}

proptest! {
    /// A wait is as long as it says: never over before, and over then if every end is known.
    #[test]
    fn accurate_not_until(
        start in start(), history in history(), weight in 0..=TPM, settled in any::<bool>(),
    ) {
        let (mut bench, mut model) = play(start, &history, |_| true);
        if settled {
            for ordinal in 0..model.entries.len() {
                step(&mut bench, &mut model, Op::Settle(ordinal, 100), &|_| true);
            }
        }
        if let Verdict::Wait(wait) = bench.check(model.now, tokens(weight)) {
            let until = wait.until.0 - BOOT;
            prop_assert!(until > model.now);
            for ms in [model.now + (until - model.now) / 2, until - 1] {
                let verdict = bench.clone().check(ms, tokens(weight));
                prop_assert!(matches!(verdict, Verdict::Wait(_)), "{verdict:?} at {ms} of {until}");
            }
            if model.all_ended() {
                prop_assert_eq!(bench.check(until, tokens(weight)), Verdict::Fits);
            }
        }
    }

    /// Occupancy is what the definition says, at every step.
    #[test]
    fn occupancy_is_the_sum_of_its_definition(history in history()) {
        let mut bench = Bench::new(&limits());
        let mut model = Model::default();
        for (gap, op) in history {
            model.now += gap;
            step(&mut bench, &mut model, op, &|_| true);
            let used: Vec<_> = bench.state(model.now).iter().map(|state| state.used).collect();
            prop_assert_eq!(&used[..4], &model.rolling()[..], "after {:?} at {}", op, model.now);
            let day = model.entries.iter().flatten().count();
            prop_assert_eq!(used[4], u64::try_from(day).expect("few"));
        }
    }

    /// What the report calls free is what fits, and one more does not.
    #[test]
    fn free_is_what_fits(history in history()) {
        let (mut bench, model) = play(NOON, &without_blocks(history), |_| true);
        let states = bench.state(model.now);
        for metric in [Metric::Requests, Metric::InputTokens] {
            let free = states.iter().filter(|state| state.limit.metric == metric);
            let free = free.map(|state| state.free).min().expect("each metric has a limit");
            let need = |amount| Weights::only(metric, amount);
            prop_assert_eq!(bench.check(model.now, need(free)), Verdict::Fits);
            // With room kept free for overruns, what is larger than the rest goes alone.
            if states.iter().any(|state| state.usable < state.limit.value) {
                continue;
            }
            let verdict = bench.check(model.now, need(free + 1));
            prop_assert_ne!(&verdict, &Verdict::Fits);
            if let Verdict::Wait(Wait { because: Because::Limit { free, limit, dimension, .. }, .. }) =
                verdict
            {
                let shown = |state: &LimitState| {
                    (state.limit.dimension(), state.free, state.usable)
                        == (dimension, free, limit)
                };
                prop_assert!(states.iter().any(shown), "{dimension}: {free} of {limit}");
            }
        }
    }

    /// With less behind it a request goes no later.
    #[test]
    fn less_history_never_makes_it_wait(
        start in start(), history in history(), weight in 0..=TPM, mask in any::<u64>(),
    ) {
        let history = without_blocks(history);
        let (mut full, model) = play(start, &history, |_| true);
        let (mut less, _) = play(start, &history, |ordinal| mask >> (ordinal % 64) & 1 == 1);
        let until = |verdict| match verdict {
            Verdict::Fits => 0,
            Verdict::Wait(wait) => wait.until.0,
            Verdict::Never(never) => panic!("{never}"),
        };
        let full = until(full.check(model.now, tokens(weight)));
        let less = until(less.check(model.now, tokens(weight)));
        prop_assert!(less <= full, "{less} with less, {full} with all");
    }

    /// Asking changes nothing.
    #[test]
    fn asking_is_free(history in history(), asked in vec((0..80_000_u64, 0..=TPM), 1..8)) {
        let (mut bench, model) = play(NOON, &history, |_| true);
        let mut quiet = bench.clone();
        let mut times: Vec<_> = asked;
        times.sort_unstable();
        for (later, weight) in &times {
            bench.check(model.now + later, tokens(*weight));
        }
        let end = model.now + 80_000;
        prop_assert_eq!(bench.state(end), quiet.state(end));
        prop_assert_eq!(bench.check(end, tokens(500)), quiet.check(end, tokens(500)));
    }
}
