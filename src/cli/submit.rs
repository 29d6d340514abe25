//! `tidegate submit`: job files into the spool, safely.

use std::fs::File;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{EX_FAILURE, Failure, Global, no_overrides, print};
use crate::config::Env;
use crate::formats::{self, BatchOptions, InDoubt, OnBadLine, Priority};
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
        spool::drop_in(&config.server.spool_dir, name, &mut file, Some(&options))
            .map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        print(&format!("{id}\n"));
    }
    Ok(0)
}
