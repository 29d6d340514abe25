//! What requests weigh.

use super::*;

fn weigh(request: &str) -> Footprint {
    item(&format!(r#"{{"key":"k","request":{request}}}"#)).footprint
}

fn weigh_parts(parts: &str) -> Footprint {
    weigh(&format!(r#"{{"contents":[{{"role":"user","parts":[{parts}]}}]}}"#))
}

/// Inline media of so many bytes, rounded up to three.
fn blob(mime_type: &str, decoded_bytes: usize) -> String {
    let data = "A".repeat(decoded_bytes.div_ceil(3) * 4);
    format!(r#"{{"inlineData":{{"mimeType":"{mime_type}","data":"{data}"}}}}"#)
}

#[test]
fn text_is_counted_wherever_it_becomes_tokens() {
    let table = [
        (r#"{"contents":[{"parts":[{"text":"four"}]}]}"#, 4),
        (r#"{"contents":[{"role":"user","parts":[{"text":"a"},{"text":"bc"}]}]}"#, 3),
        (r#"{"contents":{"parts":{"text":"four"}}}"#, 4),
        // Decoded, in UTF-8.
        (r#"{"contents":[{"parts":[{"text":"\u00e9\n🌊"}]}]}"#, 7),
        (
            r#"{"systemInstruction":{"parts":[{"text":"12345"}]},
                "contents":[{"parts":[{"text":"x"}]}]}"#,
            6,
        ),
        (r#"{"system_instruction":"12345","contents":[{"parts":[{"text":"x"}]}]}"#, 6),
        // Names, arguments and numbers: name, f, args, city, Rome, n, -12, ok, true as 1.
        (
            r#"{"contents":[{"parts":[{"functionCall":
                {"name":"f","args":{"city":"Rome","n":-12,"ok":true}}}]}]}"#,
            4 + 1 + 4 + 4 + 4 + 1 + 3 + 2 + 1,
        ),
        (
            r#"{"contents":[{"parts":[{"functionResponse":
                {"name":"f","response":{"inlineData":{"data":"AAAA"}}}}]}]}"#,
            1 + 10 + 4 + 4,
        ),
        (
            r#"{"contents":[{"a":1}],"tools":[{"functionDeclarations":
                [{"name":"f","parameters":{"type":"OBJECT"}}]}]}"#,
            1 + 20 + 4 + 1 + 10 + 4 + 6,
        ),
        (r#"{"contents":[{"a":1}],"generationConfig":{"responseSchema":{"type":"INT"}}}"#, 8),
        (r#"{"contents":[{"a":0.25}]}"#, 24),
        // Not sent to the model as text.
        (
            r#"{"contents":[{"a":1}],"generation_config":{"stopSequences":["stop"],"seed":7},
                "safetySettings":[{"category":"HARM"}],"model":"models/x","toolConfig":{"a":"b"}}"#,
            1,
        ),
    ];
    for (request, text_bytes) in table {
        let request = request.replace('\n', "");
        assert_eq!(weigh(&request), Footprint { text_bytes, ..Footprint::default() }, "{request}");
    }
}

#[test]
fn media_are_counted_by_their_type() {
    let table = [
        ("image/png", 3_000, 2_240),
        ("IMAGE/JPEG", 30, 2_240),
        ("audio/wav", 32_001, 321),
        ("video/mp4", 40_002, 1_001),
        ("application/pdf", 30, 560),
        ("application/pdf", 9_000, 4 * 560),
        ("application/pdf", 3_000_000, 1_000 * 560),
        ("application/zip", 3_000, 750),
        ("nonsense", 3_000, 750),
    ];
    for (mime_type, decoded_bytes, media_tokens) in table {
        let expected = Footprint { media_tokens, ..Footprint::default() };
        assert_eq!(weigh_parts(&blob(mime_type, decoded_bytes)), expected, "{mime_type}");
        // Both spellings, and the type after the data.
        let line = blob(mime_type, decoded_bytes)
            .replace("inlineData", "inline_data")
            .replace(&format!(r#""mimeType":"{mime_type}","#), "")
            .replace(r#""}}"#, &format!(r#"","mime_type":"{mime_type}"}}}}"#));
        assert_eq!(weigh_parts(&line), expected, "{mime_type}");
    }
}

#[test]
fn inline_text_is_text_and_media_add_up() {
    let parts = [
        blob("text/plain; charset=utf-8", 300),
        blob("image/png", 3),
        r#"{"text":"abc"}"#.to_owned(),
        format!(r#"{{"functionResponse":{{"name":"f","parts":[{}]}}}}"#, blob("image/png", 3)),
        r#"{"inlineData":{"mimeType":"audio/ogg"}}"#.to_owned(),
    ];
    let expected =
        Footprint { text_bytes: 304, media_tokens: 2 * 2_240 + 1, ..Footprint::default() };
    assert_eq!(weigh_parts(&parts.join(",")), expected);
}

#[test]
fn what_lies_elsewhere_is_unmeasured() {
    for request in [
        r#"{"contents":[{"parts":[{"fileData":{"mimeType":"video/mp4","fileUri":"u"}}]}]}"#,
        r#"{"contents":[{"parts":[{"file_data":{"file_uri":"u"}}]}]}"#,
        r#"{"contents":[{"parts":[{}]}],"cachedContent":"cachedContents/a"}"#,
        r#"{"contents":[{"parts":[{}]}],"cached_content":"cachedContents/a"}"#,
    ] {
        assert_eq!(weigh(request), Footprint { unmeasured: true, ..Footprint::default() });
    }
    assert!(!weigh(r#"{"contents":[{"a":1}],"cachedContent":null}"#).unmeasured);
}

#[test]
fn images_are_those_asked_for() {
    for (config, images) in [
        (r#"{"responseModalities":["TEXT","IMAGE"]}"#, 1),
        (r#"{"response_modalities":["image"],"candidate_count":3}"#, 3),
        (r#"{"candidateCount":"4","responseModalities":[1,2]}"#, 4),
        (r#"{"candidateCount":0,"responseModalities":["IMAGE"]}"#, 1),
        (r#"{"candidateCount":-2,"responseModalities":["IMAGE"]}"#, 1),
        (r#"{"candidateCount":4,"responseModalities":["TEXT"]}"#, 0),
        (r#"{"candidateCount":4}"#, 0),
    ] {
        let request = format!(r#"{{"contents":[{{"a":1}}],"generationConfig":{config}}}"#);
        assert_eq!(weigh(&request).images, images, "{config}");
    }
}

#[test]
fn an_estimate_is_a_range() {
    let estimate = |text_bytes, media_tokens| {
        let estimate = Footprint { text_bytes, media_tokens, ..Footprint::default() }.estimate();
        (estimate.floor, estimate.likely_max)
    };
    assert_eq!(estimate(0, 0), (0, 8));
    assert_eq!(estimate(1, 0), (0, 9));
    assert_eq!(estimate(7, 0), (1, 12));
    assert_eq!(estimate(100, 2_240), (15, 2_298));
    assert_eq!(estimate(999, 0), (149, 508));
    assert_eq!(estimate(u64::MAX, u64::MAX).1, u64::MAX);
    assert_eq!(estimate(u64::MAX, 0).0, 2_767_011_611_056_432_742);
}
