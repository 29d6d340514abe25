//! What the schedule asks of the engine while it starts what may go.

use super::core::Engine;
use super::estimate::is_of_project;
use super::job::{Job, Offer, is_retry};
use super::plan::{ask, open_end};
use super::state::Effect;
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::limits::Window;
use crate::gate::reserve::Firm;
use crate::gate::units::{BootMs, Class, Metric, Now, Weights};
use crate::gate::verdict::{Beside, Verdict};
use crate::gate::window::AttemptId;
use crate::schedule::{Item, LineId, Peek, Readiness, Route, Supply, Waiting, spread_gap_ms};
use crate::store::{BatchId, NewAttempt, QueuedItem};

/// Further away than any batch is patient.
pub(super) const FAR: BootMs = BootMs(u64::MAX >> 1);

/// The engine, and what a round of starts comes to.
pub(super) struct Round<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) reservations: Vec<NewAttempt>,
    pub(super) effects: &'a mut Vec<Effect>,
    /// Batches that may not cost more.
    pub(super) spent: Vec<BatchId>,
}

impl Round<'_> {
    fn queued(&self, line: LineId, item: Item, now: Now) -> Option<QueuedItem> {
        self.engine.jobs.get(&BatchId(line.0))?.find(item.id, now).cloned()
    }

    /// Orders the next page of a batch's queue, unless it is being read.
    fn load(&mut self, batch: BatchId) {
        let job = self.engine.jobs.get_mut(&batch).expect("a line has a job");
        if job.loading.is_none() {
            let limit = job.page();
            job.loading = Some(limit);
            self.effects.push(Effect::Load { batch, after: job.cursor, limit });
        }
    }

    fn offered(&self, batch: BatchId, item: &QueuedItem) -> Item {
        Item { id: item.id, pinned: self.pinned(batch, item) }
    }

    /// The one project of several that an item may go to, if it names what only that one has.
    fn pinned(&self, batch: BatchId, item: &QueuedItem) -> Option<i64> {
        let routes = &self.engine.jobs[&batch].setup.routes;
        let owner = routes.first().map(|route| route.project);
        owner.filter(|_| routes.len() > 1 && is_of_project(item))
    }

    /// Whether something that was tried before may go somewhere.
    fn retries(&self, job: &Job) -> bool {
        let lanes = job.setup.routes.iter().filter_map(|it| self.engine.lanes.get(&it.bucket));
        lanes.into_iter().any(|lane| lane.in_flight == 0 || lane.budget.allows())
    }

    /// Whether nothing of a batch comes before this item.
    fn is_next(&self, batch: BatchId, item: i64, now: Now) -> bool {
        let job = &self.engine.jobs[&batch];
        matches!(job.offer(0, self.retries(job), now), Offer::Item(next) if next.id == item)
    }

    /// Whether an item costs more than its batch may spend, wherever it goes.
    fn is_too_dear(&mut self, batch: BatchId, item: &QueuedItem, now: Now) -> bool {
        let pinned = self.pinned(batch, item);
        let mut routes = self.engine.jobs[&batch].setup.routes.clone();
        routes.retain(|route| pinned.is_none_or(|project| project == route.project));
        routes.retain(|route| self.engine.lanes.contains_key(&route.bucket));
        routes.iter().all(|route| {
            let need = self.engine.weights(route.bucket, &route.model, item, now);
            self.engine.jobs[&batch].would_cost_too_much(need.spend_nanos)
        })
    }
}

impl Supply for Round<'_> {
    fn peek(&mut self, line: LineId, nth: usize, now: Now) -> Peek {
        let batch = BatchId(line.0);
        let paused = self.engine.pause(now).is_some();
        let Some(job) = self.engine.jobs.get(&batch) else { return Peek::Nothing };
        if job.is_shut() {
            return Peek::Nothing;
        }
        if let Some(until) = job.rests_until(now).or_else(|| self.engine.spread(batch, now)) {
            return Peek::Later(until);
        }
        let job = &self.engine.jobs[&batch];
        let mut wanted = job.wants_page();
        let peek = match job.offer(nth, self.retries(job), now) {
            Offer::Item(item) => Peek::Item(self.offered(batch, item)),
            Offer::Page => {
                // What is held may wait for a project that is shut, and what is behind it need not.
                wanted |= job.may_hold_more();
                Peek::Loading
            }
            Offer::Later(at) => Peek::Later(at),
            Offer::Nothing => Peek::Nothing,
        };
        if wanted && !paused {
            self.load(batch);
        }
        peek
    }

    fn find(&mut self, line: LineId, item: i64, now: Now) -> Option<Item> {
        let batch = BatchId(line.0);
        let job = self.engine.jobs.get(&batch)?;
        if job.is_shut() || job.rests_until(now).is_some() {
            return None;
        }
        Some(self.offered(batch, job.find(item, now)?))
    }

    fn ready(&mut self, line: LineId, item: Item, route: &Route, now: Now) -> Readiness {
        let batch = BatchId(line.0);
        let Some(item) = self.queued(line, item, now) else { return Readiness::Unknown };
        let in_flight = self.engine.bytes_in_flight;
        if in_flight > 0 && in_flight.saturating_add(item.bytes) > caps::BYTES_IN_FLIGHT_MAX {
            let reason = format!("{in_flight} bytes of prompts are in flight");
            return Readiness::Waits(open_end(now), reason);
        }
        let sender = &self.engine.lanes[&route.bucket];
        if is_retry(&item) && sender.in_flight > 0 && !sender.budget.allows() {
            return Readiness::NotNow;
        }
        if self.engine.count_ahead(route.bucket, batch, &item, now, self.effects) {
            return Readiness::Unknown;
        }
        let model = self.engine.model_of(batch, route.bucket);
        let need = self.engine.weights(route.bucket, &model, &item, now);
        let job = &self.engine.jobs[&batch];
        if job.would_cost_too_much(need.spend_nanos) {
            if job.open > 0 {
                // That may turn out to cost less.
                return Readiness::Unknown;
            }
            if self.is_next(batch, item.id, now) && self.is_too_dear(batch, &item, now) {
                self.spent.push(batch);
            }
            return Readiness::TooDear;
        }
        Readiness::Needs(need)
    }

    fn hindrance(&mut self, bucket: BucketId, now: Now) -> Option<Waiting> {
        if let Some(until) = self.engine.callers.first_in(bucket) {
            return Some(Waiting::until(until, "interactive requests go first".to_owned()));
        }
        let (until, reason) = self.engine.hindrance(bucket, now, Class::Batch)?;
        // Whoever can go elsewhere need not wait for a person.
        let until = if self.engine.waits_for_someone(bucket) { FAR } else { until };
        Some(Waiting::until(until, reason))
    }

    fn check(&mut self, bucket: BucketId, need: &Weights, beside: &Beside, now: Now) -> Verdict {
        self.engine.check_keys(now, bucket, Class::Batch, (*need, *beside)).1
    }

    fn share(&self, bucket: BucketId, need: &Weights) -> u128 {
        self.engine.gate.dominant_share(bucket, need)
    }

    fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        self.engine.gate.next_end(bucket, now)
    }

    fn headroom(&mut self, bucket: BucketId, need: &Weights, now: Now) -> i64 {
        self.engine.gate.headroom(&ask(bucket, 0, Class::Batch, *need), now)
    }

    fn set_firm(&mut self, bucket: BucketId, firm: Option<(Weights, bool)>) {
        let firm = firm.map(|(need, whole)| Firm { need, whole });
        self.engine.gate.set_firm(bucket, firm);
    }

    fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        self.engine.gate.unbound(attempts)
    }

    fn start(
        &mut self,
        line: LineId,
        item: Item,
        route: &Route,
        need: &Weights,
        now: Now,
    ) -> AttemptId {
        let batch = BatchId(line.0);
        let job = self.engine.jobs.get_mut(&batch).expect("a line has a job");
        let item = job.take(item.id).expect("an item that was found is in its queue");
        let ask = (*need, Beside::default());
        let (key, _) = self.engine.check_keys(now, route.bucket, Class::Batch, ask);
        let attempt = self.engine.start(now, route.bucket, batch, item, (key, *need));
        let id = attempt.id;
        self.reservations.push(attempt);
        id
    }

    fn refuse(&mut self, line: LineId, item: Item, reason: String, _now: Now) {
        let batch = BatchId(line.0);
        let job = self.engine.jobs.get_mut(&batch).expect("a line has a job");
        let item = job.take(item.id).expect("an item that was found is in its queue");
        self.effects.push(self.engine.refuse(batch, item, reason));
    }
}

impl Engine {
    /// Until when a batch that is spread over its time waits with its next item.
    pub(super) fn spread(&mut self, batch: BatchId, now: Now) -> Option<BootMs> {
        let job = &self.jobs[&batch];
        let started = job.started.filter(|_| job.setup.spread)?;
        let bucket = job.setup.routes.first().map(|route| route.bucket)?;
        self.lanes.get(&bucket)?;
        let (day_end, _) = self.gate.day_end(bucket, now);
        let left_today = self.gate.state(bucket, now);
        let left_today = left_today
            .iter()
            .filter(|state| state.limit.metric == Metric::Requests)
            .filter(|state| state.limit.window == Window::Day)
            .map(|state| state.free)
            .min();
        let job = &self.jobs[&batch];
        let until = job.setup.deadline.map_or(day_end, |deadline| deadline.min(day_end));
        let time_ms = u64::try_from(until.0.saturating_sub(now.wall.0)).unwrap_or(0);
        let next = started.plus(spread_gap_ms(time_ms, job.setup.remaining, left_today));
        (next > now.boot).then_some(next)
    }
}
