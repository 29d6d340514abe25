//! Records of a job file of any size, in bounded memory.

use std::io::{self, BufRead, ErrorKind};

use crate::formats::{CsvState, Family};

/// Cuts a reader into records and reuses one buffer. A record longer than the limit is counted and
/// skipped, never held.
#[derive(Debug)]
pub struct RecordReader<R> {
    reader: R,
    family: Family,
    /// Never holds more than `record_max_bytes`.
    buffer: Vec<u8>,
    record_max_bytes: usize,
    /// Bytes of the record so far, also those that were not held.
    length: u64,
    /// The number of the next record.
    number: u64,
    /// Bytes taken from the reader.
    offset: u64,
    json: Json,
    /// The list stands in the body of a call that would create a batch of it.
    wrapped: bool,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The number of its line or element, counted from 1; of a row of CSV counted from 1 behind
    /// the header, which has 0.
    pub number: u64,
    /// Of its first byte, from the start of the file.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Its bytes: of a line or a row without the `\n`, a `\r` before it stays.
    Bytes(&'a [u8]),
    /// More than the limit.
    TooLong {
        /// Its bytes.
        length: u64,
    },
    /// The file is cut off, or has something between its records: nothing follows.
    Broken {
        /// What is wrong, in words that quote nothing.
        problem: &'static str,
    },
}

/// Where a reader of JSON stands between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Json {
    /// Before the first byte.
    Begin,
    /// Before the first element of a list.
    First,
    /// Behind an element.
    Behind,
    /// Behind the only value of the file.
    Alone,
    /// Behind everything.
    End,
}

/// What stands before the list of requests in a body that would create a batch of them.
const BATCH: &[u8] = b"{\"batch\"";

const NOT_CLOSED: &str = "the list of requests is not closed: the file breaks off";
const NO_COMMA: &str = "something other than a comma or the end of the list stands behind the \
                        element before";
const MORE: &str = "something stands behind the end of the document: a .json file has one request \
                    or one list, lines are for .jsonl";
const QUOTE_OPEN: &str = "a quote is not closed: the rest of the file is in it";

impl<R: BufRead> RecordReader<R> {
    /// Reads from the start of a file. The buffer grows with the longest record, up to
    /// `record_max_bytes`.
    pub fn new(reader: R, family: Family, record_max_bytes: usize) -> Self {
        let number = if family == Family::Csv { 0 } else { 1 };
        let (buffer, json) = (Vec::new(), Json::Begin);
        Self {
            reader,
            family,
            buffer,
            record_max_bytes,
            length: 0,
            number,
            offset: 0,
            json,
            wrapped: false,
        }
    }

    /// The offset behind the last record read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record, or `None` at the end. A last line may lack its `\n`; nothing behind the
    /// last `\n` is no record. After an error the reader is of no more use.
    pub fn next_record(&mut self) -> io::Result<Option<Record<'_>>> {
        self.buffer.clear();
        self.length = 0;
        let mut offset = self.offset;
        let broken = match self.family {
            Family::Jsonl | Family::Text => self.line()?,
            Family::Csv => self.row()?,
            Family::Json => {
                let found = self.element()?;
                // White space and commas before it are none of it.
                offset = self.offset - self.length;
                found
            }
        };
        let Some(broken) = broken else { return Ok(None) };
        let number = self.number;
        self.number += 1;
        let held = u64::try_from(self.buffer.len()).ok() == Some(self.length);
        let content = match broken {
            Some(problem) => Content::Broken { problem },
            None if held => Content::Bytes(&self.buffer),
            None => Content::TooLong { length: self.length },
        };
        Ok(Some(Record { number, offset, content }))
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes bytes into the record while `go_on` says so of each; the byte that it says no of stays
    /// unread. False at the end of the file.
    fn take_while(&mut self, mut go_on: impl FnMut(u8) -> bool) -> io::Result<bool> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok(false);
            }
            let end = available.iter().position(|byte| !go_on(*byte));
            let taken = end.unwrap_or(available.len());
            let room = self.record_max_bytes.saturating_sub(self.buffer.len()).min(taken);
            self.buffer.extend_from_slice(&available[..room]);
            self.reader.consume(taken);
            let taken = u64::try_from(taken).unwrap_or(u64::MAX);
            self.length += taken;
            self.offset += taken;
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// Passes over the next byte, which is there.
    fn pass(&mut self) {
        self.reader.consume(1);
        self.offset += 1;
    }

    /// A line without its `\n`; none at the end of the file.
    fn line(&mut self) -> io::Result<Option<Option<&'static str>>> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok((self.length > 0).then_some(None));
            }
            let end = memchr::memchr(b'\n', available);
            let taken = end.unwrap_or(available.len());
            let room = self.record_max_bytes.saturating_sub(self.buffer.len()).min(taken);
            self.buffer.extend_from_slice(&available[..room]);
            self.reader.consume(taken);
            let taken = u64::try_from(taken).unwrap_or(u64::MAX);
            self.length += taken;
            self.offset += taken;
            if end.is_some() {
                self.pass();
                return Ok(Some(None));
            }
        }
    }

    /// A row without its `\n`; none at the end of the file.
    fn row(&mut self) -> io::Result<Option<Option<&'static str>>> {
        let mut state = CsvState::default();
        let ended = self.take_while(|byte| match state.step(byte) {
            Some(next) => {
                state = next;
                true
            }
            None => false,
        })?;
        if ended {
            self.pass();
            return Ok(Some(None));
        }
        if state == CsvState::Quoted {
            return Ok(Some(Some(QUOTE_OPEN)));
        }
        Ok((self.length > 0).then_some(None))
    }

    /// The next value of the list, or the only one; none at the end.
    fn element(&mut self) -> io::Result<Option<Option<&'static str>>> {
        loop {
            let next = self.skip_space()?;
            match (self.json, next) {
                (Json::End, _) | (Json::Begin | Json::Alone, None) => return Ok(None),
                (Json::Begin, Some(b'[')) => {
                    self.pass();
                    self.json = Json::First;
                }
                (Json::Begin, Some(_)) => {
                    if self.value(true)? {
                        self.json = Json::Alone;
                        return Ok(Some(None));
                    }
                }
                (Json::First | Json::Behind, Some(b']')) => {
                    self.pass();
                    // What closes the list's surroundings is of no interest.
                    self.json = if self.wrapped { Json::End } else { Json::Alone };
                }
                (Json::First, Some(_)) => {
                    self.value(false)?;
                    self.json = Json::Behind;
                    return Ok(Some(None));
                }
                (Json::Behind, Some(b',')) => {
                    self.pass();
                    // A comma before the end is an element that is missing.
                    if self.skip_space()? == Some(b']') {
                        return Ok(self.broken(NO_COMMA));
                    }
                    self.json = Json::First;
                }
                (Json::Behind, Some(_)) => return Ok(self.broken(NO_COMMA)),
                (Json::Alone, Some(_)) => return Ok(self.broken(MORE)),
                (Json::First | Json::Behind, None) => return Ok(self.broken(NOT_CLOSED)),
            }
        }
    }

    fn broken(&mut self, problem: &'static str) -> Option<Option<&'static str>> {
        self.json = Json::End;
        Some(Some(problem))
    }

    /// Passes over white space and a byte order mark, and says what comes then.
    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match available.first() {
                None => return Ok(None),
                Some(byte) if byte.is_ascii_whitespace() || is_mark(*byte) => self.pass(),
                Some(byte) => return Ok(Some(*byte)),
            }
        }
    }

    /// Takes one value, whatever it is. With `alone` it may be the body of a batch: then what stands
    /// before its list is passed over, and false is said.
    fn value(&mut self, alone: bool) -> io::Result<bool> {
        let mut scan = Scan::default();
        let mut head = Vec::new();
        let mut list = false;
        let ended = self.take_while(|byte| {
            if scan.is_over(byte) {
                return false;
            }
            if alone && head.len() < BATCH.len() && !byte.is_ascii_whitespace() {
                head.push(byte);
            }
            list = alone && byte == b'[' && !scan.in_string && head == BATCH;
            if !list {
                scan.step(byte);
            }
            !list
        })?;
        if ended && list {
            self.pass();
            self.buffer.clear();
            self.length = 0;
            (self.json, self.wrapped) = (Json::First, true);
            return Ok(false);
        }
        Ok(true)
    }
}

/// A byte of a byte order mark in UTF-8; none of them begins a value.
fn is_mark(byte: u8) -> bool {
    [0xEF, 0xBB, 0xBF].contains(&byte)
}

/// How far a value was read.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
    /// Something of it was read.
    begun: bool,
    /// It was a string, a list or an object, and is closed.
    closed: bool,
}

impl Scan {
    /// Whether the value ended before `byte`.
    fn is_over(&self, byte: u8) -> bool {
        let bare = self.begun && self.depth == 0 && !self.in_string;
        self.closed || bare && (byte.is_ascii_whitespace() || b",]}".contains(&byte))
    }

    fn step(&mut self, byte: u8) {
        self.begun = true;
        if self.in_string {
            self.in_string = byte != b'"' || self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.closed = !self.in_string && self.depth == 0;
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => {
                self.depth = self.depth.saturating_sub(1);
                self.closed = self.depth == 0;
            }
            _ => {}
        }
    }
}
