//! What may be asked of the database, also beside a running daemon.

use std::path::{Path, PathBuf};

use sqlx::SqlitePool;

use super::{
    AttemptRow, Batch, BatchId, DayTotal, DayUseRow, ExportItem, GroupBy, ItemLine, KeyState,
    KnownModel, LimitEvent, Observation, OpenAttempt, Pause, QueuedItem, RecentAttempt,
    RecentCharge, SetLimit, Source, StoreError, UsageFilter, UsageRow, answers, attempts, connect,
    database_path, items, keys, limits, pauses, queue, recall, usage,
};
use crate::gate::admit::BucketId;
use crate::gate::units::{Now, UnixMs};
use crate::gate::window::AttemptId;

/// The database of one state directory, open for reading: also beside a running daemon.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) pool: SqlitePool,
}

impl Reader {
    /// Opens the database of a state directory for reading.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { pool: connect::readers(&PathBuf::from(&database_path(state_dir)))? })
    }

    /// The newest batches, newest first.
    pub async fn batches(&self, limit: i64) -> Result<Vec<Batch>, StoreError> {
        queue::list(&self.pool, limit).await
    }

    /// The batches that are not finished, oldest first.
    pub async fn unfinished_batches(&self) -> Result<Vec<Batch>, StoreError> {
        queue::unfinished(&self.pool).await
    }

    /// The finished batches of which more is left than failed items: a crash overtook their end.
    pub async fn finished_with_rows(&self) -> Result<Vec<BatchId>, StoreError> {
        answers::finished_with_rows(&self.pool).await
    }

    /// The batches that ended before `before` and of which items are left.
    pub async fn ended_before(&self, before: UnixMs) -> Result<Vec<BatchId>, StoreError> {
        answers::ended_before(&self.pool, before).await
    }

    /// The last line of a batch that is in the queue, 0 when none is.
    pub async fn imported(&self, id: BatchId) -> Result<u64, StoreError> {
        items::imported(&self.pool, id).await
    }

    /// The lines of some items, in their order; at most a thousand or so.
    pub async fn lines_of(&self, ids: &[i64]) -> Result<Vec<ItemLine>, StoreError> {
        items::lines_of(&self.pool, ids).await
    }

    /// Where the committed answers of a batch end in its answers file.
    pub async fn answers_end(&self, id: BatchId) -> Result<u64, StoreError> {
        answers::answers_end(&self.pool, id).await
    }

    /// One batch by the id that users see.
    pub async fn batch_by_uid(&self, uid: &str) -> Result<Option<Batch>, StoreError> {
        queue::by_uid(&self.pool, uid).await
    }

    /// The day before which a project's days are sealed.
    pub async fn sealed_before(&self, project_id: i64) -> Result<Option<String>, StoreError> {
        usage::sealed_before(&self.pool, project_id).await
    }

    /// One batch by its row id.
    pub async fn batch(&self, id: BatchId) -> Result<Batch, StoreError> {
        queue::by_id(&self.pool, id).await
    }

    /// The next page of a batch's queue.
    pub async fn queued(
        &self,
        id: BatchId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<QueuedItem>, StoreError> {
        items::queued(&self.pool, id, after, limit).await
    }

    /// The next page of a batch's items with their results.
    pub async fn export(
        &self,
        id: BatchId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ExportItem>, StoreError> {
        answers::export(&self.pool, id, after, limit).await
    }

    /// The next page of a batch's items that have a results line already.
    pub async fn answered(
        &self,
        id: BatchId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ExportItem>, StoreError> {
        answers::answered(&self.pool, id, after, limit).await
    }

    /// The next page of a batch's failed items, bad lines excepted, with their lines.
    pub async fn failed_lines(
        &self,
        id: BatchId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ItemLine>, StoreError> {
        items::failed_lines(&self.pool, id, after, limit).await
    }

    /// An unfinished batch made of the same content under the same name by the same owner.
    pub async fn same_file(
        &self,
        file_name: &str,
        source: &Source,
    ) -> Result<Option<(BatchId, String)>, StoreError> {
        queue::same_file(&self.pool, file_name, source).await
    }

    /// The batch made of this very drop.
    pub async fn same_drop(
        &self,
        source: &Source,
    ) -> Result<Option<(BatchId, String)>, StoreError> {
        queue::same_drop(&self.pool, source).await
    }

    /// Whether a batch was made of this content: its SHA-256 in hex.
    pub async fn knows_content(&self, sha256: &str) -> Result<bool, StoreError> {
        queue::knows_content(&self.pool, sha256).await
    }

    /// The attempts that a crash left open.
    pub async fn open_attempts(&self) -> Result<Vec<OpenAttempt>, StoreError> {
        recall::open_attempts(&self.pool).await
    }

    /// The settled attempts reserved at most `back_ms` before `now`, or a little earlier.
    pub async fn attempts_back(
        &self,
        now: Now,
        back_ms: u64,
    ) -> Result<Vec<RecentAttempt>, StoreError> {
        let first = recall::first_attempt_back(&self.pool, now, back_ms).await?;
        recall::recent_attempts(&self.pool, first).await
    }

    /// What the attempts reserved at or after `since` charged to quota days.
    pub async fn day_charges(&self, since: UnixMs) -> Result<Vec<DayUseRow>, StoreError> {
        let first = recall::first_attempt_since(&self.pool, since).await?;
        recall::day_charges(&self.pool, first).await
    }

    /// What the batch attempts took that were reserved at most `back_ms` before `now`, or a little
    /// earlier, oldest first.
    pub async fn recent_charges(
        &self,
        now: Now,
        back_ms: u64,
    ) -> Result<Vec<RecentCharge>, StoreError> {
        let first = recall::first_attempt_back(&self.pool, now, back_ms).await?;
        recall::recent_charges(&self.pool, first, now).await
    }

    /// How many items of a batch wait behind item `after`, and one that weighs what they do in the
    /// mean.
    pub async fn queue_mean(
        &self,
        id: BatchId,
        after: i64,
    ) -> Result<(u64, QueuedItem), StoreError> {
        items::queue_mean(&self.pool, id, after).await
    }

    /// Everything that users hold.
    pub async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        pauses::all(&self.pool).await
    }

    /// Boots of the machine on which a daemon has run.
    pub async fn boots(&self) -> Result<u64, StoreError> {
        recall::boots(&self.pool).await
    }

    /// What the last `back` attempts teach estimates, oldest first.
    pub async fn observations(&self, back: i64) -> Result<Vec<Observation>, StoreError> {
        recall::observations(&self.pool, back).await
    }

    /// The id that the next attempt gets.
    pub async fn next_attempt(&self) -> Result<AttemptId, StoreError> {
        recall::next_attempt(&self.pool).await
    }

    /// The wall-clock instant of the ledger's last row, and whether that is of another boot.
    pub async fn last_wall(&self) -> Result<Option<(UnixMs, bool)>, StoreError> {
        recall::last_wall(&self.pool).await
    }

    /// The usage report's sums.
    pub async fn usage(
        &self,
        by: GroupBy,
        filter: &UsageFilter,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let first = recall::first_attempt_since(&self.pool, filter.since).await?;
        usage::usage(&self.pool, by, filter, first).await
    }

    /// The newest attempts, newest first.
    pub async fn attempts(&self, limit: i64) -> Result<Vec<AttemptRow>, StoreError> {
        attempts::attempts(&self.pool, limit).await
    }

    /// Every sealed sum, oldest first.
    pub async fn day_totals(&self) -> Result<Vec<DayTotal>, StoreError> {
        usage::day_totals(&self.pool).await
    }

    /// Every limit that users set.
    pub async fn set_limits(&self) -> Result<Vec<SetLimit>, StoreError> {
        limits::sets(&self.pool).await
    }

    /// The newest changes of a project's limits, newest first.
    pub async fn limit_events(
        &self,
        project_id: i64,
        limit: i64,
    ) -> Result<Vec<LimitEvent>, StoreError> {
        limits::events(&self.pool, project_id, limit).await
    }

    /// What every bucket has learned, as JSON.
    pub async fn memories(&self) -> Result<Vec<(BucketId, String)>, StoreError> {
        limits::memories(&self.pool).await
    }

    /// Which bucket counts in which other.
    pub async fn aliases(&self) -> Result<Vec<(BucketId, BucketId)>, StoreError> {
        limits::aliases(&self.pool).await
    }

    /// How every key stood of which something is kept.
    pub async fn key_states(&self) -> Result<Vec<KeyState>, StoreError> {
        keys::states(&self.pool).await
    }

    /// The name of the key that each project used last, among the last `back` attempts.
    pub async fn last_keys(&self, back: i64) -> Result<Vec<(i64, String)>, StoreError> {
        let first = recall::next_attempt(&self.pool).await?.0.saturating_sub(back);
        keys::last(&self.pool, first).await
    }

    /// Every model that was ever entered.
    pub async fn models(&self) -> Result<Vec<KnownModel>, StoreError> {
        limits::models(&self.pool).await
    }
}
