//! `tidegate submit`: job files into the spool, safely.

use std::fs::File;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{EX_FAILURE, EX_USAGE, Failure, Global, no_overrides, print};
use crate::clock;
use crate::config::{Config, Env, ModelRule};
use crate::engine::routes::{self, Wish};
use crate::formats::{self, BatchOptions, BatchPace, InDoubt, OnBadLine, Priority};
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
    /// The configuration's pool of routes to take, instead of a model
    #[arg(long)]
    pool: Option<String>,
    /// A model to try when the first choice is far off; may be given several times
    #[arg(long, value_name = "MODEL")]
    fallback: Vec<String>,
    /// How far off that is, such as 30m
    #[arg(long, value_name = "LENGTH")]
    patience: Option<humantime::Duration>,
    /// asap, or spread over the time until the deadline
    #[arg(long)]
    pace: Option<BatchPace>,
    /// high, normal or low
    #[arg(long)]
    priority: Option<Priority>,
    /// Who fairness is between
    #[arg(long)]
    tenant: Option<String>,
    /// When it should be done (RFC 3339)
    #[arg(long, value_name = "TIME")]
    deadline: Option<DateTime<Utc>>,
    /// What it may cost at most, in US dollars with at most six decimals
    #[arg(long, value_name = "DOLLARS")]
    max_cost: Option<String>,
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
        let options = formats::sidecar_text(&options(args, id)?);
        // What the daemon would refuse is told here, not in a file that nobody looks at.
        formats::sidecar(&options).map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        spool::drop_in(spool_dir, name, &mut file, Some(&options))
            .map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        print(&format!("{id}\n"));
    }
    Ok(0)
}

fn options(args: &Args, id: uuid::Uuid) -> Result<BatchOptions, Failure> {
    let usage = |why: String| Failure::new(EX_USAGE, why);
    let max_cost = args.max_cost.as_deref().map(|text| {
        let why = || format!("--max-cost {text}: not US dollars with at most six decimals");
        formats::micro_dollars(text).ok_or_else(|| usage(why()))
    });
    let patience = args.patience.map(|length| {
        let ms = u64::try_from(length.as_millis()).ok();
        ms.ok_or_else(|| usage("--patience is too long".to_owned()))
    });
    Ok(BatchOptions {
        project: args.project.clone(),
        model: args.model.clone(),
        pool: args.pool.clone(),
        fallback: (!args.fallback.is_empty()).then(|| args.fallback.clone()),
        patience_ms: patience.transpose()?,
        pace: args.pace,
        priority: args.priority,
        tenant: args.tenant.clone(),
        deadline: args.deadline,
        not_before: args.not_before,
        name: args.name.clone(),
        max_cost_micro_usd: max_cost.transpose()?,
        in_doubt: args.in_doubt,
        on_bad_line: args.on_bad_line,
        template: None,
        id: Some(id),
    })
}

/// What the daemon would refuse for its project, pool, models or cost is told at once.
fn check_route(config: &Config, args: &Args) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(EX_USAGE, why));
    let named = options(args, uuid::Uuid::nil())?;
    let by_default = config.defaults.pool.is_some() && named.project.is_none();
    let known = named.model.is_some() || config.defaults.model.is_some();
    if named.pool.is_none() && !by_default && !known {
        // The file's first line may name one; of the project enough is known.
        let any = BatchOptions { model: Some("any".to_owned()), ..named };
        return Wish::of(&any, config).map(drop).or_else(refuse);
    }
    let wish = match Wish::of(&named, config) {
        Ok(wish) => wish,
        Err(why) => return refuse(why),
    };
    if named.max_cost_micro_usd.is_some() {
        // In place of a default the file's first line may name another model.
        let defaults =
            if named.model.is_some() || named.pool.is_some() { 0 } else { wish.first.len() };
        let models = wish.models().split_off(defaults);
        let models = models.iter().map(|(project, model)| (project.as_str(), model.as_str()));
        if let Some(why) = routes::unpriced(models, config, clock::now().wall) {
            return refuse(why);
        }
    }
    let Some(model) = &named.model else { return Ok(()) };
    let name = &wish.first[0].project;
    let rule = config.project(name).map(|project| project.allowance(model));
    match rule {
        Some(ModelRule::Known { allowance: Allowance::Off { source }, .. }) => {
            refuse(format!("{model} is not offered to project {name} ({source})"))
        }
        Some(ModelRule::Known { .. } | ModelRule::Unknown) | None => Ok(()),
    }
}
