//! The daemon's own HTTP API: what the CLI and other programs ask it.
//!
//! `guard` decides who may ask, `routes` answers, with `limits` and `control` for what is changed,
//! `listen` binds and serves.

mod control;
mod guard;
mod keys;
mod limits;
mod listen;
mod plan;
mod problem;
mod routes;
mod why;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub(crate) use control::{HoldBody, PriorityBody};
pub(crate) use keys::{ImportParams, SwitchKeyBody};
pub(crate) use limits::{ExplainParams, SetLimitBody};
pub(crate) use problem::Problem;

pub use listen::{BindError, Listener, bind, serve};

use crate::engine::Event;
use crate::engine::desk::Desk;
use crate::engine::eta::Board;
use crate::engine::run::Query;
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
    store: Store,
    spool: Arc<Spool>,
    queries: mpsc::Sender<Query>,
    events: mpsc::Sender<Event>,
    scanned: watch::Receiver<bool>,
    board: Board,
}

impl Api {
    /// An API over a running daemon's parts.
    #[must_use]
    pub fn new(
        desk: Desk,
        store: Store,
        spool: Arc<Spool>,
        queries: mpsc::Sender<Query>,
        events: mpsc::Sender<Event>,
        scanned: watch::Receiver<bool>,
        board: Board,
    ) -> Self {
        Self { inner: Arc::new(Inner { desk, store, spool, queries, events, scanned, board }) }
    }
}
