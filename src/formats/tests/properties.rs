//! Every function is total, and what goes in comes out.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Bytes of any kind, and damaged lines that come further into the parsers.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\n",
        " ",
        "1",
        "-2.5e3",
        "null",
        "true",
        "\"key\":",
        "\"k\"",
        "\"request\":{",
        "\"contents\":",
        "\"content\":",
        "\"metadata\":{",
        "\"custom_id\":\"c\"",
        "\"method\":\"POST\"",
        "\"url\":\"/v1/embeddings\"",
        "\"url\":\"/v1/chat/completions\"",
        "\"body\":{",
        "\"messages\":",
        "\"input\":",
        "\"parts\":",
        "\"text\":\"x\"",
        "\"inlineData\":{",
        "\"mimeType\":\"image/png\"",
        "\"data\":\"AAAA\"",
        "\"tidegate\":{",
        "\"model\":\"m\"",
        "\"max_cost\":",
        "\"deadline\":",
        "\\ud800",
        "\u{feff}",
        "é",
    ]);
    let fragments =
        prop::collection::vec(fragment, 0..40).prop_map(|all| all.concat().into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), fragments]
}

/// JSON of any shape.
fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ \\n\\t\"\\\\{}:,]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_the_functions_agree(line in lines(), number in any::<u64>()) {
        let own = Template::compile(None, &header(&line).unwrap_or_default()).ok();
        let two = Template::compile(Some("{{b}}"), &["id".into(), "b".into()]).ok();
        for (dialect, template) in [
            (JSONL, None),
            (Dialect::OpenAiJsonl, None),
            (Dialect::Text, None),
            (Dialect::Csv, own.as_ref()),
            (Dialect::Csv, two.as_ref()),
        ] {
            let parsed = super::super::parse_line(dialect, template, number, &line);
            let request =
                super::super::request_body(dialect, template, Wire::OpenAi, "m", &line);
            let body = request.map(|request| request.body);
            let key = super::super::key_of(dialect, template, number, &line);
            match parsed {
                Ok(Some(item)) => {
                    prop_assert_eq!(item.key, key);
                    prop_assert!(serde_json::from_slice::<Value>(&body.unwrap()).is_ok());
                    let estimate = item.footprint.estimate();
                    prop_assert!(estimate.floor <= estimate.likely_max);
                }
                Ok(None) => prop_assert_eq!(body, Err(LineError::Blank)),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
        let _ = options_line(&line);
        let _ = sidecar(&String::from_utf8_lossy(&line));
        let _ = recognise(&String::from_utf8_lossy(&line));
        if let Ok(result) = response_line("k", &line) {
            let newline = result.iter().position(|&byte| byte == b'\n');
            prop_assert_eq!(newline, Some(result.len() - 1));
        }
    }

    #[test]
    fn a_text_prompt_comes_through(prompt in "[^\u{feff}\r\n][^\r\n]*", ending in "(\r?\n)?") {
        prop_assume!(!prompt.trim_ascii().is_empty());
        let line = format!("{prompt}{ending}");
        let body = request_body(Dialect::Text, line.as_bytes()).unwrap();
        let read: Value = serde_json::from_slice(&body).unwrap();
        prop_assert_eq!(&read["contents"][0]["parts"][0]["text"], &Value::from(prompt.as_str()));

        // The same prompt weighs the same in either dialect.
        let text = parse_line(Dialect::Text, 1, line.as_bytes()).unwrap().unwrap();
        let jsonl = format!(r#"{{"key":"1","request":{}}}"#, String::from_utf8(body).unwrap());
        let wrapped = item(&jsonl);
        prop_assert_eq!((wrapped.key, wrapped.footprint), (text.key, text.footprint));
    }

    #[test]
    fn request_bytes_are_identical(key in "\\PC{1,40}", extra in documents(), own in documents()) {
        let request = format!(r#"{{ "contents":[{{"parts":[{{"text":"x"}}]}}], "own":{own} }}"#);
        let key_json = Value::from(key.as_str());
        let line = format!(r#"{{"extra":{extra},"key":{key_json},"request":{request}}}"#);
        prop_assert_eq!(item(&line).key, key);
        prop_assert_eq!(request_body(JSONL, line.as_bytes()).unwrap(), request.as_bytes());
    }

    #[test]
    fn an_answer_keeps_its_value(key in any::<String>(), document in documents()) {
        let compact = response_line(&key, document.to_string().as_bytes()).unwrap();
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        let line = response_line(&key, pretty.as_bytes()).unwrap();
        prop_assert_eq!(&line, &compact);
        prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        let read: Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(&read["key"], &Value::from(key));
        prop_assert_eq!(&read["response"], &serde_json::from_str::<Value>(&pretty).unwrap());
    }

    #[test]
    fn an_error_line_is_one_line(key in any::<String>(), message in any::<String>()) {
        let line = error_line(&key, 500, "INTERNAL", &message, None);
        prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        let read: Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(&read["key"], &Value::from(key));
        prop_assert_eq!(&read["error"]["message"], &Value::from(message));
    }
}
