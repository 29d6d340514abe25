//! The daemon put together: listeners, directories, database, engine, intake and API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::{self, Api, BindError, Doors, Listener, TlsError};
use crate::caps;
use crate::clock;
use crate::config::{Config, ImportError, Project};
use crate::engine::Endpoints;
use crate::engine::answers::Answers;
use crate::engine::desk::{Desk, SharedRoutes};
use crate::engine::eta::{Board, Summary};
use crate::engine::intake::Intake;
use crate::engine::run::{self, Shell};
use crate::engine::start::{self, StartError};
use crate::proxy::Proxy;
use crate::spool::{Spool, SpoolError};
use crate::store::{SetLimit, Store, StoreError};
use crate::upstream::{Client, UpstreamError};

/// What keeps a daemon from starting.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A project has no key to send with.
    #[error("{0}")]
    NoKey(String),
    /// Imported keys cannot be read.
    #[error(transparent)]
    Keys(#[from] ImportError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spool directories cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The engine cannot be built.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The provider client cannot be built.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The kernel does not say which boot this is.
    #[error("cannot read the boot id from /proc/sys/kernel/random/boot_id")]
    Boot(#[source] std::io::Error),
}

impl DaemonError {
    /// Whether the configuration is at fault, so that starting again will not help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::NoKey(_)
                | Self::Keys(ImportError::File { .. })
                | Self::Bind(BindError::Tls { source: TlsError::Unusable { .. }, .. })
                | Self::Start(StartError::Day { .. })
        )
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    scanned: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    engine: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    desk: Desk,
    summary: watch::Receiver<Option<Summary>>,
}

/// Starts a daemon. When this returns, the addresses are bound, the schema is up to date and the
/// lock is held.
///
/// # Errors
/// Each names what is wrong and what to do.
pub async fn start(config: Config) -> Result<Daemon, DaemonError> {
    let config = config.with_imported_keys()?;
    let missing: Vec<_> = config.projects.iter().flat_map(Project::missing_keys).collect();
    if !missing.is_empty() {
        return Err(DaemonError::NoKey(missing.join("\n")));
    }
    let client = Client::new()?;
    // First the lock: a second daemon is told of the first, not of an address in use.
    let store = open_store(&config.server.state_dir).await?;
    let listeners = api::bind(&config.server).await?;
    let spool = Arc::new(Spool::open(&config.server.spool_dir)?);
    let sets = store.reader().set_limits().await?;
    let config = config.with_set_limits(sets.iter().map(SetLimit::parts));
    let now = clock::now();
    // The seed only spreads retries; boots and runs differ enough by their time.
    let (mut engine, routes) = start::assemble(&config, &store, now, now.boot.0).await?;

    let (events, inbox) = mpsc::channel(caps::EVENTS_MAX);
    let (queries, questions) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(false);
    let (scanned, scanned_seen) = watch::channel(false);
    let ids: BTreeMap<_, _> = config
        .projects
        .iter()
        .filter_map(|project| Some((project.name.clone(), routes.project_id(&project.name)?)))
        .collect();
    let endpoints = Endpoints::new(&config, &ids);
    let shell = Shell {
        store: store.clone(),
        spool: spool.clone(),
        client,
        endpoints: endpoints.clone(),
        bodies: config.retention.bodies,
        events: events.clone(),
        board: Board::default(),
        answers: Answers::start(store.reader().clone(), spool.clone()),
    };
    let board = shell.board.clone();
    // Before anybody can say something of them.
    engine.open_all(store.reader(), &routes, &config, now).await?;
    let engine = tokio::spawn(run::run(engine, shell.clone(), inbox, questions, stopped.clone()));
    let routes = SharedRoutes::new(routes);
    let desk = Desk::new(config, store.clone(), events.clone(), routes.clone(), endpoints.clone());
    let proxy = Proxy::new(desk.clone(), endpoints, events.clone())?;
    let intake = Intake::new(shell, routes, desk.clone(), scanned);
    let (submissions, submitted) = mpsc::channel(caps::SUBMISSIONS_MAX);
    let (tls, plain): (Vec<_>, Vec<_>) = listeners.iter().partition(|listener| listener.is_tls());
    let addresses = |of: Vec<&Listener>| of.into_iter().filter_map(Listener::tcp_addr).collect();
    let (addresses, tls_addresses) = (addresses(plain), addresses(tls));
    let look = board.clone().keep(queries.clone(), store.clone(), stopped.clone());
    let summary = board.summary();
    let doors = Doors { queries, events, submissions };
    let api = Api::new(desk.clone(), proxy, store, spool, doors, scanned_seen.clone(), board);
    let leases = api.leases().keep(stopped.clone());
    let mut others = vec![
        tokio::spawn(intake.run(submitted, stopped.clone())),
        tokio::spawn(look),
        tokio::spawn(leases),
    ];
    for listener in listeners {
        others.push(tokio::spawn(api::serve(listener, api.clone(), stopped.clone())));
    }
    Ok(Daemon {
        addresses,
        tls_addresses,
        scanned: scanned_seen,
        stop,
        engine,
        others,
        desk,
        summary,
    })
}

async fn open_store(state_dir: &Path) -> Result<Store, DaemonError> {
    let boot = clock::boot_uuid().map_err(DaemonError::Boot)?;
    Ok(Store::open(state_dir, &boot).await?)
}

impl Daemon {
    /// The TCP addresses it listens on without TLS.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The TCP addresses it speaks TLS on.
    #[must_use]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Where limits and keys are changed.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The whole queue, as it was at the last look.
    #[must_use]
    pub fn summary(&self) -> watch::Receiver<Option<Summary>> {
        self.summary.clone()
    }

    /// Waits until `incoming/` has been looked through once: the daemon is ready.
    pub async fn ready(&mut self) {
        // Closed means that the daemon is ending; then nobody waits for more.
        let _ = self.scanned.wait_for(|scanned| *scanned).await;
    }

    /// Starts nothing new, waits for what is in flight within the drain time, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.engine.await;
        let cut: Vec<_> = self.others.iter().map(JoinHandle::abort_handle).collect();
        let others = futures_util::future::join_all(self.others);
        let patience = Duration::from_millis(caps::API_DRAIN_MS);
        if tokio::time::timeout(patience, others).await.is_err() {
            tracing::warn!("somebody still reads from the API: the connection is cut");
            for task in &cut {
                task.abort();
            }
        }
    }
}
