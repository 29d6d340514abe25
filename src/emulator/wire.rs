//! Connections that can be dropped at will, and answers that can be damaged on their way.

use std::convert::Infallible;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::serve::IncomingStream;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::refusal::Refusal;

/// Most connections at one time; more wait in the backlog of the kernel.
const MAX_CONNECTIONS: usize = 1_024;

/// Accepts connections within the bound, each with a switch that drops it.
#[derive(Debug)]
pub(super) struct Listener {
    tcp: TcpListener,
    slots: Arc<Semaphore>,
    kill_all: CancellationToken,
}

impl Listener {
    /// `kill_all` drops every connection.
    pub(super) fn new(tcp: TcpListener, kill_all: CancellationToken) -> Self {
        Self { tcp, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)), kill_all }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.expect("nobody closes the semaphore");
        loop {
            match self.tcp.accept().await {
                Ok((tcp, peer)) => {
                    // Without it a small answer may wait for the acknowledgement of the one before.
                    let _ = tcp.set_nodelay(true);
                    let kill = self.kill_all.child_token();
                    let killed = Box::pin(kill.clone().cancelled_owned());
                    return (Connection { tcp, kill: KillSwitch(kill), killed, _slot: slot }, peer);
                }
                // Such as too many open files: it passes when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Drops a connection, with whatever was not yet sent over it.
#[derive(Clone, Debug)]
pub(super) struct KillSwitch(CancellationToken);

impl KillSwitch {
    pub(super) fn kill(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Listener>> for KillSwitch {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().kill.clone()
    }
}

/// A TCP connection that fails all its reads and writes once it is killed.
pub(super) struct Connection {
    tcp: TcpStream,
    kill: KillSwitch,
    /// Wakes a reader that waits for the client when the connection is killed.
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn check(&self) -> io::Result<()> {
        if self.kill.0.is_cancelled() { Err(dropped()) } else { Ok(()) }
    }
}

fn dropped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the emulator dropped the connection")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(dropped()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// How much of an answer's body arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// All of it, in one chunk of a chunked body.
    Whole,
    /// Half of it, then the connection ends without the last chunk.
    Cut,
    /// Half of what `content-length` promised, then the connection ends.
    Truncated,
}

/// An answer before it is put on the wire.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Headers of this answer alone.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Whether it has the headers that all of Google's answers have.
    pub(super) is_google: bool,
}

impl Reply {
    /// A JSON answer, printed the way the provider prints it.
    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: "application/json; charset=UTF-8",
            body: format!("{body:#}\n"),
            headers: Vec::new(),
            is_google: true,
        }
    }

    /// A JSON answer of OpenAI.
    pub(super) fn openai(status: u16, body: &serde_json::Value) -> Self {
        let content_type = "application/json";
        Self { content_type, is_google: false, ..Self::json(status, body) }
    }

    /// A refusal.
    pub(super) fn refusal(refusal: &Refusal) -> Self {
        let body = refusal.body();
        let Some(words) = refusal.words() else { return Self::json(refusal.code, &body) };
        let mut reply = Self::openai(refusal.code, &body);
        if let Some(wait_ms) = words.wait_ms {
            reply.headers.push(("retry-after", wait_ms.div_ceil(1_000).to_string()));
            reply.headers.push(("retry-after-ms", wait_ms.to_string()));
        }
        reply
    }

    /// Dresses the answer in the provider's headers. `took_ms` goes to `server-timing`.
    /// `date` is the emulator's clock.
    pub(super) fn deliver(
        self,
        gzip: bool,
        delivery: Delivery,
        took_ms: u64,
        date: DateTime<Utc>,
    ) -> Response {
        let body = if gzip { compress(self.body.as_bytes()) } else { self.body.into() };
        let length = body.len();
        let half = body.slice(..length / 2);
        let body = match delivery {
            Delivery::Whole => {
                Body::from_stream(stream::once(async move { Ok::<_, Infallible>(body) }))
            }
            Delivery::Cut | Delivery::Truncated => {
                let first = stream::once(async move { Ok(half) });
                let end = stream::once(async move {
                    // Lets the first half reach the socket before the connection ends.
                    tokio::task::yield_now().await;
                    Err::<Bytes, _>(dropped())
                });
                Body::from_stream(first.chain(end))
            }
        };
        let mut response = Response::new(body);
        let status = StatusCode::from_u16(self.status);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        let common = [
            (header::VARY, "Origin, X-Origin, Referer"),
            (header::SERVER, "scaffolding on HTTPServer2"),
            (header::X_XSS_PROTECTION, "0"),
            (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::ALT_SVC, "h3=\":443\"; ma=2592000"),
        ];
        for (name, value) in common.into_iter().filter(|_| self.is_google) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if delivery == Delivery::Truncated {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::from_str(&date) {
            headers.insert(header::DATE, date);
        }
        let timing = if self.is_google {
            ("server-timing", format!("gfet4t7; dur={took_ms}"))
        } else {
            ("openai-processing-ms", took_ms.to_string())
        };
        for (name, value) in self.headers.into_iter().chain([timing]) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = encoder.write_all(body).and_then(|()| encoder.finish());
    compressed.expect("writing to memory does not fail").into()
}
