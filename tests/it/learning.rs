//! What the provider's refusals teach, over the wire: limits, quota names, days, the use of others.

use serde_json::{Value, json};
use tidegate::emulator::Emulator;

use crate::harness::{Daemon, MODEL, Site, calls, emulator, job, limit, model, project};

/// A model of the preset that the configuration says nothing of: 15 requests a minute, 1,500 a
/// day.
const PRESET: &str = "gemini-1.5-flash";

/// `[[project.model]]` of `PRESET`.
fn preset_model(limits: &str) -> String {
    format!("[[project.model]]\nname = \"{PRESET}\"\n{limits}\n")
}

fn job_of(model: &str, name: &str, count: u32) -> String {
    format!("{{\"tidegate\":{{\"model\":\"{model}\"}}}}\n{}", job(name, count))
}

/// A site that sends one request at a time, so that one refusal is all that there is.
fn site(emulator: &Emulator) -> Site {
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.at_once(1);
    site.open_socket();
    site
}

/// The limit and who says so.
fn said(bucket: &Value, dimension: &str) -> Value {
    let limit = limit(bucket, dimension);
    json!([limit["limit"], limit["source"]])
}

/// Waits until a refusal has shut a bucket, and what it taught is durable.
async fn blocked(site: &Site, daemon: &Daemon, model: &str) -> Value {
    let is = |bucket: &Value| bucket["state"] == "blocked" && bucket["in_flight"] == 0;
    let bucket = daemon.bucket_when(site, model, is).await;
    let reader = site.reader();
    site.until("what was learned is kept", async || {
        (!reader.memories().await.unwrap().is_empty()).then_some(())
    })
    .await;
    bucket
}

/// Waits until a dropped batch is queued and is told why it waits.
async fn told_to_wait(site: &Site, daemon: &Daemon, name: &str) -> Value {
    site.until("the batch waits", async || {
        let (_, report) = daemon.get("/api/v1/batches").await;
        let batches = report["batches"].as_array().unwrap();
        let batch = batches.iter().find(|batch| batch["name"] == name)?;
        batch["reason"].is_string().then(|| batch.clone())
    })
    .await
}

/// The history of `demo`, without times.
async fn history(site: &Site) -> Vec<Value> {
    let history = site.json(&["limits", "history", "demo", "--json"]).await;
    let plain = |event: &Value| {
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove("at").unwrap();
        event
    };
    history["events"].as_array().unwrap().iter().map(plain).collect()
}

fn learned(model: &str, dimension: &str, was: &str, became: &str, quota: &str) -> Value {
    json!({"quota_group": model, "dimension": dimension, "was": was, "became": became,
        "source": "learned", "reason": quota})
}

#[tokio::test]
async fn a_lower_limit_is_learned_of_one_refusal_and_kept_over_a_kill() {
    let emulator = emulator(&preset_model("rpm = 4")).await;
    let site = site(&emulator);
    site.drop_file("job.jsonl", job_of(PRESET, "job", 6));
    let daemon = site.serve().await;
    let bucket = blocked(&site, &daemon, PRESET).await;
    assert_eq!(said(&bucket, "rpm"), json!([4, "learned"]), "{bucket}");
    assert!(bucket["reason"].as_str().unwrap().contains("PerMinute"), "{bucket}");
    let quota = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
    let expected = [learned(PRESET, "rpm", "15", "4", quota)];
    assert_eq!(history(&site).await, expected);
    let told = site.told(&["limits"]).await;
    assert!(told.contains("learned"), "{told}");

    daemon.kill();
    let daemon = site.serve().await;
    assert_eq!(said(&daemon.bucket(PRESET).await, "rpm"), json!([4, "learned"]));
    assert_eq!(history(&site).await, expected, "it is learned once");
    told_to_wait(&site, &daemon, "job").await;
    let used = limit(&daemon.bucket(PRESET).await, "rpm")["used"].as_u64().unwrap();
    assert!(used >= 4, "{used}");

    // Whoever knows better says so, and what was learned is forgotten with it.
    site.told(&["limits", "set", "demo", PRESET, "rpm", "3"]).await;
    assert_eq!(said(&daemon.bucket(PRESET).await, "rpm"), json!([3, "set"]));
    site.told(&["limits", "unset", "demo", PRESET, "rpm"]).await;
    let source = "preset:gemini-2025-02/free";
    assert_eq!(said(&daemon.bucket(PRESET).await, "rpm"), json!([15, source]));
    let counts = emulator.stats().counts;
    assert_eq!((counts.accepted, counts.throttled), (4, 1), "no second refusal");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_used_up_day_holds_to_its_end_whatever_wait_is_asked_for_and_over_a_kill() {
    let emulator = emulator(&preset_model("rpd = 3\nretry_delay = \"22s\"")).await;
    let site = site(&emulator);
    site.drop_file("job.jsonl", job_of(PRESET, "job", 5));
    let daemon = site.serve().await;
    let bucket = blocked(&site, &daemon, PRESET).await;
    assert_eq!(said(&bucket, "rpd"), json!([3, "learned"]), "{bucket}");
    let quota = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
    let reason = format!("the provider's day is used up ({quota})");
    assert_eq!(bucket["reason"], reason.as_str());
    let until = bucket["until"].as_str().unwrap();
    let ends = limit(&bucket, "rpd")["resets_at"].as_str().unwrap().to_owned();
    assert!(until > ends.as_str(), "{until} is not after {ends}");
    assert_eq!(until[..16], ends[..16], "it opens within the minute");

    daemon.kill();
    let daemon = site.serve().await;
    let batch = told_to_wait(&site, &daemon, "job").await;
    assert_eq!(batch["queued"], 2, "{batch}");
    assert!(batch["waiting_until"].as_str().unwrap() > ends.as_str(), "{batch}");
    let after = daemon.bucket(PRESET).await;
    assert_eq!(said(&after, "rpd"), json!([3, "learned"]));
    assert_eq!((&after["state"], &after["reason"]), (&json!("blocked"), &json!(reason)));
    let asked = site.json(&["limits", "explain", "demo", PRESET, "--json"]).await;
    assert_eq!(asked["verdict"], "waits", "{asked}");
    assert!(asked["until"].as_str().unwrap() > ends.as_str(), "{asked}");
    assert_eq!(history(&site).await, [learned(PRESET, "rpd", "1500", "3", quota)]);
    let statuses: Vec<_> =
        calls(&emulator).await.iter().map(|call| call["status"].clone()).collect();
    assert_eq!(statuses, [200, 200, 200, 429], "nothing is sent after the refusal");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_higher_limit_is_taken_up_for_a_preset_and_shown_beside_a_written_one() {
    let knobs = "rpm = 1\nquota_value = 40";
    let emulator = emulator(&(model(knobs) + &preset_model(knobs))).await;
    let site = site(&emulator);
    site.edit_config("rpm = \"none\"", "rpm = 10");
    site.drop_file("preset.jsonl", job_of(PRESET, "preset", 2));
    site.drop_file("written.jsonl", job("written", 2));
    let daemon = site.serve().await;
    let raised = blocked(&site, &daemon, PRESET).await;
    assert_eq!(said(&raised, "rpm"), json!([40, "learned"]), "{raised}");
    let kept = blocked(&site, &daemon, MODEL).await;
    assert_eq!(said(&kept, "rpm"), json!([10, "config"]), "{kept}");
    assert_eq!(limit(&kept, "rpm")["provider_allows"], 40, "{kept}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn models_that_the_provider_counts_as_one_count_as_one() {
    let knob = format!("rpm = 2\nquota_model = \"{MODEL}\"");
    let emulator = emulator(&(model("") + &preset_model(&knob))).await;
    let site = site(&emulator);
    site.edit_config("rpm = \"none\"", "rpm = 9");
    site.drop_file("own.jsonl", job("own", 3));
    let daemon = site.serve().await;
    site.wait_for("done/own.results.jsonl").await;
    let used = async |daemon: &Daemon, model| {
        limit(&daemon.bucket(model).await, "rpm")["used"].as_u64().unwrap()
    };
    assert_eq!((used(&daemon, MODEL).await, used(&daemon, PRESET).await), (3, 0));

    site.drop_file("other.jsonl", job_of(PRESET, "other", 3));
    daemon.says(&site, "as one quota").await;
    blocked(&site, &daemon, PRESET).await;
    let both = (used(&daemon, MODEL).await, used(&daemon, PRESET).await);
    assert_eq!(both.0, both.1, "one quota");
    assert!(both.0 >= 6, "three of each: {both:?}");
    site.drop_file("more.jsonl", job("more", 1));
    let held = told_to_wait(&site, &daemon, "more").await;
    // The provider's no and the limit that it taught end within a second of each other; the later
    // one is told.
    let reason = held["reason"].as_str().unwrap();
    assert!(reason.contains("used up") || reason.starts_with("rpm: needs 1, 0 of 2"), "{held}");

    daemon.kill();
    let daemon = site.serve().await;
    let both = (used(&daemon, MODEL).await, used(&daemon, PRESET).await);
    assert_eq!(both.0, both.1, "after a kill too");
    assert!(both.0 >= 6, "{both:?}");
    told_to_wait(&site, &daemon, "more").await;
    assert_eq!(emulator.stats().counts.requests, 6);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_limit_of_zero_shuts_the_model_for_the_day_and_no_other() {
    let emulator = emulator(&(model("") + &preset_model("rpm = 0"))).await;
    let site = site(&emulator);
    site.drop_file("job.jsonl", job_of(PRESET, "job", 3));
    let daemon = site.serve().await;
    let bucket = blocked(&site, &daemon, PRESET).await;
    let reason = bucket["reason"].as_str().unwrap();
    assert!(reason.contains("the provider's limit is 0: not on this tier"), "{reason}");
    let ends = limit(&bucket, "rpd")["resets_at"].clone();
    assert!(bucket["until"].as_str().unwrap() > ends.as_str().unwrap(), "{bucket}");
    site.drop_file("well.jsonl", job("well", 2));
    site.wait_for("done/well.results.jsonl").await;

    daemon.kill();
    let daemon = site.serve().await;
    let batch = told_to_wait(&site, &daemon, "job").await;
    assert!(batch["reason"].as_str().unwrap().contains("limit is 0"), "{batch}");
    let asked = calls(&emulator).await;
    assert_eq!(asked.iter().filter(|call| call["model"] == PRESET).count(), 1, "{asked:?}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_somebody_else_uses_is_seen_and_shown() {
    // The other client has filled the minute before the daemon asks for the first time.
    let others = "rpm = 15\nexternal = { per_minute = 10_000 }";
    let emulator = emulator(&preset_model(others)).await;
    let site = site(&emulator);
    let daemon = site.serve().await;
    site.until("others have filled the minute", async || {
        let filled = |stats: &tidegate::emulator::ExternalStats| stats.throttled > 0;
        emulator.stats().external.values().all(filled).then_some(())
    })
    .await;
    site.drop_file("job.jsonl", job_of(PRESET, "job", 2));
    let bucket = blocked(&site, &daemon, PRESET).await;
    // All but the refused request itself, which the books count.
    assert_eq!(bucket["others_percent"], 94, "{bucket}");
    let rpm = limit(&bucket, "rpm");
    assert_eq!((&rpm["limit"], &rpm["free"]), (&json!(15), &json!(0)), "{rpm}");
    assert!(rpm["usable"].as_u64().unwrap() < 15, "{rpm}");
    assert_eq!(rpm["source"], "preset:gemini-2025-02/free", "the limit is what it was");
    let words = "someone else uses ~94 % of its quota";
    let told = site.told(&["limits"]).await;
    assert!(told.contains(words), "{told}");
    assert_eq!(history(&site).await, [Value::Null; 0]);

    daemon.kill();
    let daemon = site.serve().await;
    let told = site.told(&["limits"]).await;
    assert!(told.contains(words), "{told}");
    told_to_wait(&site, &daemon, "job").await;
    assert_eq!(emulator.stats().counts.requests, 1);
    daemon.stop(&site).await;
}
