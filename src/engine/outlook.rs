//! What the forecast begins with: a copy of the engine, what waits in the queue behind it, and what
//! somebody thinks of adding.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::Engine;
use super::job::Job;
use super::routes::of_batch;
use super::start::{Routes, Stated, rule_of};
use super::state::{BatchSetup, Lane, Project, RouteTo, Rule};
use crate::caps;
use crate::config;
use crate::formats::{Dialect, Form, Packing};
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Now, ProjectId, Weights};
use crate::gate::window::AttemptId;
use crate::schedule::LineId;
use crate::schedule::forecast::{
    Delays, Forecast, Pacing, Pending, Place, Run, STARTS_MOST, Snapshot, Spread, UnderWay,
};
use crate::store::{BatchId, QueuedItem, Reader, StoreError};

/// How long a request is taken to need until its headers and until its end, while none has shown.
const HEADERS_GUESS_MS: u64 = 1_500;
const END_GUESS_MS: u64 = 4_000;

/// How long the transport takes to take a request over.
const FLUSH_MS: u64 = 50;

/// How much longer answers are taken to need in the run that bounds the finish from above.
const SLOWER_BY_MS: u64 = 2_000;

/// At least so many prompts of each batch are told apart.
const EXACT_LEAST: usize = 100;

/// What waits in a batch behind what the engine holds.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// In order, each so many times, with ids that count up.
    pub exact: Vec<(u64, QueuedItem)>,
    /// What comes after, each so many times what is weighed here in the mean.
    pub means: Vec<(u64, QueuedItem)>,
}

/// The mean weights of batches, by what was read of them before.
pub type Means = BTreeMap<BatchId, QueuedItem>;

/// Two forecasts of the same queue: as it looks, and with answers that take their time.
#[derive(Clone, Debug)]
pub struct Band {
    /// As it looks.
    pub low: Forecast,
    /// With slow answers.
    pub high: Forecast,
}

impl Band {
    /// Runs both. Takes time: not for a task that others wait for.
    #[must_use]
    pub fn of(snapshot: Snapshot) -> Self {
        let slow = snapshot.clone().slower(SLOWER_BY_MS);
        Self { low: Forecast::of(snapshot, STARTS_MOST), high: Forecast::of(slow, STARTS_MOST) }
    }
}

/// A batch that nobody has submitted.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Where its prompts may go, with buckets that [`Engine::bucket_for`] found or made. Not empty.
    pub routes: Vec<RouteTo>,
    /// Who fairness is between.
    pub tenant: String,
    /// 0 high, 1 normal, 2 low.
    pub priority: u8,
    /// Nothing is sent before this.
    pub not_before: Option<crate::gate::units::UnixMs>,
    /// When it should be done.
    pub deadline: Option<crate::gate::units::UnixMs>,
    /// Whether it is spread over the time that it has.
    pub spread: bool,
    /// How far away the first choices may be, in milliseconds.
    pub patience_ms: Option<u64>,
    /// Its prompts; their ids are given anew.
    pub prompts: Rest,
}

impl Engine {
    /// The same without what only a running one needs: whatever is done with the copy changes
    /// nothing here.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut copy = Self::new(self.gate.clone(), self.next_attempt, 0);
        copy.projects.clone_from(&self.projects);
        copy.lanes.clone_from(&self.lanes);
        copy.jobs = self.jobs.iter().map(|(id, job)| (*id, job.copy())).collect();
        copy.schedule = self.schedule.clone();
        copy.pauses.clone_from(&self.pauses);
        copy.flights.clone_from(&self.flights);
        copy.ratios = self.ratios.clone();
        copy
    }

    /// The project and the bucket in which requests for a model count, made anew in this copy where
    /// nothing was sent yet; or why there is none.
    ///
    /// # Errors
    /// In words, when the model cannot be used.
    pub fn bucket_for(
        &mut self,
        project: &config::Project,
        model: &str,
        now: Now,
    ) -> Result<(i64, BucketId), String> {
        let name = &project.name;
        let rule = rule_of(project, model);
        if let Rule::Off(reason) = &rule {
            return Err(format!("project {name}: {reason}"));
        }
        let known = self.projects.iter().find(|(_, known)| known.name == *name);
        let id = if let Some((id, _)) = known {
            *id
        } else {
            let id = self.projects.keys().max().map_or(1, |last| last + 1);
            let new = Project::new(project, None).map_err(|error| error.to_string())?;
            self.projects.insert(id, new);
            id
        };
        let group = project.quota_group(model).to_owned();
        let lane = self.lanes.iter().find(|(_, lane)| {
            lane.project == id && lane.model_group == group && lane.off.is_none()
        });
        if let Some((bucket, _)) = lane {
            return Ok((id, *bucket));
        }
        let bucket = self.lanes.keys().max().map_or(BucketId(1), |last| BucketId(last.0 + 1));
        let (limits, learning) = match rule {
            Rule::Limited(limits) => (limits, false),
            Rule::Off(_) | Rule::Learn => (Vec::new(), true),
        };
        let day = self.projects[&id].day.clone();
        self.gate.define(bucket, ProjectId(id), limits, day.clone());
        self.gate.share(ProjectId(id), project.shared_limits(), day, now);
        self.lanes.insert(bucket, Lane::new(id, group, learning));
        Ok((id, bucket))
    }

    /// Has a project's limits be those of another configuration. What was used counts on, and what
    /// was learned of the old ones holds no more.
    pub fn try_limits(&mut self, project: &config::Project, now: Now) {
        let known = self.projects.iter_mut().find(|(_, known)| known.name == project.name);
        let Some((id, known)) = known else { return };
        known.tier.clone_from(&project.tier);
        let id = *id;
        let stated = Stated::of(project);
        let day = known.day.clone();
        for (group, (_, limits)) in stated.groups {
            let of_group = |lane: &Lane| lane.project == id && lane.model_group == group;
            let bucket = self.lanes.iter_mut().find(|(_, lane)| of_group(lane));
            let Some((bucket, lane)) = bucket else { continue };
            (lane.off, lane.learning, lane.crowd) = (None, false, None);
            for state in self.gate.state(*bucket, now) {
                self.gate.forget(*bucket, state.limit.metric, state.limit.window, now);
            }
            self.gate.redefine(*bucket, limits, now);
        }
        self.gate.share(ProjectId(id), stated.shared, day, now);
    }

    /// The batches that are known here.
    pub fn open_batches(&self) -> impl Iterator<Item = BatchId> + '_ {
        self.jobs.keys().copied()
    }

    /// The project and the quota group of every bucket.
    #[must_use]
    pub fn bucket_names(&self) -> BTreeMap<BucketId, (String, String)> {
        let name =
            |lane: &Lane| (self.projects[&lane.project].name.clone(), lane.model_group.clone());
        self.lanes.iter().map(|(id, lane)| (*id, name(lane))).collect()
    }

    /// Adds a batch to this copy, behind all that are there.
    ///
    /// # Panics
    /// Without a route.
    pub fn add_planned(&mut self, planned: Planned, now: Now) -> (BatchId, Rest) {
        let batch = self.jobs.keys().max().map_or(BatchId(1), |last| BatchId(last.0 + 1));
        let mut rest = planned.prompts;
        let mut line = 0;
        let mut remaining = 0u64;
        for (count, item) in rest.exact.iter_mut().chain(&mut rest.means) {
            item.id = batch.item(u32::try_from(line + 1).unwrap_or(u32::MAX));
            line += *count;
            remaining = remaining.saturating_add(*count);
        }
        let first = planned.routes.first().expect("a planned batch has a route");
        let setup = BatchSetup {
            id: batch,
            bucket: first.bucket,
            work: String::new(),
            form: Arc::new(Form::of(Dialect::GeminiJsonl)),
            packing: Packing::Plain,
            model: first.model.clone(),
            tenant: planned.tenant,
            priority: planned.priority,
            in_doubt: crate::formats::InDoubt::Retry,
            not_before: planned.not_before,
            deadline: planned.deadline,
            routes: planned.routes,
            patience_ms: planned.patience_ms.unwrap_or(caps::PATIENCE_MS),
            spread: planned.spread,
            max_cost_nanos: None,
            spent_nanos: 0,
            paused: None,
            submitted_at: now.wall,
            remaining,
            answered: 0,
            stopped: None,
        };
        self.open(setup, now);
        (batch, rest)
    }

    /// Enters the batches of the database in an engine that nobody runs yet.
    ///
    /// # Errors
    /// When the database fails or holds what this version does not know.
    pub async fn open_all(
        &mut self,
        reader: &Reader,
        routes: &Routes,
        config: &config::Config,
        now: Now,
    ) -> Result<(), StoreError> {
        for batch in reader.unfinished_batches().await? {
            if batch.state == crate::store::BatchState::Open {
                self.open(BatchSetup::of(&batch, of_batch(&batch, routes, config))?, now);
            }
        }
        Ok(())
    }

    /// Reads what waits in the database behind what the engine holds: the next prompts of each
    /// batch, and of the others the number and the mean.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rests(
        &self,
        reader: &Reader,
        means: &mut Means,
    ) -> Result<BTreeMap<BatchId, Rest>, StoreError> {
        let share = (STARTS_MOST / self.jobs.len().max(1)).max(EXACT_LEAST);
        let mut rests = BTreeMap::new();
        means.retain(|batch, _| self.jobs.contains_key(batch));
        for (id, job) in self.jobs.iter().filter(|(_, job)| !job.exhausted) {
            let page = i64::try_from(share).unwrap_or(i64::MAX);
            let items = reader.queued(*id, job.cursor, page).await?;
            let mut rest = Rest::default();
            if let Some(last) = items.last().filter(|_| items.len() >= share) {
                let read = u64::try_from(items.len()).unwrap_or(u64::MAX);
                let (count, mean) = match means.get(id) {
                    Some(mean) => (job.unread().saturating_sub(read), mean.clone()),
                    None => reader.queue_mean(*id, last.id).await?,
                };
                let mean = QueuedItem { id: last.id + 1, ..mean };
                means.insert(*id, mean.clone());
                rest.means.push((count, mean));
            }
            rest.exact = items.into_iter().map(|item| (1, item)).collect();
            rests.insert(*id, rest);
        }
        Ok(rests)
    }

    /// What the forecast begins with.
    #[must_use]
    pub fn snapshot(mut self, rests: &BTreeMap<BatchId, Rest>, now: Now) -> Snapshot {
        let jobs = std::mem::take(&mut self.jobs);
        let mut lines = BTreeMap::new();
        for (id, job) in &jobs {
            let shut = job.closing || job.setup.stopped.is_some();
            if !shut && self.schedule.has(LineId(id.0)) {
                let pending = self.pending(job, rests.get(id), now);
                lines.insert(LineId(id.0), pending);
            }
        }
        let flights = self.flights.iter().map(|(id, flight)| UnderWay {
            id: *id,
            line: flight
                .carried()
                .map(|carried| LineId(carried.batch.0))
                .filter(|line| lines.contains_key(line)),
            bucket: flight.bucket,
            need: flight.est,
            started: flight.started,
        });
        let flights: Vec<_> = flights.collect();
        Snapshot {
            now,
            projects: self.projects.iter().map(|(id, it)| (*id, it.pacing(now))).collect(),
            buckets: self.lanes.iter().map(|(id, lane)| (*id, self.place(lane))).collect(),
            lines,
            flights,
            next_attempt: AttemptId(self.next_attempt.0.max(1)),
            gate: self.gate,
            schedule: self.schedule,
        }
    }

    fn place(&self, lane: &Lane) -> Place {
        let by_hand = self.held_by_hand(lane);
        Place {
            project: lane.project,
            crowd: lane.crowd.as_ref().map(|crowd| (crowd.at_once, crowd.good)),
            held: lane.off.clone().or(by_hand).map(|reason| (None, reason)),
            delays: lane.delays.known(),
            uses_permille: lane.delays.uses_permille(),
        }
    }

    fn pending(&mut self, job: &Job, rest: Option<&Rest>, now: Now) -> Pending {
        let routes: Vec<_> = job.setup.routes.clone();
        let mut runs = Runs::default();
        for item in &job.ready {
            runs.push(1, item, self.needs(&routes, item, now));
        }
        let mut later = Vec::new();
        for (count, item) in rest.iter().flat_map(|rest| &rest.exact) {
            let needs = self.needs(&routes, item, now);
            if item.not_before > now.wall {
                let due = now.boot_at(item.not_before);
                later.push((due, Run { first: item.id, count: *count, needs, pinned: None }));
            } else {
                runs.push(*count, item, needs);
            }
        }
        for (count, mean) in rest.iter().flat_map(|rest| &rest.means) {
            let item = QueuedItem { input_tokens: runs.scaled(mean.input_tokens), ..mean.clone() };
            runs.push(*count, mean, self.needs(&routes, &item, now));
        }
        for item in job.suspects.values() {
            runs.push(1, item, self.needs(&routes, item, now));
        }
        for ((due, _), item) in &job.retries {
            let needs = self.needs(&routes, item, now);
            later.push((*due, Run { first: item.id, count: 1, needs, pinned: None }));
        }
        let spread = Spread { deadline: job.setup.deadline, started: job.started };
        let paused = job.setup.paused.as_ref().map(|why| format!("paused: {why}"));
        Pending {
            runs: runs.done,
            later,
            not_before: job.setup.not_before,
            spread: job.setup.spread.then_some(spread),
            held: paused,
        }
    }

    fn needs(
        &mut self,
        routes: &[RouteTo],
        item: &QueuedItem,
        now: Now,
    ) -> Arc<[(BucketId, Weights)]> {
        let known: Vec<_> =
            routes.iter().filter(|route| self.lanes.contains_key(&route.bucket)).collect();
        let weigh =
            |route: &RouteTo| (route.bucket, self.weights(route.bucket, &route.model, item, now));
        known.into_iter().map(weigh).collect()
    }
}

/// Runs as they are built, and how much heavier prompts are than they were first taken to be.
#[derive(Default)]
struct Runs {
    done: Vec<Run>,
    first_taken: u128,
    taken: u128,
}

impl Runs {
    fn push(&mut self, count: u64, item: &QueuedItem, needs: Arc<[(BucketId, Weights)]>) {
        let Some((_, need)) = needs.first() else { return };
        self.first_taken += u128::from(item.input_tokens) * u128::from(count);
        self.taken += u128::from(need.input_tokens) * u128::from(count);
        match self.done.last_mut() {
            Some(last)
                if last.first.saturating_add_unsigned(last.count) == item.id
                    && last.needs == needs =>
            {
                last.count += count;
            }
            Some(_) | None => {
                self.done.push(Run { first: item.id, count, needs, pinned: None });
            }
        }
    }

    /// What so many tokens come to, by what was learned since they were estimated.
    fn scaled(&self, tokens: u64) -> u64 {
        if self.first_taken == 0 {
            return tokens;
        }
        let scaled = (u128::from(tokens) * self.taken).div_ceil(self.first_taken);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// How long requests of a bucket take, as a mean that forgets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MeanDelays {
    headers_ms: Option<u64>,
    end_ms: Option<u64>,
    /// What of the reserved input tokens was used, in thousandths.
    uses_permille: Option<u64>,
}

impl MeanDelays {
    pub(super) fn headers(&mut self, ms: u64) {
        self.headers_ms = Some(drift(self.headers_ms, ms));
    }

    pub(super) fn end(&mut self, ms: u64) {
        self.end_ms = Some(drift(self.end_ms, ms));
    }

    /// An answer took `used` of the `reserved` input tokens.
    pub(super) fn used(&mut self, reserved: u64, used: u64) {
        if reserved > 0 && used > 0 {
            let permille = used.saturating_mul(1_000) / reserved;
            self.uses_permille = Some(drift(self.uses_permille, permille.min(1_000)));
        }
    }

    fn uses_permille(self) -> u64 {
        self.uses_permille.unwrap_or(1_000)
    }

    fn known(self) -> Delays {
        let end_ms = self.end_ms.unwrap_or(END_GUESS_MS);
        let headers_ms = self.headers_ms.unwrap_or(HEADERS_GUESS_MS).min(end_ms);
        Delays { flush_ms: Some(FLUSH_MS), headers_ms, end_ms }
    }
}

/// A sixteenth of the way from what is known to what was seen.
fn drift(known: Option<u64>, seen: u64) -> u64 {
    known.map_or(seen, |known| (known.saturating_mul(15).saturating_add(seen)) / 16)
}

impl Project {
    fn pacing(&self, now: Now) -> Pacing {
        let link = self.link.until.clone().filter(|_| !self.link.proven);
        let none_fit = !self.keys.is_empty() && self.turns(now).is_empty();
        let in_use = self.keys.iter().filter(|key| !key.gone && !key.disabled);
        let for_good = || (BootMs(u64::MAX), "every key is disabled".to_owned());
        let aside = in_use.filter_map(|key| key.aside.clone()).min();
        let keys = none_fit.then(|| aside.unwrap_or_else(for_good));
        let held: Option<(BootMs, String)> =
            [self.held.clone(), link, keys].into_iter().flatten().max();
        Pacing {
            keys: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            next_key: u32::try_from(self.next_key).unwrap_or(0),
            max_in_flight: self.pace.max_in_flight,
            starts_per_second: self.pace.starts_per_second,
            second: (self.second, self.started),
            held,
        }
    }
}

impl Job {
    fn copy(&self) -> Self {
        let mut copy = Self::new(self.setup.clone(), self.tenant);
        (copy.cursor, copy.exhausted) = (self.cursor, self.exhausted);
        copy.ready.clone_from(&self.ready);
        copy.retries.clone_from(&self.retries);
        copy.suspects.clone_from(&self.suspects);
        copy.counted.clone_from(&self.counted);
        (copy.open, copy.closing, copy.started) = (self.open, self.closing, self.started);
        copy
    }

    /// Prompts that are in the database alone, if none is held.
    fn unread(&self) -> u64 {
        let known = self.ready.len() + self.retries.len() + self.suspects.len();
        let known = u64::try_from(known).unwrap_or(u64::MAX).saturating_add(self.open.into());
        self.setup.remaining.saturating_sub(known)
    }
}
