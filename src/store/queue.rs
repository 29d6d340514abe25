//! Batches: one row for each job file.

use serde::Serialize;
use sqlx::{SqliteConnection, SqlitePool};

use super::error::StoreError;
use super::ledger::{expect_rows, to_json};
use crate::gate::admit::BucketId;
use crate::gate::units::UnixMs;

/// A batch's row id.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct BatchId(pub i64);

impl BatchId {
    /// The id of the item on line `number` (1-based) of this batch's file.
    #[must_use]
    pub fn item(self, number: u32) -> i64 {
        (self.0 << 32) | i64::from(number)
    }

    /// The number of an item's line in its file.
    #[must_use]
    pub fn line_of_item(item: i64) -> u64 {
        (item & 0xffff_ffff).unsigned_abs()
    }

    /// The batch that an item belongs to.
    #[must_use]
    pub fn of_item(item: i64) -> Self {
        Self(item >> 32)
    }

    /// Every item id of this batch lies in `[first, end)`.
    pub(super) fn range(self) -> (i64, i64) {
        (self.0 << 32, (self.0 + 1) << 32)
    }
}

/// Where a batch stands. The numbers are the `state` column's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchState {
    /// Its lines are being read; nothing is sent.
    Importing,
    /// Its items are sent as the quota allows.
    Open,
    /// Every item has come to its end, and at least one was answered.
    Done,
    /// Every item has come to its end, and none was answered.
    Failed,
    /// The user cancelled it.
    Cancelled,
    /// Its file was not accepted.
    Rejected,
}

impl BatchState {
    fn parse(value: i64) -> Result<Self, StoreError> {
        Ok(match value {
            0 => Self::Importing,
            1 => Self::Open,
            2 => Self::Done,
            3 => Self::Failed,
            4 => Self::Cancelled,
            5 => Self::Rejected,
            _ => return Err(StoreError::Inconsistent(format!("batch.state is {value}"))),
        })
    }

    fn number(self) -> i64 {
        match self {
            Self::Importing => 0,
            Self::Open => 1,
            Self::Done => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
            Self::Rejected => 5,
        }
    }

    /// The word that reports use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Importing => "importing",
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
        }
    }
}

/// What identifies a dropped file: the same values mean the same drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Device.
    pub dev: i64,
    /// Inode.
    pub ino: i64,
    /// Modification time in nanoseconds.
    pub mtime_ns: i64,
    /// Size in bytes.
    pub bytes: i64,
    /// Owner.
    pub uid: i64,
    /// Hex SHA-256 of the content.
    pub sha256: String,
}

/// A batch to be entered.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// What users see.
    pub uid: String,
    /// Its directory under `working/` in the spool.
    pub work: String,
    /// The dropped file's name.
    pub file_name: String,
    /// The name of its outputs.
    pub out_name: String,
    /// The job file's dialect.
    pub dialect: String,
    /// Whose quota.
    pub project_id: i64,
    /// Which of its quotas.
    pub bucket_id: BucketId,
    /// The model that its requests name.
    pub model: String,
    /// Who fairness is between.
    pub tenant: String,
    /// 0 high, 1 normal, 2 low.
    pub priority: u8,
    /// `retry`, `hold` or `fail`.
    pub in_doubt: String,
    /// `reject` or `skip`.
    pub on_bad_line: String,
    /// Nothing is sent before this.
    pub not_before: Option<UnixMs>,
    /// When it should be done.
    pub deadline: Option<UnixMs>,
    /// What it may cost at most, in billionths of a US dollar.
    pub max_cost_nanos: Option<u64>,
    /// The pool of routes that its items may take.
    pub pool: Option<String>,
    /// Ids of models that are tried when the first choice is far off.
    pub fallback: Vec<String>,
    /// How far off that is, in milliseconds.
    pub patience_ms: Option<u64>,
    /// `asap` or `spread`.
    pub pace: String,
    /// What becomes a prompt of a record of text or CSV, as JSON.
    pub template: Option<String>,
    /// The dialect of its results: `gemini` or `openai`.
    pub answers: String,
    /// The accepted file.
    pub source: Source,
    /// When.
    pub submitted_at: UnixMs,
}

/// A batch as it stands.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The row id.
    pub id: BatchId,
    /// What users see.
    pub uid: String,
    /// Its directory under `working/` in the spool.
    pub work: String,
    /// The dropped file's name.
    pub file_name: String,
    /// The name of its outputs.
    pub out_name: String,
    /// The job file's dialect.
    pub dialect: String,
    /// The project's row id.
    pub project_id: i64,
    /// The project's name.
    pub project: String,
    /// Its bucket.
    pub bucket_id: BucketId,
    /// The model.
    pub model: String,
    /// The tenant.
    pub tenant: String,
    /// 0 high, 1 normal, 2 low.
    pub priority: u8,
    /// `retry`, `hold` or `fail`.
    pub in_doubt: String,
    /// `reject` or `skip`.
    pub on_bad_line: String,
    /// Nothing is sent before this.
    pub not_before: Option<UnixMs>,
    /// When it should be done.
    pub deadline: Option<UnixMs>,
    /// What it may cost at most, in billionths of a US dollar.
    pub max_cost_nanos: Option<u64>,
    /// What its attempts came to, in billionths of a US dollar.
    pub spent_nanos: u64,
    /// The pool of routes that its items may take.
    pub pool: Option<String>,
    /// Ids of models that are tried when the first choice is far off.
    pub fallback: Vec<String>,
    /// How far off that is, in milliseconds.
    pub patience_ms: Option<u64>,
    /// `asap` or `spread`.
    pub pace: String,
    /// What becomes a prompt of a record of text or CSV, as JSON.
    pub template: Option<String>,
    /// The dialect of its results: `gemini` or `openai`.
    pub answers: String,
    /// Why a user holds it.
    pub paused: Option<String>,
    /// Where it stands.
    pub state: BatchState,
    /// Why queued items will not be sent.
    pub stopped: Option<String>,
    /// Hex SHA-256 of its file.
    pub sha256: String,
    /// Size of its file.
    pub source_bytes: u64,
    /// Who dropped it.
    pub source_uid: u32,
    /// How often the same file was dropped again.
    pub dropped_again: u64,
    /// How many items it has.
    pub items: u64,
    /// Of those, answered.
    pub succeeded: u64,
    /// Of those, refused for good.
    pub failed: u64,
    /// Of those, cancelled.
    pub cancelled: u64,
    /// Of those, answered with a refusal or cut off by a filter.
    pub blocked: u64,
    /// When it was accepted.
    pub submitted_at: UnixMs,
    /// When its results were durable.
    pub finished_at: Option<UnixMs>,
}

impl Batch {
    /// How many of its items have come to their end.
    #[must_use]
    pub fn ended(&self) -> u64 {
        [self.succeeded, self.failed, self.cancelled, self.blocked]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

macro_rules! batches {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query!(
            r#"SELECT b.id, b.uid, b.work, b.file_name, b.out_name, b.dialect, b.project_id,
                p.name AS project, b.bucket_id, b.model, b.tenant, b.priority, b.in_doubt,
                b.on_bad_line, b.not_before, b.state, b.stopped, b.sha256,
                b.source_bytes, b.source_uid, b.dropped_again, b.items, b.succeeded,
                b.failed, b.cancelled,
                b.submitted_at, b.finished_at, b.deadline, b.max_cost_nanos, b.spent_nanos,
                b.pool, b.fallback, b.patience_ms, b.pace, b.paused, b.template, b.answers,
                b.blocked
            FROM batch AS b JOIN project AS p ON p.id = b.project_id "# + $tail
            $(, $arg)*
        )
        .map(|row| RawBatch {
            batch: Batch {
                id: BatchId(row.id),
                uid: row.uid,
                work: row.work,
                file_name: row.file_name,
                out_name: row.out_name,
                dialect: row.dialect,
                project_id: row.project_id,
                project: row.project,
                bucket_id: BucketId(row.bucket_id),
                model: row.model,
                tenant: row.tenant,
                priority: u8::try_from(row.priority).unwrap_or(1),
                in_doubt: row.in_doubt,
                on_bad_line: row.on_bad_line,
                not_before: row.not_before.map(UnixMs),
                deadline: row.deadline.map(UnixMs),
                max_cost_nanos: row.max_cost_nanos.map(i64::unsigned_abs),
                spent_nanos: row.spent_nanos.unsigned_abs(),
                pool: row.pool,
                fallback: Vec::new(),
                patience_ms: row.patience_ms.map(i64::unsigned_abs),
                pace: row.pace,
                template: row.template,
                answers: row.answers,
                paused: row.paused,
                state: BatchState::Open,
                stopped: row.stopped,
                sha256: row.sha256,
                source_bytes: u64::try_from(row.source_bytes).unwrap_or(0),
                source_uid: u32::try_from(row.source_uid).unwrap_or(0),
                dropped_again: u64::try_from(row.dropped_again).unwrap_or(0),
                items: u64::try_from(row.items).unwrap_or(0),
                succeeded: u64::try_from(row.succeeded).unwrap_or(0),
                failed: u64::try_from(row.failed).unwrap_or(0),
                cancelled: u64::try_from(row.cancelled).unwrap_or(0),
                blocked: u64::try_from(row.blocked).unwrap_or(0),
                submitted_at: UnixMs(row.submitted_at),
                finished_at: row.finished_at.map(UnixMs),
            },
            state: row.state,
            fallback: row.fallback,
        })
    };
}

struct RawBatch {
    batch: Batch,
    state: i64,
    /// A JSON list.
    fallback: Option<String>,
}

impl RawBatch {
    fn checked(self) -> Result<Batch, StoreError> {
        let state = BatchState::parse(self.state)?;
        let fallback = match &self.fallback {
            Some(json) => serde_json::from_str(json).map_err(|_| {
                let uid = &self.batch.uid;
                StoreError::Inconsistent(format!("batch.fallback of {uid} is no list: {json}"))
            })?,
            None => Vec::new(),
        };
        Ok(Batch { fallback, state, ..self.batch })
    }
}

/// The newest `limit` batches, newest first.
pub(super) async fn list(pool: &SqlitePool, limit: i64) -> Result<Vec<Batch>, StoreError> {
    let rows = batches!("ORDER BY b.id DESC LIMIT ?1", limit)
        .fetch_all(pool)
        .await
        .map_err(StoreError::sql("listing batches"))?;
    rows.into_iter().map(RawBatch::checked).collect()
}

/// The batches that are not finished, oldest first.
pub(super) async fn unfinished(pool: &SqlitePool) -> Result<Vec<Batch>, StoreError> {
    let rows = batches!("WHERE b.state < 2 ORDER BY b.id")
        .fetch_all(pool)
        .await
        .map_err(StoreError::sql("reading unfinished batches"))?;
    rows.into_iter().map(RawBatch::checked).collect()
}

/// One batch by the id that users see.
pub(super) async fn by_uid(pool: &SqlitePool, uid: &str) -> Result<Option<Batch>, StoreError> {
    let row = batches!("WHERE b.uid = ?1", uid)
        .fetch_optional(pool)
        .await
        .map_err(StoreError::sql("reading a batch"))?;
    row.map(RawBatch::checked).transpose()
}

/// One batch by its row id.
pub(super) async fn by_id(pool: &SqlitePool, id: BatchId) -> Result<Batch, StoreError> {
    let row = batches!("WHERE b.id = ?1", id.0)
        .fetch_one(pool)
        .await
        .map_err(StoreError::sql("reading a batch"))?;
    row.checked()
}

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    new: &NewBatch,
) -> Result<BatchId, StoreError> {
    let s = &new.source;
    let bucket = new.bucket_id.0;
    let (not_before, submitted) = (new.not_before.map(|at| at.0), new.submitted_at.0);
    let deadline = new.deadline.map(|at| at.0);
    let fits = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (max_cost, patience) = (new.max_cost_nanos.map(fits), new.patience_ms.map(fits));
    let fallback = (!new.fallback.is_empty()).then(|| to_json(&new.fallback)).transpose()?;
    let done = sqlx::query!(
        "INSERT INTO batch (uid, work, file_name, out_name, dialect, project_id, bucket_id, model,
            tenant, priority, in_doubt, on_bad_line, not_before, state, source_dev, source_ino,
            source_mtime_ns, source_bytes, source_uid, sha256, submitted_at, deadline,
            max_cost_nanos, pool, fallback, patience_ms, pace, template, answers)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 0, ?14, ?15, ?16, ?17, ?18,
            ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28)",
        new.uid,
        new.work,
        new.file_name,
        new.out_name,
        new.dialect,
        new.project_id,
        bucket,
        new.model,
        new.tenant,
        new.priority,
        new.in_doubt,
        new.on_bad_line,
        not_before,
        s.dev,
        s.ino,
        s.mtime_ns,
        s.bytes,
        s.uid,
        s.sha256,
        submitted,
        deadline,
        max_cost,
        new.pool,
        fallback,
        patience,
        new.pace,
        new.template,
        new.answers
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("entering a batch"))?;
    Ok(BatchId(done.last_insert_rowid()))
}

/// Lets the items of an imported batch be sent.
pub(super) async fn open(conn: &mut SqliteConnection, id: BatchId) -> Result<(), StoreError> {
    let (first, end) = id.range();
    let done = sqlx::query!(
        "UPDATE batch SET state = 1, items = c.items, failed = c.failed
        FROM (SELECT count(*) AS items, coalesce(sum(state = 2), 0) AS failed FROM item
            WHERE id >= ?2 AND id < ?3) AS c
        WHERE batch.id = ?1 AND batch.state = 0",
        id.0,
        first,
        end
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("opening a batch"))?;
    expect_rows("batch", 1, done.rows_affected())
}

/// Notes that the same file was dropped again.
pub(super) async fn drop_again(conn: &mut SqliteConnection, id: BatchId) -> Result<(), StoreError> {
    let done =
        sqlx::query!("UPDATE batch SET dropped_again = dropped_again + 1 WHERE id = ?1", id.0)
            .execute(conn)
            .await
            .map_err(StoreError::sql("noting a repeated drop"))?;
    expect_rows("batch", 1, done.rows_affected())
}

/// Notes that the queued items of a batch will not be sent. The first reason stays.
pub(super) async fn stop(
    conn: &mut SqliteConnection,
    id: BatchId,
    reason: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "UPDATE batch SET stopped = ?2 WHERE id = ?1 AND state < 2 AND stopped IS NULL",
        id.0,
        reason
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("stopping a batch"))?;
    Ok(done.rows_affected() == 1)
}

/// Holds a batch for a reason, or with none lets it go. False when it is over.
pub(super) async fn pause(
    conn: &mut SqliteConnection,
    id: BatchId,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let done =
        sqlx::query!("UPDATE batch SET paused = ?2 WHERE id = ?1 AND state < 2", id.0, reason)
            .execute(conn)
            .await
            .map_err(StoreError::sql("holding a batch"))?;
    Ok(done.rows_affected() == 1)
}

/// Gives a batch another priority, and another deadline if one is said. False when it is over.
pub(super) async fn reprioritise(
    conn: &mut SqliteConnection,
    id: BatchId,
    priority: u8,
    deadline: Option<UnixMs>,
) -> Result<bool, StoreError> {
    let deadline = deadline.map(|at| at.0);
    let done = sqlx::query!(
        "UPDATE batch SET priority = ?2, deadline = coalesce(?3, deadline)
        WHERE id = ?1 AND state < 2",
        id.0,
        priority,
        deadline
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("changing a batch's priority"))?;
    Ok(done.rows_affected() == 1)
}

/// Ends a batch whose results are durable.
pub(super) async fn finish(
    conn: &mut SqliteConnection,
    id: BatchId,
    state: BatchState,
    at: UnixMs,
) -> Result<(), StoreError> {
    let state = state.number();
    let done = sqlx::query!(
        "UPDATE batch SET state = ?2, finished_at = ?3 WHERE id = ?1 AND state < 2",
        id.0,
        state,
        at.0
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("finishing a batch"))?;
    expect_rows("batch", 1, done.rows_affected())
}

/// Notes why a file was rejected, before its items go.
pub(super) async fn note_rejection(
    conn: &mut SqliteConnection,
    id: BatchId,
    reason: &str,
) -> Result<(), StoreError> {
    let done = sqlx::query!("UPDATE batch SET stopped = ?2 WHERE id = ?1", id.0, reason)
        .execute(conn)
        .await
        .map_err(StoreError::sql("rejecting a batch"))?;
    expect_rows("batch", 1, done.rows_affected())
}

/// An unfinished batch made of the same file: same content, name and owner.
pub(super) async fn same_file(
    pool: &SqlitePool,
    file_name: &str,
    source: &Source,
) -> Result<Option<(BatchId, String)>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, uid FROM batch WHERE state < 2 AND sha256 = ?1 AND file_name = ?2
            AND source_uid = ?3 AND source_bytes = ?4 LIMIT 1",
        source.sha256,
        file_name,
        source.uid,
        source.bytes
    )
    .fetch_optional(pool)
    .await
    .map_err(StoreError::sql("looking for the same file"))?;
    Ok(row.map(|row| (BatchId(row.id), row.uid)))
}

/// The batch made of this very drop, whatever became of it.
pub(super) async fn same_drop(
    pool: &SqlitePool,
    source: &Source,
) -> Result<Option<(BatchId, String)>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, uid FROM batch WHERE source_dev = ?1 AND source_ino = ?2
            AND source_mtime_ns = ?3 AND source_uid = ?4 AND sha256 = ?5
        ORDER BY id DESC LIMIT 1",
        source.dev,
        source.ino,
        source.mtime_ns,
        source.uid,
        source.sha256
    )
    .fetch_optional(pool)
    .await
    .map_err(StoreError::sql("looking for the same drop"))?;
    Ok(row.map(|row| (BatchId(row.id), row.uid)))
}

/// Whether a batch was made of this content, whatever became of it: its SHA-256 in hex.
pub(super) async fn knows_content(pool: &SqlitePool, sha256: &str) -> Result<bool, StoreError> {
    let row = sqlx::query!("SELECT id FROM batch WHERE sha256 = ?1 LIMIT 1", sha256)
        .fetch_optional(pool)
        .await
        .map_err(StoreError::sql("looking for a content"))?;
    Ok(row.is_some())
}
