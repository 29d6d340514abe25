//! `tidegate check-config`.

use super::{EX_CONFIG, Failure, Global, no_overrides, print};
use crate::api::check_tls;
use crate::config::{Env, Project};
use crate::engine::start;

pub(super) fn run(global: &Global, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    for project in &config.projects {
        start::quota_day(project).map_err(|error| Failure::of(EX_CONFIG)(&error))?;
    }
    check_tls(&config.server).map_err(|error| Failure::of(EX_CONFIG)(&error))?;
    // Who may not read them is told so, and shown the rest.
    let (config, unread) = match config.clone().with_imported_keys() {
        Ok(config) => (config, None),
        Err(error) => (config, Some(Failure::of(EX_CONFIG)(&error))),
    };
    print(&config.render_masked());
    if let Some(failure) = unread {
        return Err(failure);
    }
    let missing: Vec<_> = config.projects.iter().flat_map(Project::missing_keys).collect();
    if missing.is_empty() { Ok(0) } else { Err(Failure::new(EX_CONFIG, missing.join("\n"))) }
}
