//! Occupancy of one window: rule C of `docs/admission.md`.
//!
//! An attempt occupies its weights from the reservation until `u + W + γ`, where `u` is an upper
//! bound of the instant at which the provider can have counted it. While `u` is unknown the attempt
//! keeps its place. One `Occupancy` serves every limit of the same window.

use std::collections::BTreeMap;

use super::admit::Open;
use super::units::{BootMs, Metric, Now, Sums, Weights};

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

/// Who occupies a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// One of our own requests.
    Attempt(AttemptId),
    /// What the provider counted and we did not: somebody else's use, by a number of its own.
    Phantom(u64),
}

/// The weights that count in one window.
#[derive(Clone, Debug)]
pub(super) struct Occupancy {
    window_ms: u64,
    /// Whether an attempt counts from its end instead of from its bound: what is under way at
    /// once, and what the provider adds up when an answer is complete.
    at_end: bool,
    open: Sums,
    closing: BTreeMap<(BootMs, Holder), Weights>,
    closed: Sums,
}

impl Occupancy {
    pub(super) fn new(window_ms: u64, at_end: bool) -> Self {
        Self {
            window_ms,
            at_end,
            open: Sums::default(),
            closing: BTreeMap::new(),
            closed: Sums::default(),
        }
    }

    pub(super) fn is(&self, window_ms: u64, at_end: bool) -> bool {
        self.window_ms == window_ms && self.at_end == at_end
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.is(other.window_ms, other.at_end)
    }

    pub(super) fn counts_from_bound(&self) -> bool {
        !self.at_end
    }

    /// What is occupied at `now`, after letting go of what has left.
    pub(super) fn used(&mut self, metric: Metric, now: Now) -> u64 {
        self.let_go(now);
        self.total(metric)
    }

    /// What was occupied when it was last let go of what had left.
    pub(super) fn total(&self, metric: Metric) -> u64 {
        self.open.get(metric).saturating_add(self.closed.get(metric))
    }

    /// Lets go of what has left by `now`.
    pub(super) fn let_go(&mut self, now: Now) {
        while let Some(entry) = self.closing.first_entry() {
            if entry.key().0 > now.boot {
                break;
            }
            let weights = entry.remove();
            self.closed.subtract(&weights);
        }
    }

    /// What is held by attempts whose end is not known yet.
    pub(super) fn reserved(&self, metric: Metric) -> u64 {
        self.open.get(metric)
    }

    /// Enters an attempt whose end is not known yet.
    pub(super) fn enter(&mut self, weights: &Weights) {
        self.open.add(weights);
    }

    /// Enters an attempt that has been under way for a while.
    pub(super) fn enter_open(&mut self, id: AttemptId, open: &Open) {
        self.enter(&open.ask.need);
        if let Some(u) = open.u {
            self.bound(id, &open.ask.need, None, u);
        }
    }

    /// Moves an open attempt to its known end, or an already bounded one to an earlier end.
    pub(super) fn bound(
        &mut self,
        id: AttemptId,
        weights: &Weights,
        previous: Option<BootMs>,
        u: BootMs,
    ) {
        if !self.at_end {
            self.discard(id, weights, previous);
            self.close(Holder::Attempt(id), weights, u);
        }
    }

    /// Replaces what was reserved by what was really used, of an attempt that is bounded by `u` and
    /// over for certain by `end`.
    pub(super) fn settle(
        &mut self,
        id: AttemptId,
        (reserved, actual): (&Weights, &Weights),
        u: BootMs,
        end: BootMs,
    ) {
        self.discard(id, reserved, Some(u));
        self.close(Holder::Attempt(id), actual, if self.at_end { end } else { u });
    }

    /// Removes an attempt altogether: nothing of it was sent.
    pub(super) fn discard(&mut self, id: AttemptId, weights: &Weights, u: Option<BootMs>) {
        match u.filter(|_| !self.at_end) {
            None => self.open.subtract(weights),
            Some(u) => {
                let place = (self.expiry(u), Holder::Attempt(id));
                if let Some(weights) = self.closing.remove(&place) {
                    self.closed.subtract(&weights);
                }
            }
        }
    }

    /// Enters what was counted by `u` at the latest.
    pub(super) fn close(&mut self, holder: Holder, weights: &Weights, u: BootMs) {
        self.hold(holder, weights, self.expiry(u));
    }

    /// Enters what keeps its place until `until`.
    pub(super) fn hold(&mut self, holder: Holder, weights: &Weights, until: BootMs) {
        if *weights == Weights::default() {
            return;
        }
        if let Some(before) = self.closing.insert((until, holder), *weights) {
            self.closed.subtract(&before);
        }
        self.closed.add(weights);
    }

    /// The earliest known instant from which `excess` less is occupied. Open attempts are taken to
    /// end within `delta_ms` from `now`, but for `staying` of them; what is still too much then
    /// leaves a window later.
    pub(super) fn frees_at(
        &self,
        metric: Metric,
        (excess, staying): (u64, u64),
        now: Now,
        delta_ms: u64,
    ) -> BootMs {
        let mut freed = 0u64;
        for (at, _, weight) in self.leaving(metric) {
            freed = freed.saturating_add(weight);
            if freed >= excess {
                return at;
            }
        }
        let all = self.expiry(now.boot.plus(delta_ms));
        let ending = self.open.get(metric).saturating_sub(staying);
        if freed.saturating_add(ending) < excess { all.plus(self.window_ms.max(1)) } else { all }
    }

    /// When the next part leaves after `now`, if of any the end is known.
    pub(super) fn next_end(&self, now: Now) -> Option<BootMs> {
        self.closing.keys().map(|(at, _)| *at).find(|at| *at > now.boot)
    }

    /// What leaves, when and how much, in order; what weighs nothing in `metric` is left out.
    pub(super) fn leaving(
        &self,
        metric: Metric,
    ) -> impl Iterator<Item = (BootMs, Holder, u64)> + '_ {
        let weigh = move |(&(at, holder), weights): (&(BootMs, Holder), &Weights)| {
            (at, holder, weights.get(metric))
        };
        self.closing.iter().map(weigh).filter(|(_, _, weight)| *weight > 0)
    }

    /// Takes over what still counts from a book of another window: all but the attempts that are
    /// open, which are entered anew.
    pub(super) fn inherit(&mut self, other: &Self, now: Now, is_open: impl Fn(AttemptId) -> bool) {
        for (&(expiry, holder), weights) in &other.closing {
            let u = BootMs(expiry.0.saturating_sub(other.window_ms).saturating_sub(GAMMA_MS));
            let open = matches!(holder, Holder::Attempt(id) if is_open(id));
            if self.expiry(u) > now.boot && !open {
                self.close(holder, weights, u);
            }
        }
    }

    /// Until when what was counted by `u` keeps its place.
    pub(super) fn expiry(&self, u: BootMs) -> BootMs {
        u.plus(self.window_ms).plus(GAMMA_MS)
    }
}
