//! What a start reads back from the ledger.

use sqlx::SqlitePool;

use super::error::StoreError;
use super::ledger::{TextWeight, count, day, small, weights};
use crate::gate::admit::BucketId;
use crate::gate::day::DayCharge;
use crate::gate::units::{BootMs, Now, UnixMs, Weights};
use crate::gate::window::AttemptId;

/// An attempt that a crash left open.
#[derive(Clone, Debug)]
pub struct OpenAttempt {
    /// The row id.
    pub id: AttemptId,
    /// Its item.
    pub item_id: Option<i64>,
    /// The name of its project.
    pub project: String,
    /// Its bucket.
    pub bucket_id: BucketId,
    /// The name of the key it was sent with.
    pub key_name: String,
    /// The first day it counts on.
    pub day_lo: String,
    /// What was reserved.
    pub est: Weights,
    /// What its item had behind it.
    pub item_attempts: u32,
    /// Doubts its item had before.
    pub item_doubts: u32,
    /// What its batch wants done: `retry`, `hold` or `fail`.
    pub policy: String,
}

/// The attempts that were open when the last daemon ended.
pub(super) async fn open_attempts(pool: &SqlitePool) -> Result<Vec<OpenAttempt>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT a.id AS "id!", iif(i.state = 0, a.item_id, NULL) AS "item_id: i64",
            p.name AS project, a.bucket_id, a.day_lo,
            a.key_name, a.est_requests, a.est_input_tokens, a.est_images, a.est_spend_nanos,
            coalesce(i.attempts, 0) AS "attempts!: i64", coalesce(i.doubts, 0) AS "doubts!: i64",
            coalesce(b.in_doubt, 'fail') AS "policy!: String"
        FROM attempt AS a JOIN project AS p ON p.id = a.project_id
            LEFT JOIN item AS i ON i.id = a.item_id
            LEFT JOIN batch AS b ON b.id = a.item_id >> 32
        WHERE a.state = 0 ORDER BY a.id"#
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading open attempts"))?;
    rows.into_iter()
        .map(|row| {
            Ok(OpenAttempt {
                id: AttemptId(row.id),
                item_id: row.item_id,
                project: row.project,
                bucket_id: BucketId(row.bucket_id),
                day_lo: row.day_lo,
                key_name: row.key_name,
                est: weights(
                    row.est_requests,
                    row.est_input_tokens,
                    row.est_images,
                    row.est_spend_nanos,
                )?,
                item_attempts: small(row.attempts)?,
                item_doubts: small(row.doubts)?,
                policy: row.policy,
            })
        })
        .collect()
}

/// A settled attempt that may still occupy a window.
#[derive(Clone, Debug)]
pub struct RecentAttempt {
    /// The row id.
    pub id: AttemptId,
    /// Its bucket.
    pub bucket_id: BucketId,
    /// The name of the key it was sent with.
    pub key_name: String,
    /// What it took.
    pub weights: Weights,
    /// Its bound by the wall clock.
    pub u_wall: UnixMs,
    /// Its bound by `CLOCK_BOOTTIME` of its own boot.
    pub u_boot: BootMs,
    /// Whether that boot is the present one.
    pub same_boot: bool,
}

/// The settled attempts with an id of at least `first`.
pub(super) async fn recent_attempts(
    pool: &SqlitePool,
    first: i64,
) -> Result<Vec<RecentAttempt>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", bucket_id, key_name, act_requests AS "requests!",
            act_input_tokens AS "tokens!", act_images AS "images!",
            coalesce(act_spend_nanos, 0) AS "spend!: i64", u_wall AS "u_wall!",
            u_boot AS "u_boot!",
            (boot_id = (SELECT max(id) FROM boot)) AS "same_boot!: bool"
        FROM attempt WHERE id >= ?1 AND state NOT IN (0, 4)"#,
        first
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading recent attempts"))?;
    rows.into_iter()
        .map(|row| {
            Ok(RecentAttempt {
                id: AttemptId(row.id),
                bucket_id: BucketId(row.bucket_id),
                key_name: row.key_name,
                weights: weights(row.requests, row.tokens, row.images, row.spend)?,
                u_wall: UnixMs(row.u_wall),
                u_boot: BootMs(count("attempt.u_boot", row.u_boot)?),
                same_boot: row.same_boot,
            })
        })
        .collect()
}

/// What an attempt took of a bucket, for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentCharge {
    /// The row id.
    pub id: AttemptId,
    /// Its bucket.
    pub bucket_id: BucketId,
    /// Who fairness is between.
    pub tenant: String,
    /// When it was reserved, in terms of the present boot's clock.
    pub at: BootMs,
    /// What it took; while it is open, what was reserved.
    pub weights: Weights,
}

/// What the batch attempts with an id of at least `first` took, oldest first.
pub(super) async fn recent_charges(
    pool: &SqlitePool,
    first: i64,
    now: Now,
) -> Result<Vec<RecentCharge>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", bucket_id, tenant, s_wall, s_boot,
            iif(state = 0, est_requests, act_requests) AS "requests!: i64",
            iif(state = 0, est_input_tokens, act_input_tokens) AS "tokens!: i64",
            iif(state = 0, est_images, act_images) AS "images!: i64",
            coalesce(iif(state = 0, est_spend_nanos, act_spend_nanos), 0) AS "spend!: i64",
            (boot_id = (SELECT max(id) FROM boot)) AS "same_boot!: bool"
        FROM attempt WHERE id >= ?1 AND class = 0 AND state <> 4 ORDER BY id"#,
        first
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading recent charges"))?;
    rows.into_iter()
        .map(|row| {
            let at = if row.same_boot {
                BootMs(count("attempt.s_boot", row.s_boot)?)
            } else {
                now.boot_at(UnixMs(row.s_wall).min(now.wall))
            };
            Ok(RecentCharge {
                id: AttemptId(row.id),
                bucket_id: BucketId(row.bucket_id),
                tenant: row.tenant,
                at,
                weights: weights(row.requests, row.tokens, row.images, row.spend)?,
            })
        })
        .collect()
}

/// What was charged to the same days by the same key.
#[derive(Clone, Debug)]
pub struct DayUseRow {
    /// The bucket.
    pub bucket_id: BucketId,
    /// The name of the key.
    pub key_name: String,
    /// The days.
    pub charge: DayCharge,
    /// The sum.
    pub weights: Weights,
}

/// What was charged to quota days, by the settled attempts with an id of at least `first`.
pub(super) async fn day_charges(
    pool: &SqlitePool,
    first: i64,
) -> Result<Vec<DayUseRow>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT bucket_id, key_name, day_lo, day_hi AS "day_hi!",
            sum(act_requests) AS "requests!: i64",
            sum(act_input_tokens) AS "tokens!: i64", sum(act_images) AS "images!: i64",
            coalesce(sum(act_spend_nanos), 0) AS "spend!: i64"
        FROM attempt WHERE id >= ?1 AND state NOT IN (0, 4) 
        GROUP BY bucket_id, key_name, day_lo, day_hi"#,
        first
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("summing the day"))?;
    rows.into_iter()
        .map(|row| {
            let charge = DayCharge { lo: day(&row.day_lo)?, hi: day(&row.day_hi)? };
            let weights = weights(row.requests, row.tokens, row.images, row.spend)?;
            let bucket_id = BucketId(row.bucket_id);
            Ok(DayUseRow { bucket_id, key_name: row.key_name, charge, weights })
        })
        .collect()
}

/// The first attempt reserved at or after `since`. A wall clock that was set back can hide rows, so
/// callers ask with slack.
pub(super) async fn first_attempt_since(
    pool: &SqlitePool,
    since: UnixMs,
) -> Result<i64, StoreError> {
    first_attempt(pool, |row| row.s_wall < since.0).await
}

/// The first attempt reserved at most `back_ms` before `now`: of the present boot by its own clock,
/// which no step of the wall clock touches.
pub(super) async fn first_attempt_back(
    pool: &SqlitePool,
    now: Now,
    back_ms: u64,
) -> Result<i64, StoreError> {
    let boot = i64::try_from(now.boot.0.saturating_sub(back_ms)).unwrap_or(i64::MAX);
    let wall = now.wall.minus(back_ms).0;
    first_attempt(pool, |row| if row.present { row.s_boot < boot } else { row.s_wall < wall }).await
}

struct Reserved {
    s_wall: i64,
    s_boot: i64,
    /// In the present boot of the machine.
    present: bool,
}

/// The first attempt that is not `before`, found by halving: ids grow with time.
async fn first_attempt(
    pool: &SqlitePool,
    before: impl Fn(&Reserved) -> bool,
) -> Result<i64, StoreError> {
    let mut low = 0;
    let mut high = next_attempt(pool).await?.0;
    while low < high {
        let middle = low + (high - low) / 2;
        let row = sqlx::query!(
            r#"SELECT id AS "id!", s_wall, s_boot,
                boot_id = (SELECT max(id) FROM boot) AS "present!: bool"
            FROM attempt WHERE id >= ?1 ORDER BY id LIMIT 1"#,
            middle
        )
        .fetch_optional(pool)
        .await
        .map_err(StoreError::sql("finding a time in the ledger"))?;
        let Some(row) = row else {
            high = middle;
            continue;
        };
        let reserved = Reserved { s_wall: row.s_wall, s_boot: row.s_boot, present: row.present };
        if before(&reserved) {
            low = row.id + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The id that the next attempt gets.
pub(super) async fn next_attempt(pool: &SqlitePool) -> Result<AttemptId, StoreError> {
    let row = sqlx::query!(r#"SELECT coalesce(max(id), 0) AS "id!: i64" FROM attempt"#)
        .fetch_one(pool)
        .await
        .map_err(StoreError::sql("reading the ledger's end"))?;
    Ok(AttemptId(row.id + 1))
}

/// The wall-clock instant of the ledger's last row, with whether that row is of another boot.
pub(super) async fn last_wall(pool: &SqlitePool) -> Result<Option<(UnixMs, bool)>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT max(s_wall, coalesce(u_wall, 0)) AS "wall!: i64",
            boot_id <> (SELECT max(id) FROM boot) AS "other_boot!: bool"
        FROM attempt ORDER BY id DESC LIMIT 1"#
    )
    .fetch_optional(pool)
    .await
    .map_err(StoreError::sql("reading the ledger's end"))?;
    Ok(row.map(|row| (UnixMs(row.wall), row.other_boot)))
}

/// Boots of the machine on which a daemon has run.
pub(super) async fn boots(pool: &SqlitePool) -> Result<u64, StoreError> {
    let row = sqlx::query!("SELECT count(*) AS boots FROM boot")
        .fetch_one(pool)
        .await
        .map_err(StoreError::sql("counting boots"))?;
    count("boot", row.boots)
}

/// What was counted for a text: what the next estimate learns from.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The model.
    pub model: String,
    /// What was sent.
    pub text: TextWeight,
    /// Input tokens as the provider counted them.
    pub input_tokens: u64,
}

/// The newest observations, oldest first; of the last `back` attempts.
pub(super) async fn observations(
    pool: &SqlitePool,
    back: i64,
) -> Result<Vec<Observation>, StoreError> {
    let first = next_attempt(pool).await?.0.saturating_sub(back);
    let rows = sqlx::query!(
        r#"SELECT model, text_bytes AS "text_bytes!", media_tokens AS "media_tokens!",
            kind AS "kind!", prompt_tokens + tool_tokens AS "tokens!: i64"
        FROM attempt
        WHERE id >= ?1 AND state = 1 AND prompt_tokens > 0 AND kind IS NOT NULL ORDER BY id"#,
        first
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading what estimates learn from"))?;
    rows.into_iter()
        .map(|row| {
            Ok(Observation {
                model: row.model,
                text: TextWeight {
                    text_bytes: count("attempt.text_bytes", row.text_bytes)?,
                    media_tokens: count("attempt.media_tokens", row.media_tokens)?,
                    kind: row.kind,
                },
                input_tokens: count("attempt.tokens", row.tokens)?,
            })
        })
        .collect()
}
