//! Options: the first line, the sidecar, and what is wrong with them.

use super::*;

fn read(options: &str) -> Result<BatchOptions, LineError> {
    options_line(format!(r#"{{"tidegate": {options}}}"#).as_bytes()).map(Option::unwrap)
}

fn full() -> BatchOptions {
    BatchOptions {
        project: Some("demo".into()),
        model: Some("gemini-2.0-flash".into()),
        pool: Some("cheap".into()),
        fallback: Some(vec!["a".into(), "b/c".into()]),
        patience_ms: Some(5_400_250),
        pace: Some(BatchPace::Spread),
        priority: Some(Priority::Low),
        tenant: Some("Zoë \"z\"".into()),
        deadline: "2026-11-23T08:00:00Z".parse().ok(),
        not_before: "2026-11-22T20:30:00.250Z".parse().ok(),
        name: Some("night run".into()),
        max_cost_micro_usd: Some(1_500_001),
        in_doubt: Some(InDoubt::Hold),
        on_bad_line: Some(OnBadLine::Skip),
        template: Some("Say {{text}}\n".into()),
        id: Some(uuid::Uuid::from_u128(7)),
    }
}

#[test]
fn the_first_line_and_the_sidecar_say_the_same() {
    let line = read(
        r#"{"project":"demo","model":"models/gemini-2.0-flash","priority":"low",
        "pool":"cheap","fallback":["models/a","b/c"],"patience":"1h 30m 250ms","pace":"spread",
        "tenant":"Zoë \"z\"","deadline":"2026-11-23T09:00:00+01:00",
        "not_before":"2026-11-22T20:30:00.250Z","name":"night run","max_cost":1.500001,
        "in_doubt":"hold","on_bad_line":"skip","template":"Say {{text}}\n",
        "id":"00000000-0000-0000-0000-000000000007"}"#,
    );
    assert_eq!(line, Ok(full()));
    let toml = r#"
        project = "demo"
        model = "gemini-2.0-flash"
        pool = "cheap"
        fallback = ["a", "b/c"]
        patience = "90m 250ms"
        pace = "spread"
        priority = "low"
        tenant = 'Zoë "z"'
        deadline = 2026-11-23T09:00:00+01:00  # TOML has instants of its own
        not_before = "2026-11-22T20:30:00.250Z"
        name = "night run"
        max_cost = "1.500001"
        in_doubt = "hold"
        on_bad_line = "skip"
        template = "Say {{text}}\n"
        id = "00000000-0000-0000-0000-000000000007"
    "#;
    assert_eq!(sidecar(toml), Ok(full()));
}

#[test]
fn options_survive_being_written() {
    for options in [full(), BatchOptions::default()] {
        assert_eq!(sidecar(&sidecar_text(&options)), Ok(options.clone()));
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<BatchOptions>(&json).unwrap(), options);
        assert_eq!(read(&json), Ok(options));
    }
    let names: Vec<_> =
        serde_json::to_value(full()).unwrap().as_object().unwrap().keys().cloned().collect();
    let mut expected = BatchOptions::NAMES.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn other_first_lines_are_left_to_the_dialect() {
    for line in [
        r#"{"key":"k","request":{}}"#,
        "Write a poem about \"tidegate\"",
        "{",
        "[]",
        r#"{"tidegates":{}}"#,
        "\"tidegate\"",
    ] {
        assert_eq!(options_line(line.as_bytes()), Ok(None), "{line}");
    }
    assert_eq!(options_line(b"\xff"), Ok(None));
    let spaced = "\u{feff} { \"tidegate\" : { } } \r\n";
    assert_eq!(options_line(spaced.as_bytes()), Ok(Some(BatchOptions::default())));
}

#[test]
fn every_bad_options_line_has_its_reason() {
    let text = "must be a text of 1 to 256 bytes without control characters";
    let instant = "must be an instant such as \"2026-11-23T08:00:00Z\" (RFC 3339, with its offset)";
    let dollars = "must be US dollars with at most six decimals, such as 1.50";
    let models = "must be a list of 1 to 8 different model ids, such as [\"gemini-2.0-flash\"]";
    let span = "must be a length of time of at most 365 days, such as \"30m\"";
    let table = [
        ("7", r#""tidegate" must be an object of options"#.to_owned()),
        ("null", r#""tidegate" must be an object of options"#.to_owned()),
        (r#"{"modle":"m"}"#, r#"unknown option "modle", did you mean "model"?"#.to_owned()),
        (
            r#"{"dead_line":"m"}"#,
            r#"unknown option "dead_line", did you mean "deadline"?"#.to_owned(),
        ),
        (
            r#"{"Priority":"low"}"#,
            r#"unknown option "Priority", did you mean "priority"?"#.to_owned(),
        ),
        (r#"{"max_cots":1}"#, r#"unknown option "max_cots", did you mean "max_cost"?"#.to_owned()),
        (r#"{"model":"a","model":"a"}"#, r#"option "model" is given twice"#.to_owned()),
        (r#"{"project":""}"#, format!(r#"option "project" {text}"#)),
        (r#"{"project":null}"#, format!(r#"option "project" {text}"#)),
        (r#"{"tenant":"a\nb"}"#, format!(r#"option "tenant" {text}"#)),
        (
            r#"{"priority":"High"}"#,
            r#"option "priority" must be one of "high", "normal", "low""#.to_owned(),
        ),
        (
            r#"{"in_doubt":true}"#,
            r#"option "in_doubt" must be one of "retry", "hold", "fail""#.to_owned(),
        ),
        (
            r#"{"on_bad_line":"ignore"}"#,
            r#"option "on_bad_line" must be one of "reject", "skip""#.to_owned(),
        ),
        (r#"{"deadline":"tomorrow"}"#, format!(r#"option "deadline" {instant}"#)),
        (r#"{"deadline":1764000000}"#, format!(r#"option "deadline" {instant}"#)),
        (r#"{"not_before":"2026-11-23T08:00:00"}"#, format!(r#"option "not_before" {instant}"#)),
        (r#"{"deadline":"9999-12-31T23:59:59-12:00"}"#, format!(r#"option "deadline" {instant}"#)),
        (r#"{"max_cost":-1}"#, format!(r#"option "max_cost" {dollars}"#)),
        (r#"{"max_cost":"1.2345678"}"#, format!(r#"option "max_cost" {dollars}"#)),
        (r#"{"max_cost":1e300}"#, format!(r#"option "max_cost" {dollars}"#)),
        (r#"{"max_cost":"1 USD"}"#, format!(r#"option "max_cost" {dollars}"#)),
        (r#"{"max_cost":"."}"#, format!(r#"option "max_cost" {dollars}"#)),
        (r#"{"fallback":"a"}"#, format!(r#"option "fallback" {models}"#)),
        (r#"{"fallback":[]}"#, format!(r#"option "fallback" {models}"#)),
        (r#"{"fallback":["a",7]}"#, format!(r#"option "fallback" {models}"#)),
        (r#"{"fallback":["a","models/a"]}"#, format!(r#"option "fallback" {models}"#)),
        (r#"{"fallback":[".."]}"#, format!(r#"option "fallback" {models}"#)),
        (
            r#"{"fallback":["1","2","3","4","5","6","7","8","9"]}"#,
            format!(r#"option "fallback" {models}"#),
        ),
        (r#"{"patience":30}"#, format!(r#"option "patience" {span}"#)),
        (r#"{"patience":"soon"}"#, format!(r#"option "patience" {span}"#)),
        (r#"{"patience":"366d"}"#, format!(r#"option "patience" {span}"#)),
        (r#"{"patience":"1ns"}"#, format!(r#"option "patience" {span}"#)),
        (r#"{"pace":"slow"}"#, r#"option "pace" must be one of "asap", "spread""#.to_owned()),
        (
            r#"{"pool":""}"#,
            "option \"pool\" must be the name of a pool: a text of 1 to 64 bytes without control \
             characters"
                .to_owned(),
        ),
        (
            r#"{"template":""}"#,
            "option \"template\" must be a text of 1 byte to 64 KiB, such as \"Classify: \
             {{text}}\""
                .to_owned(),
        ),
        (r#"{"id":"7"}"#, r#"option "id" must be a UUID"#.to_owned()),
        (
            r#"{"name":"../x"}"#,
            "option \"name\" must be a file name of 1 to 200 bytes without a leading dot, \
             slashes or control characters"
                .to_owned(),
        ),
        (r#"{"model":}"#, "not valid JSON at column 23: expected value".to_owned()),
        (
            r#"{},"key":"k""#,
            r#""tidegate" options are accepted on the first line only, with nothing beside them"#
                .to_owned(),
        ),
        (r#"{},"tidegate":{}"#, r#"duplicate field "tidegate""#.to_owned()),
    ];
    for (options, expected) in table {
        assert_eq!(read(options).unwrap_err().to_string(), expected, "{options}");
    }
    let long = format!(r#"{{"deadline{}":0}}"#, "x".repeat(10_000_000));
    let shown = format!("unknown option \"deadline{}…\", did you mean", "x".repeat(32));
    assert!(read(&long).unwrap_err().to_string().starts_with(&shown));
    let long = format!(r#"{{"tenant":"{}"}}"#, "x".repeat(257));
    assert!(matches!(read(&long), Err(LineError::Option(OptionError::Value { .. }))));
    let template = |bytes: usize| read(&format!(r#"{{"template":"{}"}}"#, "x".repeat(bytes)));
    assert_eq!(template(64 << 10).unwrap().template.unwrap().len(), 64 << 10);
    assert!(matches!(
        template((64 << 10) + 1),
        Err(LineError::Option(OptionError::Value { name: "template", .. }))
    ));
}

#[test]
fn a_model_cannot_lead_elsewhere() {
    let model = |id: &str| read(&format!(r#"{{"model":"{id}"}}"#)).map(|read| read.model.unwrap());
    assert_eq!(model("models/a.b_c-D9").unwrap(), "a.b_c-D9");
    assert_eq!(model("tunedModels/x").unwrap(), "tunedModels/x");
    for id in ["/a", "a/", "a//b", "..", "a/../b", "a..b", ".", "models/", "a b", "a?b", "a:b", "é"]
    {
        assert!(model(id).is_err(), "{id}");
    }
}

#[test]
fn a_pool_says_the_models_itself() {
    let pool = BatchOptions { pool: Some("cheap".into()), ..BatchOptions::default() };
    pool.agree().unwrap();
    let project = BatchOptions { project: Some("demo".into()), ..pool.clone() };
    project.agree().unwrap();
    let both = BatchOptions { model: Some("m".into()), ..pool };
    assert_eq!(
        both.agree().unwrap_err(),
        "both a pool (cheap) and a model (m) are named: leave the model out, the routes of the \
         pool say which"
    );
}

#[test]
fn a_list_of_a_sidecar_is_for_lists_alone() {
    for text in ["fallback = [{ a = 1 }]", "fallback = [[\"a\"]]", "model = [\"a\"]"] {
        sidecar(text).unwrap_err();
    }
}

#[test]
fn a_cost_is_exact() {
    let cost = |cost: &str| {
        read(&format!(r#"{{"max_cost":{cost}}}"#)).map(|read| read.max_cost_micro_usd.unwrap())
    };
    assert_eq!(cost("0"), Ok(0));
    assert_eq!(cost("3"), Ok(3_000_000));
    assert_eq!(cost("0.1"), Ok(100_000));
    assert_eq!(cost("2.30"), Ok(2_300_000));
    assert_eq!(cost("0.000001"), Ok(1));
    assert_eq!(cost("\"18446744073709.551615\""), Ok(u64::MAX));
    assert!(cost("\"18446744073709.551616\"").is_err());
}

#[test]
fn a_sidecar_says_where_it_is_wrong() {
    let message = |toml: &str| sidecar(toml).unwrap_err().to_string();
    let syntax = message("project = \"a\"\n\nmodel = \n");
    assert!(syntax.starts_with("not valid TOML at line 3: "), "{syntax}");
    assert_eq!(
        message("prioritty = \"low\""),
        r#"unknown option "prioritty", did you mean "priority"?"#
    );
    assert_eq!(
        message("[tenant]\nx = 1"),
        r#"option "tenant" must be a text of 1 to 256 bytes without control characters"#
    );
    assert!(
        message("deadline = 2026-11-23").starts_with(r#"option "deadline" must be an instant"#)
    );
    assert_eq!(sidecar("# nothing\n"), Ok(BatchOptions::default()));
}

#[test]
fn what_is_nearer_wins() {
    let base = BatchOptions { priority: Some(Priority::High), ..full() };
    let own = BatchOptions { priority: Some(Priority::Low), ..BatchOptions::default() };
    assert_eq!(own.merged_over(base), full());
    assert_eq!(full().merged_over(BatchOptions::default()), full());
    assert_eq!(BatchOptions::default().merged_over(full()), full());
}
