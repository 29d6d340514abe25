//! Items: the durable queue, and the answers until they are exported.

use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::{SqliteConnection, SqlitePool};

use super::answers::insert_lines;
use super::error::StoreError;
use super::ledger::{TextWeight, count, text_weight, to_json};
use super::queue::BatchId;
use crate::gate::units::UnixMs;

/// Items moved in one slice of the bulk lane: a few milliseconds.
const SLICE: i64 = 1000;

/// An item to be entered.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// Its id, by [`BatchId::item`].
    pub id: i64,
    /// Where its line starts in the accepted file.
    pub offset: u64,
    /// The line's length.
    pub bytes: u64,
    /// What [`super::line_hash`] says of the line.
    pub hash: i64,
    /// Requests to reserve.
    pub requests: u64,
    /// Input tokens to reserve.
    pub tokens: u64,
    /// Images to reserve.
    pub images: u64,
    /// What the input tokens were estimated from.
    pub text: Option<TextWeight>,
    /// The most output that the request allows.
    pub output_tokens_max: Option<u64>,
    /// 0 queued, or 2 for a bad line that is answered by `line`.
    pub state: u8,
    /// The results line of a bad line.
    pub line: Option<String>,
}

/// As a list, in the order of the columns below: a name for each number would be most of the text.
impl Serialize for NewItem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text;
        (
            (self.id, self.offset, self.bytes, self.hash, self.tokens, self.images, self.state),
            text.map(|text| text.text_bytes),
            text.map(|text| text.media_tokens),
            text.map(|text| text.kind),
            self.output_tokens_max,
            self.requests,
        )
            .serialize(serializer)
    }
}

/// An item that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedItem {
    /// Its id.
    pub id: i64,
    /// Where its line stands in the accepted file.
    pub offset: u64,
    /// The line's length in bytes.
    pub bytes: u64,
    /// What [`super::line_hash`] says of the line, if it was noted.
    pub hash: Option<i64>,
    /// Requests to reserve.
    pub requests: u64,
    /// Input tokens to reserve.
    pub input_tokens: u64,
    /// Images to reserve.
    pub images: u64,
    /// What the input tokens were estimated from.
    pub text: Option<TextWeight>,
    /// The most output that the request allows.
    pub output_tokens_max: Option<u64>,
    /// Attempts that failed on their own account.
    pub attempts: u32,
    /// Attempts whose fate is unknown.
    pub doubts: u32,
    /// Not to be sent before this.
    pub not_before: UnixMs,
}

pub(super) async fn insert_items(
    conn: &mut SqliteConnection,
    rows: &[NewItem],
) -> Result<(), StoreError> {
    let json = to_json(rows)?;
    sqlx::query!(
        "INSERT INTO item (id, line_offset, line_bytes, line_hash, est_input_tokens, est_images,
            state, bad, text_bytes, media_tokens, kind, output_tokens_max, est_requests)
        SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]',
            value ->> '$[0][3]', value ->> '$[0][4]', value ->> '$[0][5]', value ->> '$[0][6]',
            value ->> '$[0][6]' = 2, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
            value ->> 5
        FROM jsonb_each(?1)",
        json
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("importing items"))?;
    let bad: Vec<_> = rows.iter().filter_map(|row| Some((row.id, row.line.as_ref()?))).collect();
    if bad.is_empty() { Ok(()) } else { insert_lines(conn, &bad).await }
}

/// Turns queued items of a batch that is still imported into bad lines, which are answered so.
/// Those that are bad already stay as they are.
pub(super) async fn mark_bad(
    conn: &mut SqliteConnection,
    bad: &[(i64, String)],
) -> Result<(), StoreError> {
    let ids: Vec<_> = bad.iter().map(|(id, _)| id).collect();
    let json = to_json(&ids)?;
    let marked = sqlx::query!(
        r#"UPDATE item SET state = 2, bad = 1
        WHERE id IN (SELECT value FROM jsonb_each(?1)) AND +state = 0
        RETURNING id AS "id!""#,
        json
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::sql("marking bad lines"))?;
    let marked: BTreeSet<_> = marked.into_iter().map(|row| row.id).collect();
    let lines = bad.iter().filter(|(id, _)| marked.contains(id)).map(|(id, line)| (*id, line));
    insert_lines(conn, &lines.collect::<Vec<_>>()).await
}

/// The last line of a batch that is in the queue, 0 when none is.
pub(super) async fn imported(pool: &SqlitePool, id: BatchId) -> Result<u64, StoreError> {
    let (first, end) = id.range();
    let last =
        sqlx::query_scalar!("SELECT max(id) FROM item WHERE id >= ?1 AND id < ?2", first, end)
            .fetch_one(pool)
            .await
            .map_err(StoreError::sql("looking how far an import came"))?;
    Ok(last.map_or(0, BatchId::line_of_item))
}

/// Moves one slice of a stopped batch's queued or held items to their end: failed, or cancelled.
/// True when none is left. No attempt of the batch may be open.
pub(super) async fn sweep_stopped(
    conn: &mut SqliteConnection,
    id: BatchId,
    cancelled: bool,
) -> Result<bool, StoreError> {
    let (first, end) = id.range();
    let state: i64 = if cancelled { 3 } else { 2 };
    let queued = sqlx::query!(
        "UPDATE item SET state = ?3 WHERE id IN
            (SELECT id FROM item WHERE state = 0 AND id >= ?1 AND id < ?2 LIMIT ?4)",
        first,
        end,
        state,
        SLICE
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("stopping items"))?
    .rows_affected();
    let mut moved = i64::try_from(queued).unwrap_or(i64::MAX);
    let last = moved < SLICE;
    if last {
        let held = sqlx::query!(
            "UPDATE item SET state = ?3 WHERE state = 4 AND id >= ?1 AND id < ?2",
            first,
            end,
            state
        )
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("stopping held items"))?
        .rows_affected();
        moved = moved.saturating_add_unsigned(held);
    }
    let (failed, stopped) = if cancelled { (0, moved) } else { (moved, 0) };
    sqlx::query!(
        "UPDATE batch SET failed = failed + ?2, cancelled = cancelled + ?3 WHERE id = ?1",
        id.0,
        failed,
        stopped
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("counting items"))?;
    Ok(last)
}

/// The next items of a batch that failed, after item `after`; bad lines are none of them.
pub(super) async fn failed(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
) -> Result<Vec<i64>, StoreError> {
    let (first, end) = id.range();
    let after = after.max(first);
    let rows = sqlx::query!(
        "SELECT id FROM item WHERE state = 2 AND bad = 0 AND id > ?1 AND id < ?2
        ORDER BY id LIMIT ?3",
        after,
        end,
        SLICE
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("looking for failed items"))?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Puts one slice of an open batch's failed items back into the queue, as if they had never been
/// tried. The number of those that were; none of a batch that is over or stopped.
pub(super) async fn requeue(
    conn: &mut SqliteConnection,
    id: BatchId,
    items: &[i64],
) -> Result<u64, StoreError> {
    let json = to_json(items)?;
    let moved = sqlx::query!(
        r#"UPDATE item SET state = 0, attempts = 0, doubts = 0, not_before = 0
        WHERE id IN (SELECT value FROM jsonb_each(?1)) AND state = 2 AND bad = 0
            AND EXISTS (SELECT 1 FROM batch WHERE id = ?2 AND state = 1 AND stopped IS NULL)
        RETURNING id AS "id!""#,
        json,
        id.0
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::sql("putting failed items back"))?;
    let moved: Vec<i64> = moved.into_iter().map(|row| row.id).collect();
    let count = i64::try_from(moved.len()).unwrap_or(i64::MAX);
    let json = to_json(&moved)?;
    sqlx::query!("DELETE FROM answer WHERE item_id IN (SELECT value FROM jsonb_each(?1))", json)
        .execute(&mut *conn)
        .await
        .map_err(StoreError::sql("clearing results of failed items"))?;
    sqlx::query!("UPDATE batch SET failed = failed - ?2 WHERE id = ?1", id.0, count)
        .execute(conn)
        .await
        .map_err(StoreError::sql("counting items"))?;
    Ok(count.unsigned_abs())
}

/// The next `limit` queued items of a batch after item `after`.
pub(super) async fn queued(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
    limit: i64,
) -> Result<Vec<QueuedItem>, StoreError> {
    let (first, end) = id.range();
    let after = after.max(first);
    let rows = sqlx::query!(
        "SELECT id, line_offset, line_bytes, line_hash, est_requests, est_input_tokens, est_images,
            attempts, doubts, not_before, text_bytes, media_tokens, kind, output_tokens_max
        FROM item WHERE state = 0 AND id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        after,
        end,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading the queue"))?;
    rows.into_iter()
        .map(|row| {
            Ok(QueuedItem {
                id: row.id,
                offset: count("item.line_offset", row.line_offset)?,
                bytes: count("item.line_bytes", row.line_bytes)?,
                hash: row.line_hash,
                requests: count("item.est_requests", row.est_requests)?,
                input_tokens: count("item.est_input_tokens", row.est_input_tokens)?,
                images: count("item.est_images", row.est_images)?,
                text: text_weight(row.text_bytes, row.media_tokens, row.kind)?,
                output_tokens_max: row
                    .output_tokens_max
                    .map(|most| count("item.output_tokens_max", most))
                    .transpose()?,
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
                doubts: u32::try_from(row.doubts).unwrap_or(u32::MAX),
                not_before: UnixMs(row.not_before),
            })
        })
        .collect()
}

/// How many items of a batch wait behind item `after`, and one that weighs what they do in the
/// mean.
pub(super) async fn queue_mean(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
) -> Result<(u64, QueuedItem), StoreError> {
    let (first, end) = id.range();
    let after = after.max(first);
    let row = sqlx::query!(
        r#"SELECT count(*) AS "items!: i64",
            CAST(coalesce(avg(est_requests), 1) AS INTEGER) AS "requests!: i64",
            CAST(coalesce(avg(est_input_tokens), 0) AS INTEGER) AS "tokens!: i64",
            CAST(coalesce(avg(est_images), 0) AS INTEGER) AS "images!: i64",
            -- Those that do not bound their output are left out of its mean.
            CAST(avg(output_tokens_max) AS INTEGER) AS "output: i64"
        FROM item WHERE state = 0 AND id > ?1 AND id < ?2"#,
        after,
        end
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::sql("weighing the queue"))?;
    let items = count("count(item)", row.items)?;
    let item = QueuedItem {
        id: after + 1,
        offset: 0,
        bytes: 0,
        hash: None,
        requests: count("item.est_requests", row.requests)?,
        input_tokens: count("item.est_input_tokens", row.tokens)?,
        images: count("item.est_images", row.images)?,
        text: None,
        output_tokens_max: row
            .output
            .map(|most| count("item.output_tokens_max", most))
            .transpose()?,
        attempts: 0,
        doubts: 0,
        not_before: UnixMs(0),
    };
    Ok((items, item))
}

/// The line of an item in its job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemLine {
    /// The item's id.
    pub id: i64,
    /// Where the line starts.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The next `limit` failed items of a batch after item `after`, in input order; bad lines are none
/// of them.
pub(super) async fn failed_lines(
    pool: &SqlitePool,
    id: BatchId,
    after: i64,
    limit: i64,
) -> Result<Vec<ItemLine>, StoreError> {
    let (first, end) = id.range();
    let after = after.max(first);
    // Of batches that were over before bad lines had a column, the estimate tells.
    let rows = sqlx::query!(
        "SELECT id, line_offset, line_bytes FROM item
        WHERE state = 2 AND bad = 0 AND est_input_tokens > 0 AND id > ?1 AND id < ?2
        ORDER BY id LIMIT ?3",
        after,
        end,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("looking for failed lines"))?;
    rows.into_iter()
        .map(|row| {
            Ok(ItemLine {
                id: row.id,
                offset: count("item.line_offset", row.line_offset)?,
                bytes: count("item.line_bytes", row.line_bytes)?,
            })
        })
        .collect()
}

/// The lines of some items of a batch.
pub(super) async fn lines_of(pool: &SqlitePool, ids: &[i64]) -> Result<Vec<ItemLine>, StoreError> {
    let json = to_json(ids)?;
    let rows = sqlx::query!(
        "SELECT id, line_offset, line_bytes FROM item
        WHERE id IN (SELECT value FROM jsonb_each(?1)) ORDER BY id",
        json
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("looking for lines"))?;
    rows.into_iter()
        .map(|row| {
            Ok(ItemLine {
                id: row.id,
                offset: count("item.line_offset", row.line_offset)?,
                bytes: count("item.line_bytes", row.line_bytes)?,
            })
        })
        .collect()
}
