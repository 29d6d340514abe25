//! PURE. May this request go now, and if not, when and why?
//!
//! Nothing here does I/O, reads a clock, draws a random number or iterates a hash map (wall A1):
//! `now` is always an argument. The rules and their proofs are in `docs/admission.md`.
//!
//! [`admit::Gate`] is the way in, [`verdict`] what it is asked and answers, [`limits`] and
//! [`units`] the values all speak in. A bucket's quota is a [`space`] (or several: `spaces`), in
//! which [`window`] and [`day`] hold the arithmetic of rolling windows and of quota days. `block`
//! shuts a bucket, [`learn`] is what refusals teach, and [`memory`] what of it is kept.
//! [`share`] tells what part of a quota a request takes, and how much is left beside others.
//! [`reserve`] is what batches leave to interactive requests.
//! [`estimate`] says how many tokens a text will take, [`offset`] where the provider's clock is.

pub mod admit;
mod block;
pub mod day;
pub mod estimate;
pub mod learn;
pub mod limits;
pub mod memory;
pub mod offset;
pub mod reserve;
pub mod share;
pub mod space;
mod spaces;
pub mod units;
pub mod verdict;
pub mod window;

#[cfg(test)]
mod tests;
