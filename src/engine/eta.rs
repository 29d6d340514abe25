//! When every open batch is expected to be done: renewed each minute, and when batches open or end,
//! from a copy of the engine, which never waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::core::Engine;
use super::outlook::{Band, Means};
use super::run::Query;
use crate::caps;
use crate::clock;
use crate::gate::units::{Now, UnixMs};
use crate::schedule::LineId;
use crate::store::{BatchId, Store};
use crate::telemetry::chain;

/// What is expected of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eta {
    /// When it is done, if answers come as they do; none when that is not to be seen.
    pub low: Option<UnixMs>,
    /// When it is done, if they take twice as long.
    pub high: Option<UnixMs>,
    /// Whether that lies beyond what was simulated.
    pub extrapolated: bool,
    /// What holds it up at present, or why it does not go at all.
    pub binds: Option<String>,
    /// By how many seconds it will miss its deadline.
    pub misses_deadline_by_s: Option<u64>,
}

/// Where expectations are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    etas: RwLock<BTreeMap<BatchId, Eta>>,
    turned: Notify,
    summary: watch::Sender<Option<Summary>>,
}

/// The whole queue in few words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Prompts that have not come to their end.
    pub prompts: u64,
    /// The batches that have any.
    pub batches: usize,
    /// When something is free next, and in what.
    pub next: Option<(UnixMs, String)>,
    /// When all of it is done.
    pub done: Option<UnixMs>,
    /// Buckets that the provider's no shuts.
    pub throttled: usize,
}

impl Default for Board {
    fn default() -> Self {
        let inner = Inner {
            etas: RwLock::default(),
            turned: Notify::new(),
            summary: watch::channel(None).0,
        };
        Self(Arc::new(inner))
    }
}

impl Board {
    /// What is expected of a batch, if it was there at the last look.
    #[must_use]
    pub fn eta(&self, batch: BatchId) -> Option<Eta> {
        self.0.etas.read().unwrap_or_else(PoisonError::into_inner).get(&batch).cloned()
    }

    /// A batch has opened or ended: time for another look.
    pub(super) fn ring(&self) {
        self.0.turned.notify_one();
    }

    /// The whole queue, as it was at the last look.
    #[must_use]
    pub fn summary(&self) -> watch::Receiver<Option<Summary>> {
        self.0.summary.subscribe()
    }

    /// Renews what is expected until told to stop.
    pub async fn keep(
        self,
        queries: mpsc::Sender<Query>,
        store: Store,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = self.renew(&queries, &store) => {}
            // Closed means the same as true.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn renew(&self, queries: &mpsc::Sender<Query>, store: &Store) {
        let mut means = Means::new();
        let mut warned = BTreeSet::new();
        loop {
            let (reply, answer) = oneshot::channel();
            if queries.send(Query::Copy(reply)).await.is_err() {
                return;
            }
            let Ok(engine) = answer.await else { return };
            self.look(*engine, store, &mut means, &mut warned).await;
            tokio::time::sleep(Duration::from_millis(caps::ETA_LEAST_MS)).await;
            tokio::select! {
                () = self.0.turned.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(caps::ETA_MS)) => {}
            }
        }
    }

    async fn look(
        &self,
        engine: Engine,
        store: &Store,
        means: &mut Means,
        warned: &mut BTreeSet<BatchId>,
    ) {
        let now = clock::now();
        let (summary, deadlines) = engine.summary(now);
        let rests = match engine.rests(store.reader(), means).await {
            Ok(rests) => rests,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot read the queue for a forecast");
                return;
            }
        };
        let work = move || Band::of(engine.snapshot(&rests, now));
        // It fails only if it panics, and that ends the daemon.
        let Ok(band) = tokio::task::spawn_blocking(work).await else { return };
        let etas = etas(&band, &deadlines, now);
        warned.retain(|batch| etas.contains_key(batch));
        for (batch, eta) in &etas {
            if let Some(late_s) = eta.misses_deadline_by_s
                && warned.insert(*batch)
            {
                tracing::warn!(
                    batch.id = batch.0,
                    late_s,
                    "a batch is expected to miss its deadline by {late_s} s"
                );
            }
        }
        let done = etas.values().filter_map(|eta| eta.high.or(eta.low)).max();
        self.0.summary.send_replace(Some(Summary { done, ..summary }));
        *self.0.etas.write().unwrap_or_else(PoisonError::into_inner) = etas;
    }
}

/// The earlier and the later finish of two forecasts of one line, and the rest of what they say.
fn etas(band: &Band, deadlines: &BTreeMap<BatchId, UnixMs>, now: Now) -> BTreeMap<BatchId, Eta> {
    let mut etas = BTreeMap::new();
    for (line, fate) in &band.low.lines {
        let batch = BatchId(line.0);
        let (low, high) = band.finishes(*line);
        let phases = band.low.binds(*line);
        let present = phases.iter().find(|phase| phase.from <= now.wall && phase.until > now.wall);
        let late_ms = deadlines.get(&batch).zip(low).map_or(0, |(at, low)| at.until(low));
        let eta = Eta {
            low,
            high,
            extrapolated: band.is_extrapolated(*line),
            binds: fate.stands.clone().or(present.map(|phase| phase.binding.to_string())),
            misses_deadline_by_s: (late_ms > 0).then(|| late_ms.div_ceil(1_000)),
        };
        etas.insert(batch, eta);
    }
    etas
}

impl Band {
    /// The earlier and the later of a line's finishes.
    #[must_use]
    pub fn finishes(&self, line: LineId) -> (Option<UnixMs>, Option<UnixMs>) {
        let of = |forecast: &crate::schedule::forecast::Forecast| {
            forecast.lines.get(&line).and_then(|fate| fate.finish)
        };
        match (of(&self.low), of(&self.high)) {
            (Some(fast), Some(slow)) => (Some(fast.min(slow)), Some(fast.max(slow))),
            (fast, slow) => (fast, slow),
        }
    }

    /// Whether one of them lies beyond what was simulated.
    #[must_use]
    pub fn is_extrapolated(&self, line: LineId) -> bool {
        let both = [&self.low, &self.high];
        both.iter().any(|it| it.lines.get(&line).is_some_and(|fate| fate.extrapolated))
    }
}

impl Engine {
    fn summary(&self, now: Now) -> (Summary, BTreeMap<BatchId, UnixMs>) {
        let open = || self.jobs.values().filter(|job| job.setup.remaining > 0 && !job.closing);
        let waits = self.lanes.values().filter_map(|lane| lane.wait.as_ref());
        let next = waits.min().map(|(until, reason)| {
            let what = reason.split([':', ' ']).next().unwrap_or_default();
            (now.wall_at(*until), what.to_owned())
        });
        let throttled = self.lanes.keys().filter(|id| self.gate.blocked(**id).is_some()).count();
        let deadlines = self.jobs.iter().filter_map(|(id, job)| Some((*id, job.setup.deadline?)));
        let summary = Summary {
            prompts: open().map(|job| job.setup.remaining).sum(),
            batches: open().count(),
            next,
            done: None,
            throttled,
        };
        (summary, deadlines.collect())
    }
}
