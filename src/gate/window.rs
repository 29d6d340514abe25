//! Occupancy of one rolling limit: rule C of `docs/admission.md`.
//!
//! An attempt occupies its weight from the reservation until `u + W + γ`, where `u` is an upper
//! bound of the instant at which the provider can have counted it. While `u` is unknown the attempt
//! keeps its place.

use std::collections::BTreeMap;

use super::units::{BootMs, Now};

/// How long after the last byte was handed to the transport a request can still be on its way.
pub const DELTA_MS: u64 = 2_000;

/// Margin for clocks that run at slightly different rates (500 ppm of a minute is 30 ms).
pub const GAMMA_MS: u64 = 50;

/// Identifies an attempt: the ledger's row id.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct AttemptId(pub i64);

/// The attempts that count against one rolling window.
#[derive(Clone, Debug, Default)]
pub(super) struct Occupancy {
    window_ms: u64,
    open: BTreeMap<AttemptId, u64>,
    closing: BTreeMap<(BootMs, AttemptId), u64>,
    /// Wider than any weight: what a provider reports as used is any number, and the sum must
    /// come out right again when it leaves.
    sum: u128,
}

impl Occupancy {
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, ..Self::default() }
    }

    /// What is occupied at `now`, after letting go of what has left.
    pub(super) fn used(&mut self, now: Now) -> u64 {
        while let Some((&(expiry, id), &weight)) = self.closing.first_key_value() {
            if expiry > now.boot {
                break;
            }
            self.closing.remove(&(expiry, id));
            self.subtract(weight);
        }
        u64::try_from(self.sum).unwrap_or(u64::MAX)
    }

    /// What is held by attempts whose end is not known yet.
    pub(super) fn reserved(&self) -> u64 {
        self.open.values().fold(0, |sum, weight| sum.saturating_add(*weight))
    }

    /// Enters an attempt whose end is not known yet.
    pub(super) fn enter(&mut self, id: AttemptId, weight: u64) {
        let previous = self.open.insert(id, weight);
        assert!(previous.is_none(), "attempt {id:?} entered twice");
        self.sum += u128::from(weight);
    }

    /// Moves an open attempt to its known end, or an already bounded one to an earlier end.
    pub(super) fn bound(&mut self, id: AttemptId, previous: Option<BootMs>, u: BootMs) {
        if let Some(weight) = self.take(id, previous) {
            self.sum += u128::from(weight);
            self.closing.insert((self.expiry(u), id), weight);
        }
    }

    /// Replaces the weight of a bounded attempt by what was really used.
    pub(super) fn reweigh(&mut self, id: AttemptId, u: BootMs, weight: u64) {
        if self.take(id, Some(u)).is_some() && weight > 0 {
            self.sum += u128::from(weight);
            self.closing.insert((self.expiry(u), id), weight);
        }
    }

    /// Removes an attempt altogether: nothing of it was sent.
    pub(super) fn remove(&mut self, id: AttemptId, u: Option<BootMs>) {
        self.take(id, u);
    }

    /// The earliest known instant from which `excess` less is occupied. Open attempts are taken to
    /// end within Δ from `now`.
    pub(super) fn frees_at(&self, excess: u64, now: Now) -> BootMs {
        let mut freed = 0u64;
        for (&(expiry, _), weight) in &self.closing {
            freed = freed.saturating_add(*weight);
            if freed >= excess {
                return expiry;
            }
        }
        self.expiry(now.boot.plus(DELTA_MS))
    }

    /// When the next entry that weighs something leaves, if any end is known.
    pub(super) fn next_expiry(&self) -> Option<BootMs> {
        let mut heavy = self.closing.iter().filter(|(_, weight)| **weight > 0);
        heavy.next().map(|(&(expiry, _), _)| expiry)
    }

    fn take(&mut self, id: AttemptId, u: Option<BootMs>) -> Option<u64> {
        let weight = match u {
            None => self.open.remove(&id),
            Some(u) => self.closing.remove(&(self.expiry(u), id)),
        }?;
        self.subtract(weight);
        Some(weight)
    }

    fn subtract(&mut self, weight: u64) {
        let rest = self.sum.checked_sub(u128::from(weight));
        self.sum = rest.expect("the sum covers every entry");
    }

    fn expiry(&self, u: BootMs) -> BootMs {
        u.plus(self.window_ms).plus(GAMMA_MS)
    }
}
