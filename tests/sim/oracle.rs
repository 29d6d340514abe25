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

/// What a request weighs, by metric.
pub(crate) type Weight = [u64; 2];

/// Counts what arrives, in the order in which it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    rules: Vec<Rule>,
    day: Option<DayRule>,
    /// Whether a refused request counts like an accepted one.
    count_rejected: bool,
    counted: Vec<(u64, Weight)>,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
}

impl Oracle {
    pub(crate) fn new(rules: Vec<Rule>, day: Option<DayRule>, count_rejected: bool) -> Self {
        Self { rules, day, count_rejected, counted: Vec::new(), accepted: 0, rejected: 0 }
    }

    /// Counts a request at `at`, or says which limit it breaks.
    pub(crate) fn offer(&mut self, at: u64, weight: Weight) -> Result<(), String> {
        assert!(self.counted.last().is_none_or(|(last, _)| *last <= at), "time runs forward");
        let refusal = self
            .rules
            .iter()
            .find(|rule| self.breaks(rule, at, weight))
            .map(|rule| format!("{rule:?}"))
            .or_else(|| {
                let day = self.day.as_ref().filter(|day| self.breaks_day(day, at, weight))?;
                Some(format!("{} of metric {} a day", day.limit, day.metric))
            });
        if refusal.is_none() || self.count_rejected {
            self.counted.push((at, weight));
        }
        match refusal {
            None => {
                self.accepted += 1;
                Ok(())
            }
            Some(rule) => {
                self.rejected += 1;
                Err(rule)
            }
        }
    }

    fn breaks(&self, rule: &Rule, at: u64, weight: Weight) -> bool {
        let window = rule.window_ms;
        let taken: u64 = match rule.shape {
            Shape::Fixed { phase_ms } => {
                let number = |time: u64| (time + phase_ms) / window;
                self.sum(rule.metric, |time| number(time) == number(at))
            }
            Shape::HalfOpen => self.sum(rule.metric, |time| at - time < window),
            Shape::Closed => self.sum(rule.metric, |time| at - time <= window),
            Shape::TokenBucket => return self.overdraws(rule, at, weight[rule.metric]),
        };
        taken + weight[rule.metric] > rule.limit
    }

    /// What was counted at the latest instants, as far back as `within` holds.
    fn sum(&self, metric: usize, within: impl Fn(u64) -> bool) -> u64 {
        let newest_first = self.counted.iter().rev();
        newest_first.take_while(|(time, _)| within(*time)).map(|(_, weight)| weight[metric]).sum()
    }

    /// Plays the bucket from as far back as it can matter: in parts of `1 / window`, so that all is
    /// in whole numbers.
    fn overdraws(&self, rule: &Rule, at: u64, weight: u64) -> bool {
        let full = rule.limit * rule.window_ms;
        let (mut level, mut last) = (full, 0);
        for (time, taken) in &self.counted {
            level = full.min(level + (time - last) * rule.limit);
            level = level.saturating_sub(taken[rule.metric] * rule.window_ms);
            last = *time;
        }
        full.min(level + (at - last) * rule.limit) < weight * rule.window_ms
    }

    fn breaks_day(&self, day: &DayRule, at: u64, weight: Weight) -> bool {
        let number = |time: u64| {
            let time = i64::try_from(time).expect("a simulation is short");
            day.midnights.iter().filter(|midnight| **midnight <= time).count()
        };
        let today = number(at);
        let taken = self.sum(day.metric, |time| number(time) == today);
        taken + weight[day.metric] > day.limit
    }
}

#[test]
fn windows_count_as_published() {
    let counted = |shape, times: &[u64]| {
        let rule = Rule { metric: 0, limit: 2, window_ms: 60_000, shape };
        let mut oracle = Oracle::new(vec![rule], None, false);
        times.iter().map(|time| oracle.offer(*time, [1, 0]).is_ok()).collect::<Vec<_>>()
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
        [0, 999, 1_000, 9_000].iter().map(|time| oracle.offer(*time, [1, 0]).is_ok()).collect();
    assert_eq!(accepted, [true, false, true, false]);
    assert_eq!((oracle.accepted, oracle.rejected), (2, 2));
    for (count_rejected, third) in [(false, true), (true, false)] {
        let rule = Rule { metric: 1, limit: 10, window_ms: 100, shape: Shape::HalfOpen };
        let mut oracle = Oracle::new(vec![rule], None, count_rejected);
        assert!(oracle.offer(0, [1, 10]).is_ok());
        assert!(oracle.offer(50, [1, 1]).is_err());
        assert_eq!(oracle.offer(100, [1, 10]).is_ok(), third);
    }
}
