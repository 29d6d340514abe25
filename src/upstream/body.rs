//! The request body as the transport takes it, and the proof of what it took.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Progress;

/// Told of each step; it is called from the transport's own task.
pub(super) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// One TLS record. The transport queues at most 16 frames or 408 KiB before it waits for the
/// socket, so handing the body out in pieces keeps `BodySent` close to the wire.
const FRAME_BYTES: usize = 16 << 10;

/// Who came first: the transport, which took bytes, or the client, which gave the call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Handed,
    Revoked,
}

/// What became of a body. The first of "handed out" and "revoked" wins for ever, so a revoked body
/// provably never left, even when the transport still holds it.
#[derive(Debug, Default)]
pub(super) struct Custody {
    fate: OnceLock<Fate>,
    sent: AtomicBool,
}

impl Custody {
    /// Forbids to hand anything out. Returns whether that came in time.
    pub(super) fn revoke(&self) -> bool {
        *self.fate.get_or_init(|| Fate::Revoked) == Fate::Revoked
    }

    /// Whether the transport took the last byte.
    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// Notes that bytes go out, unless that was forbidden.
    pub(super) fn hand_out(&self) -> bool {
        *self.fate.get_or_init(|| Fate::Handed) == Fate::Handed
    }
}

/// The call was given up before the transport asked for the body.
#[derive(Debug, thiserror::Error)]
#[error("the request was given up before it was sent")]
pub(super) struct Revoked;

/// A body of known length that tells when its end is reached. It must not be empty: a transport
/// does not ask for an empty body, so nothing would be told.
pub(super) struct Watched {
    rest: Bytes,
    custody: Arc<Custody>,
    on_progress: OnProgress,
}

impl Watched {
    pub(super) fn new(body: Bytes, custody: Arc<Custody>, on_progress: OnProgress) -> Self {
        assert!(!body.is_empty(), "an empty body tells nothing");
        Self { rest: body, custody, on_progress }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Revoked;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Revoked>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if !self.custody.hand_out() {
            return Poll::Ready(Some(Err(Revoked)));
        }
        let at = self.rest.len().min(FRAME_BYTES);
        let piece = self.rest.split_to(at);
        if self.rest.is_empty() {
            self.custody.sent.store(true, Ordering::Release);
            (self.on_progress)(Progress::BodySent);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).expect("a length fits 64 bits"))
    }
}
