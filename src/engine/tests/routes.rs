//! Where a model's requests count, as configuration and preset have it at a start.

use crate::config::{Config, Env};
use crate::engine::start::{Route, Routes, assemble};
use crate::gate::units::{BootMs, Now, UnixMs};
use crate::store::Store;

const NOW: Now = Now { boot: BootMs(1_000_000), wall: UnixMs(1_795_000_000_000) };

async fn routes(dir: &std::path::Path, project: &str) -> Routes {
    let file = dir.join("tidegate.toml");
    let head = format!("[server]\nstate_dir = \"{}\"\n[[project]]\n", dir.display());
    let keys =
        "name = \"demo\"\npreset = \"gemini-2025-02\"\nkeys = [{ name = \"k\", env = \"K\" }]\n";
    std::fs::write(&file, head + keys + project).expect("a file");
    let env: Env = [("K", "a-key-of-the-test")].into_iter().collect();
    let config = Config::load(Some(&file), &env).expect("a configuration");
    let store = Store::open(&config.server.state_dir, "a-boot").await.expect("a store");
    assemble(&config, &store, NOW, 1).await.expect("an engine").1
}

#[tokio::test]
async fn an_alias_counts_with_its_model_and_is_off_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let routes = routes(dir.path(), "tier = \"free\"\n").await;
    let bucket = |model: &str| match routes.find("demo", model) {
        Some((_, Route::Bucket { id, limits })) => (id, limits.len()),
        other => panic!("{model}: {other:?}"),
    };
    assert_eq!(bucket("gemini-2.0-flash-001"), bucket("gemini-2.0-flash"));
    assert_eq!(bucket("gemini-2.0-flash").1, 3);
    let off = routes.find("demo", "imagen-3.0-generate-002");
    assert!(matches!(off, Some((_, Route::Off(_)))), "{off:?}");
    assert!(matches!(routes.find("demo", "nobody-knows"), Some((_, Route::Learn))));
}

#[tokio::test]
async fn a_model_that_is_turned_off_keeps_no_bucket_without_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits =
        |rpm: &str| format!("[[project.limits]]\nmodel = \"gemini-2.0-flash\"\nrpm = {rpm}\n");
    let before = routes(dir.path(), &limits("2")).await;
    assert!(matches!(before.find("demo", "gemini-2.0-flash"), Some((_, Route::Bucket { .. }))));
    let after = routes(dir.path(), &limits("\"off\"")).await;
    assert!(matches!(after.find("demo", "gemini-2.0-flash"), Some((_, Route::Off(_)))));
}
