//! Embeddings, the clock that is off, and 429s that say less or something else.

use chrono::{DateTime, Utc};

use super::*;

const EMBED: &str = "v1beta/models/gemini-embedding-001:batchEmbedContents";

fn limits(model: &str) -> EmulatorConfig {
    let text = format!(
        "[[project]]\nname = \"p\"\nkeys = [\"k\"]\n[[project.model]]\n\
         name = \"gemini-embedding-001\"\n{model}"
    );
    EmulatorConfig::new(Limits::parse(&text).unwrap())
}

fn texts(count: usize) -> Value {
    let request = json!({
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "tide"}]},
        "taskType": "RETRIEVAL_DOCUMENT",
    });
    json!({"requests": vec![request; count]})
}

async fn violation(response: reqwest::Response) -> Value {
    assert_eq!(response.status(), 429);
    let body: Value = response.json().await.unwrap();
    body["error"]["details"][1]["violations"][0].clone()
}

#[tokio::test]
async fn each_text_of_a_batch_is_a_request() {
    let config = limits("rpm = 100\nrpd = 150\nquota_model = \"gemini-embedding-1.0\"");
    let emulator = start(config).await;
    let body: Value = post(&emulator, EMBED, &texts(99)).await.json().await.unwrap();
    assert_eq!(body["embeddings"].as_array().unwrap().len(), 99);
    let one = "v1/models/gemini-embedding-001:embedContent";
    let single = json!({"content": {"parts": [{"text": "ebb"}]}});
    let body: Value = post(&emulator, one, &single).await.json().await.unwrap();
    assert_eq!(body["embedding"]["values"].as_array().unwrap().len(), 4);

    let refused = violation(post(&emulator, one, &single).await).await;
    let id = "EmbedContentRequestsPerMinutePerProjectPerModel-FreeTier";
    assert_eq!(refused["quotaId"], id);
    assert_eq!(
        refused["quotaMetric"],
        "generativelanguage.googleapis.com/embed_content_free_tier_requests"
    );
    assert_eq!(refused["quotaValue"], "100");
    assert_eq!(refused["quotaDimensions"]["model"], "gemini-embedding-1.0");
    let many = post(&emulator, EMBED, &texts(51)).await;
    let body: Value = many.json().await.unwrap();
    let ids = body["error"]["details"][1]["violations"].as_array().unwrap().iter();
    let ids: Vec<_> = ids.map(|violation| violation["quotaId"].clone()).collect();
    let day = "EmbedContentRequestsPerDayPerProjectPerModel-FreeTier";
    assert_eq!(ids, [id, day]);

    let stats = emulator.stats();
    let (accepted, throttled) = (stats.counts.accepted, stats.counts.throttled);
    assert_eq!((accepted, throttled, stats.counts.input_tokens), (2, 2, 99 + 1));
    assert_eq!(stats.worst_window["p/gemini-embedding-001"].requests, 100);
    let log = fetch(&emulator, "__emulator/log").await.text().await.unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["call"], &first["weight"]["requests"]),
        (&"batchEmbedContents".into(), &99.into())
    );
}

#[tokio::test]
async fn embeddings_take_faults_and_bad_payloads_count() {
    let emulator = start(limits("rpm = 3")).await;
    emulator.inject([Fault::once(FaultKind::Unavailable), Fault::once(FaultKind::DayQuota)]);
    assert_eq!(post(&emulator, EMBED, &texts(1)).await.status(), 503);
    let refused = violation(post(&emulator, EMBED, &texts(1)).await).await;
    assert_eq!(refused["quotaId"], "EmbedContentRequestsPerDayPerProjectPerModel-FreeTier");
    assert_eq!(post(&emulator, EMBED, &json!({})).await.status(), 400);
    assert_eq!(emulator.stats().worst_window["p/gemini-embedding-001"].requests, 2);
    assert_eq!(post(&emulator, EMBED, &texts(2)).await.status(), 429);
    assert_eq!(post(&emulator, EMBED, &texts(1)).await.status(), 200);
    let model = fetch(&emulator, "v1/models/gemini-embedding-001").await;
    let model: Value = model.json().await.unwrap();
    assert_eq!(model["supportedGenerationMethods"][0], "embedContent");
}

#[tokio::test]
async fn the_date_of_a_skewed_clock_is_off_and_so_is_its_day() {
    for skew in [TimeDelta::days(-400), TimeDelta::zero(), TimeDelta::days(2)] {
        let emulator = start(EmulatorConfig { date_skew: skew, ..free_tier() }).await;
        // Read after the date: what is told is at most a second older than this.
        let response = post(&emulator, FLASH, &prompt("hi")).await;
        let told = response.headers().get_all("date").iter().collect::<Vec<_>>();
        assert_eq!(told.len(), 1);
        let told = DateTime::parse_from_rfc2822(told[0].to_str().unwrap()).unwrap();
        let log = fetch(&emulator, "__emulator/log").await.text().await.unwrap();
        let entry: Value = serde_json::from_str(log.trim()).unwrap();
        let real = fetch(&emulator, "__emulator/stats").await;
        let real = real.headers()["date"].to_str().unwrap().to_owned();
        let real = DateTime::parse_from_rfc2822(&real).unwrap();
        let off = (told - real - skew).num_seconds().abs();
        assert!(off < 3_600, "{told} {real}");
        let day = |at: DateTime<Utc>| {
            at.with_timezone(&chrono_tz::America::Los_Angeles).date_naive().to_string()
        };
        let counted_on = entry["day"].as_str().unwrap();
        // The day may end between the count and the date.
        let edges = [told.to_utc() - TimeDelta::hours(1), told.to_utc()].map(day);
        assert!(edges.iter().any(|day| day == counted_on), "{counted_on}: {edges:?}");
    }
    let date_skew = TimeDelta::days(4_000);
    let refused = Emulator::start(EmulatorConfig { date_skew, ..free_tier() }).await.unwrap_err();
    assert!(refused.to_string().contains("the most is ten years"), "{refused}");
}

#[tokio::test]
async fn a_429_says_what_the_limits_file_wants() {
    let told = async |knobs: &str| {
        let emulator = start(limits(&format!("rpd = 0\n{knobs}"))).await;
        let response = post(&emulator, EMBED, &texts(1)).await;
        assert_eq!(response.status(), 429);
        response.json::<Value>().await.unwrap()["error"].clone()
    };
    let lie = told("quota_value = 77\nretry_delay = \"22s\"").await;
    assert_eq!(lie["details"][1]["violations"][0]["quotaValue"], "77");
    assert_eq!(lie["details"][2]["retryDelay"], "22s");
    let prose = told("details = \"prose\"").await;
    assert!(prose["message"].as_str().unwrap().contains("limit: 0, model: gemini-embedding-001"));
    assert_eq!(prose.get("details"), None);
    let none = told("details = \"none\"").await;
    assert_eq!(none["message"], "Resource has been exhausted (e.g. check quota).");
}
