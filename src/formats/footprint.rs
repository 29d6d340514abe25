//! What a request weighs, read off its bytes without a tokenizer.
//!
//! Text is counted in bytes, media by upper bounds per type; [`Footprint::estimate`] turns both
//! into tokens. The provider's own count replaces the estimate when the answer comes.

use std::{fmt, mem};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::kind::Scripts;
use super::media::{Blob, Bounds, Media, Part, Resolution};
use super::{LineError, Script};

/// Tokens around the text that no byte of it accounts for: turns, roles, separators.
const OVERHEAD_TOKENS: u64 = 8;

/// Most bytes in the shortest decimal form of a float.
const FLOAT_BYTES: u64 = 24;

/// The weight of a request before any tokenizer has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all text that may become input tokens, in UTF-8: prompts, system instruction,
    /// tools, arguments, answer schemas.
    pub text_bytes: u64,
    /// What that text is mostly made of.
    pub script: Script,
    /// Input tokens for inline media, an upper estimate by type and the resolution asked for.
    pub media_tokens: u64,
    /// Images asked for: with the response modality IMAGE one per candidate, else 0.
    pub images: u64,
    /// Whether the request refers to a file or a cached content, whose tokens its bytes do not
    /// tell.
    pub unmeasured: bool,
    /// Whether the request lets the provider use tools of its own (search, code execution, URL
    /// context, file search and whatever else is not a function of the caller's): what they find
    /// is input that comes later.
    pub tools: bool,
    /// Requests to count: the number of texts of an embedding batch, else 1.
    pub requests: u64,
    /// The most output tokens that each candidate may have, where the request says so.
    pub output_tokens_max: Option<u64>,
}

impl Default for Footprint {
    fn default() -> Self {
        Self {
            text_bytes: 0,
            script: Script::default(),
            media_tokens: 0,
            images: 0,
            unmeasured: false,
            tools: false,
            requests: 1,
            output_tokens_max: None,
        }
    }
}

/// A range for a request's input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What the request will rarely exceed: for every byte of text what its kind takes, half a
    /// token or a whole one, all media, and the overhead.
    pub likely_max: u64,
    /// What it will rarely stay below: 15 tokens for every 100 bytes of text.
    pub floor: u64,
}

impl Footprint {
    /// A request whose only part is `text`.
    pub(super) fn of_text(text: &str) -> Self {
        let mut scripts = Scripts::default();
        scripts.read(text);
        Self { text_bytes: scripts.total(), script: scripts.mostly(), ..Self::default() }
    }

    /// Weighs the body of `embedContent` (`{"content": …}`) or of `batchEmbedContents`
    /// (`{"requests": [{"content": …}, …]}`).
    ///
    /// # Errors
    /// [`LineError::NotJson`] and [`LineError::TooDeep`] with a place in `body`;
    /// [`LineError::Duplicate`]; [`LineError::ContentsMissing`] when there is no content at all.
    pub fn of_embedding(body: &str) -> Result<Self, LineError> {
        let measured =
            walk(At::Embedding, body).map_err(|error| LineError::from_json(&error, body, 0))?;
        match measured.duplicate {
            Some(field) => Err(LineError::Duplicate { field }),
            None if !measured.has_content => Err(LineError::ContentsMissing),
            None => Ok(measured.footprint),
        }
    }

    /// The input tokens to expect before anything was learnt about the model.
    ///
    /// The admission rules estimate `⌈bytes · ρ⌉ + media + overhead`, where ρ, the tokens per byte
    /// of text, begins at 0.5, or 1 for text that may take a token for each byte
    /// ([`Kind::cold_milli`](super::Kind::cold_milli)), and never falls below 0.15.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        let text_max = scaled(self.text_bytes, self.kind().cold_milli());
        // 3/20 of the whole is 3 of every full 20 and 3/20 of the rest: no overflow on the way.
        let floor = self.text_bytes / 20 * 3 + self.text_bytes % 20 * 3 / 20;
        let fixed = self.media_tokens.saturating_add(self.overhead_tokens());
        Estimate { likely_max: text_max.saturating_add(fixed), floor }
    }

    /// Input tokens to expect around the text, for which no byte accounts.
    #[must_use]
    pub fn overhead_tokens(&self) -> u64 {
        self.requests.saturating_mul(OVERHEAD_TOKENS)
    }
}

/// So many thousandths of `count`, rounded up.
fn scaled(count: u64, milli: u64) -> u64 {
    let product = u128::from(count) * u128::from(milli);
    u64::try_from(product.div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// What a walk through a request found.
pub(super) struct Measured {
    pub(super) footprint: Footprint,
    /// Whether `contents` holds anything.
    pub(super) has_contents: bool,
    /// Whether `content` does.
    pub(super) has_content: bool,
    /// A field that was given twice, perhaps in both spellings.
    pub(super) duplicate: Option<&'static str>,
}

/// Weighs a `generateContent` request without building it in memory.
pub(super) fn measure(request: &str) -> Result<Measured, serde_json::Error> {
    walk(At::Request, request)
}

fn walk(at: At, body: &str) -> Result<Measured, serde_json::Error> {
    let mut tally = Tally::default();
    let mut deserializer = serde_json::Deserializer::from_str(body);
    Walk { at, tally: &mut tally }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    let media = tally.media.at(tally.resolution.unwrap_or_default());
    let footprint = Footprint {
        text_bytes: tally.scripts.total(),
        script: tally.scripts.mostly(),
        media_tokens: tally.media_tokens.saturating_add(media),
        images: if tally.asks_images { tally.candidates.max(1) } else { 0 },
        requests: tally.texts.max(1),
        ..tally.footprint
    };
    let Tally { has_contents, has_content, duplicate, .. } = tally;
    Ok(Measured { footprint, has_contents, has_content, duplicate })
}

/// Where in a request a value stands, and so what it counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The request itself.
    Request,
    /// The body of an embedding call, or of a batch of them.
    Embedding,
    /// One text of an embedding batch, or a list of them.
    EmbeddingText,
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
    OutputTokensMax,
    /// The resolution of all media that have none of their own.
    Resolution,
    /// The resolution of a part's media.
    PartResolution,
    /// A tool, or a list of them.
    Tool,
    /// What a tool that the provider runs is told.
    ServerTool,
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
        (At::Request, "tools") => (At::Tool, Some((4, "tools"))),
        (At::Request, "generationConfig" | "generation_config") => {
            (At::GenerationConfig, Some((8, "generationConfig")))
        }
        (At::Request, "cachedContent" | "cached_content") => {
            (At::Reference, Some((16, "cachedContent")))
        }
        // A request to embed has one content and no `contents`.
        (At::Request, "content") => (At::Content, Some((32, "content"))),
        (At::Embedding | At::EmbeddingText, "content") => (At::Content, Some((1, "content"))),
        (At::Embedding, "requests") => (At::EmbeddingText, Some((2, "requests"))),
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
        (At::GenerationConfig, "maxOutputTokens" | "max_output_tokens") => {
            (At::OutputTokensMax, Some((4, "maxOutputTokens")))
        }
        (At::GenerationConfig, "mediaResolution" | "media_resolution") => {
            (At::Resolution, Some((8, "mediaResolution")))
        }
        (At::Part, "mediaResolution" | "media_resolution") | (At::PartResolution, "level") => {
            (At::PartResolution, None)
        }
        // Functions and an answer's schema are sent to the model with the prompt, a title is
        // embedded with its text.
        (At::Tool, "functionDeclarations" | "function_declarations")
        | (
            At::GenerationConfig,
            "responseSchema" | "response_schema" | "responseJsonSchema" | "response_json_schema",
        )
        | (At::Request | At::Embedding | At::EmbeddingText, "title") => (At::Data, None),
        (At::Tool, _) => (At::ServerTool, None),
        // These only say how their neighbours are to be read.
        (
            At::Content | At::Part,
            "role" | "videoMetadata" | "video_metadata" | "mediaResolution" | "media_resolution",
        ) => (At::Skip, None),
        (
            At::Content | At::Part | At::FunctionResponse | At::Blob | At::ServerTool | At::Data,
            _,
        ) => (At::Data, None),
        _ => (At::Skip, None),
    }
}

/// What has been counted on the way.
#[derive(Default)]
struct Tally {
    /// What needs no counting.
    footprint: Footprint,
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
    has_contents: bool,
    has_content: bool,
    duplicate: Option<&'static str>,
}

impl Tally {
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
        }
        self.mark();
        true
    }

    /// What it means that there is a value at all.
    fn mark(&mut self) {
        self.tally.footprint.tools |= self.at == At::ServerTool;
        self.tally.footprint.unmeasured |= self.at == At::Reference;
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

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(self.scalar(1))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        if self.at == At::CandidateCount {
            self.tally.candidates = value;
        }
        // Proto JSON reads 0 as "not set".
        if self.at == At::OutputTokensMax && value > 0 {
            self.tally.footprint.output_tokens_max = Some(value);
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
            | At::ServerTool => self.tally.scripts.read(text),
            At::MimeType => self.tally.blob.media = Media::of(text),
            At::Base64 => {
                let decoded = bytes(text).div_ceil(4).saturating_mul(3);
                self.tally.blob.decoded_bytes =
                    self.tally.blob.decoded_bytes.saturating_add(decoded);
            }
            At::Modality => self.tally.asks_images |= text.eq_ignore_ascii_case("IMAGE"),
            // Proto JSON allows a number as a string.
            At::CandidateCount => self.tally.candidates = text.parse().unwrap_or(1),
            At::OutputTokensMax => {
                self.tally.footprint.output_tokens_max = text.parse().ok().filter(|max| *max > 0);
            }
            At::Resolution => self.tally.resolution = Some(Resolution::of(text)),
            At::PartResolution => self.tally.part.resolution = Resolution::of_part(text),
            At::Request
            | At::Embedding
            | At::EmbeddingText
            | At::Blob
            | At::GenerationConfig
            | At::Reference
            | At::Skip => {}
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

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<bool, A::Error> {
        let (mut holds, mut seen) = (false, 0);
        self.mark();
        self.tally.texts = self.tally.texts.saturating_add((self.at == At::EmbeddingText).into());
        // A tool's answer, itself a part, may have parts.
        let outer = (self.at == At::Part).then(|| mem::take(&mut self.tally.part));
        while let Some(((at, once), name_bytes)) = object.next_key_seed(Name(self.at))? {
            if self.is_data() {
                self.tally.scripts.ascii(name_bytes);
            }
            if let Some((bit, name)) = once {
                if seen & bit != 0 {
                    self.tally.duplicate = Some(name);
                }
                seen |= bit;
            }
            holds = true;
            let value_holds = object.next_value_seed(Walk { at, tally: self.tally })?;
            match once {
                Some((_, "contents")) => self.tally.has_contents |= value_holds,
                Some((_, "content")) => self.tally.has_content |= value_holds,
                Some(_) | None => {}
            }
        }
        if self.at == At::Blob {
            self.tally.close_blob();
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
