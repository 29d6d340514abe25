//! Batches to their end: `tidegate run` and `tidegate batches follow`.

use serde_json::Value;

use crate::harness::{
    Site, assert_all_answered, emulator, job, latency, model, project, start_emulator, window,
};

/// A job of which one line cannot be an item.
fn with_a_bad_line(name: &str) -> String {
    format!("{}{{\"key\":\"bad\"}}\n", job(name, 2))
}

#[tokio::test]
async fn without_a_daemon_it_runs_one_of_its_own_to_the_end() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", 5)).unwrap();
    let path = file.to_str().unwrap();
    let results = site.path("spool/done/job.results.jsonl");
    assert_eq!(site.told(&["run", path]).await, format!("{}\n", results.display()));
    assert_all_answered(&site.results("done", "job").await, "job", 5);

    std::fs::write(&file, with_a_bad_line("job")).unwrap();
    let partial = site.run(&["run", "--json", "--on-bad-line=skip", path]).await;
    assert_eq!(partial.code, 2, "{}", partial.stderr);
    let report: Value = serde_json::from_str(&partial.stdout).unwrap();
    let batch = &report["batches"][0];
    assert_eq!((&batch["succeeded"], &batch["failed"]), (&2.into(), &1.into()), "{batch}");
    assert_eq!(batch["results"], site.path("spool/done/job.2.results.jsonl").to_str().unwrap());

    let rejected = site.run(&["run", path]).await;
    assert_eq!((rejected.code, rejected.stdout.as_str()), (1, ""), "{}", rejected.stderr);
    assert!(rejected.stderr.contains("job.jsonl is rejected: 1 bad line"), "{}", rejected.stderr);
    let unknown = site.run(&["run", "--project=nobody", path]).await;
    assert!(unknown.code == 64 && unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    assert!(!site.path("state/run.socket").exists());
}

#[tokio::test]
async fn an_interrupted_run_drains_and_the_same_command_goes_on_with_it() {
    const ITEMS: u32 = 12;
    let emulator = start_emulator(&model(""), |config| config.latency = latency(100, 200)).await;
    let site = Site::new(&project("demo", &emulator.base_url(), &window(4, 1)));
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", ITEMS)).unwrap();
    let args = ["run", file.to_str().unwrap()];
    let run = site.spawn(&args);
    site.until("requests arrive", async || (emulator.stats().counts.requests >= 2).then_some(()))
        .await;
    // Others see what it does.
    let listed = site.json(&["batches", "--json"]).await;
    assert_eq!(listed["batches"][0]["file"], "job.jsonl", "{listed}");
    run.interrupt();
    let ended = site.end(run).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (75, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("what is left is kept"), "{}", ended.stderr);
    assert!(site.reader().open_attempts().await.unwrap().is_empty(), "what was sent is settled");
    site.told(&args).await;
    assert_all_answered(&site.results("done", "job").await, "job", ITEMS);
    assert_eq!(site.reader().batches(10).await.unwrap().len(), 1);
    assert_eq!(emulator.stats().counts.requests, u64::from(ITEMS), "nothing was sent twice");
}

#[tokio::test]
async fn beside_a_daemon_it_is_the_daemon_that_runs_it() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.open_socket();
    let daemon = site.serve().await;
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", 3)).unwrap();
    let results = site.told(&["run", file.to_str().unwrap()]).await;
    assert_eq!(results.trim(), site.path("spool/done/job.results.jsonl").to_str().unwrap());
    assert!(daemon.log().contains("is accepted"), "{}", site.logs());
    daemon.stop(&site).await;
}

#[tokio::test]
async fn who_follows_sees_every_change_over_a_restart_and_ends_with_2_when_some_failed() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), &window(2, 1)));
    site.open_socket();
    let daemon = site.serve().await;
    let file = site.path("job.jsonl");
    std::fs::write(&file, format!("{}{}", job("job", 10), "{\"key\":\"bad\"}\n")).unwrap();
    let path = file.to_str().unwrap();
    let args = ["submit", "--on-bad-line=skip", "--follow", "--json", path];
    let follow = site.spawn(&args);
    site.until("some are answered", async || (emulator.stats().counts.requests >= 2).then_some(()))
        .await;
    daemon.kill();
    follow.says(&site, "no daemon answers").await;
    let daemon = site.serve().await;
    let followed = site.end(follow).await;
    assert_eq!(followed.code, 2, "{}", followed.stderr);
    assert!(followed.stderr.contains("the daemon answers again"), "{}", followed.stderr);
    let lines: Vec<Value> =
        followed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 3 && lines.windows(2).all(|pair| pair[0] != pair[1]), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["state"], &last["failed"]), (&"done".into(), &1.into()), "{last}");

    // Once it is over, there is nothing to wait for.
    let id = last["id"].as_str().unwrap();
    assert_eq!(site.run(&["batches", "follow", id]).await.code, 2);
    daemon.stop(&site).await;
    assert_eq!(site.run(&["batches", "follow", id]).await.code, 2, "the database tells");
}

#[tokio::test]
async fn who_follows_a_rejected_or_cancelled_batch_ends_with_1() {
    let site = Site::new(&project("demo", "http://127.0.0.1:9", ""));
    site.open_socket();
    let file = site.path("job.jsonl");
    std::fs::write(&file, with_a_bad_line("job")).unwrap();
    let path = file.to_str().unwrap();
    // Refused before there is a batch of it: the pool is gone when the daemon comes.
    let id = "01930000-0000-7000-8000-000000000009";
    site.drop_file("gone.tidegate.toml", format!("id = \"{id}\"\npool = \"gone\"\n"));
    site.drop_file("gone.jsonl", job("gone", 1));
    let daemon = site.serve().await;
    let gone = site.run(&["batches", "follow", id]).await;
    assert!(gone.code == 1 && gone.stderr.contains("no pool gone"), "{}", gone.stderr);

    let bad = site.run(&["submit", "--wait", path]).await;
    assert_eq!(bad.code, 1, "{}", bad.stderr);
    let args = ["submit", "--not-before=2099-01-01T00:00:00Z", "--on-bad-line=skip", path];
    let id = site.told(&args).await;
    let id = id.trim();
    site.batch("it is open", |batch| batch.items == 3).await;
    site.told(&["batches", "cancel", id]).await;
    assert_eq!(site.run(&["batches", "follow", id]).await.code, 1);
    daemon.stop(&site).await;
}
