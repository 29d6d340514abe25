//! A call's body: held where it has to be weighed, and weighed.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::refuse::Refused;
use super::target::Kind;
use super::{Client, Load, Proxy};
use crate::caps;
use crate::formats::{self, Footprint, Shape, Weighed};
use crate::store::TextWeight;

/// Larger bodies are weighed aside, so that others are not kept waiting meanwhile.
const WEIGHED_HERE_BYTES: usize = 64 << 10;

/// What is known of a call's body.
pub(super) struct Taken {
    /// Its length, as far as it is known.
    pub(super) bytes: u64,
    /// The model that the call names.
    pub(super) model: Option<String>,
    /// What it weighs; none when no quota counts it.
    pub(super) load: Option<Load>,
    /// The room that it takes.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// A call's body.
pub(super) enum Carried {
    /// Held: it can be sent again.
    Held(Bytes),
    /// Still with the client.
    Coming(Option<(Body, Option<u64>)>),
}

impl Proxy {
    /// Takes in the body of a call, as far as it has to be looked at.
    pub(super) async fn take_in(
        &self,
        client: &Client,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Taken, Carried), Refused> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let length: Option<u64> = length.and_then(|it| it.parse().ok());
        let Kind::Metered(shape) = client.target.kind else {
            let model = client.target.model.clone();
            let body = Carried::Coming(Some((body, length)));
            let bytes = length.unwrap_or(0);
            return Ok((Taken { bytes, model, load: None, room: None }, body));
        };
        let (body, room) = self.hold(body, length).await?;
        let (weighed, body) = weigh(shape, body).await;
        let named = weighed.as_ref().and_then(|weighed| weighed.model.clone());
        let Some(model) = client.target.model.clone().or(named) else {
            let message = "the request names no model: say `model` in its body";
            return Err(Refused::new(StatusCode::BAD_REQUEST, message));
        };
        let load = match weighed {
            Some(weighed) => load(&weighed.footprint),
            // The provider will say what is wrong with it; until then it may count.
            None => Load {
                input_tokens: u64::try_from(body.len() / 4).unwrap_or(u64::MAX),
                requests: 1,
                ..Load::default()
            },
        };
        let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let taken = Taken { bytes, model: Some(model), load: Some(load), room };
        Ok((taken, Carried::Held(body)))
    }

    /// Holds a body, within the room that there is for all.
    async fn hold(
        &self,
        mut body: Body,
        length: Option<u64>,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
        let too_large = || {
            let most = caps::CALL_BODY_MAX_BYTES >> 20;
            let message = format!("the request is longer than {most} MiB: upload large files");
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let length = length.map(usize::try_from).transpose().map_err(|_| too_large())?;
        if length.is_some_and(|length| length > caps::CALL_BODY_MAX_BYTES) {
            return Err(too_large());
        }
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut take = |bytes: usize| {
            let more = u32::try_from(bytes).ok();
            let more =
                more.and_then(|more| self.inner.room.clone().try_acquire_many_owned(more).ok());
            let Some(more) = more else {
                let most = caps::CALL_BYTES_HELD_MAX >> 20;
                let message = format!("requests of {most} MiB are held already: try again later");
                return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, message));
            };
            match &mut room {
                Some(room) => room.merge(more),
                none => *none = Some(more),
            }
            Ok(())
        };
        if let Some(length) = length {
            take(length)?;
        }
        let mut held = Vec::with_capacity(length.unwrap_or(0));
        let idle = Duration::from_millis(caps::CALL_BODY_IDLE_MS);
        loop {
            let frame = timeout(idle, body.frame()).await.map_err(|_| {
                Refused::new(StatusCode::REQUEST_TIMEOUT, "the rest of the request did not come")
            })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                Refused::new(StatusCode::BAD_REQUEST, "the request broke off before its end")
            })?;
            let Some(data) = frame.data_ref() else { continue };
            if length.is_none() {
                take(data.len())?;
            }
            if held.len().saturating_add(data.len()) > caps::CALL_BODY_MAX_BYTES {
                return Err(too_large());
            }
            held.extend_from_slice(data);
        }
        Ok((held.into(), room))
    }
}

async fn weigh(shape: Shape, body: Bytes) -> (Option<Weighed>, Bytes) {
    if body.len() <= WEIGHED_HERE_BYTES {
        return (formats::weigh(shape, &body), body);
    }
    let copy = body.clone();
    let weighed = tokio::task::spawn_blocking(move || formats::weigh(shape, &copy)).await;
    (weighed.ok().flatten(), body)
}

pub(super) fn load(footprint: &Footprint) -> Load {
    let text = TextWeight {
        text_bytes: footprint.text_bytes,
        media_tokens: footprint.media_tokens.saturating_add(footprint.overhead_tokens()),
        kind: i64::from(footprint.kind().code()),
    };
    Load {
        text: Some(text),
        input_tokens: footprint.estimate().likely_max,
        counted: None,
        output_tokens_max: footprint.output_tokens_max,
        requests: footprint.requests,
        images: footprint.images,
    }
}
