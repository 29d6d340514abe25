//! PURE. May this request go now, and if not, when and why?
//!
//! Nothing here does I/O, reads a clock, draws a random number or iterates a hash map (wall A1):
//! `now` is always an argument. The rules and their proofs are `docs/admission.md`.

pub mod limits;
pub mod units;
