//! What users say of batches and quotas while they are worked at: pause, resume, sooner, again.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Api;
use super::limits::{bad, refused};
use super::problem::Problem;
use super::routes::{Answer, show_batch, stopping};
use crate::clock;
use crate::engine::Event;
use crate::engine::retry::{self, RetryError};
use crate::formats::Priority;
use crate::gate::units::UnixMs;
use crate::report::batches::{BatchOut, RetryOut};
use crate::report::pauses::PausesReport;
use crate::store::{Batch, BatchState, Pause, StoreError};
use crate::telemetry::chain;

/// Why a batch is paused.
const BY_HAND: &str = "paused by its user";

/// What `POST /api/v1/pause` and `/api/v1/resume` take.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldBody {
    /// All when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    /// All of the project when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
}

/// What `POST /api/v1/batches/ID/priority` takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriorityBody {
    /// `high`, `normal` or `low`.
    pub(crate) priority: String,
    /// When it should be done; as it was when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<DateTime<Utc>>,
}

pub(super) async fn pause_batch(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<BatchOut>> {
    hold_batch(&api, &id, Some(BY_HAND.to_owned())).await?;
    show_batch(State(api), Path(id)).await
}

pub(super) async fn resume_batch(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<BatchOut>> {
    hold_batch(&api, &id, None).await?;
    show_batch(State(api), Path(id)).await
}

async fn hold_batch(api: &Api, id: &str, reason: Option<String>) -> Answer<()> {
    let batch = api.find(id).await?;
    let store = api.inner.store.clone();
    let known = batch.id;
    change(api, &batch, async move {
        let done = store.pause_batch(known, reason).await?;
        // The row tells, for somebody else may have changed it meanwhile.
        let reason = store.reader().batch(known).await?.paused;
        Ok(done.then_some(Event::PauseBatch { batch: known, reason }))
    })
    .await
}

pub(super) async fn set_priority(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Result<Json<PriorityBody>, JsonRejection>,
) -> Answer<Json<BatchOut>> {
    let Json(body) = body.map_err(|error| bad(error.body_text()))?;
    let priority: Priority =
        body.priority.parse().map_err(|error: crate::formats::UnknownWord| {
            bad(format!("`priority` {error}, and not {:?}", body.priority))
        })?;
    let priority = priority.rank();
    let batch = api.find(&id).await?;
    let (store, known) = (api.inner.store.clone(), batch.id);
    let deadline = body.deadline.map(UnixMs::from);
    change(&api, &batch, async move {
        let done = store.reprioritise(known, priority, deadline).await?;
        let Batch { priority, deadline, .. } = store.reader().batch(known).await?;
        Ok(done.then_some(Event::Reprioritise { batch: known, priority, deadline }))
    })
    .await?;
    show_batch(State(api), Path(id)).await
}

/// Makes a change durable and tells the engine of it. In a task of its own: a client that leaves
/// must not keep the engine from hearing of it.
async fn change(
    api: &Api,
    batch: &Batch,
    write: impl Future<Output = Result<Option<Event>, StoreError>> + Send + 'static,
) -> Answer<()> {
    let (desk, events) = (api.inner.desk.clone(), api.inner.events.clone());
    let task = tokio::spawn(async move {
        // The engine hears of changes in the order in which they were made.
        let _turn = desk.turn().await;
        let Some(event) = write.await? else { return Ok(false) };
        // The engine is gone only when the daemon ends; the next start goes on with it.
        let _ = events.send(event).await;
        Ok::<_, StoreError>(true)
    });
    if task.await.map_err(|_| stopping())?? {
        return Ok(());
    }
    let state = api.inner.store.reader().batch(batch.id).await?.state.as_str();
    let detail = format!("batch {} is {state}: nothing of it is left to be sent", batch.uid);
    Err(Problem::new(StatusCode::CONFLICT, detail))
}

pub(super) async fn retry_batch(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<RetryOut>> {
    let batch = api.find(&id).await?;
    match batch.state {
        BatchState::Open => retry_open(&api, &batch).await.map(Json),
        BatchState::Done | BatchState::Failed | BatchState::Cancelled => {
            // In a task of its own: a client that leaves must not leave a file half written.
            let task = tokio::spawn(async move {
                let config = api.inner.desk.config();
                retry::again(api.inner.store.reader(), &api.inner.spool, &config, &batch).await
            });
            let again = task.await.map_err(|_| stopping())?.map_err(|error| not_again(&error))?;
            Ok(Json(RetryOut { id: again.id, of: id, items: again.items }))
        }
        BatchState::Importing | BatchState::Rejected => {
            let detail = format!("batch {id} is {}: it has no failed items", batch.state.as_str());
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
    }
}

async fn retry_open(api: &Api, batch: &Batch) -> Answer<RetryOut> {
    let (done, put_back) = oneshot::channel();
    let event = Event::RetryFailed { batch: batch.id, done };
    api.inner.events.send(event).await.map_err(|_| stopping())?;
    let items = put_back.await.map_err(|_| stopping())?;
    let items = items
        .map_err(|why| Problem::new(StatusCode::CONFLICT, format!("batch {}: {why}", batch.uid)))?;
    Ok(RetryOut { id: batch.uid.clone(), of: batch.uid.clone(), items })
}

fn not_again(error: &RetryError) -> Problem {
    let status = match error {
        RetryError::Nothing(_) => StatusCode::CONFLICT,
        RetryError::Gone { .. } => StatusCode::GONE,
        RetryError::Read { .. } | RetryError::Store(_) | RetryError::Spool(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Problem::new(status, chain(error))
}

pub(super) async fn list_pauses(State(api): State<Api>) -> Answer<Json<PausesReport>> {
    Ok(Json(report(api.inner.store.reader().pauses().await?)))
}

pub(super) async fn pause(
    State(api): State<Api>,
    body: Result<Json<HoldBody>, JsonRejection>,
) -> Answer<Json<PausesReport>> {
    let Json(HoldBody { project, model }) = body.map_err(|error| bad(error.body_text()))?;
    let desk = api.inner.desk.clone();
    let task = tokio::spawn(async move { desk.pause(project, model).await });
    let held = task.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    Ok(Json(report(held)))
}

pub(super) async fn resume(
    State(api): State<Api>,
    body: Result<Json<HoldBody>, JsonRejection>,
) -> Answer<Json<PausesReport>> {
    let Json(HoldBody { project, model }) = body.map_err(|error| bad(error.body_text()))?;
    let desk = api.inner.desk.clone();
    let task = tokio::spawn(async move { desk.resume(project, model).await });
    let held = task.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    Ok(Json(report(held)))
}

fn report(pauses: Vec<Pause>) -> PausesReport {
    PausesReport::new(pauses, clock::now().wall)
}
