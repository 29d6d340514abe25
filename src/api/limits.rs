//! Limits: as they stand, what a request would need of them, and how they are changed.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Api;
use super::problem::Problem;
use super::routes::{Answer, stopping};
use crate::caps;
use crate::clock;
use crate::engine::desk::{Change, DeskError};
use crate::engine::{Question, run};
use crate::gate::units::Weights;
use crate::report::explain::{ExplainReport, explain};
use crate::report::limits::{HistoryReport, LimitsReport, history, limits};
use crate::telemetry::chain;

/// What `POST /api/v1/limits` takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLimitBody {
    pub(crate) project: String,
    /// `*` for what all models share.
    pub(crate) model: String,
    /// `rpm`, `tpm`, `rpd`, `tpd`, `ipm`, `spend` or `sessions`.
    pub(crate) dimension: String,
    /// A number, `none` or `off`; null takes back what was set and what was learned.
    pub(crate) value: Option<String>,
}

/// What `GET /api/v1/limits/explain` is asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainParams {
    pub(crate) project: String,
    pub(crate) model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) images: Option<u64>,
}

/// What `GET /api/v1/limits/history` is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParams {
    project: String,
}

pub(super) async fn get_limits(State(api): State<Api>) -> Answer<Json<LimitsReport>> {
    let (reply, answer) = oneshot::channel();
    let asked = api.inner.queries.send(run::Query::Buckets(reply)).await;
    asked.map_err(|_| stopping())?;
    let (buckets, projects) = answer.await.map_err(|_| stopping())?;
    Ok(Json(limits(buckets, projects, &api.inner.desk.config(), clock::now().wall)))
}

pub(super) async fn set_limit(
    State(api): State<Api>,
    body: Result<Json<SetLimitBody>, JsonRejection>,
) -> Answer<Json<LimitsReport>> {
    let Json(body) = body.map_err(|error| bad(error.body_text()))?;
    let SetLimitBody { project, model, dimension, value } = body;
    let change = Change { project, model, dimension, value };
    let desk = api.inner.desk.clone();
    // In a task of its own: a client that leaves must not leave a change half made.
    let change = tokio::spawn(async move { desk.set(change).await });
    change.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    get_limits(State(api)).await
}

pub(super) async fn explain_limits(
    State(api): State<Api>,
    params: Result<Query<ExplainParams>, QueryRejection>,
) -> Answer<Json<ExplainReport>> {
    let Query(params) = params.map_err(|error| bad(error.body_text()))?;
    let config = api.inner.desk.config();
    let Some(project) = config.project(&params.project) else {
        return Err(unknown(&format!("no project {}", params.project)));
    };
    let bucket =
        api.inner.desk.bucket(&params.project, &params.model).map_err(|why| unknown(&why))?;
    let need = Weights {
        requests: params.requests.unwrap_or(1),
        input_tokens: params.input_tokens.unwrap_or(0),
        images: params.images.unwrap_or(0),
        ..Weights::default()
    };
    let (reply, answer) = oneshot::channel();
    let question = Question { bucket, need };
    let asked = api.inner.queries.send(run::Query::Explain(question, reply)).await;
    asked.map_err(|_| stopping())?;
    let explained = answer.await.map_err(|_| stopping())?;
    let explained =
        explained.ok_or_else(|| unknown(&format!("{} has no quota here", params.model)))?;
    Ok(Json(explain(&params.project, &params.model, &project.day.zone, explained)))
}

pub(super) async fn limit_history(
    State(api): State<Api>,
    params: Result<Query<HistoryParams>, QueryRejection>,
) -> Answer<Json<HistoryReport>> {
    let Query(params) = params.map_err(|error| bad(error.body_text()))?;
    let Some(id) = api.inner.desk.project_id(&params.project) else {
        return Err(unknown(&format!("no project {}", params.project)));
    };
    let events = api.inner.store.reader().limit_events(id, caps::LIMIT_EVENTS_LISTED).await?;
    Ok(Json(history(&params.project, events, clock::now().wall)))
}

pub(super) fn refused(error: &DeskError) -> Problem {
    let status = match error {
        DeskError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        DeskError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        DeskError::Project { .. }
        | DeskError::Model { .. }
        | DeskError::NoBucket(_)
        | DeskError::Key { .. } => StatusCode::NOT_FOUND,
        DeskError::NotHeld { .. } | DeskError::Import(_) => StatusCode::CONFLICT,
        DeskError::Dimension(_)
        | DeskError::ModelId
        | DeskError::Setting { .. }
        | DeskError::AllOff
        | DeskError::NoProject
        | DeskError::Ambiguous { .. }
        | DeskError::Missing(_)
        | DeskError::Restart(_) => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, chain(error))
}

pub(super) fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn unknown(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail)
}
