//! Comma-separated values as RFC 4180 writes them: where a record ends, and its fields.

use std::borrow::Cow;

/// Where a reader of CSV stands between two bytes. A quote opens a field only at its start, and two
/// of them within are one; anywhere else it is a character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CsvState {
    /// Before the first byte of a field.
    #[default]
    Start,
    /// In a field without quotes, or behind its closing quote.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote between quotes: the closing one, or the first of two.
    Closing,
}

impl CsvState {
    /// The state behind `byte`; none when the byte ends the record.
    #[must_use]
    pub fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'"') | (Self::Closing, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Closing,
            (Self::Quoted, _) => Self::Quoted,
            (Self::Start | Self::Plain | Self::Closing, b'\n') => return None,
            (Self::Start | Self::Plain | Self::Closing, b',') => Self::Start,
            (Self::Start | Self::Plain | Self::Closing, _) => Self::Plain,
        })
    }
}

/// The fields of one record, without its line ending.
pub(super) fn fields(record: &str) -> Vec<Cow<'_, str>> {
    let record = record.strip_suffix('\n').unwrap_or(record);
    let record = record.strip_suffix('\r').unwrap_or(record);
    let (mut fields, mut state, mut start) = (Vec::new(), CsvState::Start, 0);
    for (at, byte) in record.bytes().enumerate() {
        let next = state.step(byte).unwrap_or_default();
        // A comma, or a newline that no reader of records leaves there.
        if next == CsvState::Start {
            fields.push(field(&record[start..at]));
            start = at + 1;
        }
        state = next;
    }
    fields.push(field(&record[start..]));
    fields
}

/// A field as it was meant: without its quotes.
fn field(written: &str) -> Cow<'_, str> {
    let Some(quoted) = written.strip_prefix('"') else { return Cow::Borrowed(written) };
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((before, after)) = rest.split_once('"') {
        text.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            // What stands behind the closing quote belongs to the field, as it is.
            None => {
                text.push_str(after);
                return Cow::Owned(text);
            }
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}
