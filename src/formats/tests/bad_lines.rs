//! What is wrong with a line is said, and nothing of what it holds.

use super::*;

/// Stands for the text of a prompt.
const CANARY: &str = "canary-prompt-7b1f";

fn reason(line: &[u8]) -> String {
    parse_line(JSONL, 2, line).unwrap_err().to_string()
}

#[test]
fn every_bad_line_has_its_reason() {
    const KEY: &str = r#""key" must be a string of 1 to 512 bytes without control characters"#;
    const OBJECT: &str = "not a JSON object; a line is {\"key\": …, \"request\": {…}}, or \
        {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}";
    const OPENAI: &str = "a line of the OpenAI batch dialect (\"custom_id\", \"body\") in a file of \
        the Gemini dialect; put it into a file of its own";
    const OPTIONS: &str =
        r#""tidegate" options are accepted on the first line only, with nothing beside them"#;
    const CONTENTS: &str =
        r#""contents" (or "content", to embed) of the request is missing or empty"#;
    const REQUEST: &str = r#""request" must be an object"#;
    const GOOD: &str = r#"{"contents":[{"parts":[{"text":"x"}]}]}"#;

    let with_request = |request: &str| format!(r#"{{"key":"k","request":{request}}}"#);
    let with_key = |key: &str| format!(r#"{{"key":{key},"request":{GOOD}}}"#);
    let table = [
        // Not JSON, or not an object.
        ("hello".into(), OBJECT),
        ("[1,2]".into(), OBJECT),
        ("\"key\"".into(), OBJECT),
        ("7".into(), OBJECT),
        ("{".into(), "not valid JSON at column 1: EOF while parsing an object"),
        (r#"{"key":"k""#.into(), "not valid JSON at column 10: EOF while parsing an object"),
        (r#"{"key":"k"#.into(), "not valid JSON at column 9: EOF while parsing a string"),
        (r#"{"key" "k"}"#.into(), "not valid JSON at column 8: expected `:`"),
        (r#"{"key":"k",}"#.into(), "not valid JSON at column 12: trailing comma"),
        (r#"{key:"k"}"#.into(), "not valid JSON at column 2: key must be a string"),
        (r#"{"key":'k'}"#.into(), "not valid JSON at column 8: expected value"),
        (r#"{"key":"\x"}"#.into(), "not valid JSON at column 10: invalid escape"),
        (r#"{"key":tru}"#.into(), "not valid JSON at column 11: expected ident"),
        (r#"{"n":01}"#.into(), "not valid JSON at column 7: invalid number"),
        (r#"{"key":"k"} x"#.into(), "not valid JSON at column 13: trailing characters"),
        (r#"{"key":"k"}{"key":"l"}"#.into(), "not valid JSON at column 12: trailing characters"),
        (
            "{\"key\":\"a\tb\"}".into(),
            "not valid JSON at column 9: control character (\\u0000-\\u001F) found while \
             parsing a string",
        ),
        (
            with_request(r#"{"contents":["\ud800"]}"#),
            "not valid JSON at column 42: unexpected end of hex escape",
        ),
        (
            with_request(r#"{"contents":[{}],"topP":1e999}"#),
            "not valid JSON at column 50: number out of range",
        ),
        (with_request(&"[".repeat(9)), "not valid JSON at column 31: expected value"),
        // The key.
        ("{}".into(), r#""key" is missing"#),
        (format!(r#"{{"request":{GOOD}}}"#), r#""key" is missing"#),
        (with_key("5"), KEY),
        (with_key("null"), KEY),
        (with_key("[\"k\"]"), KEY),
        (with_key("\"\""), KEY),
        (with_key(r#""a\nb""#), KEY),
        (with_key(r#""a\u007fb""#), KEY),
        (with_key(r#""\udc00""#), KEY),
        (with_key(&format!("{:?}", "x".repeat(513))), KEY),
        (with_key(&format!("{:?}", "é".repeat(257))), KEY),
        // The request.
        (r#"{"key":"k"}"#.into(), r#""request" is missing"#),
        (with_request("null"), REQUEST),
        (with_request("[]"), REQUEST),
        (with_request("\"hi\""), REQUEST),
        (with_request("{}"), CONTENTS),
        (with_request(r#"{"contents":[]}"#), CONTENTS),
        (with_request(r#"{"contents":null}"#), CONTENTS),
        (with_request(r#"{"contents":{}}"#), CONTENTS),
        (with_request(r#"{"contents":[{}]}"#), CONTENTS),
        (with_request(r#"{"contents":"hi"}"#), CONTENTS),
        (with_request(r#"{"content":{}}"#), CONTENTS),
        (with_request(r#"{"contents":[],"content":{"parts":[{"text":"embed"}]}}"#), CONTENTS),
        (with_request(r#"{"requests":[{"content":{"parts":[{"text":"embed"}]}}]}"#), CONTENTS),
        // Twice the same.
        (r#"{"key":"k","key":"k"}"#.into(), r#"duplicate field "key""#),
        (r#"{"key":"k","request":{},"request":{}}"#.into(), r#"duplicate field "request""#),
        (with_request(r#"{"contents":[{"x":1}],"contents":[]}"#), r#"duplicate field "contents""#),
        (
            with_request(r#"{"generationConfig":{},"generation_config":{}}"#),
            r#"duplicate field "generationConfig""#,
        ),
        (
            with_request(r#"{"contents":{"parts":{"inlineData":{"data":"","data":""}}}}"#),
            r#"duplicate field "data""#,
        ),
        // Something else than an item.
        (r#"{"custom_id":"a","method":"POST","url":"/v1","body":{}}"#.into(), OPENAI),
        (r#"{"key":"k","body":{}}"#.into(), OPENAI),
        (r#"{"tidegate":{"model":"m"}}"#.into(), OPTIONS),
        (format!(r#"{{"key":"k","request":{GOOD},"tidegate":{{}}}}"#), OPTIONS),
    ];
    for (line, expected) in table {
        assert_eq!(reason(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_placed() {
    let place = |line: &[u8]| parse_line(Dialect::Text, 1, line).unwrap_err();
    assert_eq!(place(b"ab\xffcd"), LineError::NotUtf8 { byte: 3 });
    assert_eq!(place(b"\xef\xbb\xbfab\xff"), LineError::NotUtf8 { byte: 6 });
    assert_eq!(place(b"\xff\xfeh\x00i\x00"), LineError::NotUtf8 { byte: 1 });
    assert_eq!(reason(b"{\"key\":\"\xc3\"}"), "not valid UTF-8 at byte 9 of the line");
}

#[test]
fn nesting_has_its_limit() {
    // Besides these, the line, the request, the list of contents and the content are levels.
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"key":"k","request":{{"contents":[{{"parts":{open}"x"{close}}}]}}}}"#)
    };
    assert_eq!(item(&nested(124)).footprint.text_bytes, 1);
    let refused = parse_line(JSONL, 1, nested(125).as_bytes()).unwrap_err();
    assert_eq!(refused, LineError::TooDeep { column: 168 });
    assert_eq!(refused.to_string(), "nested deeper than 128 levels at column 168");
    // Where nothing is counted, it holds as well; deep extras are passed over.
    let config = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let line = format!(r#"{{"key":"k","request":{{"contents":[{{"a":1}}],"config":{config}}}}}"#);
    assert!(matches!(parse_line(JSONL, 1, line.as_bytes()), Err(LineError::TooDeep { .. })));
    let line = format!(r#"{{"extra":{config},"key":"k","request":{{"contents":[{{"a":1}}]}}}}"#);
    assert_eq!(item(&line).key, "k");
}

#[test]
fn no_error_quotes_the_prompt() {
    let good = format!(
        r#"{{"key":"{CANARY}","request":{{"contents":[{{"parts":[{{"text":"{CANARY}"}}]}}]}}}}"#
    );
    let mut errors = 0;
    let mut look = |message: String| {
        errors += 1;
        assert!(!message.contains(CANARY), "{message}");
    };
    let mut look_at = |line: &[u8]| {
        if let Err(error) = parse_line(JSONL, 2, line) {
            look(format!("{error} {error:?}"));
        }
        if let Err(error) = parse_line(Dialect::OpenAiJsonl, 2, line) {
            look(format!("{error} {error:?}"));
        }
        if let Err(error) = request_body(JSONL, line) {
            look(format!("{error} {error:?}"));
        }
        if let Err(error) = options_line(line) {
            look(format!("{error} {error:?}"));
        }
        if let Err(error) = response_line("k", line) {
            look(format!("{error} {error:?}"));
        }
    };
    for cut in 0..good.len() {
        look_at(&good.as_bytes()[..cut]);
        for wrong in [b'\n', b'"', b'{', b'}', b'x', b'\\', 0xff] {
            let mut line = good.clone().into_bytes();
            line[cut] = wrong;
            look_at(&line);
            line.insert(cut, b'"');
            look_at(&line);
        }
    }
    let quoted = format!("{CANARY:?}");
    for line in [
        quoted.clone(),
        format!(r#"{{"key":[{quoted}],"request":{quoted}}}"#),
        format!(r#"{{"key":"k","request":{quoted}}}"#),
        format!(r#"{{"key":"k","request":{{"contents":{quoted}}}}}"#),
        format!(r#"{{"key":"k","request":{{{quoted}:{quoted}}}}}"#),
        format!(r#"{{"custom_id":{quoted},"body":{{"messages":[{quoted}]}}}}"#),
        format!(r#"{{"tidegate":{quoted}}}"#),
        format!(r#"{{"tidegate":{{"model":"{CANARY} x"}}}}"#),
        format!(r#"{{"tidegate":{{}},"key":{quoted}}}"#),
    ] {
        look_at(line.as_bytes());
    }
    assert!(errors > 1_000, "{errors}");
}
