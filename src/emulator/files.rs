//! Uploaded files: the resumable protocol in two legs, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::http::request::Parts;
use axum::http::{Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::call::credential;
use super::refusal::Refusal;
use super::server::Shared;
use super::wire::Reply;

/// Bytes of a chunk that is not the last are a multiple of this.
const GRANULARITY: &str = "8388608";

/// Files and uploads that are kept.
const KEPT_MAX: usize = 1_000;

/// What was uploaded.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    uploads: BTreeMap<String, Upload>,
    files: BTreeMap<String, File>,
    made: u64,
}

#[derive(Debug)]
struct Upload {
    display_name: Option<String>,
    mime_type: String,
    length: Option<usize>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct File {
    document: Value,
    bytes: Vec<u8>,
}

/// Answers a call of files; none when it is another.
pub(super) fn serve(shared: &Shared, parts: &Parts, body: &[u8]) -> Option<Reply> {
    let path = parts.uri.path();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let known = |version: &str| ["v1", "v1beta", "v1alpha"].contains(&version);
    let answered = match (&parts.method, segments.as_slice()) {
        (&Method::POST, ["upload", version, "files"]) if known(version) => {
            shared.files.upload(shared, parts, body)
        }
        (method, [version, "files", rest @ ..]) if known(version) => {
            let named = identified(shared, parts);
            named.and_then(|()| shared.files.of(method, rest))
        }
        _ => return None,
    };
    Some(answered.unwrap_or_else(|refusal| Reply::refusal(&refusal)))
}

fn identified(shared: &Shared, parts: &Parts) -> Result<(), Refusal> {
    let query = query(parts);
    let key = credential(&parts.headers, &query)?;
    shared.engine().identify(&key).map(drop)
}

fn query(parts: &Parts) -> Vec<(String, String)> {
    let read = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    read.map_or_else(|_| Vec::new(), |axum::extract::Query(query)| query)
}

impl Files {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload(&self, shared: &Shared, parts: &Parts, body: &[u8]) -> Result<Reply, Refusal> {
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let command = text("x-goog-upload-command").unwrap_or_default();
        let query = query(parts);
        let id = query.iter().find(|(name, _)| name == "upload_id").map(|(_, id)| id.clone());
        match id {
            None => {
                identified(shared, parts)?;
                if text("x-goog-upload-protocol") != Some("resumable") || command != "start" {
                    return Err(Refusal::bad_request("Unsupported upload protocol."));
                }
                let length = text("x-goog-upload-header-content-length");
                let mime_type = text("x-goog-upload-header-content-type");
                let upload = Upload {
                    display_name: display_name(body)?,
                    mime_type: mime_type.unwrap_or("application/octet-stream").to_owned(),
                    length: length.and_then(|length| length.parse().ok()),
                    bytes: Vec::new(),
                };
                Ok(self.begin(upload, text(header::HOST.as_str()).unwrap_or("localhost")))
            }
            // Whoever knows the address may go on, and shows no key.
            Some(id) => {
                let offset = text("x-goog-upload-offset").and_then(|offset| offset.parse().ok());
                let host = text(header::HOST.as_str()).unwrap_or("localhost");
                self.go_on(&id, command, offset, body, (host, shared.clock.now().wall))
            }
        }
    }

    fn begin(&self, upload: Upload, host: &str) -> Reply {
        let mut kept = self.kept();
        kept.made += 1;
        let id = format!("u{:08x}", kept.made);
        if kept.uploads.len() >= KEPT_MAX {
            kept.uploads.pop_first();
        }
        kept.uploads.insert(id.clone(), upload);
        let url =
            format!("http://{host}/upload/v1beta/files?upload_id={id}&upload_protocol=resumable");
        let mut reply = Reply::json(200, &json!({}));
        reply.headers.push(("x-goog-upload-url", url));
        reply.headers.push(("x-goog-upload-status", "active".to_owned()));
        reply.headers.push(("x-goog-upload-chunk-granularity", GRANULARITY.to_owned()));
        reply
    }

    fn go_on(
        &self,
        id: &str,
        command: &str,
        offset: Option<usize>,
        body: &[u8],
        (host, now): (&str, DateTime<Utc>),
    ) -> Result<Reply, Refusal> {
        let mut kept = self.kept();
        let Some(upload) = kept.uploads.get_mut(id) else { return Err(Refusal::no_path()) };
        let commands: Vec<&str> = command.split(',').map(str::trim).collect();
        let is_query = commands == ["query"];
        if !is_query && !commands.contains(&"upload") && !commands.contains(&"finalize") {
            return Err(Refusal::bad_request("Unknown X-Goog-Upload-Command."));
        }
        if commands.contains(&"upload") {
            if offset != Some(upload.bytes.len()) {
                return Err(Refusal::bad_request("Upload offset does not match received bytes."));
            }
            upload.bytes.extend_from_slice(body);
        }
        if !commands.contains(&"finalize") {
            let received = upload.bytes.len().to_string();
            let mut reply = Reply::json(200, &json!({}));
            reply.headers.push(("x-goog-upload-status", "active".to_owned()));
            reply.headers.push(("x-goog-upload-size-received", received));
            return Ok(reply);
        }
        if upload.length.is_some_and(|length| length != upload.bytes.len()) {
            return Err(Refusal::bad_request("Upload has another length than was announced."));
        }
        let upload = kept.uploads.remove(id).expect("it was just there");
        let name = format!("f{}", id.trim_start_matches('u'));
        let document = document(&name, &upload, (host, now));
        if kept.files.len() >= KEPT_MAX {
            kept.files.pop_first();
        }
        kept.files.insert(name, File { document: document.clone(), bytes: upload.bytes });
        let mut reply = Reply::json(200, &json!({"file": document}));
        reply.headers.push(("x-goog-upload-status", "final".to_owned()));
        Ok(reply)
    }

    fn of(&self, method: &Method, rest: &[&str]) -> Result<Reply, Refusal> {
        let mut kept = self.kept();
        let gone = || {
            Refusal::permission_denied(
                "You do not have permission to access the File or it may not exist.",
            )
        };
        match (method, rest) {
            (&Method::GET, []) => {
                let files: Vec<&Value> = kept.files.values().map(|file| &file.document).collect();
                let page = if files.is_empty() { json!({}) } else { json!({"files": files}) };
                Ok(Reply::json(200, &page))
            }
            (&Method::GET, [name]) => {
                let content = name.strip_suffix(":download");
                let file = kept.files.get(content.unwrap_or(name)).ok_or_else(gone)?;
                Ok(if content.is_some() {
                    Reply::text(String::from_utf8_lossy(&file.bytes).into_owned())
                } else {
                    Reply::json(200, &file.document)
                })
            }
            (&Method::DELETE, [name]) => {
                kept.files.remove(*name).ok_or_else(gone)?;
                Ok(Reply::json(200, &json!({})))
            }
            _ => Err(Refusal::no_path()),
        }
    }
}

fn display_name(body: &[u8]) -> Result<Option<String>, Refusal> {
    if body.is_empty() {
        return Ok(None);
    }
    let document: Value = serde_json::from_slice(body)
        .map_err(|_| Refusal::bad_request("Invalid JSON payload received."))?;
    let file = &document["file"];
    let name = file.get("displayName").or_else(|| file.get("display_name"));
    Ok(name.and_then(Value::as_str).map(str::to_owned))
}

fn document(name: &str, upload: &Upload, (host, now): (&str, DateTime<Utc>)) -> Value {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let mut document = json!({
        "name": format!("files/{name}"),
        "mimeType": upload.mime_type,
        "sizeBytes": upload.bytes.len().to_string(),
        "createTime": time(now),
        "updateTime": time(now),
        "expirationTime": time(now + TimeDelta::hours(48)),
        "sha256Hash": STANDARD.encode(Sha256::digest(&upload.bytes)),
        "uri": format!("http://{host}/v1beta/files/{name}"),
        "state": "ACTIVE",
        "source": "UPLOADED",
    });
    if let Some(name) = &upload.display_name {
        document["displayName"] = json!(name);
    }
    document
}
