//! A dropped file becomes a batch: claimed, entered, imported, opened; or rejected with every
//! reason. Each step is durable before the next, and a start goes on where a crash cut it off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::desk::{Desk, SharedRoutes};
use super::dropped::{self, Rejection, options, priority_of, refusal, source_of};
use super::import::{self, Ceiling, Imported};
use super::routes::{self, Found, Wish};
use super::run::Shell;
use super::state::{BatchSetup, Event, RouteTo};
use crate::caps;
use crate::clock;
use crate::formats::{self, BatchOptions, BatchPace, InDoubt, OnBadLine};
use crate::gate::admit::BucketId;
use crate::gate::units::UnixMs;
use crate::spool::{Candidate, Claimed, SpoolError, Watcher};
use crate::store::{Batch, BatchId, BatchState, NewBatch, ProjectSetup, Source, StoreError};
use crate::telemetry::chain;

/// The one who takes in dropped files, one at a time.
#[derive(Debug)]
pub struct Intake {
    /// What the engine's shell works with.
    pub shell: Shell,
    /// Where requests of each project and model go.
    pub routes: SharedRoutes,
    /// The configuration in force.
    pub desk: Desk,
    /// Set once `incoming/` has been looked through for the first time.
    pub scanned: watch::Sender<bool>,
}

/// What keeps a file from being taken in, now.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("cannot read {path}")]
    Read {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What a look through `incoming/` came to.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// Something in it needs another look soon.
    soon: bool,
    /// A file could not be taken in.
    failed: bool,
}

/// What a file's options came to.
struct Plan {
    options: BatchOptions,
    wish: Wish,
    /// The first of the routes that can be had.
    first: RouteTo,
}

impl Intake {
    /// Goes on with what the last run left and takes in what is dropped, until told to stop. Every
    /// step is durable before the next, so being cut off in an import is what a crash is: the next
    /// start goes on with it.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.work() => {}
            // Closed means the same as true.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn work(&mut self) {
        if let Err(error) = self.clear_orphans().await {
            tracing::error!(error = %chain(&error), "cannot look through working/");
        }
        // By the last end, or by a full disk since.
        let mut cut_off = true;
        let hint = Arc::new(Notify::new());
        let ring = hint.clone();
        let _watcher = Watcher::start(self.shell.spool.incoming_path(), move || ring.notify_one());
        // No file is taken in at first sight, so this is quick, and the daemon is ready.
        let mut look = self.scan().await;
        let _ = self.scanned.send(true);
        loop {
            if cut_off {
                cut_off = !self.resume().await;
            }
            let wait = if look.soon { caps::RESCAN_MS } else { caps::SCAN_MS };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
                () = hint.notified(), if !look.soon => {}
            }
            look = self.scan().await;
            cut_off |= look.failed;
        }
    }

    /// Looks through `incoming/` once and takes in what is ready.
    async fn scan(&mut self) -> Look {
        let spool = self.shell.spool.clone();
        let boot = clock::now().boot;
        let scan = match tokio::task::spawn_blocking(move || spool.scan(boot)).await {
            Ok(Ok(scan)) => scan,
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), "cannot look through incoming/");
                return Look::default();
            }
            Err(_) => return Look::default(),
        };
        let mut look = Look { soon: scan.unsettled > 0 || scan.left_out > 0, failed: false };
        for refused in &scan.refused {
            tracing::warn!(file.name = %refused.name, reason = %refused.reason,
                "{} is left in incoming/: {}", refused.name, refused.reason);
        }
        for candidate in &scan.ready {
            if let Err(error) = self.accept(candidate).await {
                look.failed = true;
                tracing::error!(file.name = %candidate.name.escape_debug(), error = %chain(&error),
                    "cannot take in a file: it is kept and tried again");
            }
        }
        look
    }

    async fn accept(&mut self, candidate: &Candidate) -> Result<(), IntakeError> {
        let work = uuid::Uuid::now_v7().to_string();
        let claimed = {
            let (spool, candidate, work) =
                (self.shell.spool.clone(), candidate.clone(), work.clone());
            blocking(move || spool.claim(&candidate, &work)).await?
        };
        let taken = self.take(candidate, claimed, &work).await;
        if taken.is_err() {
            self.forget_copy(&work).await?;
        }
        taken
    }

    /// Removes a copy that belongs to no batch, since its original is still in `incoming/`: tries
    /// in vain must not fill the disk with copies.
    async fn forget_copy(&self, work: &str) -> Result<(), IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        if open.iter().any(|batch| batch.work == work) {
            return Ok(());
        }
        let (spool, work) = (self.shell.spool.clone(), work.to_owned());
        blocking(move || spool.remove_working(&work)).await
    }

    async fn take(
        &mut self,
        candidate: &Candidate,
        claimed: Claimed,
        work: &str,
    ) -> Result<(), IntakeError> {
        let source = source_of(&claimed);
        let reader = self.shell.store.reader();
        // Inodes are used again and times are copied along, so the same values may be a new drop.
        if let Some((id, uid)) = reader.same_drop(&source).await?
            && claimed.changed <= reader.batch(id).await?.submitted_at
        {
            tracing::info!(batch.id = %uid, "this drop is known: its original is removed");
            return self.drop_copy(candidate, work).await;
        }
        let options = match options(&candidate.name, &claimed).await? {
            Ok(options) => options,
            Err(reason) => return self.reject_unentered(candidate, work, None, reason).await,
        };
        let id = options.id.map(|id| id.to_string());
        let plan = match self.plan(options).await? {
            Ok(plan) => plan,
            Err(reason) => return self.reject_unentered(candidate, work, id, reason).await,
        };
        // Whoever gave it an id asks for a batch of its own.
        if id.is_none()
            && let Some((open, uid)) = self.same_file(candidate, &source, &plan).await?
        {
            tracing::info!(batch.id = %uid, "the same file again: batch {uid} is still open");
            self.shell.store.drop_again(open).await?;
            return self.drop_copy(candidate, work).await;
        }
        self.enter(candidate, claimed, source, plan).await
    }

    /// The open batch that the same drop, asking for the same, has become before.
    async fn same_file(
        &self,
        candidate: &Candidate,
        source: &Source,
        plan: &Plan,
    ) -> Result<Option<(BatchId, String)>, IntakeError> {
        let reader = self.shell.store.reader();
        let Some((id, uid)) = reader.same_file(&candidate.name, source).await? else {
            return Ok(None);
        };
        let batch = reader.batch(id).await?;
        let options = &plan.options;
        let same = batch.project_id == plan.first.project
            && batch.model == plan.first.model
            && batch.pool == plan.wish.pool
            && batch.fallback == plan.wish.fallback
            && batch.patience_ms == options.patience_ms
            && batch.pace == options.pace.unwrap_or(BatchPace::Asap).as_str()
            && batch.deadline == options.deadline.map(UnixMs::from)
            && batch.max_cost_nanos == max_cost_nanos(options)
            && batch.priority == priority_of(options)
            && batch.in_doubt == options.in_doubt.unwrap_or(InDoubt::Retry).as_str()
            && batch.on_bad_line == options.on_bad_line.unwrap_or(OnBadLine::Reject).as_str()
            && batch.not_before == options.not_before.map(UnixMs::from);
        Ok(same.then_some((id, uid)))
    }

    /// The copy in `working/` is not needed: the content is in another batch's.
    async fn drop_copy(&self, candidate: &Candidate, work: &str) -> Result<(), IntakeError> {
        let (spool, candidate, work) =
            (self.shell.spool.clone(), candidate.clone(), work.to_owned());
        blocking(move || {
            spool.release_original(&work, &candidate.name, &candidate.identity)?;
            spool.remove_working(&work)
        })
        .await
    }

    /// What the file asks for, or why it cannot be had.
    async fn plan(&mut self, options: BatchOptions) -> Result<Result<Plan, String>, IntakeError> {
        if let Some(id) = &options.id
            && self.shell.store.reader().batch_by_uid(&id.to_string()).await?.is_some()
        {
            return Ok(Err(format!("the batch id {id} is in use: leave it out or make a new one")));
        }
        let config = self.desk.config();
        let wish = match Wish::of(&options, &config) {
            Ok(wish) => wish,
            Err(reason) => return Ok(Err(reason)),
        };
        if options.max_cost_micro_usd.is_some() {
            let models = wish.models();
            let models = models.iter().map(|(project, model)| (project.as_str(), model.as_str()));
            if let Some(reason) = routes::unpriced(models, &config, clock::now().wall) {
                return Ok(Err(reason));
            }
        }
        let unknown = Found::of(&wish, &self.routes.read()).to_learn;
        for route in &unknown {
            self.learn(&route.project, &route.model).await?;
        }
        let found = Found::of(&wish, &self.routes.read());
        let Some(first) = found.routes.first().filter(|route| !route.fallback).cloned() else {
            return Ok(Err(found.left_out.join("; ")));
        };
        Ok(Ok(Plan { options, wish, first }))
    }

    /// Makes a bucket for a model that nobody knows.
    async fn learn(&self, project: &str, model: &str) -> Result<(), IntakeError> {
        tracing::warn!(
            project.name = project,
            model,
            "the limits of {model} are not known: one \
            request at a time at first"
        );
        let groups = [(model.to_owned(), vec![model.to_owned()])].into();
        let setup = ProjectSetup { name: project.to_owned(), groups };
        let ids = self.shell.store.sync_project(setup).await?;
        let id: BucketId = ids.buckets[model];
        self.routes.write().add(project, model, id);
        self.tell(Event::BucketFound { id, project: ids.id, group: model.to_owned() }).await;
        Ok(())
    }

    async fn enter(
        &self,
        candidate: &Candidate,
        claimed: Claimed,
        source: Source,
        plan: Plan,
    ) -> Result<(), IntakeError> {
        let Plan { options, wish, first } = plan;
        let stem = formats::recognise(&candidate.name).expect("planned files are known").stem;
        let dialect = dropped::dialect(&candidate.name).expect("planned files are known");
        let out_name = self.free_name(options.name.as_deref().unwrap_or(stem)).await?;
        let uid = options.id.map_or_else(|| claimed.id.clone(), |id| id.to_string());
        let owner = format!("uid:{}", claimed.source.uid);
        let batch = NewBatch {
            uid: uid.clone(),
            work: claimed.id.clone(),
            file_name: candidate.name.clone(),
            out_name,
            dialect: dialect.as_str().to_owned(),
            project_id: first.project,
            bucket_id: first.bucket,
            model: first.model,
            priority: priority_of(&options),
            tenant: options.tenant.clone().unwrap_or(owner),
            in_doubt: options.in_doubt.unwrap_or(InDoubt::Retry).as_str().to_owned(),
            on_bad_line: options.on_bad_line.unwrap_or(OnBadLine::Reject).as_str().to_owned(),
            not_before: options.not_before.map(UnixMs::from),
            deadline: options.deadline.map(UnixMs::from),
            max_cost_nanos: max_cost_nanos(&options),
            pool: wish.pool,
            fallback: wish.fallback,
            patience_ms: options.patience_ms,
            pace: options.pace.unwrap_or(BatchPace::Asap).as_str().to_owned(),
            source,
            submitted_at: clock::now().wall,
        };
        let id = self.shell.store.enter_batch(batch).await?;
        let (spool, work) = (self.shell.spool.clone(), claimed.id.clone());
        let original = candidate.clone();
        blocking(move || spool.release_original(&work, &original.name, &original.identity)).await?;
        let batch = self.shell.store.reader().batch(id).await?;
        tracing::info!(batch.id = %uid, file.name = %candidate.name.escape_debug(),
            project.name = %batch.project, "batch {uid} is accepted");
        self.import(&batch).await
    }

    async fn free_name(&self, wanted: &str) -> Result<String, IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        let taken: std::collections::BTreeSet<_> =
            open.into_iter().map(|batch| batch.out_name).collect();
        let (spool, wanted) = (self.shell.spool.clone(), wanted.to_owned());
        blocking(move || spool.free_name(&wanted, |name| taken.contains(name))).await
    }

    /// Reads every line into the queue, then opens the batch or rejects its file.
    async fn import(&self, batch: &Batch) -> Result<(), IntakeError> {
        let store = &self.shell.store;
        store.clear_import(batch.id).await?;
        let path = self.shell.spool.input_path(&batch.work);
        let found = routes::found_of(batch, &self.routes.read(), &self.desk.config());
        let ceiling = Ceiling::of(&found.ceilings());
        let imported = import::import(store, batch, path, ceiling).await?;
        let skip = batch.on_bad_line == OnBadLine::Skip.as_str();
        if let Some(reason) = refusal(&imported, skip) {
            return self.reject(batch, reason, imported).await;
        }
        store.open_batch(batch.id).await?;
        let batch = store.reader().batch(batch.id).await?;
        tracing::info!(batch.id = %batch.uid, items = batch.items, bad_lines = imported.bad_lines,
            "batch {} has {} items", batch.uid, batch.items);
        self.tell_open(&batch).await?;
        Ok(())
    }

    async fn reject(
        &self,
        batch: &Batch,
        reason: String,
        imported: Imported,
    ) -> Result<(), IntakeError> {
        tracing::warn!(batch.id = %batch.uid, file.name = %batch.file_name.escape_debug(),
            bad_lines = imported.bad_lines, "batch {} is rejected: {reason}", batch.uid);
        let store = &self.shell.store;
        store.note_rejection(batch.id, reason.clone()).await?;
        let rejection = Rejection {
            file: batch.file_name.clone(),
            batch: Some(batch.uid.clone()),
            reason,
            bad_lines: imported.bad_lines,
            lines: imported.listed,
            rejected_at: clock::now().wall.to_string(),
        };
        let json = rejection.json();
        let (spool, known) = (self.shell.spool.clone(), batch.clone());
        blocking(move || spool.reject(&known.work, &known.out_name, &known.file_name, &json))
            .await?;
        self.end_rejected(batch).await
    }

    async fn end_rejected(&self, batch: &Batch) -> Result<(), IntakeError> {
        let store = &self.shell.store;
        store.clear_import(batch.id).await?;
        store.finish_batch(batch.id, BatchState::Rejected, clock::now().wall).await?;
        Ok(())
    }

    /// Rejects a file before there is a batch of it.
    async fn reject_unentered(
        &self,
        candidate: &Candidate,
        work: &str,
        id: Option<String>,
        reason: String,
    ) -> Result<(), IntakeError> {
        tracing::warn!(file.name = %candidate.name.escape_debug(), "a file is rejected: {reason}");
        let name = self.free_name(crate::spool::stem(&candidate.name)).await?;
        let rejection = Rejection {
            file: candidate.name.clone(),
            batch: id,
            reason,
            bad_lines: 0,
            lines: Vec::new(),
            rejected_at: clock::now().wall.to_string(),
        };
        let json = rejection.json();
        let (spool, candidate, work) =
            (self.shell.spool.clone(), candidate.clone(), work.to_owned());
        blocking(move || {
            spool.reject(&work, &name, &candidate.name, &json)?;
            spool.release_original(&work, &candidate.name, &candidate.identity)
        })
        .await?;
        Ok(())
    }

    /// Clears away copies of which nothing was entered.
    async fn clear_orphans(&self) -> Result<(), IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        let known: std::collections::BTreeSet<_> =
            open.iter().map(|batch| batch.work.clone()).collect();
        let spool = self.shell.spool.clone();
        blocking(move || {
            for work in spool.orphans(&|id| known.contains(id))? {
                if spool.input_path(&work).exists() {
                    tracing::warn!(work = %work, "working/{work} belongs to no open batch: it is \
                        kept, remove it when its content is known elsewhere");
                } else {
                    spool.remove_working(&work)?;
                }
            }
            Ok::<_, SpoolError>(())
        })
        .await
    }

    /// Goes on with every import that was cut off; false when one was cut off again.
    async fn resume(&self) -> bool {
        let open = match self.shell.store.reader().unfinished_batches().await {
            Ok(open) => open,
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot look for unfinished imports");
                return false;
            }
        };
        let mut all = true;
        for batch in &open {
            let resumed = match batch.state {
                BatchState::Importing => self.resume_import(batch).await,
                // Known already, unless the word of it was lost to a failed read.
                BatchState::Open => self.tell_open(batch).await,
                BatchState::Done
                | BatchState::Failed
                | BatchState::Cancelled
                | BatchState::Rejected => Ok(()),
            };
            if let Err(error) = resumed {
                all = false;
                tracing::error!(batch.id = %batch.uid, error = %chain(&error),
                    "cannot go on with the import of batch {}: tried again", batch.uid);
            }
        }
        all
    }

    async fn resume_import(&self, batch: &Batch) -> Result<(), IntakeError> {
        if !self.shell.spool.input_path(&batch.work).exists() {
            return self.end_rejected(batch).await;
        }
        self.import(batch).await
    }

    /// Tells the engine of an open batch, and of what users said in between.
    async fn tell_open(&self, batch: &Batch) -> Result<(), IntakeError> {
        let reach = routes::of_batch(batch, &self.routes.read(), &self.desk.config());
        self.tell(Event::BatchOpened(Box::new(BatchSetup::of(batch, reach)?))).await;
        let now = self.shell.store.reader().batch(batch.id).await?;
        let (priority, deadline, batch_id) = (now.priority, now.deadline, now.id);
        if (priority, deadline) != (batch.priority, batch.deadline) {
            self.tell(Event::Reprioritise { batch: batch_id, priority, deadline }).await;
        }
        if now.paused != batch.paused {
            let reason = now.paused.clone();
            self.tell(Event::PauseBatch { batch: batch_id, reason }).await;
        }
        if let Some((reason, cancelled)) = BatchSetup::of(&now, Vec::new())?.stopped {
            self.tell(Event::Stop { batch: batch_id, reason, cancelled }).await;
        }
        Ok(())
    }

    async fn tell(&self, event: Event) {
        // The engine is gone only when the daemon ends.
        let _ = self.shell.events.send(event).await;
    }
}

/// What a batch may cost at most, in billionths of a US dollar.
fn max_cost_nanos(options: &BatchOptions) -> Option<u64> {
    options.max_cost_micro_usd.map(|micros| micros.saturating_mul(1_000))
}

async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, IntakeError>
where
    T: Send + 'static,
    E: Send + 'static,
    IntakeError: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(source) => Err(IntakeError::Read {
            path: std::path::PathBuf::new(),
            source: std::io::Error::other(source),
        }),
    }
}
