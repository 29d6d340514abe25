#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::upstream::{RefusalClass, ThrottleKind};

mod count;
mod methods;

const KEY: &str = "AQ.canary-0123456789";
const PROMPT: &str = r#"{"contents":[{"parts":[{"text":"canary prompt"}]}]}"#;
const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"canary answer"}]},
    "finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":4,"totalTokenCount":4}}"#;

/// What a server does after its reply.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Hold,
}

/// Serves one connection: reads a whole request, writes `reply`. Gives the base URL and the
/// request's text.
async fn serve(reply: impl Into<Vec<u8>>, then: Then) -> (String, JoinHandle<String>) {
    let (listener, base_url) = listen().await;
    let reply = reply.into();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        // The client may have hung up on an answer that is too long.
        let _ = stream.write_all(&reply).await;
        match then {
            Then::Close => drop(stream),
            Then::Reset => stream.set_zero_linger().unwrap(),
            Then::Hold => {
                tokio::spawn(async move { hold(stream).await });
            }
        }
        request
    });
    (base_url, served)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    (listener, base_url)
}

async fn hold<T>(held: T) {
    std::future::pending::<()>().await;
    drop(held);
}

/// The head and a body of `content-length` bytes.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= header(head, "content-length").unwrap().parse().unwrap()
        {
            return text.into_owned();
        }
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the client hung up");
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn call(base_url: &str) -> Call {
    Call {
        base_url: base_url.into(),
        wire: Wire::Gemini,
        method: Method::GenerateContent,
        model: "gemini-3.6-flash".into(),
        key: KEY.into(),
        body: PROMPT.into(),
    }
}

fn client() -> Client {
    Client::new().unwrap()
}

fn client_with(change: impl FnOnce(&mut Timeouts)) -> Client {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Client::with_timeouts(timeouts).unwrap()
}

const SHORT: Duration = Duration::from_millis(200);

/// Makes the call and checks on the way that nothing secret can be printed.
async fn generate(client: &Client, call: Call) -> (Report, Vec<Progress>) {
    let debug = format!("{call:?} {client:?}");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = steps.clone();
    let report = client.send(call, move |step| told.lock().unwrap().push(step)).await;
    let debug = format!("{debug} {report:?}");
    assert!(!debug.contains("canary"), "{debug}");
    let steps = steps.lock().unwrap().clone();
    assert_eq!(report.body_sent, steps.contains(&Progress::BodySent));
    (report, steps)
}

fn unknown(report: &Report) -> &str {
    let Outcome::Unknown { reason } = &report.outcome else { panic!("{report:?}") };
    reason
}

fn not_sent(report: &Report) -> (NotSentKind, &str) {
    assert!(!report.body_sent);
    let Outcome::NotSent { reason, kind } = &report.outcome else { panic!("{report:?}") };
    (*kind, reason)
}

fn refused(report: &Report) -> &Refusal {
    let Outcome::Refused(refusal) = &report.outcome else { panic!("{report:?}") };
    refusal
}

#[tokio::test]
async fn an_answer() {
    let headers = "date: Sun, 22 Nov 2026 08:00:00 GMT\r\nx-gemini-service-tier: standard\r\n";
    let (base_url, served) = serve(reply("200 OK", headers, ANSWER), Then::Hold).await;
    let (report, steps) = generate(&client(), call(&format!("{base_url}/prefix/?key=x#y"))).await;

    let Outcome::Answered { body, usage, blocked, images } = report.outcome else {
        panic!("{report:?}")
    };
    assert_eq!(body, ANSWER);
    assert_eq!(usage.map(|usage| (usage.prompt, usage.total)), Some((4, 4)));
    assert_eq!((blocked, images), (None, 0));
    assert_eq!(report.status, Some(200));
    assert_eq!(report.date_header, Some(1_795_334_400));
    assert_eq!(report.service_tier.as_deref(), Some("standard"));
    assert_eq!(steps, [Progress::BodySent, Progress::Headers { status: 200 }]);

    let request = served.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, PROMPT);
    let line = "POST /prefix/v1beta/models/gemini-3.6-flash:generateContent HTTP/1.1";
    assert_eq!(head.lines().next(), Some(line));
    assert_eq!(header(head, "content-length"), Some(PROMPT.len().to_string().as_str()));
    assert_eq!(header(head, "transfer-encoding"), None);
    assert_eq!(header(head, "x-goog-api-key"), Some(KEY));
    assert_eq!(header(head, "authorization"), None);
    assert_eq!(header(head, "content-type"), Some("application/json"));
    assert_eq!(header(head, "accept-encoding"), Some("gzip"));
    assert_eq!(header(head, "user-agent"), Some(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn gzip_reply(status: &str, packed: &[u8]) -> Vec<u8> {
    let length = packed.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), packed].concat()
}

#[tokio::test]
async fn a_gzip_answer() {
    let (base_url, _) = serve(gzip_reply("200 OK", &gzip(ANSWER.as_bytes())), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    let Outcome::Answered { body, usage, .. } = report.outcome else { panic!("{report:?}") };
    assert_eq!(body, ANSWER);
    assert!(usage.is_some());
}

#[tokio::test]
async fn a_cut_gzip_answer_is_unknown() {
    let packed = gzip(ANSWER.as_bytes());
    let (base_url, _) = serve(gzip_reply("200 OK", &packed[..packed.len() / 2]), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    unknown(&report);
}

#[tokio::test]
async fn what_unpacks_without_end_is_bounded() {
    let bomb = gzip(&vec![b' '; ANSWER_BYTES_MAX + 1]);
    let (base_url, _) = serve(gzip_reply("200 OK", &bomb), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    assert_eq!(unknown(&report), "the answer is longer than 67108864 bytes");

    let (base_url, _) = serve(gzip_reply("429 Too Many Requests", &bomb), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    let throttled = RefusalClass::Throttled(ThrottleKind::Unexplained);
    assert_eq!(refused(&report).class, throttled);
}

#[tokio::test]
async fn a_refusal() {
    let body = include_str!("../corpus/429-b-free-day.json");
    let (base_url, _) = serve(reply("429 Too Many Requests", "", body), Then::Hold).await;
    let (report, steps) = generate(&client(), call(&base_url)).await;
    let refusal = refused(&report);
    assert_eq!(refusal.class, RefusalClass::Throttled(ThrottleKind::PerDay));
    assert_eq!(refusal.quota[0].value, Some(20));
    assert_eq!(report.status, Some(429));
    assert_eq!(steps, [Progress::BodySent, Progress::Headers { status: 429 }]);
}

#[tokio::test]
async fn a_refusal_stays_one_when_its_body_is_cut() {
    let head = "HTTP/1.1 503 Unavailable\r\ncontent-length: 900\r\n\r\n{\"error\":";
    for then in [Then::Close, Then::Hold] {
        let (base_url, _) = serve(head, then).await;
        let client = client_with(|timeouts| timeouts.idle = SHORT);
        let (report, _) = generate(&client, call(&base_url)).await;
        assert_eq!(refused(&report).class, RefusalClass::Server);
    }
}

#[tokio::test]
async fn a_refusal_that_quotes_the_key() {
    let message = format!("Permission denied: Consumer 'api_key:{KEY}' has been suspended.");
    let body = json!({"error": {"code": 403, "message": message}}).to_string();
    let (base_url, _) = serve(reply("403 Forbidden", "", &body), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    let refusal = refused(&report);
    assert_eq!(refusal.message, "Permission denied: Consumer 'api_key:[key]' has been suspended.");
    assert_eq!(refusal.class, RefusalClass::KeyRefused);
    assert!(!String::from_utf8_lossy(&refusal.body).contains(KEY));
}

#[tokio::test]
async fn an_error_document_with_a_success_status_is_a_refusal() {
    let body = json!({"error": {"code": 503, "message": "overloaded"}}).to_string();
    let (base_url, _) = serve(reply("200 OK", "", &body), Then::Hold).await;
    let (report, _) = generate(&client(), call(&base_url)).await;
    assert_eq!(refused(&report).status, 503);
    assert_eq!(refused(&report).class, RefusalClass::Server);
    assert_eq!(report.status, Some(200));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [302, 303, 307] {
        let (elsewhere, visited) = serve(reply("200 OK", "", ANSWER), Then::Hold).await;
        let headers = format!("location: {elsewhere}/\r\n");
        let (base_url, _) =
            serve(reply(&format!("{status} Moved"), &headers, ""), Then::Hold).await;
        let (report, _) = generate(&client(), call(&base_url)).await;
        assert_eq!(refused(&report).class, RefusalClass::Other);
        assert_eq!(report.status, Some(status));
        assert!(!visited.is_finished());
    }
}

#[tokio::test]
async fn a_refused_connection_sends_nothing() {
    let (listener, base_url) = listen().await;
    drop(listener);
    let (report, steps) = generate(&client(), call(&base_url)).await;
    let (kind, reason) = not_sent(&report);
    assert_eq!(kind, NotSentKind::Connect);
    assert!(reason.contains("refused"), "{reason}");
    assert_eq!((report.status, steps.len()), (None, 0));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sends_nothing() {
    struct Nowhere;
    impl reqwest::dns::Resolve for Nowhere {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err("no such name".into()) })
        }
    }
    let timeouts = Timeouts::default();
    let http = builder(timeouts).dns_resolver(Arc::new(Nowhere)).build().unwrap();
    let client = Client { http, timeouts };
    let (report, _) = generate(&client, call("https://canary.invalid")).await;
    let (kind, reason) = not_sent(&report);
    assert_eq!(kind, NotSentKind::Dns);
    assert!(reason.contains("no such name"), "{reason}");
}

#[tokio::test]
async fn a_failed_handshake_sends_nothing() {
    let (listener, base_url) = listen().await;
    let base_url = base_url.replace("http:", "https:");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        hold(stream).await;
    });
    let (report, _) = generate(&client(), call(&base_url)).await;
    assert_eq!(not_sent(&report).0, NotSentKind::Tls);
}

#[tokio::test]
async fn a_handshake_without_end_sends_nothing() {
    let (listener, base_url) = listen().await;
    let base_url = base_url.replace("http:", "https:");
    let client = client_with(|timeouts| timeouts.connect = SHORT);
    let (report, _) = generate(&client, call(&base_url)).await;
    assert_eq!(not_sent(&report).0, NotSentKind::Connect);

    let client = client_with(|timeouts| timeouts.whole = SHORT);
    let (report, _) = generate(&client, call(&base_url)).await;
    assert_eq!(
        not_sent(&report),
        (NotSentKind::Other, "a complete answer did not come within 200ms")
    );
    drop(listener);
}

#[tokio::test]
async fn an_unusable_call_sends_nothing() {
    let (listener, base_url) = listen().await;
    for call in [
        call("canary"),
        call("ftp://127.0.0.1/canary"),
        Call { key: "canary\n".into(), ..call(&base_url) },
        Call { body: Bytes::new(), ..call(&base_url) },
    ] {
        let (report, steps) = generate(&client(), call).await;
        assert_eq!(not_sent(&report).0, NotSentKind::Other);
        assert!(steps.is_empty());
    }
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn an_end_before_the_head_is_unknown() {
    for (reply, then) in [
        ("", Then::Close),
        ("", Then::Reset),
        ("HTTP/1.1 200 OK\r\ncontent-le", Then::Close),
        ("not HTTP at all\r\n\r\n", Then::Hold),
    ] {
        let (base_url, _) = serve(reply, then).await;
        let (report, steps) = generate(&client(), call(&base_url)).await;
        unknown(&report);
        assert_eq!((report.status, steps), (None, vec![Progress::BodySent]));
    }
}

#[tokio::test]
async fn an_incomplete_answer_is_unknown() {
    let (shorter, longer) = (ANSWER.len() - 1, ANSWER.len() + 1);
    let chunk = ANSWER.len();
    for (reply, then) in [
        (format!("content-length: {longer}\r\n\r\n{ANSWER}"), Then::Close),
        (format!("content-length: {longer}\r\n\r\n{ANSWER}"), Then::Reset),
        (format!("content-length: {shorter}\r\n\r\n{ANSWER}"), Then::Close),
        (format!("transfer-encoding: chunked\r\n\r\n{chunk:x}\r\n{ANSWER}\r\n"), Then::Close),
        (format!("connection: close\r\n\r\n{}", &ANSWER[..shorter]), Then::Close),
        ("content-length: 0\r\n\r\n".to_owned(), Then::Close),
        ("content-length: 6\r\n\r\n<html>".to_owned(), Then::Close),
    ] {
        let (base_url, _) = serve(format!("HTTP/1.1 200 OK\r\n{reply}"), then).await;
        let (report, steps) = generate(&client(), call(&base_url)).await;
        unknown(&report);
        assert_eq!(report.status, Some(200));
        assert_eq!(steps, [Progress::BodySent, Progress::Headers { status: 200 }]);
    }
}

#[tokio::test]
async fn each_phase_ends() {
    async fn check(reply: &str, timeouts: Timeouts, what: &str) {
        let (base_url, _) = serve(reply, Then::Hold).await;
        let client = Client::with_timeouts(timeouts).unwrap();
        let (report, _) = generate(&client, call(&base_url)).await;
        assert_eq!(unknown(&report), format!("{what} did not come within 200ms"));
    }
    let half = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{", ANSWER.len());
    let brief = Timeouts { headers: SHORT, ..Timeouts::default() };
    check("", brief, "the head of an answer").await;
    let brief = Timeouts { idle: SHORT, ..Timeouts::default() };
    check(&half, brief, "the next part of the answer").await;
    let brief = Timeouts { whole: SHORT, ..Timeouts::default() };
    check(&half, brief, "a complete answer").await;
}

#[tokio::test]
async fn a_large_body_is_sent_whole() {
    let (base_url, served) = serve(reply("200 OK", "", ANSWER), Then::Hold).await;
    let body = "x".repeat(300 << 10);
    let (report, steps) =
        generate(&client(), Call { body: body.clone().into(), ..call(&base_url) }).await;
    assert!(matches!(report.outcome, Outcome::Answered { .. }), "{report:?}");
    assert_eq!(steps, [Progress::BodySent, Progress::Headers { status: 200 }]);
    let request = served.await.unwrap();
    assert!(request.ends_with(&body));
    assert!(request.to_lowercase().contains(&format!("content-length: {}\r\n", body.len())));
}

/// More than all socket buffers hold: its end is not reached, but some of it left.
#[tokio::test]
async fn a_body_that_nobody_reads_is_not_sent_and_not_unsent() {
    let (listener, base_url) = listen().await;
    let client = client_with(|timeouts| timeouts.headers = SHORT);
    let body = Bytes::from(vec![b'x'; 64 << 20]);
    let (report, steps) = generate(&client, Call { body, ..call(&base_url) }).await;
    unknown(&report);
    assert!(!report.body_sent);
    assert!(steps.is_empty());
    drop(listener);
}

/// Each connection answers one request and closes without a word on the second, which is then in
/// doubt and not sent again.
#[tokio::test]
async fn a_kept_connection_that_closes_leaves_one_request_in_doubt() {
    let (listener, base_url) = listen().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                read_request(&mut stream).await;
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(reply("200 OK", "", ANSWER).as_bytes()).await.unwrap();
                read_request(&mut stream).await;
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let client = client();
    // A connection returns to the pool in its own time, so an early call may open another one.
    for calls in 1..=100 {
        let (report, steps) = generate(&client, call(&base_url)).await;
        assert_eq!(seen.load(Ordering::SeqCst), calls);
        if matches!(report.outcome, Outcome::Answered { .. }) {
            continue;
        }
        unknown(&report);
        assert_eq!(steps, [Progress::BodySent]);
        return;
    }
    panic!("no connection was used twice");
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_body() {
    let (listener, base_url) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 1_000]).await.unwrap();
        stream.write_all(reply("413 Too Large", "", "").as_bytes()).await.unwrap();
        hold(stream).await;
    });
    let body = Bytes::from(vec![b'x'; 64 << 20]);
    let (report, steps) = generate(&client(), Call { body, ..call(&base_url) }).await;
    assert_eq!(refused(&report).class, RefusalClass::BadRequest);
    assert_eq!(steps, [Progress::Headers { status: 413 }]);
}

/// Runs another test in a process that finds no certificates.
#[test]
fn no_system_certificates_are_needed() {
    let name = "upstream::client::tests::a_refused_connection_sends_nothing";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn the_first_of_sending_and_revoking_wins() {
    let silent: OnProgress = Arc::new(|_| ());
    let frame = |body: &mut Watched| {
        use http_body_util::BodyExt;
        body.frame().now_or_never().unwrap()
    };
    let custody = Arc::new(Custody::default());
    let mut body = Watched::new(PROMPT.into(), custody.clone(), silent.clone());
    assert!(custody.revoke());
    assert!(frame(&mut body).unwrap().is_err());
    assert!(!custody.is_sent());

    let custody = Arc::new(Custody::default());
    let mut body = Watched::new(vec![0; 20_000].into(), custody.clone(), silent);
    assert!(frame(&mut body).unwrap().is_ok());
    assert!(!custody.revoke());
    assert!(!custody.is_sent());
    assert!(frame(&mut body).unwrap().is_ok());
    assert!(custody.is_sent());
    assert!(frame(&mut body).is_none());
}
