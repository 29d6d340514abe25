//! The walls of ARCHITECTURE.md and the shape of the source, as tests.
//!
//! Everything here reads text: a small scanner tells code, comments and literals apart
//! ([`scan`]), and a rule is a function from one file to what is wrong in it ([`walls`],
//! [`shape`]). Beside each rule stands a test of the rule: what it must catch, what it must not.

mod scan;
mod shape;
mod walls;

use std::fs;
use std::path::Path;

use scan::Source;

/// What is wrong with a file: `path:line: what, and what to do instead`.
type Rule = fn(&Source) -> Vec<String>;

/// Directories that hold no source of ours.
const NOT_OURS: &[&str] = &[".git", ".venv", "node_modules", "target"];

/// Every text file of the repository that a rule may ask for.
fn repository() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<Source>) {
    let list = dir.display();
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot list {list}: {e}"));
    for entry in entries {
        let path = entry.unwrap_or_else(|e| panic!("cannot list {list}: {e}")).path();
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if path.is_symlink() || NOT_OURS.contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if shape::is_text(&name) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
            // A file that is not UTF-8 is data, not text.
            if let Ok(text) = fs::read_to_string(&path) {
                files.push(Source::new(&relative, text));
            }
        }
    }
}

/// The rule finds nothing in the repository.
#[track_caller]
fn holds(rule: Rule) {
    let found: Vec<String> = repository().iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The rule finds something in such a file.
#[track_caller]
fn caught(rule: Rule, path: &str, text: &str) {
    let found = rule(&Source::new(path, text.to_owned()));
    assert!(!found.is_empty(), "not caught in {path}:\n{text}");
}

/// The rule finds nothing in such a file.
#[track_caller]
fn passes(rule: Rule, path: &str, text: &str) {
    let found = rule(&Source::new(path, text.to_owned()));
    assert!(found.is_empty(), "caught in {path}:\n{text}\n{}", found.join("\n"));
}

/// A rule over no files holds for ever.
#[test]
fn the_walk_finds_the_source() {
    let files = repository();
    for path in ["Cargo.toml", "src/lib.rs", "src/main.rs", "tests/tidy/main.rs", "clippy.toml"] {
        assert!(files.iter().any(|file| file.path == path), "{path} is not among the files");
    }
    for room in walls::PURE_ROOMS {
        let dir = format!("src/{}", room.name);
        if Path::new(env!("CARGO_MANIFEST_DIR")).join(&dir).is_dir() {
            assert!(files.iter().any(|file| file.path.starts_with(&dir)), "{dir} is not read");
        }
    }
}
