//! `tidegate limits`: as they stand, changed, and explained.

use super::client::{Daemon, Source, daemon, source};
use super::{
    EX_FAILURE, EX_UNAVAILABLE, Failure, Global, no_overrides, presets, print, print_json, style,
};
use crate::api::{ExplainParams, SetLimitBody};
use crate::clock;
use crate::config::{Config, Env};
use crate::engine::start;
use crate::report::explain::{self, ExplainReport};
use crate::report::limits::{HistoryReport, LimitsReport, limits as limits_report};
use crate::report::table;

/// Options of `limits`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sets a limit of the running daemon, at once and for good
    Set(SetArgs),
    /// Takes back what was set, and forgets what was learned from refusals
    Unset(UnsetArgs),
    /// Says what a request would need of every limit, what is free, and what leaves when
    Explain(ExplainArgs),
    /// Lists the changes of a project's limits: set by users, learned from refusals
    History(HistoryArgs),
    /// Lists the dated tables of limits that are built in, or prints one
    Presets(presets::Args),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Whose
    project: String,
    /// The model; `*` for what all models of the project share
    model: String,
    /// rpm, tpm, rpd, tpd, ipm, spend (US dollars in ten minutes) or sessions (of each key)
    dimension: String,
    /// A number, `none` (unlimited) or `off` (the model is not to be used)
    value: String,
}

#[derive(Debug, clap::Args)]
struct UnsetArgs {
    /// Whose
    project: String,
    /// The model; `*` for what all models of the project share
    model: String,
    /// rpm, tpm, rpd, tpd, ipm, spend or sessions
    dimension: String,
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// Whose
    project: String,
    /// The model
    model: String,
    /// Requests it counts as
    #[arg(long, value_name = "N", default_value_t = 1)]
    requests: u64,
    /// Input tokens it takes
    #[arg(long, value_name = "N", default_value_t = 0)]
    tokens: u64,
    /// Images it asks for
    #[arg(long, value_name = "N", default_value_t = 0)]
    images: u64,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct HistoryArgs {
    /// Whose
    project: String,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    if let Some(Command::Presets(args)) = &args.command {
        return presets::run(args);
    }
    let config = global.config(env, no_overrides())?;
    match args.command {
        Some(Command::Set(SetArgs { project, model, dimension, value })) => {
            let body = SetLimitBody { project, model, dimension, value: Some(value) };
            change(&config, &body, env).await
        }
        Some(Command::Unset(UnsetArgs { project, model, dimension })) => {
            let body = SetLimitBody { project, model, dimension, value: None };
            change(&config, &body, env).await
        }
        Some(Command::Explain(args)) => explain(&config, args).await,
        Some(Command::History(args)) => history(&config, args, env).await,
        Some(Command::Presets(_)) | None => show(&config, args.json, env).await,
    }
}

async fn show(config: &Config, json: bool, env: &Env) -> Result<u8, Failure> {
    let report = match source(config).await? {
        Source::Daemon(daemon) => daemon.get::<LimitsReport>("/api/v1/limits").await?,
        Source::Database(reader) => limits_of(config, &reader).await?,
    };
    if json {
        print_json(&report);
    } else {
        print(&table::limits(&report, style(env)));
    }
    Ok(0)
}

/// The limits as the ledger alone shows them.
async fn limits_of(
    config: &Config,
    reader: &crate::store::Reader,
) -> Result<LimitsReport, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(EX_FAILURE)(error);
    let now = clock::now();
    let sets = reader.set_limits().await.map_err(|error| failed(&error))?;
    let config = config.clone().with_set_limits(sets.iter().map(crate::store::SetLimit::parts));
    let (mut engine, _) =
        start::look(&config, reader, now).await.map_err(|error| failed(&error))?;
    let projects = engine.projects();
    Ok(limits_report(engine.buckets(now), projects, &config, now.wall))
}

async fn change(config: &Config, body: &SetLimitBody, env: &Env) -> Result<u8, Failure> {
    let daemon = running(config).await?;
    let report: LimitsReport = daemon.post_json("/api/v1/limits", body).await?;
    let report = report.of_project(&body.project);
    print(&table::limits(&report, style(env)));
    Ok(0)
}

async fn explain(config: &Config, args: ExplainArgs) -> Result<u8, Failure> {
    let daemon = running(config).await?;
    let question = ExplainParams {
        project: args.project,
        model: args.model,
        requests: Some(args.requests),
        input_tokens: Some(args.tokens),
        images: Some(args.images),
    };
    let report: ExplainReport = daemon.get_with("/api/v1/limits/explain", &question).await?;
    if args.json {
        print_json(&report);
    } else {
        print(&explain::text(&report));
    }
    Ok(0)
}

async fn history(config: &Config, args: HistoryArgs, env: &Env) -> Result<u8, Failure> {
    let daemon = running(config).await?;
    let question = [("project", args.project)];
    let report: HistoryReport = daemon.get_with("/api/v1/limits/history", &question).await?;
    if args.json {
        print_json(&report);
    } else {
        print(&table::limit_history(&report, style(env)));
    }
    Ok(0)
}

/// The daemon, which these commands cannot do without.
async fn running(config: &Config) -> Result<Daemon, Failure> {
    daemon(config).await?.ok_or_else(|| {
        let what = "no daemon of this configuration runs: start it with `tidegate serve`, or \
            write the limit into the configuration ([[project.limits]])";
        Failure::new(EX_UNAVAILABLE, what)
    })
}
