//! `tidegate demo`: the whole way of a prompt, with nothing but this binary.

use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::client::Daemon as Asked;
use super::{EX_FAILURE, Failure, Global, print, print_json};
use crate::config::{Config, Env, Listen};
use crate::daemon::{self, Daemon};
use crate::emulator::{Emulator, EmulatorConfig, Latency, Limits, Stats};
use crate::report::batches::BatchOut;
use crate::report::limits::LimitsReport;
use crate::report::table;
use crate::report::usage::UsageReport;
use crate::{clock, spool, telemetry};

/// More than the free tier's 15 requests a minute, so that some are held for the second minute.
const ITEMS: usize = 24;

/// The emulator knows this key and no other.
const KEY: &str = "demo-key-of-the-emulator";

/// Two minutes' windows and a margin: a demo that takes longer is broken.
const PATIENCE_MS: u64 = 170_000;

/// How often the demo looks.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to put everything [default: a new directory under the system's temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One JSON document on stdout at the end
    #[arg(long)]
    json: bool,
}

/// What the demo came to.
#[derive(Serialize)]
struct Outcome {
    results: String,
    items: u64,
    held: u64,
    throttled: u64,
    usage: UsageReport,
    emulator: Stats,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    telemetry::start(Some(global.log.as_deref().unwrap_or("tidegate=warn,error")), false);
    let dir = args.dir.unwrap_or_else(|| {
        std::env::temp_dir().join(format!("tidegate-demo-{}", uuid::Uuid::now_v7().simple()))
    });
    std::fs::create_dir_all(&dir).map_err(|error| at(&dir, &error))?;
    let latency = Latency { min: Duration::from_millis(100), max: Duration::from_millis(900) };
    let emulator = Emulator::start(EmulatorConfig {
        latency,
        ..EmulatorConfig::new(Limits::free_tier_demo(KEY))
    })
    .await
    .map_err(|error| Failure::of(EX_FAILURE)(&error))?;
    let config = configure(&dir, &emulator.base_url())?;
    let mut daemon =
        daemon::start(config.clone()).await.map_err(|error| Failure::of(EX_FAILURE)(&error))?;
    daemon.ready().await;
    eprintln!("An emulator of the Gemini API is at {} with the free tier's", emulator.base_url());
    eprintln!("limits: gemini-2.0-flash, 15 requests a minute. The daemon's files are in");
    eprintln!("{}", dir.display());
    let done = follow(&config, &daemon, &emulator).await;
    let stats = emulator.stats();
    daemon.stop().await;
    emulator.stop().await;
    finish(done?, stats, args.json)
}

/// Drops the sample and watches until its results are there.
async fn follow(
    config: &Config,
    daemon: &Daemon,
    emulator: &Emulator,
) -> Result<(BatchOut, u64, UsageReport), Failure> {
    let address = daemon.addresses().first().copied();
    let address = address.ok_or_else(|| Failure::new(EX_FAILURE, "the daemon does not listen"))?;
    let api = Asked::at(&Listen::Tcp(address), config)?;
    let id = uuid::Uuid::now_v7();
    let options = format!("id = \"{id}\"\ntenant = \"demo\"\n");
    let root = &config.server.spool_dir;
    let dropped = spool::drop_in(root, "sample.jsonl", &mut sample().as_bytes(), Some(&options))
        .map_err(|error| Failure::of(EX_FAILURE)(&error))?;
    eprintln!("Dropped {} with {ITEMS} prompts.\n", dropped.display());
    let mut screen = Screen::new();
    let mut held = 0;
    let until = clock::now().boot.plus(PATIENCE_MS);
    loop {
        if clock::now().boot > until {
            let what = "the demo is not done after 170 s: this is a fault, please report it";
            return Err(Failure::new(EX_FAILURE, what));
        }
        tokio::time::sleep(LOOK).await;
        // The file has to settle before there is a batch.
        let Ok(batch) = api.get::<BatchOut>(&format!("/api/v1/batches/{id}")).await else {
            continue;
        };
        let limits: LimitsReport = api.get("/api/v1/limits").await?;
        let in_flight = limits.buckets.iter().map(|bucket| u64::from(bucket.in_flight)).sum();
        let waiting = batch.queued.saturating_sub(in_flight);
        if batch.reason.is_some() {
            held = held.max(waiting);
        }
        screen.show(&batch, waiting, in_flight, emulator.stats().counts.throttled);
        if batch.results.is_some() {
            screen.bar.finish();
            let usage = api.get::<UsageReport>("/api/v1/usage").await?;
            return Ok((batch, held, usage));
        }
    }
}

fn finish(
    (batch, held, usage): (BatchOut, u64, UsageReport),
    emulator: Stats,
    json: bool,
) -> Result<u8, Failure> {
    let results = batch.results.unwrap_or_default();
    let throttled = emulator.counts.throttled;
    let (attempts, tokens) = (usage.totals.attempts, usage.totals.input_tokens);
    let same = attempts == emulator.counts.requests && tokens == emulator.counts.input_tokens;
    let outcome = Outcome { results, items: batch.items, held, throttled, usage, emulator };
    if json {
        print_json(&outcome);
    } else {
        print(&shown(&outcome, batch.succeeded));
    }
    if same && throttled == 0 && batch.succeeded == outcome.items {
        return Ok(0);
    }
    let what = format!(
        "{} of {} items were answered, {throttled} throttled; the ledger has {attempts} requests \
        and {tokens} input tokens, the emulator {} and {}: this is a fault, please report it",
        batch.succeeded,
        outcome.items,
        outcome.emulator.counts.requests,
        outcome.emulator.counts.input_tokens
    );
    Err(Failure::new(EX_FAILURE, what))
}

fn shown(outcome: &Outcome, answered: u64) -> String {
    let style = table::Style::of_terminal(false);
    let mut text = format!(
        "\n{answered} of {} prompts answered, {} of them held for quota, {} throttled.\n\
        Results: {}\n\n",
        outcome.items, outcome.held, outcome.throttled, outcome.results
    );
    text.push_str(&table::usage(&outcome.usage, style));
    let _ = writeln!(
        text,
        "\nThe emulator counted {} requests, {} input and {} output tokens: the same.",
        outcome.emulator.counts.requests,
        outcome.emulator.counts.input_tokens,
        outcome.emulator.counts.output_tokens
    );
    text
}

/// The live view: a bar on a terminal, else a line for each change.
struct Screen {
    bar: ProgressBar,
    last: String,
}

impl Screen {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(u64::try_from(ITEMS).unwrap_or(0)),
            ProgressDrawTarget::stderr(),
        );
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} answered  {msg}") {
            bar.set_style(style);
        }
        Self { bar, last: String::new() }
    }

    fn show(&mut self, batch: &BatchOut, waiting: u64, in_flight: u64, throttled: u64) {
        self.bar.set_position(batch.succeeded);
        let mut text = format!("{in_flight} in flight, {throttled} throttled");
        if let (Some(reason), Some(until)) = (&batch.reason, batch.waiting_until) {
            let _ = write!(text, ", {waiting} held until {} ({reason})", until.format("%H:%M:%SZ"));
        }
        self.bar.set_message(text.clone());
        let line = format!("{} of {} answered, {text}", batch.succeeded, batch.items);
        if self.bar.is_hidden() && line != self.last {
            eprintln!("{line}");
            self.last = line;
        }
    }
}

/// The demo's configuration, written where a reader finds it.
fn configure(dir: &Path, base_url: &str) -> Result<Config, Failure> {
    let key = dir.join("key");
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&key)
        .map_err(|error| at(&key, &error))?;
    std::io::Write::write_all(&mut file, KEY.as_bytes()).map_err(|error| at(&key, &error))?;
    let path = dir.join("tidegate.toml");
    let quoted = |path: PathBuf| toml::Value::String(path.display().to_string()).to_string();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nstate_dir = {}\nspool_dir = {}\n\n\
        [defaults]\nproject = \"demo\"\nmodel = \"gemini-2.0-flash\"\n\n\
        [[project]]\nname = \"demo\"\nbase_url = \"{base_url}\"\n\
        preset = \"gemini-2025-02\"\ntier = \"free\"\n\
        keys = [{{ name = \"demo\", file = {} }}]\n",
        quoted(dir.join("state")),
        quoted(dir.join("spool")),
        quoted(key)
    );
    std::fs::write(&path, text).map_err(|error| at(&path, &error))?;
    let env = std::iter::empty::<(String, String)>().collect::<Env>();
    Config::load(Some(&path), &env).map_err(|error| Failure::of(EX_FAILURE)(&error))
}

fn sample() -> String {
    let mut text = String::new();
    for number in 1..=ITEMS {
        let prompt = format!("Say in one sentence what a tide gate does, in variation {number}.");
        let parts = serde_json::json!([{"role": "user", "parts": [{"text": prompt}]}]);
        let line =
            serde_json::json!({"key": format!("p{number:02}"), "request": {"contents": parts}});
        let _ = writeln!(text, "{line}");
    }
    text
}

fn at(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(EX_FAILURE, format!("{}: {error}", path.display()))
}
