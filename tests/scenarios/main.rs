//! Stories of what waits and what goes, told over the schedule and the gate together.
//!
//! A story has no daemon, no network and no clock: a [`Story`](tell::Story) moves the time by hand,
//! and every answer is there at once, counted two seconds after it was sent at the latest.

mod stories;
mod tell;
