//! What the scheduler keeps and asks: holds, priorities, failed items tried again, spending.

use super::*;
use crate::gate::units::Now;

async fn read(fixture: &Fixture, id: BatchId) -> Batch {
    fixture.store.reader().batch(id).await.expect("the batch")
}

async fn end_items(fixture: &Fixture, batch: BatchId, numbers: &[u32], state: ItemState) {
    let end =
        |number: &u32| Settlement { attempt: None, item: Some(moved(batch.item(*number), state)) };
    fixture.store.settle(numbers.iter().map(end).collect()).await.expect("moved on");
}

#[tokio::test]
async fn a_batch_that_says_nothing_of_the_schedule_reads_so() {
    let fixture = Fixture::new().await;
    let new = NewBatch {
        deadline: None,
        max_cost_nanos: None,
        pool: None,
        fallback: Vec::new(),
        patience_ms: None,
        pace: "asap".to_owned(),
        ..fixture.new_batch("b")
    };
    let id = fixture.store.enter_batch(new.clone()).await.expect("entered");
    let batch = read(&fixture, id).await;
    assert_eq!((batch.deadline, batch.max_cost_nanos, batch.pool), (None, None, None));
    assert_eq!((batch.fallback, batch.patience_ms), (Vec::new(), None));
    assert_eq!(batch.pace, "asap");
    let odd = NewBatch { pace: "slow".to_owned(), ..fixture.new_batch("c") };
    assert!(fixture.store.enter_batch(odd).await.is_err(), "no such pace");
}

#[tokio::test]
async fn a_hold_and_a_priority_are_kept_until_the_batch_is_over() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let id = fixture.batch("b", 1).await;
    assert!(store.pause_batch(id, Some("lunch".to_owned())).await.expect("held"));
    assert!(store.reprioritise(id, 0, None).await.expect("changed"));
    let batch = read(&fixture, id).await;
    assert_eq!(batch.paused.as_deref(), Some("lunch"));
    assert_eq!((batch.priority, batch.deadline), (0, Some(NOON.plus(50))), "as it was");
    assert!(store.pause_batch(id, None).await.expect("let go"));
    assert!(store.reprioritise(id, 2, Some(NOON)).await.expect("changed"));
    let batch = read(&fixture, id).await;
    assert_eq!((batch.paused, batch.priority, batch.deadline), (None, 2, Some(NOON)));
    store.finish_batch(id, BatchState::Done, NOON).await.expect("finished");
    assert!(!store.pause_batch(id, Some("late".to_owned())).await.expect("over"));
    assert!(!store.reprioritise(id, 0, None).await.expect("over"));
    assert_eq!(read(&fixture, id).await.priority, 2);
}

#[tokio::test]
async fn failed_items_go_back_and_bad_lines_do_not() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let neighbour = fixture.batch("before", 3).await;
    end_items(&fixture, neighbour, &[1], ItemState::Failed).await;
    let id = store.enter_batch(fixture.new_batch("b")).await.expect("entered");
    let mut items: Vec<_> = (1..=2_600).map(|number| item(id, number)).collect();
    items[4].state = 2;
    items[4].line = Some("a bad line\n".to_owned());
    for slice in items.chunks(1_000) {
        store.import_items(slice.to_vec()).await.expect("imported");
    }
    store.open_batch(id).await.expect("opened");
    let failed: Vec<_> = (10..=2_400).collect();
    end_items(&fixture, id, &failed, ItemState::Failed).await;
    end_items(&fixture, id, &[1, 2], ItemState::Succeeded).await;
    end_items(&fixture, id, &[3], ItemState::Held).await;
    assert_eq!(put_back(store, id).await, 2_391);
    let batch = read(&fixture, id).await;
    assert_eq!((batch.items, batch.succeeded, batch.failed), (2_600, 2, 1));
    let exported = store.reader().export(id, 0, 3_000).await.expect("items");
    let state = |number: usize| (exported[number - 1].state, exported[number - 1].line.is_some());
    assert_eq!([state(1), state(3), state(4)], [(1, true), (4, false), (0, false)]);
    assert_eq!([state(5), state(10), state(2_400)], [(2, true), (0, false), (0, false)]);
    let queued = store.reader().queued(id, id.item(9), 1).await.expect("the queue");
    let [first] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!((first.id, first.attempts, first.doubts), (id.item(10), 0, 0));
    assert_eq!(put_back(store, id).await, 0);
    assert_eq!(read(&fixture, neighbour).await.failed, 1, "a neighbour's stay");
    // They come to their end once more.
    end_items(&fixture, id, &[10], ItemState::Succeeded).await;
    assert_eq!(read(&fixture, id).await.succeeded, 3);
}

#[tokio::test]
async fn what_went_back_before_the_database_failed_is_told() {
    let fixture = Fixture::new().await;
    let id = fixture.batch("b", 1_500).await;
    let failed: Vec<_> = (1..=1_500).collect();
    end_items(&fixture, id, &failed, ItemState::Failed).await;
    let full = "CREATE TRIGGER full BEFORE UPDATE ON item
        WHEN new.id % 4294967296 = 1500 AND new.state = 0
        BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    let mut raw = fixture.raw().await;
    sqlx::raw_sql(full).execute(&mut raw).await.expect("a trigger");
    let requeued = fixture.store.requeue_failed(id).await;
    assert_eq!(requeued.moved, 1_000);
    requeued.error.expect("the second slice fails");
    let queued = "SELECT count(*) FROM item WHERE state = 0";
    assert_eq!(fixture.number(queued).await, 1_000);
    sqlx::raw_sql("DROP TRIGGER full").execute(&mut raw).await.expect("no trigger");
    assert_eq!(put_back(&fixture.store, id).await, 500);
}

#[tokio::test]
async fn nothing_goes_back_of_a_batch_that_is_stopped_or_over() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for stop in [true, false] {
        let id = fixture.batch(if stop { "stopped" } else { "over" }, 2).await;
        end_items(&fixture, id, &[1], ItemState::Failed).await;
        if stop {
            assert!(store.stop_batch(id, "enough".to_owned()).await.expect("stopped"));
        } else {
            store.finish_batch(id, BatchState::Done, NOON).await.expect("finished");
        }
        assert_eq!(put_back(store, id).await, 0);
        let batch = read(&fixture, id).await;
        assert_eq!((batch.failed, batch.items), (1, 2));
    }
}

#[tokio::test]
async fn a_batch_knows_what_it_spent_and_the_ledger_says_the_same() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (one, two) = (fixture.batch("one", 3).await, fixture.batch("two", 1).await);
    let items = [one.item(1), one.item(2), two.item(1)];
    let attempts = (1..).zip(items).map(|(id, item)| fixture.attempt(id, Some(item)));
    let attempts = attempts.chain([fixture.attempt(4, None)]);
    store.reserve(attempts.collect()).await.expect("reserved");
    let mut ends: Vec<_> = (1..=4).map(|id| settled(id, None)).collect();
    for (end, spend) in ends.iter_mut().zip([5, 7, 0, 11]) {
        end.attempt.as_mut().expect("an attempt").act.spend_nanos = spend;
    }
    store.settle(ends.clone()).await.expect("settled");
    assert_eq!(
        (read(&fixture, one).await.spent_nanos, read(&fixture, two).await.spent_nanos),
        (12, 0)
    );
    // Told again, it is not counted again.
    store.settle_again(ends).await.expect("was settled");
    assert_eq!(read(&fixture, one).await.spent_nanos, 12);
    let differing = "SELECT count(*) FROM batch AS b WHERE spent_nanos <> (SELECT
        coalesce(sum(act_spend_nanos), 0) FROM attempt WHERE item_id >> 32 = b.id)";
    assert_eq!(fixture.number(differing).await, 0);
}

#[tokio::test]
async fn pauses_are_kept_and_taken_back_by_name() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let pause = |project: &str, group: &str| Pause {
        project: project.to_owned(),
        group: group.to_owned(),
        at: NOON,
    };
    let all = [("*", "*"), ("p", "*"), ("p", "a"), ("p", "b"), ("q", "a")];
    for (project, group) in all {
        store.set_pause(pause(project, group)).await.expect("noted");
    }
    store.set_pause(Pause { at: NOON.plus(9), ..pause("p", "a") }).await.expect("noted again");
    let read = store.reader().pauses().await.expect("pauses");
    assert_eq!(read, all.map(|(project, group)| pause(project, group)));
    let clear =
        |project: &str, group: &str| store.clear_pause(project.to_owned(), group.to_owned());
    assert_eq!(clear("p", "a").await.expect("one"), 1);
    assert_eq!(clear("p", "a").await.expect("none"), 0);
    assert_eq!(clear("p", "*").await.expect("its own"), 2);
    let read = store.reader().pauses().await.expect("pauses");
    assert_eq!(read, [pause("*", "*"), pause("q", "a")]);
    assert_eq!(clear("*", "*").await.expect("all"), 2);
    assert_eq!(store.reader().pauses().await.expect("none"), []);
}

#[tokio::test]
async fn recent_charges_and_last_keys_are_the_ledgers() {
    let fixture = Fixture::new().await;
    let other = fixture.store.sync_project(project("q")).await.expect("another project");
    let mut attempts: Vec<_> = (1..=5).map(|id| fixture.attempt(id, None)).collect();
    attempts[1].tenant = "t".to_owned();
    attempts[3].key_name = "second".to_owned();
    attempts[4].project_id = other.id;
    attempts[4].bucket_id = other.buckets["group"];
    fixture.store.reserve(attempts).await.expect("reserved");
    let now = Now { boot: BootMs(6_000), wall: NOON.plus(1_000) };
    fixture.store.settle(vec![settled(2, None)]).await.expect("settled");
    fixture.store.void(vec![AttemptId(3)], now).await.expect("voided");
    let reader = fixture.store.reader();
    // Reserved at boot 5001 to 5005.
    let rows = reader.recent_charges(now, 998).await.expect("charges");
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.id.0, row.tenant.as_str(), row.at.0, row.weights.input_tokens))
        .collect();
    assert_eq!(
        seen,
        [(2, "t", 5_002, 42), (4, "uid:1000", 5_004, 100), (5, "uid:1000", 5_005, 100)]
    );
    let keys = reader.last_keys(100).await.expect("keys");
    let expected = [(fixture.ids.id, "second".to_owned()), (other.id, "main".to_owned())];
    assert_eq!(keys, expected);

    // Another boot: the wall clock has to tell.
    let Fixture { store, dir, .. } = fixture;
    drop(store);
    let store = Store::open(dir.path(), "boot-2").await.expect("it opens");
    let now = Now { boot: BootMs(10_000), wall: NOON.plus(2_004) };
    let rows = store.reader().recent_charges(now, 60_000).await.expect("charges");
    let seen: Vec<_> = rows.iter().map(|row| (row.id.0, row.at.0)).collect();
    assert_eq!(seen, [(1, 7_997), (2, 7_998), (4, 8_000), (5, 8_001)]);
}
