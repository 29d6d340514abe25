//! What the HTTP API answers and the commands print: usage with its cost, limits, batches.
//!
//! Shapes and text only. The numbers come from the store's [`Reader`](crate::store::Reader) and
//! from the engine's views; `now` is an argument; where the text goes, and whether it may have
//! colour, is the caller's affair. The shapes are described in `docs/http-api.md`.

pub mod query;
pub mod usage;
pub mod why;

pub mod batches;
pub mod explain;
pub mod keys;
pub mod limits;
pub mod pauses;
pub mod plan;
pub mod plan_text;

pub mod csv;
pub mod table;

mod text;

#[cfg(test)]
mod tests;

use chrono::{DateTime, SubsecRound, Utc};

use crate::gate::units::UnixMs;

/// An instant as reports show it: whole seconds, UTC.
fn seconds(at: UnixMs) -> DateTime<Utc> {
    at.to_utc().trunc_subsecs(0)
}

/// The first whole second at or after an instant, for what is not there before it.
fn next_second(at: UnixMs) -> DateTime<Utc> {
    seconds(at.plus(999))
}
