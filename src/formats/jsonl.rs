//! The Gemini batch dialect: one `{"key": …, "request": {…}}` a line.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{KEY_BYTES_MAX, Line, LineError, footprint};

/// Reads a line into an item.
pub(super) fn item(text: &str) -> Result<Line, LineError> {
    let envelope = Envelope::parse(text)?;
    if envelope.options.is_some() {
        return Err(LineError::OptionsMisplaced);
    }
    if envelope.openai && (envelope.key.is_none() || envelope.request.is_none()) {
        return Err(LineError::OpenAi);
    }
    let key = envelope.key()?;
    let request = envelope.request()?;
    let measured = footprint::measure(request)
        .map_err(|error| LineError::from_json(&error, request, offset_in(text, request)))?;
    if let Some(field) = measured.duplicate {
        return Err(LineError::Duplicate { field });
    }
    if !measured.has_contents {
        return Err(LineError::ContentsMissing);
    }
    Ok(Line { key, footprint: measured.footprint })
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
    /// The value of `tidegate`.
    pub(super) options: Option<&'a RawValue>,
    /// Whether the line has a field of the `OpenAI` dialect.
    openai: bool,
    /// How many fields the line has.
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
        let envelope = deserializer
            .deserialize_map(EnvelopeVisitor)
            .and_then(|envelope| deserializer.end().map(|()| envelope))
            .map_err(|error| LineError::from_json(&error, text, 0))?;
        match envelope.duplicate {
            Some(field) => Err(LineError::Duplicate { field }),
            None => Ok(envelope),
        }
    }

    pub(super) fn key(&self) -> Result<String, LineError> {
        let raw = self.key.ok_or(LineError::KeyMissing)?;
        let key: String = serde_json::from_str(raw.get()).map_err(|_| LineError::KeyInvalid)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
            return Err(LineError::KeyInvalid);
        }
        Ok(key)
    }

    /// The bytes of the request, as they stand in the line.
    pub(super) fn request(&self) -> Result<&'a str, LineError> {
        let request = self.request.ok_or(LineError::RequestMissing)?.get();
        if request.starts_with('{') { Ok(request) } else { Err(LineError::RequestNotObject) }
    }
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
                openai_or_extra => {
                    envelope.openai |= !openai_or_extra.is_empty();
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

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        let known = ["key", "request", "tidegate", "custom_id", "body"];
        Ok(Field(known.into_iter().find(|known| *known == name).unwrap_or_default()))
    }
}
