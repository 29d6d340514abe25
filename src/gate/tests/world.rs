//! Two buckets, three keys and one project, with all books kept a second time: as a list of
//! attempts that is added up anew for every question.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

pub(super) const OTHER: BucketId = BucketId(2);

/// What a limit's book is kept for after an attempt's bound, or its end.
fn stays(limit: &Limit) -> Option<(u64, bool)> {
    match (limit.window, limit.metric) {
        (Window::Day, _) => None,
        (Window::Rolling { ms }, metric) => Some((ms, metric == Metric::Spend)),
        (Window::Concurrent, Metric::Sessions) => Some((5_000, true)),
        (Window::Concurrent, _) => Some((0, true)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Bucket(BucketId),
    Shared,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) bucket: BucketId,
    pub(super) key: u32,
    pub(super) weights: Weights,
    pub(super) u: Option<u64>,
    /// When the last of it can have reached the provider, and the step at which it was settled.
    pub(super) end: Option<(u64, usize)>,
    pub(super) void: bool,
    /// The time and the step at which its bucket became another one.
    moved: (u64, usize),
}

impl Entry {
    pub(super) fn open(&self) -> bool {
        self.end.is_none() && !self.void
    }

    /// What it counts for by the definition, at `now`.
    fn counts(&self, limit: &Limit, now: u64) -> u64 {
        let leaves = |at: Option<u64>, ms| at.is_none_or(|at| now < at + ms + GAMMA_MS);
        let there = match stays(limit) {
            None => true,
            Some((ms, true)) => leaves(self.end.map(|(end, _)| end), ms),
            Some((ms, false)) => leaves(self.u, ms),
        };
        if there && !self.void { self.weights.get(limit.metric) } else { 0 }
    }
}

/// A limit, and the time and the step from which its book was kept without a break.
#[derive(Clone, Debug)]
struct Rule {
    limit: Limit,
    since: (u64, usize),
}

#[derive(Clone, Debug, Default)]
struct Rules {
    limits: Vec<Rule>,
    /// Since when there has been a book at all, and one for each key.
    since: Option<(u64, usize)>,
    keys_since: Option<(u64, usize)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Reserve {
        bucket: bool,
        key: u32,
        need: Weights,
    },
    BodySent(usize),
    Headers(usize),
    Settle(usize, Weights),
    Void(usize),
    /// The limits of the catalogue that the mask names, a little higher or lower.
    Redefine {
        bucket: bool,
        mask: u32,
        more: u64,
    },
    Share {
        mask: u32,
        more: u64,
    },
    Merge,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) now: u64,
    pub(super) entries: Vec<Entry>,
    /// Whether every third attempt is interactive.
    pub(super) mixed: bool,
    zero: UnixMs,
    step: usize,
    rules: BTreeMap<Place, Rules>,
    /// What is said of each bucket, whatever it was merged with.
    stated: [Vec<Limit>; 2],
    merged: bool,
}

/// Of each kind the smallest.
fn tightest(stated: &[Vec<Limit>]) -> Vec<Limit> {
    let mut all: Vec<Limit> = stated.concat();
    all.sort_by_key(|it| (it.metric, it.window, it.scope, it.value));
    all.dedup_by_key(|it| (it.metric, it.window, it.scope));
    all
}

impl Op {
    /// The same with other weights; of a settlement it is told whose.
    pub(super) fn weighed(self, weigh: impl Fn(Option<usize>, Weights) -> Weights) -> Self {
        match self {
            Self::Reserve { bucket, key, need } => {
                Self::Reserve { bucket, key, need: weigh(None, need) }
            }
            Self::Settle(which, actual) => Self::Settle(which, weigh(Some(which), actual)),
            Self::BodySent(_)
            | Self::Headers(_)
            | Self::Void(_)
            | Self::Redefine { .. }
            | Self::Share { .. }
            | Self::Merge => self,
        }
    }
}

/// Every kind of limit there is.
pub(super) fn catalogue(mask: u32, more: u64) -> Vec<Limit> {
    let minute = Window::Rolling { ms: MINUTE_MS };
    let of_key =
        |metric, window, value| Limit { scope: Scope::Key, ..limit(metric, window, value) };
    let all = [
        rpm(8 + more),
        per(10_000, 4 + more),
        per(25_000, 6 + more),
        per(600_000, 30 + more),
        tpm(1_000 + more),
        ipm(5 + more),
        limit(Metric::Spend, Window::Rolling { ms: 600_000 }, 200 + more),
        limit(Metric::Spend, minute, 90 + more),
        limit(Metric::Requests, Window::Concurrent, 6 + more),
        limit(Metric::Sessions, Window::Concurrent, 3 + more),
        rpd(30 + more),
        tpd(4_000 + more),
        of_key(Metric::Requests, minute, 5 + more),
        of_key(Metric::Requests, Window::Rolling { ms: 15_000 }, 4 + more),
        of_key(Metric::InputTokens, Window::Rolling { ms: 120_000 }, 900 + more),
        of_key(Metric::Sessions, Window::Concurrent, 2 + more),
        of_key(Metric::Requests, Window::Day, 12 + more),
    ];
    let named = all.into_iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1);
    named.map(|(_, limit)| limit).collect()
}

pub(super) fn mask() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..1_u32 << 17, 1 => Just(0), 1 => Just((1 << 12) - 1), 1 => Just(!0)]
}

pub(super) fn weights() -> impl Strategy<Value = Weights> {
    (1..4_u64, 0..300_u64, 0..3_u64, 0..50_u64, 0..2_u64).prop_map(
        |(requests, input_tokens, images, spend_nanos, sessions)| Weights {
            requests,
            input_tokens,
            images,
            spend_nanos,
            sessions,
        },
    )
}

/// A history: what happens, and how long after the one before.
pub(super) fn history(changes: bool) -> impl Strategy<Value = Vec<(u64, Op)>> {
    let which = 0..16_usize;
    let change = u32::from(changes);
    let op = prop_oneof![
        8 => (any::<bool>(), 0..3_u32, weights())
            .prop_map(|(bucket, key, need)| Op::Reserve { bucket, key, need }),
        4 => which.clone().prop_map(Op::BodySent),
        4 => which.clone().prop_map(Op::Headers),
        5 => (which.clone(), weights()).prop_map(|(which, actual)| Op::Settle(which, actual)),
        2 => which.prop_map(Op::Void),
        4 * change => (any::<bool>(), mask(), 0..9_u64)
            .prop_map(|(bucket, mask, more)| Op::Redefine { bucket, mask, more }),
        2 * change => (mask(), 0..9_u64).prop_map(|(mask, more)| Op::Share { mask, more }),
        change => Just(Op::Merge),
    ];
    let gap = prop_oneof![4 => Just(0_u64), 4 => 1..3_000_u64, 3 => 3_000..30_000_u64,
        1 => 30_000..400_000_u64];
    vec((gap, op), 0..60)
}

impl World {
    pub(super) fn new(one: Vec<Limit>, other: Vec<Limit>, shared: Vec<Limit>) -> Self {
        let mut world = Self {
            gate: Gate::default(),
            now: 0,
            entries: Vec::new(),
            mixed: false,
            zero: unix(NOON),
            step: 0,
            rules: BTreeMap::new(),
            stated: [one.clone(), other.clone()],
            merged: false,
        };
        world.gate.define(BUCKET, PROJECT, one.clone(), QuotaDay::pacific());
        world.gate.define(OTHER, PROJECT, other.clone(), QuotaDay::pacific());
        world.gate.share(PROJECT, shared.clone(), QuotaDay::pacific(), world.at());
        for (place, limits) in
            [(Place::Bucket(BUCKET), one), (Place::Bucket(OTHER), other), (Place::Shared, shared)]
        {
            world.rule(place, limits);
        }
        world
    }

    pub(super) fn at(&self) -> Now {
        Now { boot: BootMs(BOOT + self.now), wall: self.zero.plus(self.now) }
    }

    /// What the place's limits are from now on.
    fn rule(&mut self, place: Place, limits: Vec<Limit>) {
        let now = (self.now, self.step);
        let begun = place != Place::Shared || !limits.is_empty();
        let rules = self.rules.entry(place).or_default();
        let kept = |limit: &Limit| {
            let like = |rule: &&Rule| {
                (rule.limit.scope, stays(&rule.limit)) == (limit.scope, stays(limit))
            };
            rules.limits.iter().filter(like).map(|rule| rule.since).min()
        };
        let new = |limit: Limit| Rule { since: kept(&limit).unwrap_or(now), limit };
        let new: Vec<_> = limits.into_iter().map(new).collect();
        if begun {
            rules.since.get_or_insert(now);
        }
        if new.iter().any(|rule| rule.limit.scope == Scope::Key) {
            rules.keys_since.get_or_insert(now);
        }
        rules.limits = new;
    }

    fn open(&mut self, which: usize) -> Option<(AttemptId, &mut Entry)> {
        let which = which % self.entries.len().max(1);
        let entry = self.entries.get_mut(which)?;
        entry.open().then_some((AttemptId(i64::try_from(which).expect("few")), entry))
    }

    pub(super) fn play(&mut self, history: &[(u64, Op)]) {
        for (gap, op) in history {
            self.now += gap;
            self.act(*op);
        }
    }

    pub(super) fn act(&mut self, op: Op) {
        self.step += 1;
        let (now, time, step) = (self.at(), self.now, self.step);
        let bucket = |second| if second { OTHER } else { BUCKET };
        match op {
            Op::Reserve { bucket: second, key, need } => self.reserve(bucket(second), key, need),
            Op::BodySent(which) => {
                if let Some((id, entry)) = self.open(which) {
                    entry.u = entry.u.or(Some(time + DELTA_MS));
                    self.gate.flushed(id, now);
                }
            }
            Op::Headers(which) => {
                if let Some((id, entry)) = self.open(which) {
                    entry.u = Some(entry.u.map_or(time, |u| u.min(time)));
                    self.gate.bound(id, now.boot);
                }
            }
            Op::Settle(which, actual) => {
                if let Some((id, entry)) = self.open(which) {
                    entry.u = Some(entry.u.map_or(time + DELTA_MS, |u| u.min(time + DELTA_MS)));
                    entry.end = Some((time + DELTA_MS, step));
                    // Excess of input tokens moves the margin, which has tests of its own.
                    let input_tokens = actual.input_tokens.min(entry.weights.input_tokens);
                    let actual = Weights { input_tokens, ..actual };
                    entry.weights = actual;
                    self.gate.settle(id, actual, now).expect("it is open");
                }
            }
            Op::Void(which) => {
                if let Some((id, entry)) = self.open(which) {
                    entry.void = true;
                    self.gate.void(id);
                }
            }
            Op::Redefine { bucket: second, mask, more } => {
                let id = bucket(second);
                self.gate.redefine(id, catalogue(mask, more), now);
                self.stated[usize::from(second)] = catalogue(mask, more);
                if self.merged {
                    self.rule(Place::Bucket(BUCKET), tightest(&self.stated));
                } else {
                    self.rule(Place::Bucket(id), catalogue(mask, more));
                }
            }
            Op::Share { mask, more } => {
                let limits = catalogue(mask, more);
                self.gate.share(PROJECT, limits.clone(), QuotaDay::pacific(), now);
                self.rule(Place::Shared, limits);
            }
            Op::Merge if !self.merged => {
                self.merged = true;
                self.gate.merge(OTHER, BUCKET, now);
                for entry in self.entries.iter_mut().filter(|entry| entry.bucket == OTHER) {
                    (entry.bucket, entry.moved) = (BUCKET, (time, step));
                }
                self.rule(Place::Bucket(BUCKET), tightest(&self.stated));
            }
            Op::Merge => {}
        }
    }

    fn reserve(&mut self, bucket: BucketId, key: u32, need: Weights) {
        let id = AttemptId(i64::try_from(self.entries.len()).expect("few"));
        let now = self.at();
        let interactive = self.mixed && self.entries.len().is_multiple_of(3);
        let class = if interactive { Class::Interactive } else { Class::Batch };
        self.gate.reserve(id, &Ask { bucket, key: KeyId(key), class, need }, now);
        let bucket = if self.merged { BUCKET } else { bucket };
        let (u, end, moved) = (None, None, (0, 0));
        self.entries.push(Entry { bucket, key, weights: need, u, end, void: false, moved });
    }

    fn entries_of(&self, place: Place, key: Option<KeyId>) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| {
            let there = match place {
                Place::Bucket(bucket) => entry.bucket == bucket,
                Place::Shared => true,
            };
            there && key.is_none_or(|key| key.0 == entry.key)
        })
    }

    /// Whether the rule's book must hold what is left of the entry: it was open when the book was
    /// begun, or when its bucket was joined, or another book still held it then.
    fn is_known(&self, place: Place, rule: &Rule, entry: &Entry) -> bool {
        let rules = &self.rules[&place];
        let begun = match rule.limit.scope {
            Scope::Project => rules.since,
            Scope::Key => rules.keys_since,
        };
        let begun = begun.unwrap_or((self.now, self.step));
        let after = |(_, step): (u64, usize)| entry.end.is_none_or(|(_, end)| end >= step);
        let moved = if place == Place::Shared { (0, 0) } else { entry.moved };
        let in_minute = |(time, _): (u64, usize)| entry.u.is_none_or(|u| time < u + STAY);
        // A minute's book is kept always, for every key once some limit has counted by key.
        match (stays(&rule.limit), rule.limit.scope) {
            (None, Scope::Project) => after(begun),
            (None, Scope::Key) => after(begun) && after(moved),
            (Some((_, true)), _) => after(begun) && after(rule.since) && after(moved),
            (Some((_, false)), Scope::Project) => {
                let held = |at| after(at) || in_minute(at);
                after(begun) && held(rule.since) && held(moved)
            }
            (Some((_, false)), Scope::Key) => {
                after(begun) && (after(rule.since) || in_minute(rule.since)) && after(moved)
            }
        }
    }

    /// What must count in a limit at least and at most, and what open attempts hold of it.
    fn used(&self, place: Place, rule: &Rule, key: Option<KeyId>) -> (u64, u64, u64) {
        let counted = |entry: &Entry| entry.counts(&rule.limit, self.now);
        let known = self.entries_of(place, key).filter(|entry| self.is_known(place, rule, entry));
        let at_end = stays(&rule.limit).is_none_or(|(_, at_end)| at_end);
        let held = self
            .entries_of(place, key)
            .filter(|entry| entry.open() && (at_end || entry.u.is_none()));
        (
            known.map(counted).sum(),
            self.entries_of(place, key).map(counted).sum(),
            held.map(|entry| entry.weights.get(rule.limit.metric)).sum(),
        )
    }

    /// Every number that the gate shows is what the list adds up to.
    #[track_caller]
    pub(super) fn agrees(&mut self) {
        let now = self.at();
        for bucket in if self.merged { vec![BUCKET] } else { vec![BUCKET, OTHER] } {
            let states = self.gate.state(bucket, now);
            for place in [Place::Bucket(bucket), Place::Shared] {
                for rule in &self.rules[&place].limits {
                    self.agrees_on(&states, place, rule);
                }
            }
        }
        if self.merged {
            let states = self.gate.state(BUCKET, now);
            assert_eq!(self.gate.state(OTHER, now), states);
        }
    }

    #[track_caller]
    fn agrees_on(&self, states: &[LimitState], place: Place, rule: &Rule) {
        let shared = place == Place::Shared;
        let like = |state: &&LimitState| state.limit == rule.limit && state.shared == shared;
        let mut keys = Vec::new();
        for state in states.iter().filter(like) {
            let (least, most, held) = self.used(place, rule, state.key);
            let at = format!("{place:?} {:?} {:?} at {}", rule.limit, state.key, self.now);
            let used = state.used;
            assert!((least..=most).contains(&used), "{used} not in {least}..={most}: {at}");
            assert_eq!(state.reserved, held, "reserved: {at}");
            assert_eq!(state.free, state.usable.saturating_sub(used), "free: {at}");
            keys.push(state.key);
        }
        let wanted: Vec<_> = match rule.limit.scope {
            Scope::Project => vec![None],
            Scope::Key => {
                let open = self.entries_of(place, None).filter(|entry| entry.open());
                open.map(|entry| Some(KeyId(entry.key))).collect()
            }
        };
        assert!(wanted.iter().all(|key| keys.contains(key)), "{rule:?} shows {keys:?}");
    }

    /// Whether a request goes, by the list alone. For limits that were there from the start.
    pub(super) fn fits(&self, ask: &Ask) -> bool {
        let places = [Place::Bucket(ask.bucket), Place::Shared];
        places.into_iter().all(|place| {
            self.rules[&place].limits.iter().all(|rule| {
                let key = (rule.limit.scope == Scope::Key).then_some(ask.key);
                let needs = ask.need.get(rule.limit.metric);
                let (least, most, _) = self.used(place, rule, key);
                assert_eq!(least, most, "the limits were there from the start");
                needs == 0 || most + needs <= rule.limit.value
            })
        })
    }

    /// Ends all that is open, so that every instant is known.
    pub(super) fn end_all(&mut self) {
        for which in 0..self.entries.len() {
            self.act(Op::Settle(which, Weights { requests: 1, ..Weights::default() }));
        }
    }
}
