//! Projects, models and quota groups; what users set, and what was learned.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use crate::gate::admit::BucketId;
use crate::gate::units::UnixMs;

/// A project as the configuration has it, to be entered or brought up to date.
#[derive(Clone, Debug)]
pub struct ProjectSetup {
    /// Its name.
    pub name: String,
    /// Its quota groups by name, each with every model id that counts in it.
    pub groups: BTreeMap<String, Vec<String>>,
}

/// The row ids of a project and its buckets.
#[derive(Clone, Debug)]
pub struct ProjectIds {
    /// The project's row id.
    pub id: i64,
    /// The bucket of each quota group.
    pub buckets: BTreeMap<String, BucketId>,
}

/// Enters a project, its buckets and models.
pub(super) async fn sync(
    conn: &mut SqliteConnection,
    project: &ProjectSetup,
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
    for (group, models) in &project.groups {
        let bucket = sync_group(conn, row.id, group, models).await?;
        ids.buckets.insert(group.clone(), bucket);
    }
    Ok(ids)
}

async fn sync_group(
    conn: &mut SqliteConnection,
    project_id: i64,
    group: &str,
    models: &[String],
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
    for model in models {
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
    Ok(BucketId(row.id))
}

/// A limit that a user set while a daemon ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLimit {
    /// Whose.
    pub project: String,
    /// The quota group; `*` for what all models share.
    pub quota_group: String,
    /// `rpm`, `tpm` …
    pub dimension: String,
    /// A number, `none` or `off`.
    pub setting: String,
}

impl SetLimit {
    /// Project, quota group, dimension and setting.
    #[must_use]
    pub fn parts(&self) -> (&str, &str, &str, &str) {
        (&self.project, &self.quota_group, &self.dimension, &self.setting)
    }
}

/// A change of a limit, for its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitEvent {
    /// When.
    pub at: UnixMs,
    /// The project's row id.
    pub project_id: i64,
    /// The quota group; `*` for what all models share.
    pub quota_group: String,
    /// `rpm`, `tpm` …
    pub dimension: String,
    /// What was in force; none for no limit.
    pub was: Option<String>,
    /// What is said now; none for nothing.
    pub became: Option<String>,
    /// `learned` or `set`.
    pub source: String,
    /// The quota's id, or what a user did.
    pub reason: String,
}

/// Enters, or with `None` takes back, what a user sets.
pub(super) async fn set(
    conn: &mut SqliteConnection,
    event: &LimitEvent,
    setting: Option<&str>,
) -> Result<(), StoreError> {
    match setting {
        Some(setting) => sqlx::query!(
            "INSERT INTO limit_set (project_id, quota_group, dimension, setting, set_at)
            VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT DO UPDATE SET setting = excluded.setting, set_at = excluded.set_at",
            event.project_id,
            event.quota_group,
            event.dimension,
            setting,
            event.at.0
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("setting a limit"))?,
        None => sqlx::query!(
            "DELETE FROM limit_set
            WHERE project_id = ?1 AND quota_group = ?2 AND dimension = ?3",
            event.project_id,
            event.quota_group,
            event.dimension
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("taking back a limit"))?,
    };
    note(conn, event).await
}

async fn note(conn: &mut SqliteConnection, event: &LimitEvent) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO limit_event (at, project_id, quota_group, dimension, was, became, source,
            reason)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        event.at.0,
        event.project_id,
        event.quota_group,
        event.dimension,
        event.was,
        event.became,
        event.source,
        event.reason
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("noting a change of a limit"))?;
    Ok(())
}

/// Everything that users set.
pub(super) async fn sets(pool: &SqlitePool) -> Result<Vec<SetLimit>, StoreError> {
    sqlx::query_as!(
        SetLimit,
        "SELECT p.name AS project, s.quota_group, s.dimension, s.setting
        FROM limit_set AS s JOIN project AS p ON p.id = s.project_id
        ORDER BY p.name, s.quota_group, s.dimension"
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading what was set"))
}

/// The newest changes of a project's limits, newest first.
pub(super) async fn events(
    pool: &SqlitePool,
    project_id: i64,
    limit: i64,
) -> Result<Vec<LimitEvent>, StoreError> {
    let rows = sqlx::query!(
        "SELECT at, quota_group, dimension, was, became, source, reason FROM limit_event
        WHERE project_id = ?1 ORDER BY id DESC LIMIT ?2",
        project_id,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading the history of limits"))?;
    Ok(rows
        .into_iter()
        .map(|row| LimitEvent {
            at: UnixMs(row.at),
            project_id,
            quota_group: row.quota_group,
            dimension: row.dimension,
            was: row.was,
            became: row.became,
            source: row.source,
            reason: row.reason,
        })
        .collect())
}

/// What a bucket learned, and the changes of limits that came of it.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Which.
    pub bucket: BucketId,
    /// `gate::learn::Memory` as JSON.
    pub memory: String,
    /// When.
    pub at: UnixMs,
    /// What changed.
    pub events: Vec<LimitEvent>,
    /// The bucket in which its requests count from now on.
    pub counts_in: Option<BucketId>,
}

/// Keeps what a bucket has learned.
pub(super) async fn remember(
    conn: &mut SqliteConnection,
    learned: &Remembered,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO bucket_memory (bucket_id, memory, at) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET memory = excluded.memory, at = excluded.at",
        learned.bucket.0,
        learned.memory,
        learned.at.0
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("keeping what was learned"))?;
    if let Some(into) = learned.counts_in {
        sqlx::query!(
            "INSERT INTO bucket_alias (bucket_id, counts_in, at) VALUES (?1, ?2, ?3)
            ON CONFLICT DO UPDATE SET counts_in = excluded.counts_in, at = excluded.at",
            learned.bucket.0,
            into.0,
            learned.at.0
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("joining two buckets"))?;
    }
    for event in &learned.events {
        note(conn, event).await?;
    }
    Ok(())
}

/// What every bucket has learned, as JSON.
pub(super) async fn memories(pool: &SqlitePool) -> Result<Vec<(BucketId, String)>, StoreError> {
    let rows = sqlx::query!("SELECT bucket_id, memory FROM bucket_memory ORDER BY bucket_id")
        .fetch_all(pool)
        .await
        .map_err(StoreError::sql("reading what was learned"))?;
    Ok(rows.into_iter().map(|row| (BucketId(row.bucket_id), row.memory)).collect())
}

/// Which bucket counts in which other, in the order in which it was learned.
pub(super) async fn aliases(pool: &SqlitePool) -> Result<Vec<(BucketId, BucketId)>, StoreError> {
    let rows = sqlx::query!("SELECT bucket_id, counts_in FROM bucket_alias ORDER BY at, bucket_id")
        .fetch_all(pool)
        .await
        .map_err(StoreError::sql("reading joined buckets"))?;
    Ok(rows.into_iter().map(|row| (BucketId(row.bucket_id), BucketId(row.counts_in))).collect())
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
