//! `pace = "spread"`: a batch spread over the time that it has.

/// How long after one prompt of a batch the next one goes, in milliseconds, when `left` prompts are
/// spread over `time_ms` and the bucket's day lets at most `day_left` more go: the last one goes as
/// long before the end. 0 when there is no time left.
#[must_use]
pub fn spread_gap_ms(time_ms: u64, left: u64, day_left: Option<u64>) -> u64 {
    let prompts = day_left.map_or(left, |day_left| left.min(day_left));
    time_ms / prompts.saturating_add(1)
}
