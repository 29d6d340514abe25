//! The limits that OpenAI's providers tell with every answer.

use super::delay::duration_ms;
use super::{QuotaSubject, QuotaViolation, QuotaWindow};

/// The longest time that a limit of a minute takes until it is whole again, with some slack.
const MINUTE_MS: u64 = 61_000;

const DAY_MS: u64 = 86_400_000;

/// The limits in `x-ratelimit-limit-requests` and `x-ratelimit-limit-tokens`.
///
/// No header says over what a limit counts. The time until all of it is there again tells: more
/// than a minute is a day; and less is one too where what was taken so far would take a day to come
/// back at that pace.
pub(super) fn stated<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Vec<QuotaViolation> {
    let one = |what: &str, subject| {
        let number =
            |part: &str| header(&format!("x-ratelimit-{part}-{what}"))?.trim().parse::<u64>().ok();
        let value = number("limit").filter(|value| *value > 0)?;
        let reset = header(&format!("x-ratelimit-reset-{what}"));
        let reset = reset.and_then(|text| duration_ms(text.trim()));
        Some(QuotaViolation {
            quota_id: format!("x-ratelimit-limit-{what}"),
            metric: String::new(),
            model: None,
            value: Some(value),
            window: window(value, number("remaining"), reset),
            subject,
        })
    };
    let requests = one("requests", QuotaSubject::Requests);
    let tokens = one("tokens", QuotaSubject::InputTokens);
    requests.into_iter().chain(tokens).collect()
}

fn window(limit: u64, remaining: Option<u64>, reset_ms: Option<u64>) -> QuotaWindow {
    let Some(reset_ms) = reset_ms else { return QuotaWindow::PerMinute };
    let taken = remaining.map_or(0, |remaining| limit.saturating_sub(remaining));
    let whole = u128::from(reset_ms) * u128::from(limit);
    let whole = whole.checked_div(u128::from(taken)).unwrap_or(0);
    let about_a_day = whole.abs_diff(u128::from(DAY_MS)) <= u128::from(DAY_MS / 50);
    if reset_ms > MINUTE_MS || about_a_day { QuotaWindow::PerDay } else { QuotaWindow::PerMinute }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Vec<(u64, QuotaWindow, QuotaSubject)> {
        let find = |name: &str| {
            let header = headers.iter().find(|(known, _)| *known == name);
            header.map(|(_, text)| *text)
        };
        let of = |limit: QuotaViolation| (limit.value.unwrap_or(0), limit.window, limit.subject);
        stated(find).into_iter().map(of).collect()
    }

    #[test]
    fn the_time_until_all_is_back_tells_over_what_a_limit_counts() {
        let minute = read(&[
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-reset-requests", "12ms"),
            ("x-ratelimit-limit-tokens", "160000"),
            ("x-ratelimit-remaining-tokens", "159976"),
            ("x-ratelimit-reset-tokens", "9ms"),
        ]);
        let (requests, tokens) = (QuotaSubject::Requests, QuotaSubject::InputTokens);
        let want =
            [(5_000, QuotaWindow::PerMinute, requests), (160_000, QuotaWindow::PerMinute, tokens)];
        assert_eq!(minute, want);
        for (limit, remaining, reset) in [("200", "198", "14m24s"), ("10000", "9999", "8.64s")] {
            let day = read(&[
                ("x-ratelimit-limit-requests", limit),
                ("x-ratelimit-remaining-requests", remaining),
                ("x-ratelimit-reset-requests", reset),
            ]);
            assert_eq!(day[0].1, QuotaWindow::PerDay, "{limit}");
        }
        assert_eq!(read(&[("x-ratelimit-limit-tokens", "x")]), []);
        assert_eq!(read(&[("x-ratelimit-limit-requests", "0")]), []);
        let bare = read(&[("x-ratelimit-limit-requests", "30")]);
        assert_eq!(bare, [(30, QuotaWindow::PerMinute, requests)]);
    }
}
