//! A record of a job file: every dialect reads it or says why not, and what one function accepts
//! the others accept too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate_fuzz::formats::{
    Answers, Dialect, Ending, Template, Wire, header, key_of, parse_line, request_body, result_line,
};

fuzz_target!(|record: &[u8]| {
    let columns = header(record).unwrap_or_default();
    let compiled = Template::compile(Some("{{text}}, {{ id }}"), &columns);
    let plain = Template::compile(None, &["id".to_owned(), "text".to_owned()]);
    let templates = [compiled.ok(), plain.ok(), Template::for_text(Some("a {{text}}")).ok(), None];
    for template in &templates {
        let template = template.as_ref();
        for dialect in [Dialect::GeminiJsonl, Dialect::OpenAiJsonl, Dialect::Text, Dialect::Csv] {
            let key = key_of(dialect, template, 7, record);
            for wire in [Wire::Gemini, Wire::OpenAi] {
                let request = request_body(dialect, template, wire, "m", record);
                match parse_line(dialect, template, 7, record) {
                    Ok(Some(line)) => {
                        assert_eq!(line.key, key);
                        let request = request.expect("what is accepted can be sent");
                        assert!(line.method.is_none_or(|method| method == request.method));
                        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
                        assert!(body.is_object());
                        let estimate = line.footprint.estimate();
                        assert!(estimate.floor <= estimate.likely_max);
                    }
                    Ok(None) => assert!(request.is_err()),
                    Err(error) => assert!(!error.to_string().contains('\n')),
                }
            }
        }
    }
    for answers in [Answers::Gemini, Answers::OpenAi] {
        let ending = Ending::Answered { status: 200, body: record, request_id: None };
        if let Ok(line) = result_line(answers, "k", "1", &ending) {
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        }
    }
});
