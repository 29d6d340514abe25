//! Sending an admitted call, and sending it again while its client waits and nothing was answered.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::intake::{Carried, Taken};
use super::refuse::Refused;
use super::tap::{Tap, Watch};
use super::target::{Dialect, Kind};
use super::{ATTEMPT, Client, Held, Proxy, WAITED, WOULD_WAIT, headers, number};
use crate::caps;
use crate::clock;
use crate::engine::permit::Permit;
use crate::gate::admit::BucketId;
use crate::upstream::reading::Reading;
use crate::upstream::{Answering, NotSentKind, Outbound, Outcome, Outgoing, Report};

/// What became of one attempt.
enum Tried {
    /// It is answered, well or not.
    Answered(Response<Body>),
    /// The provider's 429, in case that nothing better comes in time.
    Throttled(Response<Body>),
    /// It did not leave.
    NotSent(Refused),
    /// Nobody knows what became of it.
    Broken(Refused),
}

impl Proxy {
    /// Has a call admitted and sends it. What the provider refuses for its quotas, and what never
    /// left, is tried again as long as the client waits: each time as an attempt of its own.
    pub(super) async fn forward(
        &self,
        client: &Client,
        held: Held,
        (mut taken, mut body): (Taken, Carried),
        bucket: BucketId,
    ) -> Result<Response<Body>, Refused> {
        let patience = u64::try_from(client.patience.as_millis()).unwrap_or(u64::MAX);
        let deadline = client.since.plus(patience);
        let mut last: Option<Response<Body>> = None;
        let mut left = caps::CALL_TRIES_MAX;
        loop {
            let permit = match (self.admit(client, &taken, bucket, deadline).await, last.take()) {
                (Ok(permit), _) => permit,
                (Err(_), Some(throttled)) => return Ok(throttled),
                (Err(refused), None) => return Err(refused),
            };
            let tried = self.try_once(client, &held, (&mut taken, &mut body), permit).await;
            left -= 1;
            let in_time = clock::now().boot < deadline;
            let again = matches!(body, Carried::Held(_)) && in_time && left > 0;
            match tried {
                Tried::Throttled(response) if again && !client.shadow => last = Some(response),
                Tried::Answered(response) | Tried::Throttled(response) => return Ok(response),
                Tried::NotSent(_) if again => {}
                Tried::NotSent(refused) | Tried::Broken(refused) => return Err(refused),
            }
        }
    }

    async fn try_once(
        &self,
        client: &Client,
        held: &Held,
        (taken, carried): (&mut Taken, &mut Carried),
        mut permit: Permit,
    ) -> Tried {
        let is_held = matches!(carried, Carried::Held(_));
        let destination = self.inner.endpoints.find(permit.project, permit.key);
        let body = match carried {
            Carried::Held(body) => Outbound::Whole(body.clone()),
            Carried::Coming(coming) => match coming.take() {
                Some((body, bytes)) => Outbound::Coming { body, bytes },
                None => Outbound::Whole(bytes::Bytes::new()),
            },
        };
        let body = match body {
            Outbound::Coming { bytes: Some(0), .. } => Outbound::Whole(bytes::Bytes::new()),
            Outbound::Coming { body, bytes: None } if http_body::Body::is_end_stream(&body) => {
                Outbound::Whole(bytes::Bytes::new())
            }
            body @ (Outbound::Whole(_) | Outbound::Coming { .. }) => body,
        };
        let is_leg = client.target.kind == Kind::Upload
            && held.query.as_deref().is_some_and(|query| query.contains("upload_id="));
        let outgoing = Outgoing {
            method: held.method.clone(),
            base_url: destination.base_url,
            wire: destination.wire,
            is_openai: matches!(client.target.dialect, Dialect::Compatible | Dialect::OpenAi),
            path: client.target.path.clone(),
            query: held.query.clone(),
            headers: held.headers.clone(),
            key: (!is_leg).then(|| destination.key.clone()),
            body,
        };
        let progress = permit.on_progress();
        permit.put_to_use();
        match self.inner.carrier.pass(outgoing, progress).await {
            Ok(answer) => {
                let room = if is_held { Some(&mut taken.room) } else { None };
                self.take_back(client, room, permit, answer, destination.key).await
            }
            Err(outcome) => not_answered(permit, outcome),
        }
    }

    /// An answer has begun.
    async fn take_back(
        &self,
        client: &Client,
        room: Option<&mut Option<OwnedSemaphorePermit>>,
        permit: Permit,
        answer: Answering,
        key: secrecy::SecretString,
    ) -> Tried {
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = headers::incoming(&head.headers);
        let to = response.headers_mut();
        if client.target.kind == Kind::Upload {
            let mut prefix = format!("/p/{}", client.project);
            if let Some(tenant) = &client.target.tenant {
                prefix = format!("{prefix}/t/{tenant}");
            }
            self.inner.seal.rewrite(to, &client.own, &prefix);
        }
        to.insert(ATTEMPT, permit.id.0.into());
        to.insert(WAITED, number(permit.waited_ms));
        if let Some((until, _)) = &permit.would_wait {
            to.insert(WOULD_WAIT, number(clock::now().wall.until(*until)));
        }
        let reading = Reading::new(client.target.speech, status, &head.headers);
        let is_throttle = head.status == StatusCode::TOO_MANY_REQUESTS;
        let is_held = room.is_some();
        let room = room.filter(|_| !is_throttle).and_then(Option::take);
        let watch = Watch { permit, reading, status, key, room };
        if !(is_throttle && is_held) {
            return Tried::Answered(response.map(|()| Body::new(Tap::new(body, watch))));
        }
        match held(Tap::new(body, watch)).await {
            (body, true) => Tried::Throttled(response.map(|()| body)),
            (body, false) => Tried::Answered(response.map(|()| body)),
        }
    }
}

/// A refusal, and whether it is over. It is small, and read to its end so that the gate knows of it
/// before the call asks again. One that breaks off does so for the client as well.
async fn held(mut tap: Tap) -> (Body, bool) {
    let mut bytes = Vec::new();
    while bytes.len() <= caps::REFUSAL_HELD_BYTES {
        match tap.frame().await {
            None => return (Body::from(bytes), true),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    bytes.extend_from_slice(data);
                }
            }
            Some(Err(error)) => {
                let came = stream::iter([Ok(Bytes::from(bytes))]);
                let end = async {
                    // The server gives away what it has only while there is no error.
                    tokio::task::yield_now().await;
                    Err(axum::Error::new(error))
                };
                return (Body::from_stream(came.chain(stream::once(end))), true);
            }
        }
    }
    let came = stream::iter([Ok(Bytes::from(bytes))]);
    (Body::from_stream(came.chain(Body::new(tap).into_data_stream())), false)
}

/// No answer came.
fn not_answered(permit: Permit, outcome: Outcome) -> Tried {
    let unreachable = |reason: &str| format!("the endpoint cannot be reached: {reason}");
    let (tried, body_sent) = match &outcome {
        Outcome::NotSent { reason, kind: NotSentKind::Other } => {
            let refused = Refused::new(StatusCode::BAD_GATEWAY, format!("not sent: {reason}"));
            (Tried::NotSent(refused), false)
        }
        Outcome::NotSent { reason, .. } => {
            let refused = Refused::new(StatusCode::SERVICE_UNAVAILABLE, unreachable(reason));
            (Tried::NotSent(refused), false)
        }
        Outcome::Unknown { reason } => {
            let message = format!("the provider did not answer: {reason}");
            (Tried::Broken(Refused::new(StatusCode::BAD_GATEWAY, message)), true)
        }
        Outcome::Answered { .. } | Outcome::Refused(_) => {
            unreachable!("a call without an answer has no such end")
        }
    };
    permit.end(Report { body_sent, ..Report::of(outcome) }, None);
    tried
}
