//! A job file that a client sends: received, entered as a batch, and only then answered.

use std::io::{self, Read};
use std::net::IpAddr;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::Api;
use super::limits::bad;
use super::problem::Problem;
use super::routes::{Answer, stopping};
use crate::engine::submission::{Submission, Submitted};
use crate::formats::{self, BatchOptions};
use crate::spool::{self, SpoolError};
use crate::store::Batch;
use crate::telemetry::chain;

/// Pieces of a body that wait to be written, each at most what one read of the socket gave.
const PIECES_MAX: usize = 8;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// A user of this machine, as the kernel says.
    User(u32),
    /// Somebody at this address; counts as the daemon's own user.
    Address(IpAddr),
    /// Not to be told; counts as the daemon's own user.
    Unknown,
}

impl Peer {
    /// As the ledger has it.
    pub(super) fn name(self) -> Option<String> {
        match self {
            Self::User(uid) => Some(format!("uid:{uid}")),
            Self::Address(address) => Some(address.to_string()),
            Self::Unknown => None,
        }
    }

    fn uid(self) -> u32 {
        match self {
            Self::User(uid) => uid,
            Self::Address(_) | Self::Unknown => rustix::process::geteuid().as_raw(),
        }
    }
}

/// The options that parameters of a URL or of a command line give, by their names. `fallback` may
/// be given several times.
///
/// # Errors
/// The first parameter that is no option or whose value makes no sense.
pub(crate) fn options_of(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<BatchOptions, String> {
    let mut options = Vec::new();
    let mut fallback = Vec::new();
    for (name, value) in pairs {
        match name.as_str() {
            "fallback" => fallback.push(Value::String(value)),
            _ => options.push((name, Value::String(value))),
        }
    }
    if !fallback.is_empty() {
        options.push(("fallback".to_owned(), Value::Array(fallback)));
    }
    let options = MapDeserializer::<_, serde_json::Error>::new(options.into_iter());
    BatchOptions::deserialize(options).map_err(|error| error.to_string())
}

pub(super) async fn submit_batch(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    params: Result<Query<Vec<(String, String)>>, QueryRejection>,
    body: Body,
) -> Answer<Response> {
    let asked = params.map_err(|error| bad(error.body_text())).and_then(|Query(pairs)| read(pairs));
    if body.size_hint().lower() > spool::FILE_MAX_BYTES {
        return Err(too_large());
    }
    let (file_name, options) = match asked {
        Ok(asked) => asked,
        Err(problem) => {
            // Whoever is still sending would not read the answer.
            drain(body.into_data_stream()).await;
            return Err(problem);
        }
    };
    // Before that, what stands half written in working/ is taken for what a crash left there.
    let mut scanned = api.inner.scanned.clone();
    scanned.wait_for(|scanned| *scanned).await.map_err(|_| stopping())?;
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    // In a task of its own: a client that leaves must not leave a file that is nobody's.
    let task = tokio::spawn(take(api.clone(), peer.uid(), file_name, options, waiting));
    let sent = send(body, pieces).await;
    let taken = task.await.map_err(|_| stopping())?;
    sent?;
    let (status, batch) = taken?;
    let place = format!("/api/v1/batches/{}", batch.uid);
    Ok((status, [(header::LOCATION, place)], Json(api.shown(&batch, None))).into_response())
}

/// The file's name and the options. `file` is the name; without it `name` is, which else is the
/// option of that name.
fn read(mut pairs: Vec<(String, String)>) -> Answer<(String, BatchOptions)> {
    let refused = |why: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why);
    let at = |pairs: &[(String, String)], wanted| pairs.iter().position(|(name, _)| name == wanted);
    let Some(place) = at(&pairs, "file").or_else(|| at(&pairs, "name")) else {
        return Err(bad("say what the file is called: ?file=NAME.jsonl".to_owned()));
    };
    let (_, file_name) = pairs.remove(place);
    formats::recognise(&file_name).map_err(|error| refused(error.to_string()))?;
    Ok((file_name, options_of(pairs).map_err(refused)?))
}

/// Hands the body over as it comes, then `None`: without it, it was cut off.
async fn send(body: Body, pieces: mpsc::Sender<Option<Bytes>>) -> Answer<()> {
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| bad("the file was cut off on its way".to_owned()))?;
        if pieces.send(Some(piece)).await.is_err() {
            // Whoever receives has failed, and tells it.
            drain(stream).await;
            return Ok(());
        }
    }
    let _ = pieces.send(None).await;
    Ok(())
}

async fn drain(mut stream: impl futures_util::Stream<Item = Result<Bytes, axum::Error>> + Unpin) {
    let mut bytes: u64 = 0;
    while let Some(Ok(piece)) = stream.next().await {
        bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if bytes > spool::FILE_MAX_BYTES {
            return;
        }
    }
}

async fn take(
    api: Api,
    uid: u32,
    file_name: String,
    options: BatchOptions,
    pieces: mpsc::Receiver<Option<Bytes>>,
) -> Answer<(StatusCode, Batch)> {
    let (spool, work) = (api.inner.spool.clone(), uuid::Uuid::now_v7().to_string());
    let mut content = Pieces { waiting: pieces, piece: Bytes::new(), is_whole: false };
    let receiving = tokio::task::spawn_blocking(move || spool.receive(&work, uid, &mut content));
    let received = receiving.await.map_err(|_| stopping())?.map_err(|error| unwritten(&error))?;
    let work = received.id.clone();
    let (reply, answer) = oneshot::channel();
    let submission = Submission { file_name, options, received, reply };
    if api.inner.submissions.send(submission).await.is_err() {
        let spool = api.inner.spool.clone();
        // The daemon ends, and nobody was told of this file.
        let removing = tokio::task::spawn_blocking(move || spool.remove_working(&work));
        drop(removing.await);
        return Err(stopping());
    }
    match answer.await.map_err(|_| stopping())? {
        Submitted::Entered(batch) => Ok((StatusCode::CREATED, *batch)),
        Submitted::Known(batch) => Ok((StatusCode::OK, *batch)),
        Submitted::Taken(id) => {
            let detail = format!("another file is batch {id}: make a new id");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        Submitted::Refused(why) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        Submitted::Full(why) => Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, why)),
        Submitted::Failed(why) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why)),
    }
}

fn too_large() -> Problem {
    let max = spool::FILE_MAX_BYTES;
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {max} bytes: split the file"))
}

fn unwritten(error: &SpoolError) -> Problem {
    match error {
        SpoolError::NoSpace { .. } => Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "no space left in the spool: nothing of the file was kept",
        ),
        SpoolError::Refused { .. } => too_large(),
        SpoolError::NotPermitted { .. }
        | SpoolError::Io { .. }
        | SpoolError::NotADirectory { .. }
        | SpoolError::TwoFileSystems { .. }
        | SpoolError::Replaced { .. }
        | SpoolError::Changed { .. }
        | SpoolError::Gone { .. }
        | SpoolError::Exists { .. }
        | SpoolError::BadId { .. }
        | SpoolError::BadName { .. }
        | SpoolError::NoFreeName { .. }
        | SpoolError::Content { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error))
        }
    }
}

/// The pieces as one reader, which fails when they end before their `None`.
struct Pieces {
    waiting: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_whole: bool,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_whole {
            match self.waiting.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_whole = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = self.piece.len().min(into.len());
        let taken = self.piece.split_to(n);
        into[..n].copy_from_slice(&taken);
        Ok(n)
    }
}
