//! The main way: files in, answers out, with the provider's limits kept.

use tidegate::emulator::{Emulator, WindowKind};
use tidegate::store::{Batch, BatchState};

use crate::harness::{
    KEY, MODEL, Site, assert_all_answered, assert_answers, emulator, item, job, model, project,
    read, strict_emulator, window,
};

/// What the ledger holds is what the provider counted.
async fn assert_books_agree(site: &Site, emulator: &Emulator) {
    let (ledger, counted) = (site.usage().await, emulator.stats().counts);
    let ours = [
        ledger.attempts,
        ledger.ok,
        ledger.throttled,
        ledger.input_tokens,
        ledger.output_tokens + ledger.thought_tokens,
    ];
    let theirs = [
        counted.requests,
        counted.accepted,
        counted.throttled,
        counted.input_tokens,
        counted.output_tokens,
    ];
    assert_eq!(ours, theirs.map(u64::cast_signed), "{ledger:?}\n{counted:?}");
    assert_eq!(ledger.open, 0);
}

async fn forty_through_fifteen(kind: WindowKind) {
    let emulator = strict_emulator(kind, 15, 6).await;
    let site = Site::new(&project("demo", &emulator.base_url(), &window(15, 6)));
    site.drop_file("forty.jsonl", job("forty", 40));
    let daemon = site.serve().await;
    let results = site.results("done", "forty").await;
    assert_all_answered(&results, "forty", 40);
    assert_eq!(emulator.stats().counts.throttled, 0, "{kind:?}");
    let report = site.report("done", "forty").await;
    for (field, count) in [("items", 40), ("succeeded", 40), ("attempts", 40), ("throttled", 0)] {
        assert_eq!(report[field], count, "{kind:?}: {report}");
    }
    assert_eq!(report["input_tokens"], emulator.stats().counts.input_tokens);
    site.all_over().await;
    assert_eq!(read(&site.path("spool/done/forty.input")), job("forty", 40).as_bytes());
    assert_eq!(site.list("working"), [""; 0]);
    assert_books_agree(&site, &emulator).await;
    daemon.stop(&site).await;
}

/// Side by side: most of it is waiting for windows.
#[tokio::test]
async fn forty_items_pass_a_window_of_fifteen_unrefused_however_the_provider_counts() {
    tokio::join!(
        forty_through_fifteen(WindowKind::Sliding),
        forty_through_fifteen(WindowKind::Fixed),
        forty_through_fifteen(WindowKind::Bucket),
    );
}

#[tokio::test]
async fn options_stand_in_the_first_line_or_beside_the_file() {
    let (here, there) = (emulator(&model("")).await, emulator(&model("")).await);
    let other = "[[project.model]]\nname = \"gemini-1.5-flash\"\n";
    let third = emulator(other).await;
    let projects = [
        project("demo", &here.base_url(), ""),
        project("there", &there.base_url(), ""),
        project("third", &third.base_url(), ""),
    ];
    let site = Site::new(&projects.concat());
    site.drop_file("plain.txt", "What is an ebb?\n\nName \"three\" rivers.\r\n");
    let first = r#"{"tidegate":{"project":"there","name":"renamed","tenant":"t1"}}"#;
    site.drop_file("line.jsonl", format!("{first}\n{}", job("line", 2)));
    let far = "model = \"models/gemini-1.5-flash\"\nproject = \"third\"\npriority = \"low\"\n";
    site.drop_file("beside.tidegate.toml", far);
    site.drop_file("beside.jsonl", job("beside", 1));
    let never = r#"{"tidegate":{"not_before":"2099-01-01T00:00:00Z"}}"#;
    site.drop_file("later.jsonl", format!("{never}\n{}", job("later", 3)));
    let daemon = site.serve().await;

    let plain = site.results("done", "plain").await;
    let keys: Vec<_> = plain.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(keys, ["1", "3"], "a text line's key is its number");
    assert_answers(&plain[0], "What is an ebb?");
    assert_answers(&plain[1], "Name \"three\" rivers.");

    assert_all_answered(&site.results("done", "renamed").await, "line", 2);
    let report = site.report("done", "renamed").await;
    assert_eq!((&report["project"], &report["tenant"]), (&"there".into(), &"t1".into()));
    assert_eq!(there.stats().counts.requests, 2);

    assert_all_answered(&site.results("done", "beside").await, "beside", 1);
    assert_eq!(site.report("done", "beside").await["model"], "gemini-1.5-flash");
    assert_eq!(third.stats().counts.accepted, 1);

    // All others are over, in the same project too: this one waits for its time.
    let is_open = |batch: &Batch| batch.out_name == "later" && batch.state == BatchState::Open;
    let later = site.batch("the batch of later is open", is_open).await;
    assert_eq!((later.items, later.succeeded, later.failed), (3, 0, 0));
    assert_eq!(here.stats().counts.requests, 2, "only the text file's");
    assert_eq!(site.list("incoming"), [""; 0], "the options file went with its file");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_submitted_file_is_answered_under_the_id_that_was_printed() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let daemon = site.serve().await;
    let file = site.path("prompts.jsonl");
    std::fs::write(&file, job("prompts", 2)).unwrap();
    let ended = site.run(&["submit", "--tenant", "me", &file.display().to_string()]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_all_answered(&site.results("done", "prompts").await, "prompts", 2);
    let report = site.report("done", "prompts").await;
    assert_eq!(report["id"], ended.stdout.trim());
    assert_eq!(report["tenant"], "me");
    assert_eq!(report["model"], MODEL);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn the_key_is_in_no_file_and_no_log() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let daemon = site.spawn(&["--log", "trace", "serve"]);
    site.drop_file("job.txt", "a most private prompt\n");
    site.results("done", "job").await;
    daemon.stop(&site).await;
    assert!(!site.logs().contains(KEY), "the key is in the log");
    assert!(!site.logs().contains("most private"), "a prompt is in the log");
    let mut looked = 0;
    for dir in ["state", "spool/done"] {
        for entry in std::fs::read_dir(site.path(dir)).unwrap() {
            let path = entry.unwrap().path();
            looked += 1;
            let bytes = read(&path);
            let found = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
            assert!(!found, "the key is in {}", path.display());
        }
    }
    assert!(looked >= 4, "{looked} files");
}

#[tokio::test]
async fn more_lines_than_fit_in_memory_at_once_keep_their_order() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let lines: Vec<_> = (1..=600).map(|n| item(&format!("k{n}"), &n.to_string())).collect();
    site.drop_file("many.jsonl", lines.join("\n"));
    let daemon = site.serve().await;
    let results = site.results("done", "many").await;
    assert_eq!(results.len(), 600);
    for (line, n) in results.iter().zip(1..) {
        assert_eq!(line.key, format!("k{n}"));
        assert_answers(line, &n.to_string());
    }
    assert_books_agree(&site, &emulator).await;
    daemon.stop(&site).await;
}
