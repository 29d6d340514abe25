//! What a request line and its credentials mean.

use axum::http::{HeaderMap, Method, header};

use super::openai::{Form, OpenAiCall, OpenAiMethod};
use super::refusal::Refusal;

/// The call that a request makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// `generateContent` or `streamGenerateContent`.
    Generate {
        version: String,
        model: String,
        is_stream: bool,
    },
    CountTokens {
        version: String,
        model: String,
    },
    /// `embedContent` or `batchEmbedContents`.
    Embed {
        version: String,
        model: String,
        is_batch: bool,
    },
    /// A method of OpenAI, whose model is in its body.
    OpenAi(OpenAiCall),
    /// The list of models as Gemini has it for OpenAI's clients.
    CompatibleModels,
    /// `interactions`, whose model is in its body.
    Interact,
    ListModels,
    GetModel {
        version: String,
        model: String,
    },
    /// A model's method, or a model, that does not exist.
    NoMethod {
        version: String,
        resource: String,
        verb: String,
    },
    Unknown,
}

impl Call {
    /// Reads a path such as `/v1beta/models/m:generateContent`; empty segments do not matter.
    pub(super) fn parse(method: &Method, path: &str) -> Self {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let Some((version, rest)) = segments.split_first() else { return Self::Unknown };
        if !["v1", "v1beta", "v1alpha"].contains(version) {
            return Self::Unknown;
        }
        let version = (*version).to_owned();
        match (method, rest) {
            (&Method::POST, ["chat", "completions"]) if version == "v1" => {
                Self::OpenAi(OpenAiCall { form: Form::Plain, method: OpenAiMethod::Chat })
            }
            (&Method::POST, ["embeddings"]) if version == "v1" => {
                Self::OpenAi(OpenAiCall { form: Form::Plain, method: OpenAiMethod::Embeddings })
            }
            (&Method::POST, ["openai", "chat", "completions"]) if version == "v1beta" => {
                Self::OpenAi(OpenAiCall { form: Form::Gemini, method: OpenAiMethod::Chat })
            }
            (&Method::POST, ["openai", "embeddings"]) if version == "v1beta" => {
                Self::OpenAi(OpenAiCall { form: Form::Gemini, method: OpenAiMethod::Embeddings })
            }
            (&Method::GET, ["openai", "models"]) if version == "v1beta" => Self::CompatibleModels,
            (&Method::POST, ["interactions"]) => Self::Interact,
            (&Method::GET, ["models"]) => Self::ListModels,
            (&Method::GET, ["models", model]) if !model.contains(':') => {
                Self::GetModel { version, model: (*model).to_owned() }
            }
            (&Method::POST, [kind @ ("models" | "tunedModels"), target]) => {
                match (*kind, target.split_once(':')) {
                    (
                        "models",
                        Some((model, verb @ ("generateContent" | "streamGenerateContent"))),
                    ) => {
                        let is_stream = verb == "streamGenerateContent";
                        Self::Generate { version, model: model.to_owned(), is_stream }
                    }
                    ("models", Some((model, "countTokens"))) => {
                        Self::CountTokens { version, model: model.to_owned() }
                    }
                    ("models", Some((model, verb @ ("embedContent" | "batchEmbedContents")))) => {
                        let is_batch = verb == "batchEmbedContents";
                        Self::Embed { version, model: model.to_owned(), is_batch }
                    }
                    (kind, Some((model, verb))) => Self::NoMethod {
                        version,
                        resource: format!("{kind}/{model}"),
                        verb: verb.to_owned(),
                    },
                    (_, None) => Self::Unknown,
                }
            }
            _ => Self::Unknown,
        }
    }

    /// The name in the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Generate { is_stream: false, .. } => "generateContent",
            Self::Generate { is_stream: true, .. } => "streamGenerateContent",
            Self::CountTokens { .. } => "countTokens",
            Self::Embed { is_batch: false, .. } => "embedContent",
            Self::Embed { is_batch: true, .. } => "batchEmbedContents",
            Self::OpenAi(call) => call.name(),
            Self::CompatibleModels => "models",
            Self::Interact => "interactions",
            Self::ListModels => "listModels",
            Self::GetModel { .. } => "getModel",
            Self::NoMethod { .. } | Self::Unknown => "unknown",
        }
    }

    /// Whose errors it gets.
    pub(super) fn form(&self) -> Option<Form> {
        match self {
            Self::OpenAi(call) => Some(call.form),
            Self::CompatibleModels => Some(Form::Gemini),
            Self::Interact
            | Self::Generate { .. }
            | Self::CountTokens { .. }
            | Self::Embed { .. }
            | Self::ListModels
            | Self::GetModel { .. }
            | Self::NoMethod { .. }
            | Self::Unknown => None,
        }
    }

    /// The model that the call's path names.
    pub(super) fn model(&self) -> Option<&str> {
        match self {
            Self::Generate { model, .. }
            | Self::CountTokens { model, .. }
            | Self::Embed { model, .. }
            | Self::GetModel { model, .. } => Some(model),
            Self::OpenAi(_)
            | Self::CompatibleModels
            | Self::Interact
            | Self::ListModels
            | Self::NoMethod { .. }
            | Self::Unknown => None,
        }
    }

    /// The 404 when what the call names does not exist.
    pub(super) fn not_found(&self) -> Refusal {
        match self {
            Self::Generate { version, model, .. }
            | Self::CountTokens { version, model }
            | Self::Embed { version, model, .. }
            | Self::GetModel { version, model } => {
                Refusal::no_model(&format!("models/{model}"), version, self.name())
            }
            Self::NoMethod { version, resource, verb } => {
                Refusal::no_model(resource, version, verb)
            }
            Self::OpenAi(_)
            | Self::CompatibleModels
            | Self::Interact
            | Self::ListModels
            | Self::Unknown => Refusal::no_path(),
        }
    }
}

/// Query parameters that any call may have.
const PARAMETERS: [&str; 12] = [
    "key",
    "alt",
    "$alt",
    "prettyPrint",
    "$prettyPrint",
    "fields",
    "$fields",
    "callback",
    "quotaUser",
    "access_token",
    "pageSize",
    "pageToken",
];

/// Refuses query parameters that the provider does not know.
pub(super) fn check_query(query: &[(String, String)]) -> Result<(), Refusal> {
    let unknown = query.iter().map(|(name, _)| name).filter(|n| !PARAMETERS.contains(&n.as_str()));
    let problems: Vec<_> = unknown
        .map(|name| {
            let text = format!(
                "Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query \
                 parameter. Field '{name}' could not be found in request message."
            );
            (String::new(), text)
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Refusal::bad_payload(&problems)) }
}

/// The one credential of a request.
pub(super) fn credential(
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<String, Refusal> {
    let header_keys = headers.get_all("x-goog-api-key").iter();
    let header_keys =
        header_keys.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let query_keys = query.iter().filter(|(name, _)| name == "key").map(|(_, key)| key.clone());
    let mut keys: Vec<String> =
        header_keys.chain(query_keys).filter(|key| !key.is_empty()).collect();
    keys.sort();
    keys.dedup();
    let has_token = headers.contains_key(header::AUTHORIZATION)
        || query.iter().any(|(name, _)| name == "access_token");
    match (keys.len(), has_token) {
        (0, false) => Err(Refusal::no_key()),
        (0, true) => Err(Refusal::bearer_token()),
        (1, false) => Ok(keys.remove(0)),
        _ => Err(Refusal::several_keys()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn paths_are_understood() {
        let generate = |version: &str| Call::Generate {
            version: version.to_owned(),
            model: "gemini-2.0-flash".to_owned(),
            is_stream: false,
        };
        let openai = |form, method| Call::OpenAi(OpenAiCall { form, method });
        let cases = [
            ("POST", "/v1/models/gemini-2.0-flash:generateContent", generate("v1")),
            ("POST", "//v1beta//models/gemini-2.0-flash:generateContent", generate("v1beta")),
            ("POST", "/v1alpha/models/gemini-2.0-flash:generateContent", generate("v1alpha")),
            ("POST", "/v2/models/gemini-2.0-flash:generateContent", Call::Unknown),
            ("GET", "/v1/models/gemini-2.0-flash:generateContent", Call::Unknown),
            ("GET", "/v1/models", Call::ListModels),
            ("POST", "/v1/chat/completions", openai(Form::Plain, OpenAiMethod::Chat)),
            ("POST", "/v1/embeddings", openai(Form::Plain, OpenAiMethod::Embeddings)),
            ("POST", "/v1beta/openai/chat/completions", openai(Form::Gemini, OpenAiMethod::Chat)),
            ("POST", "/v1beta/openai/embeddings", openai(Form::Gemini, OpenAiMethod::Embeddings)),
            ("GET", "/v1/chat/completions", Call::Unknown),
            ("POST", "/v1beta/chat/completions", Call::Unknown),
            ("POST", "/v1/openai/embeddings", Call::Unknown),
            ("DELETE", "/v1/models", Call::Unknown),
            ("GET", "/", Call::Unknown),
            (
                "POST",
                "/v1/tunedModels/t:generateContent",
                Call::NoMethod {
                    version: "v1".to_owned(),
                    resource: "tunedModels/t".to_owned(),
                    verb: "generateContent".to_owned(),
                },
            ),
        ];
        for (method, path, call) in cases {
            assert_eq!(Call::parse(&method.parse().unwrap(), path), call, "{method} {path}");
        }
    }

    #[test]
    fn exactly_one_credential_is_taken() {
        let check = |header_key: Option<&str>, query_key: Option<&str>, token: bool| {
            let mut headers = HeaderMap::new();
            if let Some(key) = header_key {
                headers.insert("x-goog-api-key", key.parse().unwrap());
            }
            if token {
                headers.insert(header::AUTHORIZATION, "Bearer t".parse().unwrap());
            }
            let query: Vec<_> =
                query_key.into_iter().map(|key| ("key".to_owned(), key.to_owned())).collect();
            credential(&headers, &query).map_err(|refusal| refusal.code)
        };
        assert_eq!(check(Some("a"), None, false), Ok("a".to_owned()));
        assert_eq!(check(None, Some("a"), false), Ok("a".to_owned()));
        assert_eq!(check(Some("a"), Some("a"), false), Ok("a".to_owned()));
        assert_eq!(check(Some("a"), Some("b"), false), Err(400));
        assert_eq!(check(Some("a"), None, true), Err(400));
        assert_eq!(check(None, None, true), Err(401));
        assert_eq!(check(Some(""), None, false), Err(403));
        assert_eq!(check(None, None, false), Err(403));
    }
}
