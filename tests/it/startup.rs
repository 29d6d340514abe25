//! What keeps the daemon from starting is named, with the exit code that says whose fault it is.

use std::fs;

use crate::harness::{MODEL, Site, job, model, project};
use crate::harness::{assert_all_answered, emulator};

/// Nothing is sent by these.
const NOWHERE: &str = "http://127.0.0.1:9";

fn site() -> Site {
    Site::new(&project("demo", NOWHERE, ""))
}

#[tokio::test]
async fn a_missing_key_ends_serve_and_check_config_and_its_variable_is_named() {
    let site = site();
    site.edit_config("TIDEGATE_KEY", "TIDEGATE_KEY_THAT_NOBODY_SET");
    for command in ["serve", "check-config"] {
        let ended = site.run(&[command]).await;
        assert_eq!(ended.code, 78, "{command}: {}", ended.stderr);
        assert!(ended.stderr.contains("TIDEGATE_KEY_THAT_NOBODY_SET"), "{}", ended.stderr);
        assert!(ended.stderr.contains("demo"), "{}", ended.stderr);
    }
    assert!(!site.path("state").exists(), "nothing was made for a daemon that cannot run");
}

#[tokio::test]
async fn an_unknown_field_is_answered_with_the_nearest_known_one() {
    let site = site();
    site.edit_config("rpm = \"none\"", "rmp = \"none\"");
    for command in ["serve", "check-config"] {
        let ended = site.run(&[command]).await;
        assert_eq!(ended.code, 78, "{command}: {}", ended.stderr);
        let file = site.config();
        assert!(ended.stderr.contains(&format!("{}:", file.display())), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("unknown field `rmp`; did you mean `rpm`?"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn check_config_prints_what_is_in_force_and_no_key() {
    let site = site();
    let ended = site.run(&["check-config"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains(MODEL), "{}", ended.stdout);
    assert!(!ended.stdout.contains(crate::harness::KEY), "{}", ended.stdout);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_is_named() {
    let site = site();
    let file = site.path("a-file");
    fs::write(&file, "not a directory").unwrap();
    let below = file.join("state").display().to_string();
    for dir in [below.as_str(), "/proc/tidegate-state"] {
        let ended = site.run(&["serve", "--state-dir", dir]).await;
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(dir), "{}", ended.stderr);
        assert!(ended.stderr.contains("--state-dir"), "what to do: {}", ended.stderr);
    }
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
}

#[tokio::test]
async fn an_occupied_port_is_named() {
    let site = site();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = site.run(&["serve", "--listen", &address]).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_names_the_first_and_disturbs_nothing() {
    let emulator = emulator(&model("")).await;
    let site = Site::new(&project("demo", &emulator.base_url(), ""));
    let first = site.serve().await;
    let second = site.run(&["serve"]).await;
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains(&format!("pid {}", first.id())), "{}", second.stderr);

    site.drop_file("job.jsonl", job("job", 2));
    assert_all_answered(&site.results("done", "job").await, "job", 2);
    first.stop(&site).await;
}
