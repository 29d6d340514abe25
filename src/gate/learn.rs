//! What the provider's refusals teach: limits, the use of others, and how far the books are to be
//! trusted.

use super::admit::{Bucket, BucketId, Gate, Open};
use super::day::opening;
use super::estimate::Overruns;
use super::limits::{Limit, MINUTE_MS, Scope, Source, Window};
use super::memory::Learned;
use super::reserve::Claim;
use super::space::{Towards, View, WHOLE};
use super::units::{BootMs, Class, Metric, Now};
use super::verdict::Ask;
use super::window::{AttemptId, DELTA_MS};

/// Of a limit at least so many thousandths stay in use, however often others are in the way.
pub(super) const SHARE_FLOOR: u64 = 300;

/// So much of the share in use is left after a refusal that the books do not explain: the first in
/// ten minutes, the second, and any later one.
const SHARE_KEPT: [u64; 3] = [900, 800, 700];

/// And so much comes back after [`CLEAN_MS`] without one in which the share was used.
const SHARE_BACK: u64 = 20;

const CLEAN_MS: u64 = 600_000;

/// Refusals that follow one another within this long are counted together.
const SUSPICION_MS: u64 = 600_000;

/// After so long without an unexplained refusal the gate trusts its books again.
pub(super) const TRUST_MS: u64 = 86_400_000;

/// The longest that bytes are taken to be under way.
pub(super) const DELTA_MAX_MS: u64 = 10_000;

/// After a day's quota was said to be used up in the first request of a day, one is tried after so
/// long, then after twice that, and so on for [`PROBES`] times.
const PROBE_MS: u64 = 300_000;
const PROBES: u32 = 4;

/// Batch requests keep their distance for so long after an interactive one.
pub(super) const BESIDE_INTERACTIVE_MS: u64 = 900_000;

/// A refusal with a 429, as far as it concerns quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Every quota that it names.
    pub quotas: Vec<Quota>,
    /// How long to wait, as the provider says.
    pub retry_ms: Option<u64>,
}

/// One quota that a refusal names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The provider's own id, for people.
    pub id: String,
    /// What it counts.
    pub metric: Metric,
    /// Over what; none when it is not said, and then the limit's value has to tell.
    pub window: Option<Window>,
    /// Up to what, if said.
    pub value: Option<u64>,
}

/// What was learned of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// The provider's limit is another one than was known.
    Limit {
        /// `rpm`, `tpm` …
        dimension: &'static str,
        /// What is counted, and over what.
        metric: Metric,
        /// Over what.
        window: Window,
        /// What was in force.
        from: Option<u64>,
        /// What the provider says.
        to: u64,
        /// Whether that is in force now: what a user wrote is lowered and never raised.
        in_force: bool,
        /// The quota's id.
        quota_id: String,
    },
    /// Somebody else used so much of a limit.
    Others {
        /// `rpm`, `tpm` …
        dimension: &'static str,
        /// How much.
        weight: u64,
    },
    /// Less than all of a limit is used from now on, in thousandths.
    Share {
        /// `rpm`, `tpm` …
        dimension: &'static str,
        /// So many thousandths.
        permille: u64,
    },
    /// Batch requests keep a distance from now on.
    Paced,
    /// Bytes are taken to be under way for longer.
    Slower {
        /// For so long, in milliseconds.
        delta_ms: u64,
    },
    /// The day is used up, or the model is not offered: nothing goes before this instant.
    Shut {
        /// When one request goes first.
        until: BootMs,
        /// In words.
        reason: String,
    },
}

/// How far a bucket's books are to be trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    pub(super) learned: Vec<Learned>,
    /// Unexplained refusals, one a window at most, of the last ten minutes.
    pub(super) unexplained: Vec<BootMs>,
    pub(super) suspicious_until: Option<BootMs>,
    pub(super) paced: bool,
    /// On top of the usual one.
    pub(super) delta_more_ms: u64,
    /// What others use, in thousandths of the limit, and when that was seen last.
    pub(super) others: Option<(u64, BootMs)>,
    pub(super) phantoms: u64,
    pub(super) probes: u32,
    pub(super) overruns: Overruns,
    pub(super) estimates_learned: bool,
    pub(super) quota_name: Option<String>,
}

impl Gate {
    /// Takes in a 429 to an attempt that is still open: shuts the bucket for as long as it must,
    /// and returns what was learned. `jitter_ms` is added to a wait.
    ///
    /// Without a quota that can be told nothing is learned and nothing is shut, and `None` is
    /// returned: it may be any other shortage.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn throttled(
        &mut self,
        id: AttemptId,
        throttle: &Throttle,
        now: Now,
        jitter_ms: u64,
    ) -> Option<Vec<Lesson>> {
        let open = self.attempts.get(&id).copied()?;
        let block = self.bucket(open.ask.bucket).block.as_ref();
        let fresh_day = block.is_some_and(|block| block.of_day && block.canary == Some(id));
        let mut lessons = Vec::new();
        if let Some(quota) = throttle.quotas.iter().find(|quota| quota.value == Some(0)) {
            let reason = format!("the provider's limit is 0: not on this tier ({})", quota.id);
            lessons.push(self.shut_for_the_day(&open, now, reason));
            return Some(lessons);
        }
        let mut told = false;
        let mut of_day = Vec::new();
        for quota in &throttle.quotas {
            let Some(window) = quota.window.or_else(|| self.window_of(&open, quota)) else {
                continue;
            };
            told = true;
            let quota = &Quota { window: Some(window), ..quota.clone() };
            let explained = self.learn_value(open.ask.bucket, quota, window, now, &mut lessons);
            match window {
                Window::Day => of_day.push(quota.clone()),
                Window::Rolling { ms } => {
                    self.others(&open.ask, quota, explained, now, &mut lessons);
                    let asked = throttle.retry_ms.unwrap_or(ms).max(1_000);
                    let until = now.boot.plus(asked).plus(jitter_ms);
                    let reason =
                        format!("the provider said its {} is used up ({})", span(ms), quota.id);
                    self.block(open.ask.bucket, until, reason);
                }
                Window::Concurrent => {
                    let asked = throttle.retry_ms.unwrap_or(0).max(1_000);
                    let until = now.boot.plus(asked).plus(jitter_ms);
                    let reason = format!("the provider said too many at once ({})", quota.id);
                    self.block(open.ask.bucket, until, reason);
                }
            }
        }
        if !of_day.is_empty() {
            lessons.push(self.day_is_over(fresh_day, &open, &of_day, now));
        }
        told.then_some(lessons)
    }

    /// Takes up what the provider says of its limits without a refusal.
    pub fn told(&mut self, bucket: BucketId, quotas: &[Quota], now: Now) -> Vec<Lesson> {
        let mut lessons = Vec::new();
        for quota in quotas {
            if let Some(window) = quota.window.filter(|_| quota.value != Some(0)) {
                self.learn_value(bucket, quota, window, now, &mut lessons);
            }
        }
        lessons
    }

    /// The window of the one known limit that has the value which a refusal names.
    fn window_of(&mut self, open: &Open, quota: &Quota) -> Option<Window> {
        let meters = &self.bucket(open.ask.bucket).spaces.all.meters;
        let is_it =
            |limit: &Limit| limit.metric == quota.metric && Some(limit.value) == quota.value;
        let mut like = meters.iter().map(|meter| &meter.limit).filter(|limit| is_it(limit));
        let first = like.next()?;
        like.next().is_none().then_some(first.window)
    }

    /// What others use of a bucket's quota, in thousandths of the limit, if that shows.
    #[must_use]
    pub fn others_permille(&self, bucket: BucketId, now: Now) -> Option<u64> {
        let bucket = self.buckets.get(&self.root(bucket))?;
        let (permille, at) = bucket.trust.others?;
        let careful = bucket.spaces.all.meters.iter().any(|meter| meter.share < WHOLE);
        (careful || at.until(now.boot) < SUSPICION_MS).then_some(permille)
    }

    /// Whether batch requests of the bucket keep a distance at `now`.
    #[must_use]
    pub fn is_paced(&self, bucket: BucketId, now: Now) -> bool {
        let bucket = self.buckets.get(&self.root(bucket));
        bucket.is_some_and(|bucket| bucket.is_paced(now))
    }

    /// Input tokens of a bucket that answers took beyond their estimates, since the start.
    #[must_use]
    pub fn overrun_tokens(&self, bucket: BucketId) -> u64 {
        self.buckets.get(&self.root(bucket)).map_or(0, |bucket| bucket.trust.overruns.total())
    }

    /// The name by which the provider refuses requests of a bucket, once it did.
    #[must_use]
    pub fn quota_name(&self, bucket: BucketId) -> Option<&str> {
        self.buckets.get(&self.root(bucket))?.trust.quota_name.as_deref()
    }

    /// Notes the name by which the provider refuses requests of a bucket.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn set_quota_name(&mut self, bucket: BucketId, name: &str) {
        self.bucket(bucket).trust.quota_name = Some(name.to_owned());
    }

    /// Forgets what was learned of one limit of a bucket.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn forget(&mut self, id: BucketId, metric: Metric, window: Window, now: Now) {
        let learned = &mut self.bucket(id).trust.learned;
        learned.retain(|known| (known.metric, known.window) != (metric, window));
        self.apply(id, now);
    }

    /// Corrects a limit by what the provider says it is. Returns whether that explains the refusal.
    fn learn_value(
        &mut self,
        id: BucketId,
        quota: &Quota,
        window: Window,
        now: Now,
        lessons: &mut Vec<Lesson>,
    ) -> bool {
        let Some(value) = quota.value else { return false };
        let bucket = self.bucket(id);
        let Quota { id: quota_id, metric, .. } = quota.clone();
        let from = bucket.value_of(metric, window, value);
        let stated = bucket.stated();
        let was = named(&stated, metric, window, value).map(|index| stated[index].value);
        // What was learned under another stated limit is not in force any more.
        let known = bucket.trust.known(metric, window);
        if from == Some(value) || known.is_some_and(|it| (it.value, it.was) == (value, was)) {
            return false;
        }
        bucket.trust.learned.retain(|known| (known.metric, known.window) != (metric, window));
        let at = now.wall;
        let learned = Learned { metric, window, value, was, at, quota_id: quota_id.clone() };
        bucket.trust.learned.push(learned);
        self.apply(id, now);
        let in_force = self.bucket(id).value_of(metric, window, value) == Some(value);
        let probe = Limit { metric, window, scope: Scope::Project, value, source: Source::Learned };
        let dimension = probe.dimension();
        lessons.push(Lesson::Limit {
            dimension,
            metric,
            window,
            from,
            to: value,
            in_force,
            quota_id,
        });
        from.is_none_or(|from| value < from)
    }

    /// What the provider counted and the books do not know is somebody else's, or the books are
    /// wrong: both are reason for care.
    fn others(
        &mut self,
        ask: &Ask,
        quota: &Quota,
        explained: bool,
        now: Now,
        lessons: &mut Vec<Lesson>,
    ) {
        let edges = self.edges(ask.bucket);
        let bucket = self.bucket(ask.bucket);
        let Some(window @ Window::Rolling { ms }) = quota.window else { return };
        let Some(index) = bucket.meter(quota.metric, window) else { return };
        let view = View { now, edges, delta_ms: bucket.trust.delta_ms(), claim: Claim::Nothing };
        let used = bucket.spaces.all.read(index, Towards::default(), view).used;
        let meter = &bucket.spaces.all.meters[index];
        let limit = meter.limit.value;
        let dimension = meter.limit.dimension();
        // What is used beyond the limit is our own: an estimate that was too low, a lower limit.
        if used > limit {
            return;
        }
        let weight = limit - used;
        if weight > 0 {
            bucket.trust.phantoms += 1;
            let until = now.boot.plus(ms);
            bucket.spaces.all.haunt(index, bucket.trust.phantoms, weight, until);
            lessons.push(Lesson::Others { dimension, weight });
        }
        if !explained {
            bucket.suspect(index, weight, now, lessons);
        }
    }

    /// The provider's day is used up, whatever delay it asks for: the day in which the attempt was
    /// reserved, also if another has begun since.
    fn day_is_over(&mut self, fresh_day: bool, open: &Open, quotas: &[Quota], now: Now) -> Lesson {
        let bucket = self.bucket(open.ask.bucket);
        let ids: Vec<_> = quotas.iter().map(|quota| quota.id.as_str()).collect();
        let reason = format!("the provider's day is used up ({})", ids.join(", "));
        // Its day may begin later than ours.
        if fresh_day && bucket.trust.probes < PROBES {
            let until = now.boot.plus(PROBE_MS << bucket.trust.probes);
            bucket.trust.probes += 1;
            self.shut(open.ask.bucket, until, reason.clone(), true);
            return Lesson::Shut { until, reason };
        }
        bucket.trust.probes = 0;
        for quota in quotas {
            if let Some(index) = bucket.meter(quota.metric, Window::Day) {
                let limit = bucket.spaces.all.meters[index].limit.value;
                let used = bucket.spaces.all.days.used(open.day_lo, quota.metric);
                let others = limit.saturating_sub(used);
                bucket.spaces.all.days.fill(open.day_lo, quota.metric, others);
            }
        }
        self.shut_for_the_day(open, now, reason)
    }

    fn shut_for_the_day(&mut self, open: &Open, now: Now, reason: String) -> Lesson {
        let edges = self.edges(open.ask.bucket);
        let end = self.bucket(open.ask.bucket).spaces.all.days.end_of(open.day_lo);
        let until = now.boot_at(opening(end, edges));
        self.shut(open.ask.bucket, until, reason.clone(), true);
        Lesson::Shut { until, reason }
    }

    /// Gives back what care took away, when nothing has happened for long enough.
    pub(super) fn recover(&mut self, ask: &Ask, now: Now) {
        let edges = self.edges(ask.bucket);
        let bucket = self.bucket(ask.bucket);
        let trust = &mut bucket.trust;
        if trust.suspicious_until.is_some_and(|until| until <= now.boot) {
            trust.suspicious_until = None;
            trust.paced = false;
            trust.delta_more_ms = 0;
            trust.others = None;
            bucket.spaces.all.meters.iter_mut().for_each(|meter| meter.share = WHOLE);
        }
        let view = View { now, edges, delta_ms: trust.delta_ms(), claim: Claim::Nothing };
        let space = &mut bucket.spaces.all;
        for index in 0..space.meters.len() {
            if space.meters[index].share == WHOLE {
                continue;
            }
            let reading = space.read(index, Towards::default(), view);
            let meter = &mut space.meters[index];
            meter.reached |= reading.used.saturating_mul(10) >= reading.usable.saturating_mul(9);
            if meter.clean_since.until(now.boot) >= CLEAN_MS {
                if meter.reached {
                    meter.share = (meter.share + SHARE_BACK).min(WHOLE);
                }
                meter.clean_since = now.boot;
                meter.reached = false;
            }
        }
    }
}

impl Bucket {
    pub(super) fn is_paced(&self, now: Now) -> bool {
        let beside = |at: BootMs| at.until(now.boot) < BESIDE_INTERACTIVE_MS;
        let doubtful = self.trust.suspicious_until.is_some_and(|until| until > now.boot);
        (self.trust.paced && doubtful) || self.last_interactive.is_some_and(beside)
    }

    /// When the next batch request may go, and the distance it keeps, if it has to wait for that.
    pub(super) fn paced_at(&self, class: Class, now: Now) -> Option<(BootMs, u64)> {
        if class == Class::Interactive || !self.is_paced(now) {
            return None;
        }
        let delta_ms = self.trust.delta_ms();
        let gap = |(window_ms, most): (u64, u64)| match most {
            0 | 1 => window_ms.saturating_mul(2).saturating_add(delta_ms),
            _ => window_ms.saturating_add(delta_ms).div_ceil(most - 1),
        };
        let rolling = self.spaces.all.meters.iter().filter_map(|meter| match meter.limit.window {
            Window::Rolling { ms } if meter.limit.metric == Metric::Requests => {
                Some((ms, meter.usable()))
            }
            Window::Rolling { .. } | Window::Day | Window::Concurrent => None,
        });
        let gap_ms = rolling.map(gap).max()?;
        let next = self.last_batch?.plus(gap_ms);
        (next > now.boot).then_some((next, gap_ms))
    }

    /// Takes note of what a request took beyond its estimate: as much as that happens, room is
    /// left for it.
    pub(super) fn overrun(&mut self, estimate: u64, actual: u64, now: Now) {
        let trust = &mut self.trust;
        trust.overruns.settle(estimate, actual, now.boot);
        if trust.overruns.total() == 0 && !trust.estimates_learned {
            return;
        }
        for meter in &mut self.spaces.all.meters {
            let rolling = matches!(meter.limit.window, Window::Rolling { .. });
            if rolling && meter.limit.metric == Metric::InputTokens {
                meter.margin = trust.overruns.margin(meter.limit.value, trust.estimates_learned);
            }
        }
    }

    pub(super) fn meter(&self, metric: Metric, window: Window) -> Option<usize> {
        let meters = &self.spaces.all.meters;
        meters.iter().position(|meter| is_of(&meter.limit, metric, window))
    }

    /// The value in force of the limit that is named by `value`.
    fn value_of(&self, metric: Metric, window: Window, value: u64) -> Option<u64> {
        let limits = self.trust.overlay(&self.stated());
        named(&limits, metric, window, value).map(|index| limits[index].value)
    }

    /// An unexplained refusal: less of the limit is used from now on, and with the second and third
    /// one in ten minutes the gate goes more carefully altogether.
    fn suspect(&mut self, index: usize, others: u64, now: Now, lessons: &mut Vec<Lesson>) {
        let meter = &mut self.spaces.all.meters[index];
        let limit = meter.limit.value.max(1);
        let dimension = meter.limit.dimension();
        let of_limit = |weight: u64| {
            let share = u128::from(weight) * u128::from(WHOLE) / u128::from(limit);
            u64::try_from(share).unwrap_or(WHOLE).min(WHOLE)
        };
        let seen = of_limit(others);
        let trust = &mut self.trust;
        let window_ms = MINUTE_MS;
        let just_now = |at: &BootMs| at.until(now.boot) < window_ms;
        if trust.unexplained.last().is_some_and(just_now) {
            meter.clean_since = now.boot;
            return;
        }
        trust.unexplained.retain(|at| at.until(now.boot) < SUSPICION_MS);
        let kept = SHARE_KEPT[trust.unexplained.len().min(SHARE_KEPT.len() - 1)];
        let mean = trust.others.map_or(seen, |(mean, _)| (mean * 7 + seen) / 8);
        trust.others = Some((mean, now.boot));
        let left = (WHOLE - seen).min(meter.share * kept / WHOLE);
        meter.share = left.max(meter.share / 2).clamp(SHARE_FLOOR, WHOLE);
        meter.clean_since = now.boot;
        meter.reached = false;
        lessons.push(Lesson::Share { dimension, permille: meter.share });
        trust.unexplained.push(now.boot);
        trust.suspicious_until = Some(now.boot.plus(TRUST_MS));
        if trust.unexplained.len() >= 2 && !trust.paced {
            trust.paced = true;
            lessons.push(Lesson::Paced);
        } else if trust.unexplained.len() >= 3 && trust.delta_ms() < DELTA_MAX_MS {
            trust.delta_more_ms = (trust.delta_ms() * 2).min(DELTA_MAX_MS) - DELTA_MS;
            lessons.push(Lesson::Slower { delta_ms: trust.delta_ms() });
        }
    }
}

impl Trust {
    /// How long bytes are taken to be under way.
    pub(super) fn delta_ms(&self) -> u64 {
        DELTA_MS + self.delta_more_ms
    }

    fn known(&self, metric: Metric, window: Window) -> Option<&Learned> {
        self.learned.iter().find(|known| (known.metric, known.window) == (metric, window))
    }

    /// The limits in force: what was stated, corrected by what the provider said. That lowers any
    /// limit, and raises one that only a preset says.
    pub(super) fn overlay(&self, stated: &[Limit]) -> Vec<Limit> {
        let mut limits = stated.to_vec();
        for known in &self.learned {
            let new = |scope| Limit {
                metric: known.metric,
                window: known.window,
                scope,
                value: known.value.max(1),
                source: Source::Learned,
            };
            match named(&limits, known.metric, known.window, known.value) {
                Some(index) => {
                    let limit = &mut limits[index];
                    let of_preset = matches!(limit.source, Source::Preset { .. });
                    let lowers = known.value < limit.value && known.was == Some(limit.value);
                    if of_preset || lowers {
                        *limit = new(limit.scope);
                    }
                }
                None if known.was.is_none() => limits.push(new(Scope::Project)),
                None => {}
            }
        }
        limits
    }

    /// Takes over what another bucket has learned that is this one now, whose limits are stated.
    pub(super) fn join(&mut self, other: Self, stated: &[Limit]) {
        for theirs in other.learned {
            let Learned { metric, window, value, .. } = theirs;
            if self.known(metric, window).is_none_or(|own| value < own.value) {
                let was = named(stated, metric, window, value).map(|index| stated[index].value);
                self.learned.retain(|known| (known.metric, known.window) != (metric, window));
                self.learned.push(Learned { was, ..theirs });
            }
        }
        self.unexplained.extend(other.unexplained);
        self.unexplained.sort_unstable();
        self.suspicious_until = self.suspicious_until.max(other.suspicious_until);
        self.paced |= other.paced;
        self.delta_more_ms = self.delta_more_ms.max(other.delta_more_ms);
        self.others = self.others.max(other.others);
        self.phantoms = self.phantoms.max(other.phantoms);
        self.probes = self.probes.max(other.probes);
        self.estimates_learned |= other.estimates_learned;
        self.quota_name = self.quota_name.take().or(other.quota_name);
    }

    /// What the provider allows, if that is more than a user's own limit.
    pub(super) fn allows_more(&self, limit: &Limit) -> Option<u64> {
        let known = self.known(limit.metric, limit.window)?;
        (limit.scope == Scope::Project && known.value > limit.value).then_some(known.value)
    }
}

/// The limit that a refusal means by `value`: the project's, or where only each key has one that,
/// unless it is below the value and can thus not be what was used up.
fn named(limits: &[Limit], metric: Metric, window: Window, value: u64) -> Option<usize> {
    let of_key =
        |limit: &Limit| (limit.metric, limit.window) == (metric, window) && value <= limit.value;
    let of_project = limits.iter().position(|limit| is_of(limit, metric, window));
    of_project.or_else(|| limits.iter().position(of_key))
}

fn is_of(limit: &Limit, metric: Metric, window: Window) -> bool {
    (limit.metric, limit.window, limit.scope) == (metric, window, Scope::Project)
}

fn span(ms: u64) -> String {
    if ms == MINUTE_MS { "minute".to_owned() } else { format!("{} s", ms / 1_000) }
}
