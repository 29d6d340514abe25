//! Keys that come, go, are disabled and enabled while the daemon runs.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Desk, DeskError};
use crate::config::{Config, ImportReport, Keystore, Project};
use crate::engine::keys::{KeySwitch, NewKeys};
use crate::engine::start;
use crate::engine::state::Event;

impl Desk {
    /// Writes the keys of a keystore that a project does not have yet, and puts them in use.
    ///
    /// # Errors
    /// Each says what is wrong. Keys that were written before it stay.
    pub async fn import_keys(
        &self,
        project: &str,
        keystore: Keystore,
    ) -> Result<ImportReport, DeskError> {
        let _turn = self.turn.lock().await;
        let config = self.imported().await?;
        let mut importing = find(&config, project)?.clone();
        let state_dir = config.server.state_dir.clone();
        let write = move || importing.import_keys(&state_dir, &keystore);
        let written = tokio::task::spawn_blocking(write).await.map_err(|_| DeskError::Stopping)?;
        let config = self.imported().await?;
        self.take_up_keys(&config).await?;
        self.config.send_replace(Arc::new(config));
        let report = written?;
        tracing::info!(project.name = %report.project, added = report.added.len(),
            "{} keys were imported into {project}", report.added.len());
        Ok(report)
    }

    /// Reads the imported keys anew and puts them in use.
    ///
    /// # Errors
    /// When they cannot be read, or a project is left without a key; nothing has changed then.
    pub async fn reload_keys(&self) -> Result<(), DeskError> {
        let _turn = self.turn.lock().await;
        let config = self.imported().await?;
        no_key_is_missing(&config)?;
        self.take_up_keys(&config).await?;
        self.config.send_replace(Arc::new(config));
        Ok(())
    }

    /// Takes a key out of use, or puts it in use again with nothing held against it. Without a
    /// project its name has to be that of one key alone.
    ///
    /// # Errors
    /// Each says what is wrong; nothing has changed then.
    pub async fn switch_key(
        &self,
        project: Option<&str>,
        name: &str,
        disabled: bool,
    ) -> Result<(), DeskError> {
        let _turn = self.turn.lock().await;
        let config = self.config();
        if let Some(project) = project {
            find(&config, project)?;
        }
        let has = |known: &&Project| {
            project.is_none_or(|wanted| wanted == known.name)
                && known.keys.iter().any(|key| key.name == name)
        };
        let having: Vec<_> = config.projects.iter().filter(has).collect();
        let owner = match having[..] {
            [owner] => owner,
            [] => {
                let known = config.projects.iter().flat_map(|project| {
                    project.keys.iter().map(move |key| format!("{} {}", project.name, key.name))
                });
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(DeskError::Key { name: name.to_owned(), known });
            }
            [..] => {
                let projects: Vec<_> = having.iter().map(|owner| owner.name.as_str()).collect();
                let projects = projects.join(", ");
                return Err(DeskError::Ambiguous { name: name.to_owned(), projects });
            }
        };
        let id = self.project_id(&owner.name).ok_or(DeskError::Stopping)?;
        self.store.disable_key(id, name.to_owned(), disabled).await?;
        let word = if disabled { "disabled" } else { "enabled" };
        tracing::info!(project.name = %owner.name, key.name = %name,
            "key {name} of {} is {word}", owner.name);
        let (done, in_force) = oneshot::channel();
        let switch = KeySwitch { project: id, name: name.to_owned(), disabled, done };
        let told = self.events.send(Event::Switch(switch)).await;
        told.map_err(|_| DeskError::Stopping)?;
        in_force.await.map_err(|_| DeskError::Stopping)
    }

    /// The configuration in force with the keys that are imported now.
    async fn imported(&self) -> Result<Config, DeskError> {
        let config = self.config().as_ref().clone();
        let read = tokio::task::spawn_blocking(move || config.with_imported_keys());
        Ok(read.await.map_err(|_| DeskError::Stopping)??)
    }

    /// Puts the keys of a configuration in use.
    pub(super) async fn take_up_keys(&self, config: &Config) -> Result<(), DeskError> {
        for project in &config.projects {
            let Some(id) = self.project_id(&project.name) else { continue };
            self.store.keep_keys_only(id, start::key_names(project)).await?;
            let ring = self.endpoints.take_up(id, &project.keys);
            let (done, in_force) = oneshot::channel();
            let new = Box::new(NewKeys { project: id, ring, done });
            self.events.send(Event::Keys(new)).await.map_err(|_| DeskError::Stopping)?;
            in_force.await.map_err(|_| DeskError::Stopping)?;
        }
        Ok(())
    }
}

pub(super) fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Project, DeskError> {
    config.project(name).ok_or_else(|| {
        let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
        DeskError::Project { project: name.to_owned(), known: known.join(", ") }
    })
}

/// A daemon does not go on with fewer keys than it would start with.
pub(super) fn no_key_is_missing(config: &Config) -> Result<(), DeskError> {
    let missing: Vec<_> = config.projects.iter().flat_map(Project::missing_keys).collect();
    if missing.is_empty() { Ok(()) } else { Err(DeskError::Missing(missing.join("; "))) }
}
