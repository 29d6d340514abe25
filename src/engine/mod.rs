//! The one loop: closed [`Event`]s in, closed [`Effect`]s out.
//!
//! [`Engine::step`] decides and does no I/O; `run` executes what it decided and makes no choices.
//! The files: `plan` starts what may go, by what `schedule` decides and `supply` tells it; `job` is
//! a batch in work, `batches` what happens to it and `setup` what is known of it; `conclude` turns
//! an answer into what is written, `estimate` says what a request weighs, `learn` what a 429 means,
//! `keys` which key is next, and `desk` is where limits and keys are changed. `endpoints` says
//! where requests go, `start` rebuilds the state from the ledger, `routes` says where a batch may
//! go, `outlook` when it will be done, `intake` turns dropped files
//! into batches and `submission` those of clients, `export` finished
//! batches into results files, and `retry` failed items into a new file.

pub(crate) mod answers;
mod batches;
pub(crate) mod callers;
mod conclude;
mod core;
pub mod desk;
pub(crate) mod dropped;
mod duplicates;
mod endpoints;
pub(crate) mod estimate;
pub mod eta;
pub mod export;
mod flight;
pub(crate) mod import;
pub mod intake;
mod job;
mod keys;
mod learn;
pub mod outlook;
pub(crate) mod permit;
mod plan;
pub mod retry;
pub mod routes;
pub mod run;
mod setup;
pub mod start;
mod state;
pub mod submission;
mod supply;
#[cfg(test)]
mod tests;
pub(crate) mod text;
pub mod why;

pub use core::Engine;
pub use endpoints::Endpoints;
pub use keys::{KeySwitch, KeyView, NewKeys};
pub use state::{
    BatchSetup, BucketView, CANCELLED, Effect, Event, Explained, NewLimits, ProjectView, Question,
    RouteTo, SendOrder,
};
