//! The workspace's tasks, run as `cargo xtask TASK`. They need nothing but cargo.

#![expect(clippy::print_stdout, reason = "what a task has to say, it prints")]

mod bench;
mod count;
mod prepare;
mod sdk;
mod shell;
mod sim;
mod verify;

use std::process::ExitCode;

/// `EX_USAGE` of sysexits.h: the command line itself is wrong.
const EXIT_USAGE: u8 = 64;

const HELP: &str = "\
cargo xtask TASK

  test [--only STEP,...]   every check, in order, up to the first failure;
                           ends with the line `N passed, M failed`
  sqlx-prepare [--check]   writes .sqlx from the queries in the source and from migrations/;
                           with --check only compares, and fails on a difference
  bench                    every benchmark, and one table of what they measured; about two
                           minutes after the build: run it when nothing else runs
  bench proxy [OPTION...]  a call through the daemon beside a forwarder that only forwards; with
                           --peers also beside other gateways, which are installed below target/;
                           --quick for one short round; --requests N for the memory over so many
  sim [--table [schedule]] the gate against a strict provider in virtual time, and in one line
                           how much of it; with --table, beside other rules, as a table; with
                           `schedule` the order of what waits beside other orders
  help                     this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            println!("\nsteps of test: {}", verify::names());
            ExitCode::SUCCESS
        }
        ["test"] => verdict(Ok(verify::test(verify::STEPS))),
        ["test", "--only", names] => match verify::select(names) {
            Ok(steps) => verdict(Ok(verify::test(&steps))),
            Err(unknown) => {
                let known = verify::names();
                usage(&format!("unknown step `{unknown}`: the steps of test are {known}"))
            }
        },
        ["sqlx-prepare"] => verdict(prepare::write()),
        ["sqlx-prepare", "--check"] => verdict(prepare::check()),
        ["bench"] => verdict(bench::run()),
        ["bench", "proxy", options @ ..] => verdict(bench::proxy(options)),
        ["sim"] => verdict(sim::play()),
        ["sim", "--table"] => verdict(sim::table()),
        ["sim", "--table", "schedule"] => verdict(sim::schedule()),
        [] => usage(&format!("no task given\n\n{HELP}")),
        [task @ ("test" | "sqlx-prepare" | "bench" | "sim" | "help"), rest @ ..] => {
            usage(&format!("task `{task}` does not take `{}`\n\n{HELP}", rest.join(" ")))
        }
        [task, ..] => usage(&format!("unknown task `{task}`\n\n{HELP}")),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(EXIT_USAGE)
}

/// `Ok(false)` is a check that found something and has said so.
fn verdict(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
