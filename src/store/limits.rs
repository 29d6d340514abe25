//! Projects, models, quota groups and the limits in force.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use crate::gate::admit::BucketId;
use crate::gate::limits::{Limit, Window};
use crate::gate::units::UnixMs;

/// A project as the configuration has it, to be entered or brought up to date.
#[derive(Clone, Debug)]
pub struct ProjectSetup {
    /// Its name.
    pub name: String,
    /// Its quota groups, by name.
    pub groups: BTreeMap<String, GroupSetup>,
}

/// A quota group of a project.
#[derive(Clone, Debug, Default)]
pub struct GroupSetup {
    /// Every model id that counts in it.
    pub models: Vec<String>,
    /// Its limits.
    pub limits: Vec<Limit>,
}

/// The row ids of a project and its buckets.
#[derive(Clone, Debug)]
pub struct ProjectIds {
    /// The project's row id.
    pub id: i64,
    /// The bucket of each quota group.
    pub buckets: BTreeMap<String, BucketId>,
}

/// Enters a project, its buckets and models, and replaces its limits.
pub(super) async fn sync(
    conn: &mut SqliteConnection,
    project: &ProjectSetup,
    now: UnixMs,
) -> Result<ProjectIds, StoreError> {
    let name = &project.name;
    let row = sqlx::query!(
        r#"INSERT INTO project (name) VALUES (?1)
        ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id AS "id!: i64""#,
        name
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(StoreError::sql("entering a project"))?;
    let mut ids = ProjectIds { id: row.id, buckets: BTreeMap::new() };
    for (group, setup) in &project.groups {
        let bucket = sync_group(conn, row.id, group, setup, now).await?;
        ids.buckets.insert(group.clone(), bucket);
    }
    Ok(ids)
}

async fn sync_group(
    conn: &mut SqliteConnection,
    project_id: i64,
    group: &str,
    setup: &GroupSetup,
    now: UnixMs,
) -> Result<BucketId, StoreError> {
    let row = sqlx::query!(
        r#"INSERT INTO bucket (project_id, quota_group) VALUES (?1, ?2)
        ON CONFLICT (project_id, quota_group) DO UPDATE SET quota_group = excluded.quota_group
        RETURNING id AS "id!: i64""#,
        project_id,
        group
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(StoreError::sql("entering a bucket"))?;
    for model in &setup.models {
        sqlx::query!(
            "INSERT INTO model (project_id, name, bucket_id) VALUES (?1, ?2, ?3)
            ON CONFLICT (project_id, name) DO UPDATE SET bucket_id = excluded.bucket_id",
            project_id,
            model,
            row.id
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("entering a model"))?;
    }
    sqlx::query!("DELETE FROM quota_limit WHERE bucket_id = ?1", row.id)
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("replacing limits"))?;
    for limit in &setup.limits {
        let metric = limit.metric.as_str();
        let window = match limit.window {
            Window::Rolling { ms } => i64::try_from(ms).unwrap_or(i64::MAX),
            Window::Day => 0,
            Window::Concurrent => -1,
        };
        let value = i64::try_from(limit.value).unwrap_or(i64::MAX);
        let source = limit.source.to_string();
        sqlx::query!(
            "INSERT INTO quota_limit (bucket_id, metric, window_ms, value, source, set_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            row.id,
            metric,
            window,
            value,
            source,
            now.0
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("entering a limit"))?;
    }
    Ok(BucketId(row.id))
}

/// A model of the ledger, with its bucket.
#[derive(Clone, Debug)]
pub struct KnownModel {
    /// Whose.
    pub project: String,
    /// The project's row id.
    pub project_id: i64,
    /// The model id.
    pub model: String,
    /// Its quota group.
    pub quota_group: String,
    /// The bucket it counts in.
    pub bucket_id: BucketId,
}

/// Every model that was ever entered.
pub(super) async fn models(pool: &SqlitePool) -> Result<Vec<KnownModel>, StoreError> {
    let rows = sqlx::query!(
        "SELECT p.name AS project, p.id AS project_id, m.name AS model, b.quota_group, m.bucket_id
        FROM model AS m JOIN project AS p ON p.id = m.project_id
            JOIN bucket AS b ON b.id = m.bucket_id
        ORDER BY p.name, m.name"
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading models"))?;
    Ok(rows
        .into_iter()
        .map(|row| KnownModel {
            project: row.project,
            project_id: row.project_id,
            model: row.model,
            quota_group: row.quota_group,
            bucket_id: BucketId(row.bucket_id),
        })
        .collect())
}
