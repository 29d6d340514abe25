//! A dropped or submitted file becomes a batch: claimed, entered, imported, opened; or rejected
//! with every reason. Each step is durable before the next, and a start goes on where a crash cut
//! it off. To enter a file is quick and done in turn; imports queue behind, for one may be long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc, watch};

use super::desk::{Desk, SharedRoutes};
use super::dropped::{Rejection, Said, priority_of, refusal, said, source_of};
use super::export;
use super::import::{self, Ceiling, Imported};
use super::routes::{self, Found, Speech, Wish};
use super::run::Shell;
use super::state::{BatchSetup, Event, RouteTo};
use super::submission::Submission;
use super::text;
use crate::caps;
use crate::clock;
use crate::config::{PoolRoute, Provider};
use crate::formats::{self, BatchOptions, BatchPace, Form, InDoubt, OnBadLine, Template};
use crate::gate::admit::BucketId;
use crate::gate::units::UnixMs;
use crate::spool::{Candidate, Claimed, SpoolError, Unpacked, Watcher};
use crate::store::{Batch, BatchId, BatchState, NewBatch, ProjectSetup, Source, StoreError};
use crate::telemetry::chain;

/// The one who takes in files.
#[derive(Debug)]
pub struct Intake {
    /// What the engine's shell works with.
    pub(super) shell: Shell,
    /// Where requests of each project and model go.
    pub(super) routes: SharedRoutes,
    /// The configuration in force.
    desk: Desk,
    /// Set once `incoming/` has been looked through for the first time.
    scanned: watch::Sender<bool>,
    /// One file is entered at a time: names and ids are looked for, then taken.
    pub(super) turn: Mutex<()>,
    /// Rings when a batch was entered. Which ones are to be imported stands in the database.
    pub(super) entered: Notify,
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

/// What a file's options came to.
pub(super) struct Plan {
    options: BatchOptions,
    pub(super) wish: Wish,
    /// The first of the routes that can be had.
    first: RouteTo,
    /// How its records are read.
    form: Form,
}

impl Intake {
    /// Who takes in what is dropped into the shell's spool. `scanned` is set once `incoming/` has
    /// been looked through for the first time.
    #[must_use]
    pub fn new(
        shell: Shell,
        routes: SharedRoutes,
        desk: Desk,
        scanned: watch::Sender<bool>,
    ) -> Self {
        let (turn, entered) = (Mutex::default(), Notify::new());
        Self { shell, routes, desk, scanned, turn, entered }
    }

    /// Goes on with what the last run left and takes in what is dropped or submitted, until told to
    /// stop. Every step is durable before the next, so being cut off in an import is what a crash
    /// is: the next start goes on with it.
    pub async fn run(
        self,
        submissions: mpsc::Receiver<Submission>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = self.work(submissions) => {}
            // Closed means the same as true.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn work(&self, submissions: mpsc::Receiver<Submission>) {
        if let Err(error) = self.clear_orphans().await {
            tracing::error!(error = %chain(&error), "cannot look through working/");
        }
        if let Err(error) = export::clear_left_over(&self.shell.store, self.shell.bodies).await {
            tracing::error!(error = %chain(&error), "cannot clear batches that ended");
        }
        tokio::join!(self.watch_incoming(), self.take_submissions(submissions), self.import_all());
    }

    async fn watch_incoming(&self) {
        let hint = Arc::new(Notify::new());
        let ring = hint.clone();
        let _watcher = Watcher::start(self.shell.spool.incoming_path(), move || ring.notify_one());
        // No file is taken in at first sight, so this is quick, and the daemon is ready.
        let mut soon = self.scan().await;
        let _ = self.scanned.send(true);
        loop {
            let wait = if soon { caps::RESCAN_MS } else { caps::SCAN_MS };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
                () = hint.notified(), if !soon => {}
            }
            soon = self.scan().await;
        }
    }

    /// Imports what was entered, one batch after the other: first what the last end cut off.
    async fn import_all(&self) {
        let mut whole = false;
        loop {
            whole = self.resume(!whole).await;
            let retry = Duration::from_millis(caps::SCAN_MS);
            tokio::select! {
                () = self.entered.notified() => {}
                () = tokio::time::sleep(retry), if !whole => {}
            }
        }
    }

    /// Looks through `incoming/` once and takes in what is ready; says whether something in it
    /// needs another look soon.
    async fn scan(&self) -> bool {
        let spool = self.shell.spool.clone();
        let boot = clock::now().boot;
        let scan = match tokio::task::spawn_blocking(move || spool.scan(boot)).await {
            Ok(Ok(scan)) => scan,
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), "cannot look through incoming/");
                return false;
            }
            Err(_) => return false,
        };
        for refused in &scan.refused {
            tracing::warn!(file.name = %refused.name, reason = %refused.reason,
                "{} is left in incoming/: {}", refused.name, refused.reason);
        }
        for candidate in &scan.ready {
            if let Err(error) = self.accept(candidate).await {
                tracing::error!(file.name = %candidate.name.escape_debug(), error = %chain(&error),
                    "cannot take in a file: it is kept and tried again");
            }
        }
        scan.unsettled > 0 || scan.left_out > 0
    }

    async fn accept(&self, candidate: &Candidate) -> Result<(), IntakeError> {
        let work = uuid::Uuid::now_v7().to_string();
        let claimed = {
            let (spool, candidate, work) =
                (self.shell.spool.clone(), candidate.clone(), work.clone());
            blocking(move || spool.claim(&candidate, &work)).await?
        };
        let _turn = self.turn.lock().await;
        let taken = self.take(candidate, claimed, &work).await;
        self.entered.notify_one();
        if taken.is_err() {
            self.forget_copy(&work).await?;
        }
        taken
    }

    /// Removes a copy that belongs to no batch, since its original is still in `incoming/` or with
    /// the client: tries in vain must not fill the disk with copies.
    pub(super) async fn forget_copy(&self, work: &str) -> Result<(), IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        if open.iter().any(|batch| batch.work == work) {
            return Ok(());
        }
        let (spool, work) = (self.shell.spool.clone(), work.to_owned());
        blocking(move || spool.remove_working(&work)).await
    }

    async fn take(
        &self,
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
        let said = match said(&self.shell.spool, &candidate.name, &claimed).await? {
            Ok(said) => said,
            Err(reason) => return self.reject_unentered(candidate, work, None, reason).await,
        };
        let id = said.options.id.map(|id| id.to_string());
        let plan = match self.plan(said).await? {
            Ok(plan) => plan,
            Err(reason) => return self.reject_unentered(candidate, work, id, reason).await,
        };
        // Whoever gave it an id asks for a batch of its own.
        if id.is_none()
            && let Some((open, uid)) = self.same_file(&candidate.name, &source, &plan).await?
        {
            tracing::info!(batch.id = %uid, "the same file again: batch {uid} is still open");
            self.shell.store.drop_again(open).await?;
            return self.drop_copy(candidate, work).await;
        }
        self.enter(&candidate.name, &claimed, source, plan).await?;
        let (spool, work) = (self.shell.spool.clone(), claimed.id);
        let original = candidate.clone();
        blocking(move || spool.release_original(&work, &original.name, &original.identity)).await?;
        Ok(())
    }

    /// The open batch that the same file, asking for the same, has become before.
    pub(super) async fn same_file(
        &self,
        file_name: &str,
        source: &Source,
        plan: &Plan,
    ) -> Result<Option<(BatchId, String)>, IntakeError> {
        let reader = self.shell.store.reader();
        let Some((id, uid)) = reader.same_file(file_name, source).await? else {
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
            && batch.template == plan.form.template.as_ref().map(Template::to_json)
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
    pub(super) async fn plan(&self, said: Said) -> Result<Result<Plan, String>, IntakeError> {
        let Said { head, mut options } = said;
        if options.model.is_none() && options.pool.is_none() {
            options.model = head.model();
        }
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
        let provider = |route: &PoolRoute| {
            config.project(&route.project).map_or(Provider::Gemini, |project| project.provider)
        };
        let asked = wish.first.first().map_or(Provider::Gemini, provider);
        let form = match head.form(&options, asked) {
            Ok(form) => form,
            Err(reason) => return Ok(Err(reason)),
        };
        let speech = Speech { form: &form, model: head.model(), config: &config };
        let unknown = Found::of(&wish, &speech, &self.routes.read()).to_learn;
        for route in &unknown {
            self.learn(&route.project, &route.model).await?;
        }
        let found = Found::of(&wish, &speech, &self.routes.read());
        let Some(first) = found.routes.first().filter(|route| !route.fallback).cloned() else {
            return Ok(Err(found.left_out.join("; ")));
        };
        Ok(Ok(Plan { options, wish, first, form }))
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

    /// Makes a batch of a file, durably. It waits for its import.
    pub(super) async fn enter(
        &self,
        file_name: &str,
        claimed: &Claimed,
        source: Source,
        plan: Plan,
    ) -> Result<Batch, IntakeError> {
        let Plan { options, wish, first, form } = plan;
        let name = formats::recognise(file_name).expect("planned files are known");
        let out_name = self.free_name(options.name.as_deref().unwrap_or(name.stem)).await?;
        let uid = options.id.map_or_else(|| claimed.id.clone(), |id| id.to_string());
        let owner = format!("uid:{}", claimed.source.uid);
        let batch = NewBatch {
            uid: uid.clone(),
            work: claimed.id.clone(),
            file_name: file_name.to_owned(),
            out_name,
            dialect: form.dialect.as_str().to_owned(),
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
            template: form.template.as_ref().map(Template::to_json),
            answers: form.answers.as_str().to_owned(),
            source,
            submitted_at: clock::now().wall,
        };
        let id = self.shell.store.enter_batch(batch).await?;
        let batch = self.shell.store.reader().batch(id).await?;
        tracing::info!(batch.id = %uid, file.name = %file_name.escape_debug(),
            project.name = %batch.project, "batch {uid} is accepted");
        Ok(batch)
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
        let spool = self.shell.spool.clone();
        let (work, packing) = (batch.work.clone(), text::file_of(batch).1);
        if let Unpacked::Bad(reason) = blocking(move || spool.unpack(&work, packing)).await? {
            return self.reject(batch, reason, Imported::default()).await;
        }
        let path = text::path_of(&self.shell.spool, batch);
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
        blocking(move || {
            let submitter = Some(known.source_uid);
            spool.reject(&known.work, &known.out_name, &known.file_name, &json, submitter)
        })
        .await?;
        self.end_rejected(batch).await
    }

    async fn end_rejected(&self, batch: &Batch) -> Result<(), IntakeError> {
        let store = &self.shell.store;
        store.clear_items(batch.id).await?;
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
            let submitter = Some(candidate.identity.uid);
            spool.reject(&work, &name, &candidate.name, &json, submitter)?;
            spool.release_original(&work, &candidate.name, &candidate.identity)
        })
        .await?;
        Ok(())
    }

    /// Clears away copies of which nothing was entered, once a batch was made of their content: of
    /// the original, which was taken again, or of the same file dropped twice.
    async fn clear_orphans(&self) -> Result<(), IntakeError> {
        let open = self.shell.store.reader().unfinished_batches().await?;
        let known: std::collections::BTreeSet<_> =
            open.iter().map(|batch| batch.work.clone()).collect();
        let spool = self.shell.spool.clone();
        let orphans = blocking(move || {
            let orphans = spool.orphans(&|id| known.contains(id))?.into_iter();
            let hashed = orphans.map(|work| Ok((spool.hash_of_input(&work)?, work)));
            hashed.collect::<Result<Vec<_>, SpoolError>>()
        })
        .await?;
        for (hash, work) in orphans {
            let is_known = match hash {
                Some(sha256) => {
                    self.shell.store.reader().knows_content(&super::dropped::hex(&sha256)).await?
                }
                None => true,
            };
            if !is_known {
                tracing::warn!(work = %work, "working/{work} belongs to no batch: it is kept, \
                    remove it when its content is known elsewhere");
                continue;
            }
            let spool = self.shell.spool.clone();
            blocking(move || spool.remove_working(&work)).await?;
        }
        Ok(())
    }

    /// Imports every batch that was entered, and `with_open` tells the engine of the open ones;
    /// false when something of it did not come about.
    async fn resume(&self, with_open: bool) -> bool {
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
                BatchState::Open if with_open => self.tell_open(batch).await,
                BatchState::Open
                | BatchState::Done
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

pub(super) async fn blocking<T, E>(
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
