//! PURE. Job files in, result lines out: total parsers over bytes.
//!
//! Nothing here does I/O, reads a clock or imports another room of the crate (wall A1). The name of
//! a file says how its text is cut into records ([`recognise`], [`Cutter`]), the first record in
//! which dialect it is ([`dialect_of`]). A caller gives the records in one by one: [`options_line`]
//! for the first, [`header`] and [`Template::compile`] for the header of a CSV file,
//! [`parse_line`] for every other. What a record asks of the provider is read again from the same
//! bytes by [`request_body`], so a queue needs to keep no more than an offset and a length, and
//! [`result_line`] answers it. No error quotes a prompt (wall A7). `docs/job-files.md` is the
//! user's page of the same rules.

use std::str;

mod cut;
mod envelope;
mod error;
mod footprint;
mod form;
mod inline;
mod kind;
mod media;
mod members;
mod name;
mod options;
mod results;
mod template;
mod walk;
mod weigh;
mod words;

#[cfg(test)]
mod tests;

pub use cut::{Broken, Cut, Cutter, End};
pub use error::{FormatError, LineError, OptionError, TemplateError};
pub use footprint::{Estimate, Footprint};
pub use form::Form;
pub use inline::inline_list;
pub use kind::{Kind, Script};
pub use name::{Family, FileName, Packing, recognise, suffixes};
pub use options::{
    BatchOptions, BatchPace, InDoubt, OnBadLine, Priority, SIDECAR_SUFFIX, begins_options,
    micro_dollars, options_line, sidecar, sidecar_text,
};
pub use results::{Ending, details, error_line, response_line, result_line};
pub use template::{TEMPLATE_BYTES_MAX, Template, header};
pub use weigh::{Shape, Weighed, weigh};
pub use words::UnknownWord;

use words::words;

words! {
    /// The language of a job file, and so of its results.
    pub enum Dialect {
        /// `{"key": …, "request": {GenerateContentRequest}}`, as the Gemini Batch API takes it.
        GeminiJsonl = "gemini-jsonl",
        /// `{"custom_id": …, "method": "POST", "url": …, "body": {…}}`, as the `OpenAI` Batch API
        /// takes it.
        OpenAiJsonl = "openai-jsonl",
        /// One prompt a line; its key is the line's number.
        Text = "text",
        /// One prompt a row, under a header.
        Csv = "csv",
    }
}

words! {
    /// Which API a project natively speaks.
    pub enum Wire {
        /// Google's.
        Gemini = "gemini",
        /// `OpenAI`'s, and that of those who follow it.
        OpenAi = "openai",
    }
}

words! {
    /// What a record asks for.
    pub enum Method {
        /// Gemini's `generateContent`.
        Generate = "generate",
        /// Gemini's `embedContent`.
        Embed = "embed",
        /// `OpenAI`'s chat completions.
        Chat = "chat",
        /// `OpenAI`'s embeddings.
        Embeddings = "embeddings",
    }
}

words! {
    /// In which dialect a file is answered.
    pub enum Answers {
        /// `{"key": …, "response": …}`.
        Gemini = "gemini",
        /// `{"custom_id": …, "response": {…}, "error": null}`.
        OpenAi = "openai",
    }
}

/// In which dialect a file of this dialect is answered: JSON in its own, prompts in that of the
/// project.
#[must_use]
pub fn answers_of(dialect: Dialect, wire: Wire) -> Answers {
    match (dialect, wire) {
        (Dialect::GeminiJsonl, _) | (Dialect::Text | Dialect::Csv, Wire::Gemini) => Answers::Gemini,
        (Dialect::OpenAiJsonl, _) | (Dialect::Text | Dialect::Csv, Wire::OpenAi) => Answers::OpenAi,
    }
}

/// In which dialect a file of this family is whose first record, options and header aside, is
/// this one.
#[must_use]
pub fn dialect_of(family: Family, first_record: &[u8]) -> Dialect {
    match (family, content(first_record)) {
        (Family::Text, _) => Dialect::Text,
        (Family::Csv, _) => Dialect::Csv,
        (Family::Jsonl | Family::Json, Ok(Some(text))) if envelope::is_openai(text) => {
            Dialect::OpenAiJsonl
        }
        (Family::Jsonl | Family::Json, _) => Dialect::GeminiJsonl,
    }
}

/// Longest NAME in bytes. `NAME.2.results.jsonl` and its temporary names must fit in the 255 bytes
/// that file systems allow.
pub const NAME_BYTES_MAX: usize = 200;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// A file whose lines another program wrote may begin with this, and so may every part of it after
/// several files were joined.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One item: what a record of a job file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Under which the answer is given: the record's own, or else its number.
    pub key: String,
    /// What the request weighs.
    pub footprint: Footprint,
    /// What it asks for; `None` for a prompt, which goes as the project has it.
    pub method: Option<Method>,
    /// The model that the request itself names, without `models/`; always for `OpenAI`'s dialect.
    pub model: Option<String>,
}

/// Reads record `number` (from 1) of a job file; `Ok(None)` for a blank one, which is no item.
///
/// One newline at the end and one byte order mark at the start are not part of the record. A text
/// file has a template where the options give one, a CSV file always; the other dialects have
/// none.
///
/// # Errors
/// The first reason why the record cannot become a request.
pub fn parse_line(
    dialect: Dialect,
    template: Option<&Template>,
    number: u64,
    record: &[u8],
) -> Result<Option<Line>, LineError> {
    let Some(text) = content(record)? else { return Ok(None) };
    let prompt = |key: String, prompt: &str| Line {
        key,
        footprint: Footprint::of_text(prompt),
        method: None,
        model: None,
    };
    match (dialect, template) {
        (Dialect::GeminiJsonl, _) => envelope::gemini(number, text).map(Some),
        (Dialect::OpenAiJsonl, _) => envelope::openai(text).map(Some),
        (Dialect::Text, None) => Ok(Some(prompt(number.to_string(), text))),
        (Dialect::Text, Some(template)) => {
            Ok(Some(prompt(number.to_string(), &template.fill(text))))
        }
        (Dialect::Csv, None) => Err(LineError::TemplateMissing),
        (Dialect::Csv, Some(template)) => {
            let (key, filled) = template.fill_row(text)?;
            Ok(Some(prompt(key.unwrap_or_else(|| number.to_string()), &filled)))
        }
    }
}

/// The key under which record `number` is answered: its own when it has a readable one, else its
/// number. Never fails, so that a bad record can be answered too.
#[must_use]
pub fn key_of(dialect: Dialect, template: Option<&Template>, number: u64, record: &[u8]) -> String {
    let own = match (dialect, content(record)) {
        (Dialect::GeminiJsonl | Dialect::OpenAiJsonl, Ok(Some(text))) => {
            envelope::key(dialect, text)
        }
        (Dialect::Csv, Ok(Some(text))) => template.and_then(|template| template.key_of(text)),
        (Dialect::GeminiJsonl | Dialect::OpenAiJsonl | Dialect::Text | Dialect::Csv, _) => None,
    };
    own.unwrap_or_else(|| number.to_string())
}

/// What to send to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub method: Method,
    /// The body, JSON.
    pub body: Vec<u8>,
}

/// What to send to the provider for a record: of a JSON record the very bytes of its request, of a
/// prompt a request with that text as the user's only part, in the form of `wire` and there for
/// `model`.
///
/// # Errors
/// Those of [`parse_line`] that concern the record as a whole and [`LineError::Blank`]; none for a
/// record which that accepted.
pub fn request_body(
    dialect: Dialect,
    template: Option<&Template>,
    wire: Wire,
    model: &str,
    record: &[u8],
) -> Result<Request, LineError> {
    let text = content(record)?.ok_or(LineError::Blank)?;
    let whole = |(method, body): (Method, &str)| Request { method, body: body.as_bytes().to_vec() };
    match (dialect, template) {
        (Dialect::GeminiJsonl, _) => envelope::gemini_body(text).map(whole),
        (Dialect::OpenAiJsonl, _) => envelope::openai_body(text).map(whole),
        (Dialect::Text, None) => Ok(prompt_request(wire, model, text)),
        (Dialect::Text, Some(template)) => Ok(prompt_request(wire, model, &template.fill(text))),
        (Dialect::Csv, None) => Err(LineError::TemplateMissing),
        (Dialect::Csv, Some(template)) => {
            Ok(prompt_request(wire, model, &template.fill_row(text)?.1))
        }
    }
}

fn prompt_request(wire: Wire, model: &str, prompt: &str) -> Request {
    let mut body = Vec::with_capacity(prompt.len().saturating_add(model.len()).saturating_add(96));
    match wire {
        Wire::Gemini => {
            body.extend_from_slice(br#"{"contents":[{"role":"user","parts":[{"text":"#);
            results::push_string(&mut body, prompt);
            body.extend_from_slice(b"}]}]}");
            Request { method: Method::Generate, body }
        }
        Wire::OpenAi => {
            body.extend_from_slice(br#"{"model":"#);
            results::push_string(&mut body, model);
            body.extend_from_slice(br#","messages":[{"role":"user","content":"#);
            results::push_string(&mut body, prompt);
            body.extend_from_slice(b"}]}");
            Request { method: Method::Chat, body }
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
