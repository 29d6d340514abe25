//! The shapes that a request may have in a JSON file, and how a dialect is told.

use super::*;

#[test]
fn a_dialect_is_that_of_the_first_record() {
    let of = |line: &str| dialect_of(Family::Jsonl, line.as_bytes());
    for line in [
        r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}"#,
        "\u{feff}{\"body\":{},\"custom_id\":\"a\"}\r\n",
        r#"{"custom_id":"a"}"#,
    ] {
        assert_eq!(of(line), Dialect::OpenAiJsonl, "{line}");
    }
    for line in [
        r#"{"key":"k","request":{}}"#,
        r#"{"custom_id":"a","key":"k","request":{},"body":{}}"#,
        r#"{"contents":[]}"#,
        "",
        "{",
        "[]",
    ] {
        assert_eq!(of(line), Dialect::GeminiJsonl, "{line}");
    }
    let line = br#"{"custom_id":"a","body":{}}"#;
    assert_eq!(dialect_of(Family::Json, line), Dialect::OpenAiJsonl);
    assert_eq!(dialect_of(Family::Text, line), Dialect::Text);
    assert_eq!(dialect_of(Family::Csv, line), Dialect::Csv);
}

#[test]
fn answers_follow_the_file_and_prompts_the_project() {
    use {Answers as A, Dialect as D, Wire as W};
    for (dialect, at_gemini, at_openai) in [
        (D::GeminiJsonl, A::Gemini, A::Gemini),
        (D::OpenAiJsonl, A::OpenAi, A::OpenAi),
        (D::Text, A::Gemini, A::OpenAi),
        (D::Csv, A::Gemini, A::OpenAi),
    ] {
        let found = (answers_of(dialect, W::Gemini), answers_of(dialect, W::OpenAi));
        assert_eq!(found, (at_gemini, at_openai), "{dialect}");
    }
}

#[test]
fn a_request_alone_goes_by_its_number() {
    let bare = r#" { "contents" : [{"parts":[{"text":"x"}]}] } "#;
    let found = parse_line(JSONL, 4, bare.as_bytes()).unwrap().unwrap();
    assert_eq!((found.key.as_str(), found.method), ("4", Some(Method::Generate)));
    assert_eq!(key_of(JSONL, 4, bare.as_bytes()), "4");
    assert_eq!(request_body(JSONL, bare.as_bytes()).unwrap(), bare.trim().as_bytes());
    let embed = br#"{"content":{"parts":[{"text":"x"}]}}"#;
    let found = parse_line(JSONL, 5, embed).unwrap().unwrap();
    assert_eq!((found.key.as_str(), found.method), ("5", Some(Method::Embed)));
    let half = parse_line(JSONL, 1, br#"{"key":"k","contents":[{"a":1}]}"#);
    assert_eq!(half, Err(LineError::RequestMissing));
}

#[test]
fn the_key_may_stand_in_the_metadata() {
    let line = |metadata: &str| {
        format!(r#"{{"request":{{"contents":[{{"a":1}}]}},"metadata":{metadata}}}"#)
    };
    let inline = line(r#"{"key":"request-1","more":[1]}"#);
    assert_eq!(item(&inline).key, "request-1");
    assert_eq!(key_of(JSONL, 1, inline.as_bytes()), "request-1");
    assert_eq!(request_body(JSONL, inline.as_bytes()).unwrap(), br#"{"contents":[{"a":1}]}"#);
    let own = inline.replacen('{', r#"{"key":"own","#, 1);
    assert_eq!(item(&own).key, "own");
    let refused = |metadata: &str| parse_line(JSONL, 1, line(metadata).as_bytes()).unwrap_err();
    assert_eq!(refused("{}"), LineError::KeyMissing);
    assert_eq!(refused("7"), LineError::KeyInvalid { field: "metadata.key" });
    assert_eq!(refused(r#"{"key":7}"#), LineError::KeyInvalid { field: "key" });
}

#[test]
fn methods_and_bodies_agree() {
    for (line, method) in [
        (r#"{"key":"k","request":{"contents":[{"a":1}]}}"#, Method::Generate),
        (r#"{"key":"k","request":{"content":{"a":1}}}"#, Method::Embed),
        (r#"{"key":"k","request":{"content":{"a":1},"contents":[{"a":1}]}}"#, Method::Generate),
    ] {
        assert_eq!(item(line).method, Some(method), "{line}");
        let sent = super::super::request_body(JSONL, None, Wire::OpenAi, "m", line.as_bytes());
        assert_eq!(sent.unwrap().method, method, "{line}");
    }
}

#[test]
fn a_list_within_a_call_is_found() {
    for (before, after) in [
        (r#"{"batch":{"input_config":{"requests":{"requests":"#, "}}}}"),
        (
            r#" {"batch":{"display_name":"x","inputConfig":{"requests":{"requests": "#,
            r#" }},"priority":"0"}} "#,
        ),
    ] {
        let list = r#"[ {"request":{},"metadata":{"key":"a"}} ]"#;
        let call = format!("{before}{list}{after}");
        let range = inline_list(call.as_bytes()).unwrap();
        assert_eq!(&call[range], list);
    }
    for other in [
        r#"{"contents":[]}"#,
        r#"{"batch":{"input_config":{"file_name":"files/a"}}}"#,
        r#"{"batch":{"input_config":{"requests":{"requests":{}}}}}"#,
        "{",
        "",
    ] {
        assert_eq!(inline_list(other.as_bytes()), None, "{other}");
    }
    assert_eq!(inline_list(b"\xff"), None);
}
