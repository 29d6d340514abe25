#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bad_lines;
mod cuts;
mod footprints;
mod job_options;
mod openai;
mod properties;
mod shapes;
mod templates;

use super::*;

const JSONL: Dialect = Dialect::GeminiJsonl;

fn item(line: &str) -> Line {
    parse_line(JSONL, 1, line.as_bytes()).unwrap().unwrap()
}

/// Records of files without a template.
fn parse_line(dialect: Dialect, number: u64, line: &[u8]) -> Result<Option<Line>, LineError> {
    super::parse_line(dialect, None, number, line)
}

fn key_of(dialect: Dialect, number: u64, line: &[u8]) -> String {
    super::key_of(dialect, None, number, line)
}

fn request_body(dialect: Dialect, line: &[u8]) -> Result<Vec<u8>, LineError> {
    super::request_body(dialect, None, Wire::Gemini, "m", line).map(|request| request.body)
}

#[test]
fn families_and_packings_are_recognised_by_the_suffix() {
    for (name, stem, family, packing) in [
        ("jobs.jsonl", "jobs", Family::Jsonl, Packing::Plain),
        ("a.b c.JSONL", "a.b c", Family::Jsonl, Packing::Plain),
        ("a.ndjson", "a", Family::Jsonl, Packing::Plain),
        ("a.json", "a", Family::Json, Packing::Plain),
        ("prompts.txt", "prompts", Family::Text, Packing::Plain),
        ("a.jsonl.csv", "a.jsonl", Family::Csv, Packing::Plain),
        ("a.jsonl.gz", "a", Family::Jsonl, Packing::Gzip),
        ("a.Csv.ZST", "a", Family::Csv, Packing::Zstd),
        ("a.gz.txt", "a.gz", Family::Text, Packing::Plain),
        ("a.txt.gz.gz.json.gz", "a.txt.gz.gz", Family::Json, Packing::Gzip),
    ] {
        assert_eq!(recognise(name), Ok(FileName { stem, family, packing }), "{name}");
    }
    let long = format!("{}.txt.zst", "é".repeat(100));
    assert_eq!(recognise(&long).unwrap().family, Family::Text);
    let all: Vec<_> = suffixes().collect();
    assert_eq!(all.len(), 15);
    for suffix in all {
        assert_eq!(recognise(&format!("a{suffix}")).unwrap().stem, "a", "{suffix}");
    }
}

#[test]
fn words_survive_the_database() {
    for dialect in [Dialect::GeminiJsonl, Dialect::OpenAiJsonl, Dialect::Text, Dialect::Csv] {
        assert_eq!(dialect.as_str().parse(), Ok(dialect));
    }
    let unknown = "xml".parse::<Dialect>().unwrap_err();
    let words = r#"must be one of "gemini-jsonl", "openai-jsonl", "text", "csv""#;
    assert_eq!(unknown.to_string(), words);
    assert_eq!(Family::Json.dialect(), None);
    assert_eq!(Family::Csv.dialect(), Some(Dialect::Csv));
}

#[test]
fn other_files_are_refused_with_what_is_accepted() {
    for (name, found) in [
        ("a.xlsx", ".xlsx files are"),
        ("a.jsonl.zip", ".zip files are"),
        ("a.gz", ".gz files are"),
        ("a.tar.gz", ".tar.gz files are"),
        ("a.txt.gz.zst", ".gz.zst files are"),
        ("a.tidegate.toml", ".toml files are"),
        ("a.", "a file without a suffix is"),
        ("jsonl", "a file without a suffix is"),
        ("", "a file without a suffix is"),
        ("a.x\ny", ".x\\ny files are"),
    ] {
        let message = recognise(name).unwrap_err().to_string();
        let expected = format!("{found} not accepted; accepted are .jsonl and .json (requests ");
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(".txt (a prompt a line)"), "{message}");
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
        error_line("1", 400, "INVALID_ARGUMENT", "two\nlines", None),
        b"{\"key\":\"1\",\"error\":{\"code\":400,\"message\":\"two\\nlines\",\
          \"status\":\"INVALID_ARGUMENT\"}}\n"
    );
    let details = serde_json::value::RawValue::from_string("[ {\"@type\":\n \"a b\"} ]".into());
    assert_eq!(
        error_line("k", 429, "RESOURCE_EXHAUSTED", "", Some(&details.unwrap())),
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

#[test]
fn the_sample_files_of_the_other_dialects_are_good() {
    let openai = include_bytes!("../../examples/sample-openai.jsonl");
    let lines: Vec<_> = openai.split_inclusive(|&byte| byte == b'\n').collect();
    assert_eq!(dialect_of(Family::Jsonl, lines[0]), Dialect::OpenAiJsonl);
    for (line, key) in lines.iter().zip(["rivers", "brief", "verse", "picture"]) {
        let found = parse_line(Dialect::OpenAiJsonl, 1, line).unwrap().unwrap();
        assert_eq!(found.key, key);
        assert_eq!(found.footprint.media_tokens > 0, key == "picture");
    }
    assert_eq!(lines.len(), 4);

    let options = sidecar(include_str!("../../examples/sample.csv.tidegate.toml")).unwrap();
    let rows = include_str!("../../examples/sample.csv");
    let (first, rest) = rows.split_once('\n').unwrap();
    let columns = header(first.as_bytes()).unwrap();
    let template = Template::compile(options.template.as_deref(), &columns).unwrap();
    let gate = rest.lines().nth(1).unwrap();
    let sent =
        super::request_body(Dialect::Csv, Some(&template), Wire::OpenAi, "m", gate.as_bytes());
    assert_eq!(
        String::from_utf8(sent.unwrap().body).unwrap(),
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\
         \"Answer in German: What does a tide gate do?\"}]}"
    );
}
