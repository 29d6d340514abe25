//! What a run is like: limits, the provider's manners, the network, the load. Drawn from a seed.

use fastrand::Rng;
use tidegate::gate::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use tidegate::gate::units::Metric;

use crate::oracle::{DayRule, Oracle, Rule, Shape};

/// Where the boot clock stands when a run begins.
pub(crate) const BOOT: u64 = 1_000_000;

/// The longest that a request is under way after its last byte was handed over.
pub(crate) const LATE_MS: u64 = 2_000;

/// Midnights of California around three days, of 23, 24 and 25 hours. By hand: the oracle must not
/// ask the calendar that it judges.
const MIDNIGHTS: [[&str; 4]; 3] = [
    [
        "2026-03-07T08:00:00Z",
        "2026-03-08T08:00:00Z",
        "2026-03-09T07:00:00Z",
        "2026-03-10T07:00:00Z",
    ],
    [
        "2026-11-22T08:00:00Z",
        "2026-11-23T08:00:00Z",
        "2026-11-24T08:00:00Z",
        "2026-11-25T08:00:00Z",
    ],
    [
        "2026-10-31T07:00:00Z",
        "2026-11-01T07:00:00Z",
        "2026-11-02T08:00:00Z",
        "2026-11-03T08:00:00Z",
    ],
];

/// How long an answer takes to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Some hundred milliseconds.
    Fast,
    /// Up to half a minute: the whole answer is made first.
    Slow,
    /// Now this, now that; now and then before the body has left.
    Mixed,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) rpm: u64,
    pub(crate) tpm: Option<u64>,
    /// A limit over a shorter window: so many in so many milliseconds.
    pub(crate) short: Option<(u64, u64)>,
    pub(crate) rpd: Option<u64>,
    pub(crate) shapes: [Shape; 3],
    pub(crate) count_rejected: bool,
    /// How far the provider's clock is from ours, for days.
    pub(crate) theta_ms: i64,
    pub(crate) answers: Answers,
    /// How slow the way there may be, from the first byte to the last.
    pub(crate) upload_ms: u64,
    /// Of a hundred attempts, how many break off, and how many do not connect.
    pub(crate) cut_percent: u64,
    pub(crate) void_percent: u64,
    /// Of a hundred reports of progress, how many are lost on the way.
    pub(crate) untold_percent: u64,
    /// On average; 0 is never.
    pub(crate) crash_every_ms: u64,
    /// Work for so long, then none for so long.
    pub(crate) on_ms: u64,
    pub(crate) off_ms: u64,
    /// How many items there are.
    pub(crate) items: u64,
    pub(crate) length_ms: u64,
    /// Wall time at the run's beginning, and the midnights around it.
    pub(crate) wall_zero: i64,
    pub(crate) midnights: Vec<i64>,
}

impl World {
    /// Twenty minutes of limits by the minute and less.
    pub(crate) fn of_minutes(rng: &mut Rng) -> Self {
        let rpm = [1, 2, 3, 5, 10, 15, 15, 30][rng.usize(0..8)];
        let short_limit = (rpm / 3).max(1);
        let busy = rng.bool();
        Self {
            rpm,
            tpm: rng.bool().then(|| rpm * rng.u64(400..3_000)),
            short: (rng.u8(0..3) == 0).then(|| (rng.u64(2..20) * 1_000, short_limit)),
            rpd: None,
            shapes: [shape(rng), shape(rng), shape(rng)],
            count_rejected: rng.bool(),
            theta_ms: 0,
            answers: [Answers::Fast, Answers::Slow, Answers::Mixed][rng.usize(0..3)],
            upload_ms: [20, 300, 5_000][rng.usize(0..3)],
            cut_percent: [0, 3, 15][rng.usize(0..3)],
            void_percent: [0, 3][rng.usize(0..2)],
            untold_percent: [0, 3, 100][rng.usize(0..3)],
            crash_every_ms: [0, 60_000, 180_000][rng.usize(0..3)],
            on_ms: rng.u64(10_000..200_000),
            off_ms: if busy { 0 } else { rng.u64(1_000..90_000) },
            items: u64::MAX,
            length_ms: 20 * 60_000,
            wall_zero: instant(NOON),
            midnights: Vec::new(),
        }
    }

    /// Thirty hours of a limit by the day that runs out, or nearly.
    pub(crate) fn of_days(rng: &mut Rng) -> Self {
        let midnights: Vec<_> =
            MIDNIGHTS[rng.usize(0..3)].iter().map(|time| instant(time)).collect();
        // Most runs begin close before a midnight, so that there is use left at it: some with the
        // first burst.
        let before = match rng.u8(0..3) {
            0 => rng.i64(0..5_000),
            1 => rng.i64(1_000..600_000),
            _ => rng.i64(0..80_000_000),
        };
        Self {
            rpd: Some(rng.u64(5..60)),
            theta_ms: [-2_000, 2_000, rng.i64(-2_000..=2_000)][rng.usize(0..3)],
            // Known early, an attempt is charged to one day: that is where the margin matters.
            answers: [Answers::Fast, Answers::Fast, Answers::Mixed][rng.usize(0..3)],
            upload_ms: [20, 300, 2_000][rng.usize(0..3)],
            untold_percent: [0, 0, 3][rng.usize(0..3)],
            crash_every_ms: [0, 1_200_000, 3_600_000][rng.usize(0..3)],
            off_ms: [0, 60_000, 900_000][rng.usize(0..3)],
            length_ms: 30 * 3_600_000,
            wall_zero: midnights[1] - before,
            midnights,
            ..Self::of_minutes(rng)
        }
    }

    /// So many items of one request each, and nothing that goes wrong.
    pub(crate) fn backlog(rpm: u64, shape: Shape, answers: Answers, items: u64) -> Self {
        Self {
            rpm,
            tpm: None,
            short: None,
            rpd: None,
            shapes: [shape; 3],
            count_rejected: true,
            theta_ms: 0,
            answers,
            upload_ms: 20,
            cut_percent: 0,
            void_percent: 0,
            untold_percent: 0,
            crash_every_ms: 0,
            on_ms: u64::MAX,
            off_ms: 0,
            items,
            length_ms: 24 * 3_600_000,
            wall_zero: instant(NOON),
            midnights: Vec::new(),
        }
    }

    /// The limits as the client knows them.
    pub(crate) fn limits(&self) -> Vec<Limit> {
        let limit = |metric, window, value| Limit {
            metric,
            window,
            scope: Scope::Project,
            value,
            source: Source::Config,
        };
        let rolling = |ms| Window::Rolling { ms };
        let mut limits = vec![limit(Metric::Requests, rolling(MINUTE_MS), self.rpm)];
        limits.extend(self.tpm.map(|tpm| limit(Metric::InputTokens, rolling(MINUTE_MS), tpm)));
        let short = self.short.map(|(ms, most)| limit(Metric::Requests, rolling(ms), most));
        limits.extend(short);
        limits.extend(self.rpd.map(|rpd| limit(Metric::Requests, Window::Day, rpd)));
        limits
    }

    /// The provider that keeps them.
    pub(crate) fn oracle(&self) -> Oracle {
        let [requests, tokens, short] = self.shapes;
        let rule = |metric, limit, window_ms, shape| Rule { metric, limit, window_ms, shape };
        let mut rules = vec![rule(0, self.rpm, 60_000, requests)];
        rules.extend(self.tpm.map(|tpm| rule(1, tpm, 60_000, tokens)));
        rules.extend(self.short.map(|(ms, most)| rule(0, most, ms, short)));
        let boot = i64::try_from(BOOT).expect("small");
        let midnight = |wall: &i64| wall - self.wall_zero + boot - self.theta_ms;
        let midnights = self.midnights.iter().map(midnight).collect();
        let day = self.rpd.map(|limit| DayRule { metric: 0, limit, midnights });
        Oracle::new(rules, day, self.count_rejected)
    }
}

const NOON: &str = "2026-11-23T20:00:00Z";

fn shape(rng: &mut Rng) -> Shape {
    match rng.u8(0..4) {
        0 => Shape::Fixed { phase_ms: rng.u64(0..60_000) },
        1 => Shape::HalfOpen,
        2 => Shape::Closed,
        _ => Shape::TokenBucket,
    }
}

fn instant(time: &str) -> i64 {
    let time: chrono::DateTime<chrono::Utc> = time.parse().expect("a time");
    time.timestamp_millis()
}
