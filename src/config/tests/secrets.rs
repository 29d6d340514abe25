//! Secrets stay where they belong.

use super::{CANARY, PROJECT, env, load};
use crate::config::keys::hide_secrets;

#[test]
fn debug_and_display_show_no_secret() {
    let config = load(PROJECT).unwrap();
    let shown = format!("{config:?} {config:#?} {:?} {}", env(), config.render_masked());
    assert!(shown.contains("GEMINI_API_KEY"), "the name of the variable is no secret");
    assert!(!shown.contains("Canary"), "{shown}");
}

#[test]
fn a_key_in_a_message_is_hidden_and_other_words_are_not() {
    let message = format!("no tier `{CANARY}` in {CANARY}, sk-1");
    assert_eq!(hide_secrets(&message), "no tier `(hidden)` in (hidden), sk-1");
    assert_eq!(hide_secrets("`é`: at 127.0.0.1:1…"), "`é`: at 127.0.0.1:1…");
}
