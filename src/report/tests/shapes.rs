//! The JSON of limits and batches.

use std::path::Path;

use serde_json::json;

use super::super::batches::*;
use super::super::limits::{LimitsReport, limits};
use super::at;
use crate::config::{Config, Env};
use crate::engine::{BucketView, ProjectView};
use crate::gate::admit::BucketId;
use crate::gate::limits::{Limit, Scope, Source, Window};
use crate::gate::units::{Metric, UnixMs};
use crate::gate::verdict::LimitState;
use crate::store::{Batch, BatchId, BatchState};

const NOW: &str = "2026-11-22T19:00:00Z";

pub(super) fn limits_report() -> LimitsReport {
    let config = Config::built_in(&Env::from_iter([("HOME", "/home/ada")])).unwrap();
    let preset = Source::Preset { name: "gemini-2025-02".into(), tier: "free".into() };
    let state = |metric, window, value, used, reserved, next_free: Option<&str>| LimitState {
        limit: Limit { metric, window, scope: Scope::Project, value, source: preset.clone() },
        key: None,
        shared: false,
        usable: value,
        provider_allows: None,
        used,
        reserved,
        free: value - used,
        reserve: 0,
        next_free: next_free.map(at),
    };
    let minute = Window::Rolling { ms: 60_000 };
    let reset = Some("2026-11-23T08:00:00Z");
    let flash = BucketView {
        id: BucketId(1),
        project: "default".into(),
        group: "gemini-2.0-flash".into(),
        limits: vec![
            state(Metric::Requests, minute, 15, 15, 2, Some("2026-11-22T19:00:07.050Z")),
            state(Metric::InputTokens, minute, 1_000_000, 0, 0, None),
            state(Metric::Requests, Window::Rolling { ms: 10_000 }, 3, 1, 1, None),
            state(Metric::Requests, Window::Day, 1_500, 40, 2, reset),
        ],
        keys: vec!["main".into()],
        in_flight: 2,
        held: 0,
        wait: Some((at("2026-11-22T19:00:07.050Z"), "rpm: needs 1, 0 of 15 free".into())),
        blocked: None,
        off: None,
        learning: false,
        others_permille: None,
        paced: false,
        overrun_tokens: 0,
    };
    let learned = BucketView {
        id: BucketId(2),
        group: "tuned\u{1b}[2J".into(),
        limits: Vec::new(),
        in_flight: 0,
        wait: Some((at(NOW), "over".into())),
        blocked: None,
        off: None,
        learning: true,
        ..flash.clone()
    };
    let blocked = BucketView {
        id: BucketId(3),
        group: "gemini-1.5-pro".into(),
        limits: vec![state(Metric::Requests, minute, 2, 0, 0, None)],
        in_flight: 1,
        blocked: Some((at("2026-11-22T18:59:00Z"), "quota exceeded".into())),
        ..flash.clone()
    };
    let projects = vec![
        ProjectView { name: "default".into(), unreachable: None, keys_aside: vec![], held: None },
        ProjectView {
            name: "paid".into(),
            unreachable: Some("connection refused".into()),
            keys_aside: vec![("main".into(), "API key not valid".into())],
            held: Some("billing".into()),
        },
    ];
    limits(vec![flash, learned, blocked], projects, &config, at(NOW))
}

#[test]
fn limits_have_the_fields_of_the_contract() {
    let report = limits_report();
    let source = "preset:gemini-2025-02/free";
    let expected = json!({
        "generated_at": NOW,
        "buckets": [
            {
                "project": "default", "model": "gemini-2.0-flash",
                "quota_group": "gemini-2.0-flash", "models": ["gemini-2.0-flash"],
                "state": "waiting", "reason": "rpm: needs 1, 0 of 15 free",
                "until": "2026-11-22T19:00:08Z", "in_flight": 2, "learning": false,
                "limits": [
                    {"dimension": "rpm", "window": "60s", "limit": 15, "used": 15, "reserved": 2,
                     "free": 0, "next_free_at": "2026-11-22T19:00:08Z", "source": source},
                    {"dimension": "tpm", "window": "60s", "limit": 1_000_000, "used": 0,
                     "reserved": 0, "free": 1_000_000, "source": source},
                    {"dimension": "requests", "window": "10s", "limit": 3, "used": 1,
                     "reserved": 1, "free": 2, "source": source},
                    {"dimension": "rpd", "window": "day:America/Los_Angeles", "limit": 1_500,
                     "used": 40, "reserved": 2, "free": 1_460,
                     "resets_at": "2026-11-23T08:00:00Z", "source": source},
                ],
            },
            {
                "project": "default", "model": "tuned\u{1b}[2J", "quota_group": "tuned\u{1b}[2J",
                "models": ["tuned\u{1b}[2J"], "state": "learning", "in_flight": 0,
                "learning": true, "limits": [],
            },
            {
                "project": "default", "model": "gemini-1.5-pro", "quota_group": "gemini-1.5-pro",
                "models": ["gemini-1.5-pro"], "state": "blocked", "reason": "quota exceeded",
                "in_flight": 1, "learning": false,
                "limits": [
                    {"dimension": "rpm", "window": "60s", "limit": 2, "used": 0, "reserved": 0,
                     "free": 2, "source": source},
                ],
            },
        ],
        "projects": [
            {"project": "default"},
            {"project": "paid", "unreachable": "connection refused", "held": "billing",
             "keys_aside": [{"key": "main", "reason": "API key not valid"}]},
        ],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    assert_eq!(serde_json::from_value::<LimitsReport>(expected).unwrap(), report);
}

pub(super) fn batch() -> Batch {
    Batch {
        id: BatchId(7),
        uid: "01930000-0000-7000-8000-000000000001".into(),
        work: "w".into(),
        file_name: "jobs.jsonl".into(),
        out_name: "jobs.2".into(),
        dialect: "gemini-jsonl".into(),
        project_id: 1,
        project: "demo".into(),
        bucket_id: BucketId(1),
        model: "gemini-2.0-flash".into(),
        tenant: "ada".into(),
        priority: 0,
        in_doubt: "hold".into(),
        on_bad_line: "reject".into(),
        not_before: None,
        deadline: None,
        max_cost_nanos: None,
        spent_nanos: 0,
        pool: None,
        fallback: Vec::new(),
        patience_ms: None,
        pace: "asap".to_owned(),
        template: None,
        answers: "gemini".to_owned(),
        paused: None,
        state: BatchState::Open,
        stopped: None,
        sha256: "00".into(),
        source_bytes: 4,
        source_uid: 1_000,
        dropped_again: 0,
        items: 1_234,
        succeeded: 1_000,
        failed: 30,
        cancelled: 4,
        blocked: 0,
        submitted_at: at("2026-11-22T18:00:00.999Z"),
        finished_at: None,
    }
}

#[test]
fn an_open_batch_says_what_it_waits_for() {
    let wait = (at("2026-11-22T19:00:07.001Z"), "rpm: needs 1, 0 of 15 free".to_owned());
    let out = BatchOut::new(&batch(), Some(wait), None);
    let expected = json!({
        "id": "01930000-0000-7000-8000-000000000001", "name": "jobs.2", "file": "jobs.jsonl",
        "project": "demo", "model": "gemini-2.0-flash", "tenant": "ada", "priority": "high",
        "state": "open", "items": 1_234, "succeeded": 1_000, "failed": 30, "cancelled": 4,
        "blocked": 0, "queued": 200, "in_doubt": "hold", "submitted_at": "2026-11-22T18:00:00Z",
        "waiting_until": "2026-11-22T19:00:08Z", "reason": "rpm: needs 1, 0 of 15 free",
        "dropped_again": 0,
    });
    assert_eq!(serde_json::to_value(&out).unwrap(), expected);
    assert_eq!(serde_json::from_value::<BatchOut>(expected).unwrap(), out);
}

#[test]
fn a_finished_batch_says_where_its_results_are() {
    let batch = Batch {
        state: BatchState::Cancelled,
        priority: 2,
        stopped: Some("cancelled by its user".into()),
        not_before: Some(at("2026-11-22T18:30:00Z")),
        finished_at: Some(UnixMs(at(NOW).0 + 1)),
        dropped_again: 2,
        cancelled: 204,
        ..batch()
    };
    let out = BatchOut::new(&batch, None, Some(Path::new("/spool/done/jobs.2.results.jsonl")));
    let report = BatchesReport::new(vec![out], at(NOW));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["generated_at"], NOW);
    let found = &json["batches"][0];
    for (field, value) in [
        ("state", json!("cancelled")),
        ("priority", json!("low")),
        ("stopped", json!("cancelled by its user")),
        ("not_before", json!("2026-11-22T18:30:00Z")),
        ("finished_at", json!(NOW)),
        ("results", json!("/spool/done/jobs.2.results.jsonl")),
        ("queued", json!(0)),
        ("dropped_again", json!(2)),
    ] {
        assert_eq!(found[field], value, "{field}");
    }
    assert_eq!(serde_json::from_value::<BatchesReport>(json).unwrap(), report);
}

#[test]
fn what_is_kept_for_interactive_requests_is_told() {
    let limit = Limit {
        metric: Metric::Requests,
        window: Window::Rolling { ms: 60_000 },
        scope: Scope::Project,
        value: 15,
        source: Source::Config,
    };
    let mut state = LimitState {
        limit,
        key: None,
        shared: false,
        usable: 15,
        provider_allows: None,
        used: 4,
        reserved: 0,
        free: 11,
        reserve: 3,
        next_free: None,
    };
    let shown = |state: &LimitState| {
        let mut report = limits_report();
        report.buckets[0].limits = vec![super::super::limits::limit_out(state, "UTC")];
        let json = serde_json::to_value(&report.buckets[0].limits[0]).unwrap();
        let style = super::super::table::Style { width: Some(200), color: false };
        (json["reserved_for_interactive"].clone(), super::super::table::limits(&report, style))
    };
    let (json, table) = shown(&state);
    assert_eq!(json, json!(3));
    assert!(table.contains("11 (3 for interactive)"), "{table}");
    state.reserve = 0;
    let (json, table) = shown(&state);
    assert!(json.is_null() && !table.contains("interactive"), "{table}");
}
