//! How long a forecast takes: batches of many prompts on one bucket and on several, as far as they
//! are simulated.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate::calendar::QuotaDay;
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use tidegate::gate::units::{BootMs, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::window::AttemptId;
use tidegate::schedule::forecast::{
    Delays, Forecast, Pacing, Pending, Place, Run, STARTS_MOST, Snapshot,
};
use tidegate::schedule::{Line, LineId, Route, Schedule};

use support::{now, percentile, rate, ratio, row};

const START: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_800_000_000_000) };

const RUNS: usize = 5;

fn main() {
    let one = median(&snapshot(1, 1, 50_000, 60));
    measure("10,000 prompts of one batch, 60 rpm and 250k tpm", &snapshot(1, 1, 10_000, 60), one);
    measure("50,000 prompts of one batch, 60 rpm and 250k tpm", &snapshot(1, 1, 50_000, 60), one);
    measure("50,000 prompts of one batch, 1,000 rpm", &snapshot(1, 1, 50_000, 1_000), one);
    measure("50,000 prompts of 100 batches, 60 rpm", &snapshot(1, 100, 500, 60), one);
    measure("the same on 20 buckets", &snapshot(20, 100, 500, 60), one);
}

/// Nanoseconds of one forecast.
fn median(snapshot: &Snapshot) -> u64 {
    let mut times: Vec<u64> = (0..RUNS)
        .map(|_| {
            let snapshot = snapshot.clone();
            let begun = now();
            let forecast = Forecast::of(snapshot, STARTS_MOST);
            let took = begun.elapsed();
            drop(forecast);
            u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
        })
        .collect();
    percentile(&mut times, 50)
}

fn measure(what: &str, snapshot: &Snapshot, one: u64) {
    let items: u64 = snapshot.lines.values().map(Pending::prompts).sum();
    let took = median(snapshot);
    let starts = Forecast::of(snapshot.clone(), STARTS_MOST).starts.len();
    let a_second = rate(u64::try_from(starts).unwrap_or(0), Duration::from_nanos(took));
    row(
        what,
        &format!("{} ms, {a_second} starts/s", took / 1_000_000),
        &format!(
            "{starts} of {items} starts simulated; goal 2 s; one batch of 50,000: {}",
            ratio(took, one)
        ),
    );
}

fn snapshot(buckets: i64, lines: i64, items: u64, rpm: u64) -> Snapshot {
    let mut snapshot = Snapshot {
        now: START,
        gate: Gate::default(),
        schedule: Schedule::default(),
        projects: BTreeMap::new(),
        buckets: BTreeMap::new(),
        lines: BTreeMap::new(),
        flights: Vec::new(),
        next_attempt: AttemptId(1),
    };
    for bucket in 1..=buckets {
        let limit = |metric, window, value| Limit {
            metric,
            window,
            scope: Scope::Project,
            value,
            source: Source::Config,
        };
        let minute = Window::Rolling { ms: MINUTE_MS };
        let limits = vec![
            limit(Metric::Requests, minute, rpm),
            limit(Metric::InputTokens, minute, 250_000.max(rpm * 10_000)),
            limit(Metric::Requests, Window::Day, 1_000_000),
        ];
        let id = BucketId(bucket);
        snapshot.gate.define(id, ProjectId(bucket), limits, QuotaDay::pacific());
        let pacing = Pacing {
            keys: 1,
            next_key: 0,
            max_in_flight: 1_000,
            starts_per_second: 100,
            second: (BootMs(0), 0),
            held: None,
        };
        snapshot.projects.insert(bucket, pacing);
        let delays = Delays { flush_ms: Some(1), headers_ms: 900, end_ms: 4_000 };
        snapshot.buckets.insert(
            id,
            Place { project: bucket, crowd: None, held: None, delays, uses_permille: 1_000 },
        );
    }
    for id in 1..=lines {
        let project = id % buckets + 1;
        let bucket = BucketId(project);
        let line = Line {
            class: 1,
            tenant: snapshot.schedule.tenant(&format!("tenant-{}", id % 7)),
            deadline: None,
            routes: vec![Route { project, bucket, fallback: false }],
            patience_ms: 0,
        };
        snapshot.schedule.add(LineId(id), line, START.boot, START.boot);
        let runs = (0..items / 10).map(|run| {
            let tokens = [120, 900, 15_000, 4_000][usize::try_from(run % 4).unwrap_or(0)];
            let need = Weights { requests: 1, input_tokens: tokens, ..Weights::default() };
            let first = id * 1_000_000 + i64::try_from(run * 10).unwrap_or(0);
            Run { first, count: 10, needs: [(bucket, need)].into(), pinned: None }
        });
        let pending = Pending { runs: runs.collect(), ..Pending::default() };
        snapshot.lines.insert(LineId(id), pending);
    }
    snapshot
}
