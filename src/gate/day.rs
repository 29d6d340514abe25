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

/// So many days of use are kept: those that were charged last, wherever the clock stood then.
const DAYS_KEPT: usize = 48;

/// An attempt is charged to so many days from its first on, and to its last one.
const DAYS_CHARGED: usize = 20;

/// The quota days that one attempt is charged to, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCharge {
    /// The first day.
    pub lo: NaiveDate,
    /// The last day; `lo` again for nearly every attempt.
    pub hi: NaiveDate,
}

impl DayCharge {
    /// Each of its days; where there are very many of them a clock lied, and those in the middle
    /// are left out.
    fn days(self) -> impl Iterator<Item = NaiveDate> {
        let last = self.hi.max(self.lo);
        let first = self.lo.iter_days().take_while(move |day| *day < last).take(DAYS_CHARGED);
        first.chain([last])
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
    settled: BTreeMap<NaiveDate, Settled>,
    charges: u64,
    open: Sums,
}

/// What counts on one day for certain.
#[derive(Clone, Debug, Default)]
struct Settled {
    own: Sums,
    /// What others used, as a refusal showed.
    others: Sums,
    /// The number of the charge that came last.
    charged: u64,
}

impl Settled {
    fn get(&self, metric: Metric) -> u64 {
        self.own.get(metric).saturating_add(self.others.get(metric))
    }
}

impl DayUse {
    pub(super) fn new(zone: QuotaDay) -> Self {
        Self { zone, cached: None, settled: BTreeMap::new(), charges: 0, open: Sums::default() }
    }

    /// What its days are.
    pub(super) fn zone(&self) -> &QuotaDay {
        &self.zone
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
        self.settled(key, metric).saturating_add(self.reserved(metric))
    }

    fn settled(&self, key: NaiveDate, metric: Metric) -> u64 {
        self.settled.get(&key).map_or(0, |settled| settled.get(metric))
    }

    /// What open attempts hold.
    pub(super) fn reserved(&self, metric: Metric) -> u64 {
        self.open.get(metric)
    }

    /// When `needs` fits in every day that it may be counted on, by our clock, if `beside` more
    /// were open today; none when it fits now.
    pub(super) fn opens(
        &mut self,
        metric: Metric,
        (needs, beside, limit): (u64, u64, u64),
        now: Now,
        edges: DayEdges,
    ) -> Option<UnixMs> {
        let today = self.today(now, edges);
        let more = needs.saturating_add(beside);
        let full = |key| self.used(key, metric).saturating_add(more) > limit;
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
        while self.settled(next.key, metric).saturating_add(needs) > limit {
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
        charge.days().for_each(|day| self.on(day).own.add(weights));
    }

    /// The entry of a day. Days are not forgotten by the clock, which may be wrong.
    fn on(&mut self, day: NaiveDate) -> &mut Settled {
        if self.settled.len() >= DAYS_KEPT && !self.settled.contains_key(&day) {
            let oldest = self.settled.iter().min_by_key(|(_, settled)| settled.charged);
            let oldest = oldest.map(|(day, _)| *day);
            oldest.and_then(|oldest| self.settled.remove(&oldest));
        }
        self.charges += 1;
        let settled = self.settled.entry(day).or_default();
        settled.charged = self.charges;
        settled
    }

    /// Takes over what another bucket used.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (day, settled) in &other.settled {
            let here = self.on(*day);
            here.own.join(&settled.own);
            here.others.join(&settled.others);
        }
    }

    /// The end of the quota day `key`.
    pub(super) fn end_of(&self, key: NaiveDate) -> UnixMs {
        UnixMs::from(self.zone.span_of(key).end)
    }

    /// Notes that others used so much more of a day.
    pub(super) fn fill(&mut self, day: NaiveDate, metric: Metric, weight: u64) {
        self.on(day).others.add(&Weights::only(metric, weight));
    }
}

/// When a bucket that had run out opens, by our clock: the day has begun for certain, and the
/// grace is over.
pub(super) fn opening(start: UnixMs, edges: DayEdges) -> UnixMs {
    start.plus(DAY_GRACE_MS).moved(edges.lo_ms.saturating_neg())
}
