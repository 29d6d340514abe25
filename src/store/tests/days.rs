//! The seal of a quota day.

use super::*;

fn date(text: &str) -> chrono::NaiveDate {
    text.parse().expect("a date")
}

/// An attempt of a day, ended well.
async fn spent(fixture: &Fixture, id: i64, day: &str) {
    reserved(fixture, id, day).await;
    let end = EndedAttempt { day_hi: day.to_owned(), ..ended(id) };
    let settlement = Settlement { attempt: Some(end), item: None };
    fixture.store.settle(vec![settlement]).await.expect("settled");
}

async fn reserved(fixture: &Fixture, id: i64, day: &str) {
    let days = date(day).signed_duration_since(date(DAY)).num_days();
    let s_wall = UnixMs(NOON.0 + days * 86_400_000 + id);
    let new = NewAttempt { day_lo: day.to_owned(), s_wall, ..fixture.attempt(id, None) };
    fixture.store.reserve(vec![new]).await.expect("reserved");
}

async fn seal(fixture: &Fixture, today: &str) -> Option<u64> {
    fixture.store.seal_days(fixture.ids.id, date(today), NOON).await.expect("a write")
}

async fn totals(fixture: &Fixture) -> Vec<(String, i64, i64)> {
    let totals = fixture.store.reader().day_totals().await.expect("sums");
    totals.into_iter().map(|total| (total.day, total.attempts, total.total_tokens)).collect()
}

fn total(day: &str, attempts: i64) -> (String, i64, i64) {
    (day.to_owned(), attempts, attempts * 72)
}

#[tokio::test]
async fn sealing_twice_changes_nothing() {
    let fixture = Fixture::new().await;
    assert_eq!(seal(&fixture, DAY).await, Some(0));
    spent(&fixture, 1, "2026-11-23").await;
    spent(&fixture, 2, "2026-11-23").await;
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(1));
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(0));
    // An earlier day changes nothing either: a clock that was set back.
    assert_eq!(seal(&fixture, "2026-11-22").await, Some(0));
    assert_eq!(totals(&fixture).await, [total("2026-11-23", 2)]);
    let sealed = fixture.store.reader().sealed_before(fixture.ids.id).await.expect("a day");
    assert_eq!(sealed.as_deref(), Some("2026-11-24"));
}

/// The daemon was down at several midnights.
#[tokio::test]
async fn days_that_were_missed_are_sealed_late() {
    let fixture = Fixture::new().await;
    spent(&fixture, 1, "2026-11-23").await;
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(1));
    spent(&fixture, 2, "2026-11-24").await;
    spent(&fixture, 3, "2026-11-25").await;
    spent(&fixture, 4, "2026-11-25").await;
    spent(&fixture, 5, "2026-11-30").await;
    assert_eq!(seal(&fixture, "2026-11-30").await, Some(2));
    let expected = [total("2026-11-23", 1), total("2026-11-24", 1), total("2026-11-25", 2)];
    assert_eq!(totals(&fixture).await, expected);
    assert_eq!(seal(&fixture, "2026-12-24").await, Some(1));
    assert_eq!(totals(&fixture).await.last(), Some(&total("2026-11-30", 1)));
}

#[tokio::test]
async fn an_open_attempt_of_the_day_stands_in_the_way() {
    let fixture = Fixture::new().await;
    spent(&fixture, 1, "2026-11-23").await;
    reserved(&fixture, 2, "2026-11-23").await;
    assert_eq!(seal(&fixture, "2026-11-24").await, None);
    assert_eq!(totals(&fixture).await, []);
    fixture.store.settle(vec![settled(2, None)]).await.expect("settled");
    // One of today does not.
    reserved(&fixture, 3, "2026-11-24").await;
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(1));
    assert_eq!(totals(&fixture).await, [total("2026-11-23", 2)]);
}

#[tokio::test]
async fn what_was_never_sent_is_not_in_the_sums() {
    let fixture = Fixture::new().await;
    spent(&fixture, 1, "2026-11-23").await;
    reserved(&fixture, 2, "2026-11-23").await;
    let aborted = EndedAttempt { end: AttemptEnd::Aborted, ..ended(2) };
    let settlement = Settlement { attempt: Some(aborted), item: None };
    fixture.store.settle(vec![settlement]).await.expect("settled");
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(1));
    assert_eq!(totals(&fixture).await, [total("2026-11-23", 1)]);
}

/// Another project's open attempts are no matter of this one.
#[tokio::test]
async fn projects_are_sealed_each_for_itself() {
    let mut fixture = Fixture::new().await;
    let other = fixture.store.sync_project(project("q")).await.expect("a project");
    spent(&fixture, 1, "2026-11-23").await;
    let first = std::mem::replace(&mut fixture.ids, other);
    reserved(&fixture, 2, "2026-11-23").await;
    assert_eq!(seal(&fixture, "2026-11-24").await, None);
    fixture.ids = first;
    assert_eq!(seal(&fixture, "2026-11-24").await, Some(1));
}
