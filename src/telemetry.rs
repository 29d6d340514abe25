//! What the daemon says of itself: logs, to the journal when it is listening, else to stderr; and
//! errors in words. Never prompts, never keys (A7).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// Starts logging. `filter` is in the syntax of `tracing-subscriber`, such as `tidegate=debug`.
pub(crate) fn start(filter: Option<&str>, journal: bool) {
    let filter = || EnvFilter::new(filter.unwrap_or("tidegate=info,warn"));
    let registry = tracing_subscriber::registry();
    if journal && let Ok(layer) = tracing_journald::layer() {
        let layer = layer.with_field_prefix(Some("TIDEGATE".to_owned()));
        registry.with(layer.with_filter(filter())).init();
        return;
    }
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(layer.with_filter(filter())).init();
}

/// An error with its causes, on one line.
#[must_use]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
