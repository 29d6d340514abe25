//! What a call that a client makes by itself weighs.

use super::footprint::Footprint;
use super::members::At;
use super::walk;

/// What the body of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Of Gemini's `generateContent`, `streamGenerateContent` or `embedContent`.
    Contents,
    /// Of Gemini's `batchEmbedContents`: each of its texts counts as a request.
    EmbedList,
    /// Of Gemini's `countTokens`.
    Count,
    /// Of an interaction, or of one of `OpenAI`'s responses.
    Interaction,
    /// Of a chat completion.
    Chat,
    /// Of `OpenAI`'s embeddings.
    Embeddings,
    /// Of something else: all text in it is taken for a prompt.
    Other,
}

/// What was read of a call's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// What it weighs.
    pub footprint: Footprint,
    /// The model that it names, without `models/`.
    pub model: Option<String>,
    /// Whether the answer is to come in pieces.
    pub stream: bool,
}

/// Weighs the body of a call; `None` when it is not JSON, which the provider will say better.
#[must_use]
pub fn weigh(shape: Shape, body: &[u8]) -> Option<Weighed> {
    let at = match shape {
        Shape::Contents => At::Request,
        Shape::EmbedList => At::EmbedList,
        Shape::Count => At::Count,
        Shape::Interaction => At::Interaction,
        Shape::Chat => At::Chat,
        Shape::Embeddings => At::Embeddings,
        Shape::Other => At::Data,
    };
    let measured = walk::measure(at, str::from_utf8(body).ok()?).ok()?;
    let model = measured.model.filter(|model| !model.is_empty());
    Some(Weighed { footprint: measured.footprint, model, stream: measured.stream })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn footprint(shape: Shape, body: &str) -> Footprint {
        weigh(shape, body.as_bytes()).unwrap().footprint
    }

    #[test]
    fn each_text_of_an_embed_list_is_a_request() {
        let body = r#"{"requests":[
            {"model":"models/e","content":{"parts":[{"text":"abcd"}]}},
            {"model":"models/e","content":{"parts":[{"text":"ef"},{"text":"gh"}]}}]}"#;
        let footprint = footprint(Shape::EmbedList, body);
        assert_eq!((footprint.requests, footprint.text_bytes), (2, 8));
    }

    #[test]
    fn a_count_may_have_a_whole_request_in_it() {
        for body in [
            r#"{"contents":[{"parts":[{"text":"abcd"}]}]}"#,
            r#"{"generateContentRequest":{"contents":[{"parts":[{"text":"abcd"}]}]}}"#,
        ] {
            assert_eq!(footprint(Shape::Count, body).text_bytes, 4, "{body}");
        }
    }

    #[test]
    fn an_interaction_weighs_its_turns_and_media() {
        let plain = r#"{"model":"gemini-3.6-flash","input":"abcd","stream":true}"#;
        let weighed = weigh(Shape::Interaction, plain.as_bytes()).unwrap();
        assert_eq!(weighed.model.as_deref(), Some("gemini-3.6-flash"));
        assert!(weighed.stream);
        assert_eq!(weighed.footprint.text_bytes, 4);
        let turns = r#"{"model":"m","system_instruction":"xy","input":[
            {"role":"user","content":[{"type":"text","text":"abcd"},
                {"type":"image","mime_type":"image/png","data":"AAAAAAAA"}]}],
            "generation_config":{"max_output_tokens":7}}"#;
        let turns = footprint(Shape::Interaction, turns);
        assert_eq!((turns.text_bytes, turns.output_tokens_max), (6, Some(7)));
        assert!(turns.media_tokens >= 258, "{turns:?}");
        let later = r#"{"model":"m","input":"a","previous_interaction_id":"i"}"#;
        assert!(footprint(Shape::Interaction, later).unmeasured);
    }

    #[test]
    fn what_is_not_json_has_no_weight() {
        assert_eq!(weigh(Shape::Contents, b"{"), None);
        assert_eq!(weigh(Shape::Contents, b"\xff"), None);
        assert_eq!(weigh(Shape::Other, b""), None);
        assert!(footprint(Shape::Other, r#"{"prompt":"abcd"}"#).text_bytes >= 4);
    }
}
