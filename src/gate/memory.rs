//! What a bucket has learned, as a value that outlives the process.

use serde::{Deserialize, Serialize};

use super::admit::{BucketId, Gate};
use super::learn::{DELTA_MAX_MS, SHARE_FLOOR, TRUST_MS};
use super::limits::{Limit, Window};
use super::space::WHOLE;
use super::units::{Metric, Now, UnixMs};
use super::window::DELTA_MS;

/// No block lasts longer: the longest day has 25 hours.
const BLOCK_MAX_MS: u64 = 26 * 3_600_000;

/// A limit as the provider named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// What is counted.
    pub metric: Metric,
    /// Over what.
    pub window: Window,
    /// Up to what.
    pub value: u64,
    /// What was stated then: when that is changed, it says more than this.
    pub was: Option<u64>,
    /// When.
    pub at: UnixMs,
    /// The quota's id.
    pub quota_id: String,
}

/// All that a bucket has learned, to be kept over a restart. Instants are by the wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    learned: Vec<Learned>,
    shares: Vec<(Metric, Window, u64)>,
    others: Option<(u64, UnixMs)>,
    #[serde(default)]
    unexplained: Vec<UnixMs>,
    suspicious_until: Option<UnixMs>,
    paced: bool,
    delta_more_ms: u64,
    block: Option<(UnixMs, String, bool)>,
    probes: u32,
    phantoms: Vec<(Metric, Window, u64, UnixMs)>,
    quota_name: Option<String>,
}

impl Gate {
    /// What a bucket has learned, to be kept.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn memory(&mut self, id: BucketId, now: Now) -> Memory {
        let bucket = self.bucket(id);
        let trust = &bucket.trust;
        let meters = &bucket.spaces.all.meters;
        let careful = meters.iter().filter(|meter| meter.share < WHOLE);
        let shares = careful.map(|meter| (meter.limit.metric, meter.limit.window, meter.share));
        let mut phantoms = Vec::new();
        for (index, meter) in meters.iter().enumerate() {
            let Limit { metric, window, .. } = meter.limit;
            for (weight, at) in bucket.spaces.all.others(index) {
                phantoms.push((metric, window, weight, now.wall_at(at)));
            }
        }
        Memory {
            learned: trust.learned.clone(),
            shares: shares.collect(),
            others: trust.others.map(|(permille, at)| (permille, now.wall_at(at))),
            unexplained: trust.unexplained.iter().map(|at| now.wall_at(*at)).collect(),
            suspicious_until: trust.suspicious_until.map(|at| now.wall_at(at)),
            paced: trust.paced,
            delta_more_ms: trust.delta_more_ms,
            block: bucket
                .block
                .as_ref()
                .map(|block| (now.wall_at(block.until), block.reason.clone(), block.of_day)),
            probes: trust.probes,
            phantoms,
            quota_name: trust.quota_name.clone(),
        }
    }

    /// Takes up what a bucket had learned before a restart.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn remember(&mut self, id: BucketId, memory: Memory, now: Now) {
        let bucket = self.bucket(id);
        let trust = &mut bucket.trust;
        trust.learned = memory.learned;
        // A wall clock that was set back must not make anything last.
        let past = |at| now.boot_at(at).min(now.boot);
        let ahead = |at, most| now.boot_at(at).min(now.boot.plus(most));
        trust.others = memory.others.map(|(permille, at)| (permille, past(at)));
        trust.unexplained = memory.unexplained.into_iter().map(past).collect();
        trust.suspicious_until = memory.suspicious_until.map(|at| ahead(at, TRUST_MS));
        trust.paced = memory.paced;
        trust.delta_more_ms = memory.delta_more_ms.min(DELTA_MAX_MS - DELTA_MS);
        trust.probes = memory.probes;
        trust.quota_name = memory.quota_name;
        self.apply(id, now);
        let bucket = self.bucket(id);
        for meter in &mut bucket.spaces.all.meters {
            let is_it = |kept: &&(Metric, Window, u64)| {
                (kept.0, kept.1) == (meter.limit.metric, meter.limit.window)
            };
            if let Some((_, _, share)) = memory.shares.iter().find(is_it) {
                meter.share = (*share).clamp(SHARE_FLOOR, WHOLE);
                meter.clean_since = now.boot;
            }
        }
        for (metric, window, weight, until) in memory.phantoms {
            let Window::Rolling { ms } = window else { continue };
            let until = ahead(until, ms);
            if let Some(index) = bucket.meter(metric, window).filter(|_| until > now.boot) {
                bucket.trust.phantoms += 1;
                bucket.spaces.all.haunt(index, bucket.trust.phantoms, weight, until);
            }
        }
        if let Some((until, reason, of_day)) = memory.block {
            // Also when it is over: one goes first.
            self.shut(id, ahead(until, BLOCK_MAX_MS), reason, of_day);
        }
    }
}
