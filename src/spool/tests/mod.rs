//! The protocol on a real file system.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod answers;
mod claim;
mod drop_in;
mod finish;
mod receive;
mod records;
mod scan;
mod unpack;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::gate::units::BootMs;

const ID: &str = "01912d68-783e-7a03-8467-5661c1243ad4";

/// An opened spool in a directory that goes with it.
struct Fixture {
    dir: tempfile::TempDir,
    spool: Spool,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool")).unwrap();
        Self { dir, spool }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root().join(relative)
    }

    fn put(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn scan(&self, now_ms: u64) -> Scan {
        self.spool.scan(BootMs(now_ms)).unwrap()
    }

    /// The names ready when nothing changes any more.
    fn ready(&self) -> Vec<Candidate> {
        self.scan(1_000_000);
        self.scan(1_001_000).ready
    }

    /// Drops a file and claims it as [`ID`].
    fn claim(&self, name: &str, content: &str) -> Claimed {
        self.put(&format!("incoming/{name}"), content);
        let candidate = self.ready().into_iter().find(|c| c.name == name).unwrap();
        self.spool.claim(&candidate, ID).unwrap()
    }

    /// Every file below the spool with its content, and what is empty inside the five.
    fn files(&self) -> BTreeMap<String, String> {
        let inside = |name: &str| name.trim_end_matches('/').contains('/');
        self.tree().into_iter().filter(|(name, _)| inside(name)).collect()
    }

    /// Every file below the spool with its content, every empty directory with a slash.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        walk(&self.root(), "", &mut tree);
        tree
    }
}

fn walk(dir: &Path, prefix: &str, tree: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            let before = tree.len();
            walk(&entry.path(), &format!("{name}/"), tree);
            if tree.len() == before {
                tree.insert(format!("{name}/"), String::new());
            }
        } else {
            let content = fs::read(entry.path()).unwrap();
            tree.insert(name, String::from_utf8(content).unwrap());
        }
    }
}

fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

fn tree_of<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
    files.map(|(name, content)| (name.to_owned(), content.to_owned())).into()
}

#[test]
fn open_makes_private_directories_and_leaves_existing_modes() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let incoming = dir.path().join("spool/incoming");
    fs::create_dir_all(&incoming).unwrap();
    fs::set_permissions(&incoming, fs::Permissions::from_mode(0o1730)).unwrap();
    fs::write(incoming.join("kept.jsonl"), "x").unwrap();

    Spool::open(&dir.path().join("spool")).unwrap();
    Spool::open(&dir.path().join("spool")).unwrap();

    let mode = |name: &str| {
        fs::metadata(dir.path().join("spool").join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode("incoming"), 0o1730);
    for name in ["working", "done", "failed", "rejected"] {
        assert_eq!(mode(name), 0o700, "{name}");
        assert_eq!(fs::read_dir(dir.path().join("spool").join(name)).unwrap().count(), 0);
    }
    assert_eq!(fs::read(incoming.join("kept.jsonl")).unwrap(), b"x");
}

#[test]
fn open_refuses_what_is_not_a_directory_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    for make in [
        |path: &Path| fs::write(path, "").unwrap(),
        |path: &Path| std::os::unix::fs::symlink("/tmp", path).unwrap(),
        |path: &Path| std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
    ] {
        let root = tempfile::tempdir_in(dir.path()).unwrap();
        make(&root.path().join("done"));
        let error = Spool::open(root.path()).unwrap_err();
        assert!(matches!(&error, SpoolError::NotADirectory { path } if path.ends_with("done")));
        assert!(error.to_string().contains("move it away"), "{error}");
    }
}

#[test]
fn writable_notices_a_removed_or_replaced_directory() {
    let f = Fixture::new();
    f.spool.writable().unwrap();
    assert_eq!(f.files(), BTreeMap::new());

    fs::remove_dir(f.path("rejected")).unwrap();
    let error = f.spool.writable().unwrap_err();
    assert!(matches!(&error, SpoolError::Replaced { path } if path.ends_with("rejected")));
    fs::create_dir(f.path("rejected")).unwrap();
    assert!(matches!(f.spool.writable().unwrap_err(), SpoolError::Replaced { .. }));
}

#[test]
fn two_file_systems_are_noticed_and_named() {
    use std::os::unix::fs::MetadataExt;
    let f = Fixture::new();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let other_device = fs::metadata(other.path()).unwrap().dev();
    assert_ne!(other_device, fs::metadata(f.root()).unwrap().dev(), "/tmp is like /dev/shm here");
    let from = f.put("working/x", "1");
    let to = Dir::create(other.path()).unwrap();
    let error = f.spool.working.rename("x", &to, "x").unwrap_err();
    assert!(matches!(error, SpoolError::TwoFileSystems { .. }), "{error}");
    assert!(error.to_string().contains("put the whole spool on one"), "{error}");
    assert!(from.exists());
}

#[test]
fn a_full_disk_says_what_to_do() {
    let error = SpoolError::io("write", "/spool/working/x", rustix::io::Errno::NOSPC);
    assert!(matches!(error, SpoolError::NoSpace { .. }));
    assert!(error.to_string().contains("no space left to write \"/spool/working/x\": free space"));
    let error = SpoolError::io("write", "/spool/working/x", rustix::io::Errno::DQUOT);
    assert!(matches!(error, SpoolError::NoSpace { .. }));
}

#[test]
fn free_name_counts_up_past_every_place_where_the_name_stands() {
    let f = Fixture::new();
    let free =
        |name: &str, taken: &[&str]| f.spool.free_name(name, |n| taken.contains(&n)).unwrap();
    assert_eq!(free("prompts", &[]), "prompts");
    assert_eq!(free("prompts", &["prompts"]), "prompts.2");

    for (n, place) in [
        "done/p.results.jsonl",
        "failed/p.2.report.json",
        "done/p.3.input",
        "rejected/p.4.error.json",
        "rejected/p.5.jsonl.gz",
        "rejected/p.6",
    ]
    .into_iter()
    .enumerate()
    {
        f.put(place, "");
        assert_eq!(free("p", &[]), format!("p.{}", n + 2));
    }
    assert_eq!(free("p", &["p.7", "p.8"]), "p.9");
    // Neither a longer name nor another batch's is in the way.
    f.put("done/q.r.results.jsonl", "");
    assert_eq!(free("q", &[]), "q");

    let error = f.spool.free_name("q", |_| true).unwrap_err();
    assert!(matches!(error, SpoolError::NoFreeName { .. }));
    assert!(matches!(f.spool.free_name("../q", |_| false), Err(SpoolError::BadName { .. })));
}

#[test]
fn a_longest_name_can_be_numbered_and_finished() {
    let f = Fixture::new();
    let longest = "é".repeat(100);
    let name = f.spool.free_name(&longest, |n| !n.ends_with(".9999")).unwrap();
    f.claim(&longest, "1");
    let finish = Finish {
        id: ID,
        outcome: Outcome::Done,
        name: &name,
        report: b"{}",
        keep_input: true,
        submitter: None,
    };
    let finished = f.spool.finish(&finish, |out| out.write_all(b"a")).unwrap();
    assert!(finished.results.exists());
}

#[test]
fn orphans_are_the_directories_that_no_batch_knows() {
    let f = Fixture::new();
    f.put("working/b-known/input", "1");
    f.put("working/b-lost/input.part", "1");
    f.put("working/a-lost/input", "1");
    f.put("working/some file", "1");
    fs::create_dir(f.path("working/not an id")).unwrap();
    assert_eq!(f.spool.orphans(&|id| id == "b-known").unwrap(), ["a-lost", "b-lost"]);

    f.spool.remove_working("a-lost").unwrap();
    f.spool.remove_working("a-lost").unwrap();
    assert_eq!(f.spool.orphans(&|id| id == "b-known").unwrap(), ["b-lost"]);
    for id in ["", "..", "a/b", ".", "a b", &"a".repeat(65)] {
        assert!(matches!(f.spool.remove_working(id), Err(SpoolError::BadId { .. })), "{id}");
    }
}

#[test]
fn remove_working_does_not_follow_links() {
    let f = Fixture::new();
    let precious = f.dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("kept"), "x").unwrap();
    f.put("working/x/input", "1");
    std::os::unix::fs::symlink(&precious, f.path("working/x/link")).unwrap();
    f.spool.remove_working("x").unwrap();
    assert!(precious.join("kept").exists());
}

#[test]
fn stems_lose_one_compression_and_one_format() {
    for (name, expected) in [
        ("prompts.jsonl", "prompts"),
        ("prompts.jsonl.gz", "prompts"),
        ("prompts.json.zst", "prompts"),
        ("prompts.txt", "prompts"),
        ("a.b.jsonl", "a.b"),
        ("prompts.jsonl.jsonl", "prompts.jsonl"),
        ("prompts.gz", "prompts.gz"),
        ("prompts.xml", "prompts.xml"),
        ("prompts", "prompts"),
        ("jsonl", "jsonl"),
    ] {
        assert_eq!(stem(name), expected, "{name}");
    }
    assert_eq!(name::numbered("a.b.jsonl.gz", 1), "a.b.jsonl.gz");
    assert_eq!(name::numbered("a.b.jsonl.gz", 3), "a.b-3.jsonl.gz");
}

#[test]
fn the_watcher_hints_at_a_finished_file_and_survives_a_missing_directory() {
    let f = Fixture::new();
    let (hint, hints) = std::sync::mpsc::channel();
    let _watcher = Watcher::start(f.spool.incoming_path(), move || hint.send(()).unwrap_or(()));
    drop_in(&f.root(), "p.jsonl", &mut "1".as_bytes(), None).unwrap();
    hints.recv_timeout(std::time::Duration::from_mins(1)).unwrap();

    Watcher::start(&f.path("nowhere"), || ());
}
