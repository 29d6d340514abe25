//! Where a command's answers come from: the running daemon, or the database when none runs.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::content::Open;
use super::{EX_FAILURE, EX_UNAVAILABLE, EX_USAGE, Failure};
use crate::api::Problem;
use crate::config::{Auth, Config, Listen};
use crate::report::batches::BatchOut;
use crate::store::Reader;
use crate::upstream::install_tls;

/// A daemon on this machine answers at once; one that does not within this is not well.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A job file has at most 2 GiB, which a slow disk takes so long to take.
const SUBMIT_TIMEOUT: Duration = Duration::from_hours(1);

/// Bytes of a job file read at once.
const PIECE_BYTES: usize = 128 << 10;

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
    // Over a socket the daemon knows who asks. The first is that of a `tidegate run`.
    let own = Listen::Unix(run_socket(config));
    let is_socket = |listen: &&Listen| matches!(listen, Listen::Unix(_));
    let (sockets, others): (Vec<_>, Vec<_>) = config.server.listen.iter().partition(is_socket);
    for listen in std::iter::once(&own).chain(sockets).chain(others) {
        if let Listen::Unix(path) = listen
            && !path.exists()
        {
            continue;
        }
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

/// Where a `tidegate run` listens that is its own daemon.
pub(super) fn run_socket(config: &Config) -> std::path::PathBuf {
    config.server.state_dir.join("run.socket")
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

    /// The document at a path; none where nothing is.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let request = self.authorized(self.http.get(format!("{}{path}", self.base)));
        let response = request.send().await.map_err(|error| self.unavailable(&error))?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = checked(response).await?;
        response.json().await.map(Some).map_err(|error| self.unavailable(&error))
    }

    /// Submits a job file, read as it is sent, and answers the batch that it has become.
    pub(super) async fn submit(
        &self,
        file_name: &str,
        options: &[(String, String)],
        content: Open,
    ) -> Result<BatchOut, Failure> {
        let (pieces, waiting) = mpsc::channel(4);
        let (told, failed) = oneshot::channel();
        // No task of the runtime, which would wait for a stdin that nobody writes to.
        std::thread::spawn(move || read_all(content.reader, &pieces, told));
        let body = futures_util::stream::unfold(waiting, async |mut waiting| {
            waiting.recv().await.map(|piece| (piece, waiting))
        });
        let mut request = self
            .http
            .post(format!("{}/api/v1/batches", self.base))
            .query(&[("file", file_name)])
            .query(options)
            .timeout(SUBMIT_TIMEOUT)
            .body(reqwest::Body::wrap_stream(body));
        if let Some(length) = content.length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let sent = self.send(request).await;
        if sent.is_err()
            && let Some(error) = { failed }.try_recv().ok()
        {
            return Err(Failure::new(EX_FAILURE, format!("{file_name}: {error}")));
        }
        sent?.json().await.map_err(|error| self.unavailable(&error))
    }

    pub(super) fn is_socket(&self) -> bool {
        self.is_socket
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
        let sent = self.authorized(request).send().await;
        checked(sent.map_err(|error| self.unavailable(&error))?).await
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    fn unavailable(&self, error: &reqwest::Error) -> Failure {
        let told = Failure::of(EX_UNAVAILABLE)(error);
        let message = format!("the daemon at {} does not answer: {}", self.base, told.message);
        Failure::new(EX_UNAVAILABLE, message)
    }
}

/// The answer, or what the problem document says.
async fn checked(response: reqwest::Response) -> Result<reqwest::Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let code = match status {
        StatusCode::UNPROCESSABLE_ENTITY => EX_USAGE,
        StatusCode::SERVICE_UNAVAILABLE => EX_UNAVAILABLE,
        _ => EX_FAILURE,
    };
    let problem: Result<Problem, _> = response.json().await;
    let detail = problem.map_or_else(|_| status.to_string(), |problem| problem.detail);
    Err(Failure::new(code, detail))
}

fn read_all(
    mut reader: Box<dyn Read + Send>,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    told: oneshot::Sender<io::Error>,
) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = match reader.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        match read {
            Ok(0) => return,
            Ok(n) => {
                piece.truncate(n);
                if pieces.blocking_send(Ok(piece.into())).is_err() {
                    return;
                }
            }
            Err(error) => {
                let cut_off = io::Error::from(error.kind());
                // Told first: the piece ends the request.
                let _ = told.send(error);
                let _ = pieces.blocking_send(Err(cut_off));
                return;
            }
        }
    }
}
