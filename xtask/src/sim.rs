//! `cargo xtask sim`: what the simulation in tests/sim has to show.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::bench;
use crate::shell::Tool;

const HEADER: &str = "\
| load | limit | rule | fixed, any phase | sliding, half-open | sliding, closed | bucket |
|---|---|---|---|---|---|---|";

const LEGEND: &str = "\
Each cell: % of what was sent that was refused, and in brackets the % of the clairvoyant bound that
was used (the largest of what each limit could give in the time, no reserve). 6 runs of 3 hours
each, saturated. 10 % large: tokens are what is short (four times as many requests are allowed);
small items 200 to 1,000 tokens, large ones a tenth to a half of the limit. Of a line of 200 items
the head has its place kept and what fits beside it goes, for every rule alike; `governor` has
nothing to spare beside its head. What is refused is gone and does not count.";

/// Plays every seed and every wrong rule, and adds up what was played.
pub(crate) fn play() -> Result<bool> {
    let ran = Tool::cargo(&["test", "--release", "--test", "sim", "--", "--nocapture"]);
    let ran = ran.run_and_read()?;
    let sums = sums(&ran.output);
    ensure!(!ran.success || !sums.is_empty(), "the simulation did not say what it played");
    let sums: Vec<_> = sums.iter().map(|(name, sum)| format!("{name}={sum}")).collect();
    println!("\nsim: {}", sums.join(" "));
    Ok(ran.success)
}

/// Plays every rule of admission over the same work, and prints one table.
pub(crate) fn table() -> Result<bool> {
    let args = ["test", "--release", "--test", "sim", "the_table", "--"];
    let shown = ["--nocapture", "--test-threads=1"];
    let cargo = Tool::cargo(&[&args[..], &shown[..]].concat()).env("TIDEGATE_SIM_TABLE", "1");
    let ran = cargo.run_and_read()?;
    let rows = bench::table(&ran.output);
    ensure!(!ran.success || !rows.is_empty(), "the simulation printed no row");
    println!("\n{HEADER}");
    for row in rows {
        println!("{row}");
    }
    println!("\n{LEGEND}");
    Ok(ran.success)
}

const ORDERS: &str = "\
| order | drain, min | large: longest wait | mean | small: longest | mean | large, never served |
|---|---|---|---|---|---|---|";

const ORDERS_LEGEND: &str = "\
Drain: 600 prompts, a tenth of them of 120,000 to 240,000 tokens, at 15 RPM and 250,000 TPM. Waits,
in minutes: small prompts at four fifths of the tokens for six hours, and one of 200,000 to 240,000
tokens every twenty minutes. Means of 8 runs.";

/// Plays every order of what waits over the same work, and prints one table.
pub(crate) fn schedule() -> Result<bool> {
    let args = ["test", "--release", "--test", "sim", "the_schedule_beside", "--", "--nocapture"];
    let ran = Tool::cargo(&args).env("TIDEGATE_SIM_TABLE", "1").run_and_read()?;
    let rows = bench::table(&ran.output);
    ensure!(!ran.success || !rows.is_empty(), "the simulation printed no row");
    println!("\n{ORDERS}");
    for row in rows {
        println!("{row}");
    }
    println!("\n{ORDERS_LEGEND}");
    Ok(ran.success)
}

/// Adds up the `name=number` of the lines that begin with `sim `.
fn sums(output: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for word in
        output.lines().filter(|line| line.starts_with("sim ")).flat_map(str::split_whitespace)
    {
        if let Some((name, number)) = word.split_once('=')
            && let Ok(number) = number.parse::<u64>()
        {
            *sums.entry(name.to_owned()).or_default() += number;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_added_up() {
        let output = "sim days: seeds=2 hours=60\ntest days ... ok x=1\nsim minutes: seeds=3\n";
        let found: Vec<_> = sums(output).into_iter().collect();
        assert_eq!(found, [("hours".to_owned(), 60), ("seeds".to_owned(), 5)]);
        assert!(sums("simple a=1\n").is_empty());
    }
}
