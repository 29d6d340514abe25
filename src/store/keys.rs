//! How the keys of a project stand: set aside by the provider's no, disabled by a user.

use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use super::ledger::small;
use crate::gate::units::UnixMs;

/// How a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The project's row id.
    pub project_id: i64,
    /// What reports call it.
    pub name: String,
    /// Whether a user disabled it.
    pub disabled: bool,
    /// Until when it is set aside, and why.
    pub aside: Option<(UnixMs, String)>,
    /// Refusals one after another.
    pub refused: u32,
}

/// Keeps how a key stands with the provider.
pub(super) async fn keep(conn: &mut SqliteConnection, state: &KeyState) -> Result<(), StoreError> {
    let (until, reason) = state.aside.as_ref().map(|(until, why)| (until.0, why)).unzip();
    sqlx::query!(
        "INSERT INTO key_state (project_id, name, aside_until, reason, refused)
        VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT DO UPDATE SET aside_until = excluded.aside_until, reason = excluded.reason,
            refused = excluded.refused",
        state.project_id,
        state.name,
        until,
        reason,
        state.refused
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("keeping how a key stands"))?;
    Ok(())
}

/// Keeps that a user disabled a key, or enabled it.
pub(super) async fn disable(
    conn: &mut SqliteConnection,
    project_id: i64,
    name: &str,
    disabled: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO key_state (project_id, name, disabled) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET disabled = excluded.disabled",
        project_id,
        name,
        disabled
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("disabling a key"))?;
    Ok(())
}

/// Forgets the keys of a project that are none of these: another may get such a name.
pub(super) async fn keep_only(
    conn: &mut SqliteConnection,
    project_id: i64,
    names: &[String],
) -> Result<(), StoreError> {
    let rows = sqlx::query!("SELECT name FROM key_state WHERE project_id = ?1", project_id)
        .fetch_all(&mut *conn)
        .await
        .map_err(StoreError::sql("reading how keys stand"))?;
    for row in rows.into_iter().filter(|row| !names.contains(&row.name)) {
        sqlx::query!(
            "DELETE FROM key_state WHERE project_id = ?1 AND name = ?2",
            project_id,
            row.name
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("forgetting a key"))?;
    }
    Ok(())
}

/// How every key stood of which something is kept.
pub(super) async fn states(pool: &SqlitePool) -> Result<Vec<KeyState>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT project_id, name, disabled AS "disabled: bool", aside_until, reason, refused
        FROM key_state ORDER BY project_id, name"#
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading how keys stand"))?;
    rows.into_iter()
        .map(|row| {
            Ok(KeyState {
                project_id: row.project_id,
                name: row.name,
                disabled: row.disabled,
                aside: row.aside_until.map(|at| (UnixMs(at), row.reason.unwrap_or_default())),
                refused: small(row.refused)?,
            })
        })
        .collect()
}

/// The key of each project's newest attempt with an id of at least `first`.
pub(super) async fn last(pool: &SqlitePool, first: i64) -> Result<Vec<(i64, String)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT project_id AS "project_id!", key_name AS "key_name!", max(id) AS "id!: i64"
        FROM attempt WHERE id >= ?1 GROUP BY project_id"#,
        first
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading whose turn it is"))?;
    Ok(rows.into_iter().map(|row| (row.project_id, row.key_name)).collect())
}
