//! Image items: charged by the images that are asked for, settled by those that come.

use std::time::Duration;

use serde_json::json;
use tidegate::emulator::{Emulator, WindowKind};

use crate::harness::{MODEL, Site, model, project, start_emulator};

/// Images in any of these windows.
const LIMIT: u64 = 4;
const SECONDS: u64 = 2;

/// A line that asks for so many images.
fn image_item(n: u32, images: u32) -> String {
    json!({"key": format!("k{n}"), "request": {
        "contents": [{"role": "user", "parts": [{"text": format!("picture {n}")}]}],
        "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "candidateCount": images},
    }})
    .to_string()
}

async fn image_emulator(kind: WindowKind, more: &str) -> Emulator {
    start_emulator(&model(&format!("ipm = {LIMIT}\n{more}")), |config| {
        config.window = kind;
        config.minute = Duration::from_secs(SECONDS);
        config.seed = 5;
    })
    .await
}

/// Runs items that ask for these many images, and returns how many came.
async fn run(emulator: &Emulator, asked: &[u32]) -> u64 {
    let extra = format!(
        "[[project.limits.extra]]\ndimension = \"images\"\nwindow = \"{SECONDS}s\"\nlimit = {LIMIT}"
    );
    let site = Site::new(&project("demo", &emulator.base_url(), &extra));
    let lines = asked.iter().zip(1..).map(|(images, n)| image_item(n, *images) + "\n");
    site.drop_file("pictures.jsonl", lines.collect::<String>());
    let daemon = site.serve().await;
    let text = site.wait_for("done/pictures.results.jsonl").await;
    let came = String::from_utf8(text).unwrap().matches("\"inlineData\"").count();
    let stats = emulator.stats();
    let items = u64::try_from(asked.len()).unwrap();
    assert_eq!((stats.counts.accepted, stats.counts.throttled), (items, 0));
    let worst = &stats.worst_window[&format!("demo/{MODEL}")];
    assert!(worst.images <= LIMIT, "{worst:?}");
    let (_, usage) = daemon.get("/api/v1/usage").await;
    let images = usage["totals"]["images"].as_u64().unwrap();
    assert_eq!((images, stats.counts.images), (u64::try_from(came).unwrap(), images), "{usage}");
    assert_eq!(usage["totals"]["attempts"], items, "{usage}");
    daemon.stop(&site).await;
    images
}

#[tokio::test]
async fn images_wait_for_their_own_limit_and_are_counted_as_they_come() {
    let emulator = image_emulator(WindowKind::Sliding, "").await;
    let asked = [1, 2, 1, 3, 1, 4, 1];
    assert_eq!(run(&emulator, &asked).await, 13);
}

#[tokio::test]
async fn images_that_do_not_come_are_not_charged() {
    let emulator = image_emulator(WindowKind::Fixed, "images_returned = [0, 2]").await;
    // All of them at once would be three windows.
    let came = run(&emulator, &[4, 4, 4, 4]).await;
    assert!(came < 9, "{came} of 16");
}

#[tokio::test]
async fn what_asks_for_more_images_than_ever_fit_is_refused() {
    let emulator = image_emulator(WindowKind::Fixed, "").await;
    let extra = "[[project.limits.extra]]\ndimension = \"images\"\nwindow = \"2s\"\nlimit = 4";
    let site = Site::new(&project("demo", &emulator.base_url(), extra));
    site.drop_file("pictures.jsonl", image_item(1, 5) + "\n" + &image_item(2, 4) + "\n");
    let daemon = site.serve().await;
    let refused = site.wait_for("rejected/pictures.error.json").await;
    let refused = String::from_utf8(refused).unwrap();
    assert!(refused.contains("images"), "{refused}");
    assert_eq!(emulator.stats().counts.requests, 0);
    daemon.stop(&site).await;
}
