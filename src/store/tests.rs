//! The store on real `SQLite` files.

mod batches;
mod days;
mod durability;
mod keys;
mod ledger;
mod limits;
mod migration;
mod model;
mod recall;
mod schedule;

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use super::*;
use crate::gate::admit::BucketId;
use crate::gate::units::{BootMs, Weights};

const BOOT: &str = "boot-1";

/// 2026-11-23T20:00:00Z, noon in California.
const NOON: UnixMs = UnixMs(1_795_464_000_000);

const DAY: &str = "2026-11-23";

/// A store with a project `p` that has one bucket, and a batch of queued items.
struct Fixture {
    store: Store,
    ids: ProjectIds,
    dir: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), BOOT).await.expect("a new database");
        let ids = store.sync_project(project("p")).await.expect("a project");
        Self { store, ids, dir }
    }

    fn bucket(&self) -> BucketId {
        self.ids.buckets["group"]
    }

    /// An open batch with `count` items.
    async fn batch(&self, uid: &str, count: u32) -> BatchId {
        let id = self.store.enter_batch(self.new_batch(uid)).await.expect("a batch");
        let items: Vec<_> = (1..=count).map(|number| item(id, number)).collect();
        for slice in items.chunks(1_000) {
            self.store.import_items(slice.to_vec()).await.expect("items");
        }
        self.store.open_batch(id).await.expect("an imported batch");
        id
    }

    fn new_batch(&self, uid: &str) -> NewBatch {
        NewBatch {
            uid: uid.to_owned(),
            work: format!("work-{uid}"),
            file_name: format!("{uid}.jsonl"),
            out_name: format!("out-{uid}"),
            dialect: "gemini-jsonl".to_owned(),
            project_id: self.ids.id,
            bucket_id: self.bucket(),
            model: "model".to_owned(),
            tenant: "uid:1000".to_owned(),
            priority: 2,
            in_doubt: "hold".to_owned(),
            on_bad_line: "skip".to_owned(),
            not_before: Some(NOON.plus(5)),
            deadline: Some(NOON.plus(50)),
            max_cost_nanos: Some(1_500_000_000),
            pool: Some("cheap".to_owned()),
            fallback: vec!["other".to_owned(), "third".to_owned()],
            patience_ms: Some(60_000),
            pace: "spread".to_owned(),
            template: None,
            answers: "gemini".to_owned(),
            source: source(uid),
            submitted_at: NOON,
        }
    }

    fn attempt(&self, id: i64, item_id: Option<i64>) -> NewAttempt {
        NewAttempt {
            text: None,
            origin: crate::store::Origin::default(),
            id: AttemptId(id),
            item_id,
            project_id: self.ids.id,
            bucket_id: self.bucket(),
            model: "model".to_owned(),
            key_name: "main".to_owned(),
            tenant: "uid:1000".to_owned(),
            s_wall: NOON.plus(id.unsigned_abs()),
            s_boot: BootMs(5_000 + id.unsigned_abs()),
            day_lo: DAY.to_owned(),
            est: Weights { requests: 1, input_tokens: 100, images: 3, ..Weights::default() },
        }
    }

    /// Another connection to the same file, with the pragmas that a stranger's would not have.
    async fn raw(&self) -> SqliteConnection {
        raw(self.dir.path()).await
    }

    async fn number(&self, sql: &'static str) -> i64 {
        let mut raw = self.raw().await;
        sqlx::query_scalar(sql).fetch_one(&mut raw).await.expect("a number")
    }
}

async fn raw(dir: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(database_path(dir))
        .foreign_keys(true)
        .pragma("recursive_triggers", "ON");
    SqliteConnection::connect_with(&options).await.expect("the database opens")
}

fn project(name: &str) -> ProjectSetup {
    let groups = [("group".to_owned(), vec!["model".to_owned()])].into();
    ProjectSetup { name: name.to_owned(), groups }
}

fn source(uid: &str) -> Source {
    Source { dev: 1, ino: 2, mtime_ns: 3, bytes: 4, uid: 1000, sha256: format!("sha-{uid}") }
}

fn item(batch: BatchId, number: u32) -> NewItem {
    NewItem {
        output_tokens_max: None,
        text: None,
        id: batch.item(number),
        offset: u64::from(number) * 100,
        bytes: 99,
        hash: 7,
        requests: 1,
        tokens: 7,
        images: 1,
        state: 0,
        line: None,
    }
}

/// The good end of an attempt.
fn ended(id: i64) -> EndedAttempt {
    EndedAttempt {
        id: AttemptId(id),
        end: AttemptEnd::Ok,
        u_wall: NOON.plus(900),
        u_boot: BootMs(5_900),
        day_hi: DAY.to_owned(),
        act: Weights { requests: 1, input_tokens: 42, images: 2, ..Weights::default() },
        tokens: Tokens {
            prompt: 40,
            cached: 30,
            output: 20,
            thought: 10,
            tool: 2,
            total: 72,
            raw: Some("{\"promptTokenCount\":40}".to_owned()),
        },
        http_status: Some(200),
        quota_id: None,
        service_tier: Some("standard".to_owned()),
        error: None,
        latency_ms: Some(850),
    }
}

fn moved(id: i64, state: ItemState) -> ItemUpdate {
    let line = matches!(state, ItemState::Succeeded | ItemState::Failed);
    ItemUpdate {
        id,
        state,
        attempts: 1,
        doubts: 2,
        not_before: UnixMs(0),
        line: line.then(|| format!("line of {}\n", BatchId::line_of_item(id))),
        answer: None,
    }
}

fn settled(attempt: i64, item: Option<ItemUpdate>) -> Settlement {
    Settlement { attempt: Some(ended(attempt)), item }
}

fn everything() -> UsageFilter {
    UsageFilter { since: UnixMs(0), until: UnixMs(i64::MAX), project: None, model: None }
}

/// Puts the failed items of a batch back, which must not fail.
async fn put_back(store: &Store, batch: BatchId) -> u64 {
    let requeued = store.requeue_failed(batch).await;
    assert!(requeued.error.is_none(), "{:?}", requeued.error);
    requeued.moved
}
