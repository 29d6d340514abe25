//! What holds a batch.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::batches::BatchOut;
use super::explain::{self, ExplainReport};
use super::text::{escaped, thousands};
use crate::store::BatchId;

/// The answer of `tidegate batches why ID`, `GET /api/v1/batches/ID/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    /// The batch as it stands.
    pub batch: BatchOut,
    /// The line of the item that this is about; absent when none is known to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Whether that item is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub under_way: bool,
    /// What keeps all of the batch.
    pub hindrances: Vec<String>,
    /// Where it may go.
    pub routes: Vec<RouteWhy>,
}

/// One of its projects and models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteWhy {
    /// Whose.
    pub project: String,
    /// The model.
    pub model: String,
    /// Whether it is taken only when the others are far off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// What the item needs and what is there, as admission sees it; absent without an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<ExplainReport>,
    /// The class in which it stands: 0 is the best; absent when it is not in the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// What its tenant was served here, in millionths of a limit, divided by its weight.
    pub tenant_service_ppm: u64,
    /// How many batches stand before it.
    pub batches_before: u64,
    /// Those, by their ids; the first 20.
    pub before: Vec<String>,
    /// Prompts that are left in all that stand before it.
    pub prompts_before: u64,
    /// Who waits for room here and keeps a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadOut>,
}

/// A prompt that keeps its place while others go past it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadOut {
    /// Its batch.
    pub batch: String,
    /// Its line.
    pub line: u64,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The line of an item in its file.
#[must_use]
pub fn line_of(item: i64) -> u64 {
    BatchId::line_of_item(item)
}

/// Sentences for people.
#[must_use]
pub fn text(report: &WhyReport) -> String {
    let mut lines = Vec::new();
    let batch = &report.batch;
    let state = &batch.state;
    lines.push(match report.line {
        Some(line) if report.under_way => format!("line {line} is under way"),
        Some(line) => format!("about line {line}, which waits"),
        None => format!("no item of it waits; the batch is {state}"),
    });
    lines.extend(report.hindrances.iter().cloned());
    for route in &report.routes {
        let which = if route.fallback { " (fallback)" } else { "" };
        lines.push(format!("{} of {}{which}:", route.model, route.project));
        if let Some(needs) = &route.needs {
            lines.extend(explain::text(needs).lines().map(|line| format!("  {line}")));
        }
        lines.push(match (route.level, route.batches_before) {
            (None, _) => "  it is not in the order now".to_owned(),
            (Some(level), 0) => format!("  first in the order, at level {level}"),
            (Some(level), before) => format!(
                "  {} batches with {} prompts stand before it, which is at level {level}",
                thousands(before),
                thousands(route.prompts_before)
            ),
        });
        if let Some(head) = &route.head {
            let since = head.since.format("%FT%TZ");
            let (line, id) = (head.line, &head.batch);
            lines.push(format!("  line {line} of {id} keeps its place since {since}"));
        }
    }
    if let Some(eta) = &batch.eta {
        let low = eta.low.map_or_else(|| "?".to_owned(), |at| at.format("%FT%TZ").to_string());
        lines.push(format!("expected to be done at {low}"));
    }
    lines.iter().map(|line| escaped(line) + "\n").collect()
}
