use super::super::query::*;
use super::{at, now};

#[test]
fn columns_are_read_in_any_order() {
    let by = parse_by("day, model,project").unwrap();
    assert_eq!(columns(by), ["project", "model", "day"]);
    let all = parse_by(&COLUMNS.join(",")).unwrap();
    assert_eq!(columns(all), COLUMNS);
}

#[test]
fn an_unknown_column_is_refused_with_the_nearest() {
    for (text, nearest) in
        [("project,modle", "model"), ("keys", "key"), ("Days", "day"), ("batch_id", "batch")]
    {
        let error = parse_by(text).unwrap_err().to_string();
        assert!(error.contains(&format!("did you mean `{nearest}`?")), "{text}: {error}");
    }
    let error = parse_by("\u{1b}[31mred\u{202e}").unwrap_err().to_string();
    assert!(error.starts_with("cannot group by `\\u{1b}[31mred\\u{202e}`, did"), "{error}");
    let error = parse_by(&"x".repeat(1000)).unwrap_err().to_string();
    assert!(error.chars().count() < 200, "{error}");
}

#[test]
fn times_are_instants_dates_or_ages() {
    let present = now("2026-11-22T19:00:00.750Z");
    for (text, expected) in [
        ("2026-11-22T08:00:00Z", "2026-11-22T08:00:00Z"),
        ("2026-11-22T09:30:00.250+01:30", "2026-11-22T08:00:00.250Z"),
        ("2026-11-21", "2026-11-21T00:00:00Z"),
        (" 24h ", "2026-11-21T19:00:00Z"),
        ("7d", "2026-11-15T19:00:00Z"),
        ("1h 30m", "2026-11-22T17:30:00Z"),
    ] {
        assert_eq!(parse_time("since", text, present).unwrap(), at(expected), "{text}");
    }
    for text in ["yesterday", "2026-13-01", "24", "-1h", "", "\u{1b}[2J"] {
        let error = parse_time("until", text, present).unwrap_err().to_string();
        assert!(error.starts_with("until: `"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn a_question_without_options_is_today_by_project_and_model() {
    let present = now("2026-11-22T19:00:00Z");
    assert_eq!(UsageParams::default().read(present).unwrap(), UsageQuery::TODAY);
    let empty =
        UsageParams { by: Some(String::new()), since: Some(" ".into()), ..Default::default() };
    assert_eq!(empty.read(present).unwrap(), UsageQuery::TODAY);
}

#[test]
fn a_question_is_read_whole() {
    let present = now("2026-11-22T19:00:00Z");
    let params = UsageParams {
        by: Some("key".into()),
        since: Some("2d".into()),
        until: Some("2026-11-22".into()),
        project: Some("demo".into()),
        model: Some("models/gemini-2.0-flash".into()),
    };
    let query = params.read(present).unwrap();
    assert_eq!(columns(query.by), ["key"]);
    assert_eq!(query.since, Some(at("2026-11-20T19:00:00Z")));
    assert_eq!(query.until, Some(at("2026-11-22T00:00:00Z")));
    assert_eq!(query.project.as_deref(), Some("demo"));
    assert_eq!(query.model.as_deref(), Some("gemini-2.0-flash"));
}

#[test]
fn an_end_before_its_beginning_is_refused() {
    let present = now("2026-11-22T19:00:00Z");
    for (since, until) in [
        (Some("2026-11-22"), Some("2026-11-21")),
        (Some("2026-11-22"), Some("2026-11-22")),
        (Some("2026-11-23"), None),
    ] {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let params = UsageParams { since: owned(since), until: owned(until), ..Default::default() };
        assert!(matches!(params.read(present), Err(QueryError::Backwards { .. })));
    }
}
