use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::paths::{DOCUMENT, Node};
use super::*;

/// The documents in `text`, made small, and how it ended.
fn condense(pieces: &[&[u8]]) -> (Vec<Value>, bool) {
    let mut condenser = Condenser::new();
    let mut documents = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (used, step) = condenser.take(rest);
            rest = &rest[used..];
            if step == Step::Document {
                documents.push(serde_json::from_slice(condenser.copy()).expect("a document"));
            }
        }
    }
    (documents, condenser.is_whole())
}

fn small(text: &str) -> Value {
    let (documents, is_whole) = condense(&[text.as_bytes()]);
    assert!(is_whole, "{text}");
    let [document] = documents.try_into().expect("one document");
    document
}

/// What a document should become, by another way.
fn projected(value: &Value, node: &Node) -> Value {
    match (node, value) {
        (Node::Keep, _) => value.clone(),
        (Node::Members(members), Value::Object(object)) => members_of(object, members),
        (Node::Each(each), Value::Array(list)) => {
            list.iter().map(|element| projected(element, each)).collect()
        }
        (_, Value::Object(_)) => json!({}),
        (_, Value::Array(_)) => json!([]),
        (_, scalar) => scalar.clone(),
    }
}

fn members_of(object: &Map<String, Value>, members: &[(&str, Node)]) -> Value {
    let kept = members
        .iter()
        .filter_map(|(name, node)| Some(((*name).to_owned(), projected(object.get(*name)?, node))));
    Value::Object(kept.collect())
}

#[test]
fn what_is_read_stays_and_the_rest_goes() {
    let text = r#" {"x":{"usageMetadata":{"promptTokenCount":1}},"candidates":[{"content":{"parts":
        [{"text":"} ] \" \\"},{"inlineData":{"data":"aGk=","mimeType":"image/png"}}],"role":"model"},
        "finishReason":"STOP"},null,7],"usageMetadata" : {"promptTokenCount":3,"x":[{"y":"}"}]}} "#;
    let want = json!({
        "candidates": [
            {
                "content": {"parts": [{}, {"inlineData": {"mimeType": "image/png"}}]},
                "finishReason": "STOP",
            },
            null,
            7,
        ],
        "usageMetadata": {"promptTokenCount": 3, "x": [{"y": "}"}]},
    });
    assert_eq!(small(text), want);
}

#[test]
fn lists_are_taken_element_by_element() {
    let (documents, is_whole) = condense(&[b"[{\"id\":\"a\"}\n,\r\n{\"id\":\"b\"", b"}\n]\n"]);
    assert_eq!(documents, [json!({"id": "a"}), json!({"id": "b"})]);
    assert!(is_whole);
    assert_eq!(condense(&[b"[]"]), (vec![], true));
    assert_eq!(condense(&[b"[{},"]), (vec![json!({})], false));
}

#[test]
fn what_is_no_document_is_broken() {
    for text in [
        "x",
        "7",
        "\"a\"",
        "[1]",
        "[[]]",
        "{]",
        "{\"a\":}",
        "{\"a\" 1}",
        "{\"a\":1,}",
        "{1:2}",
        "[{}{}]",
        "[{},]",
        "{\"candidates\":[}]}",
        "{\"a\":1 2}",
        "{} x",
    ] {
        let mut condenser = Condenser::new();
        let mut rest = text.as_bytes();
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (used, step) = condenser.take(rest);
            rest = &rest[used..];
            steps.push(step);
        }
        assert!(steps.contains(&Step::Broken), "{text}: {steps:?}");
        assert!(!condenser.is_whole(), "{text}");
    }
}

#[test]
fn the_copy_is_bounded() {
    let long = "x".repeat(1 << 20);
    let parts = vec![json!({"inlineData": {"mimeType": "image/png", "data": "aGk="}}); 50_000];
    let text = json!({
        "model": long, "error": {"message": "why", "details": [long]}, "usage": {"total": 1},
        "candidates": [{"content": {"parts": parts}}], "usageMetadata": {"promptTokenCount": 3},
    });
    let mut text = text.to_string();
    text.truncate(text.len() - 1);
    for _ in 0..50_000 {
        text.push_str(",\"id\":\"0123456789\"");
    }
    text.push('}');
    let mut condenser = Condenser::new();
    let (used, step) = condenser.take(text.as_bytes());
    assert_eq!((used, step), (text.len(), Step::Document));
    let bound = COPY_BYTES_MAX + KEPT_BYTES_MAX + 1_024;
    assert!(condenser.copy.capacity() <= 2 * bound, "{}", condenser.copy.capacity());
    let copy: Value = serde_json::from_slice(condenser.copy()).expect("a document");
    assert_eq!(copy["model"], Value::Null);
    assert_eq!(copy["error"], json!({"message": "why", "details": null}));
    assert_eq!(copy["usageMetadata"]["promptTokenCount"], 3);
}

#[test]
fn a_depth_of_any_size_is_stepped_over() {
    let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
    assert_eq!(small(&format!("{{\"x\":{deep},\"id\":\"a\"}}")), json!({"id": "a"}));
}

/// Values of any shape whose members are often the ones that are read.
fn value() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        3 => prop::sample::select(names(DOCUMENT)),
        1 => any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["\\", "\"", "}", "]", "\\\"{"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All names that are looked for.
fn names(members: &[(&'static str, Node)]) -> Vec<String> {
    let mut names = Vec::new();
    for (name, node) in members {
        names.push((*name).to_owned());
        let mut node = node;
        while let Node::Each(each) = node {
            node = each;
        }
        if let Node::Members(members) = node {
            names.extend(self::names(members));
        }
    }
    names
}

proptest! {
    #[test]
    fn a_document_becomes_what_is_read_of_it(
        object in prop::collection::btree_map(prop::sample::select(names(DOCUMENT)), value(), 0..8),
        is_pretty: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let document: Value = Value::Object(object.into_iter().collect());
        let text = if is_pretty {
            serde_json::to_vec_pretty(&document)
        } else {
            serde_json::to_vec(&document)
        };
        let text = text.expect("JSON");
        // Read again, for a float may lose its last digit on the way.
        let object: Map<String, Value> = serde_json::from_slice(&text).expect("JSON");
        let pieces = super::super::tests::cut(&text, &cuts);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        for pieces in [&pieces, &bytes] {
            let (documents, is_whole) = condense(pieces);
            prop_assert!(is_whole);
            prop_assert_eq!(documents, [members_of(&object, DOCUMENT)]);
        }
    }
}
