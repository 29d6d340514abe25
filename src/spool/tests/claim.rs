//! Copying a dropped file and letting the original go.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use sha2::{Digest, Sha256};

use super::*;
use crate::gate::units::UnixMs;

/// What happens to a dropped file, with its name.
type Change = (&'static str, fn(&Path));
/// What comes to stand under the name of a dropped file; the second path is someone's secret.
type TakePlace = (fn(&Path, &Path), Refusal);

fn candidate(f: &Fixture, name: &str, content: &str) -> Candidate {
    f.put(&format!("incoming/{name}"), content);
    f.ready().into_iter().find(|candidate| candidate.name == name).unwrap()
}

#[test]
fn a_claim_copies_hashes_and_keeps_the_original() {
    let f = Fixture::new();
    let content = "line\n".repeat(100_000);
    let candidate = candidate(&f, "p.jsonl", &content);
    let claimed = f.spool.claim(&candidate, ID).unwrap();

    let dropped = fs::metadata(f.path("incoming/p.jsonl")).unwrap();
    let mtime_ns = dropped.mtime() * 1_000_000_000 + dropped.mtime_nsec();
    let source = Identity {
        dev: dropped.dev(),
        ino: dropped.ino(),
        mtime_ns,
        size: dropped.size(),
        uid: dropped.uid(),
    };
    assert_eq!(
        claimed,
        Claimed {
            id: ID.to_owned(),
            source,
            changed: UnixMs(dropped.ctime() * 1_000 + dropped.ctime_nsec() / 1_000_000),
            sha256: Sha256::digest(&content).into(),
            input: f.spool.input_path(ID),
            sidecar: Sidecar::Absent,
        }
    );
    assert_eq!(fs::read_to_string(&claimed.input).unwrap(), content);
    assert_eq!(fs::metadata(&claimed.input).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(f.spool.working_path(ID)).unwrap().mode() & 0o777, 0o700);
    assert!(!f.path(&format!("working/{ID}/input.part")).exists());
}

#[test]
fn an_empty_file_is_claimed_like_any_other() {
    let f = Fixture::new();
    let claimed = f.claim("p.jsonl", "");
    assert_eq!(claimed.sha256, <[u8; 32]>::from(Sha256::digest("")));
    assert_eq!(fs::read(&claimed.input).unwrap(), b"");
}

#[test]
fn a_file_that_changes_around_the_copy_stays_and_leaves_no_trace() {
    let change: [Change; 4] = [
        ("appended", |path| fs::write(path, "1 and more").unwrap()),
        ("same size", |path| {
            fs::write(path, "2").unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("truncated", |path| fs::write(path, "").unwrap()),
        ("replaced", |path| {
            fs::write(path.with_file_name(".new"), "1").unwrap();
            fs::rename(path.with_file_name(".new"), path).unwrap();
        }),
    ];
    for (what, change) in change {
        let f = Fixture::new();
        let path = f.path("incoming/p.jsonl");
        // Before the claim opens it, and between the copy and the check.
        let stale = candidate(&f, "p.jsonl", "1");
        change(&path);
        let before = f.tree();
        let error = f.spool.claim(&stale, ID).unwrap_err();
        assert!(matches!(error, SpoolError::Changed { .. }), "{what}: {error}");
        assert_eq!(f.tree(), before, "{what}");

        let fresh = candidate(&f, "p.jsonl", "1");
        let error = f.spool.claim_observed(&fresh, ID, || change(&path)).unwrap_err();
        assert!(matches!(error, SpoolError::Changed { .. }), "{what}: {error}");
        assert_eq!(f.tree(), before, "{what}");
    }
}

#[test]
fn what_took_the_place_of_the_candidate_is_not_followed() {
    let f = Fixture::new();
    let path = f.path("incoming/p.jsonl");
    let secret = f.dir.path().join("secret");
    fs::write(&secret, "1").unwrap();
    let take_place: [TakePlace; 4] = [
        (|path, secret| symlink(secret, path).unwrap(), Refusal::SymbolicLink),
        (|path, _| fs::create_dir(path).unwrap(), Refusal::Directory),
        (|path, secret| fs::hard_link(secret, path).unwrap(), Refusal::HardLink { links: 2 }),
        (|path, _| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), Refusal::Special),
    ];
    for (take_place, expected) in take_place {
        let candidate = candidate(&f, "p.jsonl", "1");
        fs::remove_file(&path).unwrap();
        take_place(&path, &secret);
        let error = f.spool.claim(&candidate, ID).unwrap_err();
        let SpoolError::Refused { reason, .. } = error else { panic!("{expected:?}: {error}") };
        assert_eq!(reason, expected);
        assert_eq!(fs::read_dir(f.path("working")).unwrap().count(), 0);
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
    }
    // A pipe without a writer must not hold us up.
    let candidate = candidate(&f, "p.jsonl", "1");
    fs::remove_file(&path).unwrap();
    assert!(matches!(f.spool.claim(&candidate, ID), Err(SpoolError::Gone { .. })));
    make_fifo(&path);
    let error = f.spool.claim(&candidate, ID).unwrap_err();
    assert!(matches!(error, SpoolError::Refused { reason: Refusal::Special, .. }), "{error}");
}

#[test]
fn a_claim_takes_no_name_or_id_that_leaves_the_directory() {
    let f = Fixture::new();
    let mut candidate = candidate(&f, "p.jsonl", "1");
    assert!(matches!(f.spool.claim(&candidate, "../x"), Err(SpoolError::BadId { .. })));
    candidate.name = "../incoming/p.jsonl".to_owned();
    assert!(matches!(f.spool.claim(&candidate, ID), Err(SpoolError::BadName { .. })));
}

#[test]
fn a_claim_neither_overwrites_a_claimed_input_nor_trips_over_a_torn_one() {
    let f = Fixture::new();
    f.put(&format!("working/{ID}/input.part"), "torn by a crash and longer");
    f.claim("p.jsonl", "1");
    assert_eq!(fs::read_to_string(f.spool.input_path(ID)).unwrap(), "1");

    let other = candidate(&f, "q.jsonl", "2");
    assert!(matches!(f.spool.claim(&other, ID), Err(SpoolError::Exists { .. })));
    assert_eq!(fs::read_to_string(f.spool.input_path(ID)).unwrap(), "1");
}

#[test]
fn options_come_from_the_file_named_most_closely() {
    let f = Fixture::new();
    f.put("incoming/p.tidegate.toml", "by stem");
    assert_eq!(f.claim("p.jsonl", "1").sidecar, Sidecar::Text("by stem".to_owned()));
    f.spool.remove_working(ID).unwrap();
    f.put("incoming/p.jsonl.tidegate.toml", "by name");
    assert_eq!(f.claim("p.jsonl", "1").sidecar, Sidecar::Text("by name".to_owned()));
}

#[test]
fn bad_options_are_said_and_do_not_stop_the_claim() {
    let f = Fixture::new();
    let sidecar = "p.jsonl.tidegate.toml";
    let path = f.path("incoming").join(sidecar);
    let max = caps::SIDECAR_MAX_BYTES;
    let secret = f.dir.path().join("secret");
    fs::write(&secret, "s").unwrap();
    let over = usize::try_from(max).unwrap() + 1;
    let cases: [(&dyn Fn(), Refusal); 4] = [
        (&|| symlink(&secret, &path).unwrap(), Refusal::SymbolicLink),
        (&|| fs::hard_link(&secret, &path).unwrap(), Refusal::HardLink { links: 2 }),
        (&|| fs::write(&path, b"\xff").unwrap(), Refusal::NotText),
        (
            &|| fs::write(&path, "x".repeat(over)).unwrap(),
            Refusal::TooLarge { bytes: max + 1, max },
        ),
    ];
    for (make, reason) in cases {
        make();
        let claimed = f.claim("p.jsonl", "1");
        assert_eq!(claimed.sidecar, Sidecar::Bad { name: sidecar.to_owned(), reason });
        assert!(claimed.input.exists());
        f.spool.remove_working(ID).unwrap();
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    assert_eq!(f.claim("p.jsonl", "1").sidecar, Sidecar::Absent);
    f.spool.remove_working(ID).unwrap();
    fs::remove_dir(&path).unwrap();

    fs::write(&path, "x".repeat(over - 1)).unwrap();
    assert!(
        matches!(f.claim("p.jsonl", "1").sidecar, Sidecar::Text(text) if text.len() == over - 1)
    );
}

#[test]
fn release_removes_the_file_and_its_options_and_may_be_repeated() {
    let f = Fixture::new();
    f.put("incoming/p.jsonl.tidegate.toml", "x = 1");
    let claimed = f.claim("p.jsonl", "1");
    let release = || f.spool.release_original(ID, "p.jsonl", &claimed.source).unwrap();
    assert_eq!(release(), Release::Removed);
    assert_eq!(f.files(), tree_of([(&*format!("working/{ID}/input"), "1")]));
    assert_eq!(release(), Release::Gone);
}

#[test]
fn release_leaves_a_file_that_is_not_the_claimed_one() {
    let f = Fixture::new();
    let claimed = f.claim("p.jsonl", "1");
    f.put("incoming/p.jsonl.tidegate.toml", "of the next file");
    // More was written into it.
    f.put("incoming/p.jsonl", "1 and more");
    let release = || f.spool.release_original(ID, "p.jsonl", &claimed.source).unwrap();
    assert_eq!(release(), Release::Different);
    // Another file has its name.
    f.put("incoming/.new", "new");
    fs::rename(f.path("incoming/.new"), f.path("incoming/p.jsonl")).unwrap();
    assert_eq!(release(), Release::Different);
    assert_eq!(fs::read_to_string(f.path("incoming/p.jsonl")).unwrap(), "new");
    assert!(f.path("incoming/p.jsonl.tidegate.toml").exists());
}

#[test]
fn release_goes_on_where_a_crash_cut_it_off() {
    let f = Fixture::new();
    let claimed = f.claim("p.jsonl", "1");
    let aside = f.path(&format!("working/{ID}.original"));
    let release = || f.spool.release_original(ID, "p.jsonl", &claimed.source).unwrap();
    // After the move: the claimed file waits for its removal, a new one has its name.
    fs::rename(f.path("incoming/p.jsonl"), &aside).unwrap();
    f.put("incoming/p.jsonl", "new");
    assert_eq!(release(), Release::Removed);
    assert!(!aside.exists());
    // After the move of a file that was swapped in at the last moment: it is put back, beside
    // what has its name by then.
    fs::write(&aside, "swapped in").unwrap();
    assert_eq!(release(), Release::Different);
    assert_eq!(fs::read_to_string(f.path("incoming/p.jsonl")).unwrap(), "new");
    assert_eq!(fs::read_to_string(f.path("incoming/p-2.jsonl")).unwrap(), "swapped in");
    assert!(!aside.exists());
    assert!(f.spool.orphans(&|id| id == ID).unwrap().is_empty());
}

#[test]
fn another_users_options_do_not_count() {
    // Only root may give a file away; whoever else runs this has nothing to test with.
    let f = Fixture::new();
    let path = f.put("incoming/p.jsonl.tidegate.toml", "theirs");
    let given = std::os::unix::fs::chown(&path, Some(65_533), None).is_ok();
    let claimed = f.claim("p.jsonl", "1");
    let expected = if given { Sidecar::Absent } else { Sidecar::Text("theirs".to_owned()) };
    assert_eq!(claimed.sidecar, expected);
    f.spool.release_original(ID, "p.jsonl", &claimed.source).unwrap();
    assert_eq!(path.exists(), given);
}
