//! Binding and serving, on TCP, with and without TLS, and on unix sockets.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use super::connection::Host;
use super::guard::{self, Door};
use super::submit::Peer;
use super::tls::{self, Identity, TlsError};
use super::{Api, routes};
use crate::caps;
use crate::clock;
use crate::config::{Listen, Server, Tls};
use crate::gate::units::BootMs;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it, or it is not ours.
    #[error("cannot listen on {address}: end what listens there, or give another --listen")]
    Address {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no certificate to show there.
    #[error("cannot speak TLS on {address}")]
    Tls {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: TlsError,
    },
}

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// With TLS: what it shows, and what it may be called.
    tls: Option<(Identity, Tls)>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// Removed when the daemon ends.
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream, Peer),
}

impl Listener {
    /// The address, if it is TCP.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What clients may call it; nothing for a unix socket.
    fn door(&self) -> Option<Door> {
        let address = self.tcp_addr()?;
        Some(match &self.tls {
            Some((_, tls)) => Door::new("https", address, &tls::names(tls)),
            None => Door::new("http", address, &[]),
        })
    }
}

/// Binds every address of the configuration. The state directory is there.
///
/// # Errors
/// Names the address.
pub async fn bind(server: &Server) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for address in &server.listen {
        let bound = match address {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Socket::Tcp),
            Listen::Unix(path) => bind_unix(path.clone()).await,
        };
        let named = |source| BindError::Address { address: address.to_string(), source };
        listeners.push(Listener { socket: bound.map_err(named)?, tls: None });
    }
    if let Some(tls) = &server.tls {
        let address = tls.listen;
        let identity = Identity::open(server, tls, clock::now().wall)
            .map_err(|source| BindError::Tls { address, source })?;
        let bound = TcpListener::bind(address)
            .await
            .map_err(|source| BindError::Address { address: address.to_string(), source })?;
        let tls = Some((identity, tls.clone()));
        listeners.push(Listener { socket: Socket::Tcp(bound), tls });
    }
    Ok(listeners)
}

async fn bind_unix(path: PathBuf) -> std::io::Result<Socket> {
    // A socket file that nobody answers on is left over from a run that was killed.
    if path.exists() {
        if UnixStream::connect(&path).await.is_ok() {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        if !std::fs::symlink_metadata(&path)?.file_type().is_socket() {
            return Err(std::io::ErrorKind::AlreadyExists.into());
        }
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(Socket::Unix(listener, path))
}

/// Serves the API on one address until told to stop, then lets open requests end. Dropped, it cuts
/// every connection.
pub async fn serve(listener: Listener, api: Api, mut stop: watch::Receiver<bool>) {
    let router = guard::guarded(routes::router(api.clone()), &api, listener.door());
    let Listener { socket, tls } = listener;
    let acceptor = match tls.as_ref().map(|(identity, _)| identity.config()).transpose() {
        Ok(config) => config.map(TlsAcceptor::from),
        Err(error) => {
            tracing::error!(%error, "TLS is not spoken");
            return;
        }
    };
    let host = Host::new(router, acceptor, stop.clone());
    let slots = Arc::new(Semaphore::new(connections_max()));
    let mut connections = JoinSet::new();
    let mut told = None;
    let mut renewal = tokio::time::interval(Duration::from_millis(caps::TLS_RENEWAL_MS));
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renewal.reset();
    loop {
        tell_if_full(&slots, &mut told);
        let accepted = async {
            // The rest waits in the backlog.
            let slot = slots.clone().acquire_owned().await;
            (slot, socket.accept().await)
        };
        tokio::select! {
            // Closed means the same as true.
            _ = stop.wait_for(|stop| *stop) => break,
            (slot, stream) = accepted => {
                let host = host.clone();
                connections.spawn(async move {
                    match stream {
                        Stream::Tcp(stream) => host.tcp(stream).await,
                        Stream::Unix(stream, peer) => host.run(stream, peer).await,
                    }
                    drop(slot);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = renewal.tick() => {
                if let Some((identity, _)) = &tls {
                    identity.renew(clock::now().wall);
                }
            }
        }
    }
    let left_over = socket.close();
    drop(host);
    while connections.join_next().await.is_some() {}
    if let Some(path) = left_over
        && let Err(error) = std::fs::remove_file(&path)
    {
        tracing::warn!(%error, "cannot remove {}", path.display());
    }
}

impl Socket {
    /// The next connection. Dropped, it loses none.
    async fn accept(&self) -> Stream {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().await.map(|(s, _)| Stream::Tcp(s)),
                Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                    let peer = stream.peer_cred().map_or(Peer::Unknown, |p| Peer::User(p.uid()));
                    Stream::Unix(stream, peer)
                }),
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections are not accepted for a second");
                    tokio::time::sleep(Duration::from_millis(caps::ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    /// Accepts nothing more; what is left is the file of a unix socket.
    fn close(self) -> Option<PathBuf> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, path) => Some(path),
        }
    }
}

/// Whether the next connection may be as good as any.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Connections of one listener: an eighth of the files that this process may have open, for each
/// may need one of the provider's too, and there are several listeners.
fn connections_max() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = caps::FILES_WANTED.min(limit.maximum.unwrap_or(u64::MAX));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(caps::FILES_WANTED);
    usize::try_from(files / 8).unwrap_or(usize::MAX).clamp(16, caps::CONNECTIONS_MAX)
}

fn tell_if_full(slots: &Semaphore, told: &mut Option<BootMs>) {
    if slots.available_permits() > 0 {
        return;
    }
    let now = clock::now().boot;
    if told.is_none_or(|at| now.0.saturating_sub(at.0) >= caps::FULL_TOLD_MS) {
        *told = Some(now);
        let max = connections_max();
        tracing::warn!(max, "every connection of a listener is taken: new ones wait");
    }
}
