//! `tidegate serve`.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use sd_notify::NotifyState;

use super::{EX_CONFIG, EX_FAILURE, Failure, Global};
use crate::config::{Env, Listen, Overrides};
use crate::engine::desk::Desk;
use crate::engine::eta::Summary;
use crate::report::batches::queue_line;
use crate::telemetry::chain;
use crate::{daemon, telemetry};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The spool directories, instead of the configuration's `spool_dir`
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Where to listen, instead of the configuration's `listen`: ADDR:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Listen>,
    /// Record the calls of clients, and say what each would have waited, but hold none
    #[arg(long)]
    shadow: bool,
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    telemetry::start(global.log.as_deref(), env.text("JOURNAL_STREAM").is_some());
    stop_on_panic();
    let Args { spool_dir, listen, shadow } = args;
    let overrides = Overrides { state_dir: None, spool_dir, listen, shadow };
    let config = global.config(env, overrides.clone())?;
    let spool_dir = config.server.spool_dir.display().to_string();
    let started = daemon::start(config).await;
    let mut daemon = started.map_err(|error| {
        let code = if error.is_configuration() { EX_CONFIG } else { EX_FAILURE };
        Failure::of(code)(&error)
    })?;
    let reload = Reload { desk: daemon.desk().clone(), global: global.clone(), env, overrides };
    let stop = until_told_to_stop(Some(&reload));
    tokio::pin!(stop);
    tokio::select! {
        () = daemon.ready() => {}
        told = &mut stop => {
            told?;
            daemon.stop().await;
            return Ok(0);
        }
    }
    for address in daemon.addresses() {
        tracing::info!(%address, "listening on http://{address}");
    }
    for address in daemon.tls_addresses() {
        tracing::info!(%address, "listening on https://{address}");
    }
    tracing::info!(spool.dir = %spool_dir, "ready: drop job files into {spool_dir}/incoming");
    notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
    tokio::select! {
        told = &mut stop => told?,
        () = tell_queue(daemon.summary()) => {}
    }
    tracing::info!("stopping: requests in flight are waited for");
    notify(&[NotifyState::Stopping]);
    daemon.stop().await;
    Ok(0)
}

/// Tells systemd of the queue whenever it was looked at.
async fn tell_queue(mut summary: watch::Receiver<Option<Summary>>) {
    while summary.changed().await.is_ok() {
        let line = summary.borrow_and_update().as_ref().map(queue_line);
        if let Some(line) = line {
            notify(&[NotifyState::Status(&line)]);
        }
    }
    std::future::pending::<()>().await;
}

/// A broken invariant in any task ends the daemon: better to stop, and to go on from the ledger at
/// the next start, than to go on wrongly or to wait for ever for a task that is gone.
pub(super) fn stop_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

/// What SIGHUP does.
pub(super) struct Reload<'a> {
    desk: Desk,
    global: Global,
    env: &'a Env,
    overrides: Overrides,
}

impl Reload<'_> {
    /// Reads the configuration anew and takes it up, or keeps the old one and says why.
    async fn run(&self) {
        notify(&[NotifyState::Reloading]);
        let read = self.global.config(self.env, self.overrides.clone());
        let taken_up = match read {
            Ok(config) => self.desk.reload(config).await.map_err(|error| chain(&error)),
            Err(failure) => Err(failure.message),
        };
        match taken_up {
            Ok(()) => tracing::info!("the configuration was read anew and is in force"),
            Err(reason) => {
                tracing::error!(%reason, "the old configuration stays in force: {reason}");
            }
        }
        notify(&[NotifyState::Ready]);
    }
}

/// Waits for SIGTERM or SIGINT. SIGHUP reads the configuration anew, where there is one.
pub(super) async fn until_told_to_stop(reload: Option<&Reload<'_>>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::of(EX_FAILURE)(&error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                if let Some(reload) = reload {
                    reload.run().await;
                }
            }
        }
    }
}

/// Tells systemd, where it listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
