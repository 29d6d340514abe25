//! A "no" of ours in the shape that the client's SDK knows.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::target::Dialect;
use crate::engine::callers::{TurnedAway, Why};
use crate::gate::units::UnixMs;

/// A refusal of the daemon's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The earliest instant at which it could go, with what the clock showed.
    pub(super) until: Option<(UnixMs, UnixMs)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), until: None }
    }

    /// What the engine said.
    pub(super) fn of(turned: TurnedAway, now: UnixMs) -> Self {
        let TurnedAway { why, reason, until } = turned;
        let at = until.map_or_else(String::new, |at| format!("; the earliest time is {at}"));
        let (status, message) = match why {
            Why::NoRoom => {
                (StatusCode::TOO_MANY_REQUESTS, format!("held as long as asked: {reason}{at}"))
            }
            Why::TooLarge => {
                (StatusCode::BAD_REQUEST, format!("larger than its limit allows: {reason}"))
            }
            Why::Off => (StatusCode::FORBIDDEN, reason),
            Why::Crowded => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}: try again later")),
            Why::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}{at}")),
        };
        Self { status, message, until: until.map(|until| (until, now)) }
    }

    /// The answer, in the dialect of the call. A wait is told by `Retry-After`, in whole seconds,
    /// and by Gemini's `RetryInfo` to the millisecond.
    pub(super) fn answer(self, dialect: Dialect) -> Response<Body> {
        let wait_ms = self.until.map(|(until, now)| now.until(until));
        let body = match dialect {
            Dialect::Gemini => self.gemini(wait_ms),
            Dialect::Compatible => json!([self.gemini(wait_ms)]),
            Dialect::Interactions => json!({
                "error": {"code": self.word_of_interactions(), "message": self.told()},
            }),
            Dialect::OpenAi => json!({"error": {
                "message": self.told(),
                "type": self.word_of_openai(),
                "param": null,
                "code": (self.status == StatusCode::TOO_MANY_REQUESTS)
                    .then_some("rate_limit_exceeded"),
            }}),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json; charset=UTF-8");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(wait_ms) = wait_ms {
            let seconds = HeaderValue::from(wait_ms.div_ceil(1_000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }

    /// The message as clients see it: who says no is in it.
    fn told(&self) -> String {
        format!("tidegate: {}", self.message)
    }

    fn gemini(&self, wait_ms: Option<u64>) -> Value {
        let mut details = vec![json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "TIDEGATE",
            "domain": "tidegate",
        })];
        if let Some(wait_ms) = wait_ms {
            let delay = format!("{}.{:03}s", wait_ms / 1_000, wait_ms % 1_000);
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": delay,
            }));
        }
        json!({"error": {
            "code": self.status.as_u16(),
            "message": self.told(),
            "status": self.grpc(),
            "details": details,
        }})
    }

    fn grpc(&self) -> &'static str {
        match self.status.as_u16() {
            400 | 413 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            501 => "UNIMPLEMENTED",
            503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "INTERNAL",
        }
    }

    fn word_of_openai(&self) -> &'static str {
        match self.status.as_u16() {
            400..=404 | 413 => "invalid_request_error",
            429 => "requests",
            _ => "server_error",
        }
    }

    fn word_of_interactions(&self) -> &'static str {
        match self.status.as_u16() {
            400 | 413 => "invalid_request",
            401 => "authentication",
            403 => "permission_denied",
            404 => "not_found",
            429 => "rate_limit_exceeded",
            _ => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    async fn document(dialect: Dialect, refused: Refused) -> (Response<()>, Value) {
        let (head, body) = refused.answer(dialect).into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap())
    }

    fn late() -> Refused {
        let turned = TurnedAway {
            why: Why::NoRoom,
            reason: "rpm: needs 1, 0 of 15 free".to_owned(),
            until: Some(UnixMs(12_345)),
        };
        Refused::of(turned, UnixMs(1_000))
    }

    #[tokio::test]
    async fn a_wait_is_told_to_the_millisecond() {
        let (head, body) = document(Dialect::Gemini, late()).await;
        assert_eq!(head.status(), 429);
        assert_eq!(head.headers()["retry-after"], "12");
        assert_eq!(body["error"]["status"], "RESOURCE_EXHAUSTED");
        assert_eq!(body["error"]["details"][1]["retryDelay"], "11.345s");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("1970-01-01T00:00:12"), "{message}");
    }

    #[tokio::test]
    async fn each_dialect_has_its_shape() {
        let (_, body) = document(Dialect::Compatible, late()).await;
        assert_eq!(body[0]["error"]["code"], 429);
        let (_, body) = document(Dialect::OpenAi, late()).await;
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        let (_, body) = document(Dialect::Interactions, late()).await;
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        let off = TurnedAway { why: Why::Off, reason: "off".to_owned(), until: None };
        let (head, body) = document(Dialect::OpenAi, Refused::of(off, UnixMs(0))).await;
        assert_eq!((head.status().as_u16(), head.headers().get("retry-after")), (403, None));
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }
}
