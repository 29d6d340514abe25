//! Connections that can be dropped at will, and answers that can be damaged on their way.

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
use futures_util::stream::{self, Stream, StreamExt};
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
    /// Half of it, or of its pieces, then the connection ends without the last chunk.
    Cut,
    /// Half of what `content-length` promised, then the connection ends.
    Truncated,
}

/// An answer before it is put on the wire.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// The body, in the pieces in which it is sent; an answer that does not stream has one.
    pub(super) pieces: Vec<Bytes>,
    /// What passes before each piece of a stream but the first.
    pub(super) gap: Duration,
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
            pieces: vec![format!("{body:#}\n").into()],
            gap: Duration::ZERO,
            headers: Vec::new(),
            is_google: true,
        }
    }

    /// A good answer that is sent piece by piece.
    pub(super) fn stream(
        content_type: &'static str,
        pieces: impl IntoIterator<Item = String>,
        gap: Duration,
    ) -> Self {
        let pieces = pieces.into_iter().map(Bytes::from).collect();
        let (status, headers, is_google) = (200, Vec::new(), true);
        Self { status, content_type, pieces, gap, headers, is_google }
    }

    /// A file's content.
    pub(super) fn text(content: String) -> Self {
        let reply = Self::stream("text/plain", [content], Duration::ZERO);
        Self { content_type: "application/octet-stream", ..reply }
    }

    /// Whether it is sent in several pieces.
    pub(super) fn is_stream(&self) -> bool {
        self.pieces.len() > 1
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
        let is_stream = self.is_stream();
        let pieces = if gzip { compress(&self.pieces) } else { self.pieces };
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let body = match delivery {
            Delivery::Whole => Body::from_stream(paced(pieces, self.gap)),
            Delivery::Cut | Delivery::Truncated => {
                let end = stream::once(async move {
                    // Lets the first half reach the socket before the connection ends.
                    tokio::task::yield_now().await;
                    Err::<Bytes, _>(dropped())
                });
                Body::from_stream(paced(first_half(pieces), self.gap).chain(end))
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
        if delivery == Delivery::Truncated && !is_stream {
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

/// Sends piece after piece, each in a chunk of its own.
fn paced(pieces: Vec<Bytes>, gap: Duration) -> impl Stream<Item = Result<Bytes, io::Error>> {
    stream::iter(pieces.into_iter().enumerate()).then(move |(at, piece)| async move {
        if at > 0 && gap > Duration::ZERO {
            tokio::time::sleep(gap).await;
        } else if at > 0 {
            // Lets the piece before reach the socket alone.
            tokio::task::yield_now().await;
        }
        Ok(piece)
    })
}

/// Half of the pieces, or half of the only one.
fn first_half(mut pieces: Vec<Bytes>) -> Vec<Bytes> {
    let half = pieces.len() / 2;
    if half == 0 {
        return pieces.iter().map(|piece| piece.slice(..piece.len() / 2)).collect();
    }
    pieces.truncate(half);
    pieces
}

/// One gzip stream of all pieces; what was sent of it is enough to read the pieces sent.
fn compress(pieces: &[Bytes]) -> Vec<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut compressed: Vec<Bytes> = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let is_last = at + 1 == pieces.len();
        let written = encoder.write_all(piece);
        let written = written.and_then(|()| if is_last { Ok(()) } else { encoder.flush() });
        written.expect("writing to memory does not fail");
        if !is_last {
            compressed.push(std::mem::take(encoder.get_mut()).into());
        }
    }
    compressed.push(encoder.finish().expect("writing to memory does not fail").into());
    compressed
}
