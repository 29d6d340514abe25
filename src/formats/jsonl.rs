//! The Gemini batch dialect: one `{"key": …, "request": {…}}` a line.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::footprint::{self, Measured};
use super::{KEY_BYTES_MAX, Line, LineError, Method, Request, openai};

/// Reads a line into an item.
pub(super) fn item(text: &str) -> Result<Line, LineError> {
    let envelope = Envelope::parse(text)?;
    if envelope.options.is_some() {
        return Err(LineError::OptionsMisplaced);
    }
    if envelope.is_openai() && (envelope.key.is_none() || envelope.request.is_none()) {
        return Err(LineError::OpenAi);
    }
    let key = envelope.key()?;
    let request = envelope.request()?;
    weighed(key, text, request)
}

/// Reads a request that stands alone into an item.
pub(super) fn bare(text: &str, number: u64) -> Result<Line, LineError> {
    let envelope = Envelope::parse(text)?;
    if envelope.options.is_some() {
        return Err(LineError::OptionsMisplaced);
    }
    if !envelope.is_bare() {
        return Err(LineError::NotBare);
    }
    weighed(number.to_string(), text, text)
}

fn weighed(key: String, text: &str, request: &str) -> Result<Line, LineError> {
    let measured = footprint::measure(request)
        .map_err(|error| LineError::from_json(&error, request, offset_in(text, request)))?;
    if let Some(field) = measured.duplicate {
        return Err(LineError::Duplicate { field });
    }
    let method = method(&measured)?;
    Ok(Line { key, footprint: measured.footprint, method: Some(method), model: None })
}

/// What a request asks for, by what is in it.
fn method(measured: &Measured) -> Result<Method, LineError> {
    match (measured.has_contents, measured.has_content) {
        (true, _) => Ok(Method::Generate),
        (false, true) => Ok(Method::Embed),
        (false, false) => Err(LineError::ContentsMissing),
    }
}

/// A request as it is sent.
pub(super) fn request(request: &str) -> Result<Request, LineError> {
    let measured =
        footprint::measure(request).map_err(|error| LineError::from_json(&error, request, 0))?;
    Ok(Request { method: method(&measured)?, body: request.as_bytes().to_vec() })
}

/// A key that a results line can be found by.
pub(super) fn checked_key(key: String) -> Result<String, LineError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
        return Err(LineError::KeyInvalid);
    }
    Ok(key)
}

/// Where `part`, a piece of `whole`, begins.
pub(super) fn offset_in(whole: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr())
}

/// The top level of a line. Fields of other names are tolerated: the Vertex variant passes them
/// through.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    key: Option<&'a RawValue>,
    request: Option<&'a RawValue>,
    /// Of requests inline: where their key is.
    metadata: Option<&'a RawValue>,
    custom_id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    url: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    /// The value of `tidegate`.
    pub(super) options: Option<&'a RawValue>,
    /// `contents` or `content`: the line is a request itself.
    contents: Option<&'a RawValue>,
    /// How many fields the line has.
    pub(super) fields: usize,
    /// A field that was given twice.
    duplicate: Option<&'static str>,
}

/// Where the key of a request inline stands.
#[derive(serde::Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, LineError> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(LineError::NotObject);
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope = deserializer
            .deserialize_map(EnvelopeVisitor)
            .and_then(|envelope| deserializer.end().map(|()| envelope))
            .map_err(|error| LineError::from_json(&error, text, 0))?;
        match envelope.duplicate {
            Some(field) => Err(LineError::Duplicate { field }),
            None => Ok(envelope),
        }
    }

    /// Whether the line is of the `OpenAI` dialect.
    pub(super) fn is_openai(&self) -> bool {
        self.custom_id.is_some() || self.body.is_some()
    }

    /// Whether the line is a Gemini request itself.
    pub(super) fn is_bare(&self) -> bool {
        self.contents.is_some() && self.request.is_none() && self.key.is_none()
    }

    pub(super) fn key(&self) -> Result<String, LineError> {
        let inline = || {
            let metadata: Metadata<'a> = serde_json::from_str(self.metadata?.get()).ok()?;
            metadata.key
        };
        text(self.key.or_else(inline).ok_or(LineError::KeyMissing)?)
    }

    pub(super) fn custom_id(&self) -> Result<String, LineError> {
        if self.custom_id.is_none() && self.request.is_some() {
            return Err(LineError::Gemini);
        }
        text(self.custom_id.ok_or(LineError::CustomIdMissing)?)
    }

    /// What the line asks for: its `url`, which is to be posted to.
    pub(super) fn url(&self) -> Result<Method, LineError> {
        let word = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        let posts = self.method.is_none_or(|method| word(method).is_some_and(|m| m == "POST"));
        let url = self.url.ok_or(LineError::UrlMissing)?;
        let method = word(url).and_then(|url| openai::method_of(&url));
        method.filter(|_| posts).ok_or(LineError::UrlUnknown)
    }

    /// The bytes of the body, as they stand in the line.
    pub(super) fn body(&self) -> Result<&'a str, LineError> {
        let body = self.body.ok_or(LineError::BodyMissing)?.get();
        if body.starts_with('{') { Ok(body) } else { Err(LineError::BodyMissing) }
    }

    /// The bytes of the request, as they stand in the line.
    pub(super) fn request(&self) -> Result<&'a str, LineError> {
        let request = self.request.ok_or(LineError::RequestMissing)?.get();
        if request.starts_with('{') { Ok(request) } else { Err(LineError::RequestNotObject) }
    }
}

fn text(raw: &RawValue) -> Result<String, LineError> {
    checked_key(serde_json::from_str(raw.get()).map_err(|_| LineError::KeyInvalid)?)
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
                "metadata" => &mut envelope.metadata,
                "custom_id" => &mut envelope.custom_id,
                "method" => &mut envelope.method,
                "url" => &mut envelope.url,
                "body" => &mut envelope.body,
                "tidegate" => &mut envelope.options,
                "contents" | "content" => &mut envelope.contents,
                _ => {
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

/// The name of a field of the envelope; empty for one without a meaning here.
struct Field(&'static str);

impl<'de> serde::Deserialize<'de> for Field {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

struct FieldVisitor;

const FIELDS: [&str; 10] = [
    "key",
    "request",
    "metadata",
    "custom_id",
    "method",
    "url",
    "body",
    "tidegate",
    "contents",
    "content",
];

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(Field(FIELDS.into_iter().find(|known| *known == name).unwrap_or_default()))
    }
}
