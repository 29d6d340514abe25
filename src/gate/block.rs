//! A bucket that is shut: until when, why, and the one request that goes first when it is over.

use super::admit::{Bucket, BucketId, Gate};
use super::units::{BootMs, Now};
use super::window::{AttemptId, DELTA_MS};

/// Longer windows than this are not waited out after a restart of the machine: their entries are
/// taken from the wall clock.
const QUARANTINE_WINDOW_MAX_MS: u64 = 600_000;

#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) until: BootMs,
    pub(super) reason: String,
    pub(super) canary: Option<AttemptId>,
    /// Whether the provider's day is used up.
    pub(super) of_day: bool,
}

impl Gate {
    /// Shuts a bucket until `until`; then one request goes first, and the rest wait until
    /// [`Gate::unblock`] says that it was answered. A longer block stays.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn block(&mut self, bucket: BucketId, until: BootMs, reason: String) {
        self.shut(bucket, until, reason, false);
    }

    pub(super) fn shut(&mut self, bucket: BucketId, until: BootMs, reason: String, of_day: bool) {
        let block = &mut self.bucket(bucket).block;
        if block.as_ref().is_none_or(|known| known.until < until) {
            *block = Some(Block { until, reason, canary: None, of_day });
        }
    }

    /// Opens the attempt's bucket if the attempt is the one that went first after a block: the
    /// provider said yes to it. Any other was sent before the block and proves nothing, and neither
    /// does one that a new block overtook. To be told before [`Gate::settle`]. Returns whether it
    /// opened.
    ///
    /// # Panics
    /// When the books in memory contradict themselves.
    pub fn unblock(&mut self, id: AttemptId) -> bool {
        let Some(open) = self.attempts.get(&id) else { return false };
        let bucket = open.ask.bucket;
        let bucket = self.bucket(bucket);
        let opens = bucket.block.as_ref().is_some_and(|block| block.canary == Some(id));
        if opens {
            bucket.block = None;
            bucket.trust.probes = 0;
        }
        opens
    }

    /// Ends at once the block by which a bucket waits for another day: a user says that the limit
    /// is another one. One request goes first all the same. What is shut for moments stays so.
    ///
    /// # Panics
    /// When the bucket is not defined.
    pub fn lift(&mut self, bucket: BucketId, now: Now) {
        let block = &mut self.bucket(bucket).block;
        if let Some(block) = block.as_mut().filter(|block| block.of_day) {
            block.until = block.until.min(now.boot);
        }
    }

    /// Why and until when the provider's own no shuts the bucket, if it does.
    #[must_use]
    pub fn blocked(&self, bucket: BucketId) -> Option<(BootMs, &str)> {
        let block = self.buckets.get(&self.root(bucket))?.block.as_ref()?;
        Some((block.until, &block.reason))
    }

    /// Shuts every bucket for its longest window and Δ: the machine was started anew, so what the
    /// ledger says of the last minutes may be short, and its ages are not to be trusted. What a
    /// project shares is not waited out: its window of spending is ten minutes.
    pub fn quarantine(&mut self, now: Now, reason: &str) {
        let windows: Vec<_> = self
            .buckets
            .iter()
            .map(|(id, it)| (*id, it.spaces.longest_window_ms(), it.trust.delta_ms()))
            .collect();
        for (id, window_ms, delta_ms) in windows {
            let window_ms = window_ms.min(QUARANTINE_WINDOW_MAX_MS);
            self.block(id, now.boot.plus(window_ms).plus(delta_ms), reason.to_owned());
        }
    }
}

impl Bucket {
    /// Until when at least, and why, nothing goes.
    pub(super) fn blocked_at(&self, now: Now) -> Option<(BootMs, &str)> {
        let block = self.block.as_ref()?;
        let until = if block.until > now.boot {
            block.until
        } else if block.canary.is_some() {
            now.boot.plus(DELTA_MS)
        } else {
            return None;
        };
        Some((until, &block.reason))
    }

    pub(super) fn forget_canary(&mut self, id: AttemptId) {
        if let Some(block) = &mut self.block
            && block.canary == Some(id)
        {
            block.canary = None;
        }
    }
}
