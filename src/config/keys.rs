//! Secrets: where they come from and how they are read. They live in `SecretString` alone, which
//! neither `Debug` nor `Display` shows.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::env::Env;
use super::error::{ConfigError, Document};

/// A secret longer than this is a mistake, such as the wrong file.
pub(super) const SECRET_BYTES_MAX: u64 = 4096;

/// Where systemd puts the credentials of units.
const CREDENTIALS_DIR: &str = "/run/credentials";

/// A key of a project.
#[derive(Clone, Debug)]
pub struct Key {
    /// What reports call it.
    pub name: String,
    /// The key itself: printable ASCII, not empty.
    pub secret: SecretString,
    /// Where it was read.
    pub origin: KeyOrigin,
}

impl Key {
    /// Whether it is the same key under the same name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.secret.expose_secret() == other.secret.expose_secret()
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// An environment variable.
    Env(String),
    /// The content of a file, without the white space around it.
    File(PathBuf),
    /// The state directory, where `tidegate keys import` put it.
    Imported(PathBuf),
}

/// A configured key whose environment variable is not set (or is empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentKey {
    /// What reports call it.
    pub name: String,
    /// Where it should be.
    pub origin: KeyOrigin,
    /// Why it is not to be had, and what to do.
    pub why: String,
}

impl KeyOrigin {
    /// As a column of a report shows it.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Env(name) => format!("env {name}"),
            Self::File(path) => format!("file {}", path.display()),
            Self::Imported(_) => "imported".to_owned(),
        }
    }
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Imported(_) => f.write_str("imported"),
        }
    }
}

/// Whether a text has the shape of a provider's key, and so must not be repeated in a message.
pub(super) fn looks_like_secret(text: &str) -> bool {
    let known = ["AIza", "AQ.", "ya29.", "sk-"];
    text.len() >= 20 && known.iter().any(|prefix| text.starts_with(prefix))
}

/// The text with every word that looks like a key hidden.
pub(super) fn hide_secrets(text: &str) -> String {
    let part_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut shown = String::new();
    for piece in text.split_inclusive(|c| !part_of_key(c)) {
        let word = piece.trim_end_matches(|c| !part_of_key(c));
        let (word, rest) = piece.split_at(word.len());
        shown.push_str(if looks_like_secret(word) { "(hidden)" } else { word });
        shown.push_str(rest);
    }
    shown
}

/// Whether `text` can be the name of an environment variable.
pub(super) fn is_variable_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(word) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads the secret in `path`, which the document names at `span`. A file that others may read is
/// refused, unless systemd keeps it: its credentials directory is closed to others, and the mode
/// bits of the files in it show an ACL entry instead.
pub(super) fn read_secret_file(
    document: Document<'_>,
    span: Range<usize>,
    path: &Path,
    env: &Env,
) -> Result<SecretString, ConfigError> {
    let kept_by_systemd = path.starts_with(CREDENTIALS_DIR)
        || env.path("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    read_secret(path, kept_by_systemd).map_err(|fault| match fault {
        SecretFault::Unreadable(source) => ConfigError::UnreadableSecret {
            at: document.place(span.clone()),
            path: path.to_path_buf(),
            source,
        },
        SecretFault::Refused { what, fix } => {
            document.refuse(span.clone(), format!("{}: {what}", path.display()), fix)
        }
    })
}

/// Why a file's secret is not taken.
pub(super) enum SecretFault {
    /// It cannot be read.
    Unreadable(io::Error),
    /// What is wrong with it, and what to do.
    Refused { what: String, fix: String },
}

/// Reads the secret in a file that nobody else may read, unless `others_may` is said.
pub(super) fn read_secret(path: &Path, others_may: bool) -> Result<SecretString, SecretFault> {
    let refuse = |what: &str, fix: String| SecretFault::Refused { what: what.to_owned(), fix };
    let metadata = fs::metadata(path).map_err(SecretFault::Unreadable)?;
    if !metadata.is_file() {
        return Err(refuse("not a regular file", "name a file that holds the secret".into()));
    }
    if metadata.mode() & 0o077 != 0 && !others_may {
        let what = format!("others may use this file (mode {:04o})", metadata.mode() & 0o7777);
        return Err(refuse(&what, format!("run: chmod 600 '{}'", path.display())));
    }
    if metadata.len() > SECRET_BYTES_MAX {
        let what = format!("longer than {SECRET_BYTES_MAX} bytes");
        return Err(refuse(&what, "name the file that holds the secret and nothing else".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(SecretFault::Unreadable)?;
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes).map_err(SecretFault::Unreadable)?;
    match std::str::from_utf8(&bytes).map(str::trim) {
        Ok("") => Err(refuse("the file is empty", "put the secret into it".into())),
        Ok(text) if is_secret(text) => Ok(SecretString::from(text)),
        Ok(_) | Err(_) => Err(refuse(
            "not one word of printable ASCII",
            "put the secret alone into it, on one line".into(),
        )),
    }
}

/// Whether `text` can be sent as a key: one word of printable ASCII.
pub(super) fn is_secret(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether `text` can name a project or a key: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= NAME_BYTES_MAX
        && text.chars().all(may_be_in_name)
}

/// The longest name of a project or a key.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Whether a character can stand in a name.
pub(super) fn may_be_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}
