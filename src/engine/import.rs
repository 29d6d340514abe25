//! The lines of an accepted file become items of the queue, slice by slice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::mpsc;

use super::duplicates::{Keys, Repeat};
use super::intake::IntakeError;
use crate::caps;
use crate::formats::{self, Dialect};
use crate::gate::limits::Limit;
use crate::gate::limits::smallest_limit;
use crate::gate::units::Metric;
use crate::spool::{Content, LineReader};
use crate::store::{Batch, BatchId, ItemLine, NewItem, Store, TextWeight, line_hash};

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

/// Reads every line of the accepted file at `path` into the queue of `batch`. What an earlier run
/// brought into the queue is read again and not entered again.
pub(super) async fn import(
    store: &Store,
    batch: &Batch,
    path: PathBuf,
    ceiling: Ceiling,
) -> Result<Imported, IntakeError> {
    let there = batch.id.item(0).saturating_add_unsigned(store.reader().imported(batch.id).await?);
    let (slices, mut parsed) = mpsc::channel(4);
    let hand = move |mut slice: Vec<NewItem>, _bytes| {
        slice.retain(|item| item.id > there);
        slice.is_empty() || slices.blocking_send(slice).is_ok()
    };
    let dialect = batch.dialect.parse().unwrap_or(Dialect::GeminiJsonl);
    let keys = Keys::new(path.parent().unwrap_or(Path::new(".")));
    let reading = Reading::new(batch.id, dialect, ceiling, keys, hand);
    let at = path.clone();
    let reader = tokio::task::spawn_blocking(move || reading.run(File::open(at)?));
    while let Some(slice) = parsed.recv().await {
        store.import_items(slice).await?;
    }
    let read = reader.await.map_err(io::Error::other).and_then(|result| result);
    let (mut imported, repeats) = read.map_err(told(&path))?;
    for repeats in repeats.chunks(caps::IMPORT_SLICE) {
        let bad = confirm(store, (batch.id, dialect), &path, repeats).await?;
        imported.note_repeats(&bad);
        let lines = bad.into_iter().map(|repeated| (repeated.id, repeated.line)).collect();
        store.mark_bad(lines).await?;
    }
    Ok(imported)
}

fn told(path: &Path) -> impl Fn(io::Error) -> IntakeError {
    move |source| IntakeError::Read { path: path.to_owned(), source }
}

/// A line that has the key of an earlier one.
struct Repeated {
    id: i64,
    number: u32,
    offset: u64,
    reason: String,
    /// The results line that answers it.
    line: String,
}

/// Of lines whose keys have the hash of an earlier one's, those whose keys are the same. Lines that
/// are bad for another reason are not in the queue, and left out.
async fn confirm(
    store: &Store,
    (batch, dialect): (BatchId, Dialect),
    path: &Path,
    repeats: &[Repeat],
) -> Result<Vec<Repeated>, IntakeError> {
    let ids: Vec<_> =
        repeats.iter().flat_map(|pair| [batch.item(pair.line), batch.item(pair.first)]).collect();
    let rows = store.reader().lines_of(&ids).await?;
    let rows: HashMap<i64, ItemLine> = rows.into_iter().map(|row| (row.id, row)).collect();
    let pairs: Vec<_> = repeats
        .iter()
        .filter_map(|pair| {
            let row = |line| rows.get(&batch.item(line)).copied();
            Some((*pair, row(pair.line)?, row(pair.first)?))
        })
        .collect();
    let at = path.to_owned();
    let compare = move || {
        let file = File::open(at)?;
        let key = |number: u32, row: ItemLine| {
            let mut line = vec![0; usize::try_from(row.bytes).map_err(io::Error::other)?];
            file.read_exact_at(&mut line, row.offset)?;
            io::Result::Ok(formats::key_of(dialect, u64::from(number), &line))
        };
        let mut same = Vec::new();
        for (pair, row, first) in pairs {
            let own = key(pair.line, row)?;
            if own != key(pair.first, first)? {
                continue;
            }
            let reason =
                format!("the key is that of line {}: keys are unique in a file", pair.first);
            let line = formats::error_line(&own, 400, "INVALID_ARGUMENT", &reason, None);
            let line = String::from_utf8(line).map_err(io::Error::other)?;
            let Repeat { line: number, .. } = pair;
            same.push(Repeated { id: row.id, number, offset: row.offset, reason, line });
        }
        Ok(same)
    };
    let compared = tokio::task::spawn_blocking(compare).await.map_err(io::Error::other);
    compared.and_then(|result| result).map_err(told(path))
}

/// The first line of a file, as much of it as options may be long.
pub(super) async fn first_line(path: PathBuf) -> Result<Vec<u8>, IntakeError> {
    let at = path.clone();
    let read = move || {
        let mut lines = LineReader::new(BufReader::new(File::open(at)?), caps::OPTIONS_MAX_BYTES);
        Ok(match lines.next_line()? {
            Some(line) => match line.content {
                Content::Bytes(bytes) => bytes.to_vec(),
                Content::TooLong { .. } => Vec::new(),
            },
            None => Vec::new(),
        })
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other);
    read.and_then(|result| result).map_err(told(&path))
}

/// Reads every line of a file that nobody has accepted yet, as [`import`] would: `hand` is given
/// each slice of items with the bytes read so far, and says whether to go on.
pub(crate) fn survey(
    file: File,
    dialect: Dialect,
    models: &[(&str, &[Limit])],
    hand: impl FnMut(Vec<NewItem>, u64) -> bool,
) -> io::Result<Imported> {
    let keys = Keys::new(&std::env::temp_dir());
    let reading = Reading::new(BatchId(0), dialect, Ceiling::of(models), keys, hand);
    let (mut imported, repeats) = reading.run(file)?;
    let repeated = u64::try_from(repeats.len()).unwrap_or(u64::MAX);
    imported.items = imported.items.saturating_sub(repeated);
    imported.bad_lines += repeated;
    for Repeat { line, first } in repeats {
        let reason = format!("the key is that of line {first}: keys are unique in a file");
        imported.listed.push(BadLine { line: u64::from(line), offset: 0, reason });
    }
    imported.order_listed();
    Ok(imported)
}

impl Imported {
    fn note_repeats(&mut self, repeats: &[Repeated]) {
        let count = u64::try_from(repeats.len()).unwrap_or(u64::MAX);
        self.bad_lines += count;
        self.items = self.items.saturating_sub(count);
        self.listed.extend(repeats.iter().map(|repeated| BadLine {
            line: u64::from(repeated.number),
            offset: repeated.offset,
            reason: repeated.reason.clone(),
        }));
        self.order_listed();
    }

    /// The first bad lines by number, however they were found.
    fn order_listed(&mut self) {
        self.listed.sort_by_key(|bad| bad.line);
        self.listed.truncate(caps::BAD_LINES_LISTED);
    }
}

struct Reading<H> {
    batch: BatchId,
    dialect: Dialect,
    ceiling: Ceiling,
    /// Takes a slice and the bytes read so far; false when nobody takes it any more.
    hand: H,
    bytes: u64,
    slice: Vec<NewItem>,
    keys: Keys,
    done: Imported,
}

impl<H: FnMut(Vec<NewItem>, u64) -> bool> Reading<H> {
    fn new(batch: BatchId, dialect: Dialect, ceiling: Ceiling, keys: Keys, hand: H) -> Self {
        Self {
            batch,
            dialect,
            ceiling,
            hand,
            bytes: 0,
            slice: Vec::with_capacity(caps::IMPORT_SLICE),
            keys,
            done: Imported::default(),
        }
    }

    fn run(mut self, file: File) -> io::Result<(Imported, Vec<Repeat>)> {
        let file = BufReader::with_capacity(1 << 20, file);
        let mut lines = LineReader::new(file, caps::LINE_MAX_BYTES);
        while let Some(line) = lines.next_line()? {
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
                Content::Bytes(bytes) => self.line(short, offset, bytes)?,
            }
            if self.slice.len() >= caps::IMPORT_SLICE && !self.flush() {
                break;
            }
        }
        self.flush();
        Ok((self.done, self.keys.repeats()?))
    }

    fn has_room(&self) -> bool {
        self.done.items + self.done.bad_lines < u64::from(caps::ITEMS_MAX)
    }

    fn line(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if number == 1 && matches!(formats::options_line(bytes), Ok(Some(_))) {
            return Ok(());
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let parsed = match formats::parse_line(self.dialect, u64::from(number), bytes) {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => line,
            Err(error) => {
                self.bad(number, offset, length, bytes, error.to_string());
                return Ok(());
            }
        };
        match self.ceiling.reserve(&parsed.footprint) {
            Ok((tokens, images)) => {
                if self.dialect != Dialect::Text {
                    self.keys.note(&parsed.key, number)?;
                }
                self.done.items += 1;
                let id = self.batch.item(number);
                self.slice.push(NewItem {
                    id,
                    offset,
                    bytes: length,
                    hash: line_hash(bytes),
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
        Ok(())
    }

    /// Notes a bad line, and enters it as an item that is answered by its fault: if the file is
    /// not rejected for it, it has a results line like every other.
    fn bad(&mut self, number: u32, offset: u64, length: u64, bytes: &[u8], reason: String) {
        self.done.bad_lines += 1;
        let key = formats::key_of(self.dialect, u64::from(number), bytes);
        let line = formats::error_line(&key, 400, "INVALID_ARGUMENT", &reason, None);
        self.slice.push(NewItem {
            id: self.batch.item(number),
            offset,
            bytes: length.max(1),
            hash: line_hash(bytes),
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
