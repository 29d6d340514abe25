//! Which names are ignored, taken and refused, and how names are shown.

use std::ffi::OsStr;

use super::{Refusal, SpoolError, caps};
use crate::formats;

/// What the options file of a dropped file has behind the name.
pub(super) const SIDECAR_SUFFIX: &str = ".tidegate.toml";

/// The dropped name without its format suffixes: `prompts` of `prompts.jsonl.gz`.
#[must_use]
pub fn stem(file_name: &str) -> &str {
    let longest = formats::suffixes().filter(|suffix| {
        let start = file_name.len().saturating_sub(suffix.len());
        start > 0
            && file_name.is_char_boundary(start)
            && file_name[start..].eq_ignore_ascii_case(suffix)
    });
    let length = longest.map(|suffix| suffix.len()).max().unwrap_or_default();
    &file_name[..file_name.len() - length]
}

/// Whether a scan passes over it in silence: still being written, or the options of another file.
pub(super) fn is_ignored(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let ends = [".tmp", ".part", "~", SIDECAR_SUFFIX];
    bytes.starts_with(b".") || ends.iter().any(|end| bytes.ends_with(end.as_bytes()))
}

/// The name as text if a file may be dropped under it.
pub(super) fn check(name: &OsStr) -> Result<&str, Refusal> {
    check_up_to(name, caps::NAME_MAX_BYTES)
}

/// Whether results may be named so.
pub(super) fn check_batch_name(name: &str) -> Result<(), SpoolError> {
    match check_up_to(OsStr::new(name), caps::BATCH_NAME_MAX_BYTES) {
        Ok(_) => Ok(()),
        Err(reason) => Err(SpoolError::BadName { name: name.to_owned(), reason }),
    }
}

/// Whether a directory in `working/` may be named so.
pub(super) fn check_id(id: &str) -> Result<(), SpoolError> {
    let fits = (1..=caps::ID_MAX_BYTES).contains(&id.len());
    if fits && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(());
    }
    Err(SpoolError::BadId { id: id.to_owned() })
}

fn check_up_to(name: &OsStr, max: usize) -> Result<&str, Refusal> {
    let fault = |fault| Err(Refusal::Name { fault });
    let Some(text) = name.to_str() else {
        return fault("not UTF-8");
    };
    match text {
        "" => fault("empty"),
        _ if text.len() > max => fault("longer than 200 bytes"),
        _ if text.starts_with('.') => fault("starts with a dot"),
        _ if text.contains('/') => fault("holds a slash"),
        _ if text.contains(char::is_control) => fault("holds a control character"),
        _ => Ok(text),
    }
}

/// The name fit for a log or a terminal: what is not printable text is escaped.
pub(super) fn printable(name: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        shown.extend(chunk.valid().escape_debug());
        for byte in chunk.invalid() {
            shown.extend(std::ascii::escape_default(*byte).map(char::from));
        }
    }
    shown
}

/// The `n`th name like this one, with the suffixes kept: `prompts-2.jsonl`.
pub(super) fn numbered(file_name: &str, n: u32) -> String {
    let stem = stem(file_name);
    match file_name.strip_prefix(stem) {
        Some(suffix) if n > 1 => format!("{stem}-{n}{suffix}"),
        _ => file_name.to_owned(),
    }
}
