//! The answers of an open batch.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the answers")
}

#[test]
fn answers_stand_where_they_are_said_to() {
    let fixture = Fixture::new();
    let spool = &fixture.spool;
    let mut answers = spool.answers("w", 0).expect("new ones");
    assert_eq!(answers.append([&b"one\n"[..], b"second\n"]).expect("written"), [0, 4]);
    assert_eq!(answers.append([&b"third\n"[..]]).expect("written"), [11]);
    drop(answers);
    let path = spool.working_path("w").join("answers");
    assert_eq!(text(&path), "one\nsecond\nthird\n");
    // The last of them was not committed, and a torn one stands behind it.
    std::fs::write(&path, "one\nsecond\nthird\nfou").expect("a torn line");
    let mut answers = spool.answers("w", 11).expect("the same");
    assert_eq!(text(&path), "one\nsecond\n");
    assert_eq!(answers.append([&b"anew\n"[..]]).expect("written"), [11]);
    assert_eq!(text(&path), "one\nsecond\nanew\n");
    let mut read = String::new();
    let mut file = spool.read_answers("w").expect("to be read");
    std::io::Read::read_to_string(&mut file, &mut read).expect("read");
    assert_eq!(read, "one\nsecond\nanew\n");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn answers_go_through_no_link() {
    let fixture = Fixture::new();
    let spool = &fixture.spool;
    let elsewhere = fixture.root().join("elsewhere");
    std::fs::write(&elsewhere, "kept").expect("a file");
    std::fs::create_dir(spool.working_path("w")).expect("a directory");
    std::os::unix::fs::symlink(&elsewhere, spool.working_path("w").join("answers"))
        .expect("a link");
    assert!(spool.answers("w", 0).is_err());
    assert!(spool.read_answers("w").is_err());
    assert!(spool.answers("../w", 0).is_err());
    assert_eq!(text(&elsewhere), "kept");
}
