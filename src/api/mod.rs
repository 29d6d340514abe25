//! The daemon's own HTTP API: what the CLI and other programs ask it.
//!
//! `guard` decides who may ask, `routes` answers, with `limits` and `control` for what is changed
//! and `submit` for what is sent, `listen` binds and accepts, `connection` speaks HTTP, `tls` has
//! the certificates.

mod connection;
mod control;
mod elsewhere;
mod guard;
mod keys;
mod limits;
mod listen;
mod plan;
mod problem;
mod routes;
mod submit;
mod tls;
mod why;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub(crate) use control::{HoldBody, PriorityBody};
pub(crate) use guard::LEG;
pub(crate) use keys::{ImportParams, SwitchKeyBody};
pub(crate) use limits::{ExplainParams, SetLimitBody};
pub(crate) use problem::Problem;
pub(crate) use submit::options_of;

pub use elsewhere::Leases;
pub use listen::{BindError, Listener, bind, serve};
pub use tls::TlsError;
pub(crate) use tls::check as check_tls;

use crate::engine::Event;
use crate::engine::desk::Desk;
use crate::engine::eta::Board;
use crate::engine::run::Query;
use crate::engine::submission::Submission;
use crate::proxy::Proxy;
use crate::spool::Spool;
use crate::store::Store;

/// What requests are answered from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    desk: Desk,
    proxy: Proxy,
    leases: Leases,
    store: Store,
    spool: Arc<Spool>,
    queries: mpsc::Sender<Query>,
    events: mpsc::Sender<Event>,
    submissions: mpsc::Sender<Submission>,
    scanned: watch::Receiver<bool>,
    board: Board,
}

/// Where requests are handed on to.
#[derive(Debug)]
pub struct Doors {
    /// Questions to the engine.
    pub queries: mpsc::Sender<Query>,
    /// Events for the engine.
    pub events: mpsc::Sender<Event>,
    /// Files for the intake.
    pub submissions: mpsc::Sender<Submission>,
}

impl Api {
    /// An API over a running daemon's parts.
    #[must_use]
    pub fn new(
        desk: Desk,
        proxy: Proxy,
        store: Store,
        spool: Arc<Spool>,
        doors: Doors,
        scanned: watch::Receiver<bool>,
        board: Board,
    ) -> Self {
        let Doors { queries, events, submissions } = doors;
        let inner = Inner {
            desk,
            proxy,
            leases: Leases::default(),
            store,
            spool,
            queries,
            events,
            submissions,
            scanned,
            board,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The leases that it has granted.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.inner.leases.clone()
    }
}
