//! What is answered.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::Api;
use super::problem::Problem;

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(api)
}

async fn healthz(State(api): State<Api>) -> Response {
    let state_dir = &api.inner.config.server.state_dir;
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"status": "ok", "version": version, "state_dir": state_dir})).into_response()
}

async fn readyz(State(api): State<Api>) -> Response {
    if !*api.inner.scanned.borrow() {
        let detail = "incoming/ has not been looked through yet";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    }
    Json(json!({"status": "ready"})).into_response()
}
