//! What a request weighs, read off its bytes without a tokenizer.
//!
//! Text is counted in bytes, media by upper bounds per type; [`Footprint::estimate`] turns both
//! into tokens. The provider's own count replaces the estimate when the answer comes.

use std::{fmt, mem};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Tokens around the text that no byte of it accounts for: turns, roles, separators.
const OVERHEAD_TOKENS: u64 = 8;

/// Tokens that an image can take: Gemini 3 at `MEDIA_RESOLUTION_ULTRA_HIGH`, the highest there is.
const IMAGE_TOKENS: u64 = 2_240;

/// Audio takes 32 tokens a second; sound of less than 100 bytes to the token (3.2 kB/s) is rare.
const AUDIO_BYTES_PER_TOKEN: u64 = 100;

/// Video takes 263 tokens a second; film of less than 40 bytes to the token (10.5 kB/s) is rare.
const VIDEO_BYTES_PER_TOKEN: u64 = 40;

/// Tokens that a PDF page takes with Gemini 3 (258 before).
const PDF_PAGE_TOKENS: u64 = 560;

/// Fewer bytes than this to a page are rare.
const PDF_PAGE_BYTES: u64 = 2_000;

/// The provider takes no longer PDF.
const PDF_PAGES_MAX: u64 = 1_000;

/// English has about four bytes to the token; what other types become is undocumented.
const OTHER_BYTES_PER_TOKEN: u64 = 4;

/// Most bytes in the shortest decimal form of a float.
const FLOAT_BYTES: u64 = 24;

/// The weight of a request before any tokenizer has seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all text that may become input tokens, in UTF-8: prompts, system instruction,
    /// tools, arguments, answer schemas.
    pub text_bytes: u64,
    /// Input tokens for inline media, an upper estimate by type.
    pub media_tokens: u64,
    /// Images asked for: with the response modality IMAGE one per candidate, else 0.
    pub images: u64,
    /// Whether the request refers to a file or a cached content, whose tokens its bytes do not
    /// tell.
    pub unmeasured: bool,
}

/// A range for a request's input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What the request will rarely exceed: half a token for every byte of text, all media, and
    /// the overhead.
    pub likely_max: u64,
    /// What it will rarely stay below: 15 tokens for every 100 bytes of text.
    pub floor: u64,
}

impl Footprint {
    /// A request whose only part is `text`.
    pub(super) fn of_text(text: &str) -> Self {
        Self { text_bytes: bytes(text), ..Self::default() }
    }

    /// The input tokens to expect before anything was learnt about the model.
    ///
    /// The admission rules estimate `⌈bytes · ρ⌉ + media + overhead`, where ρ, the tokens per byte
    /// of text, begins at 0.5 and never falls below 0.15.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        let text_max = self.text_bytes.div_ceil(2);
        // 3/20 of the whole is 3 of every full 20 and 3/20 of the rest: no overflow on the way.
        let floor = self.text_bytes / 20 * 3 + self.text_bytes % 20 * 3 / 20;
        let likely_max = text_max.saturating_add(self.media_tokens).saturating_add(OVERHEAD_TOKENS);
        Estimate { likely_max, floor }
    }
}

/// What a walk through a request found.
pub(super) struct Measured {
    pub(super) footprint: Footprint,
    /// Whether `contents` holds anything.
    pub(super) has_contents: bool,
    /// A field that was given twice, perhaps in both spellings.
    pub(super) duplicate: Option<&'static str>,
}

/// Weighs a request without building it in memory.
pub(super) fn measure(request: &str) -> Result<Measured, serde_json::Error> {
    let mut tally = Tally::default();
    let mut deserializer = serde_json::Deserializer::from_str(request);
    Walk { at: At::Request, tally: &mut tally }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    let mut footprint = tally.footprint;
    if tally.asks_images {
        footprint.images = tally.candidates.max(1);
    }
    Ok(Measured { footprint, has_contents: tally.has_contents, duplicate: tally.duplicate })
}

/// Where in a request a value stands, and so what it counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The request itself.
    Request,
    /// A content (one turn, or the system instruction), or a list of them.
    Content,
    /// A part of a content, or a list of them.
    Part,
    /// The answer of a tool, which may have parts of its own.
    FunctionResponse,
    /// Media, inline.
    Blob,
    MimeType,
    Base64,
    GenerationConfig,
    Modality,
    CandidateCount,
    /// A file or cached content elsewhere.
    Reference,
    /// Data of any shape that may become tokens, names and numbers included.
    Data,
    /// Nothing that becomes tokens.
    Skip,
}

/// How a member of an object is read: where its value stands, and for one that must not be
/// repeated a bit of its own and its name.
type Member = (At, Option<(u8, &'static str)>);

/// Proto JSON allows every name in camel case and in snake case.
fn member(at: At, name: &str) -> Member {
    match (at, name) {
        (At::Request, "contents") => (At::Content, Some((1, "contents"))),
        (At::Request, "systemInstruction" | "system_instruction") => {
            (At::Content, Some((2, "systemInstruction")))
        }
        (At::Request, "tools") => (At::Data, Some((4, "tools"))),
        (At::Request, "generationConfig" | "generation_config") => {
            (At::GenerationConfig, Some((8, "generationConfig")))
        }
        (At::Request, "cachedContent" | "cached_content") => {
            (At::Reference, Some((16, "cachedContent")))
        }
        (At::Content, "parts") => (At::Part, Some((1, "parts"))),
        (At::FunctionResponse, "parts") => (At::Part, None),
        (At::Part, "inlineData" | "inline_data") => (At::Blob, None),
        (At::Part, "fileData" | "file_data") => (At::Reference, None),
        (At::Part, "functionResponse" | "function_response") => (At::FunctionResponse, None),
        (At::Blob, "mimeType" | "mime_type") => (At::MimeType, Some((1, "mimeType"))),
        (At::Blob, "data") => (At::Base64, Some((2, "data"))),
        (At::GenerationConfig, "responseModalities" | "response_modalities") => {
            (At::Modality, Some((1, "responseModalities")))
        }
        (At::GenerationConfig, "candidateCount" | "candidate_count") => {
            (At::CandidateCount, Some((2, "candidateCount")))
        }
        // An answer's schema is sent to the model with the prompt.
        (
            At::GenerationConfig,
            "responseSchema" | "response_schema" | "responseJsonSchema" | "response_json_schema",
        ) => (At::Data, None),
        // These only say how their neighbours are to be read.
        (
            At::Content | At::Part,
            "role" | "videoMetadata" | "video_metadata" | "mediaResolution" | "media_resolution",
        ) => (At::Skip, None),
        (At::Content | At::Part | At::FunctionResponse | At::Blob | At::Data, _) => {
            (At::Data, None)
        }
        _ => (At::Skip, None),
    }
}

/// What has been counted on the way.
#[derive(Default)]
struct Tally {
    footprint: Footprint,
    has_contents: bool,
    asks_images: bool,
    candidates: u64,
    blob: Blob,
    duplicate: Option<&'static str>,
}

impl Tally {
    fn add_text(&mut self, bytes: u64) {
        self.footprint.text_bytes = self.footprint.text_bytes.saturating_add(bytes);
    }

    fn add_blob(&mut self) {
        let blob = mem::take(&mut self.blob);
        let bytes = blob.decoded_bytes;
        let tokens = match blob.media {
            Media::Image => IMAGE_TOKENS,
            Media::Audio => bytes / AUDIO_BYTES_PER_TOKEN + 1,
            Media::Video => bytes / VIDEO_BYTES_PER_TOKEN + 1,
            Media::Pdf => PDF_PAGE_TOKENS * (bytes / PDF_PAGE_BYTES).clamp(1, PDF_PAGES_MAX),
            Media::Text => return self.add_text(bytes),
            Media::Other => bytes / OTHER_BYTES_PER_TOKEN,
        };
        self.footprint.media_tokens = self.footprint.media_tokens.saturating_add(tokens);
    }
}

/// Inline media being read: its type may follow its data.
#[derive(Default)]
struct Blob {
    media: Media,
    decoded_bytes: u64,
}

#[derive(Default)]
enum Media {
    Image,
    Audio,
    Video,
    Pdf,
    Text,
    #[default]
    Other,
}

impl Media {
    fn of(mime_type: &str) -> Self {
        let kind = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.split_once('/') {
            Some(("image", _)) => Self::Image,
            Some(("audio", _)) => Self::Audio,
            Some(("video", _)) => Self::Video,
            Some(("text", _)) => Self::Text,
            Some(("application", "pdf")) => Self::Pdf,
            _ => Self::Other,
        }
    }
}

/// A step of the walk. It yields whether the value holds anything.
struct Walk<'t> {
    at: At,
    tally: &'t mut Tally,
}

impl Walk<'_> {
    /// A number that is `bytes` long when written.
    fn number(self, bytes: u64) -> bool {
        if self.at == At::Data {
            self.tally.add_text(bytes);
        }
        true
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

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(self.number(1))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        if self.at == At::CandidateCount {
            self.tally.candidates = value;
        }
        // Proto JSON allows an enum's number: 2 is IMAGE.
        self.tally.asks_images |= self.at == At::Modality && value == 2;
        Ok(self.number(digits(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(self.number(digits(value.unsigned_abs()).saturating_add(1)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(self.number(FLOAT_BYTES))
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        match self.at {
            At::Data | At::Content | At::Part | At::FunctionResponse => {
                self.tally.add_text(bytes(text));
            }
            At::MimeType => self.tally.blob.media = Media::of(text),
            At::Base64 => {
                let decoded = bytes(text).div_ceil(4).saturating_mul(3);
                self.tally.blob.decoded_bytes =
                    self.tally.blob.decoded_bytes.saturating_add(decoded);
            }
            At::Modality => self.tally.asks_images |= text.eq_ignore_ascii_case("IMAGE"),
            // Proto JSON allows a number as a string.
            At::CandidateCount => self.tally.candidates = text.parse().unwrap_or(1),
            At::Reference => self.tally.footprint.unmeasured = true,
            At::Request | At::Blob | At::GenerationConfig | At::Skip => {}
        }
        // A bare string is not a content, though its text is counted.
        Ok(self.at != At::Content && !text.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut holds = false;
        while let Some(element_holds) =
            list.next_element_seed(Walk { at: self.at, tally: self.tally })?
        {
            holds |= element_holds;
        }
        Ok(holds)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<bool, A::Error> {
        let (mut holds, mut seen) = (false, 0);
        self.tally.footprint.unmeasured |= self.at == At::Reference;
        while let Some(((at, once), name_bytes)) = object.next_key_seed(Name(self.at))? {
            if self.at == At::Data {
                self.tally.add_text(name_bytes);
            }
            if let Some((bit, name)) = once {
                if seen & bit != 0 {
                    self.tally.duplicate = Some(name);
                }
                seen |= bit;
            }
            holds = true;
            let value_holds = object.next_value_seed(Walk { at, tally: self.tally })?;
            if let Some((_, "contents")) = once {
                self.tally.has_contents = value_holds;
            }
        }
        if self.at == At::Blob {
            self.tally.add_blob();
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
