//! When files that nobody has submitted would be done.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::Api;
use super::problem::Problem;
use super::routes::{Answer, stopping};
use crate::caps;
use crate::clock;
use crate::engine::{Engine, run};
use crate::report::plan::{PlanBody, PlanError, PlanReport, plan};
use crate::telemetry::chain;

pub(super) async fn make_plan(
    State(api): State<Api>,
    body: Result<Json<PlanBody>, JsonRejection>,
) -> Answer<Json<PlanReport>> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let Json(body) = body.map_err(|error| bad(error.body_text()))?;
    if body.batches.len() > caps::PLAN_FILES_MAX {
        return Err(bad(format!("at most {} files are planned at once", caps::PLAN_FILES_MAX)));
    }
    let engine = api.copy().await?;
    let config = api.inner.desk.config();
    let made = plan(engine, api.inner.store.reader(), &config, body, clock::now()).await;
    made.map(Json).map_err(|error| {
        let status = match &error {
            PlanError::File { .. } | PlanError::Tier { .. } => StatusCode::BAD_REQUEST,
            PlanError::Store(_) | PlanError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, chain(&error))
    })
}

impl Api {
    /// A copy of the engine, which goes on meanwhile.
    pub(super) async fn copy(&self) -> Answer<Engine> {
        let (reply, answer) = oneshot::channel();
        let asked = self.inner.queries.send(run::Query::Copy(reply)).await;
        asked.map_err(|_| stopping())?;
        Ok(*answer.await.map_err(|_| stopping())?)
    }
}
