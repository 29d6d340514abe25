//! The right to send one request, and the duty to say how it ended.

use tokio::sync::mpsc;

use super::state::Event;
use crate::clock;
use crate::gate::units::{BootMs, UnixMs};
use crate::gate::window::AttemptId;
use crate::upstream::{NotSentKind, Outcome, Progress, Report, Usage};

/// The right to send one request: its row is durable. However it ends, the engine is told. One that
/// is dropped was not used, unless it was said that it is being used: then nobody knows.
#[derive(Debug)]
pub struct Permit {
    /// The row.
    pub id: AttemptId,
    /// Whose endpoint.
    pub project: i64,
    /// Which of its keys.
    pub key: usize,
    /// The name of that key.
    pub key_name: String,
    /// How long the client was held.
    pub waited_ms: u64,
    /// Until when and why it would have been held, had it not been let go in any case.
    pub would_wait: Option<(UnixMs, String)>,
    since: BootMs,
    is_used: bool,
    events: Option<mpsc::Sender<Event>>,
}

impl Permit {
    pub(super) fn new(admitted: &super::callers::Admitted, events: mpsc::Sender<Event>) -> Self {
        Self {
            id: admitted.id,
            project: admitted.project,
            key: admitted.key,
            key_name: admitted.key_name.clone(),
            waited_ms: admitted.waited_ms,
            would_wait: admitted.would_wait.clone(),
            since: clock::now().boot,
            is_used: false,
            events: Some(events),
        }
    }

    /// Who is told of the steps of the call. Told early or not at all: its end tells the same, only
    /// later.
    pub fn on_progress(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let (events, id) = (self.events.clone(), self.id);
        move |progress| {
            let Some(events) = &events else { return };
            let _ = events.try_send(match progress {
                Progress::BodySent => Event::BodySent(id),
                Progress::Headers { .. } => Event::Headers(id),
            });
        }
    }

    /// Says that the request is being sent.
    pub fn put_to_use(&mut self) {
        self.is_used = true;
    }

    /// Says how it ended, and what the provider had counted when it refused or broke off.
    pub fn end(mut self, report: Report, counted: Option<Usage>) {
        self.tell(report, counted);
    }

    fn tell(&mut self, report: Report, counted: Option<Usage>) {
        let Some(events) = self.events.take() else { return };
        let latency_ms = self.since.until(clock::now().boot);
        let report = Box::new(report);
        let ended = Event::CallEnded { id: self.id, report, counted, latency_ms };
        if let Err(mpsc::error::TrySendError::Full(ended)) = events.try_send(ended)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Without a runtime the daemon is gone, and the next start finds the row open.
            runtime.spawn(async move { events.send(ended).await });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let report = if self.is_used {
            let reason = "the client left before the answer came".to_owned();
            Report { body_sent: true, ..Report::of(Outcome::Unknown { reason }) }
        } else {
            let reason = "the client left before the request was sent".to_owned();
            Report::not_sent(NotSentKind::Other, reason)
        };
        self.tell(report, None);
    }
}

impl Report {
    /// With nothing but its end.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        Self { outcome, ..Self::not_sent(NotSentKind::Other, String::new()) }
    }

    /// Of a request that was not sent.
    #[must_use]
    pub fn not_sent(kind: NotSentKind, reason: String) -> Self {
        Self {
            outcome: Outcome::NotSent { reason, kind },
            status: None,
            date_header: None,
            service_tier: None,
            request_id: None,
            stated: Vec::new(),
            body_sent: false,
        }
    }
}
