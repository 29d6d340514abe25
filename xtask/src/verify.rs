//! `cargo xtask test`: every check of the workspace, in order, up to the first failure.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::count::{self, Count};
use crate::prepare;
use crate::sdk;
use crate::shell::Tool;

/// One check.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// The word for `--only`.
    name: &'static str,
    run: fn() -> Result<Outcome>,
}

/// Every step, cheapest first. Later steps (browser, simulation) go before `deny`.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "fmt", run: fmt },
    Step { name: "clippy", run: clippy },
    Step { name: "sqlx", run: sqlx },
    Step { name: "tests", run: tests },
    Step { name: "sdk", run: sdk },
    Step { name: "doctests", run: doctests },
    Step { name: "docs", run: docs },
    Step { name: "deny", run: deny },
];

struct Outcome {
    success: bool,
    count: Count,
    /// Why the step was left out, if it was.
    left_out: Option<&'static str>,
}

impl Outcome {
    fn plain(success: bool) -> Self {
        Self { success, count: Count::default(), left_out: None }
    }
}

/// The names of all steps, for people.
pub(crate) fn names() -> String {
    let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    names.join(", ")
}

/// The steps that a comma-separated list names, in their own order; or the name that is none.
pub(crate) fn select(names: &str) -> Result<Vec<Step>, &str> {
    if let Some(unknown) = names.split(',').find(|name| STEPS.iter().all(|s| s.name != *name)) {
        return Err(unknown);
    }
    Ok(STEPS.iter().copied().filter(|step| names.split(',').any(|n| n == step.name)).collect())
}

/// Runs the steps; prints how long each took and, last and alone on its line, how many tests
/// passed and failed. A failed step that counts no tests is one failure.
pub(crate) fn test(steps: &[Step]) -> bool {
    let mut total = Count::default();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    for step in steps {
        println!("\n== {}", step.name);
        let begun = now();
        let outcome = (step.run)().unwrap_or_else(|error| {
            notes.push(format!("{}: {error:#}", step.name));
            Outcome::plain(false)
        });
        times.push((step.name, now().duration_since(begun)));
        total += outcome.count;
        if let Some(reason) = outcome.left_out {
            notes.push(format!("{} was left out: {reason}", step.name));
        }
        if !outcome.success {
            total.failed = total.failed.max(1);
            notes
                .push(format!("stopped at {0}; only this: cargo xtask test --only {0}", step.name));
            break;
        }
    }
    println!();
    for (name, time) in times {
        println!("{name:>9} {:>7.1} s", time.as_secs_f64());
    }
    for note in notes {
        println!("{note}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

fn fmt() -> Result<Outcome> {
    Tool::cargo(&["fmt", "--all", "--check"]).run().map(Outcome::plain)
}

fn clippy() -> Result<Outcome> {
    Tool::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .run()
        .map(Outcome::plain)
}

fn sqlx() -> Result<Outcome> {
    println!("$ cargo xtask sqlx-prepare --check");
    prepare::check().map(Outcome::plain)
}

/// All tests but those in documentation: under cargo-nextest where it is installed (a process per
/// test, slow tests are ended), else under cargo's own runner.
fn tests() -> Result<Outcome> {
    if Tool::cargo(&["nextest", "--version"]).succeeds() {
        return counted(&Tool::cargo(&["nextest", "run", "--workspace"]), count::nextest);
    }
    println!("cargo-nextest is not installed (cargo install --locked cargo-nextest)");
    let args = ["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"];
    counted(&Tool::cargo(&args), count::libtest)
}

/// The official SDKs, in Python and JavaScript; the first time what they need is installed.
fn sdk() -> Result<Outcome> {
    let (success, count) = sdk::test()?;
    Ok(Outcome { success, count, left_out: None })
}

fn doctests() -> Result<Outcome> {
    counted(&Tool::cargo(&["test", "--doc"]), count::libtest)
}

fn docs() -> Result<Outcome> {
    Tool::cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .run()
        .map(Outcome::plain)
}

/// Licences, bans and sources need no network. Advisories do, and are a person's task:
/// CONTRIBUTING.md.
fn deny() -> Result<Outcome> {
    if !Tool::cargo(&["deny", "--version"]).succeeds() {
        let reason = "cargo-deny is not installed (cargo install --locked cargo-deny)";
        return Ok(Outcome { left_out: Some(reason), ..Outcome::plain(true) });
    }
    Tool::cargo(&["deny", "check", "licenses", "bans", "sources"]).run().map(Outcome::plain)
}

/// Runs a test command. Success without a number of tests is a failure: a runner whose output is
/// not understood must not pass for one that ran everything.
fn counted(cargo: &Tool, count: fn(&str) -> Option<Count>) -> Result<Outcome> {
    let ran = cargo.run_and_read()?;
    match count(&ran.output) {
        Some(count) => {
            let success = ran.success && count.failed == 0;
            Ok(Outcome { success, count, left_out: None })
        }
        None if ran.success => anyhow::bail!("`{cargo}` does not say how many tests ran"),
        None => Ok(Outcome::plain(false)),
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a step takes, for information")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_selected_by_name_and_keep_their_order() {
        let names = |steps: Vec<Step>| steps.iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(select("clippy,fmt").map(names), Ok(vec!["fmt", "clippy"]));
        assert_eq!(select("fmt,clipy").map(names), Err("clipy"));
        assert_eq!(select("").map(names), Err(""));
    }

    #[test]
    fn a_failed_step_or_one_that_cannot_start_ends_the_run() {
        let step = |run| Step { name: "step", run };
        let passing = step(|| Ok(Outcome::plain(true)));
        let failing = step(|| Ok(Outcome::plain(false)));
        let broken = step(|| anyhow::bail!("cannot start"));
        let never = step(|| panic!("a step after a failed one must not run"));
        assert!(test(&[passing, passing]));
        assert!(!test(&[passing, failing, never]));
        assert!(!test(&[passing, broken, never]));
    }
}
