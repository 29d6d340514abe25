//! Limits as data: what is counted, over which window, up to what, and who says so.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::Metric;

/// One minute, the window of `rpm`, `tpm` and `ipm`.
pub const MINUTE_MS: u64 = 60_000;

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
    /// At most this much.
    pub value: u64,
    /// Who says so.
    pub source: Source,
}

impl Limit {
    /// The field's name of the limit: `rpm`, `tpm`, `rpd`, `tpd`, `ipm`; for any other pair the
    /// metric's own word.
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
