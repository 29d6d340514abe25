//! The checks of `[pool.NAME]`, `[tenants]` and `[defaults]`: what names projects and models.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use super::{model_id, name};
use crate::config::error::{ConfigError, Document, suggest};
use crate::config::raw::{RawDefaults, RawPool, RawRoute, Text};
use crate::config::{
    Defaults, ModelRule, PoolRoute, Project, TENANT_WEIGHT_MAX, UnknownModels, tenant_name,
};
use crate::gate::limits::Allowance;

pub(super) fn pools(
    document: Document<'_>,
    projects: &[Project],
    raw: &BTreeMap<Text, RawPool>,
) -> Result<BTreeMap<String, Vec<PoolRoute>>, ConfigError> {
    let mut pools = BTreeMap::new();
    for (called, pool) in raw {
        let called = name(document, "the pool's name", called)?;
        let mut routes: Vec<PoolRoute> = Vec::new();
        for entry in pool.routes.get_ref() {
            let route = route(document, projects, &called, entry)?;
            if routes.contains(&route) {
                let what = format!(
                    "[pool.{called}] has {} of project `{}` twice",
                    route.model, route.project
                );
                return Err(document.refuse(entry.span(), what, "remove one"));
            }
            routes.push(route);
        }
        if routes.is_empty() {
            let what = format!("[pool.{called}] has no route");
            let fix = "add { project = \"…\", model = \"…\" }, or remove the table";
            return Err(document.refuse(pool.routes.span(), what, fix));
        }
        pools.insert(called, routes);
    }
    Ok(pools)
}

fn route(
    document: Document<'_>,
    projects: &[Project],
    pool: &str,
    entry: &Spanned<RawRoute>,
) -> Result<PoolRoute, ConfigError> {
    let raw = entry.get_ref();
    let written = raw.project.get_ref();
    let Some(project) = projects.iter().find(|project| project.name == *written) else {
        let what = format!("[pool.{pool}]: no project is called `{written}`");
        let known: Vec<&str> = projects.iter().map(|project| project.name.as_str()).collect();
        return Err(document.refuse(raw.project.span(), what, suggest(written, &known)));
    };
    let model = model_id(document, &format!("the model in [pool.{pool}]"), &raw.model)?;
    let why = match project.allowance(&model) {
        ModelRule::Known { allowance: Allowance::Off { source }, .. } => {
            format!("{model} is off in project `{}` ({source})", project.name)
        }
        ModelRule::Unknown if project.unknown_models == UnknownModels::Refuse => {
            format!("project `{}` refuses models that nobody knows, as {model}", project.name)
        }
        ModelRule::Known { .. } | ModelRule::Unknown => {
            return Ok(PoolRoute { project: project.name.clone(), model });
        }
    };
    let fix = "remove the route, or add a [[project.limits]] table that turns the model on";
    Err(document.refuse(raw.model.span(), format!("[pool.{pool}]: {why}"), fix))
}

pub(super) fn tenants(
    document: Document<'_>,
    raw: &BTreeMap<Text, Spanned<i64>>,
) -> Result<BTreeMap<String, u32>, ConfigError> {
    let mut tenants = BTreeMap::new();
    for (tenant, weight) in raw {
        if !tenant_name(tenant.get_ref()) {
            let what = "a tenant's name is empty, too long or has control characters";
            let fix = "write 1 to 256 bytes, such as \"uid:1000\"";
            return Err(document.refuse(tenant.span(), what, fix));
        }
        let fits = |number: &u32| (1..=TENANT_WEIGHT_MAX).contains(number);
        let Some(number) = u32::try_from(*weight.get_ref()).ok().filter(fits) else {
            let what = format!("weight {} of a tenant is out of range", weight.get_ref());
            let fix = format!("write 1 to {TENANT_WEIGHT_MAX}");
            return Err(document.refuse(weight.span(), what, fix));
        };
        tenants.insert(tenant.get_ref().clone(), number);
    }
    Ok(tenants)
}

pub(super) fn defaults(
    document: Document<'_>,
    projects: &[Project],
    pools: &BTreeMap<String, Vec<PoolRoute>>,
    raw: RawDefaults,
) -> Result<Defaults, ConfigError> {
    let names: Vec<&str> = projects.iter().map(|project| project.name.as_str()).collect();
    let start: Range<usize> = 0..0;
    if names.is_empty() {
        let fix = "add a [[project]] table with `name` and `keys`";
        return Err(document.refuse(start, "no project is configured", fix));
    }
    if let Some(pool) = raw.pool {
        if let Some(beside) = raw.project.as_ref().or(raw.model.as_ref()) {
            let what = "[defaults] names a pool and a project or model besides";
            let fix = "keep one: the pool says which projects and models there are";
            return Err(document.refuse(beside.span(), what, fix));
        }
        let Some(routes) = pools.get(pool.get_ref()) else {
            let known: Vec<&str> = pools.keys().map(String::as_str).collect();
            let what = format!("defaults.pool: no pool is called `{}`", pool.get_ref());
            let fix = match known[..] {
                [] => "add a [pool.NAME] table".to_owned(),
                _ => suggest(pool.get_ref(), &known),
            };
            return Err(document.refuse(pool.span(), what, fix));
        };
        let project = routes[0].project.clone();
        return Ok(Defaults { project, model: None, pool: Some(pool.into_inner()) });
    }
    let project = match (raw.project, names.as_slice()) {
        (Some(name), names) if !names.contains(&name.get_ref().as_str()) => {
            let what = format!("defaults.project: no project is called `{}`", name.get_ref());
            return Err(document.refuse(name.span(), what, suggest(name.get_ref(), names)));
        }
        (Some(name), _) => name.into_inner(),
        (None, [only]) => (*only).to_owned(),
        (None, names) => {
            let what = "several projects and no default among them";
            let fix = format!("set defaults.project to one of: {}", names.join(", "));
            return Err(document.refuse(start, what, fix));
        }
    };
    let model = raw.model.map(|model| model_id(document, "defaults.model", &model)).transpose()?;
    Ok(Defaults { project, model, pool: None })
}
