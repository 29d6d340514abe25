use proptest::prelude::*;
use serde_json::{Value, json};

use crate::upstream::answer::{COUNT_MAX, Document, read};
use crate::upstream::{Method, Usage};

fn answer(method: Method, document: &Value) -> (Option<Usage>, Option<String>) {
    match read(method, document.to_string().as_bytes()) {
        Document::Answer { usage, blocked, images } => {
            assert_eq!(images, 0);
            (usage, blocked)
        }
        other @ (Document::Error { .. } | Document::Broken { .. }) => {
            panic!("{document}: {other:?}")
        }
    }
}

fn completion(choices: &Value, usage: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": choices, "usage": usage,
    })
}

fn counts(usage: &Value) -> Option<[u64; 5]> {
    let choices = json!([{"index": 0, "finish_reason": "stop", "message": {"content": "hi"}}]);
    let usage = answer(Method::ChatCompletions, &completion(&choices, usage)).0?;
    Some([usage.prompt, usage.cached, usage.candidates, usage.thoughts, usage.total])
}

#[test]
fn reasoning_is_told_apart_from_the_text() {
    for (usage, want) in [
        // OpenAI: reasoning is part of the completion.
        (
            json!({
                "prompt_tokens": 19, "completion_tokens": 110, "total_tokens": 129,
                "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
            }),
            [19, 8, 46, 64, 129],
        ),
        // Gemini: thoughts are in the total alone.
        (
            json!({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}),
            [20, 0, 198, 405, 623],
        ),
        (json!({"prompt_tokens": 5, "total_tokens": 5}), [5, 0, 0, 0, 5]),
        (json!({"prompt_tokens": 5, "completion_tokens": 2}), [5, 0, 2, 0, 0]),
        (
            json!({
                "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
                "prompt_tokens_details": null, "completion_tokens_details": {},
            }),
            [5, 0, 2, 0, 7],
        ),
        (
            json!({
                "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 9},
            }),
            [5, 0, 0, 2, 7],
        ),
    ] {
        assert_eq!(counts(&usage), Some(want), "{usage}");
    }
}

#[test]
fn usage_that_cannot_be_read_is_none() {
    for usage in [
        json!(null),
        json!([1]),
        json!({}),
        json!({"completion_tokens": 3, "total_tokens": 3}),
        json!({"prompt_tokens": null, "total_tokens": 3}),
        json!({"prompt_tokens": -1}),
        json!({"prompt_tokens": 1.5}),
        json!({"prompt_tokens": COUNT_MAX + 1}),
        json!({"prompt_tokens": 1, "total_tokens": u64::MAX}),
    ] {
        assert_eq!(counts(&usage), None, "{usage}");
    }
}

#[test]
fn a_completion_is_blocked_when_every_choice_is() {
    let choice = |reason: &str| json!({"finish_reason": reason, "message": {"content": "hi"}});
    let refusal = |text: Value| json!({"finish_reason": "stop", "message": {"refusal": text}});
    for (choices, want) in [
        (json!([choice("stop")]), None),
        (json!([choice("length")]), None),
        (json!([choice("tool_calls")]), None),
        (json!([{"message": {"content": "hi"}}]), None),
        (json!([choice("content_filter")]), Some("content_filter")),
        (json!([choice("content_filter: RECITATION")]), Some("content_filter: RECITATION")),
        (json!([choice("error")]), Some("error")),
        (json!([choice("content_filter"), choice("stop")]), None),
        (json!([choice("stop"), choice("content_filter")]), None),
        (json!([refusal(json!("No."))]), Some("refusal")),
        (json!([refusal(json!(""))]), None),
        (json!([refusal(json!(null))]), None),
        (json!([refusal(json!("No.")), choice("content_filter")]), Some("refusal")),
        (json!([]), Some("no_choices")),
        (json!(null), Some("no_choices")),
        (json!(["odd"]), None),
    ] {
        let blocked = answer(Method::ChatCompletions, &completion(&choices, &json!(null))).1;
        assert_eq!(blocked.as_deref(), want, "{choices}");
    }
    let without = json!({"object": "chat.completion", "model": "m"});
    assert_eq!(answer(Method::ChatCompletions, &without).1.as_deref(), Some("no_choices"));
}

#[test]
fn embeddings_have_data() {
    let usage = json!({"prompt_tokens": 8, "total_tokens": 8});
    let data = json!([{"object": "embedding", "index": 0, "embedding": [0.5]}]);
    let full = json!({"object": "list", "data": data, "model": "m", "usage": usage});
    let (usage, blocked) = answer(Method::Embeddings, &full);
    assert_eq!(usage.map(|usage| (usage.prompt, usage.total)), Some((8, 8)));
    assert_eq!(blocked, None);
    assert_eq!(answer(Method::Embeddings, &json!({ "data": data })), (None, None));
}

#[test]
fn a_gemini_embedding_may_come_without_usage() {
    let embedding = json!({"values": [0.1, 0.2]});
    let bare = json!({ "embedding": embedding });
    assert_eq!(answer(Method::EmbedContent, &bare), (None, None));
    let counted = json!({"embedding": embedding, "usageMetadata": {"promptTokenCount": 3}});
    let (usage, _) = answer(Method::EmbedContent, &counted);
    assert_eq!(usage.map(|usage| usage.prompt), Some(3));
}

#[test]
fn neither_answer_nor_error_is_broken() {
    let empty = json!({});
    for (method, document, field) in [
        (Method::EmbedContent, empty.clone(), "embedding"),
        (Method::EmbedContent, json!({"embedding": null, "error": {}}), "embedding"),
        (Method::EmbedContent, json!({"candidates": []}), "embedding"),
        (Method::ChatCompletions, empty.clone(), "choices"),
        (Method::ChatCompletions, json!({"choices": 3, "error": null}), "choices"),
        (Method::ChatCompletions, json!({"object": "list", "data": []}), "choices"),
        (Method::Embeddings, empty, "data"),
        (Method::Embeddings, json!({"data": []}), "data"),
        (Method::Embeddings, json!({"object": "chat.completion", "choices": []}), "data"),
    ] {
        let Document::Broken { reason } = read(method, document.to_string().as_bytes()) else {
            panic!("{document}")
        };
        assert_eq!(reason, format!("the answer has neither `{field}` nor an error"));
    }
}

const METHODS: [Method; 4] =
    [Method::GenerateContent, Method::EmbedContent, Method::ChatCompletions, Method::Embeddings];

#[test]
fn an_error_is_an_error_whatever_the_status_said() {
    let status = |method, document: &Value| match read(method, document.to_string().as_bytes()) {
        Document::Error { status } => status,
        other @ (Document::Answer { .. } | Document::Broken { .. }) => {
            panic!("{document}: {other:?}")
        }
    };
    let listed = json!([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]);
    let stated = json!({"error": {"code": 503, "message": "overloaded"}});
    for method in METHODS {
        assert_eq!(status(method, &listed), 429);
        assert_eq!(status(method, &stated), 503);
    }
    for (error, want) in [
        (json!({"code": "502", "message": "lost"}), 502),
        (json!({"code": "invalid_api_key", "type": "invalid_request_error"}), 401),
        (json!({"code": "model_not_found", "type": "invalid_request_error"}), 404),
        (json!({"code": "rate_limit_exceeded", "type": "requests"}), 429),
        (json!({"code": null, "type": "tokens"}), 429),
        (json!({"code": null, "type": "invalid_request_error"}), 400),
        (json!({"code": null, "type": "server_error"}), 500),
        (json!({"message": "who knows"}), 500),
        (json!("who knows"), 500),
    ] {
        let document = json!({ "error": error });
        assert_eq!(status(Method::ChatCompletions, &document), want, "{error}");
        assert_eq!(status(Method::Embeddings, &document), want, "{error}");
    }
    for none in [json!(null), json!(false), json!(""), json!({})] {
        let document = json!({"error": none, "choices": []});
        assert_eq!(answer(Method::ChatCompletions, &document).1.as_deref(), Some("no_choices"));
    }
}

/// Any JSON value, with the words of answers in unexpected places.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "error",
        "code",
        "type",
        "choices",
        "message",
        "refusal",
        "finish_reason",
        "content_filter",
        "usage",
        "prompt_tokens",
        "total_tokens",
        "completion_tokens_details",
        "object",
        "chat.completion",
        "data",
        "embedding",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn total_over_bytes(body: Vec<u8>) {
        for method in METHODS {
            read(method, &body);
        }
    }

    #[test]
    fn total_over_documents(document in any_json()) {
        for method in METHODS {
            let text = document.to_string();
            if let Document::Answer { usage: Some(usage), .. } = read(method, text.as_bytes()) {
                prop_assert!(usage.prompt <= COUNT_MAX && usage.total <= COUNT_MAX);
            }
        }
    }

    #[test]
    fn what_is_counted_adds_up(
        prompt in 0..1_000_000_u64, text in 0..1_000_000_u64, thoughts in 0..1_000_000_u64,
    ) {
        let total = prompt + text + thoughts;
        let openai = json!({
            "prompt_tokens": prompt, "completion_tokens": text + thoughts, "total_tokens": total,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        });
        let gemini =
            json!({"prompt_tokens": prompt, "completion_tokens": text, "total_tokens": total});
        prop_assert_eq!(counts(&openai), Some([prompt, 0, text, thoughts, total]));
        prop_assert_eq!(counts(&gemini), Some([prompt, 0, text, thoughts, total]));
    }
}
