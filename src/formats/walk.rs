//! One walk through the text of a request, without building it in memory.

use std::{fmt, mem};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::footprint::Footprint;
use super::kind::Scripts;
use super::media::{self, Blob, Bounds, Media, Part, Resolution};
use super::members::{At, Member, member};

/// Most bytes in the shortest decimal form of a float.
const FLOAT_BYTES: u64 = 24;

/// Longest id of a model that a request may name, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// What a walk through a request found.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) footprint: Footprint,
    /// Whether `contents` or `messages` holds anything; `None` where it is not given.
    pub(super) turns: Option<bool>,
    /// The same of `content` or `input`, which are embedded.
    pub(super) embedded: Option<bool>,
    /// The model that it names.
    pub(super) model: Option<String>,
    /// Whether the answer is to come in pieces.
    pub(super) stream: bool,
    /// A field that was given twice, perhaps in both spellings.
    pub(super) duplicate: Option<&'static str>,
}

/// Weighs the body of a call of the kind that `at` says.
pub(super) fn measure(at: At, body: &str) -> Result<Measured, serde_json::Error> {
    let mut tally = Tally::default();
    let mut deserializer = serde_json::Deserializer::from_str(body);
    Walk { at, tally: &mut tally }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(tally.close())
}

/// What has been counted on the way.
#[derive(Default)]
struct Tally {
    /// What needs no counting.
    found: Measured,
    scripts: Scripts,
    /// Media whose resolution is settled.
    media_tokens: u64,
    /// Media that go by the resolution of the whole request.
    media: Bounds,
    resolution: Option<Resolution>,
    part: Part,
    blob: Blob,
    asks_images: bool,
    candidates: u64,
    texts: u64,
    /// Whether the list being read is one of tokens.
    tokens: bool,
}

impl Tally {
    fn close(self) -> Measured {
        let media = self.media.at(self.resolution.unwrap_or_default());
        let candidates = self.candidates.max(1);
        let bound = self.found.footprint.output_tokens_max;
        let footprint = Footprint {
            text_bytes: self.scripts.total(),
            script: self.scripts.mostly(),
            media_tokens: self.media_tokens.saturating_add(media),
            images: if self.asks_images { candidates } else { 0 },
            requests: self.texts.max(1),
            output_tokens_max: bound.map(|max| max.saturating_mul(candidates)),
            ..self.found.footprint
        };
        Measured { footprint, ..self.found }
    }

    /// Counts media that have no resolution of their own.
    fn inline(&mut self, blob: &Blob) {
        if blob.media == Media::Text {
            self.scripts.dense(blob.decoded_bytes);
        } else {
            self.media.add(blob.bounds());
        }
    }

    fn bound_output(&mut self, tokens: Option<u64>) {
        // Proto JSON reads 0 as "not set".
        let tokens = tokens.filter(|tokens| *tokens > 0);
        let bound = &mut self.found.footprint.output_tokens_max;
        *bound = tokens.max(*bound);
    }

    fn close_blob(&mut self) {
        let blob = mem::take(&mut self.blob);
        if blob.media == Media::Text {
            self.scripts.dense(blob.decoded_bytes);
        } else {
            self.part.media.add(blob.bounds());
        }
    }

    fn close_part(&mut self, part: &Part) {
        match part.resolution {
            None => self.media.add(part.media),
            Some(own) => {
                self.media_tokens = self.media_tokens.saturating_add(part.media.at(own));
            }
        }
    }
}

/// A step of the walk. It yields whether the value holds anything.
struct Walk<'t> {
    at: At,
    tally: &'t mut Tally,
}

impl Walk<'_> {
    /// Whether text here becomes tokens, whatever its shape.
    fn is_data(&self) -> bool {
        matches!(self.at, At::Data | At::Tool | At::ServerTool)
    }

    /// A value that is no text and not null, `bytes` long when written.
    fn scalar(mut self, bytes: u64) -> bool {
        if self.is_data() {
            self.tally.scripts.dense(bytes);
        } else if self.at == At::Input {
            self.tally.scripts.dense(1);
            self.tally.tokens = true;
        }
        self.mark();
        true
    }

    /// What it means that there is a value at all.
    fn mark(&mut self) {
        self.tally.found.footprint.tools |= self.at == At::ServerTool;
        self.tally.found.footprint.unmeasured |= self.at == At::Reference;
        if self.at == At::Resolution {
            self.tally.resolution = Some(Resolution::High);
        } else if self.at == At::PartResolution {
            self.tally.part.resolution = Some(Resolution::High);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        self.tally.found.stream |= self.at == At::Stream && value;
        Ok(self.scalar(1))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        if self.at == At::CandidateCount {
            self.tally.candidates = value;
        }
        if self.at == At::OutputTokensMax {
            self.tally.bound_output(Some(value));
        }
        // Proto JSON allows an enum's number: 2 is IMAGE.
        self.tally.asks_images |= self.at == At::Modality && value == 2;
        Ok(self.scalar(digits(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(self.scalar(digits(value.unsigned_abs()).saturating_add(1)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(self.scalar(FLOAT_BYTES))
    }

    fn visit_str<E>(mut self, text: &str) -> Result<bool, E> {
        self.mark();
        match self.at {
            At::Data
            | At::Content
            | At::Part
            | At::FunctionResponse
            | At::Tool
            | At::ServerTool
            | At::Message
            | At::Turn
            | At::ChatPart => self.tally.scripts.read(text),
            At::MimeType => self.tally.blob.media = Media::of(text),
            At::Base64 => {
                let decoded = &mut self.tally.blob.decoded_bytes;
                *decoded = decoded.saturating_add(media::decoded_bytes(text));
            }
            At::Modality => self.tally.asks_images |= text.eq_ignore_ascii_case("IMAGE"),
            // Proto JSON allows a number as a string.
            At::CandidateCount => self.tally.candidates = text.parse().unwrap_or(1),
            At::OutputTokensMax => self.tally.bound_output(text.parse().ok()),
            At::Resolution => self.tally.resolution = Some(Resolution::of(text)),
            At::PartResolution => self.tally.part.resolution = Resolution::of_part(text),
            // A link that leads elsewhere leads to a picture.
            At::Picture => self.tally.inline(&Blob::of_url(text, Media::Image)),
            At::FileData => self.tally.inline(&Blob::of_url(text, Media::Other)),
            At::SoundData => self.tally.inline(&Blob::of(Media::Audio, text)),
            At::ToolType => {
                self.tally.found.footprint.tools |= !matches!(text, "function" | "custom");
            }
            At::Model => self.tally.found.model = named(text),
            At::Input => {
                self.tally.scripts.read(text);
                self.tally.texts = self.tally.texts.saturating_add(1);
            }
            At::Request
            | At::EmbedList
            | At::EmbedItem
            | At::Count
            | At::Interaction
            | At::Blob
            | At::GenerationConfig
            | At::Reference
            | At::Chat
            | At::Sound
            | At::File
            | At::ChatTool
            | At::Stream
            | At::Embeddings
            | At::Skip => {}
        }
        // A bare string is no content and no message, though its text is counted.
        Ok(!matches!(self.at, At::Content | At::Message) && !text.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut holds = false;
        while let Some(element_holds) =
            list.next_element_seed(Walk { at: self.at, tally: self.tally })?
        {
            holds |= element_holds;
        }
        if self.at == At::Input && mem::take(&mut self.tally.tokens) {
            self.tally.texts = self.tally.texts.saturating_add(1);
        }
        Ok(holds)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<bool, A::Error> {
        let (mut holds, mut seen) = (false, 0);
        self.mark();
        // A tool's answer, itself a part, may have parts.
        let outer = (self.at == At::Part).then(|| mem::take(&mut self.tally.part));
        while let Some(((at, once), name_bytes)) = object.next_key_seed(Name(self.at))? {
            if self.is_data() {
                self.tally.scripts.ascii(name_bytes);
            }
            if let Some((bit, name)) = once {
                if seen & bit != 0 {
                    self.tally.found.duplicate = Some(name);
                }
                seen |= bit;
            }
            holds = true;
            let value_holds = object.next_value_seed(Walk { at, tally: self.tally })?;
            if matches!(self.at, At::Request | At::Chat | At::Embeddings) {
                match once {
                    Some((_, "contents" | "messages")) => {
                        self.tally.found.turns = Some(value_holds);
                    }
                    Some((_, "content" | "input")) => {
                        self.tally.found.embedded = Some(value_holds);
                    }
                    Some(_) | None => {}
                }
            }
        }
        if self.at == At::Blob {
            self.tally.close_blob();
        }
        if self.at == At::Turn {
            let blob = mem::take(&mut self.tally.blob);
            if blob.decoded_bytes > 0 {
                self.tally.inline(&blob);
            }
        }
        if self.at == At::EmbedItem {
            self.tally.texts = self.tally.texts.saturating_add(1);
        }
        if let Some(outer) = outer {
            let part = mem::replace(&mut self.tally.part, outer);
            self.tally.close_part(&part);
        }
        Ok(holds)
    }
}

/// Reads the name of a member of an object that stands there.
struct Name(At);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = (Member, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = (Member, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((member(self.0, name), bytes(name)))
    }
}

fn bytes(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn digits(value: u64) -> u64 {
    u64::from(value.checked_ilog10().unwrap_or(0)).saturating_add(1)
}

/// The model that a request names, which is shown and compared.
fn named(model: &str) -> Option<String> {
    let id = model.strip_prefix("models/").unwrap_or(model);
    let fits = (1..=MODEL_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    fits.then(|| id.to_owned())
}
