//! `tidegate serve`.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{EX_CONFIG, EX_FAILURE, Failure, Global};
use crate::config::{Env, Listen, Overrides};
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
}

pub(super) async fn run(global: &Global, args: Args, env: &Env) -> Result<u8, Failure> {
    telemetry::start(global.log.as_deref(), env.text("JOURNAL_STREAM").is_some());
    stop_on_panic();
    let overrides = Overrides { state_dir: None, spool_dir: args.spool_dir, listen: args.listen };
    let config = global.config(env, overrides)?;
    let spool_dir = config.server.spool_dir.display().to_string();
    let started = daemon::start(config).await;
    let mut daemon = started.map_err(|error| {
        let code = if error.is_configuration() { EX_CONFIG } else { EX_FAILURE };
        Failure::of(code)(&error)
    })?;
    let stop = until_told_to_stop();
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
    tracing::info!(spool.dir = %spool_dir, "ready: drop job files into {spool_dir}/incoming");
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("ready")]);
    stop.await?;
    tracing::info!("stopping: requests in flight are waited for");
    notify(&[sd_notify::NotifyState::Stopping]);
    daemon.stop().await;
    Ok(0)
}

/// A broken invariant in any task ends the daemon: better to stop, and to go on from the ledger at
/// the next start, than to go on wrongly or to wait for ever for a task that is gone.
fn stop_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn until_told_to_stop() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::of(EX_FAILURE)(&error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                tracing::warn!("SIGHUP: this version reads its configuration at start only");
            }
        }
    }
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
