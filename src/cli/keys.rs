//! `tidegate keys`: listed, imported, disabled and enabled.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use super::client::{Daemon, daemon, private_daemon};
use super::{
    EX_CONFIG, EX_FAILURE, EX_UNAVAILABLE, EX_USAGE, Failure, Global, no_overrides, print,
    print_json, style,
};
use crate::api::{ImportParams, SwitchKeyBody};
use crate::clock;
use crate::config::{Config, Env, ImportReport, KEYSTORE_BYTES_MAX, Keystore};
use crate::engine::start;
use crate::report::keys::{KeysReport, keys as keys_report};
use crate::report::limits::{LimitsReport, limits as limits_report};
use crate::report::table;
use crate::report::usage::Terms;
use crate::store::{Reader, SetLimit, database_path};

/// Options of `keys`.
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
    /// Imports the keys of a keystore.json, as Key Mixer has it, into a project
    Import(ImportArgs),
    /// Takes a key out of use, until it is enabled
    Disable(SwitchArgs),
    /// Puts a key in use again: one that was disabled, or set aside for its refusals
    Enable(SwitchArgs),
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// An object of arrays of keys; `-` for standard input
    file: PathBuf,
    /// Whose keys they are
    #[arg(long, value_name = "NAME")]
    project: String,
    /// The entry of it to take [default: all]
    #[arg(long, value_name = "ENTRY")]
    service: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SwitchArgs {
    /// The key's name, behind its project's when several projects have such a key
    #[arg(value_names = ["PROJECT", "NAME"], num_args = 1..=2, required = true)]
    key: Vec<String>,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    match args.command {
        Some(Command::Import(args)) => import(config, args).await,
        Some(Command::Disable(args)) => switch(&config, args, "disable", env).await,
        Some(Command::Enable(args)) => switch(&config, args, "enable", env).await,
        None => show(config, args.json, env).await,
    }
}

async fn show(config: Config, json: bool, env: &Env) -> Result<u8, Failure> {
    let report = match daemon(&config).await? {
        Some(daemon) => daemon.get::<KeysReport>("/api/v1/keys").await?,
        None => keys_of(config).await?,
    };
    if json {
        print_json(&report);
    } else {
        print(&table::keys(&report, style(env)));
    }
    Ok(0)
}

/// The keys as configuration and ledger alone show them.
async fn keys_of(config: Config) -> Result<KeysReport, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(EX_FAILURE)(error);
    let config = config.with_imported_keys().map_err(|error| failed(&error))?;
    let terms = Terms::of(&config).map_err(|error| Failure::of(EX_CONFIG)(&error))?;
    let now = clock::now();
    let none = LimitsReport::none(now.wall);
    if !database_path(&config.server.state_dir).exists() {
        let report = keys_report(None, &[], &none, (&config, &terms), now).await;
        return report.map_err(|error| failed(&error));
    }
    let reader = Reader::open(&config.server.state_dir).map_err(|error| failed(&error))?;
    let sets = reader.set_limits().await.map_err(|error| failed(&error))?;
    let config = config.with_set_limits(sets.iter().map(SetLimit::parts));
    let (mut engine, _) =
        start::look(&config, &reader, now).await.map_err(|error| failed(&error))?;
    let projects = engine.projects();
    let limits = limits_report(engine.buckets(now), projects, &config, now.wall);
    keys_report(Some(&reader), &engine.keys(now), &limits, (&config, &terms), now)
        .await
        .map_err(|error| failed(&error))
}

/// The running daemon writes them, if it may be given keys; else this process does, and tells it.
async fn import(config: Config, args: ImportArgs) -> Result<u8, Failure> {
    let ImportArgs { file, project, service, json } = args;
    if config.project(&project).is_none() {
        let known: Vec<_> = config.projects.iter().map(|known| known.name.as_str()).collect();
        let told = format!("no project {project}; the configuration has: {}", known.join(", "));
        return Err(Failure::new(EX_USAGE, told));
    }
    let content = read(&file)?;
    let keystore = Keystore::parse(&content, service.as_deref())
        .map_err(|error| Failure::new(EX_FAILURE, format!("{}: {error}", file.display())))?;
    let report = if let Some(daemon) = private_daemon(&config).await? {
        let params = ImportParams { project, service };
        daemon.post_bytes("/api/v1/keys/import", &params, content).await?
    } else {
        let report = write(config.clone(), &project, &keystore)?;
        if let Some(daemon) = daemon(&config).await? {
            daemon.post::<KeysReport>("/api/v1/keys/reload").await?;
        }
        report
    };
    if json {
        print_json(&report);
    } else {
        print(&table::import(&report));
    }
    Ok(0)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let most = u64::try_from(KEYSTORE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let read = if file == Path::new("-") {
        stdin().lock().take(most).read_to_end(&mut content)
    } else {
        File::open(file).and_then(|open| open.take(most).read_to_end(&mut content))
    };
    let failed =
        |error| Failure::new(EX_FAILURE, format!("cannot read {}: {error}", file.display()));
    read.map(|_| content).map_err(failed)
}

/// Writes the keys where the next start, or a daemon that is told, finds them.
fn write(config: Config, project: &str, keystore: &Keystore) -> Result<ImportReport, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(EX_FAILURE)(error);
    let mut config = config.with_imported_keys().map_err(|error| failed(&error))?;
    let known = config.projects.iter_mut().find(|known| known.name == project);
    let project = known.expect("a project that was looked up");
    project.import_keys(&config.server.state_dir, keystore).map_err(|error| failed(&error))
}

async fn switch(config: &Config, args: SwitchArgs, verb: &str, env: &Env) -> Result<u8, Failure> {
    let daemon = running(config).await?;
    let mut words = args.key;
    let name = words.pop().expect("one or two words");
    let body = SwitchKeyBody { project: words.pop(), name };
    let path = format!("/api/v1/keys/{verb}");
    let report: KeysReport = daemon.post_json(&path, &body).await?;
    print(&table::keys(&report, style(env)));
    Ok(0)
}

/// The daemon, which these commands cannot do without.
async fn running(config: &Config) -> Result<Daemon, Failure> {
    daemon(config).await?.ok_or_else(|| {
        let what = "no daemon of this configuration runs: start it with `tidegate serve`, or take \
            the key out of the configuration";
        Failure::new(EX_UNAVAILABLE, what)
    })
}
