//! The request messages as far as the emulator knows them, and a strict proto3 JSON reader.

use serde_json::{Map, Value};

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Flag,
    /// A whole number, also as a string.
    Whole,
    /// A number, also as a string.
    Real,
    /// Base64.
    Bytes,
    /// An enum of these names, in any case.
    OneOf(&'static [&'static str]),
    /// Any JSON: a `Struct`, or a message whose fields are not checked.
    Any,
    Message(&'static Schema),
    /// An array; a single value stands for an array of one, as in the provider's examples.
    Many(&'static Kind),
}

/// Field names in camelCase and what they hold.
pub(super) type Schema = [(&'static str, Kind)];

/// `GenerateContentRequest`.
pub(super) const GENERATE: &Schema = &[
    ("model", Kind::Text),
    ("contents", Kind::Many(&Kind::Message(CONTENT))),
    ("systemInstruction", Kind::Message(CONTENT)),
    ("generationConfig", Kind::Message(GENERATION_CONFIG)),
    ("tools", Kind::Many(&Kind::Message(TOOL))),
    ("toolConfig", Kind::Message(TOOL_CONFIG)),
    ("safetySettings", Kind::Many(&Kind::Message(SAFETY_SETTING))),
    ("cachedContent", Kind::Text),
    ("serviceTier", Kind::OneOf(&["standard", "flex", "priority"])),
    ("continuationToken", Kind::Bytes),
];

/// `CountTokensRequest`.
pub(super) const COUNT_TOKENS: &Schema = &[
    ("model", Kind::Text),
    ("contents", Kind::Many(&Kind::Message(CONTENT))),
    ("generateContentRequest", Kind::Message(GENERATE)),
];

/// `EmbedContentRequest`.
pub(super) const EMBED: &Schema = &[
    ("model", Kind::Text),
    ("content", Kind::Message(CONTENT)),
    ("taskType", Kind::Text),
    ("title", Kind::Text),
    ("outputDimensionality", Kind::Whole),
    ("autoTruncate", Kind::Flag),
];

/// `BatchEmbedContentsRequest`.
pub(super) const BATCH_EMBED: &Schema = &[("requests", Kind::Many(&Kind::Message(EMBED)))];

const CONTENT: &Schema = &[("role", Kind::Text), ("parts", Kind::Many(&Kind::Message(PART)))];

const PART: &Schema = &[
    ("text", Kind::Text),
    ("inlineData", Kind::Message(BLOB)),
    ("fileData", Kind::Message(FILE)),
    ("functionCall", Kind::Message(FUNCTION_CALL)),
    ("functionResponse", Kind::Message(FUNCTION_RESPONSE)),
    ("executableCode", Kind::Any),
    ("codeExecutionResult", Kind::Any),
    ("toolCall", Kind::Any),
    ("toolResponse", Kind::Any),
    ("thought", Kind::Flag),
    ("thoughtSignature", Kind::Bytes),
    ("videoMetadata", Kind::Any),
    ("mediaResolution", Kind::Any),
    ("partMetadata", Kind::Any),
];

/// The fields of a part of which it has exactly one.
pub(super) const PART_DATA: [&str; 9] = [
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
];

const BLOB: &Schema =
    &[("mimeType", Kind::Text), ("data", Kind::Bytes), ("displayName", Kind::Text)];

const FILE: &Schema =
    &[("mimeType", Kind::Text), ("fileUri", Kind::Text), ("displayName", Kind::Text)];

const FUNCTION_CALL: &Schema = &[("id", Kind::Text), ("name", Kind::Text), ("args", Kind::Any)];

const FUNCTION_RESPONSE: &Schema = &[
    ("id", Kind::Text),
    ("name", Kind::Text),
    ("response", Kind::Any),
    ("parts", Kind::Any),
    ("willContinue", Kind::Flag),
    ("scheduling", Kind::Text),
];

const GENERATION_CONFIG: &Schema = &[
    ("temperature", Kind::Real),
    ("topP", Kind::Real),
    ("topK", Kind::Whole),
    ("candidateCount", Kind::Whole),
    ("maxOutputTokens", Kind::Whole),
    ("stopSequences", Kind::Many(&Kind::Text)),
    ("responseMimeType", Kind::Text),
    ("responseSchema", Kind::Any),
    ("responseJsonSchema", Kind::Any),
    ("responseModalities", Kind::Many(&Kind::OneOf(&["TEXT", "IMAGE", "AUDIO"]))),
    ("seed", Kind::Whole),
    ("presencePenalty", Kind::Real),
    ("frequencyPenalty", Kind::Real),
    ("responseLogprobs", Kind::Flag),
    ("logprobs", Kind::Whole),
    ("enableEnhancedCivicAnswers", Kind::Flag),
    ("mediaResolution", Kind::Text),
    ("speechConfig", Kind::Any),
    ("imageConfig", Kind::Any),
    ("thinkingConfig", Kind::Message(THINKING_CONFIG)),
];

const THINKING_CONFIG: &Schema = &[
    ("thinkingBudget", Kind::Whole),
    ("thinkingLevel", Kind::Text),
    ("includeThoughts", Kind::Flag),
];

const TOOL: &Schema = &[
    ("functionDeclarations", Kind::Any),
    ("googleSearch", Kind::Any),
    ("googleSearchRetrieval", Kind::Any),
    ("codeExecution", Kind::Any),
    ("urlContext", Kind::Any),
    ("computerUse", Kind::Any),
    ("fileSearch", Kind::Any),
    ("googleMaps", Kind::Any),
    ("mcpServers", Kind::Any),
];

const TOOL_CONFIG: &Schema = &[
    ("functionCallingConfig", Kind::Any),
    ("retrievalConfig", Kind::Any),
    ("includeServerSideToolInvocations", Kind::Flag),
];

const SAFETY_SETTING: &Schema = &[("category", Kind::Text), ("threshold", Kind::Text)];

/// What is wrong with a payload: (path in the provider's spelling or "", description).
pub(super) type Problems = Vec<(String, String)>;

/// Reads `json` as a message of `schema` and returns it with camelCase names and arrays where
/// fields repeat, without nulls.
pub(super) fn read(json: &Value, schema: &Schema) -> Result<Map<String, Value>, Problems> {
    let Value::Object(fields) = json else {
        let text = "Invalid JSON payload received. Unknown name \"\": Root element must be a \
                    message.";
        return Err(vec![(String::new(), text.to_owned())]);
    };
    let mut problems = Problems::new();
    let read = read_message(fields, schema, "", &mut problems);
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

fn read_message(
    fields: &Map<String, Value>,
    schema: &Schema,
    path: &str,
    problems: &mut Problems,
) -> Map<String, Value> {
    let mut read = Map::new();
    for (given, value) in fields {
        let known = schema.iter().find(|(name, _)| given == name || *given == snake_case(name));
        let Some((name, kind)) = known else {
            let place = if path.is_empty() { String::new() } else { format!(" at '{path}'") };
            let text = format!(
                "Invalid JSON payload received. Unknown name \"{given}\"{place}: Cannot find field."
            );
            problems.push((path.to_owned(), text));
            continue;
        };
        if value.is_null() {
            continue;
        }
        let dot = if path.is_empty() { "" } else { "." };
        let field_path = format!("{path}{dot}{}", snake_case(name));
        let value = read_value(value, *kind, &field_path, problems);
        if read.insert((*name).to_owned(), value).is_some() {
            let text =
                format!("Invalid value at '{field_path}' (oneof), the field is already set.");
            problems.push((field_path, text));
        }
    }
    read
}

fn read_value(value: &Value, kind: Kind, path: &str, problems: &mut Problems) -> Value {
    let (is_good, type_name) = match (kind, value) {
        (Kind::Message(schema), Value::Object(fields)) => {
            return Value::Object(read_message(fields, schema, path, problems));
        }
        (Kind::Many(kind), value) => {
            let single = std::slice::from_ref(value);
            let items = value.as_array().map_or(single, Vec::as_slice);
            let read = |(at, item)| read_value(item, *kind, &format!("{path}[{at}]"), problems);
            return Value::Array(items.iter().enumerate().map(read).collect());
        }
        (Kind::Any, _) => (true, ""),
        (Kind::Message(_), _) => (false, "TYPE_MESSAGE"),
        (Kind::Text, value) => (value.is_string(), "TYPE_STRING"),
        (Kind::Flag, value) => (value.is_boolean(), "TYPE_BOOL"),
        (Kind::Whole, value) => (whole(value).is_some(), "TYPE_INT32"),
        (Kind::Real, Value::String(text)) => (text.parse::<f64>().is_ok(), "TYPE_FLOAT"),
        (Kind::Real, value) => (value.is_number(), "TYPE_FLOAT"),
        (Kind::Bytes, value) => (value.as_str().is_some_and(is_base64), "TYPE_BYTES"),
        (Kind::OneOf(names), value) => {
            let given = value.as_str().unwrap_or_default();
            (names.iter().any(|name| name.eq_ignore_ascii_case(given)), "TYPE_ENUM")
        }
    };
    if !is_good {
        let text = format!("Invalid value at '{path}' ({type_name})");
        problems.push((path.to_owned(), text));
    }
    value.clone()
}

/// A whole number, also written as a string or with a fraction of zero.
pub(super) fn whole(value: &Value) -> Option<i64> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    let from_float = || {
        let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
        format!("{number:.0}").parse().ok()
    };
    value.as_i64().or_else(from_float)
}

/// Base64 in the standard or the URL alphabet, padded or not.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    digits.bytes().all(is_digit)
        && digits.len() % 4 != 1
        && (padding == 0 || (padding <= 2 && text.len().is_multiple_of(4)))
}

fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(json: &Value) -> Vec<String> {
        let texts = |problems: Problems| problems.into_iter().map(|(_, text)| text).collect();
        read(json, GENERATE).map_or_else(texts, |_| Vec::new())
    }

    #[test]
    fn both_spellings_read_the_same() {
        let camel = json!({
            "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}],
            "generationConfig": {"topK": "40", "responseModalities": ["Image"]},
        });
        let snake = json!({
            "contents": {"parts": {"inline_data": {"mime_type": "image/png", "data": "aGk="}}},
            "generation_config": {"top_k": "40", "responseModalities": "Image"},
            "system_instruction": null,
        });
        assert_eq!(problems(&camel), Vec::<String>::new());
        assert_eq!(read(&camel, GENERATE), read(&snake, GENERATE));
    }

    #[test]
    fn every_unknown_name_is_reported_with_its_place() {
        let json = json!({"x": 1, "contents": [{"parts": [{"text": "hi", "y": 1}]}]});
        let mut problems = problems(&json);
        problems.sort();
        assert_eq!(
            problems,
            [
                "Invalid JSON payload received. Unknown name \"x\": Cannot find field.",
                "Invalid JSON payload received. Unknown name \"y\" at 'contents[0].parts[0]': \
                 Cannot find field.",
            ]
        );
    }

    #[test]
    fn wrong_types_are_reported_with_their_place() {
        let cases = [
            (json!({"generationConfig": {"topK": 1.5}}), "'generation_config.top_k' (TYPE_INT32)"),
            (json!({"contents": ["hi"]}), "'contents[0]' (TYPE_MESSAGE)"),
            (json!({"contents": [{"parts": [{"text": 1}]}]}), "'contents[0].parts[0].text'"),
            (json!({"continuationToken": "a"}), "'continuation_token' (TYPE_BYTES)"),
            (json!({"serviceTier": "turbo"}), "'service_tier' (TYPE_ENUM)"),
            (json!({"toolConfig": {}, "tool_config": {}}), "'tool_config' (oneof)"),
            (json!([]), "Root element must be a message."),
        ];
        for (json, expected) in cases {
            let problems = problems(&json);
            assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
        }
    }

    #[test]
    fn base64_is_checked() {
        for good in ["", "aGk=", "aGk", "aGVsbG8-", "AA==", "AA"] {
            assert!(is_base64(good), "{good}");
        }
        for bad in ["a", "aGk==", "a b=", "=", "AAAAA"] {
            assert!(!is_base64(bad), "{bad}");
        }
    }
}
