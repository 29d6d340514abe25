//! `tidegate submit`: job files into the spool, safely.

use std::fs::File;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{EX_FAILURE, EX_USAGE, Failure, Global, no_overrides, print};
use crate::config::{Config, Env, ModelRule};
use crate::formats::{self, BatchOptions, InDoubt, OnBadLine, Priority};
use crate::gate::limits::Allowance;
use crate::spool;

/// Options of `submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose quota to use
    #[arg(long)]
    project: Option<String>,
    /// The model
    #[arg(long)]
    model: Option<String>,
    /// high, normal or low
    #[arg(long)]
    priority: Option<Priority>,
    /// Who fairness is between
    #[arg(long)]
    tenant: Option<String>,
    /// Send nothing before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    not_before: Option<DateTime<Utc>>,
    /// What to call the results
    #[arg(long)]
    name: Option<String>,
    /// What to do when it is unknown whether a request was answered: retry, hold or fail
    #[arg(long)]
    in_doubt: Option<InDoubt>,
    /// What to do with a bad line: reject the file, or skip the line
    #[arg(long)]
    on_bad_line: Option<OnBadLine>,
}

pub(super) fn run(global: &Global, args: &Args, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    check_route(&config, args)?;
    let spool_dir = &config.server.spool_dir;
    if !spool_dir.join("incoming").exists() {
        // The daemon makes it too; the file waits there until one runs.
        spool::Spool::open(spool_dir).map_err(|error| Failure::of(EX_FAILURE)(&error))?;
    }
    for path in &args.files {
        let shown = path.display();
        let failed = |why: String| Failure::new(EX_FAILURE, format!("{shown}: {why}"));
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| failed("the file's name is not text".to_owned()))?;
        formats::recognise(name).map_err(|error| failed(error.to_string()))?;
        let mut file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let id = uuid::Uuid::now_v7();
        let options = BatchOptions {
            project: args.project.clone(),
            model: args.model.clone(),
            priority: args.priority,
            tenant: args.tenant.clone(),
            not_before: args.not_before,
            name: args.name.clone(),
            in_doubt: args.in_doubt,
            on_bad_line: args.on_bad_line,
            id: Some(id),
            ..BatchOptions::default()
        };
        let options = formats::sidecar_text(&options);
        // What the daemon would refuse is told here, not in a file that nobody looks at.
        formats::sidecar(&options).map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        spool::drop_in(spool_dir, name, &mut file, Some(&options))
            .map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        print(&format!("{id}\n"));
    }
    Ok(0)
}

/// What the daemon would refuse for its project or model is told at once.
fn check_route(config: &Config, args: &Args) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(EX_USAGE, why));
    let name = args.project.as_ref().unwrap_or(&config.defaults.project);
    let Some(project) = config.project(name) else {
        let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
        return refuse(format!("no project {name}: the configuration has {}", known.join(", ")));
    };
    // Without a model here the file's first line may name one.
    let Some(model) = args.model.as_ref().or(config.defaults.model.as_ref()) else {
        return Ok(());
    };
    match project.allowance(model) {
        ModelRule::Known { allowance: Allowance::Off { source }, .. } if args.model.is_some() => {
            refuse(format!("{model} is not offered to project {name} ({source})"))
        }
        ModelRule::Known { .. } | ModelRule::Unknown => Ok(()),
    }
}
