//! OpenAI's error documents, which many providers write alike.

use serde_json::Value;

use super::{
    QuotaSubject, QuotaViolation, QuotaWindow, RefusalClass, ThrottleKind, throttle, word,
};

/// What an error document of OpenAI says besides its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    kind: &'a str,
    code: &'a str,
}

impl<'a> Words<'a> {
    /// None when `error` is not of OpenAI's form, which has no `status`.
    pub(super) fn read(error: &'a Value) -> Option<Self> {
        let (kind, code) = (error["type"].as_str(), error["code"].as_str());
        let is_openai = kind.is_some() || code.is_some() || error.get("param").is_some();
        (is_openai && !error["status"].is_string())
            .then(|| Self { kind: kind.unwrap_or_default(), code: code.unwrap_or_default() })
    }

    /// What the refusal means. A 409 is tried again, as OpenAI's own clients do.
    pub(super) fn class(
        self,
        status: u16,
        message: &str,
        quota: &[QuotaViolation],
    ) -> RefusalClass {
        let is = |word: &str| self.kind == word || self.code == word;
        let is_about_money = is("insufficient_quota")
            || is("billing_hard_limit_reached")
            || is("billing_not_active")
            || is("insufficient_balance");
        match status {
            402 => RefusalClass::Billing,
            400..=499 if is_about_money => RefusalClass::Billing,
            400..=403 if is("invalid_api_key") => RefusalClass::KeyRefused,
            401 => RefusalClass::KeyRefused,
            400..=404 if is("model_not_found") => RefusalClass::ModelNotFound,
            404 => RefusalClass::ModelNotFound,
            403 => RefusalClass::Forbidden,
            408 | 409 | 499 | 500..=599 => RefusalClass::Server,
            // Larger than the whole limit: no wait makes it fit.
            429 if message.starts_with("Request too large") => RefusalClass::BadRequest,
            429 => RefusalClass::Throttled(self.interactions_quota().unwrap_or(throttle(quota))),
            400 | 411 | 413 | 414 | 415 | 422 | 431 => RefusalClass::BadRequest,
            _ => RefusalClass::Other,
        }
    }
}

impl Words<'_> {
    /// Gemini's interactions have OpenAI's form without a type, and a code for each window.
    fn interactions_quota(self) -> Option<ThrottleKind> {
        match self.code {
            "quota_exceeded" if self.kind.is_empty() => Some(ThrottleKind::PerDay),
            "rate_limit_exceeded" if self.kind.is_empty() => Some(ThrottleKind::PerMinute),
            _ => None,
        }
    }
}

/// How messages name limits.
const LIMITS: [(&str, QuotaSubject, QuotaWindow); 7] = [
    ("output tokens per ", QuotaSubject::Other, QuotaWindow::Other),
    ("requests per min", QuotaSubject::Requests, QuotaWindow::PerMinute),
    ("requests per day", QuotaSubject::Requests, QuotaWindow::PerDay),
    ("tokens per min", QuotaSubject::InputTokens, QuotaWindow::PerMinute),
    ("tokens per day", QuotaSubject::InputTokens, QuotaWindow::PerDay),
    ("images per min", QuotaSubject::Images, QuotaWindow::PerMinute),
    ("images per day", QuotaSubject::Images, QuotaWindow::PerDay),
];

/// The limit in `Rate limit reached for M in organization O on requests per min (RPM): Limit 3,
/// Used 3, Requested 1.` The older `… on requests per min. Limit: 3 / min.` is read as well.
pub(super) fn violation(message: &str) -> Option<QuotaViolation> {
    let lower = message.to_ascii_lowercase();
    let found = LIMITS.iter().filter_map(|limit| Some((lower.find(limit.0)?, limit)));
    let (at, (name, subject, window)) = found.min_by_key(|(at, _)| *at)?;
    let value = lower[at..].split_once("limit").and_then(|(_, rest)| {
        let digits = rest.trim_start_matches([':', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    });
    let before = &message[..at];
    let model =
        before.split_once(" for ").and_then(|(_, rest)| rest.split_once(" in organization"));
    Some(QuotaViolation {
        quota_id: String::new(),
        metric: (*name).trim_end().to_owned(),
        model: model.map(|(model, _)| word(model.trim_matches(['`', '"', ' ']))),
        value,
        window: *window,
        subject: *subject,
    })
}

#[cfg(test)]
mod tests;
