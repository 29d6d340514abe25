//! The lines of an accepted file become items of the queue, slice by slice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::intake::IntakeError;
use crate::caps;
use crate::formats::{self, Dialect, Family};
use crate::gate::limits::Limit;
use crate::gate::limits::smallest_limit;
use crate::gate::units::Metric;
use crate::spool::{Content, RecordReader};
use crate::store::{Batch, BatchId, NewItem, Store, TextWeight};

/// A line that cannot be an item.
#[derive(Debug, Serialize)]
pub(crate) struct BadLine {
    /// Counted from 1.
    pub(crate) line: u64,
    /// Of its first byte.
    offset: u64,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// What an import came to.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    /// Items in the queue.
    pub(crate) items: u64,
    /// Lines that cannot be items.
    pub(crate) bad_lines: u64,
    /// The first of them.
    pub(crate) listed: Vec<BadLine>,
    /// Why the file as a whole cannot be used.
    pub(crate) unusable: Option<String>,
}

/// The most that one request may ever weigh.
#[derive(Clone, Debug)]
pub(super) struct Ceiling {
    input_tokens: Option<(u64, String)>,
    images: Option<(u64, String)>,
}

impl Ceiling {
    /// The largest over several models, each with its limits: what one of them may send can be
    /// sent.
    pub(super) fn of(models: &[(&str, &[Limit])]) -> Self {
        let smallest = |(model, limits): &(&str, &[Limit]), metric| {
            let limit = smallest_limit(limits, metric)?;
            let (name, value) = (limit.dimension(), limit.value);
            Some((value, format!("{model} allows {name} {value} ({})", limit.source)))
        };
        let largest = |metric| {
            let each = models.iter().map(|model| smallest(model, metric));
            // One without a limit has room for all.
            each.collect::<Option<Vec<_>>>()?
                .into_iter()
                .reduce(|most, other| if other.0 > most.0 { other } else { most })
        };
        Self { input_tokens: largest(Metric::InputTokens), images: largest(Metric::Images) }
    }

    /// What is reserved for a request, or why it can never be sent. One that may fit but is
    /// estimated above the limit takes all of it: it goes alone.
    pub(super) fn reserve(&self, footprint: &formats::Footprint) -> Result<(u64, u64), String> {
        let estimate = footprint.estimate();
        let mut tokens = estimate.likely_max;
        if let Some((limit, name)) = &self.input_tokens {
            if estimate.floor > *limit {
                return Err(format!(
                    "it has at least {} input tokens, and {name}: it can never be sent",
                    estimate.floor
                ));
            }
            tokens = tokens.min(*limit);
        }
        if let Some((limit, name)) = &self.images
            && footprint.images > *limit
        {
            return Err(format!(
                "it asks for {} images, and {name}: it can never be sent",
                footprint.images
            ));
        }
        Ok((tokens, footprint.images))
    }
}

/// The most of anything that a request is taken to ask for: a number that a prompt may make up must
/// fit the database.
const COUNT_MAX: u64 = 1 << 40;

/// What the estimate of a request is made of.
fn text_weight(footprint: &formats::Footprint) -> TextWeight {
    TextWeight {
        text_bytes: footprint.text_bytes,
        media_tokens: footprint.media_tokens.saturating_add(footprint.overhead_tokens()),
        kind: i64::from(footprint.kind().code()),
    }
}

/// Reads every line of the accepted file at `path` into the queue of `batch`.
pub(super) async fn import(
    store: &Store,
    batch: &Batch,
    path: PathBuf,
    ceiling: Ceiling,
) -> Result<Imported, IntakeError> {
    let (slices, mut parsed) = mpsc::channel(4);
    let hand = move |slice, _bytes| slices.blocking_send(slice).is_ok();
    let dialect = batch.dialect.parse().unwrap_or(Dialect::GeminiJsonl);
    let reading = Reading::new(batch.id, dialect, ceiling, hand);
    let at = path.clone();
    let reader = tokio::task::spawn_blocking(move || reading.run(File::open(at)?));
    while let Some(slice) = parsed.recv().await {
        store.import_items(slice).await?;
    }
    let read = reader.await.map_err(io::Error::other).and_then(|result| result);
    read.map_err(|source| IntakeError::Read { path, source })
}

/// The first line of a file, as much of it as options may be long.
pub(super) async fn first_line(path: PathBuf) -> Result<Vec<u8>, IntakeError> {
    let at = path.clone();
    let read = move || {
        let file = BufReader::new(File::open(at)?);
        let mut lines = RecordReader::new(file, Family::Jsonl, caps::OPTIONS_MAX_BYTES);
        Ok(match lines.next_record()? {
            Some(line) => match line.content {
                Content::Bytes(bytes) => bytes.to_vec(),
                Content::TooLong { .. } | Content::Broken(_) => Vec::new(),
            },
            None => Vec::new(),
        })
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other);
    read.and_then(|result| result).map_err(|source| IntakeError::Read { path, source })
}

/// Reads every line of a file that nobody has accepted yet, as [`import`] would: `hand` is given
/// each slice of items with the bytes read so far, and says whether to go on.
pub(crate) fn survey(
    file: File,
    dialect: Dialect,
    models: &[(&str, &[Limit])],
    hand: impl FnMut(Vec<NewItem>, u64) -> bool,
) -> io::Result<Imported> {
    Reading::new(BatchId(0), dialect, Ceiling::of(models), hand).run(file)
}

struct Reading<H> {
    batch: BatchId,
    dialect: Dialect,
    ceiling: Ceiling,
    /// Takes a slice and the bytes read so far; false when nobody takes it any more.
    hand: H,
    bytes: u64,
    slice: Vec<NewItem>,
    /// The line of each key so far, by half of its SHA-256: 128 bits do not meet by chance. As
    /// bytes, since a `u128` would be aligned, and an entry take 32 bytes instead of 20.
    keys: HashMap<[u8; 16], u32>,
    done: Imported,
}

impl<H: FnMut(Vec<NewItem>, u64) -> bool> Reading<H> {
    fn new(batch: BatchId, dialect: Dialect, ceiling: Ceiling, hand: H) -> Self {
        Self {
            batch,
            dialect,
            ceiling,
            hand,
            bytes: 0,
            slice: Vec::with_capacity(caps::IMPORT_SLICE),
            keys: HashMap::new(),
            done: Imported::default(),
        }
    }

    fn run(mut self, file: File) -> io::Result<Imported> {
        let file = BufReader::with_capacity(1 << 20, file);
        let mut lines = RecordReader::new(file, Family::Jsonl, caps::LINE_MAX_BYTES);
        while let Some(line) = lines.next_record()? {
            let (number, offset) = (line.number, line.offset);
            self.bytes = offset;
            let Some(short) = u32::try_from(number).ok().filter(|_| self.has_room()) else {
                self.done.unusable = Some(format!(
                    "line {number}: a job file holds at most {} items: split it",
                    caps::ITEMS_MAX
                ));
                break;
            };
            match line.content {
                Content::TooLong { length } => {
                    let max = caps::LINE_MAX_BYTES;
                    let reason = format!("the line has {length} bytes; at most {max} are taken");
                    self.bad(short, offset, length, &[], reason);
                }
                Content::Bytes(bytes) => self.line(short, offset, bytes),
                Content::Broken(broken) => {
                    self.done.unusable = Some(broken.to_string());
                    break;
                }
            }
            if self.slice.len() >= caps::IMPORT_SLICE && !self.flush() {
                break;
            }
        }
        self.flush();
        Ok(self.done)
    }

    fn has_room(&self) -> bool {
        self.done.items + self.done.bad_lines < u64::from(caps::ITEMS_MAX)
    }

    fn line(&mut self, number: u32, offset: u64, bytes: &[u8]) {
        if number == 1 && matches!(formats::options_line(bytes), Ok(Some(_))) {
            return;
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let parsed = match formats::parse_line(self.dialect, None, u64::from(number), bytes) {
            Ok(None) => return,
            Ok(Some(line)) => line,
            Err(error) => return self.bad(number, offset, length, bytes, error.to_string()),
        };
        if self.dialect != Dialect::Text
            && let Some(first) = self.seen(&parsed.key, number)
        {
            let reason = format!("the key is that of line {first}: keys are unique in a file");
            return self.bad(number, offset, length, bytes, reason);
        }
        match self.ceiling.reserve(&parsed.footprint) {
            Ok((tokens, images)) => {
                self.done.items += 1;
                let id = self.batch.item(number);
                self.slice.push(NewItem {
                    id,
                    offset,
                    bytes: length,
                    tokens,
                    images: images.min(COUNT_MAX),
                    text: Some(text_weight(&parsed.footprint)),
                    output_tokens_max: parsed
                        .footprint
                        .output_tokens_max
                        .map(|most| most.min(COUNT_MAX)),
                    state: 0,
                    line: None,
                });
            }
            Err(reason) => self.bad(number, offset, length, bytes, reason),
        }
    }

    /// The line that has the same key, if one had it before.
    fn seen(&mut self, key: &str, number: u32) -> Option<u32> {
        let hash = Sha256::digest(key.as_bytes());
        let half: [u8; 16] = hash[..16].try_into().expect("SHA-256 has 32 bytes");
        match self.keys.entry(half) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(place) => {
                place.insert(number);
                None
            }
        }
    }

    /// Notes a bad line, and enters it as an item that is answered by its fault: if the file is
    /// not rejected for it, it has a results line like every other.
    fn bad(&mut self, number: u32, offset: u64, length: u64, bytes: &[u8], reason: String) {
        self.done.bad_lines += 1;
        let key = formats::key_of(self.dialect, None, u64::from(number), bytes);
        let line = formats::error_line(&key, 400, "INVALID_ARGUMENT", &reason, None);
        self.slice.push(NewItem {
            id: self.batch.item(number),
            offset,
            bytes: length.max(1),
            tokens: 0,
            images: 0,
            text: None,
            output_tokens_max: None,
            state: 2,
            line: String::from_utf8(line).ok(),
        });
        if self.done.listed.len() < caps::BAD_LINES_LISTED {
            self.done.listed.push(BadLine { line: u64::from(number), offset, reason });
        }
    }

    /// Hands the slice on; false when nobody takes it any more.
    fn flush(&mut self) -> bool {
        if self.slice.is_empty() {
            return true;
        }
        let next = Vec::with_capacity(caps::IMPORT_SLICE);
        let slice = std::mem::replace(&mut self.slice, next);
        (self.hand)(slice, self.bytes)
    }
}
