//! PURE. May this request go now, and if not, when and why?
//!
//! Nothing here does I/O, reads a clock, draws a random number or iterates a hash map (wall A1):
//! `now` is always an argument. The rules and their proofs are in `docs/admission.md`.
//!
//! [`admit::Gate`] is the way in; [`limits`] and [`units`] are the values it speaks in; [`window`]
//! and [`day`] hold the arithmetic of rolling windows and of quota days.

pub mod admit;
pub mod day;
pub mod estimate;
pub mod limits;
pub mod offset;
pub mod units;
pub mod window;

#[cfg(test)]
mod tests;
