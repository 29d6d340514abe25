//! What holds a batch.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::Api;
use super::problem::Problem;
use super::routes::{Answer, stopping};
use crate::caps;
use crate::clock;
use crate::engine::text;
use crate::engine::why::RouteHoldup;
use crate::formats::{Family, Form};
use crate::report::explain::explain;
use crate::report::why::{HeadOut, RouteWhy, WhyReport, line_of};
use crate::spool::{Content, RecordReader, Role};
use crate::store::{Batch, BatchId, QueuedItem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyParams {
    item: Option<String>,
}

pub(super) async fn batch_why(
    State(api): State<Api>,
    Path(id): Path<String>,
    params: Result<Query<WhyParams>, QueryRejection>,
) -> Answer<Json<WhyReport>> {
    let Query(params) =
        params.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let batch = api.find(&id).await?;
    let item = match &params.item {
        Some(item) => Some(api.item(&batch, item).await?),
        None => None,
    };
    let mut engine = api.copy().await?;
    let item = match (item, engine.is_idle_at(batch.id)) {
        (None, true) => api.inner.store.reader().queued(batch.id, 0, 1).await?.pop(),
        (item, _) => item,
    };
    let now = clock::now();
    let Some(holdup) = engine.holdup(batch.id, item.as_ref(), now) else {
        let detail = format!("batch {id} is {}: nothing of it waits", batch.state.as_str());
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let mut routes = Vec::new();
    for route in holdup.routes {
        routes.push(api.route(route).await?);
    }
    let wait = api.why(vec![batch.id]).await.remove(&batch.id);
    Ok(Json(WhyReport {
        batch: api.shown(&batch, wait),
        line: holdup.item.map(line_of),
        under_way: holdup.under_way,
        hindrances: holdup.hindrances,
        routes,
    }))
}

impl Api {
    /// An item of a batch by the number of its line or by its key, if it still waits.
    async fn item(&self, batch: &Batch, named: &str) -> Answer<QueuedItem> {
        let line = if let Ok(line) = named.parse::<u32>() {
            Some(line)
        } else {
            let path = text::path_of(&self.inner.spool, batch);
            let (form, family) = (text::form_of(batch)?, text::file_of(batch).0);
            let key = named.to_owned();
            let find = move || line_with(path, (family, &form), &key);
            let found = tokio::task::spawn_blocking(find).await.map_err(|_| stopping())?;
            found.map_err(|error| {
                let detail = format!("cannot read the accepted file: {error}");
                Problem::new(StatusCode::GONE, detail)
            })?
        };
        let item = match line {
            Some(line) => {
                let id = batch.id.item(line);
                let queue = self.inner.store.reader().queued(batch.id, id - 1, 1).await?;
                queue.into_iter().find(|item| item.id == id)
            }
            None => None,
        };
        item.ok_or_else(|| {
            let detail = format!("no item {named} of batch {} waits", batch.uid);
            Problem::new(StatusCode::NOT_FOUND, detail)
        })
    }

    async fn route(&self, route: RouteHoldup) -> Answer<RouteWhy> {
        let config = self.inner.desk.config();
        let zone = config.project(&route.project).map_or("UTC", |project| &project.day.zone);
        let needs =
            route.explained.map(|explained| explain(&route.project, &route.model, zone, explained));
        let mut before = Vec::new();
        for batch in &route.ahead {
            before.push(self.uid(*batch).await?);
        }
        let head = match route.head {
            Some((batch, item, since)) => Some(HeadOut {
                batch: self.uid(batch).await?,
                line: line_of(item),
                since: since.to_utc(),
            }),
            None => None,
        };
        Ok(RouteWhy {
            needs,
            project: route.project,
            model: route.model,
            fallback: route.fallback,
            level: route.level,
            tenant_service_ppm: route.tenant_service_ppm,
            batches_before: u64::try_from(route.before).unwrap_or(u64::MAX),
            before,
            prompts_before: route.prompts_before,
            head,
        })
    }

    async fn uid(&self, batch: BatchId) -> Answer<String> {
        Ok(self.inner.store.reader().batch(batch).await?.uid)
    }
}

/// The number of the line whose item has this key.
fn line_with(
    path: PathBuf,
    (family, form): (Family, &Form),
    key: &str,
) -> std::io::Result<Option<u32>> {
    let file = BufReader::new(File::open(path)?);
    let mut records = RecordReader::new(file, family, caps::LINE_MAX_BYTES);
    while let Some(line) = records.next_record()? {
        if let Content::Bytes(bytes) = line.content
            && line.role == Role::Item
            && form.key_of(line.number, bytes) == key
        {
            return Ok(u32::try_from(line.number).ok());
        }
    }
    Ok(None)
}
