//! Batches in work: opened, read, held, put first, tried again, stopped and closed.

use super::core::{Engine, NO_LANE};
use super::job::{Counted, Job, RetryReply};
use super::state::BatchSetup;
use crate::caps;
use crate::gate::admit::BucketId;
use crate::gate::units::{Now, UnixMs, Weights};
use crate::schedule::{Line, LineId, Route};
use crate::store::{BatchId, ItemState, QueuedItem};

impl Engine {
    pub(super) fn open(&mut self, setup: BatchSetup, now: Now) {
        if self.jobs.contains_key(&setup.id) {
            return;
        }
        self.turned = true;
        self.touched.insert(setup.id);
        let (id, tenant) = (setup.id, self.schedule.tenant(&setup.tenant));
        self.jobs.insert(id, Job::new(setup, tenant));
        self.line_up(id, now);
    }

    /// Gives a batch its place in the order, as far as its routes are known.
    pub(super) fn line_up(&mut self, batch: BatchId, now: Now) {
        let Some(job) = self.jobs.get(&batch).filter(|job| job.setup.stopped.is_none()) else {
            return;
        };
        let setup = &job.setup;
        let known = setup.routes.iter().filter(|route| self.lanes.contains_key(&route.bucket));
        let routes: Vec<_> = known
            .map(|route| Route {
                project: route.project,
                bucket: route.bucket,
                fallback: route.fallback,
            })
            .collect();
        if routes.is_empty() {
            tracing::warn!(batch.id = batch.0, model = %setup.model,
                "a batch for {} waits: {NO_LANE}", setup.model);
            return;
        }
        let line = Line {
            class: setup.priority.min(2),
            tenant: job.tenant,
            deadline: setup.deadline,
            routes,
            patience_ms: setup.patience_ms,
        };
        // Nothing of it went since it came, as far as is known: its age outlives a restart, back to
        // the machine's boot, and the first item that goes ends it.
        let came = setup.submitted_at.max(setup.not_before.unwrap_or(UnixMs(0)));
        let since = now.boot_at(came.min(now.wall)).min(now.boot);
        // It is not known for how long it was held: a batch does not grow old by that.
        let is_held = setup.paused.is_some();
        let since = if is_held { now.boot } else { since };
        self.schedule.add(LineId(batch.0), line, since, now.boot);
        if is_held {
            self.schedule.rest(LineId(batch.0), None, now.boot);
        }
    }

    /// Something about a batch has changed: it may have something to send, or be over.
    pub(super) fn rouse(&mut self, batch: BatchId, now: Now) {
        self.touched.insert(batch);
        if self.jobs.get(&batch).is_some_and(|job| job.setup.paused.is_none()) {
            self.schedule.rouse(LineId(batch.0), now.boot);
        }
    }

    /// Has the failed items of a batch put back into its queue, once nothing of it is under way.
    pub(super) fn retry_failed(&mut self, batch: BatchId, done: RetryReply) {
        let open = |job: &&mut Job| !job.closing && job.setup.stopped.is_none();
        self.touched.insert(batch);
        match self.jobs.get_mut(&batch).filter(open) {
            Some(job) => job.requeue.get_or_insert_default().0.push(done),
            None => {
                // Whoever asked may have gone away.
                let _ = done.send(Err("the batch is ending or was stopped".to_owned()));
            }
        }
    }

    /// So many failed items wait in the queue again, and why no more do.
    pub(super) fn requeued(&mut self, now: Now, batch: BatchId, moved: u64, error: Option<String>) {
        let Some(job) = self.jobs.get_mut(&batch) else { return };
        if moved > 0 {
            // The queue is read anew: what was put back stands before what was read already.
            job.forget_queue();
            job.setup.remaining += moved;
            job.hopeless = 0;
            (job.cursor, job.exhausted) = (0, false);
        }
        let count = error.map_or(Ok(moved), |error| match moved {
            0 => Err(error),
            moved => Err(format!("only {moved} were put back and go again: {error}")),
        });
        for done in job.requeue.take().into_iter().flat_map(|(waiting, _)| waiting) {
            let _ = done.send(count.clone());
        }
        self.rouse(batch, now);
    }

    pub(super) fn loaded(&mut self, now: Now, batch: BatchId, items: Vec<QueuedItem>) {
        let Some(job) = self.jobs.get_mut(&batch) else { return };
        let Some(limit) = job.loading.take() else { return };
        job.exhausted = items.len() < limit;
        if let Some(last) = items.last() {
            job.cursor = last.id;
        }
        for item in items {
            if item.not_before > UnixMs(0) {
                job.retry(now, item, caps::PARKED_MAX_MS);
            } else {
                job.put_back(item);
            }
        }
        self.rouse(batch, now);
    }

    pub(super) fn settled(&mut self, now: Now, item: i64) {
        let Some(settling) = self.settling.remove(&item) else { return };
        self.rouse(settling.batch, now);
        let Some(job) = self.jobs.get_mut(&settling.batch) else { return };
        job.open -= 1;
        match settling.state {
            ItemState::Queued if settling.keeps_place => job.put_back(settling.item),
            ItemState::Queued => job.retry(now, settling.item, u64::MAX),
            ItemState::Succeeded | ItemState::Blocked => {
                job.setup.answered += 1;
                job.setup.remaining -= 1;
            }
            ItemState::Failed | ItemState::Cancelled => job.setup.remaining -= 1,
            ItemState::Held => {}
        }
    }

    /// Stops a batch: nothing more of it is started, and what is under way settles.
    pub(super) fn stop(&mut self, batch: BatchId, reason: String, cancelled: bool) {
        self.touched.insert(batch);
        let Some(job) = self.jobs.get_mut(&batch) else { return };
        if job.setup.stopped.is_none() {
            job.setup.stopped = Some((reason, cancelled));
        }
        job.forget_queue();
        let waiting = match &mut job.requeue {
            // What is being put back is not known yet, and is swept then.
            Some((waiting, true)) => std::mem::take(waiting),
            Some((_, false)) | None => job.requeue.take().unwrap_or_default().0,
        };
        for done in waiting {
            let _ = done.send(Err("the batch was stopped".to_owned()));
        }
        self.schedule.remove(LineId(batch.0));
    }

    /// Corrects what a tenant was charged for a request.
    pub(super) fn uncharge(
        &mut self,
        batch: BatchId,
        bucket: BucketId,
        (was, is): (&Weights, &Weights),
    ) {
        let Some(job) = self.jobs.get(&batch) else { return };
        let (was, is) =
            (self.gate.dominant_share(bucket, was), self.gate.dominant_share(bucket, is));
        self.schedule.correct(bucket, job.tenant, was, is);
    }

    /// Takes up what users hold by hand.
    pub(super) fn hold(&mut self, pauses: Vec<(String, String)>) {
        self.pauses = pauses.into_iter().collect();
    }

    /// A page could not be read.
    pub(super) fn load_failed(&mut self, now: Now, batch: BatchId) {
        if let Some(job) = self.jobs.get_mut(&batch) {
            job.loading = None;
        }
        self.rouse(batch, now);
        self.pause_for_store(now, "the queue cannot be read".to_owned());
    }

    /// The provider counted an item's tokens, or did not.
    pub(super) fn counted(&mut self, now: Now, batch: BatchId, item: i64, tokens: Option<u64>) {
        if let Some(job) = self.jobs.get_mut(&batch) {
            job.counted.insert(item, tokens.map_or(Counted::Unknown, Counted::Exactly));
        }
        self.rouse(batch, now);
    }

    /// A user holds a batch, or lets it go on.
    pub(super) fn pause_batch(&mut self, now: Now, batch: BatchId, reason: Option<String>) {
        let Some(job) = self.jobs.get_mut(&batch) else { return };
        job.setup.paused = reason;
        if job.setup.paused.is_some() {
            self.schedule.rest(LineId(batch.0), None, now.boot);
        } else {
            self.rouse(batch, now);
        }
    }

    pub(super) fn reprioritise(
        &mut self,
        now: Now,
        batch: BatchId,
        priority: u8,
        deadline: Option<UnixMs>,
    ) {
        if let Some(job) = self.jobs.get_mut(&batch) {
            (job.setup.priority, job.setup.deadline) = (priority, deadline);
            self.line_up(batch, now);
        }
    }

    /// Nothing of a stopped batch is queued any more.
    pub(super) fn swept(&mut self, batch: BatchId) {
        self.touched.insert(batch);
        if let Some(job) = self.jobs.get_mut(&batch) {
            job.setup.remaining = 0;
            job.closing = false;
        }
    }

    /// A batch is over and its results are durable.
    pub(super) fn closed(&mut self, batch: BatchId) {
        self.turned = true;
        self.jobs.remove(&batch);
        self.schedule.remove(LineId(batch.0));
    }
}
