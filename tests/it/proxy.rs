//! Calls of SDKs through the daemon: forwarded as they are, held in order, refused in the
//! provider's own shape, and written down.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tidegate::emulator::{Emulator, Fault, FaultKind, WindowKind};
use tokio::task::JoinHandle;

use crate::harness::{self, Daemon, KEY, MODEL, Site, calls, model, project, window};

/// A client that keeps no connection: each call is one that comes by itself.
fn client() -> Client {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("http://{}{path}", daemon.address())
}

fn generate(base: &str) -> RequestBuilder {
    ask(base, "hello")
}

fn ask(base: &str, text: &str) -> RequestBuilder {
    let body = json!({"contents": [{"role": "user", "parts": [{"text": text}]}]});
    client().post(format!("{base}/v1beta/models/{MODEL}:generateContent")).json(&body)
}

fn header(response: &Response, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().unwrap().to_owned())
}

fn attempt(response: &Response) -> i64 {
    header(response, "x-tidegate-attempt").expect("an attempt").parse().unwrap()
}

async fn site(emulator: &Emulator, limits: &str) -> (Site, Daemon) {
    let site = Site::new(&project("demo", &format!("http://{}", emulator.addr()), limits));
    let daemon = site.serve().await;
    (site, daemon)
}

/// Sends a call, and returns once it is held.
async fn hold(site: &Site, daemon: &Daemon, call: RequestBuilder) -> JoinHandle<Response> {
    let before = held(daemon).await;
    let sent = tokio::spawn(async move { call.send().await.unwrap() });
    site.until("the call is held", async || (held(daemon).await > before).then_some(())).await;
    sent
}

/// Waits until no attempt is open.
async fn settled(site: &Site) {
    site.until("every call is settled", async || {
        let rows = site.reader().attempts(1_000).await.unwrap();
        rows.iter().all(|row| row.state != 0).then_some(())
    })
    .await;
}

async fn held(daemon: &Daemon) -> u64 {
    daemon.bucket(MODEL).await["held"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn a_call_passes_as_it_is_and_is_written_down() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, "").await;
    let direct = format!("http://{}", emulator.addr());
    let direct = generate(&direct).header("x-goog-api-key", KEY).send().await.unwrap();
    let through = generate(&url(&daemon, ""))
        .header("x-goog-api-key", "what the client has")
        .header("user-agent", "google-genai-sdk/3.4.0 gl-python/3.11.7")
        .send()
        .await
        .unwrap();
    assert_eq!((direct.status(), through.status()), (through.status(), direct.status()));
    let names = |response: &Response| {
        let own = |name: &&str| !name.starts_with("x-tidegate-");
        let mut names: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
        names.retain(|name| own(&name.as_str()));
        names.sort();
        names
    };
    assert_eq!(names(&direct), names(&through));
    assert_eq!(attempt(&through), 1);
    let mut answers: Vec<Value> = vec![direct.json().await.unwrap(), through.json().await.unwrap()];
    for answer in &mut answers {
        answer["responseId"] = Value::Null;
    }
    assert_eq!(answers[0], answers[1]);
    settled(&site).await;
    let usage = site.usage().await;
    let counted = &answers[1]["usageMetadata"];
    assert_eq!(json!(usage.input_tokens), counted["promptTokenCount"]);
    assert_eq!(json!(usage.output_tokens), counted["candidatesTokenCount"]);
    assert_eq!(json!(usage.total_tokens), counted["totalTokenCount"]);
    let rows = site.reader().attempts(10).await.unwrap();
    let row = &rows[0];
    assert_eq!(row.client.as_deref(), Some("google-genai-sdk/3.4.0 gl-python/3.11.7"));
    assert_eq!(row.peer.as_deref(), Some("127.0.0.1"));
    assert_eq!(row.method.as_deref(), Some("generateContent"));
    assert_eq!((row.source, row.tenant.as_str()), (1, "proxy"));
    daemon.stop(&site).await;
    assert!(!site.logs().contains("what the client has"));
}

#[tokio::test]
async fn calls_are_held_and_go_in_the_order_in_which_they_came() {
    let emulator = harness::strict_emulator(WindowKind::Sliding, 3, 2).await;
    let (site, daemon) = site(&emulator, &window(3, 2)).await;
    let base = url(&daemon, "");
    let patient = || generate(&base).header("x-tidegate-max-wait", "40s");
    for _ in 0..3 {
        assert_eq!(patient().send().await.unwrap().status(), 200);
    }
    let mut waiting = Vec::new();
    for _ in 0..7 {
        // The first of them may go while the last comes, so a batch of them is looked at.
        waiting.push(tokio::spawn(patient().send()));
        let sent = waiting.len();
        site.until("it has come", async || {
            let rows = site.reader().attempts(100).await.unwrap().len();
            let come = usize::try_from(held(&daemon).await).unwrap() + rows;
            (come >= 3 + sent).then_some(())
        })
        .await;
    }
    let mut ids = Vec::new();
    for call in waiting {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        ids.push(attempt(&response));
    }
    assert!(ids.is_sorted(), "{ids:?}");
    let refused = calls(&emulator).await.iter().filter(|call| call["status"] == 429).count();
    assert_eq!(refused, 0);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_call_that_waits_too_long_is_refused_with_the_earliest_time() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, &window(1, 59)).await;
    let base = url(&daemon, "");
    assert_eq!(generate(&base).send().await.unwrap().status(), 200);
    let late = generate(&base).header("x-tidegate-max-wait", "0").send().await.unwrap();
    assert_eq!(late.status(), 429);
    let wait: u64 = header(&late, "retry-after").unwrap().parse().unwrap();
    assert!((50..=64).contains(&wait), "{wait}");
    let body: Value = late.json().await.unwrap();
    assert_eq!(body["error"]["status"], "RESOURCE_EXHAUSTED");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("requests: needs 1, 0 of 1 free"), "{message}");
    let delay = body["error"]["details"][1]["retryDelay"].as_str().unwrap();
    let delay: f64 = delay.trim_end_matches('s').parse().unwrap();
    assert!(delay.ceil() <= f64::from(u32::try_from(wait).unwrap()), "{delay} {wait}");

    // The second of two that wait can go a whole window after the first.
    let first = generate(&base).header("x-tidegate-max-wait", "500s");
    let first = hold(&site, &daemon, first).await;
    let second = generate(&base).header("x-tidegate-max-wait", "0").send().await.unwrap();
    let later: u64 = header(&second, "retry-after").unwrap().parse().unwrap();
    assert!(later >= wait + 55 && later <= wait + 70, "{wait} {later}");

    // Its own time is over before that which it is held by default.
    let soon = generate(&base).header("x-server-timeout", "3").send().await.unwrap();
    assert_eq!(soon.status(), 429);
    let waited: u64 = header(&soon, "x-tidegate-waited-ms").unwrap().parse().unwrap();
    assert!(waited >= 1_000, "{waited}");
    assert_eq!(calls(&emulator).await.len(), 1);
    first.abort();
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_at_once() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, &window(1, 3)).await;
    let base = url(&daemon, "");
    assert_eq!(generate(&base).send().await.unwrap().status(), 200);
    let patient = || generate(&base).header("x-tidegate-max-wait", "60s");
    let leaves = hold(&site, &daemon, patient()).await;
    let stays = hold(&site, &daemon, patient()).await;
    leaves.abort();
    site.until("one is left", async || (held(&daemon).await == 1).then_some(())).await;
    let stays = stays.await.unwrap();
    assert_eq!((stays.status().as_u16(), attempt(&stays)), (200, 2));
    settled(&site).await;
    assert_eq!(calls(&emulator).await.len(), 2);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_a_doubt() {
    let emulator = harness::start_emulator(&model(""), |config| {
        config.latency = harness::latency(60_000, 60_000);
    })
    .await;
    let (site, daemon) = site(&emulator, "").await;
    let base = url(&daemon, "");
    let call = generate(&base);
    let leaves = tokio::spawn(async move { call.send().await });
    site.until("it is with the provider", async || {
        (emulator.stats().max_in_flight > 0).then_some(())
    })
    .await;
    leaves.abort();
    settled(&site).await;
    let row = site.reader().attempts(1).await.unwrap().remove(0);
    assert_eq!(row.state, 5, "it may have been counted: {row:?}");
    assert!(row.input_tokens > 0, "and counts as it was estimated: {row:?}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn in_shadow_mode_nobody_is_held() {
    let emulator = harness::emulator(&model("")).await;
    let site = Site::new(&project("demo", &format!("http://{}", emulator.addr()), &window(1, 59)));
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("{text}\n[proxy]\nshadow = true\n")).unwrap();
    let daemon = site.serve().await;
    let base = url(&daemon, "");
    for n in 0..3 {
        let response = generate(&base).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let would = header(&response, "x-tidegate-would-wait-ms");
        assert_eq!(would.is_some(), n > 0, "{would:?}");
    }
    settled(&site).await;
    assert_eq!(site.usage().await.attempts, 3);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn each_dialect_is_refused_in_its_own_words() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, "").await;
    let post = async |path: &str, body: Value| {
        let response = client().post(url(&daemon, path)).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, body) = post("/v1beta/openai/chat/completions", json!({"messages": []})).await;
    assert_eq!(status, 400);
    assert!(body[0]["error"]["message"].as_str().unwrap().contains("names no model"), "{body}");
    let (status, body) = post("/openai/v1/chat/completions", json!({"messages": []})).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")));
    let (status, body) = post("/v1/interactions", json!({"input": "a"})).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_request")));
    let (status, body) =
        post(&format!("/p/nobody/v1/models/{MODEL}:generateContent"), json!({})).await;
    assert_eq!((status, &body["error"]["status"]), (404, &json!("NOT_FOUND")));
    let wrong = generate(&url(&daemon, "")).header("x-tidegate-max-wait", "soon");
    assert_eq!(wrong.send().await.unwrap().status(), 400);
    let (status, body) = daemon.get("/v2/models").await;
    assert_eq!((status, &body["title"]), (404, &json!("Not Found")));
    assert_eq!(calls(&emulator).await.len(), 0);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_the_provider_refuses_for_its_quota_is_tried_again_in_time() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, "").await;
    let base = url(&daemon, "");
    emulator.inject([Fault::repeated(FaultKind::BareQuota, 1)]);
    // One that does not wait gets the provider's own words.
    let at_once = generate(&base).header("x-tidegate-max-wait", "0").send().await.unwrap();
    assert_eq!(at_once.status(), 429);
    let body: Value = at_once.json().await.unwrap();
    assert_eq!(body["error"]["message"], "Resource has been exhausted (e.g. check quota).");
    emulator.inject([Fault::repeated(FaultKind::BareQuota, 1)]);
    let patient = generate(&base).header("x-tidegate-max-wait", "45s").send().await.unwrap();
    assert_eq!((patient.status().as_u16(), attempt(&patient)), (200, 3));
    settled(&site).await;
    assert_eq!(site.usage().await.throttled, 2);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_waited_for() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let site = Site::new(&project("demo", &format!("http://{address}"), ""));
    let daemon = site.serve().await;
    let response = generate(&url(&daemon, "")).header("x-tidegate-max-wait", "1").send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("the endpoint cannot be reached"), "{message}");
    settled(&site).await;
    assert_eq!(site.usage().await.attempts, 0, "nothing was sent");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_left_is_in_the_ledger_also_after_a_kill() {
    let emulator = harness::start_emulator(&model(""), |config| {
        config.latency = harness::latency(0, 30);
    })
    .await;
    let (site, daemon) = site(&emulator, "").await;
    let base = url(&daemon, "");
    let callers: Vec<_> =
        (0..40).map(|n| tokio::spawn(ask(&base, &format!("call {n}")).send())).collect();
    site.until("some are under way", async || (calls(&emulator).await.len() > 5).then_some(()))
        .await;
    daemon.kill();
    for caller in callers {
        let _ = caller.await.unwrap();
    }
    let seen = calls(&emulator).await.len();
    let rows = site.reader().attempts(100).await.unwrap().len();
    assert!(rows >= seen, "the provider saw {seen}, the ledger has {rows}");
    let daemon = site.serve().await;
    settled(&site).await;
    let (status, _) = daemon.get("/readyz").await;
    assert_eq!(status, 200);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, "").await;
    let address = daemon.address();
    let length = (64_u64 << 20) + 1;
    let request = format!(
        "POST /v1/models/{MODEL}:generateContent HTTP/1.0\r\nHost: {address}\r\nContent-Length: \
         {length}\r\n\r\n"
    );
    let (status, body) = harness::http(address, &request).await;
    assert_eq!(status, 413);
    assert!(body.contains("64 MiB"), "{body}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_stop_sends_those_away_who_wait() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, &window(1, 59)).await;
    let base = url(&daemon, "");
    assert_eq!(generate(&base).send().await.unwrap().status(), 200);
    let patient = generate(&base).header("x-tidegate-max-wait", "500s");
    let waits = hold(&site, &daemon, patient).await;
    daemon.stop(&site).await;
    let answer = waits.await.unwrap();
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["message"], "tidegate: the daemon is stopping");
}

#[tokio::test]
async fn calls_go_before_a_batch() {
    let emulator = harness::emulator(&model("")).await;
    let (site, daemon) = site(&emulator, &window(4, 2)).await;
    site.drop_file("long.jsonl", harness::job("long", 40));
    site.batch("it runs", |batch| batch.succeeded >= 4).await;
    let base = url(&daemon, "");
    let mut waited = Vec::new();
    for _ in 0..3 {
        let call = generate(&base).header("x-tidegate-max-wait", "40s");
        let response = tokio::time::timeout(Duration::from_secs(45), call.send()).await;
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        waited.push(header(&response, "x-tidegate-waited-ms").unwrap());
    }
    // Forty prompts take twenty seconds; who waits for an answer does not wait for them.
    let batch = site.batch("it goes on", |_| true).await;
    assert!(batch.succeeded < 36, "{waited:?}");
    daemon.stop(&site).await;
}
