//! Reading a refusal: which of the provider's many ways to say no this one is.

use bytes::Bytes;
use serde_json::Value;

use super::{QuotaSubject, QuotaViolation, QuotaWindow, Refusal, RefusalClass, ThrottleKind};
use super::{delay, delay::Waits, text};

mod openai;

const MESSAGE_BYTES_MAX: usize = 2 << 10;
const BODY_BYTES_MAX: usize = 64 << 10;
const QUOTA_MAX: usize = 64;
/// For every other string taken from a refusal.
const WORD_BYTES_MAX: usize = 256;

/// Reads the refusal that came with `status`. Total: any bytes give a `Refusal`, and what cannot
/// be read is classified by the status alone.
#[must_use]
pub fn classify(status: u16, body: &[u8]) -> Refusal {
    classify_with(status, body, Waits::default())
}

/// The same, with what the headers tell to wait.
pub(super) fn classify_with(status: u16, body: &[u8], waits: Waits) -> Refusal {
    let document = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = ErrorDocument::read(&document);
    let quota = error.violations();
    let class = error.class(status, &quota);
    Refusal {
        status,
        class,
        message: if error.message.is_empty() {
            format!("no readable message in a body of {} bytes", body.len())
        } else {
            text::bounded(error.message, MESSAGE_BYTES_MAX)
        },
        grpc_status: error.grpc_status.map(word),
        retry_delay_ms: error.retry_delay_ms(class, &quota, waits),
        quota,
        body: Bytes::copy_from_slice(&body[..body.len().min(BODY_BYTES_MAX)]),
    }
}

/// `{"error":{"message":…,"status":…,"details":[…]}}`, or an array with one of it; or OpenAI's
/// `{"error":{"message":…,"type":…,"param":…,"code":…}}`.
#[derive(Default)]
struct ErrorDocument<'a> {
    message: &'a str,
    /// What only OpenAI's documents have.
    openai: Option<openai::Words<'a>>,
    grpc_status: Option<&'a str>,
    details: &'a [Value],
}

impl<'a> ErrorDocument<'a> {
    fn read(document: &'a Value) -> Self {
        let error = match document.get("error").or_else(|| document.get(0)?.get("error")) {
            Some(Value::String(message)) => return Self { message, ..Self::default() },
            Some(error) => error,
            None => return Self::default(),
        };
        Self {
            message: error["message"].as_str().unwrap_or_default(),
            openai: openai::Words::read(error),
            grpc_status: error["status"].as_str(),
            details: error["details"].as_array().map_or(&[], Vec::as_slice),
        }
    }

    /// The details of one type; their order varies.
    fn details_of(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.details.iter().filter(move |detail| {
            detail["@type"]
                .as_str()
                .and_then(|name| name.rsplit('.').next())
                .is_some_and(|name| name == kind)
        })
    }

    fn class(&self, status: u16, quota: &[QuotaViolation]) -> RefusalClass {
        if let Some(words) = &self.openai {
            return words.class(status, self.message, quota);
        }
        let words = self.message.to_lowercase();
        let says = |text: &str| words.contains(text);
        let client_side = (400..500).contains(&status);
        if status == 402
            || client_side && (says("prepayment credits are depleted") || says("spending cap"))
        {
            return RefusalClass::Billing;
        }
        match status {
            400 if self.is_about_the_key()
                || says("api key not valid")
                || says("api key expired") =>
            {
                RefusalClass::KeyRefused
            }
            400 if self.grpc_status == Some("FAILED_PRECONDITION")
                && (says("location") || says("country")) =>
            {
                RefusalClass::Forbidden
            }
            400 | 411 | 413 | 414 | 415 | 422 | 431 => RefusalClass::BadRequest,
            401 => RefusalClass::KeyRefused,
            403 if self.is_about_the_key()
                || says("api key")
                || says("api_key")
                || says("unregistered callers") =>
            {
                RefusalClass::KeyRefused
            }
            403 => RefusalClass::Forbidden,
            404 => RefusalClass::ModelNotFound,
            408 | 499 | 500..=599 => RefusalClass::Server,
            429 => RefusalClass::Throttled(throttle(quota)),
            _ => RefusalClass::Other,
        }
    }

    /// Whether an `ErrorInfo` blames the key or the project behind it.
    fn is_about_the_key(&self) -> bool {
        self.details_of("ErrorInfo").filter_map(|info| info["reason"].as_str()).any(|reason| {
            reason.starts_with("API_KEY_")
                || reason.starts_with("ACCESS_TOKEN_")
                || ["CONSUMER_INVALID", "CONSUMER_SUSPENDED"].contains(&reason)
        })
    }

    /// The quotas of the details; without any, those of the prose.
    fn violations(&self) -> Vec<QuotaViolation> {
        if self.openai.is_some() {
            return openai::violation(self.message).into_iter().collect();
        }
        let prose: Vec<_> = self.message.lines().filter_map(ProseLimit::read).collect();
        let named: Vec<_> = self
            .details_of("QuotaFailure")
            .filter_map(|failure| failure["violations"].as_array())
            .flatten()
            .take(QUOTA_MAX)
            .map(|violation| read_violation(violation, &prose))
            .collect();
        if !named.is_empty() {
            return named;
        }
        prose.iter().take(QUOTA_MAX).map(ProseLimit::violation).collect()
    }

    /// The longest one: `RetryInfo` is nearly always the prose's value without its fraction, and
    /// coming back within that fraction is refused again. When a limit is whole again counts only
    /// where nothing else is said: that is later than necessary.
    fn retry_delay_ms(
        &self,
        class: RefusalClass,
        quota: &[QuotaViolation],
        waits: Waits,
    ) -> Option<u64> {
        let detail = self
            .details_of("RetryInfo")
            .filter_map(|info| delay::duration_ms(info["retryDelay"].as_str()?))
            .max();
        let asked = detail.max(delay::prose_delay_ms(self.message)).max(waits.asked);
        asked.or_else(|| match (class, quota.first()?.subject) {
            (RefusalClass::Throttled(_), QuotaSubject::Requests) => waits.requests,
            (RefusalClass::Throttled(_), QuotaSubject::InputTokens) => waits.tokens,
            (_, _) => None,
        })
    }
}

/// A zero never clears and a day outlasts a minute, whatever wait the provider asks for.
fn throttle(quota: &[QuotaViolation]) -> ThrottleKind {
    let any = |window| quota.iter().any(|violation| violation.window == window);
    if quota.iter().any(|violation| violation.value == Some(0)) {
        ThrottleKind::LimitZero
    } else if any(QuotaWindow::PerDay) {
        ThrottleKind::PerDay
    } else if any(QuotaWindow::PerMinute) {
        ThrottleKind::PerMinute
    } else {
        ThrottleKind::Unexplained
    }
}

fn read_violation(violation: &Value, prose: &[ProseLimit<'_>]) -> QuotaViolation {
    let quota_id = violation["quotaId"].as_str().unwrap_or_default();
    let metric = violation["quotaMetric"].as_str().unwrap_or_default();
    let model = violation["quotaDimensions"]["model"].as_str();
    let value = &violation["quotaValue"];
    let stated = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    QuotaViolation {
        quota_id: word(quota_id),
        metric: word(metric),
        model: model.map(word),
        value: stated.or_else(|| prose_value(metric, model, prose)),
        window: window(quota_id, metric),
        subject: subject(quota_id, metric),
    }
}

/// The limit that the prose gives for a quota whose value is omitted. Omitted means 0, so a 0
/// among several candidates is the one; other values must agree.
fn prose_value(metric: &str, model: Option<&str>, prose: &[ProseLimit<'_>]) -> Option<u64> {
    let is_same = |limit: &&ProseLimit<'_>| {
        limit.metric == metric && (limit.model.is_none() || model.is_none() || limit.model == model)
    };
    let mut values = prose.iter().filter(is_same).map(|limit| limit.value);
    let first = values.next()?;
    values.try_fold(first, |agreed, value| match (agreed, value) {
        (0, _) | (_, 0) => Some(0),
        (agreed, value) => (agreed == value).then_some(agreed),
    })
}

/// `Quota exceeded for metric: M, limit: 20, model: X`, one a line of the message.
struct ProseLimit<'a> {
    metric: &'a str,
    value: u64,
    model: Option<&'a str>,
}

impl<'a> ProseLimit<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once("Quota exceeded for metric: ")?;
        let mut fields = rest.split(", ");
        let metric = fields.next()?;
        let value = fields.next()?.strip_prefix("limit: ")?.trim_end().parse().ok()?;
        let model = fields.next().and_then(|field| field.strip_prefix("model: ")).map(str::trim);
        Some(Self { metric, value, model })
    }

    fn violation(&self) -> QuotaViolation {
        QuotaViolation {
            quota_id: String::new(),
            metric: word(self.metric),
            model: self.model.map(word),
            value: Some(self.value),
            window: window("", self.metric),
            subject: subject("", self.metric),
        }
    }
}

/// The id says it; some metrics (`…_per_model_per_day`) do too.
fn window(quota_id: &str, metric: &str) -> QuotaWindow {
    if quota_id.contains("PerDay") {
        QuotaWindow::PerDay
    } else if quota_id.contains("PerMinute") {
        QuotaWindow::PerMinute
    } else if metric.contains("per_day") {
        QuotaWindow::PerDay
    } else if metric.contains("per_minute") {
        QuotaWindow::PerMinute
    } else {
        QuotaWindow::Other
    }
}

fn subject(quota_id: &str, metric: &str) -> QuotaSubject {
    let says = |id: &str, name: &str| quota_id.contains(id) || metric.contains(name);
    if says("InputToken", "input_token") {
        QuotaSubject::InputTokens
    } else if says("Image", "image") {
        QuotaSubject::Images
    } else if says("Token", "token") {
        QuotaSubject::Other
    } else if says("Requests", "requests") {
        QuotaSubject::Requests
    } else {
        QuotaSubject::Other
    }
}

fn word(text: &str) -> String {
    text::bounded(text, WORD_BYTES_MAX)
}

#[cfg(test)]
mod tests;
