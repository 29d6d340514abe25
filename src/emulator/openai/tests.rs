//! OpenAI's methods over real sockets.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::{Value, json};

use crate::emulator::{Emulator, EmulatorConfig, Fault, FaultKind, Limits};

const PLAIN: &str = "v1/chat/completions";
const GEMINI: &str = "v1beta/openai/chat/completions";

const LIMITS: &str = r#"
[[project]]
name = "p"
keys = ["k"]
revoked_keys = ["old"]
[[project.model]]
name = "m"
[[project.model]]
name = "gpt-5-mini"
[[project.model]]
name = "gemini-2.5-flash"
[[project.model]]
name = "tight"
rpm = 2
[[project.model]]
name = "few"
tpm = 10
[[project.model]]
name = "daily"
rpd = 1
retry_delay = "7m12s"
[[project.model]]
name = "dead"
rpm = 0
[[project.model]]
name = "gemini-embedding-001"
rpm = 3
"#;

async fn start() -> Emulator {
    Emulator::start(EmulatorConfig::new(Limits::parse(LIMITS).unwrap())).await.unwrap()
}

fn request(emulator: &Emulator, path: &str, body: &Value) -> reqwest::RequestBuilder {
    // Fails when another test of this process has installed one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.post(format!("{}/{path}", emulator.base_url())).body(body.to_string())
}

async fn post(emulator: &Emulator, path: &str, body: &Value) -> (u16, Value) {
    let response = request(emulator, path, body).bearer_auth("k").send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn a_completion_has_the_shape_of_a_real_one() {
    let emulator = start().await;
    let body = json!({
        "model": "gpt-5-mini", "n": 2, "temperature": 0.5, "user": null,
        "messages": [
            {"role": "developer", "content": "brief"},
            {"role": "user", "content": [
                {"type": "text", "text": "why is the sky blue?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/sky.png"}},
            ]},
        ],
    });
    let response = request(&emulator, PLAIN, &body).bearer_auth("k").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/json"));
    assert!(header("x-request-id").unwrap().starts_with("req_"));
    assert_eq!(header("server-timing"), None);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt-5-mini");
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!((&choices[1]["index"], &choices[1]["finish_reason"]), (&json!(1), &json!("stop")));
    let text = choices[0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("why is the sky blue?"), "{text}");
    let usage = &answer["usage"];
    let count = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap();
    // 25 ASCII characters and an image.
    assert_eq!(count("/prompt_tokens"), 7 + 258);
    let reasoning = count("/completion_tokens_details/reasoning_tokens");
    assert!(reasoning > 0 && reasoning < count("/completion_tokens"), "{usage}");
    assert_eq!(count("/total_tokens"), count("/prompt_tokens") + count("/completion_tokens"));

    let counts = emulator.stats().counts;
    assert_eq!((counts.requests, counts.accepted, counts.input_tokens), (1, 1, 265));
    assert_eq!(counts.output_tokens, count("/completion_tokens"));
}

#[tokio::test]
async fn gemini_tells_thoughts_in_the_total_alone() {
    let emulator = start().await;
    let (status, answer) = post(&emulator, GEMINI, &chat("models/gemini-2.5-flash", "why?")).await;
    assert_eq!((status, &answer["model"]), (200, &json!("gemini-2.5-flash")));
    let count = |name: &str| answer["usage"][name].as_u64().unwrap();
    assert!(count("total_tokens") > count("prompt_tokens") + count("completion_tokens"));
    assert_eq!(answer["usage"].get("completion_tokens_details"), None);
    let beyond = count("total_tokens") - count("prompt_tokens");
    assert_eq!(emulator.stats().counts.output_tokens, beyond);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers() {
    let (first, second) = (start().await, start().await);
    let ask = async |emulator: &Emulator, path: &str, text: &str| {
        post(emulator, path, &chat("m", text)).await.1["choices"].clone()
    };
    let one = ask(&first, PLAIN, "one").await;
    ask(&second, PLAIN, "two").await;
    assert_eq!(one, ask(&second, PLAIN, "one").await);
    assert_ne!(one, ask(&second, PLAIN, "two").await);
    let text = |choices: &Value| choices[0]["message"]["content"].clone();
    assert_eq!(text(&one), text(&ask(&first, GEMINI, "one").await));
}

#[tokio::test]
async fn all_ways_to_a_model_share_its_limits() {
    let emulator = start().await;
    let body = json!({"contents": [{"parts": [{"text": "hi"}]}]});
    let native = request(&emulator, "v1beta/models/tight:generateContent", &body);
    assert_eq!(native.header("x-goog-api-key", "k").send().await.unwrap().status(), 200);
    assert_eq!(post(&emulator, GEMINI, &chat("tight", "hi")).await.0, 200);

    let (status, refusal) = post(&emulator, GEMINI, &chat("tight", "hi")).await;
    assert_eq!(status, 429);
    let error = &refusal[0]["error"];
    assert_eq!((&error["code"], &error["status"]), (&json!(429), &json!("RESOURCE_EXHAUSTED")));
    assert_eq!(error["details"][1]["violations"][0]["quotaValue"], "2");

    let refused = request(&emulator, PLAIN, &chat("tight", "hi")).bearer_auth("k");
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let wait = |name: &str| -> u64 { refused.headers()[name].to_str().unwrap().parse().unwrap() };
    let (seconds, ms) = (wait("retry-after"), wait("retry-after-ms"));
    assert!(ms > 0 && ms <= 60_000 && seconds == ms.div_ceil(1_000), "{seconds} {ms}");
    let error = refused.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("requests"), &json!("rate_limit_exceeded"))
    );
    let message = error["message"].as_str().unwrap();
    let told = "Rate limit reached for tight in organization org-emulator on requests per min \
                (RPM): Limit 2, Used 2, Requested 1. Please try again in ";
    assert!(message.starts_with(told), "{message}");
    let worst = &emulator.stats().worst_window["p/tight"];
    assert_eq!((worst.requests, emulator.stats().counts.throttled), (2, 2));
}

#[tokio::test]
async fn each_limit_has_its_words() {
    let emulator = start().await;
    let message = async |model: &str, text: &str| {
        let (status, body) = post(&emulator, PLAIN, &chat(model, text)).await;
        (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let (status, text) = message("few", &"x".repeat(44)).await;
    let told = "on tokens per min (TPM): Limit 10, Requested 11. The input or output tokens must";
    assert!(
        status == 429 && text.starts_with("Request too large") && text.contains(told),
        "{text}"
    );
    assert_eq!(message("few", &"x".repeat(40)).await.0, 200);
    let (status, text) = message("few", "hi").await;
    let told = "on tokens per min (TPM): Limit 10, Used 10, Requested 1. Please try again in ";
    assert!(status == 429 && text.contains(told), "{text}");
    assert_eq!(message("daily", "hi").await.0, 200);
    let (_, text) = message("daily", "hi").await;
    let told =
        "on requests per day (RPD): Limit 1, Used 1, Requested 1. Please try again in 7m12s.";
    assert!(text.contains(told), "{text}");
    let (_, text) = message("dead", "hi").await;
    assert!(text.contains("(RPM): Limit 0, Used 0, Requested 1. Please try again in"), "{text}");
}

#[tokio::test]
async fn malformed_payloads_are_refused_with_their_place_and_counted() {
    let emulator = start().await;
    let with = |name: &str, value: Value| {
        let mut body = chat("m", "hi");
        body[name] = value;
        body
    };
    let messages = |messages: Value| with("messages", messages);
    let content = |content: Value| messages(json!([{"role": "user", "content": content}]));
    let cases = [
        (json!({"model": "m"}), "messages", "missing_required_parameter"),
        (messages(json!([])), "messages", "empty_array"),
        (messages(json!("hi")), "messages", "invalid_type"),
        (messages(json!(["hi"])), "messages[0]", "invalid_type"),
        (messages(json!([{"content": "hi"}])), "messages[0].role", "missing_required_parameter"),
        (messages(json!([{"role": "model", "content": ""}])), "messages[0].role", "invalid_value"),
        (messages(json!([{"role": "user"}])), "messages[0].content", "missing_required_parameter"),
        (
            messages(json!([{"role": "assistant", "content": null}])),
            "messages[0].content",
            "invalid_type",
        ),
        (
            messages(json!([{"role": "user", "content": "", "parts": []}])),
            "messages[0].parts",
            "unknown_parameter",
        ),
        (
            messages(json!([{"role": "tool", "content": "1"}])),
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (content(json!(3)), "messages[0].content", "invalid_type"),
        (content(json!([])), "messages[0].content", "invalid_type"),
        (
            content(json!([{"text": "hi"}])),
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        (
            content(json!([{"type": "video", "video": {}}])),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            content(json!([{"type": "text", "text": 1}])),
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (
            content(json!([{"type": "image_url", "image_url": "x"}])),
            "messages[0].content[0].image_url.url",
            "missing_required_parameter",
        ),
        (with("temperature", json!("hot")), "temperature", "invalid_type"),
        (with("temperature", json!(2.5)), "temperature", "decimal_above_max_value"),
        (with("n", json!(0)), "n", "integer_below_min_value"),
        (with("n", json!(129)), "n", "integer_above_max_value"),
        (with("max_tokens", json!(1.5)), "max_tokens", "invalid_type"),
        (with("reasoning_effort", json!("lots")), "reasoning_effort", "invalid_value"),
    ];
    let count = u64::try_from(cases.len()).unwrap();
    for (body, param, code) in cases {
        let (status, answer) = post(&emulator, PLAIN, &body).await;
        let error = &answer["error"];
        assert_eq!(status, 400, "{body}");
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{answer}");
        assert_eq!(error["type"], "invalid_request_error");
        let (status, listed) = post(&emulator, GEMINI, &body).await;
        assert_eq!((status, &listed[0]["error"]["status"]), (400, &json!("INVALID_ARGUMENT")));
    }
    let (status, answer) = post(&emulator, PLAIN, &with("top_k", json!(3))).await;
    let told = "Unrecognized request argument supplied: top_k";
    assert_eq!((status, &answer["error"]["message"]), (400, &json!(told)));
    let (_, answer) = post(&emulator, GEMINI, &with("top_k", json!(3))).await;
    assert!(answer[0]["error"]["message"].as_str().unwrap().contains("Unknown name \"top_k\""));
    assert_eq!(emulator.stats().worst_window["p/m"].requests, 2 * count + 2);

    // Without a model there is nothing that could count.
    for body in [json!({"messages": []}), json!({"model": 3}), json!("hi")] {
        assert_eq!(post(&emulator, PLAIN, &body).await.0, 400, "{body}");
    }
    let (status, answer) = post(&emulator, PLAIN, &chat("gpt-9", "hi")).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
    let (status, answer) = post(&emulator, GEMINI, &chat("gpt-9", "hi")).await;
    assert_eq!((status, &answer[0]["error"]["status"]), (404, &json!("NOT_FOUND")));
    assert_eq!(emulator.stats().counts.client_errors, 2 * count + 7);
}

#[tokio::test]
async fn what_a_chat_may_hold_is_taken() {
    let emulator = start().await;
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "brief"},
            {"role": "user", "content": "hi", "name": "ada"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
        "stop": ["x"], "seed": -4, "stream": false, "top_p": 1, "max_tokens": null,
        "response_format": {"type": "json_object"}, "reasoning_effort": "low",
    });
    for path in [PLAIN, GEMINI] {
        let (status, answer) = post(&emulator, path, &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["usage"]["prompt_tokens"], 2);
    }
}

#[tokio::test]
async fn credentials_are_bearer_tokens() {
    let emulator = start().await;
    let send = async |path: &str, token: Option<&str>, goog: bool| {
        let mut request = request(&emulator, path, &chat("m", "hi"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if goog {
            request = request.header("x-goog-api-key", "k");
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    for (token, code) in [
        (None, json!(null)),
        (Some("wrong"), json!("invalid_api_key")),
        (Some("old"), json!("invalid_api_key")),
    ] {
        let (status, body) = send(PLAIN, token, false).await;
        assert_eq!((status, &body["error"]["code"]), (401, &code), "{token:?}");
    }
    for (token, goog, wanted, told) in [
        (None, false, 400, "Missing or invalid Authorization header."),
        (None, true, 400, "Missing or invalid Authorization header."),
        (Some("k"), true, 400, "Multiple authentication credentials received."),
        (Some("wrong"), false, 400, "API key not valid."),
        (Some("old"), false, 403, "Your API key was reported as leaked."),
    ] {
        let (status, body) = send(GEMINI, token, goog).await;
        let message = body[0]["error"]["message"].as_str().unwrap();
        assert!(status == wanted && message.starts_with(told), "{status} {message}");
    }
    assert_eq!(emulator.stats().counts.accepted, 0);
}

#[tokio::test]
async fn blocked_and_refused_answers_are_answers() {
    let emulator = start().await;
    let (status, body) = post(&emulator, PLAIN, &chat("m", "please [[block]] this")).await;
    assert_eq!((status, &body["choices"][0]["finish_reason"]), (200, &json!("content_filter")));
    assert_eq!(body["usage"]["completion_tokens"], 0);
    let (status, body) = post(&emulator, GEMINI, &chat("m", "please [[block]] this")).await;
    assert_eq!((status, body.get("choices")), (200, None));
    for path in [PLAIN, GEMINI] {
        let (status, body) = post(&emulator, path, &chat("m", "please [[refuse]] this")).await;
        let message = &body["choices"][0]["message"];
        assert!(status == 200 && message["refusal"].is_string(), "{body}");
        assert!(message.get("content").is_none_or(Value::is_null), "{body}");
    }
}

#[tokio::test]
async fn faults_are_told_in_the_form_of_the_api() {
    let emulator = start().await;
    for (kind, status, plain, listed) in [
        (FaultKind::Unavailable, 503, "server_error", "UNAVAILABLE"),
        (FaultKind::Internal, 500, "server_error", "INTERNAL"),
        (FaultKind::NotFound, 404, "invalid_request_error", "NOT_FOUND"),
        (FaultKind::BareQuota, 429, "engine_overloaded_error", "RESOURCE_EXHAUSTED"),
        (FaultKind::DayQuota, 429, "requests", "RESOURCE_EXHAUSTED"),
        (FaultKind::Billing, 429, "insufficient_quota", "RESOURCE_EXHAUSTED"),
    ] {
        emulator.inject([Fault::repeated(kind, 2)]);
        let (told, body) = post(&emulator, PLAIN, &chat("m", "hi")).await;
        assert_eq!((told, &body["error"]["type"]), (status, &json!(plain)), "{kind:?}");
        let (told, body) = post(&emulator, GEMINI, &chat("m", "hi")).await;
        assert_eq!((told, &body[0]["error"]["status"]), (status, &json!(listed)), "{kind:?}");
    }
    emulator.inject([Fault::once(FaultKind::NoUsage)]);
    let (status, body) = post(&emulator, PLAIN, &chat("m", "hi")).await;
    assert_eq!((status, body.get("usage")), (200, None));
    for kind in [FaultKind::Cut, FaultKind::Reset, FaultKind::Truncate] {
        emulator.inject([Fault::once(kind)]);
        let sent = request(&emulator, PLAIN, &chat("m", "hi")).bearer_auth("k").send().await;
        let whole = match sent {
            Ok(response) => response.bytes().await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole, "{kind:?}");
    }
    assert_eq!(emulator.stats().counts.accepted, 4);
}

#[tokio::test]
async fn embeddings_have_a_vector_for_each_input() {
    let emulator = start().await;
    let (plain, gemini) = ("v1/embeddings", "v1beta/openai/embeddings");
    let body = json!({"model": "m", "input": ["hello there", "hé"], "dimensions": 8});
    let (status, answer) = post(&emulator, plain, &body).await;
    assert_eq!((status, &answer["object"]), (200, &json!("list")));
    let data = answer["data"].as_array().unwrap();
    assert_eq!(
        (data.len(), &data[1]["index"], &data[1]["object"]),
        (2, &json!(1), &json!("embedding"))
    );
    assert_eq!(data[0]["embedding"].as_array().unwrap().len(), 8);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));
    let single = json!({"model": "m", "input": "hé", "dimensions": 8});
    assert_eq!(
        post(&emulator, plain, &single).await.1["data"][0]["embedding"],
        data[1]["embedding"]
    );
    for (input, tokens) in [(json!([1, 2, 3]), 3), (json!([[1, 2], [3]]), 3)] {
        let (_, answer) = post(&emulator, plain, &json!({"model": "m", "input": input})).await;
        assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{input}");
    }
    assert_eq!(emulator.stats().worst_window["p/m"].requests, 4, "a call is one request");
    for (body, param) in [
        (json!({"model": "m"}), json!("input")),
        (json!({"model": "m", "input": ""}), json!("input")),
        (json!({"model": "m", "input": []}), json!("input")),
        (json!({"model": "m", "input": ["a", 3]}), json!("input")),
        (json!({"model": "m", "input": "a", "dimensions": 0}), json!("dimensions")),
        (
            json!({"model": "m", "input": "a", "encoding_format": "binary"}),
            json!("encoding_format"),
        ),
        (json!({"model": "m", "input": "a", "task": "x"}), json!(null)),
    ] {
        let (status, answer) = post(&emulator, plain, &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &param), "{answer}");
    }

    let body = json!({"model": "gemini-embedding-001", "input": ["a", "b"]});
    let (status, answer) = post(&emulator, gemini, &body).await;
    assert_eq!((status, answer.get("usage")), (200, None), "as the older model");
    let (status, answer) = post(&emulator, gemini, &body).await;
    assert_eq!(status, 429, "each text is a request");
    let id = answer[0]["error"]["details"][1]["violations"][0]["quotaId"].as_str().unwrap();
    assert!(id.starts_with("EmbedContentRequestsPerMinute"), "{id}");
}
