//! Plans and expectations: what `tidegate plan` says of files, the daemon of its batches, and that
//! asking changes nothing.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{MODEL, Site, emulator, job, model, project};

/// A site with so many requests of `MODEL` a minute and nobody at the other end.
fn site(rpm: u32, base_url: &str) -> Site {
    let site = Site::new(&project("demo", base_url, ""));
    site.edit_config("rpm = \"none\"", &format!("rpm = {rpm}"));
    site.open_socket();
    site
}

/// Writes a job file that is not dropped, and returns its path.
fn file(site: &Site, name: &str, content: &str) -> String {
    let path = site.path(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every file below a directory with its bytes.
fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        // SQLite's index of the log is shared memory: a reader's mark in it is no change.
        if path.is_file() && !path.to_string_lossy().ends_with("-shm") {
            let content = fs::read(&path).unwrap();
            // Nor is it one that the last reader removes a log with nothing in it.
            if !(content.is_empty() && path.to_string_lossy().ends_with("-wal")) {
                found.push((path.display().to_string(), content));
            }
        }
    }
    found.sort();
    found
}

fn minutes(plan: &Value) -> i64 {
    let at = |text: &Value| {
        chrono::DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap().timestamp()
    };
    (at(&plan["batches"][0]["finish_low"]) - at(&plan["generated_at"])) / 60
}

#[tokio::test]
async fn a_plan_without_a_database_says_when_and_what_binds_and_leaves_nothing() {
    let site = site(10, "http://127.0.0.1:9");
    let path = file(&site, "numbers.jsonl", &job("n", 35));
    let plan = site.json(&["plan", &path, "--json"]).await;
    let batch = &plan["batches"][0];
    // Ten at once, and three times ten more or less a minute later.
    assert_eq!(minutes(&plan), 3);
    assert_eq!(batch["requests"], 35);
    assert_eq!(batch["phases"][0]["binds"], "rpm");
    assert_eq!(batch["extrapolated"], false);
    assert_eq!(plan["queue_prompts"], 0);
    assert!(!site.path("state").exists(), "no database was made");
    assert_eq!(site.list("incoming"), Vec::<String>::new());
    let text = site.told(&["plan", &path]).await;
    assert!(text.contains("rpm of demo binds until"), "{text}");
}

#[tokio::test]
async fn a_plan_counts_what_waits_already_and_changes_no_byte() {
    let emulator = emulator(&model("")).await;
    let site = site(2, &emulator.base_url());
    site.drop_file("first.jsonl", job("first", 12));
    let daemon = site.serve().await;
    let busy = |bucket: &Value| bucket["in_flight"] == 0 && bucket["reason"].is_string();
    daemon.bucket_when(&site, MODEL, busy).await;
    let path = file(&site, "second.jsonl", &job("second", 2));
    let with_daemon = site.json(&["plan", &path, "--json"]).await;
    assert_eq!(with_daemon["queue_batches"], 1);
    assert_eq!(with_daemon["queue_prompts"], 10);
    // Five more windows for the first, and one for its own.
    assert!((5..=6).contains(&minutes(&with_daemon)), "{with_daemon}");
    assert!(with_daemon["batches"][0]["finish_alone"].is_string());
    daemon.stop(&site).await;
    let before = bytes(&site.path("state"));
    let without = site.json(&["plan", &path, "--json"]).await;
    assert_eq!(bytes(&site.path("state")), before);
    assert_eq!(without["queue_prompts"], 10);
    assert_eq!(without["batches"][0]["requests"], with_daemon["batches"][0]["requests"]);
    assert_eq!(without["batches"][0]["input_tokens"], with_daemon["batches"][0]["input_tokens"]);
    assert!((minutes(&without) - minutes(&with_daemon)).abs() <= 1, "{without}");
}

#[tokio::test]
async fn another_tier_is_tried_and_an_unknown_one_refused() {
    let site = Site::new(&project("demo", "http://127.0.0.1:9", ""));
    let flash = "{\"tidegate\":{\"model\":\"gemini-1.5-flash\"}}\n";
    let path = file(&site, "numbers.jsonl", &format!("{flash}{}", job("n", 60)));
    let free = site.json(&["plan", &path, "--json"]).await;
    let paid = site.json(&["plan", &path, "--tier", "tier1", "--json"]).await;
    assert!(minutes(&free) >= 3, "{free}");
    assert_eq!(minutes(&paid), 0, "{paid}");
    assert_eq!(paid["tier"], "tier1");
    let refused = site.run(&["plan", &path, "--tier", "gold"]).await;
    assert_eq!(refused.code, 64);
    assert!(refused.stderr.contains("no tier gold"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_plan_tells_what_a_submit_would_reject() {
    let site = site(10, "http://127.0.0.1:9");
    let path = file(&site, "bad.jsonl", &format!("{}no prompt\n", job("n", 2)));
    let plan = site.json(&["plan", &path, "--json"]).await;
    assert_eq!(plan["batches"][0]["bad_lines"], 1);
    let first = plan["batches"][0]["first_bad_line"].as_str().unwrap();
    assert!(first.starts_with("line 3:"), "{first}");
    let ended = site.run(&["plan", &path, "--project", "other"]).await;
    assert_eq!(ended.code, 64, "{}", ended.stderr);
}

#[tokio::test]
async fn the_daemon_expects_an_end_and_says_what_holds_an_item() {
    let emulator = emulator(&model("")).await;
    let site = site(2, &emulator.base_url());
    let deadline = "{\"tidegate\":{\"deadline\":\"2020-01-01T00:00:00Z\"}}\n";
    site.drop_file("first.jsonl", format!("{deadline}{}", job("first", 7)));
    let daemon = site.serve().await;
    let expected = site
        .until("a forecast", async || {
            let (_, list) = daemon.get("/api/v1/batches").await;
            let batch = list["batches"].get(0)?.clone();
            (batch["eta"]["low"].is_string() && batch["binds"] == "rpm").then_some(batch)
        })
        .await;
    assert!(expected["misses_deadline_by_s"].as_u64() > Some(0), "{expected}");
    let id = expected["id"].as_str().unwrap();
    let why = site.json(&["batches", "why", id, "--json"]).await;
    let route = &why["routes"][0];
    assert_eq!(route["needs"]["verdict"], "waits", "{why}");
    assert_eq!(route["needs"]["needs"][0]["dimension"], "rpm");
    assert_eq!(route["batches_before"], 0);
    assert_eq!(why["line"], 4, "{why}");
    let last = site.json(&["batches", "why", id, "--item", "k7", "--json"]).await;
    let by_line = site.json(&["batches", "why", id, "--item", "8", "--json"]).await;
    assert_eq!((&last["line"], &by_line["line"]), (&json!(8), &json!(8)));
    let gone = site.run(&["batches", "why", id, "--item", "nobody"]).await;
    assert_eq!(gone.code, 1);
    let text = site.told(&["batches", "why", id]).await;
    assert!(text.contains("first in the order"), "{text}");
}
