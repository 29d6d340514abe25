//! Templates, headers and rows.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const CSV: Dialect = Dialect::Csv;

fn names(header: &str) -> Vec<String> {
    super::super::header(header.as_bytes()).unwrap()
}

fn compile(source: Option<&str>, header: &str) -> Result<Template, TemplateError> {
    Template::compile(source, &names(header))
}

fn row(template: &Template, number: u64, row: &str) -> Result<(String, String), LineError> {
    let line = super::super::parse_line(CSV, Some(template), number, row.as_bytes())?.unwrap();
    assert_eq!(line.method, None);
    let key = super::super::key_of(CSV, Some(template), number, row.as_bytes());
    assert_eq!(key, line.key);
    let prompt = prompt_of(CSV, template, row);
    assert_eq!(line.footprint, Footprint::of_text(&prompt));
    Ok((line.key, prompt))
}

/// The prompt as both kinds of project are asked it.
fn prompt_of(dialect: Dialect, template: &Template, record: &str) -> String {
    let ask = |wire| {
        let sent =
            super::super::request_body(dialect, Some(template), wire, "m", record.as_bytes());
        let request = sent.unwrap();
        (request.method, serde_json::from_slice::<Value>(&request.body).unwrap())
    };
    let (method, body) = ask(Wire::Gemini);
    assert_eq!(method, Method::Generate);
    let prompt = body["contents"][0]["parts"][0]["text"].as_str().unwrap().to_owned();
    let (method, body) = ask(Wire::OpenAi);
    assert_eq!((method, body["model"].as_str()), (Method::Chat, Some("m")));
    assert_eq!(body["messages"][0]["content"].as_str(), Some(prompt.as_str()));
    prompt
}

#[test]
fn rows_become_prompts() {
    let template = compile(Some("Is \"{{ Text }}\" {{kind}}? {{text}}!"), "id,text,kind").unwrap();
    let found = row(&template, 3, "r1,\"a, \"\"b\"\"\nc\",{{id}}");
    let prompt = "Is \"a, \"b\"\nc\" {{id}}? a, \"b\"\nc!";
    assert_eq!(found, Ok(("r1".to_owned(), prompt.to_owned())));
    for (header, line, key, prompt) in [
        ("prompt", "hello there", "7", "hello there"),
        ("anything", "\"hello, there\"", "7", "hello, there"),
        ("custom_id,question", "c1,why", "c1", "why"),
        ("a,Prompt,b", "1,why,2", "7", "why"),
        ("id,custom_id,key,text", "1,2,3,why", "3", "why"),
        ("custom_id,id,text", "1,2,why", "2", "why"),
        ("id", "why", "7", "why"),
        ("\u{feff}\"key\", \"text\" ", "k,why", "k", "why"),
    ] {
        let template = compile(None, header).unwrap();
        assert_eq!(row(&template, 7, line), Ok((key.to_owned(), prompt.to_owned())), "{header}");
    }
}

#[test]
fn a_template_that_does_not_fit_says_what_to_do() {
    for (source, header, expected) in [
        (
            Some("{{txet}}"),
            "id,text",
            r#"the template names the column "txet", did you mean "text"?"#,
        ),
        (Some("{{text"), "text", r#"a "{{" of the template has no "}}" behind it"#),
        (
            Some("hello }}"),
            "text",
            "the template names no column: write {{NAME}} where the text of one belongs",
        ),
        (Some("{{a}}"), "a,a", r#"two columns are called "a": rename one of them"#),
        (None, "key,Key,text", r#"two columns are called "key": rename one of them"#),
        (
            None,
            "id,question,context",
            "no column is called \"prompt\" or \"text\": rename one, or set the option template \
             = \"… {{COLUMN}} …\"",
        ),
        (None, "", "the first line must name the columns, such as key,prompt"),
        (Some("{{a}}"), " , ", "the first line must name the columns, such as key,prompt"),
    ] {
        assert_eq!(compile(source, header).unwrap_err().to_string(), expected);
    }
    let long = format!("{{{{{}}}}}", "x".repeat(10_000));
    let message = compile(Some(&long), "text").unwrap_err().to_string();
    assert!(message.len() < 200, "{message}");
}

#[test]
fn bad_rows_have_their_reason() {
    let template = compile(None, "id,prompt").unwrap();
    let refused = |line: &str| row(&template, 9, line).unwrap_err();
    assert_eq!(refused("a"), LineError::Fields { found: 1, expected: 2 });
    assert_eq!(refused("a,b,c"), LineError::Fields { found: 3, expected: 2 });
    assert_eq!(refused("a, "), LineError::PromptBlank);
    assert_eq!(refused(",b"), LineError::RowKeyInvalid);
    assert_eq!(refused("\"a\nb\",b"), LineError::RowKeyInvalid);
    let key = |line: &[u8]| super::super::key_of(CSV, Some(&template), 9, line);
    assert_eq!(key(b"a, "), "a");
    assert_eq!(key(b"a,b,c"), "9");
    assert_eq!(key(b",b"), "9");
    assert_eq!(key(b"\xff,b"), "9");
    let parse = |line: &[u8]| super::super::parse_line(CSV, Some(&template), 9, line);
    assert_eq!(parse(b"  "), Ok(None));
    assert_eq!(parse(b"a,\xff"), Err(LineError::NotUtf8 { byte: 3 }));
    assert_eq!(parse_line(CSV, 9, b"a,b"), Err(LineError::TemplateMissing));
}

#[test]
fn lines_of_text_have_templates_too() {
    let template = Template::for_text(Some("Translate: {{text}}")).unwrap();
    assert_eq!(prompt_of(Dialect::Text, &template, "a,\"b\"\r\n"), "Translate: a,\"b\"");
    let line = super::super::parse_line(Dialect::Text, Some(&template), 4, b"abc").unwrap();
    let line = line.unwrap();
    assert_eq!((line.key.as_str(), line.footprint.text_bytes), ("4", 14));
    let none = Template::for_text(None).unwrap();
    assert_eq!(prompt_of(Dialect::Text, &none, "abc"), "abc");
    let unknown = Template::for_text(Some("{{prompt}}")).unwrap_err();
    let message = r#"the template names the column "prompt", did you mean "text"?"#;
    assert_eq!(unknown.to_string(), message);
}

#[test]
fn a_template_survives_the_database() {
    let template = compile(Some("A {{b}} C"), "id,b").unwrap();
    let json = template.to_json();
    let written = r#"{"columns":2,"key":0,"pieces":[{"text":"A "},{"column":1},{"text":" C"}]}"#;
    assert_eq!(json, written);
    assert_eq!(Template::from_json(&json).unwrap(), template);
    assert!(Template::from_json("{}").is_err());
    // One that was tampered with fills what there is.
    let odd = Template::from_json(r#"{"columns":1,"key":9,"pieces":[{"column":7},{"text":"x"}]}"#);
    assert_eq!(row(&odd.unwrap(), 1, "a"), Err(LineError::RowKeyInvalid));
}

proptest! {
    #[test]
    fn fields_are_those_of_the_csv_crate(record in "([a-c,\" é]|\"[a\n,]\"){0,12}") {
        prop_assume!(!record.trim_ascii().is_empty());
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(record.as_bytes());
        let first = reader.records().next();
        if let Some(Ok(fields)) = first && reader.position().byte() >= u64::try_from(record.len()).unwrap() {
            let expected: Vec<String> = fields.iter().map(|field| field.trim().to_owned()).collect();
            prop_assert_eq!(names(&record), expected);
        }
    }

    #[test]
    fn rows_that_the_csv_crate_writes_come_through(
        key in "[a-z\",\n]{1,9}",
        prompt in "\\PC{0,30}[\n\r\",]{0,3}x",
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([key.as_str(), prompt.as_str()]).unwrap();
        let written = writer.into_inner().unwrap();
        let record = String::from_utf8(written).unwrap();
        let template = compile(Some("<{{prompt}}>"), "key,prompt").unwrap();
        let found = row(&template, 1, &record);
        if key.contains('\n') {
            prop_assert_eq!(found, Err(LineError::RowKeyInvalid));
        } else {
            prop_assert_eq!(found, Ok((key, format!("<{prompt}>"))));
        }
    }
}
