//! The walls that can be seen in the text of the source.

use crate::scan::{Found, Source, bracketed, identifiers, words};
use crate::{caught, holds, passes};

/// A room without I/O, clock, randomness and hash maps.
pub(crate) struct PureRoom {
    pub(crate) name: &'static str,
    /// The rooms that it may name, itself included.
    may_use: &'static [&'static str],
}

/// Wall A1.
pub(crate) const PURE_ROOMS: &[PureRoom] = &[
    PureRoom { name: "gate", may_use: &["gate", "calendar"] },
    PureRoom { name: "schedule", may_use: &["schedule", "gate", "calendar"] },
    PureRoom { name: "calendar", may_use: &["calendar"] },
    PureRoom { name: "formats", may_use: &["formats"] },
];

/// What the pure rooms may not name: the end of a path.
const IMPURE_PATHS: &[&[&str]] = &[&["Utc", "now"], &["Local", "now"]];

/// What the pure rooms may not name: the beginning of a path.
const IMPURE_ROOTS: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
];

/// What the pure rooms may not name: any part of a path.
const IMPURE_WORDS: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "axum",
    "eprintln",
    "fastrand",
    "hyper",
    "new_v4",
    "notify",
    "now_v7",
    "println",
    "rand",
    "reqwest",
    "rustix",
    "sqlx",
    "tokio",
    "tracing",
];

/// Beginnings of SQL statements, as style has them: in capitals.
const SQL: &[&str] = &[
    "SELECT ",
    "SELECT\n",
    "INSERT INTO ",
    "INSERT OR ",
    "REPLACE INTO ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "PRAGMA ",
    "BEGIN IMMEDIATE",
    "VACUUM INTO ",
];

const LOG_MACROS: &[&str] = &[
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "event",
    "span",
    "trace_span",
    "debug_span",
    "info_span",
    "warn_span",
    "error_span",
];

/// Names of values that hold prompts, answers or keys.
const NEVER_LOGGED: &[&str] = &[
    "api_key",
    "body",
    "contents",
    "expose_secret",
    "line_text",
    "prompt",
    "prompts",
    "request_body",
    "response_body",
    "secret",
    "text",
];

/// A1: the pure rooms do no I/O, read no clock, draw no random number, iterate no hash map, and
/// use only each other, in one direction.
fn a1(file: &Source) -> Vec<String> {
    let Some(room) = PURE_ROOMS.iter().find(|room| file.is_in(&format!("src/{}", room.name)))
    else {
        return Vec::new();
    };
    let file = file.without_tests();
    let mut found = Vec::new();
    for path in file.paths() {
        let at = file.at(path.offset);
        if let Some(impure) = impure(&path) {
            found.push(format!(
                "{at}: `{impure}` in a pure room; take it as an argument or move it out (A1)"
            ));
        }
        let within = file.within_crate(&path.segments);
        if let Some(other) = within.as_ref().and_then(|path| path.first())
            && !room.may_use.contains(other)
        {
            let (name, allowed) = (room.name, room.may_use.join(", "));
            found.push(format!("{at}: `{name}` uses `{other}`; it may use: {allowed} (A1)"));
        }
    }
    found
}

fn impure(path: &Found) -> Option<String> {
    let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let root = IMPURE_ROOTS.iter().any(|root| segments.starts_with(root));
    let end = IMPURE_PATHS.iter().any(|end| segments.ends_with(end));
    let word = segments.iter().any(|word| IMPURE_WORDS.contains(word));
    (root || end || word).then(|| segments.join("::"))
}

/// A3: SQL stands in the store only.
fn a3_sql(file: &Source) -> Vec<String> {
    if !file.is_in("src") || file.is_in("src/store") {
        return Vec::new();
    }
    let file = file.without_tests();
    let mut found = Vec::new();
    for path in file.paths() {
        if path.segments.iter().any(|word| word == "sqlx") {
            found.push(format!("{}: `sqlx` outside src/store (A3)", file.at(path.offset)));
        }
    }
    for name in ["query!", "query_as!", "query_scalar!"] {
        for offset in words(&file.code, name) {
            found.push(format!("{}: `{name}` outside src/store (A3)", file.at(offset)));
        }
    }
    for statement in SQL {
        for offset in words(&file.literals, statement) {
            found.push(format!("{}: SQL outside src/store (A3)", file.at(offset)));
        }
    }
    for offset in words(&file.literals, "UPDATE ") {
        let statement = file.literals.get(offset..).unwrap_or_default();
        let mut words = statement.split_whitespace();
        if words.nth(2) == Some("SET") {
            found.push(format!("{}: SQL outside src/store (A3)", file.at(offset)));
        }
    }
    found
}

/// A3: no SQL is put together at run time.
fn a3_dynamic(file: &Source) -> Vec<String> {
    let offsets = words(&file.code, "AssertSqlSafe");
    let say = |offset| {
        let at = file.at(offset);
        format!("{at}: `AssertSqlSafe` lets any text through as SQL; use a macro (A3)")
    };
    offsets.into_iter().map(say).collect()
}

/// A3: every table is STRICT.
fn a3_strict(file: &Source) -> Vec<String> {
    if !(file.path.starts_with("migrations/") && file.path.strip_suffix(".sql").is_some()) {
        return Vec::new();
    }
    let sql = without_sql_comments(&file.raw).to_uppercase();
    let mut found = Vec::new();
    for statement in sql.split(';') {
        let words: Vec<&str> = statement
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|w| !w.is_empty())
            .collect();
        let creates = matches!(words.as_slice(), ["CREATE", "TABLE", ..])
            || matches!(words.as_slice(), ["CREATE", "TEMP" | "TEMPORARY", "TABLE", ..]);
        let options = statement.rsplit(')').next().unwrap_or_default();
        let strict = options.split(|c: char| !c.is_alphanumeric()).any(|word| word == "STRICT");
        if creates && !strict {
            let path = &file.path;
            let start = words.iter().take(6).copied().collect::<Vec<_>>().join(" ");
            found.push(format!("{path}: `{start}` is not STRICT (A3)"));
        }
    }
    found
}

fn without_sql_comments(sql: &str) -> String {
    let mut kept = String::new();
    for line in sql.lines() {
        kept.push_str(line.split("--").next().unwrap_or_default());
        kept.push('\n');
    }
    kept
}

/// A7: no log call names a value that holds a prompt, an answer or a key.
fn a7_logs(file: &Source) -> Vec<String> {
    if !file.is_in("src") {
        return Vec::new();
    }
    let file = file.without_tests();
    let mut found = Vec::new();
    for (offset, word) in identifiers(&file.code) {
        let after = file.code.get(offset + word.len()..).unwrap_or_default();
        if let Some(arguments) = after.strip_prefix('!')
            && LOG_MACROS.contains(&word)
            && arguments.trim_start().starts_with(['(', '[', '{'])
        {
            let blanks = arguments.len() - arguments.trim_start().len();
            let open = offset + word.len() + 1 + blanks;
            found.extend(logged(&file, open));
        }
    }
    for (offset, _) in file.code.match_indices("#[") {
        let attribute = bracketed(&file.code, offset + 1);
        let attribute_code = file.code.get(attribute.clone()).unwrap_or_default();
        let names: Vec<&str> = identifiers(attribute_code).iter().map(|(_, word)| *word).collect();
        if !matches!(names.as_slice(), ["instrument", ..] | ["tracing", "instrument", ..]) {
            continue;
        }
        let at = file.at(offset);
        if !names.contains(&"skip_all") {
            found.push(format!("{at}: `#[instrument]` logs all arguments; add `skip_all` (A7)"));
        }
        found.extend(logged(&file, attribute.start));
    }
    found
}

/// The forbidden names in the bracketed code at `open`, in-line format arguments included.
fn logged(file: &Source, open: usize) -> Vec<String> {
    let range = bracketed(&file.code, open);
    let code = file.code.get(range.clone()).unwrap_or_default();
    let literals = file.literals.get(range).unwrap_or_default().replace("{{", "  ");
    let mut names = identifiers(code);
    for (brace, _) in literals.match_indices('{') {
        let inside = literals.get(brace + 1..).unwrap_or_default();
        if let Some((0, name)) = identifiers(inside).first() {
            names.push((brace + 1, name));
        }
    }
    let bad = names.into_iter().filter(|(_, name)| NEVER_LOGGED.contains(name));
    let say = |(offset, name): (usize, &str)| {
        let at = file.at(open + offset);
        format!("{at}: `{name}` in a log call; log its size or its id under another name (A7)")
    };
    bad.map(say).collect()
}

/// A7: a secret is opened where it is sent, and nowhere else.
fn a7_secrets(file: &Source) -> Vec<String> {
    if !file.is_in("src") || file.is_in("src/upstream") || file.is_in("src/config") {
        return Vec::new();
    }
    let opened = identifiers(&file.code).into_iter().filter(|(_, word)| *word == "expose_secret");
    let say = |(offset, _)| {
        let at = file.at(offset);
        format!("{at}: `expose_secret` outside src/upstream and src/config (A7)")
    };
    opened.map(say).collect()
}

/// A8: the emulator and the oracle share no code with what they judge.
fn a8(file: &Source) -> Vec<String> {
    if !file.is_in("src/emulator") && !file.path.starts_with("tests/sim/oracle") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for path in file.paths() {
        let within = file.within_crate(&path.segments);
        if let Some(&room @ ("gate" | "schedule" | "calendar")) =
            within.as_ref().and_then(|path| path.first())
        {
            let at = file.at(path.offset);
            found.push(format!("{at}: the judge uses `{room}`, which it judges (A8)"));
        }
    }
    found
}

#[test]
fn a1_pure_rooms_are_pure() {
    holds(a1);
}

#[test]
fn a1_rule() {
    for text in [
        "use tokio::sync::mpsc;",
        "use std::{collections::BTreeMap, fs};",
        "use std::io::Write;",
        "fn f() { let t = std::time::Instant::now(); }",
        "use std::time::{Duration, SystemTime};",
        "fn f() { chrono::Utc::now(); }",
        "use std::collections::HashMap;",
        "fn f() -> u64 { fastrand::u64(..) }",
        "use crate::store::Row;",
        "use crate::{gate::units, config};",
        "use super::super::config::Project;",
        "fn f() { crate::store::read(); }",
        "fn f() { tracing::info!(\"hello\"); }",
    ] {
        caught(a1, "src/gate/window.rs", text);
    }
    caught(a1, "src/gate/mod.rs", "use super::store;");
    caught(a1, "src/calendar/mod.rs", "use crate::schedule::Plan;");
    caught(a1, "src/formats/gemini.rs", "use crate::gate::units::Tokens;");
    for text in [
        "// use tokio;\n/// std::fs\nfn f() -> &'static str { \"tokio HashMap\" }",
        "use std::collections::{BTreeMap, BTreeSet};\nuse std::time::Duration;\nuse std::fmt;",
        "use crate::calendar::Day;\nuse crate::gate::units::Now;\nuse super::limits::Limit;",
        "use chrono::{DateTime, Utc};\nfn f(now: DateTime<Utc>) {}",
        "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}",
    ] {
        passes(a1, "src/gate/window.rs", text);
    }
    passes(a1, "src/gate/window/tests.rs", "use std::fs;");
    passes(a1, "src/engine/mod.rs", "use tokio::sync::mpsc;");
    passes(a1, "src/schedule/order.rs", "use crate::gate::units::Now;");
}

#[test]
fn a3_sql_stands_in_the_store_only() {
    holds(a3_sql);
}

#[test]
fn a3_sql_rule() {
    for text in [
        "use sqlx::SqlitePool;",
        "fn f() { query!(x); }",
        "const Q: &str = \"SELECT id FROM attempt\";",
        "const Q: &str = r#\"\n    UPDATE attempt\n    SET state = 1\"#;",
        "const Q: &str = \"DELETE FROM item\";",
        "const Q: &str = \"INSERT INTO item VALUES (1)\";",
    ] {
        caught(a3_sql, "src/report/mod.rs", text);
        passes(a3_sql, "src/store/usage.rs", text);
    }
    for text in [
        "/// SELECT id FROM attempt, through `sqlx`\nfn f() {}",
        "const HELP: &str = \"Select a project; UPDATE the limits\";",
        "#[cfg(test)]\nmod tests { const Q: &str = \"SELECT 1\"; }",
    ] {
        passes(a3_sql, "src/report/mod.rs", text);
    }
}

#[test]
fn a3_no_sql_is_made_at_run_time() {
    holds(a3_dynamic);
}

#[test]
fn a3_dynamic_rule() {
    caught(a3_dynamic, "src/store/usage.rs", "sqlx::query(sqlx::AssertSqlSafe(text))");
    passes(a3_dynamic, "src/store/usage.rs", "// never AssertSqlSafe\nsqlx::query!(\"SELECT 1\")");
}

#[test]
fn a3_every_table_is_strict() {
    holds(a3_strict);
}

#[test]
fn a3_strict_rule() {
    let path = "migrations/20260101000000_first.sql";
    caught(a3_strict, path, "CREATE TABLE a (\n  id INTEGER -- STRICT\n);");
    caught(a3_strict, path, "create table if not exists a (strict INTEGER);");
    caught(a3_strict, path, "CREATE TABLE a (id INTEGER) STRICT;\nCREATE TABLE b (id INTEGER);");
    passes(
        a3_strict,
        path,
        "-- The ledger; a table.\nCREATE TABLE a (\n  n INTEGER CHECK (n > 0) -- ids; all of them\n\
         ) STRICT, WITHOUT ROWID;\nCREATE INDEX i ON a (n);",
    );
}

#[test]
fn a7_no_prompt_and_no_key_is_logged() {
    holds(a7_logs);
}

#[test]
fn a7_logs_rule() {
    for text in [
        "info!(%prompt, \"sent\");",
        "tracing::debug!(\"sent {body}\");",
        "warn!(\"bad line {line_text:?}\");",
        "error!(error = %e, \"answer: {}\", response_body);",
        "info!(key = key.secret.expose_secret());",
        "info_span!(\"send\", text = %x);",
        "debug! { \"{}\", f(&api_key) };",
        "#[instrument]\nfn f(x: u8) {}",
        "#[tracing::instrument(skip(x))]\nfn f(x: u8) {}",
        "#[instrument(skip_all, fields(prompt = %prompt))]\nfn f(prompt: &str) {}",
    ] {
        caught(a7_logs, "src/engine/mod.rs", text);
    }
    for text in [
        "info!(item.id = id, prompt_bytes = n, \"prompt sent to {model}\");",
        "// info!(%prompt)\nfn f(prompt: &str) -> String { format!(\"{prompt}\") }",
        "#[instrument(skip_all, fields(item.id = %id))]\nfn f(prompt: &str, id: u64) {}",
        "let error = body; error != text",
        "info!(\"{{body}}\");",
    ] {
        passes(a7_logs, "src/engine/mod.rs", text);
    }
}

#[test]
fn a7_secrets_are_opened_in_few_places() {
    holds(a7_secrets);
}

#[test]
fn a7_secrets_rule() {
    caught(a7_secrets, "src/proxy/mod.rs", "fn f() { key.expose_secret(); }");
    passes(a7_secrets, "src/upstream/gemini.rs", "fn f() { key.expose_secret(); }");
    passes(a7_secrets, "src/proxy/mod.rs", "// expose_secret is for upstream");
}

#[test]
fn a8_the_judges_share_no_code_with_the_judged() {
    holds(a8);
}

#[test]
fn a8_rule() {
    caught(a8, "src/emulator/window.rs", "use crate::gate::units::Metric;");
    caught(a8, "src/emulator/mod.rs", "use crate::{caps, schedule};");
    caught(a8, "src/emulator/mod.rs", "use super::calendar;");
    caught(a8, "tests/sim/oracle.rs", "use tidegate::gate::Gate;");
    passes(a8, "src/emulator/mod.rs", "// crate::gate\nuse crate::caps;\nmod gate_page;");
    passes(a8, "tests/sim/main.rs", "use tidegate::gate::Gate;");
}
