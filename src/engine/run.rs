//! The shell of the engine: it executes what [`Engine::step`] orders and makes no choices.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::Engine;
use super::endpoints::Endpoints;
use super::eta::Board;
use super::export;
use super::keys::KeyView;
use super::state::{BucketView, Effect, Event, Explained, ProjectView, Question, SendOrder};
use crate::caps;
use crate::clock;
use crate::config::BodyRetention;
use crate::formats;
use crate::gate::units::UnixMs;
use crate::gate::window::AttemptId;
use crate::spool::Spool;
use crate::store::{
    BatchId, ItemState, ItemUpdate, NewAttempt, QueuedItem, Settlement, Store, StoreError,
};
use crate::telemetry::chain;
use crate::upstream::{self, Call, Client, Progress};

/// What the engine's shell works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shell {
    /// The database.
    pub store: Store,
    /// The directories.
    pub spool: Arc<Spool>,
    /// The provider client.
    pub client: Client,
    /// Where each project's requests go.
    pub endpoints: Endpoints,
    /// How long bodies are kept.
    pub bodies: BodyRetention,
    /// What happened, to the engine.
    pub events: mpsc::Sender<Event>,
    /// Where what is expected of batches is kept.
    pub board: Board,
}

/// A question to the running engine.
#[derive(Debug)]
pub enum Query {
    /// Every bucket and project as it stands.
    Buckets(oneshot::Sender<(Vec<BucketView>, Vec<ProjectView>)>),
    /// What a request would need, and what is there.
    Explain(Question, oneshot::Sender<Option<Explained>>),
    /// Every key as it stands.
    Keys(oneshot::Sender<Vec<KeyView>>),
    /// A copy, for a forecast.
    Copy(oneshot::Sender<Box<Engine>>),
    /// Why each of these batches waits, and until when.
    Why(Vec<BatchId>, oneshot::Sender<BTreeMap<BatchId, (UnixMs, String)>>),
}

/// Runs the engine until it was told to drain and everything in flight is settled, or the drain
/// takes longer than it may. What is still open then is in doubt at the next start.
pub async fn run(
    mut engine: Engine,
    shell: Shell,
    mut events: mpsc::Receiver<Event>,
    mut queries: mpsc::Receiver<Query>,
    mut stop: watch::Receiver<bool>,
) {
    let mut inbox = vec![Event::Tick];
    let mut drain_until = None;
    loop {
        let now = clock::now();
        for effect in engine.step(now, inbox.drain(..)) {
            shell.execute(effect);
        }
        if engine.take_turned() {
            shell.board.ring();
        }
        let overdue = drain_until.is_some_and(|until| until <= now.boot);
        if drain_until.is_some() && (engine.unsettled() == 0 || overdue) {
            return;
        }
        let tick = now.boot.plus(caps::TICK_MAX_MS);
        let wake = engine.wake().map_or(tick, |wake| wake.min(tick));
        let wake = drain_until.map_or(wake, |until| wake.min(until));
        let sleep = Duration::from_millis(now.boot.until(wake).max(1));
        tokio::select! {
            _ = events.recv_many(&mut inbox, 1024) => {}
            Some(query) = queries.recv() => answer(&mut engine, query),
            () = tokio::time::sleep(sleep) => {}
            _ = stop.changed(), if drain_until.is_none() => {
                drain_until = Some(clock::now().boot.plus(caps::DRAIN_MS));
                inbox.push(Event::Drain);
            }
        }
    }
}

/// Answers a question. Whoever asked may have gone away.
fn answer(engine: &mut Engine, query: Query) {
    let now = clock::now();
    match query {
        Query::Buckets(reply) => {
            let _ = reply.send((engine.buckets(now), engine.projects()));
        }
        Query::Explain(question, reply) => {
            let _ = reply.send(engine.explain(&question, now));
        }
        Query::Keys(reply) => {
            let _ = reply.send(engine.keys(now));
        }
        Query::Copy(reply) => {
            let _ = reply.send(Box::new(engine.copy()));
        }
        Query::Why(batches, reply) => {
            let why = |batch| Some((batch, engine.why(batch, now)?));
            let _ = reply.send(batches.into_iter().filter_map(why).collect());
        }
    }
}

impl Shell {
    fn execute(&self, effect: Effect) {
        let shell = self.clone();
        tokio::spawn(async move {
            let event = match effect {
                Effect::Load { batch, after } => shell.load(batch, after).await,
                Effect::Reserve(rows) => shell.reserve(rows).await,
                Effect::Send(order) => shell.send(order).await,
                Effect::Count(order) => shell.count(order).await,
                Effect::Settle(rows) => shell.settle(rows).await,
                Effect::Refuse { item, reason } => shell.refuse(item, reason).await,
                Effect::Sweep { batch, reason, cancelled } => {
                    shell.sweep(batch, reason, cancelled).await
                }
                Effect::Requeue(batch) => {
                    Event::Requeued { batch, count: shell.requeue(batch).await }
                }
                Effect::Finish(batch) => shell.finish(batch).await,
                Effect::Remember(memo) => {
                    persist("keeping what was learned", || shell.store.remember((*memo).clone()))
                        .await;
                    Event::Kept
                }
                Effect::KeepKey(state) => {
                    persist("keeping how a key stands", || shell.store.keep_key(state.clone()))
                        .await;
                    Event::KeyKept
                }
                Effect::Seal { project, today } => shell.seal(project, today).await,
            };
            shell.tell(event).await;
        });
    }

    async fn tell(&self, event: Event) {
        // The engine is gone only when the daemon ends.
        let _ = self.events.send(event).await;
    }

    async fn load(&self, batch: BatchId, after: i64) -> Event {
        let page = i64::try_from(caps::READY_PAGE).unwrap_or(i64::MAX);
        match self.store.reader().queued(batch, after, page).await {
            Ok(items) => Event::Loaded { batch, items },
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot read the queue");
                Event::LoadFailed(batch)
            }
        }
    }

    async fn reserve(&self, rows: Vec<NewAttempt>) -> Event {
        let ids: Vec<AttemptId> = rows.iter().map(|row| row.id).collect();
        match self.store.reserve(rows).await {
            Ok(()) => Event::Reserved(ids),
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot reserve: nothing is sent");
                let store = self.store.clone();
                let voided = ids.clone();
                tokio::spawn(async move {
                    let void = || store.void(voided.clone(), clock::now());
                    persist("voiding reservations", void).await;
                });
                Event::ReserveFailed { ids, reason: chain(&error) }
            }
        }
    }

    async fn send(&self, order: SendOrder) -> Event {
        let id = order.id;
        let number = BatchId::line_of_item(order.item.id);
        let line = match self.read_line(&order).await {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(attempt.id = id.0, %error, "cannot read an accepted file");
                let lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof);
                let reason = format!("its line in the accepted file cannot be read: {error}");
                return Event::Unreadable { id, key: number.to_string(), reason, lost };
            }
        };
        let key = formats::key_of(order.dialect, None, number, &line);
        let body = match body_of(&order, &line) {
            Ok(body) => body,
            Err(error) => {
                let reason = format!("the accepted file has changed: {error}");
                return Event::Unreadable { id, key, reason, lost: true };
            }
        };
        drop(line);
        if order.stale_at.is_some_and(|stale| clock::now().boot >= stale) {
            return Event::Stale(id);
        }
        let (base_url, api_key) = self.endpoints.find(order.project, order.key);
        let call = Call { base_url, model: order.model.clone(), key: api_key, body };
        let started = clock::now();
        let events = self.events.clone();
        let report = self.client.generate(call, move |progress| {
            // Told early or not at all: the end of the attempt tells the same, only later.
            let _ = events.try_send(match progress {
                Progress::BodySent => Event::BodySent(id),
                Progress::Headers { .. } => Event::Headers(id),
            });
        });
        let report = report.await;
        let latency_ms = started.boot.until(clock::now().boot);
        let line = match &report.outcome {
            upstream::Outcome::Answered { body, .. } => formats::response_line(&key, body)
                .ok()
                .and_then(|line| String::from_utf8(line).ok()),
            upstream::Outcome::Refused(_)
            | upstream::Outcome::NotSent { .. }
            | upstream::Outcome::Unknown { .. } => None,
        };
        Event::Ended { id, key, report: Box::new(report), line, latency_ms }
    }

    /// Has the provider count an item's tokens. What it will not count is estimated.
    async fn count(&self, order: SendOrder) -> Event {
        let (batch, item) = (BatchId::of_item(order.item.id), order.item.id);
        let body = match self.read_line(&order).await {
            Ok(line) => body_of(&order, &line).ok(),
            Err(_) => None,
        };
        let Some(body) = body else { return Event::Counted { batch, item, tokens: None } };
        let (base_url, key) = self.endpoints.find(order.project, order.key);
        let call = Call { base_url, model: order.model.clone(), key, body };
        let tokens = match self.client.count_tokens(call).await {
            Ok(tokens) => Some(tokens),
            Err(error) => {
                tracing::warn!(item.id = item, error = %chain(&error),
                    "the tokens of an item are estimated: {}", chain(&error));
                None
            }
        };
        Event::Counted { batch, item, tokens }
    }

    async fn read_line(&self, order: &SendOrder) -> std::io::Result<Vec<u8>> {
        self.line_of(&order.work, &order.item).await
    }

    async fn line_of(&self, work: &str, item: &QueuedItem) -> std::io::Result<Vec<u8>> {
        let path = self.spool.input_path(work);
        let (offset, bytes) = (item.offset, usize::try_from(item.bytes).unwrap_or(usize::MAX));
        let read = move || {
            let mut line = vec![0; bytes];
            std::fs::File::open(path)?.read_exact_at(&mut line, offset)?;
            Ok(line)
        };
        tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
    }

    /// Writes ends until they are written: what was answered must not be lost to a full disk.
    async fn settle(&self, rows: Vec<Settlement>) -> Event {
        let items = rows.iter().filter_map(|row| Some(row.item.as_ref()?.id)).collect();
        if let Err(error) = self.store.settle(rows.clone()).await {
            tracing::error!(error = %chain(&error), "settling failed: tried again");
            persist("settling", || self.store.settle_again(rows.clone())).await;
        }
        Event::Settled(items)
    }

    async fn refuse(&self, item: QueuedItem, reason: String) -> Event {
        let line = match self.store.reader().batch(BatchId::of_item(item.id)).await {
            Ok(batch) => {
                let line = self.line_of(&batch.work, &item).await.unwrap_or_default();
                let dialect = batch.dialect.parse().unwrap_or(formats::Dialect::GeminiJsonl);
                let number = BatchId::line_of_item(item.id);
                let key = formats::key_of(dialect, None, number, &line);
                let line = formats::error_line(&key, 400, "OUT_OF_RANGE", &reason, None);
                String::from_utf8(line).ok()
            }
            Err(_) => None,
        };
        let update = ItemUpdate {
            id: item.id,
            state: ItemState::Failed,
            attempts: item.attempts,
            doubts: item.doubts,
            not_before: UnixMs(0),
            line,
        };
        self.settle(vec![Settlement { attempt: None, item: Some(update) }]).await
    }

    async fn sweep(&self, batch: BatchId, reason: String, cancelled: bool) -> Event {
        persist("stopping a batch", || self.store.stop_batch(batch, reason.clone())).await;
        persist("stopping a batch", || self.store.sweep_stopped(batch, cancelled)).await;
        Event::Swept(batch)
    }

    async fn requeue(&self, batch: BatchId) -> Result<u64, String> {
        self.store.requeue_failed(batch).await.map_err(|error| chain(&error))
    }

    async fn finish(&self, batch: BatchId) -> Event {
        loop {
            match export::finish(&self.store, &self.spool, self.bodies, batch).await {
                Ok(()) => return Event::Closed(batch),
                Err(error) => {
                    tracing::error!(batch.id = batch.0, error = %chain(&error),
                        "cannot write results: tried again in 5 s");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        }
    }

    async fn seal(&self, project: i64, today: chrono::NaiveDate) -> Event {
        let now = clock::now();
        let before = match self.store.seal_days(project, today, now.wall).await {
            Ok(Some(sums)) => {
                if sums > 0 {
                    tracing::info!(project.id = project, day = %today, sums,
                        "a quota day began: the days before {today} are sealed");
                }
                Some(today)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot seal a day: tried again");
                None
            }
        };
        if matches!(self.bodies, BodyRetention::For(_)) {
            export::sweep_bodies(&self.spool, self.bodies, now.wall).await;
        }
        Event::Sealed { project, before }
    }
}

/// The body to send for an item.
fn body_of(order: &SendOrder, line: &[u8]) -> Result<Bytes, formats::LineError> {
    let wire = formats::Wire::Gemini;
    let request = formats::request_body(order.dialect, None, wire, &order.model, line)?;
    Ok(Bytes::from(request.body))
}

/// Tries a write until it is done, ever more patiently.
async fn persist<T, F, W>(doing: &'static str, mut write: F) -> T
where
    F: FnMut() -> W,
    W: Future<Output = Result<T, StoreError>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match write().await {
            Ok(value) => return value,
            Err(error) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::error!(error = %chain(&error), wait_ms, "{doing} failed: tried again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    }
}
