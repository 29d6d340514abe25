//! The units that admission counts in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A wall-clock instant: milliseconds since the Unix epoch, UTC. May step; only civil days and
/// rows in the database use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

/// An instant of `CLOCK_BOOTTIME` in milliseconds: never steps, and goes on while the machine is
/// suspended. Every interval is measured with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootMs(pub u64);

/// The present, as an argument: both clocks read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For intervals.
    pub boot: BootMs,
    /// For civil days and for people.
    pub wall: UnixMs,
}

impl BootMs {
    /// This instant and `ms` later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `self` to `later`; 0 when `later` is not later.
    #[must_use]
    pub fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

impl UnixMs {
    /// This instant and `ms` later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add_unsigned(ms))
    }

    /// This instant and `ms` earlier.
    #[must_use]
    pub fn minus(self, ms: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(ms))
    }

    /// Milliseconds from `self` to `later`; 0 when `later` is not later.
    #[must_use]
    pub fn until(self, later: Self) -> u64 {
        u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0)
    }

    /// The same instant as a `chrono` value, clamped to what `chrono` can hold.
    #[must_use]
    pub fn to_utc(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            chrono::DateTime::<chrono::Utc>::MIN_UTC
        } else {
            chrono::DateTime::<chrono::Utc>::MAX_UTC
        })
    }
}

impl From<chrono::DateTime<chrono::Utc>> for UnixMs {
    fn from(time: chrono::DateTime<chrono::Utc>) -> Self {
        Self(time.timestamp_millis())
    }
}

/// Shows RFC 3339 with seconds, in UTC.
impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }
}

impl Now {
    /// The wall-clock instant that `at` will be, if the wall clock does not step.
    #[must_use]
    pub fn wall_at(self, at: BootMs) -> UnixMs {
        if at >= self.boot {
            self.wall.plus(self.boot.until(at))
        } else {
            self.wall.minus(at.until(self.boot))
        }
    }

    /// The boot-clock instant that `at` will be, if the wall clock does not step.
    #[must_use]
    pub fn boot_at(self, at: UnixMs) -> BootMs {
        if at >= self.wall {
            self.boot.plus(self.wall.until(at))
        } else {
            BootMs(self.boot.0.saturating_sub(at.until(self.wall)))
        }
    }
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests to the provider.
    Requests,
    /// Input (prompt) tokens.
    InputTokens,
    /// Images made.
    Images,
}

impl Metric {
    /// Every metric, in the order in which reports show them.
    pub const ALL: [Self; 3] = [Self::Requests, Self::InputTokens, Self::Images];

    /// The word used in configuration files and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::Images => "images",
        }
    }
}

/// What one request takes from each metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Requests, 1 for nearly every call.
    pub requests: u64,
    /// Input tokens.
    pub input_tokens: u64,
    /// Images asked for, or returned.
    pub images: u64,
}

impl Weights {
    /// The weight of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Requests => self.requests,
            Metric::InputTokens => self.input_tokens,
            Metric::Images => self.images,
        }
    }
}
