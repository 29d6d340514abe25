//! Results lines, in the dialect of the file.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Answers, LineError};

/// How an item ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// The provider answered.
    Answered {
        /// The document: one JSON value, which may be pretty-printed.
        body: &'a [u8],
        /// The provider's name for the request.
        request_id: Option<&'a str>,
    },
    /// The provider refused, or it was not asked.
    Fault {
        /// An HTTP status.
        code: u16,
        /// The provider's word for it, such as `INVALID_ARGUMENT`.
        word: &'a str,
        /// What went wrong.
        message: &'a str,
        /// The provider's own document, when it refused.
        refusal: Option<&'a [u8]>,
    },
}

/// The results line, newline included, of the item `item` under `key`. Numbers, strings and the
/// order of fields of the provider's documents stay as they are. The same is written for the same.
///
/// # Errors
/// [`LineError::NotUtf8`] and [`LineError::NotJson`] of an answer, counted from its start.
pub fn result_line(
    answers: Answers,
    key: &str,
    item: &str,
    ending: Ending<'_>,
) -> Result<Vec<u8>, LineError> {
    match (answers, ending) {
        (Answers::Gemini, Ending::Answered { body, .. }) => gemini_answer(key, body),
        (Answers::Gemini, Ending::Fault { code, word, message, refusal }) => {
            let details = refusal.and_then(details);
            Ok(gemini_fault(key, code, word, message, details))
        }
        (Answers::OpenAi, ending) => openai_line(key, item, ending),
    }
}

fn document(bytes: &[u8]) -> Result<&RawValue, LineError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| LineError::NotUtf8 { byte: error.valid_up_to().saturating_add(1) })?;
    serde_json::from_str(text).map_err(|error| LineError::from_json(&error, text, 0))
}

fn gemini_answer(key: &str, body: &[u8]) -> Result<Vec<u8>, LineError> {
    let document = document(body)?;
    let room = document.get().len().saturating_add(key.len()).saturating_add(64);
    let mut line = Vec::with_capacity(room);
    line.extend_from_slice(br#"{"key":"#);
    push_string(&mut line, key);
    line.extend_from_slice(br#","response":"#);
    push_compact(&mut line, document);
    line.extend_from_slice(b"}\n");
    Ok(line)
}

/// What a refusal says besides its message.
#[derive(serde::Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    error: RefusalError<'a>,
}

#[derive(serde::Deserialize)]
struct RefusalError<'a> {
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

fn details(refusal: &[u8]) -> Option<&RawValue> {
    let refusal: Refusal<'_> = serde_json::from_slice(refusal).ok()?;
    refusal.error.details
}

fn gemini_fault(
    key: &str,
    code: u16,
    word: &str,
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
    push_string(&mut line, word);
    if let Some(details) = details {
        line.extend_from_slice(br#","details":"#);
        push_compact(&mut line, details);
    }
    line.extend_from_slice(b"}}\n");
    line
}

fn openai_line(key: &str, item: &str, ending: Ending<'_>) -> Result<Vec<u8>, LineError> {
    let mut line = br#"{"id":"#.to_vec();
    push_string(&mut line, &format!("batch_req_{item}"));
    line.extend_from_slice(br#","custom_id":"#);
    push_string(&mut line, key);
    line.extend_from_slice(br#","response":"#);
    match ending {
        Ending::Answered { body, request_id } => {
            push_response(&mut line, 200, request_id.unwrap_or_default(), document(body)?);
            line.extend_from_slice(br#","error":null"#);
        }
        Ending::Fault { code, word, message, refusal } => {
            let document = refusal.and_then(|refusal| document(refusal).ok());
            match document {
                Some(document) => {
                    push_response(&mut line, code, "", document);
                    line.extend_from_slice(br#","error":null"#);
                }
                None => {
                    line.extend_from_slice(br#"null,"error":{"code":"#);
                    push_string(&mut line, &openai_code(code, word));
                    line.extend_from_slice(br#","message":"#);
                    push_string(&mut line, message);
                    line.push(b'}');
                }
            }
        }
    }
    line.extend_from_slice(b"}\n");
    Ok(line)
}

fn push_response(line: &mut Vec<u8>, code: u16, request_id: &str, document: &RawValue) {
    line.extend_from_slice(br#"{"status_code":"#);
    line.extend_from_slice(code.to_string().as_bytes());
    line.extend_from_slice(br#","request_id":"#);
    push_string(line, request_id);
    line.extend_from_slice(br#","body":"#);
    push_compact(line, document);
    line.push(b'}');
}

/// The word of the `OpenAI` dialect for the end of an item without an answer.
fn openai_code(code: u16, word: &str) -> String {
    match code {
        400 => "invalid_request_error".to_owned(),
        499 => "batch_cancelled".to_owned(),
        504 => "request_timeout".to_owned(),
        _ => word.to_ascii_lowercase(),
    }
}

/// A document on one line.
pub(super) fn compact(text: &str) -> Result<Vec<u8>, LineError> {
    let document = document(text.as_bytes())?;
    let mut line = Vec::with_capacity(text.len());
    push_compact(&mut line, document);
    Ok(line)
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
