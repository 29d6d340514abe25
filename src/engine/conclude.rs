//! What an answer means: for the ledger row, the item, the bucket, the key and the endpoint.

use bytes::Bytes;

use super::core::Engine;
use super::run::{fault_line, item_name};
use super::state::{Flight, Link, Settling};
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
}

impl Answer {
    /// The end of an attempt of which nothing was sent, for a reason on this side.
    fn not_sent(key: String, reason: String) -> Self {
        let report = Report {
            outcome: Outcome::NotSent { reason, kind: NotSentKind::Other },
            status: None,
            date_header: None,
            service_tier: None,
            request_id: None,
            body_sent: false,
        };
        Self { key, report, line: None, latency_ms: 0 }
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
        flight: &Flight,
        answer: Answer,
    ) -> Conclusion {
        let fate = match &answer.report.outcome {
            Outcome::Answered { blocked, .. } => {
                self.key_went_well(id, flight, now);
                self.answered(now, flight, blocked.is_some())
            }
            Outcome::Refused(refusal) => self.refused(now, id, flight, refusal),
            Outcome::NotSent { reason, kind } => {
                let what = match kind {
                    NotSentKind::Connect | NotSentKind::Dns | NotSentKind::Tls => {
                        "the endpoint cannot be reached"
                    }
                    NotSentKind::Other => "the request cannot be sent",
                };
                self.not_sent(now, id, flight, &format!("{what}: {reason}"))
            }
            Outcome::Unknown { reason } => self.unknown(now, flight, reason),
        };
        self.write_up(now, id, flight, fate, answer)
    }

    /// The item's line could not be read, so nothing was sent: it is tried again later, unless the
    /// line is lost.
    pub(super) fn unreadable(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        Unread { key, reason, lost }: Unread,
    ) -> Conclusion {
        let not_before = now.wall.plus(caps::UNREADABLE_RETRY_MS);
        let fate = Fate {
            end: AttemptEnd::Aborted,
            state: if lost { ItemState::Failed } else { ItemState::Queued },
            item: QueuedItem { not_before, ..flight.item.clone() },
            keeps_place: false,
            error: Some(Problem::of(500, "INTERNAL", reason.clone())),
        };
        self.write_up(now, id, flight, fate, Answer::not_sent(key, reason))
    }

    /// The permit was too old to keep the distance to others: nothing was sent, and the item is
    /// reserved anew.
    pub(super) fn stale(&mut self, now: Now, id: AttemptId, flight: &Flight) -> Conclusion {
        let reason = "its permit was too old when it was to be sent".to_owned();
        let fate = Fate {
            end: AttemptEnd::Aborted,
            state: ItemState::Queued,
            item: flight.item.clone(),
            keeps_place: true,
            error: Some(Problem::of(503, "UNAVAILABLE", reason.clone())),
        };
        self.write_up(now, id, flight, fate, Answer::not_sent(String::new(), reason))
    }

    /// Turns what was decided into what is written, and settles the books in memory.
    fn write_up(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        fate: Fate,
        answer: Answer,
    ) -> Conclusion {
        let Answer { key, report, line, latency_ms } = answer;
        if let Some(date) = report.date_header {
            let sent = now.wall.minus(latency_ms);
            self.hear_clock(flight.project, (sent, now.wall, date), now);
        }
        let mut act = actual(flight.est, &report.outcome, fate.end);
        if let Outcome::Answered { usage: Some(usage), .. } = &report.outcome {
            let model = flight.model.clone();
            act.spend_nanos = self.spent(flight.project, &model, usage, now, act.spend_nanos);
            let text = flight.item.text;
            let input_tokens = input_of(usage);
            if let Some(lane) = self.lanes.get_mut(&flight.bucket) {
                lane.delays.used(flight.est.input_tokens, input_tokens);
            }
            if let Some(text) = text.filter(|_| usage.prompt > 0) {
                self.observe(&Observation { model, text, input_tokens });
            }
        }
        if matches!(fate.end, AttemptEnd::Ok) && self.gate.unblock(id) {
            self.memorise(flight.bucket, now, Vec::new());
        }
        let (u_boot, day_hi) = if fate.end == AttemptEnd::Aborted {
            self.gate.void(id);
            self.give_retry_back(flight);
            (now.boot, None)
        } else {
            let (u, charge) = self.gate.settle(id, act, now).expect("a flight is in the gate");
            (u, Some(charge.hi.max(flight.day_lo).to_string()))
        };
        self.uncharge(flight.batch, flight.bucket, (&flight.est, &act));
        if let Some(job) = self.jobs.get_mut(&flight.batch) {
            job.open_nanos -= flight.est.spend_nanos;
            job.setup.spent_nanos = job.setup.spent_nanos.saturating_add(act.spend_nanos);
        }
        let error = fate.error.as_ref().map(|problem| problem.message.clone());
        let line = match fate.state {
            ItemState::Succeeded | ItemState::Blocked => line,
            ItemState::Failed => self.fault(flight, fate.error.as_ref(), &key),
            ItemState::Queued | ItemState::Cancelled | ItemState::Held => None,
        };
        let attempt = EndedAttempt {
            id,
            end: fate.end,
            u_wall: now.wall_at(u_boot),
            u_boot,
            day_hi: day_hi.unwrap_or_else(|| self.last_day(flight, now)),
            act,
            tokens: tokens(&report.outcome),
            http_status: report.status,
            quota_id: quota_id(&report.outcome),
            service_tier: report.service_tier,
            error,
            latency_ms: (fate.end != AttemptEnd::Aborted).then_some(latency_ms),
        };
        let item = ItemUpdate {
            id: flight.item.id,
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
                batch: flight.batch,
                item: fate.item,
                state: fate.state,
                keeps_place: fate.keeps_place,
            },
        }
    }

    /// The results line of an item that failed.
    fn fault(&self, flight: &Flight, problem: Option<&Problem>, key: &str) -> Option<String> {
        let setup = &self.jobs.get(&flight.batch)?.setup;
        let name = item_name(&setup.work, BatchId::line_of_item(flight.item.id));
        Some(problem?.line(setup.form.answers, key, &name))
    }

    fn answered(&mut self, now: Now, flight: &Flight, blocked: bool) -> Fate {
        let lane = self.lanes.get_mut(&flight.bucket).expect("a flight has a lane");
        lane.unexplained = 0;
        (lane.server_errors, lane.outages) = (0, 0);
        lane.budget.earn();
        let project = self.projects.get_mut(&flight.project).expect("a flight has a project");
        lane.went_well(project.pace.max_in_flight);
        project.held = project.held.take().filter(|(until, _)| *until > now.boot);
        Fate {
            end: AttemptEnd::Ok,
            state: if blocked { ItemState::Blocked } else { ItemState::Succeeded },
            item: flight.item.clone(),
            keeps_place: false,
            error: None,
        }
    }

    fn refused(&mut self, now: Now, id: AttemptId, flight: &Flight, refusal: &Refusal) -> Fate {
        match refusal.class {
            RefusalClass::Throttled(kind) => {
                // By the limits before this refusal teaches others: it went alone, or it did not.
                let too_large = self.is_too_large(flight, refusal);
                self.throttled(now, (id, flight), refusal, kind);
                if too_large {
                    return Fate { end: AttemptEnd::Throttled, ..failed(flight, refusal) };
                }
                Fate { end: AttemptEnd::Throttled, ..back_in_place(flight, refusal) }
            }
            RefusalClass::KeyRefused => {
                self.set_key_aside(now, flight, refusal);
                back_in_place(flight, refusal)
            }
            RefusalClass::Billing => {
                let project =
                    self.projects.get_mut(&flight.project).expect("a flight has a project");
                let until = now.boot.plus(caps::BILLING_HOLD_MS);
                project.held = Some((until, format!("billing: {}", refusal.message)));
                back_in_place(flight, refusal)
            }
            RefusalClass::Server => self.server_error(now, id, flight, refusal),
            RefusalClass::ModelNotFound | RefusalClass::Forbidden => {
                self.hopeless(flight, refusal);
                failed(flight, refusal)
            }
            RefusalClass::BadRequest | RefusalClass::Other => failed(flight, refusal),
        }
    }

    /// Whether the provider refused the prompt for its own size: it was sent with the whole token
    /// limit to itself, and still the tokens were too many. Waiting will not make it fit.
    fn is_too_large(&self, flight: &Flight, refusal: &Refusal) -> bool {
        let tokens = |quota: &QuotaViolation| quota.subject == QuotaSubject::InputTokens;
        refusal.quota.iter().any(tokens)
            && self.gate.takes_all(flight.bucket, Metric::InputTokens, flight.est.input_tokens)
    }

    /// The provider is in trouble: the item waits, ever longer. Where one after another is answered
    /// so, the bucket is shut and one goes first; that one is not given up for it.
    fn server_error(
        &mut self,
        now: Now,
        id: AttemptId,
        flight: &Flight,
        refusal: &Refusal,
    ) -> Fate {
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
        let mut item = flight.item.clone();
        item.attempts += 1;
        let wait = match after_server_error(item.attempts) {
            ServerError::GiveUp
                if tries_the_provider && item.attempts < caps::OUTAGE_ATTEMPTS_MAX =>
            {
                caps::PARKED_MAX_MS
            }
            ServerError::GiveUp => return Fate { item, ..failed(flight, refusal) },
            ServerError::Backoff { at_most_ms } => self.rng.u64(0..=at_most_ms),
            ServerError::Park { ms } => ms,
        };
        let wait = wait.max(refusal.retry_delay_ms.unwrap_or(0)).min(caps::PARKED_MAX_MS);
        item.not_before = now.wall.plus(wait);
        Fate { item, keeps_place: false, ..back_in_place(flight, refusal) }
    }

    /// Fails the rest of a batch that the provider will never answer.
    fn hopeless(&mut self, flight: &Flight, refusal: &Refusal) {
        let Some(job) = self.jobs.get_mut(&flight.batch) else { return };
        job.hopeless += 1;
        let being_written = |settling: &Settling| {
            let good = matches!(settling.state, ItemState::Succeeded | ItemState::Blocked);
            settling.batch == flight.batch && good
        };
        let answered = job.setup.answered > 0 || self.settling.values().any(being_written);
        if job.hopeless >= caps::HOPELESS_ANSWERS && !answered {
            let reason = format!(
                "not sent: {} items were answered {} and none was answered well: {}",
                job.hopeless, refusal.status, refusal.message
            );
            self.stop(flight.batch, reason, false);
        }
    }

    fn not_sent(&mut self, now: Now, id: AttemptId, flight: &Flight, reason: &str) -> Fate {
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
        Fate {
            end: AttemptEnd::Aborted,
            state: ItemState::Queued,
            item: flight.item.clone(),
            keeps_place: true,
            error: Some(Problem::of(503, "UNAVAILABLE", reason.to_owned())),
        }
    }

    fn unknown(&mut self, now: Now, flight: &Flight, reason: &str) -> Fate {
        let mut item = flight.item.clone();
        item.doubts += 1;
        let policy = self.jobs.get(&flight.batch).map_or(InDoubt::Retry, |job| job.setup.in_doubt);
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

fn back_in_place(flight: &Flight, refusal: &Refusal) -> Fate {
    Fate {
        end: AttemptEnd::Failed,
        state: ItemState::Queued,
        item: QueuedItem { not_before: UnixMs(0), ..flight.item.clone() },
        keeps_place: true,
        error: Some(problem(refusal)),
    }
}

fn failed(flight: &Flight, refusal: &Refusal) -> Fate {
    Fate {
        end: AttemptEnd::Failed,
        state: ItemState::Failed,
        item: flight.item.clone(),
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
        Outcome::Answered { usage, images, .. } => Weights {
            requests: est.requests,
            input_tokens: usage.as_ref().map_or(est.input_tokens, input_of),
            images: *images,
            ..est
        },
        // What is refused may be counted, but nobody pays for it.
        Outcome::Refused(_) => Weights { spend_nanos: 0, ..est },
        Outcome::NotSent { .. } | Outcome::Unknown { .. } => est,
    }
}

/// What counts as input: the prompt, and what the provider's own tools added to it.
fn input_of(usage: &Usage) -> u64 {
    usage.prompt.saturating_add(usage.tool_use_prompt)
}

fn tokens(outcome: &Outcome) -> Tokens {
    match outcome {
        Outcome::Answered { usage: Some(usage), .. } => Tokens {
            prompt: usage.prompt,
            cached: usage.cached,
            output: usage.candidates,
            thought: usage.thoughts,
            tool: usage.tool_use_prompt,
            total: usage.total,
            raw: usage.raw.clone(),
        },
        Outcome::Answered { usage: None, .. }
        | Outcome::Refused(_)
        | Outcome::NotSent { .. }
        | Outcome::Unknown { .. } => Tokens::default(),
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
