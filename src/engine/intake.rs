//! A dropped file becomes a batch: claimed, entered, imported, opened; or rejected with every
//! reason. Each step is durable before the next, and a start goes on where a crash cut it off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::desk::SharedRoutes;
use super::dropped::{Rejection, options, priority_of, refusal, source_of};
use super::import::{self, Ceiling, Imported};
use super::run::Shell;
use super::start::Route;
use super::state::{BatchSetup, Event};
use crate::caps;
use crate::clock;
use crate::config::Defaults;
use crate::formats::{self, BatchOptions, InDoubt, OnBadLine};
use crate::gate::admit::BucketId;
use crate::gate::limits::Limit;
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
    /// What a file that does not say gets.
    pub defaults: Defaults,
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
    project: String,
    project_id: i64,
    model: String,
    bucket: BucketId,
    limits: Arc<[Limit]>,
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
        let same = batch.project_id == plan.project_id
            && batch.model == plan.model
            && batch.priority == priority_of(&plan.options)
            && batch.in_doubt == plan.options.in_doubt.unwrap_or(InDoubt::Retry).as_str()
            && batch.on_bad_line == plan.options.on_bad_line.unwrap_or(OnBadLine::Reject).as_str()
            && batch.not_before == plan.options.not_before.map(UnixMs::from);
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
        if options.deadline.is_some() || options.max_cost_micro_usd.is_some() {
            let reason = "`deadline` and `max_cost` are not supported by this version: leave them \
                out, or the batch would be sent without regard to them";
            return Ok(Err(reason.to_owned()));
        }
        if let Some(id) = &options.id
            && self.shell.store.reader().batch_by_uid(&id.to_string()).await?.is_some()
        {
            return Ok(Err(format!("the batch id {id} is in use: leave it out or make a new one")));
        }
        let project = options.project.clone().unwrap_or_else(|| self.defaults.project.clone());
        let Some(model) = options.model.clone().or_else(|| self.defaults.model.clone()) else {
            let reason = "no model: name one in the file's options, or `model` in [defaults]";
            return Ok(Err(reason.to_owned()));
        };
        let found = self.routes.read().find(&project, &model);
        let Some((project_id, route)) = found else {
            let routes = self.routes.read();
            let known: Vec<_> = routes.projects().collect();
            let reason =
                format!("no project {project}: the configuration has {}", known.join(", "));
            return Ok(Err(reason));
        };
        let (bucket, limits) = match route {
            Route::Bucket { id, limits } => (id, limits),
            Route::Learn => (self.learn(&project, project_id, &model).await?, Arc::default()),
            Route::Off(source) => {
                let reason = format!("{model} is not offered to project {project} ({source})");
                return Ok(Err(reason));
            }
            Route::Unknown => {
                let reason = format!(
                    "the limits of {model} are not known to project {project}, which refuses such \
                    models (unknown_models): add a [[project.limits]] table for it"
                );
                return Ok(Err(reason));
            }
        };
        Ok(Ok(Plan { options, project, project_id, model, bucket, limits }))
    }

    /// Makes a bucket for a model that nobody knows.
    async fn learn(
        &mut self,
        project: &str,
        project_id: i64,
        model: &str,
    ) -> Result<BucketId, IntakeError> {
        tracing::warn!(
            project.name = project,
            model,
            "the limits of {model} are not known: one \
            request at a time at first"
        );
        let groups = [(model.to_owned(), vec![model.to_owned()])].into();
        let setup = ProjectSetup { name: project.to_owned(), groups };
        let ids = self.shell.store.sync_project(setup).await?;
        let id = ids.buckets[model];
        self.routes.write().add(project, model, id);
        self.tell(Event::BucketFound { id, project: project_id, group: model.to_owned() }).await;
        Ok(id)
    }

    async fn enter(
        &self,
        candidate: &Candidate,
        claimed: Claimed,
        source: Source,
        plan: Plan,
    ) -> Result<(), IntakeError> {
        let options = plan.options;
        let (dialect, stem) = formats::recognise(&candidate.name).expect("planned files are known");
        let out_name = self.free_name(options.name.as_deref().unwrap_or(stem)).await?;
        let uid = options.id.map_or_else(|| claimed.id.clone(), |id| id.to_string());
        let owner = format!("uid:{}", claimed.source.uid);
        let batch = NewBatch {
            uid: uid.clone(),
            work: claimed.id.clone(),
            file_name: candidate.name.clone(),
            out_name,
            dialect: dialect.as_str().to_owned(),
            project_id: plan.project_id,
            bucket_id: plan.bucket,
            model: plan.model,
            priority: priority_of(&options),
            tenant: options.tenant.unwrap_or(owner),
            in_doubt: options.in_doubt.unwrap_or(InDoubt::Retry).as_str().to_owned(),
            on_bad_line: options.on_bad_line.unwrap_or(OnBadLine::Reject).as_str().to_owned(),
            not_before: options.not_before.map(UnixMs::from),
            deadline: None,
            max_cost_nanos: None,
            pool: None,
            fallback: Vec::new(),
            patience_ms: None,
            pace: "asap".to_owned(),
            source,
            submitted_at: clock::now().wall,
        };
        let id = self.shell.store.enter_batch(batch).await?;
        let (spool, work) = (self.shell.spool.clone(), claimed.id.clone());
        let original = candidate.clone();
        blocking(move || spool.release_original(&work, &original.name, &original.identity)).await?;
        tracing::info!(batch.id = %uid, file.name = %candidate.name.escape_debug(),
            project.name = %plan.project, "batch {uid} is accepted");
        let batch = self.shell.store.reader().batch(id).await?;
        self.import(&batch, &plan.limits).await
    }

    async fn free_name(&self, wanted: &str) -> Result<String, IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        let taken: std::collections::BTreeSet<_> =
            open.into_iter().map(|batch| batch.out_name).collect();
        let (spool, wanted) = (self.shell.spool.clone(), wanted.to_owned());
        blocking(move || spool.free_name(&wanted, |name| taken.contains(name))).await
    }

    /// Reads every line into the queue, then opens the batch or rejects its file.
    async fn import(&self, batch: &Batch, limits: &Arc<[Limit]>) -> Result<(), IntakeError> {
        let store = &self.shell.store;
        store.clear_import(batch.id).await?;
        let path = self.shell.spool.input_path(&batch.work);
        let ceiling = Ceiling::of(limits, &batch.model);
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
        let limits = match self.routes.read().find(&batch.project, &batch.model) {
            Some((_, Route::Bucket { limits, .. })) => limits,
            _ => Arc::default(),
        };
        self.import(batch, &limits).await
    }

    /// Tells the engine of an open batch, and of a stop that came in between.
    async fn tell_open(&self, batch: &Batch) -> Result<(), IntakeError> {
        self.tell(Event::BatchOpened(Box::new(BatchSetup::of(batch)?))).await;
        let setup = BatchSetup::of(&self.shell.store.reader().batch(batch.id).await?)?;
        if let Some((reason, cancelled)) = setup.stopped {
            self.tell(Event::Stop { batch: batch.id, reason, cancelled }).await;
        }
        Ok(())
    }

    async fn tell(&self, event: Event) {
        // The engine is gone only when the daemon ends.
        let _ = self.shell.events.send(event).await;
    }
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
