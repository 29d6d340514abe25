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

    /// This instant, moved by `ms`: later when positive.
    #[must_use]
    pub fn moved(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
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

/// The owner of an upstream quota: the row id of the `project` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId(pub i64);

/// One of a project's keys: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

/// Who asks. Batch work may be spread out; people who wait are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// A job file's item.
    #[default]
    Batch,
    /// Somebody waits for the answer.
    Interactive,
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
    /// Money, in billionths of a US dollar.
    Spend,
    /// Live sessions.
    Sessions,
}

impl Metric {
    /// Every metric, in the order in which reports show them.
    pub const ALL: [Self; 5] =
        [Self::Requests, Self::InputTokens, Self::Images, Self::Spend, Self::Sessions];

    /// The word used in configuration files and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::Images => "images",
            Self::Spend => "spend",
            Self::Sessions => "sessions",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::InputTokens => 1,
            Self::Images => 2,
            Self::Spend => 3,
            Self::Sessions => 4,
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
    /// Its price, in billionths of a US dollar.
    #[serde(default)]
    pub spend_nanos: u64,
    /// Live sessions: 1 for one, else 0.
    #[serde(default)]
    pub sessions: u64,
}

impl Weights {
    /// The weight of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Requests => self.requests,
            Metric::InputTokens => self.input_tokens,
            Metric::Images => self.images,
            Metric::Spend => self.spend_nanos,
            Metric::Sessions => self.sessions,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            images: self.images.saturating_add(other.images),
            spend_nanos: self.spend_nanos.saturating_add(other.spend_nanos),
            sessions: self.sessions.saturating_add(other.sessions),
        }
    }

    /// Whether it takes no more than `other` of anything.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        Metric::ALL.iter().all(|metric| self.get(*metric) <= other.get(*metric))
    }

    /// So much of one metric, and nothing of the others.
    #[must_use]
    pub fn only(metric: Metric, weight: u64) -> Self {
        let mut weights = Self::default();
        let place = match metric {
            Metric::Requests => &mut weights.requests,
            Metric::InputTokens => &mut weights.input_tokens,
            Metric::Images => &mut weights.images,
            Metric::Spend => &mut weights.spend_nanos,
            Metric::Sessions => &mut weights.sessions,
        };
        *place = weight;
        weights
    }
}

/// Sums of weights by metric. Wider than any weight: what a provider reports as used is any
/// number, and a sum must come out right again when it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums([u128; Metric::ALL.len()]);

impl Sums {
    pub(super) fn get(&self, metric: Metric) -> u64 {
        u64::try_from(self.0[metric.index()]).unwrap_or(u64::MAX)
    }

    pub(super) fn add(&mut self, weights: &Weights) {
        for metric in Metric::ALL {
            self.0[metric.index()] += u128::from(weights.get(metric));
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    pub(super) fn subtract(&mut self, weights: &Weights) {
        for metric in Metric::ALL {
            let sum = &mut self.0[metric.index()];
            let rest = sum.checked_sub(u128::from(weights.get(metric)));
            *sum = rest.expect("the sum covers every entry");
        }
    }
}
