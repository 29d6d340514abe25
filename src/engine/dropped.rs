//! What a dropped file says of itself, and what is said when it is rejected.

use serde::Serialize;

use super::import::{self, Imported};
use super::intake::IntakeError;
use crate::formats::{self, BatchOptions, Dialect, Family, Packing, Priority};
use crate::spool::{Claimed, Sidecar};
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
    if imported.bad_lines > 0 && !skip {
        let lines = if imported.bad_lines == 1 { "line" } else { "lines" };
        return Some(format!(
            "{} bad {lines}: mend them, or set on_bad_line = \"skip\"",
            imported.bad_lines
        ));
    }
    None
}

/// The options of a file: its first line's over its sidecar's.
pub(super) async fn options(
    file_name: &str,
    claimed: &Claimed,
) -> Result<Result<BatchOptions, String>, IntakeError> {
    if let Err(reason) = dialect(file_name) {
        return Ok(Err(reason));
    }
    let beside = match &claimed.sidecar {
        Sidecar::Absent => BatchOptions::default(),
        Sidecar::Text(text) => match formats::sidecar(text) {
            Ok(options) => options,
            Err(error) => return Ok(Err(format!("its options file: {}", chain(&error)))),
        },
        Sidecar::Bad { name, reason } => {
            return Ok(Err(format!(
                "its options file {} is refused: {reason}",
                name.escape_debug()
            )));
        }
    };
    let first = import::first_line(claimed.input.clone()).await?;
    Ok(match formats::options_line(&first) {
        Ok(Some(options)) => Ok(options.merged_over(beside)),
        // A bad first line that is no options line is told with the other bad lines.
        Ok(None) => Ok(beside),
        Err(error) => Err(format!("line 1: {error}")),
    })
}

/// The dialect of a file, if it is one that is taken in.
pub(crate) fn dialect(file_name: &str) -> Result<Dialect, String> {
    let name = formats::recognise(file_name).map_err(|error| error.to_string())?;
    match (name.family, name.packing) {
        (Family::Jsonl, Packing::Plain) => Ok(Dialect::GeminiJsonl),
        (Family::Text, Packing::Plain) => Ok(Dialect::Text),
        (Family::Jsonl | Family::Json | Family::Text | Family::Csv, _) => {
            Err("only plain .jsonl and .txt files are taken in".to_owned())
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
