//! What the documents of an answer say, put together.

use super::Speech;
use super::lines::Shape;
use crate::upstream::answer::{self, Document, Object, REASON_BYTES_MAX, Total, inner, openai};
use crate::upstream::{Method, Usage, text};

/// Names of models and answers are a few dozen bytes.
const NAME_BYTES_MAX: usize = 128;

/// The answer goes on with the next request, which the client sends by itself.
const CONTINUATION: &str = "CONTINUATION";

/// What is known after the documents so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) usage: Option<Usage>,
    pub(super) images: u64,
    pub(super) hop: bool,
    pub(super) model: Option<String>,
    pub(super) id: Option<String>,
    /// The first error: its status, and an error document.
    pub(super) error: Option<(u16, Vec<u8>)>,
    /// Why a document is no answer.
    broken: Option<String>,
    /// Why there is no proper text, as far as one document can say.
    blocked: Option<String>,
    /// The first reason for which a part of the answer is no proper one.
    trouble: Option<String>,
    finish: Finish,
    choices: Choices,
}

/// The best end that a part of the answer has come to.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Finish {
    #[default]
    None,
    Improper,
    Proper,
}

/// What the events of a completion brought.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Choices {
    #[default]
    Unsaid,
    None,
    Some,
}

impl Seen {
    /// Reads one document, made small.
    pub(super) fn document(&mut self, speech: Speech, is_event: bool, copy: &[u8]) {
        let copy = String::from_utf8_lossy(copy);
        let Ok(object) = serde_json::from_str::<Object<'_>>(&copy) else {
            self.broken = Some("a document of the answer is not a JSON object".to_owned());
            return;
        };
        let error = match speech {
            Speech::GenerateContent => self.whole(answer::read(GENERATE, copy.as_bytes())),
            Speech::EmbedContent => self.whole(answer::read(EMBED, copy.as_bytes())),
            Speech::Embeddings => self.whole(openai::embeddings(&object)),
            Speech::ChatCompletions if !is_event => self.whole(openai::completion(&object)),
            Speech::BatchEmbed => self.whole(answer::listed(&object, "embeddings")),
            Speech::CountTokens => self.total(answer::total(copy.as_bytes())),
            Speech::ChatCompletions => self.completion_chunk(&object),
            Speech::StreamGenerateContent => self.generated_chunk(&object),
            Speech::Interactions => self.turn(&object, "interaction"),
            Speech::Responses => self.turn(&object, "response"),
            Speech::Other => None,
        };
        if let Some(status) = error
            && self.error.is_none()
        {
            self.error = Some((status, error_document(&object, &copy).into_bytes()));
        }
        let name = |names: [&str; 2]| {
            let name = names.into_iter().find_map(|name| answer::piece::<String>(&object, name));
            name.map(|name| text::bounded(&name, NAME_BYTES_MAX))
        };
        self.model = name(["modelVersion", "model"]).or(self.model.take());
        if !matches!(speech, Speech::Interactions | Speech::Responses) {
            self.id = name(["responseId", "id"]).or(self.id.take());
        }
    }

    /// Why there is no proper text, over all documents. A part that ended properly is enough.
    pub(super) fn blocked(&self) -> Option<String> {
        let trouble = self.trouble.as_ref().filter(|_| self.finish != Finish::Proper);
        let no_choices = (self.choices == Choices::None).then(|| "no_choices".to_owned());
        self.blocked.as_ref().or(trouble).cloned().or(no_choices)
    }

    /// Why an answer of this form has not come to its proper end.
    pub(super) fn lack(&self, speech: Speech, shape: &Shape) -> Option<String> {
        if self.broken.is_some() {
            return self.broken.clone();
        }
        let is_stream = shape.events > 0;
        let is_finished = self.finish != Finish::None || self.blocked.is_some() || shape.is_done;
        let lack = if !is_stream && shape.bare == 0 {
            "the answer holds no document"
        } else if speech == Speech::StreamGenerateContent && !is_finished {
            "the stream ended without a `finishReason`"
        } else if is_stream && ends_itself(speech) && !is_finished {
            "the stream ended before its last event"
        } else if !is_stream && shape.strays > 0 {
            "the answer is not a JSON document alone"
        } else {
            return None;
        };
        Some(lack.to_owned())
    }

    /// A document that is the whole answer. Returns the status of an error.
    fn whole(&mut self, document: Document) -> Option<u16> {
        match document {
            Document::Answer { usage, blocked, images } => {
                self.usage = usage.or(self.usage.take());
                self.images += images;
                self.hop |= blocked.as_deref() == Some(CONTINUATION);
                self.blocked = blocked.filter(|reason| reason != CONTINUATION);
                None
            }
            Document::Error { status } => Some(status),
            Document::Broken { reason } => {
                self.broken = Some(reason);
                None
            }
        }
    }

    fn total(&mut self, total: Total) -> Option<u16> {
        match total {
            Total::Tokens(_) => None,
            Total::Error { status } => Some(status),
            Total::Broken { reason } => {
                self.broken = Some(reason);
                None
            }
        }
    }

    fn generated_chunk(&mut self, object: &Object<'_>) -> Option<u16> {
        let candidates = answer::candidates(object);
        if let Some(usage) = answer::usage(object) {
            self.usage = Some(match self.usage.take() {
                Some(before) => merged(&before, usage),
                None => usage,
            });
        }
        self.blocked = self.blocked.take().or_else(|| answer::block_reason(object));
        for candidate in &candidates {
            self.images += candidate.images();
            let Some(reason) = candidate.finish_reason.as_deref() else { continue };
            self.hop |= reason == CONTINUATION;
            self.finish(candidate.is_proper() || reason == CONTINUATION, reason);
        }
        let other = || openai::error_status(object).filter(|_| candidates.is_empty());
        answer::error_status(object).or_else(other)
    }

    fn completion_chunk(&mut self, object: &Object<'_>) -> Option<u16> {
        self.usage = openai::usage(object).or(self.usage.take());
        let choices = openai::choices(object);
        let some = match (object.contains_key("choices"), choices.is_empty()) {
            (false, _) => Choices::Unsaid,
            (true, true) => Choices::None,
            (true, false) => Choices::Some,
        };
        self.choices = std::mem::take(&mut self.choices).max(some);
        for choice in &choices {
            let trouble = choice.trouble();
            if let Some(reason) = trouble {
                self.trouble.get_or_insert_with(|| text::bounded(reason, REASON_BYTES_MAX));
            }
            // A refusal comes in pieces before the end, which says `stop`.
            let was_refused = self.trouble.as_deref() == Some("refusal");
            if let Some(reason) = &choice.finish_reason {
                self.finish(trouble.is_none() && !was_refused, reason);
            }
        }
        openai::error_status(object)
    }

    fn turn(&mut self, object: &Object<'_>, name: &str) -> Option<u16> {
        let turn = inner::read(object, name);
        self.usage = turn.usage.or(self.usage.take());
        self.model = turn.model.or(self.model.take());
        let bounded = |id: String| text::bounded(&id, NAME_BYTES_MAX);
        self.id = turn.id.map(bounded).or(self.id.take());
        match turn.status.as_deref() {
            None | Some("in_progress" | "queued") => {}
            Some("requires_continuation") => {
                self.hop = true;
                self.finish(true, "requires_continuation");
            }
            Some(status @ ("failed" | "cancelled")) => self.finish(false, status),
            Some(status) => self.finish(true, status),
        }
        turn.error
    }

    fn finish(&mut self, is_proper: bool, reason: &str) {
        let finish = if is_proper { Finish::Proper } else { Finish::Improper };
        self.finish = std::mem::take(&mut self.finish).max(finish);
        if !is_proper {
            self.trouble.get_or_insert_with(|| text::bounded(reason, REASON_BYTES_MAX));
        }
    }
}

/// Whether a stream of it says that it ends. Gemini's own say only why a candidate does.
fn ends_itself(speech: Speech) -> bool {
    matches!(speech, Speech::ChatCompletions | Speech::Interactions | Speech::Responses)
}

const GENERATE: Method = Method::GenerateContent;
const EMBED: Method = Method::EmbedContent;

/// Usage is cumulative: the later counts are true. The format leaves out what is 0, and some parts
/// leave out more, so a count that the later one lacks stays as it was.
fn merged(before: &Usage, after: Usage) -> Usage {
    let count = |before: u64, after: u64| if after == 0 { before } else { after };
    Usage {
        prompt: count(before.prompt, after.prompt),
        cached: count(before.cached, after.cached),
        candidates: count(before.candidates, after.candidates),
        thoughts: count(before.thoughts, after.thoughts),
        tool_use_prompt: count(before.tool_use_prompt, after.tool_use_prompt),
        total: count(before.total, after.total),
        raw: after.raw,
    }
}

/// The document with the error, in a form that says no more: some carry it inside another document,
/// and some events are an error themselves.
fn error_document(object: &Object<'_>, copy: &str) -> String {
    let of = |object: &Object<'_>| {
        let raw = object.get("error").map(|raw| raw.get()).filter(|raw| *raw != "null")?;
        Some(format!("{{\"error\":{raw}}}"))
    };
    let inner = |name| answer::piece::<Object<'_>>(object, name).and_then(|inner| of(&inner));
    of(object)
        .or_else(|| inner("response"))
        .or_else(|| inner("interaction"))
        .unwrap_or_else(|| format!("{{\"error\":{copy}}}"))
}
