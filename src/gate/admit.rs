//! All dimensions at once: one gate over every bucket.

use std::collections::BTreeMap;
use std::fmt;

use super::day::{DAY_GRACE_MS, DayCharge, DayUse};
use super::limits::{Limit, Window};
use super::units::{BootMs, Metric, Now, UnixMs, Weights};
use super::window::{AttemptId, DELTA_MS, GAMMA_MS, Occupancy};
use crate::calendar::QuotaDay;

/// Identifies a bucket: (project, quota group), the row id of the `bucket` table.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct BucketId(pub i64);

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
        /// The limit.
        limit: u64,
    },
    /// The provider said no, or the bucket waits for a proof that it says yes again.
    Blocked {
        /// In words.
        reason: String,
    },
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { dimension, needs, free, limit } => {
                write!(f, "{dimension}: needs {needs}, {free} of {limit} free")
            }
            Self::Blocked { reason } => f.write_str(reason),
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

/// One limit as it stands, for reports; the same numbers that admission uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit.
    pub limit: Limit,
    /// What counts against it, reservations included.
    pub used: u64,
    /// Of that, what open attempts hold.
    pub reserved: u64,
    /// What is left.
    pub free: u64,
    /// When the next part of a rolling window frees, `None` when of nothing in it the end is known;
    /// of a quota day always its end.
    pub next_free: Option<UnixMs>,
}

/// Every bucket's occupancy, and the one place that says yes.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    buckets: BTreeMap<BucketId, Bucket>,
    attempts: BTreeMap<AttemptId, Open>,
}

#[derive(Clone, Debug)]
struct Bucket {
    rolling: Vec<(Limit, Occupancy)>,
    daily: Vec<Limit>,
    days: DayUse,
    block: Option<Block>,
}

#[derive(Clone, Debug)]
struct Block {
    until: BootMs,
    reason: String,
    canary: Option<AttemptId>,
}

#[derive(Clone, Debug)]
struct Open {
    bucket: BucketId,
    u: Option<BootMs>,
    day_lo: chrono::NaiveDate,
}

impl Gate {
    /// Defines a bucket and its limits; a bucket without limits admits everything.
    ///
    /// # Panics
    /// When the bucket is defined already.
    pub fn define(&mut self, id: BucketId, limits: Vec<Limit>, day: QuotaDay) {
        let mut bucket =
            Bucket { rolling: Vec::new(), daily: Vec::new(), days: DayUse::new(day), block: None };
        for limit in limits {
            match limit.window {
                Window::Rolling { ms } => bucket.rolling.push((limit, Occupancy::new(ms))),
                Window::Day => bucket.daily.push(limit),
            }
        }
        let previous = self.buckets.insert(id, bucket);
        assert!(previous.is_none(), "bucket {id:?} defined twice");
    }

    /// Whether a request of weight `need` may go at `now`. Changes nothing that counts.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn check(&mut self, bucket: BucketId, need: &Weights, now: Now) -> Verdict {
        self.bucket(bucket).check(need, now)
    }

    /// Takes the room for an attempt from every limit and returns the first quota day that it may
    /// count on. The caller has seen [`Verdict::Fits`] for the same `now`.
    ///
    /// # Panics
    /// When the attempt is known already.
    pub fn reserve(
        &mut self,
        id: AttemptId,
        bucket_id: BucketId,
        need: Weights,
        now: Now,
    ) -> chrono::NaiveDate {
        let bucket = self.bucket(bucket_id);
        for (limit, occupancy) in &mut bucket.rolling {
            occupancy.enter(id, need.get(limit.metric));
        }
        let day_lo = bucket.days.first_day(now);
        bucket.days.enter(id, need);
        if let Some(block) = &mut bucket.block {
            block.canary = Some(id);
        }
        let previous = self.attempts.insert(id, Open { bucket: bucket_id, u: None, day_lo });
        assert!(previous.is_none(), "attempt {id:?} reserved twice");
        day_lo
    }

    /// Learns that the provider has counted the attempt by `u` at the latest. A later bound than
    /// the known one changes nothing.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn bound(&mut self, id: AttemptId, u: BootMs) {
        let Some(open) = self.attempts.get_mut(&id) else { return };
        if open.u.is_some_and(|known| known <= u) {
            return;
        }
        let previous = open.u.replace(u);
        let bucket = open.bucket;
        for (_, occupancy) in &mut self.bucket(bucket).rolling {
            occupancy.bound(id, previous, u);
        }
    }

    /// Ends an attempt that reached the provider: its weight becomes what was really used. Returns
    /// the bound and the days it is charged to; `None` for an unknown attempt.
    ///
    /// Headers, if any came, were told to [`Gate::bound`] before. What ends without them, such as a
    /// connection that broke, may still be on its way to the provider, so it counts for Δ more.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn settle(
        &mut self,
        id: AttemptId,
        actual: Weights,
        now: Now,
    ) -> Option<(BootMs, DayCharge)> {
        self.bound(id, now.boot.plus(DELTA_MS));
        let open = self.attempts.remove(&id)?;
        let u = open.u.expect("a bound was just set");
        let bucket = self.bucket(open.bucket);
        for (limit, occupancy) in &mut bucket.rolling {
            occupancy.reweigh(id, u, actual.get(limit.metric));
        }
        let charge = bucket.days.settle(id, open.day_lo, now.wall_at(u), actual);
        bucket.forget_canary(id);
        Some((u, charge))
    }

    /// Ends an attempt of which nothing was sent: it weighs nothing.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn void(&mut self, id: AttemptId) {
        let Some(open) = self.attempts.remove(&id) else { return };
        let bucket = self.bucket(open.bucket);
        for (_, occupancy) in &mut bucket.rolling {
            occupancy.remove(id, open.u);
        }
        bucket.days.remove(id);
        bucket.forget_canary(id);
    }

    /// Shuts a bucket until `until`; then one request goes first, and the rest wait until
    /// [`Gate::unblock`] says that it was answered. A longer block stays.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn block(&mut self, bucket: BucketId, until: BootMs, reason: String) {
        let block = &mut self.bucket(bucket).block;
        if block.as_ref().is_none_or(|known| known.until < until) {
            *block = Some(Block { until, reason, canary: None });
        }
    }

    /// Opens the attempt's bucket if the attempt is the one that went first after a block: the
    /// provider said yes to it. Any other was sent before the block and proves nothing, and neither
    /// does one that a new block overtook. To be told before [`Gate::settle`].
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn unblock(&mut self, id: AttemptId) {
        let Some(open) = self.attempts.get(&id) else { return };
        let bucket = open.bucket;
        let bucket = self.bucket(bucket);
        if bucket.block.as_ref().is_some_and(|block| block.canary == Some(id)) {
            bucket.block = None;
        }
    }

    /// Why and until when the provider's own no shuts the bucket, if it does.
    #[must_use]
    pub fn blocked(&self, bucket: BucketId) -> Option<(BootMs, &str)> {
        let block = self.buckets.get(&bucket)?.block.as_ref()?;
        Some((block.until, &block.reason))
    }

    /// Enters an attempt of the ledger at start: it counts until `u`, whatever was done before.
    pub fn restore(&mut self, id: AttemptId, bucket: BucketId, weights: Weights, u: BootMs) {
        let Some(bucket) = self.buckets.get_mut(&bucket) else { return };
        for (limit, occupancy) in &mut bucket.rolling {
            let weight = weights.get(limit.metric);
            if weight > 0 {
                occupancy.enter(id, weight);
                occupancy.bound(id, None, u);
            }
        }
    }

    /// Enters a day's sum of the ledger at start.
    pub fn restore_day(&mut self, bucket: BucketId, charge: DayCharge, weights: Weights) {
        if let Some(bucket) = self.buckets.get_mut(&bucket) {
            bucket.days.charge(charge, weights);
        }
    }

    /// Whether `weight` is all that a limit of the bucket allows of `metric` at once.
    #[must_use]
    pub fn takes_all(&self, bucket: BucketId, metric: Metric, weight: u64) -> bool {
        let Some(bucket) = self.buckets.get(&bucket) else { return false };
        let limits = bucket.rolling.iter().map(|(limit, _)| limit).chain(&bucket.daily);
        limits.into_iter().any(|limit| limit.metric == metric && weight >= limit.value)
    }

    /// The longest rolling window of any bucket, in milliseconds: how far back the ledger matters.
    #[must_use]
    pub fn longest_window_ms(&self) -> u64 {
        self.buckets
            .values()
            .flat_map(|bucket| &bucket.rolling)
            .map(|(limit, _)| match limit.window {
                Window::Rolling { ms } => ms,
                Window::Day => 0,
            })
            .max()
            .unwrap_or(0)
            + GAMMA_MS
    }

    /// The end of the bucket's quota day that holds `now`, and when a bucket that had run out
    /// opens.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn day_end(&mut self, bucket: BucketId, now: Now) -> (UnixMs, UnixMs) {
        let end = UnixMs::from(self.bucket(bucket).days.span(now.wall).end);
        (end, end.plus(DAY_GRACE_MS))
    }

    /// Every limit of a bucket as it stands.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn state(&mut self, bucket: BucketId, now: Now) -> Vec<LimitState> {
        self.bucket(bucket).state(now)
    }

    fn bucket(&mut self, id: BucketId) -> &mut Bucket {
        self.buckets.get_mut(&id).expect("every bucket in use is defined at start")
    }
}

impl Bucket {
    fn check(&mut self, need: &Weights, now: Now) -> Verdict {
        let limits = self.rolling.iter().map(|(limit, _)| limit).chain(&self.daily);
        for limit in limits {
            let needs = need.get(limit.metric);
            if needs > limit.value {
                return Verdict::Never(Never {
                    dimension: limit.dimension(),
                    needs,
                    limit: limit.value,
                    source_name: limit.source.to_string(),
                });
            }
        }
        let mut longest: Option<Wait> = None;
        let waits = self.block_wait(now).into_iter();
        let waits = waits.chain(self.rolling_waits(need, now)).collect::<Vec<_>>();
        for wait in waits.into_iter().chain(self.daily_waits(need, now)) {
            if longest.as_ref().is_none_or(|known| known.until < wait.until) {
                longest = Some(wait);
            }
        }
        longest.map_or(Verdict::Fits, Verdict::Wait)
    }

    fn block_wait(&self, now: Now) -> Option<Wait> {
        let block = self.block.as_ref()?;
        let until = if block.until > now.boot {
            block.until
        } else if block.canary.is_some() {
            now.boot.plus(DELTA_MS)
        } else {
            return None;
        };
        Some(Wait { until, because: Because::Blocked { reason: block.reason.clone() } })
    }

    fn rolling_waits(&mut self, need: &Weights, now: Now) -> Vec<Wait> {
        let mut waits = Vec::new();
        for (limit, occupancy) in &mut self.rolling {
            let used = occupancy.used(now);
            let needs = need.get(limit.metric);
            let total = used.saturating_add(needs);
            if needs > 0 && total > limit.value {
                let until = occupancy.frees_at(total - limit.value, now);
                waits.push(Wait { until, because: short_of(limit, used, needs) });
            }
        }
        waits
    }

    fn daily_waits(&mut self, need: &Weights, now: Now) -> Vec<Wait> {
        if self.daily.is_empty() {
            return Vec::new();
        }
        let today = self.days.span(now.wall);
        let start = UnixMs::from(today.start);
        let yesterday = (start.until(now.wall) < DAY_GRACE_MS)
            .then(|| self.days.span(start.minus(1)))
            .map(|span| span.key);
        let mut waits = Vec::new();
        for limit in &self.daily {
            let needs = need.get(limit.metric);
            let full = |key| self.days.used(key, limit.metric).saturating_add(needs) > limit.value;
            let opens = if needs > 0 && full(today.key) {
                self.days.room_after(&today, limit, needs).plus(DAY_GRACE_MS)
            } else if needs > 0 && yesterday.is_some_and(full) {
                start.plus(DAY_GRACE_MS)
            } else {
                continue;
            };
            let used = self.days.used(today.key, limit.metric);
            waits.push(Wait { until: now.boot_at(opens), because: short_of(limit, used, needs) });
        }
        waits
    }

    fn state(&mut self, now: Now) -> Vec<LimitState> {
        let mut states = Vec::new();
        for (limit, occupancy) in &mut self.rolling {
            let used = occupancy.used(now);
            states.push(LimitState {
                limit: limit.clone(),
                used,
                reserved: occupancy.reserved(),
                free: limit.value.saturating_sub(used),
                next_free: occupancy.next_expiry().map(|at| now.wall_at(at)),
            });
        }
        let today = self.days.span(now.wall);
        for limit in &self.daily {
            let used = self.days.used(today.key, limit.metric);
            states.push(LimitState {
                limit: limit.clone(),
                used,
                reserved: self.days.reserved(limit.metric),
                free: limit.value.saturating_sub(used),
                next_free: Some(UnixMs::from(today.end)),
            });
        }
        states
    }

    fn forget_canary(&mut self, id: AttemptId) {
        if let Some(block) = &mut self.block
            && block.canary == Some(id)
        {
            block.canary = None;
        }
    }
}

fn short_of(limit: &Limit, used: u64, needs: u64) -> Because {
    Because::Limit {
        dimension: limit.dimension(),
        needs,
        free: limit.value.saturating_sub(used),
        limit: limit.value,
    }
}

/// The metrics a limit of this bucket can count, for callers that clamp an estimate.
#[must_use]
pub fn smallest_limit(limits: &[Limit], metric: Metric) -> Option<&Limit> {
    limits.iter().filter(|limit| limit.metric == metric).min_by_key(|limit| limit.value)
}
