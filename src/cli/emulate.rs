//! `tidegate emulate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use humantime::parse_duration;

use super::{EX_CONFIG, EX_FAILURE, Failure, Global};
use crate::emulator::{Emulator, EmulatorConfig, EmulatorError, Latency, Limits, WindowKind};
use crate::telemetry;

/// Options of `emulate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which keys, models and limits there are; without it any key may do anything
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8440")]
    listen: SocketAddr,
    /// How a minute is counted
    #[arg(long, value_enum, default_value_t = WindowKind::Sliding)]
    window: WindowKind,
    /// How long a minute lasts, to make tests fast
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    minute: Duration,
    /// The shortest and the longest time an answer takes, where the limits file does not say
    #[arg(long, value_name = "TIME", num_args = 2, value_parser = parse_duration)]
    latency: Option<Vec<Duration>>,
    /// Drives everything random in it
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    telemetry::start(global.log.as_deref(), false);
    let limits = match &args.limits {
        None => Limits::open(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(EX_CONFIG, format!("cannot read {}: {error}", path.display()))
            })?;
            Limits::parse(&text).map_err(|error: EmulatorError| {
                let error = Failure::of(EX_CONFIG)(&error);
                Failure::new(EX_CONFIG, format!("{}: {}", path.display(), error.message))
            })?
        }
    };
    let latency = match args.latency.as_deref() {
        Some([min, max]) => Latency { min: *min, max: *max },
        _ => Latency::default(),
    };
    let config = EmulatorConfig {
        listen: args.listen,
        window: args.window,
        minute: args.minute,
        seed: args.seed,
        latency,
        ..EmulatorConfig::new(limits)
    };
    let emulator = Emulator::start(config)
        .await
        .map_err(|error: EmulatorError| Failure::of(EX_FAILURE)(&error))?;
    eprintln!("emulating the Gemini API on {} (stats: /__emulator/stats)", emulator.base_url());
    super::serve::until_told_to_stop().await?;
    emulator.stop().await;
    Ok(0)
}
