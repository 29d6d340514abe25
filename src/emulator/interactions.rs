//! Interactions: a prompt in another form, answered at once or in events.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::draw::{Purpose, draw};
use super::prompt::{MAX_BODY_BYTES, Prompt, count_tokens};
use super::refusal::Refusal;
use super::stream;

/// Fields that a request may have.
const FIELDS: [&str; 19] = [
    "model",
    "input",
    "stream",
    "agent",
    "background",
    "generation_config",
    "response_format",
    "response_mime_type",
    "response_modalities",
    "system_instruction",
    "tools",
    "store",
    "previous_interaction_id",
    "service_tier",
    "cached_content",
    "labels",
    "agent_config",
    "continuation_token",
    "environment",
];

/// A well-formed request.
#[derive(Debug)]
pub(super) struct Interaction {
    pub(super) model: String,
    pub(super) prompt: Prompt,
    pub(super) is_stream: bool,
}

impl Interaction {
    /// Reads the body.
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        if body.len() > MAX_BODY_BYTES {
            return Err(Refusal::bad_request("The request is too large."));
        }
        let body: Value = serde_json::from_slice(body)
            .map_err(|_| Refusal::bad_request("The request is not valid JSON."))?;
        let Some(fields) = body.as_object() else {
            return Err(Refusal::bad_request("The request is not a JSON object."));
        };
        if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(Refusal::bad_request(format!("Unknown parameter '{unknown}'.")));
        }
        let Some(model) = fields.get("model").and_then(Value::as_str) else {
            return Err(Refusal::bad_request("One of 'model' or 'agent' is required."));
        };
        let mut texts = Vec::new();
        said(fields.get("input").unwrap_or(&Value::Null), &mut texts);
        if texts.is_empty() {
            return Err(Refusal::bad_request("'input' is required."));
        }
        let instruction = fields.get("system_instruction").and_then(Value::as_str);
        let all = texts.iter().copied().chain(instruction);
        let prompt = Prompt {
            last_text: texts.last().copied().unwrap_or_default().to_owned(),
            sha256: Sha256::digest(texts.concat()).into(),
            text_tokens: count_tokens(all),
            candidates: 1,
            ..Prompt::default()
        };
        let is_stream = fields.get("stream").and_then(Value::as_bool).unwrap_or(false);
        let model = model.strip_prefix("models/").unwrap_or(model).to_owned();
        Ok(Self { model, prompt, is_stream })
    }

    /// The answer in one piece.
    pub(super) fn body(&self, seed: u64, arrival: u64, answer: &Answer) -> Value {
        let mut body = self.begun(seed, arrival, "completed");
        body["steps"] = json!([{
            "type": "model_output",
            "content": [{"type": "text", "text": answer.text()}],
        }]);
        body["usage"] = self.usage(answer);
        body
    }

    /// The answer as events.
    pub(super) fn events(
        &self,
        seed: u64,
        arrival: u64,
        answer: &Answer,
        pieces: usize,
    ) -> Vec<Value> {
        let begun = self.begun(seed, arrival, "in_progress");
        let mut completed = self.begun(seed, arrival, "completed");
        completed["usage"] = self.usage(answer);
        let mut events = vec![
            json!({"event_type": "interaction.created", "interaction": begun}),
            json!({"event_type": "step.start", "index": 0, "step": {"type": "model_output"}}),
        ];
        events.extend(stream::split(answer.text(), pieces).into_iter().map(|text| {
            let delta = json!({"type": "text", "text": text});
            json!({"event_type": "step.delta", "index": 0, "delta": delta})
        }));
        events.push(json!({"event_type": "step.stop", "index": 0}));
        events.push(json!({"event_type": "interaction.completed", "interaction": completed}));
        events
    }

    fn begun(&self, seed: u64, arrival: u64, status: &str) -> Value {
        let id = draw(seed, Purpose::ResponseId, arrival);
        json!({
            "id": format!("i{id:016x}"),
            "object": "interaction",
            "model": self.model,
            "status": status,
        })
    }

    fn usage(&self, answer: &Answer) -> Value {
        let (input, output) = (self.prompt.input_tokens(), answer.candidate_tokens());
        let thoughts = answer.thought_tokens();
        json!({
            "total_input_tokens": input,
            "total_output_tokens": output,
            "total_thought_tokens": thoughts,
            "total_cached_tokens": 0,
            "total_tool_use_tokens": 0,
            "total_tokens": input + output + thoughts,
            "input_tokens_by_modality": [{"modality": "text", "tokens": input}],
        })
    }
}

/// The texts of what an interaction is told, whatever its shape.
fn said<'a>(input: &'a Value, texts: &mut Vec<&'a str>) {
    match input {
        Value::String(text) => texts.push(text),
        Value::Array(parts) => {
            for part in parts {
                said(part, texts);
            }
        }
        Value::Object(fields) => {
            for name in ["text", "content"] {
                said(fields.get(name).unwrap_or(&Value::Null), texts);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
