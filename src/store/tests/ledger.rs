//! Reservations, ends, and the triggers that keep them.

use sqlx::Row;

use super::*;

/// The columns of attempt 1, as one JSON document.
const ROW: &str = "SELECT json_object('item', item_id, 'model', model, 'key', key_name,
    'tenant', tenant, 'class', class, 'state', state, 'boot', (SELECT uuid FROM boot WHERE id =
    boot_id), 's_wall', s_wall, 's_boot', s_boot, 'u_wall', u_wall, 'u_boot', u_boot,
    'day_lo', day_lo, 'day_hi', day_hi, 'est', json_array(est_requests, est_input_tokens,
    est_images), 'act', json_array(act_requests, act_input_tokens, act_images),
    'tokens', json_array(prompt_tokens, cached_tokens, output_tokens, thought_tokens,
    tool_tokens, total_tokens), 'usage', usage_json, 'status', http_status, 'quota', quota_id,
    'tier', service_tier, 'error', error, 'latency', latency_ms) FROM attempt WHERE id = 1";

async fn row_of_attempt(fixture: &Fixture) -> serde_json::Value {
    let mut raw = fixture.raw().await;
    let row = sqlx::query(ROW).fetch_one(&mut raw).await.expect("attempt 1");
    serde_json::from_str(&row.get::<String, _>(0)).expect("JSON")
}

#[tokio::test]
async fn a_reservation_and_its_end_are_kept_column_by_column() {
    let fixture = Fixture::new().await;
    let batch = fixture.batch("b", 1).await;
    let new = fixture.attempt(1, Some(batch.item(1)));
    fixture.store.reserve(vec![new]).await.expect("reserved");
    let mut expected = serde_json::json!({
        "item": batch.item(1), "model": "model", "key": "main", "tenant": "uid:1000", "class": 0,
        "state": 0, "boot": BOOT, "s_wall": NOON.0 + 1, "s_boot": 5_001, "u_wall": null,
        "u_boot": null, "day_lo": DAY, "day_hi": null, "est": [1, 100, 3],
        "act": [null, null, null], "tokens": [0, 0, 0, 0, 0, 0], "usage": null, "status": null,
        "quota": null, "tier": null, "error": null, "latency": null,
    });
    assert_eq!(row_of_attempt(&fixture).await, expected);
    let mut end = ended(1);
    end.quota_id = Some("quota".to_owned());
    end.error = Some("it's \"odd\" \u{1F600}\n".to_owned());
    let update = moved(batch.item(1), ItemState::Succeeded);
    let settlement = Settlement { attempt: Some(end), item: Some(update) };
    fixture.store.settle(vec![settlement]).await.expect("settled");
    let end = serde_json::json!({
        "state": 1, "u_wall": NOON.0 + 900, "u_boot": 5_900, "day_hi": DAY, "act": [1, 42, 2],
        "tokens": [40, 30, 20, 10, 2, 72], "usage": "{\"promptTokenCount\":40}", "status": 200,
        "quota": "quota", "tier": "standard", "error": "it's \"odd\" \u{1F600}\n", "latency": 850,
    });
    for (column, value) in end.as_object().expect("an object") {
        expected[column] = value.clone();
    }
    assert_eq!(row_of_attempt(&fixture).await, expected);
    let results = fixture.store.reader().export(batch, 0, 10).await.expect("results");
    assert_eq!((results[0].state, results[0].line.as_deref()), (1, Some("line of 1\n")));
    assert_eq!(fixture.store.reader().batch(batch).await.expect("the batch").succeeded, 1);
    let item = fixture.number("SELECT attempts * 10 + doubts FROM item").await;
    assert_eq!(item, 12);
}

#[tokio::test]
async fn what_a_start_needs_is_read_back() {
    let fixture = Fixture::new().await;
    let (store, reader) = (&fixture.store, fixture.store.reader());
    let batch = fixture.batch("b", 3).await;
    assert_eq!(reader.next_attempt().await.expect("an id"), AttemptId(1));
    assert_eq!(reader.last_wall().await.expect("no row"), None);
    let rows = (1..=3_u32).map(|n| fixture.attempt(n.into(), Some(batch.item(n))));
    store.reserve(rows.collect()).await.expect("reserved");
    store.settle(vec![settled(1, Some(moved(batch.item(1), ItemState::Queued)))]).await.expect("1");
    let mut aborted = ended(2);
    aborted.end = AttemptEnd::Aborted;
    let item = Some(moved(batch.item(2), ItemState::Queued));
    store.settle(vec![Settlement { attempt: Some(aborted), item }]).await.expect("2");
    assert_eq!(reader.next_attempt().await.expect("an id"), AttemptId(4));
    let open = reader.open_attempts().await.expect("open ones");
    let seen: Vec<_> = open.iter().map(|a| (a.id.0, a.item_id, a.policy.as_str())).collect();
    assert_eq!(seen, [(3, Some(batch.item(3)), "hold")]);
    assert_eq!(
        open[0].est,
        Weights { requests: 1, input_tokens: 100, images: 3, ..Weights::default() }
    );
    // An aborted one weighs nothing.
    let recent =
        reader.attempts_back(Now { boot: BootMs(0), wall: NOON }, 0).await.expect("recent ones");
    let seen: Vec<_> = recent.iter().map(|a| (a.id.0, a.u_boot, a.same_boot)).collect();
    assert_eq!(seen, [(1, BootMs(5_900), true)]);
    let charges = reader.day_charges(NOON).await.expect("charges");
    assert_eq!(charges.len(), 1);
    assert_eq!(
        charges[0].2,
        Weights { requests: 1, input_tokens: 42, images: 2, ..Weights::default() }
    );
    assert_eq!(reader.last_wall().await.expect("a row"), Some((NOON.plus(3), false)));
}

#[tokio::test]
async fn a_bad_end_fails_alone() {
    let fixture = Fixture::new().await;
    let batch = fixture.batch("b", 40).await;
    let rows = (1..=40_u32).map(|n| fixture.attempt(n.into(), Some(batch.item(n))));
    fixture.store.reserve(rows.collect()).await.expect("reserved");
    let item = |n| Some(moved(batch.item(n), ItemState::Succeeded));
    fixture.store.settle(vec![settled(7, item(7))]).await.expect("settled once");
    // All at once, so that they share commits: 7 is settled already, 99 was never reserved.
    let ends = (1..=40_u32).map(|n| {
        let store = fixture.store.clone();
        let attempt = if n == 20 { 99 } else { i64::from(n) };
        let settlement = settled(attempt, item(n));
        async move { (n, store.settle(vec![settlement]).await) }
    });
    let results = futures_util::future::join_all(ends).await;
    let failed: Vec<u32> = results.iter().filter(|(_, r)| r.is_err()).map(|(n, _)| *n).collect();
    assert_eq!(failed, [7, 20]);
    let reader = fixture.store.reader();
    assert_eq!(reader.batch(batch).await.expect("the batch").succeeded, 39);
    let open = reader.open_attempts().await.expect("open ones");
    assert_eq!(open.iter().map(|attempt| attempt.id.0).collect::<Vec<_>>(), [20]);
}

#[tokio::test]
async fn a_reservation_is_made_once() {
    let fixture = Fixture::new().await;
    fixture.store.reserve(vec![fixture.attempt(1, None)]).await.expect("reserved");
    let twice = fixture.store.reserve(vec![fixture.attempt(2, None), fixture.attempt(1, None)]);
    assert!(twice.await.is_err());
    assert_eq!(fixture.number("SELECT count(*) FROM attempt").await, 1, "all or nothing");
    let stranger = NewAttempt { bucket_id: BucketId(99), ..fixture.attempt(3, None) };
    assert!(fixture.store.reserve(vec![stranger]).await.is_err());
}

#[tokio::test]
async fn an_item_that_came_to_its_end_stays_there() {
    let fixture = Fixture::new().await;
    let batch = fixture.batch("b", 1).await;
    let refused = |state| {
        let item = Some(moved(batch.item(1), state));
        vec![Settlement { attempt: None, item }]
    };
    fixture.store.settle(refused(ItemState::Failed)).await.expect("refused");
    let error = fixture.store.settle(refused(ItemState::Succeeded)).await.expect_err("once");
    assert!(matches!(error, StoreError::Inconsistent(_)), "{error}");
    let batch = fixture.store.reader().batch(batch).await.expect("the batch");
    assert_eq!((batch.succeeded, batch.failed), (0, 1));
}

/// A11, against any connection that can write.
#[tokio::test]
async fn the_ledger_cannot_be_rewritten() {
    let fixture = Fixture::new().await;
    let rows = vec![fixture.attempt(1, None), fixture.attempt(2, None)];
    fixture.store.reserve(rows).await.expect("reserved");
    fixture.store.settle(vec![settled(1, None)]).await.expect("settled");
    let mut raw = fixture.raw().await;
    for (sql, why) in [
        ("UPDATE attempt SET total_tokens = 0 WHERE id = 1", "settled once"),
        ("UPDATE attempt SET state = 0 WHERE id = 1", "settled once"),
        ("UPDATE attempt SET tenant = 'x' WHERE id = 2", "settled once"),
        ("UPDATE attempt SET id = 3, state = 1 WHERE id = 2", "settled once"),
        ("DELETE FROM attempt WHERE id = 1", "never deleted"),
        ("DELETE FROM attempt WHERE id = 2", "never deleted"),
        ("DELETE FROM attempt", "never deleted"),
        (
            "REPLACE INTO attempt (id, project_id, bucket_id, model, key_name, tenant, class,
                state, boot_id, s_wall, s_boot, day_lo, est_requests, est_input_tokens, est_images)
            SELECT id, project_id, bucket_id, model, key_name, tenant, class, 0, boot_id, s_wall,
                s_boot, day_lo, 0, 0, 0 FROM attempt WHERE id = 1",
            "never deleted",
        ),
        ("UPDATE attempt SET state = 1 WHERE id = 2", "CHECK constraint failed"),
    ] {
        let error = sqlx::query(sql).execute(&mut raw).await.expect_err(sql);
        assert!(error.to_string().contains(why), "{sql}: {error}");
    }
    let sum = "SELECT count(*) * 1000 + sum(total_tokens) FROM attempt";
    assert_eq!(fixture.number(sum).await, 2_072);
}

#[tokio::test]
async fn a_time_is_found_in_the_ledger() {
    let fixture = Fixture::new().await;
    let pool = &fixture.store.reader().pool;
    let since = |ms: u64| crate::store::ledger::first_attempt_since(pool, NOON.plus(ms));
    assert_eq!(since(0).await.expect("no row"), 0);
    fixture.store.reserve(vec![fixture.attempt(5, None)]).await.expect("reserved");
    // Row 5 is of NOON + 5 ms; anything up to its id will do.
    assert!(since(5).await.expect("one row") <= 5);
    assert_eq!(since(6).await.expect("one row"), 6);
    // With gaps, as reservations that failed leave them.
    let rows = (3..=200).map(|n| fixture.attempt(n * 7, None));
    fixture.store.reserve(rows.collect()).await.expect("reserved");
    for (ms, ids) in [(21, 6..=21), (22, 22..=28), (700, 694..=700), (1_400, 1_394..=1_400)] {
        let first = since(ms).await.expect("rows");
        assert!(ids.contains(&first), "{ms}: {first}");
    }
    assert_eq!(since(1_401).await.expect("rows"), 1_401);
}

/// The largest counts that the client lets through are stored and summed.
#[tokio::test]
async fn huge_counts_are_stored_and_summed() {
    const HUGE: u64 = 1 << 40;
    let fixture = Fixture::new().await;
    let rows = (1..=3).map(|id| fixture.attempt(id, None));
    fixture.store.reserve(rows.collect()).await.expect("reserved");
    for id in 1..=3 {
        let mut end = ended(id);
        end.tokens.total = HUGE;
        end.act.input_tokens = HUGE;
        let settlement = Settlement { attempt: Some(end), item: None };
        fixture.store.settle(vec![settlement]).await.expect("settled");
    }
    let reader = fixture.store.reader();
    let usage = reader.usage(GroupBy::default(), &everything()).await.expect("sums");
    assert_eq!(u64::try_from(usage[0].total_tokens), Ok(3 * HUGE));
    let charges = reader.day_charges(UnixMs(0)).await.expect("charges");
    assert_eq!(charges[0].2.input_tokens, 3 * HUGE);
    let today = "2026-11-24".parse().expect("a date");
    let sealed = fixture.store.seal_days(fixture.ids.id, today, NOON).await.expect("sealed");
    assert_eq!(sealed, Some(1));
}

#[tokio::test]
async fn an_end_that_was_durable_although_it_was_reported_as_failed_is_not_written_twice() {
    let fixture = Fixture::new().await;
    let (store, reader) = (&fixture.store, fixture.store.reader());
    let batch = fixture.batch("b", 2).await;
    let rows = (1..=2_u32).map(|n| fixture.attempt(n.into(), Some(batch.item(n))));
    store.reserve(rows.collect()).await.expect("reserved");
    let end = |n: u32| settled(n.into(), Some(moved(batch.item(n), ItemState::Succeeded)));
    store.settle(vec![end(1)]).await.expect("durable");
    store.settle(vec![end(1), end(2)]).await.expect_err("attempt 1 has ended");
    assert_eq!(reader.batch(batch).await.expect("the batch").succeeded, 1);
    store.settle_again(vec![end(1), end(2)]).await.expect("what is left of it");
    assert_eq!(reader.batch(batch).await.expect("the batch").succeeded, 2);
    // Another end of the same attempt is another matter.
    let mut other = ended(1);
    other.u_boot = BootMs(1);
    let other = Settlement { attempt: Some(other), item: None };
    store.settle_again(vec![other]).await.expect_err("an attempt ends once");
}

#[tokio::test]
async fn a_reservation_that_was_durable_although_it_was_reported_as_failed_weighs_nothing() {
    let fixture = Fixture::new().await;
    let (store, reader) = (&fixture.store, fixture.store.reader());
    let batch = fixture.batch("b", 2).await;
    store.reserve(vec![fixture.attempt(1, Some(batch.item(1)))]).await.expect("reserved");
    let now = Now { boot: BootMs(9_000), wall: NOON.plus(4_000) };
    store.void(vec![AttemptId(1), AttemptId(2)], now).await.expect("voided");
    store.void(vec![AttemptId(1)], now).await.expect("once is enough");
    assert!(reader.open_attempts().await.expect("a look").is_empty());
    assert!(reader.attempts_back(now, 1 << 40).await.expect("a look").is_empty());
    assert_eq!(reader.queued(batch, 0, 10).await.expect("the queue").len(), 2);
}

#[tokio::test]
async fn an_open_attempt_of_an_item_that_has_ended_names_no_item() {
    let fixture = Fixture::new().await;
    let (store, reader) = (&fixture.store, fixture.store.reader());
    let batch = fixture.batch("b", 1).await;
    let rows = (1..=2).map(|n| fixture.attempt(n, Some(batch.item(1))));
    store.reserve(rows.collect()).await.expect("two of one item");
    let end = settled(2, Some(moved(batch.item(1), ItemState::Succeeded)));
    store.settle(vec![end]).await.expect("the second was answered");
    let open = reader.open_attempts().await.expect("the first");
    assert_eq!((open.len(), open[0].item_id), (1, None));
}
