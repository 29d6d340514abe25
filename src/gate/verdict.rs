//! What a caller asks the gate, and what it answers: values, with their reasons.

use std::fmt;

use super::admit::BucketId;
use super::limits::Limit;
use super::space::Leaving;
use super::units::{BootMs, Class, KeyId, UnixMs, Weights};

/// A request that asks to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Where it counts.
    pub bucket: BucketId,
    /// The key it would be sent with, for limits that count by key.
    pub key: KeyId,
    /// Who asks.
    pub class: Class,
    /// What it takes.
    pub need: Weights,
}

/// What others do to a request that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// So much more is reserved before it.
    pub more: Weights,
    /// So much of what is open is there longer than what is open otherwise.
    pub staying: Weights,
}

/// The answer to "may this go now?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every limit has room.
    Fits,
    /// Not now.
    Wait(Wait),
    /// At no time: the request is larger than a limit.
    Never(Never),
}

/// A "not now", with its end and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The earliest instant at which it may fit, from all that is known now.
    pub until: BootMs,
    /// What stands in the way; of several, the one that lasts longest.
    pub because: Because,
}

/// What stands in the way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// A limit has too little room.
    Limit {
        /// `rpm`, `tpm` …
        dimension: &'static str,
        /// What the request needs.
        needs: u64,
        /// What is free.
        free: u64,
        /// What may be used at present.
        limit: u64,
        /// What of that is kept from the request, because `kept_for` is to have it.
        kept: u64,
        /// Who has it.
        kept_for: Class,
    },
    /// The provider said no, or the bucket waits for a proof that it says yes again.
    Blocked {
        /// In words.
        reason: String,
    },
    /// Batch requests keep a distance from one another.
    Paced {
        /// The distance in milliseconds.
        gap_ms: u64,
    },
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { dimension, needs, free, limit, kept, kept_for } => {
                write!(f, "{dimension}: needs {needs}, {free} of {limit} free")?;
                match kept_for {
                    _ if *kept == 0 => Ok(()),
                    Class::Interactive => write!(f, " ({kept} kept for interactive)"),
                    Class::Batch => write!(f, " ({kept} kept for a batch that has waited long)"),
                }
            }
            Self::Blocked { reason } => f.write_str(reason),
            Self::Paced { gap_ms } => write!(f, "paced: one request every {gap_ms} ms"),
        }
    }
}

/// A request that no amount of waiting lets through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs {needs} of {dimension}, and the limit is {limit} ({source_name}): it can never be sent"
)]
pub struct Never {
    /// `rpm`, `tpm` …
    pub dimension: &'static str,
    /// What the request needs.
    pub needs: u64,
    /// The limit.
    pub limit: u64,
    /// Who set the limit.
    pub source_name: String,
}

impl Never {
    pub(super) fn of(limit: &Limit, needs: u64) -> Self {
        Self {
            dimension: limit.dimension(),
            needs,
            limit: limit.value,
            source_name: limit.source.to_string(),
        }
    }
}

/// One limit as it stands, for reports; the same numbers that admission uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit.
    pub limit: Limit,
    /// The key whose use this is, for a limit that counts by key.
    pub key: Option<KeyId>,
    /// Whether every model of the project counts in it.
    pub shared: bool,
    /// What may be used of it at present.
    pub usable: u64,
    /// What counts against it, reservations included.
    pub used: u64,
    /// Of that, what open attempts hold.
    pub reserved: u64,
    /// What is left of what is usable.
    pub free: u64,
    /// What batches leave of it to interactive requests now.
    pub reserve: u64,
    /// When the next part of a rolling window frees, `None` when of nothing in it the end is known;
    /// of a quota day always its end.
    pub next_free: Option<UnixMs>,
    /// What the provider says that it allows, where a user's own limit is below that.
    pub provider_allows: Option<u64>,
}

/// What a request needs and what is there, limit by limit: what
/// [`Gate::check`](super::admit::Gate::check) decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What [`Gate::check`](super::admit::Gate::check) says at the same instant.
    pub verdict: Verdict,
    /// Every limit that the request takes something of.
    pub needs: Vec<Requirement>,
}

/// One limit towards one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The limit as it stands.
    pub state: LimitState,
    /// What the request needs of it.
    pub needs: u64,
    /// What of the limit is kept from it now.
    pub kept: u64,
    /// When it fits in this limit; `None` when it does now.
    pub fits_at: Option<BootMs>,
    /// What leaves until then, in order, at most 20 of them.
    pub leaving: Vec<Leaving>,
}
