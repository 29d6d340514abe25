//! Checked payloads.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Form;
use crate::emulator::embed::{Embed, MAX_TEXTS, MAX_VALUES};
use crate::emulator::prompt::{MAX_BODY_BYTES, Prompt, count_tokens};
use crate::emulator::refusal::{Refusal, Words};

/// Most texts of one `embeddings` of OpenAI.
const MAX_INPUTS: usize = 2_048;

/// Tokens of an image.
const IMAGE_TOKENS: u64 = 258;

type Fields = Map<String, Value>;

/// What a field holds; of numbers the least and the most.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Flag,
    Whole(i64, i64),
    Real(f64, f64),
    List,
    Object,
    OneOf(&'static [&'static str]),
    Any,
}

const CHAT: &[(&str, Kind)] = &[
    ("model", Kind::Text),
    ("messages", Kind::List),
    ("audio", Kind::Object),
    ("frequency_penalty", Kind::Real(-2.0, 2.0)),
    ("function_call", Kind::Any),
    ("functions", Kind::List),
    ("logit_bias", Kind::Object),
    ("logprobs", Kind::Flag),
    ("max_completion_tokens", Kind::Whole(1, i64::MAX)),
    ("max_tokens", Kind::Whole(1, i64::MAX)),
    ("metadata", Kind::Object),
    ("modalities", Kind::List),
    ("n", Kind::Whole(1, 128)),
    ("parallel_tool_calls", Kind::Flag),
    ("prediction", Kind::Object),
    ("presence_penalty", Kind::Real(-2.0, 2.0)),
    ("prompt_cache_key", Kind::Text),
    ("reasoning_effort", Kind::OneOf(&["none", "minimal", "low", "medium", "high", "xhigh"])),
    ("response_format", Kind::Object),
    ("safety_identifier", Kind::Text),
    ("seed", Kind::Whole(i64::MIN, i64::MAX)),
    ("service_tier", Kind::OneOf(&["auto", "default", "flex", "priority", "scale"])),
    ("stop", Kind::Any),
    ("store", Kind::Flag),
    ("stream", Kind::Flag),
    ("stream_options", Kind::Object),
    ("temperature", Kind::Real(0.0, 2.0)),
    ("tool_choice", Kind::Any),
    ("tools", Kind::List),
    ("top_logprobs", Kind::Whole(0, 20)),
    ("top_p", Kind::Real(0.0, 1.0)),
    ("user", Kind::Text),
    ("verbosity", Kind::OneOf(&["low", "medium", "high"])),
    ("web_search_options", Kind::Object),
];

const EMBEDDINGS: &[(&str, Kind)] = &[
    ("model", Kind::Text),
    ("input", Kind::Any),
    ("dimensions", Kind::Whole(1, 3_072)),
    ("encoding_format", Kind::OneOf(&["float", "base64"])),
    ("user", Kind::Text),
];

const MESSAGE: &[(&str, Kind)] = &[
    ("role", Kind::Text),
    ("content", Kind::Any),
    ("name", Kind::Text),
    ("tool_calls", Kind::List),
    ("tool_call_id", Kind::Text),
    ("function_call", Kind::Object),
    ("refusal", Kind::Text),
    ("audio", Kind::Object),
];

const ROLES: &[&str] = &["system", "assistant", "user", "function", "tool", "developer"];

/// A well-formed chat.
#[derive(Debug)]
pub(in crate::emulator) struct Chat {
    pub(super) prompt: Prompt,
    /// Whether the text has the mark of a chat that the model is to refuse.
    pub(super) is_refused: bool,
    /// Whether the answer is to come in pieces, and whether a last one is to tell usage.
    pub(super) is_stream: bool,
    pub(super) tells_usage: bool,
}

/// The body as an object.
pub(super) fn fields(body: &[u8]) -> Result<Fields, Refusal> {
    if body.len() > MAX_BODY_BYTES {
        let message = format!("Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes.");
        return Err(problem(message, None, None));
    }
    serde_json::from_slice(body)
        .map_err(|_| problem("We could not parse the JSON body of your request.", None, None))
}

/// The model that a request names. Gemini takes its full name as well.
pub(super) fn model(fields: &Fields, form: Form) -> Result<String, Refusal> {
    let name = match fields.get("model") {
        None | Some(Value::Null) => {
            return Err(problem("you must provide a model parameter", None, None));
        }
        Some(Value::String(name)) => name.as_str(),
        Some(other) => return Err(wrong_type("model", "a string", other)),
    };
    let short = match form {
        Form::Gemini => name.strip_prefix("models/").unwrap_or(name),
        Form::Plain => name,
    };
    Ok(short.to_owned())
}

impl Chat {
    /// Reads the body of `chat/completions`.
    pub(super) fn read(fields: &Fields, form: Form) -> Result<Self, Refusal> {
        check(fields, CHAT, form)?;
        let messages = match fields.get("messages") {
            None | Some(Value::Null) => return Err(missing("messages")),
            Some(messages) => messages.as_array().map_or(&[][..], Vec::as_slice),
        };
        if messages.is_empty() {
            let message = "Invalid 'messages': empty array. Expected an array with minimum length \
                           1, but got an empty array instead.";
            return Err(problem(message, Some("messages"), Some("empty_array")));
        }
        let mut read = Texts::default();
        for (at, message) in messages.iter().enumerate() {
            read.message(at, message)?;
        }
        let effort = fields.get("reasoning_effort").and_then(Value::as_str).unwrap_or_default();
        let said = read.said.concat();
        let all = read.instructions.iter().chain(&read.said);
        let prompt = Prompt {
            last_text: read.said.last().cloned().unwrap_or_default(),
            sha256: Sha256::digest(&said).into(),
            text_tokens: count_tokens(all.map(String::as_str)),
            image_tokens: read.images * IMAGE_TOKENS,
            candidates: fields.get("n").and_then(Value::as_u64).unwrap_or(1),
            no_thinking: ["none", "minimal"].contains(&effort),
            is_blocked: said.contains("[[block]]"),
            ..Prompt::default()
        };
        let is_true = |value: Option<&Value>| value == Some(&Value::Bool(true));
        let options = fields.get("stream_options");
        Ok(Self {
            prompt,
            is_refused: said.contains("[[refuse]]"),
            is_stream: is_true(fields.get("stream")),
            tells_usage: is_true(options.and_then(|options| options.get("include_usage"))),
        })
    }
}

/// What messages hold.
#[derive(Default)]
struct Texts {
    /// Of system and developer.
    instructions: Vec<String>,
    said: Vec<String>,
    images: u64,
}

impl Texts {
    fn message(&mut self, at: usize, message: &Value) -> Result<(), Refusal> {
        let path = format!("messages[{at}]");
        let Value::Object(fields) = message else {
            return Err(wrong_type(&path, "an object", message));
        };
        check_at(fields, MESSAGE, &format!("{path}."), unknown_parameter)?;
        let role = match fields.get("role") {
            None | Some(Value::Null) => return Err(missing(&format!("{path}.role"))),
            Some(role) => role.as_str().unwrap_or_default(),
        };
        one_of(&format!("{path}.role"), role, ROLES)?;
        if role == "tool" && fields.get("tool_call_id").is_none_or(Value::is_null) {
            return Err(missing(&format!("{path}.tool_call_id")));
        }
        let says_otherwise = ["tool_calls", "function_call", "refusal", "audio"]
            .iter()
            .any(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
        let path = format!("{path}.content");
        match fields.get("content") {
            None | Some(Value::Null) if role == "assistant" && says_otherwise => Ok(()),
            None => Err(missing(&path)),
            Some(Value::String(text)) => {
                self.say(role, text);
                Ok(())
            }
            Some(Value::Array(parts)) if !parts.is_empty() => {
                let mut parts = parts.iter().enumerate();
                parts.try_for_each(|(at, part)| self.part(role, &format!("{path}[{at}]"), part))
            }
            Some(other) => Err(wrong_type(&path, "a string or an array of objects", other)),
        }
    }

    fn part(&mut self, role: &str, path: &str, part: &Value) -> Result<(), Refusal> {
        let Value::Object(fields) = part else {
            return Err(wrong_type(path, "an object", part));
        };
        let Some(kind) = fields.get("type").and_then(Value::as_str) else {
            return Err(missing(&format!("{path}.type")));
        };
        let kinds = &["text", "image_url", "input_audio", "refusal", "file"];
        one_of(&format!("{path}.type"), kind, kinds)?;
        match (kind, fields.get(kind)) {
            (_, None | Some(Value::Null)) => Err(missing(&format!("{path}.{kind}"))),
            ("text" | "refusal", Some(Value::String(text))) => {
                self.say(role, text);
                Ok(())
            }
            ("text" | "refusal", Some(other)) => {
                Err(wrong_type(&format!("{path}.{kind}"), "a string", other))
            }
            ("image_url", Some(image)) if image["url"].is_string() => {
                self.images += 1;
                Ok(())
            }
            ("image_url", Some(_)) => Err(missing(&format!("{path}.image_url.url"))),
            (_, Some(Value::Object(_))) => Ok(()),
            (_, Some(other)) => Err(wrong_type(&format!("{path}.{kind}"), "an object", other)),
        }
    }

    fn say(&mut self, role: &str, text: &str) {
        let texts = if ["system", "developer"].contains(&role) {
            &mut self.instructions
        } else {
            &mut self.said
        };
        texts.push(text.to_owned());
    }
}

/// Reads the body of `embeddings`.
pub(super) fn embeddings(fields: &Fields, form: Form) -> Result<Embed, Refusal> {
    check(fields, EMBEDDINGS, form)?;
    let bad =
        || problem("'$.input' is invalid. Please check the API reference.", Some("input"), None);
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => {
            Ok((text.clone(), count_tokens(std::iter::once(text.as_str()))))
        }
        Value::Array(tokens) if !tokens.is_empty() && tokens.iter().all(Value::is_u64) => {
            Ok((value.to_string(), u64::try_from(tokens.len()).unwrap_or(u64::MAX)))
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => Err(bad()),
    };
    let texts: Vec<(String, u64)> = match fields.get("input") {
        None | Some(Value::Null) => return Err(missing("input")),
        Some(Value::Array(list)) if list.iter().any(|value| !value.is_u64()) => {
            list.iter().map(text).collect::<Result<_, _>>()?
        }
        Some(single) => vec![text(single)?],
    };
    let most = match form {
        Form::Plain => MAX_INPUTS,
        Form::Gemini => MAX_TEXTS,
    };
    if texts.len() > most {
        let message = format!("Invalid 'input': array too long. Expected at most {most} elements.");
        return Err(problem(message, Some("input"), Some("array_above_max_length")));
    }
    let values = fields.get("dimensions").and_then(Value::as_u64);
    let is_base64 = fields.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let mut embed = Embed::of_texts(texts, values.map(|values| values.min(MAX_VALUES)));
    embed.is_base64 = is_base64;
    Ok(embed)
}

/// Refuses fields that are unknown or hold something else. Every field may be null.
fn check(fields: &Fields, known: &[(&str, Kind)], form: Form) -> Result<(), Refusal> {
    let unknown = |path: &str| match form {
        Form::Plain => {
            problem(format!("Unrecognized request argument supplied: {path}"), None, None)
        }
        Form::Gemini => problem(
            format!("Invalid JSON payload received. Unknown name \"{path}\": Cannot find field."),
            None,
            None,
        ),
    };
    check_at(fields, known, "", unknown)
}

fn check_at(
    fields: &Fields,
    known: &[(&str, Kind)],
    prefix: &str,
    unknown: impl Fn(&str) -> Refusal,
) -> Result<(), Refusal> {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("{prefix}{name}");
        let Some((_, kind)) = known.iter().find(|(known, _)| known == name) else {
            return Err(unknown(&path));
        };
        kind.check(&path, value)?;
    }
    Ok(())
}

impl Kind {
    fn check(self, path: &str, value: &Value) -> Result<(), Refusal> {
        let expect = |is_right: bool, what: &str| {
            if is_right { Ok(()) } else { Err(wrong_type(path, what, value)) }
        };
        match self {
            Self::Text => expect(value.is_string(), "a string"),
            Self::Flag => expect(value.is_boolean(), "a boolean"),
            Self::List => expect(value.is_array(), "an array of objects"),
            Self::Object => expect(value.is_object(), "an object"),
            Self::Any => Ok(()),
            Self::OneOf(words) => {
                expect(value.is_string(), "a string")?;
                one_of(path, value.as_str().unwrap_or_default(), words)
            }
            Self::Whole(least, most) => {
                expect(value.is_i64() || value.is_u64(), "an integer")?;
                let number = value.as_i64().unwrap_or(i64::MAX);
                within(path, "integer", (&number, &least, &most), value)
            }
            Self::Real(least, most) => {
                expect(value.is_number(), "a decimal")?;
                let number = value.as_f64().unwrap_or(f64::INFINITY);
                within(path, "decimal", (&number, &least, &most), value)
            }
        }
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    path: &str,
    what: &str,
    (number, least, most): (&T, &T, &T),
    value: &Value,
) -> Result<(), Refusal> {
    let (side, sign, bound, code) = if number < least {
        ("below minimum", ">=", least, "below_min_value")
    } else if number > most {
        ("above maximum", "<=", most, "above_max_value")
    } else {
        return Ok(());
    };
    let message = format!(
        "Invalid '{path}': {what} {side} value. Expected a value {sign} {bound}, but got {value} \
         instead."
    );
    let code = match (what, code) {
        ("integer", "below_min_value") => "integer_below_min_value",
        ("integer", _) => "integer_above_max_value",
        (_, "below_min_value") => "decimal_below_min_value",
        (_, _) => "decimal_above_max_value",
    };
    Err(problem(message, Some(path), Some(code)))
}

fn one_of(path: &str, word: &str, words: &[&str]) -> Result<(), Refusal> {
    if words.contains(&word) {
        return Ok(());
    }
    let known: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let known = known.join(", ");
    let message = format!("Invalid value: '{word}'. Supported values are: {known}.");
    Err(problem(message, Some(path), Some("invalid_value")))
}

fn missing(path: &str) -> Refusal {
    let message = format!("Missing required parameter: '{path}'.");
    problem(message, Some(path), Some("missing_required_parameter"))
}

fn unknown_parameter(path: &str) -> Refusal {
    problem(format!("Unknown parameter: '{path}'."), Some(path), Some("unknown_parameter"))
}

fn wrong_type(path: &str, expected: &str, value: &Value) -> Refusal {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let message =
        format!("Invalid type for '{path}': expected {expected}, but got {given} instead.");
    problem(message, Some(path), Some("invalid_type"))
}

fn problem(message: impl Into<String>, param: Option<&str>, code: Option<&'static str>) -> Refusal {
    let (kind, param) = ("invalid_request_error", param.map(str::to_owned));
    Refusal::openai(400, message, Words { kind, param, code, wait_ms: None })
}
