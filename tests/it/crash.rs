//! The daemon is killed, and the next one goes on where it was.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tidegate::emulator::WindowKind;
use tidegate::gate::units::UnixMs;
use tidegate::store::{BatchState, NewBatch, ProjectSetup, Source, Store};

use crate::harness::{
    MODEL, Site, assert_all_answered, item, job, latency, model, project, read, start_emulator,
    window,
};

const ITEMS: u32 = 60;
const LIMIT: u32 = 20;
const WINDOW_S: u64 = 2;

#[tokio::test]
async fn five_kills_lose_no_item_double_no_answer_and_exceed_no_limit() {
    let emulator = start_emulator(&model(&format!("rpm = {LIMIT}")), |config| {
        config.window = WindowKind::Sliding;
        config.minute = Duration::from_secs(WINDOW_S);
        config.latency = latency(200, 800);
    })
    .await;
    let limits = window(LIMIT, WINDOW_S);
    let site = Site::new(&project("demo", &emulator.base_url(), &limits));
    site.drop_file("job.jsonl", job("job", ITEMS));
    // Early and late in the flight of a window's requests.
    for after in [1, 18, 5, 12, 9] {
        let seen = emulator.stats().counts.requests;
        let daemon = site.serve().await;
        site.until("requests arrive", async || {
            (emulator.stats().counts.requests >= seen + after).then_some(())
        })
        .await;
        daemon.kill();
    }
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", ITEMS);

    let stats = emulator.stats();
    let worst = &stats.worst_window["demo/gemini-2.0-flash"];
    assert_eq!(stats.counts.throttled, 0, "{stats:?}");
    assert!(worst.requests <= u64::from(LIMIT), "{worst:?}");
    let usage = site.usage().await;
    assert!(usage.attempts.unsigned_abs() >= stats.counts.requests, "{usage:?}\n{stats:?}");
    assert!(usage.in_doubt > 0, "no kill met a request under way: {usage:?}");
    assert_eq!(usage.open, 0, "{usage:?}");
    assert_eq!(usage.ok, i64::from(ITEMS), "an answer that was settled is not asked for again");
    assert!(site.reader().open_attempts().await.unwrap().is_empty());
    daemon.stop(&site).await;
}

#[tokio::test]
async fn an_import_that_was_cut_off_goes_on() {
    const LINES: u32 = 200_000;
    let site = Site::new(&project("demo", "http://127.0.0.1:9", ""));
    let first = r#"{"tidegate":{"not_before":"2099-01-01T00:00:00Z"}}"#;
    let mut text = format!("{first}\n");
    for n in 1..=LINES {
        text.push_str(&item(&format!("k{n}"), "x"));
        text.push('\n');
    }
    site.drop_file("large.jsonl", &text);
    let daemon = site.serve().await;
    let batch = site.batch("the import is under way", |_| true).await;
    assert_eq!(batch.state, BatchState::Importing);
    daemon.kill();
    assert_eq!(site.batch("it is known", |_| true).await.state, BatchState::Importing);

    let daemon = site.spawn(&["serve"]);
    let batch = site.batch("the batch is open", |batch| batch.state == BatchState::Open).await;
    assert_eq!(batch.items, u64::from(LINES));
    // Its original may still be there: the first scan after the start takes it for what it is.
    daemon.says(&site, "ready").await;
    assert_eq!(site.list("incoming"), [""; 0]);
    assert_eq!(site.list("working").len(), 1);
    let reader = site.reader();
    assert_eq!(reader.batches(10).await.unwrap().len(), 1, "it is one batch");
    // The last page of the queue points at the last lines of the file.
    let last = reader.queued(batch.id, batch.id.item(LINES), 10).await.unwrap();
    let [last] = last.as_slice() else { panic!("{last:?}") };
    let start = usize::try_from(last.offset).unwrap();
    let length = usize::try_from(last.bytes).unwrap();
    assert_eq!(&text[start..start + length], item(&format!("k{LINES}"), "x"));
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_told_end_waits_for_what_is_under_way() {
    let emulator = start_emulator(&model(""), |config| config.latency = latency(500, 900)).await;
    // Ten may go in any hour: the rest waits.
    let limits = window(10, 3_600);
    let site = Site::new(&project("demo", &emulator.base_url(), &limits));
    site.drop_file("job.jsonl", job("job", 15));
    let daemon = site.serve().await;
    site.until("several are under way", async || {
        (emulator.stats().max_in_flight >= 5).then_some(())
    })
    .await;
    daemon.stop(&site).await;
    let usage = site.usage().await;
    let counts = emulator.stats().counts;
    assert_eq!((usage.open, usage.in_doubt), (0, 0), "{usage:?}");
    assert_eq!(usage.ok.unsigned_abs(), counts.accepted, "{usage:?}\n{counts:?}");
    assert!(usage.ok >= 5, "{usage:?}");

    // The next daemon remembers what the window holds.
    let daemon = site.serve().await;
    site.until("the window is used up", async || {
        (emulator.stats().counts.accepted == 10 && site.usage().await.ok == 10).then_some(())
    })
    .await;
    assert!(!daemon.log().contains("cut off by the last end"), "{}", daemon.log());
    site.edit_config("limit = 10", "limit = 1000");
    daemon.stop(&site).await;
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 15);
    assert_eq!(emulator.stats().counts.requests, 15, "none was sent twice");
    daemon.stop(&site).await;
}

/// An end while results are written is as harmless as any other.
#[tokio::test]
async fn a_kill_at_the_end_of_a_batch_leaves_one_whole_results_file() {
    let emulator = start_emulator(&model(""), |_| {}).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("job.jsonl", job("job", 8));
    let daemon = site.serve().await;
    site.until("all are asked", async || (emulator.stats().counts.accepted >= 8).then_some(()))
        .await;
    daemon.kill();
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 8);
    site.all_over().await;
    assert_eq!(site.list("done"), ["job.input", "job.report.json", "job.results.jsonl"]);
    assert_eq!(site.list("working"), [""; 0]);
    daemon.stop(&site).await;
}

/// Enters a dropped file the way the daemon does and ends its batch, but leaves the file.
async fn enter(store: &Store, site: &Site, file_name: &str, submitted_at: UnixMs) {
    let path = site.path("spool/incoming").join(file_name);
    let stat = std::fs::metadata(&path).unwrap();
    let sha256 = Sha256::digest(read(&path))
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let groups = [(MODEL.to_owned(), vec![MODEL.to_owned()])].into();
    let project = ProjectSetup { name: "demo".to_owned(), groups };
    let ids = store.sync_project(project).await.unwrap();
    let batch = NewBatch {
        uid: format!("uid of {file_name}"),
        work: format!("work-of-{}", file_name.trim_end_matches(".jsonl")),
        file_name: file_name.to_owned(),
        out_name: file_name.trim_end_matches(".jsonl").to_owned(),
        dialect: "gemini-jsonl".to_owned(),
        project_id: ids.id,
        bucket_id: ids.buckets[MODEL],
        model: MODEL.to_owned(),
        tenant: "t".to_owned(),
        priority: 1,
        in_doubt: "retry".to_owned(),
        on_bad_line: "reject".to_owned(),
        not_before: None,
        deadline: None,
        max_cost_nanos: None,
        pool: None,
        fallback: Vec::new(),
        patience_ms: None,
        pace: "asap".to_owned(),
        template: None,
        answers: "gemini".to_owned(),
        source: Source {
            dev: stat.dev().cast_signed(),
            ino: stat.ino().cast_signed(),
            mtime_ns: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
            bytes: stat.len().cast_signed(),
            uid: stat.uid().into(),
            sha256,
        },
        submitted_at,
    };
    let id = store.enter_batch(batch).await.unwrap();
    store.finish_batch(id, BatchState::Done, submitted_at).await.unwrap();
}

/// The daemon enters a file and then removes it; a kill between the two leaves it. But inodes are
/// used again and times are copied along (`cp -p`), so what came later is another drop.
#[tokio::test]
async fn a_file_that_was_entered_is_not_entered_again_and_a_later_one_like_it_is() {
    let emulator = start_emulator(&model(""), |_| {}).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.drop_file("entered.jsonl", job("entered", 2));
    site.drop_file("later.jsonl", job("later", 3));
    let now = tidegate::clock::now().wall;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim().to_owned();
    let store = Store::open(&site.path("state"), &boot).await.unwrap();
    enter(&store, &site, "entered.jsonl", now.plus(1_000)).await;
    enter(&store, &site, "later.jsonl", now.minus(3_600_000)).await;
    drop(store);
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "later").await, "later", 3);
    site.until("both are taken", async || site.list("incoming").is_empty().then_some(())).await;
    site.all_over().await;
    assert_eq!(emulator.stats().counts.requests, 3, "nothing is asked twice");
    assert_eq!(site.list("working"), [""; 0]);
    assert!(daemon.log().contains("this drop is known"), "{}", daemon.log());
    daemon.stop(&site).await;
}
