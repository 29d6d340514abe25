//! One writer, two lanes, group commit.
//!
//! Reservations and settlements wait in the fast lane and share commits; everything else waits in
//! the bulk lane, one transaction each, and its callers keep each one to a few milliseconds. A
//! caller hears only after its transaction is durable.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connect;
use super::error::StoreError;
use super::ledger::{self, NewAttempt, Settlement};

/// Commands that may share one commit. More would only make each caller wait longer: with 256
/// waiting it is already 20 times as many admissions as a commit each (`docs/performance.md`).
const GROUP_MAX: usize = 256;

/// How long an end that nobody waits for waits for a reservation to share its commit: else the
/// next call of a client that asks again at once would wait for two commits.
const COMPANY: Duration = Duration::from_millis(3);

/// Commands that may wait in a lane before callers are pushed back.
const LANE_MAX: usize = 4096;

type Ack<T> = oneshot::Sender<Result<T, StoreError>>;
type Job = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Applied> + Send>;
type Applied = Result<Box<dyn FnOnce(Result<(), StoreError>) + Send>, StoreError>;

/// A caller's side of the writer.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    fast: mpsc::Sender<Fast>,
    bulk: mpsc::Sender<Bulk>,
}

/// When a transaction of the bulk lane survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before its caller hears of it.
    Now,
    /// With the next one that is durable at once, or not at all: for rows that nobody relies on
    /// before that. Transactions stay whole and in order either way.
    Later,
}

enum Fast {
    Reserve(Vec<NewAttempt>, Ack<()>),
    /// With `true` a commit of the same may have been durable although it was reported as failed.
    Settle(Vec<Settlement>, bool, Ack<()>),
}

struct Bulk {
    job: Job,
    durability: Durability,
    fail: Box<dyn FnOnce(StoreError) + Send>,
}

impl Writer {
    /// Starts the writer task on `conn`; it ends when the last `Writer` is dropped.
    pub(super) fn start(path: PathBuf, conn: SqliteConnection) -> Self {
        let (fast, fast_in) = mpsc::channel(LANE_MAX);
        let (bulk, bulk_in) = mpsc::channel(LANE_MAX);
        let durability = Durability::Now;
        let task = Task { path, conn: Some(conn), durability, fast: fast_in, bulk: bulk_in };
        tokio::spawn(task.run());
        Self { fast, bulk }
    }

    pub(super) async fn reserve(&self, rows: Vec<NewAttempt>) -> Result<(), StoreError> {
        let (ack, answer) = oneshot::channel();
        let sent = self.fast.send(Fast::Reserve(rows, ack)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn settle(
        &self,
        rows: Vec<Settlement>,
        again: bool,
    ) -> Result<(), StoreError> {
        let (ack, answer) = oneshot::channel();
        let sent = self.fast.send(Fast::Settle(rows, again, ack)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `job` in a transaction of its own in the bulk lane.
    pub(super) async fn bulk<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        self.bulk_with(Durability::Now, job).await
    }

    /// The same, durable now or later.
    pub(super) async fn bulk_with<T, F>(
        &self,
        durability: Durability,
        job: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        let (ack, answer) = oneshot::channel::<Result<T, StoreError>>();
        let ack = std::sync::Arc::new(std::sync::Mutex::new(Some(ack)));
        let tell = move |ack: &std::sync::Mutex<Option<Ack<T>>>, result| {
            if let Some(ack) = ack.lock().ok().and_then(|mut ack| ack.take()) {
                // The caller may have gone away; its write stands all the same.
                let _ = ack.send(result);
            }
        };
        let failing = ack.clone();
        let job: Job = Box::new(move |conn| {
            Box::pin(async move {
                let value = job(conn).await?;
                let done: Box<dyn FnOnce(Result<(), StoreError>) + Send> =
                    Box::new(move |committed| tell(&ack, committed.map(|()| value)));
                Ok(done)
            })
        });
        let fail = Box::new(move |error| tell(&failing, Err(error)));
        let sent = self.bulk.send(Bulk { job, durability, fail }).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

struct Task {
    path: PathBuf,
    conn: Option<SqliteConnection>,
    /// What `conn` is set to.
    durability: Durability,
    fast: mpsc::Receiver<Fast>,
    bulk: mpsc::Receiver<Bulk>,
}

impl Task {
    async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        let (mut fast_open, mut bulk_open) = (true, true);
        while fast_open || bulk_open {
            tokio::select! {
                biased;
                count = self.fast.recv_many(&mut group, GROUP_MAX), if fast_open => {
                    fast_open = count > 0;
                    if fast_open && group.iter().all(Fast::is_patient) {
                        let company = self.fast.recv_many(&mut group, GROUP_MAX);
                        fast_open = timeout(COMPANY, company).await != Ok(0);
                    }
                    self.commit_group(&mut group).await;
                    // One bulk slice after each group: neither lane starves the other.
                    if let Ok(bulk) = self.bulk.try_recv() {
                        self.commit_bulk(bulk).await;
                    }
                }
                bulk = self.bulk.recv(), if bulk_open => match bulk {
                    Some(bulk) => self.commit_bulk(bulk).await,
                    None => bulk_open = false,
                },
            }
        }
    }

    async fn commit_group(&mut self, group: &mut Vec<Fast>) {
        if group.is_empty() {
            return;
        }
        match self.try_group(group).await {
            Ok(()) => group.drain(..).for_each(|command| command.answer(Ok(()))),
            Err(error) if group.len() == 1 => {
                group.drain(..).for_each(|command| command.answer(Err(error.clone())));
            }
            // One bad command must not fail its neighbours: each gets its own transaction.
            Err(_) => {
                for command in group.drain(..) {
                    let mut alone = vec![command];
                    let result = self.try_group(&alone).await;
                    if let Some(command) = alone.pop() {
                        command.answer(result);
                    }
                }
            }
        }
    }

    async fn try_group(&mut self, group: &[Fast]) -> Result<(), StoreError> {
        if group.iter().all(|command| matches!(command, Fast::Reserve(..))) {
            // One statement is a transaction by itself, and one way to SQLite's thread, not three.
            let conn = self.set_to(Durability::Now).await?;
            let applied = apply(conn, group).await;
            if applied.is_err() {
                self.conn = None;
            }
            return applied;
        }
        let conn = self.begin_with(Durability::Now).await?;
        let applied = apply(conn, group).await;
        self.end(applied).await
    }

    async fn commit_bulk(&mut self, bulk: Bulk) {
        let applied = match self.begin_with(bulk.durability).await {
            Ok(conn) => (bulk.job)(conn).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(done) => done(self.end(Ok(())).await),
            Err(error) => {
                let _ = self.end(Err(error.clone())).await;
                (bulk.fail)(error);
            }
        }
    }

    /// Begins a transaction whose commit is synced, or is not.
    async fn begin_with(
        &mut self,
        durability: Durability,
    ) -> Result<&mut SqliteConnection, StoreError> {
        self.set_to(durability).await?;
        self.begin().await
    }

    /// Has commits synced, or not. The setting belongs to the connection, so it is set before each
    /// transaction; a new one has it.
    async fn set_to(
        &mut self,
        durability: Durability,
    ) -> Result<&mut SqliteConnection, StoreError> {
        if self.durability != durability || self.conn.is_none() {
            let conn = match self.conn.take() {
                Some(conn) => conn,
                None => connect::writer(&self.path).await?,
            };
            let pragma = match durability {
                Durability::Now => "PRAGMA synchronous=FULL",
                Durability::Later => "PRAGMA synchronous=NORMAL",
            };
            let conn = self.conn.insert(conn);
            if let Err(source) = sqlx::query(pragma).execute(&mut *conn).await {
                self.conn = None;
                return Err(StoreError::sql("setting when commits are synced")(source));
            }
            self.durability = durability;
        }
        self.conn.as_mut().ok_or(StoreError::Closed)
    }

    async fn begin(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let Some(conn) = self.conn.as_mut() else { return Err(StoreError::Closed) };
        // Plain statements, not sqlx's transaction type: its depth counter goes wrong for ever when
        // SQLite rolls back by itself on a full disk.
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await;
        if let Err(source) = begun {
            self.conn = None;
            return Err(StoreError::sql("beginning a transaction")(source));
        }
        Ok(self.conn.as_mut().expect("just inserted"))
    }

    /// Commits what was applied. After any failure the connection is closed, which rolls back, and
    /// the next transaction opens another: after a failed commit only a fresh look is the truth.
    async fn end(&mut self, applied: Result<(), StoreError>) -> Result<(), StoreError> {
        let result = match (applied, self.conn.as_mut()) {
            (Ok(()), Some(conn)) => sqlx::query("COMMIT")
                .execute(conn)
                .await
                .map(drop)
                .map_err(StoreError::sql("committing")),
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        if result.is_err() {
            self.conn = None;
        }
        result
    }
}

impl Fast {
    /// Whether it is the end of calls alone: what a batch does next may wait for the end of an
    /// item, and nothing waits for that of a call.
    fn is_patient(&self) -> bool {
        match self {
            Self::Settle(rows, false, _) => rows.iter().all(|row| row.item.is_none()),
            Self::Reserve(..) | Self::Settle(_, true, _) => false,
        }
    }

    fn answer(self, result: Result<(), StoreError>) {
        let (Self::Reserve(_, ack) | Self::Settle(_, _, ack)) = self;
        // The caller may have gone away; its write stands all the same.
        let _ = ack.send(result);
    }
}

/// Writes every command of a group, each kind with one statement.
async fn apply(conn: &mut SqliteConnection, group: &[Fast]) -> Result<(), StoreError> {
    let mut reserves = Vec::new();
    let mut settles = Vec::new();
    for command in group {
        match command {
            Fast::Reserve(rows, _) => reserves.extend(rows),
            Fast::Settle(rows, false, _) => settles.extend(rows),
            Fast::Settle(rows, true, _) => {
                let done = ledger::settled_before(conn, rows).await?;
                settles.extend(rows.iter().filter(|row| !row.is_in(&done)));
            }
        }
    }
    if !reserves.is_empty() {
        ledger::insert_attempts(conn, &reserves).await?;
    }
    if !settles.is_empty() {
        ledger::apply_settlements(conn, &settles).await?;
    }
    Ok(())
}
