//! What is answered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::handler::Handler;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;

use super::Api;
use super::connection::OverTls;
use super::problem::Problem;
use super::submit::Peer;
use super::{control, elsewhere, keys, limits, plan, submit, why};
use crate::caps;
use crate::clock;
use crate::config::KEYSTORE_BYTES_MAX;
use crate::config::prices::Prices;
use crate::engine::{CANCELLED, Event};
use crate::engine::{export, run};
use crate::gate::units::UnixMs;
use crate::proxy;
use crate::report::batches::{BatchOut, BatchesReport};
use crate::report::query::UsageParams;
use crate::report::usage::{Terms, UsageReport, usage};
use crate::spool::Spool;
use crate::store::{Batch, BatchId, BatchState, StoreError};
use crate::telemetry::chain;

pub(super) type Answer<T> = Result<T, Problem>;

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/usage", get(get_usage))
        .route("/api/v1/limits", get(limits::get_limits).post(limits::set_limit))
        .route("/api/v1/limits/explain", get(limits::explain_limits))
        .route("/api/v1/limits/history", get(limits::limit_history))
        .route("/api/v1/keys", get(keys::get_keys))
        .route("/api/v1/keys/disable", post(keys::disable_key))
        .route("/api/v1/keys/enable", post(keys::enable_key))
        .route("/api/v1/keys/reload", post(keys::reload_keys))
        .route(
            "/api/v1/keys/import",
            post(keys::import_keys).layer(DefaultBodyLimit::max(KEYSTORE_BYTES_MAX + 1)),
        )
        .route(
            "/api/v1/batches",
            get(list_batches).post(submit::submit_batch.layer(DefaultBodyLimit::disable())),
        )
        .route("/api/v1/batches/{id}", get(show_batch))
        .route("/api/v1/batches/{id}/why", get(why::batch_why))
        .route("/api/v1/batches/{id}/results", get(batch_results))
        .route("/api/v1/batches/{id}/cancel", post(cancel_batch))
        .route("/api/v1/batches/{id}/pause", post(control::pause_batch))
        .route("/api/v1/batches/{id}/resume", post(control::resume_batch))
        .route("/api/v1/batches/{id}/priority", post(control::set_priority))
        .route("/api/v1/batches/{id}/retry", post(control::retry_batch))
        .route("/api/v1/attempts", get(list_attempts))
        .route("/api/v1/record", post(elsewhere::record))
        .route("/api/v1/leases", post(elsewhere::acquire))
        .route("/api/v1/leases/{id}/settle", post(elsewhere::settle))
        .route("/api/v1/pause", get(control::list_pauses).post(control::pause))
        .route("/api/v1/resume", post(control::resume))
        .route(
            "/api/v1/plan",
            post(plan::make_plan).layer(DefaultBodyLimit::max(caps::PLAN_BODY_MAX_BYTES)),
        )
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(caps::API_BODY_MAX_BYTES))
        .with_state(api)
}

/// What is no path of our own may be the provider's.
async fn nothing_here(State(api): State<Api>, request: Request) -> Response {
    let Some(target) = proxy::target(request.method().as_str(), request.uri().path()) else {
        let detail = "there is nothing at this path: see /api/v1/…";
        return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().and_then(|peer| peer.0.name());
    let is_secure = request.extensions().get::<OverTls>().is_some_and(|it| it.0);
    api.inner.proxy.serve(target, request, peer, is_secure).await
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path is asked with another method")
}

async fn healthz(State(api): State<Api>) -> Response {
    let config = api.inner.desk.config();
    let state_dir = &config.server.state_dir;
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"status": "ok", "version": version, "state_dir": state_dir})).into_response()
}

async fn readyz(State(api): State<Api>) -> Answer<Response> {
    let unready = |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    if !*api.inner.scanned.borrow() {
        return Err(unready("incoming/ has not been looked through yet".to_owned()));
    }
    let spool = api.inner.spool.clone();
    let writable = tokio::task::spawn_blocking(move || spool.writable()).await;
    let checked = writable.map_err(|error| unready(error.to_string()))?;
    checked.map_err(|error| unready(chain(&error)))?;
    api.inner.store.writable().await.map_err(|error| unready(chain(&error)))?;
    Ok(Json(json!({"status": "ready"})).into_response())
}

async fn get_usage(
    State(api): State<Api>,
    params: Result<Query<UsageParams>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<UsageReport>> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let Query(params) = params.map_err(|error| bad(error.body_text()))?;
    let now = clock::now();
    let query = params.read(now).map_err(|error| bad(chain(&error)))?;
    let terms = Terms::of(&api.inner.desk.config())
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let reader = api.inner.store.reader();
    Ok(Json(usage(reader, &query, &terms, Prices::shipped(), now).await?))
}

/// The newest rows of the ledger.
async fn list_attempts(
    State(api): State<Api>,
    params: Result<Query<ListParams>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<serde_json::Value>> {
    let Query(params) =
        params.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = params.limit.unwrap_or(100).clamp(1, caps::ATTEMPTS_LISTED);
    let attempts = api.inner.store.reader().attempts(limit).await?;
    Ok(Json(json!({"attempts": attempts})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    limit: Option<i64>,
}

async fn list_batches(
    State(api): State<Api>,
    params: Result<Query<ListParams>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<BatchesReport>> {
    let Query(params) =
        params.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = params.limit.unwrap_or(caps::BATCHES_LISTED).clamp(1, caps::BATCHES_LISTED);
    let batches = api.inner.store.reader().batches(limit).await?;
    let open = batches.iter().filter(|batch| batch.state == BatchState::Open);
    let mut why = api.why(open.map(|batch| batch.id).collect()).await;
    let shown = batches.iter().map(|batch| api.shown(batch, why.remove(&batch.id))).collect();
    Ok(Json(BatchesReport::new(shown, clock::now().wall)))
}

pub(super) async fn show_batch(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<BatchOut>> {
    let batch = api.find(&id).await?;
    let why = api.why(vec![batch.id]).await.remove(&batch.id);
    Ok(Json(api.shown(&batch, why)))
}

async fn cancel_batch(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<BatchOut>> {
    let batch = api.find(&id).await?;
    // In a task of its own: a client that leaves must not keep the engine from hearing of it.
    let (store, events, known) = (api.inner.store.clone(), api.inner.events.clone(), batch.id);
    let stopping_task = tokio::spawn(async move {
        store.stop_batch(known, CANCELLED.to_owned()).await?;
        let batch = store.reader().batch(known).await?;
        let cancelled = batch.stopped.as_deref() == Some(CANCELLED) && batch.finished_at.is_none();
        if cancelled {
            let reason = CANCELLED.to_owned();
            // The engine is gone only when the daemon ends; the next start goes on with it.
            let _ = events.send(Event::Stop { batch: known, reason, cancelled: true }).await;
        }
        Ok::<_, StoreError>(cancelled)
    });
    if !stopping_task.await.map_err(|_| stopping())?? {
        let state = batch.state.as_str();
        let detail = format!("batch {id} is {state} or was stopped already: nothing to cancel");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(Json(api.shown(&api.find(&id).await?, None)))
}

async fn batch_results(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    let batch = api.find(&id).await?;
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    let Some(path) = results_path(&api.inner.spool, &batch) else {
        let state = batch.state.as_str();
        return match batch.state {
            BatchState::Open => {
                let (reader, spool) = (api.inner.store.reader().clone(), api.inner.spool.clone());
                let mut told = export::so_far(reader, spool, batch);
                let pages = futures_util::stream::poll_fn(move |cx| told.poll_recv(cx));
                Ok((kind, axum::body::Body::from_stream(pages)).into_response())
            }
            BatchState::Importing
            | BatchState::Done
            | BatchState::Failed
            | BatchState::Cancelled
            | BatchState::Rejected => {
                let detail = format!("batch {id} is {state}: it has no results");
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
        };
    };
    let gone = |error| {
        let detail = format!("cannot read {}: {error}", path.display());
        Problem::new(StatusCode::GONE, detail)
    };
    let file = tokio::fs::File::open(&path).await.map_err(gone)?;
    let body = axum::body::Body::from_stream(ReaderStream::new(file));
    Ok((kind, body).into_response())
}

/// Where a finished batch's results are.
pub(crate) fn results_path(spool: &Spool, batch: &Batch) -> Option<PathBuf> {
    let finished =
        matches!(batch.state, BatchState::Done | BatchState::Failed | BatchState::Cancelled);
    finished.then(|| spool.results_path(export::outcome_of(batch), &batch.out_name))
}

pub(super) fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")
}

impl Api {
    pub(super) async fn find(&self, uid: &str) -> Answer<Batch> {
        let found = self.inner.store.reader().batch_by_uid(uid).await?;
        found.ok_or_else(|| {
            let detail = format!(
                "no batch {uid}: its file may still be in incoming/, or was rejected (see \
                rejected/)"
            );
            Problem::new(StatusCode::NOT_FOUND, detail)
        })
    }

    /// Why batches wait; nothing when the engine is ending.
    pub(super) async fn why(&self, batches: Vec<BatchId>) -> BTreeMap<BatchId, (UnixMs, String)> {
        let (reply, answer) = oneshot::channel();
        match self.inner.queries.send(run::Query::Why(batches, reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => BTreeMap::new(),
        }
    }

    pub(super) fn shown(&self, batch: &Batch, wait: Option<(UnixMs, String)>) -> BatchOut {
        let results = results_path(&self.inner.spool, batch);
        let open = batch.state == BatchState::Open;
        let eta = self.inner.board.eta(batch.id).filter(|_| open);
        BatchOut::new(batch, wait, results.as_deref()).with_eta(eta)
    }
}
