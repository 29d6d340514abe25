//! Where each batch stands.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::text::{escaped, thousands};
use super::{next_second, seconds};
use crate::config::prices::PicoUsd;
use crate::engine::eta::{Eta, Summary};
use crate::formats::{BatchPace, Priority};
use crate::gate::units::UnixMs;
use crate::store::Batch;

/// A list of batches, newest first: `tidegate batches --json`, `GET /api/v1/batches`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchesReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// The batches.
    pub batches: Vec<BatchOut>,
}

/// One batch: `tidegate batches show ID --json`, `GET /api/v1/batches/ID`. Times are UTC, to the
/// second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOut {
    /// Its id, a UUID.
    pub id: String,
    /// The name of its outputs.
    pub name: String,
    /// The name of the dropped file.
    pub file: String,
    /// Whose quota it spends.
    pub project: String,
    /// The model.
    pub model: String,
    /// Who fairness is between.
    pub tenant: String,
    /// `high`, `normal` or `low`.
    pub priority: String,
    /// `importing`, `open`, `done`, `failed`, `cancelled` or `rejected`.
    pub state: String,
    /// How many items it has; 0 while it is being imported.
    pub items: u64,
    /// Of those, answered.
    pub succeeded: u64,
    /// Of those, refused for good.
    pub failed: u64,
    /// Of those, cancelled.
    pub cancelled: u64,
    /// Of those, answered with a refusal or cut off by a filter.
    #[serde(default)]
    pub blocked: u64,
    /// Of those, not at their end: waiting, held or under way.
    pub queued: u64,
    /// What becomes of an item whose answer was lost: `retry`, `hold` or `fail`.
    pub in_doubt: String,
    /// When it was accepted.
    pub submitted_at: DateTime<Utc>,
    /// When its results were complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// The file of its results, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<String>,
    /// Nothing of it is sent before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// When it should be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// What it may cost at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<PicoUsd>,
    /// What its attempts came to, where it may cost only so much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_usd: Option<PicoUsd>,
    /// The pool of routes that its items may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Models that are tried when the first choice is far off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// `spread` when it is spread over the time until its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<String>,
    /// Why a user holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Why the items that were queued are not sent any more, or its file was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Until when its next item waits at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<DateTime<Utc>>,
    /// Why its next item waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is expected to be done; absent before the first forecast and when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<EtaOut>,
    /// What holds it up by that forecast, or why it does not go at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binds: Option<String>,
    /// By how many seconds it is expected to miss its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses_deadline_by_s: Option<u64>,
    /// How often the same file was dropped again while it was open.
    pub dropped_again: u64,
}

/// When a batch is expected to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtaOut {
    /// If answers come as they do; absent when that is not to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<DateTime<Utc>>,
    /// If they take twice as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<DateTime<Utc>>,
    /// Whether that lies beyond what was simulated.
    pub extrapolated: bool,
}

/// The whole queue in a line, such as `12,345 prompts wait in 3 batches; next rpm at 12:03:07 UTC;
/// done by Mon 14:10 UTC; 0 throttled`.
#[must_use]
pub fn queue_line(summary: &Summary) -> String {
    let prompts = thousands(summary.prompts);
    let next = summary.next.as_ref().map(|(at, what)| {
        format!("next {} at {}", escaped(what), at.to_utc().format("%H:%M:%S UTC"))
    });
    let done = summary.done.map(|at| format!("done by {}", at.to_utc().format("%a %H:%M UTC")));
    let parts = [
        Some(format!("{prompts} prompts wait in {} batches", summary.batches)),
        next,
        done,
        Some(format!("{} throttled", summary.throttled)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What was put back: `POST /api/v1/batches/ID/retry`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOut {
    /// The batch in which the items are tried again: a new one when the old one is over.
    pub id: String,
    /// The batch whose items they are.
    pub of: String,
    /// How many.
    pub items: u64,
}

/// What was submitted: `tidegate submit --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedReport {
    /// In the order of the command line.
    pub batches: Vec<SubmittedOut>,
}

/// One submitted file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittedOut {
    /// The id of its batch.
    pub id: String,
    /// What it is called.
    pub file: String,
    /// As that of a batch, or `incoming`: it waits in that directory for a daemon.
    pub state: String,
}

/// What a run came to: `tidegate run --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// In the order of the command line.
    pub batches: Vec<BatchOut>,
}

impl BatchesReport {
    /// The list of batches that stand as `batches` say.
    #[must_use]
    pub fn new(batches: Vec<BatchOut>, now: UnixMs) -> Self {
        Self { generated_at: seconds(now), batches }
    }
}

impl BatchOut {
    /// Whether nothing more becomes of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "importing" | "open")
    }

    /// How many of its items have come to their end.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.items.saturating_sub(self.queued)
    }

    /// The same with what is expected of it.
    #[must_use]
    pub fn with_eta(self, eta: Option<Eta>) -> Self {
        let Some(eta) = eta else { return self };
        let (low, high) = (eta.low.map(next_second), eta.high.map(next_second));
        let extrapolated = eta.extrapolated;
        let times = EtaOut { low, high, extrapolated };
        Self {
            eta: Some(times).filter(|eta| eta.low.is_some() || eta.high.is_some()),
            binds: eta.binds,
            misses_deadline_by_s: eta.misses_deadline_by_s,
            ..self
        }
    }

    /// A batch as users see it: `wait` is until when and why its next item waits (see
    /// [`Engine::why`](crate::engine::Engine::why)), `results` where its results are, if they are
    /// there.
    #[must_use]
    pub fn new(batch: &Batch, wait: Option<(UnixMs, String)>, results: Option<&Path>) -> Self {
        let ended = batch.ended();
        let priority = match batch.priority {
            0 => Priority::High,
            2 => Priority::Low,
            _ => Priority::Normal,
        };
        let (until, reason) = wait.unzip();
        Self {
            id: batch.uid.clone(),
            name: batch.out_name.clone(),
            file: batch.file_name.clone(),
            project: batch.project.clone(),
            model: batch.model.clone(),
            tenant: batch.tenant.clone(),
            priority: priority.as_str().to_owned(),
            state: batch.state.as_str().to_owned(),
            items: batch.items,
            succeeded: batch.succeeded,
            failed: batch.failed,
            cancelled: batch.cancelled,
            blocked: batch.blocked,
            queued: batch.items.saturating_sub(ended),
            in_doubt: batch.in_doubt.clone(),
            submitted_at: seconds(batch.submitted_at),
            finished_at: batch.finished_at.map(seconds),
            results: results.map(|path| path.to_string_lossy().into_owned()),
            not_before: batch.not_before.map(next_second),
            deadline: batch.deadline.map(next_second),
            max_cost_usd: batch.max_cost_nanos.map(dollars),
            spent_usd: batch.max_cost_nanos.map(|_| dollars(batch.spent_nanos)),
            pool: batch.pool.clone(),
            fallback: batch.fallback.clone(),
            pace: (batch.pace != BatchPace::Asap.as_str()).then(|| batch.pace.clone()),
            paused: batch.paused.clone(),
            stopped: batch.stopped.clone(),
            waiting_until: until.map(next_second),
            reason,
            eta: None,
            binds: None,
            misses_deadline_by_s: None,
            dropped_again: batch.dropped_again,
        }
    }
}

fn dollars(nanos: u64) -> PicoUsd {
    PicoUsd(u128::from(nanos) * 1_000)
}
