//! A provider that counts strictly. Written from what providers publish, and from nothing else: it
//! shares no code with what it judges (wall A8).

/// The shape of a window, which providers do not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Minutes that follow one another, the first ending at some instant.
    Fixed {
        /// How far the first window is over at time 0.
        phase_ms: u64,
    },
    /// No more than the limit in `[a, a + W)`, for any `a`.
    HalfOpen,
    /// The same in `[a, a + W]`.
    Closed,
    /// A bucket of the limit's size that fills up by the limit in each window.
    TokenBucket,
}

/// One limit as the provider keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Which number of a weight it counts.
    pub(crate) metric: usize,
    pub(crate) limit: u64,
    pub(crate) window_ms: u64,
    pub(crate) shape: Shape,
}

/// A limit per civil day, by the provider's own clock.
#[derive(Clone, Debug)]
pub(crate) struct DayRule {
    pub(crate) metric: usize,
    pub(crate) limit: u64,
    /// When the provider's clock shows midnight, in the time of the simulation.
    pub(crate) midnights: Vec<i64>,
}

/// What a request weighs: requests, input tokens, images.
pub(crate) type Weight = [u64; 3];

/// A no, and the limit that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) metric: usize,
    pub(crate) limit: u64,
    /// `None` for a day's limit.
    pub(crate) window_ms: Option<u64>,
}

/// How full the bucket of a rule is, in parts of `1 / window`, so that all is in whole numbers.
#[derive(Clone, Copy, Debug)]
struct Level {
    parts: u64,
    at: u64,
}

/// Counts what arrives, in the order in which it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    rules: Vec<(Rule, Level)>,
    day: Option<DayRule>,
    /// Whether a refused request counts like an accepted one.
    count_rejected: bool,
    counted: Vec<(u64, Weight)>,
}

impl Oracle {
    pub(crate) fn new(rules: Vec<Rule>, day: Option<DayRule>, count_rejected: bool) -> Self {
        let full = |rule: Rule| {
            let parts = rule.limit * rule.window_ms;
            (rule, Level { parts, at: 0 })
        };
        let rules = rules.into_iter().map(full).collect();
        Self { rules, day, count_rejected, counted: Vec::new() }
    }

    /// Counts a request at `at`, or says which limit it breaks.
    pub(crate) fn offer(&mut self, at: u64, weight: Weight) -> Result<(), Refusal> {
        assert!(self.counted.last().is_none_or(|(last, _)| *last <= at), "time runs forward");
        let broken = self.rules.iter().find(|(rule, level)| self.breaks(rule, *level, at, weight));
        let refusal = match (broken, &self.day) {
            (Some((rule, _)), _) => Some(Refusal {
                metric: rule.metric,
                limit: rule.limit,
                window_ms: Some(rule.window_ms),
            }),
            (None, Some(day)) if self.breaks_day(day, at, weight) => {
                Some(Refusal { metric: day.metric, limit: day.limit, window_ms: None })
            }
            (None, _) => None,
        };
        if refusal.is_none() || self.count_rejected {
            self.counted.push((at, weight));
            for (rule, level) in &mut self.rules {
                let parts = filled(rule, *level, at);
                let taken = weight[rule.metric] * rule.window_ms;
                *level = Level { parts: parts.saturating_sub(taken), at };
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn breaks(&self, rule: &Rule, level: Level, at: u64, weight: Weight) -> bool {
        let (window, needs) = (rule.window_ms, weight[rule.metric]);
        let taken: u64 = match rule.shape {
            Shape::Fixed { phase_ms } => {
                let number = |time: u64| (time + phase_ms) / window;
                self.sum(rule.metric, |time| number(time) == number(at))
            }
            Shape::HalfOpen => self.sum(rule.metric, |time| at - time < window),
            Shape::Closed => self.sum(rule.metric, |time| at - time <= window),
            Shape::TokenBucket => return filled(rule, level, at) < needs * window,
        };
        needs > 0 && taken + needs > rule.limit
    }

    /// What was counted at the latest instants, as far back as `within` holds.
    fn sum(&self, metric: usize, within: impl Fn(u64) -> bool) -> u64 {
        let newest_first = self.counted.iter().rev();
        newest_first.take_while(|(time, _)| within(*time)).map(|(_, weight)| weight[metric]).sum()
    }

    fn breaks_day(&self, day: &DayRule, at: u64, weight: Weight) -> bool {
        let number = |time: u64| {
            let time = i64::try_from(time).expect("a simulation is short");
            day.midnights.iter().filter(|midnight| **midnight <= time).count()
        };
        let (today, needs) = (number(at), weight[day.metric]);
        needs > 0 && self.sum(day.metric, |time| number(time) == today) + needs > day.limit
    }
}

/// What has run into the rule's bucket by `at`.
fn filled(rule: &Rule, level: Level, at: u64) -> u64 {
    (rule.limit * rule.window_ms).min(level.parts + (at - level.at) * rule.limit)
}

#[test]
fn windows_count_as_published() {
    let counted = |shape, times: &[u64]| {
        let rule = Rule { metric: 0, limit: 2, window_ms: 60_000, shape };
        let mut oracle = Oracle::new(vec![rule], None, false);
        times.iter().map(|time| oracle.offer(*time, [1, 0, 0]).is_ok()).collect::<Vec<_>>()
    };
    let fixed = Shape::Fixed { phase_ms: 10_000 };
    assert_eq!(counted(fixed, &[49_998, 49_999, 49_999, 50_000]), [true, true, false, true]);
    let edge = [0, 1, 59_999, 60_000, 60_001];
    assert_eq!(counted(Shape::HalfOpen, &edge), [true, true, false, true, true]);
    assert_eq!(counted(Shape::Closed, &edge), [true, true, false, false, true]);
    let refill = [0, 0, 29_999, 30_000, 59_999, 60_000, 180_000, 180_000, 180_000];
    assert_eq!(
        counted(Shape::TokenBucket, &refill),
        [true, true, false, true, false, true, true, true, false]
    );
}

#[test]
fn days_and_refusals_count_as_published() {
    let day = DayRule { metric: 0, limit: 1, midnights: vec![-5, 1_000] };
    let mut oracle = Oracle::new(Vec::new(), Some(day), false);
    let accepted: Vec<_> =
        [0, 999, 1_000, 9_000].iter().map(|time| oracle.offer(*time, [1, 0, 0]).is_ok()).collect();
    assert_eq!(accepted, [true, false, true, false]);
    for (count_rejected, third) in [(false, true), (true, false)] {
        for shape in [Shape::HalfOpen, Shape::TokenBucket] {
            let rule = Rule { metric: 1, limit: 10, window_ms: 100, shape };
            let mut oracle = Oracle::new(vec![rule], None, count_rejected);
            assert!(oracle.offer(0, [1, 10, 0]).is_ok());
            assert!(oracle.offer(50, [1, 6, 0]).is_err());
            assert_eq!(oracle.offer(100, [1, 10, 0]).is_ok(), third, "{shape:?}");
            assert!(oracle.offer(100, [1, 0, 9]).is_ok(), "it weighs nothing that is limited");
        }
    }
}
