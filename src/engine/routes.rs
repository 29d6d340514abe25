//! Which projects and models a batch may use: what its options, its pool and the configuration come
//! to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::setup::RouteTo;
use super::start::{Route, Routes};
use super::text::{self, wire_of};
use crate::config::prices::{Amounts, Prices, cost};
use crate::config::{Config, PoolRoute, Provider};
use crate::formats::{BatchOptions, Dialect, Form, answers_of};
use crate::gate::limits::Limit;
use crate::gate::units::UnixMs;
use crate::store::Batch;

/// What a new batch asks for, once the defaults are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The first choices, the preferred one first.
    pub first: Vec<PoolRoute>,
    /// The pool that they are of.
    pub pool: Option<String>,
    /// Models that are tried when those are far off, in the project of the first of them.
    pub fallback: Vec<String>,
}

impl Wish {
    /// What options ask for.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub fn of(options: &BatchOptions, config: &Config) -> Result<Self, String> {
        options.agree()?;
        let fallback = options.fallback.clone().unwrap_or_default();
        let says = options.project.is_some() || options.model.is_some();
        let default = config.defaults.pool.as_ref().filter(|_| !says);
        if let Some(pool) = options.pool.as_ref().or(default) {
            let first = of_pool(config, pool, options.project.as_deref())?;
            return Ok(Self { first, pool: Some(pool.clone()), fallback });
        }
        let project = options.project.clone().unwrap_or_else(|| config.defaults.project.clone());
        if config.project(&project).is_none() {
            let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
            return Err(format!(
                "no project {project}: the configuration has {}",
                known.join(", ")
            ));
        }
        let Some(model) = options.model.clone().or_else(|| config.defaults.model.clone()) else {
            return Err(
                "no model: name one in the file's options, or `model` in [defaults]".to_owned()
            );
        };
        Ok(Self { first: vec![PoolRoute { project, model }], pool: None, fallback })
    }

    /// The project and model of every route.
    #[must_use]
    pub fn models(&self) -> Vec<(String, String)> {
        self.all().map(|(route, _)| (route.project, route.model)).collect()
    }

    /// Every route, with whether it is a fallback.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PoolRoute, bool)> + '_ {
        let project = self.first.first().map(|route| route.project.clone()).unwrap_or_default();
        let fallback = self
            .fallback
            .iter()
            .map(move |model| (PoolRoute { project: project.clone(), model: model.clone() }, true));
        self.first.iter().map(|route| (route.clone(), false)).chain(fallback)
    }
}

/// The routes of a pool, those of `project` first.
fn of_pool(config: &Config, pool: &str, project: Option<&str>) -> Result<Vec<PoolRoute>, String> {
    let Some(routes) = config.pools.get(pool) else {
        let known: Vec<_> = config.pools.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!("no pool {pool}: the configuration has {known}"));
    };
    let of_project = |route: &&PoolRoute| Some(route.project.as_str()) == project;
    if project.is_some() && !routes.iter().any(|route| of_project(&route)) {
        let project = project.unwrap_or_default();
        return Err(format!("pool {pool} has no route of project {project}"));
    }
    let (mut first, rest): (Vec<_>, Vec<_>) = routes.iter().partition(of_project);
    first.extend(rest);
    Ok(first.into_iter().cloned().collect())
}

/// What a batch asks for, as far as it says who can answer it.
#[derive(Debug)]
pub(super) struct Speech<'a> {
    /// How its records are read.
    pub(super) form: &'a Form,
    /// The model that the records themselves name.
    pub(super) model: Option<String>,
    /// Which project speaks what.
    pub(super) config: &'a Config,
}

impl Speech<'_> {
    /// Why a route cannot answer.
    fn refusal(&self, route: &PoolRoute) -> Option<String> {
        let PoolRoute { project, model } = route;
        let provider = self.config.project(project)?.provider;
        match (self.form.dialect, provider) {
            (Dialect::GeminiJsonl, Provider::OpenAi) => Some(format!(
                "project {project} speaks OpenAI's dialect, and the file is in Gemini's"
            )),
            (Dialect::Text | Dialect::Csv, _)
                if self.form.answers != answers_of(self.form.dialect, wire_of(provider)) =>
            {
                Some(format!("project {project} answers in another dialect than the first choice"))
            }
            (Dialect::GeminiJsonl, Provider::Gemini)
            | (Dialect::OpenAiJsonl | Dialect::Text | Dialect::Csv, _) => {
                let named = self.model.as_ref().filter(|named| *named != model)?;
                Some(format!("the file's requests name the model {named}, and not {model}"))
            }
        }
    }
}

/// Where a wish leads.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Where its items may go, in order.
    pub(super) routes: Vec<RouteTo>,
    /// The limits of each, in the same order.
    pub(super) limits: Vec<Arc<[Limit]>>,
    /// Projects and models whose limits nobody knows and that have no bucket yet.
    pub(super) to_learn: Vec<PoolRoute>,
    /// Why others cannot be had.
    pub(super) left_out: Vec<String>,
}

impl Found {
    /// Looks for every route of a wish.
    pub(super) fn of(wish: &Wish, speech: &Speech<'_>, routes: &Routes) -> Self {
        let mut found = Self::default();
        for (route, fallback) in wish.all() {
            found.look_for(&route, fallback, speech, routes);
        }
        found
    }

    fn look_for(
        &mut self,
        route: &PoolRoute,
        fallback: bool,
        speech: &Speech<'_>,
        routes: &Routes,
    ) {
        match speech.refusal(route) {
            Some(why) => self.left_out.push(why),
            None => self.look(route, fallback, routes),
        }
    }

    fn look(&mut self, route: &PoolRoute, fallback: bool, routes: &Routes) {
        let PoolRoute { project, model } = route;
        let why = match routes.find(project, model) {
            Some((id, Route::Bucket { id: bucket, limits })) => {
                self.add(RouteTo { project: id, bucket, model: model.clone(), fallback }, limits);
                return;
            }
            Some((_, Route::Learn)) => {
                self.to_learn.push(route.clone());
                return;
            }
            Some((_, Route::Off(source))) => {
                format!("{model} is not offered to project {project} ({source})")
            }
            Some((_, Route::Unknown)) => format!(
                "the limits of {model} are not known to project {project}, which refuses such \
                models (unknown_models): add a [[project.limits]] table for it"
            ),
            None => format!("there is no project {project}"),
        };
        self.left_out.push(why);
    }

    fn add(&mut self, route: RouteTo, limits: Arc<[Limit]>) {
        let is_it = |known: &RouteTo| known.bucket == route.bucket && known.model == route.model;
        if !self.routes.iter().any(is_it) {
            self.routes.push(route);
            self.limits.push(limits);
        }
    }

    /// The limits of every first choice, with the model's name.
    pub(super) fn ceilings(&self) -> Vec<(&str, &[Limit])> {
        let each = self.routes.iter().zip(&self.limits);
        let first = each.filter(|(route, _)| !route.fallback);
        first.map(|(route, limits)| (route.model.as_str(), &**limits)).collect()
    }
}

/// Where the items of a batch that was entered may go: first as its row says, whatever the
/// configuration says now, then what its pool and its fallbacks come to.
#[must_use]
pub fn of_batch(batch: &Batch, routes: &Routes, config: &Config) -> Vec<RouteTo> {
    let found = found_of(batch, routes, config);
    for why in &found.left_out {
        tracing::warn!(batch.id = %batch.uid, "batch {} goes without a route: {why}", batch.uid);
    }
    found.routes
}

pub(super) fn found_of(batch: &Batch, routes: &Routes, config: &Config) -> Found {
    let own = PoolRoute { project: batch.project.clone(), model: batch.model.clone() };
    let mut first = vec![own];
    let mut gone = None;
    if let Some(pool) = &batch.pool {
        match config.pools.get(pool) {
            Some(routes) => first.extend(routes.iter().cloned()),
            None => gone = Some(format!("the configuration has no pool {pool} any more")),
        }
    }
    let limits = match routes.find(&batch.project, &batch.model) {
        Some((_, Route::Bucket { limits, .. })) => limits,
        _ => Arc::default(),
    };
    let mut found = Found::default();
    let own = RouteTo {
        project: batch.project_id,
        bucket: batch.bucket_id,
        model: batch.model.clone(),
        fallback: false,
    };
    found.add(own, limits);
    // Its own is found already, or cannot be had at present.
    let mut seen = BTreeSet::from([(batch.project.clone(), batch.model.clone())]);
    let wish = Wish { first, pool: batch.pool.clone(), fallback: batch.fallback.clone() };
    let form = text::form_of(batch).unwrap_or(Form::of(Dialect::GeminiJsonl));
    let model = (form.dialect == Dialect::OpenAiJsonl).then(|| batch.model.clone());
    let speech = Speech { form: &form, model, config };
    for (route, fallback) in wish.all().skip(1) {
        if seen.insert((route.project.clone(), route.model.clone())) {
            found.look_for(&route, fallback, &speech, routes);
        }
    }
    for route in &found.to_learn {
        found.left_out.push(format!(
            "nothing was sent to {} of project {} yet, whose limits nobody knows",
            route.model, route.project
        ));
    }
    found.left_out.extend(gone);
    found
}

/// Why a batch that may cost only so much cannot use these projects and models: what one of them
/// costs is not known.
#[must_use]
pub fn unpriced<'a>(
    routes: impl IntoIterator<Item = (&'a str, &'a str)>,
    config: &Config,
    now: UnixMs,
) -> Option<String> {
    let one = Amounts { input_tokens: 1, output_tokens: 1, ..Amounts::default() };
    let today = now.to_utc().date_naive();
    let unknown = |(project, model): &(&str, &str)| {
        let tier = config.project(project).map_or("", |project| project.tier.as_str());
        cost(Prices::shipped().price(tier, model, today), &one).is_none()
    };
    let (project, model) = routes.into_iter().find(unknown)?;
    Some(format!(
        "`max_cost` cannot be kept: what {model} costs in project {project} is not known; leave it \
         out, or use another model"
    ))
}
