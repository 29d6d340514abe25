//! A client's own request on its way to the provider, and the answer on its way back: the bytes are
//! not looked at here.

use std::sync::Arc;

use axum::body::Body as AnyBody;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::body::{Custody, OnProgress, Watched};
use super::client::{builder, failure, late, unusable};
use super::url::passing;
use super::{NotSentKind, Outcome, Progress, UpstreamError, Wire};

/// The client of what passes: as the other, but what is encoded stays so.
#[derive(Clone, Debug)]
pub struct Carrier {
    http: reqwest::Client,
    timeouts: super::Timeouts,
}

/// A request that passes.
pub struct Outgoing {
    /// The method.
    pub method: reqwest::Method,
    /// As of [`super::Call`].
    pub base_url: String,
    /// What the project's provider speaks.
    pub wire: Wire,
    /// What the client speaks: OpenAI's methods have a place of their own at Gemini's provider.
    pub is_openai: bool,
    /// From the version on; of OpenAI's methods what follows it. Not decoded.
    pub path: String,
    /// Without credentials.
    pub query: Option<String>,
    /// Without credentials and what concerns one connection alone.
    pub headers: HeaderMap,
    /// The key of the project; none for a request that carries its right in its address.
    pub key: Option<SecretString>,
    /// What is sent.
    pub body: Outbound,
}

/// The body of a request that passes.
pub enum Outbound {
    /// All of it.
    Whole(Bytes),
    /// As it comes from the client.
    Coming {
        /// The body.
        body: AnyBody,
        /// Its length, where the client has said it.
        bytes: Option<u64>,
    },
}

/// An answer whose body is yet to come.
pub type Answering = http::Response<reqwest::Body>;

impl Carrier {
    /// A carrier with the timeouts of production.
    ///
    /// # Errors
    /// When the TLS or socket settings are not accepted.
    pub fn new() -> Result<Self, UpstreamError> {
        let timeouts = super::Timeouts::default();
        let http = builder(timeouts).gzip(false).build().map_err(UpstreamError::Setup)?;
        Ok(Self { http, timeouts })
    }

    /// Sends one request, once, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Outcome::NotSent`] or [`Outcome::Unknown`].
    pub async fn pass(
        &self,
        outgoing: Outgoing,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Answering, Outcome> {
        let on_progress: OnProgress = Arc::new(on_progress);
        let custody = Arc::new(Custody::default());
        let request = match self.request(outgoing, &custody, &on_progress) {
            Ok(request) => request,
            Err(failure) => {
                return Err(Outcome::NotSent { reason: failure.reason, kind: NotSentKind::Other });
            }
        };
        let headers = self.timeouts.headers;
        let came = timeout(headers, self.http.execute(request)).await;
        let failed = match came {
            Ok(Ok(response)) => {
                on_progress(Progress::Headers { status: response.status().as_u16() });
                return Ok(response.into());
            }
            Ok(Err(error)) => failure(error),
            Err(_) => late("the head of an answer", headers),
        };
        let reason = failed.reason;
        Err(if custody.revoke() {
            Outcome::NotSent { reason, kind: failed.kind }
        } else {
            Outcome::Unknown { reason }
        })
    }

    fn request(
        &self,
        outgoing: Outgoing,
        custody: &Arc<Custody>,
        on_progress: &OnProgress,
    ) -> Result<reqwest::Request, super::client::Failure> {
        let url = passing(&outgoing).map_err(|error| unusable(&error.to_string()))?;
        let mut request = self.http.request(outgoing.method, url).headers(outgoing.headers);
        if let Some(key) = &outgoing.key {
            let is_bearer = outgoing.is_openai;
            let (name, value) = credential(is_bearer, key.expose_secret())?;
            request = request.header(name, value);
        }
        request = match outgoing.body {
            Outbound::Whole(body) if body.is_empty() => {
                // A transport does not ask for an empty body: it counts as handed out.
                custody.hand_out();
                request
            }
            Outbound::Whole(body) => {
                let body = Watched::new(body, custody.clone(), on_progress.clone());
                request.body(reqwest::Body::wrap(body))
            }
            Outbound::Coming { body, bytes } => {
                custody.hand_out();
                if let Some(bytes) = bytes {
                    request = request.header(CONTENT_LENGTH, bytes);
                }
                request.body(reqwest::Body::wrap_stream(body.into_data_stream()))
            }
        };
        request.build().map_err(failure)
    }
}

/// The one header that carries the key: a provider refuses a call with two credentials.
pub(super) fn credential(
    is_bearer: bool,
    key: &str,
) -> Result<(HeaderName, HeaderValue), super::client::Failure> {
    let (name, value) = if is_bearer {
        (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")))
    } else {
        (HeaderName::from_static("x-goog-api-key"), HeaderValue::from_str(key))
    };
    let mut value =
        value.map_err(|_| unusable("the key holds characters that a header cannot carry"))?;
    value.set_sensitive(true);
    Ok((name, value))
}
