//! Starting what may go: first in, first out within a priority, one queue a bucket.

use super::core::Engine;
use super::state::{Effect, Explained, Flight, Project, Question};
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::day::DAY_EDGE_MS;
use crate::gate::units::{BootMs, Class, KeyId, Now, UnixMs, Weights};
use crate::gate::verdict::{Ask, Verdict};
use crate::gate::window::{AttemptId, DELTA_MS};
use crate::store::{BatchId, NewAttempt, QueuedItem};

/// What a lane's queue offers next.
enum Next {
    /// An item, and whether it is to be tried again.
    Item(BatchId, QueuedItem, bool),
    /// The next page has to be read first.
    Load(BatchId),
    /// Nothing before this instant.
    Later(BootMs, &'static str),
    /// Nothing at all.
    Empty,
}

impl Engine {
    /// Orders everything that may go at `now` and notes when to look again.
    pub(super) fn plan(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.wake = None;
        let mut reservations = Vec::new();
        let lanes: Vec<_> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.plan_lane(now, lane, &mut reservations, effects);
        }
        if !reservations.is_empty() {
            effects.push(Effect::Reserve(reservations));
        }
        self.plan_endings(effects);
        self.plan_seals(now, effects);
    }

    fn plan_lane(
        &mut self,
        now: Now,
        id: BucketId,
        reservations: &mut Vec<NewAttempt>,
        effects: &mut Vec<Effect>,
    ) {
        loop {
            let wait = match self.next_item(id, now) {
                Next::Empty => None,
                Next::Load(batch) => {
                    let pause = self.pause(now);
                    if pause.is_none() {
                        effects.extend(self.load(batch));
                    }
                    pause
                }
                Next::Later(at, reason) => Some((at, reason.to_owned())),
                Next::Item(batch, item, again) => {
                    let wait = self.try_start(now, id, (batch, item, again), reservations, effects);
                    if wait.is_none() {
                        continue;
                    }
                    wait
                }
            };
            if let Some((until, _)) = &wait {
                self.wake_at(*until);
            }
            self.lanes.get_mut(&id).expect("a lane that is planned").wait = wait;
            return;
        }
    }

    /// Orders the next page of a batch's queue, unless it is being read.
    fn load(&mut self, batch: BatchId) -> Option<Effect> {
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        let idle = !std::mem::replace(&mut job.loading, true);
        idle.then_some(Effect::Load { batch, after: job.cursor })
    }

    /// Starts an item, or refuses one that can never be sent; else says until when and why it
    /// waits.
    fn try_start(
        &mut self,
        now: Now,
        id: BucketId,
        (batch, item, again): (BatchId, QueuedItem, bool),
        reservations: &mut Vec<NewAttempt>,
        effects: &mut Vec<Effect>,
    ) -> Option<(BootMs, String)> {
        if let Some(wait) = self.hindrance(id, now) {
            return Some(wait);
        }
        let bytes = self.bytes_in_flight.saturating_add(item.bytes);
        if self.bytes_in_flight > 0 && bytes > caps::BYTES_IN_FLIGHT_MAX {
            let reason = format!("{} bytes of prompts are in flight", self.bytes_in_flight);
            return Some((open_end(now), reason));
        }
        if self.count_ahead(id, batch, &item, now, effects) {
            return Some((open_end(now), "the provider counts its tokens first".to_owned()));
        }
        let need = self.weights(id, batch, &item, now);
        match self.check_keys(now, id, need) {
            (key, Verdict::Fits) => {
                self.take(batch, again);
                reservations.push(self.start(now, id, batch, item, (key, need)));
                None
            }
            (_, Verdict::Never(never)) => {
                self.take(batch, again);
                effects.push(self.refuse(batch, item, never.to_string()));
                None
            }
            (_, Verdict::Wait(wait)) => Some((wait.until, wait.because.to_string())),
        }
    }

    /// Asks the gate with the key whose turn it is. Where limits count by key, another one may go
    /// that has room; else the wait that ends first is told.
    fn check_keys(&mut self, now: Now, bucket: BucketId, need: Weights) -> (usize, Verdict) {
        let project = &self.projects[&self.lanes[&bucket].project];
        let turns = project.turns(now);
        let by_key = self.gate.counts_by_key(bucket);
        let mut soonest: Option<(usize, Verdict)> = None;
        for key in turns {
            let verdict = self.gate.check(&ask(bucket, key, need), now);
            let sooner = match (&soonest, &verdict) {
                (Some((_, Verdict::Wait(known))), Verdict::Wait(wait)) => wait.until < known.until,
                _ => true,
            };
            let wait = matches!(verdict, Verdict::Wait(_));
            if sooner {
                soonest = Some((key, verdict));
            }
            if !(by_key && wait) {
                break;
            }
        }
        soonest.expect("a project that is not hindered has a key that is not set aside")
    }

    /// What a request would need of every limit and what is there: the numbers by which it would
    /// be started. None for a bucket that is not known.
    pub fn explain(&mut self, question: &Question, now: Now) -> Option<Explained> {
        let lane = self.lanes.get(&question.bucket)?;
        let project = lane.project;
        let hindrance = self.hindrance(question.bucket, now);
        let hindrance = hindrance.map(|(until, reason)| (now.wall_at(until), reason));
        let (key, _) = if self.projects[&project].turns(now).is_empty() {
            (0, Verdict::Fits)
        } else {
            self.check_keys(now, question.bucket, question.need)
        };
        let explanation = self.gate.explain(&ask(question.bucket, key, question.need), now);
        let key = self.projects[&project].keys.get(key).map(|key| key.name.clone());
        Some(Explained { explanation, key, hindrance, now })
    }

    /// The next item of a lane in order, without taking it.
    fn next_item(&self, id: BucketId, now: Now) -> Next {
        let mut later: Option<(BootMs, &'static str)> = None;
        let mut note = |at: BootMs, reason| {
            if later.is_none_or(|(known, _)| at < known) {
                later = Some((at, reason));
            }
        };
        for (_, batch) in &self.lanes[&id].order {
            let job = &self.jobs[batch];
            if let Some(at) = job.setup.not_before.filter(|at| *at > now.wall) {
                note(now.boot_at(at), "the batch asks not to be sent before");
                continue;
            }
            if let Some((&(at, _), item)) = job.retries.first_key_value() {
                if at <= now.boot {
                    return Next::Item(*batch, item.clone(), true);
                }
                note(at, "waits to be tried again");
            }
            if job.retries.len() >= caps::RETRY_WAITING_MAX {
                continue;
            }
            if let Some(item) = job.ready.front() {
                return Next::Item(*batch, item.clone(), false);
            }
            if !job.exhausted {
                return Next::Load(*batch);
            }
        }
        later.map_or(Next::Empty, |(at, reason)| Next::Later(at, reason))
    }

    /// What keeps every lane from reading its queue and starting anything.
    fn pause(&mut self, now: Now) -> Option<(BootMs, String)> {
        if self.draining {
            return Some((open_end(now), "the daemon is stopping".to_owned()));
        }
        self.store_pause.take_if(|(until, _)| *until <= now.boot);
        self.store_pause.clone()
    }

    /// What besides quota keeps a lane from starting anything.
    fn hindrance(&mut self, id: BucketId, now: Now) -> Option<(BootMs, String)> {
        if let Some(pause) = self.pause(now) {
            return Some(pause);
        }
        let open_end = open_end(now);
        let lane = &self.lanes[&id];
        if let Some(reason) = &lane.off {
            return Some((open_end, reason.clone()));
        }
        if let Some(crowd) = &lane.crowd
            && lane.in_flight >= crowd.at_once
        {
            let why = if lane.learning {
                "its limits are not known"
            } else {
                "the provider refused some without a reason"
            };
            return Some((open_end, format!("{why}: {} at once so far", crowd.at_once)));
        }
        let project = self.projects.get_mut(&lane.project).expect("a lane has a project");
        project.hindrance(now, open_end)
    }

    fn start(
        &mut self,
        now: Now,
        bucket: BucketId,
        batch: BatchId,
        item: QueuedItem,
        (key, est): (usize, Weights),
    ) -> NewAttempt {
        let id = self.next_attempt;
        self.next_attempt = AttemptId(id.0 + 1);
        let day_lo = self.gate.reserve(id, &ask(bucket, key, est), now);
        let lane = self.lanes.get_mut(&bucket).expect("a lane that is planned");
        lane.in_flight += 1;
        let project_id = lane.project;
        let project = self.projects.get_mut(&project_id).expect("a lane has a project");
        project.take_turn(id, key, now);
        // A clock that was set, or heard, since the seal does not open a day again.
        let day_lo = project.sealed_before.map_or(day_lo, |sealed| sealed.max(day_lo));
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        job.open += 1;
        let attempt = NewAttempt {
            id,
            item_id: Some(item.id),
            project_id,
            bucket_id: bucket,
            model: job.setup.model.clone(),
            key_name: project.keys[key].name.clone(),
            tenant: job.setup.tenant.clone(),
            s_wall: now.wall,
            s_boot: now.boot,
            day_lo: day_lo.to_string(),
            est,
            text: item.text,
        };
        self.bytes_in_flight += item.bytes;
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        job.counted.remove(&item.id);
        let renewed = job.stale.remove(&item.id);
        let project = project_id;
        let flight = Flight { batch, bucket, project, key, item, est, day_lo, renewed };
        self.flights.insert(id, flight);
        attempt
    }

    fn refuse(&mut self, batch: BatchId, item: QueuedItem, reason: String) -> Effect {
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        job.open += 1;
        let settling = super::state::Settling {
            batch,
            item: item.clone(),
            state: crate::store::ItemState::Failed,
            keeps_place: false,
        };
        self.settling.insert(item.id, settling);
        Effect::Refuse { item, reason }
    }

    /// Takes the item that [`Engine::next_item`] offered out of its queue.
    fn take(&mut self, batch: BatchId, again: bool) {
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        if again {
            job.retries.pop_first();
        } else {
            job.ready.pop_front();
        }
    }

    /// Ends the batches that are over: sweeps the stopped, finishes the answered.
    fn plan_endings(&mut self, effects: &mut Vec<Effect>) {
        for (id, job) in &mut self.jobs {
            if job.closing || job.open > 0 || job.loading {
                continue;
            }
            if job.setup.remaining == 0 {
                job.closing = true;
                if let Some(lane) = self.lanes.get_mut(&job.setup.bucket) {
                    lane.order.remove(&(job.setup.priority, *id));
                }
                effects.push(Effect::Finish(*id));
            } else if let Some((reason, cancelled)) = job.setup.stopped.clone() {
                job.closing = true;
                effects.push(Effect::Sweep { batch: *id, reason, cancelled });
            }
        }
    }

    /// Seals the days that are over, once nothing of them is in flight.
    fn plan_seals(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Until the edge is past, attempts are still reserved for the day before.
        let mut wakes = Vec::new();
        for (id, project) in &mut self.projects {
            let behind = project.clock.interval(now.boot).lo_ms.saturating_neg();
            let edge_ms = u64::try_from(behind).unwrap_or(0).max(DAY_EDGE_MS);
            let today = project.day.span_at(now.wall.minus(edge_ms).to_utc());
            let before = |flight: &Flight| flight.project == *id && flight.day_lo < today.key;
            if project.sealing || project.sealed_before.is_some_and(|day| day >= today.key) {
                wakes.push(now.boot_at(UnixMs::from(today.end).plus(edge_ms)));
            } else if project.seal_after > now.boot {
                wakes.push(project.seal_after);
            } else if !self.flights.values().any(before) {
                project.sealing = true;
                effects.push(Effect::Seal { project: *id, today: today.key });
            }
        }
        for at in wakes {
            self.wake_at(at);
        }
    }

    fn wake_at(&mut self, at: BootMs) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

impl Project {
    fn hindrance(&mut self, now: Now, open_end: BootMs) -> Option<(BootMs, String)> {
        if let Some((until, reason)) = self.held.clone() {
            if until > now.boot {
                return Some((until, reason));
            }
            self.held = None;
        }
        if self.in_flight >= self.pace.max_in_flight {
            let reason = format!("{} requests are in flight (max_in_flight)", self.in_flight);
            return Some((open_end, reason));
        }
        if !self.link.proven {
            if let Some((until, reason)) = self.link.until.clone().filter(|wait| wait.0 > now.boot)
            {
                return Some((until, reason));
            }
            if self.link.probe.is_some() {
                let until = now.boot.plus(DELTA_MS);
                return Some((until, "one request goes first to try the endpoint".to_owned()));
            }
        }
        if let Some(keyless) = self.keyless(now, open_end) {
            return Some(keyless);
        }
        if self.second.until(now.boot) < 1_000 && self.started >= self.pace.starts_per_second {
            let reason = format!("{} requests were started this second", self.started);
            return Some((self.second.plus(1_000), reason));
        }
        None
    }

    /// Counts one start with a key.
    fn take_turn(&mut self, id: AttemptId, key: usize, now: Now) {
        if self.second.until(now.boot) >= 1_000 {
            self.second = now.boot;
            self.started = 0;
        }
        self.started += 1;
        self.in_flight += 1;
        if !self.link.proven {
            self.link.probe = Some(id);
        }
        self.next_key = (key + 1) % self.keys.len();
    }
}

/// The end of a wait that events end and not time.
fn open_end(now: Now) -> BootMs {
    now.boot.plus(caps::TICK_MAX_MS)
}

fn ask(bucket: BucketId, key: usize, need: Weights) -> Ask {
    let key = KeyId(u32::try_from(key).unwrap_or(u32::MAX));
    Ask { bucket, key, class: Class::Batch, need }
}
