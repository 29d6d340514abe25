//! How `SQLite` is opened: the only place that says so.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::error::StoreError;

/// `SQLite` before this version can corrupt a WAL that two connections write and checkpoint at once
/// (sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How many reports may read at the same time.
const READERS: u32 = 4;

/// Where the database of a state directory is.
pub(crate) fn database_path(state_dir: &Path) -> PathBuf {
    state_dir.join("tidegate.sqlite3")
}

/// The lock of wall A10, held for life.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `state_dir/lock`, or says who holds it.
    pub(super) fn take(state_dir: &Path) -> Result<Self, StoreError> {
        let directory = |path: &Path, source| StoreError::Directory {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        create_private_dir(state_dir).map_err(|source| directory(state_dir, source))?;
        let path = state_dir.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| directory(&path, source))?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known { holder.trim().to_owned() } else { "unknown".to_owned() };
            return Err(StoreError::Locked { path, holder });
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "pid {}", std::process::id()))
            .map_err(|source| directory(&path, source))?;
        Ok(Self { _file: file })
    }
}

fn create_private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(256)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // Else REPLACE would evade the triggers that keep the ledger (A11).
        .pragma("recursive_triggers", "ON")
        .pragma("journal_size_limit", "67108864")
        // KiB: memory follows it, and speed hardly does.
        .pragma("cache_size", "-8192")
}

/// Opens the one connection that writes.
pub(super) async fn writer(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut conn = SqliteConnection::connect_with(&options(path).create_if_missing(true))
        .await
        .map_err(StoreError::sql("opening the database"))?;
    let version = fact(&mut conn, "SELECT sqlite_version()").await?;
    if parse_version(&version) < OLDEST_SQLITE {
        return Err(StoreError::Inconsistent(format!(
            "SQLite {version} is older than 3.51.3 and can lose a WAL"
        )));
    }
    let journal = fact(&mut conn, "PRAGMA journal_mode").await?;
    if journal != "wal" {
        return Err(StoreError::Inconsistent(format!("journal mode is {journal}, not wal")));
    }
    Ok(conn)
}

/// Opens the pool that only reads.
pub(super) fn readers(path: &Path) -> Result<SqlitePool, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let options = options(path).create_if_missing(false).read_only(true);
    Ok(SqlitePoolOptions::new()
        .max_connections(READERS)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(20))
        // A connection that SQLite rolled back by itself never works again in sqlx 0.9.
        .after_release(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
        .connect_lazy_with(options))
}

/// Writes something that changes nothing.
pub(super) async fn touch(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query!("UPDATE boot SET uuid = uuid WHERE id = (SELECT max(id) FROM boot)")
        .execute(conn)
        .await
        .map(drop)
        .map_err(StoreError::sql("trying a write"))
}

async fn fact(conn: &mut SqliteConnection, sql: &'static str) -> Result<String, StoreError> {
    sqlx::query_scalar(sql)
        .fetch_one(conn)
        .await
        .map_err(StoreError::sql("asking SQLite about itself"))
}

fn parse_version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}
