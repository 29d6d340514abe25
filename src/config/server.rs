//! Where the daemon listens and keeps its files.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::{Config, ConfigError};

/// The longest path of a unix socket (`sun_path` less its terminator).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where to listen and where to keep state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// At least one, all different; TCP ones are loopback addresses.
    pub listen: Vec<Listen>,
    /// Where TLS is spoken, if anywhere.
    pub tls: Option<Tls>,
    /// The ledger and the queue; absolute.
    pub state_dir: PathBuf,
    /// The spool; absolute.
    pub spool_dir: PathBuf,
    /// What clients must show, if anything.
    pub auth: Option<Auth>,
}

impl Server {
    /// Where the daemon's own CA keeps its certificate and its key.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.state_dir.join("tls")
    }

    /// What clients are to trust, where the certificate is not the operator's.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.ca_dir().join("ca.pem")
    }
}

/// Where TLS is spoken, and what with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Beyond loopback only with `server.auth`.
    pub listen: SocketAddr,
    /// The certificate of the operator; unset: one of the daemon's own CA in the state directory.
    pub own: Option<OwnCertificate>,
    /// What clients may call the daemon besides its loopback names: DNS names in lower case, and
    /// addresses.
    pub names: Vec<String>,
}

/// A certificate that somebody else keeps; PEM files, absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, then those that lead to the root.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// What clients must show.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Where the token was read.
    pub token_file: PathBuf,
    /// The bearer token.
    pub token: SecretString,
}

impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        self.token_file == other.token_file
            && self.token.expose_secret() == other.token.expose_secret()
    }
}

impl Eq for Auth {}

impl Auth {
    /// Whether `given` is the token. Hashes are compared in full, so the time taken says
    /// nothing of it, nor of its length.
    #[must_use]
    pub fn admits(&self, given: impl AsRef<[u8]>) -> bool {
        let token = Sha256::digest(self.token.expose_secret());
        Sha256::digest(given).ct_eq(&token).into()
    }

    /// What a client of the daemon sends as `Authorization`; marked as sensitive.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let text = format!("Bearer {}", self.token.expose_secret());
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// An address to listen on: `127.0.0.1:8430`, `[::1]:8430` or `unix:/run/tidegate.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The absolute path of a unix socket.
    Unix(PathBuf),
}

/// A text that is no address to listen on.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ListenError {
    /// Not `ADDRESS:PORT`.
    #[error("not an address to listen on; write `127.0.0.1:8430` or `unix:/path/to/socket`")]
    Address,
    /// A relative path after `unix:`.
    #[error("not an absolute path; write `unix:/path/to/socket`")]
    Relative,
    /// A path that the system cannot bind.
    #[error("path of a socket too long; use at most {SOCKET_PATH_BYTES_MAX} bytes")]
    TooLong,
}

/// What the command line says in place of the file. Empty fields change nothing.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--state-dir`; a relative path starts at the working directory.
    pub state_dir: Option<PathBuf>,
    /// `--spool-dir`; a relative path starts at the working directory.
    pub spool_dir: Option<PathBuf>,
    /// `--listen`, in place of all configured addresses.
    pub listen: Vec<Listen>,
    /// `--shadow`.
    pub shadow: bool,
}

impl Listen {
    /// Why this address may not be listened on, if so: here nothing is encrypted.
    pub(super) fn refusal(&self) -> Option<(String, &'static str)> {
        match self {
            Self::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some((
                format!(
                    "`{address}` is not a loopback address, and plain HTTP stays on the machine"
                ),
                "to be reached from others, set server.auth, and server.tls with this address",
            )),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| ListenError::Address);
        };
        if !path.starts_with('/') {
            return Err(ListenError::Relative);
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(ListenError::TooLong);
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The spool of a state directory, where none is named.
pub(super) fn spool_in(state_dir: &Path) -> PathBuf {
    state_dir.join("spool")
}

impl Config {
    /// This configuration with what the command line says. A spool that lies in the state
    /// directory, as it does by default, moves with it.
    pub fn with_overrides(mut self, overrides: Overrides) -> Result<Self, ConfigError> {
        self.proxy.shadow |= overrides.shadow;
        let server = &mut self.server;
        if let Some(dir) = overrides.state_dir {
            let dir = absolute(&dir, "--state-dir")?;
            if server.spool_dir == spool_in(&server.state_dir) {
                server.spool_dir = spool_in(&dir);
            }
            server.state_dir = dir;
        }
        if let Some(dir) = overrides.spool_dir {
            server.spool_dir = absolute(&dir, "--spool-dir")?;
        }
        if !overrides.listen.is_empty() {
            if let Some((what, fix)) = overrides.listen.iter().find_map(Listen::refusal) {
                return Err(outside(format!("--listen: {what}"), fix));
            }
            for (at, address) in overrides.listen.iter().enumerate() {
                if overrides.listen.iter().skip(at + 1).any(|later| later == address) {
                    return Err(outside(format!("--listen {address} is given twice"), "drop one"));
                }
            }
            server.listen = overrides.listen;
        }
        Ok(self)
    }
}

fn absolute(path: &Path, option: &str) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| {
        outside(format!("{option} {}: {error}", path.display()), "name an existing directory")
    })
}

fn outside(what: String, fix: &str) -> ConfigError {
    ConfigError::Outside { what, fix: fix.to_owned() }
}
