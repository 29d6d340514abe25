//! Another client of a project, whose requests the emulator makes and counts itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::draw::{Purpose, draw_share, index_of};
use super::limits::{Limits, Model};

/// A Poisson stream of requests.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExternalRate {
    /// Mean requests in a minute of the emulator.
    pub(super) per_minute: f64,
    /// What each takes from the input tokens.
    #[serde(default)]
    pub(super) input_tokens: u64,
}

/// The most that [`ExternalRate::per_minute`] may be.
pub(super) const MAX_PER_MINUTE: f64 = 10_000.0;

/// What another client asked for in vain or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExternalStats {
    /// Its requests so far.
    pub requests: u64,
    /// Those that fitted into all limits, and were counted against them.
    pub accepted: u64,
    /// Those that did not.
    pub throttled: u64,
}

/// The stream of one model in one project.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) project: Arc<str>,
    pub(super) model: Arc<Model>,
    rate: ExternalRate,
    /// The instant of the next request, in milliseconds since the start; not rounded, so that a
    /// fast stream keeps its rate.
    next: Duration,
    drawn: u64,
    pub(super) stats: ExternalStats,
}

impl Stream {
    /// Every stream that `limits` ask for, each before its first request.
    pub(super) fn all(limits: &Limits, seed: u64, minute_ms: u64) -> Vec<Self> {
        let mut streams = Vec::new();
        for project in &limits.projects {
            for model in &project.models {
                let Some(rate) = model.external.filter(|rate| rate.per_minute > 0.0) else {
                    continue;
                };
                let mut stream = Self {
                    project: project.name.as_str().into(),
                    model: Arc::new(model.clone()),
                    rate,
                    next: Duration::ZERO,
                    drawn: 0,
                    stats: ExternalStats::default(),
                };
                stream.draw_next(seed, minute_ms);
                streams.push(stream);
            }
        }
        streams
    }

    /// What a request takes from the input tokens.
    pub(super) fn input_tokens(&self) -> u64 {
        self.rate.input_tokens
    }

    /// The instant of the next request if it is not after `now_ms`; the one behind it is drawn.
    pub(super) fn pop(&mut self, now_ms: u64, seed: u64, minute_ms: u64) -> Option<u64> {
        let at_ms = super::clock::whole_ms(self.next);
        if at_ms > now_ms {
            return None;
        }
        self.draw_next(seed, minute_ms);
        Some(at_ms)
    }

    fn draw_next(&mut self, seed: u64, minute_ms: u64) {
        let name = index_of(&format!("{}/{}", self.project, self.model.name));
        let share = draw_share(seed, Purpose::External, name.wrapping_add(self.drawn));
        self.drawn += 1;
        let minutes = -(1.0 - share).ln() / self.rate.per_minute;
        let gap = Duration::from_millis(minute_ms).as_secs_f64() * minutes;
        // A gap beyond what a duration holds is a request that never comes.
        let gap = Duration::try_from_secs_f64(gap).unwrap_or(Duration::MAX);
        self.next = self.next.saturating_add(gap);
    }
}

/// The stats of every stream by `project/model`.
pub(super) fn stats(streams: &[Stream]) -> BTreeMap<String, ExternalStats> {
    let named = |stream: &Stream| format!("{}/{}", stream.project, stream.model.name);
    streams.iter().map(|stream| (named(stream), stream.stats)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn arrivals(seed: u64, minute_ms: u64, until_ms: u64) -> Vec<u64> {
        let text = "[[project]]\nname = \"p\"\n[[project.model]]\nname = \"m\"\n\
                    external = { per_minute = 5 }\n[[project.model]]\nname = \"quiet\"";
        let mut streams = Stream::all(&Limits::parse(text).unwrap(), seed, minute_ms);
        assert_eq!(streams.len(), 1);
        std::iter::from_fn(|| streams[0].pop(until_ms, seed, minute_ms)).collect()
    }

    #[test]
    fn a_stream_keeps_its_rate_whatever_a_minute_lasts() {
        for minute_ms in [60_000, 6_000, 60] {
            let count = arrivals(3, minute_ms, 1_000 * minute_ms).len();
            // Five thousand, give or take four deviations.
            assert!((4_717..5_283).contains(&count), "{count} in minutes of {minute_ms} ms");
        }
    }

    #[test]
    fn gaps_are_exponential() {
        let times = arrivals(1, 60_000, 60_000_000);
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let share = |least_ms: u64| {
            let longer = gaps.iter().filter(|gap| **gap >= least_ms).count();
            1_000 * longer / gaps.len()
        };
        // The mean is 12 s: e^-1, e^-2 and e^-0.1 of the gaps are as long as these.
        for (least_ms, thousandths) in [(12_000, 368), (24_000, 135), (1_200, 905)] {
            assert!(share(least_ms).abs_diff(thousandths) < 30, "{least_ms}: {}", share(least_ms));
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(arrivals(1, 60_000, 600_000), arrivals(1, 60_000, 600_000));
        assert_ne!(arrivals(1, 60_000, 600_000), arrivals(2, 60_000, 600_000));
    }
}
