use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use reqwest::header::HeaderValue;

use super::*;
use crate::upstream::{Method, answer};
use crate::upstream::{QuotaWindow, RefusalClass, ThrottleKind};

mod cuts;
mod errors;
mod openai;
mod streams;

pub(super) use cuts::cut;

const KEY: &str = "AQ.test-key";

/// An answer of a success, whole.
fn read(speech: Speech, body: &[u8]) -> Read {
    read_with(speech, 200, &[], &[body], true)
}

fn read_with(
    speech: Speech,
    status: u16,
    headers: &[(&'static str, &'static str)],
    pieces: &[&[u8]],
    is_complete: bool,
) -> Read {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    let mut reading = Reading::new(speech, status, &map);
    for piece in pieces {
        reading.pass(piece);
    }
    reading.end(is_complete, &SecretString::from(KEY))
}

/// Prompt, candidates, thoughts and total.
fn counts(read: &Read) -> Option<(u64, u64, u64, u64)> {
    let usage = read.usage.as_ref()?;
    Some((usage.prompt, usage.candidates, usage.thoughts, usage.total))
}

fn reason(read: &Read) -> &str {
    match &read.ended {
        Ended::Broken { reason } => reason,
        other @ (Ended::Complete | Ended::Failed) => panic!("{other:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes all");
    encoder.finish().expect("a Vec takes all")
}

const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"\"Hello\" \\\n"}],"role":"model"},
"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":20,"candidatesTokenCount":198,
"thoughtsTokenCount":405,"totalTokenCount":623},"modelVersion":"gemini-2.5-flash","responseId":"r"}"#;

#[test]
fn one_document() {
    let read = read(Speech::GenerateContent, ANSWER.as_bytes());
    assert_eq!(read.ended, Ended::Complete);
    assert_eq!(counts(&read), Some((20, 198, 405, 623)));
    assert_eq!((read.model.as_deref(), read.id.as_deref()), (Some("gemini-2.5-flash"), Some("r")));
    assert_eq!((read.blocked, read.hop, read.images), (None, false, 0));
    assert_eq!((read.events, read.bytes), (1, u64::try_from(ANSWER.len()).expect("small")));
}

#[test]
fn one_document_says_what_the_reader_of_whole_answers_says() {
    let image = r#"{"inlineData":{"data":"aGk=","mimeType":"image/png"}}"#;
    for document in [
        r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9}}"#,
        r#"{"candidates":[{"finishReason":"SAFETY"}]}"#,
        r#"{"candidates":[{"finishReason":"SAFETY"},{"finishReason":"STOP"}]}"#,
        r#"{"candidates":[{"finishReason":"SAFETY"},{}],"usageMetadata":{"promptTokenCount":"x"}}"#,
        "{}",
        &format!(r#"{{"candidates":[{{"content":{{"parts":[{image},{image}]}}}}]}}"#),
    ] {
        let answer::Document::Answer { usage, blocked, images } =
            answer::read(Method::GenerateContent, document.as_bytes())
        else {
            panic!("{document}")
        };
        let read = read(Speech::GenerateContent, document.as_bytes());
        assert_eq!((read.usage, read.blocked, read.images), (usage, blocked, images), "{document}");
    }
}

#[test]
fn embeddings_and_counts() {
    for (speech, body, ended, usage) in [
        (Speech::EmbedContent, r#"{"embedding":{"values":[0.1,-2e-3]}}"#, true, None),
        (Speech::EmbedContent, r#"{"embeddings":[]}"#, false, None),
        (Speech::BatchEmbed, r#"{"embeddings":[{"values":[0.1]},{"values":[1]}]}"#, true, None),
        (
            Speech::BatchEmbed,
            r#"{"embeddings":[],"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7}}"#,
            true,
            Some((7, 0, 0, 7)),
        ),
        (Speech::BatchEmbed, "{}", false, None),
        (
            Speech::Embeddings,
            r#"{"data":[{"embedding":[1,2]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#,
            true,
            Some((5, 0, 0, 5)),
        ),
        (Speech::Embeddings, r#"{"data":[]}"#, false, None),
        (Speech::CountTokens, r#"{"totalTokens":31}"#, true, None),
        (Speech::CountTokens, "{}", false, None),
        (Speech::Other, "<html>", true, None),
        (Speech::Other, "", true, None),
        (Speech::GenerateContent, "", false, None),
        (Speech::GenerateContent, "<html>{}</html>", false, None),
        (Speech::GenerateContent, "{} secret", false, None),
        (Speech::GenerateContent, "\"secret\"", false, None),
        (Speech::GenerateContent, "{\"secret\":1", false, None),
    ] {
        let read = read(speech, body.as_bytes());
        assert_eq!(read.ended == Ended::Complete, ended, "{body}: {:?}", read.ended);
        assert_eq!(counts(&read), usage, "{body}");
        assert!(!format!("{:?}", read.ended).contains("secret"), "{:?}", read.ended);
    }
}

#[test]
fn usage_without_input_is_none() {
    for usage in ["{}", "null", "[]", r#"{"totalTokenCount":9}"#, r#"{"promptTokenCount":-1}"#] {
        let body = format!(r#"{{"candidates":[],"usageMetadata":{usage}}}"#);
        assert_eq!(read(Speech::GenerateContent, body.as_bytes()).usage, None, "{usage}");
    }
}

#[test]
fn encodings() {
    let body = ANSWER.as_bytes();
    let (first, second) = body.split_at(100);
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(body).expect("a Vec takes all");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(body).expect("a Vec takes all");
    for (encoding, bytes) in [
        ("gzip", gzip(body)),
        ("x-gzip", [gzip(first), gzip(second)].concat()),
        ("GZIP", [gzip(body), vec![0; 7]].concat()),
        ("deflate", deflate.finish().expect("a Vec takes all")),
        ("deflate", zlib.finish().expect("a Vec takes all")),
        ("zstd", zstd::encode_all(body, 3).expect("a slice can be read")),
        ("identity", body.to_vec()),
    ] {
        for size in [1, 7, 4096] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let headers = &[("content-encoding", encoding)];
            let read = read_with(Speech::GenerateContent, 200, headers, &pieces, true);
            assert_eq!(read.ended, Ended::Complete, "{encoding}");
            assert_eq!(counts(&read), Some((20, 198, 405, 623)), "{encoding}");
            assert_eq!(read.bytes, u64::try_from(bytes.len()).expect("small"));
        }
    }
}

#[test]
fn an_encoding_that_is_not_read_is_said() {
    for headers in [
        &[("content-encoding", "br")][..],
        &[("content-encoding", "gzip, br")],
        &[("content-encoding", "gzip"), ("content-encoding", "gzip")],
    ] {
        let read = read_with(Speech::GenerateContent, 200, headers, &[b"\x1b\x05\x00"], true);
        assert_eq!((read.ended, read.usage), (Ended::Complete, None));
        assert!(read.unread.is_some());
    }
}

#[test]
fn a_cut_or_false_encoding_is_broken() {
    let whole = gzip(ANSWER.as_bytes());
    let headers = &[("content-encoding", "gzip")];
    for bytes in [&whole[..whole.len() / 2], &whole[..5], b"", b"{}", b"\x1f\x8b\x08"] {
        let read = read_with(Speech::GenerateContent, 200, headers, &[bytes], true);
        assert!(!reason(&read).is_empty(), "{bytes:?}");
    }
    // Its checksum is cut off, and nothing of the document.
    let read = read_with(Speech::GenerateContent, 200, headers, &[&whole[..whole.len() - 4]], true);
    assert_eq!(counts(&read), Some((20, 198, 405, 623)));
    assert_eq!(read.ended, Ended::Complete);
}

#[test]
fn a_bomb_is_given_up() {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let mut reading = Reading::new(Speech::GenerateContent, 200, &headers);
    reading.decoder.room_bytes = 1 << 20;
    let (head, tail) = ANSWER.split_at(30);
    reading.pass(&gzip([head, &" ".repeat(2 << 20), tail].concat().as_bytes()));
    let read = reading.end(true, &SecretString::from(KEY));
    assert_eq!((read.ended, read.usage), (Ended::Complete, None));
    assert_eq!(read.unread, Some(decode::Fault::TooLong.reason()));
}

#[test]
fn the_heads_words_are_told() {
    let headers = &[
        ("date", "Sun, 22 Nov 2026 08:00:00 GMT"),
        ("x-gemini-service-tier", "flex"),
        ("x-request-id", "req_1"),
    ];
    let read = read_with(Speech::Other, 200, headers, &[b"x"], true);
    assert_eq!(read.date_header, Some(1_795_334_400));
    assert_eq!(read.service_tier.as_deref(), Some("flex"));
    assert_eq!(read.request_id.as_deref(), Some("req_1"));
    let read = read_with(Speech::Other, 200, &[], &[b"x"], false);
    assert!(!reason(&read).is_empty());
}
