//! Error bodies, word for word those of the provider.

use serde_json::{Value, json};

use super::quota::{QuotaKind, Violation};

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) code: u16,
    status: &'static str,
    message: String,
    details: Vec<Value>,
}

impl Refusal {
    fn new(code: u16, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), details: Vec::new() }
    }

    /// The JSON body.
    pub(super) fn body(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "status": self.status});
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        json!({"error": error})
    }

    pub(super) fn no_key() -> Self {
        Self::new(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). \
             Please use API Key or other form of API consumer identity to call this API.",
        )
    }

    pub(super) fn leaked_key() -> Self {
        Self::new(403, "PERMISSION_DENIED", "Your API key was reported as leaked.")
    }

    pub(super) fn bad_key() -> Self {
        let message = "API key not valid. Please pass a valid API key.";
        let mut refusal = Self::new(400, "INVALID_ARGUMENT", message);
        refusal.details = vec![
            error_info("API_KEY_INVALID"),
            json!({
                "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
                "locale": "en-US",
                "message": message,
            }),
        ];
        refusal
    }

    pub(super) fn several_keys() -> Self {
        Self::new(
            400,
            "INVALID_ARGUMENT",
            "Multiple authentication credentials received. Please pass only one.",
        )
    }

    pub(super) fn bearer_token() -> Self {
        let mut refusal = Self::new(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login \
             cookie or other valid authentication credential. See \
             https://developers.google.com/identity/sign-in/web/devconsole-project.",
        );
        refusal.details = vec![error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED")];
        refusal
    }

    /// `resource` is the full name, such as `models/gemini-9`.
    pub(super) fn no_model(resource: &str, version: &str, verb: &str) -> Self {
        Self::new(
            404,
            "NOT_FOUND",
            format!(
                "{resource} is not found for API version {version}, or is not supported for \
                 {verb}. Call ListModels to see the list of available models and their supported \
                 methods."
            ),
        )
    }

    pub(super) fn no_path() -> Self {
        Self::new(404, "NOT_FOUND", "Requested entity was not found.")
    }

    /// A payload that breaks rules of meaning, such as contents that are missing.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }

    /// A payload that breaks rules of form; each violation is (path or "", description).
    pub(super) fn bad_payload(violations: &[(String, String)]) -> Self {
        let descriptions: Vec<&str> = violations.iter().map(|(_, text)| text.as_str()).collect();
        let mut refusal = Self::bad_request(descriptions.join("\n"));
        let violations: Vec<Value> = violations
            .iter()
            .map(|(field, description)| match field.as_str() {
                "" => json!({"description": description}),
                field => json!({"field": field, "description": description}),
            })
            .collect();
        refusal.details = vec![json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": violations,
        })];
        refusal
    }

    pub(super) fn internal() -> Self {
        Self::new(
            500,
            "INTERNAL",
            "An internal error has occurred. Please retry or report in \
             https://developers.generativeai.google/guide/troubleshooting",
        )
    }

    pub(super) fn unavailable() -> Self {
        Self::new(
            503,
            "UNAVAILABLE",
            "This model is currently experiencing high demand. Spikes in demand are usually \
             temporary. Please try again later.",
        )
    }

    /// A 429 that says nothing about any quota.
    pub(super) fn bare_429() -> Self {
        Self::new(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")
    }

    pub(super) fn billing() -> Self {
        Self::new(
            429,
            "RESOURCE_EXHAUSTED",
            "Your prepayment credits are depleted. Please go to AI Studio at \
             https://ai.studio/projects to manage your project and billing. Learn more at \
             https://ai.google.dev/gemini-api/docs/billing#prepay. ",
        )
    }

    /// The 429 of a quota. `wait_ns` is what the client is told to wait.
    pub(super) fn over_quota(
        model: &str,
        paid: bool,
        violations: &[Violation],
        wait_ns: u64,
    ) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for violation in violations {
            let metric = violation.kind.metric(paid);
            let limit = violation.limit;
            let line =
                format!("\n* Quota exceeded for metric: {metric}, limit: {limit}, model: {model}");
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let message = format!(
            "You exceeded your current quota, please check your plan and billing details. For more \
             information on this error, head to: {RATE_LIMITS_URL}. To monitor your current usage, \
             head to: https://ai.dev/rate-limit. {}\nPlease retry in {}.",
            lines.concat(),
            prose_duration(wait_ns),
        );
        let violations: Vec<Value> =
            violations.iter().map(|violation| violation_json(violation, paid, model)).collect();
        let mut refusal = Self::new(429, "RESOURCE_EXHAUSTED", message);
        refusal.details = vec![
            json!({
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [{
                    "description": "Learn more about Gemini API quotas",
                    "url": RATE_LIMITS_URL,
                }],
            }),
            json!({
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": violations,
            }),
            json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", wait_ns / 1_000_000_000),
            }),
        ];
        refusal
    }

    /// The daily 429 seen in 2026 whose short wait is false: the quota returns at midnight.
    pub(super) fn false_daily(model: &str, paid: bool, limit: u64) -> Self {
        let violation = Violation { kind: QuotaKind::RequestsPerDay, limit, wait_ms: 0 };
        Self::over_quota(model, paid, &[violation], 38_909_233_090)
    }
}

const RATE_LIMITS_URL: &str = "https://ai.google.dev/gemini-api/docs/rate-limits";

fn error_info(reason: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    })
}

fn violation_json(violation: &Violation, paid: bool, model: &str) -> Value {
    let mut json = json!({
        "quotaMetric": violation.kind.metric(paid),
        "quotaId": violation.kind.id(paid),
        "quotaDimensions": {"location": "global", "model": model},
    });
    // Zero fields are omitted on the wire.
    if violation.limit > 0 {
        json["quotaValue"] = json!(violation.limit.to_string());
    }
    json
}

/// A duration the way Go prints it: `19h21m10.92605059s`, `12.941102168s`, `812.5ms`.
fn prose_duration(ns: u64) -> String {
    if ns < 1_000_000_000 {
        return format!("{}ms", decimal(ns, 1_000_000, 6));
    }
    let minutes = ns / 60_000_000_000;
    let seconds = decimal(ns % 60_000_000_000, 1_000_000_000, 9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `number / unit` with up to `digits` decimals and no trailing zeros.
fn decimal(number: u64, unit: u64, digits: usize) -> String {
    let text = format!("{}.{:0digits$}", number / unit, number % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_the_captured_ones() {
        let cases = [
            (12_941_102_168, "12.941102168s"),
            (69_670_926_050_590, "19h21m10.92605059s"),
            (475_957_153_112, "7m55.957153112s"),
            (812_500_000, "812.5ms"),
            (3_600_000_000_000, "1h0m0s"),
            (38_909_233_090, "38.90923309s"),
            (0, "0ms"),
        ];
        for (ns, text) in cases {
            assert_eq!(prose_duration(ns), text);
        }
    }

    #[test]
    fn a_429_of_limit_zero_is_the_captured_one() {
        let violation = |kind| Violation { kind, limit: 0, wait_ms: 12_941 };
        let refusal = Refusal::over_quota(
            "gemini-2.0-flash",
            false,
            &[
                violation(QuotaKind::InputTokensPerMinute),
                violation(QuotaKind::RequestsPerMinute),
                violation(QuotaKind::RequestsPerDay),
            ],
            12_941_102_168,
        );
        let captured: Value =
            serde_json::from_str(include_str!("captured_429.json")).expect("the capture is JSON");
        assert_eq!(refusal.body(), captured);
    }

    #[test]
    fn a_paid_daily_429_is_the_captured_one() {
        let violation =
            Violation { kind: QuotaKind::RequestsPerDay, limit: 1_000, wait_ms: 72_193_257 };
        let body = Refusal::over_quota("m", true, &[violation], 72_193_257_628_674).body();
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.ends_with("Please retry in 20h3m13.257628674s."), "{message}");
        let details = &body["error"]["details"];
        assert_eq!(details[2]["retryDelay"], "72193s");
        let violation = &details[1]["violations"][0];
        assert_eq!(violation["quotaId"], "GenerateRequestsPerDayPerProjectPerModel");
        assert_eq!(violation["quotaValue"], "1000");
        assert_eq!(
            violation["quotaMetric"],
            "generativelanguage.googleapis.com/generate_requests_per_model_per_day"
        );
    }
}
