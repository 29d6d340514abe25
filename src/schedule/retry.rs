//! When a prompt is tried again that the provider answered with an error of its own
//! (design/quota-rules.md, 6.6).

/// Attempts that are tried again after a short wait; then come the long ones.
const SHORT_WAITS: u32 = 4;

/// Long waits before a prompt is given up, each of so many milliseconds.
const PARKINGS: u32 = 3;
const PARKED_MS: u64 = 30 * 60_000;

/// First and longest of the short waits, in milliseconds.
const BASE_MS: u64 = 2_000;
const LONGEST_MS: u64 = 120_000;

/// What a retry costs of the budget and what an answer earns, in thousandths; and the most that is
/// saved up.
const RETRY_COST: u64 = 1_000;
const ANSWER_EARNS: u64 = 100;
const SAVED_MOST: u64 = 100 * RETRY_COST;
const AT_FIRST: u64 = 10 * RETRY_COST;

/// What becomes of a prompt after a server error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerError {
    /// It is tried again after anything up to this long: full jitter.
    Backoff {
        /// In milliseconds.
        at_most_ms: u64,
    },
    /// It waits this long: the provider is in trouble.
    Park {
        /// In milliseconds.
        ms: u64,
    },
    /// It is failed.
    GiveUp,
}

/// What becomes of a prompt whose `attempts`th attempt ended with a server error.
#[must_use]
pub fn after_server_error(attempts: u32) -> ServerError {
    match attempts {
        0..=SHORT_WAITS => {
            let ceiling = (BASE_MS << attempts).min(LONGEST_MS);
            ServerError::Backoff { at_most_ms: ceiling }
        }
        _ if attempts <= SHORT_WAITS + PARKINGS => ServerError::Park { ms: PARKED_MS },
        _ => ServerError::GiveUp,
    }
}

/// How many retries a bucket may still have: a tenth of its answers, so that an outage does not
/// become a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    saved: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: AT_FIRST }
    }
}

impl Budget {
    /// A request was answered.
    pub fn earn(&mut self) {
        self.saved = (self.saved + ANSWER_EARNS).min(SAVED_MOST);
    }

    /// Whether a retry may go.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.saved >= RETRY_COST
    }

    /// A retry goes.
    pub fn spend(&mut self) {
        self.saved = self.saved.saturating_sub(RETRY_COST);
    }

    /// A retry did not go after all.
    pub fn give_back(&mut self) {
        self.saved = (self.saved + RETRY_COST).min(SAVED_MOST);
    }
}
