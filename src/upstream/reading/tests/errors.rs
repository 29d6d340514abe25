//! Errors, with their status and in the middle of a stream.

use super::streams::events;
use super::*;

const GOOD: &str = r#"{"candidates":[{"content":{"parts":[{"text":"He"}]}}],"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8}}"#;
const ERROR: &str = r#"{
  "error": {
    "code": 503,
    "message": "This model is currently experiencing high demand. 多い",
    "status": "UNAVAILABLE",
    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
  }
}"#;

fn refused(read: &Read) -> &Refusal {
    assert_eq!(read.ended, Ended::Failed);
    read.refusal.as_ref().expect("a failure has its refusal")
}

#[test]
fn an_error_in_a_stream_in_all_its_forms() {
    let line = ERROR.replace('\n', "");
    for body in [
        format!("{}data: {line}\r\n\r\n", events(&[GOOD], "\r\n")),
        format!("{}{ERROR}\n", events(&[GOOD], "\r\n")),
        format!("{}{ERROR}", events(&[GOOD], "\n")),
        // No blank line before it.
        format!("data: {GOOD}\n{ERROR}"),
        format!("data: {GOOD}\r\n[{ERROR}]\r\n"),
        format!("[{GOOD}\n,\r\n{ERROR}\n]"),
        format!("[{ERROR}]"),
        ERROR.to_owned(),
        format!("{}event: error\ndata: {line}\n\n", events(&[GOOD], "\n")),
    ] {
        let read = read(Speech::StreamGenerateContent, body.as_bytes());
        let refusal = refused(&read);
        assert_eq!((refusal.status, refusal.class), (503, RefusalClass::Server), "{body}");
        assert_eq!(refusal.grpc_status.as_deref(), Some("UNAVAILABLE"));
        assert_eq!(refusal.retry_delay_ms, Some(7_000));
        assert!(refusal.message.ends_with("多い"), "{}", refusal.message);
        assert_eq!(read.usage.is_some(), body.contains("promptTokenCount"), "{body}");
    }
}

#[test]
fn an_error_of_a_stream_outlives_its_cut_and_its_end() {
    let line = ERROR.replace('\n', "");
    let body = format!("data: {line}\n\n{}", events(&[GOOD], "\n"));
    let read_cut = read_with(Speech::StreamGenerateContent, 200, &[], &[body.as_bytes()], false);
    assert_eq!(refused(&read_cut).status, 503);
    // Cut inside the error, it is a stream that broke off.
    let half = format!("{}{}", events(&[GOOD], "\n"), &ERROR[..ERROR.len() - 2]);
    assert!(!reason(&read(Speech::StreamGenerateContent, half.as_bytes())).is_empty());
}

#[test]
fn errors_of_openai_and_of_interactions() {
    for (speech, error, status, class) in [
        (
            Speech::ChatCompletions,
            r#"{"error":{"message":"overloaded","type":"server_error","code":null}}"#,
            500,
            RefusalClass::Server,
        ),
        (
            Speech::ChatCompletions,
            r#"{"error":{"message":"slow","type":"requests","code":"rate_limit_exceeded"}}"#,
            429,
            RefusalClass::Throttled(ThrottleKind::Unexplained),
        ),
        (
            Speech::Interactions,
            r#"{"event_type":"error","error":{"code":"quota_exceeded","message":"the day is over"}}"#,
            429,
            RefusalClass::Throttled(ThrottleKind::PerDay),
        ),
        (
            Speech::Interactions,
            r#"{"event_type":"error","error":{"code":"payment_required","message":"pay"}}"#,
            402,
            RefusalClass::Billing,
        ),
        (
            Speech::Responses,
            r#"{"type":"error","code":"rate_limit_exceeded","message":"slow","param":null}"#,
            429,
            RefusalClass::Throttled(ThrottleKind::Unexplained),
        ),
        (
            Speech::Responses,
            r#"{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"server_error","message":"oh"}}}"#,
            500,
            RefusalClass::Server,
        ),
    ] {
        let read = read(speech, events(&[error], "\n").as_bytes());
        let refusal = refused(&read);
        assert_eq!((refusal.status, refusal.class), (status, class), "{error}");
        assert!(error.contains(&refusal.message), "{}", refusal.message);
    }
}

#[test]
fn a_refusal_is_classified_from_its_body_and_headers() {
    let day = r#"{"error":{"code":429,"message":"Please retry in 38.9s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"m","quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"20"}]}]}}"#;
    let zipped = gzip(day.as_bytes());
    let listed = format!("[{day}]");
    for (headers, body) in [
        (&[][..], day.as_bytes()),
        (&[("content-encoding", "gzip")], &zipped),
        (&[("content-type", "text/event-stream")], listed.as_bytes()),
    ] {
        let read = read_with(Speech::StreamGenerateContent, 429, headers, &[body], true);
        let refusal = refused(&read);
        assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerDay));
        assert_eq!(refusal.retry_delay_ms, Some(38_900));
        assert_eq!(refusal.quota.first().map(|quota| quota.window), Some(QuotaWindow::PerDay));
    }
    let headers = &[("retry-after", "5")];
    let read_cut = read_with(Speech::Other, 503, headers, &[b"<html>"], false);
    assert_eq!(refused(&read_cut).retry_delay_ms, Some(5_000));
    assert_eq!(read_with(Speech::Other, 304, &[], &[], true).ended, Ended::Complete);
    let redirect = read_with(Speech::GenerateContent, 302, &[], &[], true);
    assert_eq!(refused(&redirect).class, RefusalClass::Other);
}

#[test]
fn a_quoted_key_is_taken_out() {
    let body =
        format!(r#"{{"error":{{"code":403,"message":"Consumer 'api_key:{KEY}' has been"}}}}"#);
    for (status, speech) in [(403, Speech::Other), (200, Speech::GenerateContent)] {
        let read = read_with(speech, status, &[], &[body.as_bytes()], true);
        assert_eq!(refused(&read).message, "Consumer 'api_key:[key]' has been");
        assert!(!String::from_utf8_lossy(&refused(&read).body).contains(KEY));
    }
}

#[test]
fn a_long_refusal_is_cut() {
    let body = vec![b'x'; 3 << 20];
    let read = read_with(Speech::GenerateContent, 500, &[], &[&body], true);
    assert_eq!((refused(&read).body.len(), read.bytes), (64 << 10, 3 << 20));
}
