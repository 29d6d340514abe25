//! How the fields of a row, or the text of a line, become a prompt.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::envelope::fits_key;
use super::error::nearest;
use super::{LineError, TemplateError};

/// Longest template in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// Columns that give a row its key, the first of them that there is.
const KEY_COLUMNS: [&str; 3] = ["key", "id", "custom_id"];

/// Columns that are the prompt where no template says more.
const PROMPT_COLUMNS: [&str; 2] = ["prompt", "text"];

/// What makes a prompt of a row: which columns, with which text around them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// How many fields a row has.
    columns: usize,
    /// The column with the row's key; without one it is the row's number.
    key: Option<usize>,
    /// What is put together.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Piece {
    Text(String),
    Column(usize),
}

impl Template {
    /// Compiles the option `template`, such as `Classify: {{text}}`, for rows under `header`; for
    /// the lines of a text file that is `["text"]`. Names are compared without regard to case and
    /// surrounding white space.
    ///
    /// Without a template the column `prompt` or `text` is the prompt, or else the only one beside
    /// the key.
    ///
    /// # Errors
    /// A column that there is not, or twice; a template that names none; no column that could be
    /// the prompt.
    pub fn compile(source: Option<&str>, header: &[String]) -> Result<Self, TemplateError> {
        if header.iter().all(|name| name.trim().is_empty()) {
            return Err(TemplateError::NoHeader);
        }
        let mut key = None;
        for name in KEY_COLUMNS {
            key = match key {
                Some(found) => Some(found),
                None => position(header, name)?,
            };
        }
        let pieces = match source {
            Some(source) => pieces(source, header)?,
            None => vec![Piece::Column(prompt(header, key)?)],
        };
        if header.len() == 1 {
            key = None;
        }
        Ok(Self { columns: header.len(), key, pieces })
    }

    /// For the lines of a text file.
    ///
    /// # Errors
    /// Those of [`Template::compile`].
    pub fn for_text(source: Option<&str>) -> Result<Self, TemplateError> {
        Self::compile(source, &["text".to_owned()])
    }

    /// As a text that [`Template::from_json`] reads.
    ///
    /// # Panics
    /// Never: JSON can hold every template.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// Reads what [`Template::to_json`] wrote.
    ///
    /// # Errors
    /// Any other text.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The prompt that a line of a text file becomes.
    pub(super) fn fill(&self, line: &str) -> String {
        self.put_together(|_| line)
    }

    /// The row's key, if it has a column for it, and its prompt.
    pub(super) fn fill_row(&self, row: &str) -> Result<(Option<String>, String), LineError> {
        let fields = fields(row);
        if fields.len() != self.columns {
            return Err(LineError::Fields { found: fields.len(), expected: self.columns });
        }
        let prompt = self.put_together(|column| fields.get(column).map_or("", Cow::as_ref));
        if prompt.trim_ascii().is_empty() {
            return Err(LineError::PromptBlank);
        }
        Ok((self.key_in(&fields)?, prompt))
    }

    /// The row's own key, if it has a readable one.
    pub(super) fn key_of(&self, row: &str) -> Option<String> {
        let fields = fields(row);
        let whole = fields.len() == self.columns;
        whole.then(|| self.key_in(&fields).ok().flatten()).flatten()
    }

    fn key_in(&self, fields: &[Cow<'_, str>]) -> Result<Option<String>, LineError> {
        let Some(column) = self.key else { return Ok(None) };
        let key = fields.get(column).map_or("", Cow::as_ref);
        if fits_key(key) { Ok(Some(key.to_owned())) } else { Err(LineError::RowKeyInvalid) }
    }

    fn put_together<'f>(&'f self, field: impl Fn(usize) -> &'f str) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Column(column) => field(*column),
        });
        pieces.collect()
    }
}

/// The names of the columns: the fields of a file's header record.
///
/// # Errors
/// A header that is not UTF-8.
pub fn header(record: &[u8]) -> Result<Vec<String>, LineError> {
    let text = super::content(record)?.unwrap_or_default();
    Ok(fields(text).iter().map(|name| name.trim().to_owned()).collect())
}

/// Where the column stands that is called so.
fn position(header: &[String], name: &str) -> Result<Option<usize>, TemplateError> {
    let mut called_so = header
        .iter()
        .enumerate()
        .filter(|(_, column)| column.trim().eq_ignore_ascii_case(name))
        .map(|(at, _)| at);
    let found = called_so.next();
    if called_so.next().is_some() {
        return Err(TemplateError::Twice { name: super::error::shortened(name) });
    }
    Ok(found)
}

/// The column that is the prompt where no template says so.
fn prompt(header: &[String], key: Option<usize>) -> Result<usize, TemplateError> {
    for name in PROMPT_COLUMNS {
        if let Some(found) = position(header, name)? {
            return Ok(found);
        }
    }
    let others: Vec<usize> = (0..header.len()).filter(|column| Some(*column) != key).collect();
    match (header.len(), others.as_slice()) {
        (1, _) => Ok(0),
        (_, [only]) => Ok(*only),
        (_, _) => Err(TemplateError::NoPrompt),
    }
}

fn pieces(source: &str, header: &[String]) -> Result<Vec<Piece>, TemplateError> {
    let (mut pieces, mut rest) = (Vec::new(), source);
    while let Some((text, behind)) = rest.split_once("{{") {
        let (name, behind) = behind.split_once("}}").ok_or(TemplateError::Unclosed)?;
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let name = name.trim();
        let column = position(header, name)?.ok_or_else(|| TemplateError::Unknown {
            name: super::error::shortened(name),
            nearest: super::error::shortened(
                nearest(name, header.iter().map(String::as_str)).unwrap_or_default(),
            ),
        })?;
        pieces.push(Piece::Column(column));
        rest = behind;
    }
    if pieces.is_empty() {
        return Err(TemplateError::NamesNone);
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// The fields of one record, without their quotes.
fn fields(record: &str) -> Vec<Cow<'_, str>> {
    let (mut fields, mut rest) = (Vec::new(), Some(record));
    while let Some(text) = rest {
        let (field, behind) = next_field(text);
        fields.push(field);
        rest = behind;
    }
    fields
}

/// The field at the start of `text`, and what stands behind its comma.
fn next_field(text: &str) -> (Cow<'_, str>, Option<&str>) {
    let up_to_comma = |text| match str::split_once(text, ',') {
        Some((field, behind)) => (field, Some(behind)),
        None => (text, None),
    };
    let Some(mut rest) = text.strip_prefix('"') else {
        let (field, behind) = up_to_comma(text);
        return (Cow::Borrowed(field), behind);
    };
    let mut field = Cow::Borrowed("");
    while let Some((piece, behind)) = rest.split_once('"') {
        field += piece;
        let Some(doubled) = behind.strip_prefix('"') else {
            // What stands between the quotes and the comma belongs to the field.
            let (tail, behind) = up_to_comma(behind);
            field += tail;
            return (field, behind);
        };
        field += "\"";
        rest = doubled;
    }
    field += rest;
    (field, None)
}
