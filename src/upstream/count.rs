//! `countTokens`: what a request weighs, asked of the provider before it is sent.
//!
//! It costs nothing and counts against no quota that is known, so it has no row in the ledger. Its
//! end is only known or not: nothing has to be proved about what left.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::answer::{self, Total};
use super::client::{Call, Client, Failure, Received, late, refusal};
use super::{Progress, Refusal, url};

/// Counting takes no thinking: a provider that does not answer within this will not do it.
const WHOLE_MAX: Duration = Duration::from_mins(1);

/// The document is a few hundred bytes.
const COUNT_BYTES_MAX: usize = 1 << 20;

/// The fields of a request, not looked into.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Why there is no count.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The call cannot be made: its URL, key or body is unusable.
    #[error("the tokens cannot be counted: {reason}")]
    Unusable {
        /// What is wrong; holds neither the URL nor the key.
        reason: String,
    },
    /// The provider refused to count.
    #[error("the provider refused to count the tokens with status {}", .0.status)]
    Refused(Box<Refusal>),
    /// No complete answer came.
    #[error("the count of the tokens did not come: {reason}")]
    NoAnswer {
        /// What failed; holds neither the URL nor the key.
        reason: String,
    },
}

impl Client {
    /// Asks the provider how many input tokens `call` has, once; `call` is the request that would
    /// be given to [`Client::send`]. Only Gemini's `generateContent` can be counted. The whole
    /// takes at most a minute, or what the client's timeouts allow if that is less.
    ///
    /// # Errors
    /// When no count was had. The caller falls back on its estimate.
    pub async fn count_tokens(&self, call: Call) -> Result<u64, CountError> {
        let no_url = |reason: String| CountError::Unusable { reason };
        let url = url::of_count(&call)
            .map_err(|error| no_url(error.to_string()))?
            .ok_or_else(|| no_url("the provider counts `generateContent` requests alone".into()))?;
        let body = question(&call)?;
        let unusable = |failure: Failure| CountError::Unusable { reason: failure.reason };
        let request = self.request(&call, url, body.into()).map_err(unusable)?;
        let whole = self.timeouts().whole.min(WHOLE_MAX);
        let mut received = Received::default();
        let exchange = self.exchange(request, COUNT_BYTES_MAX, &|_: Progress| (), &mut received);
        let ended = timeout(whole, exchange).await;
        let failure = ended.unwrap_or_else(|_| Err(late("a complete answer", whole))).err();
        conclude(&received, failure, call.key.expose_secret())
    }
}

/// The request wrapped up as `generateContentRequest`, which alone counts instructions and tools.
/// It has to name its model; the rest of it is left as it is.
fn question(call: &Call) -> Result<Vec<u8>, CountError> {
    let unusable = |reason: &str| CountError::Unusable { reason: reason.to_owned() };
    let mut fields: Fields<'_> = serde_json::from_slice(&call.body)
        .map_err(|_| unusable("the request body is not a JSON object"))?;
    let model = to_raw_value(&format!("models/{}", call.model)).expect("a string is JSON");
    fields.insert("model".to_owned(), &model);
    let question = BTreeMap::from([("generateContentRequest", fields)]);
    Ok(serde_json::to_vec(&question).expect("what was read from JSON is JSON"))
}

fn conclude(received: &Received, failed: Option<Failure>, key: &str) -> Result<u64, CountError> {
    let no_answer = |reason: String| Err(CountError::NoAnswer { reason });
    let refused = |status| Err(CountError::Refused(Box::new(refusal(status, received, key))));
    match (received.status, failed) {
        (Some(200..=299), None) => match answer::total(&received.body) {
            Total::Tokens(tokens) => Ok(tokens),
            Total::Error { status } => refused(status),
            Total::Broken { reason } => no_answer(reason),
        },
        (None | Some(200..=299), Some(Failure { reason, .. })) => no_answer(reason),
        (Some(status), _) => refused(status),
        (None, None) => unreachable!("an exchange without a failure has a status"),
    }
}
