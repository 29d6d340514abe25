//! What a look at `incoming/` finds.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use super::*;

fn names(scan: &Scan) -> Vec<&str> {
    scan.ready.iter().map(|candidate| candidate.name.as_str()).collect()
}

fn refusals(scan: &Scan) -> BTreeMap<&str, &Refusal> {
    scan.refused.iter().map(|refused| (refused.name.as_str(), &refused.reason)).collect()
}

fn set_mtime(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
}

#[test]
fn a_file_is_ready_after_a_second_of_stillness_and_stays_so() {
    let f = Fixture::new();
    f.put("incoming/p.jsonl", "1");
    assert_eq!(f.scan(5_000), Scan { unsettled: 1, ..Scan::default() });
    assert_eq!(f.scan(5_999), Scan { unsettled: 1, ..Scan::default() });
    let scan = f.scan(6_000);
    assert_eq!((names(&scan), scan.unsettled), (vec!["p.jsonl"], 0));
    // Not claimed, for whatever reason: offered again.
    assert_eq!(f.scan(6_001), scan);
}

#[test]
fn a_growing_file_is_not_ready_however_often_it_is_seen() {
    let f = Fixture::new();
    let path = f.put("incoming/p.jsonl", "");
    for n in 0..5 {
        // The same time each round: the size alone must tell.
        fs::write(&path, "x".repeat(n)).unwrap();
        set_mtime(&path, 1_000);
        assert_eq!(f.scan(u64::try_from(n).unwrap() * 2_000).unsettled, 1);
    }
    // Same size, another time: written over in place.
    fs::write(&path, "yyyy").unwrap();
    set_mtime(&path, 2_000);
    assert_eq!(f.scan(20_000).unsettled, 1);
    // Same size and time, another file.
    fs::write(f.path("incoming/.new"), "zzzz").unwrap();
    set_mtime(&f.path("incoming/.new"), 2_000);
    fs::rename(f.path("incoming/.new"), &path).unwrap();
    assert_eq!(f.scan(40_000).unsettled, 1);
    assert_eq!(names(&f.scan(41_000)), ["p.jsonl"]);
}

#[test]
fn a_file_that_vanished_between_scans_starts_anew() {
    let f = Fixture::new();
    let path = f.put("incoming/p.jsonl", "1");
    f.scan(0);
    fs::rename(&path, f.path("incoming/.away")).unwrap();
    assert_eq!(f.scan(1_000), Scan::default());
    fs::rename(f.path("incoming/.away"), &path).unwrap();
    assert_eq!(f.scan(2_000).unsettled, 1);
}

#[test]
fn files_being_written_and_options_are_passed_over() {
    let f = Fixture::new();
    for name in [".p.jsonl", "..x", "p.tmp", "p.jsonl.part", "p.jsonl~", "p.tidegate.toml"] {
        f.put(&format!("incoming/{name}"), "1");
    }
    assert_eq!(f.scan(0), Scan::default());
    assert_eq!(f.scan(10_000), Scan::default());
}

#[test]
fn the_oldest_come_first_and_the_bound_delays_only_the_newest() {
    let f = Fixture::new();
    let extra = 3;
    for n in 0..caps::SCAN_READY_MAX + extra {
        let path = f.put(&format!("incoming/{n:05}"), "");
        set_mtime(&path, 1_000_000 - u64::try_from(n).unwrap());
    }
    let scan = f.scan(0);
    assert_eq!((scan.unsettled, scan.left_out), (caps::SCAN_READY_MAX, extra));
    let scan = f.scan(1_000);
    assert_eq!((scan.ready.len(), scan.left_out), (caps::SCAN_READY_MAX, extra));
    assert_eq!(scan.ready[0].name, format!("{:05}", caps::SCAN_READY_MAX + extra - 1));
    assert!(scan.ready.is_sorted_by_key(|candidate| candidate.identity.mtime_ns));

    for candidate in &scan.ready {
        fs::remove_file(f.path("incoming").join(&candidate.name)).unwrap();
    }
    f.scan(2_000);
    assert_eq!(names(&f.scan(3_000)), ["00002", "00001", "00000"]);
}

#[test]
fn hostile_entries_are_refused_once_with_the_reason_and_left_alone() {
    let f = Fixture::new();
    let incoming = f.path("incoming");
    let secret = f.dir.path().join("secret");
    fs::write(&secret, "s").unwrap();
    symlink(&secret, incoming.join("link")).unwrap();
    symlink("/nowhere/at/all", incoming.join("dangling")).unwrap();
    fs::create_dir(incoming.join("directory")).unwrap();
    make_fifo(&incoming.join("fifo"));
    let _listener = UnixListener::bind(incoming.join("socket")).unwrap();
    fs::hard_link(&secret, incoming.join("hard")).unwrap();
    fs::write(incoming.join("new\nline"), "1").unwrap();
    fs::write(incoming.join(OsStr::from_bytes(b"raw\xff\x1b[2J")), "1").unwrap();
    fs::write(incoming.join("a".repeat(201)), "1").unwrap();
    let size = caps::FILE_MAX_BYTES + 1;
    File::create(incoming.join("huge")).unwrap().set_len(size).unwrap();

    let at_sight = f.scan(0);
    let fault = |fault| Refusal::Name { fault };
    let long = "a".repeat(201);
    assert_eq!(
        refusals(&at_sight),
        BTreeMap::from([
            ("link", &Refusal::SymbolicLink),
            ("dangling", &Refusal::SymbolicLink),
            ("directory", &Refusal::Directory),
            ("fifo", &Refusal::Special),
            ("socket", &Refusal::Special),
            ("new\\nline", &fault("holds a control character")),
            ("raw\\xff\\u{1b}[2J", &fault("not UTF-8")),
            (long.as_str(), &fault("longer than 200 bytes")),
        ])
    );
    // A link or a size may belong to a file still being put in place.
    assert_eq!(at_sight.unsettled, 2);
    let settled = f.scan(1_000);
    assert_eq!(
        refusals(&settled),
        BTreeMap::from([
            ("hard", &Refusal::HardLink { links: 2 }),
            ("huge", &Refusal::TooLarge { bytes: size, max: caps::FILE_MAX_BYTES }),
        ])
    );
    assert_eq!(f.scan(2_000), Scan::default());
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 10);
    assert_eq!(fs::read(&secret).unwrap(), b"s");
}

#[test]
fn a_refused_entry_is_reported_again_when_it_changes_and_taken_once_it_is_right() {
    let f = Fixture::new();
    let link = f.path("incoming/p.jsonl");
    let original = f.put("incoming/.p", "1");
    fs::hard_link(&original, &link).unwrap();
    f.scan(0);
    assert_eq!(f.scan(1_000).refused.len(), 1);
    assert_eq!(f.scan(2_000).refused.len(), 0);
    // The other name goes: same inode, same time, but now it is a file of its own.
    fs::remove_file(&original).unwrap();
    assert_eq!(names(&f.scan(3_000)), ["p.jsonl"]);

    fs::remove_file(&link).unwrap();
    symlink("a", &link).unwrap();
    assert_eq!(f.scan(4_000).refused.len(), 1);
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    assert_eq!(f.scan(5_000).refused[0].reason, Refusal::Directory);
    // What happens inside a directory is not reported.
    fs::write(link.join("x"), "1").unwrap();
    assert_eq!(f.scan(6_000), Scan::default());
}

#[test]
fn the_memory_of_refused_entries_is_bounded_and_keeps_no_file_waiting() {
    let f = Fixture::new();
    for n in 0..=caps::SCAN_REFUSED_MAX {
        symlink("x", f.path(&format!("incoming/link{n}"))).unwrap();
    }
    f.put("incoming/p.jsonl", "1");
    let scan = f.scan(0);
    assert_eq!((scan.refused.len(), scan.left_out), (caps::SCAN_REFUSED_MAX, 1));
    let scan = f.scan(1_000);
    assert_eq!((names(&scan), scan.refused.len(), scan.left_out), (vec!["p.jsonl"], 0, 1));
}
