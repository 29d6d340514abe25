//! When files that nobody has submitted would be done, and what would hold them up.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{next_second, seconds};
use crate::config::prices::{Amounts, PicoUsd, Prices, cost};
use crate::config::{Config, Project};
use crate::engine::dropped::priority_of;
use crate::engine::outlook::{Band, Means, Planned, Rest};
use crate::engine::routes::Wish;
use crate::engine::{Engine, RouteTo};
use crate::formats::{BatchOptions, BatchPace, Priority};
use crate::gate::admit::BucketId;
use crate::gate::units::{Now, UnixMs};
use crate::schedule::LineId;
use crate::schedule::forecast::{Forecast, Phase, STARTS_MOST, Snapshot};
use crate::store::{QueuedItem, Reader, StoreError, TextWeight};

/// Stretches that a report tells of each batch.
const PHASES_TOLD: usize = 200;

/// What `POST /api/v1/plan` takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanBody {
    /// As if the projects were on this tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The files.
    pub batches: Vec<PlanFile>,
}

/// One job file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// What to call it.
    pub file: String,
    /// Its options.
    #[serde(default)]
    pub options: BatchOptions,
    /// Its prompts in order.
    pub prompts: Vec<PromptRun>,
    /// What comes after them, in groups.
    #[serde(default)]
    pub means: Vec<PromptRun>,
    /// Lines that cannot be prompts, and what is wrong with the first.
    #[serde(default)]
    pub bad_lines: u64,
    /// See `bad_lines`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad_line: Option<String>,
}

/// Prompts that weigh the same: how many, input tokens, images, the most output tokens, and what
/// the input tokens are estimated from (bytes of text, tokens beside it, kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PromptRun(pub u64, pub u64, pub u64, pub Option<u64>, pub Option<(u64, u64, i64)>);

/// The answer of `tidegate plan --json`, `POST /api/v1/plan`. Times are UTC, to the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// When it was made.
    pub generated_at: DateTime<Utc>,
    /// The tier that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The files, in order.
    pub batches: Vec<PlanOut>,
    /// Open batches that are there already.
    pub queue_batches: u64,
    /// Their prompts that are to be sent.
    pub queue_prompts: u64,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOut {
    /// The file.
    pub file: String,
    /// Whose quota it would spend first.
    pub project: String,
    /// The model.
    pub model: String,
    /// The tier of the project.
    pub tier: String,
    /// `high`, `normal` or `low`.
    pub priority: String,
    /// The zone of the project's quota day.
    pub zone: String,
    /// Lines that cannot be prompts.
    pub bad_lines: u64,
    /// What is wrong with the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad_line: Option<String>,
    /// Requests that it takes.
    pub requests: u64,
    /// Input tokens that would be reserved.
    pub input_tokens: u64,
    /// The most output tokens; absent where a prompt does not bound them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u64>,
    /// What would be reserved of money; absent when no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<PicoUsd>,
    /// When its first prompt goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// When it is done, if answers come as they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_low: Option<DateTime<Utc>>,
    /// When it is done, if they take twice as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_high: Option<DateTime<Utc>>,
    /// Whether that lies beyond what was simulated.
    pub extrapolated: bool,
    /// When it would be done without the batches that are there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_alone: Option<DateTime<Utc>>,
    /// By how much its deadline would be missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses_deadline_by_s: Option<u64>,
    /// Prompts that can never be sent, as far as was simulated.
    pub never: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_because: Option<String>,
    /// Why what is left does not go at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands: Option<String>,
    /// What binds, from when until when; the first 200 stretches.
    pub phases: Vec<PhaseOut>,
    /// What all batches together send of its first bucket, by quota day; as far as was simulated.
    pub days: Vec<DayOut>,
}

/// A stretch in which the same thing binds, for the most part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseOut {
    /// From when.
    pub from: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
    /// `rpm`, `tpm`, `rpd` …, or in words.
    pub binds: String,
    /// Whose.
    pub project: String,
    /// Of which of its quotas.
    pub quota_group: String,
    /// Prompts of the batch that wait meanwhile, where nothing goes for two minutes or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
}

/// One quota day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayOut {
    /// Its end.
    pub until: DateTime<Utc>,
    /// Requests.
    pub requests: u64,
    /// Input tokens.
    pub input_tokens: u64,
}

/// What keeps a plan from being made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file cannot be had as it asks.
    #[error("{file}: {reason}")]
    File {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// The tier is not one of the project's.
    #[error("project {project} has no tier {tier}: it may be on {known}")]
    Tier {
        /// Which project.
        project: String,
        /// The tier.
        tier: String,
        /// Its tiers.
        known: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The forecast did not come to its end.
    #[error("the forecast broke off")]
    Broken,
}

/// A file's place in the forecast.
struct Asked {
    out: PlanOut,
    line: LineId,
    bucket: BucketId,
    deadline: Option<UnixMs>,
}

/// Makes a plan from a copy of the engine.
///
/// # Errors
/// When a file asks for what cannot be had, or the database fails.
pub async fn plan(
    mut engine: Engine,
    reader: &Reader,
    config: &Config,
    body: PlanBody,
    now: Now,
) -> Result<PlanReport, PlanError> {
    let config = match &body.tier {
        Some(tier) => with_tier(config, tier, &body, &mut engine, now)?,
        None => config.clone(),
    };
    let mut rests = engine.rests(reader, &mut Means::new()).await?;
    let before: BTreeSet<LineId> = engine.open_batches().map(|id| LineId(id.0)).collect();
    let mut asked = Vec::new();
    for file in body.batches {
        let (planned, out, deadline) = read_file(file, &config, &mut engine, now)?;
        let bucket = planned.routes[0].bucket;
        let (batch, rest) = engine.add_planned(planned, now);
        rests.insert(batch, rest);
        asked.push(Asked { out, line: LineId(batch.0), bucket, deadline });
    }
    let names = engine.bucket_names();
    let work = move || {
        let snapshot = engine.snapshot(&rests, now);
        forecasts(snapshot, &before)
    };
    let forecasts = tokio::task::spawn_blocking(work).await.map_err(|_| PlanError::Broken)?;
    let batches = asked.into_iter().map(|asked| answer(asked, &forecasts, &names)).collect();
    Ok(PlanReport {
        generated_at: seconds(now.wall),
        tier: body.tier,
        batches,
        queue_batches: forecasts.queue_batches,
        queue_prompts: forecasts.queue_prompts,
    })
}

/// The forecasts, and what they began with.
struct Forecasts {
    snapshot: Snapshot,
    band: Band,
    /// Without what is there already.
    alone: Option<Forecast>,
    queue_batches: u64,
    queue_prompts: u64,
}

fn forecasts(snapshot: Snapshot, before: &BTreeSet<LineId>) -> Forecasts {
    let queue = || snapshot.lines.iter().filter(|(line, _)| before.contains(line));
    let queue_prompts: u64 = queue().map(|(_, pending)| pending.prompts()).sum();
    let queue_batches = queue().filter(|(_, pending)| pending.prompts() > 0).count();
    let alone = (queue_prompts > 0).then(|| {
        let mut alone = snapshot.clone();
        alone.lines.retain(|line, _| !before.contains(line));
        Forecast::of(alone, STARTS_MOST)
    });
    Forecasts {
        band: Band::of(snapshot.clone()),
        alone,
        queue_batches: u64::try_from(queue_batches).unwrap_or(u64::MAX),
        queue_prompts,
        snapshot,
    }
}

/// The configuration with the projects of the files on another tier, which the copy takes up.
fn with_tier(
    config: &Config,
    tier: &str,
    body: &PlanBody,
    engine: &mut Engine,
    now: Now,
) -> Result<Config, PlanError> {
    let mut config = config.clone();
    let wishes = body.batches.iter().filter_map(|file| Wish::of(&file.options, &config).ok());
    let used: BTreeSet<_> =
        wishes.flat_map(|wish| wish.models()).map(|(project, _)| project).collect();
    for project in config.projects.iter_mut().filter(|project| used.contains(&project.name)) {
        set_tier(project, tier)?;
        engine.try_limits(project, now);
    }
    Ok(config)
}

/// Puts a project on another tier.
///
/// # Errors
/// When it is none of the preset's.
pub fn set_tier(project: &mut Project, tier: &str) -> Result<(), PlanError> {
    let known = project.preset.map(|preset| preset.tiers.as_slice()).unwrap_or_default();
    if !known.is_empty() && !known.iter().any(|known| known == tier) {
        return Err(PlanError::Tier {
            project: project.name.clone(),
            tier: tier.to_owned(),
            known: known.join(", "),
        });
    }
    tier.clone_into(&mut project.tier);
    Ok(())
}

fn read_file(
    file: PlanFile,
    config: &Config,
    engine: &mut Engine,
    now: Now,
) -> Result<(Planned, PlanOut, Option<UnixMs>), PlanError> {
    let name = file.file.clone();
    let refused = |reason: String| PlanError::File { file: name.clone(), reason };
    let options = &file.options;
    let wish = Wish::of(options, config).map_err(refused)?;
    let mut routes = Vec::new();
    let mut why_not = None;
    for (route, fallback) in wish.all() {
        let Some(project) = config.project(&route.project) else { continue };
        match engine.bucket_for(project, &route.model, now) {
            Ok((id, bucket)) => {
                routes.push(RouteTo { project: id, bucket, model: route.model, fallback });
            }
            Err(why) => {
                why_not.get_or_insert(why);
            }
        }
    }
    let first = wish.first.first().filter(|_| routes.iter().any(|route| !route.fallback));
    let project = first.and_then(|first| config.project(&first.project));
    let (Some(project), Some(first)) = (project, first) else {
        let why = why_not.unwrap_or_else(|| "it may go nowhere".to_owned());
        return Err(PlanError::File { file: file.file, reason: why });
    };
    let deadline = options.deadline.map(UnixMs::from);
    let out = facts(&file, project, &first.model, now);
    let prompts = Rest {
        exact: file.prompts.iter().map(PromptRun::item).collect(),
        means: file.means.iter().map(PromptRun::item).collect(),
    };
    let planned = Planned {
        routes,
        tenant: options.tenant.clone().unwrap_or_default(),
        priority: priority_of(options),
        not_before: options.not_before.map(UnixMs::from),
        deadline,
        spread: options.pace == Some(BatchPace::Spread),
        patience_ms: options.patience_ms,
        prompts,
    };
    Ok((planned, out, deadline))
}

impl PromptRun {
    fn item(&self) -> (u64, QueuedItem) {
        let &Self(count, input_tokens, images, output_tokens_max, text) = self;
        let text = text.map(|(text_bytes, media_tokens, kind)| TextWeight {
            text_bytes,
            media_tokens,
            kind,
        });
        let item = QueuedItem {
            id: 0,
            offset: 0,
            bytes: 0,
            hash: None,
            requests: 1,
            input_tokens,
            images,
            text,
            output_tokens_max,
            attempts: 0,
            doubts: 0,
            not_before: UnixMs(0),
        };
        (count, item)
    }
}

/// What is known of a file before the forecast.
fn facts(file: &PlanFile, project: &Project, model: &str, now: Now) -> PlanOut {
    let runs = || file.prompts.iter().chain(&file.means);
    let bounded = runs().all(|run| run.3.is_some());
    let most = |sum: u64, run: &PromptRun| sum.saturating_add(run.3.unwrap_or(0) * run.0);
    let one = Amounts { input_tokens: 1, output_tokens: 1, ..Amounts::default() };
    let day = now.wall.to_utc().date_naive();
    let priced = cost(Prices::shipped().price(&project.tier, model, day), &one).is_some();
    PlanOut {
        file: file.file.clone(),
        project: project.name.clone(),
        model: model.to_owned(),
        tier: project.tier.clone(),
        priority: file.options.priority.unwrap_or(Priority::Normal).as_str().to_owned(),
        zone: project.day.zone.clone(),
        bad_lines: file.bad_lines,
        first_bad_line: file.first_bad_line.clone(),
        requests: 0,
        input_tokens: 0,
        output_tokens_max: bounded.then(|| runs().fold(0, most)),
        cost_usd: priced.then(PicoUsd::default),
        starts_at: None,
        finish_low: None,
        finish_high: None,
        extrapolated: false,
        finish_alone: None,
        misses_deadline_by_s: None,
        never: 0,
        never_because: None,
        stands: None,
        phases: Vec::new(),
        days: Vec::new(),
    }
}

fn answer(
    asked: Asked,
    forecasts: &Forecasts,
    names: &BTreeMap<BucketId, (String, String)>,
) -> PlanOut {
    let Asked { mut out, line, bucket, deadline } = asked;
    let low = &forecasts.band.low;
    let pending = &forecasts.snapshot.lines[&line];
    for run in &pending.runs {
        let Some((_, need)) = run.needs.first() else { continue };
        out.requests += need.requests * run.count;
        out.input_tokens = out.input_tokens.saturating_add(need.input_tokens * run.count);
        let spend = PicoUsd::from_nanos(need.spend_nanos.saturating_mul(run.count));
        out.cost_usd = out.cost_usd.map(|sum| sum.plus(spend));
    }
    let fate = low.lines.get(&line).cloned().unwrap_or_default();
    let (first, last) = forecasts.band.finishes(line);
    out.starts_at = fate.first_start.map(seconds);
    out.finish_low = first.map(next_second);
    out.finish_high = last.map(next_second);
    out.extrapolated = forecasts.band.is_extrapolated(line);
    let alone = forecasts.alone.as_ref().and_then(|alone| alone.lines.get(&line)?.finish);
    out.finish_alone = alone.map(next_second);
    out.misses_deadline_by_s = missed_by_s(deadline, first);
    (out.never, out.never_because, out.stands) = (fate.never, fate.never_because, fate.stands);
    let phases = low.binds(line);
    let told = phases.iter().take(PHASES_TOLD);
    out.phases = told.map(|phase| phase_out(phase, line, names)).collect();
    let days = low.days.iter().filter(|((of, _), _)| *of == bucket);
    out.days = days
        .map(|((_, until), day)| DayOut {
            until: next_second(*until),
            requests: day.requests,
            input_tokens: day.input_tokens,
        })
        .collect();
    out
}

/// By how many seconds a deadline is missed by a finish, if it is.
fn missed_by_s(deadline: Option<UnixMs>, finish: Option<UnixMs>) -> Option<u64> {
    let late_ms = deadline?.until(finish?);
    (late_ms > 0).then(|| late_ms.div_ceil(1_000))
}

fn phase_out(
    phase: &Phase,
    line: LineId,
    names: &BTreeMap<BucketId, (String, String)>,
) -> PhaseOut {
    let (project, quota_group) = names.get(&phase.bucket).cloned().unwrap_or_default();
    PhaseOut {
        from: seconds(phase.from),
        until: next_second(phase.until),
        binds: phase.binding.to_string(),
        project,
        quota_group,
        waiting: phase.left.get(&line).copied(),
    }
}
