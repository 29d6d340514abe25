//! A pool of two projects, and tenants on one quota, over the real wire.

use tidegate::emulator::WindowKind;

use crate::harness::{MODEL, Site, assert_all_answered, job, project, strict_emulator, window};

const LIMIT: u32 = 10;
const WINDOW_S: u64 = 2;

#[tokio::test]
async fn two_projects_in_a_pool_are_worth_the_sum_of_their_quotas() {
    let here = strict_emulator(WindowKind::Sliding, LIMIT, WINDOW_S).await;
    let there = strict_emulator(WindowKind::Fixed, LIMIT, WINDOW_S).await;
    let limits = window(LIMIT, WINDOW_S);
    let pool = format!(
        "[pool.both]\nroutes = [{{ project = \"demo\", model = \"{MODEL}\" }}, \
         {{ project = \"there\", model = \"{MODEL}\" }}]\n"
    );
    let projects = [
        project("demo", &here.base_url(), &limits),
        project("there", &there.base_url(), &limits),
        pool,
    ];
    let site = Site::new(&projects.concat());
    let options = r#"{"tidegate":{"pool":"both"}}"#;
    site.drop_file("job.jsonl", format!("{options}\n{}", job("job", 40)));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 40);
    daemon.stop(&site).await;
    for (name, emulator) in [("demo", &here), ("there", &there)] {
        let stats = emulator.stats();
        assert_eq!(stats.counts.throttled, 0, "{name}: {stats:?}");
        // As many windows of each: neither waits while the other has work.
        assert_eq!(stats.counts.requests, 20, "{name}: {stats:?}");
        let worst = &stats.worst_window[&format!("demo/{MODEL}")];
        assert!(worst.requests <= u64::from(LIMIT), "{name}: {worst:?}");
    }
    let usage = site.json(&["usage", "--by", "project", "--json"]).await;
    let rows = usage["rows"].as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (&row["project"], &row["ok"])).collect();
    assert_eq!(format!("{shown:?}").matches("Number(20)").count(), 2, "{usage}");
}

/// Who came first with much does not keep who comes later with little from going.
#[tokio::test]
async fn two_tenants_share_a_quota_also_over_a_kill() {
    let emulator = strict_emulator(WindowKind::Sliding, LIMIT, WINDOW_S).await;
    let site = Site::new(&project("demo", &emulator.base_url(), &window(LIMIT, WINDOW_S)));
    let options = |tenant: &str| format!("{{\"tidegate\":{{\"tenant\":\"{tenant}\"}}}}");
    site.drop_file("ann.jsonl", format!("{}\n{}", options("ann"), job("ann", 200)));
    let daemon = site.serve().await;
    site.batch("some of ann's are answered", |batch| batch.succeeded >= 10).await;
    site.drop_file("bob.jsonl", format!("{}\n{}", options("bob"), job("bob", 16)));
    let bobs = |batch: &tidegate::store::Batch| batch.tenant == "bob";
    site.batch("some of bob's are answered", |batch| bobs(batch) && batch.succeeded >= 5).await;
    daemon.kill();
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "bob").await, "bob", 16);
    let reader = site.reader();
    let batches = reader.batches(10).await.unwrap();
    let (bob, ann) = (&batches[0], &batches[1]);
    assert_eq!((bob.tenant.as_str(), ann.tenant.as_str()), ("bob", "ann"));
    daemon.stop(&site).await;

    // While both had work, each had half, but for what was in doubt and the windows at the ends.
    let usage = site.json(&["usage", "--by", "tenant", "--json"]).await;
    let rows = usage["rows"].as_array().unwrap();
    let attempts = |tenant: &str| {
        let row = rows.iter().find(|row| row["tenant"] == tenant).unwrap();
        row["attempts"].as_u64().unwrap()
    };
    assert!(attempts("ann") < 10 + 10 + 16 + 30, "{usage}");
    assert_eq!(emulator.stats().counts.throttled, 0);
}
