//! From configuration and ledger to an engine: what a start, and a look without a daemon, have in
//! common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::NaiveDate;

use super::conclude::doubtful;
use super::core::Engine;
use super::keys::Key;
use super::routes::of_batch;
use super::state::{Lane, Link, Project, Rule};
use crate::calendar::{CalendarError, QuotaDay};
use crate::caps;
use crate::config::{self, Config, ModelRule, UnknownModels};
use crate::formats::InDoubt;
use crate::gate::admit::{BucketId, Gate};
use crate::gate::day::{DAY_EDGE_MS, DayCharge};
use crate::gate::limits::{Allowance, Limit, MINUTE_MS, Source, Window};
use crate::gate::memory::Memory;
use crate::gate::offset::Offsets;
use crate::gate::reserve::Reserve;
use crate::gate::units::{BootMs, KeyId, Metric, Now, ProjectId, UnixMs};
use crate::gate::window::DELTA_MS;
use crate::schedule::TenantId;
use crate::store::{
    AttemptEnd, EndedAttempt, ItemUpdate, OpenAttempt, ProjectIds, ProjectSetup, Reader,
    RecentAttempt, Settlement, Store, StoreError, Tokens,
};

/// An attempt is over after this long at the latest (the client's timeouts), so this much further
/// back than a window the ledger may hold something that still counts.
const LONGEST_ATTEMPT_MS: u64 = 20 * 60_000;

/// How far back quota days matter: today, yesterday, and slack for zones and clock steps.
const DAYS_BACK_MS: u64 = 3 * 86_400_000;

/// What keeps an engine from being built.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A project's quota day makes no sense.
    #[error("project {project}: its `day` cannot be used")]
    Day {
        /// Which.
        project: String,
        /// Why.
        #[source]
        source: CalendarError,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a project lets a batch do with a model.
#[derive(Clone, Debug)]
pub enum Route {
    /// Its requests count in this bucket.
    Bucket {
        /// Which.
        id: BucketId,
        /// Its limits.
        limits: Arc<[Limit]>,
    },
    /// The model is not offered on the project's tier.
    Off(Source),
    /// Nobody knows the model's limits; it may be learned.
    Learn,
    /// Nobody knows the model's limits, and the project refuses such models.
    Unknown,
}

/// Where the requests of each project and model go.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    projects: BTreeMap<String, (i64, UnknownModels, BTreeMap<String, Route>)>,
}

impl Routes {
    /// The row id of a project and its route for a model; `None` for an unknown project.
    #[must_use]
    pub fn find(&self, project: &str, model: &str) -> Option<(i64, Route)> {
        let (id, unknown, models) = self.projects.get(project)?;
        let route = models.get(model).cloned().unwrap_or(match unknown {
            UnknownModels::Learn => Route::Learn,
            UnknownModels::Refuse => Route::Unknown,
        });
        Some((*id, route))
    }

    /// The row id of a project.
    #[must_use]
    pub fn project_id(&self, name: &str) -> Option<i64> {
        self.projects.get(name).map(|(id, ..)| *id)
    }

    /// The names of every project.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.projects.keys().map(String::as_str)
    }

    /// Takes up what a project's models may do from now on; those that were learned of are to be
    /// added again.
    pub(super) fn renew(
        &mut self,
        project: &config::Project,
        stated: &Stated,
        buckets: &BTreeMap<String, BucketId>,
    ) {
        if let Some((_, unknown, models)) = self.projects.get_mut(&project.name) {
            *unknown = project.unknown_models;
            *models = models_of(project, stated, buckets);
        }
    }

    /// How many models a project has that something is known of.
    pub(super) fn known(&self, project: &str) -> usize {
        self.projects.get(project).map_or(0, |(.., models)| models.len())
    }

    /// Adds a model that was learned of, or of which nothing is said any more.
    pub fn add(&mut self, project: &str, model: &str, id: BucketId) {
        if let Some((_, _, models)) = self.projects.get_mut(project) {
            models.insert(model.to_owned(), Route::Bucket { id, limits: Arc::new([]) });
        }
    }
}

/// A project's quota day.
///
/// # Errors
/// When its zone or its cron expression cannot be used.
pub fn quota_day(project: &config::Project) -> Result<QuotaDay, StartError> {
    QuotaDay::new(&project.day.zone, &project.day.reset)
        .map_err(|source| StartError::Day { project: project.name.clone(), source })
}

/// Every model id that the configuration or the preset knows, the preset's aliases included.
fn names(project: &config::Project) -> BTreeSet<&str> {
    let aliases = project.preset.iter().flat_map(|preset| &preset.models);
    let aliases = aliases.flat_map(|model| &model.aliases).map(String::as_str);
    project.known_models().into_iter().chain(aliases).collect()
}

/// What presets, configuration and users say of a project's limits.
#[derive(Clone, Debug)]
pub(super) struct Stated {
    /// By quota group: every model id that counts in it, and its limits.
    pub(super) groups: BTreeMap<String, (Vec<String>, Vec<Limit>)>,
    /// What all of them share.
    pub(super) shared: Vec<Limit>,
}

impl Stated {
    pub(super) fn of(project: &config::Project) -> Self {
        let mut groups: BTreeMap<String, (Vec<String>, Vec<Limit>)> = BTreeMap::new();
        for model in names(project) {
            if let ModelRule::Known { quota_group, allowance: Allowance::Limited(limits) } =
                project.allowance(model)
            {
                let (models, known) = groups.entry(quota_group).or_default();
                models.push(model.to_owned());
                *known = limits;
            }
        }
        Self { groups, shared: project.shared_limits() }
    }

    /// As the store enters it.
    pub(super) fn entry(&self, name: &str) -> ProjectSetup {
        let groups = self.groups.iter().map(|(group, (models, _))| (group.clone(), models.clone()));
        ProjectSetup { name: name.to_owned(), groups: groups.collect() }
    }
}

/// Where the requests of every model go that presets, configuration and users know.
fn models_of(
    project: &config::Project,
    stated: &Stated,
    buckets: &BTreeMap<String, BucketId>,
) -> BTreeMap<String, Route> {
    let mut models = BTreeMap::new();
    for (group, (group_models, limits)) in &stated.groups {
        let Some(&id) = buckets.get(group) else { continue };
        let limits: Arc<[Limit]> = limits.clone().into();
        for model in group_models {
            models.insert(model.clone(), Route::Bucket { id, limits: limits.clone() });
        }
    }
    for model in names(project) {
        if let ModelRule::Known { allowance: Allowance::Off { source }, .. } =
            project.allowance(model)
        {
            models.insert(model.to_owned(), Route::Off(source));
        }
    }
    models
}

/// What the bucket of a model may do by presets, configuration and users.
pub(super) fn rule_of(project: &config::Project, model: &str) -> Rule {
    match project.allowance(model) {
        ModelRule::Known { allowance: Allowance::Limited(limits), .. } => Rule::Limited(limits),
        ModelRule::Known { allowance: Allowance::Off { source }, .. } => {
            Rule::Off(format!("{model} is off ({source})"))
        }
        ModelRule::Unknown => match project.unknown_models {
            UnknownModels::Learn => Rule::Learn,
            UnknownModels::Refuse => {
                Rule::Off(format!("nobody knows {model}, and the project refuses such models"))
            }
        },
    }
}

/// Enters every project of the configuration in the database and builds an engine on it.
///
/// # Errors
/// When a quota day cannot be used or the database fails.
pub async fn assemble(
    config: &Config,
    store: &Store,
    now: Now,
    seed: u64,
) -> Result<(Engine, Routes), StartError> {
    let mut ids = BTreeMap::new();
    for project in &config.projects {
        quota_day(project)?;
        let entered = store.sync_project(Stated::of(project).entry(&project.name)).await?;
        store.keep_keys_only(entered.id, key_names(project)).await?;
        ids.insert(project.name.clone(), entered);
    }
    doubt_open_attempts(store, config, now).await?;
    build(config, store.reader(), ids, now, seed).await
}

/// Builds an engine on a database that this process may only read, for reports.
///
/// # Errors
/// When a quota day cannot be used or the database fails.
pub async fn look(
    config: &Config,
    reader: &Reader,
    now: Now,
) -> Result<(Engine, Routes), StartError> {
    let mut ids: BTreeMap<String, ProjectIds> = BTreeMap::new();
    for model in reader.models().await? {
        let entry = ids
            .entry(model.project)
            .or_insert_with(|| ProjectIds { id: model.project_id, buckets: BTreeMap::new() });
        entry.buckets.insert(model.quota_group, model.bucket_id);
    }
    build(config, reader, ids, now, 0).await
}

async fn build(
    config: &Config,
    reader: &Reader,
    ids: BTreeMap<String, ProjectIds>,
    now: Now,
    seed: u64,
) -> Result<(Engine, Routes), StartError> {
    let next = reader.next_attempt().await?;
    let mut engine = Engine::new(Gate::default(), next, seed);
    let mut routes = Routes::default();
    let mut keys = BTreeMap::new();
    for project in &config.projects {
        let Some(ids) = ids.get(&project.name) else { continue };
        let sealed = reader.sealed_before(ids.id).await?;
        let models = add_project(&mut engine, project, ids, sealed, now)?;
        routes.projects.insert(project.name.clone(), (ids.id, project.unknown_models, models));
    }
    for (tenant, weight) in &config.tenants {
        let tenant = engine.schedule.tenant(tenant);
        engine.schedule.set_weight(tenant, *weight);
    }
    let mut off = Vec::new();
    for model in reader.models().await? {
        let Some((id, _, models)) = routes.projects.get_mut(&model.project) else { continue };
        let Some(project) = config.project(&model.project) else { continue };
        let places = project.keys.iter().zip(0..).map(|(key, at)| (key.name.clone(), KeyId(at)));
        keys.entry(model.bucket_id).or_insert_with(|| places.collect());
        match rule_of(project, &model.model) {
            Rule::Limited(_) => {}
            // It keeps no way around its limits.
            Rule::Off(reason) => off.push((model.bucket_id, *id, model.quota_group, reason)),
            Rule::Learn => {
                engine.found(model.bucket_id, *id, model.quota_group);
                models
                    .entry(model.model)
                    .or_insert(Route::Bucket { id: model.bucket_id, limits: Arc::new([]) });
            }
        }
    }
    for (bucket, project, group, reason) in off {
        engine.shut_off(bucket, project, group, reason);
    }
    recall(&mut engine, reader, now).await?;
    recall_keys(&mut engine, reader, now).await?;
    for observation in reader.observations(caps::OBSERVATIONS_BACK).await? {
        engine.observe(&observation);
    }
    restore(&mut engine, reader, &Keys(keys), now).await?;
    replay_services(&mut engine, reader, (config, &routes), now).await?;
    engine
        .hold(reader.pauses().await?.into_iter().map(|held| (held.project, held.group)).collect());
    Ok((engine, routes))
}

/// Gives every tenant what it was served of late: who came first stays behind who came after.
async fn replay_services(
    engine: &mut Engine,
    reader: &Reader,
    (config, routes): (&Config, &Routes),
    now: Now,
) -> Result<(), StoreError> {
    let mut events: BTreeMap<BucketId, Vec<(BootMs, TenantId, Option<u128>)>> = BTreeMap::new();
    for batch in reader.unfinished_batches().await? {
        let began = batch.submitted_at.max(batch.not_before.unwrap_or(UnixMs(0)));
        // Who only waits for a time, or is held, has nothing to send.
        if began > now.wall || batch.paused.is_some() || batch.stopped.is_some() {
            continue;
        }
        let tenant = engine.schedule.tenant(&batch.tenant);
        for route in of_batch(&batch, routes, config) {
            let event = (now.boot_at(began), tenant, None);
            events.entry(route.bucket).or_default().push(event);
        }
    }
    for charge in reader.recent_charges(now, caps::SERVICE_BACK_MS).await? {
        let tenant = engine.schedule.tenant(&charge.tenant);
        let cost = engine.gate.dominant_share(charge.bucket_id, &charge.weights);
        events.entry(charge.bucket_id).or_default().push((charge.at, tenant, Some(cost)));
    }
    for (bucket, mut events) in events {
        events.sort_by_key(|(at, ..)| *at);
        let events = events.into_iter().map(|(_, tenant, event)| (tenant, event));
        engine.schedule.replay(bucket, events);
    }
    Ok(())
}

fn add_project(
    engine: &mut Engine,
    project: &config::Project,
    ids: &ProjectIds,
    sealed: Option<String>,
    now: Now,
) -> Result<BTreeMap<String, Route>, StartError> {
    let day = quota_day(project)?;
    let stated = Stated::of(project);
    let models = models_of(project, &stated, &ids.buckets);
    engine.gate.set_reserve(ProjectId(ids.id), reserve_of(project));
    engine.gate.share(ProjectId(ids.id), stated.shared, day.clone(), now);
    for (group, (_, limits)) in stated.groups {
        let Some(&id) = ids.buckets.get(&group) else { continue };
        engine.gate.define(id, ProjectId(ids.id), limits, day.clone());
        engine.lanes.insert(id, Lane::new(ids.id, group, false));
    }
    engine.projects.insert(ids.id, Project::new(project, sealed)?);
    Ok(models)
}

impl Project {
    /// A project that has sent nothing since the start, with its days sealed before this one.
    pub(super) fn new(
        project: &config::Project,
        sealed: Option<String>,
    ) -> Result<Self, StartError> {
        let keys = project.keys.iter().map(|key| Key::new(key.name.clone()));
        Ok(Self {
            name: project.name.clone(),
            keys: keys.collect(),
            next_key: 0,
            link: Link::default(),
            tier: project.tier.clone(),
            counts_output: project.provider == config::Provider::OpenAi,
            strict_estimates: project.strict_estimates,
            clock: Offsets::default(),
            floor: None,
            in_flight: 0,
            pace: Pace::of(project, &Stated::of(project)),
            second: BootMs(0),
            started: 0,
            held: None,
            day: quota_day(project)?,
            sealed_before: sealed.and_then(|day| day.parse::<NaiveDate>().ok()),
            sealing: false,
            seal_after: BootMs(0),
        })
    }
}

/// What batches of a project leave to interactive requests.
pub(super) fn reserve_of(project: &config::Project) -> Reserve {
    match project.reserve {
        config::Reserve::Auto => Reserve::Auto,
        config::Reserve::Percent(percent) => Reserve::Fixed { permille: u64::from(percent) * 10 },
    }
}

/// How fast a project may start requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) max_in_flight: u32,
    pub(super) starts_per_second: u32,
}

impl Pace {
    pub(super) fn of(project: &config::Project, stated: &Stated) -> Self {
        let rpm = stated.groups.values().filter_map(|(_, limits)| rpm_of(limits)).max();
        let rpm = rpm.map(|rpm| u32::try_from(rpm).unwrap_or(u32::MAX));
        let in_flight = rpm.unwrap_or(caps::IN_FLIGHT_DEFAULT).min(caps::IN_FLIGHT_DEFAULT);
        Self {
            max_in_flight: project.max_in_flight.unwrap_or(in_flight).max(1),
            starts_per_second: caps::STARTS_PER_SECOND.max(rpm.unwrap_or(0) / 30),
        }
    }
}

fn rpm_of(limits: &[Limit]) -> Option<u64> {
    let minute = Window::Rolling { ms: MINUTE_MS };
    let rpm = |limit: &&Limit| limit.metric == Metric::Requests && limit.window == minute;
    limits.iter().find(rpm).map(|limit| limit.value)
}

/// The place of each key in its project's configuration, by bucket and name.
struct Keys(BTreeMap<BucketId, BTreeMap<String, KeyId>>);

impl Keys {
    fn find(&self, bucket: BucketId, name: &str) -> Option<KeyId> {
        self.0.get(&bucket)?.get(name).copied()
    }
}

/// Takes up what refusals taught before.
async fn recall(engine: &mut Engine, reader: &Reader, now: Now) -> Result<(), StoreError> {
    for (bucket, memory) in reader.memories().await? {
        if !engine.lanes.contains_key(&bucket) {
            continue;
        }
        match serde_json::from_str::<Memory>(&memory) {
            Ok(memory) => engine.gate.remember(bucket, memory, now),
            Err(error) => tracing::warn!(bucket.id = bucket.0, %error,
                "what was learned of a bucket cannot be read, and is learned anew"),
        }
    }
    for (bucket, counts_in) in reader.aliases().await? {
        // What is off keeps no limits that another could count in.
        let on = |id| engine.lanes.get(id).is_some_and(|lane| lane.off.is_none());
        if on(&bucket) && on(&counts_in) {
            engine.gate.merge(bucket, counts_in, now);
        }
    }
    Ok(())
}

/// The names of a project's keys, those included that cannot be had here.
pub(super) fn key_names(project: &config::Project) -> Vec<String> {
    let absent = project.absent_keys.iter().map(|key| &key.name);
    project.keys.iter().map(|key| &key.name).chain(absent).cloned().collect()
}

/// Takes up how keys stood, and whose turn it is.
async fn recall_keys(engine: &mut Engine, reader: &Reader, now: Now) -> Result<(), StoreError> {
    for state in reader.key_states().await? {
        let project = engine.projects.get_mut(&state.project_id);
        let key = project.and_then(|it| it.keys.iter_mut().find(|key| key.name == state.name));
        if let Some(key) = key {
            key.restore(state, now);
        }
    }
    for (project, name) in reader.last_keys(caps::KEY_TURNS_BACK).await? {
        if let Some(project) = engine.projects.get_mut(&project) {
            project.turn_after(&name);
        }
    }
    Ok(())
}

/// Puts back into the gate what the ledger says is still counted.
async fn restore(
    engine: &mut Engine,
    reader: &Reader,
    keys: &Keys,
    now: Now,
) -> Result<(), StoreError> {
    let back = engine.gate.longest_window_ms() + LONGEST_ATTEMPT_MS;
    for attempt in reader.attempts_back(now, back).await? {
        let u = bound_now(&attempt, now);
        let key = keys.find(attempt.bucket_id, &attempt.key_name);
        engine.gate.restore(attempt.id, attempt.bucket_id, key, attempt.weights, u);
    }
    // A start has ended these before; they are there in a look beside no daemon.
    for attempt in reader.open_attempts().await? {
        let u = now.boot.plus(DELTA_MS);
        let key = keys.find(attempt.bucket_id, &attempt.key_name);
        engine.gate.restore(attempt.id, attempt.bucket_id, key, attempt.est, u);
        if let Ok(day) = attempt.day_lo.parse() {
            let charge = DayCharge { lo: day, hi: day };
            engine.gate.restore_day(attempt.bucket_id, key, charge, attempt.est);
        }
    }
    for row in reader.day_charges(now.wall.minus(DAYS_BACK_MS)).await? {
        let key = keys.find(row.bucket_id, &row.key_name);
        engine.gate.restore_day(row.bucket_id, key, row.charge, row.weights);
    }
    // Within one boot the boot clock tells. Over a boot rows may be missing and the wall clock may
    // lie by any length, so how long ago the last request was is not known.
    let last = reader.last_wall().await?;
    if last.map_or(reader.boots().await? > 1, |(_, other_boot)| other_boot) {
        let reason = "the machine was restarted: one window is waited out";
        tracing::warn!("{reason}");
        engine.gate.quarantine(now, reason);
    }
    if let Some((last, _)) = last {
        engine.distrust_days_before(last, now);
    }
    Ok(())
}

/// An old bound in terms of the present boot clock; when in doubt, later.
fn bound_now(attempt: &RecentAttempt, now: Now) -> BootMs {
    if attempt.same_boot { attempt.u_boot } else { now.boot_at(attempt.u_wall.min(now.wall)) }
}

/// Ends the attempts that a crash left open: whether they were answered is unknown, so they stay
/// charged, and their items go where their batch's policy says.
async fn doubt_open_attempts(store: &Store, config: &Config, now: Now) -> Result<(), StartError> {
    let open = store.reader().open_attempts().await?;
    if open.is_empty() {
        return Ok(());
    }
    tracing::warn!(attempts = open.len(), "{} requests were cut off by the last end", open.len());
    let days: BTreeMap<&str, QuotaDay> = config
        .projects
        .iter()
        .map(|project| Ok((project.name.as_str(), quota_day(project)?)))
        .collect::<Result<_, StartError>>()?;
    // An item moves on once, also if two of its attempts were left open.
    let mut seen = BTreeSet::new();
    let mut rows: Vec<_> = open.iter().map(|attempt| doubt(attempt, &days, now)).collect();
    for row in &mut rows {
        row.item = row.item.take().filter(|item| seen.insert(item.id));
    }
    Ok(store.settle(rows).await?)
}

fn doubt(attempt: &OpenAttempt, days: &BTreeMap<&str, QuotaDay>, now: Now) -> Settlement {
    let u_boot = now.boot.plus(DELTA_MS);
    let u_wall = now.wall.plus(DELTA_MS);
    let pacific = QuotaDay::pacific();
    let day = days.get(attempt.project.as_str()).unwrap_or(&pacific);
    let today = day.span_at(u_wall.plus(DAY_EDGE_MS).to_utc()).key.to_string();
    let policy = attempt.policy.parse().unwrap_or(InDoubt::Retry);
    Settlement {
        attempt: Some(EndedAttempt {
            id: attempt.id,
            end: AttemptEnd::InDoubt,
            u_wall,
            u_boot,
            day_hi: today.max(attempt.day_lo.clone()),
            act: attempt.est,
            tokens: Tokens::default(),
            http_status: None,
            quota_id: None,
            service_tier: None,
            error: Some("the daemon was stopped while the request was under way".to_owned()),
            latency_ms: None,
        }),
        item: attempt.item_id.map(|id| ItemUpdate {
            id,
            state: doubtful(policy, attempt.item_doubts + 1),
            attempts: attempt.item_attempts,
            doubts: attempt.item_doubts + 1,
            not_before: UnixMs(0),
            line: None,
            answer: None,
        }),
    }
}
