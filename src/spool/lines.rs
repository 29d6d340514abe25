//! Lines of a file of any size, in bounded memory.

use std::io::{self, BufRead, Read};

/// Splits a reader at `\n` and reuses one buffer. A line longer than the limit is counted and
/// skipped, never held.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    /// Never grows past `line_max_bytes + 1`.
    buffer: Vec<u8>,
    line_max_bytes: usize,
    number: u64,
    offset: u64,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: u64,
    /// Of its first byte, from the start of the file.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Its bytes without the `\n`; a `\r` before it stays.
    Bytes(&'a [u8]),
    /// More than the limit.
    TooLong {
        /// Its bytes, without the `\n`.
        length: u64,
    },
}

impl<R: BufRead> LineReader<R> {
    /// Reads from the start of a file. Allocates `line_max_bytes + 1` bytes once.
    pub fn new(reader: R, line_max_bytes: usize) -> Self {
        Self::resume(reader, line_max_bytes, 0, 0)
    }

    /// Reads on after `lines` lines, with `reader` standing at byte `offset` of the file.
    pub fn resume(reader: R, line_max_bytes: usize, lines: u64, offset: u64) -> Self {
        let buffer = Vec::with_capacity(line_max_bytes.saturating_add(1));
        Self { reader, buffer, line_max_bytes, number: lines, offset }
    }

    /// The offset behind the last line read, its `\n` included: where to resume, and in the end
    /// the size of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line, or `None` at the end. A last line may lack its `\n`; nothing behind the
    /// last `\n` is no line. After an error the reader is of no more use.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut length = self.read_piece()?;
        if length == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        let limit = u64::try_from(self.line_max_bytes).unwrap_or(u64::MAX);
        while length > limit && !self.piece_ends_line() {
            match self.read_piece()? {
                0 => break,
                piece => length += piece,
            }
        }
        self.number += 1;
        self.offset += length;
        if self.piece_ends_line() {
            length -= 1;
            self.buffer.pop();
        }
        let content =
            if length > limit { Content::TooLong { length } } else { Content::Bytes(&self.buffer) };
        Ok(Some(Line { number: self.number, offset, content }))
    }

    /// Reads up to and with the next `\n`, but no more than the buffer holds.
    fn read_piece(&mut self) -> io::Result<u64> {
        self.buffer.clear();
        let max = u64::try_from(self.line_max_bytes).unwrap_or(u64::MAX).saturating_add(1);
        let read = self.reader.by_ref().take(max).read_until(b'\n', &mut self.buffer)?;
        Ok(u64::try_from(read).unwrap_or(u64::MAX))
    }

    fn piece_ends_line(&self) -> bool {
        self.buffer.last() == Some(&b'\n')
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}
