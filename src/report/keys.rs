//! The keys of each project: where each is from, its own use, its health, and the one budget that
//! they share. Names only, never a key.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::limits::LimitsReport;
use super::query::UsageQuery;
use super::usage::{Terms, usage};
use super::{next_second, seconds};
use crate::config::prices::Prices;
use crate::config::{AbsentKey, Config, Key};
use crate::engine::KeyView;
use crate::gate::units::Now;
use crate::store::{GroupBy, Reader, StoreError};

/// The keys report: `tidegate keys --json`, `GET /api/v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// Every key, by project in the configuration's order.
    pub keys: Vec<KeyOut>,
    /// What the keys of each project share.
    pub budgets: Vec<Budget>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOut {
    /// Whose.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Where it is from: `env NAME`, `file PATH` or `imported`.
    pub source: String,
    /// Whether it is used.
    pub state: KeyHealth,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Requests that were sent with it this quota day.
    pub attempts: u64,
    /// Input tokens of these.
    pub input_tokens: u64,
    /// Requests that were sent with it in the last minute.
    pub last_minute_requests: u64,
    /// Input tokens of these.
    pub last_minute_input_tokens: u64,
}

/// Whether a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyHealth {
    /// When its turn comes.
    Ok,
    /// Set aside: the provider refused it.
    Aside,
    /// A user took it out of use.
    Disabled,
    /// It is not to be had here.
    Missing,
}

/// What the keys of a project share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Whose.
    pub project: String,
    /// How many keys share it.
    pub keys: usize,
    /// The limits of the project of which something is used.
    pub limits: Vec<BudgetLimit>,
}

/// A limit that counts all keys together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimit {
    /// Of which model; `*` for what all models share.
    pub model: String,
    /// `rpm`, `tpm` …
    pub dimension: String,
    /// At most this much; of `spend` in billionths of a US dollar.
    pub limit: u64,
    /// What all keys used of it together.
    pub used: u64,
    /// What is left.
    pub free: u64,
}

/// Makes the report: health as the engine sees it, use as the ledger has it. Without a ledger
/// nothing was used.
///
/// # Errors
/// When the database fails or contradicts itself.
pub async fn keys(
    reader: Option<&Reader>,
    views: &[KeyView],
    limits: &LimitsReport,
    (config, terms): (&Config, &Terms),
    now: Now,
) -> Result<KeysReport, StoreError> {
    let mut keys = Vec::new();
    let mut budgets = Vec::new();
    for project in &config.projects {
        let used = match reader {
            Some(reader) => used(reader, &project.name, terms, now).await?,
            None => BTreeMap::new(),
        };
        for key in &project.keys {
            let view =
                views.iter().find(|view| view.project == project.name && view.name == key.name);
            keys.push(key_out(&project.name, key, view, used.get(&key.name)));
        }
        let absent = project.absent_keys.iter();
        keys.extend(absent.map(|key| absent_out(&project.name, key, used.get(&key.name))));
        budgets.push(Budget {
            project: project.name.clone(),
            keys: project.keys.len() + project.absent_keys.len(),
            limits: budget(limits, &project.name),
        });
    }
    Ok(KeysReport { generated_at: seconds(now.wall), keys, budgets })
}

/// Requests and tokens of the quota day, and of the last minute.
type Used = [u64; 4];

/// What was used of a project today, by key.
async fn used(
    reader: &Reader,
    project: &str,
    terms: &Terms,
    now: Now,
) -> Result<BTreeMap<String, Used>, StoreError> {
    let by = GroupBy { key: true, ..GroupBy::default() };
    let query = UsageQuery { by, project: Some(project.to_owned()), ..UsageQuery::TODAY };
    let report = usage(reader, &query, terms, Prices::shipped(), now).await?;
    let rows = report.rows.into_iter().filter_map(|row| {
        let minute = row.last_minute.map_or([0, 0], |it| [it.requests, it.input_tokens]);
        Some((row.key?, [row.attempts, row.input_tokens, minute[0], minute[1]]))
    });
    Ok(rows.collect())
}

fn key_out(project: &str, key: &Key, view: Option<&KeyView>, used: Option<&Used>) -> KeyOut {
    let [attempts, input_tokens, requests, tokens] = used.copied().unwrap_or_default();
    let disabled = view.is_some_and(|view| view.disabled);
    let aside = view.and_then(|view| view.aside.clone());
    let state = match (disabled, &aside) {
        (true, _) => KeyHealth::Disabled,
        (false, Some(_)) => KeyHealth::Aside,
        (false, None) => KeyHealth::Ok,
    };
    let (until, reason) = aside.unzip();
    KeyOut {
        project: project.to_owned(),
        name: key.name.clone(),
        source: key.origin.in_short(),
        state,
        reason,
        until: until.map(next_second),
        attempts,
        input_tokens,
        last_minute_requests: requests,
        last_minute_input_tokens: tokens,
    }
}

fn absent_out(project: &str, key: &AbsentKey, used: Option<&Used>) -> KeyOut {
    let [attempts, input_tokens, requests, tokens] = used.copied().unwrap_or_default();
    KeyOut {
        project: project.to_owned(),
        name: key.name.clone(),
        source: key.origin.in_short(),
        state: KeyHealth::Missing,
        reason: Some(key.why.clone()),
        until: None,
        attempts,
        input_tokens,
        last_minute_requests: requests,
        last_minute_input_tokens: tokens,
    }
}

/// What is used of a project's limits; each of those that all models share once.
fn budget(report: &LimitsReport, project: &str) -> Vec<BudgetLimit> {
    let mut limits: Vec<BudgetLimit> = Vec::new();
    for bucket in report.buckets.iter().filter(|bucket| bucket.project == project) {
        for limit in bucket.limits.iter().filter(|limit| limit.scope.is_none() && limit.used > 0) {
            let model = if limit.shared { "*" } else { &bucket.model };
            let line = BudgetLimit {
                model: model.to_owned(),
                dimension: limit.dimension.clone(),
                limit: limit.limit,
                used: limit.used,
                free: limit.free,
            };
            if !limits.contains(&line) {
                limits.push(line);
            }
        }
    }
    limits
}
