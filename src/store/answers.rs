//! Answers until they are exported: where each results line stands.

use serde::Serialize;
use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use super::ledger::{count, to_json};
use super::queue::BatchId;
use crate::gate::units::UnixMs;

/// Rows deleted in one slice: they are neighbours, so it takes no longer than moving a few.
const CLEAR_SLICE: i64 = 5000;

/// What tells a line from another one: XXH3-64 of its bytes.
#[must_use]
pub fn line_hash(line: &[u8]) -> i64 {
    xxhash_rust::xxh3::xxh3_64(line).cast_signed()
}

/// Where a results line stands in `working/ID/answers` of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerAt {
    /// Of its first byte.
    pub offset: u64,
    /// Its length, newline included.
    pub bytes: u64,
    /// What [`line_hash`] says of it.
    pub hash: i64,
}

/// Keeps results lines that were made before any answer came.
pub(super) async fn insert_lines(
    conn: &mut SqliteConnection,
    lines: &[(i64, &String)],
) -> Result<(), StoreError> {
    let json = to_json(lines)?;
    sqlx::query!(
        "INSERT INTO answer (item_id, line)
        SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)",
        json
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("storing bad lines' results"))?;
    Ok(())
}

/// An item of the export, with its results line if it was given one.
#[derive(Clone, Debug)]
pub struct ExportItem {
    /// Its id.
    pub id: i64,
    /// Where its line starts.
    pub offset: u64,
    /// The line's length.
    pub bytes: u64,
    /// The `state` column.
    pub state: i64,
    /// Attempts whose fate is unknown.
    pub doubts: i64,
    /// Where its results line stands in the batch's answers, if it stands there.
    pub answer: Option<AnswerAt>,
    /// The results line, if it was made before any answer came.
    pub line: Option<String>,
}

macro_rules! export {
    ($pool:expr, $from:literal, $key:literal, $id:expr, $after:expr, $limit:expr) => {{
        let (first, end) = $id.range();
        let (after, limit) = ($after.max(first), $limit);
        let rows = sqlx::query!(
            r#"SELECT i.id, i.line_offset, i.line_bytes, i.state, i.doubts, a.line AS "line?",
                a.line_offset AS "at?", a.line_bytes AS "length?", a.line_hash AS "hash?" "#
                + $from
                + " WHERE "
                + $key
                + " > ?1 AND "
                + $key
                + " < ?2 ORDER BY "
                + $key
                + " LIMIT ?3",
            after,
            end,
            limit
        )
        .fetch_all($pool)
        .await
        .map_err(StoreError::sql("reading results"))?;
        rows.into_iter()
            .map(|row| {
                Ok(ExportItem {
                    id: row.id,
                    offset: count("item.line_offset", row.line_offset)?,
                    bytes: count("item.line_bytes", row.line_bytes)?,
                    state: row.state,
                    doubts: row.doubts,
                    answer: answer_at(row.at, row.length, row.hash)?,
                    line: row.line,
                })
            })
            .collect()
    }};
}

/// The next `limit` items of a batch after item `after`, in input order, with their results.
pub(super) async fn export(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
    limit: i64,
) -> Result<Vec<ExportItem>, StoreError> {
    export!(
        pool,
        "FROM item AS i LEFT JOIN answer AS a ON a.item_id = i.id",
        "i.id",
        id,
        after,
        limit
    )
}

/// The same of those items alone that have a results line.
pub(super) async fn answered(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
    limit: i64,
) -> Result<Vec<ExportItem>, StoreError> {
    export!(
        pool,
        "FROM answer AS a CROSS JOIN item AS i ON i.id = a.item_id",
        "a.item_id",
        id,
        after,
        limit
    )
}

fn answer_at(
    offset: Option<i64>,
    bytes: Option<i64>,
    hash: Option<i64>,
) -> Result<Option<AnswerAt>, StoreError> {
    let (Some(offset), Some(bytes), Some(hash)) = (offset, bytes, hash) else { return Ok(None) };
    Ok(Some(AnswerAt {
        offset: count("answer.line_offset", offset)?,
        bytes: count("answer.line_bytes", bytes)?,
        hash,
    }))
}

/// Where the committed answers of a batch end in its answers file: what stands behind is torn.
pub(super) async fn answers_end(pool: &SqlitePool, id: BatchId) -> Result<u64, StoreError> {
    let (first, end) = id.range();
    let row = sqlx::query_scalar!(
        r#"SELECT max(line_offset + line_bytes) AS "end: i64" FROM answer
        WHERE item_id >= ?1 AND item_id < ?2"#,
        first,
        end
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::sql("looking where answers end"))?;
    count("answer.line_offset", row.unwrap_or(0))
}

/// What of a batch is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clear {
    /// Everything: of a file that is imported anew, was rejected, or is not kept any more.
    All,
    /// What its results file says, and every item but the failed ones, which may be tried again.
    Ended,
}

/// Deletes one slice of a batch's answers or items. True when none is left.
pub(super) async fn clear_slice(
    conn: &mut SqliteConnection,
    id: BatchId,
    clear: Clear,
) -> Result<bool, StoreError> {
    let (first, end) = id.range();
    let all = clear == Clear::All;
    let answers = sqlx::query!(
        "DELETE FROM answer WHERE item_id IN
            (SELECT item_id FROM answer WHERE item_id >= ?1 AND item_id < ?2 LIMIT ?3)",
        first,
        end,
        CLEAR_SLICE
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("clearing answers"))?
    .rows_affected();
    if answers > 0 {
        return Ok(false);
    }
    let items = sqlx::query!(
        "DELETE FROM item WHERE id IN (SELECT id FROM item
            WHERE id >= ?1 AND id < ?2 AND (?4 OR state <> 2 OR bad = 1) LIMIT ?3)",
        first,
        end,
        CLEAR_SLICE,
        all
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("clearing items"))?
    .rows_affected();
    Ok(items < CLEAR_SLICE.unsigned_abs())
}

/// The finished batches of which more is left than what may be tried again.
pub(super) async fn finished_with_rows(pool: &SqlitePool) -> Result<Vec<BatchId>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id FROM batch WHERE state >= 2 AND (
            EXISTS (SELECT 1 FROM answer
                WHERE item_id >= batch.id << 32 AND item_id < (batch.id + 1) << 32)
            OR EXISTS (SELECT 1 FROM item
                WHERE item.id >= batch.id << 32 AND item.id < (batch.id + 1) << 32
                    AND (item.state <> 2 OR item.bad = 1)))"
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("looking for results left over"))?;
    Ok(rows.into_iter().map(|row| BatchId(row.id)).collect())
}

/// The batches that ended before `before` and of which items are left.
pub(super) async fn ended_before(
    pool: &SqlitePool,
    before: UnixMs,
) -> Result<Vec<BatchId>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id FROM batch WHERE finished_at < ?1 AND EXISTS (SELECT 1 FROM item
            WHERE item.id >= batch.id << 32 AND item.id < (batch.id + 1) << 32)",
        before.0
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("looking for old items"))?;
    Ok(rows.into_iter().map(|row| BatchId(row.id)).collect())
}
