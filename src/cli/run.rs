//! `tidegate run`: job files to their end, by the daemon that runs or by one in this process.

use std::io::IsTerminal;
use std::path::PathBuf;

use super::client::{self, Daemon as Asked, run_socket};
use super::content::Content;
use super::follow::{self, Ended, Show};
use super::options::BatchArgs;
use super::serve::{stop_on_panic, until_told_to_stop};
use super::{
    EX_CONFIG, EX_FAILURE, EX_TEMPFAIL, Failure, Global, no_overrides, print, print_json, submit,
};
use crate::config::{Config, Env, Listen};
use crate::report::batches::RunReport;
use crate::{daemon, telemetry};

/// Options of `run`.
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
    /// One JSON document at the end
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    let mut config = global.config(env, no_overrides())?;
    args.options.check()?;
    let contents = contents(&args)?;
    if let Some(asked) = client::daemon(&config).await? {
        let stopped = until_told_to_stop(None);
        return match to_the_end(&config, &asked, &args, &contents, stopped).await? {
            Some(code) => Ok(code),
            None => Err(Failure::new(
                EX_TEMPFAIL,
                "the daemon goes on with it: see `tidegate batches`, and `tidegate batches follow \
                ID`",
            )),
        };
    }
    telemetry::start(Some(global.log.as_deref().unwrap_or("tidegate=warn,error")), false);
    stop_on_panic();
    config.server.listen = vec![Listen::Unix(run_socket(&config))];
    let listen = config.server.listen[0].clone();
    let started = daemon::start(config.clone()).await;
    let mut daemon = started.map_err(|error| {
        let code = if error.is_configuration() { EX_CONFIG } else { EX_FAILURE };
        Failure::of(code)(&error)
    })?;
    daemon.ready().await;
    let asked = Asked::at(&listen, &config)?;
    let ended = to_the_end(&config, &asked, &args, &contents, until_told_to_stop(None)).await;
    let was_stopped = matches!(ended, Ok(None));
    if was_stopped {
        eprintln!("\nStopping: requests in flight are waited for. Once more stops at once.");
    }
    tokio::select! {
        () = daemon.stop() => {}
        told = until_told_to_stop(None), if was_stopped => told?,
    }
    match ended? {
        Some(code) => Ok(code),
        None => Err(Failure::new(
            EX_TEMPFAIL,
            "what is left is kept: `tidegate run` with the same files goes on with it, and so does \
            `tidegate serve`",
        )),
    }
}

fn contents(args: &Args) -> Result<Vec<Content>, Failure> {
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    if args.files.len() > 1 && args.files.iter().any(is_stdin) {
        return Err(Failure::new(super::EX_USAGE, "- is for one file at a time"));
    }
    let of = |path: &PathBuf| {
        if is_stdin(path) { Content::stdin(args.name.as_deref()) } else { Content::file(path) }
    };
    args.files.iter().map(of).collect()
}

/// Submits all and follows them to their end; the exit code, or none when it was stopped before.
/// They are submitted without an id: the same file is the same batch while that is open, so that
/// the same command goes on where it was stopped.
async fn to_the_end(
    config: &Config,
    asked: &Asked,
    args: &Args,
    contents: &[Content],
    stopped: impl Future<Output = Result<(), Failure>>,
) -> Result<Option<u8>, Failure> {
    let work = async {
        let mut ids = Vec::new();
        for content in contents {
            let mut options = args.options.pairs();
            let is_stdin = args.files[0].as_os_str() == "-";
            let name = args.name.iter().filter(|_| !is_stdin);
            options.extend(name.map(|name| ("name".to_owned(), name.clone())));
            let batch = submit::submit(asked, &args.options, options, content).await?;
            ids.push(batch.id);
        }
        let bars = std::io::stderr().is_terminal() && !args.json;
        let show = if bars { Show::Bars } else { Show::Words };
        follow::follow_all(config, &ids, show).await
    };
    let ended = tokio::select! {
        ended = work => ended?,
        told = stopped => return told.map(|()| None),
    };
    let code = follow::exit_code(&ended);
    let batches: Vec<_> = ended
        .into_iter()
        .filter_map(|ended| match ended {
            Ended::Batch(batch) => Some(*batch),
            Ended::Rejected => None,
        })
        .collect();
    for batch in &batches {
        if let Some(why) = &batch.stopped {
            let (file, state) = (batch.file.escape_debug(), &batch.state);
            eprintln!("tidegate: {file} is {state}: {}", why.escape_debug());
        }
    }
    if args.json {
        print_json(&RunReport { batches });
    } else {
        batches.iter().filter_map(|batch| batch.results.as_ref()).for_each(|path| {
            print(&format!("{path}\n"));
        });
    }
    Ok(Some(code))
}
