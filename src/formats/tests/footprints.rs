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
        let Footprint { script, .. } = weigh(&request);
        let expected = Footprint { text_bytes, script, ..Footprint::default() };
        assert_eq!(weigh(&request), expected, "{request}");
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
    let expected = Footprint {
        text_bytes: 304,
        script: Script::Dense,
        media_tokens: 2 * 2_240 + 1,
        ..Footprint::default()
    };
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

#[test]
fn a_resolution_that_is_asked_for_bounds_media() {
    let image = blob("image/png", 3);
    let film = blob("video/mp4", 39_600);
    let pages = blob("application/pdf", 6_000);
    let weigh_at = |parts: &str, config: &str| {
        let request =
            format!(r#"{{"contents":[{{"parts":[{parts}]}}],"generationConfig":{config}}}"#);
        // The configuration may stand before what it is about.
        let turned =
            format!(r#"{{"generation_config":{config},"contents":[{{"parts":[{parts}]}}]}}"#);
        assert_eq!(weigh(&request), weigh(&turned));
        weigh(&request).media_tokens
    };
    let level = |word: &str| format!(r#"{{"mediaResolution":"MEDIA_RESOLUTION_{word}"}}"#);
    for (word, tokens) in [
        ("LOW", [280, 397, 3 * 280]),
        ("MEDIUM", [560, 991, 3 * 560]),
        ("UNSPECIFIED", [2_240, 991, 3 * 560]),
        ("HIGH", [2_240, 1_201, 3 * 1_120]),
        ("ULTRA_HIGH", [2_240, 1_201, 3 * 1_120]),
    ] {
        let found = [&image, &film, &pages].map(|part| weigh_at(part, &level(word)));
        assert_eq!(found, tokens, "{word}");
    }
    assert_eq!(weigh_at(&image, r#"{"media_resolution":null}"#), 2_240);
    assert_eq!(weigh_at(&pages, r#"{"mediaResolution":1}"#), 3 * 1_120);

    // A part's own beats the request's, before or after the media, and stays with the part.
    let own = |level: &str| image.replacen('{', &format!(r#"{{"media_resolution":{level},"#), 1);
    let low = own(r#"{"level":"MEDIA_RESOLUTION_LOW"}"#);
    let after = image.replace("}}", r#"},"mediaResolution":{"level":"MEDIA_RESOLUTION_LOW"}}"#);
    assert_eq!(weigh_at(&format!("{low},{image},{after}"), "{}"), 280 + 2_240 + 280);
    let medium = own(r#"{"level":"MEDIA_RESOLUTION_MEDIUM"}"#);
    assert_eq!(weigh_at(&format!("{medium},{image}"), &level("LOW")), 560 + 280);
    let unspecified = own(r#"{"level":"MEDIA_RESOLUTION_UNSPECIFIED"}"#);
    assert_eq!(weigh_at(&unspecified, &level("LOW")), 280);
    assert_eq!(weigh_at(&own(r#"{"numTokens":9}"#), &level("LOW")), 2_240);
    let nested = format!(
        r#"{{"mediaResolution":{{"level":"MEDIA_RESOLUTION_LOW"}},
            "functionResponse":{{"parts":[{image}]}},{}"#,
        image.trim_start_matches('{')
    );
    assert_eq!(weigh_at(&nested.replace('\n', ""), "{}"), 2_240 + 280);
}

#[test]
fn tools_of_the_provider_are_told_from_functions() {
    for (tools, served) in [
        (r#"[{"googleSearch":{}}]"#, true),
        (r#"[{"google_search":{}}]"#, true),
        (r#"[{"functionDeclarations":[]},{"urlContext":{}}]"#, true),
        (r#"[{"code_execution":{}}]"#, true),
        (r#"[{"fileSearch":{"fileSearchStoreNames":["a"]}}]"#, true),
        (r#"{"someLaterTool":{}}"#, true),
        (r#"[{"functionDeclarations":[{"name":"googleSearch"}]}]"#, false),
        (r#"[{"function_declarations":[{"parameters":{"googleSearch":{}}}]}]"#, false),
        (r#"[{"googleSearch":null}]"#, false),
        ("[]", false),
        ("null", false),
    ] {
        let request = format!(r#"{{"contents":[{{"a":1}}],"tools":{tools}}}"#);
        let found = weigh(&request);
        assert_eq!((found.tools, found.kind().tools), (served, served), "{tools}");
    }
    let elsewhere = r#"{"contents":[{"parts":[{"functionCall":{"googleSearch":{}}}]}]}"#;
    assert!(!weigh(elsewhere).tools);
}

#[test]
fn an_output_bound_is_read() {
    for (config, max) in [
        (r#"{"maxOutputTokens":64}"#, Some(64)),
        (r#"{"candidateCount":3,"maxOutputTokens":64}"#, Some(192)),
        (r#"{"max_output_tokens":"128"}"#, Some(128)),
        (r#"{"maxOutputTokens":0}"#, None),
        (r#"{"maxOutputTokens":"0"}"#, None),
        (r#"{"maxOutputTokens":-1}"#, None),
        (r#"{"maxOutputTokens":null}"#, None),
        (r#"{"maxOutputTokens":"many"}"#, None),
        ("{}", None),
    ] {
        let request = format!(r#"{{"contents":[{{"a":1}}],"generationConfig":{config}}}"#);
        assert_eq!(weigh(&request).output_tokens_max, max, "{config}");
    }
    let twice = r#"{"maxOutputTokens":1,"max_output_tokens":2}"#;
    let line =
        format!(r#"{{"key":"k","request":{{"contents":[{{"a":1}}],"generationConfig":{twice}}}}}"#);
    let refused = parse_line(JSONL, 1, line.as_bytes());
    assert_eq!(refused, Err(LineError::Duplicate { field: "maxOutputTokens" }));
}

#[test]
fn a_request_to_embed_is_weighed() {
    let body = r#"{"model":"models/e","content":{"parts":[{"text":"four"}]},"title":"ab",
        "taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}"#;
    let found = item(&format!(r#"{{"key":"k","request":{}}}"#, body.replace('\n', "")));
    assert_eq!(found.footprint, Footprint { text_bytes: 6, ..Footprint::default() });
    assert_eq!((found.method, found.model.as_deref()), (Some(Method::Embed), Some("e")));
}

#[test]
fn the_script_is_what_most_of_the_text_is_made_of() {
    for (text, script, likely_max) in [
        ("", Script::Ascii, 8),
        ("Hello, world", Script::Ascii, 14),
        ("Founded in 1999, of course", Script::Ascii, 21),
        ("Déjà vu", Script::Ascii, 13),
        ("Привет, мир", Script::TwoByte, 18),
        ("これは日本語", Script::ThreeByte, 17),
        ("한국어 text", Script::ThreeByte, 15),
        ("Привет 日本", Script::TwoByte, 18),
        ("🌊🌊", Script::FourByte, 16),
        ("nice work 🌊", Script::FourByte, 22),
        ("a long sentence with 1 🌊", Script::Ascii, 22),
        ("3.14159", Script::Dense, 15),
        ("2026-11-23T20:00:00Z ok", Script::Dense, 31),
        ("12 🌊", Script::FourByte, 15),
        ("12345 🌊", Script::Dense, 18),
    ] {
        let found = Footprint::of_text(text);
        assert_eq!((found.script, found.estimate().likely_max), (script, likely_max), "{text}");
    }
    // However long the text is.
    for (character, script) in
        [("1", Script::Dense), ("é", Script::TwoByte), ("日", Script::ThreeByte)]
    {
        let text = character.repeat(256 * 85 * 3);
        assert_eq!(Footprint::of_text(&text).script, script, "{character}");
        assert_eq!(Footprint::of_text(&format!("{text}a{text}")).script, script, "{character}");
    }
    // Numbers are digits, whichever way they are written; names are not.
    let arguments =
        |args: &str| weigh_parts(&format!(r#"{{"functionCall":{{"args":{args}}}}}"#)).script;
    assert_eq!(arguments(r#"{"xs":[1,2,3,456,789]}"#), Script::Dense);
    assert_eq!(arguments(r#"{"a_rather_long_name":1}"#), Script::Ascii);
}

#[test]
fn a_kind_keeps_its_number() {
    let numbers = [
        (Kind::default(), 0),
        (Kind { script: Script::TwoByte, ..Kind::default() }, 1),
        (Kind { script: Script::ThreeByte, ..Kind::default() }, 2),
        (Kind { script: Script::FourByte, ..Kind::default() }, 3),
        (Kind { script: Script::Dense, ..Kind::default() }, 4),
        (Kind { tools: true, ..Kind::default() }, 8),
        (Kind { unmeasured: true, ..Kind::default() }, 16),
        (Kind { media: true, ..Kind::default() }, 32),
    ];
    for (kind, code) in numbers {
        assert_eq!((kind.code(), Kind::from_code(code)), (code, Some(kind)));
    }
    let known: Vec<_> = (0..=u8::MAX).filter_map(Kind::from_code).collect();
    assert_eq!(known.len(), 5 * 2 * 2 * 2);
    for kind in known {
        assert_eq!(Kind::from_code(kind.code()), Some(kind));
        assert!(kind.least_milli() <= kind.cold_milli());
        assert!(kind.cold_milli() <= kind.most_milli());
    }
}

#[test]
fn a_kind_bounds_what_may_be_learnt() {
    let bounds = |kind: Kind| (kind.least_milli(), kind.cold_milli(), kind.most_milli());
    assert_eq!(bounds(Kind::default()), (150, 500, 1_000));
    assert_eq!(bounds(Kind { script: Script::Dense, ..Kind::default() }), (150, 1_000, 1_000));
    assert_eq!(bounds(Kind { tools: true, ..Kind::default() }), (150, 500, 10_000));
    assert_eq!(bounds(Kind { unmeasured: true, ..Kind::default() }), (150, 500, 10_000));
    assert_eq!(bounds(Kind { media: true, ..Kind::default() }), (500, 500, 10_000));
    assert!(weigh_parts(&blob("image/png", 3)).kind().media);
    assert!(!weigh_parts(r#"{"text":"a"}"#).kind().media);
}
