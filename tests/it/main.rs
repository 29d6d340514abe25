//! The real binary on a real database and real sockets, against the emulator; and the engine in
//! virtual time where the wall clock would take minutes.
//!
//! A scenario starts with a [`harness::Site`]: a directory with a configuration, a spool and a
//! state of its own. Nothing waits for a guessed time; [`harness::Site::until`] looks again and
//! again for what must come, within bounds.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod awkward;
mod bad_files;
mod batches;
mod controls;
mod corpus;
mod crash;
mod days;
mod dialects;
mod disk_full;
mod elsewhere;
mod estimates;
mod faults;
mod front;
mod harness;
mod images;
mod keys;
mod kills;
mod learning;
mod limits;
mod plan;
mod pools;
mod proxy;
mod refusals;
mod run;
mod startup;
mod submit;
mod virtual_time;
