#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

macro_rules! corpus {
    ($name:literal) => {
        include_bytes!(concat!("../corpus/", $name, ".json"))
    };
}

const FREE_REQUESTS: &str = "generativelanguage.googleapis.com/generate_content_free_tier_requests";

/// `window subject value` of each violation, and the model of the first.
fn quota_line(refusal: &Refusal) -> String {
    let lines: Vec<_> = refusal
        .quota
        .iter()
        .map(|q| format!("{:?} {:?} {:?} {}", q.window, q.subject, q.value, q.model.is_some()))
        .collect();
    lines.join("; ")
}

#[test]
fn throttles_of_the_corpus() {
    use ThrottleKind::{LimitZero, PerDay, PerMinute, Unexplained};
    // Body, kind, delay, and the quotas as `quota_line` shows them.
    type Row = (&'static str, &'static [u8], ThrottleKind, Option<u64>, &'static str);
    let table: [Row; 11] = [
        (
            "a",
            corpus!("429-a-limit-zero"),
            LimitZero,
            Some(12_942),
            "PerMinute InputTokens Some(0) true; PerMinute Requests Some(0) true; \
             PerDay Requests Some(0) true",
        ),
        ("b", corpus!("429-b-free-day"), PerDay, Some(38_910), "PerDay Requests Some(20) true"),
        (
            "b, true delay",
            corpus!("429-b-free-day-true-delay"),
            PerDay,
            Some(69_670_927),
            "PerDay Requests Some(20) true",
        ),
        (
            "c",
            corpus!("429-c-paid-day"),
            PerDay,
            Some(72_193_258),
            "PerDay Requests Some(1000) true",
        ),
        (
            "c, late",
            corpus!("429-c-paid-day-late"),
            PerDay,
            Some(475_958),
            "PerDay Requests Some(250) true",
        ),
        (
            "d",
            corpus!("429-d-paid-tokens"),
            PerMinute,
            Some(45_812),
            "PerMinute InputTokens Some(1000000) true",
        ),
        (
            "e",
            corpus!("429-e-free-tokens"),
            PerMinute,
            Some(34_075),
            "PerMinute InputTokens Some(125000) true",
        ),
        ("f", corpus!("429-f-help-only"), Unexplained, None, ""),
        ("g", corpus!("429-g-exhausted"), Unexplained, None, ""),
        ("g, later", corpus!("429-g-try-later"), Unexplained, None, ""),
        ("j", corpus!("429-j-upgrade"), Unexplained, None, ""),
    ];
    for (name, body, kind, delay, quota) in table {
        let refusal = classify(429, body);
        assert_eq!(refusal.class, RefusalClass::Throttled(kind), "{name}");
        assert_eq!(refusal.retry_delay_ms, delay, "{name}");
        assert_eq!(quota_line(&refusal), quota, "{name}");
        assert_eq!(refusal.grpc_status.as_deref(), Some("RESOURCE_EXHAUSTED"), "{name}");
        assert_eq!(refusal.body, body, "{name}");
        assert!(refusal.message.contains("xhausted") || refusal.message.contains("quota"));
    }
}

#[test]
fn a_violation_is_read_whole() {
    let refusal = classify(429, corpus!("429-b-free-day"));
    let want = QuotaViolation {
        quota_id: "GenerateRequestsPerDayPerProjectPerModel-FreeTier".into(),
        metric: FREE_REQUESTS.into(),
        model: Some("gemini-3.5-flash".into()),
        value: Some(20),
        window: QuotaWindow::PerDay,
        subject: QuotaSubject::Requests,
    };
    assert_eq!(refusal.quota, [want]);
}

#[test]
fn money_is_no_quota_whatever_the_status() {
    for body in [&corpus!("429-h-prepay")[..], corpus!("429-i-spending-cap")] {
        for status in [402, 403, 429] {
            assert_eq!(classify(status, body).class, RefusalClass::Billing, "{status}");
        }
        assert_eq!(classify(503, body).class, RefusalClass::Server);
    }
    assert_eq!(classify(402, b"").class, RefusalClass::Billing);
}

#[test]
fn statuses() {
    use RefusalClass::{BadRequest, Forbidden, KeyRefused, ModelNotFound, Other, Server};
    let unregistered = "Method doesn't allow unregistered callers (callers without established \
                        identity). Please use API Key or other form of API consumer identity to \
                        call this API.";
    for (status, grpc, message, class) in [
        (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", KeyRefused),
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", KeyRefused),
        (400, "INVALID_ARGUMENT", "Request contains an invalid argument.", BadRequest),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", Forbidden),
        (400, "FAILED_PRECONDITION", "The file is not in an ACTIVE state.", BadRequest),
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", KeyRefused),
        (403, "PERMISSION_DENIED", unregistered, KeyRefused),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", KeyRefused),
        (403, "PERMISSION_DENIED", "Consumer 'api_key:x' has been suspended.", KeyRefused),
        (403, "PERMISSION_DENIED", "You do not have permission to access the file.", Forbidden),
        (404, "NOT_FOUND", "models/X is not found for API version v1beta", ModelNotFound),
        (408, "", "", Server),
        (413, "", "", BadRequest),
        (499, "CANCELLED", "The operation was cancelled.", Server),
        (500, "INTERNAL", "An internal error has occurred. Please retry", Server),
        (502, "", "", Server),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", Server),
        (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.", Server),
        (302, "", "", Other),
        (409, "ABORTED", "", Other),
        (600, "", "", Other),
    ] {
        let error = json!({"code": status, "message": message, "status": grpc});
        let refusal = classify(status, json!({ "error": error }).to_string().as_bytes());
        assert_eq!(refusal.class, class, "{status} {message}");
        assert_eq!(refusal.status, status);
        assert_eq!(refusal.grpc_status.as_deref(), Some(grpc));
        if !message.is_empty() {
            assert_eq!(refusal.message, message);
        }
    }
}

#[test]
fn error_info_tells_keys_from_requests() {
    assert_eq!(classify(400, corpus!("400-key-invalid")).class, RefusalClass::KeyRefused);
    assert_eq!(classify(400, corpus!("400-unknown-field")).class, RefusalClass::BadRequest);
    for (reason, class) in [
        ("API_KEY_SERVICE_BLOCKED", RefusalClass::KeyRefused),
        ("CONSUMER_SUSPENDED", RefusalClass::KeyRefused),
        ("SERVICE_DISABLED", RefusalClass::Forbidden),
    ] {
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason});
        let body = json!({"error": {"message": "denied", "details": [info]}}).to_string();
        assert_eq!(classify(403, body.as_bytes()).class, class, "{reason}");
    }
}

#[test]
fn an_error_in_an_array_is_the_same_error() {
    for body in [&corpus!("429-a-limit-zero")[..], corpus!("400-key-invalid")] {
        let plain = classify(429, body);
        let wrapped = [b"[", body, b"]"].concat();
        let wrapped = classify(429, &wrapped);
        assert_eq!(plain.class, wrapped.class);
        assert_eq!(plain.quota, wrapped.quota);
        assert_eq!(plain.message, wrapped.message);
        assert_eq!(plain.retry_delay_ms, wrapped.retry_delay_ms);
    }
}

#[test]
fn the_order_of_details_does_not_matter() {
    let document: Value = serde_json::from_slice(corpus!("429-a-limit-zero")).unwrap();
    let details = document["error"]["details"].as_array().unwrap();
    let plain = classify(429, corpus!("429-a-limit-zero"));
    for shift in 0..details.len() {
        let mut document = document.clone();
        let turned = document["error"]["details"].as_array_mut().unwrap();
        turned.rotate_left(shift);
        let refusal = classify(429, document.to_string().as_bytes());
        assert_eq!(refusal.class, plain.class);
        assert_eq!(refusal.quota, plain.quota);
        assert_eq!(refusal.retry_delay_ms, plain.retry_delay_ms);
    }
}

fn throttled(message: &str, violations: &Value) -> Refusal {
    let failure = json!({
        "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations,
    });
    let error = json!({"code": 429, "message": message, "details": [failure]});
    classify(429, json!({ "error": error }).to_string().as_bytes())
}

#[test]
fn an_omitted_value_is_zero_only_with_a_witness() {
    let minute = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
    let violation = json!([{"quotaMetric": FREE_REQUESTS, "quotaId": minute}]);
    let line = |limit| format!("* Quota exceeded for metric: {FREE_REQUESTS}, limit: {limit}");
    let zero = RefusalClass::Throttled(ThrottleKind::LimitZero);
    let per_minute = RefusalClass::Throttled(ThrottleKind::PerMinute);
    for (message, class, value) in [
        (line("0"), zero, Some(0)),
        (format!("{}\n{}", line("7"), line("0, model: m")), zero, Some(0)),
        (line("05"), per_minute, Some(5)),
        (line("7"), per_minute, Some(7)),
        (format!("{}\n{}", line("7"), line("8")), per_minute, None),
        (line("0.5"), per_minute, None),
        ("limit: 0".to_owned(), per_minute, None),
        (String::new(), per_minute, None),
    ] {
        let refusal = throttled(&message, &violation);
        assert_eq!(refusal.class, class, "{message}");
        assert_eq!(refusal.quota[0].value, value, "{message}");
    }
}

#[test]
fn a_day_outlasts_a_minute() {
    let refusal = throttled(
        "Please retry in 3s.",
        &json!([
            {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": 10},
            {"quotaId": "GenerateRequestsPerDayPerProjectPerModel", "quotaValue": "250"},
        ]),
    );
    assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerDay));
    assert_eq!(refusal.quota.len(), 2);
    assert_eq!(refusal.quota[0].value, Some(10));
    assert_eq!(refusal.quota[1].value, Some(250));
    assert_eq!(refusal.retry_delay_ms, Some(3_000));
}

#[test]
fn quotas_are_read_from_prose_when_details_name_none() {
    let message = "* Quota exceeded for metric: x/generate_requests_per_model_per_day, limit: 50, \
                   model: m\n* Quota exceeded for metric: x/images_per_minute, limit: 4";
    let refusal = throttled(message, &json!([]));
    assert_eq!(
        quota_line(&refusal),
        "PerDay Requests Some(50) true; PerMinute Images Some(4) false"
    );
    assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerDay));
    assert_eq!(refusal.quota[0].quota_id, "");
}

#[test]
fn everything_is_bounded() {
    let violations = vec![json!({"quotaId": "x".repeat(9_999)}); 1_000];
    let refusal = throttled(&"\n".repeat(9_999), &json!(violations));
    assert_eq!(refusal.quota.len(), QUOTA_MAX);
    assert_eq!(refusal.quota[0].quota_id.len(), WORD_BYTES_MAX);
    assert_eq!(refusal.message, "\\n".repeat(MESSAGE_BYTES_MAX / 2));
    assert_eq!(refusal.body.len(), BODY_BYTES_MAX);
}

#[test]
fn an_unreadable_body_is_not_quoted() {
    let refusal = classify(502, b"<html>secret</html>");
    assert_eq!(refusal.class, RefusalClass::Server);
    assert_eq!(refusal.message, "no readable message in a body of 19 bytes");
    assert_eq!(classify(429, br#"{"error":"slow down"}"#).message, "slow down");
}

/// Any JSON value, with the words of error documents in unexpected places.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "error",
        "message",
        "status",
        "details",
        "@type",
        "violations",
        "quotaId",
        "quotaValue",
        "quotaDimensions",
        "retryDelay",
        "type",
        "code",
        "param",
        "insufficient_quota",
        "Request too large for m in organization o on tokens per min (TPM): Limit 9",
        "google.rpc.QuotaFailure",
        "google.rpc.RetryInfo",
        "12s",
        "Quota exceeded for metric: m, limit: 0, model: x\nPlease retry in 9h1.s.",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn total_over_bytes(status: u16, body: Vec<u8>) {
        let refusal = classify(status, &body);
        prop_assert_eq!(refusal.status, status);
        prop_assert!(refusal.message.len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn total_over_documents(status: u16, error in any_json(), details in any_json()) {
        for document in [
            error.clone(),
            json!({"error": error}),
            json!({"error": {"details": details}}),
            json!([{"error": {"message": error, "details": [details]}}]),
        ] {
            let refusal = classify(status, document.to_string().as_bytes());
            prop_assert!(refusal.message.len() <= MESSAGE_BYTES_MAX);
            prop_assert!(!refusal.message.chars().any(char::is_control));
        }
    }

    #[test]
    fn total_over_damaged_corpus(cut in 0_usize..1_000, at in 0_usize..1_000, byte: u8) {
        let mut body = corpus!("429-a-limit-zero").to_vec();
        body[at] = byte;
        body.truncate(body.len() - cut);
        let refusal = classify(429, &body);
        prop_assert!(matches!(refusal.class, RefusalClass::Throttled(_)));
    }
}
