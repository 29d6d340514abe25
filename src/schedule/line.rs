//! A line: prompts that wait one behind the other. A batch is one.

use super::fair::TenantId;
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, UnixMs};

/// Identifies a line: the batch's row id. An earlier one came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId(pub i64);

/// How long a line is not served until it counts as one class better, in milliseconds.
const AGEING_MS: u64 = 30 * 60_000;

/// Where prompts of a line may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The project, for prompts that belong to one.
    pub project: i64,
    /// The bucket in which they count.
    pub bucket: BucketId,
    /// Taken only when all others are further away than the line's patience.
    pub fallback: bool,
}

/// What the order knows of a line.
#[derive(Clone, Debug)]
pub struct Line {
    /// 0 high, 1 normal, 2 low.
    pub class: u8,
    /// Between whom to be fair.
    pub tenant: TenantId,
    /// When it should be done.
    pub deadline: Option<UnixMs>,
    /// Where its prompts may go, the first choice first. Not empty.
    pub routes: Vec<Route>,
    /// How far away the first choices may be before a fallback is taken, in milliseconds.
    pub patience_ms: u64,
}

/// Where a line stands in the order.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) line: Line,
    /// Since when nothing of it went.
    pub(super) since: BootMs,
    /// The class, less one for each half hour since.
    pub(super) level: u8,
    /// Whether it is in the order, or why not.
    pub(super) rest: Rest,
}

/// Whether a line has something to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It may have.
    Awake,
    /// Not before.
    Until(BootMs),
    /// Not before it is roused; so since this instant.
    Dormant(BootMs),
}

/// Smaller ones come first.
pub(super) type Place = (bool, UnixMs, LineId);

impl Standing {
    /// Its place among the lines of its tenant and level. What has aged comes first: else it would
    /// wait for all that was submitted before it, however much that is.
    pub(super) fn place(&self, id: LineId) -> Place {
        (self.level == self.line.class, self.line.deadline.unwrap_or(UnixMs(i64::MAX)), id)
    }

    /// Since when nothing of it went, without the time in which it had nothing to offer.
    pub(super) fn unserved_since(&self, now: BootMs) -> BootMs {
        match self.rest {
            Rest::Awake => self.since,
            Rest::Until(at) => self.since.max(at.min(now)),
            Rest::Dormant(from) => self.since.plus(from.max(self.since).until(now)),
        }
    }

    /// When it counts as one class better; never while it waits to be roused.
    pub(super) fn ages_at(&self) -> Option<BootMs> {
        if matches!(self.rest, Rest::Dormant(_)) {
            return None;
        }
        let aged = u64::from(self.line.class - self.level) + 1;
        (self.level > 0).then(|| self.since.plus(aged * AGEING_MS))
    }
}
