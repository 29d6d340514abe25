//! Waiting times as the provider writes them.

/// Names and nanoseconds of the units, longer names before their prefixes.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, micro sign
    ("μs", 1_000), // U+03BC, Greek mu
    ("ms", 1_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

const NANOS_PER_MS: u64 = 1_000_000;

/// Digits after the point that are read exactly; the provider writes nine at most.
const FRACTION_DIGITS_MAX: usize = 12;

/// Milliseconds, rounded up, of a duration such as `34.074824224s`, `19h21m10.9s` or `812.5ms`:
/// both Go's form and the JSON form of a protobuf `Duration`. None when it is neither, is negative
/// or lasts longer than 584 years.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut nanos: u64 = 0;
    loop {
        let (part, after) = component_nanos(rest)?;
        nanos = nanos.checked_add(part)?;
        if after.is_empty() {
            return Some(nanos.div_ceil(NANOS_PER_MS));
        }
        rest = after;
    }
}

/// The wait in `Please retry in 19h21m10.92605059s.`, in milliseconds, rounded up.
pub(super) fn prose_delay_ms(message: &str) -> Option<u64> {
    const LEAD: &str = "retry in ";
    let (_, after) = message.split_once(LEAD)?;
    let word = after.split_whitespace().next()?;
    duration_ms(word.trim_end_matches(['.', ',']))
}

/// The first number and unit of `text` in nanoseconds, rounded up, and what follows them.
fn component_nanos(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, rest) =
        UNITS.iter().find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole.checked_mul(unit)?.checked_add(fraction_nanos(fraction, unit))?;
    Some((nanos, rest))
}

/// `0.fraction` of `unit` nanoseconds, rounded up.
fn fraction_nanos(fraction: &str, unit: u64) -> u64 {
    let (kept, dropped) = fraction.split_at(fraction.len().min(FRACTION_DIGITS_MAX));
    let (mut numerator, mut denominator) = (0_u128, 1_u128);
    for digit in kept.bytes() {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    // Digits that are too small to matter still round up.
    if dropped.bytes().any(|digit| digit != b'0') {
        numerator += 1;
    }
    let nanos = (numerator * u128::from(unit)).div_ceil(denominator);
    u64::try_from(nanos).expect("at most one unit, and every unit fits")
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("12s", Some(12_000)),
            ("0s", Some(0)),
            ("34.074824224s", Some(34_075)),
            ("34.074000000s", Some(34_074)),
            ("72193s", Some(72_193_000)),
            ("19h21m10.92605059s", Some(69_670_927)),
            ("7m55.957153112s", Some(475_958)),
            ("812.5ms", Some(813)),
            ("1.5h", Some(5_400_000)),
            ("1h0m0.000000001s", Some(3_600_001)),
            ("15µs", Some(1)),
            ("15μs3ns", Some(1)),
            (".5s", Some(500)),
            ("0.00000000000000000000000000001s", Some(1)),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("-3s", None),
            ("12", None),
            ("s", None),
            (".s", None),
            ("12s ", None),
            ("12 s", None),
            ("12x", None),
            ("", None),
        ] {
            assert_eq!(duration_ms(text), want, "{text:?}");
        }
    }

    #[test]
    fn delays_in_prose() {
        for (text, want) in [
            ("limit: 0\nPlease retry in 12.941102168s.", Some(12_942)),
            ("Please retry in 19h56m12.087999701s. Thank you.", Some(71_772_088)),
            ("Please retry in 812.5ms", Some(813)),
            ("Please retry in a while.", None),
            ("Please retry in ", None),
            ("Please try again later.", None),
        ] {
            assert_eq!(prose_delay_ms(text), want, "{text:?}");
        }
    }
}
