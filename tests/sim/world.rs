//! What a run is like: limits, the provider's manners, the network, the load, the accidents of the
//! machine. Drawn from a seed.

use fastrand::Rng;
use tidegate::gate::limits::{Limit, Scope, Source, Window};
use tidegate::gate::units::Metric;

use crate::oracle::{DayRule, Oracle, Rule, Shape, Weight};

/// Where the time of a run begins, and the boot clock with it.
pub(crate) const BOOT: u64 = 1_000_000;

/// The longest that a request is under way after its last byte was handed over.
pub(crate) const LATE_MS: u64 = 2_000;

/// How far the provider's clock may be from the true time.
pub(crate) const THETA_MS: i64 = 2_000;

pub(crate) const REQUESTS: usize = 0;
pub(crate) const TOKENS: usize = 1;
pub(crate) const IMAGES: usize = 2;

pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const HOUR: u64 = 60 * MINUTE;

/// How far a wall clock may be off.
const ASTRAY_MS: i64 = 3 * 3_600_000;

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

const NOON: &str = "2026-11-23T20:00:00Z";

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

/// So many in so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) metric: usize,
    pub(crate) window_ms: u64,
    pub(crate) limit: u64,
    pub(crate) shape: Shape,
}

/// What the items weigh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// An item counts as one request and up to so many.
    pub(crate) requests: u64,
    /// Tokens of most items, from and to; none at all if both are 0.
    pub(crate) small: (u64, u64),
    /// Tokens of the large ones among them, and how many of a hundred these are.
    pub(crate) large: (u64, u64),
    pub(crate) large_percent: u64,
    /// Up to so many images.
    pub(crate) images: u64,
    /// Estimates are what is really used, not only more.
    pub(crate) exact: bool,
    /// How many items are looked at; with one it is first come, first served.
    pub(crate) depth: usize,
    /// Work for so long, then none for so long.
    pub(crate) on_ms: u64,
    pub(crate) off_ms: u64,
    /// How many items there are.
    pub(crate) items: u64,
}

impl Load {
    pub(crate) const UNIT: Self = Self {
        requests: 1,
        small: (0, 0),
        large: (0, 0),
        large_percent: 0,
        images: 0,
        exact: true,
        depth: 1,
        on_ms: u64::MAX,
        off_ms: 0,
        items: u64::MAX,
    };
}

/// What goes wrong; times are means, and 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accidents {
    /// Of a hundred attempts, how many break off, and how many do not connect.
    pub(crate) cut_percent: u64,
    pub(crate) void_percent: u64,
    /// Of a hundred reports of progress, how many are lost on the way.
    pub(crate) untold_percent: u64,
    pub(crate) crash_every_ms: u64,
    /// Of a hundred crashes, how many are of the whole machine.
    pub(crate) reboot_percent: u64,
    /// How much of the ledger's end a reboot may tear off.
    pub(crate) tail_ms: u64,
    pub(crate) suspend_every_ms: u64,
    pub(crate) suspend_most_ms: u64,
    /// The wall clock goes astray, and comes back.
    pub(crate) step_every_ms: u64,
}

/// When the provider counts the tokens of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// With the request.
    AtStart,
    /// Later, but while the request may still be on its way: as H1 has it.
    Later,
    /// When the answer is complete, however long that takes: against H1.
    AtEnd,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) pairs: Vec<Pair>,
    /// A limit by the day: a metric and how much of it.
    pub(crate) day: Option<(usize, u64)>,
    pub(crate) count_rejected: bool,
    /// How far the provider's clock is from ours, for days.
    pub(crate) theta_ms: i64,
    pub(crate) answers: Answers,
    /// How slow the way there may be, from the first byte to the last.
    pub(crate) upload_ms: u64,
    /// When tokens are counted.
    pub(crate) tokens: Tokens,
    pub(crate) load: Load,
    pub(crate) accidents: Accidents,
    /// Someone else sends as well, once in so long on average; 0 is never.
    pub(crate) others_every_ms: u64,
    /// A refusal is no end of the run.
    pub(crate) lenient: bool,
    pub(crate) length_ms: u64,
    /// Wall time at the run's beginning, and the midnights around it.
    pub(crate) wall_zero: i64,
    pub(crate) midnights: Vec<i64>,
}

impl World {
    /// Twenty minutes of limits by the minute, by less and by more.
    pub(crate) fn of_minutes(rng: &mut Rng) -> Self {
        let rpm = [1, 2, 3, 5, 10, 15, 15, 30][rng.usize(0..8)];
        let mut world = Self::quiet(vec![pair(rng, REQUESTS, MINUTE, rpm)]);
        let load = &mut world.load;
        load.exact = false;
        if rng.u8(0..6) == 0 {
            load.requests = rpm.min(4);
        }
        if rng.bool() {
            let tpm = rpm * rng.u64(400..3_000);
            (load.small, load.large) = ((1, (2 * tpm / rpm).min(tpm)), (1, tpm));
            load.large_percent = 10;
            world.pairs.push(pair(rng, TOKENS, MINUTE, tpm));
        }
        if rng.u8(0..5) == 0 {
            let ipm = rng.u64(2..30);
            load.images = ipm.min(4);
            world.pairs.push(pair(rng, IMAGES, MINUTE, ipm));
        }
        if rng.u8(0..3) == 0 {
            let most = (rpm / 3).max(load.requests);
            let window_ms = rng.u64(2..20) * 1_000;
            world.pairs.push(pair(rng, REQUESTS, window_ms, most));
        }
        if rng.u8(0..5) == 0 {
            let window_ms = rng.u64(2..10) * MINUTE;
            world.pairs.push(pair(rng, REQUESTS, window_ms, 2 * rpm.max(load.requests)));
        }
        load.on_ms = rng.u64(10_000..200_000);
        load.off_ms = if rng.bool() { 0 } else { rng.u64(1_000..90_000) };
        world.count_rejected = rng.bool();
        world.answers = [Answers::Fast, Answers::Slow, Answers::Mixed][rng.usize(0..3)];
        world.upload_ms = [20, 300, 5_000][rng.usize(0..3)];
        world.tokens = [Tokens::AtStart, Tokens::AtStart, Tokens::Later][rng.usize(0..3)];
        world.accidents = Accidents {
            cut_percent: [0, 3, 15][rng.usize(0..3)],
            void_percent: [0, 3][rng.usize(0..2)],
            untold_percent: [0, 3, 100][rng.usize(0..3)],
            crash_every_ms: [0, 60_000, 180_000][rng.usize(0..3)],
            reboot_percent: [0, 20][rng.usize(0..2)],
            tail_ms: [0, 5_000][rng.usize(0..2)],
            suspend_every_ms: [0, 0, 120_000][rng.usize(0..3)],
            suspend_most_ms: [1_000, 30_000, 300_000][rng.usize(0..3)],
            step_every_ms: [0, 60_000][rng.usize(0..2)],
        };
        world
    }

    /// Twenty minutes of bursts after silence on a machine that starts anew all the time, with a
    /// disk that lies and a clock that does not know the time.
    pub(crate) fn of_reboots(rng: &mut Rng) -> Self {
        let mut world = Self::of_minutes(rng);
        world.answers = Answers::Fast;
        world.load.on_ms = rng.u64(100_000..180_000);
        world.load.off_ms = rng.u64(60_000..150_000);
        world.accidents.crash_every_ms = 120_000;
        world.accidents.reboot_percent = 90;
        world.accidents.tail_ms = rng.u64(20_000..60_000);
        world.accidents.step_every_ms = 60_000;
        world
    }

    /// Tokens that are counted after the bound of their request.
    pub(crate) fn of_late_tokens(rng: &mut Rng) -> Self {
        let rpm = [5, 15, 30][rng.usize(0..3)];
        let shape = shape(rng);
        let mut world = Self::backlog_with_large(rpm, shape);
        (world.tokens, world.answers, world.lenient) = (Tokens::AtEnd, Answers::Slow, false);
        world.length_ms = 20 * MINUTE;
        world
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
        let mut world = Self::of_minutes(rng);
        let tokens = (world.load.large.1, world.load.small.1);
        world.day = Some(match tokens {
            (large, small) if large > 0 && rng.bool() => (TOKENS, large + rng.u64(0..30) * small),
            _ => (REQUESTS, world.load.requests.max(rng.u64(5..60))),
        });
        world.theta_ms = [-THETA_MS, THETA_MS, rng.i64(-THETA_MS..=THETA_MS)][rng.usize(0..3)];
        // Known early, an attempt is charged to one day: that is where the margin matters.
        world.answers = [Answers::Fast, Answers::Fast, Answers::Mixed][rng.usize(0..3)];
        world.upload_ms = [20, 300, 2_000][rng.usize(0..3)];
        world.load.off_ms = [0, 60_000, 900_000][rng.usize(0..3)];
        world.accidents.untold_percent = [0, 0, 3][rng.usize(0..3)];
        world.accidents.crash_every_ms = [0, 1_200_000, 3_600_000][rng.usize(0..3)];
        // A day cannot be waited out.
        world.accidents.tail_ms = 0;
        world.accidents.suspend_every_ms = [0, 0, 3_600_000][rng.usize(0..3)];
        world.accidents.suspend_most_ms = [60_000, 3_600_000, 10_800_000][rng.usize(0..3)];
        world.length_ms = 30 * HOUR;
        world.wall_zero = midnights[1] - before;
        world.midnights = midnights;
        world
    }

    /// Work without end and nothing that goes wrong.
    pub(crate) fn backlog(rpm: u64, shape: Shape) -> Self {
        let pair = Pair { metric: REQUESTS, window_ms: MINUTE, limit: rpm, shape };
        let quiet = Self::quiet(vec![pair]);
        Self { upload_ms: 300, count_rejected: false, lenient: true, ..quiet }
    }

    /// The same with tokens, which are what is short: so many thousands, and four times as many
    /// requests. Of ten items one is large, of a tenth to a half of the limit. What is at the head
    /// keeps its place.
    pub(crate) fn backlog_with_large(thousands: u64, shape: Shape) -> Self {
        let mut world = Self::backlog(4 * thousands, shape);
        let limit = thousands * 1_000;
        world.pairs.push(Pair { metric: TOKENS, window_ms: MINUTE, limit, shape });
        world.load = Load {
            small: (200, 1_000),
            large: (limit / 10, limit / 2),
            large_percent: 10,
            depth: 200,
            ..Load::UNIT
        };
        world
    }

    /// Work without end, and someone else on the same quota who sends a third of it at random.
    pub(crate) fn shared(rng: &mut Rng) -> Self {
        let rpm = [15, 30, 60][rng.usize(0..3)];
        Self {
            others_every_ms: 3 * MINUTE / rpm,
            length_ms: 45 * MINUTE,
            ..Self::backlog(rpm, shape(rng))
        }
    }

    /// A day whose limit someone else helps to use up.
    pub(crate) fn shared_day(rng: &mut Rng) -> Self {
        let mut world = Self::of_days(rng);
        world.day = Some((REQUESTS, world.load.requests.max(rng.u64(20..60))));
        // A start forgets the provider's no.
        world.accidents = Accidents::default();
        world.others_every_ms = HOUR;
        world.lenient = true;
        world
    }

    fn quiet(pairs: Vec<Pair>) -> Self {
        Self {
            pairs,
            day: None,
            count_rejected: true,
            theta_ms: 0,
            answers: Answers::Fast,
            upload_ms: 20,
            tokens: Tokens::AtStart,
            load: Load::UNIT,
            accidents: Accidents::default(),
            others_every_ms: 0,
            lenient: false,
            length_ms: 20 * MINUTE,
            wall_zero: instant(NOON),
            midnights: Vec::new(),
        }
    }

    /// What the next item needs, and what it will really use.
    pub(crate) fn item(&self, rng: &mut Rng) -> (Weight, Weight) {
        let load = &self.load;
        let requests = if rng.bool() { 1 } else { rng.u64(1..=load.requests) };
        let range = if rng.u64(0..100) < load.large_percent { load.large } else { load.small };
        let estimate = [requests, rng.u64(range.0..=range.1), rng.u64(0..=load.images)];
        if load.exact || rng.bool() {
            return (estimate, estimate);
        }
        let [_, tokens, images] = estimate;
        (estimate, [requests, rng.u64(0..=tokens), rng.u64(0..=images)])
    }

    /// How far off the wall clock is next, at a run's time. Where days count, it stays within the
    /// true day.
    pub(crate) fn astray(&self, at: u64, rng: &mut Rng) -> i64 {
        if self
            .midnights
            .iter()
            .any(|midnight| (midnight - self.true_wall(at)).abs() < 4 * 3_600_000)
        {
            return 0;
        }
        match rng.u8(0..4) {
            0 => 0,
            1 => rng.i64(1_000..ASTRAY_MS),
            2 => -rng.i64(1_000..ASTRAY_MS),
            _ => rng.i64(-10_000..10_000),
        }
    }

    /// What a right wall clock shows at a run's time.
    pub(crate) fn true_wall(&self, at: u64) -> i64 {
        let since = i64::try_from(at).expect("small") - i64::try_from(BOOT).expect("small");
        self.wall_zero + since
    }

    /// A run's time at a wall time, if it is after the beginning.
    pub(crate) fn at_wall(&self, wall: i64) -> Option<u64> {
        u64::try_from(wall - self.wall_zero).ok().map(|since| since + BOOT)
    }

    pub(crate) fn longest_window_ms(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.window_ms).max().unwrap_or(0)
    }

    /// The limits as the client knows them.
    pub(crate) fn limits(&self) -> Vec<Limit> {
        let limit = |metric: usize, window, value| Limit {
            metric: [Metric::Requests, Metric::InputTokens, Metric::Images][metric],
            window,
            scope: Scope::Project,
            value,
            source: Source::Config,
        };
        let rolling =
            |pair: &Pair| limit(pair.metric, Window::Rolling { ms: pair.window_ms }, pair.limit);
        let day = self.day.map(|(metric, value)| limit(metric, Window::Day, value));
        self.pairs.iter().map(rolling).chain(day).collect()
    }

    /// The provider that keeps them.
    pub(crate) fn oracle(&self) -> Oracle {
        let rule = |pair: &Pair| {
            let Pair { metric, window_ms, limit, shape } = *pair;
            Rule { metric, limit, window_ms, shape }
        };
        let boot = i64::try_from(BOOT).expect("small");
        let midnight = |wall: &i64| wall - self.wall_zero + boot - self.theta_ms;
        let midnights = self.midnights.iter().map(midnight).collect();
        let day = self.day.map(|(metric, limit)| DayRule { metric, limit, midnights });
        Oracle::new(self.pairs.iter().map(rule).collect(), day, self.count_rejected)
    }
}

fn pair(rng: &mut Rng, metric: usize, window_ms: u64, limit: u64) -> Pair {
    let shape = match rng.u8(0..4) {
        0 => Shape::Fixed { phase_ms: rng.u64(0..window_ms) },
        1 => Shape::HalfOpen,
        2 => Shape::Closed,
        _ => Shape::TokenBucket,
    };
    Pair { metric, window_ms, limit, shape }
}

fn shape(rng: &mut Rng) -> Shape {
    pair(rng, REQUESTS, MINUTE, 1).shape
}

fn instant(time: &str) -> i64 {
    let time: chrono::DateTime<chrono::Utc> = time.parse().expect("a time");
    time.timestamp_millis()
}
