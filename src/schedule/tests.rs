//! The order, the head and what may pass it, judged by `docs/scheduling.md`.

mod bench;
mod head;
mod order;
mod pool;
mod properties;
mod rest;

use bench::{A, B, Bench, Plan, rpd, rpm, tokens, tpm};

use super::{LineId, TenantId};

const MINUTE: u64 = 60_000;

/// The longest that a head waits in a minute's window: W, Δ and γ.
const WHOLE_WINDOW: u64 = 62_050;
