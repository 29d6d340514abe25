//! Where limits and keys are changed while the daemon runs, by a user's word or by a new
//! configuration, and where users hold what is sent. Each change is durable before it is in force.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot, watch};

mod keys;

use super::endpoints::Endpoints;
use super::start::{self, Pace, Route, Routes, Stated};
use super::state::{Event, NewLimits, Rule};
use crate::caps;
use crate::clock;
use crate::config::{
    ALL_MODELS, Config, Dimension, ImportError, ModelRule, Project, Setting, SettingError,
    UnknownDimension, UnknownModels, model_id,
};
use crate::gate::admit::BucketId;
use crate::gate::limits::{Allowance, Limit, Window};
use crate::gate::units::Metric;
use crate::store::{LimitEvent, Pause, ProjectSetup, SetLimit, Store, StoreError};
use crate::telemetry::chain;

/// The quota group of calls that name no model, none of which has limits.
pub(super) const NO_MODEL: &str = "-";

/// Routes that several tasks look at. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedRoutes(Arc<RwLock<Routes>>);

impl SharedRoutes {
    /// Routes to be shared.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        Self(Arc::new(RwLock::new(routes)))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Routes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Routes> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a change of limits is refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// No such project.
    #[error("no project {project}; the configuration has: {known}")]
    Project {
        /// The name.
        project: String,
        /// Those there are.
        known: String,
    },
    /// A model that nobody knows, in a project that refuses such.
    #[error(
        "project {project} knows no model {model} and refuses unknown ones (unknown_models): add a \
        [[project.limits]] table for it"
    )]
    Model {
        /// The project.
        project: String,
        /// The model.
        model: String,
    },
    /// No name of a model.
    #[error("that is no model id: write 1 to 128 ASCII characters without spaces")]
    ModelId,
    /// No such dimension.
    #[error(transparent)]
    Dimension(#[from] UnknownDimension),
    /// No such value.
    #[error("{value}: {source}")]
    Setting {
        /// As given.
        value: String,
        /// Why.
        #[source]
        source: SettingError,
    },
    /// All models cannot be turned off together.
    #[error("\"off\" cannot be said of all models at once; name the model")]
    AllOff,
    /// A model of no project.
    #[error("a model is paused in one project: name the project too")]
    NoProject,
    /// A model that nobody knows and nothing was sent to.
    #[error("{0}")]
    NoBucket(String),
    /// Nothing of that is paused.
    #[error("nothing of {what} is paused; paused are: {held}")]
    NotHeld {
        /// What was asked for.
        what: String,
        /// What is.
        held: String,
    },
    /// No such key.
    #[error("no key {name}; known: {known}")]
    Key {
        /// The name.
        name: String,
        /// Those there are, behind their projects.
        known: String,
    },
    /// A key's name that several projects have.
    #[error("{name} is a key of {projects}: name the project before it")]
    Ambiguous {
        /// The name.
        name: String,
        /// The projects.
        projects: String,
    },
    /// A configured key that is not there, or a project without any.
    #[error("{0}")]
    Missing(String),
    /// Imported keys cannot be read or written.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What a running daemon cannot take up.
    #[error(
        "{} cannot change while the daemon runs; nothing was applied: restart it",
        .0.join(", ")
    )]
    Restart(Vec<String>),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What a user says about one limit.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub project: String,
    /// Of which model; `*` for what all share.
    pub model: String,
    /// `rpm`, `tpm` …
    pub dimension: String,
    /// A number, `none` or `off`; nothing to take back what was set and what was learned.
    pub value: Option<String>,
}

/// The desk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    store: Store,
    events: mpsc::Sender<Event>,
    routes: SharedRoutes,
    endpoints: Endpoints,
    config: Arc<watch::Sender<Arc<Config>>>,
    /// One change after the other.
    turn: Arc<Mutex<()>>,
}

impl Desk {
    /// A desk over the parts of a daemon that is being put together.
    #[must_use]
    pub fn new(
        config: Config,
        store: Store,
        events: mpsc::Sender<Event>,
        routes: SharedRoutes,
        endpoints: Endpoints,
    ) -> Self {
        let (config, _) = watch::channel(Arc::new(config));
        Self { store, events, routes, endpoints, config: Arc::new(config), turn: Arc::default() }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// The row id of a project.
    #[must_use]
    pub fn project_id(&self, project: &str) -> Option<i64> {
        self.routes.read().project_id(project)
    }

    /// The bucket in which requests for a model count, or why there is none.
    pub fn bucket(&self, project: &str, model: &str) -> Result<BucketId, String> {
        let model = model.strip_prefix("models/").unwrap_or(model);
        match self.routes.read().find(project, model) {
            Some((_, Route::Bucket { id, .. })) => Ok(id),
            Some((_, Route::Off(source))) => {
                Err(format!("{model} is not offered to project {project} ({source})"))
            }
            Some((_, Route::Learn)) => {
                Err(format!("nobody knows the limits of {model}, and nothing was sent to it yet"))
            }
            Some((_, Route::Unknown)) => {
                Err(format!("project {project} refuses models that nobody knows, as {model}"))
            }
            None => Err(format!("no project {project}")),
        }
    }

    /// The bucket in which a client's call counts: that of its model, made anew for one that nobody
    /// knows; for a call that names none, that of all such.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn bucket_of_call(
        &self,
        project: &str,
        model: Option<&str>,
    ) -> Result<BucketId, String> {
        let model = match model {
            None => NO_MODEL,
            Some(model) => {
                model_id(model).ok_or("that is no model id: 1 to 128 ASCII characters")?
            }
        };
        let found = |routes: &Routes| routes.find(project, model).map(|(_, route)| route);
        match found(&self.routes.read()) {
            Some(Route::Bucket { id, .. }) => return Ok(id),
            Some(Route::Learn | Route::Unknown) if model == NO_MODEL => {}
            Some(Route::Learn) => {}
            Some(Route::Unknown | Route::Off(_)) | None => return self.bucket(project, model),
        }
        let _turn = self.turn.lock().await;
        // Another call may have made it meanwhile.
        if let Some(Route::Bucket { id, .. }) = found(&self.routes.read()) {
            return Ok(id);
        }
        if self.routes.read().known(project) >= caps::MODELS_LEARNED_MAX {
            return Err(format!("project {project} has too many models that nobody knows"));
        }
        let groups = [(model.to_owned(), vec![model.to_owned()])].into();
        let setup = ProjectSetup { name: project.to_owned(), groups };
        let ids = self.store.sync_project(setup).await.map_err(|error| chain(&error))?;
        let id = *ids.buckets.get(model).ok_or("the database lost the model")?;
        if model != NO_MODEL {
            tracing::warn!(project.name = project, model, "the limits of {model} are not known");
        }
        self.routes.write().add(project, model, id);
        let found = Event::BucketFound { id, project: ids.id, group: model.to_owned() };
        self.events.send(found).await.map_err(|_| DeskError::Stopping.to_string())?;
        Ok(id)
    }

    /// Whoever holds this changes something alone.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Sets a limit, or takes back what was set.
    ///
    /// # Errors
    /// Each says what is wrong; nothing has changed then.
    pub async fn set(&self, change: Change) -> Result<(), DeskError> {
        let _turn = self.turn.lock().await;
        let config = self.config();
        let project = keys::find(&config, &change.project)?;
        let dimension: Dimension = change.dimension.parse()?;
        let setting = change.value.as_deref().map(|value| dimension.setting(value)).transpose();
        let setting = setting.map_err(|source| DeskError::Setting {
            value: change.value.clone().unwrap_or_default(),
            source,
        })?;
        let model = model_id(&change.model).ok_or(DeskError::ModelId)?;
        if model == ALL_MODELS && setting == Some(Setting::Off) {
            return Err(DeskError::AllOff);
        }
        let group = match model {
            ALL_MODELS => ALL_MODELS,
            _ => project.quota_group(model),
        };
        let before = in_force(project, model, dimension)?;
        let ids = self.store.sync_project(Stated::of(project).entry(&project.name)).await?;
        let event = LimitEvent {
            at: clock::now().wall,
            project_id: ids.id,
            quota_group: group.to_owned(),
            dimension: dimension.to_string(),
            was: before.map(|value| dimension.show(Setting::Value(value)).replace('"', "")),
            became: setting.map(|setting| dimension.show(setting).replace('"', "")),
            source: "set".to_owned(),
            reason: if setting.is_some() { "limits set" } else { "limits unset" }.to_owned(),
        };
        self.store.set_limit(event, change.value).await?;
        let forget = Some((group.to_owned(), dimension.metric(), dimension.window()));
        let project = change.project.clone();
        self.apply(config.as_ref().clone(), Some(&project), forget).await
    }

    /// Holds a model of a project, all models of it, or everything; what is under way settles.
    /// Answers with all that is held then.
    ///
    /// # Errors
    /// Each says what is wrong; nothing has changed then.
    pub async fn pause(
        &self,
        project: Option<String>,
        model: Option<String>,
    ) -> Result<Vec<Pause>, DeskError> {
        let _turn = self.turn.lock().await;
        let (project, group) = self.named(project, model)?;
        self.store.set_pause(Pause { project, group, at: clock::now().wall }).await?;
        self.tell_pauses().await
    }

    /// Takes back what was held of a model, of a project with all its models, or everything.
    /// Answers with what is held still.
    ///
    /// # Errors
    /// Each says what is wrong; nothing has changed then.
    pub async fn resume(
        &self,
        project: Option<String>,
        model: Option<String>,
    ) -> Result<Vec<Pause>, DeskError> {
        let _turn = self.turn.lock().await;
        let (project, group) = self.named(project, model)?;
        if self.store.clear_pause(project.clone(), group.clone()).await? == 0 {
            let held = self.store.reader().pauses().await?;
            let held: Vec<_> =
                held.iter().map(|pause| words(&pause.project, &pause.group)).collect();
            let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
            return Err(DeskError::NotHeld { what: words(&project, &group), held });
        }
        self.tell_pauses().await
    }

    /// The project and quota group that a user means, `*` for all.
    fn named(
        &self,
        project: Option<String>,
        model: Option<String>,
    ) -> Result<(String, String), DeskError> {
        let all = || ALL_MODELS.to_owned();
        let Some(name) = project else {
            return if model.is_some() { Err(DeskError::NoProject) } else { Ok((all(), all())) };
        };
        let config = self.config();
        let project = config.project(&name).ok_or_else(|| {
            let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
            DeskError::Project { project: name.clone(), known: known.join(", ") }
        })?;
        let Some(model) = model else { return Ok((name, all())) };
        let model = model_id(&model).ok_or(DeskError::ModelId)?;
        if model != ALL_MODELS && matches!(project.allowance(model), ModelRule::Unknown) {
            self.bucket(&name, model).map_err(DeskError::NoBucket)?;
        }
        Ok((name, project.quota_group(model).to_owned()))
    }

    async fn tell_pauses(&self) -> Result<Vec<Pause>, DeskError> {
        let pauses = self.store.reader().pauses().await?;
        let names = pauses.iter().map(|held| (held.project.clone(), held.group.clone()));
        let told = self.events.send(Event::Pauses(names.collect())).await;
        told.map_err(|_| DeskError::Stopping)?;
        Ok(pauses)
    }

    /// Takes up a configuration that was read anew.
    ///
    /// # Errors
    /// [`DeskError::Restart`] names what a running daemon cannot take up, [`DeskError::Missing`] a
    /// key that is not to be had; nothing has changed then.
    pub async fn reload(&self, new: Config) -> Result<(), DeskError> {
        let _turn = self.turn.lock().await;
        let needs = self.config().needs_restart(&new);
        if !needs.is_empty() {
            return Err(DeskError::Restart(needs));
        }
        let read = tokio::task::spawn_blocking(move || new.with_imported_keys());
        let new = read.await.map_err(|_| DeskError::Stopping)??;
        keys::no_key_is_missing(&new)?;
        self.take_up_keys(&new).await?;
        self.apply(new, None, None).await
    }

    /// Puts a configuration with all that was set in force, of one project or of all.
    async fn apply(
        &self,
        config: Config,
        only: Option<&str>,
        forget: Option<(String, Metric, Window)>,
    ) -> Result<(), DeskError> {
        let sets = self.store.reader().set_limits().await?;
        let config = config.with_set_limits(sets.iter().map(SetLimit::parts));
        let concerned = |project: &&Project| only.is_none_or(|name| name == project.name);
        for project in config.projects.iter().filter(concerned) {
            self.apply_project(project, forget.as_ref()).await?;
        }
        self.config.send_replace(Arc::new(config));
        Ok(())
    }

    async fn apply_project(
        &self,
        project: &Project,
        forget: Option<&(String, Metric, Window)>,
    ) -> Result<(), DeskError> {
        let stated = Stated::of(project);
        let ids = self.store.sync_project(stated.entry(&project.name)).await?;
        self.routes.write().renew(project, &stated, &ids.buckets);
        let mut buckets = Vec::new();
        let mut forgotten = None;
        for model in self.store.reader().models().await? {
            if model.project_id != ids.id {
                continue;
            }
            if let Some((group, metric, window)) = forget
                && *group == model.quota_group
            {
                forgotten = Some((model.bucket_id, *metric, *window));
            }
            let rule = start::rule_of(project, &model.model);
            if matches!(rule, Rule::Learn) {
                self.routes.write().add(&project.name, &model.model, model.bucket_id);
            }
            buckets.push((model.bucket_id, model.quota_group, rule));
        }
        // A name that is known no more does not decide for one that is.
        buckets.sort_by_key(|(id, _, rule)| (*id, rule.rank()));
        buckets.dedup_by_key(|(id, ..)| *id);
        let (done, in_force) = oneshot::channel();
        let new = NewLimits {
            project: ids.id,
            pace: Pace::of(project, &stated),
            tier: project.tier.clone(),
            reserve: start::reserve_of(project),
            shared: stated.shared,
            buckets,
            forget: forgotten,
            done,
        };
        let told = self.events.send(Event::Limits(Box::new(new))).await;
        told.map_err(|_| DeskError::Stopping)?;
        in_force.await.map_err(|_| DeskError::Stopping)
    }
}

/// What is paused, for people.
fn words(project: &str, group: &str) -> String {
    match (project, group) {
        (ALL_MODELS, _) => "everything".to_owned(),
        (project, ALL_MODELS) => project.to_owned(),
        (project, group) => format!("{project} {group}"),
    }
}

/// The value of a limit as it is stated before a change.
fn in_force(
    project: &Project,
    model: &str,
    dimension: Dimension,
) -> Result<Option<u64>, DeskError> {
    let limits = if model == ALL_MODELS {
        project.shared_limits()
    } else {
        match project.allowance(model) {
            ModelRule::Known { allowance: Allowance::Limited(limits), .. } => limits,
            ModelRule::Unknown if project.unknown_models == UnknownModels::Refuse => {
                let project = project.name.clone();
                return Err(DeskError::Model { project, model: model.to_owned() });
            }
            ModelRule::Known { allowance: Allowance::Off { .. }, .. } | ModelRule::Unknown => {
                Vec::new()
            }
        }
    };
    let probe = dimension.limit(0, crate::gate::limits::Source::Config);
    let is_it = |limit: &&Limit| {
        (limit.metric, limit.window, limit.scope) == (probe.metric, probe.window, probe.scope)
    };
    Ok(limits.iter().find(is_it).map(|limit| limit.value))
}
