//! Answers that come late, in part or not at all.

use tidegate::emulator::{Fault, FaultKind};
use tidegate::gate::units::{BootMs, Now, UnixMs};

use crate::harness::{Site, assert_all_answered, emulator, job, model, project};

#[tokio::test]
async fn server_errors_are_tried_again() {
    let emulator = emulator(&model("")).await;
    emulator.inject([Fault::once(FaultKind::Unavailable), Fault::once(FaultKind::Internal)]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("job.jsonl", job("job", 4));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 4);
    let counts = emulator.stats().counts;
    assert_eq!((counts.accepted, counts.server_errors), (4, 2));
    let usage = site.usage().await;
    assert_eq!((usage.attempts, usage.ok, usage.failed, usage.in_doubt), (6, 4, 2, 0));
    daemon.stop(&site).await;
}

#[tokio::test]
async fn answers_that_break_off_are_in_doubt_charged_and_asked_for_again() {
    let emulator = emulator(&model("")).await;
    emulator.inject([
        Fault::once(FaultKind::Cut),
        Fault::once(FaultKind::Truncate),
        Fault::once(FaultKind::Reset),
        Fault::once(FaultKind::NotJson),
        Fault::once(FaultKind::Hang { ms: 300 }),
    ]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("job.jsonl", job("job", 6));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 6);
    let counts = emulator.stats().counts;
    assert_eq!(counts.accepted, 10, "the provider counted what it could not deliver");
    let usage = site.usage().await;
    assert_eq!((usage.attempts, usage.ok, usage.in_doubt), (10, 6, 4), "{usage:?}");
    let report = site.report("done", "job").await;
    assert_eq!((&report["succeeded"], &report["in_doubt"]), (&6.into(), &4.into()), "{report}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn an_answer_in_doubt_is_failed_where_the_batch_asks_for_it() {
    let emulator = emulator(&model("")).await;
    emulator.inject([Fault::once(FaultKind::Reset)]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let first = r#"{"tidegate":{"in_doubt":"fail"}}"#;
    site.drop_file("job.jsonl", format!("{first}\n{}", job("job", 3)));
    let daemon = site.serve().await;
    let results = site.results("done", "job").await;
    assert_eq!(results.len(), 3);
    let failed: Vec<_> = results.iter().filter(|line| line.text.is_none()).collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert!(failed[0].error["message"].as_str().unwrap().contains("unknown whether"), "{failed:?}");
    assert_eq!(emulator.stats().counts.requests, 3, "it is not sent again");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn without_a_usage_report_the_reservation_stands() {
    let emulator = emulator(&model("")).await;
    emulator.inject([Fault::once(FaultKind::NoUsage)]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("job.jsonl", job("job", 1));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 1);
    let usage = site.usage().await;
    assert_eq!((usage.ok, usage.input_tokens), (1, 0), "nothing is made up in the report");
    let attempts =
        site.reader().attempts_back(Now { boot: BootMs(0), wall: UnixMs(0) }, 0).await.unwrap();
    assert_eq!(attempts.len(), 1);
    let counted = emulator.stats().counts.input_tokens;
    let kept = attempts[0].weights.input_tokens;
    assert!(kept >= counted && counted > 0, "{kept} kept, {counted} counted");
    daemon.stop(&site).await;
}
