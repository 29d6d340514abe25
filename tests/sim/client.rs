//! Who decides when to send: the gate, used as the engine uses it, and rules that look right and
//! are wrong.

use std::collections::BTreeMap;

use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::day::{DAY_EDGE_MS, DayCharge};
use tidegate::gate::limits::{Limit, Window};
use tidegate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::verdict::{Ask, Verdict};
use tidegate::gate::window::{AttemptId, DELTA_MS};

use crate::world::World;

/// A row of the ledger, as far as a start needs it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: AttemptId,
    pub(crate) weights: Weights,
    pub(crate) charge: DayCharge,
    /// The bound of a settled attempt; none of one that a crash left open.
    pub(crate) u: Option<BootMs>,
}

/// What an attempt tells when it ends.
pub(crate) type Settled = (BootMs, DayCharge);

/// A rule of admission.
pub(crate) trait Client {
    /// When to ask again, unless it may go now.
    fn check(&mut self, need: &Weights, now: Now) -> Result<(), BootMs>;
    /// Takes the room, and says what the ledger is to hold.
    fn reserve(&mut self, id: AttemptId, need: Weights, now: Now) -> DayCharge;
    fn body_sent(&mut self, id: AttemptId, now: Now);
    fn headers(&mut self, id: AttemptId, now: Now);
    fn settle(&mut self, id: AttemptId, actual: Weights, now: Now) -> Settled;
    fn void(&mut self, id: AttemptId);
    /// Begins anew with nothing but the ledger, and corrects the rows that are open in it.
    fn restart(&mut self, rows: &mut [Row], now: Now);
}

/// What may be wrong with a client that is right otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A start forgets what a crash left open.
    ForgetsOpen,
    /// An attempt counts as counted when it is sent.
    BoundAtSend,
    /// A connection that breaks off ends at once.
    CutAtEnd,
    /// Days are those of Greenwich.
    UtcDays,
}

const BUCKET: BucketId = BucketId(1);

/// The gate as the engine uses it, with at most one flaw.
pub(crate) struct GateClient {
    gate: Gate,
    limits: Vec<Limit>,
    day: QuotaDay,
    flaw: Option<Flaw>,
}

impl GateClient {
    pub(crate) fn new(world: &World, flaw: Option<Flaw>) -> Self {
        let utc = QuotaDay::new("UTC", "0 0 * * *").expect("a valid day");
        let day = if flaw == Some(Flaw::UtcDays) { utc } else { QuotaDay::pacific() };
        let mut client = Self { gate: Gate::default(), limits: world.limits(), day, flaw };
        client.begin();
        client
    }

    fn begin(&mut self) {
        self.gate = Gate::default();
        self.gate.define(BUCKET, ProjectId(1), self.limits.clone(), self.day.clone());
    }
}

impl Client for GateClient {
    fn check(&mut self, need: &Weights, now: Now) -> Result<(), BootMs> {
        match self.gate.check(&ask(*need), now) {
            Verdict::Fits => Ok(()),
            Verdict::Wait(wait) => {
                assert!(wait.until > now.boot, "a wait of no length: {wait:?} at {now:?}");
                Err(wait.until)
            }
            Verdict::Never(never) => panic!("{never}"),
        }
    }

    fn reserve(&mut self, id: AttemptId, need: Weights, now: Now) -> DayCharge {
        let lo = self.gate.reserve(id, &ask(need), now);
        if self.flaw == Some(Flaw::BoundAtSend) {
            self.gate.bound(id, now.boot);
        }
        DayCharge { lo, hi: lo }
    }

    fn body_sent(&mut self, id: AttemptId, now: Now) {
        self.gate.bound(id, now.boot.plus(DELTA_MS));
    }

    fn headers(&mut self, id: AttemptId, now: Now) {
        self.gate.bound(id, now.boot);
    }

    fn settle(&mut self, id: AttemptId, actual: Weights, now: Now) -> Settled {
        if self.flaw == Some(Flaw::CutAtEnd) {
            self.gate.bound(id, now.boot);
        }
        self.gate.settle(id, actual, now).expect("the attempt is open")
    }

    fn void(&mut self, id: AttemptId) {
        self.gate.void(id);
    }

    fn restart(&mut self, rows: &mut [Row], now: Now) {
        self.begin();
        let u = now.boot.plus(DELTA_MS);
        for row in rows {
            if row.u.is_none() {
                let last = now.wall_at(u).plus(DAY_EDGE_MS);
                row.u = Some(u);
                row.charge.hi = self.day.span_at(last.to_utc()).key.max(row.charge.lo);
                if self.flaw == Some(Flaw::ForgetsOpen) {
                    row.weights = Weights::default();
                }
            }
            let u = row.u.expect("it was just set");
            self.gate.restore(row.id, BUCKET, None, row.weights, u);
            self.gate.restore_day(BUCKET, None, row.charge, row.weights);
        }
    }
}

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
    limits: Vec<(Metric, u64, u64)>,
    naive: Naive,
    sent: BTreeMap<AttemptId, (u64, Weights)>,
}

impl NaiveClient {
    pub(crate) fn new(world: &World, naive: Naive) -> Self {
        let rolling = |limit: Limit| match limit.window {
            Window::Rolling { ms } => (limit.metric, ms, limit.value),
            Window::Day | Window::Concurrent => panic!("naive clients know no days"),
        };
        let limits = world.limits().into_iter().map(rolling).collect();
        Self { limits, naive, sent: BTreeMap::new() }
    }

    /// From when on a send at `at` does not count any more.
    fn end(&self, at: u64, window_ms: u64) -> u64 {
        match self.naive {
            Naive::Log | Naive::CautiousLog => at + window_ms,
            Naive::FixedMinute => (at / window_ms + 1) * window_ms,
        }
    }
}

impl Client for NaiveClient {
    fn check(&mut self, need: &Weights, now: Now) -> Result<(), BootMs> {
        for (metric, window_ms, limit) in &self.limits {
            let limit = if self.naive == Naive::CautiousLog { limit * 9 / 10 } else { *limit };
            let live = || {
                let live =
                    self.sent.values().map(|(at, weights)| (self.end(*at, *window_ms), weights));
                live.filter(|(end, _)| *end > now.boot.0)
            };
            let used: u64 = live().map(|(_, weights)| weights.get(*metric)).sum();
            // What is more than nine tenths goes alone.
            if used > 0 && used + need.get(*metric) > limit {
                let next = live().map(|(end, _)| end).min().expect("something is used");
                return Err(BootMs(next));
            }
        }
        Ok(())
    }

    fn reserve(&mut self, id: AttemptId, need: Weights, now: Now) -> DayCharge {
        let old = now.boot.0.saturating_sub(120_000);
        self.sent.retain(|_, (at, _)| *at > old);
        self.sent.insert(id, (now.boot.0, need));
        no_day()
    }

    fn body_sent(&mut self, _: AttemptId, _: Now) {}

    fn headers(&mut self, _: AttemptId, _: Now) {}

    fn settle(&mut self, _: AttemptId, _: Weights, now: Now) -> Settled {
        (now.boot, no_day())
    }

    fn void(&mut self, id: AttemptId) {
        self.sent.remove(&id);
    }

    fn restart(&mut self, _: &mut [Row], _: Now) {}
}

fn ask(need: Weights) -> Ask {
    Ask { bucket: BUCKET, key: KeyId(0), class: Class::Batch, need }
}

fn no_day() -> DayCharge {
    let day = UnixMs(0).to_utc().date_naive();
    DayCharge { lo: day, hi: day }
}
