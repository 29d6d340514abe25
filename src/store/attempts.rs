//! Rows of the ledger as people and other programs look at them.

use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

use super::error::StoreError;

/// One request, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// The row id.
    pub id: i64,
    /// When it was reserved, Unix milliseconds, UTC.
    pub at_ms: i64,
    /// Whose quota.
    pub project: String,
    /// The model that the request names; `-` for none.
    pub model: String,
    /// The key's name.
    pub key: String,
    /// Who fairness is between.
    pub tenant: String,
    /// 0 a batch, 1 a client through the daemon, 2 recorded afterwards, 3 under a lease.
    pub source: i64,
    /// 0 reserved, 1 ok, 2 failed, 3 throttled, 4 not sent, 5 in doubt.
    pub state: i64,
    /// The method that was called; none for a batch.
    pub method: Option<String>,
    /// The client, as it names itself.
    pub client: Option<String>,
    /// Where the client is.
    pub peer: Option<String>,
    /// How long it was held.
    pub waited_ms: Option<i64>,
    /// From sending to the end of the answer.
    pub latency_ms: Option<i64>,
    /// The HTTP status, if there was one.
    pub http_status: Option<i64>,
    /// Input tokens as reported, or as reserved where nothing was.
    pub input_tokens: i64,
    /// Output tokens as reported, without thoughts.
    pub output_tokens: i64,
    /// The provider's total.
    pub total_tokens: i64,
    /// What went wrong, in words.
    pub error: Option<String>,
}

/// The newest attempts, newest first.
pub(super) async fn attempts(pool: &SqlitePool, limit: i64) -> Result<Vec<AttemptRow>, StoreError> {
    sqlx::query_as!(
        AttemptRow,
        r#"SELECT a.id AS "id!", a.s_wall AS at_ms, p.name AS project, a.model,
            a.key_name AS "key", a.tenant, a.source, a.state, a.method, a.client, a.peer,
            a.waited_ms, a.latency_ms, a.http_status,
            iif(a.prompt_tokens > 0, a.prompt_tokens,
                coalesce(a.act_input_tokens, a.est_input_tokens)) AS "input_tokens!: i64",
            a.output_tokens, a.total_tokens, a.error
        FROM attempt AS a JOIN project AS p ON p.id = a.project_id
        ORDER BY a.id DESC LIMIT ?1"#,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::sql("reading the ledger"))
}
