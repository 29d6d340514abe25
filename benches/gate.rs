//! Deciding: one request's way through the gate beside many open attempts, and one step of the
//! engine beside many open batches.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use tidegate::calendar::QuotaDay;
use tidegate::config::{Config, Env};
use tidegate::engine::start::{self, Route};
use tidegate::engine::{BatchSetup, Effect, Engine, Event, RouteTo};
use tidegate::formats::{Dialect, Form, InDoubt, Packing};
use tidegate::gate::admit::{BucketId, Gate};
use tidegate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use tidegate::gate::units::{BootMs, Class, KeyId, Metric, Now, ProjectId, UnixMs, Weights};
use tidegate::gate::verdict::{Ask, Verdict};
use tidegate::gate::window::AttemptId;
use tidegate::store::{BatchId, QueuedItem, Store};
use tidegate::upstream::{Outcome, Report};

use support::{now, percentile, rate, ratio, row};

const ROUNDS: u64 = 2_000;
const BUCKET: BucketId = BucketId(1);
const START: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_800_000_000_000) };
const WEIGHT: Weights =
    Weights { requests: 1, input_tokens: 120, images: 0, spend_nanos: 0, sessions: 0 };
const ASK: Ask = Ask { bucket: BUCKET, key: KeyId(0), class: Class::Batch, need: WEIGHT };
const MODEL: &str = "bench-model";

const CONFIG: &str = r#"
[[project]]
name = "bench"
preset = "none"
keys = [{ name = "main", file = "KEY" }]
max_in_flight = 1
  [[project.limits]]
  model = "bench-model"
  rpm = 1_000_000
  tpm = 1_000_000_000
  rpd = 1_000_000_000
"#;

#[tokio::main]
async fn main() -> Result<()> {
    let before = resident_kib();
    let gate = buckets(1_000);
    let grown = resident_kib().saturating_sub(before);
    row(
        "memory of 1,000 buckets of 4 limits, each with 15 requests in its windows",
        &format!("{grown} KiB"),
        "goal 64 MiB",
    );
    drop(gate);
    for (windows, daily) in [("rpm and tpm", false), ("rpm, tpm, rpd and tpd", true)] {
        let mut few = passes(1_000, daily);
        let mut many = passes(100_000, daily);
        let (few, many) = (percentile(&mut few, 50), percentile(&mut many, 50));
        row(
            &format!("check, reserve, bound, settle; {windows}; 100,000 open attempts"),
            &format!("{many} ns, {}/s on one core", rate(1, Duration::from_nanos(many))),
            &format!("1,000 open attempts: {few} ns: {}", ratio(many, few)),
        );
    }
    let begun = now();
    let (sent, length) = day_of(2_000);
    row(
        "a simulated day of 2,000 requests a minute",
        &format!("{} ms", begun.elapsed().as_millis()),
        &format!("{sent} requests in {} simulated hours; goal 10 s", length / 3_600_000),
    );
    let one = steps(1).await?;
    let many = steps(100).await?;
    row(
        "engine step with nothing to do, 100 open batches",
        &format!("{} ns", many.idle_ns),
        &format!("1 batch: {} ns: {}", one.idle_ns, ratio(many.idle_ns, one.idle_ns)),
    );
    row(
        "engine steps of one request (5), 100 open batches",
        &format!("{} ns", many.request_ns),
        &format!("1 batch: {} ns: {}", one.request_ns, ratio(many.request_ns, one.request_ns)),
    );
    Ok(())
}

/// So many buckets, each with requests in its windows.
fn buckets(count: i64) -> Gate {
    let mut gate = Gate::default();
    for bucket in 0..count {
        let id = BucketId(bucket);
        gate.define(id, ProjectId(1), limits(u64::MAX / 2, true), QuotaDay::pacific());
        for attempt in 0..15 {
            let (attempt, ask) = (AttemptId(bucket * 100 + attempt), Ask { bucket: id, ..ASK });
            gate.reserve(attempt, &ask, START);
            gate.bound(attempt, START.boot);
            gate.settle(attempt, WEIGHT, START);
        }
    }
    gate
}

/// Plays a day with always something to send and answers after 200 ms; returns how many requests
/// went and how long the day was, in milliseconds.
fn day_of(rpm: u64) -> (u64, u64) {
    const DAY_MS: u64 = 86_400_000;
    let mut gate = Gate::default();
    let mut limits = limits(u64::MAX / 2, true);
    limits[0].value = rpm;
    gate.define(BUCKET, ProjectId(1), limits, QuotaDay::pacific());
    let (mut ms, mut sent) = (0, 0);
    while ms < DAY_MS {
        let at = later(START, ms);
        match gate.check(&ASK, at) {
            Verdict::Fits => {
                sent += 1;
                let id = AttemptId(i64::try_from(sent).unwrap_or(i64::MAX));
                gate.reserve(id, &ASK, at);
                gate.flushed(id, later(at, 20));
                gate.bound(id, at.boot.plus(200));
                gate.settle(id, WEIGHT, later(at, 200));
            }
            Verdict::Wait(wait) => ms = wait.until.0 - START.boot.0,
            Verdict::Never(never) => panic!("{never}"),
        }
    }
    (sent, ms)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn limits(value: u64, daily: bool) -> Vec<Limit> {
    let limit = |metric, window| Limit {
        metric,
        window,
        scope: Scope::Project,
        value,
        source: Source::Config,
    };
    let minute = Window::Rolling { ms: MINUTE_MS };
    let mut limits = vec![limit(Metric::Requests, minute), limit(Metric::InputTokens, minute)];
    if daily {
        limits.push(limit(Metric::Requests, Window::Day));
        limits.push(limit(Metric::InputTokens, Window::Day));
    }
    limits
}

/// How long one request's way through the gate takes, in nanoseconds.
fn passes(open: i64, daily: bool) -> Vec<u64> {
    let mut gate = Gate::default();
    gate.define(BUCKET, ProjectId(1), limits(u64::MAX / 2, daily), QuotaDay::pacific());
    for id in 0..open {
        gate.reserve(AttemptId(id), &ASK, START);
    }
    let mut times = Vec::new();
    for (round, id) in (0..ROUNDS).zip(open..) {
        let at = later(START, round);
        let id = AttemptId(id);
        let begun = now();
        if gate.check(&ASK, at) == Verdict::Fits {
            gate.reserve(id, &ASK, at);
            gate.bound(id, at.boot);
            std::hint::black_box(gate.settle(id, WEIGHT, at));
        }
        times.push(nanos(begun.elapsed()));
    }
    times
}

/// Medians of an engine's steps, in nanoseconds.
struct Steps {
    idle_ns: u64,
    request_ns: u64,
}

async fn steps(batches: i64) -> Result<Steps> {
    let (mut engine, mut effects) = engine(batches).await?;
    let (mut idle, mut requests) = (Vec::new(), Vec::new());
    // Fewer than the items of the first page, so that nothing has to be loaded.
    for round in 1..=500 {
        let (id, item) = effects.iter().find_map(reserved).context("nothing was started")?;
        let at = later(START, round * 10);
        let begun = now();
        std::hint::black_box(engine.step(at, [Event::Tick]));
        idle.push(nanos(begun.elapsed()));
        let events = [
            Event::Reserved(vec![id]),
            Event::BodySent(id),
            Event::Headers(id),
            answered(id),
            Event::Settled(vec![item]),
        ];
        effects.clear();
        let begun = now();
        // The end of a request frees the only place in flight, so that the next one is started.
        for event in events {
            effects.extend(engine.step(at, [event]));
        }
        requests.push(nanos(begun.elapsed()));
    }
    Ok(Steps { idle_ns: percentile(&mut idle, 50), request_ns: percentile(&mut requests, 50) })
}

/// An engine with open batches of one model, each with a page of its queue in memory, and what it
/// orders first.
async fn engine(batches: i64) -> Result<(Engine, Vec<Effect>)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (key, file) = (dir.path().join("key"), dir.path().join("tidegate.toml"));
    // A key file that others may read is refused.
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(&key)?.write_all(b"bench")?;
    std::fs::write(&file, CONFIG.replace("KEY", &key.display().to_string()))?;
    let config = Config::load(Some(&file), &Env::from_process())?;
    let store = Store::open(&dir.path().join("state"), "bench").await?;
    let (mut engine, routes) = start::assemble(&config, &store, START, 1).await?;
    let Some((project, Route::Bucket { id: bucket, .. })) = routes.find("bench", MODEL) else {
        anyhow::bail!("{MODEL} has no bucket");
    };
    let today = QuotaDay::pacific().span_at(START.wall.to_utc()).key;
    let mut events = vec![Event::Sealed { project, before: Some(today) }];
    for batch in (1..=batches).map(BatchId) {
        events.push(Event::BatchOpened(Box::new(setup(batch, project, bucket))));
        let items = (1..=512).map(|line| queued(batch.item(line))).collect();
        events.push(Event::Loaded { batch, items });
    }
    let effects = engine.step(START, events);
    Ok((engine, effects))
}

fn setup(id: BatchId, project: i64, bucket: BucketId) -> BatchSetup {
    BatchSetup {
        id,
        bucket,
        work: "work".to_owned(),
        form: std::sync::Arc::new(Form::of(Dialect::GeminiJsonl)),
        packing: Packing::Plain,
        model: MODEL.to_owned(),
        tenant: "uid:1000".to_owned(),
        priority: 1,
        in_doubt: InDoubt::Retry,
        routes: vec![RouteTo { project, bucket, model: MODEL.to_owned(), fallback: false }],
        deadline: None,
        max_cost_nanos: None,
        spent_nanos: 0,
        patience_ms: 900_000,
        spread: false,
        paused: None,
        submitted_at: UnixMs(0),
        not_before: None,
        remaining: 100_000,
        answered: 0,
        stopped: None,
    }
}

fn queued(id: i64) -> QueuedItem {
    let not_before = UnixMs(0);
    let (input_tokens, images) = (WEIGHT.input_tokens, WEIGHT.images);
    QueuedItem {
        output_tokens_max: None,
        text: None,
        id,
        offset: 0,
        bytes: 300,
        hash: None,
        requests: 1,
        input_tokens,
        images,
        attempts: 0,
        doubts: 0,
        not_before,
    }
}

fn answered(id: AttemptId) -> Event {
    let body = Bytes::from_static(b"{}");
    let report = Report {
        outcome: Outcome::Answered { body, usage: None, blocked: None, images: 0 },
        status: Some(200),
        date_header: None,
        service_tier: None,
        request_id: None,
        stated: Vec::new(),
        body_sent: true,
    };
    let line = Some("{}\n".to_owned());
    Event::Ended { id, key: "key".to_owned(), report: Box::new(report), line, latency_ms: 400 }
}

/// The attempt and the item that an effect starts.
fn reserved(effect: &Effect) -> Option<(AttemptId, i64)> {
    let Effect::Reserve(rows) = effect else { return None };
    let row = rows.first()?;
    Some((row.id, row.item_id?))
}

fn later(now: Now, ms: u64) -> Now {
    Now { boot: now.boot.plus(ms), wall: now.wall.plus(ms) }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
