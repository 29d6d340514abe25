//! The call over the wire.
//!
//! The I/O only fills [`Received`]; what it means is decided afterwards by `conclude`, a function
//! of what came, what failed and whether the body could still be revoked.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::answer::{self, Document};
use super::body::{Custody, OnProgress, Watched};
use super::classify::classify_with;
use super::delay::Waits;
use super::{
    Method, NotSentKind, Outcome, Progress, QuotaViolation, Refusal, Report, UpstreamError, Wire,
    pass, rates, text, url,
};

/// A model's answer with several images is tens of MiB; more is a fault or an attack.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Error documents are a few KiB.
pub(super) const REFUSAL_BYTES_MAX: usize = 1 << 20;
const REASON_BYTES_MAX: usize = 1 << 10;
const TIER_BYTES_MAX: usize = 64;
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Shorter keys (of test servers) are no secret, and any text may hold them by chance.
const KEY_BYTES_MIN: usize = 8;

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up: the
/// longest that a request can be under way unseen, which admission adds to every window.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
/// Probes keep NAT entries alive while a model thinks. With `UNACKNOWLEDGED_MAX` set, Linux gives
/// the connection up on the first lost probe, so they are as rare as such entries allow.
const PROBE_AFTER: Duration = Duration::from_mins(1);
/// Well below the time after which servers close idle connections (a minute and more), so that
/// hardly any request meets a closing one: its end would be unknown.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(20);

/// The longest time of each phase of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For name, connection and TLS together.
    pub connect: Duration,
    /// From the start until the head of the answer.
    pub headers: Duration,
    /// Without any byte while the answer's body is read.
    pub idle: Duration,
    /// For the whole call.
    pub whole: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Three round trips; beyond this the path is broken.
            connect: Duration::from_secs(10),
            // The head comes when the answer is complete, and thinking models take minutes.
            headers: Duration::from_mins(10),
            // A complete answer flows without pauses.
            idle: Duration::from_mins(1),
            // Bounds an answer that drips.
            whole: Duration::from_mins(15),
        }
    }
}

/// One request.
pub struct Call {
    /// Scheme, host, port and an optional path prefix, such as
    /// `https://generativelanguage.googleapis.com`. A query or fragment in it is dropped. For
    /// [`Wire::OpenAi`] it may end with the version, as in `https://api.openai.com/v1`.
    pub base_url: String,
    /// What the provider speaks.
    pub wire: Wire,
    /// What is asked of it.
    pub method: Method,
    /// The model without `models/`, such as `gemini-3.6-flash`. OpenAI's methods read it from the
    /// body alone.
    pub model: String,
    /// The key of the project.
    pub key: SecretString,
    /// The JSON document to send, as it is; not empty.
    pub body: Bytes,
}

/// Shows neither key nor body, which holds people's text.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("wire", &self.wire)
            .field("method", &self.method)
            .field("model", &self.model)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The HTTP client and its connections, for all projects of the process. Clones share them.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    timeouts: Timeouts,
}

impl Client {
    /// A client with the timeouts of production.
    pub fn new() -> Result<Self, UpstreamError> {
        Self::with_timeouts(Timeouts::default())
    }

    /// A client with other timeouts.
    pub fn with_timeouts(timeouts: Timeouts) -> Result<Self, UpstreamError> {
        let http = builder(timeouts).build().map_err(UpstreamError::Setup)?;
        Ok(Self { http, timeouts })
    }

    /// Sends one request, once, and tells how it ended. `on_progress` is called
    /// from whichever task makes the step, so it must be quick and must not block.
    ///
    /// Dropping the future closes the connection; how that call ended is unknown.
    pub async fn send(
        &self,
        call: Call,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Report {
        let on_progress: OnProgress = Arc::new(on_progress);
        let custody = Arc::new(Custody::default());
        let mut received = Received::default();
        let failure = match self.watched(&call, &custody, &on_progress) {
            Ok(request) => {
                let exchange =
                    self.exchange(request, ANSWER_BYTES_MAX, &*on_progress, &mut received);
                let ended = timeout(self.timeouts.whole, exchange).await;
                ended.unwrap_or_else(|_| Err(late("a complete answer", self.timeouts.whole))).err()
            }
            Err(failure) => Some(failure),
        };
        Report {
            status: received.status,
            date_header: received.date,
            service_tier: received.tier.take(),
            request_id: received.request_id.take(),
            stated: std::mem::take(&mut received.stated),
            outcome: conclude(call.method, received, failure, &custody, call.key.expose_secret()),
            body_sent: custody.is_sent(),
        }
    }

    /// The longest times of this client.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn watched(
        &self,
        call: &Call,
        custody: &Arc<Custody>,
        on_progress: &OnProgress,
    ) -> Result<reqwest::Request, Failure> {
        if call.body.is_empty() {
            return Err(unusable("the request body is empty; it must be a JSON document"));
        }
        let body = Watched::new(call.body.clone(), custody.clone(), on_progress.clone());
        let url = url::of(call).map_err(|error| unusable(&error.to_string()))?;
        self.request(call, url, reqwest::Body::wrap(body))
    }

    /// A request to `url` with the call's key and with `body`.
    pub(super) fn request(
        &self,
        call: &Call,
        url: reqwest::Url,
        body: reqwest::Body,
    ) -> Result<reqwest::Request, Failure> {
        let (header, value) = credential(call)?;
        self.http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(header, value)
            .body(body)
            .build()
            .map_err(failure)
    }

    /// Sends the request and fills `received`, with at most `answer_bytes_max` of an answer. The
    /// time of the whole is the caller's affair.
    pub(super) async fn exchange(
        &self,
        request: reqwest::Request,
        answer_bytes_max: usize,
        on_progress: &(dyn Fn(Progress) + Send + Sync),
        received: &mut Received,
    ) -> Result<(), Failure> {
        let Timeouts { headers, idle, .. } = self.timeouts;
        let mut response = timeout(headers, self.http.execute(request))
            .await
            .map_err(|_| late("the head of an answer", headers))?
            .map_err(failure)?;
        on_progress(Progress::Headers { status: response.status().as_u16() });
        received.status = Some(response.status().as_u16());
        received.read_headers(response.headers());
        let max = if response.status().is_success() { answer_bytes_max } else { REFUSAL_BYTES_MAX };
        while let Some(piece) = timeout(idle, response.chunk())
            .await
            .map_err(|_| late("the next part of the answer", idle))?
            .map_err(failure)?
        {
            if received.body.len().saturating_add(piece.len()) > max {
                return Err(Failure {
                    kind: NotSentKind::Other,
                    reason: format!("the answer is longer than {max} bytes"),
                });
            }
            received.body.extend_from_slice(&piece);
        }
        Ok(())
    }
}

/// What came from the provider, as far as it came.
#[derive(Default)]
pub(super) struct Received {
    pub(super) status: Option<u16>,
    pub(super) date: Option<i64>,
    pub(super) tier: Option<String>,
    pub(super) request_id: Option<String>,
    waits: Waits,
    pub(super) stated: Vec<QuotaViolation>,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn read_headers(&mut self, headers: &HeaderMap) {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        self.date = headers
            .get(DATE)
            .and_then(text)
            .and_then(|date| chrono::DateTime::parse_from_rfc2822(&date).ok())
            .map(|date| date.timestamp());
        let word = |name, max| {
            headers.get(name).and_then(text).map(|word: String| text::bounded(&word, max))
        };
        self.tier = word("x-gemini-service-tier", TIER_BYTES_MAX);
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.waits = Waits::read(header, self.date);
        self.stated = rates::stated(header);
        self.request_id = word("x-request-id", REQUEST_ID_BYTES_MAX);
    }
}

/// Why the exchange stopped before its end. `kind` holds only if nothing was sent.
pub(super) struct Failure {
    pub(super) kind: NotSentKind,
    pub(super) reason: String,
}

/// What the call came to. An error status is a refusal even when its body broke off; without a
/// status only a body that was revoked in time proves that nothing was sent.
fn conclude(
    method: Method,
    received: Received,
    failed: Option<Failure>,
    custody: &Custody,
    key: &str,
) -> Outcome {
    match (received.status, failed) {
        (Some(status @ 200..=299), None) => read_answer(method, status, received, key),
        (None | Some(200..=299), Some(Failure { kind, reason })) => {
            if received.status.is_none() && custody.revoke() {
                Outcome::NotSent { reason, kind }
            } else {
                Outcome::Unknown { reason }
            }
        }
        (Some(status), _) => Outcome::Refused(refusal(status, &received, key)),
        (None, None) => unreachable!("an exchange without a failure has a status"),
    }
}

fn read_answer(method: Method, status: u16, received: Received, key: &str) -> Outcome {
    match answer::read(method, &received.body) {
        Document::Answer { usage, blocked, images } => {
            Outcome::Answered { body: received.body.into(), usage, blocked, images }
        }
        Document::Error { status } => Outcome::Refused(refusal(status, &received, key)),
        Document::Broken { reason } => {
            Outcome::Unknown { reason: format!("{reason} (status {status})") }
        }
    }
}

/// Some refusals quote the key (`Consumer 'api_key:…' has been suspended`) or parts of it, so it is
/// taken out before anything is read or cut.
pub(super) fn refusal(status: u16, received: &Received, key: &str) -> Refusal {
    let mut text = String::from_utf8_lossy(&received.body);
    if key.len() >= KEY_BYTES_MIN && text.contains(key) {
        text = Cow::Owned(text.replace(key, "[key]"));
    }
    if let Some(masked) = masked_key(&text) {
        text = Cow::Owned(text.replace(masked, "[key]"));
    }
    match text {
        Cow::Owned(text) => classify_with(status, text.as_bytes(), received.waits),
        Cow::Borrowed(_) => classify_with(status, &received.body, received.waits),
    }
}

/// The key in `Incorrect API key provided: sk-proj-********7890.`, of which both ends are shown.
fn masked_key(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("API key provided: ")?;
    let of_key = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '*'].contains(&c);
    let end = rest.find(|c| !of_key(c)).unwrap_or(rest.len());
    rest.get(..end).filter(|masked| masked.contains('*'))
}

pub(super) fn late(what: &str, after: Duration) -> Failure {
    Failure {
        kind: NotSentKind::Other,
        reason: format!("{what} did not come within {}", humantime::format_duration(after)),
    }
}

pub(super) fn unusable(reason: &str) -> Failure {
    Failure { kind: NotSentKind::Other, reason: reason.into() }
}

/// The URL is left out of the text: a base URL may carry what its owner holds secret.
pub(super) fn failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let kind = if error.is_dns() {
        NotSentKind::Dns
    } else if is_tls(&error) {
        NotSentKind::Tls
    } else if error.is_connect() {
        NotSentKind::Connect
    } else {
        NotSentKind::Other
    };
    Failure { kind, reason: text::bounded(&text::chain(&error), REASON_BYTES_MAX) }
}

/// The TLS library's error travels inside `io::Error`s, whose `source` steps over their content.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        cause = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| -> &(dyn Error + 'static) { inner }),
            None => error.source(),
        };
    }
    false
}

/// The header that carries the key of a call.
fn credential(call: &Call) -> Result<(HeaderName, HeaderValue), Failure> {
    let is_bearer = match call.method {
        Method::GenerateContent | Method::EmbedContent => false,
        Method::ChatCompletions | Method::Embeddings => true,
    };
    pass::credential(is_bearer, call.key.expose_secret())
}

/// Makes ring the process's provider of TLS, without which no HTTP client can be built.
pub(crate) fn install_tls() {
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// No second copy of a request ever leaves by itself: no retries and no redirects, which would
/// also carry the key to another host. HTTP/1.1 gives each call its own connection, so one broken
/// connection leaves one call in doubt.
pub(super) fn builder(timeouts: Timeouts) -> reqwest::ClientBuilder {
    install_tls();
    reqwest::Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .gzip(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(timeouts.connect)
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(PROBE_AFTER)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX)
        .tls_certs_merge(mozilla_roots())
}

/// The system's certificates are trusted together with Mozilla's, which are built in: the
/// platform's verifier refuses to start on a machine that has none, such as a bare container.
fn mozilla_roots() -> impl Iterator<Item = reqwest::Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|root| reqwest::Certificate::from_der(root).expect("Mozilla's certificates are DER"))
}

#[cfg(test)]
mod tests;
