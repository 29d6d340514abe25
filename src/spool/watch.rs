//! A hint that something happened in `incoming/`. Hints get lost: the periodic scan is the truth.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecursiveMode, Watcher as _};

/// Calls back on changes in a directory for as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    _inner: Option<notify::RecommendedWatcher>,
}

impl Watcher {
    /// Watches `path` and calls `on_hint` on a thread of its own when a file may have become
    /// complete there, or when events were lost. Where watching is not possible this warns, and
    /// never calls.
    pub fn start(path: &Path, on_hint: impl Fn() + Send + 'static) -> Self {
        let watch = || {
            let mut inner = notify::recommended_watcher(move |event: notify::Result<Event>| {
                if event.map_or(true, |event| is_hint(&event)) {
                    on_hint();
                }
            })?;
            inner.watch(path, RecursiveMode::NonRecursive)?;
            Ok(inner)
        };
        let inner: notify::Result<_> = watch();
        if let Err(error) = &inner {
            tracing::warn!(
                path = %path.display(),
                error = %error,
                "cannot watch the spool for new files, they are found by the periodic scan alone"
            );
        }
        Self { _inner: inner.ok() }
    }
}

/// Whether a scan is worth it. Our own looking at the directory must not cause the next look.
fn is_hint(event: &Event) -> bool {
    // Not each write: a file that is being written is looked at again anyway.
    let changes = matches!(
        event.kind,
        EventKind::Create(_)
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
    );
    let ignored = |path: &PathBuf| path.file_name().is_some_and(super::name::is_ignored);
    let all_ignored = !event.paths.is_empty() && event.paths.iter().all(ignored);
    event.need_rescan() || (changes && !all_ignored)
}
