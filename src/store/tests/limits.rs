//! What users set, what refusals taught, and the history of both.

use super::*;

fn event(fixture: &Fixture, at: u64, dimension: &str, became: Option<&str>) -> LimitEvent {
    LimitEvent {
        at: NOON.plus(at),
        project_id: fixture.ids.id,
        quota_group: "group".to_owned(),
        dimension: dimension.to_owned(),
        was: Some("15".to_owned()),
        became: became.map(str::to_owned),
        source: "set".to_owned(),
        reason: "limits set".to_owned(),
    }
}

async fn sets(fixture: &Fixture) -> Vec<(String, String)> {
    let sets = fixture.store.reader().set_limits().await.expect("what was set");
    assert!(sets.iter().all(|set| set.project == "p" && set.quota_group == "group"));
    sets.into_iter().map(|set| (set.dimension, set.setting)).collect()
}

#[tokio::test]
async fn what_is_set_holds_until_it_is_taken_back() {
    let fixture = Fixture::new().await;
    for (at, dimension, setting) in [(1, "rpm", "7"), (2, "tpm", "off"), (3, "rpm", "8")] {
        let event = event(&fixture, at, dimension, Some(setting));
        fixture.store.set_limit(event, Some(setting.to_owned())).await.expect("set");
    }
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(sets(&fixture).await, [pair("rpm", "8"), pair("tpm", "off")]);
    let unset = event(&fixture, 4, "rpm", None);
    fixture.store.set_limit(unset.clone(), None).await.expect("taken back");
    assert_eq!(sets(&fixture).await, [pair("tpm", "off")]);
    // To take back what was not set changes nothing but the history.
    fixture
        .store
        .set_limit(LimitEvent { at: NOON.plus(5), ..unset.clone() }, None)
        .await
        .expect("");
    assert_eq!(sets(&fixture).await, [pair("tpm", "off")]);
    let history = fixture.store.reader().limit_events(fixture.ids.id, 10).await.expect("events");
    let at: Vec<u64> = history.iter().map(|event| NOON.until(event.at)).collect();
    assert_eq!(at, [5, 4, 3, 2, 1]);
    assert_eq!(history[1], unset);
    let two = fixture.store.reader().limit_events(fixture.ids.id, 2).await.expect("events");
    assert_eq!(two, history[..2]);
    let other = fixture.store.reader().limit_events(fixture.ids.id + 1, 10).await.expect("none");
    assert_eq!(other, []);
}

fn learned(fixture: &Fixture, memory: &str, events: Vec<LimitEvent>) -> Remembered {
    let (bucket, memory) = (fixture.bucket(), memory.to_owned());
    Remembered { bucket, memory, at: NOON, events, counts_in: None }
}

#[tokio::test]
async fn a_memory_replaces_the_one_before() {
    let fixture = Fixture::new().await;
    for memory in ["{\"a\":1}", "{\"b\":2}"] {
        fixture.store.remember(learned(&fixture, memory, Vec::new())).await.expect("kept");
    }
    let memories = fixture.store.reader().memories().await.expect("memories");
    assert_eq!(memories, [(fixture.bucket(), "{\"b\":2}".to_owned())]);
    assert_eq!(fixture.store.reader().aliases().await.expect("none"), []);
}

/// The last of three writes fails: none of them is there.
#[tokio::test]
async fn a_lesson_is_kept_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let before = learned(&fixture, "before", Vec::new());
    fixture.store.remember(before).await.expect("kept");
    let good = event(&fixture, 1, "rpm", Some("5"));
    let of_nobody = LimitEvent { project_id: 999, ..good.clone() };
    let bad = learned(&fixture, "after", vec![good.clone(), of_nobody]);
    fixture.store.remember(bad).await.expect_err("no such project");
    let oneself = learned(&fixture, "after", vec![good.clone()]);
    let oneself = Remembered { counts_in: Some(fixture.bucket()), ..oneself };
    fixture.store.remember(oneself).await.expect_err("a bucket does not count in itself");
    let memories = fixture.store.reader().memories().await.expect("memories");
    assert_eq!(memories, [(fixture.bucket(), "before".to_owned())]);
    assert_eq!(fixture.number("SELECT count(*) FROM limit_event").await, 0);
    fixture.store.remember(learned(&fixture, "after", vec![good.clone()])).await.expect("kept");
    let history = fixture.store.reader().limit_events(fixture.ids.id, 10).await.expect("events");
    assert_eq!(history, [good]);
}

#[tokio::test]
async fn joined_buckets_are_told_in_order() {
    let fixture = Fixture::new().await;
    let mut setup = project("p");
    for group in ["x", "y"] {
        setup.groups.insert(group.to_owned(), Vec::new());
    }
    let ids = fixture.store.sync_project(setup).await.expect("a project").buckets;
    for (at, from, into) in [(2, "group", "x"), (1, "y", "group"), (3, "group", "y")] {
        let joined = Remembered {
            bucket: ids[from],
            at: NOON.plus(at),
            counts_in: Some(ids[into]),
            ..learned(&fixture, "{}", Vec::new())
        };
        fixture.store.remember(joined).await.expect("kept");
    }
    let aliases = fixture.store.reader().aliases().await.expect("aliases");
    assert_eq!(aliases, [(ids["y"], ids["group"]), (ids["group"], ids["y"])]);
}
