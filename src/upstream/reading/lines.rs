//! The documents in a body: one, a list of them, or those of server-sent events.
//!
//! One reader takes all forms, for a body is not always what its head says, and an event stream
//! may end in a bare document: `{` or `[` at the start of a line begins one, in events too, where
//! it is no field's name. Lines end in LF, CRLF or CR.

use memchr::memchr2;

use super::condense::{Condenser, Step};

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];
const DONE: &[u8] = b"[DONE]";
/// No name of a field is longer.
const FIELD_BYTES_MAX: usize = 5;

/// What a body was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Documents that came as the data of an event.
    pub(super) events: u64,
    /// Documents that came bare.
    pub(super) bare: u64,
    /// Whether `[DONE]` came.
    pub(super) is_done: bool,
    /// Documents that broke off or were none, and lines that are neither an event's nor a
    /// document's.
    pub(super) strays: u64,
}

/// Cuts a body into lines and documents.
#[derive(Debug)]
pub(super) struct Lines {
    condenser: Condenser,
    at: At,
    after_cr: bool,
    field: Vec<u8>,
    /// The first bytes of an event's data, for it may be no document.
    head: Vec<u8>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Before the first line, where a byte order mark may stand: bytes of it seen.
    Top(usize),
    /// At the start of a line; behind blanks of it.
    Line,
    Indent,
    /// In a field's name, behind its colon, in an event's data.
    Field,
    Colon,
    Data,
    /// In the rest of a line that does not matter.
    Ignored,
    /// In a document that stands by itself, and behind its end.
    Bare,
    AfterBare,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            condenser: Condenser::new(),
            at: At::Top(0),
            after_cr: false,
            field: Vec::new(),
            head: Vec::new(),
            shape: Shape::default(),
        }
    }

    /// Takes the next bytes, and gives each document that ends in them, made
    /// small, and whether an event brought it.
    pub(super) fn take(&mut self, bytes: &[u8], on_document: &mut impl FnMut(bool, &[u8])) {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            used += self.advance(rest, on_document);
        }
    }

    /// The body's end.
    pub(super) fn end(&mut self) -> Shape {
        match self.at {
            At::Bare => self.shape.strays += 1,
            At::Field => {
                self.begin_value();
                self.end_event();
            }
            At::Top(_)
            | At::Line
            | At::Indent
            | At::Colon
            | At::Data
            | At::Ignored
            | At::AfterBare => self.end_event(),
        }
        self.shape
    }

    fn advance(&mut self, bytes: &[u8], on_document: &mut impl FnMut(bool, &[u8])) -> usize {
        let byte = bytes[0];
        if std::mem::take(&mut self.after_cr) && byte == b'\n' {
            return 1;
        }
        if matches!(self.at, At::Bare) {
            return self.bare(bytes, on_document);
        }
        if matches!(byte, b'\r' | b'\n') {
            self.after_cr = byte == b'\r';
            self.line_end();
            return 1;
        }
        match self.at {
            At::Top(seen) if BOM.get(seen) == Some(&byte) => {
                self.at = if seen + 1 == BOM.len() { At::Line } else { At::Top(seen + 1) };
                1
            }
            At::Top(0) => {
                self.at = At::Line;
                0
            }
            At::Line | At::Indent => self.line_start(byte),
            At::Field => self.field(byte),
            At::Colon => {
                self.at = At::Data;
                usize::from(byte == b' ')
            }
            At::Data => {
                let end = memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
                self.data(&bytes[..end], on_document);
                end
            }
            At::Ignored => memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len()),
            At::AfterBare if matches!(byte, b' ' | b'\t') => 1,
            At::Top(_) | At::AfterBare => self.stray(),
            At::Bare => unreachable!("taken above"),
        }
    }

    /// A line's byte that belongs to nothing.
    fn stray(&mut self) -> usize {
        self.shape.strays += 1;
        self.at = At::Ignored;
        1
    }

    fn line_start(&mut self, byte: u8) -> usize {
        match byte {
            b'{' | b'[' => {
                self.end_event();
                self.at = At::Bare;
                return 0;
            }
            b' ' | b'\t' => self.at = At::Indent,
            b':' => self.at = At::Ignored,
            _ => {
                self.field.clear();
                self.at = At::Field;
                return 0;
            }
        }
        1
    }

    fn field(&mut self, byte: u8) -> usize {
        if byte == b':' {
            self.begin_value();
        } else if self.field.len() < FIELD_BYTES_MAX {
            self.field.push(byte);
        } else {
            return self.stray();
        }
        1
    }

    fn begin_value(&mut self) {
        match self.field.as_slice() {
            b"data" => self.at = At::Colon,
            b"event" | b"id" | b"retry" => {
                self.at = At::Ignored;
                return;
            }
            _ => {
                self.stray();
                return;
            }
        }
        // Clients read line by line: two lines that are a document each are two events.
        if self.condenser.is_whole() || self.head.trim_ascii_end() == DONE {
            self.end_event();
        }
        if !self.condenser.is_at_start() {
            // Lines of one event are joined by a line feed, which ends no document.
            self.condenser.take(b"\n");
        }
    }

    fn line_end(&mut self) {
        match self.at {
            At::Line => self.end_event(),
            At::Field => self.begin_value(),
            At::Top(_)
            | At::Indent
            | At::Colon
            | At::Data
            | At::Ignored
            | At::Bare
            | At::AfterBare => {}
        }
        self.at = At::Line;
    }

    /// An event's end, wherever it is: a blank line, a bare document or the end of the body.
    fn end_event(&mut self) {
        if self.head.trim_ascii_end() == DONE {
            self.shape.is_done = true;
        } else if !self.condenser.is_whole() && !self.condenser.is_at_start() {
            self.shape.strays += 1;
        }
        self.head.clear();
        self.condenser.reset();
    }

    fn data(&mut self, bytes: &[u8], on_document: &mut impl FnMut(bool, &[u8])) {
        // One byte more than `DONE` tells it from longer words.
        let room = (DONE.len() + 1).saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let mut used = 0;
        while used < bytes.len() {
            let (more, step) = self.condenser.take(&bytes[used..]);
            used += more;
            if step == Step::Document {
                self.shape.events += 1;
                on_document(true, self.condenser.copy());
            }
        }
    }

    fn bare(&mut self, bytes: &[u8], on_document: &mut impl FnMut(bool, &[u8])) -> usize {
        let (used, step) = self.condenser.take(bytes);
        match step {
            Step::More => return used,
            Step::Document => {
                self.shape.bare += 1;
                on_document(false, self.condenser.copy());
            }
            Step::ListEnd => {}
            Step::Broken => {
                self.shape.strays += 1;
                self.condenser.reset();
                self.at = At::Ignored;
                // The byte may end the line.
                return used - 1;
            }
        }
        if self.condenser.is_whole() {
            self.condenser.reset();
            self.at = At::AfterBare;
        }
        used
    }
}
