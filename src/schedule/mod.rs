//! PURE. Who goes next, over which route, and what may pass a prompt that waits for room.
//!
//! The rules are in `docs/scheduling.md`. [`Schedule`] keeps an order of *lines* (a batch is one)
//! for each bucket: by level (the priority, and the age of what is not being served), then the
//! tenant that was served least, then the earliest deadline, then who came first. `tick` starts
//! what may go: the first of the order is the *head*, and while it waits for room others go past it
//! only where that does not make it wait longer.
//!
//! Nothing here does I/O, reads a clock or draws a random number. What a tick needs of the world it
//! asks its [`Supply`]: the daemon, the forecast and the simulations each have one, and the rule is
//! the same for all.

mod backfill;
mod fair;
pub mod forecast;
mod line;
mod order;
mod pace;
mod retry;
mod route;
mod tick;

pub use fair::TenantId;
pub use line::{Line, LineId, Route};
pub use order::Schedule;
pub use pace::spread_gap_ms;
pub use retry::{Budget, ServerError, after_server_error};
pub use tick::{Head, Item, Peek, Readiness, Supply, Waiting};

#[cfg(test)]
mod tests;
