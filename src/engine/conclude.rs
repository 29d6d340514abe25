//! What an answer means: for the ledger row, the item, the bucket, the key and the endpoint.

use bytes::Bytes;

use super::core::Engine;
use super::flight::{Carried, Flight};
use super::run::{fault_line, item_name};
use super::state::{Link, Settling};
use crate::caps;
use crate::formats::{Answers, InDoubt};
use crate::gate::units::{Metric, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;
use crate::schedule::{ServerError, after_server_error};
use crate::store::{
    AttemptEnd, BatchId, EndedAttempt, ItemState, ItemUpdate, Observation, QueuedItem, Settlement,
    Tokens,
};
use crate::upstream::{
    NotSentKind, Outcome, QuotaSubject, QuotaViolation, Refusal, RefusalClass, Report, Usage,
};

/// An attempt's end as the shell tells it.
pub(super) struct Answer {
    pub(super) key: String,
    pub(super) report: Report,
    pub(super) line: Option<String>,
    pub(super) latency_ms: u64,
    /// What the provider had counted when it refused or broke off.
    pub(super) counted: Option<Usage>,
}

impl Answer {
    /// The end of a client's call.
    pub(super) fn of_call(report: Report, counted: Option<Usage>, latency_ms: u64) -> Self {
        Self { key: String::new(), report, line: None, latency_ms, counted }
    }

    /// The end of an attempt of which nothing was sent, for a reason on this side.
    fn not_sent(key: String, reason: String) -> Self {
        let report = Report::not_sent(NotSentKind::Other, reason);
        Self { key, report, line: None, latency_ms: 0, counted: None }
    }
}

/// A line that could not be read.
pub(super) struct Unread {
    pub(super) key: String,
    pub(super) reason: String,
    pub(super) lost: bool,
}

/// What is written, and what is done once it is durable.
pub(super) struct Conclusion {
    pub(super) settlement: Settlement,
    pub(super) settling: Settling,
}

/// What becomes of the item.
struct Fate {
    end: AttemptEnd,
    state: ItemState,
    item: QueuedItem,
    keeps_place: bool,
    /// What went wrong, for the ledger and, if the item is failed, for its results line.
    error: Option<Problem>,
}

struct Problem {
    code: u16,
    status: &'static str,
    message: String,
    /// The provider's own document, if it refused.
    refusal: Option<Bytes>,
}

impl Problem {
    /// One that is ours.
    fn of(code: u16, status: &'static str, message: String) -> Self {
        Self { code, status, message, refusal: None }
    }

    fn line(&self, answers: Answers, key: &str, item: &str) -> String {
        let told = (self.code, self.status, self.message.as_str());
        fault_line(answers, key, item, told, self.refusal.as_deref())
    }
}

impl Engine {
    /// Decides what an attempt's end means and updates everything but the queue, which waits for
    /// the settlement to be durable.
    pub(super) fn conclude(
        &mut self,
        now: Now,
        id: AttemptId,
        of: (&Flight, &Carried),
        answer: Answer,
    ) -> Conclusion {
        let (flight, carried) = of;
        let fate = match &answer.report.outcome {
            Outcome::Answered { blocked, .. } => {
                self.key_went_well(id, flight, now);
                self.went_well(now, flight);
                Fate {
                    end: AttemptEnd::Ok,
                    state: if blocked.is_some() {
                        ItemState::Blocked
                    } else {
                        ItemState::Succeeded
                    },
                    item: carried.item.clone(),
                    keeps_place: false,
                    error: None,
                }
            }
            Outcome::Refused(refusal) => self.refused(now, id, of, refusal),
            Outcome::NotSent { reason, kind } => {
                let reason = not_sent_because(*kind, reason);
                self.link_failed(now, id, flight, &reason);
                Fate {
                    end: AttemptEnd::Aborted,
                    state: ItemState::Queued,
                    item: carried.item.clone(),
                    keeps_place: true,
                    error: Some(Problem::of(503, "UNAVAILABLE", reason)),
                }
            }
            Outcome::Unknown { reason } => self.unknown(now, carried, reason),
        };
        self.write_up(now, id, of, fate, answer)
    }

    /// The item's line could not be read, so nothing was sent: it is tried again later, unless the
    /// line is lost.
    pub(super) fn unreadable(
        &mut self,
        now: Now,
        id: AttemptId,
        of: (&Flight, &Carried),
        Unread { key, reason, lost }: Unread,
    ) -> Conclusion {
        let not_before = now.wall.plus(caps::UNREADABLE_RETRY_MS);
        let fate = Fate {
            end: AttemptEnd::Aborted,
            state: if lost { ItemState::Failed } else { ItemState::Queued },
            item: QueuedItem { not_before, ..of.1.item.clone() },
            keeps_place: false,
            error: Some(Problem::of(500, "INTERNAL", reason.clone())),
        };
        self.write_up(now, id, of, fate, Answer::not_sent(key, reason))
    }

    /// The permit was too old to keep the distance to others: nothing was sent, and the item is
    /// reserved anew.
    pub(super) fn stale(&mut self, now: Now, id: AttemptId, of: (&Flight, &Carried)) -> Conclusion {
        let reason = "its permit was too old when it was to be sent".to_owned();
        let fate = Fate {
            end: AttemptEnd::Aborted,
            state: ItemState::Queued,
            item: of.1.item.clone(),
            keeps_place: true,
            error: Some(Problem::of(503, "UNAVAILABLE", reason.clone())),
        };
        self.write_up(now, id, of, fate, Answer::not_sent(String::new(), reason))
    }

    /// Turns what was decided into what is written, and settles the books in memory.
    fn write_up(
        &mut self,
        now: Now,
        id: AttemptId,
        (flight, carried): (&Flight, &Carried),
        fate: Fate,
        mut answer: Answer,
    ) -> Conclusion {
        let error = fate.error.as_ref().map(|problem| problem.message.clone());
        let attempt = self.close_books(now, id, flight, (fate.end, error), &mut answer);
        if fate.end == AttemptEnd::Aborted {
            self.give_retry_back(flight);
        }
        self.uncharge(carried.batch, flight.bucket, (&flight.est, &attempt.act));
        if let Some(job) = self.jobs.get_mut(&carried.batch) {
            job.open_nanos -= flight.est.spend_nanos;
            job.setup.spent_nanos = job.setup.spent_nanos.saturating_add(attempt.act.spend_nanos);
        }
        let line = match fate.state {
            ItemState::Succeeded | ItemState::Blocked => answer.line,
            ItemState::Failed => self.fault(carried, fate.error.as_ref(), &answer.key),
            ItemState::Queued | ItemState::Cancelled | ItemState::Held => None,
        };
        let item = ItemUpdate {
            id: carried.item.id,
            state: fate.state,
            attempts: fate.item.attempts,
            doubts: fate.item.doubts,
            not_before: fate.item.not_before,
            line,
            answer: None,
        };
        Conclusion {
            settlement: Settlement { attempt: Some(attempt), item: Some(item) },
            settling: Settling {
                batch: carried.batch,
                item: fate.item,
                state: fate.state,
                keeps_place: fate.keeps_place,
            },
        }
    }

    /// Settles an attempt in memory, learns from what the provider counted, and returns its row.
    pub(super) fn close_books(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        (end, error): (AttemptEnd, Option<String>),
        answer: &mut Answer,
    ) -> EndedAttempt {
        let (report, latency_ms) = (&mut answer.report, answer.latency_ms);
        if let Some(date) = report.date_header {
            let sent = now.wall.minus(latency_ms);
            self.hear_clock(flight.project, (sent, now.wall, date), now);
        }
        if !flight.is_free() {
            self.told_of_limits(flight, &report.stated, now);
        }
        let mut act = actual(flight.est, &report.outcome, end);
        let usage = reported(&report.outcome).or(answer.counted.as_ref());
        if let Some(usage) = usage.filter(|_| !flight.is_free()) {
            let model = flight.model.clone();
            let counts_output = self.projects[&flight.project].counts_output;
            act.input_tokens = if counts_output { usage.total } else { input_of(usage) };
            act.spend_nanos = self.spent(flight.project, &model, usage, now, act.spend_nanos);
            let input_tokens = input_of(usage);
            if let Some(lane) = self.lanes.get_mut(&flight.bucket) {
                lane.delays.used(flight.est.input_tokens, act.input_tokens);
            }
            if let Some(text) = flight.text.filter(|_| usage.prompt > 0) {
                self.observe(&Observation { model, text, input_tokens });
            }
        }
        let tokens = usage.map(tokens).unwrap_or_default();
        if matches!(end, AttemptEnd::Ok) && self.gate.unblock(id) {
            self.memorise(flight.bucket, now, Vec::new());
        }
        let (u_boot, day_hi) = if flight.is_free() {
            (now.boot, None)
        } else if end == AttemptEnd::Aborted {
            self.gate.void(id);
            (now.boot, None)
        } else {
            let (u, charge) = self.gate.settle(id, act, now).expect("a flight is in the gate");
            (u, Some(charge.hi.max(flight.day_lo).to_string()))
        };
        EndedAttempt {
            id,
            end,
            u_wall: now.wall_at(u_boot),
            u_boot,
            day_hi: day_hi.unwrap_or_else(|| self.last_day(flight, now)),
            act,
            tokens,
            http_status: report.status,
            quota_id: quota_id(&report.outcome),
            service_tier: report.service_tier.take(),
            error,
            latency_ms: (end != AttemptEnd::Aborted).then_some(latency_ms),
        }
    }

    /// The results line of an item that failed.
    fn fault(&self, carried: &Carried, problem: Option<&Problem>, key: &str) -> Option<String> {
        let setup = &self.jobs.get(&carried.batch)?.setup;
        let name = item_name(&setup.work, BatchId::line_of_item(carried.item.id));
        Some(problem?.line(setup.form.answers, key, &name))
    }

    /// A request was answered: what was held against its bucket is forgotten.
    pub(super) fn went_well(&mut self, now: Now, flight: &Flight) {
        let lane = self.lanes.get_mut(&flight.bucket).expect("a flight has a lane");
        lane.unexplained = 0;
        (lane.server_errors, lane.outages) = (0, 0);
        lane.budget.earn();
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        lane.went_well(project.pace.max_in_flight);
        project.held = project.held.take().filter(|(until, _)| *until > now.boot);
    }

    fn refused(
        &mut self,
        now: Now,
        id: AttemptId,
        of: (&Flight, &Carried),
        refusal: &Refusal,
    ) -> Fate {
        let (flight, carried) = of;
        match refusal.class {
            RefusalClass::Throttled(kind) => {
                // By the limits before this refusal teaches others: it went alone, or it did not.
                let too_large = self.is_too_large(flight, refusal);
                self.throttled(now, (id, flight), refusal, kind);
                if too_large {
                    return Fate { end: AttemptEnd::Throttled, ..failed(carried, refusal) };
                }
                Fate { end: AttemptEnd::Throttled, ..back_in_place(carried, refusal) }
            }
            RefusalClass::KeyRefused => {
                self.set_key_aside(now, flight, refusal);
                back_in_place(carried, refusal)
            }
            RefusalClass::Billing => {
                self.hold_for_billing(now, flight, refusal);
                back_in_place(carried, refusal)
            }
            RefusalClass::Server => self.server_error(now, id, of, refusal),
            RefusalClass::ModelNotFound | RefusalClass::Forbidden => {
                self.hopeless(carried, refusal);
                failed(carried, refusal)
            }
            RefusalClass::BadRequest | RefusalClass::Other => failed(carried, refusal),
        }
    }

    /// Money is used up: nothing of the project goes for a while.
    pub(super) fn hold_for_billing(&mut self, now: Now, flight: &Flight, refusal: &Refusal) {
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        let until = now.boot.plus(caps::BILLING_HOLD_MS);
        project.held = Some((until, format!("billing: {}", refusal.message)));
    }

    /// Whether the provider refused the prompt for its own size: it was sent with the whole token
    /// limit to itself, and still the tokens were too many. Waiting will not make it fit.
    fn is_too_large(&self, flight: &Flight, refusal: &Refusal) -> bool {
        let tokens = |quota: &QuotaViolation| quota.subject == QuotaSubject::InputTokens;
        refusal.quota.iter().any(tokens)
            && self.gate.takes_all(flight.bucket, Metric::InputTokens, flight.est.input_tokens)
    }

    /// The provider is in trouble: the item waits, ever longer. One that goes first to try the
    /// provider is not given up for it.
    fn server_error(
        &mut self,
        now: Now,
        id: AttemptId,
        (flight, carried): (&Flight, &Carried),
        refusal: &Refusal,
    ) -> Fate {
        let tries_the_provider = self.note_server_error(now, id, flight, refusal);
        let mut item = carried.item.clone();
        item.attempts += 1;
        let wait = match after_server_error(item.attempts) {
            ServerError::GiveUp
                if tries_the_provider && item.attempts < caps::OUTAGE_ATTEMPTS_MAX =>
            {
                caps::PARKED_MAX_MS
            }
            ServerError::GiveUp => return Fate { item, ..failed(carried, refusal) },
            ServerError::Backoff { at_most_ms } => self.rng.u64(0..=at_most_ms),
            ServerError::Park { ms } => ms,
        };
        let wait = wait.max(refusal.retry_delay_ms.unwrap_or(0)).min(caps::PARKED_MAX_MS);
        item.not_before = now.wall.plus(wait);
        Fate { item, keeps_place: false, ..back_in_place(carried, refusal) }
    }

    /// Where one request after another is answered with a fault of the provider, the bucket is shut
    /// and one goes first. Returns whether this was that one.
    pub(super) fn note_server_error(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        refusal: &Refusal,
    ) -> bool {
        let lane = self.lanes.get_mut(&flight.bucket).expect("a flight has a lane");
        lane.server_errors += 1;
        let tries_the_provider = lane.outages > 0 && id >= lane.refused_before;
        let is_new = lane.outages == 0 || tries_the_provider;
        if lane.server_errors >= caps::SERVER_ERRORS_TOGETHER && is_new {
            let shift = lane.outages.min(8);
            let longest = (caps::OUTAGE_BASE_MS << shift).min(caps::OUTAGE_MAX_MS);
            let wait = longest / 2 + self.rng.u64(0..=longest / 2);
            lane.outages = lane.outages.saturating_add(1);
            lane.refused_before = self.next_attempt;
            let reason = format!(
                "the provider answered {} requests in a row with an error of its own: {}",
                lane.server_errors, refusal.message
            );
            tracing::warn!(bucket.id = flight.bucket.0, wait_ms = wait, "{reason}");
            self.gate.block(flight.bucket, now.boot.plus(wait), reason);
        }
        tries_the_provider
    }

    /// Fails the rest of a batch that the provider will never answer.
    fn hopeless(&mut self, carried: &Carried, refusal: &Refusal) {
        let Some(job) = self.jobs.get_mut(&carried.batch) else { return };
        job.hopeless += 1;
        let being_written = |settling: &Settling| {
            let good = matches!(settling.state, ItemState::Succeeded | ItemState::Blocked);
            settling.batch == carried.batch && good
        };
        let answered = job.setup.answered > 0 || self.settling.values().any(being_written);
        if job.hopeless >= caps::HOPELESS_ANSWERS && !answered {
            let reason = format!(
                "not sent: {} items were answered {} and none was answered well: {}",
                job.hopeless, refusal.status, refusal.message
            );
            self.stop(carried.batch, reason, false);
        }
    }

    /// The endpoint cannot be reached: nothing goes there for a while, ever longer.
    pub(super) fn link_failed(&mut self, now: Now, id: AttemptId, flight: &Flight, reason: &str) {
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        let link = &mut project.link;
        // Attempts that fail together with one that was counted already are the same failure.
        if link.proven || link.until.as_ref().is_none_or(|(until, _)| *until <= now.boot) {
            let shift = link.failures.min(6);
            let wait = (caps::CONNECT_BASE_MS << shift).min(caps::CONNECT_MAX_MS);
            let wait = wait / 2 + self.rng.u64(0..=wait / 2);
            let failures = link.failures.saturating_add(1);
            tracing::warn!(project.name = %project.name, attempt.id = id.0, wait_ms = wait,
                "project {}: {reason}", project.name);
            let until = Some((now.boot.plus(wait), reason.to_owned()));
            *link = Link { proven: false, failures, until, probe: link.probe };
        }
    }

    fn unknown(&mut self, now: Now, carried: &Carried, reason: &str) -> Fate {
        let mut item = carried.item.clone();
        item.doubts += 1;
        let policy = self.jobs.get(&carried.batch).map_or(InDoubt::Retry, |job| job.setup.in_doubt);
        let state = doubtful(policy, item.doubts);
        if state == ItemState::Queued {
            item.not_before = now.wall.plus(backoff(&mut self.rng, item.doubts));
        }
        let message = format!("it is unknown whether the request was answered: {reason}");
        Fate {
            end: AttemptEnd::InDoubt,
            state,
            item,
            keeps_place: false,
            error: Some(Problem::of(504, "UNKNOWN", message)),
        }
    }

    /// Today, or the attempt's first day if the wall clock was set back over midnight since.
    fn last_day(&self, flight: &Flight, now: Now) -> String {
        let today = self.projects[&flight.project].day.span_at(now.wall.to_utc()).key;
        today.max(flight.day_lo).to_string()
    }
}

/// What a batch's policy makes of an item of which so many attempts were cut off.
pub(super) fn doubtful(policy: InDoubt, doubts: u32) -> ItemState {
    match policy {
        InDoubt::Retry if doubts >= caps::DOUBTS_MAX => ItemState::Failed,
        InDoubt::Retry => ItemState::Queued,
        InDoubt::Hold => ItemState::Held,
        InDoubt::Fail => ItemState::Failed,
    }
}

/// Full jitter: anything up to 2 s · 2^k, at most 120 s.
pub(super) fn backoff(rng: &mut fastrand::Rng, failures: u32) -> u64 {
    let ceiling = (caps::RETRY_BASE_MS << failures.min(6)).min(caps::RETRY_MAX_MS);
    rng.u64(0..=ceiling)
}

pub(super) fn not_sent_because(kind: NotSentKind, reason: &str) -> String {
    let what = match kind {
        NotSentKind::Connect | NotSentKind::Dns | NotSentKind::Tls => {
            "the endpoint cannot be reached"
        }
        NotSentKind::Other => "the request cannot be sent",
    };
    format!("{what}: {reason}")
}

fn back_in_place(carried: &Carried, refusal: &Refusal) -> Fate {
    Fate {
        end: AttemptEnd::Failed,
        state: ItemState::Queued,
        item: QueuedItem { not_before: UnixMs(0), ..carried.item.clone() },
        keeps_place: true,
        error: Some(problem(refusal)),
    }
}

fn failed(carried: &Carried, refusal: &Refusal) -> Fate {
    Fate {
        end: AttemptEnd::Failed,
        state: ItemState::Failed,
        item: carried.item.clone(),
        keeps_place: false,
        error: Some(problem(refusal)),
    }
}

fn problem(refusal: &Refusal) -> Problem {
    let status = match refusal.status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 | 402 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    };
    Problem {
        code: refusal.status,
        status,
        message: refusal.message.clone(),
        refusal: Some(refusal.body.clone()),
    }
}

/// What the attempt really took. Without a usage report the reservation stands.
fn actual(est: Weights, outcome: &Outcome, end: AttemptEnd) -> Weights {
    if end == AttemptEnd::Aborted {
        return Weights::default();
    }
    match outcome {
        Outcome::Answered { images, .. } => Weights { images: *images, ..est },
        // What is refused may be counted, but nobody pays for it.
        Outcome::Refused(_) => Weights { spend_nanos: 0, ..est },
        Outcome::NotSent { .. } | Outcome::Unknown { .. } => est,
    }
}

/// What counts as input: the prompt, and what the provider's own tools added to it.
fn input_of(usage: &Usage) -> u64 {
    usage.prompt.saturating_add(usage.tool_use_prompt)
}

/// What the provider counted of a request that it answered.
fn reported(outcome: &Outcome) -> Option<&Usage> {
    match outcome {
        Outcome::Answered { usage, .. } => usage.as_ref(),
        Outcome::Refused(_) | Outcome::NotSent { .. } | Outcome::Unknown { .. } => None,
    }
}

fn tokens(usage: &Usage) -> Tokens {
    Tokens {
        prompt: usage.prompt,
        cached: usage.cached,
        output: usage.candidates,
        thought: usage.thoughts,
        tool: usage.tool_use_prompt,
        total: usage.total,
        raw: usage.raw.clone(),
    }
}

fn quota_id(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Refused(refusal) => quota_id_of(refusal),
        Outcome::Answered { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. } => None,
    }
}

pub(super) fn quota_id_of(refusal: &Refusal) -> Option<String> {
    refusal.quota.first().map(|violation| violation.quota_id.clone())
}
