//! Keystores, good and bad, and where their keys go.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use secrecy::ExposeSecret;

use super::{CANARY, PROJECT, load};
use crate::config::{Config, ImportError, Keystore, KeystoreError};

fn parse(text: &str) -> Result<Keystore, KeystoreError> {
    Keystore::parse(text.as_bytes(), None)
}

/// A configuration whose state is in `dir`.
fn site(dir: &Path, rest: &str) -> Config {
    load(&format!("[server]\nstate_dir = \"{}\"\n{PROJECT}{rest}", dir.display())).unwrap()
}

/// Imports into the project `demo`; what is told, one line a key.
fn import(dir: &Path, text: &str) -> Vec<String> {
    let mut config = site(dir, "").with_imported_keys().unwrap();
    let keystore = parse(text).unwrap();
    let report = config.projects[0].import_keys(dir, &keystore).unwrap();
    let added = report.added.iter().map(|key| format!("+{} {}", key.name, key.place));
    let known = report.known.iter().map(|key| format!("={} {}", key.name, key.place));
    added.chain(known).collect()
}

/// The imported keys that a start finds, with their secrets.
fn found(dir: &Path) -> Vec<(String, String)> {
    let config = site(dir, "").with_imported_keys().unwrap();
    let pair = |key: &crate::config::Key| (key.name.clone(), key.secret.expose_secret().into());
    config.projects[0].keys.iter().skip(1).map(pair).collect()
}

#[test]
fn a_bad_keystore_is_refused_without_a_word_of_its_keys() {
    let bare = format!("\"{CANARY}\"");
    let swapped = format!("{{\"{CANARY}\": \"GEMINI_API_KEY\"}}");
    let unfinished = format!("{{\"A\": [\"{CANARY}\"");
    let number = format!("{{\"A\": [\"{CANARY}\", 7]}}");
    let nested = format!("{{\"A\": {{\"B\": [\"{CANARY}\"]}}}}");
    let lines = format!("{{\"A\": [\"ok\", \"{CANARY}\\n\"]}}");
    let words = format!("{{\"A\": [\"{CANARY} {CANARY}\"]}}");
    let escape = format!("{{\"A\": [\"{CANARY}\\u0000\"]}}");
    let foreign = format!("{{\"A\": [\"{CANARY}é\"]}}");
    let long = format!("{{\"A\": [\"{}\"]}}", CANARY.repeat(110));
    let twice = format!("{{\"A\": [\"{CANARY}\"], \"B\": [], \"A\": [\"x\"]}}");
    let rest = format!("{{\"A\": [\"{CANARY}\"]}} and more");
    let comma = format!("{{\"A\": [\"{CANARY}\",]}}");
    let single = format!("{{'A': ['{CANARY}']}}");
    let many = format!("{{\"A\": [{}]}}", vec!["\"k\""; 1_001].join(","));
    let huge = format!("{{\"A\": [\"{}\"]}}", "x".repeat(1 << 20));
    let cases: [(&str, &str); 22] = [
        ("", "not JSON at line 1, column 0"),
        ("not json", "not JSON at line 1, column 2"),
        ("null", "not an object of arrays"),
        ("[[\"a\"]]", "not an object of arrays"),
        (&bare, "not an object of arrays"),
        (&swapped, "entry (hidden) is not an array"),
        (&unfinished, "not JSON at line 1"),
        (&comma, "not JSON at line 1"),
        (&single, "not JSON at line 1, column 2"),
        (&rest, "not JSON at line 1"),
        (&number, "entry A, key 2: not a string"),
        (&nested, "entry A is not an array"),
        ("{\"A\": [[\"a\"]]}", "entry A, key 1: not a string"),
        ("{\"A\": [\"a\", \"\"]}", "entry A, key 2: empty"),
        (&lines, "entry A, key 2: not one word of printable ASCII"),
        (&words, "entry A, key 1: not one word of printable ASCII"),
        (&escape, "entry A, key 1: not one word of printable ASCII"),
        (&foreign, "entry A, key 1: not one word of printable ASCII"),
        (&long, "entry A, key 1: longer than 4096 bytes"),
        (&twice, "entry A is there twice"),
        ("{}", "no keys in it"),
        ("{\"A\": [], \"B\": []}", "no keys in it"),
    ];
    for (text, wanted) in cases {
        let error = parse(text).expect_err(wanted);
        let told = error.to_string();
        assert!(told.starts_with(wanted), "{wanted}: {told}");
        assert!(!format!("{told}{error:?}").contains("Canary"), "{told}");
    }
    for (text, wanted) in [(&many, KeystoreError::Many), (&huge, KeystoreError::Huge)] {
        assert_eq!(parse(text).unwrap_err(), wanted);
    }
    assert!(Keystore::parse(b"{\"A\": [\"\xff\"]}", None).is_err());
}

#[test]
fn one_entry_is_taken_by_its_name_whatever_the_others_are() {
    let text = r#"{"OPENAI_API_KEY": "none", "GEMINI_API_KEY": ["a", "b"], "EMPTY": []}"#;
    let keystore = Keystore::parse(text.as_bytes(), Some("GEMINI_API_KEY")).unwrap();
    assert_eq!(keystore.entries.len(), 1);
    assert!(!format!("{keystore:?}").contains("\"a\""), "{keystore:?}");
    let told = |service| Keystore::parse(text.as_bytes(), Some(service)).unwrap_err().to_string();
    let known = "no entry GEMINI; it has: EMPTY, GEMINI_API_KEY, OPENAI_API_KEY";
    assert_eq!(told("GEMINI"), known);
    assert_eq!(told("EMPTY"), "no keys in it for EMPTY");
    assert_eq!(
        told("OPENAI_API_KEY"),
        "entry OPENAI_API_KEY is not an array: write [\"…\", \"…\"]"
    );
}

#[test]
fn what_is_imported_is_found_again_in_its_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let keys: Vec<String> = (1..=11).map(|n| format!("\"secret-{n:02}\"")).collect();
    let text = format!("{{\"GEMINI_API_KEY\": [{}], \"my keys\": [\"x\"]}}", keys.join(", "));
    let told = import(dir, &text);
    assert_eq!(told.len(), 12);
    assert_eq!((&told[0][..], &told[11][..]), ("+GEMINI_API_KEY-1 1", "+my_keys-1 1"));
    let names: Vec<_> = found(dir).into_iter().map(|(name, _)| name).collect();
    let mut wanted: Vec<_> = (1..=11).map(|n| format!("GEMINI_API_KEY-{n}")).collect();
    wanted.push("my_keys-1".to_owned());
    assert_eq!(names, wanted, "ten comes after nine");
    assert_eq!(found(dir)[9].1, "secret-10");

    // Again nothing changes, and what is new comes behind.
    let before = found(dir);
    assert!(import(dir, &text).iter().all(|told| told.starts_with('=')));
    assert_eq!(found(dir), before);
    let more = format!("{{\"GEMINI_API_KEY\": [\"new\", \"secret-03\", \"new\", \"{CANARY}\"]}}");
    let told = import(dir, &more);
    let wanted = ["+GEMINI_API_KEY-12 1", "=GEMINI_API_KEY-3 2", "=GEMINI_API_KEY-12 3", "=main 4"];
    assert_eq!(told, wanted, "also what the configuration has is known");

    let project = dir.join("keys/demo");
    for place in [dir.join("keys"), project.clone()] {
        assert_eq!(fs::metadata(place).unwrap().mode() & 0o7777, 0o700);
    }
    let files: Vec<_> = fs::read_dir(&project).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(files.len(), 13, "{files:?}");
    assert!(files.iter().all(|file| file.metadata().unwrap().mode() & 0o7777 == 0o600));
}

#[test]
fn what_lies_beside_the_keys_is_no_key_and_what_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    import(dir, r#"{"A": ["a-secret"]}"#);
    let project = dir.join("keys/demo");
    for name in [".A-2.77", "README", "A 3.key", ".hidden.key"] {
        fs::write(project.join(name), "nonsense words").unwrap();
    }
    assert_eq!(found(dir), [("A-1".to_owned(), "a-secret".to_owned())]);
    // A key that the configuration has too is left out, and one of its name is refused.
    let own = project.join("Z-1.key");
    fs::write(&own, CANARY).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(found(dir).len(), 1);
    fs::rename(&own, project.join("main.key")).unwrap();
    let told = site(dir, "").with_imported_keys().unwrap_err().to_string();
    assert!(told.ends_with("a key of this name; rename the file or the configured key"), "{told}");
    fs::remove_file(project.join("main.key")).unwrap();

    fs::set_permissions(project.join("A-1.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = site(dir, "").with_imported_keys().unwrap_err();
    assert!(matches!(error, ImportError::File { .. }), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("others may use this file (mode 0640); run: chmod 600"), "{told}");
    assert!(!told.contains("a-secret"), "{told}");
}

#[test]
fn imported_keys_alone_are_keys_enough() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nstate_dir = \"{}\"\n[[project]]\nname = \"demo\"\nkeys = []\n",
        dir.path().display()
    );
    let [told] = &load(&text).unwrap().projects[0].missing_keys()[..] else { panic!("no keys") };
    assert!(told.starts_with("project `demo` has no keys; add keys = ["), "{told}");
    assert!(told.ends_with("tidegate keys import keystore.json --project demo"), "{told}");
    import(dir.path(), r#"{"A": ["a-secret"]}"#);
    let config = load(&text).unwrap().with_imported_keys().unwrap();
    assert_eq!(config.projects[0].missing_keys(), [""; 0]);
    let shown = config.render_masked();
    assert!(shown.contains("\n# A-1: ******** imported\n"), "{shown}");
    assert!(!format!("{shown}{config:?}").contains("a-secret"), "{shown}");
    let again = load(&shown).unwrap().with_imported_keys().unwrap();
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
}

#[test]
fn the_built_in_configuration_needs_no_variable_beside_imported_keys() {
    let dir = tempfile::tempdir().unwrap();
    let env = crate::config::Env::from_iter([("HOME", dir.path())]);
    let config = Config::built_in(&env).unwrap().with_imported_keys().unwrap();
    assert_eq!(config.projects[0].missing_keys().len(), 1);
    let mut config = config;
    let state_dir = config.server.state_dir.clone();
    config.projects[0].import_keys(&state_dir, &parse(r#"{"A": ["s"]}"#).unwrap()).unwrap();
    let config = Config::built_in(&env).unwrap().with_imported_keys().unwrap();
    assert_eq!(config.projects[0].missing_keys(), [""; 0]);
}
