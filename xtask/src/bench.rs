//! `cargo xtask bench`: every benchmark, and one table of what they measured. Nothing is judged:
//! the figures of one run are compared with each other by people.

use anyhow::{Result, ensure};

use crate::shell::Tool;

/// Cheapest first. Together about two minutes, and 2 GB of disk while they run.
const BENCHES: &[&str] = &["schedule", "gate", "admissions", "import"];

/// Runs every benchmark; one that fails ends the run.
pub(crate) fn run() -> Result<bool> {
    let mut rows = Vec::new();
    for bench in BENCHES {
        let ran = Tool::cargo(&["bench", "--bench", bench]).run_and_read()?;
        if !ran.success {
            return Ok(false);
        }
        let found = table(&ran.output);
        ensure!(!found.is_empty(), "benchmark `{bench}` printed no row");
        rows.extend(found);
    }
    println!("\n| what | figure | beside it |\n|---|---|---|");
    for row in rows {
        println!("{row}");
    }
    Ok(true)
}

/// Runs the benchmark of calls through the daemon, which prints a table of its own.
pub(crate) fn proxy(options: &[&str]) -> Result<bool> {
    Tool::cargo(&[&["bench", "--bench", "proxy", "--"], options].concat()).run()
}

/// The rows that were printed among what cargo says.
pub(crate) fn table(output: &str) -> Vec<String> {
    let is_row = |line: &&str| line.starts_with("| ") && line.ends_with(" |");
    output.lines().filter(is_row).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_what_cargo_says() {
        let output =
            "    Finished `bench` profile\n| a | 1/s |  |\n   |     ^^^ help\n| b | 2 | c |\n";
        assert_eq!(table(output), ["| a | 1/s |  |", "| b | 2 | c |"]);
        assert!(table("warning: unused\n").is_empty());
    }
}
