//! Limits as data: what is counted, over which window, up to what, and who says so.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::Metric;

/// One minute, the window of `rpm`, `tpm` and `ipm`.
pub const MINUTE_MS: u64 = 60_000;

/// The provider's window of what a project spends (ten minutes, since 2026-06-23).
pub const SPEND_WINDOW_MS: u64 = 600_000;

/// Over what a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Window {
    /// Any interval of this many milliseconds.
    Rolling {
        /// Length in milliseconds.
        ms: u64,
    },
    /// The quota day of the project (`day.reset` in `day.zone`).
    Day,
    /// No time at all: what is under way at once.
    Concurrent,
}

/// Whose use a limit counts together.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of the project's keys.
    #[default]
    Project,
    /// Each key for itself.
    Key,
}

/// Who says that a limit holds. A later variant beats an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A dated table shipped with the program.
    Preset {
        /// The table, such as `gemini-2025-02`.
        name: String,
        /// The tier in it, such as `free`.
        tier: String,
    },
    /// Read from the provider's own refusals.
    Learned,
    /// The configuration file.
    Config,
    /// `tidegate limits set`.
    Set,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset { name, tier } => write!(f, "preset:{name}/{tier}"),
            Self::Learned => f.write_str("learned"),
            Self::Config => f.write_str("config"),
            Self::Set => f.write_str("set"),
        }
    }
}

/// One limit of a bucket. "None" (unlimited) is the absence of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is counted.
    pub metric: Metric,
    /// Over what.
    pub window: Window,
    /// Whose use counts together.
    pub scope: Scope,
    /// At most this much.
    pub value: u64,
    /// Who says so.
    pub source: Source,
}

impl Limit {
    /// Whether a request that is larger than the limit is refused for good. What was only learned
    /// may be wrong: such a request goes alone instead, and the provider decides.
    #[must_use]
    pub fn says_never(&self) -> bool {
        self.source != Source::Learned
    }

    /// The field's name of the limit: `rpm`, `tpm`, `rpd`, `tpd`, `ipm`; for any other pair the
    /// metric's own word, such as `spend` or `sessions`.
    #[must_use]
    pub fn dimension(&self) -> &'static str {
        match (self.metric, self.window) {
            (Metric::Requests, Window::Rolling { ms: MINUTE_MS }) => "rpm",
            (Metric::InputTokens, Window::Rolling { ms: MINUTE_MS }) => "tpm",
            (Metric::Images, Window::Rolling { ms: MINUTE_MS }) => "ipm",
            (Metric::Requests, Window::Day) => "rpd",
            (Metric::InputTokens, Window::Day) => "tpd",
            (metric, _) => metric.as_str(),
        }
    }
}

/// What a project may do with a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// The model is not offered on this tier: refused at submit.
    Off {
        /// Who says so.
        source: Source,
    },
    /// The model may be used within these limits; an empty list means unlimited.
    Limited(Vec<Limit>),
}

/// Of the limits of a metric the one with the smallest value, for callers that clamp an estimate.
#[must_use]
pub fn smallest_limit(limits: &[Limit], metric: Metric) -> Option<&Limit> {
    limits.iter().filter(|limit| limit.metric == metric).min_by_key(|limit| limit.value)
}
