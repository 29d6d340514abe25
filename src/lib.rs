//! Tidegate keeps the ledger of every LLM request and token on an embedded `SQLite` database, knows
//! from it what each provider quota still allows, and holds batch prompts in a durable queue until
//! capacity exists.
//!
//! The modules stand in reading order. `ARCHITECTURE.md` is the map: the way a prompt travels and
//! the walls (A1-A11) between the rooms.

pub mod gate;
pub mod schedule;

pub mod calendar;
pub mod formats;

pub mod engine;

pub mod store;

pub mod report;

pub mod spool;
pub mod upstream;

pub mod config;

pub mod api;
pub mod daemon;
pub mod proxy;

pub mod emulator;

pub mod cli;

mod caps;
pub mod clock;
mod telemetry;
