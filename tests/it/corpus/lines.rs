//! Lines and lists of JSON, and lines of text.

use super::{Case, answered, answered_in_part, bad, openai, rejected, second};
use crate::harness::item;

/// What makes a good line bad.
type Change = fn(&mut serde_json::Value);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = bad_second_lines();
    cases.extend(whole_files());
    cases.extend(encodings());
    cases.extend(lists());
    cases.extend(dialects());
    cases
}

fn nested(levels: usize) -> String {
    let (open, close) = ("[".repeat(levels), "]".repeat(levels));
    format!(
        r#"{{"key":"b","request":{{"contents":[{{"parts":[{{"text":"x"}}]}}],"x":{open}{close}}}}}"#
    )
}

/// What may be wrong with one line of a file that is otherwise good.
fn bad_second_lines() -> Vec<Case> {
    let contents = r#""contents":[{"parts":[{"text":"x"}]}]"#;
    let long_key = item(&"k".repeat(513), "x");
    let faults: Vec<(&str, String, &'static str)> = vec![
        (
            "comma-behind",
            format!(r#"{{"key":"b","request":{{{contents},}}}}"#),
            "key must be a string",
        ),
        ("comma-missing", r#"{"key":"b" "request":{}}"#.into(), "not valid JSON at column 12"),
        ("colon-missing", r#"{"key" "b"}"#.into(), "not valid JSON at column 8"),
        ("cut-off", r#"{"key":"b","request":{"contents":[{"#.into(), "not valid JSON"),
        ("string-open", r#"{"key":"b"#.into(), "not valid JSON"),
        ("bracket-wrong", format!(r#"{{"key":"b","request":{{{contents}]}}"#), "not valid JSON"),
        ("comment", format!(r#"{{"key":"b",/*c*/"request":{{{contents}}}}}"#), "not valid JSON"),
        ("hash", "# a comment".into(), "not a JSON object"),
        ("quotes-single", "{'key':'b'}".into(), "not valid JSON"),
        ("unquoted", "{key:1}".into(), "not valid JSON"),
        ("python", format!(r#"{{"key":"b","request":{{{contents},"x":None}}}}"#), "not valid JSON"),
        ("nan", format!(r#"{{"key":"b","request":{{{contents},"x":NaN}}}}"#), "not valid JSON"),
        ("infinite", format!(r#"{{"key":"b","request":{{{contents},"x":1e999}}}}"#), "number"),
        ("zero-first", format!(r#"{{"key":"b","request":{{{contents},"x":01}}}}"#), "not valid"),
        ("tab-in-text", item("b", "x").replace('x', "\t"), "not valid JSON"),
        ("nul-in-text", item("b", "x").replace('x', "\0"), "not valid JSON"),
        ("escape-unknown", item("b", "x").replace('x', "\\q"), "not valid JSON"),
        ("surrogate-alone", item("b", "x").replace('x', "\\ud800"), "not valid JSON"),
        ("two-in-line", format!("{} {}", item("b", "x"), item("c", "y")), "not valid JSON"),
        ("list", "[]".into(), "not a JSON object"),
        ("string", r#""text""#.into(), "not a JSON object"),
        ("null", "null".into(), "not a JSON object"),
        ("prose", "Name three rivers.".into(), "not a JSON object"),
        ("deep", nested(200), "nested deeper than 128 levels"),
        ("very-deep", nested(200_000), "nested deeper than 128 levels"),
        ("empty-object", "{}".into(), "\"key\" is missing"),
        ("key-number", r#"{"key":7,"request":{}}"#.into(), "\"key\" must be a string of 1 to 512"),
        ("key-null", r#"{"key":null,"request":{}}"#.into(), "\"key\" must be a string"),
        ("key-empty", r#"{"key":"","request":{}}"#.into(), "\"key\" must be a string"),
        ("key-list", r#"{"key":["a"],"request":{}}"#.into(), "\"key\" must be a string"),
        ("key-long", long_key, "\"key\" must be a string of 1 to 512"),
        ("key-control", r#"{"key":"a\nb","request":{}}"#.into(), "\"key\" must be a string"),
        ("key-surrogate", r#"{"key":"\udc00","request":{}}"#.into(), "\"key\" must be a string"),
        ("key-twice", r#"{"key":"b","key":"c","request":{}}"#.into(), "duplicate field \"key\""),
        ("request-none", r#"{"key":"b"}"#.into(), "\"request\" is missing"),
        ("request-text", r#"{"key":"b","request":"x"}"#.into(), "\"request\" must be an object"),
        ("request-list", r#"{"key":"b","request":[]}"#.into(), "\"request\" must be an object"),
        ("request-null", r#"{"key":"b","request":null}"#.into(), "\"request\" must be an object"),
        ("request-empty", r#"{"key":"b","request":{}}"#.into(), "missing or empty"),
        ("contents-empty", r#"{"key":"b","request":{"contents":[]}}"#.into(), "missing or empty"),
        ("contents-text", r#"{"key":"b","request":{"contents":"x"}}"#.into(), "missing or empty"),
        (
            "contents-twice",
            format!(r#"{{"key":"b","request":{{{contents},{contents}}}}}"#),
            "duplicate field \"contents\"",
        ),
        (
            "spelt-twice",
            format!(
                r#"{{"key":"b","request":{{{contents},"generationConfig":{{}},"generation_config":{{}}}}}}"#
            ),
            "duplicate field \"generationConfig\"",
        ),
        (
            "model-other",
            format!(
                r#"{{"key":"b","request":{{"model":"models/other","contents":[1],{}}}}}"#,
                r#""x":1"#
            ),
            "names another model than the batch has",
        ),
        (
            "options-late",
            r#"{"tidegate":{}}"#.into(),
            "options are accepted on the first line only",
        ),
        ("key-repeated", item("good", "another"), "the key is that of line 1"),
        ("key-escaped", item("goo", "x").replace("goo", r"goo\u0064"), "the key is that of line 1"),
        ("dialect-other", openai("b", "x"), "a line of the OpenAI batch dialect"),
    ];
    let line = |(name, line, reason): (&str, String, &'static str)| {
        bad(&format!("{name}.jsonl"), second(line), &[(2, reason)])
    };
    faults.into_iter().map(line).collect()
}

fn whole_files() -> Vec<Case> {
    let long = [b"{\"key\":\"".to_vec(), vec![b'x'; 41 << 20]].concat();
    let pretty = "{\n  \"key\": \"a\",\n  \"request\": {}\n}\n";
    let skip = |rest: &str| format!("{{\"tidegate\":{{\"on_bad_line\":\"skip\"}}}}\n{rest}");
    vec![
        rejected("nothing.jsonl", "", "there is no prompt in it"),
        rejected("newlines.ndjson", "\n\n\r\n \t\n", "there is no prompt in it"),
        rejected("options-alone.jsonl", "{\"tidegate\":{}}", "there is no prompt in it"),
        rejected("mark-alone.txt", b"\xef\xbb\xbf", "there is no prompt in it"),
        bad("too-long.jsonl", long, &[(1, "bytes; at most 41943040 are taken")]),
        bad(
            "pretty.jsonl",
            pretty,
            &[(1, "not valid JSON"), (2, "not a JSON"), (3, "not a JSON"), (4, "not a JSON")],
        ),
        answered("unended.jsonl", item("a", "no newline"), &[("a", "no newline")]),
        answered("gaps.jsonl", second("\n\n \r\n"), &[("good", "a good prompt")]),
        answered_in_part(
            "skips.jsonl",
            skip(&format!("{{\n{}\n{{\"key\":\"b\"}}", item("a", "one"))),
            &[("2", Err("not valid JSON")), ("a", Ok("one")), ("b", Err("\"request\" is missing"))],
        ),
    ]
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

fn encodings() -> Vec<Case> {
    let lines = format!("{}\n{}\n", item("a", "one"), item("b", "two"));
    let marked = format!("\u{feff}{}\n\u{feff}{}\n", item("a", "one"), item("b", "two"));
    let both = [("a", "one"), ("b", "two")];
    let little = utf16(&format!("\u{feff}{}", item("a", "x")), u16::to_le_bytes);
    let big = utf16(&format!("\u{feff}{}", item("a", "x")), u16::to_be_bytes);
    vec![
        answered("crlf.jsonl", lines.replace('\n', "\r\n"), &both),
        answered("mark.jsonl", marked, &both),
        answered("crlf.txt.x.txt", "one\r\ntwo\r\n", &[("1", "one"), ("2", "two")]),
        answered(
            "odd-text.txt",
            "a \"b\" \\ {{c}}\n\n\u{2028}😀",
            &[("1", "a \"b\" \\ {{c}}"), ("3", "\u{2028}😀")],
        ),
        bad("cr-alone.jsonl", lines.replace('\n', "\r"), &[(1, "not valid JSON")]),
        bad("utf16le.jsonl", little.clone(), &[(1, "not valid UTF-8 at byte 1 of the line")]),
        bad("utf16be.jsonl", big, &[(1, "not valid UTF-8 at byte 1 of the line")]),
        bad("utf16.txt", little, &[(1, "not valid UTF-8 at byte 1 of the line")]),
        bad("latin1.txt", b"good\ncaf\xe9\n", &[(2, "not valid UTF-8 at byte 4 of the line")]),
        bad("overlong.txt", b"\xc0\xaf\n", &[(1, "not valid UTF-8 at byte 1")]),
        bad("surrogate.txt", b"\xed\xa0\x80\n", &[(1, "not valid UTF-8 at byte 1")]),
        bad("nuls.jsonl", vec![0; 4096], &[(1, "not a JSON object")]),
        bad("binary.jsonl", b"\x7fELF\x02\x01\x01\0\xff\xfe", &[(1, "not valid UTF-8 at byte 9")]),
    ]
}

fn lists() -> Vec<Case> {
    let (one, two) = (item("a", "one"), item("b", "two"));
    let bare = r#"{"contents":[{"parts":[{"text":"bare"}]}]}"#;
    let inline = |list: &str| {
        format!(r#"{{"batch":{{"input_config":{{"requests":{{"requests":{list}}}}}}}}}"#)
    };
    let both = [("a", "one"), ("b", "two")];
    vec![
        answered("list-good.json", format!("[{one},\n {two}]"), &both),
        answered("alone.json", bare, &[("1", "bare")]),
        answered("inline.json", inline(&format!("[{one},{two}]")), &both),
        rejected("inline-empty.json", inline("[]"), "there is no prompt in it"),
        rejected("list-empty.json", "[]", "there is no prompt in it"),
        rejected("blank.json", " \n", "there is no prompt in it"),
        bad("list-cut.json", format!("[{one},{two}"), &[(3, "the list does not end")]),
        bad("element-cut.json", format!("[{one},{{\"key\":\"b\",\"req"), &[(2, "does not end")]),
        bad("list-comma.json", format!("[{one},]"), &[(2, "the list ends with a comma")]),
        bad("comma-first.json", format!("[,{one}]"), &[(1, "missing before a comma")]),
        bad("commas.json", format!("[{one},,{two}]"), &[(2, "missing before a comma")]),
        bad("no-comma.json", format!("[{one} {two}]"), &[(2, "a comma is missing")]),
        bad("behind.json", format!("[{one}] x"), &[(2, "more follows behind the end")]),
        bad("lines.json", format!("{one}\n{two}\n"), &[(2, "more follows behind the end")]),
        bad("object-cut.json", &one[..20], &[(1, "not valid JSON")]),
        bad("whole-number.json", "7", &[(1, "one request object or a list")]),
        bad("whole-null.json", "null", &[(1, "one request object or a list")]),
        bad("strings.json", r#"["a","b"]"#, &[(1, "not a JSON object"), (2, "not a JSON object")]),
        bad("lists.json", format!("[[{one}]]"), &[(1, "not a JSON object")]),
        bad("options-late.x.json", format!("[{one},{{\"tidegate\":{{}}}}]"), &[(2, "first line")]),
        bad("openers.json", "[".repeat(100_000), &[(1, "the list does not end")]),
    ]
}

fn dialects() -> Vec<Case> {
    let good = openai("good", "a good prompt");
    let chat = |change: fn(&mut serde_json::Value)| {
        let mut line: serde_json::Value = serde_json::from_str(&openai("b", "x")).unwrap();
        change(&mut line);
        format!("{good}\n{line}\n")
    };
    let faults: [(&str, Change, &'static str); 13] = [
        ("id-none", |line| drop(line.as_object_mut().unwrap().remove("custom_id")), "is missing"),
        ("id-number", |line| line["custom_id"] = 7.into(), "\"custom_id\" must be a string"),
        ("id-twice", |line| line["custom_id"] = "good".into(), "the key is that of line 1"),
        ("method-get", |line| line["method"] = "GET".into(), "\"method\" must be \"POST\""),
        ("method-none", |line| line["method"] = ().into(), "\"method\" must be \"POST\""),
        ("url-old", |line| line["url"] = "/v1/completions".into(), "\"url\" must be"),
        ("url-far", |line| line["url"] = "https://x/v1/embeddings".into(), "\"url\" must be"),
        ("body-text", |line| line["body"] = "x".into(), "\"body\" must be an object"),
        ("stream", |line| line["body"]["stream"] = true.into(), "\"stream\" must not be true"),
        ("model-none", |line| line["body"]["model"] = ().into(), "must be a model's id"),
        ("model-far", |line| line["body"]["model"] = "other".into(), "names another model"),
        ("messages", |line| line["body"]["messages"] = [(); 0].as_slice().into(), "or empty"),
        ("input", |line| line["url"] = "/v1/embeddings".into(), "\"input\" of the body is missing"),
    ];
    let mut cases: Vec<_> = faults
        .into_iter()
        .map(|(name, change, why)| bad(&format!("openai-{name}.jsonl"), chat(change), &[(2, why)]))
        .collect();
    let mixed = format!("{good}\n{}\n", item("b", "x"));
    cases.push(bad("openai-mixed.jsonl", mixed, &[(2, "a line of the Gemini batch dialect")]));
    cases.push(answered("openai.jsonl", good, &[("good", "a good prompt")]));
    cases
}
