//! What a provider may answer.

use bytes::Bytes;

use crate::upstream::{
    NotSentKind, Outcome, QuotaSubject, QuotaViolation, QuotaWindow, Refusal, RefusalClass, Report,
    ThrottleKind, Usage,
};

/// An answer and its course, in milliseconds after the request was sent.
pub(super) struct Answer {
    pub(super) report: Report,
    pub(super) body_ms: Option<u64>,
    pub(super) headers_ms: Option<u64>,
    pub(super) ended_ms: u64,
}

impl Answer {
    /// The same answer, with a report of that many input tokens or, in one case of seven, none.
    pub(super) fn using(mut self, tokens: u64) -> Self {
        if let Outcome::Answered { usage, .. } = &mut self.report.outcome {
            *usage = usage.take().filter(|_| tokens % 7 != 3);
            if let Some(usage) = usage {
                usage.prompt = tokens;
            }
        }
        self
    }

    /// The same answer, by a clock that shows this Unix time in seconds.
    pub(super) fn dated(mut self, date_s: i64) -> Self {
        self.report.date_header = Some(date_s);
        self
    }

    /// The same answer, begun `ms` after the request was sent.
    pub(super) fn after(self, ms: u64) -> Self {
        let headers_ms = self.headers_ms.map(|_| ms);
        Self { headers_ms, ended_ms: ms + 10, ..self }
    }
}

fn answer(outcome: Outcome, status: Option<u16>) -> Answer {
    let sent = !matches!(outcome, Outcome::NotSent { .. });
    let report = Report {
        outcome,
        status,
        date_header: None,
        service_tier: None,
        request_id: None,
        stated: Vec::new(),
        body_sent: sent,
    };
    let headers_ms = status.map(|_| 200);
    Answer { report, body_ms: sent.then_some(20), headers_ms, ended_ms: 210 }
}

pub(super) fn ok() -> Answer {
    let usage = Usage {
        prompt: 1,
        cached: 0,
        candidates: 2,
        thoughts: 3,
        tool_use_prompt: 0,
        total: 6,
        raw: None,
    };
    let body = Bytes::from_static(b"{}");
    let outcome = Outcome::Answered { body, usage: Some(usage), blocked: None, images: 0 };
    answer(outcome, Some(200))
}

pub(super) fn refused(status: u16, class: RefusalClass) -> Answer {
    refused_after(status, class, None)
}

fn refused_after(status: u16, class: RefusalClass, retry_delay_ms: Option<u64>) -> Answer {
    let refusal = Refusal {
        status,
        class,
        message: format!("the provider says {status}"),
        grpc_status: None,
        quota: Vec::new(),
        retry_delay_ms,
        body: Bytes::new(),
    };
    answer(Outcome::Refused(refusal), Some(status))
}

pub(super) fn throttled(kind: ThrottleKind, retry_delay_ms: Option<u64>) -> Answer {
    refused_after(429, RefusalClass::Throttled(kind), retry_delay_ms)
}

/// A 429 that names a quota of requests a minute.
pub(super) fn minute_used_up(model: Option<&str>, value: Option<u64>) -> Answer {
    let mut answer = throttled(ThrottleKind::PerMinute, Some(1_000));
    if let Outcome::Refused(refusal) = &mut answer.report.outcome {
        refusal.quota.push(QuotaViolation {
            quota_id: "GenerateRequestsPerMinute".to_owned(),
            metric: "requests".to_owned(),
            model: model.map(str::to_owned),
            value,
            window: QuotaWindow::PerMinute,
            subject: QuotaSubject::Requests,
        });
    }
    answer
}

/// A 429 that names its quota.
pub(super) fn day_used_up(retry_delay_ms: u64) -> Answer {
    let mut answer = throttled(ThrottleKind::PerDay, Some(retry_delay_ms));
    if let Outcome::Refused(refusal) = &mut answer.report.outcome {
        refusal.quota.push(QuotaViolation {
            quota_id: "GenerateRequestsPerDay".to_owned(),
            metric: "requests".to_owned(),
            model: None,
            value: Some(250),
            window: QuotaWindow::PerDay,
            subject: QuotaSubject::Requests,
        });
    }
    answer
}

pub(super) fn overloaded() -> Answer {
    refused(503, RefusalClass::Server)
}

pub(super) fn bad_request() -> Answer {
    refused(400, RefusalClass::BadRequest)
}

pub(super) fn key_refused() -> Answer {
    refused(401, RefusalClass::KeyRefused)
}

pub(super) fn not_found() -> Answer {
    refused(404, RefusalClass::ModelNotFound)
}

pub(super) fn not_sent() -> Answer {
    let reason = "connection refused".to_owned();
    answer(Outcome::NotSent { reason, kind: NotSentKind::Connect }, None)
}

/// The connection broke after the request had left.
pub(super) fn cut_off() -> Answer {
    answer(Outcome::Unknown { reason: "the connection was reset".to_owned() }, None)
}
