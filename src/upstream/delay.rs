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

/// The wait in `Please retry in 19h21m10.92605059s.`, `Please try again in 20s.` or `Please retry
/// after 20 seconds.`, in milliseconds, rounded up.
pub(super) fn prose_delay_ms(message: &str) -> Option<u64> {
    const LEADS: [&str; 3] = ["retry in ", "try again in ", "retry after "];
    let (_, after) = LEADS.into_iter().find_map(|lead| message.split_once(lead))?;
    let mut words = after.split_whitespace().map(|word| word.trim_end_matches(['.', ',']));
    let word = words.next()?;
    duration_ms(word).or_else(|| match words.next()? {
        "second" | "seconds" => duration_ms(&format!("{word}s")),
        "minute" | "minutes" => duration_ms(&format!("{word}m")),
        _ => None,
    })
}

/// A header that asks for more than this is not about a limit.
const HEADER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What the headers of a refusal tell to wait, in milliseconds, each at most a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// `retry-after-ms`, else `retry-after`.
    pub(super) asked: Option<u64>,
    /// `x-ratelimit-reset-requests`: until all requests of the limit are there again.
    pub(super) requests: Option<u64>,
    /// `x-ratelimit-reset-tokens`: until all tokens of the limit are there again.
    pub(super) tokens: Option<u64>,
}

impl Waits {
    /// `header` finds a header's text; `date` is that of the answer, in Unix seconds, from which a
    /// date to wait for is counted.
    pub(super) fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, date: Option<i64>) -> Self {
        let within = |wait: u64| wait.min(HEADER_MS_MAX);
        let asked_ms = header("retry-after-ms").and_then(|ms| duration_ms(&format!("{ms}ms")));
        let asked = asked_ms.or_else(|| {
            let after = header("retry-after")?;
            duration_ms(&format!("{after}s")).or_else(|| {
                let until = chrono::DateTime::parse_from_rfc2822(after).ok()?.timestamp();
                u64::try_from(until - date?).ok()?.checked_mul(1_000)
            })
        });
        let reset = |name: &str| header(name).and_then(duration_ms).map(within);
        Self {
            asked: asked.map(within),
            requests: reset("x-ratelimit-reset-requests"),
            tokens: reset("x-ratelimit-reset-tokens"),
        }
    }
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
            ("(RPM): Limit 3, Used 3, Requested 1. Please try again in 20s. Visit", Some(20_000)),
            ("Please try again in 6ms. Contact us", Some(6)),
            ("Please try again in 7m12s.", Some(432_000)),
            ("Please retry after 20 seconds. Please go here", Some(20_000)),
            ("Please retry after 1 second.", Some(1_000)),
            ("Please retry after 2 minutes", Some(120_000)),
            ("Please retry after 2 moons", None),
            ("Please retry in a while.", None),
            ("Please retry in ", None),
            ("Please try again later.", None),
        ] {
            assert_eq!(prose_delay_ms(text), want, "{text:?}");
        }
    }

    #[test]
    fn waits_of_headers() {
        let date = Some(1_795_334_400); // 2026-11-22T08:00:00Z
        let read = |headers: &[(&str, &'static str)]| {
            let find = |name: &str| headers.iter().find(|(known, _)| *known == name);
            Waits::read(|name| find(name).map(|(_, text)| *text), date)
        };
        for (headers, want) in [
            (&[("retry-after", "20")][..], Some(20_000)),
            (&[("retry-after", "0.5")], Some(500)),
            (&[("retry-after", "20"), ("retry-after-ms", "812.5")], Some(813)),
            (&[("retry-after", "20"), ("retry-after-ms", "soon")], Some(20_000)),
            (&[("retry-after", "Sun, 22 Nov 2026 08:00:05 GMT")], Some(5_000)),
            (&[("retry-after", "Sun, 22 Nov 2026 07:00:00 GMT")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "9999999")], Some(HEADER_MS_MAX)),
            (&[], None),
        ] {
            assert_eq!(read(headers).asked, want, "{headers:?}");
        }
        let resets = [("x-ratelimit-reset-requests", "1s"), ("x-ratelimit-reset-tokens", "6m0s")];
        let want = Waits { asked: None, requests: Some(1_000), tokens: Some(360_000) };
        assert_eq!(read(&resets), want);
        let later = |name: &str| (name == "retry-after").then_some("Sun, 22 Nov 2026 08:00:05 GMT");
        assert_eq!(Waits::read(later, None), Waits::default());
    }
}
