//! A batch as the engine needs it.

use std::sync::Arc;

use super::state::CANCELLED;
use super::text;
use crate::caps;
use crate::formats::{BatchPace, Form, InDoubt, Packing};
use crate::gate::admit::BucketId;
use crate::gate::units::UnixMs;
use crate::store::{Batch, BatchId, StoreError};

/// Where items of a batch may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// The project's row id.
    pub project: i64,
    /// Where its requests count.
    pub bucket: BucketId,
    /// The model that they name.
    pub model: String,
    /// Whether it is tried only when the others are far off.
    pub fallback: bool,
}

/// A batch as the engine needs it.
#[derive(Clone, Debug)]
pub struct BatchSetup {
    /// The row id.
    pub id: BatchId,
    /// Its bucket.
    pub bucket: BucketId,
    /// Its directory under `working/`.
    pub work: String,
    /// How its lines are read.
    pub form: Arc<Form>,
    /// How its file is packed.
    pub packing: Packing,
    /// The model.
    pub model: String,
    /// Where its items may go: first what `bucket` and `model` say, the fallbacks last.
    pub routes: Vec<RouteTo>,
    /// The tenant.
    pub tenant: String,
    /// 0 high, 1 normal, 2 low.
    pub priority: u8,
    /// What to do with an item whose attempt was cut off.
    pub in_doubt: InDoubt,
    /// Nothing is sent before this.
    pub not_before: Option<UnixMs>,
    /// When it should be done.
    pub deadline: Option<UnixMs>,
    /// What it may cost at most, in billionths of a US dollar.
    pub max_cost_nanos: Option<u64>,
    /// What its attempts came to so far, in billionths of a US dollar.
    pub spent_nanos: u64,
    /// How long the first choice may be off before fallbacks are tried, in milliseconds.
    pub patience_ms: u64,
    /// Whether it is spread over the time until its deadline.
    pub spread: bool,
    /// Why a user holds it.
    pub paused: Option<String>,
    /// When it was accepted.
    pub submitted_at: UnixMs,
    /// Items that have not come to their end.
    pub remaining: u64,
    /// Items that were answered.
    pub answered: u64,
    /// Why nothing of it is sent any more, and whether the user said so.
    pub stopped: Option<(String, bool)>,
}

impl BatchSetup {
    /// What the engine needs of a batch that is open and may go where `routes` say (see
    /// [`of_batch`](super::routes::of_batch)).
    ///
    /// # Errors
    /// When the row holds a word that this version does not know.
    pub fn of(batch: &Batch, routes: Vec<RouteTo>) -> Result<Self, StoreError> {
        let unknown = |column: &str, word: &str| {
            StoreError::Inconsistent(format!("batch.{column} of {} is {word}", batch.uid))
        };
        let pace: BatchPace = batch.pace.parse().map_err(|_| unknown("pace", &batch.pace))?;
        Ok(Self {
            id: batch.id,
            bucket: batch.bucket_id,
            work: batch.work.clone(),
            form: Arc::new(text::form_of(batch)?),
            packing: text::file_of(batch).1,
            model: batch.model.clone(),
            routes,
            tenant: batch.tenant.clone(),
            priority: batch.priority,
            in_doubt: batch.in_doubt.parse().map_err(|_| unknown("in_doubt", &batch.in_doubt))?,
            not_before: batch.not_before,
            deadline: batch.deadline,
            max_cost_nanos: batch.max_cost_nanos,
            spent_nanos: batch.spent_nanos,
            patience_ms: batch.patience_ms.unwrap_or(caps::PATIENCE_MS),
            spread: pace == BatchPace::Spread,
            paused: batch.paused.clone(),
            submitted_at: batch.submitted_at,
            remaining: batch.items.saturating_sub(batch.ended()),
            answered: batch.succeeded + batch.blocked,
            stopped: batch.stopped.clone().map(|reason| {
                let cancelled = reason == CANCELLED;
                (reason, cancelled)
            }),
        })
    }
}
