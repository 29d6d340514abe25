//! Error bodies, word for word those of the provider.

use serde_json::{Value, json};

use super::fault::FaultKind;
use super::limits::{Details, Model, QuotaValue};
use super::quota::{Method, QuotaKind, Violation};

/// How a 429 tells of a quota.
#[derive(Clone, Debug)]
pub(super) struct Wording {
    /// What it calls the quota's model.
    pub(super) model: String,
    paid: bool,
    method: Method,
    pub(super) value: QuotaValue,
    pub(super) details: Details,
    /// What is told to wait when a day is used up, in nanoseconds; the truth if none.
    pub(super) day_wait_ns: Option<u64>,
}

impl Wording {
    /// The wording for calls of `method`, as the limits file has it for `model`.
    pub(super) fn of(model: &Model, method: Method) -> Self {
        let day_wait = model.retry_delay.map(|wait| wait.as_nanos());
        Self {
            model: model.quota_name.clone().unwrap_or_else(|| model.name.clone()),
            paid: model.paid,
            method,
            value: model.quota_value,
            details: model.details,
            day_wait_ns: day_wait.map(|wait| u64::try_from(wait).unwrap_or(u64::MAX)),
        }
    }

    /// The limit that is told of.
    pub(super) fn limit(&self, violation: &Violation) -> u64 {
        match self.value {
            QuotaValue::True | QuotaValue::Omit => violation.limit,
            QuotaValue::Lie(limit) => limit,
        }
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) code: u16,
    status: &'static str,
    message: String,
    details: Vec<Value>,
    shape: Shape,
}

/// How a refusal is written.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// `{"error": …}`, as Gemini does.
    Google,
    /// The same alone in a list, as Gemini's OpenAI-compatible methods do.
    Listed,
    /// As OpenAI does.
    OpenAi(Box<Words>),
}

/// What an error of OpenAI says besides its message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words {
    pub(super) kind: &'static str,
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
    /// For the headers.
    pub(super) wait_ms: Option<u64>,
}

impl Refusal {
    fn new(code: u16, status: &'static str, message: impl Into<String>) -> Self {
        let (message, details) = (message.into(), Vec::new());
        Self { code, status, message, details, shape: Shape::Google }
    }

    /// A refusal of OpenAI.
    pub(super) fn openai(code: u16, message: impl Into<String>, words: Words) -> Self {
        let status = if code == 400 { "INVALID_ARGUMENT" } else { "" };
        Self { shape: Shape::OpenAi(Box::new(words)), ..Self::new(code, status, message) }
    }

    /// As Gemini's OpenAI-compatible methods tell it.
    pub(super) fn listed(self) -> Self {
        Self { shape: Shape::Listed, ..self }
    }

    /// What only a refusal of OpenAI has.
    pub(super) fn words(&self) -> Option<&Words> {
        match &self.shape {
            Shape::OpenAi(words) => Some(words),
            Shape::Google | Shape::Listed => None,
        }
    }

    /// The JSON body.
    pub(super) fn body(&self) -> Value {
        match &self.shape {
            Shape::Google => self.google_body(),
            Shape::Listed => json!([self.google_body()]),
            Shape::OpenAi(words) => json!({"error": {
                "message": self.message,
                "type": words.kind,
                "param": words.param,
                "code": words.code,
            }}),
        }
    }

    fn google_body(&self) -> Value {
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

    pub(super) fn permission_denied(message: &str) -> Self {
        Self::new(403, "PERMISSION_DENIED", message)
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

    /// The error that a fault answers instead of the work, but for a model that is gone; none for
    /// faults of the delivery.
    pub(super) fn of_fault(fault: FaultKind, model: &Model, method: Method) -> Option<Self> {
        match fault {
            FaultKind::Unavailable => Some(Self::unavailable()),
            FaultKind::Internal => Some(Self::internal()),
            FaultKind::BareQuota => Some(Self::bare_429()),
            FaultKind::DayQuota => Some(Self::false_daily(model, method)),
            FaultKind::Billing => Some(Self::billing()),
            FaultKind::NotFound
            | FaultKind::Cut
            | FaultKind::Truncate
            | FaultKind::Reset
            | FaultKind::Hang { .. }
            | FaultKind::NotJson
            | FaultKind::NoUsage
            | FaultKind::StreamError
            | FaultKind::StreamErrorRaw
            | FaultKind::Continuation => None,
        }
    }

    fn internal() -> Self {
        Self::new(
            500,
            "INTERNAL",
            "An internal error has occurred. Please retry or report in \
             https://developers.generativeai.google/guide/troubleshooting",
        )
    }

    /// The 503 of a model in demand.
    pub(super) fn unavailable() -> Self {
        Self::new(
            503,
            "UNAVAILABLE",
            "This model is currently experiencing high demand. Spikes in demand are usually \
             temporary. Please try again later.",
        )
    }

    /// A 429 that says nothing about any quota.
    fn bare_429() -> Self {
        Self::new(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")
    }

    fn billing() -> Self {
        Self::new(
            429,
            "RESOURCE_EXHAUSTED",
            "Your prepayment credits are depleted. Please go to AI Studio at \
             https://ai.studio/projects to manage your project and billing. Learn more at \
             https://ai.google.dev/gemini-api/docs/billing#prepay. ",
        )
    }

    /// The 429 of a quota. `wait_ns` is what the client has to wait.
    pub(super) fn over_quota(wording: &Wording, violations: &[Violation], wait_ns: u64) -> Self {
        if wording.details == Details::None {
            return Self::bare_429();
        }
        let is_daily = violations.iter().any(|violation| violation.kind.is_daily());
        let wait_ns = wording.day_wait_ns.filter(|_| is_daily).unwrap_or(wait_ns);
        let model = &wording.model;
        let mut lines: Vec<String> = Vec::new();
        for violation in violations {
            let metric = violation.kind.metric(wording.paid, wording.method);
            let limit = wording.limit(violation);
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
        let mut refusal = Self::new(429, "RESOURCE_EXHAUSTED", message);
        if wording.details == Details::Prose {
            return refusal;
        }
        let violations: Vec<Value> =
            violations.iter().map(|violation| violation_json(violation, wording)).collect();
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
    fn false_daily(model: &Model, method: Method) -> Self {
        let limit = model.rpd.unwrap_or(20);
        let violation = Violation { kind: QuotaKind::RequestsPerDay, limit, wait_ms: 0 };
        Self::over_quota(&Wording::of(model, method), &[violation], 38_909_233_090)
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

fn violation_json(violation: &Violation, wording: &Wording) -> Value {
    let Wording { model, paid, method, value, .. } = wording;
    let mut json = json!({
        "quotaMetric": violation.kind.metric(*paid, *method),
        "quotaId": violation.kind.id(*paid, *method),
        "quotaDimensions": {"location": "global", "model": model},
    });
    // Zero fields are omitted on the wire.
    let limit = wording.limit(violation);
    if limit > 0 && *value != QuotaValue::Omit {
        json["quotaValue"] = json!(limit.to_string());
    }
    json
}

/// A duration the way Go prints it: `19h21m10.92605059s`, `12.941102168s`, `812.5ms`.
pub(super) fn prose_duration(ns: u64) -> String {
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

    fn wording(model: &str) -> Wording {
        Wording::of(&toml::from_str(model).expect("a model"), Method::Generate)
    }

    fn told(model: &str, kind: QuotaKind) -> (String, Value) {
        let violation = Violation { kind, limit: 250, wait_ms: 0 };
        let model = format!("name = \"gemini-3.1-pro-preview\"\n{model}");
        let wording = wording(&model);
        let error = Refusal::over_quota(&wording, &[violation], 45_811_974_541).body();
        let error = error["error"].clone();
        (error["message"].as_str().unwrap_or_default().to_owned(), error["details"].clone())
    }

    #[test]
    fn a_429_says_what_its_knobs_let_it_say() {
        let minute = QuotaKind::RequestsPerMinute;
        let value = |details: &Value| details[1]["violations"][0]["quotaValue"].clone();

        let (message, details) = told("quota_value = \"omit\"", minute);
        assert!(message.contains("limit: 250, model: gemini-3.1-pro-preview\n"), "{message}");
        assert_eq!(value(&details), Value::Null);
        let (message, details) = told("quota_value = 9", minute);
        assert!(message.contains("limit: 9, "), "{message}");
        assert_eq!(value(&details), "9");
        assert_eq!(value(&told("quota_value = true", minute).1), "250");

        let (message, details) = told("quota_model = \"gemini-3.1-pro\"", minute);
        assert!(message.contains("model: gemini-3.1-pro\n"), "{message}");
        assert_eq!(details[1]["violations"][0]["quotaDimensions"]["model"], "gemini-3.1-pro");

        let (message, details) = told("details = \"prose\"", minute);
        assert!(message.ends_with("Please retry in 45.811974541s."), "{message}");
        assert_eq!(details, Value::Null);
        let (message, details) = told("details = \"none\"", minute);
        assert_eq!(message, "Resource has been exhausted (e.g. check quota).");
        assert_eq!(details, Value::Null);
    }

    #[test]
    fn a_false_delay_is_told_of_days_alone() {
        let knob = "retry_delay = \"22s\"";
        let (message, details) = told(knob, QuotaKind::InputTokensPerDay);
        assert!(message.ends_with("Please retry in 22s."), "{message}");
        assert_eq!(details[2]["retryDelay"], "22s");
        let (_, details) = told(knob, QuotaKind::InputTokensPerMinute);
        assert_eq!(details[2]["retryDelay"], "45s");
        let (_, details) = told("retry_delay = \"true\"", QuotaKind::RequestsPerDay);
        assert_eq!(details[2]["retryDelay"], "45s");
    }

    #[test]
    fn a_429_of_limit_zero_is_the_captured_one() {
        let violation = |kind| Violation { kind, limit: 0, wait_ms: 12_941 };
        let refusal = Refusal::over_quota(
            &wording("name = \"gemini-2.0-flash\""),
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
        let wording = wording("name = \"m\"\npaid = true");
        let body = Refusal::over_quota(&wording, &[violation], 72_193_257_628_674).body();
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
