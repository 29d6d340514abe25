//! PURE. Job files in, result lines out: total parsers over bytes.
//!
//! Nothing here does I/O, reads a clock or imports another room of the crate (wall A1). A caller
//! cuts a file into records, bounds their length, and gives them in one by one: [`options_line`]
//! for the first, [`dialect_of`] for the first that is none, [`Form::parse_line`] for every one.
//! What a record asks of the provider is read again from the same bytes by [`Form::request`], so a
//! queue needs to keep no more than an offset and a length. No error quotes a prompt (wall A7). `docs/job-files.md` is the user's
//! page of the same rules.

use std::borrow::Cow;
use std::str;

mod csv;
mod error;
mod footprint;
mod jsonl;
mod kind;
mod media;
mod openai;
mod options;
mod results;
mod template;
mod words;

#[cfg(test)]
mod tests;

pub use csv::CsvState;
pub use error::{FormatError, LineError, OptionError};
pub use footprint::{Estimate, Footprint};
pub use kind::{Kind, Script};
pub use options::{
    BatchOptions, BatchPace, InDoubt, OnBadLine, Priority, SIDECAR_SUFFIX, micro_dollars,
    options_line, sidecar, sidecar_text,
};
pub use results::{Ending, result_line};
pub use template::Template;
pub use words::UnknownWord;

use jsonl::Envelope;
use words::words;

words! {
    /// The language of a job file's records.
    pub enum Dialect {
        /// `{"key": …, "request": {…}}`, as the Gemini Batch API takes it.
        GeminiJsonl = "gemini-jsonl",
        /// `{"custom_id": …, "method": "POST", "url": …, "body": {…}}`, as the `OpenAI` Batch API
        /// takes it.
        OpenAiJsonl = "openai-jsonl",
        /// A Gemini request alone; its key is its number.
        GeminiRequests = "gemini-requests",
        /// A prompt; its key is the number of its line.
        Text = "text",
        /// A row of comma-separated values, of which a template makes a prompt.
        Csv = "csv",
    }
}

words! {
    /// The dialect of results lines.
    pub enum Answers {
        /// `{"key": …, "response": {…}}` or `{"key": …, "error": {…}}`.
        Gemini = "gemini",
        /// `{"id": …, "custom_id": …, "response": {…}, "error": …}`.
        OpenAi = "openai",
    }
}

/// What a provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Gemini's `generateContent`.
    Generate,
    /// Gemini's `embedContent`.
    Embed,
    /// `OpenAI`'s `chat/completions`.
    Chat,
    /// `OpenAI`'s `embeddings`.
    Embeddings,
}

/// How a job file is cut into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `.jsonl`, `.ndjson`: a JSON object a line.
    Jsonl,
    /// `.json`: one object, or a list of them.
    Json,
    /// `.txt`: a prompt a line.
    Text,
    /// `.csv`: a row a record, the first of them the header.
    Csv,
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

/// What the name of a dropped file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName<'a> {
    /// What results are named after: the name without the suffixes of its format.
    pub stem: &'a str,
    /// How it is cut into records.
    pub family: Family,
    /// How it is packed.
    pub packing: Packing,
}

/// Reads the name of a dropped file.
///
/// # Errors
/// A suffix that is not accepted, or a name that cannot name results: empty, hidden, longer than
/// [`NAME_BYTES_MAX`], with a slash or a control character.
pub fn recognise(file_name: &str) -> Result<FileName<'_>, FormatError> {
    let cut = |name: &'_ str| name.rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase());
    let before = |name: &'_ str, suffix: &str| name.len().saturating_sub(suffix.len() + 1);
    let suffix = cut(file_name).unwrap_or_default();
    let packing = match suffix.as_str() {
        "gz" => Packing::Gzip,
        "zst" => Packing::Zstd,
        _ => Packing::Plain,
    };
    let inner = match packing {
        Packing::Plain => file_name,
        Packing::Gzip | Packing::Zstd => &file_name[..before(file_name, &suffix)],
    };
    let suffix = cut(inner).unwrap_or_default();
    let family = match suffix.as_str() {
        "jsonl" | "ndjson" => Family::Jsonl,
        "json" => Family::Json,
        "txt" => Family::Text,
        "csv" => Family::Csv,
        _ => return Err(FormatError::unaccepted(&suffix)),
    };
    let stem = &inner[..before(inner, &suffix)];
    match name_trouble(stem) {
        Some(problem) => Err(FormatError::Name { problem }),
        None => Ok(FileName { stem, family, packing }),
    }
}

/// The dialect of a file by its first record that is no options. A record that says nothing of it
/// is taken for Gemini's, so that what is wrong with it is told in these terms.
#[must_use]
pub fn dialect_of(family: Family, first: &[u8]) -> Dialect {
    match family {
        Family::Text => Dialect::Text,
        Family::Csv => Dialect::Csv,
        Family::Jsonl | Family::Json => {
            let envelope =
                content(first).ok().flatten().and_then(|text| Envelope::parse(text).ok());
            match envelope {
                Some(envelope) if envelope.is_openai() => Dialect::OpenAiJsonl,
                Some(envelope) if family == Family::Json && envelope.is_bare() => {
                    Dialect::GeminiRequests
                }
                Some(_) | None => Dialect::GeminiJsonl,
            }
        }
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

/// One item: what a record of a job file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Under which the answer is given.
    pub key: String,
    /// What the request weighs.
    pub footprint: Footprint,
    /// What is asked for; none of a prompt, of which any provider makes what it can.
    pub method: Option<Method>,
    /// The model that the record itself names, without `models/`.
    pub model: Option<String>,
}

/// What is sent for an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// The JSON document.
    pub body: Vec<u8>,
}

/// How the records of a batch are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Their language.
    pub dialect: Dialect,
    /// What becomes a prompt of a row or a line; a row without one is bad.
    pub template: Option<Template>,
    /// In which dialect they are answered, and so what a prompt is sent as.
    pub answers: Answers,
}

impl Form {
    /// Records of a dialect that needs no template, answered in Gemini's dialect, or `OpenAI`'s
    /// where they are in it.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        let answers = match dialect {
            Dialect::OpenAiJsonl => Answers::OpenAi,
            Dialect::GeminiJsonl | Dialect::GeminiRequests | Dialect::Text | Dialect::Csv => {
                Answers::Gemini
            }
        };
        Self { dialect, template: None, answers }
    }

    /// Reads record `number` (from 1) of a job file; `Ok(None)` for a blank one, which is no item.
    ///
    /// One newline at the end and one byte order mark at the start are not part of the record.
    ///
    /// # Errors
    /// The first reason why the record cannot become a request.
    pub fn parse_line(&self, number: u64, record: &[u8]) -> Result<Option<Line>, LineError> {
        let Some(text) = content(record)? else { return Ok(None) };
        match self.dialect {
            Dialect::GeminiJsonl => jsonl::item(text).map(Some),
            Dialect::OpenAiJsonl => openai::item(text).map(Some),
            Dialect::GeminiRequests => jsonl::bare(text, number).map(Some),
            Dialect::Text | Dialect::Csv => {
                let (key, prompt) = self.prompt(number, text)?;
                let footprint = Footprint::of_text(&prompt);
                Ok(Some(Line { key, footprint, method: None, model: None }))
            }
        }
    }

    /// The key under which record `number` is answered: its own when it has a readable one, else
    /// its number. Never fails, so that a bad record can be answered too.
    #[must_use]
    pub fn key_of(&self, number: u64, record: &[u8]) -> String {
        let Ok(Some(text)) = content(record) else { return number.to_string() };
        let own = match self.dialect {
            Dialect::GeminiJsonl => Envelope::parse(text).and_then(|envelope| envelope.key()).ok(),
            Dialect::OpenAiJsonl => {
                Envelope::parse(text).and_then(|envelope| envelope.custom_id()).ok()
            }
            Dialect::Csv => self.prompt(number, text).ok().map(|(key, _)| key),
            Dialect::GeminiRequests | Dialect::Text => None,
        };
        own.unwrap_or_else(|| number.to_string())
    }

    /// What is sent for a record to `model`: the very bytes of the request in it, or for a prompt a
    /// request with that text as the user's only part.
    ///
    /// # Errors
    /// Those of [`Form::parse_line`] that concern the record as a whole and [`LineError::Blank`];
    /// none for a record which that accepted.
    pub fn request(&self, model: &str, record: &[u8]) -> Result<Request, LineError> {
        let text = content(record)?.ok_or(LineError::Blank)?;
        match self.dialect {
            Dialect::GeminiJsonl => {
                let envelope = Envelope::parse(text)?;
                jsonl::request(envelope.request()?)
            }
            Dialect::GeminiRequests => jsonl::request(text),
            Dialect::OpenAiJsonl => {
                let envelope = Envelope::parse(text)?;
                let body = envelope.body()?.as_bytes().to_vec();
                Ok(Request { method: envelope.url()?, body })
            }
            Dialect::Text | Dialect::Csv => {
                let (_, prompt) = self.prompt(0, text)?;
                Ok(self.ask(model, &prompt))
            }
        }
    }

    /// A line of a `.jsonl` file, without its newline, that asks for what a record does, under the
    /// key that the record has.
    ///
    /// # Errors
    /// As of [`Form::request`].
    pub fn as_line(&self, model: &str, number: u64, record: &[u8]) -> Result<Vec<u8>, LineError> {
        let text = content(record)?.ok_or(LineError::Blank)?;
        match self.dialect {
            Dialect::GeminiJsonl | Dialect::OpenAiJsonl => results::compact(text),
            Dialect::GeminiRequests | Dialect::Text | Dialect::Csv => {
                let key = self.key_of(number, record);
                let Request { body, .. } = self.request(model, record)?;
                let mut line = Vec::with_capacity(body.len().saturating_add(128));
                let (head, middle): (&[u8], &[u8]) = match self.answers {
                    Answers::Gemini => (br#"{"key":"#, br#","request":"#),
                    Answers::OpenAi => (
                        br#"{"custom_id":"#,
                        br#","method":"POST","url":"/v1/chat/completions","body":"#,
                    ),
                };
                line.extend_from_slice(head);
                results::push_string(&mut line, &key);
                line.extend_from_slice(middle);
                line.extend(results::compact(str::from_utf8(&body).unwrap_or_default())?);
                line.push(b'}');
                Ok(line)
            }
        }
    }

    /// The key and the prompt of a line or row.
    fn prompt<'t>(&self, number: u64, text: &'t str) -> Result<(String, Cow<'t, str>), LineError> {
        let number = number.to_string();
        match (self.dialect, &self.template) {
            (Dialect::Csv, Some(template)) => {
                let fields = csv::fields(text);
                let prompt = template.prompt(&fields)?;
                let key = match template.key(&fields) {
                    Some(key) => jsonl::checked_key(key.to_owned())?,
                    None => number,
                };
                Ok((key, Cow::Owned(prompt)))
            }
            (Dialect::Csv, None) => Err(LineError::NoTemplate),
            (_, Some(template)) => {
                Ok((number, Cow::Owned(template.prompt(&[Cow::Borrowed(text)])?)))
            }
            (_, None) => Ok((number, Cow::Borrowed(text))),
        }
    }

    fn ask(&self, model: &str, prompt: &str) -> Request {
        let mut body = Vec::with_capacity(prompt.len().saturating_add(128));
        match self.answers {
            Answers::Gemini => {
                body.extend_from_slice(br#"{"contents":[{"role":"user","parts":[{"text":"#);
                results::push_string(&mut body, prompt);
                body.extend_from_slice(b"}]}]}");
                Request { method: Method::Generate, body }
            }
            Answers::OpenAi => {
                body.extend_from_slice(br#"{"model":"#);
                results::push_string(&mut body, model);
                body.extend_from_slice(br#","messages":[{"role":"user","content":"#);
                results::push_string(&mut body, prompt);
                body.extend_from_slice(b"}]}");
                Request { method: Method::Chat, body }
            }
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
