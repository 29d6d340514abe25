//! What each quota still allows, and what stands in its way.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{next_second, seconds};
use crate::config::{Config, ModelRule, Project};
use crate::engine::{BucketView, ProjectView};
use crate::gate::limits::{Scope, Window};
use crate::gate::units::UnixMs;
use crate::gate::verdict::LimitState;
use crate::store::LimitEvent;

/// The limits report: `tidegate limits --json`, `GET /api/v1/limits`. Times are UTC, to the
/// second; those at which something frees are rounded up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// Every bucket, in the engine's order.
    pub buckets: Vec<BucketOut>,
    /// Every project's health.
    pub projects: Vec<ProjectOut>,
}

/// One bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketOut {
    /// Whose.
    pub project: String,
    /// The first of `models`.
    pub model: String,
    /// The provider's own quota.
    pub quota_group: String,
    /// Every model that counts against it, as far as known.
    pub models: Vec<String>,
    /// Whether the next item goes.
    pub state: BucketState,
    /// Why it is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when at least; absent when it depends on the answer to one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Requests under way.
    pub in_flight: u32,
    /// Calls of clients that are held; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<usize>,
    /// Whether its limits are not known and are being found out.
    pub learning: bool,
    /// What somebody else uses of its quota, in per cent, as refusals show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others_percent: Option<u64>,
    /// Whether batch requests keep a distance from one another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paced: bool,
    /// Input tokens that answers took beyond their estimates since the daemon started; absent for
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_overrun_tokens: Option<u64>,
    /// Every limit; none for what is unlimited.
    pub limits: Vec<LimitOut>,
}

/// Whether the next item of a bucket goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketState {
    /// Whatever fits its limits goes.
    Open,
    /// Its next item waits.
    Waiting,
    /// The provider's no shuts it.
    Blocked,
    /// Open, with few requests at once: nobody knows its limits.
    Learning,
    /// Nothing of it is sent: a preset, the configuration or a user says so.
    Off,
}

/// One limit as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOut {
    /// `rpm`, `tpm` …, or what is counted for other windows.
    pub dimension: String,
    /// `60s` or `day:ZONE`.
    pub window: String,
    /// `key` for a limit that counts each key by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The key whose use this is, for such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether all models of the project count in it together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// At most this much; of `spend` in billionths of a US dollar.
    pub limit: u64,
    /// What of it is used at present, when that is less: others are in the way, or estimates have
    /// been short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable: Option<u64>,
    /// What the provider says that it allows, when that is more than a limit of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_allows: Option<u64>,
    /// What counts against it, `reserved` included.
    pub used: u64,
    /// Of that, what requests under way hold.
    pub reserved: u64,
    /// What is left.
    pub free: u64,
    /// What of it batches leave to interactive requests now; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_for_interactive: Option<u64>,
    /// When the next part of a rolling window frees; absent when nothing is known to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_free_at: Option<DateTime<Utc>>,
    /// When the quota day ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<DateTime<Utc>>,
    /// Who says so: `preset:NAME/TIER`, `learned`, `config` or `set`.
    pub source: String,
}

/// A project's health. What is absent is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectOut {
    /// Its name.
    pub project: String,
    /// Why its endpoint cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Why nothing of it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Keys that are set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys_aside: Vec<KeyAside>,
}

/// A key that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAside {
    /// Its name.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// The changes of a project's limits: `GET /api/v1/limits/history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// Whose.
    pub project: String,
    /// The newest first; at most 1,000.
    pub events: Vec<HistoryOut>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryOut {
    /// When.
    pub at: DateTime<Utc>,
    /// Of which quota group; `*` for what all models share.
    pub quota_group: String,
    /// `rpm`, `tpm` …
    pub dimension: String,
    /// What was in force; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What is said now; absent when it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub became: Option<String>,
    /// `learned` or `set`.
    pub source: String,
    /// The provider's quota, or the command.
    pub reason: String,
}

/// Makes the history of what the database has.
#[must_use]
pub fn history(project: &str, events: Vec<LimitEvent>, now: UnixMs) -> HistoryReport {
    let out = |event: LimitEvent| HistoryOut {
        at: seconds(event.at),
        quota_group: event.quota_group,
        dimension: event.dimension,
        was: event.was,
        became: event.became,
        source: event.source,
        reason: event.reason,
    };
    HistoryReport {
        generated_at: seconds(now),
        project: project.to_owned(),
        events: events.into_iter().map(out).collect(),
    }
}

impl LimitsReport {
    /// That of no bucket.
    #[must_use]
    pub fn none(now: UnixMs) -> Self {
        Self { generated_at: seconds(now), buckets: Vec::new(), projects: Vec::new() }
    }

    /// What of it concerns one project.
    #[must_use]
    pub fn of_project(mut self, name: &str) -> Self {
        self.buckets.retain(|bucket| bucket.project == name);
        self.projects.retain(|project| project.project == name);
        self
    }
}

/// Makes the report of the engine's views, with the zones and models that the configuration knows.
#[must_use]
pub fn limits(
    buckets: Vec<BucketView>,
    projects: Vec<ProjectView>,
    config: &Config,
    now: UnixMs,
) -> LimitsReport {
    let bucket = |view: BucketView| {
        let project = config.project(&view.project);
        bucket_out(view, project, now)
    };
    LimitsReport {
        generated_at: seconds(now),
        buckets: buckets.into_iter().map(bucket).collect(),
        projects: projects.into_iter().map(project_out).collect(),
    }
}

fn bucket_out(view: BucketView, project: Option<&Project>, now: UnixMs) -> BucketOut {
    let zone = project.map_or("unknown", |project| project.day.zone.as_str());
    let mut models = project.map(|project| models_of(project, &view.group)).unwrap_or_default();
    if models.is_empty() {
        // A learned group is named after its only model.
        models.push(view.group.clone());
    }
    let waits = view.wait.filter(|(until, _)| *until > now);
    let (state, hindrance) = match (view.off, view.blocked, waits) {
        // For as long as nobody says otherwise, which is no time.
        (Some(reason), ..) => (BucketState::Off, Some((UnixMs(0), reason))),
        (None, Some(blocked), _) => (BucketState::Blocked, Some(blocked)),
        (None, None, Some(wait)) => (BucketState::Waiting, Some(wait)),
        (None, None, None) if view.learning => (BucketState::Learning, None),
        (None, None, None) => (BucketState::Open, None),
    };
    let (until, reason) = hindrance.unzip();
    BucketOut {
        project: view.project,
        model: models[0].clone(),
        quota_group: view.group,
        models,
        state,
        reason,
        until: until.filter(|until| *until > now).map(next_second),
        in_flight: view.in_flight,
        held: Some(view.held).filter(|held| *held > 0),
        learning: view.learning,
        others_percent: view.others_permille.map(|permille| permille.div_ceil(10)),
        paced: view.paced,
        estimate_overrun_tokens: Some(view.overrun_tokens).filter(|tokens| *tokens > 0),
        limits: view.limits.iter().map(|state| named(state, zone, &view.keys)).collect(),
    }
}

/// The models of a project that count in a quota group, in the configuration's order.
fn models_of(project: &Project, group: &str) -> Vec<String> {
    let counts = |model: &&str| match project.allowance(model) {
        ModelRule::Known { quota_group, .. } => quota_group == group,
        ModelRule::Unknown => false,
    };
    project.known_models().into_iter().filter(counts).map(str::to_owned).collect()
}

/// A limit with the name of the key that it counts, if it counts one by itself.
fn named(state: &LimitState, zone: &str, keys: &[String]) -> LimitOut {
    let place = state.key.and_then(|key| usize::try_from(key.0).ok());
    let key = place.and_then(|place| keys.get(place).cloned());
    LimitOut { key, ..limit_out(state, zone) }
}

pub(super) fn limit_out(state: &LimitState, zone: &str) -> LimitOut {
    let LimitState { limit, used, reserved, free, .. } = state;
    let frees = state.next_free.map(next_second);
    let (window, next_free_at, resets_at) = match limit.window {
        Window::Rolling { ms } => (length(ms), frees, None),
        Window::Day => (format!("day:{zone}"), None, frees),
        Window::Concurrent => ("concurrent".to_owned(), frees, None),
    };
    LimitOut {
        dimension: limit.dimension().to_owned(),
        window,
        scope: match limit.scope {
            Scope::Project => None,
            Scope::Key => Some("key".to_owned()),
        },
        key: None,
        shared: state.shared,
        limit: limit.value,
        usable: (state.usable < limit.value).then_some(state.usable),
        provider_allows: state.provider_allows,
        used: *used,
        reserved: *reserved,
        free: *free,
        reserved_for_interactive: Some(state.reserve).filter(|reserve| *reserve > 0),
        next_free_at,
        resets_at,
        source: limit.source.to_string(),
    }
}

fn length(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn project_out(view: ProjectView) -> ProjectOut {
    let aside = |(key, reason)| KeyAside { key, reason };
    ProjectOut {
        project: view.name,
        unreachable: view.unreachable,
        held: view.held,
        keys_aside: view.keys_aside.into_iter().map(aside).collect(),
    }
}
