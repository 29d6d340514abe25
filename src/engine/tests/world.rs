//! Everything around the engine, in memory and in virtual time: a durable queue, a ledger, a
//! provider that follows a script. Each step is checked against the invariants of `check`.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::answers::{self, Answer};
use crate::caps;
use crate::engine::core::Engine;
use crate::engine::keys::Key;
use crate::engine::start::Pace;
use crate::engine::state::{BatchSetup, Effect, Event, Lane, Link, Project, RouteTo, SendOrder};
use crate::formats::{Dialect, Form, InDoubt, Packing};
use crate::gate::admit::{BucketId, Gate};
use crate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use crate::gate::offset::Offsets;
use crate::gate::units::{BootMs, Metric, Now, ProjectId, UnixMs, Weights};
use crate::gate::window::{AttemptId, DELTA_MS};
use crate::store::{
    AttemptEnd, BatchId, ItemState, ItemUpdate, KeyState, NewAttempt, QueuedItem, Remembered,
    Settlement,
};
use crate::upstream::Outcome;

/// Noon of an ordinary day in California.
pub(super) const NOON: &str = "2026-11-23T20:00:00Z";

/// Steps at one instant: more is a hot loop.
const STEPS_AT_ONCE_MAX: u32 = 3;

/// What is on its way to the engine.
#[derive(Debug)]
enum Coming {
    Event(Event),
    Reserved(Vec<NewAttempt>),
    ReserveFailed(Vec<AttemptId>),
    Loaded(BatchId, i64, usize),
    Settled(Vec<Settlement>),
    Refused(QueuedItem),
    Swept(BatchId, bool),
    Finished(BatchId),
    Sealed(i64, NaiveDate),
}

/// A row of the ledger.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) new: NewAttempt,
    pub(super) sent: bool,
    pub(super) end: Option<AttemptEnd>,
    pub(super) error: Option<String>,
    /// What it came to.
    pub(super) act: Option<Weights>,
}

/// A row of the queue.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) queued: QueuedItem,
    pub(super) state: ItemState,
    pub(super) line: Option<String>,
    /// How often it came to its end.
    pub(super) ends: u32,
}

/// A request that left.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) at: u64,
    /// When the provider counted it; `None` when it never saw it.
    pub(super) counted: Option<u64>,
    pub(super) id: AttemptId,
    pub(super) batch: i64,
    pub(super) line: u64,
    pub(super) bucket: BucketId,
    pub(super) key: usize,
    /// What the provider counted.
    pub(super) weights: Weights,
}

pub(super) type Provider = Box<dyn FnMut(&SendOrder, Now) -> Answer>;

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Now,
    pub(super) provider: Provider,
    pub(super) commit_ms: u64,
    /// How many of the next orders of each kind fail.
    pub(super) reserves_to_fail: u32,
    pub(super) loads_to_fail: u32,
    pub(super) seals_to_fail: u32,
    /// How many failed items go back into the queue before the database fails.
    pub(super) requeues_most: u64,
    /// Whether permits that may be too old are.
    pub(super) slow: bool,
    /// Draws every delay, if set.
    pub(super) chaos: Option<fastrand::Rng>,
    pub(super) setups: BTreeMap<BatchId, BatchSetup>,
    pub(super) items: BTreeMap<i64, Item>,
    pub(super) attempts: BTreeMap<AttemptId, Attempt>,
    pub(super) sent: Vec<Sent>,
    pub(super) loads: Vec<(u64, BatchId, i64)>,
    pub(super) memos: Vec<Remembered>,
    pub(super) key_states: Vec<KeyState>,
    /// What the provider counts for an item, if it does.
    pub(super) counts: BTreeMap<i64, u64>,
    pub(super) seals: Vec<(UnixMs, i64, NaiveDate)>,
    pub(super) sealed: BTreeMap<i64, NaiveDate>,
    pub(super) refusals: Vec<(i64, String)>,
    pub(super) sweeps: Vec<(BatchId, bool)>,
    pub(super) closed: Vec<BatchId>,
    pub(super) log: Vec<String>,
    pub(super) steps: u64,
    coming: BTreeMap<(BootMs, u64), Coming>,
    order: u64,
    at_once: u32,
}

pub(super) fn unix(time: &str) -> UnixMs {
    UnixMs::from(time.parse::<chrono::DateTime<chrono::Utc>>().expect("a time"))
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

fn limit(metric: Metric, window: Window, value: u64) -> Limit {
    Limit { metric, window, scope: Scope::Project, value, source: Source::Config }
}

/// A route to a bucket and its model.
pub(super) fn to(project: i64, bucket: i64) -> RouteTo {
    let model = format!("model-{bucket}");
    RouteTo { project, bucket: BucketId(bucket), model, fallback: false }
}

/// A batch of normal priority in a bucket.
pub(super) fn batch(id: i64, bucket: i64) -> BatchSetup {
    BatchSetup {
        id: BatchId(id),
        bucket: BucketId(bucket),
        work: format!("work-{id}"),
        form: std::sync::Arc::new(Form::of(Dialect::GeminiJsonl)),
        packing: Packing::Plain,
        model: format!("model-{bucket}"),
        tenant: "tenant".to_owned(),
        priority: 1,
        in_doubt: InDoubt::Retry,
        not_before: None,
        deadline: None,
        routes: vec![to(1, bucket)],
        patience_ms: 15 * 60_000,
        spread: false,
        max_cost_nanos: None,
        spent_nanos: 0,
        paused: None,
        submitted_at: UnixMs(0),
        remaining: 0,
        answered: 0,
        stopped: None,
    }
}

/// An item that was not tried yet.
pub(super) fn item(batch: BatchId, number: u32, input_tokens: u64) -> QueuedItem {
    QueuedItem {
        output_tokens_max: None,
        text: None,
        id: batch.item(number),
        offset: u64::from(number) * 100,
        bytes: 99,
        hash: Some(7),
        requests: 1,
        input_tokens,
        images: 0,
        attempts: 0,
        doubts: 0,
        not_before: UnixMs(0),
    }
}

impl World {
    /// A world with project 1 that has one key, at noon.
    pub(super) fn new() -> Self {
        Self::starting(NOON, 1)
    }

    pub(super) fn starting(time: &str, seed: u64) -> Self {
        let mut world = Self {
            engine: Engine::new(Gate::default(), AttemptId(1), seed),
            now: Now { boot: BootMs(1_000_000), wall: unix(time) },
            provider: Box::new(|_, _| answers::ok()),
            commit_ms: 5,
            reserves_to_fail: 0,
            loads_to_fail: 0,
            seals_to_fail: 0,
            requeues_most: u64::MAX,
            slow: false,
            chaos: None,
            setups: BTreeMap::new(),
            items: BTreeMap::new(),
            attempts: BTreeMap::new(),
            sent: Vec::new(),
            loads: Vec::new(),
            memos: Vec::new(),
            key_states: Vec::new(),
            counts: BTreeMap::new(),
            seals: Vec::new(),
            sealed: BTreeMap::new(),
            refusals: Vec::new(),
            sweeps: Vec::new(),
            closed: Vec::new(),
            log: Vec::new(),
            steps: 0,
            coming: BTreeMap::new(),
            order: 0,
            at_once: 0,
        };
        world.project(1, &["a"]);
        world.tell(Event::Tick);
        world
    }

    /// Enters a project whose past days are sealed.
    pub(super) fn project(&mut self, id: i64, keys: &[&str]) -> &mut Project {
        let day = crate::calendar::QuotaDay::pacific();
        let today = day.span_at(self.now.wall.to_utc()).key;
        let key = |name: &&str| Key::new((*name).to_owned());
        let project = Project {
            name: format!("project-{id}"),
            keys: keys.iter().map(key).collect(),
            next_key: 0,
            link: Link::default(),
            tier: "free".to_owned(),
            counts_output: false,
            strict_estimates: false,
            clock: Offsets::default(),
            floor: None,
            pace: Pace { max_in_flight: 1_000, starts_per_second: caps::STARTS_PER_SECOND },
            in_flight: 0,
            second: BootMs(0),
            started: 0,
            held: None,
            day,
            sealed_before: Some(today),
            sealing: false,
            seal_after: BootMs(0),
        };
        self.engine.projects.insert(id, project);
        self.engine.projects.get_mut(&id).expect("just inserted")
    }

    /// Takes the endpoint of project 1 for proven, so that nothing goes first.
    pub(super) fn proven(&mut self) {
        self.engine.projects.get_mut(&1).expect("project 1").link.proven = true;
    }

    pub(super) fn bucket(&mut self, id: i64, project: i64, limits: &[Limit]) {
        let day = self.engine.projects[&project].day.clone();
        self.engine.gate.define(BucketId(id), ProjectId(project), limits.to_vec(), day);
        let lane = Lane::new(project, format!("group-{id}"), false);
        self.engine.lanes.insert(BucketId(id), lane);
    }

    /// Opens a batch of `count` items of one token each.
    pub(super) fn open(&mut self, setup: BatchSetup, count: u32) {
        self.open_weighing(setup, &vec![1; usize::try_from(count).expect("small")]);
    }

    /// Opens a batch with an item for each weight in tokens.
    pub(super) fn open_weighing(&mut self, mut setup: BatchSetup, tokens: &[u64]) {
        for (number, &input_tokens) in (1..).zip(tokens) {
            let queued = item(setup.id, number, input_tokens);
            let id = queued.id;
            let item = Item { queued, state: ItemState::Queued, line: None, ends: 0 };
            self.items.insert(id, item);
        }
        for route in &mut setup.routes {
            let lane = self.engine.lanes.get(&route.bucket);
            route.project = lane.map_or(route.project, |lane| lane.project);
        }
        if let [only] = setup.routes.as_mut_slice() {
            only.model.clone_from(&setup.model);
        }
        setup.remaining = u64::try_from(tokens.len()).expect("small");
        if setup.submitted_at == UnixMs(0) {
            setup.submitted_at = self.now.wall;
        }
        self.setups.insert(setup.id, setup.clone());
        self.tell(Event::BatchOpened(Box::new(setup)));
    }

    pub(super) fn cancel(&mut self, batch: i64) {
        let reason = crate::engine::CANCELLED.to_owned();
        self.tell(Event::Stop { batch: BatchId(batch), reason, cancelled: true });
    }

    /// Tells the engine now.
    pub(super) fn tell(&mut self, event: Event) {
        self.later(0, Coming::Event(event));
    }

    pub(super) fn run_for(&mut self, ms: u64) {
        let end = self.now.boot.plus(ms);
        loop {
            let tick = self.now.boot.plus(caps::TICK_MAX_MS);
            let wake = self.engine.wake().map_or(tick, |wake| wake.min(tick));
            let due = self.coming.first_key_value().map_or(wake, |(&(at, _), _)| at.min(wake));
            self.advance(due.max(self.now.boot).min(end));
            if due > end {
                return;
            }
            self.step();
        }
    }

    /// Lets time pass without a look at it: the machine was suspended.
    pub(super) fn advance(&mut self, to: BootMs) {
        let ms = self.now.boot.until(to);
        if ms > 0 {
            self.at_once = 0;
        }
        self.now = Now { boot: to, wall: self.now.wall.plus(ms) };
    }

    fn step(&mut self) {
        self.at_once += 1;
        self.steps += 1;
        assert!(self.at_once <= STEPS_AT_ONCE_MAX, "a hot loop at {:?}", self.now);
        let mut events = Vec::new();
        while let Some(entry) = self.coming.first_entry() {
            if entry.key().0 > self.now.boot {
                break;
            }
            let coming = entry.remove();
            events.push(self.happen(coming));
        }
        if events.is_empty() {
            events.push(Event::Tick);
        }
        for effect in self.engine.step(self.now, events) {
            self.log.push(format!("{} {effect:?}", self.now.boot.0));
            self.execute(effect);
        }
        if let Some(wake) = self.engine.wake() {
            assert!(wake > self.now.boot, "wakes at {wake:?}, and it is {:?}", self.now);
        }
        self.check();
    }

    fn later(&mut self, ms: u64, coming: Coming) {
        self.order += 1;
        self.coming.insert((self.now.boot.plus(ms), self.order), coming);
    }

    fn commit(&mut self, coming: Coming) {
        let ms = self.chaos.as_mut().map_or(self.commit_ms, |rng| rng.u64(1..200));
        self.later(ms, coming);
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Load { batch, after, limit } => {
                self.loads.push((self.now.boot.0, batch, after));
                if self.loads_to_fail > 0 {
                    self.loads_to_fail -= 1;
                    self.commit(Coming::Event(Event::LoadFailed(batch)));
                } else {
                    self.commit(Coming::Loaded(batch, after, limit));
                }
            }
            Effect::Reserve(rows) if self.reserves_to_fail > 0 => {
                self.reserves_to_fail -= 1;
                self.commit(Coming::ReserveFailed(rows.iter().map(|row| row.id).collect()));
            }
            Effect::Reserve(rows) => self.commit(Coming::Reserved(rows)),
            Effect::Send(order) => self.send(&order),
            Effect::Admit(_) | Effect::SettleCall(_) => unreachable!("no client calls here"),
            Effect::Count(order) => {
                let (batch, item) = (BatchId::of_item(order.item.id), order.item.id);
                let tokens = self.counts.get(&item).copied();
                self.commit(Coming::Event(Event::Counted { batch, item, tokens }));
            }
            Effect::Settle(rows) => self.commit(Coming::Settled(rows)),
            Effect::Refuse { item, reason } => {
                self.refusals.push((item.id, reason));
                self.commit(Coming::Refused(item));
            }
            Effect::Sweep { batch, cancelled, .. } => {
                self.sweeps.push((batch, cancelled));
                self.commit(Coming::Swept(batch, cancelled));
            }
            Effect::Remember(memo) => {
                self.memos.push(*memo);
                self.commit(Coming::Event(Event::Kept));
            }
            Effect::KeepKey(state) => {
                self.key_states.push(state);
                self.commit(Coming::Event(Event::KeyKept));
            }
            Effect::Requeue(batch) => {
                let (first, end) = (batch.item(0), BatchId(batch.0 + 1).item(0));
                let mut count = 0;
                for (_, item) in self.items.range_mut(first..end) {
                    if item.state == ItemState::Failed && count < self.requeues_most {
                        item.state = ItemState::Queued;
                        (item.queued.attempts, item.queued.doubts) = (0, 0);
                        item.queued.not_before = UnixMs(0);
                        item.ends -= 1;
                        count += 1;
                    }
                }
                let error = count.checked_sub(self.requeues_most).map(|_| "disk".to_owned());
                self.commit(Coming::Event(Event::Requeued { batch, moved: count, error }));
            }
            Effect::Finish(batch) => self.commit(Coming::Finished(batch)),
            Effect::Seal { project, today } => {
                self.seals.push((self.now.wall, project, today));
                self.commit(Coming::Sealed(project, today));
            }
        }
    }

    /// A2: nothing is sent without a durable row of its own.
    fn send(&mut self, order: &SendOrder) {
        if self.slow && order.stale_at.is_some() {
            self.later(1_000, Coming::Event(Event::Stale(order.id)));
            return;
        }
        let answer = (self.provider)(order, self.now);
        let attempt = self.attempts.get_mut(&order.id).expect("reserved durably before");
        assert!(!attempt.sent, "{order:?} is sent twice");
        attempt.sent = true;
        let not_sent = matches!(answer.report.outcome, Outcome::NotSent { .. });
        let unknown = matches!(answer.report.outcome, Outcome::Unknown { .. });
        let last = answer.headers_ms.unwrap_or(answer.ended_ms + u64::from(unknown) * DELTA_MS);
        let last = answer.body_ms.map_or(last, |body| last.min(body + DELTA_MS));
        let after = self.chaos.as_mut().map_or(0, |rng| rng.u64(0..=last));
        let at = self.now.boot.0;
        let mut weights = attempt.new.est;
        if let Outcome::Answered { usage: Some(usage), .. } = &answer.report.outcome {
            weights.input_tokens = usage.prompt;
        }
        self.sent.push(Sent {
            at,
            counted: (!not_sent).then_some(at + after),
            id: order.id,
            batch: BatchId::of_item(order.item.id).0,
            line: BatchId::line_of_item(order.item.id),
            bucket: attempt.new.bucket_id,
            key: order.key,
            weights,
        });
        if let Some(ms) = answer.body_ms {
            self.later(ms, Coming::Event(Event::BodySent(order.id)));
        }
        if let Some(ms) = answer.headers_ms {
            self.later(ms, Coming::Event(Event::Headers(order.id)));
        }
        let line = matches!(answer.report.outcome, Outcome::Answered { .. });
        let ended = Event::Ended {
            id: order.id,
            key: format!("key-{}", order.item.id),
            report: Box::new(answer.report),
            line: line.then(|| "answer\n".to_owned()),
            latency_ms: answer.ended_ms,
        };
        self.later(answer.ended_ms, Coming::Event(ended));
    }

    /// What was on its way has become durable, and the engine hears of it.
    fn happen(&mut self, coming: Coming) -> Event {
        match coming {
            Coming::Event(event) => event,
            Coming::Reserved(rows) => {
                let ids = rows.iter().map(|row| row.id).collect();
                for row in rows {
                    self.reserve(row);
                }
                Event::Reserved(ids)
            }
            Coming::ReserveFailed(ids) => {
                Event::ReserveFailed { ids, reason: "no space left".to_owned() }
            }
            Coming::Loaded(batch, after, limit) => {
                let rows = self.items.range(after.max(batch.item(0)) + 1..batch.item(u32::MAX));
                let queued = rows.filter(|(_, item)| item.state == ItemState::Queued);
                let page = queued.map(|(_, item)| item.queued.clone()).take(limit);
                Event::Loaded { batch, items: page.collect() }
            }
            Coming::Settled(rows) => {
                let ids = rows.iter().filter_map(|row| Some(row.item.as_ref()?.id)).collect();
                for row in rows {
                    self.settle(row);
                }
                Event::Settled(ids)
            }
            Coming::Refused(item) => {
                self.end(item.id, ItemState::Failed);
                Event::Settled(vec![item.id])
            }
            Coming::Swept(batch, cancelled) => {
                let open = |attempt: &&Attempt| {
                    attempt.end.is_none()
                        && attempt.new.item_id.map(BatchId::of_item) == Some(batch)
                };
                assert!(self.attempts.values().find(open).is_none(), "swept with open attempts");
                let state = if cancelled { ItemState::Cancelled } else { ItemState::Failed };
                let rest = self.items_of(batch.0).into_iter().filter(|(_, item)| item.ends == 0);
                let rest: Vec<_> = rest.map(|(id, _)| id).collect();
                for id in rest {
                    self.end(id, state);
                }
                Event::Swept(batch)
            }
            Coming::Finished(batch) => {
                assert!(self.items_of(batch.0).iter().all(|(_, item)| item.ends == 1));
                assert!(!self.closed.contains(&batch), "{batch:?} is finished twice");
                self.closed.push(batch);
                Event::Closed(batch)
            }
            Coming::Sealed(project, today) => self.seal(project, today),
        }
    }

    fn reserve(&mut self, new: NewAttempt) {
        if let Some(sealed) = self.sealed.get(&new.project_id) {
            assert!(new.day_lo >= sealed.to_string(), "{new:?} is of a sealed day ({sealed})");
        }
        let row = Attempt { new, sent: false, end: None, error: None, act: None };
        let id = row.new.id;
        assert!(self.attempts.insert(id, row).is_none(), "{id:?} is reserved twice");
    }

    fn settle(&mut self, row: Settlement) {
        let end = row.attempt.expect("the engine settles attempts");
        let attempt = self.attempts.get_mut(&end.id).expect("a settled attempt was reserved");
        assert!(attempt.end.is_none(), "{:?} is settled twice", end.id);
        assert!(end.day_hi >= attempt.new.day_lo, "{end:?} ends before it begins");
        attempt.end = Some(end.end);
        attempt.error = end.error;
        attempt.act = Some(end.act);
        let ItemUpdate { id, state, attempts, doubts, not_before, line, answer } =
            row.item.expect("an attempt of a batch has an item");
        let item = self.items.get_mut(&id).expect("a known item");
        assert_eq!(item.state, ItemState::Queued, "{id} is moved on twice");
        item.queued = QueuedItem { attempts, doubts, not_before, ..item.queued.clone() };
        assert_eq!(answer, None, "the engine places no answer");
        item.line = line;
        match state {
            ItemState::Queued => {}
            ItemState::Held => item.state = state,
            ItemState::Succeeded
            | ItemState::Failed
            | ItemState::Cancelled
            | ItemState::Blocked => self.end(id, state),
        }
    }

    fn end(&mut self, id: i64, state: ItemState) {
        let item = self.items.get_mut(&id).expect("a known item");
        item.state = state;
        item.ends += 1;
        assert_eq!(item.ends, 1, "item {id} ends twice");
    }

    fn seal(&mut self, project: i64, today: NaiveDate) -> Event {
        let day = today.to_string();
        let stands = |attempt: &Attempt| attempt.end.is_none() && attempt.new.day_lo < day;
        let open = self.attempts.values().any(|a| a.new.project_id == project && stands(a));
        let failed = self.seals_to_fail > 0;
        self.seals_to_fail = self.seals_to_fail.saturating_sub(1);
        if open || failed {
            return Event::Sealed { project, before: None };
        }
        self.sealed.insert(project, today);
        Event::Sealed { project, before: Some(today) }
    }

    pub(super) fn items_of(&self, batch: i64) -> Vec<(i64, &Item)> {
        let (first, end) = (BatchId(batch).item(0), BatchId(batch + 1).item(0));
        self.items.range(first..end).map(|(id, item)| (*id, item)).collect()
    }

    pub(super) fn count(&self, batch: i64, state: ItemState) -> usize {
        self.items_of(batch).iter().filter(|(_, item)| item.state == state).count()
    }

    /// The lines that were sent, as (batch, line), in order.
    pub(super) fn lines(&self) -> Vec<(i64, u64)> {
        self.sent.iter().map(|sent| (sent.batch, sent.line)).collect()
    }

    /// The most of a bucket, by `weigh`, that the provider counted in any `window` ms.
    pub(super) fn densest(&self, bucket: i64, window: u64, weigh: fn(&Weights) -> u64) -> u64 {
        let mut counted: Vec<(u64, u64)> = self
            .sent
            .iter()
            .filter(|sent| sent.bucket == BucketId(bucket))
            .filter_map(|sent| Some((sent.counted?, weigh(&sent.weights))))
            .collect();
        counted.sort_unstable();
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for &(at, weight) in &counted {
            sum += weight;
            while counted[first].0 + window <= at {
                sum -= counted[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    /// What must hold after every step.
    fn check(&self) {
        let engine = &self.engine;
        let flights = u32::try_from(engine.flights.len()).expect("few");
        assert_eq!(engine.lanes.values().map(|lane| lane.in_flight).sum::<u32>(), flights);
        assert_eq!(engine.projects.values().map(|p| p.in_flight).sum::<u32>(), flights);
        let mut places: Vec<i64> = engine.settling.keys().copied().collect();
        places.extend(engine.flights.values().filter_map(|it| Some(it.carried()?.item.id)));
        places.extend(engine.jobs.values().flat_map(|job| job.retries.values()).map(|i| i.id));
        places.sort_unstable();
        let twice = places.windows(2).find(|two| two[0] == two[1]);
        assert_eq!(twice, None, "an item is in two places");
        for id in places {
            let job = engine.jobs.get(&BatchId::of_item(id)).expect("a batch of an item at work");
            assert!(!job.suspects.contains_key(&id), "item {id} is in two places");
            let ready = job.ready.binary_search_by_key(&id, |item| item.id);
            assert!(ready.is_err(), "item {id} is in two places");
        }
        for (id, job) in &engine.jobs {
            let put_back = job.requeue.as_ref().is_some_and(|(_, ordered)| *ordered);
            let over = job.setup.remaining == 0 || job.setup.stopped.is_some();
            assert!(job.is_busy() || put_back || !over, "{id:?} is over and was overlooked");
            let order = job.ready.iter().map(|item| item.id);
            assert!(order.is_sorted_by(|one, next| one < next), "{id:?} is out of order");
            let carried = engine.flights.values().filter_map(|it| it.carried());
            let flying = carried.filter(|carried| carried.batch == *id).count();
            let settling = engine.settling.values().filter(|s| s.batch == *id).count();
            assert_eq!(usize::try_from(job.open).expect("few"), flying + settling, "{id:?}");
        }
    }
}
