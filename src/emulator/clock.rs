//! The emulator's clock: the only place here that asks the machine for the time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Monotonic milliseconds since the emulator started; minute windows count in these.
    pub(super) at_ms: u64,
    /// Civil time of the emulator; quota days count in it.
    pub(super) wall: DateTime<Utc>,
}

impl Now {
    /// This reading as it was at `at_ms`, not later than it.
    pub(super) fn back_to(self, at_ms: u64) -> Self {
        Self { at_ms, wall: self.wall - Duration::from_millis(self.at_ms - at_ms) }
    }
}

/// Measures from the start of one emulator.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// What civil time is off by.
    skew: TimeDelta,
}

impl Clock {
    /// A clock whose civil time is ahead of the machine's by `skew`.
    pub(super) fn start(skew: TimeDelta) -> Self {
        Self { origin: read().0, skew }
    }

    pub(super) fn now(&self) -> Now {
        let (instant, wall) = read();
        Now {
            at_ms: whole_ms(instant.saturating_duration_since(self.origin)),
            wall: wall + self.skew,
        }
    }
}

/// A duration in whole milliseconds, rounded down.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the emulator reads clocks")]
fn read() -> (Instant, DateTime<Utc>) {
    (Instant::now(), Utc::now())
}
