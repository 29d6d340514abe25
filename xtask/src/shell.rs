//! Runs commands at the root of the workspace and shows them first, so that a failed one can be
//! pasted into a shell.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// The directory of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// A command and the variables that it sets.
pub(crate) struct Tool {
    program: String,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

/// What a command that ran to its end has left.
pub(crate) struct Ran {
    pub(crate) success: bool,
    /// Standard output and standard error, interleaved by lines.
    pub(crate) output: String,
}

impl Tool {
    pub(crate) fn cargo(args: &[&str]) -> Self {
        Self::new("cargo", args)
    }

    pub(crate) fn new(program: impl Into<String>, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { program: program.into(), args, env: Vec::new() }
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Shows and runs the command; its output goes where ours goes.
    pub(crate) fn run(&self) -> Result<bool> {
        println!("$ {self}");
        let status = self.command().status().with_context(|| format!("cannot run `{self}`"))?;
        Ok(status.success())
    }

    /// Shows and runs the command; its output goes where ours goes and is also returned.
    pub(crate) fn run_and_read(&self) -> Result<Ran> {
        println!("$ {self}");
        let mut command = self.command();
        if io::stdout().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{self}`"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = Mutex::new(String::new());
        thread::scope(|scope| {
            scope.spawn(|| stdout.map(|pipe| copy_lines(pipe, io::stdout(), &output)));
            scope.spawn(|| stderr.map(|pipe| copy_lines(pipe, io::stderr(), &output)));
        });
        let status = child.wait().with_context(|| format!("cannot wait for `{self}`"))?;
        let output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Ran { success: status.success(), output })
    }

    /// Whether the command runs and succeeds; shows nothing.
    pub(crate) fn succeeds(&self) -> bool {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(root());
        for name in package_variables() {
            command.env_remove(name);
        }
        // Queries are checked against .sqlx; no build needs a database.
        command.env_remove("DATABASE_URL").env("SQLX_OFFLINE", "true");
        // New snapshots are accepted by people, never written by a check.
        command.env("INSTA_UPDATE", "no");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={value} ")?;
        }
        write!(f, "{} {}", self.program, self.args.join(" "))
    }
}

/// The variables in which `cargo run` describes this package to us. Some build scripts ask to run
/// again when they change: passed on, they would build half of the tree anew at every task.
#[expect(clippy::disallowed_methods, reason = "the environment is what is wanted here")]
fn package_variables() -> Vec<OsString> {
    let of_package = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        })
    };
    std::env::vars_os().map(|(name, _)| name).filter(of_package).collect()
}

/// A closed pipe or a full disk on our side must not stop the command: its result still counts.
fn copy_lines(from: impl Read, mut to: impl Write, output: &Mutex<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let _ = to.write_all(&line);
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}
