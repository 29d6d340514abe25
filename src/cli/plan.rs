//! `tidegate plan`: when would this be done, and what would hold it up?

use std::fs::File;
use std::io::{IsTerminal, Seek};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use super::client::daemon;
use super::{EX_FAILURE, EX_USAGE, Failure, Global, no_overrides, print, print_json, style};
use crate::caps;
use crate::clock;
use crate::config::{Config, Env, ModelRule, Provider};
use crate::engine::import;
use crate::engine::routes::Wish;
use crate::engine::start;
use crate::engine::text::{self, Head};
use crate::formats::{self, BatchOptions, Priority};
use crate::gate::limits::{Allowance, Limit};
use crate::report::plan::{PlanBody, PlanError, PlanFile, PlanReport, PromptRun, plan, set_tier};
use crate::report::plan_text;
use crate::schedule::forecast::STARTS_MOST;
use crate::spool;
use crate::store::{NewItem, Reader, SetLimit, Store};

/// Files that take longer to read than one waits without a sign.
const BIG_BYTES: u64 = 8 << 20;

/// Options of `plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// As if the project were on this tier
    #[arg(long)]
    tier: Option<String>,
    /// Whose quota to use
    #[arg(long)]
    project: Option<String>,
    /// The model
    #[arg(long)]
    model: Option<String>,
    /// The pool of projects and models
    #[arg(long)]
    pool: Option<String>,
    /// high, normal or low
    #[arg(long)]
    priority: Option<Priority>,
    /// Who fairness is between
    #[arg(long)]
    tenant: Option<String>,
    /// When it should be done (RFC 3339)
    #[arg(long, value_name = "TIME")]
    deadline: Option<DateTime<Utc>>,
    /// Send nothing before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    not_before: Option<DateTime<Utc>>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    if args.files.len() > caps::PLAN_FILES_MAX {
        let most = caps::PLAN_FILES_MAX;
        return Err(Failure::new(EX_USAGE, format!("at most {most} files are planned at once")));
    }
    let config = global.config(env, no_overrides())?;
    let running = daemon(&config).await?;
    let reader = Reader::open(&config.server.state_dir).ok();
    let config = with_sets(config, reader.as_ref()).await?;
    let body = tokio::task::block_in_place(|| read_all(&args, &config))?;
    let report = match (&running, &reader) {
        (Some(daemon), _) => daemon.post_json("/api/v1/plan", &body).await?,
        (None, Some(reader)) => beside(&config, reader, body).await?,
        (None, None) => from_nothing(&config, body).await?,
    };
    if args.json {
        print_json(&report);
    } else {
        print(&plan_text::plan(&report, style(env)));
    }
    Ok(0)
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::of(EX_FAILURE)(error)
}

/// The configuration with what users set while a daemon ran.
async fn with_sets(config: Config, reader: Option<&Reader>) -> Result<Config, Failure> {
    let Some(reader) = reader else { return Ok(config) };
    let sets = reader.set_limits().await.map_err(|error| failed(&error))?;
    Ok(config.with_set_limits(sets.iter().map(SetLimit::parts)))
}

/// The plan by the ledger alone.
async fn beside(config: &Config, reader: &Reader, body: PlanBody) -> Result<PlanReport, Failure> {
    let now = clock::now();
    let looked = start::look(config, reader, now).await;
    let (mut engine, routes) = looked.map_err(|error| failed(&error))?;
    let opened = engine.open_all(reader, &routes, config, now).await;
    opened.map_err(|error| failed(&error))?;
    plan(engine, reader, config, body, now).await.map_err(|error| refused(&error))
}

/// The plan where nothing was ever sent: over an empty database, which is thrown away.
async fn from_nothing(config: &Config, body: PlanBody) -> Result<PlanReport, Failure> {
    let name = format!("tidegate-plan-{}", uuid::Uuid::now_v7().simple());
    let dir = std::env::temp_dir().join(name);
    let boot = clock::boot_uuid().map_err(|error| failed(&error))?;
    let store = Store::open(&dir, &boot).await.map_err(|error| failed(&error))?;
    let report = beside(config, store.reader(), body).await;
    drop(store);
    // What is left of it is a temporary directory.
    let _ = std::fs::remove_dir_all(&dir);
    report
}

fn refused(error: &PlanError) -> Failure {
    let code = match error {
        PlanError::File { .. } | PlanError::Tier { .. } => EX_USAGE,
        PlanError::Store(_) | PlanError::Broken => EX_FAILURE,
    };
    Failure::of(code)(error)
}

/// Reads every file as the daemon would.
fn read_all(args: &Args, config: &Config) -> Result<PlanBody, Failure> {
    let exact = STARTS_MOST / args.files.len().max(1);
    let mut batches = Vec::new();
    for path in &args.files {
        batches.push(read_file(path, args, config, exact.max(100))?);
    }
    Ok(PlanBody { tier: args.tier.clone(), batches })
}

fn read_file(path: &Path, args: &Args, config: &Config, exact: usize) -> Result<PlanFile, Failure> {
    let told = |why: String| Failure::new(EX_FAILURE, format!("{}: {why}", path.display()));
    let misused = |why: String| Failure::new(EX_USAGE, format!("{}: {why}", path.display()));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| told("the file's name is not text".to_owned()))?;
    let known = formats::recognise(name).map_err(|error| misused(error.to_string()))?;
    let broken = |error: std::io::Error| told(error.to_string());
    let file = File::open(path).map_err(broken)?;
    let text = spool::unpacked(file, known.packing, &std::env::temp_dir()).map_err(broken)?;
    let text = text.map_err(misused)?;
    let begin = text.try_clone().map_err(broken)?;
    let head = text::head(begin, known.family).map_err(broken)?.map_err(misused)?;
    let mut options = options_of(path, &head, args).map_err(misused)?;
    if options.model.is_none() && options.pool.is_none() {
        options.model = head.model();
    }
    let provider = provider(&options, config).map_err(misused)?;
    let form = head.form(&options, provider).map_err(misused)?;
    let limits = ceilings(&options, args, config).map_err(misused)?;
    let models: Vec<_> =
        limits.iter().map(|(model, limits)| (model.as_str(), limits.as_slice())).collect();
    let mut file = text;
    file.rewind().map_err(broken)?;
    let size = file.metadata().map_or(0, |about| about.len());
    let bar = progress(size, name);
    let mut prompts = Prompts { exact, read: 0, runs: Vec::new(), means: Vec::new(), group: None };
    let imported = import::survey(file, (known.family, form), &models, |slice, bytes| {
        bar.set_position(bytes);
        slice.iter().filter(|item| item.state == 0).for_each(|item| prompts.push(item));
        true
    });
    bar.finish_and_clear();
    let imported = imported.map_err(|error| told(error.to_string()))?;
    if let Some(why) = imported.unusable {
        return Err(told(why));
    }
    prompts.close();
    let bad = imported.listed.first();
    Ok(PlanFile {
        file: name.to_owned(),
        options,
        prompts: prompts.runs,
        means: prompts.means,
        bad_lines: imported.bad_lines,
        first_bad_line: bad.map(|bad| format!("line {}: {}", bad.line, bad.reason)),
    })
}

/// What is spoken by the provider that a file would ask first.
fn provider(options: &BatchOptions, config: &Config) -> Result<Provider, String> {
    let wish = Wish::of(options, config)?;
    let project = wish.first.first().and_then(|route| config.project(&route.project));
    Ok(project.map_or(Provider::Gemini, |project| project.provider))
}

/// The options of a file as they would hold: those of the command line over its first line's over
/// those beside it.
fn options_of(path: &Path, head: &Head, args: &Args) -> Result<BatchOptions, String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(formats::SIDECAR_SUFFIX);
    let beside = match std::fs::read_to_string(&beside) {
        Ok(text) => formats::sidecar(&text).map_err(|error| error.to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BatchOptions::default(),
        Err(error) => return Err(format!("its options file: {error}")),
    };
    let of_file = head.options.clone().unwrap_or_default().merged_over(beside);
    // A pool or a model of the command line takes the place of the other in the file.
    let of_file = BatchOptions {
        pool: of_file.pool.filter(|_| args.model.is_none()),
        model: of_file.model.filter(|_| args.pool.is_none()),
        ..of_file
    };
    let said = BatchOptions {
        project: args.project.clone(),
        model: args.model.clone(),
        pool: args.pool.clone(),
        priority: args.priority,
        tenant: args.tenant.clone(),
        deadline: args.deadline,
        not_before: args.not_before,
        ..BatchOptions::default()
    };
    let options = said.merged_over(of_file);
    let owner = || format!("uid:{}", rustix::process::getuid().as_raw());
    Ok(BatchOptions { tenant: options.tenant.or_else(|| Some(owner())), ..options })
}

/// The models that the file may use, each with its limits.
fn ceilings(
    options: &BatchOptions,
    args: &Args,
    config: &Config,
) -> Result<Vec<(String, Vec<Limit>)>, String> {
    let wish = Wish::of(options, config)?;
    let mut models = Vec::new();
    for route in wish.first {
        let Some(project) = config.project(&route.project) else { continue };
        let mut project = project.clone();
        if let Some(tier) = &args.tier {
            set_tier(&mut project, tier).map_err(|error| error.to_string())?;
        }
        let limits = match project.allowance(&route.model) {
            ModelRule::Known { allowance: Allowance::Limited(limits), .. } => limits,
            ModelRule::Known { allowance: Allowance::Off { .. }, .. } | ModelRule::Unknown => {
                Vec::new()
            }
        };
        models.push((route.model, limits));
    }
    Ok(models)
}

fn progress(size: u64, name: &str) -> ProgressBar {
    if size < BIG_BYTES || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let form = "{msg} {bar:30} {bytes} of {total_bytes}";
    let style = ProgressStyle::with_template(form).expect("a constant form");
    ProgressBar::new(size).with_style(style).with_message(name.to_owned())
}

/// The prompts of a file: the first one by one, the others in groups of means.
struct Prompts {
    exact: usize,
    read: usize,
    runs: Vec<PromptRun>,
    means: Vec<PromptRun>,
    group: Option<Group>,
}

#[derive(Default)]
struct Group {
    count: u64,
    input_tokens: u64,
    images: u64,
    output_tokens: u64,
    bounded: u64,
}

impl Prompts {
    fn push(&mut self, item: &NewItem) {
        if self.read < self.exact {
            self.read += 1;
            let text = item.text.map(|text| (text.text_bytes, text.media_tokens, text.kind));
            let next = PromptRun(1, item.tokens, item.images, item.output_tokens_max, text);
            match self.runs.last_mut() {
                Some(last) if (PromptRun(1, last.1, last.2, last.3, last.4)) == next => last.0 += 1,
                Some(_) | None => self.runs.push(next),
            }
            return;
        }
        let group = self.group.get_or_insert_default();
        group.count += 1;
        group.input_tokens = group.input_tokens.saturating_add(item.tokens);
        group.images = group.images.saturating_add(item.images);
        if let Some(most) = item.output_tokens_max {
            group.bounded += 1;
            group.output_tokens = group.output_tokens.saturating_add(most);
        }
        if group.count >= caps::PLAN_GROUP {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(group) = self.group.take() else { return };
        let mean = |sum: u64| sum.div_ceil(group.count);
        let bounded = group.bounded == group.count;
        let output = bounded.then(|| mean(group.output_tokens));
        let (tokens, images) = (mean(group.input_tokens), mean(group.images));
        self.means.push(PromptRun(group.count, tokens, images, output, None));
    }
}
