//! Keys: how they stand, and how they come, go, are disabled and enabled. Keys come in, in the
//! body of an import, and never go out.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Api;
use super::limits::{bad, get_limits, refused};
use super::problem::Problem;
use super::routes::{Answer, stopping};
use crate::clock;
use crate::config::{ImportReport, Keystore};
use crate::engine::run;
use crate::report::keys::{KeysReport, keys};
use crate::report::usage::Terms;
use crate::telemetry::chain;

/// What `POST /api/v1/keys/disable` and `…/enable` take.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwitchKeyBody {
    /// Whose; needed when several projects have a key of that name.
    pub(crate) project: Option<String>,
    pub(crate) name: String,
}

/// What `POST /api/v1/keys/import` is asked; the keystore is its body.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportParams {
    pub(crate) project: String,
    /// The keystore's entry; all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
}

pub(super) async fn get_keys(State(api): State<Api>) -> Answer<Json<KeysReport>> {
    let (reply, answer) = oneshot::channel();
    let asked = api.inner.queries.send(run::Query::Keys(reply)).await;
    asked.map_err(|_| stopping())?;
    let views = answer.await.map_err(|_| stopping())?;
    let Json(limits) = get_limits(State(api.clone())).await?;
    let config = api.inner.desk.config();
    let terms = Terms::of(&config)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)))?;
    let reader = api.inner.store.reader();
    Ok(Json(keys(Some(reader), &views, &limits, (&config, &terms), clock::now()).await?))
}

pub(super) async fn disable_key(
    State(api): State<Api>,
    body: Result<Json<SwitchKeyBody>, JsonRejection>,
) -> Answer<Json<KeysReport>> {
    switch(api, body, true).await
}

pub(super) async fn enable_key(
    State(api): State<Api>,
    body: Result<Json<SwitchKeyBody>, JsonRejection>,
) -> Answer<Json<KeysReport>> {
    switch(api, body, false).await
}

async fn switch(
    api: Api,
    body: Result<Json<SwitchKeyBody>, JsonRejection>,
    disabled: bool,
) -> Answer<Json<KeysReport>> {
    let Json(SwitchKeyBody { project, name }) = body.map_err(|error| bad(error.body_text()))?;
    let desk = api.inner.desk.clone();
    // In a task of its own: a client that leaves must not leave a change half made.
    let change =
        tokio::spawn(async move { desk.switch_key(project.as_deref(), &name, disabled).await });
    change.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    get_keys(State(api)).await
}

pub(super) async fn reload_keys(State(api): State<Api>) -> Answer<Json<KeysReport>> {
    let desk = api.inner.desk.clone();
    let change = tokio::spawn(async move { desk.reload_keys().await });
    change.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    get_keys(State(api)).await
}

pub(super) async fn import_keys(
    State(api): State<Api>,
    params: Result<Query<ImportParams>, QueryRejection>,
    keystore: Result<Bytes, BytesRejection>,
) -> Answer<Json<ImportReport>> {
    let Query(params) = params.map_err(|error| bad(error.body_text()))?;
    let keystore = keystore.map_err(|error| bad(error.body_text()))?;
    let keystore = Keystore::parse(&keystore, params.service.as_deref())
        .map_err(|error| bad(error.to_string()))?;
    let desk = api.inner.desk.clone();
    let change = tokio::spawn(async move { desk.import_keys(&params.project, keystore).await });
    let report = change.await.map_err(|_| stopping())?.map_err(|error| refused(&error))?;
    Ok(Json(report))
}
