//! Streams of OpenAI's methods.

use super::streams::events;
use super::*;

const CHAT: Speech = Speech::ChatCompletions;

const FIRST: &str = r#"{"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"finish_reason":null}],"usage":null}"#;
const LAST: &str =
    r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
const USAGE: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":10}}}"#;

#[test]
fn with_usage_and_without() {
    for (documents, done, usage) in [
        (&[FIRST, LAST, USAGE][..], "data: [DONE]\n\n", Some((12, 20, 10, 42))),
        (&[FIRST, LAST, USAGE], "data:[DONE]", Some((12, 20, 10, 42))),
        (&[FIRST, LAST], "data: [DONE]\r\n", None),
        // A stream that says why it stopped has come to its end.
        (&[FIRST, LAST], "", None),
        (&[FIRST, USAGE], "data: [DONE] \n", Some((12, 20, 10, 42))),
    ] {
        let read = read(CHAT, (events(documents, "\n") + done).as_bytes());
        assert_eq!((&read.ended, &read.blocked), (&Ended::Complete, &None), "{done:?}");
        assert_eq!(counts(&read), usage, "{done:?}");
        assert_eq!((read.id.as_deref(), read.model.as_deref()), (Some("c"), Some("m")));
    }
    for body in [events(&[FIRST], "\n"), format!("{}data: [DON", events(&[FIRST], "\n"))] {
        assert!(reason(&read(CHAT, body.as_bytes())).contains("last event"));
    }
}

#[test]
fn usage_in_every_chunk_is_cumulative_and_the_total_tells_thoughts() {
    let chunk = |completion: &str, total: u64, finish: &str| {
        format!(
            r#"{{"choices":[{{"delta":{{"content":"x"}},"finish_reason":{finish}}}],"usage":{{"prompt_tokens":5{completion},"total_tokens":{total}}}}}"#
        )
    };
    let documents = [
        chunk("", 25, "null"),
        chunk(r#","completion_tokens":7"#, 32, "null"),
        chunk(r#","completion_tokens":9"#, 34, "\"stop\""),
    ];
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let read = read(CHAT, (events(&documents, "\n") + "data: [DONE]\n\n").as_bytes());
    assert_eq!(counts(&read), Some((5, 9, 20, 34)));
}

#[test]
fn blocked() {
    let finish = |word: &str| LAST.replace("\"stop\"", word);
    let refusal = FIRST.replace(r#""content":"He""#, r#""refusal":"I cannot""#);
    let empty = r#"{"object":"chat.completion.chunk","choices":[]}"#;
    for (documents, want) in [
        (vec![finish("\"content_filter: SAFETY\"")], Some("content_filter: SAFETY")),
        (vec![finish("\"error\"")], Some("error")),
        (vec![finish("\"length\"")], None),
        (vec![refusal, finish("\"stop\"")], Some("refusal")),
        (vec![empty.to_owned()], Some("no_choices")),
    ] {
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let read = read(CHAT, (events(&documents, "\n") + "data: [DONE]\n\n").as_bytes());
        assert_eq!(read.blocked.as_deref(), want);
        assert_eq!(read.ended, Ended::Complete);
    }
}

#[test]
fn responses() {
    let usage = r#"{"input_tokens":12,"input_tokens_details":{"cached_tokens":4},"output_tokens":30,"output_tokens_details":{"reasoning_tokens":10},"total_tokens":42}"#;
    let document = format!(
        r#"{{"id":"resp","object":"response","status":"completed","error":null,"model":"m","output":[],"usage":{usage}}}"#
    );
    let started = r#"{"type":"response.created","response":{"id":"resp","status":"in_progress","usage":null,"error":null}}"#;
    let ended = format!(r#"{{"type":"response.completed","response":{document}}}"#);
    let stream =
        events(&[started, r#"{"type":"response.output_text.delta","delta":"x"}"#, &ended], "\n");
    for body in [document, stream.clone()] {
        let read = read(Speech::Responses, body.as_bytes());
        assert_eq!((&read.ended, &read.blocked), (&Ended::Complete, &None), "{body}");
        assert_eq!(counts(&read), Some((12, 20, 10, 42)));
        assert_eq!(read.id.as_deref(), Some("resp"));
    }
    let cut = events(&[started], "\n");
    assert!(reason(&read(Speech::Responses, cut.as_bytes())).contains("last event"));
}
