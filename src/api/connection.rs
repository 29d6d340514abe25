//! One connection from its start to its end: the handshake, HTTP/1.1 or HTTP/2, and how long a
//! client may take.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::submit::Peer;
use crate::caps;

/// What is said to a client that speaks plain HTTP where TLS is spoken.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\nContent-Length: 44\r\n\r\nthis address speaks TLS: ask it by https://\n";

/// What the connections of one listener have in common. Cheap to clone.
#[derive(Clone)]
pub(super) struct Host {
    router: Router,
    tls: Option<TlsAcceptor>,
    http: Arc<auto::Builder<TokioExecutor>>,
    stop: watch::Receiver<bool>,
}

impl Host {
    pub(super) fn new(
        router: Router,
        tls: Option<TlsAcceptor>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(caps::IDLE_MS))
            .max_buf_size(caps::HEAD_MAX_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .max_header_list_size(caps::HEAD_MAX_BYTES_H2)
            .max_concurrent_streams(caps::STREAMS_MAX)
            .keep_alive_interval(Duration::from_millis(caps::PING_MS))
            .keep_alive_timeout(Duration::from_millis(caps::PING_MS));
        Self { router, tls, http: Arc::new(http), stop }
    }

    /// Serves a TCP connection until its end.
    pub(super) async fn tcp(self, stream: TcpStream) {
        // Streamed answers come in small pieces, which must not wait for one another.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
        let peer = stream.peer_addr().map_or(Peer::Unknown, |peer| Peer::Address(peer.ip()));
        let Some(acceptor) = self.tls.clone() else {
            return self.run(stream, peer).await;
        };
        let mut stop = self.stop.clone();
        let shaken = tokio::time::timeout(
            Duration::from_millis(caps::HANDSHAKE_MS),
            handshake(&acceptor, stream),
        );
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match shaken {
            Ok(Ok(Some(stream))) => self.run(stream, peer).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake has failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    /// Serves a connection until its end: at the stop of the daemon once its open requests are
    /// answered, and before, if no request comes in time.
    pub(super) async fn run(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
    ) {
        let asked = Arc::new(AtomicBool::new(false));
        let (inner, asked_there) = (TowerToHyperService::new(self.router), asked.clone());
        let over_tls = OverTls(self.tls.is_some());
        let service = Entry { inner, peer, over_tls, asked: asked_there };
        let mut connection =
            pin!(self.http.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut stop = self.stop;
        let mut first = pin!(tokio::time::sleep(Duration::from_millis(caps::FIRST_REQUEST_MS)));
        let (mut waiting, mut stopping) = (true, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection has broken off");
                    }
                    return;
                }
                () = first.as_mut(), if waiting => {
                    waiting = false;
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
                // Closed means the same as true.
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    // Else whoever sends a header slowly would hold the stop.
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The router, with who asks, and a note that somebody did.
struct Entry {
    inner: TowerToHyperService<Router>,
    peer: Peer,
    over_tls: OverTls,
    asked: Arc<AtomicBool>,
}

/// Whether a request came over TLS.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverTls(pub(super) bool);

impl Service<Request<Incoming>> for Entry {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(self.over_tls);
        self.inner.call(request)
    }
}

/// The stream behind the handshake; nothing where plain HTTP came, which is told so.
async fn handshake(
    acceptor: &TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<Option<tokio_rustls::server::TlsStream<TcpStream>>> {
    let mut first = [0];
    // Every handshake starts with the record type 22, every method of HTTP with a capital letter.
    if stream.peek(&mut first).await? == 1 && first.iter().all(u8::is_ascii_uppercase) {
        stream.write_all(PLAIN_ANSWER).await?;
        stream.shutdown().await?;
        // Closed on unread bytes, the answer would be lost.
        let (mut taken, mut bytes) = (0, [0; 4096]);
        while taken < caps::HEAD_MAX_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                read => taken += read,
            }
        }
        return Ok(None);
    }
    acceptor.accept(stream).await.map(Some)
}
