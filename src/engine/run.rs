//! The shell of the engine: it executes what [`Engine::step`] orders and makes no choices.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::answers::Answers as Kept;
use super::callers::{Admission, Admitted};
use super::core::Engine;
use super::endpoints::Endpoints;
use super::eta::Board;
use super::export;
use super::keys::KeyView;
use super::permit::Permit;
use super::state::{BucketView, Effect, Event, Explained, ProjectView, Question, SendOrder};
use super::text;
use crate::caps;
use crate::clock;
use crate::config::BodyRetention;
use crate::formats::{self, Answers, Ending, Request};
use crate::gate::units::UnixMs;
use crate::gate::window::AttemptId;
use crate::spool::Spool;
use crate::store::line_hash;
use crate::store::{BatchId, ItemState, ItemUpdate, NewAttempt, QueuedItem, Settlement, Store};
use crate::telemetry::chain;
use crate::upstream::{self, Client, Method, Progress};

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
    /// Where answers are kept until they are exported.
    pub answers: Kept,
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
        if let Effect::Admit(admitted) = effect {
            return self.admit(admitted);
        }
        let shell = self.clone();
        tokio::spawn(async move {
            let event = match effect {
                Effect::Load { batch, after, limit } => shell.load(batch, after, limit).await,
                Effect::Reserve(rows) => shell.reserve(rows).await,
                Effect::Send(order) => shell.send(order).await,
                Effect::Admit(admitted) => return shell.admit(admitted),
                Effect::SettleCall(attempt) => {
                    let row = Settlement { attempt: Some(*attempt), item: None };
                    shell.settle(vec![row]).await;
                    Event::CallSettled
                }
                Effect::Count(order) => shell.count(order).await,
                Effect::Settle(rows) => shell.settle(rows).await,
                Effect::Refuse { item, reason } => shell.refuse(item, reason).await,
                Effect::Sweep { batch, reason, cancelled } => {
                    shell.sweep(batch, reason, cancelled).await
                }
                Effect::Requeue(batch) => shell.requeue(batch).await,
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

    /// Lets a call go. When its client has left, the permit comes back and says so.
    fn admit(&self, admitted: Admitted) {
        let permit = Permit::new(&admitted, self.events.clone());
        let _ = admitted.reply.send(Admission::Go(permit));
    }

    async fn tell(&self, event: Event) {
        // The engine is gone only when the daemon ends.
        let _ = self.events.send(event).await;
    }

    async fn load(&self, batch: BatchId, after: i64, limit: usize) -> Event {
        let page = i64::try_from(limit).unwrap_or(i64::MAX);
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
        let key = order.form.key_of(number, &line);
        let request = match order.form.request(&order.model, &line) {
            Ok(request) => request,
            Err(error) => {
                let reason = format!("the accepted file has changed: {error}");
                return Event::Unreadable { id, key, reason, lost: true };
            }
        };
        drop(line);
        if order.stale_at.is_some_and(|stale| clock::now().boot >= stale) {
            return Event::Stale(id);
        }
        let endpoint = self.endpoints.find(order.project, order.key);
        let body = Bytes::from(request.body);
        let call = endpoint.call(method(request.method), order.model.clone(), body);
        let started = clock::now();
        let events = self.events.clone();
        let report = self.client.send(call, move |progress| {
            // Told early or not at all: the end of the attempt tells the same, only later.
            let _ = events.try_send(match progress {
                Progress::BodySent => Event::BodySent(id),
                Progress::Headers { .. } => Event::Headers(id),
            });
        });
        let report = report.await;
        let latency_ms = started.boot.until(clock::now().boot);
        let line = match &report.outcome {
            upstream::Outcome::Answered { body, .. } => {
                let request_id = report.request_id.as_deref();
                let ending = Ending::Answered { status: 200, body, request_id };
                let name = item_name(&order.work, number);
                formats::result_line(order.form.answers, &key, &name, &ending)
                    .ok()
                    .and_then(|line| String::from_utf8(line).ok())
            }
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
            Ok(line) => order.form.request(&order.model, &line).ok(),
            Err(_) => None,
        };
        // The provider counts what it would generate from, and nothing else.
        let body = body.filter(|request| request.method == formats::Method::Generate);
        let Some(Request { body, .. }) = body else {
            return Event::Counted { batch, item, tokens: None };
        };
        let endpoint = self.endpoints.find(order.project, order.key);
        let (method, model) = (Method::GenerateContent, order.model.clone());
        let call = endpoint.call(method, model, Bytes::from(body));
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
        let path = self.spool.text_path(&order.work, order.packing);
        self.line_of(path, &order.item).await
    }

    async fn line_of(&self, path: PathBuf, item: &QueuedItem) -> std::io::Result<Vec<u8>> {
        let (offset, bytes) = (item.offset, usize::try_from(item.bytes).unwrap_or(usize::MAX));
        let hash = item.hash;
        let read = move || {
            let mut line = vec![0; bytes];
            std::fs::File::open(path)?.read_exact_at(&mut line, offset)?;
            if hash.is_some_and(|hash| hash != line_hash(&line)) {
                let changed = "it is not the line that was accepted: the file was changed";
                return Err(std::io::Error::new(ErrorKind::UnexpectedEof, changed));
            }
            Ok(line)
        };
        tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
    }

    /// Writes ends until they are written: what was answered must not be lost to a full disk. The
    /// answers come first, so that the database never says of one that is not there.
    async fn settle(&self, mut rows: Vec<Settlement>) -> Event {
        self.keep_answers(&mut rows).await;
        let items = rows.iter().filter_map(|row| Some(row.item.as_ref()?.id)).collect();
        if let Err(error) = self.store.settle(rows.clone()).await {
            tracing::error!(error = %chain(&error), "settling failed: tried again");
            persist("settling", || self.store.settle_again(rows.clone())).await;
        }
        Event::Settled(items)
    }

    /// Moves the results lines of `rows` into the answers of their batches.
    async fn keep_answers(&self, rows: &mut [Settlement]) {
        let mut batches: BTreeMap<BatchId, Vec<&mut ItemUpdate>> = BTreeMap::new();
        for item in rows.iter_mut().filter_map(|row| row.item.as_mut()) {
            if item.line.is_some() {
                batches.entry(BatchId::of_item(item.id)).or_default().push(item);
            }
        }
        let kept = batches.into_iter().map(|(batch, mut items)| async move {
            let lines: Vec<_> = items.iter_mut().filter_map(|item| item.line.take()).collect();
            let append = || self.answers.append(batch, lines.clone());
            let places = persist("keeping answers", append).await;
            for (item, place) in items.into_iter().zip(places) {
                item.answer = Some(place);
            }
        });
        futures_util::future::join_all(kept).await;
    }

    async fn refuse(&self, item: QueuedItem, reason: String) -> Event {
        let line = match self.store.reader().batch(BatchId::of_item(item.id)).await {
            Ok(batch) => {
                let path = text::path_of(&self.spool, &batch);
                let line = self.line_of(path, &item).await.unwrap_or_default();
                let number = BatchId::line_of_item(item.id);
                text::form_of(&batch).ok().map(|form| {
                    let key = form.key_of(number, &line);
                    let (name, word) = (item_name(&batch.work, number), "OUT_OF_RANGE");
                    fault_line(form.answers, &key, &name, (400, word, &reason), None)
                })
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
            answer: None,
        };
        self.settle(vec![Settlement { attempt: None, item: Some(update) }]).await
    }

    async fn sweep(&self, batch: BatchId, reason: String, cancelled: bool) -> Event {
        persist("stopping a batch", || self.store.stop_batch(batch, reason.clone())).await;
        persist("stopping a batch", || self.store.sweep_stopped(batch, cancelled)).await;
        Event::Swept(batch)
    }

    async fn requeue(&self, batch: BatchId) -> Event {
        let requeued = self.store.requeue_failed(batch).await;
        let error = requeued.error.map(|error| chain(&error));
        if let Some(error) = &error {
            tracing::error!(
                batch.id = batch.0,
                items = requeued.moved,
                error,
                "cannot put all failed items back into the queue"
            );
        }
        Event::Requeued { batch, moved: requeued.moved, error }
    }

    async fn finish(&self, batch: BatchId) -> Event {
        self.answers.close(batch).await;
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
            export::sweep_bodies(&self.store, &self.spool, self.bodies, now.wall).await;
        }
        Event::Sealed { project, before }
    }
}

/// What a record asks for, as the provider's client names it.
fn method(method: formats::Method) -> Method {
    match method {
        formats::Method::Generate => Method::GenerateContent,
        formats::Method::Embed => Method::EmbedContent,
        formats::Method::Chat => Method::ChatCompletions,
        formats::Method::Embeddings => Method::Embeddings,
    }
}

/// The name of an item in results, where its dialect has one besides the key.
pub(super) fn item_name(work: &str, number: u64) -> String {
    format!("{}_{number}", work.replace('-', ""))
}

/// The results line of an item that has no answer: an HTTP status, a word for it and a message, and
/// the provider's own document if it refused.
pub(super) fn fault_line(
    answers: Answers,
    key: &str,
    item: &str,
    (code, word, message): (u16, &str, &str),
    refusal: Option<&[u8]>,
) -> String {
    let details = refusal.and_then(formats::details);
    let ending = match refusal {
        Some(_) => Ending::Refused { status: code, body: refusal, word, message, details },
        None => Ending::NotSent { code, word, message },
    };
    let line = formats::result_line(answers, key, item, &ending).expect("a fault is always told");
    String::from_utf8(line).expect("a results line is JSON, and that is UTF-8")
}

/// Tries a write until it is done, ever more patiently.
async fn persist<T, E, F, W>(doing: &'static str, mut write: F) -> T
where
    E: std::error::Error,
    F: FnMut() -> W,
    W: Future<Output = Result<T, E>>,
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
