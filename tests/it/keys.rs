//! Several keys of one project: imported, rotated, refused, disabled, in one budget.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::emulator::{Emulator, EmulatorConfig, Limits};

use crate::harness::{
    Daemon, KEY, MODEL, Site, assert_all_answered, emulator, job, model, project, window,
};

const WINDOW_S: u64 = 1;

fn secret(n: u32) -> String {
    format!("a-secret-of-five-{n}")
}

/// An emulator whose project `demo` has five keys, that count together.
async fn five_keys(rpm: u32) -> Emulator {
    let keys: Vec<_> = (1..=5).map(secret).collect();
    let limits = format!(
        "[[project]]\nname = \"demo\"\nkeys = {keys:?}\n{}",
        model(&format!("rpm = {rpm}"))
    );
    let mut config = EmulatorConfig::new(Limits::parse(&limits).unwrap());
    config.minute = Duration::from_secs(WINDOW_S);
    Emulator::start(config).await.unwrap()
}

/// A site without a key, and the five in a keystore beside it.
fn site(emulator: &Emulator, rpm: u32) -> Site {
    let site = Site::new(&project("demo", &emulator.base_url(), &window(rpm, WINDOW_S)));
    site.edit_config("{ name = \"main\", env = \"TIDEGATE_KEY\" }", "");
    site.open_socket();
    let keys: Vec<_> = (1..=5).map(secret).collect();
    let keystore = json!({"GEMINI_API_KEY": keys, "OPENAI_API_KEY": ["another-one"]});
    fs::write(site.path("keystore.json"), keystore.to_string()).unwrap();
    site
}

async fn import(site: &Site) -> Value {
    let file = site.path("keystore.json").display().to_string();
    let args = ["keys", "import", &file, "--project", "demo", "--service", "GEMINI_API_KEY"];
    site.json(&[&args[..], &["--json"]].concat()).await
}

/// A key as `tidegate keys` tells it.
async fn key(site: &Site, name: &str) -> Value {
    let report = site.json(&["keys", "--json"]).await;
    let keys = report["keys"].as_array().unwrap();
    keys.iter().find(|key| key["name"] == name).cloned().unwrap_or_default()
}

fn sent_with(emulator: &Emulator, place: u32) -> u64 {
    let stats = emulator.stats();
    let keys = stats.projects.get("demo").map(|project| &project.keys);
    keys.and_then(|keys| keys.get(&format!("key-{place}"))).copied().unwrap_or_default()
}

/// No command has printed or logged a key.
fn assert_secret(site: &Site) {
    let mut told = site.logs();
    for entry in fs::read_dir(site.path("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "out") {
            told += &fs::read_to_string(path).unwrap();
        }
    }
    assert!(!told.contains("a-secret-of-five"), "{told}");
}

async fn waits_for(site: &Site, daemon: &Daemon, reason: &str) {
    let waits =
        |bucket: &Value| bucket["reason"].as_str().is_some_and(|told| told.starts_with(reason));
    daemon.bucket_when(site, MODEL, waits).await;
}

#[tokio::test]
async fn five_imported_keys_take_turns_within_one_budget() {
    const LIMIT: u32 = 10;
    let emulator = five_keys(LIMIT).await;
    let site = site(&emulator, LIMIT);
    let ended = site.run(&["serve"]).await;
    assert_eq!(ended.code, 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("project `demo` has no keys"), "{}", ended.stderr);

    let told = import(&site).await;
    assert_eq!((&told["project"], &told["services"]), (&json!("demo"), &json!(["GEMINI_API_KEY"])));
    assert_eq!(told["added"].as_array().unwrap().len(), 5, "{told}");
    let again = import(&site).await;
    assert_eq!(
        (again["added"].as_array().unwrap().len(), &again["known"][4]["name"]),
        (0, &json!("GEMINI_API_KEY-5"))
    );
    assert_eq!(key(&site, "GEMINI_API_KEY-1").await["source"], "imported");

    site.drop_file("job.jsonl", job("job", 50));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "job").await, "job", 50);
    let stats = emulator.stats();
    assert_eq!((stats.counts.requests, stats.counts.throttled), (50, 0), "{stats:?}");
    let worst = &stats.worst_window["demo/gemini-2.0-flash"];
    assert!(worst.requests <= u64::from(LIMIT), "five keys are one budget: {worst:?}");
    for place in 1..=5 {
        assert_eq!(sent_with(&emulator, place), 10, "{stats:?}");
        let own = key(&site, &format!("GEMINI_API_KEY-{place}")).await;
        assert_eq!((&own["attempts"], &own["state"]), (&json!(10), &json!("ok")), "{own}");
    }
    let usage = site.json(&["usage", "--by", "key", "--json"]).await;
    let rows = usage["rows"].as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| json!([row["key"], row["ok"]])).collect();
    let wanted: Vec<_> = (1..=5).map(|n| json!([format!("GEMINI_API_KEY-{n}"), 10])).collect();
    assert_eq!(shown, wanted);
    let text = site.told(&["keys"]).await;
    assert!(text.contains("demo: its 5 keys share ONE budget"), "{text}");

    // The next daemon goes on with the key after the last.
    site.drop_file("two.jsonl", job("two", 2));
    assert_all_answered(&site.results("done", "two").await, "two", 2);
    site.all_over().await;
    daemon.stop(&site).await;
    site.drop_file("three.jsonl", job("three", 3));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "three").await, "three", 3);
    let counts: Vec<_> = (1..=5).map(|place| sent_with(&emulator, place)).collect();
    assert_eq!(counts, [11; 5]);
    daemon.stop(&site).await;
    assert_secret(&site);
}

#[tokio::test]
async fn a_key_revoked_within_a_batch_is_set_aside_and_stays_so_over_a_restart() {
    let emulator = five_keys(10).await;
    let site = site(&emulator, 10);
    import(&site).await;
    site.drop_file("job.jsonl", job("job", 50));
    let daemon = site.serve().await;
    site.until("requests with every key", async || {
        (1..=5).all(|place| sent_with(&emulator, place) > 0).then_some(())
    })
    .await;
    emulator.revoke("demo", 3);
    assert_all_answered(&site.results("done", "job").await, "job", 50);
    daemon.says(&site, "key GEMINI_API_KEY-3 of demo is set aside").await;
    let counts = emulator.stats().counts;
    assert_eq!((counts.accepted, counts.throttled), (50, 0), "{counts:?}");
    let refused = counts.client_errors;
    assert!((1..=2).contains(&refused), "it is used no more: {counts:?}");
    site.all_over().await;
    daemon.kill();

    let daemon = site.serve().await;
    let aside = key(&site, "GEMINI_API_KEY-3").await;
    assert_eq!(aside["state"], "aside", "{aside}");
    assert!(aside["reason"].as_str().unwrap().contains("reported as leaked"), "{aside}");
    site.drop_file("more.jsonl", job("more", 10));
    assert_all_answered(&site.results("done", "more").await, "more", 10);
    assert_eq!(emulator.stats().counts.client_errors, refused);
    // A user's word tries it at once.
    site.told(&["keys", "enable", "GEMINI_API_KEY-3"]).await;
    site.drop_file("last.jsonl", job("last", 10));
    assert_all_answered(&site.results("done", "last").await, "last", 10);
    assert!(emulator.stats().counts.client_errors > refused);
    assert_eq!(key(&site, "GEMINI_API_KEY-3").await["state"], "aside");
    daemon.stop(&site).await;
    assert_secret(&site);
}

#[tokio::test]
async fn keys_come_go_and_are_disabled_while_the_daemon_runs() {
    let emulator = five_keys(1_000).await;
    let site = site(&emulator, 1_000);
    let own = site.path("own.key");
    fs::write(&own, secret(1)).unwrap();
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let configured = format!("keys = [{{ name = \"own\", file = \"{}\" }}]", own.display());
    site.edit_config("keys = []", &configured);
    let of_key = "dimension = \"requests\"\nscope = \"key\"\nwindow = \"3600s\"\nlimit = 500";
    let extra = "[[project.limits.extra]]\n";
    site.edit_config(extra, &format!("{extra}{of_key}\n\n{extra}"));
    let daemon = site.serve().await;

    let text = site.told(&["keys", "disable", "own"]).await;
    assert!(text.contains("disabled"), "{text}");
    site.drop_file("job.jsonl", job("job", 8));
    waits_for(&site, &daemon, "every key of demo is disabled: run tidegate keys enable").await;
    assert_eq!(emulator.stats().counts.requests, 0);
    // The daemon takes the keys and uses them at once; one it had.
    let told = import(&site).await;
    let added: Vec<_> = told["added"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    assert_eq!(added, [1, 2, 3, 4].map(|n| format!("GEMINI_API_KEY-{n}")).each_ref());
    assert_eq!(told["known"][0]["name"], "own", "{told}");
    assert_all_answered(&site.results("done", "job").await, "job", 8);
    let counts = |emulator: &Emulator| [1, 2, 3, 4, 5].map(|n| sent_with(emulator, n));
    assert_eq!(counts(&emulator), [0, 2, 2, 2, 2]);
    site.all_over().await;
    let bucket = daemon.bucket(MODEL).await;
    let of_keys: Vec<_> = bucket["limits"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|limit| {
            let key = limit["key"].as_str()?;
            (limit["used"] != 0).then(|| (key.to_owned(), limit["used"].as_u64().unwrap()))
        })
        .collect();
    assert_eq!(of_keys, [1, 2, 3, 4].map(|n| (format!("GEMINI_API_KEY-{n}"), 2)));
    assert!(site.told(&["limits"]).await.contains("requests (key GEMINI_API_KEY-4)"));

    daemon.kill();
    let daemon = site.serve().await;
    assert_eq!(key(&site, "own").await["state"], "disabled", "after a kill");
    site.told(&["keys", "enable", "demo", "own"]).await;
    assert_eq!(key(&site, "own").await["state"], "ok");
    for args in [["disable", "other"], ["enable", "GEMINI_API_KEY-9"]] {
        let ended = site.run(&["keys", args[0], args[1]]).await;
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(
            ended.stderr.contains("known: demo own, demo GEMINI_API_KEY-1"),
            "{}",
            ended.stderr
        );
    }

    // A key that is taken out of the directory is used no more.
    fs::remove_file(site.path("state/keys/demo/GEMINI_API_KEY-2.key")).unwrap();
    daemon.hang_up();
    daemon.says(&site, "the configuration was read anew").await;
    assert_eq!(key(&site, "GEMINI_API_KEY-2").await, Value::Null);
    let before = counts(&emulator);
    site.drop_file("more.jsonl", job("more", 8));
    assert_all_answered(&site.results("done", "more").await, "more", 8);
    let sent: Vec<_> = counts(&emulator).iter().zip(before).map(|(now, was)| now - was).collect();
    assert_eq!(sent, [2, 2, 0, 2, 2]);

    // Nobody else on this machine gives the daemon keys.
    let (status, told) =
        daemon.post("/api/v1/keys/import?project=demo", &json!({"A": ["x"]})).await;
    assert_eq!(status, 403, "{told}");
    daemon.stop(&site).await;
    assert_secret(&site);
}

#[tokio::test]
async fn a_bad_keystore_changes_nothing_and_shows_no_key() {
    let emulator = five_keys(10).await;
    let site = site(&emulator, 10);
    let file = site.path("bad.json").display().to_string();
    fs::write(&file, format!("{{\"A\": [\"{}\", 5]}}", secret(1))).unwrap();
    let ended = site.run(&["keys", "import", &file, "--project", "demo"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("bad.json: entry A, key 2: not a string"), "{}", ended.stderr);
    let ended = site.run(&["keys", "import", &file, "--project", "other"]).await;
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.contains("no project other; the configuration has: demo"));
    assert!(!site.path("state/keys").exists());
    assert_secret(&site);
}

#[tokio::test]
async fn a_hangup_takes_up_another_key_of_the_same_name() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.edit_config("env = \"TIDEGATE_KEY\"", "env = \"TIDEGATE_LEAKED_KEY\"");
    site.drop_file("job.jsonl", job("job", 3));
    let daemon = site.serve().await;
    waits_for(&site, &daemon, "every key of demo is set aside: key main was refused").await;
    site.edit_config("env = \"TIDEGATE_LEAKED_KEY\"", "env = \"TIDEGATE_KEY\"");
    daemon.hang_up();
    assert_all_answered(&site.results("done", "job").await, "job", 3);
    assert!(!site.logs().contains(KEY));
    daemon.stop(&site).await;
}

#[tokio::test]
async fn keys_that_were_written_beside_the_daemon_are_taken_up_when_it_is_told() {
    let emulator = five_keys(1_000).await;
    let site = site(&emulator, 1_000);
    import(&site).await;
    // Commands cannot reach this one.
    site.edit_config(&format!(", \"unix:{}\"", site.path("socket").display()), "");
    let daemon = site.serve().await;
    let keystore = json!({"MORE": [secret(1), "an-unknown-key"]}).to_string();
    fs::write(site.path("keystore.json"), keystore).unwrap();
    let file = site.path("keystore.json").display().to_string();
    let text = site.told(&["keys", "import", &file, "--project", "demo"]).await;
    let known = "MORE, key 1: known already as demo GEMINI_API_KEY-1; skipped";
    assert!(text.contains(known), "{text}");
    assert!(text.contains("MORE, key 2: imported as demo MORE-1\n"), "{text}");
    let (status, told) = daemon.post("/api/v1/keys/reload", &json!({})).await;
    assert_eq!((status, told["keys"].as_array().unwrap().len()), (200, 6), "{told}");
    site.drop_file("job.jsonl", job("job", 12));
    assert_all_answered(&site.results("done", "job").await, "job", 12);
    daemon.says(&site, "key MORE-1 of demo is set aside").await;
    daemon.stop(&site).await;
    assert_secret(&site);
}
