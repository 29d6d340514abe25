//! The `OpenAI` batch dialect: one `{"custom_id": …, "method": "POST", "url": …, "body": {…}}` a
//! line.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::jsonl::{Envelope, offset_in};
use super::kind::Scripts;
use super::media::{Blob, Media, Resolution};
use super::{Footprint, Line, LineError, Method};

/// Most lists and objects within each other, as in the other dialect.
const DEPTH_MAX: usize = 128;

/// Reads a line into an item.
pub(super) fn item(text: &str) -> Result<Line, LineError> {
    if let Some(column) = too_deep(text) {
        return Err(LineError::TooDeep { column });
    }
    let envelope = Envelope::parse(text)?;
    if envelope.options.is_some() {
        return Err(LineError::OptionsMisplaced);
    }
    let key = envelope.custom_id()?;
    let method = envelope.url()?;
    let body = envelope.body()?;
    let read: Body<'_> = serde_json::from_str(body)
        .map_err(|error| LineError::from_json(&error, body, offset_in(text, body)))?;
    if read.stream.is_some_and(|stream| stream.get() == "true") {
        return Err(LineError::Streamed);
    }
    let model = read.model().ok_or(LineError::ModelMissing)?;
    let footprint = match method {
        Method::Embeddings => read.embeddings(),
        Method::Chat | Method::Generate | Method::Embed => read.chat(),
    };
    let footprint = footprint.ok_or(LineError::BodyEmpty)?;
    Ok(Line { key, footprint, method: Some(method), model: Some(model) })
}

/// What a line asks for, as its `url` says it.
pub(super) fn method_of(url: &str) -> Option<Method> {
    match url {
        "/v1/chat/completions" => Some(Method::Chat),
        "/v1/embeddings" => Some(Method::Embeddings),
        _ => None,
    }
}

/// The column where lists and objects are too many within each other.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                if depth > DEPTH_MAX {
                    return Some(at.saturating_add(1));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The body, as far as it says what it weighs. Whatever is of another shape than expected is
/// weighed as text: whether it is right is the provider's to say.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    functions: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<&'a RawValue>,
    #[serde(borrow)]
    file: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Media64<'a> {
    /// Of an image: an address, or the image itself.
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    /// Of sound.
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    /// Of a file.
    #[serde(borrow)]
    file_data: Option<Cow<'a, str>>,
}

impl<'a> Body<'a> {
    fn model(&self) -> Option<String> {
        let model: Cow<'_, str> = serde_json::from_str(self.model?.get()).ok()?;
        let model = model.strip_prefix("models/").unwrap_or(&model);
        (!model.is_empty() && model.len() <= 256).then(|| model.to_owned())
    }

    /// What a chat weighs; none without a message.
    fn chat(&self) -> Option<Footprint> {
        let mut tally = Tally::default();
        let messages: Vec<&RawValue> = serde_json::from_str(self.messages?.get()).ok()?;
        if messages.is_empty() {
            return None;
        }
        for message in &messages {
            tally.message(message);
        }
        for data in [self.tools, self.functions, self.response_format].into_iter().flatten() {
            tally.scripts.read(data.get());
        }
        let most = |raw: Option<&'a RawValue>| raw?.get().parse().ok().filter(|most| *most > 0);
        let output_tokens_max = most(self.max_completion_tokens).or(most(self.max_tokens));
        let turns = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        // Each turn costs a few tokens of its own.
        tally.scripts.ascii(turns.saturating_mul(8));
        Some(Footprint { output_tokens_max, ..tally.footprint() })
    }

    /// What embeddings weigh; none without an input.
    fn embeddings(&self) -> Option<Footprint> {
        let input = self.input?.get();
        let mut tally = Tally::default();
        if let Ok(text) = serde_json::from_str::<Cow<'_, str>>(input) {
            tally.scripts.read(&text);
            return (!text.is_empty()).then(|| tally.footprint());
        }
        let texts: Vec<&RawValue> = serde_json::from_str(input).ok()?;
        if texts.first().is_some_and(|first| first.get().parse::<u64>().is_ok()) {
            // One text, as tokens.
            tally.scripts.dense(u64::try_from(texts.len()).unwrap_or(u64::MAX));
            return Some(tally.footprint());
        }
        for text in &texts {
            tally.text_or_raw(text);
        }
        let requests = u64::try_from(texts.len()).unwrap_or(u64::MAX);
        (requests > 0).then(|| Footprint { requests, ..tally.footprint() })
    }
}

#[derive(Default)]
struct Tally {
    scripts: Scripts,
    media_tokens: u64,
    unmeasured: bool,
}

impl Tally {
    fn footprint(&self) -> Footprint {
        Footprint {
            text_bytes: self.scripts.total(),
            script: self.scripts.mostly(),
            media_tokens: self.media_tokens,
            unmeasured: self.unmeasured,
            ..Footprint::default()
        }
    }

    /// A string's text, or whatever else stands there as it is written.
    fn text_or_raw(&mut self, raw: &RawValue) {
        match serde_json::from_str::<Cow<'_, str>>(raw.get()) {
            Ok(text) => self.scripts.read(&text),
            Err(_) => self.scripts.read(raw.get()),
        }
    }

    fn message(&mut self, raw: &RawValue) {
        let Ok(message) = serde_json::from_str::<Message<'_>>(raw.get()) else {
            return self.scripts.read(raw.get());
        };
        for data in [message.name, message.tool_calls, message.function_call].into_iter().flatten()
        {
            self.scripts.read(data.get());
        }
        let Some(content) = message.content else { return };
        match serde_json::from_str::<Vec<&RawValue>>(content.get()) {
            Ok(parts) => parts.into_iter().for_each(|part| self.part(part)),
            Err(_) => self.text_or_raw(content),
        }
    }

    fn part(&mut self, raw: &RawValue) {
        let Ok(part) = serde_json::from_str::<Part<'_>>(raw.get()) else {
            return self.text_or_raw(raw);
        };
        let media = [part.image_url, part.input_audio, part.file];
        if let Some(text) = part.text {
            self.text_or_raw(text);
        } else if media.iter().all(Option::is_none) {
            self.scripts.read(raw.get());
        }
        for (kind, raw) in [Media::Image, Media::Audio, Media::Other].into_iter().zip(media) {
            if let Some(raw) = raw {
                self.media(kind, raw);
            }
        }
    }

    /// Media inline, as base64 or a `data:` address; anything else is somewhere else.
    fn media(&mut self, kind: Media, raw: &RawValue) {
        let Ok(Media64 { url, data, file_data }) = serde_json::from_str(raw.get()) else {
            return self.scripts.read(raw.get());
        };
        let Some(inline) = url.or(data).or(file_data) else {
            self.unmeasured = true;
            return;
        };
        let (media, base64) = match inline.strip_prefix("data:").and_then(|url| url.split_once(','))
        {
            Some((head, base64)) => (Media::of(head), base64),
            // An image elsewhere takes what an image takes at most.
            None if kind == Media::Image => (Media::Image, ""),
            None => (kind, &*inline),
        };
        let length = u64::try_from(base64.len()).unwrap_or(u64::MAX);
        let blob = Blob { media, decoded_bytes: length.div_ceil(4).saturating_mul(3) };
        if media == Media::Text {
            self.scripts.dense(blob.decoded_bytes);
        } else {
            let tokens = blob.bounds().at(Resolution::Unspecified);
            self.media_tokens = self.media_tokens.saturating_add(tokens);
        }
    }
}
