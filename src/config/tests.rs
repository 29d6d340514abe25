#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;

use super::error::Document;
use super::*;

mod allowance;
mod bad;
mod files;
mod good;
mod imports;
mod presets;
mod secrets;
mod seed;

/// A key as a provider makes them; must never show.
pub(super) const CANARY: &str = "AIzaCanaryCanaryCanaryCanaryCanaryCanary";

/// The smallest project; tests add to its end.
pub(super) const PROJECT: &str =
    "[[project]]\nname = \"demo\"\nkeys = [{ name = \"main\", env = \"GEMINI_API_KEY\" }]\n";

pub(super) fn env() -> Env {
    Env::from_iter([("HOME", "/home/ada"), ("GEMINI_API_KEY", CANARY)])
}

pub(super) fn load(text: &str) -> Result<Config, ConfigError> {
    let path = Path::new("t.toml");
    check::read(Document { path, text }, &env(), Origin::File(path.to_path_buf()))
}

/// The first project of a configuration that consists of `PROJECT` and `rest`.
pub(super) fn project(rest: &str) -> Project {
    load(&format!("{PROJECT}{rest}")).unwrap().projects.remove(0)
}
