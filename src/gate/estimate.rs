//! Input tokens before the provider has counted them: learnt ratios of tokens to bytes, and how
//! far estimates were exceeded of late.
//!
//! An estimate is `⌈bytes · ρ⌉ + media + overhead`, with ρ the 99th percentile of what requests of
//! the same model and kind took. Ratios are whole thousandths of a token for a byte of text
//! ("milli"), rounded up; there are no floats.

use std::collections::{BTreeMap, VecDeque};

use super::units::BootMs;

/// Observations kept of a model and kind. With as many the percentile is the sixth largest.
pub const SAMPLES_MAX: usize = 512;

/// Observations after which a ratio is learnt. Of fewer a hundredth is not even one.
pub const SAMPLES_LEARNED: usize = 100;

/// Below this many observations the largest stands for the percentile.
const SAMPLES_RANKED: usize = 200;

/// Pairs of model and kind kept: 4 KiB each.
pub const PAIRS_MAX: usize = 1_024;

/// Text of fewer bytes teaches nothing: the tokens around it, which no estimate knows exactly,
/// would count as the text's. One token there is a sixtieth of a token for each byte here.
pub const TEXT_BYTES_MIN: u64 = 64;

/// How long the windows are over which excess is summed, in milliseconds.
pub const OVERRUN_WINDOW_MS: u64 = 60_000;

/// Windows over which excess is remembered.
pub const OVERRUN_WINDOWS: usize = 20;

/// What a ratio is kept by, beside the model, and within which bounds; `formats::Kind` knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The kind's number in the database.
    pub code: u8,
    /// The ratio before anything was learnt.
    pub cold_milli: u64,
    /// The least that is believed.
    pub least_milli: u64,
    /// The most that is believed.
    pub most_milli: u64,
}

/// What is known of a request before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Tokens of inline media, by upper bounds.
    pub media_tokens: u64,
    /// Tokens around the text.
    pub overhead_tokens: u64,
}

/// How many tokens a byte of text takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Thousandths of a token for a byte.
    pub milli_per_byte: u64,
    /// The same for the first bytes, fewer than [`TEXT_BYTES_MIN`]: short texts are not learnt
    /// from, so what was learnt does not hold for them.
    pub short_milli_per_byte: u64,
    /// Observations that it rests on, at most [`SAMPLES_MAX`].
    pub samples: usize,
    /// Whether these are enough to rely on; else the cold start is the least.
    pub learned: bool,
}

impl Ratio {
    /// The input tokens to reserve for a request, rounded up; at most `u64::MAX`. More bytes never
    /// make fewer tokens.
    #[must_use]
    pub fn estimate(&self, size: Size) -> u64 {
        let long = scaled(size.text_bytes, self.milli_per_byte);
        let short_bytes = size.text_bytes.min(TEXT_BYTES_MIN - 1);
        let text = long.max(scaled(short_bytes, self.short_milli_per_byte));
        text.saturating_add(size.media_tokens).saturating_add(size.overhead_tokens)
    }
}

/// So many thousandths of `count`, rounded up.
fn scaled(count: u64, milli: u64) -> u64 {
    let product = u128::from(count) * u128::from(milli);
    u64::try_from(product.div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// The ratios of every model and kind that was observed.
#[derive(Clone, Debug, Default)]
pub struct Ratios {
    models: BTreeMap<String, BTreeMap<u8, Ring>>,
    pairs: usize,
    /// Counts observations, so that the pair observed longest ago is known.
    clock: u64,
}

impl Ratios {
    /// The ratio to estimate by.
    ///
    /// The cold start, or the largest observation if that is more, until there are
    /// [`SAMPLES_LEARNED`] of them; then the largest until there are 200; then the 99th percentile
    /// by nearest rank. Always within the bounds of the kind.
    #[must_use]
    pub fn ratio(&self, model: &str, kind: Kind) -> Ratio {
        let ring = self.ring(model, kind.code);
        let samples = ring.map_or(0, |ring| ring.sorted.len());
        let learned = samples >= SAMPLES_LEARNED;
        let observed = ring.map_or(0, Ring::high);
        let believed = if learned { observed } else { observed.max(kind.cold_milli) };
        let milli_per_byte = believed.max(kind.least_milli).min(kind.most_milli);
        Ratio { milli_per_byte, short_milli_per_byte: kind.cold_milli, samples, learned }
    }

    /// Learns from a request that took `actual` input tokens, tool use included.
    ///
    /// What was estimated for media and overhead is subtracted first. Requests with less than
    /// [`TEXT_BYTES_MIN`] bytes of text are passed over.
    pub fn observe(&mut self, model: &str, kind: Kind, size: Size, actual: u64) {
        if size.text_bytes < TEXT_BYTES_MIN {
            return;
        }
        let of_text = actual.saturating_sub(size.media_tokens).saturating_sub(size.overhead_tokens);
        let milli = (u128::from(of_text) * 1_000).div_ceil(u128::from(size.text_bytes));
        self.push(model, kind.code, u32::try_from(milli).unwrap_or(u32::MAX));
    }

    /// The observations of a model and kind in milli, oldest first: what the database keeps.
    pub fn samples(&self, model: &str, code: u8) -> impl Iterator<Item = u32> + '_ {
        self.ring(model, code).into_iter().flat_map(|ring| ring.recent.iter().copied())
    }

    /// Takes back what [`Ratios::samples`] gave, after a restart.
    pub fn restore(&mut self, model: &str, code: u8, samples: impl IntoIterator<Item = u32>) {
        for milli in samples {
            self.push(model, code, milli);
        }
    }

    fn ring(&self, model: &str, code: u8) -> Option<&Ring> {
        self.models.get(model)?.get(&code)
    }

    fn push(&mut self, model: &str, code: u8, milli: u32) {
        self.clock = self.clock.saturating_add(1);
        if self.ring(model, code).is_none() {
            if self.pairs >= PAIRS_MAX {
                self.drop_oldest();
            }
            self.pairs += 1;
        }
        if !self.models.contains_key(model) {
            self.models.insert(model.to_owned(), BTreeMap::new());
        }
        if let Some(kinds) = self.models.get_mut(model) {
            kinds.entry(code).or_default().push(milli, self.clock);
        }
    }

    /// Forgets the pair that was observed longest ago.
    fn drop_oldest(&mut self) {
        let pairs = self.models.iter().flat_map(|(model, kinds)| {
            kinds.iter().map(move |(code, ring)| (ring.observed, model, *code))
        });
        let Some((_, model, code)) = pairs.min() else { return };
        let model = model.clone();
        if let Some(kinds) = self.models.get_mut(&model) {
            kinds.remove(&code);
            if kinds.is_empty() {
                self.models.remove(&model);
            }
        }
        self.pairs -= 1;
    }
}

/// The last observations of one model and kind, in milli.
#[derive(Clone, Debug, Default)]
struct Ring {
    /// In the order in which they came.
    recent: VecDeque<u32>,
    /// The same, smallest first.
    sorted: Vec<u32>,
    /// When the last one came, by the count of all.
    observed: u64,
}

impl Ring {
    fn push(&mut self, milli: u32, clock: u64) {
        if self.recent.len() >= SAMPLES_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            let at = self.sorted.partition_point(|other| *other < oldest);
            self.sorted.remove(at);
        }
        self.recent.push_back(milli);
        let at = self.sorted.partition_point(|other| *other < milli);
        self.sorted.insert(at, milli);
        self.observed = clock;
        assert_eq!(self.recent.len(), self.sorted.len(), "two orders of the same observations");
    }

    /// What at most one observation in a hundred exceeds; none of them while they are few.
    fn high(&self) -> u64 {
        let samples = self.sorted.len();
        let rank = if samples < SAMPLES_RANKED { samples } else { (samples * 99).div_ceil(100) };
        self.sorted.get(rank.saturating_sub(1)).copied().map_or(0, u64::from)
    }
}

/// By how much requests took more than was reserved for them, of late. One for each bucket.
#[derive(Clone, Debug, Default)]
pub struct Overruns {
    /// Number and excess of the last windows in which something was settled, oldest first. Idle
    /// windows are no evidence and push nothing out.
    windows: VecDeque<(u64, u64)>,
    total: u64,
}

impl Overruns {
    /// Takes note of a settled request: what was reserved for it, what it took.
    pub fn settle(&mut self, estimate: u64, actual: u64, now: BootMs) {
        let excess = actual.saturating_sub(estimate);
        self.total = self.total.saturating_add(excess);
        let window = now.0 / OVERRUN_WINDOW_MS;
        match self.windows.back_mut() {
            Some((last, sum)) if *last >= window => *sum = sum.saturating_add(excess),
            Some(_) | None => self.windows.push_back((window, excess)),
        }
        if self.windows.len() > OVERRUN_WINDOWS {
            self.windows.pop_front();
        }
    }

    /// How much of a limit on input tokens to leave free, in tokens, so that excess does not meet
    /// the limit: the 95th percentile (nearest rank) of the excess of 20 windows, and with
    /// `learned` ratios, which one request in a hundred exceeds, at least 2 % of the limit.
    ///
    /// Never more than half the limit: with nothing left there would be nothing to learn from.
    #[must_use]
    pub fn margin(&self, limit: u64, learned: bool) -> u64 {
        let mut excess: Vec<u64> = self.windows.iter().map(|(_, sum)| *sum).collect();
        excess.sort_unstable();
        // Windows that were not yet count as without excess: one prompt alone proves nothing.
        let beyond = OVERRUN_WINDOWS - (OVERRUN_WINDOWS * 95).div_ceil(100) + 1;
        let recent = excess.len().checked_sub(beyond).map_or(0, |at| excess[at]);
        let least = if learned { limit.div_ceil(50) } else { 0 };
        recent.max(least).min(limit / 2)
    }

    /// The sum of all excess since the start, in tokens: the metric `estimate_overrun_tokens`.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}
