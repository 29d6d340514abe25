//! Result lines of the Gemini batch dialect, in which text files are answered too.

use serde::Serialize;
use serde_json::value::RawValue;

use super::LineError;

/// The result line, newline included, of an item that `response` answers: one JSON document, which
/// may be pretty-printed. Its numbers, its strings and the order of its fields stay as they are.
///
/// # Errors
/// [`LineError::NotUtf8`] and [`LineError::NotJson`], counted from the start of `response`.
pub fn response_line(key: &str, response: &[u8]) -> Result<Vec<u8>, LineError> {
    let text = std::str::from_utf8(response)
        .map_err(|error| LineError::NotUtf8 { byte: error.valid_up_to().saturating_add(1) })?;
    let document: &RawValue =
        serde_json::from_str(text).map_err(|error| LineError::from_json(&error, text, 0))?;
    let room = document.get().len().saturating_add(key.len()).saturating_add(64);
    let mut line = Vec::with_capacity(room);
    line.extend_from_slice(br#"{"key":"#);
    push_string(&mut line, key);
    line.extend_from_slice(br#","response":"#);
    push_compact(&mut line, document);
    line.extend_from_slice(b"}\n");
    Ok(line)
}

/// The result line, newline included, of an item that has no answer. `code` is an HTTP status,
/// `status` the provider's word for it (`INVALID_ARGUMENT`), `details` whatever else the provider
/// sent, kept as it is.
#[must_use]
pub fn error_line(
    key: &str,
    code: u16,
    status: &str,
    message: &str,
    details: Option<&RawValue>,
) -> Vec<u8> {
    let mut line = br#"{"key":"#.to_vec();
    push_string(&mut line, key);
    line.extend_from_slice(br#","error":{"code":"#);
    line.extend_from_slice(code.to_string().as_bytes());
    line.extend_from_slice(br#","message":"#);
    push_string(&mut line, message);
    line.extend_from_slice(br#","status":"#);
    push_string(&mut line, status);
    if let Some(details) = details {
        line.extend_from_slice(br#","details":"#);
        push_compact(&mut line, details);
    }
    line.extend_from_slice(b"}}\n");
    line
}

/// Appends `text` as a JSON string.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    text.serialize(&mut serde_json::Serializer::new(out))
        .expect("a string always serialises, and a vector takes every byte");
}

/// Appends a document without the white space between its tokens, and so on one line: within a
/// string JSON allows no newline.
fn push_compact(out: &mut Vec<u8>, document: &RawValue) {
    let mut rest = document.get().as_bytes();
    while let Some(quote) = rest.iter().position(|&byte| byte == b'"') {
        let (between, string) = rest.split_at(quote);
        out.extend(between.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let (string, after) = string.split_at(string_len(string));
        out.extend_from_slice(string);
        rest = after;
    }
    out.extend(rest.iter().filter(|byte| !byte.is_ascii_whitespace()));
}

/// The length of the string at the start of `bytes`, both quotes included.
fn string_len(bytes: &[u8]) -> usize {
    let mut escaped = false;
    let closing = bytes.iter().skip(1).position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    closing.map_or(bytes.len(), |closing| closing.saturating_add(2))
}
