//! A backlog, arrivals and a provider in virtual time, for whoever says what goes next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::limits::{Limit, Scope, Source, Window};
use tidegate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::verdict::{Ask, Beside, Verdict, Wait};
use tidegate::gate::window::AttemptId;
use tidegate::schedule::{
    Item, Line, LineId, Peek, Readiness, Route, Schedule, Supply, TenantId, Waiting,
};

pub(crate) const MINUTE: u64 = 60_000;
const START: u64 = 1_000_000;

/// Noon in California.
const NOON: i64 = 1_795_464_000_000;

/// What goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The product's.
    Ours,
    /// The product's, that is told of the head that nothing delays it.
    HeadUnkept,
    /// The product's, that takes every prompt to cost the same.
    ByRequests,
    /// The first, and nothing past it.
    Fifo,
    /// Whatever fits, in order.
    FirstFit,
    /// Whatever fits, the smallest first.
    SmallestFirst,
}

/// How long a request takes until it is counted, and until it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delays {
    Exactly { headers_ms: u64, end_ms: u64 },
    Drawn,
}

/// One that started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at: u64,
    pub(crate) line: LineId,
    pub(crate) item: i64,
    pub(crate) bucket: BucketId,
    pub(crate) tokens: u64,
    pub(crate) waited: u64,
}

#[derive(Clone, Debug)]
enum Event {
    Arrives(LineId, i64, u64),
    Headers(AttemptId),
    Ends(AttemptId, Weights),
}

pub(crate) struct World {
    pub(crate) policy: Policy,
    pub(crate) delays: Delays,
    pub(crate) schedule: Schedule,
    pub(crate) starts: Vec<Start>,
    pub(crate) longest_headers: u64,
    state: State,
    lines: BTreeMap<LineId, Line>,
}

/// What the schedule asks.
struct State {
    now: Now,
    policy: Policy,
    delays: Delays,
    gate: Gate,
    limits: BTreeMap<BucketId, Vec<Limit>>,
    waiting: BTreeMap<LineId, VecDeque<(i64, u64)>>,
    arrived: BTreeMap<i64, u64>,
    started: BTreeSet<i64>,
    starts: Vec<Start>,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    next: i64,
    longest_headers: u64,
    rng: Rng,
}

pub(crate) fn rpm(value: u64) -> Limit {
    minute(Metric::Requests, value)
}

pub(crate) fn tpm(value: u64) -> Limit {
    minute(Metric::InputTokens, value)
}

pub(crate) fn rpd(value: u64) -> Limit {
    Limit { window: Window::Day, ..rpm(value) }
}

fn minute(metric: Metric, value: u64) -> Limit {
    let window = Window::Rolling { ms: MINUTE };
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

impl World {
    /// Buckets 1, 2 … with these limits.
    pub(crate) fn new(policy: Policy, buckets: &[Vec<Limit>], seed: u64) -> Self {
        Self::at(policy, buckets, seed, 0)
    }

    /// The same, so much later.
    pub(crate) fn at(policy: Policy, buckets: &[Vec<Limit>], seed: u64, later: u64) -> Self {
        let mut gate = Gate::default();
        let mut limits = BTreeMap::new();
        for (id, of) in (1..).zip(buckets) {
            gate.define(BucketId(id), ProjectId(id), of.clone(), QuotaDay::pacific());
            limits.insert(BucketId(id), of.clone());
        }
        let now = Now { boot: BootMs(START + later), wall: UnixMs(NOON).plus(later) };
        let delays = Delays::Drawn;
        let state = State {
            now,
            policy,
            delays,
            gate,
            limits,
            waiting: BTreeMap::new(),
            arrived: BTreeMap::new(),
            started: BTreeSet::new(),
            starts: Vec::new(),
            events: BTreeMap::new(),
            order: 0,
            next: 1,
            longest_headers: 0,
            rng: Rng::with_seed(seed),
        };
        let schedule = Schedule::default();
        let (starts, lines) = (Vec::new(), BTreeMap::new());
        Self { policy, delays, schedule, starts, longest_headers: 0, state, lines }
    }

    pub(crate) fn tenant(&mut self, name: &str) -> TenantId {
        self.schedule.tenant(name)
    }

    /// A line of normal class over these buckets.
    pub(crate) fn line(&mut self, id: i64, class: u8, tenant: &str, buckets: &[i64]) -> LineId {
        let route =
            |bucket: &i64| Route { project: *bucket, bucket: BucketId(*bucket), fallback: false };
        let tenant = self.schedule.tenant(tenant);
        let routes = buckets.iter().map(route).collect();
        let line = Line { class, tenant, deadline: None, routes, patience_ms: 900_000 };
        let id = LineId(id);
        self.schedule.add(id, line.clone(), self.state.now.boot, self.state.now.boot);
        self.lines.insert(id, line);
        self.state.waiting.entry(id).or_default();
        id
    }

    /// A prompt comes, so long after the start.
    pub(crate) fn arrives(&mut self, after: u64, line: LineId, item: i64, tokens: u64) {
        let at = self.state.now.boot.0 + after;
        self.state.later(at, Event::Arrives(line, item, tokens));
    }

    /// The program ends and begins anew: what waits is known, and what was served is replayed.
    pub(crate) fn restart(&mut self) {
        let old = std::mem::take(&mut self.schedule);
        let names: Vec<_> = self.lines.values().map(|line| line.tenant).collect();
        for id in 0..=names.iter().map(|tenant| tenant.0).max().unwrap_or(0) {
            self.schedule.tenant(&format!("tenant-{id}"));
        }
        for bucket in self.state.limits.keys().copied().collect::<Vec<_>>() {
            let began = names.iter().map(|tenant| (*tenant, None));
            let share = |start: &Start| {
                let weights = weights(start.tokens);
                self.state.gate.dominant_share(start.bucket, &weights)
            };
            let here = self.state.starts.iter().filter(|start| start.bucket == bucket);
            let served = here.map(|start| (self.lines[&start.line].tenant, Some(share(start))));
            let events: Vec<_> = began.chain(served).collect();
            self.schedule.replay(bucket, events);
            for tenant in &names {
                let (was, is) =
                    (old.service(bucket, *tenant), self.schedule.service(bucket, *tenant));
                assert_eq!(was, is, "what {tenant:?} was served in {bucket:?}");
            }
        }
        for (id, line) in &self.lines {
            self.schedule.add(*id, line.clone(), self.state.now.boot, self.state.now.boot);
        }
    }

    pub(crate) fn run_until(&mut self, after_start: u64) {
        let end = NOON + i64::try_from(after_start).expect("a time");
        let end = self
            .state
            .now
            .boot
            .plus(u64::try_from(end - self.state.now.wall.0).expect("a time that is to come"));
        (self.state.policy, self.state.delays) = (self.policy, self.delays);
        loop {
            let arrived = self.state.happen();
            for line in arrived {
                self.schedule.rouse(line, self.state.now.boot);
            }
            self.schedule.pass_time(self.state.now.boot);
            let wake = self.decide();
            let event = self.state.events.first_key_value().map(|((at, _), _)| BootMs(*at));
            let changes = self.schedule.next_change();
            let next = wake.into_iter().chain(event).chain(changes).min();
            let next = next.unwrap_or(end).min(self.state.now.boot.plus(15_000));
            let next = next.max(self.state.now.boot.plus(1));
            if next >= end {
                self.state.go_to(end);
                break;
            }
            self.state.go_to(next);
        }
        self.starts.clone_from(&self.state.starts);
        self.longest_headers = self.state.longest_headers;
    }

    /// How many prompts wait.
    pub(crate) fn left(&self) -> usize {
        self.state.waiting.values().map(VecDeque::len).sum()
    }

    /// Those that have waited for longer than this and still do.
    pub(crate) fn waiting_longer(&self, ms: u64) -> Vec<(i64, u64)> {
        let all = self.state.waiting.values().flatten().copied();
        let since = |item: &i64| self.state.now.boot.0 - self.state.arrived[item];
        all.filter(|(item, _)| since(item) > ms).collect()
    }

    pub(crate) fn parts(&self) -> (&Gate, Now, AttemptId) {
        (&self.state.gate, self.state.now, AttemptId(self.state.next))
    }

    fn decide(&mut self) -> Option<BootMs> {
        let buckets: Vec<_> = self.state.limits.keys().copied().collect();
        match self.policy {
            Policy::Ours | Policy::HeadUnkept | Policy::ByRequests => {
                let now = self.state.now;
                let waits = buckets
                    .into_iter()
                    .filter_map(|bucket| self.schedule.tick(bucket, now, &mut self.state));
                waits.map(|waiting| waiting.again).min()
            }
            Policy::Fifo | Policy::FirstFit | Policy::SmallestFirst => self.state.naive(),
        }
    }
}

pub(crate) fn weights(tokens: u64) -> Weights {
    Weights { requests: 1, input_tokens: tokens, ..Weights::default() }
}

impl State {
    fn later(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.insert((at, self.order), event);
    }

    fn go_to(&mut self, at: BootMs) {
        let ms = self.now.boot.until(at);
        self.now = Now { boot: at, wall: self.now.wall.plus(ms) };
    }

    /// Takes in what has happened by now, and returns the lines that have something new.
    fn happen(&mut self) -> Vec<LineId> {
        let mut lines = Vec::new();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > self.now.boot.0 {
                break;
            }
            match entry.remove() {
                Event::Arrives(line, item, tokens) => {
                    self.arrived.insert(item, self.now.boot.0);
                    self.waiting.entry(line).or_default().push_back((item, tokens));
                    lines.push(line);
                }
                Event::Headers(id) => self.gate.bound(id, self.now.boot),
                Event::Ends(id, weights) => {
                    self.gate.settle(id, weights, self.now);
                }
            }
        }
        lines
    }

    fn go(&mut self, line: LineId, item: i64, tokens: u64, bucket: BucketId) -> AttemptId {
        assert!(self.started.insert(item), "prompt {item} goes twice");
        let queue = self.waiting.get_mut(&line).expect("a line");
        queue.retain(|(id, _)| *id != item);
        let id = AttemptId(self.next);
        self.next += 1;
        let weights = weights(tokens);
        self.gate.reserve(id, &ask(bucket, weights), self.now);
        let (headers, end) = match self.delays {
            Delays::Exactly { headers_ms, end_ms } => (headers_ms, end_ms),
            Delays::Drawn => {
                let headers = self.rng.u64(300..4_000);
                (headers, headers + self.rng.u64(0..3_000))
            }
        };
        self.longest_headers = self.longest_headers.max(headers);
        let now = self.now.boot.0;
        self.later(now + headers, Event::Headers(id));
        self.later(now + end, Event::Ends(id, weights));
        let waited = now - self.arrived[&item];
        self.starts.push(Start { at: now, line, item, bucket, tokens, waited });
        id
    }

    fn fits(&mut self, bucket: BucketId, tokens: u64) -> Verdict {
        let ask = ask(bucket, weights(tokens));
        self.gate.check(&ask, self.now)
    }

    /// One queue for all, and no order but the policy's.
    fn naive(&mut self) -> Option<BootMs> {
        let bucket = BucketId(1);
        let queued = self
            .waiting
            .iter()
            .flat_map(|(line, queue)| queue.iter().map(|(item, tokens)| (*line, *item, *tokens)));
        let mut queue: Vec<_> = queued.collect();
        queue.sort_by_key(|(_, item, tokens)| match self.policy {
            Policy::SmallestFirst => (*tokens, *item),
            Policy::Fifo
            | Policy::FirstFit
            | Policy::Ours
            | Policy::HeadUnkept
            | Policy::ByRequests => (self.arrived[item], *item),
        });
        let mut wake: Option<BootMs> = None;
        let mut failed = u64::MAX;
        for (line, item, tokens) in queue {
            if tokens >= failed {
                continue;
            }
            match self.fits(bucket, tokens) {
                Verdict::Fits => {
                    self.go(line, item, tokens, bucket);
                }
                Verdict::Wait(Wait { until, .. }) => {
                    wake = Some(wake.map_or(until, |known| known.min(until)));
                    failed = tokens;
                    if self.policy == Policy::Fifo {
                        break;
                    }
                }
                Verdict::Never(never) => panic!("{never}"),
            }
        }
        wake
    }
}

fn ask(bucket: BucketId, need: Weights) -> Ask {
    Ask { bucket, key: KeyId(0), class: Class::Batch, need }
}

impl Supply for State {
    fn peek(&mut self, line: LineId, nth: usize, _: Now) -> Peek {
        let item = self.waiting.get(&line).and_then(|queue| queue.get(nth));
        item.map_or(Peek::Nothing, |(id, _)| Peek::Item(Item { id: *id, pinned: None }))
    }

    fn find(&mut self, line: LineId, item: i64, _: Now) -> Option<Item> {
        let queue = self.waiting.get(&line)?;
        queue.iter().any(|(id, _)| *id == item).then_some(Item { id: item, pinned: None })
    }

    fn ready(&mut self, line: LineId, item: Item, _: &Route, _: Now) -> Readiness {
        let queue = &self.waiting[&line];
        let tokens = queue.iter().find(|(id, _)| *id == item.id).map_or(0, |(_, tokens)| *tokens);
        Readiness::Needs(weights(tokens))
    }

    fn hindrance(&mut self, _: BucketId, _: Now) -> Option<Waiting> {
        None
    }

    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict {
        let kept = self.policy != Policy::HeadUnkept || beside.more == Weights::default();
        if !kept {
            return Verdict::Fits;
        }
        self.gate.check_beside(&ask(bucket, *need), beside, now)
    }

    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        self.gate.unbound(attempts)
    }

    fn share(&self, bucket: BucketId, need: &Weights) -> u128 {
        match self.policy {
            Policy::ByRequests => u128::from(need.requests),
            Policy::Ours
            | Policy::HeadUnkept
            | Policy::Fifo
            | Policy::FirstFit
            | Policy::SmallestFirst => self.gate.dominant_share(bucket, need),
        }
    }

    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        self.gate.next_end(bucket, now)
    }

    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64 {
        self.gate.headroom(&ask(bucket, *need), now)
    }

    fn set_firm(&mut self, _: BucketId, _: Option<(Weights, bool)>) {}

    fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        _: Now,
    ) -> AttemptId {
        self.go(line, item.id, need.input_tokens, route.bucket)
    }

    fn refuse(&mut self, _: LineId, item: Item, reason: String, _: Now) {
        panic!("prompt {}: {reason}", item.id);
    }
}
