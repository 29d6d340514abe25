//! The two ends that the daemon is measured between, each a process of its own: the fixed upstream,
//! and a forwarder that does nothing but forward.

#![expect(clippy::print_stdout, reason = "a server says where it listens")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// About 400 bytes.
const GEMINI: &str = concat!(
    r#"{"candidates":[{"content":{"parts":[{"text":"The Ebb is a river that runs into the sea; "#,
    r#"it is about forty miles long and has its mouth to the west."}],"role":"model"},"#,
    r#""finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":68,"#,
    r#""candidatesTokenCount":26,"totalTokenCount":94,"promptTokensDetails":[{"modality":"TEXT","#,
    r#""tokenCount":68}]},"modelVersion":"bench-model","responseId":"bench-response-0001"}"#
);

/// The same in OpenAI's dialect, which is what other gateways are asked in.
const OPENAI: &str = concat!(
    r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"#,
    r#""model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","content":"#,
    r#""The Ebb is a river that runs into the sea; it is about forty miles long and has its "#,
    r#"mouth to the west."},"finish_reason":"stop"}],"usage":{"prompt_tokens":68,"#,
    r#""completion_tokens":26,"total_tokens":94}}"#
);

/// Events of a streamed answer.
pub(crate) const EVENTS: usize = 200;

const EVENT: &str = concat!(
    r#"data: {"candidates":[{"content":{"parts":[{"text":"forty miles "}],"role":"model"},"#,
    r#""index":0}],"usageMetadata":{"promptTokenCount":68,"candidatesTokenCount":26,"#,
    r#""totalTokenCount":94}}"#,
    "\r\n\r\n"
);

/// Answers everything alike, after a time.
pub(crate) async fn upstream(delay: Duration) -> Result<()> {
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| answer(request, delay));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    delay: Duration,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let path = head.uri.path();
    let (kind, body) = if path.ends_with("streamGenerateContent") {
        let events = futures_util::stream::unfold(0, |sent| async move {
            // So that each event is written by itself.
            tokio::task::yield_now().await;
            let event = Frame::data(Bytes::from_static(EVENT.as_bytes()));
            (sent < EVENTS).then_some((Ok::<_, Infallible>(event), sent + 1))
        });
        ("text/event-stream", StreamBody::new(events).boxed_unsync())
    } else {
        let text = if path.ends_with("/chat/completions") { OPENAI } else { GEMINI };
        ("application/json; charset=UTF-8", Full::from(text).boxed_unsync())
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Forwards everything to one address.
pub(crate) async fn forwarder(to: SocketAddr) -> Result<()> {
    let listener = listen().await?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        let service = service_fn(move |request| forward(request, client.clone(), to));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn forward(
    mut request: Request<Incoming>,
    client: Client<HttpConnector, Incoming>,
    to: SocketAddr,
) -> Result<Response<Incoming>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(to.to_string()).path_and_query(path).build()?;
    request.headers_mut().remove(HOST);
    Ok(client.request(request).await?)
}

/// Says where, for whoever has started this.
async fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}
