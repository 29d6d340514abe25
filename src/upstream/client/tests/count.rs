//! `countTokens`.

use serde_json::Value;

use super::*;
use crate::emulator::{Emulator, EmulatorConfig, Fault, FaultKind, Limits};
use crate::upstream::CountError;

/// Asks, and checks on the way that nothing secret can be printed.
async fn count(client: &Client, call: Call) -> Result<u64, CountError> {
    let counted = client.count_tokens(call).await;
    let shown = format!(
        "{counted:?} {}",
        counted.as_ref().err().map_or(String::new(), ToString::to_string)
    );
    assert!(!shown.contains("canary"), "{shown}");
    counted
}

async fn answered(status: &str, body: &str) -> Result<u64, CountError> {
    let (base_url, _) = serve(reply(status, "", body), Then::Hold).await;
    count(&client(), call(&base_url)).await
}

#[tokio::test]
async fn the_whole_request_is_asked_about() {
    let body = r#"{"totalTokens":31,"promptTokensDetails":[{"modality":"TEXT","tokenCount":31}]}"#;
    let (base_url, served) = serve(reply("200 OK", "", body), Then::Hold).await;
    let request = r#"{"systemInstruction":{"parts":[{"text":"brief"}]},"model":"models/other",
        "contents":[{"parts":[{"text":"canary"}]}],"generationConfig":{"topP":0.10}}"#;
    let asked = Call { body: request.into(), ..call(&format!("{base_url}/prefix/")) };
    assert_eq!(count(&client(), asked).await.unwrap(), 31);

    let request = served.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let line = "POST /prefix/v1beta/models/gemini-3.6-flash:countTokens HTTP/1.1";
    assert_eq!(head.lines().next(), Some(line));
    assert_eq!(header(head, "x-goog-api-key"), Some(KEY));
    assert_eq!(header(head, "content-type"), Some("application/json"));
    assert_eq!(header(head, "content-length"), Some(body.len().to_string().as_str()));
    assert!(body.contains(r#""topP":0.10"#), "numbers stay as they are written: {body}");
    let sent: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        sent,
        json!({"generateContentRequest": {
            "model": "models/gemini-3.6-flash",
            "systemInstruction": {"parts": [{"text": "brief"}]},
            "contents": [{"parts": [{"text": "canary"}]}],
            "generationConfig": {"topP": 0.1},
        }})
    );
}

#[tokio::test]
async fn only_a_count_is_a_count() {
    assert_eq!(answered("200 OK", r#"{"totalTokens":"12"}"#).await.unwrap(), 12);
    for body in [
        "{}",
        r#"{"totalTokens":-1}"#,
        r#"{"totalTokens":1.5}"#,
        r#"{"totalTokens":null}"#,
        r#"{"totalTokens":99999999999999}"#,
        "<html>",
        "",
        "[31]",
    ] {
        let counted = answered("200 OK", body).await;
        assert!(matches!(counted, Err(CountError::NoAnswer { .. })), "{body}: {counted:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_class() {
    let body = include_str!("../../corpus/429-b-free-day.json");
    let counted = answered("429 Too Many Requests", body).await;
    let Err(CountError::Refused(refusal)) = counted else { panic!("{counted:?}") };
    assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerDay));

    let body = json!({"error": {"code": 404, "message": format!("not for {KEY}")}}).to_string();
    let counted = answered("200 OK", &body).await;
    let Err(CountError::Refused(refusal)) = counted else { panic!("{counted:?}") };
    assert_eq!(refusal.class, RefusalClass::ModelNotFound);
    assert_eq!(refusal.message, "not for [key]");

    let counted = answered("302 Found", "").await;
    let Err(CountError::Refused(refusal)) = counted else { panic!("{counted:?}") };
    assert_eq!(refusal.status, 302, "not followed");
}

#[tokio::test]
async fn an_unusable_call_sends_nothing() {
    let (listener, base_url) = listen().await;
    for call in [
        call("canary"),
        Call { key: "canary\n".into(), ..call(&base_url) },
        Call { body: Bytes::new(), ..call(&base_url) },
        Call { body: "[1]".into(), ..call(&base_url) },
        Call { body: "{\"contents\":".into(), ..call(&base_url) },
    ] {
        let counted = count(&client(), call).await;
        assert!(matches!(counted, Err(CountError::Unusable { .. })), "{counted:?}");
    }
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn it_ends_whatever_the_other_side_does() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{";
    let late = |what: &str| format!("{what} did not come within 200ms");
    let whole: fn(&mut Timeouts) = |timeouts| timeouts.whole = SHORT;
    let head: fn(&mut Timeouts) = |timeouts| timeouts.headers = SHORT;
    let idle: fn(&mut Timeouts) = |timeouts| timeouts.idle = SHORT;
    for (reply, then, change, wanted) in [
        ("", Then::Hold, whole, late("a complete answer")),
        ("", Then::Hold, head, late("the head of an answer")),
        (half, Then::Hold, whole, late("a complete answer")),
        (half, Then::Hold, idle, late("the next part of the answer")),
        ("", Then::Close, whole, String::new()),
        (half, Then::Close, whole, String::new()),
    ] {
        let (base_url, _) = serve(reply, then).await;
        let counted = count(&client_with(change), call(&base_url)).await;
        let Err(CountError::NoAnswer { reason }) = counted else { panic!("{counted:?}") };
        assert!(reason.contains(&wanted), "{reason}");
    }
    let (listener, base_url) = listen().await;
    drop(listener);
    let counted = count(&client(), call(&base_url)).await;
    let Err(CountError::NoAnswer { reason }) = counted else { panic!("{counted:?}") };
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn an_answer_without_end_is_bounded() {
    let long = format!("{{\"totalTokens\":1{}}}", " ".repeat(1 << 20));
    let counted = answered("200 OK", &long).await;
    let Err(CountError::NoAnswer { reason }) = counted else { panic!("{counted:?}") };
    assert_eq!(reason, "the answer is longer than 1048576 bytes");
}

#[tokio::test]
async fn the_emulator_counts_what_it_will_charge_and_charges_nothing_for_it() {
    let emulator = Emulator::start(EmulatorConfig::new(Limits::free_tier_demo(KEY))).await.unwrap();
    let body = json!({
        "systemInstruction": {"parts": [{"text": "answer briefly"}]},
        "contents": [{"parts": [{"text": "canary: how high is the tide?"}]}],
        "generationConfig": {"candidateCount": 1},
    });
    let asked = || Call {
        model: "gemini-2.0-flash".into(),
        body: body.to_string().into(),
        ..call(&emulator.base_url())
    };
    let client = client();
    let counted = count(&client, asked()).await.unwrap();
    assert_eq!(emulator.stats().worst_window["demo/gemini-2.0-flash"].requests, 0);
    let (report, _) = generate(&client, asked()).await;
    let Outcome::Answered { usage, .. } = report.outcome else { panic!("{report:?}") };
    assert_eq!(usage.unwrap().prompt, counted);

    let unknown = count(&client, Call { model: "gemini-9".into(), ..asked() }).await;
    let Err(CountError::Refused(refusal)) = unknown else { panic!("{unknown:?}") };
    assert_eq!(refusal.class, RefusalClass::ModelNotFound);
    emulator.inject([Fault::once(FaultKind::Unavailable)]);
    let refused = count(&client, asked()).await;
    let Err(CountError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.class, RefusalClass::Server);
}
