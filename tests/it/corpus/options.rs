//! Options on the first line and beside the file, and names.

use super::{Case, answered, bad, rejected, with_sidecar};
use crate::harness::item;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = first_lines();
    cases.extend(sidecars());
    cases.extend(names());
    cases
}

fn good() -> String {
    item("a", "one")
}

fn first_lines() -> Vec<Case> {
    let faults = [
        ("unknown", r#"{"tidegate":{"modle":"x"}}"#, "did you mean \"model\"?"),
        ("number", r#"{"tidegate":7}"#, "must be an object of options"),
        ("list", r#"{"tidegate":[]}"#, "must be an object of options"),
        ("twice", r#"{"tidegate":{"model":"a","model":"b"}}"#, "\"model\" is given twice"),
        ("beside", r#"{"tidegate":{},"key":"a"}"#, "with nothing beside them"),
        ("both", r#"{"tidegate":{},"tidegate":{}}"#, "duplicate field \"tidegate\""),
        ("torn", r#"{"tidegate":{"model":"#, "line 1: not valid JSON at column"),
        ("comma", r#"{"tidegate":{"model":"a",}}"#, "line 1: not valid JSON at column"),
        ("null", r#"{"tidegate":{"model":null}}"#, "option \"model\" must be a model's id"),
        ("path", r#"{"tidegate":{"model":"../../v1/x"}}"#, "option \"model\" must be"),
        ("question", r#"{"tidegate":{"model":"a?key=b"}}"#, "option \"model\" must be"),
        (
            "priority",
            r#"{"tidegate":{"priority":"urgent"}}"#,
            "one of \"high\", \"normal\", \"low\"",
        ),
        ("word", r#"{"tidegate":{"priority":1}}"#, "option \"priority\" must be one of"),
        ("instant", r#"{"tidegate":{"not_before":"tomorrow"}}"#, "option \"not_before\" must be"),
        ("zone", r#"{"tidegate":{"deadline":"2026-11-23T08:00:00"}}"#, "option \"deadline\" must"),
        ("name-up", r#"{"tidegate":{"name":"../../etc/passwd"}}"#, "option \"name\" must be"),
        ("name-dot", r#"{"tidegate":{"name":".hidden"}}"#, "option \"name\" must be"),
        ("id", r#"{"tidegate":{"id":"7"}}"#, "option \"id\" must be a UUID"),
        ("cost", r#"{"tidegate":{"max_cost":-1}}"#, "option \"max_cost\" must be"),
        ("cost-fine", r#"{"tidegate":{"max_cost":0.0000001}}"#, "option \"max_cost\" must be"),
        ("patience", r#"{"tidegate":{"patience":"400d"}}"#, "option \"patience\" must be"),
        ("fallback", r#"{"tidegate":{"fallback":[]}}"#, "option \"fallback\" must be a list"),
        ("template", r#"{"tidegate":{"template":"{{a}}"}}"#, "of .csv and .txt files alone"),
        ("tenant", r#"{"tidegate":{"tenant":"a\u001b[31m"}}"#, "option \"tenant\" must be a text"),
        ("project", r#"{"tidegate":{"project":"nobody"}}"#, "no project nobody"),
        ("pool", r#"{"tidegate":{"pool":"p","model":"m"}}"#, "both a pool (p) and a model (m)"),
    ];
    let case = |(name, options, reason): (&str, &str, &'static str)| {
        rejected(&format!("first-{name}.jsonl"), format!("{options}\n{}\n", good()), reason)
    };
    let mut cases: Vec<_> = faults.into_iter().map(case).collect();
    let options = r#"{"tidegate":{"priority":"low"}}"#;
    let blank = format!("\n{options}\n{}", good());
    cases.push(bad("first-is-second.jsonl", blank, &[(2, "on the first line only")]));
    let again = format!("{options}\n{options}\n{}", good());
    cases.push(bad("first-again.jsonl", again, &[(2, "on the first line only")]));
    let marked = format!("\u{feff} {options}\r\n{}", good());
    cases.push(answered("first-marked.jsonl", marked, &[("a", "one")]));
    let text = format!("{options}\na line\n{options}\n");
    cases.push(answered(
        "first-of-text.txt",
        text,
        &[("2", "a line"), ("3", r#"{"tidegate":{"priority":"low"}}"#)],
    ));
    cases
}

fn sidecars() -> Vec<Case> {
    let faults: Vec<(&str, Vec<u8>, &'static str)> = vec![
        ("torn", b"model = ".to_vec(), "not valid TOML at line 1"),
        ("line", b"\n\nmodel = x\n".to_vec(), "not valid TOML at line 3"),
        ("twice", b"model = \"a\"\nmodel = \"b\"\n".to_vec(), "not valid TOML at line 2"),
        ("json", b"{\"model\":\"a\"}".to_vec(), "not valid TOML at line 1"),
        ("unknown", b"modle = \"a\"\n".to_vec(), "did you mean \"model\"?"),
        ("table", b"[model]\nname = \"a\"\n".to_vec(), "option \"model\" must be"),
        ("header", b"[tidegate]\nmodel = \"a\"\n".to_vec(), "unknown option \"tidegate\""),
        ("date", b"not_before = 2026-11-23\n".to_vec(), "option \"not_before\" must be"),
        ("local", b"not_before = 2026-11-23T08:00:00\n".to_vec(), "\"not_before\" must be"),
        ("latin1", b"tenant = \"caf\xe9\"\n".to_vec(), "is not UTF-8 text"),
        ("nul", b"tenant = \"a\0b\"\n".to_vec(), "not valid TOML"),
        ("large", vec![b'#'; 600 << 10], "more than 524288: split it"),
    ];
    let mut cases: Vec<_> = faults
        .into_iter()
        .map(|(name, sidecar, reason)| {
            with_sidecar(rejected(&format!("beside-{name}.jsonl"), good(), reason), sidecar)
        })
        .collect();
    let empty = answered("beside-empty.jsonl", good(), &[("a", "one")]);
    cases.push(with_sidecar(empty, ""));
    // What the file says itself holds, and what stands beside it is read all the same.
    let over = "{\"tidegate\":{\"template\":\"<{{text}}>\"}}\nx\n".to_owned();
    let over = answered("beside-over.txt", over, &[("2", "<x>")]);
    cases.push(with_sidecar(over, "template = \"({{text}})\"\n"));
    cases
}

/// Names that are shown, become paths and are matched.
fn names() -> Vec<Case> {
    let long = format!("{}.jsonl", "n".repeat(194));
    let wide = format!("{}.txt", "名".repeat(65));
    let mut cases = vec![
        rejected("jsonl", good(), "a file without a suffix is not accepted"),
        rejected("letter.pdf", "%PDF-1.7", ".pdf files are not accepted"),
        rejected("archive.tar.gz", "x", ".tar.gz files are not accepted"),
        rejected("alone.gz", "x", ".gz files are not accepted"),
        rejected("backup.jsonl.bak", good(), ".bak files are not accepted"),
        rejected("dot.", good(), "a file without a suffix is not accepted"),
        rejected("odd.\u{202e}lnosj", good(), "files are not accepted"),
        rejected("long.suffixsuffixsuffixsuffixsuffixsuffixsuffix", good(), "suffixsuff… files"),
    ];
    let taken = [
        "CAPITALS.JSONL",
        "..%2f..%2fetc%2fpasswd.jsonl.x.jsonl",
        "-rf.jsonl",
        "$(touch x).jsonl",
        "a b'c\"d\\e.jsonl",
        "%s%n.jsonl",
        "name\u{202e}.jsonl",
        "nul.jsonl",
        "*.jsonl",
        "x.error.jsonl",
        "x.results.jsonl",
        "x.input.jsonl",
        "x.original.jsonl",
    ];
    let named = |name: &&str| {
        let name = name.strip_prefix("..").unwrap_or(name);
        answered(name, good(), &[("a", "one")])
    };
    cases.extend(taken.iter().map(named));
    cases.push(answered(&long, good(), &[("a", "one")]));
    cases.push(answered(&wide, "one", &[("1", "one")]));
    cases
}
