//! A full disk: nothing is sent that could not be written down, it is said, and work goes on by
//! itself once there is space. Needs to be root, for a file system of its own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Site, assert_all_answered, job, latency, model, project, start_emulator};

/// A small file system in memory.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn mount(dir: PathBuf, megabytes: u32) -> Self {
        fs::create_dir(&dir).unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir);
        let made = mount.output().unwrap();
        assert!(made.status.success(), "this test must be root: {made:?}");
        Self { dir }
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that is about to end may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn small_site(disk: &Path, base_url: &str) -> Site {
    let dir = tempfile::tempdir().unwrap();
    Site::with_state(dir, disk.join("state"), &project("demo", base_url, ""))
}

#[tokio::test]
async fn a_full_disk_stops_sending_and_work_goes_on_when_there_is_space() {
    let emulator = start_emulator(&model(""), |config| config.latency = latency(300, 400)).await;
    let outside = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(outside.path().join("disk"), 16);
    let site = small_site(&disk.dir, &emulator.base_url());
    site.at_once(4);
    let daemon = site.serve().await;
    site.drop_file("job.jsonl", job("job", 40));
    site.until("some are answered", async || (emulator.stats().counts.accepted >= 4).then_some(()))
        .await;
    disk.fill();
    daemon.says(&site, "no space left for the database").await;
    // A file that comes now waits in incoming.
    site.drop_file("later.jsonl", job("later", 3));
    daemon.says(&site, "cannot take in a file").await;
    assert_eq!(site.list("incoming"), ["later.jsonl"]);
    let (status, problem) = daemon.get("/readyz").await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("no space left"), "{problem}");

    disk.free();
    assert_all_answered(&site.results("done", "job").await, "job", 40);
    assert_all_answered(&site.results("done", "later").await, "later", 3);
    site.all_over().await;
    let usage = site.usage().await;
    let counts = emulator.stats().counts;
    assert_eq!(usage.attempts.unsigned_abs(), counts.requests, "{usage:?}\n{counts:?}");
    assert_eq!((usage.ok, usage.in_doubt), (43, 0), "what was answered was not lost: {usage:?}");
    assert_eq!(site.list("working"), [""; 0], "no copies are left of what was tried in vain");
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.stop(&site).await;
}

/// The disk fills up between the entry of a batch and its last line.
#[tokio::test]
async fn an_import_that_met_a_full_disk_goes_on_without_a_restart() {
    let emulator = start_emulator(&model(""), |_| {}).await;
    let outside = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(outside.path().join("disk"), 1);
    let site = small_site(&disk.dir, &emulator.base_url());
    let daemon = site.serve().await;
    let lines = 20_000;
    let first = r#"{"tidegate":{"not_before":"2099-01-01T00:00:00Z"}}"#;
    site.drop_file("large.jsonl", format!("{first}\n{}", job("large", lines)));
    daemon.says(&site, "no space left for the database").await;

    let wide = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.dir).status();
    assert!(wide.unwrap().success());
    let batch = site.batch("it is open", |batch| batch.items == u64::from(lines)).await;
    assert_eq!(batch.state, tidegate::store::BatchState::Open);
    assert_eq!(site.list("incoming"), [""; 0]);
    daemon.stop(&site).await;
}

/// A file that is sent to a spool without room for it is refused, and leaves the room that was.
#[tokio::test]
async fn a_submission_that_does_not_fit_is_refused_and_leaves_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(outside.path().join("disk"), 1);
    let site = Site::new(&project("demo", "http://127.0.0.1:9", ""));
    let spool = site.path("spool").display().to_string();
    site.edit_config(&spool, &disk.dir.display().to_string());
    let daemon = site.serve().await;
    let later = "not_before=2099-01-01T00:00:00Z";
    let (status, problem) =
        daemon.submit(&format!("file=large.txt&{later}"), &"a prompt\n".repeat(300_000)).await;
    assert_eq!(status, 507, "{problem}");
    assert_eq!(fs::read_dir(disk.dir.join("working")).unwrap().count(), 0);
    let (status, batch) = daemon.submit(&format!("file=small.txt&{later}"), "a prompt\n").await;
    assert_eq!(status, 201, "{batch}");
    daemon.stop(&site).await;
}
