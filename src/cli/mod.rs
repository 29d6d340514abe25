//! The command line: each command's options, and how it ends.

mod batches;
mod check;
mod client;
mod content;
mod demo;
mod emulate;
mod follow;
mod hold;
mod keys;
mod limits;
mod only_failed;
mod options;
mod plan;
mod presets;
mod reports;
mod run;
mod serve;
mod submit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Env, Listen, Overrides};
use crate::report::table::Style;
use crate::telemetry::chain;

/// Keeps the ledger of every LLM request, knows what each quota still allows, and holds batch
/// prompts until capacity exists.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "The configuration file [default: $TIDEGATE_CONFIG, /etc/tidegate/tidegate.toml, \
            $XDG_CONFIG_HOME/tidegate/tidegate.toml, else built in]"
    )]
    config: Option<PathBuf>,
    /// Where the database is, instead of the configuration's `state_dir`
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What to log, such as `tidegate=debug` [default: tidegate=info,warn]
    #[arg(long, global = true, value_name = "FILTER", env = "TIDEGATE_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the whole way of a prompt, without a key, a configuration or a network
    Demo(demo::Args),
    /// Runs the daemon
    Serve(serve::Args),
    /// Runs job files to their end, with a daemon of its own if none runs
    Run(run::Args),
    /// Submits job files and prints their batch ids
    Submit(submit::Args),
    /// Lists batches; shows, follows, cancels, or reads the results of one
    Batches(batches::Args),
    /// Reports what was used
    Usage(reports::UsageArgs),
    /// Shows every limit: used, reserved, free, and when more is free; sets and explains them
    Limits(limits::Args),
    /// Pauses everything, a project or one of its models: nothing more of it is sent
    Pause(hold::Args),
    /// Takes back what was said with `pause`
    Resume(hold::Args),
    /// Lists keys with their own use and health; imports, disables and enables them
    Keys(keys::Args),
    /// Says when job files would be done and what would hold them up, and touches nothing
    Plan(plan::Args),
    /// Checks the configuration and prints what is in force, secrets masked
    CheckConfig,
    /// Runs a strict local emulator of the Gemini API
    Emulate(emulate::Args),
}

/// How a command fails: what is told, and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

/// Exit codes of `sysexits.h` that scripts rely on.
const EX_FAILURE: u8 = 1;
const EX_PARTIAL: u8 = 2;
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;
const EX_TEMPFAIL: u8 = 75;
const EX_CONFIG: u8 = 78;

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn of(code: u8) -> impl Fn(&dyn std::error::Error) -> Self {
        move |error| Self::new(code, chain(error))
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EX_USAGE } else { 0 };
            // Nowhere is left to complain.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::of(EX_FAILURE)(&error)),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("tidegate: {}", failure.message);
    ExitCode::from(failure.code)
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    let env = Env::from_process();
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(&global, args, &env).await,
        Command::Demo(args) => demo::run(&global, args).await,
        Command::Submit(args) => submit::run(&global, args, &env).await,
        Command::Run(args) => run::run(&global, args, &env).await,
        Command::Batches(args) => batches::run(&global, args, &env).await,
        Command::Usage(args) => reports::usage(&global, args, &env).await,
        Command::Limits(args) => limits::run(&global, args, &env).await,
        Command::Pause(args) => hold::run(&global, args, "/api/v1/pause", &env).await,
        Command::Resume(args) => hold::run(&global, args, "/api/v1/resume", &env).await,
        Command::Keys(args) => keys::run(&global, args, &env).await,
        Command::Plan(args) => plan::run(&global, args, &env).await,
        Command::CheckConfig => check::run(&global, &env),
        Command::Emulate(args) => emulate::run(&global, args).await,
    }
}

impl Global {
    /// The configuration in force, with the options of the command line over it.
    fn config(&self, env: &Env, overrides: Overrides) -> Result<Config, Failure> {
        let overrides =
            Overrides { state_dir: self.state_dir.clone().or(overrides.state_dir), ..overrides };
        let failure = |error: ConfigError| Failure::of(EX_CONFIG)(&error);
        Config::load(self.config.as_deref(), env)
            .and_then(|config| config.with_overrides(overrides))
            .map_err(failure)
    }
}

fn no_overrides() -> Overrides {
    Overrides { state_dir: None, spool_dir: None, listen: Vec::<Listen>::new(), shadow: false }
}

/// How tables look on this process's stdout.
fn style(env: &Env) -> Style {
    use std::io::IsTerminal;
    let plain = env.text("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style::of_terminal(std::io::stdout().is_terminal() && !plain)
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn print_json(value: &impl serde::Serialize) {
    let mut text = serde_json::to_string_pretty(value).expect("reports are JSON");
    text.push('\n');
    print(&text);
}
