//! What a dropped file says of itself, and what is said when it is rejected.

use std::fs::File;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::import::{self, Imported};
use super::intake::{IntakeError, blocking};
use super::text::{self, Head, told};
use crate::formats::{self, BatchOptions, Priority};
use crate::spool::{Claimed, Sidecar, Spool, Unpacked};
use crate::store::Source;
use crate::telemetry::chain;

/// `NAME.error.json`.
#[derive(Debug, Serialize)]
pub(super) struct Rejection {
    pub(super) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<String>,
    pub(super) reason: String,
    pub(super) bad_lines: u64,
    pub(super) lines: Vec<import::BadLine>,
    pub(super) rejected_at: String,
}

impl Rejection {
    pub(super) fn json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("text and numbers are JSON");
        json.push(b'\n');
        json
    }
}

/// Why an imported file is not opened.
pub(super) fn refusal(imported: &Imported, skip: bool) -> Option<String> {
    if let Some(reason) = &imported.unusable {
        return Some(reason.clone());
    }
    if imported.items == 0 && imported.bad_lines == 0 {
        return Some("there is no prompt in it".to_owned());
    }
    if imported.broken && skip {
        return Some("a part of it cannot be read, so no line can be skipped: mend it".to_owned());
    }
    if imported.bad_lines > 0 && !skip {
        let lines = if imported.bad_lines == 1 { "line" } else { "lines" };
        return Some(format!(
            "{} bad {lines}: mend them, or set on_bad_line = \"skip\"",
            imported.bad_lines
        ));
    }
    None
}

/// What a file says of itself: how its name is read, what it begins with, and its options, those
/// within over those beside it.
pub(super) struct Said {
    pub(super) head: Head,
    pub(super) options: BatchOptions,
}

/// Reads what a file says of itself; it is unpacked for that.
///
/// # Errors
/// It cannot be read now; within, why it is refused.
pub(super) async fn said(
    spool: &Arc<Spool>,
    file_name: &str,
    claimed: &Claimed,
) -> Result<Result<Said, String>, IntakeError> {
    let (family, packing) = match formats::recognise(file_name) {
        Ok(name) => (name.family, name.packing),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let beside = match beside(&claimed.sidecar) {
        Ok(options) => options,
        Err(reason) => return Ok(Err(reason)),
    };
    let (files, work) = (spool.clone(), claimed.id.clone());
    let unpacked = blocking(move || files.unpack(&work, packing)).await?;
    if let Unpacked::Bad(reason) = unpacked {
        return Ok(Err(reason));
    }
    let path = spool.text_path(&claimed.id, packing);
    let at = path.clone();
    let read = tokio::task::spawn_blocking(move || text::head(File::open(at)?, family));
    let read = read.await.map_err(io::Error::other).and_then(|read| read);
    let mut head = match read.map_err(told(&path))? {
        Ok(head) => head,
        Err(reason) => return Ok(Err(reason)),
    };
    let options = head.options.take().unwrap_or_default().merged_over(beside);
    Ok(Ok(Said { head, options }))
}

/// The options beside a file.
fn beside(sidecar: &Sidecar) -> Result<BatchOptions, String> {
    match sidecar {
        Sidecar::Absent => Ok(BatchOptions::default()),
        Sidecar::Text(text) => {
            formats::sidecar(text).map_err(|error| format!("its options file: {}", chain(&error)))
        }
        Sidecar::Bad { name, reason } => {
            Err(format!("its options file {} is refused: {reason}", name.escape_debug()))
        }
    }
}

pub(crate) fn priority_of(options: &BatchOptions) -> u8 {
    options.priority.unwrap_or(Priority::Normal).rank()
}

pub(super) fn source_of(claimed: &Claimed) -> Source {
    let source = &claimed.source;
    Source {
        dev: source.dev.cast_signed(),
        ino: source.ino.cast_signed(),
        mtime_ns: source.mtime_ns,
        bytes: i64::try_from(source.size).unwrap_or(i64::MAX),
        uid: i64::from(source.uid),
        sha256: hex(&claimed.sha256),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
