//! Bad input: each fault is told with its name and place, and nothing that was dropped is lost.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::harness::read;
use crate::harness::{
    Site, assert_all_answered, assert_answers, emulator, item, job, model, project,
};

/// The text of a job file and what its rejection says: the reason, then (line, offset, reason) of
/// each bad line.
struct Case {
    name: &'static str,
    content: Vec<u8>,
    reason: &'static str,
    lines: Vec<(u64, usize, &'static str)>,
}

fn case(name: &'static str, content: impl Into<Vec<u8>>, reason: &'static str) -> Case {
    Case { name, content: content.into(), reason, lines: Vec::new() }
}

/// A file with a good first line and a bad second one.
fn bad_line(name: &'static str, bad: impl AsRef<[u8]>, reason: &'static str) -> Case {
    let first = format!("{}\n", item("good", "a good prompt"));
    let offset = first.len();
    let content = [first.as_bytes(), bad.as_ref(), b"\n"].concat();
    Case { name, content, reason: "1 bad line", lines: vec![(2, offset, reason)] }
}

fn cases() -> Vec<Case> {
    let duplicate = format!("{}\n{}\n", item("a", "one"), item("a", "two"));
    let offset = item("a", "one").len() + 1;
    let mut twice = case("duplicate.jsonl", duplicate, "1 bad line");
    twice.lines = vec![(2, offset, "the key is that of line 1")];
    vec![
        bad_line(
            "broken.jsonl",
            r#"{"key":"b","request":{"contents":[}"#,
            "not valid JSON at column",
        ),
        bad_line(
            "not-utf8.jsonl",
            b"{\"key\":\"b\xff\"}",
            "not valid UTF-8 at byte 10 of the line",
        ),
        bad_line("no-request.jsonl", r#"{"key":"b"}"#, "\"request\" is missing"),
        bad_line("large.jsonl", item("b", &"x".repeat(20_000)), "tpm 1000 (config)"),
        twice,
        case("empty.jsonl", "", "there is no prompt in it"),
        case("blank.txt", "\n  \n\t\n", "there is no prompt in it"),
        case("table.xlsx", "a,b\n1,2\n", ".xlsx files are not accepted"),
        case(
            "off.jsonl",
            format!("{}\n{}", r#"{"tidegate":{"model":"imagen-3.0-generate-002"}}"#, job("off", 1)),
            "imagen-3.0-generate-002 is not offered to project demo (preset:gemini-2025-02/free)",
        ),
        case(
            "nobody.jsonl",
            format!("{}\n{}", r#"{"tidegate":{"project":"nobody"}}"#, job("nobody", 1)),
            "no project nobody: the configuration has demo",
        ),
        case(
            "pool.jsonl",
            format!("{}\n{}", r#"{"tidegate":{"pool":"cheap"}}"#, job("pool", 1)),
            "no pool cheap: the configuration has none",
        ),
        case(
            "option.jsonl",
            format!("{}\n{}", r#"{"tidegate":{"modle":"x"}}"#, job("option", 1)),
            "line 1: unknown option \"modle\", did you mean \"model\"?",
        ),
    ]
}

#[tokio::test]
async fn bad_files_are_rejected_with_every_reason_and_keep_their_bytes() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    site.edit_config("tpm = \"none\"", "tpm = 1000");
    for case in cases() {
        site.drop_file(case.name, &case.content);
    }
    let daemon = site.serve().await;
    for case in cases() {
        let name = case.name;
        let stem = name.strip_suffix(".jsonl").or(name.strip_suffix(".txt")).unwrap_or(name);
        let error = site.wait_for(&format!("rejected/{stem}.error.json")).await;
        let error: Value = serde_json::from_slice(&error).unwrap();
        assert_eq!(error["file"], name);
        let reason = error["reason"].as_str().unwrap();
        assert!(reason.contains(case.reason), "{name}: {reason}");
        let lines = error["lines"].as_array().unwrap();
        assert_eq!(lines.len(), case.lines.len(), "{name}: {error}");
        for (line, (number, offset, reason)) in lines.iter().zip(&case.lines) {
            assert_eq!(line["line"], *number, "{name}");
            assert_eq!(line["offset"], *offset, "{name}");
            let told = line["reason"].as_str().unwrap();
            assert!(told.contains(reason), "{name}: {told}");
        }
        assert_eq!(error["bad_lines"], case.lines.len(), "{name}");
        let kept = site.path("spool/rejected").join(name);
        site.until("the file is beside its error", async || kept.exists().then_some(())).await;
        assert!(read(&kept) == case.content, "{name} was changed");
    }
    // None of it stands in the way of what is good.
    site.drop_file("good.jsonl", job("good", 1));
    assert_all_answered(&site.results("done", "good").await, "good", 1);
    site.all_over().await;
    assert_eq!(site.list("incoming"), [""; 0]);
    assert_eq!(site.list("working"), [""; 0]);
    assert_eq!(emulator.stats().counts.requests, 1, "nothing of a rejected file was sent");
    daemon.stop(&site).await;
}

#[tokio::test]
async fn bad_lines_are_answered_in_their_place_when_the_file_asks_for_it() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let lines = [
        r#"{"tidegate":{"on_bad_line":"skip"}}"#.to_owned(),
        item("first", "one"),
        "{ not json".to_owned(),
        r#"{"key":"keyed","request":7}"#.to_owned(),
        String::new(),
        item("first", "two"),
        item("last", "three"),
    ];
    site.drop_file("skip.jsonl", lines.join("\n"));
    let daemon = site.serve().await;
    let results = site.results("done", "skip").await;
    let keys: Vec<_> = results.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(keys, ["first", "3", "keyed", "first", "last"]);
    assert_answers(&results[0], "one");
    assert_answers(&results[4], "three");
    for (line, reason) in results[1..4].iter().zip(["not valid JSON", "\"request\"", "of line 2"]) {
        assert_eq!(line.error["code"], 400);
        let told = line.error["message"].as_str().unwrap();
        assert!(told.contains(reason), "{told}");
    }
    let report = site.report("done", "skip").await;
    assert_eq!((&report["succeeded"], &report["failed"]), (&2.into(), &3.into()), "{report}");
    assert_eq!(emulator.stats().counts.requests, 2);
    daemon.stop(&site).await;
}

#[tokio::test]
async fn links_pipes_and_directories_are_left_with_a_warning_and_not_followed() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let secret = site.path("secret.jsonl");
    fs::write(&secret, job("secret", 1)).unwrap();
    let incoming = site.path("spool/incoming");
    symlink(&secret, incoming.join("link.jsonl")).unwrap();
    fs::hard_link(&secret, incoming.join("hard.jsonl")).unwrap();
    fs::create_dir(incoming.join("folder.jsonl")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        incoming.join("pipe.jsonl"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let daemon = site.serve().await;
    for (name, reason) in [
        ("link.jsonl", "is a symbolic link"),
        ("hard.jsonl", "has 2 hard links"),
        ("folder.jsonl", "is a directory"),
        ("pipe.jsonl", "is a pipe"),
    ] {
        daemon.says(&site, &format!("{name} is left in incoming/: {reason}")).await;
    }
    site.drop_file("good.jsonl", job("good", 1));
    assert_all_answered(&site.results("done", "good").await, "good", 1);
    let left = ["folder.jsonl", "hard.jsonl", "link.jsonl", "pipe.jsonl"];
    assert_eq!(site.list("incoming"), left);
    assert_eq!(emulator.stats().counts.requests, 1, "only the good file was read");
    let warnings = daemon.log().matches("is left in incoming/").count();
    assert_eq!(warnings, 4, "each is told once:\n{}", daemon.log());
    daemon.stop(&site).await;
}
