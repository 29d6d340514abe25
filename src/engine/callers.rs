//! Calls that clients make by themselves: first come, first served in each bucket, before batches,
//! and held no longer than the client waits.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use super::conclude::{Answer, not_sent_because};
use super::core::Engine;
use super::estimate::Load;
use super::flight::{Flight, Work};
use super::plan::{ask, open_end};
use super::state::Effect;
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::limits::Window;
use crate::gate::units::{BootMs, Class, Metric, Now, UnixMs, Weights};
use crate::gate::verdict::{Because, Beside, Verdict};
use crate::gate::window::{AttemptId, DELTA_MS};
use crate::store::{AttemptEnd, NewAttempt, Origin, Via};
use crate::upstream::{NotSentKind, Outcome, Refusal, RefusalClass};

/// A client that asks whether its call may go.
#[derive(Debug)]
pub struct Caller {
    /// In which bucket it counts.
    pub bucket: BucketId,
    /// The model that it names.
    pub model: String,
    /// Who fairness is between.
    pub tenant: String,
    /// Who it is.
    pub origin: Origin,
    /// What is known of the request; nothing when no quota counts it.
    pub load: Option<Load>,
    /// The length of its body.
    pub bytes: u64,
    /// When it came.
    pub since: BootMs,
    /// Until when it waits.
    pub deadline: BootMs,
    /// Whether it goes in any case, and is only told that it would have waited.
    pub shadow: bool,
    /// Told what was decided.
    pub reply: oneshot::Sender<Admission>,
}

/// What was decided of a call.
#[derive(Debug)]
pub enum Admission {
    /// It may go: its row is durable.
    Go(super::permit::Permit),
    /// It may not.
    No(TurnedAway),
}

/// Why a call may not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// What kind of no it is.
    pub why: Why,
    /// In words.
    pub reason: String,
    /// The earliest instant at which it could go, from all that is known.
    pub until: Option<UnixMs>,
}

/// Kinds of no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no room within the time that the client waits.
    NoRoom,
    /// It is larger than a limit: it can never go.
    TooLarge,
    /// Its model is not offered to the project.
    Off,
    /// Too many wait already.
    Crowded,
    /// The daemon or the endpoint is not there.
    Unavailable,
}

/// A call whose reservation is durable, and who waits for that.
#[derive(Debug)]
pub struct Admitted {
    pub(super) id: AttemptId,
    pub(super) project: i64,
    pub(super) key: usize,
    pub(super) key_name: String,
    pub(super) waited_ms: u64,
    pub(super) would_wait: Option<(UnixMs, String)>,
    pub(super) reply: oneshot::Sender<Admission>,
}

/// Calls that wait, and what of them is being written.
#[derive(Debug, Default)]
pub(super) struct Callers {
    lines: BTreeMap<BucketId, Line>,
    /// Those that no quota counts.
    free: Vec<Caller>,
    /// Those whose reservation is being written.
    admitted: BTreeMap<AttemptId, Admitted>,
    /// Ends that are being written.
    settling: usize,
}

/// Those who wait for one bucket.
#[derive(Debug)]
struct Line {
    queue: VecDeque<Caller>,
    /// Until when the first of them waits.
    until: BootMs,
    /// Whether it makes way for a batch that has waited long.
    yields: bool,
}

impl Line {
    fn new() -> Self {
        Self { queue: VecDeque::new(), until: BootMs(0), yields: false }
    }
}

/// For what the first of a line waits.
struct Stay {
    until: BootMs,
    why: Why,
    reason: String,
    yields: bool,
}

impl Callers {
    /// Until when calls wait in a bucket before anything of a batch goes there.
    pub(super) fn first_in(&self, bucket: BucketId) -> Option<BootMs> {
        self.lines.get(&bucket).filter(|line| !line.yields).map(|line| line.until)
    }

    /// How many wait for a bucket.
    pub(super) fn held_in(&self, bucket: BucketId) -> usize {
        self.lines.get(&bucket).map_or(0, |line| line.queue.len())
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lines.values().map(|line| line.queue.len()).sum()
    }

    /// How much of them is not written.
    pub(super) fn unsettled(&self) -> usize {
        self.settling
    }

    pub(super) fn settled(&mut self) {
        self.settling = self.settling.saturating_sub(1);
    }
}

impl Engine {
    /// Takes a call in. It is looked at in the same step.
    pub(super) fn called(&mut self, caller: Caller) {
        if caller.load.is_none() {
            self.callers.free.push(caller);
        } else if self.callers.waiting() >= caps::CALLERS_MAX {
            let reason = format!("{} calls wait already", caps::CALLERS_MAX);
            refuse(caller.reply, Why::Crowded, reason, None);
        } else {
            let line = self.callers.lines.entry(caller.bucket);
            line.or_insert_with(Line::new).queue.push_back(caller);
        }
    }

    /// Starts every call that may go, and turns those away that wait no longer. The rows are to be
    /// written.
    pub(super) fn serve_callers(&mut self, now: Now) -> Vec<NewAttempt> {
        let mut rows = Vec::new();
        for caller in std::mem::take(&mut self.callers.free) {
            rows.extend(self.pass(caller, now));
        }
        let waiting: Vec<_> = self.callers.lines.keys().copied().collect();
        for bucket in waiting {
            if let Some(mut line) = self.callers.lines.remove(&bucket) {
                self.serve(bucket, &mut line, now, &mut rows);
                if !line.queue.is_empty() {
                    self.callers.lines.insert(bucket, line);
                }
            }
        }
        rows
    }

    /// Starts a call that no quota counts.
    fn pass(&mut self, caller: Caller, now: Now) -> Option<NewAttempt> {
        let project = self.lanes.get(&caller.bucket).map(|lane| lane.project);
        let Some(project) = project else {
            refuse(caller.reply, Why::Unavailable, super::core::NO_LANE.to_owned(), None);
            return None;
        };
        let keyless = self.projects[&project].keyless(now, open_end(now));
        if let Some((until, reason)) = self.pause(now).or(keyless) {
            refuse(caller.reply, Why::Unavailable, reason, Some(now.wall_at(until)));
            return None;
        }
        let key = self.projects[&project].turns(now).first().copied()?;
        Some(self.start_call(caller, (key, Weights::default()), None, now))
    }

    fn serve(&mut self, bucket: BucketId, line: &mut Line, now: Now, rows: &mut Vec<NewAttempt>) {
        line.queue.retain(|caller| !caller.reply.is_closed());
        if self.draining {
            for caller in std::mem::take(&mut line.queue) {
                refuse(caller.reply, Why::Unavailable, "the daemon is stopping".to_owned(), None);
            }
        }
        while let Some(caller) = line.queue.front() {
            let (need, key, stay) = self.look_at(bucket, caller, now);
            let goes = match &stay {
                None => true,
                Some(_) => caller.shadow && self.may_pass(bucket, caller.origin.source, now),
            };
            if goes {
                let caller = line.queue.pop_front().expect("it is the first");
                let would_wait = stay.map(|stay| (now.wall_at(stay.until), stay.reason));
                rows.push(self.start_call(caller, (key, need), would_wait, now));
                continue;
            }
            let stay = stay.expect("one that does not go stays");
            if matches!(stay.why, Why::TooLarge | Why::Off) {
                let caller = line.queue.pop_front().expect("it is the first");
                refuse(caller.reply, stay.why, stay.reason, None);
                continue;
            }
            (line.until, line.yields) = (stay.until, stay.yields);
            self.turn_late_ones_away(bucket, line, &stay, now);
            let deadlines = line.queue.iter().map(|caller| caller.deadline);
            if let Some(first) = deadlines.min() {
                self.wake_at(stay.until.min(first));
            }
            return;
        }
    }

    /// What a call needs, the key that it would go with, and for what it waits.
    fn look_at(
        &mut self,
        bucket: BucketId,
        caller: &Caller,
        now: Now,
    ) -> (Weights, usize, Option<Stay>) {
        let stay = |until, why, reason, yields| Some(Stay { until, why, reason, yields });
        if !self.lanes.contains_key(&bucket) {
            let reason = super::core::NO_LANE.to_owned();
            return (Weights::default(), 0, stay(open_end(now), Why::Unavailable, reason, false));
        }
        let load = caller.load.unwrap_or_default();
        let need = self.weigh(bucket, &caller.model, &load, now);
        if let Some(reason) = self.lanes[&bucket].off.clone() {
            return (need, 0, stay(open_end(now), Why::Off, reason, false));
        }
        let away = self.unavailable(bucket, now);
        if let Some((until, reason)) = self.hindrance(bucket, now, Class::Interactive) {
            let why = if away { Why::Unavailable } else { Why::NoRoom };
            return (need, 0, stay(until, why, reason, false));
        }
        let asked = (need, Beside::default());
        match self.check_keys(now, bucket, Class::Interactive, asked) {
            (key, Verdict::Fits) => (need, key, None),
            (key, Verdict::Never(never)) => {
                (need, key, stay(open_end(now), Why::TooLarge, never.to_string(), false))
            }
            (key, Verdict::Wait(wait)) => {
                let yields = matches!(
                    wait.because,
                    Because::Limit { kept, kept_for: Class::Batch, .. } if kept > 0
                );
                (need, key, stay(wait.until, Why::NoRoom, wait.because.to_string(), yields))
            }
        }
    }

    /// Whether what keeps a bucket shut is not its quota.
    fn unavailable(&mut self, bucket: BucketId, now: Now) -> bool {
        if self.pause(now).is_some() {
            return true;
        }
        let project = &self.projects[&self.lanes[&bucket].project];
        let link = &project.link;
        let unreachable =
            !link.proven && link.until.as_ref().is_some_and(|(until, _)| *until > now.boot);
        unreachable || project.keyless(now, open_end(now)).is_some()
    }

    /// Whether a call that is not to be held can go at all.
    fn may_pass(&mut self, bucket: BucketId, via: Via, now: Now) -> bool {
        let Some(lane) = self.lanes.get(&bucket) else { return false };
        if via == Via::Recorded {
            // It has gone already.
            return !self.projects[&lane.project].keys.is_empty() && self.pause(now).is_none();
        }
        !self.unavailable(bucket, now)
    }

    /// Turns away who waits no longer, and who would wait in vain: what is further off than any
    /// minute will not come sooner by what others give back.
    fn turn_late_ones_away(&mut self, bucket: BucketId, line: &mut Line, stay: &Stay, now: Now) {
        let in_vain = stay.until > now.boot.plus(caps::CALL_HOPE_MS);
        let is_late = |caller: &Caller| {
            caller.deadline <= now.boot || (in_vain && stay.until > caller.deadline)
        };
        if !line.queue.iter().any(is_late) {
            return;
        }
        let mut ahead = Weights::default();
        for caller in std::mem::take(&mut line.queue) {
            let load = caller.load.unwrap_or_default();
            let need = match self.lanes.get(&bucket) {
                Some(_) => self.weigh(bucket, &caller.model, &load, now),
                None => Weights::default(),
            };
            if !is_late(&caller) {
                ahead = ahead.plus(&need);
                line.queue.push_back(caller);
                continue;
            }
            let until = match stay.why {
                Why::NoRoom => self.room_behind(bucket, ahead, need, now).max(stay.until),
                Why::TooLarge | Why::Off | Why::Crowded | Why::Unavailable => stay.until,
            };
            refuse(caller.reply, stay.why, stay.reason.clone(), Some(now.wall_at(until)));
        }
    }

    /// When there is room for a call behind others: each whole window that they fill is one that it
    /// waits for, and what is left of them goes before it.
    fn room_behind(&mut self, bucket: BucketId, ahead: Weights, need: Weights, now: Now) -> BootMs {
        let (mut windows, mut longest) = (0, 0);
        for state in self.gate.state(bucket, now) {
            let (metric, value) = (state.limit.metric, state.limit.value);
            if let Window::Rolling { ms } = state.limit.window
                && value > 0
            {
                let filled = ahead.get(metric).saturating_add(need.get(metric)).saturating_sub(1);
                if filled / value > windows {
                    (windows, longest) = (filled / value, ms);
                }
            }
        }
        let rest = |metric| {
            let of = self.gate.smallest(bucket, metric).unwrap_or(u64::MAX).max(1);
            ahead.get(metric) % of
        };
        let more = Weights {
            requests: rest(Metric::Requests),
            input_tokens: rest(Metric::InputTokens),
            ..Weights::default()
        };
        let beside = Beside { more, staying: Weights::default() };
        let (_, verdict) = self.check_keys(now, bucket, Class::Interactive, (need, beside));
        let until = match verdict {
            Verdict::Wait(wait) => wait.until,
            Verdict::Fits | Verdict::Never(_) => now.boot,
        };
        until.plus(windows.saturating_mul(longest.saturating_add(DELTA_MS)))
    }

    fn start_call(
        &mut self,
        caller: Caller,
        (key, est): (usize, Weights),
        would_wait: Option<(UnixMs, String)>,
        now: Now,
    ) -> NewAttempt {
        let Caller { bucket, model, tenant, mut origin, load, bytes, since, reply, .. } = caller;
        let id = self.next_attempt;
        self.next_attempt = AttemptId(id.0 + 1);
        let free = load.is_none();
        let project_id = self.lanes[&bucket].project;
        let today = self.projects[&project_id].day.span_at(now.wall.to_utc()).key;
        let day_lo = if free {
            today
        } else {
            self.gate.reserve(id, &ask(bucket, key, Class::Interactive, est), now)
        };
        let project = self.projects.get_mut(&project_id).expect("a lane has a project");
        // A clock that was set, or heard, since the seal does not open a day again.
        let day_lo = project.sealed_before.map_or(day_lo, |sealed| sealed.max(day_lo));
        if !free {
            let elsewhere = origin.source != Via::Proxy;
            project.take_turn(id, key, now, elsewhere);
            self.lanes.get_mut(&bucket).expect("a lane that was looked at").in_flight += 1;
        }
        let key_name = self.projects[&project_id].keys[key].name.clone();
        let waited_ms = since.until(now.boot);
        origin.waited_ms = Some(waited_ms);
        let text = load.and_then(|load| load.text);
        let flight = Flight {
            bucket,
            project: project_id,
            key,
            model: model.clone(),
            est,
            text,
            bytes,
            started: now.boot,
            day_lo,
            work: Work::Call { free, via: origin.source },
        };
        self.flights.insert(id, flight);
        let admitted = Admitted {
            id,
            project: project_id,
            key,
            key_name: key_name.clone(),
            waited_ms,
            would_wait,
            reply,
        };
        self.callers.admitted.insert(id, admitted);
        NewAttempt {
            id,
            item_id: None,
            project_id,
            bucket_id: bucket,
            model,
            key_name,
            tenant,
            s_wall: now.wall,
            s_boot: now.boot,
            day_lo: day_lo.to_string(),
            est,
            text,
            origin,
        }
    }

    /// Lets a call go whose reservation is durable. One whose client has left meanwhile ends at
    /// once.
    pub(super) fn admit(&mut self, id: AttemptId, _now: Now) -> Option<Effect> {
        self.callers.admitted.remove(&id).map(Effect::Admit)
    }

    /// Tells a client that its reservation could not be written.
    pub(super) fn turn_away(&mut self, id: AttemptId, reason: &str) {
        if let Some(admitted) = self.callers.admitted.remove(&id) {
            let reason = format!("the ledger cannot be written: {reason}");
            refuse(admitted.reply, Why::Unavailable, reason, None);
        }
    }

    /// Decides what the end of a call means: for its row, the bucket, the key and the endpoint.
    pub(super) fn call_ended(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        mut answer: Answer,
    ) -> Effect {
        let (end, error) = match &answer.report.outcome {
            Outcome::Answered { .. } => {
                if !flight.goes_elsewhere() {
                    self.key_went_well(id, flight, now);
                }
                if !flight.is_free() {
                    self.went_well(now, flight);
                }
                (AttemptEnd::Ok, None)
            }
            Outcome::Refused(refusal) => {
                (self.call_refused(now, id, flight, refusal), Some(refusal.message.clone()))
            }
            Outcome::NotSent { reason, kind: NotSentKind::Other } => {
                (AttemptEnd::Aborted, Some(reason.clone()))
            }
            Outcome::NotSent { reason, kind } => {
                let reason = not_sent_because(*kind, reason);
                self.link_failed(now, id, flight, &reason);
                (AttemptEnd::Aborted, Some(reason))
            }
            Outcome::Unknown { reason } => (AttemptEnd::InDoubt, Some(reason.clone())),
        };
        let attempt = self.close_books(now, id, flight, (end, error), &mut answer);
        self.callers.settling += 1;
        Effect::SettleCall(Box::new(attempt))
    }

    fn call_refused(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        refusal: &Refusal,
    ) -> AttemptEnd {
        match refusal.class {
            RefusalClass::Throttled(kind) => {
                // What refuses a call that no quota counts is none of the quotas.
                if !flight.is_free() {
                    self.throttled(now, (id, flight), refusal, kind);
                }
                return AttemptEnd::Throttled;
            }
            // What others send with is theirs.
            RefusalClass::KeyRefused if flight.goes_elsewhere() => {}
            RefusalClass::KeyRefused => self.set_key_aside(now, flight, refusal),
            RefusalClass::Billing => self.hold_for_billing(now, flight, refusal),
            RefusalClass::Server if !flight.is_free() => {
                self.note_server_error(now, id, flight, refusal);
            }
            RefusalClass::Server
            | RefusalClass::BadRequest
            | RefusalClass::Forbidden
            | RefusalClass::ModelNotFound
            | RefusalClass::Other => {}
        }
        AttemptEnd::Failed
    }
}

/// Tells a client that its call may not go. It may have left.
fn refuse(reply: oneshot::Sender<Admission>, why: Why, reason: String, until: Option<UnixMs>) {
    let _ = reply.send(Admission::No(TurnedAway { why, reason, until }));
}
