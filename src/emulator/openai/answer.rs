//! Bodies of good answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::Form;
use super::request::Chat;
use crate::emulator::answer::Answer;
use crate::emulator::draw::{Purpose, draw};
use crate::emulator::embed::Embed;

/// Of which call an answer is, and of when.
pub(super) struct Made {
    pub(super) seed: u64,
    pub(super) arrival: u64,
    pub(super) at: DateTime<Utc>,
}

/// A chat completion.
pub(super) fn completion(
    form: Form,
    made: &Made,
    model: &str,
    chat: &Chat,
    answer: &Answer,
) -> Value {
    let id = draw(made.seed, Purpose::ResponseId, made.arrival);
    let mut body = json!({
        "object": "chat.completion",
        "created": made.at.timestamp(),
        "model": model,
    });
    let choices: Vec<Value> =
        (0..chat.prompt.candidates).map(|index| choice(form, index, chat, answer)).collect();
    let (prompt, text, thoughts) =
        (chat.prompt.input_tokens(), answer.candidate_tokens(), answer.thought_tokens());
    match form {
        Form::Plain => {
            body["id"] = json!(format!("chatcmpl-{id:016x}"));
            body["choices"] = json!(choices);
            body["usage"] = json!({
                "prompt_tokens": prompt,
                "completion_tokens": text + thoughts,
                "total_tokens": prompt + text + thoughts,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": thoughts, "audio_tokens": 0,
                    "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
                },
            });
            body["service_tier"] = json!("default");
            body["system_fingerprint"] = json!(null);
        }
        Form::Gemini => {
            body["id"] = json!(format!("r{id:016x}"));
            // A list that is empty is absent, as on the wire.
            if !chat.prompt.is_blocked {
                body["choices"] = json!(choices);
            }
            body["usage"] = json!({
                "prompt_tokens": prompt,
                "completion_tokens": text,
                "total_tokens": prompt + text + thoughts,
            });
        }
    }
    body
}

fn choice(form: Form, index: u64, chat: &Chat, answer: &Answer) -> Value {
    let (content, refusal, reason) = if chat.prompt.is_blocked {
        (json!(""), json!(null), "content_filter")
    } else if chat.is_refused {
        (json!(null), json!("I'm sorry, I can't assist with that."), "stop")
    } else {
        (json!(answer.text()), json!(null), "stop")
    };
    match form {
        Form::Plain => json!({
            "index": index,
            "message": {
                "role": "assistant", "content": content, "refusal": refusal, "annotations": [],
            },
            "logprobs": null,
            "finish_reason": reason,
        }),
        Form::Gemini => {
            let mut message = json!({"role": "assistant"});
            for (name, value) in [("content", content), ("refusal", refusal)] {
                if !value.is_null() {
                    message[name] = value;
                }
            }
            json!({"index": index, "message": message, "finish_reason": reason})
        }
    }
}

/// The values as 32-bit floats in base 64.
fn encoded(values: &[f64]) -> Value {
    let single = |value: &f64| value.to_string().parse::<f32>().unwrap_or(0.0).to_le_bytes();
    let bytes: Vec<u8> = values.iter().flat_map(single).collect();
    json!(STANDARD.encode(bytes))
}

/// Embeddings.
pub(super) fn embeddings(form: Form, seed: u64, model: &str, embed: &Embed) -> Value {
    let vectors = embed.vectors(seed).into_iter().enumerate();
    let data: Vec<Value> = vectors
        .map(|(at, values)| {
            let values = if embed.is_base64 { encoded(&values) } else { json!(values) };
            json!({"object": "embedding", "index": at, "embedding": values})
        })
        .collect();
    let mut body = json!({"object": "list", "data": data, "model": model});
    let tokens = embed.input_tokens();
    // Gemini tells usage of its second generation alone.
    if form == Form::Plain || model.starts_with("gemini-embedding-2") {
        body["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    body
}
