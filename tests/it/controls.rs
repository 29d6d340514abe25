//! What users say of batches and quotas while the daemon runs, and what of it outlives a restart.

use serde_json::{Value, json};
use tidegate::emulator::{Emulator, Fault, FaultKind};

use crate::harness::{
    MODEL, Site, assert_all_answered, assert_answers, emulator, job, model, project, prompt,
};

/// A site with one project, whose commands reach the daemon.
async fn site() -> (Emulator, Site) {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.open_socket();
    (emulator, site)
}

/// The id of the batch whose outputs are called so.
async fn id_of(site: &Site, name: &str) -> String {
    site.batch(name, |batch| batch.out_name == name).await.uid
}

#[tokio::test]
async fn the_failed_items_of_a_finished_batch_become_a_new_one() {
    let (emulator, site) = site().await;
    site.at_once(1);
    emulator.inject([Fault::repeated(FaultKind::NotFound, 2)]);
    let options = r#"{"tidegate":{"tenant":"me","priority":"low","in_doubt":"hold"}}"#;
    site.drop_file("five.jsonl", format!("{options}\n{}", job("five", 5)));
    let daemon = site.serve().await;
    let results = site.results("done", "five").await;
    let failed: Vec<_> = results.iter().map(|line| line.text.is_none()).collect();
    assert_eq!(failed, [true, true, false, false, false]);
    site.all_over().await;

    let old = id_of(&site, "five").await;
    let again = site.json(&["batches", "retry", &old, "--json"]).await;
    assert_eq!((&again["of"], &again["items"]), (&json!(old), &json!(2)));
    let results = site.results("done", "five.retry").await;
    assert_all_answered(&results, "five", 2);
    let report = site.report("done", "five.retry").await;
    assert_eq!((&report["id"], &report["tenant"]), (&again["id"], &json!("me")));
    site.all_over().await;
    let batch = site.batch("the new one", |batch| batch.out_name == "five.retry").await;
    assert_eq!((batch.priority, batch.in_doubt.as_str()), (2, "hold"));
    let counts = emulator.stats().counts;
    assert_eq!((counts.accepted, counts.requests), (5, 7), "those that were answered are not sent");

    // Of the new one nothing failed.
    let refused = site.run(&["batches", "retry", &batch.uid]).await;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("no item of batch"), "{}", refused.stderr);
    assert_eq!(site.list("incoming"), [""; 0]);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn failed_lines_of_a_text_file_keep_their_keys() {
    let (emulator, site) = site().await;
    site.at_once(1);
    emulator.inject([Fault::repeated(FaultKind::NotFound, 2)]);
    site.drop_file("text.txt", "\nSay \"ebb\".\r\n\nWhat is flow?\nthe last");
    let daemon = site.serve().await;
    let results = site.results("done", "text").await;
    assert_eq!(results.iter().filter(|line| line.text.is_none()).count(), 2);
    site.all_over().await;
    let new = site.told(&["batches", "retry", &id_of(&site, "text").await]).await;
    let results = site.results("done", "text.retry").await;
    let keys: Vec<_> = results.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(keys, ["2", "4"]);
    assert_answers(&results[0], "Say \"ebb\".");
    assert_answers(&results[1], "What is flow?");
    assert_eq!(site.report("done", "text.retry").await["id"], new.trim());
    daemon.stop(&site).await;
}

#[tokio::test]
async fn without_its_own_job_file_nothing_is_tried_again() {
    let (emulator, site) = site().await;
    site.at_once(1);
    emulator.inject([Fault::once(FaultKind::NotFound)]);
    site.drop_file("job.jsonl", job("job", 2));
    let daemon = site.serve().await;
    site.results("done", "job").await;
    site.all_over().await;
    let id = id_of(&site, "job").await;
    let kept = site.path("spool/done/job.input");
    // Another file under the name, then none.
    std::fs::write(&kept, job("other", 2)).unwrap();
    for look in ["another", "none"] {
        let (status, problem) =
            daemon.post(&format!("/api/v1/batches/{id}/retry"), &Value::Null).await;
        assert_eq!(status, 410, "{look}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("not kept any more"), "{problem}");
        let _ = std::fs::remove_file(&kept);
    }
    assert_eq!(site.list("incoming"), [""; 0]);
    assert_eq!(site.reader().batches(10).await.unwrap().len(), 1);
    assert_eq!(emulator.stats().counts.accepted, 1);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_paused_batch_and_its_priority_outlive_a_restart() {
    let (_emulator, site) = site().await;
    let never = r#"{"tidegate":{"not_before":"2099-01-01T00:00:00Z"}}"#;
    site.drop_file("later.jsonl", format!("{never}\n{}", job("later", 2)));
    let daemon = site.serve().await;
    let id = site.batch("it is open", |batch| batch.items == 2).await.uid;
    let shown = site.json(&["batches", "pause", &id, "--json"]).await;
    assert_eq!(shown["paused"], "paused by its user");
    let deadline = "2099-06-01T12:00:00Z";
    let shown =
        site.json(&["batches", "priority", &id, "high", "--deadline", deadline, "--json"]).await;
    assert_eq!((&shown["priority"], &shown["deadline"]), (&json!("high"), &json!(deadline)));
    // Another word alone leaves the deadline as it is.
    let body = json!({"priority": "low"});
    let (status, shown) = daemon.post(&format!("/api/v1/batches/{id}/priority"), &body).await;
    assert_eq!((status, &shown["deadline"]), (200, &json!(deadline)));
    let body = json!({"priority": "urgent"});
    let (status, problem) = daemon.post(&format!("/api/v1/batches/{id}/priority"), &body).await;
    assert_eq!(status, 400, "{problem}");
    daemon.stop(&site).await;

    let offline = site.run(&["batches", "resume", &id]).await;
    assert_eq!(offline.code, 69, "{}", offline.stderr);
    let daemon = site.serve().await;
    let shown = site.json(&["batches", "show", &id, "--json"]).await;
    assert_eq!(
        (&shown["paused"], &shown["priority"]),
        (&json!("paused by its user"), &json!("low"))
    );
    let shown = site.json(&["batches", "resume", &id, "--json"]).await;
    assert_eq!(shown.get("paused"), None);
    site.told(&["batches", "cancel", &id]).await;
    site.all_over().await;
    for word in ["pause", "resume"] {
        let late = site.run(&["batches", word, &id]).await;
        assert_eq!(late.code, 1);
        assert!(late.stderr.contains("is cancelled"), "{}", late.stderr);
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_is_paused_outlives_a_restart_and_is_resumed_by_name() {
    let (_emulator, site) = site().await;
    let daemon = site.serve().await;
    let paused = |report: &Value| -> Vec<String> {
        let pauses = report["paused"].as_array().unwrap();
        let name = |pause: &Value| {
            let word = |field: &str| pause[field].as_str().unwrap().to_owned();
            format!("{} {}", word("project"), word("quota_group"))
        };
        pauses.iter().map(name).collect()
    };
    assert_eq!(paused(&daemon.get("/api/v1/pause").await.1), [""; 0]);
    let said = site.told(&["pause", "demo", "gemini-2.0-flash-001"]).await;
    assert!(said.contains(&format!("demo {MODEL}")), "an alias holds its quota: {said}");
    site.told(&["pause"]).await;
    site.told(&["pause"]).await;
    daemon.stop(&site).await;

    let daemon = site.serve().await;
    assert_eq!(paused(&daemon.get("/api/v1/pause").await.1), ["* *", &format!("demo {MODEL}")]);
    let bad = [
        (json!({"project": "nobody"}), 404),
        (json!({"project": "demo", "model": "imagen-9"}), 404),
        (json!({"model": MODEL}), 400),
        (json!({"projekt": "demo"}), 400),
    ];
    for (body, status) in bad {
        let (told, problem) = daemon.post("/api/v1/pause", &body).await;
        assert_eq!(told, status, "{body}: {problem}");
    }
    let (status, problem) = daemon.post("/api/v1/resume", &json!({"project": "other"})).await;
    assert_eq!(status, 404, "{problem}");
    let report = site.json(&["resume", "demo", "--json"]).await;
    assert_eq!(paused(&report), ["* *"], "a project's word takes its models' back");
    let not_paused = site.run(&["resume", "demo"]).await;
    assert_eq!(not_paused.code, 1);
    assert!(not_paused.stderr.contains("paused are: everything"), "{}", not_paused.stderr);
    assert_eq!(site.told(&["resume"]).await, "Nothing is paused.\n");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_pool_takes_what_can_be_had_and_says_why_when_nothing_can() {
    let (here, there) = (emulator(&model("")).await, emulator(&model("")).await);
    let pools = format!(
        "[pool.both]\nroutes = [{{ project = \"demo\", model = \"{MODEL}\" }}, \
         {{ project = \"there\", model = \"{MODEL}\" }}]\n"
    );
    let projects =
        [project("demo", &here.base_url(), ""), project("there", &there.base_url(), ""), pools];
    let site = Site::new(&projects.concat());
    site.open_socket();
    let daemon = site.serve().await;
    site.told(&["limits", "set", "demo", MODEL, "rpm", "off"]).await;
    let options = r#"{"tidegate":{"pool":"both"}}"#;
    site.drop_file("one.jsonl", format!("{options}\n{}", job("one", 2)));
    assert_all_answered(&site.results("done", "one").await, "one", 2);
    assert_eq!(site.report("done", "one").await["project"], "there");
    assert_eq!(here.stats().counts.requests, 0);

    site.told(&["limits", "set", "there", MODEL, "rpm", "off"]).await;
    site.drop_file("two.jsonl", format!("{options}\n{}", job("two", 1)));
    let rejected = site.wait_for("rejected/two.error.json").await;
    let rejected: Value = serde_json::from_slice(&rejected).unwrap();
    let reason = rejected["reason"].as_str().unwrap();
    for project in ["demo", "there"] {
        assert!(reason.contains(&format!("not offered to project {project}")), "{reason}");
    }
    let bad = [
        ("none", r#"{"pool":"cheap"}"#, "no pool cheap: the configuration has both"),
        ("model", r#"{"pool":"both","model":"m"}"#, "leave the model out"),
        ("project", r#"{"pool":"both","project":"x"}"#, "has no route of project x"),
    ];
    for (name, options, why) in bad {
        site.drop_file(&format!("{name}.jsonl"), format!("{{\"tidegate\":{options}}}\n"));
        let rejected = site.wait_for(&format!("rejected/{name}.error.json")).await;
        assert!(String::from_utf8(rejected).unwrap().contains(why), "{name}");
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn deadline_cost_and_pace_are_taken_and_a_cost_that_nobody_can_keep_is_refused() {
    let (_emulator, site) = site().await;
    site.edit_config("tier = \"free\"", "tier = \"tier1\"");
    let daemon = site.serve().await;
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", 1)).unwrap();
    let submit = |more: &[&str]| {
        let mut args = vec!["submit"];
        args.extend(more);
        args.push(file.to_str().unwrap());
        args.into_iter().map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    let args = submit(&[
        "--not-before=2099-01-01T00:00:00Z",
        "--deadline=2099-02-01T00:00:00Z",
        "--max-cost=1.25",
        "--pace=spread",
        "--patience=1h 30m",
        "--fallback=gemini-2.5-flash",
        "--fallback=gemini-2.0-flash-lite",
    ]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let id = site.told(&args).await;
    let id = id.trim();
    let batch = site.batch("it is there", |batch| batch.uid == id).await;
    assert_eq!(batch.max_cost_nanos, Some(1_250_000_000));
    assert_eq!((batch.patience_ms, batch.pace.as_str()), (Some(5_400_000), "spread"));
    assert_eq!(batch.fallback, ["gemini-2.5-flash", "gemini-2.0-flash-lite"]);
    let shown = site.json(&["batches", "show", id, "--json"]).await;
    assert_eq!((&shown["max_cost_usd"], &shown["spent_usd"]), (&json!(1.25), &json!(0.0)));
    assert_eq!(shown["deadline"], "2099-02-01T00:00:00Z");

    let pool = submit(&["--pool=cheap"]);
    let pool: Vec<_> = pool.iter().map(String::as_str).collect();
    let refused = site.run(&pool).await;
    let why = "no pool cheap: the configuration has none";
    assert!(refused.code == 64 && refused.stderr.contains(why), "{}", refused.stderr);

    // Told by the command, and by the daemon to whoever asks it in another way.
    let args = submit(&["--max-cost=1", "--model=nobody-knows"]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let refused = site.run(&args).await;
    let why = "what nobody-knows costs in project demo is not known";
    assert!(refused.code == 64 && refused.stderr.contains(why), "{}", refused.stderr);
    let options = r#"{"tidegate":{"model":"nobody-knows","max_cost":1}}"#;
    site.drop_file("dear.jsonl", format!("{options}\n{}", prompt("dear", 1)));
    let rejected = site.wait_for("rejected/dear.error.json").await;
    assert!(String::from_utf8(rejected).unwrap().contains(why));
    daemon.stop(&site).await;
}
