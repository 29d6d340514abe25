//! What the provider refuses: for the item, for the bucket, for the key, for the model.

use tidegate::emulator::{Fault, FaultKind};

use crate::harness::{
    ClosedPort, MODEL, Site, assert_all_answered, emulator, job, model, project, start_emulator,
};

#[tokio::test]
async fn a_model_that_is_not_there_fails_the_batch_after_three_answers() {
    let emulator = emulator(&model("")).await;
    // One at a time, so that no request is under way when the third answer comes.
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.at_once(1);
    let first = r#"{"tidegate":{"model":"gemini-1.5-flash"}}"#;
    site.drop_file("gone.jsonl", format!("{first}\n{}", job("gone", 12)));
    let daemon = site.serve().await;
    let results = site.results("failed", "gone").await;
    assert_eq!(results.len(), 12);
    for (line, n) in results.iter().zip(1..) {
        assert_eq!(line.key, format!("k{n}"));
        // What was not sent any more says so.
        assert_eq!(line.error["code"], if n <= 3 { 404 } else { 424 });
        let told = line.error["message"].as_str().unwrap();
        assert!(told.contains("models/gemini-1.5-flash is not found"), "{told}");
        assert_eq!(told.contains("not sent: 3 items were answered 404"), n > 3, "{told}");
    }
    let report = site.report("failed", "gone").await;
    assert_eq!((&report["attempts"], &report["failed"]), (&3.into(), &12.into()), "{report}");
    assert!(report["stopped"].as_str().unwrap().contains("not found"), "{report}");
    assert_eq!(emulator.stats().counts.requests, 3);
    // The other models of the project go on.
    site.drop_file("good.jsonl", job("good", 2));
    assert_all_answered(&site.results("done", "good").await, "good", 2);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn one_item_that_is_refused_does_not_fail_its_batch() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let bad = r#"{"key":"bad","request":{"contents":[{"parts":[{"text":"x"}]}],"nonsense":1}}"#;
    site.drop_file("mixed.jsonl", format!("{bad}\n{}", job("mixed", 2)));
    let daemon = site.serve().await;
    let results = site.results("done", "mixed").await;
    assert_eq!(results[0].key, "bad");
    assert_eq!(results[0].error["code"], 400);
    let told = results[0].error["message"].as_str().unwrap();
    assert!(told.contains("nonsense"), "the provider's own words: {told}");
    assert_all_answered(&results[1..], "mixed", 2);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn an_unreachable_endpoint_is_told_and_its_batch_waits_for_it() {
    let port = ClosedPort::new();
    let site = Site::new(&project("demo", &format!("http://{}", port.address()), ""));
    site.drop_file("job.jsonl", job("job", 5));
    let daemon = site.serve().await;
    daemon.says(&site, "project demo: the endpoint cannot be reached").await;
    let log = daemon.log();
    assert!(log.to_lowercase().contains("connection refused"), "the reason is missing:\n{log}");

    // Meanwhile the same file is the same batch.
    site.drop_file("job.jsonl", job("job", 5));
    daemon.says(&site, "the same file again").await;

    let up = start_emulator(&model(""), |config| config.listen = port.address()).await;
    assert_all_answered(&site.results("done", "job").await, "job", 5);
    let report = site.report("done", "job").await;
    assert_eq!(report["dropped_again"], 1, "{report}");
    assert_eq!(report["attempts"], 5, "what never left is no request: {report}");
    assert_eq!(up.stats().counts.requests, 5);

    // Once it is over, the same file is a new batch.
    site.all_over().await;
    site.drop_file("job.jsonl", job("job", 5));
    assert_all_answered(&site.results("done", "job.2").await, "job", 5);
    assert_eq!(site.report("done", "job.2").await["dropped_again"], 0);
    assert_eq!(up.stats().counts.requests, 10);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_refused_key_is_set_aside_and_the_other_one_answers_all() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.edit_config("keys = [", "keys = [{ name = \"leaked\", env = \"TIDEGATE_LEAKED_KEY\" }, ");
    site.drop_file("job.jsonl", job("job", 12));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 12);
    daemon.says(&site, "key leaked of demo is set aside").await;
    let counts = emulator.stats().counts;
    assert_eq!(counts.accepted, 12);
    assert!((1..=6).contains(&counts.client_errors), "the refused key is used no more: {counts:?}");
    let usage = site.usage().await;
    assert_eq!(usage.failed.unsigned_abs(), counts.client_errors, "{usage:?}");
    assert!(!site.logs().contains(crate::harness::LEAKED_KEY));
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_429_that_explains_nothing_parks_the_bucket_and_costs_the_items_nothing() {
    let emulator = emulator(&model("")).await;
    emulator.inject([Fault::repeated(FaultKind::BareQuota, 2)]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.at_once(1);
    site.drop_file("job.jsonl", job("job", 6));
    let daemon = site.serve().await;
    let reader = site.reader();
    let queued = site
        .until("the first 429 is settled", async || {
            if site.reader_is_empty().await || site.usage().await.throttled == 0 {
                return None;
            }
            let batch = reader.unfinished_batches().await.unwrap().into_iter().next()?;
            Some(reader.queued(batch.id, 0, 100).await.unwrap())
        })
        .await;
    assert_eq!(queued.len(), 6, "{queued:?}");
    assert!(queued.iter().all(|item| item.attempts == 0 && item.doubts == 0), "{queued:?}");
    assert_all_answered(&site.results("done", "job").await, "job", 6);
    let report = site.report("done", "job").await;
    assert_eq!((&report["throttled"], &report["attempts"]), (&2.into(), &8.into()), "{report}");
    assert_eq!(emulator.stats().counts.requests, 8, "one request at a time tried the way");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_used_up_day_shuts_its_bucket_and_no_other() {
    let models = format!("{}[[project.model]]\nname = \"gemini-1.5-flash\"\n", model("rpd = 20"));
    let emulator = emulator(&models).await;
    emulator.inject([Fault::once(FaultKind::DayQuota)]);
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.at_once(1);
    site.drop_file("shut.jsonl", job("shut", 5));
    let daemon = site.serve().await;
    site.until("the 429 is settled", async || {
        (!site.reader_is_empty().await && site.usage().await.throttled == 1).then_some(())
    })
    .await;
    let first = r#"{"tidegate":{"model":"gemini-1.5-flash"}}"#;
    site.drop_file("open.jsonl", format!("{first}\n{}", job("open", 3)));
    assert_all_answered(&site.results("done", "open").await, "open", 3);

    let shut = &site.reader().unfinished_batches().await.unwrap()[0];
    assert_eq!((shut.items, shut.succeeded, shut.failed), (5, 0, 0));
    let queued = site.reader().queued(shut.id, 0, 100).await.unwrap();
    assert_eq!(queued.len(), 5);
    assert!(queued.iter().all(|item| item.attempts == 0), "{queued:?}");
    let (_, limits) = daemon.get("/api/v1/limits").await;
    let buckets = limits["buckets"].as_array().unwrap();
    let state = |model: &str| {
        let bucket = buckets.iter().find(|bucket| bucket["model"] == model).unwrap();
        (bucket["state"].as_str().unwrap(), bucket["reason"].as_str().unwrap_or_default())
    };
    assert_eq!(state("gemini-1.5-flash").0, "open");
    let (shut_state, reason) = state(MODEL);
    assert_eq!(shut_state, "blocked");
    assert!(reason.contains("the provider's day is used up"), "{reason}");
    let models = emulator.stats().projects["demo"].models.clone();
    assert_eq!(models[MODEL].requests, 1, "the day is over for it");
    daemon.stop(&site).await;
}
