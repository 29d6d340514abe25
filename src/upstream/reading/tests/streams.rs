//! Gemini's streams and interactions.

use super::*;

const STREAM: Speech = Speech::StreamGenerateContent;

const FIRST: &str = r#"{"candidates":[{"content":{"parts":[{"text":"He"}],"role":"model"}}],"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8},"modelVersion":"m","responseId":"r"}"#;
const SECOND: &str = r#"{"candidates":[{"content":{"parts":[{"text":"llo"}]}}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":400,"thoughtsTokenCount":11,"totalTokenCount":419}}"#;
const LAST: &str = r#"{"candidates":[{"content":{"parts":[{"text":"!"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":829,"totalTokenCount":848}}"#;

/// Events of these documents.
pub(super) fn events(documents: &[&str], end: &str) -> String {
    documents.iter().flat_map(|document| ["data: ", document, end, end]).collect()
}

#[test]
fn the_last_counts_are_true_and_left_out_ones_stay() {
    for end in ["\r\n", "\n", "\r"] {
        let read = read(STREAM, events(&[FIRST, SECOND, LAST], end).as_bytes());
        assert_eq!(read.ended, Ended::Complete);
        // The last part leaves out its thoughts.
        assert_eq!(counts(&read), Some((8, 829, 11, 848)));
        assert_eq!(read.events, 3);
        assert_eq!((read.model.as_deref(), read.id.as_deref()), (Some("m"), Some("r")));
    }
}

#[test]
fn odd_events() {
    let body = [
        "\u{feff}: keep-alive\r\n\r\nretry: 3000\r\nid: 7\r\nevent: message\r\ndata:\r\n\r\ndata\r\n\r\n",
        "data:", FIRST, "\r\n\r\n",
        // A document on several lines.
        "data: {\"candidates\":\ndata: [{\"finishReason\":\ndata:\"MAX_TOKENS\"}],\n\
         data:  \"usageMetadata\":{\"promptTokenCount\":9,\"totalTokenCount\":12}}\n\n",
        // No blank line between two, and none at the end.
        "data: {\"responseId\":\"s\"}\ndata: {\"modelVersion\":\"n\"}",
    ]
    .concat();
    let read = read(STREAM, body.as_bytes());
    assert_eq!(read.ended, Ended::Complete);
    assert_eq!(counts(&read), Some((9, 0, 0, 12)));
    assert_eq!((read.model.as_deref(), read.id.as_deref()), (Some("n"), Some("s")));
    assert_eq!(read.events, 4);
}

#[test]
fn a_list_that_comes_piece_by_piece() {
    let body = format!("[{FIRST}\n,\r\n{SECOND}\n,\r\n{LAST}\n]\n");
    let read_list = read(STREAM, body.as_bytes());
    assert_eq!((read_list.ended, read_list.events), (Ended::Complete, 3));
    assert_eq!(read_list.usage.map(|usage| usage.candidates), Some(829));
    let unclosed = read(STREAM, body.trim_end_matches(['\n', ']']).as_bytes());
    assert_eq!(counts(&unclosed), Some((8, 829, 11, 848)));
    assert!(reason(&unclosed).contains("JSON document"), "{unclosed:?}");
}

#[test]
fn a_stream_without_its_end_is_broken() {
    let read_cut = read_with(STREAM, 200, &[], &[events(&[FIRST, SECOND], "\n").as_bytes()], false);
    assert_eq!(counts(&read_cut), Some((8, 400, 11, 419)));
    assert!(reason(&read_cut).contains("broke off"));
    let ended = read(STREAM, events(&[FIRST, SECOND], "\n").as_bytes());
    assert!(reason(&ended).contains("finishReason"));
    let half = format!("{}data: {}", events(&[FIRST], "\n"), &LAST[..LAST.len() - 1]);
    let half = read(STREAM, half.as_bytes());
    assert_eq!(counts(&half), Some((8, 0, 0, 8)));
    assert!(reason(&half).contains("finishReason"));
}

#[test]
fn a_blocked_prompt_a_blocked_part_and_a_hop() {
    let prompt = r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#;
    let blocked = read(STREAM, events(&[prompt], "\r\n").as_bytes());
    assert_eq!(blocked.ended, Ended::Complete);
    assert_eq!(blocked.blocked.as_deref(), Some("PROHIBITED_CONTENT"));
    let safety = LAST.replace("STOP", "SAFETY");
    let read_one = read(STREAM, events(&[FIRST, &safety], "\r\n").as_bytes());
    assert_eq!(read_one.blocked.as_deref(), Some("SAFETY"));
    // Of two candidates one ended well.
    let read_two = read(STREAM, events(&[&safety, LAST], "\r\n").as_bytes());
    assert_eq!(read_two.blocked, None);
    let hop = LAST.replace("\"STOP\"", "\"CONTINUATION\",\"continuationToken\":\"dG9r\"");
    for (speech, body) in
        [(STREAM, events(&[FIRST, &hop], "\r\n")), (Speech::GenerateContent, hop.clone())]
    {
        let read = read(speech, body.as_bytes());
        assert_eq!((read.ended, read.hop, read.blocked), (Ended::Complete, true, None));
        assert_eq!(read.usage.map(|usage| usage.candidates), Some(829));
    }
}

#[test]
fn images_in_large_events_are_counted_and_not_kept() {
    let data = "QUJD".repeat(1 << 20);
    let image = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"inlineData":{{"mimeType":"image/png","data":"{data}"}}}}]}}}}],"usageMetadata":{{"promptTokenCount":8}}}}"#
    );
    let mut reading = Reading::new(STREAM, 200, &HeaderMap::new());
    for document in [&image, &image, LAST] {
        reading.pass(b"data: ");
        for piece in document.as_bytes().chunks(16 << 10) {
            reading.pass(piece);
        }
        reading.pass(b"\r\n\r\n");
    }
    let read = reading.end(true, &SecretString::from(KEY));
    assert_eq!((read.ended, read.images), (Ended::Complete, 2));
    assert_eq!(read.usage.map(|usage| usage.total), Some(848));
}

#[test]
fn interactions() {
    let usage = r#"{"total_input_tokens":7,"total_output_tokens":20,"total_thought_tokens":5,"total_tokens":32,"total_cached_tokens":2}"#;
    let whole = format!(
        r#"{{"id":"i","object":"interaction","model":"m","status":"completed","steps":[{{"status":"failed"}}],"usage":{usage}}}"#
    );
    let stream = [
        r#"{"event_type":"interaction.created","interaction":{"id":"i","status":"in_progress","model":"m"}}"#,
        r#"{"event_type":"step.delta","index":0,"delta":{"type":"text","text":"hi"}}"#,
        r#"{"event_type":"step.stop","index":0,"status":"failed","id":"no"}"#,
        &format!(
            r#"{{"event_type":"interaction.completed","interaction":{{"id":"i","status":"completed","usage":{usage}}}}}"#
        ),
    ];
    let events = events(&stream, "\n");
    for body in [whole.clone(), format!("{events}data: [DONE]\n\n"), events.clone()] {
        let read = read(Speech::Interactions, body.as_bytes());
        assert_eq!((&read.ended, &read.blocked), (&Ended::Complete, &None), "{body}");
        assert_eq!(counts(&read), Some((7, 20, 5, 32)), "{body}");
        assert_eq!(read.usage.map(|usage| usage.cached), Some(2), "{body}");
        assert_eq!((read.id.as_deref(), read.model.as_deref()), (Some("i"), Some("m")), "{body}");
    }
    let cut = streams_before(&events, "data: {\"event_type\":\"interaction.completed");
    assert!(reason(&read(Speech::Interactions, cut.as_bytes())).contains("last event"));
    let hop =
        read(Speech::Interactions, whole.replace("completed", "requires_continuation").as_bytes());
    assert!(hop.hop);
    let failed = read(Speech::Interactions, whole.replace("completed", "failed").as_bytes());
    assert_eq!(failed.blocked.as_deref(), Some("failed"));
}

fn streams_before<'a>(body: &'a str, mark: &str) -> &'a str {
    body.split_once(mark).expect("it is there").0
}
