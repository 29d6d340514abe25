//! Binding and serving, on TCP and on unix sockets.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;

use super::submit::Peer;
use super::{Api, guard, routes};
use crate::config::Listen;

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
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, removed when the daemon ends.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// The address, if it is TCP.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// Binds every address of the configuration.
///
/// # Errors
/// Names the address.
pub async fn bind(listen: &[Listen]) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for address in listen {
        let bound = match address {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path.clone()).await,
        };
        let named = |source| BindError::Address { address: address.to_string(), source };
        listeners.push(bound.map_err(named)?);
    }
    Ok(listeners)
}

async fn bind_unix(path: PathBuf) -> std::io::Result<Listener> {
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
    Ok(Listener::Unix(listener, path))
}

/// Serves the API on one address until told to stop, then lets open requests end.
pub async fn serve(listener: Listener, api: Api, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // Closed means the same as true.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let served = match listener {
        Listener::Tcp(listener) => {
            let port = listener.local_addr().ok().map(|address| address.port());
            let app = guard::guarded(routes::router(api.clone()), &api, port);
            let app = app.into_make_service_with_connect_info::<Peer>();
            axum::serve(listener, app).with_graceful_shutdown(stopped).await
        }
        Listener::Unix(listener, path) => {
            let app = guard::guarded(routes::router(api.clone()), &api, None);
            let app = app.into_make_service_with_connect_info::<Peer>();
            let served = axum::serve(listener, app).with_graceful_shutdown(stopped).await;
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
            served
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the API has ended");
    }
}
