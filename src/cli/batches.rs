//! `tidegate batches`.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::client::{Daemon, Source, source};
use super::follow::{Show, follow};
use super::{EX_FAILURE, EX_UNAVAILABLE, Failure, Global, no_overrides, print, print_json};
use crate::api::PriorityBody;
use crate::caps;
use crate::clock;
use crate::config::{Config, Env};
use crate::formats::Priority;
use crate::report::batches::{BatchOut, BatchesReport, RetryOut};
use crate::report::table;
use crate::report::why::{self, WhyReport};
use crate::store::{Batch, BatchState, Reader, StoreError};

/// Options of `batches`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// One JSON document
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the newest batches (the default)
    List,
    /// Shows one batch
    Show {
        /// Its id
        id: String,
    },
    /// Sends nothing more of a batch; what is under way settles
    Cancel {
        /// Its id
        id: String,
    },
    /// Pauses a batch: nothing more of it is sent, and what is under way settles
    Pause {
        /// Its id
        id: String,
    },
    /// Lets a paused batch go on
    Resume {
        /// Its id
        id: String,
    },
    /// Tries failed items again: of an open batch in their place, of a finished one as a new batch
    Retry {
        /// Its id
        id: String,
    },
    /// Changes the order in which an open batch is sent
    Priority {
        /// Its id
        id: String,
        /// high, normal or low
        priority: Priority,
        /// When it should be done from now on (RFC 3339)
        #[arg(long, value_name = "TIME")]
        deadline: Option<DateTime<Utc>>,
    },
    /// Says what holds a batch: what its next item needs, what is free when, and who is before it
    Why {
        /// Its id
        id: String,
        /// Another of its items, by its key or the number of its line
        #[arg(long, value_name = "KEY|LINE")]
        item: Option<String>,
    },
    /// Shows how batches go on until they are over: exits with 0 when every item was answered, 2
    /// when some were not, 1 when one was cancelled or rejected
    Follow {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Writes the results of a finished batch
    Results {
        /// Its id
        id: String,
        /// Where to, instead of stdout
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    let config = global.config(env, no_overrides())?;
    if let Some(What::Follow { ids }) = &args.what {
        return follow(&config, ids, Show::of_terminal(args.json)).await;
    }
    let source = source(&config).await?;
    let one = match args.what.unwrap_or(What::List) {
        What::Follow { .. } => unreachable!("batches are followed above"),
        What::List => {
            let report = list(&config, &source).await?;
            if args.json {
                print_json(&report);
            } else {
                print(&table::batches(&report, super::style(env)));
            }
            return Ok(0);
        }
        What::Show { id } => show(&config, &source, &id).await?,
        What::Cancel { id } => running(&source)?.post(&path_of(&id, "/cancel")).await?,
        What::Pause { id } => running(&source)?.post(&path_of(&id, "/pause")).await?,
        What::Resume { id } => running(&source)?.post(&path_of(&id, "/resume")).await?,
        What::Priority { id, priority, deadline } => {
            let body = PriorityBody { priority: priority.as_str().to_owned(), deadline };
            running(&source)?.post_json(&path_of(&id, "/priority"), &body).await?
        }
        What::Retry { id } => {
            let again: RetryOut = running(&source)?.post(&path_of(&id, "/retry")).await?;
            if args.json {
                print_json(&again);
            } else {
                print(&retried(&again));
            }
            return Ok(0);
        }
        What::Why { id, item } => {
            let path = path_of(&id, "/why");
            let question: Vec<_> = item.iter().map(|item| ("item", item)).collect();
            let report: WhyReport = running(&source)?.get_with(&path, &question).await?;
            if args.json {
                print_json(&report);
            } else {
                print(&why::text(&report));
            }
            return Ok(0);
        }
        What::Results { id, output } => {
            let batch = show(&config, &source, &id).await?;
            return results(&batch, &source, output.as_deref()).await;
        }
    };
    if args.json {
        print_json(&one);
    } else {
        print(&table::batch(&one));
    }
    Ok(0)
}

/// The daemon: only it may write the database.
fn running(source: &Source) -> Result<&Daemon, Failure> {
    match source {
        Source::Daemon(daemon) => Ok(daemon),
        Source::Database(_) => {
            let why = "no daemon runs: start it, since only it may write the database";
            Err(Failure::new(EX_UNAVAILABLE, why))
        }
    }
}

fn retried(again: &RetryOut) -> String {
    let items = if again.items == 1 { "item is" } else { "items are" };
    if again.id == again.of {
        return format!("{} {items} tried again in batch {}\n", again.items, again.id);
    }
    format!("{}\n", again.id)
}

async fn list(config: &Config, source: &Source) -> Result<BatchesReport, Failure> {
    match source {
        Source::Daemon(daemon) => daemon.get("/api/v1/batches").await,
        Source::Database(reader) => {
            let batches =
                reader.batches(caps::BATCHES_LISTED).await.map_err(|error| failed(&error))?;
            let shown = batches.iter().map(|batch| shown(config, batch)).collect();
            Ok(BatchesReport::new(shown, clock::now().wall))
        }
    }
}

async fn show(config: &Config, source: &Source, id: &str) -> Result<BatchOut, Failure> {
    match source {
        Source::Daemon(daemon) => daemon.get(&path_of(id, "")).await,
        Source::Database(reader) => Ok(shown(config, &find(reader, id).await?)),
    }
}

async fn find(reader: &Reader, id: &str) -> Result<Batch, Failure> {
    let found = reader.batch_by_uid(id).await.map_err(|error| failed(&error))?;
    found.ok_or_else(|| Failure::new(EX_FAILURE, no_batch(id)))
}

/// The batch as the database says; none where there is no such batch or database.
pub(super) async fn from_database(config: &Config, id: &str) -> Option<BatchOut> {
    let reader = Reader::open(&config.server.state_dir).ok()?;
    let batch = reader.batch_by_uid(id).await.ok()??;
    Some(shown(config, &batch))
}

fn shown(config: &Config, batch: &Batch) -> BatchOut {
    let directory = match batch.state {
        BatchState::Done | BatchState::Failed | BatchState::Cancelled if batch.succeeded > 0 => {
            Some("done")
        }
        BatchState::Done | BatchState::Failed | BatchState::Cancelled => Some("failed"),
        BatchState::Importing | BatchState::Open | BatchState::Rejected => None,
    };
    let results = directory.map(|directory| {
        let name = format!("{}.results.jsonl", batch.out_name);
        config.server.spool_dir.join(directory).join(name)
    });
    BatchOut::new(batch, None, results.as_deref())
}

/// Copies the results: from the file, which is on this machine as the daemon is, or from the daemon
/// where only that may read it.
async fn results(batch: &BatchOut, source: &Source, output: Option<&Path>) -> Result<u8, Failure> {
    let Some(path) = &batch.results else { return so_far(batch, source, output).await };
    let told = |error: std::io::Error| Failure::new(EX_FAILURE, format!("{path}: {error}"));
    let mut to: Box<dyn Write> = match output {
        Some(to) => Box::new(std::fs::File::create(to).map_err(told)?),
        None => Box::new(std::io::stdout().lock()),
    };
    let copied = match (std::fs::File::open(path), source) {
        (Ok(mut from), _) => std::io::copy(&mut from, &mut to).map(drop),
        (Err(error), Source::Daemon(daemon)) if error.kind() == ErrorKind::PermissionDenied => {
            daemon.copy(&path_of(&batch.id, "/results"), &mut to).await?
        }
        (Err(error), _) => Err(error),
    };
    match copied.and_then(|()| to.flush()) {
        Ok(()) => Ok(0),
        // Whoever read has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(told(error)),
    }
}

/// Copies what an open batch has of results, from the daemon, which has them.
async fn so_far(batch: &BatchOut, source: &Source, output: Option<&Path>) -> Result<u8, Failure> {
    let ended = batch.items.saturating_sub(batch.queued);
    let state = &batch.state;
    let progress = format!("batch {} is {state}: {ended} of {} items", batch.id, batch.items);
    let Source::Daemon(daemon) = source else {
        let message = format!("{progress} have ended; start the daemon to read these");
        return Err(Failure::new(EX_UNAVAILABLE, message));
    };
    if state != "open" {
        return Err(Failure::new(EX_FAILURE, format!("{progress} have ended")));
    }
    let told = |error: std::io::Error| Failure::new(EX_FAILURE, error.to_string());
    let mut to: Box<dyn Write> = match output {
        Some(to) => Box::new(std::fs::File::create(to).map_err(told)?),
        None => Box::new(std::io::stdout().lock()),
    };
    eprintln!("{progress} have ended: these are the results so far.");
    match daemon.copy(&path_of(&batch.id, "/results"), &mut to).await?.and_then(|()| to.flush()) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(told(error)),
    }
}

pub(super) fn path_of(id: &str, rest: &str) -> String {
    // An id is hexadecimal and dashes; whatever else was typed must not change the path.
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("/api/v1/batches/{id}{rest}")
}

fn failed(error: &StoreError) -> Failure {
    Failure::of(EX_FAILURE)(error)
}

pub(super) fn no_batch(id: &str) -> String {
    format!("no batch {id}: its file may still be in incoming/, or was rejected (see rejected/)")
}
