//! Traffic that does not pass through the daemon: recorded afterwards, or sent under a lease.

use serde_json::json;

use crate::harness::{self, MODEL, Site, project, window};

async fn site(limits: &str) -> Site {
    let emulator = harness::emulator(&harness::model("")).await;
    Site::new(&project("demo", &emulator.base_url(), limits))
}

#[tokio::test]
async fn what_is_recorded_counts_as_if_it_had_passed() {
    let site = site(&window(2, 59)).await;
    let daemon = site.serve().await;
    let used = json!({"model": MODEL, "tenant": "nightly", "client": "cron/1", "requests": 2,
        "input_tokens": 120, "cached_tokens": 20, "output_tokens": 30, "thought_tokens": 5});
    let (status, answer) = daemon.post("/api/v1/record", &used).await;
    assert_eq!((status, &answer["attempt"]), (201, &json!(1)), "{answer}");
    let row = site.until("it is settled", async || {
        let rows = site.reader().attempts(1).await.unwrap();
        rows.into_iter().find(|row| row.state == 1)
    });
    let row = row.await;
    assert_eq!((row.source, row.tenant.as_str(), row.total_tokens), (2, "nightly", 155));
    let limits = daemon.bucket(MODEL).await;
    assert_eq!(harness::limit(&limits, "requests")["used"], 2, "{limits}");
    let (status, _) =
        daemon.post("/api/v1/leases", &json!({"model": MODEL, "max_wait": "0"})).await;
    assert_eq!(status, 429);
    // What has gone already counts also where there is no room.
    let (status, _) = daemon.post("/api/v1/record", &json!({"model": MODEL, "status": 429})).await;
    assert_eq!(status, 201);
    for (wrong, why) in [
        (json!({"model": MODEL, "input_tokens": u64::MAX}), "no count of tokens"),
        (json!({"model": MODEL, "status": 42}), "no HTTP status"),
        (json!({"model": "a b"}), "no model id"),
        (json!({"model": MODEL, "project": "nobody"}), "no project nobody"),
    ] {
        let (status, problem) = daemon.post("/api/v1/record", &wrong).await;
        assert!((400..=422).contains(&status), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_lease_holds_its_place_until_it_is_settled_or_over() {
    let site = site(&window(1, 59)).await;
    let daemon = site.serve().await;
    let ask = json!({"model": MODEL, "input_tokens": 50, "max_wait": "0", "ttl": "1h"});
    let (status, lease) = daemon.post("/api/v1/leases", &ask).await;
    assert_eq!((status, &lease["key"]), (201, &json!("main")), "{lease}");
    let (status, problem) = daemon.post("/api/v1/leases", &ask).await;
    assert_eq!(status, 429);
    assert!(problem["retry_after_s"].as_u64().unwrap() > 50, "{problem}");
    let settle = format!("/api/v1/leases/{}/settle", lease["lease"].as_str().unwrap());
    let (status, _) = daemon.post(&settle, &json!({"not_sent": true})).await;
    assert_eq!(status, 200);
    assert_eq!(daemon.post(&settle, &json!({})).await.0, 404, "it is settled once");
    // What was not sent takes no room.
    let patient = json!({"model": MODEL, "max_wait": "30s", "ttl": "1s"});
    let (status, lease) = daemon.post("/api/v1/leases", &patient).await;
    assert_eq!(status, 201, "{lease}");
    let row = site.until("its time is over", async || {
        let rows = site.reader().attempts(1).await.unwrap();
        rows.into_iter().find(|row| row.state == 5)
    });
    let row = row.await;
    assert!(row.error.unwrap().contains("its lease ended"));
    let (status, lease) = daemon.post("/api/v1/leases", &json!({"model": "another"})).await;
    assert_eq!(status, 201, "{lease}");
    daemon.stop(&site).await;
    let row = site.reader().attempts(1).await.unwrap().remove(0);
    assert_eq!(row.state, 5, "what nobody settled before the stop counts in full");
}
