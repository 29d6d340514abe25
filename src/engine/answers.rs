//! Answers become durable: appended to the file of their batch before the database knows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::spool::{AnswersFile, Spool, SpoolError};
use crate::store::{AnswerAt, BatchId, Reader, StoreError, line_hash};

/// Requests that share one look at the disk; as many as attempts share a commit.
const GROUP_MAX: usize = 256;

/// Files kept open: more batches are hardly answered at the same time.
const OPEN_MAX: usize = 256;

/// Why answers could not be kept, now.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswersError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the daemon is ending")]
    Ending,
}

/// Where answers are kept. Clones write through the same task, so each file has one writer.
#[derive(Clone, Debug)]
pub struct Answers {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Append { batch: BatchId, lines: Vec<String>, reply: Reply },
    Close(BatchId),
}

type Reply = oneshot::Sender<Result<Vec<AnswerAt>, Arc<AnswersError>>>;

impl Answers {
    /// Starts the task; it ends with the last clone.
    #[must_use]
    pub fn start(reader: Reader, spool: Arc<Spool>) -> Self {
        let (orders, inbox) = mpsc::channel(GROUP_MAX);
        tokio::spawn(Keeper { reader, spool, files: BTreeMap::new() }.run(inbox));
        Self { orders }
    }

    /// Appends results lines to the answers of `batch` and says where each stands. They are durable
    /// when this returns.
    pub(super) async fn append(
        &self,
        batch: BatchId,
        lines: Vec<String>,
    ) -> Result<Vec<AnswerAt>, Arc<AnswersError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.send(Order::Append { batch, lines, reply }).await;
        sent.map_err(|_| Arc::new(AnswersError::Ending))?;
        answer.await.map_err(|_| Arc::new(AnswersError::Ending))?
    }

    /// Closes the file of a batch that is over.
    pub(super) async fn close(&self, batch: BatchId) {
        // Without the task it is closed.
        let _ = self.orders.send(Order::Close(batch)).await;
    }
}

struct Keeper {
    reader: Reader,
    spool: Arc<Spool>,
    files: BTreeMap<BatchId, AnswersFile>,
}

/// What is appended to one file with one sync.
type Group = Vec<(Vec<String>, Reply)>;

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut orders = Vec::with_capacity(GROUP_MAX);
        while inbox.recv_many(&mut orders, GROUP_MAX).await > 0 {
            let mut groups: BTreeMap<BatchId, Group> = BTreeMap::new();
            for order in orders.drain(..) {
                match order {
                    Order::Append { batch, lines, reply } => {
                        groups.entry(batch).or_default().push((lines, reply));
                    }
                    Order::Close(batch) => drop(self.files.remove(&batch)),
                }
            }
            if self.files.len() > OPEN_MAX {
                self.files.clear();
            }
            let mut writes = Vec::new();
            for (batch, group) in groups {
                match self.open(batch).await {
                    Ok(file) => writes.push(write(batch, file, group)),
                    Err(error) => refuse(group, error),
                }
            }
            for (batch, file) in futures_util::future::join_all(writes).await {
                self.files.extend(file.map(|file| (batch, file)));
            }
        }
    }

    async fn open(&mut self, batch: BatchId) -> Result<AnswersFile, AnswersError> {
        if let Some(file) = self.files.remove(&batch) {
            return Ok(file);
        }
        let end = self.reader.answers_end(batch).await?;
        let (work, spool) = (self.reader.batch(batch).await?.work, self.spool.clone());
        let opened = tokio::task::spawn_blocking(move || spool.answers(&work, end)).await;
        Ok(opened.map_err(|_| AnswersError::Ending)??)
    }
}

/// Writes a group and gives the file back, unless its task was ended.
async fn write(
    batch: BatchId,
    mut file: AnswersFile,
    group: Group,
) -> (BatchId, Option<AnswersFile>) {
    let written = tokio::task::spawn_blocking(move || {
        let lines = group.iter().flat_map(|(lines, _)| lines).map(String::as_bytes);
        let places = file.append(lines);
        match places {
            Ok(places) => answer(group, &places),
            Err(error) => refuse(group, AnswersError::Spool(error)),
        }
        file
    });
    (batch, written.await.ok())
}

fn answer(group: Group, places: &[u64]) {
    let mut places = places.iter();
    for (lines, reply) in group {
        let at = lines.iter().zip(&mut places).map(|(line, offset)| AnswerAt {
            offset: *offset,
            bytes: u64::try_from(line.len()).unwrap_or(u64::MAX),
            hash: line_hash(line.as_bytes()),
        });
        // Whoever asked may have gone away; the lines stand, and nobody refers to them.
        let _ = reply.send(Ok(at.collect()));
    }
}

fn refuse(group: Group, error: AnswersError) {
    let error = Arc::new(error);
    for (_, reply) in group {
        let _ = reply.send(Err(error.clone()));
    }
}
