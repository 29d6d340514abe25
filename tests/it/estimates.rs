//! Tokens that the provider counts before a request is sent.

use serde_json::{Value, json};
use tidegate::emulator::Emulator;
use tidegate::gate::units::{BootMs, Now, UnixMs};

use crate::harness::{MODEL, Site, calls, item, model, project, start_emulator};

/// Answers say nothing of their tokens, so that what was reserved stays in the books.
async fn silent_emulator() -> Emulator {
    start_emulator(&model("fault = { no_usage = 1.0 }"), |_| {}).await
}

fn site(emulator: &Emulator, tpm: u32) -> Site {
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.edit_config("tpm = \"none\"", &format!("tpm = {tpm}"));
    site
}

/// Each call that the emulator saw, with the tokens that it counted.
async fn seen(emulator: &Emulator) -> Vec<(String, u64)> {
    let call = |call: &Value| {
        let tokens = call["input_tokens"].as_u64().unwrap();
        (call["call"].as_str().unwrap().to_owned(), tokens)
    };
    calls(emulator).await.iter().map(call).collect()
}

/// What each attempt of the ledger weighs, in order.
async fn reserved(site: &Site) -> Vec<u64> {
    let now = Now { boot: BootMs(0), wall: UnixMs(0) };
    let mut attempts = site.reader().attempts_back(now, 0).await.unwrap();
    attempts.sort_by_key(|attempt| attempt.id);
    attempts.iter().map(|attempt| attempt.weights.input_tokens).collect()
}

#[tokio::test]
async fn the_tokens_of_a_file_are_counted_before_it_is_sent() {
    let emulator = silent_emulator().await;
    let site = site(&emulator, 100_000);
    let file = json!({"fileUri": "https://files.example/f1", "mimeType": "application/pdf"});
    let text = "a question on a file, ".repeat(40);
    let parts = json!([{"fileData": file}, {"text": text}]);
    let line = json!({"key": "k1", "request": {"contents": [{"role": "user", "parts": parts}]}});
    site.drop_file("file.jsonl", format!("{line}\n"));
    let daemon = site.serve().await;
    site.wait_for("done/file.results.jsonl").await;
    let seen = seen(&emulator).await;
    let names: Vec<_> = seen.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(names, ["countTokens", "generateContent"]);
    // A count is free: the log has the tokens at the request that was counted.
    assert_eq!(reserved(&site).await, [seen[1].1], "what was counted is reserved");
    let usage = site.usage().await;
    assert_eq!((usage.attempts, usage.ok), (1, 1), "a count is no attempt");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn strict_estimates_have_large_prompts_counted_and_small_ones_not() {
    let large = item("large", &"word ".repeat(1_000));
    let small = item("small", "a few words");
    let lines = format!("{large}\n{small}\n");
    let run = async |strict: bool| {
        let emulator = silent_emulator().await;
        let site = site(&emulator, 10_000);
        site.at_once(1);
        if strict {
            site.edit_config("tier = \"free\"", "tier = \"free\"\nestimates = \"strict\"");
        }
        site.drop_file("job.jsonl", &lines);
        let daemon = site.serve().await;
        site.wait_for("done/job.results.jsonl").await;
        daemon.stop(&site).await;
        (seen(&emulator).await, reserved(&site).await)
    };
    let (seen, weights) = run(true).await;
    let names: Vec<_> = seen.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(names, ["countTokens", "generateContent", "generateContent"]);
    assert_eq!(weights[0], seen[1].1);
    assert!(weights[1] >= seen[2].1, "the other one is estimated");

    let (seen, weights) = run(false).await;
    assert!(seen.iter().all(|(call, _)| call == "generateContent"), "{seen:?}");
    assert!(weights[0] > seen[0].1, "the estimate is above what {MODEL} counts: {weights:?}");
}

#[tokio::test]
async fn what_the_provider_will_not_count_is_estimated() {
    let emulator = start_emulator(&model(""), |_| {}).await;
    emulator.inject([tidegate::emulator::Fault::once(tidegate::emulator::FaultKind::Unavailable)]);
    let site = site(&emulator, 10_000);
    site.edit_config("tier = \"free\"", "tier = \"free\"\nestimates = \"strict\"");
    site.drop_file("job.jsonl", item("k1", &"word ".repeat(1_000)) + "\n");
    let daemon = site.serve().await;
    let results = site.results("done", "job").await;
    assert!(results[0].text.is_some(), "{results:?}");
    assert!(daemon.log().contains("the tokens of an item are estimated"), "{}", daemon.log());
    let seen = seen(&emulator).await;
    let names: Vec<_> = seen.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(names, ["countTokens", "generateContent"]);
    daemon.stop(&site).await;
}
