//! Bodies of good answers. Zero and empty fields are absent, as on the wire.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::continuation;
use super::draw::{Purpose, draw};
use super::prompt::{Prompt, count_tokens};
use super::stats::hex;
use super::stream;

/// Tokens of an image that an answer holds.
const OUTPUT_IMAGE_TOKENS: u64 = 1_290;

/// Longest prompt that an answer repeats whole, in characters; of others it repeats the start.
const ECHO_CHARS: usize = 200;

/// A PNG of one pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAA\
                   AACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg==";

/// An answer to a prompt: its text and what it used, by seed and prompt alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    text: String,
    candidate_tokens: u64,
    thought_tokens: u64,
    /// In all candidates.
    images: u64,
    /// For the rest, when this is not all of the answer.
    continuation_token: Option<String>,
}

impl Answer {
    /// `images` bounds how many images come, instead of one for each candidate.
    pub(super) fn new(seed: u64, model: &str, prompt: &Prompt, images: Option<[u64; 2]>) -> Self {
        if prompt.is_blocked {
            return Self::default();
        }
        let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(prompt.sha256);
        let digest = digest.finalize();
        let start: String = prompt.last_text.chars().take(ECHO_CHARS).collect();
        let ellipsis = if start.len() < prompt.last_text.len() { "…" } else { "" };
        let text = format!("echo {}: {start}{ellipsis}", hex(&digest[..4]));
        let text: String = text.chars().skip(prompt.resume_at).collect();
        let images = match images {
            Some([least, most]) if prompt.wants_images => {
                least + u64::from(digest[5]) % (most.saturating_sub(least) + 1)
            }
            Some(_) | None => prompt.images(),
        };
        let text_tokens = text_tokens(&text);
        let texts = prompt.candidates.saturating_sub(images);
        let thinks = thinks(model) && !prompt.no_thinking;
        Self {
            text,
            images,
            candidate_tokens: OUTPUT_IMAGE_TOKENS * images + text_tokens * texts,
            thought_tokens: if thinks { 16 + u64::from(digest[4]) } else { 0 },
            continuation_token: None,
        }
    }

    /// Keeps the first half of the text, with a token for the rest.
    pub(super) fn break_off(&mut self, prompt: &Prompt) {
        if prompt.is_blocked || prompt.wants_images || self.text.is_empty() {
            return;
        }
        let half = self.text.chars().count().div_ceil(2);
        self.text = self.text.chars().take(half).collect();
        self.candidate_tokens = text_tokens(&self.text) * prompt.candidates;
        let said = prompt.resume_at + half;
        self.continuation_token = Some(continuation::token(said, &prompt.sha256));
    }

    /// The text of every candidate.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Tokens of all candidates, without those of thinking.
    pub(super) fn candidate_tokens(&self) -> u64 {
        self.candidate_tokens
    }

    /// Tokens of thinking.
    pub(super) fn thought_tokens(&self) -> u64 {
        self.thought_tokens
    }

    /// Candidate and thought tokens.
    pub(super) fn output_tokens(&self) -> u64 {
        self.candidate_tokens + self.thought_tokens
    }

    /// Images in all candidates.
    pub(super) fn images(&self) -> u64 {
        self.images
    }

    /// The body, for the call that arrived as number `arrival`.
    pub(super) fn body(&self, seed: u64, arrival: u64, model: &str, prompt: &Prompt) -> Value {
        let id = draw(seed, Purpose::ResponseId, arrival);
        let mut body = json!({
            "usageMetadata": self.usage(prompt),
            "modelVersion": model,
            "responseId": format!("r{id:016x}"),
        });
        if prompt.is_blocked {
            body["promptFeedback"] = json!({"blockReason": "PROHIBITED_CONTENT"});
        } else {
            let candidates: Vec<Value> =
                (0..prompt.candidates).map(|index| self.candidate(index, prompt)).collect();
            body["candidates"] = json!(candidates);
        }
        body
    }

    fn candidate(&self, index: u64, prompt: &Prompt) -> Value {
        // Image after image goes to candidate after candidate; one that is left without has text.
        let images = (index..self.images).step_by(stride(prompt.candidates));
        let mut parts: Vec<Value> =
            images.map(|_| json!({"inlineData": {"mimeType": "image/png", "data": PNG}})).collect();
        let is_imageless = prompt.wants_images && parts.is_empty();
        if let Some((name, arguments)) = &prompt.function_call {
            parts = vec![json!({"functionCall": {"name": name, "args": arguments}})];
        } else if parts.is_empty() {
            parts.push(json!({"text": self.text}));
        }
        let content = json!({"parts": parts, "role": "model"});
        let reason = match self.continuation_token {
            Some(_) => "CONTINUATION",
            None if is_imageless => "NO_IMAGE",
            None => "STOP",
        };
        let mut candidate = json!({"content": content, "finishReason": reason});
        if let Some(token) = &self.continuation_token {
            candidate["continuationToken"] = json!(token);
        }
        if index > 0 {
            candidate["index"] = json!(index);
        }
        candidate
    }

    /// The body in up to `most` pieces: text parts are deltas, usage is cumulative.
    pub(super) fn pieces(
        &self,
        seed: u64,
        arrival: u64,
        model: &str,
        prompt: &Prompt,
        most: usize,
    ) -> Vec<Value> {
        let whole = self.body(seed, arrival, model, prompt);
        let deltas = stream::split(&self.text, most);
        let is_whole = prompt.is_blocked || prompt.wants_images || prompt.function_call.is_some();
        if is_whole || deltas.len() < 2 {
            return vec![whole];
        }
        let mut said = 0;
        let bodies = deltas.iter().enumerate().map(|(at, delta)| {
            said += delta.len();
            let is_last = said == self.text.len();
            let mut body = whole.clone();
            for candidate in body["candidates"].as_array_mut().into_iter().flatten() {
                candidate["content"]["parts"] = json!([{"text": delta}]);
                if let Some(fields) = candidate.as_object_mut().filter(|_| !is_last) {
                    fields.remove("finishReason");
                    fields.remove("continuationToken");
                }
            }
            if is_last {
                return body;
            }
            // The first piece tells of the prompt alone; the second of many tells no usage.
            let so_far = Self {
                candidate_tokens: if at == 0 {
                    0
                } else {
                    text_tokens(&self.text[..said]) * prompt.candidates
                },
                ..self.clone()
            };
            body["usageMetadata"] = json!(so_far.usage(prompt));
            if let Some(fields) = body.as_object_mut().filter(|_| at == 1 && deltas.len() > 3) {
                fields.remove("usageMetadata");
            }
            body
        });
        bodies.collect()
    }

    fn usage(&self, prompt: &Prompt) -> Map<String, Value> {
        let total = prompt.input_tokens() + self.candidate_tokens + self.thought_tokens;
        let mut usage = Map::new();
        for (name, tokens) in [
            ("promptTokenCount", prompt.input_tokens()),
            ("candidatesTokenCount", self.candidate_tokens),
            ("thoughtsTokenCount", self.thought_tokens),
            ("totalTokenCount", total),
        ] {
            if tokens > 0 {
                usage.insert(name.to_owned(), json!(tokens));
            }
        }
        let images = OUTPUT_IMAGE_TOKENS * self.images;
        let produced = [("TEXT", self.candidate_tokens - images), ("IMAGE", images)];
        for (name, details) in [
            ("promptTokensDetails", prompt_details(prompt)),
            ("candidatesTokensDetails", details(&produced)),
        ] {
            if !details.is_empty() {
                usage.insert(name.to_owned(), json!(details));
            }
        }
        if let Some(tier) = &prompt.service_tier {
            usage.insert("serviceTier".to_owned(), json!(tier));
        }
        usage
    }
}

/// The body of `countTokens`.
pub(super) fn token_count(prompt: &Prompt) -> Value {
    let mut body = Map::new();
    if prompt.input_tokens() > 0 {
        body.insert("totalTokens".to_owned(), json!(prompt.input_tokens()));
        body.insert("promptTokensDetails".to_owned(), json!(prompt_details(prompt)));
    }
    Value::Object(body)
}

/// The description of a model.
pub(super) fn model(name: &str) -> Value {
    let mut model = json!({
        "name": format!("models/{name}"),
        "version": "001",
        "displayName": name,
        "description": "A model of the emulator",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": methods(name),
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
    });
    if thinks(name) {
        model["thinking"] = json!(true);
    }
    model
}

fn text_tokens(text: &str) -> u64 {
    count_tokens(std::iter::once(text))
}

fn stride(candidates: u64) -> usize {
    usize::try_from(candidates).unwrap_or(usize::MAX)
}

fn prompt_details(prompt: &Prompt) -> Vec<Value> {
    details(&[("TEXT", prompt.text_tokens), ("IMAGE", prompt.image_tokens)])
}

fn details(tokens: &[(&str, u64)]) -> Vec<Value> {
    let used = tokens.iter().filter(|(_, tokens)| *tokens > 0);
    used.map(|(modality, tokens)| json!({"modality": modality, "tokenCount": tokens})).collect()
}

fn methods(model: &str) -> [&'static str; 2] {
    if model.contains("embedding") {
        ["embedContent", "batchEmbedContents"]
    } else {
        ["generateContent", "countTokens"]
    }
}

/// Whether a model spends thought tokens: named so, Gemini's of generation 2.5 or from 3 on, and
/// those of OpenAI that reason.
fn thinks(model: &str) -> bool {
    let version = model.strip_prefix("gemini-").unwrap_or_default();
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    let reasons = ["o1", "o3", "o4", "gpt-5"];
    model.contains("thinking")
        || reasons.iter().any(|name| model.starts_with(name))
        || version.starts_with("2.5")
        || major.parse::<u32>().is_ok_and(|major| major >= 3)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn prompt(text: &str) -> Prompt {
        let body = json!({"contents": [{"parts": [{"text": text}]}]});
        Prompt::of_generate(body.to_string().as_bytes()).unwrap()
    }

    fn text(body: &Value) -> &str {
        body["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap()
    }

    #[test]
    fn an_answer_hangs_on_seed_and_prompt_alone() {
        let answer = |seed, arrival, text: &str| {
            let prompt = prompt(text);
            Answer::new(seed, "m", &prompt, None).body(seed, arrival, "m", &prompt)
        };
        assert_eq!(text(&answer(1, 1, "why?")), text(&answer(1, 2, "why?")));
        assert_ne!(text(&answer(1, 1, "why?")), text(&answer(2, 1, "why?")));
        assert_ne!(text(&answer(1, 1, "why?")), text(&answer(1, 1, "how?")));
        assert!(text(&answer(1, 1, "why?")).ends_with(": why?"));
        let long = "ü".repeat(500);
        let body = answer(1, 1, &long);
        assert!(text(&body).chars().count() < 220);
        assert!(text(&body).ends_with('…'));
    }

    #[test]
    fn usage_adds_up_and_has_no_zeros() {
        for (model, is_thinking) in [
            ("gemini-2.0-flash", false),
            ("gemini-1.5-pro", false),
            ("gemini-2.0-flash-thinking-exp-01-21", true),
            ("gemini-2.5-flash", true),
            ("gemini-3.8-flash", true),
            ("gemini-4-argon", true),
        ] {
            let prompt = prompt("hello there");
            let answer = Answer::new(0, model, &prompt, None);
            let usage = &answer.body(0, 1, model, &prompt)["usageMetadata"];
            let count = |name: &str| usage[name].as_u64();
            assert_eq!(count("promptTokenCount"), Some(3));
            assert_eq!(count("thoughtsTokenCount").is_some(), is_thinking, "{model}");
            assert_eq!(
                count("totalTokenCount"),
                Some(3 + answer.output_tokens()),
                "{model}: {usage}"
            );
            assert_eq!(
                usage["promptTokensDetails"],
                json!([{"modality": "TEXT", "tokenCount": 3}])
            );
            assert_eq!(usage.get("cachedContentTokenCount"), None);
        }
    }

    #[test]
    fn a_blocked_prompt_has_feedback_and_no_candidates() {
        let prompt = prompt("please [[block]] this");
        let body = Answer::new(0, "gemini-2.5-flash", &prompt, None).body(0, 1, "m", &prompt);
        assert_eq!(body["promptFeedback"]["blockReason"], "PROHIBITED_CONTENT");
        assert_eq!(body.get("candidates"), None);
        assert_eq!(body["usageMetadata"]["promptTokenCount"], 6);
        assert_eq!(body["usageMetadata"]["totalTokenCount"], 6);
    }

    #[test]
    fn an_image_request_is_answered_with_images() {
        let request = json!({
            "contents": [{"parts": [{"text": "a cat"}]}],
            "generationConfig": {"responseModalities": ["IMAGE"], "candidateCount": 2},
        });
        let prompt = Prompt::of_generate(request.to_string().as_bytes()).unwrap();
        let body = Answer::new(0, "m", &prompt, None).body(0, 1, "m", &prompt);
        let candidates = body["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 2);
        assert_eq!(candidates[1]["index"], 1);
        let data = &candidates[0]["content"]["parts"][0]["inlineData"];
        assert_eq!(data["mimeType"], "image/png");
        assert_eq!(body["usageMetadata"]["candidatesTokenCount"], 2 * 1_290);
    }

    #[test]
    fn fewer_or_more_images_may_come_than_were_asked_for() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            let request = json!({
                "contents": [{"parts": [{"text": format!("cat {n}")}]}],
                "generationConfig": {"responseModalities": ["IMAGE"], "candidateCount": 2},
            });
            let prompt = Prompt::of_generate(request.to_string().as_bytes()).unwrap();
            let answer = Answer::new(0, "m", &prompt, Some([0, 3]));
            let body = answer.body(0, 1, "m", &prompt);
            let candidates = body["candidates"].as_array().unwrap();
            let parts =
                |candidate: &Value| candidate["content"]["parts"].as_array().unwrap().clone();
            let is_image = |part: &Value| part.get("inlineData").is_some();
            let images = candidates.iter().flat_map(parts).filter(is_image).count();
            assert_eq!(u64::try_from(images).unwrap(), answer.images());
            let reasons: Vec<_> = candidates.iter().map(|c| c["finishReason"].clone()).collect();
            assert_eq!(candidates.len(), 2);
            assert_eq!(reasons.iter().filter(|r| *r == "NO_IMAGE").count(), 2 - images.min(2));
            let usage = &body["usageMetadata"]["candidatesTokensDetails"];
            let of = |modality: &str| {
                let mut list = usage.as_array().unwrap().iter();
                list.find(|d| d["modality"] == modality).map(|d| d["tokenCount"].clone())
            };
            assert_eq!(of("IMAGE").is_some(), images > 0);
            assert_eq!(of("TEXT").is_some(), images < 2);
            seen.insert(images);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
