//! Use by quota day: never reset, only keyed by another day.
//!
//! An attempt is charged to every quota day that it may have been counted on. While it is open that
//! is every day up to the present one.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::limits::Limit;
use super::units::{Metric, Now, UnixMs, Weights};
use super::window::AttemptId;
use crate::calendar::{DaySpan, QuotaDay};

/// How far the provider's clock may be from ours at a day's edge, in milliseconds.
pub const DAY_EDGE_MS: u64 = 2_000;

/// How long after a day's start a bucket stays shut when the day before had run out.
pub const DAY_GRACE_MS: u64 = 30_000;

/// The quota days that one attempt is charged to, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCharge {
    /// The first day.
    pub lo: NaiveDate,
    /// The last day; `lo` again for nearly every attempt.
    pub hi: NaiveDate,
}

/// Use by day of one bucket, for every metric, whether or not a limit asks.
#[derive(Clone, Debug)]
pub(super) struct DayUse {
    zone: QuotaDay,
    cached: Option<DaySpan>,
    settled: BTreeMap<NaiveDate, Weights>,
    open: BTreeMap<AttemptId, Weights>,
    /// What all of `open` weighs together, by metric. Wider than any weight, so it comes out right.
    reserved: BTreeMap<Metric, u128>,
}

impl DayUse {
    pub(super) fn new(zone: QuotaDay) -> Self {
        Self {
            zone,
            cached: None,
            settled: BTreeMap::new(),
            open: BTreeMap::new(),
            reserved: BTreeMap::new(),
        }
    }

    /// The quota day that holds `at`.
    pub(super) fn span(&mut self, at: UnixMs) -> DaySpan {
        let time = at.to_utc();
        match &self.cached {
            Some(span) if span.start <= time && time < span.end => *span,
            _ => {
                let span = self.zone.span_at(time);
                self.cached = Some(span);
                span
            }
        }
    }

    /// What counts against the day `key`: all that was charged to it and all that is open.
    pub(super) fn used(&self, key: NaiveDate, metric: Metric) -> u64 {
        let settled = self.settled.get(&key).map_or(0, |weights| weights.get(metric));
        settled.saturating_add(self.reserved(metric))
    }

    /// What open attempts hold.
    pub(super) fn reserved(&self, metric: Metric) -> u64 {
        let sum = self.reserved.get(&metric).copied().unwrap_or(0);
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    /// The start of the first day after `today` in which `needs` fits: what was settled near the
    /// edge may have filled that day too. Open attempts are taken to end today.
    pub(super) fn room_after(&self, today: &DaySpan, limit: &Limit, needs: u64) -> UnixMs {
        let mut next = self.zone.span_at(today.end);
        let settled = |key| self.settled.get(&key).map_or(0, |sum| sum.get(limit.metric));
        while settled(next.key).saturating_add(needs) > limit.value {
            next = self.zone.span_at(next.end);
        }
        UnixMs::from(next.start)
    }

    /// The first day an attempt reserved at `now` may count on.
    pub(super) fn first_day(&self, now: Now) -> NaiveDate {
        self.zone.span_at(now.wall.minus(DAY_EDGE_MS).to_utc()).key
    }

    pub(super) fn enter(&mut self, id: AttemptId, weights: Weights) {
        let previous = self.open.insert(id, weights);
        assert!(previous.is_none(), "attempt {id:?} entered twice");
        for metric in Metric::ALL {
            *self.reserved.entry(metric).or_default() += u128::from(weights.get(metric));
        }
    }

    /// Charges a settled attempt to its days and returns them. `until` is the upper bound of the
    /// instant at which it was counted.
    pub(super) fn settle(
        &mut self,
        id: AttemptId,
        lo: NaiveDate,
        until: UnixMs,
        actual: Weights,
    ) -> DayCharge {
        self.remove(id);
        let hi = self.zone.span_at(until.plus(DAY_EDGE_MS).to_utc()).key.max(lo);
        let charge = DayCharge { lo, hi };
        self.charge(charge, actual);
        charge
    }

    pub(super) fn remove(&mut self, id: AttemptId) {
        let Some(weights) = self.open.remove(&id) else { return };
        for metric in Metric::ALL {
            let sum = self.reserved.entry(metric).or_default();
            let rest = sum.checked_sub(u128::from(weights.get(metric)));
            *sum = rest.expect("the sum covers every entry");
        }
    }

    /// Adds what the ledger says was used, at start.
    pub(super) fn charge(&mut self, charge: DayCharge, weights: Weights) {
        let mut days = vec![charge.lo];
        if charge.hi != charge.lo {
            days.extend(charge.lo.iter_days().skip(1).take_while(|day| *day <= charge.hi));
        }
        for day in days {
            let sum = self.settled.entry(day).or_default();
            sum.requests = sum.requests.saturating_add(weights.requests);
            sum.input_tokens = sum.input_tokens.saturating_add(weights.input_tokens);
            sum.images = sum.images.saturating_add(weights.images);
        }
        while self.settled.len() > 4 {
            self.settled.pop_first();
        }
    }
}
