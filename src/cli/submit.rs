//! `tidegate submit`: to the daemon, or into the spool for the next one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{self, Daemon};
use super::content::{self, Content};
use super::follow::{self, Show};
use super::options::{BatchArgs, check_route, options};
use super::{
    EX_FAILURE, EX_UNAVAILABLE, EX_USAGE, Failure, Global, no_overrides, print, print_json,
};
use crate::clock;
use crate::config::{Config, Env};
use crate::formats;
use crate::report::batches::{BatchOut, SubmittedOut, SubmittedReport};
use crate::spool;

/// How long a daemon that went away while it took a file is waited for, in milliseconds.
const PATIENCE_MS: u64 = 30_000;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Options of `submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job files; - is stdin, and needs --name
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    options: BatchArgs,
    /// What to call the results; of stdin what it is called, with the suffix
    #[arg(long)]
    name: Option<String>,
    /// The id of the batch, a UUID: the same file is the same batch, however often it is submitted
    #[arg(long, value_name = "UUID")]
    id: Option<uuid::Uuid>,
    /// Send only what has no answer in these results of the file
    #[arg(long, value_name = "RESULTS")]
    only_failed: Option<PathBuf>,
    /// Show how it goes on until it is over
    #[arg(long)]
    follow: bool,
    /// Wait until it is over
    #[arg(long, conflicts_with = "follow")]
    wait: bool,
    /// One JSON document; with --follow one for each change, on a line
    #[arg(long)]
    json: bool,
}

/// A file, its options and where it is told from.
struct Job {
    content: Content,
    options: Vec<(String, String)>,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    args.options.check()?;
    let jobs = tokio::task::block_in_place(|| jobs(&args))?;
    if jobs.is_empty() {
        return Ok(0);
    }
    let mut submitted = Vec::new();
    let mut daemon = client::daemon(&config).await?;
    let is_running = daemon.is_some();
    for job in &jobs {
        let out = if is_running {
            let batch = send(&config, &mut daemon, &args.options, job).await?;
            SubmittedOut { id: batch.id, file: batch.file, state: batch.state }
        } else {
            tokio::task::block_in_place(|| drop_in(&config, job))?
        };
        if !args.json {
            print(&format!("{}\n", out.id));
        }
        submitted.push(out);
    }
    if !is_running {
        eprintln!(
            "No daemon answers: what was submitted waits in {}, and nothing of it is sent until \
            one runs (tidegate serve).",
            config.server.spool_dir.join("incoming").display()
        );
    }
    let ids: Vec<_> = submitted.iter().map(|out| out.id.clone()).collect();
    if args.follow {
        return follow::follow(&config, &ids, Show::of_terminal(args.json)).await;
    }
    if args.json {
        print_json(&SubmittedReport { batches: submitted });
    }
    if args.wait {
        return follow::follow(&config, &ids, Show::Nothing).await;
    }
    Ok(0)
}

fn jobs(args: &Args) -> Result<Vec<Job>, Failure> {
    let usage = |why: &str| Err(Failure::new(EX_USAGE, why));
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    let one = args.files.len() == 1;
    if !one && (args.id.is_some() || args.only_failed.is_some() || args.files.iter().any(is_stdin))
    {
        return usage("--id, --only-failed and - are for one file at a time");
    }
    let mut jobs = Vec::new();
    for path in &args.files {
        let mut options = args.options.pairs();
        let mut name = args.name.as_ref();
        let content = match (&args.only_failed, is_stdin(path)) {
            (None, false) => Content::file(path)?,
            (None, true) => Content::stdin(name.take().map(String::as_str))?,
            (Some(_), true) => return usage("--only-failed takes a file, not stdin"),
            (Some(results), false) => {
                let (content, items) = Content::only_failed(path, results)?;
                if items == 0 {
                    let every = "every item of it has an answer: nothing is submitted";
                    eprintln!("{}: {every}.", path.display());
                    continue;
                }
                eprintln!("{items} items without an answer are submitted.");
                content
            }
        };
        options.extend(name.map(|name| ("name".to_owned(), name.clone())));
        options.push(("id".to_owned(), args.id.unwrap_or_else(uuid::Uuid::now_v7).to_string()));
        self::options(options.clone())?;
        jobs.push(Job { content, options });
    }
    Ok(jobs)
}

/// Submits to the daemon. The same id makes it the same batch, so it is tried again where it is
/// not known what became of it.
async fn send(
    config: &Config,
    daemon: &mut Option<Daemon>,
    args: &BatchArgs,
    job: &Job,
) -> Result<BatchOut, Failure> {
    let until = clock::now().boot.plus(PATIENCE_MS);
    loop {
        let failure = match &*daemon {
            Some(known) => match submit(known, args, job.options.clone(), &job.content).await {
                Err(failure) if failure.code == EX_UNAVAILABLE => failure,
                ended => return ended,
            },
            None => Failure::new(EX_UNAVAILABLE, "the daemon has ended"),
        };
        if clock::now().boot > until || !job.content.is_repeatable() {
            let id = job.options.iter().find(|(name, _)| name == "id");
            let id = id.map(|(_, id)| id.as_str()).unwrap_or_default();
            let again = format!("it may be taken in: --id {id} submits it once only");
            return Err(Failure::new(failure.code, format!("{}; {again}", failure.message)));
        }
        eprintln!("tidegate: {}: trying again", failure.message);
        tokio::time::sleep(LOOK_AGAIN).await;
        *daemon = client::daemon(config).await?;
    }
}

/// Submits once.
pub(super) async fn submit(
    daemon: &Daemon,
    args: &BatchArgs,
    mut options: Vec<(String, String)>,
    content: &Content,
) -> Result<BatchOut, Failure> {
    if !daemon.is_socket() && !args.has_tenant() {
        // Over TCP nobody else tells the daemon who asks.
        let uid = rustix::process::geteuid().as_raw();
        options.push(("tenant".to_owned(), format!("uid:{uid}")));
    }
    let open = content.open()?;
    let file_name = &content.file_name;
    let submitted = daemon.submit(file_name, &options, open).await;
    submitted
        .map_err(|failure| Failure::new(failure.code, format!("{file_name}: {}", failure.message)))
}

/// Puts a file into `incoming/` for the next daemon.
fn drop_in(config: &Config, job: &Job) -> Result<SubmittedOut, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(EX_FAILURE)(error);
    let options = options(job.options.clone())?;
    check_route(config, options.clone())?;
    let root: &Path = &config.server.spool_dir;
    if !root.join("incoming").exists() {
        // The daemon makes it too; the file waits there until one runs.
        spool::Spool::open(root).map_err(|error| failed(&error))?;
    }
    let file_name = &job.content.file_name;
    let (first, mut reader) = content::peek(job.content.open()?.reader)
        .map_err(|error| Failure::new(EX_FAILURE, format!("{file_name}: {error}")))?;
    // What the file says of itself goes before what is said of it.
    let own = formats::options_line(&first).ok().flatten().and_then(|options| options.id);
    let id = own.or(options.id).map(|id| id.to_string()).unwrap_or_default();
    let text = formats::sidecar_text(&options);
    spool::drop_in(root, file_name, &mut reader, Some(&text)).map_err(|error| failed(&error))?;
    Ok(SubmittedOut { id, file: file_name.clone(), state: "incoming".to_owned() })
}
