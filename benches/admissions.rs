//! Durable admissions: what the group commit makes of many callers, beside a transaction for each
//! admission and beside the disk itself.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Result;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tidegate::gate::admit::BucketId;
use tidegate::gate::units::{BootMs, UnixMs, Weights};
use tidegate::gate::window::AttemptId;
use tidegate::store::{
    AttemptEnd, EndedAttempt, NewAttempt, ProjectSetup, Settlement, Store, Tokens,
};
use tokio::task::JoinSet;

use support::{now, percentile, rate, ratio, row};

const CALLERS: [usize; 4] = [1, 16, 64, 256];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(1);

/// Rates of all rounds, and what each caller waited, in microseconds.
#[derive(Default)]
struct Measured {
    rates: Vec<u64>,
    waits_us: Vec<u64>,
}

impl Measured {
    fn add(&mut self, begun: std::time::Instant, waits_us: Vec<u64>) {
        let count = u64::try_from(waits_us.len()).unwrap_or(u64::MAX);
        self.rates.push(rate(count, begun.elapsed()));
        self.waits_us.extend(waits_us);
    }

    fn rate(&mut self) -> u64 {
        percentile(&mut self.rates, 50)
    }

    fn waits(&mut self) -> String {
        let (p50, p99) = (percentile(&mut self.waits_us, 50), percentile(&mut self.waits_us, 99));
        format!("p50 {p50} µs, p99 {p99} µs")
    }
}

/// A database with one project, and the ids of its attempts.
#[derive(Clone)]
struct Ledger {
    store: Store,
    project_id: i64,
    bucket_id: BucketId,
    next: Arc<AtomicI64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let ledger = Ledger::open(&dir.path().join("grouped")).await?;
    let (alone_pool, alone) = one_connection(&dir.path().join("alone")).await?;
    let mut floor = Measured::default();
    for callers in CALLERS {
        let (mut admitted, mut pairs, mut single) = <(Measured, Measured, Measured)>::default();
        for _ in 0..ROUNDS {
            append(&dir.path().join("appended"), &mut floor)?;
            let grouped = ledger.clone();
            race(callers, &mut admitted, move || grouped.clone().admit()).await?;
            let paired = ledger.clone();
            race(callers, &mut pairs, move || paired.clone().admit_and_settle()).await?;
            let (pool, other) = (alone_pool.clone(), alone.clone());
            race(callers, &mut single, move || insert(pool.clone(), other.row())).await?;
        }
        let (fast, slow) = (admitted.rate(), single.rate());
        row(
            &format!("admissions, {callers} callers"),
            &format!("{fast}/s, {}", admitted.waits()),
            &format!("a transaction each: {slow}/s, {}: {}", single.waits(), ratio(fast, slow)),
        );
        row(
            &format!("admissions with settlement, {callers} callers"),
            &format!("{}/s, {}", pairs.rate(), pairs.waits()),
            "",
        );
    }
    row("appends of 4 KiB with fdatasync", &format!("{}/s, {}", floor.rate(), floor.waits()), "");
    Ok(())
}

/// Lets `callers` act again and again for one round.
async fn race<F, A>(callers: usize, measured: &mut Measured, act: F) -> Result<()>
where
    F: Fn() -> A + Clone + Send + 'static,
    A: Future<Output = Result<()>> + Send,
{
    let begun = now();
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let act = act.clone();
        running.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < ROUND {
                let asked = now();
                act().await?;
                waits.push(micros(asked.elapsed()));
            }
            anyhow::Ok(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(ended) = running.join_next().await {
        waits.extend(ended??);
    }
    measured.add(begun, waits);
    Ok(())
}

/// What the disk can do at best, one write after another.
fn append(path: &Path, measured: &mut Measured) -> Result<()> {
    let mut file = File::create(path)?;
    let begun = now();
    let mut waits = Vec::new();
    while begun.elapsed() < ROUND / 4 {
        let asked = now();
        file.write_all(&[0x55; 4096])?;
        file.sync_data()?;
        waits.push(micros(asked.elapsed()));
    }
    measured.add(begun, waits);
    Ok(())
}

impl Ledger {
    async fn open(dir: &Path) -> Result<Self> {
        let store = Store::open(dir, "bench").await?;
        let groups = [("group".to_owned(), vec!["model".to_owned()])].into();
        let project = ProjectSetup { name: "bench".to_owned(), groups };
        let ids = store.sync_project(project).await?;
        let next = Arc::new(AtomicI64::new(1));
        Ok(Self { store, project_id: ids.id, bucket_id: ids.buckets["group"], next })
    }

    fn row(&self) -> NewAttempt {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        NewAttempt {
            text: None,
            origin: tidegate::store::Origin::default(),
            id: AttemptId(id),
            item_id: None,
            project_id: self.project_id,
            bucket_id: self.bucket_id,
            model: "gemini-2.0-flash".to_owned(),
            key_name: "main".to_owned(),
            tenant: "uid:1000".to_owned(),
            s_wall: UnixMs(1_800_000_000_000 + id),
            s_boot: BootMs(1_000_000),
            day_lo: "2027-01-15".to_owned(),
            est: Weights { requests: 1, input_tokens: 120, ..Weights::default() },
        }
    }

    async fn admit(self) -> Result<()> {
        Ok(self.store.reserve(vec![self.row()]).await?)
    }

    async fn admit_and_settle(self) -> Result<()> {
        let row = self.row();
        let ended = EndedAttempt {
            id: row.id,
            end: AttemptEnd::Ok,
            u_wall: row.s_wall,
            u_boot: row.s_boot,
            day_hi: row.day_lo.clone(),
            act: row.est,
            tokens: Tokens { prompt: 120, output: 80, total: 200, ..Tokens::default() },
            http_status: Some(200),
            quota_id: None,
            service_tier: None,
            error: None,
            latency_ms: Some(400),
        };
        self.store.reserve(vec![row]).await?;
        Ok(self.store.settle(vec![Settlement { attempt: Some(ended), item: None }]).await?)
    }
}

/// The same schema and the same settings behind a pool of one connection.
async fn one_connection(dir: &Path) -> Result<(SqlitePool, Ledger)> {
    let ledger = Ledger::open(dir).await?;
    let path: PathBuf = dir.join("tidegate.sqlite3");
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("cache_size", "-8192");
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_mins(1))
        .connect_with(options)
        .await?;
    Ok((pool, ledger))
}

async fn insert(pool: SqlitePool, row: NewAttempt) -> Result<()> {
    sqlx::query(
        "INSERT INTO attempt (id, project_id, bucket_id, model, key_name, tenant, class, state,
            boot_id, s_wall, s_boot, day_lo, est_requests, est_input_tokens, est_images)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 1, ?7, 1000000, ?8, 1, 120, 0)",
    )
    .bind(row.id.0)
    .bind(row.project_id)
    .bind(row.bucket_id.0)
    .bind(row.model)
    .bind(row.key_name)
    .bind(row.tenant)
    .bind(row.s_wall.0)
    .bind(row.day_lo)
    .execute(&pool)
    .await?;
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
