//! What users hold by hand.

use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use crate::gate::units::UnixMs;

/// A user's word that nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The project's name; `*` for all.
    pub project: String,
    /// The quota group; `*` for all of the project.
    pub group: String,
    /// Since when.
    pub at: UnixMs,
}

/// Notes a pause. Of one that was there, the beginning stays.
pub(super) async fn set(conn: &mut SqliteConnection, pause: &Pause) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO pause (project, quota_group, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        pause.project,
        pause.group,
        pause.at.0
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("noting a pause"))?;
    Ok(())
}

/// Takes back the pauses of a project and quota group, or with `*` of all, and says how many.
pub(super) async fn clear(
    conn: &mut SqliteConnection,
    project: &str,
    group: &str,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM pause WHERE (?1 = '*' OR project = ?1) AND (?2 = '*' OR quota_group = ?2)",
        project,
        group
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("taking back a pause"))?;
    Ok(done.rows_affected())
}

/// Every pause, by name.
pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<Pause>, StoreError> {
    let rows = sqlx::query!("SELECT project, quota_group, at FROM pause ORDER BY 1, 2")
        .fetch_all(pool)
        .await
        .map_err(StoreError::sql("reading pauses"))?;
    Ok(rows
        .into_iter()
        .map(|row| Pause { project: row.project, group: row.quota_group, at: UnixMs(row.at) })
        .collect())
}
