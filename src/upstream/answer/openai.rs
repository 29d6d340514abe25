//! Answers of OpenAI's methods, by whomever they are served.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{COUNT_MAX, Document, Object, REASON_BYTES_MAX, USAGE_RAW_BYTES_MAX, piece};
use crate::upstream::{Usage, text};

/// Reads an answer of `chat/completions`.
pub(in crate::upstream) fn completion(object: &Object<'_>) -> Document {
    if let Some(status) = error_status(object) {
        return Document::Error { status };
    }
    let choices: Option<Vec<&RawValue>> = piece(object, "choices");
    // Gemini's proto3 JSON leaves out a list that is empty, which is how it blocks a prompt.
    let is_completion = piece(object, "object").is_some_and(|kind: &str| kind == "chat.completion");
    if choices.is_none() && !is_completion {
        return Document::lacks("choices");
    }
    let choices = choices.unwrap_or_default().into_iter().map(choice).collect::<Vec<_>>();
    Document::Answer { usage: usage(object), blocked: blocked(&choices), images: 0 }
}

/// The choices of a completion, or of a part of one.
pub(in crate::upstream) fn choices(object: &Object<'_>) -> Vec<Choice> {
    let choices: Option<Vec<&RawValue>> = piece(object, "choices");
    choices.unwrap_or_default().into_iter().map(choice).collect()
}

fn choice(raw: &RawValue) -> Choice {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

/// Reads an answer of `embeddings`.
pub(in crate::upstream) fn embeddings(object: &Object<'_>) -> Document {
    if let Some(status) = error_status(object) {
        return Document::Error { status };
    }
    match piece::<Vec<&RawValue>>(object, "data") {
        Some(data) if !data.is_empty() => {
            Document::Answer { usage: usage(object), blocked: None, images: 0 }
        }
        Some(_) | None => Document::lacks("data"),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::upstream) struct Choice {
    pub(in crate::upstream) finish_reason: Option<String>,
    message: Option<Message>,
    delta: Option<Message>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    refusal: Option<String>,
}

impl Choice {
    /// Why it is no proper text. Gemini writes more behind the word: `content_filter: SAFETY`; a
    /// gateway that lost its provider on the way says `error`.
    pub(in crate::upstream) fn trouble(&self) -> Option<&str> {
        let reason = self.finish_reason.as_deref().unwrap_or_default();
        let message = self.message.as_ref().or(self.delta.as_ref());
        let refusal = message.and_then(|message| message.refusal.as_deref());
        if reason.starts_with("content_filter") || reason == "error" {
            Some(reason)
        } else if refusal.is_some_and(|refusal| !refusal.is_empty()) {
            Some("refusal")
        } else {
            None
        }
    }
}

fn blocked(choices: &[Choice]) -> Option<String> {
    let Some(first) = choices.first() else { return Some("no_choices".to_owned()) };
    let reason = first.trouble()?;
    choices
        .iter()
        .all(|choice| choice.trouble().is_some())
        .then(|| text::bounded(reason, REASON_BYTES_MAX))
}

/// None as well when a count is there but is no count, and without `prompt_tokens`: a wrong 0 would
/// hand out quota twice.
pub(in crate::upstream) fn usage(object: &Object<'_>) -> Option<Usage> {
    let raw = object.get("usage")?.get();
    let counts: Object<'_> = serde_json::from_str(raw).ok()?;
    let prompt = counts.get("prompt_tokens").and_then(|raw| raw.get().parse().ok())?;
    let completion = count(&counts, "completion_tokens")?;
    let total = count(&counts, "total_tokens")?;
    let reasoning = detail(&counts, "completion_tokens_details", "reasoning_tokens")?;
    let beyond = total.saturating_sub(completion).saturating_sub(prompt);
    // OpenAI counts reasoning as completion. Gemini does not, and tells it in the total alone.
    let (candidates, thoughts) = if beyond > 0 {
        (completion, beyond)
    } else {
        (completion.saturating_sub(reasoning), reasoning.min(completion))
    };
    (prompt <= COUNT_MAX).then(|| Usage {
        prompt,
        cached: detail(&counts, "prompt_tokens_details", "cached_tokens").unwrap_or(0),
        candidates,
        thoughts,
        tool_use_prompt: 0,
        total,
        raw: (raw.len() <= USAGE_RAW_BYTES_MAX).then(|| raw.to_owned()),
    })
}

/// 0 when it is absent: the formats of some providers leave out zeros.
pub(super) fn count(counts: &Object<'_>, name: &str) -> Option<u64> {
    match counts.get(name).map(|raw| raw.get()) {
        None | Some("null") => Some(0),
        Some(text) => text.parse().ok().filter(|count| *count <= COUNT_MAX),
    }
}

pub(super) fn detail(counts: &Object<'_>, details: &str, name: &str) -> Option<u64> {
    match piece::<Option<Object<'_>>>(counts, details).flatten() {
        Some(details) => count(&details, name),
        None => Some(0),
    }
}

/// The status that an error document stands for when it came with a success status: its code, or
/// what its words are known to mean; of others, a fault of the provider.
pub(in crate::upstream) fn error_status(object: &Object<'_>) -> Option<u16> {
    let raw = object.get("error")?.get();
    if ["null", "false", "\"\"", "{}"].contains(&raw) {
        return None;
    }
    let error: Object<'_> = serde_json::from_str(raw).unwrap_or_default();
    Some(word_status(&error))
}

/// The same of the members of an error.
pub(super) fn word_status(error: &Object<'_>) -> u16 {
    let word = |name| piece::<String>(error, name).unwrap_or_default();
    let (code, kind) = (word("code"), word("type"));
    let stated = piece(error, "code").or_else(|| code.parse().ok());
    if let Some(status) = stated.filter(|status| (400..600).contains(status)) {
        return status;
    }
    let status = [code.as_str(), kind.as_str()].into_iter().find_map(|word| match word {
        "invalid_api_key" | "authentication_error" | "authentication" => Some(401),
        "payment_required" => Some(402),
        "permission_denied" => Some(403),
        "model_not_found" | "not_found" => Some(404),
        "insufficient_quota" | "rate_limit_exceeded" | "requests" | "tokens" | "quota_exceeded" => {
            Some(429)
        }
        "context_length_exceeded" | "invalid_request_error" | "invalid_request" => Some(400),
        _ => None,
    });
    status.unwrap_or(500)
}

#[cfg(test)]
mod tests;
