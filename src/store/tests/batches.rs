//! Batches and their items, from the import to the end.

use super::*;

async fn read(fixture: &Fixture, id: BatchId) -> Batch {
    fixture.store.reader().batch(id).await.expect("the batch")
}

fn counts(batch: &Batch) -> [u64; 4] {
    [batch.items, batch.succeeded, batch.failed, batch.cancelled]
}

async fn end_items(fixture: &Fixture, batch: BatchId, numbers: &[u32], state: ItemState) {
    let end =
        |number: &u32| Settlement { attempt: None, item: Some(moved(batch.item(*number), state)) };
    fixture.store.settle(numbers.iter().map(end).collect()).await.expect("moved on");
}

#[tokio::test]
async fn a_batch_is_read_back_as_it_was_entered() {
    let fixture = Fixture::new().await;
    let new = fixture.new_batch("b");
    let id = fixture.store.enter_batch(new.clone()).await.expect("entered");
    let batch = read(&fixture, id).await;
    assert_eq!(batch.state, BatchState::Importing);
    let texts = [&batch.uid, &batch.work, &batch.file_name, &batch.out_name, &batch.dialect];
    assert_eq!(texts, [&new.uid, &new.work, &new.file_name, &new.out_name, &new.dialect]);
    let texts = [&batch.model, &batch.tenant, &batch.in_doubt, &batch.on_bad_line, &batch.sha256];
    assert_eq!(
        texts,
        [&new.model, &new.tenant, &new.in_doubt, &new.on_bad_line, &new.source.sha256]
    );
    assert_eq!((batch.project.as_str(), batch.bucket_id), ("p", fixture.bucket()));
    assert_eq!((batch.priority, batch.not_before), (2, new.not_before));
    assert_eq!((batch.deadline, batch.max_cost_nanos), (new.deadline, new.max_cost_nanos));
    assert_eq!((&batch.pool, &batch.fallback), (&new.pool, &new.fallback));
    assert_eq!((batch.patience_ms, &batch.pace), (new.patience_ms, &new.pace));
    assert_eq!((batch.spent_nanos, batch.paused), (0, None));
    assert_eq!((batch.submitted_at, batch.finished_at), (NOON, None));
    assert_eq!((batch.source_bytes, batch.dropped_again, batch.stopped), (4, 0, None));
    let found = fixture.store.reader().batch_by_uid("b").await.expect("a look");
    assert_eq!(found.map(|batch| batch.id), Some(id));
    assert!(fixture.store.enter_batch(fixture.new_batch("b")).await.is_err(), "a uid is used once");
}

#[tokio::test]
async fn the_counts_of_a_batch_follow_its_items() {
    let fixture = Fixture::new().await;
    let reader = fixture.store.reader();
    let id = fixture.store.enter_batch(fixture.new_batch("b")).await.expect("entered");
    let mut items: Vec<_> = (1..=9).map(|number| item(id, number)).collect();
    items[3].state = 2;
    items[3].line = Some("a bad line\n".to_owned());
    fixture.store.import_items(items).await.expect("imported");
    fixture.store.open_batch(id).await.expect("opened");
    assert!(fixture.store.open_batch(id).await.is_err(), "once");
    assert_eq!(counts(&read(&fixture, id).await), [9, 0, 1, 0]);
    end_items(&fixture, id, &[1, 2], ItemState::Succeeded).await;
    end_items(&fixture, id, &[3], ItemState::Failed).await;
    end_items(&fixture, id, &[5], ItemState::Held).await;
    end_items(&fixture, id, &[6], ItemState::Queued).await;
    assert_eq!(counts(&read(&fixture, id).await), [9, 2, 2, 0]);
    assert!(fixture.store.stop_batch(id, "enough".to_owned()).await.expect("stopped"));
    assert!(!fixture.store.stop_batch(id, "again".to_owned()).await.expect("was stopped"));
    fixture.store.sweep_stopped(id, true).await.expect("swept");
    fixture.store.sweep_stopped(id, true).await.expect("swept again, after a crash");
    let batch = read(&fixture, id).await;
    assert_eq!((counts(&batch), batch.stopped.as_deref()), ([9, 2, 2, 5], Some("enough")));
    let exported = reader.export(id, 0, 100).await.expect("results");
    let seen: Vec<_> = exported.iter().map(|item| (item.id - id.item(0), item.state)).collect();
    let states = [1, 1, 2, 2, 3, 3, 3, 3, 3];
    assert_eq!(seen, (1..).zip(states).collect::<Vec<_>>());
    assert_eq!(exported[3].line.as_deref(), Some("a bad line\n"));
    let rest = reader.export(id, id.item(7), 1).await.expect("a page");
    assert_eq!(rest.iter().map(|item| item.offset).collect::<Vec<_>>(), [800]);
    fixture.store.finish_batch(id, BatchState::Done, NOON.plus(9)).await.expect("finished");
    assert_eq!(reader.finished_with_rows().await.expect("a look"), [id]);
    assert!(fixture.store.finish_batch(id, BatchState::Done, NOON).await.is_err(), "once");
    let batch = read(&fixture, id).await;
    assert_eq!((batch.state, batch.finished_at), (BatchState::Done, Some(NOON.plus(9))));
    fixture.store.clear_ended(id).await.expect("cleared");
    assert_eq!(reader.finished_with_rows().await.expect("a look"), []);
    assert_eq!(fixture.number("SELECT count(*) FROM answer").await, 0);
    // The one that failed may be tried again; the bad line may not.
    assert_eq!(fixture.number("SELECT count(*) FROM item").await, 1);
    assert_eq!(reader.ended_before(NOON.plus(9)).await.expect("a look"), []);
    assert_eq!(reader.ended_before(NOON.plus(10)).await.expect("a look"), [id]);
    fixture.store.clear_items(id).await.expect("forgotten");
    assert_eq!(fixture.number("SELECT count(*) FROM item").await, 0);
}

/// A neighbour's items are left alone, and more than one slice is moved.
#[tokio::test]
async fn a_long_batch_is_swept_and_cleared_slice_by_slice() {
    let fixture = Fixture::new().await;
    let before = fixture.batch("before", 3).await;
    let long = fixture.batch("long", 2_500).await;
    let after = fixture.batch("after", 3).await;
    end_items(&fixture, long, &(1..=1_200).collect::<Vec<_>>(), ItemState::Succeeded).await;
    assert!(fixture.store.stop_batch(long, "no such model".to_owned()).await.expect("stopped"));
    fixture.store.sweep_stopped(long, false).await.expect("swept");
    assert_eq!(counts(&read(&fixture, long).await), [2_500, 1_200, 1_300, 0]);
    for neighbour in [before, after] {
        assert_eq!(counts(&read(&fixture, neighbour).await), [3, 0, 0, 0]);
        let queued = fixture.store.reader().queued(neighbour, 0, 10).await.expect("a page");
        assert_eq!(queued.len(), 3);
    }
    fixture.store.finish_batch(long, BatchState::Done, NOON).await.expect("finished");
    fixture.store.clear_ended(long).await.expect("cleared");
    assert_eq!(fixture.number("SELECT count(*) FROM answer").await, 0);
    fixture.store.clear_items(after).await.expect("cleared");
    assert_eq!(fixture.number("SELECT count(*) FROM item").await, 1_303);
}

#[tokio::test]
async fn an_import_of_several_slices_can_be_begun_again() {
    let fixture = Fixture::new().await;
    let id = fixture.store.enter_batch(fixture.new_batch("b")).await.expect("entered");
    for round in [2_300, 1_100] {
        fixture.store.clear_items(id).await.expect("cleared");
        let items: Vec<_> = (1..=round).map(|number| item(id, number)).collect();
        for slice in items.chunks(1_000) {
            fixture.store.import_items(slice.to_vec()).await.expect("imported");
        }
    }
    fixture.store.open_batch(id).await.expect("opened");
    assert_eq!(counts(&read(&fixture, id).await), [1_100, 0, 0, 0]);
}

#[tokio::test]
async fn the_queue_is_read_in_pages_and_in_order() {
    let fixture = Fixture::new().await;
    let reader = fixture.store.reader();
    let batch = fixture.batch("b", 10).await;
    let _neighbour = fixture.batch("c", 10).await;
    end_items(&fixture, batch, &[2, 4], ItemState::Succeeded).await;
    let mut waiting = moved(batch.item(5), ItemState::Queued);
    waiting.not_before = NOON.plus(60_000);
    fixture
        .store
        .settle(vec![Settlement { attempt: None, item: Some(waiting) }])
        .await
        .expect("put off");
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let page = reader.queued(batch, after, 3).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page);
    }
    let numbers: Vec<_> = seen.iter().map(|item| BatchId::line_of_item(item.id)).collect();
    assert_eq!(numbers, [1, 3, 5, 6, 7, 8, 9, 10]);
    let expected = QueuedItem {
        output_tokens_max: None,
        text: None,
        id: batch.item(5),
        offset: 500,
        bytes: 99,
        hash: Some(7),
        requests: 1,
        input_tokens: 7,
        images: 1,
        attempts: 1,
        doubts: 2,
        not_before: NOON.plus(60_000),
    };
    assert_eq!(seen[2], expected);
}

#[tokio::test]
async fn the_same_file_and_the_same_drop_are_known() {
    let fixture = Fixture::new().await;
    let reader = fixture.store.reader();
    let id = fixture.batch("b", 1).await;
    let known = Some((id, "b".to_owned()));
    let source = source("b");
    assert_eq!(reader.same_drop(&source).await.expect("a look"), known);
    assert_eq!(reader.same_file("b.jsonl", &source).await.expect("a look"), known);
    assert_eq!(reader.same_file("c.jsonl", &source).await.expect("a look"), None);
    let copied = Source { ino: 9, mtime_ns: 9, ..source.clone() };
    assert_eq!(reader.same_drop(&copied).await.expect("a look"), None);
    assert_eq!(reader.same_file("b.jsonl", &copied).await.expect("a look"), known);
    for other in [
        Source { uid: 1001, ..source.clone() },
        Source { sha256: "other".to_owned(), ..source.clone() },
        Source { bytes: 5, ..source.clone() },
    ] {
        assert_eq!(reader.same_file("b.jsonl", &other).await.expect("a look"), None);
    }
    fixture.store.drop_again(id).await.expect("noted");
    assert_eq!(read(&fixture, id).await.dropped_again, 1);
    fixture.store.finish_batch(id, BatchState::Failed, NOON).await.expect("finished");
    // A finished batch does not keep the same content from being sent again in another drop.
    assert_eq!(reader.same_file("b.jsonl", &source).await.expect("a look"), None);
    assert_eq!(reader.same_drop(&source).await.expect("a look"), known);
    assert_eq!(reader.unfinished_batches().await.expect("a list").len(), 0);
    assert_eq!(reader.batches(10).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn a_rejected_file_leaves_its_reason_and_no_items() {
    let fixture = Fixture::new().await;
    let id = fixture.store.enter_batch(fixture.new_batch("b")).await.expect("entered");
    fixture.store.import_items(vec![item(id, 1)]).await.expect("imported");
    fixture.store.note_rejection(id, "1 bad line".to_owned()).await.expect("noted");
    fixture.store.clear_items(id).await.expect("cleared");
    fixture.store.finish_batch(id, BatchState::Rejected, NOON).await.expect("finished");
    let batch = read(&fixture, id).await;
    let seen = (batch.state, batch.stopped.as_deref(), batch.items);
    assert_eq!(seen, (BatchState::Rejected, Some("1 bad line"), 0));
    assert!(!fixture.store.stop_batch(id, "late".to_owned()).await.expect("over"));
}

#[tokio::test]
async fn answers_are_known_by_their_places() {
    let fixture = Fixture::new().await;
    let reader = fixture.store.reader();
    let before = fixture.batch("before", 1).await;
    let id = fixture.batch("b", 4).await;
    assert_eq!(reader.answers_end(id).await.expect("an end"), 0);
    let at = |offset| AnswerAt { offset, bytes: 10, hash: i64::MIN };
    let ends = [(1, ItemState::Succeeded, 10), (3, ItemState::Blocked, 0)];
    for (number, state, offset) in ends {
        let item =
            ItemUpdate { line: None, answer: Some(at(offset)), ..moved(id.item(number), state) };
        let settlement = Settlement { attempt: None, item: Some(item) };
        fixture.store.settle(vec![settlement]).await.expect("moved on");
    }
    let places = |items: Vec<ExportItem>| -> Vec<_> {
        items.iter().map(|item| (item.id - id.item(0), item.answer)).collect()
    };
    let all = places(reader.export(id, 0, 10).await.expect("results"));
    assert_eq!(all, [(1, Some(at(10))), (2, None), (3, Some(at(0))), (4, None)]);
    let answered = places(reader.answered(id, 0, 10).await.expect("results"));
    assert_eq!(answered, [(1, Some(at(10))), (3, Some(at(0)))]);
    let rest = places(reader.answered(id, id.item(1), 10).await.expect("results"));
    assert_eq!(rest, [(3, Some(at(0)))]);
    assert_eq!(reader.answers_end(id).await.expect("an end"), 20);
    assert_eq!(reader.answers_end(before).await.expect("an end"), 0);
    let batch = read(&fixture, id).await;
    assert_eq!((counts(&batch), batch.blocked, batch.ended()), ([4, 1, 0, 0], 1, 2));
}

/// An import that was cut off behind the marking of bad lines marks them again.
#[tokio::test]
async fn lines_are_marked_as_bad_once() {
    let fixture = Fixture::new().await;
    let id = fixture.store.enter_batch(fixture.new_batch("b")).await.expect("entered");
    let reader = fixture.store.reader();
    assert_eq!(reader.imported(id).await.expect("a look"), 0);
    let items = [1, 2, 5].map(|number| item(id, number));
    fixture.store.import_items(items.to_vec()).await.expect("imported");
    assert_eq!(reader.imported(id).await.expect("a look"), 5);
    let bad = |number: u32| (id.item(number), format!("bad {number}\n"));
    fixture.store.mark_bad(vec![bad(2)]).await.expect("marked");
    fixture.store.mark_bad(vec![bad(2), bad(5)]).await.expect("marked again");
    fixture.store.open_batch(id).await.expect("opened");
    assert_eq!(counts(&read(&fixture, id).await), [3, 0, 2, 0]);
    let lines = reader.export(id, 0, 10).await.expect("results");
    let lines: Vec<_> = lines.iter().map(|item| item.line.as_deref()).collect();
    assert_eq!(lines, [None, Some("bad 2\n"), Some("bad 5\n")]);
    assert_eq!(fixture.store.requeue_failed(id).await.moved, 0);
    let found = reader.lines_of(&[id.item(5), id.item(1), id.item(9)]).await.expect("lines");
    assert_eq!(found.iter().map(|line| line.offset).collect::<Vec<_>>(), [100, 500]);
}
