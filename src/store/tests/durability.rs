//! Crashes, full disks, and who may open what.

use futures_util::future::join_all;

use super::*;

/// The files of a database as a crash would leave them at this moment: WAL not folded in.
fn crashed_copy(fixture: &Fixture) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(fixture.dir.path()).expect("the state directory") {
        let entry = entry.expect("a file");
        let name = entry.file_name();
        // The shared-memory file does not outlive a crash of the machine.
        if !name.to_string_lossy().ends_with("-shm") && name != "lock" {
            std::fs::copy(entry.path(), copy.path().join(name)).expect("copied");
        }
    }
    copy
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let fixture = Fixture::new().await;
    let batch = fixture.batch("b", 300).await;
    let reserving = (1..=300_u32).map(|number| {
        let (store, new) =
            (fixture.store.clone(), fixture.attempt(number.into(), Some(batch.item(number))));
        async move { store.reserve(vec![new]).await }
    });
    for result in join_all(reserving).await {
        result.expect("reserved");
    }
    let settling = (1..=200_u32).map(|number| {
        let item = Some(moved(batch.item(number), ItemState::Succeeded));
        let (store, settlement) = (fixture.store.clone(), settled(number.into(), item));
        async move { store.settle(vec![settlement]).await }
    });
    for result in join_all(settling).await {
        result.expect("settled");
    }
    let copy = crashed_copy(&fixture);
    let store = Store::open(copy.path(), "boot-2").await.expect("it opens after a crash");
    let reader = store.reader();
    let open = reader.open_attempts().await.expect("open ones");
    let open: Vec<_> = open.iter().map(|attempt| attempt.id.0).collect();
    assert_eq!(open, (201..=300).collect::<Vec<_>>());
    let batch = reader.batch(batch).await.expect("the batch");
    assert_eq!((batch.items, batch.succeeded), (300, 200));
    assert_eq!(reader.next_attempt().await.expect("an id"), AttemptId(301));
    let (_, other_boot) = reader.last_wall().await.expect("a look").expect("rows");
    assert!(other_boot);
    let recent = reader
        .attempts_back(Now { boot: BootMs(0), wall: UnixMs(0) }, 0)
        .await
        .expect("recent ones");
    assert!(recent.len() == 200 && recent.iter().all(|attempt| !attempt.same_boot));
    let check: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut raw(copy.path()).await)
        .await
        .expect("a check");
    assert_eq!(check, "ok");
}

/// A database that was on another machine meanwhile comes back to a boot that it knows.
#[tokio::test]
async fn the_newest_boot_is_the_present_one() {
    let dir = tempfile::tempdir().expect("a directory");
    for boot in ["here", "there", "here"] {
        let store = Store::open(dir.path(), boot).await.expect("it opens");
        store.writable().await.expect("it writes");
        drop(store);
    }
    let sql = "SELECT group_concat(uuid, ', ') FROM (SELECT uuid FROM boot ORDER BY id)";
    let boots: String =
        sqlx::query_scalar(sql).fetch_one(&mut raw(dir.path()).await).await.expect("boots");
    assert_eq!(boots, "here (earlier 1), there, here");
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_told_who_holds_the_lock() {
    let fixture = Fixture::new().await;
    let error = Store::open(fixture.dir.path(), BOOT).await.expect_err("locked");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let holder = format!("(pid {})", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    let Fixture { store, dir, .. } = fixture;
    let clone = store.clone();
    drop(store);
    assert!(Store::open(dir.path(), BOOT).await.is_err(), "a clone holds it too");
    drop(clone);
    Store::open(dir.path(), BOOT).await.expect("free again");
}

#[tokio::test]
async fn a_reader_reads_beside_a_daemon_and_cannot_write() {
    let fixture = Fixture::new().await;
    let reader = Reader::open(fixture.dir.path()).expect("a database");
    let batch = fixture.batch("b", 2).await;
    assert_eq!(reader.queued(batch, 0, 10).await.expect("a page").len(), 2);
    let refused = sqlx::query("DELETE FROM item").execute(&reader.pool).await.expect_err("refused");
    assert!(refused.to_string().contains("readonly"), "{refused}");
    // What is being read does not keep the writer waiting.
    let mut held = reader.pool.begin().await.expect("a transaction");
    let before: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempt").fetch_one(&mut *held).await.expect("0");
    fixture.store.reserve(vec![fixture.attempt(1, None)]).await.expect("reserved");
    let inside: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempt").fetch_one(&mut *held).await.expect("0");
    assert_eq!((before, inside), (0, 0), "one moment throughout");
    drop(held);
    assert_eq!(reader.next_attempt().await.expect("an id"), AttemptId(2));
}

#[tokio::test]
async fn without_a_database_there_is_nothing_to_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = Reader::open(dir.path()).expect_err("missing");
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

/// Lets the writer's connection grow no more, as a full disk does: the same `SQLITE_FULL`, from
/// the same commit path. A fresh connection has room again, as if space had been freed.
async fn fill(fixture: &Fixture) {
    // The limit is never below what is in use.
    let pages = fixture.store.writer.bulk(|conn| Box::pin(shrink(conn))).await.expect("a limit");
    assert!(pages < 1_000);
}

async fn shrink(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("PRAGMA max_page_count = 1")
        .fetch_one(conn)
        .await
        .map_err(StoreError::sql("filling the disk"))
}

/// More than fits in the free space of the pages in use.
fn many(fixture: &Fixture, first: i64) -> Vec<NewAttempt> {
    let key_name = "k".repeat(4_000);
    let long = |id| NewAttempt { key_name: key_name.clone(), ..fixture.attempt(id, None) };
    (first..first + 20).map(long).collect()
}

#[tokio::test]
async fn a_full_disk_is_told_and_work_goes_on_when_there_is_room() {
    let fixture = Fixture::new().await;
    for round in 0..3 {
        let first = 1 + 20 * round;
        fill(&fixture).await;
        let error = fixture.store.reserve(many(&fixture, first)).await.expect_err("full");
        assert!(matches!(error, StoreError::Full), "{error:?}");
        assert_eq!(fixture.number("SELECT count(*) FROM attempt").await, first - 1, "nothing");
        fixture.store.writable().await.expect("room again");
        fixture.store.reserve(many(&fixture, first)).await.expect("reserved");
    }
    let id = fixture.batch("b", 0).await;
    fill(&fixture).await;
    let items: Vec<_> = (1..=1_000).map(|number| item(id, number)).collect();
    let error = fixture.store.import_items(items.clone()).await.expect_err("full");
    assert!(matches!(error, StoreError::Full), "{error:?}");
    fixture.store.import_items(items).await.expect("room again");
    fixture.store.settle(vec![settled(1, None)]).await.expect("settled");
}

/// Readers and the other lane go on while writes fail.
#[tokio::test]
async fn a_full_disk_fails_no_reader() {
    let fixture = Fixture::new().await;
    let batch = fixture.batch("b", 5).await;
    fill(&fixture).await;
    let (failed, page) = tokio::join!(
        fixture.store.reserve(many(&fixture, 1)),
        fixture.store.reader().queued(batch, 0, 10)
    );
    assert!(failed.is_err());
    assert_eq!(page.expect("a page").len(), 5);
    assert_eq!(fixture.store.reader().open_attempts().await.expect("a look").len(), 0);
}
