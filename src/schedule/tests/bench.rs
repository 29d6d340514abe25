//! A small world: a real gate, lines with their prompts in memory, and a clock to move by hand.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::QuotaDay;
use crate::gate::admit::{BucketId, Gate};
use crate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use crate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use crate::gate::verdict::{Ask, Beside, Verdict};
use crate::gate::window::AttemptId;
use crate::schedule::{
    Head, Item, Line, LineId, Peek, Readiness, Route, Schedule, Supply, TenantId, Waiting,
};

pub(super) const A: BucketId = BucketId(1);
pub(super) const B: BucketId = BucketId(2);

/// Where the boot clock stands when a test begins.
const BOOT: u64 = 1_000_000;

/// Noon of an ordinary day in California.
const NOON: &str = "2026-11-23T20:00:00Z";

#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) schedule: Schedule,
    pub(super) world: World,
    /// The buckets, in the order in which they are ticked.
    buckets: Vec<BucketId>,
}

/// What the schedule is told of.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) lines: BTreeMap<LineId, Queue>,
    pub(super) started: Vec<Started>,
    pub(super) refused: Vec<(i64, String)>,
    pub(super) hindered: BTreeMap<BucketId, u64>,
    pub(super) unknown: BTreeSet<i64>,
    pub(super) not_now: BTreeSet<i64>,
    pub(super) firm: BTreeMap<BucketId, (Weights, bool)>,
    /// How long an answer takes. 0: it is there at once, and its end is known to the window.
    pub(super) latency: u64,
    /// How often lines were asked for what they offer.
    pub(super) peeks: usize,
    /// Who is under way, by the time of the answer.
    open: BTreeMap<(u64, AttemptId), Weights>,
    zero: UnixMs,
    next: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    pub(super) prompts: Vec<Prompt>,
    pub(super) loading: bool,
    pub(super) later: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) id: i64,
    pub(super) need: Weights,
    pub(super) pinned: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) ms: u64,
    pub(super) item: i64,
    pub(super) line: LineId,
    pub(super) bucket: BucketId,
    pub(super) cost: u128,
}

/// A line to be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    tenant: String,
    class: u8,
    deadline: Option<u64>,
    routes: Vec<Route>,
    patience_ms: u64,
}

impl Plan {
    /// A line of a tenant: normal, to bucket A.
    pub(super) fn of(tenant: &str) -> Self {
        let plan = Self {
            tenant: tenant.to_owned(),
            class: 1,
            deadline: None,
            routes: Vec::new(),
            patience_ms: 900_000,
        };
        plan.to(A)
    }

    pub(super) fn high(self) -> Self {
        Self { class: 0, ..self }
    }

    pub(super) fn low(self) -> Self {
        Self { class: 2, ..self }
    }

    pub(super) fn class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    pub(super) fn due(self, ms: u64) -> Self {
        Self { deadline: Some(ms), ..self }
    }

    pub(super) fn to(self, bucket: BucketId) -> Self {
        Self { routes: vec![route(bucket, false)], ..self }
    }

    pub(super) fn or(mut self, bucket: BucketId) -> Self {
        self.routes.push(route(bucket, false));
        self
    }

    pub(super) fn else_to(mut self, bucket: BucketId) -> Self {
        self.routes.push(route(bucket, true));
        self
    }

    pub(super) fn patient(self, patience_ms: u64) -> Self {
        Self { patience_ms, ..self }
    }
}

/// The project of a bucket has its number.
fn route(bucket: BucketId, fallback: bool) -> Route {
    Route { project: bucket.0, bucket, fallback }
}

impl Bench {
    /// With bucket A.
    pub(super) fn new(limits: &[Limit]) -> Self {
        Self::starting(NOON, limits)
    }

    /// Time 0 is the given instant.
    pub(super) fn starting(time: &str, limits: &[Limit]) -> Self {
        let zero = UnixMs::from(time.parse::<chrono::DateTime<chrono::Utc>>().expect("a time"));
        let world = World {
            gate: Gate::default(),
            lines: BTreeMap::new(),
            started: Vec::new(),
            refused: Vec::new(),
            hindered: BTreeMap::new(),
            unknown: BTreeSet::new(),
            not_now: BTreeSet::new(),
            firm: BTreeMap::new(),
            latency: 0,
            peeks: 0,
            open: BTreeMap::new(),
            zero,
            next: 1,
        };
        let mut bench = Self { schedule: Schedule::default(), world, buckets: Vec::new() };
        bench.bucket(A, limits);
        bench
    }

    pub(super) fn bucket(&mut self, id: BucketId, limits: &[Limit]) {
        self.world.gate.define(id, ProjectId(id.0), limits.to_vec(), QuotaDay::pacific());
        self.buckets.push(id);
    }

    /// Enters a line at `ms`, with a prompt of each of so many tokens. Prompts have the line's
    /// number, a thousandfold, and their place from 1.
    pub(super) fn line(&mut self, ms: u64, id: i64, plan: &Plan, prompts: &[u64]) -> LineId {
        let (line, id) = (self.describe(plan), LineId(id));
        self.world.lines.insert(id, Queue::default());
        self.more(id, prompts);
        self.schedule.add(id, line, BootMs(BOOT + ms), BootMs(BOOT + ms));
        id
    }

    pub(super) fn describe(&mut self, plan: &Plan) -> Line {
        Line {
            class: plan.class,
            tenant: self.schedule.tenant(&plan.tenant),
            deadline: plan.deadline.map(|ms| self.world.zero.plus(ms)),
            routes: plan.routes.clone(),
            patience_ms: plan.patience_ms,
        }
    }

    /// More prompts at the end of a line, of so many tokens each.
    pub(super) fn more(&mut self, id: LineId, prompts: &[u64]) {
        let queue = self.world.lines.get_mut(&id).expect("a known line");
        for input_tokens in prompts {
            let id = queue.prompts.last().map_or(id.0 * 1_000, |last| last.id) + 1;
            queue.prompts.push(Prompt { id, need: tokens(*input_tokens), pinned: None });
        }
        self.schedule.rouse(id, BootMs(BOOT));
    }

    pub(super) fn queue(&mut self, line: LineId) -> &mut Queue {
        self.world.lines.get_mut(&line).expect("a known line")
    }

    pub(super) fn tenant(&mut self, name: &str) -> TenantId {
        self.schedule.tenant(name)
    }

    pub(super) fn now(&self, ms: u64) -> Now {
        self.world.now(ms)
    }

    /// Ticks every bucket at `ms`; returns the prompts that went, in order.
    pub(super) fn tick(&mut self, ms: u64) -> Vec<i64> {
        let before = self.world.started.len();
        self.step(ms);
        self.world.started[before..].iter().map(|it| it.item).collect()
    }

    /// The same, of one bucket; returns until when and why the next one waits.
    pub(super) fn tick_of(&mut self, bucket: BucketId, ms: u64) -> Option<(u64, String)> {
        let now = self.now(ms);
        self.world.answer(now);
        self.schedule.pass_time(now.boot);
        let waiting = self.schedule.tick(bucket, now, &mut self.world)?;
        Some((waiting.until.0.saturating_sub(BOOT), waiting.reason))
    }

    /// Lets `ms` come, and returns when something changes next.
    fn step(&mut self, ms: u64) -> Option<u64> {
        let buckets = self.buckets.clone();
        let waits = buckets.into_iter().filter_map(|bucket| Some(self.tick_of(bucket, ms)?.0));
        let next = waits.collect::<Vec<_>>().into_iter().min();
        let wakes = self.schedule.next_change().map(|at| at.0.saturating_sub(BOOT));
        let answers = self.world.open.keys().next().map(|(at, _)| *at);
        [next, wakes, answers].into_iter().flatten().map(|at| at.max(ms + 1)).min()
    }

    /// Lets time go by from `from` until `until`, with a tick whenever something changes, at least
    /// every 15 seconds.
    pub(super) fn run(&mut self, from: u64, until: u64) {
        let mut ms = from;
        while ms < until {
            ms = self.step(ms).unwrap_or(until).min(ms + 15_000).min(until);
        }
        self.step(until);
    }

    pub(super) fn head(&self, bucket: BucketId) -> Option<i64> {
        self.schedule.head(bucket).map(|head: &Head| head.item)
    }

    /// When a prompt went.
    pub(super) fn went(&self, item: i64) -> Option<u64> {
        self.world.started.iter().find(|it| it.item == item).map(|it| it.ms)
    }

    /// Where a prompt went.
    pub(super) fn place(&self, item: i64) -> Option<BucketId> {
        self.world.started.iter().find(|it| it.item == item).map(|it| it.bucket)
    }

    /// What prompts of a line went, with the time of each.
    pub(super) fn of_line(&self, line: i64) -> Vec<(u64, i64)> {
        let own = self.world.started.iter().filter(|it| it.line == LineId(line));
        own.map(|it| (it.ms, it.item)).collect()
    }

    /// Takes room of a bucket for something that the schedule knows nothing of.
    pub(super) fn use_up(&mut self, ms: u64, bucket: BucketId, need: Weights) {
        let now = self.now(ms);
        self.world.send(bucket, &need, now);
    }
}

impl World {
    pub(super) fn now(&self, ms: u64) -> Now {
        Now { boot: BootMs(BOOT + ms), wall: self.zero.plus(ms) }
    }

    /// Takes room for something that the schedule knows nothing of, if there is any.
    pub(super) fn admit(&mut self, bucket: BucketId, need: Weights, ms: u64) {
        let now = self.now(ms);
        if self.gate.check(&ask(bucket, &need), now) == Verdict::Fits {
            self.send(bucket, &need, now);
        }
    }

    fn send(&mut self, bucket: BucketId, need: &Weights, now: Now) -> AttemptId {
        let id = AttemptId(self.next);
        self.next += 1;
        self.gate.reserve(id, &ask(bucket, need), now);
        if self.latency == 0 {
            self.gate.flushed(id, now);
            self.gate.settle(id, *need, now);
        } else {
            self.open.insert((now.boot.0 - BOOT + self.latency, id), *need);
        }
        id
    }

    /// Ends what is answered by now, each at its time.
    fn answer(&mut self, now: Now) {
        while let Some(entry) = self.open.first_entry() {
            let (ms, id) = *entry.key();
            if BOOT + ms > now.boot.0 {
                return;
            }
            let need = entry.remove();
            let at = self.now(ms);
            self.gate.bound(id, at.boot);
            self.gate.settle(id, need, at);
        }
    }

    fn prompt(&self, line: LineId, item: i64) -> Option<&Prompt> {
        self.lines.get(&line)?.prompts.iter().find(|prompt| prompt.id == item)
    }

    fn take(&mut self, line: LineId, item: i64) {
        let queue = self.lines.get_mut(&line).expect("a line that was peeked into");
        let before = queue.prompts.len();
        queue.prompts.retain(|prompt| prompt.id != item);
        assert_eq!(queue.prompts.len() + 1, before, "{item} is in its line once");
    }
}

impl Prompt {
    fn item(&self) -> Item {
        Item { id: self.id, pinned: self.pinned }
    }
}

impl Supply for World {
    fn peek(&mut self, line: LineId, nth: usize, now: Now) -> Peek {
        self.peeks += 1;
        let Some(queue) = self.lines.get(&line) else { return Peek::Nothing };
        if queue.loading {
            return Peek::Loading;
        }
        if let Some(later) = queue.later
            && BOOT + later > now.boot.0
        {
            return Peek::Later(BootMs(BOOT + later));
        }
        queue.prompts.get(nth).map_or(Peek::Nothing, |prompt| Peek::Item(prompt.item()))
    }

    fn find(&mut self, line: LineId, item: i64, now: Now) -> Option<Item> {
        let later = self.lines.get(&line)?.later;
        let rests = later.is_some_and(|later| BOOT + later > now.boot.0);
        self.prompt(line, item).filter(|_| !rests).map(Prompt::item)
    }

    fn ready(&mut self, line: LineId, item: Item, _: &Route, _: Now) -> Readiness {
        if self.unknown.contains(&item.id) {
            return Readiness::Unknown;
        }
        if self.not_now.contains(&item.id) {
            return Readiness::NotNow;
        }
        self.prompt(line, item.id)
            .map_or(Readiness::Unknown, |prompt| Readiness::Needs(prompt.need))
    }

    fn hindrance(&mut self, bucket: BucketId, now: Now) -> Option<Waiting> {
        let until = BootMs(BOOT + self.hindered.get(&bucket)?);
        let reason = "hindered".to_owned();
        (until > now.boot).then_some(Waiting::until(until, reason))
    }

    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict {
        self.gate.check_beside(&ask(bucket, need), beside, now)
    }

    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        self.gate.unbound(attempts)
    }

    fn share(&self, bucket: BucketId, need: &Weights) -> u128 {
        self.gate.dominant_share(bucket, need)
    }

    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        self.gate.next_end(bucket, now)
    }

    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64 {
        self.gate.headroom(&ask(bucket, need), now)
    }

    fn set_firm(&mut self, bucket: BucketId, firm: Option<(Weights, bool)>) {
        self.firm.remove(&bucket);
        self.firm.extend(firm.map(|firm| (bucket, firm)));
    }

    fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId {
        let bucket = route.bucket;
        assert_eq!(self.gate.check(&ask(bucket, need), now), Verdict::Fits, "{item:?}");
        assert!(item.pinned.is_none_or(|project| project == route.project), "{item:?}");
        self.take(line, item.id);
        let (ms, cost) = (now.boot.0 - BOOT, self.share(bucket, need));
        self.started.push(Started { ms, item: item.id, line, bucket, cost });
        self.send(bucket, need, now)
    }

    fn refuse(&mut self, line: LineId, item: Item, reason: String, _: Now) {
        self.take(line, item.id);
        self.refused.push((item.id, reason));
    }
}

fn ask(bucket: BucketId, need: &Weights) -> Ask {
    Ask { bucket, key: KeyId(0), class: Class::Batch, need: *need }
}

fn limit(metric: Metric, window: Window, value: u64) -> Limit {
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

pub(super) fn rpm(value: u64) -> Limit {
    limit(Metric::Requests, Window::Rolling { ms: MINUTE_MS }, value)
}

pub(super) fn tpm(value: u64) -> Limit {
    limit(Metric::InputTokens, Window::Rolling { ms: MINUTE_MS }, value)
}

pub(super) fn rpd(value: u64) -> Limit {
    limit(Metric::Requests, Window::Day, value)
}

/// One request of so many tokens.
pub(super) fn tokens(input_tokens: u64) -> Weights {
    Weights { requests: 1, input_tokens, ..Weights::default() }
}

/// So many requests of no tokens.
pub(super) fn many(requests: u64) -> Weights {
    Weights { requests, ..Weights::default() }
}
