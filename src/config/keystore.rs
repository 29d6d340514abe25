//! A `keystore.json` as Key Mixer has it: an object whose entries are arrays of keys.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::keys::{SECRET_BYTES_MAX, hide_secrets, is_secret};

/// A keystore longer than this is another file.
pub const KEYSTORE_BYTES_MAX: usize = 1 << 20;

/// Keys of one keystore; more is a mistake.
const KEYSTORE_KEYS_MAX: usize = 1_000;

/// Most characters of an entry's name that are shown.
const ENTRY_CHARS_MAX: usize = 64;

/// The keys of a keystore, in its order.
#[derive(Debug)]
pub struct Keystore {
    /// The entries that were taken, with their keys.
    pub(super) entries: Vec<(String, Vec<SecretString>)>,
}

/// Why a keystore cannot be read. Never shows a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// Too long.
    #[error("longer than 1 MiB: name a keystore.json")]
    Huge,
    /// Not JSON.
    #[error("not JSON at line {line}, column {column}: correct it there")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Another document.
    #[error("not an object of arrays: write {{\"GEMINI_API_KEY\": [\"…\", \"…\"]}}")]
    Shape,
    /// Two entries of one name.
    #[error("entry {0} is there twice: join the two")]
    Twice(String),
    /// An entry that is no array.
    #[error("entry {0} is not an array: write [\"…\", \"…\"]")]
    NoArray(String),
    /// A key that is none.
    #[error("entry {entry}, key {place}: {what}; correct it or take it out")]
    Key {
        /// Of which entry.
        entry: String,
        /// Its place, from 1.
        place: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Too many keys.
    #[error("more than {KEYSTORE_KEYS_MAX} keys: import fewer")]
    Many,
    /// No keys at all.
    #[error("no keys in it{0}")]
    Empty(String),
    /// No such entry.
    #[error("no entry {wanted}; it has: {known}")]
    NoEntry {
        /// The name that was asked for.
        wanted: String,
        /// Those there are.
        known: String,
    },
}

impl Keystore {
    /// Reads a keystore: the entry `service` of it, or all.
    ///
    /// # Errors
    /// Names the entry and the place of what is wrong, and never shows a key.
    pub fn parse(bytes: &[u8], service: Option<&str>) -> Result<Self, KeystoreError> {
        if bytes.len() > KEYSTORE_BYTES_MAX {
            return Err(KeystoreError::Huge);
        }
        // An editor's byte order mark is no part of the document.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        // The reader's own message may quote what it found.
        let Pairs(pairs) = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_data() {
                return KeystoreError::Shape;
            }
            KeystoreError::Json { line: error.line(), column: error.column() }
        })?;
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(KeystoreError::Twice(shown(pair[0])));
        }
        if let Some(wanted) = service
            && !names.contains(&wanted)
        {
            let known: Vec<_> = names.iter().take(20).map(|name| shown(name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(KeystoreError::NoEntry { wanted: shown(wanted), known });
        }
        let mut entries = Vec::new();
        for (name, value) in pairs {
            if service.is_none_or(|wanted| wanted == name) {
                entries.push((shown(&name), keys_of(&name, value)?));
            }
        }
        match entries.iter().map(|(_, keys)| keys.len()).sum::<usize>() {
            0 => Err(KeystoreError::Empty(of_entry(service))),
            1..=KEYSTORE_KEYS_MAX => Ok(Self { entries }),
            _ => Err(KeystoreError::Many),
        }
    }
}

fn keys_of(entry: &str, value: Value) -> Result<Vec<SecretString>, KeystoreError> {
    let Value::Array(values) = value else {
        return Err(KeystoreError::NoArray(shown(entry)));
    };
    let mut keys = Vec::new();
    for (value, place) in values.into_iter().zip(1..) {
        let bad = |what| KeystoreError::Key { entry: shown(entry), place, what };
        let Value::String(key) = value else { return Err(bad("not a string")) };
        let key = SecretString::from(key);
        let text = key.expose_secret();
        if text.is_empty() {
            return Err(bad("empty"));
        }
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
            return Err(bad("longer than 4096 bytes"));
        }
        if !is_secret(text) {
            return Err(bad("not one word of printable ASCII"));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn of_entry(service: Option<&str>) -> String {
    service.map(|service| format!(" for {}", shown(service))).unwrap_or_default()
}

/// An entry's name as messages show it: it may be a key in the wrong place.
fn shown(entry: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    hide_secrets(entry).chars().take(ENTRY_CHARS_MAX).map(safe).collect()
}

/// An object's entries in their order, of which two may have one name.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor).map(Self)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
