//! The engine's state machine: [`Engine::step`] takes what happened and says what to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::NaiveDate;

use super::callers::Callers;
use super::conclude;
use super::desk::NO_MODEL;
use super::flight::{Carried, Flight, Work};
use super::job::Job;
use super::keys::KeyMemos;
use super::state::{BucketView, Effect, Event, Lane, Project, ProjectView, Settling};
use crate::caps;
use crate::gate::admit::{BucketId, Gate};
use crate::gate::estimate::Ratios;
use crate::gate::units::{BootMs, Now, ProjectId, UnixMs};
use crate::gate::window::AttemptId;
use crate::schedule::Schedule;
use crate::store::{BatchId, Remembered};

/// Why a batch waits whose bucket the configuration no longer has.
pub(super) const NO_LANE: &str = "the configuration has no project and model for it any more";

/// Everything the daemon decides with. Does no I/O; `now` is an argument.
#[derive(Debug)]
pub struct Engine {
    pub(super) gate: Gate,
    pub(super) projects: BTreeMap<i64, Project>,
    pub(super) lanes: BTreeMap<BucketId, Lane>,
    pub(super) jobs: BTreeMap<BatchId, Job>,
    /// Batches that have changed since it was last looked whether they are over.
    pub(super) touched: BTreeSet<BatchId>,
    /// Who goes next.
    pub(super) schedule: Schedule,
    /// What users hold by hand: project and quota group, `*` for all.
    pub(super) pauses: BTreeSet<(String, String)>,
    pub(super) flights: BTreeMap<AttemptId, Flight>,
    pub(super) settling: BTreeMap<i64, Settling>,
    /// Calls of clients that wait, and those whose reservation is being written.
    pub(super) callers: Callers,
    pub(super) next_attempt: AttemptId,
    pub(super) store_pause: Option<(BootMs, String)>,
    pub(super) draining: bool,
    /// Bytes of the lines of all attempts in flight.
    pub(super) bytes_in_flight: u64,
    pub(super) rng: fastrand::Rng,
    pub(super) wake: Option<BootMs>,
    /// What was learned and is to be kept, in this order, and whether the first of it is being
    /// written.
    pub(super) memos: VecDeque<Remembered>,
    pub(super) keeping: bool,
    pub(super) key_memos: KeyMemos,
    /// Tokens to the byte, as learned.
    pub(super) ratios: Ratios,
    /// Whether a batch has opened or ended since somebody asked.
    pub(super) turned: bool,
    /// The wall clock minus the boot clock at the last step.
    pub(super) skew: Option<i64>,
}

impl Engine {
    /// An engine that knows nothing yet; [`super::start`] fills it. `seed` drives the jitter of
    /// retries and nothing else.
    #[must_use]
    pub fn new(gate: Gate, next_attempt: AttemptId, seed: u64) -> Self {
        Self {
            gate,
            projects: BTreeMap::new(),
            lanes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            touched: BTreeSet::new(),
            schedule: Schedule::default(),
            pauses: BTreeSet::new(),
            flights: BTreeMap::new(),
            settling: BTreeMap::new(),
            callers: Callers::default(),
            next_attempt,
            store_pause: None,
            draining: false,
            bytes_in_flight: 0,
            rng: fastrand::Rng::with_seed(seed),
            wake: None,
            memos: VecDeque::new(),
            keeping: false,
            key_memos: KeyMemos::default(),
            ratios: Ratios::default(),
            turned: false,
            skew: None,
        }
    }

    /// Takes in what happened and orders what follows.
    pub fn step(&mut self, now: Now, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.pass_time(now);
        for event in events {
            self.handle(now, event, &mut effects);
        }
        self.plan(now, &mut effects);
        effects.extend(self.next_memo());
        effects.extend(self.key_memos.next());
        effects
    }

    /// When time alone will let something go, if anything waits for time.
    #[must_use]
    pub fn wake(&self) -> Option<BootMs> {
        self.wake
    }

    /// Whether a batch has opened or ended since the last call.
    pub(super) fn take_turned(&mut self) -> bool {
        std::mem::take(&mut self.turned)
    }

    /// Attempts and lessons that are not written durably.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let memos = self.memos.len() + usize::from(self.keeping) + self.key_memos.len();
        self.flights.len() + self.settling.len() + self.callers.unsettled() + memos
    }

    /// Has the next lesson kept: one after the other, so that no older one comes last.
    fn next_memo(&mut self) -> Option<Effect> {
        if self.keeping {
            return None;
        }
        let memo = self.memos.pop_front()?;
        self.keeping = true;
        Some(Effect::Remember(Box::new(memo)))
    }

    fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Kept => self.keeping = false,
            Event::KeyKept => self.key_memos.kept(),
            Event::Keys(new) => self.new_keys(*new),
            Event::Switch(switch) => self.switch_key(now, switch),
            Event::Limits(new) => self.new_limits(*new, now),
            Event::Drain => self.draining = true,
            Event::BucketFound { id, project, group } => self.found(id, project, group),
            Event::BatchOpened(setup) => self.open(*setup, now),
            Event::Loaded { batch, items } => self.loaded(now, batch, items),
            Event::LoadFailed(batch) => self.load_failed(now, batch),
            Event::Reserved(ids) => {
                for id in ids {
                    effects.extend(self.send_order(id, now));
                }
            }
            Event::ReserveFailed { ids, reason } => {
                for id in ids {
                    self.unreserve(now, id, &reason);
                }
                self.pause_for_store(now, reason);
            }
            Event::BodySent(id) => self.body_sent(now, id),
            Event::Headers(id) => self.headers(now, id),
            Event::Ended { id, key, report, line, latency_ms } => {
                let answer =
                    conclude::Answer { key, report: *report, line, latency_ms, counted: None };
                effects.extend(self.ended(now, id, answer));
            }
            Event::Unreadable { id, key, reason, lost } => {
                let unread = conclude::Unread { key, reason, lost };
                effects.extend(self.land(id).and_then(|flight| {
                    let carried = flight.carried()?;
                    let conclusion = self.unreadable(now, id, (&flight, carried), unread);
                    Some(self.write(carried, conclusion))
                }));
            }
            Event::Stale(id) => {
                effects.extend(self.land(id).and_then(|flight| {
                    let carried = flight.carried()?;
                    let job = self.jobs.get_mut(&carried.batch);
                    job.map(|job| job.stale.insert(carried.item.id));
                    let conclusion = self.stale(now, id, (&flight, carried));
                    Some(self.write(carried, conclusion))
                }));
            }
            Event::Called(caller) => self.called(*caller),
            Event::CallEnded { id, report, counted, latency_ms } => {
                let answer = conclude::Answer::of_call(*report, counted, latency_ms);
                effects.extend(self.ended(now, id, answer));
            }
            Event::CallSettled => self.callers.settled(),
            Event::Counted { batch, item, tokens } => self.counted(now, batch, item, tokens),
            Event::Settled(items) => items.into_iter().for_each(|item| self.settled(now, item)),
            Event::Stop { batch, reason, cancelled } => self.stop(batch, reason, cancelled),
            Event::PauseBatch { batch, reason } => self.pause_batch(now, batch, reason),
            Event::Reprioritise { batch, priority, deadline } => {
                self.reprioritise(now, batch, priority, deadline);
            }
            Event::RetryFailed { batch, done } => self.retry_failed(batch, done),
            Event::Requeued { batch, moved, error } => self.requeued(now, batch, moved, error),
            Event::Pauses(pauses) => self.hold(pauses),
            Event::Swept(batch) => self.swept(batch),
            Event::Closed(batch) => self.closed(batch),
            Event::Sealed { project, before } => self.sealed(now, project, before),
        }
    }

    fn ended(&mut self, now: Now, id: AttemptId, answer: conclude::Answer) -> Option<Effect> {
        // Words of progress may be lost; the end tells the same.
        if answer.report.body_sent || answer.report.status.is_some() {
            self.reached(id);
        }
        let flight = self.land(id)?;
        if answer.report.status == Some(200)
            && let Some(lane) = self.lanes.get_mut(&flight.bucket)
        {
            lane.delays.end(flight.started.until(now.boot));
        }
        Some(match &flight.work {
            Work::Item(carried) => {
                let conclusion = self.conclude(now, id, (&flight, carried), answer);
                self.write(carried, conclusion)
            }
            Work::Call { .. } => self.call_ended(now, id, &flight, answer),
        })
    }

    fn sealed(&mut self, now: Now, project: i64, before: Option<NaiveDate>) {
        let Some(project) = self.projects.get_mut(&project) else { return };
        project.sealing = false;
        match before {
            Some(_) => project.sealed_before = before,
            None => project.seal_after = now.boot.plus(caps::SEAL_RETRY_MS),
        }
    }

    /// Adds a lane for a model that no preset and no configuration knows.
    pub(super) fn found(&mut self, id: BucketId, project: i64, group: String) {
        if self.lanes.contains_key(&id) {
            return;
        }
        let day = self.projects[&project].day.clone();
        self.gate.define(id, ProjectId(project), Vec::new(), day);
        self.lanes.insert(id, Lane::new(project, group, true));
    }

    /// Adds a lane for a model that is off, so that what was sent to it counts when it is turned
    /// on.
    pub(super) fn shut_off(&mut self, id: BucketId, project: i64, group: String, reason: String) {
        if !self.lanes.contains_key(&id) {
            self.found(id, project, group);
            let lane = self.lanes.get_mut(&id).expect("a lane that was just made");
            *lane =
                Lane { off: Some(reason), ..Lane::new(project, lane.model_group.clone(), false) };
        }
    }

    fn write(&mut self, carried: &Carried, conclusion: conclude::Conclusion) -> Effect {
        self.settling.insert(carried.item.id, conclusion.settling);
        Effect::Settle(vec![conclusion.settlement])
    }

    pub(super) fn pause_for_store(&mut self, now: Now, reason: String) {
        self.store_pause = Some((now.boot.plus(caps::STORE_PAUSE_MS), reason));
    }

    /// Every bucket as it stands at `now`, with the numbers that admission uses.
    pub fn buckets(&mut self, now: Now) -> Vec<BucketView> {
        let named = |(_, lane): &(&BucketId, &Lane)| lane.model_group != NO_MODEL;
        let ids: Vec<_> = self.lanes.iter().filter(named).map(|(id, _)| *id).collect();
        ids.into_iter()
            .map(|id| {
                let limits = self.gate.state(id, now);
                let lane = &self.lanes[&id];
                let at = |until: BootMs| now.wall_at(until);
                BucketView {
                    id,
                    project: self.projects[&lane.project].name.clone(),
                    group: lane.model_group.clone(),
                    limits,
                    keys: self.projects[&lane.project].key_names(),
                    in_flight: lane.in_flight,
                    held: self.callers.held_in(id),
                    wait: lane.waits(now).map(|(until, reason)| (at(until), reason)),
                    blocked: self
                        .gate
                        .blocked(id)
                        .map(|(until, reason)| (at(until), reason.to_owned())),
                    off: lane.off.clone(),
                    learning: lane.learning,
                    others_permille: self.gate.others_permille(id, now),
                    paced: self.gate.is_paced(id, now),
                    overrun_tokens: self.gate.overrun_tokens(id),
                }
            })
            .collect()
    }

    /// Every project's health.
    #[must_use]
    pub fn projects(&self) -> Vec<ProjectView> {
        let view = |project: &Project| ProjectView {
            name: project.name.clone(),
            unreachable: project.link.until.as_ref().map(|(_, reason)| reason.clone()),
            keys_aside: project
                .keys
                .iter()
                .filter(|key| !key.gone)
                .filter_map(|key| Some((key.name.clone(), key.aside.as_ref()?.1.clone())))
                .collect(),
            held: project.held.as_ref().map(|(_, reason)| reason.clone()),
        };
        self.projects.values().map(view).collect()
    }

    /// Why the next item of a batch waits, and until when at the earliest; `None` when it is not
    /// known to wait.
    #[must_use]
    pub fn why(&self, batch: BatchId, now: Now) -> Option<(UnixMs, String)> {
        let job = self.jobs.get(&batch)?;
        if let Some(at) = job.setup.not_before.filter(|at| *at > now.wall) {
            return Some((at, "not before the time that the batch asks for".to_owned()));
        }
        if let Some(reason) = &job.setup.paused {
            return Some((now.wall.plus(caps::TICK_MAX_MS), reason.clone()));
        }
        let known = job.setup.routes.iter().filter_map(|route| self.lanes.get(&route.bucket));
        let lanes: Vec<_> = known.collect();
        if lanes.is_empty() {
            return Some((now.wall.plus(caps::TICK_MAX_MS), NO_LANE.to_owned()));
        }
        let waiting = job.retries.len() + job.suspects.len();
        let idle = job.open == 0 && job.exhausted && job.ready.is_empty() && waiting == 0;
        if idle && !job.closing {
            let reason = "what is left of it is held (in_doubt = \"hold\"): cancel the batch";
            return Some((now.wall.plus(caps::TICK_MAX_MS), reason.to_owned()));
        }
        if job.ready.is_empty()
            && job.exhausted
            && let Some(((due, _), _)) = job.retries.first_key_value()
            && *due > now.boot
        {
            return Some((now.wall_at(*due), "waits to be tried again".to_owned()));
        }
        let soonest = lanes.iter().map(|lane| lane.wait.as_ref()).min()??;
        Some((now.wall_at(soonest.0), soonest.1.clone()))
    }
}
