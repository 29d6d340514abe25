//! What `tidegate submit` does to `incoming/`.

use std::io::{self, Read};
use std::sync::Barrier;

use rustix::fs::inotify;

use super::*;

fn incoming(f: &Fixture) -> BTreeMap<String, String> {
    let tree = f.files();
    tree.into_iter()
        .filter_map(|(name, content)| Some((name.strip_prefix("incoming/")?.to_owned(), content)))
        .collect()
}

#[test]
fn a_dropped_file_is_found_whole_with_its_options() {
    let f = Fixture::new();
    let path = drop_in(&f.root(), "p.jsonl", &mut "1".as_bytes(), Some("x = 1")).unwrap();
    assert_eq!(path, f.path("incoming/p.jsonl"));
    assert_eq!(incoming(&f), tree_of([("p.jsonl", "1"), ("p.jsonl.tidegate.toml", "x = 1")]));
    let candidate = f.ready().remove(0);
    let claimed = f.spool.claim(&candidate, ID).unwrap();
    assert_eq!(claimed.sidecar, Sidecar::Text("x = 1".to_owned()));
}

#[test]
fn the_options_are_there_before_the_file() {
    let f = Fixture::new();
    let events = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let moved_to = inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&events, f.path("incoming"), moved_to).unwrap();
    drop_in(&f.root(), "p.jsonl", &mut "1".as_bytes(), Some("x = 1")).unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4_096];
    let mut reader = inotify::Reader::new(&events, &mut buffer);
    for expected in [c"p.jsonl.tidegate.toml", c"p.jsonl"] {
        assert_eq!(reader.next().unwrap().file_name(), Some(expected));
    }
}

#[test]
fn a_taken_name_is_numbered_before_its_suffix_and_options_stay_beside_their_file() {
    let f = Fixture::new();
    for (content, sidecar) in [("1", None), ("2", Some("b")), ("3", None)] {
        drop_in(&f.root(), "p.jsonl", &mut content.as_bytes(), sidecar).unwrap();
    }
    // The options of a file that is still to come.
    f.put("incoming/p-4.jsonl.tidegate.toml", "of another");
    drop_in(&f.root(), "p.jsonl", &mut "5".as_bytes(), None).unwrap();
    assert_eq!(
        incoming(&f),
        tree_of([
            ("p.jsonl", "1"),
            ("p-2.jsonl", "2"),
            ("p-2.jsonl.tidegate.toml", "b"),
            ("p-3.jsonl", "3"),
            ("p-4.jsonl.tidegate.toml", "of another"),
            ("p-5.jsonl", "5"),
        ])
    );
}

#[test]
fn drops_at_the_same_moment_all_arrive() {
    let f = Fixture::new();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (root, start) = (f.root(), &start);
            scope.spawn(move || {
                let text = n.to_string();
                start.wait();
                drop_in(&root, "p.jsonl", &mut text.as_bytes(), Some(&text)).unwrap();
            });
        }
    });
    let all = incoming(&f);
    let mut contents = Vec::new();
    for (name, content) in all.iter().filter(|(name, _)| !name.ends_with(name::SIDECAR_SUFFIX)) {
        assert_eq!(all.get(&format!("{name}.tidegate.toml")), Some(content), "{name}");
        contents.push(content.as_str());
    }
    contents.sort_unstable();
    assert_eq!(contents, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(all.len(), 16);
}

/// Looks at the directory while the content is being read.
struct Spy<'a> {
    fixture: &'a Fixture,
    seen: Vec<String>,
}

impl Read for Spy<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.seen.extend(incoming(self.fixture).into_keys());
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn until_it_is_whole_only_a_dotfile_is_there_and_a_failure_leaves_nothing() {
    let f = Fixture::new();
    let mut spy = Spy { fixture: &f, seen: Vec::new() };
    let error = drop_in(&f.root(), "p.jsonl", &mut spy, Some("x")).unwrap_err();
    assert!(matches!(error, SpoolError::Content { .. }), "{error}");
    assert_eq!(spy.seen.len(), 1);
    assert!(spy.seen[0].starts_with('.'), "{:?}", spy.seen);
    assert_eq!(incoming(&f), BTreeMap::new());
}

#[test]
fn a_name_that_no_scan_would_take_is_refused() {
    let f = Fixture::new();
    for name in ["", ".p", "a/b", "a\0b", "a\nb", "p.tmp", "p~", "p.tidegate.toml"] {
        let result = drop_in(&f.root(), name, &mut "1".as_bytes(), None);
        assert!(matches!(result, Err(SpoolError::BadName { .. })), "{name:?}");
    }
    assert_eq!(incoming(&f), BTreeMap::new());
    let nowhere = f.dir.path().join("nowhere");
    let error = drop_in(&nowhere, "p.jsonl", &mut "1".as_bytes(), None).unwrap_err();
    assert!(error.to_string().contains("nowhere/incoming"), "{error}");
}
