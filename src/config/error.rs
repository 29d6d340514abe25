//! What is wrong with a configuration, and exactly where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::keys::hide_secrets;

/// A configuration that cannot be used. `Display` reads `FILE:LINE:COL: what; what to do` and
/// never holds a secret, even one that was written into the wrong field.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The configuration file cannot be opened or read.
    #[error("{}: cannot read the configuration; check the path and that this user may read it",
        path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file says something that is not allowed.
    #[error("{at}: {what}; {fix}")]
    Invalid {
        /// Where it says so.
        at: Place,
        /// What is wrong.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// A file that the configuration names cannot be opened or read.
    #[error("{at}: cannot read {}; check the path and that this user may read it", path.display())]
    UnreadableSecret {
        /// Where it is named.
        at: Place,
        /// The named file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A value from outside the file, an option or the environment, is not allowed.
    #[error("{what}; {fix}")]
    Outside {
        /// What is wrong.
        what: String,
        /// What to do about it.
        fix: String,
    },
}

/// A position in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or words for the built-in default.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A TOML text with its name, so that every error can say where it is.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    /// The name that errors show.
    pub(super) path: &'a Path,
    /// The text that spans point into.
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// Reads the text into its raw structure.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let (what, fix) = explain(error.message());
            // Only the message goes on: the error itself carries the text of the line, and a line
            // may hold a secret.
            self.refuse(error.span().unwrap_or(0..0), what, fix)
        })
    }

    /// The error that says what is wrong at `span`, and what to do. Words of `what` that look
    /// like keys are hidden, because it may quote what was written.
    pub(super) fn refuse(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> ConfigError {
        let what = hide_secrets(&what.into());
        ConfigError::Invalid { at: self.place(span), what, fix: fix.into() }
    }

    /// Where a span begins, in lines and columns.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: self.path.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }
}

/// Turns a message of the TOML reader into what is wrong and what to do.
fn explain(message: &str) -> (String, String) {
    if let Some((field, known)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'))
    {
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        return (format!("unknown field `{field}`"), suggest(field, &known));
    }
    if message.starts_with("missing field `") {
        return (message.to_owned(), "add it to this table".to_owned());
    }
    let message = without_values(message);
    let Some((what, expected)) = message.split_once(EXPECTED) else {
        return (message, "correct the TOML here".to_owned());
    };
    let fix = match expected {
        "a sequence" if what.ends_with("map") => "write a list of tables: `[[…]]` or `[{ … }]`",
        "a sequence" => "expected a list `[…]`",
        "i64" => "expected a whole number",
        _ => return (what.to_owned(), format!("expected {expected}")),
    };
    (what.replace("map", "a table"), fix.to_owned())
}

/// What the TOML reader writes between what it found and what it wanted.
const EXPECTED: &str = ", expected ";

/// The message without the string that was found: it may be a key in the wrong place.
fn without_values(message: &str) -> String {
    let Some(start) = message.find("string \"") else {
        return message.to_owned();
    };
    let head = message.get(..start).unwrap_or_default();
    let tail = message.rfind(EXPECTED).and_then(|end| message.get(end..)).unwrap_or_default();
    format!("{head}a string{tail}")
}

/// "did you mean" with the nearest known name, else every known name.
pub(super) fn suggest(found: &str, known: &[&str]) -> String {
    let near = |name: &&str| strsim::normalized_damerau_levenshtein(found, name);
    match known.iter().copied().max_by(|a, b| near(a).total_cmp(&near(b))) {
        Some(name) if near(&name) >= 0.5 => format!("did you mean `{name}`?"),
        Some(_) | None => format!("known here: {}", known.join(", ")),
    }
}
