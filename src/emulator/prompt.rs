//! What a request asks for: checked payload, token count, images.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::continuation;
use super::refusal::Refusal;
use super::schema::{COUNT_TOKENS, GENERATE, PART_DATA, Problems, Schema, read, whole};

/// Largest body of a request, 20 MB.
pub(super) const MAX_BODY_BYTES: usize = 20 * 1024 * 1024;

/// Tokens of an inline image.
const IMAGE_TOKENS: u64 = 258;

/// A well-formed prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    /// The last text part of `contents`.
    pub(super) last_text: String,
    /// SHA-256 of all text parts of `contents`, one after the other.
    pub(super) sha256: [u8; 32],
    pub(super) text_tokens: u64,
    pub(super) image_tokens: u64,
    /// Answers wanted, from 1 to 8.
    pub(super) candidates: u64,
    /// Whether the answers are to be images.
    pub(super) wants_images: bool,
    /// Whether thinking is switched off.
    pub(super) no_thinking: bool,
    /// Whether the text has the mark of a prompt that is to be blocked.
    pub(super) is_blocked: bool,
    pub(super) service_tier: Option<String>,
    /// The call of a function with which it is answered: its name and arguments.
    pub(super) function_call: Option<(String, Value)>,
    /// Characters of the answer that came before, from `continuationToken`.
    pub(super) resume_at: usize,
}

impl Prompt {
    /// Reads the body of `generateContent`.
    pub(super) fn of_generate(body: &[u8]) -> Result<Self, Refusal> {
        Self::of_request(&read_body(body, GENERATE)?)
    }

    /// Reads the body of `countTokens`.
    pub(super) fn of_count(body: &[u8]) -> Result<Self, Refusal> {
        let request = read_body(body, COUNT_TOKENS)?;
        match request.get("generateContentRequest") {
            Some(Value::Object(request)) => Self::of_request(request),
            _ => Self::of_request(&request),
        }
    }

    /// Input tokens, the estimate of 4 ASCII characters or 1 other character for a token.
    pub(super) fn input_tokens(&self) -> u64 {
        self.text_tokens + self.image_tokens
    }

    /// Images asked for.
    pub(super) fn images(&self) -> u64 {
        if self.wants_images { self.candidates } else { 0 }
    }

    fn of_request(request: &Map<String, Value>) -> Result<Self, Refusal> {
        let contents = request.get("contents").and_then(Value::as_array);
        let contents = contents.filter(|contents| !contents.is_empty()).ok_or_else(|| {
            Refusal::bad_request("* GenerateContentRequest.contents: contents is not specified\n")
        })?;
        for (index, content) in contents.iter().enumerate() {
            check_content(content, index)?;
        }
        let config = request.get("generationConfig");
        let config_field = |name: &str| config.and_then(|config| config.get(name));
        let candidates = config_field("candidateCount").and_then(whole).unwrap_or(1);
        let candidates =
            u64::try_from(candidates).ok().filter(|n| (1..=8).contains(n)).ok_or_else(|| {
                Refusal::bad_request(
                    "* GenerateContentRequest.generation_config.candidate_count: must be in the \
                     range [1, 8]\n",
                )
            })?;
        let is_image =
            |value: &Value| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("IMAGE"));
        let modalities = config_field("responseModalities").and_then(Value::as_array);
        let thinking = config_field("thinkingConfig");
        let budget = thinking.and_then(|thinking| thinking.get("thinkingBudget")).and_then(whole);
        let texts: Vec<&str> = contents.iter().flat_map(texts_of).collect();
        let instruction = request.get("systemInstruction");
        let all_text = instruction.into_iter().flat_map(texts_of).chain(texts.iter().copied());
        let images = contents
            .iter()
            .chain(instruction)
            .flat_map(parts_of)
            .filter(|part| is_inline_image(part));
        let sha256: [u8; 32] = Sha256::digest(texts.concat()).into();
        let token = request.get("continuationToken").and_then(Value::as_str);
        let resume_at = token.map_or(Ok(0), |token| continuation::read(token, &sha256))?;
        Ok(Self {
            last_text: texts.last().copied().unwrap_or_default().to_owned(),
            sha256,
            text_tokens: count_tokens(all_text),
            image_tokens: images.map(|_| IMAGE_TOKENS).sum(),
            candidates,
            wants_images: modalities.is_some_and(|list| list.iter().any(is_image)),
            no_thinking: budget == Some(0),
            is_blocked: texts.iter().any(|text| text.contains("[[block]]")),
            service_tier: request
                .get("serviceTier")
                .and_then(Value::as_str)
                .map(str::to_ascii_lowercase),
            function_call: function_call(request, contents),
            resume_at,
        })
    }
}

/// The call of the first declared function, unless the last turn answers one.
fn function_call(request: &Map<String, Value>, contents: &[Value]) -> Option<(String, Value)> {
    let is_answered = contents
        .last()
        .is_some_and(|turn| parts_of(turn).any(|part| part.get("functionResponse").is_some()));
    if is_answered {
        return None;
    }
    let tools = request.get("tools").and_then(Value::as_array)?;
    let either = |value: &Value, camel: &str, snake: &str| {
        value.get(camel).or_else(|| value.get(snake)).cloned()
    };
    let declared = tools
        .iter()
        .find_map(|tool| either(tool, "functionDeclarations", "function_declarations"))?;
    let first = declared.get(0)?;
    let name = first.get("name")?.as_str()?.to_owned();
    let schema = either(first, "parameters", "parameters")
        .or_else(|| either(first, "parametersJsonSchema", "parameters_json_schema"));
    let properties = schema.as_ref().and_then(|schema| schema.get("properties")?.as_object());
    let value = |schema: &Value| match schema["type"].as_str().map(str::to_uppercase).as_deref() {
        Some("INTEGER" | "NUMBER") => Value::from(7),
        Some("BOOLEAN") => Value::from(true),
        Some("ARRAY") => Value::Array(Vec::new()),
        Some("OBJECT") => Value::Object(Map::new()),
        _ => Value::from("here"),
    };
    let arguments: Map<String, Value> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), value(schema)))
        .collect();
    Some((name, Value::Object(arguments)))
}

/// The emulator's tokenizer: 4 ASCII characters or 1 other character for a token.
pub(super) fn count_tokens<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let (mut ascii, mut other) = (0_u64, 0_u64);
    for letter in texts.flat_map(str::chars) {
        if letter.is_ascii() {
            ascii += 1;
        } else {
            other += 1;
        }
    }
    ascii.div_ceil(4) + other
}

/// The body as a message of `schema`.
pub(super) fn read_body(body: &[u8], schema: &Schema) -> Result<Map<String, Value>, Refusal> {
    if body.len() > MAX_BODY_BYTES {
        return Err(Refusal::bad_request(format!(
            "Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes."
        )));
    }
    // An empty body is an empty message, which then lacks contents.
    let body = if body.is_empty() { b"{}" } else { body };
    let json: Value = serde_json::from_slice(body).map_err(|error| {
        let text = format!(
            "Invalid JSON payload received. Unexpected token at line {}, column {}.",
            error.line(),
            error.column()
        );
        Refusal::bad_payload(&[(String::new(), text)])
    })?;
    read(&json, schema).map_err(|problems: Problems| Refusal::bad_payload(&problems))
}

/// Refuses a content without parts, or with one that is not exactly one thing.
pub(super) fn check_content(content: &Value, index: usize) -> Result<(), Refusal> {
    let role = content.get("role").and_then(Value::as_str).unwrap_or_default();
    if !["", "user", "model", "function"].contains(&role) {
        return Err(Refusal::bad_request("Please use a valid role: user, model."));
    }
    if parts_of(content).next().is_none() {
        return Err(Refusal::bad_request(format!(
            "* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty.\n"
        )));
    }
    for (part_index, part) in parts_of(content).enumerate() {
        let given: Vec<_> =
            PART_DATA.into_iter().filter(|name| part.get(*name).is_some()).collect();
        let path = format!("contents[{index}].parts[{part_index}]");
        match given.as_slice() {
            [_] => {}
            [] => {
                return Err(Refusal::bad_request(format!(
                    "* GenerateContentRequest.{path}.data: required oneof field 'data' must have \
                     one initialized field\n"
                )));
            }
            [_, second, ..] => {
                let text = format!(
                    "Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot \
                     set '{second}'"
                );
                return Err(Refusal::bad_payload(&[(path, text)]));
            }
        }
    }
    Ok(())
}

fn parts_of(content: &Value) -> impl Iterator<Item = &Value> {
    content.get("parts").and_then(Value::as_array).into_iter().flatten()
}

/// The text parts of a content.
pub(super) fn texts_of(content: &Value) -> impl Iterator<Item = &str> {
    parts_of(content).filter_map(|part| part.get("text").and_then(Value::as_str))
}

fn is_inline_image(part: &Value) -> bool {
    let mime_type = part.pointer("/inlineData/mimeType").and_then(Value::as_str);
    mime_type.is_some_and(|mime_type| mime_type.starts_with("image/"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use serde_json::json;

    use super::*;

    fn prompt(json: &Value) -> Result<Prompt, String> {
        Prompt::of_generate(json.to_string().as_bytes())
            .map_err(|refusal| refusal.body()["error"]["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn tokens_are_counted_over_all_text_and_inline_images() {
        let request = json!({
            "systemInstruction": {"parts": [{"text": "brief"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "hé"}, {"text": "llo"}]},
                {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]},
            ],
        });
        let prompt = prompt(&request).unwrap();
        // Nine ASCII characters are 3 tokens, é is 1.
        assert_eq!((prompt.text_tokens, prompt.image_tokens), (4, 258));
        assert_eq!(prompt.last_text, "llo");
        assert_eq!(prompt.sha256, <[u8; 32]>::from(Sha256::digest("héllo")));
        assert_eq!(prompt.images(), 0);
    }

    #[test]
    fn image_requests_weigh_as_many_images_as_candidates() {
        let request = json!({
            "contents": [{"parts": [{"text": "a cat"}]}],
            "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "candidateCount": 3},
        });
        assert_eq!(prompt(&request).unwrap().images(), 3);
    }

    #[test]
    fn payloads_without_meaning_are_refused() {
        let content = |content: Value| json!({"contents": [content]});
        let cases = [
            (json!({}), "contents is not specified"),
            (json!({"contents": []}), "contents is not specified"),
            (content(json!({"parts": []})), "contents.parts must not be empty"),
            (content(json!({"parts": [{}]})), "parts[0].data: required oneof field"),
            (content(json!({"parts": [{"text": "a", "fileData": {}}]})), "is already set"),
            (content(json!({"role": "system", "parts": [{"text": "a"}]})), "valid role"),
        ];
        for (json, expected) in cases {
            let problem = prompt(&json).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        for body in [&b"{"[..], b"[1]", b"\"hi\"", b"\xff", b""] {
            assert_eq!(Prompt::of_generate(body).unwrap_err().code, 400);
        }
        let huge = vec![b' '; MAX_BODY_BYTES + 1];
        let refusal = Prompt::of_generate(&huge).unwrap_err();
        assert!(refusal.body().to_string().contains("payload size exceeds the limit: 20971520"));
    }

    #[test]
    fn count_tokens_takes_contents_or_a_whole_request() {
        let contents = json!([{"parts": [{"text": "hi"}]}]);
        for json in [
            json!({"contents": contents}),
            json!({"generateContentRequest": {"contents": contents}}),
        ] {
            let prompt = Prompt::of_count(json.to_string().as_bytes()).unwrap();
            assert_eq!(prompt.input_tokens(), 1);
        }
        assert!(Prompt::of_count(b"{\"tools\": []}").is_err());
    }
}
