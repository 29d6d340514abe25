//! Minute windows, by brute force. Time is an argument, in milliseconds since the start, and
//! never goes back.

/// How a minute limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WindowKind {
    /// Aligned windows one minute long, from a seeded random phase on.
    Fixed,
    /// Whatever was counted in the minute that ends now, as a half-open interval: an event at `c`
    /// is in the books at `c + minute - 1 ms` and out of them at `c + minute`.
    Sliding,
    /// A token bucket: capacity = limit, refilled by limit per minute, full at the start.
    Bucket,
}

/// One limit over minutes and what was counted against it.
#[derive(Debug)]
pub(super) struct MinuteQuota {
    limit: u64,
    minute_ms: u64,
    last_ms: u64,
    book: Book,
}

#[derive(Debug)]
enum Book {
    /// Every count of the current window as (instant, weight).
    Fixed { phase_ms: u64, counted: Vec<(u64, u64)> },
    /// Every count of the last minute as (instant, weight).
    Sliding { counted: Vec<(u64, u64)> },
    /// Balance at `last_ms`, in weight times minute. Below zero after counts that no limit
    /// could refuse (a malformed request, a server error).
    Bucket { balance: i128 },
}

impl MinuteQuota {
    /// `phase_ms` shifts the edges of fixed windows and means nothing to the others.
    pub(super) fn new(kind: WindowKind, limit: u64, minute_ms: u64, phase_ms: u64) -> Self {
        assert!(minute_ms > 0, "a minute has a length");
        let book = match kind {
            WindowKind::Fixed => Book::Fixed { phase_ms, counted: Vec::new() },
            WindowKind::Sliding => Book::Sliding { counted: Vec::new() },
            WindowKind::Bucket => Book::Bucket { balance: capacity(limit, minute_ms) },
        };
        Self { limit, minute_ms, last_ms: 0, book }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// `None` when `weight` fits at `now_ms`, otherwise the milliseconds until it would if nothing
    /// else came. A weight above the limit never fits and is told to wait a minute.
    pub(super) fn wait_ms(&self, now_ms: u64, weight: u64) -> Option<u64> {
        assert!(now_ms >= self.last_ms, "window time never goes back");
        if weight == 0 {
            return None;
        }
        if weight > self.limit {
            return Some(self.minute_ms);
        }
        match &self.book {
            Book::Fixed { phase_ms, counted } => {
                let window = self.window_index(*phase_ms, now_ms);
                let used: u64 = counted
                    .iter()
                    .filter(|(at_ms, _)| self.window_index(*phase_ms, *at_ms) == window)
                    .map(|(_, weight)| weight)
                    .sum();
                let end_ms = (window + 1) * self.minute_ms - phase_ms;
                (used + weight > self.limit).then_some(end_ms - now_ms)
            }
            Book::Sliding { counted } => {
                let held = counted.iter().filter(|(at_ms, _)| now_ms - at_ms < self.minute_ms);
                let mut used: u64 = held.clone().map(|(_, weight)| weight).sum();
                let mut wait_ms = None;
                for (at_ms, oldest) in held {
                    if used + weight <= self.limit {
                        break;
                    }
                    used -= oldest;
                    wait_ms = Some(at_ms + self.minute_ms - now_ms);
                }
                wait_ms
            }
            Book::Bucket { balance } => {
                let missing = i128::from(weight) * i128::from(self.minute_ms)
                    - self.refilled(*balance, now_ms);
                let per_ms = i128::from(self.limit);
                let wait_ms = (missing + per_ms - 1) / per_ms;
                (missing > 0).then(|| u64::try_from(wait_ms).unwrap_or(u64::MAX))
            }
        }
    }

    /// Counts `weight` at `now_ms`, whether it fits or not.
    pub(super) fn count(&mut self, now_ms: u64, weight: u64) {
        assert!(now_ms >= self.last_ms, "window time never goes back");
        let minute_ms = self.minute_ms;
        match &mut self.book {
            Book::Fixed { counted, .. } | Book::Sliding { counted } => {
                // Older than a minute is outside of every window that can still be asked about.
                counted.retain(|(at_ms, _)| now_ms - at_ms < minute_ms);
                counted.push((now_ms, weight));
            }
            Book::Bucket { balance } => {
                let spent = i128::from(weight) * i128::from(minute_ms);
                let before = *balance;
                *balance = refill(self.limit, minute_ms, before, now_ms - self.last_ms) - spent;
            }
        }
        self.last_ms = now_ms;
    }

    /// Corrects at `now_ms` a weight that was counted at `counted_ms`, as far as it still counts.
    pub(super) fn amend(&mut self, now_ms: u64, counted_ms: u64, was: u64, is: u64) {
        assert!(now_ms >= self.last_ms, "window time never goes back");
        let minute_ms = self.minute_ms;
        match &mut self.book {
            Book::Fixed { counted, .. } | Book::Sliding { counted } => {
                if let Some(entry) = counted.iter_mut().find(|entry| **entry == (counted_ms, was)) {
                    entry.1 = is;
                }
            }
            Book::Bucket { balance } => {
                let more = (i128::from(is) - i128::from(was)) * i128::from(minute_ms);
                let before = *balance;
                let refilled = refill(self.limit, minute_ms, before, now_ms - self.last_ms);
                *balance = (refilled - more).min(capacity(self.limit, minute_ms));
                self.last_ms = now_ms;
            }
        }
    }

    fn window_index(&self, phase_ms: u64, at_ms: u64) -> u64 {
        (at_ms + phase_ms) / self.minute_ms
    }

    fn refilled(&self, balance: i128, now_ms: u64) -> i128 {
        refill(self.limit, self.minute_ms, balance, now_ms - self.last_ms)
    }
}

fn capacity(limit: u64, minute_ms: u64) -> i128 {
    i128::from(limit) * i128::from(minute_ms)
}

fn refill(limit: u64, minute_ms: u64, balance: i128, elapsed_ms: u64) -> i128 {
    let refilled = balance + i128::from(limit) * i128::from(elapsed_ms);
    refilled.min(capacity(limit, minute_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offers weights at growing instants and returns what was accepted.
    fn run(quota: &mut MinuteQuota, offers: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut now_ms = 0;
        let mut accepted = Vec::new();
        for (gap_ms, weight) in offers {
            now_ms += gap_ms;
            if quota.wait_ms(now_ms, *weight).is_none() {
                quota.count(now_ms, *weight);
                accepted.push((now_ms, *weight));
            }
        }
        accepted
    }

    fn sum_between(accepted: &[(u64, u64)], from_ms: u64, until_ms: u64) -> u64 {
        accepted
            .iter()
            .filter(|(at_ms, _)| (from_ms..until_ms).contains(at_ms))
            .map(|(_, weight)| weight)
            .sum()
    }

    fn offers() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0_u64..40, 1_u64..8), 1..120)
    }

    proptest! {
        #[test]
        fn sliding_never_holds_more_than_the_limit_in_any_minute(
            offers in offers(), limit in 1_u64..20, minute_ms in 1_u64..200,
        ) {
            let mut quota = MinuteQuota::new(WindowKind::Sliding, limit, minute_ms, 0);
            let accepted = run(&mut quota, &offers);
            for (from_ms, _) in &accepted {
                prop_assert!(sum_between(&accepted, *from_ms, from_ms + minute_ms) <= limit);
            }
        }

        #[test]
        fn fixed_never_holds_more_than_the_limit_in_an_aligned_minute(
            offers in offers(), limit in 1_u64..20, minute_ms in 1_u64..200, phase in 0_u64..200,
        ) {
            let phase_ms = phase % minute_ms;
            let mut quota = MinuteQuota::new(WindowKind::Fixed, limit, minute_ms, phase_ms);
            let accepted = run(&mut quota, &offers);
            for window in 0..=(40 * 120 + minute_ms) / minute_ms {
                let from_ms = (window * minute_ms).saturating_sub(phase_ms);
                let until_ms = (window + 1) * minute_ms - phase_ms;
                prop_assert!(sum_between(&accepted, from_ms, until_ms) <= limit);
            }
        }

        #[test]
        fn bucket_never_gives_more_than_capacity_and_refill(
            offers in offers(), limit in 1_u64..20, minute_ms in 1_u64..200,
        ) {
            let mut quota = MinuteQuota::new(WindowKind::Bucket, limit, minute_ms, 0);
            let accepted = run(&mut quota, &offers);
            for (first, (from_ms, _)) in accepted.iter().enumerate() {
                for (last, (to_ms, _)) in accepted.iter().enumerate().skip(first) {
                    let spent: u64 = accepted[first..=last].iter().map(|(_, weight)| weight).sum();
                    prop_assert!(
                        spent * minute_ms <= limit * minute_ms + limit * (to_ms - from_ms)
                    );
                }
            }
        }

        #[test]
        fn the_promised_wait_is_exact(
            offers in offers(), limit in 1_u64..20, minute_ms in 1_u64..200,
            kind in prop::sample::select(
                &[WindowKind::Fixed, WindowKind::Sliding, WindowKind::Bucket][..]),
        ) {
            let mut quota = MinuteQuota::new(kind, limit, minute_ms, minute_ms / 3);
            let mut now_ms = 0;
            for (gap_ms, weight) in offers {
                now_ms += gap_ms;
                match quota.wait_ms(now_ms, weight) {
                    None => quota.count(now_ms, weight),
                    Some(wait_ms) if weight <= limit => {
                        prop_assert!(wait_ms > 0);
                        prop_assert!(quota.wait_ms(now_ms + wait_ms - 1, weight).is_some());
                        prop_assert_eq!(quota.wait_ms(now_ms + wait_ms, weight), None);
                    }
                    Some(wait_ms) => prop_assert_eq!(wait_ms, minute_ms),
                }
            }
        }
    }

    #[test]
    fn a_sliding_minute_is_half_open() {
        let mut quota = MinuteQuota::new(WindowKind::Sliding, 1, 60_000, 0);
        quota.count(1_000, 1);
        assert_eq!(quota.wait_ms(60_999, 1), Some(1));
        assert_eq!(quota.wait_ms(61_000, 1), None);
    }

    #[test]
    fn a_fixed_minute_ends_at_its_edge_whatever_its_age() {
        let mut quota = MinuteQuota::new(WindowKind::Fixed, 2, 60_000, 20_000);
        quota.count(39_998, 2);
        assert_eq!(quota.wait_ms(39_999, 1), Some(1));
        assert_eq!(quota.wait_ms(40_000, 2), None);
        quota.count(40_000, 2);
        assert_eq!(quota.wait_ms(40_000, 1), Some(60_000));
    }

    #[test]
    fn a_bucket_starts_full_and_refills_evenly() {
        let mut quota = MinuteQuota::new(WindowKind::Bucket, 6, 60_000, 0);
        quota.count(0, 6);
        assert_eq!(quota.wait_ms(0, 1), Some(10_000));
        assert_eq!(quota.wait_ms(9_999, 1), Some(1));
        assert_eq!(quota.wait_ms(10_000, 1), None);
        assert_eq!(quota.wait_ms(10_000, 6), Some(50_000));
    }

    #[test]
    fn a_corrected_weight_counts_from_the_instant_of_the_first_one() {
        for kind in [WindowKind::Fixed, WindowKind::Sliding, WindowKind::Bucket] {
            let mut quota = MinuteQuota::new(kind, 6, 60_000, 0);
            quota.count(0, 2);
            quota.count(0, 4);
            assert!(quota.wait_ms(1, 1).is_some());
            quota.amend(1_000, 0, 4, 1);
            assert_eq!(quota.wait_ms(1_000, 3), None, "{kind:?}");
            assert!(quota.wait_ms(1_000, 4).is_some(), "{kind:?}");
            quota.amend(2_000, 0, 2, 9);
            assert!(quota.wait_ms(2_000, 1).is_some(), "more than was asked for: {kind:?}");
            let free_at = if kind == WindowKind::Bucket { 70_000 } else { 60_000 };
            assert_eq!(quota.wait_ms(free_at, 2), None, "{kind:?}");
        }
        let mut gone = MinuteQuota::new(WindowKind::Sliding, 6, 60_000, 0);
        gone.count(0, 1);
        gone.count(60_000, 1);
        gone.amend(60_001, 0, 1, 6);
        assert_eq!(gone.wait_ms(60_001, 5), None, "too late to matter");
    }

    #[test]
    fn a_limit_of_zero_admits_nothing_but_weightless_requests() {
        for kind in [WindowKind::Fixed, WindowKind::Sliding, WindowKind::Bucket] {
            let quota = MinuteQuota::new(kind, 0, 6_000, 0);
            assert_eq!(quota.wait_ms(5, 1), Some(6_000));
            assert_eq!(quota.wait_ms(5, 0), None);
        }
    }

    #[test]
    fn what_cannot_be_refused_is_counted_above_the_limit() {
        for kind in [WindowKind::Sliding, WindowKind::Bucket] {
            let mut quota = MinuteQuota::new(kind, 2, 1_000, 0);
            for at_ms in [0, 0, 0, 500] {
                quota.count(at_ms, 1);
            }
            assert!(quota.wait_ms(501, 1).is_some(), "{kind:?}");
        }
    }
}
