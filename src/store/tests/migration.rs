//! Databases of older versions, with rows in them, opened by this one.

use super::*;
use crate::gate::units::Now;

const FIRST: &str = "20261122000001_ledger.sql";
const SECOND: &str = "20261123000001_limits.sql";
const THIRD: &str = "20261123000002_schedule.sql";
const FOURTH: &str = "20261123000003_keys.sql";

/// What the fourth version kept of an answered item, and of one under way.
const ANSWERED_ROWS: &str = "
    INSERT INTO result (item_id, line) VALUES (4294967299, 'a line of the third' || char(10));
    UPDATE item SET attempts = 2, doubts = 1, not_before = 5, text_bytes = 40, media_tokens = 3,
        kind = 1, output_tokens_max = 9 WHERE id = 4294967297;
    UPDATE item SET state = 1 WHERE id = 4294967298;";

/// Rows as the first version wrote them.
const ROWS: &str = "
    INSERT INTO boot (id, uuid) VALUES (1, 'boot-1');
    INSERT INTO project (id, name) VALUES (1, 'p');
    INSERT INTO bucket (id, project_id, quota_group) VALUES (1, 1, 'group');
    INSERT INTO model (project_id, name, bucket_id) VALUES (1, 'model', 1);
    INSERT INTO quota_limit (bucket_id, metric, window_ms, value, source, set_at)
        VALUES (1, 'requests', 60000, 15, 'config', 1);
    INSERT INTO batch (id, uid, work, file_name, out_name, dialect, project_id, bucket_id, model,
        tenant, priority, in_doubt, on_bad_line, state, source_dev, source_ino, source_mtime_ns,
        source_bytes, source_uid, sha256, items, submitted_at)
        VALUES (1, 'b', 'w', 'b.jsonl', 'o', 'gemini-jsonl', 1, 1, 'model', 't', 1, 'retry',
        'reject', 1, 1, 2, 3, 4, 5, 'sha', 2, 6);
    INSERT INTO item (id, line_offset, line_bytes, est_input_tokens, est_images)
        VALUES (4294967297, 0, 10, 7, 0), (4294967298, 10, 10, 8, 0);
    INSERT INTO attempt (id, item_id, project_id, bucket_id, model, key_name, tenant, class, state,
        boot_id, s_wall, s_boot, u_wall, u_boot, day_lo, day_hi, est_requests, est_input_tokens,
        est_images, act_requests, act_input_tokens, act_images, prompt_tokens)
        VALUES (1, 4294967297, 1, 1, 'model', 'k', 't', 0, 1, 1, 1795464000000, 5000,
        1795464000100, 5100, '2026-11-23', '2026-11-23', 1, 7, 0, 1, 6, 0, 6);
    INSERT INTO attempt (id, item_id, project_id, bucket_id, model, key_name, tenant, class, state,
        boot_id, s_wall, s_boot, day_lo, est_requests, est_input_tokens, est_images)
        VALUES (2, 4294967298, 1, 1, 'model', 'k', 't', 0, 0, 1, 1795464000200, 5200, '2026-11-23',
        1, 8, 0);";

/// What the second version added.
const MORE_ROWS: &str = "
    INSERT INTO item (id, line_offset, line_bytes, est_input_tokens, est_images, state, attempts)
        VALUES (4294967299, 20, 10, 0, 0, 2, 0), (4294967300, 30, 10, 9, 0, 2, 1);
    UPDATE batch SET items = 4, failed = 2;
    UPDATE attempt SET state = 5, u_wall = 1795464000300, u_boot = 5300, day_hi = day_lo,
        act_requests = 1, act_input_tokens = 8, act_images = 0, act_spend_nanos = 70 WHERE id = 2;
    INSERT INTO attempt (id, item_id, project_id, bucket_id, model, key_name, tenant, class, state,
        boot_id, s_wall, s_boot, u_wall, u_boot, day_lo, day_hi, est_requests, est_input_tokens,
        est_images, act_requests, act_input_tokens, act_images, act_spend_nanos)
        VALUES (3, 4294967300, 1, 1, 'model', 'k', 't', 0, 2, 1, 1795464000400, 5400,
        1795464000500, 5500, '2026-11-23', '2026-11-23', 1, 9, 0, 1, 9, 0, 7);";

async fn old_database(dir: &Path, versions: &[(&str, &'static str)]) {
    let options = SqliteConnectOptions::new().filename(database_path(dir)).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.expect("a database");
    let to = tempfile::tempdir().expect("a directory");
    for (version, rows) in versions {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(version);
        std::fs::copy(from, to.path().join(version)).expect("the migration");
        let migrator = sqlx::migrate::Migrator::new(to.path()).await.expect("its migrations");
        migrator.run(&mut conn).await.expect("that version");
        sqlx::raw_sql(*rows).execute(&mut conn).await.expect("its rows");
    }
    conn.close().await.expect("closed");
}

#[tokio::test]
async fn a_database_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    old_database(dir.path(), &[(FIRST, ROWS)]).await;
    let store = Store::open(dir.path(), BOOT).await.expect("it opens");
    let reader = store.reader();
    let now = Now { boot: BootMs(6_000), wall: NOON.plus(1_000) };
    let back = reader.attempts_back(now, 60_000).await.expect("attempts");
    let [row] = &back[..] else { panic!("{back:?}") };
    let expected = Weights { requests: 1, input_tokens: 6, ..Weights::default() };
    assert_eq!((row.id, row.weights, row.same_boot), (AttemptId(1), expected, true));
    let days = reader.day_charges(NOON.minus(1_000)).await.expect("days");
    assert_eq!((days.len(), days[0].weights), (1, expected));
    let open = reader.open_attempts().await.expect("open ones");
    let est = Weights { requests: 1, input_tokens: 8, ..Weights::default() };
    assert_eq!((open.len(), open[0].id, open[0].est), (1, AttemptId(2), est));
    // Old rows say nothing of their text, and teach nothing.
    let queued = reader.queued(BatchId(1), 0, 10).await.expect("the queue");
    assert_eq!(queued.len(), 2);
    let known = |item: &QueuedItem| item.text.is_some() || item.output_tokens_max.is_some();
    assert!(!queued.iter().any(known), "{queued:?}");
    assert_eq!(reader.observations(100).await.expect("none").len(), 0);
    assert_eq!(reader.set_limits().await.expect("none"), []);
    assert_eq!(reader.memories().await.expect("none"), []);
    // The open attempt settles, and the project is entered again.
    let mut end = settled(2, None);
    if let Some(attempt) = &mut end.attempt {
        attempt.act.spend_nanos = 9;
    }
    store.settle(vec![end]).await.expect("settled");
    let ids = store.sync_project(project("p")).await.expect("entered");
    assert_eq!((ids.id, ids.buckets["group"]), (1, BucketId(1)));
    let mut raw = raw(dir.path()).await;
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut raw).await.expect("a check");
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn a_database_of_the_second_version_knows_what_was_spent_and_which_lines_were_bad() {
    let dir = tempfile::tempdir().expect("a directory");
    old_database(dir.path(), &[(FIRST, ROWS), (SECOND, MORE_ROWS)]).await;
    let store = Store::open(dir.path(), BOOT).await.expect("it opens");
    let batch = store.reader().batch(BatchId(1)).await.expect("the batch");
    assert_eq!((batch.spent_nanos, batch.pace.as_str(), batch.paused), (77, "asap", None));
    assert_eq!((batch.deadline, batch.max_cost_nanos, batch.pool), (None, None, None));
    assert_eq!(put_back(&store, batch.id).await, 1);
    let batch = store.reader().batch(BatchId(1)).await.expect("the batch");
    assert_eq!((batch.items, batch.failed), (4, 1), "the bad line stays");
}

#[tokio::test]
async fn a_database_of_the_fourth_version_keeps_its_queue_and_its_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let versions = [(FIRST, ROWS), (SECOND, MORE_ROWS), (THIRD, ""), (FOURTH, ANSWERED_ROWS)];
    old_database(dir.path(), &versions).await;
    let store = Store::open(dir.path(), BOOT).await.expect("it opens");
    let reader = store.reader();
    let batch = reader.batch(BatchId(1)).await.expect("the batch");
    assert_eq!((batch.template, batch.answers.as_str(), batch.blocked), (None, "gemini", 0));
    let queued = reader.queued(BatchId(1), 0, 10).await.expect("the queue");
    let text = Some(TextWeight { text_bytes: 40, media_tokens: 3, kind: 1 });
    let expected = QueuedItem {
        id: BatchId(1).item(1),
        offset: 0,
        bytes: 10,
        hash: None,
        requests: 1,
        input_tokens: 7,
        images: 0,
        text,
        output_tokens_max: Some(9),
        attempts: 2,
        doubts: 1,
        not_before: UnixMs(5),
    };
    assert_eq!(queued, [expected]);
    let export = reader.export(BatchId(1), 0, 10).await.expect("results");
    let seen: Vec<_> =
        export.iter().map(|item| (item.state, item.line.as_deref(), item.answer)).collect();
    let line = Some("a line of the third\n");
    assert_eq!(seen, [(0, None, None), (1, None, None), (2, line, None), (2, None, None)]);
    assert_eq!(reader.answered(BatchId(1), 0, 10).await.expect("results").len(), 1);
    assert_eq!(reader.answers_end(BatchId(1)).await.expect("an end"), 0);
    assert_eq!(store.requeue_failed(BatchId(1)).await.moved, 1, "not the bad line");
}
