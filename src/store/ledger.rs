//! The ledger: an attempt is inserted before its first byte leaves and updated once.

use serde::Serialize;
use sqlx::SqliteConnection;

use super::answers::AnswerAt;
use super::error::StoreError;
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;

/// A reservation to be made durable.
#[derive(Clone, Debug, Serialize)]
pub struct NewAttempt {
    /// The row id.
    pub id: AttemptId,
    /// The batch item it is for; `None` for other traffic.
    pub item_id: Option<i64>,
    /// Whose quota.
    pub project_id: i64,
    /// Which of its quotas.
    pub bucket_id: BucketId,
    /// The model that the request names.
    pub model: String,
    /// The key's name.
    pub key_name: String,
    /// Who fairness is between.
    pub tenant: String,
    /// When, by the wall clock.
    pub s_wall: UnixMs,
    /// When, by `CLOCK_BOOTTIME`.
    pub s_boot: BootMs,
    /// The first quota day that it may count on.
    pub day_lo: String,
    /// What it takes from each dimension.
    pub est: Weights,
    /// What its estimate of input tokens was made of, if known.
    pub text: Option<TextWeight>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a request comes from; by default from a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Who sent it.
    pub source: Via,
    /// The method that was called.
    pub method: Option<String>,
    /// The client, as it names itself.
    pub client: Option<String>,
    /// Where the client is.
    pub peer: Option<String>,
    /// How long it was held.
    pub waited_ms: Option<u64>,
}

/// Who sent a request. The numbers are the `source` column's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "i64")]
pub enum Via {
    /// A batch.
    #[default]
    Batch,
    /// A client, through the daemon.
    Proxy,
    /// Somebody else, who recorded it afterwards.
    Recorded,
    /// A client by itself, under a lease.
    Leased,
}

impl From<Via> for i64 {
    fn from(source: Via) -> Self {
        match source {
            Via::Batch => 0,
            Via::Proxy => 1,
            Via::Recorded => 2,
            Via::Leased => 3,
        }
    }
}

/// What an estimate of input tokens is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TextWeight {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Tokens of media, and what comes on top of any text.
    pub media_tokens: u64,
    /// The code of the text's kind.
    pub kind: i64,
}

/// How an attempt ended. The numbers are the `state` column's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "i64")]
pub enum AttemptEnd {
    /// Answered with a 200.
    Ok,
    /// Refused for a reason other than quota.
    Failed,
    /// Refused with a 429.
    Throttled,
    /// Nothing of it was sent.
    Aborted,
    /// Whether it was answered is unknown.
    InDoubt,
}

impl From<AttemptEnd> for i64 {
    fn from(end: AttemptEnd) -> Self {
        match end {
            AttemptEnd::Ok => 1,
            AttemptEnd::Failed => 2,
            AttemptEnd::Throttled => 3,
            AttemptEnd::Aborted => 4,
            AttemptEnd::InDoubt => 5,
        }
    }
}

/// Token counts as the provider reported them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tokens {
    /// All input, cached part included.
    pub prompt: u64,
    /// The cached part of the input.
    pub cached: u64,
    /// Output without thoughts.
    pub output: u64,
    /// Thoughts.
    pub thought: u64,
    /// Input added by server-side tools.
    pub tool: u64,
    /// The provider's total.
    pub total: u64,
    /// The usage object as received.
    pub raw: Option<String>,
}

/// The end of one attempt.
#[derive(Clone, Debug, Serialize)]
pub struct EndedAttempt {
    /// Which.
    pub id: AttemptId,
    /// How.
    pub end: AttemptEnd,
    /// The latest instant at which the provider can have counted it.
    pub u_wall: UnixMs,
    /// The same by `CLOCK_BOOTTIME`.
    pub u_boot: BootMs,
    /// The last quota day that it may count on.
    pub day_hi: String,
    /// What it really took from each dimension.
    pub act: Weights,
    /// What was reported.
    pub tokens: Tokens,
    /// HTTP status, if there was one.
    pub http_status: Option<u16>,
    /// The quota that a 429 named.
    pub quota_id: Option<String>,
    /// The service tier that answered.
    pub service_tier: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// From sending to the end of the answer.
    pub latency_ms: Option<u64>,
}

/// Where an item goes after an attempt. The numbers are the `state` column's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "i64")]
pub enum ItemState {
    /// In the queue.
    Queued,
    /// Answered.
    Succeeded,
    /// Refused for good.
    Failed,
    /// The user said so.
    Cancelled,
    /// Waits for a word of the user.
    Held,
    /// Answered, with a refusal or cut off by a filter.
    Blocked,
}

impl From<ItemState> for i64 {
    fn from(state: ItemState) -> Self {
        match state {
            ItemState::Queued => 0,
            ItemState::Succeeded => 1,
            ItemState::Failed => 2,
            ItemState::Cancelled => 3,
            ItemState::Held => 4,
            ItemState::Blocked => 5,
        }
    }
}

/// An item after an attempt, or after a decision without one.
#[derive(Clone, Debug, Serialize)]
pub struct ItemUpdate {
    /// Which.
    pub id: i64,
    /// Its state from here on.
    pub state: ItemState,
    /// Attempts that failed on their own account.
    pub attempts: u32,
    /// Attempts whose fate is unknown.
    pub doubts: u32,
    /// Not to be sent before this.
    pub not_before: UnixMs,
    /// Its results line, when it has come to its end and the line is not in the batch's answers.
    pub line: Option<String>,
    /// Where its results line stands there.
    pub answer: Option<AnswerAt>,
}

/// What is written together when something ended.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The attempt, if there was one.
    pub attempt: Option<EndedAttempt>,
    /// The item, if it was a batch's.
    pub item: Option<ItemUpdate>,
}

impl Settlement {
    /// Whether its attempt is one of `ids`.
    pub(super) fn is_in(&self, ids: &[i64]) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| ids.contains(&attempt.id.0))
    }
}

/// Of these settlements, the attempts that a commit has ended in just this way before: it was
/// durable, although it was reported as failed.
pub(super) async fn settled_before(
    conn: &mut SqliteConnection,
    rows: &[Settlement],
) -> Result<Vec<i64>, StoreError> {
    let attempts: Vec<_> = rows.iter().filter_map(|row| row.attempt.as_ref()).collect();
    let json = to_json(&attempts)?;
    let done = sqlx::query!(
        r#"SELECT a.id AS "id!" FROM jsonb_each(?1) AS e
            JOIN attempt AS a ON a.id = e.value ->> 'id'
        WHERE a.state = e.value ->> 'end' AND a.u_boot = e.value ->> 'u_boot'
            AND a.u_wall = e.value ->> 'u_wall'"#,
        json
    )
    .fetch_all(conn)
    .await
    .map_err(StoreError::sql("looking for what was settled before"))?;
    Ok(done.into_iter().map(|row| row.id).collect())
}

/// Ends attempts that were never sent and whose reservation was reported as failed: if it was
/// durable all the same, they weigh nothing.
pub(super) async fn void_attempts(
    conn: &mut SqliteConnection,
    ids: &[AttemptId],
    now: Now,
) -> Result<(), StoreError> {
    let json = to_json(ids)?;
    let boot = i64::try_from(now.boot.0).unwrap_or(i64::MAX);
    sqlx::query!(
        "UPDATE attempt SET state = 4, u_wall = ?2, u_boot = ?3, day_hi = day_lo,
            act_requests = 0, act_input_tokens = 0, act_images = 0,
            error = 'its reservation was reported as failed, so it was not sent'
        WHERE state = 0 AND id IN (SELECT value FROM jsonb_each(?1))",
        json,
        now.wall.0,
        boot
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("voiding reservations"))?;
    Ok(())
}

pub(super) async fn insert_attempts(
    conn: &mut SqliteConnection,
    rows: &[&NewAttempt],
) -> Result<(), StoreError> {
    let json = to_json(rows)?;
    sqlx::query!(
        "INSERT INTO attempt (id, item_id, project_id, bucket_id, model, key_name, tenant, class,
            state, boot_id, s_wall, s_boot, day_lo, est_requests, est_input_tokens, est_images,
            est_spend_nanos, text_bytes, media_tokens, kind, source, method, client, peer,
            waited_ms)
        SELECT value ->> 'id', value ->> 'item_id', value ->> 'project_id',
            value ->> 'bucket_id', value ->> 'model', value ->> 'key_name',
            value ->> 'tenant', (value ->> '$.origin.source') <> 0, 0,
            (SELECT max(id) FROM boot), value ->> 's_wall',
            value ->> 's_boot', value ->> 'day_lo', value ->> '$.est.requests',
            value ->> '$.est.input_tokens', value ->> '$.est.images',
            value ->> '$.est.spend_nanos', value ->> '$.text.text_bytes',
            value ->> '$.text.media_tokens', value ->> '$.text.kind',
            value ->> '$.origin.source', value ->> '$.origin.method',
            value ->> '$.origin.client', value ->> '$.origin.peer',
            value ->> '$.origin.waited_ms'
        FROM jsonb_each(?1)",
        json
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("reserving"))?;
    Ok(())
}

pub(super) async fn apply_settlements(
    conn: &mut SqliteConnection,
    rows: &[&Settlement],
) -> Result<(), StoreError> {
    let attempts: Vec<_> = rows.iter().filter_map(|row| row.attempt.as_ref()).collect();
    if !attempts.is_empty() {
        end_attempts(conn, &attempts).await?;
    }
    let items: Vec<_> = rows.iter().filter_map(|row| row.item.as_ref()).collect();
    if !items.is_empty() {
        update_items(conn, &items).await?;
    }
    Ok(())
}

async fn end_attempts(
    conn: &mut SqliteConnection,
    rows: &[&EndedAttempt],
) -> Result<(), StoreError> {
    let json = to_json(rows)?;
    let done = sqlx::query!(
        "UPDATE attempt SET state = e.value ->> 'end', u_wall = e.value ->> 'u_wall',
            u_boot = e.value ->> 'u_boot', day_hi = e.value ->> 'day_hi',
            act_requests = e.value ->> '$.act.requests',
            act_input_tokens = e.value ->> '$.act.input_tokens',
            act_images = e.value ->> '$.act.images',
            act_spend_nanos = e.value ->> '$.act.spend_nanos',
            prompt_tokens = e.value ->> '$.tokens.prompt',
            cached_tokens = e.value ->> '$.tokens.cached',
            output_tokens = e.value ->> '$.tokens.output',
            thought_tokens = e.value ->> '$.tokens.thought',
            tool_tokens = e.value ->> '$.tokens.tool',
            total_tokens = e.value ->> '$.tokens.total', usage_json = e.value ->> '$.tokens.raw',
            http_status = e.value ->> 'http_status', quota_id = e.value ->> 'quota_id',
            service_tier = e.value ->> 'service_tier', error = e.value ->> 'error',
            latency_ms = e.value ->> 'latency_ms'
        FROM jsonb_each(?1) AS e
        WHERE attempt.id = e.value ->> 'id'",
        json
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("settling"))?;
    expect_rows("attempt", rows.len(), done.rows_affected())?;
    if rows.iter().any(|row| row.act.spend_nanos > 0) {
        add_spend(conn, &json).await?;
    }
    Ok(())
}

/// Adds what attempts came to, which have just ended, to what their batches have spent.
async fn add_spend(conn: &mut SqliteConnection, json: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batch SET spent_nanos = batch.spent_nanos + d.spent
        FROM (SELECT a.item_id >> 32 AS batch_id, sum(a.act_spend_nanos) AS spent
            FROM jsonb_each(?1) AS e JOIN attempt AS a ON a.id = e.value ->> 'id'
            WHERE a.item_id IS NOT NULL GROUP BY 1) AS d
        WHERE batch.id = d.batch_id",
        json
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("adding to what batches spent"))?;
    Ok(())
}

/// Moves items on, stores their results lines, and keeps their batches' counts.
pub(super) async fn update_items(
    conn: &mut SqliteConnection,
    rows: &[&ItemUpdate],
) -> Result<(), StoreError> {
    let json = to_json(rows)?;
    // The plus keeps the planner from looking for them among all that are queued.
    let done = sqlx::query!(
        "UPDATE item SET state = e.value ->> 'state', attempts = e.value ->> 'attempts',
            doubts = e.value ->> 'doubts', not_before = e.value ->> 'not_before'
        FROM jsonb_each(?1) AS e
        WHERE item.id = e.value ->> 'id' AND +item.state = 0",
        json
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("moving items on"))?;
    expect_rows("item", rows.len(), done.rows_affected())?;
    if rows.iter().all(|row| row.state == ItemState::Queued) {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO answer (item_id, line, line_offset, line_bytes, line_hash)
        SELECT value ->> 'id', value ->> 'line', value ->> '$.answer.offset',
            value ->> '$.answer.bytes', value ->> '$.answer.hash'
        FROM jsonb_each(?1)
        WHERE value ->> 'line' IS NOT NULL OR value ->> '$.answer.offset' IS NOT NULL",
        json
    )
    .execute(&mut *conn)
    .await
    .map_err(StoreError::sql("storing answers"))?;
    sqlx::query!(
        "UPDATE batch SET succeeded = batch.succeeded + d.succeeded,
            failed = batch.failed + d.failed, cancelled = batch.cancelled + d.cancelled,
            blocked = batch.blocked + d.blocked
        FROM (SELECT (value ->> 'id') >> 32 AS batch_id,
                sum((value ->> 'state') = 1) AS succeeded,
                sum((value ->> 'state') = 2) AS failed,
                sum((value ->> 'state') = 3) AS cancelled,
                sum((value ->> 'state') = 5) AS blocked
            FROM jsonb_each(?1) GROUP BY 1) AS d
        WHERE batch.id = d.batch_id",
        json
    )
    .execute(conn)
    .await
    .map_err(StoreError::sql("counting items"))?;
    Ok(())
}

pub(super) fn to_json<T: Serialize + ?Sized>(rows: &T) -> Result<String, StoreError> {
    serde_json::to_string(rows)
        .map_err(|error| StoreError::Inconsistent(format!("a row cannot be written: {error}")))
}

pub(super) fn expect_rows(table: &str, expected: usize, changed: u64) -> Result<(), StoreError> {
    if u64::try_from(expected).ok() == Some(changed) {
        return Ok(());
    }
    Err(StoreError::Inconsistent(format!(
        "{expected} rows of {table} should have changed, and {changed} did"
    )))
}

pub(super) fn count(column: &str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value)
        .map_err(|_| StoreError::Inconsistent(format!("{column} is negative: {value}")))
}

pub(super) fn small(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value)
        .map_err(|_| StoreError::Inconsistent(format!("a counter is out of range: {value}")))
}

pub(super) fn weights(
    requests: i64,
    input_tokens: i64,
    images: i64,
    spend_nanos: i64,
) -> Result<Weights, StoreError> {
    Ok(Weights {
        requests: count("attempt.requests", requests)?,
        input_tokens: count("attempt.input_tokens", input_tokens)?,
        images: count("attempt.images", images)?,
        spend_nanos: count("attempt.spend_nanos", spend_nanos)?,
        sessions: 0,
    })
}

pub(super) fn day(text: &str) -> Result<chrono::NaiveDate, StoreError> {
    text.parse().map_err(|_| StoreError::Inconsistent(format!("attempt.day is not a date: {text}")))
}

/// What an estimate was made of, of columns that are all there or all absent.
pub(super) fn text_weight(
    text_bytes: Option<i64>,
    media_tokens: Option<i64>,
    kind: Option<i64>,
) -> Result<Option<TextWeight>, StoreError> {
    let (Some(text_bytes), Some(media_tokens), Some(kind)) = (text_bytes, media_tokens, kind)
    else {
        return Ok(None);
    };
    Ok(Some(TextWeight {
        text_bytes: count("text_bytes", text_bytes)?,
        media_tokens: count("media_tokens", media_tokens)?,
        kind,
    }))
}
