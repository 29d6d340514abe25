//! Rules that look right, and that many programs keep.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::client::{AttemptId, BootMs, Client, DayCharge, End, Now, Row, Settled, UnixMs};
use crate::oracle::Weight;
use crate::world::World;

/// How a naive client counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naive {
    /// The sends of the last window.
    Log,
    /// The same against nine tenths of the limit.
    CautiousLog,
    /// The sends of the present minute by its own clock.
    FixedMinute,
}

/// Counts sends at the instant of sending. Forgets nothing over a crash.
pub(crate) struct NaiveClient {
    limits: Vec<(usize, u64, u64)>,
    longest_ms: u64,
    naive: Naive,
    sent: BTreeMap<AttemptId, (u64, Weight)>,
}

impl NaiveClient {
    pub(crate) fn new(world: &World, naive: Naive) -> Self {
        let factor = if naive == Naive::CautiousLog { 9 } else { 10 };
        let limit = |pair: &crate::world::Pair| {
            (pair.metric, pair.window_ms, (pair.limit * factor / 10).max(1))
        };
        let limits = world.pairs.iter().map(limit).collect();
        Self { limits, longest_ms: world.longest_window_ms(), naive, sent: BTreeMap::new() }
    }

    /// From when on a send at `at` does not count any more.
    fn end(&self, at: u64, window_ms: u64) -> u64 {
        match self.naive {
            Naive::Log | Naive::CautiousLog => at + window_ms,
            Naive::FixedMinute => (at / window_ms + 1) * window_ms,
        }
    }

    /// What still counts at `at`: its ends and weights, in the order of the ends.
    fn live(&self, metric: usize, window_ms: u64, at: u64) -> impl Iterator<Item = (u64, u64)> {
        let ends = self
            .sent
            .values()
            .map(move |(sent, weight)| (self.end(*sent, window_ms), weight[metric]));
        ends.filter(move |(end, weight)| *end > at && *weight > 0)
    }
}

impl Client for NaiveClient {
    fn check(&mut self, need: Weight, now: Now) -> Result<(), BootMs> {
        let mut until = now.boot.0;
        for (metric, window_ms, limit) in &self.limits {
            let mut used: u64 =
                self.live(*metric, *window_ms, now.boot.0).map(|(_, weight)| weight).sum();
            // What is more than nine tenths goes alone.
            for (end, weight) in self.live(*metric, *window_ms, now.boot.0) {
                if used == 0 || used + need[*metric] <= *limit {
                    break;
                }
                used -= weight;
                until = until.max(end);
            }
        }
        if until > now.boot.0 { Err(BootMs(until)) } else { Ok(()) }
    }

    fn reserve(&mut self, id: AttemptId, need: Weight, now: Now) -> DayCharge {
        let old = now.boot.0.saturating_sub(2 * self.longest_ms);
        self.sent.retain(|_, (at, _)| *at > old);
        self.sent.insert(id, (now.boot.0, need));
        no_day()
    }

    fn settle(&mut self, _: AttemptId, _: End, now: Now) -> Settled {
        (now.boot, no_day(), [0; 3])
    }

    fn void(&mut self, id: AttemptId) {
        self.sent.remove(&id);
    }

    fn restart(&mut self, rows: &mut [Row], _: bool, now: Now) {
        for row in rows {
            row.u.get_or_insert((now.boot, now.wall));
        }
        // The ages of another boot are unknown to it.
        self.sent.retain(|_, (at, _)| *at <= now.boot.0);
    }

    fn spare(&mut self, head: Weight, at: BootMs, _: Now) -> Weight {
        let mut spare = [u64::MAX; 3];
        for (metric, window_ms, limit) in &self.limits {
            let used: u64 = self.live(*metric, *window_ms, at.0).map(|(_, weight)| weight).sum();
            let free = limit.saturating_sub(used).saturating_sub(head[*metric]);
            spare[*metric] = spare[*metric].min(free);
        }
        spare
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, FakeRelativeClock, NoOpMiddleware<Nanos>>;

/// The `governor` crate as its documentation shows it: a quota a minute with its own burst, one
/// limiter a metric. What a head has taken from one, it keeps while it waits for the next.
pub(crate) struct GovernorClient {
    clock: FakeRelativeClock,
    read: u64,
    limiters: Vec<(usize, Limiter)>,
    taken: usize,
}

impl GovernorClient {
    pub(crate) fn new(world: &World) -> Self {
        let clock = FakeRelativeClock::default();
        let limiter = |pair: &crate::world::Pair| {
            assert_eq!(pair.window_ms, 60_000, "a quota is by the minute");
            (
                pair.metric,
                Limiter::direct_with_clock(Quota::per_minute(cells(pair.limit)), clock.clone()),
            )
        };
        let limiters = world.pairs.iter().map(limiter).collect();
        Self { clock, read: crate::world::BOOT, limiters, taken: 0 }
    }
}

impl Client for GovernorClient {
    fn check(&mut self, need: Weight, now: Now) -> Result<(), BootMs> {
        self.clock.advance(Duration::from_millis(now.boot.0 - self.read));
        self.read = now.boot.0;
        while let Some((metric, limiter)) = self.limiters.get(self.taken) {
            let verdict = limiter.check_n(cells(need[*metric])).expect("it is within the quota");
            if let Err(wait) = verdict {
                let wait = wait.wait_time_from(governor::clock::Clock::now(&self.clock));
                let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).expect("minutes");
                return Err(now.boot.plus(ms.max(1)));
            }
            self.taken += 1;
        }
        Ok(())
    }

    fn reserve(&mut self, _: AttemptId, _: Weight, _: Now) -> DayCharge {
        self.taken = 0;
        no_day()
    }

    fn settle(&mut self, _: AttemptId, _: End, now: Now) -> Settled {
        (now.boot, no_day(), [0; 3])
    }

    fn void(&mut self, _: AttemptId) {}

    fn restart(&mut self, _: &mut [Row], _: bool, _: Now) {}
}

fn cells(weight: u64) -> NonZeroU32 {
    u32::try_from(weight).ok().and_then(NonZeroU32::new).expect("a quota is positive and small")
}

fn no_day() -> DayCharge {
    let day = UnixMs(0).to_utc().date_naive();
    DayCharge { lo: day, hi: day }
}
