//! The failed items of a finished batch become a job file of their own, dropped like any other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::dropped::hex;
use super::export::outcome_of;
use super::text;
use crate::caps;
use crate::config::Config;
use crate::formats::{self, BatchOptions, Form, Priority};
use crate::gate::units::UnixMs;
use crate::spool::{self, Spool, SpoolError};
use crate::store::{Batch, BatchId, ItemLine, Reader, StoreError};

/// Why failed items cannot be tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// None failed, bad lines excepted.
    #[error("no item of batch {0} failed that could be tried again; bad lines are to be mended")]
    Nothing(String),
    /// The job file is not there any more, or is another one.
    #[error(
        "the job file of batch {id} is not kept any more ({}; see retention.bodies): submit its \
        prompts again", path.display()
    )]
    Gone {
        /// The batch.
        id: String,
        /// Where it was.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directories failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// A job file of items that are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// The id of the batch that it becomes.
    pub id: String,
    /// How many items are in it.
    pub items: u64,
}

/// Drops the failed items of a finished batch into `incoming/` under an id of their own, in input
/// order and with the options that the batch had. Bad lines are left out.
///
/// # Errors
/// Nothing was dropped then.
pub async fn again(
    reader: &Reader,
    spool: &Arc<Spool>,
    config: &Config,
    batch: &Batch,
) -> Result<Again, RetryError> {
    let first = reader.failed_lines(batch.id, 0, 1).await?;
    if first.is_empty() {
        return Err(RetryError::Nothing(batch.uid.clone()));
    }
    let path = spool.kept_input_path(outcome_of(batch), &batch.out_name);
    let (checked, known) = (path.clone(), batch.clone());
    let beside = spool.incoming_path().with_file_name("working");
    let input = blocking(&path, move || open_input(&checked, &known, &beside)).await?;
    let id = Uuid::now_v7();
    let name = retry_name(&batch.out_name);
    let options = formats::sidecar_text(&options(batch, config, id, &name));
    let (pages, lines) = mpsc::channel(2);
    let (form, model) = (text::form_of(batch)?, batch.model.clone());
    let mut content = FailedLines::new(input, form, model, lines);
    let root = config.server.spool_dir.clone();
    let drop_in = move || {
        let dropped = spool::drop_in(&root, &format!("{name}.jsonl"), &mut content, Some(&options));
        Ok(dropped.map(|_| content.items)?)
    };
    let (dropped, read) = tokio::join!(blocking(&path, drop_in), feed(reader, batch.id, pages));
    // A failed read is why the file was cut off, so it is the one to tell.
    read?;
    Ok(Again { id: id.to_string(), items: dropped? })
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, RetryError> + Send + 'static,
) -> Result<T, RetryError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| RetryError::Read {
        path: path.to_path_buf(),
        source: io::Error::other(error),
    })?
}

async fn feed(
    reader: &Reader,
    id: BatchId,
    pages: mpsc::Sender<Option<Vec<ItemLine>>>,
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let lines = reader.failed_lines(id, after, caps::EXPORT_PAGE).await?;
        let Some(last) = lines.last() else { break };
        after = last.id;
        // Whoever writes has failed, and tells it.
        if pages.send(Some(lines)).await.is_err() {
            return Ok(());
        }
    }
    let _ = pages.send(None).await;
    Ok(())
}

/// The kept job file, which must be the one that was accepted: names are used again.
/// Unpacked, if need be, into a file without a name in `beside`.
fn open_input(path: &Path, batch: &Batch, beside: &Path) -> Result<File, RetryError> {
    let gone = || RetryError::Gone { id: batch.uid.clone(), path: path.to_path_buf() };
    let unreadable = |source| RetryError::Read { path: path.to_path_buf(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(unreadable)?;
    if hex(&hash.finalize()) != batch.sha256 {
        return Err(gone());
    }
    file.rewind().map_err(unreadable)?;
    let unpacked = spool::unpacked(file, text::file_of(batch).1, beside).map_err(unreadable)?;
    unpacked.map_err(|reason| unreadable(io::Error::other(reason)))
}

/// `NAME.retry`, short enough for a name.
fn retry_name(name: &str) -> String {
    let stem = name.strip_suffix(".retry").unwrap_or(name);
    let room = formats::NAME_BYTES_MAX - ".retry".len();
    let end = (0..=room.min(stem.len())).rev().find(|end| stem.is_char_boundary(*end));
    format!("{}.retry", &stem[..end.unwrap_or(0)])
}

/// The options that a batch had.
fn options(batch: &Batch, config: &Config, id: Uuid, name: &str) -> BatchOptions {
    let pool = batch.pool.clone().filter(|pool| config.pools.contains_key(pool));
    let instant = |at: UnixMs| -> DateTime<Utc> { at.to_utc() };
    BatchOptions {
        project: Some(batch.project.clone()),
        model: pool.is_none().then(|| batch.model.clone()),
        pool,
        fallback: (!batch.fallback.is_empty()).then(|| batch.fallback.clone()),
        patience_ms: batch.patience_ms,
        pace: batch.pace.parse().ok(),
        priority: Some(match batch.priority {
            0 => Priority::High,
            2 => Priority::Low,
            _ => Priority::Normal,
        }),
        tenant: Some(batch.tenant.clone()),
        deadline: batch.deadline.map(instant),
        not_before: batch.not_before.map(instant),
        name: Some(name.to_owned()),
        max_cost_micro_usd: batch.max_cost_nanos.map(|nanos| nanos / 1_000),
        in_doubt: batch.in_doubt.parse().ok(),
        on_bad_line: batch.on_bad_line.parse().ok(),
        // Its lines are whole requests.
        template: None,
        id: Some(id),
    }
}

/// The lines of failed items, one after the other. Prompts become lines of the dialect in which
/// they are answered, under the key that they had.
struct FailedLines {
    input: File,
    form: Form,
    model: String,
    pages: mpsc::Receiver<Option<Vec<ItemLine>>>,
    page: VecDeque<ItemLine>,
    line: Vec<u8>,
    told: usize,
    items: u64,
}

impl FailedLines {
    fn new(
        input: File,
        form: Form,
        model: String,
        pages: mpsc::Receiver<Option<Vec<ItemLine>>>,
    ) -> Self {
        let (page, line) = (VecDeque::new(), Vec::new());
        Self { input, form, model, pages, page, line, told: 0, items: 0 }
    }

    /// Goes on to the next line; false behind the last one.
    fn advance(&mut self) -> io::Result<bool> {
        while self.page.is_empty() {
            match self.pages.blocking_recv() {
                Some(Some(page)) => self.page.extend(page),
                Some(None) => return Ok(false),
                None => return Err(io::Error::other("the failed items could not all be read")),
            }
        }
        let Some(item) = self.page.pop_front() else { return Ok(false) };
        let length = usize::try_from(item.bytes).map_err(io::Error::other)?;
        let mut line = vec![0; length];
        self.input.read_exact_at(&mut line, item.offset)?;
        let number = BatchId::line_of_item(item.id);
        let mut line = self.form.as_line(&self.model, number, &line).map_err(io::Error::other)?;
        line.push(b'\n');
        (self.line, self.told) = (line, 0);
        self.items += 1;
        Ok(true)
    }
}

impl Read for FailedLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.told == self.line.len() && !self.advance()? {
            return Ok(0);
        }
        let rest = &self.line[self.told..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.told += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one() {
        assert_eq!(retry_name("job"), "job.retry");
        assert_eq!(retry_name("job.retry"), "job.retry");
        assert_eq!(retry_name("job.2"), "job.2.retry");
        let long = "é".repeat(100);
        let name = retry_name(&long);
        assert!(name.len() <= formats::NAME_BYTES_MAX && name.starts_with("ééé"), "{name}");
        let drop = format!("{name}.jsonl");
        assert_eq!(formats::recognise(&drop).map(|name| name.stem.len()), Ok(name.len()));
    }
}
