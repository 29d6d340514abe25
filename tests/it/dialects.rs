//! Every dialect that a job file may be in, answered by the emulator.

use std::io::Write;

use serde_json::Value;

use crate::harness::{Site, emulator, item, job, model, project, read, strict_emulator, window};
use tidegate::emulator::WindowKind;

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("results are UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn texts<'a>(lines: &'a [Value], at: &str) -> Vec<&'a str> {
    lines.iter().map(|line| line.pointer(at).and_then(Value::as_str).unwrap_or_default()).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).expect("packed");
    packed.finish().expect("packed")
}

fn chat(id: &str, prompt: &str) -> String {
    format!(
        "{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":\
         {{\"model\":\"gemini-2.0-flash\",\"messages\":[{{\"role\":\"user\",\"content\":\
         \"{prompt}\"}}]}}}}\n"
    )
}

const ANSWER: &str = "/response/candidates/0/content/parts/0/text";
const CHOICE: &str = "/response/body/choices/0/message/content";

#[tokio::test]
async fn every_dialect_is_answered_in_its_own() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("chat.jsonl", chat("c-1", "Name a river.") + &chat("c-2", "Name a sea."));
    let rows = "id,text\nr1,\"tide, high\"\nr2,\"said \"\"low\"\"\nand left\"\n";
    site.drop_file("rows.tidegate.toml", "template = \"Classify: {{text}}\"\n");
    site.drop_file("rows.csv", rows);
    let list = format!("[\n {} ,\n{}]", item("a", "First."), item("b", "Second."));
    site.drop_file("list.json", list);
    site.drop_file("one.json", r#"{"contents": [{"parts": [{"text": "Alone."}]}]}"#);
    site.drop_file("packed.txt.gz", gzip(b"What is an ebb?\nWhat is a flood?\n"));
    site.drop_file("deep.jsonl.zst", zstd::encode_all(job("z", 2).as_bytes(), 3).expect("zstd"));
    let daemon = site.serve().await;

    let chat = lines(&site.wait_for("done/chat.results.jsonl").await);
    assert_eq!(texts(&chat, "/custom_id"), ["c-1", "c-2"]);
    assert!(texts(&chat, CHOICE).iter().all(|text| !text.is_empty()), "{chat:?}");
    assert!(chat.iter().all(|line| line["response"]["status_code"] == 200), "{chat:?}");
    assert!(chat.iter().all(|line| line["error"].is_null()), "{chat:?}");
    for (name, keys) in [
        ("rows", &["r1", "r2"][..]),
        ("list", &["a", "b"]),
        ("one", &["1"]),
        ("packed", &["1", "2"]),
        ("deep", &["k1", "k2"]),
    ] {
        let found = lines(&site.wait_for(&format!("done/{name}.results.jsonl")).await);
        assert_eq!(texts(&found, "/key"), keys, "{name}: {found:?}");
        assert!(texts(&found, ANSWER).iter().all(|text| !text.is_empty()), "{name}: {found:?}");
    }
    site.all_over().await;
    let packed = read(&site.path("spool/done/packed.input"));
    assert_eq!(packed[0], 0x1f, "the input is kept as it was dropped");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn an_openai_project_answers_its_own_dialect_and_prompts() {
    let emulator = emulator(&model("")).await;
    let own = project("demo", &emulator.base_url(), "");
    let own = own.replacen("name = \"demo\"", "name = \"demo\"\nprovider = \"openai\"", 1);
    let site = Site::new(&own.replace("preset = \"gemini-2025-02\"\n", ""));
    site.drop_file("chat.jsonl", chat("c-1", "Name a river."));
    site.drop_file("prompts.txt", "What is an ebb?\n");
    site.drop_file("other.jsonl", job("gemini", 1));
    let daemon = site.serve().await;
    for name in ["chat", "prompts"] {
        let found = lines(&site.wait_for(&format!("done/{name}.results.jsonl")).await);
        let key = if name == "chat" { "c-1" } else { "1" };
        assert_eq!(texts(&found, "/custom_id"), [key], "{found:?}");
        assert!(!texts(&found, CHOICE)[0].is_empty(), "{found:?}");
    }
    let refused: Value = serde_json::from_slice(&site.wait_for("rejected/other.error.json").await)
        .expect("a document");
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("speaks OpenAI's dialect"), "{refused}");
    daemon.stop(&site).await;
}

/// What a filter or the model refused is an end of its own: no success, and not tried again.
#[tokio::test]
async fn blocked_answers_are_no_successes() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let content = item("good", "Name a river.") + "\n" + &item("bad", "[[block]] Name a sea.");
    site.drop_file("some.jsonl", content);
    let daemon = site.serve().await;
    let found = lines(&site.wait_for("done/some.results.jsonl").await);
    assert_eq!(texts(&found, "/key"), ["good", "bad"]);
    assert!(found[1]["response"].is_object(), "the provider's answer is kept: {found:?}");
    let report = site.report("done", "some").await;
    let counts = ["items", "succeeded", "blocked", "failed"].map(|name| report[name].as_u64());
    assert_eq!(counts, [Some(2), Some(1), Some(1), Some(0)], "{report}");
    site.all_over().await;
    let batch = site.batch("over", |batch| batch.finished_at.is_some()).await;
    let path = format!("/api/v1/batches/{}/retry", batch.uid);
    let (status, told) = daemon.post(&path, &Value::Null).await;
    assert_eq!(status, 409, "{told}");
    daemon.stop(&site).await;
}

/// Results can be read before the last one is there.
#[tokio::test]
async fn results_of_an_open_batch_are_read_so_far() {
    let emulator = strict_emulator(WindowKind::Sliding, 3, 600).await;
    let site = Site::new(&project("demo", &emulator.base_url(), &window(3, 600)));
    site.open_socket();
    site.drop_file("five.jsonl", job("five", 5));
    let daemon = site.serve().await;
    let batch = site.batch("three answered", |batch| batch.succeeded == 3).await;
    let told = site.told(&["batches", "results", &batch.uid]).await;
    let found = lines(told.as_bytes());
    assert_eq!(found.len(), 3, "{told}");
    assert!(texts(&found, ANSWER).iter().all(|text| !text.is_empty()), "{found:?}");
    daemon.stop(&site).await;
}
