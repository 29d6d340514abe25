//! What a start reads back.

use super::*;
use crate::gate::units::Now;

const TEXT: TextWeight = TextWeight { text_bytes: 1_000, media_tokens: 5, kind: 2 };

fn spending(fixture: &Fixture, id: i64, key: &str, spend_nanos: u64) -> NewAttempt {
    let row = fixture.attempt(id, None);
    let est = Weights { spend_nanos, ..row.est };
    NewAttempt { key_name: key.to_owned(), est, text: Some(TEXT), ..row }
}

fn spent(id: i64, spend_nanos: u64) -> Settlement {
    let mut row = settled(id, None);
    if let Some(end) = &mut row.attempt {
        end.act.spend_nanos = spend_nanos;
    }
    row
}

/// Attempts 1 and 3 with key `a`, 2 with key `b`, 4 cut off, 5 of which nothing was sent.
async fn used() -> Fixture {
    let fixture = Fixture::new().await;
    let keys = [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")];
    let rows = keys.map(|(id, key)| spending(&fixture, id, key, 700)).to_vec();
    fixture.store.reserve(rows).await.expect("reserved");
    let ends = [(1, 100), (2, 20), (3, 3)].map(|(id, spend)| spent(id, spend)).to_vec();
    fixture.store.settle(ends).await.expect("settled");
    let now = Now { boot: BootMs(9_000), wall: NOON.plus(4_000) };
    fixture.store.void(vec![AttemptId(5)], now).await.expect("void");
    fixture
}

#[tokio::test]
async fn attempts_come_back_with_their_keys_and_money() {
    let fixture = used().await;
    let now = Now { boot: BootMs(9_000), wall: NOON.plus(4_000) };
    let reader = fixture.store.reader();
    let back = reader.attempts_back(now, 60_000).await.expect("attempts");
    let told: Vec<_> = back
        .iter()
        .map(|row| (row.id.0, row.key_name.as_str(), row.weights.spend_nanos, row.same_boot))
        .collect();
    assert_eq!(told, [(1, "a", 100, true), (2, "b", 20, true), (3, "a", 3, true)]);
    let open = reader.open_attempts().await.expect("open ones");
    let told = open.iter().map(|row| (row.id.0, row.key_name.as_str(), row.est.spend_nanos));
    assert_eq!(told.collect::<Vec<_>>(), [(4, "b", 700)]);
    let mut days = reader.day_charges(NOON).await.expect("days");
    days.sort_by(|one, two| one.key_name.cmp(&two.key_name));
    let told = days.iter().map(|row| {
        let Weights { requests, spend_nanos, .. } = row.weights;
        (row.key_name.as_str(), requests, spend_nanos, row.charge.lo.to_string())
    });
    let day = DAY.to_owned();
    assert_eq!(told.collect::<Vec<_>>(), [("a", 2, 103, day.clone()), ("b", 1, 20, day)]);
}

#[tokio::test]
async fn what_was_counted_comes_back_oldest_first() {
    let fixture = used().await;
    let mut plain = fixture.attempt(6, None);
    plain.model = "other".to_owned();
    fixture.store.reserve(vec![plain]).await.expect("reserved");
    fixture.store.settle(vec![settled(6, None)]).await.expect("settled");
    let observations = fixture.store.reader().observations(100).await.expect("observations");
    // One without a text teaches nothing; tools count.
    assert_eq!(observations.len(), 3);
    for seen in &observations {
        assert_eq!((seen.model.as_str(), seen.input_tokens), ("model", 42));
        let TextWeight { text_bytes, media_tokens, kind } = seen.text;
        assert_eq!((text_bytes, media_tokens, kind), (1_000, 5, 2));
    }
    // The newest five attempts are 2 to 6.
    let newest = fixture.store.reader().observations(5).await.expect("observations");
    assert_eq!(newest.len(), 2);
}
