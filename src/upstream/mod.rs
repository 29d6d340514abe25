//! The client of a provider: one call of Gemini's API or of an OpenAI-compatible one, told as
//! facts; and Gemini's `countTokens`, which is free.
//!
//! A call ends in one of four ways (see [`Outcome`]), and which one decides what the ledger may
//! write, so the walls between them are proofs and not guesses: [`Outcome::NotSent`] is said only
//! when no byte of the body was, or ever will be, handed to the transport; whatever is not a
//! complete answer and not such a proof is [`Outcome::Unknown`]. Nothing here waits, retries or
//! decides: every request that leaves is one call of [`Client::send`] or
//! [`Client::count_tokens`].

mod answer;
mod body;
mod classify;
mod client;
mod count;
mod delay;
mod pass;
mod rates;
pub mod reading;
mod text;
mod url;

use std::fmt;

use bytes::Bytes;

pub use classify::classify;
pub(crate) use client::install_tls;
pub use client::{Call, Client, Timeouts};
pub use count::CountError;
pub use pass::{Answering, Carrier, Outbound, Outgoing};

/// What a project's provider speaks: which URLs it has and how a key is shown to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The Gemini API, which has OpenAI-compatible methods as well.
    Gemini,
    /// An OpenAI-compatible API.
    OpenAi,
}

/// What is asked of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Gemini's `generateContent`. Not of [`Wire::OpenAi`].
    GenerateContent,
    /// Gemini's `embedContent`. Not of [`Wire::OpenAi`].
    EmbedContent,
    /// OpenAI's `chat/completions`.
    ChatCompletions,
    /// OpenAI's `embeddings`.
    Embeddings,
}

/// A step of a call, told at the moment it happens so that the caller can read its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The transport took the last bytes of the body. At most half a MiB of them can still be in
    /// this process. Not told when the provider answers before it has read the whole body.
    BodySent,
    /// The head of the answer is here, whatever its status.
    Headers {
        /// The HTTP status.
        status: u16,
    },
}

/// What is known of a call when it is over.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status, when the head of an answer came.
    pub status: Option<u16>,
    /// The provider's clock, from the `date` header: Unix seconds, UTC.
    pub date_header: Option<i64>,
    /// The tier that served the call, from `x-gemini-service-tier`.
    pub service_tier: Option<String>,
    /// The provider's own name of the call, from `x-request-id`; at most 128 bytes.
    pub request_id: Option<String>,
    /// The limits that the headers tell, as OpenAI's providers do with every answer.
    pub stated: Vec<QuotaViolation>,
    /// Whether [`Progress::BodySent`] was told.
    pub body_sent: bool,
}

/// The four ends of a call.
pub enum Outcome {
    /// A complete JSON document came with a success status.
    Answered {
        /// The document as received, after gzip. Its size is bounded at 64 MiB.
        body: Bytes,
        /// The provider's own count; none when it was absent or unreadable.
        usage: Option<Usage>,
        /// Why there is no proper text: `promptFeedback.blockReason`, or a `finishReason` other
        /// than `STOP` and `MAX_TOKENS` when no candidate has a better one; of a chat completion
        /// `content_filter` or `refusal` when that is true of every choice, or `no_choices`. An
        /// open list.
        blocked: Option<String>,
        /// Image parts (`inlineData` of type `image/*`) in all candidates.
        images: u64,
    },
    /// The provider refused the request.
    Refused(Refusal),
    /// The provider cannot have seen the request: no byte of its body was handed to the transport.
    NotSent {
        /// What failed, for people; holds neither the URL nor the key.
        reason: String,
        /// What failed.
        kind: NotSentKind,
    },
    /// Bytes may have left, and no complete answer came.
    Unknown {
        /// What failed, for people; holds neither the URL nor the key.
        reason: String,
    },
}

/// Shows lengths in place of bodies, which hold people's text.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { body, usage, blocked, images } => f
                .debug_struct("Answered")
                .field("body_bytes", &body.len())
                .field("usage", usage)
                .field("blocked", blocked)
                .field("images", images)
                .finish(),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
            Self::NotSent { reason, kind } => {
                f.debug_struct("NotSent").field("reason", reason).field("kind", kind).finish()
            }
            Self::Unknown { reason } => f.debug_struct("Unknown").field("reason", reason).finish(),
        }
    }
}

/// Why a request did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSentKind {
    /// No connection: refused, unreachable, or not there in time.
    Connect,
    /// The host name was not resolved.
    Dns,
    /// The TLS handshake failed: a certificate that is not trusted, or no TLS at the other end.
    Tls,
    /// The call itself is unusable (its URL, key or body), or a pooled connection closed first.
    Other,
}

/// A refusal with everything readable in it.
pub struct Refusal {
    /// The HTTP status, or the code in an error document that came with a success status.
    pub status: u16,
    /// What it means for the item and its project.
    pub class: RefusalClass,
    /// The provider's words, control characters escaped, at most 2 KiB. They may quote the
    /// names and values that the provider could not parse.
    pub message: String,
    /// The gRPC status name, such as `RESOURCE_EXHAUSTED`.
    pub grpc_status: Option<String>,
    /// Every quota named in the refusal, in the provider's order, at most 64.
    pub quota: Vec<QuotaViolation>,
    /// The wait the provider asks for, rounded up: the longest of `RetryInfo` (which floors to
    /// seconds), the prose and the `retry-after` headers. It is false for some day quotas of
    /// Gemini.
    pub retry_delay_ms: Option<u64>,
    /// The document, cut at 64 KiB.
    pub body: Bytes,
}

/// Shows the length in place of the body.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("status", &self.status)
            .field("class", &self.class)
            .field("message", &self.message)
            .field("grpc_status", &self.grpc_status)
            .field("quota", &self.quota)
            .field("retry_delay_ms", &self.retry_delay_ms)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalClass {
    /// This request will never be taken: 400 and its kind.
    BadRequest,
    /// The key is wrong, expired, leaked, suspended or restricted.
    KeyRefused,
    /// The project or the place may not do this.
    Forbidden,
    /// The model is not there: 404.
    ModelNotFound,
    /// A quota or the capacity is used up: 429.
    Throttled(ThrottleKind),
    /// Money: prepaid credit or a spending cap is used up. Not a quota; does not heal by waiting.
    Billing,
    /// A passing fault of the provider: 5xx, 408, 499, and OpenAI's 409.
    Server,
    /// Anything else, such as a redirect (never followed).
    Other,
}

/// Which quota throttles. With several, the one that lasts longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThrottleKind {
    /// A quota of a minute.
    PerMinute,
    /// A quota of a day, whatever wait the provider asks for.
    PerDay,
    /// The quota is 0: the model is not offered on this tier.
    LimitZero,
    /// No quota is named: capacity, abuse protection or a hidden quota. Teaches no limit.
    Unexplained,
}

/// One quota that a refusal names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaViolation {
    /// The provider's id, such as `GenerateRequestsPerDayPerProjectPerModel-FreeTier`; empty when
    /// the quota is named in the prose alone.
    pub quota_id: String,
    /// The provider's metric, such as
    /// `generativelanguage.googleapis.com/generate_content_free_tier_requests`.
    pub metric: String,
    /// The model it counts.
    pub model: Option<String>,
    /// The limit. The provider omits it when it is 0, so 0 needs the prose's `limit: 0` as witness.
    pub value: Option<u64>,
    /// Over what it counts.
    pub window: QuotaWindow,
    /// What it counts.
    pub subject: QuotaSubject,
}

/// Over what a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaWindow {
    /// A minute.
    PerMinute,
    /// A day.
    PerDay,
    /// Something else, or not said.
    Other,
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaSubject {
    /// Requests.
    Requests,
    /// Input tokens.
    InputTokens,
    /// Images.
    Images,
    /// Something else, or not said.
    Other,
}

/// What the provider counted. Fields that it left out are 0, as its format defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens; includes `cached`.
    pub prompt: u64,
    /// Input tokens that came from a cache.
    pub cached: u64,
    /// Output tokens; excludes `thoughts`.
    pub candidates: u64,
    /// Output tokens of thinking.
    pub thoughts: u64,
    /// Input tokens added by the provider's tools; not in `prompt`.
    pub tool_use_prompt: u64,
    /// The total as reported, not recomputed.
    pub total: u64,
    /// `usageMetadata` or `usage` as received; none above 16 KiB.
    pub raw: Option<String>,
}

/// The client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The TLS or socket settings were not accepted.
    #[error("could not set up the HTTP client; check the system's certificates and file limits")]
    Setup(#[source] reqwest::Error),
}
