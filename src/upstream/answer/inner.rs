//! Answers of Gemini's `interactions` and OpenAI's `responses`: a document that an event stream
//! carries whole, inside its events.

use super::openai::{count, detail, error_status, word_status};
use super::{COUNT_MAX, Object, USAGE_RAW_BYTES_MAX, piece};
use crate::upstream::Usage;

/// What a document or an event of them says.
#[derive(Debug)]
pub(in crate::upstream) struct Turn {
    /// The provider's own count.
    pub(in crate::upstream) usage: Option<Usage>,
    /// How far it is: `completed`, `in_progress`, `requires_continuation`.
    pub(in crate::upstream) status: Option<String>,
    /// Of an error, as an HTTP status.
    pub(in crate::upstream) error: Option<u16>,
    /// The provider's name of it.
    pub(in crate::upstream) id: Option<String>,
    /// Who answers.
    pub(in crate::upstream) model: Option<String>,
}

/// Reads a document, or an event with the document as its member `name`.
pub(in crate::upstream) fn read(object: &Object<'_>, name: &str) -> Turn {
    let carried: Option<Object<'_>> = piece(object, name);
    let kind = ["event_type", "type"].into_iter().find_map(|name| piece::<String>(object, name));
    let kind = kind.as_deref().unwrap_or_default();
    // Parts of an answer have states and names of their own.
    let is_whole = kind.is_empty() || kind.starts_with("interaction.");
    let inner = carried.as_ref().or(Some(object).filter(|_| is_whole));
    let error = error_status(object).or_else(|| error_status(inner?));
    Turn {
        usage: inner.and_then(usage).or_else(|| usage(object)),
        status: inner.and_then(|inner| piece(inner, "status")),
        error: error.or_else(|| (kind == "error").then(|| word_status(object))),
        id: inner.and_then(|inner| piece(inner, "id")),
        model: inner.and_then(|inner| piece(inner, "model")),
    }
}

/// None without a count of the input, and when a count is no count.
fn usage(object: &Object<'_>) -> Option<Usage> {
    let raw = object.get("usage")?.get();
    let counts: Object<'_> = serde_json::from_str(raw).ok()?;
    let is_gemini = counts.contains_key("total_input_tokens");
    let input = if is_gemini { "total_input_tokens" } else { "input_tokens" };
    let prompt = counts.get(input).and_then(|raw| raw.get().parse().ok())?;
    let (cached, output, thoughts, tool_use_prompt) = if is_gemini {
        (
            count(&counts, "total_cached_tokens")?,
            count(&counts, "total_output_tokens")?,
            count(&counts, "total_thought_tokens")?,
            count(&counts, "total_tool_use_tokens")?,
        )
    } else {
        (
            detail(&counts, "input_tokens_details", "cached_tokens")?,
            count(&counts, "output_tokens")?,
            detail(&counts, "output_tokens_details", "reasoning_tokens")?,
            0,
        )
    };
    let total = count(&counts, "total_tokens")?;
    if prompt > COUNT_MAX {
        return None;
    }
    // OpenAI counts reasoning as output. Gemini does where the total leaves no room for it.
    let is_beside = total >= prompt + output + thoughts + tool_use_prompt;
    Some(Usage {
        prompt,
        cached,
        candidates: if is_beside { output } else { output.saturating_sub(thoughts) },
        thoughts,
        tool_use_prompt,
        total,
        raw: (raw.len() <= USAGE_RAW_BYTES_MAX).then(|| raw.to_owned()),
    })
}
