//! The provider's clock minus ours, proven from the `Date` headers of its answers.
//!
//! A request sent at `s` whose headers came at `r`, both by our wall clock, was answered in
//! between. `Date` is the provider's clock then, cut to the second, so θ, its clock minus ours,
//! lies in `[Date − r, Date + 1 s − s]`. What at least half of the kept answers agree on is the
//! interval: a minority of wrong clocks, whatever they say, cannot move it off the truth. This is
//! Marzullo's algorithm for as many faults as can be survived; fewer would give a narrower
//! interval, and a liar who overlaps with most honest answers could then shift it.

use super::units::{BootMs, UnixMs};

/// θ in milliseconds while nothing is known: our clock is kept by NTP, as most are.
const UNKNOWN: (i64, i64) = (-2_000, 2_000);

/// How old a `Date` can be when it is sent, in milliseconds: servers keep the formatted header and
/// renew it at intervals, Envoy every 500 ms.
const STALE_MS: i64 = 500;

/// How long an answer counts after it came, in milliseconds, as long as there is a later one.
const KEPT_MS: u64 = 3_600_000;

/// Answers kept: those that say most at present. Of an odd number half is a majority, so that what
/// they allow lies within one of them: no wider than the widest.
const ANSWERS_MAX: usize = 63;

/// How fast θ can change, in millionths: 1.8 s an hour. A quartz is ten times as good; Linux slews
/// a clock no faster.
const DRIFT_PPM: u64 = 500;

/// Where the provider's clock stands relative to ours, in milliseconds: positive when it is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// It is ahead at least this much.
    pub lo_ms: i64,
    /// It is ahead at most this much.
    pub hi_ms: i64,
    /// Whether answers prove it. Otherwise the interval holds what is assumed, and whatever
    /// answers that do not agree have said.
    pub known: bool,
}

/// One answer: the interval in which it says that θ was when the provider stamped it.
#[derive(Clone, Copy, Debug)]
struct Answer {
    /// When its request was sent: the stamp is no older.
    at: BootMs,
    lo: i64,
    hi: i64,
}

impl Answer {
    /// What it says at a later time.
    fn aged(&self, now: BootMs) -> (i64, i64) {
        widened((self.lo, self.hi), drift(self.at.until(now)))
    }

    fn width(&self, now: BootMs) -> u64 {
        let (lo, hi) = self.aged(now);
        hi.abs_diff(lo)
    }
}

/// What the answers of the last hour prove.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    /// At most [`ANSWERS_MAX`], in the order in which they came.
    answers: Vec<Answer>,
    /// What they agreed on when the last one came; `None` before the first.
    agreed: Option<(BootMs, Offset)>,
}

impl Offsets {
    /// Takes note of an answer: when its request's first byte was sent, when its headers came,
    /// its `Date` in seconds since the Unix epoch, and the present.
    ///
    /// An answer that came before its request was sent is passed over: our clock was stepped.
    pub fn observe(&mut self, sent: UnixMs, headers: UnixMs, date_s: i64, now: BootMs) {
        if headers < sent {
            return;
        }
        let date = date_s.saturating_mul(1_000);
        let lo = date.saturating_sub(headers.0);
        let hi = date.saturating_add(1_000 + STALE_MS).saturating_sub(sent.0);
        self.answers.retain(|answer| answer.at.until(now) < KEPT_MS);
        let at = BootMs(now.0.saturating_sub(sent.until(headers)));
        self.answers.push(Answer { at, lo, hi });
        if self.answers.len() > ANSWERS_MAX {
            self.drop_widest(now);
        }
        self.agreed = Some((now, agreement(&self.answers, now)));
    }

    /// Forgets everything: our wall clock was stepped, and what it measured with it.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Where the provider's clock stands at `now`.
    ///
    /// It widens by 0.5 ms for each second since the last answer and never goes back to the
    /// assumed ±2 s by itself: a clock that was an hour off has not been set by waiting.
    #[must_use]
    pub fn interval(&self, now: BootMs) -> Offset {
        let Some((at, offset)) = self.agreed else {
            let (lo_ms, hi_ms) = UNKNOWN;
            return Offset { lo_ms, hi_ms, known: false };
        };
        let (lo_ms, hi_ms) = widened((offset.lo_ms, offset.hi_ms), drift(at.until(now)));
        Offset { lo_ms, hi_ms, ..offset }
    }

    /// Of several as wide the oldest goes.
    fn drop_widest(&mut self, now: BootMs) {
        let widths = self.answers.iter().enumerate().rev();
        if let Some((widest, _)) = widths.max_by_key(|(_, answer)| answer.width(now)) {
            self.answers.remove(widest);
        }
    }
}

/// How far θ can have moved in so many milliseconds, rounded up.
fn drift(elapsed_ms: u64) -> u64 {
    let product = u128::from(elapsed_ms) * u128::from(DRIFT_PPM);
    u64::try_from(product.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn widened((lo, hi): (i64, i64), by: u64) -> (i64, i64) {
    (lo.saturating_sub_unsigned(by), hi.saturating_add_unsigned(by))
}

/// The hull of all values that at least half of the answers allow. If there is no such value, the
/// hull of what any of them allows and of what is assumed.
fn agreement(answers: &[Answer], now: BootMs) -> Offset {
    // An interval begins before another ends at the same value: the ends belong to it.
    let mut edges: Vec<(i64, bool)> = Vec::with_capacity(answers.len() * 2);
    for answer in answers {
        let (lo, hi) = answer.aged(now);
        edges.extend([(lo, false), (hi, true)]);
    }
    edges.sort_unstable();
    let half = answers.len().div_ceil(2);
    let (mut allowing, mut hull) = (0_usize, None);
    for (value, ends) in &edges {
        if !ends {
            allowing += 1;
        }
        if allowing >= half {
            let (lo, _) = hull.unwrap_or((*value, *value));
            hull = Some((lo, *value));
        }
        if *ends {
            allowing -= 1;
        }
    }
    if let Some((lo_ms, hi_ms)) = hull {
        return Offset { lo_ms, hi_ms, known: true };
    }
    let said = edges.first().zip(edges.last());
    let (lo, hi) = said.map_or(UNKNOWN, |((lo, _), (hi, _))| (*lo, *hi));
    Offset { lo_ms: lo.min(UNKNOWN.0), hi_ms: hi.max(UNKNOWN.1), known: false }
}
