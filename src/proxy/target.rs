//! What a client's call asks for, read off its path. Pure.

use crate::formats::Shape;
use crate::upstream::reading::Speech;

/// Where a call goes, as its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The project that it names, by `/p/NAME`.
    pub(super) project: Option<String>,
    /// The tenant that it names, by `/t/NAME`.
    pub(super) tenant: Option<String>,
    /// What is spoken, and so how a refusal looks.
    pub(super) dialect: Dialect,
    /// The path at the provider: from the version on, of OpenAI's dialect without it.
    pub(super) path: String,
    /// What the ledger calls it, such as `generateContent` or `GET files`.
    pub(super) method: String,
    /// The model that the path names, without `models/`.
    pub(super) model: Option<String>,
    /// How it counts.
    pub(super) kind: Kind,
    /// How its answer is read.
    pub(super) speech: Speech,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The Gemini API.
    Gemini,
    /// Gemini's interactions, whose errors have a shape of their own.
    Interactions,
    /// OpenAI's API at Gemini's endpoint for it, whose errors stand in a list.
    Compatible,
    /// OpenAI's API.
    OpenAi,
}

/// How a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Against the quotas of its model, by what is in its body.
    Metered(Shape),
    /// Against none; its body passes without being looked at.
    Free,
    /// The first leg of an upload, whose answer names where the second one goes.
    Upload,
    /// A WebSocket, which is not spoken here.
    Live,
}

/// Reads the path of a call; none when it is not a provider's.
pub(crate) fn target(http: &str, path: &str) -> Option<Target> {
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let climbs = |segment: &&str| matches!(decoded(segment).as_str(), "." | "..");
    if segments.iter().any(climbs) {
        return None;
    }
    let (mut project, mut tenant) = (None, None);
    while let [word @ ("p" | "t"), name, ..] = segments[..] {
        let name = Some(decoded(name));
        if word == "p" && project.is_none() {
            project = name;
        } else if word == "t" && tenant.is_none() {
            tenant = name;
        } else {
            return None;
        }
        segments.drain(..2);
    }
    let call = match segments[..] {
        ["upload", "v1" | "v1beta" | "v1alpha", ..] => {
            Part { method: format!("{http} upload"), kind: Kind::Upload, ..Part::gemini(&segments) }
        }
        ["ws", ..] => Part { kind: Kind::Live, ..Part::gemini(&segments) },
        ["v1" | "v1beta" | "v1alpha", "openai", ref rest @ ..] => {
            Part { dialect: Dialect::Compatible, ..openai(http, rest) }
        }
        ["v1", "chat", "completions"] | ["v1", "embeddings" | "responses"] => {
            openai(http, &segments[1..])
        }
        ["openai", "v1", ref rest @ ..] | ["openai", ref rest @ ..] => openai(http, rest),
        ["v1" | "v1beta" | "v1alpha", ref rest @ ..] if !rest.is_empty() => {
            let found = gemini(http, rest);
            Part { path: joined(&segments), ..found }
        }
        _ => return None,
    };
    let Part { dialect, path, method, model, kind, speech } = call;
    Some(Target { project, tenant, dialect, path, method, model, kind, speech })
}

/// A call without what stands before it.
struct Part {
    dialect: Dialect,
    path: String,
    method: String,
    model: Option<String>,
    kind: Kind,
    speech: Speech,
}

impl Part {
    fn gemini(segments: &[&str]) -> Self {
        Self {
            dialect: Dialect::Gemini,
            path: joined(segments),
            method: String::new(),
            model: None,
            kind: Kind::Free,
            speech: Speech::Other,
        }
    }
}

fn gemini(http: &str, rest: &[&str]) -> Part {
    let part = Part::gemini(rest);
    let other = format!("{http} {}", word(rest));
    match rest {
        ["models" | "tunedModels", named] => {
            let named = decoded(named);
            let Some((model, verb)) = named.split_once(':').filter(|_| http == "POST") else {
                return Part { method: other, ..part };
            };
            let (kind, speech) = match verb {
                "generateContent" => (Kind::Metered(Shape::Contents), Speech::GenerateContent),
                "streamGenerateContent" => {
                    (Kind::Metered(Shape::Contents), Speech::StreamGenerateContent)
                }
                "embedContent" => (Kind::Metered(Shape::Contents), Speech::EmbedContent),
                "batchEmbedContents" => (Kind::Metered(Shape::EmbedList), Speech::BatchEmbed),
                "countTokens" => (Kind::Free, Speech::CountTokens),
                // What is enqueued there has quotas of its own.
                "batchGenerateContent" | "asyncBatchEmbedContent" => (Kind::Free, Speech::Other),
                _ => (Kind::Metered(Shape::Other), Speech::Other),
            };
            Part { method: verb.to_owned(), model: Some(model.to_owned()), kind, speech, ..part }
        }
        ["interactions"] if http == "POST" => Part {
            dialect: Dialect::Interactions,
            method: "interactions".to_owned(),
            kind: Kind::Metered(Shape::Interaction),
            speech: Speech::Interactions,
            ..part
        },
        ["interactions", ..] => Part { dialect: Dialect::Interactions, method: other, ..part },
        _ => Part { method: other, ..part },
    }
}

fn openai(http: &str, rest: &[&str]) -> Part {
    let part = Part { dialect: Dialect::OpenAi, ..Part::gemini(rest) };
    let metered = |name: &str, shape, speech| Part {
        method: name.to_owned(),
        kind: Kind::Metered(shape),
        speech,
        ..Part { dialect: Dialect::OpenAi, ..Part::gemini(rest) }
    };
    match (http, rest) {
        ("POST", ["chat", "completions"]) => {
            metered("chat/completions", Shape::Chat, Speech::ChatCompletions)
        }
        ("POST", ["embeddings"]) => metered("embeddings", Shape::Embeddings, Speech::Embeddings),
        ("POST", ["responses"]) => metered("responses", Shape::Interaction, Speech::Responses),
        ("POST", ["completions" | "moderations"] | ["images" | "audio", _]) => {
            metered(&rest.join("/"), Shape::Other, Speech::Other)
        }
        _ => Part { method: format!("{http} {}", word(rest)), ..part },
    }
}

/// The first word of a path, as the ledger has it: what follows are names of people's things.
fn word(rest: &[&str]) -> String {
    let first = rest.first().map(|first| decoded(first)).unwrap_or_default();
    first.chars().filter(char::is_ascii_alphanumeric).take(32).collect()
}

fn joined(segments: &[&str]) -> String {
    segments.iter().fold(String::new(), |path, segment| path + "/" + segment)
}

/// A segment without its percent signs; one that is not UTF-8 then is taken as it is.
pub(super) fn decoded(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn every_route_is_found() {
        use Dialect::{Compatible, Gemini, Interactions, OpenAi};
        let contents = Kind::Metered(Shape::Contents);
        for (path, dialect, at, method, model, kind) in [
            (
                "/v1beta/models/gemini-3.6-flash:generateContent",
                Gemini,
                "/v1beta/models/gemini-3.6-flash:generateContent",
                "generateContent",
                Some("gemini-3.6-flash"),
                contents,
            ),
            (
                "//v1//models/m%3AstreamGenerateContent",
                Gemini,
                "/v1/models/m%3AstreamGenerateContent",
                "streamGenerateContent",
                Some("m"),
                contents,
            ),
            (
                "/v1/models/e:batchEmbedContents",
                Gemini,
                "/v1/models/e:batchEmbedContents",
                "batchEmbedContents",
                Some("e"),
                Kind::Metered(Shape::EmbedList),
            ),
            (
                "/v1alpha/tunedModels/t:countTokens",
                Gemini,
                "/v1alpha/tunedModels/t:countTokens",
                "countTokens",
                Some("t"),
                Kind::Free,
            ),
            (
                "/v1/interactions",
                Interactions,
                "/v1/interactions",
                "interactions",
                None,
                Kind::Metered(Shape::Interaction),
            ),
            ("/v1/files/abc", Gemini, "/v1/files/abc", "POST files", None, Kind::Free),
            (
                "/upload/v1beta/files",
                Gemini,
                "/upload/v1beta/files",
                "POST upload",
                None,
                Kind::Upload,
            ),
            (
                "/v1beta/openai/chat/completions",
                Compatible,
                "/chat/completions",
                "chat/completions",
                None,
                Kind::Metered(Shape::Chat),
            ),
            ("/openai/v1/models", OpenAi, "/models", "POST models", None, Kind::Free),
            (
                "/v1/embeddings",
                OpenAi,
                "/embeddings",
                "embeddings",
                None,
                Kind::Metered(Shape::Embeddings),
            ),
        ] {
            let found = target("POST", path).unwrap();
            assert_eq!(found.dialect, dialect, "{path}");
            assert_eq!(found.path, at);
            assert_eq!((found.method.as_str(), found.model.as_deref()), (method, model), "{path}");
            assert_eq!(found.kind, kind, "{path}");
        }
    }

    #[test]
    fn a_prefix_names_project_and_tenant() {
        let found = target("GET", "/t/team%20a/p/paid/v1beta/models").unwrap();
        assert_eq!(found.project.as_deref(), Some("paid"));
        assert_eq!(found.tenant.as_deref(), Some("team a"));
        assert_eq!(found.path, "/v1beta/models");
        assert_eq!(target("GET", "/p/a/p/b/v1/models"), None);
        assert_eq!(target("GET", "/p/a"), None);
    }

    #[test]
    fn what_is_not_the_providers_is_not_found() {
        for path in ["/", "/v1", "/v2/models", "/api/v1/usage", "/upload", "/upload/v3/files"] {
            assert_eq!(target("GET", path), None, "{path}");
        }
        for path in ["/v1/../v1/models", "/v1/%2e%2e/models", "/v1/./models"] {
            assert_eq!(target("GET", path), None, "{path}");
        }
    }

    #[test]
    fn only_what_asks_counts() {
        let found = target("GET", "/v1/models/m:generateContent").unwrap();
        assert_eq!((found.kind, found.method.as_str()), (Kind::Free, "GET models"));
        let found = target("GET", "/v1/interactions/i").unwrap();
        assert_eq!(found.kind, Kind::Free);
    }
}
