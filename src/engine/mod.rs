//! The one loop: closed [`Event`]s in, closed [`Effect`]s out.
//!
//! [`Engine::step`] decides and does no I/O; `run` executes what it decided and makes no choices.
//! The files: `plan` starts what may go, `conclude` turns an answer into what is written,
//! `estimate` what a request weighs, `learn` what a 429 means, `keys` whose turn it is, `desk`
//! where limits and keys are changed, `endpoints` where requests go, `start` rebuilds the state
//! from the ledger, `intake` turns dropped files into batches, `export` finished ones into results
//! files.

mod conclude;
mod core;
pub mod desk;
mod dropped;
mod endpoints;
mod estimate;
pub mod export;
mod import;
pub mod intake;
mod keys;
mod learn;
mod plan;
pub mod run;
pub mod start;
mod state;
#[cfg(test)]
mod tests;

pub use core::Engine;
pub use endpoints::Endpoints;
pub use keys::{KeySwitch, KeyView, NewKeys};
pub use state::{
    BatchSetup, BucketView, CANCELLED, Effect, Event, Explained, NewLimits, ProjectView, Question,
    SendOrder,
};
