//! Result lines, in the dialects of the two batch interfaces.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Answers, LineError};

/// How an item ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// The provider answered it.
    Answered {
        /// The HTTP status.
        status: u16,
        /// One JSON document, which may be pretty-printed.
        body: &'a [u8],
        /// The provider's name for the request.
        request_id: Option<&'a str>,
    },
    /// The provider refused it.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the provider sent, if it was anything.
        body: Option<&'a [u8]>,
        /// The provider's word for it (`INVALID_ARGUMENT`).
        word: &'a str,
        /// What the provider says of it.
        message: &'a str,
        /// Whatever else the provider says, a JSON document.
        details: Option<&'a RawValue>,
    },
    /// It was not sent, or its answer is not known.
    NotSent {
        /// The HTTP status that comes nearest.
        code: u16,
        /// A word for it, as Gemini has them: `CANCELLED`.
        word: &'a str,
        /// Why.
        message: &'a str,
    },
}

/// The result line, newline included, of an item. `item` names it in `OpenAI`'s dialect: letters,
/// digits and `_`. Numbers, strings and the order of fields of the provider's documents stay as
/// they are.
///
/// # Errors
/// [`LineError::NotUtf8`] and [`LineError::NotJson`] for an answer that is no JSON document,
/// counted from its start. A refusal that is none is told in words.
pub fn result_line(
    answers: Answers,
    key: &str,
    item: &str,
    ending: &Ending<'_>,
) -> Result<Vec<u8>, LineError> {
    match (answers, *ending) {
        (Answers::Gemini, Ending::Answered { body, .. }) => response_line(key, body),
        (Answers::Gemini, Ending::Refused { status, word, message, details, .. }) => {
            Ok(error_line(key, status, word, message, details))
        }
        (Answers::Gemini, Ending::NotSent { code, word, message }) => {
            Ok(error_line(key, code, word, message, None))
        }
        (Answers::OpenAi, Ending::Answered { status, body, request_id }) => {
            Ok(openai_response(key, item, status, request_id, document(body)?))
        }
        (Answers::OpenAi, Ending::Refused { status, body, word, message, .. }) => {
            let told = body.and_then(|body| document(body).ok()).map(RawValue::to_owned);
            let told = told.unwrap_or_else(|| openai_error(word, message));
            Ok(openai_response(key, item, status, None, &told))
        }
        (Answers::OpenAi, Ending::NotSent { word, message, .. }) => {
            Ok(openai_not_sent(key, item, word, message))
        }
    }
}

/// The result line, newline included, of an item that `response` answers: one JSON document, which
/// may be pretty-printed. Its numbers, its strings and the order of its fields stay as they are.
///
/// # Errors
/// [`LineError::NotUtf8`] and [`LineError::NotJson`], counted from the start of `response`.
pub fn response_line(key: &str, response: &[u8]) -> Result<Vec<u8>, LineError> {
    let document = document(response)?;
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

/// What a refusal of Gemini's says besides its message.
#[must_use]
pub fn details(refusal: &[u8]) -> Option<&RawValue> {
    #[derive(serde::Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        error: Told<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Told<'a> {
        #[serde(borrow)]
        details: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Refusal<'_>>(refusal).ok()?.error.details
}

fn document(body: &[u8]) -> Result<&RawValue, LineError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| LineError::NotUtf8 { byte: error.valid_up_to().saturating_add(1) })?;
    serde_json::from_str(text).map_err(|error| LineError::from_json(&error, text, 0))
}

fn openai_response(
    key: &str,
    item: &str,
    status: u16,
    request_id: Option<&str>,
    body: &RawValue,
) -> Vec<u8> {
    let mut line = openai_start(key, item, body.get().len());
    line.extend_from_slice(br#"{"status_code":"#);
    line.extend_from_slice(status.to_string().as_bytes());
    line.extend_from_slice(br#","request_id":"#);
    push_string(&mut line, request_id.unwrap_or_default());
    line.extend_from_slice(br#","body":"#);
    push_compact(&mut line, body);
    line.extend_from_slice(b"},\"error\":null}\n");
    line
}

fn openai_not_sent(key: &str, item: &str, word: &str, message: &str) -> Vec<u8> {
    let code = match word {
        "CANCELLED" => "batch_cancelled".to_owned(),
        "EXPIRED" => "batch_expired".to_owned(),
        "UNKNOWN" => "request_timeout".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    let mut line = openai_start(key, item, message.len());
    line.extend_from_slice(br#"null,"error":{"code":"#);
    push_string(&mut line, &code);
    line.extend_from_slice(br#","message":"#);
    push_string(&mut line, message);
    line.extend_from_slice(b"}}\n");
    line
}

fn openai_start(key: &str, item: &str, room: usize) -> Vec<u8> {
    let room = room.saturating_add(key.len()).saturating_add(160);
    let mut line = Vec::with_capacity(room);
    line.extend_from_slice(br#"{"id":"#);
    push_string(&mut line, &format!("batch_req_{item}"));
    line.extend_from_slice(br#","custom_id":"#);
    push_string(&mut line, key);
    line.extend_from_slice(br#","response":"#);
    line
}

/// A refusal in the provider's form.
fn openai_error(word: &str, message: &str) -> Box<RawValue> {
    let mut body = br#"{"error":{"message":"#.to_vec();
    push_string(&mut body, message);
    body.extend_from_slice(br#","type":"#);
    push_string(&mut body, word);
    body.extend_from_slice(br#","param":null,"code":null}}"#);
    let text = String::from_utf8(body).expect("JSON of two texts is UTF-8");
    RawValue::from_string(text).expect("JSON was just put together")
}

/// Appends a document on one line.
pub(super) fn push_document(out: &mut Vec<u8>, text: &str) -> Result<(), LineError> {
    push_compact(out, document(text.as_bytes())?);
    Ok(())
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
