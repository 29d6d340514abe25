//! `tidegate pause` and `tidegate resume`: quotas paused by hand.

use super::client::daemon;
use super::{EX_UNAVAILABLE, Failure, Global, no_overrides, print, print_json};
use crate::api::HoldBody;
use crate::config::Env;
use crate::report::pauses::PausesReport;

/// Options of `pause` and `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose quota; everything when not given
    project: Option<String>,
    /// Of which model; all of the project when not given
    model: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Pauses or resumes, and shows all that is paused then.
pub(super) async fn run(global: &Global, args: Args, path: &str, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    let Some(daemon) = daemon(&config).await? else {
        let why = "no daemon runs: start it, since only it may write the database";
        return Err(Failure::new(EX_UNAVAILABLE, why));
    };
    let body = HoldBody { project: args.project, model: args.model };
    let report: PausesReport = daemon.post_json(path, &body).await?;
    if args.json {
        print_json(&report);
    } else {
        print(&report.text());
    }
    Ok(0)
}
