//! The only room with SQL: the ledger, the queue, limits and usage on an embedded `SQLite` file.
//!
//! [`Store`] is the way in. Writes go to one writer task (`writer`): reservations and settlements
//! share commits in its fast lane, everything else is cut into slices in its bulk lane. Reads go to
//! a pool that cannot write. To add a query, write one function in the file of its subject and one
//! method here.

use std::path::Path;

mod answers;
mod attempts;
mod connect;
mod error;
mod items;
mod keys;
mod ledger;
mod limits;
mod pauses;
mod queue;
mod reader;
mod recall;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

pub use answers::{AnswerAt, ExportItem, line_hash};
pub use attempts::AttemptRow;
pub(crate) use connect::database_path;
pub use error::StoreError;
pub use items::{ItemLine, NewItem, QueuedItem};
pub use keys::KeyState;
pub use ledger::{
    AttemptEnd, EndedAttempt, ItemState, ItemUpdate, NewAttempt, Origin, Settlement, TextWeight,
    Tokens, Via,
};
pub use limits::{KnownModel, LimitEvent, ProjectIds, ProjectSetup, Remembered, SetLimit};
pub use pauses::Pause;
pub use queue::{Batch, BatchId, BatchState, NewBatch, Source};
pub use reader::Reader;
pub use recall::{DayUseRow, Observation, OpenAttempt, RecentAttempt, RecentCharge};
pub use usage::{DayTotal, GroupBy, UsageFilter, UsageRow};

use crate::gate::units::{Now, UnixMs};
use crate::gate::window::AttemptId;
use answers::Clear;
use writer::Durability;

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The database of one state directory, open for reading and writing. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    writer: writer::Writer,
    reader: Reader,
    _lock: std::sync::Arc<connect::Lock>,
}

/// What putting failed items back into their queue came to.
#[derive(Debug)]
pub struct Requeued {
    /// How many are in the queue again, durably.
    pub moved: u64,
    /// Why the others are not.
    pub error: Option<StoreError>,
}

impl Store {
    /// Opens the database for the life of a daemon: takes the lock, brings the schema up to date
    /// and notes the boot.
    ///
    /// # Errors
    /// When another daemon holds the lock, the directory cannot be used, or the database is
    /// damaged.
    pub async fn open(state_dir: &Path, boot_uuid: &str) -> Result<Self, StoreError> {
        let lock = connect::Lock::take(state_dir)?;
        let path = database_path(state_dir);
        let mut conn = connect::writer(&path).await?;
        MIGRATOR
            .run(&mut conn)
            .await
            .map_err(|source| StoreError::Migrate(std::sync::Arc::new(source)))?;
        // The newest row is the present boot, also for a database that was on another machine
        // meanwhile.
        sqlx::query!(
            "UPDATE boot SET uuid = uuid || ' (earlier ' || id || ')'
            WHERE uuid = ?1 AND id < (SELECT max(id) FROM boot)",
            boot_uuid
        )
        .execute(&mut conn)
        .await
        .map_err(StoreError::sql("noting the boot"))?;
        sqlx::query!("INSERT INTO boot (uuid) VALUES (?1) ON CONFLICT DO NOTHING", boot_uuid)
            .execute(&mut conn)
            .await
            .map_err(StoreError::sql("noting the boot"))?;
        let reader = Reader { pool: connect::readers(&path)? };
        Ok(Self { writer: writer::Writer::start(path, conn), reader, _lock: lock.into() })
    }

    /// What may only read.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Whether a write transaction can be committed now.
    pub async fn writable(&self) -> Result<(), StoreError> {
        self.writer.bulk(|conn| Box::pin(connect::touch(conn))).await
    }

    /// Makes reservations durable. Returns after the commit.
    pub async fn reserve(&self, rows: Vec<NewAttempt>) -> Result<(), StoreError> {
        self.writer.reserve(rows).await
    }

    /// Makes ends of attempts, and what follows for their items, durable.
    pub async fn settle(&self, rows: Vec<Settlement>) -> Result<(), StoreError> {
        self.writer.settle(rows, false).await
    }

    /// The same after a failure, which may have been durable all the same.
    pub async fn settle_again(&self, rows: Vec<Settlement>) -> Result<(), StoreError> {
        self.writer.settle(rows, true).await
    }

    /// Makes sure that reservations which were reported as failed weigh nothing.
    pub async fn void(&self, ids: Vec<AttemptId>, now: Now) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { ledger::void_attempts(conn, &ids, now).await }))
            .await
    }

    /// Enters or updates a project with its buckets and models.
    pub async fn sync_project(&self, project: ProjectSetup) -> Result<ProjectIds, StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { limits::sync(conn, &project).await }))
            .await
    }

    /// Sets a limit, or with `None` takes back what was set, and notes the change.
    pub async fn set_limit(
        &self,
        event: LimitEvent,
        setting: Option<String>,
    ) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| {
                Box::pin(async move { limits::set(conn, &event, setting.as_deref()).await })
            })
            .await
    }

    /// Keeps what a bucket has learned.
    pub async fn remember(&self, learned: Remembered) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { limits::remember(conn, &learned).await }))
            .await
    }

    /// Keeps how a key stands with the provider; whether a user disabled it stays as it is.
    pub async fn keep_key(&self, state: KeyState) -> Result<(), StoreError> {
        self.writer.bulk(move |conn| Box::pin(async move { keys::keep(conn, &state).await })).await
    }

    /// Keeps that a user disabled a key, or enabled it.
    pub async fn disable_key(
        &self,
        project_id: i64,
        name: String,
        disabled: bool,
    ) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| {
                Box::pin(async move { keys::disable(conn, project_id, &name, disabled).await })
            })
            .await
    }

    /// Forgets the keys of a project that are none of these.
    pub async fn keep_keys_only(
        &self,
        project_id: i64,
        names: Vec<String>,
    ) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| {
                Box::pin(async move { keys::keep_only(conn, project_id, &names).await })
            })
            .await
    }

    /// Enters a batch whose lines are still to be imported.
    pub async fn enter_batch(&self, batch: NewBatch) -> Result<BatchId, StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { queue::insert(conn, &batch).await }))
            .await
    }

    /// Enters a slice of items; at most a thousand or so, for the lane's sake. It is durable with
    /// [`Store::open_batch`] at the latest.
    pub async fn import_items(&self, items: Vec<NewItem>) -> Result<(), StoreError> {
        self.writer
            .bulk_with(Durability::Later, move |conn| {
                Box::pin(async move { items::insert_items(conn, &items).await })
            })
            .await
    }

    /// Turns queued items of a batch that is still imported into bad lines, each with the results
    /// line that answers it; at most a thousand or so.
    pub async fn mark_bad(&self, bad: Vec<(i64, String)>) -> Result<(), StoreError> {
        self.writer
            .bulk_with(Durability::Later, move |conn| {
                Box::pin(async move { items::mark_bad(conn, &bad).await })
            })
            .await
    }

    /// Ends the import: the batch's items may be sent.
    pub async fn open_batch(&self, id: BatchId) -> Result<(), StoreError> {
        self.writer.bulk(move |conn| Box::pin(queue::open(conn, id))).await
    }

    /// Notes that the same file was dropped again.
    pub async fn drop_again(&self, id: BatchId) -> Result<(), StoreError> {
        self.writer.bulk(move |conn| Box::pin(queue::drop_again(conn, id))).await
    }

    /// Notes that the queued items of a batch will not be sent. False when it was over or stopped.
    pub async fn stop_batch(&self, id: BatchId, reason: String) -> Result<bool, StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { queue::stop(conn, id, &reason).await }))
            .await
    }

    /// Holds a batch for a reason, or with none lets it go. False when it is over.
    pub async fn pause_batch(
        &self,
        id: BatchId,
        reason: Option<String>,
    ) -> Result<bool, StoreError> {
        self.writer
            .bulk(move |conn| {
                Box::pin(async move { queue::pause(conn, id, reason.as_deref()).await })
            })
            .await
    }

    /// Gives a batch another priority, and another deadline if one is said. False when it is over.
    pub async fn reprioritise(
        &self,
        id: BatchId,
        priority: u8,
        deadline: Option<UnixMs>,
    ) -> Result<bool, StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(queue::reprioritise(conn, id, priority, deadline)))
            .await
    }

    /// Puts the failed items of an open batch back into its queue, bad lines excepted, and says how
    /// many. None of a batch that is over or stopped. What was put back before an error stays so.
    pub async fn requeue_failed(&self, id: BatchId) -> Requeued {
        let mut requeued = Requeued { moved: 0, error: None };
        let mut after = 0;
        loop {
            match self.requeue_slice(id, after).await {
                Ok(None) => return requeued,
                Ok(Some((last, moved))) => {
                    after = last;
                    requeued.moved += moved;
                }
                Err(error) => return Requeued { error: Some(error), ..requeued },
            }
        }
    }

    /// The last of the failed items of a slice and how many were put back; `None` behind the last.
    async fn requeue_slice(
        &self,
        id: BatchId,
        after: i64,
    ) -> Result<Option<(i64, u64)>, StoreError> {
        // Found beside the writer: few of many items may have failed.
        let items = items::failed(&self.reader.pool, id, after).await?;
        let Some(&last) = items.last() else { return Ok(None) };
        let moved = self
            .writer
            .bulk(move |conn| Box::pin(async move { items::requeue(conn, id, &items).await }))
            .await?;
        Ok(Some((last, moved)))
    }

    /// Notes that a user holds a project's quota group; `*` for all.
    pub async fn set_pause(&self, pause: Pause) -> Result<(), StoreError> {
        self.writer.bulk(move |conn| Box::pin(async move { pauses::set(conn, &pause).await })).await
    }

    /// Takes back what a user holds of a project's quota group, or with `*` of all, and says how
    /// many words of theirs that were.
    pub async fn clear_pause(&self, project: String, group: String) -> Result<u64, StoreError> {
        self.writer
            .bulk(move |conn| Box::pin(async move { pauses::clear(conn, &project, &group).await }))
            .await
    }

    /// Moves every queued item of a stopped batch to its end. None of its attempts may be open.
    pub async fn sweep_stopped(&self, id: BatchId, cancelled: bool) -> Result<(), StoreError> {
        while !self
            .writer
            .bulk(move |conn| Box::pin(items::sweep_stopped(conn, id, cancelled)))
            .await?
        {}
        Ok(())
    }

    /// Ends a batch whose results are durable.
    pub async fn finish_batch(
        &self,
        id: BatchId,
        state: BatchState,
        at: UnixMs,
    ) -> Result<(), StoreError> {
        self.writer.bulk(move |conn| Box::pin(queue::finish(conn, id, state, at))).await
    }

    /// Deletes what an ended batch's results say: its answers, and all items but the failed ones,
    /// which may be tried again.
    pub async fn clear_ended(&self, id: BatchId) -> Result<(), StoreError> {
        self.clear(id, Clear::Ended).await
    }

    /// Deletes every item and answer of a batch: its file is imported anew, was rejected, or is
    /// not kept any more.
    pub async fn clear_items(&self, id: BatchId) -> Result<(), StoreError> {
        self.clear(id, Clear::All).await
    }

    /// Notes why a file is rejected; `finish_batch` follows when it has been moved.
    pub async fn note_rejection(&self, id: BatchId, reason: String) -> Result<(), StoreError> {
        self.writer
            .bulk(move |conn| {
                Box::pin(async move { queue::note_rejection(conn, id, &reason).await })
            })
            .await
    }

    /// Seals the quota days of a project before `today`; `None` when one has an open attempt.
    pub async fn seal_days(
        &self,
        project_id: i64,
        today: chrono::NaiveDate,
        now: UnixMs,
    ) -> Result<Option<u64>, StoreError> {
        let since = match usage::sealed_before(&self.reader.pool, project_id).await? {
            // A day's slack on each side: zones, and days of 25 hours.
            Some(day) => day_start(&day).minus(2 * 86_400_000),
            None => UnixMs(0),
        };
        let first = recall::first_attempt_since(&self.reader.pool, since).await?;
        let today = today.to_string();
        self.writer
            .bulk(move |conn| {
                Box::pin(
                    async move { usage::seal_days(conn, project_id, &today, first, now).await },
                )
            })
            .await
    }

    /// Not durable at once: what a power cut brings back is cleared at the next start.
    async fn clear(&self, id: BatchId, clear: Clear) -> Result<(), StoreError> {
        while !self
            .writer
            .bulk_with(Durability::Later, move |conn| {
                Box::pin(answers::clear_slice(conn, id, clear))
            })
            .await?
        {}
        Ok(())
    }
}

fn day_start(day: &str) -> UnixMs {
    day.parse::<chrono::NaiveDate>()
        .ok()
        .and_then(|day| day.and_hms_opt(0, 0, 0))
        .map_or(UnixMs(0), |time| UnixMs(time.and_utc().timestamp_millis()))
}
