//! `cargo xtask sqlx-prepare`: what `cargo sqlx prepare` does, with the sqlx that is built anyway.
//!
//! sqlx's macros ask a database about each query while the compiler runs, and write what they
//! learn into `SQLX_OFFLINE_DIR`. So: a new database with all migrations applied, an empty
//! directory, and a `cargo check` of everything.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::shell::{self, Tool};

/// The files of a query directory: name and content.
type Queries = BTreeMap<String, Vec<u8>>;

/// How `.sqlx` differs from what the source asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    /// Asked for by the source, not in `.sqlx`.
    missing: Vec<String>,
    /// In `.sqlx`, not asked for by the source.
    stale: Vec<String>,
    /// In both, but the database answers something else.
    changed: Vec<String>,
}

/// Makes `.sqlx` what the source and the migrations ask for.
pub(crate) fn write() -> Result<bool> {
    let wanted = describe_queries()?;
    let dir = shell::root().join(".sqlx");
    let difference = compare(&read(&dir)?, &wanted);
    for name in &difference.stale {
        let path = dir.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for name in difference.missing.iter().chain(&difference.changed) {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(name);
        let content = wanted.get(name).map_or(&[][..], Vec::as_slice);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Difference { missing, stale, changed } = difference;
    println!(
        ".sqlx: {} in all, {} added, {} changed, {} removed",
        wanted.len(),
        missing.len(),
        changed.len(),
        stale.len()
    );
    Ok(true)
}

/// Whether `.sqlx` is what the source and the migrations ask for; says how it differs.
pub(crate) fn check() -> Result<bool> {
    let wanted = describe_queries()?;
    let difference = compare(&read(&shell::root().join(".sqlx"))?, &wanted);
    if difference == Difference::default() {
        println!(".sqlx: {} in all, all fresh", wanted.len());
        return Ok(true);
    }
    let Difference { missing, stale, changed } = difference;
    for (what, names) in [("missing", missing), ("stale", stale), ("changed", changed)] {
        for name in names {
            println!(".sqlx/{name}: {what}");
        }
    }
    println!("to bring .sqlx up to date: cargo xtask sqlx-prepare");
    Ok(false)
}

/// Compiles everything against a new database and returns what sqlx's macros wrote.
fn describe_queries() -> Result<Queries> {
    let scratch = Scratch::new()?;
    let database = scratch.0.join("schema.sqlite3");
    let queries = scratch.0.join("queries");
    fs::create_dir(&queries).with_context(|| format!("cannot make {}", queries.display()))?;
    make_database(&database)?;
    let _newer = Newer::new(shell::root().join("src/lib.rs"))?;
    let success = Tool::cargo(&["check", "--quiet", "--all-targets"])
        .env("DATABASE_URL", format!("sqlite:{}", database.display()))
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", queries.display().to_string())
        // Cargo keeps what it builds under a wrapper apart, and takes the dependencies from the
        // common build: an ordinary `cargo check` never finds a crate that was checked against
        // this database instead of against .sqlx.
        .env("RUSTC_WORKSPACE_WRAPPER", "env")
        .run()?;
    ensure!(success, "the source does not compile against the schema in migrations/");
    read(&queries)
}

fn make_database(file: &Path) -> Result<()> {
    let migrations = shell::root().join("migrations");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a tokio runtime")?;
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let mut connection = options
            .connect()
            .await
            .with_context(|| format!("cannot make the database {}", file.display()))?;
        if migrations.is_dir() {
            Migrator::new(migrations.as_path())
                .await
                .context("cannot read migrations/")?
                .run(&mut connection)
                .await
                .context("cannot apply migrations/ to an empty database")?;
        }
        connection.close().await.context("cannot close the database")
    })
}

/// The query files of a directory; none if there is no such directory.
fn read(dir: &Path) -> Result<Queries> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Queries::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let mut queries = Queries::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            let path = entry.path();
            let content =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            queries.insert(name, content);
        }
    }
    Ok(queries)
}

fn compare(present: &Queries, wanted: &Queries) -> Difference {
    let names = |queries: &Queries, keep: &dyn Fn(&String, &Vec<u8>) -> bool| {
        queries
            .iter()
            .filter(|(name, content)| keep(name, content))
            .map(|(n, _)| n.clone())
            .collect()
    };
    Difference {
        missing: names(wanted, &|name, _| !present.contains_key(name)),
        stale: names(present, &|name, _| !wanted.contains_key(name)),
        changed: names(wanted, &|name, new| present.get(name).is_some_and(|old| old != new)),
    }
}

/// A directory of this process, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("tidegate-sqlx-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory left behind in the temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A source file that looks newly written, so that cargo compiles its crate and all macros run.
/// When dropped it has its old time again, so that no other build starts over.
struct Newer {
    path: PathBuf,
    modified: SystemTime,
}

impl Newer {
    #[expect(clippy::disallowed_methods, reason = "cargo compares file times with the real clock")]
    fn new(path: PathBuf) -> Result<Self> {
        let touch = || -> std::io::Result<SystemTime> {
            let modified = fs::metadata(&path)?.modified()?;
            File::options().append(true).open(&path)?.set_modified(SystemTime::now())?;
            Ok(modified)
        };
        let modified = touch().with_context(|| format!("cannot touch {}", path.display()))?;
        Ok(Self { path, modified })
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        // With the new time left in place the next build is slower, not wrong.
        let _ = File::options()
            .append(true)
            .open(&self.path)
            .and_then(|file| file.set_modified(self.modified));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(files: &[(&str, &str)]) -> Queries {
        files.iter().map(|(n, c)| ((*n).to_owned(), c.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_difference_names_every_file_once() {
        let present =
            queries(&[("query-a.json", "1"), ("query-b.json", "1"), ("query-c.json", "1")]);
        let wanted =
            queries(&[("query-a.json", "1"), ("query-b.json", "2"), ("query-d.json", "1")]);
        let expect = Difference {
            missing: vec!["query-d.json".to_owned()],
            stale: vec!["query-c.json".to_owned()],
            changed: vec!["query-b.json".to_owned()],
        };
        assert_eq!(compare(&present, &wanted), expect);
        assert_eq!(compare(&wanted, &wanted), Difference::default());
        assert_eq!(compare(&queries(&[]), &queries(&[])), Difference::default());
    }
}
