//! What the name of a dropped file says.

use super::words::words;
use super::{Dialect, FormatError, NAME_BYTES_MAX};

words! {
    /// How the text of a file is cut into records.
    pub enum Family {
        /// One JSON object a line.
        Jsonl = "jsonl",
        /// A JSON object, or a list of them.
        Json = "json",
        /// One prompt a line.
        Text = "text",
        /// Comma-separated fields under a header (RFC 4180).
        Csv = "csv",
    }
}

words! {
    /// How a file's bytes hold its text.
    pub enum Packing {
        /// As they are.
        Plain = "plain",
        /// Compressed by gzip.
        Gzip = "gzip",
        /// Compressed by Zstandard.
        Zstd = "zstd",
    }
}

/// The suffixes of each family. The first is the usual one.
const FAMILIES: [(&str, Family); 5] = [
    ("jsonl", Family::Jsonl),
    ("ndjson", Family::Jsonl),
    ("json", Family::Json),
    ("txt", Family::Text),
    ("csv", Family::Csv),
];

/// The suffixes of each packing.
const PACKINGS: [(&str, Packing); 2] = [("gz", Packing::Gzip), ("zst", Packing::Zstd)];

impl Family {
    /// Its dialect, where the first record need not be seen for it.
    #[must_use]
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Jsonl | Self::Json => None,
            Self::Text => Some(Dialect::Text),
            Self::Csv => Some(Dialect::Csv),
        }
    }
}

/// The parts of a dropped file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName<'a> {
    /// What the results are named after: the name without its suffixes.
    pub stem: &'a str,
    /// How its text is cut.
    pub family: Family,
    /// How its bytes hold its text.
    pub packing: Packing,
}

/// Reads a dropped file's name. Suffixes may be in capitals.
///
/// # Errors
/// A suffix that is not accepted, or a name that cannot name results: empty, hidden, longer than
/// [`NAME_BYTES_MAX`], with a slash or a control character.
pub fn recognise(file_name: &str) -> Result<FileName<'_>, FormatError> {
    let (name, packing) = match known(file_name, &PACKINGS) {
        Some((name, packing)) => (name, packing),
        None => (file_name, Packing::Plain),
    };
    let Some((stem, family)) = known(name, &FAMILIES) else {
        let suffix = |name: &str| name.rsplit_once('.').map(|(_, suffix)| suffix.to_owned());
        return Err(match packing {
            Packing::Plain => FormatError::unaccepted(&suffix(name).unwrap_or_default()),
            Packing::Gzip | Packing::Zstd => {
                let outer = suffix(file_name).unwrap_or_default();
                let inner = suffix(name).map_or(outer.clone(), |inner| format!("{inner}.{outer}"));
                FormatError::unaccepted(&inner)
            }
        });
    };
    match name_trouble(stem) {
        Some(problem) => Err(FormatError::Name { problem }),
        None => Ok(FileName { stem, family, packing }),
    }
}

/// Every suffix that a dropped file may have, in lower case and with its dot: of each family, and
/// of each packing behind it.
pub fn suffixes() -> impl Iterator<Item = String> {
    FAMILIES.iter().flat_map(|(family, _)| {
        let packed = PACKINGS.iter().map(move |(packing, _)| format!(".{family}.{packing}"));
        std::iter::once(format!(".{family}")).chain(packed)
    })
}

/// The name before one of these suffixes, and what the suffix stands for.
fn known<'n, T: Copy>(name: &'n str, suffixes: &[(&str, T)]) -> Option<(&'n str, T)> {
    let (before, suffix) = name.rsplit_once('.')?;
    let found = suffixes.iter().find(|(known, _)| suffix.eq_ignore_ascii_case(known))?;
    Some((before, found.1))
}

/// Why `name` cannot name a batch's results; `None` when it can.
pub(super) fn name_trouble(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("is longer than 200 bytes")
    } else if name.starts_with('.') {
        Some("starts with a dot")
    } else if name.chars().any(|c| c == '/' || c.is_control()) {
        Some("has a slash or a control character in it")
    } else {
        None
    }
}
