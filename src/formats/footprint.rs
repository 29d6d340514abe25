//! What a request weighs, read off its bytes without a tokenizer.
//!
//! Text is counted in bytes, media by upper bounds per type; [`Footprint::estimate`] turns both
//! into tokens. The provider's own count replaces the estimate when the answer comes.

use super::Script;
use super::kind::Scripts;

/// Tokens around the text that no byte of it accounts for: turns, roles, separators.
const OVERHEAD_TOKENS: u64 = 8;

/// The weight of a request before any tokenizer has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all text that may become input tokens, in UTF-8: prompts, system instruction,
    /// tools, arguments, answer schemas.
    pub text_bytes: u64,
    /// What that text is mostly made of.
    pub script: Script,
    /// Input tokens for inline media, an upper estimate by type and the resolution asked for.
    pub media_tokens: u64,
    /// Images asked for: with the response modality IMAGE one per candidate, else 0.
    pub images: u64,
    /// Whether the request refers to a file or a cached content, whose tokens its bytes do not
    /// tell.
    pub unmeasured: bool,
    /// Whether the request lets the provider use tools of its own (search, code execution, URL
    /// context, file search and whatever else is not a function of the caller's): what they find
    /// is input that comes later.
    pub tools: bool,
    /// Requests to count: the number of texts of an embedding request, else 1.
    pub requests: u64,
    /// The most output tokens that all candidates together may have, where the request says so.
    pub output_tokens_max: Option<u64>,
}

impl Default for Footprint {
    fn default() -> Self {
        Self {
            text_bytes: 0,
            script: Script::default(),
            media_tokens: 0,
            images: 0,
            unmeasured: false,
            tools: false,
            requests: 1,
            output_tokens_max: None,
        }
    }
}

/// A range for a request's input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What the request will rarely exceed: for every byte of text what its kind takes, half a
    /// token or a whole one, all media, and the overhead.
    pub likely_max: u64,
    /// What it will rarely stay below: 15 tokens for every 100 bytes of text.
    pub floor: u64,
}

impl Footprint {
    /// A request whose only part is `text`.
    pub(super) fn of_text(text: &str) -> Self {
        let mut scripts = Scripts::default();
        scripts.read(text);
        Self { text_bytes: scripts.total(), script: scripts.mostly(), ..Self::default() }
    }

    /// The input tokens to expect before anything was learnt about the model.
    ///
    /// The admission rules estimate `⌈bytes · ρ⌉ + media + overhead`, where ρ, the tokens per byte
    /// of text, begins at 0.5, or 1 for text that may take a token for each byte
    /// ([`Kind::cold_milli`](super::Kind::cold_milli)), and never falls below 0.15.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        let text_max = scaled(self.text_bytes, self.kind().cold_milli());
        // 3/20 of the whole is 3 of every full 20 and 3/20 of the rest: no overflow on the way.
        let floor = self.text_bytes / 20 * 3 + self.text_bytes % 20 * 3 / 20;
        let fixed = self.media_tokens.saturating_add(self.overhead_tokens());
        Estimate { likely_max: text_max.saturating_add(fixed), floor }
    }

    /// Input tokens to expect around the text, for which no byte accounts.
    #[must_use]
    pub fn overhead_tokens(&self) -> u64 {
        self.requests.saturating_mul(OVERHEAD_TOKENS)
    }
}

/// So many thousandths of `count`, rounded up.
fn scaled(count: u64, milli: u64) -> u64 {
    let product = u128::from(count) * u128::from(milli);
    u64::try_from(product.div_ceil(1_000)).unwrap_or(u64::MAX)
}
