//! Reports as text.

use super::super::batches::{BatchOut, BatchesReport};
use super::super::table::{self, Style};
use super::super::text::{escaped, thousands};
use super::super::usage::*;
use super::super::{csv, seconds};
use super::{at, day, shapes};
use crate::config::prices::PicoUsd;
use crate::engine::eta::{Eta, Summary};
use crate::report::batches::queue_line;

const PLAIN: Style = Style { color: false, width: None };

fn usage_report() -> UsageReport {
    let flash = UsageRowOut {
        project: Some("demo".into()),
        model: Some("gemini-2.0-flash".into()),
        attempts: 40,
        ok: 38,
        failed: 1,
        in_doubt: 1,
        input_tokens: 1_234_567,
        output_tokens: 456,
        thought_tokens: 1_000,
        total_tokens: 1_236_023,
        cost_usd: Some(PicoUsd(310_000_000)),
        last_minute: Some(LastMinute { requests: 15, input_tokens: 600 }),
        ..UsageRowOut::default()
    };
    let odd = UsageRowOut {
        model: Some("=cmd|' \"/c\"'!A1,\u{1b}[31m".into()),
        attempts: 1,
        last_minute: Some(LastMinute::default()),
        cost_usd: None,
        ..UsageRowOut { project: Some("demo".into()), ..UsageRowOut::default() }
    };
    let totals =
        UsageRowOut { project: None, model: None, attempts: 41, cost_usd: None, ..flash.clone() };
    UsageReport {
        generated_at: seconds(at("2026-11-22T19:00:00Z")),
        since: seconds(at("2026-11-22T08:00:00Z")),
        until: seconds(at("2026-11-22T19:00:00Z")),
        by: vec!["project".into(), "model".into()],
        rows: vec![flash, odd],
        totals,
        prices: "prices-2026-11".into(),
        unpriced_models: vec!["tuned\u{7}".into()],
        notes: vec!["gemini-2.0-flash: audio is counted as text".into()],
    }
}

#[test]
fn usage_as_a_table() {
    insta::assert_snapshot!(table::usage(&usage_report(), PLAIN), @r#"
2026-11-22T08:00:00Z to 2026-11-22T19:00:00Z

project  model                       attempts  ok  failed  throttled     in      input  output  thought      total     cost       60s     60s
                                                                      doubt     tokens  tokens   tokens     tokens      usd  requests  tokens
demo     gemini-2.0-flash                  40  38       1          0      1  1,234,567     456    1,000  1,236,023  0.00031        15     600
demo     =cmd|' "/c"'!A1,\u{1b}[31m         1   0       0          0      0          0       0        0          0        ?         0       0
total                                      41  38       1          0      1  1,234,567     456    1,000  1,236,023        ?        15     600

no price known for tuned\u{7}
gemini-2.0-flash: audio is counted as text
"#);
}

#[test]
fn usage_of_nothing() {
    let report = UsageReport { rows: Vec::new(), ..usage_report() };
    let text = table::usage(&report, PLAIN);
    assert_eq!(text, "2026-11-22T08:00:00Z to 2026-11-22T19:00:00Z\n\nno request\n");
}

#[test]
fn usage_in_a_narrow_terminal_keeps_numbers_whole() {
    let style = Style { color: false, width: Some(60) };
    let text = table::usage(&usage_report(), style);
    for whole in ["1,234,567", "1,236,023", "0.00031", "project", "gemini-2.0-flash"] {
        assert!(text.contains(whole), "{text}");
    }
    assert!(!text.contains("A1,\\u{1b}"), "{text}");
}

#[test]
fn limits_as_a_table() {
    insta::assert_snapshot!(table::limits(&shapes::limits_report(), PLAIN), @r#"
project  model             state     dimension  window                       limit  used  reserved       free  frees at              source
default  gemini-2.0-flash  waiting   rpm        60s                             15    15         2          0  2026-11-22T19:00:08Z  preset:gemini-2025-02/free
default  gemini-2.0-flash  waiting   tpm        60s                      1,000,000     0         0  1,000,000                        preset:gemini-2025-02/free
default  gemini-2.0-flash  waiting   requests   10s                              3     1         1          2                        preset:gemini-2025-02/free
default  gemini-2.0-flash  waiting   rpd        day:America/Los_Angeles      1,500    40         2      1,460  2026-11-23T08:00:00Z  preset:gemini-2025-02/free
default  tuned\u{1b}[2J    learning  unknown
default  gemini-1.5-pro    blocked   rpm        60s                              2     0         0          2                        preset:gemini-2025-02/free

default, gemini-2.0-flash: waiting until 2026-11-22T19:00:08Z: rpm: needs 1, 0 of 15 free
default, gemini-1.5-pro: blocked: quota exceeded
paid: unreachable: connection refused
paid: held: billing
paid: key main is set aside: API key not valid
"#);
}

#[test]
fn batches_as_a_table() {
    let wait = (at("2026-11-22T19:00:07.001Z"), "rpm: needs 1, 0 of 15 free".to_owned());
    let eta = Eta {
        low: Some(at("2026-11-22T19:30:00Z")),
        high: Some(at("2026-11-22T19:30:04.2Z")),
        extrapolated: true,
        binds: Some("rpm".to_owned()),
        misses_deadline_by_s: Some(90),
    };
    let out = BatchOut::new(&shapes::batch(), Some(wait), None).with_eta(Some(eta));
    let report = BatchesReport::new(vec![out.clone()], at("2026-11-22T19:00:00Z"));
    insta::assert_snapshot!(table::batches(&report, PLAIN), @r#"
id                                    name    project  model             state  items  succeeded  failed  blocked  queued  submitted at          waiting until         done by
01930000-0000-7000-8000-000000000001  jobs.2  demo     gemini-2.0-flash  open   1,234      1,000      30        0     200  2026-11-22T18:00:00Z  2026-11-22T19:00:08Z  2026-11-22T19:30:00Z
"#);
    insta::assert_snapshot!(table::batch(&out), @r#"
id             01930000-0000-7000-8000-000000000001
name           jobs.2
file           jobs.jsonl
project        demo
model          gemini-2.0-flash
tenant         ada
priority       high
state          open
waiting_until  2026-11-22T19:00:08Z
reason         rpm: needs 1, 0 of 15 free
done_by        2026-11-22T19:30:00Z to 2026-11-22T19:30:05Z (extrapolated)
binds          rpm
late           1m 30s
items          1,234
succeeded      1,000
failed         30
cancelled      4
blocked        0
queued         200
in_doubt       hold
submitted_at   2026-11-22T18:00:00Z
"#);
    let none = BatchesReport { batches: Vec::new(), ..report };
    assert_eq!(table::batches(&none, PLAIN), "no batch\n");
}

#[test]
fn the_queue_in_a_line() {
    let summary = Summary {
        prompts: 12_345,
        batches: 3,
        next: Some((at("2026-11-23T12:03:07Z"), "rpm".to_owned())),
        done: Some(at("2026-11-23T14:10:00Z")),
        throttled: 0,
    };
    let line = "12,345 prompts wait in 3 batches; next rpm at 12:03:07 UTC; done by Mon 14:10 UTC; \
        0 throttled";
    assert_eq!(queue_line(&summary), line);
}

#[test]
fn a_batch_that_is_over_shows_what_else_is_known() {
    let out = BatchOut {
        stopped: Some("no such model: \u{1b}]0;title\u{7}".into()),
        results: Some("/spool/done/jobs\n.results.jsonl".into()),
        reason: None,
        dropped_again: 2,
        ..BatchOut::new(&shapes::batch(), None, None)
    };
    let text = table::batch(&out);
    assert!(text.contains("stopped        no such model: \\u{1b}]0;title\\u{7}\n"), "{text}");
    assert!(text.contains("results        /spool/done/jobs\\n.results.jsonl\n"), "{text}");
    assert!(text.contains("dropped_again  2\n"), "{text}");
}

#[test]
fn colour_is_there_only_when_asked_for() {
    let colored = Style { color: true, width: None };
    let reports =
        [table::usage(&usage_report(), colored), table::limits(&shapes::limits_report(), colored)];
    assert!(reports.iter().all(|text| text.contains("\u{1b}[")));
    for text in [
        table::usage(&usage_report(), PLAIN),
        table::limits(&shapes::limits_report(), PLAIN),
        csv::usage(&usage_report()),
    ] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\r'), "{text}");
    }
}

#[test]
fn usage_as_csv() {
    let text = csv::usage(&usage_report());
    assert!(text.ends_with("\r\n"));
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(
        lines,
        [
            "project,model,attempts,ok,failed,throttled,in_doubt,open,input_tokens,cached_tokens,\
             output_tokens,thought_tokens,tool_tokens,total_tokens,images,cost_usd,\
             last_minute_requests,last_minute_input_tokens",
            "demo,gemini-2.0-flash,40,38,1,0,1,0,1234567,0,456,1000,0,1236023,0,0.00031,15,600",
            "demo,\"'=cmd|' \"\"/c\"\"'!A1,\\u{1b}[31m\",1,0,0,0,0,0,0,0,0,0,0,0,0,,0,0",
        ]
    );
}

#[test]
fn csv_cells_never_begin_like_a_formula() {
    for start in ["=1", "+1", "-1", "@x"] {
        let row = UsageRowOut { key: Some(start.into()), ..UsageRowOut::default() };
        let report = UsageReport { by: vec!["key".into()], rows: vec![row], ..usage_report() };
        let text = csv::usage(&report);
        assert!(text.contains(&format!("\r\n'{start},0,")), "{text}");
    }
}

#[test]
fn columns_of_time_and_batch_are_shown() {
    let row = UsageRowOut {
        batch: Some(BatchColumn(None)),
        hour: Some(seconds(at("2026-11-22T18:00:00Z"))),
        day: Some(day("2026-11-22")),
        ..UsageRowOut::default()
    };
    let by = ["batch", "hour", "day"].map(str::to_owned).to_vec();
    let report = UsageReport { by, rows: vec![row], ..usage_report() };
    let text = csv::usage(&report);
    assert!(text.contains("\r\n,2026-11-22T18:00:00Z,2026-11-22,0,"), "{text}");
}

#[test]
fn steering_characters_are_escaped() {
    for (text, safe) in [
        ("plain, ünïcödé 漢字", "plain, ünïcödé 漢字"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}"),
        ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
        ("abc\u{202e}fdp\u{2066}\u{200b}", "abc\\u{202e}fdp\\u{2066}\\u{200b}"),
    ] {
        assert_eq!(escaped(text), safe);
    }
}

#[test]
fn thousands_are_set_apart() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1_000, "1,000"),
        (1_234_567, "1,234,567"),
        (u64::MAX, "18,446,744,073,709,551,615"),
    ] {
        assert_eq!(thousands(number), text);
    }
}
