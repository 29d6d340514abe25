//! The answer on its way to the client: each piece passes as it comes, and a copy is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use secrecy::SecretString;

use crate::engine::permit::Permit;
use crate::upstream::reading::{Ended, Read, Reading};
use crate::upstream::{Outcome, Report, Usage};

/// The body of an answer. Whoever drops it before its end has left; the provider's connection is
/// closed then.
pub(super) struct Tap {
    inner: reqwest::Body,
    watch: Option<Watch>,
    /// Bytes that are still to come, where the answer says how many.
    left: Option<u64>,
    /// How it broke off, as long as the client is not told.
    broken: Option<reqwest::Error>,
}

/// What is to be told of an answer when it is over.
pub(super) struct Watch {
    pub(super) permit: Permit,
    pub(super) reading: Reading,
    pub(super) status: u16,
    pub(super) key: SecretString,
    /// Kept as long as the call: room for what it holds.
    pub(super) room: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Watch {
    /// Tells the engine how the answer ended.
    pub(super) fn close(self, is_complete: bool) {
        let Self { permit, reading, status, key, room } = self;
        drop(room);
        let (report, counted) = concluded(status, reading.end(is_complete, &key));
        permit.end(report, counted);
    }
}

impl Tap {
    pub(super) fn new(inner: reqwest::Body, watch: Watch) -> Self {
        let left = inner.size_hint().exact();
        let mut tap = Self { inner, watch: Some(watch), left, broken: None };
        tap.close_at_end();
        tap
    }

    /// An answer is over with its last byte, also when nobody asks for more: a server that has
    /// sent as many as it announced does not.
    fn close_at_end(&mut self) {
        if self.inner.is_end_stream() || self.left == Some(0) {
            self.close(true);
        }
    }

    fn close(&mut self, is_complete: bool) {
        if let Some(watch) = self.watch.take() {
            watch.close(is_complete);
        }
    }
}

impl Body for Tap {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => {
                    let passed = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.left = self.left.map(|left| left.saturating_sub(passed));
                    if let Some(watch) = &mut self.watch {
                        watch.reading.pass(data);
                    }
                    self.close_at_end();
                }
                // Nothing comes behind trailers.
                None => self.close(true),
            },
            Some(Err(_)) => self.close(false),
            None => self.close(true),
        }
        if let Some(Err(error)) = frame {
            // The server drops what it has not yet given away when it hears of an error; a pause
            // lets the client have all that came.
            self.broken = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// What is known of a call when its answer is over, and what the provider had counted of one that
/// it refused or that broke off.
fn concluded(status: u16, read: Read) -> (Report, Option<Usage>) {
    let Read { ended, usage, blocked, images, refusal, .. } = read;
    let (outcome, counted) = match (ended, refusal) {
        (_, Some(refusal)) => (Outcome::Refused(refusal), usage),
        (Ended::Complete, None) => {
            (Outcome::Answered { body: Bytes::new(), usage, blocked, images }, None)
        }
        (Ended::Broken { reason }, None) => (Outcome::Unknown { reason }, usage),
        (Ended::Failed, None) => {
            (Outcome::Unknown { reason: "an error that is no document".to_owned() }, usage)
        }
    };
    let report = Report {
        status: Some(status),
        date_header: read.date_header,
        service_tier: read.service_tier,
        request_id: read.request_id,
        stated: read.stated,
        body_sent: true,
        ..Report::of(outcome)
    };
    (report, counted)
}
