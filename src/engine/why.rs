//! What holds a batch, or one of its items: the numbers and the order by which it would be started.

use super::core::Engine;
use super::job::Offer;
use super::state::{Explained, Question};
use crate::gate::admit::BucketId;
use crate::gate::units::{Now, UnixMs};
use crate::schedule::LineId;
use crate::store::{BatchId, QueuedItem};

/// Batches before another that are told.
const AHEAD_TOLD: usize = 20;

/// What holds a batch.
#[derive(Clone, Debug)]
pub struct Holdup {
    /// The item that it is about: the next one, unless another was asked for.
    pub item: Option<i64>,
    /// Whether that item is under way.
    pub under_way: bool,
    /// What keeps all of the batch, in words.
    pub hindrances: Vec<String>,
    /// Where it may go, and what keeps it from there.
    pub routes: Vec<RouteHoldup>,
}

/// What keeps an item from one of its buckets.
#[derive(Clone, Debug)]
pub struct RouteHoldup {
    /// Whose.
    pub project: String,
    /// The model.
    pub model: String,
    /// Whether it is taken only when the others are far off.
    pub fallback: bool,
    /// What it needs and what is there; none without an item.
    pub explained: Option<Explained>,
    /// The class in which it stands: 0 is the best.
    pub level: Option<u8>,
    /// What its tenant was served here, in millionths of a limit, divided by its weight.
    pub tenant_service_ppm: u64,
    /// How many batches stand before it.
    pub before: usize,
    /// Those batches, the first ones.
    pub ahead: Vec<BatchId>,
    /// How many prompts are left in all that stand before it.
    pub prompts_before: u64,
    /// Who keeps a place here: batch, item and since when.
    pub head: Option<(BatchId, i64, UnixMs)>,
}

impl Engine {
    /// What holds a batch; `item` is another item of it than the next. None for a batch that is not
    /// open.
    pub fn holdup(
        &mut self,
        batch: BatchId,
        item: Option<&QueuedItem>,
        now: Now,
    ) -> Option<Holdup> {
        let job = self.jobs.get(&batch)?;
        let next = match item {
            Some(item) => Some(item.clone()),
            None => match job.offer(0, true, now) {
                Offer::Item(item) => Some(item.clone()),
                Offer::Page | Offer::Later(_) | Offer::Nothing => {
                    job.ready.front().or_else(|| job.retries.values().next()).cloned()
                }
            },
        };
        let mut hindrances = Vec::new();
        let setup = &job.setup;
        hindrances.extend(setup.paused.as_ref().map(|why| format!("it is paused: {why}")));
        hindrances.extend(setup.stopped.as_ref().map(|(why, _)| format!("it is stopped: {why}")));
        if let Some(at) = setup.not_before.filter(|at| *at > now.wall) {
            hindrances.push(format!("it is not to be sent before {at}"));
        }
        if let Some(due) = next.as_ref().map(|item| item.not_before).filter(|at| *at > now.wall) {
            hindrances.push(format!("the item is not tried again before {due}"));
        }
        if let Some(until) = self.spread(batch, now) {
            let at = now.wall_at(until);
            hindrances.push(format!("it is spread over its time: the next goes at {at}"));
        }
        let mut carried = self.flights.values().filter_map(|flight| flight.carried());
        let under_way = |item: &QueuedItem| carried.any(|carried| carried.item.id == item.id);
        let under_way = next.as_ref().is_some_and(under_way);
        let routes = self.jobs[&batch].setup.routes.clone();
        let routes = routes.iter().filter(|route| self.lanes.contains_key(&route.bucket));
        let routes: Vec<_> = routes.cloned().collect();
        let routes = routes.into_iter().map(|route| {
            let explained = next.as_ref().and_then(|item| {
                let need = self.weights(route.bucket, &route.model, item, now);
                self.explain(&Question { bucket: route.bucket, need }, now)
            });
            let place = self.place_of(batch, route.bucket, now);
            let project = self.projects[&route.project].name.clone();
            RouteHoldup {
                project,
                model: route.model,
                fallback: route.fallback,
                explained,
                ..place
            }
        });
        let routes = routes.collect();
        Some(Holdup { item: next.map(|item| item.id), under_way, hindrances, routes })
    }

    /// Whether nothing of a batch's queue was read yet.
    #[must_use]
    pub fn is_idle_at(&self, batch: BatchId) -> bool {
        let idle =
            |job: &super::job::Job| job.open == 0 && job.ready.is_empty() && job.retries.is_empty();
        self.jobs.get(&batch).is_some_and(idle)
    }

    /// Where a batch stands in the order of a bucket.
    fn place_of(&self, batch: BatchId, bucket: BucketId, now: Now) -> RouteHoldup {
        let line = LineId(batch.0);
        let ahead = self.schedule.before(line, bucket);
        let left =
            |line: &LineId| self.jobs.get(&BatchId(line.0)).map_or(0, |job| job.setup.remaining);
        let tenant = self.jobs[&batch].tenant;
        let service = self.schedule.service(bucket, tenant);
        let ppm = service / (crate::gate::share::WHOLE_SHARE / 1_000_000);
        let head = self
            .schedule
            .head(bucket)
            .map(|head| (BatchId(head.line.0), head.item, now.wall_at(head.since)));
        RouteHoldup {
            project: String::new(),
            model: String::new(),
            fallback: false,
            explained: None,
            level: self.schedule.level(line),
            tenant_service_ppm: u64::try_from(ppm).unwrap_or(u64::MAX),
            before: ahead.len(),
            prompts_before: ahead.iter().map(left).sum(),
            ahead: ahead.iter().take(AHEAD_TOLD).map(|line| BatchId(line.0)).collect(),
            head,
        }
    }
}
