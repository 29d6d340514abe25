use proptest::prelude::*;
use serde_json::json;

use super::*;

fn answer(document: &serde_json::Value) -> (Option<Usage>, Option<String>, u64) {
    match read(Method::GenerateContent, document.to_string().as_bytes()) {
        Document::Answer { usage, blocked, images } => (usage, blocked, images),
        other @ (Document::Error { .. } | Document::Broken { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn usage_is_read_exactly() {
    let raw = json!({
        "promptTokenCount": 20, "cachedContentTokenCount": "8", "candidatesTokenCount": 198,
        "thoughtsTokenCount": 405, "totalTokenCount": 623, "serviceTier": "standard",
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 20}],
    });
    let (usage, blocked, images) = answer(&json!({
        "candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}],
        "usageMetadata": raw,
    }));
    let want = Usage {
        prompt: 20,
        cached: 8,
        candidates: 198,
        thoughts: 405,
        tool_use_prompt: 0,
        total: 623,
        raw: Some(raw.to_string()),
    };
    assert_eq!(usage, Some(want));
    assert_eq!((blocked, images), (None, 0));
}

#[test]
fn usage_that_cannot_be_read_is_none() {
    for bad in [
        json!(null),
        json!([1]),
        json!({"promptTokenCount": -1}),
        json!({"promptTokenCount": 1.5}),
        json!({"promptTokenCount": "many"}),
        json!({"promptTokenCount": {}}),
        json!({"totalTokenCount": "18446744073709551616"}),
        json!({"totalTokenCount": u64::MAX}),
        json!({"promptTokenCount": COUNT_MAX + 1}),
    ] {
        assert_eq!(answer(&json!({"candidates": [], "usageMetadata": bad})).0, None, "{bad}");
    }
    assert_eq!(answer(&json!({"candidates": []})).0, None);
    let null = json!({"usageMetadata": {"promptTokenCount": null, "totalTokenCount": 9}});
    assert_eq!(answer(&null).0.map(|usage| (usage.prompt, usage.total)), Some((0, 9)));
}

#[test]
fn raw_usage_is_bounded() {
    let note = "x".repeat(USAGE_RAW_BYTES_MAX);
    let (usage, ..) = answer(&json!({"usageMetadata": {"totalTokenCount": 9, "note": note}}));
    assert_eq!(usage.map(|usage| (usage.total, usage.raw)), Some((9, None)));
}

#[test]
fn blocked() {
    let prompt = json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}});
    assert_eq!(answer(&prompt).1.as_deref(), Some("PROHIBITED_CONTENT"));
    for (reasons, want) in [
        (&[json!("STOP")][..], None),
        (&[json!("MAX_TOKENS")], None),
        (&[json!("SAFETY")], Some("SAFETY")),
        (&[json!("NEW_REASON")], Some("NEW_REASON")),
        (&[json!("SAFETY"), json!("STOP")], None),
        (&[json!("SAFETY"), json!("SPII")], Some("SAFETY")),
        (&[json!(3)], None),
        (&[json!(null)], None),
        (&[], None),
    ] {
        let candidates: Vec<_> =
            reasons.iter().map(|reason| json!({ "finishReason": reason })).collect();
        assert_eq!(answer(&json!({ "candidates": candidates })).1.as_deref(), want, "{reasons:?}");
    }
}

#[test]
fn images_are_counted_over_all_candidates() {
    let image = json!({"inlineData": {"mimeType": "image/png", "data": "aGk="}});
    let audio = json!({"inlineData": {"mimeType": "audio/wav", "data": "aGk="}});
    let (_, _, images) = answer(&json!({"candidates": [
        {"content": {"parts": [image, {"text": "one"}, audio, image]}},
        {"content": {"parts": null}},
        {"content": {"parts": [image]}, "finishReason": "STOP"},
        "odd",
    ]}));
    assert_eq!(images, 3);
}

#[test]
fn an_error_document_is_an_error() {
    let error = json!({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}});
    assert!(matches!(
        read(Method::GenerateContent, error.to_string().as_bytes()),
        Document::Error { status: 503 }
    ));
    for other in [json!({"error": {"code": 200}}), json!({"error": null}), json!({"error": {}})] {
        answer(&other);
    }
}

#[test]
fn what_is_no_object_is_broken_and_not_quoted() {
    for body in
        [&b""[..], b"secret", b"\"secret\"", b"[{}]", b"{\"secret\":1", b"{} secret", b"\xff"]
    {
        let Document::Broken { reason } = read(Method::GenerateContent, body) else {
            panic!("{body:?}")
        };
        assert!(!reason.contains("secret"), "{reason}");
    }
}

proptest! {
    #[test]
    fn total_over_bytes(body: Vec<u8>) {
        read(Method::GenerateContent, &body);
    }

    #[test]
    fn counts_survive(prompt in 0..=COUNT_MAX, total in 0..=COUNT_MAX) {
        let metadata = json!({"promptTokenCount": prompt, "totalTokenCount": total.to_string()});
        let (usage, ..) = answer(&json!({"usageMetadata": metadata}));
        prop_assert_eq!(usage.map(|usage| (usage.prompt, usage.total)), Some((prompt, total)));
    }
}
