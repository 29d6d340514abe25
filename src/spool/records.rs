//! Records of a file of any size, in bounded memory.

use std::io::{self, BufRead, Cursor, ErrorKind};

use crate::formats::{self, Broken, Cutter, End, Family};

/// Cuts the text of a job file into records and reuses one buffer. A record longer than the limit
/// is counted and skipped, never held.
#[derive(Debug)]
pub struct RecordReader<R> {
    reader: R,
    family: Family,
    cutter: Cutter,
    /// Never grows past `record_max_bytes`.
    buffer: Vec<u8>,
    record_max_bytes: usize,
    /// The list within an object that the records are taken from, if they are.
    list: Option<Box<RecordReader<Cursor<Vec<u8>>>>>,
    number: u64,
    offset: u64,
    /// What the next record may be for.
    next: Role,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is for.
    pub role: Role,
    /// Counted from 1: of a line its number, of a list's element its place, of a CSV row its place
    /// below the header. The header, and options above it, are 0.
    pub number: u64,
    /// Of its first byte, from the start of the text.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first one, if it is meant for options.
    Options,
    /// The first one of a CSV file, but for options: the names of the columns.
    Header,
    /// Any other.
    Item,
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Its bytes without the `\n` of a line, the commas and white space around an element, the
    /// line ending of a row. A line's `\r` stays.
    Bytes(&'a [u8]),
    /// More than the limit.
    TooLong {
        /// Its bytes, without what separates records.
        length: u64,
    },
    /// No record: from here on the text cannot be cut, and nothing follows.
    Broken(Broken),
}

/// What stands at the beginning of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The record meant for options.
    pub options: Option<Vec<u8>>,
    /// The header of a CSV file.
    pub header: Option<Vec<u8>>,
    /// The first item that is not blank; empty when it is too long.
    pub first: Option<Vec<u8>>,
}

/// Reads the beginning of a file, up to its first item.
pub fn head<R: BufRead>(reader: R, family: Family, record_max_bytes: usize) -> io::Result<Head> {
    let mut records = RecordReader::new(reader, family, record_max_bytes);
    let mut head = Head::default();
    while let Some(record) = records.next_record()? {
        let bytes = match record.content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::TooLong { .. } => Vec::new(),
            Content::Broken(_) => break,
        };
        match record.role {
            Role::Options => head.options = Some(bytes),
            Role::Header => head.header = Some(bytes),
            Role::Item => {
                let too_long = matches!(record.content, Content::TooLong { .. });
                if too_long || !bytes.trim_ascii().is_empty() {
                    head.first = Some(bytes);
                    break;
                }
            }
        }
    }
    Ok(head)
}

impl<R: BufRead> RecordReader<R> {
    /// Reads from the start of a text. Allocates `record_max_bytes` bytes once.
    pub fn new(reader: R, family: Family, record_max_bytes: usize) -> Self {
        Self {
            reader,
            family,
            cutter: Cutter::new(family),
            buffer: Vec::with_capacity(record_max_bytes),
            record_max_bytes,
            list: None,
            number: 0,
            offset: 0,
            next: Role::Options,
        }
    }

    /// How many bytes of the text were read: in the end its size.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record, or `None` at the end. A last line may lack its `\n`; nothing behind the
    /// last `\n` is no line. After an error the reader is of no more use.
    pub fn next_record(&mut self) -> io::Result<Option<Record<'_>>> {
        if self.list.is_none() {
            let Some(piece) = self.read()? else { return Ok(None) };
            let Some(list) = self.list_within(&piece) else {
                return Ok(Some(self.record(&piece)));
            };
            if let Some(more) = self.read()? {
                return Ok(Some(self.record(&more)));
            }
            self.list = Some(Box::new(list));
        }
        self.list.as_mut().map_or(Ok(None), |list| list.next_record())
    }

    /// The list of requests within the object that was just read, if it is all that there is.
    fn list_within(&self, piece: &Piece) -> Option<RecordReader<Cursor<Vec<u8>>>> {
        let alone = matches!(piece.end, End::Record) && self.cutter.stands_alone();
        if !alone || !self.is_held(piece) {
            return None;
        }
        let range = formats::inline_list(&self.buffer)?;
        let offset = piece.offset + bytes(range.start);
        let list = Cursor::new(self.buffer[range].to_vec());
        let reader = RecordReader::new(list, Family::Json, 0);
        Some(RecordReader { offset, record_max_bytes: self.record_max_bytes, ..reader })
    }

    /// Reads up to the end of the next record. Its first bytes are held, up to the limit.
    fn read(&mut self) -> io::Result<Option<Piece>> {
        self.buffer.clear();
        let (mut begun, mut length, mut offset) = (false, 0, self.offset);
        loop {
            let piece = match self.reader.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                let end = self.cutter.finish(begun);
                return Ok(end.map(|end| Piece { offset, length, end }));
            }
            let cut = self.cutter.cut(piece, &self.buffer);
            if !begun {
                offset = self.offset + bytes(cut.before);
            }
            begun |= cut.taken > 0;
            length += bytes(cut.taken);
            let room = self.record_max_bytes - self.buffer.len();
            let taken = &piece[cut.before..][..cut.taken];
            self.buffer.extend_from_slice(&taken[..taken.len().min(room)]);
            let used = cut.before + cut.taken + cut.behind;
            self.reader.consume(used);
            self.offset += bytes(used);
            if let Some(end) = cut.end {
                return Ok(Some(Piece { offset, length, end }));
            }
        }
    }

    fn is_held(&self, piece: &Piece) -> bool {
        piece.length == bytes(self.buffer.len())
    }

    fn record(&mut self, piece: &Piece) -> Record<'_> {
        let content = match piece.end {
            End::Broken(broken) => Content::Broken(broken),
            End::Record if self.is_held(piece) => Content::Bytes(&self.buffer),
            End::Record => Content::TooLong { length: piece.length },
        };
        let is_csv = self.family == Family::Csv;
        let role = match self.next {
            Role::Options if formats::begins_options(&self.buffer) => Role::Options,
            Role::Options | Role::Header if is_csv => Role::Header,
            Role::Options | Role::Header | Role::Item => Role::Item,
        };
        self.next = match role {
            Role::Options => Role::Header,
            Role::Header | Role::Item => Role::Item,
        };
        if !is_csv || role == Role::Item {
            self.number += 1;
        }
        Record { role, number: self.number, offset: piece.offset, content }
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

/// The end of a record.
struct Piece {
    /// Of its first byte.
    offset: u64,
    length: u64,
    end: End,
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
