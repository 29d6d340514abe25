//! Use by quota day: never reset, only keyed by another day.
//!
//! An attempt is charged to every quota day that it may have been counted on, by the provider's
//! clock as far as that is known. While it is open that is every day up to the present one.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::units::{Metric, Now, Sums, UnixMs, Weights};
use crate::calendar::{DaySpan, QuotaDay};

/// How far the provider's clock is taken to be from ours while nothing is known of it, in
/// milliseconds.
pub const DAY_EDGE_MS: u64 = 2_000;

/// How long after a day's start a bucket stays shut when the day before had run out.
pub const DAY_GRACE_MS: u64 = 30_000;

/// Days of use that are kept around the present one.
const DAYS_KEPT: u64 = 4;

/// The quota days that one attempt is charged to, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCharge {
    /// The first day.
    pub lo: NaiveDate,
    /// The last day; `lo` again for nearly every attempt.
    pub hi: NaiveDate,
}

impl DayCharge {
    /// Each of its days, at most 40: more would be a clock that lies.
    fn days(self) -> impl Iterator<Item = NaiveDate> {
        self.lo.iter_days().take_while(move |day| *day <= self.hi.max(self.lo)).take(40)
    }
}

/// What is known of the day that the provider's clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayEdges {
    /// The provider's clock minus ours is at least this, in milliseconds.
    pub lo_ms: i64,
    /// And at most this.
    pub hi_ms: i64,
    /// A day that has begun already, whatever our clock says: it was set back, and nothing was
    /// heard from the provider since.
    pub floor: Option<NaiveDate>,
}

impl Default for DayEdges {
    fn default() -> Self {
        let edge = i64::try_from(DAY_EDGE_MS).unwrap_or(i64::MAX);
        Self { lo_ms: -edge, hi_ms: edge, floor: None }
    }
}

/// Use by day of one bucket, for every metric, whether or not a limit asks.
#[derive(Clone, Debug)]
pub(super) struct DayUse {
    zone: QuotaDay,
    cached: Option<DaySpan>,
    settled: BTreeMap<NaiveDate, Sums>,
    /// What others used, as a refusal showed.
    others: BTreeMap<NaiveDate, Weights>,
    open: Sums,
}

impl DayUse {
    pub(super) fn new(zone: QuotaDay) -> Self {
        Self {
            zone,
            cached: None,
            settled: BTreeMap::new(),
            others: BTreeMap::new(),
            open: Sums::default(),
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

    /// The latest day that it may be for the provider at `now`.
    pub(super) fn today(&mut self, now: Now, edges: DayEdges) -> DaySpan {
        let today = self.span(now.wall.moved(edges.hi_ms));
        match edges.floor {
            Some(floor) if floor > today.key => self.zone.span_of(floor),
            _ => today,
        }
    }

    /// What counts against the day `key`: all that was charged to it and all that is open.
    pub(super) fn used(&self, key: NaiveDate, metric: Metric) -> u64 {
        let settled = self.settled.get(&key).map_or(0, |sums| sums.get(metric));
        let others = self.others.get(&key).map_or(0, |weights| weights.get(metric));
        settled.saturating_add(others).saturating_add(self.reserved(metric))
    }

    /// What open attempts hold.
    pub(super) fn reserved(&self, metric: Metric) -> u64 {
        self.open.get(metric)
    }

    /// When `needs` fits in every day that it may be counted on, by our clock; none when it fits
    /// now.
    pub(super) fn opens(
        &mut self,
        metric: Metric,
        (needs, limit): (u64, u64),
        now: Now,
        edges: DayEdges,
    ) -> Option<UnixMs> {
        let today = self.today(now, edges);
        let full = |key| self.used(key, metric).saturating_add(needs) > limit;
        let open = |start| opening(UnixMs::from(start), edges);
        if full(today.key) {
            return Some(open(self.room_after(&today, metric, needs, limit).to_utc()));
        }
        let first = now.wall.moved(edges.lo_ms).minus(DAY_GRACE_MS).to_utc();
        if first >= today.start {
            return None;
        }
        let before = DayCharge { lo: self.zone.span_at(first).key, hi: today.key };
        before.days().any(|key| key != today.key && full(key)).then(|| open(today.start))
    }

    /// The start of the first day after `today` in which `needs` fits: what was settled near the
    /// edge may have filled that day too. Open attempts are taken to end today.
    fn room_after(&self, today: &DaySpan, metric: Metric, needs: u64, limit: u64) -> UnixMs {
        let mut next = self.zone.span_at(today.end);
        let settled = |key| self.settled.get(&key).map_or(0, |sums| sums.get(metric));
        while settled(next.key).saturating_add(needs) > limit {
            next = self.zone.span_at(next.end);
        }
        UnixMs::from(next.start)
    }

    /// The first day an attempt reserved at `now` may count on.
    pub(super) fn first_day(&mut self, now: Now, edges: DayEdges) -> NaiveDate {
        self.span(now.wall.moved(edges.lo_ms)).key
    }

    /// The last day that something counted by `until` may count on.
    pub(super) fn last_day(&mut self, until: UnixMs, edges: DayEdges) -> NaiveDate {
        let day = self.span(until.moved(edges.hi_ms)).key;
        edges.floor.map_or(day, |floor| floor.max(day))
    }

    pub(super) fn enter(&mut self, weights: &Weights) {
        self.open.add(weights);
    }

    pub(super) fn leave(&mut self, weights: &Weights) {
        self.open.subtract(weights);
    }

    /// Adds what was used, or what the ledger says was used, to its days.
    pub(super) fn charge(&mut self, charge: DayCharge, weights: &Weights) {
        for day in charge.days() {
            self.settled.entry(day).or_default().add(weights);
        }
        while self.settled.len() > 40 {
            self.settled.pop_first();
        }
    }

    /// Takes over what another bucket used.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (day, sums) in &other.settled {
            self.settled.entry(*day).or_default().join(sums);
        }
        self.others.extend(&other.others);
    }

    /// The end of the quota day `key`.
    pub(super) fn end_of(&self, key: NaiveDate) -> UnixMs {
        UnixMs::from(self.zone.span_of(key).end)
    }

    /// Forgets the days that are long over at `now`.
    pub(super) fn forget_before(&mut self, now: Now) {
        let oldest = self.span(now.wall).key;
        if let Some(oldest) = oldest.checked_sub_days(chrono::Days::new(DAYS_KEPT)) {
            self.settled.retain(|day, _| *day >= oldest);
            self.others.retain(|day, _| *day >= oldest);
        }
    }

    /// Notes that others used the rest of a day.
    pub(super) fn fill(&mut self, day: NaiveDate, metric: Metric, weight: u64) {
        self.others.insert(day, Weights::only(metric, weight));
    }
}

/// When a bucket that had run out opens, by our clock: the day has begun for certain, and the
/// grace is over.
pub(super) fn opening(start: UnixMs, edges: DayEdges) -> UnixMs {
    start.plus(DAY_GRACE_MS).moved(edges.lo_ms.saturating_neg())
}
