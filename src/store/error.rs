//! What can go wrong with the database.

use std::path::PathBuf;
use std::sync::Arc;

/// A failure of the store. Cheap to clone: one failed commit answers every caller that waited.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon holds the lock.
    #[error(
        "{path} is in use by another tidegate daemon ({holder}): stop it, or give this one its own \
        --state-dir"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// The state directory or a file in it cannot be used.
    #[error("cannot use {path}: make it writable for this user, or give another --state-dir")]
    Directory {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// There is no database yet.
    #[error("no database at {path}: run `tidegate serve` once, or give the right --state-dir")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The disk is full: nothing was written.
    #[error("no space left for the database: free some; work goes on by itself")]
    Full,
    /// `SQLite` refused or failed.
    #[error("the database failed while {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The schema could not be brought up to date.
    #[error("cannot bring the database schema up to date")]
    Migrate(#[source] Arc<sqlx::migrate::MigrateError>),
    /// A row contradicts the books.
    #[error("the database contradicts itself: {0}; run an integrity check before going on")]
    Inconsistent(String),
    /// The writer has stopped.
    #[error("the database writer has stopped")]
    Closed,
}

impl StoreError {
    /// Names what was being done when `source` happened.
    pub(super) fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| {
            // SQLITE_FULL, whatever its extended code.
            let full = source
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| code & 0xff == 13);
            if full { Self::Full } else { Self::Sql { doing, source: Arc::new(source) } }
        }
    }
}
