//! What the benchmarks share: a clock, percentiles, and the rows that `cargo xtask bench` collects.
//! Nothing is asserted: both sides of a row come from one run, and their ratio is what counts.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Prints a row: what was measured, the figure, and what stands beside it in the same run.
pub(crate) fn row(what: &str, figure: &str, beside: &str) {
    println!("| {what} | {figure} | {beside} |");
}

/// The value below which `per_cent` of the values lie; 0 of none.
pub(crate) fn percentile(values: &mut [u64], per_cent: usize) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get(values.len() * per_cent / 100).or_else(|| values.get(last)).copied().unwrap_or(0)
}

/// How many a second.
pub(crate) fn rate(count: u64, time: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// `a` as a multiple of `b`.
pub(crate) fn ratio(a: u64, b: u64) -> String {
    let tenths = a.saturating_mul(10) / b.max(1);
    format!("{}.{}x", tenths / 10, tenths % 10)
}
