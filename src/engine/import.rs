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
use super::run::{fault_line, item_name};
use super::text::{self, told};
use crate::caps;
use crate::formats::{self, Dialect, Family, Form, Line};
use crate::gate::limits::Limit;
use crate::gate::limits::smallest_limit;
use crate::gate::units::Metric;
use crate::spool::{Content, RecordReader, Role};
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
    /// From its last bad line on the file cannot be read: what follows there is not known.
    pub(crate) broken: bool,
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
    let form = text::form_of(batch)?;
    let source = Source {
        family: text::file_of(batch).0,
        model: Some(batch.model.clone()),
        form: form.clone(),
        ceiling,
    };
    let keys = Keys::new(path.parent().unwrap_or(Path::new(".")));
    let reading = Reading::new(batch.id, batch.work.clone(), source, keys, hand);
    let at = path.clone();
    let reader = tokio::task::spawn_blocking(move || reading.run(File::open(at)?));
    while let Some(slice) = parsed.recv().await {
        store.import_items(slice).await?;
    }
    let read = reader.await.map_err(io::Error::other).and_then(|result| result);
    let (mut imported, repeats) = read.map_err(told(&path))?;
    for repeats in repeats.chunks(caps::IMPORT_SLICE) {
        let bad = confirm(store, batch, &path, repeats).await?;
        imported.note_repeats(&bad);
        let lines = bad.into_iter().map(|repeated| (repeated.id, repeated.line)).collect();
        store.mark_bad(lines).await?;
    }
    Ok(imported)
}

/// The provider's word for what a bad line is.
const BAD: &str = "INVALID_ARGUMENT";

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
    batch: &Batch,
    path: &Path,
    repeats: &[Repeat],
) -> Result<Vec<Repeated>, IntakeError> {
    let (id, work, form) = (batch.id, batch.work.clone(), text::form_of(batch)?);
    let ids: Vec<_> =
        repeats.iter().flat_map(|pair| [id.item(pair.line), id.item(pair.first)]).collect();
    let rows = store.reader().lines_of(&ids).await?;
    let rows: HashMap<i64, ItemLine> = rows.into_iter().map(|row| (row.id, row)).collect();
    let pairs: Vec<_> = repeats
        .iter()
        .filter_map(|pair| {
            let row = |line| rows.get(&id.item(line)).copied();
            Some((*pair, row(pair.line)?, row(pair.first)?))
        })
        .collect();
    let at = path.to_owned();
    let compare = move || {
        let file = File::open(at)?;
        let key = |number: u32, row: ItemLine| {
            let mut line = vec![0; usize::try_from(row.bytes).map_err(io::Error::other)?];
            file.read_exact_at(&mut line, row.offset)?;
            io::Result::Ok(form.key_of(u64::from(number), &line))
        };
        let mut same = Vec::new();
        for (pair, row, first) in pairs {
            let own = key(pair.line, row)?;
            if own != key(pair.first, first)? {
                continue;
            }
            let reason =
                format!("the key is that of line {}: keys are unique in a file", pair.first);
            let Repeat { line: number, .. } = pair;
            let name = item_name(&work, u64::from(number));
            let line = fault_line(form.answers, &own, &name, (400, BAD, &reason), None);
            same.push(Repeated { id: row.id, number, offset: row.offset, reason, line });
        }
        Ok(same)
    };
    let compared = tokio::task::spawn_blocking(compare).await.map_err(io::Error::other);
    compared.and_then(|result| result).map_err(told(path))
}

/// Reads every line of a file that nobody has accepted yet, as [`import`] would: `hand` is given
/// each slice of items with the bytes read so far, and says whether to go on.
pub(crate) fn survey(
    file: File,
    (family, form): (Family, Form),
    models: &[(&str, &[Limit])],
    hand: impl FnMut(Vec<NewItem>, u64) -> bool,
) -> io::Result<Imported> {
    let keys = Keys::new(&std::env::temp_dir());
    let source = Source { family, model: None, form, ceiling: Ceiling::of(models) };
    let reading = Reading::new(BatchId(0), String::new(), source, keys, hand);
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

/// How a file is read.
struct Source {
    family: Family,
    form: Form,
    /// The model that records may name; any when there is none.
    model: Option<String>,
    ceiling: Ceiling,
}

impl Source {
    /// What a record asks for, or why it is bad.
    fn parse(&self, number: u32, record: &[u8]) -> Result<Option<Line>, String> {
        let line = self.form.parse_line(u64::from(number), record);
        let line = line.map_err(|error| error.to_string())?;
        let named = line.as_ref().and_then(|line| line.model.as_ref());
        match (named, &self.model) {
            (Some(named), Some(model)) if named != model => {
                Err(format!("it names another model than the batch has, which is {model}"))
            }
            (Some(_) | None, Some(_) | None) => Ok(line),
        }
    }

    /// Whether records have keys of their own, which must differ.
    fn has_keys(&self) -> bool {
        match self.form.dialect {
            Dialect::GeminiJsonl | Dialect::OpenAiJsonl | Dialect::Csv => true,
            Dialect::Text => false,
        }
    }
}

struct Reading<H> {
    batch: BatchId,
    work: String,
    source: Source,
    /// Takes a slice and the bytes read so far; false when nobody takes it any more.
    hand: H,
    bytes: u64,
    slice: Vec<NewItem>,
    keys: Keys,
    done: Imported,
}

impl<H: FnMut(Vec<NewItem>, u64) -> bool> Reading<H> {
    fn new(batch: BatchId, work: String, source: Source, keys: Keys, hand: H) -> Self {
        Self {
            batch,
            work,
            source,
            hand,
            bytes: 0,
            slice: Vec::with_capacity(caps::IMPORT_SLICE),
            keys,
            done: Imported::default(),
        }
    }

    fn run(mut self, file: File) -> io::Result<(Imported, Vec<Repeat>)> {
        let file = BufReader::with_capacity(1 << 20, file);
        let mut records = RecordReader::new(file, self.source.family, caps::LINE_MAX_BYTES);
        while let Some(record) = records.next_record()? {
            let (number, offset) = (record.number, record.offset);
            self.bytes = offset;
            // Options that are none would have kept the file from being taken in.
            if record.role != Role::Item {
                continue;
            }
            let Some(short) = u32::try_from(number).ok().filter(|_| self.has_room()) else {
                self.done.unusable = Some(format!(
                    "line {number}: a job file holds at most {} items: split it",
                    caps::ITEMS_MAX
                ));
                break;
            };
            match record.content {
                Content::TooLong { length } => {
                    let max = caps::LINE_MAX_BYTES;
                    let reason = format!("the line has {length} bytes; at most {max} are taken");
                    self.bad(short, offset, length, &[], reason);
                }
                Content::Broken(broken) => {
                    self.done.broken = true;
                    self.bad(short, offset, 1, &[], broken.to_string());
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
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let parsed = match self.source.parse(number, bytes) {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => line,
            Err(reason) => {
                self.bad(number, offset, length, bytes, reason);
                return Ok(());
            }
        };
        match self.source.ceiling.reserve(&parsed.footprint) {
            Ok((tokens, images)) => {
                if self.source.has_keys() {
                    self.keys.note(&parsed.key, number)?;
                }
                self.done.items += 1;
                let id = self.batch.item(number);
                self.slice.push(NewItem {
                    id,
                    offset,
                    bytes: length,
                    hash: line_hash(bytes),
                    requests: parsed.footprint.requests.min(COUNT_MAX),
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
        let form = &self.source.form;
        let key = form.key_of(u64::from(number), bytes);
        let name = item_name(&self.work, u64::from(number));
        let line = fault_line(form.answers, &key, &name, (400, BAD, &reason), None);
        self.slice.push(NewItem {
            id: self.batch.item(number),
            offset,
            bytes: length.max(1),
            hash: line_hash(bytes),
            requests: 1,
            tokens: 0,
            images: 0,
            text: None,
            output_tokens_max: None,
            state: 2,
            line: Some(line),
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
