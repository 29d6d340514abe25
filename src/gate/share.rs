//! What part of a quota a request takes: what fairness counts, and what routes are chosen by.

use super::admit::{BucketId, Gate, Open};
use super::limits::{Limit, Window};
use super::spaces::Spaces;
use super::units::{BootMs, Metric, Now, UnixMs, Weights};
use super::verdict::{Ask, Beside};
use super::window::AttemptId;

/// A share of one: the whole of a limit.
pub const WHOLE_SHARE: u128 = 1_000_000_000_000;

/// What a request costs where nothing is limited.
const UNLIMITED_SHARE: u128 = WHOLE_SHARE / 1_000;

/// The whole of a limit as headroom, in millionths.
const WHOLE_PPM: i64 = 1_000_000;

impl Gate {
    /// The largest part of any limit of the bucket that `weights` takes, of [`WHOLE_SHARE`]: the
    /// dominant share (design/quota-rules.md, 6.2). What is under way at once is left out.
    #[must_use]
    pub fn dominant_share(&self, bucket: BucketId, weights: &Weights) -> u128 {
        let Some(bucket) = self.buckets.get(&self.root(bucket)) else { return 0 };
        let shared = self.shared_limits(bucket.project);
        let own = bucket.spaces.all.meters.iter().map(|meter| &meter.limit);
        let counts = |limit: &&Limit| !matches!(limit.window, Window::Concurrent);
        let part = |limit: &Limit| {
            let weight = u128::from(weights.get(limit.metric));
            weight * WHOLE_SHARE / u128::from(limit.value.max(1))
        };
        let largest = own.chain(shared).filter(counts).map(part).max();
        largest.unwrap_or(UNLIMITED_SHARE * u128::from(weights.requests))
    }

    /// Whether `weight` is all that a limit of the bucket allows of `metric` at once.
    #[must_use]
    pub fn takes_all(&self, bucket: BucketId, metric: Metric, weight: u64) -> bool {
        let Some(bucket) = self.buckets.get(&self.root(bucket)) else { return false };
        let mut limits = bucket.spaces.all.meters.iter().map(|meter| &meter.limit);
        limits.any(|limit| limit.metric == metric && weight >= limit.value)
    }

    /// The smallest limit of a metric that requests of the bucket count in.
    #[must_use]
    pub fn smallest(&self, bucket: BucketId, metric: Metric) -> Option<u64> {
        let bucket = self.buckets.get(&self.root(bucket))?;
        let shared = self.owners.get(&bucket.project).and_then(|owner| owner.shared.as_ref());
        let of_metric = |spaces: &Spaces| spaces.smallest(metric);
        let shared = shared.and_then(of_metric);
        of_metric(&bucket.spaces).into_iter().chain(shared).min()
    }

    /// What attempts hold of which the provider may not have counted yet, as far as they are open.
    /// The others leave the list.
    pub fn unbound(&self, attempts: &mut Vec<AttemptId>) -> Weights {
        let mut sum = Weights::default();
        attempts.retain(|id| match self.attempts.get(id) {
            Some(Open { ask, u: None, .. }) => {
                sum = sum.plus(&ask.need);
                true
            }
            Some(_) | None => false,
        });
        sum
    }

    /// What is left beside the request, in millionths of the limit of which least is left. Of a
    /// quota day its rest is compared with the time that is left of it: a day that runs out too
    /// early counts as little room. Less than nothing when the request does not fit.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn headroom(&mut self, ask: &Ask, now: Now) -> i64 {
        let left_of_day = self.left_of_day_ppm(ask.bucket, now);
        let mut least = WHOLE_PPM;
        self.read_each(ask, &Beside::default(), now, &mut |space, index, reading| {
            let limit = &space.meters[index].limit;
            let takes = reading.used.saturating_add(ask.need.get(limit.metric));
            let left = i128::from(reading.usable) - i128::from(takes);
            let ppm = left * i128::from(WHOLE_PPM) / i128::from(reading.usable.max(1));
            let ppm = match limit.window {
                Window::Day => ppm * i128::from(WHOLE_PPM) / i128::from(left_of_day),
                Window::Rolling { .. } | Window::Concurrent => ppm,
            };
            let bounds = (i128::from(i64::MIN), i128::from(i64::MAX));
            let ppm = i64::try_from(ppm.clamp(bounds.0, bounds.1)).expect("clamped");
            least = least.min(ppm);
        });
        least
    }

    /// When the next part of any window frees in which requests of a bucket count, as far as known:
    /// until then what does not fit does not fit.
    #[must_use]
    pub fn next_end(&self, bucket: BucketId, now: Now) -> Option<BootMs> {
        let bucket = self.buckets.get(&self.root(bucket))?;
        let shared = self.owners.get(&bucket.project).and_then(|owner| owner.shared.as_ref());
        let all = std::iter::once(&bucket.spaces).chain(shared);
        all.filter_map(|spaces| spaces.all.next_end(now)).min()
    }

    /// How much of the quota day is left, in millionths of it; at least one.
    fn left_of_day_ppm(&mut self, bucket: BucketId, now: Now) -> i64 {
        let edges = self.edges(bucket);
        let day = self.bucket(bucket).spaces.all.days.today(now, edges);
        let (start, end) = (UnixMs::from(day.start).0, UnixMs::from(day.end).0);
        let left = i128::from((end - now.wall.0).max(0));
        let ppm = left * i128::from(WHOLE_PPM) / i128::from((end - start).max(1));
        i64::try_from(ppm).unwrap_or(WHOLE_PPM).clamp(1, WHOLE_PPM)
    }
}
