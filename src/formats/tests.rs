#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bad_lines;
mod footprints;
mod job_options;
mod properties;

use super::*;

const JSONL: Dialect = Dialect::GeminiJsonl;

fn parse_line(dialect: Dialect, number: u64, line: &[u8]) -> Result<Option<Line>, LineError> {
    Form::of(dialect).parse_line(number, line)
}

fn key_of(dialect: Dialect, number: u64, line: &[u8]) -> String {
    Form::of(dialect).key_of(number, line)
}

fn request_body(dialect: Dialect, line: &[u8]) -> Result<Vec<u8>, LineError> {
    Ok(Form::of(dialect).request("gemini-3.6-flash", line)?.body)
}

fn response_line(key: &str, body: &[u8]) -> Result<Vec<u8>, LineError> {
    let ending = Ending::Answered { body, request_id: Some("req-1") };
    result_line(Answers::Gemini, key, "w_1", ending)
}

fn error_line(key: &str, code: u16, word: &str, message: &str) -> Vec<u8> {
    let ending = Ending::Fault { code, word, message, refusal: None };
    result_line(Answers::Gemini, key, "w_1", ending).unwrap()
}

fn item(line: &str) -> Line {
    parse_line(JSONL, 1, line.as_bytes()).unwrap().unwrap()
}

#[test]
fn a_name_says_how_a_file_is_cut_and_packed() {
    let known = |name: &'static str| {
        let FileName { stem, family, packing } = recognise(name).unwrap();
        (stem, family, packing)
    };
    assert_eq!(known("jobs.jsonl"), ("jobs", Family::Jsonl, Packing::Plain));
    assert_eq!(known("jobs.ndjson.GZ"), ("jobs", Family::Jsonl, Packing::Gzip));
    assert_eq!(known("a.b c.JSONL"), ("a.b c", Family::Jsonl, Packing::Plain));
    assert_eq!(known("prompts.txt.zst"), ("prompts", Family::Text, Packing::Zstd));
    assert_eq!(known("rows.Csv"), ("rows", Family::Csv, Packing::Plain));
    assert_eq!(known("one.json.gz"), ("one", Family::Json, Packing::Gzip));
    assert_eq!(known("a.txt.txt"), ("a.txt", Family::Text, Packing::Plain));
    assert_eq!(recognise(&format!("{}.txt", "é".repeat(100))).unwrap().family, Family::Text);
}

#[test]
fn a_dialect_survives_the_database() {
    for dialect in [
        Dialect::GeminiJsonl,
        Dialect::OpenAiJsonl,
        Dialect::GeminiRequests,
        Dialect::Text,
        Dialect::Csv,
    ] {
        assert_eq!(dialect.as_str().parse(), Ok(dialect));
    }
    let unknown = "xml".parse::<Dialect>().unwrap_err();
    assert!(unknown.to_string().starts_with(r#"must be one of "gemini-jsonl", "#));
}

#[test]
fn other_files_are_refused_with_what_is_accepted() {
    for (name, found) in [
        ("a.xml", ".xml files are"),
        ("a.gz", "a file without a suffix is"),
        ("a.jsonl.gz.gz", ".gz files are"),
        ("a.jsonl.bz2", ".bz2 files are"),
        ("a.tidegate.toml", ".toml files are"),
        ("a.", "a file without a suffix is"),
        ("jsonl", "a file without a suffix is"),
        ("", "a file without a suffix is"),
        ("a.x\ny", ".x\\ny files are"),
    ] {
        let message = recognise(name).unwrap_err().to_string();
        let expected =
            format!("{found} not accepted; accepted are .jsonl (Gemini or OpenAI batch)");
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(".txt (one prompt a line)"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn names_that_cannot_name_results_are_refused() {
    for (name, problem) in [
        (".jsonl".to_owned(), "is empty"),
        (".hidden.jsonl".to_owned(), "starts with a dot"),
        ("a/b.txt".to_owned(), "has a slash or a control character in it"),
        ("a\nb.txt".to_owned(), "has a slash or a control character in it"),
        (format!("{}.txt", "x".repeat(201)), "is longer than 200 bytes"),
    ] {
        let message = recognise(&name).unwrap_err().to_string();
        assert_eq!(message, format!("the file's name {problem}"));
    }
}

#[test]
fn blank_lines_are_no_items() {
    for blank in ["", "\n", "\r\n", "  \t \n", "\u{feff}", "\u{feff}\r\n", "\r", "\n\n"] {
        for dialect in [JSONL, Dialect::Text] {
            assert_eq!(parse_line(dialect, 3, blank.as_bytes()), Ok(None), "{blank:?}");
            assert_eq!(request_body(dialect, blank.as_bytes()), Err(LineError::Blank));
        }
        assert_eq!(options_line(blank.as_bytes()), Ok(None));
    }
}

#[test]
fn a_jsonl_line_gives_its_key_and_the_very_bytes_of_its_request() {
    let request = r#"{ "contents" : [{"parts":[{"text":"h\u00e9 \/"}]}], "x": 1.50e+1 }"#;
    for (before, after) in [
        (r#"{"key":"k-1","request":"#, "}"),
        (r#"{"key":"k-1","request":"#, "}\n"),
        (r#" { "key" : "k-1" , "request" : "#, " } \r\n"),
        ("\u{feff}{\"key\":\"k-1\",\"request\":", "}\r\n"),
        (
            r#"{"custom_id":"c","status":"","tags":[1,{"a":2}],"\u006bey":"\u006b-1","request":"#,
            "}",
        ),
    ] {
        let line = format!("{before}{request}{after}");
        assert_eq!(item(&line).key, "k-1", "{line}");
        assert_eq!(key_of(JSONL, 1, line.as_bytes()), "k-1");
        assert_eq!(request_body(JSONL, line.as_bytes()).unwrap(), request.as_bytes());
    }
}

#[test]
fn a_text_line_is_a_prompt_with_its_number_as_key() {
    let line = "\u{feff} say \"hi\"\\ \u{1f30a} \r\n".as_bytes();
    let parsed = parse_line(Dialect::Text, 7, line).unwrap().unwrap();
    assert_eq!(parsed.key, "7");
    assert_eq!(parsed.footprint.text_bytes, 16);
    assert_eq!(key_of(Dialect::Text, 7, line), "7");
    assert_eq!(
        String::from_utf8(request_body(Dialect::Text, line).unwrap()).unwrap(),
        "{\"contents\":[{\"role\":\"user\",\"parts\":\
         [{\"text\":\" say \\\"hi\\\"\\\\ \u{1f30a} \"}]}]}"
    );
}

#[test]
fn a_text_line_may_look_like_anything() {
    for line in ["{", r#"{"key":"k"}"#, "null", "\u{0}", "\u{2028}"] {
        let parsed = parse_line(Dialect::Text, 2, line.as_bytes()).unwrap().unwrap();
        assert_eq!(parsed.key, "2");
    }
}

#[test]
fn a_bad_line_is_answered_under_its_key_if_that_can_be_read() {
    let key = |line: &str| key_of(JSONL, 12, line.as_bytes());
    assert_eq!(key(r#"{"key":"k","request":[]}"#), "k");
    assert_eq!(key(r#"{"key":"k"}"#), "k");
    assert_eq!(key(r#"{"key":5,"request":{}}"#), "12");
    assert_eq!(key(r#"{"key":"k","key":"l"}"#), "12");
    assert_eq!(key(r#"{"key":"k","#), "12");
    assert_eq!(key_of(JSONL, 12, b"\xff"), "12");
}

#[test]
fn an_answer_becomes_one_line_with_numbers_and_order_kept() {
    let pretty = b"\r\n{\n  \"z\": [ 1.50, 1E2,\t-0.0, 12345678901234567890123 ],\r\n  \
        \"a\": { },\n  \"t\": \"two  spaces, a \\\" { \\n \\\\\"\n}\n";
    let line = response_line("k \"1\"", pretty).unwrap();
    assert_eq!(
        String::from_utf8(line).unwrap(),
        "{\"key\":\"k \\\"1\\\"\",\"response\":{\"z\":[1.50,1E2,-0.0,12345678901234567890123],\
         \"a\":{},\"t\":\"two  spaces, a \\\" { \\n \\\\\"}}\n"
    );
}

#[test]
fn what_is_no_answer_is_refused() {
    for (response, reason) in [
        (&b""[..], "not valid JSON at column 1: EOF while parsing a value"),
        (b"{}{}", "not valid JSON at column 3: trailing characters"),
        (
            b"{\"a\":\"b\nc\"}",
            "not valid JSON at column 7: control character \
            (\\u0000-\\u001F) found while parsing a string",
        ),
        (b"\"\xff\"", "not valid UTF-8 at byte 2 of the line"),
        (b"<html>", "not valid JSON at column 1: expected value"),
    ] {
        assert_eq!(response_line("k", response).unwrap_err().to_string(), reason);
    }
}

#[test]
fn an_error_becomes_one_line() {
    assert_eq!(
        error_line("1", 400, "INVALID_ARGUMENT", "two\nlines"),
        b"{\"key\":\"1\",\"error\":{\"code\":400,\"message\":\"two\\nlines\",\
          \"status\":\"INVALID_ARGUMENT\"}}\n"
    );
    let refusal =
        Some(&b"{\"error\": {\"code\": 429, \"details\": [ {\"@type\":\n \"a b\"} ]}}"[..]);
    let fault = Ending::Fault { code: 429, word: "RESOURCE_EXHAUSTED", message: "", refusal };
    assert_eq!(
        result_line(Answers::Gemini, "k", "w_1", fault).unwrap(),
        b"{\"key\":\"k\",\"error\":{\"code\":429,\"message\":\"\",\
          \"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"@type\":\"a b\"}]}}\n"
    );
}

#[test]
fn the_sample_files_are_good() {
    let jsonl = include_bytes!("../../examples/sample.jsonl");
    let mut lines = jsonl.split_inclusive(|&byte| byte == b'\n');
    let options = options_line(lines.next().unwrap()).unwrap().unwrap();
    assert_eq!(options.model.as_deref(), Some("gemini-3.1-flash-lite"));
    let items: Vec<_> = lines
        .zip(2..)
        .filter_map(|(line, number)| parse_line(JSONL, number, line).unwrap())
        .collect();
    assert_eq!(items.len(), 10);
    assert!(items.iter().any(|item| item.footprint.media_tokens > 0));
    assert!(!items.iter().any(|item| item.footprint.unmeasured));
    let mut keys: Vec<_> = items.iter().map(|item| &item.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);

    let text = include_bytes!("../../examples/sample.txt");
    let keys: Vec<_> = text
        .split_inclusive(|&byte| byte == b'\n')
        .zip(1..)
        .filter_map(|(line, number)| parse_line(Dialect::Text, number, line).unwrap())
        .map(|item| item.key)
        .collect();
    assert_eq!(keys, ["1", "2", "3", "5", "6"]);
}
