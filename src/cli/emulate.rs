//! `tidegate emulate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
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
    /// How far its date is ahead of this machine's, or behind it: `5m`, `-90s`
    #[arg(long, value_name = "TIME", default_value = "0s", allow_hyphen_values = true,
        value_parser = parse_skew)]
    date_skew: TimeDelta,
    /// Drives everything random in it
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A length of time with a sign, or without one.
fn parse_skew(text: &str) -> Result<TimeDelta, String> {
    let (is_behind, length) = match text.strip_prefix('-') {
        Some(length) => (true, length),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let length = parse_duration(length).map_err(|error| error.to_string())?;
    let skew = TimeDelta::from_std(length).map_err(|error| error.to_string())?;
    Ok(if is_behind { -skew } else { skew })
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
        date_skew: args.date_skew,
        ..EmulatorConfig::new(limits)
    };
    let emulator = Emulator::start(config)
        .await
        .map_err(|error: EmulatorError| Failure::of(EX_FAILURE)(&error))?;
    eprintln!("emulating the Gemini API on {} (stats: /__emulator/stats)", emulator.base_url());
    super::serve::until_told_to_stop(None).await?;
    emulator.stop().await;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_may_be_ahead_or_behind() {
        for (text, seconds) in [("-90s", -90), ("5m", 300), ("+1h 1s", 3_601), ("0s", 0)] {
            assert_eq!(parse_skew(text), Ok(TimeDelta::seconds(seconds)), "{text}");
        }
        for text in ["", "-", "5", "--5s", "soon", "-99999999999999999999s"] {
            assert!(parse_skew(text).is_err(), "{text}");
        }
    }
}
