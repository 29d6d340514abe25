//! How files look: length, width, openings, leftovers.

use crate::scan::{Source, words};
use crate::{caught, holds, passes};

const LINES_MAX: usize = 600;
/// Tests are read one at a time; a table of cases may be long.
const TEST_LINES_MAX: usize = 900;
const MAIN_LINES_MAX: usize = 30;
const WIDTH_MAX: usize = 100;

/// Ends of the names of files that are read as text.
const TEXT: &[&str] = &[
    ".rs", ".toml", ".md", ".sql", ".sh", ".py", ".js", ".json", ".jsonl", ".html", ".css", ".txt",
    ".service", ".socket", ".conf", ".snap",
];

/// Homes and roots of somebody's machine. In two parts, so that this file does not catch itself.
const MACHINE_PATHS: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/"), HOMES];

/// Tests may make up a home.
const HOMES: &str = concat!("/ho", "me/");

pub(crate) fn is_text(name: &str) -> bool {
    TEXT.iter().any(|end| name.ends_with(end))
}

fn is_ours(file: &Source) -> bool {
    file.is_rust() && (file.is_in("src") || file.is_in("xtask"))
}

fn length(file: &Source) -> Vec<String> {
    if !is_ours(file) {
        return Vec::new();
    }
    let max = match file.path.as_str() {
        "src/main.rs" => MAIN_LINES_MAX,
        _ if file.is_test() => TEST_LINES_MAX,
        _ => LINES_MAX,
    };
    let lines = file.raw.lines().count();
    let path = &file.path;
    if lines > max { vec![format!("{path}: {lines} lines, at most {max}")] } else { Vec::new() }
}

/// Expected text in a test is as wide as it is.
fn width(file: &Source) -> Vec<String> {
    if !is_ours(file) || file.is_test() {
        return Vec::new();
    }
    let too_wide = |(n, line): (usize, &str)| {
        let width = line.chars().count();
        let path = &file.path;
        (width > WIDTH_MAX).then(|| format!("{path}:{}: {width} columns", n + 1))
    };
    file.raw.lines().enumerate().filter_map(too_wide).collect()
}

fn opening(file: &Source) -> Vec<String> {
    let opens = file.raw.starts_with("//!");
    if !is_ours(file) || file.is_test() || opens {
        return Vec::new();
    }
    vec![format!("{}: begins without `//!`: say what the module is for", file.path)]
}

fn leftovers(file: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for leftover in ["todo!", "unimplemented!"] {
        for offset in words(&file.code, leftover) {
            found.push(format!("{}: `{leftover}`", file.at(offset)));
        }
    }
    for (offset, _) in file.code.match_indices("#[ignore") {
        found.push(format!("{}: a test that is not run proves nothing", file.at(offset)));
    }
    found
}

fn machine_paths(file: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let made_up = |path: &&&str| file.is_test() && **path == HOMES;
    for path in MACHINE_PATHS.iter().filter(|path| !made_up(path)) {
        for (offset, _) in file.raw.match_indices(path) {
            let before = file.raw.get(..offset).and_then(|text| text.chars().next_back());
            // `spool/…` or `example.org/…` end in such a word without being one.
            let begins = !before.is_some_and(|c| c.is_alphanumeric() || "._-}~".contains(c));
            if begins {
                found.push(format!("{}: a path of somebody's machine", file.at(offset)));
            }
        }
    }
    found
}

#[test]
fn files_are_short() {
    holds(length);
}

#[test]
fn length_rule() {
    let lines = |n| "//! x\n".repeat(n);
    caught(length, "src/gate/window.rs", &lines(601));
    caught(length, "src/gate/window/tests.rs", &lines(901));
    caught(length, "src/main.rs", &lines(31));
    passes(length, "src/gate/window.rs", &lines(600));
    passes(length, "src/gate/window/tests.rs", &lines(900));
    passes(length, "src/main.rs", &lines(30));
    passes(length, "CHANGELOG.md", &lines(5_000));
}

#[test]
fn lines_are_short() {
    holds(width);
}

#[test]
fn width_rule() {
    caught(width, "src/lib.rs", &format!("//! {}", "x".repeat(97)));
    passes(width, "src/gate/tests.rs", &format!("//! {}", "x".repeat(97)));
    passes(width, "src/lib.rs", &format!("//! {}", "é".repeat(96)));
}

#[test]
fn modules_say_what_they_are_for() {
    holds(opening);
}

#[test]
fn opening_rule() {
    caught(opening, "src/gate/mod.rs", "use std::fmt;");
    passes(opening, "src/gate/mod.rs", "//! Admission.\nuse std::fmt;");
    passes(opening, "src/gate/tests.rs", "use super::*;");
}

#[test]
fn nothing_is_left_over() {
    holds(leftovers);
}

#[test]
fn leftovers_rule() {
    caught(leftovers, "src/lib.rs", "fn f() { todo!() }");
    caught(leftovers, "xtask/src/main.rs", "fn f() { unimplemented!(\"later\") }");
    caught(leftovers, "tests/it/main.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}");
    passes(leftovers, "src/lib.rs", "// todo!()\nfn f() -> &'static str { \"#[ignore]\" }");
}

#[test]
fn nothing_names_a_machine() {
    holds(machine_paths);
}

#[test]
fn machine_paths_rule() {
    for path in MACHINE_PATHS {
        caught(machine_paths, "src/lib.rs", &format!("const P: &str = \"{path}x\";"));
        caught(machine_paths, "docs/operations.md", &format!("see {path}x"));
        passes(machine_paths, "docs/operations.md", &format!("spool{path}x and ~{path}x"));
    }
    passes(machine_paths, "src/config/tests.rs", &format!("const P: &str = \"{HOMES}x\";"));
    passes(machine_paths, "docs/operations.md", "/var/lib/tidegate and /etc/tidegate");
}
