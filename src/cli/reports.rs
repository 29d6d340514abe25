//! `tidegate usage`.

use super::client::{Source, source};
use super::{EX_CONFIG, EX_FAILURE, EX_USAGE, Failure, Global, no_overrides, print, print_json};
use crate::clock;
use crate::config::Env;
use crate::config::prices::Prices;
use crate::report::query::UsageParams;
use crate::report::usage::{Terms, UsageReport, usage as usage_report};
use crate::report::{csv, table};

/// Options of `usage`.
#[derive(Debug, clap::Args)]
pub(super) struct UsageArgs {
    /// Columns with commas between: project, model, key, tenant, batch, hour, day
    /// [default: project,model]
    #[arg(long, value_name = "COLUMNS")]
    by: Option<String>,
    /// From when: RFC 3339, YYYY-MM-DD, or an age such as 24h [default: today, by the provider's
    /// day]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until when [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this project only
    #[arg(long)]
    project: Option<String>,
    /// Of this model only
    #[arg(long)]
    model: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
    /// Comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

pub(super) async fn usage(global: &Global, args: UsageArgs, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    let UsageArgs { by, since, until, project, model, json, csv } = args;
    let params = UsageParams { by, since, until, project, model };
    let now = clock::now();
    let query = params.clone().read(now).map_err(|error| Failure::of(EX_USAGE)(&error))?;
    let report = match source(&config).await? {
        Source::Daemon(daemon) => daemon.get_with::<UsageReport>("/api/v1/usage", &params).await?,
        Source::Database(reader) => {
            let terms = Terms::of(&config).map_err(|error| Failure::of(EX_CONFIG)(&error))?;
            usage_report(&reader, &query, &terms, Prices::shipped(), now)
                .await
                .map_err(|error| Failure::of(EX_FAILURE)(&error))?
        }
    };
    if json {
        print_json(&report);
    } else if csv {
        print(&csv::usage(&report));
    } else {
        print(&table::usage(&report, super::style(env)));
    }
    Ok(0)
}
