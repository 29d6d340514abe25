//! Usage reports of a real ledger, against sums by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::query::{UsageParams, UsageQuery, parse_by};
use super::super::usage::*;
use super::{at, now};
use crate::calendar::QuotaDay;
use crate::config::prices::Prices;
use crate::gate::units::{BootMs, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;
use crate::store::{
    AttemptEnd, BatchId, EndedAttempt, NewAttempt, NewBatch, NewItem, ProjectIds, ProjectSetup,
    Settlement, Source, Store, Tokens,
};

const FLASH: &str = "gemini-2.5-flash";
const ARGON: &str = "gemini-4-argon";

/// Noon in California on the day from which argon costs twice as much.
const NOON: &str = "2026-12-01T20:00:00Z";

/// Input, cached, output, thoughts, tools.
type Counts = [u64; 5];

struct Ledger {
    store: Store,
    demo: ProjectIds,
    trial: ProjectIds,
    _dir: tempfile::TempDir,
}

struct Attempt<'a> {
    project: &'a ProjectIds,
    model: &'a str,
    at: &'a str,
    item: Option<i64>,
    key: &'a str,
    /// `None` leaves it open.
    end: Option<(AttemptEnd, Counts)>,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "boot").await.unwrap();
        let group = |model: &str| (model.to_owned(), vec![model.to_owned()]);
        let groups = BTreeMap::from([group(FLASH), group(ARGON)]);
        let project = |name: &str| ProjectSetup { name: name.to_owned(), groups: groups.clone() };
        let demo = store.sync_project(project("demo")).await.unwrap();
        let trial = store.sync_project(project("trial")).await.unwrap();
        Self { store, demo, trial, _dir: dir }
    }

    async fn enter(&self, attempts: &[Attempt<'_>]) {
        let day = QuotaDay::pacific();
        for attempt in attempts {
            let id = self.store.reader().next_attempt().await.unwrap();
            let time = at(attempt.at);
            let key = day.span_at(time.to_utc()).key.to_string();
            self.store.reserve(vec![reservation(id, attempt, time, key.clone())]).await.unwrap();
            if let Some((end, counts)) = attempt.end {
                let row =
                    Settlement { attempt: Some(ended(id, end, counts, time, key)), item: None };
                self.store.settle(vec![row]).await.unwrap();
            }
        }
    }

    /// The nine attempts that the sums by hand are of.
    async fn fill(&self) {
        let item = self.batch().await;
        let (demo, trial) = (&self.demo, &self.trial);
        let thousand = [1_000, 0, 100, 0, 0];
        let ok = |counts| Some((AttemptEnd::Ok, counts));
        let failed = |end| Some((end, Counts::default()));
        let row =
            |project, model, at, end| Attempt { project, model, at, item: None, key: "a", end };
        self.enter(&[
            row(demo, ARGON, "2026-12-01T07:30:00Z", ok(thousand)),
            row(demo, ARGON, "2026-12-01T08:30:00Z", ok(thousand)),
            row(trial, ARGON, "2026-12-01T08:30:01Z", ok(thousand)),
            row(demo, FLASH, "2026-12-01T18:00:00Z", failed(AttemptEnd::Failed)),
            row(demo, FLASH, "2026-12-01T18:00:01Z", failed(AttemptEnd::Aborted)),
            row(demo, FLASH, "2026-12-01T19:00:00Z", failed(AttemptEnd::InDoubt)),
            Attempt {
                item: Some(item),
                key: "b",
                ..row(demo, FLASH, "2026-12-01T19:59:30Z", ok([1_000, 400, 200, 100, 50]))
            },
            row(demo, FLASH, "2026-12-01T19:59:45Z", failed(AttemptEnd::Throttled)),
            row(demo, FLASH, NOON, None),
        ])
        .await;
    }

    async fn batch(&self) -> i64 {
        let source =
            Source { dev: 1, ino: 2, mtime_ns: 3, bytes: 4, uid: 5, sha256: "00".to_owned() };
        let batch = NewBatch {
            uid: "01930000-0000-7000-8000-000000000001".to_owned(),
            work: "w".to_owned(),
            file_name: "jobs.jsonl".to_owned(),
            out_name: "jobs".to_owned(),
            dialect: "gemini-jsonl".to_owned(),
            project_id: self.demo.id,
            bucket_id: self.demo.buckets[FLASH],
            model: FLASH.to_owned(),
            tenant: "ada".to_owned(),
            priority: 1,
            in_doubt: "retry".to_owned(),
            on_bad_line: "reject".to_owned(),
            not_before: None,
            deadline: None,
            max_cost_nanos: None,
            pool: None,
            fallback: Vec::new(),
            patience_ms: None,
            pace: "asap".to_owned(),
            template: None,
            answers: "gemini".to_owned(),
            source,
            submitted_at: at("2026-12-01T19:00:00Z"),
        };
        let id: BatchId = self.store.enter_batch(batch).await.unwrap();
        let item = NewItem {
            output_tokens_max: None,
            text: None,
            id: id.item(1),
            offset: 0,
            bytes: 4,
            hash: 7,
            requests: 1,
            tokens: 1_000,
            images: 0,
            state: 0,
            line: None,
        };
        self.store.import_items(vec![item]).await.unwrap();
        id.item(1)
    }

    async fn report(&self, query: &UsageQuery, now: Now) -> UsageReport {
        usage(self.store.reader(), query, &terms(), Prices::shipped(), now).await.unwrap()
    }
}

fn reservation(id: AttemptId, attempt: &Attempt<'_>, time: UnixMs, day_lo: String) -> NewAttempt {
    NewAttempt {
        text: None,
        origin: crate::store::Origin::default(),
        id,
        item_id: attempt.item,
        project_id: attempt.project.id,
        bucket_id: attempt.project.buckets[attempt.model],
        model: attempt.model.to_owned(),
        key_name: attempt.key.to_owned(),
        tenant: "ada".to_owned(),
        s_wall: time,
        s_boot: BootMs(0),
        day_lo,
        est: Weights { requests: 1, input_tokens: 1_000, ..Weights::default() },
    }
}

fn ended(
    id: AttemptId,
    end: AttemptEnd,
    [prompt, cached, output, thought, tool]: Counts,
    time: UnixMs,
    day_hi: String,
) -> EndedAttempt {
    let total = prompt + output + thought + tool;
    EndedAttempt {
        id,
        end,
        u_wall: time,
        u_boot: BootMs(0),
        day_hi,
        act: Weights { requests: 1, input_tokens: prompt, ..Weights::default() },
        tokens: Tokens { prompt, cached, output, thought, tool, total, raw: None },
        http_status: None,
        quota_id: None,
        service_tier: None,
        error: None,
        latency_ms: None,
    }
}

fn terms() -> Terms {
    let project = |name: &str, tier: &str| {
        (name.to_owned(), ProjectTerms { day: QuotaDay::pacific(), tier: tier.to_owned() })
    };
    Terms { projects: BTreeMap::from([project("demo", "tier1"), project("trial", "free")]) }
}

fn by(columns: &str) -> UsageQuery {
    let since = Some(at("2026-11-01T00:00:00Z"));
    UsageQuery { by: parse_by(columns).unwrap(), since, ..UsageQuery::TODAY }
}

/// The fields of each row in order.
fn pick(rows: &Value, fields: &[&str]) -> Value {
    let row = |row: &Value| fields.iter().map(|field| row[field].clone()).collect::<Value>();
    rows.as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn today_by_project_and_model_equals_sums_by_hand() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let report = ledger.report(&UsageQuery::TODAY, now(NOON)).await;
    let argon = json!({
        "project": "demo", "model": ARGON, "attempts": 1, "ok": 1, "failed": 0, "throttled": 0,
        "in_doubt": 0, "open": 0, "input_tokens": 1_000, "cached_tokens": 0,
        "output_tokens": 100, "thought_tokens": 0, "tool_tokens": 0, "total_tokens": 1_100,
        "images": 0, "cost_usd": 0.006, "last_minute": {"requests": 0, "input_tokens": 0},
    });
    let mut trial = argon.clone();
    (trial["project"], trial["cost_usd"]) = (json!("trial"), json!(0.0));
    let note = format!("{FLASH}: audio input costs 1.00, and is counted as text");
    let expected = json!({
        "generated_at": "2026-12-01T20:00:00Z",
        "since": "2026-12-01T08:00:00Z",
        "until": "2026-12-01T20:00:00Z",
        "by": ["project", "model"],
        "rows": [
            {
                "project": "demo", "model": FLASH, "attempts": 5, "ok": 1, "failed": 1,
                "throttled": 1, "in_doubt": 1, "open": 1, "input_tokens": 1_000,
                "cached_tokens": 400, "output_tokens": 200, "thought_tokens": 100,
                "tool_tokens": 50, "total_tokens": 1_350, "images": 0, "cost_usd": 0.000_957,
                "last_minute": {"requests": 3, "input_tokens": 1_000},
            },
            argon,
            trial,
        ],
        "totals": {
            "attempts": 7, "ok": 3, "failed": 1, "throttled": 1, "in_doubt": 1, "open": 1,
            "input_tokens": 3_000, "cached_tokens": 400, "output_tokens": 400,
            "thought_tokens": 100, "tool_tokens": 50, "total_tokens": 3_550, "images": 0,
            "cost_usd": 0.006_957, "last_minute": {"requests": 3, "input_tokens": 1_000},
        },
        "prices": "prices-2026-11",
        "notes": [note],
    });
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
    assert_eq!(serde_json::from_str::<UsageReport>(&json).unwrap(), report);
}

#[tokio::test]
async fn each_quota_day_is_priced_by_itself() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    // 1,000 in and 100 out of argon: 0.003 the day before, 0.006 since; flash 0.000957.
    let report = ledger.report(&by("project"), now(NOON)).await;
    let rows = serde_json::to_value(&report.rows).unwrap();
    assert_eq!(
        pick(&rows, &["project", "attempts", "cost_usd"]),
        json!([["demo", 7, 0.009_957], ["trial", 1, 0.0]])
    );
    let days = ledger.report(&by("day"), now(NOON)).await;
    let rows = serde_json::to_value(&days.rows).unwrap();
    assert_eq!(
        pick(&rows, &["day", "attempts", "cost_usd", "last_minute"]),
        json!([["2026-11-30", 1, 0.003, null], ["2026-12-01", 7, 0.006_957, null]])
    );
    assert_eq!(days.totals.last_minute, Some(LastMinute { requests: 3, input_tokens: 1_000 }));
}

#[tokio::test]
async fn every_grouping_adds_up_to_the_same_totals() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let totals = ledger.report(&by("project"), now(NOON)).await.totals;
    assert_eq!(totals.attempts, 8);
    for columns in ["model", "key", "tenant", "batch", "hour", "day", "hour,key,batch,project"] {
        let report = ledger.report(&by(columns), now(NOON)).await;
        assert_eq!(report.totals, totals, "{columns}");
        let sum = |field: fn(&UsageRowOut) -> u64| report.rows.iter().map(field).sum::<u64>();
        assert_eq!(sum(|row| row.attempts), 8, "{columns}");
        assert_eq!(sum(|row| row.total_tokens), totals.total_tokens, "{columns}");
    }
}

#[tokio::test]
async fn attempts_that_no_batch_caused_have_a_null_batch() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let report = ledger.report(&by("batch,key"), now(NOON)).await;
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<UsageReport>(&text).unwrap(), report);
    let rows = serde_json::to_value(&report.rows).unwrap();
    assert_eq!(
        pick(&rows, &["key", "batch", "attempts", "last_minute"]),
        json!([
            ["a", null, 7, {"requests": 2, "input_tokens": 0}],
            ["b", "01930000-0000-7000-8000-000000000001", 1,
                {"requests": 1, "input_tokens": 1_000}],
        ])
    );
    assert!(rows[0].as_object().unwrap().contains_key("batch"));
    assert!(!rows[0].as_object().unwrap().contains_key("project"));
}

#[tokio::test]
async fn hours_begin_on_the_hour() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let query = UsageQuery { model: Some(FLASH.to_owned()), ..by("hour") };
    let rows = serde_json::to_value(ledger.report(&query, now(NOON)).await.rows).unwrap();
    assert_eq!(
        pick(&rows, &["hour", "attempts", "last_minute"]),
        json!([
            ["2026-12-01T18:00:00Z", 1, null],
            ["2026-12-01T19:00:00Z", 3, null],
            ["2026-12-01T20:00:00Z", 1, null],
        ])
    );
}

#[tokio::test]
async fn just_after_midnight_the_last_minute_stands_beside_an_empty_day() {
    let ledger = Ledger::new().await;
    let (project, model) = (&ledger.demo, FLASH);
    let end = Some((AttemptEnd::Ok, [10, 0, 1, 0, 0]));
    let time = "2026-12-01T07:59:50Z";
    ledger.enter(&[Attempt { project, model, at: time, item: None, key: "a", end }]).await;
    let report = ledger.report(&UsageQuery::TODAY, now("2026-12-01T08:00:30Z")).await;
    let rows = serde_json::to_value(&report.rows).unwrap();
    assert_eq!(
        pick(&rows, &["project", "model", "attempts", "cost_usd", "last_minute"]),
        json!([["demo", FLASH, 0, 0.0, {"requests": 1, "input_tokens": 10}]])
    );
    // A report of the past has no row for what only the last minute saw.
    let past = UsageQuery {
        since: Some(at("2026-12-01T06:00:00Z")),
        until: Some(at("2026-12-01T07:00:00Z")),
        ..UsageQuery::TODAY
    };
    assert_eq!(ledger.report(&past, now("2026-12-01T08:00:30Z")).await.rows, []);
}

#[tokio::test]
async fn the_last_minute_is_sixty_seconds() {
    let ledger = Ledger::new().await;
    let (project, model) = (&ledger.demo, FLASH);
    let row = |at| Attempt { project, model, at, item: None, key: "a", end: None };
    ledger.enter(&[row("2026-12-01T19:59:00Z"), row("2026-12-01T19:59:00.001Z"), row(NOON)]).await;
    let report = ledger.report(&UsageQuery::TODAY, now(NOON)).await;
    assert_eq!(report.totals.attempts, 3);
    assert_eq!(report.totals.last_minute, Some(LastMinute { requests: 2, input_tokens: 0 }));
}

#[tokio::test]
async fn the_span_ends_before_until_and_begins_with_the_day_that_ends_there() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let params = UsageParams { until: Some("2026-12-01T08:00:00Z".into()), ..Default::default() };
    let query = params.read(now(NOON)).unwrap();
    let report = ledger.report(&query, now(NOON)).await;
    assert_eq!(report.since.to_rfc3339(), "2026-11-30T08:00:00+00:00");
    assert_eq!(report.until.to_rfc3339(), "2026-12-01T08:00:00+00:00");
    assert_eq!(report.totals.attempts, 1);
    let ahead = UsageQuery { until: Some(at("2026-12-24T00:00:00Z")), ..UsageQuery::TODAY };
    let report = ledger.report(&ahead, now(NOON)).await;
    assert_eq!(report.since.to_rfc3339(), "2026-12-01T08:00:00+00:00");
    assert_eq!(report.totals.attempts, 7);
    let of_one = UsageQuery { project: Some("trial".into()), ..UsageQuery::TODAY };
    assert_eq!(ledger.report(&of_one, now(NOON)).await.totals.attempts, 1);
}

#[tokio::test]
async fn a_cost_that_is_not_known_is_null_and_said() {
    let ledger = Ledger::new().await;
    ledger.fill().await;
    let mut terms = terms();
    terms.projects.remove("demo");
    let prices = Prices::shipped();
    let reader = ledger.store.reader();
    let report = usage(reader, &by("project,model"), &terms, prices, now(NOON)).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        pick(&json["rows"], &["project", "model", "cost_usd"]),
        json!([["demo", FLASH, null], ["demo", ARGON, null], ["trial", ARGON, 0.0]])
    );
    assert_eq!(json["totals"]["cost_usd"], Value::Null);
    assert_eq!(json["unpriced_models"], json!([FLASH, ARGON]));
}

#[tokio::test]
async fn an_empty_ledger_has_no_rows_and_zero_totals() {
    let ledger = Ledger::new().await;
    let report = ledger.report(&UsageQuery::TODAY, now(NOON)).await;
    assert_eq!(report.rows, []);
    let json = serde_json::to_value(&report.totals).unwrap();
    assert_eq!(json["attempts"], 0);
    assert_eq!(json["cost_usd"], 0.0);
    assert_eq!(json["last_minute"], json!({"requests": 0, "input_tokens": 0}));
}
