//! Seeded draws without state: the same seed and the same question give the same number, in
//! whatever order concurrent requests ask.

/// What a number is drawn for. Two purposes never share a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Phase of a fixed window.
    Phase,
    /// Latency of an answer.
    Latency,
    /// Share of the latency that passes before the request is counted.
    CountInstant,
    /// Fault of a model, by its probabilities.
    Fault,
    /// Digits below the millisecond in "Please retry in".
    Nanos,
    /// `responseId`.
    ResponseId,
    /// `x-request-id`.
    RequestId,
    /// Gaps between the requests of another client.
    External,
}

/// A uniform 64-bit number for `purpose` and `index`.
pub(super) fn draw(seed: u64, purpose: Purpose, index: u64) -> u64 {
    let salt = match purpose {
        Purpose::Phase => 1,
        Purpose::Latency => 2,
        Purpose::CountInstant => 3,
        Purpose::Fault => 4,
        Purpose::Nanos => 5,
        Purpose::ResponseId => 6,
        Purpose::External => 7,
        Purpose::RequestId => 8,
    };
    mix(mix(mix(seed).wrapping_add(salt)).wrapping_add(index))
}

/// A uniform number in `0..=max`.
pub(super) fn draw_up_to(seed: u64, purpose: Purpose, index: u64, max: u64) -> u64 {
    let number = draw(seed, purpose, index);
    max.checked_add(1).map_or(number, |choices| number % choices)
}

/// A uniform number in `[0, 1)`.
pub(super) fn draw_share(seed: u64, purpose: Purpose, index: u64) -> f64 {
    let high = u32::try_from(draw(seed, purpose, index) >> 32).unwrap_or(u32::MAX);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// An index for a name (FNV-1a).
pub(super) fn index_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of `SplitMix64`.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
