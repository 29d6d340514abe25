//! What was used, summed from the ledger, and the seal of each quota day.

use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use crate::gate::units::UnixMs;

/// Which columns a report groups by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of columns, each in or out")]
pub struct GroupBy {
    /// The project.
    pub project: bool,
    /// The model.
    pub model: bool,
    /// The key's name.
    pub key: bool,
    /// The tenant.
    pub tenant: bool,
    /// The batch.
    pub batch: bool,
    /// The hour, UTC.
    pub hour: bool,
    /// The quota day of the project.
    pub day: bool,
}

/// Which attempts a report counts: reserved in `[since, until)`.
#[derive(Clone, Debug)]
pub struct UsageFilter {
    /// From.
    pub since: UnixMs,
    /// Up to, not included.
    pub until: UnixMs,
    /// Of this project only.
    pub project: Option<String>,
    /// Of this model only.
    pub model: Option<String>,
}

/// One row of sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the usage report")]
pub struct UsageRow {
    pub project: Option<String>,
    pub model: Option<String>,
    pub key: Option<String>,
    pub tenant: Option<String>,
    pub batch: Option<String>,
    pub hour_ms: Option<i64>,
    pub day: Option<String>,
    pub attempts: i64,
    /// Requests as quotas count them: some attempts count as several, some as none.
    pub requests: i64,
    pub ok: i64,
    pub failed: i64,
    pub throttled: i64,
    pub in_doubt: i64,
    pub open: i64,
    pub input_tokens: i64,
    pub cached_tokens: i64,
    pub output_tokens: i64,
    pub thought_tokens: i64,
    pub tool_tokens: i64,
    pub total_tokens: i64,
    pub images: i64,
}

/// Sums the attempts that match. Aborted ones, of which nothing was sent, are no requests.
pub(super) async fn usage(
    pool: &SqlitePool,
    by: GroupBy,
    filter: &UsageFilter,
    first: i64,
) -> Result<Vec<UsageRow>, StoreError> {
    let (since, until) = (filter.since.0, filter.until.0);
    let rows = sqlx::query!(
        r#"SELECT iif(?1, p.name, NULL) AS "project: String",
            iif(?2, a.model, NULL) AS "model: String",
            iif(?3, a.key_name, NULL) AS "key: String", iif(?4, a.tenant, NULL) AS "tenant: String",
            iif(?5, (SELECT uid FROM batch WHERE id = a.item_id >> 32), NULL) AS "batch: String",
            iif(?6, a.s_wall / 3600000, NULL) AS "hour: i64",
            iif(?7, a.day_lo, NULL) AS "day: String",
            count(*) AS "attempts!: i64",
            sum(coalesce(a.act_requests, a.est_requests)) AS "requests!: i64",
            sum(a.state = 1) AS "ok!: i64",
            sum(a.state = 2) AS "failed!: i64", sum(a.state = 3) AS "throttled!: i64",
            sum(a.state = 5) AS "in_doubt!: i64", sum(a.state = 0) AS "open!: i64",
            sum(a.prompt_tokens) AS "input!: i64", sum(a.cached_tokens) AS "cached!: i64",
            sum(a.output_tokens) AS "output!: i64", sum(a.thought_tokens) AS "thought!: i64",
            sum(a.tool_tokens) AS "tool!: i64", sum(a.total_tokens) AS "total!: i64",
            sum(coalesce(a.act_images, 0)) AS "images!: i64"
        FROM attempt AS a JOIN project AS p ON p.id = a.project_id
        WHERE a.id >= ?8 AND a.s_wall >= ?9 AND a.s_wall < ?10 AND a.state <> 4
            AND (?11 IS NULL OR p.name = ?11) AND (?12 IS NULL OR a.model = ?12)
        GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 7, 6, 1, 2, 3, 4, 5"#,
        by.project,
        by.model,
        by.key,
        by.tenant,
        by.batch,
        by.hour,
        by.day,
        first,
        since,
        until,
        filter.project,
        filter.model
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("summing usage"))?;
    Ok(rows
        .into_iter()
        .map(|row| UsageRow {
            project: row.project,
            model: row.model,
            key: row.key,
            tenant: row.tenant,
            batch: row.batch,
            hour_ms: row.hour.map(|hour| hour.saturating_mul(3_600_000)),
            day: row.day,
            attempts: row.attempts,
            requests: row.requests,
            ok: row.ok,
            failed: row.failed,
            throttled: row.throttled,
            in_doubt: row.in_doubt,
            open: row.open,
            input_tokens: row.input,
            cached_tokens: row.cached,
            output_tokens: row.output,
            thought_tokens: row.thought,
            tool_tokens: row.tool,
            total_tokens: row.total,
            images: row.images,
        })
        .collect())
}

/// Seals every day of a project before `today` that is not sealed yet, if no attempt of such a day
/// is open. Doing it twice, or late, changes nothing. Returns how many (day, model) sums were
/// written; `None` when an open attempt stands in the way.
pub(super) async fn seal_days(
    conn: &mut SqliteConnection,
    project_id: i64,
    today: &str,
    first: i64,
    now: UnixMs,
) -> Result<Option<u64>, StoreError> {
    let open = sqlx::query!(
        r#"SELECT EXISTS (SELECT 1 FROM attempt
            WHERE state = 0 AND project_id = ?1 AND day_lo < ?2) AS "open!: bool""#,
        project_id,
        today
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(StoreError::sql("looking for open attempts"))?;
    if open.open {
        return Ok(None);
    }
    let sealed = sqlx::query!(
        "INSERT INTO day_total (bucket_id, day, model, attempts, ok, failed, throttled, in_doubt,
            prompt_tokens, cached_tokens, output_tokens, thought_tokens, tool_tokens,
            total_tokens, images, sealed_at)
        SELECT bucket_id, day_lo, model, count(*), sum(state = 1), sum(state = 2),
            sum(state = 3), sum(state = 5), sum(prompt_tokens), sum(cached_tokens),
            sum(output_tokens), sum(thought_tokens), sum(tool_tokens), sum(total_tokens),
            sum(act_images), ?4
        FROM attempt
        WHERE id >= ?3 AND project_id = ?1 AND day_lo < ?2 AND state <> 4
            AND day_lo >= coalesce((SELECT sealed_before FROM project WHERE id = ?1), '')
        GROUP BY bucket_id, day_lo, model
        ON CONFLICT DO NOTHING",
        project_id,
        today,
        first,
        now.0
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("sealing a day"))?
    .rows_affected();
    sqlx::query!(
        "UPDATE project SET sealed_before = ?2
        WHERE id = ?1 AND (sealed_before IS NULL OR sealed_before < ?2)",
        project_id,
        today
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("noting a sealed day"))?;
    Ok(Some(sealed))
}

/// The day before which a project's days are sealed.
pub(super) async fn sealed_before(
    pool: &SqlitePool,
    project_id: i64,
) -> Result<Option<String>, StoreError> {
    let row = sqlx::query!("SELECT sealed_before FROM project WHERE id = ?1", project_id)
        .fetch_one(pool)
        .await
        .map_err(StoreError::sql("reading a project"))?;
    Ok(row.sealed_before)
}

/// A sealed sum.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the usage report")]
pub struct DayTotal {
    pub project: String,
    pub day: String,
    pub model: String,
    pub attempts: i64,
    pub ok: i64,
    pub total_tokens: i64,
}

/// Every sealed sum, oldest first.
pub(super) async fn day_totals(pool: &SqlitePool) -> Result<Vec<DayTotal>, StoreError> {
    let rows = sqlx::query!(
        "SELECT p.name AS project, d.day, d.model, d.attempts, d.ok, d.total_tokens
        FROM day_total AS d JOIN bucket AS b ON b.id = d.bucket_id
            JOIN project AS p ON p.id = b.project_id
        ORDER BY d.day, p.name, d.model"
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading sealed days"))?;
    Ok(rows
        .into_iter()
        .map(|row| DayTotal {
            project: row.project,
            day: row.day,
            model: row.model,
            attempts: row.attempts,
            ok: row.ok,
            total_tokens: row.total_tokens,
        })
        .collect())
}
