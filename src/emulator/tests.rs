//! The emulator over real sockets.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Read;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stats::hex;
use super::*;

mod images;
mod knobs;
mod others;

const FLASH: &str = "v1beta/models/gemini-2.0-flash:generateContent";

#[tokio::test]
async fn an_answer_has_the_shape_and_the_headers_of_a_real_one() {
    let emulator = start(free_tier()).await;
    let response = post(&emulator, FLASH, &prompt("why is the sky blue?")).await;
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/json; charset=UTF-8"));
    assert_eq!(header("vary"), Some("Origin, X-Origin, Referer"));
    assert_eq!(header("x-gemini-service-tier"), Some("standard"));
    assert!(header("server-timing").unwrap().starts_with("gfet4t7; dur="));
    assert!(header("date").is_some());
    let body: Value = response.json().await.unwrap();
    let candidate = &body["candidates"][0];
    assert_eq!(candidate["finishReason"], "STOP");
    let text = candidate["content"]["parts"][0]["text"].as_str().unwrap();
    assert!(text.contains("why is the sky blue?"), "{text}");
    assert_eq!(body["modelVersion"], "gemini-2.0-flash");
    let usage = &body["usageMetadata"];
    assert_eq!(usage["promptTokenCount"], 5);
    let output_tokens = usage["candidatesTokenCount"].as_u64().unwrap();
    assert_eq!(usage["totalTokenCount"], 5 + output_tokens);

    let counts = emulator.stats().counts;
    assert_eq!((counts.requests, counts.accepted), (1, 1));
    assert_eq!((counts.input_tokens, counts.output_tokens), (5, output_tokens));
    emulator.stop().await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers_in_any_order() {
    let first = start(free_tier()).await;
    let second = start(free_tier()).await;
    let other = start(EmulatorConfig { seed: 9, ..free_tier() }).await;
    let ask = async |emulator: &Emulator, text: &str| {
        let body: Value = post(emulator, FLASH, &prompt(text)).await.json().await.unwrap();
        body["candidates"].clone()
    };
    let one = [ask(&first, "one").await, ask(&first, "two").await];
    let two = [ask(&second, "two").await, ask(&second, "one").await];
    assert_eq!(one[0], two[1]);
    assert_eq!(one[1], two[0]);
    assert_ne!(ask(&other, "one").await, one[0]);
}

#[tokio::test]
async fn wrong_keys_are_refused_as_the_provider_does() {
    let limits = "[[project]]\nname = \"p\"\nkeys = [\"k\"]\nrevoked_keys = [\"old\"]\n\
                  [[project.model]]\nname = \"gemini-2.0-flash\"";
    let emulator = start(EmulatorConfig::new(Limits::parse(limits).unwrap())).await;
    let url = format!("{}/{FLASH}", emulator.base_url());
    let send = async |url: String, key: Option<&str>| {
        let request = client().post(url).body(prompt("hi").to_string());
        let request = match key {
            Some(key) => request.header("x-goog-api-key", key),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };

    let (status, body) = send(url.clone(), Some("wrong")).await;
    assert_eq!(status, 400);
    assert_eq!(body["error"]["message"], "API key not valid. Please pass a valid API key.");
    assert_eq!(body["error"]["details"][0]["reason"], "API_KEY_INVALID");
    assert_eq!(body["error"]["details"][1]["locale"], "en-US");

    let (status, body) = send(url.clone(), None).await;
    assert_eq!((status, &body["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
    let (status, body) = send(url.clone(), Some("old")).await;
    assert_eq!(status, 403);
    assert_eq!(body["error"]["message"], "Your API key was reported as leaked.");

    assert_eq!(send(format!("{url}?key=k"), None).await.0, 200);
    assert_eq!(send(format!("{url}?key=k"), Some("old")).await.0, 400);
    let (status, body) = send(format!("{url}?key=k&colour=red"), None).await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("Cannot bind query parameter"));
    assert_eq!(emulator.stats().projects["p"].keys["key-1"], 2);

    let revoke = async |body: Value| {
        let url = format!("{}/__emulator/revoke", emulator.base_url());
        client().post(url).body(body.to_string()).send().await.unwrap().status().as_u16()
    };
    assert_eq!(revoke(json!({"project": "p", "key": 2})).await, 400);
    assert_eq!(revoke(json!({"project": "q", "key": 1})).await, 400);
    assert_eq!(revoke(json!({"project": "p", "key": 0})).await, 400);
    assert_eq!(revoke(json!({"project": "p", "key": 1})).await, 204);
    assert_eq!(send(format!("{url}?key=k"), None).await.0, 403);
}

#[tokio::test]
async fn what_does_not_exist_is_a_404() {
    let emulator = start(free_tier()).await;
    for (path, resource) in [
        ("v1/models/gemini-9:generateContent", "models/gemini-9 is not found for API version v1,"),
        ("v1beta/tunedModels/t:generateContent", "tunedModels/t is not found"),
        ("v1beta/models/gemini-2.0-flash:predict", "or is not supported for predict."),
        ("v1beta/operations", "Requested entity was not found."),
        ("v3/models/gemini-2.0-flash:generateContent", "Requested entity was not found."),
    ] {
        let response = post(&emulator, path, &prompt("hi")).await;
        assert_eq!(response.status(), 404, "{path}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["status"], "NOT_FOUND");
        assert!(body["error"]["message"].as_str().unwrap().contains(resource), "{body}");
    }
    assert_eq!(emulator.stats().counts.client_errors, 5);
}

#[tokio::test]
async fn malformed_payloads_are_refused_and_counted() {
    let emulator = start(free_tier()).await;
    let send = async |body: String| {
        let url = format!("{}//{FLASH}", emulator.base_url());
        let request = client().post(url).header("x-goog-api-key", "k").body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["status"], "INVALID_ARGUMENT");
        body["error"].clone()
    };
    let unknown = "Invalid JSON payload received. Unknown name \"x\": Cannot find field.";
    let error = send(r#"{"x": 1, "contents": []}"#.to_owned()).await;
    assert_eq!(error["message"], unknown);
    assert_eq!(
        error["details"],
        json!([{
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"description": unknown}],
        }])
    );
    let error = send("{}".to_owned()).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("* GenerateContentRequest.contents: contents is not specified"));
    let error = send(" ".repeat(21 * 1024 * 1024)).await;
    assert!(error["message"].as_str().unwrap().contains("payload size exceeds the limit"));
    assert_eq!(emulator.stats().worst_window["demo/gemini-2.0-flash"].requests, 3);
}

#[tokio::test]
async fn the_request_over_a_limit_gets_the_real_429() {
    let emulator = start(free_tier()).await;
    for _ in 0..15 {
        assert_eq!(post(&emulator, FLASH, &prompt("hi")).await.status(), 200);
    }
    let response = post(&emulator, FLASH, &prompt("hi")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers().get("retry-after"), None);
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(
            "\n* Quota exceeded for metric: generativelanguage.googleapis.com/\
             generate_content_free_tier_requests, limit: 15, model: gemini-2.0-flash\nPlease retry \
             in "
        ),
        "{message}"
    );
    let violation = &error["details"][1]["violations"][0];
    assert_eq!(violation["quotaId"], "GenerateRequestsPerMinutePerProjectPerModel-FreeTier");
    assert_eq!(violation["quotaValue"], "15");
    assert_eq!(violation["quotaDimensions"]["model"], "gemini-2.0-flash");
    let delay = error["details"][2]["retryDelay"].as_str().unwrap();
    let delay: u64 = delay.strip_suffix('s').unwrap().parse().unwrap();
    assert!(delay <= 60, "{delay}");

    // Another model has limits of its own, an alias has not.
    let lite = "v1/models/gemini-2.0-flash-lite:generateContent";
    assert_eq!(post(&emulator, lite, &prompt("hi")).await.status(), 200);
    let alias = "v1/models/gemini-2.0-flash-001:generateContent";
    assert_eq!(post(&emulator, alias, &prompt("hi")).await.status(), 429);
    let stats = emulator.stats();
    assert_eq!((stats.counts.accepted, stats.counts.throttled), (16, 2));
    assert_eq!(stats.worst_window["demo/gemini-2.0-flash"].requests, 15);
}

#[tokio::test]
async fn concurrent_calls_never_exceed_a_limit_and_the_log_tells_each() {
    let limits = "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n[[project.model]]\n\
                  name = \"gemini-2.0-flash\"\nrpm = 5\nlatency_ms = [1, 20]";
    let emulator = start(EmulatorConfig::new(Limits::parse(limits).unwrap())).await;
    let (emulator, count) = (&emulator, 60);
    let calls =
        (0..count).map(|n| async move { post(emulator, FLASH, &prompt(&format!("q{n}"))).await });
    let statuses: Vec<_> =
        join_all(calls).await.into_iter().map(|response| response.status().as_u16()).collect();
    let accepted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(accepted, 5);
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");

    let stats: Value = fetch(emulator, "__emulator/stats").await.json().await.unwrap();
    assert_eq!(stats["accepted"], accepted);
    assert_eq!(stats["requests"], count);
    assert!(stats["max_in_flight"].as_u64().unwrap() > 1);
    assert_eq!(stats["projects"]["p"]["models"]["gemini-2.0-flash"]["throttled"], 60 - accepted);
    let worst = &stats["worst_window"]["p/gemini-2.0-flash"];
    assert_eq!((&worst["requests"], &worst["limit"]), (&json!(5), &json!(5)));

    let log = fetch(emulator, "__emulator/log?after=10").await.text().await.unwrap();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(log.len(), 50);
    assert_eq!(log[0]["n"], 11);
    for pair in log.windows(2) {
        assert!(pair[0]["count_ms"].as_u64() <= pair[1]["count_ms"].as_u64());
    }
    let hashes: Vec<_> =
        (0..count).map(|n| hex(&Sha256::digest(format!("q{n}")))).map(Value::from).collect();
    for entry in &log {
        assert!(hashes.contains(&entry["prompt_sha256"]));
        assert!(entry["at_ms"].as_u64() <= entry["count_ms"].as_u64());
        let is_accepted = entry["status"] == 200;
        assert_eq!(entry["weight"]["requests"], u64::from(is_accepted));
    }
}

#[tokio::test]
async fn free_calls_are_not_counted() {
    let emulator = start(free_tier()).await;
    let count = "v1beta/models/gemini-1.5-pro:countTokens";
    for _ in 0..5 {
        let response = post(&emulator, count, &prompt("hello there")).await;
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["totalTokens"], 3);
    }
    let page: Value = fetch(&emulator, "v1/models?pageSize=2").await.json().await.unwrap();
    assert_eq!(page["models"][0]["name"], "models/gemini-2.0-flash");
    assert_eq!(page["nextPageToken"], "2");
    let rest: Value = fetch(&emulator, "v1/models?pageToken=2").await.json().await.unwrap();
    assert_eq!(rest.get("nextPageToken"), None);
    let model = fetch(&emulator, "v1/models/gemini-1.5-pro").await;
    let model: Value = model.json().await.unwrap();
    assert_eq!(model["supportedGenerationMethods"][0], "generateContent");
    let missing = fetch(&emulator, "v1/models/gemini-9").await;
    assert_eq!(missing.status(), 404);
    let stats = emulator.stats();
    assert_eq!((stats.counts.requests, stats.counts.accepted), (9, 0));
    assert_eq!(stats.worst_window["demo/gemini-1.5-pro"].requests, 0);
}

#[tokio::test]
async fn bodies_are_compressed_for_those_who_accept_it() {
    let emulator = start(free_tier()).await;
    let request = client()
        .post(format!("{}/{FLASH}", emulator.base_url()))
        .header("x-goog-api-key", "k")
        .header("accept-encoding", "br, gzip;q=0.5")
        .body(prompt("squeeze me").to_string());
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut text = String::new();
    let packed = response.bytes().await.unwrap();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("squeeze me"));
    let plain = post(&emulator, FLASH, &prompt("hi")).await;
    assert_eq!(plain.headers().get("content-encoding"), None);
}

#[tokio::test]
async fn ordered_errors_come_in_order_and_count_as_documented() {
    let emulator = start(free_tier()).await;
    let order = json!({"next": [
        {"do": "503", "times": 2}, {"do": "500"}, {"do": "404"}, {"do": "429_bare"},
        {"do": "429_per_day"}, {"do": "billing"},
    ]});
    let url = format!("{}/__emulator/faults", emulator.base_url());
    let ordered = client().post(&url).body(order.to_string()).send().await.unwrap();
    assert_eq!(ordered.status(), 204);
    let refused = client().post(&url).body(r#"{"next": [{"do": "418"}]}"#).send().await.unwrap();
    assert_eq!(refused.status(), 400);

    let mut seen = Vec::new();
    for _ in 0..8 {
        let response = post(&emulator, FLASH, &prompt("hi")).await;
        let status = response.status().as_u16();
        seen.push((status, response.json::<Value>().await.unwrap()["error"].clone()));
    }
    let statuses: Vec<_> = seen.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [503, 503, 500, 404, 429, 429, 429, 200]);
    assert_eq!(seen[4].1.get("details"), None);
    let details = &seen[5].1["details"];
    assert_eq!(
        details[1]["violations"][0]["quotaId"],
        "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    );
    assert_eq!(details[2]["retryDelay"], "38s");
    assert!(seen[6].1["message"].as_str().unwrap().contains("prepayment credits are depleted"));
    // Two 503, one 500 and the answer.
    assert_eq!(emulator.stats().worst_window["demo/gemini-2.0-flash"].requests, 4);
}

#[tokio::test]
async fn damaged_answers_are_counted_all_the_same() {
    let emulator = start(free_tier()).await;
    emulator.inject([
        Fault::once(FaultKind::Reset),
        Fault::once(FaultKind::Cut),
        Fault::once(FaultKind::Truncate),
        Fault::once(FaultKind::NotJson),
        Fault::once(FaultKind::NoUsage),
        Fault::once(FaultKind::Hang { ms: 1 }),
    ]);
    // Over bare sockets, since an HTTP client hides what it cannot use.
    let reset = raw_exchange(&emulator).await;
    assert_eq!(reset, "");
    let cut = raw_exchange(&emulator).await;
    assert!(cut.starts_with("HTTP/1.1 200 OK"), "{cut}");
    assert!(cut.contains("transfer-encoding: chunked") && !cut.contains("\r\n0\r\n"), "{cut}");
    let truncated = raw_exchange(&emulator).await;
    let (head, body) = truncated.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap() / 2, body.len());

    let response = post(&emulator, FLASH, &prompt("hi")).await;
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    let body: Value = post(&emulator, FLASH, &prompt("hi")).await.json().await.unwrap();
    assert!(body.get("candidates").is_some() && body.get("usageMetadata").is_none());
    assert_eq!(post(&emulator, FLASH, &prompt("hi")).await.status(), 200);
    assert_eq!(emulator.stats().counts.accepted, 6);
    let log = fetch(&emulator, "__emulator/log").await.text().await.unwrap();
    assert!(log.lines().next().unwrap().contains(r#""fault":"reset""#));
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted() {
    let latency = Latency { min: Duration::from_millis(100), max: Duration::from_millis(100) };
    let emulator = start(EmulatorConfig { latency, ..free_tier() }).await;
    let mut socket = TcpStream::connect(emulator.addr()).await.unwrap();
    socket.write_all(raw_request().as_bytes()).await.unwrap();
    while emulator.stats().max_in_flight == 0 {
        tokio::task::yield_now().await;
    }
    drop(socket);
    while emulator.stats().counts.accepted == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stopping_is_bounded_and_drops_calls_that_hang() {
    let emulator = start(free_tier()).await;
    emulator.inject([Fault::once(FaultKind::Hang { ms: 600_000 })]);
    let mut socket = TcpStream::connect(emulator.addr()).await.unwrap();
    socket.write_all(raw_request().as_bytes()).await.unwrap();
    while emulator.stats().counts.accepted == 0 {
        tokio::task::yield_now().await;
    }
    let addr = emulator.addr();
    emulator.stop().await;
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn impossible_configurations_are_refused() {
    let refused = async |config| Emulator::start(config).await.unwrap_err().to_string();
    let minute = Duration::from_micros(999);
    let problem = refused(EmulatorConfig { minute, ..free_tier() }).await;
    assert_eq!(problem, "a minute of 999µs is too short, the least is 1 ms");
    let latency = Latency { min: Duration::from_secs(2), max: Duration::from_secs(1) };
    assert!(refused(EmulatorConfig { latency, ..free_tier() }).await.contains("no range"));
    let first = start(free_tier()).await;
    let problem = refused(EmulatorConfig { listen: first.addr(), ..free_tier() }).await;
    assert_eq!(problem, format!("cannot listen on {}", first.addr()));
}

fn free_tier() -> EmulatorConfig {
    EmulatorConfig::new(Limits::free_tier_demo("k"))
}

async fn start(config: EmulatorConfig) -> Emulator {
    Emulator::start(config).await.unwrap()
}

fn prompt(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
}

fn client() -> reqwest::Client {
    // Fails when another test of this process has installed one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().no_gzip().build().unwrap()
}

async fn post(emulator: &Emulator, path: &str, body: &Value) -> reqwest::Response {
    let url = format!("{}/{path}", emulator.base_url());
    let request = client().post(url).header("x-goog-api-key", "k").body(body.to_string());
    request.send().await.unwrap()
}

async fn fetch(emulator: &Emulator, path: &str) -> reqwest::Response {
    let url = format!("{}/{path}", emulator.base_url());
    client().get(url).header("x-goog-api-key", "k").send().await.unwrap()
}

fn raw_request() -> String {
    let body = prompt("over a bare socket").to_string();
    format!(
        "POST /{FLASH} HTTP/1.1\r\nhost: e\r\nx-goog-api-key: k\r\ncontent-length: {}\r\n\r\n\
         {body}",
        body.len()
    )
}

/// Whatever the emulator sends until it ends the connection.
async fn raw_exchange(emulator: &Emulator) -> String {
    let mut socket = TcpStream::connect(emulator.addr()).await.unwrap();
    socket.write_all(raw_request().as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}
