//! Limits that are changed while the daemon runs: by commands and by a new configuration.

use serde_json::{Value, json};

use crate::harness::{
    Daemon, KEY, MODEL, Site, assert_all_answered, emulator, item, job, limit, model, project,
};

/// Another model of the preset.
const OTHER: &str = "gemini-1.5-flash";

/// A site whose daemon commands can reach, with so many requests of `MODEL` a minute.
fn site(base_url: &str, rpm: &str) -> Site {
    let site = Site::new(&project("demo", base_url, ""));
    site.edit_config("rpm = \"none\"", &format!("rpm = {rpm}"));
    site.open_socket();
    site
}

/// A job file for another model.
fn job_of(model: &str, name: &str, count: u32) -> String {
    format!("{{\"tidegate\":{{\"model\":\"{model}\"}}}}\n{}", job(name, count))
}

/// The limit, its source, what is used and what is free.
fn figures(limit: &Value) -> Value {
    json!([limit["limit"], limit["source"], limit["used"], limit["free"]])
}

async fn rpm(daemon: &Daemon) -> Value {
    figures(&limit(&daemon.bucket(MODEL).await, "rpm"))
}

/// Waits until the next item of `MODEL` waits for this reason.
async fn waits_for(site: &Site, daemon: &Daemon, reason: &str) {
    let waits = |bucket: &Value| bucket["reason"] == reason && bucket["in_flight"] == 0;
    daemon.bucket_when(site, MODEL, waits).await;
}

/// What the history of `demo` says of each change, the newest first.
async fn changes(site: &Site) -> Vec<Value> {
    let history = site.json(&["limits", "history", "demo", "--json"]).await;
    let change = |event: &Value| {
        json!([
            event["quota_group"],
            event["dimension"],
            event["was"],
            event["became"],
            event["source"],
        ])
    };
    history["events"].as_array().unwrap().iter().map(change).collect()
}

#[tokio::test]
async fn a_limit_that_is_set_holds_at_once_revokes_nothing_and_outlives_a_kill() {
    let emulator = emulator(&model("")).await;
    let site = site(&emulator.base_url(), "2");
    site.drop_file("first.jsonl", job("first", 5));
    let daemon = site.serve().await;
    waits_for(&site, &daemon, "rpm: needs 1, 0 of 2 free").await;
    assert_eq!(emulator.stats().counts.requests, 2);

    // Without this the queue waits for a minute, which is longer than the harness does.
    let told = site.told(&["limits", "set", "demo", MODEL, "rpm", "100"]).await;
    assert!(told.contains("set"), "{told}");
    assert_all_answered(&site.results("done", "first").await, "first", 5);
    assert_eq!(rpm(&daemon).await, json!([100, "set", 5, 95]));

    daemon.kill();
    let daemon = site.serve().await;
    assert_eq!(rpm(&daemon).await, json!([100, "set", 5, 95]), "after a kill");

    site.told(&["limits", "set", "demo", MODEL, "rpm", "3"]).await;
    assert_eq!(rpm(&daemon).await, json!([3, "set", 5, 0]), "nothing is revoked");
    site.drop_file("second.jsonl", job("second", 2));
    waits_for(&site, &daemon, "rpm: needs 1, 0 of 3 free").await;
    site.told(&["limits", "unset", "demo", MODEL, "rpm"]).await;
    assert_eq!(rpm(&daemon).await, json!([2, "config", 5, 0]));
    assert_eq!(emulator.stats().counts.requests, 5);
    site.told(&["limits", "set", "demo", MODEL, "rpm", "none"]).await;
    assert_all_answered(&site.results("done", "second").await, "second", 2);
    assert_eq!(limit(&daemon.bucket(MODEL).await, "rpm"), Value::Null, "unlimited");
    // What was sent while there was no limit counts in the next one.
    site.told(&["limits", "set", "demo", MODEL, "rpm", "8"]).await;
    assert_eq!(rpm(&daemon).await, json!([8, "set", 7, 1]));

    let change = |was: Value, became: Value| json!([MODEL, "rpm", was, became, "set"]);
    let none = Value::Null;
    let expected = [
        change(Value::Null, json!("8")),
        change(json!("2"), json!("none")),
        change(json!("3"), none),
        change(json!("100"), json!("3")),
        change(json!("2"), json!("100")),
    ];
    assert_eq!(changes(&site).await, expected);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_model_that_is_set_off_holds_its_queue_and_takes_no_new_file() {
    let emulator = emulator(&model("")).await;
    let site = site(&emulator.base_url(), "1");
    site.drop_file("held.jsonl", job("held", 3));
    let daemon = site.serve().await;
    waits_for(&site, &daemon, "rpm: needs 1, 0 of 1 free").await;
    site.told(&["limits", "set", "demo", MODEL, "rpm", "off"]).await;
    let off = format!("{MODEL} is off (set)");
    waits_for(&site, &daemon, &off).await;
    let shown = site.json(&["batches", "--json"]).await;
    assert_eq!(shown["batches"][0]["reason"], off.as_str(), "{shown}");

    assert_eq!(daemon.bucket(MODEL).await["state"], "off");
    site.drop_file("new.jsonl", job("new", 1));
    let refused = site.wait_for("rejected/new.error.json").await;
    let refused: Value = serde_json::from_slice(&refused).unwrap();
    let reason = format!("{MODEL} is not offered to project demo (set)");
    assert_eq!(refused["reason"], reason.as_str(), "{refused}");

    daemon.kill();
    let daemon = site.serve().await;
    waits_for(&site, &daemon, &off).await;
    assert_eq!(emulator.stats().counts.requests, 1);
    site.told(&["limits", "set", "demo", MODEL, "rpm", "none"]).await;
    assert_all_answered(&site.results("done", "held").await, "held", 3);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_with_a_word_on_why() {
    let site = site("http://127.0.0.1:9", "2");
    site.edit_config("tier = \"free\"", "tier = \"free\"\nunknown_models = \"refuse\"");
    let set = ["limits", "set", "demo", MODEL, "rpm", "3"];
    for command in [&set[..], &["limits", "unset", "demo", MODEL, "rpm"][..]] {
        let ended = site.run(command).await;
        assert_eq!(ended.code, 69, "{command:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("start it with `tidegate serve`"), "{}", ended.stderr);
        assert!(ended.stderr.contains("[[project.limits]]"), "{}", ended.stderr);
    }

    let daemon = site.serve().await;
    let cases: [([&str; 4], &str); 7] = [
        (["nobody", MODEL, "rpm", "3"], "no project nobody; the configuration has: demo"),
        (["demo", "gemini-9", "rpm", "3"], "project demo knows no model gemini-9"),
        (["demo", MODEL, "rpmm", "3"], "rpm, tpm, rpd, tpd, ipm, spend"),
        (["demo", MODEL, "rpm", "many"], "many: "),
        (["demo", MODEL, "rpm", "0"], "0: "),
        (["demo", MODEL, "spend", "0.00000000001"], "decimals"),
        (["demo", "*", "rpm", "off"], "cannot be said of all models at once"),
    ];
    for (words, why) in cases {
        let ended = site.run(&[&["limits", "set"], &words[..]].concat()).await;
        assert_eq!(ended.code, 1, "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(why), "{words:?}: {}", ended.stderr);
    }
    assert_eq!(rpm(&daemon).await, json!([2, "config", 0, 2]), "nothing changed");
    assert_eq!(changes(&site).await, [Value::Null; 0]);
    for question in [["history", "nobody", "--json"], ["explain", "nobody", MODEL]] {
        let ended = site.run(&[&["limits"], &question[..]].concat()).await;
        assert_eq!(ended.code, 1, "{question:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("no project nobody"), "{}", ended.stderr);
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn the_api_takes_limits_as_it_is_written() {
    let site = site("http://127.0.0.1:9", "2");
    let daemon = site.serve().await;
    let body = |project: &str, dimension: &str, value: Value| json!({"project": project, "model": MODEL, "dimension": dimension, "value": value});
    let (status, report) = daemon.post("/api/v1/limits", &body("demo", "rpm", json!("30"))).await;
    assert_eq!(status, 200, "{report}");
    assert!(report["buckets"].is_array(), "{report}");
    assert_eq!(rpm(&daemon).await, json!([30, "set", 0, 30]));
    let (status, _) = daemon.post("/api/v1/limits", &body("demo", "rpm", Value::Null)).await;
    assert_eq!((status, rpm(&daemon).await), (200, json!([2, "config", 0, 2])));

    let mut surplus = body("demo", "rpm", json!("3"));
    surplus["scope"] = json!("key");
    let wrong = [
        (404, body("nobody", "rpm", json!("3"))),
        (400, body("demo", "rqm", json!("3"))),
        (400, body("demo", "rpm", json!("3.5"))),
        (400, body("demo", "rpm", json!(3))),
        (400, surplus),
    ];
    for (code, body) in wrong {
        let (status, problem) = daemon.post("/api/v1/limits", &body).await;
        assert_eq!((status, &problem["status"]), (code, &json!(code)), "{body}: {problem}");
    }
    let explain = "/api/v1/limits/explain?project=demo&model=";
    for (code, path) in [
        (200, format!("{explain}{MODEL}")),
        (404, format!("{explain}gemini-9")),
        (400, format!("{explain}{MODEL}&tokens=3")),
        (404, "/api/v1/limits/history?project=nobody".to_owned()),
    ] {
        let (status, answer) = daemon.get(&path).await;
        assert_eq!(status, code, "{path}: {answer}");
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_limit_of_all_models_counts_them_together() {
    let models = model("") + &model("").replace(MODEL, OTHER);
    let emulator = emulator(&models).await;
    let site = site(&emulator.base_url(), "\"none\"");
    let daemon = site.serve().await;
    site.told(&["limits", "set", "demo", "*", "rpm", "3"]).await;
    site.told(&["limits", "set", "demo", "*", "sessions", "7"]).await;
    site.drop_file("one.jsonl", job("one", 2));
    assert_all_answered(&site.results("done", "one").await, "one", 2);
    site.drop_file("two.jsonl", job_of(OTHER, "two", 3));
    let held = |bucket: &Value| {
        bucket["reason"] == "rpm: needs 1, 0 of 3 free" && bucket["in_flight"] == 0
    };
    let shared = |bucket: &Value| {
        let limits = bucket["limits"].as_array().unwrap().clone();
        limits.into_iter().filter(|limit| limit["shared"] == true).collect::<Vec<_>>()
    };
    let bucket = daemon.bucket_when(&site, OTHER, held).await;
    assert_eq!(emulator.stats().counts.requests, 3);
    let limits = shared(&bucket);
    assert_eq!(limits.len(), 2, "{bucket}");
    assert_eq!(figures(&limits[0]), json!([3, "set", 3, 0]));
    assert_eq!(
        json!([limits[1]["dimension"], limits[1]["window"], limits[1]["scope"]]),
        json!(["sessions", "concurrent", "key"])
    );
    assert_eq!(shared(&daemon.bucket(MODEL).await), limits, "one limit, shown at each model");

    site.told(&["limits", "unset", "demo", "*", "rpm"]).await;
    assert_all_answered(&site.results("done", "two").await, "two", 3);
    assert_eq!(shared(&daemon.bucket(MODEL).await).len(), 1);
    let all = changes(&site).await;
    assert!(all.iter().all(|change| change[0] == "*"), "{all:?}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn spending_is_limited_in_dollars_and_counted_at_its_price() {
    let emulator = emulator(&model("")).await;
    let site = site(&emulator.base_url(), "\"none\"");
    site.edit_config("tier = \"free\"", "tier = \"tier1\"");
    let daemon = site.serve().await;
    let told = site.told(&["limits", "set", "demo", "*", "spend", "0.25"]).await;
    assert!(told.contains("$0.25"), "{told}");
    site.drop_file("paid.jsonl", job("paid", 3));
    assert_all_answered(&site.results("done", "paid").await, "paid", 3);
    let spend = limit(&daemon.bucket(MODEL).await, "spend");
    assert_eq!(spend["limit"], 250_000_000, "billionths of a dollar");
    assert_eq!((&spend["window"], &spend["shared"]), (&json!("600s"), &json!(true)), "{spend}");
    let usage = site.json(&["usage", "--json"]).await;
    let nanos = usage["totals"]["cost_usd"].as_f64().unwrap() * 1e9;
    let used = spend["used"].as_f64().unwrap();
    // Each of the three is rounded up to a billionth by itself.
    assert!(used > 0.0 && (0.0..=3.0).contains(&(used - nanos)), "{used} used, {nanos} in usage");

    // No single request may cost more than this.
    site.told(&["limits", "set", "demo", "*", "spend", "0.000000001"]).await;
    site.drop_file("dear.jsonl", job("dear", 1));
    let dear = site.results("failed", "dear").await;
    assert!(dear[0].error["message"].as_str().unwrap().contains("spend"), "{dear:?}");
    assert_eq!(emulator.stats().counts.requests, 3);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_was_set_for_a_model_that_nobody_knows_is_taken_back() {
    let emulator = emulator(&model("").replace(MODEL, "new-model")).await;
    let site = site(&emulator.base_url(), "\"none\"");
    let daemon = site.serve().await;
    site.told(&["limits", "set", "demo", "new-model", "rpm", "2"]).await;
    site.drop_file("new.jsonl", job_of("new-model", "new", 4));
    let held = |bucket: &Value| bucket["reason"] == "rpm: needs 1, 0 of 2 free";
    daemon.bucket_when(&site, "new-model", held).await;
    site.told(&["limits", "unset", "demo", "new-model", "rpm"]).await;
    assert_all_answered(&site.results("done", "new").await, "new", 4);
    let bucket = daemon.bucket("new-model").await;
    assert_eq!(bucket["limits"], json!([]), "{bucket}");
    assert_eq!(bucket["learning"], true, "{bucket}");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_hangup_takes_up_a_new_configuration_or_keeps_the_old_one() {
    let emulator = emulator(&model("")).await;
    let site = site(&emulator.base_url(), "2");
    site.drop_file("job.jsonl", job("job", 4));
    let daemon = site.serve().await;
    waits_for(&site, &daemon, "rpm: needs 1, 0 of 2 free").await;
    site.edit_config("rpm = 2", "rpm = 50");
    daemon.hang_up();
    daemon.says(&site, "the configuration was read anew").await;
    assert_all_answered(&site.results("done", "job").await, "job", 4);
    assert_eq!(rpm(&daemon).await, json!([50, "config", 4, 46]));

    let refused = [
        ("rpm = 50", "rpm = \"many\"", "not a limit; write a whole number"),
        ("\"127.0.0.1:0\"", "\"127.0.0.1:9\"", "[server] cannot change while the daemon runs"),
        ("TIDEGATE_KEY", "TIDEGATE_NO_KEY", "key `main` is missing"),
        ("reset = \"0", "reset = \"1", "day of project demo cannot change"),
    ];
    for (from, to, why) in refused {
        let good = std::fs::read_to_string(site.config()).unwrap();
        site.edit_config(from, to);
        daemon.hang_up();
        daemon.says(&site, why).await;
        std::fs::write(site.config(), good).unwrap();
    }
    let log = daemon.log();
    assert_eq!(log.matches("the old configuration stays in force").count(), 4, "{log}");
    assert!(!log.contains(KEY), "{log}");
    assert_eq!(rpm(&daemon).await, json!([50, "config", 4, 46]));
    // What was set stays over a new file.
    site.told(&["limits", "set", "demo", MODEL, "rpm", "9"]).await;
    site.edit_config("rpd = \"none\"", "rpd = 77");
    daemon.hang_up();
    daemon.bucket_when(&site, MODEL, |bucket| limit(bucket, "rpd")["limit"] == 77).await;
    assert_eq!(rpm(&daemon).await, json!([9, "set", 4, 5]));
    daemon.stop(&site).await;
}

#[tokio::test]
async fn explain_tells_the_numbers_of_the_limits_report() {
    let emulator = emulator(&model("")).await;
    let site = site(&emulator.base_url(), "5");
    site.edit_config("tpm = \"none\"", "tpm = 1_000");
    let daemon = site.serve().await;
    site.drop_file("job.jsonl", job("job", 3));
    assert_all_answered(&site.results("done", "job").await, "job", 3);
    let bucket = daemon.bucket(MODEL).await;

    let ask = async |more: &[&str]| {
        site.json(&[&["limits", "explain", "demo", MODEL, "--json"], more].concat()).await
    };
    let fits = ask(&["--tokens", "100"]).await;
    assert_eq!((&fits["verdict"], &fits["key"]), (&json!("fits"), &json!("main")), "{fits}");
    for (need, needs) in fits["needs"].as_array().unwrap().iter().zip([1, 100]) {
        let shown = limit(&bucket, need["dimension"].as_str().unwrap());
        for (field, value) in shown.as_object().unwrap() {
            assert_eq!(&need[field], value, "{field}: {need} and {shown}");
        }
        assert_eq!(need["needs"], needs);
        assert_eq!((&need["fits_at"], &need["leaving"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(fits["needs"].as_array().unwrap().len(), 2, "{fits}");

    let waits = ask(&["--requests", "4"]).await;
    assert_eq!(waits["verdict"], "waits", "{waits}");
    assert_eq!(waits["reason"], "rpm: needs 4, 2 of 5 free");
    let need = &waits["needs"][0];
    let leaving = need["leaving"].as_array().unwrap();
    assert_eq!(leaving.len(), 2, "the two oldest of three have to leave: {need}");
    assert_eq!(leaving[0]["at"], limit(&bucket, "rpm")["next_free_at"], "{need}");
    let attempts: Vec<_> = leaving.iter().map(|entry| entry["attempt"].as_i64().unwrap()).collect();
    assert!(attempts.iter().all(|id| (1..=3).contains(id)), "{attempts:?}");
    assert_eq!((&need["fits_at"], &waits["until"]), (&leaving[1]["at"], &leaving[1]["at"]));
    let told = site.told(&["limits", "explain", "demo", MODEL, "--requests", "4"]).await;
    assert!(told.contains("needs 4, 2 of 5 free; fits at"), "{told}");

    let never = ask(&["--tokens", "1001"]).await;
    assert_eq!((&never["verdict"], &never["until"]), (&json!("never"), &Value::Null), "{never}");
    assert!(never["reason"].as_str().unwrap().contains("1001"), "{never}");
    let told = site.told(&["limits", "explain", "demo", MODEL, "--tokens", "1001"]).await;
    assert!(told.starts_with("it never goes: "), "{told}");
    // And so it is: such an item is failed at once.
    site.drop_file("large.jsonl", item("k1", &"word ".repeat(8_000)) + "\n");
    let large = site.wait_for("rejected/large.error.json").await;
    assert!(String::from_utf8_lossy(&large).contains("tpm"), "{}", String::from_utf8_lossy(&large));
    daemon.stop(&site).await;
}
