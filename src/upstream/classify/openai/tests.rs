#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::json;

use super::super::{Waits, classify, classify_with};
use super::*;
use crate::upstream::{Refusal, ThrottleKind};

macro_rules! corpus {
    ($name:literal) => {
        include_bytes!(concat!("../../corpus/openai-", $name, ".json"))
    };
}

#[test]
fn classes_of_the_corpus() {
    use RefusalClass::{BadRequest, Billing, Forbidden, KeyRefused, ModelNotFound, Server};
    use ThrottleKind::{PerDay, PerMinute, Unexplained};
    let throttled = RefusalClass::Throttled;
    let table: [(u16, &[u8], RefusalClass, Option<u64>); 15] = [
        (401, corpus!("401-invalid-api-key"), KeyRefused, None),
        (403, corpus!("403-country"), Forbidden, None),
        (403, corpus!("403-model"), ModelNotFound, None),
        (404, corpus!("404-model"), ModelNotFound, None),
        (400, corpus!("400-context-length"), BadRequest, None),
        (400, corpus!("400-param"), BadRequest, None),
        (409, corpus!("409-conflict"), Server, None),
        (429, corpus!("429-rpm"), throttled(PerMinute), Some(20_000)),
        (429, corpus!("429-tpm"), throttled(PerMinute), Some(9_816)),
        (429, corpus!("429-rpd"), throttled(PerDay), Some(432_000)),
        (429, corpus!("429-tpm-older"), throttled(PerMinute), Some(6)),
        (429, corpus!("429-too-large"), BadRequest, None),
        (429, corpus!("429-insufficient-quota"), Billing, None),
        (429, corpus!("429-engine-overloaded"), throttled(Unexplained), None),
        (500, corpus!("500-server-error"), Server, None),
    ];
    for (status, body, class, delay) in table {
        let refusal = classify(status, body);
        let text = String::from_utf8_lossy(body);
        assert_eq!(refusal.class, class, "{text}");
        assert_eq!(refusal.retry_delay_ms, delay, "{text}");
        assert_eq!(refusal.status, status);
        assert_eq!(refusal.grpc_status, None);
        assert_eq!(refusal.body, body);
        let document: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(refusal.message, document["error"]["message"].as_str().unwrap());
    }
}

#[test]
fn limits_are_read_from_the_message() {
    use QuotaSubject::{InputTokens, Requests};
    use QuotaWindow::{PerDay, PerMinute};
    type Row = (&'static [u8], &'static str, &'static str, u64, QuotaSubject, QuotaWindow);
    let rows: [Row; 5] = [
        (corpus!("429-rpm"), "requests per min", "gpt-4o-mini", 3, Requests, PerMinute),
        (corpus!("429-rpd"), "requests per day", "gpt-4o-mini", 200, Requests, PerDay),
        (corpus!("429-tpm"), "tokens per min", "gpt-4", 10_000, InputTokens, PerMinute),
        (
            corpus!("429-tpm-older"),
            "tokens per min",
            "10KTPM-200RPM",
            10_000,
            InputTokens,
            PerMinute,
        ),
        (corpus!("429-too-large"), "tokens per min", "gpt-4", 10_000, InputTokens, PerMinute),
    ];
    for (body, metric, model, value, subject, window) in rows {
        let want = QuotaViolation {
            quota_id: String::new(),
            metric: metric.to_owned(),
            model: Some(model.to_owned()),
            value: Some(value),
            window,
            subject,
        };
        assert_eq!(classify(429, body).quota, [want]);
    }
    for body in [&corpus!("429-insufficient-quota")[..], corpus!("429-engine-overloaded")] {
        assert_eq!(classify(429, body).quota, []);
    }
}

fn refused(status: u16, message: &str, kind: &str, code: &str) -> Refusal {
    let error = json!({"message": message, "type": kind, "param": null, "code": code});
    classify(status, json!({ "error": error }).to_string().as_bytes())
}

#[test]
fn other_providers_write_alike() {
    let groq = refused(
        429,
        "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_01` service \
         tier `on_demand` on requests per day (RPD): Limit 14400, Used 14400, Requested 1. Please \
         try again in 6.5s.",
        "requests",
        "rate_limit_exceeded",
    );
    assert_eq!(groq.class, RefusalClass::Throttled(ThrottleKind::PerDay));
    assert_eq!((groq.quota[0].value, groq.retry_delay_ms), (Some(14_400), Some(6_500)));
    let azure = refused(
        429,
        "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your \
         current pricing tier. Please retry after 20 seconds.",
        "",
        "429",
    );
    assert_eq!(azure.class, RefusalClass::Throttled(ThrottleKind::Unexplained));
    assert_eq!(azure.retry_delay_ms, Some(20_000));
    for (message, value, subject) in [
        ("on output tokens per minute: Limit 8000", Some(8_000), QuotaSubject::Other),
        ("on input tokens per minute: Limit 8000", Some(8_000), QuotaSubject::InputTokens),
        ("on images per minute. Limit: 5 / 1min", Some(5), QuotaSubject::Images),
        ("requests per min", None, QuotaSubject::Requests),
        ("requests per min: limit of 3", None, QuotaSubject::Requests),
        ("tokens per day: Limit 99999999999999999999", None, QuotaSubject::InputTokens),
    ] {
        let quota = violation(message).unwrap();
        assert_eq!((quota.value, quota.subject, quota.model), (value, subject, None), "{message}");
    }
}

#[test]
fn a_status_means_what_it_means_for_openai() {
    use RefusalClass::{BadRequest, Billing, Forbidden, KeyRefused, ModelNotFound, Other, Server};
    for (status, kind, code, class) in [
        (400, "invalid_request_error", "", BadRequest),
        (400, "invalid_request_error", "invalid_api_key", KeyRefused),
        (400, "invalid_request_error", "model_not_found", ModelNotFound),
        (400, "", "billing_hard_limit_reached", Billing),
        (401, "", "account_deactivated", KeyRefused),
        (402, "", "insufficient_balance", Billing),
        (403, "", "", Forbidden),
        (404, "invalid_request_error", "", ModelNotFound),
        (408, "timeout", "", Server),
        (413, "invalid_request_error", "", BadRequest),
        (422, "invalid_request_error", "", BadRequest),
        (502, "server_error", "", Server),
        (503, "server_error", "slow_down", Server),
        (503, "insufficient_quota", "", Server),
        (302, "", "", Other),
    ] {
        assert_eq!(refused(status, "no", kind, code).class, class, "{status} {kind} {code}");
    }
    let zero = "on requests per min (RPM): Limit 0, Used 0, Requested 1.";
    let zero = refused(429, zero, "requests", "rate_limit_exceeded");
    assert_eq!(zero.class, RefusalClass::Throttled(ThrottleKind::LimitZero));
}

#[test]
fn headers_lengthen_the_wait() {
    let waits = |asked| Waits { asked, requests: Some(60_000), tokens: Some(90_000) };
    let delay = |body: &[u8], asked| classify_with(429, body, waits(asked)).retry_delay_ms;
    assert_eq!(delay(corpus!("429-rpm"), Some(19_000)), Some(20_000));
    assert_eq!(delay(corpus!("429-rpm"), Some(21_000)), Some(21_000));
    assert_eq!(delay(corpus!("429-rpm"), None), Some(20_000), "the message is nearer");
    let silent = |limit: &str| json!({"error": {"message": limit, "type": "x"}}).to_string();
    assert_eq!(delay(silent("requests per min").as_bytes(), None), Some(60_000));
    assert_eq!(delay(silent("tokens per min").as_bytes(), None), Some(90_000));
    assert_eq!(delay(silent("images per min").as_bytes(), None), None);
    assert_eq!(delay(corpus!("429-too-large"), None), None, "no wait makes it fit");
    assert_eq!(delay(b"<html>", Some(3)), Some(3));
}
