//! The two dialects of batch files: one `{"key": …, "request": {…}}` an item for Gemini, one
//! `{"custom_id": …, "method": "POST", "url": …, "body": {…}}` for `OpenAI`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::members::At;
use super::walk::{self, Measured};
use super::{Dialect, KEY_BYTES_MAX, Line, LineError, Method};

/// Reads record `number` of a file of the Gemini dialect.
pub(super) fn gemini(number: u64, text: &str) -> Result<Line, LineError> {
    let envelope = Envelope::of_gemini(text)?;
    let key = envelope.gemini_key(number)?;
    let measured = weigh(At::Request, text, envelope.request(text)?)?;
    let method = gemini_method(measured.turns.is_some());
    if !measured.turns.or(measured.embedded).unwrap_or_default() {
        return Err(LineError::ContentsMissing);
    }
    let footprint = measured.footprint;
    Ok(Line { key, footprint, method: Some(method), model: measured.model })
}

/// Reads a record of a file of the `OpenAI` dialect.
pub(super) fn openai(text: &str) -> Result<Line, LineError> {
    let envelope = Envelope::of_openai(text)?;
    let key = envelope.openai_key()?;
    let (method, body) = envelope.call()?;
    let at = if method == Method::Chat { At::Chat } else { At::Embeddings };
    let measured = weigh(at, text, body)?;
    if measured.stream {
        return Err(LineError::Stream);
    }
    match method {
        Method::Chat if measured.turns != Some(true) => return Err(LineError::MessagesMissing),
        Method::Embeddings if measured.embedded != Some(true) => {
            return Err(LineError::InputMissing);
        }
        Method::Chat | Method::Embeddings | Method::Generate | Method::Embed => {}
    }
    let model = measured.model.ok_or(LineError::ModelInvalid)?;
    Ok(Line { key, footprint: measured.footprint, method: Some(method), model: Some(model) })
}

/// What a record of the Gemini dialect asks for, and the bytes of its request.
pub(super) fn gemini_body(text: &str) -> Result<(Method, &str), LineError> {
    let request = Envelope::of_gemini(text)?.request(text)?;
    let outline: Outline = serde_json::from_str(request)
        .map_err(|error| LineError::from_json(&error, request, offset_in(text, request)))?;
    Ok((gemini_method(outline.contents.is_some()), request))
}

/// What tells a request to generate from one to embed.
#[derive(serde::Deserialize)]
struct Outline {
    contents: Option<IgnoredAny>,
}

/// The same of the `OpenAI` dialect.
pub(super) fn openai_body(text: &str) -> Result<(Method, &str), LineError> {
    Envelope::of_openai(text)?.call()
}

/// The key of a record, if it has a readable one.
pub(super) fn key(dialect: Dialect, text: &str) -> Option<String> {
    let envelope = Envelope::parse(text).ok()?;
    match dialect {
        Dialect::GeminiJsonl => envelope.own_key().ok().flatten(),
        Dialect::OpenAiJsonl => envelope.openai_key().ok(),
        Dialect::Text | Dialect::Csv => None,
    }
}

/// Whether a record is of the `OpenAI` dialect.
pub(super) fn is_openai(text: &str) -> bool {
    Envelope::parse(text).is_ok_and(|envelope| envelope.looks_openai())
}

fn gemini_method(contents: bool) -> Method {
    if contents { Method::Generate } else { Method::Embed }
}

fn weigh(at: At, text: &str, body: &str) -> Result<Measured, LineError> {
    let measured = walk::measure(at, body)
        .map_err(|error| LineError::from_json(&error, body, offset_in(text, body)))?;
    match measured.duplicate {
        Some(field) => Err(LineError::Duplicate { field }),
        None => Ok(measured),
    }
}

/// Where `part`, a piece of `whole`, begins.
pub(super) fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr())
}

/// The top level of a record. Fields of other names are tolerated: the Vertex variant passes them
/// through.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    key: Option<&'a RawValue>,
    request: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    custom_id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    url: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    /// The value of `tidegate`.
    pub(super) options: Option<&'a RawValue>,
    /// Whether it has `contents`, as a request has that stands alone.
    contents: bool,
    /// Whether it has `content`, as a request to embed has that stands alone.
    content: bool,
    /// How many fields it has.
    pub(super) fields: usize,
    /// A field that was given twice.
    duplicate: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, LineError> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(LineError::NotObject);
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope = (&mut deserializer)
            .deserialize_map(EnvelopeVisitor)
            .and_then(|envelope| deserializer.end().map(|()| envelope))
            .map_err(|error| LineError::from_json(&error, text, 0))?;
        match envelope.duplicate {
            Some(field) => Err(LineError::Duplicate { field }),
            None => Ok(envelope),
        }
    }

    fn of_gemini(text: &'a str) -> Result<Self, LineError> {
        let envelope = Self::parse(text)?;
        if envelope.options.is_some() {
            Err(LineError::OptionsMisplaced)
        } else if envelope.looks_openai() {
            Err(LineError::OpenAi)
        } else {
            Ok(envelope)
        }
    }

    fn of_openai(text: &'a str) -> Result<Self, LineError> {
        let envelope = Self::parse(text)?;
        if envelope.options.is_some() {
            Err(LineError::OptionsMisplaced)
        } else if envelope.request.is_some() && !envelope.looks_openai() {
            Err(LineError::Gemini)
        } else {
            Ok(envelope)
        }
    }

    fn looks_openai(&self) -> bool {
        self.request.is_none() && (self.custom_id.is_some() || self.body.is_some())
    }

    /// Whether the record is a request itself.
    fn is_bare(&self) -> bool {
        let wrapped = self.key.is_some() || self.request.is_some() || self.metadata.is_some();
        !wrapped && (self.contents || self.content)
    }

    fn gemini_key(&self, number: u64) -> Result<String, LineError> {
        match self.own_key()? {
            Some(key) => Ok(key),
            None if self.is_bare() => Ok(number.to_string()),
            None => Err(LineError::KeyMissing),
        }
    }

    /// The key that the record gives itself, at its top or, in the inline form, in its metadata.
    fn own_key(&self) -> Result<Option<String>, LineError> {
        #[derive(serde::Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow)]
            key: Option<&'a RawValue>,
        }
        let raw = match (self.key, self.metadata) {
            (Some(key), _) => Some(key),
            (None, Some(metadata)) => {
                let read = serde_json::from_str::<Metadata<'_>>(metadata.get());
                read.map_err(|_| LineError::KeyInvalid { field: "metadata.key" })?.key
            }
            (None, None) => None,
        };
        raw.map(|raw| checked_key("key", raw)).transpose()
    }

    fn openai_key(&self) -> Result<String, LineError> {
        checked_key("custom_id", self.custom_id.ok_or(LineError::CustomIdMissing)?)
    }

    /// The bytes of the request, as they stand in `text`.
    fn request(&self, text: &'a str) -> Result<&'a str, LineError> {
        let request = match self.request {
            Some(request) => request.get(),
            None if self.is_bare() => text.trim_ascii(),
            None => return Err(LineError::RequestMissing),
        };
        if request.starts_with('{') { Ok(request) } else { Err(LineError::RequestNotObject) }
    }

    /// What an `OpenAI` record asks for, and the bytes of its body.
    fn call(&self) -> Result<(Method, &'a str), LineError> {
        let word = |raw: Option<&'a RawValue>| {
            raw.and_then(|raw| serde_json::from_str::<Cow<'a, str>>(raw.get()).ok())
        };
        if word(self.method).as_deref() != Some("POST") {
            return Err(LineError::NotPost);
        }
        let method = match word(self.url).as_deref() {
            Some("/v1/chat/completions") => Method::Chat,
            Some("/v1/embeddings") => Method::Embeddings,
            Some(_) | None => return Err(LineError::Url),
        };
        let body = self.body.ok_or(LineError::BodyInvalid)?.get();
        if body.starts_with('{') { Ok((method, body)) } else { Err(LineError::BodyInvalid) }
    }
}

/// A key by the rules that hold for all.
pub(super) fn fits_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control)
}

fn checked_key(field: &'static str, raw: &RawValue) -> Result<String, LineError> {
    let key: Result<String, _> = serde_json::from_str(raw.get());
    key.ok().filter(|key| fits_key(key)).ok_or(LineError::KeyInvalid { field })
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(Field(name)) = map.next_key()? {
            envelope.fields = envelope.fields.saturating_add(1);
            let slot = match name {
                "key" => &mut envelope.key,
                "request" => &mut envelope.request,
                "tidegate" => &mut envelope.options,
                "metadata" => &mut envelope.metadata,
                "custom_id" => &mut envelope.custom_id,
                "method" => &mut envelope.method,
                "url" => &mut envelope.url,
                "body" => &mut envelope.body,
                extra => {
                    envelope.contents |= extra == "contents";
                    envelope.content |= extra == "content";
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                envelope.duplicate = Some(name);
            }
        }
        Ok(envelope)
    }
}

/// The fields of an envelope that mean something.
const FIELDS: [&str; 10] = [
    "key",
    "request",
    "custom_id",
    "method",
    "url",
    "body",
    "metadata",
    "contents",
    "content",
    "tidegate",
];

/// The name of a field of the envelope; empty for one without a meaning here.
struct Field(&'static str);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

struct FieldVisitor;

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(Field(FIELDS.into_iter().find(|known| *known == name).unwrap_or_default()))
    }
}
