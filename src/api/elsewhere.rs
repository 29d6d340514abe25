//! Traffic that does not pass through the daemon: what it used is recorded afterwards, or it asks
//! for a lease before and says at its end what it used. Both count in the same books.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::Api;
use super::limits::bad;
use super::problem::Problem;
use super::routes::{Answer, stopping};
use super::submit::Peer;
use crate::caps;
use crate::clock;
use crate::engine::Event;
use crate::engine::callers::{Admission, Caller, Why};
use crate::engine::estimate::Load;
use crate::engine::permit::Permit;
use crate::gate::units::{BootMs, UnixMs};
use crate::store::{Origin, Via};
use crate::upstream::{NotSentKind, Outcome, Report, Usage, classify};

/// A lease's time, unless it asks for another.
const TTL: Duration = Duration::from_mins(10);

/// Said of numbers that are larger than any of one request.
const NO_COUNT: &str = "that is no count of tokens of one request";

/// What a provider's answer said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Used {
    /// The HTTP status; 200 when there is none.
    status: Option<u16>,
    /// All input tokens, the cached ones included.
    input_tokens: u64,
    cached_tokens: u64,
    /// Output tokens without thoughts.
    output_tokens: u64,
    thought_tokens: u64,
    tool_tokens: u64,
    /// The sum, when there is none.
    total_tokens: Option<u64>,
    images: u64,
    /// What went wrong, if the status is no success: the provider's own document or words.
    error: Option<String>,
    /// Nothing was sent: it weighs nothing.
    not_sent: bool,
}

/// What `POST /api/v1/record` takes.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RecordBody {
    #[serde(flatten)]
    who: Who,
    /// Requests that it counted as; 1 when there is none.
    requests: Option<u64>,
    #[serde(flatten)]
    used: Used,
}

/// What `POST /api/v1/leases` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseBody {
    project: Option<String>,
    model: String,
    tenant: Option<String>,
    client: Option<String>,
    method: Option<String>,
    /// Requests that it counts as; 1 when there is none.
    requests: Option<u64>,
    /// Input tokens that it will take.
    #[serde(default)]
    input_tokens: u64,
    /// The most output tokens that it allows.
    output_tokens_max: Option<u64>,
    #[serde(default)]
    images: u64,
    /// How long to wait for room, such as `20s`; the proxy's default when there is none.
    max_wait: Option<String>,
    /// How long it is good for, such as `10m`.
    ttl: Option<String>,
}

/// Who sent a request.
#[derive(Clone, Debug, Deserialize)]
struct Who {
    project: Option<String>,
    model: String,
    tenant: Option<String>,
    client: Option<String>,
    method: Option<String>,
}

/// A lease that was granted.
#[derive(Debug, Serialize)]
struct LeaseOut {
    lease: Uuid,
    attempt: i64,
    project: String,
    model: String,
    /// The name of the key whose limits it counts in.
    key: String,
    waited_ms: u64,
    expires_at: DateTime<Utc>,
}

/// Leases that are open.
#[derive(Clone, Debug, Default)]
pub struct Leases(Arc<Mutex<BTreeMap<Uuid, Lease>>>);

#[derive(Debug)]
struct Lease {
    permit: Permit,
    expires: BootMs,
}

impl Lease {
    /// Nobody said what became of it.
    fn expire(self, reason: &str) {
        let outcome = Outcome::Unknown { reason: reason.to_owned() };
        let report = Report { body_sent: true, ..Report::of(outcome) };
        self.permit.end(report, None);
    }
}

impl Leases {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the leases whose time is over, and all of them when the daemon stops: nobody knows
    /// whether they were used, so they count in full.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = look.tick() => {}
                // Closed means the same as true.
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let now = clock::now().boot;
            let over: Vec<_> =
                self.open().extract_if(.., |_, lease| lease.expires <= now).collect();
            for (_, lease) in over {
                lease.expire("its lease ended, and nobody said what it used");
            }
        }
        for (_, lease) in std::mem::take(&mut *self.open()) {
            lease.expire("the daemon stopped before anybody said what it used");
        }
    }
}

/// Writes down a request that somebody else sent. It counts from now on, whatever room there is.
pub(super) async fn record(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<RecordBody>, JsonRejection>,
) -> Answer<Response> {
    let Json(RecordBody { who, requests, used }) = body.map_err(|error| bad(error.body_text()))?;
    let load = Load {
        counted: Some(used.input_tokens),
        output_tokens_max: Some(used.output_tokens.saturating_add(used.thought_tokens)),
        requests: requests.unwrap_or(1),
        images: used.images,
        ..Load::default()
    };
    let report = used.report()?;
    let asked = Asked { who, load, via: Via::Recorded, patience: Duration::ZERO };
    let permit = api.ask_for(asked, peer).await?;
    let id = permit.id.0;
    permit.end(report, None);
    Ok((StatusCode::CREATED, Json(json!({"attempt": id}))).into_response())
}

/// Waits for room for a request that the client will send by itself.
pub(super) async fn acquire(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<LeaseBody>, JsonRejection>,
) -> Answer<Response> {
    let Json(body) = body.map_err(|error| bad(error.body_text()))?;
    let time = |field: &str, text: Option<&str>, default: Duration| match text {
        None => Ok(default),
        Some("0") => Ok(Duration::ZERO),
        Some(text) => humantime::parse_duration(text)
            .map_err(|_| bad(format!("{field} is no time: write something like `20s`"))),
    };
    let config = api.inner.desk.config();
    let patience = time("max_wait", body.max_wait.as_deref(), config.proxy.max_wait)?;
    let patience = patience.min(Duration::from_millis(caps::CALL_WAIT_MAX_MS));
    let ttl = time("ttl", body.ttl.as_deref(), TTL)?;
    let ttl = ttl.clamp(Duration::from_secs(1), Duration::from_millis(caps::LEASE_MAX_MS));
    if api.inner.leases.open().len() >= caps::LEASES_MAX {
        let detail = format!("{} leases are open: settle them", caps::LEASES_MAX);
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    let load = Load {
        counted: Some(body.input_tokens),
        output_tokens_max: body.output_tokens_max,
        requests: body.requests.unwrap_or(1),
        images: body.images,
        ..Load::default()
    };
    let LeaseBody { project, model, tenant, client, method, .. } = body;
    let project = project.unwrap_or_else(|| config.defaults.project.clone());
    let who = Who { project: Some(project.clone()), model: model.clone(), tenant, client, method };
    let permit = api.ask_for(Asked { who, load, via: Via::Leased, patience }, peer).await?;
    let now = clock::now();
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let lease = Uuid::now_v7();
    let out = LeaseOut {
        lease,
        attempt: permit.id.0,
        project,
        model,
        key: permit.key_name.clone(),
        waited_ms: permit.waited_ms,
        expires_at: now.wall.plus(ttl_ms).to_utc(),
    };
    let expires = now.boot.plus(ttl_ms);
    api.inner.leases.open().insert(lease, Lease { permit, expires });
    Ok((StatusCode::CREATED, Json(out)).into_response())
}

/// Takes in what a leased request used.
pub(super) async fn settle(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    body: Result<Json<Used>, JsonRejection>,
) -> Answer<Response> {
    let Json(used) = body.map_err(|error| bad(error.body_text()))?;
    let report = used.report()?;
    let Some(lease) = api.inner.leases.open().remove(&id) else {
        let detail = "no such lease is open: its time is over, or it was settled before";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let attempt = lease.permit.id.0;
    lease.permit.end(report, None);
    Ok(Json(json!({"lease": id, "attempt": attempt})).into_response())
}

/// A request that goes elsewhere.
struct Asked {
    who: Who,
    load: Load,
    via: Via,
    patience: Duration,
}

impl Api {
    async fn ask_for(&self, asked: Asked, peer: Peer) -> Answer<Permit> {
        let Asked { who, load, via, patience } = asked;
        let counts = [load.counted.unwrap_or(0), load.requests, load.images];
        if counts.into_iter().any(|count| count > caps::RECORDED_TOKENS_MAX) {
            return Err(bad(NO_COUNT.to_owned()));
        }
        let desk = &self.inner.desk;
        let project = who.project.unwrap_or_else(|| desk.config().defaults.project.clone());
        let model = who.model.strip_prefix("models/").unwrap_or(&who.model).to_owned();
        let bucket = desk.bucket_of_call(&project, Some(&model)).await;
        let bucket =
            bucket.map_err(|detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))?;
        let since = clock::now().boot;
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let short = |text: String| text.chars().filter(|c| !c.is_control()).take(128).collect();
        let (reply, decided) = oneshot::channel();
        let caller = Caller {
            bucket,
            model,
            tenant: who.tenant.map_or_else(|| "proxy".to_owned(), short),
            origin: Origin {
                source: via,
                method: who.method.map(short),
                client: who.client.map(short),
                peer: peer.name(),
                waited_ms: None,
            },
            load: Some(load),
            bytes: 0,
            since,
            deadline: since.plus(patience),
            shadow: via == Via::Recorded,
            reply,
        };
        let told = self.inner.events.send(Event::Called(Box::new(caller))).await;
        told.map_err(|_| stopping())?;
        match decided.await.map_err(|_| stopping())? {
            Admission::Go(permit) => Ok(permit),
            Admission::No(turned) => {
                let at = turned.until.map_or_else(String::new, |at| format!("; at {at} it may"));
                let status = match turned.why {
                    Why::NoRoom => StatusCode::TOO_MANY_REQUESTS,
                    Why::TooLarge | Why::Off => StatusCode::UNPROCESSABLE_ENTITY,
                    Why::Crowded | Why::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                };
                let mut problem = Problem::new(status, format!("{}{at}", turned.reason));
                problem.retry_after_s = turned.until.map(|at| {
                    let now: UnixMs = clock::now().wall;
                    now.until(at).div_ceil(1_000)
                });
                Err(problem)
            }
        }
    }
}

impl Used {
    fn report(self) -> Answer<Report> {
        let status = self.status.unwrap_or(200);
        if !(100..=599).contains(&status) {
            return Err(bad(format!("{status} is no HTTP status")));
        }
        if self.not_sent {
            let reason = "the client did not send it".to_owned();
            return Ok(Report::not_sent(NotSentKind::Other, reason));
        }
        let sum = [self.input_tokens, self.output_tokens, self.thought_tokens, self.tool_tokens];
        let sum = sum.into_iter().fold(0, u64::saturating_add);
        let counts = [sum, self.total_tokens.unwrap_or(sum), self.cached_tokens, self.images];
        if counts.into_iter().any(|count| count > caps::RECORDED_TOKENS_MAX) {
            return Err(bad(NO_COUNT.to_owned()));
        }
        let usage = Usage {
            prompt: self.input_tokens,
            cached: self.cached_tokens,
            candidates: self.output_tokens,
            thoughts: self.thought_tokens,
            tool_use_prompt: self.tool_tokens,
            total: self.total_tokens.unwrap_or(sum),
            raw: None,
        };
        let outcome = if (200..300).contains(&status) {
            let usage = Some(usage).filter(|usage| usage.total > 0);
            Outcome::Answered { body: Bytes::new(), usage, blocked: None, images: self.images }
        } else {
            Outcome::Refused(classify(status, self.error.unwrap_or_default().as_bytes()))
        };
        Ok(Report { status: Some(status), body_sent: true, ..Report::of(outcome) })
    }
}
