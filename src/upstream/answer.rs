//! Reading a document that came with a success status.
//!
//! Only its outermost shape must be right. Everything inside is read piece by piece, so that a
//! field of a new kind costs that field and not the answer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Method, Usage, text};

pub(super) mod inner;
pub(super) mod openai;

/// `usageMetadata` is a few hundred bytes; a longer one is counted and not kept.
const USAGE_RAW_BYTES_MAX: usize = 16 << 10;

/// A million times the longest context there is. A larger number is no count of tokens, and the
/// sums of a ledger of such would not fit 64 bits.
const COUNT_MAX: u64 = 1 << 40;

/// A reason is one word.
pub(super) const REASON_BYTES_MAX: usize = 64;

/// A JSON object whose values are not looked into.
pub(super) type Object<'a> = BTreeMap<String, &'a RawValue>;

/// What a document turned out to be.
#[derive(Debug)]
pub(super) enum Document {
    /// An answer.
    Answer {
        /// The provider's own count.
        usage: Option<Usage>,
        /// Why there is no proper text.
        blocked: Option<String>,
        /// Image parts in all candidates.
        images: u64,
    },
    /// An error document, with its code as the status.
    Error {
        /// From 400 to 599.
        status: u16,
    },
    /// Not a JSON object, or neither an answer nor an error.
    Broken {
        /// Where it breaks; quotes nothing of it.
        reason: String,
    },
}

/// Reads a document that answers `method`. Total: any bytes give a `Document`.
pub(super) fn read(method: Method, body: &[u8]) -> Document {
    let object: Object<'_> = match serde_json::from_slice(body) {
        Ok(object) => object,
        Err(error) => return listed_error(body).unwrap_or_else(|| not_an_object(&error)),
    };
    match method {
        Method::GenerateContent => generated(&object),
        Method::EmbedContent => embedded(&object),
        Method::ChatCompletions => openai::completion(&object),
        Method::Embeddings => openai::embeddings(&object),
    }
}

/// An error document as Gemini's OpenAI-compatible methods have it: alone in a list.
fn listed_error(body: &[u8]) -> Option<Document> {
    let [object]: [Object<'_>; 1] = serde_json::from_slice(body).ok()?;
    Some(Document::Error { status: error_status(&object)? })
}

fn not_an_object(error: &serde_json::Error) -> Document {
    // serde_json's own message may quote the document.
    let (line, column) = (error.line(), error.column());
    let reason =
        format!("the answer is not a JSON object: it breaks at line {line}, column {column}");
    Document::Broken { reason }
}

/// Whether a document with a list `field` answers, and what it counted. Some of such answers tell
/// no usage.
pub(super) fn listed(object: &Object<'_>, field: &str) -> Document {
    if let Some(status) = error_status(object) {
        return Document::Error { status };
    }
    match piece::<Vec<&RawValue>>(object, field) {
        Some(_) => Document::Answer { usage: usage(object), blocked: None, images: 0 },
        None => Document::lacks(field),
    }
}

fn generated(object: &Object<'_>) -> Document {
    if let Some(status) = error_status(object) {
        return Document::Error { status };
    }
    let candidates = candidates(object);
    Document::Answer {
        usage: usage(object),
        blocked: blocked(object, &candidates),
        images: candidates.iter().map(Candidate::images).sum(),
    }
}

pub(super) fn candidates(object: &Object<'_>) -> Vec<Candidate> {
    let candidates: Option<Vec<&RawValue>> = piece(object, "candidates");
    let read = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_default();
    candidates.unwrap_or_default().into_iter().map(read).collect()
}

/// Models of the first generation tell no usage.
fn embedded(object: &Object<'_>) -> Document {
    if let Some(status) = error_status(object) {
        return Document::Error { status };
    }
    match piece::<Object<'_>>(object, "embedding") {
        Some(_) => Document::Answer { usage: usage(object), blocked: None, images: 0 },
        None => Document::lacks("embedding"),
    }
}

impl Document {
    /// A JSON object that is no answer.
    fn lacks(field: &str) -> Self {
        Self::Broken { reason: format!("the answer has neither `{field}` nor an error") }
    }
}

/// What a count turned out to be.
#[derive(Debug)]
pub(super) enum Total {
    /// So many input tokens.
    Tokens(u64),
    /// An error document, with its code as the status.
    Error {
        /// From 400 to 599.
        status: u16,
    },
    /// No count.
    Broken {
        /// What is wrong; quotes nothing of it.
        reason: String,
    },
}

/// Reads the answer of `countTokens`. Total: any bytes give a `Total`.
///
/// The format leaves out a 0, but no request with contents weighs nothing, so an answer without a
/// count is one of something else.
pub(super) fn total(body: &[u8]) -> Total {
    let broken = |reason: &str| Total::Broken { reason: reason.to_owned() };
    let Ok(object) = serde_json::from_slice::<Object<'_>>(body) else {
        return broken("the answer is not a JSON object");
    };
    if let Some(status) = error_status(&object) {
        return Total::Error { status };
    }
    let count = object.get("totalTokens").and_then(|raw| unquoted(raw.get()).parse().ok());
    match count.filter(|count| *count <= COUNT_MAX) {
        Some(tokens) => Total::Tokens(tokens),
        None => broken("the answer has no `totalTokens`, or one that is no count"),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Candidate {
    pub(super) finish_reason: Option<String>,
    content: Option<Content>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    parts: Option<Vec<Part>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Part {
    inline_data: Option<InlineData>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InlineData {
    mime_type: Option<String>,
}

impl Candidate {
    /// A missing reason is proper: the provider leaves out what is empty.
    pub(super) fn is_proper(&self) -> bool {
        self.finish_reason.as_deref().is_none_or(|reason| ["STOP", "MAX_TOKENS"].contains(&reason))
    }

    pub(super) fn images(&self) -> u64 {
        let parts = self.content.as_ref().and_then(|content| content.parts.as_ref());
        let count = parts.into_iter().flatten().filter(|part| part.is_image()).count();
        u64::try_from(count).expect("a count fits 64 bits")
    }
}

impl Part {
    fn is_image(&self) -> bool {
        let mime_type = self.inline_data.as_ref().and_then(|data| data.mime_type.as_deref());
        mime_type.is_some_and(|mime_type| mime_type.starts_with("image/"))
    }
}

/// Why the prompt was not taken.
pub(super) fn block_reason(object: &Object<'_>) -> Option<String> {
    let feedback: Object<'_> = piece(object, "promptFeedback")?;
    let reason: String = piece(&feedback, "blockReason")?;
    Some(text::bounded(&reason, REASON_BYTES_MAX))
}

fn blocked(object: &Object<'_>, candidates: &[Candidate]) -> Option<String> {
    block_reason(object).or_else(|| {
        if candidates.iter().any(Candidate::is_proper) {
            return None;
        }
        let reason = candidates.iter().find_map(|candidate| candidate.finish_reason.as_deref())?;
        Some(text::bounded(reason, REASON_BYTES_MAX))
    })
}

/// None as well when a count is there but is no count: a wrong 0 would hand out quota twice.
pub(super) fn usage(object: &Object<'_>) -> Option<Usage> {
    let raw = object.get("usageMetadata")?.get();
    let counts: Object<'_> = serde_json::from_str(raw).ok()?;
    let count = |name| match counts.get(name).map(|raw| raw.get()) {
        None | Some("null") => Some(0),
        Some(text) => unquoted(text).parse().ok().filter(|count| *count <= COUNT_MAX),
    };
    Some(Usage {
        prompt: count("promptTokenCount")?,
        cached: count("cachedContentTokenCount")?,
        candidates: count("candidatesTokenCount")?,
        thoughts: count("thoughtsTokenCount")?,
        tool_use_prompt: count("toolUsePromptTokenCount")?,
        total: count("totalTokenCount")?,
        raw: (raw.len() <= USAGE_RAW_BYTES_MAX).then(|| raw.to_owned()),
    })
}

/// The format writes 64-bit integers as strings too.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

pub(super) fn error_status(object: &Object<'_>) -> Option<u16> {
    let error: Object<'_> = piece(object, "error")?;
    piece(&error, "code").filter(|code| (400..600).contains(code))
}

pub(super) fn piece<'a, T: Deserialize<'a>>(object: &Object<'a>, name: &str) -> Option<T> {
    serde_json::from_str(object.get(name)?.get()).ok()
}

#[cfg(test)]
mod tests;
