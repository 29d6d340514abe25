//! PURE. Job files in, result lines out: total parsers over bytes.
//!
//! Nothing here does I/O, reads a clock or imports another room of the crate (wall A1). A caller
//! cuts a file at its newlines, bounds the lines' length, and gives them in one by one:
//! [`options_line`] for the first, [`parse_line`] for every one. What a line asks of the provider
//! is read again from the same bytes by [`request_body`], so a queue needs to keep no more than
//! an offset and a length. No error quotes a prompt (wall A7). `docs/job-files.md` is the user's
//! page of the same rules.

use std::str;

mod error;
mod footprint;
mod jsonl;
mod kind;
mod media;
mod options;
mod results;
mod words;

#[cfg(test)]
mod tests;

pub use error::{FormatError, LineError, OptionError};
pub use footprint::{Estimate, Footprint};
pub use kind::{Kind, Script};
pub use options::{
    BatchOptions, BatchPace, InDoubt, OnBadLine, Priority, SIDECAR_SUFFIX, micro_dollars,
    options_line, sidecar, sidecar_text,
};
pub use results::{error_line, response_line};
pub use words::UnknownWord;

use jsonl::Envelope;
use words::words;

words! {
    /// The language of a job file, and so of its results.
    pub enum Dialect {
        /// One `{"key": …, "request": {GenerateContentRequest}}` a line, as the Gemini Batch API
        /// takes it.
        GeminiJsonl = "gemini-jsonl",
        /// One prompt a line; its key is the line's number.
        Text = "text",
    }
}

/// How a job file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// Longest NAME in bytes. `NAME.2.results.jsonl` and its temporary names must fit in the 255 bytes
/// that file systems allow.
pub const NAME_BYTES_MAX: usize = 200;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// A file whose lines another program wrote may begin with this, and so may every part of it after
/// several files were joined.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Says from a dropped file's name which dialect it is in and what its results are named after
/// (the name without the format's suffix).
///
/// # Errors
/// A suffix that is not accepted, or a name that cannot name results: empty, hidden, longer than
/// [`NAME_BYTES_MAX`], with a slash or a control character.
pub fn recognise(file_name: &str) -> Result<(Dialect, &str), FormatError> {
    let (name, suffix) = file_name.rsplit_once('.').unwrap_or((file_name, ""));
    let dialect = if suffix.eq_ignore_ascii_case("jsonl") {
        Dialect::GeminiJsonl
    } else if suffix.eq_ignore_ascii_case("txt") {
        Dialect::Text
    } else {
        return Err(FormatError::unaccepted(suffix));
    };
    match name_trouble(name) {
        Some(problem) => Err(FormatError::Name { problem }),
        None => Ok((dialect, name)),
    }
}

/// Why `name` cannot name a batch's results; `None` when it can.
fn name_trouble(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("is longer than 200 bytes")
    } else if name.starts_with('.') {
        Some("starts with a dot")
    } else if name.chars().any(|c| c == '/' || c.is_control()) {
        Some("has a slash or a control character in it")
    } else {
        None
    }
}

/// One item: what a line of a job file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Under which the answer is given: the line's `key`, or in a text file its number.
    pub key: String,
    /// What the request weighs.
    pub footprint: Footprint,
}

/// Reads line `number` (from 1) of a job file; `Ok(None)` for a blank one, which is no item.
///
/// One newline at the end and one byte order mark at the start are not part of the line.
///
/// # Errors
/// The first reason why the line cannot become a request.
pub fn parse_line(dialect: Dialect, number: u64, line: &[u8]) -> Result<Option<Line>, LineError> {
    let Some(text) = content(line)? else { return Ok(None) };
    match dialect {
        Dialect::GeminiJsonl => jsonl::item(text).map(Some),
        Dialect::Text => {
            Ok(Some(Line { key: number.to_string(), footprint: Footprint::of_text(text) }))
        }
    }
}

/// The key under which line `number` is answered: its own when it has a readable one, else the
/// line's number. Never fails, so that a bad line can be answered too.
#[must_use]
pub fn key_of(dialect: Dialect, number: u64, line: &[u8]) -> String {
    let own = match (dialect, content(line)) {
        (Dialect::GeminiJsonl, Ok(Some(text))) => {
            Envelope::parse(text).and_then(|envelope| envelope.key()).ok()
        }
        (Dialect::GeminiJsonl | Dialect::Text, _) => None,
    };
    own.unwrap_or_else(|| number.to_string())
}

/// The body to send to the provider for a line: of a JSONL line the very bytes of its `request`, of
/// a text line a request with that text as the user's only part.
///
/// # Errors
/// Those of [`parse_line`] that concern the line as a whole and [`LineError::Blank`]; none for a
/// line which that accepted.
pub fn request_body(dialect: Dialect, line: &[u8]) -> Result<Vec<u8>, LineError> {
    let text = content(line)?.ok_or(LineError::Blank)?;
    match dialect {
        Dialect::GeminiJsonl => Ok(Envelope::parse(text)?.request()?.as_bytes().to_vec()),
        Dialect::Text => {
            let mut body = Vec::with_capacity(text.len().saturating_add(64));
            body.extend_from_slice(br#"{"contents":[{"role":"user","parts":[{"text":"#);
            results::push_string(&mut body, text);
            body.extend_from_slice(b"}]}]}");
            Ok(body)
        }
    }
}

/// The text of a line without mark and newline; `None` when nothing but white space is left.
fn content(line: &[u8]) -> Result<Option<&str>, LineError> {
    let (mark, bytes) = match line.strip_prefix(BYTE_ORDER_MARK) {
        Some(bytes) => (BYTE_ORDER_MARK.len(), bytes),
        None => (0, line),
    };
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.trim_ascii_start().is_empty() {
        return Ok(None);
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            Err(LineError::NotUtf8 { byte: error.valid_up_to().saturating_add(mark + 1) })
        }
    }
}
