//! The engine driven by hand: minutes and days in a moment.

use std::time::Duration;

use bytes::Bytes;
use chrono::Timelike;
use tidegate::config::{Config, Env};
use tidegate::engine::start::{self, Route};
use tidegate::engine::{BatchSetup, Effect, Engine, Event, RouteTo, SendOrder};
use tidegate::formats::{Dialect, Form, InDoubt, Packing};
use tidegate::gate::admit::BucketId;
use tidegate::gate::units::{BootMs, Now, UnixMs};
use tidegate::store::{BatchId, ItemState, QueuedItem, Settlement, Store};
use tidegate::upstream::{NotSentKind, Outcome, Report, classify};

use crate::harness::{KEY, MODEL, project};

/// An engine with one batch, and the shell that it orders about, without any I/O.
struct Sim {
    engine: Engine,
    now: Now,
    bucket: BucketId,
    inbox: Vec<Event>,
    queue: Vec<QueuedItem>,
    sent: Vec<(Now, SendOrder)>,
    settled: Vec<Settlement>,
}

impl Sim {
    async fn new(items: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidegate.toml");
        let server = format!("[server]\nstate_dir = \"{}\"\n", dir.path().display());
        std::fs::write(&file, server + &project("demo", "http://127.0.0.1:9", "")).unwrap();
        let env: Env = [("TIDEGATE_KEY", KEY)].into_iter().collect();
        let config = Config::load(Some(&file), &env).unwrap();
        let store = Store::open(dir.path(), "a-boot").await.unwrap();
        let now = tidegate::clock::now();
        let (engine, routes) = start::assemble(&config, &store, now, 7).await.unwrap();
        let Some((project, Route::Bucket { id: bucket, .. })) = routes.find("demo", MODEL) else {
            panic!("{MODEL} has no bucket");
        };
        let id = BatchId(1);
        let queue = (1..=items).map(|line| QueuedItem {
            output_tokens_max: None,
            text: None,
            id: id.item(line),
            offset: 0,
            bytes: 10,
            hash: None,
            requests: 1,
            input_tokens: 10,
            images: 0,
            attempts: 0,
            doubts: 0,
            not_before: UnixMs(0),
        });
        let setup = BatchSetup {
            id,
            bucket,
            work: "w".to_owned(),
            form: std::sync::Arc::new(Form::of(Dialect::Text)),
            packing: Packing::Plain,
            model: MODEL.to_owned(),
            tenant: "t".to_owned(),
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
            remaining: items.into(),
            answered: 0,
            stopped: None,
        };
        Self {
            engine,
            now,
            bucket,
            inbox: vec![Event::BatchOpened(Box::new(setup))],
            queue: queue.collect(),
            sent: Vec::new(),
            settled: Vec::new(),
        }
    }

    /// Lets this much time pass; every request that is sent ends at once as `answer` says.
    fn run(&mut self, time: Duration, mut answer: impl FnMut(&SendOrder) -> Report) {
        self.run_timed(time, |_, order| answer(order));
    }

    /// The same with an answer that depends on when it is given.
    fn run_timed(&mut self, time: Duration, mut answer: impl FnMut(Now, &SendOrder) -> Report) {
        let end = self.now.boot.plus(u64::try_from(time.as_millis()).unwrap());
        loop {
            for effect in self.engine.step(self.now, std::mem::take(&mut self.inbox)) {
                let event = self.execute(effect, &mut answer);
                self.inbox.push(event);
            }
            if self.inbox.is_empty() {
                // Time stands still unless the engine waits for it; a millisecond is the least.
                let next = self.engine.wake().map_or(end, |wake| wake.max(self.now.boot.plus(1)));
                if next >= end {
                    self.pass_to(end);
                    return;
                }
                self.pass_to(next);
            }
        }
    }

    fn pass_to(&mut self, at: BootMs) {
        self.now = Now { boot: at, wall: self.now.wall_at(at) };
    }

    fn execute(
        &mut self,
        effect: Effect,
        answer: &mut impl FnMut(Now, &SendOrder) -> Report,
    ) -> Event {
        match effect {
            Effect::Load { batch, after, limit } => {
                let left = self.queue.iter().filter(|item| item.id > after);
                Event::Loaded { batch, items: left.take(limit).cloned().collect() }
            }
            Effect::Reserve(rows) => Event::Reserved(rows.iter().map(|row| row.id).collect()),
            Effect::Send(order) => {
                let report = Box::new(answer(self.now, &order));
                self.sent.push((self.now, order.clone()));
                let key = BatchId::line_of_item(order.item.id).to_string();
                Event::Ended { id: order.id, key, report, line: None, latency_ms: 1 }
            }
            Effect::Settle(rows) => {
                let items = rows.iter().filter_map(|row| Some(row.item.as_ref()?.id)).collect();
                self.settled.extend(rows);
                Event::Settled(items)
            }
            Effect::Requeue(batch) => Event::Requeued { batch, moved: 0, error: None },
            Effect::Seal { project, today } => Event::Sealed { project, before: Some(today) },
            Effect::Remember(_) => Event::Kept,
            Effect::KeepKey(_) => Event::KeyKept,
            Effect::Count(order) => {
                let batch = BatchId::of_item(order.item.id);
                Event::Counted { batch, item: order.item.id, tokens: None }
            }
            Effect::Finish(batch) => Event::Closed(batch),
            Effect::Sweep { batch, .. } => Event::Swept(batch),
            Effect::Admit(_) | Effect::SettleCall(_) => unreachable!("no client calls here"),
            Effect::Refuse { item, .. } => Event::Settled(vec![item.id]),
        }
    }

    /// Item states as they were settled, one for each send.
    fn states(&self) -> Vec<ItemState> {
        self.settled.iter().filter_map(|row| Some(row.item.as_ref()?.state)).collect()
    }
}

fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        status: None,
        date_header: None,
        service_tier: None,
        request_id: None,
        stated: Vec::new(),
        body_sent: false,
    }
}

fn refused(status: u16, message: &str, details: &str) -> Report {
    let body =
        format!(r#"{{"error":{{"code":{status},"message":"{message}","details":[{details}]}}}}"#);
    report(Outcome::Refused(classify(status, body.as_bytes())))
}

fn answered() -> Report {
    let body = Bytes::from_static(b"{}");
    report(Outcome::Answered { body, usage: None, blocked: None, images: 0 })
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_tried_at_most_ten_times_in_a_minute() {
    let mut sim = Sim::new(500).await;
    sim.run(Duration::from_mins(1), |_| {
        let (reason, kind) = ("connection refused".to_owned(), NotSentKind::Connect);
        report(Outcome::NotSent { reason, kind })
    });
    let in_a_minute = sim.sent.len();
    assert!((5..=10).contains(&in_a_minute), "{in_a_minute} attempts");
    assert!(sim.states().iter().all(|state| *state == ItemState::Queued), "nothing is failed");
    assert!(sim.engine.projects()[0].unreachable.is_some());

    // It comes up: within the longest pause all is sent.
    sim.run(Duration::from_mins(2), |_| answered());
    assert_eq!(sim.sent.len() - in_a_minute, 500);
    assert_eq!(sim.engine.unsettled(), 0);
}

#[tokio::test]
async fn an_outage_parks_an_item_and_does_not_fail_it() {
    let mut sim = Sim::new(1).await;
    sim.run(Duration::from_mins(10), |_| refused(503, "the model is overloaded", ""));
    assert_eq!(sim.sent.len(), 5);
    assert!(sim.states().iter().all(|state| *state == ItemState::Queued));
    sim.run(Duration::from_mins(32), |_| answered());
    let last = sim.settled.last().unwrap().item.as_ref().unwrap();
    assert_eq!((last.state, last.attempts), (ItemState::Succeeded, 5));
}

#[tokio::test]
async fn a_used_up_day_ends_with_the_quota_day() {
    let quota = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":
        "GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"20"}]},
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}"#;
    let mut sim = Sim::new(3).await;
    let start = sim.now;
    sim.run(Duration::from_mins(30), |_| refused(429, "quota", quota));
    assert_eq!(sim.sent.len(), 1, "the short wait that the answer asks for is false");
    let buckets = sim.engine.buckets(sim.now);
    let bucket = buckets.iter().find(|bucket| bucket.id == sim.bucket).unwrap();
    let (until, reason) = bucket.blocked.clone().unwrap();
    assert!(reason.contains("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), "{reason}");
    // The day of these projects ends on the hour; half a minute of grace is added, and two seconds
    // for a clock of the provider's that is not known yet.
    let until = until.to_utc();
    assert_eq!((until.minute(), until.second()), (0, 32), "{until}");
    let hours = until.signed_duration_since(start.wall.to_utc()).num_hours();
    assert!((11..=12).contains(&hours), "{until}");

    sim.run(Duration::from_hours(13), |_| answered());
    assert_eq!(sim.sent.len(), 4);
    assert!(sim.sent[1].0.wall.to_utc() >= until, "nothing goes before the day is over");
    let items: Vec<_> = sim.settled.iter().filter_map(|row| row.item.as_ref()).collect();
    assert!(items.iter().all(|item| item.attempts == 0), "a 429 is no attempt of an item's own");
}

#[tokio::test]
async fn a_429_that_explains_nothing_is_waited_out_ever_longer() {
    let mut sim = Sim::new(50).await;
    sim.run(Duration::from_mins(10), |_| refused(429, "Resource has been exhausted", ""));
    let tries = sim.sent.len();
    assert!((6..=40).contains(&tries), "{tries} attempts in ten minutes");
    assert!(sim.states().iter().all(|state| *state == ItemState::Queued));
    sim.run(Duration::from_mins(5), |_| answered());
    assert_eq!(sim.sent.len(), tries + 50);
}

#[tokio::test]
async fn what_one_refusal_teaches_saves_every_later_one() {
    const RPM: usize = 5;
    let quota = format!(
        r#"{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"{RPM}"}}]}}"#
    );
    let mut sim = Sim::new(40).await;
    let (mut counted, mut refusals) = (Vec::<BootMs>::new(), Vec::<BootMs>::new());
    sim.run_timed(Duration::from_mins(12), |now, _| {
        let in_a_minute = |at: &&BootMs| at.until(now.boot) < 60_000;
        if counted.iter().filter(in_a_minute).count() >= RPM {
            refusals.push(now.boot);
            return refused(429, "quota", &quota);
        }
        counted.push(now.boot);
        answered()
    });
    assert_eq!(counted.len(), 40, "all are answered");
    assert_eq!(sim.engine.unsettled(), 0);
    // What was under way together is refused together, at the first instant and never again.
    assert!(!refusals.is_empty());
    assert!(refusals.iter().all(|at| *at == counted[0]), "{refusals:?}");
}
