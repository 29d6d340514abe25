//! What a 429 means for a bucket, and limits that change while requests are under way.

use super::conclude::{backoff, quota_id_of};
use super::core::Engine;
use super::flight::Flight;
use super::job::Job;
use super::state::{Lane, NewLimits};
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::day::DayEdges;
use crate::gate::learn::{Lesson, Quota, Throttle};
use crate::gate::limits::{MINUTE_MS, Window};
use crate::gate::units::{Metric, Now, ProjectId, UnixMs};
use crate::gate::window::{AttemptId, DELTA_MS};
use crate::store::{LimitEvent, Remembered};
use crate::upstream::{QuotaSubject, QuotaViolation, QuotaWindow, Refusal, ThrottleKind};

impl Engine {
    /// A 429: the bucket waits, not the item.
    pub(super) fn throttled(
        &mut self,
        now: Now,
        (id, flight): (AttemptId, &Flight),
        refusal: &Refusal,
        kind: ThrottleKind,
    ) {
        let bucket = flight.bucket;
        // First, so that what the refusal teaches is of the quota that it is about.
        self.learn_quota_name(flight, refusal, now);
        let asked = refusal.retry_delay_ms.unwrap_or(0);
        let what = quota_id_of(refusal).unwrap_or_else(|| "no quota named".to_owned());
        tracing::warn!(bucket.id = bucket.0, quota.id = %what, retry_ms = asked,
            "the provider said 429 ({what}): the model waits, no prompt is failed for it");
        let shut = self.gate.blocked(bucket).is_some_and(|(until, _)| until > now.boot);
        let next = self.next_attempt;
        let lane = self.lanes.get_mut(&bucket).expect("a flight has a lane");
        // What was under way together is refused together: that is one refusal.
        let anew = id >= lane.refused_before;
        if anew && kind == ThrottleKind::Unexplained {
            lane.unexplained = lane.unexplained.saturating_add(1);
        }
        if anew && !shut && (lane.learning || kind == ThrottleKind::Unexplained) {
            lane.refused_before = next;
            lane.went_badly();
        }
        let quotas = refusal.quota.iter().filter_map(quota).collect();
        let throttle = Throttle { quotas, retry_ms: refusal.retry_delay_ms };
        let jitter_ms = self.rng.u64(0..1_000);
        let lessons = self.gate.throttled(id, &throttle, now, jitter_ms);
        let lessons = lessons.unwrap_or_else(|| {
            self.wait_as_asked(now, bucket, asked, (kind, &what));
            Vec::new()
        });
        self.note(flight, lessons, now);
    }

    /// Takes up the limits that an answer tells of.
    pub(super) fn told_of_limits(&mut self, flight: &Flight, stated: &[QuotaViolation], now: Now) {
        let quotas: Vec<Quota> = stated.iter().filter_map(quota).collect();
        let lessons = self.gate.told(flight.bucket, &quotas, now);
        if !lessons.is_empty() {
            self.note(flight, lessons, now);
        }
    }

    /// Waits after a 429 whose quota has no window or no metric that is known here.
    fn wait_as_asked(
        &mut self,
        now: Now,
        bucket: BucketId,
        asked: u64,
        (kind, what): (ThrottleKind, &str),
    ) {
        let day_end = now.boot_at(self.gate.day_end(bucket, now).1);
        let lane = &self.lanes[&bucket];
        let jitter = self.rng.u64(0..1_000);
        let (until, reason) = match kind {
            ThrottleKind::PerDay => (day_end, format!("the provider's day is used up ({what})")),
            ThrottleKind::LimitZero => {
                (day_end, format!("the provider's limit is 0: not on this tier ({what})"))
            }
            ThrottleKind::PerMinute => {
                let asked = if asked == 0 { MINUTE_MS } else { asked };
                let until = now.boot.plus(asked.max(1_000) + jitter);
                (until, format!("the provider said its minute is used up ({what})"))
            }
            ThrottleKind::Unexplained => {
                let wait = asked.max(backoff(&mut self.rng, lane.unexplained));
                (now.boot.plus(wait), "the provider said 429 and no more".to_owned())
            }
        };
        self.gate.block(bucket, until, reason);
    }

    /// The provider names the model whose quota is used up: two of ours that it calls by one name
    /// are one quota, and this one counts in the other from now on.
    fn learn_quota_name(&mut self, flight: &Flight, refusal: &Refusal, now: Now) {
        let name = refusal.quota.iter().find_map(|quota| quota.model.as_deref());
        let Some(name) = name else { return };
        if self.gate.quota_name(flight.bucket) == Some(name) {
            return;
        }
        self.gate.set_quota_name(flight.bucket, name);
        let own = &self.lanes[&flight.bucket];
        let root = self.gate.root(flight.bucket);
        let same = |(id, lane): &(&BucketId, &Lane)| {
            lane.project == own.project
                && self.gate.root(**id) != root
                && (lane.model_group == name || self.gate.quota_name(**id) == Some(name))
        };
        let Some((into, _)) = self.lanes.iter().find(same) else { return };
        let into = self.gate.root(*into);
        tracing::warn!(
            bucket.id = flight.bucket.0,
            quota.name = name,
            "the provider counts {} and {} as one quota, {name}: so do we from now on",
            own.model_group,
            self.lanes[&into].model_group
        );
        // Whatever counts in the one counts in the other: that is kept of the roots.
        self.memorise(root, now, Vec::new());
        if let Some(memo) = self.memos.back_mut() {
            memo.counts_in = Some(into);
        }
        self.gate.merge(root, into, now);
        self.gate.set_quota_name(into, name);
    }

    /// Says what was learned, and has it kept.
    fn note(&mut self, flight: &Flight, lessons: Vec<Lesson>, now: Now) {
        let root = self.gate.root(flight.bucket);
        let group = self.lanes[&root].model_group.clone();
        let mut events = Vec::new();
        for lesson in lessons {
            match lesson {
                Lesson::Limit { dimension, from, to, in_force, quota_id, .. } => {
                    let was = from.map_or_else(|| "none".to_owned(), |from| from.to_string());
                    let more = if in_force { "" } else { ", which your own limit is below" };
                    tracing::warn!(
                        bucket.id = flight.bucket.0,
                        "{group}: the provider says that {dimension} is {to} (was {was}){more}"
                    );
                    events.push(LimitEvent {
                        at: now.wall,
                        project_id: flight.project,
                        quota_group: group.clone(),
                        dimension: dimension.to_owned(),
                        was: from.map(|from| from.to_string()),
                        became: Some(to.to_string()),
                        source: "learned".to_owned(),
                        reason: quota_id,
                    });
                }
                Lesson::Others { dimension, weight } => {
                    tracing::warn!("{group}: somebody else used {weight} of {dimension} of late");
                }
                Lesson::Share { dimension, permille } => tracing::warn!(
                    "{group}: the books do not explain this 429: {}.{} % of {dimension} is used \
                    from now on",
                    permille / 10,
                    permille % 10
                ),
                Lesson::Paced => tracing::warn!("{group}: requests keep a distance from now on"),
                Lesson::Slower { delta_ms } => {
                    tracing::warn!("{group}: requests are taken to be under way for {delta_ms} ms");
                }
                Lesson::Shut { reason, .. } => tracing::warn!("{group}: {reason}"),
            }
        }
        self.memorise(root, now, events);
    }

    /// Has all kept that was learned of the quota in which a bucket counts.
    pub(super) fn memorise(&mut self, bucket: BucketId, now: Now, events: Vec<LimitEvent>) {
        let bucket = self.gate.root(bucket);
        let memory = serde_json::to_string(&self.gate.memory(bucket, now));
        let memory = memory.expect("a memory is JSON");
        self.memos.push_back(Remembered { bucket, memory, at: now.wall, events, counts_in: None });
    }

    /// Takes up limits that were configured or set anew: at once, and nothing is revoked.
    pub(super) fn new_limits(&mut self, new: NewLimits, now: Now) {
        let Some(project) = self.projects.get_mut(&new.project) else { return };
        project.pace = new.pace;
        project.tier = new.tier;
        let day = project.day.clone();
        self.gate.set_reserve(ProjectId(new.project), new.reserve);
        self.gate.share(ProjectId(new.project), new.shared, day.clone(), now);
        for (id, group, rule) in new.buckets {
            let known = self.lanes.contains_key(&id);
            let lane = self.lanes.entry(id).or_insert_with(|| Lane::new(new.project, group, false));
            let limits = lane.take_up(rule);
            if !known {
                let limits = limits.unwrap_or_default();
                self.gate.define(id, ProjectId(new.project), limits, day.clone());
                self.adopt(id, now);
            } else if let Some(limits) = limits {
                self.gate.redefine(id, limits, now);
            }
        }
        if let Some((bucket, metric, window)) = new.forget
            && self.lanes.contains_key(&bucket)
        {
            self.gate.forget(bucket, metric, window, now);
            self.gate.lift(bucket, now);
            self.memorise(bucket, now, Vec::new());
        }
        // Whoever asked may have gone away.
        let _ = new.done.send(());
    }

    /// Lines up the batches that had no lane.
    fn adopt(&mut self, id: BucketId, now: Now) {
        let goes_there = |job: &&Job| job.setup.routes.iter().any(|route| route.bucket == id);
        let batches: Vec<_> = self.jobs.values().filter(goes_there).map(|it| it.setup.id).collect();
        for batch in batches {
            self.line_up(batch, now);
        }
    }

    /// Takes in the provider's clock: when a request was sent and answered by ours, and what its
    /// answer's `Date` says.
    pub(super) fn hear_clock(
        &mut self,
        project: i64,
        (sent, headers, date_s): (UnixMs, UnixMs, i64),
        now: Now,
    ) {
        let Some(heard) = self.projects.get_mut(&project) else { return };
        heard.clock.observe(sent, headers, date_s, now.boot);
        self.know_days(project, now);
    }

    /// Tells the gate where the provider's clock stands, as far as its answers prove it. That is
    /// less sure the longer ago they were.
    fn know_days(&mut self, project: i64, now: Now) {
        let Some(heard) = self.projects.get_mut(&project) else { return };
        let offset = heard.clock.interval(now.boot);
        if offset.known {
            heard.floor = None;
            let edges = DayEdges { lo_ms: offset.lo_ms, hi_ms: offset.hi_ms, floor: None };
            self.gate.set_day_edges(ProjectId(project), edges);
        }
    }

    /// Takes in the time: what is known of the provider's clocks, and whether ours was set.
    pub(super) fn pass_time(&mut self, now: Now) {
        self.notice_step(now);
        let projects: Vec<_> = self.projects.keys().copied().collect();
        for project in projects {
            self.know_days(project, now);
        }
    }

    /// Notices that the wall clock was set: what was known of the provider's clock is void, a day
    /// that has begun does not end by that, and what waits for a time of day looks at it again.
    fn notice_step(&mut self, now: Now) {
        let boot = i64::try_from(now.boot.0).unwrap_or(i64::MAX);
        let skew = now.wall.0.saturating_sub(boot);
        let Some(before) = self.skew.replace(skew) else { return };
        let step = skew.saturating_sub(before);
        if step.unsigned_abs() <= caps::WALL_STEP_MS {
            return;
        }
        tracing::warn!(step_ms = step, "the wall clock was set by {step} ms");
        self.schedule.rouse_sleeping(now.boot);
        for (id, project) in &mut self.projects {
            project.clock.forget();
            let edges = DayEdges::default();
            // What our clock would show now.
            let reached = now.wall.moved(step.saturating_neg()).moved(edges.hi_ms).to_utc();
            let floor = (step < 0).then(|| project.day.span_at(reached).key);
            project.floor = project.floor.max(floor);
            self.gate.set_day_edges(ProjectId(*id), DayEdges { floor: project.floor, ..edges });
        }
    }

    /// After a start on a wall clock that is behind the ledger: each project's day is at least the
    /// last one that was written, until the provider's own clock is heard.
    pub(super) fn distrust_days_before(&mut self, last: UnixMs, now: Now) {
        // The bound of an attempt that was cut off lies ahead by as much.
        if last <= now.wall.plus(DELTA_MS) {
            return;
        }
        tracing::warn!("the wall clock is behind the ledger's last row of {last}");
        for (id, project) in &mut self.projects {
            project.floor = Some(project.day.span_at(last.to_utc()).key);
            let edges = DayEdges { floor: project.floor, ..DayEdges::default() };
            self.gate.set_day_edges(ProjectId(*id), edges);
        }
    }
}

/// A quota as the gate knows quotas; none when what it counts is unknown here.
fn quota(violation: &QuotaViolation) -> Option<Quota> {
    let metric = match violation.subject {
        QuotaSubject::Requests => Metric::Requests,
        QuotaSubject::InputTokens => Metric::InputTokens,
        QuotaSubject::Images => Metric::Images,
        QuotaSubject::Other => return None,
    };
    let window = match violation.window {
        QuotaWindow::PerMinute => Some(Window::Rolling { ms: MINUTE_MS }),
        QuotaWindow::PerDay => Some(Window::Day),
        QuotaWindow::Other => None,
    };
    let id = if violation.quota_id.is_empty() { &violation.metric } else { &violation.quota_id };
    Some(Quota { id: id.clone(), metric, window, value: violation.value })
}
