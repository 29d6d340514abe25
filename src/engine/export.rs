//! A finished batch becomes a results file: in input order, each line once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use super::run::{fault_line, item_name};
use super::state::CANCELLED;
use super::text;
use crate::caps;
use crate::clock;
use crate::config::BodyRetention;
use crate::formats::Form;
use crate::gate::units::UnixMs;
use crate::spool::{Finish, Outcome, Spool, SpoolError};
use crate::store::{
    AnswerAt, Batch, BatchId, BatchState, ExportItem, GroupBy, Reader, Store, StoreError,
    UsageFilter, UsageRow, line_hash,
};
use crate::telemetry::chain;

/// What keeps results from being written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directories failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The task that writes was ended.
    #[error("writing results was cut off")]
    CutOff,
}

/// `NAME.report.json`.
#[derive(Debug, Serialize)]
struct BatchReport<'a> {
    id: &'a str,
    name: &'a str,
    file: &'a str,
    project: &'a str,
    model: &'a str,
    tenant: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'a str>,
    items: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    blocked: u64,
    dropped_again: u64,
    attempts: i64,
    throttled: i64,
    in_doubt: i64,
    input_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    thought_tokens: i64,
    tool_tokens: i64,
    total_tokens: i64,
    images: i64,
    submitted_at: String,
    finished_at: String,
    sha256: &'a str,
}

/// Writes a batch's results and report into `done/` or `failed/`, then ends it in the database. Run
/// again after a crash at any point it ends in the same state.
pub(super) async fn finish(
    store: &Store,
    spool: &Arc<Spool>,
    bodies: BodyRetention,
    id: BatchId,
) -> Result<(), ExportError> {
    let batch = store.reader().batch(id).await?;
    let state = if batch.stopped.as_deref() == Some(CANCELLED) && batch.cancelled > 0 {
        BatchState::Cancelled
    } else if batch.succeeded > 0 {
        BatchState::Done
    } else {
        BatchState::Failed
    };
    let outcome = outcome_of(&batch);
    let now = clock::now().wall;
    let report = report(store.reader(), &batch, state, now).await?;
    let (pages, lines) = mpsc::channel(2);
    let write = write_results(spool.clone(), batch.clone(), outcome, report, bodies, lines);
    let writer = tokio::task::spawn_blocking(write);
    let read = feed(store.reader(), id, pages).await;
    let written = writer.await.map_err(|_| ExportError::CutOff)?;
    // A failed read is why the file was cut off, so it is the one to tell.
    read?;
    written?;
    store.finish_batch(id, state, now).await?;
    if let Err(error) = clear(store, bodies, id).await {
        // The results are there; the next start clears it.
        tracing::error!(batch.id = %batch.uid, error = %chain(&error), "cannot clear a batch");
    }
    tracing::info!(batch.id = %batch.uid, batch.name = %batch.out_name, items = batch.items,
        succeeded = batch.succeeded, failed = batch.failed,
        "batch {} is {}: {} of {} answered", batch.out_name, state.as_str(), batch.succeeded,
        batch.items);
    Ok(())
}

/// Deletes what is not needed of an ended batch: failed items may be tried again as long as its
/// file is kept.
async fn clear(store: &Store, bodies: BodyRetention, id: BatchId) -> Result<(), StoreError> {
    match bodies {
        BodyRetention::For(_) => store.clear_ended(id).await,
        BodyRetention::UntilDone | BodyRetention::InFlight => store.clear_items(id).await,
    }
}

/// Clears ended batches whose end a crash overtook.
///
/// # Errors
/// The database's.
pub(super) async fn clear_left_over(
    store: &Store,
    bodies: BodyRetention,
) -> Result<(), StoreError> {
    for id in store.reader().finished_with_rows().await? {
        clear(store, bodies, id).await?;
    }
    Ok(())
}

/// In which directory a finished batch's results are.
#[must_use]
pub fn outcome_of(batch: &Batch) -> Outcome {
    if batch.succeeded > 0 { Outcome::Done } else { Outcome::Failed }
}

/// A page of items; `None` says that all were told.
type Page = Option<Vec<ExportItem>>;

async fn feed(reader: &Reader, id: BatchId, pages: mpsc::Sender<Page>) -> Result<(), ExportError> {
    let mut after = 0;
    loop {
        let items = reader.export(id, after, caps::EXPORT_PAGE).await?;
        let Some(last) = items.last() else { break };
        after = last.id;
        // The results may be there already: then nobody reads.
        if pages.send(Some(items)).await.is_err() {
            return Ok(());
        }
    }
    let _ = pages.send(None).await;
    Ok(())
}

fn write_results(
    spool: Arc<Spool>,
    batch: Batch,
    outcome: Outcome,
    report: Vec<u8>,
    bodies: BodyRetention,
    mut pages: mpsc::Receiver<Page>,
) -> impl FnOnce() -> Result<(), ExportError> {
    move || {
        let finish = Finish {
            id: &batch.work,
            outcome,
            name: &batch.out_name,
            report: &report,
            keep_input: matches!(bodies, BodyRetention::For(_)),
            submitter: Some(batch.source_uid),
        };
        let mut lines = Lines::of(&spool, &batch)?;
        spool.finish(&finish, |out| {
            let mut out = BufWriter::with_capacity(1 << 20, out);
            loop {
                match pages.blocking_recv() {
                    Some(Some(items)) => {
                        for item in items {
                            out.write_all(&lines.of_ended(&item)?)?;
                        }
                    }
                    Some(None) => return out.flush(),
                    None => return Err(io::Error::other("the results could not all be read")),
                }
            }
        })?;
        Ok(())
    }
}

/// The results lines of a batch, from its answers and, of items that have none, made up.
struct Lines {
    batch: Batch,
    form: Form,
    spool: Arc<Spool>,
    input: Option<File>,
    answers: Option<File>,
}

impl Lines {
    fn of(spool: &Arc<Spool>, batch: &Batch) -> Result<Self, StoreError> {
        let form = text::form_of(batch)?;
        Ok(Self { batch: batch.clone(), form, spool: spool.clone(), input: None, answers: None })
    }

    /// The line that answers an item; `None` while there is none.
    fn of_item(&mut self, item: &ExportItem) -> io::Result<Option<Vec<u8>>> {
        match (&item.line, &item.answer) {
            (Some(line), _) => Ok(Some(line.as_bytes().to_vec())),
            (None, Some(answer)) => self.answer(item, answer).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The line of an item that has come to its end, made up when it was given none.
    fn of_ended(&mut self, item: &ExportItem) -> io::Result<Vec<u8>> {
        if let Some(line) = self.of_item(item)? {
            return Ok(line);
        }
        let cut_off = "it is unknown whether the request was answered: the daemon was stopped \
            while it was under way, and the batch asks for such items to fail";
        let (code, status, message) = match &self.batch.stopped {
            Some(reason) if item.state == 3 => (499, "CANCELLED", reason.clone()),
            Some(reason) if item.doubts == 0 => (424, "NOT_SENT", reason.clone()),
            Some(_) | None => (504, "UNKNOWN", cut_off.to_owned()),
        };
        self.fault(item, code, status, &message)
    }

    fn answer(&mut self, item: &ExportItem, at: &AnswerAt) -> io::Result<Vec<u8>> {
        let file = match self.answers.take() {
            Some(file) => file,
            None => self.spool.read_answers(&self.batch.work).map_err(io::Error::other)?,
        };
        let mut line = vec![0; usize::try_from(at.bytes).map_err(io::Error::other)?];
        let read = file.read_exact_at(&mut line, at.offset);
        self.answers = Some(file);
        match read {
            Ok(()) if line_hash(&line) == at.hash => return Ok(line),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            Ok(()) | Err(_) => {}
        }
        tracing::error!(batch.id = %self.batch.uid, item.id = item.id,
            "the kept answer of an item is damaged: it is answered by an error");
        let lost = "it was answered, and the answer was damaged on the daemon's disk";
        self.fault(item, 500, "DATA_LOSS", lost)
    }

    fn fault(
        &mut self,
        item: &ExportItem,
        code: u16,
        status: &str,
        message: &str,
    ) -> io::Result<Vec<u8>> {
        let file = match self.input.take() {
            Some(file) => file,
            None => File::open(text::path_of(&self.spool, &self.batch))?,
        };
        let mut text = vec![0; usize::try_from(item.bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut text, item.offset)?;
        self.input = Some(file);
        let number = BatchId::line_of_item(item.id);
        let key = self.form.key_of(number, &text);
        let name = item_name(&self.batch.work, number);
        Ok(fault_line(self.form.answers, &key, &name, (code, status, message), None).into_bytes())
    }
}

/// The results of an open batch so far: in input order, as many as there are, a page at a time. The
/// last page is an error when the batch ended meanwhile, for then some may be missing.
pub fn so_far(
    reader: Reader,
    spool: Arc<Spool>,
    batch: Batch,
) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (pages, told) = mpsc::channel(2);
    tokio::spawn(async move {
        if let Err(error) = tell_so_far(&reader, &spool, &batch, &pages).await {
            // Whoever asked may have gone away.
            let _ = pages.send(Err(error)).await;
        }
    });
    told
}

async fn tell_so_far(
    reader: &Reader,
    spool: &Arc<Spool>,
    batch: &Batch,
    pages: &mpsc::Sender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let mut lines = Lines::of(spool, batch).map_err(io::Error::other)?;
    let mut after = 0;
    loop {
        let items = reader.answered(batch.id, after, caps::EXPORT_PAGE).await;
        let items = items.map_err(io::Error::other)?;
        let Some(last) = items.last() else { break };
        after = last.id;
        let read = move || {
            let mut page = Vec::new();
            for item in &items {
                page.extend(lines.of_item(item)?.unwrap_or_default());
            }
            io::Result::Ok((page, lines))
        };
        let (page, back) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        lines = back;
        if pages.send(Ok(page)).await.is_err() {
            return Ok(());
        }
    }
    let now = reader.batch(batch.id).await.map_err(io::Error::other)?;
    if now.finished_at.is_some() {
        return Err(io::Error::other("the batch ended meanwhile: ask again"));
    }
    Ok(())
}

async fn report(
    reader: &Reader,
    batch: &Batch,
    state: BatchState,
    now: UnixMs,
) -> Result<Vec<u8>, StoreError> {
    let used = used(reader, batch, now).await?;
    let report = BatchReport {
        id: &batch.uid,
        name: &batch.out_name,
        file: &batch.file_name,
        project: &batch.project,
        model: &batch.model,
        tenant: &batch.tenant,
        state: state.as_str(),
        stopped: batch.stopped.as_deref(),
        items: batch.items,
        succeeded: batch.succeeded,
        failed: batch.failed,
        cancelled: batch.cancelled,
        blocked: batch.blocked,
        dropped_again: batch.dropped_again,
        attempts: used.attempts,
        throttled: used.throttled,
        in_doubt: used.in_doubt,
        input_tokens: used.input_tokens,
        cached_tokens: used.cached_tokens,
        output_tokens: used.output_tokens,
        thought_tokens: used.thought_tokens,
        tool_tokens: used.tool_tokens,
        total_tokens: used.total_tokens,
        images: used.images,
        submitted_at: batch.submitted_at.to_string(),
        finished_at: now.to_string(),
        sha256: &batch.sha256,
    };
    let mut json = serde_json::to_vec_pretty(&report).map_err(|error| {
        StoreError::Inconsistent(format!("a report cannot be written: {error}"))
    })?;
    json.push(b'\n');
    Ok(json)
}

async fn used(reader: &Reader, batch: &Batch, now: UnixMs) -> Result<UsageRow, StoreError> {
    let by = GroupBy { batch: true, ..GroupBy::default() };
    let filter = UsageFilter {
        since: batch.submitted_at.minus(1_000),
        until: now.plus(1_000),
        // Its routes may lead to others than its row names.
        project: None,
        model: None,
    };
    let rows = reader.usage(by, &filter).await?;
    let own = rows.into_iter().find(|row| row.batch.as_ref() == Some(&batch.uid));
    Ok(own.unwrap_or_default())
}

/// Deletes kept inputs that are older than the configuration keeps them, and the items that could
/// be tried again from them.
pub(super) async fn sweep_bodies(
    store: &Store,
    spool: &Arc<Spool>,
    bodies: BodyRetention,
    now: UnixMs,
) {
    let BodyRetention::For(age) = bodies else { return };
    let before = now.minus(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let files = spool.clone();
    match tokio::task::spawn_blocking(move || files.sweep_inputs(before)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(files)) => tracing::info!(files, "{files} kept inputs are past their retention"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot delete old inputs"),
    }
    if let Err(error) = forget_items(store, before).await {
        tracing::warn!(error = %chain(&error), "cannot delete old items");
    }
}

async fn forget_items(store: &Store, before: UnixMs) -> Result<(), StoreError> {
    for id in store.reader().ended_before(before).await? {
        store.clear_items(id).await?;
    }
    Ok(())
}
