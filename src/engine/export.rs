//! A finished batch becomes a results file: in input order, each line once.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use super::state::CANCELLED;
use crate::caps;
use crate::clock;
use crate::config::BodyRetention;
use crate::formats::{self, Dialect};
use crate::gate::units::UnixMs;
use crate::spool::{Finish, Outcome, Spool, SpoolError};
use crate::store::{
    Batch, BatchId, BatchState, ExportItem, GroupBy, Reader, Store, StoreError, UsageFilter,
    UsageRow,
};

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
    tracing::info!(batch.id = %batch.uid, batch.name = %batch.out_name, items = batch.items,
        succeeded = batch.succeeded, failed = batch.failed,
        "batch {} is {}: {} of {} answered", batch.out_name, state.as_str(), batch.succeeded,
        batch.items);
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
        };
        let input = spool.input_path(&batch.work);
        spool.finish(&finish, |out| {
            let mut out = BufWriter::with_capacity(1 << 20, out);
            let mut input = InputLines { path: input, file: None };
            loop {
                match pages.blocking_recv() {
                    Some(Some(items)) => {
                        for item in items {
                            write_line(&mut out, &batch, item, &mut input)?;
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

fn write_line(
    out: &mut impl Write,
    batch: &Batch,
    item: ExportItem,
    input: &mut InputLines,
) -> io::Result<()> {
    if let Some(line) = item.line {
        return out.write_all(line.as_bytes());
    }
    let text = input.line(item.offset, item.bytes)?;
    let dialect = batch.dialect.parse().unwrap_or(Dialect::GeminiJsonl);
    let key = formats::key_of(dialect, None, BatchId::line_of_item(item.id), &text);
    let cut_off = "it is unknown whether the request was answered: the daemon was stopped while it \
        was under way, and the batch asks for such items to fail";
    let (code, status, message) = match &batch.stopped {
        Some(reason) if item.state == 3 => (499, "CANCELLED", reason.as_str()),
        Some(reason) if item.doubts == 0 => (424, "NOT_SENT", reason.as_str()),
        Some(_) | None => (504, "UNKNOWN", cut_off),
    };
    out.write_all(&formats::error_line(&key, code, status, message, None))
}

/// Lines of the accepted file, for items that were given no results line of their own.
struct InputLines {
    path: std::path::PathBuf,
    file: Option<std::fs::File>,
}

impl InputLines {
    fn line(&mut self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let file = match self.file.take() {
            Some(file) => file,
            None => std::fs::File::open(&self.path)?,
        };
        let mut line = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_exact_at(&mut line, offset)?;
        self.file = Some(file);
        Ok(line)
    }
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

/// Deletes kept inputs that are older than the configuration keeps them.
pub(super) async fn sweep_bodies(spool: &Arc<Spool>, bodies: BodyRetention, now: UnixMs) {
    let BodyRetention::For(age) = bodies else { return };
    let before = now.minus(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let spool = spool.clone();
    match tokio::task::spawn_blocking(move || spool.sweep_inputs(before)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(files)) => tracing::info!(files, "{files} kept inputs are past their retention"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot delete old inputs"),
    }
}
