//! How a batch leaves `working/`, also when it is cut off anywhere.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::gate::units::UnixMs;

const RESULTS: &str = "{\"a\":1}\n{\"b\":2}\n";
const REPORT: &str = "{\"items\":2}";

/// How far a run got before it was cut off, with a name.
type Crash = (&'static str, fn(&Fixture));

fn finish(keep_input: bool) -> Finish<'static> {
    let report = REPORT.as_bytes();
    Finish { id: ID, outcome: Outcome::Done, name: "p", report, keep_input, submitter: None }
}

fn write_results(out: &mut dyn Write) -> io::Result<()> {
    RESULTS.lines().try_for_each(|line| writeln!(out, "{line}"))
}

/// An open batch, as a claim and some work leave it.
fn with_batch() -> Fixture {
    let f = Fixture::new();
    f.claim("p.jsonl", "prompts");
    fs::remove_file(f.path("incoming/p.jsonl")).unwrap();
    f.put(&format!("working/{ID}/answers"), "answers");
    f
}

#[test]
fn a_batch_finishes_into_the_directory_of_its_outcome() {
    for (outcome, dir) in [(Outcome::Done, "done"), (Outcome::Failed, "failed")] {
        let f = with_batch();
        let finished = f.spool.finish(&Finish { outcome, ..finish(true) }, write_results).unwrap();
        assert_eq!(
            finished,
            Finished {
                results: f.spool.results_path(outcome, "p"),
                report: f.path(dir).join("p.report.json"),
                input: Some(f.path(dir).join("p.input")),
            }
        );
        let [results, report, input] =
            ["results.jsonl", "report.json", "input"].map(|end| format!("{dir}/p.{end}"));
        let expected = [(results.as_str(), RESULTS), (&report, REPORT), (&input, "prompts")];
        assert_eq!(f.files(), tree_of(expected));
        assert_eq!(fs::metadata(&finished.results).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn finish_ends_the_same_from_every_point_where_a_crash_may_cut_it_off() {
    let crash: [Crash; 8] = [
        ("nothing done", |_| ()),
        ("torn results", |f| drop(f.put("done/.p.results.jsonl.part", "{\"a\":1}\n{\"b"))),
        ("results", |f| drop(f.put("done/p.results.jsonl", RESULTS))),
        ("older results and report", |f| {
            f.put("done/p.results.jsonl", "from an earlier try");
            f.put("done/p.report.json", "from an earlier try");
        }),
        ("torn report", |f| {
            f.put("done/p.results.jsonl", RESULTS);
            f.put("done/.p.report.json.part", "{");
        }),
        ("report", |f| {
            f.put("done/p.results.jsonl", RESULTS);
            f.put("done/p.report.json", REPORT);
        }),
        ("input gone", |f| {
            f.put("done/p.results.jsonl", RESULTS);
            f.put("done/p.report.json", REPORT);
            fs::rename(f.spool.input_path(ID), f.path("done/p.input")).unwrap();
        }),
        ("all", |f| drop(f.spool.finish(&finish(true), write_results).unwrap())),
    ];
    for (point, crash) in crash {
        let f = with_batch();
        crash(&f);
        let reads_input = |out: &mut dyn Write| {
            fs::read(f.spool.input_path(ID))?;
            write_results(out)
        };
        let finished = f.spool.finish(&finish(true), reads_input).unwrap();
        assert_eq!(
            f.files(),
            tree_of([
                ("done/p.results.jsonl", RESULTS),
                ("done/p.report.json", REPORT),
                ("done/p.input", "prompts"),
            ]),
            "{point}"
        );
        let again = f.spool.finish(&finish(true), |_| panic!("made again: {point}")).unwrap();
        assert_eq!(again, finished, "{point}");
    }
}

#[test]
fn finish_without_keeping_the_input_ends_the_same_too() {
    let f = with_batch();
    let expected = [("done/p.results.jsonl", RESULTS), ("done/p.report.json", REPORT)];
    for _ in 0..2 {
        let finished = f.spool.finish(&finish(false), write_results).unwrap();
        assert_eq!(finished.input, None);
        assert_eq!(f.files(), tree_of(expected));
    }
    // Cut off while the working directory was being removed.
    f.put(&format!("working/{ID}/answers"), "answers");
    f.spool.finish(&finish(false), write_results).unwrap();
    assert_eq!(f.files(), tree_of(expected));
}

#[test]
fn a_failure_while_writing_leaves_the_batch_open_and_no_half_results() {
    let f = with_batch();
    let before = f.tree();
    let error = f
        .spool
        .finish(&finish(true), |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
    assert!(matches!(error, SpoolError::NoSpace { .. }), "{error}");
    assert_eq!(f.tree(), before);
}

#[test]
fn names_and_ids_that_leave_the_directory_are_refused() {
    let f = with_batch();
    let before = f.tree();
    for name in ["../p", "a/b", "", ".p", "a\nb"] {
        let finish = Finish { name, ..finish(true) };
        let result = f.spool.finish(&finish, write_results);
        assert!(matches!(result, Err(SpoolError::BadName { .. })), "{name}");
        let result = f.spool.reject(ID, name, "p.jsonl", b"{}", None);
        assert!(matches!(result, Err(SpoolError::BadName { .. })), "{name}");
    }
    let result = f.spool.finish(&Finish { id: "..", ..finish(true) }, write_results);
    assert!(matches!(result, Err(SpoolError::BadId { .. })));
    assert!(matches!(f.spool.reject("..", "p", "p", b"", None), Err(SpoolError::BadId { .. })));
    assert_eq!(f.tree(), before);
}

#[test]
fn reject_ends_the_same_from_every_point_where_a_crash_may_cut_it_off() {
    let crash: [Crash; 5] = [
        ("nothing done", |_| ()),
        ("torn error", |f| drop(f.put("rejected/.p.2.error.json.part", "{"))),
        ("error", |f| drop(f.put("rejected/p.2.error.json", "from an earlier try"))),
        ("input moved", |f| {
            f.put("rejected/p.2.error.json", "{\"bad\":1}");
            fs::rename(f.spool.input_path(ID), f.path("rejected/p.2.jsonl.gz")).unwrap();
        }),
        ("all", |f| drop(f.spool.reject(ID, "p.2", "p.jsonl.gz", b"{\"bad\":1}", None).unwrap())),
    ];
    for (point, crash) in crash {
        let f = with_batch();
        crash(&f);
        for _ in 0..2 {
            let rejected = f.spool.reject(ID, "p.2", "p.jsonl.gz", b"{\"bad\":1}", None).unwrap();
            assert_eq!(rejected.input, f.path("rejected/p.2.jsonl.gz"), "{point}");
            assert_eq!(rejected.error, f.path("rejected/p.2.error.json"), "{point}");
            let expected =
                [("rejected/p.2.error.json", "{\"bad\":1}"), ("rejected/p.2.jsonl.gz", "prompts")];
            assert_eq!(f.files(), tree_of(expected), "{point}");
        }
    }
}

#[test]
fn reject_does_not_overwrite_a_file_that_stands_there() {
    let f = with_batch();
    f.put("rejected/p.jsonl", "of someone else");
    let error = f.spool.reject(ID, "p", "p.jsonl", b"{}", None).unwrap_err();
    assert!(matches!(error, SpoolError::Exists { .. }), "{error}");
    assert_eq!(fs::read_to_string(f.path("rejected/p.jsonl")).unwrap(), "of someone else");
    assert_eq!(fs::read_to_string(f.spool.input_path(ID)).unwrap(), "prompts");
}

#[test]
fn only_kept_inputs_of_batches_that_ended_before_are_swept() {
    let f = with_batch();
    f.spool.finish(&finish(true), write_results).unwrap();
    f.put("failed/q.input", "1");
    f.put("failed/q.report.json", "1");
    fs::create_dir(f.path("done/dir.input")).unwrap();
    assert_eq!(f.spool.sweep_inputs(UnixMs(0)).unwrap(), 0);
    assert_eq!(f.spool.sweep_inputs(UnixMs(i64::MAX)).unwrap(), 2);
    assert_eq!(f.spool.sweep_inputs(UnixMs(i64::MAX)).unwrap(), 0);
    assert_eq!(
        f.files(),
        tree_of([
            ("done/p.report.json", REPORT),
            ("done/p.results.jsonl", RESULTS),
            ("done/dir.input/", ""),
            ("failed/q.report.json", "1"),
        ])
    );
}

/// The one who submitted a job may read what became of it; others may not.
#[test]
fn results_are_for_the_daemon_and_the_submitter() {
    const SUBMITTER: u32 = 54_321;
    let may_read = |path: &Path, uid: u32| {
        use std::os::unix::process::CommandExt;
        if !rustix::process::geteuid().is_root() {
            // Nobody else can be asked then; the list says it.
            let mut list = [0; 64];
            let name = "system.posix_acl_access";
            let length = rustix::fs::getxattr(path, name, &mut list[..]).unwrap();
            return list[..length].chunks(8).any(|entry| entry.ends_with(&uid.to_le_bytes()));
        }
        let mut cat = std::process::Command::new("cat");
        cat.arg(path).uid(uid).gid(uid).stdout(std::process::Stdio::null());
        cat.stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    let f = Fixture::new();
    for dir in ["", "done", "rejected"] {
        let path = f.path(dir);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
    }
    fs::set_permissions(f.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    f.claim("p.jsonl", "prompts");
    let batch = Finish { submitter: Some(SUBMITTER), ..finish(true) };
    let finished = f.spool.finish(&batch, write_results).unwrap();
    f.claim("q.jsonl", "bad prompts");
    let rejected = f.spool.reject(ID, "q", "q.jsonl", b"{}", Some(SUBMITTER)).unwrap();
    let input = finished.input.unwrap();
    for path in [&finished.results, &finished.report, &input, &rejected.error, &rejected.input] {
        assert!(may_read(path, SUBMITTER), "{path:?} is kept from who submitted it");
        assert!(!may_read(path, SUBMITTER + 1), "{path:?} is shown to others");
    }
}
