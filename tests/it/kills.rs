//! A large batch, killed again and again from its import to its results file.

use serde_json::Value;
use tidegate::emulator::Emulator;

use crate::harness::{Site, emulator, job, model, project, read};

const ITEMS: u32 = 20_000;
const KILLS: u64 = 20;

/// Results lines without what differs from answer to answer: the provider's name for it.
fn normalised(results: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(results).expect("results are UTF-8");
    let without = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("a line is JSON");
        let response = line["response"].as_object_mut().expect("every item is answered");
        response.remove("responseId").expect("an answer has a name");
        line.to_string()
    };
    text.lines().map(without).collect()
}

fn site(emulator: &Emulator) -> Site {
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.at_once(200);
    // Without a limit a project starts a hundred a second at most.
    site.edit_config("rpm = \"none\"", "rpm = 600_000");
    site.drop_file("job.jsonl", job("job", ITEMS));
    site
}

/// The moments are spread over the whole way: the claim and the import, the answers, the results.
#[tokio::test]
async fn serial_twenty_kills_leave_the_results_of_an_undisturbed_run() {
    let calm = emulator(&model("")).await;
    let calm_site = site(&calm);
    let daemon = calm_site.serve().await;
    let expected = normalised(&calm_site.wait_for("done/job.results.jsonl").await);
    calm_site.all_over().await;
    daemon.stop(&calm_site).await;
    assert_eq!(expected.len(), usize::try_from(ITEMS).expect("a small number"));

    let emulator = emulator(&model("")).await;
    let site = site(&emulator);
    let mut rng = fastrand::Rng::with_seed(7);
    for kill in 0..KILLS {
        let daemon = site.spawn(&["serve"]);
        let seen = emulator.stats().counts.accepted;
        let (wanted, then_ms) = match kill {
            // While it is claimed and imported.
            0..6 => (0, rng.u64(0..60)),
            // While it is answered.
            6..14 => (seen + rng.u64(1..u64::from(ITEMS) / 10), rng.u64(0..100)),
            // While the last answers are written, the results are, and after.
            _ => (u64::from(ITEMS), rng.u64(0..120)),
        };
        site.until("the moment comes", async || {
            let over = site.path("spool/done/job.report.json").exists();
            let working = std::fs::read_dir(site.path("spool/working"));
            let claimed = working.is_ok_and(|mut entries| entries.next().is_some());
            (over || claimed && emulator.stats().counts.accepted >= wanted).then_some(())
        })
        .await;
        // Any moment will do; this only spreads them.
        tokio::time::sleep(std::time::Duration::from_millis(then_ms)).await;
        daemon.kill();
    }
    let daemon = site.serve().await;
    site.all_over().await;
    let found = normalised(&read(&site.path("spool/done/job.results.jsonl")));
    let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!((found.len(), first), (expected.len(), None), "the first line that differs");
    let usage = site.usage().await;
    assert_eq!(usage.open, 0, "{usage:?}");
    assert!(usage.attempts.unsigned_abs() >= emulator.stats().counts.requests, "{usage:?}");
    assert_eq!(site.list("rejected"), [""; 0]);
    assert_eq!(site.list("working"), [""; 0]);
    daemon.stop(&site).await;
}
