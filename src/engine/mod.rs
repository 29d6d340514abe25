//! The one loop: closed [`Event`]s in, closed [`Effect`]s out.
//!
//! [`Engine::step`] decides and does no I/O; `run` executes what it decided and makes no choices.
//! The files: `plan` starts what may go, `conclude` turns an answer into what is written,
//! `estimate` what a request weighs, `learn` what a 429 means and `desk` where limits are changed,
//! `start` rebuilds the state from the ledger, `routes` says where a batch may go, `intake` turns
//! dropped files into batches, `export` turns finished batches into results files, `retry` failed
//! items into a new job file.

mod conclude;
mod core;
pub mod desk;
mod dropped;
mod estimate;
pub mod export;
mod import;
pub mod intake;
mod learn;
mod plan;
pub mod retry;
pub mod routes;
pub mod run;
mod setup;
pub mod start;
mod state;
#[cfg(test)]
mod tests;

pub use core::Engine;
pub use state::{
    BatchSetup, BucketView, CANCELLED, Effect, Event, Explained, NewLimits, ProjectView, Question,
    RouteTo, SendOrder,
};
