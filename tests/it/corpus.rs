//! Hostile and broken job files, each with what must become of it: dropped in one go before one
//! daemon, which rejects or answers each and stays well.

mod lines;
mod options;
mod packed;
mod tables;

use std::collections::BTreeSet;
use std::fs;

use futures_util::FutureExt;

use serde_json::Value;

use crate::harness::{Daemon, Site, assert_all_answered, emulator, item, job, model, read};

/// A file that is dropped, and what must become of it.
struct Case {
    name: String,
    content: Vec<u8>,
    /// What is dropped beside it as `NAME.tidegate.toml`.
    sidecar: Option<Vec<u8>>,
    expect: Expect,
}

enum Expect {
    /// The reason of the rejection has this in it.
    Rejected(&'static str),
    /// It is rejected for bad lines alone: their numbers and what their reasons have in them.
    Bad(Vec<(u64, &'static str)>),
    /// The keys of the results lines, with the prompt that was answered or what the error says.
    Answered(Vec<(&'static str, Result<&'static str, &'static str>)>),
}

fn rejected(name: &str, content: impl Into<Vec<u8>>, reason: &'static str) -> Case {
    let expect = Expect::Rejected(reason);
    Case { name: name.to_owned(), content: content.into(), sidecar: None, expect }
}

fn bad(name: &str, content: impl Into<Vec<u8>>, lines: &[(u64, &'static str)]) -> Case {
    let expect = Expect::Bad(lines.to_vec());
    Case { name: name.to_owned(), content: content.into(), sidecar: None, expect }
}

fn answered(
    name: &str,
    content: impl Into<Vec<u8>>,
    lines: &[(&'static str, &'static str)],
) -> Case {
    let lines: Vec<_> = lines.iter().map(|(key, text)| (*key, Ok(*text))).collect();
    answered_in_part(name, content, &lines)
}

fn answered_in_part(
    name: &str,
    content: impl Into<Vec<u8>>,
    lines: &[(&'static str, Result<&'static str, &'static str>)],
) -> Case {
    let expect = Expect::Answered(lines.to_vec());
    Case { name: name.to_owned(), content: content.into(), sidecar: None, expect }
}

fn with_sidecar(case: Case, sidecar: impl Into<Vec<u8>>) -> Case {
    Case { sidecar: Some(sidecar.into()), ..case }
}

impl Case {
    fn stem(&self) -> &str {
        tidegate::spool::stem(&self.name)
    }

    fn drop_into(&self, site: &Site) {
        if let Some(sidecar) = &self.sidecar {
            site.drop_file(&format!("{}.tidegate.toml", self.stem()), sidecar);
        }
        site.drop_file(&self.name, &self.content);
    }

    async fn check(&self, site: &Site) {
        match &self.expect {
            Expect::Rejected(reason) => {
                let error = self.rejection(site).await;
                let told = error["reason"].as_str().unwrap();
                assert!(told.contains(reason), "{}: {told}", self.name);
            }
            Expect::Bad(lines) => {
                let error = self.rejection(site).await;
                assert_eq!(error["bad_lines"], lines.len(), "{}: {error}", self.name);
                let told = error["lines"].as_array().unwrap();
                for (line, (number, reason)) in told.iter().zip(lines) {
                    assert_eq!(line["line"], *number, "{}: {error}", self.name);
                    let told = line["reason"].as_str().unwrap();
                    assert!(told.contains(reason), "{}: {told}", self.name);
                }
            }
            Expect::Answered(lines) => self.check_answers(site, lines).await,
        }
    }

    /// What is said of its rejection; its bytes must stand beside it.
    async fn rejection(&self, site: &Site) -> Value {
        let stem = self.stem();
        let written = site.path("spool/rejected").join(format!("{stem}.error.json"));
        let answered = ["done", "failed"]
            .map(|dir| site.path("spool").join(dir).join(format!("{stem}.results.jsonl")));
        let error = site
            .until(&format!("{} is rejected", self.name), async || {
                let wrong = answered.iter().find(|path| path.exists());
                assert!(wrong.is_none(), "{} is answered: {}", self.name, text_of(wrong?));
                fs::read(&written).ok()
            })
            .await;
        let kept = site.path("spool/rejected").join(&self.name);
        site.until("the file is beside its error", async || kept.exists().then_some(())).await;
        assert!(read(&kept) == self.content, "{} was changed", self.name);
        let error: Value = serde_json::from_slice(&error).unwrap();
        assert_eq!(error["file"], self.name);
        error
    }

    async fn check_answers(
        &self,
        site: &Site,
        lines: &[(&'static str, Result<&'static str, &'static str>)],
    ) {
        let (name, stem) = (&self.name, self.stem());
        let error = site.path("spool/rejected").join(format!("{stem}.error.json"));
        let results = site.path("spool/done").join(format!("{stem}.results.jsonl"));
        let text = site
            .until(&format!("{name} is answered"), async || {
                assert!(!error.exists(), "{name} is rejected: {}", text_of(&error));
                fs::read_to_string(&results).ok()
            })
            .await;
        let told: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told.len(), lines.len(), "{name}: {text}");
        for (told, (key, expected)) in told.iter().zip(lines) {
            let own = told["key"].as_str().or(told["custom_id"].as_str());
            assert_eq!(own, Some(*key), "{name}");
            match expected {
                Ok(prompt) => {
                    let echo = echo(told).unwrap_or_else(|| panic!("{name}: {told}"));
                    assert_eq!(echo.split_once(": ").unwrap().1, *prompt, "{name}");
                }
                Err(reason) => {
                    let message = told["error"]["message"].as_str().unwrap_or_default();
                    assert!(message.contains(reason), "{name}: {told}");
                }
            }
        }
        let kept = site.path("spool/done").join(format!("{stem}.input"));
        site.until("its input is kept", async || kept.exists().then_some(())).await;
        assert!(read(&kept) == self.content, "{name} was changed");
    }
}

fn text_of(path: &std::path::Path) -> String {
    String::from_utf8_lossy(&read(path)).chars().take(500).collect()
}

/// The text of an answer of either dialect.
fn echo(line: &Value) -> Option<&str> {
    let gemini = &line["response"]["candidates"][0]["content"]["parts"][0]["text"];
    let openai = &line["response"]["body"]["choices"][0]["message"]["content"];
    gemini.as_str().or(openai.as_str())
}

/// A good line, then this one.
fn second(line: impl AsRef<[u8]>) -> Vec<u8> {
    [item("good", "a good prompt").as_bytes(), b"\n", line.as_ref(), b"\n"].concat()
}

/// A line of the OpenAI dialect.
fn openai(key: &str, text: &str) -> String {
    serde_json::json!({
        "custom_id": key, "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": crate::harness::MODEL, "messages": [{"role": "user", "content": text}]},
    })
    .to_string()
}

async fn check_all(cases: Vec<Case>) {
    let mut names = BTreeSet::new();
    for case in &cases {
        assert!(names.insert(case.stem().to_owned()), "{} is twice", case.name);
    }
    let emulator = emulator(&model("")).await;
    let site = Site::new(&crate::harness::project("demo", &emulator.base_url(), ""));
    for case in &cases {
        case.drop_into(&site);
    }
    let daemon = site.serve().await;
    let mut wrong = Vec::new();
    for case in &cases {
        // Each tells its own fault; all of them are looked at.
        let checked = std::panic::AssertUnwindSafe(case.check(&site)).catch_unwind().await;
        if checked.is_err() {
            wrong.push(&case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    is_well(&site, &daemon).await;
    assert_eq!(site.list("incoming"), [""; 0]);
    daemon.stop(&site).await;
}

/// The daemon answers a good file and its API, and nothing is left under way.
async fn is_well(site: &Site, daemon: &Daemon) {
    site.drop_file("a-good-one.jsonl", job("good", 2));
    assert_all_answered(&site.results("done", "a-good-one").await, "good", 2);
    site.all_over().await;
    assert_eq!(site.list("working"), [""; 0]);
    assert_eq!(daemon.get("/readyz").await.0, 200);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[tokio::test]
async fn every_fault_of_a_line_is_told_with_its_number() {
    check_all(lines::cases()).await;
}

#[tokio::test]
async fn options_that_cannot_be_had_are_told_and_others_kept() {
    check_all(options::cases()).await;
}

#[tokio::test]
async fn broken_tables_and_templates_are_told() {
    check_all(tables::cases()).await;
}

#[tokio::test]
async fn broken_packing_and_false_suffixes_are_told() {
    check_all(packed::cases()).await;
}
