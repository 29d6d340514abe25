//! Job files that clients send, over the API and with `tidegate submit`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use serde_json::json;
use tidegate::store::BatchState;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{
    MODEL, Site, assert_all_answered, assert_answers, emulator, item, job, model, project,
};

const LATER: &str = "not_before=2099-01-01T00:00:00Z";

/// A site whose provider nobody reaches, for batches that are never sent.
fn idle() -> Site {
    Site::new(&project("demo", "http://127.0.0.1:9", ""))
}

fn no_batches(site: &Site) {
    for dir in ["working", "incoming", "rejected"] {
        assert_eq!(site.list(dir), [""; 0], "{dir}");
    }
}

#[tokio::test]
async fn a_batch_is_its_users_who_sent_it_over_the_socket() {
    const UID: u32 = 54_321;
    assert!(rustix::process::geteuid().is_root(), "another user's commands are run by root only");
    let site = idle();
    site.open_socket();
    let daemon = site.serve().await;
    let open = |path: &str, mode| {
        std::fs::set_permissions(site.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open("", 0o755);
    open("socket", 0o666);
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", 2)).unwrap();
    let args = ["submit", "--not-before=2099-01-01T00:00:00Z", file.to_str().unwrap()];
    let as_another = |command: &mut std::process::Command| {
        command.uid(UID).gid(UID);
    };
    let ended = site.run_with(&args, as_another).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let (status, batch) = daemon.get(&format!("/api/v1/batches/{}", ended.stdout.trim())).await;
    assert_eq!((status, &batch["tenant"]), (200, &json!(format!("uid:{UID}"))));
    assert_eq!(site.list("incoming"), [""; 0]);

    // Over TCP nobody says who it is: the daemon's user.
    let (status, batch) = daemon.submit(&format!("file=tcp.jsonl&{LATER}"), &job("tcp", 1)).await;
    assert_eq!((status, &batch["tenant"]), (201, &json!("uid:0")), "{batch}");
    let asked = format!("file=named.jsonl&tenant=ada&{LATER}");
    let (_, batch) = daemon.submit(&asked, &job("named", 1)).await;
    assert_eq!(batch["tenant"], "ada");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_was_answered_with_201_outlives_a_kill() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let daemon = site.serve().await;
    let (status, batch) = daemon.submit("name=sent.jsonl&priority=low", &job("sent", 30)).await;
    daemon.kill();
    assert_eq!(status, 201, "{batch}");
    assert_eq!((&batch["file"], &batch["priority"]), (&json!("sent.jsonl"), &json!("low")));
    let daemon = site.serve().await;
    assert_all_answered(&site.results("done", "sent").await, "sent", 30);
    assert_eq!(site.report("done", "sent").await["id"], batch["id"]);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_repeat_is_the_same_batch_and_another_file_is_not() {
    let site = idle();
    let daemon = site.serve().await;
    let id = "01930000-0000-7000-8000-000000000001";
    let asked = format!("file=job.jsonl&id={id}&{LATER}");
    let (status, first) = daemon.submit(&asked, &job("job", 3)).await;
    assert_eq!((status, &first["id"]), (201, &json!(id)), "{first}");
    let (status, again) = daemon.submit(&asked, &job("job", 3)).await;
    assert_eq!((status, &again["id"]), (200, &json!(id)), "{again}");
    let (status, problem) = daemon.submit(&asked, &job("job", 4)).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(id), "{problem}");

    // Without an id, the same file that asks for the same is the same while its batch is open.
    let asked = format!("file=other.jsonl&{LATER}");
    let (status, first) = daemon.submit(&asked, &job("other", 2)).await;
    assert_eq!(status, 201, "{first}");
    let (status, again) = daemon.submit(&asked, &job("other", 2)).await;
    assert_eq!((status, &again["id"], &again["dropped_again"]), (200, &first["id"], &json!(1)));
    site.batch("the last is imported", |batch| {
        batch.file_name == "other.jsonl" && batch.state == BatchState::Open
    })
    .await;
    assert_eq!(site.reader().batches(10).await.unwrap().len(), 2);
    assert_eq!(site.list("working").len(), 2, "no copies are left of repeats");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let site = idle();
    let daemon = site.serve().await;
    let address = daemon.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/batches?file=half.jsonl HTTP/1.1\r\nHost: {address}\r\n\
         Content-Length: 100000\r\n\r\n{}",
        job("half", 3)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    site.until("it is received", async || {
        let work = site.list("working").pop()?;
        let part = site.path("spool/working").join(work).join("input.part");
        (std::fs::metadata(part).ok()?.len() > 0).then_some(())
    })
    .await;
    drop(stream);
    site.until("nothing is left", async || site.list("working").is_empty().then_some(())).await;
    assert!(site.reader().batches(1).await.unwrap().is_empty());
    no_batches(&site);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_with_the_reason_and_leaves_nothing() {
    let site = idle();
    site.edit_config("tier = \"free\"", "tier = \"free\"\nunknown_models = \"refuse\"");
    let daemon = site.serve().await;
    let cases = [
        ("file=a.jsonl&model=nobody-knows", 422, "nobody-knows"),
        ("file=a.jsonl&project=nobody", 422, "nobody"),
        ("file=a.jsonl&modle=x", 422, "did you mean \"model\""),
        ("file=a.jsonl&priority=urgent", 422, "\"high\", \"normal\", \"low\""),
        ("file=a.pdf", 422, ".pdf"),
        ("file=.a.jsonl", 422, "dot"),
        ("model=x", 400, "?file=NAME.jsonl"),
    ];
    for (asked, expected, why) in cases {
        let (status, problem) = daemon.submit(asked, &job("a", 2)).await;
        assert_eq!(status, expected, "{asked}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{asked}: {problem}");
    }
    let line = format!("{{\"tidegate\":{{\"priority\":1}}}}\n{}", job("a", 1));
    let (status, problem) = daemon.submit("file=a.jsonl", &line).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("line 1"), "{problem}");
    let address = daemon.address();
    let large = format!(
        "POST /api/v1/batches?file=a.jsonl HTTP/1.0\r\nHost: {address}\r\nContent-Length: \
         {}\r\n\r\n",
        3_u64 << 30
    );
    assert_eq!(crate::harness::http(address, &large).await.0, 413);
    assert!(site.reader().batches(1).await.unwrap().is_empty());
    no_batches(&site);

    // A bad line is found when it is imported.
    let (status, batch) = daemon.submit("file=bad.jsonl", "{\"key\":\"a\"}\n").await;
    assert_eq!((status, &batch["state"]), (201, &json!("importing")), "{batch}");
    site.wait_for("rejected/bad.error.json").await;
    site.wait_for("rejected/bad.jsonl").await;
    assert_eq!(site.list("rejected"), ["bad.error.json", "bad.jsonl"]);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn a_long_import_keeps_nobody_waiting() {
    const LINES: u32 = 200_000;
    let site = idle();
    let daemon = site.serve().await;
    let text: String = (1..=LINES).map(|n| item(&format!("k{n}"), "x") + "\n").collect();
    let (status, large) = daemon.submit(&format!("file=large.jsonl&{LATER}"), &text).await;
    assert_eq!(status, 201, "{large}");
    for name in ["one", "two"] {
        let (status, batch) = daemon.submit(&format!("file={name}.txt&{LATER}"), "a\nb\n").await;
        assert_eq!(status, 201, "{batch}");
    }
    let id = large["id"].as_str().unwrap();
    let large = site.reader().batch_by_uid(id).await.unwrap().unwrap();
    assert_eq!(large.state, BatchState::Importing, "nothing was shown: it was imported already");
    for name in ["one.txt", "two.txt", "large.jsonl"] {
        let is = |batch: &tidegate::store::Batch| {
            batch.file_name == name && batch.state == BatchState::Open
        };
        site.batch(name, is).await;
    }
    daemon.stop(&site).await;
}

#[tokio::test]
async fn stdin_is_submitted_under_a_name_and_waits_where_no_daemon_is() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.open_socket();
    std::fs::write(site.path("prompts"), "What is an ebb?\nAnd a flood?\n").unwrap();
    let stdin = |command: &mut std::process::Command| {
        command.stdin(std::fs::File::open(site.path("prompts")).unwrap());
    };
    let unnamed = site.run_with(&["submit", "-"], stdin).await;
    assert!(unnamed.code == 64 && unnamed.stderr.contains("--name"), "{}", unnamed.stderr);

    let early = site.run_with(&["submit", "--name=early.txt", "-"], stdin).await;
    assert_eq!(early.code, 0, "{}", early.stderr);
    assert!(early.stderr.contains("nothing of it is sent until one runs"), "{}", early.stderr);
    assert_eq!(site.list("incoming"), ["early.txt", "early.txt.tidegate.toml"]);
    // Whoever follows waits for it, from before there is a daemon.
    let id = early.stdout.trim();
    let follow = site.spawn(&["batches", "follow", id]);
    follow.says(&site, "no daemon answers").await;
    let daemon = site.serve().await;
    let followed = site.end(follow).await;
    assert_eq!(followed.code, 0, "{}", followed.stderr);
    assert_eq!(site.report("done", "early").await["id"], id);

    let args = ["submit", "--name=late.txt", "--wait", "--json", "-"];
    let late = site.run_with(&args, stdin).await;
    assert_eq!(late.code, 0, "{}", late.stderr);
    let told: serde_json::Value = serde_json::from_str(&late.stdout).unwrap();
    assert_eq!(told["batches"][0]["file"], "late.txt", "{told}");
    let answers = site.results("done", "late").await;
    assert_answers(&answers[1], "And a flood?");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn only_what_has_no_answer_is_sent_again() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.open_socket();
    let daemon = site.serve().await;
    let file = site.path("job.jsonl");
    std::fs::write(&file, job("job", 5)).unwrap();
    let (file, results) = (file.to_str().unwrap(), site.path("results.jsonl"));
    let error = json!({"key": "k2", "error": {"code": 500}}).to_string();
    let answer = |key: &str| json!({"key": key, "response": {}}).to_string();
    let lines = [answer("k1"), error, answer("k3"), answer("k5")];
    std::fs::write(&results, lines.join("\n")).unwrap();
    let only = format!("--only-failed={}", results.display());
    let told = site.run(&["submit", "--wait", "--name=rest", &only, file]).await;
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("2 items without an answer"), "{}", told.stderr);
    let keys: Vec<_> =
        site.results("done", "rest").await.into_iter().map(|line| line.key).collect();
    assert_eq!(keys, ["k2", "k4"]);
    assert_eq!(emulator.stats().counts.requests, 2);

    let whole: Vec<_> = (1..=5).map(|n| answer(&format!("k{n}"))).collect();
    std::fs::write(&results, whole.join("\n")).unwrap();
    let nothing = site.run(&["submit", &only, file]).await;
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, ""), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("every item of it has an answer"), "{}", nothing.stderr);
    assert_eq!(site.reader().batches(10).await.unwrap().len(), 1);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn what_the_daemon_refuses_is_a_misuse_of_the_command() {
    let site = idle();
    site.open_socket();
    let daemon = site.serve().await;
    let file = site.path("job.jsonl");
    std::fs::write(&file, format!("{{\"tidegate\":{{\"project\":\"x\"}}}}\n{}", job("job", 1)))
        .unwrap();
    let model = format!("--model={MODEL}");
    let refused = site.run(&["submit", &model, file.to_str().unwrap()]).await;
    assert!(refused.code == 64 && refused.stderr.contains("no project x"), "{}", refused.stderr);
    no_batches(&site);
    daemon.stop(&site).await;
}
