//! Starting what may go, and ending what is over. Who goes next is the schedule's to say.

use super::core::Engine;
use super::flight::{Carried, Flight, Work};
use super::job::is_retry;
use super::state::{Effect, Explained, Lane, Project, Question};
use super::supply::{FAR, Round};
use crate::caps;
use crate::config::prices::PicoUsd;
use crate::gate::admit::BucketId;
use crate::gate::day::DAY_EDGE_MS;
use crate::gate::units::{BootMs, Class, KeyId, Now, UnixMs, Weights};
use crate::gate::verdict::{Ask, Because, Beside, Verdict, Wait};
use crate::gate::window::{AttemptId, DELTA_MS};
use crate::schedule::LineId;
use crate::store::{BatchId, NewAttempt, Origin, QueuedItem};

impl Engine {
    /// Orders everything that may go at `now` and notes when to look again.
    pub(super) fn plan(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.wake = None;
        let calls = self.serve_callers(now);
        let mut schedule = std::mem::take(&mut self.schedule);
        schedule.pass_time(now.boot);
        let mut lanes: Vec<_> = self.lanes.keys().copied().collect();
        // Each is the first in its turn, for what all of a project share.
        let started = usize::try_from(self.next_attempt.0 - 1).unwrap_or(0);
        let turn = started % lanes.len().max(1);
        lanes.rotate_left(turn);
        let mut round =
            Round { engine: self, reservations: Vec::new(), effects, spent: Vec::new() };
        for id in lanes {
            let waiting = schedule.tick(id, now, &mut round);
            if let Some(waiting) = &waiting {
                round.engine.wake_at(waiting.again.min(open_end(now)));
            }
            let wait = waiting.map(|waiting| match waiting.until {
                FAR => (open_end(now), waiting.reason),
                until => (until, waiting.reason),
            });
            round.engine.lanes.get_mut(&id).expect("a lane that is planned").wait = wait;
        }
        let Round { mut reservations, spent, .. } = round;
        reservations.extend(calls);
        let next = schedule.next_change();
        self.schedule = schedule;
        if let Some(at) = next {
            self.wake_at(at);
        }
        if !reservations.is_empty() {
            effects.push(Effect::Reserve(reservations));
        }
        for batch in spent {
            self.cost_is_reached(batch);
        }
        self.plan_endings(effects);
        self.plan_seals(now, effects);
    }

    /// Stops a batch whose next item may cost more than it may; once nothing of it is under way,
    /// for what is may turn out to cost less.
    fn cost_is_reached(&mut self, batch: BatchId) {
        let Some(job) = self.jobs.get(&batch).filter(|job| job.open == 0) else { return };
        let dollars = |nanos: u64| PicoUsd::from_nanos(nanos).to_short();
        let reason = format!(
            "not sent: the batch has cost {} USD, and max_cost is {}",
            dollars(job.setup.spent_nanos),
            dollars(job.setup.max_cost_nanos.unwrap_or(0)),
        );
        self.stop(batch, reason, false);
    }

    /// Asks the gate with the key whose turn it is. Where limits count by key, another one may go
    /// that has room; else the wait that ends first is told.
    pub(super) fn check_keys(
        &mut self,
        now: Now,
        bucket: BucketId,
        class: Class,
        (need, beside): (Weights, Beside),
    ) -> (usize, Verdict) {
        let project = &self.projects[&self.lanes[&bucket].project];
        let turns = project.turns(now);
        let by_key = self.gate.counts_by_key(bucket);
        let mut soonest: Option<(usize, Verdict)> = None;
        for key in turns {
            let verdict = self.gate.check_beside(&ask(bucket, key, class, need), &beside, now);
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
        let none = Wait {
            until: open_end(now),
            because: Because::Blocked { reason: "every key is set aside".to_owned() },
        };
        soonest.unwrap_or((0, Verdict::Wait(none)))
    }

    /// What a request would need of every limit and what is there: the numbers by which it would
    /// be started. None for a bucket that is not known.
    pub fn explain(&mut self, question: &Question, now: Now) -> Option<Explained> {
        let lane = self.lanes.get(&question.bucket)?;
        let project = lane.project;
        let hindrance = self.hindrance(question.bucket, now, Class::Batch);
        let hindrance = hindrance.map(|(until, reason)| (now.wall_at(until), reason));
        let (key, _) = if self.projects[&project].turns(now).is_empty() {
            (0, Verdict::Fits)
        } else {
            self.check_keys(now, question.bucket, Class::Batch, (question.need, Beside::default()))
        };
        let ask = ask(question.bucket, key, Class::Batch, question.need);
        let explanation = self.gate.explain(&ask, now);
        let key = self.projects[&project].keys.get(key).map(|key| key.name.clone());
        Some(Explained { explanation, key, hindrance, now })
    }

    /// What keeps every lane from reading its queue and starting anything.
    pub(super) fn pause(&mut self, now: Now) -> Option<(BootMs, String)> {
        if self.draining {
            return Some((open_end(now), "the daemon is stopping".to_owned()));
        }
        self.store_pause.take_if(|(until, _)| *until <= now.boot);
        self.store_pause.clone()
    }

    /// What besides quota keeps a lane from starting anything.
    pub(super) fn hindrance(
        &mut self,
        id: BucketId,
        now: Now,
        class: Class,
    ) -> Option<(BootMs, String)> {
        if let Some(pause) = self.pause(now) {
            return Some(pause);
        }
        let open_end = open_end(now);
        let lane = &self.lanes[&id];
        if let Some(reason) = &lane.off {
            return Some((open_end, reason.clone()));
        }
        if let Some(paused) = self.held_by_hand(lane) {
            return Some((open_end, paused));
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
        project.hindrance(now, open_end, class)
    }

    /// Whether only a person can open a bucket again.
    pub(super) fn waits_for_someone(&self, bucket: BucketId) -> bool {
        let lane = &self.lanes[&bucket];
        lane.off.is_some() || self.held_by_hand(lane).is_some()
    }

    /// What a user holds, and how it is let go.
    pub(super) fn held_by_hand(&self, lane: &Lane) -> Option<String> {
        if self.pauses.is_empty() {
            return None;
        }
        let (project, group) = (&self.projects[&lane.project].name, &lane.model_group);
        let held = |project: &str, group: &str| {
            self.pauses.contains(&(project.to_owned(), group.to_owned()))
        };
        if held("*", "*") {
            Some("everything is paused by hand: `tidegate resume` lets it go on".to_owned())
        } else if held(project, "*") {
            Some(format!("{project} is paused by hand: `tidegate resume {project}`"))
        } else {
            held(project, group)
                .then(|| format!("{group} is paused by hand: `tidegate resume {project} {group}`"))
        }
    }

    pub(super) fn start(
        &mut self,
        now: Now,
        bucket: BucketId,
        batch: BatchId,
        item: QueuedItem,
        (key, est): (usize, Weights),
    ) -> NewAttempt {
        let model = self.model_of(batch, bucket);
        let id = self.next_attempt;
        self.next_attempt = AttemptId(id.0 + 1);
        let day_lo = self.gate.reserve(id, &ask(bucket, key, Class::Batch, est), now);
        let lane = self.lanes.get_mut(&bucket).expect("a lane that is planned");
        lane.in_flight += 1;
        let project_id = lane.project;
        let project = self.projects.get_mut(&project_id).expect("a lane has a project");
        project.take_turn(id, key, now, false);
        // A clock that was set, or heard, since the seal does not open a day again.
        let day_lo = project.sealed_before.map_or(day_lo, |sealed| sealed.max(day_lo));
        let job = self.jobs.get_mut(&batch).expect("a queued batch is known");
        job.open += 1;
        job.open_nanos += est.spend_nanos;
        job.started = Some(now.boot);
        let lane = self.lanes.get_mut(&bucket).expect("a lane that is planned");
        if is_retry(&item) {
            lane.budget.spend();
        }
        let attempt = NewAttempt {
            id,
            item_id: Some(item.id),
            project_id,
            bucket_id: bucket,
            model: model.clone(),
            key_name: project.keys[key].name.clone(),
            tenant: job.setup.tenant.clone(),
            s_wall: now.wall,
            s_boot: now.boot,
            day_lo: day_lo.to_string(),
            est,
            text: item.text,
            origin: Origin::default(),
        };
        self.bytes_in_flight += item.bytes;
        job.counted.remove(&item.id);
        let renewed = job.stale.remove(&item.id);
        let project = project_id;
        let started = now.boot;
        let (text, bytes) = (item.text, item.bytes);
        let work = Work::Item(Carried { batch, item, renewed });
        let flight =
            Flight { bucket, project, key, model, est, text, bytes, started, day_lo, work };
        self.flights.insert(id, flight);
        attempt
    }

    pub(super) fn refuse(&mut self, batch: BatchId, item: QueuedItem, reason: String) -> Effect {
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

    /// Ends the batches that are over: sweeps the stopped, finishes the answered.
    fn plan_endings(&mut self, effects: &mut Vec<Effect>) {
        for id in &std::mem::take(&mut self.touched) {
            let Some(job) = self.jobs.get_mut(id).filter(|job| !job.is_busy()) else { continue };
            if let Some((_, ordered)) = &mut job.requeue {
                if !std::mem::replace(ordered, true) {
                    effects.push(Effect::Requeue(*id));
                }
            } else if job.setup.remaining == 0 {
                job.closing = true;
                self.schedule.remove(LineId(id.0));
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

    pub(super) fn wake_at(&mut self, at: BootMs) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

impl Project {
    /// What keeps it from starting anything.
    fn hindrance(&mut self, now: Now, open_end: BootMs, class: Class) -> Option<(BootMs, String)> {
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
        // Clients come when they come; a queue has no reason to go all at once.
        let paced = class == Class::Batch && self.second.until(now.boot) < 1_000;
        if paced && self.started >= self.pace.starts_per_second {
            let reason = format!("{} requests were started this second", self.started);
            return Some((self.second.plus(1_000), reason));
        }
        None
    }

    /// Counts one start with a key. What goes elsewhere does not show whether the endpoint is
    /// there.
    pub(super) fn take_turn(&mut self, id: AttemptId, key: usize, now: Now, elsewhere: bool) {
        if self.second.until(now.boot) >= 1_000 {
            self.second = now.boot;
            self.started = 0;
        }
        self.started += 1;
        self.in_flight += 1;
        if !self.link.proven && !elsewhere {
            self.link.probe = Some(id);
        }
        self.next_key = (key + 1) % self.keys.len();
    }
}

/// The end of a wait that events end and not time.
pub(super) fn open_end(now: Now) -> BootMs {
    now.boot.plus(caps::TICK_MAX_MS)
}

pub(super) fn ask(bucket: BucketId, key: usize, class: Class, need: Weights) -> Ask {
    let key = KeyId(u32::try_from(key).unwrap_or(u32::MAX));
    Ask { bucket, key, class, need }
}
