//! Where a command's answers come from: the running daemon, or the database when none runs.

use std::io::Write;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{EX_FAILURE, EX_UNAVAILABLE, Failure};
use crate::api::Problem;
use crate::config::{Auth, Config, Listen};
use crate::store::Reader;
use crate::upstream::install_tls;

/// A daemon on this machine answers at once; one that does not within this is not well.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where answers come from.
pub(super) enum Source {
    Daemon(Daemon),
    Database(Reader),
}

/// The daemon's API.
pub(super) struct Daemon {
    http: reqwest::Client,
    base: String,
    is_socket: bool,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Health {
    state_dir: std::path::PathBuf,
}

/// The daemon of this configuration if it runs, else its database.
pub(super) async fn source(config: &Config) -> Result<Source, Failure> {
    if let Some(daemon) = daemon(config).await? {
        return Ok(Source::Daemon(daemon));
    }
    let reader = Reader::open(&config.server.state_dir);
    reader.map(Source::Database).map_err(|error| Failure::of(EX_FAILURE)(&error))
}

/// The daemon of this configuration, if it runs.
pub(super) async fn daemon(config: &Config) -> Result<Option<Daemon>, Failure> {
    find(config, |_| true).await
}

/// The same over an address that keys may be sent to: nobody but who may use the daemon can hear,
/// or take part.
pub(super) async fn private_daemon(config: &Config) -> Result<Option<Daemon>, Failure> {
    find(config, |daemon| daemon.is_socket || daemon.authorization.is_some()).await
}

async fn find(
    config: &Config,
    will_do: impl Fn(&Daemon) -> bool,
) -> Result<Option<Daemon>, Failure> {
    for listen in &config.server.listen {
        let daemon = Daemon::at(listen, config)?;
        if !will_do(&daemon) {
            continue;
        }
        // Somebody else's daemon on the same address is not asked.
        let health: Result<Health, _> = daemon.get("/healthz").await;
        if health.is_ok_and(|health| health.state_dir == config.server.state_dir) {
            return Ok(Some(daemon));
        }
    }
    Ok(None)
}

impl Daemon {
    /// The daemon at an address, whether or not it answers.
    pub(super) fn at(listen: &Listen, config: &Config) -> Result<Self, Failure> {
        install_tls();
        let builder = reqwest::Client::builder().no_proxy().timeout(TIMEOUT);
        let (builder, base) = match listen {
            Listen::Tcp(address) => (builder, format!("http://{address}")),
            Listen::Unix(path) => {
                (builder.unix_socket(path.clone()), "http://localhost".to_owned())
            }
        };
        let http = builder.build().map_err(|error| Failure::of(EX_FAILURE)(&error))?;
        let authorization = config.server.auth.as_ref().and_then(Auth::header);
        let is_socket = matches!(listen, Listen::Unix(_));
        Ok(Self { http, base, is_socket, authorization })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(self.http.get(format!("{}{path}", self.base))).await?;
        response.json().await.map_err(|error| self.unavailable(&error))
    }

    pub(super) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self.http.get(format!("{}{path}", self.base)).query(question);
        let response = self.send(request).await?;
        response.json().await.map_err(|error| self.unavailable(&error))
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(self.http.post(format!("{}{path}", self.base))).await?;
        response.json().await.map_err(|error| self.unavailable(&error))
    }

    pub(super) async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self.http.post(format!("{}{path}", self.base)).json(body);
        let response = self.send(request).await?;
        response.json().await.map_err(|error| self.unavailable(&error))
    }

    pub(super) async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
        content: Vec<u8>,
    ) -> Result<T, Failure> {
        let request = self.http.post(format!("{}{path}", self.base)).query(question);
        let response = self.send(request.body(content)).await?;
        response.json().await.map_err(|error| self.unavailable(&error))
    }

    /// Copies a document as it comes; the inner error is that of writing.
    pub(super) async fn copy(
        &self,
        path: &str,
        to: &mut impl Write,
    ) -> Result<std::io::Result<()>, Failure> {
        let request = self.http.get(format!("{}{path}", self.base));
        let mut response = self.send(request).await?;
        while let Some(piece) = response.chunk().await.map_err(|error| self.unavailable(&error))? {
            if let Err(error) = to.write_all(&piece) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let request = match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.unavailable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Result<Problem, _> = response.json().await;
        let detail = problem.map_or_else(|_| status.to_string(), |problem| problem.detail);
        Err(Failure::new(EX_FAILURE, detail))
    }

    fn unavailable(&self, error: &reqwest::Error) -> Failure {
        let told = Failure::of(EX_UNAVAILABLE)(error);
        let message = format!("the daemon at {} does not answer: {}", self.base, told.message);
        Failure::new(EX_UNAVAILABLE, message)
    }
}
