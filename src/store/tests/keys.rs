//! How keys stand, over restarts.

use super::*;

fn state(project_id: i64, name: &str, refused: u32, aside: Option<u64>) -> KeyState {
    let aside = aside.map(|at| (NOON.plus(at), "refused".to_owned()));
    KeyState { project_id, name: name.to_owned(), disabled: false, aside, refused }
}

#[tokio::test]
async fn what_a_user_says_of_a_key_and_what_the_provider_says_are_kept_apart() {
    let fixture = Fixture::new().await;
    let (store, id) = (&fixture.store, fixture.ids.id);
    store.disable_key(id, "a".to_owned(), true).await.expect("disabled");
    store.keep_key(state(id, "a", 2, Some(60_000))).await.expect("kept");
    store.keep_key(state(id, "b", 1, Some(5))).await.expect("kept");
    store.keep_key(state(id, "b", 0, None)).await.expect("kept");
    let a = KeyState { disabled: true, ..state(id, "a", 2, Some(60_000)) };
    let states = store.reader().key_states().await.expect("states");
    assert_eq!(states, [a.clone(), state(id, "b", 0, None)]);
    store.disable_key(id, "a".to_owned(), false).await.expect("enabled");
    let states = store.reader().key_states().await.expect("states");
    assert_eq!(states[0], KeyState { disabled: false, ..a });
    store.keep_keys_only(id, vec!["b".to_owned(), "c".to_owned()]).await.expect("forgotten");
    let states = store.reader().key_states().await.expect("states");
    assert_eq!(states, [state(id, "b", 0, None)]);
}
