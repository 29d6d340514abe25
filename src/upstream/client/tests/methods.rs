//! Calls of every method, and what is read from their answers.

use proptest::prelude::*;

use super::*;
use crate::emulator::{Emulator, EmulatorConfig, Fault, FaultKind, Limits};

const METHODS: [Method; 4] =
    [Method::GenerateContent, Method::EmbedContent, Method::ChatCompletions, Method::Embeddings];

const COMPLETION: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,
    "finish_reason":"stop","message":{"role":"assistant","content":"canary answer"}}],
    "usage":{"prompt_tokens":4,"completion_tokens":5,"total_tokens":9}}"#;
const EMBEDDINGS: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,
    "embedding":[0.1]}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#;
const EMBEDDING: &str = r#"{"embedding":{"values":[0.1]}}"#;

#[tokio::test]
async fn each_method_goes_to_its_place_with_one_credential() {
    use Method::{ChatCompletions, EmbedContent, Embeddings};
    use Wire::{Gemini, OpenAi};
    let model = "/v1beta/models/gemini-3.6-flash";
    for (wire, method, path, answer, prompt_tokens) in [
        (Gemini, EmbedContent, &*format!("{model}:embedContent"), EMBEDDING, None),
        (Gemini, ChatCompletions, "/v1beta/openai/chat/completions", COMPLETION, Some(4)),
        (Gemini, Embeddings, "/v1beta/openai/embeddings", EMBEDDINGS, Some(4)),
        (OpenAi, ChatCompletions, "/v1/chat/completions", COMPLETION, Some(4)),
        (OpenAi, Embeddings, "/v1/embeddings", EMBEDDINGS, Some(4)),
    ] {
        let headers = "x-request-id: req_0123\r\n";
        let (base_url, served) = serve(reply("200 OK", headers, answer), Then::Hold).await;
        let call = Call { wire, method, ..call(&base_url) };
        let (report, steps) = generate(&client(), call).await;
        let Outcome::Answered { body, usage, blocked, images } = report.outcome else {
            panic!("{wire:?} {method:?} {report:?}")
        };
        assert_eq!(body, answer);
        assert_eq!(usage.map(|usage| usage.prompt), prompt_tokens);
        assert_eq!((blocked, images), (None, 0));
        assert_eq!(report.request_id.as_deref(), Some("req_0123"));
        assert_eq!(steps, [Progress::BodySent, Progress::Headers { status: 200 }]);

        let request = served.await.unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, PROMPT);
        assert_eq!(head.lines().next(), Some(format!("POST {path} HTTP/1.1").as_str()));
        let bearer = format!("Bearer {KEY}");
        let (goog, bearer) = match method {
            EmbedContent | Method::GenerateContent => (Some(KEY), None),
            ChatCompletions | Embeddings => (None, Some(bearer.as_str())),
        };
        assert_eq!(header(head, "x-goog-api-key"), goog);
        assert_eq!(header(head, "authorization"), bearer);
        assert_eq!(header(head, "content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn what_a_provider_does_not_have_is_not_sent() {
    let (listener, base_url) = listen().await;
    for method in [Method::GenerateContent, Method::EmbedContent] {
        let call = Call { wire: Wire::OpenAi, method, ..call(&base_url) };
        let (report, steps) = generate(&client(), call).await;
        let (kind, reason) = not_sent(&report);
        assert_eq!(kind, NotSentKind::Other);
        assert!(reason.contains("OpenAI-compatible and has no `"), "{reason}");
        assert!(steps.is_empty());
    }
    assert!(listener.accept().now_or_never().is_none());
}

async fn chat(status: &str, headers: &str, body: &str) -> Report {
    let (base_url, _) = serve(reply(status, headers, body), Then::Hold).await;
    let (wire, method) = (Wire::OpenAi, Method::ChatCompletions);
    generate(&client(), Call { wire, method, ..call(&base_url) }).await.0
}

#[tokio::test]
async fn a_refusal_is_read_with_its_headers() {
    let body = include_str!("../../corpus/openai-429-rpm.json");
    let headers = "retry-after: 21\r\nretry-after-ms: 20500\r\nx-request-id: req_1\r\n";
    let report = chat("429 Too Many Requests", headers, body).await;
    let refusal = refused(&report);
    assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerMinute));
    assert_eq!((refusal.quota[0].value, refusal.retry_delay_ms), (Some(3), Some(20_500)));
    assert_eq!(report.request_id.as_deref(), Some("req_1"));
    let report = chat("503 Unavailable", "retry-after: 7\r\n", "").await;
    assert_eq!(refused(&report).class, RefusalClass::Server);
    assert_eq!(refused(&report).retry_delay_ms, Some(7_000));
}

#[tokio::test]
async fn a_key_that_is_quoted_in_part_does_not_show() {
    let body = include_str!("../../corpus/openai-401-invalid-api-key.json");
    let report = chat("401 Unauthorized", "", body).await;
    let refusal = refused(&report);
    assert_eq!(refusal.class, RefusalClass::KeyRefused);
    let shown = "Incorrect API key provided: [key]. You can find your API key at";
    assert!(refusal.message.starts_with(shown), "{}", refusal.message);
    assert!(!String::from_utf8_lossy(&refusal.body).contains("cdef"));
}

#[tokio::test]
async fn an_error_document_with_a_success_status_is_a_refusal_in_every_form() {
    let limit = "on tokens per min (TPM): Limit 9, Used 9";
    let plain = json!({"error": {
        "message": limit, "type": "tokens", "param": null, "code": "rate_limit_exceeded",
    }});
    let listed = json!([{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}]);
    for (body, kind) in [(plain, ThrottleKind::PerMinute), (listed, ThrottleKind::Unexplained)] {
        let report = chat("200 OK", "", &body.to_string()).await;
        assert_eq!(refused(&report).class, RefusalClass::Throttled(kind));
        assert_eq!((refused(&report).status, report.status), (429, Some(200)));
    }
    let report = chat("200 OK", "", "{}").await;
    assert_eq!(unknown(&report), "the answer has neither `choices` nor an error (status 200)");
}

#[tokio::test]
async fn what_was_refused_by_a_filter_is_an_answer_and_says_so() {
    let choice = json!({"finish_reason": "content_filter", "message": {"content": ""}});
    let body = json!({"object": "chat.completion", "choices": [choice]}).to_string();
    let report = chat("200 OK", "", &body).await;
    let Outcome::Answered { blocked, usage, .. } = report.outcome else { panic!("{report:?}") };
    assert_eq!((blocked.as_deref(), usage), (Some("content_filter"), None));
}

#[tokio::test]
async fn a_request_id_is_bounded() {
    let headers = format!("x-request-id: {}\r\n", "x".repeat(9_999));
    let report = chat("200 OK", &headers, COMPLETION).await;
    assert_eq!(report.request_id, Some("x".repeat(REQUEST_ID_BYTES_MAX)));
}

const LIMITS: &str = r#"
[[project]]
name = "p"
keys = ["AQ.canary-0123456789"]
[[project.model]]
name = "gemini-embedding-001"
[[project.model]]
name = "gpt-5-mini"
[[project.model]]
name = "tight"
rpm = 1
"#;

async fn emulator() -> Emulator {
    Emulator::start(EmulatorConfig::new(Limits::parse(LIMITS).unwrap())).await.unwrap()
}

/// A call of `method` about `text` that the emulator takes.
fn about(text: &str, model: &str, wire: Wire, method: Method, base_url: &str) -> Call {
    let body = match method {
        Method::GenerateContent => json!({"contents": [{"parts": [{"text": text}]}]}),
        Method::EmbedContent => json!({"content": {"parts": [{"text": text}]}}),
        Method::ChatCompletions => {
            json!({"model": model, "messages": [{"role": "user", "content": text}]})
        }
        Method::Embeddings => json!({"model": model, "input": text}),
    };
    Call { wire, method, model: model.into(), body: body.to_string().into(), ..call(base_url) }
}

const WAYS: [(Wire, Method); 6] = [
    (Wire::Gemini, Method::GenerateContent),
    (Wire::Gemini, Method::EmbedContent),
    (Wire::Gemini, Method::ChatCompletions),
    (Wire::Gemini, Method::Embeddings),
    (Wire::OpenAi, Method::ChatCompletions),
    (Wire::OpenAi, Method::Embeddings),
];

#[tokio::test]
async fn the_emulator_takes_every_call_and_its_count_is_read() {
    let emulator = emulator().await;
    for (at, (wire, method)) in (1..).zip(WAYS) {
        let call = about("canary in a mine", "gpt-5-mini", wire, method, &emulator.base_url());
        let (report, _) = generate(&client(), call).await;
        let Outcome::Answered { usage, blocked: None, .. } = &report.outcome else {
            panic!("{wire:?} {method:?} {report:?}")
        };
        let is_openai = wire == Wire::OpenAi;
        assert_eq!(report.request_id.is_some(), is_openai, "{wire:?} {method:?}");
        let counts = emulator.stats().counts;
        assert_eq!((counts.accepted, counts.input_tokens), (at, at * 4));
        match (usage, method) {
            (None, Method::EmbedContent) => {}
            (None, Method::Embeddings) => assert!(!is_openai),
            (Some(usage), Method::GenerateContent | Method::ChatCompletions) => {
                assert!(usage.thoughts > 0 && usage.candidates > 0, "{usage:?}");
                assert_eq!(usage.total, usage.prompt + usage.candidates + usage.thoughts);
            }
            (Some(usage), Method::Embeddings) => assert!(is_openai && usage.prompt == 4),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_emulators_refusals_mean_the_same_everywhere() {
    let emulator = emulator().await;
    let base_url = emulator.base_url();
    let class = async |call: Call| {
        let (report, _) = generate(&client(), call).await;
        refused(&report).class
    };
    for (wire, method) in WAYS {
        let good = || about("hi", "gpt-5-mini", wire, method, &base_url);
        for (kind, want) in [
            (FaultKind::Unavailable, RefusalClass::Server),
            (FaultKind::Internal, RefusalClass::Server),
            (FaultKind::NotFound, RefusalClass::ModelNotFound),
            (FaultKind::BareQuota, RefusalClass::Throttled(ThrottleKind::Unexplained)),
            (FaultKind::DayQuota, RefusalClass::Throttled(ThrottleKind::PerDay)),
            (FaultKind::Billing, RefusalClass::Billing),
        ] {
            emulator.inject([Fault::once(kind)]);
            assert_eq!(class(good()).await, want, "{wire:?} {method:?} {kind:?}");
        }
        let stranger = Call { key: "AQ.stranger".into(), ..good() };
        assert_eq!(class(stranger).await, RefusalClass::KeyRefused, "{wire:?} {method:?}");
        let odd = Call { body: r#"{"model":"gpt-5-mini","odd":1}"#.into(), ..good() };
        assert_eq!(class(odd).await, RefusalClass::BadRequest, "{wire:?} {method:?}");
    }
}

#[tokio::test]
async fn the_emulators_limits_are_learned_from_its_429() {
    for (wire, method) in WAYS {
        let emulator = emulator().await;
        let call = || about("hi", "tight", wire, method, &emulator.base_url());
        assert!(matches!(generate(&client(), call()).await.0.outcome, Outcome::Answered { .. }));
        let (report, _) = generate(&client(), call()).await;
        let refusal = refused(&report);
        let quota = &refusal.quota[0];
        assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerMinute), "{method:?}");
        assert_eq!((quota.value, quota.model.as_deref()), (Some(1), Some("tight")));
        let wait = refusal.retry_delay_ms.unwrap();
        assert!((1..=60_000).contains(&wait), "{wait}");
    }
}

#[tokio::test]
async fn what_the_emulator_blocks_is_blocked() {
    let emulator = emulator().await;
    for (wire, method, text, want) in [
        (Wire::Gemini, Method::GenerateContent, "[[block]]", "PROHIBITED_CONTENT"),
        (Wire::Gemini, Method::ChatCompletions, "[[block]]", "no_choices"),
        (Wire::Gemini, Method::ChatCompletions, "[[refuse]]", "refusal"),
        (Wire::OpenAi, Method::ChatCompletions, "[[block]]", "content_filter"),
        (Wire::OpenAi, Method::ChatCompletions, "[[refuse]]", "refusal"),
    ] {
        let call = about(text, "gpt-5-mini", wire, method, &emulator.base_url());
        let (report, _) = generate(&client(), call).await;
        let Outcome::Answered { blocked, .. } = &report.outcome else { panic!("{report:?}") };
        assert_eq!(blocked.as_deref(), Some(want), "{wire:?} {method:?} {text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_outcome(
        method in prop::sample::select(METHODS.to_vec()), status: u16, body: Vec<u8>, cut: bool,
    ) {
        let received = Received { status: Some(status), body: body.clone(), ..Received::default() };
        let failed = cut.then(|| late("the rest", SHORT));
        let outcome = conclude(method, received, failed, &Custody::default(), KEY);
        let is_success = (200..=299).contains(&status);
        match outcome {
            Outcome::Answered { body: answer, .. } => {
                prop_assert!(is_success && !cut);
                prop_assert_eq!(answer, body);
            }
            Outcome::Refused(refusal) => prop_assert!(!is_success || refusal.status >= 400),
            Outcome::Unknown { .. } => prop_assert!(is_success),
            Outcome::NotSent { .. } => prop_assert!(false, "a status proves that it was sent"),
        }
    }
}
