//! A chat completion in pieces.

use serde_json::{Value, json};

use super::Form;
use crate::emulator::stream::split;

/// The chunks of a completion: OpenAI tells usage in a last one, and only when asked; Gemini tells
/// what it comes to so far in each.
pub(super) fn chunks(form: Form, body: &Value, tells_usage: bool, pieces: usize) -> Vec<Value> {
    let usage = &body["usage"];
    let chunk = |choices: Value| {
        let mut chunk = json!({
            "id": body["id"],
            "object": "chat.completion.chunk",
            "created": body["created"],
            "model": body["model"],
            "choices": choices,
        });
        match form {
            Form::Gemini => chunk["usage"] = usage.clone(),
            Form::Plain if tells_usage => chunk["usage"] = Value::Null,
            Form::Plain => {}
        }
        chunk
    };
    let mut chunks = Vec::new();
    for choice in body["choices"].as_array().into_iter().flatten() {
        let index = &choice["index"];
        let piece = |delta: Value, reason: Value| {
            chunk(json!([{"index": index, "delta": delta, "finish_reason": reason}]))
        };
        let message = &choice["message"];
        let text = message["content"].as_str().unwrap_or_default();
        chunks.push(piece(json!({"role": "assistant", "content": ""}), Value::Null));
        let said = split(text, pieces).into_iter();
        chunks.extend(said.map(|text| piece(json!({"content": text}), Value::Null)));
        if let Some(refusal) = message["refusal"].as_str() {
            chunks.push(piece(json!({"refusal": refusal}), Value::Null));
        }
        chunks.push(piece(json!({}), choice["finish_reason"].clone()));
    }
    if form == Form::Plain && tells_usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage.clone();
        chunks.push(last);
    }
    chunks
}
