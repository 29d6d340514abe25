//! The dialect of `OpenAI`'s batches.

use super::*;

const OPENAI: Dialect = Dialect::OpenAiJsonl;

fn chat_line(body: &str) -> String {
    let body = body.replace('\n', "");
    format!(r#"{{"custom_id":"c-1","method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
}

fn embed_line(input: &str) -> String {
    let body = format!(r#"{{"model":"e","input":{input}}}"#);
    format!(r#"{{"custom_id":"c-1","method":"POST","url":"/v1/embeddings","body":{body}}}"#)
}

fn read(line: &str) -> Line {
    parse_line(OPENAI, 1, line.as_bytes()).unwrap().unwrap()
}

fn chat(messages: &str, more: &str) -> Footprint {
    read(&chat_line(&format!(r#"{{"model":"m","messages":[{messages}]{more}}}"#))).footprint
}

fn say(content: &str) -> Footprint {
    chat(&format!(r#"{{"role":"user","content":{content}}}"#), "")
}

#[test]
fn a_line_gives_its_id_its_model_and_the_very_bytes_of_its_body() {
    let body =
        r#"{ "model" : "gpt-x", "messages":[{"role":"user","content":"h\u00e9"}], "own": 1.50 }"#;
    let line = format!("\u{feff}{}\r\n", chat_line(body));
    let found = read(&line);
    assert_eq!(found.key, "c-1");
    assert_eq!((found.method, found.model.as_deref()), (Some(Method::Chat), Some("gpt-x")));
    assert_eq!(found.footprint, Footprint::of_text("h\u{e9}"));
    for wire in [Wire::Gemini, Wire::OpenAi] {
        let request = super::super::request_body(OPENAI, None, wire, "other", line.as_bytes());
        let expected = Request { method: Method::Chat, body: body.as_bytes().to_vec() };
        assert_eq!(request, Ok(expected));
    }
    assert_eq!(key_of(OPENAI, 3, line.as_bytes()), "c-1");
    assert_eq!(key_of(OPENAI, 3, br#"{"custom_id":7}"#), "3");
    let embed = read(&embed_line("\"abc\""));
    assert_eq!((embed.method, embed.model.as_deref()), (Some(Method::Embeddings), Some("e")));
}

#[test]
fn the_text_of_a_chat_is_counted() {
    let text = |text_bytes| Footprint { text_bytes, ..Footprint::default() };
    assert_eq!(say("\"four\""), text(4));
    assert_eq!(say(r#"[{"type":"text","text":"four"},{"type":"text","text":"x"}]"#), text(5));
    let two = r#"{"role":"system","content":"ab"},{"role":"user","content":"c","name":"zoe"}"#;
    assert_eq!(chat(two, ""), text(6));
    let called = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"1a","type":"function",
        "function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1a","content":"ok"}"#;
    assert!(chat(called, "").text_bytes >= 3 + 2);
    let tools = r#","tools":[{"type":"function","function":{"name":"f","parameters":{"a":"bc"}}}]"#;
    let with_tools = chat(r#"{"role":"user","content":"x"}"#, tools);
    assert_eq!((with_tools.text_bytes, with_tools.tools), (1 + 4 + 1 + 10 + 1 + 2, false));
    let served = r#","tools":[{"type":"web_search"}]"#;
    assert!(chat(r#"{"role":"user","content":"x"}"#, served).tools);
    assert!(chat(r#"{"role":"user","content":"x"}"#, r#","web_search_options":{}"#).tools);
    let format = r#","response_format":{"type":"json_schema"},"user":"nobody","stop":["stop"]"#;
    assert_eq!(chat(r#"{"role":"user","content":"x"}"#, format).text_bytes, 1 + 4 + 11);
}

#[test]
fn media_of_a_chat_are_counted() {
    let media = |media_tokens| Footprint { media_tokens, ..Footprint::default() };
    let picture = |url: &str| {
        say(&format!(r#"[{{"type":"image_url","image_url":{{"url":"{url}","detail":"high"}}}}]"#))
    };
    assert_eq!(picture("data:image/png;base64,AAAA"), media(2_240));
    assert_eq!(picture("https://example.com/a.png"), media(2_240));
    assert_eq!(
        say(r#"[{"type":"image_url","image_url":"https://example.com/a.png"}]"#),
        media(2_240)
    );
    let sound = "A".repeat(40_000);
    let heard = say(&format!(
        r#"[{{"type":"input_audio","input_audio":{{"data":"{sound}","format":"wav"}}}}]"#
    ));
    assert_eq!(heard, media(301));
    let file = |file: &str| say(&format!(r#"[{{"type":"file","file":{file}}}]"#));
    assert_eq!(
        file(r#"{"filename":"a.pdf","file_data":"data:application/pdf;base64,AAAA"}"#),
        media(560)
    );
    assert_eq!(
        file(r#"{"file_id":"file-1"}"#),
        Footprint { unmeasured: true, ..Footprint::default() }
    );
    let text = file(r#"{"file_data":"data:text/plain;base64,AAAA"}"#);
    assert_eq!((text.text_bytes, text.media_tokens), (3, 0));
}

#[test]
fn the_output_of_a_chat_is_bounded_for_all_choices() {
    let most = |more: &str| chat(r#"{"role":"user","content":"x"}"#, more).output_tokens_max;
    assert_eq!(most(""), None);
    assert_eq!(most(r#","max_tokens":64"#), Some(64));
    assert_eq!(most(r#","max_completion_tokens":64,"n":3"#), Some(192));
    assert_eq!(most(r#","max_tokens":9,"max_completion_tokens":64"#), Some(64));
    assert_eq!(most(r#","max_tokens":null"#), None);
}

#[test]
fn texts_to_embed_are_counted() {
    let embed = |input: &str| read(&embed_line(input)).footprint;
    assert_eq!(embed("\"four\""), Footprint { text_bytes: 4, ..Footprint::default() });
    let three = embed(r#"["a","bc","def"]"#);
    assert_eq!((three.text_bytes, three.requests), (6, 3));
    let tokens = embed("[15339,1917,0]");
    assert_eq!((tokens.text_bytes, tokens.requests, tokens.script), (3, 1, Script::Dense));
    let lists = embed("[[15339,1917],[0]]");
    assert_eq!((lists.text_bytes, lists.requests), (3, 2));
}

#[test]
fn every_bad_line_has_its_reason() {
    const GOOD: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    const METHOD: &str = r#""method" must be "POST""#;
    const URL: &str = r#""url" must be "/v1/chat/completions" or "/v1/embeddings""#;
    const BODY: &str = r#""body" must be an object"#;
    const MODEL: &str = r#""model" of the body must be a model's id"#;
    const MESSAGES: &str = r#""messages" of the body is missing or empty"#;
    const INPUT: &str = r#""input" of the body is missing or empty"#;
    const ID: &str = r#""custom_id" must be a string of 1 to 512 bytes without control characters"#;
    let good = chat_line(GOOD);
    let table = [
        (good.replace(r#""custom_id":"c-1","#, ""), r#""custom_id" is missing"#),
        (good.replace("\"c-1\"", "1"), ID),
        (good.replace("\"c-1\"", "\"\""), ID),
        (good.replace("POST", "GET"), METHOD),
        (good.replace(r#""method":"POST","#, ""), METHOD),
        (good.replace("/v1/chat/completions", "/v1/responses"), URL),
        (good.replace(r#""/v1/chat/completions""#, "null"), URL),
        (good.replace(GOOD, "[]"), BODY),
        (good.replace(&format!(r#","body":{GOOD}"#), ""), BODY),
        (good.replace(r#""model":"m","#, ""), MODEL),
        (good.replace("\"m\"", "7"), MODEL),
        (good.replace("\"m\"", "\"a\\nb\""), MODEL),
        (chat_line(r#"{"model":"m"}"#), MESSAGES),
        (chat_line(r#"{"model":"m","messages":[]}"#), MESSAGES),
        (chat_line(r#"{"model":"m","messages":"hello"}"#), MESSAGES),
        (chat_line(r#"{"model":"m","input":"hello"}"#), MESSAGES),
        (embed_line("\"\""), INPUT),
        (embed_line("[]"), INPUT),
        (embed_line("null"), INPUT),
        (
            chat_line(&GOOD.replace('{', r#"{"stream":true,"#).replacen(
                r#"[{"stream":true,"#,
                "[{",
                1,
            )),
            r#""stream" must not be true: answers are collected; leave it out"#,
        ),
        (
            chat_line(r#"{"model":"m","model":"n","messages":[{"a":1}]}"#),
            r#"duplicate field "model""#,
        ),
        (
            good.replace(r#""method""#, r#""custom_id":"d","method""#),
            r#"duplicate field "custom_id""#,
        ),
        (
            r#"{"key":"k","request":{"contents":[{"a":1}]}}"#.to_owned(),
            "a line of the Gemini batch dialect (\"key\", \"request\") in a file of the OpenAI \
             dialect; put it into a file of its own",
        ),
        (
            r#"{"tidegate":{}}"#.to_owned(),
            r#""tidegate" options are accepted on the first line only, with nothing beside them"#,
        ),
    ];
    for (line, expected) in table {
        let reason = parse_line(OPENAI, 2, line.as_bytes()).unwrap_err().to_string();
        assert_eq!(reason, expected, "{line}");
    }
    let held = chat_line(&GOOD.replace(r#"{"model""#, r#"{"stream":false,"model""#));
    assert_eq!(read(&held).model.as_deref(), Some("m"));
    let deep = format!(r#"{{"model":"m","messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert!(matches!(
        parse_line(OPENAI, 1, chat_line(&deep).as_bytes()),
        Err(LineError::TooDeep { .. })
    ));
}

fn written(answers: Answers, ending: &Ending<'_>) -> String {
    String::from_utf8(result_line(answers, "k\"1", "7_3", ending).unwrap()).unwrap()
}

#[test]
fn results_are_written_in_the_dialect_of_the_file() {
    let answered =
        Ending::Answered { status: 200, body: b"{\n \"id\" : 1.0 }", request_id: Some("req_9") };
    assert_eq!(
        written(Answers::OpenAi, &answered),
        "{\"id\":\"batch_req_7_3\",\"custom_id\":\"k\\\"1\",\"response\":{\"status_code\":200,\
         \"request_id\":\"req_9\",\"body\":{\"id\":1.0}},\"error\":null}\n"
    );
    assert_eq!(
        written(Answers::Gemini, &answered),
        "{\"key\":\"k\\\"1\",\"response\":{\"id\":1.0}}\n"
    );
    let refused = |body| Ending::Refused {
        status: 400,
        body,
        word: "INVALID_ARGUMENT",
        message: "no \"x\"",
        details: None,
    };
    assert_eq!(
        written(Answers::OpenAi, &refused(Some(br#"{"error": {"code": "bad"}}"#))),
        "{\"id\":\"batch_req_7_3\",\"custom_id\":\"k\\\"1\",\"response\":{\"status_code\":400,\
         \"request_id\":\"\",\"body\":{\"error\":{\"code\":\"bad\"}}},\"error\":null}\n"
    );
    for body in [None, Some(&b"<html>"[..]), Some(b"\xff")] {
        assert_eq!(
            written(Answers::OpenAi, &refused(body)),
            "{\"id\":\"batch_req_7_3\",\"custom_id\":\"k\\\"1\",\"response\":{\"status_code\":400,\
             \"request_id\":\"\",\"body\":{\"error\":{\"message\":\"no \\\"x\\\"\",\
             \"type\":\"INVALID_ARGUMENT\",\"param\":null,\"code\":null}}},\"error\":null}\n"
        );
    }
    assert_eq!(
        written(Answers::Gemini, &refused(None)),
        "{\"key\":\"k\\\"1\",\"error\":{\"code\":400,\"message\":\"no \\\"x\\\"\",\
         \"status\":\"INVALID_ARGUMENT\"}}\n"
    );
    for (word, code) in [
        ("CANCELLED", "batch_cancelled"),
        ("EXPIRED", "batch_expired"),
        ("UNKNOWN", "request_timeout"),
        ("NOT_SENT", "not_sent"),
    ] {
        let not_sent = Ending::NotSent { code: 499, word, message: "why" };
        assert_eq!(
            written(Answers::OpenAi, &not_sent),
            format!(
                "{{\"id\":\"batch_req_7_3\",\"custom_id\":\"k\\\"1\",\"response\":null,\
                 \"error\":{{\"code\":\"{code}\",\"message\":\"why\"}}}}\n"
            )
        );
    }
    let broken = Ending::Answered { status: 200, body: b"{", request_id: None };
    assert!(matches!(
        result_line(Answers::OpenAi, "k", "1", &broken),
        Err(LineError::NotJson { column: 1, .. })
    ));
}
