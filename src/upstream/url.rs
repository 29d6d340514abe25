//! Where a call goes.

use reqwest::Url;

use super::client::Call;
use super::{Method, Outgoing, Wire};

/// Why a call has no URL. Holds nothing of the base URL, which may carry what its owner holds
/// secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoUrl {
    /// The base URL is unusable.
    #[error("the base URL is not of the form http(s)://host; correct `base_url`")]
    Base,
    /// The project's provider has no such method.
    #[error("the project's provider is OpenAI-compatible and has no `{0}`")]
    Method(&'static str),
}

/// The URL of a call.
pub(super) fn of(call: &Call) -> Result<Url, NoUrl> {
    let url = base(call)?;
    match (call.wire, call.method) {
        (Wire::Gemini, Method::GenerateContent) => gemini(url, &call.model, "generateContent"),
        (Wire::Gemini, Method::EmbedContent) => gemini(url, &call.model, "embedContent"),
        (Wire::OpenAi, Method::GenerateContent) => Err(NoUrl::Method("generateContent")),
        (Wire::OpenAi, Method::EmbedContent) => Err(NoUrl::Method("embedContent")),
        (wire, Method::ChatCompletions) => openai(url, wire, &["chat", "completions"]),
        (wire, Method::Embeddings) => openai(url, wire, &["embeddings"]),
    }
}

/// The URL that counts the tokens of a `generateContent` call; no other call can be counted.
pub(super) fn of_count(call: &Call) -> Result<Option<Url>, NoUrl> {
    match (call.wire, call.method) {
        (Wire::Gemini, Method::GenerateContent) => {
            gemini(base(call)?, &call.model, "countTokens").map(Some)
        }
        (Wire::OpenAi, _)
        | (Wire::Gemini, Method::EmbedContent | Method::ChatCompletions | Method::Embeddings) => {
            Ok(None)
        }
    }
}

/// The URL of a request that passes.
pub(super) fn passing(outgoing: &Outgoing) -> Result<Url, NoUrl> {
    let mut url = parsed(&outgoing.base_url)?;
    if outgoing.is_openai {
        url = openai(url, outgoing.wire, &[])?;
    }
    let path = format!("{}{}", url.path().trim_end_matches('/'), outgoing.path);
    url.set_path(&path);
    url.set_query(outgoing.query.as_deref());
    Ok(url)
}

fn base(call: &Call) -> Result<Url, NoUrl> {
    parsed(&call.base_url)
}

fn parsed(base_url: &str) -> Result<Url, NoUrl> {
    let mut url = Url::parse(base_url).map_err(|_| NoUrl::Base)?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(NoUrl::Base);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// `{base_url}/v1beta/models/{model}:{verb}`, the model percent-encoded as one segment.
fn gemini(url: Url, model: &str, verb: &str) -> Result<Url, NoUrl> {
    extended(url, &["v1beta", "models", &format!("{model}:{verb}")])
}

/// `{base_url}/v1/{path}`, or under Gemini's prefix of what it has for OpenAI's clients.
fn openai(url: Url, wire: Wire, path: &[&str]) -> Result<Url, NoUrl> {
    let url = match wire {
        Wire::Gemini => extended(url, &["v1beta", "openai"])?,
        Wire::OpenAi if is_versioned(&url) => url,
        Wire::OpenAi => extended(url, &["v1"])?,
    };
    extended(url, path)
}

/// Whether a base URL names the version itself, as such URLs do in OpenAI's own clients:
/// `https://api.openai.com/v1`, or Gemini's `…/v1beta/openai`.
fn is_versioned(url: &Url) -> bool {
    let is_version = |segment: &str| {
        segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut segments = url.path().split('/').rev().skip_while(|segment| segment.is_empty());
    match segments.next() {
        Some("openai") => segments.next().is_some_and(is_version),
        Some(last) => is_version(last),
        None => false,
    }
}

fn extended(mut url: Url, segments: &[&str]) -> Result<Url, NoUrl> {
    url.path_segments_mut().map_err(|()| NoUrl::Base)?.pop_if_empty().extend(segments);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_url() {
        use Method::{ChatCompletions, EmbedContent, Embeddings, GenerateContent};
        use Wire::{Gemini, OpenAi};
        for (wire, method, base_url, want) in [
            (Gemini, GenerateContent, "https://g", "https://g/v1beta/models/a%2Fb:generateContent"),
            (Gemini, EmbedContent, "https://g/p/", "https://g/p/v1beta/models/a%2Fb:embedContent"),
            (Gemini, EmbedContent, "http://h:80/?a#b", "http://h/v1beta/models/a%2Fb:embedContent"),
            (Gemini, ChatCompletions, "https://g", "https://g/v1beta/openai/chat/completions"),
            (Gemini, Embeddings, "https://g/p", "https://g/p/v1beta/openai/embeddings"),
            (OpenAi, ChatCompletions, "https://o", "https://o/v1/chat/completions"),
            (OpenAi, ChatCompletions, "https://o/v1/", "https://o/v1/chat/completions"),
            (OpenAi, Embeddings, "https://o/v1?key=x#y", "https://o/v1/embeddings"),
            (OpenAi, Embeddings, "https://o/api/paas/v4", "https://o/api/paas/v4/embeddings"),
            (OpenAi, Embeddings, "https://o/video", "https://o/video/v1/embeddings"),
            (OpenAi, Embeddings, "https://o/openai", "https://o/openai/v1/embeddings"),
            (OpenAi, Embeddings, "https://g/v1beta/openai/", "https://g/v1beta/openai/embeddings"),
        ] {
            let call = call(wire, method, base_url);
            assert_eq!(of(&call).map(String::from).as_deref(), Ok(want), "{wire:?} {method:?}");
            let counted = (wire, method) == (Gemini, GenerateContent);
            assert_eq!(of_count(&call).map(|url| url.is_some()), Ok(counted));
        }
        for (method, base_url, want) in [
            (GenerateContent, "https://o", NoUrl::Method("generateContent")),
            (EmbedContent, "https://o", NoUrl::Method("embedContent")),
            (Embeddings, "o/v1", NoUrl::Base),
            (Embeddings, "ftp://o/v1", NoUrl::Base),
            (Embeddings, "o:8080", NoUrl::Base),
            (Embeddings, "unix:/run/x", NoUrl::Base),
            (Embeddings, "", NoUrl::Base),
        ] {
            assert_eq!(of(&call(OpenAi, method, base_url)), Err(want));
        }
    }

    #[test]
    fn a_model_is_one_segment() {
        let odd = Call {
            model: "../m?x#y".to_owned(),
            ..call(Wire::Gemini, Method::GenerateContent, "http://h")
        };
        let want = "http://h/v1beta/models/..%2Fm%3Fx%23y:generateContent";
        assert_eq!(of(&odd).map(String::from).as_deref(), Ok(want));
    }

    fn call(wire: Wire, method: Method, base_url: &str) -> Call {
        Call {
            base_url: base_url.to_owned(),
            wire,
            method,
            model: "a/b".to_owned(),
            key: "key".into(),
            body: "{}".into(),
        }
    }
}
