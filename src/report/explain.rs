//! What one request would need, and what is there: the numbers by which it would be started.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::limits::{LimitOut, limit_out};
use super::{next_second, seconds};
use crate::engine::Explained;
use crate::gate::units::{Metric, Now};
use crate::gate::verdict::{Requirement, Verdict};
use crate::gate::window::Holder;

/// The answer of `tidegate limits explain`, `GET /api/v1/limits/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// When this was so.
    pub generated_at: DateTime<Utc>,
    /// Whose.
    pub project: String,
    /// The model.
    pub model: String,
    /// `fits`, `waits` or `never`.
    pub verdict: String,
    /// Why it does not go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it goes at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The key that it would be sent with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Every limit that it takes something of.
    pub needs: Vec<NeedOut>,
}

/// One limit towards the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedOut {
    /// The limit as it stands.
    #[serde(flatten)]
    pub limit: LimitOut,
    /// What the request takes of it.
    pub needs: u64,
    /// When that is free; absent when it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_at: Option<DateTime<Utc>>,
    /// What leaves until then, in order; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<LeavingOut>,
}

/// Something that leaves a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingOut {
    /// When its place is free.
    pub at: DateTime<Utc>,
    /// How much.
    pub weight: u64,
    /// The attempt, by its number in the ledger; absent for somebody else's use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
}

/// Makes the report of what the engine says; `zone` is the project's.
#[must_use]
pub fn explain(project: &str, model: &str, zone: &str, explained: Explained) -> ExplainReport {
    let Explained { explanation, key, hindrance, now } = explained;
    let (verdict, wait) = match explanation.verdict {
        Verdict::Fits => ("fits", None),
        Verdict::Wait(wait) => ("waits", Some((now.wall_at(wait.until), wait.because.to_string()))),
        Verdict::Never(never) => ("never", Some((now.wall, never.to_string()))),
    };
    let never = verdict == "never";
    // Of quota and what is besides it, the wait that lasts longest.
    let wait = if never { wait } else { wait.into_iter().chain(hindrance).max() };
    let verdict = if !never && wait.is_some() { "waits" } else { verdict };
    let (until, reason) = wait.unzip();
    ExplainReport {
        generated_at: seconds(now.wall),
        project: project.to_owned(),
        model: model.to_owned(),
        verdict: verdict.to_owned(),
        reason,
        until: until.filter(|_| !never).map(next_second),
        key,
        needs: explanation.needs.iter().map(|need| need_out(need, zone, now)).collect(),
    }
}

fn need_out(need: &Requirement, zone: &str, now: Now) -> NeedOut {
    let at = |instant| next_second(now.wall_at(instant));
    let leaving = need.leaving.iter().map(|leaving| LeavingOut {
        at: at(leaving.at),
        weight: leaving.weight,
        attempt: match leaving.holder {
            Holder::Attempt(id) => Some(id.0),
            Holder::Phantom(_) => None,
        },
    });
    NeedOut {
        limit: limit_out(&need.state, zone),
        needs: need.needs,
        fits_at: need.fits_at.map(at),
        leaving: leaving.collect(),
    }
}

/// Sentences for people.
#[must_use]
pub fn text(report: &ExplainReport) -> String {
    let mut lines = Vec::new();
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let key = report.key.as_deref().map(|key| format!(" with key {key}")).unwrap_or_default();
    lines.push(match (report.verdict.as_str(), report.until, &report.reason) {
        ("fits", ..) => format!("it goes now{key}"),
        ("never", _, Some(reason)) => format!("it never goes: {reason}"),
        (_, Some(until), Some(reason)) => {
            format!("it waits until {} at least: {reason}", time(until))
        }
        (_, _, reason) => format!("it waits: {}", reason.as_deref().unwrap_or("no reason known")),
    });
    for need in &report.needs {
        let limit = &need.limit;
        let usable = limit.usable.unwrap_or(limit.limit);
        let amount = |value| amount(&limit.dimension, value);
        let mut line = format!(
            "{} ({}): needs {}, {} of {} free",
            limit.dimension,
            limit.window,
            amount(need.needs),
            amount(limit.free),
            amount(usable)
        );
        if let Some(kept) = limit.reserved_for_interactive {
            line += " (";
            line += &amount(kept);
            line += " kept for interactive)";
        }
        if let Some(at) = need.fits_at {
            line += "; fits at ";
            line += &time(at);
        }
        lines.push(line);
        for leaving in &need.leaving {
            let who = leaving
                .attempt
                .map_or_else(|| "somebody else's".to_owned(), |id| format!("attempt {id}"));
            lines.push(format!("  {} frees {} ({who})", time(leaving.at), amount(leaving.weight)));
        }
    }
    lines.iter().map(|line| super::text::escaped(line) + "\n").collect()
}

/// A number of a dimension for people: money in US dollars.
pub(super) fn amount(dimension: &str, value: u64) -> String {
    if dimension == Metric::Spend.as_str() {
        format!("${}", crate::config::dollars(value))
    } else {
        super::text::thousands(value)
    }
}
